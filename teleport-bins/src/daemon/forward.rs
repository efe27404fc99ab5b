//! Where the audit log is passed on to: standard output, syslog. A thread for each, and a bounded queue: nothing here holds up
//! the log.

use std::io::{self, Write};
use std::net::{TcpStream, ToSocketAddrs, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use teleport_core::audit::{AuditForwarder, syslog_message};

use crate::config::ForwardTo;

/// The most lines that wait.
const QUEUE: usize = 1024;
/// How long a connection or a write to it may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait before the next attempt.
const PAUSE: Duration = Duration::from_secs(1);
/// How long what waits may still be passed on when the log is closed.
const GRACE: Duration = Duration::from_secs(2);

/// A forwarder and its thread.
#[derive(Debug)]
pub(super) struct Forwarder {
    name: String,
    /// `None` only while it is dropped.
    queue: Option<SyncSender<Vec<u8>>>,
    /// What the thread could not pass on.
    lost: Arc<AtomicU64>,
    ended: Mutex<Receiver<()>>,
}

impl Forwarder {
    /// Starts the thread. Whether the other side is there does not matter yet.
    pub(super) fn start(to: ForwardTo, host: String) -> Result<Arc<dyn AuditForwarder>> {
        let (queue, lines) = mpsc::sync_channel(QUEUE);
        let (end, ended) = mpsc::channel();
        let lost = Arc::new(AtomicU64::new(0));
        let name = to.to_string();
        let worker =
            Worker { to, host, name: name.clone(), output: None, failing: false, lost: Arc::clone(&lost) };
        std::thread::Builder::new()
            .name("audit-forward".to_owned())
            .spawn(move || {
                worker.run(&lines);
                drop(end);
            })
            .context("a thread for the forwarder of the audit log")?;
        Ok(Arc::new(Self { name, queue: Some(queue), lost, ended: Mutex::new(ended) }))
    }
}

impl AuditForwarder for Forwarder {
    fn name(&self) -> &str {
        &self.name
    }

    fn forward(&self, line: &[u8]) -> u64 {
        let taken = self.queue.as_ref().is_some_and(|queue| queue.try_send(line.to_vec()).is_ok());
        self.lost.swap(0, Ordering::Relaxed) + u64::from(!taken)
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.queue = None;
        // Whatever does not take it in time does not get it: stopping does not depend on others.
        let _ = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner).recv_timeout(GRACE);
    }
}

#[derive(Debug)]
enum Output {
    Stdout,
    Tcp(TcpStream),
    Udp(UdpSocket),
    Unix(UnixDatagram),
}

struct Worker {
    to: ForwardTo,
    host: String,
    name: String,
    output: Option<Output>,
    /// Whether it was logged that it does not work.
    failing: bool,
    lost: Arc<AtomicU64>,
}

impl Worker {
    fn run(mut self, lines: &Receiver<Vec<u8>>) {
        while let Ok(line) = lines.recv() {
            let mut attempt = self.pass(&line);
            if attempt.is_err() {
                // The other side may have been started anew.
                attempt = self.pass(&line);
            }
            match attempt {
                Ok(()) if self.failing => {
                    self.failing = false;
                    tracing::info!(to = self.name, "the audit log is forwarded again");
                }
                Ok(()) => {}
                Err(error) => {
                    self.lost.fetch_add(1, Ordering::Relaxed);
                    if !std::mem::replace(&mut self.failing, true) {
                        let error: &dyn std::error::Error = &error;
                        tracing::warn!(to = self.name, error, "the audit log cannot be forwarded");
                    }
                    if is_too_long(&error) {
                        continue;
                    }
                    std::thread::park_timeout(PAUSE);
                }
            }
        }
    }

    fn pass(&mut self, line: &[u8]) -> io::Result<()> {
        let mut output = match self.output.take() {
            Some(output) => output,
            None => open(&self.to)?,
        };
        let message = || syslog_message(line, &self.host, std::process::id()).unwrap_or_default();
        match &mut output {
            Output::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(line)?;
                stdout.write_all(b"\n")?;
                stdout.flush()?;
            }
            Output::Tcp(stream) => {
                // The length in front: RFC 6587 section 3.4.1.
                let message = message();
                let frame = [message.len().to_string().as_bytes(), b" ", &message].concat();
                stream.write_all(&frame)?;
            }
            Output::Udp(socket) => drop(socket.send(&message())?),
            Output::Unix(socket) => drop(socket.send(&message())?),
        }
        self.output = Some(output);
        Ok(())
    }
}

/// `EMSGSIZE`: it will not fit later either.
fn is_too_long(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::errno::Errno::EMSGSIZE as i32)
}

