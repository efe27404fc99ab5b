//! Locks, as administrators set them and users meet them: row A8 of the threat list, from the command line to the screen.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdin, Command, Stdio};

use serde_json::Value;
use teleport_core::audit::EventKind;

use crate::support::cluster::{CLUSTER, Home, TestCluster};
use crate::support::program::{Output, own, run};
use crate::support::{own_login, wait_for};

fn tctl(cluster: &TestCluster, arguments: &[&str]) -> Output {
    let mut command = own("tctl");
    command.arg("--data-dir").arg(cluster.dir().join("cluster")).args(arguments);
    run(command)
}

fn tsh(home: &Home, arguments: &[&str]) -> Command {
    let mut command = home.tsh();
    command.args(arguments);
    command
}

/// A session that goes on for as long as its input is open.
struct Live {
    client: Child,
    input: Option<ChildStdin>,
    output: BufReader<std::process::ChildStdout>,
}

impl Live {
    fn open(mut command: Command) -> Self {
        let pipes = command.args(["echo up; cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut client = pipes.stderr(Stdio::piped()).spawn().unwrap();
        let input = client.stdin.take();
        let mut output = BufReader::new(client.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "up\n");
        Self { client, input, output }
    }

    /// The end that the cluster made: the exit status and what was said.
    fn ended(mut self) -> (Option<i32>, String) {
        let status = wait_for("the end of a session", || self.client.try_wait().unwrap());
        drop(self.input);
        let mut said = String::new();
        self.client.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (status.code(), said)
    }

    /// The end that the user makes.
    fn close(mut self) -> String {
        drop(self.input.take());
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        assert!(self.client.wait().unwrap().success());
        rest
    }
}

#[test]
fn a8_a_lock_from_the_command_line_reaches_what_is_open_and_what_begins() {
    let cluster = TestCluster::with_node();
    let login = own_login();
    let (alice, bob) = (cluster.alice(), cluster.user("bob", &["access"], &[&login]));
    let by_tsh = Live::open(tsh(&alice, &["ssh", "node"]));
    let mut stock = alice.ssh();
    stock.arg(format!("{login}@node.{CLUSTER}"));
    let by_ssh = Live::open(stock);
    let others = Live::open(tsh(&bob, &["ssh", "node"]));

    let created = tctl(&cluster, &["lock", "--user=alice", "--message=Ask for Bob", "--ttl=1h"]).clean();
    let name =
        created.strip_prefix("Created a lock with name \"").unwrap().split('"').next().unwrap().to_owned();
    assert!(created.contains("It locks user:\"alice\" until 20"), "{created}");
    for live in [by_tsh, by_ssh] {
        let (status, said) = live.ended();
        assert_eq!(status, Some(255), "{said}");
        assert!(said.contains("is in force: Ask for Bob"), "{said}");
    }
    let again = || run(tsh(&alice, &["ssh", "node", "true"]));
    let refused = again();
    assert!(!refused.status.success() && refused.stderr.contains("Ask for Bob"), "{}", refused.stderr);
    let line = run(tsh(&alice, &["ls"])).refusal();
    assert!(line.contains("Ask for Bob"), "{line}");
    assert_eq!(others.close(), "");

    let unlocked = tctl(&cluster, &["users", "unlock", "alice"]);
    assert!(unlocked.status.success() && unlocked.out().contains("are forgotten"), "{}", unlocked.out());
    let warned = format!("is in force: Ask for Bob; it ends with tctl rm lock/{name}");
    assert!(unlocked.stderr.contains(&warned), "{}", unlocked.stderr);
    let second = tctl(&cluster, &["lock", "--role=access", "--login=nobody"]).clean();
    assert!(second.contains("It locks role:\"access\" login:\"nobody\" until it is removed"), "{second}");
    let second = second.split('"').nth(1).unwrap().to_owned();
    let listed = tctl(&cluster, &["locks", "ls"]).clean();
    assert!(listed.contains("user:\"alice\"") && listed.contains(&second), "{listed}");
    // Each of them keeps her out.
    let why = tctl(&cluster, &["access", "explain", "alice", "nobody@node"]).clean();
    assert!(why.contains(&format!("lock {name} must end")), "{why}");
    assert!(why.contains(&format!("lock {second} must end")), "{why}");
    let searched = tctl(&cluster, &["events", "search", "--type=lock.created"]).clean();
    assert!(searched.contains("target=user:\"alice\" message=Ask for Bob"), "{searched}");
    tctl(&cluster, &["rm", &format!("lock/{second}")]).clean();

    let event = cluster.event(EventKind::LockCreate, |event| event.fields["name"] == *name);
    assert_eq!(event.fields["name"], name);
    let locks: Value =
        serde_json::from_str(&tctl(&cluster, &["get", "locks", "--format=json"]).clean()).unwrap();
    assert_eq!(
        (&locks[0]["metadata"]["name"], &locks[0]["spec"]["message"]),
        (&name.as_str().into(), &"Ask for Bob".into())
    );
    tctl(&cluster, &["rm", &format!("lock/{name}")]).clean();
    cluster.event(EventKind::LockDelete, |event| event.fields["name"] == name);
    assert_eq!(tctl(&cluster, &["get", "locks", "--format=text"]).clean().trim(), "There is no lock");
    wait_for("the end of the lock", || again().status.success().then_some(()));

    for (wrong, part) in [
        (&[][..], "--user"),
        (&["--user=alice", "--ttl=-1h"], "--ttl"),
        (&["--user=alice", "--expires=2001-01-01T00:00:00Z"], "it is over"),
        (&["--user=a b"], "user"),
        (&["--serial=x"], "write a whole number"),
    ] {
        let line = tctl(&cluster, &[&["lock"], wrong].concat()).refusal();
        assert!(line.contains(part), "{wrong:?}: {line}");
    }
}
