//! What a client does to files, read off the protocol's bytes as they pass.
//!
//! The node writes the audit log, and the server is a process of the user, who might tell it anything. So the node believes nobody:
//! it reads the same bytes as both. Data is counted and not looked at.

use std::collections::HashMap;

use bytes::Buf;

use super::request::{Extension, Request};
use super::wire::{self, Attributes, Code, OpenFlags, kind, string};
use super::{FileAction, FileOperation};

/// How much of a packet is looked at, in bytes: all of a request but the data of a write. The server takes no longer ones.
pub(crate) const MAX_REQUEST: usize = 64 << 10;
/// Of what carries data: what stands before it.
const MAX_HEAD: usize = 512;
/// The most requests whose answers are waited for, and the most open files of which the path is known.
const MAX_PENDING: usize = 4096;

/// Both directions of one client's conversation with a server.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    requests: Framer,
    answers: Framer,
    pending: HashMap<u32, FileOperation>,
    paths: HashMap<Vec<u8>, String>,
    done: Vec<FileOperation>,
    totals: Totals,
}

/// What was carried in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Files that were opened.
    pub(crate) files: u64,
    /// Bytes of files that the client was given.
    pub(crate) read: u64,
    /// Bytes that the client sent for files.
    pub(crate) written: u64,
}

impl Watch {
    /// Takes note of what the client sends.
    pub(crate) fn client(&mut self, bytes: &[u8]) {
        let Self { requests, pending, paths, done, totals, .. } = self;
        requests.push(bytes, |packet, length| {
            if packet.first() == Some(&kind::WRITE) {
                totals.written += written(packet);
                return;
            }
            if length > MAX_REQUEST {
                // The server does not take it either.
                return;
            }
            let (Some(id), Ok(request)) = Request::parse(packet) else { return };
            if let Request::Close { handle } = request {
                paths.remove(handle);
            } else if let Some(operation) = operation(&request, paths) {
                let unanswered =
                    if pending.len() < MAX_PENDING { pending.insert(id, operation) } else { Some(operation) };
                done.extend(unanswered.map(unknown));
            }
        });
    }

    /// Takes note of what the server answers.
    pub(crate) fn server(&mut self, bytes: &[u8]) {
        let Self { answers, pending, paths, done, totals, .. } = self;
        answers.push(bytes, |packet, _| {
            let mut fields = packet;
            let (Ok(kind), Ok(id)) = (fields.try_get_u8(), fields.try_get_u32()) else { return };
            match kind {
                kind::DATA => totals.read += fields.try_get_u32().map_or(0, u64::from),
                kind::HANDLE => {
                    let (Some(operation), Ok(handle)) = (pending.remove(&id), wire::handle(&mut fields))
                    else {
                        return;
                    };
                    if matches!(operation.action, FileAction::Open { .. }) {
                        totals.files += 1;
                        if paths.len() < MAX_PENDING {
                            paths.insert(handle.to_vec(), operation.path.clone());
                        }
                    }
                    done.push(operation);
                }
                kind::STATUS => {
                    let Some(operation) = pending.remove(&id) else { return };
                    done.push(match fields.try_get_u32() {
                        Ok(code) if code == Code::Ok as u32 => operation,
                        _ => {
                            let text = string(&mut fields).unwrap_or_default();
                            operation.failed(&String::from_utf8_lossy(text))
                        }
                    });
                }
                _ => {}
            }
        });
    }

    /// What was done since the last call, in the order of the answers.
    pub(crate) fn done(&mut self) -> Vec<FileOperation> {
        std::mem::take(&mut self.done)
    }

    /// The end: what was asked for last, of which nobody knows what became of it; and the totals.
    pub(crate) fn finish(mut self) -> (Vec<FileOperation>, Totals) {
        let unanswered = self.pending.into_values();
        self.done.extend(unanswered.map(unknown));
        (self.done, self.totals)
    }
}

fn unknown(operation: FileOperation) -> FileOperation {
    operation.failed("the outcome is not known")
}

