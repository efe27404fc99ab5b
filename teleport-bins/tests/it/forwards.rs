//! What nodes forward, by stock `ssh` through the proxy: ports, sockets in the file system, agents.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use teleport_core::audit::{AuditEvent, EventKind};
use teleport_ssh::sys::accounts::Account;

use crate::processes::Three;
use crate::support::cluster::{CLUSTER, Home, TestCluster};
use crate::support::daemon::fixed_port;
use crate::support::program::{own, run};
use crate::support::{own_login, wait_for};

/// A program that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A directory that every user may enter, with one inside in which everybody may make files.
fn open_dir() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let everybodys = dir.path().join("everybodys");
    std::fs::create_dir(&everybodys).unwrap();
    std::fs::set_permissions(&everybodys, PermissionsExt::from_mode(0o1777)).unwrap();
    (dir, everybodys)
}

/// Stock `ssh` without a session as `login`.
fn tunnel(home: &Home, login: &str, options: &[&str]) -> Running {
    let mut ssh = home.ssh();
    ssh.args(["-N", "-o", "ExitOnForwardFailure=yes", "-o", "StreamLocalBindUnlink=no"]).args(options);
    ssh.arg(format!("{login}@node.{CLUSTER}")).stdin(Stdio::null()).stderr(Stdio::piped());
    Running(ssh.spawn().unwrap())
}

fn connect(path: &Path) -> UnixStream {
    wait_for(&format!("to connect to {}", path.display()), || UnixStream::connect(path).ok())
}

/// Says a word to who listens there for one connection, and hears one.
fn greets(mut near: impl Read + Write, far: UnixStream) {
    let mut far = far;
    near.write_all(b"hello").unwrap();
    let mut word = [0; 5];
    far.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"hello");
    far.write_all(b"world").unwrap();
    far.shutdown(Shutdown::Both).unwrap();
    drop(far);
    let mut rest = String::new();
    near.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "world");
}

/// The proxy writes events of this name as well, without a kind.
fn is_of(event: &AuditEvent, kind: &str) -> bool {
    event.fields.get("kind").is_some_and(|is| is == kind)
}

fn nobody() -> Option<nix::unistd::User> {
    let nobody = nix::unistd::User::from_name("nobody").unwrap()?;
    nix::unistd::geteuid().is_root().then_some(nobody)
}

#[test]
fn stock_ssh_forwards_ports_and_sockets_through_the_proxy() {
    let cluster = TestCluster::with_node();
    let home = cluster.alice();
    let dir = tempfile::tempdir().unwrap();
    let (here, there, back) = (dir.path().join("here"), dir.path().join("there"), dir.path().join("back"));
    let far = UnixListener::bind(&there).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let to_port = dir.path().join("port");
    let back_here = dir.path().join("back-here");
    let near = UnixListener::bind(&back_here).unwrap();
    let options = [
        format!("{}:{}", here.display(), there.display()),
        format!("{}:{}", to_port.display(), port.local_addr().unwrap()),
        format!("{}:{}", back.display(), back_here.display()),
    ];
    let tunnel = tunnel(&home, &own_login(), &["-L", &options[0], "-L", &options[1], "-R", &options[2]]);
    let stream = connect(&here);
    greets(stream, far.accept().unwrap().0);
    let mut stream = connect(&to_port);
    let (mut accepted, _) = port.accept().unwrap();
    stream.write_all(b"x").unwrap();
    accepted.read_exact(&mut [0]).unwrap();
    // What the node makes is the login's alone.
    let come = connect(&back);
    assert_eq!(back.metadata().unwrap().mode() & 0o777, 0o600);
    greets(come, near.accept().unwrap().0);
    for (kind, addr) in [
        ("direct-streamlocal", there.display().to_string()),
        ("direct-tcpip", port.local_addr().unwrap().to_string()),
        ("streamlocal-forward", back.display().to_string()),
        ("forwarded-streamlocal", back.display().to_string()),
    ] {
        let event = cluster
            .event(EventKind::Port, |event| is_of(event, kind) && event.fields["addr"] == addr.as_str());
        assert_eq!(
            (event.user.as_deref(), event.login.as_deref()),
            (Some("alice"), Some(own_login().as_str()))
        );
    }
    drop(tunnel);
    wait_for("what the node has made to be removed", || (!back.exists()).then_some(()));
    cluster.event(EventKind::PortEnd, |event| is_of(event, "streamlocal-forward"));
    drop((stream, accepted));
}

