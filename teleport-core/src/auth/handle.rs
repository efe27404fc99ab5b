//! The traits of the API for one caller: authorise, then hand over to the service of the resource.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

use super::context::OpContext;
use super::policy::Operation as Op;
use super::{
    Caller, Inner, account, active, backup, connections, documents, eviction, invites, join, log, login,
    nodes, presence, recordings, reissue, retention, signing, stand_in, tails, tokens, trust, users,
};
use crate::api::{
    AcceptInvite, AccessView, AccountApi, ActiveSession, ActiveSessionApi, AddMfaDevice, AdminApi, ApiResult,
    AuditAnchors, AuditApi, ChangePassword, ClusterStatus, ConnectionApi, CreateToken, CreateUser,
    CreatedToken, EndSession, HeldConnections, HoldConnections, HostCredentials, IdentityApi, Invite,
    InviteInfo, JoinRequest, LoginRequest, LoginResponse, MfaDevice, NewMfaDevice, NodeEvent, OpenSshLogin,
    Ping, PresenceApi, ProxyRecord, PublicApi, RecordingApi, RecordingQuery, ReissueRequest,
    ReleaseConnections, RemoveMfaDevice, RenewRequest, ResetUser, ResourceApi, RetentionApi, SessionReport,
    SessionReportApi, SignHost, SignUser, SignedHost, SigningApi, StandIn, StandInApi, TokenInfo, TrustApi,
    UpdateUser, UserInfo,
};
use crate::audit::{AuditEvent, AuditPage, AuditQuery};
use crate::cert::{IssuedSshCertificate, TrustBundle};
use crate::id::{DeviceName, HostId, LockName, RoleName, SessionId, UserName};
use crate::recording::{RecordingInfo, RecordingMeta};
use crate::resource::{Lock, Node, NodeRecord, Role, Secrets, Token, User};
use crate::secret::SecretString;
use crate::storage::Revision;

/// The auth service as one caller sees it. Cheap to clone.
///
/// Implements every trait of [`crate::api`]. Dropping a future of a call leaves each of its steps carried out wholly or not at
/// all. The last step is the event in the audit log: a call that is dropped after its change was stored has made the change and
/// not told of it (or has spent a use of a join token, or a one-time code, for nothing). Transports should therefore let a call
/// that has begun run to its end.
#[derive(Clone)]
pub struct AuthHandle {
    auth: Arc<Inner>,
    caller: Arc<Caller>,
}

impl fmt::Debug for AuthHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthHandle").field("caller", &self.caller).finish_non_exhaustive()
    }
}

impl AuthHandle {
    pub(super) fn new(auth: Arc<Inner>, caller: Caller) -> Self {
        Self { auth, caller: Arc::new(caller) }
    }

    /// Who calls.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    fn call(&self) -> OpContext<'_> {
        OpContext::new(&self.auth, &self.caller)
    }
}

#[async_trait]
impl PublicApi for AuthHandle {
    async fn ping(&self) -> ApiResult<Ping> {
        let call = self.call();
        call.authorize(Op::Ping).await?;
        Ok(trust::ping(&call))
    }

    async fn join(&self, request: JoinRequest) -> ApiResult<HostCredentials> {
        let call = self.call();
        let permit = call.authorize(Op::Join).await?;
        join::join(&call, permit, request).await
    }

    async fn login(&self, request: LoginRequest) -> ApiResult<LoginResponse> {
        let call = self.call();
        let permit = call.authorize(Op::Login).await?;
        login::login(&call, permit, request).await
    }

    async fn invite(&self, token: SecretString) -> ApiResult<InviteInfo> {
        let call = self.call();
        let permit = call.authorize(Op::Invite).await?;
        invites::show(&call, permit, &token).await
    }

    async fn accept_invite(&self, request: AcceptInvite) -> ApiResult<()> {
        let call = self.call();
        let permit = call.authorize(Op::AcceptInvite).await?;
        invites::accept(&call, permit, request).await
    }
}

