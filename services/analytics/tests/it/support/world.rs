//! The service, running, and one store in it.

use std::time::Duration;

use anyhow::Context as _;
use chrono::TimeDelta;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use waybill_analytics::consumers::Facts;
use waybill_analytics::{App, Config, Deps};
use waybill_events::{Event, Fold as _, FoldError, Log, Projection, Reaction};
use waybill_kernel::id::{MerchantId, StoreId};
use waybill_kernel::time::FakeClock;
use waybill_proto::waybill::analytics::v1 as proto;
use waybill_proto::waybill::analytics::v1::analytics_service_client::AnalyticsServiceClient;
use waybill_rpc::client::{self, Channel, TokenSource};
use waybill_service::StartError;
use waybill_store::Db;
use waybill_testkit::{Auth, TestDb, common_config, database};

use super::history::{Moment, Story, Teller, at};

/// Where nobody listens.
const NOWHERE: &str = "127.0.0.1:1";

/// How long a test waits for something that happens by itself.
pub const SOON: Duration = Duration::from_secs(30);

/// The service.
pub struct World {
    pub clock: FakeClock,
    pub auth: Auth,
    pub url: String,
    pub db: Db,
    log: Log,
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), StartError>>,
    _database: TestDb,
}

/// A store, and the caller who may see it.
pub struct Shop {
    pub merchant: MerchantId,
    pub store: StoreId,
    pub client: AnalyticsServiceClient<Channel>,
}

impl World {
    /// A service that hears of events only through [`World::feed`].
    pub async fn start() -> anyhow::Result<Self> {
        let nowhere = format!("http://{NOWHERE}");
        let peers = ["order", "fulfillment", "refund", "notification"].map(|name| (name, nowhere.as_str()));
        let database = database(&["analytics"]).await;
        Self::on(database, &format!("nats://{NOWHERE}"), Auth::new(), &peers).await
    }

    /// A service that follows these peers over this broker.
    pub async fn on(
        database: TestDb,
        nats_url: &str,
        auth: Auth,
        peers: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let clock = FakeClock::new(at("2026-11-30T00:00:00Z"));
        let common = common_config(&database.url("analytics"), nats_url, &auth, peers);
        let own = common.database.clone();
        let app = App::build(
            Config { common },
            Deps {
                clock: clock.shared(),
            },
        )
        .await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(app.run(listener, shutdown.clone()));
        let db = Db::connect(&own, "analytics").await?;
        Ok(Self {
            clock,
            auth,
            url,
            log: Log::open(&db),
            db,
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

    /// A new store of a new merchant.
    pub fn shop(&self) -> anyhow::Result<Shop> {
        let (merchant, store) = (MerchantId::generate(), StoreId::generate());
        let client = self.client(self.auth.source(merchant, &[store], &["analytics:read"]))?;
        Ok(Shop {
            merchant,
            store,
            client,
        })
    }

    /// A client with this token.
    pub fn client(&self, token: TokenSource) -> anyhow::Result<AnalyticsServiceClient<Channel>> {
        Ok(AnalyticsServiceClient::new(client::connect(
            &self.url, token, "test",
        )?))
    }

    /// Hands events to the consumer in one transaction, as the fold does.
    pub async fn feed(&self, events: &[Event]) -> Result<(), FoldError> {
        let events: Vec<Event> = events
            .iter()
            .filter(|event| Facts.handles(event))
            .cloned()
            .collect();
        let mut tx = self.db.begin().await?;
        Facts.project(&mut Projection::new(tx.conn()), &events).await?;
        let mut reaction = Reaction::new(&mut tx);
        Facts.react(&mut reaction, &events).await?;
        reaction.write(&self.log).await?;
        Ok(tx.commit().await?)
    }

    /// Tells stories of a store, in batches of this size.
    pub async fn tell(
        &self,
        shop: &Shop,
        stories: &[Story],
        seed: u64,
        batch: usize,
    ) -> Result<(), FoldError> {
        let teller = shop.teller();
        for events in teller.events(stories, seed).chunks(batch) {
            self.feed(events).await?;
        }
        Ok(())
    }
}

impl Shop {
    pub fn teller(&self) -> Teller {
        Teller {
            merchant: self.merchant,
            store: self.store,
        }
    }

    pub async fn summary(&self, period: Option<proto::Period>) -> Result<proto::GetSummaryResponse, Status> {
        let request = proto::GetSummaryRequest {
            merchant_id: self.merchant.to_string(),
            store_id: self.store.to_string(),
            period,
        };
        Ok(self.client.clone().get_summary(request).await?.into_inner())
    }

    pub async fn days(&self, period: Option<proto::Period>) -> Result<Vec<proto::DailyFigures>, Status> {
        let request = proto::ListDailyFiguresRequest {
            merchant_id: self.merchant.to_string(),
            store_id: self.store.to_string(),
            period,
        };
        Ok(self
            .client
            .clone()
            .list_daily_figures(request)
            .await?
            .into_inner()
            .days)
    }

    pub async fn reasons(&self, period: Option<proto::Period>) -> Result<Vec<proto::ReasonFigures>, Status> {
        let request = proto::ListRefundReasonsRequest {
            merchant_id: self.merchant.to_string(),
            store_id: self.store.to_string(),
            period,
        };
        Ok(self
            .client
            .clone()
            .list_refund_reasons(request)
            .await?
            .into_inner()
            .reasons)
    }

    pub async fn cycle_times(&self, period: Option<proto::Period>) -> Result<Vec<proto::CycleTime>, Status> {
        let request = proto::ListCycleTimesRequest {
            merchant_id: self.merchant.to_string(),
            store_id: self.store.to_string(),
            period,
        };
        Ok(self
            .client
            .clone()
            .list_cycle_times(request)
            .await?
            .into_inner()
            .steps)
    }
}

/// A period as callers write it.
pub fn period(from: Moment, before: Moment, time_zone: &str) -> proto::Period {
    let timestamp = |at: Moment| {
        // Nothing of a period is lost between seconds.
        assert_eq!(at - TimeDelta::seconds(at.timestamp()), Moment::UNIX_EPOCH);
        Some(prost_types::Timestamp {
            seconds: at.timestamp(),
            nanos: 0,
        })
    };
    proto::Period {
        from: timestamp(from),
        before: timestamp(before),
        time_zone: time_zone.to_owned(),
    }
}

/// The figures of one currency.
pub fn currency_of(
    summary: &proto::GetSummaryResponse,
    currency: &str,
) -> (proto::OrderFigures, proto::RefundFigures) {
    summary
        .currencies
        .iter()
        .find(|figures| figures.currency_code == currency)
        .map(|figures| {
            (
                figures.orders.clone().unwrap_or_default(),
                figures.refunds.clone().unwrap_or_default(),
            )
        })
        .unwrap_or_default()
}
