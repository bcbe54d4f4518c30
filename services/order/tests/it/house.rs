//! Services that tell the order service things: real logs, relays and reading sides.

use std::time::Duration;

use anyhow::Result;
use chrono::TimeDelta;
use prost::{Message, Name};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use waybill_events::{Backbone, Log, NewEvent, Peers, identity_check};
use waybill_kernel::id::OrderId;
use waybill_kernel::time::FakeClock;
use waybill_order::Config;
use waybill_payments::Providers;
use waybill_proto::FILE_DESCRIPTOR_SET;
use waybill_rpc::server::{Limits, Server};
use waybill_runtime::service::CommonConfig;
use waybill_runtime::tasks::TaskGroup;
use waybill_store::migrate::migrate;
use waybill_store::{Db, DbOptions, Tx};
use waybill_testkit::{Auth, TestDb, TestNats, common_config, database, nats};

use crate::harness::{Service, World, now, start_in};
use crate::shop::Shop;

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
        House::start_with(|_| {}).await
    }

    /// Starts all four, the order service with other settings.
    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Result<House> {
        let world = World {
            clock: FakeClock::new(now()),
            providers: Providers::new(),
        };
        House::start_in(world, change).await
    }

    /// Starts all four with this clock, these payment providers and other settings of the order service.
    pub(crate) async fn start_in(world: World, change: impl FnOnce(&mut Config)) -> Result<House> {
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
        let service = start_in(world, db, nats, auth, &peers, change).await;
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
