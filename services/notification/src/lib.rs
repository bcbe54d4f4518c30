//! The notification service of Waybill: tells customers what happens to their orders, once per stage, and proves it.
//!
//! The tour, in the order a message comes into being:
//!
//! - [`consumers`] follows the logs of order, fulfillment and refund, and plans messages.
//! - [`workers`] sends them: it asks the [`owners`] what a message says, fills the templates ([`render`]) and hands it to
//!   a carrier ([`providers`]).
//! - [`app`] holds the steps of it, each one transaction; [`events`] tells the others how a message ended.
//! - [`effects`] settles what a history that was lost may have sent, when commits were lost.
//! - [`grpc`] shows the decisions and sets brands.
//!
//! It owns brands and decisions about messages. It keeps no address and no name: those are asked for at the moment of
//! sending. `README.md` numbers the invariants.

pub mod app;
pub mod config;
pub mod consumers;
pub mod domain;
pub mod effects;
pub mod error;
pub mod events;
pub mod grpc;
pub mod owners;
pub mod providers;
pub mod render;
mod store;
pub mod workers;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use waybill_events::FoldOptions;
use waybill_kernel::time::{self, SystemClock};
use waybill_proto::waybill::fulfillment::v1::fulfillment_service_client::FulfillmentServiceClient;
use waybill_proto::waybill::notification::v1::notification_service_server::NotificationServiceServer;
use waybill_proto::waybill::order::v1::order_service_client::OrderServiceClient;
use waybill_proto::waybill::refund::v1::refund_service_client::RefundServiceClient;
use waybill_service::{Service, StartError};
use waybill_store::jobs::JobOptions;

pub use crate::config::Config;
use crate::consumers::{Messages, SOURCES};
use crate::effects::Mails;
use crate::grpc::Grpc;
use crate::owners::Owners;
use crate::providers::smtp::Smtp;
use crate::render::Renderer;
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

/// The service, wired.
pub struct App {
    service: Service,
}

/// Both steps are boxed: the futures are large, and so they are compiled here once and not in everything that uses them.
impl App {
    /// Connects to the database, brings its schema up to date and wires everything. Nothing runs before [`App::run`];
    /// NATS, the mail server and the other services need not be there yet.
    ///
    /// # Errors
    ///
    /// See [`StartError`].
    pub fn build(config: Config, deps: Deps) -> BoxFuture<'static, Result<Self, StartError>> {
        Box::pin(async move {
            let renderer = Arc::new(Renderer::new().map_err(|error| StartError::own("a template", error))?);
            let carrier =
                Arc::new(Smtp::new(&config.smtp).map_err(|error| StartError::own("the mail server", error))?);
            let destinations = vec![(app::SMTP.to_owned(), config.smtp.limits.clone())];
            let jobs = JobOptions {
                concurrency: config.concurrency,
                max_attempts: config.max_attempts,
                ..JobOptions::default()
            };
            let base = Service::connect(NAME, config.common, &SOURCES, &MIGRATOR, deps.clock.clone()).await?;
            let sender = Sender {
                db: base.db().clone(),
                log: base.log(),
                clock: Arc::clone(&deps.clock),
                owners: owners(&base)?,
                renderer: Arc::clone(&renderer),
                carrier,
                follow_up_pause: config.follow_up_pause,
                follow_up_patience: config.follow_up_patience,
                max_attempts: config.max_attempts,
            };
            let effects = Mails {
                db: base.db().clone(),
                log: base.log(),
                clock: Arc::clone(&deps.clock),
            };
            let messages = Messages {
                clock: Arc::clone(&deps.clock),
                feedback_delay: config.feedback_delay,
            };
            let rpcs = NotificationServiceServer::new(Grpc::new(base.db().clone(), deps.clock, renderer))
                .max_decoding_message_size(base.common().limits.max_message_bytes);
            let service = base
                .relay()
                .destinations(destinations)
                .await?
                .fold(messages, FoldOptions::default())
                .effects(effects)
                .work(sender, jobs)
                .rpc(rpcs);
            Ok(Self { service })
        })
    }

    /// Serves, follows and sends until `shutdown`: takes no new calls, lets those that run end, then stops the work behind
    /// them. A part that fails stops all of it.
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

fn owners(base: &Service) -> Result<Owners, StartError> {
    Ok(Owners {
        orders: OrderServiceClient::new(base.peer("order")?),
        fulfillment: FulfillmentServiceClient::new(base.peer("fulfillment")?),
        refunds: RefundServiceClient::new(base.peer("refund")?),
    })
}

/// The life of the process `waybill-notification`: listens where its settings say, and serves until `shutdown`.
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
