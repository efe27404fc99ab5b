#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::*;

fn source<'a>(client: &'a ClientEnv, platform: &'a [(&'a str, &'a str)]) -> Source<'a> {
    Source {
        login: "alice",
        home: Path::new("/home/alice"),
        shell: Path::new("/bin/zsh"),
        path: "/usr/bin:/bin",
        terminal: None,
        connection: None,
        platform,
        client,
    }
}

fn text(environment: &Environment) -> Vec<String> {
    environment.entries().map(|entry| entry.to_str().unwrap().to_owned()).collect()
}

#[test]
fn without_a_terminal_it_is_exactly_this() {
    let environment = Environment::build(&source(&ClientEnv::default(), &[])).unwrap();
    assert_eq!(
        text(&environment),
        [
            "HOME=/home/alice",
            "LOGNAME=alice",
            "MAIL=/var/mail/alice",
            "PATH=/usr/bin:/bin",
            "SHELL=/bin/zsh",
            "USER=alice"
        ]
    );
}

#[test]
fn a_terminal_and_a_connection_add_their_own() {
    let client = ClientEnv::default();
    let mut source = source(&client, &[("SSH_SESSION_ID", "7f"), ("SSH_TELEPORT_USER", "alice@example.com")]);
    source.terminal = Some(Terminal { kind: "tmux-256color", device: Path::new("/dev/pts/3") });
    source.connection = Some(Connection {
        client: "[::ffff:192.0.2.7]:50022".parse().unwrap(),
        server: "[2001:db8::1]:3022".parse().unwrap(),
    });
    let environment = Environment::build(&source).unwrap();
    for (name, value) in [
        ("TERM", "tmux-256color"),
        ("SSH_TTY", "/dev/pts/3"),
        ("SSH_CLIENT", "192.0.2.7 50022 3022"),
        ("SSH_CONNECTION", "192.0.2.7 50022 2001:db8::1 3022"),
        ("SSH_SESSION_ID", "7f"),
        ("SSH_TELEPORT_USER", "alice@example.com"),
    ] {
        assert_eq!(environment.value(name), Some(value.as_bytes()), "{name}");
    }
    assert_eq!(environment.entries().len(), 12);
    assert_eq!(environment.value("SSH"), None, "a prefix is no name");
}

#[test]
fn terminal_types_are_plain_or_dumb() {
    for (kind, shown) in [
        ("", "xterm"),
        ("xterm-256color", "xterm-256color"),
        ("rxvt-unicode+a.b", "rxvt-unicode+a.b"),
        ("../../tmp/x", "dumb"),
        ("..", "dumb"),
        ("-x", "dumb"),
        ("x y", "dumb"),
        ("x\ny", "dumb"),
        ("x\0y", "dumb"),
        ("ü", "dumb"),
    ] {
        assert_eq!(term(kind), shown, "{kind:?}");
    }
    assert_eq!(term(&"x".repeat(65)), "dumb");
}

#[test]
fn clients_set_their_language_and_nothing_else() {
    let mut client = ClientEnv::default();
    for name in ["LANG", "LC_ALL", "LC_TIME", "LC_CUSTOM_1"] {
        assert_eq!(client.set(name, "de_DE.UTF-8"), Ok(()), "{name}");
    }
    for name in [
        "LD_PRELOAD",
        "LD_AUDIT",
        "LD_LIBRARY_PATH",
        "BASH_ENV",
        "ENV",
        "PATH",
        "IFS",
        "PYTHONPATH",
        "GCONV_PATH",
        "BASH_FUNC_x%%",
        "DYLD_INSERT_LIBRARIES",
        "TERM",
        "USER",
        "SSH_CONNECTION",
        "LANGUAGE",
        "lang",
        "LC",
        "",
        "=",
        "LANG=x",
        "LC_=",
        "LC_A\0B",
        "LC_A\nB",
        "LC_A B",
        "LC_Ä",
        "1LC_",
        "LC_%%",
    ] {
        assert_eq!(client.set(name, "x"), Err(Refused::Name), "{name:?}");
    }
    for value in ["a\0b", "a\nb", "\x1b[2J", "a\u{9b}b"] {
        assert_eq!(client.set("LC_ALL", value), Err(Refused::Value), "{value:?}");
    }
    let environment = Environment::build(&source(&client, &[])).unwrap();
    assert_eq!(environment.value("LC_ALL"), Some(&b"de_DE.UTF-8"[..]));
    assert_eq!(environment.entries().len(), 10);
}

