//! `waybill bench backbone`: a producer and a consumer, wired as services are, under load.
//!
//! - throughput: as many events as the backbone takes, in turns with the floor of its parts;
//! - idle latency: one event at a time, from its commit to the commit of its effect;
//! - loaded latency: the same at half of the throughput found;
//! - memory: a steady load for minutes, with `--minutes`.
//!
//! Every phase ends with a count: each event has taken effect exactly once, or the benchmark fails.

mod counter;
mod journal;
mod load;
mod meters;
mod pair;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use self::journal::Journal;
use self::load::Load;
use self::meters::Meters;
use self::pair::Pair;
use super::Progress;
use super::args::BackboneArgs;
use super::floor::jetstream::BareStream;
use super::floor::postgres::BareLog;
use super::floor::{Parts, Shape};
use super::ground::Ground;
use super::process::{CpuTimes, resident_mib};
use super::report::{Goal, Report, median};

/// The part of the floor that the backbone is to reach.
const OF_FLOOR: f64 = 0.6;

/// Milliseconds from commit to effect when idle, half of the time.
const IDLE_MS: f64 = 5.0;

/// The growth of memory over the second half of the steady load that counts as flat, in percent.
const FLAT_PERCENT: f64 = 5.0;

/// How often memory is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// `waybill bench backbone`.
pub async fn run(args: &BackboneArgs, progress: &Progress) -> anyhow::Result<Report> {
    progress.say("backbone: starting Postgres, NATS, a producer and a consumer");
    let meters = Meters::install();
    let ground = Ground::start(&pair::SERVICES).await?;
    let machine = ground.machine().await?;
    let shape = Shape::from(&args.shape);
    let log = BareLog::make(ground.bare_pool(args.shape.writers).await?).await?;
    let stream = BareStream::make(&ground.bare_nats().await?).await?;
    let journal = Journal::new();
    let pair = Pair::start(&ground, args, &journal).await?;
    let mut bench = Bench {
        load: Load::new(&pair, shape, Arc::clone(&journal)),
        args,
        progress,
        journal,
        pair,
        report: Report::default(),
    };
    bench.report.machine(machine);

    let throughput = bench.throughput(&log, &stream, &shape, &meters).await?;
    bench.idle_latency().await?;
    bench.loaded_latency(throughput).await?;
    if args.minutes > 0 {
        bench.memory().await?;
    }
    let Bench { pair, report, .. } = bench;
    pair.stop().await?;
    ground.stop().await?;
    Ok(report)
}

struct Bench<'a> {
    args: &'a BackboneArgs,
    progress: &'a Progress,
    journal: Arc<Journal>,
    load: Load,
    pair: Pair,
    report: Report,
}

