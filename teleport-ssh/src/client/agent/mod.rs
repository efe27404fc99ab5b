//! The protocol of `ssh-agent`, from both sides: [`Agent`] hands the user's certificate to one that runs, [`AgentServer`] is one
//! itself.
//!
//! Written here because the SSH library's client adds plain keys only, and its server keeps what others give it. The protocol is
//! draft-ietf-sshm-ssh-agent; what the other side says is bounded.

mod server;
mod wire;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ssh_key::Certificate;
use ssh_key::encoding::Encode;
use ssh_key::private::KeypairData;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use zeroize::Zeroizing;

pub use self::server::{AgentServer, AgentSocket, Identities, Identity, MAX_CONVERSATIONS};
use self::wire::{ADD_IDENTITY_CONSTRAINED, CONSTRAIN_LIFETIME, FAILURE, REMOVE_IDENTITY, SUCCESS};
pub use self::wire::{MAX_FRAME, Request, read_request};
use crate::keys::SshKeyPair;

/// How long an agent may think: it may ask the user.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why the agent does not hold the certificate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// The key or certificate cannot be encoded.
    #[error("the key or the certificate is malformed")]
    Malformed,
    /// It said no.
    #[error("the agent refused")]
    Refused,
    /// It cannot be reached, or does not speak the protocol.
    #[error("the ssh-agent cannot be used")]
    Unusable {
        /// The reason.
        source: io::Error,
    },
}

impl From<io::Error> for AgentError {
    fn from(source: io::Error) -> Self {
        Self::Unusable { source }
    }
}

/// A running agent.
#[derive(Clone, Debug)]
pub struct Agent {
    socket: PathBuf,
}

impl Agent {
    /// The agent at this socket, usually the value of `SSH_AUTH_SOCK`.
    pub fn at(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// Where it is.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Hands over key and certificate; the agent forgets them after `lifetime`.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn add(
        &self,
        key: &SshKeyPair,
        certificate: &str,
        comment: &str,
        lifetime: Duration,
    ) -> Result<(), AgentError> {
        let certificate = parse(certificate)?;
        let KeypairData::Ed25519(pair) = key.private().key_data() else { return Err(AgentError::Malformed) };
        let mut message = Zeroizing::new(vec![ADD_IDENTITY_CONSTRAINED]);
        string(&mut message, certificate.algorithm().to_certificate_type().as_bytes())?;
        string(&mut message, &encode(&certificate)?)?;
        string(&mut message, pair.public.as_ref())?;
        // The private half of the protocol: seed and public key.
        let both = Zeroizing::new([&pair.private.to_bytes()[..], pair.public.as_ref()].concat());
        string(&mut message, &both)?;
        string(&mut message, comment.as_bytes())?;
        message.push(CONSTRAIN_LIFETIME);
        let seconds = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX).max(1);
        message.extend_from_slice(&seconds.to_be_bytes());
        self.ask(&message).await
    }

    /// Has it forget a certificate.
    ///
    /// # Errors
    /// [`AgentError`], also when it does not hold it.
    pub async fn remove(&self, certificate: &str) -> Result<(), AgentError> {
        let mut message = vec![REMOVE_IDENTITY];
        string(&mut message, &encode(&parse(certificate)?)?)?;
        self.ask(&message).await
    }

    async fn ask(&self, message: &[u8]) -> Result<(), AgentError> {
        let exchange = async {
            let mut socket = UnixStream::connect(&self.socket).await?;
            let mut framed = Zeroizing::new(Vec::with_capacity(message.len() + 4));
            string(&mut framed, message)?;
            socket.write_all(&framed).await?;
            // What we ask is answered with yes or no: one byte. Anything else is not an answer to it.
            let invalid = || AgentError::from(io::Error::from(io::ErrorKind::InvalidData));
            if socket.read_u32().await? != 1 {
                return Err(invalid());
            }
            match socket.read_u8().await? {
                SUCCESS => Ok(()),
                FAILURE => Err(AgentError::Refused),
                _ => Err(invalid()),
            }
        };
        let timeout = |_| AgentError::from(io::Error::from(io::ErrorKind::TimedOut));
        tokio::time::timeout(TIMEOUT, exchange).await.map_err(timeout)?
    }
}

fn parse(certificate: &str) -> Result<Certificate, AgentError> {
    Certificate::from_openssh(certificate).map_err(|_| AgentError::Malformed)
}

fn encode(certificate: &Certificate) -> Result<Vec<u8>, AgentError> {
    certificate.encode_vec().map_err(|_| AgentError::Malformed)
}

fn string(message: &mut Vec<u8>, bytes: &[u8]) -> Result<(), AgentError> {
    wire::string(message, bytes).ok_or(AgentError::Malformed)
}

#[cfg(test)]
mod tests;
