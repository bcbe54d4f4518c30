//! Captures and voids that a caller asks for: decided here, called for by a job.

use chrono::SubsecRound as _;
use waybill_kernel::check::Violations;
use waybill_kernel::id::{OrderId, PaymentId};
use waybill_kernel::money::{Currency, Money};
use waybill_store::jobs;
use waybill_store::{RequestKey, StoreError, Tx, UseCase};

use super::{Orders, Receipt};
use crate::domain::attempt::{
    Attempt, Authorization, Cause, MAX_ATTEMPTS, NotAskable, Occasion, Share, collect, in_flight, release,
};
use crate::domain::order::{Order, Tenant};
use crate::domain::state::{State, Status};
use crate::error::{Error, InFlight};
use crate::store::change::Locked;
use crate::store::{attempts, change};
use crate::workers;

/// What is to be done with an authorisation.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wish {
    /// To capture it.
    Capture {
        /// How much; all that is open when not set.
        amount: Option<Money>,
        /// Whether the rest is released.
        is_final: bool,
    },
    /// To release what is left of it.
    Void,
}

/// An attempt that a caller wants.
pub(crate) struct NewAttempt {
    /// Whose order.
    pub tenant: Tenant,
    /// The order.
    pub order: OrderId,
    /// The authorisation.
    pub payment: PaymentId,
    /// What is to be done with it.
    pub wish: Wish,
}

struct AskProvider<'a> {
    orders: &'a Orders,
    new: &'a NewAttempt,
}

impl Orders {
    /// Decides an attempt, once per request key. Answers with the order and the attempt, as far as it is by then.
    pub(crate) async fn attempt(
        &self,
        key: &RequestKey,
        new: &NewAttempt,
    ) -> Result<(Order, Attempt), Error> {
        let usecase = AskProvider { orders: self, new };
        let receipt = self.db.run_once(key, &usecase).await?;
        let decided = receipt.attempt;
        let order = self.answer(new.tenant, receipt).await?;
        let attempt = (order.attempts.iter())
            .find(|attempt| Some(attempt.id) == decided)
            .cloned();
        let attempt = attempt.ok_or_else(|| StoreError::other("an attempt vanished"))?;
        Ok((order, attempt))
    }

    /// The time as the database keeps it.
    pub(crate) fn now(&self) -> chrono::DateTime<chrono::Utc> {
        self.clock.now().trunc_subsecs(6)
    }
}

impl UseCase for AskProvider<'_> {
    type Output = Receipt;
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<Receipt, Error> {
        let NewAttempt {
            tenant,
            order,
            payment,
            wish,
        } = *self.new;
        let locked = change::lock(tx.conn(), tenant, order)
            .await?
            .ok_or(Error::OrderNotFound)?;
        let of = attempts::authorizations(tx.conn(), tenant, order).await?;
        let of = of.into_iter().find(|of| of.payment == payment);
        let of = of.ok_or(Error::PaymentNotFound)?;
        let before = attempts::of_order(tx.conn(), tenant, order).await?;
        self.may_ask(&locked, &of, &before)?;
        let occasion = Occasion {
            cause: Cause::Request,
            at: self.orders.now(),
            order_version: locked.state.version,
        };
        let attempt = match wish {
            Wish::Capture { amount, is_final } => {
                let share = Share {
                    amount: amount.map(|amount| amount.minor),
                    is_final,
                };
                let given = amount.map_or(of.open(), |amount| amount.minor);
                Attempt::capture(&of, locked.state.money, share, occasion)
                    .map_err(|refused| self.refusal(refused, given, locked.currency))?
            }
            Wish::Void => Attempt::void(&of, occasion).ok_or_else(|| Error::NothingAuthorized {
                order_id: order,
                open: Money::zero(locked.currency),
                given: Money::new(locked.currency, of.amount),
            })?,
        };
        let mut state = locked.state;
        let id = attempt.id;
        begin(tx, tenant, order, &mut state, &[attempt]).await?;
        Ok(Receipt {
            attempt: Some(id),
            ..Receipt::of(order, state)
        })
    }
}

