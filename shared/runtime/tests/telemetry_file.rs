//! The span file. A process of its own, since telemetry is set up once.

use serde_json::json;
use tracing::{error, info_span};
use waybill_runtime::telemetry::{self, LogFormat, TelemetryConfig, TelemetryError, read_span_file};

#[test]
fn every_span_is_a_line() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("spans.jsonl");
    let config = TelemetryConfig {
        logs: LogFormat::Off,
        span_file: Some(path.clone()),
        ..TelemetryConfig::default()
    };
    let guard = telemetry::init(&config, "demo")?;
    let again = telemetry::init(&config, "demo").expect_err("once per process");
    assert!(matches!(again, TelemetryError::AlreadyInitialised), "{again}");

    let outer = info_span!(
        "outer",
        waybill.service = "order",
        otel.kind = "server",
        lines = 3,
        free = true
    );
    let trace = telemetry::trace_id(&outer).expect("a trace");
    outer.in_scope(|| info_span!("inner").in_scope(|| error!("it broke")));
    drop(outer);
    assert!(guard.flush(), "all spans are written");

    let spans = read_span_file(&path)?;
    let [inner, outer] = &spans[..] else {
        panic!("two spans: {spans:#?}")
    };
    assert_eq!((inner.name.as_str(), outer.name.as_str()), ("inner", "outer"));
    assert_eq!(outer.trace_id, trace);
    assert_eq!(inner.trace_id, trace);
    assert_eq!(outer.parent_span_id, None);
    assert_eq!(inner.parent_span_id.as_ref(), Some(&outer.span_id));
    assert_eq!(outer.kind, "server");
    assert_eq!(outer.service.as_deref(), Some("order"));
    assert_eq!(inner.service.as_deref(), Some("order"));
    assert_eq!(outer.attributes["lines"], json!(3));
    assert_eq!(outer.attributes["free"], json!(true));
    assert_eq!((outer.status.as_str(), inner.status.as_str()), ("unset", "error"));
    assert!(outer.start_unix_nanos <= inner.start_unix_nanos && inner.end_unix_nanos <= outer.end_unix_nanos);

    // A line that is still being written is left out; a broken one is named.
    info_span!("later").in_scope(|| {});
    assert!(guard.shutdown());
    let mut text = std::fs::read_to_string(&path)?;
    assert_eq!(text.lines().count(), 3);
    text.push_str("{\"trace_id\":");
    std::fs::write(&path, &text)?;
    assert_eq!(read_span_file(&path)?.len(), 3);
    std::fs::write(&path, text + "\n")?;
    let broken = read_span_file(&path).expect_err("not a span");
    assert!(broken.to_string().contains("line 4"), "{broken}");
    Ok(())
}
