//! The audit log as an oracle: for each thing that somebody does, exactly these events.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;
use teleport_core::audit::{AuditEvent, EventKind};

use crate::support::cluster::{CLUSTER, TestCluster};
use crate::support::program::{own, run, run_with};
use crate::support::tmux::Terminal;
use crate::support::user::{User, link};
use crate::support::{own_login, wait_for};

/// What the actions below do not bring about, each with the test that does. A kind of event that is neither here nor there fails
/// the test: nobody has shown that it is ever written.
const ELSEWHERE: &[(EventKind, &str)] = &[
    (EventKind::AuditCheckpoint, "audit_chain of the backend"),
    (EventKind::AuditForwardDropped, "audit_chain of the backend"),
    (EventKind::AuditRecovered, "audit_chain of the backend"),
    (EventKind::AuditRetention, "audit_chain of the backend"),
    (EventKind::ClientResume, "resumption::g18_a_session_survives_cuts_of_its_connection"),
    (
        EventKind::ClientResumeFailure,
        "node::resumption::a_connection_goes_on_only_from_where_its_client_may_be of teleport-ssh",
    ),
    (EventKind::MfaDelete, "account::a_user_has_several_devices"),
    (EventKind::BackupRestore, "resources::a_backup_is_restored_into_an_empty_cluster"),
    (EventKind::RecordingRewrap, "encrypted::new_recipients_are_audited of the core"),
    (EventKind::SessionJoin, "shared::all_see_the_same_and_peers_type"),
    (EventKind::SessionLeave, "shared::all_see_the_same_and_peers_type"),
    (EventKind::SessionTerminate, "shared::who_may_ends_a_session_for_all_and_others_may_not"),
    (EventKind::SessionUploadFailure, "limits::what_is_beyond_the_limit_of_a_day_stays_on_the_node"),
    (EventKind::X11Forward, "x11::windows_come_through_the_proxy_to_tsh_and_stock_ssh"),
];

/// What was seen so far, step by step.
struct Oracle<'a> {
    cluster: &'a TestCluster,
    seen: usize,
}

impl Oracle<'_> {
    /// Exactly these events since the last step. Those of different hosts may come in any order, so codes are compared sorted.
    #[track_caller]
    fn expect(&mut self, what: &str, codes: &[&str]) -> Vec<AuditEvent> {
        let mut expected = codes.to_vec();
        expected.sort_unstable();
        let new = wait_for(what, || {
            let mut events = self.cluster.events(|_| true);
            // As they were written: of those of one moment, searches know no order.
            events.sort_by_key(|event| event.index);
            let new = events.get(self.seen..).unwrap().to_vec();
            (new.len() >= expected.len()).then_some(new)
        });
        let mut found: Vec<&str> = new.iter().map(|event| event.code.code()).collect();
        found.sort_unstable();
        assert_eq!(found, expected, "{what}: {new:#?}");
        self.seen += new.len();
        new
    }

    /// These events, or those, and nothing after them.
    #[track_caller]
    fn expect_last(&self, what: &str, codes: &[&str], or: &[&str]) {
        let either = [codes, or].map(|codes| {
            let mut codes = codes.to_vec();
            codes.sort_unstable();
            codes
        });
        wait_for(what, || {
            let events = self.cluster.events(|_| true);
            let mut events: Vec<(Option<u64>, &str)> =
                events.iter().map(|event| (event.index, event.code.code())).collect();
            events.sort_unstable();
            let mut found: Vec<&str> = events.get(self.seen..)?.iter().map(|(_, code)| *code).collect();
            found.sort_unstable();
            either.contains(&found).then_some(())
        });
    }
}

/// The codes of what the node says of one session, in their order. The upload is told of by the auth service, at any time.
fn of_session(events: &[AuditEvent]) -> Vec<&str> {
    let node = events.iter().filter(|event| event.sid.is_some() && event.code != EventKind::SessionUpload);
    node.map(|event| event.code.code()).collect()
}

