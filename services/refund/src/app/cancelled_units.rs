//! Units of an order were cancelled: what was captured for them goes back, and they can never be paid back again.
//!
//! The units are named by the event, as the order service cut them: what goes back is what exactly these cost. The work of a
//! job and not of the fold, as for a whole order. Both may come in either order: whoever is second finds the units taken.

use waybill_kernel::id::{CancellationId, LineId, OrderId};
use waybill_store::jobs::Job;
use waybill_store::{Tx, UseCase};

use super::{Aftermath, Core, NewRefund, SYSTEM, book_entries, claim, create};
use crate::domain::book::Tenant;
use crate::domain::compose::{self, Plan};
use crate::domain::journal::{self, Entry};
use crate::domain::refund::{Refund, refund_because};
use crate::domain::units::UnitSet;
use crate::error::Error;
use crate::store;
use crate::store::book::Loaded;

/// Money of cancelled units goes back.
#[derive(Debug)]
pub struct CancelledUnits<'a> {
    /// What use cases share.
    pub core: &'a Core,
    /// Whose order.
    pub tenant: Tenant,
    /// The order.
    pub order_id: OrderId,
    /// The cancellation.
    pub cancellation_id: CancellationId,
    /// Its units.
    pub units: Vec<(LineId, UnitSet)>,
    /// What goes back, as the order service worked it out; none where it did not.
    pub told: Option<i64>,
    /// The job, ended in the same transaction: so it happens once.
    pub job: Option<&'a Job>,
}

impl UseCase for CancelledUnits<'_> {
    type Output = Option<Refund>;
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<Option<Refund>, Error> {
        let refund = self.refund(tx).await?;
        if let Some(job) = self.job {
            job.complete(tx).await?;
        }
        Ok(refund)
    }
}

impl CancelledUnits<'_> {
    async fn refund(&self, tx: &mut Tx) -> Result<Option<Refund>, Error> {
        let loaded = store::book::lock(tx.conn(), self.tenant, self.order_id).await?;
        let loaded = loaded.ok_or(Error::OrderNotFound(self.order_id))?;
        let plan = compose::for_cancelled_units(&loaded.book, &self.units, self.told)?;
        if plan.amount == 0 {
            self.write_off(tx, &loaded, &plan).await?;
            return Ok(None);
        }
        let new = NewRefund {
            refund_id: Some(refund_because(
                self.order_id,
                &format!("lines_cancelled:{}", self.cancellation_id),
            )),
            return_id: None,
            reason_key: "lines_cancelled",
            reason: "a part of the order was cancelled",
            requested_by: SYSTEM,
        };
        let mut aftermath = Aftermath::default();
        let refund = create(self.core, tx, &loaded, plan, new, &mut aftermath).await?;
        self.core.finish(tx, aftermath).await?;
        Ok(Some(refund))
    }

    /// Nothing was paid for the units: they are taken, and what was sold is taken back in the books alone.
    async fn write_off(&self, tx: &mut Tx, loaded: &Loaded, plan: &Plan) -> Result<(), Error> {
        let book = &loaded.book;
        let claims: Vec<_> = plan
            .components
            .iter()
            .filter_map(|part| claim(book, part))
            .collect();
        if claims.is_empty() {
            return Ok(());
        }
        store::claims::take_unpaid(tx.conn(), self.order_id, self.cancellation_id, &claims).await?;
        let posting = journal::refund_accrued(&plan.components);
        let entry = Entry::new(
            book,
            "sale_lines_cancelled",
            self.cancellation_id.to_string(),
            posting,
        );
        book_entries(tx, &[entry], self.core.now()).await
    }
}
