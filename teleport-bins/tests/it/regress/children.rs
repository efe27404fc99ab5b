//! What a node starts, and how: rows G2, G3, G4, G7 and G8 of the list of threats, at a daemon of root as it is used.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};

use crate::hostile::Target;
use crate::support::program::run;
use crate::support::wire::Message;
use crate::support::{own_login, wait_for};
use crate::wire::{Wired, exec};

/// An account of this machine that exists as long as the value.
struct Throwaway {
    login: String,
}

impl Throwaway {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let this = Self { login: format!("tpit{}-{number}", std::process::id()) };
        change_accounts("useradd", &["-m", "-s", "/bin/sh", "-p", "*", "-G", "users,mail", &this.login]);
        this
    }

    fn user(&self) -> User {
        User::from_name(&self.login).unwrap().unwrap()
    }
}

impl Drop for Throwaway {
    fn drop(&mut self) {
        change_accounts("userdel", &["-r", "-f", &self.login]);
    }
}

/// Such programs fail at once where another one holds the lock of the account files.
fn change_accounts(program: &str, arguments: &[&str]) {
    wait_for("the lock of the accounts", || {
        let mut command = Command::new(program);
        command.args(arguments).env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin");
        let output = run(command);
        let done = output.code() == 0;
        assert!(done || output.stderr.contains("lock"), "{program} {arguments:?}: {output:?}");
        done.then_some(())
    });
}

/// A daemon of root, somebody who may be `user` there, and one program of each kind that a node starts, all of them running.
struct Busy {
    clients: Vec<Child>,
    target: Target,
    user: Throwaway,
    config: PathBuf,
}

impl Busy {
    /// `None` where the tests do not run as root: a node serves its own account alone then.
    fn daemon() -> Option<Self> {
        if !geteuid().is_root() {
            return None;
        }
        let user = Throwaway::new();
        let mut target = Target::with_logins(&format!("{},{}", own_login(), user.login));
        target.healthy();
        let config = target.machine.path("ssh_config");
        std::fs::write(&config, run(target.tsh(&["config"])).clean()).unwrap();
        Some(Self { clients: Vec::new(), target, user, config })
    }

    fn host(&self) -> String {
        format!("{}@all.test.local", self.user.login)
    }

    /// A program that keeps running; it is waited for until it has made what it should.
    fn begin(&mut self, program: &str, options: &[&str], rest: &[&str]) {
        let mut command = Command::new(program);
        command.arg("-F").arg(&self.config).args(options).arg(self.host()).args(rest);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).env_remove("SSH_AUTH_SOCK");
        // `-f` would not stay ours, and an agent is wanted.
        let socket = self.target.machine.path("agent");
        if options.contains(&"-A") {
            let mut agent = Command::new("ssh-agent");
            agent.arg("-D").arg("-a").arg(&socket).stdout(Stdio::null());
            self.clients.push(agent.spawn().unwrap());
            wait_for("the agent", || socket.exists().then_some(()));
            command.env("SSH_AUTH_SOCK", &socket);
        }
        self.clients.push(command.spawn().unwrap());
    }

    fn begin_all(&mut self) {
        let home = self.user.user().dir;
        let forward = format!("{}/listens:/nonexistent", home.display());
        self.begin("ssh", &[], &["exec sleep 1001"]);
        self.begin("ssh", &["-tt"], &["exec sleep 1002"]);
        self.begin("ssh", &["-A"], &["exec sleep 1003"]);
        self.begin("ssh", &["-N", "-R", &forward], &[]);
        self.begin("sftp", &["-q"], &[]);
        let wanted = ["sleep\x001001", "sleep\x001002", "sleep\x001003", "sftp", "listen", "agent"];
        let uid = self.user.user().uid.to_string();
        wait_for("one of each kind", || {
            let children = self.children();
            let lines: Vec<String> = children.iter().map(|child| text(child, "cmdline")).collect();
            let there = wanted.iter().all(|wanted| lines.iter().any(|line| line.contains(wanted)));
            // What opens sockets begins as root's, and becomes the login's by itself.
            let theirs = children.iter().all(|child| field(&text(child, "status"), "Uid:").contains(&uid));
            (there && theirs).then_some(())
        });
    }

    fn pid(&self) -> String {
        self.target.process.pid().to_string()
    }

    /// The processes that the daemon has started.
    fn children(&self) -> Vec<String> {
        let entries = std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let numbers = entries.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
        numbers.filter(|number| field(&text(number, "status"), "PPid:") == [self.pid()]).collect()
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for client in &mut self.clients {
            let _ = client.kill();
            let _ = client.wait();
        }
    }
}

