//! `tctl tokens`.

use std::time::Duration;

use anyhow::Result;
use clap::Subcommand;
use teleport_core::api::{CreateToken, CreatedToken, TokenInfo, TokenPurpose};
use teleport_core::clock::{Clock, SystemClock};
use teleport_core::id::HostRole;
use teleport_core::label::Labels;
use teleport_core::secret::SecretString;

use super::super::{Format, table};
use super::{Context, ttl};
use crate::config::format_duration;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a token
    Add {
        /// What may join: auth, proxy, node
        #[arg(long = "type", alias = "roles", value_delimiter = ',', required = true)]
        roles: Vec<HostRole>,
        /// How long it is good
        #[arg(long, default_value = "30m", value_parser = ttl)]
        ttl: Duration,
        /// How many hosts may join by it [default: any number]
        #[arg(long)]
        uses: Option<u32>,
        /// Its secret [default: a random one]
        #[arg(long)]
        value: Option<String>,
        /// Labels that nodes joined by it always carry
        #[arg(long)]
        labels: Option<Labels>,
        /// How to print
        #[arg(short, long, value_enum, default_value_t)]
        format: Format,
    },
    /// List tokens and invites; their secrets are not kept and cannot be shown, so each has an id
    Ls {
        /// Only tokens with these labels: key=value,key=value
        #[arg(long)]
        labels: Option<Labels>,
        /// How to print
        #[arg(short, long, value_enum, default_value_t)]
        format: Format,
    },
    /// Delete a token or an invite, by its id or its secret
    #[command(alias = "del")]
    Rm {
        /// The token
        token: String,
    },
}

/// The token that is asked for.
pub(super) struct Wanted {
    pub(super) roles: Vec<HostRole>,
    pub(super) ttl: Duration,
    pub(super) uses: Option<u32>,
    pub(super) value: Option<String>,
    pub(super) labels: Option<Labels>,
}

pub(super) async fn run(context: &Context, command: Command) -> Result<()> {
    match command {
        Command::Add { roles, ttl, uses, value, labels, format } => {
            add(context, Wanted { roles, ttl, uses, value, labels }, format).await
        }
        Command::Ls { labels, format } => {
            let mut tokens = context.api.tokens().await?;
            tokens.retain(|token| labels.as_ref().is_none_or(|wanted| token.labels.contains(wanted)));
            tokens.sort_by_key(|token| (token.expires.is_none(), token.expires));
            format.print(&tokens, || list(&tokens))
        }
        Command::Rm { token } => {
            context.api.delete_token(SecretString::new(token.as_str())).await?;
            // It may be the secret that was given.
            println!("The token has been deleted");
            Ok(())
        }
    }
}

pub(super) async fn add(context: &Context, wanted: Wanted, format: Format) -> Result<()> {
    let created = context
        .api
        .create_token(CreateToken {
            roles: wanted.roles,
            ttl: Some(wanted.ttl.as_secs()),
            uses: wanted.uses,
            labels: wanted.labels.unwrap_or_default(),
            value: wanted.value.map(SecretString::new),
        })
        .await?;
    format.print(&created, || instructions(&created, wanted.ttl, &context.auth_address))
}

fn roles(roles: &[HostRole]) -> String {
    roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(",")
}

fn instructions(created: &CreatedToken, ttl: Duration, auth_address: &str) -> String {
    let token = created.token.expose();
    let pins: Vec<String> = created.ca_pins.iter().map(|pin| format!("    --ca-pin={pin} \\\n")).collect();
    let uses = match created.info.uses_left {
        None => "any number of hosts".to_owned(),
        Some(1) => "one host".to_owned(),
        Some(uses) => format!("{uses} hosts"),
    };
    format!(
        "The token is {token}\n\
         It is good for {ttl} and for {uses}; it is shown this once.\n\n\
         On the host that joins:\n\n\
         teleport start \\\n    --roles={roles} \\\n    --token={token} \\\n{pins}    --auth-server={auth_address}\n\n\
         The host must reach {auth_address}.",
        ttl = format_duration(ttl),
        roles = roles(&created.info.roles),
        pins = pins.concat(),
    )
}

/// The services that may join, or whose invite it is.
fn purpose(token: &TokenInfo) -> String {
    match &token.purpose {
        TokenPurpose::Invite(user) => format!("invite of {user}"),
        TokenPurpose::Reset(user) => format!("reset of {user}"),
        _ => roles(&token.roles),
    }
}

fn list(tokens: &[TokenInfo]) -> String {
    if tokens.is_empty() {
        return "No active tokens; `tctl tokens add --type=node` makes one".to_owned();
    }
    let now = SystemClock::new().now();
    table(
        ["Token", "Type", "Labels", "Uses Left", "Expiry Time (UTC)"],
        tokens.iter().map(|token| {
            let expires = match token.expires {
                None => "never".to_owned(),
                Some(at) => format!("{at} ({})", format_duration(at.saturating_since(now))),
            };
            let uses = token.uses_left.map_or_else(|| "any".to_owned(), |uses| uses.to_string());
            [token.id.clone(), purpose(token), token.labels.to_string(), uses, expires]
        }),
    )
}
