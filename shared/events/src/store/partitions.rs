//! SQL of the log's partitions: make them, notice that they are full, close them.
//!
//! Names of tables are made of numbers only, so the few statements that cannot take parameters are safe to put together.

use sqlx::{AssertSqlSafe, Executor as _, FromRow, PgConnection, PgExecutor};
use waybill_store::error::StoreError;

/// The longest that a statement waits for a table's lock: whoever appends or reads queues behind it. It is tried again,
/// and partitions are made long before they are needed.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '100ms'";

/// What the upkeep has to know of the partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromRow)]
pub(crate) struct State {
    /// The highest position that was drawn; 0 when none was.
    pub drawn: i64,
    /// Where the next partition begins.
    pub next_low: i64,
    /// How many partitions there are.
    pub partitions: i64,
    /// Whether the default partition holds rows: there was no partition for them.
    pub astray: bool,
}

/// How the partitions are.
pub(crate) async fn state(executor: impl PgExecutor<'_>) -> Result<State, StoreError> {
    Ok(sqlx::query_as(
        "SELECT CASE WHEN s.is_called THEN s.last_value ELSE 0 END AS drawn,
                coalesce((SELECT max(p.high) FROM log_partition p), 1) AS next_low,
                (SELECT count(*) FROM log_partition) AS partitions,
                EXISTS (SELECT FROM event_log_default) AS astray
         FROM event_log_position s",
    )
    .fetch_one(executor)
    .await?)
}

/// Lets one replica at a time change the partitions. False when another one does; ends with the transaction.
pub(crate) async fn try_lock(conn: &mut PgConnection) -> Result<bool, StoreError> {
    conn.execute(LOCK_TIMEOUT).await?;
    Ok(sqlx::query_scalar(
        "SELECT pg_try_advisory_xact_lock(hashtext('waybill log partitions'), hashtext(current_schema()))",
    )
    .fetch_one(conn)
    .await?)
}

/// The table of a partition.
pub(super) fn name_of(low: i64) -> String {
    format!("event_log_{low}")
}

/// A table like the log, ready to become a partition of it.
async fn create(conn: &mut PgConnection, name: &str) -> Result<(), StoreError> {
    let sql = format!(
        "CREATE TABLE {name} (LIKE event_log INCLUDING DEFAULTS INCLUDING CONSTRAINTS);
         CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON {name}
             FOR EACH STATEMENT EXECUTE FUNCTION refuse_log_change();"
    );
    conn.execute(AssertSqlSafe(sql)).await?;
    Ok(())
}

async fn attach(conn: &mut PgConnection, name: &str, low: i64, high: i64) -> Result<(), StoreError> {
    let sql = format!("ALTER TABLE event_log ATTACH PARTITION {name} FOR VALUES FROM ({low}) TO ({high})");
    conn.execute(AssertSqlSafe(sql)).await?;
    sqlx::query("INSERT INTO log_partition (name, low, high) VALUES ($1, $2, $3)")
        .bind(name)
        .bind(low)
        .bind(high)
        .execute(conn)
        .await?;
    Ok(())
}

/// Makes an empty partition. False, and nothing done, when positions from `low` on have been drawn meanwhile.
///
/// Writers are kept out for the moment: one that drew a position, found no partition for it and went to the default one
/// would be refused there once a partition for it exists.
pub(crate) async fn make(conn: &mut PgConnection, low: i64, high: i64) -> Result<bool, StoreError> {
    conn.execute("LOCK TABLE event_log IN SHARE ROW EXCLUSIVE MODE")
        .await?;
    if state(&mut *conn).await?.drawn >= low {
        return Ok(false);
    }
    let name = name_of(low);
    create(conn, &name).await?;
    attach(conn, &name, low, high).await?;
    Ok(true)
}

/// Makes a partition of what the default one holds, and a new default one. False, and nothing done, when positions from
/// `high` on have been drawn meanwhile. Writers and readers wait while the rows are looked through.
pub(crate) async fn adopt(conn: &mut PgConnection, low: i64, high: i64) -> Result<bool, StoreError> {
    conn.execute("LOCK TABLE event_log IN ACCESS EXCLUSIVE MODE")
        .await?;
    if state(&mut *conn).await?.drawn >= high {
        return Ok(false);
    }
    let name = name_of(low);
    let sql = format!(
        "ALTER TABLE event_log DETACH PARTITION event_log_default;
         ALTER TABLE event_log_default RENAME TO {name};"
    );
    conn.execute(AssertSqlSafe(sql)).await?;
    attach(conn, &name, low, high).await?;
    create(conn, "event_log_default").await?;
    conn.execute("ALTER TABLE event_log ATTACH PARTITION event_log_default DEFAULT")
        .await?;
    Ok(true)
}

/// Notes which partitions have had all their positions drawn, up to `drawn`, and from which transaction on nobody can have
/// drawn one of them: a new one, begun after that was read. (Not the snapshot's xmax: that is only the first after the
/// last that has *ended*, and writers with higher ids may still be at work.)
pub(crate) async fn note_filled(executor: impl PgExecutor<'_>, drawn: i64) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE log_partition SET filled_xid = pg_current_xact_id()
         WHERE high - 1 <= $1
           AND (filled_xid IS NULL
                -- From a server whose ids were further: this one will not reach it soon.
                OR closed_at IS NULL AND filled_xid > pg_snapshot_xmax(pg_current_snapshot()))",
    )
    .bind(drawn)
    .execute(executor)
    .await?;
    Ok(())
}

/// Closes the lowest partition that is open, if no row can come into it any more. Returns whether it did.
pub(crate) async fn close_next(executor: impl PgExecutor<'_>) -> Result<bool, StoreError> {
    let closed = sqlx::query(
        "WITH next AS (
             SELECT p.low, p.high, p.filled_xid FROM log_partition p WHERE p.closed_at IS NULL ORDER BY p.low LIMIT 1
         ), last AS (
             SELECT e.generation, e.xid, e.position FROM next n
             CROSS JOIN LATERAL (
                 SELECT l.generation, l.xid, l.position FROM event_log l
                 WHERE l.position >= n.low AND l.position < n.high
                 ORDER BY l.generation DESC, l.xid DESC, l.position DESC LIMIT 1
             ) e
             UNION ALL
             SELECT p.generation, p.xid, p.position FROM log_partition p WHERE p.closed_at IS NOT NULL
             UNION ALL
             SELECT a.generation, a.xid, a.position FROM log_archive a
             UNION ALL
             SELECT 0, '0', 0
             ORDER BY 1 DESC, 2 DESC, 3 DESC LIMIT 1
         )
         UPDATE log_partition p
         SET closed_at = clock_timestamp(), generation = l.generation, xid = l.xid, position = l.position
         FROM next n, last l
         WHERE p.low = n.low AND p.closed_at IS NULL AND n.filled_xid <= pg_snapshot_xmin(pg_current_snapshot())",
    )
    .execute(executor)
    .await?;
    Ok(closed.rows_affected() > 0)
}
