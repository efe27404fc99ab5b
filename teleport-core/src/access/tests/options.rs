//! How the options of several roles become one.

use std::time::Duration;

use super::*;
use crate::resource::{LockMode, PortForwarding, RecordSession, RecordingMode, Switch};

/// The merged options of roles that differ from the default by these functions.
fn merged(changes: &[fn(&mut RoleOptions)]) -> SessionPolicy {
    let options: Vec<RoleOptions> = changes
        .iter()
        .map(|change| {
            let mut options = RoleOptions::default();
            change(&mut options);
            options
        })
        .collect();
    SessionPolicy::merge(options.iter())
}

const SILENT: fn(&mut RoleOptions) = |_| ();
const YES: Option<Switch> = Some(Switch { enabled: true });
const NO: Option<Switch> = Some(Switch { enabled: false });

#[test]
fn what_one_role_permits_is_permitted() {
    let agent: fn(&mut RoleOptions) = |options| options.forward_agent = true;
    let x11: fn(&mut RoleOptions) = |options| options.permit_x11_forwarding = true;
    let expired: fn(&mut RoleOptions) = |options| options.disconnect_expired_cert = true;
    assert!(!merged(&[SILENT]).agent_forwarding);
    assert!(merged(&[SILENT, agent, SILENT]).agent_forwarding);
    assert!(!merged(&[SILENT]).x11_forwarding);
    assert!(merged(&[x11, SILENT]).x11_forwarding);
    assert!(!merged(&[SILENT]).disconnect_expired_cert);
    assert!(merged(&[SILENT, expired]).disconnect_expired_cert);
}

#[test]
fn files_are_copied_if_every_role_agrees() {
    let no_copy: fn(&mut RoleOptions) = |options| options.ssh_file_copy = false;
    assert!(merged(&[SILENT, SILENT]).file_copy);
    assert!(!merged(&[SILENT, no_copy]).file_copy);
}

#[test]
fn the_lowest_limit_counts_and_zero_is_none() {
    let limits = |sessions, connections, idle| RoleOptions {
        max_sessions: sessions,
        max_connections: connections,
        client_idle_timeout: Duration::from_secs(idle),
        ..RoleOptions::default()
    };
    for (roles, sessions, connections, idle) in [
        (vec![(0, 0, 0)], None, None, None),
        (vec![(0, 0, 0), (5, 7, 90)], Some(5), Some(7), Some(90)),
        (vec![(9, 2, 30), (5, 7, 90)], Some(5), Some(2), Some(30)),
    ] {
        let options: Vec<RoleOptions> = roles
            .into_iter()
            .map(|(sessions, connections, idle)| limits(sessions, connections, idle))
            .collect();
        let policy = SessionPolicy::merge(options.iter());
        let idle = idle.map(Duration::from_secs);
        assert_eq!(
            (policy.max_sessions, policy.max_connections, policy.idle_timeout),
            (sessions, connections, idle)
        );
    }
}

#[test]
fn an_explicit_no_to_a_direction_wins() {
    let both = |legacy, local, remote| RoleOptions {
        port_forwarding: legacy,
        ssh_port_forwarding: PortForwarding { local, remote },
        ..RoleOptions::default()
    };
    for (roles, local, remote) in [
        (vec![(true, None, None)], true, true),
        (vec![(false, None, None)], false, false),
        (vec![(false, None, None), (true, None, None)], true, true),
        (vec![(false, YES, None)], true, false),
        (vec![(true, NO, None)], false, true),
        (vec![(true, NO, None), (true, YES, NO)], false, false),
        (vec![(false, YES, YES), (false, None, None)], true, true),
        (vec![(true, None, None), (true, None, NO)], true, false),
    ] {
        let options: Vec<RoleOptions> =
            roles.iter().map(|(legacy, local, remote)| both(*legacy, *local, *remote)).collect();
        let policy = SessionPolicy::merge(options.iter());
        assert_eq!((policy.local_forwarding, policy.remote_forwarding), (local, remote), "{roles:?}");
    }
}

#[test]
fn the_strictest_counts() {
    use LockMode::{BestEffort, Strict};
    let locks = |locks: &[Option<LockMode>]| {
        let options: Vec<RoleOptions> =
            locks.iter().map(|lock| RoleOptions { lock: *lock, ..RoleOptions::default() }).collect();
        SessionPolicy::merge(options.iter()).lock_mode
    };
    assert_eq!(locks(&[None, None]), None);
    assert_eq!(locks(&[None, Some(BestEffort)]), Some(BestEffort));
    assert_eq!(locks(&[Some(Strict), None, Some(BestEffort)]), Some(Strict));
    let recording = |modes: &[(Option<RecordingMode>, Option<RecordingMode>)]| {
        let options: Vec<RoleOptions> = modes
            .iter()
            .map(|(default, ssh)| RoleOptions {
                record_session: RecordSession { default: *default, ssh: *ssh },
                ..RoleOptions::default()
            })
            .collect();
        SessionPolicy::merge(options.iter()).recording
    };
    let (best_effort, strict) = (Some(RecordingMode::BestEffort), Some(RecordingMode::Strict));
    assert_eq!(recording(&[(None, None)]), RecordingMode::BestEffort);
    assert_eq!(recording(&[(strict, None)]), RecordingMode::Strict);
    assert_eq!(recording(&[(strict, best_effort)]), RecordingMode::BestEffort);
    assert_eq!(recording(&[(strict, best_effort), (None, strict)]), RecordingMode::Strict);
}

