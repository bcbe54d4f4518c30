//! The service, running.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use chrono::{DateTime, TimeDelta};
use prost::{Message, Name};
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use waybill_events::{Event, Fold as _, FoldError, Log, Projection, Reaction};
use waybill_fulfillment::consumers::Follow;
use waybill_fulfillment::{App, Config, Deps};
use waybill_kernel::id::{MerchantId, OrderId, StoreId};
use waybill_kernel::time::FakeClock;
use waybill_proto::waybill::fulfillment::v1 as proto;
use waybill_proto::waybill::fulfillment::v1::fulfillment_service_client::FulfillmentServiceClient;
use waybill_rpc::client::{self, Channel, TokenSource};
use waybill_runtime::service::DatabaseConfig;
use waybill_service::StartError;
use waybill_store::{Db, DbOptions, RetryClass as _, Tx};
use waybill_testkit::{Auth, TestDb, common_config, database, eventually};

use super::books::{self, Books};
use super::facts::Order;

/// Where nobody listens.
const NOWHERE: &str = "127.0.0.1:1";

const SCOPES: [&str; 2] = ["fulfillment:read", "fulfillment:write"];

/// How long a test waits for something that happens by itself.
pub const SOON: Duration = Duration::from_secs(30);

/// The service with one merchant and one store of it.
pub struct World {
    pub merchant: MerchantId,
    pub store: StoreId,
    pub clock: FakeClock,
    pub auth: Auth,
    pub client: FulfillmentServiceClient<Channel>,
    pub db: Db,
    pub url: String,
    follow: Arc<Follow>,
    log: Log,
    requests: AtomicU64,
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), StartError>>,
    pub database: Arc<TestDb>,
}

impl World {
    /// A service that hears of orders only through [`World::feed`].
    pub async fn start() -> anyhow::Result<Self> {
        let database = Arc::new(database(&["fulfillment"]).await);
        let nowhere = format!("http://{NOWHERE}");
        let peers = [("order", nowhere.as_str()), ("refund", nowhere.as_str())];
        Self::start_with(database, &format!("nats://{NOWHERE}"), Auth::new(), &peers).await
    }

    /// A service that follows these peers over this broker.
    pub async fn start_with(
        database: Arc<TestDb>,
        nats_url: &str,
        auth: Auth,
        peers: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let clock = FakeClock::new(DateTime::UNIX_EPOCH + TimeDelta::days(20_100));
        let common = common_config(&database.url("fulfillment"), nats_url, &auth, peers);
        let config = Config {
            common,
            ..Config::default()
        };
        let app = App::build(
            config,
            Deps {
                clock: clock.shared(),
            },
        )
        .await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(app.run(listener, shutdown.clone()));

        let merchant = MerchantId::generate();
        let channel = client::connect(&url, auth.source(merchant, &[], &SCOPES), "test")?;
        let settings = DatabaseConfig {
            url: database.url("fulfillment").as_str().into(),
            max_connections: 16,
            ..DatabaseConfig::default()
        };
        let options = DbOptions {
            acquire_timeout: SOON,
            ..DbOptions::default()
        };
        let db = Db::connect_with(&settings, "fulfillment", options).await?;
        Ok(Self {
            merchant,
            store: StoreId::generate(),
            follow: Arc::new(Follow::new(clock.shared())),
            clock,
            auth,
            client: FulfillmentServiceClient::new(channel),
            log: Log::open(&db),
            db,
            url,
            requests: AtomicU64::new(0),
            shutdown,
            running,
            database,
        })
    }

    /// Goes on as the merchant and store of another world.
    pub fn act_for(&mut self, merchant: MerchantId, store: StoreId) -> anyhow::Result<()> {
        (self.merchant, self.store) = (merchant, store);
        self.client = self.client_with(self.auth.source(merchant, &[], &SCOPES))?;
        Ok(())
    }

    /// Recounts everything, and stops the service, which must end well.
    pub async fn end(self) -> anyhow::Result<Books> {
        let books = self.books().await?;
        self.stop().await?;
        Ok(books)
    }

