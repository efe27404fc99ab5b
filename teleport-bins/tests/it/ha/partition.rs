//! One auth service of two is cut from the store, in networks of the kernel: wholly, in one direction, by half. Goals G-1 and G-2.
//!
//! How long the service needed until it served again is printed (`--nocapture`). `TELEPORT_PARTITIONS=30` cuts so often.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use teleport_backend::network::{BoxedStream, Network, Remote, TlsOptions};
use teleport_backend::open_remote;
use teleport_core::clock::SystemClock;
use teleport_core::entropy::SystemEntropy;
use teleport_core::storage::Backend;
use teleport_core::task::TaskScope;
use tokio::time::Instant;

use super::{Several, Store};
use crate::processes::NONE;
use crate::registers::{Dice, World, from_environment, seed};
use crate::servers::{Etcd, PATIENCE, Postgres};
use crate::support::daemon::{Machine, Services, fixed_port};
use crate::support::namespaces::{Loss, Networks, OUTSIDE, with_networks};
use crate::support::program::Output;
use crate::support::wait_for;

/// A number for each of the services.
const OUT: usize = 0;
const IN: usize = 1;

fn cuts() -> usize {
    usize::try_from(from_environment("TELEPORT_PARTITIONS", || 3)).unwrap()
}

fn loss(round: usize) -> Loss {
    [Loss::All, Loss::Replies, Loss::Fifth][round % 3]
}

fn etcd() -> Store {
    Store::Etcd(runtime().block_on(Etcd::start_for_all()))
}

fn postgres() -> Store {
    Store::Postgres(runtime().block_on(Postgres::start_for_all()))
}

/// One whose tasks stay where its thread is.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

impl Store {
    /// The place of a cluster, as it is reached from all networks.
    fn url_for_all(&self, name: &str) -> String {
        match self {
            Self::Etcd(etcd) => format!("etcd://{OUTSIDE}:{}/{name}?tls=off&timeout=5s", etcd.port),
            Self::Postgres(postgres) => {
                format!(
                    "postgres://tester@{OUTSIDE}:{}/state?schema={name}&tls=off&timeout=5s",
                    postgres.port
                )
            }
        }
    }
}

/// Two services, of whom the second one is inside.
struct Apart {
    two: Several,
    networks: Networks,
}

impl Apart {
    fn start(networks: Networks, store: Store) -> Self {
        networks.translate();
        let mut two = Several::configured(Machine::new(), &store.url_for_all("apart"), "auth", 2);
        two._store = Some(store);
        // The first of all makes the cluster.
        two.processes = vec![None, None];
        two.start(OUT);
        networks.inside(|| two.start(IN));
        Self { two, networks }
    }

    fn at<T>(&self, number: usize, run: impl FnOnce() -> T) -> T {
        if number == IN { self.networks.inside(run) } else { run() }
    }

    fn tctl(&self, number: usize, arguments: &[&str]) -> Output {
        self.at(number, || self.two.machine.tctl(&self.two.names[number], arguments))
    }

    /// Whether a user was added, as the service says.
    fn adds(&self, number: usize, user: &str) -> bool {
        self.tctl(number, &["users", "add", user, "--logins=root"]).status.success()
    }

    fn users(&self, number: usize) -> String {
        self.tctl(number, &["users", "ls", "--format=json"]).clean()
    }

    /// Starts a host that joins by this service, and says whether it became a member.
    fn joins(&self, number: usize, name: &str, arguments: &[&str]) -> bool {
        let shared = format!("  auth_server: 127.0.0.1:{}\n", self.two.ports[number]);
        let services = Services { node: Some((fixed_port(), "")), ..NONE };
        self.two.machine.configure(name, &shared, &services.yaml());
        self.at(number, || {
            let mut node = self.two.machine.begin(name, arguments, |_| ());
            let joined = wait_for("the end of a join", || {
                let serves = node.logged().contains(" serves the cluster ");
                (serves || !node.runs()).then_some(serves)
            });
            if joined {
                node.stop();
            }
            joined
        })
    }
}

/// While the second service is cut from the store, clients ask both.
fn g2_a_service_that_is_cut_from_the_store_acknowledges_nothing_that_is_lost(
    networks: Networks,
    store: Store,
) {
    let apart = Apart::start(networks, store);
    let mut acknowledged = Vec::new();
    for round in 0..cuts() {
        let loss = loss(round);
        let (token, pin) = apart.two.machine.token(&apart.two.names[OUT], &["--type=node", "--uses=1"]);
        let arguments = [format!("--token={token}"), format!("--ca-pin={pin}")];
        let arguments = arguments.each_ref().map(String::as_str);
        let (inner, outer) = (format!("inner-{round}"), format!("outer-{round}"));
        apart.networks.lose(loss);
        // Nobody hears of what the one that is cut does, so it says that it has not done it.
        let mut joined_in = apart.joins(IN, &inner, &arguments);
        for attempt in 0..3 {
            for number in [IN, OUT] {
                let user = format!("user-{round}-{attempt}-{number}");
                let began = Instant::now();
                let added = apart.adds(number, &user);
                eprintln!("{loss:?}: {user}: {added} after {:.1} s", began.elapsed().as_secs_f64());
                let is_cut = number == IN && !matches!(loss, Loss::Fifth);
                assert!(!(added && is_cut), "{loss:?}: {user} was acknowledged without the store");
                assert!(added || number == IN, "{loss:?}: the other one serves");
                if added {
                    acknowledged.push(user);
                }
            }
        }
        let joined_out = apart.joins(OUT, &outer, &arguments);
        apart.networks.heal();
        let healed = Instant::now();
        wait_for("the service that was cut", || {
            apart.tctl(IN, &["users", "ls"]).status.success().then_some(())
        });
        eprintln!("{loss:?}: it serves {:.1} s after the end of it", healed.elapsed().as_secs_f64());
        // Whose use of the token was taken without an answer may ask again; nobody else.
        joined_in |= apart.joins(IN, &inner, &arguments);
        assert!(joined_in != joined_out, "{loss:?}: the token has one winner: {joined_in} {joined_out}");
        for number in [IN, OUT] {
            let users = apart.users(number);
            for user in &acknowledged {
                assert!(users.contains(&format!("\"{user}\"")), "{user} is lost at {number}: {users}");
            }
        }
    }
    assert_eq!(apart.users(IN), apart.users(OUT));
}

