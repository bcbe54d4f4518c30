//! The answer of a call on its way out: its status is counted, made whole, and its stream ended when it must.
//!
//! Every error leaves with an `ErrorInfo`. Those that tonic makes itself (a message that does not decode, a method that is
//! not there) get theirs here; an INTERNAL without details, which must be somebody's shortcut, is hidden and logged.
//!
//! What it refuses to do: look into messages.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant as Started};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Response};
use http_body::{Body as _, Frame, SizeHint};
use opentelemetry::KeyValue;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::{Code, Status};
use tracing::Span;
use waybill_runtime::tasks::panic_text;
use waybill_runtime::telemetry;

use super::gate::Shared;
use crate::fault::{self, Refusal};

const DETAILS: &str = "grpc-status-details-bin";
const STATUS: &str = "grpc-status";

/// One running call. What became of it is recorded when it is dropped.
pub(super) struct Call {
    shared: Arc<Shared>,
    span: Span,
    service: String,
    method: String,
    started: Started,
    /// A probe: neither counted nor measured.
    open: bool,
    outcome: Option<(Code, Option<String>)>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Call {
    pub(super) fn new(shared: Arc<Shared>, span: Span, service: &str, method: &str, open: bool) -> Call {
        if !open {
            shared.started();
        }
        Call {
            shared,
            span,
            service: service.to_owned(),
            method: method.to_owned(),
            started: Started::now(),
            open,
            outcome: None,
            permit: None,
        }
    }

    pub(super) fn span(&self) -> &Span {
        &self.span
    }

    /// Keeps a place under the load limit until the call has ended.
    pub(super) fn hold(&mut self, permit: OwnedSemaphorePermit) {
        self.permit = Some(permit);
    }

    /// Takes note of a status in headers or trailers, and makes it whole.
    fn settle(&mut self, headers: &mut HeaderMap) {
        if !headers.contains_key(STATUS) {
            return;
        }
        let Some(mut status) = Status::from_header_map(headers) else {
            return;
        };
        if status.code() != Code::Ok && !headers.contains_key(DETAILS) {
            status = self.complete(&status);
            // It fails only for texts that are no header, and these are escaped.
            let _ = status.add_header(headers);
        }
        self.outcome = Some((status.code(), fault::reason(&status)));
    }

    /// A status that lacks its details.
    fn complete(&self, status: &Status) -> Status {
        let domain = self.shared.domain();
        match status.code() {
            // What tonic says when prost cannot decode a request.
            Code::Internal if status.message().starts_with("failed to decode Protobuf message") => {
                Refusal::new(
                    Code::InvalidArgument,
                    domain,
                    "MESSAGE_MALFORMED",
                    status.message(),
                )
                .into_status()
            }
            Code::Internal | Code::Unknown | Code::DataLoss => {
                tracing::error!(error = status.message(), "a call failed inside");
                internal(&self.shared)
            }
            code => Refusal::new(code, domain, code_name(code), status.message()).into_status(),
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.open {
            return;
        }
        self.shared.ended();
        // Without a status the caller went away before the end.
        let (code, reason) = self.outcome.take().unwrap_or((Code::Cancelled, None));
        self.span.in_scope(|| {
            self.span.record("rpc.grpc.status_code", code as i64);
            if let Some(reason) = reason {
                self.span.record("error.type", reason);
            }
            if is_server_fault(code) {
                self.span.record("otel.status_code", "ERROR");
            }
        });
        let labels = [
            KeyValue::new("rpc.system", "grpc"),
            KeyValue::new("rpc.service", std::mem::take(&mut self.service)),
            KeyValue::new("rpc.method", std::mem::take(&mut self.method)),
            KeyValue::new("rpc.grpc.status_code", code as i64),
            KeyValue::new(telemetry::SERVICE_FIELD, self.shared.service().to_owned()),
        ];
        self.shared
            .duration()
            .record(self.started.elapsed().as_secs_f64(), &labels);
    }
}

/// Statuses that count as the server's fault, after the conventions of OpenTelemetry.
fn is_server_fault(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

fn internal(shared: &Shared) -> Status {
    let trace = telemetry::trace_id(&Span::current());
    fault::internal(shared.domain(), trace)
}

pub(super) fn panicked(shared: &Shared, text: &str) -> Status {
    tracing::error!(panic = text, "a handler panicked");
    internal(shared)
}

pub(super) fn deadline_exceeded(shared: &Shared) -> Status {
    let message = "the call was not done before its deadline";
    Refusal::new(
        Code::DeadlineExceeded,
        shared.domain(),
        "DEADLINE_EXCEEDED",
        message,
    )
    .into_status()
}

pub(super) fn shutting_down(shared: &Shared) -> Status {
    let message = "the server is shutting down; try again, a stream from its last cursor";
    Refusal::new(Code::Unavailable, shared.domain(), "SHUTTING_DOWN", message)
        .retry_after(Duration::from_millis(500))
        .into_status()
}

/// A call that is answered with an error before the service was reached, or instead of it.
pub(super) fn refusal(mut call: Call, status: Status) -> Response<Body> {
    call.outcome = Some((status.code(), fault::reason(&status)));
    status.into_http()
}

/// When a stream of answers is ended by the server.
pub(super) struct Stop {
    pub(super) until: Option<Instant>,
    pub(super) draining: Option<CancellationToken>,
}

enum Stopped {
    Deadline,
    Draining,
    Cut,
}

impl Stop {
    async fn stopped(self, cut: CancellationToken) -> Stopped {
        let late = async {
            match self.until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        let draining = async {
            match self.draining {
                Some(token) => token.cancelled_owned().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = late => Stopped::Deadline,
            () = draining => Stopped::Draining,
            () = cut.cancelled_owned() => Stopped::Cut,
        }
    }
}

/// The body of an answer.
pub(super) struct Answer {
    inner: Body,
    call: Call,
    /// Only of answers that may take long.
    stopped: Option<BoxFuture<'static, Stopped>>,
    done: bool,
}

impl Answer {
    pub(super) fn wrap(response: Response<Body>, mut call: Call, stop: Stop) -> Response<Body> {
        let (mut parts, inner) = response.into_parts();
        call.settle(&mut parts.headers);
        let long = stop.until.is_some() || stop.draining.is_some();
        let cut = call.shared.cut.clone();
        let stopped = long.then(|| Box::pin(stop.stopped(cut)) as BoxFuture<'static, Stopped>);
        Response::from_parts(
            parts,
            Body::new(Answer {
                inner,
                call,
                stopped,
                done: false,
            }),
        )
    }

    /// Ends the stream with a status.
    fn end(&mut self, status: &Status) -> Frame<Bytes> {
        self.done = true;
        self.call.outcome = Some((status.code(), fault::reason(status)));
        let mut trailers = HeaderMap::new();
        // It fails only for texts that are no header, and these are escaped.
        let _ = status.add_header(&mut trailers);
        Frame::trailers(trailers)
    }

    fn next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.done {
            return Poll::Ready(None);
        }
        let inner = &mut self.inner;
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| Pin::new(inner).poll_frame(context)));
        match polled {
            Ok(Poll::Ready(Some(Ok(frame)))) => Poll::Ready(Some(Ok(self.settle_trailers(frame)))),
            Ok(Poll::Ready(end)) => {
                self.done = true;
                Poll::Ready(end)
            }
            Ok(Poll::Pending) => {
                let Some(stopped) = &mut self.stopped else {
                    return Poll::Pending;
                };
                let Poll::Ready(stopped) = stopped.as_mut().poll(context) else {
                    return Poll::Pending;
                };
                let status = match stopped {
                    Stopped::Deadline => deadline_exceeded(&self.call.shared),
                    Stopped::Draining | Stopped::Cut => shutting_down(&self.call.shared),
                };
                Poll::Ready(Some(Ok(self.end(&status))))
            }
            Err(panic) => {
                let status = panicked(&self.call.shared, &panic_text(panic.as_ref()));
                Poll::Ready(Some(Ok(self.end(&status))))
            }
        }
    }

    fn settle_trailers(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        match frame.into_trailers() {
            Ok(mut trailers) => {
                self.call.settle(&mut trailers);
                Frame::trailers(trailers)
            }
            Err(frame) => frame,
        }
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let span = self.call.span.clone();
        span.in_scope(|| self.next(context))
    }

    fn is_end_stream(&self) -> bool {
        self.done || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
