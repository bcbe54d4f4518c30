//! The notification service of Waybill: tells customers what happens to their orders, once per stage, and proves it.
//!
//! The tour, in the order a message comes into being:
//!
//! - [`consumers`] follows the logs of order, fulfillment and refund, and plans messages.
//! - [`workers`] sends them: it asks the [`owners`] what a message says, fills the templates ([`render`]) and hands it to
//!   a carrier ([`providers`]).
//! - [`app`] holds the steps of it, each one transaction; [`events`] tells the others how a message ended.
//! - [`grpc`] shows the decisions and sets brands.
//!
//! It owns brands and decisions about messages. It keeps no address and no name: those are asked for at the moment of
//! sending. `README.md` numbers the invariants.

pub mod app;
pub mod config;
pub mod consumers;
pub mod domain;
pub mod error;
pub mod events;
pub mod grpc;
pub mod owners;
pub mod providers;
pub mod render;
mod store;
pub mod workers;

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use waybill_events::{Backbone, BackboneError, Peers, identity_check};
use waybill_kernel::time;
use waybill_proto::FILE_DESCRIPTOR_SET;
use waybill_proto::waybill::fulfillment::v1::fulfillment_service_client::FulfillmentServiceClient;
use waybill_proto::waybill::notification::v1::notification_service_server::NotificationServiceServer;
use waybill_proto::waybill::order::v1::order_service_client::OrderServiceClient;
use waybill_proto::waybill::refund::v1::refund_service_client::RefundServiceClient;
use waybill_rpc::auth::{KeysError, Verifier};
use waybill_rpc::client::{self, Channel, ConnectError, TokenSource};
use waybill_rpc::server::{ServeError, Server};
use waybill_runtime::config::ConfigError;
use waybill_runtime::tasks::{GroupError, TaskGroup};
use waybill_store::jobs::{JobOptions, JobRunner};
use waybill_store::migrate::{MigrationError, migrate};
use waybill_store::{Db, DbOptions, MaintenanceOptions, maintain};

pub use crate::config::Config;
use crate::consumers::{Messages, SOURCES};
use crate::grpc::Grpc;
use crate::owners::Owners;
use crate::providers::smtp::{Smtp, SmtpError};
use crate::render::{RenderError, Renderer};
use crate::workers::Sender;

/// The service's name: its schema, its log, its role.
pub const NAME: &str = "notification";

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
    /// The mail server cannot be used as configured.
    #[error(transparent)]
    Smtp(#[from] SmtpError),
    /// A built-in template cannot be read.
    #[error(transparent)]
    Templates(#[from] RenderError),
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
    config: Config,
    verifier: Verifier,
    db: Db,
    backbone: Backbone,
    grpc: Grpc,
    sender: Sender,
}

impl App {
    /// Connects to the database, brings its schema up to date and wires everything. Nothing runs before [`App::run`];
    /// NATS, the mail server and the other services need not be there yet.
    ///
    /// # Errors
    ///
    /// See [`StartError`].
    pub async fn build(config: Config, deps: Deps) -> Result<Self, StartError> {
        let auth = &config.common.auth;
        let verifier = Verifier::new(&auth.jwks_json()?, &auth.issuer, &auth.audience)?;
        let peers = peers(&config)?;
        let owners = owners(&peers)?;
        let renderer = Arc::new(Renderer::new()?);
        let carrier = Arc::new(Smtp::new(&config.smtp)?);

        let options = DbOptions {
            on_connect: vec![identity_check()],
            ..DbOptions::default()
        };
        let db = Db::connect_with(&config.common.database, NAME, options).await?;
        migrate(&db, &[&waybill_events::MIGRATOR, &MIGRATOR]).await?;

        let backbone = Backbone::new(&db, &config.common.nats, peers)
            .clock(Arc::clone(&deps.clock))
            .relay()
            .fold(Messages {
                feedback_delay: config.feedback_delay,
            });
        let sender = Sender {
            db: db.clone(),
            log: backbone.log(),
            clock: Arc::clone(&deps.clock),
            owners,
            renderer: Arc::clone(&renderer),
            carrier,
            follow_up_pause: config.follow_up_pause,
            follow_up_patience: config.follow_up_patience,
            max_attempts: config.max_attempts,
        };
        let grpc = Grpc::new(db.clone(), deps.clock, renderer);
        Ok(Self {
            config,
            verifier,
            db,
            backbone,
            grpc,
            sender,
        })
    }

    /// Serves, follows and sends until `shutdown`: takes no new calls, lets those that run end, then stops the work behind
    /// them. A part that fails stops all of it.
    ///
    /// # Errors
    ///
    /// See [`StartError`].
    pub async fn run(self, listener: TcpListener, shutdown: CancellationToken) -> Result<(), StartError> {
        let Config {
            common,
            concurrency,
            max_attempts,
            ..
        } = self.config;
        let service = NotificationServiceServer::new(self.grpc)
            .max_decoding_message_size(common.limits.max_message_bytes);
        let server = Server::new(NAME, self.verifier, common.limits)
            .grace(common.shutdown_grace)
            .add(service, FILE_DESCRIPTOR_SET)
            .add(self.backbone.grpc(), FILE_DESCRIPTOR_SET);

        let behind = TaskGroup::new(&CancellationToken::new());
        self.backbone.spawn(&behind).await?;
        let options = JobOptions {
            concurrency,
            max_attempts,
            ..JobOptions::default()
        };
        let sender = JobRunner::new(self.db.clone(), self.sender, options);
        behind.spawn("sender", sender.run(behind.token()));
        let maintenance = maintain(self.db.clone(), MaintenanceOptions::default(), behind.token());
        behind.spawn("maintenance", maintenance);

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
        let ended = behind.shutdown(common.shutdown_grace).await;
        self.db.close().await;
        served?;
        Ok(ended?)
    }
}

/// Channels to the services whose logs are followed and that are asked what messages say.
fn peers(config: &Config) -> Result<Peers, StartError> {
    let token = TokenSource::fixed(config.common.auth.service_token.read("auth.service_token")?);
    SOURCES
        .iter()
        .map(|&name| {
            let url = config.common.peers.get(name).ok_or(StartError::NoPeer(name))?;
            Ok((name.to_owned(), client::connect(url, token.clone(), NAME)?))
        })
        .collect()
}

fn owners(peers: &Peers) -> Result<Owners, StartError> {
    let channel = |name: &'static str| -> Result<Channel, StartError> {
        peers.get(name).cloned().ok_or(StartError::NoPeer(name))
    };
    Ok(Owners {
        orders: OrderServiceClient::new(channel("order")?),
        fulfillment: FulfillmentServiceClient::new(channel("fulfillment")?),
        refunds: RefundServiceClient::new(channel("refund")?),
    })
}
