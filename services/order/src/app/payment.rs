//! Recording what a payment provider did.

use chrono::{DateTime, Utc};
use waybill_events::Log;
use waybill_kernel::check::Violations;
use waybill_kernel::id::{OrderId, PaymentId};
use waybill_kernel::money::{Currency, Money};
use waybill_kernel::time;
use waybill_runtime::telemetry::current_traceparent;
use waybill_store::{RequestKey, Tx, UseCase};

use super::{BELL, Orders, Receipt};
use crate::domain::order::{Order, Payment, Tenant};
use crate::domain::payment::{PaymentKind, PaymentRefused};
use crate::domain::state::NotPayable;
use crate::error::Error;
use crate::events::{self, About, Told};
use crate::store::change;

/// What a provider did.
pub(crate) struct NewPayment {
    /// Whose order.
    pub tenant: Tenant,
    /// The order.
    pub order: OrderId,
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
}

struct RecordPayment<'a> {
    log: &'a Log,
    clock: &'a time::Shared,
    new: &'a NewPayment,
}

impl Orders {
    /// Records a payment, once per request key and once per payment of the provider (O-11). Answers with the order and the
    /// payment as it was recorded.
    pub(crate) async fn record(&self, key: &RequestKey, new: &NewPayment) -> Result<(Order, Payment), Error> {
        let usecase = RecordPayment {
            log: &self.log,
            clock: &self.clock,
            new,
        };
        let receipt = self.db.run_once(key, &usecase).await?;
        let recorded = receipt.payment;
        let order = self.answer(new.tenant, receipt).await?;
        let payment = order
            .payments
            .iter()
            .find(|payment| Some(payment.id) == recorded)
            .cloned();
        let payment =
            payment.ok_or_else(|| waybill_store::StoreError::other("a recorded payment vanished"))?;
        Ok((order, payment))
    }
}

impl UseCase for RecordPayment<'_> {
    type Output = Receipt;
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<Receipt, Error> {
        let NewPayment {
            tenant,
            order,
            kind,
            amount,
            ..
        } = *self.new;
        let locked = change::lock(tx.conn(), tenant, order)
            .await?
            .ok_or(Error::OrderNotFound)?;
        let mut state = locked.state;
        // After the lock, so that it sees what whoever had the lock before has recorded.
        if let Some(before) = self.recorded_before(tx, locked.currency).await? {
            return Ok(Receipt {
                payment: Some(before),
                ..Receipt::of(order, state)
            });
        }
        if amount.currency != locked.currency {
            return Err(wrong_currency(amount, locked.currency));
        }
        let completed = state
            .record(kind, amount.minor)
            .map_err(|refused| self.refusal(refused, locked.currency))?;
        state.touch(self.clock.now());

        let payment = Payment {
            id: PaymentId::generate(),
            kind,
            provider: self.new.provider.clone(),
            provider_payment_id: self.new.provider_payment_id.clone(),
            amount: amount.minor,
            occurred_at: self.new.occurred_at.unwrap_or(state.updated_at),
        };
        let about = About {
            tenant,
            order,
            version: state.version,
            at: state.updated_at,
        };
        let captured = Money::new(locked.currency, state.money.captured);
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
        self.log.append(tx, &events).await?;
        tx.ring(BELL);
        Ok(Receipt {
            payment: Some(payment.id),
            ..Receipt::of(order, state)
        })
    }
}

impl RecordPayment<'_> {
    /// The payment as it was recorded before, if it was, and for this order with this amount.
    async fn recorded_before(&self, tx: &mut Tx, currency: Currency) -> Result<Option<PaymentId>, Error> {
        let NewPayment {
            tenant,
            order,
            kind,
            provider,
            provider_payment_id,
            amount,
            ..
        } = self.new;
        let found = change::find_payment(tx.conn(), *tenant, *kind, provider, provider_payment_id).await?;
        let Some((paid, payment)) = found else {
            return Ok(None);
        };
        if paid == *order && *amount == Money::new(currency, payment.amount) {
            return Ok(Some(payment.id));
        }
        Err(Error::PaymentDiffers { order_id: paid })
    }

    fn refusal(&self, refused: NotPayable, currency: Currency) -> Error {
        let (order_id, given) = (self.new.order, self.new.amount);
        match refused {
            NotPayable::Cancelled => Error::OrderCancelled { order_id },
            NotPayable::Refused(PaymentRefused::CaptureExceedsTotal { open }) => Error::CaptureExceedsTotal {
                order_id,
                open: Money::new(currency, open),
                given,
            },
            NotPayable::Refused(PaymentRefused::NothingAuthorized { open }) => Error::NothingAuthorized {
                order_id,
                open: Money::new(currency, open),
                given,
            },
            NotPayable::Refused(PaymentRefused::Overflow) => {
                let mut v = Violations::new();
                v.push(
                    "amount",
                    "overflows with what was authorised before: the sum does not fit into 64 bits",
                );
                Error::Invalid(v)
            }
        }
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
