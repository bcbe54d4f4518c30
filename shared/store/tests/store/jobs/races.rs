//! Fifty workers, killed at every step: each effect once, no lease taken over before its end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sqlx::Executor;
use tokio::sync::mpsc;
use waybill_store::jobs::{Done, Job, JobError, JobHandler, JobOptions};
use waybill_store::{Db, StoreError, Tx, UseCase};
use waybill_testkit::eventually;

use super::{KIND, PATIENCE, Running, all, enqueue, job, options};
use crate::store;

const WORKERS: usize = 50;
const JOBS: u32 = 120;
const LEASE: Duration = Duration::from_millis(1500);

/// Where a worker may die.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
    Taken,
    IntentCommitted,
    Called,
    EffectWritten,
    Committed,
}

const STEPS: [Step; 5] = [
    Step::Taken,
    Step::IntentCommitted,
    Step::Called,
    Step::EffectWritten,
    Step::Committed,
];

/// Which of its steps each job's first worker does not survive.
#[derive(Default)]
struct Fate {
    died: Mutex<HashMap<String, Step>>,
}

impl Fate {
    /// Whether the worker at this step is to die: the first to get there with the job, if it is the job's step.
    fn strikes(&self, job: &Job, step: Step) -> bool {
        let number: usize = job.key.parse().unwrap_or_default();
        // Two of three jobs lose a worker, evenly over the steps.
        if number.is_multiple_of(3) || STEPS[number % STEPS.len()] != step {
            return false;
        }
        let mut died = self.died.lock().expect("no panic while held");
        died.insert(job.key.clone(), step).is_none()
    }
}

struct Worker {
    db: Db,
    number: usize,
    fate: Arc<Fate>,
    dying: mpsc::UnboundedSender<usize>,
}

struct Pay<'a>(&'a Worker, &'a Job);

impl UseCase for Pay<'_> {
    type Output = ();
    type Error = StoreError;

    async fn run(&self, tx: &mut Tx) -> Result<(), StoreError> {
        let Pay(worker, job) = self;
        sqlx::query("INSERT INTO effects VALUES ($1)")
            .bind(&job.key)
            .execute(tx.conn())
            .await?;
        worker.step(job, Step::EffectWritten).await;
        job.complete(tx).await
    }
}

struct Intend<'a>(&'a Job);

impl UseCase for Intend<'_> {
    type Output = ();
    type Error = StoreError;

    async fn run(&self, tx: &mut Tx) -> Result<(), StoreError> {
        self.0.still_allowed(tx).await
    }
}

impl Worker {
    /// Dies here if it is to: the supervisor kills it, and nothing of it goes on.
    async fn step(&self, job: &Job, step: Step) {
        if self.fate.strikes(job, step) {
            self.dying.send(self.number).ok();
            std::future::pending().await
        }
    }
}

impl JobHandler for Worker {
    const KIND: &'static str = KIND;

    async fn run(&self, job: &Job) -> Result<Done, JobError> {
        self.step(job, Step::Taken).await;
        self.db.run(&Intend(job)).await?;
        self.step(job, Step::IntentCommitted).await;
        // Here a provider is called, under a key of its own.
        self.step(job, Step::Called).await;
        self.db.run(&Pay(self, job)).await?;
        self.step(job, Step::Committed).await;
        Ok(Done::Finished)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_workers_that_die_at_every_step() -> anyhow::Result<()> {
    let (_test, db) = store().await?;
    // No unique key: a second effect would stay.
    db.pool().execute("CREATE TABLE effects (key text)").await?;
    let new: Vec<_> = (0..JOBS).map(|n| job(&n.to_string())).collect();
    enqueue(&db, &new).await?;
    let (dying, mut dead) = mpsc::unbounded_channel();
    let fate = Arc::new(Fate::default());
    let start = |number| {
        let worker = Worker {
            db: db.clone(),
            number,
            fate: Arc::clone(&fate),
            dying: dying.clone(),
        };
        let alone = JobOptions {
            concurrency: 1,
            lease: LEASE,
            poll: Duration::from_millis(100),
            ..options()
        };
        Running::start(&db, worker, alone)
    };
    let mut workers: Vec<Running> = (0..WORKERS).map(start).collect();
    let done = async {
        loop {
            tokio::select! {
                number = dead.recv() => if let Some(number) = number {
                    // Killed, as a process is, and another one starts in its place.
                    workers[number] = start(number);
                },
                () = all(&db, "done") => break,
            }
        }
    };
    tokio::time::timeout(PATIENCE * 3, done).await?;
    let died = fate.died.lock().expect("no panic while held").clone();
    for step in STEPS {
        assert!(
            died.values().filter(|at| **at == step).count() > 5,
            "{step:?}: {died:?}"
        );
    }
    for worker in workers {
        worker.stop().await?;
    }
    let effects: Vec<(String, i64)> = sqlx::query_as("SELECT key, count(*) FROM effects GROUP BY key")
        .fetch_all(db.pool())
        .await?;
    assert_eq!(effects.len() as u32, JOBS);
    assert!(effects.iter().all(|(_, times)| *times == 1), "{effects:?}");
    let (lapsed, early): (i64, i64) = sqlx::query_as(
        "SELECT count(*), count(*) FILTER (WHERE failed_at < began_at + make_interval(secs => $1)) FROM job_failures
         WHERE reason = 'the lease expired'",
    )
    .bind(LEASE.as_secs_f64())
    .fetch_one(db.pool())
    .await?;
    // Whoever died after its commit left nothing to take over.
    let left_behind = died.values().filter(|at| **at != Step::Committed).count();
    assert!(
        lapsed >= left_behind as i64,
        "{lapsed} taken over, {left_behind} left behind"
    );
    assert_eq!(early, 0, "a lease was taken over before its end");
    eventually("no locks left", PATIENCE, async || {
        sqlx::query_scalar::<_, i64>(
            "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
             WHERE d.datname = current_database() AND locktype = 'advisory'",
        )
        .fetch_one(db.pool())
        .await
        .ok()
        .filter(|locks| *locks == 0)
    })
    .await;
    Ok(())
}
