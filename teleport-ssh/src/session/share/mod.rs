//! One session with several terminals.
//!
//! ```text
//!                      ┌──▶ recorder
//! program ──▶ output ──┼──▶ the owner's channel, which sets the pace
//!                      ├──▶ Screen: what somebody who comes now must be shown
//!                      └──▶ Filter ──▶ a queue for each of the others, bounded; who does not keep up skips
//!
//! the owner's keys, those of peers ──▶ program          smallest of all sizes ──▶ terminal
//! ```
//!
//! Everything that is shown to the others is handed over under the lock that orders the recording, as references to the same
//! bytes. Nobody waits for them.

mod audience;
mod filter;
mod party;
mod scanner;
mod screen;
mod sizes;

pub(super) use self::audience::Audience;
pub(crate) use self::audience::View;
pub(crate) use self::party::{Party, Seat, TooMany};
pub(crate) use self::sizes::Sizes;
