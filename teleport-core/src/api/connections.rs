//! Messages about the places of users who may have only so many connections.
#![expect(clippy::exhaustive_structs, reason = "callers build requests, services build answers")]

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::{ConnectionId, RunId, UserName};

/// How long a place lasts after it was last asked for.
pub const CONNECTION_LEASE: Duration = Duration::from_secs(120);

/// A connection that needs a place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectionClaim {
    /// The connection.
    pub id: ConnectionId,
    /// The user.
    pub user: UserName,
    /// The most places that the user may have, this one included. What a place was taken with is not looked at again.
    pub most: u64,
}

/// A node asks for places.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HoldConnections {
    /// The present run of the node.
    pub run: RunId,
    /// At most [`HoldConnections::MAX`].
    pub connections: Vec<ConnectionClaim>,
}

impl HoldConnections {
    /// The most connections of one call.
    pub const MAX: usize = 256;
}

/// Which places there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldConnections {
    /// The connections that have no place; all others have one, for [`CONNECTION_LEASE`].
    pub refused: Vec<ConnectionId>,
}

/// A node gives places back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseConnections {
    /// The connections that have ended, by user; at most [`HoldConnections::MAX`].
    pub connections: Vec<(UserName, ConnectionId)>,
}
