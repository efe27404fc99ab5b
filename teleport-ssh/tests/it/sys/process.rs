//! What a process of a user is, has, and cannot do.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use teleport_ssh::sys::accounts::{Account, AccountError, LoginRules};
use teleport_ssh::sys::child::Exit;
use teleport_ssh::sys::signal::Signal;
use teleport_ssh::sys::spawn::{Command, SpawnError, Step};
use teleport_ssh::sys::{accounts, host, limits};
use tokio::io::AsyncReadExt;

use super::support::*;

#[tokio::test]
async fn ids_and_groups_are_exactly_the_accounts() {
    let account = account();
    for option in ["-u", "-g", "-G", "-un"] {
        let inside = run(&account, &format!("id {option}")).await.clean();
        assert_eq!(inside.trim_end(), said("id", &[option, &account.name]), "id {option}");
    }
}

#[tokio::test]
async fn supplementary_groups_home_and_shell_of_a_new_user() {
    if !host::is_root() {
        return;
    }
    let user = Throwaway::new();
    let account = user.account();
    assert_eq!(account.groups.len(), 3, "its own, users and mail");
    assert_eq!(account.shell, Path::new("/bin/bash"));
    let inside =
        run(&account, "id -G; pwd; echo $HOME $SHELL $USER $LOGNAME; touch ok; echo $0").await.clean();
    let home = format!("/home/{0}", user.login);
    let login = &user.login;
    let groups = said("id", &["-G", login]);
    assert_eq!(inside, format!("{groups}\n{home}\n{home} /bin/bash {login} {login}\nbash\n"));
    assert_eq!(run(&account, "cat /etc/shadow").await.exit, Exit::Code(1), "not root's rights");

    let today = 20_000;
    let now = i64::from(today) * 86_400;
    let rules = LoginRules { nologin_files: Vec::new(), ..LoginRules::default() };
    let strict = LoginRules { refuse_locked: true, ..rules.clone() };
    assert_eq!(accounts::resolve(login, now, &strict).await.unwrap(), account);
    change_accounts("usermod", &["-L", login]);
    assert!(account.check(now, &rules).is_ok(), "a locked password is no locked account");
    assert!(matches!(account.check(now, &strict), Err(AccountError::Locked { .. })));
    change_accounts("usermod", &["-e", &(today + 1).to_string(), login]);
    assert!(account.check(now, &rules).is_ok(), "tomorrow");
    change_accounts("usermod", &["-e", &today.to_string(), login]);
    let refused = accounts::resolve(login, now, &rules).await;
    assert!(matches!(refused, Err(AccountError::Expired { .. })), "{refused:?}");
}

#[tokio::test]
async fn no_right_signal_setting_or_memory_score_of_the_daemon_is_left() {
    let account = account();
    fs::write("/proc/self/oom_score_adj", "321").unwrap();
    let program = Path::new("/bin/cat");
    let arguments = ["cat", "/proc/self/status", "/proc/self/oom_score_adj"];
    let command = Command::program(&account, environment(&account), program, arguments).unwrap();
    let text = finish(command.spawn_piped().await.unwrap(), b"").await.clean();
    fs::write("/proc/self/oom_score_adj", "0").unwrap();

    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}"));
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let (uid, gid) = (account.uid.to_string(), account.gid.to_string());
    assert_eq!(field("Uid:"), vec![uid; 4]);
    assert_eq!(field("Gid:"), vec![gid; 4]);
    // The test program itself ignores SIGPIPE, and its runtime handles and blocks others.
    for signals in ["SigPnd:", "ShdPnd:", "SigBlk:", "SigIgn:", "SigCgt:"] {
        assert_eq!(field(signals), ["0000000000000000"], "{signals}");
    }
    if account.uid != 0 {
        for capabilities in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
            assert_eq!(field(capabilities), ["0000000000000000"], "{capabilities}");
        }
    }
    assert_eq!(text.lines().last(), Some("0"), "oom_score_adj");
}

#[tokio::test]
async fn a_copy_of_the_memory_serves_as_well() {
    let mut account = account();
    let command = shell_command(&account, "id -G; ls /proc/$$/fd; exit 5").copying_memory();
    let output = finish(command.spawn_piped().await.unwrap(), b"").await;
    assert_eq!(output.exit, Exit::Code(5));
    assert_eq!(output.stdout, format!("{}\n0\n1\n2\n", said("id", &["-G", &account.name])));
    account.shell = "/nonexistent".into();
    let error = shell_command(&account, "true").copying_memory().spawn_piped().await.unwrap_err();
    assert!(matches!(error, SpawnError::Failed { step: Step::Exec, .. }), "{error:?}");
}

#[tokio::test]
async fn the_way_back_to_root_is_closed() {
    let account = account();
    if account.uid == 0 {
        return;
    }
    let attempt =
        "perl -MPOSIX -e '$> = 0; $< = 0; POSIX::setuid(0); POSIX::setgid(0); print \"$< $> \", $( + 0'";
    let inside = run(&account, attempt).await.clean();
    assert_eq!(inside, format!("{0} {0} {1}", account.uid, account.gid));
}

