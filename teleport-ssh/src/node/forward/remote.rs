//! Connections from the node's side: `tcpip-forward`, `streamlocal-forward`, the user's agent, and what comes of them.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use teleport_core::access::{AgentForwarding, LoginGrant, RemoteForwarding};
use tokio::net::TcpListener;

use super::door::{Door, Keys, Leads, Sockets};
use super::{Forwards, NoForward};
use crate::session::{SocketPath, Sockets as Login};

/// Ports below this one are those of the host's own services.
const FIRST_UNPRIVILEGED: u16 = 1024;
/// Listeners of one connection.
pub(super) const MAX_DOORS: usize = 256;
/// Of these, sockets in the file system: each has a process that removes it in the end.
const MAX_SOCKETS: usize = 32;
/// The longest address, in bytes.
const MAX_ADDRESS: usize = 255;

/// On which addresses of a node others may have it listen (`ssh -R`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum GatewayPorts {
    /// On those that the client says; on all if it says none.
    ClientSpecified,
    /// On the loopback addresses, whatever the client says.
    #[default]
    No,
}

/// A socket that leads to the user's agent. It is removed when this is dropped.
#[derive(Debug)]
pub(in crate::node) struct AgentSocket {
    path: PathBuf,
    _door: Door,
}

impl AgentSocket {
    /// Where it is.
    pub(in crate::node) fn path(&self) -> &Path {
        &self.path
    }
}

/// What a listener is called by its client.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Name {
    Tcp { address: String, port: u16 },
    Unix(SocketPath),
}

/// The listeners of a connection.
#[derive(Debug, Default)]
pub(super) struct Doors(HashMap<Name, Door>);

impl Doors {
    /// Whether there may be one more.
    ///
    /// # Errors
    /// [`NoForward::TooManyDoors`].
    pub(super) fn room(&mut self) -> Result<(), NoForward> {
        self.0.retain(|_, door| !door.is_closed());
        if self.0.len() < MAX_DOORS { Ok(()) } else { Err(NoForward::TooManyDoors) }
    }

    /// The same for sockets in the file system.
    pub(super) fn room_for_socket(&mut self) -> Result<(), NoForward> {
        self.room()?;
        let sockets = self.0.keys().filter(|name| matches!(name, Name::Unix(_)));
        if sockets.count() < MAX_SOCKETS { Ok(()) } else { Err(NoForward::TooManyDoors) }
    }

    pub(super) fn put(&mut self, name: Name, door: Door) {
        self.0.insert(name, door);
    }

    /// Closes the one of this name. Says whether there was one.
    pub(super) async fn close(&mut self, name: &Name) -> bool {
        match self.0.remove(name) {
            Some(door) => {
                door.close().await;
                true
            }
            None => false,
        }
    }
}

impl GatewayPorts {
    /// The addresses to listen on, of which the first must be had.
    fn addresses(self, asked: &str) -> Result<Vec<IpAddr>, NoForward> {
        const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        const ANY: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        match (self, asked) {
            (Self::No, _) | (Self::ClientSpecified, "localhost") => Ok(LOOPBACK.to_vec()),
            (Self::ClientSpecified, "" | "*") => Ok(ANY.to_vec()),
            (Self::ClientSpecified, address) => match address.parse() {
                Ok(address) => Ok(vec![address]),
                Err(_) => Err(NoForward::Target("it is neither an address nor localhost")),
            },
        }
    }
}

impl Forwards {
    /// Listens on `port`, or any if it is 0, and says on which.
    ///
    /// # Errors
    /// [`NoForward`].
    pub(in crate::node) async fn listen_tcp(
        &mut self,
        (_permit, grant): (RemoteForwarding, LoginGrant),
        (address, port): (&str, u32),
        gateway: GatewayPorts,
        mut keys: Keys,
    ) -> Result<u16, NoForward> {
        let port = u16::try_from(port).map_err(|_| NoForward::Target("a port is 0 to 65535"))?;
        if address.len() > MAX_ADDRESS || address.chars().any(char::is_control) {
            return Err(NoForward::Target("the address is too long, or has control characters"));
        }
        self.doors.room()?;
        let addresses = gateway.addresses(address)?;
        let login = keys.trip.sockets(&grant).await?;
        if (1..FIRST_UNPRIVILEGED).contains(&port) && !login.is_root() {
            return Err(NoForward::Privileged);
        }
        let (listeners, port) = bind(&*login, &addresses, port).map_err(NoForward::bind)?;
        keys.trip.event = keys.trip.event.field("addr", format!("{address}:{port}"));
        let leads = Leads::Tcp { address: address.to_owned(), port };
        let door = self.attend(Sockets::Tcp { listeners, login }, keys, leads);
        self.doors.put(Name::Tcp { address: address.to_owned(), port }, door);
        Ok(port)
    }

