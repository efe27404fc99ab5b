//! Whoever is locked, or would not be let in any more, is not let in, and is sent away: rows A8 and C8 of the threat list.

use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use teleport_core::api::AccessView;
use teleport_core::clock::{Clock, SystemClock, Timestamp};
use teleport_core::id::OsLogin;
use teleport_core::resource::{Lock, LockMode, LockSpec, builtin_roles};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::support::{PATIENCE, TestNode, UserCert, me, neutral, private_key, run, text};

const DEVICE: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";
/// Obeys no hang-up, and would keep its connection for five seconds.
const MULISH: &str = "trap '' HUP TERM; echo up; while :; do sleep 0.1; done";

/// What happens to what is known, at a time.
type Change = fn(&mut AccessView, Timestamp);

/// A node, and a user whose certificate names a second factor.
async fn node() -> TestNode {
    let node = TestNode::start().await;
    let mut certificate = UserCert::new();
    certificate.extensions.insert(0, ("mfa-device@teleport-rs".into(), DEVICE.into()));
    node.write_certificate("user", &certificate.sign(&node.user_key, &node.user_ca), &node.user_key);
    node
}

async fn change(node: &TestNode, change: impl FnOnce(&mut AccessView)) {
    node.auth.view.send_modify(change);
    let wanted = node.auth.view.borrow().clone();
    let known = node.status.view().wait_for(|view| *view == wanted);
    tokio::time::timeout(PATIENCE, known).await.unwrap();
}

async fn lock(node: &TestNode, target: Value) {
    let spec = LockSpec { target: serde_json::from_value(target).unwrap(), message: "Go home".to_owned() };
    change(node, |view| view.locks = [Lock::new("l", spec)].into_iter().collect()).await;
}

/// Starts a session and waits until it has said `up`.
async fn up(command: &mut Command) -> Child {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap();
    assert_eq!(line.unwrap().trim(), "up");
    child.stdout = Some(lines.into_inner().into_inner());
    child
}

async fn end(child: Child) -> Output {
    tokio::time::timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap()
}

/// A shell on a terminal, a command, one that obeys nothing, and a connection without a session.
async fn all_kinds(node: &TestNode) -> [Child; 4] {
    let idle = node
        .ssh()
        .args(["-N", "-v", "127.0.0.1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let shell = up(node.ssh().args(["-tt", "127.0.0.1", "echo up; exec sleep 300"])).await;
    let command = up(node.ssh().args(["127.0.0.1", "echo up; exec sleep 300"])).await;
    let mulish = up(node.ssh().args(["127.0.0.1", MULISH])).await;
    let mut idle = idle;
    let mut lines = BufReader::new(idle.stderr.take().unwrap()).lines();
    let known = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains("Authenticated to") {
                return;
            }
        }
        panic!("never authenticated");
    };
    tokio::time::timeout(PATIENCE, known).await.unwrap();
    idle.stderr = Some(lines.into_inner().into_inner());
    [shell, command, mulish, idle]
}

/// All of them end, and each user reads why.
async fn all_end(node: &TestNode, live: [Child; 4], says: &str, audited: &str) {
    let began = Instant::now();
    let [shell, command, mulish, idle] = live;
    let (shell, command, mulish, idle) = tokio::join!(end(shell), end(command), end(mulish), end(idle));
    // A second, and what a busy machine makes of it; less than what a program that obeys nothing would have.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let told = format!("teleport: the connection ends: {says}");
    assert!(text(&shell.stdout).contains(&told), "on the terminal: {}", text(&shell.stdout));
    for (ended, told) in [(&command, &told), (&mulish, &told), (&idle, &says.to_owned())] {
        assert!(text(&ended.stderr).contains(told.as_str()), "{}", text(&ended.stderr));
    }
    for ended in [&shell, &command, &mulish, &idle] {
        assert_eq!(ended.status.code(), Some(255));
    }
    let event = node.auth.event("T3006I", |event| event.fields["reason"] == audited).await;
    assert_eq!((event.user.as_deref(), event.event.as_str()), (Some("alice"), "client.disconnect"));
    let event = node.auth.event("T2004I", |event| event.fields.get("reason") == Some(&audited.into())).await;
    assert_eq!(event.fields["exit_reason"], "disconnected");
}

