//! SQL of the event log: append, and read in the log's order below the watermark.
//!
//! A row is *settled* when no transaction that is still running can put another one in front of it: its transaction id
//! lies below the oldest running one, or its generation below the log's own (the generation is raised only when no
//! writer of the old one is left). The watermark is taken in the statement that reads the rows. Nothing unsettled ever
//! leaves this module.
//!
//! The log is in partitions of positions, and its order is not that of the positions. `log_floor` says from which position
//! on the events after a place can be, so that the server looks into the partitions alone that can have any. Whoever asks
//! what comes before something asks `log_place`, which knows the last events of what has left the database.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::TryStreamExt as _;
use sqlx::{FromRow, PgConnection, PgExecutor};
use uuid::Uuid;
use waybill_kernel::partition::{PARTITIONS, partition_of};
use waybill_runtime::telemetry::current_traceparent;
use waybill_store::Origin;
use waybill_store::error::StoreError;

use crate::envelope::INLINE_LIMIT;
use crate::event::{Event, NewEvent};
use crate::position::Position;

/// The last event of each virtual partition at or before some place; zero where there is none.
pub(crate) type Predecessors = [Position; PARTITIONS as usize];

const APPEND: &str = "
    WITH written AS (
        INSERT INTO event_log (generation, event_id, merchant_id, store_id, partition_key, vpartition, aggregate_id,
                               aggregate_version, type, payload, traceparent, occurred_at, actor, cause)
        SELECT i.generation, e.event_id, e.merchant_id, e.store_id, e.partition_key, e.vpartition, e.aggregate_id,
               e.aggregate_version, e.type, e.payload, e.traceparent, e.occurred_at, e.actor, e.cause
        FROM log_identity i,
             UNNEST($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::smallint[], $6::uuid[], $7::bigint[],
                    $8::text[], $9::bytea[], $10::text[], $11::timestamptz[], $14::text[], $15::text[]) WITH ORDINALITY
               AS e (event_id, merchant_id, store_id, partition_key, vpartition, aggregate_id, aggregate_version, type,
                     payload, traceparent, occurred_at, actor, cause, place)
        -- A schema that was restored under this connection has another table than its identity says.
        WHERE NOT i.fenced AND i.table_oid = to_regclass('event_log')::oid
        ORDER BY e.place
        RETURNING 1
    )
    SELECT count(*), CASE WHEN $12 THEN pg_notify($13, '')::text END FROM written";

/// Appends events in their order. Returns how many were written: none when the log is fenced. With `channel`, other
/// processes are told once the transaction commits.
pub(crate) async fn append(
    conn: &mut PgConnection,
    events: &[NewEvent],
    channel: Option<&str>,
) -> Result<i64, StoreError> {
    let span = current_traceparent();
    let here = Origin::current();
    let origin = |of: fn(&Origin) -> &String| {
        let said = |origin: Option<&'_ Origin>| origin.map(of).filter(|text| !text.is_empty()).cloned();
        let texts = events
            .iter()
            .map(|event| said(event.origin.as_ref()).or_else(|| said(here.as_ref())));
        texts.collect::<Vec<Option<String>>>()
    };
    let column = |of: fn(&NewEvent) -> Uuid| events.iter().map(of).collect::<Vec<Uuid>>();
    let (written, _): (i64, Option<String>) = sqlx::query_as(APPEND)
        .bind(column(|e| e.id.uuid()))
        .bind(column(|e| e.merchant.uuid()))
        .bind(
            events
                .iter()
                .map(|e| e.store.map(waybill_kernel::id::StoreId::uuid))
                .collect::<Vec<_>>(),
        )
        .bind(column(|e| e.key))
        .bind(
            events
                .iter()
                .map(|e| partition_of(e.key) as i16)
                .collect::<Vec<_>>(),
        )
        .bind(column(|e| e.aggregate))
        .bind(events.iter().map(|e| e.version).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.type_name.as_str()).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.payload.as_slice()).collect::<Vec<_>>())
        .bind(
            events
                .iter()
                .map(|e| e.cause.as_deref().or(span.as_deref()))
                .collect::<Vec<_>>(),
        )
        .bind(events.iter().map(|e| e.occurred_at).collect::<Vec<_>>())
        .bind(channel.is_some())
        .bind(channel.unwrap_or_default())
        .bind(origin(|origin| &origin.actor))
        .bind(origin(|origin| &origin.cause))
        .fetch_one(conn)
        .await?;
    Ok(written)
}

