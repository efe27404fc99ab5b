//! Who is let in, who is not, and what the audit log says of it.

use std::sync::Arc;

use teleport_core::resource::{Role, RoleSpec, builtin_roles};
use teleport_ssh::node::AuditPolicy;

use super::hostile::client;
use super::support::{PATIENCE, TestNode, UserCert, private_key, run, text};

async fn refused(node: &TestNode, name: &str, because: &str) {
    let output = run(node.ssh_as(name).args(["127.0.0.1", "true"])).await;
    assert_eq!(output.status.code(), Some(255), "{because}");
    assert!(text(&output.stderr).contains("Permission denied"), "{}", text(&output.stderr));
    assert!(!text(&output.stderr).contains(because), "the client hears no reason");
    node.auth
        .event("T3007W", |event| event.error.as_deref().is_some_and(|error| error.contains(because)))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_audited_with_their_reason_and_the_client_hears_none() {
    let node = TestNode::start().await;
    let (key, ca) = (&node.user_key, &node.user_ca);
    let now = UserCert::new().valid_after + 60;
    let cases: Vec<(&str, UserCert, &str)> = vec![
        (
            "expired",
            UserCert { valid_after: now - 7200, valid_before: now - 1, ..UserCert::new() },
            "no valid certificate",
        ),
        ("other-login", UserCert { principals: vec!["nobody".into()], ..UserCert::new() }, "principals"),
        ("no-role", UserCert::new().without("roles@teleport-rs"), "no role that exists"),
        ("option", UserCert::new().critical("verify-required", ""), "critical option"),
        ("source", UserCert::new().critical("source-address", "10.0.0.0/8"), "another source address"),
    ];
    for (name, certificate, because) in cases {
        node.write_certificate(name, &certificate.sign(key, ca), key);
        refused(&node, name, because).await;
    }
    node.write_certificate("stranger", &UserCert::new().sign(key, &private_key(77)), key);
    refused(&node, "stranger", "not a trusted authority").await;

    // A plain key, without any certificate.
    std::fs::remove_file(node.path("stranger-cert.pub")).unwrap();
    refused(&node, "stranger", "no valid certificate").await;
    assert_eq!(node.auth.count("T2000I"), 0);
    // Two of them say the same, so the last may still be on its way.
    let refusals = 7;
    let all = async {
        while node.auth.count("T3007W") < refusals {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, all).await.unwrap();
    assert!(node.run(&[], &["true"]).await.status.success(), "and the good one still works");
    node.auth.event("T2004I", |_| true).await;
    assert_eq!(
        node.auth.count("T3007W"),
        refusals,
        "a good login is no refusal, whatever the client tried first"
    );
}

/// A role that exists and cannot be read may hold denials: it refuses those who hold it, and nobody else.
#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_role_refuses_its_holders_with_the_reason_in_the_audit_log() {
    let node = TestNode::start().await;
    let mut certificate = UserCert::new().without("roles@teleport-rs");
    certificate.extensions.push(("roles@teleport-rs".into(), "[\"access\",\"guarded\"]".into()));
    node.write_certificate("holder", &certificate.sign(&node.user_key, &node.user_ca), &node.user_key);
    let roles = |more: Option<Role>| builtin_roles().into_iter().chain(more).collect();
    node.roles(roles(Some(Role::new("guarded", RoleSpec::default())))).await;
    assert!(run(node.ssh_as("holder").args(["127.0.0.1", "true"])).await.status.success());
    node.roles(roles(Some(Role::unreadable("guarded")))).await;
    refused(&node, "holder", "the document of role guarded cannot be read").await;
    assert!(node.run(&[], &["true"]).await.status.success(), "others log in as before");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_the_system_does_not_know_is_refused() {
    let node = TestNode::start().await;
    let mut certificate = UserCert::new();
    certificate.principals = vec!["no-such-login".into()];
    certificate = certificate.without("traits@teleport-rs");
    certificate.extensions.push(("traits@teleport-rs".into(), "{\"logins\":[\"no-such-login\"]}".into()));
    let key = Arc::new(private_key(2));
    let certificate = certificate.sign(&key, &node.user_ca);
    let mut session = client(node.address).await;
    let result = session.authenticate_openssh_cert("no-such-login", key, certificate).await.unwrap();
    assert!(!result.success());
    node.auth
        .event("T3007W", |event| event.error.as_deref().unwrap().starts_with("the login cannot be served"))
        .await;
}

/// A3
#[tokio::test(flavor = "multi_thread")]
async fn a_forced_command_is_all_that_runs() {
    let node = TestNode::start().await;
    let certificate = UserCert::new().critical("force-command", "echo forced: $SSH_ORIGINAL_COMMAND; exit 9");
    node.write_certificate("forced", &certificate.sign(&node.user_key, &node.user_ca), &node.user_key);
    for (options, command, shown) in [
        (&[][..], &["id"][..], "forced: id\n"),
        (&[][..], &[][..], "forced:\n"),
        (&["-s"][..], &["sftp"][..], "forced: sftp\n"),
    ] {
        let output = run(node.ssh_as("forced").args(options).arg("127.0.0.1").args(command)).await;
        assert_eq!((text(&output.stdout).as_str(), output.status.code()), (shown, Some(9)), "{command:?}");
    }
    let output = run(node.ssh_as("forced").args(["-W", "127.0.0.1:22", "127.0.0.1"])).await;
    assert!(!output.status.success() && output.stdout.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_terminal_without_permit_pty() {
    let node = TestNode::start().await;
    let certificate = UserCert::new().without("permit-pty");
    node.write_certificate("plain", &certificate.sign(&node.user_key, &node.user_ca), &node.user_key);
    let output = run(node.ssh_as("plain").args(["-tt", "127.0.0.1", "tty"])).await;
    assert!(text(&output.stderr).contains("PTY allocation request failed"), "{}", text(&output.stderr));
    // The client insists and gives up; without a terminal it works.
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    let output = run(node.ssh_as("plain").args(["127.0.0.1", "tty"])).await;
    assert_eq!(text(&output.stdout).trim(), "not a tty");
}

/// C1: what an administrator takes away is gone at once, also for connections that are open.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_is_taken_away_ends_old_connections() {
    let node = TestNode::start().await;
    let control = format!("ControlPath={}", node.path("control").display());
    let master = ["-o", "ControlMaster=auto", "-o", "ControlPersist=60", "-o", control.as_str()];
    assert!(node.run(&master, &["true"]).await.status.success());
    assert_eq!(node.status.counts().accepted, 1);
    node.roles(Vec::new()).await;
    let event = node.auth.event("T3006I", |event| event.fields.contains_key("reason")).await;
    assert_eq!(event.fields["reason"], "the user has no role that exists");
    let through = ["-o", "ControlMaster=no", "-o", control.as_str()];
    assert!(!node.run(&through, &["true"]).await.status.success());
    node.roles(builtin_roles()).await;
    assert!(node.run(&through, &["true"]).await.status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_start_cannot_be_audited_does_not_begin() {
    let node = TestNode::start().await;
    let mark = node.path("ran");
    node.auth.go_away(true);
    let output = node.run(&[], &[&format!("touch {}", mark.display())]).await;
    assert_eq!(output.status.code(), Some(254));
    assert!(text(&output.stderr).contains("audit log"), "{}", text(&output.stderr));
    assert!(!mark.exists());

    let node = TestNode::with(|builder| builder.audit_policy(AuditPolicy::BestEffort)).await;
    node.auth.go_away(true);
    assert_eq!(text(&node.run(&[], &["echo ran"]).await.stdout), "ran\n");
    node.auth.go_away(false);
    node.auth.event("T2000I", |_| true).await;
    node.auth.event("T2004I", |_| true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_announces_itself_at_once() {
    let node = TestNode::with(|builder| builder.advertise("node-1.example.com:3022")).await;
    let record = node.auth.announced(1).await;
    assert_eq!((record.name.as_str(), record.address.as_str()), ("node-1", "node-1.example.com:3022"));
}

#[tokio::test(flavor = "multi_thread")]
async fn six_failures_are_the_last() {
    let node = TestNode::start().await;
    let mut ssh = node.ssh_as("bad-0");
    for number in 0..12 {
        let key = private_key(100 + number);
        let certificate = UserCert::new().sign(&key, &private_key(99));
        node.write_certificate(&format!("bad-{number}"), &certificate, &key);
        ssh.arg("-i").arg(node.path(&format!("bad-{number}")));
    }
    let output = run(ssh.args(["127.0.0.1", "true"])).await;
    assert_eq!(output.status.code(), Some(255));
    node.auth.event("T3007W", |_| true).await;
    tokio::time::timeout(PATIENCE, async {
        while node.status.counts().connections > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    assert!((1..=7).contains(&node.auth.count("T3007W")), "{}", node.auth.count("T3007W"));
}
