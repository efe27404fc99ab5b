//! What services ask of the auth service: narrow traits, their messages and errors.
//!
//! The auth service implements them in process, bound to a caller
//! ([`AuthService::acting_as`](crate::auth::AuthService::acting_as)); the client of `teleport-ssh` implements them over the
//! wire, where the caller is the identity of the connection. Who may call what is one table, [`crate::auth::policy`].
//!
//! All futures are cancel safe in the sense that an interrupted call was carried out wholly or not at all; reads can be
//! repeated, writes say by [`ApiErrorKind::Conflict`] when they happened before.

mod account;
mod active_sessions;
mod connections;
mod error;
mod messages;
mod recordings;
mod signing;
mod stand_in;

use std::fmt;

use async_trait::async_trait;
use futures_util::stream::BoxStream;

pub use self::account::{
    AddMfaDevice, ChangePassword, MfaDevice, NewMfaDevice, RemoveMfaDevice, ResetUser, UpdateUser,
};
pub use self::active_sessions::{
    ActiveSession, EndSession, EndedSession, MAX_END_MESSAGE, Participant, RunningSession, SESSION_LEASE,
    SessionReport,
};
pub use self::connections::{
    CONNECTION_LEASE, ConnectionClaim, HeldConnections, HoldConnections, ReleaseConnections,
};
pub use self::error::{ApiError, ApiErrorKind};
pub use self::messages::{
    AcceptInvite, AccessView, AuditAnchors, AuthServerRecord, ClusterStatus, CreateToken, CreateUser,
    CreatedToken, HostCredentials, Invite, InviteInfo, JoinRequest, LoginRequest, LoginResponse, NodeEvent,
    Ping, Proxy, ProxyRecord, RecordingQuery, ReissueRequest, RenewRequest, TokenInfo, TokenPurpose,
    UserInfo,
};
pub use self::recordings::{RecordingApi, RetentionApi};
pub use self::signing::{SignHost, SignUser, SignedHost};
pub use self::stand_in::{OpenSshLogin, StandIn, StandInAccess, StandInApi};
use crate::audit::{AuditEvent, AuditPage, AuditQuery};
use crate::cert::TrustBundle;
use crate::id::{DeviceName, HostId, LockName, RoleName, SessionId, UserName};
use crate::resource::{Lock, Node, NodeRecord, Role, Secrets, Token, User};
use crate::storage::Revision;

/// Shorthand of this module.
pub type ApiResult<T> = Result<T, ApiError>;

/// For those who have no certificate yet. Proxies offer it to the public.
#[async_trait]
pub trait PublicApi: fmt::Debug + Send + Sync + 'static {
    /// What a client must know before it logs in.
    ///
    /// # Errors
    /// [`ApiErrorKind::Unavailable`].
    async fn ping(&self) -> ApiResult<Ping>;

    /// Makes a host a member, by a join token.
    ///
    /// # Errors
    /// [`ApiErrorKind::Denied`], the same whatever is wrong with the token.
    async fn join(&self, request: JoinRequest) -> ApiResult<HostCredentials>;

    /// Logs a user in by password and one-time code.
    ///
    /// # Errors
    /// [`ApiErrorKind::Denied`], the same for unknown users, wrong passwords, wrong codes and locked users.
    async fn login(&self, request: LoginRequest) -> ApiResult<LoginResponse>;

    /// What an invited user needs to set up a second factor. Asking again gives the same answer.
    ///
    /// # Errors
    /// [`ApiErrorKind::NotFound`] for an invite that is unknown, used or over.
    async fn invite(&self, token: crate::secret::SecretString) -> ApiResult<InviteInfo>;

    /// Sets the invited user's password and second factor; uses the invite up.
    ///
    /// # Errors
    /// [`ApiErrorKind::NotFound`], [`ApiErrorKind::Invalid`] for a password that is too short or a wrong code.
    async fn accept_invite(&self, request: AcceptInvite) -> ApiResult<()>;
}

/// For those who have certificates and want newer ones.
#[async_trait]
pub trait IdentityApi: fmt::Debug + Send + Sync + 'static {
    /// New certificates for the calling host: same id, name, role and cluster.
    ///
    /// # Errors
    /// [`ApiErrorKind::Denied`] for users.
    async fn renew_host(&self, request: RenewRequest) -> ApiResult<HostCredentials>;

    /// New certificates for the calling user: never wider, never longer than those the call is made with.
    ///
    /// # Errors
    /// [`ApiErrorKind::Denied`] for hosts.
    async fn reissue_user(&self, request: ReissueRequest) -> ApiResult<LoginResponse>;
}