/// A row of the log. The payload is missing where it was not asked for.
#[derive(FromRow)]
pub(super) struct LogRow {
    generation: i64,
    xid: i64,
    position: i64,
    event_id: Uuid,
    merchant_id: Uuid,
    store_id: Option<Uuid>,
    partition_key: Uuid,
    pub(super) vpartition: i16,
    aggregate_id: Uuid,
    aggregate_version: i64,
    #[sqlx(rename = "type")]
    type_name: String,
    payload: Option<Vec<u8>>,
    pub(super) payload_bytes: i32,
    traceparent: Option<String>,
    occurred_at: DateTime<Utc>,
    actor: Option<String>,
    cause: Option<String>,
}

impl LogRow {
    pub(super) fn into_event(self, source: &Arc<str>, prev: Position) -> Result<Event, StoreError> {
        Event {
            position: place(self.generation, self.xid, self.position),
            prev,
            event_id: self.event_id.into(),
            source: Arc::clone(source),
            type_name: self.type_name,
            merchant: self.merchant_id.into(),
            store: self.store_id.map(Into::into),
            key: self.partition_key,
            vpartition: self.vpartition as u16,
            aggregate: self.aggregate_id,
            version: self.aggregate_version,
            payload: Bytes::from(self.payload.unwrap_or_default()),
            traceparent: self.traceparent,
            occurred_at: self.occurred_at,
            origin: Origin {
                actor: self.actor.unwrap_or_default(),
                cause: self.cause.unwrap_or_default(),
            },
        }
        .checked()
        .map_err(StoreError::decode)
    }
}

/// A position as Postgres gives it. Transaction ids stay below 2^63 for longer than any server lives.
pub(super) fn place(generation: i64, xid: i64, position: i64) -> Position {
    Position {
        generation,
        xid: xid as u64,
        position,
    }
}

/// What the relay reads at once.
pub(crate) struct Page {
    /// The generation the log writes in.
    pub generation: i64,
    /// Why the log is fenced, or must be.
    pub fenced: Option<String>,
    /// The end of what the server has flushed of its write-ahead log.
    pub wal: i64,
    /// Settled events in log order, each with the size of its payload in the log. `prev` is correct.
    pub events: Vec<(Event, usize)>,
    /// Whether there is more than this page holds.
    pub more: bool,
    /// Whether rows wait for the watermark.
    pub unsettled: bool,
    /// Whether events after the place asked for have left the database: the page tells nothing then.
    pub gone: bool,
}

#[derive(FromRow)]
struct PageRow {
    log_generation: i64,
    fenced_reason: Option<String>,
    wal: i64,
    gone: bool,
    settled: Option<bool>,
}

