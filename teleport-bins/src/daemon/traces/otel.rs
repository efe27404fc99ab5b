//! From spans to a collector: the SDK gathers them, and a thread and a runtime of their own send them, so that nothing of the daemon ever waits
//! for a collector. At most 2048 spans wait (`OTEL_BSP_MAX_QUEUE_SIZE`); what comes beyond is dropped.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::runtime::{Builder, Runtime};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;

use super::collector::Collector;
use super::context::W3c;
use crate::cli::SpanLayer;

/// How long the end of the process waits for the last spans to be sent.
const FAREWELL: Duration = Duration::from_secs(3);

/// The way of spans out of this process.
#[derive(Debug)]
pub(super) struct Pipeline {
    provider: SdkTracerProvider,
    runtime: Runtime,
}

impl Pipeline {
    pub(super) fn start(nodename: &str) -> Result<(Self, SpanLayer)> {
        for name in ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"] {
            match std::env::var(name) {
                Ok(protocol) if !matches!(&*protocol, "" | "http/protobuf") => bail!(
                    "{name}: {protocol:?} is not spoken here; use http/protobuf, and the port that the collector has for it (4318)"
                ),
                _ => {}
            }
        }
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("traces")
            .enable_all()
            .build()
            .context("no thread for traces can be started")?;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Collector::new(runtime.handle().clone())?)
            .build()
            .context("the environment does not say how to reach the collector of traces")?;
        let provider =
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource(nodename));
        let provider = provider.build();
        let layer = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("teleport"))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_context_activation(false)
            // Ours alone, and no lines of the log: those are for whoever may read the log.
            .with_filter(filter_fn(|about| about.is_span() && about.target().starts_with("teleport_")));
        teleport_ssh::rpc::carry_traces(Box::new(W3c::new()));
        Ok((Self { provider, runtime }, layer.boxed()))
    }

    pub(super) fn end(self) {
        if let Err(error) = self.provider.shutdown_with_timeout(FAREWELL) {
            tracing::debug!(%error, "the last traces could not be sent");
        }
        self.runtime.shutdown_background();
    }
}

/// Whose spans they are. What the environment says of it comes first.
fn resource(nodename: &str) -> Resource {
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let said = Resource::builder().build();
    let is_named = said
        .iter()
        .any(|(key, value)| key.as_str() == "service.name" && !value.as_str().starts_with("unknown_service"));
    let has_host = said.iter().any(|(key, _)| key.as_str() == "host.name");
    let mut ours = vec![version];
    ours.extend((!is_named).then(|| KeyValue::new("service.name", "teleport")));
    ours.extend((!has_host).then(|| KeyValue::new("host.name", nodename.to_owned())));
    Resource::builder().with_attributes(ours).build()
}
