//! The whole way of an event: from a producer's log over its stream into a figure.

use std::time::Duration;

use anyhow::Context as _;
use prost::{Message, Name};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use waybill_events::{Backbone, Log, NewEvent, Peers, identity_check};
use waybill_proto::FILE_DESCRIPTOR_SET;
use waybill_proto::waybill::events::v1::consumer_service_client::ConsumerServiceClient;
use waybill_proto::waybill::events::v1::{RebuildConsumerRequest, RebuildPhase};
use waybill_proto::waybill::notification::v1::NotificationSent;
use waybill_proto::waybill::order::v1::OrderCancelled;
use waybill_rpc::client;
use waybill_rpc::server::{ServeError, Server};
use waybill_runtime::service::{CommonConfig, Limits};
use waybill_runtime::tasks::TaskGroup;
use waybill_store::migrate::migrate;
use waybill_store::{Db, DbOptions};
use waybill_testkit::{Auth, TestDb, common_config, database, eventually, nats};

use crate::support::{Order, SOON, Shop, World, at, currency_of, placed};

/// A producer: a real log, relay and reading side, and nothing else behind them.
struct Producer {
    url: String,
    db: Db,
    log: Log,
    tasks: TaskGroup,
    shutdown: CancellationToken,
    serving: JoinHandle<Result<(), ServeError>>,
}

impl Producer {
    async fn start(name: &str, database: &TestDb, nats_url: &str, auth: &Auth) -> anyhow::Result<Self> {
        let CommonConfig { database, nats, .. } = common_config(&database.url(name), nats_url, auth, &[]);
        let options = DbOptions {
            on_connect: vec![identity_check()],
            ..DbOptions::default()
        };
        let db = Db::connect_with(&database, name, options).await?;
        migrate(&db, &[&waybill_events::MIGRATOR]).await?;
        let backbone = Backbone::new(&db, &nats, Peers::new()).relay();
        let log = backbone.log();
        let server = Server::new(name, auth.verifier().clone(), Limits::default())
            .add(backbone.grpc(), FILE_DESCRIPTOR_SET);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let shutdown = CancellationToken::new();
        let tasks = TaskGroup::new(&shutdown);
        backbone.spawn(&tasks).await?;
        let serving = tokio::spawn(server.serve(listener, shutdown.clone()));
        Ok(Self {
            url,
            db,
            log,
            tasks,
            shutdown,
            serving,
        })
    }

    async fn tell<M: Message + Name>(&self, shop: &Shop, of: &Order, message: &M) -> anyhow::Result<()> {
        let event = NewEvent::new(shop.merchant, shop.store, of.id, of.id, 1, message, of.placed);
        let mut tx = self.db.begin().await?;
        self.log.append(&mut tx, &[event]).await?;
        Ok(tx.commit().await?)
    }

    async fn end(self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        self.serving.await??;
        self.tasks.shutdown(Duration::from_secs(5)).await?;
        self.db.close().await;
        Ok(())
    }
}

#[tokio::test]
async fn events_of_all_services_become_figures() -> anyhow::Result<()> {
    let names = ["order", "fulfillment", "refund", "notification"];
    let (database, nats, auth) = (
        database(&["order", "fulfillment", "refund", "notification", "analytics"]).await,
        nats().await,
        Auth::new(),
    );
    let mut producers = Vec::new();
    for name in names {
        producers.push(Producer::start(name, &database, nats.url(), &auth).await?);
    }
    let peers: Vec<(&str, &str)> = names
        .into_iter()
        .zip(&producers)
        .map(|(name, producer)| (name, producer.url.as_str()))
        .collect();
    let world = World::on(database, nats.url(), auth, &peers).await?;
    let shop = world.shop()?;

    // The mail is told before the order is: it waits until the order is known.
    let order = Order::of(1000, "GBP", at("2026-11-02T12:00:00Z"));
    let sent = NotificationSent {
        order_id: order.id.to_string(),
        notification_id: waybill_kernel::id::NotificationId::generate().to_string(),
        stage: "order_confirmed".to_owned(),
        ..NotificationSent::default()
    };
    producers[3].tell(&shop, &order, &sent).await?;
    producers[0].tell(&shop, &order, &placed(&order)).await?;
    producers[0]
        .tell(&shop, &order, &OrderCancelled::default())
        .await?;
    let figures = eventually("figures of one order", SOON, async || {
        match shop.summary(None).await {
            Ok(summary)
                if summary.notifications_sent == 1
                    && currency_of(&summary, "GBP").0.cancelled_orders == 1 =>
            {
                Ok(summary)
            }
            other => Err(other),
        }
    })
    .await;
    let (orders, _) = currency_of(&figures, "GBP");
    assert_eq!((orders.orders, figures.open_orders), (1, 0));

    // A fact that somebody changes by hand is found, and a rebuild from the four logs gives the same figures again.
    let rebuilt = async |compare_only: bool| {
        let channel = client::connect(&world.url, world.auth.system_source(), "test")?;
        let request = RebuildConsumerRequest {
            request_id: "rebuild".to_owned(),
            consumer: "analytics".to_owned(),
            compare_only,
            reason: String::new(),
        };
        let mut told = ConsumerServiceClient::new(channel)
            .rebuild_consumer(request)
            .await?
            .into_inner();
        let mut last = None;
        while let Some(now) = told.message().await? {
            last = Some(now);
        }
        let last = last.context("no outcome")?;
        anyhow::ensure!(last.phase() == RebuildPhase::Done, "{last:?}");
        Ok(last)
    };
    let equal = rebuilt(true).await?;
    assert_eq!(equal.events, 3);
    assert_eq!(equal.tables.len(), 4);
    assert!(
        equal
            .tables
            .iter()
            .all(|one| one.only_live + one.only_rebuilt + one.different == 0),
        "{equal:?}"
    );
    sqlx::query("UPDATE order_facts SET gross_minor = gross_minor + 1, cancelled_at = NULL")
        .execute(world.db.pool())
        .await?;
    assert_ne!(shop.summary(None).await?, figures);
    let repaired = rebuilt(false).await?;
    assert!(
        repaired.swapped && repaired.tables[0].different == 1,
        "{repaired:?}"
    );
    assert_eq!(shop.summary(None).await?, figures);
    world.end().await?;
    for producer in producers {
        producer.end().await?;
    }
    Ok(())
}
