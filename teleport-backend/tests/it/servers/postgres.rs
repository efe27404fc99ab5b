//! A PostgreSQL server, as Debian installs it. It does not run as root, so then it runs as `postgres`, which its package makes.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::{Authority, Process, answers, free_port, mortal};

#[derive(Debug)]
pub(crate) struct Postgres {
    process: Option<Process>,
    directory: tempfile::TempDir,
    pub(crate) port: u16,
    listens: &'static str,
    tls: bool,
}

/// Debian keeps the programs of each version in a directory of its own.
fn program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<_> = versions.map(|entry| entry.path().join("bin").join(name)).collect();
    found.retain(|path| path.exists());
    let version = |path: &PathBuf| -> Option<f64> {
        path.strip_prefix("/usr/lib/postgresql").ok()?.iter().next()?.to_str()?.parse().ok()
    };
    found.sort_by(|one, other| version(one).partial_cmp(&version(other)).unwrap());
    found.pop().unwrap_or_else(|| PathBuf::from(name))
}

/// The user and group that the server runs as, if we are root.
fn account(directory: &Path) -> Option<(u32, u32)> {
    use std::os::unix::fs::MetadataExt;
    if std::fs::metadata(directory).unwrap().uid() != 0 {
        return None;
    }
    let accounts = std::fs::read_to_string("/etc/passwd").unwrap();
    let of = |name: &str| {
        accounts.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next()? == name).then_some(())?;
            Some((fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?))
        })
    };
    Some(of("postgres").or_else(|| of("nobody")).expect("an account for the server"))
}

impl Postgres {
    /// With the database `state` and the user `tester`, who needs no password, and `secret`, who does (`right`).
    pub(crate) async fn start() -> Self {
        Self::start_with("127.0.0.1", None).await
    }

    /// The same for whoever reaches this host.
    pub(crate) async fn start_for_all() -> Self {
        Self::start_with("0.0.0.0", None).await
    }

    /// The same, and `secret` may come over TLS only.
    pub(crate) async fn start_tls(authority: &Authority) -> Self {
        Self::start_with("127.0.0.1", Some(authority)).await
    }

    async fn start_with(listens: &'static str, authority: Option<&Authority>) -> Self {
        let directory = tempfile::Builder::new().prefix("pg").tempdir().unwrap();
        let account = account(directory.path());
        if let Some((user, group)) = account {
            chown(directory.path(), Some(user), Some(group)).unwrap();
        }
        let data = directory.path().join("data");
        let mut initdb = Self::command(Command::new(program("initdb")), account, directory.path());
        initdb
            .args(["-U", "tester", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync", "-D"])
            .arg(&data);
        let output = initdb.output().expect("initdb: install postgresql, or run .ci/test, which does");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        if let Some(authority) = authority {
            for file in ["server.pem", "server.key"] {
                std::fs::copy(authority.path(file), directory.path().join(file)).unwrap();
                if let Some((user, group)) = account {
                    chown(directory.path().join(file), Some(user), Some(group)).unwrap();
                }
            }
        }
        let secret = if authority.is_some() { "hostssl" } else { "host" };
        let rules =
            "host all secret all scram-sha-256\nhost all reader all trust\nhost all tester all trust\n";
        std::fs::write(data.join("pg_hba.conf"), rules.replacen("host", secret, 1)).unwrap();
        let mut postgres = Self { process: None, directory, port: 0, listens, tls: authority.is_some() };
        for _ in 0..5 {
            postgres.port = free_port();
            if postgres.run().await {
                postgres.sql("postgres", "create database state");
                postgres.sql("state", "create user secret password 'right'; create user reader");
                postgres.sql("state", "grant create on database state to secret");
                return postgres;
            }
        }
        panic!("PostgreSQL does not start");
    }

    fn command(mut command: Command, account: Option<(u32, u32)>, directory: &Path) -> Command {
        command.current_dir(directory).env("LC_ALL", "C.UTF-8");
        if let Some((user, group)) = account {
            command.uid(user).gid(group);
        }
        command
    }

    async fn run(&mut self) -> bool {
        let directory = self.directory.path();
        // After `kill -9` the processes that served connections may need a moment to see that they are alone.
        // It gives back its shared memory.
        let server = mortal(program("postgres"), "QUIT");
        let mut command = Self::command(server, account_of(directory), directory);
        command.arg("-D").arg(directory.join("data"));
        command.arg("-k").arg(directory).args(["-h", self.listens, "-p", &self.port.to_string()]);
        // Its shared memory in files of its directory: /dev/shm is small in containers.
        command.args(["-c", "max_connections=200", "-c", "dynamic_shared_memory_type=mmap"]);
        if self.tls {
            command.args(["-c", "ssl=on"]);
            for (name, file) in [("ssl_cert_file", "server.pem"), ("ssl_key_file", "server.key")] {
                command.arg("-c").arg(format!("{name}={}", directory.join(file).display()));
            }
        }
        let mut process = Process::start(&mut command, "postgresql");
        let port = self.port;
        let is_up = process
            .until(async || answers(port).await && Self::query(port, "postgres", "select 1").status.success())
            .await;
        self.process = is_up.then_some(process);
        is_up
    }

    pub(crate) fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    pub(crate) async fn restart(&mut self) {
        self.kill();
        for _ in 0..50 {
            if self.run().await {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
        panic!("PostgreSQL does not start again on port {}", self.port);
    }

    fn query(port: u16, database: &str, sql: &str) -> Output {
        Command::new(program("psql"))
            .args(["-X", "-q", "-t", "-A", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", "tester"])
            .args(["-p", &port.to_string(), "-d", database, "-c", sql])
            .output()
            .expect("psql: install postgresql, or run .ci/test, which does")
    }

    /// What an administrator does.
    pub(crate) fn sql(&self, database: &str, sql: &str) -> String {
        let output = Self::query(self.port, database, sql);
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

/// The owner of the directory, if we may choose.
fn account_of(directory: &Path) -> Option<(u32, u32)> {
    use std::os::unix::fs::MetadataExt;
    let owner = std::fs::metadata(directory).unwrap();
    (std::fs::metadata("/proc/self").unwrap().uid() == 0).then(|| (owner.uid(), owner.gid()))
}
