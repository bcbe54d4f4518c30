//! Destinations: limits that hold over runners and kinds, and a circuit breaker that all share.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Semaphore;
use waybill_store::Db;
use waybill_store::jobs::{self, Done, Job, JobError, JobHandler, JobOptions, Limits, NewJob, Priority};
use waybill_testkit::eventually;

use super::{Handler, KIND, PATIENCE, Running, all, enqueue, job, options};
use crate::store;

const THERE: &str = "smtp:there";
const ELSEWHERE: &str = "smtp:elsewhere";

async fn declare(db: &Db, limits: Limits) -> anyhow::Result<()> {
    Ok(jobs::declare(db, &[(THERE.to_owned(), limits)]).await?)
}

fn many(kind: &'static str, number: u32, destination: &str) -> Vec<NewJob> {
    (0..number)
        .map(|n| {
            let mut new = job(&format!("{destination} {n}")).towards(destination);
            new.kind = kind;
            new
        })
        .collect()
}

/// Counts who is inside at once; lets one out for each permit.
struct Room {
    inside: AtomicU32,
    most: AtomicU32,
    out: Semaphore,
}

struct Guest<const OTHER: bool>(Arc<Room>);

impl<const OTHER: bool> JobHandler for Guest<OTHER> {
    const KIND: &'static str = if OTHER { "other" } else { KIND };

    async fn run(&self, _: &Job) -> Result<Done, JobError> {
        let inside = self.0.inside.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.most.fetch_max(inside, Ordering::SeqCst);
        let permit = self.0.out.acquire().await;
        permit
            .map_err(|closed| JobError::dead(closed.to_string()))?
            .forget();
        self.0.inside.fetch_sub(1, Ordering::SeqCst);
        Ok(Done::Finished)
    }
}

#[tokio::test]
async fn as_many_at_once_as_a_destination_bears_over_runners_and_kinds() -> anyhow::Result<()> {
    let (_test, db) = store().await?;
    let limits = Limits {
        at_once: Some(3),
        ..Limits::default()
    };
    declare(&db, limits).await?;
    enqueue(&db, &many(KIND, 20, THERE)).await?;
    enqueue(&db, &many("other", 20, THERE)).await?;
    let room = Arc::new(Room {
        inside: AtomicU32::new(0),
        most: AtomicU32::new(0),
        out: Semaphore::new(0),
    });
    let mut runners = Vec::new();
    for _ in 0..3 {
        runners.push(Running::start(&db, Guest::<false>(Arc::clone(&room)), options()));
        runners.push(Running::start(&db, Guest::<true>(Arc::clone(&room)), options()));
    }
    eventually("a full house", PATIENCE, async || {
        (room.inside.load(Ordering::SeqCst) == 3).then_some(())
    })
    .await;
    let seen = jobs::destinations(&db).await?;
    assert_eq!((seen[0].running, seen[0].max_running), (3, Some(3)), "{seen:?}");
    room.out.add_permits(40);
    all(&db, "done").await;
    for runner in runners {
        runner.stop().await?;
    }
    assert_eq!(room.most.load(Ordering::SeqCst), 3);
    Ok(())
}

#[tokio::test]
async fn no_faster_than_a_destination_bears() -> anyhow::Result<()> {
    let (_test, db) = store().await?;
    let limits = Limits {
        per_second: Some(20.0),
        burst: 4,
        ..Limits::default()
    };
    declare(&db, limits).await?;
    enqueue(&db, &many(KIND, 30, THERE)).await?;
    let runners: Vec<_> = (0..3)
        .map(|_| Running::start(&db, Handler(|_: &Job| async { Ok(Done::Finished) }), options()))
        .collect();
    all(&db, "done").await;
    for runner in runners {
        runner.stop().await?;
    }
    let micros: Vec<i64> =
        sqlx::query_scalar("SELECT (extract(epoch FROM taken_at) * 1000000)::bigint FROM jobs ORDER BY 1")
            .fetch_all(db.pool())
            .await?;
    for (from, begin) in micros.iter().enumerate() {
        for (to, end) in micros.iter().enumerate().skip(from) {
            let most = 4 + (end - begin) / 50_000;
            assert!(
                (to - from + 1) as i64 <= most,
                "jobs {from} to {to} in {} us",
                end - begin
            );
        }
    }
    Ok(())
}

/// A destination that can be away.
#[derive(Default)]
struct Server {
    away: AtomicBool,
    calls: Mutex<BTreeMap<String, u32>>,
}

struct Client(Arc<Server>);

impl JobHandler for Client {
    const KIND: &'static str = KIND;

    async fn run(&self, job: &Job) -> Result<Done, JobError> {
        *self
            .0
            .calls
            .lock()
            .expect("no panic while held")
            .entry(job.key.clone())
            .or_default() += 1;
        if job.destination == THERE && self.0.away.load(Ordering::SeqCst) {
            job.unanswered();
            return Err(JobError::retry("no answer"));
        }
        job.answered();
        Ok(Done::Finished)
    }
}

impl Server {
    fn calls_there(&self) -> u32 {
        let calls = self.calls.lock().expect("no panic while held");
        calls
            .iter()
            .filter(|(key, _)| key.starts_with(THERE))
            .map(|(_, calls)| calls)
            .sum()
    }
}

async fn stand(db: &Db) -> anyhow::Result<String> {
    let seen = jobs::destinations(db).await?;
    let there = seen.into_iter().find(|seen| seen.destination == THERE);
    Ok(there.map(|there| there.stand).unwrap_or_default())
}

