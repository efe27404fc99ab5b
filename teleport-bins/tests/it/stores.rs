//! Clusters whose state is in etcd or PostgreSQL, and moving between them.

use std::sync::Arc;

use teleport_core::auth::unfinished_restore;
use teleport_core::clock::SystemClock;
use teleport_core::storage::{BackendExt, Prefix};

use crate::servers::{Authority, Etcd, Postgres};
use crate::support::daemon::{Machine, Services};
use crate::support::program::{own, run};

const AUTH: Services<'static> = Services { auth: Some(0), proxy: None, node: None };

fn storage(url: &str) -> String {
    format!("  storage:\n    url: {url}\n")
}

/// The value of an option of a URL, as it has to be written there.
fn file(path: &std::path::Path) -> String {
    path.display().to_string()
}

/// What the cluster is to those who know it: its authorities, users and tokens.
fn facts(machine: &Machine, name: &str) -> String {
    let status: serde_json::Value =
        serde_json::from_str(&machine.tctl(name, &["status", "--format=json"]).clean()).unwrap();
    let users = machine.tctl(name, &["users", "ls", "--format=json"]).clean();
    let tokens = machine.tctl(name, &["tokens", "ls", "--format=json"]).clean();
    format!("{} {} {users} {tokens}", status["cluster"], status["ca_pins"])
}

fn migrate(from: &str, to: &str) -> crate::support::program::Output {
    let mut command = own("tctl");
    command.args(["backend", "migrate", "--format=json", "--from", from, "--to", to]);
    run(command)
}

/// A cluster begins in a file, moves to etcd over TLS, on to PostgreSQL, and back into a file; it is the same one everywhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_moves_from_store_to_store() {
    let authority = Authority::new();
    let etcd = Etcd::start_tls(&authority).await;
    let postgres = Postgres::start_tls(&authority).await;
    let machine = Machine::new();
    let password = machine.path("password");
    std::fs::write(&password, "right\n").unwrap();
    let ca = file(&authority.path("ca.pem"));
    let etcd_url = format!(
        "etcd://127.0.0.1:{}/some/place?ca-file={ca}&cert-file={}&key-file={}",
        etcd.port,
        file(&authority.path("client.pem")),
        file(&authority.path("client.key"))
    );
    let postgres_url = format!(
        "postgres://secret@127.0.0.1:{}/state?ca-file={ca}&password-file={}",
        postgres.port,
        file(&password)
    );
    let first = format!("redb:{}", machine.path("auth").join("backend.redb").display());
    let last = format!("redb:{}", machine.path("last.redb").display());

    machine.configure("auth", "", &AUTH.yaml());
    let daemon = machine.start("auth", &[]);
    machine.tctl("auth", &["users", "add", "alice", "--logins=root", "--roles=access"]).clean();
    machine.tctl("auth", &["tokens", "add", "--type=node", "--value=a-token-of-the-first-days"]).clean();
    let known = facts(&machine, "auth");
    let line = migrate(&first, &etcd_url).refusal();
    assert!(line.contains("backend.redb"), "a file in use is not moved: {line}");
    daemon.stop();

    for (from, to) in [(&first, &etcd_url), (&etcd_url, &postgres_url), (&postgres_url, &last)] {
        let printed: serde_json::Value = serde_json::from_str(&migrate(from, to).clean()).unwrap();
        assert!(printed["items"].as_u64().unwrap() > 5, "{printed}");
        let line = migrate(from, to).refusal();
        assert!(line.contains("not empty"), "{line}");
        let section = match to.strip_prefix("redb:") {
            Some(path) => format!("  storage:\n    path: {path}\n"),
            None => storage(to),
        };
        machine.configure("auth", &section, &AUTH.yaml());
        let daemon = machine.start("auth", &[]);
        assert_eq!(facts(&machine, "auth"), known, "on {to}");
        let name = format!("user-{}", to.split(':').next().unwrap());
        machine.tctl("auth", &["users", "add", &name, "--roles=access"]).clean();
        machine.tctl("auth", &["users", "rm", &name]).clean();
        daemon.kill();
        // It is still there, and the same.
        let daemon = machine.start("auth", &[]);
        assert_eq!(facts(&machine, "auth"), known, "again on {to}");
        daemon.stop();
    }
}

