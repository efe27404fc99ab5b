//! Connections from the client's side: `direct-tcpip`, `direct-streamlocal`.

use std::net::SocketAddr;
use std::sync::Arc;

use russh::Channel;
use russh::server::{ChannelOpenHandle, Msg};
use teleport_core::access::{LocalForwarding, LoginGrant, PermittedSocket};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Forwards, NoForward, Place, Target, Trip};
use crate::node::lifetime;
use crate::session::{SocketPath, Sockets};

/// A channel that waits for its answer, and what it needs if that is yes.
pub(in crate::node) struct Asked {
    pub(in crate::node) trip: Trip,
    pub(in crate::node) channel: Channel<Msg>,
    pub(in crate::node) reply: ChannelOpenHandle,
}

impl Trip {
    /// What opens the login's sockets, if the login can still be served.
    pub(super) async fn sockets(&self, grant: &LoginGrant) -> Result<Arc<dyn Sockets>, NoForward> {
        self.node.service.sockets(grant, self.node.clock.now()).await?.ok_or(NoForward::NotOffered)
    }
}

impl Forwards {
    /// Connects to `target` and carries what the channel says there, in a task of the connection.
    pub(in crate::node) fn connect(
        &self,
        asked: Asked,
        (grant, permit, place): (LoginGrant, LocalForwarding, Place),
        target: Target,
    ) {
        let (trip, lookups) = (asked.trip.clone(), Arc::clone(&self.lookups));
        self.begin(asked, place, async move {
            let sockets = trip.sockets(&grant).await?;
            let (stream, address) = target.connect(&permit, &*sockets, &lookups).await?;
            Ok((stream, Some(address)))
        });
    }

    /// The same for a socket in the file system.
    pub(in crate::node) fn connect_socket(
        &self,
        asked: Asked,
        (grant, _permit, place): (LoginGrant, PermittedSocket, Place),
        path: SocketPath,
    ) {
        let (trip, lookups) = (asked.trip.clone(), Arc::clone(&self.lookups));
        self.begin(asked, place, async move {
            let sockets = trip.sockets(&grant).await?;
            // Each is a process for a moment.
            let _turn = lookups.acquire_owned().await;
            let stream = sockets.connect_unix(&path).await.map_err(NoForward::socket)?;
            Ok((stream, None))
        });
    }

    fn begin<S>(
        &self,
        asked: Asked,
        place: Place,
        connect: impl Future<Output = Result<(S, Option<SocketAddr>), NoForward>> + Send + 'static,
    ) where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Asked { trip, channel, reply } = asked;
        let entered = self.channels.of(&channel, &trip.link);
        self.tasks.spawn(async move {
            let connecting = async {
                let (stream, address) = connect.await?;
                Ok((stream, trip.announce(address).await?))
            };
            let mut ending = trip.ending.clone();
            let connected = tokio::select! {
                connected = connecting => connected,
                over = lifetime::said(&mut ending) => Err(NoForward::Ending(over)),
            };
            match connected {
                Ok((stream, told)) => {
                    reply.accept().await;
                    trip.carry(channel, entered, stream, told, place).await;
                }
                Err(why) => trip.refuse(why, reply).await,
            }
        });
    }
}
