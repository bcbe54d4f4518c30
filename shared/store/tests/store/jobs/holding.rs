//! A held kind is not begun, in no process, until every holder has lifted its hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::{Notify, mpsc};
use waybill_store::jobs::{self, Done, Job, JobError, JobHandler, JobOptions};
use waybill_store::{Db, StoreError, Tx, UseCase};
use waybill_testkit::eventually;

use super::{KIND, PATIENCE, Running, all, counting, enqueue, job, options};
use crate::store;

async fn hold(db: &Db, holder: &str) -> anyhow::Result<()> {
    let mut conn = db.pool().acquire().await?;
    Ok(jobs::hold(&mut conn, &[KIND], holder, "commits were lost", "test").await?)
}

async fn release(db: &Db, holder: &str) -> anyhow::Result<u64> {
    let mut conn = db.pool().acquire().await?;
    Ok(jobs::release(&mut conn, &[KIND], holder).await?)
}

#[tokio::test]
async fn a_held_kind_waits_until_every_holder_has_let_go() -> anyhow::Result<()> {
    let (_test, db) = store().await?;
    hold(&db, "history").await?;
    hold(&db, jobs::OPERATOR).await?;
    hold(&db, jobs::OPERATOR).await?;
    let holds = jobs::holds(&db).await?;
    let seen: Vec<_> = holds
        .iter()
        .map(|h| (h.kind.as_str(), h.holder.as_str()))
        .collect();
    assert_eq!(seen, [(KIND, "history"), (KIND, "operator")]);
    assert_eq!(
        (holds[0].reason.as_str(), holds[0].held_by.as_str()),
        ("commits were lost", "test")
    );

    // Also a job whose runner died.
    enqueue(&db, &[job("new"), job("left behind")]).await?;
    sqlx::query("UPDATE jobs SET state = 'running', claims = 1, due_at = now() - interval '1 s' WHERE key = 'left behind'")
        .execute(db.pool())
        .await?;
    let (count, handler) = counting();
    let (looks, looked) = mpsc::unbounded_channel();
    let runner = Running::start(&db, handler, options());
    // Another kind is taken meanwhile, several times over: the runner of the held one has surely looked too.
    other_kind_runs(&db, looks, looked).await?;
    assert_eq!(release(&db, "history").await?, 1);
    assert_eq!(release(&db, "history").await?, 0);
    assert_eq!(count.load(Ordering::SeqCst), 0);
    assert_eq!(release(&db, jobs::OPERATOR).await?, 1);
    all(&db, "done").await;
    runner.stop().await?;
    assert_eq!(count.load(Ordering::SeqCst), 2);
    Ok(())
}

struct Other(mpsc::UnboundedSender<()>);

impl JobHandler for Other {
    const KIND: &'static str = "other";

    async fn run(&self, _: &Job) -> Result<Done, JobError> {
        // The test may be over.
        self.0.send(()).ok();
        Ok(Done::Again {
            after: options().poll * 2,
        })
    }
}

async fn other_kind_runs(
    db: &Db,
    told: mpsc::UnboundedSender<()>,
    mut runs: mpsc::UnboundedReceiver<()>,
) -> anyhow::Result<()> {
    let mut other = job("other");
    other.kind = Other::KIND;
    enqueue(db, &[other]).await?;
    let runner = Running::start(db, Other(told), options());
    for _ in 0..5 {
        tokio::time::timeout(PATIENCE, runs.recv()).await?;
    }
    runner.stop().await?;
    sqlx::query("DELETE FROM jobs WHERE kind = 'other'")
        .execute(db.pool())
        .await?;
    Ok(())
}

/// Where a caller can be made to stop.
#[derive(Default)]
struct Stops {
    begun: Notify,
    go_on: Notify,
    allowed: Notify,
    commit: Notify,
    calls: AtomicU32,
}

/// Commits its intent, then calls outside.
struct Caller(Db, Arc<Stops>);

struct Intent<'a>(&'a Job, &'a Stops);

