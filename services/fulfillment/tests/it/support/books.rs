//! Recounts all stock from its parts. Whatever a test did, these sums hold.

use anyhow::ensure;
use sqlx::PgPool;
use uuid::Uuid;

/// What the recount found besides that the sums hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Books {
    /// Units in all buildings.
    pub on_hand: i64,
    /// Units promised.
    pub reserved: i64,
    /// Units that wait.
    pub waiting: i64,
    /// Units shipped.
    pub shipped: i64,
}

/// Recounts.
pub async fn recount(pool: &PgPool) -> anyhow::Result<Books> {
    let wrong: Vec<(Uuid, String, Uuid, i64, i64)> = sqlx::query_as(
        "SELECT s.merchant_id, s.sku, s.location_id, s.reserved, coalesce(sum(r.units), 0)::bigint
         FROM stock s LEFT JOIN reservations r USING (merchant_id, sku, location_id)
         GROUP BY s.merchant_id, s.sku, s.location_id
         HAVING s.reserved <> coalesce(sum(r.units), 0)",
    )
    .fetch_all(pool)
    .await?;
    ensure!(
        wrong.is_empty(),
        "stock.reserved is not the sum of its reservations: {wrong:?}"
    );

    let wrong: Vec<(Uuid, String, String)> = sqlx::query_as(
        "SELECT f.order_id, (f.reserved, f.waiting, f.shipped, f.delivered)::text,
                (r.units, b.units, s.units, s.delivered)::text
         FROM fulfillments f
         CROSS JOIN LATERAL (SELECT coalesce(sum(units), 0)::bigint AS units FROM reservations
                             WHERE order_id = f.order_id) r
         CROSS JOIN LATERAL (SELECT coalesce(sum(units), 0)::bigint AS units FROM backorders
                             WHERE order_id = f.order_id) b
         CROSS JOIN LATERAL (SELECT coalesce(sum(l.units), 0)::bigint AS units,
                                    coalesce(sum(l.units) FILTER (WHERE h.status = 'delivered'), 0)::bigint AS delivered
                             FROM shipments h JOIN shipment_lines l USING (shipment_id)
                             WHERE h.order_id = f.order_id) s
         WHERE (f.reserved, f.waiting, f.shipped, f.delivered) <> (r.units, b.units, s.units, s.delivered)",
    )
    .fetch_all(pool)
    .await?;
    ensure!(
        wrong.is_empty(),
        "an order's units are not the sum of their parts: {wrong:?}"
    );

    let wrong: Vec<(Uuid, Uuid, i64, i64)> = sqlx::query_as(
        "SELECT l.order_id, l.line_id, l.units, p.units
         FROM order_lines l
         JOIN fulfillments f USING (order_id)
         CROSS JOIN LATERAL (
             SELECT coalesce(sum(units), 0)::bigint AS units
             FROM (SELECT units FROM reservations r WHERE (r.order_id, r.line_id) = (l.order_id, l.line_id)
                   UNION ALL
                   SELECT units FROM backorders b WHERE (b.order_id, b.line_id) = (l.order_id, l.line_id)
                   UNION ALL
                   SELECT s.units FROM shipment_lines s JOIN shipments h USING (shipment_id)
                   WHERE (h.order_id, s.line_id) = (l.order_id, l.line_id)) places
         ) p
         WHERE CASE WHEN l.digital THEN p.units <> 0
                    WHEN f.released > 0 THEN p.units > l.units
                    ELSE p.units <> l.units END",
    )
    .fetch_all(pool)
    .await?;
    ensure!(
        wrong.is_empty(),
        "a line has units in no place or in two: {wrong:?}"
    );

    let idle: Vec<(Uuid, String)> = sqlx::query_as(
        "SELECT DISTINCT s.merchant_id, s.sku FROM stock s JOIN backorders b USING (merchant_id, sku)
         WHERE s.on_hand - s.reserved - s.safety_stock > 0",
    )
    .fetch_all(pool)
    .await?;
    ensure!(
        idle.is_empty(),
        "stock lies free while an order waits for it: {idle:?}"
    );

    let (on_hand, reserved, waiting, shipped) = sqlx::query_as(
        "SELECT (SELECT coalesce(sum(on_hand), 0)::bigint FROM stock),
                (SELECT coalesce(sum(reserved), 0)::bigint FROM stock),
                (SELECT coalesce(sum(waiting), 0)::bigint FROM fulfillments),
                (SELECT coalesce(sum(shipped), 0)::bigint FROM fulfillments)",
    )
    .fetch_one(pool)
    .await?;
    Ok(Books {
        on_hand,
        reserved,
        waiting,
        shipped,
    })
}
