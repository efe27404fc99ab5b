//! `tctl sessions`.

use anyhow::Result;
use clap::Subcommand;
use teleport_core::api::EndSession;
use teleport_core::id::SessionId;

use super::super::{Format, print_text, session_list};
use super::Context;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the sessions that run
    Ls {
        /// How to print
        #[arg(short, long, value_enum, default_value_t)]
        format: Format,
    },
    /// End a session
    Terminate {
        /// The session's id
        session: SessionId,
        /// What those who take part are told
        #[arg(long, default_value = "", hide_default_value = true)]
        message: String,
    },
}

pub(super) async fn run(context: &Context, command: Command) -> Result<()> {
    match command {
        Command::Ls { format } => session_list::print(&context.api.active_sessions().await?, format, false),
        Command::Terminate { session, message } => {
            context.api.terminate_session(session, EndSession { message }).await?;
            print_text(&format!("Session {session} is ended."))
        }
    }
}
