//! `tctl` and `tsh` end to end, as separate programs: from an invite to a replay.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::cluster::{CLUSTER, TestCluster};
use crate::support::program::{Output, own, run, run_with};
use crate::support::user::{User, link};
use crate::support::{own_login, wait_for};

/// `tctl` on the auth host.
fn tctl(cluster: &TestCluster, arguments: &[&str]) -> Output {
    let mut command = own("tctl");
    command.arg("--data-dir").arg(cluster.dir().join("cluster")).args(arguments);
    run(command)
}

fn tsh(home: &Path, arguments: &[&str]) -> Command {
    let mut command = own("tsh");
    command.env("TELEPORT_HOME", home).args(arguments);
    command
}

fn json(output: Output) -> Value {
    serde_json::from_str(&output.clean()).unwrap()
}

/// The entries of a list as JSON.
fn list(output: Output) -> Vec<Value> {
    json(output).as_array().unwrap().clone()
}

/// A user by the programs alone, and where its logins are.
fn invited(cluster: &TestCluster, name: &str, roles: &str) -> (User, std::path::PathBuf) {
    let logins = format!("--logins={}", own_login());
    let roles = format!("--roles={roles}");
    let printed = tctl(cluster, &["users", "add", name, &logins, &roles]).clean();
    let home = cluster.dir().join(format!("tsh-{name}"));
    (User::accept(name, &printed, &home), home)
}

#[test]
fn from_an_invite_to_a_replay() {
    let cluster = TestCluster::with_node();
    let login = own_login();
    let printed =
        tctl(&cluster, &["users", "add", "bob", "--logins", &login, "--roles=access,auditor"]).clean();
    assert!(
        printed.contains("User \"bob\" has been created") && printed.contains("it is good for 1h and"),
        "{printed}"
    );
    let home = cluster.dir().join("bob");
    let mut bob = User::accept("bob", &printed, &home);
    // The proxy is known from the invite: nothing else needs to be said.
    let proxy = format!("--proxy={}", cluster.web());
    let status = bob.login(tsh(&home, &["login", &proxy])).clean();
    for part in [
        format!("Profile URL:  https://{}", cluster.web()),
        "Logged in as: bob".into(),
        format!("Cluster:      {CLUSTER}"),
        "Roles:        access, auditor".into(),
        format!("Logins:       {login}"),
        "[valid for 11h59m]".into(),
    ] {
        assert!(status.contains(&part), "{part}: {status}");
    }
    assert_eq!(run(tsh(&home, &["status"])).clean(), status);
    let document = list(run(tsh(&home, &["status", "--format=json"])));
    assert_eq!((&document[0]["username"], &document[0]["active"]), (&"bob".into(), &true.into()));

    assert!(run(tsh(&home, &["ls"])).clean().contains("node"), "the node is listed");
    assert_eq!(list(run(tsh(&home, &["ls", "env=test", "--format=json"]))).len(), 1);
    assert_eq!(list(run(tsh(&home, &["ls", "env=other", "--format=json"]))).len(), 0);
    assert_eq!(run(tsh(&home, &["ls", "--format=names", "--search=nod"])).clean(), "node\n");

    let command = ["ssh", "node", "echo out; cat; echo err >&2; exit 6"];
    let output = run_with(tsh(&home, &command), b"in\n");
    assert_eq!((output.out(), output.stderr.as_str(), output.code()), ("out\nin\n", "err\n", 6));
    let by_label = run(tsh(&home, &["ssh", &format!("{login}@env=test"), "echo", "by", "label"]));
    assert_eq!(by_label.clean(), "by label\n");

    let recordings = wait_for("both recordings", || {
        let all = list(run(tsh(&home, &["recordings", "ls", "--format=json"])));
        let complete = all.iter().filter(|recording| !recording["completed"].is_null()).count();
        (complete == 2).then_some(all)
    });
    let session = recordings[1]["meta"]["session"].as_str().unwrap();
    let shown = run(tsh(&home, &["recordings", "ls"])).clean();
    assert!(shown.contains(session) && shown.contains("complete"), "{shown}");
    let text = run(tsh(&home, &["play", session, "--format=text"])).clean();
    assert!(text.contains("out\n") && text.contains("err\n"), "{text:?}");
    // What is no terminal gets what was shown and nothing of ours.
    let piped = run(tsh(&home, &["play", session])).clean();
    assert!(piped.contains("out\n") && !piped.contains('\u{1b}'), "{piped:?}");
    let lines = run(tsh(&home, &["play", session, "--format=json"])).clean();
    let frames: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(frames.len() >= 3, "{lines}");
    // asciicast version 2: a header, then [time, kind, text].
    let cast = run(tsh(&home, &["play", session, "--format=cast"])).clean();
    let mut cast = cast.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    assert_eq!(cast.next().unwrap()["version"], 2);
    let output: String = cast.filter(|e| e[1] == "o").map(|e| e[2].as_str().unwrap().to_owned()).collect();
    assert!(output.contains("out") && output.contains("err"), "{output:?}");

    assert_eq!(run(tsh(&home, &["logout"])).clean(), format!("Logged out bob at {}\n", cluster.web()));
    assert!(run(tsh(&home, &["ls"])).refusal().contains("not logged in; run: tsh login"));
    assert!(run(tsh(&home, &["status"])).refusal().contains("not logged in"));
}

