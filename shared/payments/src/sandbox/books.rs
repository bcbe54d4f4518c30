//! What the sandbox knows: payments, refunds and idempotency keys. Pure: no network, no clock, no faults.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use waybill_kernel::id::EventId;
use waybill_kernel::money::Currency;

use super::answer::{Answer, ApiError};
use super::intents::Authorization;
use super::params::RefundParams;
use crate::stripe::amount;

/// A payment that refunds can be made from, in Stripe's units.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Payment {
    /// Id, such as `"pi_1"`.
    pub id: String,
    /// What was captured, as Stripe counts it.
    pub amount: i64,
    /// Lower-case currency code.
    pub currency: String,
}

impl Payment {
    /// Refuses what Stripe would not have.
    pub(super) fn check(&self) -> Result<(), ApiError> {
        let currency = Currency::parse(&self.currency.to_ascii_uppercase());
        let step = currency
            .map_err(|error| error.to_string())
            .and_then(|currency| amount::stripe_step(currency).map_err(|error| error.to_string()));
        let step = step.map_err(|error| ApiError::invalid("currency_invalid", "currency", &error))?;
        if self.id.is_empty() || self.amount <= 0 || self.amount % step != 0 {
            let message = format!("a payment has an id and a positive amount that is a multiple of {step}");
            return Err(ApiError::invalid("payment_invalid", "amount", &message));
        }
        Ok(())
    }
}

/// One line of the ledger: a refund as the sandbox's bank sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerEntry {
    /// Id of the refund.
    pub id: String,
    /// The payment it came from.
    pub payment_intent: String,
    /// As Stripe counts it.
    pub amount: i64,
    /// Lower-case currency code.
    pub currency: String,
    /// How far it is.
    pub status: Status,
    /// Why it failed.
    pub failure_reason: Option<String>,
    /// Stripe's reason.
    pub reason: Option<String>,
    /// What the caller attached.
    pub metadata: BTreeMap<String, String>,
    /// The key it was made under.
    pub idempotency_key: Option<String>,
    /// When it was made, in seconds of the epoch.
    pub created: i64,
}

/// How far a refund is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Accepted.
    Pending,
    /// Paid.
    Succeeded,
    /// Not paid, or come back.
    Failed,
}

impl LedgerEntry {
    /// Whether the money has left, or is about to.
    #[must_use]
    pub fn is_paid(&self) -> bool {
        self.status != Status::Failed
    }

    /// The refund object of the API.
    pub(super) fn object(&self) -> Value {
        json!({
            "id": self.id, "object": "refund", "amount": self.amount, "currency": self.currency,
            "charge": charge_of(&self.payment_intent), "payment_intent": self.payment_intent,
            "created": self.created, "status": self.status, "failure_reason": self.failure_reason,
            "reason": self.reason, "metadata": self.metadata, "balance_transaction": null, "receipt_number": null,
        })
    }
}

/// Each payment intent has one charge.
fn charge_of(payment_intent: &str) -> String {
    format!("ch_{}", payment_intent.trim_start_matches("pi_"))
}

/// What an idempotency key means for a call.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// First use: execute, then [`Books::finish`].
    Fresh,
    /// Used before with the same parameters: this was the answer.
    Replay(Answer),
    /// A call with the key is being executed.
    InUse,
    /// Used before with other parameters.
    OtherParameters,
}

#[derive(Debug)]
struct Key {
    fingerprint: String,
    used_at: DateTime<Utc>,
    answer: Option<Answer>,
}

/// Payments, refunds and keys.
#[derive(Debug, Default)]
pub(super) struct Books {
    /// What was captured of each payment.
    pub(super) payments: BTreeMap<String, Payment>,
    pub(super) authorizations: BTreeMap<String, Authorization>,
    refunds: Vec<LedgerEntry>,
    keys: HashMap<String, Key>,
}

impl Books {
    /// Registers a payment; the same again changes nothing.
    pub fn register(&mut self, payment: Payment) -> Result<(), ApiError> {
        payment.check()?;
        let known = self
            .payments
            .entry(payment.id.clone())
            .or_insert_with(|| payment.clone());
        if *known == payment {
            return Ok(());
        }
        let message = format!(
            "Payment {} is registered with {} {}",
            known.id, known.amount, known.currency
        );
        Err(ApiError {
            status: 409,
            ..ApiError::invalid("payment_differs", "id", &message)
        })
    }

    pub fn payments(&self) -> impl Iterator<Item = &Payment> {
        self.payments.values()
    }

    pub fn refunds(&self) -> &[LedgerEntry] {
        &self.refunds
    }

    pub fn refund(&self, id: &str) -> Option<&LedgerEntry> {
        self.refunds.iter().find(|refund| refund.id == id)
    }

    /// How much of a payment has been paid back, or is about to be.
    pub fn paid_out(&self, payment: &str) -> i64 {
        self.refunds
            .iter()
            .filter(|r| r.payment_intent == payment && r.is_paid())
            .map(|r| r.amount)
            .sum()
    }

