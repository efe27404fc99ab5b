//! Logging in: keys made here, certificates from the cluster, everything checked before it is kept.

use teleport_core::api::{ApiError, LoginRequest, LoginResponse, Ping, PublicApi};
use teleport_core::cert::{CertRejected, SubjectKeys, UserCheck};
use teleport_core::clock::Clock;
use teleport_core::entropy::Entropy;
use teleport_core::secret::SecretString;

use super::openssh::{ConfigError, ProxyAddress};
use super::profile::Profile;
use crate::authn;
use crate::keys::{KeyError, SshKeyPair, TlsKeyPair};

/// The port of a proxy's SSH server, where the proxy does not say.
const DEFAULT_SSH_PORT: u16 = 3023;

/// Why nobody was logged in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoginError {
    /// The cluster said no, or cannot be reached.
    #[error(transparent)]
    Api(ApiError),
    /// What came back is not a certificate for the keys that were sent.
    #[error("the cluster answered with a certificate that is not usable: {reason}")]
    Certificate {
        /// Why.
        reason: CertRejected,
    },
    /// No keys could be made.
    #[error("no keys can be made")]
    Keys {
        /// The reason.
        source: KeyError,
    },
    /// The proxy named an address for SSH that is none.
    #[error("the proxy does not say where its SSH server is")]
    SshAddress {
        /// The reason.
        source: ConfigError,
    },
}

/// What a user types.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "callers build it")]
pub struct LoginInput {
    /// The name.
    pub user: String,
    /// The password.
    pub password: SecretString,
    /// The one-time code.
    pub code: SecretString,
    /// How long the certificates should be valid, in seconds.
    pub ttl: Option<u64>,
}

/// Logs in at a proxy. `api` is its HTTPS; `web_address` is how it was reached, and names the profile.
///
/// Dropping the future may leave a login behind that nobody uses: its keys are gone with it.
///
/// # Errors
/// [`LoginError`].
pub async fn login(
    api: &dyn PublicApi,
    web_address: ProxyAddress,
    input: LoginInput,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
) -> Result<Profile, LoginError> {
    let ping = api.ping().await.map_err(LoginError::Api)?;
    let ssh_address = ssh_address(&ping, &web_address)?;
    let failed = |source| LoginError::Keys { source };
    let ssh = SshKeyPair::generate(entropy).map_err(failed)?;
    let tls = TlsKeyPair::generate(entropy).map_err(failed)?;
    let LoginInput { user, password, code, ttl } = input;
    let keys = SubjectKeys { ssh: ssh.public(), tls: tls.public() };
    let request = LoginRequest { user, password, code, keys, ttl, client_ip: None };
    let response = api.login(request).await.map_err(LoginError::Api)?;
    check(&response, &ssh, clock)?;
    let LoginResponse { user, roles, logins, certificates, trust } = response;
    Ok(Profile { web_address, ssh_address, user, roles, logins, ssh, tls, certificates, trust })
}

/// Where the proxy's SSH server is: where it says, at the host that the user named.
///
/// # Errors
/// [`LoginError::SshAddress`].
pub fn ssh_address(ping: &Ping, web_address: &ProxyAddress) -> Result<ProxyAddress, LoginError> {
    let Some(announced) = &ping.proxy_ssh_address else {
        return Ok(ProxyAddress { host: web_address.host.clone(), port: DEFAULT_SSH_PORT });
    };
    let mut address = ProxyAddress::parse(announced).map_err(|source| LoginError::SshAddress { source })?;
    // A proxy that listens everywhere does not know how it is called from outside.
    if address.host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_unspecified()) {
        address.host.clone_from(&web_address.host);
    }
    Ok(address)
}

/// A mistake of the cluster shows here and not at the first connection.
fn check(response: &LoginResponse, ssh: &SshKeyPair, clock: &dyn Clock) -> Result<(), LoginError> {
    let wrong = |reason| LoginError::Certificate { reason };
    let certificate = ssh_key::Certificate::from_openssh(&response.certificates.ssh)
        .map_err(|_| wrong(CertRejected::Malformed))?;
    let fields = authn::parse(&certificate).map_err(wrong)?;
    if fields.subject != ssh.public() {
        return Err(wrong(CertRejected::Name));
    }
    let check = UserCheck { login: None, peer: None, now: clock.now() };
    match teleport_core::cert::verify_user(&fields, &response.trust, check) {
        Ok(_) | Err(CertRejected::SourceAddress) => Ok(()),
        Err(reason) => Err(wrong(reason)),
    }
}
