//! PAM: services of the host's real library, asked about sessions of every kind.

use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde_json::json;
use teleport_core::audit::EventKind;
use teleport_ssh::pam::{PamConfig, PamService};

use crate::processes::Three;
use crate::support::cluster::{CLUSTER, Home, TestCluster};
use crate::support::program::{Output, own, run};
use crate::support::{own_login, wait_for};

/// A cluster with a node that asks PAM, whose service can be changed.
struct Pam {
    cluster: TestCluster,
    home: Home,
    dir: tempfile::TempDir,
}

const SERVICE: &str = "teleport-test";

impl Pam {
    /// `None` where nobody can ask PAM.
    fn start(lines: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(SERVICE), lines).unwrap();
        let service = PamService::new(SERVICE).unwrap().in_directory(dir.path());
        let config = PamConfig::new(service).variable("LOGINS", "of-{{external.logins}}").unwrap();
        let config = config.variable("NOTHING", "{{external.nothing}}").unwrap();
        let cluster = TestCluster::start();
        cluster
            .add_node_as("node", "env=test", |node| node.pam = Some(config.variable("TEAM", "red").unwrap()));
        let home = cluster.alice();
        Some(Self { cluster, home, dir })
    }

    fn service(&self, lines: &str) {
        std::fs::write(self.dir.path().join(SERVICE), lines).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn ssh(&self, options: &[&str], command: &str) -> Command {
        let mut ssh = self.home.ssh();
        ssh.args(options).arg(format!("{}@node.{CLUSTER}", own_login())).arg(command);
        ssh
    }

    fn run(&self, options: &[&str], command: &str) -> Output {
        run(self.ssh(options, command))
    }

    /// What a module has written, once it has.
    fn written(&self, name: &str) -> String {
        wait_for(name, || {
            std::fs::read_to_string(self.path(name)).ok().filter(|text| text.ends_with("end\n"))
        })
    }
}

/// A module that writes what it sees into a file when a session opens, and another one when it closes.
fn writes(dir: &std::path::Path) -> String {
    let script = dir.join("script");
    let text = format!(
        "#!/bin/sh\n{{ echo $PAM_TYPE $PAM_USER $PAM_RHOST $PAM_RUSER $PAM_TTY; echo $TELEPORT_USERNAME $TELEPORT_LOGIN; \
         echo $TELEPORT_ROLES; echo $TEAM $LOGINS.$NOTHING; ls /proc/$PPID/fd | tr '\\n' ' '; echo; echo end; }} > {}/$PAM_TYPE\n",
        dir.display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    format!("session required pam_exec.so {}\n", script.display())
}

const PERMIT: &str = "account required pam_permit.so\nauth required pam_permit.so\n";

#[test]
fn modules_open_and_close_sessions_of_every_kind() {
    let Some(pam) = Pam::start(PERMIT) else { return };
    let (environment, limits) = (pam.path("environment"), pam.path("limits"));
    std::fs::write(&environment, "OF_PAM=yes\nHOME=/elsewhere\nSSH_CLIENT=nobody\n").unwrap();
    std::fs::write(&limits, "* - nofile 321\nroot - nofile 321\n* - nproc 4321\nroot - nproc 4321\n")
        .unwrap();
    let modules = format!(
        "{PERMIT}session required pam_env.so readenv=1 envfile={} user_readenv=0\nsession required pam_limits.so conf={}\n{}",
        environment.display(),
        limits.display(),
        writes(pam.dir.path())
    );
    pam.service(&modules);
    let look = "echo $OF_PAM $TEAM $TELEPORT_ROLES; ulimit -n; ulimit -u; [ $HOME = /elsewhere ] || echo home; echo ${SSH_CLIENT%% *}; exit 3";
    let done = pam.run(&[], look);
    let me = own_login();
    assert_eq!(
        (done.out(), done.code()),
        ("yes red access auditor editor\n321\n4321\nhome\n127.0.0.1\n", 3),
        "{done:?}"
    );
    for kind in ["open_session", "close_session"] {
        let said = pam.written(kind);
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines[0], format!("{kind} {me} 127.0.0.1 alice ssh"), "{said}");
        assert_eq!(lines[1], format!("alice {me}"));
        assert_eq!(lines[2], "access auditor editor");
        assert_eq!(lines[3], format!("red of-{me}."));
        std::fs::remove_file(pam.path(kind)).unwrap();
    }
    // A terminal is told, a signal ends the session's process, and its status is what the client hears.
    let done = pam.run(&["-tt"], "tty; stty size >/dev/null && echo terminal; kill -TERM $$");
    assert!(done.out().contains("terminal"), "{done:?}");
    let tty = done.out().lines().next().unwrap().trim().to_owned();
    assert!(pam.written("open_session").contains(&tty));
    pam.written("close_session");
    // Files, by both protocols.
    for options in [&[][..], &["-O"]] {
        for kind in ["open_session", "close_session"] {
            let _ = std::fs::remove_file(pam.path(kind));
        }
        let (from, to) = (pam.path("from"), pam.path("to"));
        std::fs::write(&from, "content").unwrap();
        let mut scp = Command::new("scp");
        scp.arg("-F").arg(&pam.home.ssh_config).args(options).arg(&from);
        scp.arg(format!("{me}@node.{CLUSTER}:{}", to.display()));
        run(scp).clean();
        assert_eq!(std::fs::read(&to).unwrap(), b"content");
        std::fs::remove_file(&to).unwrap();
        pam.written("open_session");
        pam.written("close_session");
    }
}

