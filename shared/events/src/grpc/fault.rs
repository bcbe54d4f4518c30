//! Why a call of the log was refused.

use std::borrow::Cow;

use chrono::{DateTime, SecondsFormat, Utc};
use tonic::{Code, Status};
use waybill_kernel::check::Violations;
use waybill_rpc::fault::{Fault, to_status};
use waybill_store::error::StoreError;

use crate::archive::ArchiveError;
use crate::reader::OwnError;

/// Why a call of the log was refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum LogFault {
    #[error("the request is not valid: {0}")]
    Cursors(Violations),
    #[error("the request is not valid: {0}")]
    Filter(Violations),
    #[error("the report is not valid: {0}")]
    Report(Violations),
    #[error("the log has as many consumers as it takes; forget those that will not come back")]
    TooManyConsumers,
    #[error("no consumer {consumer} of {service} has ever reported to this log")]
    NoConsumer { service: String, consumer: String },
    #[error(
        "consumer {consumer} of {service} reported at {}; wait until it has been quiet for {minutes} minutes, or force it",
        .seen_at.to_rfc3339_opts(SecondsFormat::Secs, true)
    )]
    Alive {
        service: String,
        consumer: String,
        seen_at: DateTime<Utc>,
        minutes: u64,
    },
    #[error("{0}; begin anew from what is left, or give the archive back")]
    Expired(String),
    #[error("the archive of the event log cannot be read: {0}")]
    Archive(#[source] ArchiveError),
    #[error("the event log cannot be read at the moment")]
    Store(#[from] StoreError),
}

impl Fault for LogFault {
    fn code(&self) -> Code {
        match self {
            LogFault::Cursors(_) | LogFault::Filter(_) | LogFault::Report(_) => Code::InvalidArgument,
            LogFault::TooManyConsumers => Code::ResourceExhausted,
            LogFault::NoConsumer { .. } => Code::NotFound,
            LogFault::Alive { .. } => Code::FailedPrecondition,
            LogFault::Expired(_) => Code::OutOfRange,
            // Not DATA_LOSS: that is hidden from callers, and a person has to know.
            LogFault::Archive(ArchiveError::Damaged { .. }) => Code::FailedPrecondition,
            LogFault::Archive(_) => Code::Unavailable,
            LogFault::Store(StoreError::Unavailable { .. } | StoreError::Retry(_)) => Code::Unavailable,
            LogFault::Store(_) => Code::Internal,
        }
    }

    fn reason(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            LogFault::Cursors(_) => "INVALID_CURSORS",
            LogFault::Filter(_) => "INVALID_FILTER",
            LogFault::Report(_) => "INVALID_REPORT",
            LogFault::TooManyConsumers => "TOO_MANY_CONSUMERS",
            LogFault::NoConsumer { .. } => "CONSUMER_NOT_FOUND",
            LogFault::Alive { .. } => "CONSUMER_ALIVE",
            LogFault::Expired(_) => "CURSOR_EXPIRED",
            LogFault::Archive(ArchiveError::Damaged { .. }) => "ARCHIVE_DAMAGED",
            LogFault::Archive(_) => "ARCHIVE_UNAVAILABLE",
            LogFault::Store(_) => "LOG_UNREADABLE",
        })
    }

    fn domain(&self) -> &'static str {
        "events.waybill"
    }

    fn violations(&self) -> Option<&Violations> {
        match self {
            LogFault::Cursors(violations) | LogFault::Filter(violations) | LogFault::Report(violations) => {
                Some(violations)
            }
            _ => None,
        }
    }

    fn precondition(&self) -> Option<(String, String, String)> {
        match self {
            LogFault::Alive {
                service, consumer, ..
            } => Some((
                "CONSUMER_QUIET".to_owned(),
                format!("{service}/{consumer}"),
                self.to_string(),
            )),
            LogFault::Archive(ArchiveError::Damaged { object, .. }) => {
                Some(("ARCHIVE_INTACT".to_owned(), object.clone(), self.to_string()))
            }
            _ => None,
        }
    }
}

impl From<OwnError> for LogFault {
    fn from(error: OwnError) -> Self {
        match error {
            OwnError::Store(error) => LogFault::Store(error),
            OwnError::Archive(error) => LogFault::Archive(error),
            expired @ OwnError::Expired(_) => LogFault::Expired(expired.to_string()),
        }
    }
}

impl From<LogFault> for Status {
    fn from(fault: LogFault) -> Status {
        to_status(&fault)
    }
}
