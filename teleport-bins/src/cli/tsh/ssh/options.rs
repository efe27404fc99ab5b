//! What `-o KEY=VALUE` says, as in `ssh_config`: those keys that mean something here. Others are refused and not ignored, for they may
//! be there to make something safe.

use std::time::Duration;

use anyhow::{Result, bail};
use teleport_core::id::OsLogin;
use teleport_ssh::client::forward::Forward;

use super::super::session::WantTerminal;

/// Which agent programs on the node may ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ForwardAgent {
    /// The certificates of `tsh`.
    Local,
    No,
    /// The one at this socket.
    Socket(String),
    /// The one that runs, or the certificates of `tsh` if none does.
    Yes,
}

/// What is forwarded, and who listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Local(Forward),
    Remote(Forward),
}

impl Way {
    pub(super) fn local(text: &str) -> Result<Self, String> {
        Forward::local(text).map(Self::Local).map_err(|error| error.to_string())
    }

    pub(super) fn remote(text: &str) -> Result<Self, String> {
        Forward::remote(text).map(Self::Remote).map_err(|error| error.to_string())
    }

    pub(super) fn dynamic(text: &str) -> Result<Self, String> {
        Forward::dynamic(text).map(Self::Local).map_err(|error| error.to_string())
    }
}

/// What the options say. What is said first counts, except for lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) alive_count: Option<u32>,
    pub(super) alive_interval: Option<Duration>,
    pub(super) background: Option<bool>,
    pub(super) clear_forwards: Option<bool>,
    pub(super) command: Option<String>,
    pub(super) connect_timeout: Option<Duration>,
    pub(super) escape: Option<Option<u8>>,
    pub(super) exit_on_failure: Option<bool>,
    pub(super) agent: Option<ForwardAgent>,
    pub(super) forwards: Vec<Way>,
    pub(super) gateway: Option<bool>,
    pub(super) login: Option<OsLogin>,
    pub(super) no_session: Option<bool>,
    pub(super) no_stdin: Option<bool>,
    pub(super) port: Option<u16>,
    pub(super) quiet: Option<bool>,
    pub(super) send_env: Vec<String>,
    pub(super) set_env: Vec<(String, String)>,
    pub(super) terminal: Option<WantTerminal>,
    pub(super) unlink: Option<bool>,
    pub(super) x11: Option<bool>,
    pub(super) x11_trusted: Option<bool>,
}

/// The keys, as they are listed for whoever names another.
const KEYS: &str = "BatchMode, ClearAllForwardings, ConnectTimeout, DynamicForward, EscapeChar, ExitOnForwardFailure, \
    ForkAfterAuthentication, ForwardAgent, ForwardX11, ForwardX11Trusted, GatewayPorts, LocalForward, LogLevel, Port, RemoteCommand, RemoteForward, RequestTTY, SendEnv, \
    ServerAliveCountMax, ServerAliveInterval, SessionType, SetEnv, StdinNull, StreamLocalBindUnlink, StrictHostKeyChecking, User";

fn yes_no(value: &str) -> Result<bool> {
    match value.to_ascii_lowercase().as_str() {
        "yes" | "true" => Ok(true),
        "no" | "false" => Ok(false),
        _ => bail!("say yes or no"),
    }
}

/// Seconds, or a time with a unit.
fn time(value: &str) -> Result<Duration> {
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    let text = if digits { format!("{value}s") } else { value.to_owned() };
    crate::config::parse_duration(&text).map_err(anyhow::Error::msg)
}

/// A character, `^` and a letter, or none.
pub(super) fn escape(value: &str) -> Result<Option<u8>> {
    match value.as_bytes() {
        _ if value.eq_ignore_ascii_case("none") => Ok(None),
        [key] if key.is_ascii_graphic() => Ok(Some(*key)),
        [b'^', key] if key.is_ascii() && (64..128).contains(key) => Ok(Some(key & 31)),
        _ => bail!("say one character, ^ and a letter, or none"),
    }
}

/// Names of variables may have `*` and `?`; values are anything that a node would take.
fn variable(text: &str) -> Result<(String, String)> {
    match text.split_once('=') {
        Some((name, value)) if is_variable(name) => Ok((name.to_owned(), value.trim_matches('"').to_owned())),
        _ => bail!("say NAME=value"),
    }
}

