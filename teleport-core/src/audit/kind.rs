//! Names and codes of events.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $name:literal $code:literal,)*) => {
        /// What happened. The name and the code are stable; the code's last letter says how it went: `I` well, `W` denied,
        /// `E` failed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum EventKind {
            $(#[doc = concat!("`", $name, "` `", $code, "`: ")] $(#[$doc])* $variant,)*
        }

        impl EventKind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name, such as `session.start`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The code, such as `T2000I`.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }
        }
    };
}

kinds! {
    /// An agent was not forwarded.
    AgentForwardFailure = "agent-forward" "TAF00W",
    /// An SSH authentication was refused.
    AuthFailure = "auth" "T3007W",
    /// A certificate was issued.
    CertCreate = "cert.create" "TC000I",
    /// A connection was ended by the server.
    ClientDisconnect = "client.disconnect" "T3006I",
    /// A command ran.
    Exec = "exec" "T3002I",
    /// A command could not run, or failed.
    ExecFailure = "exec" "T3002E",
    /// A host joined.
    InstanceJoin = "instance.join" "TJ002I",
    /// A host was refused.
    InstanceJoinFailure = "instance.join" "TJ002E",
    /// A join token was made.
    JoinTokenCreate = "join_token.create" "TJT00I",
    /// A join token was deleted.
    JoinTokenDelete = "join_token.delete" "TJT01I",
    /// A join token was changed.
    JoinTokenUpdate = "join_token.update" "TJT02I",
    /// A lock was made or changed.
    LockCreate = "lock.created" "TLK00I",
    /// A lock was removed.
    LockDelete = "lock.deleted" "TLK01I",
    /// A second factor was added.
    MfaAdd = "mfa.add" "T1006I",
    /// A second factor was removed.
    MfaDelete = "mfa.delete" "T1007I",
    /// A node or a proxy was removed from the cluster.
    NodeDelete = "node.delete" "TND01I",
    /// A cluster was restored from a backup.
    BackupRestore = "backup.restore" "TBK01I",
    /// The sealed secrets of the cluster were read, for a backup.
    BackupSecrets = "backup.secrets" "TBK00I",
    /// A connection was forwarded.
    Port = "port" "T3003I",
    /// A connection was not forwarded.
    PortFailure = "port" "T3003E",
    /// An invite or a password reset was made.
    ResetTokenCreate = "reset_password_token.create" "T6000I",
    /// An invite or a password reset was deleted before it was used.
    ResetTokenDelete = "reset_password_token.delete" "T6003I",
    /// A request to the API was denied.
    ApiDenied = "api.denied" "TAP00W",
    /// A change that an administrator asked for was not made.
    ApiFailure = "api.failed" "TAP00E",
    /// A session's recording was read.
    RecordingAccess = "session.recording.access" "T2012I",
    /// A recording was deleted, or is at this moment.
    RecordingDelete = "session.recording.delete" "T2013I",
    /// A recording was not deleted, because it is held.
    RecordingDeleteFailure = "session.recording.delete" "T2013E",
    /// A recording must not be deleted from now on.
    RecordingHold = "session.recording.hold" "T2014I",
    /// A recording may be deleted again.
    RecordingRelease = "session.recording.release" "T2015I",
    /// An encrypted recording was made readable for other recipients.
    RecordingRewrap = "session.recording.rewrap" "T2016I",
    /// A terminal changed its size.
    Resize = "resize" "T2002I",
    /// A role was made.
    RoleCreate = "role.created" "T9000I",
    /// A role was deleted.
    RoleDelete = "role.deleted" "T9001I",
    /// A role was changed.
    RoleUpdate = "role.updated" "T9002I",
    /// A command that copies files was refused.
    ScpDisallowed = "scp" "T3010E",
    /// A session ended.
    SessionEnd = "session.end" "T2004I",
    /// Somebody joined the session of somebody else.
    SessionJoin = "session.join" "T2001I",
    /// Somebody who had joined a session left it, or was sent away.
    SessionLeave = "session.leave" "T2003I",
    /// A session was refused.
    SessionRejected = "session.rejected" "T1006W",
    /// A session began.
    SessionStart = "session.start" "T2000I",
    /// An administrator ended a session.
    SessionTerminate = "session.terminate" "TSE00I",
    /// A recording is complete in the store.
    SessionUpload = "session.upload" "T2005I",
    /// A recording was not taken: it, or all those of its host, are beyond a limit.
    SessionUploadFailure = "session.upload" "T2005E",
    /// SFTP was refused.
    SftpDisallowed = "sftp" "TS020E",
    /// A subsystem was started.
    Subsystem = "subsystem" "T3001I",
    /// A subsystem was refused.
    SubsystemFailure = "subsystem" "T3001E",
    /// A user was made.
    UserCreate = "user.create" "T1002I",
    /// A user was deleted.
    UserDelete = "user.delete" "T1004I",
    /// A user logged in.
    UserLogin = "user.login" "T1000I",
    /// A login failed.
    UserLoginFailure = "user.login" "T1000W",
    /// A password was set.
    UserPasswordChange = "user.password_change" "T1005I",
    /// An administrator ended a user's lockout.
    UserUnlock = "user.unlock" "TUL00I",
    /// A user was changed.
    UserUpdate = "user.update" "T1003I",
    /// X11 was not forwarded.
    X11ForwardFailure = "x11-forward" "T3008W",
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name(), self.code())
    }
}

/// The text is not the code of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the code of an audit event")]
#[non_exhaustive]
pub struct UnknownCode;

/// From the code.
impl FromStr for EventKind {
    type Err = UnknownCode;

    fn from_str(code: &str) -> Result<Self, UnknownCode> {
        Self::ALL.iter().copied().find(|kind| kind.code() == code).ok_or(UnknownCode)
    }
}

impl Serialize for EventKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

impl<'de> Deserialize<'de> for EventKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let code = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        code.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::EventKind;

    #[test]
    fn codes_are_unique() {
        let mut codes: Vec<_> = EventKind::ALL.iter().map(|kind| kind.code()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), EventKind::ALL.len());
    }
}