impl UseCase for Intent<'_> {
    type Output = ();
    type Error = StoreError;

    async fn run(&self, tx: &mut Tx) -> Result<(), StoreError> {
        self.0.still_allowed(tx).await?;
        self.1.allowed.notify_one();
        self.1.commit.notified().await;
        Ok(())
    }
}

impl JobHandler for Caller {
    const KIND: &'static str = KIND;

    async fn run(&self, job: &Job) -> Result<Done, JobError> {
        self.1.begun.notify_one();
        self.1.go_on.notified().await;
        self.0.run(&Intent(job, &self.1)).await?;
        self.1.calls.fetch_add(1, Ordering::SeqCst);
        Ok(Done::Finished)
    }
}

#[tokio::test]
async fn a_job_held_between_its_start_and_its_intent_calls_nobody() -> anyhow::Result<()> {
    let (_test, db) = store().await?;
    enqueue(&db, &[job("leg")]).await?;
    sqlx::query("UPDATE jobs SET failures = 1")
        .execute(db.pool())
        .await?;
    let stops = Arc::new(Stops::default());
    let runner = Running::start(&db, Caller(db.clone(), Arc::clone(&stops)), options());
    tokio::time::timeout(PATIENCE, stops.begun.notified()).await?;
    hold(&db, "history").await?;
    stops.go_on.notify_one();
    all(&db, "waiting").await;
    assert_eq!(stops.calls.load(Ordering::SeqCst), 0);
    let failures: i32 = sqlx::query_scalar("SELECT failures FROM jobs")
        .fetch_one(db.pool())
        .await?;
    assert_eq!(failures, 1, "it was not tried: none more, none forgotten");

    release(&db, "history").await?;
    stops.go_on.notify_one();
    stops.commit.notify_one();
    all(&db, "done").await;
    runner.stop().await?;
    assert_eq!(stops.calls.load(Ordering::SeqCst), 1);
    Ok(())
}

#[tokio::test]
async fn a_hold_waits_for_the_intents_that_were_allowed() -> anyhow::Result<()> {
    let (_test, db) = store().await?;
    enqueue(&db, &[job("leg")]).await?;
    let stops = Arc::new(Stops::default());
    let runner = Running::start(&db, Caller(db.clone(), Arc::clone(&stops)), options());
    stops.go_on.notify_one();
    tokio::time::timeout(PATIENCE, stops.allowed.notified()).await?;
    let holding = tokio::spawn({
        let db = db.clone();
        async move { hold(&db, "history").await }
    });
    eventually("hold that waits", PATIENCE, async || {
        sqlx::query_scalar::<_, i64>(
            "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
             WHERE d.datname = current_database() AND locktype = 'advisory' AND NOT granted",
        )
        .fetch_one(db.pool())
        .await
        .ok()
        .filter(|waiting| *waiting == 1)
    })
    .await;
    assert!(!holding.is_finished() && jobs::holds(&db).await?.is_empty());
    stops.commit.notify_one();
    tokio::time::timeout(PATIENCE, holding).await???;
    all(&db, "done").await;
    runner.stop().await?;
    assert_eq!(stops.calls.load(Ordering::SeqCst), 1, "a running job ends");
    Ok(())
}

#[tokio::test]
async fn a_job_that_was_taken_over_is_not_allowed() -> anyhow::Result<()> {
    let (_test, db) = store().await?;
    enqueue(&db, &[job("leg")]).await?;
    let stops = Arc::new(Stops::default());
    let one_slot = JobOptions {
        concurrency: 1,
        ..options()
    };
    let runner = Running::start(&db, Caller(db.clone(), Arc::clone(&stops)), one_slot);
    tokio::time::timeout(PATIENCE, stops.begun.notified()).await?;
    // As another runner does when it takes over.
    sqlx::query("UPDATE jobs SET claims = claims + 1, state = 'done', finished_at = now()")
        .execute(db.pool())
        .await?;
    stops.go_on.notify_one();
    runner.stop().await?;
    assert_eq!(stops.calls.load(Ordering::SeqCst), 0);
    Ok(())
}
