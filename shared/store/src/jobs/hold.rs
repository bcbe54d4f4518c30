//! Stopping kinds of jobs, and the last look before an outside effect.
//!
//! A hold is a row, so it outlives every process. A held kind is not taken; a job that runs already is asked once more,
//! in the transaction that commits its intent ([`Job::still_allowed`](super::Job::still_allowed)). That look and the hold
//! exclude each other by a lock: when the transaction that holds a kind is committed, every intent that was allowed is
//! committed too, and no other will be.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use waybill_kernel::id::JobId;

use crate::db::Db;
use crate::error::StoreError;

/// The holder of what people stop.
pub const OPERATOR: &str = "operator";

/// A kind of jobs that is not begun.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Hold {
    /// The kind.
    pub kind: String,
    /// Whose hold it is; each lifts its own.
    pub holder: String,
    /// Why.
    pub reason: String,
    /// Who set it.
    pub held_by: String,
    /// Since when.
    pub since: DateTime<Utc>,
}

/// Holds kinds of jobs from the commit of the caller's transaction on. Holding what is held already changes the reason
/// and keeps the time.
///
/// It waits for the transactions that were just allowed to go on, so take it before other locks.
///
/// # Errors
///
/// As the database answers.
pub async fn hold(
    conn: &mut PgConnection,
    kinds: &[&str],
    holder: &str,
    reason: &str,
    by: &str,
) -> Result<(), StoreError> {
    sqlx::query("SELECT hold_jobs($1, $2, $3, $4)")
        .bind(kinds)
        .bind(holder)
        .bind(reason)
        .bind(by)
        .execute(conn)
        .await?;
    Ok(())
}

/// Lifts what this holder holds of these kinds; returns how many holds that were. Runners go on at their next poll, once
/// nobody else holds the kind.
///
/// # Errors
///
/// As the database answers.
pub async fn release(conn: &mut PgConnection, kinds: &[&str], holder: &str) -> Result<u64, StoreError> {
    let lifted = sqlx::query("DELETE FROM job_hold WHERE holder = $2 AND kind = ANY ($1)")
        .bind(kinds)
        .bind(holder)
        .execute(conn)
        .await?;
    Ok(lifted.rows_affected())
}

/// All holds, by kind.
///
/// # Errors
///
/// As the database answers.
pub async fn holds(db: &Db) -> Result<Vec<Hold>, StoreError> {
    let holds =
        sqlx::query_as("SELECT kind, holder, reason, held_by, since FROM job_hold ORDER BY kind, holder")
            .fetch_all(db.pool())
            .await?;
    Ok(holds)
}

/// Whether a job may go on to its outside effect. The answer stands until the transaction ends.
pub(super) async fn permit(conn: &mut PgConnection, id: JobId, claim: i64) -> Result<(), StoreError> {
    let answer: String = sqlx::query_scalar("SELECT job_permit($1, $2)")
        .bind(id.uuid())
        .bind(claim)
        .fetch_one(conn)
        .await?;
    match answer.as_str() {
        "allowed" => Ok(()),
        "held" => Err(StoreError::Held),
        _ => Err(StoreError::LeaseLost),
    }
}
