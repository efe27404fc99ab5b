//! Several files, and directories with all that is in them.

use std::pin::pin;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::file::{self, Job};
use super::glob::Pattern;
use super::side::Side;
use super::{CopyError, CopyFailure, CopyObserver, CopyOptions, FileName, is_dir, kind, permissions};
use crate::sftp::client::Entry;
use crate::sftp::wire::Attributes;

/// How many files are copied at a time: those that are small wait for answers most of the time.
const AT_ONCE: usize = 16;
/// How deep directories may be nested, as OpenSSH has it: links may lead back.
const MAX_DEPTH: usize = 64;
/// The most entries of a directory, and the most names that a pattern may mean.
const MAX_ENTRIES: usize = 1_000_000;
/// The most paths that one pattern may mean.
const MAX_FOUND: usize = 100_000;

/// What is copied: where it is, and its path there, which on a node may be a pattern.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "callers build it")]
pub struct Source {
    /// Where.
    pub side: Side,
    /// The path; empty for the home directory of a node.
    pub path: Vec<u8>,
}

/// Copies everything to `path` at `target`, several files at a time. What cannot be copied is told to the observer, and everything
/// else goes on. Returns how many failures were told.
///
/// Dropping the future stops; what has been written stays.
///
/// # Errors
/// What makes everything else pointless, such as a target that is no directory where one is needed.
pub async fn copy(
    sources: Vec<Source>,
    target: &Side,
    path: &[u8],
    options: CopyOptions,
    observer: &dyn CopyObserver,
) -> Result<usize, CopyFailure> {
    let path = prepared(target, path).await.map_err(|cause| target.failure(path, cause))?;
    let path = path.literal();
    let mut run = Run { target, options, observer, failures: 0 };
    let mut found = Vec::new();
    let several = sources.len() > 1;
    for Source { side, path } in sources {
        let home = home(&side, &path);
        match expand(&side, &path).await {
            Ok(paths) => found.extend(paths.into_iter().map(|path| (side.clone(), path, home.clone()))),
            Err(cause) => run.failed(side.failure(&path, cause))?,
        }
    }
    let there = match target.stat(&path).await {
        Ok(there) => Some(is_dir(&there)),
        Err(cause) if cause.is_missing() => None,
        Err(cause) => return Err(target.failure(&path, cause)),
    };
    let must_be_dir = several || found.len() > 1 || (path.ends_with(b"/") && !options.recursive);
    match there {
        Some(false) if must_be_dir => return Err(target.failure(&path, CopyError::NotDirectory)),
        None if must_be_dir => {
            let missing = std::io::Error::from(nix::errno::Errno::ENOENT);
            return Err(target.failure(&path, missing));
        }
        _ => {}
    }
    for (side, from, home) in found {
        let to = match home {
            _ if there != Some(true) => path.clone(),
            Some(user) => join(&path, &user),
            None => beneath(&path, &from),
        };
        run.source(&side, from, to).await?;
    }
    Ok(run.failures)
}

/// Whose home directory a path of a server means as a whole, `~user`. A copy of it is called like the user: where it really is, the
/// server says, which must not choose what is written here.
fn home(side: &Side, path: &[u8]) -> Option<Vec<u8>> {
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
    let user = path.get(..end)?.strip_prefix(b"~")?;
    side.remote_files()?;
    FileName::new(user).is_ok().then(|| user.to_vec())
}

/// What a copy of `from` in the directory `path` is called. What has no name of its own, as `.`, is the directory itself.
fn beneath(path: &[u8], from: &[u8]) -> Vec<u8> {
    let end = from.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
    let name = from.get(..end).unwrap_or_default().rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    if matches!(name, b"" | b"." | b"..") { path.to_vec() } else { join(path, name) }
}

pub(crate) fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if dir.is_empty() || dir.ends_with(b"/") { b"" } else { b"/" };
    [dir, slash, name].concat()
}

struct Run<'a> {
    target: &'a Side,
    options: CopyOptions,
    observer: &'a dyn CopyObserver,
    failures: usize,
}

/// A directory that is to be copied.
struct Dir {
    from: Vec<u8>,
    to: Vec<u8>,
    attributes: Attributes,
    depth: usize,
}

