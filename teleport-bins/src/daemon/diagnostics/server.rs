//! The port for it: plain HTTP, without a login.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use teleport_core::task::{Shutdown, TaskScope};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::Diagnostics;

/// The most connections at a time. Whoever asks has one for a moment.
const MAX_CONNECTIONS: usize = 32;
/// How long one may last, and its request take to arrive.
const CONNECTION_LIMIT: Duration = Duration::from_secs(30);
const HEADER_LIMIT: Duration = Duration::from_secs(5);
/// How long nothing is accepted after that has failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// A port that is open.
#[derive(Debug)]
pub(in super::super) struct Server {
    listener: TcpListener,
    diagnostics: Diagnostics,
}

impl Server {
    pub(in super::super) async fn bind(address: SocketAddr, diagnostics: Diagnostics) -> Result<Self> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("diagnostics: cannot listen on {address}"))?;
        if !address.ip().is_loopback() {
            tracing::warn!(%address, "diagnostics are for everybody who reaches this address: nobody has to log in to read them");
        }
        Ok(Self { listener, diagnostics })
    }

    pub(in super::super) fn local_addr(&self) -> Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Answers until `shutdown` drains. Dropping the future ends everything at once.
    pub(in super::super) async fn serve(self, shutdown: Shutdown) {
        let Self { listener, diagnostics } = self;
        let (places, connections) = (Arc::new(Semaphore::new(MAX_CONNECTIONS)), TaskScope::new());
        let accepting = async {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    // There are no descriptors: not for ever.
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                };
                let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
                let diagnostics = diagnostics.clone();
                connections.spawn(async move {
                    let _ = tokio::time::timeout(CONNECTION_LIMIT, connection(stream, diagnostics)).await;
                    drop(place);
                });
            }
        };
        tokio::select! {
            () = accepting => {}
            () = shutdown.draining() => {}
        }
    }
}

async fn connection(stream: TcpStream, diagnostics: Diagnostics) {
    let service = service_fn(|request: Request<Incoming>| {
        let diagnostics = diagnostics.clone();
        async move { Ok::<_, Infallible>(answer(request.method(), request.uri().path(), &diagnostics).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_LIMIT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(error = &error as &dyn std::error::Error, "a request for diagnostics has failed");
    }
}

async fn answer(method: &Method, path: &str, diagnostics: &Diagnostics) -> Response<Full<Bytes>> {
    let known = matches!(path, "/healthz" | "/readyz" | "/metrics");
    if known && method != Method::GET && method != Method::HEAD {
        let mut refused = response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET is what is answered here\n");
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match path {
        "/healthz" => response(StatusCode::OK, JSON, "{\"status\":\"ok\"}\n"),
        "/readyz" => {
            let readiness = diagnostics.readiness().await;
            let status = if readiness.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            let mut text = serde_json::to_string(&readiness).unwrap_or_default();
            text.push('\n');
            response(status, JSON, text)
        }
        "/metrics" => response(StatusCode::OK, OPEN_METRICS, diagnostics.figures()),
        _ => response(StatusCode::NOT_FOUND, TEXT, "here are /healthz, /readyz and /metrics\n"),
    }
}

fn response(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
