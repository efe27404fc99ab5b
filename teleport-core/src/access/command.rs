//! Which commands may be executed.

use crate::pattern::Pattern;

/// Whether a shell would read `command` as words and nothing else: no second command, no expansion, no redirection.
fn is_plain(command: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b" _@%+=:,./-".contains(&byte);
    command.bytes().all(plain)
}

/// One entry of `commands`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CommandPattern {
    pattern: Pattern,
    source: String,
}

impl CommandPattern {
    /// Reads an entry.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Err("an empty command".to_owned());
        }
        if text.starts_with('*') {
            return Err(format!(
                "{text:?} says nothing about the command; begin with its name, or leave `commands` out to allow any"
            ));
        }
        let pattern = Pattern::parse(text).map_err(|error| error.to_string())?;
        Ok(Self { pattern, source: text.to_owned() })
    }

    fn matches(&self, command: &str) -> bool {
        match &self.pattern {
            // What is written out was meant, whatever it is.
            Pattern::Exact(exact) => **exact == *command,
            // The login's shell reads the command: what stands for a `*` must not become another command.
            pattern => is_plain(command) && pattern.matches(command),
        }
    }
}

/// Which commands may be executed in a session: the `commands` of the roles that grant it.
///
/// An entry is a whole command, with `*` for any run of characters, or `^…$` as a regular expression. The login's shell reads
/// what is executed, so what is matched by more than its own letters may only have letters, digits, spaces and `_@%+=:,./-`:
/// `journalctl *` does not stand for `journalctl -n 5; reboot`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commands {
    /// `None` is any.
    pub(super) allowed: Option<Vec<CommandPattern>>,
}

impl Commands {
    /// Whether every command is permitted, and so are shells and subsystems.
    pub const fn is_unrestricted(&self) -> bool {
        self.allowed.is_none()
    }

    /// Whether `command` may be executed.
    pub fn permit(&self, command: &str) -> bool {
        let among = |patterns: &[CommandPattern]| patterns.iter().any(|pattern| pattern.matches(command));
        self.allowed.as_deref().is_none_or(among)
    }

    /// The entries, as they were written; `None` is any.
    pub fn allowed(&self) -> Option<impl Iterator<Item = &str>> {
        self.allowed.as_ref().map(|patterns| patterns.iter().map(|pattern| pattern.source.as_str()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn only_what_is_listed_and_nothing_hidden_in_it() {
        let entries = [
            "uptime",
            "journalctl *",
            r"^systemctl (status|restart) [a-z]+$",
            "echo $HOME | wc -c",
            "^cat .*$",
        ];
        let allowed = entries.iter().map(|entry| CommandPattern::parse(entry).unwrap()).collect();
        let commands = Commands { allowed: Some(allowed) };
        for (command, expected) in [
            ("uptime", true),
            ("uptime ", false),
            ("uptime; reboot", false),
            ("journalctl -n 5", true),
            ("journalctl", false),
            ("journalctl -n 5; reboot", false),
            ("journalctl -n 5\nreboot", false),
            ("journalctl $(reboot)", false),
            ("journalctl `reboot`", false),
            ("journalctl > /etc/passwd", false),
            ("journalctl & reboot", false),
            ("journalctl 'a'", false),
            ("journalctl é", false),
            ("LD_PRELOAD=x journalctl -n", false),
            ("systemctl restart app", true),
            ("systemctl stop app", false),
            ("systemctl restart app;id", false),
            ("echo $HOME | wc -c", true),
            ("cat /etc/hosts", true),
            ("cat /etc/hosts; id", false),
            ("", false),
        ] {
            assert_eq!(commands.permit(command), expected, "{command:?}");
        }
        assert!(Commands::default().permit("anything; at all"));
        assert!(Commands::default().is_unrestricted() && !commands.is_unrestricted());
        assert!(!Commands { allowed: Some(Vec::new()) }.permit("uptime"));
    }

    #[test]
    fn bad_entries_are_refused() {
        for bad in ["", "  ", "*", "* x", "^($"] {
            assert!(CommandPattern::parse(bad).is_err(), "{bad:?}");
        }
    }
}
