//! Sessions as processes of the operating system's users.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use teleport_core::access::LoginGrant;
use teleport_core::clock::{Clock, Timestamp};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::{
    ExitStatus, LoginRefused, OutputClosed, SessionChannel, SessionEvent, SessionEvents, SessionInput,
    SessionKind, SessionOutput, SessionRequest, SessionService, TerminalSize,
};
use crate::bulk::{self, Buffers, MAX_BATCH};
use crate::sftp::Watched;
use crate::sys::accounts::{self, Account, LoginDefs, LoginRules};
use crate::sys::child::{Child, Exit};
use crate::sys::environment::{Connection, Environment, Source, Terminal as TerminalDevice};
use crate::sys::pty::{Pty, PtyControl, WindowSize};
use crate::sys::signal::Signal;
use crate::sys::spawn::Command;

/// How long a process has between the hang-up and the kill.
const HANG_UP_GRACE: Duration = Duration::from_secs(5);
/// After the program's end its output is read on until nothing has come for so long. Something in the background may hold it
/// open for ever.
const DRAIN_IDLE: Duration = Duration::from_secs(5);
/// The exit status when nothing could be started, as shells use it.
const CANNOT_START: u32 = 126;

/// The output buffer of a session at the beginning, in bytes. Most sessions print little.
const SMALL_BUFFER: usize = 8 << 10;
/// The output buffer of a session that fills the small one.
const LARGE_BUFFER: usize = 128 << 10;

/// Login shells and commands of the users of this machine, on terminals or pipes.
#[derive(Clone, Debug)]
pub struct OsSessions {
    rules: LoginRules,
    defs: Arc<LoginDefs>,
    clock: Arc<dyn Clock>,
    /// The SFTP server with its arguments, of which the first is its name.
    sftp: Option<(PathBuf, Vec<Vec<u8>>)>,
}

impl OsSessions {
    /// With the system's own rules: expired accounts and `/etc/nologin` are refused, `PATH` comes from `/etc/login.defs`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { rules: LoginRules::default(), defs: Arc::new(LoginDefs::load()), clock, sftp: None }
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

    async fn account(&self, grant: &LoginGrant, now: Timestamp) -> Result<Account, Refusal> {
        let seconds = i64::try_from(now.unix_secs()).unwrap_or(i64::MAX);
        Ok(accounts::resolve(grant.login.as_str(), seconds, &self.rules).await?)
    }