impl Bench<'_> {
    /// Floor and figure in turns. Returns the events per second.
    async fn throughput(
        &mut self,
        log: &BareLog,
        stream: &BareStream,
        shape: &Shape,
        meters: &Meters,
    ) -> anyhow::Result<f64> {
        let events = self.args.events as usize;
        // The first events meet empty caches, statements that are not prepared, connections that are not open.
        self.progress.say("backbone: warming up");
        self.load.flat_out(events.div_ceil(4)).await?;
        self.pair.check(&self.load).await?;
        meters.forget()?;

        let (mut floors, mut rates, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        let mut cpu = CpuTimes::default();
        for round in 1..=self.args.rounds {
            let place = format!("backbone: round {round} of {}", self.args.rounds);
            self.progress.say(format!("{place}: the floor"));
            let parts = Parts::measure(log, stream, shape, events).await?;
            self.progress.say(format!("{place}: log, relay, stream, fold"));
            let before = CpuTimes::now()?;
            let rate = self.load.flat_out(events).await?.per_second();
            let used = CpuTimes::now()?.since(&before);
            cpu = CpuTimes {
                own: cpu.own + used.own,
                postgres: cpu.postgres + used.postgres,
                nats: cpu.nats + used.nats,
            };
            self.pair.check(&self.load).await?;
            ratios.push(rate / parts.combined());
            rates.push(rate);
            floors.push(parts);
        }
        let report = &mut self.report;
        let rate = median(&rates);
        report.figure("events_per_second", rate);
        let measured = f64::from(self.args.rounds) * events as f64;
        let per_event = |time: Duration| time.as_secs_f64() * 1e6 / measured;
        report.figure("cpu_us_per_event", per_event(cpu.own));
        report.figure("cpu_postgres_us_per_event", per_event(cpu.postgres));
        report.figure("cpu_nats_us_per_event", per_event(cpu.nats));
        report.figure("append_batch_mean", shape.per_commit as f64);
        for (key, mean) in meters.batches()? {
            report.figure(key, mean);
        }
        Parts::report(&floors, report);
        report.ratio_with_goal("events_to_floor", median(&ratios), Goal::AtLeast(OF_FLOOR));
        Ok(rate)
    }

    async fn idle_latency(&mut self) -> anyhow::Result<()> {
        self.progress.say("backbone: idle latency");
        self.journal.forget();
        self.load.one_by_one(self.args.singles as usize).await?;
        self.pair.check(&self.load).await?;
        let (arrival, effect) = self.journal.latencies();
        let report = &mut self.report;
        report.figure("idle_arrival_p50_ms", arrival.at(0.5));
        report.figure_with_goal("idle_effect_p50_ms", effect.at(0.5), Goal::AtMost(IDLE_MS));
        report.figure("idle_effect_p99_ms", effect.at(0.99));
        Ok(())
    }

    async fn loaded_latency(&mut self, throughput: f64) -> anyhow::Result<()> {
        let rate = throughput / 2.0;
        let time = Duration::from_secs(self.args.loaded_seconds.into());
        self.progress
            .say(format!("backbone: latency at {rate:.0} events per second"));
        self.journal.forget();
        self.load.at_rate(rate, time).await?;
        self.pair.check(&self.load).await?;
        let (_, effect) = self.journal.latencies();
        let report = &mut self.report;
        report.figure("loaded_events_per_second", rate);
        report.figure("loaded_effect_p50_ms", effect.at(0.5));
        report.figure("loaded_effect_p99_ms", effect.at(0.99));
        Ok(())
    }

    /// A steady load; memory is looked at all the while, and what it grew by in the second half is told.
    async fn memory(&mut self) -> anyhow::Result<()> {
        let time = Duration::from_secs(60 * u64::from(self.args.minutes));
        let rate = f64::from(self.args.steady_rate);
        self.progress.say(format!(
            "backbone: {} min at {rate} events per second",
            self.args.minutes
        ));
        let looking = async {
            let mut seen = Vec::new();
            let end = Instant::now() + time;
            while Instant::now() < end {
                seen.push(resident_mib()?);
                sleep(LOOK).await;
            }
            anyhow::Ok(seen)
        };
        let ((), seen) = tokio::try_join!(self.load.at_rate(rate, time), looking)?;
        self.pair.check(&self.load).await?;
        let fifth = |number: usize| {
            let size = seen.len() / 5;
            median(&seen[number * size..(number + 1) * size])
        };
        let (middle, last) = (fifth(2), fifth(4));
        let report = &mut self.report;
        report.figure("memory_minutes", f64::from(self.args.minutes));
        report.figure("memory_events_per_second", rate);
        report.figure("memory_first_fifth_mib", fifth(0));
        report.figure("memory_middle_fifth_mib", middle);
        report.figure("memory_last_fifth_mib", last);
        report.figure("memory_peak_mib", seen.iter().copied().fold(0.0, f64::max));
        let growth = 100.0 * (last - middle) / middle;
        report.figure_with_goal("memory_growth_percent", growth, Goal::AtMost(FLAT_PERCENT));
        Ok(())
    }
}
