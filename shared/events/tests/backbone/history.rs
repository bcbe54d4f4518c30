//! E-4 and E-6 under loss: NATS wiped, the stream's end missing from the log, an older copy of the stream.

use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::stream::Config;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use waybill_events::envelope::stream_name;
use waybill_events::{Condition, HEALTH_NAME, Position};
use waybill_kernel::id::OrderId;
use waybill_store::error::StoreError;
use waybill_testkit::eventually;

use crate::support::*;

/// All of NATS is lost while events are written: consumers converge, nothing is lost, nothing is doubled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nats_is_wiped_while_running() -> anyhow::Result<()> {
    let world = World::new(&["order", "analytics"]).await;
    let node = world.producer("order").await?;
    let consumer = world.consumer(&[&node], Recorder::of(&["order"])).await?;
    let writer = tokio::spawn({
        let (db, log) = (node.db.clone(), node.log.clone());
        async move {
            for _ in 0..400 {
                let mut tx = db.begin().await?;
                log.append(
                    &mut tx,
                    &[placed(OrderId::generate()), placed(OrderId::generate())],
                )
                .await?;
                tx.commit().await?;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            anyhow::Ok(())
        }
    });
    for _ in 0..2 {
        let before = effects(&consumer.db, "order").await?.len();
        eventually("some progress", LONG, async || {
            let now = effects(&consumer.db, "order").await.ok()?.len();
            (now > before + 50).then_some(())
        })
        .await;
        world.nats.wipe().await?;
    }
    writer.await??;
    converged(&node, &consumer.db).await?;

    // And live again: well before anybody compares with the heads.
    let order = OrderId::generate();
    eventually("a relay at work", LONG, async || {
        node.status.troubles().is_empty().then_some(())
    })
    .await;
    node.append(&[placed(order)]).await?;
    tokio::time::timeout(Duration::from_secs(20), converged(&node, &consumer.db)).await??;
    Ok(())
}

/// NATS is away from the beginning: consumers follow by the log alone, and by the stream once it comes.
#[tokio::test]
async fn without_nats_everything_still_arrives() -> anyhow::Result<()> {
    let world = World::new(&["order", "analytics"]).await;
    world.nats.stop().await?;
    let node = world.producer("order").await?;
    node.append(&[placed(OrderId::generate())]).await?;
    let consumer = world.consumer(&[&node], Recorder::of(&["order"])).await?;
    converged(&node, &consumer.db).await?;
    node.append(&[placed(OrderId::generate())]).await?;
    converged(&node, &consumer.db).await?;
    condition(&node, "relay", |condition| {
        matches!(condition, Condition::Retrying(_))
    })
    .await;
    world.nats.resume().await?;
    node.append(&[placed(OrderId::generate())]).await?;
    converged(&node, &consumer.db).await?;
    eventually("no trouble left", LONG, async || {
        let troubles = (node.status.troubles(), consumer.status.troubles());
        if troubles.0.is_empty() && troubles.1.is_empty() {
            Ok(())
        } else {
            Err(troubles)
        }
    })
    .await;
    Ok(())
}

