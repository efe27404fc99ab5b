//! `tsh play`: in a real terminal, into a pipe, and as what asciinema plays.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use teleport_core::clock::Timestamp;
use teleport_core::recording::{Encoder, OutputStream, RecordedEvent, RecordingMeta, SessionEnd};
use tempfile::TempDir;

use crate::support::program::{Output, own, run, shell};
use crate::support::tmux::Terminal;
use crate::support::wait_for;

fn meta(terminal: Option<(u16, u16)>) -> RecordingMeta {
    RecordingMeta {
        session: "6f0e1a3c-7d1f-4b5e-9a53-5d5a1f9f3f10".parse().unwrap(),
        cluster: "example.com".parse().unwrap(),
        host_id: "0f8fad5b-d9cb-469f-a165-70867728950e".parse().unwrap(),
        host_name: "web-1".parse().unwrap(),
        user: "alice".parse().unwrap(),
        login: "root".parse().unwrap(),
        started: Timestamp::from_unix_secs(1_800_000_000),
        command: None,
        terminal,
    }
}

/// A recording that shows each text at its second, then ends; flushed after each as a node does it.
fn recording(dir: &Path, terminal: Option<(u16, u16)>, shown: &[(u64, &[u8])]) -> (PathBuf, Vec<usize>) {
    let mut encoder = Encoder::new(&meta(terminal)).unwrap();
    let mut bytes = encoder.take(true).unwrap();
    let mut places = Vec::new();
    let mut last = Duration::ZERO;
    for (second, text) in shown {
        places.push(bytes.len());
        last = Duration::from_secs(*second);
        encoder.output(last, OutputStream::Stdout, text).unwrap();
        bytes.extend(encoder.take(true).unwrap());
    }
    encoder.event(&RecordedEvent::End { at: last, end: SessionEnd::Exited(7) }).unwrap();
    bytes.extend(encoder.take(true).unwrap());
    let path = dir.join("session.tprec");
    std::fs::write(&path, bytes).unwrap();
    (path, places)
}

fn play(path: &Path, arguments: &[&str]) -> Output {
    let mut tsh = own("tsh");
    tsh.arg("play").arg(path).args(arguments);
    run(tsh)
}

const ATTACKS: &[u8] = b"before\r\n\x1b]52;c;c3RvbGVu\x07\x1b]0;evil title\x07\x1b]2;evil title\x07\x1bkevil title\x1b\\\
    \x1b[6n\x1b[5n\x1b[c\x1b[>c\x1b[=c\x1bZ\x05\x1b[>q\x1b[21t\x1b[18t\x1b]10;?\x07\x1b]11;?\x1b\\\x1bP$qm\x1b\\\x1bP+q544e\x1b\\\
    \x1b[?1000h\x1b[?1006h\x1b[?1004h\x1b[?2004h\x1b[?1h\x1b=\x1b[8;10;20t\x1b[?3h\x1b[5i\x1b]8;;http://evil\x07\
    \x1bPtmux;\x1b\x1b]52;c;c3RvbGVu\x07\x1b\\\xc2\x9d52;c;c3RvbGVu\xc2\x9c\r\nafter\r\n";

/// What was recorded must not write the clipboard, set titles, or be answered into the shell that follows.
#[test]
fn f4_a_replay_makes_a_terminal_do_nothing_but_draw() {
    let dir = TempDir::new().unwrap();
    let (path, _) = recording(dir.path(), Some((100, 30)), &[(0, ATTACKS)]);
    let typed = dir.path().join("typed");
    // Whatever the terminal answers is there to be read when the replay has ended; then somebody ends the input.
    let terminal = Terminal::open(&format!(
        "{} play {}; echo ready; cat > {}",
        env!("CARGO_BIN_EXE_tsh"),
        path.display(),
        typed.display()
    ));
    terminal.run(&["set", "-s", "set-clipboard", "on"]);
    terminal.run(&["set", "-g", "allow-passthrough", "on"]);
    let before = terminal.run(&["display", "-p", "#{pane_title}"]);
    let screen = terminal.wait_for("ready", 1);
    assert!(screen.contains("before") && screen.contains("after"), "{screen}");
    assert!(screen.contains("[end of session: exit status 7]"), "{screen}");
    terminal.type_line("mine");
    terminal.press("C-d");
    assert_eq!(terminal.ended(), 0);
    assert_eq!(std::fs::read_to_string(&typed).unwrap(), "mine\n", "nobody else has typed");
    assert_eq!(terminal.run(&["list-buffers"]), "", "nothing was copied");
    assert_eq!(terminal.run(&["display", "-p", "#{pane_title}"]), before);
    let modes = "#{mouse_any_flag}#{keypad_flag}#{keypad_cursor_flag}#{alternate_on}#{insert_flag}";
    assert_eq!(terminal.run(&["display", "-p", modes]).trim(), "00000");
    // Nor in the other formats, as which it may be looked at in a terminal as well.
    for format in ["text", "json", "yaml", "cast", "cast3"] {
        let shown = play(&path, &["--format", format]).clean();
        let control = |letter: char| letter.is_control() && !matches!(letter, '\n' | '\t');
        assert!(!shown.contains(control), "{format}: {shown:?}");
        assert!(shown.contains("before") && shown.contains("after"), "{format}: {shown:?}");
    }
}

