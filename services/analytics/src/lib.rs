//! The analytics service of Waybill: counts what happened, and can prove it.
//!
//! The tour: [`consumers`] follows the logs of order, fulfillment, refund and notification and keeps one row a fact;
//! every figure is a query over these rows, with its definition beside it; [`domain`] holds what a figure means; [`grpc`]
//! shows it.
//!
//! It owns no truth: its tables can be thrown away and computed again from the logs, and are then equal. It tells nobody
//! anything. `README.md` defines every figure and numbers the invariants.

pub mod config;
pub mod consumers;
pub mod domain;
pub mod error;
pub mod grpc;
mod store;

use futures_util::future::BoxFuture;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use waybill_events::FoldOptions;
use waybill_kernel::time::{self, SystemClock};
use waybill_proto::waybill::analytics::v1::analytics_service_server::AnalyticsServiceServer;
use waybill_service::{Service, StartError};

pub use crate::config::Config;
use crate::consumers::{Facts, SOURCES};
use crate::grpc::Grpc;

/// The service's name: its schema and its role.
pub const NAME: &str = "analytics";

static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// What the service is given besides its settings.
#[derive(Clone)]
pub struct Deps {
    /// Now.
    pub clock: time::Shared,
}

/// The service, wired.
pub struct App {
    service: Service,
}

/// Both steps are boxed: the futures are large, and so they are compiled here once and not in everything that uses them.
impl App {
    /// Connects to the database, brings its schema up to date and wires everything. Nothing runs before [`App::run`];
    /// NATS and the other services need not be there yet.
    ///
    /// # Errors
    ///
    /// See [`StartError`].
    pub fn build(config: Config, deps: Deps) -> BoxFuture<'static, Result<Self, StartError>> {
        Box::pin(async move {
            let base = Service::connect(NAME, config.common, &SOURCES, &MIGRATOR, deps.clock.clone()).await?;
            let rpcs = AnalyticsServiceServer::new(Grpc::new(base.db().clone(), deps.clock))
                .max_decoding_message_size(base.common().limits.max_message_bytes);
            // No relay: nothing is ever appended here.
            let service = base.fold(Facts, FoldOptions::default()).rpc(rpcs);
            Ok(Self { service })
        })
    }

    /// Serves and follows until `shutdown`: takes no new calls, lets those that run end, then stops the work behind them. A
    /// part that fails stops all of it.
    ///
    /// # Errors
    ///
    /// See [`StartError`].
    pub fn run(
        self,
        listener: TcpListener,
        shutdown: CancellationToken,
    ) -> BoxFuture<'static, Result<(), StartError>> {
        Box::pin(self.service.run(listener, shutdown))
    }
}

/// The life of the process `waybill-analytics`: listens where its settings say, and serves until `shutdown`.
///
/// # Errors
///
/// See [`StartError`].
pub async fn serve(config: Config, shutdown: CancellationToken) -> Result<(), StartError> {
    let listener = waybill_service::listen(config.common.listen).await?;
    let clock = SystemClock::shared();
    let app = App::build(config, Deps { clock }).await?;
    app.run(listener, shutdown).await
}
