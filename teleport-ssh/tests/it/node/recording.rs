//! What is in a recording, what is not, and which sessions have one.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use russh::{ChannelMsg, client};
use teleport_core::access::ClusterRecording;
use teleport_core::recording::{Decoder, OutputStream, RecordedEvent, SessionEnd};
use teleport_core::resource::{RecordSession, RecordingMode};
use teleport_ssh::record::{Spool, SpoolLimits};
use tokio::io::AsyncWriteExt;

use super::commands::access;
use super::hostile::{Client, client as connect};
use super::support::{PATIENCE, TestNode, UserCert, me, text};

/// A node that records into a directory from which nothing is taken.
pub(crate) async fn recording() -> (TestNode, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), SpoolLimits::default()).unwrap();
    (TestNode::with(|builder| builder.recorders(Arc::new(spool))).await, dir)
}

/// The closed recordings of a spool.
pub(crate) fn closed(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "tprec")).collect()
}

/// The events of the only recording, once it is closed.
pub(crate) async fn events(dir: &Path) -> Vec<RecordedEvent> {
    let found = async {
        loop {
            if let [path] = &closed(dir)[..] {
                return path.clone();
            }
            tokio::task::yield_now().await;
        }
    };
    let path = tokio::time::timeout(PATIENCE, found).await.expect("one closed recording");
    let mut decoder = Decoder::new().unwrap();
    decoder.feed(&std::fs::read(path).unwrap());
    std::iter::from_fn(|| decoder.next_event().unwrap()).collect()
}

fn output(events: &[RecordedEvent], wanted: OutputStream) -> String {
    let data = |event: &RecordedEvent| match event {
        RecordedEvent::Output { stream, data, .. } if *stream == wanted => data.to_vec(),
        _ => Vec::new(),
    };
    text(&events.iter().flat_map(data).collect::<Vec<u8>>())
}

async fn logged_in(node: &TestNode) -> client::Handle<Client> {
    let mut session = connect(node.address).await;
    let key = Arc::new(node.user_key.clone());
    let certificate = UserCert::new().sign(&key, &node.user_ca);
    assert!(session.authenticate_openssh_cert(me().as_str(), key, certificate).await.unwrap().success());
    session
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_without_terminal_is_recorded_and_what_it_reads_is_not() {
    let (node, dir) = recording().await;
    let mut child = node
        .ssh()
        .args(["127.0.0.1", "wc -c; echo err >&2; exit 7"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"canary-c4f1").await.unwrap();
    drop(stdin);
    let ended = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
    assert_eq!(text(&ended.stdout), "11\n");
    let events = events(dir.path()).await;
    assert_eq!(output(&events, OutputStream::Stdout), "11\n");
    assert_eq!(output(&events, OutputStream::Stderr), "err\n");
    assert!(matches!(events.last(), Some(RecordedEvent::End { end: SessionEnd::Exited(7), .. })));
    assert!(!format!("{events:?}").contains("canary"), "input is in no recording");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_recorded_with_its_sizes_and_a_typed_password_is_not() {
    let (node, dir) = recording().await;
    let session = logged_in(&node).await;
    let mut channel = session.channel_open_session().await.unwrap();
    channel.request_pty(true, "xterm", 100, 30, 0, 0, &[]).await.unwrap();
    let script = "stty -echo; echo ask; read x; echo got ${#x}; stty echo; echo seen; read y; echo $(stty size); \
                  read z; exit 3";
    channel.exec(true, script).await.unwrap();
    let mut shown = String::new();
    let mut status = None;
    let mut step = 0;
    let all = async {
        while let Some(message) = channel.wait().await {
            match message {
                ChannelMsg::Data { data } => shown.push_str(&text(&data)),
                ChannelMsg::ExitStatus { exit_status } => status = Some(exit_status),
                _ => {}
            }
            let next: Option<&[u8]> = match step {
                0 if shown.contains("ask") => Some(b"canary-77ab\n"),
                1 if shown.contains("seen") => {
                    channel.window_change(132, 43, 0, 0).await.unwrap();
                    Some(b"visible\n")
                }
                2 if shown.contains("43 132") => Some(b"\n"),
                _ => None,
            };
            if let Some(typed) = next {
                step += 1;
                channel.data(typed).await.unwrap();
            }
        }
    };
    tokio::time::timeout(PATIENCE, all).await.unwrap();
    assert_eq!(status, Some(3), "{shown}");
    let events = events(dir.path()).await;
    let recorded = output(&events, OutputStream::Stdout);
    assert_eq!(recorded, shown, "what was shown, neither less nor more");
    assert!(recorded.contains("got 11") && recorded.contains("visible"), "{recorded}");
    assert!(!recorded.contains("canary"), "{recorded}");
    assert!(events.iter().any(|event| matches!(event, RecordedEvent::Resize { columns: 132, rows: 43, .. })));
    let times: Vec<_> = events.iter().map(RecordedEvent::at).collect();
    assert!(times.is_sorted() && times.last() > times.first(), "{times:?}");
    assert!(matches!(events.last(), Some(RecordedEvent::End { end: SessionEnd::Exited(3), .. })));
}

/// What the cluster says counts as soon as the node hears it, with what the user's roles say.
#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_and_the_roles_say_together_what_is_recorded() {
    let (node, dir) = recording().await;
    let all_nodes = r#"{"mode": "off", "rules": [{"node_labels": {"*": "*"}, "mode": "node"}]}"#;
    let mut expected = 0;
    for (cluster, role, says) in [
        (r#"{"mode": "off"}"#, RecordingMode::BestEffort, "off"),
        (r#"{"mode": "off"}"#, RecordingMode::Strict, "node"),
        (all_nodes, RecordingMode::Off, "node"),
        (r#"{"mode": "node"}"#, RecordingMode::Off, "off"),
    ] {
        let cluster: ClusterRecording = serde_json::from_str(cluster).unwrap();
        node.auth.view.send_modify(|view| view.recording = cluster.clone());
        let record = RecordSession { default: None, ssh: Some(role) };
        node.roles(access(|spec| spec.options.record_session = record)).await;
        let heard = node.status.view().wait_for(|view| view.recording == cluster);
        tokio::time::timeout(PATIENCE, heard).await.unwrap();
        let command = format!("echo {says}-{role:?}-{}", cluster.rules.len());
        assert!(node.run(&[], &[&command]).await.status.success());
        let exec = node.auth.event("T3002I", |event| event.fields["command"] == *command).await;
        assert_eq!(exec.fields["session_recording"], says, "{cluster:?} {role:?}");
        let strict = exec.fields.get("recording_strict").and_then(serde_json::Value::as_bool);
        assert_eq!(strict, (says != "off").then_some(role == RecordingMode::Strict));
        node.auth.event("T2004I", |event| event.sid == exec.sid).await;
        expected += usize::from(says != "off");
        let recorded = async {
            while std::fs::read_dir(dir.path()).unwrap().count() != expected {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, recorded).await.unwrap();
    }
}
