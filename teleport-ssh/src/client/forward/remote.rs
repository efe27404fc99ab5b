//! Listening at the node: `-R`; and the user's agent for programs there: `-A`.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use russh::ChannelOpenFailure;
use teleport_core::task::TaskScope;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Semaphore, mpsc};

use super::incoming::{Opened, Purpose};
use super::local::socks;
use super::spec::{BindAddress, Destination, Forward, Listen, Target};
use super::splice::splice;
use super::{ForwardError, MAX_CONNECTIONS};
use crate::client::agent::{AgentServer, Identities, MAX_CONVERSATIONS};
use crate::client::connection::NodeConnection;
use crate::rpc::{BoxedIo, Prefixed};

/// How long the target of a connection may take to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// A forward that listens at the node. Its connections are refused once it is dropped.
#[derive(Debug)]
pub struct RemoteForward {
    forward: Forward,
    port: u16,
    opened: mpsc::Receiver<Opened>,
}

/// The agent that programs on the node may ask.
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "callers build it")]
pub enum ForwardedAgent {
    /// These identities, served by this process.
    Own(Arc<dyn Identities>),
    /// Whoever listens on this socket.
    Socket(PathBuf),
}

/// The address as it is sent: RFC 4254 section 7.1.
fn address(bind: &BindAddress) -> &str {
    match bind {
        BindAddress::All => "",
        BindAddress::Host(host) => host,
        BindAddress::Loopback => "localhost",
    }
}

impl NodeConnection {
    /// Has the node listen. Connections come to [`RemoteForward::serve`].
    ///
    /// # Errors
    /// [`ForwardError::Refused`] if the node does not; [`ForwardError::Twice`], [`ForwardError::Gone`].
    pub async fn forward_remote(&self, forward: Forward) -> Result<RemoteForward, ForwardError> {
        let purpose = match &forward.listen {
            Listen::Tcp { bind, port } => Purpose::Tcp(address(bind).to_owned(), (*port).into()),
            Listen::Unix(path) => Purpose::Unix(path.to_string_lossy().into_owned()),
        };
        let listen = || forward.listen.to_string();
        let Some(opened) = self.incoming.expect(purpose.clone()) else {
            return Err(ForwardError::Twice { listen: listen() });
        };
        let answer = match &purpose {
            Purpose::Tcp(address, port) => self.handle.tcpip_forward(address.as_str(), *port).await,
            Purpose::Unix(path) => self.handle.streamlocal_forward(path.as_str()).await.map(|()| 0),
            Purpose::Agent | Purpose::X11 => return Err(ForwardError::Refused { listen: listen() }),
        };
        let chosen = match answer {
            Ok(chosen) => u16::try_from(chosen).unwrap_or(0),
            Err(russh::Error::RequestDenied) => return Err(ForwardError::Refused { listen: listen() }),
            Err(_) => return Err(ForwardError::Gone),
        };
        let port = match &purpose {
            Purpose::Tcp(address, 0) => {
                self.incoming.rename(&purpose, Purpose::Tcp(address.clone(), chosen.into()));
                chosen
            }
            Purpose::Tcp(_, port) => u16::try_from(*port).unwrap_or(0),
            _ => 0,
        };
        Ok(RemoteForward { forward, port, opened })
    }

    /// Lets programs on the node ask `agent`, in sessions that ask for it; until the future is dropped. Each conversation is a task of
    /// `connections`.
    ///
    /// # Errors
    /// [`ForwardError::Twice`].
    pub fn forward_agent(
        &self,
        agent: ForwardedAgent,
        connections: TaskScope,
    ) -> Result<impl Future<Output = ()> + Send + use<>, ForwardError> {
        let Some(mut opened) = self.incoming.expect(Purpose::Agent) else {
            return Err(ForwardError::Twice { listen: "the agent".to_owned() });
        };
        let agent = Arc::new(agent);
        let room = Arc::new(Semaphore::new(MAX_CONVERSATIONS));
        Ok(async move {
            while let Some(Opened { channel, reply }) = opened.recv().await {
                let Ok(place) = Arc::clone(&room).try_acquire_owned() else {
                    reply.reject(ChannelOpenFailure::ResourceShortage).await;
                    continue;
                };
                let agent = Arc::clone(&agent);
                connections.spawn(async move {
                    let _place = place;
                    match &*agent {
                        ForwardedAgent::Own(identities) => {
                            reply.accept().await;
                            let _ = AgentServer::new(Arc::clone(identities))
                                .converse(channel.into_stream())
                                .await;
                        }
                        ForwardedAgent::Socket(path) => match UnixStream::connect(path).await {
                            Ok(socket) => {
                                reply.accept().await;
                                let _ = splice(channel, socket).await;
                            }
                            Err(_) => reply.reject(ChannelOpenFailure::ConnectFailed).await,
                        },
                    }
                });
            }
        })
    }
}

impl RemoteForward {
    /// What is forwarded.
    pub const fn forward(&self) -> &Forward {
        &self.forward
    }

    /// The port that the node listens on; 0 for a unix socket.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Connects what comes from the node with its target, each as a task of `connections`, until it is dropped or the connection ends.
    pub async fn serve(mut self, connections: TaskScope) {
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        while let Some(opened) = self.opened.recv().await {
            let Ok(place) = Arc::clone(&room).try_acquire_owned() else {
                opened.reply.reject(ChannelOpenFailure::ResourceShortage).await;
                continue;
            };
            let target = self.forward.to.clone();
            connections.spawn(async move {
                let _place = place;
                if let Err(error) = pass_on(opened, &target).await {
                    tracing::debug!(error = &*error, "a forwarded connection ended");
                }
            });
        }
    }
}

async fn pass_on(
    Opened { channel, reply }: Opened,
    target: &Target,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    match target {
        Target::To(to) => match connect(to).await {
            Ok(socket) => {
                reply.accept().await;
                splice(channel, socket).await?;
            }
            Err(error) => {
                reply.reject(ChannelOpenFailure::ConnectFailed).await;
                return Err(error.into());
            }
        },
        Target::Dynamic => {
            reply.accept().await;
            let mut stream = channel.into_stream();
            let asked = tokio::time::timeout(CONNECT_TIMEOUT, socks(&mut stream)).await;
            let (version, to, early) = asked.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            let connected = connect(&to).await;
            stream.write_all(version.answer(connected.is_ok())).await?;
            stream.flush().await?;
            let mut stream = Prefixed::new(early.freeze(), stream);
            tokio::io::copy_bidirectional(&mut stream, &mut connected?).await?;
        }
    }
    Ok(())
}

pub(super) async fn connect(to: &Destination) -> io::Result<BoxedIo> {
    let connecting = async {
        Ok(match to {
            Destination::Tcp { host, port } => {
                let socket = TcpStream::connect((host.as_str(), *port)).await?;
                socket.set_nodelay(true)?;
                Box::new(socket) as BoxedIo
            }
            Destination::Unix(path) => Box::new(UnixStream::connect(path).await?),
        })
    };
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.map_err(late)?
}
