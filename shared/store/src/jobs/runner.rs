//! Takes jobs of one kind and hands them to their handler, a limited number at once.
//!
//! Replicas need no agreement: each takes what is free. A runner never ends because of the database; it waits and goes
//! on.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use waybill_kernel::id::JobId;
use waybill_runtime::{tasks, telemetry};

use super::destination;
use super::lease::{Lease, Leases};
use super::meters::Meters;
use super::queue::{self, Taken, Wish};
use super::rule::job::Verdict;
use super::rule::turn::Turns;
use super::{Done, Job, JobError, JobHandler};
use crate::backoff::Backoff;
use crate::db::Db;
use crate::error::StoreError;

/// The longest reason that is kept with a job.
const REASON_CHARS: usize = 1000;

/// A shorter lease would be lost to an ordinary hiccup, and none at all would be renewed all the time.
const SHORTEST_LEASE: Duration = Duration::from_millis(100);

/// The longest wait until the next attempt.
const LONGEST_WAIT: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// How a runner works.
#[derive(Debug, Clone, Copy)]
pub struct JobOptions {
    /// Jobs at once. Default 8.
    pub concurrency: usize,
    /// How long a job stays ours without being renewed; renewed every third of it. Default 30 s.
    pub lease: Duration,
    /// Failures in a row after which a job is dead. Default 20: with the default backoff about two hours.
    pub max_attempts: u32,
    /// The wait between attempts. Default 1 s to 10 min.
    pub backoff: Backoff,
    /// How often is looked for jobs that nobody announced: those of other processes and those put off. Default 1 s.
    pub poll: Duration,
}

impl Default for JobOptions {
    fn default() -> Self {
        JobOptions {
            concurrency: 8,
            lease: Duration::from_secs(30),
            max_attempts: 20,
            backoff: Backoff {
                base: Duration::from_secs(1),
                cap: Duration::from_secs(600),
            },
            poll: Duration::from_secs(1),
        }
    }
}

/// Runs the jobs of one kind.
pub struct JobRunner<H> {
    shared: Arc<Shared<H>>,
}

struct Shared<H> {
    db: Db,
    handler: H,
    options: JobOptions,
    /// Who took it, for people who read the table.
    name: String,
    leases: Leases,
    meters: Meters,
}

impl<H: JobHandler> JobRunner<H> {
    /// A runner that hands the jobs of `H::KIND` to `handler`.
    #[must_use]
    pub fn new(db: Db, handler: H, options: JobOptions) -> Self {
        // A job takes a slot, an attempt and some time, whatever the options say.
        let options = JobOptions {
            concurrency: options.concurrency.max(1),
            lease: options.lease.max(SHORTEST_LEASE),
            max_attempts: options.max_attempts.max(1),
            ..options
        };
        let name = format!("{}/{}", std::process::id(), JobId::generate());
        let meters = Meters::new(db.schema(), H::KIND);
        let shared = Shared {
            db,
            handler,
            options,
            name,
            leases: Leases::default(),
            meters,
        };
        JobRunner {
            shared: Arc::new(shared),
        }
    }

    /// Runs until `shutdown`, then lets the jobs in hand end. Dropping it stops them at once; another runner takes them
    /// over when their leases have expired.
    ///
    /// # Errors
    ///
    /// None: faults of the database are waited out.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Infallible> {
        tokio::select! {
            () = take_and_run(&self.shared, &shutdown) => Ok(()),
            never = keep_leases(&self.shared) => match never {},
        }
    }
}

async fn take_and_run<H: JobHandler>(shared: &Arc<Shared<H>>, shutdown: &CancellationToken) {
    let bell = shared.db.bell(H::KIND);
    let mut running = JoinSet::new();
    let mut refused = 0;
    let mut turns = Turns::default();
    // How often a destination is still looked at soon, because its limits may have cut the last take short.
    let mut looks_soon = 0_u32;
    while !shutdown.is_cancelled() {
        let free = shared.options.concurrency - running.len();
        let mut pause = shared.options.poll;
        match shared.take(free, turns.aged(free)).await {
            Ok(jobs) => {
                refused = 0;
                turns.took(jobs.len());
                let all_there_was = jobs.len() < free;
                let limited = jobs.iter().flatten().any(|job| !job.destination.is_empty());
                looks_soon = if limited {
                    LOOKS_SOON
                } else {
                    looks_soon.saturating_sub(1)
                };
                if looks_soon > 0 {
                    pause = pause.min(SOON);
                }
                for job in jobs.into_iter().flatten() {
                    running.spawn(work(Arc::clone(shared), job));
                }
                if !all_there_was && running.len() < shared.options.concurrency {
                    // Some were dead and took no slot.
                    continue;
                }
            }
            Err(error) => {
                refused += 1;
                pause = QUIET.delay(refused);
                tracing::warn!(
                    job.kind = H::KIND,
                    error = &error as &dyn std::error::Error,
                    "jobs could not be taken; trying again"
                );
            }
        }
        let full = running.len() == shared.options.concurrency;
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = ended(&mut running, full) => {}
            () = bell.notified(), if !full => {}
            () = tokio::time::sleep(pause), if !full => {}
        }
    }
    while running.join_next().await.is_some() {}
}

