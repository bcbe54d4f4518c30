//! Changes that this service decides: lock an order, look at it, save it with its payment and its timeline.

use sqlx::PgConnection;
use uuid::Uuid;
use waybill_kernel::id::{OrderId, PaymentId};
use waybill_kernel::money::Currency;
use waybill_store::StoreError;

use super::read::{StateRow, currency, state_columns};
use super::rows::NewEntry;
use super::{stored, trail};
use crate::domain::fact::TimelineEntry;
use crate::domain::order::{Payment, Tenant};
use crate::domain::payment::PaymentKind;
use crate::domain::state::State;
use crate::domain::trail::{Hash, digest};

/// An order whose row is locked until the transaction ends.
pub(crate) struct Locked {
    /// What its amounts are in.
    pub currency: Currency,
    /// Where it stands.
    pub state: State,
}

/// Locks an order. `None` when the tenant has no such order.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn lock(
    conn: &mut PgConnection,
    tenant: Tenant,
    order: OrderId,
) -> Result<Option<Locked>, StoreError> {
    let row: Option<StateRow> = sqlx::query_as(concat!(
        "SELECT ",
        state_columns!(),
        " FROM orders WHERE order_id = $1 AND merchant_id = $2 AND store_id = $3 FOR NO KEY UPDATE"
    ))
    .bind(order.uuid())
    .bind(tenant.merchant.uuid())
    .bind(tenant.store.uuid())
    .fetch_optional(conn)
    .await?;
    row.map(|row| {
        Ok(Locked {
            currency: currency(&row.currency)?,
            state: row.state()?,
        })
    })
    .transpose()
}

/// Saves what was decided about a locked order, with its timeline entries and, where that was the change, its payment:
/// one statement. The guard counts the version up and refuses a transaction that is older than the order's last event. The
/// entries go on with the order's chain; where it has none, it is begun first (O-30).
///
/// # Errors
///
/// [`StoreError::Unique`] of `order_payments_once` when the provider's payment was recorded meanwhile.
pub(crate) async fn save(
    conn: &mut PgConnection,
    tenant: Tenant,
    order: OrderId,
    state: &State,
    payment: Option<&Payment>,
    entries: &[TimelineEntry],
) -> Result<(), StoreError> {
    if write(conn, tenant, order, state, payment, entries).await?
        || (trail::begin(conn, &[order.uuid()]).await?
            && write(conn, tenant, order, state, payment, entries).await?)
    {
        return Ok(());
    }
    Err(StoreError::other("an order changed although it was locked"))
}

/// Tells whether it wrote: not, when the order has no chain.
async fn write(
    conn: &mut PgConnection,
    tenant: Tenant,
    order: OrderId,
    state: &State,
    payment: Option<&Payment>,
    entries: &[TimelineEntry],
) -> Result<bool, StoreError> {
    let money = state.money;
    let digests: Vec<Hash> = (entries.iter())
        .map(|entry| digest(tenant, order, entry))
        .collect();
    let updated: Vec<Uuid> = sqlx::query_scalar(
        "WITH trail AS (
             SELECT t.count, t.hash FROM order_trails t WHERE t.order_id = $3
         ),
         links AS (
             SELECT e.*, t.count + e.place AS sequence,
                    trail_chain(t.hash, t.count + e.place, e.digest) OVER (ORDER BY e.place) AS hash
             FROM trail t,
                  UNNEST($1::new_order_entry[], $2::bytea[]) WITH ORDINALITY
                  AS e (order_id, merchant_id, store_id, event_id, service, type, summary, occurred_at, trace_id, subject_id,
                        actor, cause, learned_at, payload, digest, place)
         ),
         entries AS (
             INSERT INTO order_timeline (
                 order_id, merchant_id, store_id, event_id, service, type, summary, occurred_at, trace_id, subject_id,
                 actor, cause, learned_at, payload, sequence, hash)
             SELECT order_id, merchant_id, store_id, event_id, service, type, summary, occurred_at, trace_id, subject_id,
                    actor, cause, learned_at, payload, sequence, hash
             FROM links
         ),
         trail_end AS (
             UPDATE order_trails t SET count = l.sequence, hash = l.hash
             FROM (SELECT sequence, hash FROM links ORDER BY sequence DESC LIMIT 1) l
             WHERE t.order_id = $3
         ),
         payment AS (
             INSERT INTO order_payments (
                 order_id, sequence, payment_id, merchant_id, store_id, kind, provider, provider_payment_id, amount_minor,
                 occurred_at, reason, dispute_id, attempt_id)
             SELECT $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $28, $29, $30
             WHERE $5::uuid IS NOT NULL AND EXISTS (SELECT FROM trail)
         )
         UPDATE orders
         SET status = $13, cancel_reason = $14, authorized_minor = $15, voided_minor = $16, captured_minor = $17,
             payments = $4, payment_status = $18, updated_at = $19, open_holds = $21,
             units_cancelled = $22, cancelled_minor = $23, fulfillment_status = $24,
             capturing_minor = $25, disputed_minor = $26, dispute_lost_minor = $27
         WHERE order_id = $3 AND merchant_id = $6 AND store_id = $7 AND version = $20 - 1
           AND EXISTS (SELECT FROM trail)
         RETURNING order_id",
    )
    .bind((entries.iter()).map(|entry| NewEntry::of(tenant, order, entry)).collect::<Vec<_>>())
    .bind(digests)
    .bind(order.uuid())
    .bind(i32::try_from(state.payments).map_err(StoreError::other)?)
    .bind(payment.map(|payment| payment.id.uuid()))
    .bind(tenant.merchant.uuid())
    .bind(tenant.store.uuid())
    .bind(payment.map(|payment| payment.kind.as_str()))
    .bind(payment.map(|payment| payment.provider.as_str()))
    .bind(payment.map(|payment| payment.provider_payment_id.as_str()))
    .bind(payment.map(|payment| payment.amount))
    .bind(payment.map(|payment| payment.occurred_at))
    .bind(state.status.as_str())
    .bind(state.cancel_reason.as_str())
    .bind(money.authorized)
    .bind(money.voided)
    .bind(money.captured)
    .bind(state.payment_status().as_str())
    .bind(state.updated_at)
    .bind(state.version)
    .bind(i32::try_from(state.holds).map_err(StoreError::other)?)
    .bind(state.goods.cancelled)
    .bind(money.cancelled)
    .bind(state.fulfillment_status().as_str())
    .bind(money.capturing)
    .bind(money.disputed)
    .bind(money.dispute_lost)
    .bind(payment.map_or("", |payment| payment.reason.as_str()))
    .bind(payment.map_or("", |payment| payment.dispute_id.as_str()))
    .bind(payment.and_then(|payment| payment.attempt).map(PaymentId::uuid))
    .fetch_all(conn)
    .await?;
    Ok(!updated.is_empty())
}

