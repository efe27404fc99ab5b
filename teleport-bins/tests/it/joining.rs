//! Joining goes wrong in every way: the host says what to do, the audit log says why, the answer over the wire does not.

use std::sync::Arc;
use std::time::Duration;

use teleport_bins::daemon::Os;
use teleport_core::clock::{Clock, SystemClock, Timestamp};

use crate::support::cluster::TestCluster;
use crate::support::daemon::{Machine, Process, Services, fixed_port};
use crate::support::wait_for;

/// An auth service, and a node that is not a member yet.
struct Lonely {
    _auth: Process,
    machine: Machine,
}

impl Lonely {
    fn start() -> Self {
        let machine = Machine::new();
        let port = fixed_port();
        let none = Services { auth: None, proxy: None, node: None };
        machine.configure("auth", "", &Services { auth: Some(port), ..none }.yaml());
        let auth = machine.start("auth", &[]);
        let server = format!("  auth_server: 127.0.0.1:{port}\n");
        let none = Services { auth: None, proxy: None, node: None };
        machine.configure("node", &server, &Services { node: Some((0, "")), ..none }.yaml());
        Self { _auth: auth, machine }
    }

    #[track_caller]
    fn refused(&self, token: &str, pin: &str) -> String {
        self.machine.cannot_start("node", &[&format!("--token={token}"), &format!("--ca-pin={pin}")])
    }

    /// Why the newest refusals were made, as the audit log has it.
    fn reasons(&self) -> Vec<String> {
        let events = self.machine.events("auth");
        let refused = events.iter().filter(|event| event["code"] == "TJ002E");
        refused.map(|event| event["error"].as_str().unwrap_or_default().to_owned()).collect()
    }
}

#[test]
fn tokens_that_are_no_good_are_refused_alike_and_audited_apart() {
    let lonely = Lonely::start();
    let machine = &lonely.machine;
    let (good, pin) = machine.token("auth", &["--type=node", "--uses=1"]);
    let (proxy_only, _) = machine.token("auth", &["--type=proxy"]);
    let (short, _) = machine.token("auth", &["--type=node", "--ttl=1s"]);
    wait_for("the token to expire", || {
        let tokens = machine.tctl("auth", &["tokens", "ls", "--format=json"]).clean();
        let tokens: Vec<serde_json::Value> = serde_json::from_str(&tokens).unwrap();
        (tokens.len() == 2).then_some(())
    });
    let node = machine.start("node", &[&format!("--token={good}"), &format!("--ca-pin={pin}")]);
    node.stop();
    // It is a member now; another host is not.
    std::fs::rename(machine.path("node"), machine.path("member")).unwrap();
    let lines: Vec<String> = ["0123456789abcdef0123456789abcdef", &good, &proxy_only, &short]
        .into_iter()
        .map(|token| lonely.refused(token, &pin))
        .collect();
    for line in &lines {
        assert!(line.contains("the cluster refused the join token"), "{line}");
        assert!(line.contains("`tctl tokens add --type=node` on the auth server"), "{line}");
        assert_eq!(line, &lines[0], "a stranger learns nothing from the difference");
    }
    let reasons = lonely.reasons();
    let [unknown, used, role, expired] = reasons.as_slice() else { panic!("{reasons:?}") };
    assert!(role.contains("role"), "{reasons:?}");
    assert!(unknown != role && used != role && expired != role, "{reasons:?}");
}

#[test]
fn a_wrong_pin_keeps_the_token_at_home() {
    let lonely = Lonely::start();
    let (token, _) = lonely.machine.token("auth", &["--type=node", "--uses=1"]);
    let line = lonely.refused(&token, &format!("sha256:{}", "0".repeat(64)));
    assert!(line.contains("is not of the expected cluster"), "{line}");
    assert!(line.contains("compare with `tctl status`") && line.contains("The token was not sent"), "{line}");
    assert!(!line.contains(&token));
    let tokens = lonely.machine.tctl("auth", &["tokens", "ls", "--format=json"]).clean();
    let tokens: Vec<serde_json::Value> = serde_json::from_str(&tokens).unwrap();
    assert_eq!(tokens[0]["uses_left"], 1, "it was not spent");
    assert!(lonely.machine.cannot_start("node", &["--token=x", "--require-ca-pin"]).contains("CA pin"));
    let line = lonely.refused(&token, "sha256:zz");
    assert!(line.contains("tctl status"), "{line}");
}

