//! Reads shipments.

use std::collections::HashMap;

use waybill_kernel::id::{OrderId, ShipmentId};
use waybill_rpc::convert::Tenant;
use waybill_store::{Db, StoreError};

use crate::domain::shipment::{Shipment, TrackingEvent};
use crate::error::Error;
use crate::store::shipments;

/// The most tracking events that are shown with a shipment. Carriers send a few dozen.
const MAX_TRACKING_EVENTS: i64 = 1_000;

/// A page of a list.
#[derive(Debug)]
pub struct Page<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// Whether more follows.
    pub more: bool,
}

impl<T> Page<T> {
    /// A page from what was found when asking for one more than fits.
    pub(super) fn of(mut items: Vec<T>, limit: i64) -> Self {
        let limit = usize::try_from(limit).unwrap_or_default();
        let more = items.len() > limit;
        items.truncate(limit);
        Self { items, more }
    }
}

/// One shipment with what its carrier said.
///
/// # Errors
/// [`Error::ShipmentNotFound`] when the store has no such shipment.
pub async fn get(db: &Db, tenant: Tenant, id: ShipmentId) -> Result<(Shipment, Vec<TrackingEvent>), Error> {
    let found = shipments::by_ids(db.pool(), tenant.merchant_id, tenant.store_id, &[id]).await?;
    let shipment = found
        .into_iter()
        .next()
        .ok_or(Error::ShipmentNotFound { shipment: id })?;
    let events = shipments::tracking_events(db.pool(), id, MAX_TRACKING_EVENTS).await?;
    Ok((shipment, events))
}

/// Several shipments, in the order of their ids; those that the store does not have are left out.
///
/// # Errors
/// As the database answers.
pub async fn batch_get(db: &Db, tenant: Tenant, ids: &[ShipmentId]) -> Result<Vec<Shipment>, StoreError> {
    let found = shipments::by_ids(db.pool(), tenant.merchant_id, tenant.store_id, ids).await?;
    let found: HashMap<ShipmentId, Shipment> = found
        .into_iter()
        .map(|shipment| (shipment.id, shipment))
        .collect();
    Ok(ids.iter().filter_map(|id| found.get(id).cloned()).collect())
}

/// Which shipments are wanted.
#[derive(Debug)]
pub struct ListShipments {
    /// Whose.
    pub tenant: Tenant,
    /// Of which order; all when `None`.
    pub order: Option<OrderId>,
    /// The last shipment of the page before.
    pub before: Option<ShipmentId>,
    /// The most shipments to answer with.
    pub limit: i64,
}

/// A page of shipments, newest first.
///
/// # Errors
/// As the database answers.
pub async fn list(db: &Db, wanted: &ListShipments) -> Result<Page<Shipment>, StoreError> {
    let Tenant {
        merchant_id,
        store_id,
    } = wanted.tenant;
    let limit = wanted.limit + 1;
    let found = shipments::page(
        db.pool(),
        merchant_id,
        store_id,
        wanted.order,
        wanted.before,
        limit,
    )
    .await?;
    Ok(Page::of(found, wanted.limit))
}
