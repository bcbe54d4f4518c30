//! E-30 to E-35: a projection is rebuilt from the logs beside the live one and swapped.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use sqlx::Executor as _;
use tokio::sync::Notify;
use tonic::Code;
use uuid::Uuid;
use waybill_events::FoldOptions;
use waybill_kernel::id::OrderId;
use waybill_proto::waybill::events::v1 as pb;
use waybill_testkit::eventually;

use crate::archive::{Folder, eager, left};
use crate::operator::*;
use crate::shelf::{Shelf, shelf_of};
use crate::support::*;

fn rebuild(compare_only: bool) -> pb::RebuildConsumerRequest {
    pb::RebuildConsumerRequest {
        request_id: "rebuild-1".to_owned(),
        consumer: "recorder".to_owned(),
        compare_only,
        reason: "a test".to_owned(),
    }
}

/// Rebuilds and returns what came of it.
async fn rebuilt(node: &Node, compare_only: bool) -> Result<pb::RebuildConsumerResponse, tonic::Status> {
    let mut operator = operator(node).expect("a channel");
    let mut told = operator
        .rebuild_consumer(rebuild(compare_only))
        .await?
        .into_inner();
    let mut last = pb::RebuildConsumerResponse::default();
    while let Some(message) = told.next().await {
        last = message?;
    }
    assert_eq!(last.phase(), pb::RebuildPhase::Done);
    Ok(last)
}

/// (table, only live, only rebuilt, different) of tables that are not the same.
fn differing(outcome: &pb::RebuildConsumerResponse) -> Vec<(&str, i64, i64, i64)> {
    outcome
        .tables
        .iter()
        .map(|table| {
            (
                table.table.as_str(),
                table.only_live,
                table.only_rebuilt,
                table.different,
            )
        })
        .filter(|(_, live, rebuilt, different)| live + rebuilt + different > 0)
        .collect()
}

/// The rows, without the numbers that the database gives.
async fn rows(node: &Node) -> anyhow::Result<Vec<String>> {
    Ok(sqlx::query_scalar(
        "SELECT s::text FROM shelf s
         UNION ALL SELECT ROW(e.event_id, e.order_id, e.source, e.type)::text FROM shelf_event e ORDER BY 1",
    )
    .fetch_all(node.db.pool())
    .await?)
}

async fn count(node: &Node, table: &str) -> anyhow::Result<i64> {
    let sql = format!("SELECT count(*) FROM {table}");
    Ok(sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
        .fetch_one(node.db.pool())
        .await?)
}

/// Every name and definition that the catalog has of the rebuilt tables, their indexes, constraints, triggers and columns,
/// and of what names them. The log's partitions come and go by themselves.
async fn catalog(node: &Node) -> anyhow::Result<Vec<String>> {
    let lines: Vec<String> = sqlx::query_scalar(
        "SELECT c.relkind::text || ' ' || c.relname || ' ' || coalesce(c.reloptions::text, '') || ' '
                || coalesce(c.relacl::text, '') || ' ' || coalesce(obj_description(c.oid), '')
         FROM pg_class c WHERE c.relnamespace = 'analytics'::regnamespace AND c.relkind IN ('r', 'i', 'S')
         UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'analytics'
         UNION ALL SELECT conrelid::regclass::text || ' ' || conname || ' ' || pg_get_constraintdef(oid)
                   FROM pg_constraint WHERE connamespace = 'analytics'::regnamespace
         UNION ALL SELECT pg_get_triggerdef(t.oid) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
                   WHERE NOT tgisinternal AND c.relnamespace = 'analytics'::regnamespace
         UNION ALL SELECT concat_ws(' ', table_name, column_name, data_type, column_default, is_nullable, is_identity,
                                    generation_expression, collation_name)
                   FROM information_schema.columns WHERE table_schema = 'analytics'
         ORDER BY 1",
    )
    .fetch_all(node.db.pool())
    .await?;
    Ok(lines.into_iter().filter(|line| line.contains("shelf")).collect())
}

