//! The second pair of eyes: a refund above the policy's limit goes out only when another person agrees.

use waybill_kernel::id::RefundId;
use waybill_store::{Tx, UseCase};

use super::{Aftermath, Core, lock};
use crate::domain::book::Tenant;
use crate::domain::refund::Refund;
use crate::error::Error;
use crate::store;
use crate::store::book::Loaded;

/// The agreement to a refund.
#[derive(Debug)]
pub struct ApproveRefund<'a> {
    /// What use cases share.
    pub core: &'a Core,
    /// Whose refund.
    pub tenant: Tenant,
    /// The refund.
    pub refund_id: RefundId,
    /// Who agrees.
    pub caller: String,
}

impl UseCase for ApproveRefund<'_> {
    type Output = Refund;
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<Refund, Error> {
        let (loaded, mut refund) = load(tx, self.tenant, self.refund_id).await?;
        refund.approve(&self.caller)?;
        if refund.requested_by == self.caller {
            return Err(Error::SamePerson(refund.refund_id));
        }
        refund.version = store::refunds::update(tx.conn(), &refund, self.core.now()).await?;
        let mut aftermath = Aftermath::default();
        aftermath.submit(self.tenant, loaded.book.order_id, &refund.legs);
        self.core.finish(tx, aftermath).await?;
        Ok(refund)
    }
}

/// A refund and its order, under the order's lock.
pub(super) async fn load(
    tx: &mut Tx,
    tenant: Tenant,
    refund_id: RefundId,
) -> Result<(Loaded, Refund), Error> {
    let order_id = store::book::order_of_refund(tx.conn(), tenant, refund_id.uuid())
        .await?
        .ok_or(Error::RefundNotFound(refund_id))?;
    let loaded = lock(tx, tenant, order_id).await?;
    let refund = store::refunds::get(tx.conn(), tenant, refund_id)
        .await?
        .ok_or(Error::RefundNotFound(refund_id))?;
    Ok((loaded, refund))
}
