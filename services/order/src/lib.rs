//! The order service of Waybill: takes orders in and keeps what is true about them.
//!
//! A tour, from the wire inwards:
//!
//! - `grpc` parses a request, calls a use case and shows what came of it.
//! - `app` holds the use cases: placing (any number of orders in one transaction), changing, editing, holding,
//!   cancelling, recording payments, reading, finding, watching, importing, making drafts, forgetting customers.
//! - [`domain`] holds the rules, pure: limits, prices and totals, the four facets as state machines.
//! - [`formats`] reads files of orders as their bytes arrive.
//! - `workers` calls payment providers, as jobs: intent first, then the call, then what the provider said.
//! - `store` holds all SQL; the constraints in `migrations/` say once more what must never be.
//! - `events` tells others what happened; `consumers` takes over what they tell about orders.
//!
//! [`App::build`] connects and wires, [`App::run`] serves. The invariants O-1 to O-35, which code and tests cite, are
//! numbered in the crate's README.

mod app;
mod config;
mod consumers;
pub mod domain;
mod error;
mod events;
pub mod formats;
mod grpc;
mod store;
mod workers;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use waybill_events::FoldOptions;
use waybill_kernel::time::{self, SystemClock};
use waybill_payments::Providers;
use waybill_proto::waybill::order::v1::customer_service_server::CustomerServiceServer;
use waybill_proto::waybill::order::v1::draft_order_service_server::DraftOrderServiceServer;
use waybill_proto::waybill::order::v1::order_service_server::OrderServiceServer;
use waybill_service::{Service, StartError};
use waybill_store::Db;
use waybill_store::jobs::JobOptions;

pub use crate::config::{Calls, Capture, Config, Holds, Placing, StoreCapture, StoreHolds};
pub use crate::domain::capture::CapturePolicy;
pub use crate::error::{Error, ImportError};

use crate::app::{Customers, Eraser, Exports, Imports, Intake, Lookups, Numbers, Orders, Watch};
use crate::consumers::OrderFold;
use crate::grpc::{CustomerGrpc, DraftGrpc, OrderGrpc};
use crate::workers::{Cashier, Resolve, Submit, SweepAuthorizations};

/// The service's name: its schema, its role, its stream.
pub const NAME: &str = "order";

/// The tables of this service.
static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// The least characters of the key of pseudonyms.
const MIN_CUSTOMER_KEY: usize = 16;

/// What the service is given from outside.
pub struct Deps {
    /// The clock.
    pub clock: time::Shared,
    /// The payment providers, by name. Payments of others are captured and voided by a person.
    pub providers: Providers,
}

/// The service, ready to run.
pub struct App {
    service: Service,
}

/// Both steps are boxed: the futures are large, and so they are compiled here once and not in everything that uses them.
impl App {
    /// Connects to the database, brings its schema up to date and wires everything together. Nothing runs yet.
    ///
    /// # Errors
    ///
    /// See [`StartError`].
    pub fn build(config: Config, deps: Deps) -> BoxFuture<'static, Result<App, StartError>> {
        Box::pin(async move {
            let Deps { clock, providers } = deps;
            let base = Service::connect(
                NAME,
                config.common.clone(),
                OrderFold::SOURCES,
                &MIGRATOR,
                Arc::clone(&clock),
            )
            .await?;
            let (db, log) = (base.db().clone(), base.log());
            let customer_key = customer_key(&config, &db).await?;
            // One draw for each lane of the intake, and one for all who place beside it.
            let numbers = Numbers::new(&db, config.placing.lanes.saturating_add(1));
            let orders = Orders {
                intake: Intake::new(&db, &log, &numbers, config.placing),
                numbers,
                lookups: Lookups::new(&db),
                watch: Watch::new(&db, config.max_watches),
                exports: Exports::new(config.max_exports),
                imports: Imports::new(config.max_imports),
                db,
                log,
                clock: Arc::clone(&clock),
                handling_days: config.handling_days,
                draft_keep: config.draft_keep,
                customers: Customers::new(customer_key),
                rules: Arc::new(config.holds.rulebook()),
                capture: Arc::new(config.capture.rules(&providers)),
            };
            let fold = OrderFold {
                clock,
                capture: Arc::clone(&orders.capture),
            };
            let (jobs, destinations) = (config.calls.jobs(), config.destinations());
            let cashier = Cashier::new(orders.clone(), providers, config.calls.patience());
            let watch = Arc::clone(&orders.watch);
            // Answers are bounded by what one answer may hold, see `app::query` and `grpc::batch`.
            let most = base.common().limits.max_message_bytes;
            let customers = CustomerServiceServer::new(CustomerGrpc {
                orders: orders.clone(),
            })
            .max_decoding_message_size(most);
            let drafts = DraftOrderServiceServer::new(DraftGrpc {
                orders: orders.clone(),
            })
            .max_decoding_message_size(most);
            let clerk = orders.clone();
            let eraser = Eraser {
                orders: orders.clone(),
                pause: config.erasure_pause,
            };
            // Two at once: an erasure of a hundred thousand orders keeps a connection busy, and nobody waits for it.
            let erasing = JobOptions {
                concurrency: 2,
                ..JobOptions::default()
            };
            let rpcs = OrderServiceServer::new(OrderGrpc { orders }).max_decoding_message_size(most);
            let service = base
                .relay()
                .destinations(destinations)
                .await?
                .fold(fold, FoldOptions::default())
                .work(SweepAuthorizations(cashier.clone()), jobs)
                .work(Submit(cashier.clone()), jobs)
                .work(Resolve(cashier), jobs)
                .task("watch", |stop| watch.run(stop))
                .work(eraser, erasing)
                .task("drafts", |stop| clerk.forget_old_drafts(stop))
                .rpc(customers)
                .rpc(drafts)
                .rpc(rpcs);
            Ok(App { service })
        })
    }

    /// Serves until `shutdown` is cancelled, or until something fails that cannot go on.
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

/// The key of pseudonyms can be guessed.
#[derive(Debug, thiserror::Error)]
#[error("it has {length} characters; give {MIN_CUSTOMER_KEY} or more, random ones")]
struct KeyTooShort {
    length: usize,
}

/// The key of pseudonyms: the configured one, else the one that the schema keeps.
async fn customer_key(config: &Config, db: &Db) -> Result<SecretString, StartError> {
    if !config.customer_key.is_set() {
        return store::customer_key(db.pool())
            .await
            .map_err(|error| StartError::own("the key of pseudonyms", error));
    }
    let key = config.customer_key.read("customer_key")?;
    let length = key.expose_secret().chars().count();
    if length < MIN_CUSTOMER_KEY {
        return Err(StartError::own("customer_key", KeyTooShort { length }));
    }
    Ok(key)
}

/// The life of the process `waybill-order`: listens where its settings say, and serves until `shutdown`.
///
/// # Errors
///
/// See [`StartError`].
pub async fn serve(config: Config, shutdown: CancellationToken) -> Result<(), StartError> {
    let listener = waybill_service::listen(config.common.listen).await?;
    let deps = Deps {
        clock: SystemClock::shared(),
        providers: config.build_providers()?,
    };
    let app = App::build(config, deps).await?;
    app.run(listener, shutdown).await
}
