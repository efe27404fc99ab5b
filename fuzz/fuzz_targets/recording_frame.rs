//! What is inside the frames of recordings: the input becomes the events of sound frames, so that no checksum or compression
//! stands before the reader. Also what is made of events: the lines of an asciicast, the timeline of a replay.
#![no_main]

use libfuzzer_sys::fuzz_target;
use teleport_core::recording::{Asciicast, Decoder, Pace, RecordedEvent, Timeline};

const META: &[u8] = include_bytes!("../src/meta.json");

fn frame(file: &mut Vec<u8>, plain: &[u8]) {
    let payload = zstd::bulk::compress(plain, 1).unwrap();
    file.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
    file.extend(crc32fast::hash(&payload).to_be_bytes());
    file.extend(payload);
}

fuzz_target!(|data: &[u8]| {
    let Some((form, data)) = data.split_first() else { return };
    let mut file = b"TPREC\0\0\x01".to_vec();
    if form & 1 == 0 {
        // A varint of the length, the JSON.
        let mut meta = vec![0, 0, (META.len() & 0x7f) as u8 | 0x80, (META.len() >> 7) as u8];
        meta.extend_from_slice(META);
        frame(&mut file, &meta);
    }
    // An event may not be split between two frames.
    for plain in data.split(|byte| form & 2 != 0 && *byte == b'\n') {
        frame(&mut file, plain);
    }
    let mut decoder = Decoder::new().unwrap();
    decoder.feed(&file);
    let mut cast = Asciicast::new();
    let mut timeline = Timeline::new(Pace { speed: f64::from(*form) / 16.0, max_idle: None });
    let mut output = 0;
    while let Ok(Some(event)) = decoder.next_event() {
        if let RecordedEvent::Output { data, .. } = &event {
            output += data.len();
        }
        timeline.wait(&event);
        assert!(timeline.position() >= event.at());
        if let Some(line) = cast.line(&event) {
            assert!(line.ends_with('\n') && !line.trim_end_matches('\n').contains('\n'));
            let value: serde_json::Value =
                serde_json::from_str(&line).expect("a line of an asciicast is JSON");
            assert_eq!(value.as_array().map(Vec::len), Some(3));
        }
    }
    assert!(output <= data.len(), "no output from nowhere");
    if let Some(meta) = decoder.meta() {
        serde_json::from_str::<serde_json::Value>(&Asciicast::header(meta)).expect("the header is JSON");
    }
});
