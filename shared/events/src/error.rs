//! What a fold answers when it cannot apply an event, and which faults are the event's own.

use waybill_store::error::{RetryClass, StoreError};

/// Why a fold could not apply events.
#[derive(Debug, thiserror::Error)]
pub enum FoldError {
    /// The event itself is at fault: it will fail again however often it is tried. It becomes a dead letter.
    #[error("{0}")]
    Poison(String),
    /// The database is at fault, or another transaction. The batch is tried again and its partitions stand still until
    /// it succeeds.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl FoldError {
    /// A fault of the event.
    pub fn poison(reason: impl Into<String>) -> Self {
        FoldError::Poison(reason.into())
    }

    /// Whether the data of the event make the database refuse it: a violated constraint, a value out of range. It may
    /// still have been a race, so such a fault counts as the event's only when it repeats.
    #[must_use]
    pub fn is_refused_data(&self) -> bool {
        match self {
            FoldError::Poison(_) => false,
            FoldError::Store(error) => match error {
                StoreError::Unique { .. }
                | StoreError::Check { .. }
                | StoreError::ForeignKey { .. }
                | StoreError::Exclusion { .. } => true,
                StoreError::Other(source) => source
                    .downcast_ref::<sqlx::Error>()
                    .and_then(sqlx::Error::as_database_error)
                    .and_then(sqlx::error::DatabaseError::code)
                    .is_some_and(|code| is_data_fault(&code)),
                _ => false,
            },
        }
    }
}

/// SQLSTATE classes 22 (data exception) and 23 (integrity constraint), and a RAISE without a code of its own. Everything
/// else (a missing table, no rights, no memory) says nothing about the event.
fn is_data_fault(code: &str) -> bool {
    code.starts_with("22") || code.starts_with("23") || code == "P0001"
}

impl From<sqlx::Error> for FoldError {
    fn from(error: sqlx::Error) -> Self {
        FoldError::Store(error.into())
    }
}

impl RetryClass for FoldError {
    fn store_error(&self) -> Option<&StoreError> {
        match self {
            FoldError::Store(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_faults_of_the_data_count_as_such() {
        assert!(is_data_fault("22003"), "numeric value out of range");
        assert!(is_data_fault("23502"), "not null");
        assert!(
            !is_data_fault("42P01"),
            "a missing table is the deployment's fault"
        );
        assert!(!is_data_fault("53100"), "a full disk is the server's fault");
        let unique = FoldError::Store(StoreError::Unique {
            constraint: "orders_pkey".to_owned(),
        });
        assert!(unique.is_refused_data());
        assert!(!FoldError::Store(StoreError::Fenced).is_refused_data());
        assert!(!FoldError::poison("no such line").is_refused_data());
    }
}
