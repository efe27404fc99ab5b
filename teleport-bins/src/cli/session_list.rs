//! Lists of sessions that run: of `tsh sessions ls` and `tctl sessions ls`.

use anyhow::Result;
use teleport_core::api::ActiveSession;

use super::{Format, table};

const HEADINGS: [&str; 8] = ["ID", "User", "Login", "Node", "Started", "Others", "Command", "Recorded"];

/// Prints sessions that run; with the modes in which the caller may join them, where that is asked for.
pub(super) fn print(sessions: &Vec<ActiveSession>, format: Format, joining: bool) -> Result<()> {
    format.print(sessions, || {
        if sessions.is_empty() {
            return "No sessions".to_owned();
        }
        if !joining {
            return table(HEADINGS, sessions.iter().map(row));
        }
        let [id, user, login, node, started, others, command, recorded] = HEADINGS;
        let headings = [id, user, login, node, started, others, command, recorded, "You may join as"];
        table(
            headings,
            sessions.iter().map(|active| {
                let [id, user, login, node, started, others, command, recorded] = row(active);
                let modes: Vec<&str> = active.join_modes.iter().map(|mode| mode.as_str()).collect();
                [id, user, login, node, started, others, command, recorded, modes.join(", ")]
            }),
        )
    })
}

fn row(active: &ActiveSession) -> [String; 8] {
    let session = &active.session;
    let others = session.participants.iter().map(|other| format!("{} ({})", other.user, other.mode));
    let command = match (&session.command, session.terminal) {
        (Some(command), _) => command.clone(),
        (None, Some(_)) => "(shell)".to_owned(),
        (None, None) => "(shell without a terminal)".to_owned(),
    };
    [
        session.id.to_string(),
        session.user.to_string(),
        session.login.to_string(),
        active.host_name.to_string(),
        session.started.to_string(),
        others.collect::<Vec<_>>().join(", "),
        command,
        if session.recorded { "yes" } else { "no" }.to_owned(),
    ]
}
