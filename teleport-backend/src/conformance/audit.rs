//! What every audit log must do.
//!
//! [`run_all`] runs the tests, each on the fresh log that the factory gives.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use teleport_core::audit::{AuditError, AuditEvent, AuditLog, AuditPage, AuditQuery, EventKind, MAX_EVENTS};
use teleport_core::clock::Timestamp;
use teleport_core::id::SessionId;
use teleport_core::task::TaskScope;

const NOON: Timestamp = Timestamp::from_unix_millis(1_795_262_400_000);

/// Makes the logs to test, each empty. Implemented by async closures and functions.
pub trait Factory {
    /// A fresh, empty log.
    fn open(&self) -> impl Future<Output = Arc<dyn AuditLog>>;
}

impl<F: AsyncFn() -> Arc<dyn AuditLog>> Factory for F {
    async fn open(&self) -> Arc<dyn AuditLog> {
        self().await
    }
}

/// Runs every test of the suite.
///
/// # Panics
/// Where the log breaks the contract.
pub async fn run_all(factory: &impl Factory) {
    events_come_back_as_they_were(factory).await;
    searches_filter(factory).await;
    searches_page_in_both_directions(factory).await;
    parallel_events_are_all_kept(factory).await;
    only_places_that_a_page_named_are_searched_from(factory).await;
}

/// Whoever asks for a page from nowhere is told so: it is not the log that failed, and asking again does not help.
///
/// # Panics
/// Where the log breaks the contract.
pub async fn only_places_that_a_page_named_are_searched_from(factory: &impl Factory) {
    let log = factory.open().await;
    log.emit(vec![event(EventKind::UserLogin, 1, NOON)]).await.unwrap();
    for after in ["", "nowhere", "-1", "2026-11-21", "2026-11-21:x", "1.2", "\u{0}", &"9".repeat(99)] {
        for newest_first in [false, true] {
            let query = AuditQuery { after: Some(after.to_owned()), newest_first, ..AuditQuery::default() };
            let result = log.search(query).await;
            assert!(matches!(result, Err(AuditError::Invalid { .. })), "{after:?}: {result:?}");
        }
    }
}

fn session(number: u32) -> SessionId {
    format!("{number:08x}-0000-4000-8000-000000000000").parse().expect("the suite uses valid ids")
}

fn event(kind: EventKind, number: u32, time: Timestamp) -> AuditEvent {
    let mut event = AuditEvent::new(kind).field("number", number);
    event.time = time;
    event
}

fn numbers(page: &AuditPage) -> Vec<u64> {
    page.events.iter().map(|event| event.fields["number"].as_u64().unwrap()).collect()
}

/// All pages of a query.
async fn everything(log: &dyn AuditLog, mut query: AuditQuery) -> Vec<u64> {
    let mut found = Vec::new();
    loop {
        let page = log.search(query.clone()).await.unwrap();
        assert!(page.events.len() <= query.limit.max(1) || query.limit == 0, "at most the limit");
        found.extend(numbers(&page));
        match page.next {
            Some(next) => query.after = Some(next),
            None => return found,
        }
    }
}

/// Nothing is lost or changed between `emit` and `search`, whatever is in an event.
///
/// # Panics
/// Where the log breaks the contract.
pub async fn events_come_back_as_they_were(factory: &impl Factory) {
    let log = factory.open().await;
    let empty = log.search(AuditQuery::default()).await.unwrap();
    assert_eq!(empty, AuditPage::default(), "a fresh log is empty");
    log.emit(Vec::new()).await.expect("no event is a valid number of events");
    let odd = "a\nb\r\n\"quoted\" \\ \u{2028} \u{0} {\"event\":\"forged\"}\n";
    let mut full = event(EventKind::Exec, 1, NOON)
        .user("alice")
        .login(&"root".parse().expect("valid"))
        .session(session(1))
        .remote(Some("[::1]:22".parse().expect("valid")))
        .error(odd)
        .field("command", odd);
    full.cluster_name = "example.com".to_owned();
    let events = vec![full, event(EventKind::UserLogin, 2, NOON)];
    log.emit(events.clone()).await.unwrap();
    let mut page = log.search(AuditQuery::default()).await.unwrap();
    // The number is the log's own.
    page.events.iter_mut().for_each(|event| event.index = None);
    assert_eq!(page, AuditPage { events, ..AuditPage::default() }, "in the order of emission");
}

