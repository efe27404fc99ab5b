//! Several auth services of one cluster on one store, as processes of their own; some of them die.

mod outage;
mod partition;
mod pauses;
mod sharing;
mod single_use;

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use teleport_core::entropy::{Entropy, SystemEntropy};

use crate::processes::NONE;
use crate::servers::{Etcd, Postgres};
use crate::support::daemon::{Machine, Process, Services, fixed_port};

/// A server that keeps the state of clusters.
pub(crate) enum Store {
    Etcd(Etcd),
    Postgres(Postgres),
}

impl Store {
    /// The place of a cluster.
    fn url(&self, name: &str) -> String {
        match self {
            Self::Etcd(etcd) => format!("etcd://127.0.0.1:{}/{name}?timeout=60s", etcd.port),
            Self::Postgres(postgres) => {
                format!("postgres://tester@127.0.0.1:{}/state?schema={name}&timeout=60s", postgres.port)
            }
        }
    }
}

/// The auth services of a cluster, each with a data directory and a port.
pub(crate) struct Several {
    pub(crate) names: Vec<String>,
    pub(crate) ports: Vec<u16>,
    pub(crate) processes: Vec<Option<Process>>,
    pub(crate) machine: Machine,
    /// More variables of their environment.
    env: &'static [(&'static str, &'static str)],
    _store: Option<Store>,
}

/// Where recordings are, in the file of each.
fn recordings(path: &Path) -> String {
    format!("    audit_sessions_uri: file://{}\n", path.display())
}

fn make_key(path: &Path, key: &[u8]) {
    let directory = path.parent().unwrap();
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).unwrap();
    std::fs::write(path, key).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

impl Several {
    /// Configures so many services, named `<cluster>-<number>`, with one master key and one directory of recordings.
    pub(crate) fn configured(machine: Machine, url: &str, cluster: &str, count: usize) -> Self {
        let mut key = [0; 32];
        SystemEntropy::new().fill(&mut key).unwrap();
        let (mut names, mut ports) = (Vec::new(), Vec::new());
        for number in 0..count {
            let (name, port) = (format!("{cluster}-{number}"), fixed_port());
            let shared = format!(
                "  storage:\n    url: {url}\n{}",
                recordings(&machine.path(&format!("{cluster}-recordings")))
            );
            machine.configure(&name, &shared, &Services { auth: Some(port), ..NONE }.yaml());
            make_key(&machine.path(&name).join("master.key"), &key);
            names.push(name);
            ports.push(port);
        }
        Self { names, ports, processes: Vec::new(), machine, env: &[], _store: None }
    }

    /// Starts all of them in the same instant.
    pub(crate) fn start_at_once(&mut self) {
        let mut processes: Vec<Process> = self.names.iter().map(|name| self.begin(name)).collect();
        processes.iter_mut().for_each(Process::serves);
        self.processes = processes.into_iter().map(Some).collect();
    }

    pub(crate) fn start(&mut self, number: usize) {
        let mut process = self.begin(&self.names[number]);
        process.serves();
        self.processes[number] = Some(process);
    }

    fn begin(&self, name: &str) -> Process {
        self.machine.begin(name, &[], |command| {
            command.envs(self.env.iter().copied());
        })
    }

    pub(crate) fn kill(&mut self, number: usize) {
        self.processes[number].take().unwrap().kill();
    }

    /// Two that run, on a store of their own.
    pub(crate) fn two(store: Store) -> Self {
        let mut two = Self::configured(Machine::new(), &store.url("two"), "auth", 2);
        two._store = Some(store);
        two.start_at_once();
        two
    }

    /// Where all of them are, as the files of other hosts say it.
    pub(crate) fn servers(&self) -> String {
        let servers: Vec<String> = self.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        format!("  auth_servers: [{}]\n", servers.join(", "))
    }

