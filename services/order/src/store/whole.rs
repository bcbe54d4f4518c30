//! The statements that read whole orders.

/// Whole orders in one statement: children come as JSON, so that there is one row per order and one snapshot for all. The
/// argument says which orders `o` are meant, and binds them to their merchant and store; children belong to their order.
/// Merchant and store once more for the children would tempt the planner to walk an index of the whole store for each.
///
/// An order that is named by its id is found by it alone; merchant and store are compared with what was found, in words that
/// no index answers. While a table is too young to have statistics, the planner takes every index for equally good, and
/// would walk all orders of the store for each one. Of many ids each is looked up by itself (LATERAL with a LIMIT), or the
/// planner might read all orders to join them.
///
/// Where orders are given as an array, the array is read by a subquery: the planner does not see how long it is, so a plan
/// for this one array never seems better than the plan for all. It would be the same plan, and making it takes longer than
/// reading half a dozen orders.
macro_rules! load {
    ($which:literal) => {
        concat!(
            "SELECT o.order_id, o.merchant_id, o.store_id, o.number, o.source_system, o.source_external_id, o.currency,
                    o.prices_include_tax, o.subtotal_minor, o.discounts_minor, o.shipping_minor, o.tax_minor, o.total_minor,
                    o.discounts, o.locale, o.placed_at, o.promised_ship_at, o.promised_delivery_at, o.presentment_currency,
                    o.presentment_total, o.presentment_sums, o.tags, o.attributes, o.created_at, o.status, o.cancel_reason, o.authorized_minor,
                    o.voided_minor, o.captured_minor, o.refunded_minor, o.payments, o.units_to_ship, o.units_shipped,
                    o.units_delivered, o.return_status, o.version, o.updated_at, o.open_holds,
                    o.units_cancelled, o.cancelled_minor, o.added_minor, o.owed_back_minor, o.capturing_minor,
                    o.disputed_minor, o.dispute_lost_minor,
                    (SELECT row_to_json(c) FROM order_contacts c
                     WHERE c.order_id = o.order_id) AS contact,
                    (SELECT coalesce(json_agg(l ORDER BY l.position), '[]') FROM order_lines l
                     WHERE l.order_id = o.order_id) AS lines,
                    (SELECT coalesce(json_agg(s ORDER BY s.position), '[]') FROM order_shipping_lines s
                     WHERE s.order_id = o.order_id) AS shipping_lines,
                    (SELECT coalesce(json_agg(p ORDER BY p.sequence), '[]') FROM order_payments p
                     WHERE p.order_id = o.order_id) AS payment_rows,
                    (SELECT coalesce(json_agg(h ORDER BY h.hold_id), '[]') FROM order_holds h
                     WHERE h.order_id = o.order_id) AS hold_rows,
                    (SELECT coalesce(json_agg(x ORDER BY x.cancellation_id), '[]') FROM order_cancellations x
                     WHERE x.order_id = o.order_id) AS cancellation_rows,
                    (SELECT coalesce(json_agg(e ORDER BY e.version), '[]') FROM order_edits e
                     WHERE e.order_id = o.order_id) AS edit_rows,
                    (SELECT coalesce(json_agg(a ORDER BY a.attempt_id), '[]') FROM payment_attempts a
                     WHERE a.order_id = o.order_id) AS attempt_rows
             ",
            $which
        )
    };
}

pub(super) const BY_ID: &str = load!(
    "FROM orders o
     WHERE o.order_id = $3 AND o.merchant_id IS NOT DISTINCT FROM $1 AND o.store_id IS NOT DISTINCT FROM $2"
);
pub(super) const BY_NUMBER: &str =
    load!("FROM orders o WHERE o.merchant_id = $1 AND o.store_id = $2 AND o.number = $3");
pub(super) const BY_SOURCE: &str = load!(
    "FROM orders o
     WHERE o.merchant_id = $1 AND o.store_id = $2 AND o.source_system = $3 AND o.source_external_id = $4"
);
pub(super) const BY_IDS: &str = load!(
    "FROM UNNEST((SELECT $3::uuid[])) WITH ORDINALITY AS k (order_id, place)
     CROSS JOIN LATERAL (
         SELECT * FROM orders o
         WHERE o.order_id = k.order_id AND o.merchant_id IS NOT DISTINCT FROM $1
         AND o.store_id IS NOT DISTINCT FROM $2 LIMIT 1) o
     ORDER BY k.place"
);
pub(super) const BY_OWNERS: &str = load!(
    "FROM (SELECT DISTINCT * FROM UNNEST((SELECT $1::uuid[]), (SELECT $2::uuid[]), (SELECT $3::uuid[]))
         AS u (merchant_id, store_id, order_id)) k
     CROSS JOIN LATERAL (
         SELECT * FROM orders o
         WHERE o.order_id = k.order_id AND o.merchant_id IS NOT DISTINCT FROM k.merchant_id
         AND o.store_id IS NOT DISTINCT FROM k.store_id LIMIT 1) o"
);

#[cfg(test)]
#[path = "whole_plans.rs"]
mod plans;