#[async_trait]
impl IdentityApi for AuthHandle {
    async fn renew_host(&self, request: RenewRequest) -> ApiResult<HostCredentials> {
        let call = self.call();
        let permit = call.authorize(Op::RenewHost).await?;
        join::renew(&call, permit, request).await
    }

    async fn reissue_user(&self, request: ReissueRequest) -> ApiResult<LoginResponse> {
        let call = self.call();
        let permit = call.authorize(Op::ReissueUser).await?;
        reissue::reissue(&call, permit, request).await
    }
}

#[async_trait]
impl AccountApi for AuthHandle {
    async fn change_password(&self, request: ChangePassword) -> ApiResult<()> {
        let call = self.call();
        let permit = call.authorize(Op::ChangePassword).await?;
        account::change_password(&call, permit, request).await
    }

    async fn mfa_devices(&self) -> ApiResult<Vec<MfaDevice>> {
        let call = self.call();
        let permit = call.authorize(Op::MfaDevices).await?;
        account::list(&call, permit).await
    }

    async fn begin_mfa_device(&self, name: DeviceName) -> ApiResult<NewMfaDevice> {
        let call = self.call();
        let permit = call.authorize(Op::BeginMfaDevice).await?;
        account::begin(&call, permit, &name).await
    }

    async fn add_mfa_device(&self, request: AddMfaDevice) -> ApiResult<MfaDevice> {
        let call = self.call();
        let permit = call.authorize(Op::AddMfaDevice).await?;
        account::add(&call, permit, request).await
    }

    async fn remove_mfa_device(&self, request: RemoveMfaDevice) -> ApiResult<()> {
        let call = self.call();
        let permit = call.authorize(Op::RemoveMfaDevice).await?;
        account::remove(&call, permit, request).await
    }
}

#[async_trait]
impl PresenceApi for AuthHandle {
    async fn announce_node(&self, node: NodeRecord) -> ApiResult<()> {
        let call = self.call();
        let permit = call.authorize(Op::AnnounceNode).await?;
        presence::announce_node(&call, permit, node).await
    }

    async fn keep_alive(&self) -> ApiResult<()> {
        let call = self.call();
        let permit = call.authorize(Op::KeepAlive).await?;
        presence::keep_alive(&call, permit).await
    }

    async fn announce_proxy(&self, proxy: ProxyRecord) -> ApiResult<()> {
        let call = self.call();
        let permit = call.authorize(Op::AnnounceProxy).await?;
        presence::announce_proxy(&call, permit, proxy).await
    }

    async fn nodes(&self) -> ApiResult<Vec<Node>> {
        let call = self.call();
        let permit = call.authorize(Op::Nodes).await?;
        nodes::list(&call, permit).await
    }

    async fn watch_nodes(&self) -> ApiResult<BoxStream<'static, ApiResult<NodeEvent>>> {
        let call = self.call();
        let permit = call.authorize(Op::WatchNodes).await?;
        nodes::watch(&self.auth, &call, permit).await
    }
}

#[async_trait]
impl ConnectionApi for AuthHandle {
    async fn hold_connections(&self, request: HoldConnections) -> ApiResult<HeldConnections> {
        let call = self.call();
        let permit = call.authorize(Op::HoldConnections).await?;
        connections::hold(&call, permit, request).await
    }

    async fn release_connections(&self, request: ReleaseConnections) -> ApiResult<()> {
        let call = self.call();
        let permit = call.authorize(Op::ReleaseConnections).await?;
        connections::release(&call, permit, request).await
    }
}

#[async_trait]
impl StandInApi for AuthHandle {
    async fn stand_in(&self, request: StandIn) -> ApiResult<IssuedSshCertificate> {
        let call = self.call();
        let permit = call.authorize(Op::StandIn).await?;
        stand_in::stand_in(&call, permit, request).await
    }

