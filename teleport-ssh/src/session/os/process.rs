//! A process that runs, and the bytes between it and the client.

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::CANNOT_START;
use super::leader::Leader;
use super::xauth::Told;
use crate::bulk::{self, Buffers, MAX_BATCH};
use crate::scp::{self, ScpCommand};
use crate::session::{
    ExitStatus, FileReporter, OutputClosed, SessionEvent, SessionEvents, SessionInput, SessionOutput,
    TerminalSize,
};
use crate::sftp::{Sftp, Watched};
use crate::sys::child::Exit;
use crate::sys::login_records::LoggedIn;
use crate::sys::pty::{PtyControl, WindowSize};
use crate::sys::signal::Signal;

/// How long a process has between the hang-up and the kill.
const HANG_UP_GRACE: Duration = Duration::from_secs(5);
/// After the program's end its output is read on until nothing has come for so long. Something in the background may hold it
/// open for ever.
const DRAIN_IDLE: Duration = Duration::from_secs(5);
/// The output buffer of a session at the beginning, in bytes. Most sessions print little.
const SMALL_BUFFER: usize = 8 << 10;
/// The output buffer of a session that fills the small one.
const LARGE_BUFFER: usize = 128 << 10;

/// What was started for a session.
pub(super) struct Process {
    pub(super) child: Leader,
    pub(super) control: Option<PtyControl>,
    pub(super) stdin: Box<dyn AsyncWrite + Send + Unpin>,
    pub(super) stdout: Box<dyn AsyncRead + Send + Unpin>,
    pub(super) stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Shown before anything else.
    pub(super) greeting: Bytes,
    /// The cookie of the user's display.
    pub(super) display: Option<Told>,
    /// As long as the session lasts.
    pub(super) _logged_in: Option<LoggedIn>,
}

/// The client has closed the channel.
pub(super) async fn closed(events: &mut SessionEvents) {
    while events.next().await != SessionEvent::Closed {}
}

/// Carries bytes, sizes and signals until the program has ended and its output is told.
pub(super) async fn attend(
    process: Process,
    input: SessionInput,
    output: SessionOutput,
    mut events: SessionEvents,
    watched: Option<&Watched>,
) -> ExitStatus {
    let Process { mut child, control, stdin, stdout, stderr, greeting, _logged_in, .. } = process;
    let terminal = control.is_some();
    let exited = CancellationToken::new();
    let mut typing = std::pin::pin!(feed(input, stdin, terminal, watched));
    let mut showing = std::pin::pin!(async {
        if !greeting.is_empty() {
            output.stdout(greeting).await?;
        }
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

/// Speaks the older protocol of `scp` with the client, with the files of a server that runs as the user.
pub(super) async fn serve_scp(
    process: Process,
    command: &ScpCommand,
    input: SessionInput,
    output: SessionOutput,
    mut events: SessionEvents,
    files: &FileReporter,
) -> ExitStatus {
    let Process { mut child, stdin, stdout, .. } = process;
    let serving = async {
        match Sftp::over(stdout, stdin).await {
            Ok(sftp) => scp::serve(command, input.into_reader(), output, sftp, files).await,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "files cannot be served");
                CANNOT_START
            }
        }
    };
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        code = &mut serving => {
            // Nobody asks it for anything any more, so it ends by itself; or else it is made to.
            if tokio::time::timeout(HANG_UP_GRACE, child.wait()).await.is_err() {
                let _ = child.terminate(HANG_UP_GRACE).await;
            }
            ExitStatus::Code(code)
        }
        () = closed(&mut events) => {
            // It sees so itself, and says what became of the file that was on its way.
            let _ = tokio::time::timeout(HANG_UP_GRACE, serving).await;
            hang_up(child).await
        }
    }
}

async fn hang_up(mut child: Leader) -> ExitStatus {
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

pub(super) fn window(size: TerminalSize) -> WindowSize {
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
