//! Resources as documents, by the real programs: written, changed, refused, backed up and restored.

use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use teleport_core::audit::EventKind;

use crate::support::cluster::TestCluster;
use crate::support::daemon::{Machine, Services, mode};
use crate::support::own_login;
use crate::support::program::{Output, own, run, run_with};
use crate::support::user::User;

const ROLE: &str = "kind: role
version: v1
metadata:
  name: ops
spec:
  allow:
    logins: [deploy]
    node_labels: {env: prod}
";

fn tctl(cluster: &TestCluster, arguments: &[&str]) -> Command {
    let mut command = own("tctl");
    command.arg("--data-dir").arg(cluster.dir().join("cluster")).args(arguments);
    command
}

fn write(cluster: &TestCluster, arguments: &[&str], text: &str) -> Output {
    run_with(tctl(cluster, arguments), text.as_bytes())
}

fn get(cluster: &TestCluster, what: &str) -> String {
    run(tctl(cluster, &["get", what])).clean()
}

#[test]
fn documents_are_made_changed_and_removed() {
    let cluster = TestCluster::with_node();
    let text = format!(
        "{ROLE}---\nkind: user\nversion: v1\nmetadata: {{name: dave}}\nspec:\n  roles: [ops]\n---\n\
         kind: token\nversion: v1\nmetadata: {{name: ''}}\nspec: {{roles: [node], secret: a-secret-of-some-length}}\n"
    );
    let file = cluster.dir().join("all.yaml");
    std::fs::write(&file, &text).unwrap();
    let path = file.to_str().unwrap();
    let printed = run(tctl(&cluster, &["create", "-f", path])).clean();
    assert!(printed.contains("role \"ops\" has been created"), "{printed}");
    assert!(printed.contains("user \"dave\" has been created, without a password"), "{printed}");
    assert!(printed.contains("token ") && !printed.contains("a-secret-of-some-length"), "{printed}");
    for (kind, name) in [(EventKind::RoleCreate, "ops"), (EventKind::UserCreate, "dave")] {
        cluster.event(kind, |event| event.fields["name"] == name);
    }
    // The same again says what can be done; with --force it is done.
    let line = run(tctl(&cluster, &["create", path])).refusal();
    assert!(line.contains("line 1") && line.contains("role ops exists; tctl create --force"), "{line}");
    assert!(write(&cluster, &["create", "--force"], ROLE).clean().contains("role \"ops\" has been updated"));
    let other = ROLE.replace("ops", "ops-2");
    assert!(write(&cluster, &["create", "--force", "-"], &other).clean().contains("has been created"));

    // What was read is what is written, in both forms.
    let yaml = get(&cluster, "role/ops");
    assert!(yaml.contains("revision: ") && yaml.contains("deploy"), "{yaml}");
    let json = run(tctl(&cluster, &["get", "roles/ops", "--format=json"])).clean();
    let document: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(document[0]["spec"]["allow"]["logins"][0], "deploy");
    let changed = yaml.replace("deploy", "deployer");
    assert!(write(&cluster, &["update"], &changed).clean().contains("role \"ops\" has been updated"));
    cluster.event(EventKind::RoleUpdate, |event| event.fields["name"] == "ops");
    for how in [&["update"][..], &["create", "--force"]] {
        let line = write(&cluster, how, &changed).refusal();
        assert!(
            line.contains("was changed by somebody else") && line.contains("metadata.revision"),
            "{line}"
        );
    }
    assert!(write(&cluster, &["create", "--force"], &json).refusal().contains("revision"));
    let labelled = run(tctl(&cluster, &["update", "role/ops", "--set-labels=team=web"])).clean();
    assert!(labelled.contains("updated") && get(&cluster, "role/ops").contains("team: web"));

    // Everything that there is can be looked at.
    let all = get(&cluster, "role,users,tokens,nodes,cert_authority");
    for part in ["name: ops-2", "name: dave", "kind: token", "hostname: node", "kind: cert_authority"] {
        assert!(all.contains(part), "{part}: {all}");
    }
    let table = run(tctl(&cluster, &["get", "roles", "--format=text"])).clean();
    assert!(table.contains("Revision") && table.contains("team=web"), "{table}");
    let token: Value =
        serde_json::from_str(&run(tctl(&cluster, &["get", "tokens", "--format=json"])).clean()).unwrap();
    let id = token[0]["metadata"]["name"].as_str().unwrap();
    let more = serde_json::to_string(&token).unwrap().replace("\"spec\":{", "\"spec\":{\"uses\":7,");
    assert!(write(&cluster, &["update"], &more).clean().contains("has been updated"));
    assert!(get(&cluster, &format!("token/{id}")).contains("uses: 7"));

    // A role that is held stays; then all of it goes.
    let line = run(tctl(&cluster, &["rm", "role/ops"])).refusal();
    assert!(line.contains("is held by dave"), "{line}");
    let token = format!("token/{id}");
    let removed = run(tctl(&cluster, &["rm", "user/dave", "role/ops", &token, "node/node"])).clean();
    assert_eq!(removed.lines().count(), 4, "{removed}");
    cluster.event(EventKind::RoleDelete, |event| event.fields["name"] == "ops");
    assert!(run(tctl(&cluster, &["get", "role/ops"])).refusal().contains("role ops not found"));
}

