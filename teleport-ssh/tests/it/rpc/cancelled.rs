//! Clients that take a request back, or go: what has begun is carried out, and written down.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use teleport_core::api::{AdminApi as _, ApiErrorKind, CreateUser, PublicApi as _};
use teleport_core::audit::{AuditError, AuditEvent, AuditLog, AuditPage, AuditQuery, AuditSink, EventKind};
use teleport_core::id::HostRole;
use teleport_core::secret::SecretString;
use teleport_core::testing::MemoryAudit;
use teleport_ssh::listener::limits::Limits;
use teleport_ssh::rpc::AuthClient;
use tokio::sync::watch;

use super::world::{World, soon};

/// An audit log that can be held up: between the act and its event.
#[derive(Debug)]
struct Gate {
    log: Arc<MemoryAudit>,
    open: watch::Sender<bool>,
    reached: watch::Sender<usize>,
}

#[async_trait]
impl AuditSink for Gate {
    async fn emit(&self, events: Vec<AuditEvent>) -> Result<(), AuditError> {
        self.reached.send_modify(|count| *count += 1);
        self.open.subscribe().wait_for(|open| *open).await.unwrap();
        self.log.emit(events).await
    }
}

#[async_trait]
impl AuditLog for Gate {
    async fn search(&self, query: AuditQuery) -> Result<AuditPage, AuditError> {
        self.log.search(query).await
    }
}

impl Gate {
    /// From now on nothing is written, and it is counted from 0 what wants to be.
    fn close(&self) {
        self.open.send_replace(false);
        self.reached.send_replace(0);
    }

    fn open(&self) {
        self.open.send_replace(true);
    }

    async fn reached(&self, count: usize) {
        soon("calls at the gate", self.reached.subscribe().wait_for(|reached| *reached >= count))
            .await
            .unwrap();
    }
}

async fn world() -> (World, Arc<Gate>) {
    let mut gate = None;
    let limits = Limits { penalties: false, ..Limits::default() };
    let world = World::start_over(limits, |log| {
        let (open, reached) = (watch::Sender::new(true), watch::Sender::new(0));
        Arc::clone(gate.insert(Arc::new(Gate { log, open, reached }))) as _
    })
    .await;
    (world, gate.unwrap())
}

fn bob() -> CreateUser {
    CreateUser {
        name: "bob".parse().unwrap(),
        roles: vec!["access".parse().unwrap()],
        logins: Vec::new(),
        ttl: None,
    }
}

/// Waits for a state that nobody announces.
async fn until(what: &str, state: impl Fn() -> bool) {
    let waiting = async {
        while !state() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    soon(what, waiting).await;
}

fn is_audited(world: &World) -> bool {
    world.audit.events().iter().any(|event| {
        event.code == EventKind::UserCreate && serde_json::to_string(event).unwrap().contains("bob")
    })
}

/// Begins to make a user, and takes it back when the user is stored and the event is not.
async fn begin(gate: &Gate, client: &AuthClient) {
    gate.close();
    tokio::select! {
        answer = client.create_user(bob()) => panic!("answered before it was audited: {answer:?}"),
        () = gate.reached(1) => {}
    }
}

#[tokio::test]
async fn a_call_that_is_taken_back_is_carried_out_and_audited() {
    let (world, gate) = world().await;
    let alice = world.as_user("alice", &["editor"]).await;
    begin(&gate, &alice).await;
    // Frames come in order: who answers this has seen the other request being taken back.
    for _ in 0..2 {
        alice.users().await.unwrap();
    }
    assert!(!is_audited(&world));
    gate.open();
    until("the event", || is_audited(&world)).await;
    assert_eq!(alice.users().await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_call_whose_client_is_gone_is_carried_out_and_audited_before_the_server_ends() {
    let (world, gate) = world().await;
    let alice = world.as_user("alice", &["editor"]).await;
    begin(&gate, &alice).await;
    drop(alice);
    world.shutdown.drain();
    assert!(
        tokio::time::timeout(Duration::from_millis(300), world.tasks.join()).await.is_err(),
        "the server has ended before the call"
    );
    assert_eq!(world.door.counts().connections, 1, "the place was given back before the call had ended");
    gate.open();
    soon("the end of the server", world.tasks.join()).await;
    assert!(is_audited(&world));
}

#[tokio::test]
async fn an_aborted_server_waits_for_nobody() {
    let (world, gate) = world().await;
    let alice = world.as_user("alice", &["editor"]).await;
    begin(&gate, &alice).await;
    world.shutdown.abort();
    soon("the end of the server", world.tasks.join()).await;
    assert!(!is_audited(&world));
}

/// Who takes back what it asked, over and over, has no more of it running than who waits.
#[tokio::test]
async fn calls_that_nobody_waits_for_are_bounded() {
    let (world, gate) = world().await;
    let (web, _) = world.as_host(HostRole::Proxy, "proxy-1").await;
    web.ping().await.unwrap();
    // Each is refused, which is written down.
    let ask = || web.invite(SecretString::new("0".repeat(32)));
    gate.close();
    for number in 1..=256 {
        tokio::select! {
            answer = ask() => panic!("answered before it was audited: {answer:?}"),
            () = gate.reached(number) => {}
        }
    }
    let more = tokio::time::timeout(Duration::from_millis(300), ask()).await;
    assert!(more.is_err() && *gate.reached.borrow() == 256, "it has more than 256 calls running");
    gate.open();
    assert_eq!(soon("an answer", ask()).await.unwrap_err().kind(), ApiErrorKind::NotFound);
}
