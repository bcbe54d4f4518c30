//! Why a call of `HistoryService` is refused, and how a caller is told.

use std::borrow::Cow;

use tonic::Code;
use waybill_kernel::check::Violations;
use waybill_rpc::fault::Fault;
use waybill_store::error::StoreError;

use super::effects::EffectError;
use super::recover::RecoverError;

/// Why a call could not be answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum HistoryFault {
    #[error("the request is not valid: {0}")]
    Invalid(Violations),
    #[error(transparent)]
    Recover(#[from] RecoverError),
    #[error(transparent)]
    Effect(#[from] EffectError),
    #[error("the log is fenced, or was recovered in this moment; look at its status first")]
    Fenced,
    #[error("consumer {0} has not taken yet what happened before the recovery; wait until it has")]
    Behind(String),
    #[error("{0} effects are listed that nobody has decided about; adopt them or write them off first")]
    Undecided(usize),
}

impl From<StoreError> for HistoryFault {
    fn from(error: StoreError) -> Self {
        HistoryFault::Recover(RecoverError::Store(error))
    }
}

impl Fault for HistoryFault {
    fn code(&self) -> Code {
        match self {
            HistoryFault::Invalid(_) => Code::InvalidArgument,
            HistoryFault::Recover(RecoverError::Store(error))
            | HistoryFault::Effect(EffectError::Store(error)) => match error {
                StoreError::Unavailable { .. } | StoreError::Retry(_) => Code::Unavailable,
                _ => Code::Internal,
            },
            HistoryFault::Recover(RecoverError::Stream(_))
            | HistoryFault::Effect(EffectError::Outside(_)) => Code::Unavailable,
            HistoryFault::Effect(EffectError::NotFound(_)) => Code::NotFound,
            HistoryFault::Recover(RecoverError::NotFenced)
            | HistoryFault::Effect(EffectError::NotAdoptable { .. })
            | HistoryFault::Fenced
            | HistoryFault::Behind(_)
            | HistoryFault::Undecided(_) => Code::FailedPrecondition,
        }
    }

    fn reason(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            HistoryFault::Invalid(_) => "INVALID_REQUEST",
            HistoryFault::Recover(RecoverError::NotFenced) => "LOG_NOT_FENCED",
            HistoryFault::Recover(RecoverError::Stream(_)) => "STREAM_UNREADABLE",
            HistoryFault::Recover(RecoverError::Store(_)) | HistoryFault::Effect(EffectError::Store(_)) => {
                "LOG_UNREADABLE"
            }
            HistoryFault::Effect(EffectError::NotFound(_)) => "EFFECT_NOT_FOUND",
            HistoryFault::Effect(EffectError::NotAdoptable { .. }) => "EFFECT_NOT_ADOPTABLE",
            HistoryFault::Effect(EffectError::Outside(_)) => "OUTSIDE_UNREADABLE",
            HistoryFault::Fenced => "LOG_FENCED",
            HistoryFault::Behind(_) => "CONSUMERS_BEHIND",
            HistoryFault::Undecided(_) => "EFFECTS_UNDECIDED",
        })
    }

    fn domain(&self) -> &'static str {
        "events.waybill"
    }

    fn violations(&self) -> Option<&Violations> {
        match self {
            HistoryFault::Invalid(violations) => Some(violations),
            _ => None,
        }
    }
}
