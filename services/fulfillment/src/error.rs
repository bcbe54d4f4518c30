//! What can go wrong, each with the reason code that callers compare and its retry class.
//!
//! Reasons are part of the contract: they are never renamed.

use std::borrow::Cow;
use std::time::Duration;

use tonic::Code;
use waybill_kernel::check::Violations;
use waybill_kernel::id::{LocationId, OrderId, ShipmentId};
use waybill_rpc::fault::Fault;
use waybill_store::{RetryClass, StoreError};

use crate::domain::progress::ProgressError;
use crate::domain::shipping::NotAllocated;
use crate::domain::stock::{AdjustError, Sku};

/// How soon it is worthwhile to ask again for an order whose events are on their way.
const SEEN_SOON: Duration = Duration::from_millis(100);

/// An error of the service.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is wrong; every bad field is named.
    #[error("the request has faults: {0}")]
    Invalid(Violations),
    /// The request id belongs to another request.
    #[error("request_id was already used for another request; use a new one")]
    RequestIdReused,
    /// The name of a new location is in use.
    #[error("the merchant has a location named {name:?} already; choose another name")]
    LocationExists {
        /// The name.
        name: String,
    },
    /// One location more than a merchant may have.
    #[error("the merchant has {limit} locations, the most there may be")]
    TooManyLocations {
        /// The most there may be.
        limit: i64,
    },
    /// A location that the merchant does not have.
    #[error("the merchant has no location {location}; list them with ListLocations")]
    LocationNotFound {
        /// The location.
        location: LocationId,
    },
    /// A stock level cannot become what was asked for.
    #[error("stock of sku {sku:?} at location {location}: the adjustment {cause}{}", more(*.others))]
    StockRefused {
        /// The sku.
        sku: Sku,
        /// The location.
        location: LocationId,
        /// Why.
        cause: AdjustError,
        /// How many other adjustments of the request are refused too.
        others: usize,
    },
    /// No such order in the store.
    #[error("the store has no order {order}")]
    OrderNotFound {
        /// The order.
        order: OrderId,
    },
    /// The order, or the version of it that was asked for, has not arrived here yet.
    #[error("order {order} has not been seen in version {version} yet; try again in a moment")]
    OrderNotSeenYet {
        /// The order.
        order: OrderId,
        /// The version that was asked for.
        version: i64,
    },
    /// What shall ship is not reserved.
    #[error("order {order}: {cause}")]
    NotAllocated {
        /// The order.
        order: OrderId,
        /// What is missing.
        cause: NotAllocated,
    },
    /// What is captured and authorised does not cover what is to be paid.
    #[error(
        "what is captured and authorised of order {order} does not cover what is to be paid; record the payment first"
    )]
    PaymentPending {
        /// The order.
        order: OrderId,
    },
    /// The order service holds the order.
    #[error("order {order} is on hold; nothing of it ships before the order service has released it")]
    OrderOnHold {
        /// The order.
        order: OrderId,
    },
    /// The order was cancelled.
    #[error("order {order} was cancelled; nothing of it ships any more")]
    OrderCancelled {
        /// The order.
        order: OrderId,
    },
    /// Another shipment of the merchant has this number.
    #[error(
        "carrier {carrier:?} already has a shipment with tracking number {tracking_number:?}; check the number"
    )]
    TrackingNumberInUse {
        /// The carrier.
        carrier: String,
        /// The number.
        tracking_number: String,
    },
    /// No such shipment in the store.
    #[error("the store has no shipment {shipment}")]
    ShipmentNotFound {
        /// The shipment.
        shipment: ShipmentId,
    },
    /// The database.
    #[error("{}", storage(.0))]
    Store(#[source] StoreError),
}

fn more(others: usize) -> String {
    if others == 0 {
        String::new()
    } else {
        format!("; and {others} more like it")
    }
}

/// What a caller can do about it. The cause itself is for the log.
fn storage(error: &StoreError) -> &'static str {
    match error {
        StoreError::Retry(_) => "other calls changed the same things several times in between; try again",
        StoreError::Unavailable {
            certainly_aborted: false,
            ..
        } => "the database was lost while committing; send the same request again, it takes effect once",
        StoreError::Unavailable { .. } => "the database is not available; try again",
        StoreError::Fenced => {
            "nothing is written until an operator has raised the generation of the event log"
        }
        _ => "the database could not answer",
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::RequestIdReused => Self::RequestIdReused,
            error => Self::Store(error),
        }
    }
}

impl From<ProgressError> for Error {
    /// Units are only moved under the order's lock and after looking: a refused move is a fault of ours.
    fn from(error: ProgressError) -> Self {
        Self::Store(StoreError::other(error))
    }
}