#[test]
fn keys_pause_move_and_change_the_speed() {
    let dir = TempDir::new().unwrap();
    let lines: [(u64, &[u8]); 4] =
        [(0, b"line one\r\n"), (30, b"line two\r\n"), (3600, b"line three\r\n"), (7200, b"line four\r\n")];
    let (path, _) = recording(dir.path(), Some((132, 43)), &lines);
    let terminal = Terminal::open(&format!("{} play {}", env!("CARGO_BIN_EXE_tsh"), path.display()));
    let screen = terminal.wait_for("line one", 1);
    assert!(screen.contains("[the session's terminal had 132x43, this one has 100x30"), "{screen}");
    terminal.press("Space");
    terminal.wait_for("paused at 0:0", 1);
    terminal.press("Right");
    terminal.press("Right");
    terminal.press("Right");
    let screen = terminal.wait_for("paused at 0:3", 1);
    assert!(screen.contains("of 2:00:00, 1x;"), "{screen}");
    terminal.press("+");
    terminal.press("Up");
    terminal.wait_for(", 4x;", 1);
    terminal.press("-");
    terminal.wait_for(", 2x;", 1);
    terminal.press("9");
    let screen = terminal.wait_for("paused at 1:48:00", 1);
    assert!(screen.contains("line three") && !screen.contains("line four"), "{screen}");
    terminal.press("0");
    terminal.wait_for("paused at 0:00", 1);
    let screen = terminal.run(&["capture-pane", "-p"]);
    assert!(!screen.contains("line two"), "what comes later is not on the screen any more: {screen}");
    // It goes on without the line of the pause.
    terminal.press("Space");
    wait_for("the line to go", || (!terminal.run(&["capture-pane", "-p"]).contains("paused")).then_some(()));
    terminal.press("q");
    assert_eq!(terminal.ended(), 0);
}

/// However it ends, the shell's terminal is as it was.
#[test]
fn the_terminal_is_restored_by_every_way_out() {
    let dir = TempDir::new().unwrap();
    let shown: [(u64, &[u8]); 2] = [(0, b"\x1b[?1049h\x1b[?25l\x1b[31;7m\x1b[2;5rshown"), (7200, b"later")];
    let (path, _) = recording(dir.path(), Some((100, 30)), &shown);
    let tsh = env!("CARGO_BIN_EXE_tsh");
    for (way, status) in [("q", 0), ("C-c", 0), ("TERM", 143), ("HUP", 129)] {
        let file = |name: &str| dir.path().join(name).display().to_string();
        let terminal = Terminal::open(&format!(
            "stty -g > {0}; sh -c 'echo $$ > {2}.new; mv {2}.new {2}; exec {tsh} play {3}'; code=$?; stty -g > {1}; cmp {0} {1} && echo same; (exit $code)",
            file("before"),
            file("after"),
            file("pid"),
            path.display()
        ));
        terminal.wait_for("shown", 1);
        if let Ok(signal) = format!("SIG{way}").parse::<Signal>() {
            let pid = std::fs::read_to_string(dir.path().join("pid")).unwrap();
            kill(Pid::from_raw(pid.trim().parse().unwrap()), signal).unwrap();
        } else {
            terminal.press(way);
        }
        assert_eq!(terminal.ended(), status, "{way}");
        terminal.wait_for("same", 1);
        let modes = "#{alternate_on}#{cursor_flag}#{scroll_region_upper},#{scroll_region_lower}";
        assert_eq!(terminal.run(&["display", "-p", modes]).trim(), "010,29", "{way}");
        std::fs::remove_file(dir.path().join("pid")).unwrap();
    }
}

