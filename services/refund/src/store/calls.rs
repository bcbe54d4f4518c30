//! What was asked of providers: attempts of legs, and money that moved against what we hold.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;
use waybill_kernel::id::{LegId, OrderId, RefundId};
use waybill_store::StoreError;

use crate::domain::book::Tenant;
use crate::domain::refund::Leg;
use crate::domain::settle::Breach;

/// Where a leg is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its tenant.
    pub tenant: Tenant,
    /// Its order.
    pub order_id: OrderId,
    /// Its refund.
    pub refund_id: RefundId,
    /// The leg.
    pub leg_id: LegId,
    /// Who carries it out.
    pub provider: String,
    /// The attempt that was looked for.
    pub attempt: i32,
    /// The attempt the leg is at.
    pub present_attempt: i32,
}

type PlaceRow = (Uuid, Uuid, Uuid, Uuid, Uuid, String, i32, i32);

fn place((merchant, store, order, refund, leg, provider, attempt, present_attempt): PlaceRow) -> Place {
    Place {
        tenant: Tenant {
            merchant: merchant.into(),
            store: store.into(),
        },
        order_id: order.into(),
        refund_id: refund.into(),
        leg_id: leg.into(),
        provider,
        attempt,
        present_attempt,
    }
}

/// The leg with this id.
pub async fn find_leg(conn: &mut PgConnection, leg_id: LegId) -> Result<Option<Place>, StoreError> {
    let row = sqlx::query_as::<_, PlaceRow>(
        "SELECT r.merchant_id, r.store_id, r.order_id, r.refund_id, l.leg_id, l.provider, l.attempt, l.attempt
         FROM refund_legs l JOIN refunds r USING (refund_id) WHERE l.leg_id = $1",
    )
    .bind(leg_id.uuid())
    .fetch_optional(conn)
    .await?;
    Ok(row.map(place))
}

/// The attempt that a provider's refund belongs to: by the provider's id if we know it, else by the leg that the provider
/// carried for us.
pub async fn find_told(
    conn: &mut PgConnection,
    tenant: Tenant,
    provider: &str,
    provider_refund_id: &str,
    leg_id: Option<LegId>,
) -> Result<Option<Place>, StoreError> {
    let row = sqlx::query_as::<_, PlaceRow>(
        "SELECT merchant_id, store_id, order_id, refund_id, leg_id, provider, attempt, present_attempt FROM (
             SELECT 1 AS rank, r.merchant_id, r.store_id, r.order_id, r.refund_id, l.leg_id, l.provider, a.attempt,
                    l.attempt AS present_attempt
             FROM leg_attempts a JOIN refund_legs l USING (leg_id) JOIN refunds r USING (refund_id)
             WHERE a.merchant_id = $1 AND a.store_id = $2 AND a.provider = $3 AND a.provider_refund_id = $4
             UNION ALL
             SELECT 2, r.merchant_id, r.store_id, r.order_id, r.refund_id, l.leg_id, l.provider, l.attempt, l.attempt
             FROM refund_legs l JOIN refunds r USING (refund_id)
             WHERE l.leg_id = $5 AND r.merchant_id = $1 AND r.store_id = $2 AND l.provider = $3
         ) found ORDER BY rank LIMIT 1",
    )
    .bind(tenant.merchant.uuid())
    .bind(tenant.store.uuid())
    .bind(provider)
    .bind(provider_refund_id)
    .bind(leg_id.map(LegId::uuid))
    .fetch_optional(conn)
    .await?;
    Ok(row.map(place))
}

/// What is known of the calls of one attempt.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Calls {
    /// The provider's idempotency key.
    pub provider_key: String,
    /// The provider's id of the payment that the money came from.
    pub provider_payment_id: String,
    /// Calls of this attempt.
    pub calls: i32,
    /// When the first was about to be made.
    pub first_called_at: Option<DateTime<Utc>>,
    /// When the last was about to be made.
    pub last_called_at: Option<DateTime<Utc>>,
}

