//! Returns and their lines.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;
use waybill_kernel::id::{OrderId, RefundId, ReturnId};
use waybill_store::StoreError;

use super::unreadable;
use crate::domain::book::Tenant;
use crate::domain::decision::Quote;
use crate::domain::policy::ReturnReason;
use crate::domain::returns::{Disposition, Return, ReturnLine, ReturnState};

/// Writes a new return.
pub async fn insert(conn: &mut PgConnection, tenant: Tenant, new: &Return) -> Result<(), StoreError> {
    let positions: Vec<i32> = (0..).take(new.lines.len()).collect();
    sqlx::query(
        "WITH new AS (
             INSERT INTO returns (return_id, merchant_id, store_id, order_id, state, currency, quote, refund_id,
                                  requested_by, requested_at, updated_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
         )
         INSERT INTO return_lines (return_id, position, line_id, sku, quantity, reason)
         SELECT $1, l.* FROM UNNEST($12::integer[], $13::uuid[], $14::text[], $15::integer[], $16::text[]) AS l",
    )
    .bind(new.return_id.uuid())
    .bind(tenant.merchant.uuid())
    .bind(tenant.store.uuid())
    .bind(new.order_id.uuid())
    .bind(new.state.as_str())
    .bind(&new.currency)
    .bind(Json(&new.quote))
    .bind(new.refund_id.map(RefundId::uuid))
    .bind(&new.requested_by)
    .bind(new.requested_at)
    .bind(new.updated_at)
    .bind(positions)
    .bind(new.lines.iter().map(|line| line.line_id.uuid()).collect::<Vec<_>>())
    .bind(new.lines.iter().map(|line| line.sku.as_str()).collect::<Vec<_>>())
    .bind(new.lines.iter().map(|line| line.quantity).collect::<Vec<_>>())
    .bind(new.lines.iter().map(|line| line.reason.key()).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

/// Empties the reasons that were written to the customers of orders who are forgotten. The orders were marked before, so
/// that a return which is being declined meanwhile is either found here or finds the customer forgotten.
pub async fn forget(conn: &mut PgConnection, orders: &[Uuid]) -> Result<(), StoreError> {
    if orders.is_empty() {
        return Ok(());
    }
    sqlx::query("UPDATE returns SET decline_reason = '' WHERE order_id = ANY ($1) AND decline_reason <> ''")
        .bind(orders)
        .execute(conn)
        .await?;
    Ok(())
}

/// Writes what changed of a return, and answers with the version it has now.
pub async fn update(conn: &mut PgConnection, changed: &Return) -> Result<i64, StoreError> {
    let version: i64 = sqlx::query_scalar(
        "WITH lines AS (
             UPDATE return_lines l SET disposition = d.disposition
             FROM UNNEST($6::uuid[], $7::text[]) AS d (line_id, disposition)
             WHERE l.return_id = $1 AND l.line_id = d.line_id AND l.disposition IS DISTINCT FROM d.disposition
         )
         UPDATE returns SET state = $2, decline_reason = $3, refund_id = $4, updated_at = $5
         WHERE return_id = $1 RETURNING version",
    )
    .bind(changed.return_id.uuid())
    .bind(changed.state.as_str())
    .bind(&changed.decline_reason)
    .bind(changed.refund_id.map(RefundId::uuid))
    .bind(changed.updated_at)
    .bind(
        changed
            .lines
            .iter()
            .map(|line| line.line_id.uuid())
            .collect::<Vec<_>>(),
    )
    .bind(
        changed
            .lines
            .iter()
            .map(|line| line.disposition.map(Disposition::key))
            .collect::<Vec<_>>(),
    )
    .fetch_one(conn)
    .await?;
    Ok(version)
}

#[derive(sqlx::FromRow)]
struct ReturnRow {
    return_id: Uuid,
    order_id: Uuid,
    state: String,
    currency: String,
    quote: Json<Quote>,
    decline_reason: String,
    refund_id: Option<Uuid>,
    requested_by: String,
    requested_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    version: i64,
    lines: Json<Vec<LineRow>>,
}

#[derive(Deserialize)]
struct LineRow {
    line_id: Uuid,
    sku: String,
    quantity: i32,
    reason: String,
    disposition: Option<String>,
}

/// The columns of a return, to be followed by what selects the rows.
macro_rules! select_returns {
    ($rest:literal) => {
        concat!(
            "SELECT r.return_id, r.order_id, r.state, r.currency, r.quote, r.decline_reason, r.refund_id,
                    r.requested_by, r.requested_at, r.updated_at, r.version,
                    (SELECT json_agg(json_build_object('line_id', l.line_id, 'sku', l.sku, 'quantity', l.quantity,
                                                       'reason', l.reason, 'disposition', l.disposition)
                                     ORDER BY l.position)
                     FROM return_lines l WHERE l.return_id = r.return_id) AS lines
             FROM returns r WHERE r.merchant_id = $1 AND r.store_id = $2 AND ",
            $rest
        )
    };
}

/// One return.
pub async fn get(
    conn: &mut PgConnection,
    tenant: Tenant,
    return_id: ReturnId,
) -> Result<Option<Return>, StoreError> {
    let row = sqlx::query_as::<_, ReturnRow>(select_returns!("r.return_id = $3"))
        .bind(tenant.merchant.uuid())
        .bind(tenant.store.uuid())
        .bind(return_id.uuid())
        .fetch_optional(conn)
        .await?;
    row.map(Return::try_from).transpose()
}

/// Returns of a store, newest first, before a place; of one order if it is named.
pub async fn list(
    conn: &mut PgConnection,
    tenant: Tenant,
    order_id: Option<OrderId>,
    before: Option<ReturnId>,
    limit: i64,
) -> Result<Vec<Return>, StoreError> {
    let query = match order_id {
        Some(order_id) => sqlx::query_as::<_, ReturnRow>(select_returns!(
            "($3::uuid IS NULL OR r.return_id < $3) AND r.order_id = $5 ORDER BY r.return_id DESC LIMIT $4"
        ))
        .bind(tenant.merchant.uuid())
        .bind(tenant.store.uuid())
        .bind(before.map(ReturnId::uuid))
        .bind(limit)
        .bind(order_id.uuid()),
        None => sqlx::query_as::<_, ReturnRow>(select_returns!(
            "($3::uuid IS NULL OR r.return_id < $3) ORDER BY r.return_id DESC LIMIT $4"
        ))
        .bind(tenant.merchant.uuid())
        .bind(tenant.store.uuid())
        .bind(before.map(ReturnId::uuid))
        .bind(limit),
    };
    query
        .fetch_all(conn)
        .await?
        .into_iter()
        .map(Return::try_from)
        .collect()
}

impl TryFrom<ReturnRow> for Return {
    type Error = StoreError;

    fn try_from(row: ReturnRow) -> Result<Self, StoreError> {
        Ok(Self {
            return_id: row.return_id.into(),
            order_id: row.order_id.into(),
            state: ReturnState::parse(&row.state).ok_or_else(|| unreadable("return state", &row.state))?,
            lines: row
                .lines
                .0
                .into_iter()
                .map(ReturnLine::try_from)
                .collect::<Result<_, _>>()?,
            quote: row.quote.0,
            currency: row.currency,
            decline_reason: row.decline_reason,
            refund_id: row.refund_id.map(RefundId::from),
            requested_by: row.requested_by,
            requested_at: row.requested_at,
            updated_at: row.updated_at,
            version: row.version,
        })
    }
}

impl TryFrom<LineRow> for ReturnLine {
    type Error = StoreError;

    fn try_from(row: LineRow) -> Result<Self, StoreError> {
        let disposition = match &row.disposition {
            Some(key) => Some(Disposition::from_key(key).ok_or_else(|| unreadable("disposition", key))?),
            None => None,
        };
        Ok(Self {
            line_id: row.line_id.into(),
            sku: row.sku,
            quantity: row.quantity,
            reason: ReturnReason::from_key(&row.reason)
                .ok_or_else(|| unreadable("return reason", &row.reason))?,
            disposition,
        })
    }
}
