//! Sessions as processes of the operating system's users.

mod leader;
mod process;
mod sockets;
mod xauth;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use teleport_core::access::LoginGrant;
use teleport_core::clock::{Clock, Timestamp};

use self::leader::Leader;
use self::process::{Process, attend, closed, serve_scp, window};
use self::sockets::OsSockets;
use self::xauth::XauthError;
use super::greeting;
use super::{
    ExitStatus, LoginRefused, SessionChannel, SessionKind, SessionOutput, SessionRequest, SessionService,
    Sockets, X11Display,
};
use crate::node::chain;
use crate::pam::{self, Opened, Opening, PamConfig, PamRefusal};
use crate::sftp::Watched;
use crate::sys::accounts::{self, Account, LoginDefs, LoginRules};
use crate::sys::environment::{Connection, Environment, Source, Terminal as TerminalDevice};
use crate::sys::host;
use crate::sys::login_records::{LoggedIn, Login, LoginRecords};
use crate::sys::pty::{Pty, PtyMaster};
use crate::sys::spawn::{Command, Pipes};

/// The exit status when nothing could be started, as shells use it.
const CANNOT_START: u32 = 126;

/// Login shells and commands of the users of this machine, on terminals or pipes.
#[derive(Clone, Debug)]
pub struct OsSessions {
    rules: LoginRules,
    defs: Arc<LoginDefs>,
    clock: Arc<dyn Clock>,
    /// The SFTP server.
    sftp: Option<Program>,
    /// What opens sockets in the file system.
    opener: Option<Program>,
    records: Option<LoginRecords>,
    messages: Vec<PathBuf>,
    /// What PAM is asked, and by which program.
    pam: Option<(PamConfig, Program)>,
}

/// A program with its arguments, of which the first is its name.
type Program = (PathBuf, Vec<Vec<u8>>);

