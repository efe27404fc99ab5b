//! A network that fails on demand.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use teleport_core::task::TaskScope;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::PATIENCE;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Each piece comes later.
    Delay(Duration),
    /// As it should be.
    Pass,
    /// Connections are closed as they come.
    Refuse,
    /// Nothing passes in either direction, and nothing is closed.
    Stall,
    /// The same from a request on that has these bytes in it, which does not pass either.
    StallAt(&'static [u8]),
    /// What comes from the server does not pass.
    StallAnswers,
    /// The same from a request on that has these bytes in it.
    StallAnswersTo(&'static [u8]),
}

/// Passes connections on to a port of this host.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    mode: watch::Sender<Mode>,
    cuts: watch::Sender<u64>,
    _tasks: Arc<TaskScope>,
}

impl Proxy {
    pub(crate) async fn to(target: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (mode, modes) = watch::channel(Mode::Pass);
        let (cuts, cut) = watch::channel(0);
        let tasks = Arc::new(TaskScope::new());
        let scope = Arc::downgrade(&tasks);
        let control = mode.clone();
        tasks.spawn(async move {
            loop {
                let control = control.clone();
                let Ok((client, _)) = listener.accept().await else { return };
                let (Some(scope), modes, mut cut) = (scope.upgrade(), modes.clone(), cut.clone()) else {
                    return;
                };
                cut.mark_unchanged();
                scope.spawn(async move {
                    if *modes.borrow() == Mode::Refuse {
                        return;
                    }
                    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await else { return };
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    tokio::select! {
                        () = pass(from_client, to_server, modes.clone(), Some(&control)) => {}
                        () = pass(from_server, to_client, modes, None) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { port, mode, cuts, _tasks: tasks }
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Waits until a request has come that [`Mode::StallAt`] is about.
    pub(crate) async fn until_stalled(&self) {
        let mut modes = self.mode.subscribe();
        let stalled = modes.wait_for(|mode| *mode == Mode::Stall);
        tokio::time::timeout(PATIENCE, stalled).await.expect("the request comes in time").unwrap();
    }

    /// Closes all connections there are.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut modes: watch::Receiver<Mode>,
    requests: Option<&watch::Sender<Mode>>,
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let Ok(length @ 1..) = from.read(&mut buffer).await else { return };
        let stalls =
            |mode: &Mode| *mode == Mode::Stall || (requests.is_none() && *mode == Mode::StallAnswers);
        loop {
            let Ok(mode) = modes.wait_for(|mode| !stalls(mode)).await.map(|mode| *mode) else { return };
            let has = |part: &[u8]| buffer[..length].windows(part.len()).any(|window| window == part);
            match (mode, requests) {
                (Mode::StallAt(part), Some(control)) if has(part) => {
                    control.send_replace(Mode::Stall);
                    continue;
                }
                (Mode::StallAnswersTo(part), Some(control)) if has(part) => {
                    control.send_replace(Mode::StallAnswers);
                }
                (Mode::Delay(by), _) => tokio::time::sleep(by).await,
                _ => {}
            }
            break;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
