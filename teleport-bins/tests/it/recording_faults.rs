//! Recordings while daemons are killed or silent. Rows H1 and H2.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};

use nix::sys::signal::Signal;
use teleport_core::recording::{Decoder, RecordedEvent};

use crate::network_faults::{self, Dice};
use crate::processes::Three;
use crate::support::wait_for;

/// A session that says line after line, each when it is asked to.
pub(crate) struct Talk {
    child: Child,
    stdout: BufReader<ChildStdout>,
    said: String,
}

impl Talk {
    pub(crate) fn begin(three: &Three) -> Self {
        Self::run(three, "while read line; do echo \"$line\"; done; exit 5")
    }

    /// With a command of its own.
    pub(crate) fn run(three: &Three, command: &str) -> Self {
        let mut child = three
            .ssh(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout, said: String::new() }
    }

    /// `None` if the session is over.
    pub(crate) fn say(&mut self, line: &str) -> Option<()> {
        self.child.stdin.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).ok()?;
        assert_eq!(self.hear()?, format!("{line}\n"));
        Some(())
    }

    /// The next line; `None` if the session is over.
    pub(crate) fn hear(&mut self) -> Option<String> {
        let mut heard = String::new();
        (self.stdout.read_line(&mut heard).ok()? > 0).then_some(())?;
        self.said.push_str(&heard);
        Some(heard)
    }

    pub(crate) fn end(mut self) -> (String, Option<i32>) {
        drop(self.child.stdin.take());
        let mut rest = String::new();
        let _ = self.stdout.read_to_string(&mut rest);
        (self.said.clone() + &rest, self.child.wait().unwrap().code())
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the auth service has of all sessions that it calls complete: their output, and whether each has an end.
pub(crate) fn completed(auth: &Path) -> Vec<String> {
    let sessions = auth.join("recordings").join("sessions");
    let Ok(entries) = std::fs::read_dir(sessions) else { return Vec::new() };
    let mut texts = Vec::new();
    for entry in entries {
        let Ok(data) = std::fs::read(entry.unwrap().path().join("data")) else { continue };
        texts.push(text(&data));
    }
    texts
}

/// The output of a whole recording.
#[track_caller]
fn text(recording: &[u8]) -> String {
    let mut decoder = Decoder::new().unwrap();
    decoder.feed(recording);
    let mut text = Vec::new();
    let mut ended = false;
    while let Some(event) = decoder.next_event().unwrap() {
        match event {
            RecordedEvent::Output { data, .. } => text.extend_from_slice(&data),
            RecordedEvent::End { .. } => ended = true,
            _ => {}
        }
    }
    assert!(ended, "each has an end, of the session or of the node");
    String::from_utf8(text).unwrap()
}

/// The output of a recording that the auth service calls complete; nothing of one that it does not.
#[track_caller]
pub(crate) fn recorded(auth: &Path, session: &str) -> String {
    let data = auth.join("recordings").join("sessions").join(session).join("data");
    std::fs::read(data).map_or_else(|_| String::new(), |data| text(&data))
}

pub(crate) fn spooled(node: &Path) -> usize {
    std::fs::read_dir(node.join("spool")).map_or(0, |entries| {
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.filter(|name| !name.ends_with(".refused")).count()
    })
}

/// The text of the file in the spool that is being written, as far as it can be read.
fn on_disk(node: &Path) -> String {
    let mut text = Vec::new();
    for entry in std::fs::read_dir(node.join("spool")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "part") {
            continue;
        }
        let mut decoder = Decoder::new().unwrap();
        decoder.feed(&std::fs::read(path).unwrap());
        while let Ok(Some(event)) = decoder.next_event() {
            if let RecordedEvent::Output { data, .. } = event {
                text.extend_from_slice(&data);
            }
        }
    }
    String::from_utf8(text).unwrap()
}

