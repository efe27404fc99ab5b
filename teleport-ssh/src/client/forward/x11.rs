//! Windows of programs on the node: `-X` and `-Y`.
//!
//! The node is told a cookie that was made up for this session. Whoever connects there and shows it gets the real one of this machine's
//! display put in its place, on this machine; the node never has it. So the cookie that a node knows is worth nothing once the session
//! is over.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use russh::ChannelOpenFailure;
use teleport_core::entropy::{Entropy, EntropyError, EntropyExt};
use teleport_core::secret::SecretBytes;
use teleport_core::task::TaskScope;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::ForwardError;
use super::incoming::{Opened, Purpose};
use super::remote::connect;
use super::spec::{Destination, host};
use crate::client::connection::NodeConnection;

/// The only way to authenticate that displays and everybody else have.
pub(in super::super) const PROTOCOL: &str = "MIT-MAGIC-COOKIE-1";
/// The length of its cookies.
const COOKIE_LEN: usize = 16;
/// The port of display 0.
const FIRST_PORT: u16 = 6000;
/// The most programs of a node on the display at a time: as many as displays allow.
const MAX_PROGRAMS: usize = 256;
/// How long a client may take to say who it is.
const SETUP_TIMEOUT: Duration = Duration::from_secs(30);
/// The first part of what a client says: the order of its bytes, the version, and the lengths of what follows.
const HEADER_LEN: usize = 12;

/// A text is not a display.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("DISPLAY is none: it is written as host:number.screen, :number or /path:number")]
#[non_exhaustive]
pub struct InvalidDisplay;

/// A display of this machine, or of one that it can reach: what `DISPLAY` says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Display {
    /// Where it listens.
    pub at: Destination,
    /// The screen.
    pub screen: u32,
}