impl OsSessions {
    /// With the system's own rules: expired accounts and `/etc/nologin` are refused, `PATH` comes from `/etc/login.defs`. Sessions
    /// with a terminal are in the system's login records if this process is root's, and their shells begin with the messages of
    /// the day, as `pam_motd` shows them: `/run/motd.dynamic` and `/etc/motd`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            rules: LoginRules::default(),
            defs: Arc::new(LoginDefs::load()),
            clock,
            sftp: None,
            opener: None,
            records: host::is_root().then(LoginRecords::default),
            messages: vec!["/run/motd.dynamic".into(), "/etc/motd".into()],
            pam: None,
        }
    }

    /// With other login records, or none.
    #[must_use]
    pub fn with_login_records(mut self, records: Option<LoginRecords>) -> Self {
        self.records = records;
        self
    }

    /// With the messages of the day in these files, in this order.
    #[must_use]
    pub fn with_messages(mut self, files: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        self.messages = files.into_iter().map(Into::into).collect();
        self
    }

    /// With other rules for accounts.
    #[must_use]
    pub fn with_rules(mut self, rules: LoginRules) -> Self {
        self.rules = rules;
        self
    }

    /// With a program that serves files over its standard input and output, such as one that calls [`crate::sftp::serve`]; it runs
    /// as the user. `arguments` begin with the program's name. Default: files are not served.
    ///
    /// `/proc/self/exe` is this program itself, wherever its file has gone meanwhile.
    #[must_use]
    pub fn with_sftp_server(
        mut self,
        program: impl Into<PathBuf>,
        arguments: impl IntoIterator<Item = impl Into<Vec<u8>>>,
    ) -> Self {
        self.sftp = Some((program.into(), arguments.into_iter().map(Into::into).collect()));
        self
    }

    /// With a program that opens sockets in the file system: one that calls [`crate::opener::serve`] with the arguments that follow
    /// these; it becomes the user by itself. `arguments` begin with the program's name. Default: such sockets, and agents, are not forwarded.
    #[must_use]
    pub fn with_socket_opener(
        mut self,
        program: impl Into<PathBuf>,
        arguments: impl IntoIterator<Item = impl Into<Vec<u8>>>,
    ) -> Self {
        self.opener = Some((program.into(), arguments.into_iter().map(Into::into).collect()));
        self
    }

    /// With PAM asked about each session, by a program that calls [`crate::pam::serve`]; `arguments` begin with its name. It begins and
    /// stays the daemon's user's. The modules of `account` say whether there may be a session, after the rules of this service; those of
    /// `session` are opened before its process starts, which has what they changed, and closed at its end. What modules say is shown on
    /// terminals instead of the messages of the day. Default: PAM is not asked, and its library is not needed.
    ///
    /// # Errors
    /// When PAM cannot be used: this process is not root's, there is no library or no such service.
    pub async fn with_pam(
        mut self,
        config: PamConfig,
        program: impl Into<PathBuf>,
        arguments: impl IntoIterator<Item = impl Into<Vec<u8>>>,
    ) -> Result<Self, PamRefusal> {
        let program = (program.into(), arguments.into_iter().map(Into::into).collect());
        let unusable = |reason: &str| PamRefusal::Unusable { reason: reason.to_owned() };
        if !host::is_root() {
            return Err(unusable("the node does not run as root"));
        }
        let root = accounts::resolve("root", 0, &LoginRules::default()).await;
        let root = root.map_err(|error| unusable(&error.to_string()))?;
        pam::check(&program, config.service(), &root).await?;
        self.pam = Some((config, program));
        Ok(self)
    }

    /// Asks PAM, if it is asked, and opens a session of its.
    async fn open_pam(
        &self,
        grant: &LoginGrant,
        account: &Account,
        client: SocketAddr,
        terminal: Option<&Path>,
    ) -> Result<Option<Opened>, PamRefusal> {
        let Some((config, program)) = &self.pam else { return Ok(None) };
        let opening = Opening {
            service: config.service(),
            account,
            client,
            user: grant.identity.user.as_str(),
            terminal,
            variables: config.variables_for(&grant.identity, grant.login.as_str()),
        };
        pam::open(program, opening).await.map(Some)
    }

    async fn account(&self, grant: &LoginGrant, now: Timestamp) -> Result<Account, Refusal> {
        let seconds = i64::try_from(now.unix_secs()).unwrap_or(i64::MAX);
        Ok(accounts::resolve(grant.login.as_str(), seconds, &self.rules).await?)
    }

    /// `output` is told what the session has to do without.
    async fn start(
        &self,
        grant: &LoginGrant,
        request: &SessionRequest,
        output: &SessionOutput,
    ) -> Result<Process, Refusal> {
        let account = self.account(grant, self.clock.now()).await?;
        let path = self.defs.path_for(account.uid);
        let session = request.id.to_string();
        let host = request.host_id.to_string();
        let original = request.original_command.as_deref().map(String::from_utf8_lossy);
        let mut platform = vec![
            ("SSH_TELEPORT_USER", grant.identity.user.as_str()),
            ("SSH_TELEPORT_LOGIN", grant.login.as_str()),
            ("SSH_SESSION_ID", session.as_str()),
            ("SSH_TELEPORT_HOST_UUID", host.as_str()),
            ("SSH_TELEPORT_CLUSTER_NAME", request.cluster.as_str()),
        ];
        let agent = request.agent_socket.as_deref().map(Path::to_string_lossy);
        if let Some(agent) = &agent {
            platform.push(("SSH_AUTH_SOCK", agent));
        }
        // Whoever serves files shows nothing.
        let serves_files = matches!(request.kind, SessionKind::Scp(_) | SessionKind::Sftp);
        let display = request.display.as_ref().filter(|_| !serves_files);
        let display_name = display.map(X11Display::name);
        if let Some(name) = &display_name {
            platform.push(("DISPLAY", name));
        }
        if let Some(original) = &original {
            platform.push(("SSH_ORIGINAL_COMMAND", original));
        }
        let pty = match &request.terminal {
            Some(terminal) => {
                Some((Pty::open(&account, window(terminal.size), &terminal.modes)?, &terminal.kind))
            }
            None => None,
        };
        let mut source = Source::new(&account, path, &request.env);
        source.platform = &platform;
        source.connection = Some(Connection { client: request.client, server: request.server });
        source.terminal = pty.as_ref().map(|(pty, kind)| TerminalDevice { kind, device: pty.device() });
        let mut environment = Environment::build(&source)?;
        let device = pty.as_ref().map(|(pty, _)| pty.device());
        let mut opened = self.open_pam(grant, &account, request.client, device).await?;
        let mut said = None;
        if let Some(opened) = &mut opened {
            environment.extend(std::mem::take(&mut opened.variables));
            said = Some(lines(&opened.messages));
        }
        let told = match display {
            Some(display) => xauth::tell(&account, &environment, display).await.map(Some),
            None => Ok(None),
        };
        let told = match told {
            Ok(told) => told,
            Err(error) => {
                without_display(&error, output).await;
                environment.remove("DISPLAY");
                None
            }
        };
        let started =
            self.launch(request, &account, environment, pty.map(|(pty, _)| pty), (opened, said)).await;
        match started {
            Ok(process) => Ok(Process { display: told, ..process }),
            Err(refusal) => {
                if let Some(told) = told {
                    told.forget().await;
                }
                Err(refusal)
            }
        }
    }

    /// Starts the process, for which all else stands: `said` is what PAM's modules said, if it was asked.
    async fn launch(
        &self,
        request: &SessionRequest,
        account: &Account,
        environment: Environment,
        pty: Option<Pty>,
        (opened, said): (Option<Opened>, Option<String>),
    ) -> Result<Process, Refusal> {
        let command = match &request.kind {
            SessionKind::Exec(line) => Command::shell_command(account, environment, line)?,
            SessionKind::Shell => Command::login_shell(account, environment)?,
            SessionKind::Scp(_) | SessionKind::Sftp => {
                let (program, arguments) = self.sftp.as_ref().ok_or(Refusal::NoSftp)?;
                // Whoever may begin nothing gets at files neither, as where the shell starts the server.
                if !may_log_in(&account.shell) {
                    return Err(Refusal::NoShell);
                }
                Command::program(account, environment, program, arguments.iter().cloned())?
            }
        };
        Ok(match pty {
            Some(pty) => {
                let login = Login::new(pty.device(), &account.name, request.client);
                // Where PAM is asked, the messages of the day are those of its modules.
                let is_greeted = request.kind == SessionKind::Shell && said.is_none();
                // Before the program, which may ask who is there.
                let (logged_in, greeting) = self.welcome(login, is_greeted, account.home.clone()).await;
                let greeting = said.map_or(greeting, Bytes::from);
                let (child, master) = match opened {
                    None => {
                        let (child, master) = command.spawn_pty(pty).await?;
                        (Leader::Own(child), master)
                    }
                    Some(opened) => {
                        let (master, slave) = pty.into_parts();
                        let master = PtyMaster::new(master)?;
                        (Leader::Pam(opened.start(command, vec![slave]).await?), master)
                    }
                };
                let pid = child.pid();
                let lead = tokio::task::spawn_blocking(move || {
                    let mut logged_in = logged_in;
                    if let Some(logged_in) = &mut logged_in {
                        logged_in.lead_by(pid);
                    }
                    logged_in
                });
                // It fails only when the runtime ends.
                let logged_in = lead.await.unwrap_or_default();
                let control = master.control();
                let (reader, writer) = master.into_split();
                Process {
                    child,
                    control: Some(control),
                    stdin: Box::new(writer),
                    stdout: Box::new(reader),
                    stderr: None,
                    greeting,
                    display: None,
                    _logged_in: logged_in,
                }
            }
            None => {
                let Pipes { theirs, stdin, stdout, stderr } = command.pipes()?;
                let child = match opened {
                    None => Leader::Own(command.spawn_on(theirs).await?),
                    Some(opened) => Leader::Pam(opened.start(command, theirs.into()).await?),
                };
                Process {
                    child,
                    control: None,
                    stdin: Box::new(stdin),
                    stdout: Box::new(stdout),
                    stderr: Some(Box::new(stderr)),
                    greeting: Bytes::new(),
                    display: None,
                    _logged_in: None,
                }
            }
        })
    }

    /// Records a login on a terminal, and finds what its shell begins with.
    async fn welcome(&self, login: Login, is_shell: bool, home: PathBuf) -> (Option<LoggedIn>, Bytes) {
        let Self { records, messages, clock, .. } = self.clone();
        let work = tokio::task::spawn_blocking(move || {
            let logged_in = records.map(|records| records.log_in(login, clock));
            let greeting = if is_shell { greeting::messages(&messages, &home) } else { Bytes::new() };
            (logged_in, greeting)
        });
        // It fails only when the runtime ends, and the session with it.
        work.await.unwrap_or_default()
    }
}

