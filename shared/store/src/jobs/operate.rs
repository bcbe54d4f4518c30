//! What people do with jobs: look, try again, give up, stop a kind, use a destination again. Each change is written down
//! with its caller in the transaction that made it.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;
use waybill_kernel::id::JobId;

use super::{admin, destination, hold};
use crate::db::Db;
use crate::error::{RetryClass, StoreError};
use crate::tx::Tx;
use crate::usecase::UseCase;

/// Which jobs are listed.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    /// Of this kind.
    pub kind: Option<String>,
    /// In this state: `waiting`, `running`, `done` or `dead`.
    pub state: Option<&'static str>,
    /// Towards this destination.
    pub destination: Option<String>,
    /// Of this order.
    pub order_id: Option<Uuid>,
}

/// A job as people see it: no payload.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct JobRow {
    /// Its id.
    pub job_id: Uuid,
    /// Its kind.
    pub kind: String,
    /// What it is about.
    pub key: String,
    /// Whose work it is.
    pub merchant_id: Uuid,
    /// The order it belongs to.
    pub order_id: Option<Uuid>,
    /// Whom it calls; empty for nobody.
    pub destination: String,
    /// 0 before 1 before 2.
    pub priority: i16,
    /// `waiting`, `running`, `done` or `dead`.
    pub state: String,
    /// Waiting: not before. Running: the end of the lease.
    pub due_at: DateTime<Utc>,
    /// How often it was taken.
    pub claims: i64,
    /// Failures in a row.
    pub failures: i32,
    /// The last of them.
    pub last_error: Option<String>,
    /// Who has it, or had it last.
    pub runner: Option<String>,
    /// When it was written.
    pub created_at: DateTime<Utc>,
    /// When it was taken last.
    pub taken_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// The trace it continues.
    pub traceparent: Option<String>,
}

/// Jobs, newest first, from before `before`.
///
/// # Errors
///
/// As the database answers.
pub async fn list(
    db: &Db,
    filter: &JobFilter,
    before: Option<JobId>,
    limit: i64,
) -> Result<Vec<JobRow>, StoreError> {
    let rows = sqlx::query_as(
        "SELECT job_id, kind, key, merchant_id, order_id, destination, priority, state, due_at, claims, failures,
                last_error, runner, created_at, taken_at, finished_at, traceparent
         FROM jobs
         WHERE job_id < coalesce($1, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
           AND ($2::text IS NULL OR kind = $2) AND ($3::text IS NULL OR state = $3)
           AND ($4::text IS NULL OR destination = $4) AND ($5::uuid IS NULL OR order_id = $5)
         ORDER BY job_id DESC LIMIT $6",
    )
    .bind(before.map(JobId::uuid))
    .bind(&filter.kind)
    .bind(filter.state)
    .bind(&filter.destination)
    .bind(filter.order_id)
    .bind(limit)
    .fetch_all(db.pool())
    .await?;
    Ok(rows)
}

/// One job.
///
/// # Errors
///
/// As the database answers.
pub async fn get(conn: &mut PgConnection, id: JobId) -> Result<Option<JobRow>, StoreError> {
    let row = sqlx::query_as(
        "SELECT job_id, kind, key, merchant_id, order_id, destination, priority, state, due_at, claims, failures,
                last_error, runner, created_at, taken_at, finished_at, traceparent
         FROM jobs WHERE job_id = $1",
    )
    .bind(id.uuid())
    .fetch_optional(conn)
    .await?;
    Ok(row)
}

/// What a person asked of a job.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct ActionRow {
    /// When.
    pub happened_at: DateTime<Utc>,
    /// `retry` or `discard`.
    pub action: String,
    /// Who.
    pub caller: String,
    /// Why.
    pub reason: String,
}

/// What people asked of a job, oldest first.
///
/// # Errors
///
/// As the database answers.
pub async fn actions(db: &Db, id: JobId) -> Result<Vec<ActionRow>, StoreError> {
    let rows = sqlx::query_as(
        "SELECT happened_at, action, caller, reason FROM job_action WHERE job_id = $1 ORDER BY action_id LIMIT 500",
    )
    .bind(id.uuid())
    .fetch_all(db.pool())
    .await?;
    Ok(rows)
}

