//! Recording what a payment provider did, as somebody tells it who heard it: a webhook, an import, a person.
//!
//! What this service asked the provider for is recorded by itself (`super::word`). Told here as well it is recognised, and
//! settles an attempt in flight, through the same one door.

use chrono::{DateTime, Utc};
use waybill_kernel::check::Violations;
use waybill_kernel::id::{OrderId, PaymentId};
use waybill_kernel::money::{Currency, Money};
use waybill_runtime::telemetry::current_traceparent;
use waybill_store::jobs;
use waybill_store::{RequestKey, StoreError, Tx, UseCase};

use super::word::{self, Located};
use super::{BELL, Orders, Receipt, Sweep};
use crate::domain::attempt::{Attempt, AttemptKind, AttemptState, Outcome};
use crate::domain::capture::CapturePolicy;
use crate::domain::order::{Order, Payment, Tenant};
use crate::domain::payment::{PaymentKind, PaymentRefused};
use crate::domain::state::{State, Status};
use crate::error::{Error, InFlight};
use crate::events::{self, About, Told};
use crate::store::change::Locked;
use crate::store::{attempts, change};
use crate::workers;

/// The reason of a failure that was told without one.
const TOLD_FAILED: &str = "told_failed";

/// What a provider did.
pub(crate) struct NewPayment {
    /// Whose order.
    pub tenant: Tenant,
    /// The order; the one that the payment was recorded for before when not set.
    pub order: Option<OrderId>,
    /// What happened.
    pub kind: PaymentKind,
    /// The provider.
    pub provider: String,
    /// The provider's id of the payment.
    pub provider_payment_id: String,
    /// How much; more than 0.
    pub amount: Money,
    /// When; now when not set.
    pub occurred_at: Option<DateTime<Utc>>,
    /// Why it failed, or is disputed; may be empty.
    pub reason: String,
    /// The provider's id of the dispute; empty for all else.
    pub dispute_id: String,
}

impl NewPayment {
    /// How the provider names the payment.
    pub(super) fn name(&self) -> (&str, &str) {
        (&self.provider, &self.provider_payment_id)
    }
}

struct RecordPayment<'a> {
    orders: &'a Orders,
    new: &'a NewPayment,
}

impl Orders {
    /// Records a payment, once per request key and once per payment of the provider (O-11). Answers with the order and the
    /// payment as it was recorded.
    pub(crate) async fn record(&self, key: &RequestKey, new: &NewPayment) -> Result<(Order, Payment), Error> {
        let usecase = RecordPayment { orders: self, new };
        let receipt = self.db.run_once(key, &usecase).await?;
        let recorded = receipt.payment;
        let order = self.answer(new.tenant, receipt).await?;
        let payment = order
            .payments
            .iter()
            .find(|payment| Some(payment.id) == recorded)
            .cloned();
        let payment = payment.ok_or_else(|| StoreError::other("a recorded payment vanished"))?;
        Ok((order, payment))
    }
}

impl UseCase for RecordPayment<'_> {
    type Output = Receipt;
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<Receipt, Error> {
        let (tenant, amount) = (self.new.tenant, self.new.amount);
        let order = self.order(tx).await?;
        let locked = change::lock(tx.conn(), tenant, order)
            .await?
            .ok_or(Error::OrderNotFound)?;
        // After the lock, so that it sees what whoever had the lock before has recorded.
        if let Some(before) = self.recorded_before(tx, order, locked.currency).await? {
            return Ok(Receipt {
                payment: Some(before),
                ..Receipt::of(order, locked.state)
            });
        }
        if amount.currency != locked.currency {
            return Err(wrong_currency(amount, locked.currency));
        }
        let Locked { currency, state } = match self.of_attempts(tx, order, locked).await? {
            Known::Recorded(receipt) => return Ok(*receipt),
            Known::Nothing(locked) => locked,
        };
        if self.new.kind.is_dispute() {
            self.check_dispute(tx, order, currency).await?;
        }
        self.record(tx, order, currency, state).await
    }
}

/// What is known of a payment by what this service asked its provider for.
enum Known {
    /// It was recorded, before or just now.
    Recorded(Box<Receipt>),
    /// It is news.
    Nothing(Locked),
}

