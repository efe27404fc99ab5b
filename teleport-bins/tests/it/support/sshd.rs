//! A stock `sshd`: a process for each connection (`sshd -i`), so that the test owns the port and every process.

use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

pub(crate) struct Sshd {
    address: SocketAddr,
    log: PathBuf,
    ending: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
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
        let (end, append) = (Arc::clone(&ending), log.clone());
        let acceptor = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if end.load(Ordering::SeqCst) {
                    break;
                }
                let socket = OwnedFd::from(stream.unwrap());
                let mut sshd = Command::new("/usr/sbin/sshd");
                sshd.args(["-i", "-e", "-f"]).arg(&config);
                sshd.stdin(Stdio::from(socket.try_clone().unwrap())).stdout(Stdio::from(socket));
                sshd.stderr(Stdio::from(OpenOptions::new().append(true).open(&append).unwrap()));
                sshd.status().expect("/usr/sbin/sshd (openssh-server) is needed for this test");
            }
        });
        Self { address, log, ending, acceptor: Some(acceptor) }
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
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
