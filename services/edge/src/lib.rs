//! The edge of Waybill: HTTP for those who do not speak gRPC.
//!
//! - [`webhooks`]: AfterShip and Stripe tell what happened; a delivery is verified, then handed to its service.
//! - [`pages`]: what a store has published for its customers.
//!
//! It owns no data and decides nothing: whatever it is told goes to a service over gRPC.

pub mod config;
pub mod error;
pub mod pages;
pub mod webhooks;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, Request, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use waybill_kernel::time::{self, SystemClock};
use waybill_proto::waybill::fulfillment::v1::fulfillment_service_client::FulfillmentServiceClient;
use waybill_proto::waybill::order::v1::order_service_client::OrderServiceClient;
use waybill_proto::waybill::refund::v1::refund_service_client::RefundServiceClient;
use waybill_rpc::client::{self, Channel, ConnectError, TokenSource};
use waybill_runtime::config::ConfigError;

pub use crate::config::Config;

/// What the edge is given besides its settings.
pub struct Deps {
    /// Now.
    pub clock: time::Shared,
}

/// Why the edge could not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The service token cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A service cannot be called.
    #[error(transparent)]
    Peer(#[from] ConnectError),
    /// A service is not named.
    #[error("peers.{0} is not set")]
    NoPeer(&'static str),
    /// The listener failed.
    #[error("the HTTP server failed")]
    Serve(#[source] std::io::Error),
}

/// The edge, wired.
pub struct App {
    config: Config,
    clock: time::Shared,
    fulfillment: FulfillmentServiceClient<Channel>,
    refunds: RefundServiceClient<Channel>,
    /// None where the order service is not named.
    orders: Option<OrderServiceClient<Channel>>,
}

impl App {
    /// Wires the edge; the services are connected to by the first call.
    pub fn build(config: Config, deps: Deps) -> Result<Self, StartError> {
        let token = TokenSource::fixed(config.common.auth.service_token.read("auth.service_token")?);
        let channel = |service: &'static str| -> Result<Channel, StartError> {
            let url = config
                .common
                .peers
                .get(service)
                .ok_or(StartError::NoPeer(service))?;
            Ok(client::connect(url, token.clone(), "edge")?)
        };
        let (fulfillment, refund) = (channel("fulfillment")?, channel("refund")?);
        let orders = if config.common.peers.contains_key("order") {
            Some(OrderServiceClient::new(channel("order")?))
        } else {
            None
        };
        Ok(Self {
            clock: deps.clock,
            fulfillment: FulfillmentServiceClient::new(fulfillment),
            refunds: RefundServiceClient::new(refund),
            orders,
            config,
        })
    }

    /// Serves until `shutdown`, then lets running requests end.
    pub async fn run(self, listener: TcpListener, shutdown: CancellationToken) -> Result<(), StartError> {
        axum::serve(listener, self.router())
            .with_graceful_shutdown(shutdown.cancelled_owned())
            .await
            .map_err(StartError::Serve)
    }

    fn router(self) -> Router {
        let (limit, within) = (self.config.max_body_bytes, self.config.request_timeout);
        Router::new()
            .route("/healthz", get(|| async { StatusCode::OK }))
            .route("/policies/{merchant}/{store}", get(pages::policy))
            .route(
                "/webhooks/aftership/{merchant}/{store}",
                post(webhooks::aftership::receive),
            )
            .route(
                "/webhooks/stripe/{merchant}/{store}",
                post(webhooks::stripe::receive),
            )
            .layer(DefaultBodyLimit::max(limit))
            .layer(middleware::from_fn(move |request, next| {
                guard(within, request, next)
            }))
            .with_state(Arc::new(self))
    }
}

/// Bounds every request in time, gives it a span, and sends headers that keep pages from being misused.
async fn guard(within: Duration, request: Request<axum::body::Body>, next: Next) -> Response {
    // The path holds ids only; a query could hold a token, so it is left out.
    let span = tracing::info_span!(
        "http",
        otel.name = %format!("{} {}", request.method(), request.uri().path().split('/').nth(1).unwrap_or_default()),
        otel.kind = "server",
        http.request.method = %request.method(),
        http.response.status_code = tracing::field::Empty,
        waybill.service = "edge",
    );
    let answer = tokio::time::timeout(within, next.run(request).instrument(span.clone())).await;
    let mut response = answer.unwrap_or_else(|_| StatusCode::GATEWAY_TIMEOUT.into_response());
    span.record("http.response.status_code", response.status().as_u16());
    let headers = response.headers_mut();
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
    );
    response
}

/// The life of the process `waybill-edge`: listens where its settings say, and serves until `shutdown`.
///
/// # Errors
///
/// See [`StartError`].
pub async fn serve(config: Config, shutdown: CancellationToken) -> Result<(), StartError> {
    let listener = TcpListener::bind(config.http).await.map_err(StartError::Serve)?;
    let clock = SystemClock::shared();
    App::build(config, Deps { clock })?.run(listener, shutdown).await
}
