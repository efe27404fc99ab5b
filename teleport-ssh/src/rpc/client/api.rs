//! Every trait of the API, call by call.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use teleport_core::api::{
    AcceptInvite, AccessView, AccountApi, ActiveSession, ActiveSessionApi, AddMfaDevice, AdminApi, ApiResult,
    AuditAnchors, AuditApi, ChangePassword, ClusterStatus, ConnectionApi, CreateToken, CreateUser,
    CreatedToken, EndSession, HeldConnections, HoldConnections, HostCredentials, IdentityApi, Invite,
    InviteInfo, JoinRequest, LoginRequest, LoginResponse, MfaDevice, NewMfaDevice, NodeEvent, OpenSshLogin,
    Ping, PresenceApi, ProxyRecord, PublicApi, RecordingApi, RecordingQuery, ReissueRequest,
    ReleaseConnections, RemoveMfaDevice, RenewRequest, ResetUser, ResourceApi, RetentionApi, SessionReport,
    SessionReportApi, SignHost, SignUser, SignedHost, SigningApi, StandIn, StandInApi, TokenInfo, TrustApi,
    UpdateUser, UserInfo,
};
use teleport_core::audit::{AuditEvent, AuditPage, AuditQuery};
use teleport_core::cert::{IssuedSshCertificate, TrustBundle};
use teleport_core::id::{DeviceName, HostId, LockName, RoleName, SessionId, UserName};
use teleport_core::recording::{RecordingInfo, RecordingMeta};
use teleport_core::resource::{Lock, Node, NodeRecord, Role, Secrets, Token, User};
use teleport_core::secret::SecretString;
use teleport_core::storage::Revision;

use super::AuthClient;
use crate::rpc::routes::Route;
use crate::rpc::server::{NameBody, PartsBody, ReasonBody, RewrapBody, SecretBody};

#[async_trait]
impl PublicApi for AuthClient {
    async fn ping(&self) -> ApiResult<Ping> {
        self.fetch(Route::Ping).await
    }

    async fn join(&self, request: JoinRequest) -> ApiResult<HostCredentials> {
        self.call(Route::Join, &request).await
    }

    async fn login(&self, request: LoginRequest) -> ApiResult<LoginResponse> {
        self.call(Route::Login, &request).await
    }

    async fn invite(&self, token: SecretString) -> ApiResult<InviteInfo> {
        self.call(Route::Invite, &SecretBody { token }).await
    }

    async fn accept_invite(&self, request: AcceptInvite) -> ApiResult<()> {
        self.order(Route::AcceptInvite, &request).await
    }
}

#[async_trait]
impl IdentityApi for AuthClient {
    async fn renew_host(&self, request: RenewRequest) -> ApiResult<HostCredentials> {
        self.call(Route::RenewHost, &request).await
    }

    async fn reissue_user(&self, request: ReissueRequest) -> ApiResult<LoginResponse> {
        self.call(Route::ReissueUser, &request).await
    }
}

#[async_trait]
impl AccountApi for AuthClient {
    async fn change_password(&self, request: ChangePassword) -> ApiResult<()> {
        self.order(Route::ChangePassword, &request).await
    }

    async fn mfa_devices(&self) -> ApiResult<Vec<MfaDevice>> {
        self.fetch(Route::MfaDevices).await
    }

    async fn begin_mfa_device(&self, name: DeviceName) -> ApiResult<NewMfaDevice> {
        self.call(Route::BeginMfaDevice, &NameBody { name }).await
    }

    async fn add_mfa_device(&self, request: AddMfaDevice) -> ApiResult<MfaDevice> {
        self.call(Route::AddMfaDevice, &request).await
    }

    async fn remove_mfa_device(&self, request: RemoveMfaDevice) -> ApiResult<()> {
        self.order(Route::RemoveMfaDevice, &request).await
    }
}

#[async_trait]
impl PresenceApi for AuthClient {
    async fn announce_node(&self, node: NodeRecord) -> ApiResult<()> {
        self.order(Route::AnnounceNode, &node).await
    }

    async fn keep_alive(&self) -> ApiResult<()> {
        self.bytes(Route::KeepAlive, Bytes::new()).await.map(drop)
    }

    async fn announce_proxy(&self, proxy: ProxyRecord) -> ApiResult<()> {
        self.order(Route::AnnounceProxy, &proxy).await
    }

    async fn nodes(&self) -> ApiResult<Vec<Node>> {
        self.fetch(Route::Nodes).await
    }

    async fn watch_nodes(&self) -> ApiResult<BoxStream<'static, ApiResult<NodeEvent>>> {
        self.watch(Route::WatchNodes).await
    }
}

