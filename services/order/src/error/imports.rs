//! What can go wrong with an import as a whole. What is wrong with one of its orders is told as that order's outcome.

use std::time::Duration;

use tonic::Code;

use crate::domain::import::Differs;
use crate::formats::Unreadable;

/// Why an import does not go on.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ImportError {
    /// The bytes are no file of this format.
    #[error("{0}")]
    Unreadable(Unreadable),
    /// The bytes are not those that come next.
    #[error(
        "a chunk begins at byte {given} and byte {expected} comes next; open the import again to learn where to go on"
    )]
    Offset {
        /// Where the next chunk has to begin.
        expected: i64,
        /// Where it begins.
        given: i64,
    },
    /// The file is of another size than was said.
    #[error(
        "the file ends at byte {given}, but it was said to have {size} bytes; begin again under another import_id"
    )]
    Size {
        /// What was said.
        size: i64,
        /// What it is, or is at least.
        given: i64,
    },
    /// More rows than one import takes.
    #[error("an import takes at most {most} rows; split the file (orders that were taken stay taken)")]
    TooLarge {
        /// What is allowed.
        most: i64,
    },
    /// The key belongs to another file.
    #[error(
        "import {id:?} was opened with {} {:?}, and is opened now with {:?}; another file needs another import_id",
        differs.field, differs.was, differs.is
    )]
    Differs {
        /// The key.
        id: String,
        /// In what.
        differs: Differs,
    },
    /// Another stream has opened the import since.
    #[error(
        "another stream has opened import {id:?} since and goes on with it; what this one brought before stays; \
         GetImport tells how far it is"
    )]
    TakenOver {
        /// The key.
        id: String,
    },
    /// There is no such import.
    #[error("the store has no such import")]
    NotFound,
    /// As many imports as this process serves.
    #[error("{most} imports are running already; try again later")]
    TooMany {
        /// What is allowed.
        most: usize,
    },
}

impl ImportError {
    pub(super) fn code(&self) -> Code {
        match self {
            ImportError::Unreadable(_)
            | ImportError::Offset { .. }
            | ImportError::Size { .. }
            | ImportError::TooLarge { .. } => Code::InvalidArgument,
            ImportError::Differs { .. } | ImportError::TakenOver { .. } => Code::FailedPrecondition,
            ImportError::NotFound => Code::NotFound,
            ImportError::TooMany { .. } => Code::ResourceExhausted,
        }
    }

    pub(super) fn reason(&self) -> &'static str {
        match self {
            ImportError::Unreadable(_) => "IMPORT_UNREADABLE",
            ImportError::Offset { .. } | ImportError::Size { .. } => "IMPORT_OFFSET",
            ImportError::TooLarge { .. } => "IMPORT_TOO_LARGE",
            ImportError::Differs { .. } => "IMPORT_DIFFERS",
            ImportError::TakenOver { .. } => "IMPORT_TAKEN_OVER",
            ImportError::NotFound => "IMPORT_NOT_FOUND",
            ImportError::TooMany { .. } => "TOO_MANY_IMPORTS",
        }
    }

    pub(super) fn precondition(&self) -> Option<(String, String, String)> {
        let id = match self {
            ImportError::Differs { id, .. } | ImportError::TakenOver { id } => id,
            _ => return None,
        };
        Some(("IMPORT".to_owned(), id.clone(), self.to_string()))
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        matches!(self, ImportError::TooMany { .. }).then_some(Duration::from_secs(1))
    }
}