#[test]
fn every_action_has_its_events_and_no_others() {
    let cluster = TestCluster::start();
    let mut oracle = Oracle { cluster: &cluster, seen: 0 };
    let login = own_login();
    let home = cluster.dir().join("home");
    let tctl = |arguments: &[&str]| {
        let mut command = own("tctl");
        command.arg("--data-dir").arg(cluster.dir().join("cluster")).args(arguments);
        run(command).clean()
    };
    let tsh = |arguments: &[&str]| {
        let mut command = own("tsh");
        command.env("TELEPORT_HOME", &home).args(arguments);
        command
    };
    let members = ["TJT00I", "TJ002I", "TC000I"];
    oracle.expect("auth and proxy are members", &[members, members].concat());

    cluster.add_node("node", "env=test");
    let joined = oracle.expect("a node joins", &members);
    assert_eq!(joined[1].fields["node_name"], "node");

    let mut wrong = own("teleport");
    wrong.args(["start", "--roles=node", "--token=wrong-wrong-wrong", "--listen-ip=127.0.0.1"]);
    wrong.arg(format!("--auth-server={}", cluster.auth())).arg(format!("--ca-pin={}", cluster.pin()));
    wrong.arg(format!("--data-dir={}", cluster.dir().join("wrong").display())).env("RUST_LOG", "off");
    run(wrong).refusal();
    let refused = oracle.expect("a node is refused", &["TJ002E"]);
    assert!(refused[0].error.is_some() && refused[0].success == Some(false), "{refused:?}");

    let logins = format!("--logins={login}");
    let printed = tctl(&["users", "add", "alice", &logins, "--roles=access,auditor"]);
    oracle.expect("a user is made", &["T1002I", "T6000I"]);
    let mut alice = User::accept("alice", &printed, &home);
    oracle.expect("the invite is accepted", &["T1005I", "T1006I"]);

    let proxy = format!("--proxy={}", cluster.web());
    let wrong = format!("wrong password\n{}\n", alice.app.wrong_code());
    run_with(tsh(&["login", &proxy, "--user=alice"]), wrong.as_bytes()).refusal();
    let failed = oracle.expect("a login fails", &["T1000W"]);
    assert_eq!(failed[0].user.as_deref(), Some("alice"));
    run_with(tsh(&["login", &proxy, "--user=nobody"]), wrong.as_bytes()).refusal();
    oracle.expect("a login of nobody fails", &["T1000W"]);
    alice.login(tsh(&["login", &proxy])).clean();
    oracle.expect("a login succeeds", &["T1000I", "TC000I"]);

    let ssh = |arguments: &[&str], input: &[u8]| run_with(tsh(&[&["ssh"], arguments].concat()), input);
    assert_eq!(ssh(&["node", "echo hello"], b"").code(), 0);
    let events = oracle.expect("a command runs", &["T3001I", "T2000I", "T3002I", "T2004I", "T2005I"]);
    assert_eq!(of_session(&events), ["T2000I", "T3002I", "T2004I"]);
    let end = events.iter().find(|event| event.code.code() == "T2004I").unwrap();
    assert_eq!((end.user.as_deref(), end.login.as_deref()), (Some("alice"), Some(login.as_str())));
    let session = end.sid.unwrap().to_string();

    assert_eq!(ssh(&["node", "exit 3"], b"").code(), 3);
    let events = oracle.expect("a command fails", &["T3001I", "T2000I", "T3002E", "T2004I", "T2005I"]);
    let exec = events.iter().find(|event| event.code.code() == "T3002E").unwrap();
    assert_eq!(exec.fields["exit_code"], "3");

    assert_eq!(ssh(&["node"], b"exit 4\n").code(), 4);
    oracle.expect("a shell", &["T3001I", "T2000I", "T2004I", "T2005I"]);

    ssh(&["somebody-else@node", "true"], b"").unreached();
    let denied = oracle.expect("a login that no role allows", &["T3001I", "T3007W"]);
    assert!(denied.iter().any(|event| event.fields.get("login_requested") == Some(&"somebody-else".into())));
    ssh(&["absent", "true"], b"").unreached();
    oracle.expect("a node that is not there", &["T3001E"]);

    let played = run(tsh(&["play", &session, "--format=text"])).clean();
    assert_eq!(played, "hello\n");
    let access = oracle.expect("a recording is read", &["T2012I"]);
    assert_eq!(access[0].sid.unwrap().to_string(), session);
    tctl(&["recordings", "hold", &session, "--reason=case 7"]);
    let held = oracle.expect("a recording is held", &["T2014I"]);
    assert_eq!(
        (&held[0].fields["reason"], &held[0].fields["session_user"]),
        (&"case 7".into(), &"alice".into())
    );
    let mut rm = own("tctl");
    rm.arg("--data-dir").arg(cluster.dir().join("cluster")).args(["recordings", "rm", "--force", &session]);
    run(rm).refusal();
    oracle.expect("a recording that is held is not deleted", &["T2013E"]);
    tctl(&["recordings", "release", &session]);
    oracle.expect("a recording is released", &["T2015I"]);
    run(tsh(&["recordings", "rm", "--force", &session])).refusal();
    oracle.expect("nobody deletes the own recordings", &["TAP00W"]);
    tctl(&["recordings", "rm", "--force", &session]);
    oracle.expect("a recording is deleted", &["T2013I"]);

    let created: Value =
        serde_json::from_str(&tctl(&["tokens", "add", "--type=node", "--format=json"])).unwrap();
    tctl(&["tokens", "rm", created["token"].as_str().unwrap()]);
    oracle.expect("a token comes and goes", &["TJT00I", "TJT01I"]);
    // Reading is not acting.
    tctl(&["status"]);
    tctl(&["events", "search"]);
    run(tsh(&["ls"])).clean();
    oracle.expect("nothing more", &[]);
    tctl(&["users", "reset", "alice"]);
    oracle.expect("a user is reset", &["T6000I"]);
    tctl(&["users", "rm", "alice"]);
    oracle.expect("a user is deleted", &["T1004I"]);
    tctl(&["nodes", "rm", "node"]);
    oracle.expect("a node is removed", &["TND01I"]);
    run(tsh(&["ls"])).refusal();
    let denied = oracle.expect("somebody who was deleted asks for something", &["TAP00W"]);
    assert_eq!(denied[0].user.as_deref(), Some("alice"));
    administrators(&mut oracle);
    files(&mut oracle);
    refusals(&mut oracle);
    let all = cluster.events(|_| true);
    let numbers: BTreeSet<u64> = all.iter().map(|event| event.index.unwrap()).collect();
    assert_eq!(numbers.len(), all.len(), "each has a number of its own");
    assert!(numbers.last().unwrap() >= &(all.len() as u64), "checkpoints are between");
    for event in &all {
        assert_eq!(event.cluster_name, CLUSTER);
        assert!(!event.uid.is_nil());
        let unknown: Vec<_> =
            event.fields.keys().filter(|field| !event.code.fields().contains(&field.as_str())).collect();
        assert!(unknown.is_empty(), "{} has fields that the manual does not list: {unknown:?}", event.code);
    }
    let missing: BTreeSet<String> = EventKind::ALL
        .iter()
        .filter(|kind| !all.iter().any(|event| event.code == **kind))
        .map(ToString::to_string)
        .collect();
    let elsewhere: BTreeSet<String> = ELSEWHERE.iter().map(|(kind, _)| kind.to_string()).collect();
    assert_eq!(missing, elsewhere, "kinds of events that nothing here brings about");
}

