//! Retries, panics, dead jobs and their history.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde::Deserialize;
use waybill_store::jobs::{self, Done, Job, JobError};
use waybill_testkit::{Wire, eventually};

use super::{Handler, KIND, PATIENCE, Running, all, counting, enqueue, job, options};
use crate::{SCHEMA, config, store};

#[tokio::test]
async fn a_failure_is_repeated_and_remembered() -> anyhow::Result<()> {
    let (_test, db) = store().await?;
    enqueue(&db, &[job("a")]).await?;
    let handler = Handler(|job: &Job| {
        let attempt = job.attempt;
        async move {
            match attempt {
                1 => Err(JobError::retry("the provider is busy")),
                2 => Err(JobError::retry_after(Duration::from_millis(1), "still busy")),
                _ => Ok(Done::Finished),
            }
        }
    });
    let runner = Running::start(&db, handler, options());
    all(&db, "done").await;
    runner.stop().await?;
    let id: uuid::Uuid = sqlx::query_scalar("SELECT job_id FROM jobs")
        .fetch_one(db.pool())
        .await?;
    let history = jobs::failures(&db, id.into()).await?;
    let reasons: Vec<_> = history.iter().map(|f| (f.claim, f.reason.as_str())).collect();
    assert_eq!(reasons, [(1, "the provider is busy"), (2, "still busy")]);
    assert!(history.iter().all(|failure| failure.runner.is_some()));
    Ok(())
}

#[tokio::test]
async fn what_keeps_failing_dies_and_waits_for_a_person() -> anyhow::Result<()> {
    let (_test, db) = store().await?;
    enqueue(&db, &[job("a")]).await?;
    let healed = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let runs = Arc::new(AtomicU32::new(0));
    let (sick, counter) = (Arc::clone(&healed), Arc::clone(&runs));
    let handler = Handler(move |_: &Job| {
        counter.fetch_add(1, Ordering::SeqCst);
        let healed = sick.load(Ordering::SeqCst);
        async move {
            if healed {
                Ok(Done::Finished)
            } else {
                Err(JobError::retry("no luck"))
            }
        }
    });
    let runner = Running::start(&db, handler, options());
    all(&db, "dead").await;
    assert_eq!(runs.load(Ordering::SeqCst), 3);
    let dead = jobs::dead(&db, KIND, None, 10).await?;
    assert_eq!(dead.len(), 1);
    assert_eq!(
        (
            dead[0].key.as_str(),
            dead[0].failures,
            dead[0].last_error.as_str()
        ),
        ("a", 3, "no luck")
    );
    assert_eq!(jobs::dead(&db, KIND, Some(dead[0].id), 10).await?, []);
    assert_eq!(jobs::backlog(&db).await?[0].dead, 1);

    healed.store(true, Ordering::SeqCst);
    let mut conn = db.pool().acquire().await?;
    assert!(jobs::retry_dead(&mut conn, dead[0].id).await?);
    all(&db, "done").await;
    runner.stop().await?;
    assert_eq!(
        jobs::failures(&db, dead[0].id).await?.len(),
        3,
        "its history stays"
    );
    assert!(
        !jobs::retry_dead(&mut conn, dead[0].id).await?,
        "it is not dead any more"
    );
    Ok(())
}

#[tokio::test]
async fn the_hopeless_die_at_once_and_can_be_discarded() -> anyhow::Result<()> {
    #[derive(Deserialize)]
    struct Payload {
        #[expect(dead_code, reason = "it is never there")]
        amount: u64,
    }
    let (_test, db) = store().await?;
    enqueue(&db, &[job("a")]).await?;
    let handler = Handler(|job: &Job| {
        let payload = job.payload::<Payload>();
        async move { payload.map(|_| Done::Finished) }
    });
    let runner = Running::start(&db, handler, options());
    all(&db, "dead").await;
    runner.stop().await?;
    let dead = jobs::dead(&db, KIND, None, 10).await?;
    assert_eq!(dead[0].failures, 1);
    assert!(dead[0].last_error.contains("amount"), "{}", dead[0].last_error);
    let mut conn = db.pool().acquire().await?;
    assert!(jobs::discard(&mut conn, dead[0].id).await?);
    assert!(!jobs::discard(&mut conn, dead[0].id).await?);
    all(&db, "done").await;
    Ok(())
}

#[tokio::test]
async fn a_panic_is_a_failure_of_its_job_alone() -> anyhow::Result<()> {
    let (_test, db) = store().await?;
    enqueue(&db, &[job("bad"), job("good")]).await?;
    let handler = Handler(|job: &Job| {
        let fault = job.key == "bad" && job.attempt == 1;
        async move {
            // A zero character, which Postgres does not take.
            assert!(!fault, "the adapter met \0a unicorn");
            Ok(Done::Finished)
        }
    });
    let runner = Running::start(&db, handler, options());
    all(&db, "done").await;
    runner.stop().await?;
    let reasons: Vec<String> = sqlx::query_scalar("SELECT reason FROM job_failures")
        .fetch_all(db.pool())
        .await?;
    assert_eq!(reasons, ["panicked: the adapter met a unicorn"]);
    Ok(())
}

#[tokio::test]
async fn waiting_for_a_provider_is_no_failure() -> anyhow::Result<()> {
    let (_test, db) = store().await?;
    enqueue(&db, &[job("a")]).await?;
    let looks = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&looks);
    let handler = Handler(move |job: &Job| {
        let look = counter.fetch_add(1, Ordering::SeqCst);
        // Twice as often as it may fail; a failure between does not add up with later ones.
        assert!(job.attempt <= 2, "attempt {}", job.attempt);
        async move {
            match look {
                0 | 2 | 4 => Err(JobError::retry("no answer")),
                1 | 3 | 5 => Ok(Done::Again {
                    after: Duration::from_millis(1),
                }),
                _ => Ok(Done::Finished),
            }
        }
    });
    let runner = Running::start(&db, handler, options());
    all(&db, "done").await;
    runner.stop().await?;
    assert_eq!(looks.load(Ordering::SeqCst), 7);
    Ok(())
}

#[tokio::test]
async fn a_runner_outlives_an_absence_of_the_database() -> anyhow::Result<()> {
    let (test, db) = store().await?;
    let (wire, url) = Wire::before(&test.url(SCHEMA)).await?;
    let far = waybill_store::Db::connect(&config(&url, 4), SCHEMA).await?;
    let (count, handler) = counting();
    let runner = Running::start(&far, handler, options());
    enqueue(&db, &[job("before")]).await?;
    all(&db, "done").await;

    wire.cut();
    enqueue(&db, &[job("meanwhile")]).await?;
    let attempts = wire.connections();
    eventually("attempts to reconnect", PATIENCE, async || {
        (wire.connections() > attempts + 1).then_some(())
    })
    .await;
    assert_eq!(count.load(Ordering::SeqCst), 1);
    wire.restore();
    all(&db, "done").await;
    runner.stop().await
}
