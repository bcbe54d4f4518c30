//! What the fold writes: set-based, and harmless when it is written again.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;
use waybill_store::StoreError;

use crate::domain::book::{LineKind, Tenant};

/// An order as it was placed.
#[derive(Debug, Clone)]
pub struct PlacedOrder {
    /// Who it belongs to.
    pub tenant: Tenant,
    /// Its id.
    pub order_id: Uuid,
    /// Currency code.
    pub currency: String,
    /// Country the goods go to; empty when nothing ships.
    pub ship_country: String,
    /// When it was placed.
    pub placed_at: DateTime<Utc>,
    /// The version its event told.
    pub version: i64,
    /// Goods, then shipping.
    pub lines: Vec<PlacedLine>,
}

/// A line as it was frozen.
#[derive(Debug, Clone)]
pub struct PlacedLine {
    /// Its id.
    pub line_id: Uuid,
    /// Goods or shipping.
    pub kind: LineKind,
    /// Stock keeping unit.
    pub sku: String,
    /// Category.
    pub category: String,
    /// True when sold without a right of return.
    pub final_sale: bool,
    /// True when nothing is shipped.
    pub digital: bool,
    /// Units.
    pub quantity: i32,
    /// Without tax, after discounts.
    pub net: i64,
    /// Taxes in their order.
    pub taxes: Vec<i64>,
    /// True when prices contained tax.
    pub inclusive: bool,
}

/// Lines that came to an order after its placement.
#[derive(Debug, Clone)]
pub struct AddedLines {
    /// The order.
    pub order_id: Uuid,
    /// The lines.
    pub lines: Vec<PlacedLine>,
}

/// Money that a provider took.
#[derive(Debug, Clone)]
pub struct Captured {
    /// The payment.
    pub payment_id: Uuid,
    /// The order.
    pub order_id: Uuid,
    /// The provider.
    pub provider: String,
    /// Its id of the payment.
    pub provider_payment_id: String,
    /// How much.
    pub amount: i64,
    /// When.
    pub captured_at: DateTime<Utc>,
}

/// Money that a dispute took back.
#[derive(Debug, Clone)]
pub struct Lost {
    /// The order's record of it.
    pub payment_id: Uuid,
    /// The order.
    pub order_id: Uuid,
    /// The provider.
    pub provider: String,
    /// Its id of the payment that was disputed.
    pub provider_payment_id: String,
    /// How much.
    pub amount: i64,
}

/// What a batch says about one order besides its payments.
#[derive(Debug, Clone)]
pub struct Touched {
    /// The order.
    pub order_id: Uuid,
    /// The latest version that was seen.
    pub version: i64,
    /// When it was cancelled, if it was.
    pub cancelled_at: Option<DateTime<Utc>>,
}

/// Units of one line in one shipment.
#[derive(Debug, Clone)]
pub struct Shipped {
    /// The shipment.
    pub shipment_id: Uuid,
    /// The line.
    pub line_id: Uuid,
    /// The order.
    pub order_id: Uuid,
    /// Units.
    pub quantity: i32,
    /// When they left.
    pub shipped_at: Option<DateTime<Utc>>,
    /// When they arrived.
    pub delivered_at: Option<DateTime<Utc>>,
}

/// Which of these orders are known.
pub async fn known(conn: &mut PgConnection, order_ids: &[Uuid]) -> Result<Vec<Uuid>, StoreError> {
    Ok(
        sqlx::query_scalar("SELECT order_id FROM orders WHERE order_id = ANY ($1)")
            .bind(order_ids)
            .fetch_all(conn)
            .await?,
    )
}

/// The currencies of these orders.
pub async fn currencies(
    conn: &mut PgConnection,
    order_ids: &[Uuid],
) -> Result<Vec<(Uuid, String)>, StoreError> {
    Ok(
        sqlx::query_as("SELECT order_id, currency FROM orders WHERE order_id = ANY ($1)")
            .bind(order_ids)
            .fetch_all(conn)
            .await?,
    )
}

/// Which of these orders are cancelled, and to whom they belong.
pub async fn cancelled(conn: &mut PgConnection, order_ids: &[Uuid]) -> Result<Vec<Uuid>, StoreError> {
    Ok(sqlx::query_scalar(
        "SELECT order_id FROM orders WHERE order_id = ANY ($1) AND cancelled_at IS NOT NULL",
    )
    .bind(order_ids)
    .fetch_all(conn)
    .await?)
}

