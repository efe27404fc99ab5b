//! A look at the beginning of a connection, before anybody answers.

use std::io;

use bytes::BytesMut;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::mux::{Protocol, protocol};

/// The longest beginning that is looked at: two TLS records' worth is more than any ClientHello needs.
const MAX_HELLO: usize = 16 << 10;

/// What a client begins with.
#[derive(Debug)]
pub(crate) struct Hello {
    /// All that was read, to be given to whoever answers.
    pub(crate) bytes: BytesMut,
    /// The protocols that it offers (ALPN).
    pub(crate) protocols: Vec<Vec<u8>>,
}

/// What a connection begins as. What was read is in it.
#[derive(Debug)]
pub(super) enum Begun {
    /// With HTTP, without TLS.
    Http,
    /// With SSH.
    Ssh(BytesMut),
    /// With TLS.
    Tls(Hello),
}

/// Reads until it is known which protocol a client speaks, and of TLS a whole ClientHello; not much more. Not cancel safe: what was read is
/// lost.
pub(super) async fn begin(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Begun> {
    let mut bytes = BytesMut::with_capacity(1024);
    loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        return match protocol(&bytes) {
            Protocol::Partial => continue,
            Protocol::Http => Ok(Begun::Http),
            Protocol::Ssh => Ok(Begun::Ssh(bytes)),
            Protocol::Tls => Ok(Begun::Tls(hello_behind(bytes, stream).await?)),
            Protocol::ProxyHeader => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a header of the PROXY protocol, which is not taken from there (proxy_protocol)",
            )),
            Protocol::Unknown => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "neither TLS nor SSH nor HTTP"))
            }
        };
    }
}

/// Reads a whole ClientHello and not much more. Not cancel safe: what was read is lost.
pub(crate) async fn hello(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Hello> {
    match begin(stream).await? {
        Begun::Tls(hello) => Ok(hello),
        Begun::Http | Begun::Ssh(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "not TLS")),
    }
}

/// The same for one whose beginning was read.
async fn hello_behind(mut bytes: BytesMut, stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Hello> {
    let mut acceptor = Acceptor::default();
    let mut read = 0;
    loop {
        let mut fresh = bytes.get(read..).unwrap_or_default();
        while !fresh.is_empty() {
            if acceptor.read_tls(&mut fresh)? == 0 {
                break;
            }
        }
        read = bytes.len();
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let protocols = accepted.client_hello().alpn();
                let protocols =
                    protocols.map(|names| names.map(<[u8]>::to_vec).collect()).unwrap_or_default();
                return Ok(Hello { bytes, protocols });
            }
            Ok(None) => {}
            Err((error, _)) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
        if bytes.len() >= MAX_HELLO {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the ClientHello is too long"));
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[tokio::test]
    async fn what_is_not_tls_is_seen_at_once() {
        for garbage in [&b"GET / HTTP/1.1\r\n"[..], b"SSH-2.0-x\r\n", b"\0", b"PROXY TCP4 1.2.3.4 ", b"PRO!"]
        {
            let error = hello(&mut &*garbage).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{garbage:?}");
        }
    }

    #[tokio::test]
    async fn a_beginning_without_an_end_is_bounded() {
        // A handshake message of 16 MiB, in records of 16 KiB.
        let mut endless = vec![0x16, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff];
        endless.resize(64 << 10, 0);
        assert!(hello(&mut &*endless).await.is_err());
        let half = [0x16, 3, 1, 0, 200, 1, 0];
        let error = hello(&mut &half[..]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
