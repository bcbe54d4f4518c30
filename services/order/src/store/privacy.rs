//! Erasures: which orders are to be erased, what is deleted for it, and how far that is.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;
use waybill_kernel::id::{ErasureId, MerchantId, OrderId, StoreId};
use waybill_store::StoreError;

use super::customers::{Member, Spot, uuids};
use super::stored;
use crate::domain::order::Tenant;
use crate::domain::privacy::{Erasure, Progress, Wait, WaitingOrder};

/// The orders that an answer names, at most.
const NAMED: i64 = 100;

/// Writes an erasure that begins.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn begin(
    conn: &mut PgConnection,
    merchant: MerchantId,
    erasure: ErasureId,
    stores: &[StoreId],
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO order_erasures (erasure_id, merchant_id, store_ids, requested_at) VALUES ($1, $2, $3, $4)",
    )
    .bind(erasure.uuid())
    .bind(merchant.uuid())
    .bind(uuids(stores))
    .bind(now)
    .execute(conn)
    .await?;
    Ok(())
}

/// An erasure whose row is locked until the transaction ends.
pub(crate) struct Locked {
    /// Where looking for orders goes on.
    pub after: Option<Spot>,
    /// Whether all orders were found.
    pub collected: bool,
    /// Whether every order is erased.
    pub finished: bool,
}

#[derive(sqlx::FromRow)]
struct LockedRow {
    after_store_id: Option<Uuid>,
    after_order_id: Option<Uuid>,
    collected: bool,
    finished: bool,
}

/// Locks an erasure.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn lock(
    conn: &mut PgConnection,
    merchant: MerchantId,
    erasure: ErasureId,
) -> Result<Option<Locked>, StoreError> {
    let row: Option<LockedRow> = sqlx::query_as(
        "SELECT after_store_id, after_order_id, collected_at IS NOT NULL AS collected, finished_at IS NOT NULL AS finished
         FROM order_erasures WHERE erasure_id = $1 AND merchant_id = $2 FOR UPDATE",
    )
    .bind(erasure.uuid())
    .bind(merchant.uuid())
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| Locked {
        after: row
            .after_store_id
            .zip(row.after_order_id)
            .map(|(store, order)| Spot {
                store: store.into(),
                order: order.into(),
            }),
        collected: row.collected,
        finished: row.finished,
    }))
}

/// Adds orders to a locked erasure. The last ones end the looking; when there was none at all, they end the erasure.
/// Answers whether orders are left to be erased.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn collect(
    conn: &mut PgConnection,
    merchant: MerchantId,
    erasure: ErasureId,
    found: &[Member],
    last: bool,
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let end = found.last().map(|member| member.spot);
    Ok(sqlx::query_scalar(
        "WITH pinned AS (
             INSERT INTO order_erasure_orders (erasure_id, order_id, merchant_id, store_id)
             SELECT $1, f.order_id, $2, f.store_id FROM UNNEST($3::uuid[], $4::uuid[]) AS f (order_id, store_id)
             RETURNING order_id
         )
         UPDATE order_erasures e
         SET orders = e.orders + p.orders,
             -- Afterwards nothing is to tell that this order was one of them.
             after_store_id = CASE WHEN $7 THEN NULL ELSE coalesce($5, e.after_store_id) END,
             after_order_id = CASE WHEN $7 THEN NULL ELSE coalesce($6, e.after_order_id) END,
             collected_at = CASE WHEN $7 THEN $8::timestamptz END,
             finished_at = CASE WHEN $7 AND e.orders + p.orders = 0 THEN $8::timestamptz END
         FROM (SELECT count(*) AS orders FROM pinned) p
         WHERE e.erasure_id = $1 AND e.merchant_id = $2
         RETURNING e.orders > 0",
    )
    .bind(erasure.uuid())
    .bind(merchant.uuid())
    .bind(found.iter().map(|member| member.spot.order.uuid()).collect::<Vec<_>>())
    .bind(found.iter().map(|member| member.spot.store.uuid()).collect::<Vec<_>>())
    .bind(end.map(|spot| spot.store.uuid()))
    .bind(end.map(|spot| spot.order.uuid()))
    .bind(last)
    .bind(now)
    .fetch_one(conn)
    .await?)
}