/// Writes orders with their lines, each with the policy that was in force at its placement, if it is known already.
pub async fn insert_orders(conn: &mut PgConnection, orders: &[PlacedOrder]) -> Result<(), StoreError> {
    if orders.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO orders (order_id, merchant_id, store_id, currency, ship_country, placed_at, seen_version, policy_version)
         SELECT o.*, (SELECT p.policy_version FROM policies p
                      WHERE p.merchant_id = o.merchant_id AND p.store_id = o.store_id AND p.valid_from <= o.placed_at
                      ORDER BY p.valid_from DESC LIMIT 1)
         FROM UNNEST($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::timestamptz[], $7::bigint[])
              AS o (order_id, merchant_id, store_id, currency, ship_country, placed_at, seen_version)
         ON CONFLICT (order_id) DO NOTHING",
    )
    .bind(orders.iter().map(|order| order.order_id).collect::<Vec<_>>())
    .bind(orders.iter().map(|order| order.tenant.merchant.uuid()).collect::<Vec<_>>())
    .bind(orders.iter().map(|order| order.tenant.store.uuid()).collect::<Vec<_>>())
    .bind(orders.iter().map(|order| order.currency.as_str()).collect::<Vec<_>>())
    .bind(orders.iter().map(|order| order.ship_country.as_str()).collect::<Vec<_>>())
    .bind(orders.iter().map(|order| order.placed_at).collect::<Vec<_>>())
    .bind(orders.iter().map(|order| order.version).collect::<Vec<_>>())
    .execute(&mut *conn)
    .await?;
    let lines = orders.iter().flat_map(|order| {
        let lines = order.lines.iter().zip(0..);
        lines.map(|(line, position)| (order.order_id, position, line))
    });
    insert_lines(conn, &lines.collect::<Vec<_>>(), false).await
}

/// Writes lines that edits added, behind those that their orders have; of one order in the order they are given.
pub async fn add_lines(conn: &mut PgConnection, added: &[AddedLines]) -> Result<(), StoreError> {
    let mut next: BTreeMap<Uuid, i32> = BTreeMap::new();
    let mut lines = Vec::new();
    for edit in added {
        let next = next.entry(edit.order_id).or_default();
        for line in &edit.lines {
            lines.push((edit.order_id, *next, line));
            *next += 1;
        }
    }
    if lines.is_empty() {
        return Ok(());
    }
    insert_lines(conn, &lines, true).await
}

