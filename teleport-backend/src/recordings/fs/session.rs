//! The directory of one recording.

use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use teleport_core::clock::Timestamp;
use teleport_core::recording::{MAX_PART_LEN, MAX_PARTS, RecordingInfo, RecordingMeta};

use super::Failure;
use crate::shared::files;

/// The most bytes of one read, whatever was asked.
const MAX_READ: usize = 4 << 20;

/// The version of both documents.
const VERSION: u32 = 1;

const COMPLETE: &str = "complete.json";
const DATA: &str = "data";
const LENGTHS: &str = "lengths";
const META: &str = "meta.json";

#[derive(Serialize, Deserialize)]
struct MetaFile {
    version: u32,
    meta: RecordingMeta,
}

#[derive(Serialize, Deserialize)]
struct CompleteFile {
    version: u32,
    completed: Timestamp,
    len: u64,
    parts: u32,
}

pub(super) struct Session {
    path: PathBuf,
}

fn part_name(number: u32) -> String {
    format!("part-{number:08}")
}

/// The file's content; `None` if it does not exist.
fn optional<T>(result: io::Result<T>) -> Result<Option<T>, Failure> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn document<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Failure> {
    let Some(text) = optional(std::fs::read(path))? else { return Ok(None) };
    serde_json::from_slice(&text).map(Some).map_err(|_| Failure::Damaged(path.to_owned()))
}

impl Session {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    fn part(&self, number: u32) -> PathBuf {
        self.path.join(part_name(number))
    }

    fn write_document(&self, name: &str, document: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_vec(document).map_err(io::Error::from)?;
        Ok(files::replace(&self.path, name, |file| file.write_all(&text))?)
    }

    fn meta(&self) -> Result<RecordingMeta, Failure> {
        match document::<MetaFile>(&self.path.join(META))? {
            Some(file) if file.version == VERSION => Ok(file.meta),
            Some(_) => Err(Failure::Damaged(self.path.join(META))),
            None => Err(Failure::NotFound),
        }
    }

    fn completion(&self) -> Result<Option<CompleteFile>, Failure> {
        document(&self.path.join(COMPLETE))
    }

    pub(super) fn create(&self, meta: &RecordingMeta) -> Result<(), Failure> {
        match self.meta() {
            Ok(existing) if existing == *meta => Ok(()),
            Ok(_) => Err(Failure::Conflict("another recording has this session id")),
            Err(Failure::NotFound) => {
                files::create_directory(&self.path)?;
                if let Some(sessions) = self.path.parent() {
                    files::sync_directory(sessions)?;
                }
                self.write_document(META, &MetaFile { version: VERSION, meta: meta.clone() })
            }
            Err(failure) => Err(failure),
        }
    }

    pub(super) fn put_part(&self, number: u32, part: &[u8]) -> Result<(), Failure> {
        if part.len() > MAX_PART_LEN {
            return Err(Failure::Conflict("the part is too long"));
        }
        if number >= MAX_PARTS {
            return Err(Failure::Conflict("there are too many parts"));
        }
        self.meta()?;
        let stored = match self.completion()? {
            Some(complete) if number >= complete.parts => {
                return Err(Failure::Conflict("the recording is complete"));
            }
            Some(_) => Some(self.stored_part(number)?),
            None => optional(std::fs::read(self.part(number)))?,
        };
        match stored {
            Some(stored) if stored == part => Ok(()),
            Some(_) => Err(Failure::Conflict("the part is stored with other bytes")),
            None => Ok(files::replace(&self.path, &part_name(number), |file| file.write_all(part))?),
        }
    }

    /// A part of a complete recording.
    fn stored_part(&self, number: u32) -> Result<Vec<u8>, Failure> {
        let damaged = || Failure::Damaged(self.path.join(LENGTHS));
        let lengths = std::fs::read(self.path.join(LENGTHS))?;
        let (mut offset, mut len) = (0, None);
        for (part, bytes) in (0_u32..).zip(lengths.chunks_exact(4)) {
            let this = u32::from_le_bytes(bytes.try_into().map_err(|_| damaged())?);
            if part == number {
                len = Some(this);
                break;
            }
            offset += u64::from(this);
        }
        let len = len.filter(|len| *len as usize <= MAX_PART_LEN).ok_or_else(damaged)?;
        let mut part = vec![0; len as usize];
        File::open(self.path.join(DATA))?.read_exact_at(&mut part, offset)?;
        Ok(part)
    }

    /// The lengths of the parts that are there without a gap.
    fn lengths(&self) -> Result<Vec<u64>, Failure> {
        let mut lengths = Vec::new();
        for number in 0..MAX_PARTS {
            match optional(std::fs::metadata(self.part(number)))? {
                Some(metadata) => lengths.push(metadata.len()),
                None => break,
            }
        }
        Ok(lengths)
    }

