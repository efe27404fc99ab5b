#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
use proptest::prelude::*;

use super::super::testing::*;
use super::super::{Encoder, OutputStream, SessionEnd};
use super::*;

/// All steps but those that read, and how many bytes were read.
fn steps(reader: &mut Reader, file: &[u8], piece: usize) -> (Vec<Step>, usize) {
    let (mut steps, mut read) = (Vec::new(), 0);
    loop {
        match reader.step().unwrap() {
            Step::Read { offset, len } => {
                let rest = file.get(usize::try_from(offset).unwrap()..).unwrap_or_default();
                let given = &rest[..rest.len().min(piece).min(len.max(1))];
                read += given.len();
                reader.feed(given);
            }
            step => {
                let end = matches!(step, Step::End(_));
                steps.push(step);
                if end {
                    return (steps, read);
                }
            }
        }
    }
}

fn whole(file: &[u8]) -> Vec<Step> {
    steps(&mut Reader::new(Some(file.len() as u64)).unwrap(), file, 1 << 20).0
}

/// Numbers of segments of which output was read, each once; sizes are left out.
fn seen(steps: &[Step]) -> Vec<u8> {
    let mut seen: Vec<u8> = steps
        .iter()
        .filter_map(|step| match step {
            Step::Event(RecordedEvent::Output { data, .. }) => Some(data[0]),
            _ => None,
        })
        .collect();
    seen.dedup();
    seen
}

fn missing(steps: &[Step]) -> Vec<Missing> {
    let missing = |step: &Step| if let Step::Missing(missing) = step { Some(*missing) } else { None };
    steps.iter().filter_map(missing).collect()
}

#[test]
fn it_reads_what_the_decoder_reads() {
    let file = encode(&sample());
    let mut expected: Vec<Step> = sample().into_iter().map(Step::Event).collect();
    expected.push(Step::End(Ending::Complete));
    for (len, piece) in [(None, 1), (Some(file.len() as u64), 7), (Some(file.len() as u64), 1 << 20)] {
        let mut reader = Reader::new(len).unwrap();
        assert_eq!(steps(&mut reader, &file, piece).0, expected);
        assert_eq!(reader.index().unwrap().duration, ms(4001));
        assert_eq!(reader.step(), Ok(Step::End(Ending::Complete)), "again");
    }
}

#[test]
fn the_index_is_known_before_the_first_event() {
    let (file, _) = segments(3);
    let mut reader = Reader::new(Some(file.len() as u64)).unwrap();
    reader.want_index();
    loop {
        match reader.step().unwrap() {
            Step::Read { offset, len } => {
                let rest = &file[usize::try_from(offset).unwrap()..];
                reader.feed(&rest[..rest.len().min(len)]);
            }
            Step::Event(_) => break,
            step => unreachable!("{step:?}"),
        }
    }
    // The end is in a fourth.
    assert_eq!(reader.index().unwrap().segments, 4);
    assert_eq!(reader.meta(), Some(&meta()));
}

#[test]
fn a_seek_reads_a_segment_and_not_the_recording() {
    let (file, begins) = segments(30);
    let mut reader = Reader::new(Some(file.len() as u64)).unwrap();
    reader.seek(ms(20_000), 0);
    // The first segment that is read is the one before: events of that moment may be in it.
    let mut read = 0;
    let mut events = Vec::new();
    loop {
        match reader.step().unwrap() {
            Step::Read { offset, len } => {
                let rest = &file[usize::try_from(offset).unwrap()..];
                let given = &rest[..rest.len().min(len)];
                read += given.len();
                reader.feed(given);
            }
            Step::Event(event) if event.at() >= ms(20_000) => {
                events.push(event);
                break;
            }
            Step::Event(event) => events.push(event),
            Step::Jump => assert!(events.is_empty(), "it says so first"),
            step => unreachable!("{step:?}"),
        }
    }
    assert_eq!(events[0], RecordedEvent::Resize { at: ms(19_003), columns: 80, rows: 24 });
    assert!(
        matches!(events.last(), Some(RecordedEvent::Output { data, at, .. }) if data[0] == 20 && *at == ms(20_000))
    );
    let segment = begins[1] - begins[0];
    assert!(read < 3 * segment + 3 * PIECE, "{read} of {}", file.len());

    // Back, and to the end.
    reader.seek(ms(3_001), 0);
    let (back, _) = steps(&mut reader, &file, 1 << 20);
    assert_eq!(back[0], Step::Jump);
    assert_eq!(seen(&back), (3..30).collect::<Vec<_>>());
    assert_eq!(back.last(), Some(&Step::End(Ending::Complete)));
    // From the end, and with what leads there.
    reader.seek(ms(10_001), 2 * segment as u64 + 100);
    let (again, _) = steps(&mut reader, &file, 1 << 20);
    assert_eq!(seen(&again), (7..30).collect::<Vec<_>>());
    reader.seek(ms(10_001), u64::MAX);
    assert_eq!(seen(&steps(&mut reader, &file, 1 << 20).0), (0..30).collect::<Vec<_>>());
    // Behind the end there is nothing.
    reader.seek(ms(1_000_000), 0);
    let (behind, _) = steps(&mut reader, &file, 1 << 20);
    assert_eq!(behind.last(), Some(&Step::End(Ending::Complete)));
}

