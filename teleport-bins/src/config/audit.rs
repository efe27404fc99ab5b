//! How the audit log is kept, and where it is passed on to.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use teleport_backend::audit::file::{FileAuditConfig, SyncPolicy};

use super::file::{AuditSection, OneOrMany};
use super::{parse_duration, with_port};

/// The audit log.
#[derive(Clone, Debug, Default)]
pub struct AuditSettings {
    /// Where its files are; `audit` in the data directory if absent.
    pub directory: Option<PathBuf>,
    /// How it is kept.
    pub files: FileAuditConfig,
    /// Where it is passed on to.
    pub forward: Vec<ForwardTo>,
}

/// Where the audit log is passed on to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardTo {
    /// Standard output, line by line.
    Stdout,
    /// A syslog server over TCP: `host:port`.
    SyslogTcp(String),
    /// A syslog server over UDP: `host:port`.
    SyslogUdp(String),
    /// The syslog of this host: its socket.
    SyslogUnix(PathBuf),
}

/// As the configuration writes it.
impl fmt::Display for ForwardTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("stdout://"),
            Self::SyslogTcp(address) => write!(f, "syslog+tcp://{address}"),
            Self::SyslogUdp(address) => write!(f, "syslog://{address}"),
            Self::SyslogUnix(path) => write!(f, "syslog://{}", path.display()),
        }
    }
}

impl AuditSettings {
    /// From the configuration.
    ///
    /// # Errors
    /// A sentence that names the key and says what to write.
    pub(crate) fn resolve(section: &AuditSection, uris: Option<OneOrMany>) -> Result<Self> {
        let mut settings = Self::default();
        if let Some(sync) = &section.sync {
            settings.files.sync = match sync.as_str() {
                "always" => SyncPolicy::Always,
                interval => match parse_duration(interval) {
                    Ok(interval) if !interval.is_zero() && interval <= Duration::from_secs(60) => {
                        SyncPolicy::Interval(interval)
                    }
                    _ => bail!(
                        "auth_service.audit.sync: write always, or an interval from 1s to 1m, not {sync:?}"
                    ),
                },
            };
        }
        if let Some(retention) = &section.retention {
            let age = parse_duration(retention)
                .map_err(anyhow::Error::msg)
                .context("auth_service.audit.retention")?;
            if age < Duration::from_secs(24 * 3600) {
                bail!("auth_service.audit.retention: whole days are kept; at least 1d, not {retention:?}");
            }
            settings.files.retention = Some(age);
        }
        for uri in uris.map(OneOrMany::into_vec).unwrap_or_default() {
            match destination(&uri)? {
                Destination::Files(_) if settings.directory.is_some() => {
                    bail!("storage.audit_events_uri: the log is in one place; write one file://")
                }
                Destination::Files(directory) => settings.directory = Some(directory),
                Destination::Forward(to) if settings.forward.contains(&to) => {
                    bail!("storage.audit_events_uri: {to} is there twice")
                }
                Destination::Forward(to) => settings.forward.push(to),
            }
        }
        Ok(settings)
    }
}

enum Destination {
    Files(PathBuf),
    Forward(ForwardTo),
}

fn destination(uri: &str) -> Result<Destination> {
    let Some((scheme, rest)) = uri.split_once("://") else {
        bail!(
            "storage.audit_events_uri: {uri:?} is not known; write file:///directory, stdout://, syslog:///dev/log, \
             syslog://host:514 or syslog+tcp://host:601"
        )
    };
    Ok(Destination::Forward(match (scheme, rest) {
        ("file", path) if path.starts_with('/') => return Ok(Destination::Files(path.into())),
        ("file", _) => {
            bail!("storage.audit_events_uri: {uri:?}: the directory has to be absolute: file:///directory")
        }
        ("stdout", "") => ForwardTo::Stdout,
        ("syslog", "") => ForwardTo::SyslogUnix("/dev/log".into()),
        ("syslog", path) if path.starts_with('/') => ForwardTo::SyslogUnix(path.into()),
        ("syslog", host) => ForwardTo::SyslogUdp(with_port(host, 514)),
        ("syslog+tcp", host) if !host.is_empty() && !host.starts_with('/') => {
            ForwardTo::SyslogTcp(with_port(host, 601))
        }
        _ => bail!(
            "storage.audit_events_uri: {uri:?} is not known; write file:///directory, stdout://, syslog:///dev/log, \
             syslog://host:514 or syslog+tcp://host:601"
        ),
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn resolve(text: &str) -> Result<AuditSettings> {
        let file = crate::config::parse(text).map_err(anyhow::Error::msg)?;
        AuditSettings::resolve(&file.auth_service.audit, file.teleport.storage.audit_events_uri)
    }

    #[test]
    fn the_log_is_kept_as_the_file_says() {
        let default = resolve("").unwrap();
        assert_eq!(default.files, FileAuditConfig::default());
        assert_eq!((default.files.sync, default.files.retention), (SyncPolicy::Always, None));
        let settings = resolve("auth_service:\n  audit: {sync: 2s, retention: 90d}\n").unwrap();
        assert_eq!(settings.files.sync, SyncPolicy::Interval(Duration::from_secs(2)));
        assert_eq!(settings.files.retention, Some(Duration::from_secs(90 * 86_400)));
        for (bad, key) in [
            ("sync: never", "auth_service.audit.sync"),
            ("sync: 0s", "auth_service.audit.sync"),
            ("sync: 2m", "auth_service.audit.sync"),
            ("retention: 1h", "auth_service.audit.retention"),
            ("retention: long", "auth_service.audit.retention"),
        ] {
            let error = resolve(&format!("auth_service:\n  audit: {{{bad}}}\n")).unwrap_err();
            assert!(format!("{error:#}").contains(key), "{bad}: {error:#}");
        }
    }

    #[test]
    fn destinations_are_read_and_written_alike() {
        let uris =
            ["stdout://", "syslog:///run/log", "syslog://logs.example.com:514", "syslog+tcp://[::1]:601"];
        let list = uris.map(|uri| format!("{uri:?}")).join(", ");
        let text =
            format!("teleport:\n  storage:\n    audit_events_uri: [\"file:///var/log/audit\", {list}]\n");
        let settings = resolve(&text).unwrap();
        assert_eq!(settings.directory, Some("/var/log/audit".into()));
        assert_eq!(settings.forward.iter().map(ToString::to_string).collect::<Vec<_>>(), uris);
        let one = |uri: &str| resolve(&format!("teleport:\n  storage:\n    audit_events_uri: {uri:?}\n"));
        assert_eq!(one("syslog://").unwrap().forward, [ForwardTo::SyslogUnix("/dev/log".into())]);
        assert_eq!(one("syslog://logs").unwrap().forward, [ForwardTo::SyslogUdp("logs:514".into())]);
        for bad in [
            "",
            "stdout",
            "file://relative",
            "file:relative",
            "stdout://x",
            "syslog+tcp://",
            "s3://x",
            "dynamodb://t",
        ] {
            assert!(one(bad).unwrap_err().to_string().contains("audit_events_uri"), "{bad}");
        }
        let twice = "teleport:\n  storage:\n    audit_events_uri: [\"file:///a\", \"file:///b\"]\n";
        assert!(resolve(twice).is_err());
        let twice = "teleport:\n  storage:\n    audit_events_uri: [\"stdout://\", \"stdout://\"]\n";
        assert!(resolve(twice).is_err());
    }
}
