//! Who is logged in on which terminal: utmp(5), as `who` and `w` read it, and wtmp(5), as `last` does.
//!
//! Not by the C library's functions: they wait for their lock with the help of an alarm, which a program of many threads cannot
//! afford. As with them, files that do not exist are not made: that is how an administrator says that there shall be no records.

#[cfg(test)]
mod tests;

use std::ffi::c_char;
use std::fs::{File, OpenOptions};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use teleport_core::clock::{Clock, Timestamp};

/// The length of a record, in bytes.
const LEN: usize = size_of::<libc::utmpx>();
/// Other programs hold the lock for microseconds. Whoever may read the file may also keep it locked, which must not keep anybody
/// from logging in.
const LOCK_TRIES: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Where logins on terminals are recorded. Clones write to the same files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginRecords {
    utmp: PathBuf,
    wtmp: PathBuf,
}

impl Default for LoginRecords {
    /// `/var/run/utmp` and `/var/log/wtmp`.
    fn default() -> Self {
        Self::new("/var/run/utmp", "/var/log/wtmp")
    }
}

/// A login on a terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Login {
    /// The device, such as `/dev/pts/3`.
    pub terminal: PathBuf,
    /// The login name.
    pub user: String,
    /// Where the client is.
    pub from: SocketAddr,
}

impl Login {
    /// A login.
    pub fn new(terminal: impl Into<PathBuf>, user: impl Into<String>, from: SocketAddr) -> Self {
        Self { terminal: terminal.into(), user: user.into(), from }
    }
}

/// A login that is recorded. Dropping it records its end, on a thread for what blocks where there is one.
#[derive(Debug)]
#[must_use = "dropping it says that the login is over"]
pub struct LoggedIn {
    records: LoginRecords,
    login: Login,
    since: Timestamp,
    /// Programs leave out whose process is gone.
    pid: i32,
    clock: Arc<dyn Clock>,
}

impl LoggedIn {
    /// Says which process leads the session, as soon as there is one. Until then it is this one. Blocks, half a second at most.
    pub fn lead_by(&mut self, pid: i32) {
        let was = std::mem::replace(&mut self.pid, pid);
        let record = self.record(libc::USER_PROCESS, self.since);
        told(&self.records.utmp, replace(&self.records.utmp, &record, Some(was)));
    }

    fn record(&self, kind: i16, at: Timestamp) -> libc::utmpx {
        record(&self.login, self.pid, kind, at.unix_millis())
    }
}

impl LoginRecords {
    /// In other files.
    pub fn new(utmp: impl Into<PathBuf>, wtmp: impl Into<PathBuf>) -> Self {
        Self { utmp: utmp.into(), wtmp: wtmp.into() }
    }

    /// Records a login. Blocks, half a second at most. What cannot be written is logged: nobody is kept out for it.
    pub fn log_in(&self, login: Login, clock: Arc<dyn Clock>) -> LoggedIn {
        let pid = i32::try_from(std::process::id()).unwrap_or_default();
        let logged_in = LoggedIn { records: self.clone(), login, since: clock.now(), pid, clock };
        self.write(&logged_in.record(libc::USER_PROCESS, logged_in.since), None);
        logged_in
    }

    /// `of`: only over a record of this process.
    fn write(&self, record: &libc::utmpx, of: Option<i32>) {
        told(&self.utmp, replace(&self.utmp, record, of));
        told(&self.wtmp, append(&self.wtmp, record));
    }
}

fn told(path: &Path, written: io::Result<()>) {
    if let Err(error) = written
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), error = &error as &dyn std::error::Error, "a login cannot be recorded");
    }
}

impl Drop for LoggedIn {
    fn drop(&mut self) {
        let over = self.record(libc::DEAD_PROCESS, self.clock.now());
        let (records, pid) = (self.records.clone(), self.pid);
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || records.write(&over, Some(pid)))),
            Err(_) => records.write(&over, Some(pid)),
        }
    }
}