/// Clears away jobs that have ended. Returns when that has made room, so never while there was room before.
async fn ended(running: &mut JoinSet<()>, full: bool) {
    loop {
        if running.join_next().await.is_none() {
            return std::future::pending().await;
        }
        // Those that ended meanwhile share the next look.
        while running.try_join_next().is_some() {}
        if full {
            return;
        }
    }
}

/// How soon, and how often, a runner looks again after it took jobs of a destination: one that bears so many calls at once, or
/// in a second, hands out a few at a time, and the runner cannot tell those from all that there were.
const SOON: Duration = Duration::from_millis(50);
const LOOKS_SOON: u32 = 20;

/// The wait while the database does not answer.
const QUIET: Backoff = Backoff {
    base: Duration::from_millis(100),
    cap: Duration::from_secs(5),
};

/// Renews all leases of a runner every third of their length, and lets go of what could not be renewed in time.
async fn keep_leases<H: JobHandler>(shared: &Shared<H>) -> Infallible {
    let length = shared.options.lease;
    let mut beat = tokio::time::interval(length / 3);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        beat.tick().await;
        let (ids, claims) = shared.leases.columns();
        if ids.is_empty() {
            continue;
        }
        let asked = Instant::now();
        let renewal = async {
            let mut conn = shared.db.pool().acquire().await?;
            queue::renew(&mut conn, &ids, &claims, length).await
        };
        // No longer than to the next beat: a lease must also be given up while the database hangs.
        match tokio::time::timeout(length / 3, renewal).await {
            Ok(Ok(answers)) => shared.leases.answered(asked, &answers),
            Ok(Err(error)) => tracing::warn!(
                job.kind = H::KIND,
                error = &error as &dyn std::error::Error,
                "leases could not be renewed"
            ),
            Err(_) => tracing::warn!(job.kind = H::KIND, "leases could not be renewed in time"),
        }
        shared.leases.expire(Instant::now());
    }
}

impl<H: JobHandler> Shared<H> {
    /// Takes up to `free` jobs. One that died by an expired lease is among them as `None`.
    async fn take(&self, free: usize, aged: usize) -> Result<Vec<Option<Job>>, StoreError> {
        let mut conn = self.db.pool().acquire().await?;
        let asked = Instant::now();
        let wish = Wish {
            kind: H::KIND,
            slots: free,
            aged,
            lease: self.options.lease,
            max_attempts: self.options.max_attempts,
            runner: &self.name,
        };
        let taken = queue::take(&mut conn, &wish).await?;
        Ok(taken.into_iter().map(|job| self.hold(job, asked)).collect())
    }

    fn hold(&self, taken: Taken, asked: Instant) -> Option<Job> {
        let id = JobId::from(taken.job_id);
        if taken.dead {
            tracing::error!(job.id = %id, job.kind = H::KIND, "job is dead: its lease expired too often");
            return None;
        }
        let lease = Lease::new(taken.claims, asked, self.options.lease);
        self.leases.hold(id, Arc::clone(&lease));
        Some(Job {
            id,
            key: taken.key,
            merchant: taken.merchant_id.into(),
            order_id: taken.order_id,
            payload: taken.payload,
            attempt: taken.failures.unsigned_abs() + 1,
            created_at: taken.created_at,
            traceparent: taken.traceparent,
            destination: taken.destination,
            lease,
            word: Mutex::default(),
        })
    }
}

/// Runs one job to its outcome and writes that down.
async fn work<H: JobHandler>(shared: Arc<Shared<H>>, job: Job) {
    let span = tracing::info_span!(
        "job",
        otel.name = format!("job {}", H::KIND),
        otel.kind = "consumer",
        waybill.service = shared.db.schema(),
        job.kind = H::KIND,
        job.id = %job.id,
        job.attempt = job.attempt,
    );
    if let Some(parent) = &job.traceparent {
        telemetry::set_parent(&span, parent);
    }
    async {
        let lost = job.lease.lost();
        let began = Instant::now();
        let outcome = tokio::select! {
            outcome = AssertUnwindSafe(shared.handler.run(&job)).catch_unwind() => outcome,
            () = lost.cancelled() => {
                shared.meters.lost();
                return tracing::warn!("the lease was lost; another runner takes over");
            }
        };
        let outcome = outcome.unwrap_or_else(|panic| {
            Err(JobError::retry(format!(
                "panicked: {}",
                tasks::panic_text(&*panic)
            )))
        });
        settle(&shared, &job, outcome, began.elapsed()).await;
    }
    .instrument(span)
    .await;
    shared.leases.release(job.id);
}

