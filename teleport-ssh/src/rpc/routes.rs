//! Every route of the auth API, for both halves.
//!
//! JSON over HTTP/2 inside mutually authenticated TLS. Requests refuse unknown keys, answers may grow. Secrets travel in bodies only:
//! paths and queries end in logs.

use std::fmt;

use hyper::Method;
use teleport_core::auth::policy::Operation;
use teleport_core::id::{HostId, LockName, RoleName, SessionId, UserName};
use teleport_core::recording::MAX_PART_LEN;

/// The longest body of a caller who is known.
pub(crate) const MAX_BODY: usize = 1 << 20;
/// The longest body of anybody else.
pub(crate) const MAX_PUBLIC_BODY: usize = 256 << 10;

/// A request's method and path. `Display` is the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    AcceptInvite,
    ActiveSession(SessionId),
    ActiveSessions,
    AddMfaDevice,
    AddUser,
    AnnounceNode,
    AnnounceProxy,
    BeginMfaDevice,
    ChangePassword,
    CompleteRecording(SessionId),
    CreateLock,
    CreateRecording,
    DeleteRecording(SessionId),
    HoldRecording(SessionId),
    ReleaseRecording(SessionId),
    RewrapRecording(SessionId),
    CreateRole,
    CreateToken,
    CreateUser,
    DeleteLock(LockName),
    DeleteNode(HostId),
    DeleteRole(RoleName),
    DeleteToken,
    DeleteUser(UserName),
    EmitEvents,
    HoldConnections,
    Invite,
    Join,
    KeepAlive,
    Lock(LockName),
    Locks,
    Login,
    MfaDevices,
    Nodes,
    OpenSshLogin,
    Ping,
    PutRecordingPart(SessionId, u32),
    ReadRecording(SessionId, u64),
    Recording(SessionId),
    RecordingParts(SessionId),
    Recordings,
    ReissueUser,
    ReleaseConnections,
    RemoveMfaDevice,
    RenewHost,
    ReplaceLock,
    ReplaceRole,
    ReplaceToken,
    ReplaceUser,
    ReportSessions,
    ResetUser(UserName),
    Role(RoleName),
    Roles,
    SearchEvents,
    Secrets,
    SignHost,
    SignUser,
    StandIn,
    AuditAnchors,
    Status,
    TerminateSession(SessionId),
    StreamRecording(SessionId, u64),
    TokenDocuments,
    Tokens,
    Trust,
    UnlockUser(UserName),
    UpdateUser(UserName),
    User(UserName),
    UserDocuments,
    Users,
    WatchAccess,
    WatchNodes,
}

impl Route {
    /// The method.
    pub(crate) const fn method(&self) -> Method {
        match self {
            Self::ActiveSession(_)
            | Self::ActiveSessions
            | Self::Lock(_)
            | Self::Locks
            | Self::MfaDevices
            | Self::Nodes
            | Self::Ping
            | Self::ReadRecording(..)
            | Self::Recording(_)
            | Self::RecordingParts(_)
            | Self::Role(_)
            | Self::Roles
            | Self::AuditAnchors
            | Self::Status
            | Self::TokenDocuments
            | Self::Tokens
            | Self::Trust
            | Self::User(_)
            | Self::UserDocuments
            | Self::Users
            | Self::WatchAccess
            | Self::WatchNodes => Method::GET,
            Self::AnnounceNode
            | Self::AnnounceProxy
            | Self::PutRecordingPart(..)
            | Self::ReplaceLock
            | Self::ReplaceRole
            | Self::ReplaceToken
            | Self::ReplaceUser
            | Self::ReportSessions
            | Self::StreamRecording(..)
            | Self::UpdateUser(_) => Method::PUT,
            Self::DeleteLock(_) | Self::DeleteNode(_) | Self::DeleteRole(_) | Self::DeleteUser(_) => {
                Method::DELETE
            }
            _ => Method::POST,
        }
    }

