#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]
use teleport_core::task::TaskScope;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::sftp::request::{Extension, Request};
use crate::sftp::wire::{Attributes, Code, OpenFlags, Packet, kind};

/// A server that says what a test makes it say.
pub(crate) struct Said(pub(crate) Vec<u8>);

impl Said {
    pub(crate) fn status(id: u32, code: Code) -> Self {
        let mut out = Vec::new();
        Packet::answer(&mut out, kind::STATUS, id).u32(code as u32).string("\x1b[31mwords").string("");
        Self(out)
    }

    pub(crate) fn handle(id: u32, handle: &[u8]) -> Self {
        let mut out = Vec::new();
        Packet::answer(&mut out, kind::HANDLE, id).string(handle);
        Self(out)
    }

    pub(crate) fn data(id: u32, data: &[u8]) -> Self {
        let mut out = Vec::new();
        Packet::answer(&mut out, kind::DATA, id).string(data);
        Self(out)
    }

    pub(crate) fn attributes(id: u32, mode: u32, size: u64) -> Self {
        let mut out = Vec::new();
        let attributes = Attributes { mode: Some(mode), size: Some(size), ..Attributes::default() };
        Packet::answer(&mut out, kind::ATTRS, id).attributes(&attributes);
        Self(out)
    }

    pub(crate) fn names(id: u32, names: &[(&[u8], u32)]) -> Self {
        let mut out = Vec::new();
        let mut packet = Packet::answer(&mut out, kind::NAME, id);
        packet.u32(names.len() as u32);
        for (name, mode) in names {
            let attributes = Attributes { mode: Some(*mode), size: Some(4), ..Attributes::default() };
            packet.string(name).string("").attributes(&attributes);
        }
        drop(packet);
        Self(out)
    }
}

