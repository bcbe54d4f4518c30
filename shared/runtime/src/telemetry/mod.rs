//! Logs, traces and metrics, set up once per process.
//!
//! One process may run several services, so nothing here belongs to one of them: a span says whose it is by the field
//! `waybill.service`, which spans below it inherit. Traces go to an OTLP endpoint, to a file of JSON lines, or both; logs
//! go to stderr and carry the trace id.
//!
//! What it refuses to do: fail a request because telemetry is slow or away. Spans are dropped then, and the end of the
//! process waits only as long as it was told.

mod context;
mod file;
mod logs;
mod scrape;
mod service_field;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, mpsc};
use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{KeyValue, global};
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{
    Aggregation, Instrument, InstrumentKind, PeriodicReader, SdkMeterProvider, Stream,
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, InMemorySpanExporter, Sampler, SdkTracerProvider,
    SimpleSpanProcessor, SpanExporter,
};
use serde::{Deserialize, Serialize};
use tracing::Level;
use tracing_subscriber::filter::{EnvFilter, FilterExt as _, LevelFilter, Targets, dynamic_filter_fn};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::util::SubscriberInitExt as _;
use waybill_kernel::check::Violations;

pub use context::{current_traceparent, set_parent, trace_id};
pub use file::{FileSpanExporter, SpanRecord, read_span_file};
pub use service_field::SERVICE_FIELD;

use crate::config::{Validate, seconds};
use crate::service::is_http_url;

/// How logs are written to stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object per line, for machines.
    Json,
    /// One line of text per event, for people.
    Pretty,
    /// No logs.
    Off,
}

/// Logs, traces, metrics.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct TelemetryConfig {
    /// `json`, `pretty` or `off`. Default `json`.
    pub logs: LogFormat,
    /// Which events are logged, in the syntax of tracing's `EnvFilter`. Default `info`.
    pub log_filter: String,
    /// OTLP (gRPC) endpoint for traces and metrics, e.g. `http://collector:4317`. Without it none are sent.
    pub otlp_endpoint: Option<String>,
    /// A file that every span is appended to, one JSON object per line.
    pub span_file: Option<PathBuf>,
    /// The part of new traces that is recorded, 0 to 1. A trace that a caller began follows the caller. Default 1.
    pub sample_ratio: f64,
    /// Where Prometheus finds the metrics of this process, e.g. `127.0.0.1:9464`: `GET /metrics`, without a token. Beyond
    /// loopback the neighbours can read them. Default: nowhere.
    pub metrics_listen: Option<SocketAddr>,
    /// Seconds between two exports of metrics. Default 15.
    #[serde(with = "seconds")]
    pub metrics_interval: Duration,
    /// Seconds that the end of the process waits for telemetry to be sent. Default 3.
    #[serde(with = "seconds")]
    pub flush_timeout: Duration,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        TelemetryConfig {
            logs: LogFormat::Json,
            log_filter: "info".to_owned(),
            otlp_endpoint: None,
            span_file: None,
            sample_ratio: 1.0,
            metrics_listen: None,
            metrics_interval: Duration::from_secs(15),
            flush_timeout: Duration::from_secs(3),
        }
    }
}

