//! The node's side: a process that asks PAM is started, and stands for the session's process.

use std::ffi::CString;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;

use super::wire::{Answer, HEADER, Request, Service, frame, length};
use super::{PamRefusal, PamService};
use crate::sys::accounts::Account;
use crate::sys::child::{Child, Exit};
use crate::sys::pass;
use crate::sys::signal::Signal;
use crate::sys::spawn::Command;

/// How long modules may take before a session.
const LIMIT: Duration = Duration::from_secs(30);
/// How long the process may take for what asks no module.
const SHORT_LIMIT: Duration = Duration::from_secs(20);
/// How long the process may take to end a session's process, beyond what that has.
const END_LIMIT: Duration = Duration::from_secs(10);

/// A program with its arguments, of which the first is its name.
pub(crate) type Program = (PathBuf, Vec<Vec<u8>>);

/// What PAM is asked.
#[derive(Debug)]
pub(crate) struct Opening<'a> {
    pub(crate) service: &'a PamService,
    pub(crate) account: &'a Account,
    pub(crate) client: SocketAddr,
    /// The user of the cluster.
    pub(crate) user: &'a str,
    pub(crate) terminal: Option<&'a Path>,
    /// What modules may know.
    pub(crate) variables: Vec<(String, String)>,
}

/// The process, and the words that come from it.
#[derive(Debug)]
struct Helper {
    control: UnixStream,
    buffer: BytesMut,
    /// Ends by itself when the socket is closed.
    child: Option<Child>,
}

/// A session that is open, in which nothing runs yet. It is closed when this is dropped.
#[derive(Debug)]
pub(crate) struct Opened {
    helper: Helper,
    /// Variables that modules have set.
    pub(crate) variables: Vec<CString>,
    /// What they have said to the user.
    pub(crate) messages: Vec<String>,
}

/// A session's process, which another one has started. Dropping it ends the process and closes the session, without waiting for it.
#[derive(Debug)]
pub(crate) struct PamSession {
    helper: Helper,
    pid: i32,
    exit: Option<Exit>,
}

/// Whether PAM can be used for sessions. `account` is this process's own.
pub(crate) async fn check(
    program: &Program,
    service: &PamService,
    account: &Account,
) -> Result<(), PamRefusal> {
    let mut helper = Helper::start(program, account).await?;
    helper.say(&Request::Check { service: service.into() }).await.map_err(PamRefusal::Helper)?;
    match helper.answer(SHORT_LIMIT).await? {
        Answer::Opened { .. } => Ok(()),
        other => Err(refusal(other)),
    }
}

/// Asks PAM whether a session may begin, and opens it. Dropping the future closes what was opened.
pub(crate) async fn open(program: &Program, opening: Opening<'_>) -> Result<Opened, PamRefusal> {
    let Opening { service, account, client, user, terminal, variables } = opening;
    let mut helper = Helper::start(program, account).await?;
    let request = Request::Open {
        service: service.into(),
        account: account.into(),
        remote_host: client.ip().to_canonical().to_string(),
        remote_user: user.to_owned(),
        terminal: terminal.map(|path| path.to_string_lossy().into_owned()),
        variables,
    };
    helper.say(&request).await.map_err(PamRefusal::Helper)?;
    match helper.answer(LIMIT).await {
        Ok(Answer::Opened { variables, messages }) => {
            let variables = variables.into_iter().filter_map(|entry| CString::new(entry).ok()).collect();
            Ok(Opened { helper, variables, messages })
        }
        Ok(other) => Err(refusal(other)),
        Err(error) => {
            // It hangs: dropped, and so killed.
            drop(helper.child.take());
            Err(error)
        }
    }
}

