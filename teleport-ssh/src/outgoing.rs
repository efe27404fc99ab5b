//! Connections that begin here: straight, or through the HTTP proxy of the network that this program runs in.
//!
//! Which one that is, the environment says as to other programs: `HTTPS_PROXY` (or `https_proxy`) is `http://[name:password@]host:port`, and
//! `NO_PROXY` (or `no_proxy`) lists who is reached without it: names with all below them, addresses, networks, or `*` for everybody. This
//! very machine is (`localhost` and its addresses), as Go's programs have it. The name of the other side is looked up by the proxy. What
//! passes through it is TLS or SSH in any case, so it sees no more than any network does.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::OnceLock;
use std::time::Duration;

use hyper::Uri;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

/// How long an HTTP proxy may take to connect us to somebody.
const ANSWER: Duration = Duration::from_secs(20);
/// The longest head of an answer that is read.
const MAX_HEAD: usize = 8 << 10;
const MAX_HEADERS: usize = 64;
/// The longest reason that is repeated.
const MAX_REASON: usize = 80;
/// The port of an HTTP proxy whose URL has none.
const DEFAULT_PORT: u16 = 80;

/// Connects to `host`, by the HTTP proxy of the environment if there is one for it. Each of the sockets has `patience` to be there.
pub(crate) async fn open(host: &str, port: u16, patience: Duration) -> io::Result<TcpStream> {
    static ENVIRONMENT: OnceLock<Ways> = OnceLock::new();
    ENVIRONMENT.get_or_init(Ways::of_environment).open(host, port, patience).await
}

/// Connects to `host` without any HTTP proxy, and not to addresses that are nobody's: those for all hosts or for groups of them lead to this
/// machine, or to whoever likes to answer. `patience` is for the name and all of its addresses.
pub(crate) async fn straight(host: &str, port: u16, patience: Duration) -> io::Result<TcpStream> {
    let connecting = async {
        let mut failure = io::Error::new(io::ErrorKind::InvalidInput, "it has no address of a host");
        for address in tokio::net::lookup_host((host, port)).await?.filter(|at| is_of_a_host(at.ip())) {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    };
    match tokio::time::timeout(patience, connecting).await {
        Ok(connected) => connected,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer")),
    }
}

fn is_of_a_host(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let is_broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    !address.is_unspecified() && !address.is_multicast() && !is_broadcast
}

/// `host` and port of `host:port` or `[host]:port`.
pub(crate) fn split(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    Some((bare.unwrap_or(host), port.parse().ok()?))
}

/// Who is reached through what.
struct Ways {
    /// None if what is said of it is not a URL that can be used.
    proxies: Option<Matcher>,
}

/// How a connection is made.
enum Way {
    Straight,
    Through(Intercept),
}

impl Ways {
    fn of_environment() -> Self {
        let first = |names: [&str; 2]| {
            let mut values = names.iter().filter_map(|name| std::env::var(name).ok());
            values.find(|value| !value.is_empty()).unwrap_or_default()
        };
        Self::new(&first(["HTTPS_PROXY", "https_proxy"]), &first(["NO_PROXY", "no_proxy"]))
    }

    fn new(proxy: &str, no: &str) -> Self {
        let usable = proxy.is_empty() || {
            let parsed: Option<Uri> = proxy.parse().ok();
            parsed.is_some_and(|uri| uri.host().is_some() && matches!(uri.scheme_str(), None | Some("http")))
        };
        Self { proxies: usable.then(|| Matcher::builder().https(proxy.to_owned()).no(no.to_owned()).build()) }
    }

    fn to(&self, host: &str, port: u16) -> io::Result<Way> {
        let ip = host.parse::<IpAddr>().ok();
        let here =
            host.eq_ignore_ascii_case("localhost") || ip.is_some_and(|ip| ip.to_canonical().is_loopback());
        if here {
            return Ok(Way::Straight);
        }
        let Some(proxies) = &self.proxies else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "HTTPS_PROXY is not the URL of an HTTP proxy: write http://host:port, or http://name:password@host:port",
            ));
        };
        // What is no host of a URL is not for a proxy either.
        let Ok(uri) = format!("https://{}/", authority(host, port)).parse::<Uri>() else {
            return Ok(Way::Straight);
        };
        Ok(proxies.intercept(&uri).map_or(Way::Straight, Way::Through))
    }

    async fn open(&self, host: &str, port: u16, patience: Duration) -> io::Result<TcpStream> {
        let proxy = match self.to(host, port)? {
            Way::Straight => return connect((host, port), patience).await,
            Way::Through(proxy) => proxy,
        };
        let (name, its_port) =
            (proxy.uri().host().unwrap_or_default(), proxy.uri().port_u16().unwrap_or(DEFAULT_PORT));
        let name = name.trim_start_matches('[').trim_end_matches(']');
        let said = |error: io::Error| {
            let at = authority(name, its_port);
            io::Error::new(error.kind(), format!("the HTTP proxy {at} (HTTPS_PROXY): {error}"))
        };
        let mut stream = connect((name, its_port), patience).await.map_err(said)?;
        let secret = proxy.basic_auth().map(|value| value.as_bytes());
        let target = authority(host, port);
        let asking = ask(&mut stream, &target, secret);
        match tokio::time::timeout(ANSWER, asking).await {
            Ok(asked) => asked.map_err(said)?,
            Err(_) => return Err(said(io::Error::new(io::ErrorKind::TimedOut, "no answer"))),
        }
        Ok(stream)
    }
}