impl RecordPayment<'_> {
    /// The order: as it is named, or as it was for the same payment before.
    async fn order(&self, tx: &mut Tx) -> Result<OrderId, Error> {
        if let Some(order) = self.new.order {
            return Ok(order);
        }
        let (provider, provider_payment_id) = self.new.name();
        change::order_of_payment(tx.conn(), self.new.tenant, provider, provider_payment_id)
            .await?
            .ok_or(Error::PaymentNotFound)
    }

    /// The payment as it was recorded from outside before, if it was, and for this order with this amount. One that pays another
    /// order does not pay this one, whoever captured it.
    async fn recorded_before(
        &self,
        tx: &mut Tx,
        order: OrderId,
        currency: Currency,
    ) -> Result<Option<PaymentId>, Error> {
        let NewPayment {
            tenant,
            kind,
            amount,
            dispute_id,
            ..
        } = self.new;
        let found =
            change::find_payment(tx.conn(), *tenant, order, *kind, self.new.name(), dispute_id).await?;
        let Some((paid, payment, minor)) = found else {
            return Ok(None);
        };
        if paid == order && *amount == Money::new(currency, minor) {
            return Ok(Some(payment));
        }
        Err(Error::PaymentDiffers { order_id: paid })
    }

    /// Compares what is told with the attempts of the payment: settles one in flight, recognises what others did, and refuses
    /// what fits neither. A capture is told by what was captured of the payment in all.
    async fn of_attempts(&self, tx: &mut Tx, order: OrderId, locked: Locked) -> Result<Known, Error> {
        let NewPayment {
            tenant,
            kind,
            amount,
            reason,
            ..
        } = self.new;
        let wanted = match kind {
            PaymentKind::Capture => Some(AttemptKind::Capture),
            PaymentKind::Void => Some(AttemptKind::Void),
            PaymentKind::Failure => None,
            _ => return Ok(Known::Nothing(locked)),
        };
        let mut of = attempts::of_order(tx.conn(), *tenant, order).await?;
        of.retain(|attempt| (&*attempt.provider, &*attempt.provider_payment_id) == self.new.name());
        let done: Vec<&Attempt> = (of.iter())
            .filter(|attempt| attempt.state == AttemptState::Succeeded && Some(attempt.kind) == wanted)
            .collect();
        let sum: i64 = done.iter().map(|attempt| attempt.amount).sum();
        if let Some(last) = done.last()
            && amount.minor == sum
        {
            return Ok(Known::Recorded(Box::new(Receipt {
                payment: Some(last.id),
                ..Receipt::of(order, locked.state)
            })));
        }
        let Some(first) = of.iter().find(|attempt| attempt.state.is_in_flight()) else {
            return if done.is_empty() {
                Ok(Known::Nothing(locked))
            } else {
                Err(Error::PaymentDiffers { order_id: order })
            };
        };
        let outcome = match wanted {
            None => Outcome::Failed {
                reason: if reason.is_empty() { TOLD_FAILED } else { reason }.to_owned(),
            },
            Some(wanted) if wanted == first.kind && amount.minor == told_amount(first) => Outcome::Succeeded,
            Some(_) => {
                let in_flight = InFlight::of(order, first, locked.currency);
                return Err(Error::PaymentInFlight(Box::new(in_flight)));
            }
        };
        let at = Located {
            tenant: *tenant,
            order,
            currency: locked.currency,
            state: locked.state,
            attempt: first.clone(),
        };
        let heard = word::hear(tx, self.orders, at, &outcome, None).await?;
        Ok(Known::Recorded(Box::new(Receipt {
            payment: Some(heard.attempt.id),
            ..Receipt::of(order, heard.state)
        })))
    }

    /// A dispute ends once, with the amount it began with.
    async fn check_dispute(&self, tx: &mut Tx, order: OrderId, currency: Currency) -> Result<(), Error> {
        let NewPayment {
            tenant,
            kind,
            amount,
            dispute_id,
            ..
        } = self.new;
        if *kind == PaymentKind::Dispute {
            return Ok(());
        }
        let told = change::dispute(tx.conn(), *tenant, order, self.new.name(), dispute_id).await?;
        let begun = told.iter().find(|(kind, _)| *kind == PaymentKind::Dispute);
        let ended = told.iter().find(|(kind, _)| *kind != PaymentKind::Dispute);
        match (begun, ended) {
            (Some((_, began_with)), None) if *began_with == amount.minor => Ok(()),
            (Some((_, began_with)), None) => {
                let mut v = Violations::new();
                let began_with = Money::new(currency, *began_with);
                v.push(
                    "amount",
                    format!("is {amount}; the dispute began with {began_with}, and ends with it"),
                );
                Err(Error::Invalid(v))
            }
            (_, ended) => Err(Error::DisputeNotOpen {
                order_id: order,
                ended: ended.map(|(kind, _)| *kind),
            }),
        }
    }

    /// Records what is news.
    async fn record(
        &self,
        tx: &mut Tx,
        order: OrderId,
        currency: Currency,
        mut state: State,
    ) -> Result<Receipt, Error> {
        let NewPayment {
            tenant, kind, amount, ..
        } = *self.new;
        let completed = state
            .record(kind, amount.minor)
            .map_err(|refused| self.refusal(refused, order, currency))?;
        state.touch(self.orders.clock.now());

        let payment = Payment {
            id: PaymentId::generate(),
            kind,
            provider: self.new.provider.clone(),
            provider_payment_id: self.new.provider_payment_id.clone(),
            amount: amount.minor,
            occurred_at: self.new.occurred_at.unwrap_or(state.updated_at),
            reason: self.new.reason.clone(),
            dispute_id: self.new.dispute_id.clone(),
            attempt: None,
        };
        let about = About {
            tenant,
            order,
            version: state.version,
            at: state.updated_at,
        };
        let captured = Money::new(currency, state.money.captured);
        let traceparent = current_traceparent();
        let mut told = vec![events::paid(about, &payment, captured, traceparent.as_deref())];
        if completed {
            told.push(events::completed(about, traceparent.as_deref()));
        }
        let (events, entries): (Vec<_>, Vec<_>) = told
            .into_iter()
            .map(|Told { event, entry }| (event, entry))
            .unzip();
        change::save(tx.conn(), tenant, order, &state, Some(&payment), &entries).await?;
        self.orders.log.append(tx, &events).await?;
        if kind == PaymentKind::Authorization
            && let Some(sweep) = self.sweep(state.status)
        {
            let cause = format!("authorization:{}", payment.id);
            let job = workers::sweep_job(tenant, order, sweep, &cause);
            jobs::enqueue(tx, &[job]).await?;
        }
        tx.ring(BELL);
        Ok(Receipt {
            payment: Some(payment.id),
            ..Receipt::of(order, state)
        })
    }

    /// What becomes of an authorisation by itself: released when its order is cancelled, else as the store's policy has it.
    fn sweep(&self, status: Status) -> Option<Sweep> {
        let rules = &self.orders.capture;
        if !rules.can_call(&self.new.provider) {
            return None;
        }
        match status {
            Status::Cancelled => Some(Sweep::Void),
            _ => (rules.of(self.new.tenant) == CapturePolicy::AtOnce).then_some(Sweep::Capture),
        }
    }

    fn refusal(&self, refused: PaymentRefused, order_id: OrderId, currency: Currency) -> Error {
        let given = self.new.amount;
        match refused {
            PaymentRefused::CaptureExceedsTotal { open } => Error::CaptureExceedsTotal {
                order_id,
                open: Money::new(currency, open),
                given,
            },
            PaymentRefused::NothingAuthorized { open } => Error::NothingAuthorized {
                order_id,
                open: Money::new(currency, open),
                given,
            },
            PaymentRefused::NothingDisputed { .. } => Error::DisputeNotOpen {
                order_id,
                ended: None,
            },
            PaymentRefused::Overflow => {
                let mut v = Violations::new();
                let before = if self.new.kind.is_dispute() {
                    "disputed"
                } else {
                    "authorised"
                };
                v.push(
                    "amount",
                    format!("overflows with what was {before} before: the sum does not fit into 64 bits"),
                );
                Error::Invalid(v)
            }
        }
    }
}

/// How somebody who heard of an attempt tells its amount.
fn told_amount(attempt: &Attempt) -> i64 {
    match attempt.kind {
        AttemptKind::Capture => attempt.captured_before + attempt.amount,
        AttemptKind::Void => attempt.amount,
    }
}

fn wrong_currency(given: Money, expected: Currency) -> Error {
    let mut v = Violations::new();
    v.push(
        "amount.currency_code",
        format!("is {}; expected {expected}, the order's currency", given.currency),
    );
    Error::Invalid(v)
}