#[test]
fn a_seek_to_what_comes_soon_goes_on_reading() {
    let (file, _) = segments(3);
    let mut reader = Reader::new(Some(file.len() as u64)).unwrap();
    reader.seek(ms(0), 0);
    let (all, _) = steps(&mut reader, &file, 4096);
    assert!(!all.contains(&Step::Jump), "it is there already");
    reader.seek(ms(3000), 0);
    assert!(!steps(&mut reader, &file, 4096).0.contains(&Step::Jump));
    reader.redraw(ms(2001), 0);
    let (drawn, _) = steps(&mut reader, &file, 4096);
    assert_eq!((&drawn[0], seen(&drawn)), (&Step::Jump, vec![2]));
}

#[test]
fn without_an_index_everything_is_found_by_reading() {
    let (file, begins) = segments(4);
    let cut = &file[..begins[3] + 30];
    for len in [None, Some(cut.len() as u64)] {
        let mut reader = Reader::new(len).unwrap();
        let (all, _) = steps(&mut reader, cut, 4096);
        assert_eq!(seen(&all), [0, 1, 2]);
        assert_eq!(all.last(), Some(&Step::End(Ending::Unfinished)));
        assert_eq!(missing(&all), []);
        reader.seek(ms(1000), 0);
        let (back, _) = steps(&mut reader, cut, 4096);
        assert_eq!(back[0], Step::Jump);
        assert_eq!(seen(&back), [0, 1, 2]);
        assert!(reader.index().is_none());
    }
}

#[test]
fn damage_is_told_where_it_is() {
    let (file, begins) = segments(4);
    let mut damaged = file.clone();
    damaged[begins[1] + 100] ^= 1;
    let steps = whole(&damaged);
    let expected = Missing {
        from: ms(3),
        to: Some(ms(1003)),
        offset: begins[1] as u64 + 24,
        bytes: (begins[2] - begins[1] - 24) as u64,
        what: "a checksum is wrong",
    };
    assert_eq!(missing(&steps), [expected]);
    assert_eq!(seen(&steps), [0, 2, 3]);
    assert_eq!(steps.last(), Some(&Step::End(Ending::Complete)));
}

#[test]
fn a_damaged_length_is_passed_by_the_index() {
    let (file, begins) = segments(4);
    for (what, flip) in [("a chunk has an impossible length", 0x40), ("it is cut", 0x06)] {
        let mut damaged = file.clone();
        damaged[begins[2] + 24 + usize::from(flip == 0x06)] ^= flip;
        let all = whole(&damaged);
        assert_eq!(seen(&all), [0, 1, 3], "{what}");
        let [missing] = missing(&all)[..] else { unreachable!("{all:?}") };
        assert_eq!((missing.what, missing.offset), (what, begins[2] as u64 + 24));
        assert_eq!(missing.bytes, (begins[3] - begins[2] - 24) as u64);
        assert_eq!(all.last(), Some(&Step::End(Ending::Complete)));
        // Nothing else tells where the next segment is.
        let (blind, _) = steps(&mut Reader::new(None).unwrap(), &damaged, 4096);
        assert_eq!(seen(&blind), [0, 1], "{what}");
        assert_eq!(blind.last(), Some(&Step::End(Ending::Unfinished)));
    }
}

#[test]
fn damage_at_the_end_is_told_as_well() {
    let (file, begins) = segments(2);
    let mut damaged = file.clone();
    damaged[begins[1] + 100] ^= 1;
    // The end event is a segment of its own, behind it.
    let all = whole(&damaged);
    assert_eq!(missing(&all)[0].to, Some(ms(1003)));
    let end = file.len() - 20 - 24 - 3 * 16 - 5;
    let mut damaged = file.clone();
    damaged[end] ^= 1;
    let all = whole(&damaged);
    let [missing] = missing(&all)[..] else { unreachable!("{:?}", &all[all.len() - 3..]) };
    assert_eq!((missing.from, missing.to), (ms(1003), None));
    assert_eq!(all.last(), Some(&Step::End(Ending::Unfinished)));
}