/// Writes lines with their places, which are those behind the last one of the order where it has some.
async fn insert_lines(
    conn: &mut PgConnection,
    lines: &[(Uuid, i32, &PlacedLine)],
    behind: bool,
) -> Result<(), StoreError> {
    // Arrays of arrays of different lengths do not exist in Postgres: taxes travel as array literals.
    let taxes = |line: &PlacedLine| {
        let amounts: Vec<String> = line.taxes.iter().map(i64::to_string).collect();
        format!("{{{}}}", amounts.join(","))
    };
    let kind = |line: &PlacedLine| match line.kind {
        LineKind::Goods => "goods",
        LineKind::Shipping => "shipping",
    };
    sqlx::query(
        "INSERT INTO order_lines (order_id, position, line_id, kind, sku, category, final_sale, digital, quantity, net, taxes, inclusive)
         SELECT l.order_id,
                l.position + CASE WHEN $13 THEN (SELECT coalesce(max(k.position) + 1, 0) FROM order_lines k
                                                 WHERE k.order_id = l.order_id) ELSE 0 END,
                l.line_id, l.kind, l.sku, l.category, l.final_sale, l.digital, l.quantity, l.net,
                l.taxes::bigint[], l.inclusive
         FROM UNNEST($1::uuid[], $2::integer[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::boolean[], $8::boolean[],
                     $9::integer[], $10::bigint[], $11::text[], $12::boolean[])
              AS l (order_id, position, line_id, kind, sku, category, final_sale, digital, quantity, net, taxes, inclusive)
         ON CONFLICT (line_id) DO NOTHING",
    )
    .bind(lines.iter().map(|line| line.0).collect::<Vec<_>>())
    .bind(lines.iter().map(|line| line.1).collect::<Vec<_>>())
    .bind(lines.iter().map(|line| line.2.line_id).collect::<Vec<_>>())
    .bind(lines.iter().map(|line| kind(line.2)).collect::<Vec<_>>())
    .bind(lines.iter().map(|line| line.2.sku.as_str()).collect::<Vec<_>>())
    .bind(lines.iter().map(|line| line.2.category.as_str()).collect::<Vec<_>>())
    .bind(lines.iter().map(|line| line.2.final_sale).collect::<Vec<_>>())
    .bind(lines.iter().map(|line| line.2.digital).collect::<Vec<_>>())
    .bind(lines.iter().map(|line| line.2.quantity).collect::<Vec<_>>())
    .bind(lines.iter().map(|line| line.2.net).collect::<Vec<_>>())
    .bind(lines.iter().map(|line| taxes(line.2)).collect::<Vec<_>>())
    .bind(lines.iter().map(|line| line.2.inclusive).collect::<Vec<_>>())
    .bind(behind)
    .execute(conn)
    .await?;
    Ok(())
}

/// Writes payments that are new, and brings their orders up to date: captured money, version, cancellation. A payment
/// that is known is not counted again.
pub async fn apply(
    conn: &mut PgConnection,
    captured: &[Captured],
    touched: &[Touched],
) -> Result<(), StoreError> {
    if touched.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "WITH paid AS (
             INSERT INTO payments (payment_id, order_id, provider, provider_payment_id, captured, captured_at)
             SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::bigint[], $6::timestamptz[])
             ON CONFLICT (payment_id) DO NOTHING
             RETURNING order_id, captured
         ), sums AS (
             SELECT order_id, sum(captured)::bigint AS captured FROM paid GROUP BY order_id
         )
         UPDATE orders o
         SET captured = o.captured + coalesce(s.captured, 0),
             seen_version = greatest(o.seen_version, t.version),
             cancelled_at = coalesce(o.cancelled_at, t.cancelled_at),
             updated_at = now()
         FROM UNNEST($7::uuid[], $8::bigint[], $9::timestamptz[]) AS t (order_id, version, cancelled_at)
         LEFT JOIN sums s USING (order_id)
         WHERE o.order_id = t.order_id
           AND (s.order_id IS NOT NULL OR o.seen_version < t.version
                OR (o.cancelled_at IS NULL AND t.cancelled_at IS NOT NULL))",
    )
    .bind(captured.iter().map(|payment| payment.payment_id).collect::<Vec<_>>())
    .bind(captured.iter().map(|payment| payment.order_id).collect::<Vec<_>>())
    .bind(captured.iter().map(|payment| payment.provider.as_str()).collect::<Vec<_>>())
    .bind(captured.iter().map(|payment| payment.provider_payment_id.as_str()).collect::<Vec<_>>())
    .bind(captured.iter().map(|payment| payment.amount).collect::<Vec<_>>())
    .bind(captured.iter().map(|payment| payment.captured_at).collect::<Vec<_>>())
    .bind(touched.iter().map(|order| order.order_id).collect::<Vec<_>>())
    .bind(touched.iter().map(|order| order.version).collect::<Vec<_>>())
    .bind(touched.iter().map(|order| order.cancelled_at).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

/// Notes that the customers of orders were forgotten.
pub async fn erase(conn: &mut PgConnection, orders: &[Uuid]) -> Result<(), StoreError> {
    if orders.is_empty() {
        return Ok(());
    }
    sqlx::query("UPDATE orders SET contact_erased = true WHERE order_id = ANY ($1) AND NOT contact_erased")
        .bind(orders)
        .execute(conn)
        .await?;
    Ok(())
}

/// Takes what disputes took off what can still go back (R-1c): of the order, and of the payment that was disputed, if it is
/// known. Of several captures of one payment it is that with the most left.
pub async fn lose(conn: &mut PgConnection, lost: &[Lost]) -> Result<(), StoreError> {
    if lost.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "WITH lost AS (
             SELECT l.order_id, l.amount, p.payment_id
             FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::bigint[])
                  AS l (order_id, provider, provider_payment_id, amount)
             LEFT JOIN LATERAL (
                 SELECT p.payment_id FROM payments p
                 WHERE (p.order_id, p.provider, p.provider_payment_id) = (l.order_id, l.provider, l.provider_payment_id)
                 ORDER BY p.captured - p.succeeded - p.in_flight - p.outside DESC, p.payment_id
                 LIMIT 1
             ) p ON true
         ), of_payments AS (
             UPDATE payments p SET outside = p.outside + s.amount
             FROM (SELECT payment_id, sum(amount)::bigint AS amount FROM lost GROUP BY payment_id) s
             WHERE p.payment_id = s.payment_id
         )
         UPDATE orders o SET outside = o.outside + s.amount, updated_at = now()
         FROM (SELECT order_id, sum(amount)::bigint AS amount FROM lost GROUP BY order_id) s
         WHERE o.order_id = s.order_id",
    )
    .bind(lost.iter().map(|lost| lost.order_id).collect::<Vec<_>>())
    .bind(lost.iter().map(|lost| lost.provider.as_str()).collect::<Vec<_>>())
    .bind(
        lost.iter()
            .map(|lost| lost.provider_payment_id.as_str())
            .collect::<Vec<_>>(),
    )
    .bind(lost.iter().map(|lost| lost.amount).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

/// Writes what was shipped and delivered. One row per shipment and line in a call.
pub async fn ship(conn: &mut PgConnection, shipped: &[Shipped]) -> Result<(), StoreError> {
    if shipped.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO shipped_units AS known (shipment_id, line_id, order_id, quantity, shipped_at, delivered_at)
         SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::uuid[], $4::integer[], $5::timestamptz[], $6::timestamptz[])
         ON CONFLICT (shipment_id, line_id) DO UPDATE
         SET shipped_at = coalesce(known.shipped_at, excluded.shipped_at),
             delivered_at = coalesce(known.delivered_at, excluded.delivered_at)",
    )
    .bind(shipped.iter().map(|units| units.shipment_id).collect::<Vec<_>>())
    .bind(shipped.iter().map(|units| units.line_id).collect::<Vec<_>>())
    .bind(shipped.iter().map(|units| units.order_id).collect::<Vec<_>>())
    .bind(shipped.iter().map(|units| units.quantity).collect::<Vec<_>>())
    .bind(shipped.iter().map(|units| units.shipped_at).collect::<Vec<_>>())
    .bind(shipped.iter().map(|units| units.delivered_at).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}
