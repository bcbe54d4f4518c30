//! SQL of the archive: which part of the log comes next, what was written of it, and taking it out of the database.

use std::sync::Arc;

use futures_util::TryStreamExt as _;
use sqlx::{AssertSqlSafe, Executor as _, FromRow as _, PgConnection, PgExecutor};
use uuid::Uuid;
use waybill_kernel::partition::PARTITIONS;
use waybill_store::error::StoreError;

use super::log::{LogRow, place};
use super::partitions::name_of;
use crate::archive::Stored;
use crate::cursor::Cursor;
use crate::event::Event;
use crate::position::Position;

/// The last event of a virtual partition up to some place, with the proof of all before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    pub cursor: Cursor,
    pub event_id: Uuid,
}

/// The last event of each virtual partition that has one.
pub(crate) type Ends = [Option<End>; PARTITIONS as usize];

/// The oldest partition, which is closed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Oldest {
    pub low: i64,
    pub high: i64,
    /// The last place of the log up to and including it.
    pub last: Position,
    /// For how many seconds it has been closed.
    pub age_seconds: f64,
    /// Whether it is in the archive.
    pub archived: bool,
}

/// The oldest partition, if it is closed.
pub(crate) async fn oldest_closed(executor: impl PgExecutor<'_>) -> Result<Option<Oldest>, StoreError> {
    let row: Option<(i64, i64, i64, i64, i64, f64, bool)> = sqlx::query_as(
        "SELECT p.low, p.high, p.generation, p.xid::text::bigint, p.position,
                extract(epoch FROM clock_timestamp() - p.closed_at)::float8,
                EXISTS (SELECT FROM log_archive a WHERE a.low = p.low)
         FROM (SELECT * FROM log_partition ORDER BY low LIMIT 1) p
         WHERE p.closed_at IS NOT NULL",
    )
    .fetch_optional(executor)
    .await?;
    Ok(row.map(
        |(low, high, generation, xid, position, age_seconds, archived)| Oldest {
            low,
            high,
            last: place(generation, xid, position),
            age_seconds,
            archived,
        },
    ))
}

/// A name for what is written now that no other history gives: server, generation.
pub(crate) async fn history_name(executor: impl PgExecutor<'_>) -> Result<String, StoreError> {
    let (system, generation): (i64, i64) =
        sqlx::query_as("SELECT system_identifier, generation FROM log_identity")
            .fetch_one(executor)
            .await?;
    Ok(format!("{:016x}/{generation}", system as u64))
}

type EndRow = (i16, i64, i64, i64, Uuid, i64, Vec<u8>);

fn ends_of(rows: Vec<EndRow>) -> Result<Ends, StoreError> {
    let mut ends: Ends = [None; PARTITIONS as usize];
    for (partition, generation, xid, position, event_id, count, hash) in rows {
        let hash = hash
            .try_into()
            .map_err(|hash: Vec<u8>| StoreError::decode(format!("an end's hash has {} bytes", hash.len())))?;
        ends[partition as usize] = Some(End {
            cursor: Cursor {
                position: place(generation, xid, position),
                count,
                hash,
            },
            event_id,
        });
    }
    Ok(ends)
}

/// Where the archive ends: the last place it covers, and the ends of the virtual partitions there.
pub(crate) async fn archived_to(conn: &mut PgConnection) -> Result<(Position, Ends), StoreError> {
    let last: Option<(i64, i64, i64, i64)> = sqlx::query_as(
        "SELECT low, generation, xid::text::bigint, position FROM log_archive ORDER BY low DESC LIMIT 1",
    )
    .fetch_optional(&mut *conn)
    .await?;
    let Some((low, generation, xid, position)) = last else {
        return Ok((Position::ZERO, [None; PARTITIONS as usize]));
    };
    let rows: Vec<EndRow> = sqlx::query_as(
        "SELECT vpartition, generation, xid::text::bigint, position, event_id, count, hash
         FROM log_archive_end WHERE low = $1",
    )
    .bind(low)
    .fetch_all(conn)
    .await?;
    Ok((place(generation, xid, position), ends_of(rows)?))
}

