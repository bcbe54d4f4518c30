//! Why a projection was not rebuilt. The live tables are as they were, always.

use std::borrow::Cow;
use std::time::Duration;

use tonic::Code;
use waybill_rpc::fault::Fault;
use waybill_store::error::StoreError;

use crate::relay::in_words;

/// Why a projection was not rebuilt.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RebuildError {
    #[error(
        "consumer {0} has no tables that can be rebuilt from logs alone: what it writes is shared with the service's own \
         work; see the service's README"
    )]
    NoTables(&'static str),
    #[error(
        "there is no schema {0} to build in, or the service may not use it: prepare the database again (`waybill setup \
         database`), which adds it and changes nothing else"
    )]
    NoSchema(String),
    #[error("a projection is already being rebuilt in {0}: wait for its end, or end the call that does it")]
    Running(String),
    #[error("the tables cannot be built beside the live ones: {0}")]
    Tables(String),
    #[error(
        "`project` wrote to {0}, which the consumer does not name among its tables: nothing of it was kept; correct `Fold::tables`"
    )]
    Strays(String),
    #[error(
        "event {event} cannot take effect in the rebuilt tables, though it did in the live ones: {reason}"
    )]
    Event { event: String, reason: String },
    #[error("the log of {log} cannot be read: {reason}")]
    Log { log: String, reason: String },
    #[error("the rebuilt tables do not meet the live consumer: {0}")]
    Apart(String),
    #[error("the database cannot do it at the moment: {}", in_words(.0))]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for RebuildError {
    fn from(error: sqlx::Error) -> Self {
        RebuildError::Store(error.into())
    }
}

impl Fault for RebuildError {
    fn code(&self) -> Code {
        match self {
            RebuildError::NoTables(_)
            | RebuildError::NoSchema(_)
            | RebuildError::Tables(_)
            | RebuildError::Strays(_)
            | RebuildError::Event { .. } => Code::FailedPrecondition,
            RebuildError::Running(_) | RebuildError::Apart(_) => Code::Aborted,
            RebuildError::Log { .. }
            | RebuildError::Store(
                StoreError::Unavailable { .. } | StoreError::Retry(_) | StoreError::Fenced,
            ) => Code::Unavailable,
            RebuildError::Store(_) => Code::Internal,
        }
    }

    fn reason(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            RebuildError::NoTables(_) => "NOT_REBUILDABLE",
            RebuildError::NoSchema(_) => "NO_REBUILD_SCHEMA",
            RebuildError::Running(_) => "REBUILD_RUNNING",
            RebuildError::Tables(_) => "TABLES_NOT_REBUILDABLE",
            RebuildError::Strays(_) => "PROJECTION_STRAYS",
            RebuildError::Event { .. } => "EVENT_REFUSED",
            RebuildError::Log { .. } => "LOG_UNAVAILABLE",
            RebuildError::Apart(_) => "REBUILD_APART",
            RebuildError::Store(_) => "DATABASE_UNAVAILABLE",
        })
    }

    fn domain(&self) -> &'static str {
        "events.waybill"
    }

    fn precondition(&self) -> Option<(String, String, String)> {
        (self.code() == Code::FailedPrecondition)
            .then(|| ("REBUILD".to_owned(), self.reason().into_owned(), self.to_string()))
    }

    fn retry_after(&self) -> Option<Duration> {
        (self.code() == Code::Unavailable).then_some(Duration::from_secs(1))
    }
}
