//! Takes a failed leg up again, under a new attempt with a new key. Only possible because the provider said no.

use waybill_kernel::id::{LegId, RefundId};
use waybill_store::{StoreError, Tx, UseCase};

use super::approve_refund::load;
use super::{Aftermath, Core, book_entries};
use crate::domain::book::Tenant;
use crate::domain::compose;
use crate::domain::refund::Refund;
use crate::domain::settle::{self, Delta};
use crate::error::Error;
use crate::store;

/// The wish to send a failed leg again.
#[derive(Debug)]
pub struct RetryLeg<'a> {
    /// What use cases share.
    pub core: &'a Core,
    /// Whose refund.
    pub tenant: Tenant,
    /// The refund.
    pub refund_id: RefundId,
    /// The leg.
    pub leg_id: LegId,
}

impl UseCase for RetryLeg<'_> {
    type Output = Refund;
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<Refund, Error> {
        let (loaded, mut refund) = load(tx, self.tenant, self.refund_id).await?;
        let (book, now) = (&loaded.book, self.core.now());
        if refund.leg(self.leg_id).is_none() {
            return Err(Error::NoSuchLeg(self.leg_id));
        }
        if store::calls::is_breached(tx.conn(), self.leg_id, None).await? {
            return Err(Error::ProviderContradicts(self.leg_id));
        }
        let held = refund.holds;
        let before = refund.clone();
        let amount = refund.retry(self.leg_id)?;
        // By the refund as it was: what must be there depends on whether it still held its units.
        compose::affords_retry(book, &before, self.leg_id)?;
        let mut entries = Vec::new();
        if !held {
            store::claims::retake_refund(tx.conn(), refund.refund_id)
                .await
                .map_err(|error| match error {
                    StoreError::Exclusion { .. } => Error::UnitsTakenMeanwhile(refund.refund_id),
                    other => other.into(),
                })?;
            entries.push(settle::accrue(book, &mut refund));
        }
        let leg = refund.leg(self.leg_id).ok_or(Error::NoSuchLeg(self.leg_id))?;
        store::calls::begin_attempt(tx.conn(), self.tenant, leg).await?;
        let promised = (
            leg.payment_id,
            Delta {
                in_flight: amount,
                ..Delta::default()
            },
        );
        store::book::move_money(tx.conn(), book.order_id, &[promised]).await?;
        book_entries(tx, &entries, now).await?;
        refund.version = store::refunds::update(tx.conn(), &refund, now).await?;
        let mut aftermath = Aftermath::default();
        aftermath.submit(self.tenant, book.order_id, &refund.legs);
        self.core.finish(tx, aftermath).await?;
        Ok(refund)
    }
}
