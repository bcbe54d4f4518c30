//! `waybill bench lives`: whole lives of orders through the public API, and the CPU that they take.
//!
//! Two measurements on one stack. First a wave of orders passes its stages together, each stage to the last event, job and
//! mail that it causes, so that its cost can be told from the others. Then orders are placed at a steady rate, as in a shop,
//! and live beside each other. What callers do (calls, and asking whether something has happened yet) is part of our
//! process, and so of the figures.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use sqlx::PgPool;
use tokio::time::{Instant, sleep};

use super::Progress;
use super::args::LivesArgs;
use super::ground::connect_nats;
use super::machine::Machine;
use super::process::CpuTimes;
use super::report::{Goal, Report};
use crate::load::{Answers, Load, Pace, Stage, Waves};
use crate::stack::{Options, Stack};
use crate::verify::check::{Unrest, admin};

/// Milliseconds of CPU that a life may take: a million lives an hour on two cores.
const MOST_CPU_MS: f64 = 7.2;
/// How often it is looked whether everything has come to rest.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long everything may take to come to rest.
const PATIENCE: Duration = Duration::from_secs(300);

/// Starts a stack and measures both.
pub async fn run(args: &LivesArgs, progress: &Progress) -> anyhow::Result<Report> {
    progress.say("lives: starting a stack");
    // Follow-ups are sent at once: a life that waits days for its last mail does not end here.
    let options = Options {
        demo: true,
        ..Options::default()
    };
    let stack = Arc::new(Stack::start(options).await?);
    let measured = measure(args, &stack, progress).await;
    let stopped = match Arc::try_unwrap(stack) {
        Ok(stack) => stack.stop().await,
        Err(_) => Err(anyhow::anyhow!("something still uses the stack")),
    };
    let report = measured?;
    stopped?;
    Ok(report)
}

async fn measure(args: &LivesArgs, stack: &Arc<Stack>, progress: &Progress) -> anyhow::Result<Report> {
    let db = admin(stack.embedded()).await?;
    let nats = connect_nats(stack.embedded().nats().url()).await?;
    let mut report = Report::default();
    report.machine(Machine::look(&db, &nats).await?);
    drop(nats);
    let pace = Pace {
        seed: args.seed,
        first: 0,
        rate: f64::from(args.rate),
        in_flight: args.in_flight as usize,
        impatience: false,
    };
    stages(args.wave, pace, stack, &db, progress, &mut report).await?;
    let pace = Pace {
        first: args.wave,
        ..pace
    };
    steady(args, pace, stack, &db, progress, &mut report).await?;
    db.close().await;
    Ok(report)
}

/// One wave, stage by stage.
async fn stages(
    orders: u32,
    pace: Pace,
    stack: &Arc<Stack>,
    db: &PgPool,
    progress: &Progress,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut waves = Waves::open(Arc::clone(stack), pace, orders).await?;
    calm(db).await?;
    for stage in Stage::ALL {
        let name = stage.name();
        progress.say(format!("lives: {orders} orders: {name}"));
        let before = CpuTimes::now()?;
        waves.pass(stage).await?;
        calm(db).await?;
        let used = CpuTimes::now()?.since(&before);
        report.figure(format!("stage_{name}_cpu_ms"), per_life(whole(used), orders));
        report.figure(
            format!("stage_{name}_cpu_postgres_ms"),
            per_life(used.postgres, orders),
        );
    }
    waves.end().await?;
    Ok(())
}

/// Orders at a steady rate.
async fn steady(
    args: &LivesArgs,
    pace: Pace,
    stack: &Arc<Stack>,
    db: &PgPool,
    progress: &Progress,
    report: &mut Report,
) -> anyhow::Result<()> {
    progress.say(format!("lives: {} orders a second", args.rate));
    let (before, began) = (CpuTimes::now()?, Instant::now());
    let mut load = Load::start(Arc::clone(stack), pace, Answers::default()).await?;
    while began.elapsed() < Duration::from_secs(args.seconds.into()) {
        ensure!(!load.is_over(), "the load ended before its time");
        sleep(Duration::from_millis(100)).await;
    }
    load.stop_placing();
    load.ended().await?;
    let passed = began.elapsed();
    calm(db).await?;
    let used = CpuTimes::now()?.since(&before);
    let lives = u32::try_from(load.book.ended_count()).context("more lives than can be counted")?;
    ensure!(
        lives > 0 && u64::from(lives) == load.book.placed(),
        "{} orders were placed, {lives} reached their end",
        load.book.placed()
    );
    report.figure("lives", f64::from(lives));
    report.figure("lives_per_second", f64::from(lives) / passed.as_secs_f64());
    report.figure_with_goal(
        "life_cpu_ms",
        per_life(whole(used), lives),
        Goal::AtMost(MOST_CPU_MS),
    );
    report.figure("life_cpu_own_ms", per_life(used.own, lives));
    report.figure("life_cpu_postgres_ms", per_life(used.postgres, lives));
    report.figure("life_cpu_nats_ms", per_life(used.nats, lives));
    Ok(())
}

fn whole(used: CpuTimes) -> Duration {
    used.own + used.postgres + used.nats
}

fn per_life(time: Duration, lives: u32) -> f64 {
    1000.0 * time.as_secs_f64() / f64::from(lives)
}

/// Waits until every event has been taken and every job is done. It looks seldom: it counts whole logs, and what it costs
/// is part of the figures.
async fn calm(db: &PgPool) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let unrest = Unrest::look(db).await?;
        if unrest.is_calm() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!(
                "the stack did not come to rest within {} s: {unrest:?}",
                PATIENCE.as_secs()
            );
        }
        sleep(LOOK_EVERY).await;
    }
}