impl Opened {
    /// Starts the session's process with these descriptors: one terminal, or three.
    pub(crate) async fn start(
        mut self,
        command: Command,
        stdio: Vec<OwnedFd>,
    ) -> Result<PamSession, PamRefusal> {
        let (program, arguments, environment) = command.into_parts();
        let terminal = stdio.len() == 1;
        let start = Request::Start { program, arguments, environment, terminal };
        let handing = async {
            self.helper.say(&start).await?;
            let control = &self.helper.control;
            for descriptor in &stdio {
                control
                    .async_io(Interest::WRITABLE, || {
                        pass::send(control.as_fd(), &[0], Some(descriptor.as_fd()))
                    })
                    .await?;
            }
            Ok::<_, io::Error>(())
        };
        handing.await.map_err(PamRefusal::Helper)?;
        drop(stdio);
        match self.helper.answer(SHORT_LIMIT).await? {
            Answer::Started { pid } => Ok(PamSession { helper: self.helper, pid, exit: None }),
            Answer::NotStarted { reason } => Err(PamRefusal::Helper(io::Error::other(reason))),
            other => Err(refusal(other)),
        }
    }
}

impl PamSession {
    /// The session's process.
    pub(crate) const fn pid(&self) -> i32 {
        self.pid
    }

    /// Waits for the end of the session's process. Cancel safe; later calls answer the same.
    pub(crate) async fn wait(&mut self) -> io::Result<Exit> {
        loop {
            if let Some(exit) = self.exit {
                return Ok(exit);
            }
            if let Answer::Ended { code, signal, core_dumped } = self.helper.next().await? {
                self.exit = Some(match code {
                    Some(code) => Exit::Code(code),
                    None => Exit::Signal { signal: Signal::from_number(signal), core_dumped },
                });
            }
        }
    }

    /// Sends a signal to every process of the group.
    pub(crate) fn signal_group(&self, signal: Signal) -> io::Result<()> {
        let frame = frame(&Request::Signal(signal.number()))?;
        // There is always room for one that is read at once; one that is lost is as one that was ignored.
        self.helper.control.try_write(&frame).map(drop)
    }

    /// Ends the session's processes: hang-up, a while, then kill.
    pub(crate) async fn terminate(&mut self, grace: Duration) -> io::Result<Exit> {
        let _ = self.helper.control.shutdown().await;
        let ended = tokio::time::timeout(grace.saturating_add(END_LIMIT), self.wait()).await;
        ended.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl Helper {
    async fn start((program, arguments): &Program, account: &Account) -> Result<Self, PamRefusal> {
        let (control, theirs) = UnixStream::pair().map_err(PamRefusal::Helper)?;
        let theirs = theirs.into_std().map_err(PamRefusal::Helper)?;
        theirs.set_nonblocking(false).map_err(PamRefusal::Helper)?;
        let command = Command::trusted(account, program, arguments.iter().cloned())?;
        let child = command.spawn_with(theirs.into()).await?;
        Ok(Self { control, buffer: BytesMut::new(), child: Some(child) })
    }

    async fn say(&mut self, request: &Request) -> io::Result<()> {
        self.control.write_all(&frame(request)?).await
    }

    async fn answer(&mut self, limit: Duration) -> Result<Answer, PamRefusal> {
        let answer = tokio::time::timeout(limit, self.next()).await;
        answer.map_err(|_| PamRefusal::Timeout)?.map_err(PamRefusal::Helper)
    }

    /// Cancel safe.
    async fn next(&mut self) -> io::Result<Answer> {
        loop {
            if let Some(header) = self.buffer.first_chunk::<HEADER>() {
                let end = HEADER.saturating_add(length(*header)?);
                if let Some(text) = self.buffer.get(HEADER..end) {
                    let answer = serde_json::from_slice(text)?;
                    drop(self.buffer.split_to(end));
                    return Ok(answer);
                }
            }
            if self.control.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            child.let_go();
        }
    }
}

impl From<&PamService> for Service {
    fn from(service: &PamService) -> Self {
        let directory = service.directory.as_ref().map(|path| path.as_os_str().as_bytes().to_vec());
        Self { name: service.name.clone(), directory }
    }
}

fn refusal(answer: Answer) -> PamRefusal {
    match answer {
        Answer::Refused { reason, messages } => PamRefusal::Denied { reason, messages },
        Answer::Unusable { reason } => PamRefusal::Unusable { reason },
        _ => PamRefusal::Helper(io::ErrorKind::InvalidData.into()),
    }
}