/// Who asks, under which request id, and why.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The subject of the caller's token.
    pub caller: String,
    /// The request id of the call.
    pub request_id: String,
    /// Why, without personal data.
    pub reason: String,
}

/// What is asked.
#[derive(Debug, Clone)]
pub enum Wish {
    /// Try a dead job again.
    Retry(JobId),
    /// Give a dead job up.
    Discard(JobId),
    /// Hold kinds of jobs.
    Hold(Vec<String>),
    /// Lift what people hold of these kinds.
    Release(Vec<String>),
    /// Use a destination again.
    Reset(String),
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// There is no such job.
    #[error("there is no job {0}; done jobs are forgotten after 30 days")]
    NoJob(JobId),
    /// There is no such destination.
    #[error("there is no destination {0:?}")]
    NoDestination(String),
    /// Only dead jobs are retried or discarded.
    #[error("job {id} is {state}; only dead jobs are retried or discarded")]
    NotDead {
        /// The job.
        id: JobId,
        /// Where it is.
        state: String,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl RetryClass for Refused {
    fn store_error(&self) -> Option<&StoreError> {
        match self {
            Refused::Store(error) => Some(error),
            _ => None,
        }
    }
}

/// Carries out what a person asks.
#[derive(Debug)]
pub struct Operate {
    /// Who, and why.
    pub asked: Asked,
    /// What.
    pub wish: Wish,
}

impl UseCase for Operate {
    /// How many jobs, kinds or destinations were changed.
    type Output = u64;
    type Error = Refused;

    async fn run(&self, tx: &mut Tx) -> Result<u64, Refused> {
        let conn = tx.conn();
        let (action, job, kinds, destination) = match &self.wish {
            Wish::Retry(id) | Wish::Discard(id) => {
                let retry = matches!(self.wish, Wish::Retry(_));
                let done = if retry {
                    admin::retry_dead(conn, *id).await?
                } else {
                    admin::discard(conn, *id).await?
                };
                if !done {
                    let state = get(conn, *id).await?.ok_or(Refused::NoJob(*id))?.state;
                    return Err(Refused::NotDead { id: *id, state });
                }
                (
                    if retry { "retry" } else { "discard" },
                    Some(*id),
                    Vec::new(),
                    None,
                )
            }
            Wish::Hold(kinds) => {
                let names: Vec<&str> = kinds.iter().map(String::as_str).collect();
                hold::hold(
                    conn,
                    &names,
                    hold::OPERATOR,
                    &self.asked.reason,
                    &self.asked.caller,
                )
                .await?;
                ("hold", None, kinds.clone(), None)
            }
            Wish::Release(kinds) => {
                let names: Vec<&str> = kinds.iter().map(String::as_str).collect();
                if hold::release(conn, &names, hold::OPERATOR).await? == 0 {
                    return Ok(0);
                }
                ("release", None, kinds.clone(), None)
            }
            Wish::Reset(destination) => {
                if !destination::reset(conn, destination).await? {
                    return Err(Refused::NoDestination(destination.clone()));
                }
                ("reset", None, Vec::new(), Some(destination))
            }
        };
        let rows = write_down(conn, &self.asked, action, job, &kinds, destination).await?;
        Ok(rows)
    }
}

/// One row for a job or destination, one for each kind.
async fn write_down(
    conn: &mut PgConnection,
    asked: &Asked,
    action: &str,
    job: Option<JobId>,
    kinds: &[String],
    destination: Option<&String>,
) -> Result<u64, StoreError> {
    let done = sqlx::query(
        "INSERT INTO job_action (action, caller, request_id, reason, job_id, kind, destination)
         SELECT $1, $2, $3, $4, $5, kind, $7
         FROM (SELECT UNNEST($6::text[]) AS kind UNION ALL SELECT NULL WHERE cardinality($6::text[]) = 0) k",
    )
    .bind(action)
    .bind(&asked.caller)
    .bind(&asked.request_id)
    .bind(&asked.reason)
    .bind(job.map(JobId::uuid))
    .bind(kinds)
    .bind(destination)
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}
