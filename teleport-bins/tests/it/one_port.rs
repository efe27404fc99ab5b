//! Clusters with one open port: by it come users with stock programs and ours, and nodes; also behind a load balancer, and through an
//! HTTP proxy.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use teleport_bins::daemon::Os;
use teleport_core::audit::EventKind;
use teleport_ssh::mux::{HeaderMode, ProxyProtocol};

use crate::foreign::tool;
use crate::processes::NONE;
use crate::servers::mortal;
use crate::support::cluster::{CLUSTER, Home, TestCluster};
use crate::support::daemon::{Machine, Process, Services, fixed_port};
use crate::support::program::{own, run};
use crate::support::user::User;
use crate::support::{LIMIT, accept, own_login, wait_for};
use crate::tunnels::ports;

fn host() -> String {
    format!("{}@node.{CLUSTER}", own_login())
}

/// A program that runs as long as the value.
struct Running(Child);

impl Running {
    fn start(mut command: Command, at: SocketAddr) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let mut program = Self(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")));
        wait_for("the program to listen", || {
            assert_eq!(program.0.try_wait().unwrap(), None, "{command:?} has ended");
            TcpStream::connect(at).ok()
        });
        program
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `ssh` to the node, which dials the proxy by this command.
fn ssh_by(home: &Home, proxy: &str, command: &str) -> Command {
    let config = home.ssh_config.display();
    let way = format!("ProxyCommand=ssh -F {config} {proxy} -W %h:%p teleport-proxy.{CLUSTER}");
    let mut ssh = home.ssh();
    ssh.args(["-o", &way]).arg(host()).arg(command);
    ssh
}

#[test]
fn stock_programs_and_ours_need_the_web_port_alone() {
    let cluster =
        TestCluster::start_as(Os::default(), |settings| settings.proxy.as_mut().unwrap().ssh_listen = None);
    cluster.add_node("node", "env=test");
    assert_eq!(cluster.ssh(), cluster.web());
    let home = cluster.alice();
    let config = std::fs::read_to_string(&home.ssh_config).unwrap();
    assert!(config.contains(&cluster.web().port().to_string()), "{config}");
    let mut ssh = home.ssh();
    ssh.arg(host()).arg("echo by stock ssh");
    assert_eq!(run(ssh).clean(), "by stock ssh\n");
    let tsh = |arguments: &[&str]| {
        let mut tsh = home.tsh();
        tsh.args(arguments);
        run(tsh)
    };
    assert_eq!(tsh(&["ssh", &format!("{}@node", own_login()), "echo by tsh"]).clean(), "by tsh\n");
    let (from, to) = (cluster.dir().join("from"), cluster.dir().join("to"));
    std::fs::write(&from, "content").unwrap();
    let target = format!("{}@node:{}", own_login(), to.display());
    assert_eq!(tsh(&["scp", "-q", from.to_str().unwrap(), &target]).code(), 0);
    assert_eq!(std::fs::read_to_string(&to).unwrap(), "content");
    // By what the user knows, without the file that `tsh config` writes for the jump.
    let option = format!("ProxyCommand={} proxy ssh %r@%h:%p", own("tsh").get_program().display());
    let mut ssh = home.ssh();
    ssh.env("TELEPORT_HOME", &home.dir).args(["-o", &option]).arg(host()).arg("echo by tsh proxy");
    assert_eq!(run(ssh).clean(), "by tsh proxy\n");
    // For whoever may speak nothing but TLS.
    let tls = format!(
        "-o 'ProxyCommand=openssl s_client -quiet -alpn teleport-proxy-ssh -connect {} 2>/dev/null'",
        cluster.web()
    );
    let within = run(ssh_by(&home, &tls, "echo within TLS"));
    assert_eq!((within.out(), within.code()), ("within TLS\n", 0), "{within:?}");
}

/// So a port that waits for the client's first word can be theirs.
#[test]
fn stock_clients_of_ssh_speak_first() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let command = |mut command: Command, arguments: &str| {
        command.args(arguments.split(' '));
        command
    };
    let python = |script: String| {
        let mut python = tool("python-ssh");
        python.arg("-c").arg(script);
        python
    };
    let paramiko =
        format!("import paramiko\nparamiko.SSHClient().connect('127.0.0.1', {port}, password='x')");
    let asyncssh = format!(
        "import asyncio, asyncssh\nasync def main():\n    await asyncssh.connect('127.0.0.1', {port}, known_hosts=None)\nasyncio.run(main())"
    );
    for mut program in [
        command(Command::new("ssh"), &format!("-F none -o BatchMode=yes -p {port} 127.0.0.1")),
        command(Command::new("plink"), &format!("-batch -ssh -P {port} somebody@127.0.0.1")),
        command(Command::new("dbclient"), &format!("-y -y -p {port} somebody@127.0.0.1")),
        python(paramiko),
        python(asyncssh),
    ] {
        program.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = Running(program.spawn().unwrap_or_else(|error| panic!("{program:?}: {error}")));
        let mut stream = accept(&listener);
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut first = [0; 4];
        stream.read_exact(&mut first).unwrap_or_else(|error| panic!("{program:?}: {error}"));
        assert_eq!(&first, b"SSH-", "{program:?}");
        drop(child);
    }
}

/// HAProxy in front of a cluster that believes it: by the first version of the protocol, and by the second.
#[test]
fn behind_haproxy_the_audit_log_says_where_clients_are() {
    let cluster = TestCluster::start_as(Os::default(), |settings| {
        let proxy = settings.proxy.as_mut().unwrap();
        proxy.ssh_listen = None;
        proxy.protocol = ProxyProtocol::new(HeaderMode::On, ["127.0.0.1"]).unwrap();
    });
    cluster.add_node("node", "env=test");
    let home = cluster.alice();
    let versions = [("send-proxy", fixed_port()), ("send-proxy-v2", fixed_port())];
    let mut config = "global\n  maxconn 100\ndefaults\n  mode tcp\n  timeout connect 60s\n  timeout client 300s\n  timeout server 300s\n".to_owned();
    for (says, port) in versions {
        config +=
            &format!("listen {says}\n  bind 127.0.0.1:{port}\n  server proxy {} {says}\n", cluster.web());
    }
    let file = cluster.dir().join("haproxy.cfg");
    std::fs::write(&file, config).unwrap();
    let mut haproxy = mortal("haproxy", "KILL");
    haproxy.arg("-db").arg("-f").arg(&file);
    let _haproxy = Running::start(haproxy, (Ipv4Addr::LOCALHOST, versions[1].1).into());
    for (at, (says, port)) in versions.into_iter().enumerate() {
        let client = format!("127.0.0.{}", at + 5);
        let way = format!("-b {client} -o HostName=127.0.0.1 -p {port}");
        assert_eq!(run(ssh_by(&home, &way, &format!("echo {says}"))).clean(), format!("{says}\n"));
        // The node hears it from the proxy, and the proxy from HAProxy.
        let is_there = |remote: Option<SocketAddr>| remote.is_some_and(|at| at.ip().to_string() == client);
        cluster.event(EventKind::Exec, |event| is_there(event.remote));
        // Nobody else is believed.
        let mut liar = crate::hostile::connect([9, u8::try_from(at).unwrap()], cluster.web()).unwrap();
        std::io::Write::write_all(&mut liar, b"PROXY TCP4 203.0.113.9 192.0.2.1 1 2\r\nSSH-2.0-x\r\n")
            .unwrap();
        let mut answer = Vec::new();
        // It ends, one way or the other.
        let _ = liar.read_to_end(&mut answer);
        assert!(answer.is_empty(), "{answer:?}");
    }
}

/// A cluster with one port, as processes, and a node with none.
struct OnePort {
    machine: Machine,
    cluster: Process,
    web: u16,
}

/// The name of this machine: it may be reached by an HTTP proxy, unlike `localhost`.
pub(crate) fn own_name() -> String {
    nix::unistd::gethostname().unwrap().into_string().unwrap()
}

impl OnePort {
    fn start(proxy_service: &str, flags: &[&str]) -> Self {
        let listen = if proxy_service.contains("public_addr") { "0.0.0.0" } else { "127.0.0.1" };
        let machine = Machine::new();
        let [auth, web, unused] = [(); 3].map(|()| fixed_port());
        let services = Services { auth: Some(auth), proxy: Some((web, unused)), node: None }.yaml();
        let services = services.replace("proxy_service:\n", &format!("proxy_service:\n{proxy_service}"));
        // A name may lead to any of the machine's addresses.
        let services = services.replace("web_listen_addr: 127.0.0.1", &format!("web_listen_addr: {listen}"));
        machine.configure("cluster", "", &services);
        let cluster = machine.start("cluster", flags);
        Self { machine, cluster, web }
    }

