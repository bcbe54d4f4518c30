//! The life of a return (RMA).
//!
//! ```text
//! REQUESTED -> APPROVED -> RECEIVED -> COMPLETED
//!           -> DECLINED
//! ```
//!
//! COMPLETED follows by itself, once the goods are back and the money is: never by a call. The label, transit,
//! inspection, cancellation and expiry states of the contract are not entered yet.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use waybill_kernel::id::{LineId, OrderId, RefundId, ReturnId};

use super::decision::Quote;
use super::policy::ReturnReason;

/// Where a return stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ReturnState {
    /// Waits for a decision.
    Requested,
    /// The goods may come back.
    Approved,
    /// Refused; final.
    Declined,
    /// The goods are back.
    Received,
    /// The money is back with the customer; final.
    Completed,
}

impl ReturnState {
    /// Every state.
    pub const ALL: [Self; 5] = [
        Self::Requested,
        Self::Approved,
        Self::Declined,
        Self::Received,
        Self::Completed,
    ];

    /// The state as it stands in the table and in errors.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "REQUESTED",
            Self::Approved => "APPROVED",
            Self::Declined => "DECLINED",
            Self::Received => "RECEIVED",
            Self::Completed => "COMPLETED",
        }
    }

    /// Reads what [`Self::as_str`] wrote.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// The states that may follow.
    #[must_use]
    pub fn next(self) -> &'static [Self] {
        match self {
            Self::Requested => &[Self::Approved, Self::Declined],
            Self::Approved => &[Self::Received],
            Self::Received => &[Self::Completed],
            Self::Declined | Self::Completed => &[],
        }
    }
}

/// What is done with units that came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Disposition {
    /// Can be sold again.
    Restock,
    /// Damaged; kept apart.
    Damaged,
    /// Thrown away.
    Discard,
    /// Did not come back; nothing is paid for it.
    NotReturned,
}

impl Disposition {
    /// Every disposition.
    pub const ALL: [Self; 4] = [Self::Restock, Self::Damaged, Self::Discard, Self::NotReturned];

    /// The key in events and tables.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Restock => "restock",
            Self::Damaged => "damaged",
            Self::Discard => "discard",
            Self::NotReturned => "not_returned",
        }
    }

    /// The disposition with this key.
    #[must_use]
    pub fn from_key(key: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|disposition| disposition.key() == key)
    }
}

/// Units of one line in a return.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReturnLine {
    /// The line.
    pub line_id: LineId,
    /// Stock keeping unit.
    pub sku: String,
    /// Units.
    pub quantity: i32,
    /// Why they come back.
    pub reason: ReturnReason,
    /// What was done with them; none before they are back.
    pub disposition: Option<Disposition>,
}

/// A return.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Return {
    /// Its id.
    pub return_id: ReturnId,
    /// The order.
    pub order_id: OrderId,
    /// Where it stands.
    pub state: ReturnState,
    /// What comes back.
    pub lines: Vec<ReturnLine>,
    /// What was promised when it was requested; frozen.
    pub quote: Quote,
    /// The currency of the quote.
    pub currency: String,
    /// Why it was declined; empty otherwise.
    pub decline_reason: String,
    /// Its refund, if there is one.
    pub refund_id: Option<RefundId>,
    /// Who asked for it.
    pub requested_by: String,
    /// When.
    pub requested_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
    /// Counts the changes.
    pub version: i64,
}

impl Return {
    /// Moves to another state, or says which ones are allowed.
    pub fn go(&mut self, to: ReturnState) -> Result<(), IllegalTransition> {
        if !self.state.next().contains(&to) {
            return Err(IllegalTransition {
                what: "return",
                state: self.state.as_str(),
                allowed: self.state.next().iter().map(|state| state.as_str()).collect(),
            });
        }
        self.state = to;
        Ok(())
    }

    /// Notes what was done with the units, line by line; lines that are not named were not returned. With no line at
    /// all everything came back and is restocked.
    pub fn receive(&mut self, received: &[(LineId, Disposition)]) {
        for line in &mut self.lines {
            let named = received.iter().find(|(line_id, _)| *line_id == line.line_id);
            line.disposition = Some(match named {
                Some((_, disposition)) => *disposition,
                None if received.is_empty() => Disposition::Restock,
                None => Disposition::NotReturned,
            });
        }
    }

    /// True unless this line did not come back. Before anything came back every line counts as coming.
    #[must_use]
    pub fn counts(&self, line_id: LineId) -> bool {
        self.lines
            .iter()
            .any(|line| line.line_id == line_id && line.disposition != Some(Disposition::NotReturned))
    }

    /// The reason of its refund: the first line's.
    #[must_use]
    pub fn reason(&self) -> ReturnReason {
        self.lines.first().map_or(ReturnReason::Other, |line| line.reason)
    }
}

/// A call asked for a step that the state does not allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IllegalTransition {
    /// What has the state: "return", "refund" or "leg".
    pub what: &'static str,
    /// The state it has.
    pub state: &'static str,
    /// The states that may follow by a call.
    pub allowed: Vec<&'static str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_listed_steps_are_allowed() {
        let allowed: Vec<(ReturnState, ReturnState)> = ReturnState::ALL
            .into_iter()
            .flat_map(|from| from.next().iter().map(move |to| (from, *to)))
            .collect();
        assert_eq!(
            allowed,
            [
                (ReturnState::Requested, ReturnState::Approved),
                (ReturnState::Requested, ReturnState::Declined),
                (ReturnState::Approved, ReturnState::Received),
                (ReturnState::Received, ReturnState::Completed),
            ]
        );
    }

    #[test]
    fn states_and_keys_are_read_back() {
        for state in ReturnState::ALL {
            assert_eq!(ReturnState::parse(state.as_str()), Some(state));
        }
        for disposition in Disposition::ALL {
            assert_eq!(Disposition::from_key(disposition.key()), Some(disposition));
        }
        for reason in ReturnReason::ALL {
            assert_eq!(ReturnReason::from_key(reason.key()), Some(reason));
        }
        assert_eq!(ReturnState::parse("LOST"), None);
    }
}
