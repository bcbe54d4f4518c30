//! Holds of orders.

use sqlx::PgConnection;
use uuid::Uuid;
use waybill_kernel::id::{HoldId, OrderId};
use waybill_store::StoreError;

use super::{stored, tenants};
use crate::domain::hold::{Hold, HoldReason, Release};
use crate::domain::order::Tenant;

/// Writes holds that begin. Their orders are written already, or locked.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn insert(
    conn: &mut PgConnection,
    holds: &[(Tenant, OrderId, &Hold)],
) -> Result<(), StoreError> {
    if holds.is_empty() {
        return Ok(());
    }
    let (merchants, stores) = tenants(holds.iter().map(|(tenant, ..)| *tenant));
    sqlx::query(
        "INSERT INTO order_holds (order_id, hold_id, merchant_id, store_id, reason, rule, note, held_at, held_version)
         SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::text[], $7::text[],
                              $8::timestamptz[], $9::bigint[])",
    )
    .bind(holds.iter().map(|(_, order, _)| order.uuid()).collect::<Vec<_>>())
    .bind(holds.iter().map(|(.., hold)| hold.id.uuid()).collect::<Vec<_>>())
    .bind(merchants)
    .bind(stores)
    .bind(holds.iter().map(|(.., hold)| hold.reason.as_str()).collect::<Vec<_>>())
    .bind(holds.iter().map(|(.., hold)| hold.rule.as_str()).collect::<Vec<_>>())
    .bind(holds.iter().map(|(.., hold)| hold.note.as_str()).collect::<Vec<_>>())
    .bind(holds.iter().map(|(.., hold)| hold.held_at).collect::<Vec<_>>())
    .bind(holds.iter().map(|(.., hold)| hold.held_version).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

/// The open holds of a locked order, oldest first: id and reason.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn open(
    conn: &mut PgConnection,
    tenant: Tenant,
    order: OrderId,
) -> Result<Vec<(HoldId, HoldReason)>, StoreError> {
    let rows: Vec<(Uuid, String)> = sqlx::query_as(
        "SELECT hold_id, reason FROM order_holds
         WHERE order_id = $1 AND merchant_id = $2 AND store_id = $3 AND released_at IS NULL
         ORDER BY hold_id",
    )
    .bind(order.uuid())
    .bind(tenant.merchant.uuid())
    .bind(tenant.store.uuid())
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|(hold, reason)| {
            Ok((
                hold.into(),
                stored(HoldReason::parse(&reason), "reason", &reason)?,
            ))
        })
        .collect()
}

/// Ends open holds of a locked order: these, or all when none is named.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn release(
    conn: &mut PgConnection,
    tenant: Tenant,
    order: OrderId,
    holds: Option<&[HoldId]>,
    release: &Release,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE order_holds SET released_at = $4, released_version = $5, release_note = $6
         WHERE order_id = $1 AND merchant_id = $2 AND store_id = $3 AND released_at IS NULL
           AND ($7::uuid[] IS NULL OR hold_id = ANY($7))",
    )
    .bind(order.uuid())
    .bind(tenant.merchant.uuid())
    .bind(tenant.store.uuid())
    .bind(release.at)
    .bind(release.version)
    .bind(&release.note)
    .bind(holds.map(|holds| holds.iter().map(|hold| hold.uuid()).collect::<Vec<_>>()))
    .execute(conn)
    .await?;
    Ok(())
}