    /// Decides what a call with a key may do. Keys are forgotten `lifetime` after their first use.
    pub fn admit(
        &mut self,
        key: &str,
        fingerprint: &str,
        now: DateTime<Utc>,
        lifetime: TimeDelta,
    ) -> Admission {
        if self
            .keys
            .get(key)
            .is_some_and(|known| known.answer.is_some() && now - known.used_at >= lifetime)
        {
            self.keys.remove(key);
        }
        match self.keys.get(key) {
            None => {
                let fresh = Key {
                    fingerprint: fingerprint.to_owned(),
                    used_at: now,
                    answer: None,
                };
                self.keys.insert(key.to_owned(), fresh);
                Admission::Fresh
            }
            Some(known) if known.fingerprint != fingerprint => Admission::OtherParameters,
            Some(Key { answer: None, .. }) => Admission::InUse,
            Some(Key {
                answer: Some(answer), ..
            }) => Admission::Replay(answer.clone()),
        }
    }

    /// Stores the answer of a call under its key.
    pub fn finish(&mut self, key: &str, answer: &Answer) {
        if let Some(known) = self.keys.get_mut(key) {
            known.answer = Some(answer.clone());
        }
    }

    /// Makes a refund.
    pub fn make_refund(
        &mut self,
        params: &RefundParams,
        key: Option<&str>,
        (status, failure_reason): (Status, Option<String>),
        now: DateTime<Utc>,
    ) -> Result<LedgerEntry, ApiError> {
        let payment = self
            .payments
            .values()
            .find(|payment| payment.id == params.payment || charge_of(&payment.id) == params.payment)
            .ok_or_else(|| ApiError::missing("payment_intent", &params.payment))?;
        let left = payment.amount - self.paid_out(&payment.id);
        if left == 0 {
            let message = format!("Charge {} has already been refunded.", charge_of(&payment.id));
            return Err(ApiError::invalid(
                "charge_already_refunded",
                "payment_intent",
                &message,
            ));
        }
        let amount = params.amount.unwrap_or(left);
        if amount > left {
            let message =
                format!("Refund amount ({amount}) is greater than unrefunded amount on charge ({left})");
            // Stripe sends no code with this one.
            return Err(ApiError {
                code: None,
                ..ApiError::invalid("", "amount", &message)
            });
        }
        let currency = Currency::parse(&payment.currency.to_ascii_uppercase());
        let step = currency
            .ok()
            .and_then(|currency| amount::stripe_step(currency).ok())
            .unwrap_or(1);
        if amount % step != 0 {
            let message = format!(
                "Invalid amount. Amounts of {} must be evenly divisible by {step}.",
                payment.currency
            );
            let code = "invalid_charge_amount_no_decimal_compatible";
            return Err(ApiError::invalid(code, "amount", &message));
        }
        let refund = LedgerEntry {
            // Unique also across sandboxes, as a provider's ids are.
            id: format!("re_{}", EventId::generate().uuid().simple()),
            payment_intent: payment.id.clone(),
            amount,
            currency: payment.currency.clone(),
            status,
            failure_reason,
            reason: params.reason.clone(),
            metadata: params.metadata.clone(),
            idempotency_key: key.map(str::to_owned),
            created: now.timestamp(),
        };
        self.refunds.push(refund.clone());
        Ok(refund)
    }

    /// Moves a refund on: pending to settled, or succeeded to failed. `None` when it is not there or already there.
    pub fn settle(&mut self, id: &str, failure_reason: Option<String>) -> Option<LedgerEntry> {
        let status = if failure_reason.is_some() {
            Status::Failed
        } else {
            Status::Succeeded
        };
        let refund = self.refunds.iter_mut().find(|refund| refund.id == id)?;
        match (refund.status, status) {
            (Status::Pending, _) | (Status::Succeeded, Status::Failed) => {
                refund.status = status;
                refund.failure_reason = failure_reason;
                Some(refund.clone())
            }
            _ => None,
        }
    }

    /// The charge object of a payment.
    pub fn charge_object(&self, payment: &str) -> Option<Value> {
        let payment = self.payments.get(payment)?;
        let refunded = self.paid_out(&payment.id);
        Some(json!({
            "id": charge_of(&payment.id), "object": "charge", "payment_intent": payment.id, "currency": payment.currency,
            "amount": payment.amount, "amount_captured": payment.amount, "amount_refunded": refunded,
            "refunded": refunded == payment.amount,
        }))
    }

