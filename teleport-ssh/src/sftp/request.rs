//! What a client asks for.

use bytes::Buf;

use super::wire::{Attributes, Malformed, OpenFlags, handle, kind, string};

/// A request, with the bytes of the packet that it came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request<'a> {
    Open {
        path: &'a [u8],
        flags: OpenFlags,
        attributes: Attributes,
    },
    Close {
        handle: &'a [u8],
    },
    Read {
        handle: &'a [u8],
        offset: u64,
        length: u32,
    },
    Write {
        handle: &'a [u8],
        offset: u64,
        data: &'a [u8],
    },
    LinkStat {
        path: &'a [u8],
    },
    FileStat {
        handle: &'a [u8],
    },
    SetStat {
        path: &'a [u8],
        attributes: Attributes,
    },
    FileSetStat {
        handle: &'a [u8],
        attributes: Attributes,
    },
    OpenDir {
        path: &'a [u8],
    },
    ReadDir {
        handle: &'a [u8],
    },
    Remove {
        path: &'a [u8],
    },
    MakeDir {
        path: &'a [u8],
        attributes: Attributes,
    },
    RemoveDir {
        path: &'a [u8],
    },
    RealPath {
        path: &'a [u8],
    },
    Stat {
        path: &'a [u8],
    },
    Rename {
        from: &'a [u8],
        to: &'a [u8],
    },
    ReadLink {
        path: &'a [u8],
    },
    /// In the order of OpenSSH, which is not that of the draft: what the link says comes first.
    SymLink {
        target: &'a [u8],
        path: &'a [u8],
    },
    Extended(Extension<'a>),
    /// A kind of packet that is not known.
    Unknown,
}

/// What OpenSSH has beyond the draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extension<'a> {
    PosixRename {
        from: &'a [u8],
        to: &'a [u8],
    },
    StatVfs {
        path: &'a [u8],
    },
    FileStatVfs {
        handle: &'a [u8],
    },
    HardLink {
        from: &'a [u8],
        to: &'a [u8],
    },
    Sync {
        handle: &'a [u8],
    },
    LinkSetStat {
        path: &'a [u8],
        attributes: Attributes,
    },
    Limits,
    ExpandPath {
        path: &'a [u8],
    },
    /// A length of zero is all there is.
    CopyData {
        from: &'a [u8],
        from_offset: u64,
        length: u64,
        to: &'a [u8],
        to_offset: u64,
    },
    HomeDirectory {
        user: &'a [u8],
    },
    NamesById {
        users: &'a [u8],
        groups: &'a [u8],
    },
    Unknown,
}

/// The extensions that are offered, with their versions.
pub(crate) const EXTENSIONS: [(&str, &str); 11] = [
    ("posix-rename@openssh.com", "1"),
    ("statvfs@openssh.com", "2"),
    ("fstatvfs@openssh.com", "2"),
    ("hardlink@openssh.com", "1"),
    ("fsync@openssh.com", "1"),
    ("lsetstat@openssh.com", "1"),
    ("limits@openssh.com", "1"),
    ("expand-path@openssh.com", "1"),
    ("copy-data", "1"),
    ("home-directory", "1"),
    ("users-groups-by-id@openssh.com", "1"),
];

impl<'a> Request<'a> {
    /// Reads a packet without its length: the number that the answer bears, and the request. What follows its last field is
    /// passed over, as OpenSSH does.
    ///
    /// # Errors
    /// [`Malformed::Short`]; the number is told if it was there, for the answer.
    pub(crate) fn parse(packet: &'a [u8]) -> (Option<u32>, Result<Self, Malformed>) {
        let mut bytes = packet;
        let (Ok(kind), Ok(id)) = (bytes.try_get_u8(), bytes.try_get_u32()) else {
            return (None, Err(Malformed::Short));
        };
        (Some(id), Self::of_kind(kind, &mut bytes))
    }

    fn of_kind(kind: u8, bytes: &mut &'a [u8]) -> Result<Self, Malformed> {
        Ok(match kind {
            kind::OPEN => {
                let path = string(bytes)?;
                let flags = OpenFlags(bytes.try_get_u32()?);
                Self::Open { path, flags, attributes: Attributes::parse(bytes)? }
            }
            kind::CLOSE => Self::Close { handle: handle(bytes)? },
            kind::READ => Self::Read {
                handle: handle(bytes)?,
                offset: bytes.try_get_u64()?,
                length: bytes.try_get_u32()?,
            },
            kind::WRITE => {
                Self::Write { handle: handle(bytes)?, offset: bytes.try_get_u64()?, data: string(bytes)? }
            }
            kind::LSTAT => Self::LinkStat { path: string(bytes)? },
            kind::FSTAT => Self::FileStat { handle: handle(bytes)? },
            kind::SETSTAT => Self::SetStat { path: string(bytes)?, attributes: Attributes::parse(bytes)? },
            kind::FSETSTAT => {
                Self::FileSetStat { handle: handle(bytes)?, attributes: Attributes::parse(bytes)? }
            }
            kind::OPENDIR => Self::OpenDir { path: string(bytes)? },
            kind::READDIR => Self::ReadDir { handle: handle(bytes)? },
            kind::REMOVE => Self::Remove { path: string(bytes)? },
            kind::MKDIR => Self::MakeDir { path: string(bytes)?, attributes: Attributes::parse(bytes)? },
            kind::RMDIR => Self::RemoveDir { path: string(bytes)? },
            kind::REALPATH => Self::RealPath { path: string(bytes)? },
            kind::STAT => Self::Stat { path: string(bytes)? },
            kind::RENAME => Self::Rename { from: string(bytes)?, to: string(bytes)? },
            kind::READLINK => Self::ReadLink { path: string(bytes)? },
            kind::SYMLINK => Self::SymLink { target: string(bytes)?, path: string(bytes)? },
            kind::EXTENDED => Self::Extended(Extension::parse(bytes)?),
            _ => Self::Unknown,
        })
    }
}

impl<'a> Extension<'a> {
    fn parse(bytes: &mut &'a [u8]) -> Result<Self, Malformed> {
        Ok(match string(bytes)? {
            b"posix-rename@openssh.com" => Self::PosixRename { from: string(bytes)?, to: string(bytes)? },
            b"statvfs@openssh.com" => Self::StatVfs { path: string(bytes)? },
            b"fstatvfs@openssh.com" => Self::FileStatVfs { handle: handle(bytes)? },
            b"hardlink@openssh.com" => Self::HardLink { from: string(bytes)?, to: string(bytes)? },
            b"fsync@openssh.com" => Self::Sync { handle: handle(bytes)? },
            b"lsetstat@openssh.com" => {
                Self::LinkSetStat { path: string(bytes)?, attributes: Attributes::parse(bytes)? }
            }
            b"limits@openssh.com" => Self::Limits,
            b"expand-path@openssh.com" => Self::ExpandPath { path: string(bytes)? },
            b"copy-data" => Self::CopyData {
                from: handle(bytes)?,
                from_offset: bytes.try_get_u64()?,
                length: bytes.try_get_u64()?,
                to: handle(bytes)?,
                to_offset: bytes.try_get_u64()?,
            },
            b"home-directory" => Self::HomeDirectory { user: string(bytes)? },
            b"users-groups-by-id@openssh.com" => {
                Self::NamesById { users: string(bytes)?, groups: string(bytes)? }
            }
            _ => Self::Unknown,
        })
    }
}
