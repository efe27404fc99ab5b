//! `tctl lock`.

use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use clap::{Args, Subcommand};
use teleport_core::api::ApiErrorKind;
use teleport_core::clock::{Clock, SystemClock, Timestamp};
use teleport_core::entropy::{EntropyExt, SystemEntropy};
use teleport_core::id::{DeviceId, HostId, OsLogin, RoleName, UserName};
use teleport_core::resource::{Lock, LockSpec, LockTarget, LockedNode};

use super::super::{Format, sanitize};
use super::{Context, resources, ttl};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the locks
    Ls {
        /// How to print
        #[arg(short, long, value_enum, default_value_t)]
        format: Format,
    },
}

pub(super) async fn run_locks(context: &Context, command: Command) -> Result<()> {
    let Command::Ls { format } = command;
    resources::locks(context, format).await
}

/// Whom to lock: what is named must all be so.
#[derive(Debug, Args)]
pub(super) struct NewLock {
    /// A user
    #[arg(long)]
    user: Option<UserName>,
    /// Everybody who holds a role
    #[arg(long)]
    role: Option<RoleName>,
    /// A login of the nodes' operating systems
    #[arg(long)]
    login: Option<OsLogin>,
    /// A node or a proxy, by name (every one of this name) or id
    #[arg(long)]
    node: Option<LockedNode>,
    /// A node or a proxy, by id
    #[arg(long, value_name = "ID", conflicts_with = "node")]
    server_id: Option<HostId>,
    /// Whatever was given for a code of a second factor, by its id (in the audit log: mfa_device_uuid)
    #[arg(long, value_name = "ID")]
    mfa_device: Option<DeviceId>,
    /// A user's certificate, by its serial number
    #[arg(long, value_name = "NUMBER")]
    serial: Option<u64>,
    /// What those who are locked are told
    #[arg(long, default_value = "", hide_default_value = true)]
    message: String,
    /// How long [default: until it is removed]
    #[arg(long, value_parser = ttl)]
    ttl: Option<Duration>,
    /// Until when, such as 2030-01-31T17:00:00Z
    #[arg(long, value_name = "TIME", conflicts_with = "ttl", value_parser = time)]
    expires: Option<Timestamp>,
}

fn time(text: &str) -> Result<Timestamp, String> {
    serde_json::from_value(serde_json::Value::String(text.to_owned()))
        .map_err(|_| "a time is written as 2030-01-31T17:00:00Z".to_owned())
}

impl NewLock {
    fn target(&self) -> LockTarget {
        LockTarget {
            user: self.user.clone(),
            role: self.role.clone(),
            login: self.login.clone(),
            node: self.server_id.map(LockedNode::Id).or_else(|| self.node.clone()),
            mfa_device: self.mfa_device,
            serial: self.serial,
        }
    }

    fn expires(&self, now: Timestamp) -> Result<Option<Timestamp>> {
        match self.expires {
            Some(at) if at <= now => bail!("--expires {at}: it is over; the lock would lock nothing"),
            Some(at) => Ok(Some(at)),
            None => Ok(self.ttl.map(|ttl| now.saturating_add(ttl))),
        }
    }
}

pub(super) async fn run(context: &Context, wanted: NewLock) -> Result<()> {
    let target = wanted.target();
    if target.is_empty() {
        bail!(
            "say what to lock, by one or more of these, which must then all be true: --user, --role, --login, --node, --server-id, --mfa-device, --serial"
        );
    }
    let name = SystemEntropy::new().uuid()?.to_string();
    let mut lock = Lock::new(&name, LockSpec { target, message: wanted.message.clone() });
    lock.metadata.expires = wanted.expires(SystemClock::new().now())?;
    // Nothing is sent that is sure to be refused; and the options are named, not the document.
    if let Err(error) = lock.check() {
        let lines: Vec<String> = error
            .problems
            .iter()
            .map(|problem| match problem.path.strip_prefix("spec.") {
                Some(option) => format!("--{option}: {}", problem.message),
                None => problem.to_string(),
            })
            .collect();
        return Err(anyhow!(lines.join("; ")));
    }
    warn_of_unknown(context, &lock.spec.target).await;
    let (target, expires) = (lock.spec.target.to_string(), lock.metadata.expires);
    context.api.create_lock(lock).await?;
    let until = match expires {
        Some(at) => format!("until {at}"),
        None => format!("until it is removed (tctl rm lock/{name})"),
    };
    println!("Created a lock with name \"{name}\".\nIt locks {} {until}.", sanitize(&target));
    Ok(())
}