    /// Everything about the cluster that all services say in the same way.
    fn facts(&self, number: usize) -> String {
        let tctl = |arguments: &[&str]| self.machine.tctl(&self.names[number], arguments).clean();
        let status: serde_json::Value = serde_json::from_str(&tctl(&["status", "--format=json"])).unwrap();
        let authorities = ["user", "host", "openssh", "audit"];
        let authorities = authorities.map(|kind| tctl(&["auth", "export", &format!("--type={kind}")]));
        format!(
            "{} {} {authorities:?} {} {}",
            status["cluster_name"],
            status["ca_pins"],
            tctl(&["get", "roles", "--format=json"]),
            tctl(&["users", "ls", "--format=json"]),
        )
    }
}

/// Both servers, each in a test of its own.
macro_rules! on_each {
    ($($name:ident),+ $(,)?) => {
        mod etcd {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let etcd = crate::servers::Etcd::start().await;
                Box::pin(super::$name(crate::ha::Store::Etcd(etcd))).await;
            })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let postgres = crate::servers::Postgres::start().await;
                Box::pin(super::$name(crate::ha::Store::Postgres(postgres))).await;
            })+
        }
    };
}
use on_each;

on_each!(
    services_that_start_at_once_make_one_cluster,
    a_service_that_does_not_fit_to_the_others_is_refused,
    each_service_proves_its_own_log_and_names_the_others,
);

/// Three services on an empty store, in the same instant, several times: the authorities, roles and names are those of one cluster.
async fn services_that_start_at_once_make_one_cluster(store: Store) {
    for round in 0..3 {
        let cluster = format!("round_{round}");
        let mut three = Several::configured(Machine::new(), &store.url(&cluster), &cluster, 3);
        three.start_at_once();
        let facts = three.facts(0);
        assert_eq!((facts.as_str(), facts.as_str()), (&*three.facts(1), &*three.facts(2)));
        // What one does the others know.
        three.machine.tctl(&three.names[1], &["users", "add", "alice", "--logins=root"]).clean();
        for number in 0..3 {
            let status: serde_json::Value = serde_json::from_str(
                &three.machine.tctl(&three.names[number], &["status", "--format=json"]).clean(),
            )
            .unwrap();
            let mut running: Vec<&str> = status["auth_servers"]
                .as_array()
                .unwrap()
                .iter()
                .filter_map(|at| at["name"].as_str())
                .collect();
            running.sort_unstable();
            assert_eq!(running, three.names, "{status}");
            assert!(three.facts(number).contains("alice"));
        }
        for process in &mut three.processes {
            process.take().unwrap().stop();
        }
    }
}

/// Another master key, another place of recordings: one line that says what to do, and the cluster stays as it is.
async fn a_service_that_does_not_fit_to_the_others_is_refused(store: Store) {
    let mut two = Several::configured(Machine::new(), &store.url("fit"), "fit", 2);
    let machine = &two.machine;
    let key = |number: usize| machine.path(&two.names[number]).join("master.key");
    let right = std::fs::read(key(0)).unwrap();
    let first = machine.start(&two.names[0], &[]);
    // As it would be without a copy of the key: it makes one of its own.
    std::fs::remove_file(key(1)).unwrap();
    for _ in 0..2 {
        let line = machine.cannot_start(&two.names[1], &[]);
        for part in [&*key(1).display().to_string(), "is not that of the cluster in", "scp root@"] {
            assert!(line.contains(part), "{part}: {line}");
        }
    }
    assert_ne!(std::fs::read(key(1)).unwrap(), right);
    make_key(&key(1), &right);

    // A place of its own for recordings: not while another one runs.
    let file = machine.path(&format!("{}.yaml", two.names[1]));
    let good = std::fs::read_to_string(&file).unwrap();
    let shared = recordings(&machine.path("fit-recordings"));
    std::fs::write(&file, good.replace(&shared, "")).unwrap();
    let line = machine.cannot_start(&two.names[1], &[]);
    let own = machine.path(&two.names[1]).join("recordings").display().to_string();
    for part in [&*own, &*machine.path("fit-recordings").display().to_string(), "fit-0", "audit_sessions_uri"]
    {
        assert!(line.contains(part), "{part}: {line}");
    }
    // By another path it is the same place.
    let link = machine.path("link");
    std::os::unix::fs::symlink(machine.path("fit-recordings"), &link).unwrap();
    std::fs::write(&file, good.replace(&shared, &recordings(&link))).unwrap();
    let second = machine.start(&two.names[1], &[]);
    second.stop();
    // Alone it may go where it likes.
    first.stop();
    std::fs::write(&file, good.replace(&shared, "")).unwrap();
    let second = machine.start(&two.names[1], &[]);
    let line = machine.cannot_start(&two.names[0], &[]);
    assert!(line.contains(&own) && line.contains("fit-1"), "{line}");
    second.stop();
    two.processes.clear();
}

