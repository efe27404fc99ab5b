//! The server: requests in, answers out, one after the other.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;

use bytes::Buf;
use nix::sys::statvfs::{FsFlags, Statvfs, fstatvfs, statvfs};

use super::files;
use super::listing::{Listing, Names};
use super::request::{EXTENSIONS, Extension, Request};
use super::status::Failure;
use super::watch::MAX_REQUEST;
use super::wire::{self, Attributes, Code, MAX_DATA, MAX_PACKET, Malformed, Packet, VERSION, kind};

/// The most files and directories that are open at a time.
const MAX_HANDLES: usize = 1000;
/// How much is taken from the client at a time, in bytes.
const INBOX: usize = 2 * MAX_PACKET;
/// Answers are handed over when they have become so many, in bytes, or when no request waits.
const OUTBOX: usize = MAX_PACKET;

/// Why a server ended before its client did.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The client does not speak the protocol.
    #[error("the client does not speak SFTP")]
    Protocol {
        /// What is wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Input or output failed.
    #[error("the client cannot be heard or answered")]
    Io(#[from] io::Error),
}

impl From<Malformed> for ServeError {
    fn from(malformed: Malformed) -> Self {
        Self::Protocol { source: malformed.into() }
    }
}

/// Serves a client until its input ends, with the rights of this process.
///
/// Blocks: meant for a process of the user's own, as [`OsSessions`](crate::session::OsSessions) starts it. Relative paths begin at
/// the working directory.
///
/// # Errors
/// [`ServeError`]. Requests that fail, or that cannot be read, are answered and end nothing.
pub fn serve(mut input: impl Read, mut output: impl Write) -> Result<(), ServeError> {
    let mut inbox = vec![0; INBOX];
    let (mut start, mut end) = (0, 0);
    let mut server = Server::default();
    let mut begun = false;
    loop {
        let waiting = inbox.get(start..end).unwrap_or_default();
        let packet = match wire::length(waiting)? {
            Some(length) => waiting.get(4..4 + length),
            None => None,
        };
        let Some(packet) = packet else {
            // Nobody waits for an answer while we wait for a request.
            server.hand_over(&mut output)?;
            inbox.copy_within(start..end, 0);
            (start, end) = (0, end - start);
            match input.read(inbox.get_mut(end..).unwrap_or_default()) {
                Ok(0) => return Ok(()),
                Ok(read) => end += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
            continue;
        };
        if begun {
            server.packet(packet);
        } else {
            server.begin(packet)?;
            begun = true;
        }
        start += 4 + packet.len();
        if server.answers.len() >= OUTBOX {
            server.hand_over(&mut output)?;
        }
    }
}

#[derive(Debug)]
enum Open {
    File(File),
    Dir(Listing),
}

#[derive(Debug, Default)]
struct Server {
    answers: Vec<u8>,
    open: HashMap<u64, Open>,
    /// No number is used twice: what was closed is nobody's afterwards.
    next: u64,
    names: Names,
}

/// How a request that has no answer of its own ends.
type Done = Result<(), Failure>;

impl Server {
    fn hand_over(&mut self, output: &mut impl Write) -> io::Result<()> {
        if !self.answers.is_empty() {
            output.write_all(&self.answers)?;
            output.flush()?;
            self.answers.clear();
        }
        Ok(())
    }

    fn begin(&mut self, mut packet: &[u8]) -> Result<(), Malformed> {
        if packet.try_get_u8()? != kind::INIT {
            return Err(Malformed::Beginning);
        }
        let mut answer = Packet::begin(&mut self.answers, kind::VERSION);
        answer.u32(VERSION);
        for (name, version) in EXTENSIONS {
            answer.string(name).string(version);
        }
        Ok(())
    }

    fn packet(&mut self, packet: &[u8]) {
        let (id, request) = Request::parse(packet);
        // What bears no number gets an answer all the same: whoever sent it waits for one.
        let id = id.unwrap_or_default();
        let before = self.answers.len();
        let done = match request {
            // Those who watch do not look further.
            Ok(request) if packet.len() <= MAX_REQUEST || matches!(request, Request::Write { .. }) => {
                self.request(id, request)
            }
            Ok(_) | Err(_) => Err(Failure::MALFORMED),
        };
        if let Err(failure) = done {
            self.answers.truncate(before);
            self.status(id, failure.code, &failure.text);
        }
    }

    fn status(&mut self, id: u32, code: Code, text: &str) {
        // The language of the text is not told, as by OpenSSH.
        Packet::answer(&mut self.answers, kind::STATUS, id).u32(code as u32).string(text).string("");
    }

    fn request(&mut self, id: u32, request: Request<'_>) -> Done {
        match request {
            Request::Open { path, flags, attributes } => {
                let file =
                    self.room().and_then(|()| Ok(files::open(files::path(path), flags, &attributes)?))?;
                self.opened(id, Open::File(file));
            }
            Request::OpenDir { path } => {
                self.room()?;
                let listing = Listing::open(files::path(path).to_owned())?;
                self.opened(id, Open::Dir(listing));
            }
            Request::Read { handle, offset, length } => self.read(id, handle, offset, length)?,
            Request::ReadDir { handle } => self.read_dir(id, handle)?,
            Request::LinkStat { path } => {
                let metadata = files::path(path).symlink_metadata()?;
                self.attributes(id, &files::attributes(&metadata));
            }
            Request::Stat { path } => {
                let metadata = files::path(path).metadata()?;
                self.attributes(id, &files::attributes(&metadata));
            }
            Request::FileStat { handle } => {
                let metadata = self.file(handle)?.metadata()?;
                self.attributes(id, &files::attributes(&metadata));
            }
            Request::RealPath { path } => {
                let real = files::real_path(files::path(path))?;
                self.name(id, &files::bytes(real));
            }
            Request::ReadLink { path } => {
                let target = files::path(path).read_link()?;
                self.name(id, &files::bytes(target));
            }
            Request::Extended(extension) => self.extended(id, extension)?,
            other => {
                self.act(other)?;
                self.status(id, Code::Ok, "Success");
            }
        }
        Ok(())
    }

    /// Requests that are answered by a status.
    fn act(&mut self, request: Request<'_>) -> Done {
        match request {
            Request::Close { handle } => {
                let number = number(handle)?;
                self.open.remove(&number).ok_or(Failure::HANDLE)?;
            }
            Request::Write { handle, offset, data } => files::write(self.file(handle)?, offset, data)?,
            Request::SetStat { path, attributes } => files::set(files::path(path), &attributes)?,
            Request::FileSetStat { handle, attributes } => files::set_open(self.file(handle)?, &attributes)?,
            Request::Remove { path } => std::fs::remove_file(files::path(path))?,
            Request::MakeDir { path, attributes } => files::make_dir(files::path(path), &attributes)?,
            Request::RemoveDir { path } => std::fs::remove_dir(files::path(path))?,
            Request::Rename { from, to } => files::rename(files::path(from), files::path(to))?,
            Request::SymLink { target, path } => {
                std::os::unix::fs::symlink(files::path(target), files::path(path))?;
            }
            _ => return Err(Failure::UNSUPPORTED),
        }
        Ok(())
    }

    fn extended(&mut self, id: u32, extension: Extension<'_>) -> Done {
        match extension {
            Extension::PosixRename { from, to } => std::fs::rename(files::path(from), files::path(to))?,
            Extension::HardLink { from, to } => std::fs::hard_link(files::path(from), files::path(to))?,
            Extension::Sync { handle } => self.file(handle)?.sync_all()?,
            Extension::LinkSetStat { path, attributes } => files::set_link(files::path(path), &attributes)?,
            Extension::CopyData { from, from_offset, length, to, to_offset } => {
                if from == to {
                    return Err(Failure::new(Code::Failure, "a file cannot be copied onto itself"));
                }
                files::copy((self.file(from)?, from_offset), length, (self.file(to)?, to_offset))?;
            }
            Extension::StatVfs { path } => {
                let told = statvfs(files::path(path))?;
                self.file_system(id, &told);
                return Ok(());
            }
            Extension::FileStatVfs { handle } => {
                let told = fstatvfs(self.file(handle)?)?;
                self.file_system(id, &told);
                return Ok(());
            }
            Extension::Limits => {
                Packet::answer(&mut self.answers, kind::EXTENDED_REPLY, id)
                    .u64(MAX_PACKET as u64)
                    .u64(MAX_DATA as u64)
                    .u64(MAX_DATA as u64)
                    .u64(MAX_HANDLES as u64);
                return Ok(());
            }
            Extension::ExpandPath { path } => {
                let expanded = files::expand(path)?;
                let real = files::real_path(&expanded).unwrap_or(expanded);
                self.name(id, &files::bytes(real));
                return Ok(());
            }
            Extension::HomeDirectory { user } => {
                let home = files::home(user)?;
                self.name(id, &files::bytes(home));
                return Ok(());
            }
            Extension::NamesById { users, groups } => {
                self.names_by_id(id, users, groups)?;
                return Ok(());
            }
            Extension::Unknown => return Err(Failure::UNSUPPORTED),
        }
        self.status(id, Code::Ok, "Success");
        Ok(())
    }

    fn read(&mut self, id: u32, handle: &[u8], offset: u64, length: u32) -> Done {
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(MAX_DATA);
        let Open::File(file) = self.open.get(&number(handle)?).ok_or(Failure::HANDLE)? else {
            return Err(Failure::HANDLE);
        };
        let mut answer = Packet::answer(&mut self.answers, kind::DATA, id);
        answer.u32(0);
        let read = file.read_at(answer.space(length), offset)?;
        answer.keep(read);
        if read == 0 && length > 0 {
            return Err(Failure::EOF);
        }
        Ok(())
    }

    fn read_dir(&mut self, id: u32, handle: &[u8]) -> Done {
        let Open::Dir(listing) = self.open.get_mut(&number(handle)?).ok_or(Failure::HANDLE)? else {
            return Err(Failure::HANDLE);
        };
        let mut answer = Packet::answer(&mut self.answers, kind::NAME, id);
        let place = answer.len();
        answer.u32(0);
        match listing.put(&mut answer, &mut self.names, files::now()) {
            0 => Err(Failure::EOF),
            count => {
                answer.set_u32(place, count);
                Ok(())
            }
        }
    }

    fn names_by_id(&mut self, id: u32, mut users: &[u8], mut groups: &[u8]) -> Done {
        let malformed = |_| Failure::MALFORMED;
        let (mut of_users, mut of_groups) = (Vec::new(), Vec::new());
        while !users.is_empty() {
            put_string(&mut of_users, self.names.user(users.try_get_u32().map_err(malformed)?));
        }
        while !groups.is_empty() {
            put_string(&mut of_groups, self.names.group(groups.try_get_u32().map_err(malformed)?));
        }
        if of_users.len().saturating_add(of_groups.len()) > MAX_DATA {
            return Err(Failure::new(Code::Failure, "too many names were asked for at once"));
        }
        Packet::answer(&mut self.answers, kind::EXTENDED_REPLY, id).string(of_users).string(of_groups);
        Ok(())
    }

    fn room(&self) -> Done {
        if self.open.len() < MAX_HANDLES {
            Ok(())
        } else {
            Err(Failure::new(Code::Failure, "too many files are open"))
        }
    }

    fn opened(&mut self, id: u32, open: Open) {
        let number = self.next;
        self.next += 1;
        self.open.insert(number, open);
        Packet::answer(&mut self.answers, kind::HANDLE, id).string(number.to_be_bytes());
    }

    fn file(&self, handle: &[u8]) -> Result<&File, Failure> {
        match self.open.get(&number(handle)?) {
            Some(Open::File(file)) => Ok(file),
            _ => Err(Failure::HANDLE),
        }
    }

    fn attributes(&mut self, id: u32, attributes: &Attributes) {
        Packet::answer(&mut self.answers, kind::ATTRS, id).attributes(attributes);
    }

    /// One name, without a line of it and without attributes.
    fn name(&mut self, id: u32, name: &[u8]) {
        Packet::answer(&mut self.answers, kind::NAME, id)
            .u32(1)
            .string(name)
            .string(name)
            .attributes(&Attributes::default());
    }

    fn file_system(&mut self, id: u32, told: &Statvfs) {
        const READ_ONLY: u64 = 1;
        const NO_SET_ID: u64 = 2;
        let flag = |flag, bit| if told.flags().contains(flag) { bit } else { 0 };
        let flags = flag(FsFlags::ST_RDONLY, READ_ONLY) | flag(FsFlags::ST_NOSUID, NO_SET_ID);
        let mut answer = Packet::answer(&mut self.answers, kind::EXTENDED_REPLY, id);
        for number in [
            told.block_size(),
            told.fragment_size(),
            told.blocks(),
            told.blocks_free(),
            told.blocks_available(),
            told.files(),
            told.files_free(),
            told.files_available(),
            told.filesystem_id(),
            flags,
            told.name_max(),
        ] {
            answer.u64(number);
        }
    }
}

fn number(handle: &[u8]) -> Result<u64, Failure> {
    handle.try_into().map(u64::from_be_bytes).map_err(|_| Failure::HANDLE)
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&u32::try_from(text.len()).unwrap_or_default().to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}
