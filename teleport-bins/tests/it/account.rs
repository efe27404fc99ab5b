//! Users about their own password and second factors, and administrators about users and tokens: by the programs alone.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use teleport_core::audit::EventKind;
use teleport_core::auth::SecondFactor;

use crate::support::cluster::TestCluster;
use crate::support::program::{Output, own, run, run_with};
use crate::support::user::{App, Asking, User, link};

/// A cluster, and one user's home.
struct World {
    cluster: TestCluster,
    home: PathBuf,
}

impl World {
    fn new(cluster: TestCluster) -> Self {
        let home = cluster.dir().join("home");
        Self { cluster, home }
    }

    /// A cluster that asks for passwords alone.
    fn without_codes() -> Self {
        Self::new(TestCluster::start_as(Default::default(), |settings| {
            settings.auth.as_mut().unwrap().second_factor = SecondFactor::Off;
        }))
    }

    fn tctl(&self, arguments: &[&str]) -> Output {
        let mut command = own("tctl");
        command.arg("--data-dir").arg(self.cluster.dir().join("cluster")).args(arguments);
        run(command)
    }

    fn list(&self, arguments: &[&str]) -> Vec<Value> {
        let text = self.tctl(&[arguments, &["--format=json"]].concat()).clean();
        serde_json::from_str::<Value>(&text).unwrap().as_array().unwrap().clone()
    }

    fn tsh(&self, arguments: &[&str]) -> Command {
        let mut command = own("tsh");
        command.env("TELEPORT_HOME", &self.home).args(arguments);
        command
    }

    fn login(&self, user: &mut User) -> Output {
        let proxy = format!("--proxy={}", self.cluster.web());
        user.login(self.tsh(&["login", "--force", &proxy]))
    }

    /// `alice`, logged in where no code is asked for; her password.
    fn alice_by_password(&self) -> &'static str {
        let password = "correct horse alice";
        let printed = self.tctl(&["users", "add", "alice", "--logins=alice"]).clean();
        let accept = self.tsh(&["accept", &link(&printed)]);
        let accepted = run_with(accept, format!("{password}\n").as_bytes());
        assert!(accepted.out().contains("Done. Log in with:"), "{accepted:?}");
        assert!(accepted.stderr.contains("WARNING"), "{accepted:?}");
        assert!(self.login_by(password).out().contains("Logged in as: alice"));
        password
    }

    fn login_by(&self, password: &str) -> Output {
        let proxy = format!("--proxy={}", self.cluster.web());
        let login = self.tsh(&["login", "--force", "--user=alice", &proxy]);
        run_with(login, format!("{password}\n").as_bytes())
    }

    /// `alice`, logged in.
    fn alice(&self) -> User {
        let printed = self.tctl(&["users", "add", "alice", "--logins=alice"]).clean();
        let mut alice = User::accept("alice", &printed, &self.home);
        self.login(&mut alice).clean();
        alice
    }
}

/// Without codes, for which the test would have to wait; who must show one is in the other tests.
#[test]
fn a_user_changes_the_password() {
    let world = World::without_codes();
    let old = world.alice_by_password();
    let new = "an entirely different sentence";
    let passwd =
        |lines: &[&str]| run_with(world.tsh(&["passwd"]), format!("{}\n", lines.join("\n")).as_bytes());
    // Said before anything is sent.
    assert!(passwd(&[old, "alice1234567"]).refusal_after_warnings().contains("user's name"));
    assert!(passwd(&[old, "short"]).refusal_after_warnings().contains("12 to 128"));
    assert!(passwd(&["wrong password", new]).refusal_after_warnings().contains("nothing was changed"));
    assert!(passwd(&[old, new]).out().contains("The password of alice has been changed"));
    assert!(world.login_by(old).refusal_after_warnings().contains("login failed"));
    assert!(world.login_by(new).out().contains("Logged in as: alice"));
    let failed =
        world.cluster.events(|event| event.fields.get("operation") == Some(&"change_password".into()));
    assert_eq!((failed.len(), failed[0].code.code()), (1, "T1000W"));
    run(world.tsh(&["logout"])).clean();
    assert!(passwd(&[new, old]).refusal().contains("not logged in"));
}

