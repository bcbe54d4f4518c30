//! One trace over two processes' worth of spans, and what a span says.

use std::collections::BTreeMap;

use opentelemetry::trace::{SpanId, SpanKind, Status as SpanStatus};
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData};
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, SdkMeterProvider};
use opentelemetry_sdk::trace::SpanData;
use tracing::{Instrument as _, info_span};
use waybill_proto::waybill::analytics::v1::analytics_service_client::AnalyticsServiceClient;
use waybill_runtime::telemetry::{self, SERVICE_FIELD, init_for_test};

use crate::support::{Running, SOON, ids, summary};

fn attribute(span: &SpanData, key: &str) -> Option<String> {
    span.attributes
        .iter()
        .find(|pair| pair.key.as_str() == key)
        .map(|pair| pair.value.to_string())
}

/// The spans of a trace, once there are `count`: a server's span ends after its caller has the answer.
async fn spans_of(trace: &str, count: usize) -> Vec<SpanData> {
    let read = async {
        loop {
            let spans = init_for_test().get_finished_spans().expect("not poisoned");
            let ours: Vec<SpanData> = spans
                .into_iter()
                .filter(|span| span.span_context.trace_id().to_string() == trace)
                .collect();
            if ours.len() >= count {
                return ours;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, read).await.expect("the spans end")
}

async fn traced(behaviour: &'static str, count: usize) -> anyhow::Result<(String, Vec<SpanData>)> {
    init_for_test();
    let server = Running::new().await?;
    let mut client = AnalyticsServiceClient::new(server.as_merchant(&["analytics:read"]));
    let span = info_span!(parent: None, "use case", waybill.service = "edge");
    let trace = telemetry::trace_id(&span).expect("a trace");
    async {
        client
            .get_summary(summary(ids().0, ids().1, behaviour))
            .await
            .map(drop)
    }
    .instrument(span)
    .await
    .or_else(|status| if behaviour.is_empty() { Err(status) } else { Ok(()) })?;
    let spans = spans_of(&trace, count).await;
    Ok((trace, spans))
}

const METHOD: &str = "waybill.analytics.v1.AnalyticsService/GetSummary";

#[tokio::test]
async fn a_call_is_one_trace_on_both_sides() -> anyhow::Result<()> {
    let (_, spans) = traced("", 3).await?;
    assert_eq!(spans.len(), 3, "{spans:#?}");
    let root = spans
        .iter()
        .find(|span| span.name == "use case")
        .expect("the root");
    let calls: Vec<&SpanData> = spans.iter().filter(|span| span.name == METHOD).collect();
    let client = calls
        .iter()
        .find(|span| span.span_kind == SpanKind::Client)
        .expect("the client's span");
    let server = calls
        .iter()
        .find(|span| span.span_kind == SpanKind::Server)
        .expect("the server's span");
    assert_eq!(root.parent_span_id, SpanId::INVALID);
    assert_eq!(client.parent_span_id, root.span_context.span_id());
    assert_eq!(server.parent_span_id, client.span_context.span_id());
    for (key, value) in [
        ("rpc.system", "grpc"),
        ("rpc.service", "waybill.analytics.v1.AnalyticsService"),
        ("rpc.method", "GetSummary"),
        ("rpc.grpc.status_code", "0"),
        (SERVICE_FIELD, "analytics"),
    ] {
        assert_eq!(attribute(server, key).as_deref(), Some(value), "{key}");
    }
    assert_eq!(attribute(client, SERVICE_FIELD).as_deref(), Some("test"));
    assert_eq!(server.status, SpanStatus::Unset);
    let told = format!("{server:?}");
    assert!(
        !told.contains(&ids().0.to_string()) && !told.contains("ada"),
        "no data of the call: {told}"
    );
    Ok(())
}

#[tokio::test]
async fn a_span_tells_how_its_call_ended() -> anyhow::Result<()> {
    let (trace, spans) = traced("internal", 3).await?;
    let server = spans
        .iter()
        .find(|span| span.span_kind == SpanKind::Server)
        .expect("the server's span");
    assert_eq!(attribute(server, "rpc.grpc.status_code").as_deref(), Some("13"));
    assert_eq!(attribute(server, "error.type").as_deref(), Some("INTERNAL"));
    assert!(
        matches!(server.status, SpanStatus::Error { .. }),
        "{:?}",
        server.status
    );

    let (_, spans) = traced("bare", 3).await?;
    let server = spans
        .iter()
        .find(|span| span.span_kind == SpanKind::Server)
        .expect("the server's span");
    assert_eq!(attribute(server, "rpc.grpc.status_code").as_deref(), Some("5"));
    assert_eq!(
        server.status,
        SpanStatus::Unset,
        "NOT_FOUND is an answer, not a failure of the server"
    );

    // The caller of an internal error gets the trace id to ask with.
    let server = Running::new().await?;
    let mut client = AnalyticsServiceClient::new(server.as_merchant(&["analytics:read"]));
    let mut request = tonic::Request::new(summary(ids().0, ids().1, "panic"));
    request
        .metadata_mut()
        .insert("traceparent", format!("00-{trace}-00f067aa0ba902b7-01").parse()?);
    let hidden = client.get_summary(request).await.expect_err("a panic");
    let told = waybill_rpc::fault::error_info(&hidden)
        .expect("details")
        .metadata
        .remove("trace_id");
    assert!(told.is_some(), "{hidden:?}");
    assert!(hidden.message().contains(&told.unwrap_or_default()), "{hidden:?}");
    Ok(())
}

#[tokio::test]
async fn calls_are_counted_and_timed_by_method_and_status() -> anyhow::Result<()> {
    let exporter = InMemoryMetricExporter::default();
    let meters = SdkMeterProvider::builder()
        .with_periodic_exporter(exporter.clone())
        .build();
    opentelemetry::global::set_meter_provider(meters.clone());
    let server = Running::new().await?;
    let mut client = AnalyticsServiceClient::new(server.as_merchant(&["analytics:read"]));
    client.get_summary(summary(ids().0, ids().1, "")).await?;
    client
        .get_summary(summary(ids().0, ids().1, "bare"))
        .await
        .expect_err("not found");
    server.shutdown.cancel();
    tokio::time::timeout(SOON, server.ended).await???;

    meters.force_flush()?;
    let finished = exporter.get_finished_metrics()?;
    let told = format!("{finished:?}");
    let points: Vec<BTreeMap<String, String>> = finished
        .iter()
        .flat_map(|resource| resource.scope_metrics())
        .flat_map(|scope| scope.metrics())
        .filter(|metric| metric.name() == "rpc.server.call.duration")
        .filter_map(|metric| match metric.data() {
            AggregatedMetrics::F64(MetricData::Histogram(histogram)) => Some(histogram.data_points()),
            _ => None,
        })
        .flatten()
        .map(|point| {
            point
                .attributes()
                .map(|pair| (pair.key.to_string(), pair.value.to_string()))
                .collect()
        })
        .collect();
    for code in ["0", "5"] {
        assert!(
            points.iter().any(|labels| labels["rpc.method"] == "GetSummary"
                && labels["rpc.grpc.status_code"] == code
                && labels[SERVICE_FIELD] == "analytics"),
            "no call with status {code} in {points:?}"
        );
    }
    assert!(
        !told.contains(&ids().0.to_string()),
        "no data of calls in metrics"
    );
    Ok(())
}