fn record(login: &Login, pid: i32, kind: i16, unix_millis: u64) -> libc::utmpx {
    // SAFETY: numbers and arrays of numbers, for which zeroes are values.
    let mut record: libc::utmpx = unsafe { std::mem::zeroed() };
    let line = login.terminal.strip_prefix("/dev").unwrap_or(&login.terminal).to_string_lossy();
    record.ut_type = kind;
    record.ut_pid = pid;
    put(&mut record.ut_line, line.as_bytes());
    // Four bytes have to do: other servers take the last ones.
    let id = line.len().saturating_sub(record.ut_id.len());
    put(&mut record.ut_id, line.as_bytes().get(id..).unwrap_or_default());
    if kind == libc::USER_PROCESS {
        put(&mut record.ut_user, login.user.as_bytes());
        let ip = login.from.ip().to_canonical();
        put(&mut record.ut_host, ip.to_string().as_bytes());
        // As it is on the wire.
        let words = |bytes: &[u8; 16]| {
            let mut words = [0; 4];
            for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(4)) {
                *word = i32::from_ne_bytes(bytes.try_into().unwrap_or_default());
            }
            words
        };
        record.ut_addr_v6 = match ip {
            IpAddr::V4(ip) => [i32::from_ne_bytes(ip.octets()), 0, 0, 0],
            IpAddr::V6(ip) => words(&ip.octets()),
        };
    }
    // Of 32 bits everywhere but on some machines; past 2038 it wraps, as everybody's does.
    record.ut_tv.tv_sec = (unix_millis / 1000) as _;
    record.ut_tv.tv_usec = (unix_millis % 1000 * 1000) as _;
    record
}

/// As many bytes as there is room for; the rest stays zero.
fn put(field: &mut [c_char], text: &[u8]) {
    for (to, from) in field.iter_mut().zip(text) {
        *to = *from as c_char;
    }
}

fn bytes(record: &libc::utmpx) -> &[u8] {
    // SAFETY: `record` was zeroed as a whole, so that what is between its fields is initialised too; the slice has its lifetime.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(record).cast(), LEN) }
}

/// Writes over the record of the same terminal, or behind all. If it is to be `of` a process and is of another's, the terminal is
/// somebody else's already, and nothing is written.
fn replace(path: &Path, record: &libc::utmpx, of: Option<i32>) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let _lock = Lock::take(&file)?;
    let own = id(bytes(record));
    let mut there = [0; LEN];
    let mut at = 0;
    loop {
        match file.read_exact_at(&mut there, at) {
            Ok(()) if id(&there) == own => {
                if of.is_some_and(|of| pid(&there) != Some(of)) {
                    return Ok(());
                }
                break;
            }
            Ok(()) => at += LEN as u64,
            // The end, or less than a record.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error),
        }
    }
    file.write_all_at(bytes(record), at)
}

fn append(path: &Path, record: &libc::utmpx) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    let _lock = Lock::take(&file)?;
    let len = file.metadata()?.len();
    // A record that was written in part would shift all behind it.
    file.write_all_at(bytes(record), len - len % LEN as u64)
}

/// What records of processes of one terminal have in common; `None` of others, such as of the system's start.
fn id(record: &[u8]) -> Option<&[u8]> {
    let from = std::mem::offset_of!(libc::utmpx, ut_id);
    let kind = record.get(..2)?.try_into().map(i16::from_ne_bytes).ok()?;
    let is_of_process =
        matches!(kind, libc::INIT_PROCESS | libc::LOGIN_PROCESS | libc::USER_PROCESS | libc::DEAD_PROCESS);
    record.get(from..from + 4).filter(|_| is_of_process)
}

fn pid(record: &[u8]) -> Option<i32> {
    let from = std::mem::offset_of!(libc::utmpx, ut_pid);
    record.get(from..from + size_of::<libc::pid_t>())?.try_into().map(i32::from_ne_bytes).ok()
}

/// The lock of a whole file, which programs that use the C library take as well.
struct Lock<'a>(&'a File);

impl<'a> Lock<'a> {
    fn take(file: &'a File) -> io::Result<Self> {
        for _ in 0..LOCK_TRIES {
            match fcntl(file, FcntlArg::F_OFD_SETLK(&whole(libc::F_WRLCK))) {
                Ok(_) => return Ok(Self(file)),
                Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => std::thread::sleep(LOCK_PAUSE),
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        // Closing the file does it as well.
        let _ = fcntl(self.0, FcntlArg::F_OFD_SETLK(&whole(libc::F_UNLCK)));
    }
}

fn whole(kind: i32) -> libc::flock {
    libc::flock { l_type: kind as _, l_whence: libc::SEEK_SET as _, l_start: 0, l_len: 0, l_pid: 0 }
}
