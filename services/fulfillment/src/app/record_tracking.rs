//! Takes in what carriers said, each update by itself, all of them in one transaction.
//!
//! Orders are locked first: whether the order has arrived as a whole is decided by looking at all its shipments, and the
//! last two of them may arrive at the same time.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;
use waybill_events::Log;
use waybill_kernel::id::{OrderId, ShipmentId, TrackingEventId};
use waybill_rpc::convert::Tenant;
use waybill_store::{StoreError, Tx, UseCase};

use super::tell;
use crate::domain::progress::{Progress, ProgressError};
use crate::domain::shipment::Parcel;
use crate::domain::tracking::{Heard, Scan, ShipmentStatus, decide};
use crate::error::Error;
use crate::events::{Announcement, News};
use crate::store::orders::{self, OrderRow};
use crate::store::shipments;
use crate::store::tracking::{self, NewScan, Reference, Tracked};

/// The most updates of one request.
pub const MAX_UPDATES: usize = 500;

/// Something a carrier said.
#[derive(Debug, Clone)]
pub struct Update {
    /// About which shipment.
    pub reference: Reference,
    /// What it means.
    pub status: ShipmentStatus,
    /// When the carrier saw it.
    pub occurred_at: DateTime<Utc>,
    /// Where, as the carrier wrote it; may be empty.
    pub location: String,
    /// What the carrier wrote; may be empty.
    pub description: String,
    /// The source's id of it; may be empty.
    pub source_event_id: String,
}

/// What became of an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The store has no such shipment.
    UnknownShipment,
    /// It was heard.
    Heard(ShipmentId, Heard),
}

/// Hands in what carriers said.
#[derive(Debug)]
pub struct RecordTracking<'a> {
    /// Where it is told.
    pub log: &'a Log,
    /// The time.
    pub now: DateTime<Utc>,
    /// Whose shipments.
    pub tenant: Tenant,
    /// What was said.
    pub updates: Vec<Update>,
}

impl UseCase for RecordTracking<'_> {
    /// One outcome per update, in their order.
    type Output = Vec<Outcome>;
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<Vec<Outcome>, Error> {
        let Tenant {
            merchant_id,
            store_id,
        } = self.tenant;
        let references: Vec<&Reference> = self.updates.iter().map(|update| &update.reference).collect();
        let found = tracking::resolve(tx.conn(), merchant_id, store_id, &references).await?;
        let known: Vec<(&Update, Scan)> = self
            .updates
            .iter()
            .zip(&found)
            .filter_map(|(update, found)| Some((update, scan(update, (*found)?.0))))
            .collect();
        if known.is_empty() {
            return Ok(vec![Outcome::UnknownShipment; self.updates.len()]);
        }

        let shipments: BTreeSet<ShipmentId> = found.iter().flatten().map(|(shipment, _)| *shipment).collect();
        let orders: BTreeSet<OrderId> = found.iter().flatten().map(|(_, order)| *order).collect();
        let rows = orders::lock(tx.conn(), &orders).await?;
        let tracked = tracking::standings(tx.conn(), &shipments).await?;
        let scans: Vec<Scan> = known.iter().map(|(_, scan)| scan.clone()).collect();
        let mut heard = tracking::heard_before(tx.conn(), &scans).await?;

        let mut standings = tracked
            .iter()
            .map(|(id, tracked)| (*id, tracked.standing))
            .collect();
        let outcomes = decide(&scans, &mut standings, &mut heard, self.now);
        let mut effects = Effects::new(rows, tracked);
        effects.load_parcels(tx.conn(), &scans, &outcomes).await?;
        for (scan, heard) in scans.iter().zip(&outcomes) {
            effects.apply(scan, *heard, self.now).map_err(Error::from)?;
        }
        for (id, standing) in standings {
            effects.stand(id, standing);
        }
        effects.write(tx, &known, &outcomes, self.now).await?;
        tell(tx, self.log, &effects.announcements, &[]).await?;

        let mut answers = scans.iter().zip(outcomes);
        Ok(found
            .iter()
            .map(|found| match found.and_then(|_| answers.next()) {
                Some((scan, Some(heard))) => Outcome::Heard(scan.shipment, heard),
                _ => Outcome::UnknownShipment,
            })
            .collect())
    }
}

fn scan(update: &Update, shipment: ShipmentId) -> Scan {
    Scan {
        shipment,
        status: update.status,
        occurred_at: update.occurred_at,
        source_event_id: update.source_event_id.clone(),
    }
}

