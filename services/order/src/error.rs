//! Everything that can go wrong in this service, with the reason code that callers see and whether repeating helps.
//!
//! Reason codes are stable: programs compare them. Messages are for people; they name the value and the way out, and hold
//! no personal data. What the database says stays inside.

mod fault;
mod imports;

use std::sync::Arc;

use waybill_kernel::check::Violations;
use waybill_kernel::id::{DraftId, HoldId, OrderId, PaymentId};
use waybill_kernel::money::{Currency, Money};
use waybill_store::{RetryClass, StoreError};

use crate::domain::attempt::{Attempt, AttemptKind, AttemptState};
use crate::domain::cancellation::NotFree;
use crate::domain::change::Path;
use crate::domain::freeze::Refused;
use crate::domain::goods::FulfillmentStatus;
use crate::domain::limits::MAX_FAULTS;
use crate::domain::payment::PaymentKind;
use crate::domain::state::Status;

pub use self::imports::ImportError;

/// Why a call of this service did not succeed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The request is wrong; all fields that are, are named.
    #[error("the request is wrong: {0}")]
    Invalid(Violations),
    /// The order is sound, but its totals are not the sums of its lines.
    #[error("the totals do not add up: {0}")]
    TotalsMismatch(Violations),
    /// The order is within all limits, but too much for one event.
    #[error("the order takes {bytes} bytes as an event, more than the {most} that one may have; split it")]
    OrderTooLarge {
        /// What it takes.
        bytes: usize,
        /// What is allowed.
        most: usize,
    },
    /// More messages in a batch than a call may have.
    #[error(
        "a call takes at most {most} orders; send the rest in another one (orders that were taken stay taken)"
    )]
    BatchTooLarge {
        /// What is allowed.
        most: usize,
    },
    /// The orders asked for at once are too much for one answer.
    #[error(
        "the orders have {lines} lines, more than the {most} that one answer may have; ask for fewer at once"
    )]
    AnswerTooLarge {
        /// What they have.
        lines: i64,
        /// What is allowed.
        most: i64,
    },
    /// The request id was used for another request.
    #[error("request_id was already used for another request; use a new one, or send the same request again")]
    RequestIdReused,
    /// The source was placed before.
    #[error("the source was placed before as order {order_id}, number {number}")]
    OrderExists {
        /// The order.
        order_id: OrderId,
        /// Its number.
        number: String,
    },
    /// The number belongs to another order.
    #[error("number {number:?} belongs to another order of the store; leave it empty to have one assigned")]
    NumberTaken {
        /// The number.
        number: String,
    },
    /// There is no such order in this store.
    #[error("the store has no such order")]
    OrderNotFound,
    /// There is no such draft.
    #[error("the store has no such draft; it was deleted, or nobody changed it for too long")]
    DraftNotFound,
    /// The draft has become an order.
    #[error("draft {draft_id} was placed as order {order_id}; change that, or create another draft")]
    DraftPlaced {
        /// The draft.
        draft_id: DraftId,
        /// The order.
        order_id: OrderId,
    },
    /// The draft is more than is kept.
    #[error(
        "the order takes {bytes} bytes, more than the {most} that a draft may have; split it, or place it at once"
    )]
    DraftTooLarge {
        /// What it takes.
        bytes: usize,
        /// What is allowed.
        most: usize,
    },
    /// There is no such erasure.
    #[error("the merchant has no such erasure, or it goes over stores that the token does not list")]
    ErasureNotFound,
    /// The order, or the draft, was changed since the caller read it.
    #[error("etag is {given:?} but by now it is {current:?}: read it again")]
    EtagMismatch {
        /// What the caller gave.
        given: String,
        /// What it is.
        current: String,
    },
    /// The order is too far to be cancelled.
    #[error(
        "order {order_id} is {} with {shipped} units shipped; only an OPEN or ON_HOLD order of which nothing has shipped \
         can be cancelled",
        status.as_str()
    )]
    NotCancellable {
        /// The order.
        order_id: OrderId,
        /// Where it stands.
        status: Status,
        /// Units that have shipped.
        shipped: i64,
    },
    /// Not so many units of some lines can be cancelled.
    #[error("{}", not_cancellable(*order_id, refused))]
    UnitsNotCancellable {
        /// The order.
        order_id: OrderId,
        /// The lines.
        refused: Vec<NotFree>,
    },
    /// The order is at its end.
    #[error(
        "order {order_id} is {}; only an OPEN or ON_HOLD order can be edited, so place another one",
        status.as_str()
    )]
    NotEditable {
        /// The order.
        order_id: OrderId,
        /// Where it stands.
        status: Status,
    },
    /// The order as it stands does not allow an edit.
    #[error("order {order_id} cannot be edited so: {faults}")]
    EditRefused {
        /// The order.
        order_id: OrderId,
        /// Every field that it does not allow.
        faults: Violations,
    },
    /// An address no longer decides anything.
    #[error(
        "order {order_id} is {} and {}; {} can change only while the order is OPEN or ON_HOLD and something of it has not \
         shipped",
        status.as_str(), fulfillment.as_str(), path.as_str()
    )]
    AddressNotChangeable {
        /// The order.
        order_id: OrderId,
        /// Which address.
        path: Path,
        /// Where the order stands.
        status: Status,
        /// Where its goods stand.
        fulfillment: FulfillmentStatus,
    },
    /// The person was forgotten.
    #[error("the contact of order {order_id} was erased, so {} cannot change", path.as_str())]
    ContactErased {
        /// The order.
        order_id: OrderId,
        /// What was to change.
        path: Path,
    },
    /// The order is at its end.
    #[error("order {order_id} is {}; only an OPEN or ON_HOLD order can be held", status.as_str())]
    NotHoldable {
        /// The order.
        order_id: OrderId,
        /// Where it stands.
        status: Status,
    },
    /// As many holds as an order may have.
    #[error("{open} holds are open on order {order_id}, as many as there may be; release one of them first")]
    TooManyHolds {
        /// The order.
        order_id: OrderId,
        /// How many are open.
        open: u32,
    },
    /// There is no such hold to release.
    #[error("order {order_id} is {}; {}", status.as_str(), not_open(*hold, open))]
    HoldNotOpen {
        /// The order.
        order_id: OrderId,
        /// The hold that was asked for; none when it was any.
        hold: Option<HoldId>,
        /// Where the order stands.
        status: Status,
        /// The holds that are open.
        open: Vec<HoldId>,
    },
    /// Nothing more is captured for a cancelled order.
    #[error("order {order_id} is CANCELLED: nothing more is captured for it; void what is authorised")]
    OrderCancelled {
        /// The order.
        order_id: OrderId,
    },
    /// More would be captured than the order costs.
    #[error("a capture of {given} is more than the {open} of order {order_id} that is still to be paid")]
    CaptureExceedsTotal {
        /// The order.
        order_id: OrderId,
        /// What is still to be paid.
        open: Money,
        /// What was given.
        given: Money,
    },
    /// More would be given back than is authorised.
    #[error("a void of {given} is more than the {open} that is still authorised for order {order_id}")]
    NothingAuthorized {
        /// The order.
        order_id: OrderId,
        /// What is still authorised.
        open: Money,
        /// What was given.
        given: Money,
    },
    /// The provider's payment is recorded, with another amount or for another order.
    #[error(
        "this payment of the provider was recorded before, with another amount or for another order ({order_id}); a \
         provider_payment_id names one payment of each kind"
    )]
    PaymentDiffers {
        /// The order it was recorded for.
        order_id: OrderId,
    },
    /// The order has no such authorisation.
    #[error("the order has no such payment; name a payment of kind AUTHORIZATION by its payment_id")]
    PaymentNotFound,
    /// There is no such attempt.
    #[error("the order has no such attempt")]
    AttemptNotFound,
    /// A provider has the word first.
    #[error("{}", in_flight(.0))]
    PaymentInFlight(Box<InFlight>),
    /// Nobody can be called for the payment.
    #[error(
        "provider {provider:?} of order {order_id} cannot be called for captures and voids: configure it, or do it there and \
         record it by RecordPayment"
    )]
    ProviderNotCallable {
        /// The order.
        order_id: OrderId,
        /// The provider.
        provider: String,
    },
    /// More would be captured than is authorised.
    #[error(
        "a capture of {given} is more than the {open} that is open of authorisation {payment_id} of order {order_id}"
    )]
    CaptureExceedsAuthorization {
        /// The order.
        order_id: OrderId,
        /// The authorisation.
        payment_id: PaymentId,
        /// What is open of it.
        open: Money,
        /// What was given.
        given: Money,
    },
    /// As many attempts as an order may have.
    #[error(
        "order {order_id} has had {most} attempts, as many as there may be; do it at the provider, and record it"
    )]
    TooManyAttempts {
        /// The order.
        order_id: OrderId,
        /// What is allowed.
        most: usize,
    },
    /// A dispute that is not open ends.
    #[error("{}", not_disputed(*order_id, *ended))]
    DisputeNotOpen {
        /// The order.
        order_id: OrderId,
        /// How it has ended before; none when it never began.
        ended: Option<PaymentKind>,
    },
    /// The place that a watch should go on from is no longer in the log.
    #[error("the cursor is no longer in the log; begin again with from_start, or without a cursor")]
    CursorExpired,
    /// The order's history has not come to the version that was asked for.
    #[error("order {order_id} has version {version}; ask for one up to that")]
    VersionNotReached {
        /// The order.
        order_id: OrderId,
        /// The version that it has.
        version: i64,
    },
    /// More has happened to the order than is replayed at once.
    #[error(
        "more than {most} entries are on the timeline of order {order_id}; so many are not replayed by a call"
    )]
    HistoryTooLong {
        /// The order.
        order_id: OrderId,
        /// What is allowed.
        most: i64,
    },
    /// As many watches as this process serves.
    #[error("{most} calls are watching already; try again later")]
    TooManyWatches {
        /// What is allowed.
        most: usize,
    },
    /// As many exports as this process serves.
    #[error("{most} exports are running already; try again later")]
    TooManyExports {
        /// What is allowed.
        most: usize,
    },
    /// An import as a whole.
    #[error("{0}")]
    Import(ImportError),
    /// The service is about to stop.
    #[error("the service is stopping; call again")]
    Stopping,
    /// The database.
    #[error("{}", told(.0))]
    Store(#[source] Arc<StoreError>),
}