/// Row G4: nothing of the process that asks PAM, nor of the daemon, is in what runs.
#[test]
fn g4_what_runs_inherits_nothing_of_those_who_started_it() {
    let Some(pam) = Pam::start(&format!("{PERMIT}session required pam_permit.so\n")) else { return };
    let look = "ls /proc/self/fd | wc -l; cat /proc/self/oom_score_adj; umask; grep -E '^Sig(Blk|Ign)' /proc/self/status; ps -o sid= -p $$ | tr -d ' '; echo $$";
    let with = pam.run(&[], look);
    let lines: Vec<&str> = with.out().lines().collect();
    // `ls` has the directory open beside the three.
    assert_eq!(lines[..3], ["4", "0", "0022"], "{with:?}");
    for (at, name) in ["SigBlk", "SigIgn"].iter().enumerate() {
        assert_eq!(lines[3 + at], format!("{name}:\t0000000000000000"), "{with:?}");
    }
    assert_eq!(lines[5], lines[6], "it leads a session of its own");
}

/// The process that asks PAM, asked as a node asks it.
struct Helper {
    process: std::process::Child,
    node: UnixStream,
}

impl Helper {
    /// With a session for this account that is open.
    fn open(dir: &std::path::Path, (name, uid): (&str, u32)) -> Self {
        let (node, theirs) = UnixStream::pair().unwrap();
        let mut helper = own("teleport");
        helper.arg("pam-session").stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
        let mut helper = Self { process: helper.spawn().unwrap(), node };
        let service = json!({"name": SERVICE, "directory": dir.as_os_str().as_bytes()});
        let account =
            json!({"name": name, "uid": uid, "gid": uid, "groups": [uid], "home": b"/", "shell": b"/bin/sh"});
        helper.say(&json!({"Open": {"service": service, "account": account, "remote_host": "192.0.2.1",
            "remote_user": "alice", "terminal": null, "variables": []}}));
        assert!(helper.hear().get("Opened").is_some());
        helper
    }

    /// Starts a line of the shell in it, and says which process that is.
    fn start(&mut self, line: &str) -> i64 {
        let arguments = [&b"sh"[..], b"-c", line.as_bytes()];
        self.say(&json!({"Start":
            {"program": b"/bin/sh", "arguments": arguments, "environment": [], "terminal": false}}));
        let null = std::fs::File::options().read(true).write(true).open("/dev/null").unwrap();
        for _ in 0..3 {
            let descriptors = [null.as_raw_fd()];
            let rights = [ControlMessage::ScmRights(&descriptors)];
            let (bytes, flags) = ([IoSlice::new(&[0])], MsgFlags::empty());
            sendmsg::<()>(self.node.as_raw_fd(), &bytes, &rights, flags, None).unwrap();
        }
        self.hear()["Started"]["pid"].as_i64().unwrap()
    }

    fn say(&mut self, message: &serde_json::Value) {
        let text = message.to_string();
        let length = u32::try_from(text.len()).unwrap().to_be_bytes();
        self.node.write_all(&[&length, text.as_bytes()].concat()).unwrap();
    }

    fn hear(&mut self) -> serde_json::Value {
        let mut length = [0; 4];
        self.node.read_exact(&mut length).unwrap();
        let mut text = vec![0; u32::from_be_bytes(length).try_into().unwrap()];
        self.node.read_exact(&mut text).unwrap();
        serde_json::from_slice(&text).unwrap()
    }
}

