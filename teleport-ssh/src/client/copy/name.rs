//! Names of single files.

/// The longest name, in bytes: as long as any system's.
const MAX: usize = 255;

/// The name of one file in some directory: no way elsewhere, and nothing that a terminal would obey.
///
/// The bytes need not be UTF-8.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileName(Vec<u8>);

/// No name of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidName {
    /// It has a control character.
    #[error("its name has a control character, so it is not copied")]
    Control,
    /// It is empty, or longer than names can be.
    #[error("its name has no length that names have")]
    Length,
    /// It leads to another directory.
    #[error("its name leads to another directory, so it is not copied")]
    Path,
}

impl FileName {
    /// Checks a name that somebody else says.
    ///
    /// # Errors
    /// [`InvalidName`].
    pub fn new(name: &[u8]) -> Result<Self, InvalidName> {
        if name.is_empty() || name.len() > MAX {
            Err(InvalidName::Length)
        } else if name.contains(&b'/') || matches!(name, b"." | b"..") {
            Err(InvalidName::Path)
        } else if has_control(name) {
            Err(InvalidName::Control)
        } else {
            Ok(Self(name.to_vec()))
        }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Those of ASCII; and, where it is text, those of the second set, which terminals know too.
fn has_control(name: &[u8]) -> bool {
    name.iter().any(u8::is_ascii_control)
        || std::str::from_utf8(name).is_ok_and(|name| name.chars().any(char::is_control))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn g5_a_name_is_one_name() {
        for good in [&b"a"[..], b"...", b"-rf", b"a b", b"\xff\xfe", b"~", b"*", b"$(id)", &[b'x'; 255]] {
            assert_eq!(FileName::new(good).unwrap().as_bytes(), good);
        }
        for (bad, why) in [
            (&b""[..], InvalidName::Length),
            (&[b'x'; 256], InvalidName::Length),
            (b".", InvalidName::Path),
            (b"..", InvalidName::Path),
            (b"../x", InvalidName::Path),
            (b"/etc/x", InvalidName::Path),
            (b"a/b", InvalidName::Path),
            (b"/", InvalidName::Path),
            (b"a\0b", InvalidName::Control),
            (b"a\nb", InvalidName::Control),
            (b"\x1b[2J", InvalidName::Control),
            (b"x\x7f", InvalidName::Control),
            ("\u{9b}2J".as_bytes(), InvalidName::Control),
        ] {
            assert_eq!(FileName::new(bad), Err(why), "{bad:?}");
        }
    }
}
