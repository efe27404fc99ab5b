//! URLs of storage servers: `scheme://user@host:port,host2/path?option=value`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use zeroize::Zeroizing;

use crate::network::TlsOptions;

/// How long a call may take if the URL does not say.
const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_HOSTS: usize = 16;
const MAX_PASSWORD_LEN: u64 = 4096;

/// The options that every driver for a server knows.
const COMMON: [&str; 6] = ["ca-file", "cert-file", "key-file", "password-file", "timeout", "tls"];

/// Where a server is and how it is reached. Neither `Debug` nor `Display` shows the password.
#[derive(Clone)]
pub(crate) struct ServerUrl {
    pub(crate) scheme: &'static str,
    /// At least one.
    pub(crate) hosts: Vec<(String, u16)>,
    pub(crate) user: Option<String>,
    /// Without the first `/`.
    pub(crate) path: String,
    /// `None` is a connection in clear.
    pub(crate) tls: Option<TlsOptions>,
    pub(crate) timeout: Duration,
    /// The driver's own options; etcd has none.
    #[cfg(feature = "postgres")]
    pub(crate) options: BTreeMap<String, String>,
    secret: Option<Secret>,
}

#[derive(Clone)]
enum Secret {
    File(PathBuf),
    Text(Zeroizing<String>),
}

/// The file with the password cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the password in {}", path.display())]
pub(crate) struct PasswordError {
    path: PathBuf,
    source: std::io::Error,
}

impl ServerUrl {
    /// Parses what follows `scheme:`. The rule that is broken repeats nothing of it: it may be a part of a password.
    pub(crate) fn parse(
        scheme: &'static str,
        rest: &str,
        default_port: u16,
        own: &[&str],
    ) -> Result<Self, Cow<'static, str>> {
        let rest = rest.strip_prefix("//").ok_or("`//` and a host follow the scheme")?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if path.contains('@') || query.contains('@') {
            return Err(
                "a `@` stands behind the hosts: write / ? @ of a user or password as %2F %3F %40, and \
                        this @ as %40 as well if it is meant to be there"
                    .into(),
            );
        }
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (Some(login), hosts),
            None => (None, authority),
        };
        let hosts =
            hosts.split(',').map(|host| parse_host(host, default_port)).collect::<Result<Vec<_>, _>>()?;
        if hosts.len() > MAX_HOSTS {
            return Err("it has too many hosts".into());
        }
        let (user, password) = match login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
            None => (None, None),
            Some(("", _)) => return Err("the user is missing before `@`".into()),
            Some((user, "")) => (Some(decode(user)?), None),
            Some((user, password)) => (Some(decode(user)?), Some(Zeroizing::new(decode(password)?))),
        };
        let mut options = parse_query(query)?;
        let known: Vec<_> = COMMON.iter().chain(own).copied().collect();
        if !options.keys().all(|name| known.contains(&name.as_str())) {
            return Err(format!("it has an option that is not known; known are {}", known.join(", ")).into());
        }
        let file = options.remove("password-file").map(PathBuf::from);
        let secret = match (password, file) {
            (Some(_), Some(_)) => return Err("it has a password and a password-file".into()),
            (Some(text), None) => Some(Secret::Text(text)),
            (None, file) => file.map(Secret::File),
        };
        if secret.is_some() && user.is_none() {
            return Err("it has a password and no user".into());
        }
        let tls = parse_tls(&mut options, &hosts)?;
        let timeout = match options.remove("timeout") {
            None => TIMEOUT,
            Some(text) => match text.strip_suffix('s').unwrap_or(&text).parse() {
                Ok(seconds @ 1..=300) => Duration::from_secs(seconds),
                _ => return Err("the timeout is a number of seconds from 1 to 300, such as 10s".into()),
            },
        };
        Ok(Self {
            scheme,
            hosts,
            user,
            path: decode(path)?,
            tls,
            timeout,
            #[cfg(feature = "postgres")]
            options,
            secret,
        })
    }

    /// The password as it is now, if there is one.
    pub(crate) async fn password(&self) -> Result<Option<Zeroizing<String>>, PasswordError> {
        let path = match &self.secret {
            None => return Ok(None),
            Some(Secret::Text(text)) => return Ok(Some(text.clone())),
            Some(Secret::File(path)) => path,
        };
        let failed = |source| PasswordError { path: path.clone(), source };
        let mut text = Zeroizing::new(String::new());
        let file = tokio::fs::File::open(path).await.map_err(failed)?;
        file.take(MAX_PASSWORD_LEN).read_to_string(&mut text).await.map_err(failed)?;
        let end = text.trim_end_matches(['\r', '\n']).len();
        text.truncate(end);
        if text.is_empty() {
            return Err(failed(std::io::Error::other("the file is empty")));
        }
        Ok(Some(text))
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.scheme)?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        for (number, (host, port)) in self.hosts.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            if host.contains(':') {
                write!(f, "{comma}[{host}]:{port}")?;
            } else {
                write!(f, "{comma}{host}:{port}")?;
            }
        }
        write!(f, "/{}", self.path)
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// A URL of any form as it may be shown: without what stands between the user's name and the host, or could.
pub(crate) fn redacted(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once(':') else { return url.to_owned() };
    let (slashes, rest) = rest.strip_prefix("//").map_or(("", rest), |rest| ("//", rest));
    // The last one of all: a password with a `/` or a `?` in it would not be parsed, and must not be shown either.
    if let Some((login, _)) = rest.rsplit_once('@') {
        return match login.split_once(':') {
            Some((user, _)) => {
                format!("{scheme}:{slashes}{user}:…{}", rest.get(login.len()..).unwrap_or_default())
            }
            None => url.to_owned(),
        };
    }
    // What is no port may be a password whose host was forgotten.
    let hosts = rest.split_once(['/', '?']).map_or(rest, |(hosts, _)| hosts);
    match hosts.split_once(':') {
        Some((first, _)) if !hosts.split(',').all(|host| parse_host(host, 1).is_ok()) => {
            format!("{scheme}:{slashes}{first}:…")
        }
        _ => url.to_owned(),
    }
}