fn open(to: &ForwardTo) -> io::Result<Output> {
    let resolve = |address: &str| -> io::Result<std::net::SocketAddr> {
        address.to_socket_addrs()?.next().ok_or_else(|| io::ErrorKind::NotFound.into())
    };
    Ok(match to {
        ForwardTo::Stdout => Output::Stdout,
        ForwardTo::SyslogTcp(address) => {
            let stream = TcpStream::connect_timeout(&resolve(address)?, PATIENCE)?;
            stream.set_write_timeout(Some(PATIENCE))?;
            Output::Tcp(stream)
        }
        ForwardTo::SyslogUdp(address) => {
            let address = resolve(address)?;
            let any: std::net::IpAddr = if address.is_ipv6() {
                std::net::Ipv6Addr::UNSPECIFIED.into()
            } else {
                std::net::Ipv4Addr::UNSPECIFIED.into()
            };
            let socket = UdpSocket::bind((any, 0))?;
            socket.connect(address)?;
            Output::Udp(socket)
        }
        ForwardTo::SyslogUnix(path) => {
            let socket = UnixDatagram::unbound()?;
            socket.connect(path)?;
            socket.set_write_timeout(Some(PATIENCE))?;
            Output::Unix(socket)
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
    use std::io::Read;
    use std::net::TcpListener;

    use teleport_core::audit::{AuditEvent, EventKind};

    use super::*;

    fn line(user: &str) -> Vec<u8> {
        serde_json::to_vec(&AuditEvent::new(EventKind::UserLogin).user(user)).unwrap()
    }

    #[test]
    fn lines_arrive_at_a_local_syslog_also_when_it_is_started_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let bind = || {
            let socket = UnixDatagram::bind(&path).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            socket
        };
        let receive = |socket: &UnixDatagram| {
            let mut buffer = vec![0; 65536];
            let len = socket.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..len].to_vec()).unwrap()
        };
        let syslog = bind();
        let forwarder = Forwarder::start(ForwardTo::SyslogUnix(path.clone()), "auth-1".to_owned()).unwrap();
        assert_eq!(forwarder.forward(&line("alice")), 0);
        let message = receive(&syslog);
        assert!(message.starts_with("<110>1 ") && message.contains(" auth-1 teleport "), "{message}");
        assert!(message.ends_with(std::str::from_utf8(&line("alice")).unwrap()), "{message}");
        drop(syslog);
        std::fs::remove_file(&path).unwrap();
        let syslog = bind();
        forwarder.forward(&line("bob"));
        assert!(receive(&syslog).contains("bob"));
        // What waits when the log is closed still arrives.
        for number in 0..20 {
            forwarder.forward(&line(&format!("user-{number}")));
        }
        let last = std::thread::spawn(move || {
            (0..20).map(|_| receive(&syslog)).fold(String::new(), |_, message| message)
        });
        drop(forwarder);
        assert!(last.join().unwrap().contains("user-19"));
    }

    #[test]
    fn lines_are_framed_on_a_stream_and_alone_in_a_datagram() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap().to_string();
        let forwarder = Forwarder::start(ForwardTo::SyslogTcp(address), "a".to_owned()).unwrap();
        forwarder.forward(&line("alice"));
        forwarder.forward(&line("bob"));
        drop(forwarder);
        let mut received = String::new();
        server.accept().unwrap().0.read_to_string(&mut received).unwrap();
        let (len, rest) = received.split_once(' ').unwrap();
        let (first, second) = rest.split_at(len.parse().unwrap());
        assert!(first.ends_with('}') && first.contains("alice"), "{first}");
        let (len, rest) = second.split_once(' ').unwrap();
        assert_eq!(rest.len(), len.parse::<usize>().unwrap());

        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        server.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let address = server.local_addr().unwrap().to_string();
        let forwarder = Forwarder::start(ForwardTo::SyslogUdp(address), "a".to_owned()).unwrap();
        forwarder.forward(&line("alice"));
        let mut buffer = vec![0; 65536];
        let len = server.recv(&mut buffer).unwrap();
        assert!(buffer[..len].starts_with(b"<110>1 ") && buffer[..len].ends_with(b"}"));
    }

    #[test]
    fn nobody_waits_for_a_forwarder_that_does_not_work() {
        let gone = tempfile::tempdir().unwrap().path().join("log");
        let forwarder = Forwarder::start(ForwardTo::SyslogUnix(gone), "a".to_owned()).unwrap();
        let lines = 3 * QUEUE as u64;
        let dropped: u64 = (0..lines).map(|_| forwarder.forward(&line("alice"))).sum();
        assert!(dropped >= lines - QUEUE as u64 - 8, "{dropped} of {lines}");
    }
}
