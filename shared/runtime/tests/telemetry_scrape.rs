//! Prometheus finds the metrics of the process, and nothing else.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use opentelemetry::{KeyValue, global};
use waybill_runtime::telemetry::{LogFormat, TelemetryConfig, init, metrics_are_read};

fn ask(address: SocketAddr, request: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(
        stream,
        "{request} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn metrics_are_scraped() -> anyhow::Result<()> {
    assert!(!metrics_are_read());
    let config = TelemetryConfig {
        logs: LogFormat::Off,
        metrics_listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        ..TelemetryConfig::default()
    };
    let guard = init(&config, "test")?;
    assert!(metrics_are_read());
    let address = guard.metrics_addr().expect("it listens");

    let meter = global::meter("test");
    let of = [KeyValue::new("job.kind", "refund.submit")];
    meter.u64_counter("waybill.job.attempts").build().add(3, &of);
    let lag = meter.f64_histogram("waybill.fold.lag").with_unit("s").build();
    lag.record(0.003, &of);
    meter.i64_gauge("waybill.job.held").build().record(1, &of);

    let page = ask(address, "GET /metrics")?;
    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
    for line in [
        "waybill_job_attempts_total{job_kind=\"refund.submit\"",
        "waybill_fold_lag_seconds_bucket{job_kind=\"refund.submit\"",
        "waybill_job_held{job_kind=\"refund.submit\"",
        // Cut for seconds and not for milliseconds.
        "le=\"0.005\"",
    ] {
        assert!(page.contains(line), "{line} is not in\n{page}");
    }
    assert!(ask(address, "GET /")?.starts_with("HTTP/1.1 404"));
    assert!(ask(address, "POST /metrics")?.starts_with("HTTP/1.1 405"));
    assert!(guard.shutdown());
    Ok(())
}