pub(super) const PAGE: &str = "
    SELECT i.generation AS log_generation,
           coalesce(i.fenced_reason, CASE WHEN i.table_oid IS DISTINCT FROM to_regclass('event_log')::oid
               THEN 'event_log is not the table of log_identity: the schema was restored' END) AS fenced_reason,
           (pg_current_wal_flush_lsn() - '0/0')::bigint AS wal,
           (i.dropped_generation, i.dropped_xid, i.dropped_position) > ($1, $2::xid8, $3) AS gone,
           e.generation < i.generation OR e.xid < pg_snapshot_xmin(pg_current_snapshot()) AS settled,
           e.generation, e.xid::text::bigint AS xid, e.position, e.event_id, e.merchant_id, e.store_id, e.partition_key,
           e.vpartition, e.aggregate_id, e.aggregate_version, e.type, octet_length(e.payload) AS payload_bytes,
           CASE WHEN octet_length(e.payload) <= $5 THEN e.payload END AS payload, e.traceparent, e.occurred_at, e.actor,
           e.cause
    FROM log_identity i
    LEFT JOIN LATERAL (
        SELECT * FROM event_log l
        WHERE (l.generation, l.xid, l.position) > ($1, $2::xid8, $3) AND l.position >= log_floor($1, $2::xid8, $3)
        ORDER BY l.generation, l.xid, l.position
        LIMIT $4
    ) e ON true
    ORDER BY e.generation, e.xid, e.position";

/// Reads on behalf of the relay: everything after `after`, large payloads left out, at most `limit` events and about
/// `max_bytes`. `predecessors` are those at `after` and are moved on.
pub(crate) async fn page(
    executor: impl PgExecutor<'_>,
    source: &Arc<str>,
    after: Position,
    predecessors: &mut Predecessors,
    limit: usize,
    max_bytes: usize,
) -> Result<Page, StoreError> {
    let mut rows = sqlx::query(PAGE)
        .bind(after.generation)
        .bind(after.xid.to_string())
        .bind(after.position)
        .bind(limit as i64)
        .bind(INLINE_LIMIT as i32)
        .fetch(executor);
    let mut page = Page {
        generation: 0,
        fenced: None,
        wal: 0,
        events: Vec::new(),
        more: false,
        unsettled: false,
        gone: false,
    };
    let mut bytes = 0;
    while let Some(row) = rows.try_next().await? {
        let head = PageRow::from_row(&row)?;
        page.generation = head.log_generation;
        page.fenced = head.fenced_reason;
        page.wal = head.wal;
        if head.gone {
            page.gone = true;
            return Ok(page);
        }
        // No row of the log: the outer join's only row.
        let Some(settled) = head.settled else { break };
        if !settled {
            page.unsettled = true;
            break;
        }
        if bytes >= max_bytes {
            page.more = true;
            break;
        }
        let row = LogRow::from_row(&row)?;
        let (payload_bytes, partition) = (row.payload_bytes as usize, row.vpartition as usize);
        bytes += payload_bytes.min(INLINE_LIMIT);
        let prev = std::mem::replace(
            &mut predecessors[partition],
            place(row.generation, row.xid, row.position),
        );
        page.events.push((row.into_event(source, prev)?, payload_bytes));
    }
    page.more |= page.events.len() == limit;
    Ok(page)
}

/// For every virtual partition the last event at or before `at`, a place that has not left the database or is the last
/// that has.
pub(crate) async fn predecessors(
    executor: impl PgExecutor<'_>,
    at: Position,
) -> Result<Predecessors, StoreError> {
    let rows: Vec<(i16, i64, i64, i64)> = sqlx::query_as(
        "SELECT v.vpartition::smallint, e.generation, e.xid::text::bigint, e.position
         FROM generate_series(0, 63) AS v (vpartition)
         CROSS JOIN LATERAL (
             SELECT l.generation, l.xid, l.position FROM log_place l
             WHERE l.vpartition = v.vpartition AND (l.generation, l.xid, l.position) <= ($1, $2::xid8, $3)
             ORDER BY l.generation DESC, l.xid DESC, l.position DESC
             LIMIT 1
         ) e",
    )
    .bind(at.generation)
    .bind(at.xid.to_string())
    .bind(at.position)
    .fetch_all(executor)
    .await?;
    let mut all = [Position::ZERO; PARTITIONS as usize];
    for (partition, generation, xid, position) in rows {
        all[partition as usize] = place(generation, xid, position);
    }
    Ok(all)
}

