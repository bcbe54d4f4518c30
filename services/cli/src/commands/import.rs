//! `waybill import`: a file of orders, sent as it is.

use std::collections::BTreeMap;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tonic::Status;
use waybill_proto::waybill::order::v1::{
    GetImportRequest, Import, ImportFormat, ImportOpening, ImportOrdersResponse, ImportOutcome,
    ImportPaymentResult, ImportResult,
};
use waybill_rpc::client::is_retryable;
use waybill_rpc::fault;
use waybill_runtime::process::shutdown_signal;

use super::request_id;
use crate::args::{FormatArg, ImportArgs};
use crate::import::Source;
use crate::output::{self, line, table};
use crate::session::Session;

/// Refusals that are listed for people; programs get all that are told.
const LISTED: usize = 50;

/// What became of an import.
#[derive(Debug, Serialize)]
struct Report {
    import_id: String,
    rows: i64,
    placed: i64,
    duplicates: i64,
    payments: i64,
    payments_refused: i64,
    refused: Vec<Refused>,
}

/// An order, or its payment, that was refused.
#[derive(Debug, Clone, Serialize)]
struct Refused {
    line: i64,
    number: String,
    reason: String,
}

/// Runs the command.
pub async fn run(session: &Session, args: &ImportArgs, json: bool) -> anyhow::Result<()> {
    let format = match args.format.unwrap_or_else(|| FormatArg::of(&args.file)) {
        FormatArg::Csv => ImportFormat::ShopifyCsv,
        FormatArg::Jsonl => ImportFormat::JsonLines,
    };
    let import_id = args.import_id.clone().unwrap_or_else(request_id);
    let opening = ImportOpening {
        import_id: import_id.clone(),
        format: format.into(),
        without_payments: args.without_payments,
        ..ImportOpening::default()
    };
    let source = Source::new(&args.file, opening).await?;
    let progress = bar(source.opening.size_bytes, json);
    let mut refused = BTreeMap::new();
    let mut told = |answer: &ImportOrdersResponse| {
        if let Some(import) = &answer.import {
            progress.set_position(import.bytes_done.unsigned_abs());
            progress.set_message(format!(
                "{} orders",
                import.placed + import.duplicates + import.refused
            ));
        }
        refused.extend(
            answer
                .outcomes
                .iter()
                .filter_map(refusal)
                .map(|one| (one.line, one)),
        );
    };
    let sent = tokio::select! {
        sent = source.send(session, &mut told) => sent,
        () = shutdown_signal() => Err(anyhow::anyhow!("the import was stopped")),
    };
    progress.finish_and_clear();
    let import = sent.map_err(|error| match error.downcast_ref::<Status>() {
        // What the service refuses is not mended by going on.
        Some(status) if fault::reason(status).is_some() && !is_retryable(status) => error,
        _ => error.context(format!(
            "the import has not reached its end; go on with: waybill import {} --import-id {import_id}",
            args.file.display()
        )),
    })?;
    complete(session, &import, &mut refused).await?;
    show(&import, refused.into_values().collect(), json)
}

fn bar(size: i64, json: bool) -> ProgressBar {
    if json {
        return ProgressBar::hidden();
    }
    // It draws on standard error, and only where a person looks at it.
    let style = ProgressStyle::with_template("  {bar:30} {bytes}/{total_bytes} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(size.unsigned_abs()).with_style(style)
}

fn refusal(outcome: &ImportOutcome) -> Option<Refused> {
    let reason = if outcome.result() == ImportResult::Refused {
        format!("{}: {}", outcome.reason, outcome.message)
    } else if outcome.payment() == ImportPaymentResult::Refused {
        format!(
            "its payment: {}: {}",
            outcome.payment_reason, outcome.payment_message
        )
    } else {
        return None;
    };
    Some(Refused {
        line: outcome.line,
        number: outcome.number.clone(),
        reason,
    })
}

/// Adds what earlier streams of the import were told, as far as it is remembered.
async fn complete(
    session: &Session,
    import: &Import,
    refused: &mut BTreeMap<i64, Refused>,
) -> anyhow::Result<()> {
    let known = i64::try_from(refused.len())?;
    if known >= import.refused + import.payments_refused {
        return Ok(());
    }
    let request = GetImportRequest {
        merchant_id: session.merchant_id.clone(),
        store_id: session.store_id.clone(),
        import_id: import.import_id.clone(),
    };
    for earlier in session.orders()?.get_import(request).await?.into_inner().refusals {
        refused.entry(earlier.line).or_insert_with(|| Refused {
            line: earlier.line,
            number: String::new(),
            reason: format!("{}: {}", earlier.reason, earlier.fields),
        });
    }
    Ok(())
}

fn show(import: &Import, refused: Vec<Refused>, json: bool) -> anyhow::Result<()> {
    if json {
        let report = Report {
            import_id: import.import_id.clone(),
            rows: import.rows,
            placed: import.placed,
            duplicates: import.duplicates,
            payments: import.payments,
            payments_refused: import.payments_refused,
            refused,
        };
        line(serde_json::to_string_pretty(&report)?);
    } else {
        if !refused.is_empty() {
            let rows = refused.iter().take(LISTED);
            let rows = rows.map(|one| [one.line.to_string(), one.number.clone(), one.reason.clone()]);
            line(table(&[">line", "order", "what is wrong"], rows).to_string());
        }
        if refused.len() > LISTED {
            line(format!(
                "… and {} more; --json lists them",
                refused.len() - LISTED
            ));
        }
        let counts = [
            ("rows read", import.rows),
            ("orders placed", import.placed),
            ("there already", import.duplicates),
            ("refused", import.refused),
            ("payments recorded", import.payments),
            ("payments refused", import.payments_refused),
        ];
        let counts = counts.map(|(what, count)| [what.to_owned(), count.to_string()]);
        line(output::table(&["import", ">count"], counts).to_string());
    }
    if import.refused + import.payments_refused == 0 {
        return Ok(());
    }
    anyhow::bail!(
        "{} orders and {} payments were refused; mend the file and import it again: what is there already is left alone",
        import.refused,
        import.payments_refused
    )
}
