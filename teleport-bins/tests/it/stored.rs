//! Recordings as operators and users handle them: lists, files, holds, deletion, keys.

use std::path::{Path, PathBuf};
use std::process::Command;

use teleport_bins::daemon::Os;
use teleport_core::audit::EventKind;

use crate::processes::{Plan, Three};
use crate::s3::Moto;
use crate::support::cluster::{Home, TestCluster};
use crate::support::daemon::Machine;
use crate::support::program::{Output, own, run};
use crate::support::relay::{Fault, Relay};
use crate::support::{own_login, wait_for};

/// A key pair by `age-keygen`: its file, and its public key.
fn key_pair(directory: &Path, name: &str) -> (PathBuf, String) {
    let path = directory.join(name);
    let output = Command::new("age-keygen").arg("-o").arg(&path).output();
    assert!(output.expect("age is not installed; .ci/test installs it").status.success());
    let text = std::fs::read_to_string(&path).unwrap();
    let public = text.lines().find_map(|line| line.strip_prefix("# public key: ")).unwrap().to_owned();
    (path, public)
}

fn tctl(cluster: &TestCluster, arguments: &[&str]) -> Output {
    let mut command = own("tctl");
    command.arg("--data-dir").arg(cluster.dir().join("cluster")).args(arguments);
    run(command)
}

fn tsh(home: &Home, arguments: &[&str]) -> Output {
    let mut command = home.tsh();
    command.args(arguments);
    run(command)
}

/// Runs a command on the node and waits until its recording is complete. Returns its id.
fn recorded(cluster: &TestCluster, home: &Home, command: &str) -> String {
    tsh(home, &["ssh", &format!("{}@node", own_login()), command]).clean();
    wait_for("the recording", || {
        let listed = tctl(cluster, &["recordings", "ls", "--format=json"]).clean();
        let listed: Vec<serde_json::Value> = serde_json::from_str(&listed).unwrap();
        let found = listed.iter().find(|info| info["meta"]["command"] == command)?;
        found["completed"].is_string().then(|| found["meta"]["session"].as_str().unwrap().to_owned())
    })
}

/// Everything below the directory, as one text.
fn all_files(directory: &Path) -> Vec<u8> {
    let mut content = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            content.extend(all_files(&entry.path()));
        } else {
            content.extend(std::fs::read(entry.path()).unwrap_or_default());
        }
    }
    content
}

