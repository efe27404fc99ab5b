//! What the commands of `tsh` share.

use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use clap::builder::FalseyValueParser;
use teleport_core::api::Ping;
use teleport_core::clock::{Clock, SystemClock};
use teleport_core::entropy::{Entropy, SystemEntropy};
use teleport_ssh::client::openssh::ProxyAddress;
use teleport_ssh::client::{
    IdentityFile, Notice, Profile, ProfileStore, ProxyAddresses, Resumption, SshClient, ssh_address,
};
use teleport_ssh::proxy_web::{WebClient, WebError, WebTrust};
use teleport_ssh::rpc::AuthClient;

use super::super::{sanitize, user};

/// Where logins are, and which proxy is meant.
pub(super) struct Context {
    pub(super) profiles: ProfileStore,
    pub(super) proxy: Option<ProxyAddress>,
    /// Who is meant instead of whoever is logged in, and from which file that is.
    pub(super) identity: Option<(PathBuf, Profile)>,
    /// Whether this process is the background of another one.
    pub(super) in_background: bool,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
    /// Of all connections to nodes that can be resumed.
    pub(super) resumption: Resumption,
}

impl Context {
    pub(super) fn new(home: Option<PathBuf>, proxy: Option<String>) -> Result<Self> {
        let home = user::home(home)?;
        let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy::new());
        Ok(Self {
            profiles: ProfileStore::at(home),
            proxy: proxy.as_deref().map(user::parse_proxy).transpose()?,
            identity: None,
            in_background: false,
            clock: Arc::new(SystemClock::new()),
            resumption: Resumption::new(Arc::clone(&entropy), |notice| tell(&notice)),
            entropy,
        })
    }

    /// Whoever the file says is meant, whoever is logged in. Where the proxy's SSH is, the proxy is asked if the file does not know.
    pub(super) async fn use_identity(&mut self, path: PathBuf) -> Result<()> {
        let identity = IdentityFile::read(&path)?;
        let proxy = match (&self.proxy, &identity.proxy) {
            (None, Some(known)) => known.clone(),
            (Some(asked), Some(known)) if *asked == known.web => known.clone(),
            (Some(asked), _) => self.ask_proxy(asked.clone(), &identity).await?,
            (None, None) => {
                bail!(
                    "the identity file {} does not say where the proxy is: say --proxy=<host>",
                    path.display()
                )
            }
        };
        self.identity = Some((path, identity.into_profile(proxy)));
        Ok(())
    }

    async fn ask_proxy(&self, web: ProxyAddress, identity: &IdentityFile) -> Result<ProxyAddresses> {
        let trust = WebTrust::bundle(identity.trust.clone());
        let client = WebClient::new(web.to_authority(), trust, Arc::clone(&self.clock));
        let ping = match client.ping().await {
            Ok(ping) => ping,
            // It may have a public HTTPS certificate. It is a hint only: the SSH server must prove that it is a proxy of the cluster.
            Err(WebError::Untrusted { .. }) => Ping {
                cluster_name: identity.trust.cluster.clone(),
                server_version: String::new(),
                second_factor: String::new(),
                proxy_ssh_address: None,
                proxy_tunnel_address: None,
            },
            Err(error) => return Err(error.into()),
        };
        let ssh = ssh_address(&ping, &web)?;
        Ok(ProxyAddresses { web, ssh })
    }

    /// The login that is meant, valid or not.
    pub(super) fn any_profile(&self) -> Result<Profile> {
        if let Some((_, profile)) = &self.identity {
            return Ok(profile.clone());
        }
        match self.profiles.load(self.proxy.as_ref())? {
            Some(profile) => Ok(profile),
            None => bail!("not logged in; run: tsh login --proxy=<host> --user=<name>"),
        }
    }

    /// The login that is meant, and still valid.
    pub(super) fn profile(&self) -> Result<Profile> {
        let profile = self.any_profile()?;
        if profile.is_valid(self.clock.now()) {
            return Ok(profile);
        }
        match &self.identity {
            Some((path, profile)) => Err(user::over(path, profile.certificates.valid_before)),
            None => bail!(
                "your certificate has expired; run: tsh login --proxy={} --user={}",
                profile.web_address.to_authority(),
                profile.user
            ),
        }
    }

    /// The auth service, by way of the proxy and as the user.
    pub(super) fn api(&self, profile: &Profile) -> AuthClient {
        user::auth_client(profile, &profile.web_address.to_authority(), Arc::clone(&self.clock))
    }

    /// SSH as the user, over connections that end when they break.
    pub(super) fn ssh_once(&self, profile: &Profile) -> SshClient {
        SshClient::new(profile.credentials(), Arc::clone(&self.clock))
    }

    /// SSH as the user.
    pub(super) fn ssh(&self, profile: &Profile, resume: &Resume) -> SshClient {
        let client = self.ssh_once(profile);
        if resume.no_resume { client } else { client.with_resumption(self.resumption.clone()) }
    }
}