/// A client of a server whose answers `act` gives, to each request and its number. The server ends with the scope.
pub(crate) async fn client_of(
    act: impl FnMut(u32, Request<'_>) -> Vec<Said> + Send + 'static,
) -> (Result<Sftp, SftpError>, TaskScope) {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let scope = TaskScope::new();
    scope.spawn(async move {
        let _ = serve(theirs, act).await;
    });
    let (reader, writer) = tokio::io::split(ours);
    (Sftp::over(reader, writer).await, scope)
}

async fn packet(stream: &mut DuplexStream) -> std::io::Result<Vec<u8>> {
    let length = stream.read_u32().await?;
    let mut packet = vec![0; length as usize];
    stream.read_exact(&mut packet).await?;
    Ok(packet)
}

async fn serve(
    mut stream: DuplexStream,
    mut act: impl FnMut(u32, Request<'_>) -> Vec<Said>,
) -> std::io::Result<()> {
    packet(&mut stream).await?;
    let mut hello = Vec::new();
    let mut version = Packet::begin(&mut hello, kind::VERSION);
    version.u32(3).string("expand-path@openssh.com").string("1");
    drop(version);
    stream.write_all(&hello).await?;
    loop {
        let packet = packet(&mut stream).await?;
        let (id, request) = Request::parse(&packet);
        for Said(answer) in act(id.unwrap(), request.unwrap()) {
            stream.write_all(&answer).await?;
        }
    }
}

/// What every server here does that is not about something else.
fn plain(id: u32, request: Request<'_>) -> Vec<Said> {
    vec![match request {
        Request::Open { .. } => Said::handle(id, b"h"),
        Request::Close { .. } => Said::status(id, Code::Ok),
        other => panic!("{other:?}"),
    }]
}

async fn opened(act: impl FnMut(u32, Request<'_>) -> Vec<Said> + Send + 'static) -> (RemoteFile, TaskScope) {
    let (sftp, scope) = client_of(act).await;
    (sftp.unwrap().open(b"f", OpenFlags::READ, None).await.unwrap(), scope)
}

async fn all(mut reads: Reads) -> Result<Vec<u8>, SftpError> {
    let mut bytes = Vec::new();
    while let Some(piece) = reads.next().await? {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index / 7 % 251) as u8).collect()
}

#[tokio::test]
async fn answers_may_come_in_any_order_and_be_short() {
    const LENGTH: usize = 1_000_003;
    let whole = content(LENGTH);
    let source = whole.clone();
    let mut held: Vec<Said> = Vec::new();
    let (file, _scope) = opened(move |id, request| match request {
        Request::Read { offset, length, .. } => {
            let from = (offset as usize).min(LENGTH);
            let to = (from + length as usize).min(LENGTH);
            // Every third answer is short; the first half is held back and comes in reverse.
            let to = if id.is_multiple_of(3) { to.min(from + 1000) } else { to };
            held.push(match to - from {
                0 => Said::status(id, Code::Eof),
                _ => Said::data(id, &source[from..to]),
            });
            let holds = length == 32 << 10 && offset < 500_000;
            if holds { Vec::new() } else { held.drain(..).rev().collect() }
        }
        other => plain(id, other),
    })
    .await;
    assert!(all(file.reads(0, Some(LENGTH as u64))).await.unwrap() == whole);
}

#[tokio::test]
async fn a_file_without_a_length_is_read_to_its_end() {
    let whole = content(300_000);
    let source = whole.clone();
    let (file, _scope) = opened(move |id, request| match request {
        Request::Read { offset, length, .. } => {
            let rest = source.get(offset as usize..).unwrap_or_default();
            match &rest[..rest.len().min(length as usize)] {
                [] => vec![Said::status(id, Code::Eof)],
                data => vec![Said::data(id, data)],
            }
        }
        other => plain(id, other),
    })
    .await;
    assert!(all(file.reads(0, None)).await.unwrap() == whole);
}

#[tokio::test]
async fn writes_are_all_answered_for() {
    let (sum, told) = (std::sync::Arc::new(std::sync::Mutex::new(0)), content(1 << 20));
    let written = std::sync::Arc::clone(&sum);
    let (file, _scope) = opened(move |id, request| match request {
        Request::Write { offset, data, .. } => {
            assert_eq!(data, &content(1 << 20)[offset as usize..offset as usize + data.len()]);
            *written.lock().unwrap() += data.len();
            // The last one fails, which is heard only in the end.
            let last = offset as usize + data.len() == 1 << 20;
            vec![Said::status(id, if last { Code::Failure } else { Code::Ok })]
        }
        other => plain(id, other),
    })
    .await;
    let mut writes = file.writes(0);
    let put = writes.put(&told).await;
    let failed = match put {
        Ok(()) => writes.finish().await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!((*sum.lock().unwrap(), failed.to_string()), (1 << 20, "[31mwords".to_owned()));
    assert!(!failed.is_final());
}

/// What a server says to a read of 10 bytes, and what becomes of that.
async fn read_of_ten(answer: fn(u32) -> Vec<Said>) -> SftpError {
    let (file, _scope) = opened(move |id, request| match request {
        Request::Read { .. } => answer(id),
        other => plain(id, other),
    })
    .await;
    all(file.reads(0, Some(10))).await.unwrap_err()
}

#[tokio::test]
async fn g5_answers_that_nobody_asked_for_end_the_connection() {
    for answer in [
        // A number that nobody waits for, or that has been answered.
        (|id| vec![Said::data(id + 1, b"0123456789")]) as fn(u32) -> Vec<Said>,
        |id| vec![Said::status(id.wrapping_sub(1), Code::Ok)],
        // Longer than any answer to this can be.
        |id| vec![Said::data(id, &[7; 100_000])],
        |_| vec![Said(vec![0xff; 64])],
        |_| vec![Said(vec![0, 0, 0, 0])],
        |_| vec![Said(vec![0, 0, 0, 1, 103])],
    ] {
        let error = read_of_ten(answer).await;
        assert!(matches!(error, SftpError::Protocol(_)) && error.is_final(), "{error:?}");
    }
}

#[tokio::test]
async fn g5_answers_of_another_kind_or_length_are_refused() {
    for answer in [
        (|id| vec![Said::data(id, b"0123456789a")]) as fn(u32) -> Vec<Said>,
        |id| vec![Said::data(id, b"")],
        |id| vec![Said::handle(id, b"h")],
        |id| vec![Said::status(id, Code::Ok)],
        |id| vec![Said::names(id, &[(b"x", 0)])],
        |id| {
            let Said(mut packet) = Said::data(id, b"012345");
            // It says more than it has.
            packet[12] = 9;
            vec![Said(packet)]
        },
    ] {
        assert!(matches!(read_of_ten(answer).await, SftpError::Protocol(_)));
    }
    let refused = read_of_ten(|id| vec![Said::status(id, Code::PermissionDenied)]).await;
    assert_eq!(refused.to_string(), "permission denied");
}

#[tokio::test]
async fn g5_paths_and_handles_are_bounded() {
    let (sftp, _scope) = client_of(|id, request| {
        vec![match request {
            Request::Extended(Extension::ExpandPath { path: b"~two" }) => {
                Said::names(id, &[(b"a", 0), (b"b", 0)])
            }
            Request::Extended(Extension::ExpandPath { path: b"~zero" }) => Said::names(id, &[(b"a\0b", 0)]),
            Request::Extended(Extension::ExpandPath { .. }) => Said::names(id, &[(b"", 0)]),
            Request::Open { .. } => Said::handle(id, &[b'h'; 257]),
            other => panic!("{other:?}"),
        }]
    })
    .await;
    let sftp = sftp.unwrap();
    for path in [&b"~two"[..], b"~zero", b"~empty"] {
        assert!(matches!(sftp.expand(path).await, Err(SftpError::Protocol(_))));
    }
    assert!(matches!(sftp.open(b"f", OpenFlags::READ, None).await, Err(SftpError::Protocol(_))));
}

#[tokio::test]
async fn who_is_gone_answers_nothing() {
    let (sftp, scope) = client_of(|_, _| Vec::new()).await;
    let sftp = sftp.unwrap();
    let waiting = sftp.stat(b"/");
    let (told, ()) = tokio::join!(waiting, scope.abort());
    assert_eq!(told, Err(SftpError::Closed));
    assert_eq!(sftp.stat(b"/").await, Err(SftpError::Closed));
    // A server that is another program.
    let (ours, mut theirs) = tokio::io::duplex(1024);
    theirs.write_all(b"\0\0\0\x05\x02\0\0\0\x06").await.unwrap();
    let (reader, writer) = tokio::io::split(ours);
    assert!(matches!(Sftp::over(reader, writer).await, Err(SftpError::Protocol(_))));
}

#[tokio::test]
async fn our_own_server_is_understood() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    let (to, from) =
        (std::os::unix::net::UnixStream::pair().unwrap(), std::os::unix::net::UnixStream::pair().unwrap());
    let (input, output) = (to.1, from.1);
    let server = std::thread::spawn(move || crate::sftp::serve(input, output));
    let stream = |socket: std::os::unix::net::UnixStream| {
        socket.set_nonblocking(true).unwrap();
        tokio::net::UnixStream::from_std(socket).unwrap()
    };
    let sftp = Sftp::over(stream(from.0), stream(to.0)).await.unwrap();
    // It says that it takes more than those that say nothing.
    assert_eq!(sftp.0.most.0 as usize, crate::sftp::wire::MAX_DATA);
    let name = path.to_str().unwrap().as_bytes();
    let whole = content(6_000_001);
    let file = sftp.open(name, OpenFlags::WRITE | OpenFlags::CREATE, Some(0o600)).await.unwrap();
    let mut writes = file.writes(0);
    writes.put(&whole).await.unwrap();
    writes.finish().await.unwrap().close().await.unwrap();
    assert!(std::fs::read(&path).unwrap() == whole);
    let file = sftp.open(name, OpenFlags::READ, None).await.unwrap();
    assert!(all(file.reads(1, Some(6_000_001))).await.unwrap() == whole[1..]);
    drop(sftp);
    tokio::task::spawn_blocking(|| server.join().unwrap()).await.unwrap().unwrap();
}

/// The server of OpenSSH, which the package of `sshd` brings.
#[tokio::test]
async fn the_stock_server_is_understood() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    let mut server = tokio::process::Command::new("/usr/lib/openssh/sftp-server")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("openssh-sftp-server is installed");
    let sftp = Sftp::over(server.stdout.take().unwrap(), server.stdin.take().unwrap()).await.unwrap();
    assert!(sftp.0.can.expand_path && sftp.0.most.0 > 32 << 10, "{sftp:?}");
    let name = path.to_str().unwrap().as_bytes();
    let whole = content(5_000_001);
    let file = sftp.open(name, OpenFlags::WRITE | OpenFlags::CREATE, Some(0o600)).await.unwrap();
    let mut writes = file.writes(0);
    writes.put(&whole).await.unwrap();
    let file = writes.finish().await.unwrap();
    let times = Attributes { times: Some((1, 1_000_000_000)), ..Attributes::default() };
    file.set(&times).await.unwrap();
    file.close().await.unwrap();
    let told = sftp.stat(name).await.unwrap();
    assert_eq!((told.size, told.times), (Some(5_000_001), times.times));
    for end in [None, Some(5_000_001)] {
        let file = sftp.open(name, OpenFlags::READ, None).await.unwrap();
        assert!(all(file.reads(3, end)).await.unwrap() == whole[3..]);
    }
    let mut listing = sftp.open_dir(dir.path().to_str().unwrap().as_bytes()).await.unwrap();
    let listed = listing.next().await.unwrap().unwrap();
    assert!(listed.iter().any(|entry| entry.name == b"f"));
    assert_eq!(listing.next().await, Ok(None));
    assert!(sftp.stat(b"/no/such").await.unwrap_err().is_missing());
    assert!(sftp.expand(b"~root").await.unwrap().starts_with(b"/"));
}
