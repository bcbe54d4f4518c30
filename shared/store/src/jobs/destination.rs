//! Destinations: whom jobs call, how much of that is good for them, and what was heard of them lately.
//!
//! A destination comes into being with the first job that names it, or by [`declare`], which sets its limits. Limits are
//! honoured by the claim itself (`take_jobs`), for all replicas and kinds together; what calls told is written here, by
//! the rule of [`Breaker`].

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use waybill_kernel::check::Violations;
use waybill_runtime::config::seconds;

use super::rule::breaker::{Breaker, Stand, Tolerance, Word};
use crate::db::Db;
use crate::error::StoreError;

/// The longest name of a destination.
const NAME_CHARS: usize = 200;

/// How much a destination bears.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Jobs towards it at once, in all replicas together. Default no limit but that of the workers.
    pub at_once: Option<u32>,
    /// Jobs towards it per second, in all replicas together. Default no limit.
    pub per_second: Option<f64>,
    /// Jobs at once after a rest, where there is a limit per second. Default 1.
    pub burst: u32,
    /// Failures in a row after which it is left alone. Default 5.
    pub failures: u32,
    /// Seconds it is left alone at first; doubled each time a try fails. Default 5.
    #[serde(with = "seconds")]
    pub pause: Duration,
    /// Seconds it is left alone at most. Default 300.
    #[serde(with = "seconds")]
    pub longest_pause: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            at_once: None,
            per_second: None,
            burst: 1,
            failures: 5,
            pause: Duration::from_secs(5),
            longest_pause: Duration::from_secs(300),
        }
    }
}

impl Limits {
    /// Finds what cannot be meant; `field` is where these limits are in the configuration.
    pub fn validate(&self, field: &str, violations: &mut Violations) {
        let mut require = |good, name, description: String| {
            violations.require(good, format!("{field}.{name}"), description);
        };
        require(
            self.at_once.is_none_or(|jobs| (1..=10_000).contains(&jobs)),
            "at_once",
            format!(
                "{} is not between 1 and 10000; leave it out for no limit",
                self.at_once.unwrap_or_default()
            ),
        );
        require(
            self.per_second
                .is_none_or(|pace| (0.001..=100_000.0).contains(&pace)),
            "per_second",
            format!(
                "{} is not between 0.001 and 100000; leave it out for no limit",
                self.per_second.unwrap_or_default()
            ),
        );
        for (name, value) in [("burst", self.burst), ("failures", self.failures)] {
            require(
                (1..=10_000).contains(&value),
                name,
                format!("{value} is not between 1 and 10000"),
            );
        }
        let day = Duration::from_secs(86_400);
        require(
            !self.pause.is_zero() && self.pause <= self.longest_pause && self.longest_pause <= day,
            "pause",
            format!(
                "{} s is not between 0 and longest_pause ({} s, at most a day)",
                self.pause.as_secs_f64(),
                self.longest_pause.as_secs_f64()
            ),
        );
    }

