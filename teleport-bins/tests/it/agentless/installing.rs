//! `teleport join openssh` and configurations as administrators have them.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::process::Command;

use super::{Server, token};
use crate::support::cluster::TestCluster;
use crate::support::program::{own, run};

fn joined(server: &Server, cluster: &TestCluster) {
    let output = server.join(cluster, &["--token", &token(cluster)]);
    assert!(output.status.success(), "{output:?}");
}

fn key(server: &Server, name: &str) -> String {
    let key = server.dir.join(name);
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-q", "-t", "ecdsa", "-N", "", "-f"]).arg(&key);
    run(keygen).clean();
    key.display().to_string()
}

#[test]
fn the_file_stays_whose_it_is_and_where_it_is() {
    let cluster = TestCluster::start();
    let server = Server::stock(&cluster, "plain");
    // Behind a link, of somebody else, for some eyes only, and not all of it UTF-8.
    let real = server.dir.join("elsewhere");
    let before = [&fs::read(server.config()).unwrap()[..], b"# \xfcberall\n"].concat();
    fs::write(&real, &before).unwrap();
    fs::set_permissions(&real, Permissions::from_mode(0o640)).unwrap();
    chown(&real, Some(65_534), Some(65_534)).unwrap();
    fs::remove_file(server.config()).unwrap();
    symlink(&real, server.config()).unwrap();
    let as_before = || {
        let metadata = fs::metadata(&real).unwrap();
        assert!(fs::symlink_metadata(server.config()).unwrap().is_symlink());
        assert_eq!((metadata.mode() & 0o7777, metadata.uid(), metadata.gid()), (0o640, 65_534, 65_534));
    };
    joined(&server, &cluster);
    as_before();
    assert_ne!(fs::read(&real).unwrap(), before);
    let mut uninstall = server.command();
    uninstall.arg("--uninstall");
    let output = run(uninstall);
    assert!(output.status.success(), "{output:?}");
    as_before();
    assert_eq!(fs::read(&real).unwrap(), before);
}

#[test]
fn a_host_key_that_was_taken_away_does_not_come_back() {
    let cluster = TestCluster::start();
    let server = Server::stock(&cluster, "plain");
    let second = key(&server, "second_host_key");
    let first = fs::read_to_string(server.config()).unwrap();
    fs::write(server.config(), format!("HostKey {second}\n{first}")).unwrap();
    joined(&server, &cluster);
    let include = || fs::read_to_string(server.dir.join("data/sshd.conf")).unwrap();
    assert!(include().contains(&second) && include().contains("stock_host_key"), "{}", include());
    let with = fs::read_to_string(server.config()).unwrap();
    fs::write(server.config(), with.replace(&format!("HostKey {second}\n"), "")).unwrap();
    assert!(server.join(&cluster, &[]).status.success());
    assert!(!include().contains(&second) && include().contains("stock_host_key"), "{}", include());
}

#[test]
fn what_would_make_it_useless_or_go_past_it_is_told_before_anything_is_changed() {
    let cluster = TestCluster::start();
    let server = Server::stock(&cluster, "plain");
    let before = fs::read_to_string(server.config()).unwrap();
    let other = server.dir.join("stock_host_key.pub");
    let token = token(&cluster);
    let join = |lines: &str| {
        fs::write(server.config(), format!("{before}{lines}\n")).unwrap();
        server.join(&cluster, &["--token", &token])
    };
    for (lines, expected) in [
        (format!("Match User git\n  TrustedUserCAKeys {}", other.display()), "in a Match block"),
        ("AuthorizedPrincipalsFile /etc/ssh/principals/%u".to_owned(), "authorizedprincipalsfile"),
        ("PubkeyAuthentication no".to_owned(), "pubkeyauthentication no"),
        ("AuthenticationMethods publickey,publickey".to_owned(), "authenticationmethods"),
    ] {
        let refused = join(&lines).refusal();
        assert!(refused.contains(expected), "{lines}: {refused}");
        assert!(!server.dir.join("data/sshd.conf").exists());
        assert!(
            !server.dir.join("data/registration.json").exists(),
            "nothing is remembered of what was not done"
        );
    }
    // For some users only: said, and done. The token is as good as it was.
    let warned = join("Match User git\n  AuthorizedPrincipalsFile /etc/ssh/git\n  PermitTTY no");
    assert!(warned.status.success(), "{warned:?}");
    let warning = warned.stderr.lines().find(|line| line.starts_with("WARNING: ")).unwrap();
    assert!(warning.contains("authorizedprincipalsfile /etc/ssh/git"), "{warning}");
    // Somebody adds it later, behind ours.
    let with = fs::read_to_string(server.config()).unwrap();
    let theirs =
        with.replace("Match User git", &format!("TrustedUserCAKeys {}\nMatch User git", other.display()));
    fs::write(server.config(), theirs).unwrap();
    let refused = server.join(&cluster, &[]).refusal();
    assert!(refused.contains("TrustedUserCAKeys"), "{refused}");
}