fn text(process: &str, name: &str) -> String {
    let bytes = std::fs::read(Path::new("/proc").join(process).join(name)).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn field(status: &str, name: &str) -> Vec<String> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().map(str::to_owned).collect()
}

/// What the descriptors from this number on lead to.
fn open_files(process: &str, from: u32) -> BTreeMap<u32, PathBuf> {
    let entries = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().filter_map(Result::ok);
    let numbers = entries.filter_map(|entry| {
        let number = entry.file_name().to_str()?.parse().ok()?;
        Some((number, entry.path().read_link().ok()?))
    });
    numbers.filter(|(number, _)| *number >= from).collect()
}

/// Rows G4 and G7: whatever a node starts has the ids, groups and rights of the login, the score of an ordinary program, and of the daemon's
/// descriptors none.
#[test]
fn g4_g7_what_is_started_has_what_the_login_has_and_nothing_of_the_daemon() {
    let Some(mut busy) = Busy::daemon() else { return };
    // A service that must not be killed for memory, as units of services say; or rather than others, where this machine permits no less.
    let score = format!("/proc/{}/oom_score_adj", busy.pid());
    std::fs::write(&score, "-900").or_else(|_| std::fs::write(&score, "500")).unwrap();
    // Sockets that one of them makes it gives to the daemon: those are the same at both, and are not yet there.
    let of_daemon: BTreeSet<PathBuf> = open_files(&busy.pid(), 0).into_values().collect();
    busy.begin_all();
    let user = busy.user.user();
    let mut groups = Command::new("id");
    groups.args(["-G", &busy.user.login]);
    let groups: BTreeSet<String> = run(groups).clean().split_whitespace().map(str::to_owned).collect();
    assert_eq!(groups.len(), 3);
    for child in busy.children() {
        let (status, line) = (text(&child, "status"), text(&child, "cmdline"));
        assert_eq!(field(&status, "Uid:"), vec![user.uid.to_string(); 4], "{line}");
        assert_eq!(field(&status, "Gid:"), vec![user.gid.to_string(); 4], "{line}");
        assert_eq!(field(&status, "Groups:").into_iter().collect::<BTreeSet<_>>(), groups, "{line}");
        for rights in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
            assert_eq!(field(&status, rights), ["0000000000000000"], "{rights} of {line}");
        }
        assert_eq!(text(&child, "oom_score_adj").trim(), "0", "{line}");
        for (number, leads_to) in open_files(&child, 3) {
            let own = leads_to.starts_with("anon_inode:")
                || leads_to.starts_with("/dev/null")
                || open_files(&child, 0).range(..3).any(|(_, standard)| *standard == leads_to);
            assert!(
                own || !of_daemon.contains(&leads_to),
                "{number} of {line} leads to {}",
                leads_to.display()
            );
        }
        if line.starts_with("sleep") {
            assert!(open_files(&child, 3).is_empty(), "{line}: {:?}", open_files(&child, 3));
            for signals in ["SigBlk:", "SigIgn:", "SigCgt:"] {
                assert_eq!(field(&status, signals), ["0000000000000000"], "{signals} of {line}");
            }
            assert_eq!(
                field(&text(&child, "limits"), "Max open files"),
                field(&text("self", "limits"), "Max open files")
            );
            if let Some(terminal) = open_files(&child, 0).get(&0).filter(|path| path.starts_with("/dev/pts"))
            {
                use std::os::unix::fs::MetadataExt;
                let terminal = terminal.metadata().unwrap();
                assert_eq!((terminal.uid(), terminal.mode() & 0o777), (user.uid.as_raw(), 0o620));
            }
        }
    }
    // And there is no way back.
    let mut ssh = Command::new("ssh");
    ssh.arg("-F").arg(&busy.config).arg(busy.host()).env_remove("SSH_AUTH_SOCK");
    ssh.arg("id -u; perl -MPOSIX -e '$> = 0; $< = 0; POSIX::setuid(0); print \"$<:$>\"'; cat /etc/shadow");
    let tried = run(ssh);
    assert_eq!(tried.out(), format!("{0}\n{0}:{0}", user.uid), "{tried:?}");
    assert!(tried.stderr.contains("Permission denied"), "{tried:?}");
}

