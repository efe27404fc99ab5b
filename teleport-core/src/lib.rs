//! The model of an identity-aware SSH access platform, every decision it makes, and the traits (ports) that storage,
//! certificate authority and network implement.
//!
//! ```text
//!   teleport-ssh: sockets, SSH, processes        teleport-ca: signs        teleport-backend: stores
//!        │ parse, check signatures                    ▲ CertIssuer              ▲ Backend, AuditLog,
//!        │                                            │                         │ RecordingStore
//!  ┌─────▼────────────────────────────────────────────┴─────────────────────────┴─────────────┐
//!  │ teleport-core                                                                            │
//!  │   cert::verify_*   is this certificate one of ours?              → Identity              │
//!  │   token::admit     may this host join?                           → Admission → HostGrant │
//!  │   access           may this user be that login on this node?     → LoginGrant            │
//!  │   auth             users, login, join, presence, audit; who may call what → Permit       │
//!  └──────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! **It is** names that cannot be wrong once parsed ([`id`]), resources ([`resource`]), the policy ([`access`]), join tokens
//! ([`token`]), the one check of a presented certificate ([`cert`]), audit events ([`audit`]), the form of recordings
//! ([`recording`]), and the auth service itself ([`auth`], a feature that is on by default), over ports only. A check returns
//! a permit that the next step demands: who forgets the check does not compile.
//!
//! **It is not** a server: it opens no socket and no file, keeps no task running, and reads neither the clock nor randomness
//! of the operating system except through [`clock::Clock`] and [`entropy::Entropy`]. It knows no SSH library and no
//! database.
//!
//! # Example
//!
//! A cluster inside a program: a user is invited, sets a password and a second factor, logs in, and holds certificates. With
//! `teleport-ca` in the place of the unsigned issuer and `redb` in that of the memory, it is the real one.
//!
//! ```
//! # #[cfg(feature = "auth")]
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//!
//! use teleport_backend::memory::MemoryBackend;
//! use teleport_core::api::{AcceptInvite, AdminApi, CreateUser, LoginRequest, PublicApi};
//! use teleport_core::auth::{AuthConfig, AuthService, Caller, Ports, one_time_code};
//! use teleport_core::cert::Identity;
//! use teleport_core::clock::{Clock, Timestamp};
//! use teleport_core::entropy::SystemEntropy;
//! use teleport_core::id::{ClusterName, HostRole};
//! use teleport_core::secret::SecretString;
//! use teleport_core::testing::{
//!     KnownKeySealer, ManualClock, MemoryAudit, MemoryRecordings, UnsignedIssuer, host_identity,
//!     subject_keys,
//! };
//!
//! let cluster = ClusterName::new("example.com")?;
//! let clock = Arc::new(ManualClock::default());
//! let audit = Arc::new(MemoryAudit::new());
//! let auth = AuthService::new(
//!     Ports {
//!         backend: Arc::new(MemoryBackend::new(clock.clone())),
//!         issuer: Arc::new(UnsignedIssuer::new(cluster.clone(), clock.clone())),
//!         sealer: Arc::new(KnownKeySealer),
//!         recordings: Arc::new(MemoryRecordings::new()),
//!         audit: audit.clone(),
//!         clock: clock.clone(),
//!         entropy: Arc::new(SystemEntropy::new()),
//!     },
//!     AuthConfig::new(cluster),
//! );
//! auth.bootstrap().await?;
//!
//! // The administrator, on the machine of the auth service.
//! let admin = auth.acting_as(Caller::LocalAdmin);
//! let alice = CreateUser {
//!     name: "alice".parse()?,
//!     roles: vec!["access".parse()?],
//!     logins: vec!["root".parse()?],
//!     ttl: None,
//! };
//! let invite = admin.create_user(alice).await?;
//!
//! // The user, of whom nothing is known but the invite, at a proxy, which calls for the user.
//! let id = "0f8fad5b-d9cb-469f-a165-70867728950e";
//! let proxy = host_identity(id, "proxy-1", "example.com", HostRole::Proxy, Timestamp::MAX);
//! let public = auth.acting_as(Caller::Identity(Identity::Host(proxy), None));
//! let info = public.invite(invite.token.clone()).await?;
//! let code = |clock: &ManualClock| one_time_code(&info.secret, clock.now()).ok_or("no secret");
//! let password = SecretString::new("correct horse battery staple");
//! let accept = AcceptInvite { token: invite.token, password: password.clone(), code: code(&clock)?, client_ip: None };
//! public.accept_invite(accept).await?;
//!
//! // Each code is good once; a moment later there is a new one.
//! clock.advance(std::time::Duration::from_secs(30));
//! let request = LoginRequest {
//!     user: "alice".to_owned(),
//!     password,
//!     code: code(&clock)?,
//!     keys: subject_keys(1),
//!     ttl: Some(3600),
//!     client_ip: None,
//! };
//! let response = public.login(request).await?;
//! assert_eq!(response.logins, ["root".parse()?]);
//! assert!(audit.events().iter().any(|event| event.event == "user.login"));
//! # Ok(())
//! # }
//! # #[cfg(feature = "auth")]
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(example())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Where to go on
//!
//! * To run a cluster: the program `teleport` of `teleport-bins`.
//! * To store elsewhere: implement [`storage::Backend`], run `teleport_backend::conformance`.
//! * To sign elsewhere: implement [`cert::CertIssuer`].
//! * To speak another protocol to the auth service: implement the traits of [`api`] over it, and run
//!   `testing::api_suite` (feature `test-support`).
//! * To know why: the [`manual`].
//!
//! # Features
//!
//! `auth` (default): the auth service. `os` (default): [`clock::SystemClock`] and [`entropy::SystemEntropy`].
//! `test-support`: `testing`, a clock that tests move and ports in memory.
#![forbid(unsafe_code)]

pub mod access;
pub mod api;
pub mod audit;
#[cfg(feature = "auth")]
pub mod auth;
pub mod cert;
pub mod clock;
pub mod entropy;
pub mod id;
pub mod label;
pub mod lock;
pub mod manual;
pub mod origin;
pub mod password;
mod pattern;
pub mod peering;
pub mod recording;
pub mod resource;
pub mod secret;
pub mod storage;
mod suggest;
pub mod target;
pub mod task;
#[cfg(any(test, feature = "test-support"))]
pub mod testing;
pub mod token;
