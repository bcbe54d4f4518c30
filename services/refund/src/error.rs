//! What can go wrong, each with a stable reason code and the way out.
//!
//! | reason | code | what the caller does |
//! | --- | --- | --- |
//! | `INVALID_REQUEST` | INVALID_ARGUMENT | mends the named fields |
//! | `REQUEST_ID_REUSED` | INVALID_ARGUMENT | takes a new `request_id` |
//! | `ORDER_NOT_FOUND`, `POLICY_NOT_FOUND`, `RETURN_NOT_FOUND`, `REFUND_NOT_FOUND`, `LEG_NOT_FOUND` | NOT_FOUND | looks at the id |
//! | `ORDER_NOT_SEEN_YET` | UNAVAILABLE | tries again after the named time |
//! | `VALID_FROM_NOT_LATER` | FAILED_PRECONDITION | lets the policy begin later |
//! | `NOT_RETURNABLE` | FAILED_PRECONDITION | reads the rule that speaks against it |
//! | `UNITS_NOT_FREE` | FAILED_PRECONDITION | asks for fewer units |
//! | `NOTHING_CAPTURED`, `NOTHING_TO_REFUND` | FAILED_PRECONDITION | there is nothing to pay back |
//! | `EXCEEDS_REFUNDABLE` | FAILED_PRECONDITION | asks for less; both amounts are named |
//! | `ILLEGAL_TRANSITION` | FAILED_PRECONDITION | reads the state and the allowed ones |
//! | `PROVIDER_CONTRADICTS` | FAILED_PRECONDITION | a person settles it with the provider |
//! | `SAME_PERSON` | PERMISSION_DENIED | lets somebody else approve |
//! | `ETAG_MISMATCH` | ABORTED | reads again |
//! | `CONFLICT` | ABORTED | just repeats |
//! | `DATABASE_UNAVAILABLE` | UNAVAILABLE | repeats later; with the same `request_id` it is safe |
//! | `INTERNAL` | INTERNAL | tells the operator |

use std::borrow::Cow;
use std::time::Duration;

use tonic::Code;
use waybill_kernel::check::Violations;
use waybill_kernel::id::{LegId, LineId, OrderId, RefundId, ReturnId};
use waybill_kernel::money::Money;
use waybill_rpc::fault::Fault;
use waybill_store::{RetryClass, StoreError};

use crate::domain::compose::Refusal;
use crate::domain::returns::IllegalTransition;

/// How long a caller waits before it asks again for an order that is on its way to us.
const NOT_SEEN_YET: Duration = Duration::from_millis(100);

