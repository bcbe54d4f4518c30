//! Forgets what has done its time: request keys and done jobs.

use std::convert::Infallible;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::db::Db;
use crate::error::StoreError;
use crate::{idempotency, jobs};

/// When and how much is forgotten.
#[derive(Debug, Clone, Copy)]
pub struct MaintenanceOptions {
    /// How often. Default every hour.
    pub every: Duration,
    /// Rows per transaction: few enough for it to be over within a second. Default 1000.
    pub batch: i64,
    /// How long request keys are kept. Default [`idempotency::KEEP`].
    pub keep_keys: Duration,
    /// How long done jobs are kept. Default [`jobs::KEEP_DONE`].
    pub keep_jobs: Duration,
}

impl Default for MaintenanceOptions {
    fn default() -> Self {
        MaintenanceOptions {
            every: Duration::from_secs(60 * 60),
            batch: 1000,
            keep_keys: idempotency::KEEP,
            keep_jobs: jobs::KEEP_DONE,
        }
    }
}

/// Prunes now and then until `shutdown`. Several replicas may do so at once: each takes what the others are not at.
///
/// # Errors
///
/// None: what fails is logged and tried again next time.
pub async fn maintain(
    db: Db,
    options: MaintenanceOptions,
    shutdown: CancellationToken,
) -> Result<(), Infallible> {
    let mut time = tokio::time::interval(options.every);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            _ = time.tick() => {}
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            pruned = prune(&db, &options) => match pruned {
                Ok((keys, jobs)) => tracing::debug!(keys, jobs, "old request keys and jobs are forgotten"),
                Err(error) => tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "old request keys and jobs could not be forgotten; trying again later"
                ),
            },
        }
    }
}

async fn prune(db: &Db, options: &MaintenanceOptions) -> Result<(u64, u64), StoreError> {
    let batch = options.batch.max(1);
    let full = batch.unsigned_abs();
    let (mut keys, mut done) = (0, 0);
    loop {
        let pruned = idempotency::prune(db, options.keep_keys, batch).await?;
        keys += pruned;
        if pruned < full {
            break;
        }
    }
    loop {
        let pruned = jobs::prune(db, options.keep_jobs, batch).await?;
        done += pruned;
        if pruned < full {
            return Ok((keys, done));
        }
    }
}
