#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
use proptest::prelude::*;

use super::super::layout::put_varint;
use super::super::{Encoder, testing::*};
use super::*;

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

#[test]
fn what_was_written_in_a_hurry_is_read_and_a_little_longer() {
    let line = |number: u32| {
        format!("{number:08} -rw-r--r-- 1 root root {} some file\r\n", number.wrapping_mul(40_503))
    };
    let text: String = (0..40_000).map(line).collect();
    let lengths = [[false, false], [true, true], [true, false]].map(|hurry| {
        let mut encoder = Encoder::new(&meta()).unwrap();
        for (number, piece) in text.as_bytes().chunks(10_000).enumerate() {
            encoder.hurry(hurry[number / 10 % 2]);
            encoder.output(ms(number as u64), OutputStream::Stdout, piece).unwrap();
        }
        encoder.event(&RecordedEvent::End { at: ms(9000), end: SessionEnd::Exited(0) }).unwrap();
        let bytes = encoder.take(true).unwrap();
        let (events, end) = decode(&bytes, 1000);
        end.unwrap();
        let output = events.iter().flat_map(|event| match event {
            RecordedEvent::Output { data, .. } => data.to_vec(),
            _ => Vec::new(),
        });
        assert!(output.eq(text.bytes()));
        bytes.len()
    });
    let [calm, hurried, now_and_then] = lengths;
    assert!(
        calm < now_and_then && now_and_then < hurried && hurried < text.len() / 2,
        "{lengths:?} of {}",
        text.len()
    );
}

#[test]
fn the_end_says_what_was_before_it() {
    let mut decoder = Decoder::new().unwrap();
    decoder.feed(&encode(&sample()));
    while decoder.next_event().unwrap().is_some() {}
    let index = decoder.index().unwrap();
    assert_eq!((index.duration, index.output, index.segments), (ms(4001), 13, 1));
    assert_eq!(index.largest, (120, 40));
    assert!(decoder.has_ended() && !decoder.is_cut());
}

#[test]
fn nothing_follows_the_end() {
    let mut encoder = Encoder::new(&meta()).unwrap();
    for event in sample() {
        encoder.event(&event).unwrap();
    }
    let bytes = encoder.take(true).unwrap();
    assert!(encoder.event(&sample()[0]).is_err());
    assert!(encoder.output(ms(9000), OutputStream::Stdout, b"more").is_err());
    assert_eq!(encoder.take(true).unwrap(), b"");
    let (events, end) = decode(&[&bytes[..], b"x"].concat(), 64);
    assert_eq!(events, sample());
    let intact = bytes.len() as u64;
    assert_eq!(end.unwrap_err(), DecodeError::Damaged { intact, what: "something follows the end" });
}

#[test]
fn long_output_is_many_chunks_and_shrinks() {
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

/// Each flush refers to what was flushed before it: a session of small outputs shrinks like one of large ones.
#[test]
fn small_flushes_cost_little() {
    let mut encoder = Encoder::new(&meta()).unwrap();
    let (mut stored, mut shown) = (encoder.take(true).unwrap().len(), 0);
    for number in 0..2000_u64 {
        let text = format!(
            "\x1b[{};1H\x1b[2Kdrwxr-xr-x 2 root root 4096 Nov 21 02:40 file-{number}\r\n",
            number % 24
        );
        encoder.output(ms(number * 500), OutputStream::Stdout, text.as_bytes()).unwrap();
        stored += encoder.take(true).unwrap().len();
        shown += text.len();
    }
    assert!(stored * 2 < shown, "{stored} of {shown}");
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
        assert!(events.len() >= most);
        most = events.len();
    }
    assert_eq!(most, sample().len());
}

#[test]
fn damage_is_found_and_said() {
    let bytes = encode(&sample());
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x40;
        let mut decoder = Decoder::new().unwrap();
        decoder.feed(&damaged);
        let end = loop {
            match decoder.next_event() {
                Ok(Some(_)) => {}
                end => break end,
            }
        };
        assert!(end.is_err() || decoder.is_cut(), "byte {at}");
    }
    assert!(matches!(decode(b"TPREC\0\0\x02rest of it", 99).1, Err(DecodeError::NotARecording)));
    assert!(matches!(decode(b"GIF89a", 99).1, Err(DecodeError::NotARecording)));
}

