//! Recordings for the tests of this module.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::time::Duration;

use bytes::Bytes;

use super::{Encoder, OutputStream, RecordedEvent, RecordingMeta, SessionEnd};
use crate::testing::recording_meta;

pub(super) fn meta() -> RecordingMeta {
    RecordingMeta { terminal: Some((80, 24)), ..recording_meta() }
}

pub(super) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(super) fn output(at: u64, stream: OutputStream, text: impl AsRef<[u8]>) -> RecordedEvent {
    RecordedEvent::Output { at: ms(at), stream, data: Bytes::copy_from_slice(text.as_ref()) }
}

pub(super) fn sample() -> Vec<RecordedEvent> {
    vec![
        output(0, OutputStream::Stdout, "$ "),
        RecordedEvent::Resize { at: ms(5), columns: 120, rows: 40 },
        output(10, OutputStream::Stderr, "oops\n"),
        RecordedEvent::Gap { at: ms(11), lost: 4096 },
        output(4000, OutputStream::Stdout, "done\r\n"),
        RecordedEvent::End { at: ms(4001), end: SessionEnd::Exited(255) },
    ]
}

pub(super) fn encode(events: &[RecordedEvent]) -> Vec<u8> {
    let mut encoder = Encoder::new(&meta()).unwrap();
    for event in events {
        encoder.event(event).unwrap();
    }
    encoder.take(true).unwrap()
}

/// A recording of so many segments, and where they begin. The output of each begins with its number; that of the n-th is shown
/// at n seconds and the milliseconds after it.
pub(super) fn segments(count: u8) -> (Vec<u8>, Vec<usize>) {
    let mut encoder = Encoder::new(&meta()).unwrap();
    let mut bytes = encoder.take(true).unwrap();
    let mut begins = Vec::new();
    for number in 0..count {
        begins.push(bytes.len());
        for piece in 0..4 {
            let at = ms(u64::from(number) * 1000 + piece);
            let mut data: Vec<u8> = (0..70_000_u32).map(|at| (at.wrapping_mul(at) >> 7) as u8).collect();
            data[0] = number;
            encoder.output(at, OutputStream::Stdout, &data).unwrap();
        }
        bytes.extend(encoder.take(true).unwrap());
    }
    let end = RecordedEvent::End { at: ms(u64::from(count) * 1000), end: SessionEnd::Exited(0) };
    encoder.event(&end).unwrap();
    bytes.extend(encoder.take(true).unwrap());
    (bytes, begins)
}