impl fmt::Debug for Ways {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ways").finish_non_exhaustive()
    }
}

/// `host:port`, as it is written.
pub(crate) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

async fn connect(to: (&str, u16), patience: Duration) -> io::Result<TcpStream> {
    match tokio::time::timeout(patience, TcpStream::connect(to)).await {
        Ok(connected) => connected,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer")),
    }
}

/// Asks an HTTP proxy for a connection to `target`. Of what comes behind its answer nothing is read: it is the other side's, and an SSH server
/// speaks at once.
async fn ask(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    target: &str,
    secret: Option<&[u8]>,
) -> io::Result<()> {
    let mut request = Zeroizing::new(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").into_bytes());
    if let Some(secret) = secret {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(secret);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    stream.write_all(&request).await?;
    let mut head = Vec::with_capacity(256);
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= MAX_HEAD {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its answer is too long"));
        }
        head.push(stream.read_u8().await.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => io::Error::new(error.kind(), "it hangs up"),
            _ => error,
        })?);
    }
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut answer = httparse::Response::new(&mut headers);
    let parsed = answer.parse(&head).is_ok_and(|parsed| parsed.is_complete());
    let refused = |kind, why: String| Err(io::Error::new(kind, why));
    match answer.code.filter(|_| parsed) {
        Some(200..=299) => Ok(()),
        // By the definition it is 407; some say 401.
        Some(code @ (401 | 407)) if secret.is_some() => refused(
            io::ErrorKind::PermissionDenied,
            format!("it does not accept the name and the password in its URL ({code})"),
        ),
        Some(407) => refused(
            io::ErrorKind::PermissionDenied,
            "it asks for a name and a password (407): write http://name:password@host:port".to_owned(),
        ),
        Some(code) => {
            let reason: String = answer.reason.unwrap_or_default().chars().take(MAX_REASON).collect();
            let reason = reason.replace(|character: char| character.is_control(), "");
            refused(
                io::ErrorKind::ConnectionRefused,
                format!("it does not connect to {target}: {code} {reason}"),
            )
        }
        None => refused(io::ErrorKind::InvalidData, "it does not speak HTTP".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn way(ways: &Ways, host: &str) -> Option<String> {
        match ways.to(host, 443).unwrap() {
            Way::Straight => None,
            Way::Through(proxy) => Some(proxy.uri().authority().unwrap().to_string()),
        }
    }

    #[test]
    fn the_environment_says_who_is_reached_through_what() {
        let ways = Ways::new(
            "http://proxy.corp:3128",
            "example.com, .corp.example,10.0.0.0/8,2001:db8::/32,192.0.2.7",
        );
        for (host, through) in [
            ("example.org", true),
            ("example.com", false),
            ("www.example.com", false),
            ("notexample.com", true),
            ("a.corp.example", false),
            ("10.1.2.3", false),
            ("11.1.2.3", true),
            ("192.0.2.7", false),
            ("2001:db8::1", false),
            ("2001:db9::1", true),
            // This very machine, whatever is said.
            ("localhost", false),
            ("LOCALHOST", false),
            ("127.0.0.1", false),
            ("127.9.9.9", false),
            ("::1", false),
            ("::ffff:127.0.0.1", false),
        ] {
            assert_eq!(way(&ways, host).as_deref(), through.then_some("proxy.corp:3128"), "{host}");
        }
        assert_eq!(way(&Ways::new("http://proxy.corp:3128", "*"), "example.org"), None);
        assert_eq!(way(&Ways::new("", ""), "example.org"), None);
        assert_eq!(way(&Ways::new("proxy.corp:3128", ""), "example.org").as_deref(), Some("proxy.corp:3128"));
    }

    #[test]
    fn what_is_no_http_proxy_is_an_error_that_shows_no_password() {
        for wrong in
            ["socks5://u:secret@proxy:1080", "https://u:secret@proxy", "http://", "http://u:sec ret@x", "::"]
        {
            let ways = Ways::new(wrong, "");
            let error = ways.to("example.org", 1).err().unwrap().to_string();
            assert!(error.contains("HTTPS_PROXY") && !error.contains("sec"), "{error}");
            assert_eq!(way(&ways, "localhost"), None);
        }
    }

    async fn answered(answer: &[u8], secret: Option<&[u8]>) -> (io::Result<()>, String, Vec<u8>) {
        let (mut ours, mut theirs) = tokio::io::duplex(64 << 10);
        theirs.write_all(answer).await.unwrap();
        theirs.shutdown().await.unwrap();
        let asked = ask(&mut ours, "[2001:db8::1]:443", secret).await;
        let mut behind = Vec::new();
        ours.read_to_end(&mut behind).await.unwrap();
        drop(ours);
        let mut request = String::new();
        theirs.read_to_string(&mut request).await.unwrap();
        (asked, request, behind)
    }

    #[tokio::test]
    async fn what_comes_behind_the_answer_is_not_lost() {
        let answer = b"HTTP/1.0 200 Connection established\r\nProxy-agent: x\r\n\r\nSSH-2.0-server\r\n";
        let (asked, request, behind) = answered(answer, Some(b"Basic dTpw")).await;
        asked.unwrap();
        assert_eq!(behind, b"SSH-2.0-server\r\n");
        assert_eq!(
            request,
            "CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\nProxy-Authorization: Basic dTpw\r\n\r\n"
        );
    }

    #[tokio::test]
    async fn refusals_say_what_to_do() {
        for (answer, secret, says) in [
            (
                &b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"[..],
                None,
                "http://name:password@host:port",
            ),
            (b"HTTP/1.1 407 No\r\n\r\n", Some(&b"Basic x"[..]), "does not accept the name and the password"),
            (b"HTTP/1.1 401 No\r\n\r\n", Some(b"Basic x"), "does not accept the name and the password"),
            (b"HTTP/1.1 403 Filtered\x1b[31m\r\n\r\n", None, "does not speak HTTP"),
            (b"HTTP/1.1 403 Filtered\r\n\r\n", None, "does not connect to [2001:db8::1]:443: 403 Filtered"),
            (b"SSH-2.0-x\r\n\r\n", None, "does not speak HTTP"),
            (b"HTTP/1.1 200", None, "it hangs up"),
            (&[b'x'; 20_000], None, "too long"),
        ] {
            let (asked, _, _) = answered(answer, secret).await;
            let error = asked.unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[tokio::test]
    async fn nobody_is_reached_at_an_address_that_is_nobodys() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let to = async |host: &str| straight(host, port, Duration::from_secs(120)).await;
        for good in ["127.0.0.1", "localhost"] {
            to(good).await.unwrap();
        }
        // The first of them leads to this machine.
        for nobody in ["0.0.0.0", "::", "::ffff:0.0.0.0", "224.0.0.1", "ff02::1", "255.255.255.255"] {
            let error = to(nobody).await.unwrap_err();
            assert_eq!(error.to_string(), "it has no address of a host", "{nobody}");
        }
    }

    #[test]
    fn addresses_are_split() {
        assert_eq!(split("proxy.example.com:3080"), Some(("proxy.example.com", 3080)));
        assert_eq!(split("[2001:db8::1]:443"), Some(("2001:db8::1", 443)));
        assert_eq!(split("proxy"), None);
        assert_eq!(split("proxy:https"), None);
    }
}
