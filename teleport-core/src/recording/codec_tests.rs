#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
use proptest::prelude::*;

use super::*;
use crate::clock::Timestamp;
use crate::id::{ClusterName, HostId, NodeName, OsLogin, SessionId, UserName};

fn meta() -> RecordingMeta {
    RecordingMeta {
        session: "6f0e1a3c-7d1f-4b5e-9a53-5d5a1f9f3f10".parse::<SessionId>().unwrap(),
        cluster: ClusterName::new("example.com").unwrap(),
        host_id: "0f8fad5b-d9cb-469f-a165-70867728950e".parse::<HostId>().unwrap(),
        host_name: NodeName::new("web-1").unwrap(),
        user: UserName::new("alice").unwrap(),
        login: OsLogin::new("root").unwrap(),
        started: Timestamp::from_unix_secs(1_800_000_000),
        command: None,
        terminal: Some((80, 24)),
    }
}

fn encode(events: &[RecordedEvent]) -> Vec<u8> {
    let mut encoder = Encoder::new(&meta()).unwrap();
    for event in events {
        encoder.event(event).unwrap();
    }
    encoder.take(true).unwrap()
}

fn decode(bytes: &[u8], piece: usize) -> (Vec<RecordedEvent>, Result<(), DecodeError>) {
    let mut decoder = Decoder::new().unwrap();
    let mut events = Vec::new();
    for piece in bytes.chunks(piece.max(1)) {
        decoder.feed(piece);
        loop {
            match decoder.next_event() {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(error) => return (events, Err(error)),
            }
        }
    }
    assert!(bytes.is_empty() || decoder.meta().is_none_or(|read| *read == meta()));
    (events, Ok(()))
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn sample() -> Vec<RecordedEvent> {
    let output = |at, stream, text: &str| RecordedEvent::Output {
        at: ms(at),
        stream,
        data: Bytes::copy_from_slice(text.as_bytes()),
    };
    vec![
        output(0, OutputStream::Stdout, "$ "),
        RecordedEvent::Resize { at: ms(5), columns: 120, rows: 40 },
        output(10, OutputStream::Stderr, "oops\n"),
        RecordedEvent::Gap { at: ms(11), lost: 4096 },
        output(4000, OutputStream::Stdout, "done\r\n"),
        RecordedEvent::End { at: ms(4001), end: SessionEnd::Exited(255) },
    ]
}

#[test]
fn what_is_written_is_read() {
    let bytes = encode(&sample());
    for piece in [1, 7, bytes.len()] {
        let (events, end) = decode(&bytes, piece);
        end.unwrap();
        assert_eq!(events, sample());
    }
    for end in [SessionEnd::Signaled("KILL".into()), SessionEnd::Disconnected] {
        let events = [RecordedEvent::End { at: ms(1), end }];
        assert_eq!(decode(&encode(&events), 9).0, events);
    }
}

/// The form is fixed: this file was written by the first version and must be readable for ever.
#[test]
fn the_golden_file_can_be_read() {
    let golden = include_bytes!("../../tests/golden/recording-v1.tprec");
    let (events, end) = decode(golden, golden.len());
    end.unwrap();
    assert_eq!(events, sample());
}

#[test]
fn long_output_is_many_frames_and_shrinks() {
    let line = b"drwxr-xr-x  2 root root 4096 Nov 21 02:40 some-directory\r\n";
    let data: Vec<u8> = line.iter().copied().cycle().take(3 << 20).collect();
    let mut encoder = Encoder::new(&meta()).unwrap();
    encoder.output(ms(1), OutputStream::Stdout, &data).unwrap();
    let bytes = encoder.take(true).unwrap();
    assert!(bytes.len() * 5 < data.len());
    let (events, end) = decode(&bytes, 4096);
    end.unwrap();
    let read: Vec<u8> = events
        .iter()
        .flat_map(|event| match event {
            RecordedEvent::Output { data, .. } => data.to_vec(),
            _ => Vec::new(),
        })
        .collect();
    assert!(read == data);
}

#[test]
fn a_cut_file_plays_up_to_the_cut() {
    let mut encoder = Encoder::new(&meta()).unwrap();
    let mut bytes = Vec::new();
    for event in sample() {
        encoder.event(&event).unwrap();
        bytes.extend(encoder.take(true).unwrap());
    }
    let mut most = 0;
    for cut in 0..bytes.len() {
        let (events, end) = decode(&bytes[..cut], 64);
        end.unwrap();
        assert_eq!(events, sample()[..events.len()]);
        most = most.max(events.len());
    }
    assert_eq!(most, sample().len() - 1);
}

#[test]
fn damage_is_found_and_said() {
    let bytes = encode(&sample());
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x40;
        let (events, end) = decode(&damaged, 64);
        assert!(end.is_err() || events.len() < sample().len(), "byte {at}");
    }
    assert!(matches!(decode(b"TPREC\0\0\x02rest", 99).1, Err(DecodeError::NotARecording)));
    assert!(matches!(decode(b"GIF89a", 99).1, Err(DecodeError::NotARecording)));
}

#[test]
fn a_decompression_bomb_is_refused() {
    let bomb = zstd::bulk::compress(&vec![1; 64 << 20], 3).unwrap();
    let mut bytes = MAGIC.to_vec();
    bytes.extend(u32::try_from(bomb.len()).unwrap().to_be_bytes());
    bytes.extend(crc32fast::hash(&bomb).to_be_bytes());
    bytes.extend(&bomb);
    assert!(matches!(decode(&bytes, bytes.len()).1, Err(DecodeError::Damaged { .. })));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512), piece in 1usize..64) {
        let mut file = MAGIC.to_vec();
        file.extend(&bytes);
        let _ = decode(&bytes, piece);
        let _ = decode(&file, piece);
    }

    #[test]
    fn no_plain_frame_makes_it_panic(plain in proptest::collection::vec(any::<u8>(), 1..512)) {
        let payload = zstd::bulk::compress(&plain, 1).unwrap();
        let mut file = MAGIC.to_vec();
        file.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
        file.extend(crc32fast::hash(&payload).to_be_bytes());
        file.extend(&payload);
        let _ = decode(&file, 64);
    }
}

/// Writes the golden file anew; only for a new version of the form.
#[test]
fn the_golden_file_is_what_is_written() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/recording-v1.tprec");
    let bytes = encode(&sample());
    if std::env::var_os("WRITE_GOLDEN").is_some() {
        std::fs::write(path, &bytes).unwrap();
    }
    // The compressor may change between releases of zstd; the events may not.
    let golden = std::fs::read(path).unwrap();
    assert_eq!(decode(&golden, 99).0, decode(&bytes, 99).0);
}
