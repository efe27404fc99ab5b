//! Sockets that belong to an account.
//!
//! To whom a socket belongs, the kernel decides when it is made: by the file system's user id of the thread that makes it. Rules of
//! packet filters (`meta skuid`, `--uid-owner`), by which hosts say what their users may reach, go by that owner, and so does
//! everything that asks `/proc/net/tcp`. A connection that the daemon makes for a user must not be root's.
//!
//! Only that id is changed, of one thread and for one call: the real and effective ids stay, so that nobody may send a signal to the
//! thread or look into it meanwhile.

use super::accounts::Account;
use super::host;

/// Calls `make` so that the sockets that it makes belong to `account`. It must not wait for anything, and opens no files: their
/// permissions would be checked with the account's id and the daemon's groups.
pub(crate) fn of<T>(account: &Account, make: impl FnOnce() -> T) -> T {
    let _restored = (host::is_root() && account.uid != 0).then(|| Owner::enter(account.uid));
    make()
}

/// The id before.
struct Owner(libc::uid_t);

impl Owner {
    fn enter(uid: u32) -> Self {
        let before = current();
        set(uid);
        Self(before)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // Always permitted, for it is the effective id; the kernel only says whether it had the memory by what it is afterwards.
        while current() != self.0 {
            set(self.0);
        }
    }
}

fn set(uid: libc::uid_t) {
    // SAFETY: takes a number, and changes the calling thread alone.
    unsafe { libc::setfsuid(uid) };
}

fn current() -> libc::uid_t {
    // SAFETY: no user has this id, so nothing is changed, and the id that counts is what is returned.
    unsafe { libc::setfsuid(libc::uid_t::MAX) }.cast_unsigned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use std::net::TcpListener;
    use std::os::fd::AsFd;

    use super::*;

    fn owner(socket: impl AsFd) -> u32 {
        nix::sys::stat::fstat(socket).unwrap().st_uid
    }

    #[test]
    fn a_socket_belongs_to_the_account_and_the_thread_stays_what_it_was() {
        let me = Account::lookup(&host::current_login().unwrap()).unwrap();
        let own = of(&me, || TcpListener::bind("127.0.0.1:0").unwrap());
        assert_eq!(owner(&own), me.uid);
        let Ok(nobody) = Account::lookup("nobody") else { return };
        if !host::is_root() {
            return;
        }
        let theirs = of(&nobody, || TcpListener::bind("127.0.0.1:0").unwrap());
        assert_eq!(owner(&theirs), nobody.uid);
        assert_eq!(owner(TcpListener::bind("127.0.0.1:0").unwrap()), 0);
        assert_eq!((current(), host::effective_uid()), (0, 0));
    }
}