/// What users do about their own password and second factors. Whoever changes one of them proves again to be the user, by the
/// password and a code as at a login; what fails counts towards the same lockout. Certificates stay as they are.
#[async_trait]
pub trait AccountApi: fmt::Debug + Send + Sync + 'static {
    /// Changes the calling user's password.
    ///
    /// # Errors
    /// [`ApiErrorKind::Invalid`] for a password that cannot be one, [`ApiErrorKind::Denied`] the same whatever is wrong with
    /// the old one and the code.
    async fn change_password(&self, request: ChangePassword) -> ApiResult<()>;

    /// The calling user's second factors, the oldest first.
    ///
    /// # Errors
    /// [`ApiErrorKind::Denied`] for hosts.
    async fn mfa_devices(&self) -> ApiResult<Vec<MfaDevice>>;

    /// A new second factor for the calling user. It is not in use, and nothing is stored, until it is added.
    ///
    /// # Errors
    /// [`ApiErrorKind::Conflict`] if the user has one of this name, or as many as may be.
    async fn begin_mfa_device(&self, name: DeviceName) -> ApiResult<NewMfaDevice>;

    /// Adds a second factor that was begun: from now on its codes are as good as those of the others.
    ///
    /// # Errors
    /// [`ApiErrorKind::Invalid`] for a ticket that is over or a code that is not one of the new device,
    /// [`ApiErrorKind::Conflict`] as at the beginning, [`ApiErrorKind::Denied`].
    async fn add_mfa_device(&self, request: AddMfaDevice) -> ApiResult<MfaDevice>;

    /// Removes a second factor.
    ///
    /// # Errors
    /// [`ApiErrorKind::NotFound`], [`ApiErrorKind::Conflict`] for the last one, [`ApiErrorKind::Denied`].
    async fn remove_mfa_device(&self, request: RemoveMfaDevice) -> ApiResult<()>;
}

/// Who is there.
#[async_trait]
pub trait PresenceApi: fmt::Debug + Send + Sync + 'static {
    /// A node describes itself, at the start and whenever something changes.
    ///
    /// # Errors
    /// [`ApiErrorKind::Denied`] for anybody but the node itself.
    async fn announce_node(&self, node: NodeRecord) -> ApiResult<()>;

    /// The calling node is alive.
    ///
    /// # Errors
    /// [`ApiErrorKind::NotFound`] if it must announce itself again.
    async fn keep_alive(&self) -> ApiResult<()>;

    /// A proxy describes itself; repeated as a sign of life.
    ///
    /// # Errors
    /// [`ApiErrorKind::Denied`] for anybody but the proxy itself.
    async fn announce_proxy(&self, proxy: ProxyRecord) -> ApiResult<()>;

    /// The nodes that the caller may know of.
    ///
    /// # Errors
    /// [`ApiErrorKind::Unavailable`].
    async fn nodes(&self) -> ApiResult<Vec<Node>>;

    /// The nodes and every change to them; begins with [`NodeEvent::Snapshot`], ends when it cannot go on.
    ///
    /// # Errors
    /// [`ApiErrorKind::Denied`] for anybody but proxies.
    async fn watch_nodes(&self) -> ApiResult<BoxStream<'static, ApiResult<NodeEvent>>>;
}

/// The connections of users whose roles allow only so many in the whole cluster (`max_connections`).
///
/// # Contract
/// A place is a lease: it ends [`CONNECTION_LEASE`] after it was last asked for, so that those of a node that is gone are free
/// again. A user never has more places than the least that any of them was asked for with, counted when each was taken. Places
/// belong to the host that took them: no other can prolong or release them.
#[async_trait]
pub trait ConnectionApi: fmt::Debug + Send + Sync + 'static {
    /// Takes places, and prolongs those that the calling node has; asking twice takes one. Places of an earlier run of the calling
    /// node are free from now on: its connections ended with it. Says which connections have no place.
    ///
    /// # Errors
    /// [`ApiErrorKind::Denied`] for anybody but nodes, [`ApiErrorKind::Invalid`] for too many at once,
    /// [`ApiErrorKind::Unavailable`]: then some of them may have been taken.
    async fn hold_connections(&self, request: HoldConnections) -> ApiResult<HeldConnections>;

    /// Gives places of the calling node back. Those that it has not are left as they are.
    ///
    /// # Errors
    /// Those of [`ConnectionApi::hold_connections`].
    async fn release_connections(&self, request: ReleaseConnections) -> ApiResult<()>;
}

