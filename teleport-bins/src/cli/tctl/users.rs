//! `tctl users` and `tctl roles`.

use std::str::FromStr;
use std::time::Duration;

use anyhow::Result;
use clap::Subcommand;
use teleport_core::api::{ClusterStatus, CreateUser, Invite, MfaDevice, ResetUser, UpdateUser};
use teleport_core::clock::{Clock, SystemClock};
use teleport_core::id::{OsLogin, RoleName, UserName};
use teleport_core::lock::{LockSet, LockSubject, Locked};

use super::super::{Format, sanitize, table};
use super::{Context, ttl};
use crate::config::format_duration;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a user and print the link by which the user sets password and second factor
    Add {
        /// The user
        name: UserName,
        /// What the user may log in as on nodes
        #[arg(long, value_delimiter = ',')]
        logins: Vec<OsLogin>,
        /// The user's roles
        #[arg(long, value_delimiter = ',', default_value = "access")]
        roles: Vec<RoleName>,
        /// How long the link is good, at most 48h
        #[arg(long, default_value = "1h", value_parser = ttl)]
        ttl: Duration,
        /// How to print
        #[arg(short, long, value_enum, default_value_t)]
        format: Format,
    },
    /// List users
    Ls {
        /// With the ids of second factors, as `tctl lock --mfa-device` takes them
        #[arg(short, long)]
        verbose: bool,
        /// How to print
        #[arg(short, long, value_enum, default_value_t)]
        format: Format,
    },
    /// Print a link by which the user sets a new password and second factor; the old ones end now, and so does a lockout
    Reset {
        /// The user
        name: UserName,
        /// How long the link is good, at most 24h
        #[arg(long, default_value = "8h", value_parser = ttl)]
        ttl: Duration,
        /// How to print
        #[arg(short, long, value_enum, default_value_t)]
        format: Format,
    },
    /// End the lockout of users after too many failed logins; password and second factors stay
    Unlock {
        /// The users
        #[arg(value_delimiter = ',', required = true)]
        names: Vec<UserName>,
    },
    /// Change roles, logins or traits of a user; what is not said stays. A role that is taken counts at once; certificates keep their logins and traits until they expire
    #[command(group = clap::ArgGroup::new("change").required(true).multiple(true))]
    Update {
        /// The user
        name: UserName,
        /// All logins from now on; `--set-logins=` is none
        #[arg(long, value_name = "LOGIN,LOGIN", group = "change")]
        set_logins: Option<Vec<List<OsLogin>>>,
        /// All roles from now on; `--set-roles=` is none
        #[arg(long, value_name = "ROLE,ROLE", group = "change")]
        set_roles: Option<Vec<List<RoleName>>>,
        /// A trait and all its values from now on; without values it is removed. Repeatable
        #[arg(long, value_name = "NAME=VALUE,VALUE", value_parser = parse_trait, group = "change")]
        set_traits: Vec<(String, Vec<String>)>,
    },
    /// Delete users; their sessions end, and certificates they hold are refused
    Rm {
        /// The users
        #[arg(value_delimiter = ',', required = true)]
        names: Vec<UserName>,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum RolesCommand {
    /// List roles
    Ls {
        /// How to print
        #[arg(short, long, value_enum, default_value_t)]
        format: Format,
    },
    /// Print a role
    Show {
        /// The role
        name: RoleName,
        /// How to print
        #[arg(short, long, value_enum, default_value = "yaml")]
        format: Format,
    },
}

pub(super) async fn run(context: &Context, command: Command) -> Result<()> {
    match command {
        Command::Add { name, logins, roles, ttl, format } => {
            let request = CreateUser { name, roles, logins, ttl: Some(ttl.as_secs()) };
            let invite = context.api.create_user(request).await?;
            let link = link(context, "invite", &invite).await?;
            format.print(&invite, || {
                format!(
                    "User {:?} has been created but needs a password.\n{}",
                    invite.user.as_str(),
                    explain(&invite, &link)
                )
            })
        }
        Command::Reset { name, ttl, format } => {
            let invite = context.api.reset_user(name, ResetUser { ttl: Some(ttl.as_secs()) }).await?;
            let link = link(context, "reset", &invite).await?;
            format.print(&invite, || {
                format!("User {:?} has been reset.\n{}", invite.user.as_str(), explain(&invite, &link))
            })
        }
        Command::Ls { format, verbose } => {
            let users = context.api.users().await?;
            let now = SystemClock::new().now();
            format.print(&users, || {
                table(
                    ["User", "Roles", "Logins", "Devices", "Locked"],
                    users.iter().map(|user| {
                        let roles: Vec<&str> = user.roles.iter().map(RoleName::as_str).collect();
                        let logins: Vec<&str> = user.logins.iter().map(OsLogin::as_str).collect();
                        let locked = match user.locked_until {
                            Some(until) if until > now => {
                                format!("for {}", format_duration(until.saturating_since(now)))
                            }
                            _ => String::new(),
                        };
                        // What a lock of a device names.
                        let named = |device: &MfaDevice| format!("{} ({})", device.name, device.id);
                        let devices = match verbose {
                            true => user.devices.iter().map(named).collect::<Vec<_>>().join(","),
                            false => user.mfa_devices.to_string(),
                        };
                        [user.name.to_string(), roles.join(","), logins.join(","), devices, locked]
                    }),
                )
            })
        }
        Command::Unlock { names } => {
            for name in names {
                context.api.unlock_user(name.clone()).await?;
                let locks = locks_of(context, &name).await;
                if locks.is_empty() {
                    println!("User {:?} may log in again", name.as_str());
                } else {
                    println!("Failed attempts of user {:?} are forgotten", name.as_str());
                }
                for lock in locks {
                    eprintln!("WARNING: {}", sanitize(&lock));
                }
            }
            Ok(())
        }
        Command::Update { name, set_logins, set_roles, set_traits } => {
            let mut request = UpdateUser {
                roles: set_roles.map(List::all),
                logins: set_logins.map(List::all),
                ..UpdateUser::default()
            };
            for (key, values) in set_traits {
                request.traits.entry(key).or_default().extend(values);
            }
            let changed = describe(&request);
            context.api.update_user(name.clone(), request).await?;
            println!("User {:?} has been updated:\n{changed}", name.as_str());
            Ok(())
        }
        Command::Rm { names } => {
            for name in names {
                context.api.delete_user(name.clone()).await?;
                println!("User {:?} has been deleted", name.as_str());
            }
            Ok(())
        }
    }
}

/// The locks that keep a user out all the same, and how they end. Whoever may not look is not told.
async fn locks_of(context: &Context, name: &UserName) -> Vec<String> {
    let (Ok(locks), Ok(user)) = (context.api.locks().await, context.api.user(name.clone()).await) else {
        return Vec::new();
    };
    let locks: LockSet = locks.into_iter().collect();
    let subject = LockSubject { user: Some(name), roles: &user.spec.roles, ..LockSubject::default() };
    let told = |locked: Locked| match &locked {
        Locked::InForce { name, .. } => format!("{locked}; it ends with tctl rm lock/{name}"),
        _ => locked.to_string(),
    };
    locks.all(&subject, SystemClock::new().now()).map(told).collect()
}

/// Names with commas between them; an empty text is none.
#[derive(Clone, Debug)]
pub(super) struct List<T>(Vec<T>);

impl<T> List<T> {
    fn all(lists: Vec<Self>) -> Vec<T> {
        lists.into_iter().flat_map(|list| list.0).collect()
    }
}

impl<T: FromStr> FromStr for List<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        names.map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

/// Reads `name=value,value`, or `name=` for no values.
fn parse_trait(text: &str) -> Result<(String, Vec<String>), String> {
    let (name, values) = text.split_once('=').ok_or("write it like team=db,web, or team= to remove it")?;
    let values = values.split(',').map(str::trim).filter(|value| !value.is_empty());
    Ok((name.trim().to_owned(), values.map(str::to_owned).collect()))
}

fn names<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let names: Vec<&str> = names.collect();
    if names.is_empty() { "none".to_owned() } else { names.join(",") }
}