impl Run<'_> {
    /// Tells of a failure; `Err` if nothing else will succeed either.
    fn failed(&mut self, failure: CopyFailure) -> Result<(), CopyFailure> {
        if failure.cause.is_final() {
            return Err(failure);
        }
        self.observer.failed(&failure);
        self.failures += 1;
        Ok(())
    }

    async fn source(&mut self, side: &Side, from: Vec<u8>, to: Vec<u8>) -> Result<(), CopyFailure> {
        let attributes = match side.stat(&from).await {
            Ok(attributes) => attributes,
            Err(cause) => return self.failed(side.failure(&from, cause)),
        };
        match checked_kind(&attributes) {
            Ok(true) if !self.options.recursive => self.failed(side.failure(&from, CopyError::Directory)),
            Ok(true) => self.dir(side, Dir { from, to, attributes, depth: 0 }).await,
            Ok(false) => {
                let job = Job { from, to, attributes };
                match file::copy(side, self.target, &job, self.options, self.observer).await {
                    Ok(()) => Ok(()),
                    Err(failure) => self.failed(failure),
                }
            }
            Err(cause) => self.failed(side.failure(&from, cause)),
        }
    }

    async fn dir(&mut self, side: &Side, top: Dir) -> Result<(), CopyFailure> {
        let (target, options, observer) = (self.target, self.options, self.observer);
        let start = |job: Job| async move { file::copy(side, target, &job, options, observer).await };
        let mut running = FuturesUnordered::new();
        let mut failed = Vec::new();
        let mut dirs = vec![top];
        let mut made = Vec::new();
        while let Some(dir) = dirs.pop() {
            // Whoever copies it must be able to write into it now.
            let mode = permissions(&dir.attributes).unwrap_or(0o777) | 0o700;
            let make = beside(&mut running, &mut failed, target.make_dir(&dir.to, mode)).await;
            if let Err(cause) = make {
                self.failed(target.failure(&dir.to, cause))?;
                continue;
            }
            let listing = beside(&mut running, &mut failed, side.list(&dir.from)).await;
            let mut listing = match listing {
                Ok(listing) => listing,
                Err(cause) => {
                    self.failed(side.failure(&dir.from, cause))?;
                    continue;
                }
            };
            let mut entries = 0_usize;
            loop {
                let next = beside(&mut running, &mut failed, listing.next()).await;
                let listed = match next {
                    Ok(Some(listed)) => listed,
                    Ok(None) => break,
                    Err(cause) => {
                        self.failed(side.failure(&dir.from, cause))?;
                        break;
                    }
                };
                entries += listed.len();
                if entries > MAX_ENTRIES {
                    self.failed(side.failure(&dir.from, CopyError::TooMany))?;
                    break;
                }
                for entry in listed {
                    if matches!(entry.name.as_slice(), b"." | b"..") {
                        continue;
                    }
                    let from = join(&dir.from, &entry.name);
                    let seen = beside(&mut running, &mut failed, look(side, &from, entry)).await;
                    match seen {
                        Ok((name, attributes, true)) if dir.depth < MAX_DEPTH => {
                            let to = join(&dir.to, &name);
                            dirs.push(Dir { from, to, attributes, depth: dir.depth + 1 });
                        }
                        Ok((_, _, true)) => self.failed(side.failure(&from, CopyError::TooDeep))?,
                        Ok((name, attributes, false)) => {
                            let to = join(&dir.to, &name);
                            while running.len() >= AT_ONCE {
                                failed.extend(running.next().await.and_then(Result::err));
                            }
                            running.push(start(Job { from, to, attributes }));
                        }
                        Err(cause) => self.failed(side.failure(&from, cause))?,
                    }
                }
                failed.drain(..).try_for_each(|failure| self.failed(failure))?;
            }
            made.push((dir.to, dir.attributes));
        }
        while let Some(done) = running.next().await {
            failed.extend(done.err());
        }
        failed.into_iter().try_for_each(|failure| self.failed(failure))?;
        if options.preserve {
            // Those within others first: what is written into a directory changes its times.
            for (path, Attributes { mode, times, .. }) in made.into_iter().rev() {
                let attributes =
                    Attributes { mode: mode.map(|mode| mode & 0o777), times, ..Attributes::default() };
                if let Err(cause) = target.set(&path, attributes).await {
                    self.failed(target.failure(&path, cause))?;
                }
            }
        }
        Ok(())
    }
}

/// Waits for `work` while files are copied.
async fn beside<T, F: Future<Output = Result<(), CopyFailure>>>(
    running: &mut FuturesUnordered<F>,
    failed: &mut Vec<CopyFailure>,
    work: impl Future<Output = T>,
) -> T {
    let mut work = pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            Some(done) = running.next() => failed.extend(done.err()),
        }
    }
}

