//! What two readings of the figures say together.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;
use teleport_core::clock::{Clock, SystemClock};

use super::super::super::table;
use super::page::Page;
use crate::config::format_duration;

/// How many operations are shown to people: those that are asked for most.
const SHOWN: usize = 12;

/// A daemon in one moment, and what it did in the time before.
#[derive(Debug, Serialize)]
pub(super) struct Sample {
    version: String,
    uptime_seconds: u64,
    /// Processors in use: 1 is one of them, fully.
    cpu_cores: f64,
    memory_bytes: u64,
    open_files: u64,
    /// Sessions of users at the node of the daemon.
    #[serde(skip_serializing_if = "Option::is_none")]
    sessions: Option<u64>,
    /// Nodes that the proxy of the daemon knows of.
    #[serde(skip_serializing_if = "Option::is_none")]
    nodes: Option<u64>,
    /// By service.
    connections: BTreeMap<String, u64>,
    /// For how many seconds nobody has told a service of changes.
    view_silence_seconds: BTreeMap<String, f64>,
    /// By operation.
    watches: BTreeMap<String, u64>,
    /// Calls of the API.
    calls: Vec<Calls>,
    /// Requests to the storage.
    storage: Vec<Calls>,
}

/// What was asked for, in the time between two readings.
#[derive(Debug, Serialize)]
struct Calls {
    operation: String,
    per_second: f64,
    /// Of those the ones that failed.
    failed_per_second: f64,
    /// Of those that ended; none without any.
    #[serde(skip_serializing_if = "Option::is_none")]
    mean_milliseconds: Option<f64>,
    /// In how many milliseconds 99 of 100 had ended, or a little earlier: as exact as the buckets are.
    #[serde(skip_serializing_if = "Option::is_none")]
    p99_milliseconds: Option<f64>,
}

impl Sample {
    /// From two readings, so far apart.
    pub(super) fn new(before: &Page, now: &Page, apart: Duration) -> Self {
        let seconds = apart.as_secs_f64().max(f64::MIN_POSITIVE);
        let count = |name: &str| now.sum(name).map(whole);
        let by = |name: &str, label: &str| {
            now.by(name, label).map(|(value, figure)| (value.to_owned(), whole(figure))).collect()
        };
        let grown = |name: &str| now.sum(name).unwrap_or(0.0) - before.sum(name).unwrap_or(0.0);
        let time = SystemClock::new().now().unix_millis() as f64 / 1e3;
        let rates = Rates { before, now, seconds };
        let failed = |operation: &str| {
            let all = rates.grown("teleport_api_calls_total", &[("operation", operation)]);
            all - rates.grown("teleport_api_calls_total", &[("operation", operation), ("result", "done")])
        };
        let not_stored =
            |operation: &str| rates.grown("teleport_storage_failures_total", &[("operation", operation)]);
        let silence = |name: &'static str| {
            now.by(name, "service").map(|(service, seconds)| (service.to_owned(), seconds))
        };
        Self {
            version: now.label("teleport_build_info", "version").unwrap_or_default().to_owned(),
            uptime_seconds: whole(time - now.sum("process_start_time_seconds").unwrap_or(time)),
            cpu_cores: grown("process_cpu_seconds_total").max(0.0) / seconds,
            memory_bytes: count("process_resident_memory_bytes").unwrap_or(0),
            open_files: count("process_open_fds").unwrap_or(0),
            sessions: count("teleport_sessions"),
            nodes: count("teleport_nodes"),
            connections: by("teleport_connections", "service"),
            view_silence_seconds: silence("teleport_view_silence_seconds").collect(),
            watches: by("teleport_api_watches", "operation"),
            calls: rates.calls("teleport_api_call_duration_seconds", failed),
            storage: rates.calls("teleport_storage_duration_seconds", not_stored),
        }
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let count = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
        let named = |all: &BTreeMap<String, u64>| {
            let parts: Vec<String> = all.iter().map(|(name, value)| format!("{name} {value}")).collect();
            if parts.is_empty() { "-".to_owned() } else { parts.join(", ") }
        };
        let silence = self.view_silence_seconds.values().copied().fold(0.0, f64::max);
        let facts = [
            ["Version".to_owned(), self.version.clone()],
            ["Up for".to_owned(), format_duration(Duration::from_secs(self.uptime_seconds))],
            ["CPU".to_owned(), format!("{:.2} cores", self.cpu_cores)],
            ["Memory".to_owned(), format!("{:.1} MB", self.memory_bytes as f64 / 1e6)],
            ["Open files".to_owned(), self.open_files.to_string()],
            ["Nodes".to_owned(), count(self.nodes)],
            ["Sessions".to_owned(), count(self.sessions)],
            ["Connections".to_owned(), named(&self.connections)],
            ["Watches".to_owned(), named(&self.watches)],
            ["Auth silent".to_owned(), format!("{silence:.0} s")],
        ];
        let mut text = table(["What", "Value"], facts);
        for (what, calls) in [("Request", &self.calls), ("Storage", &self.storage)] {
            let mut calls: Vec<&Calls> = calls.iter().collect();
            calls.sort_by(|one, other| other.per_second.total_cmp(&one.per_second));
            let rows = calls.into_iter().take(SHOWN).map(Calls::row);
            text.push_str("\n\n");
            text.push_str(&table([what, "1/s", "Failed 1/s", "Mean ms", "99% within ms"], rows));
        }
        text
    }
}

