//! What providers are asked for: attempts, and the authorisations that they are about.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use sqlx::PgConnection;
use uuid::Uuid;
use waybill_kernel::id::{OrderId, PaymentId};
use waybill_store::StoreError;

use super::stored;
use crate::domain::attempt::{Attempt, AttemptKind, AttemptState, Authorization, Cause};
use crate::domain::order::Tenant;

/// A row of `payment_attempts`, read by itself or as JSON within its order.
#[derive(Deserialize, sqlx::FromRow)]
pub(super) struct AttemptRow {
    attempt_id: Uuid,
    payment_id: Uuid,
    kind: String,
    state: String,
    cause: String,
    provider: String,
    provider_payment_id: String,
    amount_minor: i64,
    captured_before_minor: i64,
    rest_minor: i64,
    is_final: bool,
    provider_key: String,
    provider_attempt_id: Option<String>,
    reason: String,
    calls: i32,
    first_called_at: Option<DateTime<Utc>>,
    last_called_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    order_version: i64,
    settled_at: Option<DateTime<Utc>>,
}

impl TryFrom<AttemptRow> for Attempt {
    type Error = StoreError;

    fn try_from(row: AttemptRow) -> Result<Attempt, StoreError> {
        Ok(Attempt {
            id: row.attempt_id.into(),
            payment: row.payment_id.into(),
            kind: stored(AttemptKind::parse(&row.kind), "kind", &row.kind)?,
            state: stored(AttemptState::parse(&row.state), "state", &row.state)?,
            cause: stored(Cause::parse(&row.cause), "cause", &row.cause)?,
            provider: row.provider,
            provider_payment_id: row.provider_payment_id,
            amount: row.amount_minor,
            captured_before: row.captured_before_minor,
            rest: row.rest_minor,
            is_final: row.is_final,
            provider_key: row.provider_key,
            provider_attempt_id: row.provider_attempt_id,
            reason: row.reason,
            calls: row.calls,
            first_called_at: row.first_called_at,
            last_called_at: row.last_called_at,
            created_at: row.created_at,
            order_version: row.order_version,
            settled_at: row.settled_at,
        })
    }
}

/// The attempts of an order, oldest first.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn of_order(
    conn: &mut PgConnection,
    tenant: Tenant,
    order: OrderId,
) -> Result<Vec<Attempt>, StoreError> {
    let rows: Vec<AttemptRow> = sqlx::query_as(
        "SELECT attempt_id, payment_id, kind, state, cause, provider, provider_payment_id, amount_minor,
                captured_before_minor, rest_minor, is_final, provider_key, provider_attempt_id, reason, calls,
                first_called_at, last_called_at, created_at, order_version, settled_at
         FROM payment_attempts
         WHERE order_id = $1 AND merchant_id = $2 AND store_id = $3
         ORDER BY attempt_id",
    )
    .bind(order.uuid())
    .bind(tenant.merchant.uuid())
    .bind(tenant.store.uuid())
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(Attempt::try_from).collect()
}

/// The authorisations of a locked order, oldest first, each with what was captured and voided of it.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn authorizations(
    conn: &mut PgConnection,
    tenant: Tenant,
    order: OrderId,
) -> Result<Vec<Authorization>, StoreError> {
    let rows: Vec<(Uuid, String, String, i64, i64, i64)> = sqlx::query_as(
        "SELECT a.payment_id, a.provider, a.provider_payment_id, a.amount_minor,
                coalesce(sum(p.amount_minor) FILTER (WHERE p.kind = 'capture'), 0)::bigint,
                coalesce(sum(p.amount_minor) FILTER (WHERE p.kind = 'void'), 0)::bigint
         FROM order_payments a
         LEFT JOIN order_payments p
             ON (p.order_id, p.provider, p.provider_payment_id) = (a.order_id, a.provider, a.provider_payment_id)
         WHERE a.order_id = $1 AND a.merchant_id = $2 AND a.store_id = $3 AND a.kind = 'authorization'
         GROUP BY a.sequence, a.payment_id, a.provider, a.provider_payment_id, a.amount_minor
         ORDER BY a.sequence",
    )
    .bind(order.uuid())
    .bind(tenant.merchant.uuid())
    .bind(tenant.store.uuid())
    .fetch_all(conn)
    .await?;
    let authorization = |row: (Uuid, String, String, i64, i64, i64)| Authorization {
        payment: row.0.into(),
        provider: row.1,
        provider_payment_id: row.2,
        amount: row.3,
        captured: row.4,
        voided: row.5,
    };
    Ok(rows.into_iter().map(authorization).collect())
}