/// What administrators change.
fn administrators(oracle: &mut Oracle<'_>) {
    let cluster = oracle.cluster;
    let tctl = |arguments: &[&str], input: &str| {
        let mut command = own("tctl");
        command.arg("--data-dir").arg(cluster.dir().join("cluster")).args(arguments);
        run_with(command, input.as_bytes())
    };
    let role = "kind: role\nversion: v1\nmetadata: {name: ops}\nspec: {allow: {logins: [deploy]}}\n";
    tctl(&["create"], role).clean();
    oracle.expect("a role is made", &["T9000I"]);
    tctl(&["create"], role).refusal();
    let failed = oracle.expect("a role is made that exists", &["TAP00E"]);
    assert!(failed[0].error.is_some(), "{failed:?}");
    tctl(&["create", "--force"], &role.replace("deploy", "deployer")).clean();
    oracle.expect("a role is changed", &["T9002I"]);
    tctl(&["rm", "role/ops"], "").clean();
    oracle.expect("a role is deleted", &["T9001I"]);

    let printed = tctl(&["users", "add", "carol", "--roles=access", "--logins=carol"], "").clean();
    oracle.expect("another user is made", &["T1002I", "T6000I"]);
    tctl(&["users", "update", "carol", "--set-logins=carol,deploy"], "").clean();
    oracle.expect("a user is changed", &["T1003I"]);
    tctl(&["users", "unlock", "carol"], "").clean();
    oracle.expect("a lockout is ended", &["TUL00I"]);
    let invite = link(&printed);
    let secret = invite.rsplit('/').next().unwrap().split('#').next().unwrap();
    tctl(&["tokens", "rm", secret], "").clean();
    oracle.expect("an invite is withdrawn", &["T6003I"]);

    tctl(&["lock", "--user=carol"], "").clean();
    oracle.expect("somebody is locked", &["TLK00I"]);
    let locks: Value = serde_json::from_str(&tctl(&["get", "locks", "--format=json"], "").clean()).unwrap();
    tctl(&["rm", &format!("lock/{}", locks[0]["metadata"]["name"].as_str().unwrap())], "").clean();
    oracle.expect("a lock is lifted", &["TLK01I"]);

    let token = "kind: token\nversion: v1\nmetadata: {name: ''}\nspec: {roles: [node], secret: a-secret-of-some-length}\n";
    tctl(&["create"], token).clean();
    oracle.expect("a token is made from a document", &["TJT00I"]);
    let mut tokens: Value =
        serde_json::from_str(&tctl(&["get", "tokens", "--format=json"], "").clean()).unwrap();
    tokens[0]["spec"]["roles"] = Value::from(vec!["proxy"]);
    tctl(&["update"], &tokens[0].to_string()).clean();
    oracle.expect("a token is changed", &["TJT02I"]);
    tctl(&["get", "all", "--with-secrets"], "");
    oracle.expect("the secrets are read for a backup", &["TBK00I"]);
}

