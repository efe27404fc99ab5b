//! A stock `sshd`: a process for each connection (`sshd -i`), so that the test owns the port and every process.

use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

pub(crate) struct Sshd {
    address: SocketAddr,
    log: PathBuf,
    ending: Arc<AtomicBool>,
    connections: Arc<AtomicUsize>,
    acceptor: Option<JoinHandle<()>>,
}

/// The process of one connection, and no longer than the server.
struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Sshd {
    /// With these lines in its configuration, whose files are in `dir`.
    pub(crate) fn start(dir: &Path, lines: &str) -> Self {
        let (config, log) = (dir.join("sshd_config"), dir.join("sshd.log"));
        let fixed = "PasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\nPidFile none\n\
                     StrictModes no\nLogLevel VERBOSE\n";
        std::fs::write(&config, format!("{lines}\n{fixed}")).unwrap();
        File::create(&log).unwrap();
        // Where the package's sshd, started by root, wants to be confined; the package makes it at boot.
        let _ = std::fs::create_dir("/run/sshd");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let ending = Arc::new(AtomicBool::new(false));
        let connections = Arc::new(AtomicUsize::new(0));
        let (end, append, count) = (Arc::clone(&ending), log.clone(), Arc::clone(&connections));
        let acceptor = std::thread::spawn(move || {
            let mut served: Vec<Served> = Vec::new();
            for stream in listener.incoming() {
                if end.load(Ordering::SeqCst) {
                    break;
                }
                count.fetch_add(1, Ordering::SeqCst);
                served.retain_mut(|served| !matches!(served.0.try_wait(), Ok(Some(_))));
                let socket = OwnedFd::from(stream.unwrap());
                let mut sshd = Command::new("/usr/sbin/sshd");
                sshd.args(["-i", "-e", "-f"]).arg(&config);
                sshd.stdin(Stdio::from(socket.try_clone().unwrap())).stdout(Stdio::from(socket));
                sshd.stderr(Stdio::from(OpenOptions::new().append(true).open(&append).unwrap()));
                let sshd = sshd.spawn().expect("/usr/sbin/sshd (openssh-server) is needed for this test");
                served.push(Served(sshd));
            }
        });
        Self { address, log, ending, connections, acceptor: Some(acceptor) }
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// How many have come.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::SeqCst);
        // Wakes the acceptor.
        drop(TcpStream::connect(self.address));
        if let Some(acceptor) = self.acceptor.take() {
            let ended = acceptor.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the acceptor failed");
        }
    }
}
