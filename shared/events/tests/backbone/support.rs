//! Services as small as they can be: a producer is a schema with a log, a relay and a gRPC server; a consumer is a
//! schema with a [`Recorder`].

use std::collections::HashSet;
use std::time::Duration;

use prost::{Message, Name};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use waybill_events::cursor::Cursor;
use waybill_events::{
    Backbone, Condition, FoldOptions, Log, NewEvent, Peers, Position, RelayOptions, Status, identity_check,
};
use waybill_kernel::id::{MerchantId, OrderId, StoreId};
use waybill_kernel::partition::partition_of;
use waybill_kernel::time::{Clock as _, SystemClock};
use waybill_proto::FILE_DESCRIPTOR_SET;
use waybill_proto::waybill::events::v1::history_service_client::HistoryServiceClient;
use waybill_proto::waybill::order::v1::{OrderCancelled, OrderCompleted, OrderPlaced};
use waybill_proto::waybill::refund::v1::RefundCreated;
use waybill_rpc::client;
use waybill_rpc::server::{Limits, Server};
use waybill_runtime::service::{DatabaseConfig, NatsConfig};
use waybill_runtime::tasks::TaskGroup;
use waybill_store::{Db, DbOptions};
use waybill_testkit::{Auth, TestDb, TestNats, eventually};

pub use crate::recorder::{Hold, Recorder, Step, TABLES};

/// Long enough for a machine that compiles meanwhile.
pub const LONG: Duration = Duration::from_secs(60);

/// What a test runs in.
pub struct World {
    pub db: TestDb,
    pub nats: TestNats,
    pub auth: Auth,
}

impl World {
    pub async fn new(services: &[&str]) -> World {
        waybill_runtime::telemetry::init_for_test();
        let (db, nats) = tokio::join!(waybill_testkit::database(services), waybill_testkit::nats());
        World {
            db,
            nats,
            auth: Auth::new(),
        }
    }

    /// A handle to a service's schema, migrated.
    pub async fn connect(&self, service: &str) -> anyhow::Result<Db> {
        connect(&self.db.url(service), service).await
    }

    pub fn nats_config(&self) -> NatsConfig {
        nats_config(self.nats.url())
    }

    /// A service that appends and publishes.
    pub async fn producer(&self, service: &'static str) -> anyhow::Result<Node> {
        self.node(service, Peers::new(), |backbone| backbone.relay())
            .await
    }

    /// A service that follows `producers`.
    pub async fn consumer(&self, producers: &[&Node], recorder: Recorder) -> anyhow::Result<Node> {
        let nats = self.nats_config();
        self.consumer_with(producers, recorder, quick(), &nats).await
    }

    pub async fn consumer_with(
        &self,
        producers: &[&Node],
        recorder: Recorder,
        options: FoldOptions,
        nats: &NatsConfig,
    ) -> anyhow::Result<Node> {
        let mut peers = Peers::new();
        for producer in producers {
            let channel = client::connect(&producer.url, self.auth.system_source(), "analytics")?;
            peers.insert(producer.service.to_owned(), channel);
        }
        let db = self.connect("analytics").await?;
        sqlx::raw_sql(TABLES).execute(db.pool()).await?;
        self.node_with("analytics", db, nats, peers, |backbone| {
            backbone.fold_with(recorder, options)
        })
        .await
    }

    pub async fn node(
        &self,
        service: &'static str,
        peers: Peers,
        build: impl FnOnce(Backbone) -> Backbone,
    ) -> anyhow::Result<Node> {
        let db = self.connect(service).await?;
        self.node_with(service, db, &self.nats_config(), peers, build)
            .await
    }

