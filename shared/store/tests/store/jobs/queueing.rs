//! Writing, waking, order, limits, shutting down.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::TimeDelta;
use opentelemetry::trace::TraceId;
use sqlx::Executor;
use tokio::sync::{Barrier, Notify};
use waybill_store::Db;
use waybill_store::jobs::{self, Done, Job, JobOptions, Priority};
use waybill_testkit::eventually;

use super::{Handler, KIND, PATIENCE, Running, all, counting, enqueue, job, options, states};
use crate::{SCHEMA, config, store};

#[tokio::test]
async fn a_job_is_written_with_its_cause_and_once() -> anyhow::Result<()> {
    let (_test, db) = store().await?;
    let mut tx = db.begin().await?;
    assert_eq!(jobs::enqueue(&mut tx, &[job("a")]).await?, 1);
    tx.rollback().await?;
    assert_eq!(states(&db).await?, []);

    assert_eq!(enqueue(&db, &[job("b"), job("a"), job("b")]).await?, 2);
    assert_eq!(enqueue(&db, &[job("a"), job("c")]).await?, 1);
    assert_eq!(enqueue(&db, &[]).await?, 0);

    let (count, handler) = counting();
    let runner = Running::start(&db, handler, options());
    all(&db, "done").await;
    // Done is remembered too.
    assert_eq!(enqueue(&db, &[job("a")]).await?, 0);
    runner.stop().await?;
    assert_eq!(count.load(Ordering::SeqCst), 3);
    Ok(())
}

#[tokio::test]
async fn a_commit_wakes_the_runner() -> anyhow::Result<()> {
    let (_test, db) = store().await?;
    let (_count, handler) = counting();
    // It would look again by itself only after an hour.
    let deaf = JobOptions {
        poll: Duration::from_secs(3600),
        ..options()
    };
    let runner = Running::start(&db, handler, deaf);
    for key in ["a", "b", "c"] {
        enqueue(&db, &[job(key)]).await?;
        all(&db, "done").await;
    }
    runner.stop().await
}

#[tokio::test]
async fn urgent_before_usual_and_nothing_before_its_time() -> anyhow::Result<()> {
    let (_test, db) = store().await?;
    let now: chrono::DateTime<chrono::Utc> = sqlx::query_scalar("SELECT now()").fetch_one(db.pool()).await?;
    let ago = |minutes| now - TimeDelta::minutes(minutes);
    enqueue(
        &db,
        &[
            job("5 low").priority(Priority::Low).not_before(ago(9)),
            job("4 usual, later").not_before(ago(1)),
            job("3 usual, earlier").not_before(ago(2)),
            job("2 urgent, later").priority(Priority::High).not_before(ago(3)),
            job("1 urgent, earlier")
                .priority(Priority::High)
                .not_before(ago(4)),
            job("tomorrow").priority(Priority::High).not_before(ago(-24 * 60)),
        ],
    )
    .await?;
    let order = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&order);
    let handler = Handler(move |job: &Job| {
        seen.lock().expect("no panic while held").push(job.key.clone());
        async { Ok(Done::Finished) }
    });
    let runner = Running::start(
        &db,
        handler,
        JobOptions {
            concurrency: 1,
            ..options()
        },
    );
    eventually("five done", PATIENCE, async || {
        let done = states(&db)
            .await
            .ok()?
            .iter()
            .filter(|(_, state)| state == "done")
            .count();
        (done == 5).then_some(())
    })
    .await;
    runner.stop().await?;
    let expected = [
        "1 urgent, earlier",
        "2 urgent, later",
        "3 usual, earlier",
        "4 usual, later",
        "5 low",
    ];
    assert_eq!(*order.lock().expect("no panic while held"), expected);
    let backlog = jobs::backlog(&db).await?;
    assert_eq!(
        (backlog[0].later, backlog[0].due, backlog[0].running),
        (1, 0, 0),
        "{backlog:?}"
    );
    Ok(())
}

