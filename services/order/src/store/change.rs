//! Changes that this service decides: lock an order, look at it, save it with its payment and its timeline.

use sqlx::PgConnection;
use uuid::Uuid;
use waybill_kernel::id::{OrderId, PaymentId};
use waybill_kernel::money::Currency;
use waybill_store::StoreError;

use super::columns::{Entries, Origins};
use super::read::{StateRow, currency, state_columns};
use super::{stored, trail};
use crate::domain::fact::TimelineEntry;
use crate::domain::order::{Payment, Tenant};
use crate::domain::payment::PaymentKind;
use crate::domain::state::State;
use crate::domain::trail::digest;

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
    let query = sqlx::query_scalar(
        "WITH trail AS (
             SELECT t.count, t.hash FROM order_trails t WHERE t.order_id = $11
         ),
         links AS (
             SELECT e.*, t.count + e.place AS sequence,
                    trail_chain(t.hash, t.count + e.place, e.digest) OVER (ORDER BY e.place) AS hash
             FROM trail t,
                  UNNEST($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::text[], $7::text[],
                         $8::timestamptz[], $9::text[], $10::uuid[], $39::text[], $40::text[], $41::timestamptz[],
                         $42::bytea[], $43::bytea[]) WITH ORDINALITY
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
             WHERE t.order_id = $11
         ),
         payment AS (
             INSERT INTO order_payments (
                 order_id, sequence, payment_id, merchant_id, store_id, kind, provider, provider_payment_id, amount_minor,
                 occurred_at, reason, dispute_id, attempt_id)
             SELECT $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $36, $37, $38
             WHERE $13::uuid IS NOT NULL AND EXISTS (SELECT FROM trail)
         )
         UPDATE orders
         SET status = $21, cancel_reason = $22, authorized_minor = $23, voided_minor = $24, captured_minor = $25,
             payments = $12, payment_status = $26, updated_at = $27, open_holds = $29,
             units_cancelled = $30, cancelled_minor = $31, fulfillment_status = $32,
             capturing_minor = $33, disputed_minor = $34, dispute_lost_minor = $35
         WHERE order_id = $11 AND merchant_id = $14 AND store_id = $15 AND version = $28 - 1
           AND EXISTS (SELECT FROM trail)
         RETURNING order_id",
    );
    let money = state.money;
    let query = Entries::of(entries.iter().map(|entry| (order, tenant, entry)))
        .bind(query)
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
        .bind(payment.and_then(|payment| payment.attempt).map(PaymentId::uuid));
    let digests: Vec<Vec<u8>> = (entries.iter())
        .map(|entry| digest(tenant, order, entry).to_vec())
        .collect();
    let updated: Vec<Uuid> = Origins::of(entries)
        .bind(query)
        .bind(digests)
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
