//! `waybill verify`, short: with every kind of fault, as a person runs it; with the NATS storage deleted again and again;
//! and with results that were tampered with, which the checker must notice.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use clap::Parser as _;
use waybill_cli::args::{Cli, Command as Subcommand, VerifyArgs};
use waybill_cli::verify::Verification;
use waybill_cli::verify::check::{self, Check};
use waybill_cli::verify::faults::Kind;

const PROGRAM: &str = env!("CARGO_BIN_EXE_waybill-chaos");

#[test]
fn every_kind_of_fault() -> anyhow::Result<()> {
    let scratch = tempfile::tempdir()?;
    let output = Command::new(PROGRAM)
        .args([
            "verify",
            "--json",
            "--minutes",
            "0.35",
            "--seed",
            "11",
            "--rate",
            "1",
            "--every",
            "1.2",
        ])
        .env("TMPDIR", scratch.path())
        .stdin(Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{told}\n{said}");
    let report: serde_json::Value = serde_json::from_str(&said).context("the report is no JSON")?;
    ensure!(report["holds"] == true, "{report:#}");
    ensure!(report["faults_injected"].as_u64() >= Some(10), "{report:#}");
    ensure!(report["orders"].as_u64() >= Some(10), "{report:#}");
    let left: Vec<_> = std::fs::read_dir(scratch.path())?.collect();
    ensure!(left.is_empty(), "it left behind {left:?}");
    Ok(())
}

/// Deleting the NATS storage folder during load: all consumers converge, nothing is lost or doubled. Then each check is
/// shown something that is wrong.
#[tokio::test(flavor = "multi_thread")]
async fn nats_storage_deleted_again_and_again() -> anyhow::Result<()> {
    let scratch = tempfile::tempdir()?;
    let args = arguments("--minutes 0.3 --rate 1 --every 3 --faults nats-wipe,nats-remove,nats-older")?;
    let mut verification = Verification::start(args, 5, scratch.path(), Path::new(PROGRAM), true).await?;
    let report = verification.play().await?;
    ensure!(report.holds, "{:?}", report.checks);
    ensure!(
        report
            .faults
            .keys()
            .all(|kind| matches!(kind, Kind::NatsWipe | Kind::NatsRemove | Kind::NatsOlder)),
        "{:?}",
        report.faults
    );
    ensure!(report.faults_injected >= 4, "{:?}", report.faults);
    let evidence = verification.evidence().await?;
    let checks = check::run(&evidence, |_| {}).await;
    ensure!(checks.iter().all(|check| check.holds), "{:?}", failing(&checks));

    // Nobody shall mend or spread what is now done to the tables.
    verification.world.halt().await;
    for (check, tampering) in TAMPERINGS {
        let db = evidence.db();
        sqlx::raw_sql("BEGIN; SET LOCAL session_replication_role = replica")
            .execute(db)
            .await?;
        let touched = sqlx::query(tampering).execute(db).await?.rows_affected();
        ensure!(touched == 1, "{tampering}: {touched} rows");
        let checks = check::run(&evidence, |_| {}).await;
        sqlx::raw_sql("ROLLBACK").execute(db).await?;
        let failing = failing(&checks);
        ensure!(
            failing.as_ref().is_some_and(|failing| failing.name == check),
            "{check:?} should notice {tampering:?}; {failing:?} did"
        );
    }
    let checks = check::run(&evidence, |_| {}).await;
    ensure!(
        failing(&checks).is_none(),
        "nothing stays of it: {:?}",
        failing(&checks)
    );
    drop(evidence);
    verification.stop().await
}

/// Which check must notice, and what was done: each touches one row.
const TAMPERINGS: [(&str, &str); 13] = [
    (
        "nothing is left over",
        "UPDATE refund.jobs SET state = 'waiting', finished_at = NULL
         WHERE job_id = (SELECT job_id FROM refund.jobs LIMIT 1)",
    ),
    (
        "every acknowledged order exists once",
        "DELETE FROM \"order\".orders WHERE order_id = (SELECT order_id FROM \"order\".orders LIMIT 1)",
    ),
    (
        "every order reached its end",
        "UPDATE \"order\".orders SET refunded_minor = refunded_minor + 1
         WHERE order_id = (SELECT order_id FROM \"order\".orders LIMIT 1)",
    ),
    (
        "every event took effect exactly once",
        "UPDATE analytics.fold_cursor SET hash = sha256(hash)
         WHERE (source, vpartition) = (SELECT source, vpartition FROM analytics.fold_cursor WHERE count > 0 LIMIT 1)",
    ),
    (
        "no refund was paid twice",
        "UPDATE refund.leg_attempts SET provider_refund_id = provider_refund_id || 'x'
         WHERE leg_id = (SELECT leg_id FROM refund.leg_attempts LIMIT 1)",
    ),
    (
        "no refund was paid twice",
        "UPDATE refund.refund_legs SET amount = amount + 1
         WHERE leg_id = (SELECT leg_id FROM refund.refund_legs LIMIT 1)",
    ),
    (
        "the books balance",
        "UPDATE refund.journal_lines SET amount = amount + 1
         WHERE (entry_id, position) = (SELECT entry_id, position FROM refund.journal_lines LIMIT 1)",
    ),
    (
        "one mail for each stage",
        "DELETE FROM notification.notifications
         WHERE notification_id = (SELECT notification_id FROM notification.notifications LIMIT 1)",
    ),
    (
        "one mail for each stage",
        "UPDATE notification.notifications SET message_id = message_id || 'x'
         WHERE notification_id = (SELECT notification_id FROM notification.notifications LIMIT 1)",
    ),
    (
        "stock equals its movements",
        "UPDATE fulfillment.stock SET on_hand = on_hand + 1
         WHERE sku = (SELECT sku FROM fulfillment.stock LIMIT 1)",
    ),
    (
        "projections equal their owners",
        "UPDATE refund.order_lines SET net = net + 1
         WHERE line_id = (SELECT line_id FROM refund.order_lines WHERE kind = 'goods' LIMIT 1)",
    ),
    (
        "timelines equal the logs",
        "DELETE FROM \"order\".order_timeline
         WHERE event_id = (SELECT event_id FROM \"order\".order_timeline LIMIT 1)",
    ),
    (
        "figures equal a replay of the logs",
        "UPDATE analytics.order_facts SET gross_minor = gross_minor + 1
         WHERE order_id = (SELECT order_id FROM analytics.order_facts LIMIT 1)",
    ),
];

fn failing(checks: &[Check]) -> Option<&Check> {
    checks.iter().find(|check| !check.holds)
}

fn arguments(text: &str) -> anyhow::Result<VerifyArgs> {
    let words = ["waybill", "verify"].into_iter().chain(text.split(' '));
    match Cli::try_parse_from(words)?.command {
        Subcommand::Verify(args) => Ok(args),
        _ => anyhow::bail!("not what was asked for"),
    }
}
