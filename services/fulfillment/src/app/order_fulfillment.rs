//! Reads what the warehouse knows of an order.

use sqlx::PgConnection;
use waybill_kernel::id::OrderId;
use waybill_rpc::convert::Tenant;
use waybill_store::{Db, StoreError};

use crate::domain::shipment::OrderFulfillment;
use crate::error::Error;
use crate::store::orders;
use crate::store::projection::{self, KnownOrder};

/// Names the order whose fulfillment is wanted.
#[derive(Debug)]
pub struct GetOrderFulfillment {
    /// Whose.
    pub tenant: Tenant,
    /// The order.
    pub order: OrderId,
    /// The answer is based on this version of the order or a later one.
    pub min_order_version: i64,
}

/// An order of the store in this version or a later one.
///
/// # Errors
/// [`Error::OrderNotFound`] when the store has none and no version was asked for, [`Error::OrderNotSeenYet`] when the
/// version that was asked for has not arrived.
pub(super) async fn known_order(
    conn: &mut PgConnection,
    tenant: Tenant,
    order: OrderId,
    min_order_version: i64,
) -> Result<KnownOrder, Error> {
    let known = projection::order(conn, tenant.merchant_id, tenant.store_id, order).await?;
    match known {
        Some(known) if known.version >= min_order_version => Ok(known),
        None if min_order_version == 0 => Err(Error::OrderNotFound { order }),
        _ => Err(Error::OrderNotSeenYet {
            order,
            version: min_order_version,
        }),
    }
}

/// Reads it.
///
/// # Errors
/// As for the order: not found, or not seen yet.
pub async fn get(db: &Db, wanted: &GetOrderFulfillment) -> Result<OrderFulfillment, Error> {
    let mut conn = db.pool().acquire().await.map_err(StoreError::from)?;
    let known = known_order(&mut conn, wanted.tenant, wanted.order, wanted.min_order_version).await?;
    // The fold writes both in one transaction, so an order that is known is there.
    let (progress, allocations) =
        orders::read(&mut conn, wanted.order)
            .await?
            .ok_or(Error::OrderNotSeenYet {
                order: wanted.order,
                version: known.version,
            })?;
    Ok(OrderFulfillment {
        order: wanted.order,
        progress,
        allocations,
        payment_cleared: known.payment_cleared,
        on_hold: known.on_hold,
        order_version: known.version,
    })
}
