//! Processes on a terminal.

use teleport_ssh::sys::child::{Child, Exit};
use teleport_ssh::sys::host;
use teleport_ssh::sys::modes::TerminalModes;
use teleport_ssh::sys::pty::{Pty, PtyReader, PtyWriter, WindowSize};
use teleport_ssh::sys::signal::Signal;
use teleport_ssh::sys::spawn::Command;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::*;

/// A terminal with a process on it, and what that has printed so far.
struct Session {
    child: Child,
    reader: PtyReader,
    writer: PtyWriter,
    seen: String,
    device: String,
}

async fn on_terminal(command: Command, size: WindowSize, modes: &TerminalModes) -> Session {
    let pty = Pty::open(&account(), size, modes).unwrap();
    let device = pty.device().to_str().unwrap().to_owned();
    let (child, master) = command.spawn_pty(pty).await.unwrap();
    let (reader, writer) = master.into_split();
    Session { child, reader, writer, seen: String::new(), device }
}

async fn shell(line: &str) -> Session {
    on_terminal(shell_command(&account(), line), WindowSize::default(), &TerminalModes::default()).await
}

impl Session {
    /// Reads until the text has come, and answers all until then.
    async fn until(&mut self, text: &str) -> String {
        let read = async {
            while !self.seen.contains(text) {
                let mut buffer = [0; 4096];
                let count = self.reader.read(&mut buffer).await.unwrap();
                assert_ne!(count, 0, "{text:?} never came: {:?}", self.seen);
                self.seen.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
            }
        };
        tokio::time::timeout(LIMIT, read).await.unwrap_or_else(|_| panic!("waiting for {text:?}"));
        std::mem::take(&mut self.seen)
    }

    async fn type_in(&mut self, text: &str) {
        self.writer.write_all(text.as_bytes()).await.unwrap();
    }

    /// Reads to the end, and answers the rest of the output and how the process ended.
    async fn end(mut self) -> (String, Exit) {
        let mut rest = Vec::new();
        let all = async {
            self.reader.read_to_end(&mut rest).await.unwrap();
            self.child.wait().await.unwrap()
        };
        let exit = tokio::time::timeout(LIMIT, all).await.expect("the process ends");
        (self.seen + std::str::from_utf8(&rest).unwrap(), exit)
    }
}

#[tokio::test]
async fn the_terminal_is_the_users_and_the_controlling_one() {
    let line = "test -t 0 && test -t 1 && test -t 2 && tty; stat -c '%U:%G %a' $(tty); echo here > /dev/tty; \
                cut -d' ' -f1,5,6,8 /proc/$$/stat; ls /proc/$$/fd";
    let session = shell(line).await;
    let device = session.device.clone();
    let (output, exit) = session.end().await;
    assert_eq!(exit, Exit::Code(0));
    let lines: Vec<&str> = output.lines().collect();
    // Without root the group is what the system's mount of the terminals says, and the rest as tight.
    let owner = if host::is_root() { "daemon:tty 620" } else { &format!("{}:", account().name) };
    assert_eq!(lines[0], device);
    assert!(lines[1].starts_with(owner), "{lines:?}");
    assert_eq!(lines[2], "here");
    let ids: Vec<&str> = lines[3].split(' ').collect();
    assert_eq!(ids[..3], [ids[0]; 3], "leader of its group and session");
    assert!(lines[4..] == ["0", "1", "2"] || lines[4] == "0  1  2", "{lines:?}");
}

#[tokio::test]
async fn window_changes_are_seen() {
    let size = WindowSize::from_client(101, 37, 0, 0);
    let line = "trap 'echo changed' WINCH; stty size; read x; stty size; read x; exit 4";
    let command = shell_command(&account(), line);
    let pty = Pty::open(&account(), size, &TerminalModes::default()).unwrap();
    let (child, master) = command.spawn_pty(pty).await.unwrap();
    let control = master.control();
    let device = String::new();
    let (reader, writer) = master.into_split();
    let mut session = Session { child, reader, writer, seen: String::new(), device };
    session.until("37 101\r\n").await;
    control.resize(WindowSize::from_client(132, 50, 0, 0)).unwrap();
    session.type_in("\n").await;
    let seen = session.until("50 132\r\n").await;
    assert!(seen.contains("changed"), "SIGWINCH: {seen:?}");
    session.type_in("\n").await;
    assert_eq!(session.end().await.1, Exit::Code(4));
    assert!(control.resize(size).is_err(), "the handle does not keep the terminal");
}

#[test]
fn sizes_of_clients_are_cut_to_what_a_terminal_can_hold() {
    let size = WindowSize::from_client(0, 0, 70_000, 3);
    assert_eq!((size.columns, size.rows, size.width, size.height), (80, 25, u16::MAX, 3));
    assert_eq!(WindowSize::from_client(u32::MAX, 1, 0, 0).columns, u16::MAX);
}

#[tokio::test]
async fn modes_of_the_client_are_those_of_the_terminal() {
    let modes = TerminalModes::from_pairs([(3, 8), (1, 255), (53, 0), (42, 1), (129, 9600)]);
    let command = shell_command(&account(), "stty -a");
    let (output, exit) = on_terminal(command, WindowSize::default(), &modes).await.end().await;
    assert_eq!(exit, Exit::Code(0));
    for text in
        ["erase = ^H;", "intr = <undef>;", " -echo ", " iutf8", "speed 9600 baud", "rows 25; columns 80"]
    {
        assert!(output.contains(text), "{text}: {output}");
    }
}

#[tokio::test]
async fn all_output_comes_before_the_end() {
    let (output, exit) = shell("head -c 1000000 /dev/zero | tr '\\0' x; exit 255").await.end().await;
    assert_eq!((output.len(), exit), (1_000_000, Exit::Code(255)));
}

#[tokio::test]
async fn large_buffers_are_filled() {
    let mut session = shell("head -c 8000 /dev/zero | tr '\\0' x").await;
    tokio::time::timeout(LIMIT, session.child.wait()).await.unwrap().unwrap();
    let mut buffer = vec![0; 32 * 1024];
    assert_eq!(session.reader.read(&mut buffer).await.unwrap(), 8_000, "at once");
    assert_eq!(session.reader.read(&mut buffer).await.unwrap(), 0);
}

#[tokio::test]
async fn interrupt_is_typed() {
    let mut session = shell("echo ready; exec sleep 1000").await;
    session.until("ready\r\n").await;
    session.type_in("\x03").await;
    let (_, exit) = session.end().await;
    assert_eq!(exit, Exit::Signal { signal: Signal::INT, core_dumped: false });
}

#[tokio::test]
async fn closing_the_terminal_hangs_up() {
    let mut session = shell("echo ready; exec sleep 1000").await;
    session.until("ready\r\n").await;
    let Session { mut child, reader, writer, .. } = session;
    drop((reader, writer));
    let exit = tokio::time::timeout(LIMIT, child.wait()).await.unwrap().unwrap();
    assert_eq!(exit, Exit::Signal { signal: Signal::HUP, core_dumped: false });
}

#[tokio::test]
async fn a_login_shell_knows_that_it_is_one() {
    let account = account();
    let command = Command::login_shell(&account, environment(&account)).unwrap();
    let mut session = on_terminal(command, WindowSize::default(), &TerminalModes::default()).await;
    session.type_in("echo \"<$0>\" \"<$-\"; exit 3\n").await;
    let seen = session.until("<-sh>").await;
    let (rest, exit) = session.end().await;
    assert!((seen + &rest).contains('i'), "interactive");
    assert_eq!(exit, Exit::Code(3));
}
