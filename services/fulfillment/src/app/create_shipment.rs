//! Hands reserved units to a carrier: stock leaves the building.
//!
//! Two shipments of the same units wait for each other at the skus' locks; the second finds nothing reserved (F-6). What is
//! known of the order is read again under its lock, which whoever stops an order takes, too (F-12).

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use waybill_events::Log;
use waybill_kernel::check::Violations;
use waybill_kernel::id::{LineId, MerchantId, OrderId, ShipmentId};
use waybill_rpc::convert::Tenant;
use waybill_store::{RetryCause, StoreError, Tx, UseCase};

use super::order_fulfillment::known_order;
use super::tell;
use crate::domain::shipment::Shipment;
use crate::domain::shipping::{self, Plan, Request};
use crate::domain::stock::Sku;
use crate::domain::tracking::ShipmentStatus;
use crate::error::Error;
use crate::events::{Announcement, News};
use crate::store::orders::{self, OrderRow};
use crate::store::projection::{self, KnownLine};
use crate::store::shipments;
use crate::store::stock::{self, LockedSkus, Move};

/// Asks to ship.
#[derive(Debug)]
pub struct CreateShipment<'a> {
    /// Where it is told.
    pub log: &'a Log,
    /// The time.
    pub now: DateTime<Utc>,
    /// Whose order.
    pub tenant: Tenant,
    /// The order.
    pub order: OrderId,
    /// What to ship, and from where.
    pub request: Request,
    /// The carrier's key.
    pub carrier: String,
    /// The carrier's service.
    pub service: String,
    /// The carrier's number.
    pub tracking_number: String,
    /// Where a person can follow it; may be empty.
    pub tracking_url: String,
    /// The order must be known in this version or a later one.
    pub min_order_version: i64,
}

impl UseCase for CreateShipment<'_> {
    type Output = Shipment;
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<Shipment, Error> {
        let order = self.order;
        let known = known_order(tx.conn(), self.tenant, order, self.min_order_version).await?;
        let lines = projection::lines(tx.conn(), order).await?;
        self.check_lines(&lines)?;

        let locked = stock::lock_skus(tx.conn(), self.skus(&lines)).await?;
        let mut row = orders::lock(tx.conn(), &BTreeSet::from([order]))
            .await?
            .remove(&order)
            .ok_or(Error::OrderNotSeenYet {
                order,
                version: known.version,
            })?;
        let known = known_order(tx.conn(), self.tenant, order, self.min_order_version).await?;
        let lines = projection::lines(tx.conn(), order).await?;
        if !locked.cover(&self.skus(&lines)) {
            // Lines came while the locks were waited for.
            return Err(StoreError::Retry(RetryCause::Serialization).into());
        }
        if row.progress.cancelled {
            return Err(Error::OrderCancelled { order });
        }
        if known.on_hold {
            return Err(Error::OrderOnHold { order });
        }
        if !known.payment_cleared {
            return Err(Error::PaymentPending { order });
        }
        let reservations = orders::reservations(tx.conn(), &locked, order).await?;
        let plan = shipping::plan(&reservations, &self.request)
            .map_err(|cause| Error::NotAllocated { order, cause })?;

        row.progress
            .ship(plan.parcels.iter().map(|parcel| parcel.units).sum())?;
        let shipment = self.shipment(&plan);
        self.save(tx, &locked, &row, &shipment).await?;
        let announcement = self.announcement(&row, &shipment);
        tell(tx, self.log, &[announcement], &[]).await?;
        Ok(shipment)
    }
}

impl CreateShipment<'_> {
    /// Lines of another order, and lines of which nothing ships, are the caller's mistake whatever is in stock.
    fn check_lines(&self, lines: &[KnownLine]) -> Result<(), Error> {
        let mut violations = Violations::new();
        for (index, (asked, _)) in self.request.lines.iter().enumerate() {
            violations.element("lines", index, |v| {
                match lines.iter().find(|line| line.line == *asked) {
                    None => v.push("line_id", format!("order {} has no line {asked}", self.order)),
                    Some(line) if line.digital => v.push("line_id", "is digital: nothing of it is shipped"),
                    Some(_) => {}
                }
            });
        }
        violations.into_result().map_err(Error::from)
    }

    /// What has to be locked.
    fn skus(&self, lines: &[KnownLine]) -> BTreeSet<(MerchantId, Sku)> {
        let goods = lines.iter().filter(|line| !line.digital);
        goods
            .map(|line| (self.tenant.merchant_id, line.sku.clone()))
            .collect()
    }

    fn shipment(&self, plan: &Plan) -> Shipment {
        Shipment {
            id: ShipmentId::generate(),
            order: self.order,
            location: plan.location,
            status: ShipmentStatus::Pending,
            parcels: plan.parcels.clone(),
            carrier: self.carrier.clone(),
            service: self.service.clone(),
            tracking_number: self.tracking_number.clone(),
            tracking_url: self.tracking_url.clone(),
            shipped_at: self.now,
            delivered_at: None,
            version: 1,
        }
    }

    async fn save(
        &self,
        tx: &mut Tx,
        locked: &LockedSkus,
        row: &OrderRow,
        shipment: &Shipment,
    ) -> Result<(), Error> {
        let Tenant {
            merchant_id,
            store_id,
        } = self.tenant;
        let lines: Vec<(LineId, i64)> = shipment
            .parcels
            .iter()
            .map(|parcel| (parcel.line, parcel.units))
            .collect();
        // Lines of the same sku are summed first: one row, one update (F-1).
        let mut moves: BTreeMap<_, Move> = BTreeMap::new();
        for parcel in &shipment.parcels {
            let change = moves
                .entry((merchant_id, parcel.sku.clone(), shipment.location))
                .or_default();
            change.on_hand -= parcel.units;
            change.reserved -= parcel.units;
        }
        shipments::insert(tx.conn(), merchant_id, store_id, shipment)
            .await
            .map_err(|error| self.number_in_use(error))?;
        orders::use_up(tx.conn(), locked, self.order, shipment.location, &lines).await?;
        stock::move_stock(tx.conn(), locked, &moves).await?;
        orders::save(tx.conn(), &BTreeMap::from([(self.order, row.progress)])).await?;
        Ok(())
    }

    fn number_in_use(&self, error: StoreError) -> Error {
        if error.constraint() == Some("shipments_tracking_number_once") {
            Error::TrackingNumberInUse {
                carrier: self.carrier.clone(),
                tracking_number: self.tracking_number.clone(),
            }
        } else {
            error.into()
        }
    }

    fn announcement(&self, row: &OrderRow, shipment: &Shipment) -> Announcement {
        Announcement {
            merchant: row.merchant,
            store: row.store,
            order: self.order,
            version: shipment.version,
            at: self.now,
            news: News::Shipped {
                shipment: shipment.id,
                location: shipment.location,
                parcels: shipment.parcels.clone(),
                carrier: shipment.carrier.clone(),
                order_fully_shipped: row.progress.is_fully_shipped(),
            },
        }
    }
}
