//! Asks for a return: the policy decides what may come back, and approves at once where it says so.
//!
//! The units that were quoted are taken hold of here, so that nothing else is paid back for them meanwhile and the refund
//! is what was promised.

use waybill_kernel::id::{OrderId, ReturnId};
use waybill_store::{Tx, UseCase};

use super::{Aftermath, Core, NewRefund, book_entries, create, frozen_policy, seen};
use crate::domain::book::{Book, LineKind, Tenant};
use crate::domain::compose::{self, Plan};
use crate::domain::decision::{self, LineDecision, Quote, Wish};
use crate::domain::facts::Fact;
use crate::domain::journal::{self, Entry};
use crate::domain::policy::{Policy, RefundTiming};
use crate::domain::returns::{Return, ReturnLine, ReturnState};
use crate::domain::units::UnitSet;
use crate::error::{Error, unknown_line};
use crate::events::Scene;
use crate::store;
use crate::store::book::Loaded;
use crate::store::claims::{self, Claim};

/// The wish to return something.
#[derive(Debug)]
pub struct RequestReturn<'a> {
    /// What use cases share.
    pub core: &'a Core,
    /// Whose order.
    pub tenant: Tenant,
    /// The order.
    pub order_id: OrderId,
    /// What comes back.
    pub wishes: Vec<Wish>,
    /// The order must be known in this version or a later one.
    pub min_order_version: i64,
    /// Who asks.
    pub caller: String,
}

impl UseCase for RequestReturn<'_> {
    type Output = Return;
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<Return, Error> {
        let loaded = store::book::lock(tx.conn(), self.tenant, self.order_id).await?;
        let loaded = seen(loaded, self.order_id, self.min_order_version)?;
        let (book, now) = (&loaded.book, self.core.now());
        let policy = frozen_policy(tx, &loaded).await?;
        let quote = decision::evaluate(&policy, book, &self.wishes, now)
            .map_err(|unknown| unknown_line(unknown.index, unknown.line_id))?;
        if let Some(line) = quote.lines.iter().find(|line| !line.eligible()) {
            return Err(refused(line));
        }
        let automatic = quote.auto_approve;
        let mut requested = self.draft(book, quote);
        store::returns::insert(tx.conn(), self.tenant, &requested).await?;
        take_units(tx, book, &requested).await?;

        let lines = requested.lines.clone();
        let mut facts = vec![Fact::ReturnRequested {
            return_id: requested.return_id,
            lines,
        }];
        if automatic {
            facts.push(Fact::ReturnApproved {
                return_id: requested.return_id,
                automatic: true,
            });
        }
        let mut aftermath = Aftermath::default();
        aftermath.tell(&Scene::of(book, requested.version, now), &facts);
        if automatic {
            pay_on_approval(self.core, tx, &loaded, &policy, &mut requested, &mut aftermath).await?;
        }
        self.core.finish(tx, aftermath).await?;
        Ok(requested)
    }
}

impl RequestReturn<'_> {
    fn draft(&self, book: &Book, quote: Quote) -> Return {
        let now = self.core.now();
        let lines = quote.lines.iter().map(|line| ReturnLine {
            line_id: line.line_id,
            sku: line.sku.clone(),
            quantity: line.quantity,
            reason: line.reason,
            disposition: None,
        });
        Return {
            return_id: ReturnId::generate(),
            order_id: book.order_id,
            state: if quote.auto_approve {
                ReturnState::Approved
            } else {
                ReturnState::Requested
            },
            lines: lines.collect(),
            quote,
            currency: book.currency.code().to_owned(),
            decline_reason: String::new(),
            refund_id: None,
            requested_by: self.caller.clone(),
            requested_at: now,
            updated_at: now,
            version: 1,
        }
    }
}

fn refused(line: &LineDecision) -> Error {
    let codes: Vec<_> = line.codes.iter().map(|code| code.as_str()).collect();
    Error::NotReturnable {
        line_id: line.line_id,
        codes: codes.join(", "),
        explanation: line.explanation.clone(),
    }
}

async fn take_units(tx: &mut Tx, book: &Book, requested: &Return) -> Result<(), Error> {
    let one = UnitSet::all(1);
    let goods = requested.quote.lines.iter().filter_map(|decision| {
        let line = book.line(LineKind::Goods, decision.line_id)?;
        Some(Claim {
            line_id: line.line_id,
            quantity: line.quantity,
            units: &decision.units,
            goods: true,
        })
    });
    let shipping = requested.quote.shipping_lines.iter().map(|line_id| Claim {
        line_id: *line_id,
        quantity: 1,
        units: &one,
        goods: false,
    });
    let all: Vec<_> = goods.chain(shipping).collect();
    claims::take(tx.conn(), book.order_id, Some(requested.return_id), None, &all).await?;
    Ok(())
}

/// Creates the refund of an approved return where the policy pays before the goods are back.
pub(super) async fn pay_on_approval(
    core: &Core,
    tx: &mut Tx,
    loaded: &Loaded,
    policy: &Policy,
    approved: &mut Return,
    aftermath: &mut Aftermath,
) -> Result<(), Error> {
    if policy.refund_timing != RefundTiming::OnApproval {
        return Ok(());
    }
    // What is worth nothing may be paid for until the goods are back: that is decided then, and booked once.
    if worth(loaded, policy, approved)?.amount == 0 {
        return Ok(());
    }
    pay(core, tx, loaded, policy, approved, aftermath).await?;
    if approved.refund_id.is_some() {
        approved.version = store::returns::update(tx.conn(), approved).await?;
    }
    Ok(())
}

/// What goes back for a return, as the order stands.
fn worth(loaded: &Loaded, policy: &Policy, of: &Return) -> Result<Plan, Error> {
    Ok(compose::for_return(&loaded.book, policy, &of.quote, |line_id| {
        of.counts(line_id)
    })?)
}

/// Creates the refund of a return for what counts of it, and hands its units over. A return that is worth nothing, or that was never paid, has no
/// refund. What did not come back is let go of. The caller writes the return.
pub(super) async fn pay(
    core: &Core,
    tx: &mut Tx,
    loaded: &Loaded,
    policy: &Policy,
    of: &mut Return,
    aftermath: &mut Aftermath,
) -> Result<(), Error> {
    let plan = worth(loaded, policy, of)?;
    let paid_lines: Vec<_> = plan.components.iter().filter_map(|part| part.line_id).collect();
    if plan.amount == 0 {
        let posting = journal::refund_accrued(&plan.components);
        let entry = Entry::new(&loaded.book, "sale_returned", of.return_id.to_string(), posting);
        book_entries(tx, &[entry], core.now()).await?;
        claims::hand_to_refund(tx.conn(), of.return_id, None, &paid_lines).await?;
        return Ok(());
    }
    let reason = of.reason();
    let new = NewRefund {
        refund_id: None,
        return_id: Some(of.return_id),
        reason_key: reason.key(),
        reason: &format!("returned because {}", reason.words()),
        requested_by: &of.requested_by,
    };
    let refund = create(core, tx, loaded, plan, new, aftermath).await?;
    claims::hand_to_refund(tx.conn(), of.return_id, Some(refund.refund_id), &paid_lines).await?;
    of.refund_id = Some(refund.refund_id);
    Ok(())
}
