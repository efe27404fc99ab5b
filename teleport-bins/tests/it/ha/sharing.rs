//! What two services have in common: a place for recordings in a bucket, and how many connections a user may have.

use super::outage::{Echo, World};
use super::{Several, Store};
use crate::s3::Moto;
use crate::servers::Etcd;
use crate::support::daemon::Machine;
use crate::support::program::{run, run_with};
use crate::support::{own_login, wait_for};

/// A session is recorded as it runs, by one service, by the other one when that dies, and by the first again: it is one recording, and each service knows it.
#[tokio::test(flavor = "multi_thread")]
async fn g17_parts_of_a_recording_come_to_two_services_and_are_one_in_their_bucket() {
    let (moto, store) = (Moto::start().await, Store::Etcd(Etcd::start().await));
    moto.make_bucket("recordings").await;
    let mut two = Several::configured(Machine::new(), &store.url("bucket"), "auth", 2);
    let bucket = format!("s3://recordings/shared?region=us-east-1&insecure=true&endpoint={}", moto.address);
    for name in &two.names {
        let file = two.machine.path(&format!("{name}.yaml"));
        let config = std::fs::read_to_string(&file).unwrap();
        let recordings = super::recordings(&two.machine.path("auth-recordings"));
        assert!(config.contains(&recordings), "{config}");
        let config = config.replace(&recordings, &format!("    audit_sessions_uri: \"{bucket}\"\n"));
        let mode = "auth_service:\n  session_recording: node-sync\n";
        std::fs::write(&file, config.replace("auth_service:\n", mode)).unwrap();
    }
    two.env = &[("AWS_ACCESS_KEY_ID", "AKIA"), ("AWS_SECRET_ACCESS_KEY", "secret")];
    two._store = Some(store);
    two.start_at_once();
    let mut world = World::start(two);
    world.works("node");
    let mut session = Echo::begin(world.ssh("node"));
    for dead in [0, 1] {
        session.lives(&format!("before {dead}"));
        world.auths.kill(dead);
        session.lives(&format!("without {dead}"));
        world.auths.start(dead);
    }
    session.lives("with both");
    session.end();
    for name in &world.auths.names {
        let tctl = |arguments: &[&str]| world.auths.machine.tctl(name, arguments);
        let whole = wait_for("the recording", || {
            let listed = tctl(&["recordings", "ls", "--format=json"]);
            let listed: Vec<serde_json::Value> = serde_json::from_slice(&listed.stdout).ok()?;
            let ids = listed.iter().filter(|info| info["completed"].is_string());
            let ids = ids.map(|info| info["meta"]["session"].as_str().unwrap().to_owned());
            let text = |id: String| {
                let output = run(world.tsh(&["play", "--format=text", &id]));
                String::from_utf8_lossy(&output.stdout).into_owned()
            };
            ids.map(text).find(|text| text.contains("begun"))
        });
        for line in ["before 0", "without 0", "before 1", "without 1", "with both"] {
            assert!(whole.contains(line), "{name}: {line}: {whole}");
        }
        tctl(&["audit", "verify"]).clean();
    }
}

/// Who may have one connection has one, though each of the nodes asks another service.
#[tokio::test(flavor = "multi_thread")]
async fn c7_connections_are_counted_over_two_services() {
    let store = Store::Etcd(Etcd::start().await);
    let mut world = World::start(Several::two(store));
    for (number, name) in ["first", "second"].into_iter().enumerate() {
        world.add_node_of(name, number);
    }
    let role = format!(
        "kind: role\nversion: v1\nmetadata: {{name: access}}\nspec:\n  options: {{max_connections: 1}}\n  \
         allow: {{logins: [{}], node_labels: {{'*': '*'}}}}\n",
        own_login()
    );
    world.works("second");
    let mut create = crate::support::program::own("tctl");
    create.arg("--data-dir").arg(world.auths.machine.path(&world.auths.names[0])).args(["create", "--force"]);
    run_with(create, role.as_bytes()).clean();
    for (here, there) in [("first", "second"), ("second", "first")] {
        // What was open before the role was narrow has ended.
        world.works(here);
        world.works(there);
        let mut session = Echo::begin(world.ssh(here));
        let refused = wait_for("the limit", || {
            let mut ssh = world.ssh(there);
            ssh.arg("echo reached");
            let output = run(ssh);
            output.out().is_empty().then_some(output)
        });
        assert!(refused.code() == 255, "{refused:?}");
        session.lives("still there");
        session.end();
        world.works(there);
    }
}
