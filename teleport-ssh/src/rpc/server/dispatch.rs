//! From a route to a call.

use bytes::Bytes;
use hyper::StatusCode;
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use teleport_core::api::{ApiResult, AuthApi};
use teleport_core::auth::policy::Operation;
use teleport_core::id::DeviceName;
use teleport_core::secret::{SecretString, wire};

use super::watch::{Ends, stream};
use crate::rpc::http::{Answer, answer, json, parse, read_body};
use crate::rpc::routes::Route;

/// A secret that names what is asked for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SecretBody {
    #[serde(with = "wire")]
    pub(crate) token: SecretString,
}

/// What a new device shall be called.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NameBody {
    pub(crate) name: DeviceName,
}

/// Why something is done.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReasonBody {
    #[serde(default)]
    pub(crate) reason: Option<String>,
}

/// Whether there was something to do.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RewrapBody {
    pub(crate) changed: bool,
}

/// A number of parts.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PartsBody {
    pub(crate) parts: u32,
}

pub(super) async fn dispatch(
    api: &dyn AuthApi,
    route: Route,
    body: Incoming,
    ends: Ends,
) -> ApiResult<Answer> {
    let max = route.max_body();
    let body = async || read_body(body, max).await;
    match route {
        Route::AcceptInvite => done(api.accept_invite(parse(&body().await?)?).await?),
        Route::AddMfaDevice => ok(&api.add_mfa_device(parse(&body().await?)?).await?),
        Route::AddUser => ok(&api.add_user(parse(&body().await?)?).await?),
        Route::AnnounceNode => done(api.announce_node(parse(&body().await?)?).await?),
        Route::AnnounceProxy => done(api.announce_proxy(parse(&body().await?)?).await?),
        Route::BeginMfaDevice => {
            let NameBody { name } = parse(&body().await?)?;
            ok(&api.begin_mfa_device(name).await?)
        }
        Route::ChangePassword => done(api.change_password(parse(&body().await?)?).await?),
        Route::CompleteRecording(session) => {
            let PartsBody { parts } = parse(&body().await?)?;
            done(api.complete_recording(session, parts).await?)
        }
        Route::ActiveSession(session) => ok(&api.active_session(session).await?),
        Route::ActiveSessions => ok(&api.active_sessions().await?),
        Route::CreateLock => ok(&api.create_lock(parse(&body().await?)?).await?),
        Route::CreateRecording => done(api.create_recording(parse(&body().await?)?).await?),
        Route::HoldRecording(session) => {
            let ReasonBody { reason } = parse(&body().await?)?;
            ok(&api.hold_recording(session, reason).await?)
        }
        Route::ReleaseRecording(session) => {
            let ReasonBody { reason } = parse(&body().await?)?;
            done(api.release_recording(session, reason).await?)
        }
        Route::DeleteRecording(session) => {
            let ReasonBody { reason } = parse(&body().await?)?;
            done(api.delete_recording(session, reason).await?)
        }
        Route::RewrapRecording(session) => ok(&RewrapBody { changed: api.rewrap_recording(session).await? }),
        Route::CreateRole => ok(&api.create_role(parse(&body().await?)?).await?),
        Route::CreateToken => ok(&api.create_token(parse(&body().await?)?).await?),
        Route::CreateUser => ok(&api.create_user(parse(&body().await?)?).await?),
        Route::DeleteLock(name) => done(api.delete_lock(name).await?),
        Route::DeleteNode(node) => done(api.delete_node(node).await?),
        Route::DeleteRole(name) => done(api.delete_role(name).await?),
        Route::DeleteToken => done(api.delete_token(parse::<SecretBody>(&body().await?)?.token).await?),
        Route::DeleteUser(user) => done(api.delete_user(user).await?),
        Route::EmitEvents => done(api.emit_events(parse(&body().await?)?).await?),
        Route::HoldConnections => ok(&api.hold_connections(parse(&body().await?)?).await?),
        Route::Invite => ok(&api.invite(parse::<SecretBody>(&body().await?)?.token).await?),
        Route::Join => ok(&api.join(parse(&body().await?)?).await?),
        Route::KeepAlive => done(api.keep_alive().await?),
        Route::Lock(name) => ok(&api.lock(name).await?),
        Route::Locks => ok(&api.locks().await?),
        Route::Login => ok(&api.login(parse(&body().await?)?).await?),
        Route::MfaDevices => ok(&api.mfa_devices().await?),
        Route::Nodes => ok(&api.nodes().await?),
        Route::ReportSessions => done(api.report_sessions(parse(&body().await?)?).await?),
        Route::TerminateSession(session) => {
            done(api.terminate_session(session, parse(&body().await?)?).await?)
        }
        Route::Ping => ok(&api.ping().await?),
        Route::PutRecordingPart(session, number) => {
            done(api.put_recording_part(session, number, body().await?).await?)
        }
        Route::ReadRecording(session, offset) => raw(api.read_recording(session, offset).await?),
        Route::Recording(session) => ok(&api.recording(session).await?),
        Route::RecordingParts(session) => ok(&PartsBody { parts: api.recording_parts(session).await? }),
        Route::Recordings => ok(&api.recordings(parse(&body().await?)?).await?),
        Route::ReissueUser => ok(&api.reissue_user(parse(&body().await?)?).await?),
        Route::ReleaseConnections => done(api.release_connections(parse(&body().await?)?).await?),
        Route::RemoveMfaDevice => done(api.remove_mfa_device(parse(&body().await?)?).await?),
        Route::RenewHost => ok(&api.renew_host(parse(&body().await?)?).await?),
        Route::ResetUser(user) => ok(&api.reset_user(user, parse(&body().await?)?).await?),
        Route::ReplaceLock => ok(&api.replace_lock(parse(&body().await?)?).await?),
        Route::ReplaceRole => ok(&api.replace_role(parse(&body().await?)?).await?),
        Route::ReplaceToken => ok(&api.replace_token(parse(&body().await?)?).await?),
        Route::ReplaceUser => ok(&api.replace_user(parse(&body().await?)?).await?),
        Route::Role(name) => ok(&api.role(name).await?),
        Route::Roles => ok(&api.roles().await?),
        Route::SearchEvents => ok(&api.search_events(parse(&body().await?)?).await?),
        Route::Secrets => ok(&api.secrets().await?),
        Route::StandIn => ok(&api.stand_in(parse(&body().await?)?).await?),
        Route::OpenSshLogin => ok(&api.openssh_login(parse(&body().await?)?).await?),
        Route::SignHost => ok(&api.sign_host(parse(&body().await?)?).await?),
        Route::SignUser => ok(&api.sign_user(parse(&body().await?)?).await?),
        Route::AuditAnchors => ok(&api.audit_anchors().await?),
        Route::Status => ok(&api.status().await?),
        Route::StreamRecording(session, position) => {
            done(api.stream_recording(session, position, body().await?).await?)
        }
        Route::TokenDocuments => ok(&api.token_documents().await?),
        Route::Tokens => ok(&api.tokens().await?),
        Route::Trust => ok(&api.trust().await?),
        Route::UnlockUser(user) => done(api.unlock_user(user).await?),
        Route::UpdateUser(user) => done(api.update_user(user, parse(&body().await?)?).await?),
        Route::User(name) => ok(&api.user(name).await?),
        Route::UserDocuments => ok(&api.user_documents().await?),
        Route::Users => ok(&api.users().await?),
        Route::WatchAccess => Ok(stream(Operation::WatchAccess, api.watch_access().await?, ends)),
        Route::WatchNodes => Ok(stream(Operation::WatchNodes, api.watch_nodes().await?, ends)),
    }
}

#[expect(clippy::unnecessary_wraps, reason = "one shape for all arms")]
fn ok<T: Serialize>(value: &T) -> ApiResult<Answer> {
    Ok(json(StatusCode::OK, value))
}

#[expect(clippy::unnecessary_wraps, reason = "one shape for all arms")]
fn done((): ()) -> ApiResult<Answer> {
    Ok(answer(StatusCode::NO_CONTENT, "application/json", Bytes::new()))
}

#[expect(clippy::unnecessary_wraps, reason = "one shape for all arms")]
fn raw(bytes: Bytes) -> ApiResult<Answer> {
    Ok(answer(StatusCode::OK, "application/octet-stream", bytes))
}
