//! The refund service of Waybill: knows the policy, takes goods back, pays money back exactly once, keeps the books.
//!
//! The tour, in the order in which money moves:
//!
//! - [`consumers`] follows the logs of order and fulfillment: what was sold, captured, shipped and delivered.
//! - [`grpc`] takes calls in and hands them to the use cases of [`app`], each of which loads an order under its row lock,
//!   decides by the pure rules of [`domain`], and saves state, entries of the books, events and jobs in one transaction.
//! - [`workers`] calls payment providers, as jobs: intent first, then the call, then what the provider said.
//! - [`effects`] settles what a history that was lost had paid, when commits were lost.
//! - [`store`] holds all SQL; the tables in `migrations/` repeat every rule about money as a constraint.
//!
//! Whatever a provider says (as an answer, by webhook, or when asked) takes effect in one place,
//! [`app::apply_word`]. The invariants are listed in `README.md` and cited where they are kept.

pub mod app;
pub mod config;
pub mod consumers;
pub mod domain;
pub mod effects;
pub mod error;
pub mod events;
pub mod grpc;
pub mod store;
pub mod workers;

use futures_util::future::BoxFuture;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use waybill_events::FoldOptions;
use waybill_kernel::time::{self, SystemClock};
use waybill_payments::Providers;
use waybill_proto::waybill::refund::v1::refund_service_server::RefundServiceServer;
use waybill_service::{Service, StartError};
use waybill_store::jobs::JobOptions;

use crate::app::Core;
pub use crate::config::Config;
use crate::consumers::RefundFold;
use crate::effects::Payouts;
use crate::workers::{Cashier, PayCancelled, PayUnits, Resolve, Submit};

/// The service's name: its schema and its role.
pub const NAME: &str = "refund";

static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// What the service is given besides its settings.
#[derive(Clone)]
pub struct Deps {
    /// Now.
    pub clock: time::Shared,
    /// The payment providers, by name. Refunds over payments of others are carried out by a person.
    pub providers: Providers,
}

/// The service, wired.
pub struct App {
    service: Service,
}

/// Both steps are boxed: the futures are large, and so they are compiled here once and not in everything that uses them.
impl App {
    /// Connects to the database, brings its schema up to date and wires everything. Nothing runs before [`App::run`];
    /// NATS, providers and the other services need not be there yet.
    ///
    /// # Errors
    ///
    /// See [`StartError`].
    pub fn build(config: Config, deps: Deps) -> BoxFuture<'static, Result<Self, StartError>> {
        Box::pin(async move {
            let patience = config.patience();
            let jobs = JobOptions {
                concurrency: config.concurrent_calls,
                lease: config.call_lease,
                // Money that is owed stays owed: a provider may be down for a day.
                max_attempts: 500,
                poll: config.poll_jobs,
                ..JobOptions::default()
            };
            let fold = FoldOptions {
                lanes: config.fold_lanes,
                ..FoldOptions::default()
            };
            let destinations = config.destinations();
            let sources = ["order", "fulfillment"];
            let base = Service::connect(NAME, config.common, &sources, &MIGRATOR, deps.clock.clone()).await?;
            let (db, limits) = (base.db().clone(), base.common().limits.clone());
            let core = Core::new(deps.clock.clone(), base.log(), &deps.providers);
            let effects = Payouts {
                db: db.clone(),
                core: core.clone(),
                providers: deps.providers.clone(),
            };
            let cashier = Cashier::new(db.clone(), core.clone(), deps.providers, patience);
            let api = RefundServiceServer::new(grpc::Api::new(db.clone(), core.clone()))
                .max_decoding_message_size(limits.max_message_bytes);
            let service = base
                .relay()
                .destinations(destinations)
                .await?
                .fold(RefundFold::new(deps.clock), fold)
                .effects(effects)
                .work(Submit(cashier.clone()), jobs)
                .work(Resolve(cashier), jobs)
                .work(
                    PayUnits {
                        db: db.clone(),
                        core: core.clone(),
                    },
                    jobs,
                )
                .work(PayCancelled { db, core }, jobs)
                .rpc(api);
            Ok(Self { service })
        })
    }

    /// Serves, follows and pays until `shutdown`, or until a part of it fails.
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

/// The life of the process `waybill-refund`: listens where its settings say, and serves until `shutdown`.
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
    App::build(config, deps).await?.run(listener, shutdown).await
}