    /// Microseconds between two jobs in the long run.
    fn every_us(&self) -> Option<i64> {
        let pace = self.per_second?;
        Some(micros(Duration::try_from_secs_f64(1.0 / pace).unwrap_or(Duration::MAX)).max(1))
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn small(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// Sets the limits of destinations, for all replicas. What is known of how they are stays.
///
/// # Errors
///
/// As the database answers.
pub async fn declare(db: &Db, destinations: &[(String, Limits)]) -> Result<(), StoreError> {
    let mut all: Vec<&(String, Limits)> = destinations.iter().collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all.dedup_by(|a, b| a.0 == b.0);
    let limits = || all.iter().map(|(_, limits)| limits);
    sqlx::query(
        "INSERT INTO job_destination AS d (destination, max_running, every_us, burst, threshold, pause_us, longest_us)
         SELECT * FROM UNNEST($1::text[], $2::int[], $3::bigint[], $4::int[], $5::int[], $6::bigint[], $7::bigint[])
         ON CONFLICT (destination) DO UPDATE SET
             max_running = excluded.max_running, every_us = excluded.every_us, burst = excluded.burst,
             threshold = excluded.threshold, pause_us = excluded.pause_us, longest_us = excluded.longest_us
         WHERE (d.max_running, d.every_us, d.burst, d.threshold, d.pause_us, d.longest_us)
               IS DISTINCT FROM (excluded.max_running, excluded.every_us, excluded.burst,
                                 excluded.threshold, excluded.pause_us, excluded.longest_us)",
    )
    .bind(all.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>())
    .bind(limits().map(|l| l.at_once.map(small)).collect::<Vec<_>>())
    .bind(limits().map(Limits::every_us).collect::<Vec<_>>())
    .bind(limits().map(|l| small(l.burst)).collect::<Vec<_>>())
    .bind(limits().map(|l| small(l.failures)).collect::<Vec<_>>())
    .bind(limits().map(|l| micros(l.pause)).collect::<Vec<_>>())
    .bind(limits().map(|l| micros(l.longest_pause)).collect::<Vec<_>>())
    .execute(db.pool())
    .await
    .map_err(StoreError::at_commit)?;
    Ok(())
}

/// A destination and how it is.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Destination {
    /// Its name.
    pub destination: String,
    /// Jobs towards it at once.
    pub max_running: Option<i32>,
    /// Jobs towards it per second.
    pub per_second: Option<f64>,
    /// Jobs at once after a rest.
    pub burst: i32,
    /// Failures in a row since the last answer.
    pub failures: i32,
    /// `closed`, `open` or `half_open`; see [`Stand`].
    pub stand: String,
    /// Until when it is left alone.
    pub open_until: Option<DateTime<Utc>>,
    /// The last failure.
    pub failed_at: Option<DateTime<Utc>>,
    /// Jobs in hands.
    pub running: i64,
    /// Jobs that are due.
    pub due: i64,
}

/// All destinations, by name.
///
/// # Errors
///
/// As the database answers.
pub async fn destinations(db: &Db) -> Result<Vec<Destination>, StoreError> {
    let found = sqlx::query_as(
        "SELECT d.destination, d.max_running, 1e6::float8 / d.every_us AS per_second, d.burst, d.failures,
                CASE WHEN d.open_until IS NULL THEN 'closed' WHEN d.open_until > now() THEN 'open' ELSE 'half_open' END
                    AS stand,
                d.open_until, d.failed_at,
                coalesce(j.running, 0) AS running, coalesce(j.due, 0) AS due
         FROM job_destination d
         LEFT JOIN (
             SELECT destination, count(*) FILTER (WHERE state = 'running') AS running,
                    count(*) FILTER (WHERE state = 'waiting' AND due_at <= now()) AS due
             FROM jobs WHERE state IN ('waiting', 'running') GROUP BY destination
         ) j USING (destination)
         WHERE d.destination <> '' ORDER BY d.destination",
    )
    .fetch_all(db.pool())
    .await?;
    Ok(found)
}

/// Uses a destination again at once, as if nothing had been heard of it. `false` when there is none of this name.
///
/// # Errors
///
/// As the database answers.
pub async fn reset(conn: &mut sqlx::PgConnection, destination: &str) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "UPDATE job_destination SET failures = 0, opens = 0, open_until = NULL, regular_us = 0
         WHERE destination = $1 AND destination <> ''",
    )
    .bind(destination)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

#[derive(sqlx::FromRow)]
struct Known {
    failures: i32,
    opens: i32,
    open_until: Option<DateTime<Utc>>,
    threshold: i32,
    pause_us: i64,
    longest_us: i64,
    now: DateTime<Utc>,
}

/// Writes down what a call told. An answer of a destination that is well, which is the usual word, writes nothing.
pub(super) async fn heard(db: &Db, destination: &str, word: Word) -> Result<(), StoreError> {
    if word == Word::Answered && is_well(db, destination).await? {
        return Ok(());
    }
    let mut tx = db.begin().await?;
    let known: Option<Known> = sqlx::query_as(
        "SELECT failures, opens, open_until, threshold, pause_us, longest_us, clock_timestamp() AS now
         FROM job_destination WHERE destination = $1 FOR NO KEY UPDATE",
    )
    .bind(destination)
    .fetch_optional(tx.conn())
    .await?;
    let Some(known) = known else {
        return tx.rollback().await;
    };
    let us = |us: i64| Duration::from_micros(us.unsigned_abs());
    let tolerance = Tolerance {
        threshold: known.threshold.unsigned_abs(),
        pause: us(known.pause_us),
        longest: us(known.longest_us),
    };
    let before = Breaker {
        failures: known.failures.unsigned_abs(),
        opens: known.opens.unsigned_abs(),
        open_until: known.open_until,
    };
    let after = before.heard(word, &tolerance, known.now);
    sqlx::query(
        "UPDATE job_destination SET failures = $2, opens = $3, open_until = $4,
                failed_at = CASE WHEN $5 THEN clock_timestamp() ELSE failed_at END
         WHERE destination = $1",
    )
    .bind(destination)
    .bind(small(after.failures))
    .bind(small(after.opens))
    .bind(after.open_until)
    .bind(word == Word::Failed)
    .execute(tx.conn())
    .await?;
    tx.commit().await?;
    tell(
        destination,
        before.stand(known.now),
        after.stand(known.now),
        after.open_until,
    );
    Ok(())
}

async fn is_well(db: &Db, destination: &str) -> Result<bool, StoreError> {
    let troubled: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM job_destination
                        WHERE destination = $1 AND (failures > 0 OR open_until IS NOT NULL))",
    )
    .bind(destination)
    .fetch_one(db.pool())
    .await?;
    Ok(!troubled)
}

fn tell(destination: &str, before: Stand, after: Stand, until: Option<DateTime<Utc>>) {
    match (before, after) {
        (Stand::Closed | Stand::HalfOpen, Stand::Open) => {
            let until = until.unwrap_or_default();
            tracing::warn!(job.destination = destination, %until, "destination fails; it is left alone");
        }
        (Stand::HalfOpen | Stand::Open, Stand::Closed) => {
            tracing::info!(job.destination = destination, "destination answers again");
        }
        _ => {}
    }
}

/// A name that fits: a destination is written by us, so a name that is too long is cut rather than refused.
pub(super) fn fitting(name: String) -> String {
    if name.chars().count() <= NAME_CHARS {
        return name;
    }
    name.chars().take(NAME_CHARS).collect()
}
