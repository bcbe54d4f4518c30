//! How the server reads a log in partitions: through indexes, and only where something can be. And when a partition is
//! closed: never before the last row has come.

use std::collections::BTreeSet;

use sqlx::{AssertSqlSafe, Executor as _, PgConnection};
use uuid::Uuid;
use waybill_kernel::id::{EventId, MerchantId};
use waybill_kernel::partition::partition_of;
use waybill_runtime::service::DatabaseConfig;
use waybill_store::Db;

use super::log::{CHUNK, PAGE};
use super::partitions::{close_next, make, note_filled, state, try_lock};
use super::select::SELECT;
use super::written::WRITTEN;

/// A log of ten partitions of a thousand events each, all but the last one closed.
async fn ten_partitions(db: &Db) -> anyhow::Result<()> {
    for number in 0..12 {
        let mut tx = db.begin().await?;
        anyhow::ensure!(try_lock(tx.conn()).await?);
        anyhow::ensure!(make(tx.conn(), 1 + number * 1000, 1001 + number * 1000).await?);
        tx.commit().await?;
    }
    for _ in 0..98 {
        let keys: Vec<Uuid> = (0..100).map(|_| EventId::generate().uuid()).collect();
        sqlx::query(
            "INSERT INTO event_log (generation, event_id, merchant_id, partition_key, vpartition, aggregate_id,
                                    aggregate_version, type, payload, occurred_at)
             SELECT 1, k.key, $1, k.key, k.vpartition, k.key, 1, 'a.B', '', now()
             FROM UNNEST($2::uuid[], $3::smallint[]) AS k (key, vpartition)",
        )
        .bind(MerchantId::generate().uuid())
        .bind(&keys)
        .bind(keys.iter().map(|key| partition_of(*key) as i16).collect::<Vec<_>>())
        .execute(db.pool())
        .await?;
    }
    note_filled(db.pool(), state(db.pool()).await?.drawn).await?;
    waybill_testkit::eventually(
        "nine closed partitions",
        std::time::Duration::from_secs(60),
        async || {
            while close_next(db.pool()).await.map_err(|error| error.to_string())? {}
            let closed: i64 =
                sqlx::query_scalar("SELECT count(*) FROM log_partition WHERE closed_at IS NOT NULL")
                    .fetch_one(db.pool())
                    .await
                    .map_err(|error| error.to_string())?;
            if closed == 9 {
                Ok(())
            } else {
                Err(closed.to_string())
            }
        },
    )
    .await;
    // Nothing that a plan depends on may come at a time of its own.
    db.pool().execute("ANALYZE event_log").await?;
    Ok(())
}

/// The plan that every connection ends up with: prepared once, for any place.
async fn plan(conn: &mut PgConnection, types: &str, sql: &str, arguments: &str) -> anyhow::Result<String> {
    conn.execute("DEALLOCATE ALL; SET plan_cache_mode = force_generic_plan")
        .await?;
    let prepare = format!("PREPARE asked ({types}) AS {sql}");
    conn.execute(AssertSqlSafe(prepare)).await?;
    let explain = format!(
        "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF, BUFFERS OFF) EXECUTE asked ({arguments})"
    );
    let lines: Vec<String> = sqlx::query_scalar(AssertSqlSafe(explain)).fetch_all(conn).await?;
    Ok(lines.join("\n"))
}

