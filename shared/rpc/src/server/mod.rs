//! The gRPC server of a service.
//!
//! ```text
//! wire -> span, metrics -> load limit -> deadline, panics -> access -> service
//! ```
//!
//! Health and reflection (v1 and v1alpha) are served beside the service's own methods, open and outside of the load limit.
//! When it is asked to stop, the server says so by its health, takes no new calls, ends endless streams with UNAVAILABLE,
//! lets running calls end, and cuts those that need longer than the grace period.
//!
//! What it refuses to do: serve a method whose contract does not say who may call it.

mod answer;
mod gate;

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tower::{Layer as _, Service};

use self::gate::{Gate, Shared};
use crate::access::{AccessLayer, Rules, RulesError};
use crate::auth::Verifier;

pub use waybill_runtime::service::Limits;

/// Why a server could not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A contract cannot be enforced.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// Reflection cannot be served.
    #[error("reflection cannot be served: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The listener or the transport failed.
    #[error("the gRPC server failed: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// Calls needed longer than the grace period and were cut.
    #[error("{calls} call(s) needed longer than the grace period of {grace:?} and were cut")]
    Cut {
        /// How many.
        calls: usize,
        /// The grace period.
        grace: Duration,
    },
}

/// A gRPC server being put together.
pub struct Server {
    service: Arc<str>,
    verifier: Verifier,
    limits: Limits,
    grace: Duration,
    routes: Routes,
    descriptors: Vec<&'static [u8]>,
    names: Vec<&'static str>,
    health: HealthReporter,
}

impl Server {
    /// A server for `service` (its short name: `order`), which accepts the tokens that `verifier` does.
    pub fn new(service: &str, verifier: Verifier, limits: Limits) -> Server {
        let (health, health_service) = tonic_health::server::health_reporter();
        Server {
            service: service.into(),
            verifier,
            limits,
            grace: Duration::from_secs(20),
            routes: Routes::new(health_service),
            descriptors: vec![tonic_health::pb::FILE_DESCRIPTOR_SET],
            names: vec![
                "grpc.health.v1.Health",
                "grpc.reflection.v1.ServerReflection",
                "grpc.reflection.v1alpha.ServerReflection",
            ],
            health,
        }
    }

    /// How long running calls may take to end after the server was asked to stop. Default 20 seconds.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Server {
        self.grace = grace;
        self
    }

    /// Adds a service with the descriptors that its contract is in.
    ///
    /// The generated server has a message limit of its own, 4 MiB by default: set `max_decoding_message_size` where
    /// [`Limits`] allow more.
    #[must_use]
    pub fn add<S>(mut self, service: S, file_descriptor_set: &'static [u8]) -> Server
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        self.routes = self.routes.add_service(service);
        self.names.push(S::NAME);
        if !self.descriptors.contains(&file_descriptor_set) {
            self.descriptors.push(file_descriptor_set);
        }
        self
    }

    /// A handle to report the health of the services. All are serving from the start of [`Server::serve`] on.
    pub fn health(&self) -> HealthReporter {
        self.health.clone()
    }

    /// Serves until `shutdown` is cancelled and the running calls have ended.
    ///
    /// # Errors
    ///
    /// When a contract cannot be enforced, the transport fails, or calls had to be cut.
    pub async fn serve(
        mut self,
        listener: TcpListener,
        shutdown: CancellationToken,
    ) -> Result<(), ServeError> {
        let rules = self.rules()?;
        self.add_reflection()?;
        for name in &self.names {
            self.health.set_service_status(name, ServingStatus::Serving).await;
        }
        let address = listener.local_addr().ok();

        let shared = Arc::new(Shared::new(
            Arc::clone(&self.service),
            rules.clone(),
            self.limits.clone(),
        ));
        let access = AccessLayer::new(
            &self.service,
            rules,
            self.verifier.clone(),
            self.limits.max_message_bytes,
        );
        let stack = Gate::new(access.layer(self.routes.prepare()), Arc::clone(&shared));

        let draining = shared.draining.clone();
        let serving = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(self.limits.keepalive_interval))
            .http2_keepalive_timeout(Some(self.limits.keepalive_timeout))
            .max_concurrent_streams(self.limits.max_streams_per_connection)
            .serve_with_incoming_shutdown(
                stack,
                TcpIncoming::from(listener)
                    .with_nodelay(Some(true))
                    .with_keepalive(Some(Duration::from_secs(60))),
                draining.clone().cancelled_owned(),
            );
        if let Some(address) = address {
            tracing::info!(service = %self.service, %address, "serving gRPC");
        }
        drain(
            serving,
            shared,
            shutdown,
            Drain {
                names: self.names,
                health: self.health,
                grace: self.grace,
            },
        )
        .await
    }

    fn rules(&self) -> Result<Rules, ServeError> {
        let mut rules = Rules::default();
        for descriptors in &self.descriptors {
            rules.extend(Rules::from_descriptors(descriptors)?);
        }
        Ok(rules)
    }

    fn add_reflection(&mut self) -> Result<(), ServeError> {
        let builder = || {
            let builder = tonic_reflection::server::Builder::configure();
            let builder = self.descriptors.iter().fold(builder, |builder, set| {
                builder.register_encoded_file_descriptor_set(set)
            });
            self.names
                .iter()
                .fold(builder, |builder, name| builder.with_service_name(*name))
        };
        let (v1, v1alpha) = (builder().build_v1()?, builder().build_v1alpha()?);
        self.routes = std::mem::take(&mut self.routes)
            .add_service(v1)
            .add_service(v1alpha);
        Ok(())
    }
}

struct Drain {
    names: Vec<&'static str>,
    health: HealthReporter,
    grace: Duration,
}

/// Runs the server and, once asked to stop, ends it step by step.
async fn drain(
    serving: impl Future<Output = Result<(), tonic::transport::Error>>,
    shared: Arc<Shared>,
    shutdown: CancellationToken,
    with: Drain,
) -> Result<(), ServeError> {
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        ended = &mut serving => return Ok(ended?),
        () = shutdown.cancelled() => {}
    }
    for name in with.names.iter().chain(&[""]) {
        with.health
            .set_service_status(name, ServingStatus::NotServing)
            .await;
    }
    shared.draining.cancel();
    if let Ok(ended) = tokio::time::timeout(with.grace, &mut serving).await {
        return Ok(ended?);
    }
    let calls = shared.running();
    shared.cut.cancel();
    // Calls that are cut answer at once; connections without calls may still be held open by their callers.
    let _ = tokio::time::timeout(Duration::from_secs(1), &mut serving).await;
    if calls == 0 {
        return Ok(());
    }
    Err(ServeError::Cut {
        calls,
        grace: with.grace,
    })
}
