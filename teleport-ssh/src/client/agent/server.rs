//! An agent that lists the user's certificates and signs logins with them, and does nothing else.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ssh_key::Certificate;
use ssh_key::encoding::Encode;
use teleport_core::task::TaskScope;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::Semaphore;

use super::wire::{FAILURE, IDENTITIES_ANSWER, MAX_FRAME, Request, SIGN_RESPONSE, read_request, string};
use crate::keys::SshKeyPair;
use crate::socket_file::{self, SocketFile};

/// The most conversations at a time. Whoever comes then is not answered until another one ends.
pub const MAX_CONVERSATIONS: usize = 64;
/// How long a message may take from its first byte to its last.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);
/// The pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A certificate, with the key that it is about.
#[derive(Clone)]
pub struct Identity {
    key: SshKeyPair,
    /// As the protocol has it.
    blob: Vec<u8>,
    comment: String,
}

/// Whose certificates there are, now.
///
/// Asked anew for each message, so that a renewed login is used and an expired one is not. It should not take long.
pub trait Identities: fmt::Debug + Send + Sync + 'static {
    /// Those that are valid.
    fn now(&self) -> Vec<Identity>;
}

/// Answers the clients of an agent.
#[derive(Clone, Debug)]
pub struct AgentServer {
    identities: Arc<dyn Identities>,
}

/// A socket on which an agent listens. It is removed with the value, unless something else lies there by then.
#[derive(Debug)]
pub struct AgentSocket {
    // Goes first.
    file: SocketFile,
    listener: UnixListener,
}

impl Identity {
    /// `certificate` is one line, as OpenSSH has it; `None` if it is none.
    pub fn new(key: SshKeyPair, certificate: &str, comment: impl Into<String>) -> Option<Self> {
        let blob = Certificate::from_openssh(certificate).ok()?.encode_vec().ok()?;
        Some(Self { key, blob, comment: comment.into() })
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("comment", &self.comment).finish_non_exhaustive()
    }
}

impl AgentSocket {
    /// Begins to listen at `path`, for this user alone; its directory should be this user's as well.
    ///
    /// # Errors
    /// Those of the system, among them that something is there already.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn bind(path: impl Into<PathBuf>) -> io::Result<Self> {
        let (file, listener) = socket_file::listen(&path.into())?;
        Ok(Self { file, listener: UnixListener::from_std(listener)? })
    }

    /// Where it is: the value for `SSH_AUTH_SOCK`.
    pub fn path(&self) -> &Path {
        self.file.path()
    }
}

impl AgentServer {
    /// With these identities.
    pub fn new(identities: Arc<dyn Identities>) -> Self {
        Self { identities }
    }

    /// Answers everybody who connects and is this user, until it is dropped; so are the conversations then.
    pub async fn serve(&self, socket: AgentSocket) {
        let conversations = TaskScope::new();
        let room = Arc::new(Semaphore::new(MAX_CONVERSATIONS));
        let own = nix::unistd::geteuid().as_raw();
        loop {
            let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
            let accepted = socket.listener.accept().await;
            let peer = accepted.and_then(|(stream, _)| Ok((stream.peer_cred()?, stream)));
            let (peer, stream) = match peer {
                Ok(peer) => peer,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection to the agent");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            if !may_ask(peer.uid(), own) {
                tracing::warn!(uid = peer.uid(), "somebody else asked the agent");
                continue;
            }
            let agent = self.clone();
            conversations.spawn(async move {
                let _place = place;
                if let Err(error) = agent.converse(stream).await {
                    tracing::debug!(%error, "a conversation with the agent ended");
                }
            });
        }
    }

    /// Answers one client until it goes.
    ///
    /// # Errors
    /// Those of the stream; `InvalidData` for what is not the protocol, `TimedOut` for a message that does not end.
    pub async fn converse<S: AsyncRead + AsyncWrite + Unpin>(&self, mut stream: S) -> io::Result<()> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        loop {
            let Some(message) = message(&mut stream).await? else { return Ok(()) };
            let answer = match read_request(&message).ok_or_else(invalid)? {
                Request::List => self.list(),
                Request::Sign { key, login } => self.sign(key, login),
                Request::Unwanted => None,
            };
            let answer = answer.filter(|answer| answer.len() <= MAX_FRAME).unwrap_or_else(|| vec![FAILURE]);
            let mut framed = Vec::with_capacity(answer.len() + 4);
            string(&mut framed, &answer).ok_or_else(invalid)?;
            stream.write_all(&framed).await?;
            stream.flush().await?;
        }
    }

    fn list(&self) -> Option<Vec<u8>> {
        let identities = self.identities.now();
        let mut answer = vec![IDENTITIES_ANSWER];
        answer.extend_from_slice(&u32::try_from(identities.len()).ok()?.to_be_bytes());
        for identity in identities {
            string(&mut answer, &identity.blob)?;
            string(&mut answer, identity.comment.as_bytes())?;
        }
        Some(answer)
    }

    fn sign(&self, key: &[u8], login: &[u8]) -> Option<Vec<u8>> {
        let identity = self.identities.now().into_iter().find(|identity| identity.blob == key)?;
        let mut signature = Vec::new();
        string(&mut signature, b"ssh-ed25519")?;
        string(&mut signature, &identity.key.sign(login)?)?;
        let mut answer = vec![SIGN_RESPONSE];
        string(&mut answer, &signature)?;
        Some(answer)
    }
}

/// Whether a process of this user may ask. Root may read the keys anyway.
const fn may_ask(peer: u32, own: u32) -> bool {
    peer == own || peer == 0
}

/// The next message, without its length; `None` at the end. A client may say nothing for as long as it likes between two.
async fn message(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let mut len = [0; 4];
    let Ok(first) = stream.read_u8().await else { return Ok(None) };
    let rest = async {
        let [begin, end @ ..] = &mut len;
        *begin = first;
        stream.read_exact(end).await?;
        let len = usize::try_from(u32::from_be_bytes(len)).unwrap_or(usize::MAX);
        if len == 0 || len > MAX_FRAME {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message of this length is none"));
        }
        // Grows with what comes, not with what is announced.
        let mut message = Vec::new();
        let read = stream.take(u64::try_from(len).unwrap_or(u64::MAX)).read_to_end(&mut message).await?;
        if read == len { Ok(Some(message)) } else { Err(io::Error::from(io::ErrorKind::UnexpectedEof)) }
    };
    tokio::time::timeout(MESSAGE_TIMEOUT, rest).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a12_others_may_not_ask() {
        assert!(may_ask(1000, 1000) && may_ask(0, 1000) && may_ask(0, 0));
        assert!(!may_ask(1001, 1000) && !may_ask(1000, 0));
    }
}