    async fn node_with(
        &self,
        service: &'static str,
        db: Db,
        nats: &NatsConfig,
        peers: Peers,
        build: impl FnOnce(Backbone) -> Backbone,
    ) -> anyhow::Result<Node> {
        let backbone = build(Backbone::new(&db, nats, peers));
        let (log, status, grpc) = (backbone.log(), backbone.status(), backbone.grpc());
        let operating = backbone.consumer_grpc();
        let history = backbone.history(None);
        let tasks = TaskGroup::new(&CancellationToken::new());
        backbone.spawn(&tasks).await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let server = Server::new(service, self.auth.verifier().clone(), Limits::default())
            .grace(Duration::from_millis(100))
            .add(grpc, FILE_DESCRIPTOR_SET)
            .add(operating, FILE_DESCRIPTOR_SET)
            .add(history, FILE_DESCRIPTOR_SET);
        tasks.spawn("health", status.clone().report(server.health(), tasks.token()));
        tasks.spawn("server", server.serve(listener, tasks.token()));
        Ok(Node {
            service,
            db,
            log,
            status,
            url,
            auth: self.auth.clone(),
            tasks,
        })
    }
}

pub async fn connect(url: &str, service: &str) -> anyhow::Result<Db> {
    let config = DatabaseConfig {
        url: url.into(),
        ..DatabaseConfig::default()
    };
    let options = DbOptions {
        on_connect: vec![identity_check()],
        ..DbOptions::default()
    };
    let db = Db::connect_with(&config, service, options).await?;
    waybill_store::migrate::migrate(&db, &[&waybill_events::MIGRATOR]).await?;
    Ok(db)
}

pub fn nats_config(url: &str) -> NatsConfig {
    NatsConfig {
        url: url.into(),
        ..NatsConfig::default()
    }
}

/// Settings for tests that need not wait for time-outs. Comparing with the heads is left at 30 s: what a test sees
/// earlier came by the way that it tests.
pub fn quick() -> FoldOptions {
    FoldOptions {
        lease: Duration::from_millis(1500),
        ..FoldOptions::default()
    }
}

/// A relay that notices an operator's work soon.
pub fn watchful() -> RelayOptions {
    RelayOptions {
        check_stream: Duration::from_millis(200),
        ..RelayOptions::default()
    }
}

/// A running service.
pub struct Node {
    pub service: &'static str,
    pub db: Db,
    pub log: Log,
    pub status: Status,
    pub url: String,
    auth: Auth,
    tasks: TaskGroup,
}

impl Node {
    /// A channel to it, as another service has one.
    pub fn channel(&self) -> anyhow::Result<client::Channel> {
        Ok(client::connect(&self.url, self.auth.system_source(), "test")?)
    }

    /// Ends it as a crash would: nothing is finished, nothing is given back.
    pub async fn crash(self) {
        let _aborted = self.tasks.shutdown(Duration::ZERO).await;
    }

    /// Ends it in order.
    pub async fn stop(self) -> anyhow::Result<()> {
        Ok(self.tasks.shutdown(LONG).await?)
    }

    /// Appends events in one transaction.
    pub async fn append(&self, events: &[NewEvent]) -> anyhow::Result<()> {
        let mut tx = self.db.begin().await?;
        self.log.append(&mut tx, events).await?;
        Ok(tx.commit().await?)
    }

    /// Appends each event in a transaction of its own.
    pub async fn append_each(&self, events: &[NewEvent]) -> anyhow::Result<()> {
        for event in events {
            self.append(std::slice::from_ref(event)).await?;
        }
        Ok(())
    }

    /// The ids of the log, in its order, less what a recovery tells: no fold sees that.
    pub async fn ids(&self) -> anyhow::Result<Vec<Uuid>> {
        Ok(sqlx::query_scalar(
            "SELECT event_id FROM event_log WHERE type <> 'waybill.events.v1.LogRewound'
             ORDER BY generation, xid, position",
        )
        .fetch_all(self.db.pool())
        .await?)
    }

    /// What a person uses when commits were lost.
    pub fn history(&self) -> anyhow::Result<HistoryServiceClient<client::Channel>> {
        Ok(HistoryServiceClient::new(self.channel()?))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.tasks.token().cancel();
    }
}

