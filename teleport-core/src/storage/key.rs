//! Keys: `/`-separated paths of printable ASCII.

use std::fmt;
use std::str::FromStr;

/// The longest key, in bytes.
pub const MAX_KEY_LEN: usize = 512;

/// The text is not a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a key is 1 to {MAX_KEY_LEN} bytes of non-empty '/'-separated segments of printable ASCII without spaces"
)]
#[non_exhaustive]
pub struct InvalidKey;

fn is_segment(segment: &str) -> bool {
    !segment.is_empty() && segment.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A path such as `users/alice`: non-empty segments of printable ASCII (no space), joined by `/`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Box<str>);

impl Key {
    /// Parses a whole key.
    ///
    /// # Errors
    /// [`InvalidKey`].
    pub fn new(text: &str) -> Result<Self, InvalidKey> {
        if text.len() <= MAX_KEY_LEN && text.split('/').all(is_segment) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidKey)
        }
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last segment.
    pub fn leaf(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl FromStr for Key {
    type Err = InvalidKey;
    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        Self::new(text)
    }
}

/// A place below which keys live: whole segments, so `users` holds `users/alice` and never `users2/bob`.
///
/// Held with its trailing `/`; the root is the empty text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(Box<str>);

impl Prefix {
    /// Everything.
    pub fn root() -> Self {
        Self("".into())
    }

    /// Parses `a/b` (without a trailing `/`).
    ///
    /// # Errors
    /// [`InvalidKey`].
    pub fn new(text: &str) -> Result<Self, InvalidKey> {
        let key = Key::new(text)?;
        Ok(Self(format!("{key}/").into()))
    }

    /// The key `segment` right below this prefix. `segment` may itself contain `/`.
    ///
    /// # Errors
    /// [`InvalidKey`].
    pub fn key(&self, segment: &str) -> Result<Key, InvalidKey> {
        Key::new(&format!("{}{segment}", self.0))
    }

    /// The prefix `segment` below this one.
    ///
    /// # Errors
    /// [`InvalidKey`].
    pub fn join(&self, segment: &str) -> Result<Self, InvalidKey> {
        Self::new(&format!("{}{segment}", self.0))
    }

    /// Whether `key` is below this prefix.
    pub fn contains(&self, key: &Key) -> bool {
        key.as_str().starts_with(&*self.0)
    }

    /// The text with its trailing `/`; empty for the root. Every key below begins with it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// By its text with the trailing `/`, for maps.
impl std::borrow::Borrow<str> for Prefix {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn a_key_has_non_empty_printable_segments() {
        for bad in ["", "/", "a/", "/a", "a//b", "a b", "a\n", "a\0", "é"] {
            assert!(Key::new(bad).is_err(), "{bad:?}");
        }
        assert!(Key::new(&"k".repeat(MAX_KEY_LEN + 1)).is_err());
        assert_eq!(Key::new("users/alice").unwrap().leaf(), "alice");
    }

    #[test]
    fn a_prefix_ends_at_a_segment() {
        let users = Prefix::new("users").unwrap();
        assert!(users.contains(&users.key("alice").unwrap()));
        assert!(!users.contains(&Key::new("users2/bob").unwrap()));
        assert!(!users.contains(&Key::new("users").unwrap()));
        assert!(Prefix::root().contains(&Key::new("anything").unwrap()));
    }
}