#[async_trait]
impl ConnectionApi for AuthClient {
    async fn hold_connections(&self, request: HoldConnections) -> ApiResult<HeldConnections> {
        self.call(Route::HoldConnections, &request).await
    }

    async fn release_connections(&self, request: ReleaseConnections) -> ApiResult<()> {
        self.order(Route::ReleaseConnections, &request).await
    }
}

#[async_trait]
impl StandInApi for AuthClient {
    async fn stand_in(&self, request: StandIn) -> ApiResult<IssuedSshCertificate> {
        self.call(Route::StandIn, &request).await
    }

    async fn openssh_login(&self, request: OpenSshLogin) -> ApiResult<IssuedSshCertificate> {
        self.call(Route::OpenSshLogin, &request).await
    }
}

#[async_trait]
impl SessionReportApi for AuthClient {
    async fn report_sessions(&self, report: SessionReport) -> ApiResult<()> {
        self.order(Route::ReportSessions, &report).await
    }
}

#[async_trait]
impl ActiveSessionApi for AuthClient {
    async fn active_sessions(&self) -> ApiResult<Vec<ActiveSession>> {
        self.fetch(Route::ActiveSessions).await
    }

    async fn active_session(&self, session: SessionId) -> ApiResult<ActiveSession> {
        self.fetch(Route::ActiveSession(session)).await
    }

    async fn terminate_session(&self, session: SessionId, request: EndSession) -> ApiResult<()> {
        self.order(Route::TerminateSession(session), &request).await
    }
}

#[async_trait]
impl TrustApi for AuthClient {
    async fn trust(&self) -> ApiResult<TrustBundle> {
        self.fetch(Route::Trust).await
    }

    async fn watch_access(&self) -> ApiResult<BoxStream<'static, ApiResult<AccessView>>> {
        self.watch(Route::WatchAccess).await
    }
}

#[async_trait]
impl RecordingApi for AuthClient {
    async fn create_recording(&self, meta: RecordingMeta) -> ApiResult<()> {
        self.order(Route::CreateRecording, &meta).await
    }

    async fn put_recording_part(&self, session: SessionId, number: u32, part: Bytes) -> ApiResult<()> {
        self.bytes(Route::PutRecordingPart(session, number), part).await.map(drop)
    }

    async fn stream_recording(&self, session: SessionId, position: u64, bytes: Bytes) -> ApiResult<()> {
        self.bytes(Route::StreamRecording(session, position), bytes).await.map(drop)
    }

    async fn recording_parts(&self, session: SessionId) -> ApiResult<u32> {
        Ok(self.fetch::<PartsBody>(Route::RecordingParts(session)).await?.parts)
    }

    async fn complete_recording(&self, session: SessionId, parts: u32) -> ApiResult<()> {
        self.order(Route::CompleteRecording(session), &PartsBody { parts }).await
    }

    async fn recordings(&self, query: RecordingQuery) -> ApiResult<Vec<RecordingInfo>> {
        self.call(Route::Recordings, &query).await
    }

    async fn recording(&self, session: SessionId) -> ApiResult<RecordingInfo> {
        self.fetch(Route::Recording(session)).await
    }

    async fn read_recording(&self, session: SessionId, offset: u64) -> ApiResult<Bytes> {
        self.bytes(Route::ReadRecording(session, offset), Bytes::new()).await
    }
}

#[async_trait]
impl RetentionApi for AuthClient {
    async fn hold_recording(&self, session: SessionId, reason: Option<String>) -> ApiResult<RecordingInfo> {
        self.call(Route::HoldRecording(session), &ReasonBody { reason }).await
    }

    async fn release_recording(&self, session: SessionId, reason: Option<String>) -> ApiResult<()> {
        self.order(Route::ReleaseRecording(session), &ReasonBody { reason }).await
    }

    async fn delete_recording(&self, session: SessionId, reason: Option<String>) -> ApiResult<()> {
        self.order(Route::DeleteRecording(session), &ReasonBody { reason }).await
    }

    async fn rewrap_recording(&self, session: SessionId) -> ApiResult<bool> {
        Ok(self.fetch::<RewrapBody>(Route::RewrapRecording(session)).await?.changed)
    }
}

#[async_trait]
impl AuditApi for AuthClient {
    async fn emit_events(&self, events: Vec<AuditEvent>) -> ApiResult<()> {
        self.order(Route::EmitEvents, &events).await
    }

    async fn search_events(&self, query: AuditQuery) -> ApiResult<AuditPage> {
        self.call(Route::SearchEvents, &query).await
    }
}

