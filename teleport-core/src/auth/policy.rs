//! Who may call what: one table.
//!
//! A row per operation of the API, a column per kind of caller. A golden file shows it whole; a test compares the rows with
//! the methods of the traits, another one calls every method as every kind of caller.

use std::fmt;

use super::Caller;
use crate::cert::{HostIdentity, Identity, UserIdentity};
use crate::id::HostRole;
use crate::resource::Verb;

/// What the table says of an operation and a kind of caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rule {
    /// Never.
    No,
    /// Only about the caller itself, or what is the caller's own; the operation checks which.
    Own,
    /// If a role allows the verb on the kind of resource.
    Role(&'static str, Verb),
    /// Always.
    Yes,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.pad("-"),
            Self::Own => f.pad("own"),
            Self::Role(kind, verb) => f.pad(&format!("{kind}:{}", verb.as_str())),
            Self::Yes => f.pad("yes"),
        }
    }
}

/// The kinds of callers: the columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallerKind {
    /// Nobody known.
    Anonymous,
    /// The auth service, by its own host certificate. Its key lies beside those of the authorities.
    Auth,
    /// The data directory's owner.
    LocalAdmin,
    /// An SSH node.
    Node,
    /// A proxy.
    Proxy,
    /// A user.
    User,
}

impl CallerKind {
    /// All kinds, in the order of the table.
    pub const ALL: [Self; 6] =
        [Self::Anonymous, Self::Node, Self::Proxy, Self::Auth, Self::LocalAdmin, Self::User];

    /// The heading of the column.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Auth => "auth",
            Self::LocalAdmin => "local-admin",
            Self::Node => "node",
            Self::Proxy => "proxy",
            Self::User => "user",
        }
    }

    /// Of a caller.
    pub const fn of(caller: &Caller) -> Self {
        match caller {
            Caller::Anonymous { .. } => Self::Anonymous,
            Caller::Identity(Identity::Host(host), _) => match host.role {
                HostRole::Auth => Self::Auth,
                HostRole::Node => Self::Node,
                HostRole::Proxy => Self::Proxy,
            },
            Caller::Identity(Identity::User(_), _) => Self::User,
            Caller::LocalAdmin => Self::LocalAdmin,
        }
    }
}

macro_rules! table {
    ($($operation:ident $name:literal [$anonymous:expr, $node:expr, $proxy:expr, $auth:expr, $local:expr, $user:expr];)*) => {
        /// An operation of the API.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Operation {
            $(#[doc = concat!("`", $name, "`")] $operation,)*
        }

        impl Operation {
            /// Every operation, in the order of the traits.
            pub const ALL: &[Self] = &[$(Self::$operation,)*];

            /// The name of the method.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$operation => $name,)* }
            }

            /// Whether it changes what administrators are responsible for: users with the right role may ask for it, and it is
            /// more than looking.
            pub const fn administers(self) -> bool {
                matches!(
                    self.rule(CallerKind::User),
                    Rule::Role(_, Verb::Create | Verb::Delete | Verb::Update | Verb::Any)
                )
            }

            /// What a host that is locked may still do: hear that it is, end what was begun, and hand in what was seen.
            pub(super) const fn is_open_to_locked_hosts(self) -> bool {
                matches!(
                    self,
                    Self::CompleteRecording
                        | Self::CreateRecording
                        | Self::EmitEvents
                        | Self::Ping
                        | Self::PutRecordingPart
                        | Self::RecordingParts
                        | Self::ReleaseConnections
                        | Self::ReportSessions
                        | Self::StreamRecording
                        | Self::Trust
                        | Self::WatchAccess
                )
            }

            /// What the table says.
            pub const fn rule(self, caller: CallerKind) -> Rule {
                use Rule::{No, Own, Role, Yes};
                use Verb::{Create, Delete, List, Read, Update};
                // Not every table uses all of them.
                let _ = (No, Own, Yes, Role("", Read), Create, Delete, List, Update);
                match self {
                    $(Self::$operation => match caller {
                        CallerKind::Anonymous => $anonymous,
                        CallerKind::Node => $node,
                        CallerKind::Proxy => $proxy,
                        CallerKind::Auth => $auth,
                        CallerKind::LocalAdmin => $local,
                        CallerKind::User => $user,
                    },)*
                }
            }
        }
    };
}

