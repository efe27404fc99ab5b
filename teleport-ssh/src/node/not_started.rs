//! What a user who was let in may not start: why, and how the user and the audit log are told.

use std::borrow::Cow;

use teleport_core::access::{LoginGrant, SessionPolicy};
use teleport_core::audit::EventKind;
use teleport_core::lock::Locked;
use teleport_core::recording::NoRecorder;

use super::authorize::{Pass, Refusal, chain};
use super::session_task::{Start, command};
use crate::session::{SessionInput, SessionKind, SessionOutput};

/// The exit status of a session that was not begun.
pub(super) const NOT_BEGUN: u32 = 254;

/// Why what was asked for on a channel is not started.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotStarted {
    /// What has changed since the channel was opened.
    #[error(transparent)]
    Access(#[from] Refusal),
    #[error("no role that grants the session permits the command")]
    Command,
    #[error("a role permits no copying of files")]
    Copy,
    #[error("whoever comes to join sessions begins none")]
    Visitor,
    #[error("the roles that grant the session permit only certain commands, and no shell")]
    Shell,
}

impl NotStarted {
    /// What the user is told. Whoever may run some commands may know that others are not among them; why access is gone
    /// altogether is for the audit log.
    fn told(&self) -> Cow<'static, str> {
        let text = match self {
            Self::Access(why) if why.lock().is_some() => {
                let text = why.lock().map(Locked::public).unwrap_or_default();
                return format!("teleport: {text}\r\n").into();
            }
            Self::Access(_) => "teleport: access denied\r\n",
            Self::Command => "teleport: your roles do not permit this command on this node\r\n",
            Self::Copy => "teleport: your roles do not permit copying files on this node\r\n",
            Self::Visitor => {
                "teleport: this connection is for joining sessions: say which one by TELEPORT_SESSION\r\n"
            }
            Self::Shell => "teleport: your roles permit only certain commands on this node, and no shell\r\n",
        };
        text.into()
    }

    const fn event(&self, kind: &SessionKind) -> EventKind {
        match self {
            Self::Copy if matches!(kind, SessionKind::Sftp) => EventKind::SftpDisallowed,
            Self::Command => EventKind::ExecFailure,
            Self::Copy => EventKind::ScpDisallowed,
            Self::Access(_) | Self::Shell | Self::Visitor => EventKind::SessionRejected,
        }
    }
}

/// Checks that what would run, which is the forced command if there is one, is permitted.
pub(super) fn check(policy: &SessionPolicy, kind: &SessionKind) -> Result<(), NotStarted> {
    match kind {
        SessionKind::Shell if policy.shell() => Ok(()),
        SessionKind::Shell => Err(NotStarted::Shell),
        SessionKind::Exec(line) => check_command(policy, line),
        SessionKind::Scp(command) => check_command(policy, command.line()),
        SessionKind::Sftp if !policy.file_copy => Err(NotStarted::Copy),
        SessionKind::Sftp => Ok(()),
    }
}

fn check_command(policy: &SessionPolicy, line: &[u8]) -> Result<(), NotStarted> {
    match std::str::from_utf8(line) {
        Ok(line) if !policy.commands.permit(line) => Err(NotStarted::Command),
        // What is no text is on no list.
        Err(_) if !policy.commands.is_unrestricted() => Err(NotStarted::Command),
        _ if policy.forbids_as_copy(&String::from_utf8_lossy(line)) => Err(NotStarted::Copy),
        _ => Ok(()),
    }
}

/// Tells the audit log and the user, and closes the channel. The session's place is held until then.
pub(super) async fn run(start: Start, why: NotStarted) {
    let Start { node, entry, launch, channel, slot, account, link, closed, peer, local, .. } = start;
    let (read, write) = channel.split();
    // What the client sends is thrown away from now on.
    drop(SessionInput::new(read, account));
    let output = SessionOutput::new(write, link, closed, Box::new(NoRecorder::new()));
    let reason = chain(&why);
    tracing::info!(%peer, user = %entry.pass.identity().user, %reason, "session refused");
    let mut event = entry
        .pass
        .name_in(node.event(why.event(&launch.kind)))
        .remote(Some(peer))
        .field("addr.local", local.to_string())
        .field("interactive", launch.terminal.is_some())
        .error(reason);
    if let Pass::Login(LoginGrant { role, .. }) = &entry.pass {
        event = event.field("role", role.as_str());
    }
    if let Some(command) = command(&launch.kind) {
        event = event.field("command", command);
    }
    node.audit.send(event).await;
    tell(&output, &why.told()).await;
    drop(slot);
}

/// Tells the user that a session is not begun, and closes its channel.
pub(super) async fn tell(output: &SessionOutput, text: &str) {
    let _ = output.stderr(text.to_owned()).await;
    let channel = output.channel();
    let _ = channel.exit_status(NOT_BEGUN).await;
    let _ = channel.eof().await;
    let _ = channel.close().await;
}