    /// What the route is for.
    pub(crate) const fn operation(&self) -> Operation {
        match self {
            Self::AcceptInvite => Operation::AcceptInvite,
            Self::ActiveSession(..) => Operation::ActiveSession,
            Self::ActiveSessions => Operation::ActiveSessions,
            Self::AddMfaDevice => Operation::AddMfaDevice,
            Self::AddUser => Operation::AddUser,
            Self::AnnounceNode => Operation::AnnounceNode,
            Self::AnnounceProxy => Operation::AnnounceProxy,
            Self::BeginMfaDevice => Operation::BeginMfaDevice,
            Self::ChangePassword => Operation::ChangePassword,
            Self::CompleteRecording(..) => Operation::CompleteRecording,
            Self::CreateLock => Operation::CreateLock,
            Self::CreateRecording => Operation::CreateRecording,
            Self::DeleteRecording(..) => Operation::DeleteRecording,
            Self::HoldRecording(..) => Operation::HoldRecording,
            Self::ReleaseRecording(..) => Operation::ReleaseRecording,
            Self::RewrapRecording(..) => Operation::RewrapRecording,
            Self::CreateRole => Operation::CreateRole,
            Self::CreateToken => Operation::CreateToken,
            Self::CreateUser => Operation::CreateUser,
            Self::DeleteLock(..) => Operation::DeleteLock,
            Self::DeleteNode(..) => Operation::DeleteNode,
            Self::DeleteRole(..) => Operation::DeleteRole,
            Self::DeleteToken => Operation::DeleteToken,
            Self::DeleteUser(..) => Operation::DeleteUser,
            Self::EmitEvents => Operation::EmitEvents,
            Self::HoldConnections => Operation::HoldConnections,
            Self::Invite => Operation::Invite,
            Self::Join => Operation::Join,
            Self::KeepAlive => Operation::KeepAlive,
            Self::Lock(..) => Operation::Lock,
            Self::Locks => Operation::Locks,
            Self::Login => Operation::Login,
            Self::MfaDevices => Operation::MfaDevices,
            Self::Nodes => Operation::Nodes,
            Self::Ping => Operation::Ping,
            Self::PutRecordingPart(..) => Operation::PutRecordingPart,
            Self::ReadRecording(..) => Operation::ReadRecording,
            Self::Recording(..) => Operation::Recording,
            Self::RecordingParts(..) => Operation::RecordingParts,
            Self::Recordings => Operation::Recordings,
            Self::ReissueUser => Operation::ReissueUser,
            Self::ReleaseConnections => Operation::ReleaseConnections,
            Self::RemoveMfaDevice => Operation::RemoveMfaDevice,
            Self::RenewHost => Operation::RenewHost,
            Self::ReplaceLock => Operation::ReplaceLock,
            Self::ReplaceRole => Operation::ReplaceRole,
            Self::ReplaceToken => Operation::ReplaceToken,
            Self::ReplaceUser => Operation::ReplaceUser,
            Self::ReportSessions => Operation::ReportSessions,
            Self::ResetUser(..) => Operation::ResetUser,
            Self::Role(..) => Operation::Role,
            Self::Roles => Operation::Roles,
            Self::SearchEvents => Operation::SearchEvents,
            Self::Secrets => Operation::Secrets,
            Self::SignHost => Operation::SignHost,
            Self::StandIn => Operation::StandIn,
            Self::OpenSshLogin => Operation::OpenSshLogin,
            Self::SignUser => Operation::SignUser,
            Self::AuditAnchors => Operation::AuditAnchors,
            Self::Status => Operation::Status,
            Self::TerminateSession(..) => Operation::TerminateSession,
            Self::StreamRecording(..) => Operation::StreamRecording,
            Self::TokenDocuments => Operation::TokenDocuments,
            Self::Tokens => Operation::Tokens,
            Self::Trust => Operation::Trust,
            Self::UnlockUser(..) => Operation::UnlockUser,
            Self::UpdateUser(..) => Operation::UpdateUser,
            Self::User(..) => Operation::User,
            Self::UserDocuments => Operation::UserDocuments,
            Self::Users => Operation::Users,
            Self::WatchAccess => Operation::WatchAccess,
            Self::WatchNodes => Operation::WatchNodes,
        }
    }