#[tokio::test]
async fn as_many_at_once_as_allowed() -> anyhow::Result<()> {
    let (_test, db) = store().await?;
    let keys: Vec<_> = (0..12).map(|n| job(&n.to_string())).collect();
    enqueue(&db, &keys).await?;
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let three = Arc::new(Barrier::new(3));
    let high_water = Arc::clone(&most);
    let handler = Handler(move |_: &Job| {
        let (now, most, three) = (Arc::clone(&now), Arc::clone(&most), Arc::clone(&three));
        async move {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            // Passes only when three run at once.
            three.wait().await;
            now.fetch_sub(1, Ordering::SeqCst);
            Ok(Done::Finished)
        }
    });
    let runner = Running::start(
        &db,
        handler,
        JobOptions {
            concurrency: 3,
            ..options()
        },
    );
    all(&db, "done").await;
    runner.stop().await?;
    assert_eq!(high_water.load(Ordering::SeqCst), 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_runners_share_the_work_without_doing_it_twice() -> anyhow::Result<()> {
    let (_test, db) = store().await?;
    db.pool()
        .execute("CREATE TABLE effects (key text, runner int)")
        .await?;
    let keys: Vec<_> = (0..300).map(|n| job(&n.to_string())).collect();
    enqueue(&db, &keys).await?;
    let started = Arc::new(Barrier::new(3));
    let runners: Vec<_> = (0..3)
        .map(|number| {
            let (db_, started, first) = (
                db.clone(),
                Arc::clone(&started),
                std::sync::atomic::AtomicBool::new(true),
            );
            let handler = Handler(move |job: &Job| {
                let (db, key) = (db_.clone(), job.key.clone());
                // Nobody goes on before each of the three has work.
                let wait = first.swap(false, Ordering::SeqCst).then(|| Arc::clone(&started));
                async move {
                    if let Some(started) = wait {
                        started.wait().await;
                    }
                    sqlx::query("INSERT INTO effects VALUES ($1, $2)")
                        .bind(key)
                        .bind(number)
                        .execute(db.pool())
                        .await
                        .map_err(|e| jobs::JobError::retry(e.to_string()))?;
                    Ok(Done::Finished)
                }
            });
            Running::start(&db, handler, options())
        })
        .collect();
    all(&db, "done").await;
    for runner in runners {
        runner.stop().await?;
    }
    let (effects, distinct, shared): (i64, i64, i64) =
        sqlx::query_as("SELECT count(*), count(DISTINCT key), count(DISTINCT runner) FROM effects")
            .fetch_one(db.pool())
            .await?;
    assert_eq!((effects, distinct, shared), (300, 300, 3));
    Ok(())
}

#[tokio::test]
async fn a_runner_that_stops_ends_what_it_has_begun() -> anyhow::Result<()> {
    let (_test, db) = store().await?;
    enqueue(&db, &[job("a"), job("b")]).await?;
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell, wait) = (Arc::clone(&begun), Arc::clone(&go_on));
    let handler = Handler(move |_: &Job| {
        let (tell, wait) = (Arc::clone(&tell), Arc::clone(&wait));
        async move {
            tell.notify_one();
            wait.notified().await;
            Ok(Done::Finished)
        }
    });
    let runner = Running::start(
        &db,
        handler,
        JobOptions {
            concurrency: 1,
            ..options()
        },
    );
    tokio::time::timeout(PATIENCE, begun.notified()).await?;
    runner.shutdown.cancel();
    go_on.notify_one();
    runner.stop().await?;
    let mut states: Vec<_> = states(&db).await?.into_iter().map(|(_, state)| state).collect();
    states.sort();
    assert_eq!(states, ["done", "waiting"]);
    Ok(())
}

#[tokio::test]
async fn a_job_continues_the_trace_of_its_cause() -> anyhow::Result<()> {
    let spans = waybill_runtime::telemetry::init_for_test();
    let (_test, db) = store().await?;
    let cause = tracing::info_span!("cause");
    let new = cause.in_scope(|| job("a"));
    let traceparent = new.traceparent.clone().expect("the cause is recorded");
    let trace = traceparent.split('-').nth(1).unwrap_or_default();
    enqueue(&db, &[new]).await?;
    let (_count, handler) = counting();
    let runner = Running::start(&db, handler, options());
    all(&db, "done").await;
    runner.stop().await?;

    let trace = TraceId::from_hex(trace)?;
    let finished = spans.get_finished_spans()?;
    let span = finished
        .iter()
        .find(|span| span.span_context.trace_id() == trace && span.name == format!("job {KIND}"))
        .expect("the job's span is in the trace of its cause");
    let field = |name: &str| {
        let found = span.attributes.iter().find(|pair| pair.key.as_str() == name);
        found.map(|pair| pair.value.to_string())
    };
    assert_eq!(field("job.kind").as_deref(), Some(KIND));
    assert_eq!(field("waybill.service").as_deref(), Some(SCHEMA));
    Ok(())
}

#[tokio::test]
async fn old_done_jobs_are_forgotten_others_stay() -> anyhow::Result<()> {
    let (_test, db) = store().await?;
    enqueue(
        &db,
        &[job("old 1"), job("old 2"), job("old 3"), job("new"), job("dead")],
    )
    .await?;
    db.pool()
        .execute(
            "UPDATE jobs SET state = CASE key WHEN 'dead' THEN 'dead' ELSE 'done' END,
                 finished_at = now() - CASE key WHEN 'new' THEN interval '1 day' ELSE interval '31 days' END;
             INSERT INTO job_failures (job_id, claim, reason) SELECT job_id, 1, 'x' FROM jobs",
        )
        .await?;
    assert_eq!(jobs::prune(&db, jobs::KEEP_DONE, 2).await?, 2);
    assert_eq!(jobs::prune(&db, jobs::KEEP_DONE, 2).await?, 1);
    let left = states(&db).await?;
    let left: Vec<_> = left.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(left, ["dead", "new"]);
    Ok(())
}

/// Rows of the jobs table that sessions of the past have read. A session reports that when it ends.
async fn rows_read(admin: &mut sqlx::PgConnection) -> Result<i64, sqlx::Error> {
    eventually("end of all sessions", PATIENCE, async || {
        sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'waybill_store_test'",
        )
        .fetch_one(&mut *admin)
        .await
        .ok()
        .filter(|sessions: &i64| *sessions == 0)
    })
    .await;
    sqlx::query_scalar(
        "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_all_tables
         WHERE schemaname = 'store_test' AND relname = 'jobs'",
    )
    .fetch_one(admin)
    .await
}

