//! How much may be forwarded at a time.

use std::sync::Arc;

use nix::sys::resource::{Resource, getrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::NoForward;
use crate::node::handler::{Slot, Slots};

/// Room for forwarded connections, of which there may be so many. Clones share it.
#[derive(Clone, Debug)]
struct Room {
    places: Arc<Semaphore>,
    limit: usize,
}

impl Room {
    fn new(limit: usize) -> Self {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        Self { places: Arc::new(Semaphore::new(limit)), limit }
    }

    fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }
}

/// The room of a node, which all its connections share.
#[derive(Clone, Debug)]
pub(in crate::node) struct NodeRoom(Room);

impl NodeRoom {
    /// For half of the descriptors that this process may have: a forwarded connection is one. The rest is for those who log in.
    pub(in crate::node) fn of_this_process() -> Self {
        let (descriptors, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
        Self(Room::new(usize::try_from(descriptors / 2).unwrap_or(usize::MAX)))
    }
}

/// The room of one connection, within that of its node.
#[derive(Clone, Debug)]
pub(super) struct Places {
    own: Room,
    node: NodeRoom,
    taken: Slots,
}

/// One forwarded connection of those that there may be. Given back when it is dropped.
#[derive(Debug)]
#[expect(dead_code, reason = "held, and given back")]
pub(in crate::node) struct Place {
    own: OwnedSemaphorePermit,
    node: OwnedSemaphorePermit,
    taken: Slot,
}

impl Places {
    /// For so many of one connection, which are counted there.
    pub(super) fn new(limit: usize, node: NodeRoom, taken: Slots) -> Self {
        Self { own: Room::new(limit), node, taken }
    }

    /// A place for one more.
    ///
    /// # Errors
    /// [`NoForward::TooMany`] and [`NoForward::NodeFull`].
    pub(super) fn take(&self) -> Result<Place, NoForward> {
        let own = self.own.place().ok_or(NoForward::TooMany { limit: self.own.limit })?;
        let node = self.node.0.place().ok_or(NoForward::NodeFull { limit: self.node.0.limit })?;
        Ok(Place { own, node, taken: self.taken.take() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn a_connection_has_its_share_and_all_of_them_the_nodes() {
        let node = NodeRoom(Room::new(3));
        let places = |node: &NodeRoom| Places::new(2, node.clone(), Slots::default());
        let (one, other) = (places(&node), places(&node));
        let held = [one.take().unwrap(), one.take().unwrap()];
        assert!(matches!(one.take(), Err(NoForward::TooMany { limit: 2 })));
        let _theirs = other.take().unwrap();
        assert!(matches!(other.take(), Err(NoForward::NodeFull { limit: 3 })));
        drop(held);
        let _again = other.take().unwrap();
        assert!(
            matches!(other.take(), Err(NoForward::TooMany { limit: 2 })),
            "what was refused took nothing"
        );
    }
}
