//! The user's display as a session has it: a number, and the cookie by which its programs are known.

use teleport_core::secret::SecretString;

/// The longest name of a way to authenticate, in bytes.
const MAX_PROTOCOL: usize = 64;
/// The longest cookie, in hexadecimal digits. Those that are in use have 32.
const MAX_COOKIE: usize = 512;

/// What a client says of its display is not what `xauth` may be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidX11 {
    /// Of the cookie.
    #[error("the cookie of the display is not 1 to 256 bytes in hexadecimal")]
    Cookie,
    /// Of the way to authenticate.
    #[error("the display's way to authenticate is not 1 to 64 letters, digits and dashes")]
    Protocol,
}

/// How programs prove to a display that they may use it.
#[derive(Clone, Debug)]
pub struct X11Auth {
    protocol: String,
    cookie: SecretString,
    screen: u32,
}

impl X11Auth {
    /// Reads what a client sends: the name of a way to authenticate, a cookie in hexadecimal, and the number of a screen.
    ///
    /// # Errors
    /// [`InvalidX11`].
    pub fn new(protocol: &str, cookie: &str, screen: u32) -> Result<Self, InvalidX11> {
        // Both become words of a line that `xauth` reads as a command.
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if protocol.is_empty() || protocol.len() > MAX_PROTOCOL || !protocol.bytes().all(word) {
            return Err(InvalidX11::Protocol);
        }
        let digits = cookie.bytes().all(|byte| byte.is_ascii_hexdigit());
        if cookie.is_empty() || cookie.len() > MAX_COOKIE || !cookie.len().is_multiple_of(2) || !digits {
            return Err(InvalidX11::Cookie);
        }
        Ok(Self { protocol: protocol.to_owned(), cookie: SecretString::new(cookie), screen })
    }

    /// The way to authenticate: letters, digits and dashes.
    pub fn protocol(&self) -> &str {
        &self.protocol
    }

    /// The cookie in hexadecimal.
    pub fn cookie(&self) -> &SecretString {
        &self.cookie
    }
}

/// A display that a session has.
#[derive(Clone, Debug)]
pub struct X11Display {
    number: u16,
    auth: X11Auth,
}

impl X11Display {
    /// The display with this number on the loopback addresses of the node.
    pub const fn new(number: u16, auth: X11Auth) -> Self {
        Self { number, auth }
    }

    /// How programs prove that they may use it.
    pub const fn auth(&self) -> &X11Auth {
        &self.auth
    }

    /// What `DISPLAY` says: `localhost:10.0`.
    pub fn name(&self) -> String {
        format!("localhost:{}.{}", self.number, self.auth.screen)
    }

    /// What `xauth` calls it: programs look up the cookie of a loopback address as that of a socket of this machine.
    pub fn local_name(&self) -> String {
        format!("unix:{}.{}", self.number, self.auth.screen)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn what_becomes_a_command_of_xauth_is_words() {
        let cookie = "00ff10AB";
        let good = X11Auth::new("MIT-MAGIC-COOKIE-1", cookie, 3).unwrap();
        let display = X11Display::new(10, good);
        assert_eq!((display.name().as_str(), display.local_name().as_str()), ("localhost:10.3", "unix:10.3"));
        assert!(!format!("{display:?}").contains(cookie));
        for protocol in ["", "MIT MAGIC", "X\nadd :0 . 00", "a;b", "ü", "x\0", &"x".repeat(65)] {
            assert_eq!(X11Auth::new(protocol, cookie, 0).err(), Some(InvalidX11::Protocol), "{protocol:?}");
        }
        for cookie in ["", "0", "0g", "00 ff", "00\n", "0x00", &"0".repeat(514)] {
            assert_eq!(X11Auth::new("MIT-MAGIC-COOKIE-1", cookie, 0).err(), Some(InvalidX11::Cookie));
        }
        assert!(X11Auth::new("X", &"0".repeat(512), u32::MAX).is_ok());
    }
}
