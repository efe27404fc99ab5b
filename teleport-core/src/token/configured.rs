//! Tokens from the configuration: `node,proxy:secret` or `node:/path/of/a/file`.

use std::path::PathBuf;
use std::str::FromStr;

use super::{MAX_SECRET_LEN, MIN_SECRET_LEN, TokenHash, TokenRecord};
use crate::id::{HostRole, InvalidName};
use crate::label::Labels;
use crate::secret::SecretString;

/// A line of the configuration is no static token. No text of the secret is in the message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidStaticToken {
    /// No `:` between roles and secret.
    #[error("a static token is written role,role:secret or role:/path/of/a/file")]
    Form,
    /// One of the roles.
    #[error("a static token names a role that is not known")]
    Role {
        /// Which, and what would be right.
        source: InvalidName,
    },
    /// The secret is empty, too long, or has white space or control characters.
    #[error("a static token's secret has 1 to {MAX_SECRET_LEN} printable characters without spaces")]
    Secret,
}

/// Where the secret of a static token is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StaticTokenSource {
    /// In a file, which the program reads at start.
    File(PathBuf),
    /// In the configuration itself.
    Value(SecretString),
}

/// A static token as it is written in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StaticTokenSpec {
    /// What hosts may join as.
    pub roles: Vec<HostRole>,
    /// Where the secret is.
    pub source: StaticTokenSource,
}

/// Reads `role,role:secret` or `role:/path`.
impl FromStr for StaticTokenSpec {
    type Err = InvalidStaticToken;

    fn from_str(text: &str) -> Result<Self, InvalidStaticToken> {
        let (roles, secret) = text.split_once(':').ok_or(InvalidStaticToken::Form)?;
        let mut roles = roles
            .split(',')
            .map(|role| role.trim().parse().map_err(|source| InvalidStaticToken::Role { source }))
            .collect::<Result<Vec<HostRole>, _>>()?;
        roles.sort_unstable();
        roles.dedup();
        let secret = secret.trim();
        let source = if secret.starts_with('/') {
            StaticTokenSource::File(secret.into())
        } else {
            let secret = SecretString::new(secret);
            StaticToken::new(roles.clone(), &secret)?;
            StaticTokenSource::Value(secret)
        };
        Ok(Self { roles, source })
    }
}

/// A static token that is ready to be used. It keeps the hash of the secret only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticToken {
    record: TokenRecord,
    weak: bool,
}

impl StaticToken {
    /// A token for hosts of these roles.
    ///
    /// # Errors
    /// [`InvalidStaticToken::Secret`].
    pub fn new(mut roles: Vec<HostRole>, secret: &SecretString) -> Result<Self, InvalidStaticToken> {
        let fits = (1..=MAX_SECRET_LEN).contains(&secret.len());
        if !fits || !secret.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidStaticToken::Secret);
        }
        roles.sort_unstable();
        roles.dedup();
        let record = TokenRecord {
            id: "static".to_owned(),
            hash: TokenHash::of(secret),
            roles,
            expires: None,
            uses_left: None,
            labels: Labels::default(),
            is_static: true,
        };
        Ok(Self { record, weak: secret.len() < MIN_SECRET_LEN })
    }

    /// Names it by its place in the configuration, from 1 on.
    #[cfg(feature = "auth")]
    pub(crate) fn set_number(&mut self, number: usize) {
        self.record.id = format!("static-{number}");
    }

    /// The token as it is admitted by.
    pub const fn record(&self) -> &TokenRecord {
        &self.record
    }

    /// Whether the secret is shorter than that of any token that is made at run time: worth a warning at start.
    pub const fn is_weak(&self) -> bool {
        self.weak
    }
}