#[test]
fn a_user_has_several_devices() {
    let world = World::new(TestCluster::start());
    let mut alice = world.alice();
    let names = || -> Vec<String> {
        let text = run(world.tsh(&["mfa", "ls", "--format=json"])).clean();
        let devices: Value = serde_json::from_str(&text).unwrap();
        devices.as_array().unwrap().iter().map(|device| device["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(), ["otp"]);
    let (asking, secret) = Asking::begin(world.tsh(&["mfa", "add", "--name=phone"]));
    let mut phone = App::new(&secret);
    let (new, old) = (phone.code(), alice.app.code());
    let added = asking.end(&[&new, &alice.password, &old]).clean();
    assert!(added.contains("The device phone has been added") && !added.contains(&old), "{added}");
    assert_eq!(names(), ["otp", "phone"]);
    // What a lock of a device names, for administrators.
    let ids = run(world.tsh(&["mfa", "ls", "--format=json"])).clean();
    let ids: Value = serde_json::from_str(&ids).unwrap();
    let listed = world.tctl(&["users", "ls", "-v"]).clean();
    for device in ids.as_array().unwrap() {
        let shown = format!("{} ({})", device["name"].as_str().unwrap(), device["id"].as_str().unwrap());
        assert!(listed.contains(&shown), "{shown}: {listed}");
    }
    assert_eq!(world.list(&["users", "ls"])[0]["devices"][1]["id"], ids[1]["id"]);
    let table = run(world.tsh(&["mfa", "ls"])).clean();
    assert!(table.contains("phone") && table.contains("TOTP") && !table.contains(&secret), "{table}");
    assert!(run(world.tsh(&["mfa", "add", "--name=phone"])).refusal().contains("already"));
    assert!(run(world.tsh(&["mfa", "add", "--name=a b"])).refusal().contains("device name"));

    // Whoever lost the first removes it by the second.
    let mut by_phone = User { name: "alice".to_owned(), password: alice.password.clone(), app: phone };
    let remove = |name: &str, password: &str, code: &str| {
        run_with(world.tsh(&["mfa", "rm", name]), format!("{password}\n{code}\n").as_bytes())
    };
    let wrong = by_phone.app.wrong_code();
    assert!(remove("otp", &by_phone.password, &wrong).refusal().contains("nothing was changed"));
    assert!(remove("absent", &by_phone.password, &wrong).refusal().contains("device absent not found"));
    let code = by_phone.app.code();
    assert!(remove("otp", &by_phone.password, &code).clean().contains("The device otp has been removed"));
    assert_eq!(names(), ["phone"]);
    assert!(remove("phone", &by_phone.password, &wrong).refusal().contains("last device"));
    world.login(&mut by_phone).clean();
    let codes: Vec<String> = world
        .cluster
        .events(|event| event.event.starts_with("mfa."))
        .iter()
        .map(|event| format!("{} {}", event.code.code(), event.fields["mfa_device_name"].as_str().unwrap()))
        .collect();
    assert_eq!(codes, ["T1006I otp", "T1006I phone", "T1007I otp"]);
}

#[test]
fn administrators_update_and_unlock_users() {
    let world = World::without_codes();
    let password = world.alice_by_password();
    let said = world
        .tctl(&["users", "update", "alice", "--set-logins=root,alice", "--set-traits=team=db,web"])
        .clean();
    assert!(said.contains("logins: root,alice") && said.contains("trait team: db,web"), "{said}");
    world.tctl(&["users", "update", "alice", "--set-roles=auditor"]).clean();
    let users = world.list(&["users", "ls"]);
    assert_eq!((&users[0]["roles"][0], &users[0]["logins"][1]), (&"auditor".into(), &"root".into()));
    assert_eq!((&users[0]["traits"]["team"][1], &users[0]["mfa_devices"]), (&"web".into(), &0.into()));
    assert!(world.login_by(password).out().contains("Roles:        auditor"));
    world.tctl(&["users", "update", "alice", "--set-traits=team="]).clean();
    assert_eq!(world.list(&["users", "ls"])[0]["traits"], serde_json::json!({}));
    let said = world.tctl(&["users", "update", "alice", "--set-logins=", "--set-roles="]).clean();
    assert!(said.contains("roles: none") && said.contains("logins: none"), "{said}");
    let alice = &world.list(&["users", "ls"])[0];
    assert_eq!((&alice["logins"], &alice["roles"]), (&serde_json::json!([]), &serde_json::json!([])));
    world.tctl(&["users", "update", "alice", "--set-logins=root", "--set-roles=auditor"]).clean();
    for (arguments, part) in [
        (vec!["users", "update", "alice", "--set-logins=Root user"], "Root user"),
        (vec!["users", "update", "alice"], "--set-logins"),
        (vec!["users", "update", "alice", "--set-roles=nonesuch"], "nonesuch"),
        (vec!["users", "update", "nobody", "--set-roles=access"], "user nobody not found"),
        (vec!["users", "update", "alice", "--set-traits=logins=root"], "not as a trait"),
        (vec!["users", "update", "alice", "--set-traits=team"], "team=db,web"),
        (vec!["users", "unlock", "nobody"], "user nobody"),
        (vec!["users", "reset", "alice", "--ttl=25h"], "24 hours"),
    ] {
        let line = world.tctl(&arguments).refusal();
        assert!(line.contains(part), "{arguments:?}: {line}");
    }

    for _ in 0..5 {
        assert!(world.login_by("wrong password").refusal_after_warnings().contains("login failed"));
    }
    assert!(world.login_by(password).refusal_after_warnings().contains("login failed"), "locked");
    assert!(!world.list(&["users", "ls"])[0]["locked_until"].is_null());
    assert!(world.tctl(&["users", "unlock", "alice"]).clean().contains("may log in again"));
    assert!(world.list(&["users", "ls"])[0]["locked_until"].is_null());
    assert!(world.login_by(password).out().contains("Logged in as: alice"));
}

#[test]
fn tokens_and_invites_are_one_list() {
    let world = World::new(TestCluster::start_as(Default::default(), |settings| {
        let auth = settings.auth.as_mut().unwrap();
        auth.static_tokens = vec!["node:a-secret-of-the-configuration".to_owned()];
    }));
    world.tctl(&["tokens", "add", "--type=node", "--labels=env=prod", "--ttl=1h", "--uses=2"]).clean();
    let invited = world.tctl(&["users", "add", "alice", "--logins=alice"]).clean();
    world.tctl(&["users", "add", "bob", "--logins=bob"]).clean();
    let reset = world.tctl(&["users", "reset", "bob", "--ttl=2h"]).clean();
    assert!(reset.contains("/web/reset/") && reset.contains("it is good for 2h"), "{reset}");
    let shown = world.tctl(&["tokens", "ls"]).clean();
    for part in ["static-1", "never", "env=prod", "invite of alice", "reset of bob"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(shown.lines().last().unwrap().contains("never"), "sorted by their end: {shown}");
    let tokens = world.list(&["tokens", "ls"]);
    let secret = link(&invited);
    let secret = secret.split(['/', '#']).nth(5).unwrap();
    assert!(secret.len() == 32 && !shown.contains(secret) && !format!("{tokens:?}").contains(secret));
    let labelled = world.list(&["tokens", "ls", "--labels=env=prod"]);
    assert_eq!((labelled.len(), &labelled[0]["uses_left"]), (1, &2.into()));
    assert!(world.list(&["tokens", "ls", "--labels=env=test"]).is_empty());

    let invite = tokens.iter().find(|token| token["purpose"]["invite"] == "alice").unwrap();
    world.tctl(&["tokens", "del", invite["id"].as_str().unwrap()]).clean();
    assert!(!world.tctl(&["tokens", "ls"]).clean().contains("invite of alice"));
    let mut accept = own("tsh");
    accept.env("TELEPORT_HOME", &world.home).arg("accept").arg(link(&invited));
    assert!(run(accept).refusal().contains("ask for a new one"));
    assert!(world.tctl(&["tokens", "rm", "static-1"]).refusal().contains("configuration"));
    // The reset's link is one that `tsh accept` takes.
    User::accept("bob", &reset, &world.home);
}

/// For tests only, and said loudly by everything that meets it.
#[test]
fn without_a_second_factor_nothing_asks_for_a_code() {
    let world = World::without_codes();
    let password = world.alice_by_password();
    let again = world.login_by(password);
    assert!(again.stderr.contains("WARNING") && again.stderr.contains("second factor off"), "{again:?}");
    assert_eq!(world.login_by("wrong horse alice").code(), 1);
    let devices = run(world.tsh(&["mfa", "ls", "--format=json"])).clean();
    assert_eq!(devices.trim(), "[]");
}

/// Who has proved to be somebody hears of the lock; who guesses hears what everybody hears.
#[test]
fn a_locked_user_is_told_at_the_login() {
    let world = World::without_codes();
    let password = world.alice_by_password();
    world.tctl(&["lock", "--user=alice", "--message=Ask for Bob"]).clean();
    assert!(world.login_by(password).refusal_after_warnings().contains("is in force: Ask for Bob"));
    let told = world.cluster.event(EventKind::UserLoginFailure, |_| true).error;
    assert_eq!(told.as_deref(), Some("lock targeting user:\"alice\" is in force: Ask for Bob"));
    let guessed = world.login_by("wrong password").refusal_after_warnings();
    assert!(guessed.contains("login failed") && !guessed.contains("Bob"), "{guessed}");
}
