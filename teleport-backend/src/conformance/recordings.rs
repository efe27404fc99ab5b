//! What every store of recordings must do.
//!
//! [`run_all`] runs the tests, each on the fresh store that the factory gives.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use teleport_core::clock::Timestamp;
use teleport_core::id::{SessionId, UserName};
use teleport_core::recording::{
    Completion, Form, Listing, MAX_PART_LEN, MAX_PARTS, MAX_STORED_PART_LEN, RecordingError, RecordingInfo,
    RecordingMeta, RecordingStore,
};

const NOON: Timestamp = Timestamp::from_unix_millis(1_795_262_400_000);

/// Makes the stores to test, each empty. Implemented by async closures and functions.
pub trait Factory {
    /// A fresh, empty store.
    fn open(&self) -> impl Future<Output = Arc<dyn RecordingStore>>;
}

impl<F: AsyncFn() -> Arc<dyn RecordingStore>> Factory for F {
    async fn open(&self) -> Arc<dyn RecordingStore> {
        self().await
    }
}

/// Runs every test of the suite.
///
/// # Panics
/// Where the store breaks the contract.
pub async fn run_all(factory: &impl Factory) {
    parts_make_a_recording(factory).await;
    uploads_can_be_repeated_and_resumed(factory).await;
    complete_recordings_are_immutable(factory).await;
    lists_are_newest_first(factory).await;
    users_have_lists_of_their_own(factory).await;
    unknown_sessions_are_not_found(factory).await;
    pages_make_the_list(factory).await;
    who_took_part_has_it_in_the_list(factory).await;
    an_abandoned_one_ends_at_its_gap(factory).await;
    one_of_two_completions_counts(factory).await;
    what_is_deleted_is_gone(factory).await;
    parts_can_be_rewritten(factory).await;
}

/// Pages of any size, each after the last place of the one before, make the whole list, also within one millisecond.
///
/// # Panics
/// Where the store breaks the contract.
pub async fn pages_make_the_list(factory: &impl Factory) {
    let store = factory.open().await;
    for number in 0..23_u32 {
        // Five in each millisecond, over two days.
        let started = NOON.saturating_add(Duration::from_secs(u64::from(number / 5) * 11 * 3600));
        store.create(&meta(22 - number, started), &Form::PLAIN).await.unwrap();
    }
    let alice = meta(0, NOON).user;
    for own in [false, true] {
        let all = Listing::span(Timestamp::EPOCH, Timestamp::MAX, 100);
        let all = if own { all.of(&alice) } else { all };
        let whole = store.list(&all).await.unwrap();
        assert_eq!(whole.len(), 23);
        assert!(whole.is_sorted_by_key(RecordingInfo::place), "newest first, then by id");
        for limit in [1, 4, 5, 23] {
            let (mut paged, mut page) = (Vec::new(), Listing { limit, ..all.clone() });
            loop {
                let found = store.list(&page).await.unwrap();
                assert!(found.len() <= limit);
                let Some(last) = found.last() else { break };
                page = page.after(last.place());
                paged.extend(found);
            }
            assert_eq!(paged, whole, "in pages of {limit}");
        }
    }
}

/// Whoever took part is told by the completion, and has the recording in the list from then on.
///
/// # Panics
/// Where the store breaks the contract.
pub async fn who_took_part_has_it_in_the_list(factory: &impl Factory) {
    let store = factory.open().await;
    let meta = meta(1, NOON);
    let bob: UserName = "bob".parse().expect("valid");
    store.create(&meta, &Form::PLAIN).await.unwrap();
    let listing = Listing::span(Timestamp::EPOCH, Timestamp::MAX, 10).of(&bob);
    assert!(store.list(&listing).await.unwrap().is_empty());
    let completion =
        Completion { abandoned: true, participants: vec![bob.clone()], ..Completion::new(0, NOON) };
    store.complete(meta.session, &completion).await.unwrap();
    let listed = store.list(&listing).await.unwrap();
    assert_eq!(listed, [store.info(meta.session).await.unwrap()]);
    assert_eq!((listed[0].abandoned, &listed[0].participants), (true, &vec![bob]));
    store.delete(meta.session).await.unwrap();
    assert!(store.list(&listing).await.unwrap().is_empty());
}

