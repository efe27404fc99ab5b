//! A real terminal, by tmux: keys go in, the screen comes out.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use super::program::run;
use super::wait_for;

/// A terminal of 100 columns and 30 rows. It ends with the value.
pub(crate) struct Terminal {
    socket: PathBuf,
    dir: TempDir,
}

impl Terminal {
    /// Opens one in which a shell runs this line.
    pub(crate) fn open(line: &str) -> Self {
        let dir = TempDir::with_prefix("tp-tmux-").unwrap();
        let this = Self { socket: dir.path().join("socket"), dir };
        // What it ended with is written to a file; `cat` keeps the screen to be looked at.
        let script = this.dir.path().join("script");
        let status = this.dir.path().join("status");
        std::fs::write(
            &script,
            format!("{line}\necho $? > {0}.new; mv {0}.new {0}; exec cat\n", status.display()),
        )
        .unwrap();
        let shell = format!("sh {}", script.display());
        run(this.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", "100", "-y", "30", &shell])).clean();
        this
    }

    fn tmux(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(&self.socket).args(arguments).env_remove("TMUX").env("LC_ALL", "C.UTF-8");
        command
    }

    /// Asks tmux, or tells it something; returns what it says.
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        run(self.tmux(arguments)).clean()
    }

    /// Types a line.
    pub(crate) fn type_line(&self, line: &str) {
        run(self.tmux(&["send-keys", "-l", line])).clean();
        run(self.tmux(&["send-keys", "Enter"])).clean();
    }

    /// Presses a key, such as `C-c` or `q`.
    pub(crate) fn press(&self, key: &str) {
        run(self.tmux(&["send-keys", key])).clean();
    }

    /// Changes its size.
    pub(crate) fn resize(&self, columns: u16, rows: u16) {
        let (columns, rows) = (columns.to_string(), rows.to_string());
        run(self.tmux(&["resize-window", "-x", &columns, "-y", &rows])).clean();
    }

    /// What is on the screen and above it.
    pub(crate) fn screen(&self) -> String {
        run(self.tmux(&["capture-pane", "-p", "-J", "-S", "-500"])).out().to_owned()
    }

    /// Waits until a text was shown so many times.
    #[track_caller]
    pub(crate) fn wait_for(&self, text: &str, times: usize) -> String {
        let mut last = String::new();
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_for("the screen", || {
                last = self.screen();
                (last.matches(text).count() >= times).then(|| last.clone())
            })
        }));
        found.unwrap_or_else(|_| panic!("{text:?} {times} times on the screen:\n{last}"))
    }

    /// Waits until the line that it runs has ended; returns the status.
    pub(crate) fn ended(&self) -> i32 {
        let file = self.dir.path().join("status");
        wait_for("the end of the terminal's program", || std::fs::read_to_string(&file).ok())
            .trim()
            .parse()
            .unwrap()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.tmux(&["kill-server"]).output();
    }
}
