//! The user's display on the node: `x11-req`, and the programs that come to it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use teleport_core::access::{LoginGrant, X11Forwarding};
use tokio::net::TcpListener;
use tokio::sync::OwnedSemaphorePermit;

use super::door::{Door, Keys, Leads, Sockets};
use super::remote::bind;
use super::{Forwards, NoForward};
use crate::session::{Sockets as Login, X11Auth, X11Display};

/// The port of display 0.
const FIRST_PORT: u16 = 6000;
/// The first display that is given away, if nothing else is configured: lower ones may be those of the machine itself.
const OFFSET: u16 = 10;
/// How many there are, if nothing else is configured.
const COUNT: u16 = 1000;
/// Displays of one connection at a time.
pub(super) const MAX_DISPLAYS: usize = 32;
/// Programs look for displays nowhere else, and nobody else reaches them there.
const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// The numbers can be none of displays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("displays are numbered from {min} to {max}, the first not behind the last", min = 1, max = Displays::MAX)]
pub struct InvalidDisplays;

/// The displays that a node gives to sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Displays(RangeInclusive<u16>);

impl Displays {
    /// The last display that has a port.
    pub const MAX: u16 = u16::MAX - FIRST_PORT;

    /// From `first` to `last`, which is a thousand behind it if it is not said.
    ///
    /// # Errors
    /// [`InvalidDisplays`].
    pub fn new(first: u16, last: Option<u16>) -> Result<Self, InvalidDisplays> {
        let last = last.unwrap_or(first.saturating_add(COUNT).min(Self::MAX));
        if first == 0 || first > last || last > Self::MAX {
            return Err(InvalidDisplays);
        }
        Ok(Self(first..=last))
    }

    /// The first.
    pub const fn first(&self) -> u16 {
        *self.0.start()
    }

    /// The last.
    pub const fn last(&self) -> u16 {
        *self.0.end()
    }
}

impl Default for Displays {
    fn default() -> Self {
        Self(OFFSET..=OFFSET + COUNT)
    }
}

/// A display of a session. Nobody comes to it any more when this is dropped; whoever has come stays.
#[derive(Debug)]
pub(in crate::node) struct DisplayDoor {
    display: X11Display,
    _door: Door,
    _place: OwnedSemaphorePermit,
}

impl DisplayDoor {
    /// What the session is told of it.
    pub(in crate::node) const fn display(&self) -> &X11Display {
        &self.display
    }
}

impl Forwards {
    /// Gives a session a display: the first that is free.
    ///
    /// # Errors
    /// [`NoForward`].
    pub(in crate::node) async fn listen_x11(
        &self,
        (_permit, grant): (X11Forwarding, LoginGrant),
        displays: &Displays,
        (auth, single): (X11Auth, bool),
        mut keys: Keys,
    ) -> Result<DisplayDoor, NoForward> {
        let place = Arc::clone(&self.displays).try_acquire_owned();
        let place = place.map_err(|_| NoForward::TooManyDoors)?;
        let login = keys.trip.sockets(&grant).await?;
        let (listeners, number) = first_free(&*login, displays).ok_or(NoForward::NoDisplay)?;
        let display = X11Display::new(number, auth);
        keys.trip.event = keys.trip.event.field("addr", display.name());
        let door = self.attend(Sockets::Tcp { listeners, login }, keys, Leads::X11 { single });
        Ok(DisplayDoor { display, _door: door, _place: place })
    }
}

/// Listens as the first display whose port nobody has on any of the addresses.
fn first_free(login: &dyn Login, displays: &Displays) -> Option<(Vec<TcpListener>, u16)> {
    displays.0.clone().find_map(|number| {
        let (listeners, _) = bind(login, &LOOPBACK, FIRST_PORT.checked_add(number)?).ok()?;
        Some((listeners, number))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn displays_have_ports_and_an_order() {
        assert_eq!(Displays::default(), Displays::new(10, None).unwrap());
        assert_eq!(Displays::new(10, None).unwrap().last(), 1010);
        let last = Displays::new(Displays::MAX, None).unwrap();
        assert_eq!((last.first(), last.last()), (59_535, 59_535));
        for (first, last) in [(0, None), (20, Some(19)), (10, Some(59_536)), (59_536, None)] {
            assert_eq!(Displays::new(first, last), Err(InvalidDisplays), "{first} {last:?}");
        }
    }
}