#[tokio::test(flavor = "multi_thread")]
async fn a8_whoever_is_locked_is_not_let_in_and_is_told_why() {
    let node = node().await;
    let (id, name) = {
        let record = node.auth.announced(1).await;
        (record.host_id.to_string(), record.name.to_string())
    };
    for target in [
        json!({"user": "alice"}),
        json!({"role": "access"}),
        json!({"login": me()}),
        json!({"node": id}),
        json!({"node": name}),
        json!({"mfa_device": DEVICE}),
        json!({"serial": "7"}),
        json!({"user": "alice", "login": me(), "node": name}),
    ] {
        lock(&node, target.clone()).await;
        let output = run(node.ssh().args(["127.0.0.1", "echo in"])).await;
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(255), ""), "{target}");
        let says = text(&output.stderr);
        assert!(
            says.contains("lock targeting ") && says.contains("is in force: Go home"),
            "{target}: {says}"
        );
        let event =
            node.auth.event("T3007W", |event| event.error.as_deref().is_some_and(|why| says.contains(why)));
        let event = event.await;
        assert_eq!(event.user.as_deref(), Some("alice"));
    }
    for target in [
        json!({"user": "bob"}),
        json!({"role": "editor"}),
        json!({"login": "nobody"}),
        json!({"node": "node-2"}),
        json!({"user": "alice", "login": "nobody"}),
        json!({"mfa_device": "1f8fad5b-d9cb-469f-a165-70867728950e"}),
        json!({"serial": "8"}),
    ] {
        lock(&node, target.clone()).await;
        let output = node.run(&[], &["echo in"]).await;
        assert_eq!(text(&output.stdout), "in\n", "{target}: {}", text(&output.stderr));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a8_live_sessions_of_whoever_is_locked_end() {
    let node = node().await;
    let record = node.auth.announced(1).await;
    for (target, key, value) in [
        (json!({"user": "alice"}), "user", "alice".to_owned()),
        (json!({"role": "access"}), "role", "access".to_owned()),
        (json!({"login": me()}), "login", me().to_string()),
        (json!({"node": record.host_id}), "node", record.host_id.to_string()),
        (json!({"mfa_device": DEVICE}), "mfa_device", DEVICE.to_owned()),
        (json!({"serial": "7"}), "serial", "7".to_owned()),
    ] {
        let live = all_kinds(&node).await;
        lock(&node, target).await;
        let text = format!("lock targeting {key}:\"{value}\" is in force: Go home");
        all_end(&node, live, &text, &text).await;
        change(&node, |view| view.locks = Default::default()).await;
    }
}

/// Somebody else's lock ends nothing, and a channel that is opened under a lock is refused in so many words.
#[tokio::test(flavor = "multi_thread")]
async fn a8_locks_of_others_end_nothing() {
    let node = node().await;
    let child = up(node.ssh().args(["127.0.0.1", "echo up; sleep 1; echo still here"])).await;
    lock(&node, json!({"user": "bob"})).await;
    lock(&node, json!({"user": "alice", "node": "node-2"})).await;
    let ended = end(child).await;
    assert_eq!((ended.status.code(), text(&ended.stdout).trim()), (Some(0), "still here"));
    assert_eq!(node.auth.count("T3006I"), 0);
}

/// With the view followed, being strict changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a8_a_lock_that_cannot_be_read_refuses_where_locks_are_strict() {
    let node = node().await;
    change(&node, |view| view.locks = [Lock::unreadable("of-tomorrow")].into_iter().collect()).await;
    assert!(node.run(&[], &["true"]).await.status.success(), "best effort");
    change(&node, |view| view.lock_mode = LockMode::Strict).await;
    let output = node.run(&[], &["true"]).await;
    let says = text(&output.stderr);
    assert!(
        says.contains("it is not known for certain who is locked") && !says.contains("tomorrow"),
        "{says}"
    );
    node.auth
        .event("T3007W", |event| event.error.as_deref().is_some_and(|why| why.contains("lock of-tomorrow")))
        .await;
    change(&node, |view| view.locks = Default::default()).await;
    assert!(node.run(&[], &["true"]).await.status.success(), "strict, and all is known");
}

