//! What a session does to files, as the audit log has it.

use std::convert::Infallible;

use teleport_core::audit::{AuditEvent, EventKind};

use super::audit::AuditQueue;
use crate::session::{FileReport, FileReports};
use crate::sftp::{FileAction, FileOperation};

/// The events of one session. What is left when it is dropped is told as far as there is room.
pub(super) struct FileEvents {
    audit: AuditQueue,
    /// What all of them say.
    event: AuditEvent,
    reports: FileReports,
    /// Taken from the reports and not told yet: telling waits for room, and whoever waits for it may be cancelled.
    pending: Option<AuditEvent>,
}

impl FileEvents {
    pub(super) fn new(audit: AuditQueue, event: AuditEvent, reports: FileReports) -> Self {
        Self { audit, event, reports, pending: None }
    }

    /// Tells of what is done while the session runs. Cancel safe: what was not told is told by the next call.
    pub(super) async fn tell(&mut self) -> Infallible {
        self.tell_pending().await;
        while let Some(report) = self.reports.next().await {
            self.pending = Some(event(&self.event, report));
            self.tell_pending().await;
        }
        std::future::pending().await
    }

    /// Tells of what was done before the session's end.
    pub(super) async fn tell_rest(mut self) {
        self.tell_pending().await;
        while let Some(report) = self.reports.left() {
            self.pending = Some(event(&self.event, report));
            self.tell_pending().await;
        }
    }

    async fn tell_pending(&mut self) {
        if let Some(event) = &self.pending {
            self.audit.send(event.clone()).await;
            self.pending = None;
        }
    }
}

impl Drop for FileEvents {
    fn drop(&mut self) {
        if let Some(event) = self.pending.take() {
            self.audit.note(event);
        }
        while let Some(report) = self.reports.left() {
            self.audit.note(event(&self.event, report));
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
        FileAction::Download { .. } => (EventKind::ScpDownload, EventKind::ScpDownloadFailure),
        FileAction::Upload { .. } => (EventKind::ScpUpload, EventKind::ScpUploadFailure),
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
        FileAction::Download { bytes } | FileAction::Upload { bytes } => event = event.field("bytes", bytes),
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use futures_util::FutureExt;

    use super::*;
    use crate::node::audit;
    use crate::session::FileReporter;

    fn told(worker: &mut audit::AuditWorker) -> Vec<String> {
        let told = worker.waiting().into_iter().filter(|event| event.code == EventKind::SftpRemove);
        told.map(|event| event.fields.get("path").unwrap().as_str().unwrap().to_owned()).collect()
    }

    /// While the audit log is behind, the session may end between the taking of a report and its telling.
    #[tokio::test]
    async fn what_was_taken_is_told_after_a_cancelled_wait() {
        for is_dropped in [false, true] {
            let (queue, mut worker) = audit::queue();
            let (reporter, reports) = FileReporter::new();
            let mut events = FileEvents::new(queue.clone(), AuditEvent::new(EventKind::Resize), reports);
            for path in ["/a", "/b"] {
                let (action, path) = (FileAction::Remove, path.to_owned());
                reporter.done(FileOperation { action, path, target: None, error: None }).await;
            }
            // No room for anything.
            while queue.send(AuditEvent::new(EventKind::Resize)).now_or_never().is_some() {}
            assert!(events.tell().now_or_never().is_none());
            assert_eq!(told(&mut worker), Vec::<String>::new());
            if is_dropped {
                drop(events);
            } else {
                events.tell_rest().await;
            }
            assert_eq!(told(&mut worker), ["/a", "/b"], "dropped: {is_dropped}");
        }
    }
}