async fn pause_is_over(db: &Db) -> anyhow::Result<()> {
    sqlx::query(
        "UPDATE job_destination SET open_until = now() - interval '1 ms' WHERE open_until IS NOT NULL",
    )
    .execute(db.pool())
    .await?;
    Ok(())
}

#[tokio::test]
async fn a_destination_that_fails_is_left_alone_and_tried_by_one() -> anyhow::Result<()> {
    let (_test, db) = store().await?;
    let limits = Limits {
        failures: 3,
        pause: Duration::from_secs(3000),
        longest_pause: Duration::from_secs(6000),
        ..Limits::default()
    };
    declare(&db, limits).await?;
    let server = Arc::new(Server::default());
    server.away.store(true, Ordering::SeqCst);
    // With one slot the failures come one after the other.
    let one_slot = JobOptions {
        concurrency: 1,
        max_attempts: 100,
        ..options()
    };
    enqueue(&db, &many(KIND, 10, THERE)).await?;
    let runner = Running::start(&db, Client(Arc::clone(&server)), one_slot);
    let opened = || async { (stand(&db).await.ok()? == "open").then_some(()) };
    eventually("open breaker", PATIENCE, opened).await;
    assert_eq!(server.calls_there(), 3);

    // Others are served meanwhile; the jobs that wait are not tried and lose nothing.
    enqueue(&db, &many(KIND, 10, ELSEWHERE)).await?;
    eventually("jobs to elsewhere", PATIENCE, async || {
        let done: i64 =
            sqlx::query_scalar("SELECT count(*) FROM jobs WHERE destination = $1 AND state = 'done'")
                .bind(ELSEWHERE)
                .fetch_one(db.pool())
                .await
                .ok()?;
        (done == 10).then_some(())
    })
    .await;
    let failures: i64 = sqlx::query_scalar("SELECT sum(failures) FROM jobs")
        .fetch_one(db.pool())
        .await?;
    assert_eq!((server.calls_there(), failures), (3, 3));

    // One tries, in vain.
    pause_is_over(&db).await?;
    eventually("a try in vain", PATIENCE, opened).await;
    runner.stop().await?;
    assert_eq!(server.calls_there(), 4);

    // Many slots, and still one tries; its answer opens the way for all.
    server.away.store(false, Ordering::SeqCst);
    pause_is_over(&db).await?;
    assert_eq!(stand(&db).await?, "half_open");
    let runner = Running::start(&db, Client(Arc::clone(&server)), options());
    all(&db, "done").await;
    runner.stop().await?;
    assert_eq!(stand(&db).await?, "closed");
    Ok(())
}

#[tokio::test]
async fn half_open_lets_one_in_at_a_time_and_a_person_may_reset() -> anyhow::Result<()> {
    let (_test, db) = store().await?;
    declare(&db, Limits::default()).await?;
    sqlx::query(
        "UPDATE job_destination SET open_until = now() - interval '1 s', opens = 1 WHERE destination = $1",
    )
    .bind(THERE)
    .execute(db.pool())
    .await?;
    enqueue(&db, &many(KIND, 10, THERE)).await?;
    let room = Arc::new(Room {
        inside: AtomicU32::new(0),
        most: AtomicU32::new(0),
        out: Semaphore::new(0),
    });
    let runners = [
        Running::start(&db, Guest::<false>(Arc::clone(&room)), options()),
        Running::start(&db, Guest::<false>(Arc::clone(&room)), options()),
    ];
    // It never says that it was answered: the destination stays half open, one after the other tries.
    room.out.add_permits(5);
    eventually("five done", PATIENCE, async || {
        let done: i64 = sqlx::query_scalar("SELECT count(*) FROM jobs WHERE state = 'done'")
            .fetch_one(db.pool())
            .await
            .ok()?;
        (done == 5).then_some(())
    })
    .await;
    assert_eq!(room.most.load(Ordering::SeqCst), 1);
    let mut conn = db.pool().acquire().await?;
    assert!(jobs::reset(&mut conn, THERE).await?);
    assert!(!jobs::reset(&mut conn, "nobody").await?);
    drop(conn);
    eventually("all five at once", PATIENCE, async || {
        (room.inside.load(Ordering::SeqCst) == 5).then_some(())
    })
    .await;
    room.out.add_permits(5);
    all(&db, "done").await;
    for runner in runners {
        runner.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_urgent_go_first_and_nothing_waits_for_ever() -> anyhow::Result<()> {
    let (_test, db) = store().await?;
    let now: chrono::DateTime<chrono::Utc> = sqlx::query_scalar("SELECT now()").fetch_one(db.pool()).await?;
    let ago = |seconds| now - chrono::TimeDelta::seconds(seconds);
    let mut new: Vec<NewJob> = (0..40)
        .map(|n| {
            job(&format!("urgent {n}"))
                .priority(Priority::High)
                .not_before(ago(10))
        })
        .collect();
    new.push(
        job("low, oldest")
            .priority(Priority::Low)
            .not_before(ago(60))
            .towards(ELSEWHERE),
    );
    enqueue(&db, &new).await?;
    let order = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&order);
    let handler = Handler(move |job: &Job| {
        seen.lock().expect("no panic while held").push(job.key.clone());
        async { Ok(Done::Finished) }
    });
    let one_slot = JobOptions {
        concurrency: 1,
        ..options()
    };
    let runner = Running::start(&db, handler, one_slot);
    all(&db, "done").await;
    runner.stop().await?;
    let order = order.lock().expect("no panic while held");
    assert_eq!(order.iter().position(|key| key == "low, oldest"), Some(7));
    Ok(())
}
