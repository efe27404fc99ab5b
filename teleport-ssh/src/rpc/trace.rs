//! Calls of several processes as one trace: what a caller is in the middle of goes with each call, in the form of W3C Trace Context.
//! This crate makes spans and knows nothing of where they go; whoever collects them says how one is named.

use std::fmt;
use std::sync::OnceLock;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use teleport_core::api::ApiError;
use tracing::{Span, field};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// How spans are named between processes.
pub trait TraceContext: fmt::Debug + Send + Sync {
    /// The value of `traceparent` for a call from within the current span, if that is collected.
    fn current(&self) -> Option<String>;

    /// Puts `span`, which has just begun, below the one that `traceparent` names. The text comes from another host of the cluster and may be
    /// anything of at most 128 bytes; one that cannot be read changes nothing.
    fn continue_from(&self, span: &Span, traceparent: &str);
}

static CARRIER: OnceLock<Box<dyn TraceContext>> = OnceLock::new();

/// Names of spans go with all calls of this process from now on, as `context` gives them. Like the collection of spans itself, that is
/// decided once for a process: returns whether this was the first.
pub fn carry_traces(context: Box<dyn TraceContext>) -> bool {
    CARRIER.set(context).is_ok()
}

/// Says in a request what it is part of.
pub(super) fn name(headers: &mut HeaderMap) {
    let named = CARRIER.get().and_then(|carrier| HeaderValue::try_from(carrier.current()?).ok());
    if let Some(named) = named {
        headers.insert(TRACEPARENT, named);
    }
}

/// What a request says it is part of.
pub(super) fn named(headers: &HeaderMap) -> Option<String> {
    CARRIER.get()?;
    let named = headers.get(TRACEPARENT)?.to_str().ok()?;
    (named.len() <= 128).then(|| named.to_owned())
}

/// Continues what [`named`] has found.
pub(super) fn join(span: &Span, named: Option<&str>) {
    if let (Some(carrier), Some(named)) = (CARRIER.get(), named) {
        carrier.continue_from(span, named);
    }
}

/// Says in a span that what it is about has failed: of which kind, and not with which words.
pub(super) fn failed(span: &Span, error: &ApiError) {
    span.record("otel.status_code", "ERROR");
    span.record("error.type", field::debug(error.kind()));
}
