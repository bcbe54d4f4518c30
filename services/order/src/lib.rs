//! The order service of Waybill: takes orders in and keeps what is true about them.
//!
//! A tour, from the wire inwards:
//!
//! - `grpc` parses a request, calls a use case and shows what came of it.
//! - `app` holds the use cases: placing (any number of orders in one transaction), cancelling, recording payments,
//!   reading, watching.
//! - [`domain`] holds the rules, pure: limits, prices and totals, the four facets as state machines.
//! - `store` holds all SQL; the constraints in `migrations/` say once more what must never be.
//! - `events` tells others what happened; `consumers` takes over what they tell about orders.
//!
//! [`App::build`] connects and wires, [`App::run`] serves. The invariants O-1 to O-14, which code and tests cite, are
//! numbered in the crate's README.

mod app;
mod config;
mod consumers;
pub mod domain;
mod error;
mod events;
mod grpc;
mod store;
mod workers;

use std::sync::Arc;

use secrecy::{ExposeSecret as _, SecretString};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use waybill_events::{Backbone, BackboneError, Peers, identity_check};
use waybill_kernel::time::{self, SystemClock};
use waybill_proto::FILE_DESCRIPTOR_SET;
use waybill_proto::waybill::order::v1::order_service_server::OrderServiceServer;
use waybill_rpc::auth::{KeysError, Verifier};
use waybill_rpc::client::{self, TokenSource};
use waybill_rpc::server::{ServeError, Server};
use waybill_runtime::config::ConfigError;
use waybill_runtime::service::CommonConfig;
use waybill_runtime::tasks::{GroupError, TaskGroup};
use waybill_store::migrate::{MigrationError, migrate};
use waybill_store::{ConnectError, Db, DbOptions, StoreError};

pub use crate::config::{Config, Placing};
pub use crate::error::Error;

use crate::app::{Customers, Intake, Orders, Watch};
use crate::consumers::OrderFold;
use crate::grpc::OrderGrpc;

/// The service's name: its schema, its role, its stream.
pub const NAME: &str = "order";

/// The tables of this service.
static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// The least characters of the key of pseudonyms.
const MIN_CUSTOMER_KEY: usize = 16;

/// What the service is given beside its settings.
pub struct Deps {
    /// The clock.
    pub clock: time::Shared,
}

impl Default for Deps {
    fn default() -> Self {
        Deps {
            clock: SystemClock::shared(),
        }
    }
}

