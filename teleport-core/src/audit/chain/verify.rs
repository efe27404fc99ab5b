//! Reading a log again, line by line, in constant memory.

use std::borrow::Cow;

use serde::Deserialize;
use uuid::Uuid;

use super::{
    Chain, ChainHead, Checkpoint, CheckpointKey, Digest, Entry, Finding, Flaw, Hasher, Interruption, Proven,
};
use crate::audit::EventKind;

/// How many interruptions are described; more are counted.
const MAX_DESCRIBED: usize = 16;
/// What the lines have in common that the log writes about itself.
const OWN: &[u8] = b"\"code\":\"TAU";

/// Bytes between entries.
#[derive(Clone, Debug)]
struct Gap {
    bytes: u64,
    digest: Hasher,
    file: String,
    line: u64,
    /// What is wrong with its first line, if that has the form of an entry.
    flaw: Option<(u64, Flaw)>,
}

/// An entry that must be there.
#[derive(Clone, Debug)]
struct Known {
    head: ChainHead,
    log: Option<Uuid>,
    how: String,
    seen: bool,
}

/// Checks the lines of a log as they come.
///
/// Feed it every line of every file in order; what is wrong is told at the latest by [`Verifier::finish`].
#[derive(Clone, Debug)]
pub struct Verifier {
    keys: Vec<CheckpointKey>,
    known: Vec<Known>,
    anywhere: bool,
    chain: Option<Chain>,
    gap: Option<Gap>,
    file: String,
    line: u64,
    proven: Proven,
}

#[derive(Deserialize)]
struct OwnFields<'a> {
    #[serde(borrow)]
    code: Cow<'a, str>,
    #[serde(default)]
    bytes: Option<u64>,
    #[serde(default)]
    sha256: Option<Digest>,
}

impl Verifier {
    /// One that believes the checkpoints of these keys.
    pub fn new(keys: impl Into<Vec<CheckpointKey>>) -> Self {
        Self {
            keys: keys.into(),
            known: Vec::new(),
            anywhere: false,
            chain: None,
            gap: None,
            file: String::new(),
            line: 0,
            proven: Proven::default(),
        }
    }

    /// This entry exists, if its log is the one that is read; `how` says from where that is known, behind "which was". With a
    /// log that is another one, the log is missing.
    pub fn expect(&mut self, log: Option<Uuid>, head: ChainHead, how: impl Into<String>) {
        self.known.push(Known { head, log, how: how.into(), seen: false });
    }

    /// The log may begin at any checkpoint: what was before is not looked at.
    pub const fn begin_anywhere(&mut self) {
        self.anywhere = true;
    }

    /// The next file begins.
    pub fn file(&mut self, name: impl Into<String>) {
        self.file = name.into();
        self.line = 0;
    }

    /// Says of something that is wrong with the line that was read last where that is.
    #[must_use]
    pub fn placed(&self, finding: Finding) -> Finding {
        Finding { file: self.file.clone(), line: self.line, ..finding }
    }

    fn found(&self, index: Option<u64>, flaw: Flaw) -> Finding {
        Finding { file: self.file.clone(), line: self.line, index, flaw }
    }

