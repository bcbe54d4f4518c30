//! How a service starts, serves and stops.
//!
//! Every service stands on the same ground: a schema that is migrated, a log with its relay, consumers, jobs, and a gRPC
//! server. [`Service`] puts them together in the same way for all, so that a service's own `lib.rs` says only what is its
//! own:
//!
//! ```ignore
//! let base = Service::connect(NAME, config.common, &PEERS, &MIGRATOR, deps.clock).await?;
//! let rpcs = Grpc::new(base.db().clone(), base.log());
//! base.relay().fold(Follow, FoldOptions::default()).rpc(OrderServiceServer::new(rpcs)).run(listener, shutdown).await
//! ```
//!
//! It decides nothing about orders, and knows no service by name.

mod grpc;
mod view;

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use http::{Request, Response};
use sqlx::migrate::Migrator;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::server::NamedService;
use waybill_events::{
    Archive, ArchiveError, Backbone, BackboneError, Fold, FoldOptions, Log, OutsideEffects, Peers,
    UpkeepOptions, Witness, register_effects,
};
use waybill_kernel::time;
use waybill_proto::FILE_DESCRIPTOR_SET;
use waybill_proto::waybill::jobs::v1::job_service_server::JobServiceServer;
use waybill_rpc::auth::{KeysError, Verifier};
use waybill_rpc::client::{self, Channel, ConnectError as AddressError, TokenSource};
use waybill_rpc::server::{ServeError, Server};
use waybill_runtime::config::ConfigError;
use waybill_runtime::service::CommonConfig;
use waybill_runtime::tasks::{GroupError, TaskGroup};
use waybill_store::durability::{DurabilityError, require_durable};
use waybill_store::jobs::{self, JobHandler, JobOptions, JobRunner, Limits};
use waybill_store::migrate::{MigrationError, migrate};
use waybill_store::{ConnectError, Db, DbOptions, MaintenanceOptions, StoreError, maintain};

pub use crate::grpc::JobApi;