/// Each condition, and several together.
///
/// # Panics
/// Where the log breaks the contract.
pub async fn searches_filter(factory: &impl Factory) {
    let log = factory.open().await;
    let day = Duration::from_secs(24 * 3600);
    let kinds =
        [EventKind::UserLogin, EventKind::UserLoginFailure, EventKind::SessionStart, EventKind::SessionEnd];
    // Three days, eight events each.
    for number in 0..24 {
        let kind = kinds[number as usize % kinds.len()];
        let time = NOON.saturating_add(day * (number / 8)).saturating_add(Duration::from_secs(number.into()));
        let mut event = event(kind, number, time).user(if number % 3 == 0 { "alice" } else { "bob" });
        if number % 4 >= 2 {
            event = event.session(session(number / 4));
        }
        log.emit(vec![event]).await.unwrap();
    }
    let all = AuditQuery::default;
    let find = async |query| everything(&*log, query).await;
    assert_eq!(find(all()).await, (0..24).collect::<Vec<_>>());
    let newest = AuditQuery { newest_first: true, ..all() };
    assert_eq!(find(newest.clone()).await, (0..24).rev().collect::<Vec<_>>());
    let name = |kind: EventKind| kind.name().to_owned();
    let logins = AuditQuery { events: vec![name(EventKind::UserLogin)], ..all() };
    assert_eq!(
        find(logins).await,
        (0..24).filter(|n| n % 4 < 2).collect::<Vec<_>>(),
        "both codes of the name"
    );
    let code = AuditQuery { events: vec![EventKind::UserLoginFailure.code().to_owned()], ..all() };
    assert_eq!(find(code).await, (0..24).filter(|n| n % 4 == 1).collect::<Vec<_>>(), "or a code");
    let ends =
        AuditQuery { events: vec![name(EventKind::SessionStart), name(EventKind::SessionEnd)], ..all() };
    assert_eq!(find(ends).await, (0..24).filter(|n| n % 4 >= 2).collect::<Vec<_>>());
    let alice = AuditQuery { user: Some("alice".to_owned()), ..newest };
    assert_eq!(find(alice).await, (0..24).rev().filter(|n| n % 3 == 0).collect::<Vec<_>>());
    let one = AuditQuery { session: Some(session(3).to_string()), ..all() };
    assert_eq!(find(one).await, [14, 15]);
    let second = NOON.saturating_add(day);
    let span = AuditQuery {
        from: Some(second.saturating_add(Duration::from_secs(9))),
        to: Some(second.saturating_add(Duration::from_secs(12))),
        ..all()
    };
    assert_eq!(find(span.clone()).await, [9, 10, 11], "from is inside, to is not");
    let both = AuditQuery { user: Some("alice".to_owned()), ..span };
    assert_eq!(find(both).await, [9], "all conditions together");
    assert_eq!(find(AuditQuery { user: Some("ali".to_owned()), ..all() }).await, [0; 0], "whole names only");
    assert_eq!(find(AuditQuery { from: Some(Timestamp::MAX), ..all() }).await, [0; 0]);
}

/// Pages join without gap or repetition, also while events are added.
///
/// # Panics
/// Where the log breaks the contract.
pub async fn searches_page_in_both_directions(factory: &impl Factory) {
    let log = factory.open().await;
    let hour = Duration::from_secs(3600);
    let emit = async |numbers: std::ops::Range<u32>| {
        let event = |number| event(EventKind::UserLogin, number, NOON.saturating_add(hour * number));
        log.emit(numbers.map(event).collect()).await.unwrap();
    };
    emit(0..60).await;
    for limit in [1, 7, 59, 60, 61] {
        let oldest = AuditQuery { limit, ..AuditQuery::default() };
        assert_eq!(everything(&*log, oldest.clone()).await, (0..60).collect::<Vec<_>>(), "limit {limit}");
        let newest = AuditQuery { newest_first: true, ..oldest };
        assert_eq!(everything(&*log, newest).await, (0..60).rev().collect::<Vec<_>>(), "limit {limit}");
    }
    let query = AuditQuery { limit: 10, newest_first: true, ..AuditQuery::default() };
    let first = log.search(query.clone()).await.unwrap();
    assert_eq!(numbers(&first), (50..60).rev().collect::<Vec<_>>());
    emit(60..70).await;
    let rest = everything(&*log, AuditQuery { after: first.next, ..query }).await;
    assert_eq!(rest, (0..50).rev().collect::<Vec<_>>(), "new events do not move the pages");

    let page = log.search(AuditQuery { limit: 70, ..AuditQuery::default() }).await.unwrap();
    assert_eq!((page.events.len(), page.next), (70, None), "a page that holds the rest names no next one");
    let forged = AuditQuery { after: Some("../../etc/passwd:0".to_owned()), ..AuditQuery::default() };
    log.search(forged).await.expect_err("a page begins only where an earlier one ended");
    let many = AuditQuery { limit: usize::MAX, ..AuditQuery::default() };
    assert!(log.search(many).await.unwrap().events.len() <= MAX_EVENTS);
}

/// Events from many tasks are all kept, each once, those of one call together and in order.
///
/// # Panics
/// Where the log breaks the contract.
pub async fn parallel_events_are_all_kept(factory: &impl Factory) {
    let log = factory.open().await;
    let done = Arc::new(AtomicUsize::new(0));
    let scope = TaskScope::new();
    for caller in 0..8_u32 {
        let (log, done) = (Arc::clone(&log), Arc::clone(&done));
        scope.spawn(async move {
            for round in 0..20 {
                let first = (caller * 20 + round) * 2;
                let pair = [first, first + 1].map(|number| event(EventKind::Exec, number, NOON));
                log.emit(pair.to_vec()).await.unwrap();
                done.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    scope.join().await;
    assert_eq!(done.load(Ordering::SeqCst), 160, "every call succeeded");
    let found = everything(&*log, AuditQuery { limit: 33, ..AuditQuery::default() }).await;
    assert!(found.chunks(2).all(|pair| pair[0] % 2 == 0 && pair[1] == pair[0] + 1), "pairs stay together");
    let mut sorted = found;
    sorted.sort_unstable();
    assert_eq!(sorted, (0..320).collect::<Vec<_>>());
}