/// Which event stands at a place, if the log has one there. Of those that have left the database it knows the last ones.
pub(crate) async fn event_at(
    executor: impl PgExecutor<'_>,
    at: Position,
) -> Result<Option<Uuid>, StoreError> {
    Ok(sqlx::query_scalar(
        "SELECT event_id FROM event_log WHERE position = $3 AND generation = $1 AND xid = $2::xid8
         UNION ALL
         SELECT event_id FROM log_frontier WHERE position = $3 AND generation = $1 AND xid = $2::xid8
         LIMIT 1",
    )
    .bind(at.generation)
    .bind(at.xid.to_string())
    .bind(at.position)
    .fetch_optional(executor)
    .await?)
}

/// The place of the settled event that has `later` settled ones behind it; the place before the first event when the
/// log is shorter.
pub(crate) async fn place_before_head(
    executor: impl PgExecutor<'_>,
    later: i64,
) -> Result<Position, StoreError> {
    let row: Option<(i64, i64, i64)> = sqlx::query_as(
        "SELECT l.generation, l.xid::text::bigint, l.position
         FROM log_identity i, event_log l
         WHERE l.generation < i.generation OR l.xid < pg_snapshot_xmin(pg_current_snapshot())
         ORDER BY l.generation DESC, l.xid DESC, l.position DESC
         OFFSET $1 LIMIT 1",
    )
    .bind(later)
    .fetch_optional(executor)
    .await?;
    Ok(row.map_or(Position::ZERO, |(generation, xid, position)| {
        place(generation, xid, position)
    }))
}

/// The place of the last event whose generation is at most `generation`, settled because the log has gone beyond it.
pub(crate) async fn end_of_generation(
    executor: impl PgExecutor<'_>,
    generation: i64,
) -> Result<Position, StoreError> {
    let row: Option<(i64, i64, i64)> = sqlx::query_as(
        // Qualified: ORDER BY would take the bare name for the cast value, which no index has.
        "SELECT l.generation, l.xid::text::bigint, l.position FROM log_place l
         WHERE l.generation <= $1 AND $1 < (SELECT i.generation FROM log_identity i)
         ORDER BY l.generation DESC, l.xid DESC, l.position DESC LIMIT 1",
    )
    .bind(generation)
    .fetch_optional(executor)
    .await?;
    Ok(row.map_or(Position::ZERO, |(generation, xid, position)| {
        place(generation, xid, position)
    }))
}

#[derive(FromRow)]
struct HeadRow {
    log_generation: i64,
    vpartition: Option<i16>,
    generation: Option<i64>,
    xid: Option<i64>,
    position: Option<i64>,
}

/// The last settled place of every virtual partition that has one, and the generation the log writes in.
pub(crate) async fn heads(executor: impl PgExecutor<'_>) -> Result<(i64, Vec<(u16, Position)>), StoreError> {
    let rows: Vec<HeadRow> = sqlx::query_as(
        "SELECT i.generation AS log_generation, h.vpartition, h.generation, h.xid, h.position
         FROM log_identity i
         LEFT JOIN LATERAL (
             SELECT v.vpartition::smallint AS vpartition, e.generation, e.xid::text::bigint AS xid, e.position
             FROM generate_series(0, 63) AS v (vpartition)
             CROSS JOIN LATERAL (
                 SELECT l.generation, l.xid, l.position FROM log_place l
                 WHERE l.vpartition = v.vpartition
                   AND (l.generation < i.generation OR l.xid < pg_snapshot_xmin(pg_current_snapshot()))
                 ORDER BY l.generation DESC, l.xid DESC, l.position DESC
                 LIMIT 1
             ) e
         ) h ON true",
    )
    .fetch_all(executor)
    .await?;
    let generation = rows.first().map_or(0, |row| row.log_generation);
    let heads = rows
        .into_iter()
        .filter_map(|row| {
            Some((
                row.vpartition? as u16,
                place(row.generation?, row.xid?, row.position?),
            ))
        })
        .collect();
    Ok((generation, heads))
}