/// Row G3: what a client sets is in the environment of what runs as the login, where it is harmless, and nowhere else.
#[test]
fn g3_what_a_client_sets_reaches_only_what_runs_as_the_login() {
    const EVIL: [&str; 22] = [
        "LD_PRELOAD",
        "LD_AUDIT",
        "LD_LIBRARY_PATH",
        "DYLD_INSERT_LIBRARIES",
        "BASH_ENV",
        "ENV",
        "PATH",
        "IFS",
        "HOME",
        "SHELL",
        "PYTHONPATH",
        "PERL5OPT",
        "GCONV_PATH",
        "BASH_FUNC_x%%",
        "GLIBC_TUNABLES",
        "RUST_LOG",
        "TELEPORT_CONFIG_FILE",
        "LC_A=B",
        "LC_A\nB",
        "LC_A\0B",
        "",
        "SSH_AUTH_SOCK",
    ];
    let wired = Wired::start();
    let env = |name: &str| Message::new(98).number(0).string("env").raw(&[0]).string(name).string("/evil");
    let session = || {
        let mut wire = wired.session(1 << 20);
        for name in EVIL {
            wire.send(&env(name).bytes);
        }
        wire.send(&env("LC_GOOD").bytes);
        wire
    };
    let assert_good = |environment: &str, what: &str| {
        let names: Vec<&str> =
            environment.split('\0').filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
        assert!(names.contains(&"PATH") && names.contains(&"USER"), "{what}: {environment:?}");
        let said: Vec<&str> = environment.split('\0').filter(|line| line.contains("/evil")).collect();
        assert!(said.iter().all(|line| *line == "LC_GOOD=/evil"), "{what}: {said:?}");
        assert!(!environment.contains('\n'), "{what}: {environment:?}");
    };
    let mut wire = session();
    wire.request(&exec("exec cat /proc/self/environ"));
    let mut environment = String::new();
    loop {
        let answer = wire.answer().unwrap();
        match answer[0] {
            94 => environment.push_str(&String::from_utf8_lossy(&answer[9..])),
            97 => break,
            _ => {}
        }
    }
    assert_good(&environment, "a command");
    assert!(environment.contains("LC_GOOD=/evil"), "{environment:?}");
    wire.finish();
    // The program for files is ours, and it is started with what we say as well.
    let mut wire = session();
    wire.request(&Message::new(98).number(0).string("subsystem").raw(&[1]).string("sftp"));
    wire.wait_for(99);
    let daemon = wired.target.process.pid().to_string();
    let server = wait_for("the server of files", || {
        let entries = std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut numbers = entries.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
        numbers.find(|number| {
            field(&text(number, "status"), "PPid:") == [daemon.as_str()]
                && text(number, "cmdline").contains("sftp")
        })
    });
    assert_good(&text(&server, "environ"), "the server of files");
    wire.finish();
    assert!(!text(&daemon, "environ").contains("/evil"));
    // More than anybody needs is not kept: nothing runs on that channel any more, or not all of it arrives.
    let mut greedy = wired.session(1 << 20);
    for number in 0..10_000 {
        greedy.send(&env(&format!("LC_{number}")).bytes);
    }
    greedy.request(&exec("env | grep -c ^LC_"));
    let answers = greedy.finish();
    assert!(!answers.contains(&94) && !answers.contains(&99), "{answers:?}");
    wired.target.unharmed();
}