/// An event of an order.
pub fn event<M: Message + Name>(order: OrderId, message: &M) -> NewEvent {
    NewEvent::new(
        MerchantId::from(Uuid::from_u128(1)),
        StoreId::from(Uuid::from_u128(2)),
        order,
        order,
        1,
        message,
        SystemClock.now(),
    )
}

pub fn placed(order: OrderId) -> NewEvent {
    event(
        order,
        &OrderPlaced {
            order_id: order.to_string(),
            ..OrderPlaced::default()
        },
    )
}

pub fn completed(order: OrderId) -> NewEvent {
    event(
        order,
        &OrderCompleted {
            order_id: order.to_string(),
        },
    )
}

pub fn cancelled(order: OrderId) -> NewEvent {
    event(
        order,
        &OrderCancelled {
            order_id: order.to_string(),
            ..OrderCancelled::default()
        },
    )
}

pub fn refund_created(order: OrderId) -> NewEvent {
    event(
        order,
        &RefundCreated {
            order_id: order.to_string(),
            ..RefundCreated::default()
        },
    )
}

pub fn orders(count: usize) -> Vec<OrderId> {
    (0..count).map(|_| OrderId::generate()).collect()
}

/// A number of new orders in one virtual partition.
pub fn orders_of_one_partition(count: usize) -> Vec<OrderId> {
    std::iter::repeat_with(OrderId::generate)
        .filter(|order| partition_of(order.uuid()) == 7)
        .take(count)
        .collect()
}

/// What a fold has written down of one log, in its order.
pub async fn effects(db: &Db, source: &str) -> anyhow::Result<Vec<Uuid>> {
    Ok(
        sqlx::query_scalar("SELECT event_id FROM effect WHERE source = $1 ORDER BY number")
            .bind(source)
            .fetch_all(db.pool())
            .await?,
    )
}

/// The effects of one order, as (log, type).
pub async fn effects_of(db: &Db, order: OrderId) -> anyhow::Result<Vec<(String, String)>> {
    Ok(
        sqlx::query_as("SELECT source, type FROM effect WHERE key = $1 ORDER BY number")
            .bind(order.uuid())
            .fetch_all(db.pool())
            .await?,
    )
}

/// Waits until every event of the producer's log has taken effect once and none twice, in the log's order for each
/// virtual partition, and the cursors prove it.
pub async fn converged(producer: &Node, consumer: &Db) -> anyhow::Result<()> {
    let expected = producer.ids().await?;
    let all: HashSet<Uuid> = expected.iter().copied().collect();
    eventually("effect of every event", LONG, async || {
        let got = effects(consumer, producer.service)
            .await
            .map_err(|error| error.to_string())?;
        let missing = all.len() - got.iter().collect::<HashSet<_>>().len();
        if missing == 0 {
            Ok(())
        } else {
            Err(format!("{missing} of {} are missing", all.len()))
        }
    })
    .await;
    let got = effects(consumer, producer.service).await?;
    anyhow::ensure!(
        got.len() == expected.len(),
        "{} effects of {} events",
        got.len(),
        expected.len()
    );
    // What a recovery tells has no effect that could be waited for.
    eventually("a proof by the cursors", LONG, async || {
        proven(producer, consumer)
            .await
            .map_err(|error| error.to_string())
    })
    .await;
    Ok(())
}

