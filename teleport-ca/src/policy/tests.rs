#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests fail by panicking")]
use teleport_core::cert::danger;
use teleport_core::id::{OsLogin, RoleName, UserName};

use super::*;

const ID: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";
const OTHER: &str = "1f8fad5b-d9cb-469f-a165-70867728950e";

fn user(change: impl FnOnce(&mut UserGrant)) -> Result<Vec<String>, &'static str> {
    let mut grant = danger::unchecked_user_grant(UserName::new("alice").unwrap(), Duration::from_secs(60));
    change(&mut grant);
    check_user(&grant).map_err(reason)
}

fn host(name: &str, role: HostRole, addresses: &[&str]) -> Result<Vec<String>, &'static str> {
    in_cluster("example.com", name, role, addresses)
}

fn in_cluster(
    cluster: &str,
    name: &str,
    role: HostRole,
    addresses: &[&str],
) -> Result<Vec<String>, &'static str> {
    let (id, name) = (ID.parse().unwrap(), NodeName::new(name).unwrap());
    let cluster = ClusterName::new(cluster).unwrap();
    let mut grant = danger::unchecked_host_grant(id, name, cluster.clone(), role, Duration::from_secs(60));
    grant.addresses = addresses.iter().map(|&address| address.to_owned()).collect();
    host_principals(&grant, &cluster).map_err(reason)
}

fn reason(error: IssueError) -> &'static str {
    match error {
        IssueError::Refused { reason } => reason,
        other => panic!("{other}"),
    }
}

#[test]
fn a_user_has_at_most_so_much() {
    let logins = |count: usize| (0..count).map(|index| OsLogin::new(&format!("u{index}")).unwrap()).collect();
    assert!(user(|grant| grant.logins = logins(32)).is_ok());
    assert_eq!(user(|grant| grant.logins = logins(33)).unwrap_err(), "more than 32 logins");
    let roles = |count| vec![RoleName::new("access").unwrap(); count];
    assert!(user(|grant| grant.roles = roles(128)).is_ok());
    assert_eq!(user(|grant| grant.roles = roles(129)).unwrap_err(), "more than 128 roles");
    let networks = |count| vec!["10.0.0.0/8".to_owned(); count];
    assert!(user(|grant| grant.source_addresses = networks(64)).is_ok());
    assert_eq!(
        user(|grant| grant.source_addresses = networks(65)).unwrap_err(),
        "more than 64 source addresses"
    );
}

#[test]
fn no_trait_has_control_characters() {
    let with = |name: &str, value: &str| {
        user(|grant| _ = grant.traits.insert(name.to_owned(), vec!["good".to_owned(), value.to_owned()]))
    };
    assert!(with("team", "größer, \"quoted\" \\ 'x'").is_ok());
    for bad in ["\n", "a\0", "\u{1b}[31m", "\u{7}", "\u{7f}", "\u{85}"] {
        assert_eq!(with("team", bad).unwrap_err(), "a trait has a control character", "{bad:?}");
        assert_eq!(with(bad, "blue").unwrap_err(), "a trait has a control character", "{bad:?}");
    }
}

