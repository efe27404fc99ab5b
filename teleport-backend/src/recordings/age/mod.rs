//! Recordings encrypted at rest, in the `age` format, in any other store.
//!
//! Each part is an `age` file of its own: encrypted as it arrives, read without the parts before it, and readable by the stock
//! `age` with one of the identities. A part carries a digest of its content, sealed by the cluster's own key: with it the same part
//! that comes again is recognised without any identity, and what somebody else has put into the store, or into another place
//! of it, is not shown as a recording.
//!
//! Whether a recording is encrypted at all is sealed in the same way, with its description ([`Form`]), and also of those that are
//! not: otherwise whoever writes to the store would say of any recording that it is stored in clear, and put there what they like.
//! While there are recipients, a recording without that seal is no recording: it is neither listed nor read, and nothing is added
//! to it. Without recipients only what is said to be encrypted needs it.
//!
//! What is not encrypted: the description of the session (user, login, node, command, times, sizes).

mod format;
mod keys;

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use data_encoding::BASE64_NOPAD;
use teleport_core::audit::chain::Digest;
use teleport_core::entropy::Entropy;
use teleport_core::id::{SessionId, UserName};
use teleport_core::recording::{
    Completion, Encoding, Form, Listing, MAX_PART_LEN, MAX_STORED_PART_LEN, PartDigests, RecordingError,
    RecordingInfo, RecordingMeta, RecordingStore, Rewrite,
};
use teleport_core::secret::Sealer;

pub use self::format::{AgeError, MAX_RECIPIENTS, decrypt};
use self::format::{HEADER_LEN, Own};
pub use self::keys::{AgeIdentity, AgeKeyError, AgeRecipient};

/// Of how many sessions is remembered how they are stored.
const REMEMBERED: usize = 1024;

/// Who may read recordings, and what reads them here.
#[derive(Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "programs build it from their configuration")]
pub struct AgeKeys {
    /// For whom new recordings are encrypted, at most [`MAX_RECIPIENTS`]; without any they are stored in clear.
    pub recipients: Vec<AgeRecipient>,
    /// What decrypts. Without any, encrypted recordings can be kept and not be read.
    pub identities: Vec<AgeIdentity>,
}

/// A [`RecordingStore`] that encrypts what another one keeps.
#[derive(Clone, Debug)]
pub struct EncryptedRecordingStore(Arc<Inner>);

struct Inner {
    store: Arc<dyn RecordingStore>,
    keys: AgeKeys,
    sealer: Arc<dyn Sealer>,
    entropy: Arc<dyn Entropy>,
    encodings: Mutex<VecDeque<(SessionId, Encoding)>>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encrypted")
            .field("store", &self.store)
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}

/// What is stored is not what was put there.
#[derive(Debug, thiserror::Error)]
enum Forged {
    #[error("the description of the recording was changed or put into this place by somebody else")]
    Description,
    #[error("part {0} of the recording was changed or put into this place by somebody else")]
    Part(u32),
}

fn refused(unreadable: AgeError, number: u32) -> RecordingError {
    match unreadable {
        AgeError::NoIdentity => RecordingError::Encrypted,
        // We write nothing for passphrases.
        AgeError::Damaged | AgeError::Passphrase => RecordingError::unavailable(Forged::Part(number)),
    }
}

/// Reads the header of a part as we have written it.
fn own(file: &[u8], number: u32) -> Result<Own<'_>, RecordingError> {
    let header = format::parse(file).map_err(|why| refused(why, number))?;
    header.own.ok_or_else(|| refused(AgeError::Damaged, number))
}

/// Where a part belongs, for the seal of its digest.
fn context(session: SessionId, number: u32) -> String {
    format!("recording-part/{session}/{number}")
}

/// Where a description belongs, for the seal of its form.
fn form_context(session: SessionId) -> String {
    format!("recording-form/{session}")
}

/// Where the end of a recording belongs, for its seal.
fn completion_context(session: SessionId) -> String {
    format!("recording-completion/{session}")
}

/// What is sealed of the end: who took part may see the recording.
fn completion_statement(abandoned: bool, participants: &[UserName]) -> Result<Digest, RecordingError> {
    let text = serde_json::to_vec(&(abandoned, participants)).map_err(RecordingError::unavailable)?;
    Ok(Digest::of(&[&text]))
}

/// What is sealed of a recording as a whole.
fn statement(meta: &RecordingMeta, encoding: Encoding) -> Result<Digest, RecordingError> {
    let text = serde_json::to_vec(&(encoding, meta)).map_err(RecordingError::unavailable)?;
    Ok(Digest::of(&[&text]))
}

