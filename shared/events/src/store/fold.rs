//! SQL of a consumer: cursors, waiting events, dead letters, stops.
//!
//! Rows of several partitions are always locked in the order (partition, source), so that owners, claims and operators
//! never wait for each other in a circle.

use std::collections::HashSet;

use sqlx::{FromRow, PgConnection, PgExecutor};
use uuid::Uuid;
use waybill_store::error::StoreError;

use crate::cursor::Cursor;
use crate::position::Position;

/// A virtual partition and the epoch of its owner.
pub(crate) type Ownership = (u16, i64);

/// Makes sure that there is a lease for each virtual partition.
pub(crate) async fn ensure_leases(executor: impl PgExecutor<'_>, consumer: &str) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO fold_lease (consumer, vpartition) SELECT $1, v FROM generate_series(0, 63) AS v
         ON CONFLICT DO NOTHING",
    )
    .bind(consumer)
    .execute(executor)
    .await?;
    Ok(())
}

/// Gives leases back, so that another owner need not wait until they run out.
pub(crate) async fn release(
    executor: impl PgExecutor<'_>,
    consumer: &str,
    owner: &str,
    held: &[Ownership],
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE fold_lease l
         SET owner = NULL, expires_at = '-infinity'
         FROM UNNEST($3::smallint[], $4::bigint[]) AS h (vpartition, epoch)
         WHERE l.consumer = $1 AND l.owner = $2 AND l.vpartition = h.vpartition AND l.epoch = h.epoch",
    )
    .bind(consumer)
    .bind(owner)
    .bind(partitions(held.iter().map(|(partition, _)| *partition)))
    .bind(held.iter().map(|(_, epoch)| *epoch).collect::<Vec<_>>())
    .execute(executor)
    .await?;
    Ok(())
}

/// The row of a cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CursorRow {
    pub source: String,
    pub vpartition: u16,
    pub epoch: i64,
    pub cursor: Cursor,
}

#[derive(FromRow)]
pub(super) struct RawCursor {
    source: String,
    vpartition: i16,
    epoch: i64,
    generation: i64,
    xid: i64,
    position: i64,
    count: i64,
    hash: Vec<u8>,
}

impl TryFrom<RawCursor> for CursorRow {
    type Error = StoreError;

    fn try_from(raw: RawCursor) -> Result<Self, StoreError> {
        Ok(CursorRow {
            source: raw.source,
            vpartition: raw.vpartition as u16,
            epoch: raw.epoch,
            cursor: Cursor {
                position: Position {
                    generation: raw.generation,
                    xid: raw.xid as u64,
                    position: raw.position,
                },
                count: raw.count,
                hash: raw.hash.try_into().map_err(|hash: Vec<u8>| {
                    StoreError::decode(format!("a cursor's hash has {} bytes", hash.len()))
                })?,
            },
        })
    }
}

/// Puts the epoch of a new owner into the cursors of its partitions and reads them. Waits for a transaction of the
/// owner before; from then on that one can commit nothing more.
pub(crate) async fn take_cursors(
    conn: &mut PgConnection,
    consumer: &str,
    sources: &[&str],
    owned: &[Ownership],
) -> Result<Vec<CursorRow>, StoreError> {
    let owned_partitions = partitions(owned.iter().map(|(partition, _)| *partition));
    sqlx::query(
        "INSERT INTO fold_cursor (consumer, source, vpartition)
         SELECT $1, s, v FROM UNNEST($2::text[]) AS s, UNNEST($3::smallint[]) AS v
         ORDER BY v, s
         ON CONFLICT DO NOTHING",
    )
    .bind(consumer)
    .bind(sources)
    .bind(&owned_partitions)
    .execute(&mut *conn)
    .await?;
    let rows: Vec<RawCursor> = sqlx::query_as(
        "WITH locked AS (
             SELECT c.source, c.vpartition, o.epoch
             FROM fold_cursor c
             JOIN UNNEST($3::smallint[], $4::bigint[]) AS o (vpartition, epoch) ON o.vpartition = c.vpartition
             WHERE c.consumer = $1 AND c.source = ANY ($2)
             ORDER BY c.vpartition, c.source
             FOR UPDATE OF c
         )
         UPDATE fold_cursor c
         SET epoch = l.epoch
         FROM locked l
         WHERE c.consumer = $1 AND c.source = l.source AND c.vpartition = l.vpartition
         RETURNING c.source, c.vpartition, c.epoch, c.generation, c.xid::text::bigint AS xid, c.position, c.count, c.hash",
    )
    .bind(consumer)
    .bind(sources)
    .bind(&owned_partitions)
    .bind(owned.iter().map(|(_, epoch)| *epoch).collect::<Vec<_>>())
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(CursorRow::try_from).collect()
}

