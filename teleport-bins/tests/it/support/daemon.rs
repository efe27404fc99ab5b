//! Daemons as processes of their own: `teleport start`, with what they log.

use std::fs::File;
use std::net::{self, Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::program::{Output, own, own_mortal, run};
use super::small_disk::SmallDisk;
use super::wait_for;

/// A port that nobody uses and that the system does not hand out by itself: a daemon that starts again finds it free.
pub(crate) fn fixed_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    /// A name that only one process has: other tests that run now look for ports as well.
    static OURS: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());
    let first = u16::try_from(std::process::id() % 10_000).unwrap();
    wait_for("a free port", || {
        let port = 20_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
        let name = SocketAddr::from_abstract_name(format!("teleport-test-port-{port}")).unwrap();
        let ours = UnixListener::bind_addr(&name).ok()?;
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
        OURS.lock().unwrap().push(ours);
        Some(port)
    })
}

/// A daemon that runs. It is ended with the value.
pub(crate) struct Process {
    child: Child,
    pub(crate) log: PathBuf,
}

/// Where the daemons of a machine keep what they have: configuration, data, logs.
pub(crate) struct Machine {
    /// A directory of it that can become full.
    pub(crate) disk: Option<SmallDisk>,
    /// Goes last.
    dir: TempDir,
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self { disk: None, dir: TempDir::with_prefix("tp-").unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a configuration file: that of the daemon `name`, which keeps its data in a directory of that name.
    pub(crate) fn configure(&self, name: &str, shared: &str, services: &str) {
        let data_dir = self.path(name);
        let config = format!(
            "version: v3\nteleport:\n  nodename: {name}\n  data_dir: {}\n{shared}{services}",
            data_dir.display()
        );
        std::fs::write(self.path(&format!("{name}.yaml")), config).unwrap();
    }

    /// `teleport start` with the configuration of `name` and more arguments, to its end: it must be unable to start.
    #[track_caller]
    pub(crate) fn cannot_start(&self, name: &str, arguments: &[&str]) -> String {
        let mut command = own("teleport");
        command.arg("start").arg("-c").arg(self.path(&format!("{name}.yaml"))).args(arguments);
        command.env("RUST_LOG", "off");
        run(command).refusal()
    }

    /// Starts a daemon and waits until it serves.
    #[track_caller]
    pub(crate) fn start(&self, name: &str, arguments: &[&str]) -> Process {
        self.start_with(name, arguments, |_| ())
    }

    /// The same, with something to change about the process.
    #[track_caller]
    pub(crate) fn start_with(
        &self,
        name: &str,
        arguments: &[&str],
        change: impl FnOnce(&mut std::process::Command),
    ) -> Process {
        let mut process = self.begin(name, arguments, change);
        process.serves();
        process
    }

    /// Starts a daemon, which ends with the thread that does.
    #[track_caller]
    pub(crate) fn begin(
        &self,
        name: &str,
        arguments: &[&str],
        change: impl FnOnce(&mut std::process::Command),
    ) -> Process {
        let log = self.path(&format!("{name}.log"));
        let mut command = own_mortal("teleport");
        command.arg("start").arg("-c").arg(self.path(&format!("{name}.yaml"))).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log).unwrap());
        // Keys of the terminal that runs the tests are not for it.
        command.process_group(0);
        if let Some(disk) = &self.disk {
            disk.seen_by(&mut command);
        }
        change(&mut command);
        Process { child: command.spawn().unwrap(), log }
    }

    /// `tctl` on the machine of the auth service `name`.
    pub(crate) fn tctl(&self, name: &str, arguments: &[&str]) -> Output {
        let mut command = own("tctl");
        command.arg("--data-dir").arg(self.path(name)).args(arguments);
        run(command)
    }

    /// A token made on the auth host, and how it recognises the cluster.
    pub(crate) fn token(&self, name: &str, arguments: &[&str]) -> (String, String) {
        let fixed = ["tokens", "add", "--format=json"];
        let printed = self.tctl(name, &[&fixed, arguments].concat()).clean();
        let created: serde_json::Value = serde_json::from_str(&printed).unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        (text(&created["token"]), text(&created["ca_pins"][0]))
    }

    /// The events of the cluster, oldest first.
    pub(crate) fn events(&self, name: &str) -> Vec<serde_json::Value> {
        let arguments = ["events", "search", "--oldest-first", "--all", "--format=json"];
        serde_json::from_str(&self.tctl(name, &arguments).clean()).unwrap()
    }

    /// Waits until the cluster lists so many nodes that are online.
    pub(crate) fn wait_for_nodes(&self, name: &str, count: usize) {
        wait_for("the nodes in the list", || {
            let status = self.tctl(name, &["status", "--format=json"]);
            let status: serde_json::Value = serde_json::from_slice(&status.stdout).ok()?;
            (status["nodes_online"] == count).then_some(())
        });
    }
}