/// Waits until a consumer has effects of everything in these logs.
async fn taken(consumer: &Node, producers: &[&Node]) -> anyhow::Result<()> {
    for producer in producers {
        eventually("all events taken", LONG, async || {
            proven(producer, &consumer.db)
                .await
                .map_err(|error| error.to_string())
        })
        .await;
    }
    Ok(())
}

async fn shadow_is_empty(world: &World) -> anyhow::Result<bool> {
    let mut admin = world.db.admin().await;
    let tables: i64 =
        sqlx::query_scalar("SELECT count(*) FROM pg_tables WHERE schemaname = 'analytics_rebuild'")
            .fetch_one(&mut admin)
            .await?;
    Ok(tables == 0)
}

/// E-30, E-31, E-33: tampering shows and is repaired while both logs grow, nothing is told or done twice, and the schema is
/// as it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_under_load_repairs_what_was_tampered_with() -> anyhow::Result<()> {
    let world = World::new(&["order", "refund", "analytics"]).await;
    let order_node = world.producer("order").await?;
    let refund_node = world.producer("refund").await?;
    let consumer = shelf_of(&world, &[&order_node, &refund_node], Shelf::default(), quick()).await?;
    let first = orders(300);
    let events: Vec<_> = first
        .iter()
        .flat_map(|order| [placed(*order), completed(*order)])
        .collect();
    order_node.append(&events).await?;
    let events: Vec<_> = first.iter().map(|order| refund_created(*order)).collect();
    refund_node.append(&events).await?;
    taken(&consumer, &[&order_node, &refund_node]).await?;
    eventually("all waiting released", LONG, async || {
        (count(&consumer, "fold_waiting").await.ok()? == 0).then_some(())
    })
    .await;
    let clean = rebuilt(&consumer, true).await?;
    assert_eq!(differing(&clean), []);
    assert_eq!(
        (clean.swapped, clean.events, clean.cursors_differing),
        (false, 900, 0)
    );
    assert_eq!(
        clean.tables.iter().map(|table| table.live_rows).sum::<i64>(),
        1200
    );

    let truth = rows(&consumer).await?;
    let before = catalog(&consumer).await?;
    let (gone, changed) = (first[0].uuid(), first[1].uuid());
    sqlx::query("DELETE FROM shelf WHERE order_id = $1")
        .bind(gone)
        .execute(consumer.db.pool())
        .await?;
    sqlx::query("UPDATE shelf SET note = 'forged' WHERE order_id = $1")
        .bind(changed)
        .execute(consumer.db.pool())
        .await?;
    sqlx::query("INSERT INTO shelf (order_id, merchant_id) VALUES ($1, $1)")
        .bind(Uuid::from_u128(77))
        .execute(consumer.db.pool())
        .await?;
    let seen = rebuilt(&consumer, true).await?;
    assert_eq!(differing(&seen), [("shelf", 1, 1, 1), ("shelf_event", 0, 3, 0)]);
    let mut samples: Vec<(pb::RowDifference, &str)> = seen.tables[0]
        .samples
        .iter()
        .map(|row| (row.difference(), row.key_json.as_str()))
        .collect();
    samples.sort();
    let keys = [Uuid::from_u128(77), gone, changed].map(|key| format!("{{\"order_id\": \"{key}\"}}"));
    let expected = [
        (pb::RowDifference::OnlyLive, keys[0].as_str()),
        (pb::RowDifference::OnlyRebuilt, keys[1].as_str()),
        (pb::RowDifference::Different, keys[2].as_str()),
    ];
    assert_eq!(samples, expected);
    assert_ne!(rows(&consumer).await?, truth, "comparing changes nothing");

    let more = orders(300);
    let load = async {
        for some in more.chunks(10) {
            order_node
                .append(&some.iter().copied().map(placed).collect::<Vec<_>>())
                .await?;
            refund_node
                .append(&some.iter().copied().map(refund_created).collect::<Vec<_>>())
                .await?;
        }
        anyhow::Ok(())
    };
    let (outcome, loaded) = tokio::join!(rebuilt(&consumer, false), load);
    loaded?;
    let outcome = outcome?;
    assert!(outcome.swapped);
    assert_eq!(
        differing(&outcome),
        [("shelf", 1, 1, 1), ("shelf_event", 0, 3, 0)]
    );

    taken(&consumer, &[&order_node, &refund_node]).await?;
    eventually("all waiting released", LONG, async || {
        (count(&consumer, "fold_waiting").await.ok()? == 0).then_some(())
    })
    .await;
    assert_eq!(catalog(&consumer).await?, before);
    let now = rows(&consumer).await?;
    assert!(
        truth.iter().all(|row| now.contains(row)),
        "what was true is there again"
    );
    assert_eq!(now.len(), 1200 + 900);
    // One event and one job of its own for each event, rebuilt or not.
    assert_eq!(count(&consumer, "event_log").await?, 1500);
    assert_eq!(count(&consumer, "jobs").await?, 1500);
    assert_eq!(differing(&rebuilt(&consumer, true).await?), []);
    assert!(shadow_is_empty(&world).await?);

    let request = pb::ListConsumerActionsRequest::default();
    let actions = operator(&consumer)?
        .list_consumer_actions(request)
        .await?
        .into_inner()
        .actions;
    let kinds: Vec<_> = actions.iter().map(|action| action.kind()).collect();
    use pb::ConsumerActionKind::{Compare, Rebuild, Swap};
    assert_eq!(kinds, [Compare, Swap, Rebuild, Compare, Compare]);
    assert!(
        actions
            .iter()
            .all(|action| action.caller == "service:test" && action.reason == "a test")
    );
    Ok(())
}