    async fn start(&self, grant: &LoginGrant, request: &SessionRequest) -> Result<Process, Refusal> {
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
        let environment = Environment::build(&source)?;
        let command = match &request.kind {
            SessionKind::Exec(line) => Command::shell_command(&account, environment, line)?,
            SessionKind::Shell => Command::login_shell(&account, environment)?,
            SessionKind::Sftp => {
                let (program, arguments) = self.sftp.as_ref().ok_or(Refusal::NoSftp)?;
                // Whoever may begin nothing gets at files neither, as where the shell starts the server.
                if !may_log_in(&account.shell) {
                    return Err(Refusal::NoShell);
                }
                Command::program(&account, environment, program, arguments.iter().cloned())?
            }
        };
        Ok(match pty {
            Some((pty, _)) => {
                let (child, master) = command.spawn_pty(pty).await?;
                let control = master.control();
                let (reader, writer) = master.into_split();
                Process {
                    child,
                    control: Some(control),
                    stdin: Box::new(writer),
                    stdout: Box::new(reader),
                    stderr: None,
                }
            }
            None => {
                let piped = command.spawn_piped().await?;
                Process {
                    child: piped.child,
                    control: None,
                    stdin: Box::new(piped.stdin),
                    stdout: Box::new(piped.stdout),
                    stderr: Some(Box::new(piped.stderr)),
                }
            }
        })
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
    #[error(transparent)]
    Spawn(#[from] crate::sys::spawn::SpawnError),
    #[error("no terminal can be made")]
    Terminal(#[from] io::Error),
}

struct Process {
    child: Child,
    control: Option<PtyControl>,
    stdin: Box<dyn AsyncWrite + Send + Unpin>,
    stdout: Box<dyn AsyncRead + Send + Unpin>,
    stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
}

#[async_trait]
impl SessionService for OsSessions {
    async fn prepare(&self, grant: &LoginGrant, now: Timestamp) -> Result<(), LoginRefused> {
        self.account(grant, now).await.map(drop).map_err(LoginRefused::new)
    }

    fn offers_sftp(&self) -> bool {
        self.sftp.is_some()
    }

    async fn run(&self, grant: LoginGrant, channel: SessionChannel) -> ExitStatus {
        let SessionChannel { request, input, output, mut events, files } = channel;
        let watched = (request.kind == SessionKind::Sftp).then(|| Watched::new(files));
        let started = tokio::select! {
            started = self.start(&grant, &request) => started,
            () = closed(&mut events) => return ExitStatus::Disconnected,
        };
        match started {
            Ok(process) => {
                let status = attend(process, input, output, events, watched.as_ref()).await;
                if let Some(watched) = watched {
                    watched.finish().await;
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
                let _ = output.stderr(format!("teleport: {error}\r\n")).await;
                ExitStatus::Code(CANNOT_START)
            }
        }
    }
}

/// Whether a shell is one, and not a program that says that there is none.
fn may_log_in(shell: &Path) -> bool {
    shell.file_name().is_none_or(|name| name != "nologin" && name != "false")
}

async fn closed(events: &mut SessionEvents) {
    while events.next().await != SessionEvent::Closed {}
}

/// Carries bytes, sizes and signals until the program has ended and its output is told.
async fn attend(
    process: Process,
    input: SessionInput,
    output: SessionOutput,
    mut events: SessionEvents,
    watched: Option<&Watched>,
) -> ExitStatus {
    let Process { mut child, control, stdin, stdout, stderr } = process;
    let terminal = control.is_some();
    let exited = CancellationToken::new();
    let mut typing = std::pin::pin!(feed(input, stdin, terminal, watched));
    let mut showing = std::pin::pin!(async {
        // Until both have ended, or one of them may not be shown any more.
        let both = tokio::try_join!(show(stdout, &output, false, &exited, watched), async {
            match stderr {
                Some(stderr) => show(stderr, &output, true, &exited, None).await,
                None => Ok(()),
            }
        });
        both.map(|_| ())
    });
    let (mut shown, mut fed) = (false, false);
    let exit = loop {
        tokio::select! {
            ended = child.wait() => break ended,
            told = &mut showing, if !shown => match told {
                Ok(()) => shown = true,
                // Nobody to show it to, or nobody may be shown it: as if the client had gone.
                Err(_) => return hang_up(child).await,
            },
            () = &mut typing, if !fed => fed = true,
            event = events.next() => match event {
                SessionEvent::Closed => return hang_up(child).await,
                SessionEvent::Resize(size) => {
                    if let Some(control) = &control {
                        // Fails only when the terminal is gone, and then the session is about to end.
                        let _ = control.resize(window(size));
                    }
                }
                SessionEvent::Signal(name) => {
                    if let Some(signal) = Signal::from_ssh_name(&name) {
                        let _ = child.signal_group(signal);
                    }
                }
            },
        }
    };
    exited.cancel();
    if !shown {
        tokio::select! {
            _ = &mut showing => {}
            () = closed(&mut events) => {}
        }
    }
    match exit {
        Ok(exit) => status(exit),
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "the end of a process is not known");
            ExitStatus::Code(255)
        }
    }
}

async fn hang_up(mut child: Child) -> ExitStatus {
    let _ = child.terminate(HANG_UP_GRACE).await;
    ExitStatus::Disconnected
}

fn status(exit: Exit) -> ExitStatus {
    match exit {
        Exit::Code(code) => ExitStatus::Code(code.into()),
        Exit::Signal { signal, core_dumped } => {
            ExitStatus::Signal { name: signal.ssh_name().to_owned(), core_dumped }
        }
    }
}

fn window(size: TerminalSize) -> WindowSize {
    WindowSize::from_client(size.columns, size.rows, size.width, size.height)
}

/// Types what the client sends. The end of the input closes a pipe; a terminal stays open, as it has other ends.
async fn feed(
    mut input: SessionInput,
    mut stdin: Box<dyn AsyncWrite + Send + Unpin>,
    terminal: bool,
    watched: Option<&Watched>,
) {
    let mut batch = Vec::with_capacity(MAX_BATCH);
    while let Some(data) = input.next().await {
        batch.push(data);
        while batch.len() < MAX_BATCH
            && let Some(Some(data)) = input.next().now_or_never()
        {
            batch.push(data);
        }
        if let Some(watched) = watched {
            watched.client(&batch);
        }
        if bulk::write_all(&mut stdin, &mut batch).await.is_err() {
            // The program does not read any more; what else comes is thrown away.
            break;
        }
    }
    // What else comes is thrown away: it must not wait for somebody to take it.
    drop(input);
    if terminal {
        // Letting go of the terminal would hang up.
        std::future::pending::<()>().await;
    }
}

/// Shows what comes until it ends, or pauses for too long after the program's end.
async fn show(
    mut from: Box<dyn AsyncRead + Send + Unpin>,
    output: &SessionOutput,
    stderr: bool,
    exited: &CancellationToken,
    watched: Option<&Watched>,
) -> Result<(), OutputClosed> {
    let mut buffers = Buffers::new(SMALL_BUFFER, LARGE_BUFFER);
    loop {
        let read = tokio::select! {
            biased;
            read = from.read_buf(buffers.current()) => read,
            () = silence(exited) => return Ok(()),
        };
        if let Ok(0) | Err(_) = read {
            return Ok(());
        }
        let data = buffers.take();
        if let Some(watched) = watched {
            watched.server(&data).await;
        }
        if stderr {
            output.stderr(data).await?;
        } else {
            output.stdout(data).await?;
        }
    }
}

/// Too long a pause, counted from the program's end or from now, whichever is later.
async fn silence(exited: &CancellationToken) {
    exited.cancelled().await;
    tokio::time::sleep(DRAIN_IDLE).await;
}
