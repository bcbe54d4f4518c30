//! `waybill verify`: a load of orders and refunds over real processes, while everything that can break is broken; then a
//! proof that nothing was lost and nothing done twice.
//!
//! - [`world`] is what the run stands on: processes ([`process`]), Postgres, NATS, mail, payments, a proxy on each wire;
//! - [`faults`] draws what goes wrong and when, [`inject`] does it;
//! - [`crate::load`] is the callers, over the public gRPC API, and what they were told;
//! - [`check`] compares schemas, mails and ledger when everything stands still;
//! - [`rewind`] puts Postgres back to an older copy and recovers, where that is asked for;
//! - [`report`] says what was seen.

pub mod check;
pub mod faults;
pub mod inject;
pub mod process;
pub mod report;
pub mod rewind;
pub mod world;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::check::{Check, Evidence, Unrest};
use self::faults::Planned;
use self::inject::Faults;
use self::report::{Progress, Report, say};
use self::rewind::Lost;
use self::world::World;
use crate::args::VerifyArgs;
use crate::load::{Answers, Book, Load, Pace};

/// Between two lines of progress.
const TICK: Duration = Duration::from_secs(5);

/// Runs it; an error means that something could not be done or does not hold.
pub async fn run(args: VerifyArgs, json: bool) -> anyhow::Result<()> {
    let seed = args.seed.unwrap_or_else(|| rand::random_range(1..1_000_000));
    let (folder, temporary) = folder(args.data.as_deref(), seed)?;
    let ended = tokio::select! {
        ended = Box::pin(verify(&args, seed, &folder, json)) => ended,
        // Everything that runs is dropped with the other branch, and ends with it.
        () = waybill_runtime::process::shutdown_signal() => Err(anyhow::anyhow!("interrupted")),
    };
    match ended {
        Ok(()) => {
            if temporary {
                std::fs::remove_dir_all(&folder)
                    .with_context(|| format!("cannot remove {}", folder.display()))?;
            }
            Ok(())
        }
        Err(error) => Err(error.context(report::keep(&folder, seed))),
    }
}

/// The folder of the run, and whether it goes when all is well.
fn folder(given: Option<&Path>, seed: u64) -> anyhow::Result<(PathBuf, bool)> {
    let folder = given.map_or_else(
        || std::env::temp_dir().join(format!("waybill-verify-{seed}-{}", std::process::id())),
        Path::to_path_buf,
    );
    if folder.join("data").exists() {
        bail!(
            "{} holds the data of another run; name an empty folder",
            folder.display()
        );
    }
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    // Processes of their own are told absolute paths.
    let folder = folder
        .canonicalize()
        .with_context(|| format!("cannot resolve {}", folder.display()))?;
    Ok((folder, given.is_none()))
}

async fn verify(args: &VerifyArgs, seed: u64, folder: &Path, json: bool) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut verification = Verification::start(args.clone(), seed, folder, &program, json).await?;
    let outcome = judge(&mut verification).await;
    outcome.and(verification.stop().await)
}

async fn judge(verification: &mut Verification) -> anyhow::Result<()> {
    let mut report = verification.play().await?;
    if report.holds && verification.args.lose_commits {
        let check = Check::new("lost commits were recovered", verification.lose_commits().await);
        verification.tell(&check);
        report.holds = check.holds;
        report.checks.push(check);
    }
    if report.holds {
        let evidence = verification.evidence().await?;
        report
            .checks
            .extend(check::run(&evidence, |check| verification.tell(check)).await);
        report.holds = report.checks.iter().all(|check| check.holds);
    }
    report.print(&verification.faults, verification.json)?;
    if !report.holds {
        bail!("a check does not hold, see above");
    }
    Ok(())
}

/// A run: a world, its load and what breaks it.
pub struct Verification {
    args: VerifyArgs,
    seed: u64,
    json: bool,
    /// What it stands on.
    pub world: Arc<World>,
    /// What was broken.
    pub faults: Faults,
    /// What callers were told, load by load.
    books: Vec<Book>,
    answers: Answers,
    lost: Lost,
}

impl Verification {
    /// Starts everything. `program` is one that knows `serve`; without words about it where `quiet`.
    pub async fn start(
        args: VerifyArgs,
        seed: u64,
        folder: &Path,
        program: &Path,
        quiet: bool,
    ) -> anyhow::Result<Self> {
        if process::faketime().is_none() {
            say(
                quiet,
                "libfaketime is not installed (Debian: apt install libfaketime): clocks will not jump",
            );
        }
        let world = Arc::new(World::start(folder, program).await?);
        say(
            quiet,
            format!(
                "{} processes serve, in {}",
                world.processes.len(),
                folder.display()
            ),
        );
        Ok(Self {
            args,
            seed,
            json: quiet,
            world,
            faults: Faults::default(),
            books: Vec::new(),
            answers: Answers::default(),
            lost: Lost::default(),
        })
    }

