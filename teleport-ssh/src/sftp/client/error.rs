//! Why a request to a server of files failed.

use std::fmt;

use crate::sftp::wire::Code;

/// The longest text of a server that is kept, in characters.
const MAX_TEXT: usize = 256;

/// Why a request failed. The texts are for the user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SftpError {
    /// The connection has ended.
    #[error("the connection ended")]
    Closed,
    /// The server does not keep to the protocol. It is not listened to any longer.
    #[error("the server breaks the protocol: {0}")]
    Protocol(&'static str),
    /// The server refused.
    #[error("{0}")]
    Refused(Refusal),
    /// The server cannot do what is asked for.
    #[error("the server does not offer {0}")]
    Unsupported(&'static str),
}

/// A refusal in the server's words, as far as these are more than the code says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    code: u32,
    /// Without what a terminal would obey.
    text: String,
}

impl Refusal {
    pub(super) fn new(code: u32, text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text);
        let clean = |c: char| if c.is_control() { ' ' } else { c };
        let text: String = text.chars().take(MAX_TEXT).map(clean).collect();
        Self { code, text: text.trim().to_owned() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.text.as_str()) {
            (code, _) if code == Code::NoSuchFile as u32 => f.write_str("no such file or directory"),
            (code, _) if code == Code::PermissionDenied as u32 => f.write_str("permission denied"),
            // OpenSSH's server has no more to say of any other failure.
            (_, "" | "Failure") => f.write_str("the server could not do it"),
            (_, text) => f.write_str(text),
        }
    }
}

impl SftpError {
    pub(super) fn is(&self, code: Code) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.code == code as u32)
    }

    /// Whether there is nothing of that name.
    pub(crate) fn is_missing(&self) -> bool {
        self.is(Code::NoSuchFile)
    }

    /// Whether nothing else will succeed on this connection.
    pub(crate) const fn is_final(&self) -> bool {
        matches!(self, Self::Closed | Self::Protocol(_))
    }
}
