//! What the roles say of a connection's sessions: which commands, and how many at a time.

use teleport_core::resource::{Role, RoleSpec, builtin_roles};

use super::support::{TestNode, UserCert, run, text};

/// The role of the tests' user, changed.
pub(crate) fn access(change: impl FnOnce(&mut RoleSpec)) -> Vec<Role> {
    let mut roles = builtin_roles();
    change(&mut roles.iter_mut().find(|role| role.metadata.name == "access").unwrap().spec);
    roles
}

fn only(commands: &[&str]) -> Vec<Role> {
    access(|spec| {
        spec.allow.commands = Some(commands.iter().map(|command| (*command).to_owned()).collect());
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn only_listed_commands_run_and_the_user_is_told() {
    let node = TestNode::start().await;
    let mark = node.path("ran");
    let touch = format!("touch {}", mark.display());
    node.roles(only(&["echo *", "^id -[a-z]+$"])).await;
    let output = node.run(&[], &["echo fine"]).await;
    assert_eq!((text(&output.stdout).as_str(), output.status.code()), ("fine\n", Some(0)));
    let output = node.run(&["-tt"], &["id -u"]).await;
    assert_eq!(output.status.code(), Some(0), "a terminal does not matter: {}", text(&output.stdout));
    for command in [touch.as_str(), &format!("echo fine; {touch}"), "id"] {
        for options in [&[][..], &["-tt"][..]] {
            let output = node.run(options, &[command]).await;
            assert_eq!((output.status.code(), output.stdout.len()), (Some(254), 0), "{command}");
            let told = text(&output.stderr);
            assert!(told.contains("your roles do not permit this command"), "{command}: {told}");
        }
        let event = node.auth.event("T3002E", |event| event.fields["command"] == command).await;
        assert_eq!(event.error.as_deref(), Some("no role that grants the session permits the command"));
        assert_eq!((event.user.as_deref(), event.fields["role"].as_str()), (Some("alice"), Some("access")));
    }
    assert!(!mark.exists());
    assert_eq!(node.auth.count("T2000I"), 2, "what is refused never began");
    // What is taken back is permitted again.
    node.roles(builtin_roles()).await;
    assert!(node.run(&[], &[&touch]).await.status.success());
    assert!(mark.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_run_only_some_commands_has_no_shell() {
    let node = TestNode::start().await;
    node.roles(only(&["uptime"])).await;
    for options in [&["-tt"][..], &["-T"][..]] {
        let output = node.run(options, &[]).await;
        assert_eq!((output.status.code(), output.stdout.len()), (Some(254), 0));
        assert!(text(&output.stderr).contains("no shell"), "{}", text(&output.stderr));
    }
    let event = node.auth.event("T1006W", |event| event.fields["interactive"] == true).await;
    assert!(event.error.unwrap().contains("no shell"));
    assert_eq!(node.auth.count("T2000I"), 0);
    // With an empty list not even commands.
    node.roles(only(&[])).await;
    assert_eq!(node.run(&[], &["uptime"]).await.status.code(), Some(254));
}

/// The forced command of a certificate is what would run, so it is what must be permitted.
#[tokio::test(flavor = "multi_thread")]
async fn a_forced_command_must_be_on_the_list_and_what_was_asked_for_need_not() {
    let node = TestNode::start().await;
    let certificate = UserCert::new().critical("force-command", "echo forced");
    node.write_certificate("forced", &certificate.sign(&node.user_key, &node.user_ca), &node.user_key);
    node.roles(only(&["echo forced"])).await;
    for command in [&[][..], &["id"][..]] {
        let output = run(node.ssh_as("forced").arg("127.0.0.1").args(command)).await;
        assert_eq!((text(&output.stdout).as_str(), output.status.code()), ("forced\n", Some(0)));
    }
    node.roles(only(&["id"])).await;
    let output = run(node.ssh_as("forced").args(["127.0.0.1", "id"])).await;
    assert_eq!((output.stdout.len(), output.status.code()), (0, Some(254)));
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_limit_the_sessions_of_a_connection() {
    let node = TestNode::start().await;
    node.roles(access(|spec| spec.options.max_sessions = 2)).await;
    let control = format!("ControlPath={}", node.path("control").display());
    let _master = node.hold(&["-o", "ControlMaster=yes", "-o", &control]).await;
    let through = ["-o", "ControlMaster=no", "-o", control.as_str()];
    assert_eq!(text(&node.run(&through, &["echo second"]).await.stdout), "second\n");
    let _held = node.hold(&through).await;
    // A client whose master refuses makes a connection of its own, which has its own limit.
    let _ = node.run(&through, &["true"]).await;
    let event = node.auth.event("T1006W", |event| event.fields["reason"] == "max_sessions").await;
    assert_eq!(event.fields["max"], 2);
    assert_eq!(event.user.as_deref(), Some("alice"));
    // What the node itself permits stays the most, and a limit that is lifted counts at once.
    node.roles(access(|spec| spec.options.max_sessions = 3)).await;
    let accepted = node.status.counts().accepted;
    assert_eq!(text(&node.run(&through, &["echo third"]).await.stdout), "third\n");
    assert_eq!((node.status.counts().accepted, node.auth.count("T1006W")), (accepted, 1));
}
