//! What the proxy answers.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Request, StatusCode};
use serde::de::DeserializeOwned;
use teleport_core::api::{
    AcceptInvite, ApiError, ApiErrorKind, ApiResult, JoinRequest, LoginRequest, ProxyAccess,
};
use teleport_core::clock::Clock;
use teleport_core::secret::SecretString;

use super::WebRates;
use super::pages::Page;
use crate::listener::limits::Source;
use crate::rpc::SecretBody;
use crate::rpc::http::{Answer, answer, json, parse, read_body, refuse};
use crate::rpc::limits::Buckets;
use crate::rpc::routes::MAX_PUBLIC_BODY;

/// How often an address has asked.
#[derive(Debug)]
pub(super) struct Throttle {
    secrets: Mutex<Buckets<Source>>,
    others: Mutex<Buckets<Source>>,
    clock: Arc<dyn Clock>,
}

impl Throttle {
    pub(super) fn new(rates: WebRates, clock: Arc<dyn Clock>) -> Self {
        let WebRates { secrets, others } = rates;
        Self { secrets: Mutex::new(Buckets::new(secrets)), others: Mutex::new(Buckets::new(others)), clock }
    }

    fn check(&self, buckets: &Mutex<Buckets<Source>>, client: IpAddr) -> ApiResult<()> {
        let taken =
            buckets.lock().unwrap_or_else(PoisonError::into_inner).take(Source::of(client), self.clock.now());
        if taken {
            return Ok(());
        }
        tracing::info!(%client, "too many requests of one address");
        Err(ApiError::new(ApiErrorKind::TooMany, "too many requests; try again in a minute"))
    }
}

/// The routes and what stands behind them.
pub(super) struct Routes {
    api: Arc<dyn ProxyAccess>,
    throttle: Throttle,
    ssh_address: Option<String>,
    tunnel_address: Option<String>,
}

impl fmt::Debug for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Routes").field("ssh_address", &self.ssh_address).finish_non_exhaustive()
    }
}

impl Routes {
    pub(super) fn new(
        api: Arc<dyn ProxyAccess>,
        throttle: Throttle,
        (ssh_address, tunnel_address): (Option<String>, Option<String>),
    ) -> Self {
        Self { api, throttle, ssh_address, tunnel_address }
    }

    /// Answers a request of `client`, whose address is that of the socket: no header changes it.
    pub(super) async fn answer(&self, request: Request<Incoming>, client: IpAddr) -> Answer {
        let mut answer = match self.route(request, client).await {
            Ok(answer) => answer,
            Err(error) => refuse(&error),
        };
        answer
            .headers_mut()
            .insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
        answer
    }

    async fn route(&self, request: Request<Incoming>, client: IpAddr) -> ApiResult<Answer> {
        let path = request.uri().path();
        let rated = if Page::guesses(path) { &self.throttle.secrets } else { &self.throttle.others };
        self.throttle.check(rated, client)?;
        let page = Page::of(request.method(), path).ok_or_else(|| ApiError::not_found("the page"))?;
        match page {
            Page::Find | Page::Ping => {
                let mut ping = self.api.ping().await?;
                ping.proxy_ssh_address.clone_from(&self.ssh_address);
                ping.proxy_tunnel_address.clone_from(&self.tunnel_address);
                Ok(json(StatusCode::OK, &ping))
            }
            Page::Login => {
                let login = message::<LoginRequest>(request).await?;
                Ok(json(
                    StatusCode::OK,
                    &self.api.login(LoginRequest { client_ip: Some(client), ..login }).await?,
                ))
            }
            Page::Join => {
                let join = message::<JoinRequest>(request).await?;
                Ok(json(
                    StatusCode::OK,
                    &self.api.join(JoinRequest { client_ip: Some(client), ..join }).await?,
                ))
            }
            Page::ShowInvite => {
                let token = bearer(&request).ok_or_else(|| ApiError::not_found("the invite"))?;
                Ok(json(StatusCode::OK, &self.api.invite(token).await?))
            }
            Page::Invite => {
                let SecretBody { token } = message(request).await?;
                Ok(json(StatusCode::OK, &self.api.invite(token).await?))
            }
            Page::AcceptInvite => {
                let accept = message::<AcceptInvite>(request).await?;
                self.api.accept_invite(AcceptInvite { client_ip: Some(client), ..accept }).await?;
                Ok(answer(StatusCode::NO_CONTENT, "application/json", Bytes::new()))
            }
        }
    }
}

/// The secret of `Authorization: Bearer …`.
fn bearer(request: &Request<Incoming>) -> Option<SecretString> {
    let text = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
    Some(SecretString::new(text.strip_prefix("Bearer ")?))
}

/// The body, which must say that it is JSON: a page of another site cannot send that without being asked first.
async fn message<T: DeserializeOwned>(request: Request<Incoming>) -> ApiResult<T> {
    let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.split(';').next().unwrap_or_default().trim() != "application/json" {
        return Err(ApiError::invalid("the content type must be application/json"));
    }
    parse(&read_body(request.into_body(), MAX_PUBLIC_BODY).await?)
}