#[test]
fn what_is_wrong_is_one_line_that_says_where() {
    let cluster = TestCluster::start();
    for (from, to, parts) in [
        ("    logins", "    logisn", ["line 7, column 5", "did you mean \"logins\"?"]),
        ("kind: role", "kind: roel", ["line 1", "did you mean \"role\"?"]),
        (
            "{env: prod}",
            "{env: '^(prod$'}",
            ["line 8, column 5: spec.allow.node_labels", "regular expression"],
        ),
        ("{env: prod}", "{}\n    node_labels_expression: 'labels['", ["line 9", "node_labels_expression"]),
        ("[deploy]", "['{{internal.x']", ["line 7", "logins[0]"]),
        ("[deploy]", "['*']", ["line 7", "logins"]),
        ("name: ops", "name: o ps", ["metadata.name", ""]),
        ("version: v1", "version: v2", ["line 2", "v3"]),
        ("spec:", "spec: [", ["line", ""]),
        ("kind: role", "kind: node", ["a node describes itself", ""]),
    ] {
        let line = write(&cluster, &["create"], &ROLE.replace(from, to)).refusal();
        assert!(parts.iter().all(|part| line.contains(part)), "{to}: {line}");
    }
    for (arguments, text, part) in [
        (&["create"][..], "", "there is no document"),
        (&["create", "/nonexistent.yaml"], "", "/nonexistent.yaml cannot be read"),
        (&["update"], ROLE, "role ops not found"),
        (&["get", "roel"], "", "roel"),
        (&["get", "roles", "--with-secrets"], "", "tctl get all --with-secrets"),
        (&["get", "user/nobody"], "", "user nobody not found"),
        (&["get", "token/0000"], "", "not found"),
        (&["get", "node/absent"], "", "not found"),
        (&["rm", "role/editor"], "", "built in"),
        (&["rm", "role/absent"], "", "role absent not found"),
        (&["rm", "cert_authority/user"], "", "cannot be removed"),
        (&["rm", "roles"], "", "kind/name"),
        (&["edit", "node/x"], "", "cannot be written"),
        (
            &["create"],
            "kind: user\nversion: v1\nmetadata: {name: u}\nspec: {roles: [absent]}\n",
            "no role absent",
        ),
        (
            &["create"],
            "kind: user\nversion: v1\nmetadata: {name: local-admin}\nspec: {roles: []}\n",
            "audit log",
        ),
        (
            &["create"],
            "kind: token\nversion: v1\nmetadata: {name: ''}\nspec: {roles: [node]}\n",
            "spec.secret",
        ),
    ] {
        let line = write(&cluster, arguments, text).refusal();
        assert!(line.contains(part), "{arguments:?}: {line}");
    }
    // Roles of the original are read, and say what is not done.
    let original =
        ROLE.replace("v1", "v7").replace("spec:\n", "spec:\n  options: {device_trust_mode: required}\n");
    let output = write(&cluster, &["create"], &original);
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.starts_with("WARNING: stdin: line 6") && output.stderr.contains("not enforced"));
}

/// An editor that is a script of the test.
fn editor(cluster: &TestCluster, script: &str) -> PathBuf {
    let path = cluster.dir().join("editor");
    std::fs::write(&path, format!("set -e\n{script}\n")).unwrap();
    path
}

fn edit(cluster: &TestCluster, what: &str, script: &str) -> Output {
    let mut command = tctl(cluster, &["edit", what]);
    command.env("EDITOR", format!("sh {}", editor(cluster, script).display()));
    command.env("TMPDIR", tmp(cluster));
    run(command)
}

