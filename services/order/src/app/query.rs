//! Reading what is named: one order, several, a timeline. What is looked for is in `find`.

use waybill_kernel::id::OrderId;

use super::Orders;
use super::place::as_placed;
use crate::domain::fact::TimelineEntry;
use crate::domain::order::{Order, Tenant};
use crate::error::Error;
use crate::store::find::weight;
use crate::store::read::{Key, by_ids, find};
use crate::store::timeline::timeline;

/// Ids that may be asked for at once.
pub(crate) const MAX_BATCH_GET: usize = 200;

/// Lines that one answer may hold: twice the largest order. A page is cut short before it has more.
pub(super) const MAX_LINES_OF_ANSWER: i64 = 20_000;

impl Orders {
    /// One order.
    pub(crate) async fn get(&self, tenant: Tenant, key: &Key) -> Result<Order, Error> {
        if let Key::Id(order) = key {
            return self.lookups.get(tenant, *order).await;
        }
        let found = find(self.db.pool(), tenant, key).await?;
        Ok(found.ok_or(Error::OrderNotFound)?.order)
    }

    /// One order as it was when it was placed.
    pub(crate) async fn get_as_placed(&self, tenant: Tenant, order: OrderId) -> Result<Order, Error> {
        let found = find(self.db.pool(), tenant, &Key::Id(order)).await?;
        let placed = found.ok_or(Error::OrderNotFound)?;
        Ok(as_placed(placed.order, placed.created_at))
    }

    /// Orders in the order of the ids; those that are not there are left out.
    pub(crate) async fn get_all(&self, tenant: Tenant, ids: &[OrderId]) -> Result<Vec<Order>, Error> {
        let lines = weight(self.db.pool(), tenant, ids).await?;
        if lines > MAX_LINES_OF_ANSWER {
            return Err(Error::AnswerTooLarge {
                lines,
                most: MAX_LINES_OF_ANSWER,
            });
        }
        self.load(tenant, ids).await
    }

    /// Orders as [`Orders::get_all`], however many lines they have: for callers that know.
    pub(crate) async fn load(&self, tenant: Tenant, ids: &[OrderId]) -> Result<Vec<Order>, Error> {
        let found = by_ids(self.db.pool(), tenant, ids).await?;
        Ok(found.into_iter().map(|placed| placed.order).collect())
    }

    /// What happened to an order, oldest first.
    pub(crate) async fn timeline(&self, tenant: Tenant, order: OrderId) -> Result<Vec<TimelineEntry>, Error> {
        timeline(self.db.pool(), tenant, order)
            .await?
            .ok_or(Error::OrderNotFound)
    }
}