#[test]
fn even_a_list_of_everything_lets_no_code_in() {
    let mut client = ClientEnv::new(AllowList::parse(["*"]).unwrap());
    assert_eq!(client.set("FAVOURITE_COLOUR", "blue"), Ok(()));
    for name in [
        "LD_PRELOAD",
        "LD_X",
        "BASH_ENV",
        "ENV",
        "PATH",
        "IFS",
        "PYTHONSTARTUP",
        "PERL5LIB",
        "GCONV_PATH",
        "LOCPATH",
        "GLIBC_TUNABLES",
        "MALLOC_CHECK_",
        "SHELLOPTS",
        "PS4",
        "SSH_AUTH_SOCK",
        "SSH_TTY",
        "HOME",
        "SHELL",
        "USER",
        "LOGNAME",
        "MAIL",
        "TELEPORT_HOME",
        "NODE_OPTIONS",
        "GIT_SSH_COMMAND",
        "TERMINFO",
        "RUBYOPT",
    ] {
        assert_eq!(client.set(name, "x"), Err(Refused::Name), "{name}");
    }
}

#[test]
fn ten_thousand_variables_cost_no_more_than_a_few() {
    let mut client = ClientEnv::default();
    let taken = (0..10_000).filter(|i| client.set(&format!("LC_{i}"), "x").is_ok()).count();
    assert_eq!(taken, 64);
    assert_eq!(client.set("LC_0", "replaced"), Ok(()), "replacing is no growth");

    let mut client = ClientEnv::default();
    assert_eq!(client.set("LANG", &"x".repeat(4097)), Err(Refused::TooMuch));
    let taken = (0..64).filter(|i| client.set(&format!("LC_{i}"), &"x".repeat(4096)).is_ok()).count();
    assert_eq!(taken, 7, "32 KiB in all");
    assert_eq!(client.iter().count(), 7);
}

#[test]
fn the_server_has_the_last_word() {
    let mut client = ClientEnv::new(AllowList::parse(["COLOUR", "X*"]).unwrap());
    client.set("COLOUR", "blue").unwrap();
    client.set("X1", "blue").unwrap();
    let platform = [("COLOUR", "red"), ("PATH", "/evil"), ("USER", "mallory")];
    let environment = Environment::build(&source(&client, &platform)).unwrap();
    assert_eq!(environment.value("COLOUR"), Some(&b"red"[..]));
    assert_eq!(environment.value("X1"), Some(&b"blue"[..]));
    assert_eq!(environment.value("PATH"), Some(&b"/usr/bin:/bin"[..]));
    assert_eq!(environment.value("USER"), Some(&b"alice"[..]));
}

#[test]
fn impossible_variables_of_the_platform_are_errors() {
    let client = ClientEnv::default();
    for (name, value) in [("A=B", "x"), ("", "x"), ("A\0", "x"), ("A", "x\0y"), ("1A", "x")] {
        let platform = [(name, value)];
        let error = Environment::build(&source(&client, &platform)).unwrap_err();
        assert_eq!(error.name, name);
    }
}

#[test]
fn patterns_are_checked_when_they_are_read() {
    for pattern in ["", "LC-*", "A B", "LC_[A-Z]", "A=B", "Ä"] {
        assert_eq!(AllowList::parse([pattern]), Err(PatternError::Malformed(pattern.to_owned())));
    }
    for pattern in ["PATH", "LD_PRELOAD", "LD_*", "SSH_*"] {
        assert_eq!(AllowList::parse([pattern]), Err(PatternError::Never(pattern.to_owned())));
    }
    assert_eq!(AllowList::parse(["A"; 65]), Err(PatternError::TooMany));

    let list = AllowList::parse(["A*B*C", "*_Z"]).unwrap();
    for (name, allowed) in [
        ("ABC", true),
        ("A1B2C", true),
        ("AC", false),
        ("AB", false),
        ("ABCD", false),
        ("XABC", false),
        ("A_Z", true),
        ("_Z", true),
        ("A_ZZ", false),
        ("ABBC", true),
        ("ABCC", true),
    ] {
        assert_eq!(list.allows(name), allowed, "{name}");
    }
}
