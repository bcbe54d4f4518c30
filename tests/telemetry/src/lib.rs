//! One trace, as the spans that were exported: who it touched, and what led to what. [`scrape`] reads metrics.
//!
//! What it refuses to do: wait. A test asks again until the trace is whole.

pub mod scrape;

use std::collections::{BTreeSet, HashMap};

use opentelemetry::trace::SpanId;
use opentelemetry_sdk::trace::SpanData;

/// The field that names the service of a span.
const SERVICE: &str = "waybill.service";

/// The spans of one trace.
pub struct Trace {
    spans: HashMap<SpanId, SpanData>,
}

impl Trace {
    /// The spans with this trace id, of all that were exported.
    #[must_use]
    pub fn of(trace_id: &str, exported: Vec<SpanData>) -> Self {
        let ours = exported
            .into_iter()
            .filter(|span| span.span_context.trace_id().to_string() == trace_id);
        Self {
            spans: ours.map(|span| (span.span_context.span_id(), span)).collect(),
        }
    }

    /// The services that did something in it.
    #[must_use]
    pub fn services(&self) -> BTreeSet<String> {
        self.spans.values().filter_map(service).collect()
    }

    /// Whether a span of this service and name has one among the spans that led to it, both given as (service, name).
    #[must_use]
    pub fn leads(&self, from: (&str, &str), to: (&str, &str)) -> bool {
        let named = |span: &SpanData, (wanted, name): (&str, &str)| {
            span.name == name && service(span).as_deref() == Some(wanted)
        };
        self.spans
            .values()
            .filter(|span| named(span, to))
            .any(|span| self.causes(span).any(|cause| named(cause, from)))
    }

    /// The span that led to a span, the one that led to that, and so on.
    fn causes<'a>(&'a self, span: &'a SpanData) -> impl Iterator<Item = &'a SpanData> {
        std::iter::successors(self.cause(span), |span| self.cause(span))
    }

    fn cause(&self, span: &SpanData) -> Option<&SpanData> {
        self.spans.get(&span.parent_span_id)
    }

    /// Spans whose cause is not in the trace, as "service: name". The root is one; more mean that the trace is broken.
    #[must_use]
    pub fn roots(&self) -> Vec<String> {
        self.spans
            .values()
            .filter(|span| self.cause(span).is_none())
            .map(label)
            .collect()
    }

    /// The trace as a tree, for the message of a test that failed.
    #[must_use]
    pub fn drawn(&self) -> String {
        let mut lines = Vec::new();
        let mut roots: Vec<&SpanData> = self
            .spans
            .values()
            .filter(|span| self.cause(span).is_none())
            .collect();
        roots.sort_by_key(|span| span.start_time);
        for root in roots {
            self.draw(root, 0, &mut lines);
        }
        lines.join("\n")
    }

    fn draw(&self, span: &SpanData, depth: usize, lines: &mut Vec<String>) {
        lines.push(format!("{}{}", "  ".repeat(depth), label(span)));
        let id = span.span_context.span_id();
        let mut below: Vec<&SpanData> = self
            .spans
            .values()
            .filter(|span| span.parent_span_id == id)
            .collect();
        below.sort_by_key(|span| span.start_time);
        for span in below {
            self.draw(span, depth + 1, lines);
        }
    }
}

/// The service a span belongs to.
fn service(span: &SpanData) -> Option<String> {
    span.attributes
        .iter()
        .find(|pair| pair.key.as_str() == SERVICE)
        .map(|pair| pair.value.to_string())
}

fn label(span: &SpanData) -> String {
    format!(
        "{}: {}",
        service(span).unwrap_or_else(|| "-".to_owned()),
        span.name
    )
}

/// Every text that a span carries: its name, its status, its attributes, its events.
pub fn texts(span: &SpanData) -> impl Iterator<Item = String> {
    let attributes = span
        .attributes
        .iter()
        .chain(span.events.iter().flat_map(|event| &event.attributes));
    let attributes = attributes.map(|pair| format!("{}={}", pair.key, pair.value));
    let events = span.events.iter().map(|event| event.name.to_string());
    attributes
        .chain(events)
        .chain([span.name.to_string(), format!("{:?}", span.status)])
}
