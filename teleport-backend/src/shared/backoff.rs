//! Waits between attempts to reach a server.

use std::time::Duration;

use teleport_core::entropy::{Entropy, EntropyExt};

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(3);

/// The wait after so many failures in a row: between half and the whole of a time that doubles, so that those who lost a server
/// together do not come back together.
pub(crate) fn wait(entropy: &dyn Entropy, failures: u32) -> Duration {
    let whole = FIRST.saturating_mul(1 << failures.min(10)).min(LONGEST);
    // Without randomness the full wait is right as well.
    let part = entropy.bytes().map_or(u32::from(u16::MAX), |bytes| u32::from(u16::from_le_bytes(bytes)));
    whole / 2 + whole / 2 * part / u32::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use teleport_core::entropy::SystemEntropy;

    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_differ() {
        let entropy = SystemEntropy::new();
        for failures in 0..40 {
            let whole = FIRST.saturating_mul(1 << failures.min(10)).min(LONGEST);
            let waits: std::collections::BTreeSet<_> = (0..8).map(|_| wait(&entropy, failures)).collect();
            assert!(waits.iter().all(|wait| *wait >= whole / 2 && *wait <= whole), "{failures}: {waits:?}");
            assert!(waits.len() > 1, "{failures}: {waits:?}");
        }
    }
}
