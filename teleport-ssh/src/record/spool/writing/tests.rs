#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]
use std::fs;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use teleport_core::recording::{Decoder, OutputStream, SessionEnd};
use teleport_core::testing::recording_meta;

use super::*;

fn begin(path: &Path, mode: SessionRecording, max_len: u64) -> (Writing, Arc<Live>) {
    let file = File::options().create(true).truncate(true).write(true).open(path).unwrap();
    let live = Live::new(recording_meta(), mode);
    (
        Writing::new(Arc::clone(&live), Box::new(Encoder::new(&recording_meta()).unwrap()), file, 0, max_len),
        live,
    )
}

fn output(millis: u64, text: &'static str) -> RecordedEvent {
    let data = Bytes::from_static(text.as_bytes());
    RecordedEvent::Output { at: Duration::from_millis(millis), stream: OutputStream::Stdout, data }
}

fn resize(millis: u64, columns: u16) -> RecordedEvent {
    RecordedEvent::Resize { at: Duration::from_millis(millis), columns, rows: 24 }
}

fn end(millis: u64) -> RecordedEvent {
    RecordedEvent::End { at: Duration::from_millis(millis), end: SessionEnd::Exited(0) }
}

fn read(path: &Path) -> Vec<RecordedEvent> {
    let mut decoder = Decoder::new().unwrap();
    decoder.feed(&fs::read(path).unwrap());
    std::iter::from_fn(|| decoder.next_event().unwrap()).collect()
}

/// Whoever turns the size of the window about writes no more than whoever prints.
#[test]
fn when_it_is_full_sizes_are_left_out_and_the_newest_comes_before_what_is_shown_next() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("recording");
    let room = Room::new(dir.path().to_owned(), u64::MAX);
    let (mut writing, _live) = begin(&path, SessionRecording::BestEffort, u64::MAX);
    writing.event(&output(1, "a"), false, &room);
    for columns in 0..60_000 {
        writing.event(&resize(2, columns), true, &room);
    }
    writing.event(&RecordedEvent::Gap { at: Duration::from_millis(3), lost: 5 }, true, &room);
    writing.event(&output(4, "bc"), true, &room);
    writing.event(&output(5, "d"), false, &room);
    writing.event(&resize(6, 80), true, &room);
    writing.event(&resize(7, 90), false, &room);
    writing.event(&resize(8, 100), true, &room);
    writing.event(&end(9), true, &room);
    assert!(!writing.is_over(), "not before it is on the disk");
    sync(&mut writing, &room);
    assert!(writing.is_over());
    let gap = RecordedEvent::Gap { at: Duration::from_millis(5), lost: 7 };
    let expected = [output(1, "a"), resize(2, 59_999), gap, output(5, "d"), resize(7, 90), end(9)];
    assert_eq!(read(&path), expected);
}

/// A disk that takes nothing: a file that cannot be written to.
fn break_disk(writing: &mut Writing, path: &Path) -> Arc<File> {
    std::mem::replace(&mut writing.file, Arc::new(File::open(path).unwrap()))
}

/// The disk does what it is asked to.
fn sync(writing: &mut Writing, room: &Room) {
    let sync = writing.sync().expect("something to sync");
    assert!(writing.sync().is_none(), "one at a time");
    writing.synced(sync.run(), room);
}

#[test]
fn what_the_disk_does_not_take_is_a_gap_and_goes_on_with_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("recording");
    let room = Room::new(dir.path().to_owned(), u64::MAX);
    let (mut writing, live) = begin(&path, SessionRecording::BestEffort, u64::MAX);
    writing.event(&output(1, "before "), false, &room);
    let good = break_disk(&mut writing, &path);
    writing.flush(&room);
    assert!(writing.is_stalled() && room.is_failing() && !live.failed());
    for millis in 2..1000 {
        writing.event(&output(millis, "lost"), false, &room);
    }
    assert!(writing.backlog.len() < 4096, "it does not grow: {}", writing.backlog.len());
    writing.event(&end(1001), false, &room);
    assert!(!writing.is_over(), "the end is not on the disk");
    writing.file = good;
    writing.flush(&room);
    assert!(!writing.is_over() && !room.is_failing());
    sync(&mut writing, &room);
    assert!(writing.is_over());
    let gap = RecordedEvent::Gap { at: Duration::from_millis(1001), lost: 998 * 4 };
    assert_eq!(read(&path), [output(1, "before "), gap, end(1001)]);
}