/// Row H1: the node is killed at any moment of sessions, their ends and uploads, sometimes with the auth service away. What had reached
/// its disk is delivered after the next start, never something else, with an end that says how it came. `TELEPORT_KILLS=200` for the
/// long run.
#[test]
fn h1_what_was_recorded_survives_kills_of_the_node() {
    let kills: usize = std::env::var("TELEPORT_KILLS").map_or(4, |kills| kills.parse().unwrap());
    let mut dice = Dice::thrown();
    let mut three = Three::start(false);
    let node = three.machine.path("node");
    let auth = three.machine.path("auth");
    // Of each session what was asked of it, what was on the disk at least, and whether it ended by itself.
    let mut sessions: Vec<(String, String, String, bool)> = Vec::new();
    for point in 0..kills {
        three.works();
        let mut talk = Talk::run(&three, network_faults::SESSION);
        let id = talk.hear().unwrap().trim().to_owned();
        let lines = [0, 1, 7, 40][point % 4] + dice.below(5);
        for line in 0..lines {
            talk.say(&format!("point {point} line {line}")).unwrap();
        }
        let said = talk.said.clone();
        let mut kept = String::new();
        let mut ended = false;
        // In the middle, after what was said is on the disk, and in the moment of the end and the upload.
        if point % 4 == 2 {
            wait_for("what was said to be on the disk", || on_disk(&node).ends_with(&said).then_some(()));
            kept.clone_from(&said);
        } else if point % 4 == 3 {
            let (all, status) = talk.end();
            assert_eq!((all.as_str(), status), (said.as_str(), Some(5)));
            ended = true;
            if point % 8 == 7 {
                three.auth.take().unwrap().kill();
            }
        } else {
            // Whatever the disk has at some moment before.
            std::thread::sleep(std::time::Duration::from_millis(dice.below(800)));
            kept = on_disk(&node);
        }
        three.node.take().unwrap().kill();
        sessions.push((id, said, kept, ended));
        if three.auth.is_none() {
            three.auth = Some(three.machine.start("auth", &[]));
        }
        three.node = Some(three.machine.start("node", &[]));
    }
    three.works();
    wait_for("an empty spool", || (spooled(&node) == 0).then_some(()));
    let known = network_faults::each_happened_once(&three.machine);
    let (mut bytes, mut whole) = (0, 0);
    for (id, said, kept, ended) in &sessions {
        assert!(known.contains_key(id), "{id}");
        let text = recorded(&auth, id);
        assert!(said.starts_with(&text), "{id}: {text:?} was never said: {said:?}");
        assert!(text.starts_with(kept.as_str()), "{id}: {text:?} lacks what was on the disk: {kept:?}");
        bytes += said.len() - text.len();
        whole += usize::from(said.len() == text.len());
        let events = three.machine.events("auth");
        let end =
            events.iter().find(|event| event["code"] == "T2004I" && event["sid"] == id.as_str()).unwrap();
        assert!(*ended || end["reason"] == "the node was interrupted" && end["recovered"] == true, "{end}");
    }
    eprintln!(
        "{kills} kills: {whole} recordings are whole, {bytes} bytes that had not reached the disk are lost"
    );
    network_faults::everything_is_verified(&three.machine);
}

/// The auth service is killed at any moment of sessions, uploads and completions: afterwards each recording is there once, whole, and
/// the log has its digest. `TELEPORT_KILLS=200` for the long run.
fn kills_of_the_auth_service(mode: &str) {
    let kills: u64 = std::env::var("TELEPORT_KILLS").map_or(4, |kills| kills.parse().unwrap());
    let mut dice = Dice::thrown();
    let mut three = Three::start_recording(mode);
    three.works();
    let mut all = Vec::new();
    for point in 0..kills {
        let big = dice.below(2) == 0;
        let before = std::time::Duration::from_millis(dice.below(1200));
        let auth = three.auth.take().unwrap();
        let (output, auth) = std::thread::scope(|scope| {
            let running = scope.spawn(|| network_faults::session(&three, point, big));
            std::thread::sleep(before);
            auth.kill();
            let auth = three.machine.start("auth", &[]);
            (running.join().unwrap(), auth)
        });
        three.auth = Some(auth);
        match network_faults::seen(&output) {
            Some(seen) if mode == "node" => {
                assert_eq!(seen.code, 5, "nothing of the session needs the auth service: {output:?}");
                all.push(seen);
            }
            // A start that takes longer than streamed sessions wait ends them.
            Some(seen) => {
                assert!([5, 255].contains(&seen.code), "{output:?}");
                all.push(seen);
            }
            None => assert!(output.code() >= 254 && !output.stderr.is_empty(), "{output:?}"),
        }
    }
    three.works();
    assert!(!all.is_empty());
    let node = three.machine.path("node");
    wait_for("an empty spool", || (spooled(&node) == 0).then_some(()));
    let known = network_faults::each_happened_once(&three.machine);
    for seen in all {
        assert!(known.contains_key(&seen.id), "{}", seen.id);
        let text = recorded(&three.machine.path("auth"), &seen.id);
        // What ended before its time may have said more than was shown.
        let kept = if seen.code == 5 { text == seen.output } else { text.starts_with(&seen.output) };
        assert!(kept, "{}: {} bytes are not the {} that were seen", seen.id, text.len(), seen.output.len());
    }
    network_faults::everything_is_verified(&three.machine);
}

