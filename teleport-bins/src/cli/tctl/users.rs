//! `tctl users` and `tctl roles`.

use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Subcommand;
use teleport_core::api::{CreateUser, Invite};
use teleport_core::clock::{Clock, SystemClock};
use teleport_core::id::{OsLogin, RoleName, UserName};

use super::super::{Format, table};
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
        /// How to print
        #[arg(short, long, value_enum, default_value_t)]
        format: Format,
    },
    /// Print a link by which the user sets a new password and second factor; unlocks the user
    Reset {
        /// The user
        name: UserName,
        /// How to print
        #[arg(short, long, value_enum, default_value_t)]
        format: Format,
    },
    /// Delete users; certificates they hold stay valid until they expire
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
            let link = link(context, &invite).await?;
            format.print(&invite, || {
                format!(
                    "User {:?} has been created but needs a password.\n{}",
                    invite.user.as_str(),
                    explain(&invite, &link)
                )
            })
        }
        Command::Reset { name, format } => {
            let invite = context.api.reset_user(name).await?;
            let link = link(context, &invite).await?;
            format.print(&invite, || {
                format!("User {:?} has been reset.\n{}", invite.user.as_str(), explain(&invite, &link))
            })
        }
        Command::Ls { format } => {
            let users = context.api.users().await?;
            let now = SystemClock::new().now();
            format.print(&users, || {
                table(
                    ["User", "Roles", "Logins", "Locked"],
                    users.iter().map(|user| {
                        let roles: Vec<&str> = user.roles.iter().map(RoleName::as_str).collect();
                        let logins: Vec<&str> = user.logins.iter().map(OsLogin::as_str).collect();
                        let locked = match user.locked_until {
                            Some(until) if until > now => {
                                format!("for {}", format_duration(until.saturating_since(now)))
                            }
                            _ => String::new(),
                        };
                        [user.name.to_string(), roles.join(","), logins.join(","), locked]
                    }),
                )
            })
        }
        Command::Rm { names } => {
            for name in names {
                context.api.delete_user(name.clone()).await.with_context(|| format!("user {name}"))?;
                println!("User {:?} has been deleted", name.as_str());
            }
            Ok(())
        }
    }
}

/// The link of an invite. Its fragment holds the CA pin, so that the first contact with the proxy is verified; browsers do not
/// send fragments.
async fn link(context: &Context, invite: &Invite) -> Result<String> {
    let status = context.api.status().await?;
    let proxy = status.proxies.first().map_or("<proxy>:3080", |proxy| proxy.web_address.as_str());
    let pins: Vec<String> = status.ca_pins.iter().map(|pin| format!("pin={pin}")).collect();
    Ok(format!("https://{proxy}/web/invite/{}#{}", invite.token.expose(), pins.join("&")))
}

fn explain(invite: &Invite, link: &str) -> String {
    // A moment has passed since: nobody means 59m59s.
    let left = invite.expires.saturating_since(SystemClock::new().now()).as_secs();
    let good_for = format_duration(Duration::from_secs(left.saturating_add(30) / 60 * 60));
    format!(
        "Share this link with the user; it is good for {good_for} and for one use:\n\n\
         {link}\n\n\
         The user runs:  tsh accept '{link}'\n\
         NOTE: the user must reach the proxy in the link."
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