    /// Puts load on everything, breaks it, mends it, and waits until it has settled. The report has the first two checks.
    pub async fn play(&mut self) -> anyhow::Result<Report> {
        let within = Duration::from_secs_f64(self.args.minutes * 60.0);
        let every = Duration::from_secs_f64(self.args.every);
        let schedule = faults::schedule(self.seed, within, every, &self.args.faults);
        let planned = schedule.len();
        let text = format!(
            "seed {}: {planned} faults in {:.0} s, {} orders a second",
            self.seed,
            within.as_secs_f64(),
            self.args.rate
        );
        say(self.json, text);
        let pace = Pace {
            seed: self.seed,
            first: 0,
            rate: self.args.rate,
            in_flight: self.args.in_flight as usize,
            impatience: true,
        };
        let mut load = Load::start(Arc::clone(&self.world), pace, self.answers.clone()).await?;
        let start = Instant::now();
        self.break_things(schedule, within, start, &load).await?;
        load.stop_placing();
        self.world.heal().await?;
        say(self.json, "No more faults. Everything has to settle …");
        let healed = Instant::now();
        let settled = self.settle(start, &mut load).await;
        let settled_after = settled.is_ok().then(|| healed.elapsed().as_secs_f64());
        let checks = vec![
            Check::new(
                "the planned faults were injected",
                inject::ensure_enough(&self.faults, planned),
            ),
            Check::new("everything settled", settled),
        ];
        for check in &checks {
            self.tell(check);
        }
        let report = Report {
            seed: self.seed,
            seconds: within.as_secs_f64(),
            settled_after,
            orders: load.book.placed(),
            ended: load.book.ended_count(),
            faults: self.faults.tallies(),
            faults_injected: self.faults.injected(),
            answers: self.answers.counted(),
            ended_by_themselves: self.world.ended_by_themselves(),
            holds: checks.iter().all(|check| check.holds),
            checks,
        };
        self.books.push(load.book.clone());
        Ok(report)
    }

    async fn break_things(
        &self,
        schedule: Vec<Planned>,
        within: Duration,
        start: Instant,
        load: &Load,
    ) -> anyhow::Result<()> {
        let breaking = CancellationToken::new();
        let broken = tokio::spawn(inject::run(
            Arc::clone(&self.world),
            schedule,
            self.faults.clone(),
            breaking.clone(),
        ));
        // Should this be dropped halfway, nothing more is broken.
        let ended = breaking.drop_guard();
        while start.elapsed() < within && !load.is_over() {
            sleep(TICK.min(within.saturating_sub(start.elapsed()))).await;
            self.progress(start, load).await;
        }
        drop(ended);
        broken.await.context("injecting faults broke")
    }

    /// What is to be compared, now that everything stands still.
    pub async fn evidence(&self) -> anyhow::Result<Evidence> {
        Evidence::gather(&self.world, &self.books, &self.lost).await
    }

    /// Stops everything, when the last caller and the last fault have let go of it.
    pub async fn stop(self) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut world = self.world;
        loop {
            world = match Arc::try_unwrap(world) {
                Ok(world) => return world.stop().await,
                Err(shared) if Instant::now() < deadline => shared,
                Err(_) => bail!("something still uses what was started"),
            };
            sleep(Duration::from_millis(10)).await;
        }
    }

    fn tell(&self, check: &Check) {
        let word = if check.holds { "holds" } else { "FAILS" };
        say(self.json, format!("  {word}  {}: {}", check.name, check.detail));
    }

    async fn progress(&self, start: Instant, load: &Load) -> Option<Unrest> {
        // Postgres may be away, and comes back.
        let look = async {
            let db = check::admin(&self.world.embedded).await?;
            Unrest::look(&db).await
        };
        let unrest = timeout(Duration::from_secs(5), look)
            .await
            .ok()
            .and_then(Result::ok);
        Progress {
            seconds: start.elapsed().as_secs_f64(),
            placed: load.book.placed(),
            ended: load.book.ended_count(),
            faults: self.faults.injected(),
            again: self.answers.total(),
            unrest,
        }
        .print(self.json);
        unrest
    }

    /// Waits until every order has reached its end and nothing is to be done any more.
    async fn settle(&self, start: Instant, load: &mut Load) -> anyhow::Result<String> {
        let began = Instant::now();
        let deadline = began + Duration::from_secs(self.args.settle);
        let mut over = false;
        loop {
            if !over && load.is_over() {
                load.ended().await?;
                over = true;
            }
            let unrest = self.progress(start, load).await;
            if over && unrest.is_some_and(|unrest| unrest.is_calm()) {
                return Ok(format!("after {:.0} s", began.elapsed().as_secs_f64()));
            }
            if Instant::now() >= deadline {
                bail!(
                    "not within {} s: {} of {} orders ended, {unrest:?}",
                    self.args.settle,
                    load.book.ended_count(),
                    load.book.started()
                );
            }
            sleep(Duration::from_secs(2)).await;
        }
    }
}