/// The next orders of an erasure that are not erased yet, by id.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn left(
    conn: &mut PgConnection,
    erasure: ErasureId,
    after: Option<OrderId>,
    limit: i64,
) -> Result<Vec<Uuid>, StoreError> {
    Ok(sqlx::query_scalar(
        "SELECT order_id FROM order_erasure_orders
         WHERE erasure_id = $1 AND order_id > $2 ORDER BY order_id LIMIT $3",
    )
    .bind(erasure.uuid())
    .bind(after.map_or(Uuid::nil(), |order| order.uuid()))
    .bind(limit)
    .fetch_all(conn)
    .await?)
}

/// Of these orders those with a refund that was told of and whose last word is not that it succeeded.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn with_open_refund(
    conn: &mut PgConnection,
    orders: &[Uuid],
) -> Result<HashSet<OrderId>, StoreError> {
    let open: Vec<Uuid> = sqlx::query_scalar(
        "SELECT DISTINCT order_id FROM (
             SELECT DISTINCT ON (order_id, subject_id) order_id, type FROM order_timeline
             WHERE order_id = ANY($1) AND service = 'refund' AND subject_id IS NOT NULL
               AND type IN ('waybill.refund.v1.RefundCreated', 'waybill.refund.v1.RefundStarted',
                            'waybill.refund.v1.RefundSucceeded', 'waybill.refund.v1.RefundFailed')
             ORDER BY order_id, subject_id, event_id DESC
         ) last_word
         WHERE type <> 'waybill.refund.v1.RefundSucceeded'",
    )
    .bind(orders)
    .fetch_all(conn)
    .await?;
    Ok(open.into_iter().map(OrderId::from).collect())
}

/// Forgets who placed these locked orders: deletes their contacts, empties the attributes. Answers with the orders whose
/// contact was there until now, which are the ones that change: the guard counts their versions up.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn erase(
    conn: &mut PgConnection,
    orders: &[(OrderId, Tenant)],
    now: DateTime<Utc>,
) -> Result<HashSet<OrderId>, StoreError> {
    if orders.is_empty() {
        return Ok(HashSet::new());
    }
    let (merchants, stores) = super::tenants(orders.iter().map(|(_, tenant)| *tenant));
    let erased: Vec<Uuid> = sqlx::query_scalar(
        "WITH gone AS (
             DELETE FROM order_contacts c
             USING UNNEST($1::uuid[], $2::uuid[], $3::uuid[]) AS k (order_id, merchant_id, store_id)
             WHERE (c.order_id, c.merchant_id, c.store_id) = (k.order_id, k.merchant_id, k.store_id)
             RETURNING c.order_id, c.merchant_id, c.store_id
         ),
         lines AS (
             UPDATE order_lines l SET attributes = '{}'
             FROM gone g
             WHERE (l.order_id, l.merchant_id, l.store_id) = (g.order_id, g.merchant_id, g.store_id) AND l.attributes <> '{}'
         )
         UPDATE orders o SET status = o.status, attributes = '{}', updated_at = $4
         FROM gone g
         WHERE (o.order_id, o.merchant_id, o.store_id) = (g.order_id, g.merchant_id, g.store_id)
         RETURNING o.order_id",
    )
    .bind(orders.iter().map(|(order, _)| order.uuid()).collect::<Vec<_>>())
    .bind(merchants)
    .bind(stores)
    .bind(now)
    .fetch_all(conn)
    .await?;
    Ok(erased.into_iter().map(OrderId::from).collect())
}

