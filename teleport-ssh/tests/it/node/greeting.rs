//! What a login on a terminal shows, and who learns of it.

use std::process::Stdio;
use std::sync::Arc;

use teleport_core::clock::SystemClock;
use teleport_ssh::session::OsSessions;
use teleport_ssh::sys::login_records::LoginRecords;
use tokio::io::AsyncWriteExt;

use super::support::{PATIENCE, TestNode, me, text};

/// The output of a stock `ssh` with a terminal, into which this is typed.
async fn typed(node: &TestNode, lines: &str, command: &[&str]) -> String {
    let mut child = node
        .ssh()
        .args(["-tt", "127.0.0.1"])
        .args(command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(lines.as_bytes()).await.unwrap();
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
    drop(stdin);
    text(&output.stdout)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_on_a_terminal_begins_with_the_messages_and_is_in_the_records() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let (utmp, wtmp) = (file("utmp", ""), file("wtmp", ""));
    let sessions = OsSessions::new(Arc::new(SystemClock::new()))
        .with_login_records(Some(LoginRecords::new(&utmp, &wtmp)))
        .with_messages([file("motd", "Be kind to each other.\n"), dir.path().join("none")]);
    let node = TestNode::serving(Arc::new(sessions), |builder| builder).await;
    let who = format!("who {} | sed s/^/WHO:/; exit\n", utmp.display());
    let shown = typed(&node, &who, &[]).await;
    assert!(shown.starts_with("Be kind to each other.\r\n"), "{shown}");
    let said = format!("WHO:{}", me());
    let line = shown.lines().find(|line| line.contains(&said)).expect(&shown);
    assert!(line.contains("pts/") && line.contains("(127.0.0.1)"), "{line}");

    // A command is no login that is greeted, with a terminal or without.
    let shown = typed(&node, "", &[&who]).await;
    assert!(shown.starts_with("WHO:"), "{shown}");
    assert_eq!(text(&node.run(&[], &["true"]).await.stdout), "");

    // Both terminals are given back, and the history has both logins with their ends.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let now = std::process::Command::new("who").arg(&utmp).output().unwrap();
        let history = std::process::Command::new("last").args(["-w", "-f"]).arg(&wtmp).output().unwrap();
        let history = text(&history.stdout);
        let ended = history.lines().filter(|line| line.contains("pts/") && line.contains(" - ")).count();
        if now.stdout.is_empty() && ended == 2 {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{}{history}", text(&now.stdout));
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}
