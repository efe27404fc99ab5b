//! The reader of recordings. The first byte says in which pieces it gets the rest; that must not matter.
#![no_main]

use libfuzzer_sys::fuzz_target;
use teleport_core::recording::{DecodeError, Decoder, RecordedEvent};

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

fuzz_target!(|data: &[u8]| {
    let Some((piece, data)) = data.split_first() else { return };
    let whole = decode(data, data.len());
    assert!(whole.0.windows(2).all(|pair| pair[0].at() <= pair[1].at()), "time does not go back");
    assert_eq!(whole, decode(data, usize::from(*piece) + 1));
});