/// Notes what became of orders of a locked erasure: those that are erased leave it, the others say what they wait for.
/// Answers whether the erasure is done.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn note(
    conn: &mut PgConnection,
    erasure: ErasureId,
    erased: &[OrderId],
    waiting: &[(OrderId, Wait)],
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar(
        "WITH erased AS (
             DELETE FROM order_erasure_orders WHERE erasure_id = $1 AND order_id = ANY($2) RETURNING order_id
         ),
         waiting AS (
             UPDATE order_erasure_orders o SET waits_for = w.waits_for
             FROM UNNEST($3::uuid[], $4::text[]) AS w (order_id, waits_for)
             WHERE o.erasure_id = $1 AND o.order_id = w.order_id AND o.waits_for <> w.waits_for
         )
         UPDATE order_erasures e
         SET erased = e.erased + n.erased,
             finished_at = CASE WHEN e.erased + n.erased = e.orders THEN $5::timestamptz END
         FROM (SELECT count(*) AS erased FROM erased) n
         WHERE e.erasure_id = $1
         RETURNING e.finished_at IS NOT NULL",
    )
    .bind(erasure.uuid())
    .bind(erased.iter().map(|order| order.uuid()).collect::<Vec<_>>())
    .bind(waiting.iter().map(|(order, _)| order.uuid()).collect::<Vec<_>>())
    .bind(waiting.iter().map(|(_, wait)| wait.as_str()).collect::<Vec<_>>())
    .bind(now)
    .fetch_one(conn)
    .await?)
}

#[derive(sqlx::FromRow)]
struct ErasureRow {
    erasure_id: Uuid,
    store_ids: Vec<Uuid>,
    requested_at: DateTime<Utc>,
    collected: bool,
    orders: i64,
    erased: i64,
    finished_at: Option<DateTime<Utc>>,
    unseen: bool,
}

/// An erasure of a merchant, with the first orders that it waits for. One that goes over other stores than these is not
/// shown; `None` shows all.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn erasure(
    pool: &PgPool,
    merchant: MerchantId,
    stores: Option<&[StoreId]>,
    erasure: ErasureId,
) -> Result<Option<Erasure>, StoreError> {
    let row: Option<ErasureRow> = sqlx::query_as(
        "SELECT e.erasure_id, e.store_ids, e.requested_at, e.collected_at IS NOT NULL AS collected, e.orders, e.erased,
                e.finished_at,
                EXISTS (SELECT FROM order_erasure_orders o WHERE o.erasure_id = e.erasure_id AND o.waits_for = '') AS unseen
         FROM order_erasures e
         WHERE e.erasure_id = $1 AND e.merchant_id = $2
           AND ($3::uuid[] IS NULL OR (e.store_ids <> '{}' AND e.store_ids <@ $3))",
    )
    .bind(erasure.uuid())
    .bind(merchant.uuid())
    .bind(stores.map(uuids))
    .fetch_optional(pool)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let progress = match (row.collected, row.finished_at.is_some(), row.unseen) {
        (false, ..) => Progress::Collecting,
        (true, true, _) => Progress::Done,
        (true, false, true) => Progress::Running,
        (true, false, false) => Progress::Waiting,
    };
    Ok(Some(Erasure {
        id: row.erasure_id.into(),
        stores: row.store_ids.into_iter().map(StoreId::from).collect(),
        progress,
        orders: row.orders,
        erased: row.erased,
        waiting: waiting(pool, erasure).await?,
        requested_at: row.requested_at,
        finished_at: row.finished_at,
    }))
}

async fn waiting(pool: &PgPool, erasure: ErasureId) -> Result<Vec<WaitingOrder>, StoreError> {
    let rows: Vec<(Uuid, Uuid, String, String)> = sqlx::query_as(
        "SELECT w.order_id, w.store_id, o.number, w.waits_for
         FROM (SELECT * FROM order_erasure_orders
               WHERE erasure_id = $1 AND waits_for <> '' ORDER BY order_id LIMIT $2) w
         JOIN orders o ON (o.order_id, o.merchant_id, o.store_id) = (w.order_id, w.merchant_id, w.store_id)
         ORDER BY w.order_id",
    )
    .bind(erasure.uuid())
    .bind(NAMED)
    .fetch_all(pool)
    .await?;
    rows.into_iter()
        .map(|(order, store, number, wait)| {
            Ok(WaitingOrder {
                order: order.into(),
                store: store.into(),
                number,
                wait: stored(Wait::parse(&wait), "waits_for", &wait)?,
            })
        })
        .collect()
}
