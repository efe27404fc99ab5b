//! Streams of bytes that outlive the TCP connections that carry them.
//!
//! `tsh` and our nodes speak SSH through one (`ResumeStream`), so that a session survives a broken connection, a laptop that sleeps,
//! and a proxy that is started anew. Everybody else speaks to a node as before and has none of this on the way. What goes over the
//! wire is in `wire`, what each side keeps in `machine`, who may resume in `keys`; `carry` moves bytes between a wire and a
//! `lane`, which is what lives on.
//!
//! ```text
//! SSH library ── ResumeStream ── Lane (machine) ── carry ── wire 1 ✗
//!                                                        ── wire 2 …
//! ```
//!
//! Why it is so stands in the manual's chapter on resumption.

mod carry;
mod client;
pub mod fuzzing;
mod incoming;
mod keys;
mod lane;
mod machine;
mod node;
mod outgoing;
mod pulse;
mod wire;

pub use self::client::Notice;
pub(crate) use self::client::{ClientLane, Observer, Redial, Undialled, identification};
pub(crate) use self::lane::ResumeStream;
pub(crate) use self::node::{Claim, NotResumed, Table};
pub(crate) use self::wire::{Again, Hello, MARK, Opening};

/// Bytes that one side keeps for the other, or keeps for its own reader, at most.
const WINDOW: usize = 4 << 20;
/// After so many bytes were taken, the other side is told, which keeps them no longer.
const ACK_EVERY: u64 = 128 << 10;
/// How long each step of an agreement may take.
const ANSWER_LIMIT: std::time::Duration = std::time::Duration::from_secs(10);

#[cfg(test)]
mod tests;
