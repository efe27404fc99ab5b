//! Whoever has joined a session stays no longer than may be, and nobody else is harmed: row C8 of the threat list for joined
//! participants, and #40816's failed joins.

use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::json;
use teleport_core::api::{AccessView, EndedSession};
use teleport_core::clock::{Clock, SystemClock, Timestamp};
use teleport_core::id::SessionId;
use teleport_core::resource::{
    JoinMode, JoinSessions, Lock, LockSpec, Role, RoleConditions, RoleSpec, builtin_roles,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::support::{PATIENCE, TestNode, UserCert, private_key, run, text};

/// Who comes without a login.
const VISITOR: &str = "User=+join";

type Change = fn(&mut AccessView, Timestamp);

fn watch(modes: &[&str]) -> Role {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    let entry = JoinSessions {
        roles: texts(&["access"]),
        kinds: texts(&["ssh"]),
        modes: texts(modes),
        ..JoinSessions::default()
    };
    let allow = RoleConditions { join_sessions: vec![entry], ..RoleConditions::default() };
    Role::new("watch", RoleSpec { allow, ..RoleSpec::default() })
}

/// A node on which alice, who has a login, and bob, who has none and may watch and type, are known.
struct Joined {
    node: TestNode,
    before: AccessView,
}

impl Joined {
    async fn begin() -> Self {
        let node = TestNode::start().await;
        node.roles(builtin_roles().into_iter().chain([watch(&["observer", "peer"])]).collect()).await;
        let before = node.auth.view.borrow().clone();
        let this = Self { node, before };
        this.write_bob(|_| ());
        this
    }

    fn write_bob(&self, change: impl FnOnce(&mut UserCert)) {
        let mut certificate = UserCert::new();
        certificate.key_id = "bob".to_owned();
        certificate.principals = vec!["-teleport-nologin".to_owned()];
        certificate.extensions[1].1 = r#"["watch"]"#.to_owned();
        change(&mut certificate);
        let key = private_key(7);
        self.node.write_certificate("bob", &certificate.sign(&key, &self.node.user_ca), &key);
    }

    async fn change(&self, change: impl FnOnce(&mut AccessView)) {
        self.node.auth.view.send_modify(change);
        let wanted = self.node.auth.view.borrow().clone();
        let known = self.node.status.view().wait_for(|view| *view == wanted);
        tokio::time::timeout(PATIENCE, known).await.unwrap();
    }

    async fn lock(&self, target: serde_json::Value) {
        let spec =
            LockSpec { target: serde_json::from_value(target).unwrap(), message: "Go home".to_owned() };
        self.change(|view| view.locks = [Lock::new("l", spec)].into_iter().collect()).await;
    }

    /// Alice's session, which echoes what she types.
    async fn owner(&self) -> (Child, SessionId) {
        let mut command = self.node.ssh();
        let mut child = piped(command.args(["-tt", "127.0.0.1", "stty -echo; echo up; exec cat"]));
        read_until(&mut child, "up").await;
        let [session] = &self.node.status.sessions().list()[..] else { panic!("there is one session") };
        (child, session.id)
    }

    /// `ssh` as bob, who joins.
    fn join(&self, id: &str, mode: JoinMode) -> Command {
        let all = self.node.ssh_as("bob");
        let mut command = Command::new("ssh");
        command.args(["-o", VISITOR, "-o", "SendEnv=TELEPORT_*"]);
        command.args(all.as_std().get_args()).args(["-tt", "127.0.0.1"]).kill_on_drop(true);
        command.env("TELEPORT_SESSION", id).env("TELEPORT_SSH_JOIN_MODE", mode.as_str());
        command
    }

    /// Bob's end of a session that he has joined.
    async fn bob(&self, id: SessionId, mode: JoinMode) -> Child {
        let before = self.node.auth.count("T2001I");
        let mut child = piped(&mut self.join(&id.to_string(), mode));
        read_until(&mut child, "bob joined the session").await;
        self.node.auth.event("T2001I", |event| event.user.as_deref() == Some("bob")).await;
        assert_eq!(self.node.auth.count("T2001I"), before + 1);
        child
    }
}

fn piped(command: &mut Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Reads on until a text was printed.
async fn read_until(child: &mut Child, wanted: &str) -> String {
    let stdout = child.stdout.as_mut().unwrap();
    let mut read = Vec::new();
    let found = async {
        while !text(&read).contains(wanted) {
            match stdout.read_u8().await {
                Ok(byte) => read.push(byte),
                Err(_) => return false,
            }
        }
        true
    };
    let found = tokio::time::timeout(PATIENCE, found).await;
    assert!(matches!(found, Ok(true)), "{wanted:?} in {:?}", text(&read));
    text(&read)
}

async fn end(child: Child) -> Output {
    tokio::time::timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap()
}

/// The session goes on.
async fn echoes(child: &mut Child, word: &str) {
    child.stdin.as_mut().unwrap().write_all(format!("{word}\n").as_bytes()).await.unwrap();
    read_until(child, word).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c8_who_joined_leaves_when_it_would_not_be_allowed_any_more_and_the_owner_stays() {
    let joined = Joined::begin().await;
    let now = SystemClock::new().now();
    let (mut owner, id) = joined.owner().await;
    let causes: [(Change, &str); 5] = [
        (
            |view, _| {
                let target = serde_json::from_value(json!({"user": "bob"})).unwrap();
                let spec = LockSpec { target, message: "Go home".to_owned() };
                view.locks = [Lock::new("l", spec)].into_iter().collect();
            },
            "is in force: Go home",
        ),
        // The role does not let anybody join any more, or not so.
        (|view, _| view.roles = builtin_roles().into(), "access was taken away"),
        (
            |view, _| {
                view.roles = builtin_roles().into_iter().chain([watch(&["peer"])]).collect::<Vec<_>>().into()
            },
            "the session may not be joined any more",
        ),
        (
            |view, now| {
                view.deleted_users.insert("bob".parse().unwrap(), now);
            },
            "the certificate is not good any more",
        ),
        (
            |view, _| {
                view.taken_roles.insert("bob".parse().unwrap(), ["watch".parse().unwrap()].into());
            },
            "access was taken away",
        ),
    ];
    for (number, (cause, says)) in causes.into_iter().enumerate() {
        let bob = joined.bob(id, JoinMode::Observer).await;
        let began = Instant::now();
        joined.change(|view| cause(view, now.saturating_add(Duration::from_secs(1)))).await;
        let ended = end(bob).await;
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert!(text(&ended.stdout).contains(says), "{says}: {ended:?}");
        assert_ne!(ended.status.code(), Some(0));
        let left = joined.node.auth.event("T2003I", |event| {
            event.fields["leave_reason"].as_str().is_some_and(|reason| reason.contains(says))
        });
        assert_eq!(left.await.sid, Some(id));
        // And does not come again.
        let refused = run(&mut joined.join(&id.to_string(), JoinMode::Observer)).await;
        assert_ne!(refused.status.code(), Some(0));
        assert!(!text(&refused.stdout).contains("up"));
        echoes(&mut owner, &format!("still-here-{number}")).await;
        joined.change(|view| view.clone_from(&joined.before)).await;
    }
    drop(owner.stdin.take());
    drop(owner);
}

#[tokio::test(flavor = "multi_thread")]
async fn c8_a_certificate_that_ends_ends_what_was_joined() {
    let joined = Joined::begin().await;
    let mut role = watch(&["observer"]);
    role.spec.options.disconnect_expired_cert = true;
    joined.node.roles(builtin_roles().into_iter().chain([role]).collect()).await;
    let (mut owner, id) = joined.owner().await;
    // Long enough to come in on a busy machine.
    joined.write_bob(|certificate| certificate.valid_before = SystemClock::new().now().unix_secs() + 15);
    let bob = joined.bob(id, JoinMode::Observer).await;
    let ended = end(bob).await;
    assert!(text(&ended.stdout).contains("the certificate has expired"), "{}", text(&ended.stdout));
    echoes(&mut owner, "still-here").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c8_what_ends_the_owner_ends_all() {
    let joined = Joined::begin().await;
    for (ends, says) in [
        ("lock", "the session has ended"),
        ("order", "the session has ended"),
        ("exit", "the session has ended"),
    ] {
        let (mut owner, id) = joined.owner().await;
        let bob = joined.bob(id, JoinMode::Peer).await;
        let began = Instant::now();
        match ends {
            "lock" => joined.lock(json!({"user": "alice"})).await,
            "order" => {
                let ended = EndedSession { session: id, by: "root".to_owned(), message: "Enough".to_owned() };
                joined.change(|view| view.ended_sessions.push(ended)).await;
            }
            // What bob types reaches the program, and this key ends it.
            _ => owner.stdin.as_mut().unwrap().write_all(&[4]).await.unwrap(),
        }
        let (bob, alice) = tokio::join!(end(bob), end(owner));
        assert!(began.elapsed() < Duration::from_secs(5), "{ends}: {:?}", began.elapsed());
        assert!(text(&bob.stdout).contains(says), "{ends}: {}", text(&bob.stdout));
        let told = match ends {
            "lock" => "is in force: Go home",
            "order" => "teleport: the session was ended by root: Enough",
            _ => "",
        };
        for screen in [&alice.stdout, &bob.stdout] {
            assert!(text(screen).contains(told), "{ends}: {}", text(screen));
        }
        assert_eq!(alice.status.code(), Some(if ends == "exit" { 0 } else { 255 }), "{ends}");
        joined.change(|view| view.clone_from(&joined.before)).await;
        let end = joined.node.auth.event("T2004I", |event| event.sid == Some(id)).await;
        assert_eq!(end.fields["participants"], json!(["alice", "bob"]));
    }
    assert!(joined.node.status.sessions().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn h4_joins_that_fail_are_written_down_and_tell_nothing() {
    let joined = Joined::begin().await;
    let (mut owner, id) = joined.owner().await;
    joined.lock(json!({"login": super::support::me()})).await;
    // The login that it runs as is locked: that ends the owner's, too.
    let ended = end(owner).await;
    assert!(text(&ended.stdout).contains("Go home"));
    joined.change(|view| view.clone_from(&joined.before)).await;
    (owner, _) = joined.owner().await;
    let running = joined.node.status.sessions().list()[0].id;
    let mut said = Vec::new();
    for (id, mode) in [
        (running.to_string(), JoinMode::Moderator),
        (id.to_string(), JoinMode::Observer),
        ("0f8fad5b-d9cb-469f-a165-70867728950e".to_owned(), JoinMode::Observer),
        ("nonsense".to_owned(), JoinMode::Observer),
    ] {
        let refused = run(&mut joined.join(&id, mode)).await;
        assert_eq!(refused.status.code(), Some(254), "{}", text(&refused.stderr));
        said.push(text(&refused.stderr).lines().next().unwrap_or_default().to_owned());
        let wanted = id.parse().ok();
        let event = joined.node.auth.event("T1006W", |event| {
            let asked = event.fields.get("session_asked").and_then(|asked| asked.as_str()?.parse().ok());
            // What does not run here is not reported as a session of this host.
            let here = event.sid.is_none_or(|sid| sid == running);
            here && event.sid.or(asked) == wanted && event.fields["mode"] == mode.as_str()
        });
        assert_eq!(event.await.user.as_deref(), Some("bob"));
    }
    said.dedup();
    assert_eq!(said, ["teleport: no such session runs here, or you may not join it so"]);
    // A certificate for one command is for that command.
    joined.write_bob(|certificate| certificate.critical.push(("force-command".into(), "true".into())));
    let refused = run(&mut joined.join(&running.to_string(), JoinMode::Observer)).await;
    assert_eq!(refused.status.code(), Some(255));
    // Who comes to join begins nothing, and runs nothing.
    joined.write_bob(|_| ());
    let mut shell = joined.join("", JoinMode::Observer);
    shell.env_remove("TELEPORT_SESSION").arg("echo in");
    let refused = run(&mut shell).await;
    assert_eq!((refused.status.code(), text(&refused.stdout).contains("in\r\n")), (Some(254), false));
    echoes(&mut owner, "still-here").await;
}

/// An observer that takes nothing neither stops the owner's program nor hides it from others.
#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_that_takes_nothing_stops_nobody() {
    let joined = Joined::begin().await;
    let long = "stty -echo; echo up; read go; head -c 40000000 /dev/zero | tr '\\0' x; echo; echo finished; exec cat";
    let mut command = joined.node.ssh();
    let mut owner = piped(command.args(["-tt", "127.0.0.1", long]));
    read_until(&mut owner, "up").await;
    let id = joined.node.status.sessions().list()[0].id;
    // Its output is a pipe that nobody reads.
    let stuck = joined.bob(id, JoinMode::Observer).await;
    let mut watching = joined.bob(id, JoinMode::Observer).await;
    let mut stdout = watching.stdout.take().unwrap();
    let watched = async move {
        let (mut seen, mut piece) = (Vec::new(), vec![0; 1 << 16]);
        // What came too fast is said, and the end is seen in any case.
        while !text(&seen).contains("finished") {
            let count = stdout.read(&mut piece).await.unwrap();
            assert!(count > 0, "the end came too early");
            seen.drain(..seen.len().saturating_sub(64));
            seen.extend_from_slice(&piece[..count]);
        }
    };
    owner.stdin.as_mut().unwrap().write_all(b"go\n").await.unwrap();
    let mut stdout = owner.stdout.take().unwrap();
    let (mut count, mut piece, mut tail) = (0, vec![0; 1 << 16], Vec::new());
    let reading = async {
        while !text(&tail).contains("finished") {
            let read = stdout.read(&mut piece).await.unwrap();
            assert!(read > 0, "the end came too early");
            count += piece[..read].iter().filter(|byte| **byte == b'x').count();
            tail.drain(..tail.len().saturating_sub(64));
            tail.extend_from_slice(&piece[..read]);
        }
    };
    tokio::time::timeout(PATIENCE, async { tokio::join!(reading, watched) }).await.unwrap();
    assert_eq!(count, 40_000_000, "the owner sees all of it");
    assert_eq!(joined.node.status.sessions().len(), 1);
    drop(stuck);
}