/// An error of this service.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Fields of the request are not valid.
    #[error("the request is not valid: {0}")]
    Invalid(Violations),
    /// No such order in this store.
    #[error("order {0} is not known in this store")]
    OrderNotFound(OrderId),
    /// The order, or the version that was asked for, has not arrived yet.
    #[error("order {order_id} is not here yet in version {wanted}; ask again")]
    OrderNotSeenYet {
        /// The order.
        order_id: OrderId,
        /// The version that must be known.
        wanted: i64,
    },
    /// No policy is or was in force.
    #[error("no policy of this store is in force at that time; publish one that begins before it")]
    PolicyNotFound,
    /// No such return in this store.
    #[error("return {0} is not known in this store")]
    ReturnNotFound(ReturnId),
    /// No such refund in this store.
    #[error("refund {0} is not known in this store")]
    RefundNotFound(RefundId),
    /// No leg belongs to what a provider told.
    #[error("no leg of this store belongs to refund {provider_refund_id:?} of provider {provider:?}")]
    LegNotFound {
        /// The provider.
        provider: String,
        /// Its id of the refund.
        provider_refund_id: String,
    },
    /// The refund has no such leg.
    #[error("leg {0} is not one of this refund")]
    NoSuchLeg(LegId),
    /// A policy must begin after the one before it.
    #[error(
        "the policy begins at {valid_from}, but version {version} begins at {previous}; let it begin later"
    )]
    ValidFromNotLater {
        /// When it would begin.
        valid_from: chrono::DateTime<chrono::Utc>,
        /// The version before it.
        version: i32,
        /// When that begins.
        previous: chrono::DateTime<chrono::Utc>,
    },
    /// The policy refuses a return.
    #[error("line {line_id} cannot be returned ({codes}): {explanation}")]
    NotReturnable {
        /// The first line that cannot come back.
        line_id: LineId,
        /// The codes of the rules.
        codes: String,
        /// The same for people.
        explanation: String,
    },
    /// Fewer units are free than were asked for.
    #[error("{asked} units of line {line_id} were asked for, {free} are not paid back or on their way back")]
    UnitsNotFree {
        /// The line.
        line_id: LineId,
        /// Units asked for.
        asked: i32,
        /// Units that are free.
        free: i32,
    },
    /// The units of a refund that had failed are meanwhile paid back by another one.
    #[error("units of refund {0} are paid back by another refund since it failed; refund what is left")]
    UnitsTakenMeanwhile(RefundId),
    /// All shipping is paid back or on its way back.
    #[error("all shipping of the order is paid back or on its way back")]
    ShippingNotFree,
    /// Nothing was captured.
    #[error("nothing was captured for the order, so nothing can be paid back")]
    NothingCaptured,
    /// What was asked for is worth nothing.
    #[error("what was asked for is worth nothing, so there is nothing to pay back")]
    NothingToRefund,
    /// More than can be paid back.
    #[error("{asked} were asked for, {refundable} can be paid back")]
    ExceedsRefundable {
        /// What was asked for.
        asked: Money,
        /// What can be paid back.
        refundable: Money,
    },
    /// More goodwill than is beyond what units and shipping still owe.
    #[error(
        "{asked} of goodwill were asked for, {available} are left beyond what units and shipping still owe"
    )]
    GoodwillExceeds {
        /// What was asked for.
        asked: Money,
        /// What can be given on top.
        available: Money,
    },
    /// The state does not allow the step.
    #[error("the {} is {}; allowed from here: {}", .0.what, .0.state, allowed(.0))]
    IllegalTransition(IllegalTransition),
    /// A provider says that it paid what we hold as refused.
    #[error("leg {0} was refused, and the provider says that it paid it; settle it with the provider first")]
    ProviderContradicts(LegId),
    /// Who asked for a refund cannot approve it.
    #[error("refund {0} was asked for by the same caller; another one has to approve it")]
    SamePerson(RefundId),
    /// The thing was changed since it was read.
    #[error("the etag {given:?} is not the present one, {present:?}; read again")]
    EtagMismatch {
        /// What the caller holds.
        given: String,
        /// What it is now.
        present: String,
    },
    /// What is stored contradicts the rules.
    #[error("what is stored breaks a rule: {0}")]
    Broken(String),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn allowed(illegal: &IllegalTransition) -> String {
    if illegal.allowed.is_empty() {
        "nothing".to_owned()
    } else {
        illegal.allowed.join(", ")
    }
}

impl Error {
    /// One faulty field.
    #[must_use]
    pub fn field(field: impl AsRef<str>, description: impl Into<String>) -> Self {
        let mut violations = Violations::new();
        violations.push(field, description);
        Self::Invalid(violations)
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::UnknownLine { index, line_id } => unknown_line(index, line_id),
            Refusal::UnitsNotFree { line_id, asked, free } => Self::UnitsNotFree { line_id, asked, free },
            Refusal::ShippingNotFree => Self::ShippingNotFree,
            Refusal::NothingCaptured => Self::NothingCaptured,
            Refusal::NothingToPay => Self::NothingToRefund,
            Refusal::Exceeds { asked, refundable } => Self::ExceedsRefundable { asked, refundable },
            Refusal::GoodwillExceeds { asked, available } => Self::GoodwillExceeds { asked, available },
        }
    }
}

/// A list names a line that the order does not have, or that is not goods.
#[must_use]
pub fn unknown_line(index: usize, line_id: LineId) -> Error {
    Error::field(
        format!("lines[{index}].line_id"),
        format!("{line_id} is not a line of goods of this order"),
    )
}

impl From<IllegalTransition> for Error {
    fn from(illegal: IllegalTransition) -> Self {
        Self::IllegalTransition(illegal)
    }
}

impl RetryClass for Error {
    fn store_error(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}

impl Fault for Error {
    fn code(&self) -> Code {
        match self {
            Self::Invalid(_) | Self::Store(StoreError::RequestIdReused) => Code::InvalidArgument,
            Self::OrderNotFound(_)
            | Self::PolicyNotFound
            | Self::ReturnNotFound(_)
            | Self::RefundNotFound(_)
            | Self::LegNotFound { .. }
            | Self::NoSuchLeg(_) => Code::NotFound,
            Self::OrderNotSeenYet { .. }
            | Self::Store(StoreError::Unavailable { .. } | StoreError::Fenced) => Code::Unavailable,
            Self::ValidFromNotLater { .. }
            | Self::NotReturnable { .. }
            | Self::UnitsNotFree { .. }
            | Self::UnitsTakenMeanwhile(_)
            | Self::ShippingNotFree
            | Self::NothingCaptured
            | Self::NothingToRefund
            | Self::ExceedsRefundable { .. }
            | Self::GoodwillExceeds { .. }
            | Self::IllegalTransition(_)
            | Self::ProviderContradicts(_) => Code::FailedPrecondition,
            Self::SamePerson(_) => Code::PermissionDenied,
            Self::EtagMismatch { .. } => Code::Aborted,
            Self::Store(error) if error.is_retry() => Code::Aborted,
            Self::Broken(_) | Self::Store(_) => Code::Internal,
        }
    }

