//! The SQL of queueing, taking and settling jobs. Each function is one statement.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;
use waybill_kernel::id::JobId;

use super::NewJob;
use super::lease::Renewal;
use crate::error::StoreError;
use crate::tx::Tx;

/// Writes jobs in the transaction that decides on them and wakes this process' runners once it is committed. A job whose
/// (kind, key) is known already is left as it is. Returns how many were new.
///
/// # Errors
///
/// As the database answers.
pub async fn enqueue(tx: &mut Tx, jobs: &[NewJob]) -> Result<u64, StoreError> {
    let new = insert(tx.conn(), jobs).await?;
    for job in jobs {
        tx.ring(job.kind);
    }
    Ok(new)
}

/// As [`enqueue`] for a caller that has only a connection: nobody is woken, runners find the jobs at their next poll.
///
/// # Errors
///
/// As the database answers.
pub async fn insert(conn: &mut PgConnection, jobs: &[NewJob]) -> Result<u64, StoreError> {
    if jobs.is_empty() {
        return Ok(0);
    }
    // One order for everybody, so that two batches with common keys do not wait for each other both ways.
    let mut jobs: Vec<&NewJob> = jobs.iter().collect();
    jobs.sort_by_key(|job| (job.kind, &job.key));
    let column = |f: fn(&NewJob) -> Uuid| jobs.iter().map(|job| f(job)).collect::<Vec<Uuid>>();
    let done = sqlx::query(
        "WITH first_seen AS (
             INSERT INTO job_destination (destination)
             SELECT DISTINCT name FROM UNNEST($10::text[]) AS u (name)
             WHERE NOT EXISTS (SELECT FROM job_destination d WHERE d.destination = u.name)
             ORDER BY name ON CONFLICT DO NOTHING
         )
         INSERT INTO jobs (job_id, kind, key, merchant_id, order_id, payload, traceparent, priority, due_at, destination)
         SELECT job_id, kind, key, merchant_id, order_id, payload, traceparent, priority,
                coalesce(not_before, now()), destination
         FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::uuid[], $6::jsonb[], $7::text[],
                     $8::smallint[], $9::timestamptz[], $10::text[])
              AS new (job_id, kind, key, merchant_id, order_id, payload, traceparent, priority, not_before, destination)
         ON CONFLICT (kind, key) DO NOTHING",
    )
    .bind(column(|_| JobId::generate().uuid()))
    .bind(jobs.iter().map(|job| job.kind).collect::<Vec<_>>())
    .bind(jobs.iter().map(|job| job.key.as_str()).collect::<Vec<_>>())
    .bind(column(|job| job.merchant.uuid()))
    .bind(jobs.iter().map(|job| job.order_id).collect::<Vec<_>>())
    .bind(jobs.iter().map(|job| &job.payload).collect::<Vec<_>>())
    .bind(
        jobs.iter()
            .map(|job| job.traceparent.as_deref())
            .collect::<Vec<_>>(),
    )
    .bind(jobs.iter().map(|job| job.priority as i16).collect::<Vec<_>>())
    .bind(jobs.iter().map(|job| job.not_before).collect::<Vec<_>>())
    .bind(
        jobs.iter()
            .map(|job| job.destination.as_str())
            .collect::<Vec<_>>(),
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

/// A job as it was taken.
#[derive(Debug, sqlx::FromRow)]
pub(super) struct Taken {
    pub(super) job_id: Uuid,
    pub(super) key: String,
    pub(super) merchant_id: Uuid,
    pub(super) order_id: Option<Uuid>,
    pub(super) payload: serde_json::Value,
    pub(super) traceparent: Option<String>,
    pub(super) created_at: DateTime<Utc>,
    pub(super) claims: i64,
    pub(super) failures: i32,
    pub(super) destination: String,
    /// Its lease expired once too often: it is dead and not to be run.
    pub(super) dead: bool,
}

/// What a runner asks for.
pub(super) struct Wish<'a> {
    pub(super) kind: &'a str,
    pub(super) slots: usize,
    /// How many of them go by age; see [`Turns`](super::rule::turn::Turns).
    pub(super) aged: usize,
    pub(super) lease: Duration,
    pub(super) max_attempts: u32,
    pub(super) runner: &'a str,
}

