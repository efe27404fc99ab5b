//! Figures of the auth service alone: what it is asked, and how its storage does.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use teleport_backend::wrap::{LATENCY_BOUNDS, OperationStats};
use teleport_ssh::rpc::CALL_BOUNDS;

use super::AuthFigures;

/// Single requests that stand for others; there are none.
type Examples = HashMap<usize, Exemplar<[(&'static str, &'static str); 0], f64>>;

/// Writes them.
pub(super) fn encode(to: &mut DescriptorEncoder<'_>, auth: &AuthFigures) -> fmt::Result {
    of_calls(to, auth)?;
    of_storage(to, auth)
}

fn of_calls(to: &mut DescriptorEncoder<'_>, auth: &AuthFigures) -> fmt::Result {
    let calls = auth.calls.calls();
    let help = "Calls of the API that have ended, by operation and result";
    let mut family = to.encode_descriptor("teleport_api_calls", help, None, MetricType::Counter)?;
    for (operation, call) in &calls {
        let failed = call.failed.iter().map(|(result, count)| (*result, *count));
        for (result, count) in std::iter::once(("done", call.done)).chain(failed) {
            let labels = [("operation", *operation), ("result", result)];
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
    }
    let (name, help) = ("teleport_api_call_duration", "How long calls of the API took, by operation");
    let mut family = to.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
    for (operation, call) in &calls {
        let labels = [("operation", *operation)];
        histogram(&mut family, &labels, &CALL_BOUNDS, &call.times, call.total)?;
    }
    let (name, help) = ("teleport_api_watches", "Watches of the API now, by operation");
    let mut family = to.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (operation, count) in auth.calls.watches() {
        ConstGauge::new(count).encode(family.encode_family(&[("operation", operation)])?)?;
    }
    Ok(())
}

fn of_storage(to: &mut DescriptorEncoder<'_>, auth: &AuthFigures) -> fmt::Result {
    let stats = auth.storage.stats();
    let all = [("commit", stats.commit), ("get", stats.get), ("range", stats.range), ("watch", stats.watch)];
    let (name, help) =
        ("teleport_storage_failures", "Requests to the storage that have failed, by operation");
    let mut family = to.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (operation, OperationStats { failures, .. }) in &all {
        ConstCounter::new(*failures).encode(family.encode_family(&[("operation", *operation)])?)?;
    }
    let (name, help) = ("teleport_storage_duration", "How long requests to the storage took, by operation");
    let mut family = to.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
    for (operation, stats) in &all {
        let labels = [("operation", *operation)];
        histogram(&mut family, &labels, &LATENCY_BOUNDS, &stats.latencies, stats.total)?;
    }
    Ok(())
}

/// One histogram from counts of buckets, the last of which has no upper bound.
fn histogram(
    family: &mut MetricEncoder<'_>,
    labels: &[(&str, &str); 1],
    bounds: &[Duration],
    counts: &[u64],
    total: Duration,
) -> fmt::Result {
    let bounds = bounds.iter().map(Duration::as_secs_f64).chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> = bounds.zip(counts.iter().copied()).collect();
    let examples: Option<&Examples> = None;
    family.encode_family(labels)?.encode_histogram(
        total.as_secs_f64(),
        counts.iter().sum(),
        &buckets,
        examples,
    )
}
