//! Refunds with their components and legs.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;
use waybill_kernel::id::{EntryId, LineId, OrderId, RefundId, ReturnId};
use waybill_store::StoreError;

use super::unreadable;
use crate::domain::book::Tenant;
use crate::domain::refund::{Component, ComponentKind, Leg, Refund, RefundState};
use crate::domain::units::{Run, UnitSet};

/// Writes a new refund with its components, legs and their first attempts. Its units are claimed apart.
pub async fn insert(conn: &mut PgConnection, tenant: Tenant, new: &Refund) -> Result<(), StoreError> {
    insert_head(&mut *conn, tenant, new).await?;
    insert_parts(conn, tenant, new).await
}

async fn insert_head(conn: &mut PgConnection, tenant: Tenant, new: &Refund) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO refunds (refund_id, merchant_id, store_id, order_id, return_id, state, currency, amount, tax,
                              reason_key, reason, requested_by, arrival_days, created_at, holds, accrual_entry, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $14)",
    )
    .bind(new.refund_id.uuid())
    .bind(tenant.merchant.uuid())
    .bind(tenant.store.uuid())
    .bind(new.order_id.uuid())
    .bind(new.return_id.map(ReturnId::uuid))
    .bind(new.state.as_str())
    .bind(&new.currency)
    .bind(new.amount)
    .bind(new.tax)
    .bind(&new.reason_key)
    .bind(&new.reason)
    .bind(&new.requested_by)
    .bind(i32::try_from(new.arrival_days).unwrap_or(i32::MAX))
    .bind(new.created_at)
    .bind(new.holds)
    .bind(new.accrual_entry.map(EntryId::uuid))
    .execute(conn)
    .await?;
    Ok(())
}

async fn insert_parts(conn: &mut PgConnection, tenant: Tenant, new: &Refund) -> Result<(), StoreError> {
    let (parts, legs) = (&new.components, &new.legs);
    sqlx::query(
        "WITH component AS (
             INSERT INTO refund_components (refund_id, position, kind, line_id, net, tax)
             SELECT $1, c.* FROM UNNEST($2::integer[], $3::text[], $4::uuid[], $5::bigint[], $6::bigint[]) AS c
         ), leg AS (
             INSERT INTO refund_legs (leg_id, refund_id, position, payment_id, provider, amount, state, attempt)
             SELECT l.leg_id, $1, l.position, l.payment_id, l.provider, l.amount, l.state, l.attempt
             FROM UNNEST($7::uuid[], $8::integer[], $9::uuid[], $10::text[], $11::bigint[], $12::text[], $13::integer[])
                  AS l (leg_id, position, payment_id, provider, amount, state, attempt)
         )
         INSERT INTO leg_attempts (leg_id, attempt, merchant_id, store_id, provider, provider_key, calls)
         SELECT a.leg_id, a.attempt, $14, $15, a.provider, a.provider_key, 0
         FROM UNNEST($7::uuid[], $13::integer[], $10::text[], $16::text[]) AS a (leg_id, attempt, provider, provider_key)",
    )
    .bind(new.refund_id.uuid())
    .bind((0..).take(parts.len()).collect::<Vec<i32>>())
    .bind(parts.iter().map(|part| part.kind.key()).collect::<Vec<_>>())
    .bind(parts.iter().map(|part| part.line_id.map(LineId::uuid)).collect::<Vec<_>>())
    .bind(parts.iter().map(|part| part.net).collect::<Vec<_>>())
    .bind(parts.iter().map(|part| part.tax).collect::<Vec<_>>())
    .bind(legs.iter().map(|leg| leg.leg_id.uuid()).collect::<Vec<_>>())
    .bind((0..).take(legs.len()).collect::<Vec<i32>>())
    .bind(legs.iter().map(|leg| leg.payment_id.uuid()).collect::<Vec<_>>())
    .bind(legs.iter().map(|leg| leg.provider.as_str()).collect::<Vec<_>>())
    .bind(legs.iter().map(|leg| leg.amount).collect::<Vec<_>>())
    .bind(legs.iter().map(|leg| leg.state.as_str()).collect::<Vec<_>>())
    .bind(legs.iter().map(|leg| leg.attempt).collect::<Vec<_>>())
    .bind(tenant.merchant.uuid())
    .bind(tenant.store.uuid())
    .bind(legs.iter().map(|leg| Leg::provider_key(leg.leg_id, leg.attempt)).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

/// Writes what changed of a refund and its legs, and answers with the version it has now. Attempts are written apart.
pub async fn update(
    conn: &mut PgConnection,
    changed: &Refund,
    now: DateTime<Utc>,
) -> Result<i64, StoreError> {
    let legs = &changed.legs;
    let version: i64 = sqlx::query_scalar(
        "WITH legs AS (
             UPDATE refund_legs l
             SET state = c.state, attempt = c.attempt, calls = c.calls, failure_reason = c.failure_reason,
                 paid_entry = c.paid_entry, told = c.told
             FROM UNNEST($9::uuid[], $10::text[], $11::integer[], $12::integer[], $13::text[], $14::uuid[], $15::boolean[])
                  AS c (leg_id, state, attempt, calls, failure_reason, paid_entry, told)
             WHERE l.leg_id = c.leg_id AND l.refund_id = $1
         )
         UPDATE refunds
         SET state = $2, started_at = $3, expected_at = $4, succeeded_at = $5, tax_told = $6, holds = $7,
             accrual_entry = $8, updated_at = $16, approved_by = $17
         WHERE refund_id = $1 RETURNING version",
    )
    .bind(changed.refund_id.uuid())
    .bind(changed.state.as_str())
    .bind(changed.started_at)
    .bind(changed.expected_at)
    .bind(changed.succeeded_at)
    .bind(changed.tax_told)
    .bind(changed.holds)
    .bind(changed.accrual_entry.map(EntryId::uuid))
    .bind(legs.iter().map(|leg| leg.leg_id.uuid()).collect::<Vec<_>>())
    .bind(legs.iter().map(|leg| leg.state.as_str()).collect::<Vec<_>>())
    .bind(legs.iter().map(|leg| leg.attempt).collect::<Vec<_>>())
    .bind(legs.iter().map(|leg| leg.calls).collect::<Vec<_>>())
    .bind(legs.iter().map(|leg| leg.failure_reason.as_str()).collect::<Vec<_>>())
    .bind(legs.iter().map(|leg| leg.paid_entry.map(EntryId::uuid)).collect::<Vec<_>>())
    .bind(legs.iter().map(|leg| leg.told).collect::<Vec<_>>())
    .bind(now)
    .bind(&changed.approved_by)
    .fetch_one(conn)
    .await?;
    Ok(version)
}

