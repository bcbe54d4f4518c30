//! All SQL of the service.
//!
//! Writing is set-based: one statement a kind of fact and batch, whatever the batch holds. Reading is one statement a
//! question. The definition of each figure stands beside the query that computes it.

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgPool, Row};
use uuid::Uuid;
use waybill_kernel::id::{MerchantId, StoreId};
use waybill_store::StoreError;

use crate::domain::figures::{CycleTime, Figures, OrderFigures, ReasonFigures, RefundFigures};
use crate::domain::period::Period;

/// What placing an order tells.
#[derive(Debug, Clone)]
pub struct PlacedFact {
    /// The order.
    pub order: Uuid,
    /// Its merchant.
    pub merchant: Uuid,
    /// Its store.
    pub store: Uuid,
    /// ISO 4217 code.
    pub currency: String,
    /// When it was placed.
    pub placed_at: DateTime<Utc>,
    /// Units ordered.
    pub units: i64,
    /// What the customer pays.
    pub gross: i64,
    /// Goods without tax after discounts.
    pub net: i64,
    /// Discounts given.
    pub discounts: i64,
    /// Tax.
    pub tax: i64,
    /// Shipping before discounts.
    pub shipping: i64,
    /// Where it came from.
    pub source: String,
    /// Where it goes.
    pub country: String,
}

/// Something that happened to an order later.
#[derive(Debug, Clone, Default)]
pub struct Milestone {
    /// The order.
    pub order: Uuid,
    /// It was cancelled.
    pub cancelled_at: Option<DateTime<Utc>>,
    /// It was completed.
    pub completed_at: Option<DateTime<Utc>>,
    /// A shipment left.
    pub shipped_at: Option<DateTime<Utc>>,
    /// The last shipment arrived.
    pub delivered_at: Option<DateTime<Utc>>,
}

/// A refund as its events leave it.
#[derive(Debug, Clone)]
pub struct RefundFact {
    /// The refund.
    pub refund: Uuid,
    /// Its merchant.
    pub merchant: Uuid,
    /// Its store.
    pub store: Uuid,
    /// Its order.
    pub order: Uuid,
    /// ISO 4217 code.
    pub currency: String,
    /// How much.
    pub amount: i64,
    /// Why.
    pub reason: String,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
}

/// The outcome of a refund: when it succeeded, or that it stands no longer.
#[derive(Debug, Clone)]
pub struct RefundOutcome {
    /// The refund.
    pub refund: Uuid,
    /// When it succeeded; none when the bank took it back.
    pub succeeded_at: Option<DateTime<Utc>>,
}

/// A return as its events leave it.
#[derive(Debug, Clone)]
pub struct ReturnFact {
    /// The return.
    pub id: Uuid,
    /// Its merchant.
    pub merchant: Uuid,
    /// Its store.
    pub store: Uuid,
    /// Its order.
    pub order: Uuid,
    /// When it was requested.
    pub requested_at: DateTime<Utc>,
}

/// What became of a notification.
#[derive(Debug, Clone)]
pub struct NotificationFact {
    /// The notification.
    pub id: Uuid,
    /// Its merchant.
    pub merchant: Uuid,
    /// Its store.
    pub store: Uuid,
    /// Its order.
    pub order: Uuid,
    /// What was told.
    pub stage: String,
    /// "sent", "suppressed" or "failed".
    pub outcome: &'static str,
    /// When.
    pub at: DateTime<Utc>,
}

/// Takes one field of every row, for a statement that reads arrays.
fn column<T, V>(rows: &[T], of: impl FnMut(&T) -> V) -> Vec<V> {
    rows.iter().map(of).collect()
}

/// Which of these orders are known.
pub async fn known_orders(conn: &mut PgConnection, orders: &[Uuid]) -> Result<Vec<Uuid>, StoreError> {
    Ok(
        sqlx::query_scalar("SELECT order_id FROM order_facts WHERE order_id = ANY($1)")
            .bind(orders)
            .fetch_all(conn)
            .await?,
    )
}

/// Writes orders that were placed.
pub async fn place(conn: &mut PgConnection, facts: &[PlacedFact]) -> Result<(), StoreError> {
    if facts.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO order_facts (order_id, merchant_id, store_id, currency_code, placed_at, units, gross_minor,
                                  net_minor, discounts_minor, tax_minor, shipping_minor, source_system, ship_country)
         SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::timestamptz[], $6::bigint[],
                              $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::text[],
                              $13::text[])",
    )
    .bind(column(facts, |fact| fact.order))
    .bind(column(facts, |fact| fact.merchant))
    .bind(column(facts, |fact| fact.store))
    .bind(column(facts, |fact| fact.currency.clone()))
    .bind(column(facts, |fact| fact.placed_at))
    .bind(column(facts, |fact| fact.units))
    .bind(column(facts, |fact| fact.gross))
    .bind(column(facts, |fact| fact.net))
    .bind(column(facts, |fact| fact.discounts))
    .bind(column(facts, |fact| fact.tax))
    .bind(column(facts, |fact| fact.shipping))
    .bind(column(facts, |fact| fact.source.clone()))
    .bind(column(facts, |fact| fact.country.clone()))
    .execute(conn)
    .await?;
    Ok(())
}