/// Whoever writes such a file chooses the index; it cannot lead anywhere else than reading does.
#[test]
fn an_index_that_lies_leads_to_the_beginning() {
    let (file, _) = segments(4);
    let body = file.len() - (20 + 24 + 5 * 16);
    let mut index = Index::parse(&file[body..], body as u64).unwrap();
    for entry in index.entries.iter_mut().skip(1) {
        entry.offset += 40;
    }
    let lying = [&file[..body], &index.to_bytes()].concat();
    let mut reader = Reader::new(Some(lying.len() as u64)).unwrap();
    reader.seek(ms(3001), 0);
    let (all, _) = steps(&mut reader, &lying, 4096);
    assert_eq!(seen(&all), [0, 1, 2, 3]);
    assert_eq!(missing(&all), []);
}

#[test]
fn what_is_no_recording_is_refused() {
    for file in [&b""[..], b"TPREC", b"GIF89a and more"] {
        let mut reader = Reader::new(Some(file.len() as u64)).unwrap();
        reader.seek(ms(1), 0);
        let error = loop {
            match reader.step() {
                Ok(Step::Read { offset, .. }) => {
                    let offset = usize::try_from(offset).unwrap();
                    reader.feed(file.get(offset..).unwrap_or_default());
                }
                Ok(step) => unreachable!("{step:?}"),
                Err(error) => break error,
            }
        };
        assert_eq!(error, DecodeError::NotARecording);
    }
}

/// Ten hours and a gigabyte, without the file: written, and read by the index, in pieces of memory that do not grow.
#[test]
fn a_long_session_takes_no_more_memory_than_a_short_one() {
    const EVENTS: u64 = 36_000;
    const OUTPUT: usize = 30_000;
    let text: Vec<u8> = (0..OUTPUT as u32).map(|at| b"abcdefghij klmnop\r\n"[(at % 19) as usize]).collect();
    let mut encoder = Encoder::new(&meta()).unwrap();
    let mut reader = Reader::new(None).unwrap();
    let (mut wrote, mut read, mut shown, mut last) = (0, 0, 0, Duration::ZERO);
    for second in 0..=EVENTS {
        let at = Duration::from_secs(second);
        if second == EVENTS {
            encoder.event(&RecordedEvent::End { at, end: SessionEnd::Exited(0) }).unwrap();
        } else {
            encoder.output(at, OutputStream::Stdout, &text).unwrap();
        }
        wrote = wrote.max(encoder.capacity());
        let mut bytes = encoder.take(second % 10 == 0 || second == EVENTS).unwrap();
        loop {
            match reader.step().unwrap() {
                Step::Read { .. } if bytes.is_empty() => break,
                Step::Read { .. } => reader.feed(&std::mem::take(&mut bytes)),
                Step::Event(event) => {
                    last = event.at();
                    if let RecordedEvent::Output { data, .. } = event {
                        shown += data.len() as u64;
                    }
                }
                step => unreachable!("{step:?}"),
            }
            read = read.max(reader.capacity());
        }
    }
    assert_eq!((shown, last), (EVENTS * OUTPUT as u64, Duration::from_secs(EVENTS)));
    assert!(shown > 1_000_000_000);
    let index = reader.index().unwrap();
    assert_eq!((index.output, index.duration), (shown, last));
    assert!(index.segments > 3000 && index.entries.len() > 500);
    assert!(wrote < 512 * 1024 && read < 1024 * 1024, "{wrote} and {read} bytes");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is damaged: it ends, time does not go back, and what is played was recorded.
    #[test]
    fn damage_anywhere_is_survived(
        flips in proptest::collection::vec((any::<proptest::sample::Index>(), 1u8..), 1..4),
        cut in proptest::option::of(any::<proptest::sample::Index>()),
        to in 0u64..6000,
    ) {
        let (file, begins) = segments(3);
        let mut damaged = file.clone();
        for (at, bits) in &flips {
            // The description is what it begins with.
            let at = begins[0] + at.index(file.len() - begins[0]);
            damaged[at] ^= bits;
        }
        if let Some(cut) = cut {
            damaged.truncate(begins[0] + cut.index(file.len() - begins[0]));
        }
        let original = whole(&file);
        let mut reader = Reader::new(Some(damaged.len() as u64)).unwrap();
        let (all, read) = steps(&mut reader, &damaged, 1 << 20);
        prop_assert!(read <= 2 * damaged.len() + MAX_INDEX);
        let mut last = Duration::ZERO;
        for step in &all {
            if let Step::Event(event) = step {
                prop_assert!(event.at() >= last);
                last = event.at();
                let known = original.contains(step) || matches!(event, RecordedEvent::Resize { .. });
                prop_assert!(known, "{event:?}");
            }
        }
        reader.seek(ms(to), 0);
        let (again, _) = steps(&mut reader, &damaged, 1 << 20);
        prop_assert!(matches!(again.last(), Some(Step::End(_))));
    }
}
