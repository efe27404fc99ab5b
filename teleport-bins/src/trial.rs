//! `teleport try`: a whole cluster on loopback, used once as a user would, thrown away.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use teleport_core::api::{AcceptInvite, AuthApi, CreateToken, CreateUser, RecordingApi, RecordingQuery};
use teleport_core::auth::one_time_code;
use teleport_core::entropy::EntropyExt;
use teleport_core::id::{HostRole, NodeName, OsLogin, RoleName, UserName};
use teleport_core::label::Labels;
use teleport_core::recording::{Pace, RecordingInfo};
use teleport_core::secret::SecretString;
use teleport_core::target::DialTarget;
use teleport_ssh::client::openssh::{self, ProxyAddress};
use teleport_ssh::client::terminal::Ending;
use teleport_ssh::client::{LoginInput, Profile, ProfileStore, SessionRequest, SshClient, login};
use teleport_ssh::proxy_web::{WebClient, WebTrust};

use crate::cli::teleport::Try;
use crate::cli::tsh::session::{self, Show};
use crate::config::Settings;
use crate::daemon::{Daemon, Os, secure_process};
use crate::replay::{self, PlayFormat, SKIPPED_IDLE, Source};

const CLUSTER: &str = "try.local";
const NODE: &str = "node";
/// How long each step of a healthy start may take; far more than it does.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs the trial.
///
/// # Errors
/// What went wrong, in one line.
pub(crate) fn main(options: Try) -> Result<ExitCode> {
    crate::cli::start_logging(if options.debug { "debug" } else { "error" }, false, None)?;
    secure_process();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let code = runtime.block_on(async {
        let os = Os::default();
        let login = own_login()?;
        // A signal must not leave a directory full of keys behind, so it does not end this program by itself.
        let mut ending = Ending::listen()?;
        let dir = temporary_directory(&os)?;
        let result = run(&options, dir.clone(), login, os, &mut ending).await;
        clean_up(&dir, options.keep);
        result
    });
    runtime.shutdown_background();
    Ok(ExitCode::from(code?))
}

async fn run(options: &Try, dir: PathBuf, login: OsLogin, os: Os, ending: &mut Ending) -> Result<u8> {
    let trial = tokio::select! {
        trial = Trial::begin(dir, login, os) => trial?,
        code = ending.next() => return Ok(code),
    };
    let result = tokio::select! {
        result = trial.use_it(options) => result,
        code = ending.next() => Ok(code),
    };
    trial.end().await;
    result
}

struct Trial {
    dir: PathBuf,
    cluster: Daemon,
    node: Daemon,
    profile: Profile,
    profiles: ProfileStore,
    login: OsLogin,
    os: Os,
}

impl Trial {
    async fn begin(dir: PathBuf, login: OsLogin, os: Os) -> Result<Self> {
        let settings =
            Settings::cluster_on_loopback(&dir.join("cluster"), NodeName::new("proxy")?, CLUSTER.parse()?);
        let cluster = Daemon::start(settings, os.clone()).await?;
        let admin = cluster.admin().context("the auth service does not run here")?;
        let auth = cluster.auth.context("the auth service does not listen")?;
        let web = cluster.proxy_web.context("the proxy does not listen")?;
        step(&format!("auth service on {auth}, proxy on {web}, data in {}", dir.display()));

        let token = CreateToken {
            roles: vec![HostRole::Node],
            ttl: Some(600),
            uses: Some(1),
            labels: Labels::default(),
            value: None,
        };
        let token = admin.create_token(token).await?;
        let settings = Settings::node_on_loopback(
            &dir.join("node"),
            NodeName::new(NODE)?,
            "env=try".parse()?,
            auth,
            token.token,
            token.ca_pins,
        );
        let node = Daemon::start(settings, os.clone()).await?;
        let address = node.node.context("the node does not listen")?;
        step(&format!("node {NODE:?} on {address} joined with a one-time token and the CA pin"));

        let profile = user_logs_in(&admin, &cluster, web, &login, &os).await?;
        step(&format!(
            "user {:?} accepted an invite and logged in with password and one-time code: certificate for {} until {}",
            profile.user.as_str(),
            login,
            profile.certificates.valid_before
        ));
        let profiles = ProfileStore::at(dir.join("home"));
        profiles.save(&profile)?;
        let trial = Self { dir, cluster, node, profile, profiles, login, os };
        trial.write_helpers()?;
        trial.wait_for_the_node(&admin).await?;
        Ok(trial)
    }

