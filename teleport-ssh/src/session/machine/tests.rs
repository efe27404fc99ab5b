#![allow(clippy::panic, reason = "tests fail by panicking")]
use super::*;
use crate::sys::modes::TerminalModes;

fn terminal() -> Terminal {
    Terminal { kind: "xterm".into(), size: TerminalSize::default(), modes: TerminalModes::default() }
}

fn requests() -> [(&'static str, Request); 7] {
    [
        ("env", Request::Env { name: "LANG".into(), value: "C".into() }),
        ("exec", Request::Exec(b"id".to_vec())),
        ("pty", Request::Pty(terminal())),
        ("shell", Request::Shell),
        ("signal", Request::Signal("INT".into())),
        ("subsystem", Request::Subsystem("sftp".into())),
        ("window", Request::WindowChange(TerminalSize { columns: 7, ..TerminalSize::default() })),
    ]
}

fn policy(pty: bool, forced: bool) -> SessionPolicy {
    SessionPolicy {
        pty,
        force_command: forced.then(|| "/bin/false".to_owned()),
        env: AllowList::default(),
        sftp: false,
    }
}

fn name(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Accept => "accept",
        Verdict::Denied(_) => "denied",
        Verdict::Refuse(_) => "refuse",
        Verdict::Resize(_) => "resize",
        Verdict::Signal(_) => "signal",
        Verdict::Start(_) => "start",
        Verdict::UnknownSubsystem(_) => "unknown",
    }
}

/// Every request in every state, under every policy.
#[test]
fn transitions() {
    let before: [(&str, &[usize]); 4] =
        [("open", &[]), ("with terminal", &[2]), ("running", &[1]), ("running with terminal", &[2, 3])];
    // In the order of `requests`: env exec pty shell signal subsystem window
    let expected = |state: &str, pty: bool, forced: bool| {
        let subsystem = if forced { "start" } else { "unknown" };
        let first = if pty { "accept" } else { "denied" };
        match state {
            "open" => ["accept", "start", first, "start", "refuse", subsystem, "refuse"],
            "with terminal" if pty => ["accept", "start", "refuse", "start", "refuse", subsystem, "accept"],
            "with terminal" => ["accept", "start", "denied", "start", "refuse", subsystem, "refuse"],
            "running with terminal" if pty => {
                ["refuse", "refuse", "refuse", "refuse", "signal", "refuse", "resize"]
            }
            _ => ["refuse", "refuse", "refuse", "refuse", "signal", "refuse", "refuse"],
        }
    };
    for pty in [false, true] {
        for forced in [false, true] {
            for (state, path) in before {
                let mut seen = Vec::new();
                for (_, request) in requests() {
                    let mut machine = Machine::new(policy(pty, forced));
                    for (_, step) in path.iter().filter_map(|index| requests().into_iter().nth(*index)) {
                        machine.handle(step);
                    }
                    seen.push(name(&machine.handle(request)));
                }
                assert_eq!(seen, expected(state, pty, forced), "{state}, pty {pty}, forced {forced}");
            }
        }
    }
}

#[test]
fn a_forced_command_replaces_everything() {
    for (asked, original) in [
        (Request::Exec(b"id".to_vec()), Some(b"id".to_vec())),
        (Request::Shell, None),
        (Request::Subsystem("sftp".into()), Some(b"sftp".to_vec())),
    ] {
        let Verdict::Start(launch) = Machine::new(policy(true, true)).handle(asked) else { panic!() };
        assert_eq!(launch.kind, SessionKind::Exec(b"/bin/false".to_vec()));
        assert_eq!(launch.original_command, original);
    }
}

#[test]
fn files_are_served_where_there_is_a_server() {
    let begin = |forced: Option<&str>, sftp, asked| {
        let policy = SessionPolicy { force_command: forced.map(str::to_owned), sftp, ..policy(true, false) };
        let mut machine = Machine::new(policy);
        machine.handle(Request::Pty(terminal()));
        machine.handle(asked)
    };
    let files = || Request::Subsystem("sftp".into());
    for (forced, asked, original) in [
        (None, files(), None),
        (Some("internal-sftp"), files(), Some(b"sftp".to_vec())),
        (Some("internal-sftp"), Request::Exec(b"id".to_vec()), Some(b"id".to_vec())),
        (Some("internal-sftp"), Request::Shell, None),
    ] {
        let Verdict::Start(launch) = begin(forced, true, asked) else { panic!() };
        // On a terminal the bytes would not be those of the protocol.
        assert_eq!(
            (launch.kind, launch.terminal, launch.original_command),
            (SessionKind::Sftp, None, original)
        );
    }
    let Verdict::Start(launch) = begin(Some("/bin/false"), true, files()) else { panic!() };
    assert_eq!(launch.kind, SessionKind::Exec(b"/bin/false".to_vec()));
    for (sftp, name) in [(false, "sftp"), (true, "SFTP"), (true, "netconf")] {
        assert!(matches!(begin(None, sftp, Request::Subsystem(name.into())), Verdict::UnknownSubsystem(_)));
    }
    let mut machine = Machine::new(SessionPolicy { sftp: true, ..policy(true, false) });
    machine.handle(Request::Env { name: "TELEPORT_SESSION".into(), value: "x".into() });
    assert_eq!(name(&machine.handle(files())), "refuse");
}

#[test]
fn bounds() {
    let mut machine = Machine::new(policy(true, false));
    let long = Terminal { kind: "x".repeat(MAX_TERM + 1), ..terminal() };
    assert_eq!(name(&machine.handle(Request::Pty(long))), "refuse");
    assert_eq!(name(&machine.handle(Request::Exec(vec![b'x'; MAX_COMMAND + 1]))), "refuse");
    assert_eq!(name(&machine.handle(Request::Exec(b"a\0b".to_vec()))), "refuse");
    for _ in 0..MAX_REQUESTS {
        machine.handle(Request::Signal("INT".into()));
    }
    assert_eq!(name(&machine.handle(Request::Shell)), "refuse");
}

#[test]
fn only_allowed_variables_reach_the_program() {
    let mut machine = Machine::new(policy(true, false));
    for (variable, taken) in
        [("LANG", true), ("LC_ALL", true), ("LD_PRELOAD", false), ("PATH", false), ("A=B", false)]
    {
        let request = Request::Env { name: variable.into(), value: "C".into() };
        assert_eq!(name(&machine.handle(request)), if taken { "accept" } else { "refuse" }, "{variable}");
    }
    let Verdict::Start(launch) = machine.handle(Request::Shell) else { panic!() };
    assert_eq!(launch.env.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["LANG", "LC_ALL"]);
}