#[test]
fn two_at_a_time_do_not_get_in_each_others_way() {
    let cluster = TestCluster::start();
    let server = Server::stock(&cluster, "plain");
    joined(&server, &cluster);
    for dir in [server.dir.clone(), server.dir.join("data")] {
        let held = fs::File::open(dir.join(".teleport-join.lock")).unwrap();
        held.lock().unwrap();
        let refused = server.join(&cluster, &[]).refusal();
        assert!(refused.contains("another"), "{refused}");
        drop(held);
        // Whoever may only read there keeps nobody from it.
        let read = fs::File::open(&dir).unwrap();
        read.lock().unwrap();
        assert!(server.join(&cluster, &[]).status.success());
    }
}

#[test]
fn a_directory_in_which_others_may_write_is_not_used() {
    let cluster = TestCluster::start();
    let server = Server::stock(&cluster, "plain");
    let before = fs::read(server.config()).unwrap();
    let data = server.dir.join("data");
    fs::create_dir(&data).unwrap();
    fs::set_permissions(&data, Permissions::from_mode(0o777)).unwrap();
    let refused = server.join(&cluster, &["--token", &token(&cluster)]).refusal();
    assert!(refused.contains("others may write to it") && refused.contains("chmod 700"), "{refused}");
    fs::set_permissions(&data, Permissions::from_mode(0o700)).unwrap();
    // Nobody but root can give something away.
    if chown(&data, Some(65_534), Some(65_534)).is_ok() {
        let refused = server.join(&cluster, &["--token", &token(&cluster)]).refusal();
        assert!(refused.contains("belongs to the user id 65534"), "{refused}");
    }
    assert_eq!(fs::read_dir(&data).unwrap().count(), 0);
    assert_eq!(fs::read(server.config()).unwrap(), before);
}

/// As OpenSSH does it from 9.8 on, whichever is installed here.
#[test]
fn a_server_that_makes_addresses_wait_is_told_of() {
    let cluster = TestCluster::start();
    let server = Server::stock(&cluster, "plain");
    let programs = server.dir.join("bin");
    fs::create_dir(&programs).unwrap();
    let program = "#!/bin/sh\n/usr/sbin/sshd \"$@\" || exit\n[ \"$1\" = -T ] || exit 0\n\
                   echo persourcepenalties crash:90 authfail:5 noauth:1\necho persourcepenaltyexemptlist $EXEMPT\n";
    fs::write(programs.join("sshd"), program).unwrap();
    fs::set_permissions(programs.join("sshd"), Permissions::from_mode(0o755)).unwrap();
    joined(&server, &cluster);
    let join = |exempt: &str| {
        let mut join = server.command();
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
        join.env("PATH", path).env("EXEMPT", exempt);
        let output = run(join);
        assert!(output.status.success(), "{output:?}");
        output.stderr
    };
    let told = join("none");
    assert!(told.starts_with("WARNING: ") && told.contains("PerSourcePenaltyExemptList"), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
    let told = join("192.0.2.1");
    assert!(!told.contains("PerSourcePenalt"), "{told}");
}

#[test]
fn what_fails_is_not_remembered() {
    let cluster = TestCluster::start();
    let server = Server::stock(&cluster, "plain");
    joined(&server, &cluster);
    let registration = server.dir.join("data/registration.json");
    let before = fs::read_to_string(&registration).unwrap();
    // The directory of the program that has to look at the result says no.
    let with = fs::read_to_string(server.config()).unwrap();
    fs::write(server.config(), format!("{with}NoSuchOption yes\n")).unwrap();
    let refused = server.join(&cluster, &["--labels", "env=other"]);
    assert!(!refused.status.success(), "{refused:?}");
    assert_eq!(fs::read_to_string(&registration).unwrap(), before);
    fs::write(server.config(), with).unwrap();
    // And where only our own part is what it does not take.
    let wrapper = server.dir.join("bin");
    fs::create_dir(&wrapper).unwrap();
    let program = format!(
        "#!/bin/sh\nif [ \"$1\" = -t ] && grep -q other {}; then echo no >&2; exit 1; fi\nexec /usr/sbin/sshd \"$@\"\n",
        registration.display()
    );
    fs::write(wrapper.join("sshd"), program).unwrap();
    fs::set_permissions(wrapper.join("sshd"), Permissions::from_mode(0o755)).unwrap();
    let mut join = own("teleport");
    join.args(["join", "openssh", "--labels", "env=other", "--data-dir"]).arg(server.dir.join("data"));
    let path = std::env::var("PATH").unwrap();
    join.env("PATH", format!("{}:{path}", wrapper.display()));
    let refused = run(join).refusal();
    assert!(refused.contains("everything is as it was"), "{refused}");
    assert_eq!(fs::read_to_string(&registration).unwrap(), before);
    assert_eq!(server.listed(&cluster).unwrap().record.labels.to_string(), "");
}
