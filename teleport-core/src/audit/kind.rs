//! Names and codes of events.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::id::HostRole;

/// Who writes events of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reporter {
    /// The auth service.
    Auth,
    /// Nodes and proxies.
    Host,
    /// The log itself.
    Log,
    /// Nodes.
    Node,
}

impl Reporter {
    /// Whether a host of this role may report such an event.
    pub const fn includes(self, role: HostRole) -> bool {
        match self {
            Self::Auth | Self::Log => false,
            Self::Host => true,
            Self::Node => matches!(role, HostRole::Node),
        }
    }
}

impl fmt::Display for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Auth => "auth",
            Self::Host => "node, proxy",
            Self::Log => "the log",
            Self::Node => "node",
        })
    }
}

// Meaning, name, code, who writes it, and the fields beside those that every kind may have.
macro_rules! kinds {
    ($($(#[doc = $doc:literal])* $variant:ident = $name:literal $code:literal by $by:ident [$($field:literal),*],)*) => {
        /// What happened. The name and the code are stable; the code's last letter says how it went: `I` well, `S` that it
        /// has ended, `W` denied, `E` failed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum EventKind {
            $(#[doc = concat!("`", $name, "` `", $code, "`: ")] $(#[doc = $doc])* $variant,)*
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

            /// What it means, in a sentence.
            pub fn meaning(self) -> String {
                let lines: &[&str] = match self { $(Self::$variant => &[$($doc),*],)* };
                lines.concat().trim().to_owned()
            }

            /// Who writes it.
            pub const fn reporter(self) -> Reporter {
                match self { $(Self::$variant => Reporter::$by,)* }
            }

            /// The fields that it may have beside those that every kind may have.
            pub const fn fields(self) -> &'static [&'static str] {
                match self { $(Self::$variant => &[$($field),*],)* }
            }
        }
    };
}

kinds! {
    /// An agent was not forwarded.
    AgentForwardFailure = "agent-forward" "TAF00W" by Node ["addr.local", "more_before", "request"],
    /// A checkpoint of the log: everything up to it is signed.
    AuditCheckpoint = "audit.checkpoint" "TAU01I" by Log ["first", "head", "key", "log", "lost_entries", "lost_log", "reason", "signature"],
    /// Events that a forwarder could not take were not forwarded. They are in the log.
    AuditForwardDropped = "audit.forward_dropped" "TAU04W" by Log ["dropped", "forwarder"],
    /// The writer of the log had been interrupted: bytes before this entry belong to nothing that was acknowledged.
    AuditRecovered = "audit.recovered" "TAU02W" by Log ["bytes", "sha256"],
    /// Old files of the log were removed, as the configuration asks for.
    AuditRetention = "audit.retention" "TAU03I" by Log ["files", "newest", "oldest"],
    /// An SSH authentication was refused.
    AuthFailure = "auth" "T3007W" by Host ["addr.local", "claimed_user", "login_requested", "method", "serial"],
    /// A certificate was issued.
    CertCreate = "cert.create" "TC000I" by Auth ["cert_type", "derived_from", "host_id", "issued_by", "logins", "method", "mfa_device_name", "mfa_device_uuid", "names", "node_name", "role", "roles", "serial", "user_serial", "valid_before"],
    /// A connection was ended by the server.
    ClientDisconnect = "client.disconnect" "T3006I" by Host ["addr.local", "node_id", "node_name", "reason"],
    /// A connection was resumed by its client, after it had lost what carried it.
    ClientResume = "client.resume" "T3012I" by Node ["addr.before", "addr.local"],
    /// A connection was not resumed, as its client may not come from where it is, or not any more.
    ClientResumeFailure = "client.resume" "T3012W" by Node ["addr.before", "addr.local"],
    /// A command ran.
    Exec = "exec" "T3002I" by Node ["addr.local", "command", "exit_code", "exit_reason", "exit_signal", "interactive", "reason", "recording_strict", "role", "session_recording"],
    /// A command could not run, or failed.
    ExecFailure = "exec" "T3002E" by Host ["addr.local", "command", "exit_code", "exit_reason", "exit_signal", "interactive", "reason", "recording_strict", "request", "role", "session_recording"],
    /// A host joined.
    InstanceJoin = "instance.join" "TJ002I" by Auth ["addresses", "host_id", "node_name", "role", "token_id"],
    /// A host was refused.
    InstanceJoinFailure = "instance.join" "TJ002E" by Auth ["host_id", "more_before", "node_name", "role", "token_id"],
    /// A join token was made.
    JoinTokenCreate = "join_token.create" "TJT00I" by Auth ["expires", "labels", "roles", "token_id", "uses"],
    /// A join token was deleted.
    JoinTokenDelete = "join_token.delete" "TJT01I" by Auth ["roles", "token_id"],
    /// A join token was changed.
    JoinTokenUpdate = "join_token.update" "TJT02I" by Auth ["expires", "labels", "roles", "token_id", "uses"],
    /// A lock was made or changed.
    LockCreate = "lock.created" "TLK00I" by Auth ["expires", "message", "name", "replaced", "target"],
    /// A lock was removed.
    LockDelete = "lock.deleted" "TLK01I" by Auth ["expires", "message", "name", "target"],
    /// A second factor was added.
    MfaAdd = "mfa.add" "T1006I" by Auth ["invite_id", "mfa_device_name", "mfa_device_type", "mfa_device_uuid"],
    /// A second factor was removed.
    MfaDelete = "mfa.delete" "T1007I" by Auth ["mfa_device_name", "mfa_device_type", "mfa_device_uuid"],
    /// A node or a proxy was removed from the cluster.
    NodeDelete = "node.delete" "TND01I" by Auth ["host_id", "node_name", "role"],
    /// A cluster was restored from a backup.
    BackupRestore = "backup.restore" "TBK01I" by Auth ["locks", "roles", "secrets", "users"],
    /// The sealed secrets of the cluster were read, for a backup.
    BackupSecrets = "backup.secrets" "TBK00I" by Auth ["records"],
    /// A connection was forwarded.
    Port = "port" "T3003I" by Host ["addr", "addr.local", "address", "kind", "node_address", "node_id", "node_name", "target"],
    /// A forwarded connection has ended, or what listened for some.
    PortEnd = "port" "T3003S" by Node ["addr", "addr.local", "address", "bytes_received", "bytes_sent", "kind", "reason"],
    /// A connection was not forwarded.
    PortFailure = "port" "T3003E" by Host ["addr", "addr.local", "kind", "more_before", "node_address", "node_id", "node_name", "request", "target"],
    /// An invite or a password reset was made.
    ResetTokenCreate = "reset_password_token.create" "T6000I" by Auth ["expires", "name"],
    /// An invite or a password reset was deleted before it was used.
    ResetTokenDelete = "reset_password_token.delete" "T6003I" by Auth ["invite_id", "name"],
    /// A request to the API was denied.
    ApiDenied = "api.denied" "TAP00W" by Auth ["operation"],
    /// A change that an administrator asked for was not made.
    ApiFailure = "api.failed" "TAP00E" by Auth ["operation"],
    /// A session's recording was read.
    RecordingAccess = "session.recording.access" "T2012I" by Auth ["offset", "session_user"],
    /// A recording was deleted, or is at this moment.
    RecordingDelete = "session.recording.delete" "T2013I" by Auth ["reason", "session_start", "session_user", "size"],
    /// A recording was not deleted, because it is held.
    RecordingDeleteFailure = "session.recording.delete" "T2013E" by Auth ["session_start", "session_user", "size"],
    /// A recording must not be deleted from now on.
    RecordingHold = "session.recording.hold" "T2014I" by Auth ["reason", "session_start", "session_user", "size"],
    /// A recording may be deleted again.
    RecordingRelease = "session.recording.release" "T2015I" by Auth ["held_by", "reason", "session_start", "session_user", "size"],
    /// An encrypted recording was made readable for other recipients.
    RecordingRewrap = "session.recording.rewrap" "T2016I" by Auth ["session_start", "session_user", "size"],
    /// A terminal changed its size.
    Resize = "resize" "T2002I" by Node ["addr.local", "terminal_size"],
    /// A role was made.
    RoleCreate = "role.created" "T9000I" by Auth ["name"],
    /// A role was deleted.
    RoleDelete = "role.deleted" "T9001I" by Auth ["name"],
    /// A role was changed.
    RoleUpdate = "role.updated" "T9002I" by Auth ["name"],
    /// A command that copies files was refused.
    ScpDisallowed = "scp" "T3010E" by Node ["addr.local", "command", "interactive", "role"],
    /// A file was sent to a client by the older protocol of scp.
    ScpDownload = "scp" "T3004I" by Node ["addr.local", "bytes", "path"],
    /// A file was not sent, or not all of it, by the older protocol of scp.
    ScpDownloadFailure = "scp" "T3004E" by Node ["addr.local", "bytes", "path"],
    /// A file was taken from a client by the older protocol of scp.
    ScpUpload = "scp" "T3005I" by Node ["addr.local", "bytes", "path"],
    /// A file was not taken, or not all of it, by the older protocol of scp.
    ScpUploadFailure = "scp" "T3005E" by Node ["addr.local", "bytes", "path"],
    /// A session ended.
    SessionEnd = "session.end" "T2004I" by Node ["addr.local", "command", "exit_code", "exit_reason", "exit_signal", "interactive", "participants", "reason", "recording_strict", "recovered", "role", "session_recording", "session_start", "session_stop"],
    /// Somebody joined the session of somebody else.
    SessionJoin = "session.join" "T2001I" by Node ["addr.local", "mode", "reason", "session_user"],
    /// Somebody who had joined a session left it, or was sent away.
    SessionLeave = "session.leave" "T2003I" by Node ["addr.local", "leave_reason", "mode", "reason", "session_user"],
    /// A session was refused.
    SessionRejected = "session.rejected" "T1006W" by Host ["addr.local", "command", "interactive", "max", "mode", "more_before", "reason", "request", "role", "session_asked", "target"],
    /// A session began.
    SessionStart = "session.start" "T2000I" by Node ["addr.local", "command", "interactive", "reason", "recording_strict", "role", "session_recording", "terminal_size"],
    /// An administrator ended a session.
    SessionTerminate = "session.terminate" "TSE00I" by Auth ["message", "session_server_hostname", "session_server_id", "session_user"],
    /// A recording is complete in the store, or its node is lost.
    SessionUpload = "session.upload" "T2005I" by Auth ["abandoned", "parts", "parts_sha256", "sha256"],
    /// A recording was not taken: it, or all those of its host, are beyond a limit.
    SessionUploadFailure = "session.upload" "T2005E" by Node ["reason", "session_user"],
    /// SFTP was refused.
    SftpDisallowed = "sftp" "TS020E" by Node ["addr.local", "command", "interactive", "more_before", "name", "role"],
    /// A second name was made for a file.
    SftpLink = "sftp" "TS019I" by Node ["addr.local", "path", "target_path"],
    /// A second name was not made for a file.
    SftpLinkFailure = "sftp" "TS019E" by Node ["addr.local", "path", "target_path"],
    /// A directory was made.
    SftpMakeDir = "sftp" "TS012I" by Node ["addr.local", "path"],
    /// A directory was not made.
    SftpMakeDirFailure = "sftp" "TS012E" by Node ["addr.local", "path"],
    /// A file was opened.
    SftpOpen = "sftp" "TS001I" by Node ["addr.local", "path", "read", "write"],
    /// A file was not opened.
    SftpOpenFailure = "sftp" "TS001E" by Node ["addr.local", "path", "read", "write"],
    /// A file was removed.
    SftpRemove = "sftp" "TS011I" by Node ["addr.local", "path"],
    /// A file was not removed.
    SftpRemoveFailure = "sftp" "TS011E" by Node ["addr.local", "path"],
    /// A directory was removed.
    SftpRemoveDir = "sftp" "TS013I" by Node ["addr.local", "path"],
    /// A directory was not removed.
    SftpRemoveDirFailure = "sftp" "TS013E" by Node ["addr.local", "path"],
    /// A file or directory was renamed.
    SftpRename = "sftp" "TS016I" by Node ["addr.local", "path", "target_path"],
    /// A file or directory was not renamed.
    SftpRenameFailure = "sftp" "TS016E" by Node ["addr.local", "path", "target_path"],
    /// Permissions, owner, times or size of a file were set.
    SftpSetAttributes = "sftp" "TS007I" by Node ["addr.local", "gid", "mode", "path", "size", "uid"],
    /// Permissions, owner, times or size of a file were not set.
    SftpSetAttributesFailure = "sftp" "TS007E" by Node ["addr.local", "gid", "mode", "path", "size", "uid"],
    /// A symbolic link was made.
    SftpSymLink = "sftp" "TS018I" by Node ["addr.local", "path", "target_path"],
    /// A symbolic link was not made.
    SftpSymLinkFailure = "sftp" "TS018E" by Node ["addr.local", "path", "target_path"],
    /// A session of SFTP ended: how many files it opened, and how many bytes it carried.
    SftpSummary = "sftp_summary" "TS021I" by Node ["addr.local", "bytes_read", "bytes_written", "files"],
    /// A subsystem was started.
    Subsystem = "subsystem" "T3001I" by Host ["addr.local", "name", "node_address", "node_id", "node_name", "target"],
    /// A subsystem was refused.
    SubsystemFailure = "subsystem" "T3001E" by Host ["addr.local", "more_before", "name", "node_address", "node_id", "node_name", "request", "target"],
    /// A user was made.
    UserCreate = "user.create" "T1002I" by Auth ["logins", "name", "roles", "traits"],
    /// A user was deleted.
    UserDelete = "user.delete" "T1004I" by Auth ["name"],
    /// A user logged in.
    UserLogin = "user.login" "T1000I" by Auth ["method", "mfa_device_name", "mfa_device_uuid"],
    /// A login failed.
    UserLoginFailure = "user.login" "T1000W" by Auth ["method", "mfa_device_name", "mfa_device_uuid", "operation"],
    /// A password was set.
    UserPasswordChange = "user.password_change" "T1005I" by Auth ["invite_id"],
    /// An administrator ended a user's lockout.
    UserUnlock = "user.unlock" "TUL00I" by Auth ["name"],
    /// A user was changed.
    UserUpdate = "user.update" "T1003I" by Auth ["logins", "name", "roles", "traits"],
    /// X11 is forwarded to a session.
    X11Forward = "x11-forward" "T3008I" by Node ["addr.local", "display"],
    /// X11 was not forwarded.
    X11ForwardFailure = "x11-forward" "T3008W" by Node ["addr.local", "more_before", "request"],
}

impl EventKind {
    /// Whether it went well, by the last letter of the code.
    pub fn is_success(self) -> bool {
        self.code().ends_with(['I', 'S'])
    }
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
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::EventKind;

    /// The manual's chapter, from the code.
    fn chapter() -> String {
        let mut kinds: Vec<_> = EventKind::ALL.to_vec();
        kinds.sort_by_key(|kind| (kind.name(), kind.code()));
        let mut text = "# Audit events\n\n\
            Made from the code (`EventKind`): a test fails when this chapter is not what it would say; it writes the chapter\n\
            anew when `UPDATE_MANUAL` is set. Names and codes are API: they do not change. The last letter of a code says how it\n\
            went: `I` well, `S` that it has ended, `W` denied or worth a look, `E` failed.\n\n\
            Every event has `index`, `event`, `code`, `uid`, `time`, `cluster_name` and, at the end of its line, `chain`. Where they\n\
            apply it has `user`, `login`, `server_id`, `server_hostname`, `sid`, `addr.remote`, `success` and `error`. The last\n\
            column lists what kinds have beside these, where it applies.\n\n\
            | event | code | meaning | written by | fields |\n| --- | --- | --- | --- | --- |\n"
            .to_owned();
        for kind in kinds {
            let fields: Vec<String> = kind.fields().iter().map(|field| format!("`{field}`")).collect();
            text.push_str(&format!(
                "| `{}` | `{}` | {} | {} | {} |\n",
                kind.name(),
                kind.code(),
                kind.meaning(),
                kind.reporter(),
                fields.join(" ")
            ));
        }
        text
    }

    #[test]
    fn the_manual_lists_every_event() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/manual/audit_events.md");
        if std::env::var_os("UPDATE_MANUAL").is_some() {
            std::fs::write(path, chapter()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), chapter(), "set UPDATE_MANUAL=1 to write it anew");
    }

    #[test]
    fn every_kind_says_what_it_means() {
        for kind in EventKind::ALL {
            assert!(kind.meaning().ends_with('.') && !kind.meaning().contains('|'), "{kind}");
            let mut fields = kind.fields().to_vec();
            fields.sort_unstable();
            fields.dedup();
            assert_eq!(fields, kind.fields(), "{kind}: sorted, each once");
        }
    }

    #[test]
    fn codes_are_unique() {
        let mut codes: Vec<_> = EventKind::ALL.iter().map(|kind| kind.code()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), EventKind::ALL.len());
    }
}
