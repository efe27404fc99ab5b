//! The environment of a user's process. Input: lines; `?` begins a pattern of the allow-list, anything else is a variable of
//! the client.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use teleport_ssh::sys::environment::{AllowList, ClientEnv, Environment, Source, Terminal};

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let (patterns, variables): (Vec<&str>, Vec<&str>) =
        text.split('\n').partition(|line| line.starts_with('?'));
    let patterns = patterns.iter().map(|pattern| &pattern[1..]);
    let mut client = AllowList::parse(patterns).map(ClientEnv::new).unwrap_or_default();
    for variable in &variables {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        let accepted = client.set(name, value).is_ok();
        assert!(!(accepted && dangerous(name)), "{name} was accepted");
    }
    assert!(client.iter().count() <= 64);
    let terminal =
        Terminal { kind: variables.first().copied().unwrap_or_default(), device: Path::new("/dev/pts/7") };
    let source = Source {
        login: "alice",
        home: Path::new("/home/alice"),
        shell: Path::new("/bin/sh"),
        path: "/usr/bin:/bin",
        terminal: Some(terminal),
        connection: None,
        platform: &[],
        client: &client,
    };
    // Neither a NUL nor a `=` in a name gets through `set`, so nothing can fail here.
    let environment = Environment::build(&source).expect("what the client may set can be set");
    for (name, truth) in
        [("USER", "alice"), ("HOME", "/home/alice"), ("SHELL", "/bin/sh"), ("PATH", "/usr/bin:/bin")]
    {
        assert_eq!(environment.value(name), Some(truth.as_bytes()), "{name}");
    }
    let mut names: Vec<&[u8]> = environment
        .entries()
        .map(|entry| entry.to_bytes().split(|byte| *byte == b'=').next().unwrap_or_default())
        .collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all, "each name once");
});

fn dangerous(name: &str) -> bool {
    const NAMES: [&str; 9] =
        ["BASH_ENV", "ENV", "IFS", "PATH", "HOME", "SHELL", "USER", "PERL5LIB", "PYTHONPATH"];
    NAMES.contains(&name)
        || ["LD_", "SSH_", "TELEPORT_", "DYLD_", "BASH_FUNC_"].iter().any(|p| name.starts_with(p))
}
