//! Telling the auth service which sessions run here, and ending those that it says are to end.

use std::sync::Arc;
use std::time::Duration;

use teleport_core::api::{AccessView, RunningSession, SESSION_LEASE, SessionReport, SessionReportApi};
use tokio::time::Instant;

use crate::session::{EndedBy, SessionRegistry};

/// How soon it is told again, if nothing changes.
const REPEAT: Duration = Duration::from_secs(SESSION_LEASE.as_secs() / 3);
/// How soon it is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// The least time between two reports: sessions come and go by the hundred.
const PAUSE: Duration = Duration::from_secs(1);
/// How long an answer is waited for.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// What fits into a report: the oldest sessions.
fn fitting(sessions: Vec<RunningSession>) -> Vec<RunningSession> {
    // Commas and what stands around.
    let mut room = SessionReport::MAX_LEN - 1024;
    let mut kept = Vec::with_capacity(sessions.len().min(SessionReport::MAX));
    for session in sessions.into_iter().take(SessionReport::MAX) {
        let length = serde_json::to_vec(&session).map_or(usize::MAX, |json| json.len() + 1);
        match room.checked_sub(length) {
            Some(left) => room = left,
            None => break,
        }
        kept.push(session);
    }
    kept
}

/// Reports what runs, for ever: soon after each change, and often enough that it stays known. Dropping the future ends it.
pub(super) async fn run(api: Arc<dyn SessionReportApi>, sessions: SessionRegistry) {
    // What an earlier run has left behind is not there any more.
    let mut told: Option<Vec<RunningSession>> = None;
    loop {
        let running = fitting(sessions.report());
        let empty = running.is_empty();
        let report = SessionReport { sessions: running.clone() };
        let next = if empty && told.as_ref().is_some_and(Vec::is_empty) {
            None
        } else {
            match tokio::time::timeout(ANSWER_LIMIT, api.report_sessions(report)).await {
                Ok(Ok(())) => {
                    told = Some(running);
                    if empty { None } else { Some(Instant::now() + REPEAT) }
                }
                Ok(Err(error)) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::debug!(error, "the auth service is not told which sessions run");
                    Some(Instant::now() + RETRY)
                }
                Err(_) => Some(Instant::now() + RETRY),
            }
        };
        let again = async {
            match next {
                Some(next) => tokio::time::sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = sessions.changed() => tokio::time::sleep(PAUSE).await,
            () = again => {}
        }
    }
}

/// That nothing runs here any more. What the auth service does not take runs out by itself.
pub(super) async fn farewell(api: &dyn SessionReportApi) {
    let _ = api.report_sessions(SessionReport::default()).await;
}

/// Ends what the view says is to end.
pub(super) fn obey(view: &AccessView, sessions: &SessionRegistry) {
    for ended in &view.ended_sessions {
        if let Some(running) = sessions.find(ended.session) {
            tracing::info!(session = %ended.session, by = %ended.by, "session ended by an administrator");
            running.end(EndedBy { by: ended.by.clone(), message: ended.message.clone() });
        }
    }
}
