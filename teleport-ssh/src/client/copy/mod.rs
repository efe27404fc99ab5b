//! Files between this machine and nodes, and from node to node through this machine: what `tsh scp` does.
//!
//! ```text
//! Place::parse("root@web:/srv/*.log")   what the user writes
//! Side::local(), Side::remote(sftp)     where files are
//! copy(sources, target, options, observer)
//! ```
//!
//! Nothing is believed that a server says: names that it lists are single names ([`FileName`]), what a pattern matches is decided here,
//! no link is made here, no file gets set-id bits, and what does not end is cut off.

mod error;
mod file;
mod glob;
mod name;
mod opened;
mod place;
mod side;
mod tree;

pub use self::error::{CopyError, CopyFailure};
pub use self::name::{FileName, InvalidName};
pub(crate) use self::opened::Inflow;
pub use self::place::{InvalidPlace, Place};
pub use self::side::Side;
pub use self::tree::{Source, copy};
pub(crate) use self::tree::{checked_kind, expand, join, prepared};

use crate::sftp::wire::Attributes;

/// How files are copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "callers build it")]
pub struct CopyOptions {
    /// Directories too, with all that is in them.
    pub recursive: bool,
    /// Permissions and times as they are at the source. Set-id bits never.
    pub preserve: bool,
    /// Where a file is there already that may be the beginning of the one that is copied: continue behind it.
    pub resume: bool,
}

/// Hears how far it is. Calls come from the task that copies: they must be quick.
pub trait CopyObserver: Send + Sync {
    /// A file is begun: how it is called, how long it is if that is known, and how much of it is there already.
    fn begins(&self, name: &str, size: Option<u64>, there: u64) {
        let (_, _, _) = (name, size, there);
    }

    /// So many bytes more have been handed over.
    fn moved(&self, bytes: u64) {
        let _ = bytes;
    }

    /// A file is there.
    fn ends(&self) {}

    /// Something could not be copied. Everything else goes on.
    fn failed(&self, failure: &CopyFailure);
}

/// Permissions of a file, without set-id and sticky bits.
fn permissions(attributes: &Attributes) -> Option<u32> {
    attributes.mode.map(|mode| mode & 0o777)
}

/// Whether it is a directory, as far as the attributes tell.
pub(crate) fn is_dir(attributes: &Attributes) -> bool {
    kind(attributes) == Some(libc::S_IFDIR)
}

/// The kind of file.
fn kind(attributes: &Attributes) -> Option<u32> {
    attributes.mode.map(|mode| mode & libc::S_IFMT)
}

#[cfg(test)]
mod tests;
