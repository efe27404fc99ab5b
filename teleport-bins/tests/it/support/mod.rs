//! What the tests share: clusters, users, programs, terminals.

pub(crate) mod cluster;
pub(crate) mod daemon;
pub(crate) mod namespaces;
pub(crate) mod pebble;
pub(crate) mod program;
pub(crate) mod relay;
pub(crate) mod small_disk;
pub(crate) mod sshd;
pub(crate) mod tmux;
pub(crate) mod user;
pub(crate) mod wall_clock;
pub(crate) mod wire;

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

/// No state that a test waits for may take longer; healthy ones take a small part of it.
pub(crate) const LIMIT: Duration = Duration::from_secs(100);

/// Looks again and again until there is something, and fails at the limit.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = tokio::time::Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < LIMIT, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The next one who comes; fails at the limit.
#[track_caller]
pub(crate) fn accept(listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).unwrap();
    let stream = wait_for("somebody who connects", || match listener.accept() {
        Ok((stream, _)) => Some(stream),
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) => panic!("{error}"),
    });
    stream.set_nonblocking(false).unwrap();
    stream
}

/// The login of whoever runs the tests: the one that a node serves with and without root.
pub(crate) fn own_login() -> String {
    nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name
}

/// Every byte value, without a short period.
pub(crate) fn bytes(length: usize) -> Vec<u8> {
    bytes_of(0, length)
}

/// The same, differently for each seed.
pub(crate) fn bytes_of(seed: u32, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..length).map(next).collect()
}
