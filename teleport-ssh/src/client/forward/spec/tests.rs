#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
use proptest::prelude::*;

use super::*;

fn at(port: u16) -> Listen {
    Listen::Tcp { bind: BindAddress::Loopback, port }
}

fn bound(host: &str, port: u16) -> Listen {
    Listen::Tcp { bind: BindAddress::Host(host.to_owned()), port }
}

fn to(host: &str, port: u16) -> Target {
    Target::To(Destination::Tcp { host: host.to_owned(), port })
}

fn socket(path: &str) -> Target {
    Target::To(Destination::Unix(path.into()))
}

#[test]
fn what_ssh_takes_is_read() {
    let unix = |path: &str| Listen::Unix(path.into());
    let all = |port| Listen::Tcp { bind: BindAddress::All, port };
    for (text, listen, target) in [
        ("8080:db:5432", at(8080), to("db", 5432)),
        ("localhost:8080:db:5432", at(8080), to("db", 5432)),
        ("*:8080:db:5432", all(8080), to("db", 5432)),
        (":8080:db:5432", all(8080), to("db", 5432)),
        ("10.0.0.1:80:db.example.com:1", bound("10.0.0.1", 80), to("db.example.com", 1)),
        ("[::1]:80:[2001:db8::1]:65535", bound("::1", 80), to("2001:db8::1", 65535)),
        ("80:[::1]:443", at(80), to("::1", 443)),
        ("80:/run/db.sock", at(80), socket("/run/db.sock")),
        ("[::1]:80:/run/db.sock", bound("::1", 80), socket("/run/db.sock")),
        ("/tmp/s:/run/db.sock", unix("/tmp/s"), socket("/run/db.sock")),
        ("/tmp/s:db:5432", unix("/tmp/s"), to("db", 5432)),
        (r"/tmp/a\:b:db:1", unix("/tmp/a:b"), to("db", 1)),
        (r"1:/tmp/a\\b", at(1), socket(r"/tmp/a\b")),
    ] {
        let forward = Forward { listen, to: target };
        assert_eq!(Forward::local(text).as_ref(), Ok(&forward), "{text}");
        assert_eq!(Forward::remote(text).as_ref(), Ok(&forward), "{text}");
        assert_eq!(Forward::local(&forward.to_string()).as_ref(), Ok(&forward), "{forward}");
    }
    for (text, listen) in [("1080", at(1080)), ("[::]:1080", bound("::", 1080)), ("*:1080", all(1080))] {
        let forward = Forward { listen, to: Target::Dynamic };
        assert_eq!(Forward::dynamic(text).as_ref(), Ok(&forward), "{text}");
        assert_eq!(Forward::remote(text).as_ref(), Ok(&forward), "{text}");
    }
    assert_eq!(Forward::remote("0:db:1").unwrap().listen, at(0));
    assert_eq!(Forward::remote("/tmp/socks").unwrap().listen, unix("/tmp/socks"));
    assert_eq!("[::1]:22".parse(), Ok(Destination::Tcp { host: "::1".to_owned(), port: 22 }));
}

#[test]
fn g6_what_is_no_forward_is_refused() {
    use InvalidForward::{Host, Path, Port, Syntax};
    for (text, why) in [
        ("", Syntax),
        ("8080", Syntax),
        ("8080:db", Syntax),
        ("8080:db:5432:x:y", Syntax),
        ("/a:1:db:5432", Syntax),
        ("[::1:80:db:1", Syntax),
        ("[::1]x:80:db:1", Syntax),
        ("80:db:1\\", Syntax),
        ("0:db:5432", Port),
        ("65536:db:5432", Port),
        ("80:db:0", Port),
        ("80:db:http", Port),
        ("80:db:", Port),
        ("+80:db:1", Port),
        ("80::1", Host),
        ("[db]:80:db:1", Host),
        ("80:[1.2.3.4]:1", Host),
        ("80:$(id):1", Host),
        ("80:-oProxyCommand=x:1", Host),
        ("80:a b:1", Host),
        ("80:a\nb:1", Host),
        ("80:/run/a\nb", Path),
        ("80:/", Path),
    ] {
        assert_eq!(Forward::local(text), Err(why), "{text:?}");
    }
    assert_eq!(Forward::local(&format!("80:/{}", "x".repeat(107))), Err(Path));
    assert_eq!(Forward::local(&format!("80:{}:1", "x".repeat(256))), Err(Host));
    assert_eq!(Forward::local(&"1:".repeat(600)), Err(Syntax));
    for text in ["", "a:b:c", "/tmp/x:80", "1080:db:1"] {
        assert!(Forward::dynamic(text).is_err(), "{text:?}");
    }
    assert_eq!(Forward::dynamic("0"), Err(Port));
}

proptest! {
    #[test]
    fn whatever_is_read_is_written_so_that_it_is_read_again(text in r"(\*|\[::1\]|[0-9a-z./\\-]{0,6})(:(\[fe80::1\]|/[a-z:\\]{1,4}|[0-9a-z.$]{0,6})){0,4}") {
        for read in [Forward::local, Forward::remote, Forward::dynamic] {
            if let Ok(forward) = read(&text) {
                prop_assert_eq!(read(&forward.to_string()), Ok(forward));
            }
        }
    }
}

/// Only addresses have colons: anything else could not be written down again.
#[test]
fn a_host_with_colons_is_an_address() {
    for text in [r"\:\:8DDD-%-:5", r"a\:b:5"] {
        assert_eq!(Forward::dynamic(text), Err(InvalidForward::Host), "{text}");
    }
    let forward = Forward::dynamic(r"\:\:1:5").unwrap();
    assert_eq!((forward.to_string().as_str(), Forward::dynamic("[::1]:5")), ("[::1]:5", Ok(forward.clone())));
}
