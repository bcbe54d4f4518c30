//! The fold's tables: facets of orders as other services tell them, and the completion that follows from them.

use std::collections::{BTreeMap, HashSet};

use sqlx::PgConnection;
use uuid::Uuid;
use waybill_kernel::id::{LineId, OrderId, ReturnId};
use waybill_store::StoreError;

use super::read::{StateRow, state_columns};
use super::stored;
use crate::domain::goods::LineGoods;
use crate::domain::order::Tenant;
use crate::domain::returns::{ReturnStage, ReturnStatus};
use crate::domain::tracking::Tracked;

/// Which of these orders exist.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn known(conn: &mut PgConnection, orders: &[Uuid]) -> Result<HashSet<Uuid>, StoreError> {
    let found: Vec<Uuid> = sqlx::query_scalar("SELECT order_id FROM orders WHERE order_id = ANY($1)")
        .bind(orders)
        .fetch_all(conn)
        .await?;
    Ok(found.into_iter().collect())
}

/// Locks orders and loads as much of them as facts about these lines need. Returns are loaded whole.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn tracked(
    conn: &mut PgConnection,
    orders: &[Uuid],
    lines: &[(OrderId, LineId)],
) -> Result<BTreeMap<OrderId, (Tenant, Tracked)>, StoreError> {
    let mut tracked = states(conn, orders).await?;
    if !lines.is_empty() {
        load_lines(conn, lines, &mut tracked).await?;
    }
    let returns: Vec<(Uuid, Uuid, String)> =
        sqlx::query_as("SELECT order_id, return_id, stage FROM order_returns WHERE order_id = ANY($1)")
            .bind(orders)
            .fetch_all(conn)
            .await?;
    for (order, id, stage) in returns {
        if let Some((_, order)) = tracked.get_mut(&order.into()) {
            let stage = stored(ReturnStage::parse(&stage), "stage", &stage)?;
            order.returns.insert(ReturnId::from(id), stage);
        }
    }
    Ok(tracked)
}

/// Locks orders, in one order, and loads where they stand.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn states(
    conn: &mut PgConnection,
    orders: &[Uuid],
) -> Result<BTreeMap<OrderId, (Tenant, Tracked)>, StoreError> {
    let rows: Vec<StateRow> = sqlx::query_as(concat!(
        "SELECT ",
        state_columns!(),
        " FROM orders WHERE order_id = ANY($1) ORDER BY order_id FOR NO KEY UPDATE"
    ))
    .bind(orders)
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            let (id, tenant) = (row.order_id.into(), row.tenant());
            let tracked = Tracked {
                state: row.state()?,
                lines: BTreeMap::new(),
                returns: BTreeMap::new(),
            };
            Ok((id, (tenant, tracked)))
        })
        .collect()
}

async fn load_lines(
    conn: &mut PgConnection,
    lines: &[(OrderId, LineId)],
    tracked: &mut BTreeMap<OrderId, (Tenant, Tracked)>,
) -> Result<(), StoreError> {
    let (orders, ids): (Vec<Uuid>, Vec<Uuid>) = lines
        .iter()
        .map(|(order, line)| (order.uuid(), line.uuid()))
        .unzip();
    let rows: Vec<(Uuid, Uuid, i32, i32, i32)> = sqlx::query_as(
        "SELECT l.order_id, l.line_id, CASE WHEN l.digital THEN 0 ELSE l.quantity END, l.units_shipped, l.units_delivered
         FROM UNNEST($1::uuid[], $2::uuid[]) AS k (order_id, line_id)
         JOIN order_lines l USING (order_id, line_id)",
    )
    .bind(orders)
    .bind(ids)
    .fetch_all(conn)
    .await?;
    for (order, line, quantity, shipped, delivered) in rows {
        if let Some((_, order)) = tracked.get_mut(&order.into()) {
            order.lines.insert(
                line.into(),
                LineGoods {
                    quantity,
                    shipped,
                    delivered,
                },
            );
        }
    }
    Ok(())
}

/// Saves the facets of orders that facts have changed: two statements, and one for returns. Columns that count the
/// version up are not touched.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn save_tracked(
    conn: &mut PgConnection,
    changed: &[(OrderId, Tenant, Tracked)],
) -> Result<(), StoreError> {
    if changed.is_empty() {
        return Ok(());
    }
    save_states(conn, changed).await?;
    save_lines(conn, changed).await?;
    save_returns(conn, changed).await
}