/// The causes beside locks; expiry and silence are in `lifetimes`.
#[tokio::test(flavor = "multi_thread")]
async fn c8_live_sessions_end_when_they_would_not_be_let_in_any_more() {
    let node = node().await;
    let before = node.auth.view.borrow().clone();
    let now = SystemClock::new().now();
    let causes: [(Change, &str, &str); 5] = [
        (
            |view, _| {
                let mut roles = builtin_roles();
                roles[0].spec.deny.logins = vec![me().to_string()];
                view.roles = roles.into();
            },
            "access was taken away",
            "role access denies it",
        ),
        (
            |view, _| view.roles = builtin_roles().split_off(1).into(),
            "access was taken away",
            "the user has no role that exists",
        ),
        (
            |view, _| {
                let access = ["access".parse().unwrap()].into_iter().collect();
                view.taken_roles.insert("alice".parse().unwrap(), access);
            },
            "access was taken away",
            "no role allows it",
        ),
        (
            |view, now| {
                view.deleted_users.insert("alice".parse().unwrap(), now);
            },
            "the certificate is not good any more",
            "the user does not exist any more",
        ),
        (
            |view, _| view.trust.user_ca = vec![neutral(&private_key(99))],
            "the certificate is not good any more",
            "the authority of the certificate is not trusted any more",
        ),
    ];
    for (cause, says, audited) in causes {
        let live = all_kinds(&node).await;
        change(&node, |view| cause(view, now.saturating_add(Duration::from_secs(1)))).await;
        all_end(&node, live, says, audited).await;
        let refused = node.run(&[], &["true"]).await;
        assert!(text(&refused.stderr).contains("Permission denied"), "{}", text(&refused.stderr));
        change(&node, |view| view.clone_from(&before)).await;
    }
    // A new user of the same name, with a certificate that was issued since.
    change(&node, |view| {
        view.deleted_users.insert("alice".parse().unwrap(), now.saturating_sub(Duration::from_secs(2)));
    })
    .await;
    assert!(node.run(&[], &["true"]).await.status.success());
    // Of another login of the same user nothing is taken, nor by a role that decides nothing here.
    let other = OsLogin::new("somebody-else").unwrap();
    let child = up(node.ssh().args(["127.0.0.1", "echo up; sleep 1; echo still here"])).await;
    change(&node, |view| {
        let mut roles = builtin_roles();
        roles[0].spec.deny.logins = vec![other.to_string()];
        view.roles = roles.into();
        let others = ["editor".parse().unwrap()].into_iter().collect();
        view.taken_roles.insert("alice".parse().unwrap(), others);
        view.taken_roles.insert("bob".parse().unwrap(), ["access".parse().unwrap()].into_iter().collect());
    })
    .await;
    assert_eq!(end(child).await.status.code(), Some(0));
}

/// Where locks are strict nothing begins when nobody has told of them for too long, and what runs goes on.
#[tokio::test]
async fn a8_without_news_of_locks_a_strict_node_begins_nothing_and_ends_nothing() {
    let node = node().await;
    change(&node, |view| view.lock_mode = LockMode::Strict).await;
    let mut live = up(node.ssh().args(["127.0.0.1", "echo up; cat"])).await;
    let mut lines = BufReader::new(live.stdout.take().unwrap()).lines();
    let mut typed = live.stdin.take().unwrap();
    let begins = || async { run(node.ssh().args(["127.0.0.1", "echo in"])).await };
    node.auth.fall_silent();
    let mut quiet = Duration::ZERO;
    while quiet < Duration::from_secs(300) {
        assert_eq!(text(&begins().await.stdout), "in\n", "after {quiet:?}");
        // In steps that no keepalive is lost in, each with a sign of life.
        for _ in 0..5 {
            tokio::time::pause();
            tokio::time::advance(Duration::from_secs(15)).await;
            tokio::time::resume();
            tokio::io::AsyncWriteExt::write_all(&mut typed, b"here\n").await.unwrap();
            let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap();
            assert_eq!(line.as_deref(), Some("here"));
        }
        quiet += Duration::from_secs(75);
    }
    let refused = begins().await;
    assert_eq!((refused.status.code(), refused.stdout.len()), (Some(255), 0));
    assert!(
        text(&refused.stderr).contains("it is not known for certain who is locked"),
        "{}",
        text(&refused.stderr)
    );
    let event = node.auth.event("T3007W", |_| true).await;
    assert!(
        event.error.as_deref().unwrap().starts_with("locks are strict, and nothing was heard of them for ")
    );
    // What has begun goes on.
    tokio::io::AsyncWriteExt::write_all(&mut typed, b"still here\n").await.unwrap();
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap();
    assert_eq!(line.as_deref(), Some("still here"));
    drop(typed);
    assert!(tokio::time::timeout(PATIENCE, live.wait()).await.unwrap().unwrap().success());
}
