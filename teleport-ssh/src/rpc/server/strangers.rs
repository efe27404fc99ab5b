//! How often those without a certificate may ask to join.
//!
//! It is all that they may ask for that tries secrets and is written down: for logins and invites there are the proxies, which rate them.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use teleport_core::clock::Timestamp;

use crate::listener::limits::Source;
use crate::rpc::Rate;
use crate::rpc::limits::Buckets;

/// Of one address: what a proxy grants it on its own routes.
const PER_SOURCE: Rate = Rate::per_minute(120, 480);
/// Of all that come from an address behind which there may be many, and of which nobody says who they are.
const PER_PROXY: Rate = Rate::per_minute(1_200, 2_400);
/// Of all together. Hosts that join by a proxy's own routes come with the proxy's certificate and do not count.
const IN_ALL: Rate = Rate::per_minute(2_400, 4_800);

#[derive(Debug)]
pub(super) struct Strangers {
    sources: Mutex<Buckets<Source>>,
    proxies: Mutex<Buckets<Source>>,
    all: Mutex<Buckets<()>>,
}

impl Default for Strangers {
    fn default() -> Self {
        Self {
            sources: Mutex::new(Buckets::new(PER_SOURCE)),
            proxies: Mutex::new(Buckets::new(PER_PROXY)),
            all: Mutex::new(Buckets::new(IN_ALL)),
        }
    }
}

impl Strangers {
    /// Whether somebody at `address` may ask to join now; `crowd` if that is the address of a proxy.
    pub(super) fn may_join(&self, address: IpAddr, crowd: bool, now: Timestamp) -> bool {
        let own = if crowd { &self.proxies } else { &self.sources };
        own.lock().unwrap_or_else(PoisonError::into_inner).take(Source::of(address), now)
            && self.all.lock().unwrap_or_else(PoisonError::into_inner).take((), now)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn one_source_takes_nothing_from_others_and_all_are_bounded() {
        let strangers = Strangers::default();
        let now = Timestamp::from_unix_secs(1_800_000_000);
        let ask = |last: u8, crowd| {
            let address = IpAddr::V4(Ipv4Addr::new(192, 0, 2, last));
            (0..10_000).filter(|_| strangers.may_join(address, crowd, now)).count()
        };
        assert_eq!((ask(1, false), ask(1, false), ask(2, false)), (480, 0, 480));
        assert_eq!(ask(3, true), 2_400);
        assert_eq!((4..10).map(|last| ask(last, false)).sum::<usize>(), 4_800 - 2 * 480 - 2_400);
    }
}