    /// What a caller without a certificate may call: joining, and what is no secret. People log in and accept invites at a
    /// proxy, which rates them and calls for them. This is the first of two fences, the auth service's policy is the other.
    pub(crate) const fn is_public(&self) -> bool {
        matches!(self, Self::Join | Self::Ping | Self::Trust)
    }

    /// The longest body, in bytes.
    pub(crate) const fn max_body(&self) -> usize {
        match self {
            Self::PutRecordingPart(..) => MAX_PART_LEN,
            Self::AcceptInvite | Self::Invite | Self::Join | Self::Login | Self::Ping | Self::Trust => {
                MAX_PUBLIC_BODY
            }
            _ => MAX_BODY,
        }
    }

    /// The route of a request; `None` if there is none.
    pub(crate) fn parse(method: &Method, path: &str) -> Option<Self> {
        let route = Self::of_path(method, path.strip_prefix("/v1/")?)?;
        (route.method() == *method).then_some(route)
    }

    fn of_path(method: &Method, path: &str) -> Option<Self> {
        let mut words = path.split('/');
        let mut word = || words.next();
        let parts = (word()?, word(), word(), word(), word());
        Some(match parts {
            ("ping", None, ..) => Self::Ping,
            ("join", None, ..) => Self::Join,
            ("login", None, ..) => Self::Login,
            ("invites", Some("show"), None, ..) => Self::Invite,
            ("invites", Some("accept"), None, ..) => Self::AcceptInvite,
            ("identity", Some("host"), None, ..) => Self::RenewHost,
            ("identity", Some("user"), None, ..) => Self::ReissueUser,
            ("account", Some("password"), None, ..) => Self::ChangePassword,
            ("account", Some("mfa"), None, ..) if *method == Method::GET => Self::MfaDevices,
            ("account", Some("mfa"), None, ..) => Self::AddMfaDevice,
            ("account", Some("mfa"), Some("begin"), None, _) => Self::BeginMfaDevice,
            ("account", Some("mfa"), Some("remove"), None, _) => Self::RemoveMfaDevice,
            ("presence", Some("node"), None, ..) => Self::AnnounceNode,
            ("presence", Some("node"), Some("alive"), None, _) => Self::KeepAlive,
            ("presence", Some("proxy"), None, ..) => Self::AnnounceProxy,
            ("connections", Some("hold"), None, ..) => Self::HoldConnections,
            ("connections", Some("release"), None, ..) => Self::ReleaseConnections,
            ("sessions", None, ..) if *method == Method::GET => Self::ActiveSessions,
            ("sessions", None, ..) => Self::ReportSessions,
            ("sessions", Some(id), None, ..) => Self::ActiveSession(id.parse().ok()?),
            ("sessions", Some(id), Some("end"), None, _) => Self::TerminateSession(id.parse().ok()?),
            ("nodes", None, ..) => Self::Nodes,
            ("nodes", Some("watch"), None, ..) => Self::WatchNodes,
            ("nodes", Some(id), None, ..) => Self::DeleteNode(id.parse().ok()?),
            ("trust", None, ..) => Self::Trust,
            ("access", Some("watch"), None, ..) => Self::WatchAccess,
            ("recordings", None, ..) => Self::CreateRecording,
            ("recordings", Some("search"), None, ..) => Self::Recordings,
            ("recordings", Some(id), None, ..) => Self::Recording(id.parse().ok()?),
            ("recordings", Some(id), Some("complete"), None, _) => Self::CompleteRecording(id.parse().ok()?),
            ("recordings", Some(id), Some("parts"), None, _) => Self::RecordingParts(id.parse().ok()?),
            ("recordings", Some(id), Some("parts"), Some(number), None) => {
                Self::PutRecordingPart(id.parse().ok()?, decimal(number)?)
            }
            ("recordings", Some(id), Some("tail"), Some(position), None) => {
                Self::StreamRecording(id.parse().ok()?, decimal(position)?)
            }
            ("recordings", Some(id), Some("content"), Some(offset), None) => {
                Self::ReadRecording(id.parse().ok()?, decimal(offset)?)
            }
            ("recordings", Some(id), Some("hold"), None, _) => Self::HoldRecording(id.parse().ok()?),
            ("recordings", Some(id), Some("release"), None, _) => Self::ReleaseRecording(id.parse().ok()?),
            ("recordings", Some(id), Some("delete"), None, _) => Self::DeleteRecording(id.parse().ok()?),
            ("recordings", Some(id), Some("rewrap"), None, _) => Self::RewrapRecording(id.parse().ok()?),
            ("events", None, ..) => Self::EmitEvents,
            ("events", Some("search"), None, ..) => Self::SearchEvents,
            ("events", Some("anchors"), None, ..) => Self::AuditAnchors,
            ("status", None, ..) => Self::Status,
            ("users", None, ..) if *method == Method::GET => Self::Users,
            ("users", None, ..) => Self::CreateUser,
            ("users", Some(name), None, ..) if *method == Method::PUT => Self::UpdateUser(name.parse().ok()?),
            ("users", Some(name), None, ..) if *method == Method::GET => Self::User(name.parse().ok()?),
            ("users", Some(name), None, ..) => Self::DeleteUser(name.parse().ok()?),
            ("users", Some(name), Some("unlock"), None, _) => Self::UnlockUser(name.parse().ok()?),
            ("users", Some(name), Some("reset"), None, _) => Self::ResetUser(name.parse().ok()?),
            ("roles", None, ..) if *method == Method::GET => Self::Roles,
            ("roles", None, ..) if *method == Method::PUT => Self::ReplaceRole,
            ("roles", None, ..) => Self::CreateRole,
            ("roles", Some(name), None, ..) if *method == Method::GET => Self::Role(name.parse().ok()?),
            ("roles", Some(name), None, ..) => Self::DeleteRole(name.parse().ok()?),
            ("locks", None, ..) if *method == Method::GET => Self::Locks,
            ("locks", None, ..) if *method == Method::PUT => Self::ReplaceLock,
            ("locks", None, ..) => Self::CreateLock,
            ("locks", Some(name), None, ..) if *method == Method::GET => Self::Lock(name.parse().ok()?),
            ("locks", Some(name), None, ..) => Self::DeleteLock(name.parse().ok()?),
            // In full, as documents. A place of their own: `users` lists less, and any word may be a name below it.
            ("documents", Some("users"), None, ..) if *method == Method::GET => Self::UserDocuments,
            ("documents", Some("users"), None, ..) if *method == Method::PUT => Self::ReplaceUser,
            ("documents", Some("users"), None, ..) => Self::AddUser,
            ("documents", Some("tokens"), None, ..) if *method == Method::GET => Self::TokenDocuments,
            ("documents", Some("tokens"), None, ..) => Self::ReplaceToken,
            ("documents", Some("secrets"), None, ..) => Self::Secrets,
            ("certificates", Some("host"), None, ..) => Self::SignHost,
            ("certificates", Some("user"), None, ..) => Self::SignUser,
            ("stand-in", Some("host"), None, ..) => Self::StandIn,
            ("stand-in", Some("login"), None, ..) => Self::OpenSshLogin,
            ("tokens", None, ..) if *method == Method::GET => Self::Tokens,
            ("tokens", None, ..) => Self::CreateToken,
            ("tokens", Some("delete"), None, ..) => Self::DeleteToken,
            _ => return None,
        })
    }
}

