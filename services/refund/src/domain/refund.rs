//! The life of a refund and of its legs.
//!
//! A leg is the part of a refund that goes back over one payment. It alone talks to a provider:
//!
//! ```text
//! PENDING_APPROVAL -> PENDING -> SUBMITTED -> SUCCEEDED -> FAILED (the bank refused it later)
//!                                   |  ^  \-> FAILED -> PENDING (a person retries: a new attempt, a new key)
//!                                   v  |
//!                                 UNKNOWN -> SUCCEEDED | FAILED | SUBMITTED
//! ```
//!
//! A time-out makes a leg UNKNOWN, and only the provider's word takes it from there (R-3). The state of the refund
//! follows from its legs, by [`derive`]. Nothing here talks to a provider or a table.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use waybill_kernel::hash;
use waybill_kernel::id::{EntryId, LegId, LineId, OrderId, PaymentId, RefundId, ReturnId};

use super::returns::IllegalTransition;
use super::units::UnitSet;

/// Where a refund or a leg stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RefundState {
    /// Waits for a second pair of eyes.
    PendingApproval,
    /// Will be sent to the provider.
    Pending,
    /// Intent and key are committed; the provider was called, or is about to be.
    Submitted,
    /// The provider said the money is on its way or has arrived.
    Succeeded,
    /// The provider refused; the money is still owed.
    Failed,
    /// The provider did not answer; only it can say what happened.
    Unknown,
    /// Rejected before any call; nothing is owed.
    Cancelled,
}

impl RefundState {
    /// Every state.
    pub const ALL: [Self; 7] = [
        Self::PendingApproval,
        Self::Pending,
        Self::Submitted,
        Self::Succeeded,
        Self::Failed,
        Self::Unknown,
        Self::Cancelled,
    ];

    /// The state as it stands in tables and errors.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PendingApproval => "PENDING_APPROVAL",
            Self::Pending => "PENDING",
            Self::Submitted => "SUBMITTED",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
            Self::Unknown => "UNKNOWN",
            Self::Cancelled => "CANCELLED",
        }
    }

    /// Reads what [`Self::as_str`] wrote.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// True while a leg in this state reserves its money.
    #[must_use]
    pub fn in_flight(self) -> bool {
        matches!(
            self,
            Self::PendingApproval | Self::Pending | Self::Submitted | Self::Unknown
        )
    }

    /// The states that a call may ask for; everything else follows from what providers say.
    #[must_use]
    pub fn next_by_call(self) -> &'static [&'static str] {
        match self {
            Self::PendingApproval | Self::Failed => &["PENDING"],
            _ => &[],
        }
    }
}

/// The state of a refund, from the states of its legs. The first rule that fits holds:
///
/// | legs | refund |
/// | --- | --- |
/// | any `PENDING_APPROVAL` | `PENDING_APPROVAL` |
/// | any `CANCELLED` | `CANCELLED` |
/// | any `UNKNOWN` | `UNKNOWN` |
/// | any `SUBMITTED` | `SUBMITTED` |
/// | any `PENDING`, another `SUCCEEDED` | `SUBMITTED` |
/// | any `PENDING` | `PENDING` |
/// | any `FAILED` | `FAILED` |
/// | all `SUCCEEDED` | `SUCCEEDED` |
#[must_use]
pub fn derive(legs: &[RefundState]) -> RefundState {
    let any = |state| legs.contains(&state);
    let first = [
        RefundState::PendingApproval,
        RefundState::Cancelled,
        RefundState::Unknown,
        RefundState::Submitted,
    ];
    if let Some(state) = first.into_iter().find(|state| any(*state)) {
        return state;
    }
    match (
        any(RefundState::Pending),
        any(RefundState::Succeeded),
        any(RefundState::Failed),
    ) {
        (true, true, _) => RefundState::Submitted,
        (true, false, _) => RefundState::Pending,
        (false, _, true) => RefundState::Failed,
        (false, _, false) => RefundState::Succeeded,
    }
}

/// What a part of a refund pays for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ComponentKind {
    /// Units of a line.
    Line,
    /// A shipping line.
    Shipping,
    /// What is kept of a line; negative.
    Fee,
    /// What is given on top.
    Goodwill,
    /// What a cancelled order never paid of its lines; negative.
    Unpaid,
    /// What was captured beyond what the order owes.
    Overpaid,
}

impl ComponentKind {
    /// Every kind.
    pub const ALL: [Self; 6] = [
        Self::Line,
        Self::Shipping,
        Self::Fee,
        Self::Goodwill,
        Self::Unpaid,
        Self::Overpaid,
    ];

