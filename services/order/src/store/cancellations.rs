//! Cancelled units of lines.

use std::collections::BTreeMap;

use serde::Deserialize;
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;
use waybill_kernel::id::{LineId, OrderId};
use waybill_kernel::slots::LineCut;
use waybill_store::StoreError;

use crate::domain::cancellation::{Cancellation, OrderedLine};
use crate::domain::order::Tenant;

#[derive(Deserialize)]
struct Tax {
    amount: i64,
}

#[derive(sqlx::FromRow)]
struct LineRow {
    line_id: Uuid,
    sku: String,
    digital: bool,
    quantity: i32,
    net_minor: i64,
    taxes: Json<Vec<Tax>>,
    prices_include_tax: bool,
    units_shipped: i32,
    units_cancelled: i32,
}

/// The lines of a locked order.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn lines(
    conn: &mut PgConnection,
    tenant: Tenant,
    order: OrderId,
) -> Result<BTreeMap<LineId, OrderedLine>, StoreError> {
    let rows: Vec<LineRow> = sqlx::query_as(
        "SELECT l.line_id, l.sku, l.digital, l.quantity, l.net_minor, l.taxes, o.prices_include_tax, l.units_shipped,
                l.units_cancelled
         FROM orders o
         JOIN order_lines l USING (order_id, merchant_id, store_id)
         WHERE o.order_id = $1 AND o.merchant_id = $2 AND o.store_id = $3",
    )
    .bind(order.uuid())
    .bind(tenant.merchant.uuid())
    .bind(tenant.store.uuid())
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            let taxes = row.taxes.0.into_iter().map(|tax| tax.amount).collect();
            let quantity = u32::try_from(row.quantity).map_err(StoreError::decode)?;
            let line = OrderedLine {
                sku: row.sku,
                digital: row.digital,
                cut: LineCut::new(row.net_minor, taxes, quantity, row.prices_include_tax)
                    .map_err(StoreError::decode)?,
                shipped: row.units_shipped,
                cancelled: row.units_cancelled,
            };
            Ok((row.line_id.into(), line))
        })
        .collect()
}

/// Writes a cancellation of a locked order, and counts its units on their lines: one statement.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn save(
    conn: &mut PgConnection,
    tenant: Tenant,
    order: OrderId,
    cancellation: &Cancellation,
) -> Result<(), StoreError> {
    let (lines, units): (Vec<Uuid>, Vec<i32>) = (cancellation.lines.iter())
        .map(|part| (part.line.uuid(), part.units))
        .unzip();
    sqlx::query(
        "WITH counted AS (
             UPDATE order_lines l SET units_cancelled = l.units_cancelled + c.units
             FROM UNNEST($9::uuid[], $10::integer[]) AS c (line_id, units)
             WHERE l.order_id = $1 AND l.merchant_id = $3 AND l.store_id = $4 AND l.line_id = c.line_id
         )
         INSERT INTO order_cancellations (
             order_id, cancellation_id, merchant_id, store_id, reason, restock, lines, cancelled_at, version)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $11)",
    )
    .bind(order.uuid())
    .bind(cancellation.id.uuid())
    .bind(tenant.merchant.uuid())
    .bind(tenant.store.uuid())
    .bind(&cancellation.reason)
    .bind(cancellation.restock)
    .bind(Json(&cancellation.lines))
    .bind(cancellation.at)
    .bind(lines)
    .bind(units)
    .bind(cancellation.version)
    .execute(conn)
    .await?;
    Ok(())
}