impl Validate for TelemetryConfig {
    fn validate(&self, violations: &mut Violations) {
        if let Err(error) = EnvFilter::try_new(&self.log_filter) {
            violations.push(
                "telemetry.log_filter",
                format!("\"{}\" is no filter: {error}", self.log_filter),
            );
        }
        if let Some(endpoint) = self
            .otlp_endpoint
            .as_deref()
            .filter(|endpoint| !is_http_url(endpoint))
        {
            violations.push(
                "telemetry.otlp_endpoint",
                format!("\"{endpoint}\" is no address; write http://host:port"),
            );
        }
        if !(0.0..=1.0).contains(&self.sample_ratio) {
            violations.push(
                "telemetry.sample_ratio",
                format!("{} is outside 0 to 1", self.sample_ratio),
            );
        }
        if self.metrics_interval.is_zero() {
            violations.push("telemetry.metrics_interval", "is 0 seconds; give more");
        }
    }
}

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// It was set up before; it belongs to the process, not to a service.
    #[error("telemetry is set up already; do it once per process")]
    AlreadyInitialised,
    /// The log filter is none.
    #[error("telemetry.log_filter \"{filter}\" is no filter: {source}")]
    Filter {
        /// The filter.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The OTLP exporter could not be made.
    #[error("telemetry.otlp_endpoint \"{endpoint}\" cannot be used: {source}")]
    Endpoint {
        /// The endpoint.
        endpoint: String,
        /// What is wrong with it.
        source: opentelemetry_otlp::ExporterBuildError,
    },
    /// The address for Prometheus cannot be had.
    #[error("telemetry.metrics_listen: cannot listen on {address}: {source}")]
    Scrape {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The metrics for Prometheus could not be set up.
    #[error("telemetry.metrics_listen: the metrics cannot be collected: {0}")]
    Collector(opentelemetry_sdk::error::OTelSdkError),
    /// The span file could not be opened.
    #[error("cannot append to the span file {}: {source}", path.display())]
    SpanFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The runtime of the exporter could not be started.
    #[error("cannot start the threads that send telemetry: {0}")]
    Threads(std::io::Error),
}

/// Sets up logs, traces and metrics of this process; `service` names it (`service.name` of the resource).
///
/// Keep the [`Guard`] until the process ends: it sends what is left.
///
/// # Errors
///
/// When telemetry was set up before, or a setting cannot be used.
pub fn init(config: &TelemetryConfig, service: &str) -> Result<Guard, TelemetryError> {
    install(config, service, None::<InMemorySpanExporter>)
}

/// As [`init`], and every span also goes to `exporter` the moment it ends. For tests.
///
/// # Errors
///
/// As [`init`].
pub fn init_with_exporter<E: SpanExporter + 'static>(
    config: &TelemetryConfig,
    service: &str,
    exporter: E,
) -> Result<Guard, TelemetryError> {
    install(config, service, Some(exporter))
}

/// Telemetry for tests: spans go to the exporter that is returned, logs are off unless `WAYBILL_TEST_LOG` holds a filter.
///
/// All tests of a process share one exporter, since a process has one subscriber; a test finds its own spans by trace id.
pub fn init_for_test() -> InMemorySpanExporter {
    static SPANS: OnceLock<(InMemorySpanExporter, Option<Guard>)> = OnceLock::new();
    let (exporter, _) = SPANS.get_or_init(|| {
        let exporter = InMemorySpanExporter::default();
        let filter = std::env::var("WAYBILL_TEST_LOG").ok();
        let config = TelemetryConfig {
            logs: if filter.is_some() {
                LogFormat::Pretty
            } else {
                LogFormat::Off
            },
            log_filter: filter.unwrap_or_else(|| "off".to_owned()),
            ..TelemetryConfig::default()
        };
        // Fails only when the test set up telemetry itself before; then its spans go where it said.
        let guard = init_with_exporter(&config, "test", exporter.clone()).ok();
        (exporter, guard)
    });
    exporter.clone()
}

fn install<E: SpanExporter + 'static>(
    config: &TelemetryConfig,
    service: &str,
    extra: Option<E>,
) -> Result<Guard, TelemetryError> {
    let filter = EnvFilter::try_new(&config.log_filter).map_err(|source| TelemetryError::Filter {
        filter: config.log_filter.clone(),
        source,
    })?;
    let resource = Resource::builder()
        .with_service_name(service.to_owned())
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    let runtime = exporter_runtime(config)?;
    let (tracers, (meters, metrics_addr)) = {
        // OTLP channels belong to the runtime they are made in. They get one of their own, so that the last spans can be
        // sent when the runtime of the process is already going down.
        let _inside = runtime.as_ref().map(tokio::runtime::Runtime::enter);
        (
            tracer_provider(config, resource.clone(), extra)?,
            meter_provider(config, resource)?,
        )
    };

    let mut layers = Vec::new();
    let spans = tracing_opentelemetry::layer()
        .with_tracer(tracers.tracer("waybill"))
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .and_then(service_field::ServiceField);
    layers.push(spans.with_filter(span_filter()).boxed());
    if config.logs != LogFormat::Off {
        layers.push(
            logs::LogLayer::new(config.logs, std::io::stderr)
                .with_filter(filter)
                .boxed(),
        );
    }
    // Made first: dropping it ends the exporters properly, whatever thread this is, should the next step fail.
    let guard = Guard {
        parts: Mutex::new(Some(Parts {
            tracers: tracers.clone(),
            meters: meters.clone(),
            runtime,
        })),
        timeout: config.flush_timeout,
        metrics_addr,
    };
    if Registry::default().with(layers).try_init().is_err() {
        return Err(TelemetryError::AlreadyInitialised);
    }
    global::set_text_map_propagator(TraceContextPropagator::new());
    global::set_tracer_provider(tracers);
    if let Some(meters) = meters {
        METRICS_ARE_READ.store(true, Ordering::Relaxed);
        global::set_meter_provider(meters);
    }
    Ok(guard)
}