/// Count, hash and position of each cursor row equal a recomputation from the log.
pub async fn proven(producer: &Node, consumer: &Db) -> anyhow::Result<()> {
    let log: Vec<(i16, i64, i64, i64, Uuid)> = sqlx::query_as(
        "SELECT vpartition, generation, xid::text::bigint, position, event_id FROM event_log
         ORDER BY generation, xid, position",
    )
    .fetch_all(producer.db.pool())
    .await?;
    let rows: Vec<(i16, i64, i64, i64, i64, Vec<u8>)> = sqlx::query_as(
        "SELECT vpartition, generation, xid::text::bigint, position, count, hash FROM fold_cursor
         WHERE consumer = 'recorder' AND source = $1",
    )
    .bind(producer.service)
    .fetch_all(consumer.pool())
    .await?;
    anyhow::ensure!(rows.len() == 64, "{} cursor rows", rows.len());
    for (partition, generation, xid, position, count, hash) in rows {
        let mut proof = Cursor::default();
        for (_, generation, xid, position, id) in log.iter().filter(|row| row.0 == partition) {
            let place = Position {
                generation: *generation,
                xid: *xid as u64,
                position: *position,
            };
            proof.take(place, *id);
        }
        let at = Position {
            generation,
            xid: xid as u64,
            position,
        };
        anyhow::ensure!(
            proof.position == at,
            "partition {partition}: {at} is not {}",
            proof.position
        );
        anyhow::ensure!(
            proof.count == count,
            "partition {partition}: {count} events, not {}",
            proof.count
        );
        anyhow::ensure!(
            proof.hash.as_slice() == hash,
            "partition {partition}: another hash"
        );
    }
    Ok(())
}

/// The positions of all events in the stream of a service, in its order.
pub async fn stream(world: &World, service: &str) -> anyhow::Result<Vec<Position>> {
    let client = world.nats.client(world.nats.url()).await;
    let context = async_nats::jetstream::new(client);
    let stream = context
        .get_stream(waybill_events::envelope::stream_name(service))
        .await?;
    let state = &stream.cached_info().state;
    let mut positions = Vec::new();
    if state.messages == 0 {
        return Ok(positions);
    }
    for sequence in state.first_sequence..=state.last_sequence {
        let message = stream.get_raw_message(sequence).await?;
        positions.push(waybill_events::envelope::identify(&message.headers)?.0);
    }
    Ok(positions)
}

/// Waits until a part is in some condition.
pub async fn condition(node: &Node, part: &str, is: impl Fn(&Condition) -> bool) {
    eventually("the condition", LONG, async || {
        let parts = node.status.parts();
        let seen = parts.get(part).cloned();
        seen.filter(|condition| is(condition))
            .ok_or_else(|| format!("{parts:?}"))
    })
    .await;
}

/// Waits until everything written so far may be read. The watermark is the server's: tests beside this one hold it back.
pub async fn settled(db: &Db) {
    eventually("a watermark above the log", LONG, async || {
        let settled =
            "SELECT coalesce(bool_and(xid < pg_snapshot_xmin(pg_current_snapshot())), true) FROM event_log";
        let settled: bool = sqlx::query_scalar(settled).fetch_one(db.pool()).await.ok()?;
        settled.then_some(())
    })
    .await;
}

/// The positions of all events in a log, in its order.
pub async fn positions(db: &Db) -> anyhow::Result<Vec<Position>> {
    let rows: Vec<(i64, i64, i64)> = sqlx::query_as(
        "SELECT generation, xid::text::bigint, position FROM event_log ORDER BY generation, xid, position",
    )
    .fetch_all(db.pool())
    .await?;
    Ok(rows
        .into_iter()
        .map(|(generation, xid, position)| Position {
            generation,
            xid: xid as u64,
            position,
        })
        .collect())
}

/// Waits until the stream holds what the log holds, in its order, each once.
pub async fn published(world: &World, producer: &Node) -> anyhow::Result<()> {
    let log = positions(&producer.db).await?;
    eventually("the log in the stream", LONG, async || {
        let got = stream(world, producer.service)
            .await
            .map_err(|error| error.to_string())?;
        if got.len() >= log.len() {
            Ok(())
        } else {
            Err(format!("{} of {}", got.len(), log.len()))
        }
    })
    .await;
    anyhow::ensure!(
        stream(world, producer.service).await? == log,
        "the stream is not the log"
    );
    Ok(())
}