    async fn openssh_login(&self, request: OpenSshLogin) -> ApiResult<IssuedSshCertificate> {
        let call = self.call();
        let permit = call.authorize(Op::OpenSshLogin).await?;
        stand_in::openssh_login(&call, permit, request).await
    }
}

#[async_trait]
impl SessionReportApi for AuthHandle {
    async fn report_sessions(&self, report: SessionReport) -> ApiResult<()> {
        let call = self.call();
        let permit = call.authorize(Op::ReportSessions).await?;
        active::report(&call, permit, report).await
    }
}

#[async_trait]
impl ActiveSessionApi for AuthHandle {
    async fn active_sessions(&self) -> ApiResult<Vec<ActiveSession>> {
        let call = self.call();
        let permit = call.authorize(Op::ActiveSessions).await?;
        active::list(&call, permit).await
    }

    async fn active_session(&self, session: SessionId) -> ApiResult<ActiveSession> {
        let call = self.call();
        let permit = call.authorize(Op::ActiveSession).await?;
        active::show(&call, permit, session).await
    }

    async fn terminate_session(&self, session: SessionId, request: EndSession) -> ApiResult<()> {
        let call = self.call();
        let permit = call.authorize(Op::TerminateSession).await?;
        active::end(&call, permit, session, request).await
    }
}

#[async_trait]
impl TrustApi for AuthHandle {
    async fn trust(&self) -> ApiResult<TrustBundle> {
        let call = self.call();
        call.authorize(Op::Trust).await?;
        call.trust().await
    }

    async fn watch_access(&self) -> ApiResult<BoxStream<'static, ApiResult<AccessView>>> {
        let call = self.call();
        let permit = call.authorize(Op::WatchAccess).await?;
        trust::watch(&self.auth, &call, permit).await
    }
}

#[async_trait]
impl RecordingApi for AuthHandle {
    async fn create_recording(&self, meta: RecordingMeta) -> ApiResult<()> {
        let call = self.call();
        let permit = call.authorize(Op::CreateRecording).await?;
        recordings::create(&call, permit, meta).await
    }

    async fn put_recording_part(&self, session: SessionId, number: u32, part: Bytes) -> ApiResult<()> {
        let call = self.call();
        let permit = call.authorize(Op::PutRecordingPart).await?;
        recordings::put_part(&call, permit, session, number, part).await
    }

    async fn stream_recording(&self, session: SessionId, position: u64, bytes: Bytes) -> ApiResult<()> {
        let call = self.call();
        let permit = call.authorize(Op::StreamRecording).await?;
        tails::append(&call, permit, session, position, bytes).await
    }

    async fn recording_parts(&self, session: SessionId) -> ApiResult<u32> {
        let call = self.call();
        let permit = call.authorize(Op::RecordingParts).await?;
        recordings::parts(&call, permit, session).await
    }

    async fn complete_recording(&self, session: SessionId, parts: u32) -> ApiResult<()> {
        let call = self.call();
        let permit = call.authorize(Op::CompleteRecording).await?;
        recordings::complete(&call, permit, session, parts).await
    }

    async fn recordings(&self, query: RecordingQuery) -> ApiResult<Vec<RecordingInfo>> {
        let call = self.call();
        let permit = call.authorize(Op::Recordings).await?;
        recordings::list(&call, permit, query).await
    }

    async fn recording(&self, session: SessionId) -> ApiResult<RecordingInfo> {
        let call = self.call();
        let permit = call.authorize(Op::Recording).await?;
        recordings::visible(&call, &permit, session).await
    }

    async fn read_recording(&self, session: SessionId, offset: u64) -> ApiResult<Bytes> {
        let call = self.call();
        let permit = call.authorize(Op::ReadRecording).await?;
        recordings::read(&call, permit, session, offset).await
    }
}

