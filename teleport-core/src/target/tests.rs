#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
use proptest::prelude::*;

use super::*;

const ID: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

fn name(text: &str) -> TargetHost {
    TargetHost::Name(NodeName::new(text).unwrap())
}

fn address(text: &str) -> TargetHost {
    TargetHost::Address(text.parse().unwrap())
}

#[test]
fn reads_every_documented_form() {
    let id = || TargetHost::Id(ID.parse().unwrap());
    let labels = |text: &str| TargetHost::Labels(text.parse().unwrap());
    for (text, host, port, cluster) in [
        ("web", name("web"), None, None),
        ("web:0", name("web"), None, None),
        ("web:22", name("web"), Some(22), None),
        ("web.example.com:3022@leaf", name("web.example.com"), Some(3022), Some("leaf")),
        ("web@leaf.example.com", name("web"), None, Some("leaf.example.com")),
        ("WEB_1", name("WEB_1"), None, None),
        ("10.0.0.7:65535", address("10.0.0.7"), Some(65535), None),
        ("[2001:db8::1]", address("2001:db8::1"), None, None),
        ("[2001:db8::1]:22@leaf", address("2001:db8::1"), Some(22), Some("leaf")),
        ("[::ffff:127.0.0.1]:22", address("::ffff:127.0.0.1"), Some(22), None),
        ("env=prod", labels("env=prod"), None, None),
        ("env=prod,os=linux:0@leaf", labels("env=prod,os=linux"), None, Some("leaf")),
        (ID, id(), None, None),
        (&format!("{ID}:3022@leaf"), id(), Some(3022), Some("leaf")),
    ] {
        let target: DialTarget = text.parse().unwrap();
        assert_eq!((&target.host, target.port), (&host, port), "{text}");
        assert_eq!(target.cluster.as_ref().map(ClusterName::as_str), cluster, "{text}");
    }
}

#[test]
fn refuses_everything_else_and_says_why() {
    use InvalidTarget as Invalid;
    for (text, expected) in [
        ("", Invalid::Size),
        (&*"a".repeat(MAX_TARGET_LEN + 1), Invalid::Size),
        (&*"a".repeat(254), Invalid::Host),
        (":22", Invalid::Host),
        ("-oProxyCommand=id", Invalid::Labels),
        ("z=1,-oProxyCommand=id", Invalid::Labels),
        ("-oProxyCommand", Invalid::Host),
        ("`id`", Invalid::Host),
        ("$(id)", Invalid::Host),
        ("a b", Invalid::Host),
        ("a\nb", Invalid::Host),
        ("a\0", Invalid::Host),
        ("a/b", Invalid::Host),
        ("a'b", Invalid::Host),
        ("a\"b", Invalid::Host),
        ("%h", Invalid::Host),
        ("~root", Invalid::Host),
        ("../x", Invalid::Host),
        ("é", Invalid::Host),
        ("a:", Invalid::Port),
        ("a:x", Invalid::Port),
        ("a:+22", Invalid::Port),
        ("a:-1", Invalid::Port),
        ("a:65536", Invalid::Port),
        ("a:99999999999999999999", Invalid::Port),
        ("a: 22", Invalid::Port),
        ("::1", Invalid::Unbracketed),
        ("::1:22", Invalid::Unbracketed),
        ("a:22:22", Invalid::Unbracketed),
        ("[::1", Invalid::Host),
        ("[]", Invalid::Host),
        ("[::1]22", Invalid::Host),
        ("[fe80::1%eth0]", Invalid::Host),
        ("[10.0.0.1]", Invalid::Host),
        ("a@", Invalid::Cluster),
        ("a@b@c", Invalid::Cluster),
        ("a@-b", Invalid::Cluster),
        ("a@$(id)", Invalid::Cluster),
        ("a@b:22", Invalid::Cluster),
        ("=prod", Invalid::Labels),
        ("env=a,env=b", Invalid::Labels),
        ("env=a,", Invalid::Labels),
        ("env=a=b", Invalid::Labels),
        ("env=$(id)", Invalid::Labels),
        ("env=a b", Invalid::Labels),
        ("env=*", Invalid::Labels),
    ] {
        assert_eq!(text.parse::<DialTarget>(), Err(expected), "{text:?}");
    }
}

