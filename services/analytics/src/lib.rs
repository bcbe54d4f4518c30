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

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use waybill_events::{Backbone, BackboneError, Peers, identity_check};
use waybill_kernel::time;
use waybill_proto::FILE_DESCRIPTOR_SET;
use waybill_proto::waybill::analytics::v1::analytics_service_server::AnalyticsServiceServer;
use waybill_rpc::auth::{KeysError, Verifier};
use waybill_rpc::client::{self, ConnectError, TokenSource};
use waybill_rpc::server::{ServeError, Server};
use waybill_runtime::config::ConfigError;
use waybill_runtime::service::CommonConfig;
use waybill_runtime::tasks::{GroupError, TaskGroup};
use waybill_store::migrate::{MigrationError, migrate};
use waybill_store::{Db, DbOptions};

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

/// Why the service could not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A secret or a key file cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The key set cannot be used.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The database cannot be connected to.
    #[error(transparent)]
    Connect(#[from] waybill_store::ConnectError),
    /// The schema cannot be brought up to date.
    #[error(transparent)]
    Migrate(#[from] MigrationError),
    /// A service is not named.
    #[error("peers.{0} is not set")]
    NoPeer(&'static str),
    /// A service cannot be called.
    #[error(transparent)]
    Peer(#[from] ConnectError),
    /// The event backbone cannot start.
    #[error(transparent)]
    Backbone(#[from] BackboneError),
    /// The address to listen on cannot be used.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The gRPC server failed.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// A background task failed.
    #[error(transparent)]
    Tasks(#[from] GroupError),
}

/// The service, wired.
pub struct App {
    common: CommonConfig,
    verifier: Verifier,
    db: Db,
    backbone: Backbone,
    grpc: Grpc,
}

impl App {
    /// Connects to the database, brings its schema up to date and wires everything. Nothing runs before [`App::run`];
    /// NATS and the other services need not be there yet.
    ///
    /// # Errors
    ///
    /// See [`StartError`].
    pub async fn build(config: Config, deps: Deps) -> Result<Self, StartError> {
        let common = config.common;
        let verifier = Verifier::new(
            &common.auth.jwks_json()?,
            &common.auth.issuer,
            &common.auth.audience,
        )?;
        let peers = peers(&common)?;

        let options = DbOptions {
            on_connect: vec![identity_check()],
            ..DbOptions::default()
        };
        let db = Db::connect_with(&common.database, NAME, options).await?;
        migrate(&db, &[&waybill_events::MIGRATOR, &MIGRATOR]).await?;

        // No relay: nothing is ever appended here.
        let backbone = Backbone::new(&db, &common.nats, peers)
            .clock(Arc::clone(&deps.clock))
            .fold(Facts);
        let grpc = Grpc::new(db.clone(), deps.clock);
        Ok(Self {
            common,
            verifier,
            db,
            backbone,
            grpc,
        })
    }

    /// Serves and follows until `shutdown`: takes no new calls, lets those that run end, then stops the work behind them. A
    /// part that fails stops all of it.
    ///
    /// # Errors
    ///
    /// See [`StartError`].
    pub async fn run(self, listener: TcpListener, shutdown: CancellationToken) -> Result<(), StartError> {
        let CommonConfig {
            limits,
            shutdown_grace,
            ..
        } = self.common;
        let service =
            AnalyticsServiceServer::new(self.grpc).max_decoding_message_size(limits.max_message_bytes);
        let server = Server::new(NAME, self.verifier, limits)
            .grace(shutdown_grace)
            .add(service, FILE_DESCRIPTOR_SET);

        let behind = TaskGroup::new(&CancellationToken::new());
        self.backbone.spawn(&behind).await?;

        let stop = shutdown.child_token();
        let failing = async {
            behind.stopping().await;
            stop.cancel();
        };
        let (served, ()) = tokio::join!(
            async {
                let served = server.serve(listener, stop.clone()).await;
                behind.token().cancel();
                served
            },
            failing,
        );
        let ended = behind.shutdown(shutdown_grace).await;
        self.db.close().await;
        served?;
        Ok(ended?)
    }
}

/// Channels to the services whose logs are followed.
fn peers(config: &CommonConfig) -> Result<Peers, StartError> {
    let token = TokenSource::fixed(config.auth.service_token.read("auth.service_token")?);
    SOURCES
        .iter()
        .map(|&name| {
            let url = config.peers.get(name).ok_or(StartError::NoPeer(name))?;
            Ok((name.to_owned(), client::connect(url, token.clone(), NAME)?))
        })
        .collect()
}
