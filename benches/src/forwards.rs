//! Forwarded connections: a thousand at a time over one stock `ssh -N`, and the bytes of one beside those of a session.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use teleport_core::task::TaskScope;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::Scale;
use crate::load::Way;
use crate::report::{Goal, Row, median};
use crate::sessions::{Both, percentile, stock};

const MB: f64 = 1_000_000.0;
/// Longer than this, and a connection has stalled.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server that sends back what it gets, or as many zeros as eight bytes ask for.
struct Far {
    address: SocketAddr,
    _tasks: Arc<TaskScope>,
}

impl Far {
    async fn start(zeros: bool) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, tasks) = (listener.local_addr()?, Arc::new(TaskScope::new()));
        let scope = Arc::downgrade(&tasks);
        tasks.spawn(async move {
            while let (Ok((stream, _)), Some(scope)) = (listener.accept().await, scope.upgrade()) {
                scope.spawn(async move {
                    // Whoever goes early hears no more.
                    let _ = if zeros { send_zeros(stream).await } else { send_back(stream).await };
                });
            }
        });
        Ok(Self { address, _tasks: tasks })
    }
}

async fn send_zeros(mut stream: TcpStream) -> std::io::Result<()> {
    let bytes = stream.read_u64().await?;
    tokio::io::copy_buf(
        &mut BufReader::with_capacity(128 << 10, tokio::io::repeat(0)).take(bytes),
        &mut stream,
    )
    .await?;
    stream.shutdown().await
}

async fn send_back(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut from, mut to) = stream.split();
    tokio::io::copy(&mut from, &mut to).await.map(drop)
}

/// `ssh -N -L`, which ends with this.
struct Tunnel {
    ssh: Child,
    address: SocketAddr,
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let _ = self.ssh.kill();
        let _ = self.ssh.wait();
    }
}

impl Tunnel {
    async fn start(key: &Path, way: &Way, to: SocketAddr) -> Result<Self> {
        // As a server that cannot say on which port it listens.
        let free = std::net::TcpListener::bind("127.0.0.1:0")?;
        let address = free.local_addr()?;
        drop(free);
        let mut ssh = stock(key, way, None)?;
        ssh.args(["-N", "-o", "ExitOnForwardFailure=yes", "-L"]).arg(format!("{address}:{to}"));
        let tunnel = Self { ssh: ssh.stdin(Stdio::null()).spawn()?, address };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(address).await.is_err() {
            ensure!(Instant::now() < deadline, "ssh does not listen");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(tunnel)
    }

    async fn connect(&self) -> Result<TcpStream> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// So many connections, all open, each with something on its way all the time. The milliseconds of each round trip.
async fn round_trips(tunnel: &Tunnel, connections: usize, rounds: usize) -> Result<Vec<f64>> {
    let mut streams = Vec::new();
    for _ in 0..connections {
        let mut stream = tunnel.connect().await?;
        // It is there when the far end has answered.
        tokio::time::timeout(PATIENCE, trip(&mut stream)).await.context("a connection stalls")??;
        streams.push(stream);
    }
    let all = streams.into_iter().map(|mut stream| async move {
        let mut times = Vec::new();
        for _ in 0..rounds {
            times.push(
                tokio::time::timeout(PATIENCE, trip(&mut stream)).await.context("a connection stalls")??,
            );
        }
        anyhow::Ok(times)
    });
    Ok(try_join_all(all).await?.concat())
}

async fn trip(stream: &mut TcpStream) -> Result<f64> {
    let (began, mut bytes) = (Instant::now(), [7; 64]);
    stream.write_all(&bytes).await?;
    stream.read_exact(&mut bytes).await?;
    Ok(began.elapsed().as_secs_f64() * 1000.0)
}

/// MB/s of so many bytes over one connection.
async fn bulk(tunnel: &Tunnel, bytes: u64) -> Result<f64> {
    let mut stream = tunnel.connect().await?;
    let began = Instant::now();
    stream.write_u64(bytes).await?;
    let mut piece = vec![0; 256 << 10];
    let mut taken = 0;
    loop {
        match stream.read(&mut piece).await? {
            0 => break,
            read => taken += read as u64,
        }
    }
    ensure!(taken == bytes, "the forward ended too early");
    Ok(bytes as f64 / MB / began.elapsed().as_secs_f64())
}

/// MB/s of so many bytes that a command prints, taken as those of a forward are.
async fn session(key: &Path, way: &Way, bytes: u64) -> Result<f64> {
    let mut ssh = tokio::process::Command::from(stock(key, way, None)?);
    let mut ssh =
        ssh.arg(format!("head -c {bytes} /dev/zero")).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut shown = ssh.stdout.take().context("stdout is a pipe")?;
    let began = Instant::now();
    let mut piece = vec![0; 256 << 10];
    let mut taken = 0;
    loop {
        match shown.read(&mut piece).await? {
            0 => break,
            read => taken += read as u64,
        }
    }
    ensure!(ssh.wait().await?.success() && taken == bytes, "the session ended too early");
    Ok(bytes as f64 / MB / began.elapsed().as_secs_f64())
}

/// A thousand connections at a time, and one as fast as it goes.
///
/// # Errors
/// What fails, a connection that stalls for half a minute among it.
pub async fn run(scale: Scale) -> Result<Vec<Row>> {
    let both = Both::start().await?;
    let (echo, zeros) = (Far::start(false).await?, Far::start(true).await?);
    let (key, runs) = (both.key.as_path(), scale.of(3, 1));
    let (connections, bytes) = (scale.of(1000, 20), scale.of(1_000_000_000, 10_000_000));
    let mut rows = Vec::new();
    for (ours, theirs, how) in both.ways() {
        let (mut middle, mut last) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        for _ in 0..runs {
            for (side, way) in [&ours, &theirs].into_iter().enumerate() {
                let tunnel = Tunnel::start(key, way, echo.address).await?;
                let times = round_trips(&tunnel, connections, scale.of(20, 2)).await?;
                if let (Some(middle), Some(last)) = (middle.get_mut(side), last.get_mut(side)) {
                    last.push(percentile(&times, 99.0));
                    middle.push(median(times));
                }
            }
        }
        let [our_middle, their_middle] = middle.map(median);
        let [our_last, their_last] = last.map(median);
        rows.push(Row::against(
            format!("round trip on {connections} forwarded connections at a time, {how}"),
            "ms",
            our_middle,
            ("sshd", their_middle),
            Goal::AtMost(1.0),
        ));
        rows.push(Row::against(
            "  the hundredth part that takes longest, from",
            "ms",
            our_last,
            ("sshd", their_last),
            Goal::AtMost(1.0),
        ));
        let mut speeds = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..runs {
            let [forward, by_session, their_forward] = &mut speeds;
            forward.push(bulk(&Tunnel::start(key, &ours, zeros.address).await?, bytes).await?);
            by_session.push(session(key, &ours, bytes).await?);
            their_forward.push(bulk(&Tunnel::start(key, &theirs, zeros.address).await?, bytes).await?);
        }
        let [forward, by_session, their_forward] = speeds.map(median);
        rows.push(Row::against(
            format!("download over a forward, {how}"),
            "MB/s",
            forward,
            ("session", by_session),
            Goal::AtLeast(1.0),
        ));
        rows.push(Row::against("  the same", "MB/s", forward, ("sshd", their_forward), Goal::AtLeast(1.0)));
    }
    Ok(rows)
}
