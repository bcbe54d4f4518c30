//! The step before a provider is called: intent and key are committed here, or there is no call.

use waybill_kernel::id::LegId;
use waybill_kernel::money::{Currency, Money};
use waybill_payments::RefundRequest;
use waybill_store::jobs::Job;
use waybill_store::{StoreError, Tx, UseCase};

use super::apply_word::save;
use super::{Aftermath, Core, attempt_job, lock};
use crate::domain::refund::{Refund, RefundState};
use crate::domain::settle::{self, Outcome, Word};
use crate::error::Error;
use crate::events::Scene;
use crate::store;
use crate::store::book::Loaded;
use crate::store::calls::{Calls, Place};
use crate::workers;

/// Why a leg fails that nobody was asked to pay: its money left behind our back (R-1c).
const MONEY_GONE: &str = "exceeds_refundable";

/// A call that may be made.
#[derive(Debug, Clone)]
pub struct Call {
    /// What the provider is asked for; the same every time for one attempt.
    pub request: RefundRequest,
    /// The provider.
    pub provider: String,
    /// Calls of this attempt that were made before, with their times.
    pub before: Calls,
}

/// What is to be done about an attempt.
#[derive(Debug, Clone)]
pub enum Turn {
    /// Nothing: it is settled, given up, or waits for a person.
    Over,
    /// Call the provider: the intent is committed.
    Call(Box<Call>),
    /// It was called before and nobody knows what came of it: look it up first.
    Look(Box<Call>),
}

/// The wish to call a provider for an attempt of a leg.
#[derive(Debug)]
pub struct BeginCall<'a> {
    /// What use cases share.
    pub core: &'a Core,
    /// The leg.
    pub leg_id: LegId,
    /// The attempt.
    pub attempt: i32,
    /// The job whose work it is, if it is one's: nothing is begun once its kind is held.
    pub job: Option<&'a Job>,
    /// True when the provider was asked and has nothing of it, so that the same call may be made again.
    pub again: bool,
}

impl UseCase for BeginCall<'_> {
    type Output = Turn;
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<Turn, Error> {
        let Some(place) = store::calls::find_leg(tx.conn(), self.leg_id).await? else {
            return Ok(Turn::Over);
        };
        let loaded = lock(tx, place.tenant, place.order_id).await?;
        let mut refund = refund_of(tx, &place).await?;
        let state = refund
            .leg(self.leg_id)
            .filter(|leg| leg.attempt == self.attempt)
            .map(|leg| leg.state);
        let call = match state {
            Some(RefundState::Pending | RefundState::Submitted | RefundState::Unknown) => {
                self.call(tx, &refund).await?
            }
            _ => return Ok(Turn::Over),
        };
        if state != Some(RefundState::Pending) && !self.again {
            return Ok(Turn::Look(Box::new(call)));
        }
        if let Some(job) = self.job {
            job.still_allowed(tx).await?;
        }
        let uncovered = refund
            .leg(self.leg_id)
            .is_some_and(|leg| leg.state == RefundState::Pending && !loaded.book.covers(leg.payment_id));
        if uncovered {
            self.give_up(tx, &loaded, refund).await?;
            return Ok(Turn::Over);
        }
        let now = self.core.now();
        let facts = settle::submit(&mut refund, self.leg_id, now);
        store::calls::note_call(tx.conn(), self.leg_id, self.attempt, now).await?;
        refund.version = store::refunds::update(tx.conn(), &refund, now).await?;
        let mut aftermath = Aftermath::default();
        aftermath.tell(&Scene::of(&loaded.book, refund.version, now), &facts);
        self.core.finish(tx, aftermath).await?;
        Ok(Turn::Call(Box::new(call)))
    }
}

impl BeginCall<'_> {
    /// Fails a leg that nobody was asked to pay yet, as a refusal of its provider would.
    async fn give_up(&self, tx: &mut Tx, loaded: &Loaded, mut refund: Refund) -> Result<(), Error> {
        let word = Word {
            leg_id: self.leg_id,
            attempt: self.attempt,
            outcome: Outcome::Failed {
                reason: MONEY_GONE.to_owned(),
            },
            provider_refund_id: None,
            refused_before: false,
        };
        let effect = settle::hear(&loaded.book, &mut refund, &word, self.core.now());
        tracing::warn!(
            leg.id = %self.leg_id,
            refund.id = %refund.refund_id,
            order.id = %loaded.book.order_id,
            "a leg is not sent: its money left behind our back"
        );
        save(self.core, tx, loaded, &mut refund, &word, effect).await
    }

    async fn call(&self, tx: &mut Tx, refund: &Refund) -> Result<Call, Error> {
        let before = store::calls::calls_of(tx.conn(), self.leg_id, self.attempt).await?;
        let leg = refund.leg(self.leg_id).ok_or(Error::NoSuchLeg(self.leg_id))?;
        let currency = Currency::parse(&refund.currency).map_err(StoreError::decode)?;
        let request = RefundRequest {
            leg_id: self.leg_id,
            provider_payment_id: before.provider_payment_id.clone(),
            amount: Money::new(currency, leg.amount),
            idempotency_key: before.provider_key.clone(),
            reason: refund.reason_key.clone(),
            metadata: std::collections::BTreeMap::new(),
        };
        Ok(Call {
            request,
            provider: leg.provider.clone(),
            before,
        })
    }
}

/// Plans to ask the provider later what came of an attempt.
#[derive(Debug)]
pub struct FollowUp<'a> {
    /// What use cases share.
    pub core: &'a Core,
    /// The leg.
    pub leg_id: LegId,
    /// The attempt.
    pub attempt: i32,
    /// True when the provider did not answer: the leg is UNKNOWN until it does.
    pub unanswered: bool,
    /// How long to wait before asking.
    pub after: std::time::Duration,
}

impl UseCase for FollowUp<'_> {
    type Output = ();
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<(), Error> {
        let Some(place) = store::calls::find_leg(tx.conn(), self.leg_id).await? else {
            return Ok(());
        };
        let now = self.core.now();
        if self.unanswered {
            lock(tx, place.tenant, place.order_id).await?;
            let mut refund = refund_of(tx, &place).await?;
            if settle::lose_sight(&mut refund, self.leg_id, self.attempt) {
                store::refunds::update(tx.conn(), &refund, now).await?;
            }
        }
        let job = attempt_job(
            workers::RESOLVE,
            place.tenant,
            place.order_id,
            (self.leg_id, self.attempt),
            &place.provider,
        )
        .not_before(now + self.after);
        self.core
            .finish(
                tx,
                Aftermath {
                    jobs: vec![job],
                    ..Aftermath::default()
                },
            )
            .await?;
        Ok(())
    }
}

async fn refund_of(tx: &mut Tx, place: &Place) -> Result<Refund, Error> {
    let found = store::refunds::get(tx.conn(), place.tenant, place.refund_id).await?;
    found.ok_or(Error::RefundNotFound(place.refund_id))
}
