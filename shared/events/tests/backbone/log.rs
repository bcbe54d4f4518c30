//! E-1 to E-4: the log itself.

use std::time::Duration;

use futures_util::StreamExt as _;
use prost_types::Timestamp;
use waybill_events::{MAX_PAYLOAD_BYTES, Position, identity_check};
use waybill_kernel::id::OrderId;
use waybill_proto::waybill::events::v1::GetLogHeadsRequest;
use waybill_proto::waybill::events::v1::event_log_service_client::EventLogServiceClient;
use waybill_proto::waybill::order::v1::OrderCompleted;
use waybill_rpc::client::Channel;
use waybill_store::error::{RetryCause, StoreError};
use waybill_store::{Db, DbOptions, Tx, UseCase};
use waybill_testkit::eventually;

use crate::support::*;

#[tokio::test]
async fn the_log_is_append_only() -> anyhow::Result<()> {
    let world = World::new(&["order"]).await;
    let node = world
        .node("order", Default::default(), |backbone| backbone)
        .await?;
    node.append(&[placed(OrderId::generate())]).await?;
    for statement in [
        "UPDATE event_log SET type = 'x'",
        "DELETE FROM event_log",
        "TRUNCATE event_log",
    ] {
        let refused = sqlx::query(statement)
            .execute(node.db.pool())
            .await
            .expect_err(statement);
        assert!(
            refused.to_string().contains("append only"),
            "{statement}: {refused}"
        );
    }
    assert_eq!(node.ids().await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn an_event_that_is_too_large_is_refused_by_name() -> anyhow::Result<()> {
    let world = World::new(&["order"]).await;
    let node = world
        .node("order", Default::default(), |backbone| backbone)
        .await?;
    let large = OrderCompleted {
        order_id: "x".repeat(MAX_PAYLOAD_BYTES),
    };
    let mut tx = node.db.begin().await?;
    let refused = node
        .log
        .append(&mut tx, &[event(OrderId::generate(), &large)])
        .await
        .expect_err("too large");
    let StoreError::Other(source) = refused else {
        anyhow::bail!("{refused:?}")
    };
    assert!(source.to_string().contains("OrderCompleted of 2097"), "{source}");
    Ok(())
}

/// A transaction that drew its id early commits late. Nobody may read past it, and its event comes first.
#[tokio::test]
async fn commit_order_does_not_matter() -> anyhow::Result<()> {
    let world = World::new(&["order", "analytics"]).await;
    let node = world.producer("order").await?;
    let consumer = world.consumer(&[&node], Recorder::of(&["order"])).await?;
    let both = orders_of_one_partition(2);
    let (early_event, late_event) = (placed(both[0]), placed(both[1]));
    let expected = [early_event.id().uuid(), late_event.id().uuid()];

    let mut early = node.db.begin().await?;
    sqlx::query("SELECT pg_current_xact_id()")
        .execute(early.conn())
        .await?;
    node.append(&[late_event]).await?;
    // It is committed, and invisible to readers.
    assert_eq!(node.ids().await?.len(), 1);
    assert!(heads(&node).await?.is_empty());
    node.log.append(&mut early, &[early_event]).await?;
    assert!(heads(&node).await?.is_empty());
    assert!(effects(&consumer.db, "order").await?.is_empty());
    early.commit().await?;

    converged(&node, &consumer.db).await?;
    assert_eq!(effects(&consumer.db, "order").await?, expected);
    published(&world, &node).await?;
    Ok(())
}

async fn heads(node: &Node) -> anyhow::Result<Vec<(u32, Position)>> {
    let mut client = EventLogServiceClient::new(node.channel()?);
    let heads = client
        .get_log_heads(GetLogHeadsRequest {})
        .await?
        .into_inner()
        .heads;
    Ok(heads
        .into_iter()
        .filter_map(|head| Some((head.partition, Position::from(head.position?))))
        .collect())
}

/// Many writers at once, transactions open for different times: a reader that follows the log sees every event, in an
/// order that never changes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_appears_behind_a_reader() -> anyhow::Result<()> {
    let world = World::new(&["order"]).await;
    let node = world
        .node("order", Default::default(), |backbone| backbone)
        .await?;
    let writers: Vec<_> = (0..6_u64)
        .map(|writer| {
            let (db, log) = (node.db.clone(), node.log.clone());
            tokio::spawn(async move {
                for round in 0..40_u64 {
                    let mut tx = db.begin().await?;
                    sqlx::query("SELECT pg_current_xact_id()")
                        .execute(tx.conn())
                        .await?;
                    // Not a wait for a result: it makes transactions overlap.
                    tokio::time::sleep(Duration::from_millis((writer * 7 + round * 3) % 11)).await;
                    log.append(
                        &mut tx,
                        &[placed(OrderId::generate()), placed(OrderId::generate())],
                    )
                    .await?;
                    tx.commit().await?;
                }
                anyhow::Ok(())
            })
        })
        .collect();
    let mut reader = Follower::new(&node)?;
    while !writers.iter().all(tokio::task::JoinHandle::is_finished) {
        reader.read_on().await?;
    }
    for writer in writers {
        writer.await??;
    }
    settled(&node.db).await;
    reader.read_on().await?;
    assert_eq!(reader.seen.len(), 6 * 40 * 2);
    assert!(
        reader.seen == positions(&node.db).await?,
        "another order than the log's"
    );
    Ok(())
}

/// Reads on from where it was, all partitions.
struct Follower {
    client: EventLogServiceClient<Channel>,
    after: Vec<Position>,
    seen: Vec<Position>,
}

impl Follower {
    fn new(node: &Node) -> anyhow::Result<Follower> {
        Ok(Follower {
            client: EventLogServiceClient::new(node.channel()?),
            after: vec![Position::ZERO; 64],
            seen: Vec::new(),
        })
    }

    async fn read_on(&mut self) -> anyhow::Result<()> {
        let request = crate::read::request(&self.after.iter().copied().enumerate().collect::<Vec<_>>(), 0);
        let mut chunks = self.client.read_events(request).await?.into_inner();
        while let Some(chunk) = chunks.next().await {
            for event in chunk?.events {
                let place: Position = event.position.expect("an event has a place").into();
                let prev: Position = event.prev.expect("and a predecessor").into();
                let after = &mut self.after[event.partition as usize];
                anyhow::ensure!(prev == *after, "{place} follows {prev}, not {after}");
                *after = place;
                self.seen.push(place);
            }
        }
        Ok(())
    }
}

const AGGREGATE: &str = "
    CREATE TABLE thing (
        id uuid PRIMARY KEY, value int NOT NULL, version bigint NOT NULL DEFAULT 1,
        log_generation bigint NOT NULL DEFAULT log_generation(), log_xid xid8 NOT NULL DEFAULT pg_current_xact_id()
    );
    CREATE TRIGGER guard BEFORE UPDATE ON thing FOR EACH ROW EXECUTE FUNCTION guard_log_order();";

async fn set(tx: &mut Tx, order: OrderId, value: i32) -> Result<i64, StoreError> {
    Ok(
        sqlx::query_scalar("UPDATE thing SET value = $2 WHERE id = $1 RETURNING version")
            .bind(order.uuid())
            .bind(value)
            .fetch_one(tx.conn())
            .await?,
    )
}

/// A transaction may draw its id early and get the row late. Its event would sort before the one it builds on.
#[tokio::test]
async fn an_aggregate_changes_in_the_order_of_the_log() -> anyhow::Result<()> {
    let world = World::new(&["order"]).await;
    let db = world.connect("order").await?;
    sqlx::raw_sql(AGGREGATE).execute(db.pool()).await?;
    let order = OrderId::generate();
    sqlx::query("INSERT INTO thing (id, value) VALUES ($1, 0)")
        .bind(order.uuid())
        .execute(db.pool())
        .await?;

    let mut early = db.begin().await?;
    sqlx::query("SELECT pg_current_xact_id()")
        .execute(early.conn())
        .await?;
    let mut late = db.begin().await?;
    assert_eq!(set(&mut late, order, 1).await?, 2);
    late.commit().await?;
    let refused = set(&mut early, order, 2)
        .await
        .expect_err("its id is older than the row's last event");
    assert!(
        matches!(refused, StoreError::Retry(RetryCause::LogOrder)),
        "{refused:?}"
    );
    drop(early);

    // Twice in one transaction is fine, and a repeat under a new id.
    let mut again = db.begin().await?;
    assert_eq!(set(&mut again, order, 2).await?, 3);
    assert_eq!(set(&mut again, order, 3).await?, 4);
    again.commit().await?;
    Ok(())
}

/// The refusal is repeated by the store under a new id, so a use case never sees it.
#[tokio::test]
async fn a_use_case_that_came_too_early_is_repeated() -> anyhow::Result<()> {
    struct Early {
        db: Db,
        order: OrderId,
    }
    impl UseCase for Early {
        type Output = i64;
        type Error = StoreError;
        async fn run(&self, tx: &mut Tx) -> Result<i64, StoreError> {
            sqlx::query("SELECT pg_current_xact_id()")
                .execute(tx.conn())
                .await?;
            // The first time somebody overtakes us.
            let version: i64 = sqlx::query_scalar("SELECT version FROM thing")
                .fetch_one(self.db.pool())
                .await?;
            if version == 1 {
                let mut other = self.db.begin().await?;
                set(&mut other, self.order, 1).await?;
                other.commit().await?;
            }
            set(tx, self.order, 2).await
        }
    }
    let world = World::new(&["order"]).await;
    let db = world.connect("order").await?;
    sqlx::raw_sql(AGGREGATE).execute(db.pool()).await?;
    let order = OrderId::generate();
    sqlx::query("INSERT INTO thing (id, value) VALUES ($1, 0)")
        .bind(order.uuid())
        .execute(db.pool())
        .await?;
    assert_eq!(
        db.run(&Early {
            db: db.clone(),
            order
        })
        .await?,
        3
    );
    Ok(())
}

/// A copy of a database is another history: nothing is written in it until its generation is raised.
#[tokio::test]
async fn a_copied_database_is_fenced() -> anyhow::Result<()> {
    let world = World::new(&["order"]).await;
    let original = world
        .node("order", Default::default(), |backbone| backbone)
        .await?;
    sqlx::raw_sql(AGGREGATE).execute(original.db.pool()).await?;
    let order = OrderId::generate();
    original.append(&[placed(order)]).await?;
    sqlx::query("INSERT INTO thing (id, value) VALUES ($1, 0)")
        .bind(order.uuid())
        .execute(original.db.pool())
        .await?;
    let url = world.db.url("order");
    original.db.close().await;

    let copy = format!("{}_copy", world.db.name());
    let (from, to) = (world.db.name(), copy.as_str());
    {
        // Not from within the database that is copied.
        let admin_url = world.db.admin_url().replace(from, "postgres");
        let mut admin = <sqlx::PgConnection as sqlx::Connection>::connect(&admin_url).await?;
        eventually("a copy", LONG, async || {
            sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
                "CREATE DATABASE {to} TEMPLATE {from}"
            )))
            .execute(&mut admin)
            .await
            .map(|_| ())
            .map_err(|error| error.to_string())
        })
        .await;
    }
    let db = connect(&url.replace(from, to), "order").await?;
    let log = waybill_events::Log::open(&db);
    let mut tx = db.begin().await?;
    let refused = log
        .append(&mut tx, &[placed(OrderId::generate())])
        .await
        .expect_err("fenced");
    assert!(matches!(refused, StoreError::Fenced), "{refused:?}");
    drop(tx);
    let mut tx = db.begin().await?;
    let refused = set(&mut tx, order, 1).await.expect_err("fenced");
    assert!(matches!(refused, StoreError::Fenced), "{refused:?}");
    drop(tx);

    assert_eq!(log.raise_generation(6).await?, 7);
    let mut tx = db.begin().await?;
    set(&mut tx, order, 1).await?;
    log.append(&mut tx, &[placed(OrderId::generate())]).await?;
    tx.commit().await?;
    let places = positions(&db).await?;
    assert_eq!(
        places.iter().map(|place| place.generation).collect::<Vec<_>>(),
        [1, 7]
    );

    // Connections that are made from now on find nothing wrong.
    let config = waybill_runtime::service::DatabaseConfig {
        url: url.replace(from, to).as_str().into(),
        ..Default::default()
    };
    let options = DbOptions {
        on_connect: vec![identity_check()],
        ..DbOptions::default()
    };
    let db = Db::connect_with(&config, "order", options).await?;
    let mut tx = db.begin().await?;
    waybill_events::Log::open(&db)
        .append(&mut tx, &[placed(OrderId::generate())])
        .await?;
    tx.commit().await?;
    db.close().await;
    Ok(())
}