/// What the file of a node says of forwarding is what its process does.
#[test]
fn the_file_says_where_a_node_listens_and_how_much_it_forwards() {
    let mut three = Three::start(false);
    three.node.take().unwrap().stop();
    let config = three.machine.path("node.yaml");
    let text = std::fs::read_to_string(&config).unwrap();
    let keys = "ssh_service:\n  max_forwarded: 1\n  gateway_ports: clientspecified\n";
    std::fs::write(&config, text.replacen("ssh_service:\n", keys, 1)).unwrap();
    three.node = Some(three.machine.start("node", &[]));
    three.works();
    let (far, port) = (TcpListener::bind("127.0.0.1:0").unwrap(), fixed_port());
    let remote = format!("127.0.0.3:{port}:{}", far.local_addr().unwrap());
    let mut ssh = three.ssh_with(&["-o", "ExitOnForwardFailure=yes", "-R", &remote], "cat");
    ssh.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let _tunnel = Running(ssh.spawn().unwrap());
    let come = || TcpStream::connect(("127.0.0.3", port));
    let first = wait_for("the node to listen where the client says", || come().ok());
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "nowhere else");
    let accepted = far.accept().unwrap();
    let mut more = come().unwrap();
    more.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let turned_away = more.read(&mut [0]).map_err(|error| error.kind());
    assert!(matches!(turned_away, Ok(0) | Err(ErrorKind::ConnectionReset)), "{turned_away:?}");
    drop((first, accepted));
}

#[test]
fn a_listening_socket_is_cancelled_and_replaces_nothing() {
    let cluster = TestCluster::with_node();
    let home = cluster.alice();
    let dir = tempfile::tempdir().unwrap();
    let (control, back) = (dir.path().join("control"), dir.path().join("back"));
    let control = control.to_str().unwrap();
    let spec = format!("{}:{}", back.display(), dir.path().join("here").display());
    let _master = tunnel(&home, &own_login(), &["-M", "-S", control, "-R", &spec]);
    connect(&back);
    let told = |operation: &str, spec: &str| {
        let mut ssh = home.ssh();
        ssh.args(["-S", control, "-O", operation, "-R", spec, "x"]);
        run(ssh)
    };
    assert_eq!(told("cancel", &spec).code(), 0);
    wait_for("the socket to be removed", || (!back.exists()).then_some(()));
    // What is there stays as it is: a file, a socket, a link to where nothing is.
    std::fs::write(&back, "mine").unwrap();
    assert_ne!(told("forward", &spec).code(), 0);
    assert_eq!(std::fs::read(&back).unwrap(), b"mine");
    std::fs::remove_file(&back).unwrap();
    let elsewhere = dir.path().join("elsewhere");
    symlink(&elsewhere, &back).unwrap();
    assert_ne!(told("forward", &spec).code(), 0);
    assert!(!elsewhere.exists() && back.is_symlink());
    for path in ["relative", &format!("/{}", "x".repeat(200))] {
        assert_ne!(told("forward", &format!("{path}:/here")).code(), 0, "{path}");
    }
    cluster.event(EventKind::PortFailure, |event| is_of(event, "streamlocal-forward"));
}

