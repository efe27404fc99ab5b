//! The form of recordings: golden files, read by our reader and by one that was written from the manual's chapter.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use data_encoding::BASE64;
use serde_json::{Value, json};
use teleport_core::recording::{
    Encoder, Ending, OutputStream, Reader, RecordedEvent, RecordingMeta, SessionEnd, Step,
};
use teleport_core::testing::recording_meta;

const HEAD: usize = 24;

fn meta() -> RecordingMeta {
    RecordingMeta { terminal: Some((80, 24)), ..recording_meta() }
}

fn output(at: u64, stream: OutputStream, text: &str) -> RecordedEvent {
    let data = Bytes::copy_from_slice(text.as_bytes());
    RecordedEvent::Output { at: Duration::from_millis(at), stream, data }
}

fn shown(at: u64, text: &str) -> RecordedEvent {
    output(at, OutputStream::Stdout, text)
}

fn end(at: u64, end: SessionEnd) -> RecordedEvent {
    RecordedEvent::End { at: Duration::from_millis(at), end }
}

/// Written with a flush after each event, as the spool does it when little happens.
fn write(meta: &RecordingMeta, events: &[RecordedEvent]) -> Vec<u8> {
    let mut encoder = Encoder::new(meta).unwrap();
    let mut bytes = Vec::new();
    for event in events {
        encoder.event(event).unwrap();
        bytes.extend(encoder.take(true).unwrap());
    }
    bytes
}

fn shell() -> Vec<RecordedEvent> {
    vec![
        shown(0, "$ "),
        shown(900, "stty size\r\n24 80\r\n$ "),
        RecordedEvent::Resize { at: Duration::from_millis(1500), columns: 132, rows: 43 },
        shown(2100, "stty size\r\n43 132\r\n\x1b[1;32m$\x1b[0m "),
        shown(70_000, "exit\r\n"),
        end(70_001, SessionEnd::Exited(0)),
    ]
}

/// Three segments and a fourth with the end.
fn long() -> Vec<RecordedEvent> {
    let text: String =
        (0..1600).map(|line| format!("{line:05} abcdefghijklmnopqrstuvwxyz{line:05}\r\n")).collect();
    let mut events: Vec<_> = (0..12).map(|number| shown(number * 1000, &text)).collect();
    events.push(end(12_000, SessionEnd::Signaled("HUP".into())));
    events
}

fn golden() -> Vec<(&'static str, Vec<u8>)> {
    let exec = RecordingMeta { command: Some("make check".into()), terminal: None, ..meta() };
    let exec_events = [
        shown(5, "cc -c a.c\n"),
        output(250, OutputStream::Stderr, "a.c:1: error\n"),
        end(251, SessionEnd::Exited(2)),
    ];
    let gap = [
        shown(10, "before\r\n"),
        RecordedEvent::Gap { at: Duration::from_millis(20), lost: 1 << 33 },
        shown(30, "after\r\n"),
        end(40, SessionEnd::Disconnected),
    ];
    let shell = write(&meta(), &shell());
    let cut = shell.len() * 2 / 3;
    let long = write(&meta(), &long());
    let second = long.windows(4).enumerate().filter(|(_, bytes)| bytes == b"TPSG").nth(1).unwrap().0;
    let mut damaged = long.clone();
    damaged[second + HEAD + 40] ^= 0xff;
    let index = shell.windows(4).rposition(|bytes| bytes == b"TPIX").unwrap();
    vec![
        ("exec", write(&exec, &exec_events)),
        ("gap", write(&meta(), &gap)),
        ("long", long),
        ("no-index", shell[..index].to_vec()),
        ("shell", shell.clone()),
        ("truncated", shell[..cut].to_vec()),
        ("damaged", damaged),
    ]
}

fn path(name: &str) -> PathBuf {
    let file = format!("tests/golden/recordings/{name}.tprec");
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(file)
}

fn read(file: &[u8]) -> (Reader, Vec<Step>) {
    let mut reader = Reader::new(Some(file.len() as u64)).unwrap();
    reader.want_index();
    let mut steps = Vec::new();
    loop {
        match reader.step().unwrap() {
            Step::Read { offset, len } => {
                let rest = &file[usize::try_from(offset).unwrap()..];
                reader.feed(&rest[..rest.len().min(len)]);
            }
            step => {
                let end = matches!(step, Step::End(_));
                steps.push(step);
                if end {
                    return (reader, steps);
                }
            }
        }
    }
}

/// The form is fixed. If only the compressor has changed, look at what became of the files and write them anew.
#[test]
fn recordings_are_written_as_the_golden_files_are() {
    for (name, bytes) in golden() {
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(path(name), &bytes).unwrap();
        }
        let golden = std::fs::read(path(name)).unwrap();
        assert!(golden == bytes, "{name}: UPDATE_GOLDEN=1 writes the files anew");
    }
}