/// The partitions that the plan looked into.
fn touched(plan: &str) -> BTreeSet<String> {
    plan.lines()
        .filter(|line| line.contains(" on event_log") && !line.contains("never executed"))
        .filter_map(|line| line.split(" on event_log_").nth(1)?.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

fn names<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.into_iter().map(str::to_owned).collect()
}

async fn log_of(world: &waybill_testkit::TestDb) -> anyhow::Result<Db> {
    let config = DatabaseConfig {
        url: world.url("order").as_str().into(),
        ..DatabaseConfig::default()
    };
    let db = Db::connect(&config, "order").await?;
    waybill_store::migrate::migrate(&db, &[&crate::MIGRATOR]).await?;
    Ok(db)
}

const INSERT: &str = "
    INSERT INTO event_log (generation, event_id, merchant_id, partition_key, vpartition, aggregate_id, aggregate_version,
                           type, payload, occurred_at)
    SELECT 1, gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 0, gen_random_uuid(), 1, 'a.B', '', now()
    FROM generate_series(1, $1)";

/// A transaction that has drawn the last positions of a partition and is still open, the youngest that there is: its rows
/// come after everybody else can see that all positions are drawn. Repeated, because other tests on the server begin and
/// end transactions as well.
#[tokio::test]
async fn a_partition_stays_open_until_its_last_writer_has_ended() -> anyhow::Result<()> {
    let world = waybill_testkit::database(&["order"]).await;
    let db = log_of(&world).await?;
    for round in 0..20 {
        let (low, high) = (1 + 10 * round, 11 + 10 * round);
        let mut tx = db.begin().await?;
        anyhow::ensure!(try_lock(tx.conn()).await? && make(tx.conn(), low, high).await?);
        tx.commit().await?;
        let mut writer = db.begin().await?;
        sqlx::query(INSERT).bind(10).execute(writer.conn()).await?;
        note_filled(db.pool(), high - 1).await?;
        assert!(!close_next(db.pool()).await?, "its rows are still to come");
        writer.commit().await?;
        waybill_testkit::eventually(
            "a closed partition",
            std::time::Duration::from_secs(60),
            async || {
                close_next(db.pool())
                    .await
                    .is_ok_and(|closed| closed)
                    .then_some(())
            },
        )
        .await;
        let last: i64 =
            sqlx::query_scalar("SELECT max(position) FROM log_partition WHERE closed_at IS NOT NULL")
                .fetch_one(db.pool())
                .await?;
        assert_eq!(last, high - 1);
    }
    Ok(())
}

#[tokio::test]
async fn readers_look_where_something_can_be() -> anyhow::Result<()> {
    let world = waybill_testkit::database(&["order"]).await;
    let db = log_of(&world).await?;
    ten_partitions(&db).await?;
    let at = |position: i64| {
        let sql = "SELECT generation || ', ''' || xid || ''', ' || position FROM event_log
                   WHERE position >= $1 ORDER BY position LIMIT 1";
        sqlx::query_scalar::<_, String>(sql)
            .bind(position)
            .fetch_one(db.pool())
    };
    let mut conn = db.pool().acquire().await?;
    let page = "bigint, text, bigint, bigint, int";

    // At the head: the partition that is being filled, those ahead of it, and the default one.
    let head = at(9_790).await?;
    let plan_at_head = plan(&mut conn, page, PAGE, &format!("{head}, 500, 1000")).await?;
    let open = names(["9001", "10001", "11001", "default"]);
    assert_eq!(touched(&plan_at_head), open, "{plan_at_head}");
    assert!(plan_at_head.contains("Subplans Removed: 9"), "{plan_at_head}");
    assert!(!plan_at_head.contains("Seq Scan on event_log"), "{plan_at_head}");

    // In the middle nothing behind the place is looked at. What lies ahead gives up its first row each and no more.
    let middle = at(4_500).await?;
    let plan_in_the_middle = plan(&mut conn, page, PAGE, &format!("{middle}, 100, 1000")).await?;
    assert!(
        plan_in_the_middle.contains("Subplans Removed: 4"),
        "{plan_in_the_middle}"
    );
    assert!(
        !plan_in_the_middle.contains("Seq Scan on event_log"),
        "{plan_in_the_middle}"
    );

    // A consumer near the head: its own event, what follows, and the rows themselves.
    let chunk = "smallint[], bigint[], text[], bigint[], bigint, bigint, text, bigint, text, bigint";
    let cursor: (i16, String, i64) = sqlx::query_as(
        "SELECT vpartition, xid::text, position FROM event_log WHERE position >= 9300 ORDER BY position LIMIT 1",
    )
    .fetch_one(db.pool())
    .await?;
    let (partition, xid, position) = cursor;
    let arguments = format!(
        "'{{{partition}}}', '{{1}}', '{{{xid}}}', '{{{position}}}', 500, 500, NULL, 1, '{xid}', {position}"
    );
    let plan_of_a_chunk = plan(&mut conn, chunk, CHUNK, &arguments).await?;
    assert_eq!(touched(&plan_of_a_chunk), open, "{plan_of_a_chunk}");
    assert!(
        !plan_of_a_chunk
            .lines()
            .any(|line| line.contains("Seq Scan on event_log") && !line.contains("never executed")),
        "{plan_of_a_chunk}"
    );

    // A filtered read from the same place looks for what is wanted nowhere else. Where there is something, its
    // predecessor may be anywhere.
    let select = "smallint[], bigint[], text[], bigint[], bigint, bigint, text, bigint, text, bigint, text[], uuid[], uuid,
                  timestamptz, timestamptz";
    let nothing = format!("{arguments}, '{{x.Y}}', NULL, NULL, NULL, NULL");
    let plan_of_nothing = plan(&mut conn, select, SELECT, &nothing).await?;
    assert_eq!(touched(&plan_of_nothing), open, "{plan_of_nothing}");
    let something = format!("{arguments}, '{{a.B}}', NULL, NULL, '2000-01-01', NULL");
    for plan in [
        plan_of_nothing,
        plan(&mut conn, select, SELECT, &something).await?,
    ] {
        assert!(
            !plan
                .lines()
                .any(|line| line.contains("Seq Scan on event_log") && !line.contains("never executed")),
            "{plan}"
        );
    }

    // What a transaction wrote of a key is looked up, in every partition, by the log's order.
    let written = "smallint, uuid, text[]";
    let key: Uuid = sqlx::query_scalar("SELECT partition_key FROM event_log WHERE position = 9300")
        .fetch_one(db.pool())
        .await?;
    let arguments = format!("{}, '{key}', '{{{xid}}}'", partition_of(key));
    let plan_of_written = plan(&mut conn, written, WRITTEN, &arguments).await?;
    let empty = ["event_log_10001", "event_log_11001", "event_log_default"];
    for line in plan_of_written
        .lines()
        .filter(|line| line.contains("Seq Scan on event_log"))
    {
        assert!(
            empty.iter().any(|name| line.contains(&format!(" {name} "))),
            "{plan_of_written}"
        );
    }
    assert!(plan_of_written.contains("Index Cond"), "{plan_of_written}");
    Ok(())
}
