//! What a server answers, read strictly.

use bytes::{Buf, Bytes};
use tokio::sync::OwnedSemaphorePermit;

use super::SftpError;
use super::error::Refusal;
use crate::sftp::wire::{self, Attributes, Code, Malformed, kind, string};

/// What stands before the data of a packet without its length: kind, number, length of the data.
pub(super) const DATA_HEAD: usize = 9;

impl From<Malformed> for SftpError {
    fn from(_: Malformed) -> Self {
        Self::Protocol("an answer ends within a field")
    }
}

/// An answer to one request, without its length.
#[derive(Debug)]
pub(super) struct Answer {
    packet: Bytes,
    /// The room that it takes, until somebody has taken what is in it.
    _room: Option<OwnedSemaphorePermit>,
}

/// An entry of a directory, as the server says it: the name is not checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    pub(crate) attributes: Attributes,
}

impl Answer {
    /// Kind and number have been seen to be there.
    pub(super) const fn new(packet: Bytes, room: Option<OwnedSemaphorePermit>) -> Self {
        Self { packet, _room: room }
    }

    fn kind(&self) -> u8 {
        self.packet.first().copied().unwrap_or_default()
    }

    fn fields(&self) -> &[u8] {
        self.packet.get(5..).unwrap_or_default()
    }

    /// The refusal that it is, or that it is something else than what was expected.
    fn refusal(&self) -> SftpError {
        if self.kind() != kind::STATUS {
            return SftpError::Protocol("an answer of another kind than what was asked for");
        }
        let mut fields = self.fields();
        match fields.try_get_u32() {
            Ok(code) if code == Code::Ok as u32 => SftpError::Protocol("success without an answer"),
            // Servers of old drafts send no text.
            Ok(code) => SftpError::Refused(Refusal::new(code, string(&mut fields).unwrap_or_default())),
            Err(_) => SftpError::Protocol("a status without a code"),
        }
    }

    /// Whether it is no more than that it was done.
    pub(super) fn done(&self) -> Result<(), SftpError> {
        let mut fields = self.fields();
        match (self.kind(), fields.try_get_u32()) {
            (kind::STATUS, Ok(code)) if code == Code::Ok as u32 => Ok(()),
            _ => Err(self.refusal()),
        }
    }

    pub(super) fn handle(&self) -> Result<Vec<u8>, SftpError> {
        if self.kind() != kind::HANDLE {
            return Err(self.refusal());
        }
        Ok(wire::handle(&mut self.fields())?.to_vec())
    }

    pub(super) fn attributes(&self) -> Result<Attributes, SftpError> {
        if self.kind() != kind::ATTRS {
            return Err(self.refusal());
        }
        Ok(Attributes::parse(&mut self.fields())?)
    }

    /// Data, at most so much and at least something; `None` at the end.
    pub(super) fn data(self, most: u32) -> Result<Option<Bytes>, SftpError> {
        if self.kind() != kind::DATA {
            let refusal = self.refusal();
            return if refusal.is(Code::Eof) { Ok(None) } else { Err(refusal) };
        }
        let length = self.fields().try_get_u32().map_err(Malformed::from)?;
        if length == 0 || length > most {
            return Err(SftpError::Protocol("other data than what was asked for"));
        }
        let end = usize::try_from(length).ok().and_then(|length| DATA_HEAD.checked_add(length));
        match end {
            Some(end) if end == self.packet.len() => Ok(Some(self.packet.slice(DATA_HEAD..))),
            _ => Err(SftpError::Protocol("data of another length than it says")),
        }
    }

    /// Entries; `None` at the end.
    pub(super) fn entries(&self) -> Result<Option<Vec<Entry>>, SftpError> {
        if self.kind() != kind::NAME {
            let refusal = self.refusal();
            return if refusal.is(Code::Eof) { Ok(None) } else { Err(refusal) };
        }
        let mut fields = self.fields();
        let mut entries = Vec::new();
        // Each takes 12 bytes at least, so this ends with the packet.
        for _ in 0..fields.try_get_u32().map_err(Malformed::from)? {
            let name = string(&mut fields)?.to_vec();
            // The line that a terminal would show.
            string(&mut fields)?;
            entries.push(Entry { name, attributes: Attributes::parse(&mut fields)? });
        }
        // As OpenSSH has it: otherwise this could go on for ever.
        Ok(Some(entries).filter(|entries| !entries.is_empty()))
    }

    /// The one name that was asked for.
    pub(super) fn name(&self) -> Result<Vec<u8>, SftpError> {
        match self.entries()?.as_deref() {
            Some([Entry { name, .. }]) if !name.is_empty() && !name.contains(&0) => Ok(name.clone()),
            _ => Err(SftpError::Protocol("not the one name that was asked for")),
        }
    }

    /// What an extension answers.
    pub(super) fn extended(&self) -> Result<&[u8], SftpError> {
        if self.kind() != kind::EXTENDED_REPLY {
            return Err(self.refusal());
        }
        Ok(self.fields())
    }
}

/// For fuzzers: reads a packet in every way.
pub(in crate::sftp) fn fuzzed(packet: &[u8]) {
    let answer = || Answer::new(Bytes::copy_from_slice(packet), None);
    let ok = [answer().done().is_ok(), answer().handle().is_ok(), answer().attributes().is_ok()];
    assert!(ok.into_iter().filter(|ok| *ok).count() <= 1, "an answer is of one kind");
    if let Ok(Some(data)) = answer().data(1000) {
        assert!(!data.is_empty() && data.len() <= 1000, "no more than was asked for");
    }
    if let Ok(Some(entries)) = answer().entries() {
        let names: usize = entries.iter().map(|entry| entry.name.len()).sum();
        assert!(names + 12 * entries.len() <= packet.len(), "names are what was sent");
    }
    if let Ok(name) = answer().name() {
        assert!(!name.is_empty() && !name.contains(&0));
    }
    let _ = answer().extended();
}