#[test]
fn behind_damage_it_goes_on_with_the_next_segment() {
    let (bytes, segments) = segments(4);
    let whole = decode(&bytes, bytes.len()).0;
    // In the data of the second segment's first chunk.
    let mut damaged = bytes.clone();
    damaged[segments[1] + SEGMENT_HEAD + CHUNK_HEAD + 50] ^= 1;
    // And the head of the fourth.
    damaged[segments[3] + 7] ^= 1;
    for piece in [1000, bytes.len()] {
        let mut decoder = Decoder::new().unwrap();
        let (mut events, mut errors) = (Vec::new(), Vec::new());
        for piece in damaged.chunks(piece) {
            decoder.feed(piece);
            loop {
                match decoder.next_event() {
                    Ok(Some(event)) => events.push(event),
                    Ok(None) => break,
                    Err(error) => {
                        assert_eq!(decoder.next_event().unwrap_err(), error, "it stays damaged");
                        errors.push(error);
                        assert!(decoder.skip());
                    }
                }
            }
        }
        let damage = [
            DecodeError::Damaged { intact: (segments[1] + SEGMENT_HEAD) as u64, what: "a checksum is wrong" },
            DecodeError::Damaged { intact: segments[3] as u64, what: "a segment's checksum is wrong" },
        ];
        assert_eq!(errors, damage);
        let number = |event: &RecordedEvent| match event {
            RecordedEvent::Output { data, .. } => u32::from(data[0]),
            RecordedEvent::Resize { columns, .. } => 1000 + u32::from(*columns),
            _ => 9999,
        };
        let expected: Vec<u32> = whole.iter().map(number).filter(|of| [0, 2, 9999].contains(of)).collect();
        let read: Vec<u32> = events.iter().map(number).collect();
        // Before the third segment stands the size that the terminal had there.
        assert!(read.contains(&1080));
        assert_eq!(read.into_iter().filter(|number| *number != 1080).collect::<Vec<_>>(), expected);
        assert!(decoder.has_ended() && decoder.index().is_some() && !decoder.is_cut());
    }
}

#[test]
fn a_segment_that_is_missing_or_comes_twice_is_said() {
    let (bytes, segments) = segments(3);
    let (first, second, third) =
        (&bytes[..segments[1]], &bytes[segments[1]..segments[2]], &bytes[segments[2]..]);
    let said = |parts: &[&[u8]]| match decode(&parts.concat(), 4096).1 {
        Err(DecodeError::Damaged { what, .. }) => what,
        _ => "",
    };
    assert_eq!(said(&[first, third]), "a segment is missing");
    assert_eq!(said(&[first, second, second, third]), "a segment comes twice");
    // It is skipped without an end.
    let mut decoder = Decoder::new().unwrap();
    decoder.feed(&[first, second, first, second, third].concat());
    let (mut events, mut skipped) = (0, 0);
    loop {
        match decoder.next_event() {
            Ok(Some(_)) => events += 1,
            Ok(None) => break,
            Err(_) if decoder.skip() => skipped += 1,
            Err(_) => break,
        }
    }
    assert!(events > 0 && skipped < 10);
}

fn chunk(data: &[u8]) -> Vec<u8> {
    let len = u32::try_from(data.len()).unwrap().to_be_bytes();
    [&len[..], &checksum(&[&len, data]).to_be_bytes(), data].concat()
}

/// A recording of one segment with these chunks.
fn file(chunks: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Encoder::new(&meta()).unwrap().take(true).unwrap();
    bytes.extend(Head { number: 0, time: 0, columns: 0, rows: 0 }.to_bytes());
    for data in chunks {
        bytes.extend(chunk(data));
    }
    bytes
}

