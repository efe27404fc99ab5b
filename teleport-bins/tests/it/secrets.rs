//! Row D6: secrets that are planted in a full run are found in no log, audit line, database file, recording or command line.
//!
//! A token that is given by a flag stands in the command line of `teleport start`, where every user of that host can read it
//! while it runs; the manual says so, and a file or `TELEPORT_TOKEN` are the ways around it. Here the file is used.

use std::path::{Path, PathBuf};

use crate::support::daemon::{Machine, Process, Services, fixed_port};
use crate::support::program::{own, run, run_with};
use crate::support::user::{User, link};
use crate::support::{own_login, wait_for};

/// A secret in the forms in which it could leak.
struct Canary {
    what: String,
    forms: Vec<Vec<u8>>,
}

impl Canary {
    fn new(what: &str, secret: &[u8]) -> Self {
        assert!(secret.len() >= 8, "{what} is too short to be looked for");
        let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        // All three alignments within base64, without the characters that depend on what stands beside.
        let base64 = (0..3).map(|skip| {
            let aligned = secret.get(skip..).unwrap_or_default();
            let whole = aligned.len() / 3 * 3;
            base64(aligned.get(..whole).unwrap_or_default()).into_bytes()
        });
        let mut forms = vec![secret.to_vec(), hex.to_uppercase().into_bytes(), hex.into_bytes()];
        forms.extend(base64.filter(|form| form.len() >= 8));
        Self { what: what.to_owned(), forms }
    }

    fn is_in(&self, bytes: &[u8]) -> bool {
        self.forms.iter().any(|form| find(bytes, form))
    }
}

fn find(bytes: &[u8], part: &[u8]) -> bool {
    let Some(first) = part.first() else { return false };
    bytes.iter().enumerate().any(|(at, byte)| byte == first && bytes[at..].starts_with(part))
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks_exact(3) {
        let bits = three.iter().fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte));
        text.extend([18, 12, 6, 0].map(|shift| char::from(LETTERS[bits >> shift & 63])));
    }
    text
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { open.push(path) } else { files.push(path) }
        }
    }
    files
}

/// The body of a private key in OpenSSH's form, without the public key that it begins with.
fn private_part(pem: &str) -> String {
    let body: Vec<&str> = pem.lines().filter(|line| !line.contains("-----")).collect();
    body.get(body.len().saturating_sub(2)).unwrap_or_else(|| panic!("a key: {pem}")).to_string()
}