    pub(super) fn parts(&self) -> Result<u32, Failure> {
        self.meta()?;
        if let Some(complete) = self.completion()? {
            return Ok(complete.parts);
        }
        let lengths = self.lengths()?;
        match self.completion()? {
            // It was completed meanwhile, and the parts were disappearing.
            Some(complete) => Ok(complete.parts),
            None => Ok(u32::try_from(lengths.len()).unwrap_or(MAX_PARTS)),
        }
    }

    pub(super) fn complete(&self, parts: u32, at: Timestamp) -> Result<(), Failure> {
        self.meta()?;
        if let Some(complete) = self.completion()? {
            return if complete.parts == parts {
                self.remove_parts()
            } else {
                Err(Failure::Conflict("the recording is complete with another number of parts"))
            };
        }
        let stored = self.numbers()?;
        if stored.iter().copied().ne(0..parts) {
            let missing = stored.len() < parts as usize;
            return Err(Failure::Conflict(if missing {
                "a part is missing"
            } else {
                "there are more parts"
            }));
        }
        let mut lengths = Vec::with_capacity(stored.len() * 4);
        let mut len = 0;
        files::replace(&self.path, DATA, |file| {
            let mut data = BufWriter::with_capacity(1 << 18, file);
            for number in 0..parts {
                let copied = io::copy(&mut File::open(self.part(number))?, &mut data)?;
                lengths.extend_from_slice(&u32::try_from(copied).unwrap_or(u32::MAX).to_le_bytes());
                len += copied;
            }
            data.flush()
        })?;
        files::replace(&self.path, LENGTHS, |file| file.write_all(&lengths))?;
        // From here on the recording is complete; the parts are only in the way.
        self.write_document(COMPLETE, &CompleteFile { version: VERSION, completed: at, len, parts })?;
        self.remove_parts()
    }

    /// The numbers of all parts, in order.
    fn numbers(&self) -> Result<Vec<u32>, Failure> {
        let mut numbers: Vec<u32> = super::names(&self.path)?
            .iter()
            .filter_map(|name| name.strip_prefix("part-")?.parse().ok())
            .collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn remove_parts(&self) -> Result<(), Failure> {
        for number in self.numbers()? {
            optional(std::fs::remove_file(self.part(number)))?;
        }
        Ok(())
    }

    pub(super) fn info(&self) -> Result<RecordingInfo, Failure> {
        let meta = self.meta()?;
        let completion = match self.completion()? {
            Some(completion) => Ok(completion),
            None => {
                let len = self.lengths()?.iter().sum();
                // Looked for again, because completing removes the parts that were counted.
                self.completion()?.ok_or(len)
            }
        };
        Ok(match completion {
            Ok(CompleteFile { completed, len, .. }) => {
                RecordingInfo { meta, completed: Some(completed), len, abandoned: false }
            }
            Err(len) => RecordingInfo { meta, completed: None, len, abandoned: false },
        })
    }

    pub(super) fn read(&self, offset: u64, len: usize) -> Result<Bytes, Failure> {
        self.meta()?;
        if self.completion()?.is_none()
            && let Some(bytes) = self.read_parts(offset, len.min(MAX_READ))?
        {
            return Ok(bytes);
        }
        let mut bytes = Vec::new();
        if i64::try_from(offset).is_err() {
            // Farther than any file reaches; the system would call it an error.
            return Ok(bytes.into());
        }
        let mut file = File::open(self.path.join(DATA))?;
        io::Seek::seek(&mut file, io::SeekFrom::Start(offset))?;
        file.take(len.min(MAX_READ) as u64).read_to_end(&mut bytes)?;
        Ok(bytes.into())
    }

    /// Reads from the parts; `None` if they disappeared because the recording was completed meanwhile.
    fn read_parts(&self, offset: u64, len: usize) -> Result<Option<Bytes>, Failure> {
        let mut bytes = Vec::new();
        let mut start = 0;
        for number in 0..MAX_PARTS {
            let Some(mut part) = optional(File::open(self.part(number)))? else { break };
            let part_len = part.metadata()?.len();
            let end = start + part_len;
            if end > offset {
                let skip = offset.saturating_sub(start);
                io::Seek::seek(&mut part, io::SeekFrom::Start(skip))?;
                part.take((len - bytes.len()) as u64).read_to_end(&mut bytes)?;
                if bytes.len() >= len {
                    break;
                }
            }
            start = end;
        }
        Ok(if self.completion()?.is_some() { None } else { Some(bytes.into()) })
    }
}
