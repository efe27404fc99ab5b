//! Every operation as every kind of caller.

use std::sync::Arc;

use bytes::Bytes;

use super::{ApiFixture, fresh_name, host, user, uuid};
use crate::api::{
    AcceptInvite, AddMfaDevice, ApiError, ApiErrorKind, AuthApi, ChangePassword, CreateToken, CreateUser,
    EndSession, HoldConnections, JoinRequest, LoginRequest, OpenSshLogin, ProxyRecord, RecordingQuery,
    ReissueRequest, ReleaseConnections, RemoveMfaDevice, RenewRequest, ResetUser, SessionReport, SignHost,
    SignUser, StandIn, UpdateUser,
};
use crate::audit::AuditQuery;
use crate::auth::Caller;
use crate::auth::policy::{CallerKind, Operation, Rule as Row};
use crate::cert::Identity;
use crate::id::{DeviceName, HostId, HostRole, LockName, NodeName, RoleName, SessionId};
use crate::label::Labels;
use crate::recording::RecordingMeta;
use crate::resource::{
    Lock, Metadata, NAMED_KINDS, NodeRecord, Role, RoleConditions, RoleSpec, Rule, Token, TokenSpec, User,
    UserSpec, Verb,
};
use crate::secret::SecretString;

/// What the calls of [`call`] are about.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "tests build it")]
pub struct CallTarget {
    /// A host: announced, renewed.
    pub host_id: HostId,
    /// A session: recorded, read.
    pub session: SessionId,
    /// The id of a host that joins; nothing else is ever called by it.
    pub new_host: HostId,
    /// What a joining host shows.
    pub join_token: SecretString,
    /// What an invited user shows.
    pub invite: SecretString,
}

impl CallTarget {
    /// The host, and otherwise things that do not exist.
    pub fn of_host(fixture: &dyn ApiFixture, host_id: HostId) -> Self {
        let nothing = || SecretString::new("00000000000000000000000000000000");
        Self {
            host_id,
            session: SessionId::from_uuid(uuid(fixture)),
            new_host: HostId::from_uuid(uuid(fixture)),
            join_token: nothing(),
            invite: nothing(),
        }
    }
}

