//! E-23, E-24: processes come and go, by force too; the work is shared out evenly, and nothing is lost or repeated.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;
use waybill_events::{Backbone, FoldOptions, Log, Peers};
use waybill_rpc::client::{self, TokenSource};
use waybill_runtime::tasks::TaskGroup;
use waybill_store::Db;
use waybill_testkit::eventually;

use crate::support::*;

/// Names the process that a test started: what it is to do, as JSON.
const ORDERS: &str = "WAYBILL_TEST_CONSUMER";

/// What a consumer in a process of its own needs.
#[derive(Serialize, Deserialize)]
struct Orders {
    database: String,
    nats: String,
    producer: String,
    token: String,
    worker: String,
}

/// Not a test: a consumer in a process of its own, until its standard input ends or it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by the tests of scaling, as a process"]
async fn consumer_process() -> anyhow::Result<()> {
    let orders = std::env::var(ORDERS).context("this is no test: others start it")?;
    let orders: Orders = serde_json::from_str(&orders)?;
    let db = connect(&orders.database, "analytics").await?;
    let token = TokenSource::fixed(orders.token.into());
    let channel = client::connect(&orders.producer, token, "analytics")?;
    let recorder = Recorder {
        worker: orders.worker,
        ..Recorder::of(&["order"])
    };
    let nats = nats_config(&orders.nats);
    let backbone =
        Backbone::new(&db, &nats, Peers::from([("order".to_owned(), channel)])).fold_with(recorder, quick());
    let tasks = TaskGroup::new(&CancellationToken::new());
    backbone.spawn(&tasks).await?;
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    Ok(tasks.shutdown(LONG).await?)
}

fn start(world: &World, producer: &Node, worker: &str) -> anyhow::Result<Child> {
    let orders = Orders {
        database: world.db.url("analytics"),
        nats: world.nats.url().to_owned(),
        producer: producer.url.clone(),
        token: world.auth.system_token().expose_secret().to_owned(),
        worker: worker.to_owned(),
    };
    Ok(Command::new(std::env::current_exe()?)
        .args(["--ignored", "--exact", "scale::consumer_process", "--nocapture"])
        .env(ORDERS, serde_json::to_string(&orders)?)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()?)
}

/// How many virtual partitions each owner has, the most first.
async fn shares(db: &Db) -> Result<Vec<i64>, String> {
    sqlx::query_scalar(
        "SELECT count(*) FROM fold_lease WHERE expires_at > clock_timestamp() GROUP BY owner ORDER BY 1 DESC",
    )
    .fetch_all(db.pool())
    .await
    .map_err(|error| error.to_string())
}

async fn shared_out(db: &Db, expected: &[i64]) {
    eventually("an even share", LONG, async || {
        let got = shares(db).await?;
        if got == expected {
            Ok(())
        } else {
            Err(format!("{got:?}, not {expected:?}"))
        }
    })
    .await;
}

/// The share of each process in the next so many effects.
async fn work(db: &Db, events: i64) -> anyhow::Result<BTreeMap<String, f64>> {
    let newest = "SELECT coalesce(max(number), 0) FROM effect";
    let from: i64 = sqlx::query_scalar(newest).fetch_one(db.pool()).await?;
    eventually("work done", LONG, async || {
        let to: i64 = sqlx::query_scalar(newest)
            .fetch_one(db.pool())
            .await
            .map_err(|error| error.to_string())?;
        if to - from >= events {
            Ok(())
        } else {
            Err(format!("{} of {events}", to - from))
        }
    })
    .await;
    let done: Vec<(String, i64)> =
        sqlx::query_as("SELECT worker, count(*) FROM effect WHERE number > $1 GROUP BY worker")
            .bind(from)
            .fetch_all(db.pool())
            .await?;
    let all: i64 = done.iter().map(|(_, count)| count).sum();
    Ok(done
        .into_iter()
        .map(|(worker, count)| (worker, count as f64 / all as f64))
        .collect())
}

fn assert_even(work: &BTreeMap<String, f64>, workers: &[&str]) {
    let even = 1.0 / workers.len() as f64;
    let names: Vec<&str> = work.keys().map(String::as_str).collect();
    assert_eq!(names, workers, "{work:?}");
    for (worker, share) in work {
        assert!(
            (share / even - 1.0).abs() <= 0.2,
            "{worker} did {share:.3}, even is {even:.3}: {work:?}"
        );
    }
    eprintln!("shares of work: {work:.3?}");
}

