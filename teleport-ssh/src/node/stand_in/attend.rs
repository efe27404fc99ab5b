//! One session on the server: asked for as the client asked, carried until its end.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use russh::client::Msg;
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Pty, Sig};
use teleport_core::access::LoginGrant;

use super::far::{Far, NotConnected};
use super::lease::Leased;
use crate::scp::{self, ScpCommand};
use crate::session::{
    ExitStatus, FileReporter, OutputClosed, SessionChannel, SessionEvent, SessionEvents, SessionInput,
    SessionKind, SessionOutput, SessionRequest,
};
use crate::sftp::{Sftp, Watched};

const STDERR: u32 = 1;
/// The exit status of what ended without one, as `ssh` has it.
const LOST: u32 = 255;
/// The exit status when files cannot be served.
const CANNOT_START: u32 = 126;
/// How long the server may take to say whether it runs what was asked for.
const BEGIN_LIMIT: Duration = Duration::from_secs(60);
const SILENT: NotConnected = NotConnected::Refused("the SSH server of this node does not answer");

/// Runs a session to its end.
///
/// # Errors
/// [`NotConnected`]: nothing was begun.
pub(super) async fn run(
    far: &Arc<Far>,
    grant: &LoginGrant,
    channel: SessionChannel,
) -> Result<ExitStatus, NotConnected> {
    let SessionChannel { request, input, output, mut events, files } = channel;
    let beginning = async {
        let (mut there, leased) = far.session(grant).await?;
        tokio::time::timeout(BEGIN_LIMIT, begin(&mut there, &request)).await.map_err(|_| SILENT)??;
        Ok::<_, NotConnected>((there, leased))
    };
    // Whatever is not brought to its end below takes its connection with it: nothing is left with the server.
    let (there, leased) = tokio::select! {
        there = beginning => there?,
        () = closed(&mut events) => return Ok(ExitStatus::Disconnected),
    };
    Ok(match &request.kind {
        SessionKind::Scp(command) => serve_scp(there, command, input, output, events, &files).await,
        SessionKind::Sftp => {
            let watched = Watched::new(files);
            let status = attend(there, leased, input, output, events, Some(&watched)).await;
            watched.finish().await;
            status
        }
        _ => attend(there, leased, input, output, events, None).await,
    })
}

/// The client has closed the channel.
async fn closed(events: &mut SessionEvents) {
    while events.next().await != SessionEvent::Closed {}
}

/// Asks for what the client asked for.
async fn begin(there: &mut Channel<Msg>, request: &SessionRequest) -> Result<(), NotConnected> {
    let gone =
        |_: russh::Error| NotConnected::Refused("the SSH server of this node has ended the connection");
    for (name, value) in request.env.iter() {
        // The server takes it or not, and need not say.
        there.set_env(false, name, value).await.map_err(gone)?;
    }
    if let Some(terminal) = &request.terminal {
        let modes: Vec<(Pty, u32)> = terminal
            .modes
            .iter()
            .filter_map(|(code, value)| Pty::from_u8(code).map(|code| (code, value)))
            .collect();
        let size = terminal.size;
        there
            .request_pty(true, &terminal.kind, size.columns, size.rows, size.width, size.height, &modes)
            .await
            .map_err(gone)?;
        answer(there, "the SSH server of this node gives no terminal").await?;
    }
    match &request.kind {
        SessionKind::Exec(line) => there.exec(true, line.clone()).await,
        SessionKind::Shell => there.request_shell(true).await,
        SessionKind::Scp(_) | SessionKind::Sftp => there.request_subsystem(true, "sftp").await,
    }
    .map_err(gone)?;
    let refused = match &request.kind {
        SessionKind::Scp(_) | SessionKind::Sftp => "the SSH server of this node serves no files",
        _ => "the SSH server of this node does not run it",
    };
    answer(there, refused).await
}

async fn answer(there: &mut Channel<Msg>, refused: &'static str) -> Result<(), NotConnected> {
    loop {
        match there.wait().await {
            Some(ChannelMsg::Success) => return Ok(()),
            None | Some(ChannelMsg::Failure | ChannelMsg::Close) => {
                return Err(NotConnected::Refused(refused));
            }
            // Windows may be adjusted at any time; output cannot come before the answer.
            Some(_) => {}
        }
    }
}

