//! What a caller is told of an error: code, reason, details, and when to come back.

use std::borrow::Cow;
use std::time::Duration;

use tonic::Code;
use waybill_kernel::check::Violations;
use waybill_rpc::fault::Fault;
use waybill_store::StoreError;

use super::Error;

impl Fault for Error {
    fn code(&self) -> Code {
        match self {
            Error::Invalid(_)
            | Error::TotalsMismatch(_)
            | Error::OrderTooLarge { .. }
            | Error::DraftTooLarge { .. }
            | Error::BatchTooLarge { .. }
            | Error::AnswerTooLarge { .. }
            | Error::RequestIdReused => Code::InvalidArgument,
            Error::OrderExists { .. } | Error::NumberTaken { .. } => Code::AlreadyExists,
            Error::OrderNotFound
            | Error::ErasureNotFound
            | Error::DraftNotFound
            | Error::PaymentNotFound
            | Error::AttemptNotFound => Code::NotFound,
            Error::EtagMismatch { .. } => Code::Aborted,
            Error::NotCancellable { .. }
            | Error::UnitsNotCancellable { .. }
            | Error::NotEditable { .. }
            | Error::EditRefused { .. }
            | Error::DraftPlaced { .. }
            | Error::AddressNotChangeable { .. }
            | Error::ContactErased { .. }
            | Error::NotHoldable { .. }
            | Error::TooManyHolds { .. }
            | Error::HoldNotOpen { .. }
            | Error::OrderCancelled { .. }
            | Error::CaptureExceedsTotal { .. }
            | Error::NothingAuthorized { .. }
            | Error::PaymentDiffers { .. }
            | Error::HistoryTooLong { .. }
            | Error::PaymentInFlight(_)
            | Error::ProviderNotCallable { .. }
            | Error::CaptureExceedsAuthorization { .. }
            | Error::TooManyAttempts { .. }
            | Error::DisputeNotOpen { .. } => Code::FailedPrecondition,
            Error::CursorExpired | Error::VersionNotReached { .. } => Code::OutOfRange,
            Error::TooManyWatches { .. } | Error::TooManyExports { .. } => Code::ResourceExhausted,
            Error::Import(error) => error.code(),
            Error::Stopping => Code::Unavailable,
            Error::Store(error) => match &**error {
                StoreError::Retry(_) => Code::Aborted,
                StoreError::Unavailable { .. } | StoreError::Fenced => Code::Unavailable,
                _ => Code::Internal,
            },
        }
    }

