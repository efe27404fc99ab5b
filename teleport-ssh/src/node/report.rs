//! Telling the auth service which sessions run here, and ending those that it says are to end.

use std::sync::Arc;
use std::time::Duration;

use teleport_core::api::{
    AccessView, ApiResult, RunningSession, SESSION_LEASE, SessionReport, SessionReportApi,
};
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

/// What fits into so many reports: the oldest sessions. There is one at least, which may be empty.
fn pages(sessions: Vec<RunningSession>, most: u16) -> Vec<SessionReport> {
    // Commas and what stands around.
    const ROOM: usize = SessionReport::MAX_LEN - 1024;
    let mut pages = Vec::new();
    let (mut page, mut room) = (SessionReport::default(), ROOM);
    for session in sessions {
        let length = serde_json::to_vec(&session).map_or(usize::MAX, |json| json.len() + 1);
        if length > ROOM {
            continue;
        }
        if length > room || page.sessions.len() >= SessionReport::MAX {
            let next = SessionReport { page: page.page + 1, sessions: Vec::new() };
            if next.page >= most {
                break;
            }
            pages.push(std::mem::replace(&mut page, next));
            room = ROOM;
        }
        room -= length;
        page.sessions.push(session);
    }
    pages.push(page);
    pages
}

/// Tells of all pages, also that those are empty which had something before.
async fn tell(api: &dyn SessionReportApi, mut pages: Vec<SessionReport>, before: u16) -> ApiResult<()> {
    for page in u16::try_from(pages.len()).unwrap_or(u16::MAX)..before {
        pages.push(SessionReport { page, sessions: Vec::new() });
    }
    for page in pages {
        api.report_sessions(page).await?;
    }
    Ok(())
}

/// Reports what runs, for ever: soon after each change, and often enough that it stays known. In so many pages at most. Dropping the
/// future ends it.
pub(super) async fn run(api: Arc<dyn SessionReportApi>, sessions: SessionRegistry, most: u16) {
    // What an earlier run has left behind is not there any more. If it had more pages, they run out by themselves.
    let mut told = 1;
    loop {
        let running = pages(sessions.report(), most);
        let empty = running.iter().all(|page| page.sessions.is_empty());
        let now = if empty { 0 } else { u16::try_from(running.len()).unwrap_or(most) };
        let next = if empty && told == 0 {
            None
        } else {
            // What may be there until it is known what is.
            told = told.max(now);
            match tokio::time::timeout(ANSWER_LIMIT, tell(&*api, running, told)).await {
                Ok(Ok(())) => {
                    told = now;
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn sessions(count: usize, command: usize) -> Vec<RunningSession> {
        let session = |number: usize| RunningSession {
            id: format!("6f0e1a3c-7d1f-4b5e-9a53-{number:012x}").parse().unwrap(),
            node: None,
            user: "alice".parse().unwrap(),
            roles: Vec::new(),
            login: "root".parse().unwrap(),
            started: teleport_core::clock::Timestamp::EPOCH,
            command: Some("x".repeat(command)),
            terminal: None,
            recorded: true,
            participants: Vec::new(),
        };
        (0..count).map(session).collect()
    }

    #[test]
    fn pages_are_as_long_as_they_may_be_and_no_more_than_there_may_be() {
        for (count, command, most, expected) in [
            (0, 1, 1, &[0][..]),
            (1024, 1, 1, &[1024]),
            (1025, 1, 1, &[1024]),
            (2500, 1, 16, &[1024, 1024, 452]),
            (2500, 1, 2, &[1024, 1024]),
            // Too long to be told of; the others are.
            (3, SessionReport::MAX_LEN, 16, &[0]),
        ] {
            let pages = pages(sessions(count, command), most);
            let lengths: Vec<_> = pages.iter().map(|page| page.sessions.len()).collect();
            assert_eq!(lengths, expected, "{count} {command} {most}");
            assert!((0..).zip(&pages).all(|(number, page)| page.page == number));
        }
        let long = pages(sessions(2000, 1000), 16);
        assert!(long.len() > 2);
        assert!(long.iter().all(|page| serde_json::to_vec(page).unwrap().len() <= SessionReport::MAX_LEN));
        assert_eq!(long.iter().map(|page| page.sessions.len()).sum::<usize>(), 2000);
    }
}
