//! `waybill demo`: a file of orders through the whole stack, checked at the end.

pub mod check;
pub mod expect;
pub mod journey;
mod report;
mod shop;

use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use indicatif::{ProgressBar, ProgressStyle};
use waybill_order::formats::shopify::{self, Import};

use self::check::Check;
use self::journey::{Ended, Journey};
use crate::args::DemoArgs;
use crate::intake::{self, Taken};
use crate::stack::{Options, Stack};

/// The sample: 32 orders of a small shop in five currencies.
const SAMPLE: &[u8] = include_bytes!("../../demo/orders.csv");

/// Orders that are on their way at once.
const AT_ONCE: usize = 16;

/// What the demo did.
pub struct Outcome {
    /// The import.
    pub taken: Taken,
    /// How each order ended.
    pub ended: Vec<Ended>,
    /// The checks.
    pub checks: Vec<Check>,
    /// The policy in words.
    pub policy: String,
    /// Seconds from the start of the process to the first confirmation in the mail sink.
    pub first_confirmation: f64,
    /// Seconds from the start of the process to the end of the checks.
    pub total: f64,
}

impl Outcome {
    /// Whether everything held.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.checks.iter().all(|check| check.holds) && self.taken.refused.is_empty()
    }
}

/// Runs the demo; an error means that an order did not reach its end or a check did not hold.
pub async fn run(args: DemoArgs, json: bool, context_file: &Path) -> anyhow::Result<()> {
    let started = Instant::now();
    let telemetry = crate::stack::telemetry("demo")?;
    let import = match &args.orders {
        Some(file) => {
            let text = std::fs::read(file).with_context(|| format!("cannot open {}", file.display()))?;
            shopify::read(&text).with_context(|| format!("cannot import {}", file.display()))?
        }
        None => shopify::read(SAMPLE)?,
    };
    report::say(
        json,
        "Starting Postgres, NATS, a mail sink, a sandbox payment provider and all services …",
    );
    let stack = Stack::start(Options {
        demo: true,
        spans: Some(telemetry.spans.clone()),
        ..Options::default()
    })
    .await?;
    report::say(
        json,
        format!("  up after {:.1} s", started.elapsed().as_secs_f64()),
    );

    let outcome = play(&stack, &import, started, json).await;
    let result = match outcome {
        Ok(outcome) => {
            report::print(&stack, &outcome, json).await?;
            if outcome.holds() {
                Ok(())
            } else {
                Err(anyhow::anyhow!("the demo did not end well, see above"))
            }
        }
        Err(error) => Err(error),
    };
    if args.keep && result.is_ok() {
        stack.context().save(context_file)?;
        report::say(
            json,
            format!(
                "\nThe stack stays up until Ctrl-C. Try: waybill orders list\n{}",
                stack.addresses()
            ),
        );
        stack.wait().await;
    }
    stack.stop().await?;
    result
}

async fn play(stack: &Stack, import: &Import, started: Instant, json: bool) -> anyhow::Result<Outcome> {
    let session = stack.session()?;
    let policy = shop::open(&session, import).await?;
    stack.register_payments(import)?;

    report::say(json, format!("Importing {} orders …", import.orders.len()));
    let progress = bar(json, "orders placed");
    let taken = intake::place(&session, import, &progress).await?;
    progress.finish_and_clear();
    for refusal in &taken.refused {
        report::say(
            json,
            format!(
                "  line {}: order {}: {}",
                refusal.line, refusal.number, refusal.reason
            ),
        );
    }
    report::say(
        json,
        format!(
            "  {} placed, {} refused, {} payments recorded",
            taken.placed,
            taken.refused.len(),
            taken.payments
        ),
    );
    anyhow::ensure!(
        !taken.orders.is_empty(),
        "no order was taken; the reasons stand above"
    );
    stack
        .mails()
        .wait("the first confirmation", crate::wait::PATIENCE, |mails| {
            (!mails.is_empty()).then_some(())
        })
        .await
        .context("no confirmation was mailed")?;
    let first_confirmation = started.elapsed().as_secs_f64();
    report::say(
        json,
        format!("  first order confirmed by e-mail after {first_confirmation:.1} s"),
    );

    report::say(json, "Shipping, tracking, delivering, taking back, refunding …");
    let progress = bar(json, "orders ended");
    progress.set_length(taken.orders.len() as u64);
    let ended: Vec<Ended> = stream::iter(&taken.orders)
        .map(|order| {
            let (journey, progress) = (Journey::new(&session, order), progress.clone());
            async move {
                let ended = journey.run().await;
                progress.inc(1);
                ended
            }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    progress.finish_and_clear();
    report::say(json, format!("  {} orders reached their end", ended.len()));

    report::say(json, "Checking …");
    let checks = check::all(&session, &ended, stack.mails(), stack.payments()).await;
    let total = started.elapsed().as_secs_f64();
    Ok(Outcome {
        taken,
        ended,
        checks,
        policy,
        first_confirmation,
        total,
    })
}

fn bar(json: bool, what: &'static str) -> ProgressBar {
    if json {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("  {bar:30} {pos}/{len} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style).with_message(what)
}