fn is_variable(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

impl Options {
    /// Adds one `KEY=VALUE`, or `KEY VALUE`.
    pub(super) fn add(&mut self, text: &str) -> Result<()> {
        let text = text.trim();
        let Some((key, value)) =
            text.split_once(|letter: char| letter == '=' || letter.is_ascii_whitespace())
        else {
            bail!("-o {text}: say KEY=VALUE");
        };
        let value = value.trim_start_matches(|letter: char| letter == '=' || letter.is_ascii_whitespace());
        match self.set(&key.to_ascii_lowercase(), value) {
            Ok(true) => Ok(()),
            Ok(false) => bail!("-o {key}: tsh does not have this option; it has {KEYS}"),
            Err(error) => Err(error.context(format!("-o {key}={value}"))),
        }
    }

    /// `false` for a key that is not known.
    fn set(&mut self, key: &str, value: &str) -> Result<bool> {
        fn first<T>(slot: &mut Option<T>, value: T) {
            slot.get_or_insert(value);
        }
        let forward = |way: Result<Way, String>| way.map_err(anyhow::Error::msg);
        // The files have a space where the command line has a colon.
        let two = || value.split_ascii_whitespace().collect::<Vec<_>>().join(":");
        match key {
            "batchmode" => drop(yes_no(value)?),
            "clearallforwardings" => first(&mut self.clear_forwards, yes_no(value)?),
            "connecttimeout" => first(&mut self.connect_timeout, time(value)?),
            "dynamicforward" => self.forwards.push(forward(Way::dynamic(value))?),
            "escapechar" => first(&mut self.escape, escape(value)?),
            "exitonforwardfailure" => first(&mut self.exit_on_failure, yes_no(value)?),
            "forkafterauthentication" => first(&mut self.background, yes_no(value)?),
            "forwardagent" => first(
                &mut self.agent,
                match value {
                    "local" => ForwardAgent::Local,
                    path if path.starts_with('/') => ForwardAgent::Socket(path.to_owned()),
                    value if yes_no(value)? => ForwardAgent::Yes,
                    _ => ForwardAgent::No,
                },
            ),
            "forwardx11" => first(&mut self.x11, yes_no(value)?),
            "forwardx11trusted" => first(&mut self.x11_trusted, yes_no(value)?),
            "gatewayports" => first(&mut self.gateway, yes_no(value)?),
            "localforward" => self.forwards.push(forward(Way::local(&two()))?),
            "loglevel" => first(&mut self.quiet, value.eq_ignore_ascii_case("quiet")),
            "port" => match value.parse() {
                Ok(port) if port != 0 => first(&mut self.port, port),
                _ => bail!("a port is a number from 1 to 65535"),
            },
            "remotecommand" if value.eq_ignore_ascii_case("none") => {}
            "remotecommand" => first(&mut self.command, value.to_owned()),
            "remoteforward" => self.forwards.push(forward(Way::remote(&two()))?),
            "requesttty" => first(
                &mut self.terminal,
                match value.to_ascii_lowercase().as_str() {
                    "auto" => WantTerminal::Auto,
                    "force" | "yes" => WantTerminal::Yes,
                    "no" => WantTerminal::Never,
                    _ => bail!("say auto, force, yes or no"),
                },
            ),
            "sendenv" => {
                let names = || value.split_ascii_whitespace();
                if !names().all(|name| is_variable(&name.replace(['*', '?'], "x"))) {
                    bail!("say names of variables; * and ? stand for letters");
                }
                self.send_env.extend(names().map(str::to_owned));
            }
            "serveralivecountmax" => match value.parse() {
                Ok(count) if count != 0 => first(&mut self.alive_count, count),
                _ => bail!("say a whole number above 0"),
            },
            "serveraliveinterval" => first(&mut self.alive_interval, time(value)?),
            "sessiontype" => match value.to_ascii_lowercase().as_str() {
                "none" => first(&mut self.no_session, true),
                "default" => first(&mut self.no_session, false),
                _ => bail!("say default or none"),
            },
            "setenv" => {
                for text in value.split_ascii_whitespace() {
                    self.set_env.push(variable(text)?);
                }
            }
            "stdinnull" => first(&mut self.no_stdin, yes_no(value)?),
            "streamlocalbindunlink" => first(&mut self.unlink, yes_no(value)?),
            "stricthostkeychecking" => {
                if !yes_no(value).unwrap_or(false) {
                    bail!("hosts are always recognised by the cluster's certificates");
                }
            }
            "user" => first(&mut self.login, value.parse()?),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// Whether a variable's name is what a pattern of `SendEnv` means.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let (mut rest, mut letters) = (pattern.bytes(), name.bytes());
    loop {
        match rest.next() {
            None => return letters.next().is_none(),
            Some(b'*') => {
                let rest = pattern.get(pattern.len() - rest.len()..).unwrap_or_default();
                let left = name.len() - letters.len();
                return (left..=name.len()).any(|at| name.get(at..).is_some_and(|name| matches(rest, name)));
            }
            Some(b'?') if letters.next().is_some() => {}
            Some(letter) if letter != b'?' && letters.next() == Some(letter) => {}
            Some(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn read(texts: &[&str]) -> Result<Options> {
        let mut options = Options::default();
        texts.iter().try_for_each(|text| options.add(text))?;
        Ok(options)
    }

    #[test]
    fn keys_are_those_of_ssh_config() {
        let options = read(&[
            "ExitOnForwardFailure=yes",
            "exitonforwardfailure no",
            "LocalForward=8080 db:5432",
            "RemoteForward=9090:localhost:90",
            "DynamicForward = 1080",
            "ForwardAgent=local",
            "ConnectTimeout=5",
            "ServerAliveInterval=1m",
            "SendEnv=LC_* EDITOR",
            "SetEnv=FOO=bar BAZ=\"x\"",
            "EscapeChar=^b",
            "RequestTTY=force",
            "BatchMode=yes",
            "StrictHostKeyChecking=yes",
            "User=root",
            "Port=22",
        ])
        .unwrap();
        assert_eq!(options.exit_on_failure, Some(true), "the first counts");
        assert_eq!(
            options.forwards,
            [Way::local("8080:db:5432"), Way::remote("9090:localhost:90"), Way::dynamic("1080")]
                .map(Result::unwrap)
        );
        assert_eq!((options.agent, options.escape), (Some(ForwardAgent::Local), Some(Some(2))));
        assert_eq!(options.connect_timeout, Some(Duration::from_secs(5)));
        assert_eq!(options.alive_interval, Some(Duration::from_secs(60)));
        assert_eq!(options.set_env, [("FOO".into(), "bar".into()), ("BAZ".into(), "x".into())]);
        assert_eq!((options.terminal, options.port), (Some(WantTerminal::Yes), Some(22)));
    }

    #[test]
    fn g6_what_is_not_known_or_not_safe_is_refused() {
        for (text, why) in [
            ("ProxyCommand=id", "does not have this option"),
            ("LocalCommand=id", "does not have this option"),
            ("PermitLocalCommand=yes", "does not have this option"),
            ("ControlMaster=auto", "does not have this option"),
            ("Cipher=none", "does not have this option"),
            ("StrictHostKeyChecking=no", "always recognised"),
            ("StrictHostKeyChecking=accept-new", "always recognised"),
            ("ExitOnForwardFailure", "say KEY=VALUE"),
            ("ExitOnForwardFailure=maybe", "say yes or no"),
            ("LocalForward=8080", "port:host:hostport"),
            ("LocalForward=8080 $(id):1", "a host is a name"),
            ("User=-oProxyCommand=x", "User"),
            ("User=$(id)", "User"),
            ("Port=0", "1 to 65535"),
            ("SetEnv=A-B=1", "NAME=value"),
            ("SendEnv=$HOME", "names of variables"),
            ("EscapeChar=ab", "one character"),
            ("", "KEY=VALUE"),
        ] {
            let error = format!("{:#}", read(&[text]).unwrap_err());
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn patterns_of_names() {
        for (pattern, name, expected) in [
            ("LC_*", "LC_ALL", true),
            ("LC_*", "LC_", true),
            ("LC_*", "XLC_ALL", false),
            ("L?NG", "LANG", true),
            ("L?NG", "LNG", false),
            ("LANG", "LANGUAGE", false),
            ("*", "X", true),
            ("*A*B", "XAYB", true),
            ("*A*B", "XAYBC", false),
            ("?", "?", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
