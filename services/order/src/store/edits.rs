//! Edits: lines that came with them.

use sqlx::PgConnection;
use uuid::Uuid;
use waybill_store::StoreError;

use super::columns::Goods;
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
    let query = sqlx::query_scalar(
        "WITH lines AS (
             INSERT INTO order_lines (
                 order_id, merchant_id, store_id, line_id, position, sku, title, quantity, unit_price_minor, category,
                 final_sale, digital, attributes, discounts, order_discount_minor, taxes, net_minor, total_minor,
                 added_version)
             SELECT l.*, $28
             FROM UNNEST($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::integer[], $6::text[], $7::text[],
                         $8::integer[], $9::bigint[], $10::text[], $11::boolean[], $12::boolean[], $13::jsonb[],
                         $14::jsonb[], $15::bigint[], $16::jsonb[], $17::bigint[], $18::bigint[]) AS l
         ),
         edit AS (
             INSERT INTO order_edits (
                 order_id, edit_id, merchant_id, store_id, reason, cancellation_id, added_minor, edited_at, version)
             VALUES ($19, $20, $21, $22, $23, $24, $25, $26, $28)
         )
         UPDATE orders
         SET units_to_ship = $27, added_minor = added_minor + $25, owed_back_minor = $29,
             line_count = line_count + cardinality($4::uuid[])
         WHERE order_id = $19 AND merchant_id = $21 AND store_id = $22 AND version = $28 - 1
         RETURNING order_id",
    );
    let updated: Vec<Uuid> = Goods::from(order, first)
        .bind(query)
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