/// The events after `after` up to `last`, all of which are settled, in log order, at most `limit` and about `max_bytes`.
/// None of them has a position below `low`. `prev` is taken from `ends`, which are moved on.
pub(crate) async fn stretch(
    executor: impl PgExecutor<'_>,
    source: &Arc<str>,
    (after, last): (Position, Position),
    low: i64,
    ends: &mut Ends,
    (limit, max_bytes): (usize, usize),
) -> Result<Vec<Event>, StoreError> {
    let mut rows = sqlx::query(
        "SELECT l.generation, l.xid::text::bigint AS xid, l.position, l.event_id, l.merchant_id, l.store_id,
                l.partition_key, l.vpartition, l.aggregate_id, l.aggregate_version, l.type,
                octet_length(l.payload) AS payload_bytes, l.payload, l.traceparent, l.occurred_at, l.actor, l.cause
         FROM event_log l
         WHERE (l.generation, l.xid, l.position) > ($1, $2::xid8, $3)
           AND (l.generation, l.xid, l.position) <= ($4, $5::xid8, $6) AND l.position >= $7
         ORDER BY l.generation, l.xid, l.position LIMIT $8",
    )
    .bind(after.generation)
    .bind(after.xid.to_string())
    .bind(after.position)
    .bind(last.generation)
    .bind(last.xid.to_string())
    .bind(last.position)
    .bind(low)
    .bind(limit as i64)
    .fetch(executor);
    let mut events = Vec::new();
    let mut bytes = 0;
    while bytes < max_bytes
        && let Some(row) = rows.try_next().await?
    {
        let row = LogRow::from_row(&row)?;
        let end = &mut ends[row.vpartition as usize];
        let mut cursor = end.map(|end| end.cursor).unwrap_or_default();
        let prev = cursor.position;
        bytes += row.payload_bytes as usize + 512;
        let event = row.into_event(source, prev)?;
        let event_id = event.event_id.uuid();
        cursor.take(event.position, event_id);
        *end = Some(End { cursor, event_id });
        events.push(event);
    }
    Ok(events)
}

/// What was written to the archive.
pub(crate) struct Entry<'e> {
    pub low: i64,
    pub high: i64,
    pub object: &'e str,
    pub last: Position,
    pub events: i64,
    pub stored: Stored,
    pub ends: &'e Ends,
}

/// Writes down what is in the archive, in one statement.
pub(crate) async fn record(executor: impl PgExecutor<'_>, entry: &Entry<'_>) -> Result<(), StoreError> {
    let ends: Vec<(i16, End)> = (0i16..)
        .zip(entry.ends)
        .filter_map(|(partition, end)| Some((partition, (*end)?)))
        .collect();
    sqlx::query(
        "WITH written AS (
             INSERT INTO log_archive (low, high, object, generation, xid, position, events, bytes, sha256)
             VALUES ($1, $2, $3, $4, $5::xid8, $6, $7, $8, $9)
         )
         INSERT INTO log_archive_end (low, vpartition, generation, xid, position, event_id, count, hash)
         SELECT $1, e.vpartition, e.generation, e.xid, e.position, e.event_id, e.count, e.hash
         FROM UNNEST($10::smallint[], $11::bigint[], $12::text[]::xid8[], $13::bigint[], $14::uuid[], $15::bigint[],
                     $16::bytea[]) AS e (vpartition, generation, xid, position, event_id, count, hash)",
    )
    .bind(entry.low)
    .bind(entry.high)
    .bind(entry.object)
    .bind(entry.last.generation)
    .bind(entry.last.xid.to_string())
    .bind(entry.last.position)
    .bind(entry.events)
    .bind(entry.stored.bytes as i64)
    .bind(entry.stored.sha256.as_slice())
    .bind(ends.iter().map(|(partition, _)| *partition).collect::<Vec<_>>())
    .bind(ends.iter().map(|(_, e)| e.cursor.position.generation).collect::<Vec<_>>())
    .bind(ends.iter().map(|(_, e)| e.cursor.position.xid.to_string()).collect::<Vec<_>>())
    .bind(ends.iter().map(|(_, e)| e.cursor.position.position).collect::<Vec<_>>())
    .bind(ends.iter().map(|(_, e)| e.event_id).collect::<Vec<_>>())
    .bind(ends.iter().map(|(_, e)| e.cursor.count).collect::<Vec<_>>())
    .bind(ends.iter().map(|(_, e)| e.cursor.hash.as_slice()).collect::<Vec<_>>())
    .execute(executor)
    .await?;
    Ok(())
}

