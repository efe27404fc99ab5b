//! The manual: why things are as they are.
//!
//! | chapter | question |
//! | --- | --- |
//! | [`threat_model`] | who attacks, what is promised, what is not |
//! | [`trust_and_keys`] | which keys exist, where they are made, what each can do |
//! | [`join`] | how a host becomes a member and stays one |
//! | [`roles`] | who may log in where, as whom, and may do what |
//! | [`audit_log`] | what the log is byte for byte, what it proves and what not |
//! | [`audit_events`] | every event, from the code |
//! | [`locks`] | how somebody is kept out at once |
//! | [`spool`] | which sessions are recorded, where recordings wait, what failures cost |
//! | [`client`] | what `tsh` does in the place of `ssh`, and what it leaves on the user's machine |
//! | [`recordings`] | what a recording is byte for byte, and how it is read |
//! | [`files`] | how files are copied, and what the audit log has of it |
//! | [`forwarding`] | which connections are forwarded, for whom, and what the audit log has of it |
//! | [`logins`] | what a login at a node finds, and who learns of it |
//! | [`resumption`] | how a session of `tsh` survives the loss of its connection |
//! | [`sessions`] | how sessions are shared, listed and ended |
//! | [`storing_recordings`] | where recordings lie, who can read them there, how long they stay |
//! | [`backends`] | where the state is: redb, etcd, PostgreSQL; how a cluster moves |
//! | [`high_availability`] | how several auth services share a cluster, and what happens when one dies |
//! | [`diagnostics`] | how a daemon is watched: whether it is well, and its figures |
//! | [`tunnels`] | nodes that open no port: how they are reached, and what happens when networks break |
//! | [`one_port`] | one open port of a proxy, load balancers before it, HTTP proxies on the way |
//! | [`https`] | what browsers are shown: files, or a certificate by ACME |
//! | [`scale`] | how many nodes there may be, and what they cost |
//! | [`defaults`] | every number, and its reason |

#[doc = include_str!("audit_events.md")]
pub mod audit_events {}
#[doc = include_str!("agentless.md")]
pub mod agentless {}
#[doc = include_str!("audit_log.md")]
pub mod audit_log {}
#[doc = include_str!("backends.md")]
pub mod backends {}
#[doc = include_str!("client.md")]
pub mod client {}
#[doc = include_str!("defaults.md")]
pub mod defaults {}
#[doc = include_str!("diagnostics.md")]
pub mod diagnostics {}
#[doc = include_str!("files.md")]
pub mod files {}
#[doc = include_str!("forwarding.md")]
pub mod forwarding {}
#[doc = include_str!("high_availability.md")]
pub mod high_availability {}
#[doc = include_str!("https.md")]
pub mod https {}
#[doc = include_str!("join.md")]
pub mod join {}
#[doc = include_str!("locks.md")]
pub mod locks {}
#[doc = include_str!("logins.md")]
pub mod logins {}
#[doc = include_str!("one_port.md")]
pub mod one_port {}
#[doc = include_str!("recordings.md")]
pub mod recordings {}
#[doc = include_str!("resumption.md")]
pub mod resumption {}
#[doc = include_str!("roles.md")]
pub mod roles {}
#[doc = include_str!("scale.md")]
pub mod scale {}
#[doc = include_str!("sessions.md")]
pub mod sessions {}
#[doc = include_str!("spool.md")]
pub mod spool {}
#[doc = include_str!("storing_recordings.md")]
pub mod storing_recordings {}
#[doc = include_str!("threat_model.md")]
pub mod threat_model {}
#[doc = include_str!("trust_and_keys.md")]
pub mod trust_and_keys {}
#[doc = include_str!("tunnels.md")]
pub mod tunnels {}