#[test]
fn g23_kills_of_the_auth_service_neither_lose_nor_repeat_recordings() {
    kills_of_the_auth_service("node");
}

#[test]
fn g23_kills_of_the_auth_service_neither_lose_nor_repeat_streamed_recordings() {
    kills_of_the_auth_service("node-sync");
}

/// Row H2: an auth service that stands still delays no keystroke of a session that is recorded at the node.
#[test]
fn h2_a_silent_auth_service_delays_nothing_that_runs() {
    let three = Three::start(false);
    three.works();
    let mut talk = Talk::begin(&three);
    talk.say("before").unwrap();
    let auth = three.auth.as_ref().unwrap();
    auth.signal(Signal::SIGSTOP);
    let mut waits = Vec::new();
    for line in 0..400 {
        let asked = tokio::time::Instant::now();
        talk.say(&format!("line {line}")).unwrap();
        waits.push(asked.elapsed());
    }
    waits.sort();
    let (slowest, of) = (waits[waits.len() - 1], |percent| waits[waits.len() * percent / 100]);
    eprintln!("keystrokes while the auth service is silent: p50 {:?}, p99 {:?}, {slowest:?}", of(50), of(99));
    let said = talk.said.clone();
    let (all, status) = talk.end();
    assert_eq!((all, status), (said.clone(), Some(5)), "the session ends as well, with its own status");
    auth.signal(Signal::SIGCONT);
    // On a busy machine a keystroke takes its time; nothing waited for an answer that does not come.
    assert!(slowest < std::time::Duration::from_secs(10), "{slowest:?}");
    assert!(of(50) < std::time::Duration::from_secs(1), "and no patience runs out for each: {:?}", of(50));
    let path = three.machine.path("auth");
    wait_for("the recording at the auth service", || completed(&path).contains(&said).then_some(()));
}

/// With `node-sync` the auth service has what was shown, whatever becomes of the node; and when it is silent the session ends.
#[test]
fn g19_what_a_streamed_session_showed_is_at_the_auth_service() {
    let mut three = Three::start_recording("node-sync");
    let mut talk = Talk::begin(&three);
    for line in 0..20 {
        talk.say(&format!("line {line}")).unwrap();
    }
    let said = talk.said.clone();
    three.node.take().unwrap().kill();
    // The disk of the node is lost with it, so all that there is was streamed.
    std::fs::remove_dir_all(three.machine.path("node").join("spool")).unwrap();
    let id = three
        .machine
        .events("auth")
        .iter()
        .find_map(|event| (event["code"] == "T2000I").then(|| event["sid"].as_str().unwrap().to_owned()));
    let text = three.play(&id.unwrap());
    assert!(text.contains(&said), "{text:?} {said:?}");
    drop(talk);

    three.node = Some(three.machine.start("node", &[]));
    three.works();
    let mut talk = Talk::begin(&three);
    talk.say("before").unwrap();
    three.auth.as_ref().unwrap().signal(Signal::SIGSTOP);
    // Nothing is shown that is not acknowledged; after a while the session ends.
    assert!(talk.say("never shown").is_none());
    let (all, status) = talk.end();
    three.auth.as_ref().unwrap().signal(Signal::SIGCONT);
    assert_eq!((all.as_str(), status), ("before\n", Some(255)), "neither shown nor ended by itself");
}