/// Nodes tell which sessions run on them.
///
/// # Contract
/// A report is all that the node has: the last one counts, for [`SESSION_LEASE`]. It belongs to the host that made it.
#[async_trait]
pub trait SessionReportApi: fmt::Debug + Send + Sync + 'static {
    /// Replaces what is known of the calling node's sessions; repeated as a sign of life while there are any.
    ///
    /// # Errors
    /// [`ApiErrorKind::Denied`] for anybody but nodes and for sessions of other hosts, [`ApiErrorKind::Invalid`] for a report
    /// that is too long.
    async fn report_sessions(&self, report: SessionReport) -> ApiResult<()>;
}

/// The sessions that run, for users. A user sees the own ones, those that may be joined, and those that a rule about
/// `session_tracker` names; the others do not exist.
#[async_trait]
pub trait ActiveSessionApi: fmt::Debug + Send + Sync + 'static {
    /// The sessions that the caller may see, the oldest first.
    ///
    /// # Errors
    /// [`ApiErrorKind::Denied`] for hosts.
    async fn active_sessions(&self) -> ApiResult<Vec<ActiveSession>>;

    /// One session.
    ///
    /// # Errors
    /// [`ApiErrorKind::NotFound`], also for sessions that the caller may not see.
    async fn active_session(&self, session: SessionId) -> ApiResult<ActiveSession>;

    /// Ends a session, by the verb `delete` on `session_tracker`. Its node hears of it within a second, if it can.
    ///
    /// # Errors
    /// [`ApiErrorKind::NotFound`] as above, [`ApiErrorKind::Denied`], [`ApiErrorKind::Invalid`] for a message that is too long,
    /// [`ApiErrorKind::Unavailable`] also when very many were ended in the last minutes.
    async fn terminate_session(&self, session: SessionId, request: EndSession) -> ApiResult<()>;
}

/// What servers need to decide for themselves.
#[async_trait]
pub trait TrustApi: fmt::Debug + Send + Sync + 'static {
    /// The public keys to trust.
    ///
    /// # Errors
    /// [`ApiErrorKind::Unavailable`].
    async fn trust(&self) -> ApiResult<TrustBundle>;

    /// Trust and policy, and then again after each change; ends when it cannot go on.
    ///
    /// # Errors
    /// [`ApiErrorKind::Denied`] for anybody but hosts.
    async fn watch_access(&self) -> ApiResult<BoxStream<'static, ApiResult<AccessView>>>;
}

/// The audit log.
#[async_trait]
pub trait AuditApi: fmt::Debug + Send + Sync + 'static {
    /// Adds what the calling host saw. The service stamps who reports it and when.
    ///
    /// # Errors
    /// [`ApiErrorKind::Denied`] for users.
    async fn emit_events(&self, events: Vec<AuditEvent>) -> ApiResult<()>;

    /// Searches the log.
    ///
    /// # Errors
    /// [`ApiErrorKind::Denied`] without the right to read events.
    async fn search_events(&self, query: AuditQuery) -> ApiResult<AuditPage>;
}

