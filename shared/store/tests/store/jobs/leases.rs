//! What happens when a runner is slow, dead, or cut off: another takes over, and only one outcome counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sqlx::Executor;
use tokio::sync::{Notify, mpsc};
use waybill_store::jobs::{self, Done, Job, JobError, JobHandler, JobOptions};
use waybill_store::{Db, StoreError, Tx, UseCase};
use waybill_testkit::{Wire, eventually};

use super::{Handler, KIND, PATIENCE, Running, all, counting, enqueue, job, options};
use crate::{SCHEMA, config, store};

/// Pays, in a transaction that also ends the job; before that it waits to be told.
struct Payer {
    db: Db,
    name: &'static str,
    begun: Arc<Notify>,
    go_on: Option<Arc<Notify>>,
    outcome: mpsc::UnboundedSender<Result<(), StoreError>>,
}

struct Pay<'a> {
    job: &'a Job,
    payer: &'static str,
}

impl UseCase for Pay<'_> {
    type Output = ();
    type Error = StoreError;

    async fn run(&self, tx: &mut Tx) -> Result<(), StoreError> {
        sqlx::query("INSERT INTO payments VALUES ($1, $2)")
            .bind(&self.job.key)
            .bind(self.payer)
            .execute(tx.conn())
            .await?;
        self.job.complete(tx).await
    }
}

impl JobHandler for Payer {
    const KIND: &'static str = KIND;

    async fn run(&self, job: &Job) -> Result<Done, JobError> {
        self.begun.notify_one();
        if let Some(go_on) = &self.go_on {
            go_on.notified().await;
        }
        let paid = self
            .db
            .run(&Pay {
                job,
                payer: self.name,
            })
            .await;
        let failed = paid.as_ref().err().map(ToString::to_string);
        // The test may be over.
        drop(self.outcome.send(paid));
        failed.map_or(Ok(Done::Finished), |reason| Err(JobError::retry(reason)))
    }
}

#[tokio::test]
async fn only_the_latest_taker_can_settle_a_job() -> anyhow::Result<()> {
    let (_test, db) = store().await?;
    db.pool()
        .execute("CREATE TABLE payments (key text, payer text)")
        .await?;
    enqueue(&db, &[job("leg")]).await?;
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let payer = |name, go_on| {
        let (outcome, outcomes) = mpsc::unbounded_channel();
        (
            Payer {
                db: db.clone(),
                name,
                begun: Arc::clone(&begun),
                go_on,
                outcome,
            },
            outcomes,
        )
    };

    let (slow, mut slow_outcome) = payer("slow", Some(Arc::clone(&go_on)));
    // With one slot, it cannot take the job a second time itself.
    let one_slot = JobOptions {
        concurrency: 1,
        ..options()
    };
    let first = Running::start(&db, slow, one_slot);
    tokio::time::timeout(PATIENCE, begun.notified()).await?;
    // Its lease ends while it is busy. With a lease of a minute it does not notice before it has settled.
    db.pool()
        .execute("UPDATE jobs SET due_at = now() - interval '1 s'")
        .await?;
    let (quick, mut quick_outcome) = payer("quick", None);
    let second = Running::start(&db, quick, options());
    let paid = tokio::time::timeout(PATIENCE, quick_outcome.recv()).await?;
    assert!(matches!(paid, Some(Ok(()))), "{paid:?}");

    go_on.notify_one();
    let refused = tokio::time::timeout(PATIENCE, slow_outcome.recv()).await?;
    assert!(matches!(refused, Some(Err(StoreError::LeaseLost))), "{refused:?}");
    first.stop().await?;
    second.stop().await?;
    let payments: Vec<(String, String)> = sqlx::query_as("SELECT key, payer FROM payments")
        .fetch_all(db.pool())
        .await?;
    assert_eq!(payments, [("leg".to_owned(), "quick".to_owned())]);
    // The late failure has changed nothing; the takeover is in the history.
    all(&db, "done").await;
    let reasons: Vec<String> = sqlx::query_scalar("SELECT reason FROM job_failures")
        .fetch_all(db.pool())
        .await?;
    assert_eq!(reasons, ["the lease expired"]);
    Ok(())
}

/// Whether two and a half leases have passed since the job was written, by the clock that counts.
async fn two_leases_on(db: Db) -> Option<()> {
    let over = sqlx::query_scalar("SELECT now() > created_at + interval '6 s' FROM jobs");
    over.fetch_one(db.pool()).await.unwrap_or(false).then_some(())
}

