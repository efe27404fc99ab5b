//! The directory of one recording.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use teleport_core::id::UserName;
use teleport_core::recording::{
    Completion, Form, MAX_PARTS, MAX_STORED_PART_LEN, RecordingError, RecordingInfo, RecordingMeta, Rewrite,
};

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
    #[serde(flatten)]
    form: Form,
    meta: RecordingMeta,
}

#[derive(Serialize, Deserialize)]
struct CompleteFile {
    version: u32,
    completion: Completion,
    len: u64,
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

    fn meta_file(&self) -> Result<MetaFile, Failure> {
        match document::<MetaFile>(&self.path.join(META))? {
            Some(file) if file.version == VERSION => Ok(file),
            Some(_) => Err(Failure::Damaged(self.path.join(META))),
            None => Err(Failure::NotFound),
        }
    }

    pub(super) fn meta(&self) -> Result<RecordingMeta, Failure> {
        Ok(self.meta_file()?.meta)
    }

    fn completion(&self) -> Result<Option<CompleteFile>, Failure> {
        document(&self.path.join(COMPLETE))
    }

    pub(super) fn create(&self, meta: &RecordingMeta, form: &Form) -> Result<(), Failure> {
        match self.meta() {
            Ok(existing) if existing == *meta => Ok(()),
            Ok(_) => Err(Failure::Conflict("another recording has this session id")),
            Err(Failure::NotFound) => {
                files::create_durable_directory(&self.path)?;
                self.write_document(
                    META,
                    &MetaFile { version: VERSION, form: form.clone(), meta: meta.clone() },
                )
            }
            Err(failure) => Err(failure),
        }
    }

    pub(super) fn put_part(&self, number: u32, part: &[u8]) -> Result<(), Failure> {
        if part.len() > MAX_STORED_PART_LEN {
            return Err(Failure::Conflict("the part is too long"));
        }
        if number >= MAX_PARTS {
            return Err(Failure::Conflict("there are too many parts"));
        }
        self.meta()?;
        if self.completion()?.is_some_and(|complete| number >= complete.completion.parts) {
            return Err(Failure::Conflict("the recording is complete"));
        }
        match self.part_bytes(number)? {
            Some(stored) if stored == part => Ok(()),
            Some(_) => Err(Failure::Conflict("the part is stored with other bytes")),
            None => Ok(files::replace(&self.path, &part_name(number), |file| file.write_all(part))?),
        }
    }

    /// A part, if it is there.
    pub(super) fn part_bytes(&self, number: u32) -> Result<Option<Bytes>, Failure> {
        self.meta()?;
        if self.completion()?.is_none() {
            let part = optional(std::fs::read(self.part(number)))?;
            // Completing removes it.
            if part.is_some() || self.completion()?.is_none() {
                return Ok(part.map(Bytes::from));
            }
        }
        match self.completion()? {
            Some(complete) if number < complete.completion.parts => {
                Ok(Some(self.stored_part(number)?.into()))
            }
            _ => Ok(None),
        }
    }

    /// A part of a complete recording.
    fn stored_part(&self, number: u32) -> Result<Vec<u8>, Failure> {
        let lengths = self.final_lengths()?;
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        let len = *lengths.get(index).ok_or_else(|| Failure::Damaged(self.path.join(LENGTHS)))?;
        let offset = lengths.iter().take(index).copied().map(u64::from).sum();
        let mut part = vec![0; len as usize];
        File::open(self.path.join(DATA))?.read_exact_at(&mut part, offset)?;
        Ok(part)
    }

    /// The lengths of the parts of a complete recording.
    fn final_lengths(&self) -> Result<Vec<u32>, Failure> {
        let path = self.path.join(LENGTHS);
        let bytes = std::fs::read(&path)?;
        let (chunks, rest) = bytes.as_chunks::<4>();
        let lengths: Vec<u32> = chunks.iter().map(|chunk| u32::from_le_bytes(*chunk)).collect();
        if !rest.is_empty() || lengths.iter().any(|len| *len as usize > MAX_STORED_PART_LEN) {
            return Err(Failure::Damaged(path));
        }
        Ok(lengths)
    }

