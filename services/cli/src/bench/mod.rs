//! `waybill bench`: what the system does, beside what the machine does bare.
//!
//! A figure alone says little: it moves with the machine and with whatever else runs there. So every benchmark measures
//! the floor (the same rows, messages and calls, by a bare loop over the same servers) in its own run, in turns with the
//! figure, and reports the ratio of the medians.
//!
//! [`floor`] holds the floors as functions, for all benchmarks; [`ground`] what they stand on.

pub mod args;
pub mod backbone;
pub mod floor;
mod ground;
mod idle;
mod lives;
mod machine;
pub mod orders;
mod process;
pub mod report;

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use self::args::{AllArgs, BackboneArgs, BenchCommand, IdleArgs};
use self::report::Report;

/// Runs a benchmark and prints its report.
pub async fn run(command: BenchCommand, json: bool) -> anyhow::Result<()> {
    let progress = Progress::new();
    let report = tokio::select! {
        report = Box::pin(measure(&command, &progress)) => report,
        // The other branch is dropped with the servers that it started; what still runs beside it ends with the process.
        () = waybill_runtime::process::shutdown_signal() => Err(anyhow::anyhow!("interrupted")),
    };
    progress.done();
    report?.print(json)
}

async fn measure(command: &BenchCommand, progress: &Progress) -> anyhow::Result<Report> {
    match command {
        BenchCommand::Floor(args) => floor::run(args, progress).await,
        BenchCommand::Backbone(args) => backbone::run(args, progress).await,
        BenchCommand::Orders(args) => orders::run(args, progress).await,
        BenchCommand::Idle(args) => idle::run(args, progress).await,
        BenchCommand::Lives(args) => lives::run(args, progress).await,
        BenchCommand::All(args) => all(args, progress).await,
    }
}

/// Everything with its defaults. Idleness first: nothing of the others must still be going on then.
async fn all(args: &AllArgs, progress: &Progress) -> anyhow::Result<Report> {
    let mut report = idle::run(&defaults::<IdleArgs>()?, progress).await?;
    report.extend(floor::run(&defaults()?, progress).await?);
    let backbone = BackboneArgs {
        minutes: args.minutes,
        ..defaults()?
    };
    report.extend(backbone::run(&backbone, progress).await?);
    report.extend(orders::run(&defaults()?, progress).await?);
    Ok(report)
}

/// The name that the defaults are parsed under; nobody sees it.
const NAME: &str = "bench";

/// The defaults that the command line would give.
fn defaults<A: clap::Args>() -> anyhow::Result<A> {
    let command = A::augment_args(clap::Command::new(NAME));
    Ok(A::from_arg_matches(&command.try_get_matches_from([NAME])?)?)
}

/// Says on standard error what is being measured: in one line that changes, or line by line where nobody looks.
pub struct Progress(ProgressBar);

impl Progress {
    fn new() -> Progress {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(500));
        Progress(bar)
    }

    /// What is being measured now.
    pub fn say(&self, what: impl Into<String>) {
        let what = what.into();
        if self.0.is_hidden() {
            eprintln!("{what}");
        }
        self.0.set_message(what);
    }

    fn done(&self) {
        self.0.finish_and_clear();
    }
}
