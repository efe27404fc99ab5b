//! The running `ssh-agent`, which may hold the user's certificate for as long as it is valid.
//!
//! Written here because the SSH library's agent client adds plain keys only. The protocol is draft-ietf-sshm-ssh-agent; the
//! socket is the user's own, so what it answers is bounded but otherwise believed.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ssh_key::Certificate;
use ssh_key::encoding::Encode;
use ssh_key::private::KeypairData;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use zeroize::Zeroizing;

use crate::keys::SshKeyPair;

const REMOVE_IDENTITY: u8 = 18;
const ADD_IDENTITY_CONSTRAINED: u8 = 25;
const CONSTRAIN_LIFETIME: u8 = 1;
const SUCCESS: u8 = 6;
/// Answers to what we ask are one byte; an agent that says more is cut off.
const MAX_ANSWER: u32 = 256 * 1024;
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
            let len = socket.read_u32().await?;
            if len == 0 || len > MAX_ANSWER {
                return Err(io::Error::from(io::ErrorKind::InvalidData).into());
            }
            match socket.read_u8().await? {
                SUCCESS => Ok(()),
                _ => Err(AgentError::Refused),
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
    let len = u32::try_from(bytes.len()).map_err(|_| AgentError::Malformed)?;
    message.extend_from_slice(&len.to_be_bytes());
    message.extend_from_slice(bytes);
    Ok(())
}
