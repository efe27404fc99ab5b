//! The reader of recordings. The first byte says in which pieces it gets the rest; that must not matter.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use teleport_core::recording::{DecodeError, Decoder, Reader, RecordedEvent, Step};

type Outcome = (Vec<RecordedEvent>, Option<String>, u64, bool);

fn decode(data: &[u8], piece: usize) -> Outcome {
    let mut decoder = Decoder::new().unwrap();
    let mut events = Vec::new();
    let mut error = None;
    'all: for piece in data.chunks(piece.max(1)) {
        decoder.feed(piece);
        loop {
            match decoder.next_event() {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(failed) => {
                    if let DecodeError::Damaged { intact, .. } = &failed {
                        assert!(*intact <= data.len() as u64);
                    }
                    error = Some(failed.to_string());
                    break 'all;
                }
            }
        }
    }
    assert!(events.is_empty() || decoder.meta().is_some(), "events of a recording that says what it is of");
    assert!(decoder.intact() <= data.len() as u64);
    // Whether the end was cut is only known of a sound reader.
    let cut = error.is_none() && decoder.is_cut();
    (events, error, decoder.intact(), cut)
}

/// Everything that can be read, from `time` on, with the index if there is one; whatever the input is, that ends.
fn read(data: &[u8], time: Duration) -> Option<Vec<RecordedEvent>> {
    let mut reader = Reader::new(Some(data.len() as u64)).unwrap();
    reader.seek(time, 0);
    let (mut events, mut reads) = (Vec::new(), 0);
    loop {
        match reader.step().ok()? {
            Step::End(_) => return Some(events),
            Step::Event(event) => events.push(event),
            Step::Read { offset, len } => {
                reads += 1;
                assert!(reads < 100 + data.len(), "it asks without an end");
                let rest = data.get(usize::try_from(offset).unwrap()..).unwrap_or_default();
                reader.feed(&rest[..rest.len().min(len)]);
            }
            _ => {}
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((piece, data)) = data.split_first() else { return };
    let whole = decode(data, data.len());
    assert!(whole.0.windows(2).all(|pair| pair[0].at() <= pair[1].at()), "time does not go back");
    assert_eq!(whole, decode(data, usize::from(*piece) + 1));
    if let Some(events) = read(data, Duration::ZERO) {
        assert!(events.windows(2).all(|pair| pair[0].at() <= pair[1].at()), "time does not go back");
        // What looks cut from the front may go on behind it, as the index tells.
        if whole.1.is_none() && !whole.3 {
            assert_eq!(events, whole.0, "what is sound is read as it stands there");
        }
        read(data, Duration::from_millis(u64::from(*piece) * 16));
    }
});