#[async_trait]
impl RetentionApi for AuthHandle {
    async fn hold_recording(&self, session: SessionId, reason: Option<String>) -> ApiResult<RecordingInfo> {
        let call = self.call();
        let permit = call.authorize(Op::HoldRecording).await?;
        retention::hold(&call, permit, session, reason).await
    }

    async fn release_recording(&self, session: SessionId, reason: Option<String>) -> ApiResult<()> {
        let call = self.call();
        let permit = call.authorize(Op::ReleaseRecording).await?;
        retention::release(&call, permit, session, reason).await
    }

    async fn delete_recording(&self, session: SessionId, reason: Option<String>) -> ApiResult<()> {
        let call = self.call();
        let permit = call.authorize(Op::DeleteRecording).await?;
        retention::delete(&call, permit, session, reason).await
    }

    async fn rewrap_recording(&self, session: SessionId) -> ApiResult<bool> {
        let call = self.call();
        let permit = call.authorize(Op::RewrapRecording).await?;
        retention::rewrap(&call, permit, session).await
    }
}

#[async_trait]
impl AuditApi for AuthHandle {
    async fn emit_events(&self, events: Vec<AuditEvent>) -> ApiResult<()> {
        let call = self.call();
        let permit = call.authorize(Op::EmitEvents).await?;
        log::emit(&call, permit, events).await
    }

    async fn search_events(&self, query: AuditQuery) -> ApiResult<AuditPage> {
        let call = self.call();
        let permit = call.authorize(Op::SearchEvents).await?;
        log::search(&call, permit, query).await
    }
}

#[async_trait]
impl AdminApi for AuthHandle {
    async fn status(&self) -> ApiResult<ClusterStatus> {
        let call = self.call();
        call.run(Op::Status, |permit| trust::status(&call, permit)).await
    }

    async fn audit_anchors(&self) -> ApiResult<AuditAnchors> {
        let call = self.call();
        call.run(Op::AuditAnchors, |permit| log::anchors(&call, permit)).await
    }

    async fn create_user(&self, request: CreateUser) -> ApiResult<Invite> {
        let call = self.call();
        call.run(Op::CreateUser, |permit| users::create(&call, permit, request)).await
    }

    async fn reset_user(&self, user: UserName, request: ResetUser) -> ApiResult<Invite> {
        let call = self.call();
        call.run(Op::ResetUser, |permit| users::reset(&call, permit, &user, request)).await
    }

    async fn update_user(&self, user: UserName, request: UpdateUser) -> ApiResult<()> {
        let call = self.call();
        call.run(Op::UpdateUser, |permit| users::update(&call, permit, &user, request)).await
    }

    async fn unlock_user(&self, user: UserName) -> ApiResult<()> {
        let call = self.call();
        call.run(Op::UnlockUser, |permit| users::unlock(&call, permit, &user)).await
    }

    async fn users(&self) -> ApiResult<Vec<UserInfo>> {
        let call = self.call();
        call.run(Op::Users, |permit| users::list(&call, permit)).await
    }

    async fn delete_user(&self, user: UserName) -> ApiResult<()> {
        let call = self.call();
        call.run(Op::DeleteUser, |permit| users::delete(&call, permit, &user)).await
    }

    async fn roles(&self) -> ApiResult<Vec<Role>> {
        let call = self.call();
        call.run(Op::Roles, |permit| super::roles::list(&call, permit)).await
    }

    async fn role(&self, name: RoleName) -> ApiResult<Role> {
        let call = self.call();
        call.run(Op::Role, |permit| super::roles::show(&call, permit, &name)).await
    }

    async fn create_token(&self, request: CreateToken) -> ApiResult<CreatedToken> {
        let call = self.call();
        call.run(Op::CreateToken, |permit| tokens::create(&call, permit, request)).await
    }

    async fn tokens(&self) -> ApiResult<Vec<TokenInfo>> {
        let call = self.call();
        call.run(Op::Tokens, |permit| tokens::list(&call, permit)).await
    }

