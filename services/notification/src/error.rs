//! What can go wrong, each with the reason code that callers see and whether repeating helps.

use std::borrow::Cow;
use std::time::Duration;

use tonic::Code;
use waybill_kernel::check::Violations;
use waybill_rpc::fault::Fault;
use waybill_store::{RetryClass, StoreError};

use crate::render::RenderError;

/// An error of the service.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is wrong; every bad field is named.
    #[error("the request has faults: {0}")]
    Invalid(Violations),
    /// The store has no brand yet.
    #[error("the store has no brand yet; set one with PutBrand")]
    BrandNotFound,
    /// No such notification in this store.
    #[error("notification {0} does not exist in this store")]
    NotificationNotFound(String),
    /// A template is at fault.
    #[error(transparent)]
    Render(#[from] RenderError),
    /// The database could not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
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
            Self::Invalid(_) => Code::InvalidArgument,
            Self::BrandNotFound | Self::NotificationNotFound(_) => Code::NotFound,
            Self::Store(StoreError::Unavailable { .. }) => Code::Unavailable,
            Self::Store(error) if error.is_retry() => Code::Aborted,
            Self::Render(_) | Self::Store(_) => Code::Internal,
        }
    }

    fn reason(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Invalid(_) => "INVALID_REQUEST",
            Self::BrandNotFound => "BRAND_NOT_FOUND",
            Self::NotificationNotFound(_) => "NOTIFICATION_NOT_FOUND",
            Self::Store(StoreError::Unavailable { .. }) => "DATABASE_UNAVAILABLE",
            Self::Store(error) if error.is_retry() => "CONFLICT",
            Self::Render(_) | Self::Store(_) => "INTERNAL",
        })
    }

    fn domain(&self) -> &'static str {
        "notification.waybill"
    }

    fn violations(&self) -> Option<&Violations> {
        match self {
            Self::Invalid(violations) => Some(violations),
            _ => None,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        matches!(self.code(), Code::Unavailable | Code::Aborted).then_some(Duration::from_millis(200))
    }
}
