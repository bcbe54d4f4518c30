//! Following the own log for callers: what changed about orders, in log order, nothing unsettled.
//!
//! Reads go through windows of the log, so a store with few changes in a large log is read in many short steps and not
//! in one long one.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use uuid::Uuid;
use waybill_events::Position;
use waybill_kernel::id::OrderId;
use waybill_store::StoreError;

use crate::domain::order::Tenant;

/// A change of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    /// Where its event stands in the log.
    pub position: Position,
    /// Whose order.
    pub tenant: Tenant,
    /// The order.
    pub order: OrderId,
    /// Full name of the event's type.
    pub type_name: String,
    /// The order's version after it.
    pub version: i64,
    /// When it happened.
    pub occurred_at: DateTime<Utc>,
}

/// A stretch of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Window {
    /// The place it begins behind.
    pub after: Position,
    /// The last place in it; `after` when there is nothing new.
    pub until: Position,
    /// The changes in it that were asked for.
    pub changes: Vec<Change>,
    /// Whether there may be more behind it at once.
    pub full: bool,
    /// Whether events behind it wait for transactions that are still running.
    pub unsettled: bool,
}

#[derive(sqlx::FromRow)]
struct Row {
    generation: i64,
    xid: i64,
    position: i64,
    settled: bool,
    wanted: bool,
    seen: i64,
    merchant_id: Uuid,
    store_id: Option<Uuid>,
    aggregate_id: Uuid,
    #[sqlx(rename = "type")]
    type_name: String,
    aggregate_version: i64,
    occurred_at: DateTime<Utc>,
}

/// The next `size` events behind a place, as far as they are settled; of them the changes of one tenant, or of all.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn changes(
    executor: impl PgExecutor<'_>,
    tenant: Option<Tenant>,
    after: Position,
    size: i64,
) -> Result<Window, StoreError> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT generation, xid::text::bigint AS xid, position, settled, wanted, seen, merchant_id, store_id, aggregate_id, type,
                aggregate_version, occurred_at
         FROM (
             SELECT e.*,
                    e.generation < i.generation OR e.xid < pg_snapshot_xmin(pg_current_snapshot()) AS settled,
                    e.type LIKE 'waybill.order.%' AND ($5::uuid IS NULL OR (e.merchant_id, e.store_id) = ($5, $6)) AS wanted,
                    row_number() OVER (ORDER BY e.generation, e.xid, e.position) AS seen,
                    lead(e.position) OVER (ORDER BY e.generation, e.xid, e.position) IS NULL AS last
             FROM log_identity i, LATERAL (
                 SELECT generation, xid, position, merchant_id, store_id, aggregate_id, type, aggregate_version, occurred_at
                 FROM event_log l
                 WHERE (l.generation, l.xid, l.position) > ($1, $2::xid8, $3)
                   AND l.position >= log_floor($1, $2::xid8, $3)
                 ORDER BY l.generation, l.xid, l.position
                 LIMIT $4
             ) e
         ) w
         -- The last row comes along in any case: it says how far the window reaches. So do those that are not settled:
         -- the window ends before them.
         WHERE wanted OR last OR NOT settled
         ORDER BY w.generation, w.xid, w.position",
    )
    .bind(after.generation)
    .bind(after.xid.to_string())
    .bind(after.position)
    .bind(size)
    .bind(tenant.map(|tenant| tenant.merchant.uuid()))
    .bind(tenant.map(|tenant| tenant.store.uuid()))
    .fetch_all(executor)
    .await?;
    let mut window = Window {
        after,
        until: after,
        changes: Vec::new(),
        full: false,
        unsettled: false,
    };
    for row in rows {
        if !row.settled {
            window.unsettled = true;
            break;
        }
        let position = place(row.generation, row.xid, row.position);
        window.until = position;
        window.full = row.seen == size;
        if let (true, Some(store)) = (row.wanted, row.store_id) {
            window.changes.push(Change {
                position,
                tenant: Tenant {
                    merchant: row.merchant_id.into(),
                    store: store.into(),
                },
                order: row.aggregate_id.into(),
                type_name: row.type_name,
                version: row.aggregate_version,
                occurred_at: row.occurred_at,
            });
        }
    }
    Ok(window)
}

/// The last settled place of the log.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn head(executor: impl PgExecutor<'_>) -> Result<Position, StoreError> {
    let row: Option<(i64, i64, i64)> = sqlx::query_as(
        "SELECT l.generation, l.xid::text::bigint, l.position
         FROM log_place l, log_identity i
         WHERE l.generation < i.generation OR l.xid < pg_snapshot_xmin(pg_current_snapshot())
         ORDER BY l.generation DESC, l.xid DESC, l.position DESC
         LIMIT 1",
    )
    .fetch_optional(executor)
    .await?;
    Ok(row.map_or(Position::ZERO, |(generation, xid, position)| {
        place(generation, xid, position)
    }))
}

/// Whether the log still has the tenant's event at a place: after it was pruned, or after the database lost it, nothing
/// can be said about what followed it.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn exists(
    executor: impl PgExecutor<'_>,
    tenant: Tenant,
    at: Position,
) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar(
        "SELECT EXISTS (
             SELECT 1 FROM event_log
             WHERE generation = $1 AND xid = $2::xid8 AND position = $3 AND merchant_id = $4 AND store_id = $5)",
    )
    .bind(at.generation)
    .bind(at.xid.to_string())
    .bind(at.position)
    .bind(tenant.merchant.uuid())
    .bind(tenant.store.uuid())
    .fetch_one(executor)
    .await?)
}

/// A place as Postgres gives it. Transaction ids stay below 2^63 for longer than any server lives.
fn place(generation: i64, xid: i64, position: i64) -> Position {
    Position {
        generation,
        xid: xid.unsigned_abs(),
        position,
    }
}