/// Administration.
#[async_trait]
pub trait AdminApi: fmt::Debug + Send + Sync + 'static {
    /// The cluster at a glance.
    ///
    /// # Errors
    /// [`ApiErrorKind::Denied`] without the right to read authorities.
    async fn status(&self) -> ApiResult<ClusterStatus>;

    /// What the audit log is verified with: public keys, and the newest checkpoints.
    ///
    /// # Errors
    /// [`ApiErrorKind::Denied`].
    async fn audit_anchors(&self) -> ApiResult<AuditAnchors>;

    /// Makes a user and an invite.
    ///
    /// # Errors
    /// [`ApiErrorKind::Conflict`] if the user exists, [`ApiErrorKind::Invalid`] for unknown roles.
    async fn create_user(&self, request: CreateUser) -> ApiResult<Invite>;

    /// Makes an invite that replaces the user's password and second factors; unlocks the user.
    ///
    /// # Errors
    /// [`ApiErrorKind::NotFound`], [`ApiErrorKind::Invalid`] for a time that is too long.
    async fn reset_user(&self, user: UserName, request: ResetUser) -> ApiResult<Invite>;

    /// Changes roles, logins or traits of a user. Certificates keep what they say until they expire; what a role allows at the
    /// auth service ends at once with the role.
    ///
    /// # Errors
    /// [`ApiErrorKind::NotFound`], [`ApiErrorKind::Invalid`] for unknown roles, impossible traits, or nothing to change.
    async fn update_user(&self, user: UserName, request: UpdateUser) -> ApiResult<()>;

    /// Forgets a user's failed logins: a locked user may try again at once. Password and second factors stay.
    ///
    /// # Errors
    /// [`ApiErrorKind::NotFound`].
    async fn unlock_user(&self, user: UserName) -> ApiResult<()>;

    /// All users.
    ///
    /// # Errors
    /// [`ApiErrorKind::Denied`].
    async fn users(&self) -> ApiResult<Vec<UserInfo>>;

    /// Deletes a user with password, second factors and invites. Certificates that were issued before are void, at nodes and proxies
    /// as soon as they hear of it.
    ///
    /// # Errors
    /// [`ApiErrorKind::NotFound`].
    async fn delete_user(&self, user: UserName) -> ApiResult<()>;

    /// All roles.
    ///
    /// # Errors
    /// [`ApiErrorKind::Denied`].
    async fn roles(&self) -> ApiResult<Vec<Role>>;

    /// One role.
    ///
    /// # Errors
    /// [`ApiErrorKind::NotFound`].
    async fn role(&self, name: RoleName) -> ApiResult<Role>;

    /// Makes a join token.
    ///
    /// # Errors
    /// [`ApiErrorKind::Conflict`] if a given value is in use.
    async fn create_token(&self, request: CreateToken) -> ApiResult<CreatedToken>;

    /// All join tokens, and the invites if the caller may list users; without their secrets.
    ///
    /// # Errors
    /// [`ApiErrorKind::Denied`].
    async fn tokens(&self) -> ApiResult<Vec<TokenInfo>>;

    /// Deletes a join token, by its secret or its id; or an invite, if the caller may update users.
    ///
    /// # Errors
    /// [`ApiErrorKind::NotFound`].
    async fn delete_token(&self, token: crate::secret::SecretString) -> ApiResult<()>;

    /// Removes a node or a proxy from the cluster: it disappears from the lists, its streams end, and every call of it is refused
    /// from now on with [`ApiErrorKind::Evicted`], whatever certificates it still holds. Another id may join in its place.
    ///
    /// # Errors
    /// [`ApiErrorKind::NotFound`], [`ApiErrorKind::Conflict`] if it was removed before, [`ApiErrorKind::Invalid`] for the
    /// auth service.
    async fn delete_node(&self, node: HostId) -> ApiResult<()>;
}

/// Resources as documents, as administrators write and keep them. Roles are read by [`AdminApi::roles`].
///
/// A document with a revision replaces only that revision; without one it replaces whatever is stored. Nothing that could not be
/// decided by is stored.
#[async_trait]
pub trait ResourceApi: fmt::Debug + Send + Sync + 'static {
    /// Writes a role that does not exist. Its revision is not looked at.
    ///
    /// # Errors
    /// [`ApiErrorKind::Conflict`] if it exists, [`ApiErrorKind::Invalid`] with what is wrong with it.
    async fn create_role(&self, role: Role) -> ApiResult<Revision>;

    /// Replaces a role.
    ///
    /// # Errors
    /// [`ApiErrorKind::NotFound`], [`ApiErrorKind::Conflict`] if it has another revision, [`ApiErrorKind::Invalid`].
    async fn replace_role(&self, role: Role) -> ApiResult<Revision>;

    /// Deletes a role that nobody holds. A user who is given it at this very moment holds one that does not exist: it grants
    /// nothing.
    ///
    /// # Errors
    /// [`ApiErrorKind::NotFound`], [`ApiErrorKind::Conflict`] if users hold it, [`ApiErrorKind::Invalid`] for a built-in one.
    async fn delete_role(&self, name: RoleName) -> ApiResult<()>;

    /// All users, with their revisions.
    ///
    /// # Errors
    /// [`ApiErrorKind::Denied`].
    async fn user_documents(&self) -> ApiResult<Vec<User>>;

    /// One user, with the revision.
    ///
    /// # Errors
    /// [`ApiErrorKind::NotFound`].
    async fn user(&self, name: UserName) -> ApiResult<User>;

    /// Writes a user who does not exist and has no password and no invite yet; [`AdminApi::reset_user`] makes one.
    ///
    /// # Errors
    /// [`ApiErrorKind::Conflict`] if the user exists, [`ApiErrorKind::Invalid`] with what is wrong.
    async fn add_user(&self, user: User) -> ApiResult<Revision>;

    /// Replaces what is known of a user. Password and second factors stay.
    ///
    /// # Errors
    /// [`ApiErrorKind::NotFound`], [`ApiErrorKind::Conflict`] if the user has another revision, [`ApiErrorKind::Invalid`].
    async fn replace_user(&self, user: User) -> ApiResult<Revision>;

    /// All join tokens that can still be used, with their revisions and without their secrets. Those of the configuration are not
    /// among them.
    ///
    /// # Errors
    /// [`ApiErrorKind::Denied`].
    async fn token_documents(&self) -> ApiResult<Vec<Token>>;

    /// Replaces what is known of a join token. Its secret stays.
    ///
    /// # Errors
    /// [`ApiErrorKind::NotFound`], [`ApiErrorKind::Conflict`] if it has another revision, [`ApiErrorKind::Invalid`].
    async fn replace_token(&self, token: Token) -> ApiResult<Revision>;

    /// All locks, with their revisions; one that cannot be read is there as
    /// [`Lock::unreadable`](crate::resource::Lock::unreadable).
    ///
    /// # Errors
    /// [`ApiErrorKind::Denied`].
    async fn locks(&self) -> ApiResult<Vec<Lock>>;

    /// One lock, with the revision.
    ///
    /// # Errors
    /// [`ApiErrorKind::NotFound`].
    async fn lock(&self, name: LockName) -> ApiResult<Lock>;

    /// Locks. From then on no certificate is issued and nothing is begun for whoever is targeted, and what was begun ends. That
    /// those who are named exist is not asked for.
    ///
    /// # Errors
    /// [`ApiErrorKind::Conflict`] if there is a lock of this name, [`ApiErrorKind::Invalid`] with what is wrong.
    async fn create_lock(&self, lock: Lock) -> ApiResult<Revision>;

    /// Replaces a lock.
    ///
    /// # Errors
    /// [`ApiErrorKind::NotFound`], [`ApiErrorKind::Conflict`] if it has another revision, [`ApiErrorKind::Invalid`].
    async fn replace_lock(&self, lock: Lock) -> ApiResult<Revision>;

    /// Ends a lock.
    ///
    /// # Errors
    /// [`ApiErrorKind::NotFound`].
    async fn delete_lock(&self, name: LockName) -> ApiResult<()>;

    /// What a backup needs beside the documents: see [`SecretsSpec`](crate::resource::SecretsSpec). For whoever holds the data
    /// directory of the auth service, and for nobody else.
    ///
    /// # Errors
    /// [`ApiErrorKind::Denied`].
    async fn secrets(&self) -> ApiResult<Secrets>;
}

