//! The cookie of a forwarded display, where programs look for it: `xauth` of the user puts it there, and takes it away in the end.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

use crate::session::X11Display;
use crate::sys::accounts::Account;
use crate::sys::child::{Child, Exit};
use crate::sys::environment::Environment;
use crate::sys::spawn::{Command, SpawnError};

/// Where it is looked for: as programs of distributions lie.
const PLACES: [&str; 4] =
    ["/usr/bin/xauth", "/usr/local/bin/xauth", "/usr/X11R6/bin/xauth", "/opt/X11/bin/xauth"];
/// How long it may take: it waits for whoever writes the same file.
const LIMIT: Duration = Duration::from_secs(10);
/// How long the end of a session waits for it.
const END_LIMIT: Duration = Duration::from_secs(2);

/// Why the programs of a session are not told the cookie.
#[derive(Debug, thiserror::Error)]
pub(super) enum XauthError {
    #[error("xauth has ended without success")]
    Failed,
    #[error("xauth is not there any more")]
    Gone,
    #[error("xauth cannot be told the cookie")]
    Pipe(#[from] io::Error),
    #[error("xauth cannot be started")]
    Start(#[from] SpawnError),
    #[error("xauth has not ended in time: somebody else may hold its file (.Xauthority) locked")]
    Timeout,
}

/// Where `xauth` is, if it is anywhere.
pub(super) fn find() -> Option<PathBuf> {
    PLACES.iter().map(Path::new).find(|path| path.is_file()).map(Path::to_owned)
}

/// A cookie that was put where the user's programs look for it.
#[derive(Debug)]
pub(super) struct Told {
    account: Account,
    environment: Environment,
    display: String,
}

/// Tells the cookie to the programs of `account` that find displays by `environment`.
///
/// # Errors
/// [`XauthError`], after [`LIMIT`] at the latest.
pub(super) async fn tell(
    account: &Account,
    environment: &Environment,
    display: &X11Display,
) -> Result<Told, XauthError> {
    let (name, auth) = (display.local_name(), display.auth());
    // On its standard input, for every user of the machine sees what a command line says.
    let lines = Zeroizing::new(format!(
        "remove {name}\nadd {name} {protocol} {cookie}\n",
        protocol = auth.protocol(),
        cookie = auth.cookie().expose(),
    ));
    run(account, environment.clone(), &lines, LIMIT).await?;
    Ok(Told { account: account.clone(), environment: environment.clone(), display: name })
}

impl Told {
    /// Takes it away, while nobody else can have the display.
    pub(super) async fn forget(self) {
        let lines = format!("remove {}\n", self.display);
        if let Err(error) = run(&self.account, self.environment, &lines, END_LIMIT).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "the cookie of a display stays");
        }
    }
}

async fn run(
    account: &Account,
    environment: Environment,
    lines: &str,
    limit: Duration,
) -> Result<(), XauthError> {
    let program = find().ok_or(XauthError::Gone)?;
    let command = Command::program(account, environment, &program, ["xauth", "-q", "-"])?;
    // What there is to say has room in a pipe, so that nobody waits for anybody.
    let (stdin, mut ours) = io::pipe()?;
    ours.write_all(lines.as_bytes())?;
    drop(ours);
    let mut running = Running(Some(command.spawn_with(stdin.into()).await?));
    match tokio::time::timeout(limit, running.wait()).await.map_err(|_| XauthError::Timeout)?? {
        Exit::Code(0) => Ok(()),
        _ => Err(XauthError::Failed),
    }
}

/// One that runs. Whoever kills it may leave the file locked for everybody after it; and it gives up by itself.
struct Running(Option<Child>);

impl Running {
    async fn wait(&mut self) -> io::Result<Exit> {
        match &mut self.0 {
            Some(child) => child.wait().await,
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = self.0.take() {
            child.let_go();
        }
    }
}