#[tokio::test]
async fn a_lease_is_renewed_while_the_work_goes_on() -> anyhow::Result<()> {
    let (_test, db) = store().await?;
    enqueue(&db, &[job("long")]).await?;
    let short = JobOptions {
        lease: Duration::from_millis(2400),
        ..options()
    };
    let runs = Arc::new(AtomicU32::new(0));
    let start = |db: &Db| {
        let (looking, counter) = (db.clone(), Arc::clone(&runs));
        let handler = Handler(move |job: &Job| {
            counter.fetch_add(1, Ordering::SeqCst);
            let db = looking.clone();
            let ample = job.remaining() > Duration::from_millis(300);
            async move {
                assert!(ample, "too little time for a call");
                eventually("end of a long work", PATIENCE, move || two_leases_on(db.clone())).await;
                Ok(Done::Finished)
            }
        });
        Running::start(db, handler, short)
    };
    let (first, second) = (start(&db), start(&db));
    all(&db, "done").await;
    first.stop().await?;
    second.stop().await?;
    assert_eq!(runs.load(Ordering::SeqCst), 1);
    Ok(())
}

/// Says when it is dropped.
struct Witness(Arc<Notify>);

impl Drop for Witness {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[tokio::test]
async fn a_runner_that_is_cut_off_lets_go_and_another_takes_over() -> anyhow::Result<()> {
    let (test, db) = store().await?;
    let (wire, url) = Wire::before(&test.url(SCHEMA)).await?;
    let far = Db::connect(&config(&url, 4), SCHEMA).await?;
    enqueue(&db, &[job("a")]).await?;
    let short = JobOptions {
        lease: Duration::from_millis(600),
        ..options()
    };
    let (begun, dropped) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell, witness) = (Arc::clone(&begun), Arc::clone(&dropped));
    let stuck = Handler(move |_: &Job| {
        let witness = Witness(Arc::clone(&witness));
        tell.notify_one();
        async move {
            let _witness = witness;
            std::future::pending().await
        }
    });
    let first = Running::start(&far, stuck, short);
    tokio::time::timeout(PATIENCE, begun.notified()).await?;
    // Nothing passes and nobody says so: only time tells.
    wire.half_open();
    let (count, handler) = counting();
    let second = Running::start(&db, handler, options());
    all(&db, "done").await;
    tokio::time::timeout(PATIENCE, dropped.notified()).await?;
    second.stop().await?;
    assert_eq!(count.load(Ordering::SeqCst), 1);
    drop(first);
    Ok(())
}

#[tokio::test]
async fn a_job_that_kills_its_runners_dies() -> anyhow::Result<()> {
    let (_test, db) = store().await?;
    enqueue(&db, &[job("deadly")]).await?;
    let short = JobOptions {
        lease: Duration::from_secs(1),
        concurrency: 1,
        ..options()
    };
    let mut killed = 0;
    let dead = loop {
        let begun = Arc::new(Notify::new());
        let tell = Arc::clone(&begun);
        let deadly = Handler(move |_: &Job| {
            tell.notify_one();
            std::future::pending()
        });
        let runner = Running::start(&db, deadly, short);
        let taken = async {
            tokio::select! {
                () = begun.notified() => None,
                dead = eventually("dead job", PATIENCE, async || {
                    jobs::dead(&db, KIND, None, 10).await.ok()?.pop()
                }) => Some(dead),
            }
        };
        match tokio::time::timeout(PATIENCE, taken).await? {
            // As a crash does: nothing is said to the database.
            None => drop(runner),
            Some(dead) => {
                // It has cost the runner no slot.
                enqueue(&db, &[job("next")]).await?;
                tokio::time::timeout(PATIENCE, begun.notified()).await?;
                break dead;
            }
        }
        killed += 1;
    };
    assert_eq!(killed, 3, "as often as it may fail");
    assert_eq!(
        (dead.failures, dead.last_error.as_str()),
        (3, "the lease expired")
    );
    assert_eq!(jobs::failures(&db, dead.id).await?.len(), 3);
    Ok(())
}

#[tokio::test]
async fn an_outcome_is_written_when_the_database_is_back() -> anyhow::Result<()> {
    let (test, db) = store().await?;
    let (wire, url) = Wire::before(&test.url(SCHEMA)).await?;
    let wire = Arc::new(wire);
    let far = Db::connect(&config(&url, 4), SCHEMA).await?;
    enqueue(&db, &[job("a")]).await?;
    let runs = Arc::new(AtomicU32::new(0));
    let (counter, scissors) = (Arc::clone(&runs), Arc::clone(&wire));
    let handler = Handler(move |_: &Job| {
        counter.fetch_add(1, Ordering::SeqCst);
        // The call to the outside has been made, then the database goes.
        scissors.cut();
        async { Ok(Done::Finished) }
    });
    let runner = Running::start(&far, handler, options());
    eventually("attempts to write the outcome", PATIENCE, async || {
        (runs.load(Ordering::SeqCst) == 1 && wire.connections() > 3).then_some(())
    })
    .await;
    wire.restore();
    all(&db, "done").await;
    runner.stop().await?;
    assert_eq!(
        runs.load(Ordering::SeqCst),
        1,
        "what was done outside is not done again"
    );
    Ok(())
}
