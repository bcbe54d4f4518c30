//! Takes in what the order and refund services tell: orders, payments, holds, cancellations, returned goods.
//!
//! A batch of events is first turned into [`Facts`], which are then written in two halves. [`Facts::project`] keeps the
//! copy of the orders and may run again at any time; [`Facts::react`] moves stock and must run once per event.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;
use waybill_kernel::id::{LineId, MerchantId, OrderId};
use waybill_store::StoreError;

use super::allot::{self, Changes, Settled};
use crate::domain::clearance::Kind;
use crate::domain::release::Cancelled;
use crate::domain::stock::Sku;
use crate::store::projection::{self, AddedLines, Cancellation, PaymentEntry, PlacedOrder};
use crate::store::{orders, stock, tracking};

/// What a batch of events tells.
#[derive(Debug, Default)]
pub struct Facts {
    /// New orders.
    pub placed: Vec<PlacedOrder>,
    /// Lines that were added to orders that were taken in before.
    pub added: Vec<AddedLines>,
    /// What payment providers did.
    pub payments: Vec<PaymentEntry>,
    /// What cancelled units did to the money of orders that go on.
    pub cancellations: Vec<Cancellation>,
    /// Holds that began: order, hold.
    pub held: Vec<(OrderId, Uuid)>,
    /// Holds that ended: order, hold.
    pub released: Vec<(OrderId, Uuid)>,
    /// The newest version of each order that is told of.
    pub versions: BTreeMap<OrderId, i64>,
    /// Cancelled orders.
    pub cancelled: BTreeSet<OrderId>,
    /// Orders whose customer was forgotten.
    pub erased: BTreeSet<OrderId>,
    /// Cancelled units of orders that go on.
    pub units_cancelled: BTreeMap<(OrderId, LineId), Cancelled>,
    /// Units that came back and are to be sold again.
    pub returned: BTreeMap<(OrderId, LineId), i64>,
}

impl Facts {
    /// Brings the copy of the orders up to date.
    ///
    /// # Errors
    /// As the database answers.
    pub async fn project(&self, conn: &mut PgConnection) -> Result<(), StoreError> {
        projection::place(conn, &self.placed).await?;
        projection::add_lines(conn, &self.added).await?;
        projection::cancel(conn, &self.cancellations).await?;
        projection::pay(conn, &self.payments).await?;
        projection::hold(conn, &self.held, &self.released).await?;
        projection::erase(conn, &self.erased).await?;
        projection::see_versions(conn, &self.versions).await
    }

    /// Reserves stock for new orders and lines, lets go of what cancelled ones hold, puts returned goods back on the shelf,
    /// empties what carriers wrote about those whose customer was forgotten.
    ///
    /// # Errors
    /// As the database answers.
    pub async fn react(&self, conn: &mut PgConnection, now: DateTime<Utc>) -> Result<Settled, StoreError> {
        let settled = self.settle(conn, now).await?;
        tracking::forget(conn, &self.erased).await?;
        Ok(settled)
    }

    /// Orders that may no longer ship: held ones, and those with less money or more to be paid.
    fn stopped(&self) -> BTreeSet<OrderId> {
        let held = self.held.iter().map(|(order, _)| *order);
        let voids = (self.payments.iter()).filter(|payment| Kind::parse(&payment.kind) == Some(Kind::Void));
        held.chain(voids.map(|payment| payment.order))
            .chain(self.added.iter().map(|edit| edit.order))
            .collect()
    }

    async fn settle(&self, conn: &mut PgConnection, now: DateTime<Utc>) -> Result<Settled, StoreError> {
        let stopped = self.stopped();
        if self.placed.is_empty()
            && self.added.is_empty()
            && self.cancelled.is_empty()
            && self.units_cancelled.is_empty()
            && self.returned.is_empty()
        {
            // F-12: nothing moves, but shipments of these must not be made of what was known before.
            orders::lock(conn, &stopped).await?;
            return Ok(Settled::default());
        }
        let skus = self.skus(conn).await?;
        let locked = stock::lock_skus(conn, skus).await?;
        let late: Vec<(OrderId, LineId)> = (self.added.iter())
            .flat_map(|edit| edit.lines.iter().map(|line| (edit.order, line.line)))
            .collect();
        let changes = Changes {
            placed: &self.placed,
            late: projection::latecomers(conn, &late).await?,
            cancelled: self.cancelled.clone(),
            units_cancelled: self.units_cancelled.clone(),
            returned: self.returned.clone(),
            stopped,
        };
        allot::settle(conn, &locked, &changes, now).await
    }

    /// Every sku that may have to move.
    async fn skus(&self, conn: &mut PgConnection) -> Result<BTreeSet<(MerchantId, Sku)>, StoreError> {
        let older: BTreeSet<OrderId> = self
            .cancelled
            .iter()
            .copied()
            .chain(self.units_cancelled.keys().map(|(order, _)| *order))
            .chain(self.returned.keys().map(|(order, _)| *order))
            .chain(self.added.iter().map(|edit| edit.order))
            .collect();
        let older: Vec<OrderId> = older.into_iter().collect();
        let mut skus: BTreeSet<_> = projection::skus_of(conn, &older).await?.into_iter().collect();
        for order in &self.placed {
            let goods = order.lines.iter().filter(|line| !line.digital);
            skus.extend(goods.map(|line| (order.merchant, line.sku.clone())));
        }
        Ok(skus)
    }
}
