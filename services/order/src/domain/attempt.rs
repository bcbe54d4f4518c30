//! What this service asks payment providers to do with authorisations: to capture them, and to void them.
//!
//! An attempt is decided under the order's lock (O-26, O-28), its provider is called afterwards, and what the provider says
//! comes through [`Attempt::hear`], whichever way it was said: as the answer to a call, when asked later, or told by somebody
//! who heard it (O-29). Any number of times and in any order:
//!
//! | the attempt is | "pending" | "succeeded" | "failed" |
//! | --- | --- | --- | --- |
//! | `PENDING`, `SUBMITTED`, `UNKNOWN` | `SUBMITTED` | `SUCCEEDED`, recorded | `FAILED`, recorded |
//! | `SUCCEEDED` | nothing | nothing | a contradiction |
//! | `FAILED` | nothing | a contradiction | nothing |
//!
//! A contradiction changes nothing: a person has to look.

use chrono::{DateTime, Utc};
use waybill_kernel::id::PaymentId;

use super::payment::Money;

/// The most attempts of an order.
pub const MAX_ATTEMPTS: usize = 200;

/// What a provider is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AttemptKind {
    /// To take money that is authorised.
    Capture,
    /// To release what is authorised and not captured.
    Void,
}

keys! { AttemptKind {
    Capture = "capture",
    Void = "void",
} }

/// How far an attempt is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AttemptState {
    /// Decided; nobody was called.
    Pending,
    /// The provider is being called, or works on it.
    Submitted,
    /// Done.
    Succeeded,
    /// Not done, and it will not be.
    Failed,
    /// The provider did not answer.
    Unknown,
}

keys! { AttemptState {
    Pending = "PENDING",
    Submitted = "SUBMITTED",
    Succeeded = "SUCCEEDED",
    Failed = "FAILED",
    Unknown = "UNKNOWN",
} }

impl AttemptState {
    /// Whether the provider has yet to decide it.
    #[must_use]
    pub fn is_in_flight(self) -> bool {
        matches!(
            self,
            AttemptState::Pending | AttemptState::Submitted | AttemptState::Unknown
        )
    }
}

/// What made an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// A caller.
    Request,
    /// The store's capture policy.
    Policy,
    /// The cancellation of the order.
    Cancellation,
}

keys! { Cause {
    Request = "request",
    Policy = "policy",
    Cancellation = "cancellation",
} }

/// An attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Its id, and that of the payment it is recorded as once it is settled.
    pub id: PaymentId,
    /// The authorisation.
    pub payment: PaymentId,
    /// What is asked for.
    pub kind: AttemptKind,
    /// How far it is.
    pub state: AttemptState,
    /// What made it.
    pub cause: Cause,
    /// The provider.
    pub provider: String,
    /// The provider's id of the authorised payment.
    pub provider_payment_id: String,
    /// How much is taken, or released.
    pub amount: i64,
    /// What the earlier captures of the authorisation took.
    pub captured_before: i64,
    /// What of the authorisation it leaves.
    pub rest: i64,
    /// Whether a capture releases the rest.
    pub is_final: bool,
    /// The provider's idempotency key.
    pub provider_key: String,
    /// The provider's id of the capture or void.
    pub provider_attempt_id: Option<String>,
    /// Why it failed; empty otherwise.
    pub reason: String,
    /// How often the provider was called.
    pub calls: i32,
    /// When it was about to be called for the first time.
    pub first_called_at: Option<DateTime<Utc>>,
    /// When it was about to be called the last time.
    pub last_called_at: Option<DateTime<Utc>>,
    /// When it was decided.
    pub created_at: DateTime<Utc>,
    /// The order's version then.
    pub order_version: i64,
    /// When it was settled.
    pub settled_at: Option<DateTime<Utc>>,
}

/// An authorisation of an order, and what has become of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorization {
    /// The payment.
    pub payment: PaymentId,
    /// The provider.
    pub provider: String,
    /// The provider's id of it.
    pub provider_payment_id: String,
    /// What was authorised.
    pub amount: i64,
    /// What was captured of it.
    pub captured: i64,
    /// What of it was released.
    pub voided: i64,
}

impl Authorization {
    /// What can still be taken or released.
    #[must_use]
    pub fn open(&self) -> i64 {
        (self.amount - self.captured - self.voided).max(0)
    }
}

/// How much is to be captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// How much; all that is open when not set.
    pub amount: Option<i64>,
    /// Whether the rest is released.
    pub is_final: bool,
}

impl Share {
    /// All that is open and still to be paid: nothing more will be taken, so the rest is released.
    pub const ALL: Share = Share {
        amount: None,
        is_final: true,
    };
}

/// Why a provider cannot be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotAskable {
    /// It is more than what is open of the authorisation.
    ExceedsAuthorization {
        /// What is.
        open: i64,
    },
    /// It is more than what is still to be paid, captures in flight taken off.
    ExceedsTotal {
        /// What is.
        open: i64,
    },
}

/// When and why an attempt is decided.
#[derive(Debug, Clone, Copy)]
pub struct Occasion {
    /// What makes it.
    pub cause: Cause,
    /// When.
    pub at: DateTime<Utc>,
    /// The order's version.
    pub order_version: i64,
}

