//! Goods came back: what was done with them is noted, and their money goes back where the policy waited for them.

use waybill_kernel::check::Violations;
use waybill_kernel::id::{LineId, ReturnId};
use waybill_store::{Tx, UseCase};

use super::decide_return::load;
use super::request_return::pay;
use super::{Aftermath, Core, check_etag, frozen_policy};
use crate::domain::book::Tenant;
use crate::domain::facts::Fact;
use crate::domain::refund::RefundState;
use crate::domain::returns::{Disposition, Return, ReturnState};
use crate::error::Error;
use crate::events::Scene;
use crate::store;

/// The word that goods came back.
#[derive(Debug)]
pub struct ReceiveReturn<'a> {
    /// What use cases share.
    pub core: &'a Core,
    /// Whose return.
    pub tenant: Tenant,
    /// The return.
    pub return_id: ReturnId,
    /// When not empty, the return must still have it.
    pub etag: String,
    /// What came back; all of it, to be restocked, when empty.
    pub received: Vec<(LineId, Disposition)>,
}

impl UseCase for ReceiveReturn<'_> {
    type Output = Return;
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<Return, Error> {
        let (loaded, mut received) = load(tx, self.tenant, self.return_id).await?;
        check_etag(&self.etag, received.version)?;
        self.check_lines(&received)?;
        let now = self.core.now();
        let return_id = received.return_id;
        received.go(ReturnState::Received)?;
        received.receive(&self.received);
        received.updated_at = now;

        let mut aftermath = Aftermath::default();
        let mut facts = vec![Fact::ReturnReceived {
            return_id,
            lines: received.lines.clone(),
        }];
        let paid = match received.refund_id {
            // It was paid when it was approved, or is on its way.
            Some(refund_id) => {
                let refund = store::refunds::get(tx.conn(), self.tenant, refund_id).await?;
                refund.is_some_and(|refund| refund.state == RefundState::Succeeded)
            }
            None => {
                let policy = frozen_policy(tx, &loaded).await?;
                pay(self.core, tx, &loaded, &policy, &mut received, &mut aftermath).await?;
                // What is worth nothing is paid by doing nothing.
                received.refund_id.is_none()
            }
        };
        if paid {
            received.go(ReturnState::Completed)?;
            facts.push(Fact::ReturnCompleted { return_id });
        }
        received.version = store::returns::update(tx.conn(), &received).await?;
        aftermath.tell(&Scene::of(&loaded.book, received.version, now), &facts);
        self.core.finish(tx, aftermath).await?;
        Ok(received)
    }
}

impl ReceiveReturn<'_> {
    fn check_lines(&self, of: &Return) -> Result<(), Error> {
        let mut violations = Violations::new();
        for (index, (line_id, _)) in self.received.iter().enumerate() {
            if !of.lines.iter().any(|line| line.line_id == *line_id) {
                violations.push(
                    format!("lines[{index}].line_id"),
                    format!("{line_id} is not a line of this return"),
                );
            }
        }
        violations.into_result().map_err(Error::Invalid)
    }
}
