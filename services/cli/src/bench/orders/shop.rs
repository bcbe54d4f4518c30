//! The order service as a process runs it, and a store in it.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use waybill_kernel::id::{MerchantId, StoreId};
use waybill_kernel::time::SystemClock;
use waybill_order::{App, Config, Deps};
use waybill_payments::Providers;
use waybill_proto::waybill::order::v1::order_service_client::OrderServiceClient;
use waybill_rpc::auth::{Claims, Issuer};
use waybill_rpc::client::{self, Channel, TokenSource};
use waybill_runtime::config::Secret;
use waybill_runtime::service::{AuthConfig, CommonConfig, DatabaseConfig};
use waybill_runtime::tasks::TaskGroup;
use waybill_store::Db;

use secrecy::ExposeSecret as _;

use crate::bench::ground::Ground;

/// The service.
pub(super) const SERVICE: &str = "order";

const TOKEN_LIFE: Duration = Duration::from_secs(24 * 3600);
/// How long the service may take to stop.
const STOP: Duration = Duration::from_secs(30);
/// Where nobody is: placing an order needs no other service.
const NOBODY: &str = "http://127.0.0.1:1";

/// A running service, with a store in it.
pub(super) struct Shop {
    pub(super) merchant: MerchantId,
    pub(super) store: StoreId,
    pub(super) db: Db,
    channel: Channel,
    tasks: TaskGroup,
}

impl Shop {
    pub(super) async fn start(ground: &Ground) -> anyhow::Result<Shop> {
        let issuer = Issuer::generate();
        let service_token = issuer.mint(&Claims::system(SERVICE), TOKEN_LIFE);
        let database = DatabaseConfig {
            // One private Postgres on this machine: there is no standby to wait for.
            accept_loss: true,
            ..ground.database(SERVICE)?
        };
        let config = Config {
            common: CommonConfig {
                database: database.clone(),
                nats: ground.nats(),
                auth: AuthConfig {
                    jwks: Some(issuer.jwks_json()),
                    service_token: Secret::from_value(service_token.expose_secret()),
                    ..AuthConfig::default()
                },
                peers: ["fulfillment", "refund", "notification"]
                    .map(|peer| (peer.to_owned(), NOBODY.to_owned()))
                    .into(),
                ..CommonConfig::default()
            },
            ..Config::default()
        };
        let deps = Deps {
            clock: SystemClock::shared(),
            providers: Providers::new(),
        };
        let app = App::build(config, deps)
            .await
            .context("the order service did not start")?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let tasks = TaskGroup::new(&CancellationToken::new());
        tasks.spawn(SERVICE, app.run(listener, tasks.token()));
        let token = TokenSource::minted(issuer, Claims::system(SERVICE), TOKEN_LIFE);
        Ok(Shop {
            merchant: MerchantId::generate(),
            store: StoreId::generate(),
            db: Db::connect(&database, SERVICE).await?,
            channel: client::connect(&url, token, "bench")?,
            tasks,
        })
    }

    pub(super) fn client(&self) -> OrderServiceClient<Channel> {
        OrderServiceClient::new(self.channel.clone()).max_decoding_message_size(64 << 20)
    }

    /// Bytes of the service's tables, and of the indexes on them.
    pub(super) async fn bytes(&self) -> anyhow::Result<(i64, i64)> {
        let sums =
            "SELECT sum(pg_table_size(c.oid))::bigint, sum(pg_indexes_size(c.oid))::bigint FROM pg_class c
                    WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r'";
        Ok(sqlx::query_as(sums).fetch_one(self.db.pool()).await?)
    }

    /// Whether each placement that was answered is an order, and nothing else is.
    pub(super) async fn check(&self, answered: u64) -> anyhow::Result<()> {
        let placed: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM orders WHERE merchant_id = $1 AND store_id = $2 AND source_system = 'bench'",
        )
        .bind(self.merchant.uuid())
        .bind(self.store.uuid())
        .fetch_one(self.db.pool())
        .await?;
        ensure!(
            u64::try_from(placed) == Ok(answered),
            "{answered} placements were answered, but {placed} orders are there"
        );
        Ok(())
    }

    pub(super) async fn stop(self) -> anyhow::Result<()> {
        self.db.close().await;
        self.tasks
            .shutdown(STOP)
            .await
            .context("the order service did not end well")
    }
}
