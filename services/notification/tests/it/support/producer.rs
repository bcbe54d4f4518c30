//! A producer of events: a real log, relay and reading side, with a stand-in for what its service answers.

use std::time::Duration;

use prost::{Message, Name};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use waybill_events::{Backbone, Log, NewEvent, Peers, identity_check};
use waybill_proto::FILE_DESCRIPTOR_SET;
use waybill_rpc::server::{ServeError, Server};
use waybill_runtime::service::{CommonConfig, Limits};
use waybill_runtime::tasks::TaskGroup;
use waybill_store::migrate::migrate;
use waybill_store::{Db, DbOptions};
use waybill_testkit::{Auth, TestDb, common_config};

use super::{Facts, StandIn};

/// A producer, running.
pub struct Producer {
    pub url: String,
    db: Db,
    log: Log,
    tasks: TaskGroup,
    shutdown: CancellationToken,
    serving: JoinHandle<Result<(), ServeError>>,
}

impl Producer {
    pub async fn start(
        name: &str,
        database: &TestDb,
        nats_url: &str,
        auth: &Auth,
        owners: &StandIn,
    ) -> anyhow::Result<Self> {
        let CommonConfig { database, nats, .. } = common_config(&database.url(name), nats_url, auth, &[]);
        let options = DbOptions {
            on_connect: vec![identity_check()],
            ..DbOptions::default()
        };
        let db = Db::connect_with(&database, name, options).await?;
        migrate(&db, &[&waybill_events::MIGRATOR]).await?;

        let backbone = Backbone::new(&db, &nats, Peers::new()).relay();
        let log = backbone.log();
        let server = Server::new(name, auth.verifier().clone(), Limits::default());
        let server = owners.on(server).add(backbone.grpc(), FILE_DESCRIPTOR_SET);
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

    /// Tells something about an order.
    pub async fn tell<M: Message + Name>(&self, of: &Facts, version: i64, message: &M) -> anyhow::Result<()> {
        let event = NewEvent::new(of.merchant, of.store, of.order, of.order, version, message, of.at);
        let mut tx = self.db.begin().await?;
        self.log.append(&mut tx, &[event]).await?;
        tx.commit().await?;
        Ok(())
    }

    pub async fn end(self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        self.serving.await??;
        self.tasks.shutdown(Duration::from_secs(5)).await?;
        self.db.close().await;
        Ok(())
    }
}
