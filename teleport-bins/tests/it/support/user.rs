//! Users with a password and an authenticator app.

use std::process::Command;
use std::time::Duration;

use teleport_core::clock::{Clock, SystemClock};

use super::program::{Output, own, run_with};
use super::wait_for;

/// How long a one-time code is shown.
pub(crate) const STEP: Duration = Duration::from_secs(30);

/// An authenticator app.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) secret: String,
    last: Option<u64>,
}

impl App {
    pub(crate) fn new(secret: &str) -> Self {
        Self { secret: secret.to_owned(), last: None }
    }

    /// The next code that was not used yet. A code is good from the step before its own to the one after it, so two in a row are
    /// never waited for, and the end of a step does no harm.
    pub(crate) fn code(&mut self) -> String {
        let now = || SystemClock::new().now().unix_secs() / STEP.as_secs();
        let step = self.last.map_or(0, |last| last + 1).max(now());
        wait_for("a fresh one-time code", || (step <= now() + 1).then_some(()));
        self.last = Some(step);
        code_of(&self.secret, step)
    }

    /// The last one that was used, or what the app shows so many seconds from now.
    pub(crate) fn last_code(&self, seconds: i64) -> String {
        let steps = seconds / i64::try_from(STEP.as_secs()).unwrap();
        code_of(&self.secret, self.last.unwrap().checked_add_signed(steps).unwrap())
    }

    /// A code that is wrong now.
    pub(crate) fn wrong_code(&self) -> String {
        let now = SystemClock::new().now().unix_secs() / STEP.as_secs();
        let right: Vec<String> = (now - 2..now + 4).map(|step| code_of(&self.secret, step)).collect();
        (0..).map(|number| format!("{number:06}")).find(|code| !right.contains(code)).unwrap()
    }
}

fn code_of(secret: &str, step: u64) -> String {
    let secret = totp_rs::Secret::try_from_base32(secret).expect("a secret in base32");
    let totp = totp_rs::Builder::new().with_secret(secret).build().unwrap();
    totp.generate(step * STEP.as_secs()).to_string()
}

/// A user who has accepted an invite.
#[derive(Debug)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) password: String,
    pub(crate) app: App,
}

impl User {
    /// Accepts the invite in what `tctl users add` or `tctl users reset` printed, by `tsh accept` with a home of its own.
    #[track_caller]
    pub(crate) fn accept(name: &str, printed: &str, home: &std::path::Path) -> Self {
        let link = link(printed);
        // The program tells the secret before it asks; a person types the code then.
        let mut command = own("tsh");
        command.arg("accept").arg(&link).env("TELEPORT_HOME", home);
        let (program, secret) = Asking::begin(command);
        let mut user =
            Self { name: name.to_owned(), password: format!("correct horse {name}"), app: App::new(&secret) };
        let code = user.app.code();
        let output = program.end(&[&user.password, &code]);
        assert!(output.status.success() && output.out().contains("Done. Log in with:"), "{output:?}");
        user
    }

    /// `tsh login` as this user, with further arguments.
    #[track_caller]
    pub(crate) fn login(&mut self, tsh: Command) -> Output {
        let code = self.app.code();
        self.login_by(tsh, &code)
    }

    /// The same with this code.
    #[track_caller]
    pub(crate) fn login_by(&self, mut tsh: Command, code: &str) -> Output {
        tsh.arg(format!("--user={}", self.name));
        run_with(tsh, format!("{}\n{code}\n", self.password).as_bytes())
    }
}

/// The link in what a program printed.
#[track_caller]
pub(crate) fn link(printed: &str) -> String {
    let line = printed.lines().find(|line| line.starts_with("https://"));
    line.unwrap_or_else(|| panic!("a link: {printed}")).to_owned()
}

/// A `tsh` that has printed the secret of a second factor and waits for answers.
pub(crate) struct Asking {
    child: std::process::Child,
    printed: std::thread::JoinHandle<Vec<u8>>,
}

impl Asking {
    /// Starts it and reads the secret that it prints.
    pub(crate) fn begin(mut command: Command) -> (Self, String) {
        use std::io::{BufRead, BufReader, Read};
        use std::process::Stdio;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let (mut before, mut secret) = (String::new(), None);
        while secret.is_none() {
            let mut line = String::new();
            if stdout.read_line(&mut line).unwrap() == 0 {
                let mut stderr = String::new();
                child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
                panic!("no secret: {before} {stderr}");
            }
            secret = line
                .strip_prefix("or type the secret into it:  ")
                .map(|rest| rest.split_whitespace().next().unwrap().to_owned());
            before.push_str(&line);
        }
        let printed = std::thread::spawn(move || {
            let mut bytes = before.into_bytes();
            stdout.read_to_end(&mut bytes).unwrap();
            bytes
        });
        (Self { child, printed }, secret.unwrap())
    }

    /// Answers its questions.
    pub(crate) fn end(mut self, answers: &[&str]) -> Output {
        use std::io::{Read, Write};
        let mut stdin = self.child.stdin.take().unwrap();
        for answer in answers {
            writeln!(stdin, "{answer}").unwrap();
        }
        drop(stdin);
        let stdout = self.printed.join().unwrap();
        let mut stderr = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        Output { status: self.child.wait().unwrap(), stdout, stderr }
    }
}
