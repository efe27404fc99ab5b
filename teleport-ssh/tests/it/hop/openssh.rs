//! Stock OpenSSH through the proxy, in every way that we print.

use std::process::{Command, Stdio};

use teleport_core::audit::EventKind;
use teleport_core::id::ClusterName;
use teleport_ssh::client::openssh::{config, jump_command};

use super::{CLUSTER, PROXY, World, assert_ok, os_user, private, run, script, text};

#[tokio::test(flavor = "multi_thread")]
async fn a_printed_config_is_all_that_plain_ssh_needs() {
    let world = World::start().await;
    let id = world.sshd("web").await;
    let user = world.user("alice").await;
    let cluster = ClusterName::new(CLUSTER).unwrap();
    let block = config(&cluster, &world.address(), "alice", &user.files).unwrap();
    let file = script(world.dir.path(), "ssh_config", &block);
    for host in [format!("web.{CLUSTER}"), format!("{id}.{CLUSTER}")] {
        let mut ssh = Command::new("ssh");
        ssh.arg("-F").arg(&file).arg(format!("{}@{host}", os_user())).arg("echo $((6*7)) && exit 0");
        ssh.stdin(Stdio::null()).env_remove("SSH_AUTH_SOCK");
        // No warning, no question: nothing but the answer.
        assert_ok(&run(ssh).await, "42");
    }
    let event = world.event(EventKind::Port, |event| event.user.as_deref() == Some("alice")).await;
    assert_eq!(event.fields["node_id"], id.to_string());
    assert_eq!(event.success, Some(true));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_printed_command_line_works_in_a_shell_as_it_stands() {
    let world = World::start().await;
    world.sshd("web").await;
    // A home that a careless line would break at.
    let mut user = world.user("alice").await;
    let odd = world.dir.path().join("it's a $(touch x) \u{e4} 100%h dir");
    std::fs::create_dir_all(&odd).unwrap();
    for file in [&mut user.files.identity, &mut user.files.certificate, &mut user.files.known_hosts] {
        let moved = odd.join(file.file_name().unwrap());
        private(&moved, &std::fs::read_to_string(&*file).unwrap());
        *file = moved;
    }
    let cluster = ClusterName::new(CLUSTER).unwrap();
    let line =
        jump_command(&cluster, &world.address(), &os_user(), &format!("web.{CLUSTER}"), &user.files).unwrap();
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("{line} 'echo through; exit 3'")).stdin(Stdio::null()).current_dir(&odd);
    let output = run(shell).await;
    assert_eq!(text(&output.stdout), "through", "{line}: {}", text(&output.stderr));
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(std::fs::read_dir(&odd).unwrap().count(), 3, "nothing of the path was executed");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jump_hosts_and_the_subsystem_lead_to_nodes() {
    let world = World::start().await;
    let id = world.sshd("web").await;
    let user = world.user("alice").await;
    let options = world.options(&user).iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
    let (port, login) = (world.proxy.port(), os_user());
    for (command, kind) in [
        (format!("ssh {options} -o {PROXY} -W [%h]:%p -p {port} x@127.0.0.1"), EventKind::Port),
        (format!("ssh {options} -o {PROXY} -s -p {port} x@127.0.0.1 proxy:%h:%p"), EventKind::Subsystem),
        (
            format!("ssh {options} -o {PROXY} -s -p {port} x@127.0.0.1 proxy:%h:0@{CLUSTER}"),
            EventKind::Subsystem,
        ),
        (format!("ssh {options} -o {PROXY} -s -p {port} x@127.0.0.1 proxy:{id}:22"), EventKind::Subsystem),
        (format!("ssh {options} -o {PROXY} -s -p {port} x@127.0.0.1 proxy:env=test:0"), EventKind::Subsystem),
    ] {
        let mut ssh = world.ssh(&user);
        ssh.arg("-o").arg(format!("ProxyCommand={command}"));
        ssh.arg(format!("{login}@web.{CLUSTER}")).arg("echo out; echo err >&2; exit 7");
        let output = run(ssh).await;
        assert_eq!(text(&output.stdout), "out", "{command}: {}", text(&output.stderr));
        assert_eq!((text(&output.stderr).as_str(), output.status.code()), ("err", Some(7)), "{command}");
        world.event(kind, |event| event.fields["node_id"] == id.to_string()).await;
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_sessions_share_one_connection_to_the_proxy() {
    let world = World::start().await;
    world.sshd("web").await;
    world.sshd("db").await;
    let user = world.user("alice").await;
    let options = world.options(&user).iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
    let socket = world.dir.path().join("mux");
    let master = format!(
        "ssh {options} -o {PROXY} -o ControlMaster=auto -o ControlPersist=30 -S {} -W [%h]:%p -p {} x@127.0.0.1",
        socket.display(),
        world.proxy.port()
    );
    for node in ["web", "db", "web"] {
        let mut ssh = world.ssh(&user);
        ssh.arg("-o").arg(format!("ProxyCommand={master}"));
        ssh.arg(format!("{}@{node}.{CLUSTER}", os_user())).arg("echo here");
        let output = run(ssh).await;
        assert_eq!(text(&output.stdout), "here", "{}", text(&output.stderr));
    }
    let mut exit = Command::new("ssh");
    exit.arg("-S").arg(&socket).args(["-O", "exit", "x@127.0.0.1"]);
    run(exit).await;
    world.stop().await;
}
