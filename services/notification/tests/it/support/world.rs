//! The service, running.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use prost::{Message, Name};
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use waybill_events::{Event, Fold as _, FoldError, Log, Projection, Reaction};
use waybill_kernel::id::{MerchantId, OrderId, StoreId};
use waybill_kernel::time::{Clock as _, FakeClock, SystemClock};
use waybill_notification::config::Security;
use waybill_notification::consumers::Messages;
use waybill_notification::{App, Config, Deps};
use waybill_proto::waybill::notification::v1 as proto;
use waybill_proto::waybill::notification::v1::notification_service_client::NotificationServiceClient;
use waybill_proto::waybill::notification::v1::{NotificationState, Stage};
use waybill_rpc::client::{self, Channel};
use waybill_runtime::service::DatabaseConfig;
use waybill_service::StartError;
use waybill_store::{Db, RetryClass as _};
use waybill_testkit::{Auth, Mail, MailSink, TestDb, common_config, database, eventually};

use super::{Facts, StandIn};

/// Where nobody listens.
const NOWHERE: &str = "127.0.0.1:1";

/// How long a test waits for something that happens by itself.
pub const SOON: Duration = Duration::from_secs(30);

/// The service with one merchant and one store of it, and the outside world around it.
pub struct World {
    pub merchant: MerchantId,
    pub store: StoreId,
    pub clock: FakeClock,
    pub auth: Auth,
    pub client: NotificationServiceClient<Channel>,
    pub db: Db,
    pub log: Log,
    pub url: String,
    pub mails: MailSink,
    pub owners: StandIn,
    pub config: Config,
    messages: Messages,
    numbers: AtomicU32,
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), StartError>>,
    _database: Arc<TestDb>,
}

impl World {
    /// A service that hears of orders only through [`World::feed`], for a store with a brand.
    pub async fn start() -> anyhow::Result<Self> {
        let world = Self::without_brand(|_| {}).await?;
        world.put_brand(brand()).await?;
        Ok(world)
    }

    /// As [`World::start`], with other settings.
    pub async fn with(settings: impl FnOnce(&mut Config)) -> anyhow::Result<Self> {
        let world = Self::without_brand(settings).await?;
        world.put_brand(brand()).await?;
        Ok(world)
    }

    /// A service for a store that has no brand yet.
    pub async fn without_brand(settings: impl FnOnce(&mut Config)) -> anyhow::Result<Self> {
        let (auth, owners, shutdown) = (Auth::new(), StandIn::default(), CancellationToken::new());
        let (address, _serving) = owners.serve(&auth, shutdown.clone()).await?;
        let url = format!("http://{address}");
        let peers = ["order", "fulfillment", "refund"].map(|name| (name, url.as_str()));
        let database = Arc::new(database(&["notification"]).await);
        let nats = format!("nats://{NOWHERE}");
        Self::on(database, &nats, auth, owners, &peers, shutdown, settings).await
    }

    /// A service that follows these peers over this broker.
    pub async fn on(
        database: Arc<TestDb>,
        nats_url: &str,
        auth: Auth,
        owners: StandIn,
        peers: &[(&str, &str)],
        shutdown: CancellationToken,
        settings: impl FnOnce(&mut Config),
    ) -> anyhow::Result<Self> {
        let clock = FakeClock::new(SystemClock::shared().now());
        let mails = MailSink::start().await?;
        let mut config = Config {
            common: common_config(&database.url("notification"), nats_url, &auth, peers),
            feedback_delay: Duration::ZERO,
            follow_up_pause: Duration::from_millis(100),
            ..Config::default()
        };
        config.smtp.host = mails.smtp_addr().ip().to_string();
        config.smtp.port = mails.smtp_addr().port();
        config.smtp.security = Security::None;
        settings(&mut config);
        let app = App::build(
            config.clone(),
            Deps {
                clock: clock.shared(),
            },
        )
        .await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let running = tokio::spawn(app.run(listener, shutdown.clone()));

        let merchant = MerchantId::generate();
        let scopes = ["notifications:read", "notifications:admin"];
        let channel = client::connect(&url, auth.source(merchant, &[], &scopes), "test")?;
        let own = DatabaseConfig {
            url: database.url("notification").as_str().into(),
            max_connections: 20,
            ..DatabaseConfig::default()
        };
        let db = Db::connect(&own, "notification").await?;
        let messages = Messages {
            clock: clock.shared(),
            feedback_delay: config.feedback_delay,
        };
        Ok(Self {
            merchant,
            store: StoreId::generate(),
            clock,
            auth,
            client: NotificationServiceClient::new(channel),
            log: Log::open(&db),
            db,
            url,
            mails,
            owners,
            messages,
            config,
            numbers: AtomicU32::new(1000),
            shutdown,
            running,
            _database: database,
        })
    }

    /// Stops the service, which must end well.
    pub async fn end(self) -> anyhow::Result<()> {
        self.db.close().await;
        self.shutdown.cancel();
        self.running.await?.context("the service did not end well")
    }

    pub fn pool(&self) -> &PgPool {
        self.db.pool()
    }

    /// An order of the store that its owners know, placed now.
    pub fn order(&self) -> Facts {
        self.order_at(self.clock.now())
    }

    /// An order of the store that its owners know; all its events happen at this time.
    pub fn order_at(&self, at: DateTime<Utc>) -> Facts {
        let number = format!("#{}", self.numbers.fetch_add(1, Ordering::Relaxed));
        Facts::known_to(&self.owners, self.merchant, self.store, &number, at)
    }

