//! Addresses from which a password or a code was wrong lately.
//!
//! While passwords are guessed, turns at hashing are short. Who has not failed goes first then: somebody who guesses, from however
//! many addresses, is soon known by each of them, and everybody else logs in as if there were no flood. It decides nothing else, and
//! it says nothing of any user.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Timestamp;

/// How long a failure is remembered.
const MEMORY: Duration = Duration::from_secs(600);
/// The most addresses that are remembered; further ones are not.
const MAX: usize = 65_536;

/// Whose turn at hashing comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing is known against them.
    Good,
    /// They have failed lately.
    Failed,
}

/// When an attempt from an address failed last.
#[derive(Debug, Default)]
pub(super) struct Guessers(Mutex<HashMap<IpAddr, Timestamp>>);

impl Guessers {
    fn failures(&self) -> MutexGuard<'_, HashMap<IpAddr, Timestamp>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of whoever is at this address; of nobody if it is not known.
    pub(super) fn standing(&self, client: Option<IpAddr>, now: Timestamp) -> Standing {
        let Some(at) = client.and_then(|client| self.failures().get(&network(client)).copied()) else {
            return Standing::Good;
        };
        if now < at.saturating_add(MEMORY) { Standing::Failed } else { Standing::Good }
    }

    /// An attempt from there has failed.
    pub(super) fn failed(&self, client: Option<IpAddr>, now: Timestamp) {
        let Some(client) = client.map(network) else { return };
        let mut failures = self.failures();
        if failures.len() >= MAX && !failures.contains_key(&client) {
            failures.retain(|_, at| now < at.saturating_add(MEMORY));
            if failures.len() >= MAX {
                return;
            }
        }
        failures.insert(client, now);
    }
}

/// Who has one address of IPv6 has all those of its network.
fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_secs(1_800_000_000);

    fn at(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn a_failure_is_remembered_for_ten_minutes_and_for_its_network() {
        let guessers = Guessers::default();
        guessers.failed(at("192.0.2.1"), NOW);
        guessers.failed(at("2001:db8::1"), NOW);
        guessers.failed(None, NOW);
        for (client, standing) in [
            (at("192.0.2.1"), Standing::Failed),
            (at("::ffff:192.0.2.1"), Standing::Failed),
            (at("192.0.2.2"), Standing::Good),
            (at("2001:db8::ffff"), Standing::Failed),
            (at("2001:db8:0:1::1"), Standing::Good),
            (None, Standing::Good),
        ] {
            assert_eq!(guessers.standing(client, NOW), standing, "{client:?}");
        }
        assert_eq!(guessers.standing(at("192.0.2.1"), NOW.saturating_add(MEMORY)), Standing::Good);
    }

    #[test]
    fn memory_is_bounded() {
        let guessers = Guessers::default();
        let address = |number: u32| Some(IpAddr::V4(number.into()));
        for number in 0..=70_000 {
            guessers.failed(address(number), NOW);
        }
        assert_eq!(guessers.failures().len(), MAX);
        assert_eq!(guessers.standing(address(70_000), NOW), Standing::Good);
        // Old ones make room.
        let later = NOW.saturating_add(MEMORY);
        guessers.failed(address(70_000), later);
        assert_eq!(guessers.standing(address(70_000), later), Standing::Failed);
        assert_eq!(guessers.failures().len(), 1);
    }
}