fn contains(content: &[u8], text: &str) -> bool {
    text.is_empty() || content.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn an_encrypted_recording_is_listed_exported_held_and_deleted() {
    let keys = tempfile::tempdir().unwrap();
    let (file, public) = key_pair(keys.path(), "one");
    let cluster = TestCluster::start_as(Os::default(), |settings| {
        let auth = settings.auth.as_mut().unwrap();
        auth.recording_keys = (vec![public.parse().unwrap()], vec![file.clone()]);
    });
    cluster.add_node("node", "env=test");
    let home = cluster.alice();
    let id = recorded(&cluster, &home, "echo canary-of-the-output | tr a-z A-Z");
    let stored = all_files(&cluster.dir().join("cluster/recordings"));
    assert!(contains(&stored, "age-encryption.org/v1") && !contains(&stored, "CANARY-OF-THE-OUTPUT"));

    let listed = tsh(&home, &["recordings", "ls", "--user=alice", "--node=node"]).clean();
    assert!(listed.contains(&id) && listed.contains("complete, encrypted"), "{listed}");
    assert_eq!(tsh(&home, &["recordings", "ls", "--node=other"]).clean(), "No recordings\n");
    for (format, ending, text) in
        [("text", "txt", "CANARY"), ("cast", "cast", "CANARY"), ("raw", "tprec", "")]
    {
        let out = format!("--out={}", keys.path().display());
        let format = format!("--format={format}");
        tsh(&home, &["recordings", "export", &id, &format, &out]).clean();
        let path = keys.path().join(format!("{id}.{ending}"));
        assert!(contains(&std::fs::read(&path).unwrap(), text), "{}", path.display());
        let again = tsh(&home, &["recordings", "export", &id, &format, &out]).refusal();
        assert!(again.contains("--overwrite"), "{again}");
    }
    let raw = keys.path().join(format!("{id}.tprec"));
    let played = tsh(&home, &["play", "--format=text", raw.to_str().unwrap()]).clean();
    assert!(played.contains("CANARY-OF-THE-OUTPUT"), "{played}");
    // An export that was interrupted goes on where it was.
    let whole = std::fs::read(&raw).unwrap();
    let part = keys.path().join(format!(".half.{id}.part"));
    std::fs::write(&part, &whole[..whole.len() / 2]).unwrap();
    let out = format!("--out={}", keys.path().join("half").display());
    tsh(&home, &["recordings", "export", &id, &out]).clean();
    assert!(std::fs::read(keys.path().join("half")).unwrap() == whole && !part.exists());

    // Nobody deletes the own recordings, and nobody deletes without being asked or saying so.
    let denied = tsh(&home, &["recordings", "rm", "--force", &id]).refusal();
    assert!(denied.contains("denied"), "{denied}");
    let unasked = tctl(&cluster, &["recordings", "rm", &id]).refusal();
    assert!(unasked.contains("--force"), "{unasked}");
    tctl(&cluster, &["recordings", "hold", &id, "--reason=case 7"]).clean();
    let listed = tctl(&cluster, &["recordings", "ls", "--held"]).clean();
    assert!(listed.contains(&id) && listed.contains("complete, held, encrypted"), "{listed}");
    let held = tctl(&cluster, &["recordings", "rm", "--force", &id]).refusal();
    assert!(held.contains("case 7") && held.contains(&format!("tctl recordings release {id}")), "{held}");
    tctl(&cluster, &["recordings", "release", &id]).clean();
    let rewrapped = tctl(&cluster, &["recordings", "rewrap"]).clean();
    assert!(rewrapped.contains("0 of 1 encrypted recordings"), "{rewrapped}");
    tctl(&cluster, &["recordings", "rm", "--force", "--reason=done", &id]).clean();
    assert!(!contains(&all_files(&cluster.dir().join("cluster/recordings")), "age-encryption.org"));
    cluster.event(EventKind::RecordingDelete, |event| {
        let text = serde_json::to_string(event).unwrap();
        text.contains(&id) && text.contains("done")
    });
    let gone = tsh(&home, &["recordings", "export", &id]).refusal();
    assert!(gone.contains("there is no recording"), "{gone}");
}

/// New keys in the configuration, old recordings with new headers, and the old key is of no use any more.
#[test]
fn keys_are_rotated_over_a_restart() {
    let machine = Machine::new();
    let (old_file, old) = key_pair(&machine.path(""), "old");
    let (new_file, new) = key_pair(&machine.path(""), "new");
    let configure = |recipient: &str, files: &[&PathBuf]| {
        let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
        let services = format!(
            "auth_service:\n  enabled: yes\n  cluster_name: test.local\n  listen_addr: 127.0.0.1:0\n  \
             session_recording_encryption:\n    recipients: [{recipient}]\n    identity_files: [{}]\n\
             proxy_service: {{enabled: no}}\nssh_service: {{enabled: no}}\n",
            files.join(", ")
        );
        machine.configure("auth", "", &services);
    };
    configure("age1nonsense", &[]);
    let error = machine.cannot_start("auth", &[]);
    assert!(
        error.contains("session_recording_encryption.recipients") && error.contains("age-keygen"),
        "{error}"
    );
    configure(&old, &[&new_file, &machine.path("missing")]);
    assert!(machine.cannot_start("auth", &[]).contains("missing"));
    std::fs::set_permissions(&old_file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    configure(&old, &[&old_file]);
    let error = machine.cannot_start("auth", &[]);
    assert!(error.contains("chmod 600"), "{error}");
    std::fs::set_permissions(&old_file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    // As `age -p` keeps them.
    let locked = machine.path("locked");
    std::fs::write(&locked, b"age-encryption.org/v1\n-> scrypt \xff").unwrap();
    std::fs::set_permissions(&locked, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    configure(&old, &[&locked]);
    let error = machine.cannot_start("auth", &[]);
    assert!(error.contains("passphrase") && error.contains("age -d"), "{error}");
    for (recipient, files) in [(&old, vec![&old_file]), (&new, vec![&old_file, &new_file])] {
        configure(recipient, &files);
        let auth = machine.start("auth", &[]);
        machine.tctl("auth", &["recordings", "rewrap"]).clean();
        let logged = auth.logged();
        for file in [&old_file, &new_file] {
            let secret = std::fs::read_to_string(file).unwrap();
            let secret = secret.lines().last().unwrap();
            assert!(!logged.contains(secret), "an identity is in the log");
        }
        auth.stop();
    }
}

/// What is wrong with a bucket is told at the start; a server that is away keeps nobody from starting; and credentials are never
/// in a log.
#[test]
fn d6_a_bucket_is_checked_at_the_start_and_its_credentials_are_not_told() {
    const KEY_ID: &str = "AKIACANARYCANARYCANA";
    const SECRET: &str = "canary-of-the-secret-access-key";
    let machine = Machine::new();
    let moto = TestCluster::block_on(Moto::start());
    let configure = |uri: &str| {
        machine.configure(
            "auth",
            &format!("  log: {{severity: debug}}\n  storage: {{audit_sessions_uri: \"{uri}\"}}\n"),
            "auth_service:\n  enabled: yes\n  cluster_name: test.local\n  listen_addr: 127.0.0.1:0\n\
             proxy_service: {enabled: no}\nssh_service: {enabled: no}\n",
        );
    };
    let env = |command: &mut Command| {
        command.env("AWS_ACCESS_KEY_ID", KEY_ID).env("AWS_SECRET_ACCESS_KEY", SECRET);
    };
    let refused = || {
        let mut command = own("teleport");
        command.arg("start").arg("-c").arg(machine.path("auth.yaml")).env("RUST_LOG", "off");
        env(&mut command);
        run(command).refusal()
    };
    configure("ftp://example.com/x");
    assert!(refused().contains("file:///path or s3://bucket"));
    configure("s3://AKIACANARYCANARYCANA:canary-of-the-secret-access-key@recordings");
    let error = refused();
    assert!(error.contains("AWS_ACCESS_KEY_ID") && !error.contains(SECRET), "{error}");
    let uri = format!("s3://recordings/a?region=us-east-1&insecure=true&endpoint={}", moto.address);
    configure(&uri);
    let error = refused();
    assert!(error.contains("no such bucket") && !error.contains('\n'), "{error}");

    TestCluster::block_on(moto.make_bucket("recordings"));
    let auth = machine.start_with("auth", &[], env);
    assert_eq!(machine.tctl("auth", &["recordings", "ls"]).clean(), "No recordings\n");
    let away = moto.address;
    drop(moto);
    let failed = machine.tctl("auth", &["recordings", "ls"]).refusal();
    assert!(failed.contains("not available"), "{failed}");
    let (first, events) = (auth.logged(), format!("{:?}", machine.events("auth")));
    auth.stop();
    // Nobody is there now: it starts all the same, and says so.
    let auth = machine.start_with("auth", &[], env);
    let logged = auth.logged();
    assert!(
        logged.contains("recordings cannot be taken now") && logged.contains("cannot be reached"),
        "{logged}"
    );
    auth.stop();
    let moto = TestCluster::block_on(Moto::start_at(away)).expect("the port is free again");
    TestCluster::block_on(moto.ask_for_credentials());
    let error = refused();
    assert!(error.contains("credentials are not accepted"), "{error}");
    for text in [first, events, logged, error] {
        assert!(!text.contains(SECRET), "{text}");
    }
}

/// A session's way through a bucket: recorded by a node while the storage is away and the auth service is killed, encrypted, listed,
/// played, exported, compared with the log, held and deleted; and at the end retention makes room.
#[test]
fn a_session_is_kept_in_a_bucket() {
    let moto = TestCluster::block_on(Moto::start());
    TestCluster::block_on(moto.make_bucket("recordings"));
    let network = Relay::start(moto.address.port());
    let keys = tempfile::tempdir().unwrap();
    let (file, public) = key_pair(keys.path(), "one");
    let shared = format!(
        "  storage: {{audit_sessions_uri: \"s3://recordings/some?region=us-east-1&insecure=true&endpoint=127.0.0.1:{}\"}}\n",
        network.port()
    );
    let encryption = format!(
        "  session_recording_encryption:\n    recipients: [{public}]\n    identity_files: [{}]\n",
        file.display()
    );
    let credentials = [("AWS_ACCESS_KEY_ID", "AKIA"), ("AWS_SECRET_ACCESS_KEY", "secret")];
    let env = |command: &mut Command| {
        command.envs(credentials);
    };
    let plan = Plan { storage: &shared, auth_service: &encryption, env: &credentials, ..Plan::default() };
    let mut three = Three::start_with(Machine::new(), plan);
    let live = three.live_session();
    // Nobody takes the recording now, and then nobody is there at all.
    network.fail(Fault::Reset);
    let failed = three.machine.tctl("auth", &["recordings", "ls"]).refusal();
    assert!(failed.contains("not available"), "{failed}");
    assert_eq!(live.answer(), ("got hello\n".to_owned(), Some(4)));
    three.auth.take().unwrap().kill();
    network.heal();
    three.auth = Some(three.machine.start_with("auth", &[], env));
    let tctl = |arguments: &[&str]| {
        let mut command = own("tctl");
        command.arg("-c").arg(three.machine.path("auth.yaml")).args(arguments);
        env(&mut command);
        run(command)
    };
    let info = wait_for("the recording", || {
        let listed = tctl(&["recordings", "ls", "--format=json"]);
        let listed: Vec<serde_json::Value> = serde_json::from_slice(&listed.stdout).ok()?;
        listed.into_iter().find(|info| info["completed"].is_string())
    });
    let id = info["meta"]["session"].as_str().unwrap();
    assert!(three.play(id).contains("got hello"));
    let out = keys.path().join("exported.txt");
    let out = out.to_str().unwrap();
    tctl(&["recordings", "export", "--format=text", "--out", out, id]).clean();
    assert!(std::fs::read_to_string(out).unwrap().contains("got hello"));
    let stored = TestCluster::block_on(moto.objects("recordings"));
    assert!(stored.iter().any(|object| contains(object, "age-encryption.org/v1")));
    assert!(!stored.iter().any(|object| contains(object, "got hello")));

    let told = tctl(&["audit", "verify", "--recordings"]).clean();
    assert!(told.contains("1 recording as the log says; 0 no longer stored"), "{told}");
    tctl(&["recordings", "hold", id, "--reason=case 7"]).clean();
    let held = tctl(&["recordings", "rm", "--force", id]).refusal();
    assert!(held.contains("case 7"), "{held}");
    three.works();
    wait_for("the second recording", || {
        let listed = tctl(&["recordings", "ls", "--format=json"]);
        let listed: Vec<serde_json::Value> = serde_json::from_slice(&listed.stdout).ok()?;
        (listed.iter().filter(|info| info["completed"].is_string()).count() == 2).then_some(())
    });
    // No room for anything: what is held stays.
    three.auth.take().unwrap().stop();
    let path = three.machine.path("auth.yaml");
    let config = std::fs::read_to_string(&path).unwrap();
    let config = config.replacen(
        "  session_recording_encryption:",
        "  recording_retention: {max_size: 1B}\n  session_recording_encryption:",
        1,
    );
    std::fs::write(&path, config).unwrap();
    three.auth = Some(three.machine.start_with("auth", &[], env));
    let deleted = |reason: &str| {
        let events = three.machine.events("auth");
        events.iter().any(|event| event["event"] == "session.recording.delete" && event["reason"] == reason)
    };
    wait_for("retention", || deleted("retention: too much").then_some(()));
    // The event comes first.
    let listed = wait_for("one recording", || {
        let listed = tctl(&["recordings", "ls"]).clean();
        (listed.lines().count() == 3).then_some(listed)
    });
    assert!(listed.contains(id) && listed.contains("held"), "{listed}");
    tctl(&["recordings", "release", id]).clean();
    tctl(&["recordings", "rm", "--force", "--reason=settled", id]).clean();
    assert!(deleted("settled"));
    let left = TestCluster::block_on(moto.objects("recordings"));
    assert!(!left.iter().any(|object| contains(object, "age-encryption.org/v1")), "{} objects", left.len());
    let told = tctl(&["audit", "verify", "--recordings"]).clean();
    assert!(
        told.contains("0 recordings as the log says; 2 deleted, as the log says; 0 no longer stored"),
        "{told}"
    );
}