    /// Stops the service, which must end well.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.db.close().await;
        self.shutdown.cancel();
        self.running.await?.context("the service did not end well")
    }

    /// Recounts everything.
    pub async fn books(&self) -> anyhow::Result<Books> {
        books::recount(self.db.pool()).await
    }

    pub fn pool(&self) -> &PgPool {
        self.db.pool()
    }

    /// A client with another token.
    pub fn client_with(&self, token: TokenSource) -> anyhow::Result<FulfillmentServiceClient<Channel>> {
        Ok(FulfillmentServiceClient::new(client::connect(
            &self.url, token, "test",
        )?))
    }

    pub fn request_id(&self) -> String {
        format!("request-{}", self.requests.fetch_add(1, Ordering::Relaxed))
    }

    pub fn order(&self, lines: Vec<waybill_proto::waybill::order::v1::PlacedLine>) -> Order {
        Order::new(self.merchant, self.store, lines)
    }

    /// Hands events to the consumer in one transaction, as the fold does, again when the transaction has to be repeated.
    pub async fn feed(&self, events: &[Event]) -> Result<(), FoldError> {
        feed(&self.db, &self.log, &self.follow, events).await
    }

    /// As [`World::feed`], once and up to the commit, which is left to the caller.
    pub async fn feed_uncommitted(&self, events: &[Event]) -> Result<Tx, FoldError> {
        fed(&self.db, &self.log, &self.follow, events).await
    }

    /// Waits until a transaction waits for another one.
    pub async fn somebody_waits(&self) {
        eventually("transaction that waits for another one", SOON, async || {
            let waiting: Result<i64, _> = sqlx::query_scalar(
                "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND wait_event_type = 'Lock' AND wait_event = 'transactionid'",
            )
            .fetch_one(self.pool())
            .await;
            match waiting {
                Ok(1..) => Ok(()),
                other => Err(other),
            }
        })
        .await;
    }

    /// Runs the projection alone, as a rebuild does.
    pub async fn project(&self, events: &[Event]) -> Result<(), FoldError> {
        let mut tx = self.db.begin().await?;
        self.follow
            .project(&mut Projection::new(tx.conn()), events)
            .await?;
        Ok(tx.commit().await?)
    }

    /// As [`World::feed`], in a task of its own.
    pub fn feed_beside(&self, events: Vec<Event>) -> JoinHandle<Result<(), FoldError>> {
        let (db, log, follow) = (self.db.clone(), self.log.clone(), Arc::clone(&self.follow));
        tokio::spawn(async move { feed(&db, &log, &follow, &events).await })
    }

    /// Places and pays orders.
    pub async fn take_in(&self, orders: &[&Order]) -> Result<(), FoldError> {
        let placed = orders.iter().map(|order| order.placed());
        let paid = orders.iter().map(|order| order.paid("authorization", 2));
        self.feed(&placed.chain(paid).collect::<Vec<_>>()).await
    }

    pub async fn location(&self, name: &str, priority: i32) -> Result<String, Status> {
        let request = proto::CreateLocationRequest {
            merchant_id: self.merchant.to_string(),
            request_id: self.request_id(),
            name: name.to_owned(),
            country_code: "DE".to_owned(),
            priority,
        };
        let answer = self.client.clone().create_location(request).await?.into_inner();
        Ok(answer.location.unwrap_or_default().location_id)
    }

    /// A request that adds units to levels: (sku, location, units).
    pub fn adjustment(&self, deltas: &[(&str, &str, i64)]) -> proto::AdjustStockRequest {
        proto::AdjustStockRequest {
            merchant_id: self.merchant.to_string(),
            request_id: self.request_id(),
            adjustments: deltas
                .iter()
                .map(|(sku, location, units)| proto::StockAdjustment {
                    sku: (*sku).to_owned(),
                    location_id: (*location).to_owned(),
                    change: Some(proto::stock_adjustment::Change::Delta(*units)),
                    safety_stock: None,
                })
                .collect(),
        }
    }

    pub async fn adjust(&self, deltas: &[(&str, &str, i64)]) -> Result<Vec<proto::StockLevel>, Status> {
        let request = self.adjustment(deltas);
        Ok(self
            .client
            .clone()
            .adjust_stock(request)
            .await?
            .into_inner()
            .levels)
    }

    pub async fn fulfillment(&self, order: OrderId) -> Result<proto::OrderFulfillment, Status> {
        let request = proto::GetOrderFulfillmentRequest {
            merchant_id: self.merchant.to_string(),
            store_id: self.store.to_string(),
            order_id: order.to_string(),
            min_order_version: 0,
        };
        let answer = self
            .client
            .clone()
            .get_order_fulfillment(request)
            .await?
            .into_inner();
        Ok(answer.fulfillment.unwrap_or_default())
    }

    pub async fn status(&self, order: &Order) -> Result<proto::AllocationStatus, Status> {
        Ok(self.fulfillment(order.id).await?.status())
    }

    /// A request that ships everything of an order from the first location.
    pub fn shipment_of(&self, order: &Order) -> proto::CreateShipmentRequest {
        let request_id = self.request_id();
        proto::CreateShipmentRequest {
            merchant_id: self.merchant.to_string(),
            store_id: self.store.to_string(),
            tracking_number: format!("TN-{request_id}"),
            request_id,
            order_id: order.id.to_string(),
            carrier: "royal-mail".to_owned(),
            service: "Tracked 48".to_owned(),
            tracking_url: "https://track.example/1".to_owned(),
            ..proto::CreateShipmentRequest::default()
        }
    }

    pub async fn ship(&self, request: proto::CreateShipmentRequest) -> Result<proto::Shipment, Status> {
        Ok(self
            .client
            .clone()
            .create_shipment(request)
            .await?
            .into_inner()
            .shipment
            .unwrap_or_default())
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

    /// Waits until no job is left.
    pub async fn jobs_are_done(&self) {
        eventually("end of all jobs", SOON, async || {
            let open: Result<i64, _> = sqlx::query_scalar("SELECT count(*) FROM jobs WHERE state <> 'done'")
                .fetch_one(self.pool())
                .await;
            match open {
                Ok(0) => Ok(()),
                other => Err(other),
            }
        })
        .await;
    }
}

async fn feed(db: &Db, log: &Log, follow: &Follow, events: &[Event]) -> Result<(), FoldError> {
    loop {
        match feed_once(db, log, follow, events).await {
            Err(error) if error.is_retry() => {}
            decided => return decided,
        }
    }
}

async fn feed_once(db: &Db, log: &Log, follow: &Follow, events: &[Event]) -> Result<(), FoldError> {
    Ok(fed(db, log, follow, events).await?.commit().await?)
}

async fn fed(db: &Db, log: &Log, follow: &Follow, events: &[Event]) -> Result<Tx, FoldError> {
    let mut tx = db.begin().await?;
    follow.project(&mut Projection::new(tx.conn()), events).await?;
    let mut reaction = Reaction::new(&mut tx);
    follow.react(&mut reaction, events).await?;
    reaction.write(log).await?;
    Ok(tx)
}
