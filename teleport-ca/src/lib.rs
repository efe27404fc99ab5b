//! A certificate authority for identity-aware SSH access: short-lived certificates for users and hosts, SSH and X.509,
//! signed with keys that are sealed where they are stored.
//!
//! ```text
//!             UserGrant, HostGrant                     IssuedCertificates
//!   a check ───────────────────────▶ CertificateAuthority ──────────────▶ user, host
//!   (login, join: not here)            │ policy: what is never issued
//!                                      │ ssh, x509: what it says
//!                                      ▼
//!                                   KeyStore   signs; five keys, one purpose each
//!                                      │
//!                                   Sealer ──▶ Backend   the keys at rest
//! ```
//!
//! **It is** the issuer behind the port [`CertIssuer`](teleport_core::cert::CertIssuer). It may be used alone: give it a
//! storage and a master key, ask it to sign. Stock `ssh`, `sshd`, `openssl` and `rustls` accept what it issues.
//!
//! **It is not** a server, and it decides nothing about who may have a certificate. A [`UserGrant`] or [`HostGrant`] is the
//! permit of a check that was made before; programs with rules of their own make one with
//! [`teleport_core::cert::danger`]. Against what a mistaken or deceived caller may ask for, the authority itself refuses
//! [some things](#what-is-refused) whatever the grant says.
//!
//! [`UserGrant`]: teleport_core::cert::UserGrant
//! [`HostGrant`]: teleport_core::cert::HostGrant
//!
//! # Example
//!
//! ```
//! use std::{sync::Arc, time::Duration};
//!
//! use teleport_backend::memory::MemoryBackend;
//! use teleport_ca::{CertificateAuthority, inspect, seal::Sealer};
//! use teleport_core::cert::danger::unchecked_user_grant;
//! use teleport_core::clock::SystemClock;
//! use teleport_core::entropy::{EntropyExt, SystemEntropy};
//! use teleport_core::id::{ClusterName, OsLogin, UserName};
//! use teleport_core::secret::SecretBytes;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (clock, entropy) = (Arc::new(SystemClock::new()), Arc::new(SystemEntropy::new()));
//! // Keep it: without this key the authority cannot be opened again.
//! let master_key = SecretBytes::new(entropy.bytes::<32>()?);
//! let sealer = Arc::new(Sealer::new(&master_key, entropy.clone())?);
//! let storage = Arc::new(MemoryBackend::new(clock.clone()));
//! let cluster = ClusterName::new("example.com")?;
//! let ca = CertificateAuthority::open_or_create(cluster, storage, sealer, clock, entropy).await?;
//!
//! // What servers trust (`TrustedUserCAKeys`) and what clients trust (`@cert-authority` in `known_hosts`).
//! let trust = ca.trust_bundle();
//! assert!(trust.user_ca[0].to_string().starts_with("ssh-ed25519 "));
//! assert_ne!(trust.user_ca, trust.host_ca);
//!
//! let mut grant = unchecked_user_grant(UserName::new("alice")?, Duration::from_secs(12 * 3600));
//! grant.logins = vec![OsLogin::new("root")?];
//! grant.permits.pty = true;
//! let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl".parse()?;
//! let certificate = ca.sign_user_ssh(&grant, &key).await?;
//!
//! let described = inspect::describe(&certificate.openssh)?;
//! assert_eq!((described.key_id.as_str(), described.principals), ("alice", vec!["root".to_owned()]));
//! # Ok(())
//! # }
//! ```
//!
//! # What is issued
//!
//! | | SSH, user | SSH, host | X.509 |
//! | --- | --- | --- | --- |
//! | signed by | user CA, Ed25519 | host CA, Ed25519 | user or host CA, ECDSA P-256 |
//! | names | key id: the user | key id: host id and display name | CN: user, or host id |
//! | for | principals: logins, [`NO_LOGIN`] if there are none | principals: id and name, alone and within the cluster; `localhost`, `127.0.0.1`, `::1`; proxies also [`proxy_principal`]; further addresses | hosts: the same as alternative names; auth and proxy also [`SERVICE_DNS_NAME`] |
//! | life | 1 min – 30 h | 1 min – 30 d | as the SSH certificate |
//! | says | `permit-*`, roles, traits, cluster, login address; critical: `source-address` | role, cluster | [`Subject`] as JSON under [`TLS_SUBJECT_OID`]; clientAuth, for hosts serverAuth too; no CA |
//!
//! Every certificate is valid from one minute before its issue, for clocks that are a little behind. Serial numbers are
//! random; the lower half of the X.509 one is the SSH one.
//!
//! [`NO_LOGIN`]: teleport_core::cert::NO_LOGIN
//! [`SERVICE_DNS_NAME`]: teleport_core::cert::SERVICE_DNS_NAME
//! [`proxy_principal`]: teleport_core::cert::proxy_principal
//! [`Subject`]: teleport_core::cert::Subject
//! [`TLS_SUBJECT_OID`]: teleport_core::cert::TLS_SUBJECT_OID
//!
//! # What is refused
//!
//! * more than 32 logins, 128 roles, 64 source addresses or 32 further addresses; certificates of more than 16 KiB;
//! * traits with control characters; source addresses that are no addresses or networks; addresses of hosts that are neither
//!   IP addresses nor plain host names;
//! * a host's name or address by which another host (its id) or the cluster's services ([`SERVICE_DNS_NAME`],
//!   [`proxy_principal`]) are found;
//! * a host of another cluster;
//! * subject keys that are keys of the authority, and keys whose private half anybody knows.
//!
//! # Keys
//!
//! The authority has five: for users and for hosts one each for SSH and X.509, and one for logins of proxies on the SSH servers of
//! others, which trust it and no other. [`AuditKey`] is a sixth, beside it: it signs checkpoints of the audit log and nothing else.
//!
//! Private keys are made in a [`KeyStore`](key::KeyStore) and leave it only through [`danger`]. The
//! [`SoftwareKeyStore`](key::SoftwareKeyStore) keeps them in the cluster's storage, sealed with a master key that the storage
//! does not have. Who can read the storage learns no key; who can write it can destroy the authority but cannot make it trust
//! or sign with another key, since everything is checked against the sealed keys when it is opened.
#![forbid(unsafe_code)]

mod audit;
mod authority;
pub mod danger;
mod error;
pub mod inspect;
pub mod key;
mod policy;
pub mod seal;
mod ssh;
mod store;
mod x509;

pub use self::audit::AuditKey;
pub use self::authority::CertificateAuthority;
pub use self::error::CaError;
pub use self::ssh::SshCertificate;
