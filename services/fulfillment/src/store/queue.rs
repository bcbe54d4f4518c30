//! Who waits for stock: one row per line with missing units, oldest order first (F-4).
//!
//! A row is only changed by whoever has locked its sku and its order.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;
use waybill_kernel::id::{LineId, MerchantId, OrderId};
use waybill_store::StoreError;

use super::stock::LockedSkus;
use super::touched;
use crate::domain::allocation::{Claim, Want};
use crate::domain::stock::Sku;

/// Units of a line that begin to wait.
#[derive(Debug)]
pub struct NewBackorder<'a> {
    /// The order.
    pub order: OrderId,
    /// Whose it is.
    pub merchant: MerchantId,
    /// When it was placed.
    pub placed_at: DateTime<Utc>,
    /// Place of the line on the order.
    pub line_no: i32,
    /// The line.
    pub line: LineId,
    /// What is missing.
    pub sku: &'a Sku,
    /// How many units; more than 0.
    pub units: i64,
}

/// The front of the queue.
#[derive(Debug)]
pub struct Front {
    /// What the oldest waiting orders want of the skus that were asked about.
    pub claims: Vec<Claim>,
    /// Age of the last order that was looked at, when there may be more behind it.
    pub cut_at: Option<(DateTime<Utc>, OrderId)>,
}

/// The oldest lines that wait for any of the skus, at most `limit`, and per sku not more than could get something: each
/// line wants at least one unit of what is available. No more are read of a sku. Orders that are about to be cancelled do not
/// stand in the way.
pub async fn front(
    conn: &mut PgConnection,
    _locked: &LockedSkus,
    available: &[(MerchantId, &Sku, i64)],
    cancelled: &[OrderId],
    limit: i64,
) -> Result<Front, StoreError> {
    if available.is_empty() {
        return Ok(Front {
            claims: Vec::new(),
            cut_at: None,
        });
    }
    let mut rows: Vec<(Uuid, Uuid, DateTime<Utc>, Uuid, String, i64)> = sqlx::query_as(
        "SELECT b.order_id, b.merchant_id, b.placed_at, b.line_id, b.sku, b.units
         FROM UNNEST($1::uuid[], $2::text[], $3::bigint[]) AS k (merchant_id, sku, available)
         CROSS JOIN LATERAL (
             SELECT * FROM backorders b
             WHERE b.merchant_id = k.merchant_id AND b.sku = k.sku AND b.order_id <> ALL ($5)
             ORDER BY b.placed_at, b.order_id, b.line_no
             LIMIT least(k.available, $4 + 1)
         ) b
         ORDER BY b.placed_at, b.order_id, b.line_no
         LIMIT $4 + 1",
    )
    .bind(
        available
            .iter()
            .map(|(merchant, _, _)| merchant.uuid())
            .collect::<Vec<_>>(),
    )
    .bind(
        available
            .iter()
            .map(|(_, sku, _)| sku.as_str())
            .collect::<Vec<_>>(),
    )
    .bind(available.iter().map(|(_, _, units)| *units).collect::<Vec<_>>())
    .bind(limit)
    .bind(cancelled.iter().map(|order| order.uuid()).collect::<Vec<_>>())
    .fetch_all(conn)
    .await?;

    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = rows.len() > limit;
    rows.truncate(limit);
    let cut_at = rows
        .last()
        .filter(|_| more)
        .map(|row| (row.2, OrderId::from(row.0)));
    let mut claims: BTreeMap<OrderId, Claim> = BTreeMap::new();
    for (order, merchant, placed_at, line, sku, units) in rows {
        let claim = claims.entry(order.into()).or_insert_with(|| Claim {
            order: order.into(),
            merchant: merchant.into(),
            placed_at,
            wants: Vec::new(),
        });
        claim.wants.push(Want {
            line: line.into(),
            sku: Sku::known(sku),
            units,
        });
    }
    Ok(Front {
        claims: claims.into_values().collect(),
        cut_at,
    })
}

/// Puts lines into the queue.
pub async fn join(
    conn: &mut PgConnection,
    _locked: &LockedSkus,
    backorders: &[NewBackorder<'_>],
) -> Result<(), StoreError> {
    if backorders.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO backorders (order_id, line_id, line_no, merchant_id, sku, units, placed_at)
         SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::integer[], $4::uuid[], $5::text[], $6::bigint[],
                              $7::timestamptz[])",
    )
    .bind(backorders.iter().map(|b| b.order.uuid()).collect::<Vec<_>>())
    .bind(backorders.iter().map(|b| b.line.uuid()).collect::<Vec<_>>())
    .bind(backorders.iter().map(|b| b.line_no).collect::<Vec<_>>())
    .bind(backorders.iter().map(|b| b.merchant.uuid()).collect::<Vec<_>>())
    .bind(backorders.iter().map(|b| b.sku.as_str()).collect::<Vec<_>>())
    .bind(backorders.iter().map(|b| b.units).collect::<Vec<_>>())
    .bind(backorders.iter().map(|b| b.placed_at).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

/// How many units of these lines wait.
pub async fn waiting(
    conn: &mut PgConnection,
    _locked: &LockedSkus,
    lines: &[(OrderId, LineId)],
) -> Result<BTreeMap<(OrderId, LineId), i64>, StoreError> {
    let (orders, ids): (Vec<Uuid>, Vec<Uuid>) = lines
        .iter()
        .map(|(order, line)| (order.uuid(), line.uuid()))
        .unzip();
    let rows: Vec<(Uuid, Uuid, i64)> = sqlx::query_as(
        "SELECT b.order_id, b.line_id, b.units
         FROM UNNEST($1::uuid[], $2::uuid[]) AS k (order_id, line_id)
         JOIN backorders b USING (order_id, line_id)",
    )
    .bind(orders)
    .bind(ids)
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(order, line, units)| ((order.into(), line.into()), units))
        .collect())
}

/// Takes units out of the queue that were given or cancelled.
pub async fn serve(
    conn: &mut PgConnection,
    _locked: &LockedSkus,
    given: &BTreeMap<(OrderId, LineId), i64>,
) -> Result<(), StoreError> {
    if given.is_empty() {
        return Ok(());
    }
    let rows: i64 = sqlx::query_scalar(
        "WITH given AS (SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::bigint[]) AS g (order_id, line_id, units)),
         gone AS (DELETE FROM backorders b USING given g
                  WHERE b.order_id = g.order_id AND b.line_id = g.line_id AND b.units = g.units
                  RETURNING 1),
         less AS (UPDATE backorders b SET units = b.units - g.units FROM given g
                  WHERE b.order_id = g.order_id AND b.line_id = g.line_id AND b.units > g.units
                  RETURNING 1)
         SELECT (SELECT count(*) FROM gone) + (SELECT count(*) FROM less)",
    )
    .bind(given.keys().map(|(order, _)| order.uuid()).collect::<Vec<_>>())
    .bind(given.keys().map(|(_, line)| line.uuid()).collect::<Vec<_>>())
    .bind(given.values().copied().collect::<Vec<_>>())
    .fetch_one(conn)
    .await?;
    touched(given.len(), rows.unsigned_abs(), "a backorder")
}