impl AskProvider<'_> {
    /// Whether the provider of an authorisation may be asked for anything now.
    fn may_ask(&self, locked: &Locked, of: &Authorization, before: &[Attempt]) -> Result<(), Error> {
        let order_id = self.new.order;
        if let Wish::Capture { amount, .. } = self.new.wish {
            if let Some(amount) = amount
                && amount.currency != locked.currency
            {
                let mut v = Violations::new();
                v.push(
                    "amount.currency_code",
                    format!(
                        "is {}; expected {}, the order's currency",
                        amount.currency, locked.currency
                    ),
                );
                return Err(Error::Invalid(v));
            }
            if locked.state.status == Status::Cancelled {
                return Err(Error::OrderCancelled { order_id });
            }
        }
        if let Some(first) = in_flight(before, of.payment) {
            return Err(Error::PaymentInFlight(Box::new(InFlight::of(
                order_id,
                first,
                locked.currency,
            ))));
        }
        if !self.orders.capture.can_call(&of.provider) {
            return Err(Error::ProviderNotCallable {
                order_id,
                provider: of.provider.clone(),
            });
        }
        if before.len() >= MAX_ATTEMPTS {
            return Err(Error::TooManyAttempts {
                order_id,
                most: MAX_ATTEMPTS,
            });
        }
        Ok(())
    }

    fn refusal(&self, refused: NotAskable, given: i64, currency: Currency) -> Error {
        let (order_id, given) = (self.new.order, Money::new(currency, given));
        match refused {
            NotAskable::ExceedsAuthorization { open } => Error::CaptureExceedsAuthorization {
                order_id,
                payment_id: self.new.payment,
                open: Money::new(currency, open),
                given,
            },
            NotAskable::ExceedsTotal { open } => Error::CaptureExceedsTotal {
                order_id,
                open: Money::new(currency, open),
                given,
            },
        }
    }
}

/// Writes attempts that were decided, and the jobs that carry them out.
async fn begin(
    tx: &mut Tx,
    tenant: Tenant,
    order: OrderId,
    state: &mut State,
    decided: &[Attempt],
) -> Result<(), StoreError> {
    attempts::insert(tx.conn(), tenant, order, decided).await?;
    state.money.capturing += workers::taken_by(decided);
    let jobs: Vec<_> = decided
        .iter()
        .map(|attempt| workers::submit_job(tenant, order, attempt))
        .collect();
    jobs::enqueue(tx, &jobs).await?;
    Ok(())
}

/// Refuses what cannot go together with a capture in flight: a cancellation, or one of units that it would take too much for.
/// The provider has the word, and what it took goes back by a refund.
pub(super) async fn refuse_while_capturing(
    tx: &mut Tx,
    tenant: Tenant,
    order: OrderId,
    currency: Currency,
) -> Result<(), Error> {
    let all = attempts::of_order(tx.conn(), tenant, order).await?;
    let first = all
        .iter()
        .find(|attempt| attempt.state.is_in_flight() && workers::taken_by(std::slice::from_ref(attempt)) > 0);
    match first {
        Some(first) => Err(Error::PaymentInFlight(Box::new(InFlight::of(
            order, first, currency,
        )))),
        None => Err(StoreError::other("an order captures without an attempt").into()),
    }
}

/// What is done with all authorisations of an order, by the store's policy or because it is cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Sweep {
    /// They are captured, as far as something is to be paid.
    Capture,
    /// They are released.
    Void,
}

/// The wish to capture or to release what is authorised for an order, as far as providers can be called.
pub(crate) struct SweepOrder<'a> {
    /// The service.
    pub orders: &'a Orders,
    /// Whose order.
    pub tenant: Tenant,
    /// The order.
    pub order: OrderId,
    /// What is done.
    pub sweep: Sweep,
    /// The job whose work it is: its end and the attempts are one.
    pub job: &'a jobs::Job,
}

/// What came of a sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Swept {
    /// Everything that could be asked for is.
    Done,
    /// An attempt in flight is first; look again later.
    Later,
}

impl UseCase for SweepOrder<'_> {
    type Output = Swept;
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<Swept, Error> {
        let (tenant, order) = (self.tenant, self.order);
        let locked = change::lock(tx.conn(), tenant, order)
            .await?
            .ok_or(Error::OrderNotFound)?;
        let mut state = locked.state;
        let mut of = attempts::authorizations(tx.conn(), tenant, order).await?;
        of.retain(|of| of.open() > 0 && self.orders.capture.can_call(&of.provider));
        let before = attempts::of_order(tx.conn(), tenant, order).await?;
        let at = self.orders.now();
        let occasion = |cause| Occasion {
            cause,
            at,
            order_version: state.version,
        };
        let is_cancelled = state.status == Status::Cancelled;
        let mut decided = match self.sweep {
            Sweep::Capture if is_cancelled => Vec::new(),
            Sweep::Capture => collect(&of, &before, state.money, occasion(Cause::Policy)),
            Sweep::Void if !is_cancelled => Vec::new(),
            Sweep::Void => release(&of, &before, occasion(Cause::Cancellation)),
        };
        decided.truncate(MAX_ATTEMPTS.saturating_sub(before.len()));
        let waits = !is_cancelled
            && self.sweep == Sweep::Capture
            && of.iter().any(|of| in_flight(&before, of.payment).is_some());
        begin(tx, tenant, order, &mut state, &decided).await?;
        if waits {
            return Ok(Swept::Later);
        }
        self.job.complete(tx).await?;
        Ok(Swept::Done)
    }
}
