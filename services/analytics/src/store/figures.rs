//! Reading: one statement a question. The definition of each figure stands beside the query that computes it.

use chrono::NaiveDate;
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row};
use waybill_kernel::id::{MerchantId, StoreId};
use waybill_store::StoreError;

use crate::domain::figures::{CycleTime, Figures, OrderFigures, ReasonFigures, RefundFigures};
use crate::domain::period::Period;

/// Figures of a period per currency.
///
/// - Orders count in the period they were placed in, cancelled ones included.
/// - `refunds` and `refunded` count in the period the refund succeeded in.
/// - `refunded_orders` and `refunded_of_orders` count refunds that stand, of orders placed in the period.
pub async fn summary(
    pool: &PgPool,
    merchant: MerchantId,
    store: StoreId,
    period: &Period,
) -> Result<Vec<Figures>, StoreError> {
    let rows = sqlx::query(
        "WITH placed AS (
             SELECT currency_code, count(*) AS orders, count(cancelled_at) AS cancelled, sum(units)::bigint AS units,
                    sum(gross_minor)::bigint AS gross, sum(net_minor)::bigint AS net,
                    sum(discounts_minor)::bigint AS discounts, sum(tax_minor)::bigint AS tax,
                    sum(shipping_minor)::bigint AS shipping
             FROM order_facts
             WHERE merchant_id = $1 AND store_id = $2 AND placed_at >= $3 AND placed_at < $4
             GROUP BY currency_code
         ), paid_back AS (
             SELECT currency_code, count(*) AS refunds, sum(amount_minor)::bigint AS refunded
             FROM refund_facts
             WHERE merchant_id = $1 AND store_id = $2 AND succeeded_at >= $3 AND succeeded_at < $4
             GROUP BY currency_code
         ), of_placed AS (
             SELECT o.currency_code, count(DISTINCT o.order_id) AS refunded_orders,
                    sum(r.amount_minor)::bigint AS refunded_of_orders
             FROM order_facts o JOIN refund_facts r ON r.order_id = o.order_id AND r.succeeded_at IS NOT NULL
             WHERE o.merchant_id = $1 AND o.store_id = $2 AND o.placed_at >= $3 AND o.placed_at < $4
             GROUP BY o.currency_code
         )
         SELECT currency_code, orders, cancelled, units, gross, net, discounts, tax, shipping,
                refunds, refunded, refunded_orders, refunded_of_orders
         FROM placed FULL JOIN paid_back USING (currency_code) LEFT JOIN of_placed USING (currency_code)
         ORDER BY currency_code",
    )
    .bind(merchant.uuid())
    .bind(store.uuid())
    .bind(period.from)
    .bind(period.before)
    .fetch_all(pool)
    .await?;
    rows.iter().map(figures).collect()
}

/// The same figures day by day, days cut in the period's time zone; days without anything are left out.
pub async fn daily(
    pool: &PgPool,
    merchant: MerchantId,
    store: StoreId,
    period: &Period,
) -> Result<Vec<(NaiveDate, Figures)>, StoreError> {
    let rows = sqlx::query(
        "WITH placed AS (
             SELECT (placed_at AT TIME ZONE $5)::date AS day, currency_code, count(*) AS orders,
                    count(cancelled_at) AS cancelled, sum(units)::bigint AS units, sum(gross_minor)::bigint AS gross,
                    sum(net_minor)::bigint AS net, sum(discounts_minor)::bigint AS discounts,
                    sum(tax_minor)::bigint AS tax, sum(shipping_minor)::bigint AS shipping
             FROM order_facts
             WHERE merchant_id = $1 AND store_id = $2 AND placed_at >= $3 AND placed_at < $4
             GROUP BY 1, 2
         ), paid_back AS (
             SELECT (succeeded_at AT TIME ZONE $5)::date AS day, currency_code, count(*) AS refunds,
                    sum(amount_minor)::bigint AS refunded
             FROM refund_facts
             WHERE merchant_id = $1 AND store_id = $2 AND succeeded_at >= $3 AND succeeded_at < $4
             GROUP BY 1, 2
         ), of_placed AS (
             SELECT (o.placed_at AT TIME ZONE $5)::date AS day, o.currency_code,
                    count(DISTINCT o.order_id) AS refunded_orders, sum(r.amount_minor)::bigint AS refunded_of_orders
             FROM order_facts o JOIN refund_facts r ON r.order_id = o.order_id AND r.succeeded_at IS NOT NULL
             WHERE o.merchant_id = $1 AND o.store_id = $2 AND o.placed_at >= $3 AND o.placed_at < $4
             GROUP BY 1, 2
         )
         SELECT day, currency_code, orders, cancelled, units, gross, net, discounts, tax, shipping,
                refunds, refunded, refunded_orders, refunded_of_orders
         FROM placed FULL JOIN paid_back USING (day, currency_code) LEFT JOIN of_placed USING (day, currency_code)
         ORDER BY day, currency_code",
    )
    .bind(merchant.uuid())
    .bind(store.uuid())
    .bind(period.from)
    .bind(period.before)
    .bind(period.zone.name())
    .fetch_all(pool)
    .await?;
    rows.iter()
        .map(|row| Ok((row.try_get("day")?, figures(row)?)))
        .collect()
}

