//! `tsh latency`: round trips, over the connections that a session would have.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Value, json};
use teleport_ssh::client::terminal::Ending;
use teleport_ssh::client::{ConnectError, NodeConnection};
use tokio::time::Instant;

use super::super::Format;
use super::common::Context;
use super::ssh::{default_login, split_login, target};

/// How many round trips are in a document, if nobody says.
const DOCUMENT: u32 = 10;

#[derive(Debug, Args)]
pub(super) struct Latency {
    /// The node, as for tsh ssh
    #[arg(value_name = "[LOGIN@]NODE")]
    target: String,
    /// End after so many [default: never; 10 for json and yaml]
    #[arg(short, long, value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,
    /// Seconds between two
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    interval: Duration,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    format: Format,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || "say seconds, as in 0.5".to_owned();
    let seconds = text.parse().map_err(|_| wrong())?;
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

/// Round trips of both kinds, in milliseconds.
#[derive(Debug, Default)]
struct Seen {
    proxy: Vec<f64>,
    node: Vec<f64>,
}

pub(super) async fn run(context: &Context, latency: Latency) -> Result<ExitCode> {
    let profile = context.profile()?;
    let (login, host) = split_login(&latency.target)?;
    let login = login.map_or_else(|| default_login(&profile), Ok)?;
    let target = target::one(context, &profile, host, None, None).await?;
    let client = context.ssh_once(&profile);
    let proxy = client.proxy(&profile.ssh_address).await?;
    let node = match client.node(proxy, &target, &login).await {
        Ok(node) => node,
        Err(error) => return Err(target::refused(context, &profile, &target, error).await),
    };
    let text = latency.format == Format::Text;
    let count = latency.count.or((!text).then_some(DOCUMENT));
    let mut seen = Seen::default();
    let mut ending = Ending::listen()?;
    tokio::select! {
        measured = measure(&node, count, latency.interval, text, &mut seen) => measured?,
        _ = ending.next() => {}
    }
    node.disconnect().await;
    if seen.node.is_empty() {
        bail!("nothing was measured");
    }
    let document = json!({
        "target": target.to_string(), "node": node.host().name.to_string(),
        "proxy_ms": summary(&seen.proxy), "node_ms": summary(&seen.node),
    });
    latency.format.print(&document, || {
        format!(
            "{} round trips\n{}\n{}",
            seen.node.len(),
            line("proxy", &seen.proxy),
            line("node", &seen.node)
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn measure(
    node: &NodeConnection,
    count: Option<u32>,
    interval: Duration,
    print: bool,
    seen: &mut Seen,
) -> Result<(), ConnectError> {
    let mut ticks = tokio::time::interval(interval.max(Duration::from_millis(1)));
    let mut done = 0;
    while count.is_none_or(|count| done < count) {
        ticks.tick().await;
        let begun = Instant::now();
        if let Some(proxy) = node.proxy() {
            proxy.ping().await?;
        }
        let to_proxy = begun.elapsed().as_secs_f64() * 1000.0;
        let begun = Instant::now();
        node.ping().await?;
        let to_node = begun.elapsed().as_secs_f64() * 1000.0;
        seen.proxy.push(to_proxy);
        seen.node.push(to_node);
        done += 1;
        if print {
            println!("proxy {to_proxy:8.2} ms   node {to_node:8.2} ms");
        }
    }
    Ok(())
}

fn bounds(samples: &[f64]) -> (f64, f64, f64) {
    let min = samples.iter().copied().fold(f64::INFINITY, f64::min);
    let max = samples.iter().copied().fold(0.0, f64::max);
    let count = u32::try_from(samples.len()).unwrap_or(u32::MAX).max(1);
    (min, samples.iter().sum::<f64>() / f64::from(count), max)
}

fn summary(samples: &[f64]) -> Value {
    let (min, average, max) = bounds(samples);
    json!({ "min": min, "average": average, "max": max, "all": samples })
}

fn line(name: &str, samples: &[f64]) -> String {
    let (min, average, max) = bounds(samples);
    format!("{name:5} min {min:.2} ms, average {average:.2} ms, max {max:.2} ms")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_between_two_is_one() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["", "-1", "NaN", "inf", "1s"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn round_trips_are_summed_up() {
        assert_eq!(bounds(&[1.0, 2.0, 6.0]), (1.0, 3.0, 6.0));
        assert_eq!(line("node", &[1.0, 2.0]), "node  min 1.00 ms, average 1.50 ms, max 2.00 ms");
        assert_eq!(summary(&[2.0]).get("average"), Some(&2.0.into()));
    }
}
