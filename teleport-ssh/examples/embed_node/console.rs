//! The console: a [`SessionService`] of this program's own.

use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use teleport_core::access::LoginGrant;
use teleport_ssh::session::{
    ExitStatus, SessionChannel, SessionEvent, SessionInput, SessionKind, SessionOutput, SessionService,
};

/// The longest line that is read.
const MAX_LINE: usize = 1024;

/// What the console shows and changes.
#[derive(Debug, Default)]
pub(crate) struct Console {
    counter: AtomicU64,
}

impl Console {
    /// One command and its answer; `None` ends the session.
    fn answer(&self, line: &str, grant: &LoginGrant) -> Option<String> {
        let mut words = line.split_whitespace();
        Some(match (words.next(), words.next()) {
            (None, _) => String::new(),
            (Some("help"), _) => "commands: whoami, count, add N, help, exit".to_owned(),
            (Some("whoami"), _) => {
                format!("{} as {}, by role {}", grant.identity.user, grant.login, grant.role)
            }
            (Some("count"), _) => self.counter.load(Ordering::SeqCst).to_string(),
            (Some("add"), Some(number)) => match number.parse::<u64>() {
                Ok(number) => {
                    (self.counter.fetch_add(number, Ordering::SeqCst).wrapping_add(number)).to_string()
                }
                Err(_) => "add: not a number".to_owned(),
            },
            (Some("exit"), _) => return None,
            (Some(other), _) => format!("{other}: no such command; try help"),
        })
    }

    /// Reads lines as they are typed. There is no terminal device, so echo and erase are ours.
    async fn talk(
        &self,
        grant: &LoginGrant,
        terminal: bool,
        mut input: SessionInput,
        output: &SessionOutput,
    ) -> ExitStatus {
        let (prompt, newline) = if terminal { ("console> ", "\r\n") } else { ("", "\n") };
        let mut line = Vec::new();
        if output.stdout(prompt).await.is_err() {
            return ExitStatus::Disconnected;
        }
        while let Some(piece) = input.next().await {
            for byte in piece {
                let mut shown = String::new();
                match byte {
                    // Ctrl-D on an empty line, Ctrl-C
                    4 if line.is_empty() => return ExitStatus::Code(0),
                    3 => {
                        line.clear();
                        shown = format!("^C{newline}{prompt}");
                    }
                    b'\r' | b'\n' => {
                        let text = String::from_utf8_lossy(&line).into_owned();
                        line.clear();
                        let Some(answer) = self.answer(&text, grant) else { return ExitStatus::Code(0) };
                        let echo = if terminal { newline } else { "" };
                        let end = if answer.is_empty() { "" } else { newline };
                        shown = format!("{echo}{answer}{end}{prompt}");
                    }
                    8 | 127 if line.pop().is_some() && terminal => shown = "\u{8} \u{8}".to_owned(),
                    b' '..=b'~' if line.len() < MAX_LINE => {
                        line.push(byte);
                        if terminal {
                            shown = char::from(byte).to_string();
                        }
                    }
                    _ => {}
                }
                if !shown.is_empty() && output.stdout(shown).await.is_err() {
                    return ExitStatus::Disconnected;
                }
            }
        }
        ExitStatus::Code(0)
    }
}

#[async_trait]
impl SessionService for Console {
    async fn run(&self, grant: LoginGrant, channel: SessionChannel) -> ExitStatus {
        let SessionChannel { request, input, output, mut events, .. } = channel;
        if let SessionKind::Exec(command) = &request.kind {
            let answer = self.answer(&String::from_utf8_lossy(command), &grant);
            let _ = output.stdout(answer.map(|text| text + "\n").unwrap_or_default()).await;
            return ExitStatus::Code(0);
        }
        let gone = async { while events.next().await != SessionEvent::Closed {} };
        tokio::select! {
            status = self.talk(&grant, request.terminal.is_some(), input, &output) => status,
            () = gone => ExitStatus::Disconnected,
        }
    }
}