/// Reads the cursors of some partitions.
pub(crate) async fn cursors(
    executor: impl PgExecutor<'_>,
    consumer: &str,
    sources: &[&str],
    of: &[u16],
) -> Result<Vec<CursorRow>, StoreError> {
    let rows: Vec<RawCursor> = sqlx::query_as(
        "SELECT source, vpartition, epoch, generation, xid::text::bigint AS xid, position, count, hash
         FROM fold_cursor WHERE consumer = $1 AND source = ANY ($2) AND vpartition = ANY ($3)",
    )
    .bind(consumer)
    .bind(sources)
    .bind(partitions(of.iter().copied()))
    .fetch_all(executor)
    .await?;
    rows.into_iter().map(CursorRow::try_from).collect()
}

/// One cursor's step over the events of a batch.
#[derive(Debug, Clone)]
pub(crate) struct Move {
    pub source: String,
    pub vpartition: u16,
    pub epoch: i64,
    pub from: Position,
    pub to: Cursor,
}

/// Moves cursors, first thing in the transaction of the effects. False when any of them is not where the caller thinks
/// it is, or has another owner: then nothing may be committed.
pub(crate) async fn advance(
    conn: &mut PgConnection,
    consumer: &str,
    moves: &[Move],
) -> Result<bool, StoreError> {
    let moved = sqlx::query(
        "WITH locked AS (
             SELECT c.source, c.vpartition, m.generation, m.xid, m.position, m.count, m.hash
             FROM fold_cursor c
             JOIN UNNEST($2::text[], $3::smallint[], $4::bigint[], $5::bigint[], $6::text[]::xid8[], $7::bigint[],
                         $8::bigint[], $9::text[]::xid8[], $10::bigint[], $11::bigint[], $12::bytea[])
                  AS m (source, vpartition, epoch, from_generation, from_xid, from_position, generation, xid, position,
                        count, hash)
               ON m.source = c.source AND m.vpartition = c.vpartition
             WHERE c.consumer = $1 AND c.epoch = m.epoch
               AND c.generation = m.from_generation AND c.xid = m.from_xid AND c.position = m.from_position
             ORDER BY c.vpartition, c.source
             FOR UPDATE OF c
         )
         UPDATE fold_cursor c
         SET generation = l.generation, xid = l.xid, position = l.position, count = l.count, hash = l.hash
         FROM locked l
         WHERE c.consumer = $1 AND c.source = l.source AND c.vpartition = l.vpartition",
    )
    .bind(consumer)
    .bind(moves.iter().map(|m| m.source.as_str()).collect::<Vec<_>>())
    .bind(partitions(moves.iter().map(|m| m.vpartition)))
    .bind(moves.iter().map(|m| m.epoch).collect::<Vec<_>>())
    .bind(moves.iter().map(|m| m.from.generation).collect::<Vec<_>>())
    .bind(moves.iter().map(|m| m.from.xid.to_string()).collect::<Vec<_>>())
    .bind(moves.iter().map(|m| m.from.position).collect::<Vec<_>>())
    .bind(moves.iter().map(|m| m.to.position.generation).collect::<Vec<_>>())
    .bind(moves.iter().map(|m| m.to.position.xid.to_string()).collect::<Vec<_>>())
    .bind(moves.iter().map(|m| m.to.position.position).collect::<Vec<_>>())
    .bind(moves.iter().map(|m| m.to.count).collect::<Vec<_>>())
    .bind(moves.iter().map(|m| m.to.hash.as_slice()).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(moved.rows_affected() == moves.len() as u64)
}

/// An event that is kept: waiting, parked or dead.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub key: Uuid,
    pub source: String,
    pub vpartition: u16,
    pub event_id: Uuid,
    pub type_name: String,
    /// `waybill.events.v1.LoggedEvent`.
    pub bytes: Vec<u8>,
}

/// A waiting event as it is read back.
#[derive(FromRow)]
pub(crate) struct WaitingRow {
    pub id: i64,
    pub key: Uuid,
    pub source: String,
    pub event: Vec<u8>,
}

/// What stands in the way of some keys: events that wait, in the order of their ids, and dead letters.
pub(crate) async fn obstacles(
    conn: &mut PgConnection,
    consumer: &str,
    keys: &[Uuid],
) -> Result<(Vec<WaitingRow>, HashSet<Uuid>), StoreError> {
    let rows: Vec<(i64, Uuid, String, Option<Vec<u8>>)> = sqlx::query_as(
        "SELECT id, key, source, event FROM fold_waiting WHERE consumer = $1 AND key = ANY ($2)
         UNION ALL
         SELECT 0, d.key, '', NULL FROM (
             SELECT DISTINCT key FROM fold_dead_letter WHERE consumer = $1 AND key = ANY ($2)
         ) d
         ORDER BY 1",
    )
    .bind(consumer)
    .bind(keys)
    .fetch_all(conn)
    .await?;
    let mut waiting = Vec::new();
    let mut blocked = HashSet::new();
    for (id, key, source, event) in rows {
        match event {
            Some(event) => waiting.push(WaitingRow {
                id,
                key,
                source,
                event,
            }),
            None => {
                blocked.insert(key);
            }
        }
    }
    Ok((waiting, blocked))
}

