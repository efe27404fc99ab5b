//! Who may reach which node, told and enforced: `tctl access explain`, lists with filters, names that several nodes have.

use serde_json::Value;
use teleport_core::audit::EventKind;

use crate::support::cluster::{CLUSTER, Home, TestCluster};
use crate::support::program::{Output, own, run, run_with};
use crate::support::{own_login, wait_for};

fn tctl(cluster: &TestCluster, arguments: &[&str]) -> Output {
    let mut command = own("tctl");
    command.arg("--data-dir").arg(cluster.dir().join("cluster")).args(arguments);
    run(command)
}

fn create(cluster: &TestCluster, document: &str) {
    let mut command = own("tctl");
    command.arg("--data-dir").arg(cluster.dir().join("cluster")).args(["create", "--force"]);
    run_with(command, document.as_bytes());
}

fn tsh(home: &Home, arguments: &[&str]) -> Output {
    let mut command = home.tsh();
    command.args(arguments);
    run(command)
}

/// A role by which `login` may be used on nodes with `labels`.
fn role(name: &str, login: &str, labels: &str, rest: &str) -> String {
    format!(
        "kind: role\nversion: v1\nmetadata: {{name: {name}}}\nspec:\n  allow:\n    logins: [{login}]\n    \
         node_labels: {labels}\n{rest}"
    )
}

#[test]
fn what_is_explained_is_what_happens() {
    let cluster = TestCluster::start();
    cluster.add_node("web-1", "env=test");
    cluster.add_node("db-1", "env=prod");
    let login = own_login();
    create(
        &cluster,
        &role("testers", &login, "{env: test}", "  options: {max_sessions: 3, max_session_ttl: 2h}\n"),
    );
    create(&cluster, &role("everywhere", "nobody-here", "{'*': '*'}", ""));
    create(
        &cluster,
        "kind: role\nversion: v1\nmetadata: {name: no-web}\nspec: {deny: {node_labels: {env: test}}}\n",
    );
    let home = cluster.user("bob", &["testers", "everywhere"], &[]);
    let explain = |what: &[&str]| {
        let output = tctl(&cluster, &[&["access", "explain", "bob"], what, &["--format=json"]].concat());
        serde_json::from_str::<Value>(&output.clean()).unwrap()
    };
    // What is said, and then what happens.
    let check = |node: &str| {
        let said = explain(&[&format!("{login}@{node}")]);
        let done = tsh(&home, &["ssh", &format!("{login}@{node}"), "true"]);
        assert_eq!(said["allowed"], done.status.success(), "{said} {done:?}");
        said
    };
    let allowed = check("web-1");
    assert_eq!((&allowed["role"], &allowed["session"]["max_sessions"]), (&"testers".into(), &3.into()));
    assert_eq!(allowed["session"]["max_session_ttl"], "2h0m0s");
    let denied = check("db-1");
    assert_eq!((&denied["allowed"], &denied["session"]), (&false.into(), &Value::Null));
    assert!(denied["needed"].to_string().contains("role testers allows the login"), "{denied}");
    // The node by its id, its labels, and as ssh calls it.
    let nodes: Value =
        serde_json::from_str(&tctl(&cluster, &["nodes", "ls", "env=test", "--format=json"]).clean()).unwrap();
    let id = nodes[0]["host_id"].as_str().unwrap();
    for node in [id, "env=test", &format!("web-1.{CLUSTER}")] {
        assert_eq!(explain(&[&format!("{login}@{node}")]), allowed, "{node}");
    }
    // A lock: whatever roles allow.
    tctl(&cluster, &["lock", "--user=bob", "--message=left the company"]);
    let locked = explain(&[&format!("{login}@web-1")]);
    assert_eq!((&locked["allowed"], &locked["session"]), (&false.into(), &Value::Null));
    assert!(locked["reason"].as_str().unwrap().contains("is in force: left the company"), "{locked}");
    assert_eq!(explain(&["list", "session"])["allowed"], false);
    let refused = || !tsh(&home, &["ssh", &format!("{login}@web-1"), "true"]).status.success();
    wait_for("the lock at the node", || refused().then_some(()));
    let locks: Value =
        serde_json::from_str(&tctl(&cluster, &["get", "locks", "--format=json"]).clean()).unwrap();
    tctl(&cluster, &["rm", &format!("lock/{}", locks[0]["metadata"]["name"].as_str().unwrap())]);
    assert_eq!(explain(&[&format!("{login}@web-1")]), allowed);
    wait_for("the end of the lock at the node", || (!refused()).then_some(()));
    // A denial, and a role that is gone: the next connection is decided as the next explanation.
    create(&cluster, "kind: user\nversion: v1\nmetadata: {name: carl}\nspec: {roles: [testers, no-web]}\n");
    let text = tctl(&cluster, &["access", "explain", "carl", &format!("{login}@web-1")]).clean();
    assert!(
        text.starts_with(&format!(
            "carl as {login} on web-1: denied, the node is denied for every login by role no-web\n"
        )),
        "{text}"
    );
    assert!(text.contains("role no-web must not deny the node web-1"), "{text}");
    create(&cluster, &role("testers", &login, "{env: nothing}", ""));
    assert_eq!(check("web-1")["allowed"], false);

    // Rules about resources.
    assert_eq!(explain(&["list", "session"])["allowed"], false);
    assert!(explain(&["list", "session"])["notes"].to_string().contains("their own sessions"));
    let create_token = tctl(&cluster, &["access", "explain", "bob", "create", "token"]).clean();
    assert!(create_token.contains("bob to create token: denied, no role allows it"), "{create_token}");

    // From another machine: by the rights of whoever is logged in there.
    let as_user = |home: &Home| {
        let mut command = own("tctl");
        command.env("HOME", "/nonexistent").env("XDG_STATE_HOME", "/nonexistent");
        command.env("TELEPORT_HOME", &home.dir);
        command.args(["access", "explain", "bob", &format!("{login}@web-1"), "--format=json"]);
        run(command)
    };
    let editor = cluster.user("erin", &["access", "editor"], &[]);
    let said: Value = serde_json::from_str(&as_user(&editor).clean()).unwrap();
    assert_eq!(said, explain(&[&format!("{login}@web-1")]));
    let line = as_user(&home).refusal();
    assert!(line.contains("denied"), "{line}");

    for (what, part) in [
        (&["nobody", "root@web-1"][..], "nobody"),
        (&["bob", "root@web-9"], "tctl nodes ls"),
        (&["bob", "web-1"], "as whom? say <login>@web-1"),
        (&["bob", "root@a b"], "the host must be a node's name"),
        (&["bob", "peek", "user"], "there is no verb \"peek\""),
        (&["bob", "list", "nonsense"], "rules know no kind \"nonsense\""),
        (&["bob", "root@web-1@leaf"], "cluster leaf is not known here"),
    ] {
        let line = tctl(&cluster, &[&["access", "explain"], what].concat()).refusal();
        assert!(line.contains(part), "{what:?}: {line}");
    }
}

