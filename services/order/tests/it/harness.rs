//! A running service, its callers, and services that tell it things.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use chrono::{DateTime, TimeDelta, Utc};
use prost::{Message, Name};
use sqlx::PgConnection;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use waybill_events::{Backbone, Log, NewEvent, Peers, identity_check};
use waybill_kernel::id::{MerchantId, OrderId, StoreId};
use waybill_kernel::time::FakeClock;
use waybill_order::{App, Config, Deps, StartError};
use waybill_proto::FILE_DESCRIPTOR_SET;
use waybill_proto::waybill::order::v1 as proto;
use waybill_proto::waybill::order::v1::order_service_client::OrderServiceClient;
use waybill_proto::waybill::r#type::v1 as common;
use waybill_rpc::client::{self, Channel, TokenSource};
use waybill_rpc::fault;
use waybill_rpc::server::{Limits, Server};
use waybill_runtime::service::CommonConfig;
use waybill_runtime::tasks::TaskGroup;
use waybill_store::migrate::migrate;
use waybill_store::{Db, DbOptions, Tx};
use waybill_testkit::{Auth, TestDb, TestNats, common_config, database, nats};

/// How long a test waits for something that will happen.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Peers at an address where nobody listens.
pub(crate) const PEERS_AWAY: [(&str, &str); 3] = [
    ("fulfillment", "http://127.0.0.1:1"),
    ("refund", "http://127.0.0.1:1"),
    ("notification", "http://127.0.0.1:1"),
];

pub(crate) type Client = OrderServiceClient<Channel>;

/// A process of the order service.
pub(crate) struct Service {
    pub(crate) db: TestDb,
    pub(crate) auth: Auth,
    pub(crate) clock: FakeClock,
    /// Ends with the service.
    _nats: TestNats,
    config: Config,
    url: String,
    stop: CancellationToken,
    running: Option<JoinHandle<Result<(), StartError>>>,
}

/// Starts the service on a database of its own.
pub(crate) async fn start() -> Service {
    start_with(|_| {}).await
}

/// Starts it with other settings.
pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Service {
    start_among(database(&["order"]).await, Auth::new(), &PEERS_AWAY, change).await
}

/// Starts it among these peers.
pub(crate) async fn start_among(
    db: TestDb,
    auth: Auth,
    peers: &[(&str, &str)],
    change: impl FnOnce(&mut Config),
) -> Service {
    let nats = nats().await;
    start_on(db, nats, auth, peers, change).await
}

async fn start_on(
    db: TestDb,
    nats: TestNats,
    auth: Auth,
    peers: &[(&str, &str)],
    change: impl FnOnce(&mut Config),
) -> Service {
    let common = common_config(&db.url("order"), nats.url(), &auth, peers);
    let mut config = Config {
        common,
        customer_key: "0123456789abcdef-for-tests".into(),
        ..Config::default()
    };
    change(&mut config);
    let clock = FakeClock::new(now());
    let (url, stop, running) = spawn(&config, &clock).await;
    Service {
        db,
        auth,
        clock,
        _nats: nats,
        config,
        url,
        stop,
        running: Some(running),
    }
}

async fn spawn(
    config: &Config,
    clock: &FakeClock,
) -> (String, CancellationToken, JoinHandle<Result<(), StartError>>) {
    let deps = Deps {
        clock: clock.shared(),
    };
    let app = App::build(config.clone(), deps)
        .await
        .expect("the service starts");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("it is bound"));
    let stop = CancellationToken::new();
    let running = tokio::spawn(app.run(listener, stop.clone()));
    (url, stop, running)
}

/// The time in all tests.
pub(crate) fn now() -> DateTime<Utc> {
    "2025-03-01T12:00:00Z".parse().expect("a time")
}

impl Service {
    /// A second process of the same service.
    pub(crate) async fn replica(&self) -> Replica {
        let (url, stop, running) = spawn(&self.config, &self.clock).await;
        Replica {
            url,
            stop,
            _running: running,
        }
    }

