//! Administration without the auth host: by a login, by identity files; certificates for programs and for plain OpenSSH servers.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use teleport_bins::daemon::Os;
use teleport_core::audit::EventKind;
use teleport_core::clock::{Clock, SystemClock, Timestamp};

use crate::support::cluster::{CLUSTER, Home, TestCluster};
use crate::support::own_login;
use crate::support::program::{Output, own, run, run_with};
use crate::support::sshd::Sshd;

/// `tctl` on some machine: whoever is logged in there, nobody's data directory.
fn tctl_at(home: &Path) -> Command {
    let mut command = own("tctl");
    command.env("HOME", "/nonexistent").env("TELEPORT_HOME", home);
    // Where root's would be; no machine that runs tests has an auth service of its own there.
    command.env("XDG_STATE_HOME", "/nonexistent");
    command
}

#[track_caller]
fn tctl(home: &Home, arguments: &[&str]) -> Output {
    let mut command = tctl_at(&home.dir);
    command.args(arguments);
    run(command)
}

/// `tctl` on the auth host.
#[track_caller]
fn on_auth(cluster: &TestCluster, arguments: &[&str]) -> Output {
    let mut command = own("tctl");
    command.arg("--data-dir").arg(cluster.dir().join("cluster")).args(arguments);
    run(command)
}