#[test]
fn administration_on_the_auth_host() {
    let cluster = TestCluster::with_node();
    let status = tctl(&cluster, &["status"]).clean();
    for part in [CLUSTER, "Nodes online 1", &cluster.pin(), &cluster.web().to_string()] {
        assert!(status.contains(part), "{part}: {status}");
    }
    let nodes = list(tctl(&cluster, &["nodes", "ls", "--format=json"]));
    assert_eq!((nodes.len(), &nodes[0]["name"]), (1, &"node".into()), "{nodes:?}");
    assert!(tctl(&cluster, &["nodes", "ls"]).clean().contains("env=test"));

    // The token of `nodes add` is shown once; lists and files know its hash only.
    let added = tctl(&cluster, &["nodes", "add", "--uses=2"]).clean();
    let secret = added.lines().next().unwrap().strip_prefix("The token is ").unwrap().to_owned();
    for part in ["--roles=node", "for 2 hosts", &format!("--ca-pin={}", cluster.pin()), &secret] {
        assert!(added.contains(part), "{part}: {added}");
    }
    let tokens = tctl(&cluster, &["tokens", "ls"]).clean();
    assert!(!tokens.contains(&secret) && tokens.contains("node") && tokens.contains(" 2 "), "{tokens}");
    let removed = tctl(&cluster, &["tokens", "rm", &secret]).clean();
    assert!(!removed.contains(&secret) && removed.contains("deleted"), "{removed}");
    assert_eq!(tctl(&cluster, &["tokens", "ls", "--format=json"]).clean().trim(), "[]");
    let chosen = tctl(&cluster, &["tokens", "add", "--type=node,proxy", "--value=a-chosen-secret-of-mine"]);
    assert!(chosen.clean().contains("--roles=node,proxy"));
    let id = list(tctl(&cluster, &["tokens", "ls", "--format=json"]))[0]["id"].as_str().unwrap().to_owned();
    tctl(&cluster, &["tokens", "rm", &id]).clean();

    let (mut carol, home) = invited(&cluster, "carol", "access");
    let users = tctl(&cluster, &["users", "ls"]).clean();
    assert!(users.contains("carol") && users.contains("access") && users.contains(&own_login()), "{users}");
    // After a reset the password of before is worth nothing, and the new link is.
    let reset = tctl(&cluster, &["users", "reset", "carol"]).clean();
    assert!(reset.contains("User \"carol\" has been reset."), "{reset}");
    let proxy = format!("--proxy={}", cluster.web());
    let line = carol.login(tsh(&home, &["login", &proxy])).refusal();
    assert!(line.contains("login failed"), "{line}");
    let mut carol = User::accept("carol", &reset, &home);
    assert!(carol.login(tsh(&home, &["login", &proxy])).clean().contains("Logged in as: carol"));
    assert!(tctl(&cluster, &["users", "rm", "carol"]).clean().contains("deleted"));
    assert!(!tctl(&cluster, &["users", "ls"]).clean().contains("carol"));

    let removed = tctl(&cluster, &["nodes", "rm", "node"]).clean();
    assert!(removed.contains("\"node\" has been removed from the cluster"), "{removed}");
    assert!(list(tctl(&cluster, &["nodes", "ls", "--format=json"])).is_empty());
    assert!(tctl(&cluster, &["nodes", "rm", "node"]).refusal().contains("there is no node or proxy"));
    let roles = tctl(&cluster, &["roles", "ls"]).clean();
    for role in ["access", "auditor", "editor"] {
        assert!(roles.contains(role), "{roles}");
    }
}