/// How many bytes a request to write has.
fn written(packet: &[u8]) -> u64 {
    let mut fields = packet.get(5..).unwrap_or_default();
    let head = wire::handle(&mut fields).ok().and_then(|_| fields.try_get_u64().ok());
    head.and_then(|_| fields.try_get_u32().ok()).map_or(0, u64::from)
}

/// What a request does, if it does something that is told: looking is not.
fn operation(request: &Request<'_>, paths: &HashMap<Vec<u8>, String>) -> Option<FileOperation> {
    let text = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    let one = |action, path| Some(FileOperation { action, path: text(path), target: None, error: None });
    let two = |action, path, target| {
        Some(FileOperation { action, path: text(path), target: Some(text(target)), error: None })
    };
    match *request {
        Request::Open { path, flags, .. } => {
            let writes = [OpenFlags::WRITE, OpenFlags::CREATE, OpenFlags::TRUNCATE, OpenFlags::APPEND];
            let write = writes.into_iter().any(|flag| flags.has(flag));
            let read = flags.has(OpenFlags::READ);
            one(FileAction::Open { read, write }, path)
        }
        Request::SetStat { path, attributes }
        | Request::Extended(Extension::LinkSetStat { path, attributes }) => {
            one(set_attributes(&attributes), path)
        }
        Request::FileSetStat { handle, attributes } => Some(FileOperation {
            action: set_attributes(&attributes),
            path: paths.get(handle).cloned().unwrap_or_default(),
            target: None,
            error: None,
        }),
        Request::Remove { path } => one(FileAction::Remove, path),
        Request::MakeDir { path, .. } => one(FileAction::MakeDir, path),
        Request::RemoveDir { path } => one(FileAction::RemoveDir, path),
        Request::Rename { from, to } | Request::Extended(Extension::PosixRename { from, to }) => {
            two(FileAction::Rename, from, to)
        }
        Request::SymLink { target, path } => two(FileAction::SymLink, path, target),
        Request::Extended(Extension::HardLink { from, to }) => two(FileAction::Link, to, from),
        _ => None,
    }
}

fn set_attributes(attributes: &Attributes) -> FileAction {
    FileAction::SetAttributes {
        mode: attributes.mode.map(|mode| mode & 0o7777),
        owner: attributes.owner,
        size: attributes.size,
    }
}

/// Cuts bytes into packets, of which it keeps the beginnings.
#[derive(Debug, Default)]
struct Framer {
    /// The packet's length, as far as it has come.
    length: [u8; 4],
    known: usize,
    /// What is left of the packet.
    left: usize,
    kept: Vec<u8>,
    /// These are not the bytes of the protocol: the server ends, or the client does.
    broken: bool,
}

impl Framer {
    /// Calls `act` with the beginning of each packet that is whole, and its length.
    fn push(&mut self, mut bytes: &[u8], mut act: impl FnMut(&[u8], usize)) {
        while !bytes.is_empty() && !self.broken {
            if self.known < 4 {
                let Some((first, rest)) = bytes.split_first() else { return };
                if let Some(place) = self.length.get_mut(self.known) {
                    *place = *first;
                }
                (self.known, bytes) = (self.known + 1, rest);
                if self.known == 4 {
                    match wire::length(&self.length) {
                        Ok(Some(length)) => self.left = length,
                        _ => self.broken = true,
                    }
                }
                continue;
            }
            let (here, rest) = bytes.split_at(self.left.min(bytes.len()));
            let most = match self.kept.first().or(here.first()) {
                Some(&(kind::WRITE | kind::DATA)) => MAX_HEAD,
                _ => MAX_REQUEST,
            };
            let wanted = most.saturating_sub(self.kept.len());
            self.kept.extend_from_slice(here.get(..wanted).unwrap_or(here));
            self.left -= here.len();
            bytes = rest;
            if self.left == 0 {
                let length = u32::from_be_bytes(self.length);
                act(&self.kept, usize::try_from(length).unwrap_or(usize::MAX));
                self.known = 0;
                self.kept.clear();
                self.kept.shrink_to(MAX_HEAD);
            }
        }
    }
}

#[cfg(test)]
mod tests;