/// What an outcome means for the job, and why it failed if it did.
fn judge(options: &JobOptions, attempt: u32, outcome: Result<Done, JobError>) -> (Verdict, String) {
    let again = |after: Duration, went_well| Verdict::Again {
        after: after.min(LONGEST_WAIT),
        went_well,
    };
    match outcome {
        Ok(Done::Finished) => (Verdict::Finished, String::new()),
        Ok(Done::Again { after }) => (again(after, true), String::new()),
        Err(JobError::NotTried { after, reason }) => (again(after, false), storable(&reason)),
        Err(JobError::Retry { after, reason }) => {
            let wait = after.unwrap_or_else(|| options.backoff.delay(attempt));
            let retry = (attempt < options.max_attempts).then(|| wait.min(LONGEST_WAIT));
            (Verdict::Failed { retry }, storable(&reason))
        }
        Err(JobError::Dead { reason }) => (Verdict::Failed { retry: None }, storable(&reason)),
    }
}

fn tell(verdict: &Verdict, reason: &str) {
    match verdict {
        Verdict::Failed { retry: Some(after) } => tracing::warn!(
            reason,
            retry_in_ms = after.as_millis(),
            "job failed; it is tried again"
        ),
        Verdict::Failed { retry: None } => tracing::error!(reason, "job is dead; it waits for a person"),
        Verdict::Again { went_well: false, .. } => tracing::info!(reason, "job was not tried"),
        Verdict::Finished | Verdict::Again { .. } => {}
    }
}

/// A text of bounded length that Postgres takes: it knows no zero character.
fn storable(reason: &str) -> String {
    reason.chars().filter(|c| *c != '\0').take(REASON_CHARS).collect()
}

/// Writes the verdict down, repeatedly while the lease lasts: what was done outside should not be done again only because
/// the database was away for a moment.
async fn settle<H: JobHandler>(
    shared: &Shared<H>,
    job: &Job,
    outcome: Result<Done, JobError>,
    took: Duration,
) {
    let (verdict, reason) = judge(&shared.options, job.attempt, outcome);
    tell(&verdict, &reason);
    shared.meters.ended(&verdict, took);
    // Before the job is let go: the next one towards a destination that fails must know it.
    if let Some(word) = job.word().filter(|_| !job.destination.is_empty())
        && let Err(error) = destination::heard(&shared.db, &job.destination, word).await
    {
        // It will be told again by the next one.
        let error = &error as &dyn std::error::Error;
        tracing::debug!(error, "what a destination told could not be written");
    }
    let mut tries = 0;
    loop {
        let error = match write_down(shared, job, &verdict, &reason).await {
            Ok(true) => return,
            Ok(false) => return tracing::warn!("the lease was lost; this attempt does not count"),
            Err(error @ (StoreError::Unavailable { .. } | StoreError::Retry(_))) => error,
            Err(error) => {
                // Repeating will not help. The lease runs out, which counts as a failure.
                let error = &error as &dyn std::error::Error;
                return tracing::error!(error, "the outcome of a job cannot be written");
            }
        };
        tries += 1;
        tracing::debug!(
            error = &error as &dyn std::error::Error,
            "the outcome could not be written yet"
        );
        tokio::select! {
            () = job.lease.lost().cancelled() => {
                return tracing::warn!("the lease was lost before the outcome could be written");
            }
            () = tokio::time::sleep(QUIET.delay(tries)) => {}
        }
    }
}

async fn write_down<H>(
    shared: &Shared<H>,
    job: &Job,
    verdict: &Verdict,
    reason: &str,
) -> Result<bool, StoreError> {
    let claim = job.lease.claim();
    let mut conn = shared.db.pool().acquire().await?;
    match *verdict {
        Verdict::Finished => queue::finish(&mut conn, job.id, claim).await,
        Verdict::Again { after, went_well } => queue::again(&mut conn, job.id, claim, after, went_well).await,
        Verdict::Failed { retry } => queue::fail(&mut conn, job.id, claim, reason, retry).await,
    }
}
