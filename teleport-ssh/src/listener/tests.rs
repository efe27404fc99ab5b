#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]
use std::net::Ipv4Addr;

use teleport_core::testing::{NoEntropy, RepeatableEntropy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

fn local() -> (TcpListener, SocketAddr) {
    let listener = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn door() -> Door {
    Door::new(Limits { penalties: false, ..Limits::default() }, Arc::new(RepeatableEntropy::new(1)))
}

#[tokio::test]
async fn a_panic_ends_one_connection_and_is_counted() {
    let (listener, address) = local();
    let (door, shutdown) = (door(), Shutdown::new());
    let scope = TaskScope::new();
    scope.spawn(serve(listener, door.clone(), shutdown, |accepted| async move {
        let mut accepted = accepted;
        let byte = accepted.stream.read_u8().await.unwrap();
        assert_ne!(byte, b'!', "expected by the test");
        accepted.admitted.record(Outcome::Authenticated);
        accepted.stream.write_u8(byte).await.unwrap();
    }));
    let mut bad = TcpStream::connect(address).await.unwrap();
    bad.write_u8(b'!').await.unwrap();
    assert_eq!(bad.read(&mut [0]).await.unwrap_or_default(), 0);
    let mut good = TcpStream::connect(address).await.unwrap();
    good.write_u8(b'x').await.unwrap();
    assert_eq!(good.read_u8().await.unwrap(), b'x');
    assert_eq!((door.counts().panics, door.counts().accepted), (1, 2));
}

#[tokio::test]
async fn draining_refuses_newcomers_and_waits_and_aborting_does_not_wait() {
    let (listener, address) = local();
    let shutdown = Shutdown::new();
    let serving = serve(listener, door(), shutdown.clone(), |accepted| async move {
        let mut accepted = accepted;
        accepted.stream.write_u8(b'x').await.unwrap();
        std::future::pending::<()>().await;
    });
    let mut serving = std::pin::pin!(serving);
    let mut held = tokio::select! {
        () = &mut serving => panic!("ended"),
        held = async {
            let mut held = TcpStream::connect(address).await.unwrap();
            assert_eq!(held.read_u8().await.unwrap(), b'x');
            held
        } => held,
    };
    shutdown.drain();
    assert!(
        tokio::time::timeout(Duration::from_millis(50), &mut serving).await.is_err(),
        "one is still here"
    );
    assert!(TcpStream::connect(address).await.is_err());
    shutdown.abort();
    tokio::time::timeout(Duration::from_secs(10), serving).await.unwrap();
    assert_eq!(held.read(&mut [0]).await.unwrap_or_default(), 0);
}

#[tokio::test]
async fn a_busy_port_is_named() {
    let (_listener, address) = local();
    let error = bind(address).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot listen on {address}"));
    assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
}

#[tokio::test]
async fn without_dice_the_limit_is_strict() {
    let limits = Limits { startup_begin: 1, ..Limits::default() };
    let door = Door::new(limits, Arc::new(NoEntropy));
    let first = door.admit(IpAddr::from([192, 0, 2, 1])).unwrap();
    assert!(door.admit(IpAddr::from([192, 0, 2, 2])).is_none());
    drop(first);
    assert!(door.admit(IpAddr::from([192, 0, 2, 2])).is_some());
}

#[test]
fn errors_of_accept_are_told_apart() {
    let of = |code| is_of_one_connection(&io::Error::from_raw_os_error(code));
    assert!(of(libc::ECONNABORTED) && of(libc::EINTR) && of(libc::ENETDOWN));
    assert!(!of(libc::EMFILE) && !of(libc::ENFILE) && !of(libc::ENOMEM) && !of(libc::ENOBUFS));
}