#[test]
fn subsystems() {
    let target = DialTarget::from_subsystem("proxy:web:3022@leaf").unwrap();
    assert_eq!(target, "web:3022@leaf".parse().unwrap());
    assert_eq!(DialTarget::from_subsystem("proxy:web:3022@default@leaf").unwrap(), target);
    assert_eq!(target.to_subsystem(), "proxy:web:3022@leaf");
    assert_eq!(DialTarget::from_subsystem("proxy:web").unwrap().to_subsystem(), "proxy:web:0");
    assert_eq!(DialTarget::from_subsystem("proxy:[::1]:22").unwrap().to_subsystem(), "proxy:[::1]:22");
    for (name, expected) in [
        ("sftp", InvalidTarget::Subsystem),
        ("", InvalidTarget::Subsystem),
        ("PROXY:web:22", InvalidTarget::Subsystem),
        ("proxysites", InvalidTarget::Subsystem),
        ("proxy", InvalidTarget::Subsystem),
        ("proxy:", InvalidTarget::Size),
        ("proxy:@leaf", InvalidTarget::AuthService),
        ("proxy:web:22@other@leaf", InvalidTarget::Namespace),
        ("proxy:web:22@default@leaf@x", InvalidTarget::Namespace),
        ("proxy:::1:22", InvalidTarget::Unbracketed),
        ("proxy:web:22\n", InvalidTarget::Port),
    ] {
        assert_eq!(DialTarget::from_subsystem(name), Err(expected), "{name:?}");
    }
    assert_eq!(DialTarget::from_subsystem(&"p".repeat(1 << 20)), Err(InvalidTarget::Size));
}

#[test]
fn host_and_port_apart() {
    let target = |host, port| DialTarget::from_host_port(host, port);
    assert_eq!(target("::1", 22), "[::1]:22".parse());
    assert_eq!(target("[::1]", 22), "[::1]:22".parse());
    assert_eq!(target("web@leaf", 0), "web@leaf".parse());
    assert_eq!(target("web", 65536), Err(InvalidTarget::Port));
    assert_eq!(target("web:22", 22), Err(InvalidTarget::Host));
    assert_eq!(target("", 22), Err(InvalidTarget::Size));
}

#[test]
fn names_inside_a_cluster() {
    let cluster = ClusterName::new("example.com").unwrap();
    assert_eq!(name("web.example.com").inside(&cluster), Some(name("web")));
    assert_eq!(name("a.b.example.com").inside(&cluster), Some(name("a.b")));
    let by_id = name(&format!("{ID}.example.com")).inside(&cluster);
    assert_eq!(by_id, Some(TargetHost::Id(ID.parse().unwrap())));
    for other in ["web", "example.com", ".example.com", "webexample.com", "web.example.org"] {
        if let Ok(other) = NodeName::new(other) {
            assert_eq!(TargetHost::Name(other).inside(&cluster), None);
        }
    }
}

#[test]
fn logins() {
    let parse = |text: &str| text.parse::<LoginTarget>();
    let full = parse("root@web:22@leaf").unwrap();
    assert_eq!(full.login.unwrap().as_str(), "root");
    assert_eq!(full.target, "web:22@leaf".parse().unwrap());
    assert_eq!(parse("web").unwrap().login, None);
    assert_eq!(parse("-l@web"), Err(InvalidTarget::Login));
    assert_eq!(parse("@web"), Err(InvalidTarget::Login));
    assert_eq!(parse("a b@web"), Err(InvalidTarget::Login));
}

proptest! {
    #[test]
    fn whatever_is_accepted_is_harmless_and_survives_a_round_trip(text in "[ -~\n\u{e9}]{0,40}|[a-z0-9.:@=,\\[\\]-]{1,40}") {
        if let Ok(target) = text.parse::<DialTarget>() {
            let printed = target.to_string();
            prop_assert_eq!(&printed.parse::<DialTarget>().unwrap(), &target);
            prop_assert!(!printed.starts_with('-'));
            let safe = |c: char| c.is_ascii_alphanumeric() || "._-:@=,[]/+".contains(c);
            prop_assert!(printed.chars().all(safe), "{}", printed);
            prop_assert_eq!(DialTarget::from_subsystem(&target.to_subsystem()).unwrap(), target);
        }
    }

    #[test]
    fn good_targets_are_read_back(
        host in "[a-z0-9][a-z0-9._-]{0,20}",
        port in proptest::option::of(1u16..),
        cluster in proptest::option::of("[a-z][a-z0-9.-]{0,20}"),
    ) {
        let target = DialTarget {
            host: parse_host(&host).unwrap(),
            port,
            cluster: cluster.map(|cluster| ClusterName::new(&cluster).unwrap()),
        };
        prop_assert_eq!(target.to_string().parse::<DialTarget>().unwrap(), target);
    }

    #[test]
    fn no_text_panics(text in any::<String>(), port in any::<u32>()) {
        let _ = text.parse::<DialTarget>();
        let _ = text.parse::<LoginTarget>();
        let _ = DialTarget::from_subsystem(&text);
        let _ = DialTarget::from_host_port(&text, port);
    }
}
