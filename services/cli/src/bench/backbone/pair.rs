//! A producer and a consumer: a schema each, wired as services are, the consumer reading the producer's log over gRPC.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use waybill_events::{Backbone, Condition, FoldOptions, Log, Peers, Status, identity_check};
use waybill_proto::FILE_DESCRIPTOR_SET;
use waybill_rpc::auth::{Claims, Issuer, Verifier};
use waybill_rpc::client::{self, TokenSource};
use waybill_rpc::server::{Limits, Server};
use waybill_runtime::service::AuthConfig;
use waybill_runtime::tasks::TaskGroup;
use waybill_store::{Db, DbOptions};

use super::counter::{Counter, TABLE};
use super::journal::Journal;
use super::load::Load;
use crate::bench::args::BackboneArgs;
use crate::bench::ground::Ground;

/// Whose log it is.
pub(super) const PRODUCER: &str = "order";
const CONSUMER: &str = "analytics";

/// The schemas that the pair needs.
pub(super) const SERVICES: [&str; 2] = [PRODUCER, CONSUMER];

const TOKEN_LIFE: Duration = Duration::from_secs(24 * 3600);

/// How long both may take to work.
const START: Duration = Duration::from_secs(30);

/// Both of them.
pub(super) struct Pair {
    producer: Db,
    consumer: Db,
    log: Log,
    tasks: TaskGroup,
}

impl Pair {
    /// Starts both and waits until they work.
    pub(super) async fn start(
        ground: &Ground,
        args: &BackboneArgs,
        journal: &Arc<Journal>,
    ) -> anyhow::Result<Pair> {
        let issuer = Issuer::generate();
        let auth = AuthConfig::default();
        let verifier = Verifier::new(&issuer.jwks_json(), &auth.issuer, &auth.audience)?;
        let tasks = TaskGroup::new(&CancellationToken::new());
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);

        let producer = connect(ground, PRODUCER).await?;
        let telling = Backbone::new(&producer, &ground.nats(), Peers::new()).relay();
        let (log, relaying) = (telling.log(), telling.status());
        let server =
            Server::new(PRODUCER, verifier, Limits::default()).add(telling.grpc(), FILE_DESCRIPTOR_SET);
        telling.spawn(&tasks).await?;
        tasks.spawn("server", server.serve(listener, tasks.token()));

        let consumer = connect(ground, CONSUMER).await?;
        sqlx::raw_sql(TABLE).execute(consumer.pool()).await?;
        let token = TokenSource::minted(issuer, Claims::system(CONSUMER), TOKEN_LIFE);
        let peers = Peers::from([(PRODUCER.to_owned(), client::connect(&url, token, CONSUMER)?)]);
        let options = FoldOptions {
            lanes: args.lanes,
            batch_events: args.shape.batch as usize,
            ..FoldOptions::default()
        };
        let counter = Counter {
            journal: Arc::clone(journal),
        };
        let following = Backbone::new(&consumer, &ground.nats(), peers).fold_with(counter, options);
        let folding = following.status();
        following.spawn(&tasks).await?;
        working(&relaying).await?;
        working(&folding).await?;
        Ok(Pair {
            producer,
            consumer,
            log,
            tasks,
        })
    }

    pub(super) fn producer_db(&self) -> &Db {
        &self.producer
    }

    pub(super) fn log(&self) -> &Log {
        &self.log
    }

    /// Whether each event that was appended has taken effect exactly once.
    pub(super) async fn check(&self, load: &Load) -> anyhow::Result<()> {
        let counted: i64 = sqlx::query_scalar("SELECT coalesce(sum(events), 0)::bigint FROM bench_effect")
            .fetch_one(self.consumer.pool())
            .await?;
        let appended = load.appended();
        ensure!(
            counted == appended,
            "{appended} events were appended, but {counted} effects are there"
        );
        Ok(())
    }

    pub(super) async fn stop(self) -> anyhow::Result<()> {
        let ended = self.tasks.shutdown(START).await;
        self.producer.close().await;
        self.consumer.close().await;
        ended.context("producer and consumer did not end well")
    }
}

async fn connect(ground: &Ground, service: &str) -> anyhow::Result<Db> {
    let options = DbOptions {
        on_connect: vec![identity_check()],
        ..DbOptions::default()
    };
    let db = Db::connect_with(&ground.database(service)?, service, options).await?;
    waybill_store::migrate::migrate(&db, &[&waybill_events::MIGRATOR]).await?;
    Ok(db)
}

/// Waits until every part does its work.
async fn working(status: &Status) -> anyhow::Result<()> {
    let mut changes = status.watch();
    let waiting = changes.wait_for(|parts| {
        !parts.is_empty() && parts.values().all(|condition| *condition == Condition::Working)
    });
    match timeout(START, waiting).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) => anyhow::bail!("the backbone ended"),
        Err(_) => anyhow::bail!("the backbone does not work yet: {:?}", status.parts()),
    }
}
