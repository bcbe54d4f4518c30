//! E-16: a log in partitions is one log.

use std::time::Duration;

use waybill_events::UpkeepOptions;
use waybill_testkit::eventually;

use crate::support::*;

/// Partitions that a test fills in no time.
pub fn small() -> UpkeepOptions {
    UpkeepOptions {
        partition_events: 50,
        every: Duration::from_millis(20),
        ..UpkeepOptions::default()
    }
}

async fn partitions(node: &Node) -> anyhow::Result<Vec<(i64, i64, bool)>> {
    Ok(
        sqlx::query_as("SELECT low, high, closed_at IS NOT NULL FROM log_partition ORDER BY low")
            .fetch_all(node.db.pool())
            .await?,
    )
}

/// Two replicas keep the partitions while events are written and followed: no append fails, nothing is lost or doubled,
/// the partitions follow each other without a gap, and those that are full are closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_are_made_while_the_log_is_used() -> anyhow::Result<()> {
    let world = World::new(&["order", "analytics"]).await;
    let node = world
        .node("order", Default::default(), |backbone| {
            backbone.relay().upkeep(small())
        })
        .await?;
    let _other = world
        .node("order", Default::default(), |backbone| backbone.upkeep(small()))
        .await?;
    let consumer = world.consumer(&[&node], Recorder::of(&["order"])).await?;
    let all = orders(60);
    for some in all.chunks(5) {
        // Larger than what is made ahead: some find no partition.
        node.append(
            &some
                .iter()
                .flat_map(|order| [placed(*order), completed(*order)].into_iter().cycle().take(24))
                .collect::<Vec<_>>(),
        )
        .await?;
    }
    converged(&node, &consumer.db).await?;
    published(&world, &node).await?;

    let made = eventually("closed partitions and room ahead", LONG, async || {
        let made = partitions(&node).await.map_err(|error| error.to_string())?;
        let drawn: i64 = sqlx::query_scalar("SELECT last_value FROM event_log_position")
            .fetch_one(node.db.pool())
            .await
            .map_err(|error| error.to_string())?;
        let settled = made
            .iter()
            .all(|(_, high, closed)| *closed == (*high <= drawn + 1));
        let ahead = made.last().is_some_and(|(_, high, _)| *high > drawn + 50);
        if settled && ahead {
            Ok(made)
        } else {
            Err(format!("{drawn}: {made:?}"))
        }
    })
    .await;
    assert!(made.len() > 4, "{made:?}");
    assert_eq!(made[0].0, 1);
    for pair in made.windows(2) {
        assert_eq!(pair[0].1, pair[1].0, "no gap: {made:?}");
    }
    let astray: i64 = sqlx::query_scalar("SELECT count(*) FROM event_log_default")
        .fetch_one(node.db.pool())
        .await?;
    assert_eq!(astray, 0);
    Ok(())
}

/// A log that was there before there were partitions: nothing is moved, everything is still read.
#[tokio::test]
async fn what_found_no_partition_gets_one() -> anyhow::Result<()> {
    let world = World::new(&["order", "analytics"]).await;
    let before = world.producer("order").await?;
    before
        .append_each(&orders(120).into_iter().map(placed).collect::<Vec<_>>())
        .await?;
    let log = positions(&before.db).await?;
    let astray = "SELECT count(*) FROM event_log_default";
    let held: i64 = sqlx::query_scalar(astray).fetch_one(before.db.pool()).await?;
    assert_eq!(held, 120);
    before.stop().await?;

    let node = world
        .node("order", Default::default(), |backbone| {
            backbone.relay().upkeep(small())
        })
        .await?;
    eventually("a partition for what was there", LONG, async || {
        let held: i64 = sqlx::query_scalar(astray).fetch_one(node.db.pool()).await.ok()?;
        (held == 0).then_some(())
    })
    .await;
    assert_eq!(positions(&node.db).await?, log);
    node.append(&orders(3).into_iter().map(placed).collect::<Vec<_>>())
        .await?;
    let consumer = world.consumer(&[&node], Recorder::of(&["order"])).await?;
    converged(&node, &consumer.db).await?;
    Ok(())
}

/// E-1 in every partition, whichever way it is reached.
#[tokio::test]
async fn no_partition_lets_anything_be_changed() -> anyhow::Result<()> {
    let world = World::new(&["order"]).await;
    let node = world
        .node("order", Default::default(), |backbone| backbone.upkeep(small()))
        .await?;
    eventually("partitions", LONG, async || {
        let made = partitions(&node).await.ok()?;
        (made.len() >= 2).then_some(())
    })
    .await;
    node.append(&orders(70).into_iter().map(placed).collect::<Vec<_>>())
        .await?;
    for table in ["event_log", "event_log_1", "event_log_51", "event_log_default"] {
        for change in [
            format!("UPDATE {table} SET type = 'other'"),
            format!("DELETE FROM {table}"),
            format!("TRUNCATE {table}"),
        ] {
            let outcome = sqlx::query(sqlx::AssertSqlSafe(change.clone()))
                .execute(node.db.pool())
                .await;
            match outcome {
                // A row trigger has nothing to refuse in an empty table.
                Ok(done) => assert!(
                    table == "event_log_default"
                        && !change.starts_with("TRUNCATE")
                        && done.rows_affected() == 0,
                    "{change}"
                ),
                Err(error) => assert!(error.to_string().contains("append only"), "{change}: {error}"),
            }
        }
    }
    assert_eq!(node.ids().await?.len(), 70);
    Ok(())
}