    fn reason(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Error::Invalid(_) => "INVALID_REQUEST",
            Error::TotalsMismatch(_) => "TOTALS_MISMATCH",
            Error::OrderTooLarge { .. } => "ORDER_TOO_LARGE",
            Error::BatchTooLarge { .. } => "BATCH_TOO_LARGE",
            Error::AnswerTooLarge { .. } => "ANSWER_TOO_LARGE",
            Error::RequestIdReused => "REQUEST_ID_REUSED",
            Error::OrderExists { .. } => "ORDER_EXISTS",
            Error::NumberTaken { .. } => "NUMBER_TAKEN",
            Error::OrderNotFound => "ORDER_NOT_FOUND",
            Error::ErasureNotFound => "ERASURE_NOT_FOUND",
            Error::DraftNotFound => "DRAFT_NOT_FOUND",
            Error::DraftPlaced { .. } => "DRAFT_PLACED",
            Error::DraftTooLarge { .. } => "DRAFT_TOO_LARGE",
            Error::EtagMismatch { .. } => "ETAG_MISMATCH",
            Error::NotCancellable { .. } => "ORDER_NOT_CANCELLABLE",
            Error::UnitsNotCancellable { .. } => "UNITS_NOT_CANCELLABLE",
            Error::NotEditable { .. } => "ORDER_NOT_EDITABLE",
            Error::EditRefused { .. } => "EDIT_REFUSED",
            Error::AddressNotChangeable { .. } => "ADDRESS_NOT_CHANGEABLE",
            Error::ContactErased { .. } => "CONTACT_ERASED",
            Error::NotHoldable { .. } => "ORDER_NOT_HOLDABLE",
            Error::TooManyHolds { .. } => "TOO_MANY_HOLDS",
            Error::HoldNotOpen { .. } => "HOLD_NOT_OPEN",
            Error::OrderCancelled { .. } => "ORDER_CANCELLED",
            Error::CaptureExceedsTotal { .. } => "CAPTURE_EXCEEDS_TOTAL",
            Error::NothingAuthorized { .. } => "NOTHING_AUTHORIZED",
            Error::PaymentDiffers { .. } => "PAYMENT_DIFFERS",
            Error::PaymentNotFound => "PAYMENT_NOT_FOUND",
            Error::AttemptNotFound => "ATTEMPT_NOT_FOUND",
            Error::PaymentInFlight(_) => "PAYMENT_IN_FLIGHT",
            Error::ProviderNotCallable { .. } => "PROVIDER_NOT_CALLABLE",
            Error::CaptureExceedsAuthorization { .. } => "CAPTURE_EXCEEDS_AUTHORIZATION",
            Error::TooManyAttempts { .. } => "TOO_MANY_ATTEMPTS",
            Error::DisputeNotOpen { .. } => "DISPUTE_NOT_OPEN",
            Error::CursorExpired => "CURSOR_EXPIRED",
            Error::VersionNotReached { .. } => "VERSION_NOT_REACHED",
            Error::HistoryTooLong { .. } => "HISTORY_TOO_LONG",
            Error::TooManyWatches { .. } => "TOO_MANY_WATCHES",
            Error::TooManyExports { .. } => "TOO_MANY_EXPORTS",
            Error::Import(error) => error.reason(),
            Error::Stopping => "STOPPING",
            Error::Store(error) => match &**error {
                StoreError::Retry(_) => "CONFLICT",
                StoreError::Fenced => "LOG_FENCED",
                error if !error.is_certainly_aborted() => "OUTCOME_UNKNOWN",
                StoreError::Unavailable { .. } => "DATABASE_UNAVAILABLE",
                _ => "INTERNAL",
            },
        })
    }

    fn domain(&self) -> &'static str {
        "order.waybill"
    }

    fn violations(&self) -> Option<&Violations> {
        match self {
            Error::Invalid(violations)
            | Error::TotalsMismatch(violations)
            | Error::EditRefused {
                faults: violations, ..
            } => Some(violations),
            _ => None,
        }
    }

    fn precondition(&self) -> Option<(String, String, String)> {
        if let Error::Import(error) = self {
            return error.precondition();
        }
        if let Error::DraftPlaced { draft_id, .. } = self {
            return Some(("DRAFT_STATUS".to_owned(), draft_id.to_string(), self.to_string()));
        }
        let (kind, order_id) = match self {
            Error::NotCancellable { order_id, .. }
            | Error::AddressNotChangeable { order_id, .. }
            | Error::NotHoldable { order_id, .. }
            | Error::UnitsNotCancellable { order_id, .. }
            | Error::NotEditable { order_id, .. }
            | Error::EditRefused { order_id, .. }
            | Error::OrderCancelled { order_id } => ("ORDER_STATUS", order_id),
            Error::ContactErased { order_id, .. } => ("ORDER_CONTACT", order_id),
            Error::TooManyHolds { order_id, .. } | Error::HoldNotOpen { order_id, .. } => {
                ("ORDER_HOLD", order_id)
            }
            Error::HistoryTooLong { order_id, .. } => ("ORDER_HISTORY", order_id),
            Error::CaptureExceedsTotal { order_id, .. }
            | Error::NothingAuthorized { order_id, .. }
            | Error::ProviderNotCallable { order_id, .. }
            | Error::CaptureExceedsAuthorization { order_id, .. }
            | Error::TooManyAttempts { order_id, .. }
            | Error::DisputeNotOpen { order_id, .. }
            | Error::PaymentDiffers { order_id, .. } => ("ORDER_PAYMENT", order_id),
            Error::PaymentInFlight(of) => ("ORDER_PAYMENT", &of.order_id),
            _ => return None,
        };
        Some((kind.to_owned(), order_id.to_string(), self.to_string()))
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::TooManyWatches { .. } | Error::TooManyExports { .. } => Some(Duration::from_secs(1)),
            Error::Import(error) => error.retry_after(),
            Error::Stopping => Some(Duration::from_millis(500)),
            Error::PaymentInFlight(_) => Some(Duration::from_secs(1)),
            Error::Store(error) => match &**error {
                StoreError::Retry(_) => Some(Duration::from_millis(50)),
                StoreError::Unavailable { .. } => Some(Duration::from_millis(500)),
                StoreError::Fenced => Some(Duration::from_secs(30)),
                _ => None,
            },
            _ => None,
        }
    }

    fn metadata(&self) -> Vec<(String, String)> {
        match self {
            Error::OrderExists { order_id, number } => vec![
                ("order_id".to_owned(), order_id.to_string()),
                ("number".to_owned(), number.clone()),
            ],
            Error::NotCancellable { order_id, status, .. }
            | Error::AddressNotChangeable { order_id, status, .. }
            | Error::NotEditable { order_id, status }
            | Error::NotHoldable { order_id, status }
            | Error::HoldNotOpen { order_id, status, .. } => vec![
                ("order_id".to_owned(), order_id.to_string()),
                ("status".to_owned(), status.as_str().to_owned()),
            ],
            Error::DraftPlaced { draft_id, order_id } => vec![
                ("draft_id".to_owned(), draft_id.to_string()),
                ("order_id".to_owned(), order_id.to_string()),
            ],
            Error::EtagMismatch { current, .. } => vec![("etag".to_owned(), current.clone())],
            Error::VersionNotReached { order_id, version } => vec![
                ("order_id".to_owned(), order_id.to_string()),
                ("version".to_owned(), version.to_string()),
            ],
            Error::OrderCancelled { order_id }
            | Error::UnitsNotCancellable { order_id, .. }
            | Error::EditRefused { order_id, .. }
            | Error::TooManyHolds { order_id, .. }
            | Error::ContactErased { order_id, .. }
            | Error::CaptureExceedsTotal { order_id, .. }
            | Error::NothingAuthorized { order_id, .. }
            | Error::ProviderNotCallable { order_id, .. }
            | Error::CaptureExceedsAuthorization { order_id, .. }
            | Error::TooManyAttempts { order_id, .. }
            | Error::DisputeNotOpen { order_id, .. }
            | Error::PaymentDiffers { order_id, .. } => vec![("order_id".to_owned(), order_id.to_string())],
            Error::PaymentInFlight(of) => vec![
                ("order_id".to_owned(), of.order_id.to_string()),
                ("payment_id".to_owned(), of.payment_id.to_string()),
                ("attempt_id".to_owned(), of.attempt_id.to_string()),
                ("state".to_owned(), of.state.as_str().to_owned()),
            ],
            _ => Vec::new(),
        }
    }
}