impl Inner {
    /// The form of a new recording.
    fn form(&self, meta: &RecordingMeta, encoding: Encoding) -> Result<Form, RecordingError> {
        Ok(Form { encoding, seal: Some(self.say(&form_context(meta.session), statement(meta, encoding)?)?) })
    }

    /// Seals a statement, as text.
    fn say(&self, context: &str, statement: Digest) -> Result<String, RecordingError> {
        let seal = self.sealer.seal(context, statement.as_bytes()).map_err(RecordingError::unavailable)?;
        Ok(BASE64_NOPAD.encode(&seal))
    }

    /// Whether a text seals that statement.
    fn is_said(&self, context: &str, seal: Option<&String>, statement: Digest) -> bool {
        seal.and_then(|seal| BASE64_NOPAD.decode(seal.as_bytes()).ok())
            .and_then(|seal| self.sealer.open(context, &seal).ok())
            .is_some_and(|sealed| sealed.expose() == statement.as_bytes())
    }

    /// Whether this cluster has said that a recording with this description is stored in this form.
    fn has_said(&self, info: &RecordingInfo) -> Result<bool, RecordingError> {
        let statement = statement(&info.meta, info.encoding)?;
        Ok(self.is_said(&form_context(info.meta.session), info.seal.as_ref(), statement))
    }

    /// Refuses what others have written to the store or changed there.
    fn checked(&self, mut info: RecordingInfo) -> Result<RecordingInfo, RecordingError> {
        if self.keys.recipients.is_empty() && info.encoding == Encoding::Plain {
            return Ok(info);
        }
        if !self.has_said(&info)? {
            return Err(RecordingError::unavailable(Forged::Description));
        }
        let statement = completion_statement(info.abandoned, &info.participants)?;
        let context = completion_context(info.meta.session);
        if info.completed.is_some() && !self.is_said(&context, info.completion_seal.as_ref(), statement) {
            // It is played all the same, for those whose right to it is elsewhere.
            tracing::warn!(session = %info.meta.session, "who is said to have taken part in a recorded session is not believed");
            info.participants.clear();
        }
        Ok(info)
    }

    fn encrypt(&self, session: SessionId, number: u32, plain: &[u8]) -> Result<Bytes, RecordingError> {
        if self.keys.recipients.is_empty() {
            return Err(RecordingError::Encrypted);
        }
        let seal = self.sealer.seal(&context(session, number), Digest::of(&[plain]).as_bytes());
        let seal = seal.map_err(RecordingError::unavailable)?;
        let file = format::encrypt(plain, &seal, &self.keys.recipients, &*self.entropy);
        file.map(Bytes::from).map_err(RecordingError::unavailable)
    }

    /// The digest of a part's content that was sealed with it; the identities are not needed.
    fn sealed(&self, session: SessionId, number: u32, file: &[u8]) -> Result<Digest, RecordingError> {
        let seal = own(file, number)?.seal;
        let hash = self.sealer.open(&context(session, number), &seal);
        let hash = hash.map_err(|_| refused(AgeError::Damaged, number))?;
        Digest::from_bytes(hash.expose()).ok_or_else(|| refused(AgeError::Damaged, number))
    }

    /// Whether a stored part has this content; the identities are not needed.
    fn is_of(&self, session: SessionId, number: u32, file: &[u8], plain: &[u8]) -> bool {
        self.sealed(session, number, file).is_ok_and(|sealed| sealed == Digest::of(&[plain]))
    }

    fn decrypt(&self, session: SessionId, number: u32, file: &[u8]) -> Result<Vec<u8>, RecordingError> {
        let plain = decrypt(file, &self.keys.identities).map_err(|why| refused(why, number))?;
        if !self.is_of(session, number, file, &plain) {
            return Err(refused(AgeError::Damaged, number));
        }
        Ok(plain)
    }

    /// The digest of a part's content, and whether the content was there to be compared with it.
    fn digest(&self, session: SessionId, number: u32, file: &[u8]) -> Result<(Digest, bool), RecordingError> {
        match self.decrypt(session, number, file) {
            Ok(plain) => Ok((Digest::of(&[&plain]), true)),
            Err(RecordingError::Encrypted) => Ok((self.sealed(session, number, file)?, false)),
            Err(error) => Err(error),
        }
    }

    fn rewrap(&self, number: u32, file: &Bytes) -> Result<Bytes, RecordingError> {
        if own(file, number)?.set == keys::set_id(&self.keys.recipients) {
            return Ok(file.clone());
        }
        let AgeKeys { recipients, identities } = &self.keys;
        let file = format::rewrap(file, identities, recipients, &*self.entropy);
        file.map_err(|why| refused(why, number))?.map(Bytes::from).map_err(RecordingError::unavailable)
    }
}