/// One spelling of each number: no sign, no leading zero.
fn decimal<N: std::str::FromStr>(text: &str) -> Option<N> {
    let canonical = text == "0" || !text.starts_with(['0', '+', '-']);
    canonical.then(|| text.parse().ok()).flatten()
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("/v1/")?;
        match self {
            Self::AcceptInvite => f.write_str("invites/accept"),
            Self::ActiveSession(id) => write!(f, "sessions/{id}"),
            Self::ActiveSessions | Self::ReportSessions => f.write_str("sessions"),
            Self::AddMfaDevice | Self::MfaDevices => f.write_str("account/mfa"),
            Self::AddUser | Self::ReplaceUser | Self::UserDocuments => f.write_str("documents/users"),
            Self::AnnounceNode => f.write_str("presence/node"),
            Self::AnnounceProxy => f.write_str("presence/proxy"),
            Self::BeginMfaDevice => f.write_str("account/mfa/begin"),
            Self::ChangePassword => f.write_str("account/password"),
            Self::CompleteRecording(id) => write!(f, "recordings/{id}/complete"),
            Self::CreateLock | Self::Locks | Self::ReplaceLock => f.write_str("locks"),
            Self::CreateRecording => f.write_str("recordings"),
            Self::DeleteRecording(id) => write!(f, "recordings/{id}/delete"),
            Self::HoldRecording(id) => write!(f, "recordings/{id}/hold"),
            Self::ReleaseRecording(id) => write!(f, "recordings/{id}/release"),
            Self::RewrapRecording(id) => write!(f, "recordings/{id}/rewrap"),
            Self::CreateRole | Self::ReplaceRole | Self::Roles => f.write_str("roles"),
            Self::CreateToken | Self::Tokens => f.write_str("tokens"),
            Self::CreateUser | Self::Users => f.write_str("users"),
            Self::DeleteLock(name) | Self::Lock(name) => write!(f, "locks/{name}"),
            Self::DeleteNode(id) => write!(f, "nodes/{id}"),
            Self::DeleteRole(name) | Self::Role(name) => write!(f, "roles/{name}"),
            Self::DeleteToken => f.write_str("tokens/delete"),
            Self::DeleteUser(name) | Self::UpdateUser(name) | Self::User(name) => write!(f, "users/{name}"),
            Self::EmitEvents => f.write_str("events"),
            Self::HoldConnections => f.write_str("connections/hold"),
            Self::Invite => f.write_str("invites/show"),
            Self::Join => f.write_str("join"),
            Self::KeepAlive => f.write_str("presence/node/alive"),
            Self::Login => f.write_str("login"),
            Self::Nodes => f.write_str("nodes"),
            Self::Ping => f.write_str("ping"),
            Self::PutRecordingPart(id, number) => write!(f, "recordings/{id}/parts/{number}"),
            Self::ReadRecording(id, offset) => write!(f, "recordings/{id}/content/{offset}"),
            Self::Recording(id) => write!(f, "recordings/{id}"),
            Self::RecordingParts(id) => write!(f, "recordings/{id}/parts"),
            Self::Recordings => f.write_str("recordings/search"),
            Self::ReissueUser => f.write_str("identity/user"),
            Self::ReleaseConnections => f.write_str("connections/release"),
            Self::RemoveMfaDevice => f.write_str("account/mfa/remove"),
            Self::RenewHost => f.write_str("identity/host"),
            Self::ReplaceToken | Self::TokenDocuments => f.write_str("documents/tokens"),
            Self::ResetUser(name) => write!(f, "users/{name}/reset"),
            Self::SearchEvents => f.write_str("events/search"),
            Self::Secrets => f.write_str("documents/secrets"),
            Self::SignHost => f.write_str("certificates/host"),
            Self::StandIn => f.write_str("stand-in/host"),
            Self::OpenSshLogin => f.write_str("stand-in/login"),
            Self::SignUser => f.write_str("certificates/user"),
            Self::AuditAnchors => f.write_str("events/anchors"),
            Self::Status => f.write_str("status"),
            Self::TerminateSession(id) => write!(f, "sessions/{id}/end"),
            Self::StreamRecording(id, position) => write!(f, "recordings/{id}/tail/{position}"),
            Self::Trust => f.write_str("trust"),
            Self::UnlockUser(name) => write!(f, "users/{name}/unlock"),
            Self::WatchAccess => f.write_str("access/watch"),
            Self::WatchNodes => f.write_str("nodes/watch"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use std::collections::HashSet;

    use super::*;

    fn all() -> Vec<Route> {
        let session: SessionId = "0f8fad5b-d9cb-469f-a165-70867728950e".parse().unwrap();
        let host: HostId = "0f8fad5b-d9cb-469f-a165-70867728950e".parse().unwrap();
        let user = UserName::new("alice@example.com").unwrap();
        vec![
            Route::AcceptInvite,
            Route::ActiveSession(session),
            Route::ActiveSessions,
            Route::AddMfaDevice,
            Route::AddUser,
            Route::AnnounceNode,
            Route::AnnounceProxy,
            Route::BeginMfaDevice,
            Route::ChangePassword,
            Route::CompleteRecording(session),
            Route::CreateLock,
            Route::CreateRecording,
            Route::DeleteRecording(session),
            Route::HoldRecording(session),
            Route::ReleaseRecording(session),
            Route::RewrapRecording(session),
            Route::CreateRole,
            Route::CreateToken,
            Route::CreateUser,
            Route::DeleteLock(LockName::new("l-1").unwrap()),
            Route::DeleteNode(host),
            Route::DeleteRole(RoleName::new("access").unwrap()),
            Route::DeleteToken,
            Route::DeleteUser(user.clone()),
            Route::EmitEvents,
            Route::HoldConnections,
            Route::Invite,
            Route::Join,
            Route::KeepAlive,
            Route::Lock(LockName::new("l-1").unwrap()),
            Route::Locks,
            Route::Login,
            Route::MfaDevices,
            Route::Nodes,
            Route::Ping,
            Route::PutRecordingPart(session, 7),
            Route::StreamRecording(session, u64::MAX),
            Route::ReadRecording(session, u64::MAX),
            Route::Recording(session),
            Route::RecordingParts(session),
            Route::Recordings,
            Route::ReissueUser,
            Route::ReleaseConnections,
            Route::RemoveMfaDevice,
            Route::RenewHost,
            Route::ReplaceLock,
            Route::ReplaceRole,
            Route::ReplaceToken,
            Route::ReplaceUser,
            Route::ReportSessions,
            Route::ResetUser(user.clone()),
            Route::Role(RoleName::new("access").unwrap()),
            Route::Roles,
            Route::SearchEvents,
            Route::Secrets,
            Route::SignHost,
            Route::StandIn,
            Route::OpenSshLogin,
            Route::SignUser,
            Route::AuditAnchors,
            Route::Status,
            Route::TerminateSession(session),
            Route::TokenDocuments,
            Route::Tokens,
            Route::Trust,
            Route::UnlockUser(user.clone()),
            Route::UpdateUser(user.clone()),
            Route::User(user),
            Route::UserDocuments,
            Route::Users,
            Route::WatchAccess,
            Route::WatchNodes,
        ]
    }

    #[test]
    fn every_operation_has_its_route() {
        let of_routes: HashSet<Operation> = all().iter().map(Route::operation).collect();
        assert_eq!(of_routes.len(), all().len(), "an operation has two routes");
        for operation in Operation::ALL {
            assert!(of_routes.contains(operation), "{} has no route in `all`", operation.name());
        }
    }

    #[test]
    fn both_halves_mean_the_same() {
        for route in all() {
            assert_eq!(Route::parse(&route.method(), &route.to_string()), Some(route.clone()), "{route}");
        }
    }

    #[test]
    fn three_routes_are_public() {
        assert_eq!(all().iter().filter(|route| route.is_public()).count(), 3);
    }

    #[test]
    fn c10_what_is_nearly_a_route_is_none() {
        for path in [
            "",
            "/",
            "/v1",
            "/v1/",
            "/v2/ping",
            "/v1/ping/",
            "/v1//ping",
            "/v1/Ping",
            "v1/ping",
            "/v1/nodes/x",
            "/v1/users/../roles",
            "/v1/users/Alice",
            "/v1/users/alice%20",
            "/v1/users/..%2f",
            "/v1/users/..%2froles",
            "/v1/users/%61lice",
            "/v1/users/al\u{200b}ice",
            "/v1/roles/..%2fusers",
            "/v1/recordings/x/parts",
            "/v1/ping/x/y/z/a/b",
            "/v1/recordings/0f8fad5b-d9cb-469f-a165-70867728950e/content/007",
            "/v1/recordings/0f8fad5b-d9cb-469f-a165-70867728950e/content/-1",
            "/v1/recordings/0f8fad5b-d9cb-469f-a165-70867728950e/content/1/",
        ] {
            for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE] {
                assert_eq!(Route::parse(&method, path), None, "{method} {path}");
            }
        }
        assert_eq!(Route::parse(&Method::GET, "/v1/join"), None);
        assert_eq!(Route::parse(&Method::HEAD, "/v1/ping"), None);
    }
}
