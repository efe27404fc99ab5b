//! The messages of the agent's protocol that matter here.

/// The longest message, either way. OpenSSH has the same bound.
pub const MAX_FRAME: usize = 256 * 1024;

pub(super) const FAILURE: u8 = 5;
pub(super) const SUCCESS: u8 = 6;
const REQUEST_IDENTITIES: u8 = 11;
pub(super) const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
pub(super) const SIGN_RESPONSE: u8 = 14;
pub(super) const REMOVE_IDENTITY: u8 = 18;
pub(super) const ADD_IDENTITY_CONSTRAINED: u8 = 25;
pub(super) const CONSTRAIN_LIFETIME: u8 = 1;

/// A message of RFC 4252, in which a client asks to be let in.
const USERAUTH_REQUEST: u8 = 50;

/// What a client of an agent wants that only lists and signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "whoever answers must think of each")]
pub enum Request<'a> {
    /// To know whose identities there are.
    List,
    /// To have a login signed.
    Sign {
        /// The key or certificate.
        key: &'a [u8],
        /// What is to be signed: a request to let in whoever has the key, and nothing else.
        login: &'a [u8],
    },
    /// Something that is refused: to add, remove, lock, extend, or to sign what is no login.
    Unwanted,
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn string(&mut self) -> Option<&'a [u8]> {
        let len = u32::from_be_bytes(self.take(4)?.try_into().ok()?);
        self.take(usize::try_from(len).ok()?)
    }
}

/// Reads a message, without its length. `None` for one that nobody sends who speaks the protocol.
pub fn read_request(message: &[u8]) -> Option<Request<'_>> {
    let mut reader = Reader(message);
    match reader.byte()? {
        REQUEST_IDENTITIES => reader.0.is_empty().then_some(Request::List),
        SIGN_REQUEST => {
            let (key, login) = (reader.string()?, reader.string()?);
            // Flags choose among the digests of RSA.
            reader.take(4)?;
            reader.0.is_empty().then_some(())?;
            Some(if is_login(login, key) == Some(true) {
                Request::Sign { key, login }
            } else {
                Request::Unwanted
            })
        }
        _ => Some(Request::Unwanted),
    }
}

/// Whether this is what a client signs to be let in with `key`: RFC 4252 section 7, and OpenSSH's form that names the host's key.
/// Whatever else the key might be used for, its signature means nothing else.
fn is_login(signed: &[u8], key: &[u8]) -> Option<bool> {
    let mut reader = Reader(signed);
    let session = reader.string()?;
    let kind = reader.byte()?;
    let _login = reader.string()?;
    let (service, method) = (reader.string()?, reader.string()?);
    let (has_signature, _algorithm, blob) = (reader.byte()?, reader.string()?, reader.string()?);
    let known = match method {
        b"publickey" => true,
        b"publickey-hostbound-v00@openssh.com" => reader.string().is_some(),
        _ => false,
    };
    Some(
        (20..=64).contains(&session.len())
            && kind == USERAUTH_REQUEST
            && service == b"ssh-connection"
            && has_signature == 1
            && blob == key
            && known
            && reader.0.is_empty(),
    )
}

/// Adds bytes with their length; `None` if they are too long for the protocol.
pub(super) fn string(message: &mut Vec<u8>, bytes: &[u8]) -> Option<()> {
    message.extend_from_slice(&u32::try_from(bytes.len()).ok()?.to_be_bytes());
    message.extend_from_slice(bytes);
    Some(())
}
