//! Which part of the files that the process may have open is for whom, so that nobody takes all: users come in by what is left.

use crate::sys::limits::open_files;

/// If the kernel does not say how many there may be.
const UNKNOWN: u64 = 60_000;

/// The most connections of a kind that last as long as a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shares {
    /// One file each: half of them.
    pub(super) tunnels: u32,
    /// To the auth service, two files each: a quarter.
    pub(super) passes: u32,
}

impl Shares {
    /// Of the limit that this process has now.
    pub(super) fn of_this_process() -> Self {
        Self::of(open_files().unwrap_or(UNKNOWN))
    }

    fn of(files: u64) -> Self {
        let places = |number: u64| u32::try_from(number.max(1)).unwrap_or(u32::MAX);
        Self { tunnels: places(files / 2), passes: places(files / 8) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_is_left_for_users() {
        for files in [0, 1, 1024, 20_000, 524_288, u64::MAX] {
            let Shares { tunnels, passes } = Shares::of(files);
            assert!(tunnels > 0 && passes > 0);
            let taken = u64::from(tunnels) + 2 * u64::from(passes);
            assert!(files < 8 || taken <= files - files / 4, "{files}: {taken}");
        }
        assert_eq!(Shares::of(524_288), Shares { tunnels: 262_144, passes: 65_536 });
    }
}