/// Each mistake is one clear line, without the password.
#[tokio::test(flavor = "multi_thread")]
async fn mistakes_about_the_storage_are_told() {
    let authority = Authority::new();
    let etcd = Etcd::start_tls(&authority).await;
    let machine = Machine::new();
    let ca = file(&authority.path("ca.pem"));
    let port = etcd.port;
    let other = Authority::new();
    let cases = [
        (format!("etcd://127.0.0.1:{port}/x?timeout=1s"), "cannot be reached"),
        (format!("etcd://127.0.0.1:{port}/x?timeout=3s&ca-file={ca}"), "cannot be reached"),
        (
            format!("etcd://127.0.0.1:{port}/x?timeout=10s&ca-file={}", file(&other.path("ca.pem"))),
            "certificate",
        ),
        (format!("etcd://127.0.0.1:{port}/x?timeout=1s&ca-file=/none.pem"), "/none.pem"),
        ("postgres://u:hidden@127.0.0.1:1/db?timeout=1s".to_owned(), "127.0.0.1:1"),
        ("postgres://u:hidden@127.0.0.1:1/db?sslmode=off".to_owned(), "sslmode"),
        ("mysql://u:hidden@127.0.0.1/db".to_owned(), "etcd:// or postgres://"),
    ];
    for (url, part) in cases {
        machine.configure("auth", &storage(&url), &AUTH.yaml());
        let line = machine.cannot_start("auth", &[]);
        assert!(line.contains(part) && !line.contains("hidden"), "{url}: {line}");
    }
    for (section, part) in [
        ("  storage:\n    type: etcd\n", "storage.url is missing"),
        ("  storage:\n    type: postgres\n    url: etcd://127.0.0.1/x\n", "storage.type"),
        ("  storage:\n    path: /x\n    url: etcd://127.0.0.1/x\n", "exclude"),
    ] {
        machine.configure("auth", section, &AUTH.yaml());
        let line = machine.cannot_start("auth", &[]);
        assert!(line.contains(part), "{section}: {line}");
    }
    let line = migrate("redb:/none/at/all.redb", "memory:").refusal();
    assert!(line.contains("there is no file"), "{line}");
}

/// Storage that a migration has filled by half: nothing is made there, and no other cluster's name is taken over.
#[tokio::test(flavor = "multi_thread")]
async fn storage_of_others_is_not_written() {
    let clock = || Arc::new(SystemClock::new());
    let machine = Machine::new();
    let path = machine.path("half.redb").display().to_string();
    let mark = unfinished_restore().unwrap();
    let backend = teleport_backend::open(&path, clock()).await.unwrap();
    backend.create(&mark, Default::default(), None).await.unwrap();
    backend.close().await;
    drop(backend);
    machine.configure("auth", &format!("  storage:\n    path: {path}\n"), &AUTH.yaml());
    let line = machine.cannot_start("auth", &[]);
    assert!(line.contains("filled by half"), "{line}");
    let backend = teleport_backend::open(&path, clock()).await.unwrap();
    let found = backend.list(&Prefix::root()).await.unwrap();
    assert_eq!(found.into_iter().map(|item| item.key).collect::<Vec<_>>(), [mark]);
    backend.close().await;

    let etcd = Etcd::start().await;
    let section = storage(&format!("etcd://127.0.0.1:{}/shared", etcd.port));
    machine.configure("one", &section, &AUTH.yaml());
    machine.start("one", &[]).stop();
    let services = AUTH.yaml();
    assert!(services.contains("cluster_name: test.local"));
    machine.configure("two", &section, &services.replace("test.local", "other.local"));
    let line = machine.cannot_start("two", &[]);
    assert!(line.contains("test.local") && line.contains("storage.url"), "{line}");
}
