//! What can go wrong between a service and its database, in the few classes a caller can act on.
//!
//! One table turns SQLSTATE into a class. Every error answers two questions: is repeating the transaction worthwhile
//! ([`RetryClass::is_retry`]), and did the write surely *not* happen ([`StoreError::is_certainly_aborted`])? It does not
//! know gRPC, nor which constraint means what to a customer: that is the service's own `error.rs`.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

use sqlx::error::DatabaseError;
use sqlx::postgres::PgDatabaseError;

/// An error that keeps its own text to itself, for [`std::error::Error::source`].
pub type BoxError = Box<dyn StdError + Send + Sync + 'static>;

/// SQLSTATE that the log guard raises: the aggregate's last event lies in front of this transaction.
pub const LOG_ORDER: &str = "WB001";

/// SQLSTATE that says this history of the database must not be written: its log is fenced.
pub const FENCED: &str = "WB002";

/// Says whether repeating the whole transaction, under a new transaction id, can succeed.
pub trait RetryClass {
    /// What the database answered, if that is what went wrong.
    fn store_error(&self) -> Option<&StoreError>;

    /// Whether the transaction should be repeated from its beginning: as the database's answer says, and not for what a
    /// service has decided itself.
    fn is_retry(&self) -> bool {
        self.store_error().is_some_and(StoreError::is_retry)
    }
}

/// Why a transaction has to be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RetryCause {
    /// 40001: another transaction was faster.
    Serialization,
    /// 40P01: two transactions waited for each other and this one was chosen to give way.
    Deadlock,
    /// 55P03: a lock was not free within the role's `lock_timeout`.
    LockTimeout,
    /// WB001: the row's last event carries a later transaction id than ours; a new transaction draws a later one.
    LogOrder,
}

impl fmt::Display for RetryCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RetryCause::Serialization => "another transaction was faster",
            RetryCause::Deadlock => "it was chosen to end a deadlock",
            RetryCause::LockTimeout => "a lock was not free in time",
            RetryCause::LogOrder => "its transaction id is older than the row's last event",
        })
    }
}