/// A capture or a void that is on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InFlight {
    /// The order.
    pub order_id: OrderId,
    /// The authorisation.
    pub payment_id: PaymentId,
    /// The attempt.
    pub attempt_id: PaymentId,
    /// What is asked for.
    pub kind: AttemptKind,
    /// How far it is.
    pub state: AttemptState,
    /// How much.
    pub amount: Money,
}

impl InFlight {
    pub(crate) fn of(order_id: OrderId, attempt: &Attempt, currency: Currency) -> InFlight {
        InFlight {
            order_id,
            payment_id: attempt.payment,
            attempt_id: attempt.id,
            kind: attempt.kind,
            state: attempt.state,
            amount: Money::new(currency, attempt.amount),
        }
    }
}

fn in_flight(of: &InFlight) -> String {
    let InFlight {
        order_id,
        payment_id,
        attempt_id,
        ..
    } = of;
    let (kind, amount, state) = (of.kind.as_str(), of.amount, of.state.as_str());
    format!(
        "a {kind} of {amount} of payment {payment_id} of order {order_id} is {state} (attempt {attempt_id}); wait until it is \
         SUCCEEDED or FAILED, then call again"
    )
}

fn not_disputed(order: OrderId, ended: Option<PaymentKind>) -> String {
    match ended {
        Some(PaymentKind::DisputeLost) => {
            format!("the dispute about order {order} has ended before: it was lost")
        }
        Some(_) => format!("the dispute about order {order} has ended before: it was won"),
        None => format!("order {order} has no such dispute; record it with kind DISPUTE first"),
    }
}

