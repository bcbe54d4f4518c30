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
//! [`grpc`] is the surface, `store` is all SQL. `README.md` numbers the invariants F-1 to F-10 that code and tests cite.
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

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use waybill_events::{Backbone, BackboneError, FoldOptions, Log, Peers, identity_check};
use waybill_kernel::time;
use waybill_proto::FILE_DESCRIPTOR_SET;
use waybill_proto::waybill::fulfillment::v1::fulfillment_service_server::FulfillmentServiceServer;
use waybill_rpc::auth::{KeysError, Verifier};
use waybill_rpc::client::{self, TokenSource};
use waybill_rpc::server::{ServeError, Server};
use waybill_runtime::config::ConfigError;
use waybill_runtime::service::CommonConfig;
use waybill_runtime::tasks::{GroupError, TaskGroup};
use waybill_store::jobs::{JobOptions, JobRunner};
use waybill_store::migrate::{MigrationError, migrate};
use waybill_store::{ConnectError, Db, DbOptions};

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

/// Why the service could not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting or secret cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The address to listen on cannot be had.
    #[error("cannot listen on the configured address")]
    Listen(#[source] std::io::Error),
    /// The keys that tokens are checked with cannot be used.
    #[error("auth.jwks cannot be used")]
    Keys(#[from] KeysError),
    /// The database cannot be used.
    #[error("the database cannot be used")]
    Connect(#[from] ConnectError),
    /// The schema could not be brought up to date.
    #[error("the schema could not be migrated")]
    Migrate(#[from] MigrationError),
    /// The address of a peer is none.
    #[error("a peer's address cannot be used")]
    Peer(#[from] client::ConnectError),
    /// The backbone could not start.
    #[error("the event backbone could not start")]
    Backbone(#[from] BackboneError),
    /// The gRPC server failed.
    #[error("the gRPC server failed")]
    Serve(#[from] ServeError),
    /// A background task failed or hung.
    #[error("a background task did not end well")]
    Tasks(#[from] GroupError),
}

/// The service, ready to run.
pub struct App {
    common: CommonConfig,
    db: Db,
    backbone: Backbone,
    server: Server,
    giver: workers::StockGiver,
}

impl App {
    /// Connects, migrates and wires. Neither NATS nor the peers need be there yet.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn build(config: Config, deps: Deps) -> Result<Self, StartError> {
        let Config { common, lanes } = config;
        let verifier = Verifier::new(
            &common.auth.jwks_json()?,
            &common.auth.issuer,
            &common.auth.audience,
        )?;
        let options = DbOptions {
            on_connect: vec![identity_check()],
            ..DbOptions::default()
        };
        let db = Db::connect_with(&common.database, NAME, options).await?;
        migrate(&db, &[&waybill_events::MIGRATOR, &MIGRATOR]).await?;

        let follow = consumers::Follow::new(deps.clock.clone());
        let backbone = Backbone::new(&db, &common.nats, peers(&common)?)
            .relay()
            .fold_with(
                follow,
                FoldOptions {
                    lanes,
                    ..FoldOptions::default()
                },
            );
        let log: Log = backbone.log();
        let rpcs = grpc::Grpc::new(db.clone(), log.clone(), deps.clock.clone());
        let server = Server::new(NAME, verifier, common.limits.clone())
            .grace(common.shutdown_grace)
            .add(
                FulfillmentServiceServer::new(rpcs)
                    .max_decoding_message_size(common.limits.max_message_bytes),
                FILE_DESCRIPTOR_SET,
            )
            .add(backbone.grpc(), FILE_DESCRIPTOR_SET);
        let giver = workers::StockGiver {
            db: db.clone(),
            log,
            clock: deps.clock,
        };
        Ok(Self {
            common,
            db,
            backbone,
            server,
            giver,
        })
    }

    /// Serves until `shutdown` is cancelled: takes no new calls, lets those that run end, then stops the work behind them.
    ///
    /// # Errors
    /// When the server or a background task fails, which also stops the service.
    pub async fn run(self, listener: TcpListener, shutdown: CancellationToken) -> Result<(), StartError> {
        let behind = CancellationToken::new();
        let tasks = TaskGroup::new(&behind);
        self.backbone.spawn(&tasks).await?;
        let giver = JobRunner::new(self.db.clone(), self.giver, JobOptions::default());
        tasks.spawn("give stock", giver.run(tasks.token()));
        tasks.spawn("prune", workers::prune(self.db.clone(), tasks.token()));

        // A task that fails stops the server, and with it the service.
        let stop = shutdown.child_token();
        let serving = self.server.serve(listener, stop.clone());
        tokio::pin!(serving);
        let served = tokio::select! {
            served = &mut serving => served,
            () = tasks.stopping() => {
                stop.cancel();
                serving.await
            }
        };
        behind.cancel();
        let ended = tasks.shutdown(self.common.shutdown_grace).await;
        self.db.close().await;
        served?;
        Ok(ended?)
    }
}

fn peers(common: &CommonConfig) -> Result<Peers, StartError> {
    let mut peers = Peers::new();
    for name in PEERS {
        // One that is missing is refused by the backbone, which knows who needs it.
        if let Some(url) = common.peers.get(name) {
            let token = TokenSource::fixed(common.auth.service_token.read("auth.service_token")?);
            peers.insert(name.to_owned(), client::connect(url, token, NAME)?);
        }
    }
    Ok(peers)
}
