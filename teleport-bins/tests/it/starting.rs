//! A daemon that cannot start says why in one clear line.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use crate::support::daemon::{Machine, Services, mode};
use crate::support::program::{own, run};

/// A cluster in one process, on ports that the system chooses.
const ALL: Services<'static> = Services { auth: Some(0), proxy: Some((0, 0)), node: Some((0, "")) };

#[test]
fn a_busy_port_is_named() {
    let machine = Machine::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for (services, what) in [
        (Services { auth: Some(port), ..ALL }, "auth"),
        (Services { proxy: Some((port, 0)), ..ALL }, "proxy"),
        (Services { proxy: Some((0, port)), ..ALL }, "proxy"),
        (Services { node: Some((port, "")), ..ALL }, "node"),
    ] {
        machine.configure("all", "", &services.yaml());
        let line = machine.cannot_start("all", &[]);
        assert!(line.contains(&format!("127.0.0.1:{port}")) && line.contains(what), "{line}");
        assert!(line.contains("in use"), "{line}");
    }
}

#[test]
fn a_configuration_that_cannot_be_read_is_explained_with_its_line() {
    let machine = Machine::new();
    for (text, parts) in [
        ("teleport:\n  nodname: x\n", vec!["line 2", "nodname", "did you mean `nodename`?"]),
        ("ssh_service:\n  enabled: perhaps\n", vec!["line 2", "yes or no"]),
        ("teleport:\n  nodename: [\n", vec!["line"]),
        ("version: v9\n", vec!["v9", "version: v3"]),
        ("teleport:\n  ca_pin: sha256:zz\n", vec!["tctl status"]),
        ("auth_service:\n  listen_addr: here\n", vec!["auth_service.listen_addr", "here"]),
        ("teleport:\n  log:\n    severity: loud\n", vec!["teleport.log.severity", "loud"]),
        ("teleport:\n  storage:\n    type: tape\n", vec!["storage.type", "tape"]),
        ("teleport:\n  nodename: \"a b\"\n", vec!["nodename"]),
        (
            "auth_service:\n  enabled: no\nproxy_service:\n  enabled: no\nssh_service:\n  enabled: no\n",
            vec!["every service is disabled"],
        ),
        ("\u{0}\u{1}\u{2}", vec!["bad.yaml"]),
    ] {
        std::fs::write(machine.path("bad.yaml"), text).unwrap();
        let line = machine.cannot_start("bad", &[]);
        for part in parts {
            assert!(line.contains(part), "{text:?}: {line}");
        }
    }
    let line = machine.cannot_start("absent", &[]);
    assert!(line.contains("absent.yaml") && line.contains("No such file"), "{line}");
    std::fs::write(machine.path("bytes.yaml"), [0xff, 0xfe, 0x00]).unwrap();
    assert!(machine.cannot_start("bytes", &[]).contains("bytes.yaml"));
    std::fs::create_dir(machine.path("dir.yaml")).unwrap();
    assert!(machine.cannot_start("dir", &[]).contains("dir.yaml"));
}

#[test]
fn a_data_directory_is_of_one_daemon_and_of_its_user() {
    let machine = Machine::new();
    machine.configure("all", "", &ALL.yaml());
    let running = machine.start("all", &[]);
    let line = machine.cannot_start("all", &[]);
    assert!(line.contains(&format!("another daemon uses it (process {})", running.pid())), "{line}");
    running.stop();
    let root = nix::unistd::geteuid().is_root();
    let foreign = machine.path("foreign");
    std::fs::create_dir(&foreign).unwrap();
    if root {
        std::os::unix::fs::chown(&foreign, Some(65_534), None).unwrap();
    }
    let foreign = if root { foreign } else { "/".into() };
    let line = machine.cannot_start("all", &[&format!("--data-dir={}", foreign.display())]);
    assert!(line.contains("belongs to the user id") && line.contains("say another --data-dir"), "{line}");
    // Where nothing can be written, also by root.
    let line = machine.cannot_start("all", &["--data-dir=/proc/self/none"]);
    assert!(line.contains("/proc/self/none cannot be used"), "{line}");
    std::fs::write(machine.path("file"), "").unwrap();
    let file = format!("--data-dir={}", machine.path("file").display());
    assert!(machine.cannot_start("all", &[&file]).contains("cannot be used"));
    if !root {
        let read_only = machine.path("read-only");
        std::fs::create_dir(&read_only).unwrap();
        std::fs::set_permissions(&read_only, std::fs::Permissions::from_mode(0o500)).unwrap();
        let line = machine.cannot_start("all", &[&format!("--data-dir={}", read_only.display())]);
        assert!(line.contains("cannot be used") && line.contains("Permission denied"), "{line}");
    }
}

#[test]
fn state_that_was_damaged_is_refused_and_not_replaced() {
    let machine = Machine::new();
    machine.configure("all", "", &ALL.yaml());
    machine.start("all", &[]).stop();
    let key = machine.path("all").join("master.key");
    let good = std::fs::read(&key).unwrap();
    for bad in [b"short".to_vec(), vec![7; 32]] {
        std::fs::write(&key, &bad).unwrap();
        let line = machine.cannot_start("all", &[]);
        assert!(line.len() < 500, "{line}");
        assert_eq!(std::fs::read(&key).unwrap(), bad, "it is left as it was");
    }
    std::fs::write(&key, good).unwrap();
    let database = machine.path("all").join("backend.redb");
    let good = std::fs::read(&database).unwrap();
    std::fs::write(&database, b"this is no database").unwrap();
    let line = machine.cannot_start("all", &[]);
    assert!(line.contains("backend.redb"), "{line}");
    assert_eq!(std::fs::read(&database).unwrap(), b"this is no database");
    std::fs::write(&database, good).unwrap();
    machine.start("all", &[]).stop();
}

