//! Stock: what is there is what was given, less what went out, plus what came back; what is promised is what is reserved.

use std::collections::BTreeMap;

use anyhow::ensure;

use super::{Evidence, none};

/// Compares stock with its movements.
pub async fn equals_movements(of: &Evidence) -> anyhow::Result<String> {
    none(
        of,
        "stock that is negative or promised twice",
        "SELECT sku || ': ' || on_hand || ' on hand, ' || reserved || ' reserved' FROM fulfillment.stock
         WHERE on_hand < 0 OR reserved < 0 OR reserved > on_hand",
    )
    .await?;
    none(
        of,
        "stock whose reservations sum to something else",
        "SELECT s.sku FROM fulfillment.stock s
         LEFT JOIN fulfillment.reservations r USING (merchant_id, sku, location_id)
         GROUP BY s.merchant_id, s.sku, s.location_id, s.reserved HAVING s.reserved <> coalesce(sum(r.units), 0)",
    )
    .await?;
    none(
        of,
        "orders that still hold stock or wait for it",
        "SELECT order_id || ': ' || reserved || ' reserved, ' || waiting || ' waiting' FROM fulfillment.fulfillments
         WHERE reserved <> 0 OR waiting <> 0",
    )
    .await?;
    let rows: Vec<(String, i64, i64, i64)> = sqlx::query_as(
        "SELECT s.sku, s.on_hand::bigint, coalesce(m.shipped, 0)::bigint, coalesce(m.restocked, 0)::bigint
         FROM (SELECT sku, sum(on_hand) AS on_hand FROM fulfillment.stock GROUP BY sku) s
         LEFT JOIN (SELECT sku, sum(units) AS shipped, sum(restocked) AS restocked FROM fulfillment.shipment_lines
                    GROUP BY sku) m USING (sku)",
    )
    .fetch_all(&of.db)
    .await?;
    let (mut shipped_units, mut restocked_units) = (0, 0);
    let mut given: BTreeMap<String, i64> = of.given.clone();
    for (sku, on_hand, shipped, restocked) in rows {
        let given = given.remove(&sku).unwrap_or(0);
        ensure!(
            on_hand == given - shipped + restocked,
            "{sku}: {on_hand} on hand, but {given} given - {shipped} shipped + {restocked} back"
        );
        shipped_units += shipped;
        restocked_units += restocked;
    }
    ensure!(given.is_empty(), "given and not there: {given:?}");
    let total: i64 = of.given.values().sum();
    Ok(format!(
        "{total} units given, {shipped_units} shipped, {restocked_units} came back"
    ))
}
