//! A network between two daemons that a test breaks: TCP is passed on, until it is not.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use nix::libc::linger;
use nix::sys::socket::{setsockopt, sockopt};

/// What is wrong with the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Every connection is reset, and so is each new one.
    Reset,
    /// Nothing is passed on, and nobody is told. Connections are taken. What was sent arrives when it heals.
    Stall,
    /// What the client sends arrives, and no answer comes back: whatever is asked for is done, and nobody hears of it. When it heals
    /// these connections are reset.
    Mute,
}

pub(crate) const FAULTS: [Fault; 3] = [Fault::Reset, Fault::Stall, Fault::Mute];

#[derive(Debug, Default)]
struct State {
    fault: Option<Fault>,
    /// Connections of before this number are reset.
    valid_from: u64,
    connections: u64,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    over: AtomicBool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Waits while nothing is passed on. `None` if this connection is to be reset, else whether what goes this way is dropped.
    fn passes(&self, connection: u64, answers: bool) -> Option<bool> {
        let mut state = self.lock();
        loop {
            if connection < state.valid_from || self.over.load(Ordering::Relaxed) {
                return None;
            }
            match state.fault {
                Some(Fault::Reset) => return None,
                Some(Fault::Stall) => state = self.changed.wait(state).unwrap(),
                Some(Fault::Mute) => return Some(answers),
                None => return Some(false),
            }
        }
    }
}

/// Passes on to one address.
#[derive(Debug)]
pub(crate) struct Relay {
    port: u16,
    shared: Arc<Shared>,
}

impl Relay {
    pub(crate) fn start(to: u16) -> Self {
        Self::between(0, (Ipv4Addr::LOCALHOST, to).into())
    }

    /// On this port, or any if it is 0.
    pub(crate) fn between(port: u16, to: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::<Shared>::default();
        let relayed = Arc::clone(&shared);
        std::thread::spawn(move || accept(&listener, to, &relayed));
        Self { port, shared }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// How many connections there were so far.
    pub(crate) fn connections(&self) -> u64 {
        self.shared.lock().connections
    }

    /// Breaks the network.
    pub(crate) fn fail(&self, fault: Fault) {
        self.shared.lock().fault = Some(fault);
        self.shared.changed.notify_all();
    }

    /// Mends it.
    pub(crate) fn heal(&self) {
        let mut state = self.shared.lock();
        if state.fault.take() == Some(Fault::Mute) {
            // Bytes are missing.
            state.valid_from = state.connections;
        }
        drop(state);
        self.shared.changed.notify_all();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        self.shared.changed.notify_all();
        // The one that it waits for.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

/// Passes everything on between the two, until one of them ends.
pub(crate) fn join(client: &TcpStream, server: &TcpStream) {
    for (from, to) in [(client, server), (server, client)] {
        let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(std::net::Shutdown::Both);
            let _ = from.shutdown(std::net::Shutdown::Both);
        });
    }
}

/// How often a connection looks whether it is to end.
const LOOK: Duration = Duration::from_millis(10);

/// The last one who lets go of it resets the connection.
fn ends_with_reset(stream: &TcpStream) {
    let _ = setsockopt(stream, sockopt::Linger, &linger { l_onoff: 1, l_linger: 0 });
}

fn accept(listener: &TcpListener, to: SocketAddr, shared: &Arc<Shared>) {
    while let Ok((client, _)) = listener.accept() {
        if shared.over.load(Ordering::Relaxed) {
            return;
        }
        ends_with_reset(&client);
        let number = {
            let mut state = shared.lock();
            state.connections += 1;
            state.connections - 1
        };
        let shared = Arc::clone(shared);
        std::thread::spawn(move || connection(client, to, number, &shared));
    }
}

fn connection(client: TcpStream, to: SocketAddr, number: u64, shared: &Arc<Shared>) {
    // The client is connected whatever is behind.
    if shared.passes(number, false).is_none() {
        return;
    }
    let Ok(server) = TcpStream::connect(to) else { return };
    ends_with_reset(&server);
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(LOOK)).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.set_nodelay(true).unwrap();
    }
    std::thread::scope(|scope| {
        scope.spawn(|| pass(&client, &server, number, false, shared));
        pass(&server, &client, number, true, shared);
    });
}

/// One direction of a connection, until its end or that of the connection.
fn pass(mut from: &TcpStream, mut to: &TcpStream, number: u64, answers: bool, shared: &Shared) {
    let mut bytes = [0; 16 << 10];
    loop {
        let read = match from.read(&mut bytes) {
            Ok(read) => read,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if shared.passes(number, answers).is_none() {
                    return;
                }
                continue;
            }
            Err(_) => 0,
        };
        match shared.passes(number, answers) {
            None => return,
            // It is not told of the end either.
            Some(true) => {}
            Some(false) if read == 0 => {
                let _ = to.shutdown(std::net::Shutdown::Write);
                return;
            }
            Some(false) => {
                if to.write_all(&bytes[..read]).is_err() {
                    return;
                }
            }
        }
        if read == 0 {
            return;
        }
    }
}
