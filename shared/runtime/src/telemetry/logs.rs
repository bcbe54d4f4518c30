//! Writes events to stderr, one line each, with the service and the trace they belong to.
//!
//! The same field names are used everywhere: `time`, `level`, `target`, `message`, `service`, `trace_id`, `span_id`, then
//! the event's own fields. What it refuses to do: print the fields of spans. They are in the trace, once.

use std::fmt::Write as _;
use std::io::Write as _;

use chrono::SecondsFormat;
use opentelemetry::Context as OtelContext;
use opentelemetry::trace::TraceContextExt as _;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;
use waybill_kernel::time::{Clock as _, SystemClock};

use super::LogFormat;
use super::service_field::ServiceName;

pub(super) struct LogLayer<W> {
    format: LogFormat,
    out: W,
}

impl<W> LogLayer<W> {
    pub(super) fn new(format: LogFormat, out: W) -> Self {
        LogLayer { format, out }
    }
}

impl<S, W> Layer<S> for LogLayer<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + 'static,
{
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields(Map::new());
        event.record(&mut fields);
        let line = Line {
            event,
            fields: fields.0,
            service: context.event_span(event).and_then(|span| {
                let mut scope = span.scope();
                scope.find_map(|span| {
                    span.extensions()
                        .get::<ServiceName>()
                        .map(|service| service.name.to_string())
                })
            }),
            trace: trace_of_current_span(),
        };
        let text = match self.format {
            LogFormat::Json => line.json(),
            LogFormat::Pretty | LogFormat::Off => line.pretty(),
        };
        // Nowhere to report to when stderr is closed.
        let _ = self.out.make_writer().write_all(text.as_bytes());
    }
}

/// Entering a span makes its trace context the current one of the thread.
fn trace_of_current_span() -> Option<(String, String)> {
    let context = OtelContext::current();
    let span = context.span();
    let span = span.span_context();
    span.is_valid()
        .then(|| (span.trace_id().to_string(), span.span_id().to_string()))
}

struct Line<'a> {
    event: &'a Event<'a>,
    fields: Map<String, Value>,
    service: Option<String>,
    trace: Option<(String, String)>,
}

impl Line<'_> {
    fn json(mut self) -> String {
        let metadata = self.event.metadata();
        let mut object = Map::new();
        object.insert(
            "time".to_owned(),
            SystemClock
                .now()
                .to_rfc3339_opts(SecondsFormat::Micros, true)
                .into(),
        );
        object.insert("level".to_owned(), metadata.level().as_str().into());
        object.insert("target".to_owned(), metadata.target().into());
        object.insert(
            "message".to_owned(),
            self.fields.remove("message").unwrap_or_default(),
        );
        if let Some(service) = self.service {
            object.insert("service".to_owned(), service.into());
        }
        if let Some((trace_id, span_id)) = self.trace {
            object.insert("trace_id".to_owned(), trace_id.into());
            object.insert("span_id".to_owned(), span_id.into());
        }
        for (name, value) in self.fields {
            // An event cannot take the place of a name above.
            object.entry(name).or_insert(value);
        }
        let mut line = Value::Object(object).to_string();
        line.push('\n');
        line
    }

    fn pretty(mut self) -> String {
        let metadata = self.event.metadata();
        let mut line = format!(
            "{} {:>5} ",
            SystemClock.now().format("%H:%M:%S%.3f"),
            metadata.level()
        );
        if let Some(service) = &self.service {
            let _ = write!(line, "[{service}] ");
        }
        match self.fields.remove("message") {
            Some(Value::String(message)) => line.push_str(&message),
            Some(other) => line.push_str(&other.to_string()),
            None => line.push_str(metadata.target()),
        }
        for (name, value) in &self.fields {
            let _ = match value {
                Value::String(text) => write!(line, " {name}={text}"),
                other => write!(line, " {name}={other}"),
            };
        }
        if let Some((trace_id, _)) = &self.trace {
            let _ = write!(line, " trace_id={trace_id}");
        }
        // A text with line feeds must not look like several events.
        let mut line = line.replace(['\n', '\r'], " ");
        line.push('\n');
        line
    }
}

struct Fields(Map<String, Value>);

impl Fields {
    fn insert(&mut self, field: &Field, value: Value) {
        // Events that come by the `log` crate carry bookkeeping fields.
        if !field.name().starts_with("log.") {
            self.0.insert(field.name().to_owned(), value);
        }
    }
}

impl Visit for Fields {
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.insert(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.insert(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.insert(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.insert(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.insert(field, value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut cause = value.source();
        while let Some(error) = cause {
            let _ = write!(text, ": {error}");
            cause = error.source();
        }
        self.insert(field, text.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.insert(field, format!("{value:?}").into());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use serde_json::json;
    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::registry::Registry;

    use super::*;
    use crate::telemetry::service_field::ServiceField;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("not poisoned").write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What `work` logs, and the trace it ran in.
    fn logged(format: LogFormat, work: impl FnOnce()) -> (String, String) {
        let lines = Lines::default();
        let out = lines.clone();
        let tracer = SdkTracerProvider::default().tracer("test");
        let spans = tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .and_then(ServiceField);
        let subscriber = Registry::default()
            .with(spans)
            .with(LogLayer::new(format, move || out.clone()));
        let trace = tracing::subscriber::with_default(subscriber, || {
            let outer = tracing::info_span!("outer", waybill.service = "order", customer = "Ada");
            outer.in_scope(|| tracing::info_span!("inner").in_scope(work));
            super::super::trace_id(&outer).expect("a trace")
        });
        let text = String::from_utf8(lines.0.lock().expect("not poisoned").clone()).expect("text");
        (text, trace)
    }

    #[test]
    fn a_json_line_carries_service_and_trace_but_no_fields_of_spans() {
        let error = std::io::Error::other("disk full");
        let (text, trace) = logged(LogFormat::Json, || {
            tracing::warn!(
                count = 3_u64,
                ratio = 0.5,
                state = ?Some(1),
                error = &error as &(dyn std::error::Error + 'static),
                level = "mine",
                "slow \"fold\"\nline two"
            );
        });
        assert_eq!(text.matches('\n').count(), 1, "{text}");
        let mut line: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let object = line.as_object_mut().expect("an object");
        assert!(
            object
                .remove("time")
                .is_some_and(|time| time.as_str().is_some_and(|time| time.ends_with('Z')))
        );
        assert!(object.remove("span_id").is_some());
        let expected = json!({
            "level": "WARN",
            "target": "waybill_runtime::telemetry::logs::tests",
            "message": "slow \"fold\"\nline two",
            "service": "order",
            "trace_id": trace,
            "count": 3,
            "ratio": 0.5,
            "state": "Some(1)",
            "error": "disk full",
        });
        assert_eq!(line, expected);
    }

    #[test]
    fn a_line_for_people_is_one_line() {
        let (text, trace) = logged(LogFormat::Pretty, || tracing::info!(port = 7000, "serving\nnow"));
        let (_, rest) = text.split_once(' ').expect("a time");
        assert_eq!(
            rest,
            format!(" INFO [order] serving now port=7000 trace_id={trace}\n")
        );
    }
}