/// Carries bytes, sizes and signals until the program has ended and its output is told.
async fn attend(
    there: Channel<Msg>,
    leased: Leased,
    input: SessionInput,
    output: SessionOutput,
    mut events: SessionEvents,
    watched: Option<&Watched>,
) -> ExitStatus {
    let (from, to) = there.split();
    let closing = events.closing();
    let mut fed = false;
    // Each of them may have to wait for another: as long as nothing is shown, the server's side takes neither input nor events.
    let mut typing = std::pin::pin!(feed(input, &to, watched));
    let mut showing = std::pin::pin!(show(from, &output, watched));
    let mut telling = std::pin::pin!(tell(&mut events, &to));
    loop {
        tokio::select! {
            shown = &mut showing => match shown {
                Ok((status, ended)) => {
                    if ended {
                        leased.give_back();
                    }
                    return status;
                }
                // Nobody to show it to, or nobody may be shown it: as if the client had gone.
                Err(_) => return ExitStatus::Disconnected,
            },
            () = &mut typing, if !fed => fed = true,
            () = &mut telling => return ExitStatus::Disconnected,
            () = closing.cancelled() => return ExitStatus::Disconnected,
        }
    }
}

/// Tells of sizes and signals until the client has closed the channel.
async fn tell(events: &mut SessionEvents, to: &ChannelWriteHalf<Msg>) {
    loop {
        let sent = match events.next().await {
            SessionEvent::Closed => return,
            SessionEvent::Resize(size) => {
                to.window_change(size.columns, size.rows, size.width, size.height).await
            }
            SessionEvent::Signal(name) => to.signal(Sig::Custom(name)).await,
        };
        if sent.is_err() {
            tracing::debug!("the server is gone");
        }
    }
}

/// Types what the client sends.
async fn feed(mut input: SessionInput, to: &ChannelWriteHalf<Msg>, watched: Option<&Watched>) {
    while let Some(data) = input.next().await {
        if let Some(watched) = watched {
            watched.client(std::slice::from_ref(&data));
        }
        if to.data_bytes(data).await.is_err() {
            return;
        }
    }
    let _ = to.eof().await;
}

/// Shows what comes until the server closes. Says whether it did so, and is not just gone.
async fn show(
    mut from: ChannelReadHalf,
    output: &SessionOutput,
    watched: Option<&Watched>,
) -> Result<(ExitStatus, bool), OutputClosed> {
    let mut status = ExitStatus::Code(LOST);
    let mut ended = false;
    while let Some(message) = from.wait().await {
        match message {
            ChannelMsg::Data { data } => {
                if let Some(watched) = watched {
                    watched.server(&data).await;
                }
                output.stdout(data).await?;
            }
            ChannelMsg::ExtendedData { data, ext: STDERR } => output.stderr(data).await?,
            ChannelMsg::ExitStatus { exit_status } => status = ExitStatus::Code(exit_status),
            ChannelMsg::ExitSignal { signal_name, core_dumped, .. } => {
                status = ExitStatus::Signal { name: signal_word(&signal_name), core_dumped };
            }
            ChannelMsg::Close => {
                ended = true;
                break;
            }
            _ => {}
        }
    }
    Ok((status, ended))
}

/// The name as the wire has it.
fn signal_word(signal: &Sig) -> String {
    match signal {
        Sig::Custom(name) => name.chars().filter(char::is_ascii_alphanumeric).take(16).collect(),
        // The library's debug form is the name of the RFC.
        known => format!("{known:?}"),
    }
}

/// Speaks the older protocol of `scp` with the client, with the files of the server.
async fn serve_scp(
    there: Channel<Msg>,
    command: &ScpCommand,
    input: SessionInput,
    output: SessionOutput,
    mut events: SessionEvents,
    files: &FileReporter,
) -> ExitStatus {
    let (reader, writer) = tokio::io::split(there.into_stream());
    let serving = async {
        match Sftp::over(reader, writer).await {
            Ok(sftp) => scp::serve(command, input.into_reader(), output, sftp, files).await,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "files cannot be served");
                let _ = output.stderr(Bytes::from_static(b"teleport: files cannot be served\r\n")).await;
                CANNOT_START
            }
        }
    };
    tokio::select! {
        code = serving => ExitStatus::Code(code),
        () = closed(&mut events) => ExitStatus::Disconnected,
    }
}