/// Drops the partition `low`, which is in the archive, and remembers where the log stands without it. Waits for nobody
/// for long.
pub(crate) async fn drop_archived(conn: &mut PgConnection, low: i64) -> Result<bool, StoreError> {
    let name: Option<String> = sqlx::query_scalar(
        "WITH archived AS (
             UPDATE log_archive SET dropped_at = clock_timestamp() WHERE low = $1 AND dropped_at IS NULL RETURNING *
         ), identity AS (
             UPDATE log_identity i
             SET dropped_generation = a.generation, dropped_xid = a.xid, dropped_position = a.position
             FROM archived a
         ), frontier AS (
             INSERT INTO log_frontier (vpartition, generation, xid, position, event_id, count, hash)
             SELECT e.vpartition, e.generation, e.xid, e.position, e.event_id, e.count, e.hash
             FROM archived a JOIN log_archive_end e ON e.low = a.low
             ON CONFLICT (vpartition) DO UPDATE
             SET generation = EXCLUDED.generation, xid = EXCLUDED.xid, position = EXCLUDED.position,
                 event_id = EXCLUDED.event_id, count = EXCLUDED.count, hash = EXCLUDED.hash
         )
         DELETE FROM log_partition p USING archived a WHERE p.low = a.low RETURNING p.name",
    )
    .bind(low)
    .fetch_optional(&mut *conn)
    .await?;
    match name {
        // Put into a statement only after it was compared with what it must be.
        Some(name) if name == name_of(low) => {
            conn.execute(AssertSqlSafe(format!("DROP TABLE {name}"))).await?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// An object whose events have left the database.
#[derive(Debug, Clone)]
pub(crate) struct Gone {
    pub object: String,
    pub sha256: Vec<u8>,
}

/// The objects in which the events after the cursors are that have left the database, in log order.
pub(crate) async fn gone(
    executor: impl PgExecutor<'_>,
    cursors: &[(u16, Position)],
) -> Result<Vec<Gone>, StoreError> {
    let rows: Vec<(String, Vec<u8>)> = sqlx::query_as(
        "SELECT a.object, a.sha256 FROM log_archive a
         WHERE a.dropped_at IS NOT NULL AND EXISTS (
             SELECT FROM log_archive_end e
             JOIN UNNEST($1::smallint[], $2::bigint[], $3::text[]::xid8[], $4::bigint[])
                  AS c (vpartition, generation, xid, position) ON c.vpartition = e.vpartition
             WHERE e.low = a.low AND (e.generation, e.xid, e.position) > (c.generation, c.xid, c.position)
               -- Its own last event, and not one that it was handed down.
               AND NOT EXISTS (
                   SELECT FROM log_archive_end b
                   WHERE b.low < a.low AND b.vpartition = e.vpartition AND b.position = e.position
                     AND b.generation = e.generation AND b.xid = e.xid
               )
         )
         ORDER BY a.low",
    )
    .bind(
        cursors
            .iter()
            .map(|(partition, _)| *partition as i16)
            .collect::<Vec<_>>(),
    )
    .bind(
        cursors
            .iter()
            .map(|(_, after)| after.generation)
            .collect::<Vec<_>>(),
    )
    .bind(
        cursors
            .iter()
            .map(|(_, after)| after.xid.to_string())
            .collect::<Vec<_>>(),
    )
    .bind(
        cursors
            .iter()
            .map(|(_, after)| after.position)
            .collect::<Vec<_>>(),
    )
    .fetch_all(executor)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(object, sha256)| Gone { object, sha256 })
        .collect())
}

/// The objects that can hold what transactions wrote, of what has left the database; at most `most`, the oldest first. The
/// events of a transaction may stand in two of them, and a transaction id is one of a generation.
pub(crate) async fn objects_of_transactions(
    executor: impl PgExecutor<'_>,
    transactions: &[u64],
    most: i64,
) -> Result<Vec<String>, StoreError> {
    Ok(sqlx::query_scalar(
        "SELECT a.object FROM log_archive a
         WHERE a.low IN (
             SELECT o.low
             FROM log_identity i
             CROSS JOIN LATERAL generate_series(1, i.generation) AS g (generation)
             CROSS JOIN UNNEST($1::text[]::xid8[]) AS w (xid)
             CROSS JOIN (VALUES (0::bigint), (9223372036854775807)) AS p (position)
             CROSS JOIN LATERAL (
                 SELECT l.low FROM log_archive l
                 WHERE l.dropped_at IS NOT NULL AND (l.generation, l.xid, l.position) >= (g.generation, w.xid, p.position)
                 ORDER BY l.low LIMIT 1
             ) o
         )
         ORDER BY a.low LIMIT $2",
    )
    .bind(transactions.iter().map(u64::to_string).collect::<Vec<_>>())
    .bind(most)
    .fetch_all(executor)
    .await?)
}

/// The object that covers a place which has left the database.
pub(crate) async fn object_of(
    executor: impl PgExecutor<'_>,
    at: Position,
) -> Result<Option<String>, StoreError> {
    Ok(sqlx::query_scalar(
        "SELECT object FROM log_archive
         WHERE dropped_at IS NOT NULL AND (generation, xid, position) >= ($1, $2::xid8, $3)
         ORDER BY low LIMIT 1",
    )
    .bind(at.generation)
    .bind(at.xid.to_string())
    .bind(at.position)
    .fetch_optional(executor)
    .await?)
}