#[tokio::test]
async fn only_the_three_standard_descriptors_are_open() {
    let account = account();
    // A descriptor that any `exec` would hand down.
    let leaky = nix::unistd::dup(fs::File::open("/etc/passwd").unwrap()).unwrap();
    let inside = run(&account, "ls /proc/$$/fd").await.clean();
    drop(leaky);
    assert_eq!(inside, "0\n1\n2\n");
}

#[tokio::test]
async fn standard_descriptors_are_separate_and_can_be_opened_again() {
    let account = account();
    let both = run_with(&account, "cat; echo out; echo err >&2; echo more > /dev/stderr", b"in\n").await;
    assert_eq!(both.exit, Exit::Code(0));
    assert_eq!((both.stdout.as_str(), both.stderr.as_str()), ("in\nout\n", "err\nmore\n"));
}

#[tokio::test]
async fn a_mebibyte_passes_both_ways_unchanged() {
    let input: Vec<u8> = (0..1 << 20).map(|i: u32| b'a' + (i % 23) as u8).collect();
    let output = run_with(&account(), "cat", &input).await.clean();
    assert!(output.as_bytes() == input, "changed");
}

#[tokio::test]
async fn it_leads_its_own_session_and_group_and_starts_at_home() {
    let mut account = account();
    let inside = run(&account, "cut -d' ' -f1,5,6,7 /proc/$$/stat; umask; pwd").await.clean();
    let mut lines = inside.lines();
    let ids: Vec<&str> = lines.next().unwrap().split(' ').collect();
    assert_eq!(ids, [ids[0], ids[0], ids[0], "0"], "pid, group, session, no terminal");
    assert_eq!(lines.collect::<Vec<_>>(), ["0022", "/tmp"]);

    for (home, reason) in [
        ("/nonexistent/home", "No such file or directory"),
        ("/etc/passwd", "Not a directory"),
        ("/root", "Permission denied"),
    ] {
        if home == "/root" && (account.uid == 0 || said("stat", &["-c", "%a", "/root"]) != "700") {
            continue;
        }
        account.home = home.into();
        let output = run(&account, "pwd").await;
        assert_eq!((output.exit, output.stdout.as_str()), (Exit::Code(0), "/\n"));
        assert_eq!(output.stderr, format!("Could not chdir to home directory {home}: {reason}\n"));
    }
}

#[tokio::test]
async fn limits_that_the_daemon_changed_for_itself_are_given_back() {
    if !is_alone("sys::process::limits_that_the_daemon_changed_for_itself_are_given_back") {
        return;
    }
    let resource = nix::sys::resource::Resource::RLIMIT_NOFILE;
    let (_, hard) = nix::sys::resource::getrlimit(resource).unwrap();
    nix::sys::resource::setrlimit(resource, 700, hard).unwrap();
    let core = nix::sys::resource::Resource::RLIMIT_CORE;
    let (_, core_hard) = nix::sys::resource::getrlimit(core).unwrap();
    nix::sys::resource::setrlimit(core, 1024.min(core_hard), core_hard).unwrap();

    assert_eq!(limits::raise_nofile_limit().unwrap(), hard);
    limits::disable_core_dumps().unwrap();
    assert_eq!(nix::sys::resource::getrlimit(resource).unwrap(), (hard, hard));
    assert_eq!(nix::sys::resource::getrlimit(core).unwrap(), (0, core_hard));

    let inside = run(&account(), "ulimit -Sn; ulimit -Hn; grep 'core file' /proc/self/limits").await.clean();
    let mut lines = inside.lines();
    assert_eq!(lines.next(), Some("700"));
    assert_eq!(lines.next(), Some(hard.to_string().as_str()));
    let soft_core = lines.next().unwrap().split_whitespace().nth(4);
    assert_eq!(soft_core, Some(1024.min(core_hard).to_string().as_str()));
}

#[tokio::test]
async fn ends_are_told_exactly() {
    let account = account();
    for code in [0, 1, 2, 127, 128, 254, 255] {
        assert_eq!(run(&account, &format!("exit {code}")).await.exit, Exit::Code(code));
    }
    assert_eq!(run(&account, "/nonexistent/program").await.exit, Exit::Code(127));
    for name in ["TERM", "KILL", "HUP", "INT", "USR1", "PIPE", "ALRM"] {
        let exit = run(&account, &format!("kill -{name} $$; sleep 60")).await.exit;
        let signal = Signal::from_ssh_name(name).unwrap();
        assert_eq!(exit, Exit::Signal { signal, core_dumped: false }, "{name}");
    }
    let exit = run(&account, "ulimit -c 0; kill -SEGV $$; sleep 60").await.exit;
    assert!(matches!(exit, Exit::Signal { signal, .. } if signal.ssh_name() == "SEGV"), "{exit:?}");
}

