//! E-5 to E-7: the relay and the stream.

use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, StorageType};
use bytes::Bytes;
use waybill_events::envelope::{self, stream_name};
use waybill_events::{Condition, NewEvent};
use waybill_kernel::id::OrderId;
use waybill_kernel::partition::partition_of;
use waybill_proto::waybill::order::v1::OrderCompleted;
use waybill_testkit::eventually;

use crate::support::*;

fn some(count: usize) -> Vec<NewEvent> {
    orders(count).into_iter().map(placed).collect()
}

#[tokio::test]
async fn the_stream_is_the_log() -> anyhow::Result<()> {
    let world = World::new(&["order"]).await;
    let node = world.producer("order").await?;
    condition(&node, "relay", |condition| *condition == Condition::Working).await;
    node.append(&some(1200)).await?;
    node.append_each(&some(50)).await?;
    published(&world, &node).await?;

    let context = jetstream::new(world.nats.client(world.nats.url()).await);
    let stream = context.get_stream(stream_name("order")).await?;
    let message = stream
        .get_raw_message(stream.cached_info().state.last_sequence)
        .await?;
    let (id, key): (uuid::Uuid, uuid::Uuid) = sqlx::query_as(
        "SELECT event_id, partition_key FROM event_log ORDER BY generation DESC, xid DESC, position DESC LIMIT 1",
    )
    .fetch_one(node.db.pool())
    .await?;
    let header = |name: &str| {
        message
            .headers
            .get(name)
            .map(|value| value.as_str().to_owned())
            .unwrap_or_default()
    };
    assert_eq!(header("ce-id"), id.to_string());
    assert_eq!(header("ce-type"), "waybill.order.v1.OrderPlaced");
    assert_eq!(header("ce-source"), "/waybill/order");
    assert_eq!(header("ce-specversion"), "1.0");
    assert_eq!(header("waybill-key"), key.to_string());
    assert!(message.headers.get("Nats-Msg-Id").is_none());
    assert_eq!(
        message.subject.as_str(),
        format!("waybill.events.order.v1.{}.OrderPlaced", partition_of(key))
    );
    let config = &stream.cached_info().config;
    assert!(config.deny_delete && config.deny_purge);
    assert_eq!(config.storage, StorageType::File);
    assert_eq!(config.max_bytes, 1 << 30);
    Ok(())
}

/// Two relays of one service, and the first one dies: no event is missing, none is there twice.
#[tokio::test]
async fn of_two_relays_one_publishes() -> anyhow::Result<()> {
    let world = World::new(&["order"]).await;
    let first = world.producer("order").await?;
    condition(&first, "relay", |condition| *condition == Condition::Working).await;
    let second = world.producer("order").await?;
    condition(&second, "relay", |condition| *condition == Condition::Standby).await;
    // Whoever writes, it is published: the second process tells the first.
    second.append_each(&some(20)).await?;
    first.append_each(&some(20)).await?;
    published(&world, &second).await?;

    second.append(&some(300)).await?;
    first.crash().await;
    second.append(&some(300)).await?;
    condition(&second, "relay", |condition| *condition == Condition::Working).await;
    published(&world, &second).await?;
    Ok(())
}

/// Somebody else publishes the same events at the same time, past the lock: the stream itself lets each in once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stream_refuses_a_stale_relay() -> anyhow::Result<()> {
    let world = World::new(&["order"]).await;
    let node = world.producer("order").await?;
    node.append(&some(1)).await?;
    published(&world, &node).await?;

    let context = jetstream::new(world.nats.client(world.nats.url()).await);
    let rival = tokio::spawn({
        let (context, db) = (context.clone(), node.db.clone());
        async move {
            let mut got_in = 0;
            while got_in < 20 {
                // What a relay knows: the end of the stream, and the log behind it.
                let stream = context.get_stream(stream_name("order")).await?;
                let end = stream.cached_info().state.last_sequence;
                let tail = stream.get_raw_message(end).await?;
                let (at, _) = envelope::identify(&tail.headers)?;
                let log = positions(&db).await?;
                let Some(next) = log.iter().find(|place| **place > at) else {
                    continue;
                };
                let Some(event) = logged(&db, *next).await? else {
                    continue;
                };
                let out = envelope::pack(&event, event.payload.len());
                let message = PublishMessage::build()
                    .headers(out.headers)
                    .payload(out.body)
                    .expected_last_sequence(end);
                if context.send_publish(out.subject, message).await?.await.is_ok() {
                    got_in += 1;
                }
            }
            anyhow::Ok(())
        }
    });
    let mut written = 1;
    while !rival.is_finished() {
        node.append(&some(3)).await?;
        written += 3;
        anyhow::ensure!(written < 30_000, "the rival never got in");
    }
    rival.await??;
    published(&world, &node).await?;
    Ok(())
}