/// The generation is not raised under a writer that has used the old one.
#[tokio::test]
async fn raising_the_generation_waits_for_writers() -> anyhow::Result<()> {
    let world = World::new(&["order"]).await;
    let node = world
        .node("order", Default::default(), |backbone| backbone)
        .await?;
    let mut writer = node.db.begin().await?;
    sqlx::query("SELECT log_generation()")
        .execute(writer.conn())
        .await?;
    let raising = tokio::spawn({
        let log = node.log.clone();
        async move { log.raise_generation(0).await }
    });
    let mut admin = world.db.admin().await;
    eventually("the raise to wait", LONG, async || {
        sqlx::query_scalar::<_, i64>(
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'",
        )
        .fetch_one(&mut admin)
        .await
        .ok()
        .filter(|waiting| *waiting > 0)
    })
    .await;
    // A writer that comes now waits, and then writes in the new generation.
    let later = tokio::spawn({
        let (db, log) = (node.db.clone(), node.log.clone());
        async move {
            let mut tx = db.begin().await?;
            log.append(&mut tx, &[completed(OrderId::generate())]).await?;
            tx.commit().await
        }
    });
    node.log
        .append(&mut writer, &[placed(OrderId::generate())])
        .await?;
    writer.commit().await?;
    assert_eq!(raising.await??, 2);
    later.await??;
    let generations: Vec<i64> = positions(&node.db)
        .await?
        .iter()
        .map(|place| place.generation)
        .collect();
    assert_eq!(generations, [1, 2]);
    Ok(())
}

#[tokio::test]
async fn events_carry_the_time_they_were_given() -> anyhow::Result<()> {
    let world = World::new(&["order"]).await;
    let node = world
        .node("order", Default::default(), |backbone| backbone)
        .await?;
    node.append(&[placed(OrderId::generate())]).await?;
    settled(&node.db).await;
    let mut reader = Follower::new(&node)?;
    reader.read_on().await?;
    let request = crate::read::request(&(0..64).map(|p| (p, Position::ZERO)).collect::<Vec<_>>(), 0);
    let chunk = reader
        .client
        .read_events(request)
        .await?
        .into_inner()
        .next()
        .await
        .expect("a chunk")?;
    let event = &chunk.events[0];
    let written: chrono::DateTime<chrono::Utc> = sqlx::query_scalar("SELECT occurred_at FROM event_log")
        .fetch_one(node.db.pool())
        .await?;
    assert_eq!(
        event.occurred_at,
        Some(Timestamp {
            seconds: written.timestamp(),
            nanos: written.timestamp_subsec_nanos() as i32
        })
    );
    Ok(())
}
