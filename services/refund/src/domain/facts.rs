//! What happened, as the service tells others. Ids, amounts and keys only: no personal data.
//!
//! A fact is a plain value; how it travels is the matter of [`crate::events`].

use chrono::{DateTime, Utc};
use waybill_kernel::id::{RefundId, ReturnId};

use super::returns::ReturnLine;

/// Something happened to a return or a refund of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// A customer asked for a return.
    ReturnRequested {
        /// The return.
        return_id: ReturnId,
        /// What comes back.
        lines: Vec<ReturnLine>,
    },
    /// A return was approved.
    ReturnApproved {
        /// The return.
        return_id: ReturnId,
        /// True when the policy decided.
        automatic: bool,
    },
    /// A return was declined.
    ReturnDeclined {
        /// The return.
        return_id: ReturnId,
    },
    /// Returned goods are back.
    ReturnReceived {
        /// The return.
        return_id: ReturnId,
        /// What came back and what was done with it.
        lines: Vec<ReturnLine>,
    },
    /// A return has ended with its money paid back.
    ReturnCompleted {
        /// The return.
        return_id: ReturnId,
    },
    /// Money is owed to the customer.
    RefundCreated {
        /// The refund.
        refund_id: RefundId,
        /// Its return.
        return_id: Option<ReturnId>,
        /// How much.
        amount: i64,
        /// Why, as a key.
        reason: String,
    },
    /// The first leg was handed to its provider.
    RefundStarted {
        /// The refund.
        refund_id: RefundId,
        /// How much.
        amount: i64,
        /// When the customer can expect the money.
        expected_at: DateTime<Utc>,
    },
    /// All of a refund was paid.
    RefundSucceeded {
        /// The refund.
        refund_id: RefundId,
        /// How much was not told to have succeeded before.
        amount: i64,
        /// The tax in it.
        tax: i64,
        /// Why, as a key.
        reason: String,
        /// When it was asked for.
        created_at: DateTime<Utc>,
        /// When it succeeded.
        succeeded_at: DateTime<Utc>,
        /// All that went back of the order after this.
        order_refunded: i64,
    },
    /// A provider refused; the money is still owed.
    RefundFailed {
        /// The refund.
        refund_id: RefundId,
        /// How much was refused.
        amount: i64,
        /// The provider's reason.
        failure_reason: String,
        /// True when it was told to have succeeded before.
        was_succeeded: bool,
        /// All that went back of the order after this.
        order_refunded: i64,
    },
}