    /// A page of refunds, newest first, and whether there are more.
    pub fn list(
        &self,
        payment: Option<&str>,
        from: Option<i64>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<&LedgerEntry>, bool), ApiError> {
        let wanted = |refund: &&LedgerEntry| {
            let is_late_enough = from.is_none_or(|from| refund.created >= from);
            is_late_enough
                && payment
                    .is_none_or(|id| refund.payment_intent == id || charge_of(&refund.payment_intent) == id)
        };
        let mut newest_first = self.refunds.iter().rev().filter(wanted);
        if let Some(after) = after {
            newest_first
                .find(|refund| refund.id == after)
                .ok_or_else(|| ApiError::missing("starting_after", after))?;
        }
        let mut page: Vec<&LedgerEntry> = newest_first.take(limit + 1).collect();
        let has_more = page.len() > limit;
        page.truncate(limit);
        Ok((page, has_more))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000, 0).expect("a time")
    }

    fn books() -> Books {
        let mut books = Books::default();
        books.register(payment("pi_1", 1000, "eur")).expect("registered");
        books
    }

    fn payment(id: &str, amount: i64, currency: &str) -> Payment {
        Payment {
            id: id.into(),
            amount,
            currency: currency.into(),
        }
    }

    fn params(form: &[(&str, &str)]) -> Result<RefundParams, ApiError> {
        let form: Vec<(String, String)> = form
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        RefundParams::parse(&form)
    }

    fn pay(books: &mut Books, amount: &str) -> Result<LedgerEntry, ApiError> {
        let params = params(&[("payment_intent", "pi_1"), ("amount", amount)])?;
        books.make_refund(&params, None, (Status::Succeeded, None), now())
    }

    #[test]
    fn never_pays_more_than_was_paid() {
        let mut books = books();
        pay(&mut books, "400").expect("there is enough");
        let error = pay(&mut books, "601").expect_err("only 600 are left");
        assert_eq!((error.status, error.code), (400, None));
        pay(&mut books, "600").expect("exactly the rest");
        assert_eq!(
            pay(&mut books, "1").expect_err("nothing left").code,
            Some("charge_already_refunded".into())
        );
        assert_eq!(books.paid_out("pi_1"), 1000);
    }

    #[test]
    fn failed_refunds_can_be_paid_again() {
        let mut books = books();
        let refund = pay(&mut books, "1000").expect("paid");
        let failed = books
            .settle(&refund.id, Some("lost_or_stolen_card".into()))
            .expect("it bounces");
        assert_eq!(failed.status, Status::Failed);
        assert_eq!(books.paid_out("pi_1"), 0);
        assert!(books.settle(&refund.id, None).is_none(), "failed is final");
        pay(&mut books, "1000").expect("paid again");
    }

    #[test]
    fn keys_replay_until_they_are_forgotten() {
        let (mut books, day) = (books(), TimeDelta::hours(24));
        let answer = Answer {
            status: 500,
            body: "{}".into(),
            replayed: false,
        };
        assert_eq!(books.admit("key", "a", now(), day), Admission::Fresh);
        assert_eq!(books.admit("key", "a", now() + day, day), Admission::InUse);
        books.finish("key", &answer);
        assert_eq!(books.admit("key", "b", now(), day), Admission::OtherParameters);
        assert_eq!(
            books.admit("key", "a", now() + day - TimeDelta::seconds(1), day),
            Admission::Replay(answer)
        );
        assert_eq!(books.admit("key", "b", now() + day, day), Admission::Fresh);
    }

    #[test]
    fn payments_are_what_they_were_registered_as() {
        let mut books = books();
        assert_eq!(books.register(payment("pi_1", 1000, "eur")), Ok(()));
        assert_eq!(
            books
                .register(payment("pi_1", 1001, "eur"))
                .expect_err("differs")
                .status,
            409
        );
        for wrong in [
            payment("", 1, "eur"),
            payment("pi_2", 0, "eur"),
            payment("pi_2", 1, "zzz"),
            payment("pi_2", 1, "kwd"),
        ] {
            assert_eq!(books.register(wrong).expect_err("refused").status, 400);
        }
    }

    #[test]
    fn steps_are_enforced_and_charges_found() {
        let mut books = books();
        books.register(payment("pi_2", 5120, "kwd")).expect("registered");
        let refund = |amount| params(&[("charge", "ch_2"), ("amount", amount)]).expect("a refund");
        let mut make = |amount| books.make_refund(&refund(amount), None, (Status::Succeeded, None), now());
        let error = make("5114").expect_err("between steps");
        assert_eq!(
            error.code,
            Some("invalid_charge_amount_no_decimal_compatible".into())
        );
        assert_eq!(make("5110").expect("a whole step").payment_intent, "pi_2");
    }

    #[test]
    fn lists_are_paged_newest_first() {
        let mut books = books();
        let made: Vec<String> = (0..5).map(|_| pay(&mut books, "1").expect("paid").id).collect();
        let ids = |page: Vec<&LedgerEntry>| page.iter().map(|refund| refund.id.clone()).collect::<Vec<_>>();
        let (page, more) = books.list(Some("pi_1"), None, None, 3).expect("a page");
        assert_eq!(
            (ids(page), more),
            (vec![made[4].clone(), made[3].clone(), made[2].clone()], true)
        );
        let (page, more) = books.list(Some("pi_1"), None, Some(&made[2]), 3).expect("a page");
        assert_eq!((ids(page), more), (vec![made[1].clone(), made[0].clone()], false));
        assert_eq!(
            books.list(Some("pi_9"), None, None, 3).expect("a page").0,
            Vec::<&LedgerEntry>::new()
        );
        assert_eq!(
            books.list(None, None, Some("re_9"), 3).expect_err("no such").code,
            Some("resource_missing".into())
        );
    }
}
