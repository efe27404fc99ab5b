//! What proxies need to stand in for registered SSH servers, which are nodes without software of ours.
#![expect(clippy::exhaustive_structs, reason = "callers build requests")]

use std::fmt;
use std::net::IpAddr;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{ApiResult, AuditApi, ConnectionApi, SessionReportApi};
use crate::cert::{IssuedSshCertificate, PublicKey};
use crate::id::{HostId, OsLogin};

/// A proxy is to be a registered SSH server for its users.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StandIn {
    /// The server.
    pub node: HostId,
    /// A fresh key of the proxy.
    pub key: PublicKey,
}

/// A proxy is to log in to a registered SSH server for a user whom it has let in.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenSshLogin {
    /// The server.
    pub node: HostId,
    /// As whom.
    pub login: OsLogin,
    /// The user's own SSH certificate: one line, `algorithm base64`. By it the auth service decides anew.
    pub certificate: String,
    /// From where the user comes.
    pub client_ip: Option<IpAddr>,
    /// A fresh key of the proxy.
    pub key: PublicKey,
}

/// Certificates by which a proxy stands between users and a registered SSH server ([`NodeKind::OpenSsh`]). For proxies only, and for
/// such servers only: for no node of this software.
///
/// [`NodeKind::OpenSsh`]: crate::resource::NodeKind::OpenSsh
#[async_trait]
pub trait StandInApi: fmt::Debug + Send + Sync + 'static {
    /// A host certificate with the server's names, for clients. The API knows nobody by it.
    ///
    /// # Errors
    /// [`ApiErrorKind::Denied`](super::ApiErrorKind::Denied) for anybody but proxies and for nodes that are no such servers.
    async fn stand_in(&self, request: StandIn) -> ApiResult<IssuedSshCertificate>;

    /// A certificate for one login of one user, for the server. Whether the user may log in there is decided by the user's certificate
    /// and by what roles and locks say now.
    ///
    /// # Errors
    /// [`ApiErrorKind::Denied`](super::ApiErrorKind::Denied) as above, and if the user may not.
    async fn openssh_login(&self, request: OpenSshLogin) -> ApiResult<IssuedSshCertificate>;
}

/// What a proxy needs that stands in for registered SSH servers.
pub trait StandInAccess: StandInApi + ConnectionApi + SessionReportApi + AuditApi {}
impl<T: StandInApi + ConnectionApi + SessionReportApi + AuditApi + ?Sized> StandInAccess for T {}