/// A part of some virtual partitions, in log order.
pub(crate) struct Chunk {
    /// The watermark that this chunk was read under, to read the following ones under the same.
    pub watermark: u64,
    /// The events; `prev` is correct.
    pub events: Vec<Event>,
}

// Keys first, from the index alone: at most `per partition` of each. A partition that has more may hide a row in front
// of another partition's, so nothing is told beyond the last key of any such partition (the cut). Payloads are read for
// the rows that remain. The watermark of the first chunk is an upper bound for the following ones. Nothing is told when
// events after any of the cursors have left the database.
pub(super) const CHUNK: &str = "
    WITH cursors AS (
        SELECT i.generation AS log_generation, c.*,
               LEAST(pg_snapshot_xmin(pg_current_snapshot()), $7::xid8) AS watermark,
               CASE WHEN h.here THEN c.generation ELSE b.generation END AS before_generation,
               CASE WHEN h.here THEN c.xid ELSE b.xid END AS before_xid,
               CASE WHEN h.here THEN c.position ELSE b.position END AS before_position
        FROM log_identity i
        CROSS JOIN UNNEST($1::smallint[], $2::bigint[], $3::text[]::xid8[], $4::bigint[])
             AS c (vpartition, generation, xid, position)
        -- A cursor nearly always stands on an event: one look at one partition. Only otherwise all are asked.
        LEFT JOIN LATERAL (
            SELECT true AS here FROM event_log l
            WHERE l.position = c.position AND l.generation = c.generation AND l.xid = c.xid
              AND l.vpartition = c.vpartition
            LIMIT 1
        ) h ON true
        LEFT JOIN LATERAL (
            SELECT l.generation, l.xid, l.position FROM log_place l
            WHERE h.here IS NULL AND l.vpartition = c.vpartition
              AND (l.generation, l.xid, l.position) <= (c.generation, c.xid, c.position)
            ORDER BY l.generation DESC, l.xid DESC, l.position DESC
            LIMIT 1
        ) b ON true
    ), gone AS (
        SELECT 1 FROM cursors c
        JOIN log_frontier f ON f.vpartition = c.vpartition
        WHERE (f.generation, f.xid, f.position) > (c.generation, c.xid, c.position)
    ), keys AS (
        SELECT k.*, c.before_generation, c.before_xid, c.before_position, c.watermark
        FROM cursors c
        CROSS JOIN LATERAL (
            SELECT l.generation, l.xid, l.position,
                   row_number() OVER (ORDER BY l.generation, l.xid, l.position) AS number
            FROM event_log l
            WHERE l.vpartition = c.vpartition
              AND (l.generation, l.xid, l.position) > (c.generation, c.xid, c.position)
              AND l.position >= (SELECT log_floor($8, $9::xid8, $10))
              AND (l.generation < c.log_generation OR l.xid < c.watermark)
            ORDER BY l.generation, l.xid, l.position
            LIMIT $5
        ) k
        WHERE NOT EXISTS (SELECT FROM gone)
    ), cut AS (
        SELECT k.generation, k.xid, k.position FROM keys k WHERE k.number = $5
        ORDER BY k.generation, k.xid, k.position LIMIT 1
    ), told AS (
        SELECT k.* FROM keys k LEFT JOIN cut ON true
        WHERE cut.position IS NULL OR (k.generation, k.xid, k.position) <= (cut.generation, cut.xid, cut.position)
        ORDER BY k.generation, k.xid, k.position
        LIMIT $6
    )
    SELECT t.watermark::text::bigint AS watermark,
           t.before_generation, t.before_xid::text::bigint AS before_xid, t.before_position,
           e.generation, e.xid::text::bigint AS xid, e.position, e.event_id, e.merchant_id, e.store_id, e.partition_key,
           e.vpartition, e.aggregate_id, e.aggregate_version, e.type, octet_length(e.payload) AS payload_bytes,
           e.payload, e.traceparent, e.occurred_at, e.actor, e.cause
    FROM told t
    -- LIMIT: one by one through the primary key, whatever the planner thinks of the number of rows.
    CROSS JOIN LATERAL (SELECT * FROM event_log l WHERE l.position = t.position LIMIT 1) e
    ORDER BY e.generation, e.xid, e.position";

