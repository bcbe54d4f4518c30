//! Refunds that a provider has, against what this schema knows of them.

use std::collections::HashMap;

use sqlx::{PgExecutor, PgPool};
use uuid::Uuid;
use waybill_kernel::id::{LegId, OrderId};
use waybill_store::StoreError;

use crate::domain::book::Tenant;

/// Which of these refunds of a provider are known: an attempt made them, they were listed as money that moved against what
/// we hold, or a person wrote them off.
pub async fn known(pool: &PgPool, provider: &str, refunds: &[String]) -> Result<Vec<String>, StoreError> {
    Ok(sqlx::query_scalar(
        "SELECT r.id FROM UNNEST($2::text[]) AS r (id)
         WHERE EXISTS (SELECT FROM leg_attempts a WHERE a.provider = $1 AND a.provider_refund_id = r.id)
            OR EXISTS (SELECT FROM breaches b JOIN leg_attempts a USING (leg_id, attempt)
                       WHERE a.provider = $1 AND b.provider_refund_id = r.id)
            OR EXISTS (SELECT FROM written_off_payouts w WHERE w.provider = $1 AND w.provider_refund_id = r.id)",
    )
    .bind(provider)
    .bind(refunds)
    .fetch_all(pool)
    .await?)
}

/// Where a payment belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    /// Its tenant.
    pub tenant: Tenant,
    /// Its order.
    pub order_id: OrderId,
}

/// The orders of payments, by the provider's ids of them.
pub async fn homes(
    executor: impl PgExecutor<'_>,
    provider: &str,
    payments: &[String],
) -> Result<HashMap<String, Home>, StoreError> {
    let rows: Vec<(String, Uuid, Uuid, Uuid)> = sqlx::query_as(
        "SELECT DISTINCT ON (p.provider_payment_id) p.provider_payment_id, o.merchant_id, o.store_id, o.order_id
         FROM payments p JOIN orders o USING (order_id)
         WHERE p.provider = $1 AND p.provider_payment_id = ANY ($2)
         ORDER BY p.provider_payment_id, p.captured_at",
    )
    .bind(provider)
    .bind(payments)
    .fetch_all(executor)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(payment, merchant, store, order)| {
            let home = Home {
                tenant: Tenant {
                    merchant: merchant.into(),
                    store: store.into(),
                },
                order_id: order.into(),
            };
            (payment, home)
        })
        .collect())
}

/// A refund of a provider that looks for its leg.
#[derive(Debug, Clone, Copy)]
pub struct Match<'a> {
    /// The provider.
    pub provider: &'a str,
    /// The provider's id of the payment.
    pub provider_payment_id: &'a str,
    /// What it paid, in minor units.
    pub amount: i64,
    /// The leg that it carries as its marker.
    pub leg_id: Option<LegId>,
}

/// The leg that a refund belongs to, and its attempt: the one that it names, else the oldest one of the same amount over the
/// same payment that no provider was asked about yet.
pub async fn leg_for(
    executor: impl PgExecutor<'_>,
    wanted: &Match<'_>,
) -> Result<Option<(LegId, i32)>, StoreError> {
    let found: Option<(Uuid, i32)> = sqlx::query_as(
        "SELECT l.leg_id, l.attempt
         FROM payments p
         JOIN refunds r ON r.order_id = p.order_id
         JOIN refund_legs l ON l.refund_id = r.refund_id AND l.payment_id = p.payment_id
         JOIN leg_attempts a ON a.leg_id = l.leg_id AND a.attempt = l.attempt
         WHERE l.provider = $1 AND p.provider_payment_id = $2 AND l.amount = $3 AND a.provider_refund_id IS NULL
           AND (l.leg_id = $4 OR (l.state = 'PENDING' AND a.calls = 0))
         ORDER BY (l.leg_id = $4) IS TRUE DESC, l.leg_id
         LIMIT 1",
    )
    .bind(wanted.provider)
    .bind(wanted.provider_payment_id)
    .bind(wanted.amount)
    .bind(wanted.leg_id.map(LegId::uuid))
    .fetch_optional(executor)
    .await?;
    Ok(found.map(|(leg, attempt)| (leg.into(), attempt)))
}

/// Notes that refunds are settled elsewhere. Returns how many were not noted before.
pub async fn write_off(
    pool: &PgPool,
    payouts: &[(String, String)],
    reason: &str,
    by: &str,
) -> Result<usize, StoreError> {
    let written = sqlx::query(
        "INSERT INTO written_off_payouts (provider, provider_refund_id, reason, written_off_by)
         SELECT t.provider, t.id, $3, $4 FROM UNNEST($1::text[], $2::text[]) AS t (provider, id)
         ON CONFLICT DO NOTHING",
    )
    .bind(
        payouts
            .iter()
            .map(|(provider, _)| provider.as_str())
            .collect::<Vec<_>>(),
    )
    .bind(payouts.iter().map(|(_, id)| id.as_str()).collect::<Vec<_>>())
    .bind(reason)
    .bind(by)
    .execute(pool)
    .await?;
    Ok(usize::try_from(written.rows_affected()).unwrap_or(usize::MAX))
}
