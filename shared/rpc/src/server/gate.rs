//! What every call passes before access control: its span, the load limit, its deadline, and a net for panics.
//!
//! What it refuses to do: queue. A call beyond the limit is told to come back, since a caller that waits times out and
//! comes back anyway.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use opentelemetry::global;
use opentelemetry::metrics::Histogram;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::Service;
use tracing::{Instrument as _, Span};
use waybill_runtime::tasks::panic_text;
use waybill_runtime::telemetry;

use super::Limits;
use super::answer::{self, Answer, Call, Stop};
use crate::access::{Rules, is_open};
use crate::deadline;
use crate::fault::Refusal;

/// What a caller should wait before it tries a busy server again.
const BUSY_RETRY: Duration = Duration::from_millis(200);

/// What all calls of a server share.
pub(super) struct Shared {
    service: Arc<str>,
    domain: String,
    rules: Rules,
    limits: Limits,
    permits: Arc<Semaphore>,
    running: AtomicUsize,
    duration: Histogram<f64>,
    /// Cancelled when no new calls are taken and endless streams end.
    pub(super) draining: CancellationToken,
    /// Cancelled when the calls that still run are cut.
    pub(super) cut: CancellationToken,
}

impl Shared {
    pub(super) fn new(service: Arc<str>, rules: Rules, limits: Limits) -> Shared {
        Shared {
            domain: format!("{service}.waybill"),
            service,
            rules,
            permits: Arc::new(Semaphore::new(limits.max_concurrent_calls)),
            limits,
            running: AtomicUsize::new(0),
            duration: global::meter("waybill")
                .f64_histogram("rpc.server.call.duration")
                .with_unit("s")
                .with_description("How long calls took, by method and status")
                .build(),
            draining: CancellationToken::new(),
            cut: CancellationToken::new(),
        }
    }

    /// How many calls of the service's own methods are running.
    pub(super) fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    pub(super) fn started(&self) {
        self.running.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn ended(&self) {
        self.running.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn service(&self) -> &str {
        &self.service
    }

    pub(super) fn domain(&self) -> &str {
        &self.domain
    }

    pub(super) fn duration(&self) -> &Histogram<f64> {
        &self.duration
    }

    fn begin(self: &Arc<Self>, request: &Request<Body>) -> Begun {
        let path = request.uri().path();
        let rule = self.rules.get(path);
        let open = is_open(path);
        // A path that no contract knows is the caller's invention and must not become a name.
        let name = if rule.is_some() {
            path.trim_start_matches('/')
        } else {
            "unknown"
        };
        let (service, method) = name.split_once('/').unwrap_or((name, name));
        // Probes come every few seconds and would bury everything else.
        let span = if open {
            Span::none()
        } else {
            self.span(name, service, method, request.headers())
        };

        let client_streaming = rule.is_some_and(|rule| rule.client_streaming);
        let endless = open || rule.is_some_and(|rule| rule.server_streaming);
        let given = deadline::of(request.headers());
        let allowed = given.unwrap_or(if client_streaming {
            self.limits.stream_deadline
        } else {
            self.limits.default_deadline
        });
        // tonic watches the same header and would answer without details. A millisecond earlier the answer is ours.
        let until = Instant::now() + allowed.saturating_sub(Duration::from_millis(1));
        Begun {
            stop: Stop {
                // The deadline of a stream is the caller's alone.
                until: (endless && given.is_some()).then_some(until),
                draining: endless.then(|| self.draining.clone()),
            },
            deadline: until,
            open,
            call: Call::new(Arc::clone(self), span, service, method, open),
        }
    }

    fn span(&self, name: &str, service: &str, method: &str, headers: &HeaderMap) -> Span {
        let span = tracing::info_span!(
            parent: None,
            "rpc",
            otel.name = name,
            otel.kind = "server",
            otel.status_code = tracing::field::Empty,
            rpc.system = "grpc",
            rpc.service = service,
            rpc.method = method,
            rpc.grpc.status_code = tracing::field::Empty,
            error.r#type = tracing::field::Empty,
            waybill.service = %self.service,
        );
        if let Some(parent) = headers.get("traceparent").and_then(|value| value.to_str().ok()) {
            telemetry::set_parent(&span, parent);
        }
        span
    }

    fn permit(&self) -> Result<OwnedSemaphorePermit, Status> {
        Arc::clone(&self.permits).try_acquire_owned().map_err(|_| {
            let message = format!(
                "{} calls are running, which is the limit; try again later",
                self.limits.max_concurrent_calls
            );
            Refusal::new(Code::ResourceExhausted, &self.domain, "SERVER_BUSY", message)
                .retry_after(BUSY_RETRY)
                .into_status()
        })
    }
}

struct Begun {
    call: Call,
    stop: Stop,
    deadline: Instant,
    open: bool,
}

/// The outermost part of a server.
#[derive(Clone)]
pub(super) struct Gate<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S> Gate<S> {
    pub(super) fn new(inner: S, shared: Arc<Shared>) -> Self {
        Gate { inner, shared }
    }
}

impl<S> Service<Request<Body>> for Gate<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let ready = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, ready);
        let shared = Arc::clone(&self.shared);
        let begun = shared.begin(&request);
        let span = begun.call.span().clone();
        Box::pin(async move { Ok(pass(inner, shared, begun, request).await) }.instrument(span))
    }
}

async fn pass<S>(mut inner: S, shared: Arc<Shared>, begun: Begun, request: Request<Body>) -> Response<Body>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Send + 'static,
    S::Future: Send + 'static,
{
    let Begun {
        mut call,
        stop,
        deadline,
        open,
    } = begun;
    if !open {
        match shared.permit() {
            Ok(permit) => call.hold(permit),
            Err(status) => return answer::refusal(call, status),
        }
    }
    let work = deadline::scope(
        (!open).then_some(deadline),
        async move { inner.call(request).await },
    );
    let outcome = tokio::select! {
        biased;
        outcome = AssertUnwindSafe(work).catch_unwind() => outcome,
        () = tokio::time::sleep_until(deadline), if !open => return answer::refusal(call, answer::deadline_exceeded(&shared)),
        () = shared.cut.cancelled() => return answer::refusal(call, answer::shutting_down(&shared)),
    };
    match outcome {
        Ok(Ok(response)) => Answer::wrap(response, call, stop),
        Ok(Err(never)) => match never {},
        Err(panic) => answer::refusal(call, answer::panicked(&shared, &panic_text(panic.as_ref()))),
    }
}