    /// Stops listening on what `listen_tcp` was asked for. Says whether this connection did.
    pub(in crate::node) async fn close_tcp(&mut self, address: &str, port: u32) -> bool {
        match u16::try_from(port) {
            Ok(port) => self.doors.close(&Name::Tcp { address: address.to_owned(), port }).await,
            Err(_) => false,
        }
    }
}

impl Forwards {
    /// Listens at `path`.
    ///
    /// # Errors
    /// [`NoForward`].
    pub(in crate::node) async fn listen_socket(
        &mut self,
        (_permit, grant): (RemoteForwarding, LoginGrant),
        path: &str,
        keys: Keys,
    ) -> Result<(), NoForward> {
        let name = SocketPath::new(path)?;
        self.doors.room_for_socket()?;
        let made = keys.trip.sockets(&grant).await?.listen_unix(&name).await;
        let made = made.map_err(NoForward::socket)?;
        let door = self.attend(Sockets::Unix(made), keys, Leads::Unix { path: path.to_owned() });
        self.doors.put(Name::Unix(name), door);
        Ok(())
    }

    /// Stops listening there. Says whether this connection did.
    pub(in crate::node) async fn close_socket(&mut self, path: &str) -> bool {
        match SocketPath::new(path) {
            Ok(path) => self.doors.close(&Name::Unix(path)).await,
            Err(_) => false,
        }
    }

    /// Makes a socket that leads to the user's agent. There is one for a session at most.
    ///
    /// # Errors
    /// [`NoForward`].
    pub(in crate::node) async fn listen_agent(
        &self,
        (_permit, grant): (AgentForwarding, LoginGrant),
        keys: Keys,
    ) -> Result<AgentSocket, NoForward> {
        let made = keys.trip.sockets(&grant).await?.listen_agent().await.map_err(NoForward::socket)?;
        let path = made.path().to_owned();
        Ok(AgentSocket { path, _door: self.attend(Sockets::Unix(made), keys, Leads::Agent) })
    }
}

/// Listens on all addresses that this machine has. A port that somebody has on one of them is not taken on another: who connects
/// by a name could not tell which of the two answers.
pub(super) fn bind(
    login: &dyn Login,
    addresses: &[IpAddr],
    port: u16,
) -> io::Result<(Vec<TcpListener>, u16)> {
    let mut listeners: Vec<TcpListener> = Vec::new();
    let mut port = port;
    for address in addresses {
        match login.listen_tcp(SocketAddr::new(*address, port)) {
            Ok(listener) => {
                port = listener.local_addr()?.port();
                listeners.push(listener);
            }
            Err(error) if !listeners.is_empty() && is_absent(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok((listeners, port))
}

/// Whether the machine has no such address, as one without IPv6.
fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn others_are_let_in_only_where_that_is_configured() {
        let loopback = vec!["127.0.0.1".parse::<IpAddr>().unwrap(), "::1".parse().unwrap()];
        for asked in ["", "*", "localhost", "0.0.0.0", "::", "192.0.2.1", "nonsense"] {
            assert_eq!(GatewayPorts::No.addresses(asked).unwrap(), loopback, "{asked}");
        }
        let specified = |asked| GatewayPorts::ClientSpecified.addresses(asked);
        assert_eq!(specified("localhost").unwrap(), loopback);
        for asked in ["", "*"] {
            assert!(specified(asked).unwrap().iter().all(IpAddr::is_unspecified));
        }
        assert_eq!(specified("192.0.2.1").unwrap(), ["192.0.2.1".parse::<IpAddr>().unwrap()]);
        for bad in ["nonsense", "127.0.0.1:80", "a b", "%"] {
            assert!(specified(bad).is_err(), "{bad}");
        }
    }
}
