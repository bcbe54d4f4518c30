//! `waybill bench idle`: the CPU that a whole stack takes while nothing happens.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Progress;
use super::args::IdleArgs;
use super::ground::connect_nats;
use super::machine::Machine;
use super::process::CpuTimes;
use super::report::{Goal, Report};
use crate::stack::{Options, Stack};

/// Percent of one core that all services together may take.
const MOST_PERCENT: f64 = 3.0;

/// Starts a stack as `waybill up` does, lets it come to rest and measures.
pub async fn run(args: &IdleArgs, progress: &Progress) -> anyhow::Result<Report> {
    progress.say("idle: starting a stack");
    let stack = Stack::start(Options::default()).await?;
    let pool = sqlx::PgPool::connect_lazy(stack.embedded().postgres().admin_url())?;
    let nats = connect_nats(stack.embedded().nats().url()).await?;
    let machine = Machine::look(&pool, &nats).await?;
    pool.close().await;
    drop(nats);

    progress.say("idle: coming to rest");
    sleep(Duration::from_secs(args.settle_seconds.into())).await;
    progress.say(format!("idle: {} s of nothing", args.seconds));
    let (before, began) = (CpuTimes::now()?, Instant::now());
    sleep(Duration::from_secs(args.seconds.into())).await;
    let (used, passed) = (CpuTimes::now()?.since(&before), began.elapsed());
    stack.stop().await?;

    let percent = |time: Duration| 100.0 * time.as_secs_f64() / passed.as_secs_f64();
    let mut report = Report::default();
    report.figure_with_goal("idle_cpu_percent", percent(used.own), Goal::AtMost(MOST_PERCENT));
    report.figure("idle_cpu_postgres_percent", percent(used.postgres));
    report.figure("idle_cpu_nats_percent", percent(used.nats));
    report.machine(machine);
    Ok(report)
}
