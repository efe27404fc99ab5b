//! A stock `sshd` on an ephemeral port and a stock `ssh` that connects to it.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use ssh_key::LineEnding;
use tempfile::TempDir;

use crate::support::Subject;

/// The login that this process may let somebody in as.
pub(crate) fn login() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

pub(crate) fn write_private(path: &Path, content: &str) {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).unwrap();
    file.write_all(content.as_bytes()).unwrap();
}

/// A key and its certificate as files, as OpenSSH wants them.
pub(crate) fn identity(dir: &Path, name: &str, subject: &Subject, certificate: &str) -> PathBuf {
    let path = dir.join(name);
    write_private(&path, &subject.ssh.to_openssh(LineEnding::LF).unwrap());
    fs::write(dir.join(format!("{name}.pub")), format!("{}\n", subject.keys.ssh)).unwrap();
    fs::write(dir.join(format!("{name}-cert.pub")), format!("{certificate}\n")).unwrap();
    path
}

/// An `sshd` that was given no more than two authorities: its own certificate and the key that users are signed with. Each
/// connection gets a process of its own (`sshd -i`), so that the test owns the port and every process.
pub(crate) struct Sshd {
    dir: TempDir,
    address: SocketAddr,
    ending: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Sshd {
    pub(crate) fn start(host: &Subject, host_certificate: &str, user_ca: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let key = identity(dir.path(), "host", host, host_certificate);
        fs::write(dir.path().join("user_ca.pub"), user_ca).unwrap();
        let shown = |name: &str| dir.path().join(name).display().to_string();
        let config = format!(
            "HostKey {}\nHostCertificate {}\nTrustedUserCAKeys {}\nAuthorizedKeysFile none\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nUsePAM no\nPidFile none\nStrictModes no\nLogLevel VERBOSE\n",
            key.display(),
            shown("host-cert.pub"),
            shown("user_ca.pub"),
        );
        fs::write(dir.path().join("sshd_config"), config).unwrap();
        // Where the package's sshd, started by root, wants to be confined; the package makes it at boot.
        let _ = fs::create_dir("/run/sshd");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let ending = Arc::new(AtomicBool::new(false));
        let (config, log) = (dir.path().join("sshd_config"), dir.path().join("log"));
        File::create(&log).unwrap();
        let end = Arc::clone(&ending);
        let acceptor = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if end.load(Ordering::SeqCst) {
                    break;
                }
                let socket = OwnedFd::from(stream.unwrap());
                let status = Command::new("/usr/sbin/sshd")
                    .args(["-i", "-e", "-f"])
                    .arg(&config)
                    .stdin(Stdio::from(socket.try_clone().unwrap()))
                    .stdout(Stdio::from(socket))
                    .stderr(Stdio::from(OpenOptions::new().append(true).open(&log).unwrap()))
                    .status();
                status.expect("/usr/sbin/sshd (openssh-server) is needed for this test");
            }
        });
        Self { dir, address, ending, acceptor: Some(acceptor) }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// Connects as `host` to it and runs `echo let in`.
    pub(crate) fn connect(&self, host: &str, known_hosts: &str, identity: &Path, login: &str) -> Output {
        let hosts = self.dir.path().join("known_hosts");
        fs::write(&hosts, known_hosts).unwrap();
        let mut command = Command::new("ssh");
        command.args([
            "-F",
            "/dev/null",
            "-o",
            "BatchMode=yes",
            "-o",
            "ConnectTimeout=30",
            "-o",
            "StrictHostKeyChecking=yes",
        ]);
        command.args([
            "-o",
            "GlobalKnownHostsFile=/dev/null",
            "-o",
            "UpdateHostKeys=no",
            "-o",
            "IdentitiesOnly=yes",
        ]);
        command.arg("-o").arg(format!("UserKnownHostsFile={}", hosts.display()));
        command.arg("-o").arg(format!("HostKeyAlias={host}"));
        command.arg("-p").arg(self.address.port().to_string()).arg("-l").arg(login).arg("-i").arg(identity);
        command.arg(self.address.ip().to_string()).arg("echo let in");
        command.env_remove("SSH_AUTH_SOCK").env("HOME", self.dir.path());
        command.output().expect("ssh (openssh-client) is needed for this test")
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