/// Each log is proven where it is, and nobody takes that of another service for a part of its own that was cut off.
async fn each_service_proves_its_own_log_and_names_the_others(store: Store) {
    let mut two = Several::two(store);
    for (number, user) in [(0, "alice"), (1, "bob")] {
        two.machine.tctl(&two.names[number], &["users", "add", user, "--logins=root"]).clean();
    }
    // A stop signs what is there; the second one comes back to find only the newer checkpoint of the first one.
    for number in [1, 0] {
        two.processes[number].take().unwrap().stop();
        two.start(number);
    }
    let verify = |number: usize, more: &[&str]| {
        two.machine.tctl(&two.names[number], &[&["audit", "verify"], more].concat())
    };
    for number in 0..2 {
        let (own, other) = (&two.names[number], &two.names[1 - number]);
        let text = verify(number, &[]).clean();
        assert!(text.contains(&format!("The audit log of {own} in test.local is whole")), "{text}");
        assert!(
            text.contains("This says nothing of the logs of the cluster's other auth services"),
            "{text}"
        );
        assert!(text.contains(&format!("  {other} (")), "{text}");
        let json: serde_json::Value =
            serde_json::from_str(&verify(number, &["--format=json"]).clean()).unwrap();
        assert_eq!(json["verdict"], "whole", "{json}");
        assert_eq!(json["service"]["name"], **own, "{json}");
        assert_eq!(json["others"][0]["owner"]["name"], **other, "{json}");
        // A copy says by itself whose it is, wherever it is read.
        let copy = two.machine.path(own).join("audit").display().to_string();
        let elsewhere = verify(1 - number, &["--dir", &copy]).clean();
        assert!(elsewhere.contains(&format!("The audit log of {own} in test.local is whole")), "{elsewhere}");
        // What both did is found at each.
        crate::support::wait_for("the events of both", || {
            let events = two.machine.events(own);
            let made = |user: &str| {
                events.iter().filter(|event| event["code"] == "T1002I" && event["name"] == user).count()
            };
            (made("alice") == 1 && made("bob") == 1).then_some(())
        });
    }
    // A log that is cut is still noticed, by its own service and by whoever proves it; the other one is as whole as before.
    two.processes[1].take().unwrap().stop();
    let files = two.machine.path(&two.names[1]).join("audit");
    let mut days: Vec<_> = std::fs::read_dir(&files)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"))
        .collect();
    days.sort();
    let last = days.last().unwrap();
    let text = std::fs::read_to_string(last).unwrap();
    let (kept, _) = text.trim_end().rsplit_once('\n').unwrap();
    std::fs::write(last, format!("{kept}\n")).unwrap();
    let cut = files.display().to_string();
    let line = two.machine.tctl(&two.names[0], &["audit", "verify", "--dir", &cut]).refusal();
    assert!(line.contains("not whole"), "{line}");
    two.start(1);
    let logged = two.processes[1].as_ref().unwrap().logged();
    assert!(logged.contains("THE AUDIT LOG WAS CUT"), "{logged}");
    let line = two.machine.tctl(&two.names[1], &["audit", "verify"]).refusal();
    assert!(line.contains("not whole"), "{line}");
    let text = two.machine.tctl(&two.names[0], &["audit", "verify"]).clean();
    assert!(text.contains("is whole"), "{text}");
    // A log of nobody.
    let strange = two.machine.path("strange");
    std::fs::create_dir(&strange).unwrap();
    let strange = strange.display().to_string();
    let line = two.machine.tctl(&two.names[0], &["audit", "verify", "--dir", &strange]).refusal();
    assert!(line.contains("is of none of the cluster's 2 auth services"), "{line}");
}