/// Behind a gap of an abandoned recording nothing will ever come: it is completed with what is before. Of any other a part is missing.
///
/// # Panics
/// Where the store breaks the contract.
pub async fn an_abandoned_one_ends_at_its_gap(factory: &impl Factory) {
    let store = factory.open().await;
    let meta = meta(1, NOON);
    store.create(&meta, &Form::PLAIN).await.unwrap();
    for number in [0, 1, 3] {
        store.put_part(meta.session, number, Bytes::from(format!("part {number}."))).await.unwrap();
    }
    let abandoned = |parts| Completion { abandoned: true, ..Completion::new(parts, NOON) };
    for refused in
        [Completion::new(2, NOON), Completion::new(4, NOON), abandoned(1), abandoned(3), abandoned(4)]
    {
        let error = store.complete(meta.session, &refused).await.unwrap_err();
        assert!(matches!(error, RecordingError::Conflict { .. }), "{refused:?}");
    }
    store.complete(meta.session, &abandoned(2)).await.unwrap();
    let info = store.info(meta.session).await.unwrap();
    assert!(info.abandoned && info.completed == Some(NOON));
    assert_eq!(store.parts(meta.session).await.unwrap(), 2);
    let mut whole = Vec::new();
    loop {
        let piece = store.read(meta.session, whole.len() as u64, 100).await.unwrap();
        if piece.is_empty() {
            break;
        }
        whole.extend_from_slice(&piece);
    }
    assert_eq!(whole, b"part 0.part 1.");
}

/// Two that complete a recording at the same time agree afterwards which completion it was.
///
/// # Panics
/// Where the store breaks the contract.
pub async fn one_of_two_completions_counts(factory: &impl Factory) {
    let store = factory.open().await;
    for number in 0..8 {
        let meta = meta(number, NOON);
        store.create(&meta, &Form::PLAIN).await.unwrap();
        store.put_part(meta.session, 0, Bytes::from_static(b"part")).await.unwrap();
        let times = [NOON, NOON.saturating_add(Duration::from_secs(1))];
        let completions = times.map(|at| Completion::new(1, at));
        let [first, second] = &completions;
        let (a, b) = tokio::join!(store.complete(meta.session, first), store.complete(meta.session, second));
        a.expect("the number of parts is the same");
        b.expect("the number of parts is the same");
        let completed = store.info(meta.session).await.unwrap().completed;
        assert!(times.iter().any(|at| completed == Some(*at)));
        store.complete(meta.session, second).await.unwrap();
        assert_eq!(store.info(meta.session).await.unwrap().completed, completed, "it stays");
    }
}