/// The payment that was recorded under a provider's id, kind and dispute, from outside, or for another order than this: the
/// order it pays, its id and amount.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn find_payment(
    conn: &mut PgConnection,
    tenant: Tenant,
    order: OrderId,
    kind: PaymentKind,
    (provider, provider_payment_id): (&str, &str),
    dispute_id: &str,
) -> Result<Option<(OrderId, PaymentId, i64)>, StoreError> {
    let row: Option<(Uuid, Uuid, i64)> = sqlx::query_as(
        "SELECT order_id, payment_id, amount_minor
         FROM order_payments
         WHERE merchant_id = $1 AND store_id = $2 AND provider = $3 AND provider_payment_id = $4 AND kind = $5
           AND dispute_id = $6 AND (attempt_id IS NULL OR order_id <> $7)
         ORDER BY order_id = $7 DESC LIMIT 1",
    )
    .bind(tenant.merchant.uuid())
    .bind(tenant.store.uuid())
    .bind(provider)
    .bind(provider_payment_id)
    .bind(kind.as_str())
    .bind(dispute_id)
    .bind(order.uuid())
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|(order, payment, amount)| (order.into(), payment.into(), amount)))
}

/// The order that a payment of a provider was recorded for.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn order_of_payment(
    conn: &mut PgConnection,
    tenant: Tenant,
    provider: &str,
    provider_payment_id: &str,
) -> Result<Option<OrderId>, StoreError> {
    let order: Option<Uuid> = sqlx::query_scalar(
        "SELECT order_id FROM order_payments
         WHERE merchant_id = $1 AND store_id = $2 AND provider = $3 AND provider_payment_id = $4
         LIMIT 1",
    )
    .bind(tenant.merchant.uuid())
    .bind(tenant.store.uuid())
    .bind(provider)
    .bind(provider_payment_id)
    .fetch_optional(conn)
    .await?;
    Ok(order.map(OrderId::from))
}

/// What a locked order was told of a dispute: kinds and amounts.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn dispute(
    conn: &mut PgConnection,
    tenant: Tenant,
    order: OrderId,
    (provider, provider_payment_id): (&str, &str),
    dispute_id: &str,
) -> Result<Vec<(PaymentKind, i64)>, StoreError> {
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "SELECT kind, amount_minor FROM order_payments
         WHERE merchant_id = $1 AND store_id = $2 AND provider = $3 AND provider_payment_id = $4
           AND kind IN ('dispute', 'dispute_won', 'dispute_lost') AND dispute_id = $5 AND order_id = $6",
    )
    .bind(tenant.merchant.uuid())
    .bind(tenant.store.uuid())
    .bind(provider)
    .bind(provider_payment_id)
    .bind(dispute_id)
    .bind(order.uuid())
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|(kind, amount)| Ok((stored(PaymentKind::parse(&kind), "kind", &kind)?, amount)))
        .collect()
}
