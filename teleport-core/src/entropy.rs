//! Randomness as a port.

use std::fmt;

/// No secure randomness could be had; nothing secret may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system gave no secure randomness")]
#[non_exhaustive]
pub struct EntropyError;

impl EntropyError {
    /// For implementors of [`Entropy`].
    pub const fn new() -> Self {
        Self
    }
}

impl Default for EntropyError {
    fn default() -> Self {
        Self::new()
    }
}

/// A cryptographically secure source of random bytes.
///
/// Contract: on `Ok` every byte of `out` is unpredictable; on `Err` the content of `out` must not be used.
/// Implementations fail closed and never fall back to a weaker source.
pub trait Entropy: fmt::Debug + Send + Sync + 'static {
    /// Fills `out` completely.
    ///
    /// # Errors
    /// [`EntropyError`] when the source is not available.
    fn fill(&self, out: &mut [u8]) -> Result<(), EntropyError>;
}

/// Convenience over any [`Entropy`].
pub trait EntropyExt: Entropy {
    /// `N` random bytes.
    ///
    /// # Errors
    /// [`EntropyError`] when the source is not available.
    fn bytes<const N: usize>(&self) -> Result<[u8; N], EntropyError> {
        let mut out = [0; N];
        self.fill(&mut out)?;
        Ok(out)
    }

    /// A random (version 4) UUID.
    ///
    /// # Errors
    /// [`EntropyError`] when the source is not available.
    fn uuid(&self) -> Result<uuid::Uuid, EntropyError> {
        Ok(uuid::Builder::from_random_bytes(self.bytes()?).into_uuid())
    }
}

impl<T: Entropy + ?Sized> EntropyExt for T {}

/// The operating system's generator, through ring.
#[cfg(feature = "os")]
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SystemEntropy(ring::rand::SystemRandom);

#[cfg(feature = "os")]
impl SystemEntropy {
    /// The generator of this machine.
    pub fn new() -> Self {
        Self(ring::rand::SystemRandom::new())
    }
}

#[cfg(feature = "os")]
impl Default for SystemEntropy {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(feature = "os")]
impl Entropy for SystemEntropy {
    fn fill(&self, out: &mut [u8]) -> Result<(), EntropyError> {
        ring::rand::SecureRandom::fill(&self.0, out).map_err(|_| EntropyError)
    }
}