/// Writes what happened to orders; several milestones of one order may stand in one batch.
pub async fn advance(conn: &mut PgConnection, milestones: &[Milestone]) -> Result<(), StoreError> {
    if milestones.is_empty() {
        return Ok(());
    }
    // An UPDATE takes one row of several that match: they are merged first. The first shipment and the last arrival
    // count; a cancellation and a completion happen once.
    sqlx::query(
        "UPDATE order_facts o
         SET cancelled_at = coalesce(o.cancelled_at, m.cancelled_at),
             completed_at = coalesce(o.completed_at, m.completed_at),
             shipped_at   = least(o.shipped_at, m.shipped_at),
             delivered_at = greatest(o.delivered_at, m.delivered_at)
         FROM (SELECT order_id, min(cancelled_at) AS cancelled_at, min(completed_at) AS completed_at,
                      min(shipped_at) AS shipped_at, max(delivered_at) AS delivered_at
               FROM UNNEST($1::uuid[], $2::timestamptz[], $3::timestamptz[], $4::timestamptz[], $5::timestamptz[])
                    AS t(order_id, cancelled_at, completed_at, shipped_at, delivered_at)
               GROUP BY order_id) m
         WHERE o.order_id = m.order_id",
    )
    .bind(column(milestones, |milestone| milestone.order))
    .bind(column(milestones, |milestone| milestone.cancelled_at))
    .bind(column(milestones, |milestone| milestone.completed_at))
    .bind(column(milestones, |milestone| milestone.shipped_at))
    .bind(column(milestones, |milestone| milestone.delivered_at))
    .execute(conn)
    .await?;
    Ok(())
}

/// Writes refunds that were asked for.
pub async fn create_refunds(conn: &mut PgConnection, facts: &[RefundFact]) -> Result<(), StoreError> {
    if facts.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO refund_facts (refund_id, merchant_id, store_id, order_id, currency_code, amount_minor, reason,
                                   created_at)
         SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::bigint[], $7::text[],
                              $8::timestamptz[])",
    )
    .bind(column(facts, |fact| fact.refund))
    .bind(column(facts, |fact| fact.merchant))
    .bind(column(facts, |fact| fact.store))
    .bind(column(facts, |fact| fact.order))
    .bind(column(facts, |fact| fact.currency.clone()))
    .bind(column(facts, |fact| fact.amount))
    .bind(column(facts, |fact| fact.reason.clone()))
    .bind(column(facts, |fact| fact.created_at))
    .execute(conn)
    .await?;
    Ok(())
}

/// Writes outcomes of refunds; at most one for each refund.
pub async fn settle_refunds(conn: &mut PgConnection, outcomes: &[RefundOutcome]) -> Result<(), StoreError> {
    if outcomes.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "UPDATE refund_facts r SET succeeded_at = t.succeeded_at
         FROM UNNEST($1::uuid[], $2::timestamptz[]) AS t(refund_id, succeeded_at)
         WHERE r.refund_id = t.refund_id",
    )
    .bind(column(outcomes, |outcome| outcome.refund))
    .bind(column(outcomes, |outcome| outcome.succeeded_at))
    .execute(conn)
    .await?;
    Ok(())
}

/// Writes returns that were requested.
pub async fn request_returns(conn: &mut PgConnection, facts: &[ReturnFact]) -> Result<(), StoreError> {
    if facts.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO return_facts (return_id, merchant_id, store_id, order_id, requested_at)
         SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::timestamptz[])",
    )
    .bind(column(facts, |fact| fact.id))
    .bind(column(facts, |fact| fact.merchant))
    .bind(column(facts, |fact| fact.store))
    .bind(column(facts, |fact| fact.order))
    .bind(column(facts, |fact| fact.requested_at))
    .execute(conn)
    .await?;
    Ok(())
}

/// Writes returns that ended.
pub async fn complete_returns(
    conn: &mut PgConnection,
    completed: &[(Uuid, DateTime<Utc>)],
) -> Result<(), StoreError> {
    if completed.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "UPDATE return_facts r SET completed_at = t.completed_at
         FROM UNNEST($1::uuid[], $2::timestamptz[]) AS t(return_id, completed_at)
         WHERE r.return_id = t.return_id",
    )
    .bind(column(completed, |(id, _)| *id))
    .bind(column(completed, |(_, at)| *at))
    .execute(conn)
    .await?;
    Ok(())
}

/// Writes what became of notifications. A notification that failed may be sent later: the last word counts.
pub async fn decide_notifications(
    conn: &mut PgConnection,
    facts: &[NotificationFact],
) -> Result<(), StoreError> {
    if facts.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO notification_facts (notification_id, merchant_id, store_id, order_id, stage, outcome, decided_at)
         SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::text[],
                              $7::timestamptz[])
         ON CONFLICT (notification_id) DO UPDATE
         SET outcome = excluded.outcome, decided_at = excluded.decided_at",
    )
    .bind(column(facts, |fact| fact.id))
    .bind(column(facts, |fact| fact.merchant))
    .bind(column(facts, |fact| fact.store))
    .bind(column(facts, |fact| fact.order))
    .bind(column(facts, |fact| fact.stage.clone()))
    .bind(column(facts, |fact| fact.outcome))
    .bind(column(facts, |fact| fact.at))
    .execute(conn)
    .await?;
    Ok(())
}

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
         ORDER BY refunded DESC, reason, currency_code",
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