/// A deleted recording is as one that never was, whether it was complete or not, and may be deleted again.
///
/// # Panics
/// Where the store breaks the contract.
pub async fn what_is_deleted_is_gone(factory: &impl Factory) {
    let store = factory.open().await;
    let kept = meta(9, NOON);
    store.create(&kept, &Form::PLAIN).await.unwrap();
    store.put_part(kept.session, 0, Bytes::from_static(b"kept")).await.unwrap();
    for completes in [false, true] {
        let meta = meta(1, NOON);
        store.create(&meta, &Form::PLAIN).await.unwrap();
        store.put_part(meta.session, 0, Bytes::from_static(b"first")).await.unwrap();
        store.put_part(meta.session, 2, Bytes::from_static(b"behind a gap")).await.unwrap();
        if completes {
            store.put_part(meta.session, 1, Bytes::from_static(b"second")).await.unwrap();
            store.complete(meta.session, &Completion::new(3, NOON)).await.unwrap();
        }
        for _ in 0..2 {
            store.delete(meta.session).await.unwrap();
            is_missing(&*store, meta.session).await;
            for listing in [
                Listing::span(Timestamp::EPOCH, Timestamp::MAX, 10),
                Listing::span(Timestamp::EPOCH, Timestamp::MAX, 10).of(&meta.user),
            ] {
                let listed = store.list(&listing).await.unwrap();
                assert_eq!(listed.iter().map(|info| info.meta.session).collect::<Vec<_>>(), [kept.session]);
            }
        }
        // Nothing of it is left that another recording of this id could meet.
        let other = RecordingMeta { command: None, ..meta };
        store.create(&other, &Form::PLAIN).await.unwrap();
        assert_eq!(store.parts(other.session).await.unwrap(), 0);
        assert_eq!(store.list(&Listing::span(NOON, Timestamp::MAX, 10)).await.unwrap().len(), 2);
        store.delete(other.session).await.unwrap();
    }
    assert_eq!(whole(&*store, kept.session, 10).await, b"kept");
}

/// Parts of a complete recording can be replaced by others of the same length.
///
/// # Panics
/// Where the store breaks the contract.
pub async fn parts_can_be_rewritten(factory: &impl Factory) {
    let store = factory.open().await;
    let meta = meta(1, NOON);
    store.create(&meta, &Form::PLAIN).await.unwrap();
    for (number, text) in [(0, "zero"), (1, "one")] {
        store.put_part(meta.session, number, Bytes::from_static(text.as_bytes())).await.unwrap();
    }
    let upper = |_: u32, part: Bytes| Ok(part.to_ascii_uppercase().into());
    let longer = |_: u32, part: Bytes| Ok([&part[..], b"!"].concat().into());
    let fails =
        |number: u32, part| if number == 0 { Ok(part) } else { Err(RecordingError::unavailable("refused")) };
    conflict("rewriting what is not complete", store.rewrite(meta.session, Arc::new(upper)).await);
    store.complete(meta.session, &Completion::new(2, NOON)).await.unwrap();
    conflict("another length", store.rewrite(meta.session, Arc::new(longer)).await);
    let refused = store.rewrite(meta.session, Arc::new(fails)).await;
    assert!(matches!(refused, Err(RecordingError::Unavailable { .. })), "{refused:?}");
    let info = store.info(meta.session).await.unwrap();
    assert_eq!(whole(&*store, meta.session, 10).await, b"zeroone", "nothing changed so far");
    store.rewrite(meta.session, Arc::new(upper)).await.unwrap();
    assert_eq!(whole(&*store, meta.session, 10).await, b"ZEROONE");
    assert_eq!(store.info(meta.session).await.unwrap(), info);
    store.put_part(meta.session, 1, Bytes::from_static(b"ONE")).await.expect("what is stored now");
    let unknown = store.rewrite(session(9), Arc::new(upper)).await;
    assert!(matches!(unknown, Err(RecordingError::NotFound)), "{unknown:?}");
}

