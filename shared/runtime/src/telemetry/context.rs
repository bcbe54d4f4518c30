//! Trace context as text: the `traceparent` of W3C Trace Context, which travels in headers, log rows and jobs.
//!
//! What it refuses to do: carry anything else. Baggage is neither read nor written, so nothing personal can slip through.

use std::collections::HashMap;

use opentelemetry::Context;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{SpanContext, TraceContextExt as _};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// The `traceparent` of the current span, or nothing outside of a trace.
pub fn current_traceparent() -> Option<String> {
    let context = Span::current().context();
    let span = context.span();
    format_traceparent(span.span_context())
}

fn format_traceparent(span: &SpanContext) -> Option<String> {
    span.is_valid().then(|| {
        format!(
            "00-{}-{}-{:02x}",
            span.trace_id(),
            span.span_id(),
            span.trace_flags().to_u8() & 1
        )
    })
}

/// Makes `span` a child of `traceparent`. Call it before the span is entered; a text that is no traceparent is ignored,
/// since a trace must never fail a call.
pub fn set_parent(span: &Span, traceparent: &str) {
    let carrier = HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]);
    let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &carrier);
    if parent.span().span_context().is_valid() {
        // It fails only where the span is not recorded, or was entered before, which is a fault of the caller but no
        // reason to stop.
        let _ = span.set_parent(parent);
    }
}

/// The trace id of `span` as 32 hexadecimal digits, or nothing when it is not part of a trace.
pub fn trace_id(span: &Span) -> Option<String> {
    let context = span.context();
    let span = context.span();
    let span = span.span_context();
    span.is_valid().then(|| span.trace_id().to_string())
}
