//! What people and dashboards ask about jobs: how much waits, what is dead and why, do it again, forget it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;
use waybill_kernel::id::{JobId, MerchantId};

use crate::db::Db;
use crate::error::StoreError;

/// How long done jobs are kept: as long as their key shall refuse a second one.
pub const KEEP_DONE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// How much of a kind waits.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Backlog {
    /// The kind.
    pub kind: String,
    /// Waiting and due.
    pub due: i64,
    /// Waiting for their time.
    pub later: i64,
    /// In the hands of a runner.
    pub running: i64,
    /// Given up.
    pub dead: i64,
    /// Seconds that the longest-waiting due job is late.
    pub oldest_due_seconds: f64,
}

/// Counts the unfinished and the dead jobs per kind.
///
/// # Errors
///
/// As the database answers.
pub async fn backlog(db: &Db) -> Result<Vec<Backlog>, StoreError> {
    let kinds = sqlx::query_as(
        "SELECT kind,
                count(*) FILTER (WHERE state = 'waiting' AND due_at <= now()) AS due,
                count(*) FILTER (WHERE state = 'waiting' AND due_at > now()) AS later,
                count(*) FILTER (WHERE state = 'running') AS running,
                count(*) FILTER (WHERE state = 'dead') AS dead,
                coalesce(extract(epoch FROM now() - min(due_at)
                    FILTER (WHERE state = 'waiting' AND due_at <= now())), 0)::float8 AS oldest_due_seconds
         FROM jobs WHERE state IN ('waiting', 'running') OR state = 'dead' GROUP BY kind ORDER BY kind",
    )
    .fetch_all(db.pool())
    .await?;
    Ok(kinds)
}

/// A job that was given up.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadJob {
    /// Its id.
    pub id: JobId,
    /// Its kind.
    pub kind: String,
    /// What it is about.
    pub key: String,
    /// Whose work it is.
    pub merchant: MerchantId,
    /// The order it belongs to.
    pub order_id: Option<Uuid>,
    /// Failures in a row.
    pub failures: u32,
    /// The last of them.
    pub last_error: String,
    /// When it was given up.
    pub died_at: DateTime<Utc>,
}

/// Dead jobs of a kind in the order of their ids, from after `after`.
///
/// # Errors
///
/// As the database answers.
pub async fn dead(db: &Db, kind: &str, after: Option<JobId>, limit: i64) -> Result<Vec<DeadJob>, StoreError> {
    type Row = (
        Uuid,
        String,
        String,
        Uuid,
        Option<Uuid>,
        i32,
        String,
        DateTime<Utc>,
    );
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT job_id, kind, key, merchant_id, order_id, failures, coalesce(last_error, ''), finished_at
         FROM jobs WHERE state = 'dead' AND kind = $1 AND job_id > $2 ORDER BY job_id LIMIT $3",
    )
    .bind(kind)
    .bind(after.map_or(Uuid::nil(), JobId::uuid))
    .bind(limit)
    .fetch_all(db.pool())
    .await?;
    let dead = rows.into_iter().map(
        |(id, kind, key, merchant, order_id, failures, last_error, died_at)| DeadJob {
            id: id.into(),
            kind,
            key,
            merchant: merchant.into(),
            order_id,
            failures: failures.unsigned_abs(),
            last_error,
            died_at,
        },
    );
    Ok(dead.collect())
}

/// One attempt that failed.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Failure {
    /// Which taking of the job it was.
    pub claim: i64,
    /// When the attempt began; not known of attempts before this was kept.
    pub began_at: Option<DateTime<Utc>>,
    /// When it was recorded.
    pub failed_at: DateTime<Utc>,
    /// Who had taken it.
    pub runner: Option<String>,
    /// Why it failed.
    pub reason: String,
}

/// The history of a job, oldest first.
///
/// # Errors
///
/// As the database answers.
pub async fn failures(db: &Db, id: JobId) -> Result<Vec<Failure>, StoreError> {
    let history = sqlx::query_as(
        "SELECT claim, began_at, failed_at, runner, reason FROM job_failures WHERE job_id = $1 ORDER BY claim LIMIT 1000",
    )
    .bind(id.uuid())
    .fetch_all(db.pool())
    .await?;
    Ok(history)
}

/// Gives a dead job another chance, with a full count of attempts; its history stays. `false` when there is no such dead
/// job.
///
/// # Errors
///
/// As the database answers.
pub async fn retry_dead(conn: &mut PgConnection, id: JobId) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "UPDATE jobs SET state = 'waiting', failures = 0, finished_at = NULL, due_at = now()
         WHERE job_id = $1 AND state = 'dead'",
    )
    .bind(id.uuid())
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Marks a dead job as dealt with by a person: it is done, and is forgotten as done jobs are. `false` when there is no
/// such dead job.
///
/// # Errors
///
/// As the database answers.
pub async fn discard(conn: &mut PgConnection, id: JobId) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "UPDATE jobs SET state = 'done', finished_at = now() WHERE job_id = $1 AND state = 'dead'",
    )
    .bind(id.uuid())
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Forgets up to `limit` jobs done longer ago than `age`, oldest first, with their history; returns how many. Dead jobs
/// stay until a person decides. Call it until it returns less than `limit`: each call is a short transaction.
///
/// # Errors
///
/// As the database answers.
pub async fn prune(db: &Db, age: Duration, limit: i64) -> Result<u64, StoreError> {
    let done = sqlx::query(
        "DELETE FROM jobs WHERE job_id = ANY (ARRAY(
             SELECT job_id FROM jobs WHERE state = 'done' AND finished_at < now() - make_interval(secs => $1)
             ORDER BY finished_at LIMIT $2 FOR UPDATE SKIP LOCKED))",
    )
    .bind(age.as_secs_f64())
    .bind(limit)
    .execute(db.pool())
    .await
    .map_err(StoreError::at_commit)?;
    Ok(done.rows_affected())
}