#[tokio::test]
async fn waiting_twice_answers_the_same() {
    let account = account();
    let mut piped = shell_command(&account, "exit 9").spawn_piped().await.unwrap();
    for _ in 0..2 {
        let exit = tokio::time::timeout(LIMIT, piped.child.wait()).await.unwrap().unwrap();
        assert_eq!(exit, Exit::Code(9));
    }
    piped.child.signal_group(Signal::KILL).unwrap();
    assert_eq!(piped.child.terminate(LIMIT).await.unwrap(), Exit::Code(9));
}

#[tokio::test]
async fn a_program_that_cannot_be_executed_says_so_with_its_step() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let no_program = dir.path().join("text");
    fs::write(&no_program, "no program").unwrap();
    let mut account = account();
    for (shell, errno) in [
        (Path::new("/nonexistent/shell"), libc::ENOENT),
        (no_program.as_path(), libc::EACCES),
        (dir.path(), libc::EACCES),
    ] {
        account.shell = shell.into();
        let error = shell_command(&account, "true").spawn_piped().await.unwrap_err();
        match error {
            SpawnError::Failed { step: Step::Exec, source } => assert_eq!(source.raw_os_error(), Some(errno)),
            other => panic!("{other:?}"),
        }
    }
    account.shell = "/bin/sh".into();
    let error = shell_command(&account, &"x".repeat(1 << 20)).spawn_piped().await.unwrap_err();
    assert!(
        matches!(&error, SpawnError::Failed { step: Step::Exec, source } if source.raw_os_error() == Some(libc::E2BIG)),
        "{error:?}"
    );
    assert_eq!(error.to_string(), "the new process failed at the step execute program");
}

#[tokio::test]
async fn a_shell_that_refuses_logins_is_run_and_refuses() {
    let mut account = account();
    account.shell = "/usr/sbin/nologin".into();
    let output = run(&account, "echo in").await;
    assert_eq!(output.exit, Exit::Code(1));
    assert!(output.stdout.contains("not available"), "{output:?}");
}

#[test]
fn what_can_be_no_process_is_refused_before_it_is_made() {
    let mut account = account();
    let nul = Command::shell_command(&account, environment(&account), "a\0b");
    assert!(matches!(nul, Err(SpawnError::Invalid { what: "argument" })), "{nul:?}");
    account.shell = "bin/sh".into();
    let relative = Command::login_shell(&account, environment(&account));
    assert!(matches!(relative, Err(SpawnError::Invalid { .. })), "{relative:?}");
}

#[tokio::test]
async fn signals_reach_the_whole_group() {
    let account = account();
    let mut piped = shell_command(&account, "sleep 1000 & echo $!; wait").spawn_piped().await.unwrap();
    let mut line = [0; 32];
    let count = tokio::time::timeout(LIMIT, piped.stdout.read(&mut line)).await.unwrap().unwrap();
    assert!(count > 1);
    piped.child.signal_group(Signal::TERM).unwrap();
    let output = finish(piped, b"").await;
    // Only when both have ended do the pipes end.
    assert_eq!(output.exit, Exit::Signal { signal: Signal::TERM, core_dumped: false });
}

#[tokio::test]
async fn termination_is_polite_first_and_certain_in_the_end() {
    let account = account();
    let mut polite = shell_command(&account, "exec sleep 1000").spawn_piped().await.unwrap();
    let exit = polite.child.terminate(LIMIT).await.unwrap();
    assert_eq!(exit, Exit::Signal { signal: Signal::HUP, core_dumped: false });

    let mut deaf = shell_command(&account, "trap '' HUP TERM; echo ready; while :; do sleep 1000; done")
        .spawn_piped()
        .await
        .unwrap();
    let mut ready = [0; 6];
    deaf.stdout.read_exact(&mut ready).await.unwrap();
    let exit = deaf.child.terminate(Duration::from_millis(50)).await.unwrap();
    assert_eq!(exit, Exit::Signal { signal: Signal::KILL, core_dumped: false });
    // Its own child, which inherited the deafness, is gone as well: nobody holds the pipe.
    let mut rest = Vec::new();
    tokio::time::timeout(LIMIT, deaf.stdout.read_to_end(&mut rest)).await.unwrap().unwrap();
}

#[tokio::test]
async fn without_root_only_the_own_account_is_served() {
    if host::is_root() {
        // The same test once more, as a user, started by the code under test.
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let program = dir.path().join("it");
        fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        let account = account();
        let arguments =
            ["it", "--exact", "sys::process::without_root_only_the_own_account_is_served", "--nocapture"];
        let command = Command::program(&account, environment(&account), &program, arguments).unwrap();
        let output = finish(command.spawn_piped().await.unwrap(), b"").await;
        assert!(output.exit == Exit::Code(0) && output.stdout.contains("1 passed"), "{output:?}");
        return;
    }
    let root = Account::lookup("root").unwrap();
    let refused = Command::login_shell(&root, environment(&root)).unwrap_err();
    assert!(
        matches!(&refused, SpawnError::Account { source: AccountError::NeedsRoot { uid: 0, .. } }),
        "{refused:?}"
    );
    assert!(matches!(root.check(0, &LoginRules::default()), Err(AccountError::NeedsRoot { .. })));
    let own = account();
    assert_eq!(run(&own, "id -u").await.clean().trim(), own.uid.to_string());
}
