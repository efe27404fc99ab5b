//! The `age` format, version 1, with X25519 recipients: <https://age-encryption.org/v1>.
//!
//! ```text
//! age-encryption.org/v1
//! -> X25519 <share>                                a stanza for each recipient
//! <the file key, encrypted for the recipient>
//! -> teleport.part/1 <set> <seal> <padding>        for us; other readers pass over it
//!
//! --- <checksum by the file key>
//! <nonce> <chunks of 64 KiB and 16 bytes each>
//! ```
//!
//! Our own stanza fills the header up to one length, so that the lengths of what is encrypted are known from the lengths of what is
//! stored, and a header can be replaced by one for other recipients in its place. What others have written is read as well.
//!
//! Why this is not the crate `age` stands in ARCHITECTURE.md. The primitives are those of `ring` and `x25519-dalek`; the tests
//! have the stock program judge every answer.

use data_encoding::{BASE64_NOPAD, Encoding};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::{hkdf, hmac};
use teleport_core::entropy::{Entropy, EntropyError, EntropyExt};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use super::keys::{AgeIdentity, AgeRecipient, set_id};

/// The most recipients: so many fit into a header.
pub const MAX_RECIPIENTS: usize = 8;
/// The length of every header of ours.
pub(super) const HEADER_LEN: usize = 1024;

const VERSION: &str = "age-encryption.org/v1\n";
const STANZA: &str = "-> ";
const X25519: &str = "X25519";
const SCRYPT: &str = "scrypt";
const X25519_INFO: &[u8] = b"age-encryption.org/v1/X25519";
const OWN: &str = "teleport.part/1";
const MAC: &str = "---";
const BASE64: Encoding = BASE64_NOPAD;
const FILE_KEY_LEN: usize = 16;
const NONCE_LEN: usize = 16;
const TAG_LEN: usize = 16;
const CHUNK_LEN: usize = 64 << 10;
/// The longest header that is read: more than a hundred recipients.
const MAX_HEADER_LEN: usize = 16 << 10;
/// The columns of a line of base64.
const COLUMNS: usize = 64;

/// Why an `age` file cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AgeError {
    /// It is none, or was changed.
    #[error("it is not an age file of version 1, or it was changed")]
    Damaged,
    /// It is for others.
    #[error("none of the identities is that of a recipient")]
    NoIdentity,
    /// There is no key for it, but a passphrase.
    #[error(
        "it is encrypted with a passphrase, and only recipients of age-keygen are supported: decrypt it with `age -d`"
    )]
    Passphrase,
}

type FileKey = Zeroizing<[u8; FILE_KEY_LEN]>;

/// What we say in a header beside what every `age` file says.
pub(super) struct Own<'a> {
    /// For which recipients, as [`set_id`] names them.
    pub(super) set: &'a str,
    /// What was sealed with it.
    pub(super) seal: Vec<u8>,
}

/// What a header says.
pub(super) struct Header<'a> {
    /// If it is ours.
    pub(super) own: Option<Own<'a>>,
    recipients: Vec<([u8; 32], [u8; FILE_KEY_LEN + TAG_LEN])>,
    /// What the checksum is of, and the checksum.
    signed: &'a [u8],
    checksum: [u8; 32],
    /// What is behind it.
    body: &'a [u8],
}

/// Encrypts `plain`. `seal` is readable by everybody.
pub(super) fn encrypt(
    plain: &[u8],
    seal: &[u8],
    recipients: &[AgeRecipient],
    entropy: &dyn Entropy,
) -> Result<Vec<u8>, EntropyError> {
    let file_key = FileKey::new(entropy.bytes()?);
    let mut out = header(&file_key, seal, recipients, entropy)?;
    let nonce: [u8; NONCE_LEN] = entropy.bytes()?;
    out.extend_from_slice(&nonce);
    let key = payload_key(&file_key, &nonce);
    let count = chunks(plain.len());
    out.reserve(plain.len() + count * TAG_LEN);
    for index in 0..count {
        let end = plain.len().min((index + 1) * CHUNK_LEN);
        let start = out.len();
        out.extend_from_slice(plain.get(index * CHUNK_LEN..end).unwrap_or_default());
        let sealed = out.get_mut(start..).unwrap_or_default();
        let tag = key
            .seal_in_place_separate_tag(chunk_nonce(index, index + 1 == count), Aad::empty(), sealed)
            // Only for plaintexts of 256 GiB and more.
            .map_err(|_| EntropyError::new())?;
        out.extend_from_slice(tag.as_ref());
    }
    Ok(out)
}

