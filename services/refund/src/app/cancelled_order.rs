//! An order was cancelled: everything that was captured goes back, also what is captured afterwards.
//!
//! The work of a job and not of the fold, so that many cancellations at once hold nobody up.

use waybill_kernel::id::{OrderId, PaymentId};
use waybill_store::jobs::Job;
use waybill_store::{Tx, UseCase};

use super::{Aftermath, Core, NewRefund, SYSTEM, create};
use crate::domain::book::{Book, Tenant};
use crate::domain::compose::{self, Refusal};
use crate::domain::journal::{self, Entry};
use crate::domain::refund::{Refund, refund_because};
use crate::error::Error;
use crate::store;

/// Money of a cancelled order goes back.
#[derive(Debug)]
pub struct CancelledOrder<'a> {
    /// What use cases share.
    pub core: &'a Core,
    /// Whose order.
    pub tenant: Tenant,
    /// The order.
    pub order_id: OrderId,
    /// What was captured after the cancellation, and by which payment; none for the cancellation itself.
    pub late_capture: Option<(PaymentId, i64)>,
    /// The job, ended in the same transaction: so it happens once.
    pub job: Option<&'a Job>,
}

impl UseCase for CancelledOrder<'_> {
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

impl CancelledOrder<'_> {
    async fn refund(&self, tx: &mut Tx) -> Result<Option<Refund>, Error> {
        let loaded = store::book::lock(tx.conn(), self.tenant, self.order_id).await?;
        let loaded = loaded.ok_or(Error::OrderNotFound(self.order_id))?;
        let book = &loaded.book;
        let plan = match self.late_capture {
            Some((_, captured)) => compose::for_late_capture(book, captured),
            None => compose::for_cancellation(book),
        };
        let plan = match plan {
            Ok(plan) => plan,
            Err(Refusal::NothingToPay | Refusal::NothingCaptured) => {
                if self.late_capture.is_none() {
                    self.write_off(tx, book).await?;
                }
                return Ok(None);
            }
            Err(refusal) => return Err(refusal.into()),
        };
        // Of what was captured later there may be several.
        let cause = match self.late_capture {
            Some((payment_id, _)) => format!("late:{payment_id}"),
            None => "order_cancelled".to_owned(),
        };
        let new = NewRefund {
            refund_id: Some(refund_because(self.order_id, &cause)),
            return_id: None,
            reason_key: "order_cancelled",
            reason: "the order was cancelled",
            requested_by: SYSTEM,
        };
        let mut aftermath = Aftermath::default();
        let refund = create(self.core, tx, &loaded, plan, new, &mut aftermath).await?;
        self.core.finish(tx, aftermath).await?;
        Ok(Some(refund))
    }

    /// Nothing was paid: what was sold is taken back in the books alone.
    async fn write_off(&self, tx: &mut Tx, book: &Book) -> Result<(), Error> {
        let source = book.order_id.to_string();
        let entry = Entry::new(book, "sale_cancelled", source, journal::sale_cancelled(book));
        store::journal::insert(tx.conn(), &[entry], self.core.now()).await?;
        Ok(())
    }
}
