//! What stands between the files: one line each.

use crate::client::copy::{FileName, InvalidName};

/// The longest line, in bytes, without what ends it.
pub(super) const MAX_LINE: usize = 4096;

/// A line of whoever sends files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// A directory begins.
    Dir { mode: u32, name: FileName },
    /// The directory that began last ends.
    End,
    /// A file: so many bytes follow, once they are asked for.
    File { mode: u32, size: u64, name: FileName },
    /// Something could not be sent. Everything else will be.
    Warning,
    /// Nothing else will be sent.
    Fatal,
    /// The times of what follows: last change and last access, in seconds since 1970.
    Times { modified: u32, accessed: u32 },
}

/// No line of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("protocol error: a line that is none of the protocol")]
    Line,
    #[error("unexpected filename: {0}")]
    Name(#[from] InvalidName),
}

impl Record {
    /// Reads a line without its end.
    pub(super) fn parse(line: &[u8]) -> Result<Self, Malformed> {
        let (kind, rest) = line.split_first().ok_or(Malformed::Line)?;
        match kind {
            1 => Ok(Self::Warning),
            2 => Ok(Self::Fatal),
            b'E' if rest.is_empty() => Ok(Self::End),
            b'T' => {
                let fields: Vec<&[u8]> = rest.split(|byte| *byte == b' ').collect();
                let [modified, _, accessed, _] = fields.as_slice() else { return Err(Malformed::Line) };
                let time = |field| Some(u32::try_from(number(field)?).unwrap_or(u32::MAX));
                let times = fields.iter().all(|field| number(field).is_some());
                let (Some(modified), Some(accessed), true) = (time(modified), time(accessed), times) else {
                    return Err(Malformed::Line);
                };
                Ok(Self::Times { modified, accessed })
            }
            b'C' | b'D' => {
                let mut fields = rest.splitn(3, |byte| *byte == b' ');
                let mut next = || fields.next().ok_or(Malformed::Line);
                let (mode, size, name) = (next()?, next()?, next()?);
                let mode = octal(mode).ok_or(Malformed::Line)?;
                let size = number(size).ok_or(Malformed::Line)?;
                let name = FileName::new(name)?;
                Ok(if *kind == b'C' { Self::File { mode, size, name } } else { Self::Dir { mode, name } })
            }
            _ => Err(Malformed::Line),
        }
    }

    /// Writes a line with its end.
    pub(super) fn line(&self) -> Vec<u8> {
        let named = |head: String, name: &FileName| [head.as_bytes(), name.as_bytes(), b"\n"].concat();
        match self {
            Self::Dir { mode, name } => named(format!("D{mode:04o} 0 "), name),
            Self::End => b"E\n".to_vec(),
            Self::File { mode, size, name } => named(format!("C{mode:04o} {size} "), name),
            Self::Warning => b"\x01\n".to_vec(),
            Self::Fatal => b"\x02\n".to_vec(),
            Self::Times { modified, accessed } => format!("T{modified} 0 {accessed} 0\n").into_bytes(),
        }
    }
}

/// Digits only, and no more than a file can be long.
fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 19 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok().filter(|number| i64::try_from(*number).is_ok())
}

/// Four octal digits.
fn octal(text: &[u8]) -> Option<u32> {
    if text.len() != 4 || !text.iter().all(|digit| (b'0'..=b'7').contains(digit)) {
        return None;
    }
    u32::from_str_radix(std::str::from_utf8(text).ok()?, 8).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn lines_are_read_as_they_are_written() {
        let name = FileName::new(b"a b").unwrap();
        for (line, record) in [
            ("C0644 12 a b\n", Record::File { mode: 0o644, size: 12, name: name.clone() }),
            (
                "C4755 9223372036854775807 a b\n",
                Record::File { mode: 0o4755, size: i64::MAX as u64, name: name.clone() },
            ),
            ("D0700 0 a b\n", Record::Dir { mode: 0o700, name }),
            ("E\n", Record::End),
            ("T1000000000 0 7 0\n", Record::Times { modified: 1_000_000_000, accessed: 7 }),
        ] {
            assert_eq!(Record::parse(line.trim_end().as_bytes()), Ok(record.clone()));
            assert_eq!(record.line(), line.as_bytes());
        }
        assert_eq!(Record::parse(b"\x01scp: x"), Ok(Record::Warning));
        assert_eq!(Record::parse(b"\x02scp: x"), Ok(Record::Fatal));
    }

    #[test]
    fn g5_lines_that_lie_are_refused() {
        for line in [
            "",
            "X",
            "Ex",
            "C",
            "C0644",
            "C0644 1",
            "C0644  1 x",
            "C644 1 x",
            "C00644 1 x",
            "C0944 1 x",
            "C0644 -1 x",
            "C0644 +1 x",
            "C0644 1x x",
            "C0644 9223372036854775808 x",
            "C0644 99999999999999999999 x",
            "D0755 x",
            "T1 0 1",
            "T1 0 1 0 0",
            "Ta 0 1 0",
            "T-1 0 1 0",
            "c0644 1 x",
            "C0644 \u{661} x",
        ] {
            assert_eq!(Record::parse(line.as_bytes()), Err(Malformed::Line), "{line:?}");
        }
        for name in ["", ".", "..", "../x", "/etc/x", "a/b", "\x1b[2J", "a\tb"] {
            let line = format!("C0644 1 {name}");
            assert!(matches!(Record::parse(line.as_bytes()), Err(Malformed::Name(_))), "{name:?}");
        }
    }
}