#[test]
fn further_extensions_mean_nothing_to_openssh_or_to_us() {
    let with = |extensions: &[(&str, &str)]| {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        user(|grant| grant.extensions = extensions.iter().map(owned).collect())
    };
    assert!(with(&[("login@github.com", "alice"), ("x@example.com", "")]).is_ok());
    for name in ["permit-pty", "roles@teleport-rs", "x@OpenSSH.com", "login@", "a b@example.com", "x"] {
        assert_eq!(
            with(&[(name, "")]).unwrap_err(),
            "a further extension has a name that is not free",
            "{name}"
        );
    }
    let bad = "the value of a further extension is too long or has a control character";
    for value in ["a\n", &"a".repeat(1025)] {
        assert_eq!(with(&[("x@example.com", value)]).unwrap_err(), bad);
    }
    let twice = [("x@example.com", "a"), ("y@example.com", "a"), ("x@example.com", "b")];
    assert_eq!(with(&twice).unwrap_err(), "a further extension is named twice");
    let names: Vec<String> = (0..65).map(|number| format!("x{number}@example.com")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    assert!(with(&many[..64]).is_ok());
    assert_eq!(with(&many).unwrap_err(), "more than 64 further extensions");
}

#[test]
fn source_addresses_are_canonical_or_refused() {
    let with = |text: &str| user(|grant| grant.source_addresses = vec![text.to_owned()]);
    for (text, canonical) in [
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.7/32", "192.0.2.7/32"),
        ("192.0.2.7/24", "192.0.2.0/24"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("2001:DB8::/32", "2001:db8::/32"),
        ("2001:db8:0:0::1", "2001:db8::1"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
    ] {
        assert_eq!(with(text).unwrap(), [canonical], "{text}");
    }
    for bad in [
        "",
        "*",
        "10.0.0.0/8,0.0.0.0/0",
        "10.0.0.0/33",
        "10.0.0.00/8",
        "10.0.0.010",
        "10.0.0.0/08",
        "10.0.0.0/+8",
        "10.0.0.0/",
        "!10.0.0.0/8",
        "10.0.0.0/8\n",
        "10.0.0",
        "host",
        " 10.0.0.1",
    ] {
        assert!(with(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn life_is_clamped_and_starts_a_minute_ago() {
    let now = Timestamp::from_unix_millis(1_800_000_000_999);
    for (ttl, user_secs, host_secs) in [
        (Duration::ZERO, 60, 60),
        (Duration::from_millis(90_700), 90, 90),
        (Duration::from_secs(31 * 3600), 30 * 3600, 31 * 3600),
        (Duration::MAX, 30 * 3600, 30 * 24 * 3600),
    ] {
        for (validity, secs) in [(Validity::user(now, ttl), user_secs), (Validity::host(now, ttl), host_secs)]
        {
            assert_eq!(validity.after, Timestamp::from_unix_secs(1_799_999_940));
            assert_eq!(validity.before, Timestamp::from_unix_secs(1_800_000_000 + secs), "{ttl:?}");
        }
    }
}

#[test]
fn addresses_are_addresses_or_names() {
    let with = |address: &str| host("web-1", HostRole::Node, &[address]);
    assert_eq!(with("2001:DB8::1").unwrap().last().unwrap(), "2001:db8::1");
    assert_eq!(with("web.internal").unwrap().last().unwrap(), "web.internal");
    assert_eq!(with("WEB-1").unwrap().len(), 8);
    for bad in [
        "",
        "*",
        "*.example.com",
        "a,b",
        "a b",
        "a\n",
        "a?",
        "!a",
        "a/b",
        "root@a",
        "-a",
        "web:22",
        "[::1]:22",
        "é",
    ] {
        assert_eq!(with(bad).unwrap_err(), "an address is neither an IP address nor a host name", "{bad:?}");
    }
    let many: Vec<String> = (0..33).map(|index| format!("h{index}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(host("web-1", HostRole::Node, &many[..32]).is_ok());
    assert_eq!(host("web-1", HostRole::Node, &many).unwrap_err(), "more than 32 addresses");
}

/// Display names are chosen by the host: none may be a name by which somebody else is found.
#[test]
fn no_host_takes_the_name_of_another() {
    const REASON: &str = "a name or address belongs to another host or service";
    let upper = OTHER.to_uppercase();
    let within = format!("{OTHER}.example.com");
    let service = "teleport.cluster.local";
    for name in [OTHER, &upper, &within, service, "Teleport.Cluster.Local", "teleport.cluster.local."] {
        assert_eq!(host(name, HostRole::Node, &[]).unwrap_err(), REASON, "{name}");
        assert_eq!(host("web-1", HostRole::Node, &[name]).unwrap_err(), REASON, "{name}");
    }
    // Together with the cluster's name it would be the service's.
    assert_eq!(in_cluster("cluster.local", "teleport", HostRole::Node, &[]).unwrap_err(), REASON);
    for role in [HostRole::Auth, HostRole::Proxy] {
        assert!(host("web-1", role, &[service]).is_ok());
        assert_eq!(host(OTHER, role, &[]).unwrap_err(), REASON);
    }
    assert!(host(ID, HostRole::Node, &[]).is_ok(), "its own id is no other host's");
}

#[test]
fn only_a_proxy_has_the_name_of_the_proxies() {
    let principals = host("gate", HostRole::Proxy, &["proxy.example.com"]).unwrap();
    assert!(principals.iter().any(|name| name == "teleport-proxy.example.com"), "{principals:?}");
    for role in [HostRole::Node, HostRole::Auth] {
        let principals = host("gate", role, &["proxy.example.com"]).unwrap();
        assert!(!principals.iter().any(|name| name.starts_with("teleport-proxy")), "{principals:?}");
        for name in
            ["teleport-proxy", "Teleport-Proxy", "teleport-proxy.example.com", "TELEPORT-proxy.Example.com."]
        {
            assert!(host(name, role, &[]).is_err(), "{name}");
        }
        for address in
            ["teleport-proxy.example.com", "Teleport-Proxy.EXAMPLE.com", "teleport-proxy.example.com."]
        {
            assert!(host("web-1", role, &[address]).is_err(), "{address}");
        }
    }
}

#[test]
fn a_host_of_another_cluster_is_refused() {
    let (id, name) = (ID.parse().unwrap(), NodeName::new("web-1").unwrap());
    let cluster = ClusterName::new("other.com").unwrap();
    let grant = danger::unchecked_host_grant(id, name, cluster, HostRole::Node, Duration::from_secs(60));
    let error = host_principals(&grant, &ClusterName::new("example.com").unwrap()).unwrap_err();
    assert_eq!(reason(error), "the host is of another cluster");
}

#[test]
fn keys_without_a_secret_are_refused() {
    let ssh = |point: [u8; 32]| PublicKey::from_wire(&wire::ed25519_key(&point)).unwrap();
    for mut point in SMALL_ORDER {
        assert!(check_ssh_key(&ssh(point), std::iter::empty()).is_err(), "{point:?}");
        point[31] |= 0x80;
        assert!(check_ssh_key(&ssh(point), std::iter::empty()).is_err(), "{point:?}");
    }
    let good = ssh([7; 32]);
    assert!(check_ssh_key(&good, std::iter::empty()).is_ok());
    assert_eq!(
        check_ssh_key(&good, [&good].into_iter()).map_err(reason),
        Err("the key is one of the authority")
    );
    let mut point = [0; 65];
    point[0] = 4;
    let zero = PublicKey::from_wire(&wire::p256_key(&point)).unwrap();
    assert!(check_ssh_key(&zero, std::iter::empty()).is_err());
    point[64] = 1;
    assert!(
        check_ssh_key(&PublicKey::from_wire(&wire::p256_key(&point)).unwrap(), std::iter::empty()).is_ok()
    );
}