    /// The lengths of the parts that are there without a gap, while the upload goes on.
    fn lengths_so_far(&self) -> Result<Vec<u32>, Failure> {
        let mut lengths = Vec::new();
        for number in 0..MAX_PARTS {
            match optional(std::fs::metadata(self.part(number)))? {
                Some(metadata) => lengths.push(u32::try_from(metadata.len()).unwrap_or(u32::MAX)),
                None => break,
            }
        }
        Ok(lengths)
    }

    pub(super) fn lengths(&self) -> Result<Vec<u32>, Failure> {
        self.meta()?;
        if self.completion()?.is_some() {
            return self.final_lengths();
        }
        let lengths = self.lengths_so_far()?;
        // It may have been completed meanwhile, and the parts were disappearing.
        if self.completion()?.is_some() { self.final_lengths() } else { Ok(lengths) }
    }

    pub(super) fn complete(&self, completion: &Completion) -> Result<(), Failure> {
        self.meta()?;
        let parts = completion.parts;
        if let Some(complete) = self.completion()? {
            return if complete.completion.parts == parts {
                self.remove_parts()
            } else {
                Err(Failure::Conflict("the recording is complete with another number of parts"))
            };
        }
        let mut stored = self.numbers()?;
        if completion.abandoned && !stored.contains(&parts) {
            stored.retain(|number| *number < parts);
        }
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
        let completion = completion.clone();
        self.write_document(COMPLETE, &CompleteFile { version: VERSION, completion, len })?;
        self.remove_parts()
    }

    /// Writes all parts anew, beside the old ones until they are whole.
    pub(super) fn rewrite(&self, change: &Rewrite) -> Result<(), Failure> {
        self.meta()?;
        if self.completion()?.is_none() {
            return Err(Failure::Conflict("the recording is not complete"));
        }
        let lengths = self.final_lengths()?;
        let mut old = BufReader::with_capacity(1 << 18, File::open(self.path.join(DATA))?);
        let mut refused = None;
        let written = files::replace(&self.path, DATA, |file| {
            let mut data = BufWriter::with_capacity(1 << 18, file);
            for (number, len) in (0..).zip(&lengths) {
                let mut part = vec![0; *len as usize];
                old.read_exact(&mut part)?;
                let new = match change(number, part.into()) {
                    Ok(new) if new.len() == *len as usize => new,
                    Ok(_) => {
                        refused = Some(RecordingError::Conflict { reason: "the part has another length" });
                        return Err(ErrorKind::Other.into());
                    }
                    Err(error) => {
                        refused = Some(error);
                        return Err(ErrorKind::Other.into());
                    }
                };
                data.write_all(&new)?;
            }
            data.flush()
        });
        match refused {
            Some(error) => Err(Failure::Refused(error)),
            None => Ok(written?),
        }
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
        let MetaFile { meta, form, .. } = self.meta_file()?;
        let (completion, len) = match self.completion()? {
            Some(CompleteFile { completion, len, .. }) => (Some(completion), len),
            None => {
                let so_far = self.lengths_so_far()?.into_iter().map(u64::from).sum();
                // Looked for again, because completing removes the parts that were counted.
                match self.completion()? {
                    Some(CompleteFile { completion, len, .. }) => (Some(completion), len),
                    None => (None, so_far),
                }
            }
        };
        Ok(RecordingInfo::new(meta, form, len, completion))
    }

    /// Who is listed as having taken part, beside the user, and must be forgotten.
    pub(super) fn participants(&self) -> Vec<UserName> {
        self.completion().ok().flatten().map(|file| file.completion.participants).unwrap_or_default()
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
        // What is gone was deleted meanwhile.
        let mut file = optional(File::open(self.path.join(DATA)))?.ok_or(Failure::NotFound)?;
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