/// Certificates that administrators have made for others: for programs, which cannot log in, and for SSH servers that are no members
/// of the cluster. Private keys stay where they were made.
///
/// Whoever may do this may be anybody, so a role allows it by naming the kind only
/// ([`NAMED_KINDS`](crate::resource::NAMED_KINDS)).
#[async_trait]
pub trait SigningApi: fmt::Debug + Send + Sync + 'static {
    /// Certificates for a user, with what the user would get by logging in at this moment.
    ///
    /// # Errors
    /// [`ApiErrorKind::NotFound`], [`ApiErrorKind::Invalid`] for keys that are not certified.
    async fn sign_user(&self, request: SignUser) -> ApiResult<LoginResponse>;

    /// A certificate for the host key of an SSH server. It makes nobody a member: no service of the cluster accepts it.
    ///
    /// # Errors
    /// [`ApiErrorKind::Invalid`] for no names, impossible ones, and those by which a proxy, a node or the cluster is found.
    async fn sign_host(&self, request: SignHost) -> ApiResult<SignedHost>;
}

/// What a node needs.
pub trait NodeAccess:
    IdentityApi + PresenceApi + ConnectionApi + SessionReportApi + TrustApi + RecordingApi + AuditApi
{
}
impl<
    T: IdentityApi
        + PresenceApi
        + ConnectionApi
        + SessionReportApi
        + TrustApi
        + RecordingApi
        + AuditApi
        + ?Sized,
> NodeAccess for T
{
}

/// What a proxy needs.
pub trait ProxyAccess: PublicApi + IdentityApi + PresenceApi + TrustApi + AuditApi {}
impl<T: PublicApi + IdentityApi + PresenceApi + TrustApi + AuditApi + ?Sized> ProxyAccess for T {}

/// Everything: what the auth service offers and its client speaks.
pub trait AuthApi:
    NodeAccess
    + ProxyAccess
    + StandInApi
    + RetentionApi
    + AccountApi
    + ActiveSessionApi
    + AdminApi
    + ResourceApi
    + SigningApi
{
}
impl<
    T: NodeAccess
        + ProxyAccess
        + StandInApi
        + RetentionApi
        + AccountApi
        + ActiveSessionApi
        + AdminApi
        + ResourceApi
        + SigningApi
        + ?Sized,
> AuthApi for T
{
}
