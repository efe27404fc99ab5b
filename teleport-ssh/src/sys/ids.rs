//! The ids of an account, taken for good by a process that begins as root's.
//!
//! Other processes of a user may attach to a process from the moment it is the user's, unless it is not dumpable; a program that is
//! only started is. What must not be looked into therefore begins as root's and takes the ids by itself: from that on, the kernel holds
//! it for not dumpable.

use std::ffi::OsStr;
use std::io;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::unistd::{Gid, Uid, getgroups, getresgid, getresuid, setgroups, setresgid, setresuid};

use super::accounts::Account;
use super::host;

/// The ids of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ids {
    uid: u32,
    gid: u32,
    /// Sorted.
    groups: Vec<u32>,
}

impl Ids {
    pub(crate) fn of(account: &Account) -> Self {
        Self { uid: account.uid, gid: account.gid, groups: account.groups.clone() }
    }

    /// As an argument of a program.
    pub(crate) fn to_argument(&self) -> Vec<u8> {
        let all = [self.uid, self.gid].into_iter().chain(self.groups.iter().copied());
        all.map(|id| id.to_string()).collect::<Vec<_>>().join(",").into_bytes()
    }

    /// What an argument says.
    pub(crate) fn parse(argument: &OsStr) -> Option<Self> {
        let mut ids =
            argument.to_str()?.split(',').map(|id| id.parse::<u32>().ok().filter(|id| *id != u32::MAX));
        let (uid, gid) = (ids.next()??, ids.next()??);
        Some(Self { uid, gid, groups: ids.collect::<Option<_>>()? })
    }

    /// Gives this process these ids and no way back, and lets nobody attach to it. A process that is not root's can only keep what it
    /// has.
    ///
    /// # Errors
    /// When one of it cannot be done: the process must end.
    pub(crate) fn take(&self) -> io::Result<()> {
        prctl::set_dumpable(false)?;
        if !host::is_root() {
            return if host::effective_uid() == self.uid { Ok(()) } else { Err(Errno::EPERM.into()) };
        }
        let groups: Vec<Gid> = self.groups.iter().copied().map(Gid::from_raw).collect();
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        setgroups(&groups)?;
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)?;
        // The kernel has made it so again; where the administrator has it otherwise, this does.
        prctl::set_dumpable(false)?;
        self.prove()
    }

    /// Believes nothing: asks the kernel for all ids, and tries to become root again.
    fn prove(&self) -> io::Result<()> {
        let (uids, gids) = (getresuid()?, getresgid()?);
        let mut groups: Vec<u32> = getgroups()?.into_iter().map(Gid::as_raw).collect();
        groups.sort_unstable();
        let taken = [uids.real, uids.effective, uids.saved].map(Uid::as_raw) == [self.uid; 3]
            && [gids.real, gids.effective, gids.saved].map(Gid::as_raw) == [self.gid; 3]
            && groups == self.groups;
        let keep = Uid::from_raw(u32::MAX);
        if !taken || (self.uid != 0 && setresuid(keep, Uid::from_raw(0), keep).is_ok()) {
            return Err(Errno::EPERM.into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn ids_are_read_as_they_were_written() {
        for groups in [vec![], vec![0], vec![4, 27, 1000]] {
            let ids = Ids { uid: 1000, gid: 100, groups };
            let argument = String::from_utf8(ids.to_argument()).unwrap();
            assert_eq!(Ids::parse(OsStr::new(&argument)), Some(ids));
        }
        for bad in ["", "1", "1,", "1,2,", "-1,2", "1,4294967295", "4294967296,1", "1 ,2", "root,0"] {
            assert_eq!(Ids::parse(OsStr::new(bad)), None, "{bad:?}");
        }
    }
}