/// A system call, as `strace` tells it.
#[derive(Debug)]
struct Call {
    thread: u32,
    name: String,
    arguments: String,
    result: String,
}

/// What the daemon and its children do, from here until the value is asked.
struct Trace {
    strace: Child,
    file: PathBuf,
}

const WATCHED: &str = "trace=execve,execveat,setsid,close_range,setgroups,setresgid,setresuid,setgid,setuid,setreuid,setregid,clone,clone3,fork,\
    vfork,chown,fchown,lchown,fchownat,chmod,fchmod,fchmodat,mkdir,mkdirat,symlink,symlinkat,unlink,unlinkat,rename,renameat,renameat2";

impl Trace {
    fn of(busy: &Busy) -> Self {
        let file = busy.target.machine.path("trace");
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-s", "300", "-e", WATCHED, "-o"]).arg(&file).args(["-p", &busy.pid()]);
        let strace = strace.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let tracer = strace.id().to_string();
        let tasks = PathBuf::from(format!("/proc/{}/task", busy.pid()));
        wait_for("strace at every thread", || {
            let threads = std::fs::read_dir(&tasks).unwrap().map(|thread| thread.unwrap().path());
            let mut statuses =
                threads.map(|thread| std::fs::read_to_string(thread.join("status")).unwrap_or_default());
            statuses.all(|status| field(&status, "TracerPid:") == [tracer.as_str()]).then_some(())
        });
        Self { strace, file }
    }

    fn end(mut self) -> Vec<Call> {
        kill(Pid::from_raw(self.strace.id().try_into().unwrap()), Signal::SIGINT).unwrap();
        self.strace.wait().unwrap();
        let mut begun: BTreeMap<u32, String> = BTreeMap::new();
        let mut calls = Vec::new();
        for line in std::fs::read_to_string(&self.file).unwrap().lines() {
            let (thread, said) = line.trim_start().split_once(' ').unwrap();
            let (thread, said) = (thread.parse().unwrap(), said.trim_start());
            let whole = if let Some(first) = said.strip_suffix(" <unfinished ...>") {
                begun.insert(thread, first.to_owned());
                continue;
            } else if let Some(rest) = said.strip_prefix("<... ") {
                let first = begun.remove(&thread).unwrap_or_default();
                first + rest.split_once(" resumed>").map_or("", |(_, rest)| rest)
            } else {
                said.to_owned()
            };
            // What is no call is a signal or an end.
            let Some((call, result)) = whole.rsplit_once(" = ") else { continue };
            let Some((name, arguments)) = call.split_once('(') else { continue };
            calls.push(Call {
                thread,
                name: name.to_owned(),
                arguments: arguments.trim_end().trim_end_matches(')').to_owned(),
                result: result.to_owned(),
            });
        }
        calls
    }
}

