//! What a proxy says of its clients.

use std::net::SocketAddr;
use std::sync::Arc;

use data_encoding::BASE64;
use teleport_core::clock::Clock;
use teleport_core::entropy::{Entropy, EntropyError, EntropyExt as _};
use teleport_core::origin::{Audience, Malformed, Nonce, Statement};

use crate::identity::HostIdentityHandle;

/// Nothing can be said of a client; then it is not carried.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CannotState {
    #[error("a client's address cannot be stated: this host's certificate is malformed")]
    Certificate(#[from] Malformed),
    #[error("a client's address cannot be stated")]
    Entropy(#[from] EntropyError),
    #[error("a client's address cannot be stated: this host's key cannot sign")]
    Key,
}

/// Makes statements with the newest identity of a proxy.
#[derive(Clone, Debug)]
pub(crate) struct OriginSigner {
    identity: HostIdentityHandle,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl OriginSigner {
    pub(crate) fn new(
        identity: HostIdentityHandle,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        Self { identity, clock, entropy }
    }

    /// The first bytes of a connection that carries a client at `client` to `audience`: to be sent at once, and once.
    pub(crate) fn header(&self, client: SocketAddr, audience: Audience) -> Result<Vec<u8>, CannotState> {
        let material = self.identity.current();
        let certificate = material.ssh_certificate.split_ascii_whitespace().nth(1);
        let certificate = certificate.and_then(|base64| BASE64.decode(base64.as_bytes()).ok());
        let statement = Statement::new(client, audience, self.clock.now(), Nonce::new(self.entropy.bytes()?));
        let mut header = statement.unsigned(&certificate.unwrap_or_default())?;
        let signature = material.ssh.sign(&header).ok_or(CannotState::Key)?;
        header.extend(signature);
        Ok(header)
    }
}