/// E-31: count and hash that somebody changed are found, and what the log says is put there.
#[tokio::test]
async fn cursors_are_proven_by_the_log() -> anyhow::Result<()> {
    let world = World::new(&["order", "refund", "analytics"]).await;
    let order_node = world.producer("order").await?;
    let refund_node = world.producer("refund").await?;
    let consumer = shelf_of(&world, &[&order_node, &refund_node], Shelf::default(), quick()).await?;
    order_node
        .append(&orders(50).into_iter().map(placed).collect::<Vec<_>>())
        .await?;
    taken(&consumer, &[&order_node]).await?;
    // One of a partition that has events, and one of a partition that has none.
    sqlx::query(
        "UPDATE fold_cursor SET count = count + 5, hash = decode(repeat('ab', 32), 'hex')
         WHERE source = 'order' AND vpartition IN
             ((SELECT vpartition FROM fold_cursor WHERE source = 'order' AND count > 0 LIMIT 1),
              (SELECT vpartition FROM fold_cursor WHERE source = 'order' AND count = 0 LIMIT 1))",
    )
    .execute(consumer.db.pool())
    .await?;
    assert!(proven(&order_node, &consumer.db).await.is_err());
    let outcome = rebuilt(&consumer, false).await?;
    assert_eq!((outcome.cursors_differing, differing(&outcome)), (2, vec![]));
    proven(&order_node, &consumer.db).await?;
    order_node
        .append(&orders(50).into_iter().map(placed).collect::<Vec<_>>())
        .await?;
    taken(&consumer, &[&order_node]).await
}

