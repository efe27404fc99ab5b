//! Stock `sshd` as a node: `teleport join openssh`, the proxy in its place, and what neither of them lets through. As root, for an
//! sshd of others logs only its own user in.

mod crowded;
mod going;
mod installing;
mod refusals;

use std::path::{Path, PathBuf};
use std::process::Command;

use teleport_core::api::CreateToken;
use teleport_core::audit::{AuditEvent, EventKind};
use teleport_core::id::HostRole;
use teleport_core::label::Labels;
use teleport_core::resource::{Node, NodeKind, Role};

use crate::support::cluster::{CLUSTER, Home, TestCluster};
use crate::support::program::{Output, own, run, run_with};
use crate::support::sshd::Sshd;
use crate::support::{accept, own_login, wait_for};

/// An `sshd` that `teleport join openssh` was run for.
struct Server {
    sshd: Sshd,
    dir: PathBuf,
    name: String,
}

impl Server {
    fn new(cluster: &TestCluster, name: &str, labels: &str) -> Self {
        let server = Self::stock(cluster, name);
        let output = server.join(cluster, &["--token", &token(cluster), "--labels", labels]);
        assert!(output.status.success(), "{output:?}");
        wait_for("the server in the list", || server.listed(cluster));
        server
    }

    /// As its package installs it, with a host key of its own.
    fn stock(cluster: &TestCluster, name: &str) -> Self {
        let dir = cluster.dir().join(name);
        std::fs::create_dir(&dir).unwrap();
        let key = dir.join("stock_host_key");
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key);
        run(keygen).clean();
        let lines =
            format!("HostKey {}\nSubsystem sftp internal-sftp\nAuthorizedKeysFile none", key.display());
        let sshd = Sshd::start(&dir, &lines);
        Self { sshd, dir, name: name.to_owned() }
    }

    fn config(&self) -> PathBuf {
        self.dir.join("sshd_config")
    }

    fn command(&self) -> Command {
        let mut command = own("teleport");
        command.args(["join", "openssh"]);
        command.arg("--openssh-config").arg(self.config());
        command.arg("--data-dir").arg(self.dir.join("data"));
        command
    }

    fn join(&self, cluster: &TestCluster, arguments: &[&str]) -> Output {
        self.join_at(cluster, self.sshd.port(), arguments)
    }

    /// As if the server were at this port.
    fn join_at(&self, cluster: &TestCluster, port: u16, arguments: &[&str]) -> Output {
        let mut command = self.command();
        command.arg(format!("--proxy-server={}", cluster.web()));
        command.arg(format!("--ca-pin={}", cluster.pin()));
        command.arg(format!("--address=127.0.0.1:{port}"));
        command.arg(format!("--nodename={}", self.name)).args(arguments);
        run(command)
    }

    fn listed(&self, cluster: &TestCluster) -> Option<Node> {
        let nodes = TestCluster::block_on(cluster.admin().nodes()).unwrap();
        nodes.into_iter().find(|node| node.record.name.as_str() == self.name)
    }

    fn target(&self) -> String {
        self.target_as(&own_login())
    }

    fn target_as(&self, login: &str) -> String {
        format!("{login}@{}.{CLUSTER}", self.name)
    }
}

fn token(cluster: &TestCluster) -> String {
    let token = CreateToken {
        roles: vec![HostRole::Node],
        ttl: None,
        uses: Some(1),
        labels: Labels::default(),
        value: None,
    };
    TestCluster::block_on(cluster.admin().create_token(token)).unwrap().token.expose().to_owned()
}

fn role(cluster: &TestCluster, name: &str, spec: serde_json::Value) {
    let role = serde_json::json!({"kind": "role", "version": "v1", "metadata": {"name": name}, "spec": spec});
    let role: Role = serde_json::from_value(role).unwrap();
    TestCluster::block_on(cluster.admin().create_role(role)).unwrap();
}

fn ssh(home: &Home, arguments: &[&str]) -> Output {
    let mut ssh = home.ssh();
    ssh.args(arguments);
    run(ssh)
}

fn of(event: &AuditEvent, node: &Node) -> bool {
    event.server_id == Some(node.record.host_id)
}