    /// The next line, without its newline; all of it but the last of a file end with one.
    ///
    /// # Errors
    /// [`Finding`]: what is wrong with it. Nothing more can be said of what follows.
    pub fn line<'a>(&mut self, line: &'a [u8]) -> Result<Option<Entry<'a>>, Finding> {
        self.line += 1;
        let Some(entry) = Entry::parse(line) else {
            self.foreign_line(line, None);
            return Ok(None);
        };
        let Some(before) = self.chain else {
            self.begin(&entry)?;
            return Ok(Some(entry));
        };
        let (index, expected) = (entry.index, before.next_index());
        if index == 0 && expected > 0 && self.is_a_beginning(&entry) {
            // What stands before is wrong first.
            return Err(self.gap.take().map_or_else(|| self.found(Some(index), Flaw::Restarted), foreign));
        }
        let flaw = if index > expected {
            Flaw::Missing { from: expected, to: index - 1 }
        } else if index < expected {
            Flaw::Order { index, expected }
        } else if entry.follows(&before.digest()) {
            self.accept(&entry, before.digest())?;
            return Ok(Some(entry));
        } else {
            Flaw::Changed
        };
        // A crash of the machine can leave whole lines behind one that it lost. Then an entry that follows accounts for them.
        self.foreign_line(line, Some((index, flaw)));
        Ok(None)
    }

    /// The next line is no entry, as one that is too long or has no end: its bytes follow, with its newline if it has one. An entry behind it may
    /// account for them.
    pub const fn no_entry(&mut self) {
        self.line += 1;
    }

    fn foreign_line(&mut self, line: &[u8], flaw: Option<(u64, Flaw)>) {
        let is_first = self.gap.is_none();
        self.foreign(line);
        self.foreign(b"\n");
        if let Some(gap) = self.gap.as_mut().filter(|_| is_first) {
            gap.flaw = flaw;
        }
    }

    /// The next bytes of a line that is no entry.
    pub fn foreign(&mut self, bytes: &[u8]) {
        let gap = self.gap.get_or_insert_with(|| Gap {
            bytes: 0,
            digest: Hasher::new(),
            file: self.file.clone(),
            line: self.line,
            flaw: None,
        });
        gap.digest.update(bytes);
        gap.bytes += bytes.len() as u64;
    }

    fn is_a_beginning(&self, entry: &Entry<'_>) -> bool {
        entry.follows(&Digest::ZERO)
            && Checkpoint::parse(entry).is_some()
            && self.keys.iter().any(|key| Checkpoint::is_signed_by(entry, key))
    }

    fn begin(&mut self, entry: &Entry<'_>) -> Result<(), Finding> {
        let index = entry.index;
        // What stands before the first entry was accounted for by nobody, unless the log began with it.
        if index > 0
            && let Some(gap) = self.gap.take()
        {
            return Err(foreign(gap));
        }
        let before = if index == 0 {
            Digest::ZERO
        } else {
            // Only a checkpoint says itself what it follows, and can be believed.
            match Checkpoint::parse(entry) {
                Some(checkpoint) => checkpoint.before,
                None => return Err(self.found(Some(index), Flaw::Beginning { index })),
            }
        };
        if !entry.follows(&before) {
            return Err(self.found(Some(index), Flaw::Changed));
        }
        self.proven.first = Some(index);
        self.proven.begins = Some((self.file.clone(), self.line));
        self.accept(entry, before)
    }

    fn accept(&mut self, entry: &Entry<'_>, before: Digest) -> Result<(), Finding> {
        let index = entry.index;
        let own = entry.body.windows(OWN.len()).any(|window| window == OWN);
        let own: Option<OwnFields<'_>> = own.then(|| serde_json::from_slice(entry.line).ok()).flatten();
        let code = own.as_ref().map(|own| &*own.code);
        if let Some(gap) = self.gap.take() {
            let accounted = code == Some(EventKind::AuditRecovered.code())
                && own.as_ref().is_some_and(|own| {
                    own.bytes == Some(gap.bytes) && own.sha256 == Some(gap.digest.clone().finish())
                });
            if !accounted {
                return Err(foreign(gap));
            }
            self.proven.interrupted += 1;
            if self.proven.interruptions.len() < MAX_DESCRIBED {
                let (file, line) = (self.file.clone(), self.line);
                self.proven.interruptions.push(Interruption { file, line, index, bytes: gap.bytes });
            }
        } else if code == Some(EventKind::AuditRecovered.code())
            && own.as_ref().is_some_and(|own| own.bytes.is_some_and(|bytes| bytes > 0))
        {
            // What it accounts for is not there any more.
            return Err(self.found(Some(index), Flaw::Changed));
        }
        if code == Some(EventKind::AuditCheckpoint.code()) {
            self.checkpoint(entry, before)?;
        } else {
            self.proven.unsigned += 1;
        }
        for known in self.known.iter_mut().filter(|known| known.head.index == index) {
            let of_this = known.log.is_none() || self.proven.log.is_none() || known.log == self.proven.log;
            if of_this && known.head.digest != entry.digest {
                let flaw = Flaw::Different { index, known: known.how.clone() };
                return Err(self.found(Some(index), flaw));
            }
            known.seen |= known.head.digest == entry.digest;
        }
        self.proven.entries += 1;
        self.proven.head = Some(entry.head());
        self.chain = Some(Chain::after(entry.head()));
        Ok(())
    }

    fn checkpoint(&mut self, entry: &Entry<'_>, before: Digest) -> Result<(), Finding> {
        let index = Some(entry.index);
        let Some(checkpoint) = Checkpoint::parse(entry) else {
            return Err(self.found(index, Flaw::CheckpointForm));
        };
        let Some(key) = self.keys.iter().find(|key| key.id().to_string() == checkpoint.key) else {
            return Err(self.found(index, Flaw::CheckpointKey { key: checkpoint.key }));
        };
        if !Checkpoint::is_signed_by(entry, key) {
            return Err(self.found(index, Flaw::CheckpointSignature));
        }
        if checkpoint.before != before {
            return Err(self.found(index, Flaw::CheckpointHead));
        }
        let other_log = self.proven.log.is_some_and(|log| log != checkpoint.log);
        if other_log || (self.proven.log.is_some() && self.proven.cluster != checkpoint.cluster) {
            let flaw = Flaw::CheckpointLog { log: checkpoint.log, cluster: checkpoint.cluster };
            return Err(self.found(index, flaw));
        }
        self.proven.log = Some(checkpoint.log);
        self.proven.cluster = checkpoint.cluster;
        self.proven.checkpoints += 1;
        // Only what is signed may say that there was more: anybody can add a line with a digest that fits.
        self.proven.removed_before = self.proven.removed_before.max(checkpoint.first.unwrap_or_default());
        self.proven.signed = Some(entry.head());
        self.proven.signed_at = Some(checkpoint.time);
        self.proven.unsigned = 0;
        Ok(())
    }

    /// Nothing follows.
    ///
    /// # Errors
    /// [`Finding`]: what can be known only at the end.
    pub fn finish(mut self) -> Result<Proven, Finding> {
        if let Some(gap) = self.gap.take() {
            let at_the_end = gap.file == self.file && gap.line == self.line;
            let bytes = gap.bytes;
            let mut finding = foreign(gap);
            if at_the_end && matches!(finding.flaw, Flaw::Foreign { .. }) {
                finding.flaw = Flaw::Torn { bytes };
            }
            return Err(finding);
        }
        let head = self.proven.head;
        for known in self.known.iter().filter(|known| !known.seen) {
            let of_this = known.log.is_none() || known.log == self.proven.log;
            let index = known.head.index;
            let flaw = match (known.log, head) {
                (Some(log), _) if !of_this => Flaw::OtherLog { log, index },
                // Removed by retention, as far as that is in order.
                (_, Some(_)) if self.proven.first.is_some_and(|first| index < first) => continue,
                _ => Flaw::Cut { index, known: known.how.clone() },
            };
            return Err(self.found(None, flaw));
        }
        if let Some(first) = self.proven.first
            && first > self.proven.removed_before
            && !self.anywhere
        {
            let (file, line) = self.proven.begins.clone().unwrap_or_default();
            let flaw = Flaw::Beginning { index: first };
            return Err(Finding { file, line, index: Some(first), flaw });
        }
        if self.proven.entries > 0 && self.proven.checkpoints == 0 {
            return Err(Finding { file: String::new(), line: 0, index: None, flaw: Flaw::Unsigned });
        }
        Ok(self.proven)
    }
}

/// Nobody accounts for it: what is wrong is what its first line is.
fn foreign(gap: Gap) -> Finding {
    let (index, flaw) = match gap.flaw {
        Some((index, flaw)) => (Some(index), flaw),
        None => (None, Flaw::Foreign { bytes: gap.bytes }),
    };
    Finding { file: gap.file, line: gap.line, index, flaw }
}
