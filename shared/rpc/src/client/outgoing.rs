//! The channel: what is added to an outgoing call, and how its failures are told.
//!
//! What it refuses to do: wait for a connection longer than the call's deadline.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response};
use tokio::time::Instant;
use tonic::body::Body;
use tonic::transport::{ClientTlsConfig, Endpoint};
use tonic::{Code, Status, TimeoutExpired};
use tower::Service;
use tracing::{Instrument as _, Span};
use waybill_runtime::telemetry;

use super::token::TokenSource;
use crate::access::Rules;
use crate::deadline::{self, GRPC_TIMEOUT};
use crate::fault::{self, Refusal};

/// Where a channel should go is no address.
#[derive(Debug, thiserror::Error)]
#[error("\"{url}\" is no address of a service, write http://host:port: {source}")]
pub struct ConnectError {
    url: String,
    source: tonic::transport::Error,
}

/// A channel to one service. Cheap to clone; clones share the connection.
#[derive(Clone, Debug)]
pub struct Channel {
    inner: tonic::transport::Channel,
    outgoing: Arc<Outgoing>,
}

#[derive(Clone, Debug)]
struct Outgoing {
    token: TokenSource,
    caller: String,
    domain: String,
    deadline: Duration,
}

/// A channel to the service at `url` for `caller` (the short name of the service or program that calls).
///
/// Connects at the first call and again after a failure; `https` is checked against the system's roots. Must be called
/// inside of a tokio runtime. A unary call without a deadline gets 10 seconds, or what is left
/// to the call that is being served, whichever is less.
///
/// # Errors
///
/// When `url` is no address.
pub fn connect(url: &str, token: TokenSource, caller: &str) -> Result<Channel, ConnectError> {
    let bad = |source| ConnectError {
        url: url.to_owned(),
        source,
    };
    let mut endpoint = Endpoint::from_shared(url.to_owned())
        .and_then(|endpoint| endpoint.user_agent(format!("waybill-{caller}/{}", env!("CARGO_PKG_VERSION"))))
        .map_err(bad)?
        .connect_timeout(Duration::from_secs(5))
        .tcp_nodelay(true)
        .tcp_keepalive(Some(Duration::from_secs(60)))
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true)
        // Errors carry their details in headers.
        .http2_max_header_list_size(64 * 1024);
    if url.starts_with("https:") {
        endpoint = endpoint
            .tls_config(ClientTlsConfig::new().with_native_roots())
            .map_err(bad)?;
    }
    Ok(Channel {
        inner: endpoint.connect_lazy(),
        outgoing: Arc::new(Outgoing {
            token,
            caller: caller.to_owned(),
            domain: format!("{caller}.waybill"),
            deadline: Duration::from_secs(10),
        }),
    })
}

impl Channel {
    /// The same channel with another default deadline for unary calls.
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Channel {
        let outgoing = Arc::new(Outgoing {
            deadline,
            ..(*self.outgoing).clone()
        });
        Channel { outgoing, ..self }
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Response<Body>, Status>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        let outgoing = &self.outgoing;
        self.inner
            .poll_ready(context)
            .map_err(|error| outgoing.failed(error))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let outgoing = Arc::clone(&self.outgoing);
        let span = outgoing.span(request.uri().path());
        if let Err(status) = span.in_scope(|| outgoing.prepare(&mut request)) {
            record(&span, status.code());
            return Box::pin(std::future::ready(Err(status)));
        }
        let answer = self.inner.call(request);
        Box::pin(
            async move {
                let outcome = answer.await.map_err(|error| outgoing.failed(error));
                let code = match &outcome {
                    Ok(response) => {
                        Status::from_header_map(response.headers()).map_or(Code::Ok, |status| status.code())
                    }
                    Err(status) => status.code(),
                };
                record(&Span::current(), code);
                outcome
            }
            .instrument(span),
        )
    }
}

impl Outgoing {
    fn span(&self, path: &str) -> Span {
        let name = path.trim_start_matches('/');
        let (service, method) = name.split_once('/').unwrap_or((name, ""));
        tracing::info_span!(
            "call",
            otel.name = name,
            otel.kind = "client",
            otel.status_code = tracing::field::Empty,
            rpc.system = "grpc",
            rpc.service = service,
            rpc.method = method,
            rpc.grpc.status_code = tracing::field::Empty,
            waybill.service = %self.caller,
        )
    }

    /// Adds token, trace and deadline.
    fn prepare(&self, request: &mut Request<Body>) -> Result<(), Status> {
        let streaming = Rules::own()
            .get(request.uri().path())
            .is_some_and(|rule| rule.client_streaming || rule.server_streaming);
        let headers = request.headers_mut();
        if let Some(timeout) = self.timeout(deadline::of(headers), streaming)? {
            headers.insert(GRPC_TIMEOUT, deadline::header(timeout));
        }
        if let Some(traceparent) = telemetry::current_traceparent()
            && let Ok(value) = HeaderValue::try_from(traceparent)
        {
            headers.insert("traceparent", value);
        }
        // A call that brings a token of its own keeps it.
        if !headers.contains_key(AUTHORIZATION) {
            let token = self.token.header().map_err(|error| {
                Refusal::new(
                    Code::Unauthenticated,
                    &self.domain,
                    "TOKEN_UNAVAILABLE",
                    error.to_string(),
                )
                .into_status()
            })?;
            if let Some(token) = token {
                headers.insert(AUTHORIZATION, token);
            }
        }
        Ok(())
    }

    /// The time for a call: what it asks for, else the default (not for streams, whose length nobody knows), and never
    /// more than is left to the call that is being served.
    fn timeout(&self, asked: Option<Duration>, streaming: bool) -> Result<Option<Duration>, Status> {
        let own = asked.or((!streaming).then_some(self.deadline));
        let left = deadline::current().map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = match (own, left) {
            (Some(own), Some(left)) => Some(own.min(left)),
            (own, left) => own.or(left),
        };
        if timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err(self.late());
        }
        Ok(timeout)
    }

    fn late(&self) -> Status {
        Refusal::new(
            Code::DeadlineExceeded,
            &self.domain,
            "DEADLINE_EXCEEDED",
            "the call was not answered before its deadline",
        )
        .into_status()
    }

    /// A failure of the transport as a status of ours.
    fn failed(&self, error: tonic::transport::Error) -> Status {
        if is_timeout(&error) {
            return self.late();
        }
        let status = Status::from_error(Box::new(error));
        if fault::error_info(&status).is_some() {
            return status;
        }
        // A connection that broke says UNKNOWN or INTERNAL here; to whoever calls, the service is away.
        let message = format!("the service cannot be reached: {}", status.message());
        Refusal::new(Code::Unavailable, &self.domain, "PEER_UNAVAILABLE", message).into_status()
    }
}

fn is_timeout(error: &tonic::transport::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.is::<TimeoutExpired>() {
            return true;
        }
        cause = error.source();
    }
    false
}

fn record(span: &Span, code: Code) {
    span.record("rpc.grpc.status_code", code as i64);
    if code != Code::Ok {
        span.record("otel.status_code", "ERROR");
    }
}