#[test]
fn h3_a_decompression_bomb_is_refused() {
    let said = |file: &[u8]| match decode(file, file.len()).1 {
        Err(DecodeError::Damaged { what, .. }) => what,
        _ => "",
    };
    let bomb = zstd::bulk::compress(&vec![1; 64 << 20], 3).unwrap();
    assert_eq!(said(&file(&[&bomb])), "a chunk cannot be decompressed");
    // One that wants a window of 128 MiB.
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    io::Write::write_all(&mut encoder, b"\x07\x00").unwrap();
    io::Write::flush(&mut encoder).unwrap();
    io::Write::write_all(&mut encoder, &vec![7; 1 << 20]).unwrap();
    let wide = encoder.finish().unwrap();
    assert_eq!(said(&file(&[&wide])), "a chunk cannot be decompressed");
    assert_eq!(said(&file(&[&zstd::bulk::compress(b"", 1).unwrap()])), "a chunk cannot be decompressed");
    let sound = zstd::bulk::compress(b"\x01\x00\x02ok", 1).unwrap();
    assert_eq!(said(&file(&[&sound])), "");
    let long = [&(u32::try_from(MAX_CHUNK).unwrap() + 1).to_be_bytes()[..], &[0; 8]].concat();
    assert_eq!(said(&[file(&[&sound]), long].concat()), "a chunk has an impossible length");
    assert_eq!(said(&[file(&[&sound]), vec![0; 8]].concat()), "a chunk has an impossible length");
}

#[test]
fn h3_the_description_is_bounded() {
    let len = u32::try_from(MAX_META + 1).unwrap().to_be_bytes();
    let long = [&MAGIC[..], &len, &[0; 4]].concat();
    assert_eq!(decode(&long, 99).1.unwrap_err(), DecodeError::NotARecording);
    let json = br#"{"session":"6f0e1a3c-7d1f-4b5e-9a53-5d5a1f9f3f10"}"#;
    let len = u32::try_from(json.len()).unwrap().to_be_bytes();
    let crc = checksum(&[MAGIC, &len, json]).to_be_bytes();
    let other = [&MAGIC[..], &len, &crc, json].concat();
    assert_eq!(decode(&other, 99).1.unwrap_err(), DecodeError::NotARecording);
}

/// What is too long is cut and says so; it is not left out, and the session is recorded.
#[test]
fn h4_a_long_command_is_cut_with_a_mark() {
    let command = "é\u{1}".repeat(100_000);
    let meta = RecordingMeta { command: Some(command.clone()), ..meta() };
    let bytes = Encoder::new(&meta).unwrap().take(true).unwrap();
    let mut decoder = Decoder::new().unwrap();
    decoder.feed(&bytes);
    assert_eq!(decoder.next_event(), Ok(None));
    let read = decoder.meta().unwrap().command.clone().unwrap();
    let (shown, mark) = read.split_once('…').unwrap();
    assert!(command.starts_with(shown) && shown.len() > 16_000, "{}", shown.len());
    assert_eq!(mark, format!(" ({} more bytes)", command.len() - shown.len()));
    // Whoever describes it before it is written says the same.
    assert_eq!(meta.clone().shortened().shortened(), *decoder.meta().unwrap());
    assert!(!meta.is_short() && meta.shortened().is_short());
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512), piece in 1usize..64) {
        let mut file = file(&[]);
        file.extend(&bytes);
        let _ = decode(&bytes, piece);
        let _ = decode(&file, piece);
    }

    #[test]
    fn no_plain_chunk_makes_it_panic(plain in proptest::collection::vec(any::<u8>(), 1..512)) {
        let _ = decode(&file(&[&zstd::bulk::compress(&plain, 1).unwrap()]), 64);
    }

    #[test]
    fn numbers_of_any_size_are_read_as_they_were_written(value: u64) {
        let mut out = Vec::new();
        put_varint(&mut out, value);
        prop_assert!(out.len() <= 10);
        prop_assert_eq!(varint(&mut Bytes::from(out)), Some(value));
    }
}