    /// Programs and configuration for a second terminal.
    fn write_helpers(&self) -> Result<()> {
        let program = std::env::current_exe().context("this program does not know where it is")?;
        for name in ["tsh", "tctl"] {
            symlink(&program, self.dir.join(name)).context("cannot link the programs")?;
        }
        let files = self.profiles.openssh_files(&self.profile)?;
        let config = openssh::config(
            self.profile.cluster(),
            &self.profile.ssh_address,
            self.profile.user.as_str(),
            &files,
        )?;
        std::fs::write(self.dir.join("ssh_config"), config).context("cannot write the ssh_config")
    }

    /// The proxy knows a node a moment after the node has announced itself.
    async fn wait_for_the_node(&self, admin: &Arc<dyn AuthApi>) -> Result<()> {
        let wait = async {
            loop {
                if !admin.nodes().await?.is_empty() {
                    return Ok::<(), anyhow::Error>(());
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.context("the node did not announce itself")?
    }

    fn print_how_to_reach_it(&self) {
        let dir = self.dir.display();
        let (login, cluster) = (&self.login, self.profile.cluster());
        eprintln!(
            "\nFrom another terminal, while this one is open:\n\
             \x20 ssh       ssh -F {dir}/ssh_config {login}@{NODE}.{cluster}\n\
             \x20 ssh -J    ssh -F {dir}/ssh_config -J teleport-proxy.{cluster} {login}@{NODE}.{cluster}\n\
             \x20 tsh       TELEPORT_HOME={dir}/home {dir}/tsh ssh {login}@{NODE}\n\
             \x20 tsh       TELEPORT_HOME={dir}/home {dir}/tsh recordings ls\n\
             \x20 tctl      {dir}/tctl --data-dir={dir}/cluster nodes ls\n\
             \x20 tctl      {dir}/tctl --data-dir={dir}/cluster events search\n"
        );
    }

    async fn use_it(&self, options: &Try) -> Result<u8> {
        let interactive = options.command.is_empty() && std::io::stdin().is_terminal();
        if interactive {
            self.print_how_to_reach_it();
        }
        let target: DialTarget = NODE.parse()?;
        let client = SshClient::new(self.profile.credentials(), Arc::clone(&self.os.clock));
        let proxy = client.proxy(&self.profile.ssh_address).await?;
        let node = client.node(proxy, &target, &self.login).await?;
        if interactive {
            eprintln!("You are on the node now; this shell is recorded. `exit` ends it.\n");
        }
        let command = command_line(&options.command);
        let request =
            SessionRequest { command, env: session::environment(|_| false), ..SessionRequest::default() };
        let code = session::run(&node, request, Show::default(), || Ok(())).await?;
        node.disconnect().await;
        if interactive && !options.no_replay {
            self.offer_replay().await?;
        }
        Ok(code)
    }

    async fn offer_replay(&self) -> Result<()> {
        eprint!("\nReplay the recording? [y/N] ");
        std::io::stderr().flush()?;
        let answer = tokio::task::spawn_blocking(|| {
            let mut answer = String::new();
            std::io::stdin().read_line(&mut answer).map(|_| answer)
        });
        if !answer.await??.trim().to_lowercase().starts_with('y') {
            return Ok(());
        }
        let admin = self.cluster.admin().context("the auth service is gone")?;
        let recording = self.own_recording(&admin).await?;
        let api: Arc<dyn RecordingApi> = admin;
        let source = Source::api(api, recording.meta.session).await?;
        eprintln!(
            "[space pauses, ← → move by 10 seconds, 0-9 to a tenth, + - change the speed, q ends it]\n"
        );
        let pace = Pace { speed: 1.0, max_idle: Some(SKIPPED_IDLE) };
        let options = replay::Options { format: PlayFormat::Pty, pace, from: Duration::ZERO };
        replay::play(source, options).await.map(drop)
    }

    /// The recording of the shell that was opened here: the first one with a terminal.
    async fn own_recording(&self, admin: &Arc<dyn AuthApi>) -> Result<RecordingInfo> {
        let wait = async {
            loop {
                let newest_first =
                    admin.recordings(RecordingQuery { limit: 1000, ..RecordingQuery::default() }).await?;
                let shell = |recording: &RecordingInfo| {
                    recording.meta.terminal.is_some() && recording.completed.is_some()
                };
                if let Some(recording) = newest_first.into_iter().rfind(shell) {
                    return Ok::<RecordingInfo, anyhow::Error>(recording);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.context("the recording did not arrive")?
    }

    async fn end(self) {
        let now = std::future::pending();
        self.node.stop(Duration::from_millis(200), now).await;
        let now = std::future::pending();
        self.cluster.stop(Duration::from_millis(200), now).await;
    }
}

fn clean_up(dir: &Path, keep: bool) {
    if keep {
        eprintln!("Kept: {}", dir.display());
        return;
    }
    // After a signal the last file may just be being written; it is gone the second time.
    let removed = std::fs::remove_dir_all(dir).or_else(|_| std::fs::remove_dir_all(dir));
    if let Err(error) = removed {
        eprintln!("{} could not be removed: {error}", dir.display());
    }
}

fn step(text: &str) {
    if std::io::stderr().is_terminal() {
        eprintln!("* {text}");
    }
}

/// The login of whoever runs this: the only one that a node without root can serve.
fn own_login() -> Result<OsLogin> {
    let user =
        nix::unistd::User::from_uid(nix::unistd::geteuid()).context("the own user cannot be looked up")?;
    let Some(user) = user else {
        bail!("the user id {} has no name on this machine", nix::unistd::geteuid())
    };
    OsLogin::new(&user.name).with_context(|| format!("the own user {:?} cannot be a login", user.name))
}

fn temporary_directory(os: &Os) -> Result<PathBuf> {
    let suffix: [u8; 4] = os.entropy.bytes()?;
    let dir = std::env::temp_dir().join(format!("teleport-try-{:08x}", u32::from_be_bytes(suffix)));
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&dir)
        .with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}

/// A user as an administrator makes one, who accepts the invite and logs in: all over the proxy's HTTPS.
async fn user_logs_in(
    admin: &Arc<dyn AuthApi>,
    cluster: &Daemon,
    web: SocketAddr,
    login_name: &OsLogin,
    os: &Os,
) -> Result<Profile> {
    let name = UserName::new(&login_name.as_str().to_lowercase())
        .context("the own user's name cannot be a cluster user")?;
    let roles = ["access", "auditor", "editor"].map(RoleName::new).into_iter().collect::<Result<_, _>>()?;
    let request = CreateUser { name, roles, logins: vec![login_name.clone()], ttl: None };
    let invite = admin.create_user(request).await?;
    let client =
        WebClient::new(web.to_string(), WebTrust::pins(cluster.ca_pins.clone()), Arc::clone(&os.clock));
    let info = client.invite(invite.token.clone()).await?;
    let password: [u8; 16] = os.entropy.bytes()?;
    let password = SecretString::new(format!("{:032x}", u128::from_be_bytes(password)));
    // A code is good once. The one of the step before is still good, so the login need not wait for the next.
    let now = os.clock.now();
    let code = |at| one_time_code(&info.secret, at).context("the second factor cannot be used");
    let before = code(now.saturating_sub(Duration::from_secs(30)))?;
    client
        .accept(&AcceptInvite {
            token: invite.token,
            password: password.clone(),
            code: before,
            client_ip: None,
        })
        .await?;
    let input = LoginInput { user: info.user.to_string(), password, code: code(now)?, ttl: None };
    let address = ProxyAddress::parse(&web.to_string())?;
    Ok(login(&client, address, input, &*os.clock, &*os.entropy).await?)
}

/// What the node's shell is to run: a single word is a line for it, several are a program and its arguments as they stand.
fn command_line(words: &[String]) -> Option<String> {
    match words {
        [] => None,
        [line] => Some(line.clone()),
        words => Some(words.iter().map(|word| openssh::shell_quote(word)).collect::<Vec<_>>().join(" ")),
    }
}