/// An event of the log, with the right `prev`, read as any test may: by plain SQL.
async fn logged(
    db: &waybill_store::Db,
    at: waybill_events::Position,
) -> anyhow::Result<Option<waybill_events::Event>> {
    type Row = (
        uuid::Uuid,
        uuid::Uuid,
        uuid::Uuid,
        i16,
        Vec<u8>,
        chrono::DateTime<chrono::Utc>,
        String,
    );
    let row: Option<Row> = sqlx::query_as(
        "SELECT event_id, merchant_id, partition_key, vpartition, payload, occurred_at, type
         FROM event_log WHERE position = $1",
    )
    .bind(at.position)
    .fetch_optional(db.pool())
    .await?;
    let Some((id, merchant, key, vpartition, payload, occurred_at, type_name)) = row else {
        return Ok(None);
    };
    let prev: Option<(i64, i64, i64)> = sqlx::query_as(
        "SELECT generation, xid::text::bigint, position FROM event_log
         WHERE vpartition = $1 AND (generation, xid, position) < ($2, $3::xid8, $4)
         ORDER BY generation DESC, xid DESC, position DESC LIMIT 1",
    )
    .bind(vpartition)
    .bind(at.generation)
    .bind(at.xid.to_string())
    .bind(at.position)
    .fetch_optional(db.pool())
    .await?;
    Ok(Some(waybill_events::Event {
        position: at,
        prev: prev
            .map(|(generation, xid, position)| waybill_events::Position {
                generation,
                xid: xid as u64,
                position,
            })
            .unwrap_or_default(),
        event_id: id.into(),
        source: "order".into(),
        type_name,
        merchant: merchant.into(),
        store: None,
        key,
        vpartition: vpartition as u16,
        aggregate: key,
        version: 1,
        payload: payload.into(),
        traceparent: None,
        occurred_at,
        origin: waybill_store::Origin::default(),
    }))
}

/// The stream is deleted by an operator while nothing is published, then again with events behind it.
#[tokio::test]
async fn a_stream_that_is_gone_is_made_again() -> anyhow::Result<()> {
    let world = World::new(&["order", "analytics"]).await;
    let node = world
        .node("order", Default::default(), |backbone| {
            backbone.relay_with(watchful())
        })
        .await?;
    let consumer = world.consumer(&[&node], Recorder::of(&["order"])).await?;
    let context = jetstream::new(world.nats.client(world.nats.url()).await);
    for _ in 0..3 {
        node.append_each(&some(10)).await?;
        converged(&node, &consumer.db).await?;
        context.delete_stream(stream_name("order")).await?;
        eventually("a stream made again", LONG, async || {
            context.get_stream(stream_name("order")).await.ok()
        })
        .await;
    }
    node.append(&some(10)).await?;
    converged(&node, &consumer.db).await?;
    // Not all over again: the last stream holds the end of the log.
    let log = positions(&node.db).await?;
    eventually("the end of the log in the last stream", LONG, async || {
        let stream = stream(&world, "order").await.map_err(|_| Vec::new())?;
        if stream.len() < log.len() && log.ends_with(&stream) && stream.len() >= 10 {
            Ok(())
        } else {
            Err(stream)
        }
    })
    .await;
    Ok(())
}

