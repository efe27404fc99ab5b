//! A directory's entries: their attributes, and the line that `ls -l` would show of each.

use std::collections::HashMap;
use std::fs::{Metadata, ReadDir};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use nix::unistd::{Gid, Group, Uid, User};

use super::files;
use super::wire::{Attributes, Packet};
use crate::sys::time::LocalTime;

/// The most entries of one answer.
const ENTRIES_AT_ONCE: u32 = 256;
/// An answer is ended when it has become so long, in bytes: one more entry always fits a packet.
const LONG: usize = 64 << 10;
/// How many names of users and of groups are remembered.
const MAX_NAMES: usize = 4096;
/// What is older is shown with its year instead of the time of day, as `ls` does: half a year, in seconds.
const RECENT: i64 = 31_556_952 / 2;

/// Names of users and groups, looked up once each.
#[derive(Debug, Default)]
pub(super) struct Names {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl Names {
    /// Empty where the system has no name.
    pub(super) fn user(&mut self, id: u32) -> &str {
        let look_up = |id| User::from_uid(Uid::from_raw(id)).ok().flatten().map(|user| user.name);
        remembered(&mut self.users, id, look_up)
    }

    /// Empty where the system has no name.
    pub(super) fn group(&mut self, id: u32) -> &str {
        let look_up = |id| Group::from_gid(Gid::from_raw(id)).ok().flatten().map(|group| group.name);
        remembered(&mut self.groups, id, look_up)
    }
}

fn remembered(names: &mut HashMap<u32, String>, id: u32, look_up: impl Fn(u32) -> Option<String>) -> &str {
    if names.len() >= MAX_NAMES {
        names.clear();
    }
    names.entry(id).or_insert_with(|| look_up(id).unwrap_or_default())
}

/// A directory that is being read.
#[derive(Debug)]
pub(super) struct Listing {
    path: PathBuf,
    /// What every directory has, and the library leaves out.
    dots: std::array::IntoIter<&'static str, 2>,
    entries: ReadDir,
}

impl Listing {
    pub(super) fn open(path: PathBuf) -> std::io::Result<Self> {
        let entries = path.read_dir()?;
        Ok(Self { path, dots: [".", ".."].into_iter(), entries })
    }

    /// Puts the next entries into an answer behind their number, and says how many; none at the end. An entry that has gone
    /// meanwhile is left out.
    pub(super) fn put(&mut self, answer: &mut Packet<'_>, names: &mut Names, now: i64) -> u32 {
        let mut count = 0;
        while count < ENTRIES_AT_ONCE && answer.len() < LONG {
            let (name, metadata) = if let Some(name) = self.dots.next() {
                (name.into(), self.path.join(name).symlink_metadata())
            } else {
                // An error of reading on ends the list, as with the system's own programs.
                let Some(Ok(entry)) = self.entries.next() else { break };
                (entry.file_name(), entry.metadata())
            };
            let Ok(metadata) = metadata else { continue };
            let name = name.as_bytes();
            answer
                .string(name)
                .string(line(name, &metadata, names, now))
                .attributes(&files::attributes(&metadata));
            count += 1;
        }
        count
    }
}

/// As `ls -l` shows it.
fn line(name: &[u8], metadata: &Metadata, names: &mut Names, now: i64) -> Vec<u8> {
    let Attributes { mode, owner, size, .. } = files::attributes(metadata);
    let (user, group) = owner.unwrap_or_default();
    let or_number = |name: &str, id: u32| if name.is_empty() { id.to_string() } else { name.to_owned() };
    let user = or_number(names.user(user), user);
    let group = or_number(names.group(group), group);
    let mut line = Vec::with_capacity(name.len() + 80);
    // Writing into memory does not fail.
    let _ = write!(
        line,
        "{} {:3} {user:8} {group:8} {:8} {} ",
        Mode(mode.unwrap_or_default()),
        metadata.nlink(),
        size.unwrap_or_default(),
        date(metadata.mtime(), now),
    );
    line.extend_from_slice(name);
    line
}

fn date(seconds: i64, now: i64) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let Some(time) = LocalTime::of(seconds) else { return seconds.to_string() };
    let month = MONTHS.get(usize::from(time.month0)).copied().unwrap_or("???");
    if (now - RECENT..=now).contains(&seconds) {
        format!("{month} {:2} {:02}:{:02}", time.day, time.hour, time.minute)
    } else {
        format!("{month} {:2}  {}", time.day, time.year)
    }
}

/// Kind and permissions in letters.
struct Mode(u32);

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(mode) = self;
        let kind = match mode & libc::S_IFMT {
            libc::S_IFDIR => 'd',
            libc::S_IFLNK => 'l',
            libc::S_IFCHR => 'c',
            libc::S_IFBLK => 'b',
            libc::S_IFIFO => 'p',
            libc::S_IFSOCK => 's',
            libc::S_IFREG => '-',
            _ => '?',
        };
        write!(f, "{kind}")?;
        // Three letters for each of user, group and others; the last one tells of set-id and sticky bits too.
        for (shift, special, both, alone) in
            [(6, libc::S_ISUID, 's', 'S'), (3, libc::S_ISGID, 's', 'S'), (0, libc::S_ISVTX, 't', 'T')]
        {
            let bits = mode >> shift;
            let may = |bit, letter| if bits & bit != 0 { letter } else { '-' };
            let last = match (mode & special != 0, bits & 1 != 0) {
                (true, true) => both,
                (true, false) => alone,
                (false, _) => may(1, 'x'),
            };
            write!(f, "{}{}{last}", may(4, 'r'), may(2, 'w'))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn modes_are_shown_as_ls_shows_them() {
        for (mode, shown) in [
            (0o100_644, "-rw-r--r--"),
            (0o104_755, "-rwsr-xr-x"),
            (0o102_644, "-rw-r-Sr--"),
            (0o041_777, "drwxrwxrwt"),
            (0o041_776, "drwxrwxrwT"),
            (0o120_777, "lrwxrwxrwx"),
            (0o020_620, "crw--w----"),
        ] {
            assert_eq!(Mode(mode).to_string(), shown);
        }
    }

    #[test]
    fn lines_are_those_of_ls() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let metadata = file.path().metadata().unwrap();
        let ls = |arguments: &[&str]| {
            let output =
                std::process::Command::new("ls").env("LC_ALL", "C").args(arguments).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            text.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        let name = file.path().to_str().unwrap();
        for now in [metadata.mtime(), metadata.mtime() + 2 * RECENT] {
            let ours = line(name.as_bytes(), &metadata, &mut Names::default(), now);
            let ours = String::from_utf8(ours).unwrap();
            let ours: Vec<_> = ours.split_whitespace().collect();
            if now == metadata.mtime() {
                assert_eq!(ours, ls(&["-l", name]));
            } else {
                assert_eq!(ours, ls(&["-l", "--time-style=+%b %e  %Y", name]));
            }
        }
    }
}