/// Why no process could be started. The texts go to the user, who was let in.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Account(#[from] accounts::AccountError),
    #[error("no environment can be made")]
    Environment(#[from] crate::sys::environment::EnvironmentError),
    #[error("the account's shell lets nobody in")]
    NoShell,
    #[error("files are not served here")]
    NoSftp,
    #[error("this host does not let the login begin a session")]
    Pam(#[from] PamRefusal),
    #[error(transparent)]
    Spawn(#[from] crate::sys::spawn::SpawnError),
    #[error("no terminal can be made")]
    Terminal(#[from] io::Error),
}

#[async_trait]
impl SessionService for OsSessions {
    async fn prepare(&self, grant: &LoginGrant, now: Timestamp) -> Result<(), LoginRefused> {
        self.account(grant, now).await.map(drop).map_err(LoginRefused::new)
    }

    fn offers_sftp(&self) -> bool {
        self.sftp.is_some()
    }

    fn offers_x11(&self) -> Result<(), &'static str> {
        xauth::find().map(drop).ok_or("this node does not forward X11: xauth is not installed on it")
    }

    async fn sockets(
        &self,
        grant: &LoginGrant,
        now: Timestamp,
    ) -> Result<Option<Arc<dyn Sockets>>, LoginRefused> {
        let account = self.account(grant, now).await.map_err(LoginRefused::new)?;
        Ok(Some(Arc::new(OsSockets::new(account, self.opener.clone()))))
    }

    async fn run(&self, grant: LoginGrant, channel: SessionChannel) -> ExitStatus {
        let SessionChannel { request, input, output, mut events, files } = channel;
        let watched = (request.kind == SessionKind::Sftp).then(|| Watched::new(files.clone()));
        let started = tokio::select! {
            started = self.start(&grant, &request, &output) => started,
            () = closed(&mut events) => return ExitStatus::Disconnected,
        };
        match started {
            Ok(mut process) => {
                let display = process.display.take();
                let status = match &request.kind {
                    SessionKind::Scp(command) => {
                        serve_scp(process, command, input, output, events, &files).await
                    }
                    _ => attend(process, input, output, events, watched.as_ref()).await,
                };
                if let Some(watched) = watched {
                    watched.finish().await;
                }
                if let Some(told) = display {
                    told.forget().await;
                }
                status
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    login = %grant.login,
                    session = %request.id,
                    "no process could be started"
                );
                if let Refusal::Pam(PamRefusal::Denied { messages, .. }) = &error {
                    let _ = output.stderr(lines(messages)).await;
                }
                let _ = output.stderr(format!("teleport: {error}\r\n")).await;
                match error {
                    Refusal::Pam(why) => ExitStatus::Refused { reason: chain(&why) },
                    _ => ExitStatus::Code(CANNOT_START),
                }
            }
        }
    }
}

/// What modules of PAM have said, for a terminal.
fn lines(messages: &[String]) -> String {
    let mut text = String::new();
    for line in messages.iter().flat_map(|message| message.lines()) {
        text.push_str(line);
        text.push_str("\r\n");
    }
    text
}

/// Tells the user that programs find no display, and why.
async fn without_display(why: &XauthError, output: &SessionOutput) {
    tracing::warn!(error = why as &dyn std::error::Error, "X11 is not forwarded");
    let _ = output.stderr(format!("teleport: there is no display here: {why}\r\n")).await;
}

/// Whether a shell is one, and not a program that says that there is none.
fn may_log_in(shell: &Path) -> bool {
    shell.file_name().is_none_or(|name| name != "nologin" && name != "false")
}
