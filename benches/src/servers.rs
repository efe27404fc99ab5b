//! Servers of etcd and PostgreSQL in temporary directories, on free ports of this machine. They end with the value.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::unistd::User;
use tokio::time::Instant;

use crate::process::Server;

/// How long a server may take to answer.
const START: Duration = Duration::from_secs(60);

/// A store on a server.
#[derive(Debug)]
pub struct StoreServer {
    /// How `teleport` is told of it, and how [`teleport_backend`] opens it.
    pub url: String,
    /// Where it listens, on loopback.
    pub port: u16,
    /// Its process.
    pub server: Server,
    _directory: tempfile::TempDir,
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

async fn answers(port: u16, ready: impl Fn() -> bool) -> Result<()> {
    let until = Instant::now() + START;
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() || !ready() {
        ensure!(Instant::now() < until, "the server does not answer");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

impl StoreServer {
    /// etcd with one member, which syncs to the disk as it does by itself.
    ///
    /// # Errors
    /// When `etcd` is not installed or does not start.
    pub async fn etcd() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let port = free_port()?;
        let (client, peer) =
            (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{}", free_port()?));
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(directory.path().join("data"));
        command.args(["--name", "bench", "--log-level", "error"]);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer]);
        // A hundred thousand nodes write more than it keeps by default.
        command.args(["--quota-backend-bytes", "4294967296", "--auto-compaction-retention", "1000"]);
        command.args(["--auto-compaction-mode", "revision"]);
        let server = Server::start(&mut command).context("install etcd-server")?;
        answers(port, || true).await?;
        Ok(Self { url: format!("etcd://127.0.0.1:{port}/teleport"), port, server, _directory: directory })
    }

    /// PostgreSQL, which syncs to the disk as it does by itself. It does not run as root, so then it runs as `postgres`.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub async fn postgres() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("pg").tempdir()?;
        let path = directory.path();
        let account = if std::fs::metadata(path)?.uid() == 0 {
            let user =
                User::from_name("postgres")?.context("install postgresql: there is no user postgres")?;
            chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
            Some((user.uid.as_raw(), user.gid.as_raw()))
        } else {
            None
        };
        let command = |name: &str| {
            let mut command = Command::new(postgres_program(name));
            command.current_dir(path).env("LC_ALL", "C.UTF-8");
            if let Some((user, group)) = account {
                command.uid(user).gid(group);
            }
            command
        };
        let data = path.join("data");
        let made = command("initdb")
            .args(["-U", "bench", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-D"])
            .arg(&data)
            .stdout(Stdio::null())
            .status()
            .context("install postgresql")?;
        ensure!(made.success(), "initdb ended with {made}");
        let port = free_port()?;
        let server = Server::start(command("postgres").arg("-D").arg(&data).arg("-k").arg(path).args([
            "-h",
            "127.0.0.1",
            "-p",
            &port.to_string(),
            "-c",
            "dynamic_shared_memory_type=mmap",
        ]))?;
        let sql = |statement: &str| {
            Command::new(postgres_program("psql"))
                .args(["-X", "-q", "-h", "127.0.0.1", "-U", "bench", "-d", "postgres"])
                .args(["-p", &port.to_string(), "-c", statement])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
        };
        answers(port, || sql("select 1")).await?;
        ensure!(sql("create database teleport"), "the database cannot be made");
        let url = format!("postgres://bench@127.0.0.1:{port}/teleport");
        Ok(Self { url, port, server, _directory: directory })
    }
}

/// Debian keeps the programs of each version in a directory of its own.
fn postgres_program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<_> = versions.map(|entry| entry.path().join("bin").join(name)).collect();
    found.retain(|path: &PathBuf| path.exists());
    found.sort();
    found.pop().unwrap_or_else(|| Path::new(name).to_owned())
}