/// Row G4: nor any right of it.
#[test]
fn g4_what_runs_has_the_ids_of_the_account_and_no_others() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    std::fs::write(dir.path().join(SERVICE), format!("{PERMIT}session required pam_permit.so\n")).unwrap();
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap().uid.as_raw();
    let mut helper = Helper::open(dir.path(), ("nobody", nobody));
    let file = dir.path().join("status");
    helper.start(&format!("cat /proc/self/status >{}; exit 7", file.display()));
    assert_eq!(helper.hear()["Ended"], json!({"code": 7, "signal": 0, "core_dumped": false}));
    let status = std::fs::read_to_string(file).unwrap();
    let has = |line: String| assert!(status.lines().any(|is| is.trim_end() == line), "{line}: {status}");
    has(format!("Uid:\t{nobody}\t{nobody}\t{nobody}\t{nobody}"));
    has(format!("Gid:\t{nobody}\t{nobody}\t{nobody}\t{nobody}"));
    has(format!("Groups:\t{nobody}"));
    has(format!("CapEff:\t{:016x}", 0));
    has(format!("CapPrm:\t{:016x}", 0));
    assert!(helper.process.wait().unwrap().success());
}

#[test]
fn whom_pam_refuses_gets_no_session_and_hears_no_more_than_that() {
    let Some(pam) = Pam::start(PERMIT) else { return };
    let motd = pam.path("motd");
    std::fs::write(&motd, "come back %u\n").unwrap();
    let echo = format!("pam_echo.so file={}", motd.display());
    let refused = |lines: &str, reason: &str| {
        pam.service(lines);
        let mark = pam.path("ran");
        for options in [&[][..], &["-tt"]] {
            let done = pam.run(options, &format!("touch {}", mark.display()));
            assert_eq!(done.code(), 254, "{done:?}");
            let told = [done.out(), &done.stderr].concat();
            assert!(told.contains("this host does not let the login begin a session"), "{told}");
            assert!(!told.contains("pam_"), "{told}");
        }
        assert!(!mark.exists());
        let is = |event: &teleport_core::audit::AuditEvent| {
            event.error.as_deref().unwrap_or_default().contains(reason)
        };
        let event = pam.cluster.event(EventKind::SessionRejected, is);
        assert_eq!(event.user.as_deref(), Some("alice"));
    };
    refused(
        "account required pam_deny.so\nauth required pam_permit.so\nsession required pam_permit.so\n",
        "pam_acct_mgmt",
    );
    refused(&format!("{PERMIT}session required pam_deny.so\n"), "pam_open_session");
    // A module that is not there, and a service that has gone.
    refused("account required pam_nonexistent.so\n", "pam_acct_mgmt");
    std::fs::remove_file(pam.path(SERVICE)).unwrap();
    let done = pam.run(&[], "true");
    assert_eq!(done.code(), 254, "{done:?}");

    // What modules say is shown where there is a terminal, in the place of the messages of the day.
    pam.service(&format!("{PERMIT}session optional {echo}\n"));
    let done = pam.run(&["-tt"], "echo in");
    assert!(done.out().contains(&format!("come back {}\r\n", own_login())), "{done:?}");
    let done = pam.run(&[], "echo in");
    assert_eq!((done.out(), done.code()), ("in\n", 0), "{done:?}");
}

#[test]
fn a_session_is_closed_when_its_client_goes() {
    let Some(pam) = Pam::start(PERMIT) else { return };
    pam.service(&format!("{PERMIT}{}", writes(pam.dir.path())));
    let up = pam.path("up");
    let mut ssh = pam.ssh(&[], &format!("touch {}; sleep 1000", up.display()));
    let mut ssh = ssh.stdin(Stdio::null()).spawn().unwrap();
    wait_for("the session", || up.exists().then_some(()));
    ssh.kill().unwrap();
    ssh.wait().unwrap();
    pam.written("close_session");
}

/// What a node that is killed leaves behind ends by itself: its end of a socket is closed, and nothing else is told.
#[test]
fn a_session_is_closed_when_its_node_is_killed() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(SERVICE), format!("{PERMIT}{}", writes(dir.path()))).unwrap();
    let mut helper = Helper::open(dir.path(), ("root", 0));
    let up = dir.path().join("up");
    // It hears no hang-up.
    let pid = helper.start(&format!("trap '' HUP; touch {}; while :; do sleep 0.1; done", up.display()));
    wait_for("the process", || up.exists().then_some(()));
    // The service manager's word is not for it: the session goes on as long as the node.
    let own = nix::unistd::Pid::from_raw(helper.process.id().try_into().unwrap());
    for signal in [nix::sys::signal::Signal::SIGTERM, nix::sys::signal::Signal::SIGHUP] {
        nix::sys::signal::kill(own, signal).unwrap();
    }
    drop(helper.node);
    assert!(helper.process.wait().unwrap().success());
    assert!(std::fs::read_to_string(dir.path().join("close_session")).unwrap().ends_with("end\n"));
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