#[test]
fn the_shortest_life_of_certificates_counts() {
    let with = |name: &str, secs| {
        let mut role = role(name, none(), none());
        role.spec.options.max_session_ttl = Duration::from_secs(secs);
        role.spec.options.pin_source_ip = secs == 60;
        role
    };
    for (secs, expected, pinned) in [(vec![3600], 3600, false), (vec![3600, 60, 7200], 60, true)] {
        let roles: Vec<Role> =
            secs.iter().enumerate().map(|(index, secs)| with(&format!("r{index}"), *secs)).collect();
        let (identity, set) = (holder(&roles), RoleSet::new(roles));
        let check = AccessChecker::for_identity(&identity, &set);
        assert_eq!(check.max_session_ttl(), Some(Duration::from_secs(expected)));
        assert_eq!(check.pin_source_ip(), pinned);
    }
}

#[test]
fn forwarding_needs_certificate_and_role() {
    let mut forwarding = role("fwd", conditions(&["root"], r#"{"*":"*"}"#), none());
    for (cert, by_role) in [(true, true), (true, false), (false, true), (false, false)] {
        forwarding.spec.options.forward_agent = by_role;
        forwarding.spec.options.port_forwarding = by_role;
        forwarding.spec.options.permit_x11_forwarding = by_role;
        let mut identity = identity(&["fwd"], &["root"]);
        identity.permits.agent_forwarding = cert;
        identity.permits.port_forwarding = cert;
        identity.permits.x11_forwarding = cert;
        let roles = RoleSet::new([forwarding.clone()]);
        let check = AccessChecker::for_identity(&identity, &roles);
        let policy = check.check_login(&identity, &node(""), &login("root")).unwrap().policy;
        let permitted = [
            policy.agent_forwarding,
            policy.local_forwarding,
            policy.remote_forwarding,
            policy.x11_forwarding,
        ];
        assert_eq!(permitted, [cert && by_role; 4]);
        assert_eq!((check.agent_forwarding(), check.port_forwarding()), (by_role, by_role));
    }
}

/// A role for other nodes lifts no restriction of this one, and every denial counts.
#[test]
fn destinations_and_commands_are_those_of_the_granting_roles() {
    let on = |name: &str, env: &str, open: Option<&[&str]>, commands: Option<&[&str]>| {
        let mut allow = conditions(&["root"], &format!(r#"{{"env":"{env}"}}"#));
        allow.permit_open = open.map(texts);
        allow.commands = commands.map(texts);
        role(name, allow, none())
    };
    let mut no_metadata = role("no-metadata", none(), none());
    no_metadata.spec.deny.permit_open = Some(texts(&["169.254.169.254:*"]));
    let roles = [
        on("bastion", "bastion", Some(&["db:5432"]), Some(&["uptime"])),
        on("bastion-web", "bastion", Some(&["web:443"]), Some(&["id"])),
        on("test", "test", None, None),
        on("test-narrow", "test", Some(&["db:5432"]), Some(&["uptime"])),
        no_metadata,
    ];
    let policy = |env: &str| grant(&roles, &format!("env={env}"), "root").unwrap().policy;
    let to = |host, port| Destination { host, port, address: None };
    let bastion = policy("bastion");
    assert!(bastion.destinations.permit(&to("db", 5432)) && bastion.destinations.permit(&to("web", 443)));
    assert!(!bastion.destinations.permit(&to("db", 22)));
    assert!(!bastion.destinations.permit(&to("169.254.169.254", 80)));
    assert!(bastion.commands.permit("uptime") && bastion.commands.permit("id"));
    assert!(!bastion.commands.permit("reboot") && !bastion.shell() && !bastion.file_copy);
    let test = policy("test");
    assert!(test.destinations.permit(&to("anything", 1)));
    assert!(!test.destinations.permit(&to("169.254.169.254", 80)));
    assert!(test.commands.is_unrestricted() && test.shell() && test.file_copy);
    let listed: Vec<String> = bastion.destinations.allowed().unwrap().map(str::to_owned).collect();
    assert_eq!(listed, ["db:5432", "web:443"]);
    assert!(test.commands.allowed().is_none());
}

/// The table names every option that documents can have, with the default that a document without it has.
#[test]
fn the_table_of_options_is_complete_and_in_the_manual() {
    let mut full = RoleOptions {
        max_session_ttl: Duration::from_secs(1),
        forward_agent: true,
        port_forwarding: false,
        ssh_port_forwarding: PortForwarding { local: YES, remote: NO },
        ssh_file_copy: false,
        permit_x11_forwarding: true,
        client_idle_timeout: Duration::from_secs(1),
        disconnect_expired_cert: true,
        max_sessions: 1,
        max_connections: 1,
        record_session: RecordSession { default: Some(RecordingMode::Strict), ssh: None },
        pin_source_ip: true,
        cert_extensions: vec![crate::resource::CertExtension::new("a@b", "c")],
        lock: Some(LockMode::Strict),
    };
    let written = serde_json::to_value(&full).unwrap();
    let keys: Vec<&str> = written.as_object().unwrap().keys().map(String::as_str).collect();
    let names: Vec<&str> = OPTION_RULES.iter().map(|rule| rule.name).collect();
    assert_eq!(names, keys);
    for rule in OPTION_RULES {
        let default: serde_json::Value = match rule.default {
            "true" => true.into(),
            "false" => false.into(),
            "0" => 0.into(),
            "none" | "as the cluster says" | "as `port_forwarding`" => continue,
            "best_effort" => serde_json::json!({"default": "best_effort"}),
            text => text.into(),
        };
        let document = serde_json::json!({ rule.name: default });
        let mut read: RoleOptions = serde_json::from_value(document).unwrap();
        if rule.name == "record_session" {
            assert_eq!(read.record_session.for_ssh(), RecordSession::default().for_ssh());
            read.record_session = RecordSession::default();
        }
        assert_eq!(read, RoleOptions::default(), "{}", rule.name);
    }
    full.cert_extensions.clear();
    assert!(
        include_str!("../../manual/roles.md").contains(&option_table()),
        "the manual needs\n{}",
        option_table()
    );
}

/// What [`Merge`] says of each option, with two values of it.
#[test]
fn options_are_merged_as_the_table_says() {
    let value = |policy: &SessionPolicy, check: &AccessChecker<'_>, name: &str| match name {
        "cert_extensions" => format!("{:?}", check.cert_extensions()),
        "client_idle_timeout" => format!("{:?}", policy.idle_timeout),
        "disconnect_expired_cert" => policy.disconnect_expired_cert.to_string(),
        "forward_agent" => policy.agent_forwarding.to_string(),
        "lock" => format!("{:?}", policy.lock_mode),
        "max_connections" => format!("{:?}", policy.max_connections),
        "max_session_ttl" => format!("{:?}", check.max_session_ttl()),
        "max_sessions" => format!("{:?}", policy.max_sessions),
        "permit_x11_forwarding" => policy.x11_forwarding.to_string(),
        "pin_source_ip" => check.pin_source_ip().to_string(),
        "port_forwarding" => policy.local_forwarding.to_string(),
        "record_session" => format!("{:?}", policy.recording),
        "ssh_file_copy" => policy.file_copy.to_string(),
        "ssh_port_forwarding" => format!("{} {}", policy.local_forwarding, policy.remote_forwarding),
        other => panic!("{other} is not tested"),
    };
    for rule in OPTION_RULES {
        let (one, other, expected) = match (rule.name, rule.merge) {
            (_, Merge::AnyYes) => ("true", "false", "true"),
            (_, Merge::EveryYes) => ("true", "false", "false"),
            (_, Merge::LowestNonZero) => ("0", "3", "Some(3)"),
            (_, Merge::Shortest) => (r#""90s""#, r#""60s""#, "Some(60s)"),
            (_, Merge::ShortestNonZero) => (r#""0s""#, r#""60s""#, "Some(60s)"),
            ("lock", Merge::Strictest) => (r#""strict""#, r#""best_effort""#, "Some(Strict)"),
            (_, Merge::Strictest) => (r#"{"ssh":"strict"}"#, r#"{"ssh":"best_effort"}"#, "Strict"),
            (_, Merge::ExplicitNo) => {
                (r#"{"local":{"enabled":false}}"#, r#"{"local":{"enabled":true}}"#, "false true")
            }
            (_, Merge::Added) => (
                r#"[{"name":"a@b","value":"1"}]"#,
                r#"[{"name":"a@b","value":"2"},{"name":"c@d","value":"3"}]"#,
                r#"[("a@b", "1"), ("c@d", "3")]"#,
            ),
        };
        let with = |name: &str, value: &str| {
            let mut role = role(name, none(), none());
            let document = format!(r#"{{"{}":{value}}}"#, rule.name);
            role.spec.options = serde_json::from_str(&document).unwrap();
            role
        };
        let roles = [with("a", one), with("b", other)];
        let (identity, set) = (holder(&roles), RoleSet::new(roles));
        let check = AccessChecker::for_identity(&identity, &set);
        assert_eq!(value(&check.options(), &check, rule.name), expected, "{}", rule.name);
    }
}

/// What lacks is named: the certificate first, for a new one is needed whatever the roles say.
#[test]
fn a_permit_to_forward_needs_certificate_and_role() {
    let mut forwarding = role("fwd", conditions(&["root"], r#"{"*":"*"}"#), none());
    for (cert, by_role) in [(true, true), (true, false), (false, true), (false, false)] {
        let options = &mut forwarding.spec.options;
        options.forward_agent = by_role;
        options.permit_x11_forwarding = by_role;
        options.ssh_port_forwarding =
            PortForwarding { local: if by_role { YES } else { NO }, remote: if by_role { YES } else { NO } };
        let mut identity = identity(&["fwd"], &["root"]);
        identity.permits.agent_forwarding = cert;
        identity.permits.port_forwarding = cert;
        identity.permits.x11_forwarding = cert;
        let roles = RoleSet::new([forwarding.clone()]);
        let check = AccessChecker::for_identity(&identity, &roles);
        let grant = check.check_login(&identity, &node(""), &login("root")).unwrap();
        let expected = |what| match (cert, by_role) {
            (true, true) => None,
            (true, false) => Some(NotForwarded::Roles(what)),
            (false, _) => Some(NotForwarded::Certificate(what)),
        };
        assert_eq!(grant.local_forwarding().err(), expected(Forwarding::Local));
        assert_eq!(grant.remote_forwarding().err(), expected(Forwarding::Remote));
        assert_eq!(grant.agent_forwarding().err(), expected(Forwarding::Agent));
        assert_eq!(grant.x11_forwarding().err(), expected(Forwarding::X11));
    }
    let told = NotForwarded::Roles(Forwarding::Remote).to_string();
    assert_eq!(
        told,
        "the roles do not permit remote port forwarding (port_forwarding, ssh_port_forwarding.remote)"
    );
}

/// Each address is asked for, and no way to write this machine leads around what is said of it.
#[test]
fn a_permit_to_connect_is_for_one_address() {
    let mut narrow = role("narrow", conditions(&["root"], r#"{"*":"*"}"#), none());
    narrow.spec.allow.permit_open = Some(texts(&["*.example.com:443", "127.0.0.1:80", "10.0.0.0/8:*"]));
    narrow.spec.deny.permit_open = Some(texts(&["10.0.0.1:*"]));
    let mut local = grant(&[narrow], "", "root").unwrap();
    local.identity.permits.port_forwarding = true;
    local.policy.local_forwarding = true;
    let local = local.local_forwarding().unwrap();
    for (host, address, expected) in [
        ("www.example.com", "192.0.2.1:443", Some("192.0.2.1:443")),
        ("www.example.com", "10.0.0.1:443", None),
        ("www.example.com", "192.0.2.1:80", None),
        ("db", "10.2.3.4:5432", Some("10.2.3.4:5432")),
        ("db", "[::ffff:10.0.0.1]:5432", None),
        ("127.0.0.1", "127.0.0.1:80", Some("127.0.0.1:80")),
        ("0.0.0.0", "0.0.0.0:80", Some("127.0.0.1:80")),
        ("0", "0.0.0.0:80", Some("127.0.0.1:80")),
        ("::ffff:0.0.0.0", "[::ffff:0.0.0.0]:80", Some("127.0.0.1:80")),
        ("0.0.0.0", "0.0.0.0:81", None),
        ("::", "[::]:80", None),
    ] {
        let permitted = local.to(host, address.parse().unwrap());
        assert_eq!(permitted.as_ref().ok().map(|to| to.get().to_string()).as_deref(), expected, "{host}");
    }
    assert!(local.to_socket("/run/docker.sock").is_err(), "a list of hosts names no sockets");
    let mut free = grant(&[role("free", conditions(&["root"], r#"{"*":"*"}"#), none())], "", "root").unwrap();
    free.identity.permits.port_forwarding = true;
    free.policy.local_forwarding = true;
    assert!(free.local_forwarding().unwrap().to_socket("/run/docker.sock").is_ok());
}

#[test]
fn certificates_permit_x11_where_a_role_does() {
    let mut windows = role("windows", conditions(&["root"], r#"{"*":"*"}"#), none());
    for by_role in [true, false] {
        windows.spec.options.permit_x11_forwarding = by_role;
        let identity = identity(&["windows"], &["root"]);
        let roles = RoleSet::new([windows.clone()]);
        assert_eq!(AccessChecker::for_identity(&identity, &roles).permits().x11_forwarding, by_role);
    }
}