/// Events begin to wait, in this order.
pub(crate) async fn wait(conn: &mut PgConnection, consumer: &str, events: &[Kept]) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO fold_waiting (consumer, key, source, vpartition, event)
         SELECT $1, w.key, w.source, w.vpartition, w.event
         FROM UNNEST($2::uuid[], $3::text[], $4::smallint[], $5::bytea[]) WITH ORDINALITY
              AS w (key, source, vpartition, event, place)
         ORDER BY w.place",
    )
    .bind(consumer)
    .bind(events.iter().map(|e| e.key).collect::<Vec<_>>())
    .bind(events.iter().map(|e| e.source.as_str()).collect::<Vec<_>>())
    .bind(partitions(events.iter().map(|e| e.vpartition)))
    .bind(events.iter().map(|e| e.bytes.as_slice()).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

/// Events wait no longer.
pub(crate) async fn stop_waiting(conn: &mut PgConnection, rows: &[i64]) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM fold_waiting WHERE id = ANY ($1)")
        .bind(rows)
        .execute(conn)
        .await?;
    Ok(())
}

/// Keeps dead letters (with a reason) or parked events (without), in this order. Returns how many letters the consumer
/// has written within the last minute, these included.
pub(crate) async fn bury(
    conn: &mut PgConnection,
    consumer: &str,
    events: &[Kept],
    reason: Option<&str>,
) -> Result<i64, StoreError> {
    Ok(sqlx::query_scalar(
        "WITH written AS (
             INSERT INTO fold_dead_letter (consumer, key, source, vpartition, kind, event_id, type, event, reason)
             SELECT $1, w.key, w.source, w.vpartition, CASE WHEN $8::text IS NULL THEN 'parked' ELSE 'letter' END,
                    w.event_id, w.type, w.event, $8
             FROM UNNEST($2::uuid[], $3::text[], $4::smallint[], $5::uuid[], $6::text[], $7::bytea[]) WITH ORDINALITY
                  AS w (key, source, vpartition, event_id, type, event, place)
             ORDER BY w.place
             RETURNING kind
         )
         SELECT (SELECT count(*) FROM written WHERE kind = 'letter')
              + (SELECT count(*) FROM fold_dead_letter
                 WHERE consumer = $1 AND kind = 'letter' AND NOT by_command
                   AND created_at > now() - interval '1 minute')",
    )
    .bind(consumer)
    .bind(events.iter().map(|e| e.key).collect::<Vec<_>>())
    .bind(events.iter().map(|e| e.source.as_str()).collect::<Vec<_>>())
    .bind(partitions(events.iter().map(|e| e.vpartition)))
    .bind(events.iter().map(|e| e.event_id).collect::<Vec<_>>())
    .bind(events.iter().map(|e| e.type_name.as_str()).collect::<Vec<_>>())
    .bind(events.iter().map(|e| e.bytes.as_slice()).collect::<Vec<_>>())
    .bind(reason)
    .fetch_one(conn)
    .await?)
}

/// Why a consumer is stopped, if it is.
pub(crate) async fn stopped(
    executor: impl PgExecutor<'_>,
    consumer: &str,
) -> Result<Option<String>, StoreError> {
    Ok(
        sqlx::query_scalar("SELECT reason FROM fold_stopped WHERE consumer = $1")
            .bind(consumer)
            .fetch_optional(executor)
            .await?,
    )
}

/// Stops a consumer until it is resumed; the first reason stays.
pub(crate) async fn stop(
    executor: impl PgExecutor<'_>,
    consumer: &str,
    reason: &str,
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO fold_stopped (consumer, reason) VALUES ($1, $2) ON CONFLICT DO NOTHING")
        .bind(consumer)
        .bind(reason)
        .execute(executor)
        .await?;
    Ok(())
}

/// Lets a consumer run again. False when it was not stopped.
pub(crate) async fn resume(executor: impl PgExecutor<'_>, consumer: &str) -> Result<bool, StoreError> {
    let resumed = sqlx::query("DELETE FROM fold_stopped WHERE consumer = $1")
        .bind(consumer)
        .execute(executor)
        .await?;
    Ok(resumed.rows_affected() > 0)
}

fn partitions(all: impl Iterator<Item = u16>) -> Vec<i16> {
    all.map(|partition| partition as i16).collect()
}
