//! Before a provider is called, and after it has spoken.
//!
//! [`BeginCall`] commits that a call is about to be made, or there is no call (O-27). [`ApplyWord`] is the one way in which a
//! provider's word takes effect (O-29): the answer to a call and a lookup come here, and so does what somebody else tells of
//! an attempt in flight (`RecordPayment`), by [`hear`]. All of it under the order's lock, so two words at once are one after
//! the other, and by the rules of [`crate::domain::attempt`], so the second changes nothing.

use waybill_kernel::id::{OrderId, PaymentId};
use waybill_kernel::money::{Currency, Money};
use waybill_runtime::telemetry::current_traceparent;
use waybill_store::jobs::{self, Job};
use waybill_store::{StoreError, Tx, UseCase};

use super::{BELL, Orders};
use crate::domain::attempt::{Attempt, AttemptKind, AttemptState, Effect, Outcome};
use crate::domain::order::{Payment, Tenant};
use crate::domain::payment::PaymentKind;
use crate::domain::state::State;
use crate::error::Error;
use crate::events::{self, About, Told};
use crate::store::{attempts, change};
use crate::workers;

/// A call that may be made.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// The attempt, as it was before the call.
    pub attempt: Attempt,
    /// What its amount is in.
    pub currency: Currency,
}

/// What is to be done about an attempt.
#[derive(Debug)]
pub(crate) enum Turn {
    /// Nothing: it is settled.
    Over,
    /// Call the provider: the intent is committed.
    Call(Box<Call>),
    /// Ask the provider first what it has of it.
    Look(Box<Call>),
}

/// The wish to call a provider for an attempt.
pub(crate) struct BeginCall<'a> {
    /// The service.
    pub orders: &'a Orders,
    /// The attempt.
    pub attempt: PaymentId,
    /// The job whose work it is, if it is one's: nothing is begun once its kind is held.
    pub job: Option<&'a Job>,
    /// How often it had been called when the provider was asked and had nothing of it, so that the call may be made; none when
    /// the provider was not asked.
    pub asked_at: Option<i32>,
}

impl UseCase for BeginCall<'_> {
    type Output = Turn;
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<Turn, Error> {
        let Some(mut at) = locate(tx, self.attempt).await? else {
            return Ok(Turn::Over);
        };
        if !at.attempt.state.is_in_flight() {
            return Ok(Turn::Over);
        }
        let call = Box::new(Call {
            attempt: at.attempt.clone(),
            currency: at.currency,
        });
        // Somebody else may have called since: what was looked at says nothing then.
        if self.asked_at != Some(at.attempt.calls) {
            return Ok(Turn::Look(call));
        }
        if let Some(job) = self.job {
            job.still_allowed(tx).await?;
        }
        at.attempt.submit(self.orders.now());
        attempts::update(tx.conn(), &at.attempt).await?;
        Ok(Turn::Call(call))
    }
}

/// A provider's word.
pub(crate) struct ApplyWord<'a> {
    /// The service.
    pub orders: &'a Orders,
    /// The attempt that it is about.
    pub attempt: PaymentId,
    /// The provider's id of the capture or void, where it gave one.
    pub id: Option<String>,
    /// What it says.
    pub outcome: Outcome,
}

impl UseCase for ApplyWord<'_> {
    type Output = AttemptState;
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<AttemptState, Error> {
        let Some(at) = locate(tx, self.attempt).await? else {
            return Err(Error::AttemptNotFound);
        };
        let heard = hear(tx, self.orders, at, &self.outcome, self.id.as_deref()).await?;
        Ok(heard.attempt.state)
    }
}

/// Plans to ask the provider later what came of an attempt.
pub(crate) struct FollowUp<'a> {
    /// The service.
    pub orders: &'a Orders,
    /// The attempt.
    pub attempt: PaymentId,
    /// True when the provider did not answer: the attempt is UNKNOWN until it does.
    pub unanswered: bool,
    /// How long to wait before asking.
    pub after: std::time::Duration,
}

impl UseCase for FollowUp<'_> {
    type Output = ();
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<(), Error> {
        let Some(mut at) = locate(tx, self.attempt).await? else {
            return Ok(());
        };
        if !at.attempt.state.is_in_flight() {
            return Ok(());
        }
        if self.unanswered && at.attempt.lose_sight() {
            attempts::update(tx.conn(), &at.attempt).await?;
        }
        let job = workers::resolve_job(at.tenant, at.order, &at.attempt);
        let job = job.not_before(self.orders.now() + self.after);
        jobs::enqueue(tx, &[job]).await?;
        Ok(())
    }
}