#[test]
fn a_stock_sshd_is_a_node_like_others() {
    let cluster = TestCluster::start();
    let server = Server::new(&cluster, "plain", "env=test");
    let node = server.listed(&cluster).unwrap();
    assert_eq!(
        (node.record.sub_kind, node.record.labels.to_string()),
        (NodeKind::OpenSsh, "env=test".into())
    );
    let home = cluster.alice();
    let target = server.target();

    let mut command = home.ssh();
    command.args([&target, "echo out; cat; echo err >&2; exit 7"]);
    let output = run_with(command, b"in\n");
    assert_eq!((output.out(), output.stderr.as_str(), output.code()), ("out\nin\n", "err\n", 7));
    let by_signal = ssh(&home, &[&target, "kill -TERM $$"]);
    assert_eq!(by_signal.code(), 255, "{by_signal:?}");
    let terminal = ssh(&home, &["-tt", &target, "tty && stty size && echo $TERM"]);
    assert!(terminal.out().contains("/dev/pts/"), "{terminal:?}");
    let mut tsh = home.tsh();
    tsh.args(["ssh", &format!("{}@plain", own_login()), "echo by tsh"]);
    assert_eq!(run(tsh).clean(), "by tsh\n");

    // Files, each way, by both protocols.
    let (here, there) = (cluster.dir().join("here"), cluster.dir().join("there"));
    let content: Vec<u8> =
        (0..3 << 20_u32).map(|at: u32| at.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    std::fs::write(&here, &content).unwrap();
    for protocol in ["-s", "-O"] {
        let mut scp = Command::new("scp");
        scp.args(["-q", protocol, "-F"]).arg(&home.ssh_config).env_remove("SSH_AUTH_SOCK");
        scp.arg(&here).arg(format!("{target}:{}", there.display()));
        run(scp).clean();
        assert!(std::fs::read(&there).unwrap() == content, "{protocol}");
        std::fs::remove_file(&there).unwrap();
    }
    let mut copy = home.tsh();
    copy.args(["scp", "-q"]).arg(&here).arg(format!("{}@plain:{}", own_login(), there.display()));
    run(copy).clean();
    assert!(std::fs::read(&there).unwrap() == content);

    // Told and kept under the name of the server.
    let start = cluster.event(EventKind::SessionStart, |event| of(event, &node));
    assert_eq!(start.user.as_deref(), Some("alice"));
    assert!(start.fields.contains_key("proxy_id"), "{start:?}");
    let shown =
        cluster.event(EventKind::SessionEnd, |event| of(event, &node) && event.fields["interactive"] == true);
    let session = shown.sid.unwrap().to_string();
    cluster.event(EventKind::SessionUpload, |event| event.sid == shown.sid);
    let mut play = home.tsh();
    play.args(["play", "--format=text", &session]);
    let played = run(play).clean();
    assert!(played.contains("/dev/pts/"), "{played}");
    let file = cluster.event(EventKind::SftpOpen, |event| of(event, &node));
    assert_eq!(file.user.as_deref(), Some("alice"));

    // Listed by its kind.
    let mut ls = home.tsh();
    ls.arg("ls");
    assert!(run(ls).clean().contains("(openssh)"));
    let mut labelled = home.tsh();
    labelled.args(["ssh", &format!("{}@env=test", own_login()), "echo by label"]);
    assert!(run(labelled).out().contains("by label"));
}

/// What may be done on one node is not done on another, whatever the server would take: it trusts no certificate of a user.
#[test]
fn roles_count_and_users_certificates_do_not() {
    let cluster = TestCluster::start();
    let login = own_login();
    role(&cluster, "dev", serde_json::json!({"allow": {"logins": [login], "node_labels": {"env": "dev"}}}));
    role(
        &cluster,
        "guest",
        serde_json::json!({"allow": {"logins": ["nobody"], "node_labels": {"env": ["dev", "prod"]}}}),
    );
    let (dev, prod) =
        (Server::new(&cluster, "dev-1", "env=dev"), Server::new(&cluster, "prod-1", "env=prod"));
    let home = cluster.user("dora", &["dev", "guest"], &[]);
    assert_eq!(ssh(&home, &[&dev.target(), "echo in"]).clean(), "in\n");
    // She sees it, for there is a login that she has there; this one is of another node.
    let refused = ssh(&home, &[&prod.target(), "echo in"]);
    assert_eq!((refused.code(), refused.out()), (255, ""), "{refused:?}");
    assert!(refused.stderr.contains("Permission denied"), "{refused:?}");
    let node = prod.listed(&cluster).unwrap();
    let event = cluster.event(EventKind::AuthFailure, |event| of(event, &node));
    assert_eq!(event.user.as_deref(), Some("dora"));
    assert_eq!(prod.sshd.connections(), 0, "nobody who was not let in reaches the server");
    assert_eq!(dev.sshd.connections(), 1);

    // Straight to the server, with the very certificate and key.
    let config = std::fs::read_to_string(&home.ssh_config).unwrap();
    let own = |name: &str| {
        let line = config.lines().map(str::trim).find(|line| line.starts_with(name)).unwrap();
        line.replacen(' ', "=", 1)
    };
    for server in [&dev, &prod] {
        let mut direct = Command::new("ssh");
        direct.args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"]);
        direct.args(["-o", "UserKnownHostsFile=/dev/null", "-o", "IdentitiesOnly=yes", "-p"]);
        direct.arg(server.sshd.port().to_string()).env_remove("SSH_AUTH_SOCK");
        direct.args(["-o", &own("IdentityFile"), "-o", &own("CertificateFile")]);
        direct.arg(format!("{login}@127.0.0.1")).arg("echo in");
        let output = run(direct);
        assert_eq!((output.code(), output.out()), (255, ""), "{output:?}");
        assert!(output.stderr.contains("Permission denied"), "{output:?}");
    }
}

#[test]
fn a_lock_ends_what_runs_and_a_removal_too() {
    let cluster = TestCluster::start();
    let server = Server::new(&cluster, "plain", "");
    let home = cluster.alice();
    let there = cluster.dir().join("there");
    let begin = |home: &Home| {
        let _ = std::fs::remove_file(&there);
        let mut ssh = home.ssh();
        ssh.arg(server.target()).arg(format!("touch {}; sleep 600", there.display()));
        ssh.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        let child = ssh.stderr(std::process::Stdio::piped()).spawn().unwrap();
        wait_for("the session", || there.exists().then_some(()));
        child
    };
    let session = begin(&home);
    let mut lock = own("tctl");
    lock.arg("--data-dir").arg(cluster.dir().join("cluster")).args([
        "lock",
        "--user=alice",
        "--message=enough",
    ]);
    let locked = run(lock);
    assert!(locked.status.success(), "{locked:?}");
    let ended = session.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(255), "{said}");
    assert!(said.contains("enough"), "{said}");

    let other = cluster.user("bob", &["access"], &[&own_login()]);
    let session = begin(&other);
    let node = server.listed(&cluster).unwrap();
    TestCluster::block_on(cluster.admin().delete_node(node.record.host_id)).unwrap();
    assert_eq!(session.wait_with_output().unwrap().status.code(), Some(255));
    cluster.event(EventKind::SessionEnd, |event| of(event, &node) && event.user.as_deref() == Some("bob"));
    let gone = ssh(&other, &[&server.target(), "true"]);
    assert!(gone.stderr.contains("not found"), "{gone:?}");
    // Nothing renews what was removed.
    let refused = server.join(&cluster, &[]);
    assert!(!refused.status.success() && refused.stderr.contains("removed from the cluster"), "{refused:?}");
}

