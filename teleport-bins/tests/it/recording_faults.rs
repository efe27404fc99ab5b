//! Recordings while everything fails: killed nodes, killed and silent auth services, full disks. Row H1 and H2.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use nix::sys::signal::Signal;
use teleport_core::recording::{Decoder, RecordedEvent};

use crate::processes::Three;
use crate::support::wait_for;

/// A session that says line after line, each when it is asked to.
struct Talk {
    child: Child,
    stdout: BufReader<ChildStdout>,
    said: String,
}

impl Talk {
    fn begin(three: &Three) -> Self {
        let mut child = three
            .ssh("while read line; do echo \"$line\"; done; exit 5")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout, said: String::new() }
    }

    /// `None` if the session is over.
    fn say(&mut self, line: &str) -> Option<()> {
        let mut heard = String::new();
        self.child.stdin.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).ok()?;
        (self.stdout.read_line(&mut heard).ok()? > 0).then_some(())?;
        assert_eq!(heard, format!("{line}\n"));
        self.said.push_str(&heard);
        Some(())
    }

    fn end(mut self) -> (String, Option<i32>) {
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
fn completed(auth: &Path) -> Vec<String> {
    let sessions = auth.join("recordings").join("sessions");
    let Ok(entries) = std::fs::read_dir(sessions) else { return Vec::new() };
    let mut texts = Vec::new();
    for entry in entries {
        let Ok(data) = std::fs::read(entry.unwrap().path().join("data")) else { continue };
        let mut decoder = Decoder::new().unwrap();
        decoder.feed(&data);
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
        texts.push(String::from_utf8(text).unwrap());
    }
    texts
}

fn spooled(node: &Path) -> usize {
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

/// Row H1: the node is killed at many points, sometimes with the auth service away, and what had reached the disk is delivered
/// after the next start, with an end. `TELEPORT_KILLS=200` for the long run.
#[test]
fn h1_what_was_recorded_survives_kills_of_the_node() {
    let kills: usize = std::env::var("TELEPORT_KILLS").map_or(4, |kills| kills.parse().unwrap());
    let mut three = Three::start(false);
    let node = three.machine.path("node");
    let auth = three.machine.path("auth");
    let mut kept = Vec::new();
    let mut recordings = 0;
    for point in 0..kills {
        three.works();
        recordings += 1;
        let mut talk = Talk::begin(&three);
        recordings += 1;
        let lines = [0, 1, 7, 40][point % 4];
        for line in 0..lines {
            talk.say(&format!("point {point} line {line}")).unwrap();
        }
        let said = talk.said.clone();
        // At the beginning, in the middle, after what was said is on the disk, and in the moment of the end and the upload.
        if point % 4 == 2 {
            wait_for("what was said to be on the disk", || on_disk(&node).contains(&said).then_some(()));
            kept.push(said);
        } else if point % 4 == 3 {
            let (all, status) = talk.end();
            assert_eq!((all.as_str(), status), (said.as_str(), Some(5)));
            if point % 8 == 7 {
                three.auth.take().unwrap().kill();
            }
        }
        three.node.take().unwrap().kill();
        if three.auth.is_none() {
            three.auth = Some(three.machine.start("auth", &[]));
        }
        three.node = Some(three.machine.start("node", &[]));
    }
    three.works();
    wait_for("an empty spool", || (spooled(&node) == 0).then_some(()));
    let texts = completed(&auth);
    assert!(texts.len() <= recordings + kills + 1 && texts.len() >= kills, "{} {recordings}", texts.len());
    for said in &kept {
        assert!(texts.iter().any(|text| text == said), "{said:?} is not in {texts:?}");
    }
    for text in &texts {
        // A prefix of what was said, never something else.
        let begins =
            ["point", "through"].iter().any(|word| text.starts_with(word) || word.starts_with(text.as_str()));
        assert!(begins, "{text:?}");
    }
    // Every session that began has an end in the audit log, whoever tells of it.
    wait_for("an end of each session", || {
        let events = three.machine.events("auth");
        let of = |code: &str| -> std::collections::BTreeSet<String> {
            let events = events.iter().filter(|event| event["code"] == code);
            events.filter_map(|event| event["sid"].as_str().map(str::to_owned)).collect()
        };
        of("T2000I").is_subset(&of("T2004I")).then_some(())
    });
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
    let mut slowest = std::time::Duration::ZERO;
    for line in 0..200 {
        let asked = tokio::time::Instant::now();
        talk.say(&format!("line {line}")).unwrap();
        slowest = slowest.max(asked.elapsed());
    }
    let said = talk.said.clone();
    let (all, status) = talk.end();
    assert_eq!((all, status), (said.clone(), Some(5)), "the session ends as well, with its own status");
    auth.signal(Signal::SIGCONT);
    // On a busy machine a keystroke takes its time; nothing waited for an answer that does not come.
    assert!(slowest < std::time::Duration::from_secs(10), "{slowest:?}");
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

/// A file system of a few megabytes.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(at: &'a Path) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=2m,mode=0700", "tmpfs"]).arg(at).stderr(Stdio::null());
        mount.status().is_ok_and(|status| status.success()).then_some(Self(at))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

/// Fault goal G-24: a full disk begins no sessions, and is told of; when there is room again everything works by itself.
#[test]
fn g24_a_full_disk_refuses_sessions_and_recovers() {
    let mut three = Three::start(false);
    three.works();
    let spool = three.machine.path("node").join("spool");
    wait_for("an empty spool", || (spooled(&three.machine.path("node")) == 0).then_some(()));
    three.node.take().unwrap().stop();
    let Some(_disk) = SmallDisk::mount(&spool) else {
        // Told, not passed over: the suite of the spool itself breaks its disk without a mount.
        eprintln!("NOT TESTED: no file system can be mounted here");
        return;
    };
    three.node = Some(three.machine.start("node", &[]));
    three.works();
    let mut talk = Talk::begin(&three);
    talk.say("before").unwrap();
    let ballast = spool.join("ballast");
    let mut file = std::fs::File::create(&ballast).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    // The session goes on: it is recorded at best effort.
    wait_for("the node to notice", || {
        talk.say("while it is full, and this line is long enough to need another page of it").unwrap();
        let full = three.node.as_ref().unwrap().logged().contains("the disk does not take a recording");
        full.then_some(())
    });
    let refused = crate::support::program::run(three.ssh("echo in"));
    assert!(refused.out().is_empty() && refused.code() != 0, "{refused:?}");
    assert!(refused.stderr.contains("cannot be recorded"), "{refused:?}");
    drop(file);
    std::fs::remove_file(&ballast).unwrap();
    three.works();
    talk.say("after").unwrap();
    let (_, status) = talk.end();
    assert_eq!(status, Some(5));
    let auth = three.machine.path("auth");
    wait_for("the recording with both ends of the gap", || {
        let texts = completed(&auth);
        texts.iter().any(|text| text.starts_with("before\n") && text.ends_with("after\n")).then_some(())
    });
    let events = three.machine.events("auth");
    let told = |event: &serde_json::Value| {
        event["code"] == "T2005E" && event["error"].as_str().is_some_and(|text| text.contains("disk"))
    };
    assert!(events.iter().any(told), "the audit log knows");
}