/// TCP from inside, whatever thread asks.
#[derive(Debug)]
struct FromInside(crate::support::namespaces::Door);

#[async_trait]
impl Network for FromInside {
    async fn connect(&self, host: &str, port: u16) -> std::io::Result<BoxedStream> {
        let address: std::net::IpAddr = host.parse().map_err(std::io::Error::other)?;
        let (door, to) = (self.0.clone(), (address, port).into());
        // A thread of its own, because a thread that went in stays there.
        let (done, result) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let connect = || {
                door.enter()?;
                std::net::TcpStream::connect_timeout(&to, PATIENCE)
            };
            // Nobody listens if that took too long.
            let _ = done.send(connect());
        });
        let stream = result.await.map_err(std::io::Error::other)??;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Box::new(tokio::net::TcpStream::from_std(stream)?))
    }

    async fn secure(&self, _: BoxedStream, host: &str, _: &TlsOptions) -> std::io::Result<BoxedStream> {
        Err(std::io::Error::other(format!("this network has no TLS for {host}")))
    }
}

/// What two drivers see, one of whom is cut again and again, can have happened in one order.
fn g2_what_is_seen_over_networks_that_are_cut_is_linearizable(networks: Networks, store: Store) {
    networks.translate();
    // Shorter than some of the cuts.
    let (url, seed) = (store.url_for_all("history").replace("timeout=5s", "timeout=1s"), seed());
    let runtime = runtime();
    let inside = Remote::new(Arc::new(FromInside(networks.door())), Arc::new(SystemEntropy::new()));
    let open = |remote: Remote| {
        let opened = runtime.block_on(open_remote(&url, Arc::new(SystemClock::new()), remote));
        opened.unwrap_or_else(|error| panic!("{url}: {error}"))
    };
    let services: [Arc<dyn Backend>; 2] = [open(crate::servers::remote()), open(inside)];
    // Ended by the last of the cuts, unless a fast machine does so many before.
    let operations = from_environment("TELEPORT_HISTORY", || 20_000);
    let world = runtime.block_on(World::begin(&*services[OUT], operations));
    let workers = TaskScope::new();
    let over = Arc::new(AtomicBool::new(false));
    std::thread::scope(|scope| {
        // The networks are the business of this thread, and all others are where it is when it starts them.
        let (done, driven) = (Arc::clone(&over), Arc::clone(&world));
        let (runtime, services, workers) = (&runtime, &services, &workers);
        let running = scope.spawn(move || {
            let _entered = runtime.enter();
            for worker in 0..8 {
                let service = Arc::clone(&services[usize::try_from(worker % 2).unwrap()]);
                workers.spawn(Arc::clone(&driven).work(service, Dice::salted(seed, worker)));
            }
            runtime.block_on(workers.join());
            done.store(true, Ordering::SeqCst);
        });
        let mut dice = Dice::salted(seed, 100);
        // Each of the losses at least once.
        for round in 0..cuts().max(3) {
            if over.load(Ordering::SeqCst) {
                break;
            }
            networks.lose(loss(round));
            std::thread::sleep(std::time::Duration::from_millis(500 + dice.below(1500)));
            networks.heal();
            std::thread::sleep(std::time::Duration::from_millis(dice.below(500)));
        }
        world.stop();
        running.join().unwrap();
    });
    let counts = runtime.block_on(world.judge(&*services[OUT]));
    assert!(counts.writes > 10 && counts.refused > 0, "something happened, and at the same time");
    runtime.block_on(async {
        for service in services {
            service.close().await;
        }
    });
}

macro_rules! on_each_in_networks {
    ($($name:ident),+ $(,)?) => {
        mod in_etcd {
            $(#[test]
            fn $name() {
                super::with_networks(|networks| super::$name(networks, super::etcd()));
            })+
        }
        mod in_postgres {
            $(#[test]
            fn $name() {
                super::with_networks(|networks| super::$name(networks, super::postgres()));
            })+
        }
    };
}

on_each_in_networks!(
    g2_a_service_that_is_cut_from_the_store_acknowledges_nothing_that_is_lost,
    g2_what_is_seen_over_networks_that_are_cut_is_linearizable,
);
