//! Writing: set-based, one statement a kind of fact and batch, whatever the batch holds.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;
use waybill_store::StoreError;

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

/// What an order has more, or less where it is negative, since it was edited.
#[derive(Debug, Clone)]
pub struct ChangeFact {
    /// The order.
    pub order: Uuid,
    /// Units.
    pub units: i64,
    /// What the customer pays.
    pub gross: i64,
    /// Goods without tax after discounts.
    pub net: i64,
    /// Discounts given.
    pub discounts: i64,
    /// Tax.
    pub tax: i64,
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

/// Writes what edits changed; several of one order may stand in one batch.
pub async fn change(conn: &mut PgConnection, changes: &[ChangeFact]) -> Result<(), StoreError> {
    if changes.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "UPDATE order_facts o
         SET units = o.units + c.units, gross_minor = o.gross_minor + c.gross, net_minor = o.net_minor + c.net,
             discounts_minor = o.discounts_minor + c.discounts, tax_minor = o.tax_minor + c.tax
         FROM (SELECT order_id, sum(units)::bigint AS units, sum(gross)::bigint AS gross, sum(net)::bigint AS net,
                      sum(discounts)::bigint AS discounts, sum(tax)::bigint AS tax
               FROM UNNEST($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
                    AS t(order_id, units, gross, net, discounts, tax)
               GROUP BY order_id) c
         WHERE o.order_id = c.order_id",
    )
    .bind(column(changes, |change| change.order))
    .bind(column(changes, |change| change.units))
    .bind(column(changes, |change| change.gross))
    .bind(column(changes, |change| change.net))
    .bind(column(changes, |change| change.discounts))
    .bind(column(changes, |change| change.tax))
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