/// What is done to files by SFTP, and what fails.
fn files(oracle: &mut Oracle<'_>) {
    let (cluster, login) = (oracle.cluster, own_login());
    cluster.add_node("files", "");
    oracle.expect("a node for files joins", &["TJT00I", "TJ002I", "TC000I"]);
    let frank = cluster.user("frank", &["access"], &[&login]);
    let made = ["T1002I", "T6000I", "T1005I", "T1006I", "T1000I", "TC000I"];
    oracle.expect("somebody who copies files is made, accepts and logs in", &made);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "some text").unwrap();
    let sftp = |commands: &[&str]| {
        let mut command = Command::new("sftp");
        command.arg("-q").arg("-F").arg(&frank.ssh_config).args(["-b", "-"]).env_remove("SSH_AUTH_SOCK");
        command.arg(format!("{login}@files.{CLUSTER}"));
        let begin = format!("lcd {0}\ncd {0}\n", dir.path().display());
        run_with(command, format!("{begin}{}\n", commands.join("\n")).as_bytes())
    };
    // Through the proxy; nothing of it is recorded as a session's output is.
    let and = |more: &[&'static str]| [&["T3003I", "T2000I", "TS021I", "T2004I"], more].concat();
    let commands = [
        "put file a",
        "get a b",
        "rename a c",
        "ln c d",
        "ln -s c e",
        "chmod 600 c",
        "mkdir f",
        "rmdir f",
        "rm d",
        "ls -l",
    ];
    assert_eq!(sftp(&commands).code(), 0);
    let done = ["TS001I", "TS001I", "TS016I", "TS019I", "TS018I", "TS007I", "TS012I", "TS013I", "TS011I"];
    let events = oracle.expect("files are copied and changed", &and(&done));
    let of = |code: &str| {
        let mut of_code = events.iter().filter(|event| event.code.code() == code);
        of_code.next().unwrap().fields.clone()
    };
    let path = |name: &str| Value::from(dir.path().join(name).to_str().unwrap());
    assert_eq!((&of("TS016I")["path"], &of("TS016I")["target_path"]), (&path("a"), &path("c")));
    assert_eq!((&of("TS007I")["path"], &of("TS007I")["mode"]), (&path("c"), &"0600".into()));
    assert_eq!((&of("TS018I")["path"], &of("TS018I")["target_path"]), (&path("e"), &"c".into()));
    assert_eq!((&of("TS021I")["bytes_read"], &of("TS021I")["bytes_written"]), (&9.into(), &9.into()));
    let commands = [
        "-put file none/a",
        "-rename none other",
        "-ln none other",
        "-ln -s none c",
        "-chmod 600 none",
        "-mkdir c",
        "-rmdir none",
        "-rm none",
    ];
    sftp(&commands);
    let failed = ["TS001E", "TS016E", "TS019E", "TS018E", "TS007E", "TS012E", "TS013E", "TS011E"];
    let events = oracle.expect("nothing of it can be done", &and(&failed));
    let failures = events.iter().filter(|event| event.code.code().ends_with('E'));
    assert!(
        failures.clone().all(|event| event.success == Some(false) && event.error.is_some()),
        "{events:?}"
    );
    // By the older protocol.
    let local = dir.path().join("file");
    let scp = |from: &str, to: &str| {
        let mut command = Command::new("scp");
        command.args(["-q", "-O", "-F"]).arg(&frank.ssh_config).args([from, to]).env_remove("SSH_AUTH_SOCK");
        run(command).code()
    };
    let at_node = |name: &str| format!("{login}@files.{CLUSTER}:{}/{name}", dir.path().display());
    for (from, to, status, what) in [
        (local.display().to_string(), at_node("g"), 0, "T3005I"),
        (at_node("g"), dir.path().join("h").display().to_string(), 0, "T3004I"),
        (local.display().to_string(), at_node("none/g"), 1, "T3005E"),
        (at_node("none"), dir.path().join("h").display().to_string(), 1, "T3004E"),
    ] {
        assert_eq!(scp(&from, &to), status, "{from} {to}");
        let exec = if status == 0 { "T3002I" } else { "T3002E" };
        let expected = ["T3003I", "T2000I", what, exec, "T2004I"];
        let events = oracle.expect("a file is copied by scp -O", &expected);
        let event = events.iter().find(|event| event.code.code() == what).unwrap();
        assert_eq!(event.success, Some(status == 0));
        assert!(status != 0 || event.fields["bytes"] == 9, "{event:?}");
    }
}