/// Row G1: sockets are the login's own, in all that the kernel looks at, and nothing is given away by its path.
#[test]
fn g1_sockets_are_opened_by_the_login_and_never_by_root() {
    let Some(nobody) = nobody() else { return };
    let cluster = TestCluster::with_node();
    let home = cluster.user("alice", &["access"], &["nobody"]);
    let (dir, everybodys) = open_dir();
    let roots = dir.path().join("roots");
    let secret = UnixListener::bind(&roots).unwrap();
    std::fs::set_permissions(&roots, PermissionsExt::from_mode(0o600)).unwrap();
    let public = dir.path().join("public");
    let listener = UnixListener::bind(&public).unwrap();
    std::fs::set_permissions(&public, PermissionsExt::from_mode(0o666)).unwrap();
    let (to_public, to_roots) = (dir.path().join("to-public"), dir.path().join("to-roots"));
    let back = everybodys.join("back");
    let specs = [
        format!("{}:{}", to_public.display(), public.display()),
        format!("{}:{}", to_roots.display(), roots.display()),
        format!("{}:{}", back.display(), dir.path().join("here").display()),
    ];
    let near = UnixListener::bind(dir.path().join("here")).unwrap();
    let tunnel = tunnel(&home, "nobody", &["-L", &specs[0], "-L", &specs[1], "-R", &specs[2]]);
    let stream = connect(&to_public);
    let (far, _) = listener.accept().unwrap();
    // Whom a service of the host sees, it sees as it would see a program of the login.
    let seen = getsockopt(&far, PeerCredentials).unwrap();
    assert_eq!((seen.uid(), seen.gid()), (nobody.uid.as_raw(), nobody.gid.as_raw()));
    greets(stream, far);
    // What the login may not open, is not opened.
    let mut refused = connect(&to_roots);
    assert_eq!(refused.read(&mut [0; 9]).unwrap_or(0), 0);
    secret.set_nonblocking(true).unwrap();
    assert!(secret.accept().is_err(), "nobody has come");
    cluster.event(EventKind::PortFailure, |event| event.fields["addr"] == roots.to_str().unwrap());
    // What is made belongs to the login.
    let come = connect(&back);
    let made = back.symlink_metadata().unwrap();
    assert_eq!(
        (made.uid(), made.gid(), made.mode() & 0o777),
        (nobody.uid.as_raw(), nobody.gid.as_raw(), 0o600)
    );
    greets(come, near.accept().unwrap().0);
    drop(tunnel);
    wait_for("the socket to be removed", || (!back.exists()).then_some(()));

    // Where the login may not write, nothing is made, whatever links lead there.
    let control = dir.path().join("control");
    let control = control.to_str().unwrap();
    let _master = self::tunnel(&home, "nobody", &["-M", "-S", control]);
    wait_for("the master", || Path::new(control).exists().then_some(()));
    symlink(dir.path(), everybodys.join("link")).unwrap();
    for path in [dir.path().join("new"), everybodys.join("link/new")] {
        let mut ssh = home.ssh();
        ssh.args(["-S", control, "-O", "forward", "-R", &format!("{}:/here", path.display()), "x"]);
        assert_ne!(run(ssh).code(), 0);
        assert!(path.symlink_metadata().is_err());
    }
    // TCP as well: rules of packet filters go by the owner.
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let to_port = dir.path().join("to-port");
    let spec = format!("{}:{}", to_port.display(), port.local_addr().unwrap());
    let _tunnel =
        self::tunnel(&home, "nobody", &["-L", &spec, "-R", &format!("0:{}", port.local_addr().unwrap())]);
    let _stream = connect(&to_port);
    let (_accepted, from) = port.accept().unwrap();
    assert_eq!(owner(from.port(), None), nobody.uid.as_raw());
    let listens = cluster.event(EventKind::Port, |event| is_of(event, "tcpip-forward"));
    let listens = listens.fields["addr"].as_str().unwrap().rsplit(':').next().unwrap().parse().unwrap();
    assert_eq!(owner(listens, None), nobody.uid.as_raw());
    let came = TcpStream::connect(("127.0.0.1", listens)).unwrap();
    let _led = port.accept().unwrap();
    assert_eq!(owner(listens, Some(came.local_addr().unwrap().port())), nobody.uid.as_raw());
    let mut ssh = home.ssh();
    ssh.args(["-S", control, "-O", "forward", "-R", "1023:127.0.0.1:1", "x"]);
    assert_ne!(run(ssh).code(), 0);
    assert!(TcpStream::connect("127.0.0.1:1023").is_err());
    cluster.event(EventKind::PortFailure, |event| event.error.as_ref().unwrap().contains("below 1024"));
}

/// Whose socket has this port, and this one on the other side, as the kernel says.
fn owner(port: u16, to: Option<u16>) -> u32 {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let of = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let port_of = |address: &str| u16::from_str_radix(address.rsplit(':').next()?, 16).ok();
        let (here, there) = (port_of(words.get(1)?)?, port_of(words.get(2)?)?);
        (here == port && to.is_none_or(|to| to == there)).then(|| words[7].parse().unwrap())
    };
    table.lines().find_map(of).unwrap()
}