/// Takes jobs that are due, as far as nothing holds them and their destinations have room. One round trip; the rules are
/// in the function.
pub(super) async fn take(conn: &mut PgConnection, wish: &Wish<'_>) -> Result<Vec<Taken>, StoreError> {
    let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    let taken = sqlx::query_as(
        "SELECT job_id, key, merchant_id, order_id, payload, traceparent, created_at, claims, failures, destination,
                state = 'dead' AS dead
         FROM take_jobs($1, $2, $3, make_interval(secs => $4), $5, $6)",
    )
    .bind(wish.kind)
    .bind(count(wish.slots))
    .bind(count(wish.aged))
    .bind(wish.lease.as_secs_f64())
    .bind(i32::try_from(wish.max_attempts).unwrap_or(i32::MAX))
    .bind(wish.runner)
    .fetch_all(conn)
    .await
    .map_err(StoreError::at_commit)?;
    Ok(taken)
}

/// Renews leases. A job that its own transaction holds locked at this moment is being settled; it is left alone rather
/// than waited for, so that it cannot hold back the leases of the others.
pub(super) async fn renew(
    conn: &mut PgConnection,
    ids: &[Uuid],
    claims: &[i64],
    lease: Duration,
) -> Result<Vec<Renewal>, StoreError> {
    let answers = sqlx::query_as(
        "WITH held AS (
             SELECT * FROM UNNEST($1::uuid[], $2::bigint[]) AS h (job_id, claim)
         ), free AS (
             SELECT jobs.job_id FROM jobs JOIN held ON held.job_id = jobs.job_id AND held.claim = jobs.claims
             WHERE jobs.state = 'running' FOR UPDATE OF jobs SKIP LOCKED
         ), longer AS (
             UPDATE jobs SET due_at = now() + make_interval(secs => $3) FROM free
             WHERE jobs.job_id = free.job_id RETURNING jobs.job_id
         )
         SELECT held.job_id,
                longer.job_id IS NOT NULL AS renewed,
                coalesce(jobs.claims = held.claim, false) AS ours
         FROM held LEFT JOIN longer USING (job_id) LEFT JOIN jobs USING (job_id)",
    )
    .bind(ids)
    .bind(claims)
    .bind(lease.as_secs_f64())
    .fetch_all(conn)
    .await
    .map_err(StoreError::at_commit)?;
    Ok(answers)
}

/// Marks a job done; `false` when it is not ours any more. Doing it twice is fine: a handler may have done so in its own
/// transaction.
pub(super) async fn finish(conn: &mut PgConnection, id: JobId, claim: i64) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "UPDATE jobs SET state = 'done', finished_at = coalesce(finished_at, now())
         WHERE job_id = $1 AND claims = $2 AND state IN ('running', 'done')",
    )
    .bind(id.uuid())
    .bind(claim)
    .execute(conn)
    .await
    .map_err(StoreError::at_commit)?;
    Ok(done.rows_affected() == 1)
}

/// Puts a job back for later without counting a failure; those before are forgotten if it went well, and kept if it was
/// not tried. `false` when it is not ours any more.
pub(super) async fn again(
    conn: &mut PgConnection,
    id: JobId,
    claim: i64,
    after: Duration,
    went_well: bool,
) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "UPDATE jobs SET state = 'waiting', failures = CASE WHEN $4 THEN 0 ELSE failures END,
                         due_at = now() + make_interval(secs => $3)
         WHERE job_id = $1 AND claims = $2 AND state = 'running'",
    )
    .bind(id.uuid())
    .bind(claim)
    .bind(after.as_secs_f64())
    .bind(went_well)
    .execute(conn)
    .await
    .map_err(StoreError::at_commit)?;
    Ok(done.rows_affected() == 1)
}

/// Records a failure; `retry` is the wait until the next attempt, `None` for none. `false` when the job is not ours any
/// more.
pub(super) async fn fail(
    conn: &mut PgConnection,
    id: JobId,
    claim: i64,
    reason: &str,
    retry: Option<Duration>,
) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "WITH failed AS (
             UPDATE jobs SET
                 failures = failures + 1,
                 last_error = $3,
                 state = CASE WHEN $4::float8 IS NULL THEN 'dead' ELSE 'waiting' END,
                 finished_at = CASE WHEN $4::float8 IS NULL THEN now() END,
                 due_at = now() + make_interval(secs => coalesce($4::float8, 0))
             WHERE job_id = $1 AND claims = $2 AND state = 'running'
             RETURNING job_id, claims, runner, taken_at
         )
         INSERT INTO job_failures (job_id, claim, began_at, runner, reason)
         SELECT job_id, claims, taken_at, runner, $3 FROM failed",
    )
    .bind(id.uuid())
    .bind(claim)
    .bind(reason)
    .bind(retry.map(|after| after.as_secs_f64()))
    .execute(conn)
    .await
    .map_err(StoreError::at_commit)?;
    Ok(done.rows_affected() == 1)
}