/// What the scans of a request do to shipments and their orders.
struct Effects {
    orders: BTreeMap<OrderId, OrderRow>,
    shipments: BTreeMap<ShipmentId, Tracked>,
    parcels: HashMap<ShipmentId, Vec<Parcel>>,
    changed: BTreeMap<OrderId, Progress>,
    announcements: Vec<Announcement>,
}

impl Effects {
    fn new(orders: BTreeMap<OrderId, OrderRow>, shipments: BTreeMap<ShipmentId, Tracked>) -> Self {
        Self {
            orders,
            shipments,
            parcels: HashMap::new(),
            changed: BTreeMap::new(),
            announcements: Vec::new(),
        }
    }

    /// Arrivals, and arrivals taken back, count units: what is in those shipments has to be known.
    async fn load_parcels(
        &mut self,
        conn: &mut PgConnection,
        scans: &[Scan],
        outcomes: &[Option<Heard>],
    ) -> Result<(), StoreError> {
        let counted = |heard: &Option<Heard>| {
            matches!(
                heard,
                Some(
                    Heard::Advanced {
                        from: ShipmentStatus::Delivered,
                        ..
                    } | Heard::Advanced {
                        to: ShipmentStatus::Delivered,
                        ..
                    }
                )
            )
        };
        let ids: BTreeSet<Uuid> = scans
            .iter()
            .zip(outcomes)
            .filter(|(_, heard)| counted(heard))
            .map(|(scan, _)| scan.shipment.uuid())
            .collect();
        if !ids.is_empty() {
            let ids: Vec<Uuid> = ids.into_iter().collect();
            self.parcels = shipments::parcels(conn, &ids).await?;
        }
        Ok(())
    }

    fn apply(&mut self, scan: &Scan, heard: Option<Heard>, now: DateTime<Utc>) -> Result<(), ProgressError> {
        let Some(Heard::Advanced { from, to }) = heard else {
            return Ok(());
        };
        let Some(shipment) = self.shipments.get_mut(&scan.shipment) else {
            return Ok(());
        };
        let Some(order) = self.orders.get_mut(&shipment.order) else {
            return Ok(());
        };
        let parcels = self.parcels.get(&scan.shipment).cloned().unwrap_or_default();
        let units = parcels.iter().map(|parcel| parcel.units).sum();
        // Nothing was seen in the future, whatever the carrier's clock says.
        let at = scan.occurred_at.min(now);

        shipment.version += 1;
        if from == ShipmentStatus::Delivered {
            order.progress.undeliver(units)?;
        }
        let news = if to == ShipmentStatus::Delivered {
            order.progress.deliver(units)?;
            shipment.delivered_at = Some(at);
            News::Delivered {
                shipment: scan.shipment,
                parcels,
                carrier: shipment.carrier.clone(),
                order_fully_delivered: order.progress.is_fully_delivered(),
            }
        } else {
            News::StatusChanged {
                shipment: scan.shipment,
                from,
                to,
            }
        };
        self.changed.insert(shipment.order, order.progress);
        self.announcements.push(Announcement {
            merchant: order.merchant,
            store: order.store,
            order: shipment.order,
            version: shipment.version,
            at,
            news,
        });
        Ok(())
    }

    fn stand(&mut self, id: ShipmentId, standing: crate::domain::tracking::Standing) {
        if let Some(shipment) = self.shipments.get_mut(&id) {
            shipment.standing = standing;
        }
    }

    async fn write(
        &mut self,
        tx: &mut Tx,
        known: &[(&Update, Scan)],
        outcomes: &[Option<Heard>],
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let new: Vec<NewScan<'_>> = known
            .iter()
            .zip(outcomes)
            .filter(|(_, heard)| matches!(heard, Some(Heard::Advanced { .. } | Heard::Recorded(_))))
            .map(|((update, scan), _)| NewScan {
                id: TrackingEventId::generate(),
                scan,
                location: &update.location,
                description: &update.description,
            })
            .collect();
        let heard: BTreeSet<ShipmentId> = new.iter().map(|new| new.scan.shipment).collect();
        tracking::insert(tx.conn(), &new, now).await?;
        self.shipments.retain(|id, _| heard.contains(id));
        tracking::save(tx.conn(), &self.shipments).await?;
        // Also where no unit moved: the row's guard keeps the order of the log.
        orders::save(tx.conn(), &self.changed).await?;
        Ok(())
    }
}
