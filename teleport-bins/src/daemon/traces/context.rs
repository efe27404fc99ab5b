//! The names of spans on the way between daemons.

use std::collections::HashMap;

use opentelemetry::Context;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use teleport_ssh::rpc::TraceContext;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

const TRACEPARENT: &str = "traceparent";

/// The form of W3C Trace Context.
#[derive(Debug)]
pub(super) struct W3c(TraceContextPropagator);

impl W3c {
    pub(super) fn new() -> Self {
        Self(TraceContextPropagator::new())
    }
}

impl TraceContext for W3c {
    fn current(&self) -> Option<String> {
        let mut carrier = HashMap::new();
        self.0.inject_context(&Span::current().context(), &mut carrier);
        carrier.remove(TRACEPARENT)
    }

    fn continue_from(&self, span: &Span, traceparent: &str) {
        let carrier = HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
        let parent = self.0.extract_with_context(&Context::new(), &carrier);
        // A span that nobody collects has no parent, either.
        let _ = span.set_parent(parent);
    }
}