static METRICS_ARE_READ: AtomicBool = AtomicBool::new(false);

/// Whether anybody reads the metrics of this process: figures that cost a query need not be taken otherwise.
#[must_use]
pub fn metrics_are_read() -> bool {
    METRICS_ARE_READ.load(Ordering::Relaxed)
}

/// Libraries whose spans are left out: they would trace the export of traces, and bury ours.
const SILENT: [&str; 14] = [
    "async_nats",
    "h2",
    "hyper",
    "hyper_util",
    "lettre",
    "opentelemetry",
    "opentelemetry_otlp",
    "opentelemetry_sdk",
    "reqwest",
    "rustls",
    "sqlx",
    "tokio",
    "tonic",
    "tower",
];

fn span_filter() -> impl tracing_subscriber::layer::Filter<Registry> + Send + Sync {
    let ours = Targets::new()
        .with_default(Level::INFO)
        .with_targets(SILENT.map(|library| (library, LevelFilter::OFF)));
    // Events are in the logs; a span carries only those that say what went wrong.
    //
    // Dynamic although the answer never changes: a static one is asked once per callsite and then skipped, and a library
    // that merely asks "would this be logged?" (sqlx does so after each statement) leaves its "no" behind for whatever
    // comes next on the thread. Asked each time, our spans and log lines overwrite it.
    ours.and(dynamic_filter_fn(|metadata, _| {
        metadata.is_span() || *metadata.level() <= Level::WARN
    }))
}

fn exporter_runtime(config: &TelemetryConfig) -> Result<Option<tokio::runtime::Runtime>, TelemetryError> {
    if config.otlp_endpoint.is_none() && config.metrics_listen.is_none() {
        return Ok(None);
    }
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("telemetry")
        .enable_all()
        .build()
        .map(Some)
        .map_err(TelemetryError::Threads)
}

fn tracer_provider<E: SpanExporter + 'static>(
    config: &TelemetryConfig,
    resource: Resource,
    extra: Option<E>,
) -> Result<SdkTracerProvider, TelemetryError> {
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.sample_ratio)));
    // Without an exporter spans are still made: their ids join logs and callers of other processes.
    let mut builder = SdkTracerProvider::builder()
        .with_resource(resource)
        .with_sampler(sampler);
    if let Some(endpoint) = &config.otlp_endpoint {
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .build()
            .map_err(|source| TelemetryError::Endpoint {
                endpoint: endpoint.clone(),
                source,
            })?;
        builder = builder.with_span_processor(batches(exporter));
    }
    if let Some(path) = &config.span_file {
        let exporter = FileSpanExporter::append(path).map_err(|source| TelemetryError::SpanFile {
            path: path.clone(),
            source,
        })?;
        builder = builder.with_span_processor(batches(exporter));
    }
    if let Some(exporter) = extra {
        builder = builder.with_span_processor(SimpleSpanProcessor::new(exporter));
    }
    Ok(builder.build())
}

fn batches<E: SpanExporter + 'static>(exporter: E) -> BatchSpanProcessor {
    let config = BatchConfigBuilder::default()
        // An import makes thousands of spans a second; the default of 2048 would lose some.
        .with_max_queue_size(65_536)
        .with_max_export_batch_size(2_048)
        .with_scheduled_delay(Duration::from_millis(500))
        .build();
    BatchSpanProcessor::builder(exporter)
        .with_batch_config(config)
        .build()
}