/// Why a service could not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting or secret cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The keys that tokens are checked with cannot be used.
    #[error("auth.jwks cannot be used")]
    Keys(#[from] KeysError),
    /// The database cannot be used.
    #[error("the database cannot be used")]
    Connect(#[from] ConnectError),
    /// The database may lose what it has acknowledged.
    #[error(transparent)]
    MayLose(#[from] DurabilityError),
    /// The schema could not be brought up to date.
    #[error("the schema could not be migrated")]
    Migrate(#[from] MigrationError),
    /// A service that is needed is not named.
    #[error("peers.{0} is not set: give its address, e.g. http://{0}:7000")]
    NoPeer(&'static str),
    /// The address of a peer is none.
    #[error("peers.{service} cannot be used")]
    Peer {
        /// The peer.
        service: &'static str,
        /// What is wrong with it.
        source: AddressError,
    },
    /// What the service needs in its database could not be written: kinds of outside effects, limits of destinations.
    #[error("the database could not be prepared")]
    Prepare(#[from] StoreError),
    /// The archive of the event log cannot be used.
    #[error("log.archive cannot be used")]
    Archive(#[from] ArchiveError),
    /// The backbone could not start.
    #[error("the event backbone could not start")]
    Backbone(#[from] BackboneError),
    /// The address to listen on cannot be had.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The gRPC server failed.
    #[error("the gRPC server failed")]
    Serve(#[from] ServeError),
    /// A background task failed or hung.
    #[error("a background task did not end well")]
    Tasks(#[from] GroupError),
    /// What is the service's own could not be set up: a provider, a template.
    #[error("{what} cannot be set up")]
    Own {
        /// What.
        what: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl StartError {
    /// Wraps a fault of what is the service's own.
    pub fn own(what: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        StartError::Own {
            what,
            source: source.into(),
        }
    }
}

type Start = Box<dyn FnOnce(&TaskGroup) + Send>;

/// A service being put together, then run.
#[must_use = "nothing runs before `run`"]
pub struct Service {
    common: CommonConfig,
    db: Db,
    peers: Peers,
    backbone: Backbone,
    server: Server,
    effects: Option<Arc<dyn OutsideEffects>>,
    starts: Vec<Start>,
}

impl Service {
    /// Connects to the database, brings the schema up to date, and prepares log and server. Neither NATS nor the
    /// peers need be there yet. `peers` are the services whose logs are followed or that are called.
    ///
    /// # Errors
    ///
    /// See [`StartError`].
    pub async fn connect(
        name: &'static str,
        common: CommonConfig,
        peers: &[&'static str],
        migrations: &Migrator,
        clock: time::Shared,
    ) -> Result<Self, StartError> {
        let auth = &common.auth;
        let verifier = Verifier::new(&auth.jwks_json()?, &auth.issuer, &auth.audience)?;
        let peers = channels(name, &common, peers)?;
        let witness = Witness::new();
        let options = DbOptions {
            on_connect: vec![witness.check()],
            ..DbOptions::default()
        };
        let db = Db::connect_with(&common.database, name, options).await?;
        require_durable(&db, common.database.accept_loss).await?;
        migrate(&db, &[&waybill_events::MIGRATOR, migrations]).await?;
        let backbone = Backbone::new(&db, &common.nats, peers.clone())
            .clock(clock)
            .witness(&witness)
            .upkeep(UpkeepOptions {
                partition_events: i64::from(common.log.partition_events),
                archive: common.log.archive.as_deref().map(Archive::open).transpose()?,
                keep: common.log.keep,
                ..UpkeepOptions::default()
            });
        let server = Server::new(name, verifier, common.limits.clone())
            .grace(common.shutdown_grace)
            .add(backbone.grpc(), FILE_DESCRIPTOR_SET)
            .add(
                JobServiceServer::new(JobApi::new(db.clone())),
                FILE_DESCRIPTOR_SET,
            );
        Ok(Service {
            common,
            db,
            peers,
            backbone,
            server,
            effects: None,
            starts: Vec::new(),
        })
    }

    /// The database.
    #[must_use]
    pub fn db(&self) -> &Db {
        &self.db
    }

    /// The log, for use cases to append to.
    #[must_use]
    pub fn log(&self) -> Log {
        self.backbone.log()
    }

    /// What the service shares with all others.
    #[must_use]
    pub fn common(&self) -> &CommonConfig {
        &self.common
    }

    /// A channel to a peer, for calls.
    ///
    /// # Errors
    ///
    /// [`StartError::NoPeer`] unless it was named to [`Service::connect`].
    pub fn peer(&self, service: &'static str) -> Result<Channel, StartError> {
        self.peers
            .get(service)
            .cloned()
            .ok_or(StartError::NoPeer(service))
    }

    /// Publishes the log: a service that tells the others anything needs it.
    pub fn relay(mut self) -> Self {
        self.backbone = self.backbone.relay();
        self
    }

    /// Follows the logs of others.
    pub fn fold<F: Fold>(mut self, fold: F, options: FoldOptions) -> Self {
        self.backbone = self.backbone.fold_with(fold, options);
        self
    }

    /// Serves an RPC service of the contracts.
    pub fn rpc<S>(mut self, service: S) -> Self
    where
        S: tower::Service<Request<Body>, Response = Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        self.server = self.server.add(service, FILE_DESCRIPTOR_SET);
        self
    }

    /// Names what the service's jobs do outside, so that it stops when commits were lost and a person can settle it.
    pub fn effects(mut self, effects: impl OutsideEffects) -> Self {
        self.effects = Some(Arc::new(effects));
        self
    }

    /// Sets how much the destinations of jobs bear.
    ///
    /// # Errors
    ///
    /// When the database cannot be reached.
    pub async fn destinations(self, destinations: Vec<(String, Limits)>) -> Result<Self, StartError> {
        jobs::declare(&self.db, &destinations).await?;
        Ok(self)
    }

    /// Carries out the jobs of a kind.
    pub fn work<H: JobHandler>(self, handler: H, options: JobOptions) -> Self {
        let runner = JobRunner::new(self.db.clone(), handler, options);
        self.task(H::KIND, |stop| runner.run(stop))
    }

    /// Runs something else beside the server; it is told to stop after the last call has ended.
    pub fn task<F, Fut, E>(mut self, name: &'static str, task: F) -> Self
    where
        F: FnOnce(CancellationToken) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: std::error::Error + Send + Sync + 'static,
    {
        self.starts
            .push(Box::new(move |tasks| tasks.spawn(name, task(tasks.token()))));
        self
    }

    /// Serves until `shutdown` is cancelled or a task fails: takes no new calls, lets those that run end, then stops what
    /// works behind them.
    ///
    /// # Errors
    ///
    /// When the server or a background task fails.
    pub async fn run(mut self, listener: TcpListener, shutdown: CancellationToken) -> Result<(), StartError> {
        let kinds = self.effects.as_ref().map_or(&[][..], |effects| effects.kinds());
        register_effects(&self.db, kinds).await?;
        let history = self.backbone.history(self.effects.clone());
        self.server = self.server.add(history, FILE_DESCRIPTOR_SET);
        let behind = CancellationToken::new();
        let tasks = TaskGroup::new(&behind);
        // Only now: whoever operates consumers is to find all of them.
        let server = self
            .server
            .add(self.backbone.consumer_grpc(), FILE_DESCRIPTOR_SET);
        let (status, reporter) = (self.backbone.status(), server.health());
        self.backbone.spawn(&tasks).await?;
        for start in self.starts {
            start(&tasks);
        }
        tasks.spawn("backbone health", status.report(reporter, tasks.token()));
        let upkeep = maintain(self.db.clone(), MaintenanceOptions::default(), tasks.token());
        tasks.spawn("upkeep", upkeep);
        tasks.spawn("figures", jobs::observe(self.db.clone(), tasks.token()));

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
        behind.cancel();
        let ended = tasks.shutdown(self.common.shutdown_grace).await;
        self.db.close().await;
        served?;
        Ok(ended?)
    }
}

/// Binds the address that a service of its own process is to listen on.
///
/// # Errors
///
/// [`StartError::Listen`].
pub async fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| StartError::Listen { address, source })
}

fn channels(name: &str, common: &CommonConfig, peers: &[&'static str]) -> Result<Peers, StartError> {
    if peers.is_empty() {
        return Ok(Peers::new());
    }
    let token = TokenSource::fixed(common.auth.service_token.read("auth.service_token")?);
    peers
        .iter()
        .map(|&service| {
            let url = common.peers.get(service).ok_or(StartError::NoPeer(service))?;
            let channel = client::connect(url, token.clone(), name)
                .map_err(|source| StartError::Peer { service, source })?;
            Ok((service.to_owned(), channel))
        })
        .collect()
}
