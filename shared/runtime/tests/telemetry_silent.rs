//! A collector that never answers holds up the end of a process for no longer than it was told.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use tracing::info_span;
use waybill_runtime::telemetry::{self, LogFormat, TelemetryConfig};

#[tokio::test]
async fn a_silent_collector_delays_the_end_by_no_more_than_the_timeout() -> anyhow::Result<()> {
    // Takes connections into its backlog and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let config = TelemetryConfig {
        logs: LogFormat::Off,
        otlp_endpoint: Some(format!("http://{}", silent.local_addr()?)),
        flush_timeout: Duration::from_millis(300),
        ..TelemetryConfig::default()
    };
    let guard = telemetry::init(&config, "demo")?;
    info_span!("nobody takes it").in_scope(|| {});
    let started = Instant::now();
    // Also where it may not block, as here.
    assert!(!guard.shutdown(), "not all was sent");
    let took = started.elapsed();
    assert!(
        took >= Duration::from_millis(300) && took < Duration::from_secs(3),
        "took {took:?}"
    );
    Ok(())
}