#[test]
fn without_a_token_or_a_server_it_says_what_is_missing() {
    let lonely = Lonely::start();
    let line = lonely.machine.cannot_start("node", &[]);
    assert!(line.contains("it is not a member yet, and there is no --token"), "{line}");
    assert!(line.contains("tctl tokens add --type=node"), "{line}");
    let closed = fixed_port();
    let server = format!("--auth-server=127.0.0.1:{closed}");
    let pin = format!("--ca-pin=sha256:{}", "0".repeat(64));
    let line = lonely.machine.cannot_start("node", &["--token=some-secret-token", &pin, &server]);
    assert!(line.contains(&format!("127.0.0.1:{closed}")), "{line}");
    let line = lonely.machine.cannot_start("node", &["--token=/nonexistent/token", &pin]);
    assert!(line.contains("cannot read the token file /nonexistent/token"), "{line}");
    for role in ["app", "kube", "db", "nonsense"] {
        let line = lonely.machine.cannot_start("node", &[&format!("--roles={role}")]);
        assert!(line.contains(role), "{line}");
    }
}

#[test]
fn a_token_may_stand_in_a_file() {
    let lonely = Lonely::start();
    let (token, pin) = lonely.machine.token("auth", &["--type=node", "--uses=1"]);
    let file = lonely.machine.path("token");
    std::fs::write(&file, format!("{token}\n")).unwrap();
    let argument = format!("--token={}", file.display());
    let node = lonely.machine.start("node", &[&argument, &format!("--ca-pin={pin}")]);
    lonely.machine.wait_for_nodes("auth", 1);
    node.stop();
}

/// Labels of a token are what its maker says of the node, whatever the node says of itself.
#[test]
fn labels_of_a_token_are_given_to_the_node() {
    let lonely = Lonely::start();
    let (token, pin) = lonely.machine.token("auth", &["--type=node", "--labels=env=prod,team=db"]);
    let arguments =
        [format!("--token={token}"), format!("--ca-pin={pin}"), "--labels=env=test,os=linux".into()];
    let node = lonely.machine.start("node", &arguments.each_ref().map(String::as_str));
    lonely.machine.wait_for_nodes("auth", 1);
    let nodes = lonely.machine.tctl("auth", &["nodes", "ls", "--format=json"]).clean();
    let nodes: serde_json::Value = serde_json::from_str(&nodes).unwrap();
    let expected = serde_json::json!({"env": "prod", "os": "linux", "team": "db"});
    assert_eq!(nodes[0]["labels"], expected, "{nodes}");
    node.stop();
}

/// A clock that is wrong by some days.
#[derive(Debug)]
struct Wrong {
    days: i64,
}

impl Clock for Wrong {
    fn now(&self) -> Timestamp {
        let day = Duration::from_secs(86_400);
        let off = day * u32::try_from(self.days.unsigned_abs()).unwrap();
        let now = SystemClock::new().now();
        if self.days < 0 { now.saturating_sub(off) } else { now.saturating_add(off) }
    }
}

#[test]
fn a_clock_that_is_off_is_called_that() {
    let cluster = TestCluster::start();
    for days in [-3, 30] {
        let os = Os { clock: Arc::new(Wrong { days }), ..Os::default() };
        let error = cluster.try_node("late", os).unwrap_err();
        assert!(error.contains("clock"), "{days}: {error}");
        // With the right time the same host joins, by the same token if that was not sent.
        std::fs::remove_dir_all(cluster.dir().join("late")).unwrap();
    }
    cluster.add_node("punctual", "");
}