#[test]
fn golden_recordings_are_read() {
    let file = |name| std::fs::read(path(name)).unwrap();
    let events = |steps: &[Step]| -> Vec<RecordedEvent> {
        let event = |step: &Step| if let Step::Event(event) = step { Some(event.clone()) } else { None };
        steps.iter().filter_map(event).collect()
    };
    let (reader, steps) = read(&file("shell"));
    assert_eq!(events(&steps), shell());
    assert_eq!(steps.last(), Some(&Step::End(Ending::Complete)));
    assert_eq!(reader.meta(), Some(&meta()));
    let index = reader.index().unwrap();
    assert_eq!((index.largest, index.duration), ((132, 43), Duration::from_millis(70_001)));

    let (reader, steps) = read(&file("no-index"));
    assert_eq!((events(&steps), reader.index()), (shell(), None));
    assert_eq!(steps.last(), Some(&Step::End(Ending::Complete)));

    let (_, steps) = read(&file("truncated"));
    let read_events = events(&steps);
    assert_eq!(read_events, shell()[..read_events.len()]);
    assert!((1..5).contains(&read_events.len()));
    assert_eq!(steps.last(), Some(&Step::End(Ending::Unfinished)));

    let (_, steps) = read(&file("damaged"));
    let Some(Step::Missing(missing)) = steps.iter().find(|step| matches!(step, Step::Missing(_))) else {
        panic!("nothing is missing")
    };
    let seconds = Duration::from_secs;
    assert_eq!((missing.from, missing.to), (seconds(4), Some(seconds(9))));
    assert_eq!(steps.last(), Some(&Step::End(Ending::Complete)));

    let (reader, steps) = read(&file("exec"));
    assert_eq!(reader.meta().unwrap().command.as_deref(), Some("make check"));
    let stderr =
        |event: &RecordedEvent| matches!(event, RecordedEvent::Output { stream: OutputStream::Stderr, .. });
    assert_eq!(events(&steps).iter().filter(|event| stderr(event)).count(), 1);
    let (_, steps) = read(&file("gap"));
    assert!(events(&steps).contains(&RecordedEvent::Gap { at: Duration::from_millis(20), lost: 1 << 33 }));
}

fn event_json(event: &RecordedEvent) -> Value {
    let ms = u64::try_from(event.at().as_millis()).unwrap();
    match event {
        RecordedEvent::Output { stream, data, .. } => {
            let kind = if *stream == OutputStream::Stderr { 2 } else { 1 };
            json!({"ms": ms, "kind": kind, "data": BASE64.encode(data)})
        }
        RecordedEvent::Resize { columns, rows, .. } => {
            json!({"ms": ms, "kind": 3, "columns": columns, "rows": rows})
        }
        RecordedEvent::Gap { lost, .. } => json!({"ms": ms, "kind": 4, "number": lost}),
        RecordedEvent::End { end, .. } => match end {
            SessionEnd::Exited(status) => json!({"ms": ms, "kind": 5, "number": status}),
            SessionEnd::Signaled(name) => json!({"ms": ms, "kind": 6, "signal": name}),
            _ => json!({"ms": ms, "kind": 7}),
        },
        _ => panic!("an event that the manual does not know"),
    }
}

/// The judge knows the manual's chapter and nothing else.
#[test]
fn a_reader_that_was_written_from_the_manual_reads_the_same() {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/read_recording.py");
    for (name, bytes) in golden() {
        let output = Command::new("python3").arg(&script).arg(path(name)).output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        let lines = String::from_utf8(output.stdout).unwrap();
        let mut lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let ending = lines.pop().unwrap();
        let expected = match name {
            "damaged" => "a checksum is wrong",
            "truncated" => "cut",
            _ => "whole",
        };
        assert_eq!(ending["ending"], expected, "{name}");
        let (reader, steps) = read(&bytes);
        assert_eq!(lines.remove(0)["meta"], serde_json::to_value(reader.meta().unwrap()).unwrap(), "{name}");
        if expected == "whole" && name != "no-index" {
            let index = reader.index().unwrap();
            let ms = u64::try_from(index.duration.as_millis()).unwrap();
            let theirs = &lines.pop().unwrap()["index"];
            let ours = json!({"duration": ms, "output": index.output, "segments": index.segments, "largest": index.largest});
            assert_eq!(*theirs, ours, "{name}");
        }
        let before_damage = steps.iter().take_while(|step| !matches!(step, Step::Missing(_)));
        let ours: Vec<Value> = before_damage
            .filter_map(|step| if let Step::Event(event) = step { Some(event_json(event)) } else { None })
            .collect();
        assert!(lines == ours, "{name}: {} and {} events", lines.len(), ours.len());
    }
}
