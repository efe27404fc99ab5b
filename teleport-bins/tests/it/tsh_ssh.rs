//! `tsh ssh` in the place of `ssh`, on one node and on many; and the small commands around it.

use std::io::{BufRead, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use serde_json::Value;
use teleport_core::audit::{AuditEvent, EventKind};

use crate::support::cluster::{CLUSTER, Home, TestCluster};
use crate::support::daemon::fixed_port;
use crate::support::program::{Output, run, run_with};
use crate::support::tmux::Terminal;
use crate::support::{own_login, wait_for};

fn tsh(home: &Home, arguments: &[&str]) -> Command {
    let mut tsh = home.tsh();
    tsh.args(arguments);
    tsh
}

fn json(output: Output) -> Value {
    serde_json::from_str(&output.clean()).unwrap()
}

/// Three nodes: `web-1` and `web-2` with `role=web`, `db` with `role=db`.
fn three_nodes() -> (TestCluster, Home) {
    let cluster = TestCluster::start();
    for (name, labels) in [("web-1", "role=web"), ("web-2", "role=web"), ("db", "role=db")] {
        cluster.add_node(name, &format!("env=test,{labels}"));
    }
    let home = cluster.alice();
    (cluster, home)
}

/// As `rsync` hands it over: a standard output that answers, when it is full, that it is.
#[test]
fn an_output_that_does_not_wait_loses_nothing() {
    let cluster = TestCluster::with_node();
    let home = cluster.alice();
    let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let mut command = tsh(&home, &["ssh", &format!("{}@node", own_login()), "head -c 3000000 /dev/zero"]);
    let mut ssh = command.stdin(Stdio::null()).stdout(OwnedFd::from(theirs)).spawn().unwrap();
    // With our copy of the stream.
    drop(command);
    // Until it is full; one that loses something ends.
    let mut first = [0; 1];
    ours.read_exact(&mut first).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    let mut rest = Vec::new();
    ours.read_to_end(&mut rest).unwrap();
    assert!(ssh.wait().unwrap().success());
    assert_eq!(rest.len(), 2_999_999);
}

#[test]
fn options_are_those_of_ssh() {
    let cluster = TestCluster::with_node();
    let home = cluster.alice();
    let login = own_login();
    let target = format!("{login}@node");
    // Nothing is read: the command sees an end at once.
    assert_eq!(run_with(tsh(&home, &["ssh", "-n", &target, "cat; echo end"]), b"typed").clean(), "end\n");
    assert_eq!(run_with(tsh(&home, &["ssh", &target, "cat"]), b"typed").clean(), "typed");
    let run_in =
        |options: &[&str], command: &str| run(tsh(&home, &[&["ssh"], options, &[&target, command]].concat()));
    // A node takes what its own list allows, of what is set and of what is sent.
    assert_eq!(run_in(&["-o", "SetEnv=LC_TEST=set"], "echo $LC_TEST").clean(), "set\n");
    assert!(run_in(&["-tt"], "tty").out().starts_with("/dev/pts/"));
    assert!(run_in(&["-o", "RequestTTY=force"], "tty").out().starts_with("/dev/pts/"));
    assert_eq!(run_in(&["-T"], "tty").out(), "not a tty\n");
    assert_eq!(
        run(tsh(&home, &["ssh", "-l", &login, "-c", CLUSTER, "-q", "node", "echo in"])).clean(),
        "in\n"
    );
    let by_option = ["ssh", "-o", &format!("User={login}"), "-o", "RemoteCommand=echo by option", "node"];
    assert_eq!(run(tsh(&home, &by_option)).clean(), "by option\n");
    // What a node does not give is told, and the session begins without. No node knows displays yet.
    let mut display = tsh(&home, &["ssh", "-Y", &target, "echo in $DISPLAY"]);
    let display = run({
        display.env("DISPLAY", ":77");
        display
    });
    assert_eq!((display.out(), display.code()), ("in\n", 0));
    assert_eq!(display.stderr, "WARNING: the node does not forward your display\n");
    assert!(run_in(&["-X"], "true").refusal().contains("DISPLAY is not set"));
    for code in [0, 1, 127, 255] {
        assert_eq!(run_in(&[], &format!("exit {code}")).code(), code);
    }
    assert_eq!(run_in(&[], "kill -TERM $$").code(), 143);
    assert_eq!(run_in(&[], "kill -KILL $$").code(), 137);
}

#[test]
fn whoever_cannot_be_reached_is_status_255_and_wrong_use_is_1() {
    let cluster = TestCluster::with_node();
    let home = cluster.alice();
    for (arguments, part) in [
        (vec!["absent", "true"], "absent"),
        (vec!["somebody-else@node", "true"], "somebody-else"),
        (vec!["-o", "ConnectTimeout=30", "absent"], "absent"),
    ] {
        let output = run(tsh(&home, &[&["ssh"], &arguments[..]].concat()));
        assert_eq!((output.code(), output.stderr.lines().count()), (255, 1), "{output:?}");
        assert!(output.stderr.starts_with("ERROR: ") && output.stderr.contains(part), "{output:?}");
    }
    for (arguments, part) in [
        (vec!["-o", "Nonsense=1", "node"], "does not have this option"),
        (vec!["-f", "node"], "-f"),
        (vec!["-N", "node", "true"], "-N"),
        (vec!["-L", "80:db", "node"], "port:host:hostport"),
        (vec!["-L", "0:db:80", "node"], "1 to 65535"),
        (vec!["-D", "80:db:80", "node"], "[bind_address:]port"),
        (vec!["-c", "other.example.com", "node"], "other.example.com"),
        (vec!["-e", "xyz", "node"], "--escape"),
        (vec!["--parallel", "0", "env=test", "true"], "--parallel"),
    ] {
        let line = run(tsh(&home, &[&["ssh"], &arguments[..]].concat())).refusal();
        assert!(line.contains(part), "{arguments:?}: {line}");
    }
    // A port of this machine that somebody has: told, and the session goes on, unless that is not wanted.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let forward = format!("-L{}:localhost:1", taken.local_addr().unwrap().port());
    let warned = run(tsh(&home, &["ssh", &forward, "node", "echo in"]));
    assert_eq!((warned.out(), warned.code()), ("in\n", 0));
    assert!(warned.stderr.starts_with("WARNING: cannot listen on "), "{warned:?}");
    let strict = run(tsh(&home, &["ssh", "-oExitOnForwardFailure=yes", &forward, "node", "echo in"]));
    assert!(strict.refusal().contains("cannot listen on "));
}

/// G6: nothing that stands in the place of a name becomes an option, a path or a line for a shell.
#[test]
fn g6_names_are_names_wherever_they_are_said() {
    let cluster = TestCluster::with_node();
    let home = cluster.alice();
    let canary = cluster.dir().join("canary");
    let evil = [
        format!("-oProxyCommand=touch {}", canary.display()),
        format!("$(touch {})", canary.display()),
        format!("`touch {}`", canary.display()),
        format!("a;touch {}", canary.display()),
        "a\nb".to_owned(),
        "a\u{1b}[2Jb".to_owned(),
        "../../etc/passwd".to_owned(),
        String::new(),
    ];
    for name in &evil {
        let login = format!("{name}@node");
        for arguments in [
            vec!["ssh", "--", name, "true"],
            vec!["ssh", "--", &login, "true"],
            vec!["ssh", "-l", name, "node", "true"],
            vec!["ssh", "-c", name, "node", "true"],
            vec!["proxy", "ssh", "--", name],
            vec!["proxy", "ssh", "--", &login],
            vec!["proxy", "ssh", "-c", name, "node"],
            vec!["resolve", "--", name],
            vec!["latency", "--count=1", "--", &login],
        ] {
            let output = run(tsh(&home, &arguments));
            let line = output.refusal();
            assert!(!line.contains('\u{1b}'), "{arguments:?}: {line}");
        }
        let mut by_proxy = home.tsh();
        by_proxy.arg(format!("--proxy={name}")).args(["ssh", "node", "true"]);
        // An empty one is none.
        if !name.is_empty() {
            run(by_proxy).refusal();
        }
        let labels = format!("env={name}");
        let output = run(tsh(&home, &["ssh", "--", &labels, "true"]));
        assert_eq!(output.code(), 1, "{output:?}");
    }
    // A label may have characters that mean something to shells, and means itself.
    assert!(!canary.exists());
}

#[test]
fn a_command_runs_on_all_nodes_with_the_labels() {
    let (cluster, home) = three_nodes();
    let login = own_login();
    let web = format!("{login}@role=web");
    let lines = |output: &Output| {
        let mut lines: Vec<String> = output.out().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let output = run(tsh(&home, &["ssh", &web, "echo one; printf two; echo err >&2"]));
    assert_eq!(lines(&output), ["web-1 | one", "web-1 | two", "web-2 | one", "web-2 | two"]);
    let mut errors: Vec<&str> = output.stderr.lines().collect();
    errors.sort_unstable();
    assert_eq!((errors, output.code()), (vec!["web-1 | err", "web-2 | err"], 0));
    // Many lines at the same time, in pieces: none is inside of another one.
    let chatter = "for i in $(seq 300); do printf %s aaaaaaaaaa; printf '%s\\n' bbbbbbbbbb; done";
    let output = run(tsh(&home, &["ssh", &format!("{login}@env=test"), chatter]));
    for name in ["web-1", "web-2", "db   "] {
        let line = format!("{name} | aaaaaaaaaabbbbbbbbbb");
        assert_eq!(output.out().lines().filter(|other| *other == line).count(), 300, "{name}");
    }
    assert_eq!((output.out().lines().count(), output.code()), (900, 0));
    // Who failed, and why; one after the other.
    let mixed = "test $SSH_TELEPORT_HOST_UUID = x && exit 3; case $(echo $SSH_SESSION_ID) in '') exit 4;; *) exit 3;; esac";
    let output = run(tsh(&home, &["ssh", "--parallel=1", &web, mixed]));
    let said: Vec<&str> = output.stderr.lines().collect();
    assert_eq!(output.code(), 1, "{output:?}");
    assert_eq!(
        said,
        ["ERROR: 2 of 2 nodes failed:", "  web-1  ended with status 3", "  web-2  ended with status 3"]
    );
    // Each refuses what it would refuse alone.
    let output = run(tsh(&home, &["ssh", "nobody-here@env=test", "true"]));
    assert_eq!(output.code(), 1);
    assert!(output.stderr.starts_with("ERROR: 3 of 3 nodes failed:"), "{output:?}");
    // A shell is for one: the list says which there are.
    for arguments in
        [vec!["ssh", &web], vec!["ssh", "-tt", &web, "true"], vec!["ssh", "-L1:a:1", &web, "true"]]
    {
        let output = run(tsh(&home, &arguments));
        assert_eq!(output.code(), 1);
        assert!(output.stderr.contains("Node Name Node ID") && output.stderr.contains("web-2"), "{output:?}");
        assert!(output.stderr.contains("ERROR: only commands run on several nodes"), "{output:?}");
    }
    assert_eq!(run(tsh(&home, &["ssh", &format!("{login}@role=db"), "echo alone"])).clean(), "alone\n");
    wait_for("an event of each command at each node", || {
        let is = |event: &AuditEvent| {
            matches!(event.code, EventKind::Exec | EventKind::ExecFailure)
                && event.user.as_deref() == Some("alice")
        };
        (cluster.events(is).len() == 8).then_some(())
    });
}

#[test]
fn a_command_goes_to_the_background_once_it_runs() {
    let cluster = TestCluster::with_node();
    let home = cluster.alice();
    let (go, done) = (cluster.dir().join("go"), cluster.dir().join("done"));
    let command = format!(
        "echo begun; until [ -e {go} ]; do sleep 0.05; done; touch {done}",
        go = go.display(),
        done = done.display()
    );
    // It returns while the command still waits. What the command prints may come later: a file takes it.
    let printed = std::fs::File::create(cluster.dir().join("printed")).unwrap();
    let mut background = tsh(&home, &["ssh", "-f", "node", &command]);
    background.stdout(printed.try_clone().unwrap()).stderr(printed).stdin(Stdio::null());
    assert!(background.status().unwrap().success());
    assert!(!done.exists());
    std::fs::write(&go, "").unwrap();
    wait_for("the command in the background", || done.exists().then_some(()));
    // Whoever cannot be reached is told in the foreground.
    let refused = run(tsh(&home, &["ssh", "-f", "absent", "true"]));
    assert_eq!(refused.code(), 255);
    assert!(refused.stderr.starts_with("ERROR: ") && refused.stderr.contains("absent"), "{refused:?}");
    // Without a session nobody keeps the output open: this would wait for its end.
    run(tsh(&home, &["ssh", "--no-resume", "-f", "-N", "node"])).clean();
}

#[test]
fn the_terminal_is_as_before_after_every_way_out() {
    let cluster = TestCluster::with_node();
    let home = cluster.alice();
    let line = |command: &str| {
        format!(
            "stty -a > {before}; TELEPORT_HOME={home} {tsh} ssh {login}@node {command}; stty -a > {after}; cmp {before} {after} && echo same-$((1+1))",
            before = cluster.dir().join("before").display(),
            after = cluster.dir().join("after").display(),
            home = home.dir.display(),
            tsh = env!("CARGO_BIN_EXE_tsh"),
            login = own_login(),
        )
    };
    // Left by the escape.
    let terminal = Terminal::open(&line(""));
    terminal.type_line("echo ready-$((1+1))");
    terminal.wait_for("ready-2", 1);
    terminal.type_line("");
    terminal.press("~");
    terminal.press("?");
    terminal.wait_for("list what is forwarded", 1);
    terminal.press("~");
    terminal.press("#");
    terminal.wait_for("open connections: nothing", 1);
    terminal.press("~");
    terminal.press(".");
    terminal.wait_for("same-2", 1);
    // Ended by signals from outside.
    for signal in ["TERM", "HUP", "INT", "QUIT"] {
        let terminal = Terminal::open(&line(""));
        terminal.type_line("echo ready-$((1+1))");
        terminal.wait_for("ready-2", 1);
        // The process of this terminal alone.
        let pid = terminal.run(&["display-message", "-p", "#{pane_pid}"]);
        let children = run({
            let mut ps = Command::new("ps");
            ps.args(["-o", "pid=,comm=", "--ppid", pid.trim()]);
            ps
        });
        let tsh = children.out().lines().find(|line| line.trim_end().ends_with("tsh")).map(str::to_owned);
        let tsh = tsh.unwrap_or_else(|| panic!("tsh runs: {children:?}"));
        let id = tsh.split_whitespace().next().unwrap().to_owned();
        let mut kill = Command::new("kill");
        kill.args([&format!("-{signal}"), &id]);
        run(kill).clean();
        terminal.wait_for("same-2", 1);
    }
}

#[test]
fn nodes_are_resolved_without_a_connection() {
    let (cluster, home) = three_nodes();
    let found = |what: &str| json(run(tsh(&home, &["resolve", "--format=json", what])));
    let db = &found("db")[0];
    let id = db["host_id"].as_str().unwrap();
    assert_eq!(db["name"], "db");
    for what in [id, &format!("db.{CLUSTER}"), "role=db", &format!("{}@db", own_login())] {
        assert_eq!(found(what)[0]["host_id"], id, "{what}");
    }
    assert_eq!(found("role=web").as_array().unwrap().len(), 2);
    assert!(run(tsh(&home, &["resolve", "db"])).clean().contains(id));
    assert!(run(tsh(&home, &["resolve", "absent"])).refusal().contains("tsh ls"));
    cluster.add_node("db", "env=test");
    let ambiguous = run(tsh(&home, &["resolve", "db"]));
    assert_eq!(ambiguous.code(), 1);
    assert!(ambiguous.stderr.contains("Node Name Node ID") && ambiguous.stderr.contains(id), "{ambiguous:?}");
    assert!(cluster.events(|event| event.code == EventKind::Port).is_empty(), "nobody was dialled");
}

#[test]
fn round_trips_are_measured_and_the_shell_learns_the_proxy() {
    let cluster = TestCluster::with_node();
    let home = cluster.alice();
    let measured =
        json(run(tsh(&home, &["latency", "--count=3", "--interval=0.01", "--format=json", "node"])));
    for end in ["proxy_ms", "node_ms"] {
        assert_eq!(measured[end]["all"].as_array().unwrap().len(), 3, "{measured}");
        assert!(measured[end]["min"].as_f64().unwrap() <= measured[end]["max"].as_f64().unwrap());
    }
    let live = run(tsh(&home, &["latency", "-c2", "--interval=0.01", "node"])).clean();
    assert_eq!(
        live.lines().filter(|line| line.starts_with("proxy ") && line.contains("node")).count(),
        2,
        "{live}"
    );
    assert!(live.contains("2 round trips"), "{live}");
    assert_eq!(run(tsh(&home, &["latency", "-c1", "absent"])).code(), 1);

    let lines = run(tsh(&home, &["env"])).clean();
    let proxy = format!("export TELEPORT_PROXY={}", cluster.web());
    assert_eq!(lines, format!("{proxy}\nexport TELEPORT_CLUSTER={CLUSTER}\n"));
    assert_eq!(json(run(tsh(&home, &["env", "--format=json"])))["TELEPORT_CLUSTER"], CLUSTER);
    assert_eq!(
        run(tsh(&home, &["env", "--unset"])).clean(),
        "unset TELEPORT_PROXY\nunset TELEPORT_CLUSTER\n"
    );
    let clusters = json(run(tsh(&home, &["clusters", "--format=json"])));
    assert_eq!((&clusters[0]["cluster_name"], &clusters[0]["status"]), (&CLUSTER.into(), &"online".into()));
}

/// `ssh` with nothing but an agent.
fn only_by_agent(cluster: &TestCluster, home: &Home) -> Command {
    let config: String = std::fs::read_to_string(&home.ssh_config)
        .unwrap()
        .split_inclusive('\n')
        .filter(|line| {
            !["IdentityFile", "CertificateFile", "IdentitiesOnly"].iter().any(|key| line.contains(key))
        })
        .collect();
    let file = cluster.dir().join("agent_config");
    std::fs::write(&file, config).unwrap();
    let mut tsh = home.tsh();
    tsh.args(["agent", "--", "ssh", "-F"]).arg(&file).args(["-o", "IdentityFile=/nonexistent"]);
    tsh.arg(format!("{}@node.{CLUSTER}", own_login()));
    tsh
}

#[test]
fn an_agent_of_ours_is_enough_for_stock_ssh() {
    let cluster = TestCluster::with_node();
    let home = cluster.alice();
    let mut ssh = only_by_agent(&cluster, &home);
    ssh.arg("echo by agent; exit 5");
    let output = run(ssh);
    assert_eq!((output.out(), output.code()), ("by agent\n", 5), "{}", output.stderr);
    let listed = run(tsh(&home, &["agent", "--", "ssh-add", "-l"])).clean();
    assert!(listed.contains("teleport test.local alice (ED25519-CERT)"), "{listed}");
    // Nothing but lists and logins.
    for refused in
        [&["ssh-add", "-D"][..], &["ssh-add", "-x"], &["ssh-keygen", "-Y", "sign", "-n", "file", "-f", "key"]]
    {
        let mut tsh = tsh(&home, &[&["agent", "--"], refused].concat());
        tsh.current_dir(home.dir.join(std::fs::read_to_string(home.dir.join("current")).unwrap().trim()));
        assert_ne!(run_with(tsh, b"1234\n1234\n").code(), 0, "{refused:?}");
    }
    // In the background, as ssh-agent.
    let script = format!(
        "eval $({tsh} agent) > /dev/null; ssh-add -l; stat -c %a $SSH_AUTH_SOCK $(dirname $SSH_AUTH_SOCK); \
         {tsh} logout > /dev/null; ssh-add -l; kill $SSH_AGENT_PID; while [ -e $SSH_AUTH_SOCK ]; do sleep 0.05; done; \
         test -e $(dirname $SSH_AUTH_SOCK) || echo gone",
        tsh = env!("CARGO_BIN_EXE_tsh")
    );
    let mut shell = home.tsh();
    let environment: Vec<_> =
        shell.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect();
    shell = Command::new("sh");
    shell.arg("-c").arg(script).env_clear().envs(environment);
    let said = run(shell);
    let lines: Vec<&str> = said.out().lines().collect();
    assert!(lines[0].contains("(ED25519-CERT)"), "{said:?}");
    assert_eq!(lines[1..], ["600", "700", "The agent has no identities.", "gone"], "{said:?}");
}

#[test]
fn an_agent_listens_where_it_is_told_and_ends_with_its_command() {
    let cluster = TestCluster::with_node();
    let home = cluster.alice();
    let socket = cluster.dir().join("agent");
    let at = socket.to_str().unwrap();
    let said = run(tsh(&home, &["agent", "-a", at, "--", "sh", "-c", "echo $SSH_AUTH_SOCK; kill -TERM $$"]));
    assert_eq!((said.out(), said.code()), (format!("{at}\n").as_str(), 143));
    assert!(!socket.exists());
    std::fs::write(&socket, "").unwrap();
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(run(tsh(&home, &["agent", "-a", at, "--", "true"])).refusal().contains("cannot listen on"));
    assert!(run(tsh(&home, &["agent", "--", "/nonexistent"])).refusal().contains("cannot run /nonexistent"));
}

/// What echoes upper case, on a port of this machine.
fn shouting() -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || {
                let (mut stream, mut said) = (stream.unwrap(), String::new());
                stream.read_to_string(&mut said).unwrap();
                stream.write_all(said.to_uppercase().as_bytes()).unwrap();
            });
        }
    });
    address
}