/// The list of a user is that of all recordings without those of others.
///
/// # Panics
/// Where the store breaks the contract.
pub async fn users_have_lists_of_their_own(factory: &impl Factory) {
    let store = factory.open().await;
    let minute = Duration::from_secs(60);
    let users =
        ["alice", "bob", "a", "alice@example.com"].map(|name| name.parse::<UserName>().expect("valid"));
    let mut all = Vec::new();
    for number in 0..40_u32 {
        let user = users[number as usize % 3].clone();
        // Over several days, some in one millisecond.
        let meta = RecordingMeta { user, ..meta(number, NOON.saturating_add(minute * 200 * (number / 2))) };
        store.create(&meta, &Form::PLAIN).await.unwrap();
        store.create(&meta, &Form::PLAIN).await.unwrap();
        all.push(meta);
    }
    let ranges = [
        (Timestamp::EPOCH, Timestamp::MAX),
        (NOON.saturating_add(minute * 400), NOON.saturating_add(minute * 2000)),
    ];
    for user in &users {
        for (from, to) in ranges {
            for limit in [1000, 5] {
                let listed = store.list(&Listing::span(from, to, limit).of(user)).await.unwrap();
                let within = |meta: &&RecordingMeta| meta.user == *user && (from..to).contains(&meta.started);
                let mut expected: Vec<Timestamp> =
                    all.iter().filter(within).map(|meta| meta.started).collect();
                expected.sort_unstable_by(|a, b| b.cmp(a));
                expected.truncate(limit);
                let started: Vec<Timestamp> = listed.iter().map(|info| info.meta.started).collect();
                assert_eq!(started, expected, "{user} {from} {to} {limit}");
                assert!(listed.iter().all(|info| info.meta.user == *user), "{user}");
            }
        }
    }
    assert!(
        store
            .list(&Listing::span(Timestamp::EPOCH, Timestamp::MAX, 10).of(&users[3]))
            .await
            .unwrap()
            .is_empty()
    );
}

/// The session with this number.
fn session(number: u32) -> SessionId {
    format!("{number:08x}-0000-4000-8000-000000000000").parse().expect("the suite uses valid ids")
}

fn meta(number: u32, started: Timestamp) -> RecordingMeta {
    RecordingMeta {
        session: session(number),
        cluster: "example.com".parse().expect("valid"),
        host_id: "11111111-2222-4333-8444-555555555555".parse().expect("valid"),
        host_name: "db-1".parse().expect("valid"),
        user: "alice".parse().expect("valid"),
        login: "root".parse().expect("valid"),
        started,
        command: Some("uptime; echo \"quoted\"\n".to_owned()),
        terminal: Some((80, 24)),
    }
}

fn conflict<T: std::fmt::Debug>(what: &str, result: Result<T, RecordingError>) {
    assert!(matches!(result, Err(RecordingError::Conflict { .. })), "{what} is a conflict: {result:?}");
}

async fn whole(store: &dyn RecordingStore, session: SessionId, step: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let read = store.read(session, bytes.len() as u64, step).await.unwrap();
        assert!(read.len() <= step, "never more than was asked");
        if read.is_empty() {
            return bytes;
        }
        bytes.extend_from_slice(&read);
    }
}

/// What is read is the concatenation of the parts, whatever their sizes and the ranges that are read.
///
/// # Panics
/// Where the store breaks the contract.
pub async fn parts_make_a_recording(factory: &impl Factory) {
    let store = factory.open().await;
    let meta = meta(1, NOON);
    store.create(&meta, &Form::PLAIN).await.unwrap();
    let info = store.info(meta.session).await.unwrap();
    assert_eq!((&info.meta, info.completed, info.len), (&meta, None, 0));
    let parts: Vec<Bytes> = [0, 1, 1000, MAX_PART_LEN, 7]
        .into_iter()
        .enumerate()
        .map(|(number, len)| (0..len).map(|at| (at * 31 + number) as u8).collect::<Vec<u8>>().into())
        .collect();
    let all = parts.concat();
    for (number, part) in (0..).zip(&parts) {
        assert_eq!(store.parts(meta.session).await.unwrap(), number);
        store.put_part(meta.session, number, part.clone()).await.unwrap();
    }
    for completed in [None, Some(NOON.saturating_add(Duration::from_secs(60)))] {
        if let Some(at) = completed {
            store.complete(meta.session, &Completion::new(5, at)).await.unwrap();
        }
        let info = store.info(meta.session).await.unwrap();
        assert_eq!((&info.meta, info.completed), (&meta, completed));
        assert!(info.len >= all.len() as u64, "what is stored is not shorter than what came");
        assert_eq!(store.parts(meta.session).await.unwrap(), 5);
        let lengths: Vec<u32> = parts.iter().map(|part| part.len() as u32).collect();
        assert_eq!(store.lengths(meta.session).await.unwrap(), lengths);
        for step in [usize::MAX, 65_537] {
            assert!(whole(&*store, meta.session, step).await == all, "in steps of {step}");
        }
        for (offset, len) in
            [(0, 1), (0, 2), (1, 1001), (999, 5), (1001 + MAX_PART_LEN - 3, 10), (all.len(), 5)]
        {
            let read = store.read(meta.session, offset as u64, len).await.unwrap();
            let expected = &all[offset..(offset + len).min(all.len())];
            assert!(
                expected.starts_with(&read) && read.is_empty() == expected.is_empty(),
                "{len} at {offset}"
            );
        }
        assert!(store.read(meta.session, u64::MAX, 5).await.unwrap().is_empty(), "nothing is behind the end");
        assert!(store.read(meta.session, 0, 0).await.unwrap().is_empty(), "nothing was asked for");
    }
    let long = Bytes::from(vec![0; MAX_STORED_PART_LEN + 1]);
    store.create(&self::meta(2, NOON), &Form::PLAIN).await.unwrap();
    conflict("a part that is too long", store.put_part(session(2), 0, long).await);
    conflict("a number that is too high", store.put_part(session(2), MAX_PARTS, Bytes::new()).await);
}

