//! What runs behind the RPCs. Nothing here calls the outside world: a job goes on with work that was too much for one
//! transaction, and a loop removes what nobody needs any more.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use waybill_events::Log;
use waybill_kernel::time;
use waybill_store::jobs::{self, Done, Job, JobError, JobHandler};
use waybill_store::{Db, StoreError, idempotency};

use crate::app::give_stock::{self, GiveStock, Payload};
use crate::error::Error;

/// Gives stock to waiting orders until none is left that could get some.
pub struct StockGiver {
    /// Where the orders wait.
    pub db: Db,
    /// Where it is told.
    pub log: Log,
    /// The clock.
    pub clock: time::Shared,
}

impl JobHandler for StockGiver {
    const KIND: &'static str = give_stock::KIND;

    async fn run(&self, job: &Job) -> Result<Done, JobError> {
        let Payload { mut skus } = job.payload()?;
        while !skus.is_empty() {
            let step = GiveStock {
                log: &self.log,
                now: self.clock.now(),
                merchant: job.merchant,
                skus: &skus,
            };
            skus = self.db.run(&step).await.map_err(failed)?;
        }
        Ok(Done::Finished)
    }
}

fn failed(error: Error) -> JobError {
    match error {
        Error::Store(error) => error.into(),
        other => JobError::retry(other.to_string()),
    }
}

/// How often old rows are looked for.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);
/// How long finished jobs are kept for people to look at.
const KEEP_JOBS: Duration = Duration::from_secs(7 * 24 * 3600);
/// Rows per transaction.
const PRUNE_ROWS: i64 = 1_000;

/// Forgets request keys and finished jobs that are old enough, every hour, until it is stopped.
///
/// # Errors
/// None: what the database refuses is tried again an hour later.
pub async fn prune(db: Db, shutdown: CancellationToken) -> Result<(), Infallible> {
    let mut ticks = tokio::time::interval(PRUNE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
        }
        if let Err(error) = prune_once(&db).await {
            tracing::warn!(%error, "old request keys and jobs could not be removed; trying again in an hour");
        }
    }
}

async fn prune_once(db: &Db) -> Result<(), StoreError> {
    let full = u64::try_from(PRUNE_ROWS).unwrap_or(u64::MAX);
    while idempotency::prune(db, idempotency::KEEP, PRUNE_ROWS).await? == full {}
    while jobs::prune(db, KEEP_JOBS, PRUNE_ROWS).await? == full {}
    Ok(())
}