table! {
    // Operation                              anonymous node proxy auth local user
    Ping              "ping"                  [Yes, Yes, Yes, Yes, Yes, Yes];
    Join              "join"                  [Yes, No,  Yes, No,  Yes, No];
    // People do these three at a proxy, which rates them and says where they sit.
    Login             "login"                 [No,  No,  Yes, No,  Yes, No];
    Invite            "invite"                [No,  No,  Yes, No,  Yes, No];
    AcceptInvite      "accept_invite"         [No,  No,  Yes, No,  Yes, No];
    RenewHost         "renew_host"            [No,  Own, Own, Own, No,  No];
    ReissueUser       "reissue_user"          [No,  No,  No,  No,  No,  Own];
    ChangePassword    "change_password"       [No,  No,  No,  No,  No,  Own];
    MfaDevices        "mfa_devices"           [No,  No,  No,  No,  No,  Own];
    BeginMfaDevice    "begin_mfa_device"      [No,  No,  No,  No,  No,  Own];
    AddMfaDevice      "add_mfa_device"        [No,  No,  No,  No,  No,  Own];
    RemoveMfaDevice   "remove_mfa_device"     [No,  No,  No,  No,  No,  Own];
    AnnounceNode      "announce_node"         [No,  Own, No,  No,  No,  No];
    KeepAlive         "keep_alive"            [No,  Own, No,  No,  No,  No];
    AnnounceProxy     "announce_proxy"        [No,  No,  Own, No,  No,  No];
    Nodes             "nodes"                 [No,  Own, Yes, Yes, Yes, Own];
    WatchNodes        "watch_nodes"           [No,  No,  Yes, Yes, Yes, No];
    HoldConnections   "hold_connections"      [No,  Own, Own,  No,  No,  No];
    ReleaseConnections "release_connections"  [No,  Own, Own,  No,  No,  No];
    ReportSessions    "report_sessions"       [No,  Own, Own,  No,  No,  No];
    ActiveSessions    "active_sessions"       [No,  No,  No,  Yes, Yes, Own];
    ActiveSession     "active_session"        [No,  No,  No,  Yes, Yes, Own];
    TerminateSession  "terminate_session"     [No,  No,  No,  Yes, Yes, Own];
    Trust             "trust"                 [Yes, Yes, Yes, Yes, Yes, Yes];
    WatchAccess       "watch_access"          [No,  Yes, Yes, Yes, Yes, No];
    CreateRecording   "create_recording"      [No,  Own, Own, No,  No,  No];
    PutRecordingPart  "put_recording_part"    [No,  Own, Own, No,  No,  No];
    StreamRecording   "stream_recording"      [No,  Own, Own, No,  No,  No];
    RecordingParts    "recording_parts"       [No,  Own, Own, No,  No,  No];
    CompleteRecording "complete_recording"    [No,  Own, Own, No,  No,  No];
    StandIn           "stand_in"              [No,  No,  Own, No,  No,  No];
    OpenSshLogin      "openssh_login"         [No,  No,  Own, No,  No,  No];
    Recordings        "recordings"            [No,  No,  No,  Yes, Yes, Own];
    Recording         "recording"             [No,  No,  No,  Yes, Yes, Own];
    ReadRecording     "read_recording"        [No,  No,  No,  Yes, Yes, Own];
    HoldRecording     "hold_recording"        [No,  No,  No,  Yes, Yes, Own];
    ReleaseRecording  "release_recording"     [No,  No,  No,  Yes, Yes, Own];
    DeleteRecording   "delete_recording"      [No,  No,  No,  Yes, Yes, Own];
    RewrapRecording   "rewrap_recording"      [No,  No,  No,  Yes, Yes, Own];
    EmitEvents        "emit_events"           [No,  Own, Own, Own, No,  No];
    SearchEvents      "search_events"         [No,  No,  No,  Yes, Yes, Role("event", List)];
    Status            "status"                [No,  No,  No,  Yes, Yes, Role("cert_authority", Read)];
    AuditAnchors      "audit_anchors"         [No,  No,  No,  Yes, Yes, Role("event", List)];
    CreateUser        "create_user"           [No,  No,  No,  Yes, Yes, Role("user", Create)];
    ResetUser         "reset_user"            [No,  No,  No,  Yes, Yes, Role("user", Update)];
    UpdateUser        "update_user"           [No,  No,  No,  Yes, Yes, Role("user", Update)];
    UnlockUser        "unlock_user"           [No,  No,  No,  Yes, Yes, Role("user", Update)];
    Users             "users"                 [No,  No,  No,  Yes, Yes, Role("user", List)];
    DeleteUser        "delete_user"           [No,  No,  No,  Yes, Yes, Role("user", Delete)];
    Roles             "roles"                 [No,  No,  No,  Yes, Yes, Role("role", List)];
    Role              "role"                  [No,  No,  No,  Yes, Yes, Role("role", Read)];
    CreateToken       "create_token"          [No,  No,  No,  Yes, Yes, Role("token", Create)];
    Tokens            "tokens"                [No,  No,  No,  Yes, Yes, Role("token", List)];
    DeleteToken       "delete_token"          [No,  No,  No,  Yes, Yes, Role("token", Delete)];
    DeleteNode        "delete_node"           [No,  No,  No,  Yes, Yes, Role("node", Delete)];
    CreateRole        "create_role"           [No,  No,  No,  Yes, Yes, Role("role", Create)];
    ReplaceRole       "replace_role"          [No,  No,  No,  Yes, Yes, Role("role", Update)];
    DeleteRole        "delete_role"           [No,  No,  No,  Yes, Yes, Role("role", Delete)];
    UserDocuments     "user_documents"        [No,  No,  No,  Yes, Yes, Role("user", List)];
    User              "user"                  [No,  No,  No,  Yes, Yes, Role("user", Read)];
    AddUser           "add_user"              [No,  No,  No,  Yes, Yes, Role("user", Create)];
    ReplaceUser       "replace_user"          [No,  No,  No,  Yes, Yes, Role("user", Update)];
    TokenDocuments    "token_documents"       [No,  No,  No,  Yes, Yes, Role("token", List)];
    ReplaceToken      "replace_token"         [No,  No,  No,  Yes, Yes, Role("token", Update)];
    Locks             "locks"                 [No,  No,  No,  Yes, Yes, Role("lock", List)];
    Lock              "lock"                  [No,  No,  No,  Yes, Yes, Role("lock", Read)];
    CreateLock        "create_lock"           [No,  No,  No,  Yes, Yes, Role("lock", Create)];
    ReplaceLock       "replace_lock"          [No,  No,  No,  Yes, Yes, Role("lock", Update)];
    DeleteLock        "delete_lock"           [No,  No,  No,  Yes, Yes, Role("lock", Delete)];
    Secrets           "secrets"               [No,  No,  No,  Yes, Yes, No];
    SignUser          "sign_user"             [No,  No,  No,  Yes, Yes, Role("user_cert", Create)];
    SignHost          "sign_host"             [No,  No,  No,  Yes, Yes, Role("host_cert", Create)];
}

