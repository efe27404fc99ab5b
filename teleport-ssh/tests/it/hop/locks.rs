//! What locks mean at the proxy, whatever the node behind it makes of them: rows A8 and C8 of the threat list.
//!
//! The nodes are stock `sshd`s, which know nothing of locks: what ends here, the proxy ends.

use std::io::Write;
use std::process::{Child, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use teleport_core::api::AccessView;
use teleport_core::audit::EventKind;
use teleport_core::clock::{Clock, SystemClock};
use teleport_core::id::OsLogin;
use teleport_core::resource::{Lock, LockMode, LockSpec};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::ChildStdout;
use tokio::time::Instant;

use super::{CLUSTER, DEADLINE, PROXY, TestUser, World, os_user, run, text};

/// What happens to what is known.
type Change = Box<dyn FnOnce(&mut AccessView)>;

async fn change(world: &World, change: impl FnOnce(&mut AccessView)) {
    world.access.view.send_modify(change);
    let wanted = world.access.view.borrow().clone();
    let known = world.view.wait_for(|view| *view == wanted);
    tokio::time::timeout(DEADLINE, known).await.unwrap();
}

async fn lock(world: &World, target: Value) {
    let spec = LockSpec { target: serde_json::from_value(target).unwrap(), message: "Go home".to_owned() };
    change(world, |view| view.locks = [Lock::new("l", spec)].into_iter().collect()).await;
}

/// The two doors of the proxy, as options of the stock client.
fn doors(world: &World, user: &TestUser) -> [String; 2] {
    let options = world.options(user).iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
    let port = world.proxy.port();
    [
        format!("ssh {options} -o {PROXY} -W [%h]:%p -p {port} x@127.0.0.1"),
        format!("ssh {options} -o {PROXY} -s -p {port} x@127.0.0.1 proxy:%h:%p"),
    ]
}

fn through(world: &World, user: &TestUser, door: &str, node: &str, command: &str) -> std::process::Command {
    let mut ssh = world.ssh(user);
    ssh.arg("-o").arg(format!("ProxyCommand={door}"));
    ssh.arg(format!("{}@{node}.{CLUSTER}", os_user())).arg(command);
    ssh
}

/// A session through the proxy that has said `up`.
async fn up(mut command: std::process::Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let starting = tokio::task::spawn_blocking(move || {
        use std::io::BufRead;
        let mut child = command.spawn().unwrap();
        let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "up");
        child.stdout = Some(output.into_inner());
        child
    });
    tokio::time::timeout(DEADLINE, starting).await.unwrap().unwrap()
}

async fn end(child: Child) -> Output {
    let ending = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    tokio::time::timeout(DEADLINE, ending).await.unwrap().unwrap()
}

const FOR_EVER: &str = "echo up; exec sleep 300";