impl Attempt {
    /// A capture of a share of an authorisation (O-28). An amount that is given is more than 0.
    ///
    /// # Errors
    /// When there is not so much to take.
    pub fn capture(
        of: &Authorization,
        money: Money,
        share: Share,
        occasion: Occasion,
    ) -> Result<Attempt, NotAskable> {
        let (open, payable) = (of.open(), money.payable());
        let amount = share.amount.unwrap_or(open.min(payable));
        if amount > open || open == 0 {
            return Err(NotAskable::ExceedsAuthorization { open });
        }
        if amount > payable || amount == 0 {
            return Err(NotAskable::ExceedsTotal { open: payable });
        }
        let rest = open - amount;
        // Without an amount it takes all that is to be paid.
        let is_final = share.is_final || share.amount.is_none() || rest == 0;
        Ok(Attempt {
            rest,
            is_final,
            ..Attempt::new(of, AttemptKind::Capture, amount, occasion)
        })
    }

    /// The release of what is open of an authorisation; nothing when nothing is.
    #[must_use]
    pub fn void(of: &Authorization, occasion: Occasion) -> Option<Attempt> {
        let open = of.open();
        (open > 0).then(|| Attempt {
            is_final: true,
            ..Attempt::new(of, AttemptKind::Void, open, occasion)
        })
    }

    fn new(of: &Authorization, kind: AttemptKind, amount: i64, occasion: Occasion) -> Attempt {
        let id = PaymentId::generate();
        Attempt {
            id,
            payment: of.payment,
            kind,
            state: AttemptState::Pending,
            cause: occasion.cause,
            provider: of.provider.clone(),
            provider_payment_id: of.provider_payment_id.clone(),
            amount,
            captured_before: of.captured,
            rest: 0,
            is_final: false,
            provider_key: format!("waybill-{}-{id}", kind.as_str()),
            provider_attempt_id: None,
            reason: String::new(),
            calls: 0,
            first_called_at: None,
            last_called_at: None,
            created_at: occasion.at,
            order_version: occasion.order_version,
            settled_at: None,
        }
    }

    /// Notes that the provider is about to be called (O-27).
    pub fn submit(&mut self, at: DateTime<Utc>) {
        self.state = AttemptState::Submitted;
        self.calls += 1;
        self.first_called_at = self.first_called_at.or(Some(at));
        self.last_called_at = Some(at);
    }

    /// Notes that the provider did not answer; tells whether that is news.
    pub fn lose_sight(&mut self) -> bool {
        let is_news = matches!(self.state, AttemptState::Pending | AttemptState::Submitted);
        if is_news {
            self.state = AttemptState::Unknown;
        }
        is_news
    }

    /// Takes in what the provider says. `id` is the provider's id of the capture or void, where it gave one.
    pub fn hear(&mut self, outcome: &Outcome, id: Option<&str>, at: DateTime<Utc>) -> Effect {
        let before = self.state;
        let (state, effect) = match (before, outcome) {
            (AttemptState::Succeeded, Outcome::Failed { .. })
            | (AttemptState::Failed, Outcome::Succeeded) => return Effect::Contradiction,
            (AttemptState::Succeeded | AttemptState::Failed, _) => return Effect::Nothing,
            (_, Outcome::Pending) if before == AttemptState::Submitted => return Effect::Nothing,
            (_, Outcome::Pending) => (AttemptState::Submitted, Effect::Moved),
            (_, Outcome::Succeeded) => (AttemptState::Succeeded, Effect::Succeeded),
            (_, Outcome::Failed { .. }) => (AttemptState::Failed, Effect::Failed),
        };
        self.state = state;
        if let Outcome::Failed { reason } = outcome {
            reason.clone_into(&mut self.reason);
        }
        if !state.is_in_flight() {
            self.settled_at = Some(at);
        }
        if self.provider_attempt_id.is_none() {
            self.provider_attempt_id = id.filter(|id| !id.is_empty()).map(str::to_owned);
        }
        effect
    }
}

/// What a provider says about an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It works on it.
    Pending,
    /// It is done.
    Succeeded,
    /// It is not done, and will not be.
    Failed {
        /// Its reason, as a key.
        reason: String,
    },
}

/// What came of a provider's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It was known.
    Nothing,
    /// The attempt has moved on and is still in flight.
    Moved,
    /// It is done now.
    Succeeded,
    /// It has failed now.
    Failed,
    /// It is the opposite of what is known.
    Contradiction,
}

/// The attempt in flight on a payment, if there is one (O-26).
pub fn in_flight(attempts: &[Attempt], payment: PaymentId) -> Option<&Attempt> {
    attempts
        .iter()
        .find(|attempt| attempt.payment == payment && attempt.state.is_in_flight())
}

/// What the policy of a store captures of an order now: each authorisation, oldest first, as far as something is to be paid.
/// Those with an attempt in flight are left; they come again.
#[must_use]
pub fn collect(of: &[Authorization], attempts: &[Attempt], money: Money, occasion: Occasion) -> Vec<Attempt> {
    let mut money = money;
    let free = of.iter().filter(|of| in_flight(attempts, of.payment).is_none());
    free.filter_map(|of| {
        let attempt = Attempt::capture(of, money, Share::ALL, occasion).ok()?;
        money.capturing += attempt.amount;
        Some(attempt)
    })
    .collect()
}

/// What a cancellation releases of an order.
#[must_use]
pub fn release(of: &[Authorization], attempts: &[Attempt], occasion: Occasion) -> Vec<Attempt> {
    of.iter()
        .filter(|of| in_flight(attempts, of.payment).is_none())
        .filter_map(|of| Attempt::void(of, occasion))
        .collect()
}

#[cfg(test)]
#[path = "attempt_tests.rs"]
mod tests;