/// The whole table as text, for humans and for the golden file.
pub fn render() -> String {
    let mut text = format!("{:<20}", "operation");
    for kind in CallerKind::ALL {
        text.push_str(&format!(" {:<11}", kind.as_str()));
    }
    for operation in Operation::ALL {
        text.truncate(text.trim_end().len());
        text.push_str(&format!("\n{:<20}", operation.name()));
        for kind in CallerKind::ALL {
            text.push_str(&format!(" {:<11}", operation.rule(kind)));
        }
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

/// Permission of one caller for one call of an operation. Made by the authorisation of a call only; every step that acts
/// demands it.
#[derive(Clone, Copy, Debug)]
pub struct Permit<'a> {
    caller: &'a Caller,
    operation: Operation,
    scope: Scope,
}

/// How far a permit goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scope {
    /// Everything.
    All,
    /// What is the caller's own.
    Own,
}

impl<'a> Permit<'a> {
    /// Only [`super::context`] makes permits.
    pub(super) const fn new(caller: &'a Caller, operation: Operation, scope: Scope) -> Self {
        Self { caller, operation, scope }
    }

    /// For what.
    pub const fn operation(&self) -> Operation {
        self.operation
    }

    /// How far.
    pub const fn scope(&self) -> Scope {
        self.scope
    }

    /// The host that calls; `None` for others.
    pub const fn host(&self) -> Option<&'a HostIdentity> {
        self.caller.host()
    }

    /// The user who calls; `None` for others.
    pub const fn user(&self) -> Option<&'a UserIdentity> {
        match self.caller {
            Caller::Identity(Identity::User(user), _) => Some(user),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The methods of the traits of [`crate::api`], read from their source.
    fn methods() -> Vec<&'static str> {
        [
            include_str!("../api/mod.rs"),
            include_str!("../api/recordings.rs"),
            include_str!("../api/stand_in.rs"),
        ]
        .into_iter()
        .flat_map(str::lines)
        .filter_map(|line| line.trim_start().strip_prefix("async fn "))
        .filter_map(|rest| rest.split(['(', '<']).next())
        .collect()
    }

    #[test]
    fn every_method_of_the_api_has_a_row() {
        let mut rows: Vec<&str> = Operation::ALL.iter().map(|operation| operation.name()).collect();
        let mut methods = methods();
        rows.sort_unstable();
        methods.sort_unstable();
        assert_eq!(rows, methods);
    }

    #[test]
    fn only_the_auth_host_administers_among_hosts() {
        for operation in Operation::ALL {
            let admin = matches!(operation.rule(CallerKind::User), Rule::Role(..));
            for kind in [CallerKind::Anonymous, CallerKind::Node, CallerKind::Proxy] {
                assert!(
                    !admin || operation.rule(kind) == Rule::No,
                    "{} as {}",
                    operation.name(),
                    kind.as_str()
                );
            }
        }
    }
}