    /// The key in tables and answers.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Line => "line",
            Self::Shipping => "shipping",
            Self::Fee => "fee",
            Self::Goodwill => "goodwill",
            Self::Unpaid => "unpaid",
            Self::Overpaid => "overpaid",
        }
    }

    /// The kind with this key.
    #[must_use]
    pub fn from_key(key: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.key() == key)
    }
}

/// One part of a refund's amount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    /// What it is.
    pub kind: ComponentKind,
    /// The line; none where it is about the order.
    pub line_id: Option<LineId>,
    /// The units that are paid back; none but for lines and shipping.
    pub units: UnitSet,
    /// Without tax; negative for what is kept.
    pub net: i64,
    /// Tax, as it was frozen at placement.
    pub tax: i64,
}

/// The part of a refund that goes back over one payment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leg {
    /// Its id.
    pub leg_id: LegId,
    /// The payment.
    pub payment_id: PaymentId,
    /// The provider that carries it out.
    pub provider: String,
    /// How much, in minor units.
    pub amount: i64,
    /// Where it stands.
    pub state: RefundState,
    /// The attempt it is at, from 1; a new one has a new key and is only made when the provider said no.
    pub attempt: i32,
    /// Calls made so far.
    pub calls: i32,
    /// The provider's id of the refund, of this attempt.
    pub provider_refund_id: Option<String>,
    /// Why the provider refused; empty otherwise.
    pub failure_reason: String,
    /// The entry that booked its payment, while it is paid.
    pub paid_entry: Option<EntryId>,
    /// True while others were told that it succeeded: keeps the sum of what they heard exact.
    pub told: bool,
}

impl Leg {
    /// A leg that was not handed to anybody yet. Its id follows from its refund and its payment: a refund that is decided
    /// again, after commits were lost, asks the provider under the same keys.
    #[must_use]
    pub fn new(
        refund_id: RefundId,
        payment_id: PaymentId,
        provider: String,
        amount: i64,
        state: RefundState,
    ) -> Self {
        Self {
            leg_id: derived(refund_id.uuid(), &[payment_id.uuid().as_bytes()]).into(),
            payment_id,
            provider,
            amount,
            state,
            attempt: 1,
            calls: 0,
            provider_refund_id: None,
            failure_reason: String::new(),
            paid_entry: None,
            told: false,
        }
    }

    /// The key that makes a repeated call harmless (R-2). It depends on nothing but leg and attempt.
    #[must_use]
    pub fn provider_key(leg_id: LegId, attempt: i32) -> String {
        format!("waybill-leg-{leg_id}-{attempt}")
    }
}

/// The id of a refund that follows from an event alone and not from a call: decided again, it is the same refund.
#[must_use]
pub fn refund_because(order_id: OrderId, cause: &str) -> RefundId {
    derived(order_id.uuid(), &[b"refund", cause.as_bytes()]).into()
}

/// An id that follows from others: the time of `base`, and a hash of everything where a random id has chance.
fn derived(base: Uuid, parts: &[&[u8]]) -> Uuid {
    let mut text = base.as_bytes().to_vec();
    for part in parts {
        text.extend_from_slice(part);
        text.push(0);
    }
    let hash = hash::sha256(&text);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    bytes[..6].copy_from_slice(&base.as_bytes()[..6]);
    uuid::Builder::from_bytes(bytes)
        .with_version(uuid::Version::SortRand)
        .with_variant(uuid::Variant::RFC4122)
        .into_uuid()
}

/// Money on its way back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refund {
    /// Its id.
    pub refund_id: RefundId,
    /// The order.
    pub order_id: OrderId,
    /// The return it belongs to.
    pub return_id: Option<ReturnId>,
    /// Where it stands; always what [`derive`] says.
    pub state: RefundState,
    /// Currency code of all its amounts.
    pub currency: String,
    /// How much, in minor units; the sum of its components and of its legs.
    pub amount: i64,
    /// The tax in it.
    pub tax: i64,
    /// What it consists of.
    pub components: Vec<Component>,
    /// How it goes back.
    pub legs: Vec<Leg>,
    /// Why, as a key.
    pub reason_key: String,
    /// Why, for people.
    pub reason: String,
    /// Who asked for it.
    pub requested_by: String,
    /// Who gave the second pair of eyes, where one was wanted.
    pub approved_by: Option<String>,
    /// Business days until it arrives, by the order's policy.
    pub arrival_days: u32,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
    /// When the first leg was handed to its provider.
    pub started_at: Option<DateTime<Utc>>,
    /// When the customer can expect the money.
    pub expected_at: Option<DateTime<Utc>>,
    /// When the last leg succeeded.
    pub succeeded_at: Option<DateTime<Utc>>,
    /// True once others were told of its tax: it is told once.
    pub tax_told: bool,
    /// True while its units are taken and its amount is booked as owed; false once every leg has failed.
    pub holds: bool,
    /// The entry that booked it as owed, while it is.
    pub accrual_entry: Option<EntryId>,
    /// Counts the changes.
    pub version: i64,
}

