//! A running service, as a process runs it.

use std::time::Duration;

use anyhow::Result;
use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use waybill_kernel::id::{MerchantId, StoreId};
use waybill_kernel::time::FakeClock;
use waybill_order::{App, Config, Deps};
use waybill_payments::Providers;
use waybill_proto::waybill::order::v1::customer_service_client::CustomerServiceClient;
use waybill_proto::waybill::order::v1::draft_order_service_client::DraftOrderServiceClient;
use waybill_proto::waybill::order::v1::order_service_client::OrderServiceClient;
use waybill_rpc::client::{self, Channel, TokenSource};
use waybill_service::StartError;
use waybill_testkit::{Auth, TestDb, TestNats, common_config, database, nats};

use crate::shop::Shop;

/// How long a test waits for something that will happen.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Peers at an address where nobody listens.
pub(crate) const PEERS_AWAY: [(&str, &str); 3] = [
    ("fulfillment", "http://127.0.0.1:1"),
    ("refund", "http://127.0.0.1:1"),
    ("notification", "http://127.0.0.1:1"),
];

pub(crate) type Client = OrderServiceClient<Channel>;

pub(crate) type Drafts = DraftOrderServiceClient<Channel>;

pub(crate) type Customers = CustomerServiceClient<Channel>;

/// A process of the order service.
pub(crate) struct Service {
    pub(crate) db: TestDb,
    pub(crate) auth: Auth,
    pub(crate) clock: FakeClock,
    /// Ends with the service.
    _nats: TestNats,
    config: Config,
    providers: Providers,
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

/// Starts it with this broker.
pub(crate) async fn start_on(
    db: TestDb,
    nats: TestNats,
    auth: Auth,
    peers: &[(&str, &str)],
    change: impl FnOnce(&mut Config),
) -> Service {
    let world = World {
        clock: FakeClock::new(now()),
        providers: Providers::new(),
    };
    start_in(world, db, nats, auth, peers, change).await
}

/// What a service is given besides its settings.
pub(crate) struct World {
    pub(crate) clock: FakeClock,
    pub(crate) providers: Providers,
}

/// Starts it with this clock and these payment providers.
pub(crate) async fn start_in(
    world: World,
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
    let World { clock, providers } = world;
    let (url, stop, running) = spawn(&config, &clock, &providers).await;
    Service {
        db,
        auth,
        clock,
        _nats: nats,
        config,
        providers,
        url,
        stop,
        running: Some(running),
    }
}

async fn spawn(
    config: &Config,
    clock: &FakeClock,
    providers: &Providers,
) -> (String, CancellationToken, JoinHandle<Result<(), StartError>>) {
    let deps = Deps {
        clock: clock.shared(),
        providers: providers.clone(),
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
        let (url, stop, running) = spawn(&self.config, &self.clock, &self.providers).await;
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

    /// A client for the drafts of a shop.
    pub(crate) fn drafts(&self, shop: &Shop) -> Drafts {
        self.drafts_at(&self.url, shop)
    }

    fn drafts_at(&self, url: &str, shop: &Shop) -> Drafts {
        let scopes = ["orders:read", "orders:write"];
        let token = self.auth.source(shop.merchant, &[shop.store], &scopes);
        let channel = client::connect(url, token, "test").expect("our own address");
        DraftOrderServiceClient::new(channel)
    }

    /// A client for the customers of a merchant, for these stores; for all when none is named.
    pub(crate) fn customers_of(&self, merchant: MerchantId, stores: &[StoreId]) -> Customers {
        let scopes = ["customers:read", "customers:erase"];
        let token = self.auth.source(merchant, stores, &scopes);
        let channel = client::connect(&self.url, token, "test").expect("our own address");
        CustomerServiceClient::new(channel).max_decoding_message_size(64 << 20)
    }

    /// Ends the service in the middle of whatever it does.
    pub(crate) fn kill(&mut self) {
        if let Some(running) = self.running.take() {
            running.abort();
        }
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

impl Replica {
    /// A client of it for the drafts of a shop of the first.
    pub(crate) fn drafts(&self, service: &Service, shop: &Shop) -> Drafts {
        service.drafts_at(&self.url, shop)
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
