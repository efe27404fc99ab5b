//! The wire encoding of RFC 4251 section 5, as far as certificates need it.

/// Bytes being written.
pub(crate) struct Buffer(Vec<u8>);

impl Buffer {
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn u32(&mut self, number: u32) -> &mut Self {
        self.raw(&number.to_be_bytes())
    }

    pub(crate) fn u64(&mut self, number: u64) -> &mut Self {
        self.raw(&number.to_be_bytes())
    }

    pub(crate) fn string(&mut self, bytes: &[u8]) -> &mut Self {
        self.u32(length(bytes.len())).raw(bytes)
    }

    /// A string made of what `write` adds.
    pub(crate) fn nested(&mut self, write: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.u32(0);
        write(self);
        let content = self.0.len().saturating_sub(start + 4);
        if let Some(prefix) = self.0.get_mut(start..start + 4) {
            prefix.copy_from_slice(&length(content).to_be_bytes());
        }
    }

    /// An entry of options or extensions: its value, if there is one, is a string within a string.
    pub(crate) fn option(&mut self, name: &str, value: &str) {
        self.string(name.as_bytes());
        self.nested(|data| {
            if !value.is_empty() {
                data.string(value.as_bytes());
            }
        });
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.0
    }
}

/// A length that does not fit makes the certificate longer than any that is issued.
fn length(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// What follows the first string, which is the algorithm's name in the encoding of a key.
pub(crate) fn after_first_string(input: &[u8]) -> &[u8] {
    input
        .split_first_chunk::<4>()
        .and_then(|(len, rest)| rest.get(usize::try_from(u32::from_be_bytes(*len)).ok()?..))
        .unwrap_or_default()
}

/// The wire form of an Ed25519 public key.
pub(crate) fn ed25519_key(key: &[u8]) -> Vec<u8> {
    let mut out = Buffer::with_capacity(51);
    out.string(b"ssh-ed25519").string(key);
    out.0
}

/// The wire form of an ECDSA P-256 public key, given as its uncompressed point.
pub(crate) fn p256_key(point: &[u8]) -> Vec<u8> {
    let mut out = Buffer::with_capacity(104);
    out.string(b"ecdsa-sha2-nistp256").string(b"nistp256").string(point);
    out.0
}
