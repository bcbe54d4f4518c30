//! Trace context as text, and the service that spans inherit.

use opentelemetry::trace::SpanId;
use opentelemetry_sdk::trace::SpanData;
use tracing::callsite::{Callsite, Identifier};
use tracing::field::FieldSet;
use tracing::metadata::Kind;
use tracing::subscriber::Interest;
use tracing::{Instrument as _, Metadata, info_span};
use waybill_runtime::telemetry::{SERVICE_FIELD, current_traceparent, init_for_test, set_parent, trace_id};

fn spans_of(trace: &str) -> Vec<SpanData> {
    let spans = init_for_test()
        .get_finished_spans()
        .expect("the exporter is not poisoned");
    spans
        .into_iter()
        .filter(|span| span.span_context.trace_id().to_string() == trace)
        .collect()
}

fn service(span: &SpanData) -> Option<String> {
    span.attributes
        .iter()
        .find(|pair| pair.key.as_str() == SERVICE_FIELD)
        .map(|pair| pair.value.to_string())
}

fn named<'a>(spans: &'a [SpanData], name: &str) -> &'a SpanData {
    spans
        .iter()
        .find(|span| span.name == name)
        .unwrap_or_else(|| panic!("no span {name} in {spans:#?}"))
}

#[tokio::test]
async fn a_trace_goes_on_over_a_text() {
    init_for_test();
    let first = info_span!("first", waybill.service = "order");
    let traceparent = first.in_scope(current_traceparent).expect("inside of a span");
    let trace = trace_id(&first).expect("a trace");
    assert_eq!(traceparent.len(), 55);
    assert!(
        traceparent.starts_with(&format!("00-{trace}-")) && traceparent.ends_with("-01"),
        "{traceparent}"
    );
    drop(first);

    // As another process would, from a log row.
    let second = info_span!(parent: None, "second", waybill.service = "refund");
    set_parent(&second, &traceparent);
    async {
        let here = info_span!("third")
            .in_scope(current_traceparent)
            .expect("inside of a span");
        assert_eq!(here[3..35], trace);
    }
    .instrument(second)
    .await;

    let spans = spans_of(&trace);
    assert_eq!(spans.len(), 3);
    let (first, second, third) = (
        named(&spans, "first"),
        named(&spans, "second"),
        named(&spans, "third"),
    );
    assert_eq!(first.parent_span_id, SpanId::INVALID);
    assert_eq!(second.parent_span_id, first.span_context.span_id());
    assert_eq!(third.parent_span_id, second.span_context.span_id());
    assert_eq!(service(first).as_deref(), Some("order"));
    assert_eq!(service(second).as_deref(), Some("refund"));
    assert_eq!(service(third).as_deref(), Some("refund"), "inherited");
}

#[test]
fn without_a_span_there_is_no_traceparent() {
    init_for_test();
    assert_eq!(current_traceparent(), None);
    assert_eq!(trace_id(&tracing::Span::none()), None);
}

#[test]
fn a_broken_traceparent_begins_a_new_trace() {
    init_for_test();
    let zeros = "00-00000000000000000000000000000000-0000000000000000-01";
    for text in ["", "00", "00-zz-11-01", zeros, "garbage\n"] {
        let span = info_span!(parent: None, "root");
        set_parent(&span, text);
        let trace = trace_id(&span).expect("a trace of its own");
        drop(span);
        assert_eq!(
            named(&spans_of(&trace), "root").parent_span_id,
            SpanId::INVALID,
            "{text:?}"
        );
    }
}

#[test]
fn spans_of_libraries_are_left_out() {
    init_for_test();
    let ours = info_span!("ours");
    let trace = trace_id(&ours).expect("a trace");
    ours.in_scope(|| tracing::info_span!(target: "h2::client", "theirs").in_scope(|| {}));
    drop(ours);
    let spans = spans_of(&trace);
    assert_eq!(spans.len(), 1, "{spans:#?}");
}

/// What a library asks about without ever logging it, as `log::log_enabled!` does.
struct Asked;

static QUESTION: Metadata<'static> = Metadata::new(
    "statement",
    "sqlx::query",
    tracing::Level::INFO,
    None,
    None,
    None,
    FieldSet::new(&[], Identifier(&Asked)),
    Kind::EVENT,
);

impl Callsite for Asked {
    fn set_interest(&self, _: Interest) {}

    fn metadata(&self) -> &Metadata<'_> {
        &QUESTION
    }
}

#[test]
fn a_question_of_a_library_costs_no_span() {
    init_for_test();
    // Twice, since the first pass through a callsite is never answered from memory.
    for _ in 0..2 {
        tracing::dispatcher::get_default(|subscriber| subscriber.enabled(&QUESTION));
        let ours = info_span!("after the question");
        assert!(trace_id(&ours).is_some());
    }
}