#[test]
fn planted_secrets_are_found_nowhere() {
    let machine = Machine::new();
    let [auth_port, web, ssh] = [(); 3].map(|()| fixed_port());
    let none = || Services { auth: None, proxy: None, node: None };
    let static_token = "canary-static-token-4fb1c7d2a9";
    let all = Services { auth: Some(auth_port), proxy: Some((web, ssh)), node: None };
    let services = all
        .yaml()
        .replace("  cluster_name:", &format!("  tokens: [\"node:{static_token}\"]\n  cluster_name:"));
    machine.configure("auth", "", &services);
    let loud = |command: &mut std::process::Command| {
        command.env("RUST_LOG", "trace");
    };
    let auth = machine.start_with("auth", &[], loud);

    let join_token = "canary-join-token-93aa5be07c61";
    let (_, pin) = machine.token("auth", &["--type=node", &format!("--value={join_token}")]);
    let token_file = machine.path("token");
    std::fs::write(&token_file, join_token).unwrap();
    let server = format!("  auth_server: 127.0.0.1:{web}\n  auth_token: {}\n", token_file.display());
    let node_services = Services { node: Some((0, "env: test")), ..none() };
    machine.configure("node", &server, &node_services.yaml());
    let node = machine.start_with("node", &[&format!("--ca-pin={pin}")], loud);
    std::fs::write(&token_file, static_token).unwrap();
    machine.configure("second", &server, &node_services.yaml());
    let second = machine.start_with("second", &[&format!("--ca-pin={pin}")], loud);
    machine.wait_for_nodes("auth", 2);

    let home = machine.path("home");
    let logins = format!("--logins={}", own_login());
    let printed =
        machine.tctl("auth", &["users", "add", "birdwatcher", &logins, "--roles=access,auditor"]).clean();
    let invite = link(&printed).rsplit_once("/invite/").unwrap().1.split('#').next().unwrap().to_owned();
    let mut user = User::accept("birdwatcher", &printed, &home);
    let tsh = |arguments: &[&str]| {
        let mut command = own("tsh");
        command.env("TELEPORT_HOME", &home).env("RUST_LOG", "trace").args(arguments);
        command
    };
    let proxy = format!("--proxy=127.0.0.1:{web}");
    let mut said = Vec::new();
    // Failures are where secrets leak most easily.
    let wrong_password = "canary-wrong-password-57d8";
    let wrong_code = user.app.wrong_code();
    let wrong = format!("{wrong_password}\n{wrong_code}\n");
    said.push(run_with(tsh(&["login", &proxy, "--user=birdwatcher"]), wrong.as_bytes()));
    said.push(user.login(tsh(&["login", &proxy])));
    said.push(run(tsh(&["ssh", "node", "echo watched"])));
    said.push(run(tsh(&["ls"])));
    let session = wait_for("the recording", || {
        let listed = run(tsh(&["recordings", "ls", "--format=json"])).stdout;
        let list: Vec<serde_json::Value> = serde_json::from_slice(&listed).ok()?;
        let done = list.iter().find(|recording| !recording["completed"].is_null())?;
        Some(done["meta"]["session"].as_str().unwrap().to_owned())
    });
    said.push(run(tsh(&["play", &session, "--format=json"])));
    said.push(machine.tctl("auth", &["tokens", "ls"]));
    said.push(machine.tctl("auth", &["users", "ls", "--format=json"]));
    said.push(machine.tctl("auth", &["events", "search", "--format=json"]));
    assert!(said.iter().skip(1).all(|output| output.status.success()), "{said:#?}");

    let seed = totp_rs::Secret::try_from_base32(&user.app.secret).unwrap();
    let mut canaries = vec![
        Canary::new("password", user.password.as_bytes()),
        Canary::new("wrong password", wrong_password.as_bytes()),
        Canary::new("TOTP secret", user.app.secret.as_bytes()),
        Canary::new("TOTP seed", seed.as_bytes()),
        Canary::new("invite", invite.as_bytes()),
        Canary::new("join token", join_token.as_bytes()),
        Canary::new("static token", static_token.as_bytes()),
        Canary::new("master key", &std::fs::read(machine.path("auth/master.key")).unwrap()),
        // Private keys of any origin: the forms in which Ed25519 and P-256 keys are stored.
        Canary::new("an Ed25519 key", b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20"),
        Canary::new("a P-256 key", b"\x02\x01\x00\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07"),
        Canary::new("a PEM key", b"PRIVATE KEY-----"),
        Canary::new("an OpenSSH key", b"openssh-key-v1\0"),
    ];
    // Keys may be where they are used, and nowhere else.
    let mut at_home = 0;
    for place in ["auth", "node", "second", "home"] {
        for file in files_below(&machine.path(place)) {
            let Ok(text) = std::fs::read_to_string(&file) else { continue };
            for block in text.split("-----BEGIN OPENSSH PRIVATE KEY-----").skip(1) {
                let block = block.split("-----END").next().unwrap().replace("\\n", "\n");
                canaries.push(Canary::new(&file.display().to_string(), private_part(&block).as_bytes()));
                at_home += 1;
            }
        }
    }
    assert!(at_home >= 3, "the keys of hosts and of the user were looked for: {at_home}");

    let mut places: Vec<(String, Vec<u8>)> = Vec::new();
    for process in [&auth, &node, &second] {
        let cmdline = format!("/proc/{}/cmdline", process.pid());
        places.push((cmdline.clone(), std::fs::read(cmdline).unwrap()));
    }
    for (number, output) in said.iter().enumerate() {
        places.push((format!("stdout {number}"), output.stdout.clone()));
        places.push((format!("stderr {number}"), output.stderr.clone().into_bytes()));
    }
    for process in [node, second, auth] {
        let log = process.log.clone();
        Process::stop(process);
        places.push((log.display().to_string(), std::fs::read(log).unwrap()));
    }
    for place in ["auth", "node", "second"] {
        for file in files_below(&machine.path(place)) {
            // The host's own keys and the master key.
            let own_keys = file.components().any(|part| part.as_os_str() == "identity");
            if !own_keys && !file.ends_with("master.key") {
                places.push((file.display().to_string(), std::fs::read(&file).unwrap()));
            }
        }
    }
    let audit = places.iter().filter(|(name, _)| name.contains("/audit/")).count();
    assert!(
        audit > 0 && places.iter().any(|(name, _)| name.ends_with("backend.redb")),
        "all places are there"
    );
    // The search finds what is there.
    for place in ["auth.log", "backend.redb", "/audit/", "stdout"] {
        let public = Canary::new("a name", b"birdwatcher");
        let found = places.iter().any(|(name, bytes)| name.contains(place) && public.is_in(bytes));
        assert!(found, "{place} is readable to this search");
    }
    let leaks: Vec<String> = places
        .iter()
        .flat_map(|(name, bytes)| {
            let found = canaries.iter().filter(move |canary| canary.is_in(bytes));
            found.map(move |canary| format!("{} in {name}", canary.what))
        })
        .collect();
    assert!(leaks.is_empty(), "{leaks:#?}");
}