impl From<Violations> for Error {
    fn from(violations: Violations) -> Self {
        Self::Invalid(violations)
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
            Self::Invalid(_) | Self::RequestIdReused => Code::InvalidArgument,
            Self::LocationExists { .. } | Self::TrackingNumberInUse { .. } => Code::AlreadyExists,
            Self::TooManyLocations { .. } => Code::ResourceExhausted,
            Self::LocationNotFound { .. } | Self::OrderNotFound { .. } | Self::ShipmentNotFound { .. } => {
                Code::NotFound
            }
            Self::StockRefused { .. }
            | Self::NotAllocated { .. }
            | Self::PaymentPending { .. }
            | Self::OrderOnHold { .. }
            | Self::OrderCancelled { .. } => Code::FailedPrecondition,
            Self::OrderNotSeenYet { .. } => Code::Unavailable,
            Self::Store(error) => match error {
                StoreError::Retry(_) => Code::Aborted,
                StoreError::Unavailable { .. } | StoreError::Fenced => Code::Unavailable,
                _ => Code::Internal,
            },
        }
    }

    fn reason(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Invalid(_) => "INVALID_REQUEST",
            Self::RequestIdReused => "REQUEST_ID_REUSED",
            Self::LocationExists { .. } => "LOCATION_EXISTS",
            Self::TooManyLocations { .. } => "TOO_MANY_LOCATIONS",
            Self::LocationNotFound { .. } => "LOCATION_NOT_FOUND",
            Self::StockRefused {
                cause: AdjustError::BelowReserved { .. },
                ..
            } => "STOCK_BELOW_RESERVED",
            Self::StockRefused {
                cause: AdjustError::TooMuch { .. },
                ..
            } => "STOCK_TOO_LARGE",
            Self::OrderNotFound { .. } => "ORDER_NOT_FOUND",
            Self::OrderNotSeenYet { .. } => "ORDER_NOT_SEEN_YET",
            Self::NotAllocated { .. } => "NOT_ALLOCATED",
            Self::PaymentPending { .. } => "PAYMENT_PENDING",
            Self::OrderOnHold { .. } => "ORDER_ON_HOLD",
            Self::OrderCancelled { .. } => "ORDER_CANCELLED",
            Self::TrackingNumberInUse { .. } => "TRACKING_NUMBER_IN_USE",
            Self::ShipmentNotFound { .. } => "SHIPMENT_NOT_FOUND",
            Self::Store(error) => match error {
                StoreError::Retry(_) => "CONFLICT",
                StoreError::Unavailable {
                    certainly_aborted: false,
                    ..
                } => "OUTCOME_UNKNOWN",
                StoreError::Unavailable { .. } => "DATABASE_UNAVAILABLE",
                StoreError::Fenced => "LOG_FENCED",
                _ => "INTERNAL",
            },
        })
    }

    fn domain(&self) -> &'static str {
        "fulfillment.waybill"
    }

    fn violations(&self) -> Option<&Violations> {
        match self {
            Self::Invalid(violations) => Some(violations),
            _ => None,
        }
    }

    fn precondition(&self) -> Option<(String, String, String)> {
        let (kind, subject) = match self {
            Self::StockRefused { sku, .. } => ("STOCK", sku.to_string()),
            Self::NotAllocated { order, .. } => ("ALLOCATION", order.to_string()),
            Self::PaymentPending { order } => ("PAYMENT", order.to_string()),
            Self::OrderOnHold { order } => ("ORDER_STATUS", order.to_string()),
            Self::OrderCancelled { order } => ("ORDER_STATUS", order.to_string()),
            _ => return None,
        };
        Some((kind.to_owned(), subject, self.to_string()))
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::OrderNotSeenYet { .. } => Some(SEEN_SOON),
            Self::Store(StoreError::Retry(_)) => Some(Duration::from_millis(50)),
            Self::Store(StoreError::Unavailable { .. }) => Some(Duration::from_secs(1)),
            _ => None,
        }
    }

    fn metadata(&self) -> Vec<(String, String)> {
        match self {
            Self::StockRefused { sku, location, .. } => {
                vec![
                    ("sku".to_owned(), sku.to_string()),
                    ("location_id".to_owned(), location.to_string()),
                ]
            }
            Self::LocationNotFound { location } => vec![("location_id".to_owned(), location.to_string())],
            Self::OrderNotFound { order }
            | Self::OrderNotSeenYet { order, .. }
            | Self::NotAllocated { order, .. }
            | Self::PaymentPending { order }
            | Self::OrderOnHold { order }
            | Self::OrderCancelled { order } => vec![("order_id".to_owned(), order.to_string())],
            Self::ShipmentNotFound { shipment } => vec![("shipment_id".to_owned(), shipment.to_string())],
            _ => Vec::new(),
        }
    }
}
