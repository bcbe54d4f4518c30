//! Holds: why an order is stopped, and since when it is not any more.
//!
//! An order may have several at once and is ON_HOLD while at least one is open. A hold knows the versions at which it
//! began and ended, so that an earlier answer about the order can be given again as it was (O-13).

use chrono::{DateTime, Utc};
use waybill_kernel::id::HoldId;

/// Why an order is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HoldReason {
    /// The address is to be looked at.
    Address,
    /// The payment is to be looked at.
    PaymentReview,
    /// It may be fraud.
    Fraud,
    /// Goods are awaited before anything ships.
    AwaitingStock,
    /// A person's own reason, which the note says.
    Manual,
}

keys! { HoldReason {
    Address = "address",
    PaymentReview = "payment_review",
    Fraud = "fraud",
    AwaitingStock = "awaiting_stock",
    Manual = "manual",
} }

/// Holds that may be open on one order at once.
pub const MAX_OPEN: u32 = 20;

/// A hold of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// Its id.
    pub id: HoldId,
    /// Why.
    pub reason: HoldReason,
    /// The rule that put it there; empty when it was a caller.
    pub rule: String,
    /// What whoever put it there noted.
    pub note: String,
    /// When it began.
    pub held_at: DateTime<Utc>,
    /// The order's version with it.
    pub held_version: i64,
    /// Its end; none while it is open.
    pub released: Option<Release>,
}

/// The end of a hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// When.
    pub at: DateTime<Utc>,
    /// The order's version without it.
    pub version: i64,
    /// What whoever released it noted.
    pub note: String,
}

impl Hold {
    /// The hold as it was when the order had this version; none when it had not begun.
    #[must_use]
    pub fn at(mut self, version: i64) -> Option<Hold> {
        self.released = self.released.filter(|release| release.version <= version);
        (self.held_version <= version).then_some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_is_seen_as_it_was() {
        let hold = Hold {
            id: HoldId::generate(),
            reason: HoldReason::Fraud,
            rule: String::new(),
            note: String::new(),
            held_at: DateTime::UNIX_EPOCH,
            held_version: 3,
            released: Some(Release {
                at: DateTime::UNIX_EPOCH,
                version: 5,
                note: String::new(),
            }),
        };
        assert_eq!(hold.clone().at(2), None);
        for version in [3, 4] {
            let open = hold.clone().at(version).expect("it had begun");
            assert_eq!(open.released, None);
        }
        assert_eq!(hold.clone().at(5), Some(hold));
    }
}