/// Calls an operation with arguments that are refused as wrong, or change nothing, if the caller may call it; for tables of who
/// may call what. Only what `target` names may be changed.
///
/// # Errors
/// Those of the operation.
pub async fn call(
    fixture: &dyn ApiFixture,
    api: &Arc<dyn AuthApi>,
    target: &CallTarget,
    operation: Operation,
) -> Result<(), ApiError> {
    let (host_id, session) = (target.host_id, target.session);
    let nothing = || SecretString::new("00000000000000000000000000000000");
    let malformed = || SecretString::new("malformed");
    let device = || DeviceName::new("phone").unwrap();
    let keys = || fixture.keys();
    let unknown = || fresh_name(fixture, "unknown");
    let name = || NodeName::new("name").unwrap();
    match operation {
        Operation::Ping => api.ping().await.map(drop),
        Operation::Join => {
            let request = JoinRequest {
                token: target.join_token.clone(),
                host_id: target.new_host,
                name: name(),
                role: HostRole::Node,
                keys: keys(),
                addresses: Vec::new(),
                client_ip: None,
            };
            api.join(request).await.map(drop)
        }
        Operation::Login => {
            let request = LoginRequest {
                user: unknown().to_string(),
                password: nothing(),
                code: SecretString::new("malformed"),
                keys: keys(),
                ttl: None,
                client_ip: None,
            };
            api.login(request).await.map(drop)
        }
        Operation::Invite => api.invite(target.invite.clone()).await.map(drop),
        Operation::AcceptInvite => {
            let request = AcceptInvite {
                token: target.invite.clone(),
                password: nothing(),
                code: SecretString::new("000000"),
                client_ip: None,
            };
            api.accept_invite(request).await
        }
        Operation::RenewHost => {
            api.renew_host(RenewRequest { keys: keys(), addresses: vec!["*".to_owned()] }).await.map(drop)
        }
        Operation::ReissueUser => {
            api.reissue_user(ReissueRequest { keys: keys(), ttl: None }).await.map(drop)
        }
        Operation::ChangePassword => {
            let request = ChangePassword { password: nothing(), code: malformed(), new_password: nothing() };
            api.change_password(request).await
        }
        Operation::MfaDevices => api.mfa_devices().await.map(drop),
        Operation::BeginMfaDevice => api.begin_mfa_device(device()).await.map(drop),
        Operation::AddMfaDevice => {
            let request = AddMfaDevice {
                ticket: nothing(),
                new_code: malformed(),
                password: nothing(),
                code: malformed(),
            };
            api.add_mfa_device(request).await.map(drop)
        }
        Operation::RemoveMfaDevice => {
            let request = RemoveMfaDevice { name: device(), password: nothing(), code: malformed() };
            api.remove_mfa_device(request).await
        }
        Operation::AnnounceNode => {
            let record = NodeRecord {
                host_id,
                name: name(),
                address: "nowhere".to_owned(),
                labels: Labels::default(),
                sub_kind: crate::resource::NodeKind::Teleport,
                proxy_ids: Vec::new(),
                version: String::new(),
            };
            api.announce_node(record).await
        }
        Operation::KeepAlive => api.keep_alive().await,
        Operation::AnnounceProxy => {
            let record = ProxyRecord {
                host_id,
                name: name(),
                web_address: "nowhere".to_owned(),
                ssh_address: "nowhere".to_owned(),
                peer_address: None,
                tunnels: 0,
                version: String::new(),
            };
            api.announce_proxy(record).await
        }
        Operation::HoldConnections => {
            let run = crate::id::RunId::from_uuid(uuid(fixture));
            api.hold_connections(HoldConnections { run, connections: Vec::new() }).await.map(drop)
        }
        Operation::ReleaseConnections => {
            api.release_connections(ReleaseConnections { connections: Vec::new() }).await
        }
        Operation::Nodes => api.nodes().await.map(drop),
        Operation::WatchNodes => api.watch_nodes().await.map(drop),
        Operation::ReportSessions => api.report_sessions(SessionReport::default()).await,
        Operation::ActiveSessions => api.active_sessions().await.map(drop),
        Operation::ActiveSession => api.active_session(session).await.map(drop),
        Operation::TerminateSession => api.terminate_session(session, EndSession::default()).await,
        Operation::Trust => api.trust().await.map(drop),
        Operation::WatchAccess => api.watch_access().await.map(drop),
        Operation::CreateRecording => {
            let meta = RecordingMeta {
                session,
                cluster: fixture.cluster(),
                host_id,
                host_name: name(),
                user: unknown(),
                login: crate::id::OsLogin::new("root").unwrap(),
                started: fixture.now(),
                command: None,
                terminal: None,
            };
            api.create_recording(meta).await
        }
        Operation::StreamRecording => api.stream_recording(session, 1 << 20, Bytes::from_static(b"?")).await,
        Operation::PutRecordingPart => api.put_recording_part(session, 0, Bytes::from_static(b"?")).await,
        Operation::RecordingParts => api.recording_parts(session).await.map(drop),
        Operation::CompleteRecording => api.complete_recording(session, 0).await,
        Operation::Recordings => api.recordings(RecordingQuery::default()).await.map(drop),
        Operation::Recording => api.recording(session).await.map(drop),
        Operation::ReadRecording => api.read_recording(session, 0).await.map(drop),
        Operation::HoldRecording => api.hold_recording(session, None).await.map(drop),
        Operation::ReleaseRecording => api.release_recording(session, None).await,
        Operation::DeleteRecording => api.delete_recording(session, None).await,
        Operation::RewrapRecording => api.rewrap_recording(session).await.map(drop),
        Operation::EmitEvents => api.emit_events(Vec::new()).await,
        Operation::SearchEvents => {
            api.search_events(AuditQuery { limit: 1, ..AuditQuery::default() }).await.map(drop)
        }
        Operation::AuditAnchors => api.audit_anchors().await.map(drop),
        Operation::Status => api.status().await.map(drop),
        Operation::CreateUser => {
            let request = CreateUser {
                name: unknown(),
                roles: vec![RoleName::new("nonesuch").unwrap()],
                logins: Vec::new(),
                ttl: None,
            };
            api.create_user(request).await.map(drop)
        }
        Operation::ResetUser => api.reset_user(unknown(), ResetUser::default()).await.map(drop),
        Operation::UpdateUser => api.update_user(unknown(), UpdateUser::default()).await,
        Operation::UnlockUser => api.unlock_user(unknown()).await,
        Operation::Users => api.users().await.map(drop),
        Operation::DeleteUser => api.delete_user(unknown()).await,
        Operation::Roles => api.roles().await.map(drop),
        Operation::Role => api.role(RoleName::new("nonesuch").unwrap()).await.map(drop),
        Operation::CreateToken => {
            let request = CreateToken {
                roles: Vec::new(),
                ttl: None,
                uses: None,
                labels: Labels::default(),
                value: None,
            };
            api.create_token(request).await.map(drop)
        }
        Operation::Tokens => api.tokens().await.map(drop),
        Operation::DeleteToken => api.delete_token(nothing()).await,
        Operation::DeleteNode => api.delete_node(target.new_host).await,
        Operation::CreateRole => api.create_role(Role::unreadable("nonesuch")).await.map(drop),
        Operation::ReplaceRole => api.replace_role(Role::unreadable("nonesuch")).await.map(drop),
        Operation::DeleteRole => api.delete_role(RoleName::new("nonesuch").unwrap()).await,
        Operation::UserDocuments => api.user_documents().await.map(drop),
        Operation::User => api.user(unknown()).await.map(drop),
        Operation::AddUser => api.add_user(User::new("no user", UserSpec::default())).await.map(drop),
        Operation::ReplaceUser => api.replace_user(User::new("no user", UserSpec::default())).await.map(drop),
        Operation::TokenDocuments => api.token_documents().await.map(drop),
        Operation::ReplaceToken => {
            let token = Token::described(Metadata::default(), TokenSpec::default());
            api.replace_token(token).await.map(drop)
        }
        Operation::Locks => api.locks().await.map(drop),
        Operation::Lock => api.lock(LockName::new("nonesuch").unwrap()).await.map(drop),
        Operation::CreateLock => api.create_lock(Lock::unreadable("nonesuch")).await.map(drop),
        Operation::ReplaceLock => api.replace_lock(Lock::unreadable("nonesuch")).await.map(drop),
        Operation::DeleteLock => api.delete_lock(LockName::new("nonesuch").unwrap()).await,
        Operation::Secrets => api.secrets().await.map(drop),
        Operation::SignUser => {
            api.sign_user(SignUser { user: unknown(), keys: keys(), ttl: None }).await.map(drop)
        }
        Operation::StandIn => {
            let request = StandIn { node: host_id, key: keys().ssh };
            api.stand_in(request).await.map(drop)
        }
        Operation::OpenSshLogin => {
            let request = OpenSshLogin {
                node: host_id,
                login: "root".parse().unwrap(),
                certificate: String::new(),
                client_ip: None,
                key: keys().ssh,
            };
            api.openssh_login(request).await.map(drop)
        }
        Operation::SignHost => {
            api.sign_host(SignHost { names: Vec::new(), key: keys().ssh, ttl: None }).await.map(drop)
        }
    }
}