fn parse_host(text: &str, default_port: u16) -> Result<(String, u16), Cow<'static, str>> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or("a `]` is missing")?;
        if host.parse::<std::net::Ipv6Addr>().is_err() {
            return Err("what stands between `[` and `]` is no IPv6 address".into());
        }
        (host, port)
    } else {
        text.split_at(text.find(':').unwrap_or(text.len()))
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
    if host.is_empty() || !host.bytes().all(is_name) {
        return Err("the name of a host is missing or not valid".into());
    }
    let port = match port.strip_prefix(':') {
        Some(port) => port.parse().ok().filter(|port| *port != 0),
        None if port.is_empty() => Some(default_port),
        None => None,
    };
    port.map(|port| (host.to_owned(), port))
        .ok_or("the port of a host is not a number from 1 to 65535".into())
}

fn parse_query(query: &str) -> Result<BTreeMap<String, String>, Cow<'static, str>> {
    let mut options = BTreeMap::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or("an option has no value")?;
        if options.insert(name.to_owned(), decode(value)?).is_some() {
            return Err("an option stands twice".into());
        }
    }
    Ok(options)
}

/// TLS, unless it is turned off or the servers are on this very host.
fn parse_tls(
    options: &mut BTreeMap<String, String>,
    hosts: &[(String, u16)],
) -> Result<Option<TlsOptions>, Cow<'static, str>> {
    let ca_file = options.remove("ca-file").map(PathBuf::from);
    let identity = match (options.remove("cert-file"), options.remove("key-file")) {
        (Some(certificate), Some(key)) => Some((certificate.into(), key.into())),
        (None, None) => None,
        _ => return Err("cert-file and key-file go together".into()),
    };
    let is_local =
        |host: &str| host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    let has_files = ca_file.is_some() || identity.is_some();
    let wanted = match options.remove("tls").as_deref() {
        Some("on") => true,
        Some("off") if has_files => return Err("there are files for TLS and tls=off".into()),
        Some("off") => false,
        Some(_) => return Err("tls is on or off".into()),
        None => has_files || !hosts.iter().all(|(host, _)| is_local(host)),
    };
    Ok(wanted.then_some(TlsOptions { ca_file, identity, protocol: None }))
}