/// A lock of somebody who does not exist is allowed, and is more often a slip: it is told. Whoever may not look is not told.
async fn warn_of_unknown(context: &Context, target: &LockTarget) {
    let mut unknown = Vec::new();
    if let Some(user) = &target.user
        && let Err(error) = context.api.user(user.clone()).await
        && error.kind() == ApiErrorKind::NotFound
    {
        unknown.push(format!("there is no user {user}"));
    }
    if let Some(role) = &target.role
        && let Err(error) = context.api.role(role.clone()).await
        && error.kind() == ApiErrorKind::NotFound
    {
        unknown.push(format!("there is no role {role}"));
    }
    if let Some(node) = &target.node
        && let Ok(nodes) = context.api.nodes().await
        && let Ok(status) = context.api.status().await
    {
        let proxies = status.proxies.iter().map(|proxy| (proxy.record.host_id, &proxy.record.name));
        let hosts = nodes.iter().map(|node| (node.record.host_id, &node.record.name)).chain(proxies);
        let named = |(id, name): (HostId, &_)| match node {
            LockedNode::Id(locked) => *locked == id,
            LockedNode::Name(locked) => locked == name,
            _ => true,
        };
        match hosts.filter(|host| named(*host)).count() {
            0 => unknown.push(format!("there is no node or proxy {node}")),
            1 => {}
            several => eprintln!(
                "WARNING: {several} nodes and proxies are named {node}, and all of them are locked; --server-id locks one"
            ),
        }
    }
    for line in unknown {
        eprintln!("WARNING: {line}; it is locked all the same");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        lock: NewLock,
    }

    fn parse(line: &str) -> Result<NewLock, String> {
        let words = std::iter::once("lock").chain(line.split_whitespace());
        Line::try_parse_from(words).map(|line| line.lock).map_err(|error| error.to_string())
    }

    #[test]
    fn options_are_targets() {
        let id = "0f8fad5b-d9cb-469f-a165-70867728950e";
        for (line, target) in [
            ("--user=alice".to_owned(), "user:\"alice\"".to_owned()),
            ("--role=ops --login=root".to_owned(), "role:\"ops\" login:\"root\"".to_owned()),
            ("--node=web-1".to_owned(), "node:\"web-1\"".to_owned()),
            (format!("--server-id={id}"), format!("node:\"{id}\"")),
            (format!("--mfa-device={id} --serial=7"), format!("mfa_device:\"{id}\" serial:\"7\"")),
        ] {
            assert_eq!(parse(&line).unwrap().target().to_string(), target);
        }
        for bad in [
            "--user=A",
            "--server-id=web-1",
            "--server-id=0f8fad5b-d9cb-469f-a165-70867728950e --node=web-1",
            "--mfa-device=phone",
            "--user=alice --ttl=1h --expires=2030-01-31T17:00:00Z",
            "--user=alice --expires=tomorrow",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_lock_ends_when_it_is_said_and_not_before_it_begins() {
        let now = Timestamp::from_unix_secs(1_800_000_000);
        let until = |line: &str| parse(line).unwrap().expires(now);
        assert_eq!(until("--user=a").unwrap(), None);
        assert_eq!(until("--user=a --ttl=1h").unwrap(), Some(now.saturating_add(Duration::from_secs(3600))));
        assert!(until("--user=a --expires=2030-01-31T17:00:00Z").unwrap().is_some());
        assert!(
            until("--user=a --expires=2020-01-31T17:00:00Z").unwrap_err().to_string().contains("is over")
        );
    }
}