#[test]
fn lists_are_narrowed_and_show_what_the_user_may_see() {
    let cluster = TestCluster::start();
    for (name, labels) in
        [("web-1", "env=test,team=a"), ("web-2", "env=test,team=b"), ("db-1", "env=prod,team=a")]
    {
        cluster.add_node(name, labels);
    }
    create(&cluster, &role("testers", &own_login(), "{env: test}", ""));
    let home = cluster.user("bob", &["testers"], &[]);
    for (arguments, seen, all) in [
        (&[][..], &["web-1", "web-2"][..], &["db-1", "web-1", "web-2"][..]),
        (&["team=a"], &["web-1"], &["db-1", "web-1"]),
        (&["team=a,env=test"], &["web-1"], &["web-1"]),
        (&["team=a", "env=test"], &["web-1"], &["web-1"]),
        (&["--search=WEB,team=b"], &["web-2"], &["web-2"]),
        (&["--search=127.0.0.1"], &["web-1", "web-2"], &["db-1", "web-1", "web-2"]),
        (&["--query=labels[\"team\"] == \"a\""], &["web-1"], &["db-1", "web-1"]),
        (&["--query=has_suffix(name, \"-1\") && !search(\"prod\")"], &["web-1"], &["web-1"]),
        (&["env=prod"], &[], &["db-1"]),
    ] {
        let names = tsh(&home, &[&["ls", "--format=names"], arguments].concat()).clean();
        assert_eq!(names.lines().filter(|line| !line.is_empty()).collect::<Vec<_>>(), seen, "{arguments:?}");
        let nodes = tctl(&cluster, &[&["nodes", "ls", "--format=json"], arguments].concat()).clean();
        let nodes: Value = serde_json::from_str(&nodes).unwrap();
        let names: Vec<&str> =
            nodes.as_array().unwrap().iter().map(|node| node["name"].as_str().unwrap()).collect();
        assert_eq!(names, all, "{arguments:?}");
    }
    let table = tsh(&home, &["ls"]).clean();
    assert!(table.starts_with("Node Name Address ") && !table.contains("Node ID"), "{table}");
    let table = tsh(&home, &["ls", "-v"]).clean();
    assert!(table.starts_with("Node Name Node ID "), "{table}");
    let yaml = tsh(&home, &["ls", "team=a", "--format=yaml"]).clean();
    assert!(yaml.contains("name: web-1") && !yaml.contains("name: db-1"), "{yaml}");
    for (arguments, part) in [
        (
            &["--query=lables[\"env\"] == \"x\""][..],
            "--query: column 1: there is no \"lables\"; did you mean \"labels\"?",
        ),
        (&["--query=labels[\"env\"]"], "not a condition"),
        (&["env=a", "env=b"], "no node has two values of the label env"),
    ] {
        let line = tsh(&home, &[&["ls"], arguments].concat()).refusal();
        assert!(line.contains(part), "{arguments:?}: {line}");
        let line = tctl(&cluster, &[&["nodes", "ls"], arguments].concat()).refusal();
        assert!(line.contains(part), "{arguments:?}: {line}");
    }
}