/// What is to be done about an entry: its name, and whether it is a directory. Links are followed, as `scp` does.
async fn look(side: &Side, path: &[u8], entry: Entry) -> Result<(Vec<u8>, Attributes, bool), CopyError> {
    let Entry { name, mut attributes } = entry;
    if side.remote_files().is_some() {
        FileName::new(&name)?;
    }
    if matches!(kind(&attributes), None | Some(libc::S_IFLNK)) {
        attributes = side.stat(path).await?;
    }
    let is_dir = checked_kind(&attributes)?;
    Ok((name, attributes, is_dir))
}

/// Whether it is a directory; a regular file if it is not.
pub(crate) fn checked_kind(attributes: &Attributes) -> Result<bool, CopyError> {
    match kind(attributes) {
        Some(libc::S_IFDIR) => Ok(true),
        // Of what the server says nothing, it will.
        None | Some(libc::S_IFREG) => Ok(false),
        Some(_) => Err(CopyError::NotRegular),
    }
}

/// A path as the user wrote it: what is meant as it stands, and patterns behind that.
pub(crate) struct Written {
    prefix: Vec<u8>,
    pattern: Vec<u8>,
}

impl Written {
    /// Without any pattern.
    pub(crate) fn literal(mut self) -> Vec<u8> {
        self.prefix.extend_from_slice(&self.pattern);
        self.prefix
    }
}

/// Replaces `~` and `~name` at the beginning of a path on a node.
pub(crate) async fn prepared(side: &Side, path: &[u8]) -> Result<Written, CopyError> {
    let plain =
        |prefix: &[u8], pattern: &[u8]| Written { prefix: prefix.to_vec(), pattern: pattern.to_vec() };
    let Some(sftp) = side.remote_files() else { return Ok(plain(path, b"")) };
    let end = path.iter().position(|byte| *byte == b'/').unwrap_or(path.len());
    let (first, rest) = path.split_at(end);
    Ok(match (first, rest) {
        // Where servers begin.
        (b"", b"") | (b"~", b"" | b"/") => plain(b".", b""),
        (b"~", rest) => plain(b"", rest.get(1..).unwrap_or_default()),
        ([b'~', ..], rest) => Written { prefix: sftp.expand(first).await?, pattern: rest.to_vec() },
        _ => plain(b"", path),
    })
}

/// The paths that are meant, in their order.
pub(crate) async fn expand(side: &Side, path: &[u8]) -> Result<Vec<Vec<u8>>, CopyError> {
    let Written { prefix, pattern } = prepared(side, path).await?;
    let mut found = vec![prefix];
    let mut magic = false;
    for (index, part) in pattern.split(|byte| *byte == b'/').enumerate() {
        let parsed = Pattern::parse(part);
        let Some(literal) = parsed.literal() else {
            magic = true;
            let mut next = Vec::new();
            for base in found {
                let dir = if index > 0 { [&base, &b"/"[..]].concat() } else { base };
                for name in matching(side, &dir, &parsed).await? {
                    next.push(join(&dir, &name));
                }
                if next.len() > MAX_FOUND {
                    return Err(CopyError::TooMany);
                }
            }
            found = next;
            continue;
        };
        for path in &mut found {
            if index > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(&literal);
        }
    }
    if magic {
        let mut there = Vec::new();
        for path in found {
            // What stands behind a pattern is not everywhere.
            if side.stat(&path).await.is_ok() {
                there.push(path);
            }
        }
        if there.is_empty() {
            // A file may be called like a pattern; if none is, that is what will be said.
            return Ok(vec![prepared(side, path).await?.literal()]);
        }
        return Ok(there);
    }
    Ok(found)
}

/// The names in a directory that a pattern means, sorted. Where there is no directory, none.
async fn matching(side: &Side, dir: &[u8], pattern: &Pattern) -> Result<Vec<Vec<u8>>, CopyError> {
    let dir = if dir.is_empty() { b"." } else { dir };
    let mut listing = match side.list(dir).await {
        Ok(listing) => listing,
        Err(cause) if cause.is_final() => return Err(cause),
        Err(_) => return Ok(Vec::new()),
    };
    let (mut names, mut entries) = (Vec::new(), 0);
    while let Some(listed) = listing.next().await? {
        entries += listed.len();
        if entries > MAX_ENTRIES {
            return Err(CopyError::TooMany);
        }
        // What is no name is none that was asked for.
        let meant = |entry: &Entry| FileName::new(&entry.name).is_ok() && pattern.matches(&entry.name);
        names.extend(listed.into_iter().filter(meant).map(|entry| entry.name));
        if names.len() > MAX_FOUND {
            return Err(CopyError::TooMany);
        }
    }
    names.sort();
    Ok(names)
}
