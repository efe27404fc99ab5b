//! A server of PostgreSQL that lies about its rows: some columns are missing, lengths lead beyond the row, or there is nothing at all in it.
//! A real server behind something that rewrites what it says, so that everything around the lie is as it should be.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use teleport_backend::open_remote;
use teleport_core::clock::SystemClock;
use teleport_core::storage::{BackendExt, Key, Prefix, StorageError};

use crate::remote::said;
use crate::servers::{PATIENCE, Postgres, remote};

/// What becomes of each row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Lie {
    None,
    /// The row says that it has no columns.
    NoColumns,
    /// Fewer columns than the server has announced.
    OneColumnLess,
    /// As many as announced, and the row ends before the last.
    CutShort,
    /// Not even their number.
    Nothing,
    /// The first column is said to be longer than the row.
    TooLong,
}

const LIES: [Lie; 5] = [Lie::NoColumns, Lie::OneColumnLess, Lie::CutShort, Lie::Nothing, Lie::TooLong];

impl Lie {
    /// The body of a row, told otherwise.
    fn tell(self, row: &[u8]) -> Vec<u8> {
        let columns = u16::from_be_bytes([row[0], row[1]]);
        let mut told = row.to_vec();
        match self {
            Self::None => {}
            Self::NoColumns => told = vec![0, 0],
            Self::OneColumnLess => {
                told = (columns - 1).to_be_bytes().to_vec();
                let (mut at, mut rest) = (2, columns - 1);
                while rest > 0 {
                    let len = i32::from_be_bytes(row[at..at + 4].try_into().unwrap());
                    let end = at + 4 + usize::try_from(len).unwrap_or(0);
                    told.extend_from_slice(&row[at..end]);
                    (at, rest) = (end, rest - 1);
                }
            }
            Self::CutShort => told.truncate(row.len() - 1),
            Self::Nothing => told.clear(),
            Self::TooLong => told[2..6].copy_from_slice(&i32::MAX.to_be_bytes()),
        }
        told
    }
}

/// Stands before a server.
struct Liar {
    port: u16,
    lie: Arc<AtomicU8>,
}

impl Liar {
    fn before(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let lie = Arc::new(AtomicU8::new(Lie::None as u8));
        let current = Arc::clone(&lie);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)) else { return };
                let (mut asks, mut passes) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut asks, &mut passes);
                    let _ = passes.shutdown(Shutdown::Both);
                });
                let current = Arc::clone(&current);
                std::thread::spawn(move || {
                    let _ = answers(&server, &client, &current);
                    let _ = client.shutdown(Shutdown::Both);
                });
            }
        });
        Self { port, lie }
    }

    fn tells(&self, lie: Lie) {
        self.lie.store(lie as u8, Ordering::SeqCst);
    }
}

/// Passes on what a server says, message by message: a letter, a length that counts itself, a body.
fn answers(mut server: &TcpStream, mut client: &TcpStream, lie: &AtomicU8) -> std::io::Result<()> {
    loop {
        let mut head = [0; 5];
        server.read_exact(&mut head)?;
        let [kind, length @ ..] = head;
        let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
        server.read_exact(&mut body)?;
        if kind == b'D' {
            let lie = lie.load(Ordering::SeqCst);
            if let Some(lie) = LIES.into_iter().find(|one| *one as u8 == lie) {
                body = lie.tell(&body);
            }
        }
        let mut message = vec![kind];
        message.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
        message.extend_from_slice(&body);
        client.write_all(&message)?;
    }
}

async fn refused<T: std::fmt::Debug>(what: String, call: impl Future<Output = Result<T, StorageError>>) {
    let answer = tokio::time::timeout(PATIENCE, call).await;
    let error = answer.unwrap_or_else(|_| panic!("{what} ends")).expect_err(&what);
    assert!(!error.is_conflict(), "{what}: nothing was decided by such a row: {error:?}");
}

/// Again and again until it succeeds: the time for each attempt is short, and the machine may be busy.
async fn at_last<T, E: std::fmt::Debug>(what: &str, attempt: impl AsyncFn() -> Result<T, E>) -> T {
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(error) => assert!(tokio::time::Instant::now() < until, "{what}: {error:?}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// A row that lies is an error, never a panic and never an answer; and when the server is itself again, so is everything.
#[tokio::test(flavor = "multi_thread")]
async fn i3_rows_that_are_too_short_are_refused() {
    let server = Postgres::start().await;
    let liar = Liar::before(server.port);
    // A lost connection is replaced until the time is over, and such a row counts as one.
    let url = format!("postgres://tester@127.0.0.1:{}/state?schema=s&timeout=2s", liar.port);
    let open = async || open_remote(&url, Arc::new(SystemClock::new()), remote()).await;
    let key = Key::new("a").unwrap();
    let value = |text: &'static str| Bytes::from_static(text.as_bytes());
    let backend = at_last("opening", open).await;
    at_last("a write", async || backend.put(&key, value("1"), None).await).await;
    for lie in LIES {
        liar.tells(lie);
        let root = Prefix::root();
        let ((), (), (), (), other) = tokio::join!(
            refused(format!("{lie:?}: a read"), backend.get(&key)),
            refused(format!("{lie:?}: a list"), backend.range(&root, None, 9)),
            refused(format!("{lie:?}: a watch"), backend.watch(&root)),
            refused(format!("{lie:?}: a creation"), backend.create(&key, value("2"), None)),
            tokio::time::timeout(PATIENCE, open()),
        );
        let error = other.expect("opening ends").map(drop).expect_err("another one cannot open it");
        assert!(!said(&error).contains("panicked"), "{lie:?}: {}", said(&error));
        liar.tells(Lie::None);
        let item = at_last(&format!("{lie:?}: a read, after it"), async || backend.get(&key).await).await;
        assert_eq!(item.expect("it is still there").value, "1", "{lie:?}: nothing was written");
    }
    backend.close().await;
}
