//! The SQL of jobs against the pure rules, step by step, on a real Postgres.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, RngSeed, TestRunner};
use sqlx::{Connection as _, Executor as _, PgConnection};
use uuid::Uuid;
use waybill_kernel::id::JobId;
use waybill_runtime::config::Secret;
use waybill_runtime::service::DatabaseConfig;

use super::queue::{self, Wish};
use super::rule::job::{JobState, State, Taking, Verdict};
use super::rule::rate::Rate;
use crate::db::Db;

const SCHEMA: &str = "store_test";
const LEASE: Duration = Duration::from_secs(3600);
const MOST: u32 = 4;

/// A schema and a connection to it. The settings are compiled for the test kit and for us: only the address passes.
async fn schema() -> (waybill_testkit::TestDb, PgConnection) {
    let test = waybill_testkit::database(&[SCHEMA]).await;
    let config = DatabaseConfig {
        url: Secret::from_value(test.url(SCHEMA)),
        max_connections: 2,
        ..DatabaseConfig::default()
    };
    let db = Db::connect(&config, SCHEMA).await.expect("the schema is there");
    crate::migrate::migrate(&db, &[]).await.expect("it migrates");
    let conn = db.dedicated().await.expect("a connection");
    (test, conn)
}

/// The same cases each time: a failure repeats.
fn cases(number: u32) -> TestRunner {
    TestRunner::new(Config {
        cases: number,
        rng_seed: RngSeed::Fixed(7),
        rng_algorithm: RngAlgorithm::ChaCha,
        failure_persistence: None,
        ..Config::default()
    })
}

fn wish(slots: usize) -> Wish<'static> {
    Wish {
        kind: "test",
        slots,
        aged: 0,
        lease: LEASE,
        max_attempts: MOST,
        runner: "model",
    }
}

async fn put(conn: &mut PgConnection, number: i64, destination: &str) {
    sqlx::query(
        "INSERT INTO jobs (job_id, kind, key, merchant_id, payload, priority, due_at, destination)
         SELECT gen_random_uuid(), 'test', n::text, gen_random_uuid(), '{}', 1, now(), $2
         FROM generate_series(1, $1) AS n",
    )
    .bind(number)
    .bind(destination)
    .execute(conn)
    .await
    .expect("jobs are written");
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Take,
    TimePasses,
    Renew(usize),
    Settle(usize, u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => Just(Step::Take),
        2 => Just(Step::TimePasses),
        1 => (0usize..3).prop_map(Step::Renew),
        2 => (0usize..3, 0u8..5).prop_map(|(who, verdict)| Step::Settle(who, verdict)),
    ];
    prop::collection::vec(step, 1..25)
}

fn verdict(number: u8) -> Verdict {
    let after = Duration::from_secs(60);
    match number {
        0 => Verdict::Finished,
        1 => Verdict::Again {
            after,
            went_well: true,
        },
        2 => Verdict::Again {
            after,
            went_well: false,
        },
        3 => Verdict::Failed { retry: Some(after) },
        _ => Verdict::Failed { retry: None },
    }
}

/// Does one step in the database; answers the claim or success as a number.
async fn in_database(conn: &mut PgConnection, id: JobId, claims: i64, step: Step) -> i64 {
    let claim = |who: usize| claims - i64::try_from(who).expect("small");
    let done = match step {
        Step::Take => {
            let taken = queue::take(conn, &wish(1)).await.expect("it answers");
            return taken
                .first()
                .map_or(0, |job| if job.dead { -1 } else { job.claims });
        }
        Step::TimePasses => {
            let late =
                "UPDATE jobs SET due_at = now() - interval '1 s' WHERE state IN ('waiting', 'running')";
            conn.execute(late).await.expect("it answers");
            true
        }
        Step::Renew(who) => {
            let answers = queue::renew(conn, &[id.uuid()], &[claim(who)], LEASE).await;
            answers.expect("it answers").iter().any(|answer| answer.renewed)
        }
        Step::Settle(who, number) => match verdict(number) {
            Verdict::Finished => queue::finish(conn, id, claim(who)).await,
            Verdict::Again { after, went_well } => queue::again(conn, id, claim(who), after, went_well).await,
            Verdict::Failed { retry } => queue::fail(conn, id, claim(who), "it failed", retry).await,
        }
        .expect("it answers"),
    };
    i64::from(done)
}