    /// Hands events to the consumer in one transaction, as the fold does, again when the transaction has to be repeated.
    pub async fn feed(&self, events: &[Event]) -> Result<(), FoldError> {
        loop {
            match self.feed_once(events).await {
                Err(error) if error.is_retry() => {}
                decided => return decided,
            }
        }
    }

    async fn feed_once(&self, events: &[Event]) -> Result<(), FoldError> {
        let events: Vec<Event> = events
            .iter()
            .filter(|event| self.messages.handles(event))
            .cloned()
            .collect();
        let mut tx = self.db.begin().await?;
        self.messages
            .project(&mut Projection::new(tx.conn()), &events)
            .await?;
        let mut reaction = Reaction::new(&mut tx);
        self.messages.react(&mut reaction, &events).await?;
        reaction.write(&self.log).await?;
        Ok(tx.commit().await?)
    }

    pub async fn put_brand(&self, brand: proto::Brand) -> Result<proto::Brand, Status> {
        let request = proto::PutBrandRequest {
            merchant_id: self.merchant.to_string(),
            store_id: self.store.to_string(),
            brand: Some(brand),
        };
        Ok(self
            .client
            .clone()
            .put_brand(request)
            .await?
            .into_inner()
            .brand
            .unwrap_or_default())
    }

    /// The decisions about an order, newest first.
    pub async fn about(&self, order: OrderId) -> Result<Vec<proto::Notification>, Status> {
        let request = proto::ListNotificationsRequest {
            merchant_id: self.merchant.to_string(),
            store_id: self.store.to_string(),
            order_id: order.to_string(),
            ..proto::ListNotificationsRequest::default()
        };
        Ok(self
            .client
            .clone()
            .list_notifications(request)
            .await?
            .into_inner()
            .notifications)
    }

    /// The decision about one stage of an order.
    pub async fn decision(&self, order: OrderId, stage: Stage) -> Result<proto::Notification, String> {
        let all = self.about(order).await.map_err(|status| status.to_string())?;
        let found = all.iter().find(|one| one.stage() == stage).cloned();
        found.ok_or_else(|| format!("no {stage:?} among {} notifications", all.len()))
    }

    /// Waits until a stage of an order has a state.
    pub async fn reaches(
        &self,
        order: OrderId,
        stage: Stage,
        state: NotificationState,
    ) -> proto::Notification {
        eventually("notification with its state", SOON, async || {
            match self.decision(order, stage).await {
                Ok(found) if found.state() == state => Ok(found),
                Ok(other) => Err(format!(
                    "{:?} {} after {}",
                    other.state(),
                    other.reason,
                    other.attempts
                )),
                Err(why) => Err(why),
            }
        })
        .await
    }

    /// Waits until a stage of an order waits for this reason.
    pub async fn waits(&self, order: OrderId, stage: Stage, reason: &str) -> proto::Notification {
        eventually("notification that waits", SOON, async || {
            match self.decision(order, stage).await {
                Ok(found) if found.reason == reason && found.state() == NotificationState::Scheduled => {
                    Ok(found)
                }
                Ok(other) => Err(format!("{:?} {}", other.state(), other.reason)),
                Err(why) => Err(why),
            }
        })
        .await
    }

    /// Waits for this many mails and returns all that were taken.
    pub async fn mailed(&self, count: usize) -> anyhow::Result<Vec<Mail>> {
        let enough = |mails: &[Mail]| (mails.len() >= count).then(|| mails.to_vec());
        Ok(self.mails.wait(&format!("{count} mails"), SOON, enough).await?)
    }

    /// Waits until no job is left to be done.
    pub async fn jobs_are_done(&self) {
        eventually("end of all jobs", SOON, async || {
            let states: Result<Vec<(String, i64)>, _> =
                sqlx::query_as("SELECT state, count(*) FROM jobs WHERE state <> 'done' GROUP BY state")
                    .fetch_all(self.pool())
                    .await;
            match states {
                Ok(states) if states.is_empty() => Ok(()),
                other => Err(other),
            }
        })
        .await;
    }

    /// The events of a type that the service told, oldest first.
    pub async fn told<M: Message + Name + Default>(&self) -> anyhow::Result<Vec<M>> {
        let payloads: Vec<Vec<u8>> = sqlx::query_scalar(
            "SELECT payload FROM event_log WHERE type = $1 ORDER BY generation, xid, position",
        )
        .bind(M::full_name())
        .fetch_all(self.pool())
        .await?;
        payloads
            .iter()
            .map(|payload| Ok(M::decode(payload.as_slice())?))
            .collect()
    }
}

/// The number that a query answers.
pub async fn one_row(pool: &PgPool, query: &'static str) -> anyhow::Result<i64> {
    Ok(sqlx::query_scalar(query).fetch_one(pool).await?)
}

/// A good brand.
pub fn brand() -> proto::Brand {
    proto::Brand {
        name: "Harbour & Hearth".to_owned(),
        from_email: "orders@shop.example".to_owned(),
        support_email: "help@shop.example".to_owned(),
        support_phone: "+44 1947 555 0100".to_owned(),
        accent_color: "#1f5f6b".to_owned(),
        time_zone: "Europe/London".to_owned(),
        ..proto::Brand::default()
    }
}