/// Row I4: whatever the mask says, nobody else can read what a daemon keeps.
#[test]
fn what_it_keeps_is_private_whatever_the_umask() {
    let machine = Machine::new();
    machine.configure("all", "", &ALL.yaml());
    let script = machine.path("umask");
    std::fs::write(&script, "umask 000; exec \"$@\"").unwrap();
    let process = machine.start_with("all", &[], |command| {
        let mut under = std::process::Command::new("sh");
        under.arg(&script).arg(command.get_program()).args(command.get_args()).env_clear();
        under.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let log = std::fs::File::create(machine.path("all.log")).unwrap();
        under.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null()).stderr(log);
        *command = under;
    });
    machine.wait_for_nodes("all", 1);
    let data = machine.path("all");
    assert_eq!(mode(&data), 0o700);
    let mut open = vec![data];
    let mut files = 0;
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                assert_eq!(mode(&path), 0o700, "{}", path.display());
                open.push(path);
            } else {
                assert_eq!(mode(&path), 0o600, "{}", path.display());
                files += 1;
            }
        }
    }
    assert!(files >= 6, "keys, identities, database, audit log: {files}");
    process.stop();
}

#[test]
fn what_configure_prints_is_accepted_by_start() {
    let machine = Machine::new();
    let data = machine.path("data");
    let mut configure = own("teleport");
    configure.args([
        "configure",
        "--nodename=web-1",
        "--labels=env=prod,team=a b",
        "--cluster-name=test.local",
    ]);
    configure.arg(format!("--data-dir={}", data.display()));
    let printed = run(configure).clean();
    // The ports of the sample may be taken on this machine; nothing else is changed.
    let printed = ["3022", "3023", "3025", "3080"]
        .iter()
        .fold(printed, |text, port| text.replace(&format!(" 0.0.0.0:{port}\n"), " 127.0.0.1:0\n"));
    assert_eq!(printed.matches("127.0.0.1:0").count(), 4, "{printed}");
    std::fs::write(machine.path("sample.yaml"), &printed).unwrap();
    let process = machine.start("sample", &[]);
    assert!(process.logged().contains("serves the cluster test.local"), "{}", process.logged());
    machine.wait_for_nodes("data", 1);
    assert!(machine.tctl("data", &["nodes", "ls", "team=a b"]).clean().contains("web-1"));
    // What it says to do next can be pasted.
    let next = process.logged();
    let line = next.lines().find(|line| line.contains(" status ")).unwrap().trim();
    let command = line.split_once("  ").unwrap().0.replacen("tctl", env!("CARGO_BIN_EXE_tctl"), 1);
    assert!(run(crate::support::program::shell(&command)).clean().contains("test.local"));
    process.stop();
}

#[test]
fn completions_and_help_are_there_for_every_program() {
    for program in ["teleport", "tsh", "tctl"] {
        for shell in ["bash", "zsh", "fish"] {
            let mut completion = own(program);
            completion.args(["completion", shell]);
            let script = run(completion).clean();
            assert!(script.contains(program), "{program} {shell}");
            if shell == "bash" {
                let mut bash = std::process::Command::new("bash");
                bash.arg("-n");
                let checked = crate::support::program::run_with(bash, script.as_bytes());
                assert_eq!(checked.clean(), "", "bash can read it");
            }
        }
        let mut help = own(program);
        help.arg("--help");
        assert!(run(help).clean().contains("Usage:"));
        let mut version = own(program);
        version.arg("version");
        assert!(run(version).clean().starts_with(program));
    }
    // Pages that the program for pages can read, one for each command.
    for (program, page) in
        [("teleport", "teleport-start.1"), ("tsh", "tsh-ssh.1"), ("tctl", "tctl-users-add.1")]
    {
        let dir = tempfile::TempDir::new().unwrap();
        let mut man = own(program);
        man.arg("man").arg(dir.path());
        assert_eq!(run(man).clean(), "");
        let text = std::fs::read_to_string(dir.path().join(page)).unwrap();
        assert!(text.contains(".TH") && text.contains(".SH OPTIONS"), "{page}: {text}");
        let mut man = own(program);
        man.arg("man");
        assert!(run(man).clean().contains(".TH"));
        let mut man = own(program);
        man.arg("man").arg(dir.path().join("absent"));
        assert!(run(man).refusal().contains("cannot be written"));
    }
    let mut status = own("teleport");
    status.arg("status");
    assert!(run(status).refusal().contains("SSH_SESSION_ID"));
}

/// Nobody runs a cluster on passwords alone without being told, and weak hashing is refused.
#[test]
fn passwords_alone_are_warned_of_at_each_start() {
    let machine = Machine::new();
    let with = |line: &str| {
        let yaml = ALL.yaml().replace("auth_service:\n", &format!("auth_service:\n  {line}\n"));
        machine.configure("all", "", &yaml);
    };
    let logged = || {
        let process = machine.start("all", &[]);
        let logged = process.logged();
        process.stop();
        logged
    };
    with("authentication: {second_factor: off}");
    for _ in 0..2 {
        let logged = logged();
        assert!(logged.contains("WARN") && logged.contains("THE SECOND FACTOR IS OFF"), "{logged}");
    }
    with("authentication: {second_factor: otp}");
    assert!(!logged().contains("SECOND FACTOR"));
    with("password_hashing: {memory: 1MiB}");
    let line = machine.cannot_start("all", &[]);
    assert!(line.contains("auth_service.password_hashing") && line.contains("too weak"), "{line}");
    with("authentication: {second_factor: none}");
    assert!(machine.cannot_start("all", &[]).contains("write otp, or off for tests"));
}