impl Display {
    /// Reads `:0`, `unix:0.1`, `host:0`, or the path of a socket.
    ///
    /// # Errors
    /// [`InvalidDisplay`].
    pub fn parse(text: &str) -> Result<Self, InvalidDisplay> {
        let (name, rest) = text.rsplit_once(':').ok_or(InvalidDisplay)?;
        let (number, screen) = rest.split_once('.').unwrap_or((rest, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(number) || !digits(screen) {
            return Err(InvalidDisplay);
        }
        let screen = screen.parse().map_err(|_| InvalidDisplay)?;
        let port = number
            .parse()
            .ok()
            .and_then(|number: u16| FIRST_PORT.checked_add(number))
            .ok_or(InvalidDisplay)?;
        let at = match name {
            "" | "unix" => Destination::Unix(PathBuf::from(format!("/tmp/.X11-unix/X{number}"))),
            // As macOS has it.
            path if path.starts_with('/') => Destination::Unix(PathBuf::from(format!("{path}:{number}"))),
            name => {
                let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
                Destination::Tcp { host: host(name).ok_or(InvalidDisplay)?.to_owned(), port }
            }
        };
        Ok(Self { at, screen })
    }
}

/// A display that programs on the node may use.
#[derive(Debug)]
pub struct ForwardedDisplay {
    display: Display,
    real: SecretBytes,
    made_up: SecretBytes,
    /// Until when programs are let in.
    until: Option<Instant>,
}

impl ForwardedDisplay {
    /// `cookie` is the display's real one; `None` for a display that asks for none, which then decides by itself.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn new(
        display: Display,
        cookie: Option<SecretBytes>,
        entropy: &dyn Entropy,
    ) -> Result<Self, EntropyError> {
        let random = || Ok(SecretBytes::new(entropy.bytes::<COOKIE_LEN>()?.to_vec()));
        let real = match cookie.filter(|cookie| cookie.expose().len() == COOKIE_LEN) {
            Some(cookie) => cookie,
            None => random()?,
        };
        Ok(Self { display, real, made_up: random()?, until: None })
    }

    /// For so long, from now on, and no new program after it. For a cookie that the display forgets: without it a display may judge by
    /// who connects, which is the user.
    #[must_use]
    pub fn lasting(mut self, time: Duration) -> Self {
        self.until = Instant::now().checked_add(time);
        self
    }

    /// The cookie that the node is told, in hexadecimal.
    pub(in super::super) fn shown(&self) -> String {
        self.made_up.expose().iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// The screen that the node is told.
    pub(in super::super) const fn screen(&self) -> u32 {
        self.display.screen
    }
}

impl NodeConnection {
    /// Lets programs on the node use `display`, in sessions that ask for it; until the future is dropped. Each program is a task of
    /// `connections`.
    ///
    /// # Errors
    /// [`ForwardError::Twice`].
    pub fn forward_x11(
        &self,
        display: Arc<ForwardedDisplay>,
        connections: TaskScope,
    ) -> Result<impl Future<Output = ()> + Send + use<>, ForwardError> {
        let Some(mut opened) = self.incoming.expect(Purpose::X11) else {
            return Err(ForwardError::Twice { listen: "the display".to_owned() });
        };
        let room = Arc::new(Semaphore::new(MAX_PROGRAMS));
        Ok(async move {
            while let Some(opened) = opened.recv().await {
                let Ok(place) = Arc::clone(&room).try_acquire_owned() else {
                    opened.reply.reject(ChannelOpenFailure::ResourceShortage).await;
                    continue;
                };
                let display = Arc::clone(&display);
                connections.spawn(async move {
                    let _place = place;
                    if let Err(error) = show(opened, &display).await {
                        tracing::warn!(%error, "a program of the node was kept from the display");
                    }
                });
            }
        })
    }
}

async fn show(Opened { channel, reply }: Opened, display: &ForwardedDisplay) -> io::Result<()> {
    if display.until.is_some_and(|until| Instant::now() >= until) {
        reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
        return Err(io::Error::new(io::ErrorKind::TimedOut, "the time of its cookie is over"));
    }
    let mut socket = match connect(&display.display.at).await {
        Ok(socket) => socket,
        Err(error) => {
            reply.reject(ChannelOpenFailure::ConnectFailed).await;
            return Err(error);
        }
    };
    reply.accept().await;
    let mut stream = channel.into_stream();
    let setup = tokio::time::timeout(SETUP_TIMEOUT, setup(&mut stream, display)).await;
    let setup = setup.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    socket.write_all(setup.expose()).await?;
    tokio::io::copy_bidirectional(&mut stream, &mut socket).await.map(drop)
}

/// Reads who a program says to be, and gives what the display is to hear instead.
async fn setup(stream: &mut (impl AsyncRead + Unpin), display: &ForwardedDisplay) -> io::Result<SecretBytes> {
    let denied = |why: &str| io::Error::new(io::ErrorKind::PermissionDenied, why.to_owned());
    let mut header = [0; HEADER_LEN];
    stream.read_exact(&mut header).await?;
    let [order, _, _, _, _, _, n0, n1, d0, d1, _, _] = header;
    let read = match order {
        b'B' => u16::from_be_bytes,
        b'l' => u16::from_le_bytes,
        _ => return Err(denied("it does not speak the protocol of displays")),
    };
    // So no more is read than a cookie has.
    if usize::from(read([n0, n1])) != PROTOCOL.len() || usize::from(read([d0, d1])) != COOKIE_LEN {
        return Err(denied("it has no cookie"));
    }
    // Both are padded to words.
    let mut name = [0; PROTOCOL.len().next_multiple_of(4)];
    stream.read_exact(&mut name).await?;
    let mut cookie = vec![0; COOKIE_LEN];
    stream.read_exact(&mut cookie).await?;
    let cookie = SecretBytes::new(cookie);
    if !name.starts_with(PROTOCOL.as_bytes()) || cookie != display.made_up {
        return Err(denied("it has another cookie"));
    }
    Ok(SecretBytes::new([&header[..], &name, display.real.expose()].concat()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
    use teleport_core::entropy::SystemEntropy;

    use super::*;

    #[test]
    fn displays_are_what_the_variable_says() {
        let unix = |path: &str| Destination::Unix(path.into());
        let tcp = |host: &str, port| Destination::Tcp { host: host.to_owned(), port };
        for (text, at, screen) in [
            (":0", unix("/tmp/.X11-unix/X0"), 0),
            ("unix:12.3", unix("/tmp/.X11-unix/X12"), 3),
            ("localhost:10.0", tcp("localhost", 6010), 0),
            ("[::1]:1", tcp("::1", 6001), 0),
            ("/private/tmp/launch/org.xquartz:0", unix("/private/tmp/launch/org.xquartz:0"), 0),
        ] {
            assert_eq!(Display::parse(text), Ok(Display { at, screen }), "{text}");
        }
        for bad in [
            "",
            ":",
            "0",
            ":x",
            ":0.x",
            ":-1",
            "$(id):0",
            "-o:0",
            "a b:0",
            ":65535",
            ":99999",
            ":0.99999999999",
        ] {
            assert_eq!(Display::parse(bad), Err(InvalidDisplay), "{bad}");
        }
    }

    fn hello(order: u8, name: &[u8], cookie: &[u8]) -> Vec<u8> {
        let len = |part: &[u8]| {
            let len = u16::try_from(part.len()).unwrap();
            if order == b'B' { len.to_be_bytes() } else { len.to_le_bytes() }
        };
        let mut hello = vec![order, 0, 0, 11, 0, 0];
        hello.extend([len(name), len(cookie), [0, 0]].concat());
        for part in [name, cookie] {
            hello.extend_from_slice(part);
            hello.resize(hello.len().next_multiple_of(4), 0);
        }
        hello
    }

    #[tokio::test]
    async fn only_the_made_up_cookie_becomes_the_real_one() {
        let entropy = SystemEntropy::new();
        let real = vec![7; COOKIE_LEN];
        let display = Display::parse(":0").unwrap();
        let display = ForwardedDisplay::new(display, Some(SecretBytes::new(real.clone())), &entropy).unwrap();
        let made_up = display.made_up.expose().to_vec();
        assert_eq!(display.shown().len(), 2 * COOKIE_LEN);
        assert_ne!(made_up, real);
        for order in [b'B', b'l'] {
            let said = [hello(order, PROTOCOL.as_bytes(), &made_up), b"more".to_vec()].concat();
            let mut stream = &said[..];
            let heard = setup(&mut stream, &display).await.unwrap();
            assert_eq!(heard.expose(), hello(order, PROTOCOL.as_bytes(), &real));
            assert_eq!(stream, b"more");
            let short = &said[..20];
            for said in [
                &hello(order, PROTOCOL.as_bytes(), &real)[..],
                &hello(order, PROTOCOL.as_bytes(), &[]),
                &hello(order, b"", b""),
                &hello(order, b"MIT-MAGIC-COOKIE-2", &made_up),
                &hello(order, b"XDM-AUTHORIZATION-1", &made_up),
                &hello(order, &[b'x'; 60_000], &[0; 60_000]),
                b"GET / HTTP/1.1\r\n\r\n",
                short,
                b"",
            ] {
                assert!(setup(&mut &said[..], &display).await.is_err(), "{said:?}");
            }
        }
        // Without a cookie of its own the display hears none that anybody knows.
        let none = ForwardedDisplay::new(Display::parse(":0").unwrap(), None, &entropy).unwrap();
        assert_ne!(none.real.expose(), none.made_up.expose());
    }
}