async fn save_states(
    conn: &mut PgConnection,
    changed: &[(OrderId, Tenant, Tracked)],
) -> Result<(), StoreError> {
    let column = |of: fn(&Tracked) -> i64| changed.iter().map(|(.., t)| of(t)).collect::<Vec<i64>>();
    sqlx::query(
        "UPDATE orders o
         SET units_shipped = c.shipped, units_delivered = c.delivered, refunded_minor = c.refunded,
             return_status = c.return_status, payment_status = c.payment_status,
             fulfillment_status = c.fulfillment_status, updated_at = c.updated_at
         FROM UNNEST($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::text[],
                     $8::timestamptz[])
              AS c (order_id, shipped, delivered, refunded, return_status, payment_status, fulfillment_status, updated_at)
         WHERE o.order_id = c.order_id",
    )
    .bind(changed.iter().map(|(order, ..)| order.uuid()).collect::<Vec<_>>())
    .bind(column(|t| t.state.goods.shipped))
    .bind(column(|t| t.state.goods.delivered))
    .bind(column(|t| t.state.money.refunded))
    .bind(changed.iter().map(|(.., t)| ReturnStatus::as_str(t.state.returns)).collect::<Vec<_>>())
    .bind(changed.iter().map(|(.., t)| t.state.payment_status().as_str()).collect::<Vec<_>>())
    .bind(changed.iter().map(|(.., t)| t.state.fulfillment_status().as_str()).collect::<Vec<_>>())
    .bind(changed.iter().map(|(.., t)| t.state.updated_at).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

async fn save_lines(
    conn: &mut PgConnection,
    changed: &[(OrderId, Tenant, Tracked)],
) -> Result<(), StoreError> {
    let lines: Vec<(Uuid, Uuid, LineGoods)> = changed
        .iter()
        .flat_map(|(order, _, t)| {
            t.lines
                .iter()
                .map(|(line, goods)| (order.uuid(), line.uuid(), *goods))
        })
        .collect();
    if lines.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "UPDATE order_lines l
         SET units_shipped = c.shipped, units_delivered = c.delivered
         FROM UNNEST($1::uuid[], $2::uuid[], $3::integer[], $4::integer[]) AS c (order_id, line_id, shipped, delivered)
         WHERE l.order_id = c.order_id AND l.line_id = c.line_id",
    )
    .bind(lines.iter().map(|(order, ..)| *order).collect::<Vec<_>>())
    .bind(lines.iter().map(|(_, line, _)| *line).collect::<Vec<_>>())
    .bind(lines.iter().map(|(.., goods)| goods.shipped).collect::<Vec<_>>())
    .bind(lines.iter().map(|(.., goods)| goods.delivered).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

async fn save_returns(
    conn: &mut PgConnection,
    changed: &[(OrderId, Tenant, Tracked)],
) -> Result<(), StoreError> {
    let returns: Vec<(Uuid, Tenant, Uuid, ReturnStage)> = changed
        .iter()
        .flat_map(|(order, tenant, t)| {
            t.returns
                .iter()
                .map(|(id, stage)| (order.uuid(), *tenant, id.uuid(), *stage))
        })
        .collect();
    if returns.is_empty() {
        return Ok(());
    }
    let (merchants, stores) = super::tenants(returns.iter().map(|(_, tenant, ..)| *tenant));
    sqlx::query(
        "INSERT INTO order_returns (order_id, return_id, merchant_id, store_id, stage)
         SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[])
         ON CONFLICT (order_id, return_id) DO UPDATE SET stage = excluded.stage",
    )
    .bind(returns.iter().map(|(order, ..)| *order).collect::<Vec<_>>())
    .bind(returns.iter().map(|(_, _, id, _)| *id).collect::<Vec<_>>())
    .bind(merchants)
    .bind(stores)
    .bind(
        returns
            .iter()
            .map(|(.., stage)| stage.as_str())
            .collect::<Vec<_>>(),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Marks orders as completed; the guard counts their versions up.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn complete(
    conn: &mut PgConnection,
    orders: &[(OrderId, chrono::DateTime<chrono::Utc>)],
) -> Result<(), StoreError> {
    let (ids, times): (Vec<Uuid>, Vec<_>) = orders.iter().map(|(order, at)| (order.uuid(), *at)).unzip();
    sqlx::query(
        "UPDATE orders o SET status = 'COMPLETED', updated_at = c.at
         FROM UNNEST($1::uuid[], $2::timestamptz[]) AS c (order_id, at)
         WHERE o.order_id = c.order_id",
    )
    .bind(ids)
    .bind(times)
    .execute(conn)
    .await?;
    Ok(())
}