/// An attempt and its order, which is locked.
pub(super) struct Located {
    /// Whose order.
    pub tenant: Tenant,
    /// The order.
    pub order: OrderId,
    /// What its amounts are in.
    pub currency: Currency,
    /// Where it stands.
    pub state: State,
    /// The attempt.
    pub attempt: Attempt,
}

/// Locks the order of an attempt, and reads the attempt then: it may have moved on meanwhile.
async fn locate(tx: &mut Tx, attempt: PaymentId) -> Result<Option<Located>, Error> {
    let Some((tenant, order)) = attempts::place(tx.conn(), attempt).await? else {
        return Ok(None);
    };
    let locked = change::lock(tx.conn(), tenant, order)
        .await?
        .ok_or_else(|| StoreError::other("the order of an attempt is gone"))?;
    let all = attempts::of_order(tx.conn(), tenant, order).await?;
    let attempt = all.into_iter().find(|known| known.id == attempt);
    Ok(attempt.map(|attempt| Located {
        tenant,
        order,
        currency: locked.currency,
        state: locked.state,
        attempt,
    }))
}

/// Takes in a provider's word about an attempt of a locked order: saves it, and records what it did (O-29). Answers with the
/// order as it stands then.
pub(super) async fn hear(
    tx: &mut Tx,
    orders: &Orders,
    mut at: Located,
    outcome: &Outcome,
    id: Option<&str>,
) -> Result<Located, Error> {
    let now = orders.now();
    let effect = at.attempt.hear(outcome, id, now);
    match effect {
        Effect::Nothing => return Ok(at),
        Effect::Contradiction => {
            tracing::error!(
                attempt.id = %at.attempt.id,
                order.id = %at.order,
                provider = at.attempt.provider,
                state = at.attempt.state.as_str(),
                "a provider says the opposite of what it said before; a person has to look"
            );
            return Ok(at);
        }
        Effect::Moved | Effect::Succeeded | Effect::Failed => {}
    }
    tracing::info!(
        attempt.id = %at.attempt.id,
        order.id = %at.order,
        provider = at.attempt.provider,
        state = at.attempt.state.as_str(),
        "a provider's word was applied"
    );
    attempts::update(tx.conn(), &at.attempt).await?;
    if effect == Effect::Moved {
        return Ok(at);
    }
    let (amount, state) = (at.attempt.amount, &mut at.state);
    let (kind, completed) = match (effect, at.attempt.kind) {
        (Effect::Failed, kind) => (PaymentKind::Failure, state.attempt_failed(kind, amount)),
        (_, AttemptKind::Capture) => (PaymentKind::Capture, state.capture_taken(amount)),
        (_, AttemptKind::Void) => (PaymentKind::Void, state.released(amount)),
    };
    let payment = payment_of(&at.attempt, at.attempt.id, kind, amount);
    tell(tx, orders, &mut at, payment, completed).await?;
    if kind == PaymentKind::Capture && at.attempt.is_final && at.attempt.rest > 0 {
        // What a last capture leaves is released with it: a payment of its own.
        let rest = at.attempt.rest;
        let completed = at.state.released(rest);
        let payment = payment_of(&at.attempt, PaymentId::generate(), PaymentKind::Void, rest);
        tell(tx, orders, &mut at, payment, completed).await?;
    }
    Ok(at)
}

fn payment_of(attempt: &Attempt, id: PaymentId, kind: PaymentKind, amount: i64) -> Payment {
    Payment {
        id,
        kind,
        provider: attempt.provider.clone(),
        provider_payment_id: attempt.provider_payment_id.clone(),
        amount,
        occurred_at: attempt.settled_at.unwrap_or(attempt.created_at),
        reason: attempt.reason.clone(),
        dispute_id: String::new(),
        attempt: Some(attempt.id),
    }
}

/// Saves a payment with its order, in a version of its own, and tells it.
async fn tell(
    tx: &mut Tx,
    orders: &Orders,
    at: &mut Located,
    payment: Payment,
    completed: bool,
) -> Result<(), Error> {
    at.state.touch(orders.now());
    let about = About {
        tenant: at.tenant,
        order: at.order,
        version: at.state.version,
        at: at.state.updated_at,
    };
    let captured = Money::new(at.currency, at.state.money.captured);
    let traceparent = current_traceparent();
    let mut told = vec![events::paid(about, &payment, captured, traceparent.as_deref())];
    if completed {
        told.push(events::completed(about, traceparent.as_deref()));
    }
    let (events, entries): (Vec<_>, Vec<_>) = told
        .into_iter()
        .map(|Told { event, entry }| (event, entry))
        .unzip();
    change::save(
        tx.conn(),
        at.tenant,
        at.order,
        &at.state,
        Some(&payment),
        &entries,
    )
    .await?;
    orders.log.append(tx, &events).await?;
    tx.ring(BELL);
    Ok(())
}