/// The same part may come again, parts may come in any order, and a gap is known.
///
/// # Panics
/// Where the store breaks the contract.
pub async fn uploads_can_be_repeated_and_resumed(factory: &impl Factory) {
    let store = factory.open().await;
    let meta = meta(1, NOON);
    store.create(&meta, &Form::PLAIN).await.unwrap();
    store.create(&meta, &Form::PLAIN).await.expect("beginning again with the same description is allowed");
    let other = RecordingMeta { command: None, ..meta.clone() };
    conflict("another description of the same session", store.create(&other, &Form::PLAIN).await);
    assert_eq!(store.info(meta.session).await.unwrap().meta, meta, "the first description stays");

    let part = |text: &'static str| Bytes::from_static(text.as_bytes());
    store.put_part(meta.session, 0, part("zero,")).await.unwrap();
    store.put_part(meta.session, 2, part("two")).await.unwrap();
    assert_eq!(store.parts(meta.session).await.unwrap(), 1, "up to the gap");
    assert_eq!(whole(&*store, meta.session, 100).await, b"zero,", "reading stops at the gap");
    store.put_part(meta.session, 0, part("zero,")).await.expect("the same part again");
    conflict("other bytes", store.put_part(meta.session, 0, part("ZERO,")).await);
    conflict("the beginning of the bytes", store.put_part(meta.session, 0, part("zero")).await);
    conflict("a gap", store.complete(meta.session, &Completion::new(3, NOON)).await);
    assert_eq!(store.info(meta.session).await.unwrap().completed, None, "a conflict completes nothing");
    store.put_part(meta.session, 1, part("one,")).await.unwrap();
    assert_eq!(store.parts(meta.session).await.unwrap(), 3);
    conflict("fewer parts than there are", store.complete(meta.session, &Completion::new(2, NOON)).await);
    conflict("more parts than there are", store.complete(meta.session, &Completion::new(4, NOON)).await);
    store.complete(meta.session, &Completion::new(3, NOON)).await.unwrap();
    assert_eq!(whole(&*store, meta.session, 100).await, b"zero,one,two");
}

