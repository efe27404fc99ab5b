//! Figures of the daemon in the text form of OpenMetrics, which Prometheus reads.
//!
//! The names are in the manual (`diagnostics`), which a test compares with what is said here.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use teleport_core::clock::Timestamp;
use teleport_ssh::listener::Counts;
use teleport_ssh::proxy::NodeTable;

use super::{Needs, Service, auth_figures};

/// All figures at `now`.
pub(super) fn page(services: &[Service], started: Timestamp, now: Timestamp) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Figures { services: services.to_vec(), started, now }));
    let mut text = String::new();
    // It fails only where `String` would.
    let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
    text
}

#[derive(Debug)]
struct Figures {
    services: Vec<Service>,
    started: Timestamp,
    now: Timestamp,
}

/// A figure of a listener: its name, what it is, whether it only grows, and how it is read.
type OfDoor = (&'static str, &'static str, bool, fn(&Counts) -> u64);

const OF_DOORS: [OfDoor; 5] = [
    ("teleport_connections_accepted", "Connections that were let in", true, |counts| counts.accepted),
    ("teleport_connections_refused", "Connections that the limits have refused", true, |counts| {
        counts.refused
    }),
    (
        "teleport_connections_failed",
        "Connections that have ended by a defect of this program",
        true,
        |counts| counts.panics,
    ),
    ("teleport_connections", "Connections now", false, |counts| counts.connections.into()),
    (
        "teleport_connections_unauthenticated",
        "Connections now whose client has not said who it is",
        false,
        |counts| counts.startups.into(),
    ),
];

impl Collector for Figures {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let version = [("version", crate::cli::VERSION)];
        one(&mut to, "teleport_build_info", "The version that runs", None, &version, ConstGauge::new(1_u64))?;
        for (name, help, grows, read) in OF_DOORS {
            let kind = if grows { MetricType::Counter } else { MetricType::Gauge };
            let mut family = to.encode_descriptor(name, help, None, kind)?;
            for service in &self.services {
                let labels = [("service", service.name)];
                let value = read(&service.door.counts());
                let metric = family.encode_family(&labels)?;
                match grows {
                    true => ConstCounter::new(value).encode(metric)?,
                    false => ConstGauge::new(value).encode(metric)?,
                }
            }
        }
        self.of_services(&mut to, "teleport_sessions", "Sessions of users now", None, |service| {
            Some(service.sessions.as_ref()?.len() as f64)
        })?;
        let silence = "How long nobody has told the service of changes of trust and roles";
        self.of_services(&mut to, "teleport_view_silence", silence, Some(&Unit::Seconds), |service| {
            match &service.needs {
                Needs::View(view) => Some(view.age().as_secs_f64()),
                Needs::Storage(_) => None,
            }
        })?;
        let known = "Nodes that the proxy knows of";
        self.of_services(&mut to, "teleport_nodes", known, None, |service| {
            Some(service.nodes.as_ref()?.read(NodeTable::len) as f64)
        })?;
        let led = "Nodes that have a tunnel to the proxy";
        self.of_services(&mut to, "teleport_tunnels", led, None, |service| {
            Some(service.tunnels.as_ref()?.len() as f64)
        })?;
        let silence = "How long nobody has told the proxy of changes of nodes";
        self.of_services(&mut to, "teleport_nodes_silence", silence, Some(&Unit::Seconds), |service| {
            Some(service.nodes.as_ref()?.age().as_secs_f64())
        })?;
        for auth in self.services.iter().filter_map(|service| service.auth.as_ref()) {
            auth_figures::encode(&mut to, auth)?;
        }
        let left = "How long the certificate of the service is valid yet";
        self.of_services(&mut to, "teleport_certificate_left", left, Some(&Unit::Seconds), |service| {
            let until = service.identity.current().valid_before.unix_millis() as f64;
            Some((until - self.now.unix_millis() as f64) / 1000.0)
        })?;
        let left = "How long the first certificate that browsers are shown is valid yet, if they are shown one of their own";
        self.of_services(&mut to, "teleport_web_certificate_left", left, Some(&Unit::Seconds), |service| {
            let until = service.shown.as_ref()?.first_end()?.unix_millis() as f64;
            Some((until - self.now.unix_millis() as f64) / 1000.0)
        })?;
        self.of_process(&mut to)
    }
}

impl Figures {
    fn of_services(
        &self,
        to: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        read: impl Fn(&Service) -> Option<f64>,
    ) -> fmt::Result {
        let mut family = to.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for service in &self.services {
            if let Some(value) = read(service) {
                let labels = [("service", service.name)];
                ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    /// Under the names that all programs use.
    fn of_process(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let started = self.started.unix_millis() as f64 / 1000.0;
        let (start, open, cpu, memory) = (
            "When the process began, in seconds since 1970",
            "Open files now",
            "Time of processors that was used",
            "Memory in use",
        );
        one(to, "process_start_time", start, Some(&Unit::Seconds), &[], ConstGauge::new(started))?;
        if let Some(files) = open_files() {
            one(to, "process_open_fds", open, None, &[], ConstGauge::new(files))?;
        }
        if let Some(seconds) = cpu_seconds() {
            one(to, "process_cpu", cpu, Some(&Unit::Seconds), &[], ConstCounter::new(seconds))?;
        }
        if let Some(bytes) = resident_bytes() {
            one(to, "process_resident_memory", memory, Some(&Unit::Bytes), &[], ConstGauge::new(bytes))?;
        }
        Ok(())
    }
}

fn one(
    to: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    labels: &[(&str, &str)],
    metric: impl EncodeMetric,
) -> fmt::Result {
    let mut family = to.encode_descriptor(name, help, unit, metric.metric_type())?;
    match labels {
        [] => metric.encode(family),
        labels => metric.encode(family.encode_family(&labels)?),
    }
}

fn open_files() -> Option<u64> {
    // One of them is the directory itself.
    let count = std::fs::read_dir("/proc/self/fd").ok()?.count();
    u64::try_from(count).ok()?.checked_sub(1)
}

fn cpu_seconds() -> Option<f64> {
    let used = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).ok()?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Some(seconds(used.user_time()) + seconds(used.system_time()))
}

fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}