#[test]
fn the_audit_log_is_searched() {
    let cluster = TestCluster::with_node();
    let (mut erin, home) = invited(&cluster, "erin", "access");
    let proxy = format!("--proxy={}", cluster.web());
    erin.login(tsh(&home, &["login", &proxy])).clean();
    run(tsh(&home, &["ssh", "node", "echo searched"])).clean();
    let search = |arguments: &[&str]| {
        let fixed = ["events", "search", "--format=json"];
        list(tctl(&cluster, &[&fixed, arguments].concat()))
    };
    let ends = wait_for("the end of the session", || {
        let found = search(&["--type=session.end", "--user=erin"]);
        (!found.is_empty()).then_some(found)
    });
    let session = ends[0]["sid"].as_str().unwrap();
    let of_session = search(&["--session", session, "--oldest-first"]);
    let names: Vec<&str> = of_session.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(names.first(), Some(&"session.start"), "{names:?}");
    assert!(names.contains(&"exec") && names.contains(&"session.end"), "{names:?}");
    assert!(search(&["--type=user.login"]).iter().all(|event| event["code"] == "T1000I"));
    assert_eq!(search(&["--limit=2"]).len(), 2);
    assert_eq!(search(&["--to-utc=2020-01-01T00:00:00Z"]).len(), 0);
    assert!(!search(&["--last=1h"]).is_empty());
    let newest = search(&[]);
    let times: Vec<&str> = newest.iter().map(|event| event["time"].as_str().unwrap()).collect();
    assert!(times.is_sorted_by(|a, b| a >= b), "{times:?}");
    let table = tctl(&cluster, &["events", "search", "--type=exec"]).clean();
    assert!(table.contains("T3002I") && table.contains("echo searched"), "{table}");
}

#[test]
fn an_identity_file_serves_programs_elsewhere() {
    let cluster = TestCluster::with_node();
    let (mut frank, home) = invited(&cluster, "frank", "access,editor,auditor");
    let file = cluster.dir().join("frank.identity");
    let (proxy, out) = (format!("--proxy={}", cluster.web()), format!("--out={}", file.display()));
    let said = frank.login(tsh(&home, &["login", &proxy, &out, "--ttl=60"])).clean();
    assert!(said.contains("The identity of frank is in"), "{said}");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(run(tsh(&home, &["status"])).refusal().contains("not logged in"), "it goes to the file alone");
    // Through the proxy or straight to the auth service, whatever their ports are.
    for server in [cluster.web(), cluster.auth()] {
        let mut remote = own("tctl");
        remote.args(["--auth-server", &server.to_string(), "--identity"]).arg(&file).args(["nodes", "ls"]);
        assert!(run(remote).clean().contains("env=test"));
    }
    let mut add = own("tctl");
    add.args(["--auth-server", &cluster.web().to_string(), "--identity"]).arg(&file);
    add.args(["tokens", "add", "--type=node"]);
    assert!(run(add).clean().contains(&format!("--auth-server={}", cluster.web())));

    // Somebody without the right is told so, and the denial is audited.
    let (mut mallory, home) = invited(&cluster, "mallory", "access");
    let file = cluster.dir().join("mallory.identity");
    mallory.login(tsh(&home, &["login", &proxy, &format!("--out={}", file.display())])).clean();
    let mut denied = own("tctl");
    denied.args(["--auth-server", &cluster.web().to_string(), "--identity"]).arg(&file);
    denied.args(["users", "add", "eve", "--logins=root"]);
    let line = run(denied).refusal();
    assert!(line.contains("denied"), "{line}");
    cluster
        .event(teleport_core::audit::EventKind::ApiDenied, |event| event.user.as_deref() == Some("mallory"));
}