/// What the database answered, as a class.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing was written; the same transaction can succeed when it is repeated.
    #[error("the transaction has to be repeated: {0}")]
    Retry(RetryCause),

    /// A unique index or primary key refused the write.
    #[error("unique constraint {constraint} is violated")]
    Unique {
        /// Name of the constraint or index.
        constraint: String,
    },

    /// A CHECK constraint, or a trigger that raises as one, refused the write.
    #[error("check constraint {constraint} is violated")]
    Check {
        /// Name of the constraint.
        constraint: String,
    },

    /// A foreign key refused the write.
    #[error("foreign key {constraint} is violated")]
    ForeignKey {
        /// Name of the constraint.
        constraint: String,
    },

    /// An exclusion constraint refused the write.
    #[error("exclusion constraint {constraint} is violated")]
    Exclusion {
        /// Name of the constraint.
        constraint: String,
    },

    /// The request id was used before for another request.
    #[error("the request id was already used for another request; use a new one")]
    RequestIdReused,

    /// This history of the database must not be written to until its generation is raised.
    #[error("the event log is fenced: nothing is written until its generation is raised")]
    Fenced,

    /// The job was taken by another runner after its lease had expired; what this one did does not count.
    #[error("the job's lease is lost: another runner has taken it")]
    LeaseLost,

    /// Jobs of this kind are held: what they would do outside must wait until the hold is lifted.
    #[error("jobs of this kind are held")]
    Held,

    /// The database cannot be reached, is shutting down, is overloaded, or went away in the middle.
    #[error("the database is not available{}", if *certainly_aborted { "" } else { "; whether the write happened is not known" })]
    Unavailable {
        /// Whether the write surely did not happen. `false` when the connection was lost while committing.
        certainly_aborted: bool,
        /// What was seen.
        source: BoxError,
    },

    /// The answer is not what the code expects: a fault in our own SQL or types.
    #[error("the database's answer could not be read")]
    Decode(#[source] BoxError),

    /// Everything else; a fault of ours or of the database's set-up.
    #[error("the database refused the statement")]
    Other(#[source] BoxError),
}

impl StoreError {
    /// Wraps any other fault.
    pub fn other(source: impl Into<BoxError>) -> Self {
        StoreError::Other(source.into())
    }

    /// Wraps a value that could not be turned into what the code expects.
    pub fn decode(source: impl Into<BoxError>) -> Self {
        StoreError::Decode(source.into())
    }

    /// The class of an error that COMMIT itself, or a write outside any transaction, ended with: a connection lost
    /// there leaves it open whether the write happened.
    #[must_use]
    pub fn at_commit(error: sqlx::Error) -> Self {
        match StoreError::from(error) {
            StoreError::Unavailable { source, .. } => StoreError::Unavailable {
                certainly_aborted: false,
                source,
            },
            decided => decided,
        }
    }

    /// Whether the write surely did not happen.
    #[must_use]
    pub fn is_certainly_aborted(&self) -> bool {
        !matches!(
            self,
            StoreError::Unavailable {
                certainly_aborted: false,
                ..
            }
        )
    }

    /// Whether the session is of no use any more although its connection stands: it remembers types that are gone, because
    /// the schema was put back under it. Another session asks for them anew.
    #[must_use]
    pub fn is_stale_session(&self) -> bool {
        matches!(self, StoreError::Unavailable { source, .. }
        if source.downcast_ref::<sqlx::Error>().is_some_and(|error| match error {
            sqlx::Error::Database(e) => is_stale(e.as_ref()),
            _ => false,
        }))
    }

    /// The violated constraint's name, if that is what happened.
    #[must_use]
    pub fn constraint(&self) -> Option<&str> {
        match self {
            StoreError::Unique { constraint }
            | StoreError::Check { constraint }
            | StoreError::ForeignKey { constraint }
            | StoreError::Exclusion { constraint } => Some(constraint),
            _ => None,
        }
    }

    pub(crate) fn unavailable(certainly_aborted: bool, source: impl Into<BoxError>) -> Self {
        StoreError::Unavailable {
            certainly_aborted,
            source: source.into(),
        }
    }
}

impl RetryClass for StoreError {
    fn store_error(&self) -> Option<&StoreError> {
        Some(self)
    }

    /// A lost connection is worth a repeat on another one while it is certain that nothing was written. Waiting for a
    /// free connection is not: who waited in vain would only stand in line again.
    fn is_retry(&self) -> bool {
        match self {
            StoreError::Retry(_) => true,
            StoreError::Unavailable {
                certainly_aborted: true,
                source,
            } => source
                .downcast_ref::<sqlx::Error>()
                .is_some_and(is_lost_connection),
            _ => false,
        }
    }
}

/// Whether the connection broke, as opposed to none being free or the server having refused.
fn is_lost_connection(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::BeginFailed => true,
        sqlx::Error::Database(e) => e
            .code()
            .is_some_and(|code| is_disconnect(&code) || is_stale(e.as_ref())),
        _ => false,
    }
}

/// The server ended the session: class 08, shutdown and crash of another backend (57P01..57P03).
fn is_disconnect(code: &str) -> bool {
    code.starts_with("08") || matches!(code, "57P01" | "57P02" | "57P03")
}

/// The session names a type by a number that nothing has any more.
fn is_stale(error: &dyn DatabaseError) -> bool {
    let Some(error) = error.try_downcast_ref::<PgDatabaseError>() else {
        return false;
    };
    match error.code() {
        // What the server takes for impossible is not translated.
        "XX000" => error.message().starts_with("cache lookup failed for type"),
        // This message is; the name of the function that found out is not.
        "42704" => error.routine() == Some("lookup_type_cache"),
        _ => false,
    }
}

/// What a SQLSTATE means to a caller. The order of the table is the order of the SQLSTATEs.
fn classify(code: &str, constraint: Option<&str>) -> Option<StoreError> {
    let constraint = || constraint.unwrap_or("(unnamed)").to_owned();
    Some(match code {
        "23503" => StoreError::ForeignKey {
            constraint: constraint(),
        },
        "23505" => StoreError::Unique {
            constraint: constraint(),
        },
        "23514" => StoreError::Check {
            constraint: constraint(),
        },
        "23P01" => StoreError::Exclusion {
            constraint: constraint(),
        },
        "40001" => StoreError::Retry(RetryCause::Serialization),
        "40P01" => StoreError::Retry(RetryCause::Deadlock),
        "55P03" => StoreError::Retry(RetryCause::LockTimeout),
        LOG_ORDER => StoreError::Retry(RetryCause::LogOrder),
        FENCED => StoreError::Fenced,
        _ => return None,
    })
}