/// The calls of one attempt.
pub async fn calls_of(conn: &mut PgConnection, leg_id: LegId, attempt: i32) -> Result<Calls, StoreError> {
    let calls = sqlx::query_as::<_, Calls>(
        "SELECT a.provider_key, p.provider_payment_id, a.calls, a.first_called_at, a.last_called_at
         FROM leg_attempts a JOIN refund_legs l USING (leg_id) JOIN payments p USING (payment_id)
         WHERE a.leg_id = $1 AND a.attempt = $2",
    )
    .bind(leg_id.uuid())
    .bind(attempt)
    .fetch_one(conn)
    .await?;
    Ok(calls)
}

/// Notes that a call is about to be made: committed before it is.
pub async fn note_call(
    conn: &mut PgConnection,
    leg_id: LegId,
    attempt: i32,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE leg_attempts SET calls = calls + 1, first_called_at = coalesce(first_called_at, $3), last_called_at = $3
         WHERE leg_id = $1 AND attempt = $2",
    )
    .bind(leg_id.uuid())
    .bind(attempt)
    .bind(now)
    .execute(conn)
    .await?;
    Ok(())
}

/// Begins a new attempt of a leg, under a new key.
pub async fn begin_attempt(conn: &mut PgConnection, tenant: Tenant, leg: &Leg) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO leg_attempts (leg_id, attempt, merchant_id, store_id, provider, provider_key, calls)
         VALUES ($1, $2, $3, $4, $5, $6, 0)",
    )
    .bind(leg.leg_id.uuid())
    .bind(leg.attempt)
    .bind(tenant.merchant.uuid())
    .bind(tenant.store.uuid())
    .bind(&leg.provider)
    .bind(Leg::provider_key(leg.leg_id, leg.attempt))
    .execute(conn)
    .await?;
    Ok(())
}

/// The provider's id of the refund that an attempt made.
pub async fn provider_id_of(
    conn: &mut PgConnection,
    leg_id: LegId,
    attempt: i32,
) -> Result<Option<String>, StoreError> {
    let found: Option<Option<String>> =
        sqlx::query_scalar("SELECT provider_refund_id FROM leg_attempts WHERE leg_id = $1 AND attempt = $2")
            .bind(leg_id.uuid())
            .bind(attempt)
            .fetch_optional(conn)
            .await?;
    Ok(found.flatten())
}

/// Keeps the provider's id of the refund with the attempt that made it. The table refuses an id that another attempt of
/// the store has.
pub async fn note_provider_id(
    conn: &mut PgConnection,
    leg_id: LegId,
    attempt: i32,
    provider_refund_id: &str,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE leg_attempts SET provider_refund_id = $3 WHERE leg_id = $1 AND attempt = $2 AND provider_refund_id IS NULL",
    )
    .bind(leg_id.uuid())
    .bind(attempt)
    .bind(provider_refund_id)
    .execute(conn)
    .await?;
    Ok(())
}

/// Lists money that moved against what we hold.
pub async fn list_breach(
    conn: &mut PgConnection,
    order_id: OrderId,
    attempt: i32,
    breach: &Breach,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO breaches (leg_id, attempt, provider_refund_id, order_id, amount, detail, found_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(breach.leg_id.uuid())
    .bind(attempt)
    .bind(&breach.provider_refund_id)
    .bind(order_id.uuid())
    .bind(breach.amount)
    .bind(&breach.detail)
    .bind(now)
    .execute(conn)
    .await?;
    Ok(())
}

/// Whether a leg's money is known to have moved against what we hold: with this very payment, or with any if none is
/// named.
pub async fn is_breached(
    conn: &mut PgConnection,
    leg_id: LegId,
    payment: Option<(i32, &str)>,
) -> Result<bool, StoreError> {
    let found: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM breaches
                        WHERE leg_id = $1 AND ($2::integer IS NULL OR (attempt = $2 AND provider_refund_id = $3)))",
    )
    .bind(leg_id.uuid())
    .bind(payment.map(|(attempt, _)| attempt))
    .bind(payment.map(|(_, id)| id))
    .fetch_one(conn)
    .await?;
    Ok(found)
}