/// Rows G2 and G8: between the daemon and a program of the login stands a fixed list of steps, with nothing between them that could be
/// used; and root makes, gives away and changes nothing by a path that the login can change.
#[test]
fn g2_g8_rights_are_dropped_in_one_order_and_root_uses_no_path_of_the_login() {
    let Some(mut busy) = Busy::daemon() else { return };
    let mut threads: BTreeSet<u32> = std::fs::read_dir(format!("/proc/{}/task", busy.pid()))
        .unwrap()
        .map(|thread| thread.unwrap().file_name().to_str().unwrap().parse().unwrap())
        .collect();
    let trace = Trace::of(&busy);
    busy.begin_all();
    // Files come and go by every protocol.
    let (file, back) = (busy.target.machine.path("file"), busy.target.machine.path("back"));
    std::fs::write(&file, "content").unwrap();
    for older in ["-O", "-s"] {
        let there = format!("{}:copied", busy.host());
        for (from, to) in [(file.to_str().unwrap(), there.as_str()), (&there, back.to_str().unwrap())] {
            let mut scp = Command::new("scp");
            scp.arg("-F").arg(&busy.config).args(["-q", "-p", older, from, to]).env_remove("SSH_AUTH_SOCK");
            run(scp).clean();
        }
    }
    for client in &mut busy.clients {
        let _ = client.kill();
    }
    wait_for("the end of all", || busy.children().is_empty().then_some(()));
    let calls = trace.end();
    let data = busy.target.machine.path("all");
    let data = data.to_str().unwrap();

    // Who is a thread of the daemon, and whom they started. The call that starts somebody ends after the first of theirs.
    let mut children: BTreeMap<u32, Vec<&Call>> = BTreeMap::new();
    for call in &calls {
        let starts = ["clone", "clone3", "fork", "vfork"].contains(&call.name.as_str());
        if let (true, true, Ok(new)) = (starts, threads.contains(&call.thread), call.result.parse()) {
            match call.arguments.contains("CLONE_THREAD") {
                true => drop(threads.insert(new)),
                false => drop(children.entry(new).or_default()),
            }
        }
    }
    let mut given_away = 0;
    for call in &calls {
        let of_daemon = threads.contains(&call.thread);
        let still_root = children.get(&call.thread).is_some_and(|steps| !is_theirs(steps));
        let changes = ["chown", "lchown", "chmod", "mkdir", "symlink", "unlink", "rename"];
        let changes = changes.iter().any(|name| call.name.trim_start_matches('f').starts_with(name));
        if of_daemon {
            given_away += usize::from(call.name == "fchown");
            // By descriptor, or in the daemon's own directory, in which nobody else may write.
            let by_descriptor = ["fchown", "fchmod"].contains(&call.name.as_str());
            assert!(!changes || by_descriptor || call.arguments.contains(data), "{call:?}");
            assert!(!call.name.starts_with("set") && !call.name.starts_with("exec"), "{call:?}");
        }
        if let Some(steps) = children.get_mut(&call.thread).filter(|_| still_root) {
            assert!(!changes, "{call:?}");
            steps.push(call);
        }
    }
    assert!(given_away >= 1, "a terminal is given to its user");
    // One for each program above, and their servers and openers.
    assert!(children.len() >= 10, "{}", children.len());
    let user = busy.user.user();
    let (uid, gid) = (user.uid.to_string(), user.gid.to_string());
    let mut openers = 0;
    for steps in children.values() {
        let names: Vec<&str> = steps.iter().map(|step| step.name.as_str()).collect();
        let program = steps.iter().find(|step| step.name == "execve").unwrap();
        // Ours opens sockets, and takes the ids by itself, so that nobody can attach to it; any other program begins with them.
        let opens = program.arguments.contains("\"open-socket\"");
        let order = match opens {
            true => ["setsid", "close_range", "execve", "setgroups", "setresgid", "setresuid", "setresuid"],
            false => ["setsid", "close_range", "setgroups", "setresgid", "setresuid", "setresuid", "execve"],
        };
        assert_eq!(names, order, "{steps:?}");
        assert!(!opens || program.arguments.starts_with("\"/proc/self/exe\""), "{program:?}");
        openers += usize::from(opens);
        let ids: Vec<&&Call> = steps.iter().filter(|step| step.name.starts_with("setres")).collect();
        assert_eq!(ids[0].arguments, [gid.as_str(); 3].join(", "));
        assert_eq!(ids[1].arguments, [uid.as_str(); 3].join(", "));
        assert!(ids[2].arguments.contains(", 0, ") && ids[2].result.contains("EPERM"), "{:?}", ids[2]);
        assert!(steps[1].arguments.starts_with("3, 42949672"), "{:?}", steps[1]);
        let failed = steps.iter().filter(|step| step.result.starts_with('-')).count();
        assert_eq!(failed, 1, "{steps:?}");
    }
    assert!(openers >= 2, "{openers}");
}

/// Whether a process has taken the ids of the login, proven that it cannot give them back, and is a program.
fn is_theirs(steps: &[&Call]) -> bool {
    let proven = |step: &&Call| step.name == "setresuid" && step.result.contains("EPERM");
    steps.iter().any(proven) && steps.iter().any(|step| step.name == "execve")
}