/// E-32: what the live consumer keeps has no effect in the rebuilt tables, what was given up never has, and a retry or a
/// release after the swap finds them as it would have found the live ones.
#[tokio::test]
async fn letters_and_waiting_events_stay_what_they_are() -> anyhow::Result<()> {
    let world = World::new(&["order", "refund", "analytics"]).await;
    let order_node = world.producer("order").await?;
    let refund_node = world.producer("refund").await?;
    let shelf = Shelf::default();
    let sickness = Arc::clone(&shelf.poison);
    let consumer = shelf_of(&world, &[&order_node, &refund_node], shelf, quick()).await?;
    let [sick, given_up, late] = [OrderId::generate(), OrderId::generate(), OrderId::generate()];
    poison(&sickness, sick);
    poison(&sickness, given_up);
    let events = [
        placed(sick),
        completed(sick),
        placed(given_up),
        completed(given_up),
    ];
    order_node.append(&events).await?;
    keeps(&consumer, sick, 1).await;
    let letter = keeps(&consumer, given_up, 1).await;
    operator(&consumer)?
        .discard_dead_letter(discard("d-1", &letter[0]))
        .await?;
    heal(&sickness);
    refund_node
        .append(&[
            refund_created(sick),
            refund_created(late),
            refund_created(given_up),
        ])
        .await?;
    keeps(&consumer, sick, 2).await;
    taken(&consumer, &[&order_node, &refund_node]).await?;
    assert_eq!(count(&consumer, "fold_waiting").await?, 1);

    // The letter would take effect now; a rebuild does not make it.
    let outcome = rebuilt(&consumer, false).await?;
    assert_eq!((outcome.events_kept, differing(&outcome)), (3, vec![]));
    assert_eq!(kept(&consumer, sick).await?.len(), 2);
    assert_eq!(
        count(&consumer, "shelf_event").await?,
        3,
        "two placed, one refund"
    );

    let retried = operator(&consumer)?
        .retry_dead_letter(retry_key("r-1", sick))
        .await?
        .into_inner();
    assert_eq!((retried.applied, retried.outcome()), (2, pb::RepairOutcome::Free));
    order_node.append(&[placed(late)]).await?;
    eventually("the release of what waited", LONG, async || {
        (count(&consumer, "shelf_event").await.ok()? == 7).then_some(())
    })
    .await;
    assert_eq!(count(&consumer, "jobs").await?, 7, "each reacted once");
    let outcome = rebuilt(&consumer, true).await?;
    assert_eq!((outcome.events_kept, differing(&outcome)), (0, vec![]));
    Ok(())
}

/// E-34: one at a time; one that ends anywhere leaves the live side as it was, and the next one begins again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_that_is_killed_changes_nothing() -> anyhow::Result<()> {
    let world = World::new(&["order", "refund", "analytics"]).await;
    let order_node = world.producer("order").await?;
    let refund_node = world.producer("refund").await?;
    let shelf = Shelf::default();
    let consumer = shelf_of(&world, &[&order_node, &refund_node], shelf.clone(), quick()).await?;
    order_node
        .append(&orders(200).into_iter().map(placed).collect::<Vec<_>>())
        .await?;
    taken(&consumer, &[&order_node]).await?;
    let before = (rows(&consumer).await?, catalog(&consumer).await?);

    let reached = Arc::new(Notify::new());
    *shelf.hold.lock().expect("not poisoned") = Some(Arc::clone(&reached));
    let mut client = operator(&consumer)?;
    let stuck = client.rebuild_consumer(rebuild(false)).await?;
    reached.notified().await;
    let second = rebuilt(&consumer, false).await.expect_err("one is under way");
    assert_eq!(
        (second.code(), reason_of(&second).as_deref()),
        (Code::Aborted, Some("REBUILD_RUNNING"))
    );
    assert!(!shadow_is_empty(&world).await?);
    drop(stuck);
    // The live consumer is not held up by what is left.
    assert!(rows(&consumer).await? == before.0, "the rows are others");
    assert_eq!(catalog(&consumer).await?, before.1);
    order_node
        .append(&orders(100).into_iter().map(placed).collect::<Vec<_>>())
        .await?;
    taken(&consumer, &[&order_node]).await?;

    let outcome = eventually("the lock of the one that ended", LONG, async || {
        rebuilt(&consumer, false)
            .await
            .map_err(|status| status.to_string())
    })
    .await;
    assert!(outcome.swapped && differing(&outcome).is_empty(), "{outcome:?}");
    assert!(shadow_is_empty(&world).await?);

    // A process that dies while the consumer stands still: its leases run out by themselves.
    sqlx::query(
        "UPDATE fold_lease SET owner = 'rebuild gone', epoch = epoch + 1, expires_at = now() + interval '2 s'",
    )
    .execute(consumer.db.pool())
    .await?;
    sqlx::query(
        "UPDATE fold_cursor c SET epoch = l.epoch FROM fold_lease l
         WHERE l.consumer = c.consumer AND l.vpartition = c.vpartition",
    )
    .execute(consumer.db.pool())
    .await?;
    order_node
        .append(&orders(20).into_iter().map(placed).collect::<Vec<_>>())
        .await?;
    taken(&consumer, &[&order_node]).await
}