/// Whether connections to nodes are resumed when they break.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Resume {
    /// End when the connection breaks, instead of resuming it
    #[arg(long, env = "TELEPORT_NO_RESUME", value_parser = FalseyValueParser::new(), hide_env_values = true)]
    no_resume: bool,
}

/// Says what happens to a connection. The terminal may be one that makes no lines by itself.
fn tell(notice: &Notice) {
    use std::io::IsTerminal as _;
    let end = if std::io::stderr().is_terminal() { "\r\n" } else { "\n" };
    let text = match notice {
        Notice::Lost { node, why } => {
            let ends = if is_raw() { "~. ends" } else { "Ctrl-C ends" };
            format!(
                "the connection to {} was lost ({}): trying to resume it; {ends}",
                sanitize(node),
                sanitize(why)
            )
        }
        Notice::Resumed { node } => format!("the connection to {} goes on", sanitize(node)),
        _ => return,
    };
    let start = if end == "\n" { "" } else { end };
    eprint!("{start}tsh: {text}{end}");
}

/// Whether a session has the terminal, so that Ctrl-C is for its program.
fn is_raw() -> bool {
    use nix::sys::termios::{LocalFlags, tcgetattr};
    tcgetattr(std::io::stdin()).is_ok_and(|terminal| !terminal.local_flags.contains(LocalFlags::ISIG))
}

/// Makes the standard streams wait until there is room, as writes of this program expect. Whoever starts it as rsync does hands over
/// streams that answer that there is none.
///
/// # Errors
/// Those of the system.
pub(super) fn streams_wait() -> Result<()> {
    use nix::errno::Errno;
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    for stream in [std::io::stdin().as_fd(), std::io::stdout().as_fd(), std::io::stderr().as_fd()] {
        let flags = match fcntl(stream, FcntlArg::F_GETFL) {
            Ok(flags) => OFlag::from_bits_retain(flags),
            // It was started without.
            Err(Errno::EBADF) => continue,
            Err(error) => return Err(error.into()),
        };
        if flags.contains(OFlag::O_NONBLOCK) {
            fcntl(stream, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
        }
    }
    Ok(())
}

/// Asks for a secret on the terminal, without echo; reads a line of standard input where there is no terminal.
pub(super) fn ask_secret(prompt: &str) -> Result<teleport_core::secret::SecretString> {
    use std::io::{BufRead, IsTerminal};
    let answer = if std::io::stdin().is_terminal() {
        rpassword::prompt_password(prompt).context("nothing could be read")?
    } else {
        let mut line = String::new();
        let read = std::io::stdin().lock().read_line(&mut line).context("nothing could be read")?;
        if read == 0 {
            bail!(
                "standard input ended where an answer was expected: {}",
                prompt.trim_end_matches([':', ' '])
            );
        }
        line.trim_end_matches(['\n', '\r']).to_owned()
    };
    Ok(answer.into())
}