#[derive(sqlx::FromRow)]
struct RefundRow {
    refund_id: Uuid,
    order_id: Uuid,
    return_id: Option<Uuid>,
    state: String,
    currency: String,
    amount: i64,
    tax: i64,
    reason_key: String,
    reason: String,
    requested_by: String,
    approved_by: Option<String>,
    arrival_days: i32,
    created_at: DateTime<Utc>,
    started_at: Option<DateTime<Utc>>,
    expected_at: Option<DateTime<Utc>>,
    succeeded_at: Option<DateTime<Utc>>,
    tax_told: bool,
    holds: bool,
    accrual_entry: Option<Uuid>,
    version: i64,
    components: Json<Vec<ComponentRow>>,
    legs: Json<Vec<LegRow>>,
}

#[derive(Deserialize)]
struct ComponentRow {
    kind: String,
    line_id: Option<Uuid>,
    net: i64,
    tax: i64,
    units: Vec<(i32, i32)>,
}

#[derive(Deserialize)]
struct LegRow {
    leg_id: Uuid,
    payment_id: Uuid,
    provider: String,
    amount: i64,
    state: String,
    attempt: i32,
    calls: i32,
    provider_refund_id: Option<String>,
    failure_reason: String,
    paid_entry: Option<Uuid>,
    told: bool,
}

/// The columns of a refund, to be followed by what selects the rows.
macro_rules! select_refunds {
    ($rest:literal) => {
        concat!(
            "SELECT r.refund_id, r.order_id, r.return_id, r.state, r.currency, r.amount, r.tax, r.reason_key, r.reason,
                    r.requested_by, r.approved_by, r.arrival_days, r.created_at, r.started_at, r.expected_at, r.succeeded_at, r.tax_told,
                    r.holds, r.accrual_entry, r.version,
                    (SELECT json_agg(json_build_object(
                         'kind', c.kind, 'line_id', c.line_id, 'net', c.net, 'tax', c.tax,
                         'units', (SELECT coalesce(json_agg(json_build_array(lower(u.units), upper(u.units) - 1)), '[]')
                                   FROM unit_claims u
                                   WHERE u.refund_id = r.refund_id AND u.line_id = c.line_id
                                     AND c.kind IN ('line', 'shipping'))) ORDER BY c.position)
                     FROM refund_components c WHERE c.refund_id = r.refund_id) AS components,
                    (SELECT json_agg(json_build_object(
                         'leg_id', l.leg_id, 'payment_id', l.payment_id, 'provider', l.provider, 'amount', l.amount,
                         'state', l.state, 'attempt', l.attempt, 'calls', l.calls,
                         'provider_refund_id', a.provider_refund_id, 'failure_reason', l.failure_reason,
                         'paid_entry', l.paid_entry, 'told', l.told) ORDER BY l.position)
                     FROM refund_legs l JOIN leg_attempts a USING (leg_id, attempt)
                     WHERE l.refund_id = r.refund_id) AS legs
             FROM refunds r WHERE r.merchant_id = $1 AND r.store_id = $2 AND ",
            $rest
        )
    };
}

/// One refund.
pub async fn get(
    conn: &mut PgConnection,
    tenant: Tenant,
    refund_id: RefundId,
) -> Result<Option<Refund>, StoreError> {
    let row = sqlx::query_as::<_, RefundRow>(select_refunds!("r.refund_id = $3"))
        .bind(tenant.merchant.uuid())
        .bind(tenant.store.uuid())
        .bind(refund_id.uuid())
        .fetch_optional(conn)
        .await?;
    row.map(Refund::try_from).transpose()
}

