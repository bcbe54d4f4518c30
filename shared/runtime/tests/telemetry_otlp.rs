//! Export to a collector. A process of its own, since telemetry is set up once.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use tokio::sync::mpsc;
use tonic::transport::server::TcpIncoming;
use tracing::info_span;
use waybill_runtime::telemetry::{self, LogFormat, TelemetryConfig};

/// A collector that takes everything and passes on what it got.
async fn collector() -> anyhow::Result<(String, mpsc::UnboundedReceiver<(String, Bytes)>)> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("http://{}", listener.local_addr()?);
    let (got, take) = mpsc::unbounded_channel();
    let service = tower::service_fn(move |request: http::Request<tonic::body::Body>| {
        let got = got.clone();
        async move {
            let path = request.uri().path().to_owned();
            if let Ok(body) = request.into_body().collect().await {
                // The test may have seen enough.
                let _ = got.send((path, body.to_bytes()));
            }
            // An empty message: everything was taken.
            let mut response = http::Response::new(Full::new(Bytes::from_static(&[0; 5])));
            let headers = response.headers_mut();
            headers.insert("content-type", http::HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-status", http::HeaderValue::from_static("0"));
            Ok::<_, Infallible>(response)
        }
    });
    tokio::spawn(
        tonic::transport::Server::builder().serve_with_incoming(service, TcpIncoming::from(listener)),
    );
    Ok((address, take))
}

#[tokio::test]
async fn spans_and_metrics_reach_a_collector() -> anyhow::Result<()> {
    let (address, mut take) = collector().await?;
    let config = TelemetryConfig {
        logs: LogFormat::Off,
        otlp_endpoint: Some(address),
        flush_timeout: Duration::from_secs(10),
        ..TelemetryConfig::default()
    };
    let guard = telemetry::init(&config, "demo")?;
    info_span!("span that is exported", waybill.service = "order").in_scope(|| {});
    opentelemetry::global::meter("waybill")
        .u64_counter("counter_that_is_exported")
        .build()
        .add(1, &[]);
    assert!(
        tokio::task::spawn_blocking(move || guard.shutdown()).await?,
        "all was sent"
    );

    let mut found = Vec::new();
    while found.len() < 2 {
        let (path, body) = tokio::time::timeout(Duration::from_secs(10), take.recv())
            .await?
            .expect("the collector runs");
        for name in ["span that is exported", "counter_that_is_exported"] {
            if body.windows(name.len()).any(|window| window == name.as_bytes()) {
                found.push((path.clone(), name));
            }
        }
    }
    found.sort();
    assert_eq!(
        found[0].0,
        "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"
    );
    assert_eq!(
        found[1].0,
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
    );
    Ok(())
}
