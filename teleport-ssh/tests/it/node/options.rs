//! What roles say of copying files and of recordings; and that everything which is refused is in the audit log.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use teleport_core::access::SessionRecording;
use teleport_core::recording::{Failure, OutputStream, Recorder, RecordingMeta, SessionEnd};
use teleport_core::resource::{RecordSession, RecordingMode, RoleOptions};
use teleport_ssh::record::{Recorders, Spool, SpoolError, SpoolLimits};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio_util::sync::CancellationToken;

use super::commands::access;
use super::hostile::client;
use super::support::{PATIENCE, TestNode, UserCert, me, run, text};

async fn options(node: &TestNode, change: impl FnOnce(&mut RoleOptions)) {
    node.roles(access(|spec| change(&mut spec.options))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_copy_files_is_told_and_it_is_written_down() {
    let node = TestNode::start().await;
    let file = node.path("copied");
    let copy = format!("scp -t {}", file.display());
    options(&node, |options| options.ssh_file_copy = false).await;
    let commands = [
        copy.as_str(),
        "true; /usr/bin/scp -f /etc/hostname",
        "rsync --server . /tmp",
        "/usr/lib/sftp-server",
    ];
    for command in commands {
        let output = node.run(&[], &[command]).await;
        assert_eq!((output.stdout.len(), output.status.code()), (0, Some(254)), "{command}");
        let told = text(&output.stderr);
        assert!(told.contains("your roles do not permit copying files on this node"), "{told}");
        let event = node.auth.event("T3010E", |event| event.fields["command"] == command).await;
        assert_eq!((event.event.as_str(), event.user.as_deref()), ("scp", Some("alice")));
        assert_eq!(event.error.as_deref(), Some("a role permits no copying of files"));
    }
    assert!(!node.run(&["-s"], &["sftp"]).await.status.success());
    let event = node.auth.event("TS020E", |_| true).await;
    assert_eq!((event.event.as_str(), event.fields["name"].as_str()), ("sftp", Some("sftp")));
    assert_eq!(node.auth.count("T2000I"), 0, "nothing was begun");

    // Other commands run, and so do these for whom no role forbids it.
    assert_eq!(text(&node.run(&[], &["echo scp -v"]).await.stdout), "scp -v\n");
    options(&node, |_| {}).await;
    let output = node.run(&[], &["echo scp -t"]).await;
    assert_eq!(text(&output.stdout), "scp -t\n", "{}", text(&output.stderr));
    assert!(!node.run(&["-s"], &["sftp"]).await.status.success());
    node.auth.event("T3001E", |event| event.fields["name"] == "sftp").await;
    assert_eq!((node.auth.count("T3010E"), node.auth.count("TS020E")), (commands.len(), 1));
}

fn recording(mode: RecordingMode) -> impl FnOnce(&mut RoleOptions) {
    move |options| options.record_session = RecordSession { default: None, ssh: Some(mode) }
}

/// A node whose recordings may have so many bytes.
async fn spooling(max_recording_bytes: u64) -> (TestNode, Spool, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let spool =
        Spool::open(dir.path(), SpoolLimits { max_recording_bytes, ..SpoolLimits::default() }).unwrap();
    let recorders = Arc::new(spool.clone());
    (TestNode::with(|builder| builder.recorders(recorders)).await, spool, dir)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_must_be_recorded_ends_when_it_cannot_be() {
    let (node, _spool, _dir) = spooling(64 << 10).await;
    // Nothing of that can be made smaller.
    let much = "head -c 1000000 /dev/urandom; echo over; exec sleep 300";
    options(&node, recording(RecordingMode::Strict)).await;
    let tty = ["-tt"];
    for terminal in [&[][..], &tty[..]] {
        let ended = node.run(terminal, &[much]).await;
        assert_eq!(ended.status.code(), Some(255));
        let told = [ended.stdout, ended.stderr].concat();
        assert!(text(&told).contains("the session can no longer be recorded, so it ends"));
    }
    let event = node.auth.event("T2004I", |_| true).await;
    assert_eq!(event.fields["reason"], "the session could not be recorded");
    assert_eq!(event.fields["session_recording"], "node");
    assert_eq!(event.fields["recording_strict"], true);
    // What can be kept is kept, and does not end anything.
    let output = node.run(&[], &["echo little; exit 3"]).await;
    assert_eq!((text(&output.stdout).as_str(), output.status.code()), ("little\n", Some(3)));

    options(&node, recording(RecordingMode::BestEffort)).await;
    let output = node.run(&[], &["head -c 1000000 /dev/urandom; echo over; exit 4"]).await;
    assert!(output.stdout.ends_with(b"over\n"));
    assert_eq!((output.stdout.len(), output.status.code()), (1_000_005, Some(4)));
}

/// Recorders that fail when the test says so.
#[derive(Debug, Default)]
struct Failing(CancellationToken);

impl Recorders for Failing {
    fn start(&self, _: RecordingMeta, _: SessionRecording) -> Result<Box<dyn Recorder>, SpoolError> {
        Ok(Box::new(FailingRecorder(self.0.clone())))
    }
}

#[derive(Debug)]
struct FailingRecorder(CancellationToken);

impl Recorder for FailingRecorder {
    fn output(&mut self, _: Duration, _: OutputStream, _: &Bytes) {}
    fn resize(&mut self, _: Duration, _: u16, _: u16) {}
    fn finish(&mut self, _: Duration, _: SessionEnd) {}
    fn failed(&self) -> bool {
        self.0.is_cancelled()
    }
    fn failure(&self) -> Option<Failure> {
        Some(Box::pin(self.0.clone().cancelled_owned()))
    }
}

/// What is recorded is written a little later than it is shown, and fails then: a session that shows nothing more must not go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_cannot_be_recorded_any_more_ends_while_it_shows_nothing() {
    for terminal in [&[][..], &["-tt"]] {
        let failing = Failing::default();
        let failure = failing.0.clone();
        let node = TestNode::with(|builder| builder.recorders(Arc::new(failing))).await;
        options(&node, recording(RecordingMode::Strict)).await;
        let mut client = node.ssh();
        client.args(terminal).args(["127.0.0.1", "echo up; exec sleep 300"]);
        let mut client = client.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
        let up = tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap();
        assert_eq!(up.as_deref(), Some("up"));
        failure.cancel();
        let ended = tokio::time::timeout(PATIENCE, client.wait_with_output()).await.unwrap().unwrap();
        assert_eq!(ended.status.code(), Some(255));
        let mut told = text(&ended.stderr);
        while let Some(line) = lines.next_line().await.unwrap() {
            told.push_str(&line);
        }
        assert!(told.contains("the session can no longer be recorded, so it ends"), "{told}");
        let event = node.auth.event("T2004I", |_| true).await;
        assert_eq!(event.fields["reason"], "the session could not be recorded");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_recorders_no_session_begins_that_must_be_recorded() {
    let node = TestNode::start().await;
    options(&node, recording(RecordingMode::Strict)).await;
    let output = node.run(&[], &["echo in"]).await;
    assert_eq!((output.stdout.len(), output.status.code()), (0, Some(254)));
    assert!(
        text(&output.stderr).contains("cannot be recorded, so it is not begun"),
        "{}",
        text(&output.stderr)
    );
    let event = node.auth.event("T1006W", |_| true).await;
    assert!(event.error.unwrap().contains("nothing is recorded on this node"));
    assert_eq!(node.auth.count("T2000I"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_need_not_be_recorded_is_not_and_is_in_the_audit_log_all_the_same() {
    let (node, _spool, dir) = spooling(1 << 20).await;
    let recordings = || std::fs::read_dir(dir.path()).unwrap().count();
    let before = recordings();
    options(&node, recording(RecordingMode::Off)).await;
    assert_eq!(text(&node.run(&[], &["echo in"]).await.stdout), "in\n");
    let event = node.auth.event("T2000I", |_| true).await;
    assert_eq!(event.fields["session_recording"], "off");
    node.auth.event("T2004I", |end| end.sid == event.sid).await;
    assert_eq!(recordings(), before);
    options(&node, |_| {}).await;
    assert_eq!(text(&node.run(&[], &["echo in"]).await.stdout), "in\n");
    node.auth
        .event("T2000I", |event| {
            event.fields["session_recording"] == "node" && event.fields["recording_strict"] == false
        })
        .await;
    assert_eq!(recordings(), before + 1);
}

/// Each in its own words, which the stock client does not always use.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_not_offered_is_refused_and_written_down() {
    let node = TestNode::start().await;
    let mut session = client(node.address).await;
    let key = Arc::new(node.user_key.clone());
    let certificate = UserCert::new().sign(&key, &node.user_ca);
    assert!(session.authenticate_openssh_cert(me().as_str(), key, certificate).await.unwrap().success());
    let channel = session.channel_open_session().await.unwrap();
    channel.request_x11(true, false, "MIT-MAGIC-COOKIE-1", "00", 0).await.unwrap();
    channel.agent_forward(true).await.unwrap();
    for (code, name) in [("T3008W", "x11-forward"), ("TAF00W", "agent-forward")] {
        let event = node.auth.event(code, |_| true).await;
        assert_eq!((event.event.as_str(), event.user.as_deref()), (name, Some("alice")));
        assert!(event.error.is_some() && event.login.is_some());
    }
    assert!(session.channel_open_x11("127.0.0.1", 6000).await.is_err());
    node.auth.event("T3003E", |event| event.fields["kind"] == "x11").await;
    assert!(session.channel_open_direct_streamlocal("/run/docker.sock").await.is_err());
    node.auth.event("T3003E", |event| event.fields["addr"] == "/run/docker.sock").await;
    let asked = tokio::time::timeout(PATIENCE, session.streamlocal_forward("/tmp/x")).await.unwrap();
    assert!(asked.is_err());
    node.auth.event("T3003E", |event| event.fields["kind"] == "streamlocal-forward").await;

    let certificate = UserCert::new().without("permit-pty");
    node.write_certificate("plain", &certificate.sign(&node.user_key, &node.user_ca), &node.user_key);
    let output = run(node.ssh_as("plain").args(["-tt", "127.0.0.1", "true"])).await;
    assert!(text(&output.stderr).contains("PTY allocation request failed"), "{}", text(&output.stderr));
    let event = node.auth.event("T1006W", |_| true).await;
    assert_eq!(event.error.as_deref(), Some("the certificate permits no terminal"));
}

/// A3: whoever comes from a proxy's address may come from anywhere, so it is no address to be bound to.
#[tokio::test(flavor = "multi_thread")]
async fn a3_an_address_of_a_proxy_says_nothing_of_the_user() {
    let node = TestNode::start().await;
    let certificate = UserCert::new().critical("source-address", "127.0.0.1");
    node.write_certificate("bound", &certificate.sign(&node.user_key, &node.user_ca), &node.user_key);
    let as_bound = || async { run(node.ssh_as("bound").args(["127.0.0.1", "echo in"])).await };
    assert_eq!(text(&as_bound().await.stdout), "in\n");
    let proxy = "127.0.0.1".parse().unwrap();
    node.auth.view.send_modify(|view| view.proxies = vec![proxy]);
    let changed = node.status.view().wait_for(|view| view.proxies == [proxy]);
    tokio::time::timeout(PATIENCE, changed).await.unwrap();
    let output = as_bound().await;
    assert_eq!((output.status.code(), output.stdout.len()), (Some(255), 0));
    let event = node.auth.event("T3007W", |_| true).await;
    assert_eq!(event.user.as_deref(), Some("alice"));
    // Who is not bound comes in from there as from everywhere.
    assert_eq!(text(&node.run(&[], &["echo in"]).await.stdout), "in\n");
    let elsewhere = UserCert::new().critical("source-address", "192.0.2.7");
    node.write_certificate("bound", &elsewhere.sign(&node.user_key, &node.user_ca), &node.user_key);
    assert_eq!(as_bound().await.status.code(), Some(255));
}
