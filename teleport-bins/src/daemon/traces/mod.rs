//! Traces: what a daemon does, with beginning and end, for a collector of OpenTelemetry. Compiled in by the feature `otel`, and at work where
//! the environment names a collector, by the variables of OpenTelemetry's specification.

#[cfg(feature = "otel")]
mod collector;
#[cfg(feature = "otel")]
mod context;
#[cfg(feature = "otel")]
mod otel;

use anyhow::Result;

use crate::cli::SpanLayer;

/// The variables that name a collector.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];

/// The traces of this process. What has not been sent is lost with the value; [`end`](Self::end) sends it.
#[derive(Debug)]
pub struct Traces {
    #[cfg(feature = "otel")]
    pipeline: Option<otel::Pipeline>,
}

impl Traces {
    /// Reads the environment. `nodename` is said with each trace. The layer is for [`start_logging`](crate::cli::start_logging).
    ///
    /// # Errors
    /// When the environment asks for what is not there.
    #[cfg(feature = "otel")]
    pub fn start(nodename: &str) -> Result<(Self, Option<SpanLayer>)> {
        if !is_wanted(|name| std::env::var(name).ok()) {
            return Ok((Self { pipeline: None }, None));
        }
        let (pipeline, layer) = otel::Pipeline::start(nodename)?;
        Ok((Self { pipeline: Some(pipeline) }, Some(layer)))
    }

    /// This program has no traces.
    ///
    /// # Errors
    /// None.
    #[cfg(not(feature = "otel"))]
    pub fn start(_nodename: &str) -> Result<(Self, Option<SpanLayer>)> {
        Ok((Self {}, None))
    }

    /// Says in the log what has become of the wish for traces.
    pub fn announce(&self) {
        #[cfg(feature = "otel")]
        if self.pipeline.is_some() {
            tracing::info!("traces go to the collector that the environment names");
        }
        #[cfg(not(feature = "otel"))]
        if is_wanted(|name| std::env::var(name).ok()) {
            tracing::warn!(
                "the environment names a collector of traces, and this program was built without them (feature `otel`)"
            );
        }
    }

    /// Sends what has not been sent yet, for some seconds at most.
    pub fn end(self) {
        #[cfg(feature = "otel")]
        if let Some(pipeline) = self.pipeline {
            pipeline.end();
        }
    }
}

/// Whether the environment, as `variable` reads it, asks for traces. The collector must be named: a default would have every daemon look
/// for one at its own host.
fn is_wanted(variable: impl Fn(&str) -> Option<String>) -> bool {
    let is = |name, value: &str| variable(name).is_some_and(|text| text.eq_ignore_ascii_case(value));
    let named = ENDPOINTS.iter().any(|name| variable(name).is_some_and(|text| !text.is_empty()));
    named && !is("OTEL_SDK_DISABLED", "true") && !is("OTEL_TRACES_EXPORTER", "none")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_named_collector_is_sent_to() {
        let wanted = |set: &[(&str, &str)]| {
            is_wanted(|name| set.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned()))
        };
        let named = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");
        assert!(wanted(&[named]));
        assert!(wanted(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:4318/v1/traces")]));
        assert!(!wanted(&[]) && !wanted(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]));
        assert!(!wanted(&[named, ("OTEL_SDK_DISABLED", "True")]));
        assert!(!wanted(&[named, ("OTEL_TRACES_EXPORTER", "none")]));
    }
}