fn in_model(job: &mut JobState, now: DateTime<Utc>, step: Step) -> i64 {
    let claim = |who: usize| job.claims - i64::try_from(who).expect("small");
    match step {
        Step::Take => match job.take(now, LEASE, MOST) {
            Taking::No => 0,
            Taking::Ours(claim) => claim,
            Taking::Died => -1,
        },
        Step::TimePasses => {
            if matches!(job.state, State::Waiting | State::Running) {
                job.due = now - TimeDelta::seconds(1);
            }
            1
        }
        Step::Renew(who) => i64::from(job.renew(claim(who), now, LEASE)),
        Step::Settle(who, number) => i64::from(job.settle(claim(who), verdict(number), now)),
    }
}

async fn row(conn: &mut PgConnection) -> (Uuid, String, i64, i32) {
    sqlx::query_as("SELECT job_id, state, claims, failures FROM jobs")
        .fetch_one(conn)
        .await
        .expect("one job")
}

#[test]
fn the_statements_are_the_state_machine() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (_test, conn) = runtime.block_on(schema());
    let conn = std::cell::RefCell::new(conn);
    let outcome = cases(60).run(&steps(), |steps| {
        let mut conn = conn.borrow_mut();
        runtime.block_on(async {
            conn.execute("DELETE FROM jobs").await.expect("it answers");
            put(&mut conn, 1, "").await;
            let id = JobId::from(row(&mut conn).await.0);
            let now = DateTime::UNIX_EPOCH;
            let mut model = JobState::new(now);
            for step in steps {
                let claims = model.claims;
                let wanted = in_model(&mut model, now, step);
                let found = in_database(&mut conn, id, claims, step).await;
                prop_assert_eq!(found, wanted, "{:?}", step);
                let (_, state, claims, failures) = row(&mut conn).await;
                let wanted = format!("{:?}", model.state).to_lowercase();
                prop_assert_eq!((state, claims), (wanted, model.claims), "{:?}", step);
                prop_assert_eq!(failures.unsigned_abs(), model.failures, "{:?}", step);
            }
            Ok(())
        })
    });
    outcome.expect("the statements follow the rule");
    runtime.block_on(conn.into_inner().close()).ok();
}

#[test]
fn the_claim_honours_the_rate_as_the_rule_says() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (_test, conn) = runtime.block_on(schema());
    let conn = std::cell::RefCell::new(conn);
    let wishes = prop::collection::vec((1usize..12, 0i64..30_000_000), 1..8);
    let outcome = cases(40).run(&(1u64..5_000_000, 1u32..9, wishes), |(every, burst, wishes)| {
        let mut conn = conn.borrow_mut();
        let rate = Rate {
            every: Duration::from_micros(every),
            burst,
        };
        runtime.block_on(async {
            conn.execute("DELETE FROM jobs; DELETE FROM job_destination WHERE destination = 'there'")
                .await
                .expect("it answers");
            sqlx::query(
                "INSERT INTO job_destination (destination, every_us, burst) VALUES ('there', $1, $2)",
            )
            .bind(i64::try_from(every).expect("small"))
            .bind(i32::try_from(burst).expect("small"))
            .execute(&mut *conn)
            .await
            .expect("it answers");
            put(&mut conn, 100, "there").await;
            for (slots, rest_us) in wishes {
                // One transaction has one now().
                let mut tx = conn.begin().await.expect("it answers");
                let look = "SELECT (extract(epoch FROM now()) * 1000000)::bigint, regular_us
                            FROM job_destination WHERE destination = 'there'";
                let (now, regular): (i64, i64) = sqlx::query_as(look)
                    .fetch_one(&mut *tx)
                    .await
                    .expect("it answers");
                let taken = queue::take(&mut tx, &wish(slots)).await.expect("it answers");
                let (_, after): (i64, i64) = sqlx::query_as(look)
                    .fetch_one(&mut *tx)
                    .await
                    .expect("it answers");
                tx.commit().await.expect("it commits");
                let taken = i64::try_from(taken.len()).expect("small");
                prop_assert_eq!(
                    taken,
                    rate.room(regular, now).min(i64::try_from(slots).expect("small"))
                );
                if taken > 0 {
                    prop_assert_eq!(after, rate.spend(regular, now, taken));
                }
                sqlx::query("UPDATE job_destination SET regular_us = regular_us - $1")
                    .bind(rest_us)
                    .execute(&mut *conn)
                    .await
                    .expect("it answers");
            }
            Ok(())
        })
    });
    outcome.expect("the claim follows the rule");
    runtime.block_on(conn.into_inner().close()).ok();
}