#[derive(FromRow)]
struct ChunkRow {
    watermark: i64,
    before_generation: Option<i64>,
    before_xid: Option<i64>,
    before_position: Option<i64>,
}

/// Reads on behalf of a consumer: events of some virtual partitions, each after a place of its own, in log order, at
/// most `limit` events and about `max_bytes`. An empty chunk means that there is no more below the watermark, or that
/// some have left the database ([`is_gone`]).
pub(crate) async fn chunk(
    executor: impl PgExecutor<'_>,
    source: &Arc<str>,
    cursors: &[(u16, Position)],
    watermark: Option<u64>,
    limit: usize,
    max_bytes: usize,
) -> Result<Chunk, StoreError> {
    // As many keys of each partition as are likely to be told, so that a chunk costs about the same for one partition
    // and for all of them.
    let per_partition = (2 * limit / cursors.len().max(1)).clamp(32.min(limit), limit);
    let lowest = cursors.iter().map(|(_, after)| *after).min().unwrap_or_default();
    let mut rows = sqlx::query(CHUNK)
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
        .bind(per_partition as i64)
        .bind(limit as i64)
        .bind(watermark.map(|xid| xid.to_string()))
        .bind(lowest.generation)
        .bind(lowest.xid.to_string())
        .bind(lowest.position)
        .fetch(executor);
    let mut chunk = Chunk {
        watermark: 0,
        events: Vec::new(),
    };
    let mut predecessors: [Option<Position>; PARTITIONS as usize] = [None; PARTITIONS as usize];
    let mut bytes = 0;
    while let Some(row) = rows.try_next().await? {
        let head = ChunkRow::from_row(&row)?;
        chunk.watermark = head.watermark as u64;
        if bytes >= max_bytes {
            break;
        }
        let before = match (head.before_generation, head.before_xid, head.before_position) {
            (Some(generation), Some(xid), Some(position)) => place(generation, xid, position),
            _ => Position::ZERO,
        };
        let row = LogRow::from_row(&row)?;
        let partition = row.vpartition as usize;
        bytes += row.payload_bytes as usize;
        let prev = predecessors[partition]
            .replace(place(row.generation, row.xid, row.position))
            .unwrap_or(before);
        chunk.events.push(row.into_event(source, prev)?);
    }
    Ok(chunk)
}

/// Whether events after any of the cursors have left the database.
pub(crate) async fn is_gone(
    executor: impl PgExecutor<'_>,
    cursors: &[(u16, Position)],
) -> Result<bool, StoreError> {
    let rows: Vec<(i16, i64, i64, i64)> =
        sqlx::query_as("SELECT vpartition, generation, xid::text::bigint, position FROM log_frontier")
            .fetch_all(executor)
            .await?;
    Ok(rows.into_iter().any(|(partition, generation, xid, position)| {
        cursors
            .iter()
            .any(|(named, after)| *named == partition as u16 && *after < place(generation, xid, position))
    }))
}

/// The last place that has left the database; the place before the first event while all of the log is there.
pub(crate) async fn dropped(executor: impl PgExecutor<'_>) -> Result<Position, StoreError> {
    let (generation, xid, position) = sqlx::query_as(
        "SELECT dropped_generation, dropped_xid::text::bigint, dropped_position FROM log_identity",
    )
    .fetch_one(executor)
    .await?;
    Ok(place(generation, xid, position))
}

/// Tries to become the relay that publishes this schema's log: a lock that lasts as long as the connection.
pub(crate) async fn try_lead(executor: impl PgExecutor<'_>) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar(
        "SELECT pg_try_advisory_lock(hashtext('waybill relay'), hashtext(current_schema()))",
    )
    .fetch_one(executor)
    .await?)
}