/// The ids that this process has, as an opener is told them.
fn own_ids() -> String {
    let account = Account::lookup(&own_login()).unwrap();
    let ids = [account.uid, account.gid].into_iter().chain(account.groups);
    ids.map(|id| id.to_string()).collect::<Vec<_>>().join(",")
}

/// The process that opens a socket, asked as a node asks it.
fn opener(arguments: &[&str]) -> (Running, UnixStream) {
    opener_for(&own_ids(), arguments)
}

fn opener_for(ids: &str, arguments: &[&str]) -> (Running, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut command = own("teleport");
    command.args(["open-socket", ids]).args(arguments).stdin(OwnedFd::from(theirs));
    command.stdout(Stdio::null()).stderr(Stdio::null());
    (Running(command.spawn().unwrap()), ours)
}

/// Row G1: what was made is removed when the daemon is gone, however it went, and nothing else is.
#[test]
fn g1_what_was_made_is_removed_whatever_becomes_of_the_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let name = path.to_str().unwrap();
    let answer = |stream: &mut UnixStream| {
        let mut first = [9];
        stream.read_exact(&mut first).unwrap();
        first[0]
    };
    let (mut process, mut daemon) = opener(&["listen", name]);
    assert_eq!((answer(&mut daemon), path.exists()), (0, true));
    // The service is told to end, and the daemon with it.
    let pid = nix::unistd::Pid::from_raw(process.0.id().try_into().unwrap());
    for signal in [nix::sys::signal::Signal::SIGTERM, nix::sys::signal::Signal::SIGHUP] {
        nix::sys::signal::kill(pid, signal).unwrap();
    }
    drop(daemon);
    assert!(process.0.wait().unwrap().success());
    assert!(!path.exists());
    // Somebody has put something else there meanwhile.
    let (mut process, mut daemon) = opener(&["listen", name]);
    assert_eq!(answer(&mut daemon), 0);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "theirs").unwrap();
    drop(daemon);
    assert!(process.0.wait().unwrap().success());
    assert_eq!(std::fs::read(&path).unwrap(), b"theirs");
    // It is said why nothing is opened.
    for arguments in [&["listen", name], &["connect", "/nonexistent/socket"]] {
        let (mut process, mut daemon) = opener(arguments);
        assert_eq!(answer(&mut daemon), 1, "{arguments:?}");
        assert!(process.0.wait().unwrap().success());
    }
    for arguments in [&["listen", "relative"][..], &["nonsense"], &[], &["agent", "x"]] {
        let (mut process, _daemon) = opener(arguments);
        assert!(!process.0.wait().unwrap().success(), "{arguments:?}");
    }
    for ids in ["", "0", "root,root", "0,0,"] {
        let (mut process, _daemon) = opener_for(ids, &["listen", name]);
        assert!(!process.0.wait().unwrap().success(), "{ids:?}");
    }
}

/// Row G1: it has the ids of the user and no way back, and yet no other process of the user may look into it.
#[test]
fn g1_what_opens_sockets_is_the_users_and_closed_to_the_user() {
    let Some(nobody) = nobody() else { return };
    let (nobody, dir) = (Account::lookup(&nobody.name).unwrap(), tempfile::tempdir().unwrap());
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let path = dir.path().join("socket");
    let ids = format!("{},{},{}", nobody.uid, nobody.gid, nobody.groups[0]);
    let (process, mut daemon) = opener_for(&ids, &["listen", path.to_str().unwrap()]);
    daemon.read_exact(&mut [0]).unwrap();
    assert_eq!(path.metadata().unwrap().uid(), nobody.uid);
    let about = PathBuf::from(format!("/proc/{}", process.0.id()));
    let status = std::fs::read_to_string(about.join("status")).unwrap();
    let line =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    assert_eq!(line("Uid:"), vec![nobody.uid.to_string(); 4].join("\t"));
    assert_eq!(line("Gid:"), vec![nobody.gid.to_string(); 4].join("\t"));
    assert_eq!(line("Groups:"), nobody.groups[0].to_string());
    assert_eq!(line("CapEff:"), "0000000000000000");
    let mut look = Command::new("cat");
    look.arg(about.join("environ")).uid(nobody.uid).gid(nobody.gid);
    assert_ne!(run(look).code(), 0);
}