impl EncryptedRecordingStore {
    /// A store over `store`. `sealer` is the cluster's, and has to stay it: what another one has sealed is not accepted.
    ///
    /// # Errors
    /// [`TooManyRecipients`].
    pub fn new(
        store: Arc<dyn RecordingStore>,
        keys: AgeKeys,
        sealer: Arc<dyn Sealer>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, TooManyRecipients> {
        if keys.recipients.len() > MAX_RECIPIENTS {
            return Err(TooManyRecipients);
        }
        let encodings = Mutex::default();
        Ok(Self(Arc::new(Inner { store, keys, sealer, entropy, encodings })))
    }

    /// How a recording is stored, by the word of this cluster; it never changes while the recording exists.
    async fn encoding(&self, session: SessionId) -> Result<Encoding, RecordingError> {
        let lock = || self.0.encodings.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock().iter().find(|(of, _)| *of == session).map(|(_, encoding)| *encoding);
        if let Some(known) = known {
            return Ok(known);
        }
        let encoding = self.0.checked(self.0.store.info(session).await?)?.encoding;
        let mut encodings = lock();
        encodings.truncate(REMEMBERED - 1);
        encodings.push_front((session, encoding));
        Ok(encoding)
    }

    fn forget(&self, session: SessionId) {
        let mut encodings = self.0.encodings.lock().unwrap_or_else(PoisonError::into_inner);
        encodings.retain(|(of, _)| *of != session);
    }

    async fn is_plain(&self, session: SessionId) -> Result<bool, RecordingError> {
        Ok(self.encoding(session).await? != Encoding::Age)
    }

    /// So many stored bytes, or all that there are.
    async fn exactly(&self, session: SessionId, offset: u64, len: usize) -> Result<Vec<u8>, RecordingError> {
        let mut bytes = Vec::with_capacity(len.min(MAX_STORED_PART_LEN));
        while bytes.len() < len {
            let at = offset + bytes.len() as u64;
            let piece = self.0.store.read(session, at, len - bytes.len()).await?;
            if piece.is_empty() {
                break;
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }

    /// The lengths of the parts before they were encrypted.
    async fn plain_lengths(&self, session: SessionId) -> Result<Vec<u32>, RecordingError> {
        let lengths = self.0.store.lengths(session).await?;
        let plain = (0..)
            .zip(lengths)
            .map(|(number, len)| format::plain_len(len).ok_or_else(|| refused(AgeError::Damaged, number)));
        plain.collect()
    }
}

/// More recipients than [`MAX_RECIPIENTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("recordings can be encrypted for at most {MAX_RECIPIENTS} recipients")]
#[non_exhaustive]
pub struct TooManyRecipients;

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl RecordingStore for EncryptedRecordingStore {
    async fn create(&self, meta: &RecordingMeta, form: &Form) -> Result<(), RecordingError> {
        let encoding = if self.0.keys.recipients.is_empty() { form.encoding } else { Encoding::Age };
        self.forget(meta.session);
        self.0.store.create(meta, &self.0.form(meta, encoding)?).await
    }

    async fn put_part(&self, session: SessionId, number: u32, part: Bytes) -> Result<(), RecordingError> {
        if self.is_plain(session).await? {
            return self.0.store.put_part(session, number, part).await;
        }
        if part.len() > MAX_PART_LEN {
            return Err(RecordingError::Conflict { reason: "the part is too long" });
        }
        // Encrypting is work for a processor, of a few milliseconds.
        let (inner, plain) = (Arc::clone(&self.0), part.clone());
        let file = blocking(move || inner.encrypt(session, number, &plain)).await?;
        match self.0.store.put_part(session, number, file).await {
            // Each encryption is different, so this may be the same part that comes again.
            Err(error @ RecordingError::Conflict { .. }) => match self.0.store.part(session, number).await? {
                Some(stored) if self.0.is_of(session, number, &stored, &part) => Ok(()),
                _ => Err(error),
            },
            stored => stored,
        }
    }

    async fn part(&self, session: SessionId, number: u32) -> Result<Option<Bytes>, RecordingError> {
        let stored = self.0.store.part(session, number).await?;
        if self.is_plain(session).await? {
            return Ok(stored);
        }
        let Some(file) = stored else { return Ok(None) };
        let inner = Arc::clone(&self.0);
        let plain = blocking(move || inner.decrypt(session, number, &file)).await?;
        Ok(Some(plain.into()))
    }

    async fn parts(&self, session: SessionId) -> Result<u32, RecordingError> {
        self.0.store.parts(session).await
    }

    async fn lengths(&self, session: SessionId) -> Result<Vec<u32>, RecordingError> {
        if self.is_plain(session).await? {
            return self.0.store.lengths(session).await;
        }
        self.plain_lengths(session).await
    }

    async fn complete(&self, session: SessionId, completion: &Completion) -> Result<(), RecordingError> {
        // Nothing is bound into the audit log that could not be read.
        self.encoding(session).await?;
        let statement = completion_statement(completion.abandoned, &completion.participants)?;
        let seal = self.0.say(&completion_context(session), statement)?;
        self.0.store.complete(session, &Completion { seal: Some(seal), ..completion.clone() }).await
    }

    async fn info(&self, session: SessionId) -> Result<RecordingInfo, RecordingError> {
        self.0.checked(self.0.store.info(session).await?)
    }

    async fn read(&self, session: SessionId, offset: u64, len: usize) -> Result<Bytes, RecordingError> {
        if self.is_plain(session).await? {
            return self.0.store.read(session, offset, len).await;
        }
        let mut start = 0_u64;
        for (number, part) in (0..).zip(self.plain_lengths(session).await?) {
            let end = start + u64::from(part);
            if offset < end {
                let Some(plain) = self.part(session, number).await? else { break };
                let skip = usize::try_from(offset - start).unwrap_or(usize::MAX).min(plain.len());
                return Ok(plain.slice(skip..skip.saturating_add(len).min(plain.len())));
            }
            start = end;
        }
        Ok(Bytes::new())
    }

    async fn list(&self, listing: &Listing) -> Result<Vec<RecordingInfo>, RecordingError> {
        let (mut rest, mut found) = (listing.clone(), Vec::new());
        loop {
            let page = self.0.store.list(&rest).await?;
            let last = page.last().filter(|_| page.len() >= rest.limit).map(RecordingInfo::place);
            for info in page {
                let session = info.meta.session;
                match self.0.checked(info) {
                    Ok(info) => found.push(info),
                    // What others put there must not hide what is ours.
                    Err(error) => {
                        let error: &dyn std::error::Error = &error;
                        tracing::warn!(%session, error, "a recording is left out of the list");
                    }
                }
            }
            rest.limit = listing.limit.saturating_sub(found.len());
            match last {
                Some(place) if rest.limit > 0 => rest.after = Some(place),
                _ => return Ok(found),
            }
        }
    }

    async fn delete(&self, session: SessionId) -> Result<(), RecordingError> {
        self.forget(session);
        self.0.store.delete(session).await
    }

    async fn part_digests(&self, session: SessionId) -> Result<Option<PartDigests>, RecordingError> {
        if self.is_plain(session).await? {
            return self.0.store.part_digests(session).await;
        }
        // Without identities the headers say all that can be known.
        let reads = !self.0.keys.identities.is_empty();
        let (mut parts, mut decrypted, mut offset) = (Vec::new(), true, 0);
        for (number, len) in (0..).zip(self.0.store.lengths(session).await?) {
            let wanted = if reads { len as usize } else { HEADER_LEN };
            let file = self.exactly(session, offset, wanted).await?;
            let inner = Arc::clone(&self.0);
            let (digest, was_read) = blocking(move || inner.digest(session, number, &file)).await?;
            parts.push(digest);
            decrypted &= was_read;
            offset += u64::from(len);
        }
        Ok(Some(PartDigests { parts, decrypted }))
    }

    async fn rewrite(&self, session: SessionId, change: Rewrite) -> Result<(), RecordingError> {
        if self.is_plain(session).await? {
            return self.0.store.rewrite(session, change).await;
        }
        let inner = Arc::clone(&self.0);
        let change: Rewrite = Arc::new(move |number, file| {
            let plain = Bytes::from(inner.decrypt(session, number, &file)?);
            let new = change(number, plain.clone())?;
            if new == plain { Ok(file) } else { inner.encrypt(session, number, &new) }
        });
        self.0.store.rewrite(session, change).await
    }

    async fn rewrap(&self, session: SessionId) -> Result<bool, RecordingError> {
        if self.is_plain(session).await? {
            return self.0.store.rewrap(session).await;
        }
        if self.0.keys.recipients.is_empty() {
            return Err(RecordingError::Encrypted);
        }
        let current = keys::set_id(&self.0.keys.recipients);
        let (mut offset, mut is_current) = (0, true);
        for (number, len) in (0..).zip(self.0.store.lengths(session).await?) {
            let head = self.exactly(session, offset, HEADER_LEN).await?;
            is_current &= own(&head, number)?.set == current;
            offset += u64::from(len);
        }
        if is_current {
            return Ok(false);
        }
        let inner = Arc::clone(&self.0);
        let change: Rewrite = Arc::new(move |number, file| inner.rewrap(number, &file));
        self.0.store.rewrite(session, change).await?;
        Ok(true)
    }
}

/// Runs what takes a processor's time on the blocking pool.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RecordingError> + Send + 'static,
) -> Result<T, RecordingError> {
    tokio::task::spawn_blocking(work).await.map_err(RecordingError::unavailable)?
}
