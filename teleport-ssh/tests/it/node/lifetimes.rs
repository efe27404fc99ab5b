//! Connections that the node ends: nothing moves on them, or their certificate is over.

use std::process::{Output, Stdio};
use std::time::Duration;

use teleport_core::resource::RoleOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use super::commands::access;
use super::support::{PATIENCE, TestNode, UserCert, run, text};

const QUIET: Duration = Duration::from_secs(2);
const FOR_EVER: &str = "echo up; exec sleep 300";

async fn options(node: &TestNode, change: impl FnOnce(&mut RoleOptions)) {
    node.roles(access(|spec| change(&mut spec.options))).await;
}

/// Starts a session and waits until it has said `up`.
async fn up(command: &mut Command) -> Child {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    // Nothing beyond the line is taken.
    let stdout = child.stdout.as_mut().unwrap();
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        line.push(tokio::time::timeout(PATIENCE, stdout.read_u8()).await.unwrap().unwrap());
    }
    assert_eq!(text(&line).trim(), "up");
    child
}

async fn end(child: Child) -> Output {
    tokio::time::timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_on_which_nothing_moves_is_ended() {
    let node = TestNode::start().await;
    options(&node, |options| options.client_idle_timeout = QUIET).await;
    let reason = "nothing was typed or shown for 2s";
    // That the client's machine lives is no sign of its user.
    let alive = ["-o", "ServerAliveInterval=1"];
    let ended = end(up(node.ssh().args(alive).args(["-tt", "127.0.0.1", FOR_EVER])).await).await;
    assert_eq!(ended.status.code(), Some(255));
    let shown = text(&ended.stdout);
    assert!(shown.contains(&format!("teleport: the connection ends: {reason}")), "on the terminal: {shown}");
    let event = node.auth.event("T3006I", |event| event.fields["reason"] == reason).await;
    assert_eq!((event.user.as_deref(), event.event.as_str()), (Some("alice"), "client.disconnect"));
    assert!(event.remote.is_some() && event.login.is_some());
    let event = node.auth.event("T2004I", |event| event.fields.contains_key("reason")).await;
    assert_eq!(event.fields["reason"], reason);
    assert_eq!(event.fields["exit_reason"], "disconnected");
    node.auth.event("T3002E", |event| event.sid.is_some() && event.fields["command"] == FOR_EVER).await;
    assert!(node.status.sessions().is_empty());

    // Without a terminal, and without any session.
    let ended = end(up(node.ssh().args(["127.0.0.1", FOR_EVER])).await).await;
    assert_eq!((ended.status.code(), ended.stdout.len()), (Some(255), 0));
    assert!(text(&ended.stderr).contains(reason), "{}", text(&ended.stderr));
    let ended = run(node.ssh().args(alive).args(["-N", "127.0.0.1"])).await;
    assert_eq!(ended.status.code(), Some(255));
    assert!(text(&ended.stderr).contains(reason), "{}", text(&ended.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn output_or_input_keeps_a_connection() {
    let node = TestNode::start().await;
    // Longer than a busy machine stands still, and shorter than what follows takes.
    let quiet = Duration::from_secs(6);
    options(&node, |options| options.client_idle_timeout = quiet).await;
    let counting = "for i in $(seq 35); do echo $i; sleep 0.2; done; exit 4";
    let output = node.run(&[], &[counting]).await;
    assert_eq!(output.status.code(), Some(4), "{}", text(&output.stderr));

    let mut child = up(node.ssh().args(["127.0.0.1", "echo up; head -c 35 >/dev/null; exit 5"])).await;
    let mut stdin = child.stdin.take().unwrap();
    let mut keys = tokio::time::interval(quiet / 30);
    for _ in 0..35 {
        keys.tick().await;
        stdin.write_all(b"x").await.unwrap();
    }
    assert_eq!(end(child).await.status.code(), Some(5));
    assert_eq!(node.auth.count("T3006I"), 0);
}

/// A limit that a role gets counts for connections that are open, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_limit_reaches_open_connections_and_programs_that_do_not_obey() {
    let node = TestNode::start().await;
    let mulish = "trap '' HUP TERM; echo up; while :; do sleep 0.1; done";
    let child = up(node.ssh().args(["127.0.0.1", mulish])).await;
    options(&node, |options| options.client_idle_timeout = Duration::from_millis(500)).await;
    let ended = end(child).await;
    assert_eq!(ended.status.code(), Some(255));
    assert!(text(&ended.stderr).contains("for 500ms"), "{}", text(&ended.stderr));
    node.auth.event("T3006I", |_| true).await;
    node.auth.event("T2004I", |event| event.fields.contains_key("exit_reason")).await;
    assert!(node.status.sessions().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_ends_with_its_certificate_if_a_role_says_so() {
    let node = TestNode::start().await;
    let soon = || {
        let mut certificate = UserCert::new();
        certificate.valid_before = certificate.valid_after + 60 + 8;
        node.write_certificate("brief", &certificate.sign(&node.user_key, &node.user_ca), &node.user_key);
        node.ssh_as("brief")
    };
    // No role says so.
    let output = run(soon().args(["127.0.0.1", "sleep 9; echo alive"])).await;
    assert_eq!((text(&output.stdout).as_str(), output.status.code()), ("alive\n", Some(0)));
    assert_eq!(node.auth.count("T3006I"), 0);

    options(&node, |options| options.disconnect_expired_cert = true).await;
    let ended = end(up(soon().args(["-tt", "127.0.0.1", FOR_EVER])).await).await;
    assert_eq!(ended.status.code(), Some(255));
    assert!(text(&ended.stdout).contains("the certificate has expired"), "{}", text(&ended.stdout));
    node.auth.event("T3006I", |event| event.fields["reason"] == "the certificate has expired").await;
    node.auth.event("T2004I", |event| event.fields.contains_key("exit_reason")).await;
    // A certificate that lasts is not concerned.
    let output = node.run(&[], &["sleep 1; echo alive"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}
