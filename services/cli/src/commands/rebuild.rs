//! `waybill consumers rebuild`

use anyhow::{Context as _, bail};
use indicatif::{ProgressBar, ProgressStyle};
use waybill_proto::waybill::events::v1 as pb;

use crate::args::ConsumerRef;
use crate::output::{self, line, table, word};
use crate::session::Session;

/// Runs the command.
pub async fn run(
    session: &Session,
    consumer: ConsumerRef,
    compare: bool,
    reason: String,
    json: bool,
) -> anyhow::Result<()> {
    let operators = session.operators(Some(&consumer.service))?;
    let (service, mut operator) = operators.into_iter().next().context("the service is not known")?;
    let request = pb::RebuildConsumerRequest {
        request_id: super::request_id(),
        consumer: consumer.consumer.clone(),
        compare_only: compare,
        reason,
    };
    let mut told = operator.rebuild_consumer(request).await?.into_inner();
    let bar = bar(json);
    let mut outcome = None;
    while let Some(now) = told.message().await? {
        bar.set_length(now.events_total.unsigned_abs());
        bar.set_position(now.events.unsigned_abs());
        bar.set_message(word(now.phase().as_str_name(), "REBUILD_PHASE"));
        outcome = Some(now);
    }
    bar.finish_and_clear();
    let outcome = outcome
        .filter(|last| last.phase() == pb::RebuildPhase::Done)
        .context("the service ended the rebuild before its end; nothing has changed")?;
    let same = outcome.cursors_differing == 0
        && outcome
            .tables
            .iter()
            .all(|one| one.only_live + one.only_rebuilt + one.different == 0);
    if json {
        output::json(&outcome)?;
    } else {
        show(&service, &consumer.consumer, &outcome, same);
    }
    if compare && !same {
        bail!(
            "the live tables do not say what the logs say; without --compare the rebuilt ones take their place"
        );
    }
    Ok(())
}

fn bar(json: bool) -> ProgressBar {
    if json {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("  {bar:30} {human_pos}/{human_len} events, {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style)
}

fn show(service: &str, consumer: &str, outcome: &pb::RebuildConsumerResponse, same: bool) {
    line(
        table(
            &[
                "table",
                ">live rows",
                ">rebuilt rows",
                ">only live",
                ">only rebuilt",
                ">different",
            ],
            outcome.tables.iter().map(|one| {
                [
                    one.table.clone(),
                    one.live_rows.to_string(),
                    one.rebuilt_rows.to_string(),
                    one.only_live.to_string(),
                    one.only_rebuilt.to_string(),
                    one.different.to_string(),
                ]
            }),
        )
        .to_string(),
    );
    for one in &outcome.tables {
        for row in &one.samples {
            let how = word(row.difference().as_str_name(), "ROW_DIFFERENCE");
            line(format!("{}: {how}: {}", one.table, row.key_json));
        }
    }
    if outcome.cursors_differing > 0 {
        line(format!(
            "{} cursors had another count or hash than the logs",
            outcome.cursors_differing
        ));
    }
    if outcome.events_kept > 0 {
        line(format!(
            "{} events are kept (waiting, dead letters, parked) and had no effect in either; see `waybill letters list`",
            outcome.events_kept
        ));
    }
    let events = outcome.events;
    line(match (outcome.swapped, same) {
        (true, _) => format!("{consumer} of {service} was rebuilt from {events} events"),
        (false, true) => format!("{consumer} of {service} says what {events} events say"),
        (false, false) => format!("{consumer} of {service} does not say what {events} events say"),
    });
}