/// What users are refused, and how their sessions end.
fn refusals(oracle: &mut Oracle<'_>) {
    let (cluster, login) = (oracle.cluster, own_login());
    cluster.add_node("web", "env=test");
    oracle.expect("another node joins", &["TJT00I", "TJ002I", "TC000I"]);
    let tctl = |arguments: &[&str], input: &str| {
        let mut command = own("tctl");
        command.arg("--data-dir").arg(cluster.dir().join("cluster")).args(arguments);
        run_with(command, input.as_bytes()).clean()
    };
    let narrow = format!(
        "kind: role\nversion: v1\nmetadata: {{name: narrow}}\nspec:\n  options: {{ssh_file_copy: false, max_connections: 1}}\n  \
         allow: {{logins: [{login}], node_labels: {{'*': '*'}}}}\n"
    );
    tctl(&["create"], &narrow);
    oracle.expect("a narrow role is made", &["T9000I"]);
    let dave = cluster.user("dave", &["narrow"], &[&login]);
    let made = ["T1002I", "T6000I", "T1005I", "T1006I", "T1000I", "TC000I"];
    oracle.expect("its user is made, accepts and logs in", &made);
    let host = format!("{login}@web.{CLUSTER}");
    let ssh = |arguments: &[&str]| {
        let mut command = dave.ssh();
        command.args(arguments);
        run(command)
    };
    // Through the proxy, which says that it forwards.
    let session = ["T3003I", "T2000I", "T3002I", "T2004I", "T2005I"];
    let and = |more: &[&'static str]| [&session[..], more].concat();
    let mut with_agent = Command::new("ssh-agent");
    with_agent.args(["ssh", "-A", "-F"]).arg(&dave.ssh_config).args([&host, "true"]);
    assert_eq!(run(with_agent).code(), 0);
    oracle.expect("an agent is not forwarded", &and(&["TAF00W"]));
    let mut with_screen = dave.ssh();
    with_screen.args(["-Y", &host, "true"]).env("DISPLAY", ":99");
    assert_eq!(run(with_screen).code(), 0);
    oracle.expect("X11 is not forwarded", &and(&["T3008W"]));
    assert_ne!(ssh(&["-W", "127.0.0.1:1", &host]).code(), 0);
    oracle.expect("a connection is not forwarded", &["T3003I", "T3003E"]);
    assert_eq!(ssh(&["-W", &cluster.auth().to_string(), &host]).code(), 0);
    oracle.expect("a connection is forwarded, and ends", &["T3003I", "T3003I", "T3003S"]);
    assert_ne!(ssh(&[&host, "scp -t /tmp"]).code(), 0);
    oracle.expect("files are not copied by scp", &["T3003I", "T3010E"]);
    assert_ne!(ssh(&["-s", &host, "sftp"]).code(), 0);
    oracle.expect("files are not copied by SFTP", &["T3003I", "TS020E"]);

    let screen = Terminal::open(&format!("ssh -F {} -t {host}", dave.ssh_config.display()));
    screen.type_line("echo at-the-$((6 * 7))");
    screen.wait_for("at-the-42", 1);
    oracle.expect("a shell begins", &["T3003I", "T2000I"]);
    screen.resize(90, 25);
    let resized = oracle.expect("the terminal has another size", &["T2002I"]);
    assert_eq!(resized[0].fields["terminal_size"], "90:25");
    assert_ne!(ssh(&[&host, "true"]).code(), 0);
    oracle.expect("a connection beyond the limit", &["T3003I", "T1006W"]);
    tctl(&["lock", "--user=dave"], "");
    // The proxy and the node both cut the connection; the one that is later finds it cut, and then its end was no lock's.
    oracle.expect_last(
        "who is locked is disconnected",
        &["TLK00I", "T3006I", "T2004I", "T2005I"],
        &["TLK00I", "T3006I", "T3006I", "T2004I", "T2005I"],
    );
}

/// As an auditor does it: on the auth host while it runs, and from a copy without it.
#[test]
fn the_log_is_verified_on_the_auth_host_and_from_a_copy() {
    let cluster = TestCluster::start();
    cluster.add_node("node", "env=test");
    let data = cluster.dir().join("cluster");
    let tctl = |arguments: &[&str]| {
        let mut command = own("tctl");
        command.arg("--data-dir").arg(&data).args(arguments);
        run(command)
    };
    let home = cluster.dir().join("home");
    let login = own_login();
    let printed = tctl(&["users", "add", "alice", &format!("--logins={login}"), "--roles=access"]).clean();
    let mut alice = User::accept("alice", &printed, &home);
    let tsh = |arguments: &[&str]| {
        let mut command = own("tsh");
        command.env("TELEPORT_HOME", &home).args(arguments);
        command
    };
    alice.login(tsh(&["login", &format!("--proxy={}", cluster.web())])).clean();
    assert_eq!(run(tsh(&["ssh", "node", "echo hello"])).code(), 0);
    let upload = wait_for("the recording is complete", || {
        cluster.events(|event| event.code == EventKind::SessionUpload).pop()
    });
    assert!(upload.fields.contains_key("sha256"), "{upload:?}");

    let told = tctl(&["audit", "verify", "--recordings"]).clean();
    assert!(told.contains("is whole") && told.contains("1 recording as the log says"), "{told}");
    let head = told.rsplit_once("--expect=").unwrap().1.trim().to_owned();
    let key = cluster.dir().join("audit.pem");
    std::fs::write(&key, tctl(&["auth", "export", "--type=audit"]).clean()).unwrap();

    let copy = cluster.dir().join("copy");
    std::fs::create_dir(&copy).unwrap();
    for entry in std::fs::read_dir(data.join("audit")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    // Without an auth service, or any configuration.
    let offline = |more: &[&str]| {
        let mut command = own("tctl");
        command.env("TELEPORT_HOME", cluster.dir().join("nowhere")).args(["audit", "verify"]);
        command.arg("--dir").arg(&copy).arg("--key").arg(&key).args(more);
        run(command)
    };
    let report: Value =
        serde_json::from_str(&offline(&["--format=json", "--expect", &head]).clean()).unwrap();
    assert_eq!((&report["ok"], &report["cluster"]), (&Value::Bool(true), &CLUSTER.into()));
    let refused = offline(&["--expect", &format!("99999:{}", "0".repeat(64))]).refusal();
    assert!(refused.contains("was cut"), "{refused}");

    // To look is not to write: a place without a store stays as it is.
    let elsewhere = cluster.dir().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let told = offline(&["--recordings", elsewhere.to_str().unwrap()]).clean();
    assert!(told.contains("1 no longer stored"), "{told}");
    assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0);
    let absent = cluster.dir().join("absent");
    assert!(
        offline(&["--recordings", absent.to_str().unwrap()]).refusal().contains("there are no recordings")
    );
    assert!(!absent.exists());

    // Without a checkpoint it may be anybody's, and without an entry it is none: nothing is wrong, and nothing is proven.
    let file = std::fs::read_dir(&copy).unwrap().next().unwrap().unwrap().path();
    let whole = std::fs::read(&file).unwrap();
    let mut chain = teleport_core::audit::chain::Chain::new();
    let mut anew = Vec::new();
    chain
        .append(br#"{"event":"user.login","code":"T1000I","time":"2026-11-21T12:00:00Z"}"#, &mut anew)
        .unwrap();
    for (bytes, verdict, what) in
        [(anew, "unsigned", "there is no checkpoint"), (Vec::new(), "empty", "no audit log")]
    {
        std::fs::write(&file, bytes).unwrap();
        let told = offline(&["--format=json"]);
        assert_eq!(told.code(), 3, "{told:?}");
        let report: Value = serde_json::from_slice(&told.stdout).unwrap();
        assert_eq!((&report["ok"], &report["verdict"]), (&Value::Bool(false), &verdict.into()));
        assert!(
            told.stderr.starts_with("ERROR: nothing is proven: ") && told.stderr.contains(what),
            "{told:?}"
        );
    }
    std::fs::write(&file, whole).unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replacen("\"alice\"", "\"mallory\"", 1)).unwrap();
    let refused = offline(&[]).refusal();
    let line = text.lines().position(|line| line.contains("\"alice\"")).unwrap() + 1;
    assert!(refused.contains(&format!("line {line} ")) && refused.contains("changed"), "{refused}");

    // A recording that somebody has changed is one that the log does not know.
    let stored = data.join("recordings/sessions").join(upload.sid.unwrap().to_string()).join("data");
    let mut bytes = std::fs::read(&stored).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&stored, bytes).unwrap();
    let refused = tctl(&["audit", "verify", "--recordings"]).refusal();
    assert!(refused.contains("the recording of session") && refused.contains("digest"), "{refused}");
    tctl(&["audit", "verify"]).clean();
}