#[test]
fn what_cannot_be_done_is_one_clear_line() {
    let cluster = TestCluster::with_node();
    let home = cluster.alice();
    let mut unknown = own("tctl");
    unknown.args(["--data-dir", "/nonexistent", "status"]);
    assert!(run(unknown).refusal().contains("there is no auth service in /nonexistent"));
    for (arguments, part) in [
        (vec!["users", "rm", "nobody-known"], "nobody-known"),
        (vec!["users", "add", "alice", "--logins=root"], "alice"),
        (vec!["users", "add", "dave", "--roles=no-such-role"], "no-such-role"),
        (vec!["nodes", "rm", "no-such-node"], "no-such-node"),
        (vec!["tokens", "rm", "no-such-token"], "token"),
        (vec!["events", "search", "--limit=0"], "--limit"),
    ] {
        let line = tctl(&cluster, &arguments).refusal();
        assert!(line.contains(part), "{arguments:?}: {line}");
    }
    let say = |arguments: &[&str]| {
        let mut command = home.tsh();
        command.args(arguments);
        run(command).refusal()
    };
    for (arguments, part) in [
        (vec!["ssh", "env=nowhere", "true"], "tsh ls"),
        (vec!["ssh", "a b", "true"], "the host must be a node's name"),
        (vec!["play", "/nonexistent"], "tsh recordings ls"),
        (vec!["play", "00000000-0000-4000-8000-000000000000"], "there is no recording"),
        (vec!["recordings", "ls", "--limit=0"], "--limit"),
    ] {
        let line = say(&arguments);
        assert!(line.contains(part), "{arguments:?}: {line}");
    }
    let nowhere = cluster.dir().join("nowhere");
    let line = run(tsh(&nowhere, &["login", "--user=x"])).refusal();
    assert!(line.contains("--proxy"), "{line}");
    let line = run(tsh(&nowhere, &["login", "--user=x", &format!("--proxy={}", cluster.web())])).refusal();
    assert!(line.contains("--ca-pin"), "{line}");
    // A pin of another cluster: nothing secret is sent.
    let pin = format!("--ca-pin=sha256:{}", "0".repeat(64));
    let line = run_with(
        tsh(&nowhere, &["login", "--user=x", &format!("--proxy={}", cluster.web()), &pin]),
        b"password\n123456\n",
    )
    .refusal();
    assert!(line.contains("nothing was sent"), "{line}");
    // Nobody is there.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let line =
        run_with(tsh(&nowhere, &["login", "--user=x", &format!("--proxy={closed}"), &pin]), b"p\n123456\n")
            .refusal();
    assert!(line.contains(&closed.to_string()), "{line}");
    // An invite is good once.
    let printed = tctl(&cluster, &["users", "add", "gina", "--logins=gina"]).clean();
    User::accept("gina", &printed, &nowhere);
    let line = run(tsh(&nowhere, &["accept", &link(&printed)])).refusal();
    assert!(line.contains("ask for a new one"), "{line}");
    let mut unknown = own("tsh");
    unknown.args(["login", "--prxy=x"]);
    let line = run(unknown).refusal();
    assert!(line.contains("--proxy"), "it suggests what was meant: {line}");
}
