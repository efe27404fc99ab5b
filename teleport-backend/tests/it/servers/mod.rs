//! Real servers in temporary directories on free ports, and what can stand between them and us. They end with the value.

mod etcd;
mod postgres;
pub(crate) mod proxy;
mod tls;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use teleport_backend::network::{BoxedStream, Network, Remote, TlsOptions};
use teleport_core::entropy::SystemEntropy;
use tokio::time::Instant;

pub(crate) use self::etcd::Etcd;
pub(crate) use self::postgres::Postgres;
pub(crate) use self::tls::Authority;

/// How long anything may take on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Plain TCP.
#[derive(Debug)]
struct Tcp;

#[async_trait]
impl Network for Tcp {
    async fn connect(&self, host: &str, port: u16) -> std::io::Result<BoxedStream> {
        let stream = tokio::net::TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }

    async fn secure(&self, _: BoxedStream, host: &str, _: &TlsOptions) -> std::io::Result<BoxedStream> {
        Err(std::io::Error::other(format!("the tests of the drivers have no TLS for {host}")))
    }
}

pub(crate) fn remote() -> Remote {
    Remote::new(Arc::new(Tcp), Arc::new(SystemEntropy::new()))
}

/// A port that nobody uses, that no other test gets while this process lives, and that the system does not hand out by itself: a server
/// that starts again finds it free, and who looks for it meanwhile does not find itself.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    static OURS: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());
    let first = u16::try_from(std::process::id() % 10_000).unwrap();
    let port = (0..10_000).find_map(|_| {
        let port = 10_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
        let name = SocketAddr::from_abstract_name(format!("teleport-test-port-{port}")).unwrap();
        let ours = UnixListener::bind_addr(&name).ok()?;
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
        OURS.lock().unwrap().push(ours);
        Some(port)
    });
    port.expect("a free port")
}

pub(crate) async fn answers(port: u16) -> bool {
    tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok()
}

/// A program that the kernel sends this signal when the thread that starts it has ended: what a test leaves behind that is killed itself goes with it.
pub(crate) fn mortal(program: impl AsRef<OsStr>, signal: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", signal, "--"]).arg(program);
    command
}

/// A process that ends with the value, and what it said.
#[derive(Debug)]
struct Process {
    child: Child,
    package: &'static str,
    said: Arc<Mutex<String>>,
}

impl Process {
    /// Of a [`mortal`] command.
    fn start(command: &mut Command, package: &'static str) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let log = child.stderr.take().unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let lines = Arc::clone(&said);
        // Read to its end, so that the server never waits for room in the pipe.
        std::thread::spawn(move || {
            for line in BufReader::new(log).lines().map_while(Result::ok) {
                let mut said = lines.lock().unwrap();
                if said.len() < 100_000 {
                    said.push_str(&line);
                    said.push('\n');
                }
            }
        });
        Self { child, package, said }
    }

    /// Whether it became ready; `false` if it ended.
    async fn until(&mut self, ready: impl AsyncFn() -> bool) -> bool {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait().unwrap() {
                let there = status.code() != Some(127);
                assert!(there, "install {}, or run .ci/test, which does", self.package);
                return false;
            }
            if ready().await {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the server does not answer: {}", self.said.lock().unwrap());
    }
}

impl Process {
    /// `kill -9`.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_some()) {
            return;
        }
        // At once, but so that it can give back what the system does not take from the dead, such as shared memory.
        let id = self.child.id().to_string();
        let _ = Command::new("kill").args(["-QUIT", &id]).status();
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
