//! How nodes that listen nowhere are reached: by a tunnel to each proxy, or by some tunnels and proxies that ask each other.
//!
//! With many proxies a tunnel to each of them costs each node and each proxy a lot, and takes long until a node has found all of them behind
//! a load balancer. With [`TunnelStrategy::ProxyPeering`] a node has a few, says to which proxies ([`NodeRecord::proxy_ids`]), and a proxy that
//! has none asks one of these. Which proxies can be asked, and where, the auth service tells with the [`AccessView`].
//!
//! Whether a node needs one tunnel more or less is decided here, for both strategies: proxies that cannot be asked get a tunnel
//! of their own from each node. So a change of the strategy, a port that cannot be opened, and proxies of an older version need no care.
//!
//! [`AccessView`]: crate::api::AccessView
//! [`NodeRecord::proxy_ids`]: crate::resource::NodeRecord::proxy_ids

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU8;

use serde::{Deserialize, Serialize};

use crate::id::HostId;

/// The most tunnels of a node that a strategy can ask for, and the most proxies that a node announces.
pub const MAX_AGENT_CONNECTIONS: u8 = 16;

/// How nodes that listen nowhere are reached. For the whole cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "both ends must know all")]
pub enum TunnelStrategy {
    /// Each node has a tunnel to each proxy.
    #[default]
    AgentMesh,
    /// Each node has tunnels to some proxies, and these are asked by the others.
    ProxyPeering {
        /// To how many: at most [`MAX_AGENT_CONNECTIONS`]. With one, a node cannot be reached for some seconds when its proxy dies.
        agent_connection_count: NonZeroU8,
    },
}

/// What a view tells of a cluster whose proxies ask each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "views build it")]
pub struct Peering {
    /// How many tunnels each node has.
    pub agent_connection_count: NonZeroU8,
    /// The proxies that can be asked, and where: `host:port`.
    pub proxies: BTreeMap<HostId, String>,
}

impl Peering {
    fn held<'a>(&'a self, held: &'a BTreeSet<HostId>) -> impl Iterator<Item = HostId> + 'a {
        held.iter().copied().filter(|proxy| self.proxies.contains_key(proxy))
    }

    /// The proxies among `held` that others can ask, as a node announces them.
    pub fn announced(&self, held: &BTreeSet<HostId>) -> Vec<HostId> {
        self.held(held).take(MAX_AGENT_CONNECTIONS.into()).collect()
    }

    /// How many of the tunnels to `held` are more than there should be.
    pub fn surplus(&self, held: &BTreeSet<HostId>) -> usize {
        self.held(held).count().saturating_sub(self.agent_connection_count.get().into())
    }
}

/// Whether a node that has tunnels to `held` lacks one, when the proxies that are online are `known`: to each that cannot be asked by others,
/// to so many of the rest; and to any if none is known.
pub fn is_missing(known: &BTreeSet<HostId>, peering: Option<&Peering>, held: &BTreeSet<HostId>) -> bool {
    if known.is_empty() {
        return held.is_empty();
    }
    let Some(peering) = peering else { return !known.is_subset(held) };
    let alone = |proxy: &&HostId| !peering.proxies.contains_key(*proxy);
    let peers = known.iter().filter(|proxy| !alone(proxy)).count();
    known.iter().filter(alone).any(|proxy| !held.contains(proxy))
        || peering.held(held).count() < peers.min(peering.agent_connection_count.get().into())
}