/// The kernel says it once, and nobody knows what is missing: somebody has to hear of it.
#[test]
fn a_disk_that_lost_something_is_told_of() {
    for mode in [SessionRecording::BestEffort, SessionRecording::Strict] {
        let dir = tempfile::tempdir().unwrap();
        let room = Room::new(dir.path().to_owned(), u64::MAX);
        let (mut writing, live) = begin(&dir.path().join("recording"), mode, u64::MAX);
        writing.event(&output(1, "a"), false, &room);
        writing.flush(&room);
        for _ in 0..2 {
            let sync = writing.rest().unwrap();
            let synced =
                Synced { session: sync.session, len: 0, result: Err(io::ErrorKind::StorageFull.into()) };
            writing.synced(synced, &room);
        }
        let told = room.news().now_or_never().expect("it is told");
        assert!(told.contains("may have lost") && told.contains(&live.meta.session.to_string()), "{told}");
        assert!(room.news().now_or_never().is_none(), "once for all");
        assert_eq!(live.failed(), mode.is_strict());
    }
}

#[test]
fn a_strict_recording_has_no_gaps_and_its_session_waits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("recording");
    let room = Room::new(dir.path().to_owned(), u64::MAX);
    let (mut writing, live) = begin(&path, SessionRecording::Strict, u64::MAX);
    let told = |writing: &mut Writing, event: &RecordedEvent, full| {
        live.owe(cost(event));
        writing.event(event, full, &room);
    };
    told(&mut writing, &output(1, "a"), false);
    assert!(!live.is_ahead(false));
    // First the bound of the spool, then the disk.
    told(&mut writing, &output(2, "b"), true);
    writing.write(true, true, &room);
    told(&mut writing, &output(2, "b"), true);
    assert!(live.is_ahead(false) && !room.is_failing());
    told(&mut writing, &output(3, "c"), false);
    assert!(!live.is_ahead(false));
    let good = break_disk(&mut writing, &path);
    told(&mut writing, &output(4, "d"), false);
    assert!(!live.is_ahead(false), "it is in memory, and nothing is wrong as far as anybody knows");
    writing.flush(&room);
    told(&mut writing, &output(5, "e"), false);
    assert!(live.is_ahead(false) && room.is_failing() && !live.failed());
    writing.file = good;
    writing.flush(&room);
    assert!(!live.is_ahead(false) && !room.is_failing());
    told(&mut writing, &end(6), true);
    sync(&mut writing, &room);
    assert!(writing.is_over());
    let all = [
        output(1, "a"),
        output(2, "b"),
        output(2, "b"),
        output(3, "c"),
        output(4, "d"),
        output(5, "e"),
        end(6),
    ];
    assert_eq!(read(&path), all);
}

#[test]
fn a_strict_recording_that_is_too_long_loses_nothing_of_what_was_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("recording");
    let room = Room::new(dir.path().to_owned(), u64::MAX);
    let (mut writing, live) = begin(&path, SessionRecording::Strict, 1);
    writing.event(&output(1, "a"), false, &room);
    writing.flush(&room);
    assert!(!live.failed());
    writing.event(&output(2, "b"), false, &room);
    assert!(live.failed(), "the session is to end");
    writing.event(&output(3, "c"), false, &room);
    writing.event(&end(4), false, &room);
    assert_eq!(read(&path), [output(1, "a"), output(2, "b"), output(3, "c"), end(4)]);
}