#[test]
fn a_server_that_is_another_or_not_there_is_told_of() {
    let cluster = TestCluster::start();
    let (server, other) = (Server::new(&cluster, "plain", ""), Server::new(&cluster, "other", ""));
    let home = cluster.alice();
    assert_eq!(ssh(&home, &[&server.target(), "echo in"]).clean(), "in\n");
    // A certificate of another server, good as it is; a plain key; and one of no authority of ours.
    let include = server.dir.join("data/sshd.conf");
    let good = std::fs::read_to_string(&include).unwrap();
    let of_other = good.replace("/plain/data/", "/other/data/");
    let plain: String = good
        .lines()
        .filter(|line| !line.starts_with("HostCertificate"))
        .map(|line| format!("{line}\n"))
        .collect();
    for (what, text) in [("another server's", of_other), ("a plain key", plain)] {
        std::fs::write(&include, text).unwrap();
        let refused = ssh(&home, &[&server.target(), "echo in"]);
        assert_eq!((refused.code(), refused.out()), (255, ""), "{what}: {refused:?}");
        assert!(refused.stderr.contains("cannot verify"), "{what}: {refused:?}");
    }
    std::fs::write(&include, &good).unwrap();
    let (ca, certificate) =
        (cluster.dir().join("foreign_ca"), server.dir.join("data/ssh_host_ed25519_key-cert.pub"));
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&ca);
    run(keygen).clean();
    let public = cluster.dir().join("foreign.pub");
    let mut derive = Command::new("ssh-keygen");
    derive.arg("-y").arg("-f").arg(server.dir.join("data/ssh_host_ed25519_key"));
    std::fs::write(&public, run(derive).clean()).unwrap();
    let node = server.listed(&cluster).unwrap();
    let mut sign = Command::new("ssh-keygen");
    sign.args([
        "-q",
        "-h",
        "-I",
        &format!("{} plain", node.record.host_id),
        "-n",
        &node.record.host_id.to_string(),
    ]);
    sign.args(["-V", "+1h", "-s"]).arg(&ca).arg(&public);
    run(sign);
    std::fs::copy(cluster.dir().join("foreign-cert.pub"), &certificate).unwrap();
    let refused = ssh(&home, &[&server.target(), "echo in"]);
    assert!(refused.code() == 255 && refused.stderr.contains("cannot verify"), "{refused:?}");

    let target = server.target();
    drop(server);
    let away = ssh(&home, &[&target, "echo in"]);
    assert!(away.code() == 255 && away.stderr.contains("cannot be reached"), "{away:?}");
    assert_eq!(ssh(&home, &[&other.target(), "echo in"]).clean(), "in\n");
}

