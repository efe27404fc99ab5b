//! Where the database is, and which schema in it is ours.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use crate::shared::server_url::ServerUrl;

const PORT: u16 = 5432;
const MAX_SCHEMA_LEN: usize = 48;

/// How PostgreSQL is reached: `postgres://user@host:5432,standby/database?schema=teleport&option=value`.
///
/// All of a cluster lives in the schema, so several clusters can share one database.
#[derive(Clone)]
pub struct PostgresConfig {
    pub(super) server: ServerUrl,
    pub(super) user: String,
    pub(super) schema: Schema,
}

/// The name of a schema that can stand in a statement as it is.
#[derive(Clone, Debug)]
pub(super) struct Schema(String);

impl Schema {
    fn parse(name: &str) -> Option<Self> {
        let is_plain = name.len() <= MAX_SCHEMA_LEN
            && name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
            && !name.starts_with("pg_");
        is_plain.then(|| Self(name.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// A statement, with the schema's name for each `{}`.
    pub(super) fn sql(&self, statement: &str) -> String {
        statement.replace("{}", &format!("\"{}\"", self.0))
    }

    /// The name that changes are announced by.
    pub(super) fn channel(&self) -> String {
        format!("teleport_{}", self.0)
    }
}

impl fmt::Debug for PostgresConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresConfig({self})")
    }
}

impl fmt::Display for PostgresConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}?schema={}", self.server, self.schema.0)
    }
}

impl PostgresConfig {
    /// Parses what follows `postgres:`.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn parse(rest: &str) -> Result<Self, Cow<'static, str>> {
        let mut server = ServerUrl::parse("postgres", rest, PORT, &["schema"])?;
        if server.path.is_empty() || server.path.contains('/') {
            return Err("the name of the database is missing behind the host".into());
        }
        let schema = server.options.remove("schema").unwrap_or_else(|| "teleport".to_owned());
        let schema = Schema::parse(&schema)
            .ok_or("the schema is named by lower-case letters, digits and `_`, at most 48 and not `pg_…`")?;
        let user = server
            .user
            .clone()
            .ok_or("the user is missing before the host: postgres://user@host/database")?;
        Ok(Self { server, user, schema })
    }

    pub(super) fn timeout(&self) -> Duration {
        self.server.timeout
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_are_plain_names() {
        for bad in ["", "A", "1a", "a-b", "a\"b", "a b", "pg_x", "é", &"a".repeat(49)] {
            assert!(Schema::parse(bad).is_none(), "{bad}");
        }
        assert!(Schema::parse("_a1").is_some());
        for bad in ["//u@h", "//u@h/", "//u@h/a/b", "//h/db", "//u@h/db?schema=A"] {
            assert!(PostgresConfig::parse(bad).is_err(), "{bad}");
        }
        assert!(PostgresConfig::parse("//u@h/db").is_ok());
    }
}