/// Where histograms of seconds are cut: from a millisecond to five minutes.
const SECONDS: [f64; 16] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

/// The default cuts are meant for milliseconds.
fn cut_seconds(instrument: &Instrument) -> Option<Stream> {
    if instrument.unit() != "s" || instrument.kind() != InstrumentKind::Histogram {
        return None;
    }
    let aggregation = Aggregation::ExplicitBucketHistogram {
        boundaries: SECONDS.to_vec(),
        record_min_max: true,
    };
    Stream::builder().with_aggregation(aggregation).build().ok()
}

/// The metrics, if anybody reads them, and the address at which Prometheus finds them.
fn meter_provider(
    config: &TelemetryConfig,
    resource: Resource,
) -> Result<(Option<SdkMeterProvider>, Option<SocketAddr>), TelemetryError> {
    if config.otlp_endpoint.is_none() && config.metrics_listen.is_none() {
        return Ok((None, None));
    }
    let mut meters = SdkMeterProvider::builder()
        .with_resource(resource)
        .with_view(cut_seconds);
    if let Some(endpoint) = &config.otlp_endpoint {
        let exporter = opentelemetry_otlp::MetricExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .build()
            .map_err(|source| TelemetryError::Endpoint {
                endpoint: endpoint.clone(),
                source,
            })?;
        let reader = PeriodicReader::builder(exporter)
            .with_interval(config.metrics_interval)
            .build();
        meters = meters.with_reader(reader);
    }
    let mut bound = None;
    if let Some(address) = config.metrics_listen {
        let registry = prometheus::Registry::new();
        let reader = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .build()
            .map_err(TelemetryError::Collector)?;
        meters = meters.with_reader(reader);
        let listener = scrape::bind(address)?;
        bound = listener.local_addr().ok();
        // On the runtime of telemetry, which this is called inside of.
        tokio::spawn(scrape::serve(listener, registry));
    }
    Ok((Some(meters.build()), bound))
}

/// Sends what is left when the process ends.
#[derive(Debug)]
pub struct Guard {
    parts: Mutex<Option<Parts>>,
    timeout: Duration,
    metrics_addr: Option<SocketAddr>,
}

#[derive(Debug)]
struct Parts {
    tracers: SdkTracerProvider,
    meters: Option<SdkMeterProvider>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Guard {
    /// Where Prometheus finds the metrics.
    #[must_use]
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics_addr
    }

    /// Sends the spans that have ended so far, so that a reader of the span file sees them. Blocks for at most the flush
    /// timeout; answers whether all was sent.
    pub fn flush(&self) -> bool {
        let tracers = self
            .parts
            .lock()
            .ok()
            .and_then(|parts| parts.as_ref().map(|parts| parts.tracers.clone()));
        let Some(tracers) = tracers else { return true };
        within(self.timeout, move || tracers.force_flush().is_ok())
    }

    /// Sends what is left and stops. Blocks for at most the flush timeout; answers whether all was sent. Dropping the
    /// guard does the same.
    pub fn shutdown(&self) -> bool {
        let Some(parts) = self.parts.lock().ok().and_then(|mut parts| parts.take()) else {
            return true;
        };
        let timeout = self.timeout;
        within(timeout, move || {
            let spans = parts.tracers.shutdown_with_timeout(timeout).is_ok();
            let metrics = parts.meters.is_none_or(|meters| meters.shutdown().is_ok());
            if let Some(runtime) = parts.runtime {
                runtime.shutdown_background();
            }
            spans && metrics
        })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// Runs `work` on a thread of its own and waits for at most `timeout`. Exporters may block for as long as they like, and a
/// runtime may not be dropped on a thread that serves another one.
fn within(timeout: Duration, work: impl FnOnce() -> bool + Send + 'static) -> bool {
    let (done, wait) = mpsc::channel();
    let started = std::thread::Builder::new()
        .name("telemetry-flush".to_owned())
        .spawn(move || {
            let sent = work();
            // Nobody listens any more when the time was over.
            let _ = done.send(sent);
        });
    started.is_ok() && wait.recv_timeout(timeout).unwrap_or(false)
}
