//! What is inside the chunks of recordings: the input becomes the events of sound chunks, so that no checksum or compression
//! stands before the reader. Also what is made of events: the lines of an asciicast, the timeline of a replay, what reaches a terminal.
#![no_main]

use libfuzzer_sys::fuzz_target;
use teleport_core::recording::{
    Asciicast, CastVersion, Decoder, Pace, RecordedEvent, TerminalFilter, Timeline,
};

const META: &[u8] = include_bytes!("../src/meta.json");

fn chunk(file: &mut Vec<u8>, plain: &[u8]) {
    let data = zstd::bulk::compress(plain, 1).unwrap();
    let length = u32::try_from(data.len()).unwrap().to_be_bytes();
    file.extend(length);
    file.extend(crc32fast::hash(&[&length[..], &data].concat()).to_be_bytes());
    file.extend(data);
}

fn segment(file: &mut Vec<u8>, number: u32) {
    let mut head = b"TPSG".to_vec();
    head.extend(number.to_be_bytes());
    head.extend([0; 8]);
    head.extend([0, 80, 0, 24]);
    file.extend(&head);
    file.extend(crc32fast::hash(&head).to_be_bytes());
}

fuzz_target!(|data: &[u8]| {
    let Some((form, data)) = data.split_first() else { return };
    let mut file = b"TPREC\0\0\x01".to_vec();
    let length = u32::try_from(META.len()).unwrap().to_be_bytes();
    let crc = crc32fast::hash(&[&file[..], &length, META].concat());
    file.extend(length);
    file.extend(crc.to_be_bytes());
    file.extend(META);
    segment(&mut file, 0);
    let mut chunks = Vec::new();
    // An event may not be split between two chunks.
    for (number, plain) in data.split(|byte| form & 2 != 0 && *byte == b'\n').enumerate() {
        if form & 1 != 0 {
            segment(&mut chunks, u32::try_from(number).unwrap() + 1);
        }
        chunk(&mut chunks, plain);
    }
    let mut decoder = Decoder::new().unwrap();
    decoder.feed(&file);
    assert_eq!(decoder.next_event(), Ok(None), "no chunk yet");
    decoder.feed(&chunks);
    let version = if form & 4 == 0 { CastVersion::V2 } else { CastVersion::V3 };
    let (mut cast, header) = Asciicast::begin(version, decoder.meta().expect("it was read"));
    serde_json::from_str::<serde_json::Value>(&header).expect("the header is JSON");
    let mut filters = [TerminalFilter::drawing(), TerminalFilter::text()];
    let mut timeline = Timeline::new(Pace { speed: f64::from(*form) / 16.0, max_idle: None });
    let mut output = 0;
    while let Ok(Some(event)) = decoder.next_event() {
        if let RecordedEvent::Output { data, .. } = &event {
            output += data.len();
            for filter in &mut filters {
                let passed = filter.pass(data);
                let mut again = TerminalFilter::drawing();
                assert_eq!(again.pass(passed.as_bytes()), passed, "what has passed passes again");
            }
        }
        let wait = timeline.wait(event.at());
        timeline.pass(event.at(), wait / 2);
        assert!(timeline.position() <= event.at());
        timeline.move_to(event.at());
        assert!(timeline.wait(event.at()).is_zero());
        if let Some(line) = cast.line(&event) {
            assert!(line.ends_with('\n') && !line.trim_end_matches('\n').contains('\n'));
            let value: serde_json::Value =
                serde_json::from_str(&line).expect("a line of an asciicast is JSON");
            assert_eq!(value.as_array().map(Vec::len), Some(3));
        }
    }
    assert!(output <= data.len(), "no output from nowhere");
});
