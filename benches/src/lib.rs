//! Measured comparisons of the platform with Debian's OpenSSH and with raw primitives, in one run on one machine.
//!
//! ```text
//! cargo run --release -p teleport-benches -- all            everything, with the real `teleport` beside this program
//! cargo run --release -p teleport-benches -- sessions bulk  some of it
//! ```
//!
//! Every figure is a median, stands beside the baseline of the same run, and says whether the goal is met. The server's CPU
//! is that of its processes and of all that they started.
#![forbid(unsafe_code)]

pub mod bulk;
pub mod certificates;
pub mod cluster;
pub mod events;
pub mod files;
pub mod forwards;
pub mod guessing;
pub mod load;
pub mod memory;
pub mod nodes;
pub mod process;
pub mod recorded;
pub mod reissue;
pub mod report;
pub mod servers;
pub mod sessions;
pub mod sshd;
pub mod start;
pub mod storage;
pub mod stores;
pub mod tunnels;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "the program builds it")]
pub struct Scale {
    /// Seconds only, to show that everything runs; the figures mean nothing.
    pub smoke: bool,
}

impl Scale {
    /// `full`, or `smoke` if little is measured.
    pub const fn of<T: Copy>(self, full: T, smoke: T) -> T {
        if self.smoke { smoke } else { full }
    }
}
