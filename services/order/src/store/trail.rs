//! The chains over timelines: locking them, beginning those of older orders, looking at one from its beginning to its end.

use futures_util::TryStreamExt as _;
use sqlx::PgConnection;
use uuid::Uuid;
use waybill_kernel::id::OrderId;
use waybill_store::StoreError;

use super::timeline::{EntryRow, entry_columns, link};
use crate::domain::order::Tenant;
use crate::domain::trail::{Inspection, Link, Verdict, digest};

/// Locks orders, in one order, before entries about them are written, and begins the chains of those that have none. Orders
/// that do not exist are left out.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn lock(conn: &mut PgConnection, orders: &[Uuid]) -> Result<(), StoreError> {
    let rows: Vec<(Uuid, bool)> = sqlx::query_as(
        "SELECT o.order_id, EXISTS (SELECT 1 FROM order_trails t WHERE t.order_id = o.order_id)
         FROM orders o WHERE o.order_id = ANY($1) ORDER BY o.order_id FOR NO KEY UPDATE OF o",
    )
    .bind(orders)
    .fetch_all(&mut *conn)
    .await?;
    let without: Vec<Uuid> = (rows.into_iter())
        .filter_map(|(order, chained)| (!chained).then_some(order))
        .collect();
    begin(conn, &without).await?;
    Ok(())
}

/// Begins the chains of locked orders that have none: what is on their timelines is chained by the time it happened. Tells
/// whether there was one to begin. This is for orders that were placed before entries were chained: once each.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn begin(conn: &mut PgConnection, orders: &[Uuid]) -> Result<bool, StoreError> {
    if orders.is_empty() {
        return Ok(false);
    }
    // After the lock, so that it sees whether whoever had the lock before has begun one.
    let rows: Vec<EntryRow> = sqlx::query_as(concat!(
        "SELECT ",
        entry_columns!(),
        " FROM order_timeline t
         WHERE t.order_id = ANY($1) AND NOT EXISTS (SELECT 1 FROM order_trails k WHERE k.order_id = t.order_id)
         ORDER BY t.order_id, t.occurred_at, t.event_id"
    ))
    .bind(orders)
    .fetch_all(&mut *conn)
    .await?;
    let (mut ids, mut events, mut links) = (Vec::new(), Vec::new(), Vec::new());
    let mut ends: Vec<(Uuid, Link)> = Vec::new();
    for row in rows {
        let (order, tenant) = (row.order_id, row.tenant());
        let entry = row.entry()?;
        if ends.last().is_none_or(|(last, _)| *last != order) {
            ends.push((order, Link::NONE));
        }
        if let Some((_, end)) = ends.last_mut() {
            *end = end.next(&digest(tenant, order.into(), &entry));
            ids.push(order);
            events.push(entry.event.uuid());
            links.push(*end);
        }
    }
    if ends.is_empty() {
        return Ok(false);
    }
    sqlx::query(
        "WITH linked AS (
             UPDATE order_timeline t
             -- The row's transaction is lost with this update; it finds the order's own event in the log.
             SET sequence = l.sequence, hash = l.hash, log_xid = coalesce(t.log_xid, whole_xid(t.xmin))
             FROM UNNEST($1::uuid[], $2::uuid[], $3::bigint[], $4::bytea[]) AS l (order_id, event_id, sequence, hash)
             WHERE (t.order_id, t.event_id) = (l.order_id, l.event_id)
         )
         INSERT INTO order_trails (order_id, count, hash)
         SELECT * FROM UNNEST($5::uuid[], $6::bigint[], $7::bytea[])",
    )
    .bind(ids)
    .bind(events)
    .bind(links.iter().map(|link| link.sequence).collect::<Vec<_>>())
    .bind(links.iter().map(|link| link.hash.to_vec()).collect::<Vec<_>>())
    .bind(ends.iter().map(|(order, _)| *order).collect::<Vec<_>>())
    .bind(ends.iter().map(|(_, end)| end.sequence).collect::<Vec<_>>())
    .bind(ends.iter().map(|(_, end)| end.hash.to_vec()).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(true)
}

/// Looks at the chain of an order from its beginning to its end, in one snapshot; `None` when there is no such order. However
/// long it is, one entry at a time is kept.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn inspect(
    conn: &mut PgConnection,
    tenant: Tenant,
    order: OrderId,
    noted: Option<Link>,
) -> Result<Option<Verdict>, StoreError> {
    let end: Option<(Option<i64>, Option<Vec<u8>>)> = sqlx::query_as(
        "SELECT t.count, t.hash FROM orders o LEFT JOIN order_trails t USING (order_id)
         WHERE o.order_id = $1 AND o.merchant_id = $2 AND o.store_id = $3",
    )
    .bind(order.uuid())
    .bind(tenant.merchant.uuid())
    .bind(tenant.store.uuid())
    .fetch_optional(&mut *conn)
    .await?;
    let Some((count, hash)) = end else { return Ok(None) };
    let mut inspection = Inspection::new(tenant, order, link(count, hash)?, noted);
    let mut rows = sqlx::query_as::<_, EntryRow>(concat!(
        "SELECT ",
        entry_columns!(),
        " FROM order_timeline WHERE order_id = $1 ORDER BY sequence, event_id"
    ))
    .bind(order.uuid())
    .fetch(conn);
    while let Some(row) = rows.try_next().await? {
        inspection.entry(&row.entry()?);
    }
    Ok(Some(inspection.end()))
}
