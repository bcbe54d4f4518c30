//! The fulfillment service: knows what is in stock, promises it to orders, ships it and follows it.
//!
//! A tour, in the way of an order:
//!
//! 1. [`consumers`] hears of it from the order service's log. One transaction takes in the whole batch of events: the copy
//!    of the orders, the reservations, and our own events about them (`app::follow_orders`, `app::allot`).
//! 2. [`domain::allocation`] decides who gets which units from where; what is missing waits, oldest order first, until
//!    `app::adjust_stock`, a cancellation or a return brings units, or a job of [`workers`] finishes what was too much for
//!    one transaction.
//! 3. `app::create_shipment` hands reserved units to a carrier.
//! 4. `app::record_tracking` takes in what carriers say; [`domain::tracking`] decides what it makes of the shipment.
//!
//! [`grpc`] is the surface, `store` is all SQL. `README.md` numbers the invariants F-1 to F-13 that code and tests cite.
//! The service calls no other service: what it needs of an order is in the order's events.

mod app;
mod config;
pub mod consumers;
pub mod domain;
pub mod error;
pub mod events;
pub mod grpc;
mod store;
pub mod workers;

use futures_util::future::BoxFuture;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use waybill_events::FoldOptions;
use waybill_kernel::time::{self, SystemClock};
use waybill_proto::waybill::fulfillment::v1::fulfillment_service_server::FulfillmentServiceServer;
use waybill_service::{Service, StartError};
use waybill_store::jobs::JobOptions;

pub use crate::config::Config;

/// The service's name: its schema, its role, its stream.
pub const NAME: &str = "fulfillment";

/// The services whose events it follows.
const PEERS: [&str; 2] = ["order", "refund"];

/// The tables of the service, by date.
pub static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// What the service is given from outside.
pub struct Deps {
    /// The clock.
    pub clock: time::Shared,
}

/// The service, ready to run.
pub struct App {
    service: Service,
}

/// Both steps are boxed: the futures are large, and so they are compiled here once and not in everything that uses them.
impl App {
    /// Connects, migrates and wires. Neither NATS nor the peers need be there yet.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn build(config: Config, deps: Deps) -> BoxFuture<'static, Result<Self, StartError>> {
        Box::pin(async move {
            let Config { common, lanes } = config;
            let base = Service::connect(NAME, common, &PEERS, &MIGRATOR, deps.clock.clone()).await?;
            let (db, log) = (base.db().clone(), base.log());
            let rpcs =
                FulfillmentServiceServer::new(grpc::Grpc::new(db.clone(), log.clone(), deps.clock.clone()))
                    .max_decoding_message_size(base.common().limits.max_message_bytes);
            let follow = consumers::Follow::new(deps.clock.clone());
            let fold = FoldOptions {
                lanes,
                ..FoldOptions::default()
            };
            let giver = workers::StockGiver {
                db,
                log,
                clock: deps.clock,
            };
            let service = base
                .relay()
                .fold(follow, fold)
                .work(giver, JobOptions::default())
                .rpc(rpcs);
            Ok(Self { service })
        })
    }

    /// Serves until `shutdown` is cancelled: takes no new calls, lets those that run end, then stops the work behind them.
    ///
    /// # Errors
    /// When the server or a background task fails, which also stops the service.
    pub fn run(
        self,
        listener: TcpListener,
        shutdown: CancellationToken,
    ) -> BoxFuture<'static, Result<(), StartError>> {
        Box::pin(self.service.run(listener, shutdown))
    }
}

/// The life of the process `waybill-fulfillment`: listens where its settings say, and serves until `shutdown`.
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
