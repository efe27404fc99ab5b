//! Sessions with several terminals, as people meet them: row C8 of the threat list where somebody joined, and what is on the
//! screens.

use serde_json::Value;
use teleport_core::audit::EventKind;
use teleport_core::resource::load_role;

use crate::support::cluster::{CLUSTER, Home, TestCluster};
use crate::support::program::{Output, own, run};
use crate::support::tmux::Terminal;
use crate::support::{own_login, wait_for};

fn tctl(cluster: &TestCluster, arguments: &[&str]) -> Output {
    let mut command = own("tctl");
    command.arg("--data-dir").arg(cluster.dir().join("cluster")).args(arguments);
    run(command)
}

fn role(cluster: &TestCluster, name: &str, modes: &[&str]) {
    let document = serde_json::json!({
        "kind": "role", "version": "v1", "metadata": { "name": name },
        "spec": { "allow": { "join_sessions": [
            { "name": "all", "roles": ["access"], "kinds": ["ssh"], "modes": modes },
        ] } },
    });
    let role = load_role(&document).unwrap().role;
    TestCluster::block_on(cluster.admin().create_role(role)).unwrap();
}

/// A line for a shell that runs `tsh` as this user.
fn tsh(home: &Home, arguments: &str) -> String {
    format!("env TELEPORT_HOME={} {} {arguments}", home.dir.display(), env!("CARGO_BIN_EXE_tsh"))
}

/// The only session that runs.
fn session(cluster: &TestCluster) -> String {
    wait_for("a session", || {
        let listed = tctl(cluster, &["sessions", "ls", "--format=json"]);
        let sessions: Value = serde_json::from_str(&listed.clean()).unwrap();
        let [session] = &sessions.as_array().unwrap()[..] else { return None };
        Some(session["id"].as_str().unwrap().to_owned())
    })
}

struct Shared {
    cluster: TestCluster,
    owner: Terminal,
    id: String,
}

impl Shared {
    /// Alice has a shell; bob may watch, carol may type, dave may end.
    fn begin() -> (Self, [Home; 3]) {
        let cluster = TestCluster::with_node();
        role(&cluster, "watch", &["observer"]);
        role(&cluster, "type", &["observer", "peer"]);
        role(&cluster, "moderate", &["moderator"]);
        let alice = cluster.alice();
        let homes = [("bob", "watch"), ("carol", "type"), ("dave", "moderate")]
            .map(|(name, role)| cluster.user(name, &[role], &[]));
        let owner = Terminal::open(&tsh(&alice, &format!("ssh {}@node", own_login())));
        owner.type_line("PS1='% '; clear; echo up-$((40+2))");
        owner.wait_for("up-42", 1);
        let id = session(&cluster);
        (Self { cluster, owner, id }, homes)
    }

    fn join(&self, home: &Home, mode: &str) -> Terminal {
        Terminal::open(&tsh(home, &format!("join --mode {mode} {}", self.id)))
    }
}

#[test]
fn all_see_the_same_and_peers_type() {
    let (shared, [bob, carol, dave]) = Shared::begin();
    let watching = shared.join(&bob, "observer");
    // What was on the screen before is shown to whoever comes.
    watching.wait_for("up-42", 1);
    shared.owner.wait_for("bob joined the session (observer); present: alice, bob (observer)", 1);
    watching.type_line("echo from-the-observer");
    let typing = shared.join(&carol, "peer");
    typing.wait_for("up-42", 1);
    shared.owner.wait_for("carol joined", 1);
    typing.type_line("echo from-$((10+1))-peer");
    for terminal in [&shared.owner, &watching, &typing] {
        let screen = terminal.wait_for("from-11-peer", 1);
        assert!(!screen.contains("from-the-observer"), "{screen}");
    }
    // The list says who is there.
    wait_for("both in the list", || {
        let mut list = bob.tsh();
        list.args(["sessions", "ls"]);
        run(list).clean().contains("bob (observer), carol (peer)").then_some(())
    });
    // The smallest terminal counts for all, until it is gone.
    watching.resize(70, 20);
    let until = |size: &str, word: u8| {
        let size =
            format!("until [ \"$(stty size)\" = '{size}' ]; do sleep 0.05; done; echo sized-$(({word}+1))");
        typing.type_line(&size);
        typing.wait_for(&format!("sized-{}", word + 1), 1);
    };
    until("20 70", 1);
    watching.press("C-c");
    assert_eq!(watching.ended(), 0);
    assert!(watching.screen().contains("teleport: you have left the session"), "{}", watching.screen());
    shared.owner.wait_for("bob left the session; present: alice, carol (peer)", 1);
    until("30 100", 2);
    typing.press("Enter");
    typing.type_line("~.");
    assert_eq!(typing.ended(), 0);
    shared.owner.wait_for("carol left", 1);
    shared.owner.type_line("exit 7");
    assert_eq!(shared.owner.ended(), 7);

    let of = |kind| shared.cluster.event(kind, |event| event.user.as_deref() == Some("carol"));
    let (joined, left) = (of(EventKind::SessionJoin), of(EventKind::SessionLeave));
    assert_eq!(
        (joined.fields["mode"].as_str(), joined.fields["session_user"].as_str()),
        (Some("peer"), Some("alice"))
    );
    assert_eq!(left.sid.map(|id| id.to_string()), Some(shared.id.clone()));
    let end = shared.cluster.event(EventKind::SessionEnd, |event| event.user.as_deref() == Some("alice"));
    assert_eq!(end.fields["participants"], serde_json::json!(["alice", "bob", "carol"]));
    // The recording is theirs as well, and of nobody else.
    let recording = |home: &Home| {
        let mut list = home.tsh();
        list.args(["recordings", "ls", "--format=json"]);
        let listed: Value = serde_json::from_str(&run(list).clean()).unwrap();
        listed.as_array().unwrap().iter().find(|one| one["meta"]["session"] == shared.id.as_str()).cloned()
    };
    for home in [&bob, &carol] {
        let info = wait_for("the recording", || recording(home));
        assert_eq!(info["participants"], serde_json::json!(["bob", "carol"]));
        let mut play = home.tsh();
        play.args(["play", "--format=text", &shared.id]);
        assert!(run(play).clean().contains("from-11-peer"));
    }
    assert_eq!(recording(&dave), None);
    wait_for("an empty list", || {
        tctl(&shared.cluster, &["sessions", "ls"]).clean().contains("No sessions").then_some(())
    });
}

