//! The network half of an identity-aware SSH access platform: a certificate-only SSH node, the proxy in front of it, the
//! client, and both halves of the mutually authenticated auth API.
//!
//! ```text
//!  client ──SSH──► proxy ──bytes──► node ──► session::SessionService ──► a shell, or whatever a program offers
//!    │             │  ▲ which nodes      │ authn + core::cert: is the certificate ours?
//!    │ proxy_web   │  │ and who may      │ core::access: may this user be that login here?
//!    │ (HTTPS)     │  │ see them         │ record: what was shown ──► spool on disk ──┐
//!    ▼             ▼  │                  ▼ audit events, heartbeats                   ▼ parts
//!  login ───────► rpc: HTTP/2 and JSON in mutual TLS ◄───────────────────────────────────
//!                  │
//!                  ▼ teleport_core::auth decides
//! ```
//!
//! The SSH connection to the node runs *inside* the one to the proxy, which therefore sees neither keystrokes nor keys; each
//! of the two is proved by a host certificate on one side and a user certificate on the other.
//!
//! **It is** the owner of sockets, terminals and processes: [`node`] (SSH server), [`proxy`] (SSH jump host that leads to
//! registered nodes only), [`proxy_web`] (login, join, and the way to the auth service), [`rpc`] (the auth API over the wire),
//! [`client`] (what `tsh` is made of), [`join`] and [`identity`] (how a host becomes a member and stays one), [`record`]
//! (recordings on their way), [`sys`] (processes as OS users). Every port has the limits of [`listener`], those of several protocols
//! tell them by [`mux`]; everything that waits is bounded. Connections to servers and proxies go through the HTTP proxy that `HTTPS_PROXY`
//! names, but for those that `NO_PROXY` excepts.
//!
//! **It is not** the judge: who may do what is decided by `teleport_core`, from the newest roles in a [`view`]. It accepts no
//! password, no plain key, no SHA-1, no RSA and no compression over SSH. It signs nothing (that is `teleport-ca`), and
//! stores nothing but a host's own identity and recordings that wait for their upload. `unsafe` stands only in [`sys`].
//!
//! # Example
//!
//! A node inside a program. [`SessionService`](session::SessionService) is the program's own: here every session is told
//! who it is. The rest (certificates, roles, limits, audit, recording) is the same as in front of a shell; for shells there
//! is [`OsSessions`](session::OsSessions). `examples/embed_node.rs` is a whole console, with its cluster.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use async_trait::async_trait;
//! use teleport_core::access::LoginGrant;
//! use teleport_core::api::NodeAccess;
//! use teleport_core::clock::SystemClock;
//! use teleport_core::entropy::SystemEntropy;
//! use teleport_core::task::Shutdown;
//! use teleport_ssh::identity::HostIdentityHandle;
//! use teleport_ssh::node::NodeServer;
//! use teleport_ssh::session::{ExitStatus, SessionChannel, SessionService};
//!
//! #[derive(Debug)]
//! struct WhoAmI;
//!
//! #[async_trait]
//! impl SessionService for WhoAmI {
//!     async fn run(&self, grant: LoginGrant, channel: SessionChannel) -> ExitStatus {
//!         let text = format!("{} as {}, by role {}\r\n", grant.identity.user, grant.login, grant.role);
//!         match channel.output.stdout(text).await {
//!             Ok(()) => ExitStatus::Code(0),
//!             Err(_) => ExitStatus::Disconnected,
//!         }
//!     }
//! }
//!
//! /// `identity` comes from [`join`](teleport_ssh::join::join), `access` is an
//! /// [`AuthClient`](teleport_ssh::rpc::AuthClient) with it.
//! async fn serve(
//!     identity: HostIdentityHandle,
//!     access: Arc<dyn NodeAccess>,
//!     shutdown: Shutdown,
//! ) -> Result<(), Box<dyn std::error::Error>> {
//!     let (clock, entropy) = (Arc::new(SystemClock::new()), Arc::new(SystemEntropy::new()));
//!     let node = NodeServer::builder(identity, access, Arc::new(WhoAmI), clock, entropy)
//!         .listen(([127, 0, 0, 1], 3022).into())
//!         .bind()
//!         .await?;
//!     println!("listening on {}", node.local_addr()?);
//!     node.serve(shutdown).await;
//!     Ok(())
//! }
//! ```
//!
//! # Features
//!
//! `acme` (off by default) adds a module of that name: certificates of public authorities for the web port of a proxy.
//!
//! # Cancelling and ending
//!
//! Servers are futures: dropping one ends all that it started, down to the processes of its sessions. For an orderly end
//! give a [`Shutdown`](teleport_core::task::Shutdown): *drain* lets nobody new in and waits, *abort* ends at once and still
//! writes the last audit events.

#![deny(unsafe_code)]

#[cfg(feature = "acme")]
pub mod acme;
pub mod authn;
mod batch;
mod bulk;
pub mod client;
mod engine;
pub mod heartbeat;
pub mod identity;
pub mod join;
pub mod keys;
pub mod listener;
pub mod mux;
pub mod node;
#[cfg(target_os = "linux")]
pub mod opener;
mod origin;
mod outgoing;
#[cfg(target_os = "linux")]
pub mod pam;
pub mod pem;
pub mod proxy;
pub mod proxy_web;
pub mod record;
pub mod resume;
pub mod rpc;
pub mod scp;
pub mod session;
#[cfg(target_os = "linux")]
pub mod sftp;
mod socket_file;
mod splice;
pub mod sys;
pub mod tunnel;
pub mod view;