    async fn delete_token(&self, token: SecretString) -> ApiResult<()> {
        let call = self.call();
        call.run(Op::DeleteToken, |permit| tokens::delete(&call, permit, &token)).await
    }

    async fn delete_node(&self, node: HostId) -> ApiResult<()> {
        let call = self.call();
        call.run(Op::DeleteNode, |permit| eviction::evict(&call, permit, node)).await
    }
}

#[async_trait]
impl ResourceApi for AuthHandle {
    async fn create_role(&self, role: Role) -> ApiResult<Revision> {
        let call = self.call();
        call.run(Op::CreateRole, |permit| documents::create_role(&call, permit, role)).await
    }

    async fn replace_role(&self, role: Role) -> ApiResult<Revision> {
        let call = self.call();
        call.run(Op::ReplaceRole, |permit| documents::replace_role(&call, permit, role)).await
    }

    async fn delete_role(&self, name: RoleName) -> ApiResult<()> {
        let call = self.call();
        call.run(Op::DeleteRole, |permit| documents::delete_role(&call, permit, &name)).await
    }

    async fn user_documents(&self) -> ApiResult<Vec<User>> {
        let call = self.call();
        call.run(Op::UserDocuments, |permit| documents::users(&call, permit)).await
    }

    async fn user(&self, name: UserName) -> ApiResult<User> {
        let call = self.call();
        call.run(Op::User, |permit| documents::user(&call, permit, &name)).await
    }

    async fn add_user(&self, user: User) -> ApiResult<Revision> {
        let call = self.call();
        call.run(Op::AddUser, |permit| documents::add_user(&call, permit, user)).await
    }

    async fn replace_user(&self, user: User) -> ApiResult<Revision> {
        let call = self.call();
        call.run(Op::ReplaceUser, |permit| documents::replace_user(&call, permit, user)).await
    }

    async fn token_documents(&self) -> ApiResult<Vec<Token>> {
        let call = self.call();
        call.run(Op::TokenDocuments, |permit| documents::tokens(&call, permit)).await
    }

    async fn replace_token(&self, token: Token) -> ApiResult<Revision> {
        let call = self.call();
        call.run(Op::ReplaceToken, |permit| documents::replace_token(&call, permit, token)).await
    }

    async fn locks(&self) -> ApiResult<Vec<Lock>> {
        let call = self.call();
        call.run(Op::Locks, |permit| documents::locks(&call, permit)).await
    }

    async fn lock(&self, name: LockName) -> ApiResult<Lock> {
        let call = self.call();
        call.run(Op::Lock, |permit| documents::lock(&call, permit, &name)).await
    }

    async fn create_lock(&self, lock: Lock) -> ApiResult<Revision> {
        let call = self.call();
        call.run(Op::CreateLock, |permit| documents::create_lock(&call, permit, lock)).await
    }

    async fn replace_lock(&self, lock: Lock) -> ApiResult<Revision> {
        let call = self.call();
        call.run(Op::ReplaceLock, |permit| documents::replace_lock(&call, permit, lock)).await
    }

    async fn delete_lock(&self, name: LockName) -> ApiResult<()> {
        let call = self.call();
        call.run(Op::DeleteLock, |permit| documents::delete_lock(&call, permit, &name)).await
    }

    async fn secrets(&self) -> ApiResult<Secrets> {
        let call = self.call();
        call.run(Op::Secrets, |permit| backup::secrets(&call, permit)).await
    }
}

#[async_trait]
impl SigningApi for AuthHandle {
    async fn sign_user(&self, request: SignUser) -> ApiResult<LoginResponse> {
        let call = self.call();
        call.run(Op::SignUser, |permit| signing::sign_user(&call, permit, request)).await
    }

    async fn sign_host(&self, request: SignHost) -> ApiResult<SignedHost> {
        let call = self.call();
        call.run(Op::SignHost, |permit| signing::sign_host(&call, permit, request)).await
    }
}