#[test]
fn forwards_go_from_the_server_and_only_where_they_may() {
    let cluster = TestCluster::start();
    let server = Server::new(&cluster, "plain", "");
    let home = cluster.alice();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let answering = std::thread::spawn(move || {
        use std::io::Write;
        accept(&listener).write_all(b"hello from there\n").unwrap();
    });
    let output = ssh(&home, &["-W", &format!("127.0.0.1:{port}"), &server.target()]);
    assert_eq!(output.out(), "hello from there\n", "{output:?}");
    answering.join().unwrap();
    let node = server.listed(&cluster).unwrap();
    cluster.event(EventKind::Port, |event| of(event, &node));
    // It would be the proxy that listens.
    let remote =
        ssh(&home, &["-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:1", &server.target(), "true"]);
    assert_eq!(remote.code(), 255, "{remote:?}");
}

#[test]
fn the_configuration_is_changed_whole_or_not_at_all() {
    let cluster = TestCluster::start();
    let server = Server::stock(&cluster, "plain");
    let before = std::fs::read_to_string(server.config()).unwrap();
    let data = server.dir.join("data");
    // Without a token nothing is known, and nothing is changed.
    let refused = server.join(&cluster, &[]).refusal();
    assert!(refused.contains("no --token"), "{refused}");
    assert_eq!(std::fs::read_to_string(server.config()).unwrap(), before);

    let joined = server.join(&cluster, &["--token", &token(&cluster), "--labels", "env=test"]);
    assert!(joined.out().contains("Registered plain"), "{joined:?}");
    let with = std::fs::read_to_string(server.config()).unwrap();
    assert!(with.ends_with(&before) && with.contains("\nInclude "), "{with}");
    assert_eq!(std::fs::read_to_string(server.dir.join("sshd_config.before-teleport")).unwrap(), before);
    let include = std::fs::read_to_string(data.join("sshd.conf")).unwrap();
    assert!(include.contains("stock_host_key"), "the server keeps the key that its clients know: {include}");

    // Again, and without the token: a newer certificate on the same key, and the same configuration.
    let certificate = || std::fs::read_to_string(data.join("ssh_host_ed25519_key-cert.pub")).unwrap();
    let (first, key) = (certificate(), std::fs::read(data.join("ssh_host_ed25519_key")).unwrap());
    let renewed = server.join(&cluster, &[]);
    assert!(renewed.out().contains("Renewed plain"), "{renewed:?}");
    assert_ne!(certificate(), first);
    assert_eq!(std::fs::read(data.join("ssh_host_ed25519_key")).unwrap(), key);
    assert_eq!(std::fs::read_to_string(server.config()).unwrap(), with);

    // It remembers what it was told.
    let mut alone = own("teleport");
    alone.args(["join", "openssh", "--data-dir"]).arg(&data);
    let renewed = run(alone);
    assert!(renewed.out().contains("Renewed plain"), "{renewed:?}");
    assert_eq!(server.listed(&cluster).unwrap().record.labels.to_string(), "env=test");

    // What sshd does not take is not left there.
    let broken = format!("{with}NoSuchOption yes\n");
    std::fs::write(server.config(), &broken).unwrap();
    let last = certificate();
    let refused = server.join(&cluster, &[]).refusal();
    assert!(refused.contains("nothing was changed") && refused.contains("NoSuchOption"), "{refused}");
    assert_eq!(std::fs::read_to_string(server.config()).unwrap(), broken);
    assert_eq!(certificate(), last);
    std::fs::write(server.config(), &with).unwrap();

    let mut uninstall = server.command();
    uninstall.arg("--uninstall");
    let output = run(uninstall);
    assert!(output.status.success() && output.out().contains("tctl nodes rm"), "{output:?}");
    assert_eq!(std::fs::read_to_string(server.config()).unwrap(), before);
    assert!(!data.join("sshd.conf").exists() && !data.join("ssh_host_ed25519_key").exists());

    // Somebody else's trust is not pushed aside.
    let theirs = server.dir.join("theirs.pub");
    std::fs::copy(server.dir.join("stock_host_key.pub"), &theirs).unwrap();
    std::fs::write(server.config(), format!("{before}TrustedUserCAKeys {}\n", theirs.display())).unwrap();
    let refused = server.join(&cluster, &[]).refusal();
    assert!(refused.contains("TrustedUserCAKeys"), "{refused}");
    assert!(!Path::new(&data.join("sshd.conf")).exists());
}