fn tmp(cluster: &TestCluster) -> PathBuf {
    let dir = cluster.dir().join("tmp");
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

fn left(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

#[test]
fn an_edit_is_written_offered_again_or_left() {
    let cluster = TestCluster::start();
    write(&cluster, &["create"], ROLE).clean();
    let seen = cluster.dir().join("seen");
    let said = edit(
        &cluster,
        "role/ops",
        &format!("stat -c %a \"$1\" > {}; sed -i s/deploy/deployer/ \"$1\"", seen.display()),
    );
    assert!(said.clean().contains("role \"ops\" has been updated"));
    assert_eq!(std::fs::read_to_string(&seen).unwrap().trim(), "600");
    assert!(get(&cluster, "role/ops").contains("deployer"));
    let before = get(&cluster, "role/ops");
    assert!(edit(&cluster, "role/ops", "true").clean().contains("nothing was done"));
    assert_eq!(get(&cluster, "role/ops"), before);
    assert!(edit(&cluster, "role/ops", "exit 3").refusal().contains("nothing was done"));
    assert_eq!(left(&tmp(&cluster)), 0, "nothing stays behind");

    // The first try is wrong; the second sees why, and mends it.
    let twice = "if grep -q 'NOT WRITTEN' \"$1\"; then grep -q 'logisn' \"$1\"; sed -i s/logisn/logins/ \"$1\"; \
                 else sed -i 's/logins/logisn/; s/deployer/deploy/' \"$1\"; fi";
    let output = edit(&cluster, "role/ops", twice);
    assert!(output.clean().contains("has been updated"));
    assert!(get(&cluster, "role/ops").contains("deploy\n") || get(&cluster, "role/ops").contains("- deploy"));

    // Who gives up keeps the text.
    let line = edit(&cluster, "role/ops", "sed -i s/logins/logisn/ \"$1\"").refusal();
    assert!(line.contains("did you mean") && line.contains("the text is in "), "{line}");
    let kept = PathBuf::from(line.rsplit("the text is in ").next().unwrap());
    assert!(std::fs::read_to_string(&kept).unwrap().contains("logisn"));
    assert_eq!(mode(&kept), 0o600);
    let line = edit(&cluster, "role/ops", "sed -i s/ops/other/ \"$1\"").refusal();
    assert!(line.contains("kind and name cannot be changed"), "{line}");
    // An editor that is a program may write another mistake each time.
    let tries = cluster.dir().join("tries");
    let endless = format!("echo x >> {0}; echo \"wrong$(wc -l < {0}): y\" >> \"$1\"", tries.display());
    let line = edit(&cluster, "role/ops", &endless).refusal();
    assert!(line.contains("wrong") && line.contains("the text is in "), "{line}");
    assert_eq!(std::fs::read_to_string(&tries).unwrap().lines().count(), 10);
    // Somebody else was faster.
    let race = format!(
        "grep -q 'NOT WRITTEN' \"$1\" || {{ {} --data-dir {} update role/ops --set-labels=a=b >/dev/null; \
         sed -i s/deploy/mine/ \"$1\"; }}",
        env!("CARGO_BIN_EXE_tctl"),
        cluster.dir().join("cluster").display()
    );
    let line = edit(&cluster, "role/ops", &race).refusal();
    assert!(line.contains("was changed by somebody else"), "{line}");
}

/// A user must not become more than an administrator made of them.
#[test]
fn who_may_not_write_roles_writes_none() {
    let cluster = TestCluster::start();
    let login = format!("--logins={}", own_login());
    let printed = run(tctl(&cluster, &["users", "add", "mallory", &login])).clean();
    let home = cluster.dir().join("mallory");
    let mut mallory = User::accept("mallory", &printed, &home);
    let file = cluster.dir().join("identity");
    let mut tsh = own("tsh");
    tsh.env("TELEPORT_HOME", &home).args(["login", &format!("--proxy={}", cluster.web())]);
    tsh.arg(format!("--out={}", file.display()));
    mallory.login(tsh).clean();
    let as_mallory = |arguments: &[&str], text: &str| {
        let mut command = own("tctl");
        command.args(["--auth-server", &cluster.web().to_string(), "--identity"]).arg(&file).args(arguments);
        run_with(command, text.as_bytes()).refusal()
    };
    let access =
        get(&cluster, "role/access").replace("rules: []", "rules: [{resources: ['*'], verbs: ['*']}]");
    let user = get(&cluster, "user/mallory").replace("- access", "- access\n  - editor");
    for (arguments, text) in [
        (&["create"][..], ROLE),
        (&["create", "--force"], &access),
        (&["update"], &user),
        (&["rm", "role/access"], ""),
        (&["get", "all", "--with-secrets"], ""),
    ] {
        let line = as_mallory(arguments, text);
        assert!(line.contains("access denied"), "{arguments:?}: {line}");
    }
    cluster.event(EventKind::ApiDenied, |event| {
        event.user.as_deref() == Some("mallory") && event.fields["operation"] == "replace_role"
    });
}

const ALL: Services<'static> = Services { auth: Some(0), proxy: Some((0, 0)), node: None };

#[test]
fn a_backup_is_restored_into_an_empty_cluster() {
    let machine = Machine::new();
    machine.configure("one", "", &ALL.yaml());
    let one = machine.start("one", &[]);
    let text =
        format!("{ROLE}---\nkind: user\nversion: v1\nmetadata: {{name: dave}}\nspec: {{roles: [ops]}}\n");
    let file = machine.path("new.yaml");
    std::fs::write(&file, text).unwrap();
    machine.tctl("one", &["create", file.to_str().unwrap()]).clean();
    let pin = |name: &str| {
        let status = machine.tctl(name, &["status", "--format=json"]).clean();
        serde_json::from_str::<Value>(&status).unwrap()["ca_pins"][0].as_str().unwrap().to_owned()
    };
    let old_pin = pin("one");
    let plain = machine.tctl("one", &["get", "all"]).clean();
    assert!(plain.contains("# Without secrets") && !plain.contains("kind: secrets"), "{plain}");
    let full = machine.tctl("one", &["get", "all", "--with-secrets"]).clean();
    assert!(full.contains("# With secrets") && full.contains("kind: secrets"));
    assert!(machine.events("one").iter().any(|event| event["event"] == "backup.secrets"));
    // To a file that others may read: told, for a shell makes it before anything can be done about it.
    for (mode, warned) in [(0o644, true), (0o640, true), (0o600, false)] {
        let path = machine.path("mode.yaml");
        let _ = std::fs::remove_file(&path);
        let options = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = options.unwrap();
        file.set_permissions(std::fs::Permissions::from_mode(mode)).unwrap();
        let mut get = own("tctl");
        get.arg("--data-dir").arg(machine.path("one")).args(["get", "all", "--with-secrets"]).stdout(file);
        let output = get.output().unwrap();
        assert!(output.status.success());
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(told.starts_with("WARNING: others on this machine may read the file"), warned, "{told}");
    }
    std::fs::write(machine.path("plain.yaml"), &plain).unwrap();
    std::fs::write(machine.path("full.yaml"), &full).unwrap();
    let option = |name: &str| format!("--bootstrap={}", machine.path(name).display());
    one.stop();
    let line = machine.cannot_start("one", &[&option("plain.yaml")]);
    assert!(line.contains("not empty") && line.contains("tctl create --force"), "{line}");

    machine.configure("two", "", &ALL.yaml());
    let line = machine.cannot_start("two", &["--bootstrap=/nonexistent.yaml"]);
    assert!(line.contains("/nonexistent.yaml cannot be read"), "{line}");
    // One that was cut off, say: it is not taken for a cluster without anything.
    std::fs::write(machine.path("empty.yaml"), "# Backup of a cluster.\n").unwrap();
    let line = machine.cannot_start("two", &[&option("empty.yaml")]);
    assert!(line.contains("there is no document in it"), "{line}");
    // One that ends between two documents, or lacks one in the middle.
    let (cut, _) = plain.rsplit_once("---\n").unwrap();
    std::fs::write(machine.path("cut.yaml"), cut).unwrap();
    let line = machine.cannot_start("two", &[&option("cut.yaml")]);
    assert!(line.contains("cut.yaml: the backup is not whole"), "{line}");
    let mut documents: Vec<&str> = plain.split("---\n").collect();
    documents.remove(2);
    std::fs::write(machine.path("cut.yaml"), documents.join("---\n")).unwrap();
    let line = machine.cannot_start("two", &[&option("cut.yaml")]);
    assert!(line.contains("write the number of those that are there"), "{line}");
    std::fs::write(machine.path("wrong.yaml"), ROLE.replace("logins", "logisn")).unwrap();
    let line = machine.cannot_start("two", &[&option("wrong.yaml")]);
    assert!(line.contains("line 7") && line.contains("logins"), "{line}");
    // Without the old master key the secrets are worth nothing, and nothing of them is written.
    let line = machine.cannot_start("two", &[&option("full.yaml")]);
    assert!(line.contains("master.key"), "{line}");
    let two = machine.start("two", &[&option("plain.yaml")]);
    let restored = machine.tctl("two", &["get", "role/ops,user/dave"]).clean();
    assert!(restored.contains("deploy") && restored.contains("name: dave"), "{restored}");
    assert_ne!(pin("two"), old_pin, "a cluster of its own");
    assert!(machine.events("two").iter().any(|event| event["event"] == "backup.restore"));
    two.stop();

    machine.configure("three", "", &ALL.yaml());
    std::fs::create_dir(machine.path("three")).unwrap();
    std::fs::copy(machine.path("one").join("master.key"), machine.path("three").join("master.key")).unwrap();
    let three = machine.start("three", &[&option("full.yaml")]);
    assert_eq!(pin("three"), old_pin, "the same authorities: hosts need not join again");
    three.stop();
    // Once is enough, and needs no option.
    machine.start("three", &[]).stop();
}
