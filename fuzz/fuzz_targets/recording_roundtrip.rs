//! Whatever is recorded is played: any events, with flushes anywhere, come back from the reader.
#![no_main]

use std::time::Duration;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use teleport_core::recording::{Decoder, Encoder, OutputStream, RecordedEvent, SessionEnd};

#[derive(Arbitrary, Debug)]
enum Step {
    Disconnected,
    Exited(u32),
    Flush,
    Gap(u64),
    /// Output of `1 << exponent` bytes at most.
    Long {
        exponent: u8,
        fill: u8,
    },
    Output {
        stderr: bool,
        data: Vec<u8>,
    },
    Resize(u16, u16),
    Signaled(String),
}

fuzz_target!(|steps: Vec<(u16, Step)>| {
    let meta = serde_json::from_slice(include_bytes!("../src/meta.json")).unwrap();
    let mut encoder = Encoder::new(&meta).unwrap();
    let mut decoder = Decoder::new().unwrap();
    let mut at = Duration::ZERO;
    let mut sent: Vec<RecordedEvent> = Vec::new();
    for (delta, step) in steps {
        at += Duration::from_millis(delta.into());
        let event = match step {
            Step::Disconnected => RecordedEvent::End { at, end: SessionEnd::Disconnected },
            Step::Exited(status) => RecordedEvent::End { at, end: SessionEnd::Exited(status) },
            Step::Flush => {
                decoder.feed(&encoder.take(true).unwrap());
                continue;
            }
            Step::Gap(lost) => RecordedEvent::Gap { at, lost },
            Step::Long { exponent, fill } => {
                let data = vec![fill; 1 << (exponent % 19)];
                RecordedEvent::Output { at, stream: OutputStream::Stdout, data: data.into() }
            }
            Step::Output { stderr, data } => {
                let stream = if stderr { OutputStream::Stderr } else { OutputStream::Stdout };
                RecordedEvent::Output { at, stream, data: data.into() }
            }
            Step::Resize(columns, rows) => RecordedEvent::Resize { at, columns, rows },
            Step::Signaled(name) => {
                // Names of signals are short; the writer cuts what is longer.
                let name: String = name.chars().take(8).collect();
                RecordedEvent::End { at, end: SessionEnd::Signaled(name) }
            }
        };
        let end = matches!(event, RecordedEvent::End { .. });
        encoder.event(&event).unwrap();
        sent.push(event);
        if end {
            assert!(encoder.output(at, OutputStream::Stdout, b"x").is_err(), "nothing follows the end");
            break;
        }
    }
    decoder.feed(&encoder.take(true).unwrap());
    let mut played = Vec::new();
    while let Some(event) = decoder.next_event().expect("what was written is sound") {
        played.push(event);
    }
    assert!(!decoder.is_cut());
    assert_eq!(decoder.meta(), Some(&meta));
    assert_eq!(joined(played), joined(sent));
});

/// Output of the same moment and stream as one: long output becomes several events. Empty output is none.
fn joined(events: Vec<RecordedEvent>) -> Vec<RecordedEvent> {
    let mut all: Vec<RecordedEvent> = Vec::new();
    for event in events {
        match (&event, all.last_mut()) {
            (RecordedEvent::Output { data, .. }, _) if data.is_empty() => {}
            (
                RecordedEvent::Output { at, stream, data },
                Some(RecordedEvent::Output { at: before, stream: same, data: head }),
            ) if at == before && stream == same => *head = [&head[..], &data[..]].concat().into(),
            _ => all.push(event),
        }
    }
    all
}