impl Calls {
    fn row(&self) -> [String; 5] {
        let time = |time: Option<f64>| time.map_or_else(|| "-".to_owned(), |time| format!("{time:.2}"));
        [
            self.operation.clone(),
            format!("{:.1}", self.per_second),
            format!("{:.1}", self.failed_per_second),
            time(self.mean_milliseconds),
            time(self.p99_milliseconds),
        ]
    }
}

struct Rates<'a> {
    before: &'a Page,
    now: &'a Page,
    seconds: f64,
}

impl Rates<'_> {
    /// A counter that is less than before is one of a daemon that has started again.
    fn grown(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let (now, before) = (self.now.of(name, labels), self.before.of(name, labels));
        if now < before { now } else { now - before }
    }

    /// What a histogram says of each operation.
    fn calls(&self, histogram: &str, failed: impl Fn(&str) -> f64) -> Vec<Calls> {
        let (counts, sums, buckets) =
            (format!("{histogram}_count"), format!("{histogram}_sum"), format!("{histogram}_bucket"));
        let operations: BTreeSet<&str> = self.now.by(&counts, "operation").map(|(name, _)| name).collect();
        let of = |operation: &str| {
            let own = [("operation", operation)];
            let (count, sum) = (self.grown(&counts, &own), self.grown(&sums, &own));
            // What is in each bucket is in the next ones as well.
            let mut bounds: Vec<(f64, &str)> = self
                .now
                .by(&buckets, "le")
                .map(|(le, _)| (le.parse().unwrap_or(f64::INFINITY), le))
                .collect();
            bounds.sort_by(|one, other| one.0.total_cmp(&other.0));
            bounds.dedup();
            let p99 = bounds.into_iter().find(|(_, le)| {
                self.grown(&buckets, &[("operation", operation), ("le", le)]) >= count * 0.99
            });
            let some = |value: f64| (count > 0.0).then_some(value);
            Calls {
                operation: operation.to_owned(),
                per_second: count / self.seconds,
                failed_per_second: failed(operation) / self.seconds,
                mean_milliseconds: some(sum / count * 1e3),
                p99_milliseconds: p99
                    .map(|(bound, _)| bound * 1e3)
                    .filter(|bound| bound.is_finite())
                    .and_then(some),
            }
        };
        operations.into_iter().map(of).collect()
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts, far below the bounds")]
fn whole(figure: f64) -> u64 {
    figure.round() as u64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn page(calls: u32, failed: u32, seconds: f64) -> Page {
        let all = calls + failed;
        let text = format!(
            "teleport_build_info{{version=\"9\"}} 1\n\
             process_cpu_seconds_total {seconds}\n\
             teleport_connections{{service=\"auth\"}} 3\n\
             teleport_api_calls_total{{operation=\"ping\",result=\"done\"}} {calls}\n\
             teleport_api_calls_total{{operation=\"ping\",result=\"denied\"}} {failed}\n\
             teleport_api_call_duration_seconds_count{{operation=\"ping\"}} {all}\n\
             teleport_api_call_duration_seconds_sum{{operation=\"ping\"}} {seconds}\n\
             teleport_api_call_duration_seconds_bucket{{operation=\"ping\",le=\"0.001\"}} {}\n\
             teleport_api_call_duration_seconds_bucket{{operation=\"ping\",le=\"0.005\"}} {all}\n\
             teleport_api_call_duration_seconds_bucket{{operation=\"ping\",le=\"+Inf\"}} {all}\n",
            all / 2
        );
        Page::parse(&text).unwrap()
    }

    #[test]
    fn rates_are_of_the_time_between() {
        let sample = Sample::new(&page(100, 0, 1.0), &page(180, 20, 2.0), Duration::from_secs(2));
        assert!(sample.cpu_cores == 0.5 && sample.connections.get("auth") == Some(&3));
        let ping = sample.calls.first().unwrap();
        assert!(ping.per_second == 50.0 && ping.failed_per_second == 10.0, "{ping:?}");
        assert_eq!((ping.mean_milliseconds, ping.p99_milliseconds), (Some(10.0), Some(5.0)));
        assert!(sample.text().contains("ping"), "{}", sample.text());
        assert!(sample.sessions.is_none() && sample.storage.is_empty());
    }

    #[test]
    fn a_daemon_that_has_started_again_counts_anew() {
        let sample = Sample::new(&page(100, 0, 9.0), &page(10, 0, 1.0), Duration::from_secs(1));
        assert!(sample.cpu_cores == 0.0 && sample.calls.first().unwrap().per_second == 10.0, "{sample:?}");
    }
}