#[test]
fn whoever_joins_an_editor_sees_it_and_gets_the_terminal_back() {
    let (shared, [bob, ..]) = Shared::begin();
    let file = shared.cluster.dir().join("poem");
    std::fs::write(&file, "first line of a poem\nsecond line\n").unwrap();
    shared.owner.type_line(&format!("vim -u NONE -n {}", file.display()));
    shared.owner.wait_for("second line", 1);
    let watching = shared.join(&bob, "observer");
    watching.wait_for("first line of a poem", 1);
    watching.wait_for("~", 10);
    let owners = shared.owner.wait_for("bob joined the session", 1);
    assert!(owners.contains("first line of a poem"), "the word does not scroll it away: {owners}");
    // What is drawn from now on, too.
    shared.owner.press("i");
    shared.owner.type_line("zeroth line");
    watching.wait_for("zeroth line", 1);
    watching.press("C-c");
    assert_eq!(watching.ended(), 0);
    let screen = watching.screen();
    assert!(screen.contains("Joining the session of alice") && !screen.contains("zeroth line"), "{screen}");
}

#[test]
fn who_may_ends_a_session_for_all_and_others_may_not() {
    let (shared, [bob, carol, dave]) = Shared::begin();
    let (watching, typing) = (shared.join(&bob, "observer"), shared.join(&carol, "peer"));
    shared.owner.wait_for("carol joined", 1);
    shared.owner.wait_for("bob joined", 1);
    // A key that ends it for moderators is a key for everybody else.
    watching.press("t");
    typing.type_line("echo t-still-$((6*7))");
    shared.owner.wait_for("t-still-42", 1);
    for (home, mode) in [(&bob, "peer"), (&bob, "moderator"), (&carol, "moderator"), (&dave, "observer")] {
        let mut join = home.tsh();
        join.args(["join", "--mode", mode, &shared.id]);
        let refused = run(join);
        assert_eq!(refused.code(), 1);
        assert!(refused.stderr.starts_with("ERROR: your roles let you join session "), "{refused:?}");
    }
    let ended =
        tctl(&shared.cluster, &["sessions", "terminate", &shared.id, "--message=Maintenance at nine"]);
    let ended = ended.clean();
    assert!(ended.contains("is ended"), "{ended}");
    for terminal in [&shared.owner, &watching, &typing] {
        terminal.wait_for("teleport: the session was ended by", 1);
        terminal.wait_for("Maintenance at nine", 1);
        assert_ne!(terminal.ended(), 0);
    }
    let event = shared.cluster.event(EventKind::SessionTerminate, |_| true);
    assert_eq!(event.sid.map(|id| id.to_string()), Some(shared.id.clone()));
    let end = shared.cluster.event(EventKind::SessionEnd, |_| true);
    assert!(end.fields["reason"].as_str().unwrap().contains("Maintenance at nine"), "{end:?}");

    // A moderator does it by a key, alone: what is typed just before it may come as one piece with it.
    let (shared, [_, _, dave]) = Shared::begin();
    let moderating = shared.join(&dave, "moderator");
    shared.owner.wait_for("dave joined the session (moderator)", 1);
    moderating.press("t");
    assert_eq!(moderating.ended(), 0);
    shared.owner.wait_for("teleport: the session was ended by dave", 1);
    assert_ne!(shared.owner.ended(), 0);
}

#[test]
fn stock_ssh_joins_by_a_variable() {
    let (shared, _) = Shared::begin();
    let eve = shared.cluster.user("eve", &["access", "type"], &[&own_login()]);
    let ssh = eve.ssh();
    let arguments: Vec<String> =
        ssh.get_args().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let line = format!(
        "env -u SSH_AUTH_SOCK ssh {} -o SetEnv='TELEPORT_SESSION={} TELEPORT_SSH_JOIN_MODE=peer' {}@node.{CLUSTER}",
        arguments.join(" "),
        shared.id,
        own_login()
    );
    let stock = Terminal::open(&line);
    shared.owner.wait_for("eve joined the session (peer)", 1);
    stock.type_line("echo by-$((5*5))-ssh");
    shared.owner.wait_for("by-25-ssh", 1);
    shared.owner.type_line("exit 3");
    assert_eq!(shared.owner.ended(), 3);
    stock.wait_for("teleport: the session has ended", 1);
    assert_eq!(stock.ended(), 3);
}
