//! What a user means by a source or a target.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Where something is copied from or to: `path`, or `[login@]node:path` with an IPv6 address in brackets.
///
/// As `scp` has it, what has a colon before any slash is on a node; `./a:b` is a file here.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "here or there")]
pub enum Place {
    /// On this machine.
    Local(PathBuf),
    /// On a node.
    Remote {
        /// As whom, if it is said.
        login: Option<String>,
        /// The node as the user names it, not checked.
        node: String,
        /// The path there, which may be a pattern; empty for the home directory.
        path: Vec<u8>,
    },
}

/// A text that means no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidPlace {
    /// An empty path.
    #[error("an empty path is no file; say . for this directory")]
    Empty,
    /// No node before the colon.
    #[error("there is no node before the colon; write ./ before a file's name that has one")]
    Node,
    /// A zero byte in it.
    #[error("a path has no zero byte")]
    Zero,
}

impl Place {
    /// Reads what a user writes.
    ///
    /// # Errors
    /// [`InvalidPlace`].
    pub fn parse(text: &OsStr) -> Result<Self, InvalidPlace> {
        let bytes = text.as_bytes();
        if bytes.is_empty() {
            return Err(InvalidPlace::Empty);
        }
        if bytes.contains(&0) {
            return Err(InvalidPlace::Zero);
        }
        let Some(colon) = colon(bytes) else { return Ok(Self::Local(PathBuf::from(text))) };
        let (node, path) = bytes.split_at(colon);
        let path = path.get(1..).unwrap_or_default().to_vec();
        let node = std::str::from_utf8(node).map_err(|_| InvalidPlace::Node)?;
        // A login may have no @, an address may have none either.
        let (login, node) = match node.rsplit_once('@') {
            Some((login, node)) => (Some(login.to_owned()), node),
            None => (None, node),
        };
        if node.is_empty() || node == "[]" || login.as_deref() == Some("") {
            return Err(InvalidPlace::Node);
        }
        Ok(Self::Remote { login, node: node.to_owned(), path })
    }
}

/// Where the colon is that ends the node's name.
fn colon(text: &[u8]) -> Option<usize> {
    let mut bracket = false;
    for (index, byte) in text.iter().enumerate() {
        match byte {
            b'/' => return None,
            b'[' if index == 0 || text.get(index - 1) == Some(&b'@') => bracket = true,
            b']' if bracket => bracket = false,
            b':' if !bracket => return Some(index),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn places_are_those_of_scp() {
        let place = |text: &str| Place::parse(OsStr::new(text));
        for local in ["a", "./a:b", "/a:b", "a/b:c", ".", "[::1]", "a@b", "[x"] {
            assert_eq!(place(local), Ok(Place::Local(local.into())), "{local}");
        }
        for (text, login, node, path) in [
            ("web:", None, "web", ""),
            ("web:/etc/x", None, "web", "/etc/x"),
            ("root@web:a b:c", Some("root"), "web", "a b:c"),
            ("[2001:db8::1]:x", None, "[2001:db8::1]", "x"),
            ("root@[::1]:~/x", Some("root"), "[::1]", "~/x"),
            ("env=test:*.log", None, "env=test", "*.log"),
            ("c:\\x", None, "c", "\\x"),
        ] {
            let (login, node, path) = (login.map(str::to_owned), node.to_owned(), path.into());
            assert_eq!(place(text), Ok(Place::Remote { login, node, path }), "{text}");
        }
        for (bad, why) in [
            ("", InvalidPlace::Empty),
            (":x", InvalidPlace::Node),
            ("@:x", InvalidPlace::Node),
            ("@web:x", InvalidPlace::Node),
            ("[]:x", InvalidPlace::Node),
            ("a\0b", InvalidPlace::Zero),
        ] {
            assert_eq!(place(bad), Err(why), "{bad:?}");
        }
        let odd = Place::parse(OsStr::from_bytes(b"web:\xff")).unwrap();
        assert!(matches!(odd, Place::Remote { path, .. } if path == b"\xff"));
        assert_eq!(Place::parse(OsStr::from_bytes(b"\xff:x")), Err(InvalidPlace::Node));
    }
}
