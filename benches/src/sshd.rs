//! Debian's `sshd` with the same users: it trusts the authority of our cluster.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use teleport_core::cert::TrustBundle;

use crate::process::Server;

/// A running `sshd`.
#[derive(Debug)]
#[non_exhaustive]
pub struct Sshd {
    /// The listener; its children are the sessions.
    pub server: Server,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Sshd {
    /// Starts it on a free port of loopback, with its files in `dir`.
    ///
    /// # Errors
    /// What it says, or that it is not installed.
    pub fn start(dir: &Path, trust: &TrustBundle) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        // Where sshd puts its unprivileged process; Debian's service makes it at boot.
        if nix::unistd::geteuid().is_root() {
            std::fs::create_dir_all("/run/sshd")?;
        }
        let key = dir.join("host_key");
        let made =
            Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status()?;
        ensure!(made.success(), "ssh-keygen made no host key");
        let authority = dir.join("user_ca.pub");
        let lines: Vec<String> = trust.user_ca.iter().map(|key| format!("{key}\n")).collect();
        std::fs::write(&authority, lines.concat())?;
        // Nothing is as good as a port that somebody just gave up, since sshd cannot listen on port 0 and say which.
        let free = std::net::TcpListener::bind("127.0.0.1:0")?;
        let address = free.local_addr()?;
        drop(free);
        let config = dir.join("sshd_config");
        let text = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {key}\nTrustedUserCAKeys {authority}\nPidFile none\n\
             AuthorizedKeysFile none\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM yes\n\
             PermitRootLogin prohibit-password\nPrintMotd no\nStrictModes no\n\
             Subsystem sftp internal-sftp\n\
             MaxStartups 1000:30:2000\nMaxSessions 100\nLogLevel INFO\n",
            port = address.port(),
            key = key.display(),
            authority = authority.display(),
        );
        std::fs::write(&config, text)?;
        let mut server = Server::start(Command::new("/usr/sbin/sshd").args(["-D", "-e", "-f"]).arg(&config))
            .context("is openssh-server installed?")?;
        server.wait_for(|line| line.contains("Server listening on").then_some(()))?;
        Ok(Self { server, address })
    }
}
