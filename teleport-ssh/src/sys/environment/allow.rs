//! What a client may put into the environment of its processes.

use std::collections::BTreeMap;

/// Bounds on what one session keeps; far above honest use, far below harm.
const MAX_VARIABLES: usize = 64;
const MAX_NAME: usize = 128;
const MAX_VALUE: usize = 4096;
const MAX_TOTAL: usize = 32 * 1024;
const MAX_PATTERNS: usize = 64;

/// Names that no configuration can let through: they make a loader, shell, interpreter or resolver run or
/// read what the client likes, or they are the server's to say.
const NEVER: [&str; 52] = [
    "BASHOPTS",
    "BASH_ENV",
    "BASH_FUNC_*",
    "CDPATH",
    "DYLD_*",
    "EDITOR",
    "ENV",
    "FPATH",
    "GCONV_PATH",
    "GETCONF_DIR",
    "GIT_*",
    "GLIBC_TUNABLES",
    "GLOBIGNORE",
    "HOME",
    "HOSTALIASES",
    "IFS",
    "JAVA_TOOL_OPTIONS",
    "KRB5CCNAME",
    "LD_*",
    "LESSCLOSE",
    "LESSOPEN",
    "LOCALDOMAIN",
    "LOCPATH",
    "LOGNAME",
    "LUA_*",
    "MAIL",
    "MAILPATH",
    "MALLOC_*",
    "NIS_PATH",
    "NLSPATH",
    "NODE_OPTIONS",
    "PAGER",
    "PATH",
    "PERL5*",
    "PERLLIB",
    "PROMPT_COMMAND",
    "PS4",
    "PYTHON*",
    "RESOLV_*",
    "RES_OPTIONS",
    "RUBY*",
    "SHELL",
    "SHELLOPTS",
    "SSH_*",
    "SUDO_*",
    "TELEPORT_*",
    "TERMCAP",
    "TERMINFO*",
    "TMPDIR",
    "USER",
    "VISUAL",
    "ZDOTDIR",
];

/// The names that a client may set. A pattern is a name in which `*` stands for any characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowList(Vec<String>);

/// A pattern that cannot be part of an [`AllowList`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum PatternError {
    /// Something else than letters, digits, `_` and `*`, or longer than any name.
    #[error("{0:?} is no environment variable name, and no pattern of one")]
    Malformed(String),
    /// Names that stay refused whatever the list says.
    #[error("the environment variable {0:?} can never be set by a client")]
    Never(String),
    /// More patterns than a list may hold.
    #[error("more than {MAX_PATTERNS} patterns")]
    TooMany,
}

/// The variables that one session's client has set, bounded in number and size.
#[derive(Clone, Debug)]
pub struct ClientEnv {
    allow: AllowList,
    variables: BTreeMap<String, String>,
    bytes: usize,
}

/// Why a variable of the client was not taken.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refused {
    /// The name is on no list of this node.
    #[error("clients may not set this environment variable")]
    Name,
    /// The session has set as much as it may.
    #[error("too many or too large environment variables")]
    TooMuch,
    /// The value holds control characters.
    #[error("the value of the environment variable holds control characters")]
    Value,
}

impl AllowList {
    /// Parses patterns, as an administrator writes them.
    ///
    /// # Errors
    /// When a pattern is malformed, names exactly a variable that is never allowed, or there are too many.
    pub fn parse<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, PatternError> {
        let mut list = Vec::new();
        for pattern in patterns {
            let fits = |byte: u8| byte == b'_' || byte == b'*' || byte.is_ascii_alphanumeric();
            if pattern.is_empty() || pattern.len() > MAX_NAME || !pattern.bytes().all(fits) {
                return Err(PatternError::Malformed(pattern.to_owned()));
            }
            if is_never(pattern) {
                return Err(PatternError::Never(pattern.to_owned()));
            }
            if list.len() == MAX_PATTERNS {
                return Err(PatternError::TooMany);
            }
            list.push(pattern.to_owned());
        }
        Ok(Self(list))
    }

    /// Whether a client may set this variable.
    #[must_use]
    pub fn allows(&self, name: &str) -> bool {
        is_plain_name(name) && !is_never(name) && self.0.iter().any(|pattern| matches(pattern, name))
    }
}

impl Default for AllowList {
    /// `LANG` and `LC_*`, as distributions configure their sshd.
    fn default() -> Self {
        Self(vec!["LANG".to_owned(), "LC_*".to_owned()])
    }
}

impl ClientEnv {
    /// Nothing set yet, under this list.
    #[must_use]
    pub fn new(allow: AllowList) -> Self {
        Self { allow, variables: BTreeMap::new(), bytes: 0 }
    }

    /// Takes one variable, replacing an earlier value of the same name.
    ///
    /// # Errors
    /// When the variable is refused; what was taken before stays.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), Refused> {
        if !self.allow.allows(name) {
            return Err(Refused::Name);
        }
        if value.len() > MAX_VALUE {
            return Err(Refused::TooMuch);
        }
        if value.contains(char::is_control) {
            return Err(Refused::Value);
        }
        let replaced = self.variables.get(name).map(|old| name.len() + old.len());
        let bytes = self.bytes - replaced.unwrap_or(0) + name.len() + value.len();
        if bytes > MAX_TOTAL || (replaced.is_none() && self.variables.len() >= MAX_VARIABLES) {
            return Err(Refused::TooMuch);
        }
        self.variables.insert(name.to_owned(), value.to_owned());
        self.bytes = bytes;
        Ok(())
    }

    /// What was taken, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.variables.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl Default for ClientEnv {
    fn default() -> Self {
        Self::new(AllowList::default())
    }
}

/// Letters, digits and `_`, not starting with a digit: what a shell can name.
pub(super) fn is_plain_name(name: &str) -> bool {
    let fits = |byte: u8| byte == b'_' || byte.is_ascii_alphanumeric();
    !name.is_empty()
        && name.len() <= MAX_NAME
        && name.bytes().all(fits)
        && !name.starts_with(|first: char| first.is_ascii_digit())
}

fn is_never(name: &str) -> bool {
    NEVER.iter().any(|pattern| matches(pattern, name))
}

/// Glob match with `*` only; linear in the product of the lengths, which are bounded.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}
