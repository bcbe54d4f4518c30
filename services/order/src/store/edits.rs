//! Edits: lines that came with them.

use sqlx::PgConnection;
use uuid::Uuid;
use waybill_store::StoreError;

use super::rows::NewLine;
use crate::domain::edit::Edited;
use crate::domain::order::Order;

/// Writes an edit of a locked order, with the lines from `first` on, which came with it: one statement. What the order has
/// with them, its units and its money, is written here; version and facets are saved after it.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn save(
    conn: &mut PgConnection,
    order: &Order,
    first: usize,
    edited: &Edited,
) -> Result<(), StoreError> {
    let updated: Vec<Uuid> = sqlx::query_scalar(
        "WITH lines AS (
             INSERT INTO order_lines (
                 order_id, merchant_id, store_id, line_id, position, sku, title, quantity, unit_price_minor, category,
                 final_sale, digital, attributes, discounts, order_discount_minor, taxes, net_minor, total_minor,
                 added_version)
             SELECT l.*, $11
             FROM UNNEST($1::new_order_line[]) AS l
         ),
         edit AS (
             INSERT INTO order_edits (
                 order_id, edit_id, merchant_id, store_id, reason, cancellation_id, added_minor, edited_at, version)
             VALUES ($2, $3, $4, $5, $6, $7, $8, $9, $11)
         )
         UPDATE orders
         SET units_to_ship = $10, added_minor = added_minor + $8, owed_back_minor = $12,
             line_count = line_count + cardinality($1)
         WHERE order_id = $2 AND merchant_id = $4 AND store_id = $5 AND version = $11 - 1
         RETURNING order_id",
    )
    .bind(NewLine::from(order, first).collect::<Vec<_>>())
    .bind(order.id.uuid())
    .bind(edited.id.uuid())
    .bind(order.tenant.merchant.uuid())
    .bind(order.tenant.store.uuid())
    .bind(edited.reason.as_str())
    .bind(edited.cancellation.map(|id| id.uuid()))
    .bind(edited.added)
    .bind(edited.at)
    .bind(order.state.goods.to_ship)
    .bind(edited.version)
    .bind(order.state.money.owed_back)
    .fetch_all(conn)
    .await?;
    if updated.is_empty() {
        return Err(StoreError::other("an order changed although it was locked"));
    }
    Ok(())
}