impl Process {
    /// Waits until it serves.
    #[track_caller]
    pub(crate) fn serves(&mut self) {
        wait_for(&format!("{} of a daemon that serves", self.log.display()), || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("it ended with {status}: {}", self.logged());
            }
            self.logged().contains(" serves the cluster ").then_some(())
        });
    }

    /// What it wrote so far.
    pub(crate) fn logged(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// The address of one of its services, as it says at its start.
    #[track_caller]
    pub(crate) fn address(&self, what: &str) -> net::SocketAddr {
        let logged = self.logged();
        let line = logged.lines().find_map(|line| line.strip_prefix(&format!("  {what} ")));
        line.unwrap_or_else(|| panic!("{what}: {logged}")).trim().parse().unwrap()
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until it has ended by itself.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        wait_for("the end of the daemon", || self.child.try_wait().unwrap())
    }

    /// Asks it to end, and checks that it did so in good order.
    #[track_caller]
    pub(crate) fn stop(mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.ended();
        assert!(status.success(), "{status}: {}", self.logged());
    }

    /// As a loss of power would.
    pub(crate) fn kill(mut self) {
        self.signal(Signal::SIGKILL);
        self.ended();
    }

    /// How long processors have worked for it so far.
    pub(crate) fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // After the name, which may hold anything: state, ten numbers, then ticks of its own and of the kernel for it.
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        // A hundred of them are a second, on every Linux that is built for servers.
        Duration::from_millis(ticks * 10)
    }

    /// A number of kilobytes of `/proc/<pid>/status`, such as `VmRSS`.
    pub(crate) fn kilobytes(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:"))).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let logged = std::fs::read_to_string(&self.log).unwrap_or_default();
            eprintln!("{}:\n{logged}", self.log.display());
        }
    }
}

/// The part of a file that sets the services of a machine: those that are named, on ports of loopback.
pub(crate) struct Services<'a> {
    pub(crate) auth: Option<u16>,
    /// HTTPS and SSH.
    pub(crate) proxy: Option<(u16, u16)>,
    pub(crate) node: Option<(u16, &'a str)>,
}

impl Services<'_> {
    pub(crate) fn yaml(&self) -> String {
        let mut text = String::new();
        match self.auth {
            Some(port) => text.push_str(&format!(
                "auth_service:\n  enabled: yes\n  cluster_name: test.local\n  listen_addr: 127.0.0.1:{port}\n"
            )),
            None => text.push_str("auth_service:\n  enabled: no\n"),
        }
        match self.proxy {
            Some((web, ssh)) => text.push_str(&format!(
                "proxy_service:\n  enabled: yes\n  web_listen_addr: 127.0.0.1:{web}\n  listen_addr: 127.0.0.1:{ssh}\n  peer_listen_addr: 127.0.0.1:0\n  local_addresses: yes\n"
            )),
            None => text.push_str("proxy_service:\n  enabled: no\n"),
        }
        match self.node {
            Some((port, labels)) => text.push_str(&format!(
                "ssh_service:\n  enabled: yes\n  listen_addr: 127.0.0.1:{port}\n  labels: {{{labels}}}\n"
            )),
            None => text.push_str("ssh_service:\n  enabled: no\n"),
        }
        text
    }
}

/// The mode of a file, in octal as people read it.
pub(crate) fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}