/// A line for everything that was changed.
fn describe(request: &UpdateUser) -> String {
    let mut lines = Vec::new();
    if let Some(roles) = &request.roles {
        lines.push(format!("  roles: {}", names(roles.iter().map(RoleName::as_str))));
    }
    if let Some(logins) = &request.logins {
        lines.push(format!("  logins: {}", names(logins.iter().map(OsLogin::as_str))));
    }
    lines.extend(request.traits.iter().map(|(name, values)| match values.as_slice() {
        [] => format!("  trait {name} removed"),
        values => format!("  trait {name}: {}", values.join(",")),
    }));
    lines.iter().map(|line| sanitize(line)).collect::<Vec<_>>().join("\n")
}

/// An invite's link, and what is to be said of it.
struct Link {
    url: String,
    note: String,
}

async fn link(context: &Context, page: &str, invite: &Invite) -> Result<Link> {
    Ok(link_by(&context.api.status().await?, page, invite))
}

/// The link leads to a proxy that is online, if there is one. Its fragment holds the CA pin, so that the first contact with the
/// proxy is verified; browsers do not send fragments.
fn link_by(status: &ClusterStatus, page: &str, invite: &Invite) -> Link {
    let newest = status.proxies.iter().max_by_key(|proxy| proxy.last_seen);
    let (address, note) = match newest {
        Some(proxy) if proxy.is_online(status.time) => (proxy.record.web_address.as_str(), String::new()),
        Some(proxy) => (
            proxy.record.web_address.as_str(),
            format!(
                "\nWARNING: no proxy is online; {:?} was heard of {} ago. The link works when it is back.",
                proxy.record.name.as_str(),
                format_duration(status.time.saturating_since(proxy.last_seen)),
            ),
        ),
        None => (
            "<proxy>:3080",
            "\nWARNING: the cluster has no proxy yet; put its address into the link.".to_owned(),
        ),
    };
    let pins: Vec<String> = status.ca_pins.iter().map(|pin| format!("pin={pin}")).collect();
    let url = format!("https://{address}/web/{page}/{}#{}", invite.token.expose(), pins.join("&"));
    Link { url, note }
}

