//! What can go wrong, each with the reason code that callers see.

use std::borrow::Cow;
use std::time::Duration;

use tonic::Code;
use waybill_kernel::check::Violations;
use waybill_rpc::fault::Fault;
use waybill_store::StoreError;

/// An error of the service.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is wrong; every bad field is named.
    #[error("the request has faults: {0}")]
    Invalid(Violations),
    /// The database could not answer.
    #[error("the figures could not be read")]
    Store(#[from] StoreError),
}

impl Fault for Error {
    fn code(&self) -> Code {
        match self {
            Self::Invalid(_) => Code::InvalidArgument,
            Self::Store(StoreError::Unavailable { .. }) => Code::Unavailable,
            Self::Store(_) => Code::Internal,
        }
    }

    fn reason(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Invalid(_) => "INVALID_REQUEST",
            Self::Store(StoreError::Unavailable { .. }) => "DATABASE_UNAVAILABLE",
            Self::Store(_) => "INTERNAL",
        })
    }

    fn domain(&self) -> &'static str {
        "analytics.waybill"
    }

    fn violations(&self) -> Option<&Violations> {
        match self {
            Self::Invalid(violations) => Some(violations),
            Self::Store(_) => None,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        (self.code() == Code::Unavailable).then_some(Duration::from_millis(200))
    }
}