/// Undoes `%41`.
fn decode(text: &str) -> Result<String, Cow<'static, str>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
            let byte = digits
                .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
                .and_then(|digits| u8::from_str_radix(digits, 16).ok());
            bytes.push(byte.ok_or("two hexadecimal digits follow `%`")?);
            rest = after.get(2..).unwrap_or_default();
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    match String::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err("it is not valid text".into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn parse(rest: &str) -> Result<ServerUrl, Cow<'static, str>> {
        ServerUrl::parse("etcd", rest, 2379, &["own"])
    }

    #[test]
    fn the_parts_of_a_url() {
        let url = parse("//al%40ice@one,[::1]:7,10.0.0.1:8/a/b?own=x&timeout=3s&ca-file=/ca").unwrap();
        assert_eq!(url.hosts, [("one".into(), 2379), ("::1".into(), 7), ("10.0.0.1".into(), 8)]);
        assert_eq!((url.user.as_deref(), url.path.as_str()), (Some("al@ice"), "a/b"));
        assert_eq!(url.timeout, Duration::from_secs(3));
        assert_eq!(url.options.get("own").map(String::as_str), Some("x"));
        assert_eq!(url.tls.as_ref().unwrap().ca_file.as_deref(), Some("/ca".as_ref()));
        assert_eq!(url.to_string(), "etcd://al@ice@one:2379,[::1]:7,10.0.0.1:8/a/b");
    }

    #[test]
    fn connections_in_clear_leave_the_host_only_when_told() {
        for (rest, tls) in [
            ("//localhost", false),
            ("//127.0.0.1,[::1]", false),
            ("//127.0.0.1?tls=on", true),
            ("//127.0.0.1?ca-file=/x", true),
            ("//127.0.0.1,other", true),
            ("//other", true),
            ("//localhost.example.com", true),
            ("//other?tls=off", false),
        ] {
            assert_eq!(parse(rest).unwrap().tls.is_some(), tls, "{rest}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for rest in [
            "",
            "host",
            "//",
            "//@host",
            "//:pw@host",
            "//a,,b",
            "//a:0",
            "//a:x",
            "//a:99999",
            "//[::1",
            "//[x]",
            "//a b",
            "//a/%4",
            "//a/%zz",
            "//a/%00",
            "//a/%ff",
            "//a?x=1",
            "//a?own",
            "//a?own=1&own=2",
            "//a?tls=maybe",
            "//a?cert-file=/x",
            "//a?tls=off&ca-file=/x",
            "//a?timeout=0",
            "//a?timeout=301s",
            "//a?timeout=fast",
            "//a?password-file=/x",
            "//u:p@a?password-file=/x",
            "//[::1]x",
            "//a/b@c",
            "//a?ca-file=/b@c",
        ] {
            assert!(parse(rest).is_err(), "{rest}");
        }
    }

    #[tokio::test]
    async fn passwords_are_read_and_never_shown() {
        let url = parse("//u:s%25cret@a/p").unwrap();
        assert_eq!(url.password().await.unwrap().unwrap().as_str(), "s%cret");
        assert!(!format!("{url} {url:?}").contains("cret"));
        for shown in [
            "etcd://u:secret@a/p",
            "etcd://u:secret@a?x=y",
            "etcd://u:sec/ret@a/p",
            "etcd://u:secret@",
            "etcd://u:sec@secret@a",
            "etcd://u@v:sec/ret@a",
            "etcd://u:sec?ret@a",
            "etcd://u:secret/p",
            "etcd://a,u:secret",
            "etcd:u:secret@a",
            "etcd:/u:secret@a",
        ] {
            assert!(!redacted(shown).contains("sec"), "{}", redacted(shown));
        }
        for plain in ["etcd://u@a:1/p", "etcd://a:1,[::1]:2/p?x=y:z", "etcd://a", "etcd:a"] {
            assert_eq!(redacted(plain), plain);
        }

        let file = tempfile::NamedTempFile::new().unwrap();
        let url = parse(&format!("//u@a?password-file={}", file.path().display())).unwrap();
        assert!(url.password().await.is_err(), "an empty file");
        std::fs::write(file.path(), "one\n").unwrap();
        assert_eq!(url.password().await.unwrap().unwrap().as_str(), "one");
        std::fs::write(file.path(), "two").unwrap();
        assert_eq!(url.password().await.unwrap().unwrap().as_str(), "two", "a changed file is read again");
    }
}