#[tokio::test]
async fn the_configuration_of_a_stream_is_updated_in_place() -> anyhow::Result<()> {
    let world = World::new(&["order"]).await;
    let context = jetstream::new(world.nats.client(world.nats.url()).await);
    let before = context
        .create_stream(Config {
            name: stream_name("order"),
            subjects: vec!["waybill.events.order.v1.>".to_owned()],
            max_bytes: 1 << 20,
            max_age: Duration::from_secs(3600),
            ..Config::default()
        })
        .await?;
    let created = before.cached_info().created;
    let node = world.producer("order").await?;
    node.append(&some(3)).await?;
    published(&world, &node).await?;
    let stream = context.get_stream(stream_name("order")).await?;
    let config = &stream.cached_info().config;
    assert_eq!(stream.cached_info().created, created, "it is the same stream");
    assert_eq!((config.max_bytes, config.max_age), (1 << 30, Duration::ZERO));
    assert!(config.deny_delete && config.deny_purge);
    Ok(())
}

#[tokio::test]
async fn a_stream_that_cannot_be_changed_is_refused_and_left_alone() -> anyhow::Result<()> {
    let world = World::new(&["order"]).await;
    let context = jetstream::new(world.nats.client(world.nats.url()).await);
    context
        .create_stream(Config {
            name: stream_name("order"),
            subjects: vec!["waybill.events.order.v1.>".to_owned()],
            storage: StorageType::Memory,
            ..Config::default()
        })
        .await?;
    context
        .publish("waybill.events.order.v1.0.Precious", Bytes::from_static(b"kept"))
        .await?
        .await?;
    let node = world.producer("order").await?;
    condition(&node, "relay", |condition| {
        matches!(condition, Condition::StreamRefused(_))
    })
    .await;
    let stream = context.get_stream(stream_name("order")).await?;
    assert_eq!(stream.cached_info().state.messages, 1);
    assert_eq!(stream.cached_info().config.storage, StorageType::Memory);
    assert!(node.status.troubles()["relay"].needs_a_person());
    Ok(())
}

/// Events beyond what a message should carry go as a reference; the body comes from the log.
#[tokio::test]
async fn a_large_event_travels_as_a_reference() -> anyhow::Result<()> {
    let world = World::new(&["order", "analytics"]).await;
    let node = world.producer("order").await?;
    let consumer = world.consumer(&[&node], Recorder::of(&["order"])).await?;
    node.append(&some(1)).await?;
    converged(&node, &consumer.db).await?;

    let order = OrderId::generate();
    let large = OrderCompleted {
        order_id: "x".repeat(1_500_000),
    };
    node.append(&[placed(order), event(order, &large), completed(order)])
        .await?;
    converged(&node, &consumer.db).await?;
    let largest: i64 = sqlx::query_scalar("SELECT max(bytes) FROM effect")
        .fetch_one(consumer.db.pool())
        .await?;
    assert!(largest > 1_500_000);
    let context = jetstream::new(world.nats.client(world.nats.url()).await);
    let stream = context.get_stream(stream_name("order")).await?;
    assert!(
        stream.cached_info().state.bytes < 100_000,
        "the stream carries no such body"
    );
    Ok(())
}

/// What holds the watermark back delays, it does not busy the relay: it looks twenty times a second at most.
#[tokio::test]
async fn a_held_watermark_does_not_busy_the_relay() -> anyhow::Result<()> {
    let world = World::new(&["order"]).await;
    let node = world.producer("order").await?;
    condition(&node, "relay", |condition| *condition == Condition::Working).await;
    let mut admin = world.db.admin().await;
    sqlx::raw_sql("SET idle_in_transaction_session_timeout = 0; BEGIN; SELECT pg_current_xact_id()")
        .execute(&mut admin)
        .await?;
    node.append(&some(1)).await?;
    let looks = async || -> anyhow::Result<i64> {
        let mut other = world.db.admin().await;
        Ok(
            sqlx::query_scalar("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()")
                .fetch_one(&mut other)
                .await?,
        )
    };
    let before = looks().await?;
    // Not a wait for a result: the time over which looks are counted.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let during = looks().await? - before;
    assert!(during < 100, "{during} transactions in two seconds");
    assert!(stream(&world, "order").await?.is_empty());
    sqlx::raw_sql("COMMIT").execute(&mut admin).await?;
    published(&world, &node).await?;
    Ok(())
}
