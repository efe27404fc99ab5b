#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::io::Write;
use std::path::Path;

use super::*;

#[test]
fn root_is_found_and_a_stranger_is_not() {
    let root = Account::lookup("root").unwrap();
    assert_eq!((root.uid, root.gid), (0, 0));
    assert!(root.groups.contains(&0));
    assert!(matches!(Account::lookup("no-such-login-here"), Err(AccountError::Unknown { .. })));
    assert!(matches!(Account::lookup("root\0x"), Err(AccountError::Unknown { .. })));
    assert!(matches!(Account::lookup(""), Err(AccountError::Unknown { .. })));
}

#[test]
fn an_empty_home_or_shell_has_a_default() {
    assert_eq!(or_default("".into(), "/bin/sh"), Path::new("/bin/sh"));
    assert_eq!(or_default("/bin/zsh".into(), "/bin/sh"), Path::new("/bin/zsh"));
}

#[test]
fn expiry_begins_with_the_day() {
    let day = |expires_on_day| Shadow { is_locked: false, expires_on_day };
    let midnight = 20_000 * 86_400;
    for (shadow, now, expired) in [
        (day(-1), i64::MAX, false),
        (day(20_000), midnight - 1, false),
        (day(20_000), midnight, true),
        (day(20_000), midnight + 1, true),
        (day(20_001), midnight, false),
        (day(1), midnight, true),
        (day(0), midnight, true),
    ] {
        assert_eq!(shadow.is_expired(now), expired, "{shadow:?} at {now}");
    }
}

#[test]
fn a_nologin_file_closes_the_system_to_all_but_root() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    write!(file, "back at noon\n{}", "x".repeat(10_000)).unwrap();
    let rules = LoginRules { nologin_files: vec![file.path().to_owned()], ..LoginRules::default() };
    let open = LoginRules { nologin_files: vec!["/nonexistent/nologin".into()], ..LoginRules::default() };

    let mut account = Account::lookup(&host::current_login().unwrap()).unwrap();
    assert!(account.check(0, &open).is_ok());
    assert_eq!(account.check(0, &rules).is_ok(), account.uid == 0);

    // The same account as if it were not root's.
    account.uid = host::effective_uid().max(1);
    match account.check(0, &rules) {
        Err(AccountError::Closed { notice, .. }) => {
            assert!(notice.starts_with("back at noon\n"));
            assert_eq!(notice.len(), 4096);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn search_paths_come_from_the_distribution() {
    let defs = LoginDefs::parse(
        "# ENV_PATH PATH=/commented\nENV_PATH\tPATH=/first\n  ENV_PATH  PATH=/bin:/usr/bin  \n\
         ENV_SUPATH \"PATH=/sbin:/bin\"\nENV_PATHS /not/this\nENV_PATH\nENV_PATH \n",
    );
    assert_eq!(defs.path_for(1000), "/bin:/usr/bin");
    assert_eq!(defs.path_for(0), "/sbin:/bin");

    assert_eq!(LoginDefs::parse("ENV_PATH /plain").path_for(1), "/plain");
    assert_eq!(LoginDefs::parse("ENV_PATH PATH=\x1b[2J").path_for(1), DEFAULTS.0);
    assert_eq!(LoginDefs::parse(""), LoginDefs::default());
    assert_eq!(LoginDefs::load_from(Path::new("/nonexistent")), LoginDefs::default());
    assert_eq!(LoginDefs::default().path_for(0), DEFAULTS.1);
}

const DEFAULTS: (&str, &str) = (
    "/usr/local/bin:/usr/bin:/bin:/usr/games",
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
);