/// Why the service could not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting that is needed cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The key of pseudonyms can be guessed.
    #[error("customer_key has {length} characters; give {MIN_CUSTOMER_KEY} or more, random ones")]
    CustomerKeyTooShort {
        /// How many it has.
        length: usize,
    },
    /// The database cannot be used.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The database does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The schema could not be brought up to date.
    #[error(transparent)]
    Migrate(#[from] MigrationError),
    /// The keys that tokens are checked with cannot be used.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// A peer's address cannot be used.
    #[error("peers.{peer} cannot be used")]
    Peer {
        /// The peer.
        peer: String,
        /// Why not.
        source: client::ConnectError,
    },
    /// The address to listen on cannot be used.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// Log, relay or consumer could not start.
    #[error(transparent)]
    Backbone(#[from] BackboneError),
    /// The server could not start, or had to cut calls.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// A background task failed or hung.
    #[error(transparent)]
    Tasks(#[from] GroupError),
}

/// The service, ready to run.
pub struct App {
    common: CommonConfig,
    clock: time::Shared,
    db: Db,
    verifier: Verifier,
    backbone: Backbone,
    orders: Orders,
}

impl App {
    /// Connects to the database, brings its schema up to date and wires everything together. Nothing runs yet.
    ///
    /// # Errors
    ///
    /// See [`StartError`].
    pub async fn build(config: Config, deps: Deps) -> Result<App, StartError> {
        let common = &config.common;
        let auth = &common.auth;
        let verifier = Verifier::new(&auth.jwks_json()?, &auth.issuer, &auth.audience)?;
        let options = DbOptions {
            on_connect: vec![identity_check()],
            ..DbOptions::default()
        };
        let db = Db::connect_with(&common.database, NAME, options).await?;
        migrate(&db, &[&waybill_events::MIGRATOR, &MIGRATOR]).await?;
        let customer_key = customer_key(&config, &db).await?;

        let fold = OrderFold {
            clock: Arc::clone(&deps.clock),
        };
        let backbone = Backbone::new(&db, &common.nats, peers(common)?)
            .relay()
            .fold(fold);
        let log = backbone.log();
        let orders = Orders {
            intake: Intake::new(&db, &log, config.placing),
            watch: Watch::new(&db, config.max_watches),
            db: db.clone(),
            log,
            clock: Arc::clone(&deps.clock),
            handling_days: config.handling_days,
            customers: Customers::new(customer_key),
        };
        Ok(App {
            common: config.common,
            clock: deps.clock,
            db,
            verifier,
            backbone,
            orders,
        })
    }

    /// Serves until `shutdown` is cancelled, or until something fails that cannot go on.
    ///
    /// # Errors
    ///
    /// See [`StartError`].
    pub async fn run(self, listener: TcpListener, shutdown: CancellationToken) -> Result<(), StartError> {
        let App {
            common,
            clock,
            db,
            verifier,
            backbone,
            orders,
        } = self;
        // Calls end before the tasks they rely on do.
        let tasks = TaskGroup::new(&CancellationToken::new());
        let most = common.limits.max_message_bytes;
        let server = Server::new(NAME, verifier, common.limits)
            .grace(common.shutdown_grace)
            .add(
                OrderServiceServer::new(OrderGrpc {
                    orders: orders.clone(),
                })
                // Answers are bounded by what one answer may hold, see `app::query` and `grpc::batch`.
                .max_decoding_message_size(most),
                FILE_DESCRIPTOR_SET,
            )
            .add(backbone.grpc(), FILE_DESCRIPTOR_SET);
        backbone.clock(clock).spawn(&tasks).await?;
        tasks.spawn("watch", Arc::clone(&orders.watch).run(tasks.token()));
        tasks.spawn(
            "request keys",
            workers::forget_request_keys(db.clone(), tasks.token()),
        );

        // A task that fails stops the server, and with it the service.
        let stop = shutdown.child_token();
        let serving = server.serve(listener, stop.clone());
        tokio::pin!(serving);
        let served = tokio::select! {
            served = &mut serving => served,
            () = tasks.stopping() => {
                stop.cancel();
                serving.await
            }
        };
        let ended = tasks.shutdown(common.shutdown_grace).await;
        db.close().await;
        served?;
        Ok(ended?)
    }
}

/// The way to each service whose log is followed. One that is not configured is refused by the backbone, which knows who
/// needs it.
fn peers(common: &CommonConfig) -> Result<Peers, StartError> {
    let mut peers = Peers::new();
    for &peer in OrderFold::SOURCES {
        if let Some(address) = common.peers.get(peer) {
            let token = TokenSource::fixed(common.auth.service_token.read("auth.service_token")?);
            let channel = client::connect(address, token, NAME).map_err(|source| StartError::Peer {
                peer: peer.to_owned(),
                source,
            })?;
            peers.insert(peer.to_owned(), channel);
        }
    }
    Ok(peers)
}

/// The key of pseudonyms: the configured one, else the one that the schema keeps.
async fn customer_key(config: &Config, db: &Db) -> Result<SecretString, StartError> {
    if !config.customer_key.is_set() {
        return Ok(store::customer_key(db.pool()).await?);
    }
    let key = config.customer_key.read("customer_key")?;
    let length = key.expose_secret().chars().count();
    if length < MIN_CUSTOMER_KEY {
        return Err(StartError::CustomerKeyTooShort { length });
    }
    Ok(key)
}

/// Builds the service and runs it on the address of its settings.
///
/// # Errors
///
/// See [`StartError`].
pub async fn run(config: Config, deps: Deps, shutdown: CancellationToken) -> Result<(), StartError> {
    let address = config.common.listen;
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| StartError::Listen { address, source })?;
    App::build(config, deps).await?.run(listener, shutdown).await
}
