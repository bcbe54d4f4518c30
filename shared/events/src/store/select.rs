//! SQL of a filtered read: which events of a part of the log are wanted, and up to where the log was looked through.
//!
//! A statement looks at a bounded number of rows, whatever it finds, and tells how far it came: so a reader that finds
//! nothing for long still gets on, and no statement takes long. It goes along the order of the virtual partitions, as an
//! unfiltered read does. There is no index by key, type or time: each would cost every append, and a read by key has to
//! look into its virtual partition alone.

use std::sync::Arc;

use futures_util::TryStreamExt as _;
use sqlx::{FromRow, PgExecutor};
use waybill_store::error::StoreError;

use super::log::{LogRow, place};
use crate::event::Event;
use crate::filter::EventFilter;
use crate::position::Position;

/// A part of some virtual partitions, looked through.
pub(crate) struct Part {
    /// The watermark that it was read under, to read the following ones under the same.
    pub watermark: u64,
    /// What is wanted, in log order; `prev` is correct.
    pub events: Vec<Event>,
    /// Up to and including this place all of the partitions was looked through.
    pub upto: Position,
}

/// How much one statement looks at and answers, at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub passed: usize,
    pub events: usize,
    pub bytes: usize,
}

// The cut, the watermark and what has left the database are as in `log::CHUNK`. What is wanted is decided on the row that
// the index leads to; payloads are read for what is told alone.
pub(super) const SELECT: &str = "
    WITH cursors AS (
        SELECT i.generation AS log_generation, c.*,
               LEAST(pg_snapshot_xmin(pg_current_snapshot()), $7::xid8) AS watermark
        FROM log_identity i
        CROSS JOIN UNNEST($1::smallint[], $2::bigint[], $3::text[]::xid8[], $4::bigint[])
             AS c (vpartition, generation, xid, position)
    ), gone AS (
        SELECT 1 FROM cursors c
        JOIN log_frontier f ON f.vpartition = c.vpartition
        WHERE (f.generation, f.xid, f.position) > (c.generation, c.xid, c.position)
    ), passed AS (
        SELECT k.* FROM cursors c
        CROSS JOIN LATERAL (
            SELECT l.vpartition, l.generation, l.xid, l.position,
                   row_number() OVER (ORDER BY l.generation, l.xid, l.position) AS number,
                   ($11::text[] IS NULL OR l.type = ANY ($11))
                   AND ($12::uuid[] IS NULL OR l.partition_key = ANY ($12))
                   AND ($13::uuid IS NULL OR l.merchant_id = $13)
                   AND ($14::timestamptz IS NULL OR l.occurred_at >= $14)
                   AND ($15::timestamptz IS NULL OR l.occurred_at < $15) AS is_wanted
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
        SELECT p.generation, p.xid, p.position FROM passed p WHERE p.number = $5
        ORDER BY p.generation, p.xid, p.position LIMIT 1
    ), told AS (
        SELECT p.* FROM passed p LEFT JOIN cut ON true
        WHERE cut.position IS NULL OR (p.generation, p.xid, p.position) <= (cut.generation, cut.xid, cut.position)
    ), wanted AS (
        SELECT t.vpartition, t.generation, t.xid, t.position FROM told t WHERE t.is_wanted
        ORDER BY t.generation, t.xid, t.position LIMIT $6
    ), upto AS (
        -- The last that is told, when there are as many as may be told; else the last that was looked at.
        SELECT u.* FROM (
            (SELECT w.generation, w.xid, w.position FROM wanted w
             ORDER BY w.generation, w.xid, w.position OFFSET $6 - 1 LIMIT 1)
            UNION ALL
            (SELECT t.generation, t.xid, t.position FROM told t
             ORDER BY t.generation DESC, t.xid DESC, t.position DESC LIMIT 1)
        ) u
        ORDER BY u.generation, u.xid, u.position LIMIT 1
    )
    SELECT (SELECT c.watermark::text::bigint FROM cursors c LIMIT 1) AS watermark,
           u.generation AS upto_generation, u.xid::text::bigint AS upto_xid, u.position AS upto_position,
           e.position IS NOT NULL AS is_event,
           b.generation AS before_generation, b.xid::text::bigint AS before_xid, b.position AS before_position,
           e.generation, e.xid::text::bigint AS xid, e.position, e.event_id, e.merchant_id, e.store_id, e.partition_key,
           e.vpartition, e.aggregate_id, e.aggregate_version, e.type, octet_length(e.payload) AS payload_bytes,
           e.payload, e.traceparent, e.occurred_at, e.actor, e.cause
    FROM upto u
    LEFT JOIN (
        wanted w
        CROSS JOIN LATERAL (SELECT * FROM event_log l WHERE l.position = w.position LIMIT 1) e
        LEFT JOIN LATERAL (
            SELECT l.generation, l.xid, l.position FROM log_place l
            WHERE l.vpartition = w.vpartition AND (l.generation, l.xid, l.position) < (w.generation, w.xid, w.position)
            ORDER BY l.generation DESC, l.xid DESC, l.position DESC
            LIMIT 1
        ) b ON true
    ) ON true
    ORDER BY e.generation, e.xid, e.position";

#[derive(FromRow)]
struct PartRow {
    watermark: i64,
    upto_generation: i64,
    upto_xid: i64,
    upto_position: i64,
    is_event: bool,
    before_generation: Option<i64>,
    before_xid: Option<i64>,
    before_position: Option<i64>,
}

impl PartRow {
    fn before(&self) -> Position {
        match (self.before_generation, self.before_xid, self.before_position) {
            (Some(generation), Some(xid), Some(position)) => place(generation, xid, position),
            _ => Position::ZERO,
        }
    }
}

fn column<T>(cursors: &[(u16, Position)], of: impl Fn(&(u16, Position)) -> T) -> Vec<T> {
    cursors.iter().map(of).collect()
}

/// What is wanted of some virtual partitions, each after a place of its own. `None` when there is nothing to look at below
/// the watermark, or when some of it has left the database ([`super::log::is_gone`]).
pub(crate) async fn part(
    executor: impl PgExecutor<'_>,
    source: &Arc<str>,
    cursors: &[(u16, Position)],
    watermark: Option<u64>,
    filter: &EventFilter,
    most: Bounds,
) -> Result<Option<Part>, StoreError> {
    let per_partition = (2 * most.passed / cursors.len().max(1)).clamp(1, most.passed);
    let lowest = cursors.iter().map(|(_, after)| *after).min().unwrap_or_default();
    let mut rows = sqlx::query(SELECT)
        .bind(column(cursors, |(partition, _)| *partition as i16))
        .bind(column(cursors, |(_, after)| after.generation))
        .bind(column(cursors, |(_, after)| after.xid.to_string()))
        .bind(column(cursors, |(_, after)| after.position))
        .bind(per_partition as i64)
        .bind(most.events as i64)
        .bind(watermark.map(|xid| xid.to_string()))
        .bind(lowest.generation)
        .bind(lowest.xid.to_string())
        .bind(lowest.position)
        .bind(Some(&filter.types).filter(|types| !types.is_empty()))
        .bind(Some(&filter.keys).filter(|keys| !keys.is_empty()))
        .bind(filter.merchant.map(waybill_kernel::id::MerchantId::uuid))
        .bind(filter.from)
        .bind(filter.before)
        .fetch(executor);
    let mut part: Option<Part> = None;
    let mut bytes = 0;
    while let Some(row) = rows.try_next().await? {
        let head = PartRow::from_row(&row)?;
        let part = part.get_or_insert_with(|| Part {
            watermark: head.watermark as u64,
            events: Vec::new(),
            upto: place(head.upto_generation, head.upto_xid, head.upto_position),
        });
        if !head.is_event {
            break;
        }
        if bytes >= most.bytes {
            // What follows comes with the next part.
            part.upto = part.events.last().map_or(part.upto, |last| last.position);
            break;
        }
        let row = LogRow::from_row(&row)?;
        bytes += row.payload_bytes as usize;
        part.events.push(row.into_event(source, head.before())?);
    }
    Ok(part)
}