/// The stream tells of an event that the log does not have: the log was put back to an older copy. Nothing is published
/// or written until the generation is raised.
#[tokio::test]
async fn an_end_that_the_log_does_not_have_stops_everything() -> anyhow::Result<()> {
    let world = World::new(&["order", "analytics"]).await;
    {
        // A log that goes on further …
        let node = world.producer("order").await?;
        node.append_each(&orders(5).into_iter().map(placed).collect::<Vec<_>>())
            .await?;
        published(&world, &node).await?;
        node.stop().await?;
    }
    // … and is put back: the last two events are gone. A server that runs is not put back, so it was started anew since the
    // log was proven, which is why the start waits for NATS.
    let mut admin = world.db.admin().await;
    sqlx::raw_sql(
        "SET session_replication_role = replica;
         DELETE FROM \"order\".event_log WHERE position IN
             (SELECT position FROM \"order\".event_log ORDER BY generation DESC, xid DESC, position DESC LIMIT 2);
         UPDATE \"order\".log_identity SET proven_on = proven_on - interval '1 hour'",
    )
    .execute(&mut admin)
    .await?;

    let node = world.producer("order").await?;
    // Fenced before the first call could be taken, not some time after.
    assert!(fenced(&node.db).await?.is_some());
    let stopped = eventually("a relay that stopped", LONG, async || {
        let seen = node.status.parts().get("relay").cloned();
        match seen {
            Some(Condition::HistoryDiffers(reason)) => Ok(reason),
            other => Err(other),
        }
    })
    .await;
    assert!(stopped.contains("is not in the log"), "{stopped}");
    assert_eq!(health(&node).await?, ServingStatus::NotServing);
    let refused = node
        .append(&[placed(OrderId::generate())])
        .await
        .expect_err("fenced");
    assert!(
        matches!(refused.downcast_ref(), Some(StoreError::Fenced)),
        "{refused:?}"
    );
    assert_eq!(stream(&world, "order").await?.len(), 5, "nothing was published");

    assert_eq!(node.log.raise_generation(1).await?, 2);
    node.append_each(&orders(3).into_iter().map(placed).collect::<Vec<_>>())
        .await?;
    eventually("the new history in the stream", LONG, async || {
        let places = stream(&world, "order").await.map_err(|error| error.to_string())?;
        if places.len() == 8 {
            Ok(())
        } else {
            Err(places.len().to_string())
        }
    })
    .await;
    let log = positions(&node.db).await?;
    let places: Vec<Position> = stream(&world, "order").await?;
    assert_eq!(places[5..], log[3..], "only what is new is published");
    assert!(log[3..].iter().all(|place| place.generation == 2));

    // A consumer that had not seen the lost events takes the new history as it is.
    let consumer = world.consumer(&[&node], Recorder::of(&["order"])).await?;
    converged(&node, &consumer.db).await?;
    assert_eq!(health(&node).await?, ServingStatus::Serving);
    Ok(())
}

/// Why a log is fenced, if it is.
async fn fenced(db: &waybill_store::Db) -> anyhow::Result<Option<String>> {
    Ok(sqlx::query_scalar("SELECT fenced_reason FROM log_identity")
        .fetch_one(db.pool())
        .await?)
}

/// The generation that a log writes in.
async fn generation(db: &waybill_store::Db) -> anyhow::Result<i64> {
    Ok(sqlx::query_scalar("SELECT generation FROM log_identity")
        .fetch_one(db.pool())
        .await?)
}

/// A schema is dropped and restored from a dump while connections live on: nothing is written through them, and the
/// relay fences what it finds.
#[tokio::test]
async fn a_restored_schema_is_not_written_through_old_connections() -> anyhow::Result<()> {
    let world = World::new(&["order"]).await;
    let node = world
        .node("order", Default::default(), |backbone| backbone)
        .await?;
    node.append_each(&orders(3).into_iter().map(placed).collect::<Vec<_>>())
        .await?;
    let mut old = node.db.pool().acquire().await?;
    let before: i64 = sqlx::query_scalar("SELECT log_generation()")
        .fetch_one(&mut *old)
        .await?;
    assert_eq!(before, 1);

    // What a restore leaves: the same rows in a table of the same name, which is another table.
    let mut admin = world.db.admin().await;
    sqlx::raw_sql(
        "SET search_path = \"order\";
         ALTER SEQUENCE event_log_position OWNED BY NONE;
         ALTER TABLE event_log RENAME TO dumped;
         CREATE TABLE event_log (LIKE dumped INCLUDING ALL);
         INSERT INTO event_log SELECT * FROM dumped WHERE position < 3;
         CREATE OR REPLACE VIEW log_place AS
             SELECT vpartition, generation, xid, position FROM event_log
             UNION ALL SELECT vpartition, generation, xid, position FROM log_frontier;
         DROP TABLE dumped;
         ALTER TABLE event_log OWNER TO waybill_order;",
    )
    .execute(&mut admin)
    .await?;

    let refused = sqlx::query_scalar::<_, i64>("SELECT log_generation()")
        .fetch_one(&mut *old)
        .await
        .expect_err("another table");
    let code = refused
        .as_database_error()
        .and_then(|error| error.code())
        .map(String::from);
    assert_eq!(code.as_deref(), Some("WB002"), "{refused}");
    drop(old);
    let refused = node
        .append(&[placed(OrderId::generate())])
        .await
        .expect_err("another table");
    assert!(
        matches!(refused.downcast_ref(), Some(StoreError::Fenced)),
        "{refused:?}"
    );

    let relay = world.producer("order").await?;
    condition(&relay, "relay", |condition| {
        matches!(condition, Condition::Fenced(_))
    })
    .await;
    let reason = fenced(&relay.db).await?.unwrap_or_default();
    assert!(reason.contains("event_log"), "{reason}");
    Ok(())
}

/// The server was started anew and the stream is gone as well: nobody can tell whether the log is what it was. It goes on
/// in a new generation, so that no place in it ever stands for two events.
#[tokio::test]
async fn what_nobody_can_prove_goes_on_in_a_new_generation() -> anyhow::Result<()> {
    let world = World::new(&["order", "analytics"]).await;
    let node = world.producer("order").await?;
    node.append_each(&orders(3).into_iter().map(placed).collect::<Vec<_>>())
        .await?;
    published(&world, &node).await?;
    node.stop().await?;

    // The same server, and a stream that has what the log has: nothing changes.
    let node = world.producer("order").await?;
    node.append(&[placed(OrderId::generate())]).await?;
    assert_eq!(generation(&node.db).await?, 1);
    node.stop().await?;

    let mut admin = world.db.admin().await;
    sqlx::raw_sql("UPDATE \"order\".log_identity SET proven_on = proven_on - interval '1 minute'")
        .execute(&mut admin)
        .await?;
    world.nats.wipe().await?;
    let node = world.producer("order").await?;
    assert_eq!(generation(&node.db).await?, 2);
    assert_eq!(fenced(&node.db).await?, None, "nothing is known to be lost");
    let consumer = world.consumer(&[&node], Recorder::of(&["order"])).await?;
    node.append(&[placed(OrderId::generate())]).await?;
    converged(&node, &consumer.db).await?;
    assert_eq!(
        positions(&node.db).await?.last().map(|place| place.generation),
        Some(2)
    );
    Ok(())
}

/// What the health service says of the backbone.
async fn health(node: &Node) -> anyhow::Result<ServingStatus> {
    let request = HealthCheckRequest {
        service: HEALTH_NAME.to_owned(),
    };
    let answer = HealthClient::new(node.channel()?)
        .check(request)
        .await?
        .into_inner();
    Ok(answer.status())
}

/// An older copy of the stream: what it lacks is published again, and skipped by those who have it.
#[tokio::test]
async fn a_stream_that_lost_its_end_gets_it_again() -> anyhow::Result<()> {
    let world = World::new(&["order", "analytics"]).await;
    let node = world
        .node("order", Default::default(), |backbone| {
            backbone.relay_with(watchful())
        })
        .await?;
    let consumer = world.consumer(&[&node], Recorder::of(&["order"])).await?;
    node.append_each(&orders(10).into_iter().map(placed).collect::<Vec<_>>())
        .await?;
    published(&world, &node).await?;
    converged(&node, &consumer.db).await?;

    // The same stream with its first four messages, as an older storage folder would have it.
    let context = jetstream::new(world.nats.client(world.nats.url()).await);
    let old = context.get_stream(stream_name("order")).await?;
    let config = old.cached_info().config.clone();
    let mut kept = Vec::new();
    for sequence in 1..=4 {
        kept.push(old.get_raw_message(sequence).await?);
    }
    // Made under another name first, so that the relay cannot publish in between.
    context.delete_stream(stream_name("order")).await?;
    let copied = context
        .create_stream(Config {
            subjects: config.subjects.clone(),
            ..config
        })
        .await;
    if copied.is_ok() {
        for (index, message) in kept.into_iter().enumerate() {
            let message_out = async_nats::jetstream::message::PublishMessage::build()
                .headers(message.headers)
                .payload(message.payload)
                .expected_last_sequence(index as u64);
            // The relay may be faster: then the stream goes on after what it acknowledged, which is fine as well.
            if context
                .send_publish(message.subject, message_out)
                .await?
                .await
                .is_err()
            {
                break;
            }
        }
    }
    node.append_each(&orders(5).into_iter().map(placed).collect::<Vec<_>>())
        .await?;
    converged(&node, &consumer.db).await?;
    let log = positions(&node.db).await?;
    eventually("the end of the log at the end of the stream", LONG, async || {
        let places = stream(&world, "order").await.map_err(|error| error.to_string())?;
        if places.last() == log.last() {
            Ok(())
        } else {
            Err(format!("{places:?}"))
        }
    })
    .await;
    Ok(())
}