/// With a hundred thousand jobs that are done or put off, taking one reads what it takes and little more.
#[tokio::test]
async fn taking_a_job_reads_no_other_jobs() -> anyhow::Result<()> {
    let (test, db) = store().await?;
    db.pool()
        .execute(
            "INSERT INTO jobs (job_id, kind, key, merchant_id, payload, priority, state, due_at, finished_at)
             SELECT gen_random_uuid(), 'test', 'old ' || n, gen_random_uuid(), '{}', n % 3,
                    CASE n % 2 WHEN 0 THEN 'done' ELSE 'waiting' END,
                    now() + interval '1 day', CASE n % 2 WHEN 0 THEN now() END
             FROM generate_series(1, 100000) AS n",
        )
        .await?;
    db.close().await;
    let mut admin = test.admin().await;
    admin.execute("ANALYZE store_test.jobs").await?;
    let before = rows_read(&mut admin).await?;

    let db = Db::connect(&config(&test.url(SCHEMA), 4), SCHEMA).await?;
    let new: Vec<_> = (0..50)
        .map(|n| job(&n.to_string()).priority(Priority::Low))
        .collect();
    enqueue(&db, &new).await?;
    let (count, handler) = counting();
    let runner = Running::start(&db, handler, options());
    eventually("fifty done", PATIENCE, async || {
        (count.load(Ordering::SeqCst) == 50).then_some(())
    })
    .await;
    runner.stop().await?;
    db.close().await;
    // Each of the fifty is written, taken and finished: a handful of reads.
    let read = rows_read(&mut admin).await? - before;
    assert!((50..5000).contains(&read), "{read} rows were read");
    Ok(())
}

/// Nor does it with a table of middle size, once the server has settled on a plan for claims of any number: it once took
/// reading ten thousand rows for cheaper than looking up as many as it believed might be chosen.
#[tokio::test]
async fn a_claim_is_no_reading_of_the_whole_table() -> anyhow::Result<()> {
    let (test, db) = store().await?;
    db.pool()
        .execute(
            "INSERT INTO jobs (job_id, kind, key, merchant_id, payload, priority, state, due_at, finished_at)
             SELECT gen_random_uuid(), 'test', n::text, gen_random_uuid(), '{}', 1, CASE WHEN n > 100 THEN 'done' ELSE 'waiting' END,
                    now(), CASE WHEN n > 100 THEN now() END
             FROM generate_series(1, 10000) AS n",
        )
        .await?;
    test.admin().await.execute("ANALYZE store_test.jobs").await?;
    let mut tx = db.begin().await?;
    // From the sixth call on a function's statements have one plan for all arguments.
    for claim in 1..=10 {
        let taken = sqlx::query("SELECT FROM take_jobs($1, $2, 1, interval '1 minute', 3, 'runner')")
            .bind(KIND)
            .bind(5_i64)
            .fetch_all(tx.conn())
            .await?;
        assert_eq!(taken.len(), 5, "claim {claim}");
    }
    let read: i64 = sqlx::query_scalar(
        "SELECT seq_tup_read FROM pg_stat_xact_user_tables WHERE relid = 'jobs'::regclass",
    )
    .fetch_one(tx.conn())
    .await?;
    assert_eq!(read, 0, "rows were read from end to end");
    tx.rollback().await?;
    Ok(())
}