fn figures(row: &PgRow) -> Result<Figures, StoreError> {
    let number = |name: &str| row.try_get::<Option<i64>, _>(name).map(Option::unwrap_or_default);
    Ok(Figures {
        currency: row.try_get("currency_code")?,
        orders: OrderFigures {
            orders: number("orders")?,
            cancelled: number("cancelled")?,
            units: number("units")?,
            gross: number("gross")?,
            net: number("net")?,
            discounts: number("discounts")?,
            tax: number("tax")?,
            shipping: number("shipping")?,
        },
        refunds: RefundFigures {
            refunds: number("refunds")?,
            refunded: number("refunded")?,
            refunded_orders: number("refunded_orders")?,
            refunded_of_orders: number("refunded_of_orders")?,
        },
    })
}

/// Notifications sent in the period, and orders placed in it that have not ended.
pub async fn counts(
    pool: &PgPool,
    merchant: MerchantId,
    store: StoreId,
    period: &Period,
) -> Result<(i64, i64), StoreError> {
    let row = sqlx::query(
        "SELECT (SELECT count(*) FROM notification_facts
                 WHERE merchant_id = $1 AND store_id = $2 AND outcome = 'sent'
                   AND decided_at >= $3 AND decided_at < $4) AS sent,
                (SELECT count(*) FROM order_facts
                 WHERE merchant_id = $1 AND store_id = $2 AND cancelled_at IS NULL AND completed_at IS NULL
                   AND placed_at >= $3 AND placed_at < $4) AS open",
    )
    .bind(merchant.uuid())
    .bind(store.uuid())
    .bind(period.from)
    .bind(period.before)
    .fetch_one(pool)
    .await?;
    Ok((row.try_get("sent")?, row.try_get("open")?))
}

/// Refunds that succeeded in the period, by reason and currency, largest amount first.
pub async fn reasons(
    pool: &PgPool,
    merchant: MerchantId,
    store: StoreId,
    period: &Period,
) -> Result<Vec<ReasonFigures>, StoreError> {
    let rows = sqlx::query(
        "SELECT reason, currency_code, count(*) AS refunds, sum(amount_minor)::bigint AS refunded
         FROM refund_facts
         WHERE merchant_id = $1 AND store_id = $2 AND succeeded_at >= $3 AND succeeded_at < $4
         GROUP BY reason, currency_code
         ORDER BY refunded DESC, reason COLLATE \"C\", currency_code",
    )
    .bind(merchant.uuid())
    .bind(store.uuid())
    .bind(period.from)
    .bind(period.before)
    .fetch_all(pool)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(ReasonFigures {
                reason: row.try_get("reason")?,
                currency: row.try_get("currency_code")?,
                refunds: row.try_get("refunds")?,
                refunded: row.try_get("refunded")?,
            })
        })
        .collect()
}

/// How long each step took where it ended in the period: nearest-rank quantiles of whole seconds.
pub async fn cycle_times(
    pool: &PgPool,
    merchant: MerchantId,
    store: StoreId,
    period: &Period,
) -> Result<Vec<CycleTime>, StoreError> {
    let rows = sqlx::query(
        "WITH steps AS (
             SELECT 'placed_to_shipped' AS step, shipped_at - placed_at AS took FROM order_facts
             WHERE merchant_id = $1 AND store_id = $2 AND shipped_at >= $3 AND shipped_at < $4
             UNION ALL
             SELECT 'shipped_to_delivered', delivered_at - shipped_at FROM order_facts
             WHERE merchant_id = $1 AND store_id = $2 AND delivered_at >= $3 AND delivered_at < $4
             UNION ALL
             SELECT 'return_requested_to_refunded', completed_at - requested_at FROM return_facts
             WHERE merchant_id = $1 AND store_id = $2 AND completed_at >= $3 AND completed_at < $4
             UNION ALL
             SELECT 'refund_created_to_succeeded', succeeded_at - created_at FROM refund_facts
             WHERE merchant_id = $1 AND store_id = $2 AND succeeded_at >= $3 AND succeeded_at < $4
         ), seconds AS (
             SELECT step, greatest(0, floor(extract(epoch FROM took)))::bigint AS took FROM steps WHERE took IS NOT NULL
         )
         SELECT names.step, count(took) AS count,
                coalesce(percentile_disc(0.50) WITHIN GROUP (ORDER BY took), 0) AS p50,
                coalesce(percentile_disc(0.90) WITHIN GROUP (ORDER BY took), 0) AS p90,
                coalesce(percentile_disc(0.99) WITHIN GROUP (ORDER BY took), 0) AS p99
         FROM UNNEST(ARRAY['placed_to_shipped', 'shipped_to_delivered', 'return_requested_to_refunded',
                           'refund_created_to_succeeded']) WITH ORDINALITY AS names(step, place)
         LEFT JOIN seconds USING (step)
         GROUP BY names.step, names.place ORDER BY names.place",
    )
    .bind(merchant.uuid())
    .bind(store.uuid())
    .bind(period.from)
    .bind(period.before)
    .fetch_all(pool)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(CycleTime {
                step: row.try_get("step")?,
                count: row.try_get("count")?,
                p50: row.try_get("p50")?,
                p90: row.try_get("p90")?,
                p99: row.try_get("p99")?,
            })
        })
        .collect()
}