#[tokio::test(flavor = "multi_thread")]
async fn a8_the_proxy_lets_nobody_in_who_is_locked_and_says_why() {
    let world = World::start().await;
    world.sshd("web").await;
    let id = world.sshd("db").await;
    let user = world.user("alice").await;
    for door in doors(&world, &user) {
        for (target, web, db) in [
            (json!({"user": "alice"}), false, false),
            (json!({"role": "access"}), false, false),
            (json!({"node": "db"}), true, false),
            (json!({"node": id}), true, false),
            (json!({"user": "alice", "node": "web"}), false, true),
            (json!({"user": "bob"}), true, true),
            // Which login it will be only the node knows.
            (json!({"login": os_user()}), true, true),
        ] {
            lock(&world, target.clone()).await;
            for (node, allowed) in [("web", web), ("db", db)] {
                let output = run(through(&world, &user, &door, node, "echo in")).await;
                assert_eq!(output.status.success(), allowed, "{target} {node}: {}", text(&output.stderr));
                let says = text(&output.stderr);
                assert_eq!(says.contains("is in force: Go home"), !allowed, "{target} {node}: {says}");
            }
        }
    }
    for kind in [EventKind::AuthFailure, EventKind::PortFailure, EventKind::SubsystemFailure] {
        let locked = |why: &str| why.starts_with("lock targeting ");
        let event = world.event(kind, |event| event.error.as_deref().is_some_and(locked)).await;
        assert_eq!(event.user.as_deref(), Some("alice"));
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c8_what_goes_through_the_proxy_ends_when_it_would_not_begin() {
    let world = World::start().await;
    world.sshd("web").await;
    let user = world.user("alice").await;
    let before = world.access.view.borrow().clone();
    let lock = |target: Value| -> Change {
        let spec =
            LockSpec { target: serde_json::from_value(target).unwrap(), message: "Go home".to_owned() };
        Box::new(|view| view.locks = [Lock::new("l", spec)].into_iter().collect())
    };
    let later = SystemClock::new().now().saturating_add(Duration::from_secs(1));
    let causes: Vec<(Change, &str, &str)> = vec![
        (
            lock(json!({"user": "alice"})),
            "user:\"alice\" is in force: Go home",
            "user:\"alice\" is in force: Go home",
        ),
        (lock(json!({"role": "access"})), "is in force: Go home", "role:\"access\" is in force: Go home"),
        (
            Box::new(move |view| {
                view.deleted_users.insert("alice".parse().unwrap(), later);
            }),
            "the certificate is not good any more",
            "the user does not exist any more",
        ),
        (
            Box::new(|view| view.trust.user_ca.clone_from(&view.trust.host_ca)),
            "the certificate is not good any more",
            "the authority of the certificate is not trusted any more",
        ),
    ];
    for (cause, says, audited) in causes {
        let mut live = Vec::new();
        for door in doors(&world, &user) {
            live.push(up(through(&world, &user, &door, "web", FOR_EVER)).await);
        }
        let began = Instant::now();
        change(&world, cause).await;
        for child in live {
            let ended = end(child).await;
            assert_eq!(ended.status.code(), Some(255));
            assert!(text(&ended.stderr).contains(says), "{says}: {}", text(&ended.stderr));
        }
        // A second, and what a busy machine makes of it.
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        let reason = |event: &teleport_core::audit::AuditEvent| {
            event.fields.get("reason").and_then(Value::as_str).is_some_and(|why| why.ends_with(audited))
        };
        let event = world.event(EventKind::ClientDisconnect, reason).await;
        assert_eq!(event.user.as_deref(), Some("alice"));
        change(&world, |view| view.clone_from(&before)).await;
    }
    world.stop().await;
}

/// A role that was taken from the user opens no way any more, like one that is changed.
#[tokio::test(flavor = "multi_thread")]
async fn c8_a_taken_role_opens_no_way() {
    let world = World::start().await;
    world.sshd("web").await;
    let user = world.user("alice").await;
    let before = world.access.view.borrow().clone();
    for door in doors(&world, &user) {
        assert!(run(through(&world, &user, &door, "web", "echo in")).await.status.success());
        change(&world, |view| {
            view.taken_roles
                .insert("alice".parse().unwrap(), ["access".parse().unwrap()].into_iter().collect());
        })
        .await;
        let output = run(through(&world, &user, &door, "web", "echo in")).await;
        assert!(!output.status.success(), "{}", text(&output.stdout));
        change(&world, |view| view.clone_from(&before)).await;
        assert!(run(through(&world, &user, &door, "web", "echo in")).await.status.success());
    }
    let unseen = |event: &teleport_core::audit::AuditEvent| {
        event.error.as_deref() == Some("the user may not see the node")
    };
    for kind in [EventKind::PortFailure, EventKind::SubsystemFailure] {
        assert_eq!(world.event(kind, unseen).await.user.as_deref(), Some("alice"));
    }
    world.stop().await;
}

/// A lock of one node ends the way there and leaves the others.
#[tokio::test(flavor = "multi_thread")]
async fn a8_the_way_to_a_locked_node_ends_and_others_go_on() {
    let world = World::start().await;
    let (web, _) = (world.sshd("web").await, world.sshd("db").await);
    let user = world.user("alice").await;
    for door in doors(&world, &user) {
        let to_web = up(through(&world, &user, &door, "web", FOR_EVER)).await;
        let to_db = up(through(&world, &user, &door, "db", "echo up; read line; echo got $line")).await;
        lock(&world, json!({"node": web})).await;
        assert_eq!(end(to_web).await.status.code(), Some(255));
        let event =
            world.event(EventKind::ClientDisconnect, |event| event.fields["node_id"] == web.to_string());
        assert!(event.await.fields["reason"].as_str().unwrap().contains("is in force: Go home"));
        let mut to_db = to_db;
        to_db.stdin.take().unwrap().write_all(b"it\n").unwrap();
        assert_eq!(text(&end(to_db).await.stdout), "got it");
        change(&world, |view| view.locks = Default::default()).await;
    }
    world.stop().await;
}

/// Where locks are strict nobody is let in, or led to a node, when nobody has told of them for too long; ways that are open stay.
#[tokio::test]
async fn a8_without_news_of_locks_a_strict_proxy_begins_nothing_and_ends_nothing() {
    let world = World::start().await;
    world.sshd("web").await;
    let user = world.user("alice").await;
    change(&world, |view| view.lock_mode = LockMode::Strict).await;
    let [door, _] = doors(&world, &user);
    let mut live = up(through(&world, &user, &door, "web", "echo up; cat")).await;
    let (mut typed, shown) = (live.stdin.take().unwrap(), live.stdout.take().unwrap());
    let mut shown = BufReader::new(ChildStdout::from_std(shown).unwrap()).lines();
    let mut says = async |line: &str| {
        typed.write_all(format!("{line}\n").as_bytes()).unwrap();
        let heard = tokio::time::timeout(DEADLINE, shown.next_line()).await.unwrap().unwrap();
        assert_eq!(heard.as_deref(), Some(line));
    };
    // A connection to the proxy that leads nowhere yet.
    let proxy = world.client(&user).proxy(&world.address()).await.unwrap();
    world.access.fall_silent();
    let mut quiet = Duration::ZERO;
    while quiet < Duration::from_secs(300) {
        let output = run(through(&world, &user, &door, "web", "echo in")).await;
        assert_eq!(text(&output.stdout), "in", "after {quiet:?}: {}", text(&output.stderr));
        // In steps that no keepalive is lost in, each with a sign of life.
        for number in 0..5 {
            tokio::time::pause();
            tokio::time::advance(Duration::from_secs(15)).await;
            tokio::time::resume();
            says(&format!("{number}")).await;
        }
        quiet += Duration::from_secs(75);
    }
    let refused = run(through(&world, &user, &door, "web", "echo in")).await;
    assert_eq!((refused.status.code(), text(&refused.stdout).as_str()), (Some(255), ""));
    let unknown = "it is not known for certain who is locked";
    assert!(text(&refused.stderr).contains(unknown), "{}", text(&refused.stderr));
    let stale = |why: &str| why.starts_with("locks are strict, and nothing was heard of them for ");
    let event = world.event(EventKind::AuthFailure, |event| event.error.as_deref().is_some_and(stale)).await;
    assert_eq!(event.user.as_deref(), Some("alice"));
    // Nor on a connection that is open.
    let login = OsLogin::new(&os_user()).unwrap();
    let refused = world.client(&user).node(proxy, &"web".parse().unwrap(), &login).await.unwrap_err();
    assert!(refused.to_string().contains(unknown), "{refused}");
    says("still here").await;
    drop((typed, shown));
    assert_eq!(end(live).await.status.code(), Some(0));
    world.stop().await;
}