    fn reason(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Invalid(_) => "INVALID_REQUEST",
            Self::OrderNotFound(_) => "ORDER_NOT_FOUND",
            Self::OrderNotSeenYet { .. } => "ORDER_NOT_SEEN_YET",
            Self::PolicyNotFound => "POLICY_NOT_FOUND",
            Self::ReturnNotFound(_) => "RETURN_NOT_FOUND",
            Self::RefundNotFound(_) => "REFUND_NOT_FOUND",
            Self::LegNotFound { .. } | Self::NoSuchLeg(_) => "LEG_NOT_FOUND",
            Self::ValidFromNotLater { .. } => "VALID_FROM_NOT_LATER",
            Self::NotReturnable { .. } => "NOT_RETURNABLE",
            Self::UnitsNotFree { .. } | Self::UnitsTakenMeanwhile(_) | Self::ShippingNotFree => {
                "UNITS_NOT_FREE"
            }
            Self::NothingCaptured => "NOTHING_CAPTURED",
            Self::NothingToRefund => "NOTHING_TO_REFUND",
            Self::ExceedsRefundable { .. } | Self::GoodwillExceeds { .. } => "EXCEEDS_REFUNDABLE",
            Self::IllegalTransition(_) => "ILLEGAL_TRANSITION",
            Self::ProviderContradicts(_) => "PROVIDER_CONTRADICTS",
            Self::SamePerson(_) => "SAME_PERSON",
            Self::EtagMismatch { .. } => "ETAG_MISMATCH",
            Self::Store(StoreError::RequestIdReused) => "REQUEST_ID_REUSED",
            Self::Store(StoreError::Unavailable { .. } | StoreError::Fenced) => "DATABASE_UNAVAILABLE",
            Self::Store(error) if error.is_retry() => "CONFLICT",
            Self::Broken(_) | Self::Store(_) => "INTERNAL",
        })
    }

    fn domain(&self) -> &'static str {
        "refund.waybill"
    }

    fn violations(&self) -> Option<&Violations> {
        match self {
            Self::Invalid(violations) => Some(violations),
            _ => None,
        }
    }

    fn precondition(&self) -> Option<(String, String, String)> {
        let subject = match self {
            Self::ValidFromNotLater { .. } => "policy".to_owned(),
            Self::NotReturnable { line_id, .. } | Self::UnitsNotFree { line_id, .. } => {
                format!("line {line_id}")
            }
            Self::UnitsTakenMeanwhile(refund_id) => format!("refund {refund_id}"),
            Self::ShippingNotFree
            | Self::NothingCaptured
            | Self::NothingToRefund
            | Self::ExceedsRefundable { .. }
            | Self::GoodwillExceeds { .. } => "order".to_owned(),
            Self::IllegalTransition(illegal) => illegal.what.to_owned(),
            Self::ProviderContradicts(leg_id) => format!("leg {leg_id}"),
            _ => return None,
        };
        Some((self.reason().into_owned(), subject, self.to_string()))
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::OrderNotSeenYet { .. } => Some(NOT_SEEN_YET),
            _ => None,
        }
    }

    fn metadata(&self) -> Vec<(String, String)> {
        let pair = |key: &str, value: String| (key.to_owned(), value);
        match self {
            Self::NotReturnable { line_id, codes, .. } => {
                vec![pair("line_id", line_id.to_string()), pair("codes", codes.clone())]
            }
            Self::UnitsNotFree { line_id, asked, free } => vec![
                pair("line_id", line_id.to_string()),
                pair("asked", asked.to_string()),
                pair("free", free.to_string()),
            ],
            Self::ExceedsRefundable { asked, refundable } => {
                vec![
                    pair("asked", asked.to_string()),
                    pair("refundable", refundable.to_string()),
                ]
            }
            Self::GoodwillExceeds { asked, available } => {
                vec![
                    pair("asked", asked.to_string()),
                    pair("refundable", available.to_string()),
                ]
            }
            Self::IllegalTransition(illegal) => {
                vec![
                    pair("state", illegal.state.to_owned()),
                    pair("allowed", illegal.allowed.join(",")),
                ]
            }
            _ => Vec::new(),
        }
    }
}