/// Row A12: the agent of who may, for the session that asks, in a directory of the login's own.
#[test]
fn a12_an_agent_is_forwarded_where_certificate_and_roles_permit_it() {
    let cluster = TestCluster::with_node();
    let home = cluster.alice();
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", "of-the-agent", "-f"]).arg(&key);
    run(keygen).clean();
    let host = format!("{}@node.{CLUSTER}", own_login());
    let ssh = |options: &str, command: &str| {
        let mut agent = Command::new("ssh-agent");
        agent.args(["sh", "-c"]).arg(format!(
            "ssh-add -q {} && exec ssh -F {} {options} {host} '{command}'",
            key.display(),
            home.ssh_config.display()
        ));
        run(agent)
    };
    let look = "echo $SSH_AUTH_SOCK; stat -c %a:%u ${SSH_AUTH_SOCK%/*} $SSH_AUTH_SOCK; ssh-add -l; ssh-add -l | wc -l";
    let done = ssh("-A", look);
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    let lines: Vec<&str> = said.lines().collect();
    let me = nix::unistd::geteuid();
    assert!(lines[0].starts_with("/tmp/ssh-") && lines[0].ends_with("/agent"), "{done:?}");
    assert_eq!(lines[1..3], [format!("700:{me}"), format!("600:{me}")], "{done:?}");
    assert!(lines[3].contains("of-the-agent"), "{done:?}");
    // Gone with the connection.
    let socket = Path::new(lines[0]);
    wait_for("the directory to be removed", || (!socket.parent().unwrap().exists()).then_some(()));
    let used = |event: &AuditEvent| is_of(event, "auth-agent");
    let event = cluster.event(EventKind::Port, used);
    assert_eq!((event.user.as_deref(), event.login.as_deref()), (Some("alice"), Some(own_login().as_str())));
    cluster.event(EventKind::PortEnd, used);
    // Each session has its own, for as long as it lasts: the fortieth of a connection as well.
    let control = dir.path().join("control");
    let mut agent = Command::new("ssh-agent");
    agent.args(["sh", "-c"]).arg(format!(
        "ssh-add -q {key}; ssh -F {config} -S {control} -fNMA {host}; for i in $(seq 40); do \
         ssh -F {config} -S {control} -A {host} 'ssh-add -l >/dev/null && echo $SSH_AUTH_SOCK'; done; \
         ssh -F {config} -S {control} -O exit {host}",
        key = key.display(),
        config = home.ssh_config.display(),
        control = control.display(),
    ));
    let done = run(agent);
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    let sockets: std::collections::BTreeSet<&str> = said.lines().collect();
    assert_eq!(sockets.len(), 40, "{done:?}");
    for socket in sockets {
        wait_for("the directory to be removed", || {
            (!Path::new(socket).parent().unwrap().exists()).then_some(())
        });
    }
    // Nobody has one who does not ask.
    let without = ssh("-a", "echo socket:$SSH_AUTH_SOCK");
    assert_eq!(String::from_utf8_lossy(&without.stdout), "socket:\n", "{without:?}");

    // What the roles forbid is refused, and the session goes on without.
    let mut create = own("tctl");
    create.arg("--data-dir").arg(cluster.dir().join("cluster")).args(["create", "--force"]);
    let login = own_login();
    let role = format!(
        "kind: role\nversion: v1\nmetadata: {{name: access}}\nspec:\n  options: {{forward_agent: false}}\n  \
         allow: {{logins: [{login}], node_labels: {{'*': '*'}}}}\n"
    );
    crate::support::program::run_with(create, role.as_bytes()).clean();
    let refused = wait_for("the role to count", || {
        let done = ssh("-A", "echo socket:$SSH_AUTH_SOCK");
        (done.stdout == b"socket:\n").then_some(done)
    });
    assert_eq!(refused.code(), 0);
    let event = cluster.event(EventKind::AgentForwardFailure, |_| true);
    assert_eq!(event.error.as_deref(), Some("the roles do not permit agent forwarding (forward_agent)"));
}
