//! All that the tables know of one order and its history, in one snapshot.

use std::collections::BTreeMap;

use sqlx::{FromRow as _, PgConnection, Row as _};
use uuid::Uuid;
use waybill_kernel::id::{LineId, OrderId, ReturnId};
use waybill_store::{Db, StoreError};

use super::read::{self, Key};
use super::stored;
use super::timeline::{EntryRow, entry_columns};
use super::trail;
use crate::domain::fact::TimelineEntry;
use crate::domain::goods::FulfillmentStatus;
use crate::domain::order::{Order, Tenant};
use crate::domain::payment::PaymentStatus;
use crate::domain::picture::{Agreed, Picture};
use crate::domain::returns::ReturnStage;
use crate::domain::trail::{Link, Verdict};

/// Entries that are read of one order.
pub(crate) const MOST: i64 = 10_000;

/// An order and its history.
pub(crate) struct History {
    /// The order as the tables have it.
    pub picture: Picture,
    /// Its entries in the order in which they were learned, each with the transaction that wrote it, where that is known. No more
    /// than one beyond [`MOST`].
    pub entries: Vec<(TimelineEntry, Option<u64>)>,
}

/// Reads an order with its history; `None` when there is no such order.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn load(db: &Db, tenant: Tenant, order: OrderId) -> Result<Option<History>, StoreError> {
    let mut tx = db.begin().await?;
    snapshot(tx.conn()).await?;
    let Some(found) = read::find(&mut *tx.conn(), tenant, &Key::Id(order)).await? else {
        return Ok(None);
    };
    let picture = picture(tx.conn(), found.order).await?;
    let entries = entries(tx.conn(), order).await?;
    tx.rollback().await?;
    Ok(Some(History { picture, entries }))
}

/// Looks at the chain over an order's timeline; `None` when there is no such order.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn inspect(
    db: &Db,
    tenant: Tenant,
    order: OrderId,
    noted: Option<Link>,
) -> Result<Option<Verdict>, StoreError> {
    let mut tx = db.begin().await?;
    snapshot(tx.conn()).await?;
    let verdict = trail::inspect(tx.conn(), tenant, order, noted).await?;
    tx.rollback().await?;
    Ok(verdict)
}

/// All that a transaction reads from here on is of one moment.
async fn snapshot(conn: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        .execute(conn)
        .await?;
    Ok(())
}

async fn picture(conn: &mut PgConnection, order: Order) -> Result<Picture, StoreError> {
    let (payment, fulfillment): (String, String) = sqlx::query_as(
        "SELECT payment_status, fulfillment_status FROM orders
         WHERE order_id = $1 AND merchant_id = $2 AND store_id = $3",
    )
    .bind(order.id.uuid())
    .bind(order.tenant.merchant.uuid())
    .bind(order.tenant.store.uuid())
    .fetch_one(&mut *conn)
    .await?;
    let lines: Vec<(Uuid, i32, i32, i32)> = sqlx::query_as(
        "SELECT line_id, units_cancelled, units_shipped, units_delivered FROM order_lines
         WHERE order_id = $1 AND merchant_id = $2 AND store_id = $3",
    )
    .bind(order.id.uuid())
    .bind(order.tenant.merchant.uuid())
    .bind(order.tenant.store.uuid())
    .fetch_all(&mut *conn)
    .await?;
    let returns: Vec<(Uuid, String)> = sqlx::query_as(
        "SELECT return_id, stage FROM order_returns WHERE order_id = $1 AND merchant_id = $2 AND store_id = $3",
    )
    .bind(order.id.uuid())
    .bind(order.tenant.merchant.uuid())
    .bind(order.tenant.store.uuid())
    .fetch_all(conn)
    .await?;
    let returns = returns.into_iter().map(|(id, stage)| {
        let stage = stored(ReturnStage::parse(&stage), "stage", &stage)?;
        Ok((ReturnId::from(id), stage))
    });
    Ok(Picture {
        agreed: Agreed::of(&order.terms),
        payment_status: stored(PaymentStatus::parse(&payment), "payment_status", &payment)?,
        fulfillment_status: stored(
            FulfillmentStatus::parse(&fulfillment),
            "fulfillment_status",
            &fulfillment,
        )?,
        units: (lines.into_iter())
            .map(|(line, cancelled, shipped, delivered)| {
                (LineId::from(line), (cancelled, shipped, delivered))
            })
            .collect::<BTreeMap<_, _>>(),
        returns: returns.collect::<Result<_, StoreError>>()?,
        state: order.state,
        payments: order.payments,
        holds: order.holds,
        cancellations: order.cancellations,
    })
}

async fn entries(
    conn: &mut PgConnection,
    order: OrderId,
) -> Result<Vec<(TimelineEntry, Option<u64>)>, StoreError> {
    let rows = sqlx::query(concat!(
        "SELECT ",
        entry_columns!(),
        ", coalesce(log_xid, whole_xid(xmin))::text::bigint AS written_by
         FROM order_timeline WHERE order_id = $1
         -- Those without a number last: they were put there by something that keeps no chain, or there is none yet.
         ORDER BY sequence, occurred_at, event_id LIMIT $2"
    ))
    .bind(order.uuid())
    .bind(MOST + 1)
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            let written_by: Option<i64> = row.try_get("written_by")?;
            let entry = EntryRow::from_row(&row)?.entry()?;
            Ok((entry, written_by.and_then(|xid| u64::try_from(xid).ok())))
        })
        .collect()
}