/// Those of the named refunds that there are, in the order they were named.
pub async fn batch_get(
    conn: &mut PgConnection,
    tenant: Tenant,
    refund_ids: &[RefundId],
) -> Result<Vec<Refund>, StoreError> {
    let rows = sqlx::query_as::<_, RefundRow>(select_refunds!(
        "r.refund_id = ANY ($3) ORDER BY array_position($3, r.refund_id)"
    ))
    .bind(tenant.merchant.uuid())
    .bind(tenant.store.uuid())
    .bind(refund_ids.iter().map(|id| id.uuid()).collect::<Vec<_>>())
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(Refund::try_from).collect()
}

/// What a list of refunds is narrowed to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Filter {
    /// Only of this order.
    pub order_id: Option<OrderId>,
    /// Only in this state.
    pub state: Option<RefundState>,
}

/// Refunds of a store, newest first, before a place.
pub async fn list(
    conn: &mut PgConnection,
    tenant: Tenant,
    filter: Filter,
    before: Option<RefundId>,
    limit: i64,
) -> Result<Vec<Refund>, StoreError> {
    // A text of its own per filter: each has an index, which a condition that may be switched off would not use.
    let query = match (filter.order_id, filter.state) {
        (Some(_), _) => sqlx::query_as::<_, RefundRow>(select_refunds!(
            "($3::uuid IS NULL OR r.refund_id < $3) AND r.order_id = $5 AND ($6::text IS NULL OR r.state = $6)
             ORDER BY r.refund_id DESC LIMIT $4"
        )),
        (None, Some(_)) => sqlx::query_as::<_, RefundRow>(select_refunds!(
            "($3::uuid IS NULL OR r.refund_id < $3) AND $5::uuid IS NULL AND r.state = $6
             ORDER BY r.refund_id DESC LIMIT $4"
        )),
        (None, None) => sqlx::query_as::<_, RefundRow>(select_refunds!(
            "($3::uuid IS NULL OR r.refund_id < $3) AND $5::uuid IS NULL AND $6::text IS NULL
             ORDER BY r.refund_id DESC LIMIT $4"
        )),
    };
    let rows = query
        .bind(tenant.merchant.uuid())
        .bind(tenant.store.uuid())
        .bind(before.map(RefundId::uuid))
        .bind(limit)
        .bind(filter.order_id.map(OrderId::uuid))
        .bind(filter.state.map(RefundState::as_str))
        .fetch_all(conn)
        .await?;
    rows.into_iter().map(Refund::try_from).collect()
}

impl TryFrom<RefundRow> for Refund {
    type Error = StoreError;

    fn try_from(row: RefundRow) -> Result<Self, StoreError> {
        Ok(Self {
            refund_id: row.refund_id.into(),
            order_id: row.order_id.into(),
            return_id: row.return_id.map(ReturnId::from),
            state: state(&row.state)?,
            currency: row.currency,
            amount: row.amount,
            tax: row.tax,
            components: row
                .components
                .0
                .into_iter()
                .map(Component::try_from)
                .collect::<Result<_, _>>()?,
            legs: row
                .legs
                .0
                .into_iter()
                .map(Leg::try_from)
                .collect::<Result<_, _>>()?,
            reason_key: row.reason_key,
            reason: row.reason,
            requested_by: row.requested_by,
            approved_by: row.approved_by,
            arrival_days: row.arrival_days.unsigned_abs(),
            created_at: row.created_at,
            started_at: row.started_at,
            expected_at: row.expected_at,
            succeeded_at: row.succeeded_at,
            tax_told: row.tax_told,
            holds: row.holds,
            accrual_entry: row.accrual_entry.map(EntryId::from),
            version: row.version,
        })
    }
}

impl TryFrom<ComponentRow> for Component {
    type Error = StoreError;

    fn try_from(row: ComponentRow) -> Result<Self, StoreError> {
        Ok(Self {
            kind: ComponentKind::from_key(&row.kind)
                .ok_or_else(|| unreadable("component kind", &row.kind))?,
            line_id: row.line_id.map(LineId::from),
            units: UnitSet::from_runs(row.units.into_iter().map(|(first, last)| Run { first, last })),
            net: row.net,
            tax: row.tax,
        })
    }
}

impl TryFrom<LegRow> for Leg {
    type Error = StoreError;

    fn try_from(row: LegRow) -> Result<Self, StoreError> {
        Ok(Self {
            leg_id: row.leg_id.into(),
            payment_id: row.payment_id.into(),
            provider: row.provider,
            amount: row.amount,
            state: state(&row.state)?,
            attempt: row.attempt,
            calls: row.calls,
            provider_refund_id: row.provider_refund_id,
            failure_reason: row.failure_reason,
            paid_entry: row.paid_entry.map(EntryId::from),
            told: row.told,
        })
    }
}

fn state(text: &str) -> Result<RefundState, StoreError> {
    RefundState::parse(text).ok_or_else(|| unreadable("refund state", text))
}