/// `tsh` by an identity file, where nobody is logged in.
fn tsh_by(file: &Path, arguments: &[&str]) -> Command {
    let mut command = own("tsh");
    command.env("TELEPORT_HOME", "/nonexistent").arg("-i").arg(file).args(arguments);
    command
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Stock `ssh` straight to an address of loopback, which it knows as `name`, with this key and what is beside it.
fn ssh(port: u16, name: &str, identity: &Path, known_hosts: &Path, command: &str) -> Output {
    let mut ssh = Command::new("ssh");
    ssh.args(["-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"]);
    ssh.args(["-o", "StrictHostKeyChecking=yes", "-o", "GlobalKnownHostsFile=/dev/null"]);
    ssh.arg("-o").arg(format!("UserKnownHostsFile={}", known_hosts.display()));
    ssh.arg("-o").arg(format!("HostKeyAlias={name}")).arg("-p").arg(port.to_string()).arg("-i").arg(identity);
    ssh.arg(format!("{}@127.0.0.1", own_login())).arg(command).env_remove("SSH_AUTH_SOCK");
    run(ssh)
}

#[test]
fn a_login_with_rights_is_enough_to_administer_from_anywhere() {
    let cluster = TestCluster::with_node();
    let (alice, web) = (cluster.alice(), cluster.web().to_string());
    cluster.user("bob", &["access"], &[&own_login()]);
    assert!(tctl(&alice, &["users", "ls"]).clean().contains("bob"));
    assert!(tctl(&alice, &["get", "roles"]).clean().contains("name: editor"));
    assert!(tctl(&alice, &["status"]).clean().contains(&cluster.pin()));
    // Other machines join by the way that leads from here.
    let added = tctl(&alice, &["tokens", "add", "--type=node"]).clean();
    assert!(added.contains(&format!("--auth-server={web}")), "{added}");
    // The same login, named; and another way to the auth service.
    assert!(tctl(&alice, &["--proxy", &web, "users", "ls"]).clean().contains("bob"));
    let direct = cluster.auth().to_string();
    assert!(tctl(&alice, &["--auth-server", &direct, "nodes", "ls"]).clean().contains("env=test"));
    let mut by_variable = tctl_at(&alice.dir);
    by_variable.env("TELEPORT_PROXY", format!("https://{web}")).args(["users", "ls"]);
    assert!(run(by_variable).clean().contains("bob"));
    // What only the auth host may.
    let line = tctl(&alice, &["get", "all", "--with-secrets"]).refusal();
    assert!(line.contains("access denied; tctl acted as alice (roles: access, "), "{line}");
    assert!(on_auth(&cluster, &["get", "all", "--with-secrets"]).clean().contains("kind: secrets"));
    // On the auth host its own right goes before a login, unless a proxy is named.
    let mut both = tctl_at(&alice.dir);
    both.arg("--data-dir").arg(cluster.dir().join("cluster")).args(["--debug", "users", "ls"]);
    let both = run(both);
    assert!(both.stderr.contains("acts as the auth service of this host"), "{}", both.stderr);
    let debug = tctl(&alice, &["--debug", "users", "ls"]).stderr;
    for part in [
        "not the auth service of this host: there is no auth service in",
        &format!("acts as alice (roles: access, auditor, editor), by the login of tsh at {web} at {web}"),
    ] {
        assert!(debug.contains(part), "{part}: {debug}");
    }
}

#[test]
fn a_login_without_rights_is_told_so_in_one_line() {
    let cluster = TestCluster::with_node();
    let bob = cluster.user("bob", &["access"], &[&own_login()]);
    let out = cluster.dir().join("out");
    let document = cluster.dir().join("role.yaml");
    std::fs::write(&document, "kind: role\nversion: v1\nmetadata: {name: mine}\nspec: {}\n").unwrap();
    for arguments in [
        &["users", "ls"][..],
        &["get", "roles"],
        &["get", "role/editor"],
        &["roles", "ls"],
        &["status"],
        &["users", "add", "eve", "--logins=root"],
        &["users", "update", "bob", "--set-roles=editor"],
        &["tokens", "add", "--type=node"],
        &["tokens", "ls"],
        &["nodes", "rm", "node"],
        &["events", "search"],
        &["create", "-f", path(&document)],
        &["auth", "sign", "--user=bob", "--out", path(&out)],
        &["auth", "sign", "--host=db.example.net", "--out", path(&out)],
    ] {
        let line = tctl(&bob, arguments).refusal();
        let expected = format!(
            "access denied; tctl acted as bob (roles: access), by the login of tsh at {}",
            cluster.web()
        );
        assert!(line.ends_with(&expected), "{arguments:?}: {line}");
    }
    assert!(!out.exists());
    let event = cluster.event(EventKind::ApiDenied, |event| event.fields["operation"] == "sign_user");
    assert_eq!(event.user.as_deref(), Some("bob"));
    // What everybody may: nodes that the user sees, and the public halves of the authorities.
    assert!(tctl(&bob, &["nodes", "ls"]).clean().contains("env=test"));
    assert!(tctl(&bob, &["auth", "export"]).clean().contains("@cert-authority *.test.local"));
}

#[test]
fn who_is_nobody_hears_what_was_tried_and_what_to_do() {
    let cluster = TestCluster::start();
    let alice = cluster.alice();
    let empty = cluster.dir().join("empty");
    let say = |home: &Path, arguments: &[&str]| {
        let mut command = tctl_at(home);
        command.args(arguments).arg("status");
        run(command).refusal()
    };
    let line = say(&empty, &[]);
    for part in [
        "there is no auth service in",
        "nobody is logged in with tsh",
        path(&empty),
        "tsh login",
        "--identity",
    ] {
        assert!(line.contains(part), "{part}: {line}");
    }
    let line = say(&alice.dir, &["--proxy=elsewhere.example.com"]);
    assert!(line.contains("nobody is logged in at elsewhere.example.com:3080 with tsh"), "{line}");
    let line = say(&alice.dir, &["--data-dir=/nonexistent"]);
    assert!(line.contains("there is no auth service in /nonexistent: run tctl on the auth host"), "{line}");
    let line = say(&alice.dir, &["--data-dir=/nonexistent", "--proxy=elsewhere.example.com"]);
    assert!(line.contains("cannot be used with"), "{line}");
    let line = say(&alice.dir, &["--proxy=a b"]);
    assert!(line.contains("is not the address of a proxy"), "{line}");
    // A profile that others can read is not used.
    let profile = alice.dir.join(cluster.web().to_string().replace(':', "_")).join("profile.json");
    std::fs::set_permissions(&profile, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(say(&alice.dir, &[]).contains("others can read it"));
}

/// A clock that a test moves.
#[derive(Debug, Default)]
struct Moved {
    back: AtomicU64,
    ahead: AtomicU64,
}

impl Clock for Moved {
    fn now(&self) -> Timestamp {
        let by = |seconds: &AtomicU64| Duration::from_secs(seconds.load(Ordering::SeqCst));
        SystemClock::new().now().saturating_sub(by(&self.back)).saturating_add(by(&self.ahead))
    }
}

/// A cluster whose clock is late by so many seconds.
fn late(back: u64) -> (Arc<Moved>, TestCluster) {
    let clock = Arc::new(Moved { back: back.into(), ..Moved::default() });
    let cluster = TestCluster::start_with(Os { clock: clock.clone(), ..Os::default() });
    cluster.add_node("node", "env=test");
    (clock, cluster)
}

/// A user who is a program: without password and second factor.
fn bot(cluster: &TestCluster) {
    let document = format!(
        "kind: user\nversion: v2\nmetadata: {{name: bot}}\nspec: {{roles: [access], traits: {{logins: [{}]}}}}\n",
        own_login()
    );
    let file = cluster.dir().join("bot.yaml");
    std::fs::write(&file, document).unwrap();
    on_auth(cluster, &["create", "-f", path(&file)]).clean();
}

#[test]
fn a_program_is_a_user_by_a_file_until_that_ends() {
    let (clock, cluster) = late(0);
    bot(&cluster);
    let file = cluster.dir().join("bot.identity");
    let said = on_auth(&cluster, &["auth", "sign", "--user=bot", "--ttl=1h", "--out", path(&file)]).clean();
    assert!(said.starts_with(&format!("The identity of bot is in {}, valid until", path(&file))), "{said}");
    assert_eq!(mode(&file), 0o600);
    let event = cluster.event(EventKind::CertCreate, |event| event.user.as_deref() == Some("bot"));
    assert_eq!(event.fields["issued_by"], "auth host");
    // Where the proxy is stands in the file, because the auth host knows it.
    assert_eq!(run(tsh_by(&file, &["ls", "--format=names"])).clean(), "node\n");
    assert_eq!(run(tsh_by(&file, &["ssh", "node", "echo by a file"])).clean(), "by a file\n");
    let status = run(tsh_by(&file, &["status"])).clean();
    assert!(status.contains("Logged in as: bot") && status.contains(&cluster.web().to_string()), "{status}");
    // A proxy that is named is asked where its SSH is.
    let named = format!("--proxy=localhost:{}", cluster.web().port());
    assert_eq!(run(tsh_by(&file, &[&named, "ssh", "node", "echo asked"])).clean(), "asked\n");

    // The two files of OpenSSH, by the same configuration as a login, and straight to the node.
    let key = cluster.dir().join("bot_key");
    let sign = ["auth", "sign", "--user=bot", "--ttl=1h", "--format=openssh", "--out", path(&key)];
    on_auth(&cluster, &sign).clean();
    let certificate = cluster.dir().join("bot_key-cert.pub");
    assert_eq!((mode(&key), mode(&certificate)), (0o600, 0o600));
    let hosts = cluster.dir().join("known_hosts");
    std::fs::write(&hosts, on_auth(&cluster, &["auth", "export", "--type=host"]).clean()).unwrap();
    let port = cluster.add_node("second", "").port();
    let name = format!("second.{CLUSTER}");
    assert_eq!(ssh(port, &name, &key, &hosts, "echo by ssh").clean(), "by ssh\n");
    // `ssh` reads its key from an identity file as well.
    let of_file = cluster.dir().join("bot.identity-cert.pub");
    let line = std::fs::read_to_string(&file).unwrap();
    let line = line.lines().find(|line| line.contains("-cert-v01@openssh.com ")).unwrap();
    std::fs::write(&of_file, line).unwrap();
    assert_eq!(ssh(port, &name, &file, &hosts, "echo by one file").clean(), "by one file\n");

    // For the cluster two hours go by; whoever uses the files does not look at its own clock.
    clock.ahead.store(7200, Ordering::SeqCst);
    let late = ssh(port, &name, &key, &hosts, "echo reached");
    assert_eq!((late.out(), late.code()), ("", 255), "{}", late.stderr);
    assert!(late.stderr.contains("Permission denied"), "{}", late.stderr);
    let line = run(tsh_by(&file, &["ssh", "node", "echo reached"])).unreached();
    assert!(line.contains("denied access"), "{line}");
    assert!(!run(tsh_by(&file, &["ls"])).status.success());
}

#[test]
fn what_is_over_is_said_before_anything_is_tried() {
    let (_, cluster) = late(7200);
    bot(&cluster);
    let file = cluster.dir().join("bot.identity");
    on_auth(&cluster, &["auth", "sign", "--user=bot", "--ttl=1h", "--out", path(&file)]).clean();
    let line = run(tsh_by(&file, &["ls"])).refusal();
    let expected = format!("the certificates in {} ended at ", path(&file));
    assert!(line.contains(&expected) && line.contains("tctl auth sign"), "{line}");
    let mut command = tctl_at(cluster.dir());
    command.arg("-i").arg(&file).arg("status");
    assert!(run(command).refusal().contains(&expected));
}

#[test]
fn a_login_to_a_file_serves_programs_elsewhere() {
    let cluster = TestCluster::with_node();
    let (password, mut app) = cluster.invited("frank", &["access", "editor"], &[&own_login()]);
    let home = cluster.dir().join("frank");
    let (proxy, pin) = (format!("--proxy={}", cluster.web()), format!("--ca-pin={}", cluster.pin()));
    let mut login = |arguments: &[&str]| {
        let mut command = own("tsh");
        command.env("TELEPORT_HOME", &home).args(["login", "--user=frank", &proxy, &pin]).args(arguments);
        run_with(command, format!("{}\n{}\n", password.expose(), app.code()).as_bytes())
    };
    let key = cluster.dir().join("frank_key");
    let said = login(&["--format=openssh", "--out", path(&key)]).clean();
    assert!(said.contains(&format!("{key} and {key}-cert.pub", key = path(&key))), "{said}");
    let listed =
        Command::new("ssh-keygen").arg("-Lf").arg(format!("{}-cert.pub", path(&key))).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("Key ID: \"frank\"") && listed.contains(&own_login()), "{listed}");

    // What exists is not replaced, and the password not asked for in vain.
    let file = cluster.dir().join("frank.identity");
    std::fs::write(&file, "precious").unwrap();
    let mut refused = own("tsh");
    refused.env("TELEPORT_HOME", &home).args(["login", "--user=frank", &proxy, &pin, "--out", path(&file)]);
    let line = run(refused).refusal();
    assert!(line.contains(&format!("{} exists; say --overwrite", path(&file))), "{line}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    login(&["--overwrite", "--out", path(&file)]).clean();
    assert_eq!(mode(&file), 0o600);

    let elsewhere = cluster.dir().join("elsewhere");
    let by_file = |file: &Path, arguments: &[&str]| {
        let mut command = tctl_at(&elsewhere);
        command.arg("--identity").arg(file).args(arguments);
        run(command)
    };
    assert!(by_file(&file, &["users", "ls"]).clean().contains("frank"));
    let line = by_file(&file, &["events", "search"]).refusal();
    assert!(line.contains(&format!("by the identity file {}", path(&file))), "{line}");

    // What a file must not be.
    let good = std::fs::read_to_string(&file).unwrap();
    let with = |name: &str, content: &str| -> PathBuf {
        let file = cluster.dir().join(name);
        std::fs::write(&file, content).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        file
    };
    let readable = with("readable", &good);
    std::fs::set_permissions(&readable, std::fs::Permissions::from_mode(0o644)).unwrap();
    let nowhere: String = good.split_inclusive('\n').filter(|line| !line.starts_with("@proxy")).collect();
    let foreign = TestCluster::start();
    let frank = foreign.user("frank", &["editor"], &[]);
    for (file, part) in [
        (cluster.dir().join("missing"), "No such file"),
        (readable, "others can read it (mode 644)"),
        (with("cut", &good[..good.find("-----END CERTIFICATE").unwrap()]), "is missing"),
        (with("notes", "remember the milk\n"), "line 1 is none of an identity file"),
        (with("nowhere", &nowhere), "does not say where"),
        (cluster.dir().to_owned(), "is a directory"),
    ] {
        for line in [by_file(&file, &["status"]).refusal(), run(tsh_by(&file, &["ls"])).refusal()] {
            assert!(line.contains(part) && line.contains(path(&file)), "{part}: {line}");
        }
    }
    // Another cluster's: its servers are not those that the file trusts, and nothing is sent.
    let line = by_file(&file, &["--auth-server", &foreign.web().to_string(), "status"]).refusal();
    assert!(line.contains(&foreign.web().to_string()) && line.contains(CLUSTER), "{line}");
    let ours = tctl(&frank, &["--auth-server", &cluster.auth().to_string(), "status"]).refusal();
    assert!(ours.contains(&cluster.auth().to_string()), "{ours}");
    // Logins of this machine are another matter.
    let line = run(tsh_by(&file, &["logout"])).refusal();
    assert!(line.contains("leave out --identity"), "{line}");
}

#[test]
fn certificates_for_users_are_no_wider_than_a_login() {
    let cluster = TestCluster::with_node();
    bot(&cluster);
    let document = cluster.dir().join("roles.yaml");
    let role = "kind: role\nversion: v1\nmetadata: {name: signer}\nspec: {allow: {rules: [{resources: [user_cert], verbs: [create]}]}}\n---\n\
                kind: role\nversion: v1\nmetadata: {name: short}\nspec: {options: {max_session_ttl: 30m}}\n";
    std::fs::write(&document, role).unwrap();
    on_auth(&cluster, &["create", "-f", path(&document)]).clean();
    let signer = cluster.user("signer", &["signer"], &[]);
    let editor = cluster.user("editor", &["editor", "auditor", "access"], &[]);
    let out = cluster.dir().join("bot");
    let sign = ["auth", "sign", "--user=bot", "--format=tls", "--out", path(&out)];
    assert!(tctl(&editor, &sign).refusal().contains("access denied; tctl acted as editor"));
    tctl(&signer, &sign).clean();
    let line = tctl(&signer, &sign).refusal();
    assert!(line.contains(&format!("{}.key exists; say --overwrite", path(&out))), "{line}");
    // What TLS needs, judged by another implementation.
    let users = cluster.dir().join("users.pem");
    std::fs::write(&users, on_auth(&cluster, &["auth", "export", "--type=tls-user"]).clean()).unwrap();
    let crt = format!("{}.crt", path(&out));
    let mut verify = Command::new("openssl");
    verify.args(["verify", "-purpose", "sslclient", "-CAfile", path(&users), &crt]);
    assert_eq!(run(verify).clean(), format!("{crt}: OK\n"));
    let cas = std::fs::read_to_string(format!("{}.cas", path(&out))).unwrap();
    assert_eq!(cas, on_auth(&cluster, &["auth", "export", "--type=tls-host"]).clean());
    let public = |arguments: &[&str]| {
        let mut openssl = Command::new("openssl");
        openssl.args(arguments);
        run(openssl).clean()
    };
    let of_key = public(&["pkey", "-pubout", "-in", &format!("{}.key", path(&out))]);
    assert_eq!(public(&["x509", "-pubkey", "-noout", "-in", &crt]), of_key);

    // Roles that shorten a login shorten this, and it is said.
    on_auth(&cluster, &["users", "update", "bot", "--set-roles=access,short"]).clean();
    let arguments = ["auth", "sign", "--user=bot", "--ttl=10h", "--overwrite", "--out", path(&out)];
    let signed = tctl(&signer, &arguments);
    assert!(signed.status.success() && signed.stderr.contains("sooner than --ttl asks"), "{signed:?}");
    let status = run(tsh_by(&out, &["status"])).clean();
    assert!(status.contains("[valid for 29m"), "{status}");
    for (arguments, part) in [
        (&["--user=nobody"][..], "user nobody not found"),
        (&["--user=bot", "--ttl=soon"], "--ttl"),
        (&["--user=bot", "--host=a"], "cannot be used with"),
        (&[], "--user"),
        (&["--user=Bot"], "Bot"),
    ] {
        let out = cluster.dir().join("none");
        let line = on_auth(&cluster, &[&["auth", "sign", "--out", path(&out)], arguments].concat()).refusal();
        assert!(line.contains(part) && !out.exists(), "{arguments:?}: {line}");
    }
}

#[test]
fn a_plain_openssh_server_is_known_by_its_certificate() {
    let cluster = TestCluster::with_node();
    bot(&cluster);
    let dir = cluster.dir();
    let key = dir.join("host_key");
    let names = format!("--host=db.{CLUSTER},10.0.0.5");
    let said = on_auth(&cluster, &["auth", "sign", &names, "--out", path(&key)]).clean();
    let lines: Vec<&str> = said.lines().filter(|line| line.starts_with("Host")).collect();
    assert_eq!(
        lines,
        [format!("HostKey {}", path(&key)), format!("HostCertificate {}-cert.pub", path(&key))]
    );
    assert_eq!(mode(&key), 0o600);
    // Outside of the cluster the line for all of it does not fit.
    let line = said.lines().find(|line| line.starts_with("@cert-authority")).unwrap();
    assert!(
        line.contains(" [10.0.0.5]:*,10.0.0.5 ssh-ed25519 ") || line.contains(",10.0.0.5 ssh-"),
        "{line}"
    );
    let user_key = dir.join("bot_key");
    on_auth(&cluster, &["auth", "sign", "--user=bot", "--format=openssh", "--out", path(&user_key)]).clean();
    let export = |kind: &str| {
        let file = dir.join(kind);
        std::fs::write(&file, on_auth(&cluster, &["auth", "export", &format!("--type={kind}")]).clean())
            .unwrap();
        file
    };
    let hosts = export("host");
    // Both ways in which sshd believes an authority of users.
    for trusted in [
        format!("TrustedUserCAKeys {}\nAuthorizedKeysFile none", path(&export("user-sshd"))),
        format!("AuthorizedKeysFile {}", path(&export("user"))),
    ] {
        let config = format!("{}\n{}\n{trusted}", lines[0], lines[1]);
        let sshd = Sshd::start(dir, &config);
        let name = format!("db.{CLUSTER}");
        let in_there = ssh(sshd.port(), &name, &user_key, &hosts, "echo let in");
        assert_eq!((in_there.out(), in_there.code()), ("let in\n", 0), "{} {}", in_there.stderr, sshd.log());
        // It is nobody else: neither another name of the cluster, nor the node or the proxy.
        for other in
            [format!("web.{CLUSTER}"), format!("node.{CLUSTER}"), format!("teleport-proxy.{CLUSTER}")]
        {
            let refused = ssh(sshd.port(), &other, &user_key, &hosts, "echo let in");
            assert_eq!((refused.out(), refused.code()), ("", 255), "{other}");
            assert!(refused.stderr.contains("Host key verification failed"), "{}", refused.stderr);
        }
    }
    // No certificate for a name by which a member is found.
    let out = dir.join("none");
    for (name, part) in [
        ("node", "a node is found"),
        (&format!("NODE.{CLUSTER}"), "a node is found"),
        ("proxy", "a proxy or the cluster is found"),
        (CLUSTER, "a proxy or the cluster is found"),
        (&format!("teleport-proxy.{CLUSTER}"), "belongs to a member"),
        ("*.test.local", "neither a host name nor an address"),
    ] {
        let line = on_auth(&cluster, &["auth", "sign", "--host", name, "--out", path(&out)]).refusal();
        assert!(line.contains(part) && !out.exists(), "{name}: {line}");
    }
    let tls =
        on_auth(&cluster, &["auth", "sign", "--host=db", "--format=tls", "--out", path(&out)]).refusal();
    assert!(tls.contains("--format=openssh"), "{tls}");
    let again = on_auth(&cluster, &["auth", "sign", &names, "--out", path(&key)]).refusal();
    assert!(again.contains("exists; say --overwrite"), "{again}");
    let long = on_auth(&cluster, &["auth", "sign", &names, "--ttl=8760h", "--out", path(&out)]);
    assert!(
        long.status.success() && long.stderr.contains("certificates of hosts last no longer"),
        "{long:?}"
    );
}

#[test]
fn authorities_are_exported_one_by_one() {
    let cluster = TestCluster::start();
    let export = |arguments: &[&str]| on_auth(&cluster, &[&["auth", "export"], arguments].concat());
    let both = export(&[]).clean();
    let lines: Vec<&str> = both.lines().collect();
    assert_eq!(lines.len(), 2, "{both}");
    assert!(lines[0].starts_with("cert-authority ssh-ed25519 ") && lines[0].contains(CLUSTER), "{both}");
    assert!(
        lines[1].starts_with(&format!("@cert-authority *.{CLUSTER},[*.{CLUSTER}]:* ssh-ed25519 ")),
        "{both}"
    );
    // The fingerprint that `ssh-keygen` shows, and the pin that `tctl status` shows.
    let file = cluster.dir().join("user.pub");
    std::fs::write(&file, export(&["--type=user-sshd"]).clean()).unwrap();
    let mut keygen = Command::new("ssh-keygen");
    keygen.arg("-lf").arg(&file);
    let shown = run(keygen).clean();
    let fingerprint = shown.split(' ').nth(1).unwrap();
    assert_eq!(export(&["--fingerprint", fingerprint]).clean().trim_end(), lines[0]);
    let pem = export(&["--type=tls-host,tls-user", "--fingerprint", &cluster.pin()]).clean();
    assert_eq!(pem.matches("BEGIN CERTIFICATE").count(), 1, "{pem}");
    assert_eq!(pem, export(&["--type=tls-host"]).clean());
    let line = export(&["--fingerprint=SHA256:none"]).refusal();
    assert!(line.contains("SHA256:none"), "{line}");
    let line = export(&["--keys"]).refusal();
    assert!(line.contains("tctl get all --with-secrets"), "{line}");
    assert!(export(&["--type=kube"]).refusal().contains("--type"));
}