/// Every row of the table in [`crate::auth::policy`], by calling.
pub async fn the_policy_table_holds(fixture: &dyn ApiFixture) {
    // What has to be allowed by its name no built-in role allows.
    let rules = vec![Rule {
        resources: NAMED_KINDS.map(str::to_owned).to_vec(),
        verbs: vec![Verb::Create],
        condition: None,
    }];
    let allow = RoleConditions { rules, ..RoleConditions::default() };
    let signer = fresh_name(fixture, "signer");
    let role = Role::new(signer.as_str(), RoleSpec { allow, ..RoleSpec::default() });
    super::admin(fixture).create_role(role).await.unwrap();
    // Reissuing and administering need a user who exists.
    let all = ["access", "editor", "auditor", signer.as_str()];
    let existing = super::member(fixture, "grace", &all).await.user;

    for kind in CallerKind::ALL {
        let identity = host(
            fixture,
            "policy",
            match kind {
                CallerKind::Auth => HostRole::Auth,
                CallerKind::Proxy => HostRole::Proxy,
                _ => HostRole::Node,
            },
        );
        let as_user = |roles: &[&str]| {
            let identity = user(fixture, existing.as_str(), roles, &["root"]);
            Caller::Identity(Identity::User(identity), None)
        };
        // Users count twice: without a role that administers, and with all that do.
        let callers = match kind {
            CallerKind::Anonymous => vec![(Caller::Anonymous { remote: None }, false)],
            CallerKind::LocalAdmin => vec![(Caller::LocalAdmin, true)],
            CallerKind::User => vec![(as_user(&["access"]), false), (as_user(&all[1..]), true)],
            _ => vec![(Caller::Identity(Identity::Host(identity.clone()), None), false)],
        };
        for (caller, administers) in callers {
            let api = fixture.as_caller(caller.clone());
            let target = CallTarget::of_host(fixture, identity.host_id);
            for operation in Operation::ALL.iter().copied() {
                let rule = operation.rule(kind);
                let allowed = match rule {
                    Row::No => false,
                    Row::Role(..) => administers,
                    Row::Own | Row::Yes => true,
                };
                let outcome = call(fixture, &api, &target, operation).await;
                let denied = outcome.as_ref().is_err_and(|error| error.kind() == ApiErrorKind::Denied);
                // A wrong token is denied by its nature.
                let natural = allowed && operation == Operation::Join;
                assert!(
                    denied != allowed || natural,
                    "{} as {caller}: the table says {rule}, the service {outcome:?}",
                    operation.name(),
                );
            }
        }
    }
    super::admin(fixture).delete_user(existing).await.unwrap();
    super::admin(fixture).delete_role(RoleName::new(signer.as_str()).unwrap()).await.unwrap();
}