fn not_cancellable(order: OrderId, refused: &[NotFree]) -> String {
    let lines = refused.iter().take(MAX_FAULTS).filter_map(|line| {
        let of = line.of?;
        Some(format!(
            "{} of line {} were asked for and {} are free: of {} ordered, {} have shipped and {} were cancelled before",
            line.asked, line.line, of.free, of.ordered, of.shipped, of.cancelled
        ))
    });
    let lines: Vec<String> = lines.collect();
    format!("units of order {order} cannot be cancelled: {}", lines.join("; "))
}

fn not_open(hold: Option<HoldId>, open: &[HoldId]) -> String {
    let asked = hold.map_or_else(
        || "no hold of it is open".to_owned(),
        |hold| format!("hold {hold} of it is not open"),
    );
    let open: Vec<String> = open.iter().map(HoldId::to_string).collect();
    match open.as_slice() {
        [] => asked,
        _ => format!("{asked}, but {} is", open.join(", ")),
    }
}

/// What a caller is told about a fault of the database.
fn told(error: &StoreError) -> &'static str {
    match error {
        StoreError::Retry(_) => "other calls changed the same order at the same time; call again",
        StoreError::Fenced => {
            "the event log is fenced until an operator raises its generation; call again later"
        }
        error if !error.is_certainly_aborted() => {
            "the database went away while the change was committed; call again with the same request_id to learn the outcome"
        }
        StoreError::Unavailable { .. } => "the database cannot be reached; nothing was changed; call again",
        _ => "the database refused",
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Error {
        match error {
            StoreError::RequestIdReused => Error::RequestIdReused,
            error => Error::Store(Arc::new(error)),
        }
    }
}

impl From<ImportError> for Error {
    fn from(error: ImportError) -> Error {
        Error::Import(error)
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Error {
        StoreError::from(error).into()
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Error {
        match refused {
            Refused::Invalid(violations) => Error::Invalid(violations),
            Refused::Totals(violations) => Error::TotalsMismatch(violations),
        }
    }
}

impl Error {
    /// Whether the change surely did not happen.
    pub(crate) fn is_certainly_aborted(&self) -> bool {
        match self {
            Error::Store(error) => error.is_certainly_aborted(),
            _ => true,
        }
    }

    /// Whether trying again may help, so that nothing should be concluded about the request.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Error::Stopping) || !self.is_of_the_data()
    }

    /// Whether the cause lies in the request's own data, so that others in the same transaction are not to blame.
    pub(crate) fn is_of_the_data(&self) -> bool {
        match self {
            Error::Store(error) => !matches!(
                &**error,
                StoreError::Retry(_) | StoreError::Unavailable { .. } | StoreError::Fenced
            ),
            _ => true,
        }
    }
}

impl RetryClass for Error {
    fn store_error(&self) -> Option<&StoreError> {
        match self {
            Error::Store(error) => Some(error),
            _ => None,
        }
    }

    fn is_retry(&self) -> bool {
        self.store_error().is_some_and(|error| {
            // Two calls recorded one payment at once. The second, run again, finds the first's.
            error.is_retry() || error.constraint() == Some("order_payments_once")
        })
    }
}