/// Appends events until it is told to stop, at a rate that leaves room for others on a small machine.
fn load(db: Db, stop: Arc<AtomicBool>) -> tokio::task::JoinHandle<anyhow::Result<()>> {
    let log = Log::open(&db);
    tokio::spawn(async move {
        while !stop.load(Ordering::Relaxed) {
            let events: Vec<_> = orders(20).into_iter().map(placed).collect();
            let mut tx = db.begin().await?;
            log.append(&mut tx, &events).await?;
            tx.commit().await?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    })
}

/// 1 -> 3 -> 2 processes under load, the last step by SIGKILL.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_three_two_processes_under_load() -> anyhow::Result<()> {
    let world = World::new(&["order", "analytics"]).await;
    let node = world.producer("order").await?;
    let db = world.connect("analytics").await?;
    sqlx::raw_sql(TABLES).execute(db.pool()).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = load(world.connect("order").await?, Arc::clone(&stop));

    let a = start(&world, &node, "a")?;
    shared_out(&db, &[64]).await;
    assert_even(&work(&db, 500).await?, &["a"]);

    let mut b = start(&world, &node, "b")?;
    let c = start(&world, &node, "c")?;
    shared_out(&db, &[22, 21, 21]).await;
    assert_even(&work(&db, 2000).await?, &["a", "b", "c"]);

    b.kill().await?;
    shared_out(&db, &[32, 32]).await;
    assert_even(&work(&db, 2000).await?, &["a", "c"]);

    stop.store(true, Ordering::Relaxed);
    writer.await??;
    converged(&node, &db).await?;

    // In order: what they have is free at once, and they are members no more.
    for mut child in [a, c] {
        drop(child.stdin.take());
        anyhow::ensure!(child.wait().await?.success(), "it did not end well");
    }
    assert!(
        shares(&db).await.map_err(anyhow::Error::msg)?.is_empty(),
        "a lease was kept"
    );
    let members: i64 =
        sqlx::query_scalar("SELECT count(*) FROM fold_member WHERE expires_at > clock_timestamp()")
            .fetch_one(db.pool())
            .await?;
    assert_eq!(members, 0);
    proven(&node, &db).await
}

/// Another number of lanes, while the old ones still work: each process has its own, and they share evenly.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_are_changed_on_live_data() -> anyhow::Result<()> {
    let world = World::new(&["order", "analytics"]).await;
    let node = world.producer("order").await?;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = load(world.connect("order").await?, Arc::clone(&stop));
    let mut before: Option<Node> = None;
    for lanes in [1, 4, 3, 8] {
        let options = FoldOptions { lanes, ..quick() };
        let recorder = Recorder {
            worker: lanes.to_string(),
            ..Recorder::of(&["order"])
        };
        let consumer = world
            .consumer_with(&[&node], recorder, options, &world.nats_config())
            .await?;
        if let Some(before) = before.take() {
            shared_out(&consumer.db, &[32, 32]).await;
            before.stop().await?;
        }
        shared_out(&consumer.db, &[64]).await;
        let done = work(&consumer.db, 100).await?;
        assert_eq!(done.keys().collect::<Vec<_>>(), [&lanes.to_string()]);
        // Every lane works.
        eventually("lanes at work", LONG, async || {
            let parts = consumer.status.parts();
            let working = (0..lanes)
                .filter(|lane| {
                    parts
                        .get(&format!("fold recorder/{lane}"))
                        .is_some_and(|condition| condition.label() == "working")
                })
                .count();
            if working == usize::from(lanes) {
                Ok(())
            } else {
                Err(format!("{working} of {lanes}: {parts:?}"))
            }
        })
        .await;
        before = Some(consumer);
    }
    stop.store(true, Ordering::Relaxed);
    writer.await??;
    let last = before.context("the last one")?;
    converged(&node, &last.db).await
}

/// Processes come and go in order, quickly, under load: nobody keeps what it should give back, nobody takes too much.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_join_and_leave() -> anyhow::Result<()> {
    let world = World::new(&["order", "analytics"]).await;
    let node = world.producer("order").await?;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = load(world.connect("order").await?, Arc::clone(&stop));
    let mut replicas = Vec::new();
    for expected in [&[64][..], &[32, 32], &[22, 21, 21], &[16, 16, 16, 16]] {
        replicas.push(world.consumer(&[&node], Recorder::of(&["order"])).await?);
        shared_out(&replicas[0].db, expected).await;
    }
    // The oldest first: what it had is taken by those that were there.
    let db = world.connect("analytics").await?;
    for expected in [&[22, 21, 21][..], &[32, 32], &[64]] {
        replicas.remove(0).stop().await?;
        shared_out(&db, expected).await;
    }
    stop.store(true, Ordering::Relaxed);
    writer.await??;
    converged(&node, &db).await
}