fn explain(invite: &Invite, link: &Link) -> String {
    let Link { url, note } = link;
    // A moment has passed since: nobody means 59m59s.
    let left = invite.expires.saturating_since(SystemClock::new().now()).as_secs();
    let good_for = format_duration(Duration::from_secs(left.saturating_add(30) / 60 * 60));
    format!(
        "Share this link with the user; it is good for {good_for} and for one use:\n\n\
         {url}\n\n\
         The user runs:  tsh accept '{url}'\n\
         NOTE: the user must reach the proxy in the link.{note}"
    )
}

pub(super) async fn run_roles(context: &Context, command: RolesCommand) -> Result<()> {
    match command {
        RolesCommand::Ls { format } => {
            let roles = context.api.roles().await?;
            format.print(&roles, || {
                table(
                    ["Role", "Description"],
                    roles.iter().map(|role| [role.metadata.name.clone(), role.metadata.description.clone()]),
                )
            })
        }
        RolesCommand::Show { name, format } => {
            let role = context.api.role(name).await?;
            format.print(&role, || format!("{}: {}", role.metadata.name, role.metadata.description))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use teleport_core::api::{Proxy, ProxyRecord};
    use teleport_core::clock::Timestamp;
    use teleport_core::secret::SecretString;

    use super::*;

    #[test]
    fn traits_are_read_as_they_are_typed() {
        let of = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>();
        assert_eq!(parse_trait("team=db, web"), Ok(("team".to_owned(), of(&["db", "web"]))));
        assert_eq!(parse_trait("team="), Ok(("team".to_owned(), of(&[]))));
        assert_eq!(parse_trait("url=a=b"), Ok(("url".to_owned(), of(&["a=b"]))));
        assert!(parse_trait("team").is_err());
    }

    #[test]
    fn the_link_leads_to_a_proxy_that_is_online() {
        let now = Timestamp::from_unix_secs(1_800_000_000);
        let proxy = |name: &str, ago: u64| Proxy {
            record: ProxyRecord {
                host_id: "0f8fad5b-d9cb-469f-a165-70867728950e".parse().unwrap(),
                name: name.parse().unwrap(),
                web_address: format!("{name}.example.com:3080"),
                ssh_address: format!("{name}.example.com:3023"),
                peer_address: None,
                tunnels: 0,
                version: String::new(),
            },
            last_seen: now.saturating_sub(Duration::from_secs(ago)),
        };
        let status = |proxies| ClusterStatus {
            cluster_name: "example.com".parse().unwrap(),
            server_version: String::new(),
            ca_pins: Vec::new(),
            proxies,
            auth_servers: Vec::new(),
            nodes_online: 0,
            time: now,
        };
        let invite = Invite {
            user: "alice".parse().unwrap(),
            token: SecretString::new("secret"),
            expires: now.saturating_add(Duration::from_secs(3600)),
        };
        let link = link_by(
            &status(vec![proxy("gone", 3600), proxy("here", 20), proxy("lost", 600)]),
            "invite",
            &invite,
        );
        assert_eq!(link.url, "https://here.example.com:3080/web/invite/secret#");
        assert!(link.note.is_empty());
        let link = link_by(&status(vec![proxy("gone", 3600), proxy("lost", 600)]), "reset", &invite);
        assert!(link.url.contains("//lost.example.com:3080/web/reset/"), "{}", link.url);
        assert!(link.note.contains("no proxy is online") && link.note.contains("10m"), "{}", link.note);
        assert!(explain(&invite, &link).ends_with(&link.note));
        let link = link_by(&status(Vec::new()), "invite", &invite);
        assert!(link.url.contains("<proxy>:3080") && link.note.contains("no proxy"), "{}", link.note);
    }
}
