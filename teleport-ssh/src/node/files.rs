//! What a session does to files, as the audit log has it.

use std::convert::Infallible;
use std::sync::Arc;

use teleport_core::audit::{AuditEvent, EventKind};

use super::Shared;
use crate::session::{FileReport, FileReports};
use crate::sftp::{FileAction, FileOperation};

/// The events of one session. What is left when it is dropped is told as far as there is room.
pub(super) struct FileEvents {
    node: Arc<Shared>,
    /// What all of them say.
    event: AuditEvent,
    reports: FileReports,
}

impl FileEvents {
    pub(super) fn new(node: Arc<Shared>, event: AuditEvent, reports: FileReports) -> Self {
        Self { node, event, reports }
    }

    /// Tells of what is done while the session runs.
    pub(super) async fn tell(&mut self) -> Infallible {
        while let Some(report) = self.reports.next().await {
            self.node.audit.send(event(&self.event, report)).await;
        }
        std::future::pending().await
    }

    /// Tells of what was done before the session's end.
    pub(super) async fn tell_rest(mut self) {
        while let Some(report) = self.reports.left() {
            self.node.audit.send(event(&self.event, report)).await;
        }
    }
}

impl Drop for FileEvents {
    fn drop(&mut self) {
        while let Some(report) = self.reports.left() {
            self.node.audit.note(event(&self.event, report));
        }
    }
}

fn event(base: &AuditEvent, report: FileReport) -> AuditEvent {
    match report {
        FileReport::Done(operation) => of_operation(base, operation),
        FileReport::Totals { files, read, written } => base
            .clone()
            .of_kind(EventKind::SftpSummary)
            .field("files", files)
            .field("bytes_read", read)
            .field("bytes_written", written),
    }
}

fn of_operation(base: &AuditEvent, operation: FileOperation) -> AuditEvent {
    let FileOperation { action, path, target, error } = operation;
    let (well, badly) = match action {
        FileAction::Link => (EventKind::SftpLink, EventKind::SftpLinkFailure),
        FileAction::MakeDir => (EventKind::SftpMakeDir, EventKind::SftpMakeDirFailure),
        FileAction::Open { .. } => (EventKind::SftpOpen, EventKind::SftpOpenFailure),
        FileAction::Remove => (EventKind::SftpRemove, EventKind::SftpRemoveFailure),
        FileAction::RemoveDir => (EventKind::SftpRemoveDir, EventKind::SftpRemoveDirFailure),
        FileAction::Rename => (EventKind::SftpRename, EventKind::SftpRenameFailure),
        FileAction::SetAttributes { .. } => {
            (EventKind::SftpSetAttributes, EventKind::SftpSetAttributesFailure)
        }
        FileAction::SymLink => (EventKind::SftpSymLink, EventKind::SftpSymLinkFailure),
    };
    let kind = if error.is_none() { well } else { badly };
    let mut event = base.clone().of_kind(kind).field("path", path);
    if let Some(target) = target {
        event = event.field("target_path", target);
    }
    match action {
        FileAction::Open { read, write } => event = event.field("read", read).field("write", write),
        FileAction::SetAttributes { mode, owner, size } => {
            if let Some(mode) = mode {
                event = event.field("mode", format!("{mode:04o}"));
            }
            if let Some((user, group)) = owner {
                event = event.field("uid", user).field("gid", group);
            }
            if let Some(size) = size {
                event = event.field("size", size);
            }
        }
        _ => {}
    }
    match error {
        Some(error) => event.error(error),
        None => event,
    }
}