/// The processes of this parent that run this command of the product.
fn children(of: nix::unistd::Pid, command: &str) -> Vec<i32> {
    let all = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let is_one = |pid: &i32| {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let parent = read("status").lines().any(|line| line == format!("PPid:\t{of}"));
        parent && read("cmdline").split('\0').any(|word| word == command)
    };
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_one).collect()
}

/// The whole daemon, as a loss of its process is: the modules of every session hear of its end, and nothing of it is left.
#[test]
fn sessions_are_closed_when_the_daemon_is_killed() {
    let may_mount = || Command::new("unshare").args(["-m", "true"]).status().is_ok_and(|done| done.success());
    if !nix::unistd::geteuid().is_root() || !may_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(SERVICE), format!("{PERMIT}{}", writes(dir.path()))).unwrap();
    let mut three = Three::start(false);
    three.node.take().unwrap().stop();
    let config = three.machine.path("node.yaml");
    let text = std::fs::read_to_string(&config).unwrap();
    let text = text.replace(
        "ssh_service:\n",
        &format!("ssh_service:\n  pam: {{enabled: yes, service_name: {SERVICE}}}\n"),
    );
    std::fs::write(&config, text).unwrap();
    let log = three.machine.path("node.log");
    let node = three.machine.start_with("node", &[], |teleport| {
        // The services of PAM are in a directory of this machine, which is another one for this daemon.
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", "mount --bind \"$0\" /etc/pam.d && exec \"$@\""]).arg(dir.path());
        command.arg(teleport.get_program()).args(teleport.get_args()).env_clear();
        command.envs(teleport.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(std::fs::File::create(&log).unwrap());
        command.process_group(0);
        *teleport = command;
    });
    three.works();
    wait_for("the end of that session", || children(node.pid(), "pam-session").is_empty().then_some(()));
    std::fs::remove_file(dir.path().join("close_session")).unwrap();
    let up = dir.path().join("up");
    // It hears no hang-up.
    let line =
        format!("trap '' HUP; echo $$ > {0}.new; mv {0}.new {0}; while :; do sleep 0.1; done", up.display());
    let mut ssh = three.ssh(&line).stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let shell: i32 = wait_for("the session", || std::fs::read_to_string(&up).ok()).trim().parse().unwrap();
    let helpers = children(node.pid(), "pam-session");
    assert_eq!(helpers.len(), 1, "one for each session");
    assert!(!dir.path().join("close_session").exists());
    node.kill();
    wait_for("the modules to hear of the end", || {
        let said = std::fs::read_to_string(dir.path().join("close_session"));
        said.ok().filter(|said| said.ends_with("end\n"))
    });
    for pid in [helpers[0], shell] {
        let is_there = || std::path::Path::new(&format!("/proc/{pid}")).exists();
        wait_for("the processes of the session to end", || (!is_there()).then_some(()));
    }
    assert_eq!(ssh.wait().unwrap().code(), Some(255));
}

#[test]
fn a_module_that_hangs_holds_up_its_session_for_a_while_and_nobody_else() {
    let Some(pam) = Pam::start(PERMIT) else { return };
    let (script, up) = (pam.path("hangs"), pam.path("up"));
    std::fs::write(&script, format!("#!/bin/sh\ntouch {}; exec sleep 40\n", up.display())).unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    pam.service(&format!("account required pam_exec.so {}\n", script.display()));
    let mut waiting = pam.ssh(&[], "true").stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the module", || up.exists().then_some(()));
    pam.service(&format!("{PERMIT}session required pam_permit.so\n"));
    let done = pam.run(&[], "echo in");
    assert_eq!(done.out(), "in\n", "{done:?}");
    assert_eq!(waiting.wait().unwrap().code(), Some(254));
    let is = |event: &teleport_core::audit::AuditEvent| {
        event.error.as_deref() == Some("PAM did not answer in time")
    };
    pam.cluster.event(EventKind::SessionRejected, is);
}

#[test]
fn a_node_does_not_start_with_a_service_that_is_not_there() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let cluster = TestCluster::start();
    let service = PamService::new("teleport-no-such-service").unwrap();
    let error = cluster.try_node_as("node", |node| node.pam = Some(PamConfig::new(service))).unwrap_err();
    assert!(error.contains("ssh_service.pam") && error.contains("teleport-no-such-service"), "{error}");
    assert!(!error.contains('\n'), "{error}");
}