impl Refund {
    /// The leg with this id.
    #[must_use]
    pub fn leg(&self, leg_id: LegId) -> Option<&Leg> {
        self.legs.iter().find(|leg| leg.leg_id == leg_id)
    }

    /// What the legs say the state is.
    #[must_use]
    pub fn derived(&self) -> RefundState {
        derive(&self.legs.iter().map(|leg| leg.state).collect::<Vec<_>>())
    }

    /// True when every leg was refused: the only moment at which units become free again.
    #[must_use]
    pub fn every_leg_failed(&self) -> bool {
        self.legs.iter().all(|leg| leg.state == RefundState::Failed)
    }

    /// Lets a refund that waits for approval go to its providers.
    pub fn approve(&mut self, by: &str) -> Result<(), IllegalTransition> {
        if self.state != RefundState::PendingApproval {
            return Err(self.illegal("refund", self.state));
        }
        for leg in &mut self.legs {
            leg.state = RefundState::Pending;
        }
        self.approved_by = Some(by.to_owned());
        self.state = self.derived();
        Ok(())
    }

    /// The money that must be there to take a failed leg up again, per payment: that of the leg alone while the refund
    /// holds its units, that of every leg once it had given them up.
    pub fn wanted_for_retry(&self, leg_id: LegId) -> impl Iterator<Item = (PaymentId, i64)> {
        self.legs
            .iter()
            .filter(move |leg| !self.holds || leg.leg_id == leg_id)
            .map(|leg| (leg.payment_id, leg.amount))
    }

    /// Takes a failed leg up again under a new attempt.
    pub fn retry(&mut self, leg_id: LegId) -> Result<i64, IllegalTransition> {
        let Some(leg) = self.legs.iter_mut().find(|leg| leg.leg_id == leg_id) else {
            return Err(self.illegal("leg", self.state));
        };
        if leg.state != RefundState::Failed {
            let state = leg.state;
            return Err(self.illegal("leg", state));
        }
        leg.state = RefundState::Pending;
        leg.attempt += 1;
        leg.provider_refund_id = None;
        leg.failure_reason = String::new();
        let amount = leg.amount;
        self.holds = true;
        self.state = self.derived();
        Ok(amount)
    }

    fn illegal(&self, what: &'static str, state: RefundState) -> IllegalTransition {
        IllegalTransition {
            what,
            state: state.as_str(),
            allowed: state.next_by_call().to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use RefundState::{Cancelled, Failed, Pending, PendingApproval, Submitted, Succeeded, Unknown};

    use super::*;

    #[test]
    fn the_refund_follows_its_legs() {
        let table: [(&[RefundState], RefundState); 13] = [
            (&[PendingApproval, PendingApproval], PendingApproval),
            (&[Cancelled, Cancelled], Cancelled),
            (&[Pending], Pending),
            (&[Pending, Pending], Pending),
            (&[Failed, Pending], Pending),
            (&[Succeeded, Pending], Submitted),
            (&[Submitted, Pending], Submitted),
            (&[Unknown, Submitted], Unknown),
            (&[Unknown, Failed], Unknown),
            (&[Succeeded, Submitted], Submitted),
            (&[Succeeded, Failed], Failed),
            (&[Failed, Failed], Failed),
            (&[Succeeded, Succeeded], Succeeded),
        ];
        for (legs, refund) in table {
            assert_eq!(derive(legs), refund, "{legs:?}");
            let mut turned = legs.to_vec();
            turned.reverse();
            assert_eq!(
                derive(&turned),
                refund,
                "the order of legs does not matter: {turned:?}"
            );
        }
    }

    #[test]
    fn states_and_kinds_are_read_back() {
        for state in RefundState::ALL {
            assert_eq!(RefundState::parse(state.as_str()), Some(state));
        }
        for kind in ComponentKind::ALL {
            assert_eq!(ComponentKind::from_key(kind.key()), Some(kind));
        }
        assert_eq!(RefundState::parse("LOST"), None);
    }

    #[test]
    fn a_key_depends_on_leg_and_attempt_alone() {
        let leg = LegId::generate();
        assert_eq!(Leg::provider_key(leg, 1), Leg::provider_key(leg, 1));
        assert_ne!(Leg::provider_key(leg, 1), Leg::provider_key(leg, 2));
        assert_ne!(Leg::provider_key(leg, 1), Leg::provider_key(LegId::generate(), 1));
    }
}
