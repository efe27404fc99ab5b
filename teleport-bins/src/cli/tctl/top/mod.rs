//! `tctl top`: what a daemon does now, from its port for diagnostics.

mod page;
mod sample;

use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;

use self::page::Page;
use self::sample::Sample;
use super::super::{Format, print_text};

/// The longest answer that is read.
const MAX_PAGE: usize = 16 << 20;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(super) struct Top {
    /// Where the daemon answers about itself: its --diag-addr
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:3000", value_parser = address)]
    diag_addr: String,
    /// How often it is asked; rates are those of this time
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = interval)]
    interval: Duration,
    /// How to print. JSON and YAML, and text that no terminal shows, are one sample
    #[arg(short, long, value_enum, default_value_t)]
    format: Format,
}

/// As a listening address, or as the URL of it.
fn address(text: &str) -> Result<String, String> {
    let address = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    match address.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(address.to_owned()),
        _ => Err("it has the form host:port".to_owned()),
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = crate::config::parse_duration(text).map_err(|error| error.to_string())?;
    if interval.is_zero() { Err("it is longer than nothing".to_owned()) } else { Ok(interval) }
}

/// Until it is interrupted, or once.
pub(super) async fn run(options: Top) -> Result<()> {
    let address = options.diag_addr.as_str();
    let mut before = (Instant::now(), fetch(address).await?);
    let goes_on = options.format == Format::Text && std::io::stdout().is_terminal();
    loop {
        tokio::time::sleep(options.interval).await;
        let now = (Instant::now(), fetch(address).await?);
        let sample = Sample::new(&before.1, &now.1, now.0 - before.0);
        if !goes_on {
            return options.format.print(&sample, || sample.text());
        }
        let mut screen = std::io::stdout();
        crossterm::execute!(
            screen,
            crossterm::terminal::Clear(crossterm::terminal::ClearType::All),
            crossterm::cursor::MoveTo(0, 0)
        )?;
        print_text(&crate::cli::output::fit(&sample.text()))?;
        screen.flush()?;
        before = now;
    }
}

async fn fetch(address: &str) -> Result<Page> {
    match tokio::time::timeout(PATIENCE, get(address)).await {
        Ok(page) => Page::parse(&page?).with_context(|| {
            format!("what answers at {address} is not the diagnostics of a teleport daemon")
        }),
        Err(_) => bail!("{address} has not answered for {} s", PATIENCE.as_secs()),
    }
}

async fn get(address: &str) -> Result<String> {
    let stream = TcpStream::connect(address).await.with_context(|| {
        format!("no diagnostics at {address}: start the daemon with --diag-addr, or say where they are with the same option here")
    })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get("/metrics").header(hyper::header::HOST, address).body(Empty::<Bytes>::new())?;
    let asked = async {
        let answer = sender.send_request(request).await?;
        ensure!(answer.status().is_success(), "{address} answers {}", answer.status());
        let body = Limited::new(answer.into_body(), MAX_PAGE).collect().await;
        let body =
            body.map_err(|error| anyhow::anyhow!("the answer of {address} cannot be read: {error}"))?;
        Ok(String::from_utf8(body.to_bytes().into())?)
    };
    let (answer, _) = tokio::join!(asked, connection);
    answer
}