    /// A node that is given nothing but the web port of the proxy at this host.
    fn node(&self, host: &str, change: impl FnOnce(&mut Command)) -> Process {
        let node = Services { node: Some((0, "env: prod")), ..NONE }
            .yaml()
            .replace("  listen_addr: 127.0.0.1:0\n", "");
        self.machine.configure("node", &format!("  proxy_server: {host}:{}\n", self.web), &node);
        let (token, pin) = self.machine.token("cluster", &["--type=node", "--uses=1"]);
        let node = self.machine.start_with(
            "node",
            &[&format!("--token={token}"), &format!("--ca-pin={pin}")],
            change,
        );
        self.machine.wait_for_nodes("cluster", 1);
        node
    }

    fn user(&self) -> User {
        let logins = format!("--logins={}", own_login());
        let printed = self.machine.tctl("cluster", &["users", "add", "alice", &logins]).clean();
        User::accept("alice", &printed, &self.machine.path("home"))
    }

    fn tsh(&self, arguments: &[&str]) -> Command {
        let mut tsh = own("tsh");
        tsh.env("TELEPORT_HOME", self.machine.path("home")).args(arguments);
        tsh
    }

    /// A session at the node, as soon as the proxy has its tunnel.
    #[track_caller]
    fn works(&self, with: impl Fn(&mut Command)) {
        wait_for("a session at the node", || {
            let mut tsh = self.tsh(&["ssh", &format!("{}@node", own_login()), "echo through"]);
            with(&mut tsh);
            (run(tsh).out() == "through\n").then_some(())
        });
    }
}

#[test]
fn one_port_is_all_that_a_proxy_opens_and_all_that_a_node_needs() {
    let one = OnePort::start("", &["--one-port"]);
    let auth = one.cluster.address("auth").port();
    assert_eq!(ports(&one.cluster), [auth, one.web].into());
    assert_eq!(one.cluster.address("proxy ssh").port(), one.web);
    let mut alice = one.user();
    alice.login(one.tsh(&["login", &format!("--proxy=127.0.0.1:{}", one.web)])).clean();
    let node = one.node("127.0.0.1", |_| ());
    assert!(ports(&node).is_empty(), "{:?}", ports(&node));
    one.works(|_| ());
    node.stop();
    one.cluster.stop();
}

#[test]
fn a_node_finds_the_port_of_tunnels_by_itself() {
    let tunnels = fixed_port();
    let one = OnePort::start(&format!("  tunnel_listen_addr: 127.0.0.1:{tunnels}\n"), &[]);
    assert_eq!(one.cluster.address("tunnels").port(), tunnels);
    let mut alice = one.user();
    alice.login(one.tsh(&["login", &format!("--proxy=127.0.0.1:{}", one.web)])).clean();
    let node = one.node("127.0.0.1", |_| ());
    one.works(|_| ());
    assert!(node.logged().contains("takes tunnels at another port"), "{}", node.logged());
    // And after the proxy was away.
    let OnePort { machine, cluster, web } = one;
    cluster.stop();
    let one = OnePort { cluster: machine.start("cluster", &[]), machine, web };
    one.works(|_| ());
    node.stop();
}

#[test]
fn through_an_http_proxy_come_users_and_nodes_and_whoever_may_not_is_told_why() {
    let elsewhere = own_name();
    let one = OnePort::start(&format!("  public_addr: {elsewhere}\n"), &["--one-port"]);
    let port = fixed_port();
    let (file, log) = (one.machine.path("tinyproxy.conf"), one.machine.path("tinyproxy.log"));
    let config = format!(
        "Port {port}\nListen 127.0.0.1\nTimeout 600\nMaxClients 100\nLogFile \"{}\"\nLogLevel Connect\nBasicAuth alice pass.word\nConnectPort {}\n",
        log.display(),
        one.web
    );
    std::fs::write(&file, config).unwrap();
    let mut tinyproxy = mortal("tinyproxy", "KILL");
    tinyproxy.arg("-d").arg("-c").arg(&file);
    let _tinyproxy = Running::start(tinyproxy, (Ipv4Addr::LOCALHOST, port).into());
    let connects = || {
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        log.lines().filter(|line| line.contains(&format!("CONNECT {elsewhere}:{} ", one.web))).count()
    };
    let by = |authority: &str| format!("http://{authority}127.0.0.1:{port}");
    let good = by("alice:pass%2Eword@");
    let web = format!("--proxy={elsewhere}:{}", one.web);
    let mut alice = one.user();
    let login = |proxy: &str| {
        let mut tsh = one.tsh(&["login", &web]);
        tsh.env("HTTPS_PROXY", proxy);
        tsh
    };
    alice.login(login(&good)).clean();
    let before = connects();
    assert!(before > 0, "{}", std::fs::read_to_string(&log).unwrap());
    let node = one.node(&elsewhere, |command| {
        command.env("https_proxy", &good);
    });
    one.works(|tsh| {
        tsh.env("HTTPS_PROXY", &good);
    });
    assert!(connects() > before);
    // Stock ssh, by what it begins of ours, and files.
    let config = one.machine.path("ssh_config");
    std::fs::write(&config, run(one.tsh(&["config"])).clean()).unwrap();
    let by_tsh = format!("ProxyCommand={} proxy ssh %r@%h:%p", own("tsh").get_program().display());
    let stock = |proxy: &str| {
        let mut ssh = Command::new("ssh");
        ssh.arg("-F").arg(&config).args(["-o", &by_tsh]).arg(format!("{}@node.test.local", own_login()));
        ssh.arg("echo by stock ssh").env("TELEPORT_HOME", one.machine.path("home")).env("HTTPS_PROXY", proxy);
        ssh.env_remove("SSH_AUTH_SOCK");
        run(ssh)
    };
    let before = connects();
    assert_eq!(stock(&good).clean(), "by stock ssh\n");
    assert!(connects() > before, "it went by the HTTP proxy");
    let wrong = stock(&by("alice:wrong@"));
    assert!(wrong.code() == 255 && wrong.out().is_empty(), "{wrong:?}");
    assert!(wrong.stderr.contains("does not accept the name and the password"), "{wrong:?}");
    let (from, to) = (one.machine.path("from"), one.machine.path("to"));
    std::fs::write(&from, "content").unwrap();
    let before = connects();
    let mut scp =
        one.tsh(&["scp", "-q", from.to_str().unwrap(), &format!("{}@node:{}", own_login(), to.display())]);
    scp.env("HTTPS_PROXY", &good);
    run(scp).clean();
    assert_eq!(std::fs::read_to_string(&to).unwrap(), "content");
    assert!(connects() > before, "it went by the HTTP proxy");
    // The programs that administer, too.
    let mut ls = one.tsh(&["ls"]);
    ls.env("HTTPS_PROXY", &good);
    assert!(run(ls).clean().contains("node"));
    let refused = |proxy: &str| {
        let mut tsh = one.tsh(&["ssh", "node", "true"]);
        tsh.env("HTTPS_PROXY", proxy);
        run(tsh).unreached()
    };
    let closed = fixed_port();
    for (proxy, says) in [
        (by(""), "407"),
        (by("alice:wrong@"), "does not accept the name and the password"),
        (format!("http://127.0.0.1:{closed}"), "HTTPS_PROXY"),
        (format!("socks5://127.0.0.1:{port}"), "is not the URL of an HTTP proxy"),
    ] {
        let line = refused(&proxy);
        assert!(line.contains(says) && !line.contains("wrong@"), "{proxy}: {line}");
    }
    // Not to any other port.
    let auth = one.cluster.address("auth").port();
    let (_, pin) = one.machine.token("cluster", &["--type=node"]);
    let mut other = one.tsh(&["login", &format!("--proxy={elsewhere}:{auth}"), &format!("--ca-pin={pin}")]);
    other.env("HTTPS_PROXY", &good);
    let output = alice.login(other);
    assert!(output.code() != 0 && output.stderr.contains("does not connect to"), "{output:?}");
    // Whom it is not for.
    one.works(|tsh| {
        tsh.env("HTTPS_PROXY", format!("http://127.0.0.1:{closed}"))
            .env("NO_PROXY", format!("example.com,{elsewhere}"));
    });
    node.stop();
}
