//! A person approves or declines a return.

use waybill_kernel::id::ReturnId;
use waybill_store::{Tx, UseCase};

use super::request_return::pay_on_approval;
use super::{Aftermath, Core, check_etag, frozen_policy, lock};
use crate::domain::book::Tenant;
use crate::domain::facts::Fact;
use crate::domain::returns::{Return, ReturnState};
use crate::error::Error;
use crate::events::Scene;
use crate::store;
use crate::store::book::Loaded;

/// What is decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The goods may come back.
    Approve,
    /// They may not, for this reason.
    Decline {
        /// What the customer is told; not kept once the customer was forgotten.
        reason: String,
    },
}

/// A decision on a return.
#[derive(Debug)]
pub struct DecideReturn<'a> {
    /// What use cases share.
    pub core: &'a Core,
    /// Whose return.
    pub tenant: Tenant,
    /// The return.
    pub return_id: ReturnId,
    /// When not empty, the return must still have it.
    pub etag: String,
    /// What is decided.
    pub verdict: Verdict,
}

impl UseCase for DecideReturn<'_> {
    type Output = Return;
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<Return, Error> {
        let (loaded, mut decided) = load(tx, self.tenant, self.return_id).await?;
        check_etag(&self.etag, decided.version)?;
        let now = self.core.now();
        let return_id = decided.return_id;
        decided.updated_at = now;
        let fact = match &self.verdict {
            Verdict::Approve => {
                decided.go(ReturnState::Approved)?;
                Fact::ReturnApproved {
                    return_id,
                    automatic: false,
                }
            }
            Verdict::Decline { reason } => {
                decided.go(ReturnState::Declined)?;
                if !loaded.contact_erased {
                    decided.decline_reason.clone_from(reason);
                }
                store::claims::hand_to_refund(tx.conn(), return_id, None, &[]).await?;
                Fact::ReturnDeclined { return_id }
            }
        };
        decided.version = store::returns::update(tx.conn(), &decided).await?;
        let mut aftermath = Aftermath::default();
        aftermath.tell(&Scene::of(&loaded.book, decided.version, now), &[fact]);
        if self.verdict == Verdict::Approve {
            let policy = frozen_policy(tx, &loaded).await?;
            pay_on_approval(self.core, tx, &loaded, &policy, &mut decided, &mut aftermath).await?;
        }
        self.core.finish(tx, aftermath).await?;
        Ok(decided)
    }
}

/// A return and its order, under the order's lock.
pub(super) async fn load(
    tx: &mut Tx,
    tenant: Tenant,
    return_id: ReturnId,
) -> Result<(Loaded, Return), Error> {
    let order_id = store::book::order_of_return(tx.conn(), tenant, return_id.uuid())
        .await?
        .ok_or(Error::ReturnNotFound(return_id))?;
    let loaded = lock(tx, tenant, order_id).await?;
    let found = store::returns::get(tx.conn(), tenant, return_id)
        .await?
        .ok_or(Error::ReturnNotFound(return_id))?;
    Ok((loaded, found))
}
