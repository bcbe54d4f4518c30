//! Jobs are written with their cause, done at least once, and settled by one runner only.

mod destinations;
mod failing;
mod holding;
mod leases;
mod queueing;
mod races;

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use waybill_kernel::id::MerchantId;
use waybill_store::jobs::{self, Done, Job, JobError, JobHandler, JobOptions, JobRunner, NewJob};
use waybill_store::{Backoff, Db};
use waybill_testkit::eventually;

const KIND: &str = "test";
const PATIENCE: Duration = Duration::from_secs(20);

/// A handler made of a closure.
struct Handler<F>(F);

impl<F, R> JobHandler for Handler<F>
where
    F: Fn(&Job) -> R + Send + Sync + 'static,
    R: Future<Output = Result<Done, JobError>> + Send,
{
    const KIND: &'static str = KIND;

    async fn run(&self, job: &Job) -> Result<Done, JobError> {
        self.0(job).await
    }
}

/// Quick to look, never by itself: tests that wait for the bell prove the bell.
fn options() -> JobOptions {
    JobOptions {
        concurrency: 4,
        lease: Duration::from_secs(60),
        max_attempts: 3,
        backoff: Backoff {
            base: Duration::from_millis(1),
            cap: Duration::from_millis(5),
        },
        poll: Duration::from_millis(10),
    }
}

/// A runner in the background. It is stopped at once when dropped.
struct Running {
    shutdown: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl Running {
    fn start<H: JobHandler>(db: &Db, handler: H, options: JobOptions) -> Running {
        let shutdown = CancellationToken::new();
        let runner = JobRunner::new(db.clone(), handler, options);
        let token = shutdown.clone();
        let task = tokio::spawn(async move {
            let Ok(()) = runner.run(token).await;
        });
        Running {
            shutdown,
            task: Some(task),
        }
    }

    /// Asks it to stop and waits until it has.
    async fn stop(mut self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        if let Some(task) = self.task.take() {
            tokio::time::timeout(PATIENCE, task).await??;
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

fn job(key: &str) -> NewJob {
    NewJob::new(
        KIND,
        key,
        MerchantId::from(uuid::Uuid::from_u128(7)),
        json!({ "leg": key }),
    )
}

async fn enqueue(db: &Db, new: &[NewJob]) -> anyhow::Result<u64> {
    let mut tx = db.begin().await?;
    let written = jobs::enqueue(&mut tx, new).await?;
    tx.commit().await?;
    Ok(written)
}

async fn states(db: &Db) -> Result<Vec<(String, String)>, sqlx::Error> {
    sqlx::query_as("SELECT key, state FROM jobs ORDER BY key")
        .fetch_all(db.pool())
        .await
}

/// Waits until every job is in this state.
async fn all(db: &Db, state: &str) {
    eventually(&format!("end with every job {state}"), PATIENCE, async || {
        let states = states(db).await.map_err(|e| e.to_string())?;
        if states.iter().all(|(_, found)| found == state) {
            Ok(())
        } else {
            Err(format!("{states:?}"))
        }
    })
    .await;
}

/// A handler that only counts.
fn counting() -> (Arc<std::sync::atomic::AtomicU32>, impl JobHandler) {
    let count = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counter = Arc::clone(&count);
    let handler = Handler(move |_: &Job| {
        counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        async { Ok(Done::Finished) }
    });
    (count, handler)
}
