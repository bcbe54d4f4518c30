//! SQL of a rebuild besides the tables: what the live consumer has not applied, its cursors, its leases.

use std::time::Duration;

use sqlx::{AssertSqlSafe, PgConnection};
use uuid::Uuid;
use waybill_store::error::StoreError;

use super::fold::{CursorRow, RawCursor, WaitingRow};
use crate::cursor::Cursor;

/// What stands between some keys and the events that were taken of them.
#[derive(Default)]
pub(crate) struct Undone {
    /// Held back by the rebuild, in the order of their ids.
    pub held: Vec<WaitingRow>,
    /// Taken by the live consumer but without effect: waiting, dead letters and what is parked behind them.
    pub live: Vec<WaitingRow>,
    /// Given up by a person: without effect for ever.
    pub discarded: Vec<Uuid>,
}

/// Reads it in one statement. The search path begins with the shadow's schema, whose `fold_waiting` has what is held;
/// `live` is the quoted live schema.
pub(crate) async fn undone(
    conn: &mut PgConnection,
    live: &str,
    consumer: &str,
    keys: &[Uuid],
) -> Result<Undone, StoreError> {
    let sql = format!(
        "SELECT 'held' AS what, id, key, source, event FROM fold_waiting WHERE consumer = $1 AND key = ANY ($2)
         UNION ALL
         SELECT 'live', id, key, source, event FROM {live}.fold_waiting WHERE consumer = $1 AND key = ANY ($2)
         UNION ALL
         SELECT 'live', id, key, source, event FROM {live}.fold_dead_letter WHERE consumer = $1 AND key = ANY ($2)
         UNION ALL
         SELECT 'discarded', id, event_id, '', '' FROM {live}.fold_audit
         WHERE consumer = $1 AND key = ANY ($2) AND action = 'discard' AND discarded IS NOT NULL
         ORDER BY 1, 2"
    );
    let rows: Vec<(String, i64, Uuid, String, Vec<u8>)> = sqlx::query_as(AssertSqlSafe(sql))
        .bind(consumer)
        .bind(keys)
        .fetch_all(conn)
        .await?;
    let mut undone = Undone::default();
    for (what, id, key, source, event) in rows {
        let row = WaitingRow {
            id,
            key,
            source,
            event,
        };
        match what.as_str() {
            "held" => undone.held.push(row),
            "live" => undone.live.push(row),
            _ => undone.discarded.push(row.key),
        }
    }
    Ok(undone)
}

/// Keys of which the rebuild holds events back, by key after another one.
pub(crate) async fn held_keys(
    conn: &mut PgConnection,
    consumer: &str,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Uuid>, StoreError> {
    Ok(sqlx::query_scalar(
        "SELECT DISTINCT key FROM fold_waiting WHERE consumer = $1 AND ($2::uuid IS NULL OR key > $2)
         ORDER BY key LIMIT $3",
    )
    .bind(consumer)
    .bind(after)
    .bind(limit)
    .fetch_all(conn)
    .await?)
}

/// Everything that is held, here and by the live consumer: (held, live).
pub(crate) async fn all_undone(
    conn: &mut PgConnection,
    live: &str,
    consumer: &str,
) -> Result<(Vec<WaitingRow>, Vec<WaitingRow>), StoreError> {
    let sql = format!(
        "SELECT 'held' AS what, id, key, source, event FROM fold_waiting WHERE consumer = $1
         UNION ALL
         SELECT 'live', id, key, source, event FROM {live}.fold_waiting WHERE consumer = $1
         UNION ALL
         SELECT 'live', id, key, source, event FROM {live}.fold_dead_letter WHERE consumer = $1"
    );
    let rows: Vec<(String, i64, Uuid, String, Vec<u8>)> = sqlx::query_as(AssertSqlSafe(sql))
        .bind(consumer)
        .fetch_all(conn)
        .await?;
    let (mut held, mut kept) = (Vec::new(), Vec::new());
    for (what, id, key, source, event) in rows {
        let row = WaitingRow {
            id,
            key,
            source,
            event,
        };
        match what.as_str() {
            "held" => held.push(row),
            _ => kept.push(row),
        }
    }
    Ok((held, kept))
}

/// The live cursors. With `locked` nobody moves them until the end of the transaction.
pub(crate) async fn live_cursors(
    conn: &mut PgConnection,
    live: &str,
    consumer: &str,
    sources: &[&str],
    locked: bool,
) -> Result<Vec<CursorRow>, StoreError> {
    let sql = format!(
        "SELECT source, vpartition, epoch, generation, xid::text::bigint AS xid, position, count, hash
         FROM {live}.fold_cursor WHERE consumer = $1 AND source = ANY ($2)
         ORDER BY vpartition, source {}",
        if locked { "FOR UPDATE" } else { "" }
    );
    let rows: Vec<RawCursor> = sqlx::query_as(AssertSqlSafe(sql))
        .bind(consumer)
        .bind(sources)
        .fetch_all(conn)
        .await?;
    rows.into_iter().map(CursorRow::try_from).collect()
}

/// Writes what the log says into cursors, whose places stay.
pub(crate) async fn prove_cursors(
    conn: &mut PgConnection,
    live: &str,
    consumer: &str,
    cursors: &[(String, u16, Cursor)],
) -> Result<(), StoreError> {
    let sql = format!(
        "UPDATE {live}.fold_cursor c SET count = p.count, hash = p.hash
         FROM UNNEST($2::text[], $3::smallint[], $4::bigint[], $5::bytea[]) AS p (source, vpartition, count, hash)
         WHERE c.consumer = $1 AND c.source = p.source AND c.vpartition = p.vpartition
           AND (c.count, c.hash) IS DISTINCT FROM (p.count, p.hash)"
    );
    sqlx::query(AssertSqlSafe(sql))
        .bind(consumer)
        .bind(
            cursors
                .iter()
                .map(|(source, ..)| source.as_str())
                .collect::<Vec<_>>(),
        )
        .bind(
            cursors
                .iter()
                .map(|(_, partition, _)| *partition as i16)
                .collect::<Vec<_>>(),
        )
        .bind(
            cursors
                .iter()
                .map(|(.., cursor)| cursor.count)
                .collect::<Vec<_>>(),
        )
        .bind(
            cursors
                .iter()
                .map(|(.., cursor)| cursor.hash.as_slice())
                .collect::<Vec<_>>(),
        )
        .execute(conn)
        .await?;
    Ok(())
}

/// Takes all leases of a consumer for a while, with a new epoch in leases and cursors: batches of the owners before
/// commit no more. They run out by themselves, so nothing stands still when the holder dies.
pub(crate) async fn hold(
    conn: &mut PgConnection,
    consumer: &str,
    holder: &str,
    ttl: Duration,
) -> Result<(), StoreError> {
    super::operate::revoke(&mut *conn, consumer).await?;
    sqlx::query(
        "UPDATE fold_lease SET owner = $2, expires_at = clock_timestamp() + make_interval(secs => $3)
         WHERE consumer = $1",
    )
    .bind(consumer)
    .bind(holder)
    .bind(ttl.as_secs_f64())
    .execute(conn)
    .await?;
    Ok(())
}