/// Decrypts a whole `age` file, ours or not: binary, of version 1, for a key of `age-keygen`.
///
/// The work and the memory that it takes grow with the file's length, and with the number of identities.
///
/// # Errors
/// [`AgeError`]. Nothing of a file that was changed anywhere is given.
pub fn decrypt(file: &[u8], identities: &[AgeIdentity]) -> Result<Vec<u8>, AgeError> {
    let header = parse(file)?;
    let file_key = header.open(identities)?;
    let (nonce, body) = header.body.split_first_chunk::<NONCE_LEN>().ok_or(AgeError::Damaged)?;
    let key = payload_key(&file_key, nonce);
    let mut plain = Vec::with_capacity(body.len());
    let mut sealed = body.chunks(CHUNK_LEN + TAG_LEN).enumerate().peekable();
    if sealed.peek().is_none() {
        return Err(AgeError::Damaged);
    }
    while let Some((index, chunk)) = sealed.next() {
        let is_last = sealed.peek().is_none();
        let mut chunk = chunk.to_vec();
        let opened = key.open_in_place(chunk_nonce(index, is_last), Aad::empty(), &mut chunk);
        let opened = opened.map_err(|_| AgeError::Damaged)?;
        // Only a file without content has a chunk without content.
        if opened.is_empty() && index > 0 {
            return Err(AgeError::Damaged);
        }
        plain.extend_from_slice(opened);
    }
    Ok(plain)
}

/// The same file for other recipients: another header, nothing else.
pub(super) fn rewrap(
    file: &[u8],
    identities: &[AgeIdentity],
    recipients: &[AgeRecipient],
    entropy: &dyn Entropy,
) -> Result<Result<Vec<u8>, EntropyError>, AgeError> {
    let parsed = parse(file)?;
    let own = parsed.own.as_ref().ok_or(AgeError::Damaged)?;
    let file_key = parsed.open(identities)?;
    Ok(header(&file_key, &own.seal, recipients, entropy).map(|head| [&head, parsed.body].concat()))
}

/// The length of what was encrypted into a file of `len` bytes.
pub(super) fn plain_len(len: u32) -> Option<u32> {
    let body = (len as usize).checked_sub(HEADER_LEN + NONCE_LEN)?;
    let plain = body.checked_sub(body.div_ceil(CHUNK_LEN + TAG_LEN) * TAG_LEN)?;
    (body >= TAG_LEN).then(|| u32::try_from(plain).ok())?
}

fn chunks(len: usize) -> usize {
    len.div_ceil(CHUNK_LEN).max(1)
}

fn chunk_nonce(index: usize, is_last: bool) -> Nonce {
    let mut nonce = [0; 12];
    if let Some(counter) = nonce.get_mut(3..11) {
        counter.copy_from_slice(&(index as u64).to_be_bytes());
    }
    if let Some(last) = nonce.last_mut() {
        *last = u8::from(is_last);
    }
    Nonce::assume_unique_for_key(nonce)
}

/// 32 bytes of HKDF with SHA-256.
fn derive(secret: &[u8], salt: &[u8], info: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0; 32]);
    let pseudorandom = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(secret);
    let info = [info];
    // Neither step fails for 32 bytes.
    if let Ok(output) = pseudorandom.expand(&info, hkdf::HKDF_SHA256) {
        let _ = output.fill(&mut *key);
    }
    key
}

#[expect(clippy::unwrap_used, reason = "32 bytes are a key of this algorithm")]
fn aead(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).unwrap())
}

fn payload_key(file_key: &FileKey, nonce: &[u8; NONCE_LEN]) -> LessSafeKey {
    aead(&derive(&**file_key, nonce, b"payload"))
}

fn header_key(file_key: &FileKey) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, &*derive(&**file_key, &[], b"header"))
}

/// The key between a pair of which one half was made for this file.
fn wrap_key(share: &[u8; 32], recipient: &AgeRecipient, shared: &[u8; 32]) -> LessSafeKey {
    aead(&derive(shared, &[*share, recipient.0].concat(), X25519_INFO))
}

fn header(
    file_key: &FileKey,
    seal: &[u8],
    recipients: &[AgeRecipient],
    entropy: &dyn Entropy,
) -> Result<Vec<u8>, EntropyError> {
    let mut text = VERSION.to_owned();
    for recipient in recipients {
        let ours = StaticSecret::from(entropy.bytes::<32>()?);
        let share = PublicKey::from(&ours).to_bytes();
        let shared = ours.diffie_hellman(&PublicKey::from(recipient.0));
        // In a copy that is overwritten whatever happens, and does not grow.
        let mut wrapped = file_key.clone();
        let tag = wrap_key(&share, recipient, shared.as_bytes())
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key([0; 12]), Aad::empty(), &mut *wrapped)
            .map_err(|_| EntropyError::new())?;
        let wrapped = BASE64.encode(&[&wrapped[..], tag.as_ref()].concat());
        text.push_str(&format!("{STANZA}{X25519} {}\n{wrapped}\n", BASE64.encode(&share)));
    }
    text.push_str(&format!("{STANZA}{OWN} {} {} ", set_id(recipients), BASE64.encode(seal)));
    // Behind the padding: two ends of lines, the word, a blank, 32 bytes and an end of line.
    let rest = 2 + MAC.len() + 1 + BASE64.encode_len(32) + 1;
    let padding = HEADER_LEN.saturating_sub(text.len() + rest);
    text.push_str(&"~".repeat(padding));
    text.push_str("\n\n");
    text.push_str(MAC);
    let checksum = hmac::sign(&header_key(file_key), text.as_bytes());
    text.push_str(&format!(" {}\n", BASE64.encode(checksum.as_ref())));
    Ok(text.into_bytes())
}

fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    BASE64.decode(text.as_bytes()).ok()?.try_into().ok()
}

/// The lines of a header.
struct Lines<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Lines<'a> {
    /// The next line, of visible characters and blanks, without its end.
    fn next(&mut self) -> Option<&'a str> {
        let rest = self.file.get(self.at..self.file.len().min(MAX_HEADER_LEN))?;
        let line = rest.get(..rest.iter().position(|byte| *byte == b'\n')?)?;
        self.at += line.len() + 1;
        let is_text = line.iter().all(|byte| matches!(byte, b' '..=b'~'));
        std::str::from_utf8(line).ok().filter(|_| is_text)
    }

    /// What stands below the line of a stanza.
    fn body(&mut self) -> Option<Vec<u8>> {
        let mut text = String::new();
        loop {
            let line = self.next()?;
            text.push_str(line);
            if line.len() != COLUMNS {
                return if line.len() < COLUMNS { BASE64.decode(text.as_bytes()).ok() } else { None };
            }
        }
    }
}

/// Reads the header of a file; the checksum is not looked at.
pub(super) fn parse(file: &[u8]) -> Result<Header<'_>, AgeError> {
    let mut has_passphrase = false;
    let read = |has_passphrase: &mut bool| {
        let mut lines = Lines { file, at: 0 };
        if lines.next()? != VERSION.trim_end() {
            return None;
        }
        let (mut recipients, mut own, mut count) = (Vec::new(), None, 0_usize);
        loop {
            let start = lines.at;
            let line = lines.next()?;
            let Some(stanza) = line.strip_prefix(STANZA) else {
                let checksum = bytes(line.strip_prefix(MAC)?.strip_prefix(' ')?)?;
                let (signed, body) = (file.get(..start + MAC.len())?, file.get(lines.at..)?);
                return (count > 0).then_some(Header { own, recipients, signed, checksum, body });
            };
            count += 1;
            let mut arguments = stanza.split(' ');
            let kind = arguments.next()?;
            let said: Vec<&str> = arguments.collect();
            if kind.is_empty() || said.iter().any(|argument| argument.is_empty()) {
                return None;
            }
            let body = lines.body()?;
            match (kind, &said[..]) {
                (X25519, [share]) => recipients.push((bytes(share)?, body.try_into().ok()?)),
                (X25519, _) => return None,
                (SCRYPT, _) => *has_passphrase = true,
                (OWN, [set, seal, ..]) if own.is_none() && body.is_empty() => {
                    own = Some(Own { set, seal: BASE64.decode(seal.as_bytes()).ok()? });
                }
                (OWN, _) => return None,
                // For readers of another kind.
                _ => {}
            }
        }
    };
    match read(&mut has_passphrase) {
        _ if has_passphrase => Err(AgeError::Passphrase),
        header => header.ok_or(AgeError::Damaged),
    }
}

impl Header<'_> {
    /// The file key, if one of the identities is that of a recipient.
    fn open(&self, identities: &[AgeIdentity]) -> Result<FileKey, AgeError> {
        for identity in identities {
            let recipient = identity.recipient();
            for (share, wrapped) in &self.recipients {
                let shared = identity.0.diffie_hellman(&PublicKey::from(*share));
                if !shared.was_contributory() {
                    return Err(AgeError::Damaged);
                }
                let mut wrapped = Zeroizing::new(*wrapped);
                let key = wrap_key(share, &recipient, shared.as_bytes());
                let nonce = Nonce::assume_unique_for_key([0; 12]);
                let Ok(opened) = key.open_in_place(nonce, Aad::empty(), &mut *wrapped) else { continue };
                let file_key = FileKey::new((&*opened).try_into().map_err(|_| AgeError::Damaged)?);
                return match hmac::verify(&header_key(&file_key), self.signed, &self.checksum) {
                    Ok(()) => Ok(file_key),
                    Err(_) => Err(AgeError::Damaged),
                };
            }
        }
        Err(AgeError::NoIdentity)
    }
}