/// SQLSTATEs that say "not now" without being a fault of the statement.
fn is_unavailable(code: &str) -> bool {
    is_disconnect(code)
        // Out of connections, memory, disk.
        || code.starts_with("53")
        || matches!(
            code,
            // A standby, after a failover that this connection did not follow.
            "25006"
            // The role's time-outs: idle in transaction, whole transaction, statement.
            | "25P03" | "25P04" | "57014"
            // The outcome is unknown to the server itself.
            | "40003"
            // The session sat idle too long; the database was dropped.
            | "57P05" | "57P04"
        )
}

impl From<sqlx::Error> for StoreError {
    /// Speaks for a read, or for a statement inside a transaction that has not begun to commit: whatever happens there,
    /// nothing is written. For COMMIT and for writes outside a transaction use [`StoreError::at_commit`].
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(db) => {
                let code: Cow<'_, str> = db.code().unwrap_or_default();
                if let Some(class) = classify(&code, db.constraint()) {
                    return class;
                }
                if is_unavailable(&code) || is_stale(db.as_ref()) {
                    let certainly_aborted = !matches!(&*code, "40003" | "08007");
                    return StoreError::unavailable(certainly_aborted, error);
                }
                StoreError::Other(Box::new(error))
            }
            // A server that is starting or dying answers out of turn: an error to the first word of a connection, half a
            // message. Nothing can be said over that connection any more.
            sqlx::Error::Io(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::BeginFailed => StoreError::unavailable(true, error),
            sqlx::Error::RowNotFound
            | sqlx::Error::TypeNotFound { .. }
            | sqlx::Error::ColumnIndexOutOfBounds { .. }
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::Decode(_) => StoreError::Decode(Box::new(error)),
            _ => StoreError::Other(Box::new(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sqlstate_has_its_class() {
        let class = |code| classify(code, Some("c"));
        assert!(matches!(
            class("40001"),
            Some(StoreError::Retry(RetryCause::Serialization))
        ));
        assert!(matches!(
            class("40P01"),
            Some(StoreError::Retry(RetryCause::Deadlock))
        ));
        assert!(matches!(
            class("55P03"),
            Some(StoreError::Retry(RetryCause::LockTimeout))
        ));
        assert!(matches!(
            class("WB001"),
            Some(StoreError::Retry(RetryCause::LogOrder))
        ));
        assert!(matches!(class("WB002"), Some(StoreError::Fenced)));
        assert_eq!(
            class("23505").as_ref().and_then(StoreError::constraint),
            Some("c")
        );
        assert!(
            class("42601").is_none() && !is_unavailable("42601"),
            "a syntax error is our own fault"
        );
        for code in [
            "08006", "57P01", "57P02", "57P03", "53300", "53100", "25006", "25P03", "25P04",
        ] {
            assert!(is_unavailable(code), "{code}");
            assert!(class(code).is_none(), "{code} has two classes");
        }
    }

    #[test]
    fn an_answer_out_of_turn_is_a_lost_connection() {
        let said = || sqlx::Error::Protocol("unexpected response from SSLRequest: 0x45".to_owned());
        let before = StoreError::from(said());
        assert!(matches!(before, StoreError::Unavailable { .. }), "{before:?}");
        assert!(before.is_certainly_aborted() && before.is_retry());
        assert!(!StoreError::at_commit(said()).is_certainly_aborted());
    }

    #[test]
    fn a_lost_connection_is_certain_only_before_commit() {
        let lost = || sqlx::Error::Io(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
        let before = StoreError::from(lost());
        assert!(before.is_certainly_aborted() && before.is_retry());
        let at_commit = StoreError::at_commit(lost());
        assert!(!at_commit.is_certainly_aborted() && !at_commit.is_retry());
        assert!(at_commit.to_string().contains("not known"), "{at_commit}");
    }

    #[test]
    fn waiting_in_vain_for_a_connection_is_not_repeated() {
        let error = StoreError::from(sqlx::Error::PoolTimedOut);
        assert!(error.is_certainly_aborted() && !error.is_retry());
    }
}
