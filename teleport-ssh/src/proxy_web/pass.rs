//! Connections to the auth service, whose bytes are passed on as they are.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use teleport_core::api::ProxyAccess;
use teleport_core::entropy::Entropy;
use teleport_core::task::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::peek::Hello;
use crate::listener::limits::{Limits, Outcome};
use crate::listener::{Admitted, Door};
use crate::rpc::limits::{Guest, Guests};
use crate::rpc::{Connector, Prefixed};

/// Connections that are passed on at the same time, from one source and in all, however long they last. Behind one address there
/// may be a whole site of nodes.
const PASSED_PER_SOURCE: usize = 2_048;
const PASSED: usize = 12_000;
/// How long a connection waits for this proxy's own to the auth service, which comes first.
const PATIENCE: Duration = Duration::from_secs(10);
/// How soon the auth service is asked again when it has not answered.
const RETRY: Duration = Duration::from_secs(1);
/// How long connections go on after draining has begun, or after the auth service has ended its side.
const FAREWELL: Duration = Duration::from_secs(5);

/// The way to the auth service, and how many are on it.
#[derive(Debug)]
pub(super) struct Passes {
    auth: Arc<dyn Connector>,
    /// All of them.
    guests: Guests,
    /// Those who may be strangers.
    door: Door,
    /// Until when they may be.
    probation: Duration,
    open: watch::Sender<bool>,
}

/// A place on the way.
#[derive(Debug)]
pub(super) struct Pass {
    peer: SocketAddr,
    admitted: Admitted,
    _guest: Guest,
}

impl Passes {
    pub(super) fn new(auth: Arc<dyn Connector>, limits: Limits, entropy: Arc<dyn Entropy>) -> Self {
        let probation = limits.login_grace;
        let guests = Guests::new(PASSED_PER_SOURCE, PASSED);
        Self { auth, guests, door: Door::new(limits, entropy), probation, open: watch::Sender::new(false) }
    }

    /// Lets connections pass from the moment on when the auth service has answered this proxy. From then on it knows the
    /// proxy's address; before, strangers would compete with the proxy for the places that it gives an address that it does not know.
    pub(super) async fn open(&self, api: &dyn ProxyAccess) {
        while api.trust().await.is_err() {
            tokio::time::sleep(RETRY).await;
        }
        self.open.send_replace(true);
    }

    /// A place, if there is one.
    pub(super) fn admit(&self, peer: SocketAddr) -> Option<Pass> {
        let places = || Some((self.guests.admit(peer.ip())?, self.door.admit(peer.ip())?));
        let Some((guest, admitted)) = places() else {
            tracing::info!(%peer, "too many connections to the auth service");
            return None;
        };
        Some(Pass { peer, admitted, _guest: guest })
    }

    /// Passes everything on to the auth service and back. It sees who its clients are and ends what is idle or refused, and whoever has
    /// no certificate: who is here for longer than that takes is no stranger any more.
    pub(super) async fn pass_on(
        &self,
        mut stream: TcpStream,
        hello: Hello,
        mut pass: Pass,
        shutdown: &Shutdown,
    ) {
        let mut open = self.open.subscribe();
        // The sender lives in `self`: only the time can fail.
        if tokio::time::timeout(PATIENCE, open.wait_for(|open| *open)).await.is_err() {
            return;
        }
        let mut upstream = match self.auth.connect().await {
            Ok(upstream) => upstream,
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the auth service cannot be reached"
                );
                return;
            }
        };
        let mut downstream = Prefixed::new(hello.bytes, &mut stream);
        // There is no end to be seen in what is passed on: who is connected when this proxy drains has a moment to finish.
        let farewell = async {
            shutdown.draining().await;
            tokio::time::sleep(FAREWELL).await;
        };
        let known = async {
            tokio::time::sleep(self.probation).await;
            pass.admitted.record(Outcome::Authenticated);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            copied = copy(&mut downstream, &mut upstream) => {
                if let Err(error) = copied {
                    let error = &error as &dyn std::error::Error;
                    tracing::debug!(peer = %pass.peer, error, "a connection to the auth service broke off");
                }
            }
            () = farewell => {}
            () = known => {}
        }
    }
}

/// Passes bytes both ways until both sides have ended. Once the auth service has, its client has a moment to do so too: it
/// cannot hold on to the connection, and with it to a place here, by saying nothing.
async fn copy(
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
    auth: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_auth, mut to_auth) = tokio::io::split(auth);
    let mut asking = pin!(async {
        tokio::io::copy(&mut from_client, &mut to_auth).await?;
        to_auth.shutdown().await
    });
    let mut answering = pin!(async {
        tokio::io::copy(&mut from_auth, &mut to_client).await?;
        to_client.shutdown().await
    });
    tokio::select! {
        asked = &mut asking => {
            asked?;
            answering.await
        }
        answered = &mut answering => {
            answered?;
            tokio::time::timeout(FAREWELL, asking).await.unwrap_or(Ok(()))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_after_the_end_loses_the_place() {
        let (mut client, mut near) = tokio::io::duplex(64);
        let (mut far, mut auth) = tokio::io::duplex(64);
        let passing = tokio::time::timeout(2 * FAREWELL, copy(&mut near, &mut far));
        let ends = async {
            auth.write_all(b"bye").await.unwrap();
            drop(auth);
            let mut heard = Vec::new();
            client.read_to_end(&mut heard).await.unwrap();
            heard
        };
        let (passed, heard) = tokio::join!(passing, ends);
        assert!(passed.is_ok(), "it waited for a client that says nothing");
        assert_eq!(heard, b"bye");
    }

    #[tokio::test]
    async fn a_client_that_has_asked_still_gets_its_answer() {
        let (mut client, mut near) = tokio::io::duplex(64);
        let (mut far, mut auth) = tokio::io::duplex(64);
        let ends = async {
            client.write_all(b"ask").await.unwrap();
            client.shutdown().await.unwrap();
            let mut asked = Vec::new();
            auth.read_to_end(&mut asked).await.unwrap();
            auth.write_all(b"answer").await.unwrap();
            drop(auth);
            let mut answered = Vec::new();
            client.read_to_end(&mut answered).await.unwrap();
            (asked, answered)
        };
        let (passed, (asked, answered)) = tokio::join!(copy(&mut near, &mut far), ends);
        passed.unwrap();
        assert_eq!((asked.as_slice(), answered.as_slice()), (&b"ask"[..], &b"answer"[..]));
    }
}
