//! E-8, E-10: exactly once, wherever the process dies and whoever thinks it still owns.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use waybill_events::FoldOptions;
use waybill_kernel::id::OrderId;
use waybill_testkit::eventually;

use crate::support::*;

/// The process dies inside a batch: before the effects, between them, after them.
#[tokio::test]
async fn a_crash_at_every_step_of_a_batch() -> anyhow::Result<()> {
    let world = World::new(&["order", "analytics"]).await;
    let node = world.producer("order").await?;
    for step in [Step::Known, Step::Project, Step::React] {
        let reached = Arc::new(Notify::new());
        let hold = Hold {
            step,
            reached: Arc::clone(&reached),
        };
        let recorder = Recorder {
            opening: step == Step::Known,
            hold: Some(hold),
            ..Recorder::of(&["order"])
        };
        let consumer = world.consumer(&[&node], recorder).await?;
        let order = OrderId::generate();
        node.append(&[placed(order)]).await?;
        // An event that is not the first makes the fold ask which keys are known.
        node.append(&[completed(order)]).await?;
        tokio::time::timeout(LONG, reached.notified()).await?;
        consumer.crash().await;
        let consumer = world.consumer(&[&node], Recorder::of(&["order"])).await?;
        converged(&node, &consumer.db).await?;
        consumer.crash().await;
    }
    Ok(())
}

/// The process dies while the database commits: it never learns that the batch took effect.
#[tokio::test]
async fn a_crash_during_the_commit() -> anyhow::Result<()> {
    let world = World::new(&["order", "analytics"]).await;
    let node = world.producer("order").await?;
    let consumer = world.consumer(&[&node], Recorder::of(&["order"])).await?;
    node.append(&[placed(OrderId::generate())]).await?;
    converged(&node, &consumer.db).await?;
    // A deferred trigger holds the commit until the test lets go.
    sqlx::raw_sql(
        "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN PERFORM pg_advisory_xact_lock_shared(4711); RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER hold AFTER INSERT ON effect DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION hold();",
    )
    .execute(consumer.db.pool())
    .await?;
    let mut admin = world.db.admin().await;
    sqlx::query("SELECT pg_advisory_lock(4711)")
        .execute(&mut admin)
        .await?;
    node.append(&[placed(OrderId::generate())]).await?;
    eventually("a commit that hangs", LONG, async || {
        let waiting: i64 =
            sqlx::query_scalar("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
                .fetch_one(&mut admin)
                .await
                .ok()?;
        (waiting > 0).then_some(())
    })
    .await;
    consumer.crash().await;
    sqlx::query("SELECT pg_advisory_unlock(4711)")
        .execute(&mut admin)
        .await?;
    let consumer = world.consumer(&[&node], Recorder::of(&["order"])).await?;
    node.append(&[placed(OrderId::generate())]).await?;
    converged(&node, &consumer.db).await
}

/// Processes die at any moment, under load, producers and consumers alike.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crashes_at_any_moment() -> anyhow::Result<()> {
    let world = World::new(&["order", "analytics"]).await;
    let mut node = world.producer("order").await?;
    let db = world.connect("order").await?;
    let log = waybill_events::Log::open(&db);
    let writer = tokio::spawn(async move {
        for _ in 0..600 {
            let mut tx = db.begin().await?;
            log.append(
                &mut tx,
                &[placed(OrderId::generate()), placed(OrderId::generate())],
            )
            .await?;
            tx.commit().await?;
            tokio::time::sleep(Duration::from_millis(4)).await;
        }
        anyhow::Ok(())
    });
    let mut round = 0_u64;
    while !writer.is_finished() {
        let consumer = world.consumer(&[&node], Recorder::of(&["order"])).await?;
        // Not a wait for a result: the moment of the crash, another one each time.
        tokio::time::sleep(Duration::from_millis(20 + (round * 37) % 200)).await;
        consumer.crash().await;
        if round % 3 == 2 {
            node.crash().await;
            node = world.producer("order").await?;
        }
        round += 1;
    }
    writer.await??;
    let consumer = world.consumer(&[&node], Recorder::of(&["order"])).await?;
    converged(&node, &consumer.db).await?;
    published(&world, &node).await
}

/// An owner that hangs loses its partitions, and cannot commit what it had begun.
#[tokio::test]
async fn a_hanging_owner_is_replaced() -> anyhow::Result<()> {
    let world = World::new(&["order", "analytics"]).await;
    let node = world.producer("order").await?;
    let reached = Arc::new(Notify::new());
    let hold = Hold {
        step: Step::Project,
        reached: Arc::clone(&reached),
    };
    // Its keeper looks every 20 s: until then it does what a suspended process does, nothing.
    let options = FoldOptions {
        lease: Duration::from_secs(60),
        ..quick()
    };
    let recorder = Recorder {
        hold: Some(hold),
        ..Recorder::of(&["order"])
    };
    let hanging = world
        .consumer_with(&[&node], recorder, options, &world.nats_config())
        .await?;
    node.append(&[placed(OrderId::generate())]).await?;
    tokio::time::timeout(LONG, reached.notified()).await?;
    // Its leases run out, and its membership with them.
    let mut admin = world.db.admin().await;
    sqlx::raw_sql(
        "UPDATE analytics.fold_lease SET expires_at = '-infinity';
         UPDATE analytics.fold_member SET expires_at = '-infinity';",
    )
    .execute(&mut admin)
    .await?;
    let consumer = world.consumer(&[&node], Recorder::of(&["order"])).await?;
    // The open transaction of the hanging owner is ended by the role's time-out; then the new one claims.
    converged(&node, &consumer.db).await?;
    node.append(&[placed(OrderId::generate())]).await?;
    converged(&node, &consumer.db).await?;
    hanging.crash().await;
    Ok(())
}

/// Two replicas: one owns, the other takes over when it ends, in order or not.
#[tokio::test]
async fn a_replica_takes_over() -> anyhow::Result<()> {
    let world = World::new(&["order", "analytics"]).await;
    let node = world.producer("order").await?;
    let first = world.consumer(&[&node], Recorder::of(&["order"])).await?;
    node.append(&[placed(OrderId::generate())]).await?;
    converged(&node, &first.db).await?;
    let second = world.consumer(&[&node], Recorder::of(&["order"])).await?;
    node.append(&[placed(OrderId::generate())]).await?;
    converged(&node, &second.db).await?;
    first.crash().await;
    node.append(&[placed(OrderId::generate())]).await?;
    converged(&node, &second.db).await?;
    let third = world.consumer(&[&node], Recorder::of(&["order"])).await?;
    second.stop().await?;
    node.append(&[placed(OrderId::generate())]).await?;
    converged(&node, &third.db).await
}