    /// A merchant with a store and a client that may do everything with them.
    pub(crate) fn shop(&self) -> Shop {
        let (merchant, store) = (MerchantId::generate(), StoreId::generate());
        Shop {
            merchant,
            store,
            client: self.client(merchant, &[store]),
        }
    }

    /// A client of a merchant, for these stores.
    pub(crate) fn client(&self, merchant: MerchantId, stores: &[StoreId]) -> Client {
        client_at(
            &self.url,
            self.auth
                .source(merchant, stores, &["orders:read", "orders:write"]),
        )
    }

    /// A superuser's look at the service's tables.
    pub(crate) async fn tables(&self) -> PgConnection {
        let mut admin = self.db.admin().await;
        sqlx::query("SET search_path = \"order\"")
            .execute(&mut admin)
            .await
            .expect("the schema exists");
        admin
    }

    /// Stops the service as a process is stopped.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        self.stop.cancel();
        if let Some(running) = self.running.take() {
            running.await??;
        }
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A second process.
pub(crate) struct Replica {
    url: String,
    stop: CancellationToken,
    _running: JoinHandle<Result<(), StartError>>,
}

impl Replica {
    /// A client of it, for a shop of the first.
    pub(crate) fn client(&self, service: &Service, shop: &Shop) -> Client {
        let scopes = ["orders:read", "orders:write"];
        client_at(
            &self.url,
            service.auth.source(shop.merchant, &[shop.store], &scopes),
        )
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn client_at(url: &str, token: TokenSource) -> Client {
    let channel = client::connect(url, token, "test").expect("our own address");
    OrderServiceClient::new(channel)
        .max_decoding_message_size(64 << 20)
        .max_encoding_message_size(64 << 20)
}

/// A store and a client of it.
#[derive(Clone)]
pub(crate) struct Shop {
    pub(crate) merchant: MerchantId,
    pub(crate) store: StoreId,
    pub(crate) client: Client,
}

impl Shop {
    /// A request to place an order.
    pub(crate) fn request(&self, request_id: &str, order: proto::NewOrder) -> proto::PlaceOrderRequest {
        proto::PlaceOrderRequest {
            merchant_id: self.merchant.to_string(),
            store_id: self.store.to_string(),
            request_id: request_id.into(),
            order: Some(order),
        }
    }

    /// Places an order that must be taken.
    pub(crate) async fn place(&self, order: proto::NewOrder) -> proto::Order {
        let request_id =
            format!("place {}", order.source.as_ref().map_or("", |s| &s.external_id)).replace(' ', "-");
        self.try_place(&request_id, order)
            .await
            .expect("the order is taken")
    }

    /// Places an order.
    pub(crate) async fn try_place(
        &self,
        request_id: &str,
        order: proto::NewOrder,
    ) -> Result<proto::Order, Status> {
        let placed = self
            .client
            .clone()
            .place_order(self.request(request_id, order))
            .await?;
        Ok(placed.into_inner().order.expect("an answer has the order"))
    }

    /// Sends a batch.
    pub(crate) async fn batch(
        &self,
        orders: Vec<(String, proto::NewOrder)>,
    ) -> Result<Vec<proto::PlaceOrderOutcome>, Status> {
        let (merchant_id, store_id) = (self.merchant.to_string(), self.store.to_string());
        let messages = orders
            .into_iter()
            .map(move |(request_id, order)| proto::BatchPlaceOrdersRequest {
                merchant_id: merchant_id.clone(),
                store_id: store_id.clone(),
                request_id,
                order: Some(order),
            });
        let answer = self
            .client
            .clone()
            .batch_place_orders(tokio_stream::iter(messages))
            .await?;
        Ok(answer.into_inner().outcomes)
    }

    /// Reads an order.
    pub(crate) async fn get(&self, order_id: &str) -> Result<proto::Order, Status> {
        self.get_by(proto::get_order_request::Key::OrderId(order_id.into()))
            .await
    }

    /// Reads an order, however it is named.
    pub(crate) async fn get_by(&self, key: proto::get_order_request::Key) -> Result<proto::Order, Status> {
        let request = proto::GetOrderRequest {
            merchant_id: self.merchant.to_string(),
            store_id: self.store.to_string(),
            key: Some(key),
        };
        let found = self.client.clone().get_order(request).await?;
        Ok(found.into_inner().order.expect("an answer has the order"))
    }

    /// Cancels an order.
    pub(crate) async fn cancel(
        &self,
        request_id: &str,
        order_id: &str,
        etag: &str,
    ) -> Result<proto::Order, Status> {
        let request = proto::CancelOrderRequest {
            merchant_id: self.merchant.to_string(),
            store_id: self.store.to_string(),
            request_id: request_id.into(),
            order_id: order_id.into(),
            reason: "changed their mind".into(),
            etag: etag.into(),
        };
        let cancelled = self.client.clone().cancel_order(request).await?;
        Ok(cancelled.into_inner().order.expect("an answer has the order"))
    }

    /// A request to record a payment.
    pub(crate) fn payment(
        &self,
        request_id: &str,
        order_id: &str,
        kind: proto::PaymentKind,
        payment_id: &str,
        minor: i64,
    ) -> proto::RecordPaymentRequest {
        proto::RecordPaymentRequest {
            merchant_id: self.merchant.to_string(),
            store_id: self.store.to_string(),
            request_id: request_id.into(),
            order_id: order_id.into(),
            kind: kind.into(),
            provider: "stripe".into(),
            provider_payment_id: payment_id.into(),
            amount: eur(minor),
            occurred_at: None,
        }
    }

    /// Records a capture.
    pub(crate) async fn capture(
        &self,
        order_id: &str,
        payment_id: &str,
        minor: i64,
    ) -> Result<proto::Order, Status> {
        let request = self.payment(
            &format!("capture-{payment_id}-{minor}"),
            order_id,
            proto::PaymentKind::Capture,
            payment_id,
            minor,
        );
        let recorded = self.client.clone().record_payment(request).await?;
        Ok(recorded.into_inner().order.expect("an answer has the order"))
    }

    /// The timeline of an order, as (service, short type, summary).
    pub(crate) async fn timeline(&self, order_id: &str) -> Vec<proto::TimelineEntry> {
        let request = proto::GetTimelineRequest {
            merchant_id: self.merchant.to_string(),
            store_id: self.store.to_string(),
            order_id: order_id.into(),
        };
        let answer = self
            .client
            .clone()
            .get_timeline(request)
            .await
            .expect("the order has a timeline");
        answer.into_inner().entries
    }
}

/// An amount in euros.
#[expect(clippy::unnecessary_wraps, reason = "a field of a message is optional")]
pub(crate) fn eur(minor: i64) -> Option<common::Money> {
    Some(common::Money {
        currency_code: "EUR".into(),
        minor_units: minor,
    })
}

/// A line of 2 units at 5.00 EUR with 0.65 EUR of tax in it.
pub(crate) fn tea() -> proto::NewOrderLine {
    proto::NewOrderLine {
        sku: "TEA-1".into(),
        title: "Tea".into(),
        quantity: 2,
        unit_price: eur(500),
        category: "tea".into(),
        attributes: BTreeMap::from([
            ("size".into(), "100 g".into()),
            ("blend".into(), "evening".into()),
        ]),
        taxes: vec![proto::TaxLine {
            jurisdiction: "DE".into(),
            title: "USt".into(),
            rate_ppm: 70_000,
            amount: eur(65),
        }],
        ..proto::NewOrderLine::default()
    }
}

/// A sound order of 2 units of tea for 10.00 EUR, known by this external id.
pub(crate) fn order(external_id: &str) -> proto::NewOrder {
    proto::NewOrder {
        source: Some(proto::OrderSource {
            system: "api".into(),
            external_id: external_id.into(),
        }),
        currency_code: "EUR".into(),
        prices_include_tax: true,
        lines: vec![tea()],
        totals: Some(proto::OrderTotals {
            total: eur(1000),
            ..proto::OrderTotals::default()
        }),
        customer: Some(proto::Customer {
            email: "jo@example.org".into(),
            name: "Jo Doe".into(),
            ..proto::Customer::default()
        }),
        shipping_address: Some(common::Address {
            name: "Jo Doe".into(),
            lines: vec!["Long Street 1".into()],
            city: "Hamburg".into(),
            country_code: "DE".into(),
            ..common::Address::default()
        }),
        locale: "de-DE".into(),
        ..proto::NewOrder::default()
    }
}

/// Code and reason of a refusal.
pub(crate) fn refusal<T: std::fmt::Debug>(result: Result<T, Status>) -> (Code, String) {
    let status = result.expect_err("a refusal");
    let reason = fault::reason(&status).unwrap_or_else(|| panic!("no reason in {status:?}"));
    (status.code(), reason)
}

/// Fields that a refusal names.
pub(crate) fn bad_fields<T: std::fmt::Debug>(result: Result<T, Status>) -> Vec<String> {
    let status = result.expect_err("a refusal");
    fault::bad_fields(&status)
        .into_iter()
        .map(|(field, _)| field)
        .collect()
}

/// A service that has a log and tells things: a real one, with relay and reading side.
pub(crate) struct Teller {
    pub(crate) url: String,
    db: Db,
    log: Log,
    tasks: TaskGroup,
    stop: CancellationToken,
}

impl Teller {
    /// Starts one by this name.
    pub(crate) async fn start(name: &str, db: &TestDb, nats: &TestNats, auth: &Auth) -> Result<Teller> {
        let common: CommonConfig = common_config(&db.url(name), nats.url(), auth, &[]);
        let options = DbOptions {
            on_connect: vec![identity_check()],
            ..DbOptions::default()
        };
        let db = Db::connect_with(&common.database, name, options).await?;
        migrate(&db, &[&waybill_events::MIGRATOR]).await?;
        let backbone = Backbone::new(&db, &common.nats, Peers::new()).relay();
        let log = backbone.log();
        let server = Server::new(name, auth.verifier().clone(), Limits::default())
            .add(backbone.grpc(), FILE_DESCRIPTOR_SET);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let stop = CancellationToken::new();
        let tasks = TaskGroup::new(&stop);
        backbone.spawn(&tasks).await?;
        tokio::spawn(server.serve(listener, stop.clone()));
        Ok(Teller {
            url,
            db,
            log,
            tasks,
            stop,
        })
    }

    /// Tells facts about an order of a shop, in one transaction.
    pub(crate) async fn tell<M: Message + Name>(
        &self,
        shop: &Shop,
        order_id: &str,
        facts: &[M],
    ) -> Result<()> {
        let order: OrderId = order_id.parse()?;
        let events: Vec<NewEvent> = facts
            .iter()
            .map(|fact| {
                let at = now() + TimeDelta::seconds(1);
                NewEvent::new(shop.merchant, shop.store, order, order, 1, fact, at)
            })
            .collect();
        let mut tx: Tx = self.db.begin().await?;
        self.log.append(&mut tx, &events).await?;
        tx.commit().await?;
        Ok(())
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The order service among the three that it follows.
pub(crate) struct House {
    pub(crate) service: Service,
    pub(crate) fulfillment: Teller,
    pub(crate) refund: Teller,
    pub(crate) notification: Teller,
}

impl House {
    /// Starts all four.
    pub(crate) async fn start() -> Result<House> {
        let db = database(&["order", "fulfillment", "refund", "notification"]).await;
        let (nats, auth) = (nats().await, Auth::new());
        let fulfillment = Teller::start("fulfillment", &db, &nats, &auth).await?;
        let refund = Teller::start("refund", &db, &nats, &auth).await?;
        let notification = Teller::start("notification", &db, &nats, &auth).await?;
        let peers = [
            ("fulfillment", fulfillment.url.as_str()),
            ("refund", refund.url.as_str()),
            ("notification", notification.url.as_str()),
        ];
        let service = start_on(db, nats, auth, &peers, |_| {}).await;
        Ok(House {
            service,
            fulfillment,
            refund,
            notification,
        })
    }

    /// Stops the tellers.
    pub(crate) async fn stop(&self) {
        for teller in [&self.fulfillment, &self.refund, &self.notification] {
            teller.stop.cancel();
            let _ = teller.tasks.shutdown(Duration::from_secs(5)).await;
        }
    }
}
