//! Requests to an authority: over TLS alone, one connection each, with bounded answers.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{CONTENT_TYPE, DATE, HOST, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use teleport_core::clock::{Clock, Timestamp};
use teleport_core::task::TaskScope;
use tokio_rustls::TlsConnector;

use super::plan;
use crate::rpc::TcpConnector;
use crate::rpc::tls::{ServerTrust, client_config};

/// How long a request may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// The longest answer. Chains of certificates have some kilobytes.
const MAX_ANSWER: usize = 256 << 10;
/// What an answer is whose request the authority refuses.
const PROBLEM: &str = "application/problem+json";

/// Sends them. Clones have the last answer in common.
#[derive(Clone)]
pub(super) struct Http {
    tls: Arc<ClientConfig>,
    clock: Arc<dyn Clock>,
    /// What the last answer said about coming back.
    after: Arc<Mutex<Option<Duration>>>,
}

impl Http {
    pub(super) fn new(roots: Vec<Vec<u8>>, clock: Arc<dyn Clock>) -> Result<Self, rustls::Error> {
        let protocols = vec![b"http/1.1".to_vec()];
        let tls = client_config(ServerTrust::Roots(roots), &[], None, protocols, Arc::clone(&clock), None)?;
        Ok(Self { tls: Arc::new(tls), clock, after: Arc::default() })
    }

    /// What the last answer said about coming back, if it was a refusal.
    pub(super) fn after(&self) -> Option<Duration> {
        *self.last()
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Option<Duration>> {
        self.after.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(self, mut request: Request<BodyWrapper<Bytes>>) -> io::Result<BytesResponse> {
        let wrong = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text.to_owned());
        let uri = request.uri().clone();
        let (Some("https"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(wrong("it names an address that does not begin with https://"));
        };
        let host = authority.host();
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let name = ServerName::try_from(bare.to_owned()).map_err(io::Error::other)?;
        let address = format!("{host}:{}", authority.port_u16().unwrap_or(443));
        let tcp = TcpConnector::new([address]).tcp().await?;
        let tls = TlsConnector::from(self.tls.clone()).connect(name, tcp).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.map_err(io::Error::other)?;
        let driver = TaskScope::new();
        driver.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = &error as &dyn std::error::Error, "the connection broke off");
            }
        });
        let value = HeaderValue::from_str(authority.as_str()).map_err(io::Error::other)?;
        request.headers_mut().insert(HOST, value);
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = path.parse().map_err(io::Error::other)?;
        let answer = sender.send_request(request).await.map_err(io::Error::other)?;
        let (mut parts, body) = answer.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(io::Error::other)?.to_bytes();
        let failed = !parts.status.is_success() && !parts.status.is_redirection();
        let said = |name: HeaderName| parts.headers.get(name).and_then(|value| value.to_str().ok());
        // By the clock that the moment is of, where that is told.
        let now = said(DATE).and_then(moment).unwrap_or_else(|| self.clock.now());
        let asked = said(RETRY_AFTER).and_then(|value| asked(value, now));
        *self.last() = asked.filter(|_| failed);
        // The crate adds it to the time of day, and there are sums that no time of day can be.
        if asked.is_some_and(|asked| asked > plan::LONGEST_ASKED) {
            parts.headers.remove(RETRY_AFTER);
        }
        let kind = parts.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if failed && !kind.starts_with(PROBLEM) {
            // Not of the authority itself, but of what is in front of it.
            return Err(io::Error::other(format!("the answer was HTTP {}", parts.status)));
        }
        Ok(BytesResponse::from(Response::from_parts(parts, Full::new(body))))
    }
}

/// For how long the value of a header asks at `now`: seconds, or until a moment. One that has been says nothing.
fn asked(value: &str, now: Timestamp) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    Some(moment(value)?.saturating_since(now)).filter(|left| !left.is_zero())
}

fn moment(value: &str) -> Option<Timestamp> {
    let at = httpdate::parse_http_date(value.trim()).ok()?;
    let since = at.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(Timestamp::from_unix_secs(since.as_secs()))
}

impl HttpClient for Http {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let (http, last) = (self.clone(), self.clone());
        Box::pin(async move {
            *last.last() = None;
            match tokio::time::timeout(DEADLINE, http.send(request)).await {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(error)) => Err(Error::Other(Box::new(error))),
                Err(_) => Err(Error::Other(Box::new(io::Error::from(io::ErrorKind::TimedOut)))),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_says_how_long_or_until_when() {
        // Sun, 06 Nov 1994 08:49:37 GMT.
        let now = Timestamp::from_unix_secs(784_111_777);
        for (value, seconds) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:51:37 GMT", Some(120)),
            // The other two forms that HTTP knows.
            ("Sunday, 06-Nov-94 09:49:37 GMT", Some(3600)),
            ("Sun Nov  6 08:49:38 1994", Some(1)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", None),
            ("Sun, 06 Nov 1994 08:49:37 GMT", None),
            ("", None),
            ("-1", None),
            ("soon", None),
            ("Sun, 06 Nov 1994 25:49:37 GMT", None),
        ] {
            assert_eq!(asked(value, now), seconds.map(Duration::from_secs), "{value:?}");
        }
        assert!(asked("Fri, 31 Dec 9999 23:59:59 GMT", now).is_some_and(|asked| asked > plan::LONGEST_ASKED));
    }
}