/// E-30: what has left the database is read from the archive.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_reads_archives() -> anyhow::Result<()> {
    let world = World::new(&["order", "refund", "analytics"]).await;
    let folder = Folder::new();
    let archive = folder.archive()?;
    let order_node = world
        .node("order", Default::default(), |backbone| {
            backbone.relay().upkeep(eager(archive))
        })
        .await?;
    let refund_node = world.producer("refund").await?;
    let talkative = FoldOptions {
        compare_every: Duration::from_millis(100),
        ..quick()
    };
    let consumer = shelf_of(&world, &[&order_node, &refund_node], Shelf::default(), talkative).await?;
    for some in orders(400).chunks(10) {
        order_node
            .append(&some.iter().copied().map(placed).collect::<Vec<_>>())
            .await?;
    }
    left(&order_node.db, 2).await;
    eventually("all orders", LONG, async || {
        (count(&consumer, "shelf").await.ok()? == 400).then_some(())
    })
    .await;
    let truth = rows(&consumer).await?;
    sqlx::query("DELETE FROM shelf")
        .execute(consumer.db.pool())
        .await?;
    let outcome = rebuilt(&consumer, false).await?;
    assert_eq!((outcome.events, outcome.cursors_differing), (400, 0));
    assert_eq!(
        differing(&outcome),
        [("shelf", 0, 400, 0), ("shelf_event", 0, 400, 0)]
    );
    assert_eq!(rows(&consumer).await?, truth);
    Ok(())
}

/// E-35: a fold that writes elsewhere, tables that others hang on, and a database without the schema are refused.
#[tokio::test]
async fn what_cannot_be_rebuilt_is_refused() -> anyhow::Result<()> {
    let world = World::new(&["order", "refund", "analytics"]).await;
    let order_node = world.producer("order").await?;
    let refund_node = world.producer("refund").await?;
    let shelf = Shelf {
        strays: true,
        ..Shelf::default()
    };
    let consumer = shelf_of(&world, &[&order_node, &refund_node], shelf, quick()).await?;
    order_node
        .append(&orders(20).into_iter().map(placed).collect::<Vec<_>>())
        .await?;
    taken(&consumer, &[&order_node]).await?;
    let refused = async |reason: &str, names: &str| {
        let status = rebuilt(&consumer, false).await.expect_err("it is refused");
        assert_eq!(reason_of(&status).as_deref(), Some(reason), "{status:?}");
        assert!(status.message().contains(names), "{status:?}");
        assert_eq!(status.code(), Code::FailedPrecondition);
    };
    refused("PROJECTION_STRAYS", "analytics.elsewhere").await;
    assert_eq!(count(&consumer, "elsewhere").await?, 20, "nothing of it was kept");

    sqlx::raw_sql("CREATE VIEW shown AS SELECT * FROM shelf; CREATE TABLE hanging (o uuid REFERENCES shelf)")
        .execute(consumer.db.pool())
        .await?;
    refused("TABLES_NOT_REBUILDABLE", "view shown depends on shelf").await;
    refused("TABLES_NOT_REBUILDABLE", "of hanging refers to shelf").await;

    let mut admin = world.db.admin().await;
    admin.execute("DROP SCHEMA analytics_rebuild CASCADE").await?;
    refused("NO_REBUILD_SCHEMA", "analytics_rebuild").await;
    let unknown = pb::RebuildConsumerRequest {
        consumer: "nobody".to_owned(),
        ..rebuild(true)
    };
    let unknown = operator(&consumer)?
        .rebuild_consumer(unknown)
        .await
        .expect_err("there is none");
    assert_eq!(reason_of(&unknown).as_deref(), Some("CONSUMER_NOT_FOUND"));
    Ok(())
}