/// After `complete` nothing changes any more, and repeating what was done is harmless.
///
/// # Panics
/// Where the store breaks the contract.
pub async fn complete_recordings_are_immutable(factory: &impl Factory) {
    let store = factory.open().await;
    let meta = meta(1, NOON);
    store.create(&meta, &Form::PLAIN).await.unwrap();
    for (number, text) in [(0, "a"), (1, "bc"), (2, "")] {
        store.put_part(meta.session, number, Bytes::from_static(text.as_bytes())).await.unwrap();
    }
    store.complete(meta.session, &Completion::new(3, NOON)).await.unwrap();
    let later = NOON.saturating_add(Duration::from_secs(9));
    store.complete(meta.session, &Completion::new(3, later)).await.expect("completing again is allowed");
    conflict(
        "completing with another number",
        store.complete(meta.session, &Completion::new(2, later)).await,
    );
    store.put_part(meta.session, 1, Bytes::from_static(b"bc")).await.expect("the same part again");
    conflict("a part with other bytes", store.put_part(meta.session, 1, Bytes::from_static(b"XY")).await);
    conflict("a further part", store.put_part(meta.session, 3, Bytes::from_static(b"d")).await);
    store.create(&meta, &Form::PLAIN).await.expect("the same description again");
    let info = store.info(meta.session).await.unwrap();
    assert_eq!(info.completed, Some(NOON), "the first completion stays");
    assert_eq!(whole(&*store, meta.session, 2).await, b"abc");

    store.create(&self::meta(2, NOON), &Form::PLAIN).await.unwrap();
    store.complete(session(2), &Completion::new(0, NOON)).await.expect("a recording may be empty");
    assert!(whole(&*store, session(2), 10).await.is_empty());
}

/// The list is by the time of the beginning, newest first, in a half-open span, bounded.
///
/// # Panics
/// Where the store breaks the contract.
pub async fn lists_are_newest_first(factory: &impl Factory) {
    let store = factory.open().await;
    let hour = Duration::from_secs(3600);
    assert!(store.list(&Listing::span(Timestamp::EPOCH, Timestamp::MAX, 10)).await.unwrap().is_empty());
    // Over several days, created in another order than they began.
    for number in [3, 0, 4, 1, 2] {
        store.create(&meta(number, NOON.saturating_add(hour * 9 * number)), &Form::PLAIN).await.unwrap();
    }
    store.complete(session(2), &Completion::new(0, NOON)).await.unwrap();
    let at = |number: u32| NOON.saturating_add(hour * 9 * number);
    let list = async |from, to, limit| -> Vec<SessionId> {
        let found = store.list(&Listing::span(from, to, limit)).await.unwrap();
        found.into_iter().map(|info| info.meta.session).collect()
    };
    let all: Vec<_> = (0..5).rev().map(session).collect();
    assert_eq!(list(Timestamp::EPOCH, Timestamp::MAX, 10).await, all, "complete or not");
    assert_eq!(list(Timestamp::EPOCH, Timestamp::MAX, 2).await, all[..2]);
    assert_eq!(list(Timestamp::EPOCH, Timestamp::MAX, 0).await, []);
    assert_eq!(list(at(1), at(3), 10).await, [session(2), session(1)], "from is inside, to is not");
    assert_eq!(list(at(4).saturating_add(Duration::from_millis(1)), Timestamp::MAX, 10).await, []);
    assert_eq!(list(at(3), at(1), 10).await, [], "an empty span");
    let info = store.list(&Listing::span(at(2), at(3), 1)).await.unwrap();
    assert_eq!(info[0].completed, Some(NOON));
}

/// What was never begun is not found.
///
/// # Panics
/// Where the store breaks the contract.
pub async fn unknown_sessions_are_not_found(factory: &impl Factory) {
    let store = factory.open().await;
    is_missing(&*store, session(9)).await;
}

async fn is_missing(store: &dyn RecordingStore, session: SessionId) {
    let missing = |result: Result<(), RecordingError>| {
        assert!(matches!(result, Err(RecordingError::NotFound)), "{result:?}");
    };
    missing(store.put_part(session, 0, Bytes::new()).await);
    missing(store.parts(session).await.map(drop));
    missing(store.lengths(session).await.map(drop));
    missing(store.complete(session, &Completion::new(0, NOON)).await);
    missing(store.info(session).await.map(drop));
    missing(store.read(session, 0, 1).await.map(drop));
}
