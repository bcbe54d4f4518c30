//! What services know of each other, against the tables of those who own it.

use std::collections::BTreeMap;

use anyhow::ensure;
use uuid::Uuid;

use super::{Evidence, none};

/// What must find nothing, and what it would have found.
const COMPARISONS: [(&str, &str); 9] = [
    (
        "orders that refund knows otherwise",
        "SELECT coalesce(o.order_id, r.order_id)::text FROM \"order\".orders o FULL JOIN refund.orders r USING (order_id)
         WHERE (r.merchant_id, r.store_id, r.currency, r.placed_at, r.captured, r.succeeded + r.outside, r.in_flight,
                r.cancelled_at IS NOT NULL)
               IS DISTINCT FROM
               (o.merchant_id, o.store_id, o.currency, o.placed_at, o.captured_minor, o.refunded_minor, 0::bigint,
                o.status = 'CANCELLED')",
    ),
    (
        "lines that refund knows otherwise",
        "SELECT coalesce(o.line_id, r.line_id)::text
         FROM \"order\".order_lines o
         FULL JOIN (SELECT * FROM refund.order_lines WHERE kind = 'goods') r USING (line_id)
         WHERE (r.order_id, r.sku, r.quantity, r.net) IS DISTINCT FROM (o.order_id, o.sku, o.quantity, o.net_minor)",
    ),
    (
        "payments that refund knows otherwise",
        "SELECT coalesce(o.payment_id, r.payment_id)::text
         FROM (SELECT * FROM \"order\".order_payments WHERE kind = 'capture') o FULL JOIN refund.payments r USING (payment_id)
         WHERE (r.order_id, r.provider, r.provider_payment_id, r.captured)
               IS DISTINCT FROM (o.order_id, o.provider, o.provider_payment_id, o.amount_minor)",
    ),
    (
        "shipped units that refund knows otherwise",
        "SELECT coalesce(f.shipment_id, r.shipment_id)::text
         FROM (SELECT s.order_id, s.delivered_at, l.* FROM fulfillment.shipments s JOIN fulfillment.shipment_lines l USING (shipment_id)) f
         FULL JOIN refund.shipped_units r USING (shipment_id, line_id)
         WHERE (r.order_id, r.quantity::bigint, r.delivered_at IS NOT NULL)
               IS DISTINCT FROM (f.order_id, f.units, f.delivered_at IS NOT NULL)",
    ),
    (
        "orders that notification knows otherwise",
        "SELECT coalesce(o.order_id, n.order_id)::text FROM \"order\".orders o FULL JOIN notification.orders n USING (order_id)
         WHERE (n.merchant_id, n.store_id) IS DISTINCT FROM (o.merchant_id, o.store_id)",
    ),
    (
        "matters that notification takes for open",
        "SELECT subject_id || ' ' || kind FROM notification.open_matters",
    ),
    (
        "orders that fulfillment knows otherwise",
        "SELECT coalesce(o.order_id, f.order_id)::text
         FROM (SELECT o.order_id, o.merchant_id, o.store_id, o.placed_at, l.line_id, l.sku, l.quantity::bigint AS units, l.digital
               FROM \"order\".orders o JOIN \"order\".order_lines l USING (order_id)) o
         FULL JOIN (SELECT f.order_id, f.merchant_id, f.store_id, f.placed_at, l.line_id, l.sku, l.units, l.digital
                    FROM fulfillment.orders f JOIN fulfillment.order_lines l USING (order_id)) f USING (order_id, line_id)
         WHERE (f.merchant_id, f.store_id, f.placed_at, f.sku, f.units, f.digital)
               IS DISTINCT FROM (o.merchant_id, o.store_id, o.placed_at, o.sku, o.units, o.digital)",
    ),
    (
        "orders whose parcels fulfillment knows otherwise",
        "SELECT coalesce(o.order_id, f.order_id)::text
         FROM \"order\".orders o FULL JOIN fulfillment.fulfillments f USING (order_id)
         WHERE (f.units, f.shipped, f.delivered, f.cancelled)
               IS DISTINCT FROM (o.units_to_ship, o.units_shipped, o.units_delivered, o.status = 'CANCELLED')",
    ),
    (
        "returns that order knows otherwise",
        "SELECT coalesce(o.return_id, r.return_id)::text
         FROM \"order\".order_returns o FULL JOIN refund.returns r USING (return_id)
         WHERE (o.order_id, o.stage) IS DISTINCT FROM (r.order_id, r.state) OR r.state <> 'COMPLETED'",
    ),
];

/// Compares each projection with its owner's tables.
pub async fn equal_owners(of: &Evidence) -> anyhow::Result<String> {
    for (what, sql) in COMPARISONS {
        none(of, what, sql).await?;
    }
    Ok(format!("{} comparisons of all rows", COMPARISONS.len()))
}

/// The timeline of each order holds every event about it, from whichever log, once.
pub async fn timelines(of: &Evidence) -> anyhow::Result<String> {
    let rows: Vec<(Uuid, Uuid, String, String)> =
        sqlx::query_as("SELECT event_id, order_id, service, type FROM \"order\".order_timeline")
            .fetch_all(&of.db)
            .await?;
    let orders: Vec<Uuid> = sqlx::query_scalar("SELECT order_id FROM \"order\".orders")
        .fetch_all(&of.db)
        .await?;
    let orders: std::collections::HashSet<Uuid> = orders.into_iter().collect();
    let mut expected: BTreeMap<Uuid, (Uuid, &str, &str)> = BTreeMap::new();
    for (service, entry) in of.logs.all().filter(|(_, entry)| orders.contains(&entry.key)) {
        expected.insert(entry.event_id, (entry.key, service, &entry.type_name));
    }
    let count = rows.len();
    for (event_id, order_id, service, type_name) in &rows {
        let told = expected.remove(event_id);
        ensure!(
            told == Some((*order_id, service, type_name)),
            "the timeline of order {order_id} has {type_name} {event_id} of {service}, the logs say {told:?}"
        );
    }
    ensure!(
        expected.is_empty(),
        "{} events are on no timeline, such as {:?}",
        expected.len(),
        expected.first_key_value()
    );
    Ok(format!("{count} facts of {} orders", orders.len()))
}