#[async_trait]
impl AdminApi for AuthClient {
    async fn status(&self) -> ApiResult<ClusterStatus> {
        self.fetch(Route::Status).await
    }

    async fn audit_anchors(&self) -> ApiResult<AuditAnchors> {
        self.fetch(Route::AuditAnchors).await
    }

    async fn create_user(&self, request: CreateUser) -> ApiResult<Invite> {
        self.call(Route::CreateUser, &request).await
    }

    async fn reset_user(&self, user: UserName, request: ResetUser) -> ApiResult<Invite> {
        self.call(Route::ResetUser(user), &request).await
    }

    async fn update_user(&self, user: UserName, request: UpdateUser) -> ApiResult<()> {
        self.order(Route::UpdateUser(user), &request).await
    }

    async fn unlock_user(&self, user: UserName) -> ApiResult<()> {
        self.bytes(Route::UnlockUser(user), Bytes::new()).await.map(drop)
    }

    async fn users(&self) -> ApiResult<Vec<UserInfo>> {
        self.fetch(Route::Users).await
    }

    async fn delete_user(&self, user: UserName) -> ApiResult<()> {
        self.bytes(Route::DeleteUser(user), Bytes::new()).await.map(drop)
    }

    async fn roles(&self) -> ApiResult<Vec<Role>> {
        self.fetch(Route::Roles).await
    }

    async fn role(&self, name: RoleName) -> ApiResult<Role> {
        self.fetch(Route::Role(name)).await
    }

    async fn create_token(&self, request: CreateToken) -> ApiResult<CreatedToken> {
        self.call(Route::CreateToken, &request).await
    }

    async fn tokens(&self) -> ApiResult<Vec<TokenInfo>> {
        self.fetch(Route::Tokens).await
    }

    async fn delete_token(&self, token: SecretString) -> ApiResult<()> {
        self.order(Route::DeleteToken, &SecretBody { token }).await
    }

    async fn delete_node(&self, node: HostId) -> ApiResult<()> {
        self.bytes(Route::DeleteNode(node), Bytes::new()).await.map(drop)
    }
}

#[async_trait]
impl ResourceApi for AuthClient {
    async fn create_role(&self, role: Role) -> ApiResult<Revision> {
        self.call(Route::CreateRole, &role).await
    }

    async fn replace_role(&self, role: Role) -> ApiResult<Revision> {
        self.call(Route::ReplaceRole, &role).await
    }

    async fn delete_role(&self, name: RoleName) -> ApiResult<()> {
        self.bytes(Route::DeleteRole(name), Bytes::new()).await.map(drop)
    }

    async fn user_documents(&self) -> ApiResult<Vec<User>> {
        self.fetch(Route::UserDocuments).await
    }

    async fn user(&self, name: UserName) -> ApiResult<User> {
        self.fetch(Route::User(name)).await
    }

    async fn add_user(&self, user: User) -> ApiResult<Revision> {
        self.call(Route::AddUser, &user).await
    }

    async fn replace_user(&self, user: User) -> ApiResult<Revision> {
        self.call(Route::ReplaceUser, &user).await
    }

    async fn token_documents(&self) -> ApiResult<Vec<Token>> {
        self.fetch(Route::TokenDocuments).await
    }

    async fn replace_token(&self, token: Token) -> ApiResult<Revision> {
        self.call(Route::ReplaceToken, &token).await
    }

    async fn locks(&self) -> ApiResult<Vec<Lock>> {
        self.fetch(Route::Locks).await
    }

    async fn lock(&self, name: LockName) -> ApiResult<Lock> {
        self.fetch(Route::Lock(name)).await
    }

    async fn create_lock(&self, lock: Lock) -> ApiResult<Revision> {
        self.call(Route::CreateLock, &lock).await
    }

    async fn replace_lock(&self, lock: Lock) -> ApiResult<Revision> {
        self.call(Route::ReplaceLock, &lock).await
    }

    async fn delete_lock(&self, name: LockName) -> ApiResult<()> {
        self.bytes(Route::DeleteLock(name), Bytes::new()).await.map(drop)
    }

    async fn secrets(&self) -> ApiResult<Secrets> {
        self.fetch(Route::Secrets).await
    }
}

#[async_trait]
impl SigningApi for AuthClient {
    async fn sign_user(&self, request: SignUser) -> ApiResult<LoginResponse> {
        self.call(Route::SignUser, &request).await
    }

    async fn sign_host(&self, request: SignHost) -> ApiResult<SignedHost> {
        self.call(Route::SignHost, &request).await
    }
}