#[track_caller]
fn shouts(at: (&str, u16)) {
    let mut stream = wait_for("the forward", || TcpStream::connect(at).ok());
    stream.write_all(b"hello").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert_eq!(said, "HELLO");
}

#[test]
fn ports_are_forwarded_both_ways_and_from_the_background() {
    let cluster = TestCluster::with_node();
    let home = cluster.alice();
    let server = shouting();
    let (here, socks, there) = (fixed_port(), fixed_port(), fixed_port());
    let mut forwarding = tsh(&home, &["ssh", "--no-resume", "-f", "-N", "-oExitOnForwardFailure=yes"]);
    forwarding.arg(format!("-L{here}:{server}")).arg(format!("-D{socks}")).arg(format!("-R{there}:{server}"));
    forwarding.arg("node");
    // It returns when all stand.
    run(forwarding).clean();
    shouts(("127.0.0.1", here));
    shouts(("::1", here));
    shouts(("127.0.0.1", there));
    let mut stream = TcpStream::connect(("127.0.0.1", socks)).unwrap();
    let request =
        [b"\x04\x01".to_vec(), server.port().to_be_bytes().to_vec(), b"\x7f\0\0\x01\0".to_vec()].concat();
    stream.write_all(&[&request[..], b"hello"].concat()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut said = Vec::new();
    stream.read_to_end(&mut said).unwrap();
    assert_eq!((said[1], &said[8..]), (90, &b"HELLO"[..]));
    // A second one cannot listen there as well, and says so in the foreground.
    let mut again = tsh(&home, &["ssh", "-f", "-N", "-oExitOnForwardFailure=yes"]);
    again.arg(format!("-R{there}:{server}")).arg("node");
    assert!(run(again).stderr.contains("the node refused to listen on"));
    // Beside a session, on a port that the node chooses.
    let mut asked = tsh(&home, &["ssh", "-n"]);
    asked.arg(format!("-R0:{server}")).args(["node", "true"]);
    let asked = run(asked);
    assert!(asked.stderr.starts_with("Allocated port "), "{asked:?}");
    // The background ends with the connection.
    drop(cluster);
    wait_for("the end of the background", || TcpStream::connect(("127.0.0.1", here)).is_err().then_some(()));
}

#[test]
fn agents_and_sockets_are_forwarded_by_our_nodes_too() {
    let cluster = TestCluster::with_node();
    let home = cluster.alice();
    let listed = |options: &[&str]| run(tsh(&home, &[&["ssh"], options, &["node", "ssh-add -l"]].concat()));
    let own = listed(&["-oForwardAgent=local"]);
    assert!(own.out().contains("teleport test.local alice (ED25519-CERT)"), "{own:?}");
    // No agent runs here, so -A means the same.
    assert_eq!(listed(&["-A"]).out(), own.out());
    assert_eq!(listed(&[]).code(), 2);
    // From a socket here to one of the node, which leads back.
    let [here, there] = ["here", "there"].map(|name| cluster.dir().join(name));
    let mut forwarding = tsh(&home, &["ssh", "--no-resume", "-f", "-N", "-oExitOnForwardFailure=yes"]);
    let server = shouting();
    forwarding.arg(format!("-R{}:{server}", there.display()));
    forwarding.arg(format!("-L{}:{}", here.display(), there.display())).arg("node");
    run(forwarding).clean();
    let mut stream = std::os::unix::net::UnixStream::connect(&here).unwrap();
    stream.write_all(b"hello").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert_eq!(said, "HELLO");
}

#[test]
fn what_goes_through_a_forward_outlives_the_session() {
    let cluster = TestCluster::with_node();
    let home = cluster.alice();
    let (server, here) = (shouting(), fixed_port());
    let (up, go) = (cluster.dir().join("up"), cluster.dir().join("go"));
    let command = format!("touch {}; until [ -e {} ]; do sleep 0.05; done", up.display(), go.display());
    let mut session = tsh(&home, &["ssh", "-n", &format!("-L{here}:{server}"), "node", &command]);
    let mut session = session.stderr(Stdio::piped()).spawn().unwrap();
    wait_for("the session", || up.exists().then_some(()));
    let mut stream = TcpStream::connect(("127.0.0.1", here)).unwrap();
    stream.write_all(b"begun").unwrap();
    std::fs::write(&go, "").unwrap();
    let mut said = String::new();
    std::io::BufReader::new(session.stderr.take().unwrap()).read_line(&mut said).unwrap();
    assert!(said.starts_with("Waiting for forwarded connections"), "{said}");
    stream.write_all(b" and ended").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert_eq!(said, "BEGUN AND ENDED");
    assert!(session.wait().unwrap().success());
}