#[test]
fn a_pipe_gets_what_was_shown_without_waiting() {
    let dir = TempDir::new().unwrap();
    let lines: [(u64, &[u8]); 3] = [(0, b"one\r\n"), (86_400, b"two\r\n"), (172_800, b"three\r\n")];
    let (path, _) = recording(dir.path(), Some((80, 24)), &lines);
    assert_eq!(play(&path, &[]).clean(), "one\r\ntwo\r\nthree\r\n");
    assert_eq!(
        play(&path, &["--from=24:00:00"]).clean(),
        "one\r\ntwo\r\nthree\r\n",
        "the screen of that time, and what follows"
    );
    assert_eq!(play(&path, &["--format=text", "--from=24:00:01"]).clean(), "three\n");
    assert!(play(&path, &["--format=cast", "--from=1s"]).refusal().contains("--from"));
    assert!(play(&path, &["--from=soon"]).stderr.contains("is not a time of a session"));
    // Whoever has seen enough is not complained to.
    let line = format!("{} play {} --format=json | head -1", env!("CARGO_BIN_EXE_tsh"), path.display());
    assert!(run(shell(&line)).clean().contains("one"));
}

#[test]
fn what_is_missing_is_said_and_the_rest_is_shown() {
    let dir = TempDir::new().unwrap();
    let long = vec![b'x'; 300_000];
    let lines: [(u64, &[u8]); 4] = [(1, b"one\n"), (2, &long), (3, b"three\n"), (70, b"four\n")];
    let (path, places) = recording(dir.path(), None, &lines);
    let whole = std::fs::read(&path).unwrap();
    let mut damaged = whole.clone();
    damaged[places[0] + 40] ^= 1;
    std::fs::write(&path, &damaged).unwrap();
    let output = play(&path, &["--format=text"]);
    // Of the long one only what is in the next segment is left.
    assert!(output.out().ends_with("xthree\nfour\n") && !output.out().contains("one"));
    assert!(output.out().len() < long.len() / 2 && output.code() == 1, "{:?}", output.status);
    assert!(
        output.stderr.contains("from 0:00 to 0:02 is damaged in the recording and missing here"),
        "{}",
        output.stderr
    );
    assert!(output.stderr.contains("1 of its parts could not be read"), "{}", output.stderr);
    let json = play(&path, &["--format=json"]);
    assert!(json.out().lines().any(|line| line.contains("\"event\":\"missing\"")), "{}", json.out());

    std::fs::write(&path, &whole[..places[3] + 3]).unwrap();
    let output = play(&path, &["--format=text"]);
    assert!(output.out().ends_with("three\n") && output.code() == 1, "{:?}", output.status);
    assert!(output.stderr.contains("ends in the middle"), "{}", output.stderr);
    std::fs::write(&path, b"GIF89a").unwrap();
    assert!(play(&path, &["--format=text"]).refusal().contains("not a recording"));
}

/// Where `.ci/test` has put it, or on the path.
fn tool(name: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_BIN_EXE_tsh")).parent().and_then(Path::parent).unwrap();
    let ours = target.join("tools/bin").join(name);
    if ours.exists() { ours } else { name.into() }
}

#[test]
fn asciinema_plays_the_export() {
    let dir = TempDir::new().unwrap();
    let shown: [(u64, &[u8]); 3] = [(0, b"caf\xc3"), (1, b"\xa9 \x1b[1mbold\x1b[0m\r\n"), (2, b"end\r\n")];
    let (path, _) = recording(dir.path(), Some((132, 43)), &shown);
    let expected = "café \u{1b}[1mbold\u{1b}[0m\r\nend\r\n";
    for (format, tool_name) in [("cast", "asciinema2"), ("cast", "asciinema3"), ("cast3", "asciinema3")] {
        let cast = dir.path().join("session.cast");
        std::fs::write(&cast, play(&path, &["--format", format]).clean()).unwrap();
        let mut cat = std::process::Command::new(tool(tool_name));
        match tool_name {
            "asciinema2" => cat.arg("cat").arg(&cast),
            _ => cat.args(["convert", "--output-format", "raw"]).arg(&cast).arg("-"),
        };
        let output = run(cat);
        let played = String::from_utf8_lossy(&output.stdout);
        // Version 3 sets the size of the terminal first.
        let played = played.strip_prefix("\u{1b}[8;43;132t").unwrap_or(&played);
        assert!(output.status.success(), "{tool_name}: {}", output.stderr);
        assert_eq!(played, expected, "{format} by {tool_name}");
    }
    // The exit status is known to version 3 alone.
    let cast = dir.path().join("session.cast");
    std::fs::write(&cast, play(&path, &["--format=cast3"]).clean()).unwrap();
    let mut convert = std::process::Command::new(tool("asciinema3"));
    convert.args(["convert", "--output-format", "asciicast-v2"]).arg(&cast).arg("-");
    let output = run(convert);
    let last = output.out().lines().last().unwrap_or_default().replace(' ', "");
    assert!(last.ends_with(r#","x","7"]"#), "{last}: {}", output.stderr);
}