#[test]
fn a_name_of_several_nodes_is_answered_with_those_that_the_user_may_see() {
    let cluster = TestCluster::start();
    for labels in ["env=test,rack=1", "env=test,rack=2", "env=prod"] {
        cluster.add_node("twin", labels);
    }
    let login = own_login();
    create(&cluster, &role("testers", &login, "{env: test}", ""));
    let home = cluster.user("bob", &["testers"], &[]);
    let nodes: Value =
        serde_json::from_str(&tctl(&cluster, &["nodes", "ls", "--format=json"]).clean()).unwrap();
    let id = |labels: &str| {
        let (key, value) = labels.split_once('=').unwrap();
        let node = nodes.as_array().unwrap().iter().find(|node| node["labels"][key] == value).unwrap();
        node["host_id"].as_str().unwrap().to_owned()
    };
    let (one, two, hidden) = (id("rack=1"), id("rack=2"), id("env=prod"));
    let names_both = |said: &str| said.contains(&one) && said.contains(&two) && !said.contains(&hidden);

    for target in [format!("{login}@twin"), format!("{login}@twin.{CLUSTER}"), format!("{login}@env=test")] {
        let output = tsh(&home, &["ssh", &target]);
        assert_eq!(output.code(), 1);
        let lines: Vec<&str> = output.stderr.lines().collect();
        assert!(lines[0].starts_with("Node Name Node ID ") && lines[0].ends_with("Labels"), "{lines:?}");
        assert_eq!(lines.len(), 4, "{lines:?}");
        assert!(names_both(&output.stderr) && output.stderr.contains("rack=2"), "{lines:?}");
        assert!(
            lines[3].starts_with("ERROR: ") && lines[3].contains(&format!("<id>.{CLUSTER}")),
            "{lines:?}"
        );
    }
    // What the table says is what helps, for tsh and for ssh.
    let by_id = format!("{login}@{one}");
    assert_eq!(tsh(&home, &["ssh", &by_id, "echo", "one"]).clean(), "one\n");
    assert_eq!(tsh(&home, &["ssh", &format!("{by_id}.{CLUSTER}"), "echo", "one"]).clean(), "one\n");
    assert_eq!(tsh(&home, &["ssh", &format!("{login}@rack=2"), "echo", "two"]).clean(), "two\n");
    let mut ssh = home.ssh();
    ssh.args([&format!("{by_id}.{CLUSTER}"), "echo one"]);
    assert_eq!(run(ssh).out(), "one\n");
    let mut ssh = home.ssh();
    ssh.args([&format!("{login}@twin.{CLUSTER}"), "true"]);
    let output = run(ssh);
    assert!(!output.status.success() && names_both(&output.stderr), "{output:?}");
    assert!(output.stderr.contains(&format!("<id>.{CLUSTER}")), "{output:?}");
    // An administrator is asked as well, about all of them.
    let output = tctl(&cluster, &["access", "explain", "bob", &format!("{login}@twin")]);
    assert_eq!(output.code(), 1);
    assert!([&one, &two, &hidden].iter().all(|id| output.stderr.contains(*id)), "{output:?}");
}

/// What a node refuses is in the audit log, by the rules of the real auth service.
#[test]
fn refusals_of_a_node_reach_the_audit_log() {
    let cluster = TestCluster::with_node();
    let login = own_login();
    create(&cluster, &role("no-copy", &login, "{'*': '*'}", "  options: {ssh_file_copy: false}\n"));
    let home = cluster.user("bob", &["no-copy"], &[&login]);
    assert!(!tsh(&home, &["ssh", "node", "scp -t /tmp"]).status.success());
    let mut sftp = home.ssh();
    sftp.args(["-s", &format!("{login}@node.{CLUSTER}"), "sftp"]);
    assert!(!run(sftp).status.success());
    for event in [EventKind::ScpDisallowed, EventKind::SftpDisallowed] {
        assert_eq!(cluster.event(event, |_| true).user.as_deref(), Some("bob"));
    }
    assert_eq!(cluster.events(|event| event.code == EventKind::ApiDenied), []);
}