/// Writes attempts of a locked order, and what its captures in flight take with them: one statement. No version comes of it,
/// because nothing is told before the provider has spoken.
///
/// # Errors
///
/// [`StoreError::Unique`] of `payment_attempts_one_in_flight` when a payment has one in flight already.
pub(crate) async fn insert(
    conn: &mut PgConnection,
    tenant: Tenant,
    order: OrderId,
    attempts: &[Attempt],
) -> Result<(), StoreError> {
    if attempts.is_empty() {
        return Ok(());
    }
    let text = |of: fn(&Attempt) -> &str| attempts.iter().map(of).collect::<Vec<&str>>();
    let number = |of: fn(&Attempt) -> i64| attempts.iter().map(of).collect::<Vec<i64>>();
    let captures = attempts
        .iter()
        .filter(|attempt| attempt.kind == AttemptKind::Capture);
    let capturing: i64 = captures.map(|attempt| attempt.amount).sum();
    sqlx::query(
        "WITH attempts AS (
             INSERT INTO payment_attempts (
                 order_id, merchant_id, store_id, attempt_id, payment_id, kind, state, cause, provider,
                 provider_payment_id, amount_minor, captured_before_minor, rest_minor, is_final, provider_key, created_at,
                 order_version)
             SELECT $1, $2, $3, a.*
             FROM UNNEST($4::uuid[], $5::uuid[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::bigint[],
                         $12::bigint[], $13::bigint[], $14::boolean[], $15::text[], $16::timestamptz[], $17::bigint[]) AS a
         )
         UPDATE orders SET capturing_minor = capturing_minor + $18
         WHERE order_id = $1 AND merchant_id = $2 AND store_id = $3 AND $18 > 0",
    )
    .bind(order.uuid())
    .bind(tenant.merchant.uuid())
    .bind(tenant.store.uuid())
    .bind(attempts.iter().map(|attempt| attempt.id.uuid()).collect::<Vec<_>>())
    .bind(
        attempts
            .iter()
            .map(|attempt| attempt.payment.uuid())
            .collect::<Vec<_>>(),
    )
    .bind(text(|attempt| attempt.kind.as_str()))
    .bind(text(|attempt| attempt.state.as_str()))
    .bind(text(|attempt| attempt.cause.as_str()))
    .bind(text(|attempt| &attempt.provider))
    .bind(text(|attempt| &attempt.provider_payment_id))
    .bind(number(|attempt| attempt.amount))
    .bind(number(|attempt| attempt.captured_before))
    .bind(number(|attempt| attempt.rest))
    .bind(attempts.iter().map(|attempt| attempt.is_final).collect::<Vec<_>>())
    .bind(text(|attempt| &attempt.provider_key))
    .bind(attempts.iter().map(|attempt| attempt.created_at).collect::<Vec<_>>())
    .bind(number(|attempt| attempt.order_version))
    .bind(capturing)
    .execute(conn)
    .await?;
    Ok(())
}

/// Whose attempt it is, and of which order.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn place(
    conn: &mut PgConnection,
    attempt: PaymentId,
) -> Result<Option<(Tenant, OrderId)>, StoreError> {
    let row: Option<(Uuid, Uuid, Uuid)> =
        sqlx::query_as("SELECT merchant_id, store_id, order_id FROM payment_attempts WHERE attempt_id = $1")
            .bind(attempt.uuid())
            .fetch_optional(conn)
            .await?;
    Ok(row.map(|(merchant, store, order)| {
        let tenant = Tenant {
            merchant: merchant.into(),
            store: store.into(),
        };
        (tenant, order.into())
    }))
}

/// Saves how far an attempt of a locked order is.
///
/// # Errors
///
/// [`StoreError::Unique`] of `payment_attempts_provider_once` when another attempt has the provider's id (O-29).
pub(crate) async fn update(conn: &mut PgConnection, attempt: &Attempt) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE payment_attempts
         SET state = $2, provider_attempt_id = $3, reason = $4, calls = $5, first_called_at = $6, last_called_at = $7,
             settled_at = $8
         WHERE attempt_id = $1",
    )
    .bind(attempt.id.uuid())
    .bind(attempt.state.as_str())
    .bind(attempt.provider_attempt_id.as_deref())
    .bind(&attempt.reason)
    .bind(attempt.calls)
    .bind(attempt.first_called_at)
    .bind(attempt.last_called_at)
    .bind(attempt.settled_at)
    .execute(conn)
    .await?;
    Ok(())
}