/// Whether a tunnel to `proxy`, which was reached, is of use to that node.
pub fn is_wanted(peering: Option<&Peering>, held: &BTreeSet<HostId>, proxy: HostId) -> bool {
    let enough = peering.is_some_and(|peering| {
        peering.proxies.contains_key(&proxy)
            && peering.held(held).count() >= peering.agent_connection_count.get().into()
    });
    !held.contains(&proxy) && !enough
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn id(number: u128) -> HostId {
        format!("00000000-0000-4000-8000-{number:012x}").parse().unwrap()
    }

    fn set(ids: &[u128]) -> BTreeSet<HostId> {
        ids.iter().map(|number| id(*number)).collect()
    }

    fn peering(count: u8, proxies: &[u128]) -> Peering {
        Peering {
            agent_connection_count: count.try_into().unwrap(),
            proxies: proxies.iter().map(|number| (id(*number), format!("192.0.2.{number}:3021"))).collect(),
        }
    }

    #[test]
    fn in_the_mesh_a_tunnel_is_missing_to_each_proxy_that_is_known_and_to_any_if_none_is() {
        for (known, held, missing) in [
            (&[][..], &[][..], true),
            (&[], &[1], false),
            (&[1], &[], true),
            (&[1], &[1], false),
            (&[1, 2], &[1], true),
            (&[1, 2], &[1, 2], false),
            // One that is not known any more.
            (&[1], &[1, 2], false),
            (&[1], &[2], true),
        ] {
            assert_eq!(is_missing(&set(known), None, &set(held)), missing, "{known:?} {held:?}");
        }
        assert!(is_wanted(None, &set(&[1]), id(2)));
        assert!(!is_wanted(None, &set(&[1]), id(1)));
    }

    #[test]
    fn of_proxies_that_ask_each_other_some_are_enough() {
        for (known, count, peers, held, missing, surplus) in [
            (&[][..], 1, &[][..], &[][..], true, 0),
            (&[], 1, &[], &[1], false, 0),
            (&[1, 2, 3], 1, &[1, 2, 3], &[], true, 0),
            (&[1, 2, 3], 1, &[1, 2, 3], &[2], false, 0),
            (&[1, 2, 3], 2, &[1, 2, 3], &[2], true, 0),
            (&[1, 2, 3], 2, &[1, 2, 3], &[2, 3], false, 0),
            (&[1, 2, 3], 2, &[1, 2, 3], &[1, 2, 3], false, 1),
            // More than there are.
            (&[1, 2], 5, &[1, 2], &[1, 2], false, 0),
            (&[1, 2], 5, &[1, 2], &[1], true, 0),
            // Those that cannot be asked have a tunnel of their own: nobody listens there yet, or their version is older.
            (&[1, 2, 3], 1, &[], &[1, 2], true, 0),
            (&[1, 2, 3], 1, &[1, 2], &[1], true, 0),
            (&[1, 2, 3], 1, &[1, 2], &[1, 3], false, 0),
            (&[1, 2, 3], 1, &[1, 2], &[3], true, 0),
            (&[1, 2, 3], 1, &[1, 2], &[1, 2, 3], false, 1),
            // Offline, and the tunnel stands.
            (&[1], 1, &[1], &[2], true, 0),
        ] {
            let (known, peering, held) = (set(known), peering(count, peers), set(held));
            let context = format!("{known:?} {peering:?} {held:?}");
            assert_eq!(is_missing(&known, Some(&peering), &held), missing, "{context}");
            assert_eq!(peering.surplus(&held), surplus, "{context}");
        }
    }

    #[test]
    fn what_is_reached_is_kept_only_if_it_is_of_use() {
        let peering = peering(1, &[1, 2]);
        assert!(is_wanted(Some(&peering), &set(&[]), id(1)));
        assert!(!is_wanted(Some(&peering), &set(&[1]), id(1)), "there is one");
        assert!(!is_wanted(Some(&peering), &set(&[1]), id(2)), "there are enough");
        assert!(is_wanted(Some(&peering), &set(&[1]), id(3)), "it cannot be asked");
    }

    #[test]
    fn a_node_announces_who_can_be_asked() {
        let many: Vec<u128> = (1..40).collect();
        assert_eq!(peering(1, &[1, 2]).announced(&set(&[2, 3])), [id(2)]);
        assert_eq!(peering(1, &many).announced(&set(&many)).len(), usize::from(MAX_AGENT_CONNECTIONS));
    }
}
