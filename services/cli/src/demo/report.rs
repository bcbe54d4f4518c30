//! What the demo tells the person who ran it.

use std::collections::BTreeMap;

use waybill_proto::waybill::analytics::v1::GetSummaryRequest;
use waybill_proto::waybill::order::v1::OrderStatus;
use waybill_proto::waybill::refund::v1::ListJournalEntriesRequest;
use waybill_proto::waybill::r#type::v1::Money;

use super::Outcome;
use super::check;
use super::journey::Ended;
use crate::commands::refunds::journal_table;
use crate::output::{line, money, table, time, word};
use crate::stack::Stack;

/// Says something while the demo works; programs are told at the end.
pub fn say(json: bool, text: impl AsRef<str>) {
    if !json {
        line(text);
    }
}

/// Prints what happened.
pub async fn print(stack: &Stack, outcome: &Outcome, json: bool) -> anyhow::Result<()> {
    let trace_id = trace_id(stack, outcome).await?;
    if json {
        line(serde_json::to_string_pretty(&serde_json::json!({
            "import": outcome.taken,
            "orders_ended": outcome.ended.len(),
            "mails": stack.mails().messages().len(),
            "refunds": stack.payments().ledger().len(),
            "checks": outcome.checks,
            "first_confirmation_seconds": outcome.first_confirmation,
            "total_seconds": outcome.total,
            "trace_id": trace_id,
        }))?);
        return Ok(());
    }
    line("\nOrders");
    line(orders(&outcome.ended));
    line("\nRefunds");
    line(refunds(&outcome.ended));
    if let Some(ended) = outcome.ended.iter().find(|ended| ended.refund.is_some()) {
        line(format!("\nThe books of order {}", ended.order.number));
        line(journal(stack, ended).await?);
    }
    if let Some(ended) = longest(outcome) {
        line(format!("\nThe life of order {}", ended.order.number));
        line(life(stack, ended).await?);
    }
    line("\nFigures");
    line(figures(stack).await?);
    line("\nThe published return policy");
    line(&outcome.policy);
    line("\nChecks");
    for check in &outcome.checks {
        line(format!(
            "  {}  {}: {}",
            if check.holds { "ok  " } else { "FAIL" },
            check.name,
            check.detail
        ));
    }
    line(format!(
        "\n{} orders, {} mails, {} refunds in {:.1} s; first confirmation after {:.1} s",
        outcome.ended.len(),
        stack.mails().messages().len(),
        stack.payments().ledger().len(),
        outcome.total,
        outcome.first_confirmation
    ));
    if let (Some(trace_id), Some(spans)) = (trace_id, stack.spans()) {
        line(format!(
            "Trace of one order through all services: {trace_id}\n  waybill trace {trace_id} --spans {}",
            spans.display()
        ));
    }
    Ok(())
}

/// The order that most happened to.
fn longest(outcome: &Outcome) -> Option<&Ended> {
    outcome
        .ended
        .iter()
        .max_by_key(|ended| (ended.returned.is_some(), ended.shipment.is_some()))
}

/// The trace the placement of that order began.
async fn trace_id(stack: &Stack, outcome: &Outcome) -> anyhow::Result<Option<String>> {
    let Some(ended) = longest(outcome) else {
        return Ok(None);
    };
    let entries = check::timeline(&stack.session()?, &ended.order.order_id).await?;
    Ok(entries
        .into_iter()
        .map(|entry| entry.trace_id)
        .find(|trace_id| !trace_id.is_empty()))
}

fn orders(ended: &[Ended]) -> String {
    let mut groups: BTreeMap<(String, String), (usize, i64, i64)> = BTreeMap::new();
    for ended in ended {
        let order = &ended.order;
        let status = OrderStatus::try_from(order.status).unwrap_or_default();
        let group = groups
            .entry((
                word(status.as_str_name(), "ORDER_STATUS"),
                order.currency_code.clone(),
            ))
            .or_default();
        group.0 += 1;
        group.1 += order
            .totals
            .as_ref()
            .and_then(|totals| totals.total.as_ref())
            .map_or(0, |money| money.minor_units);
        group.2 += order.refunded.as_ref().map_or(0, |money| money.minor_units);
    }
    let amount = |currency: &str, minor_units| {
        money(Some(&Money {
            currency_code: currency.to_owned(),
            minor_units,
        }))
    };
    table(
        &["ended as", ">orders", ">total", ">refunded"],
        groups
            .into_iter()
            .map(|((status, currency), (count, total, refunded))| {
                [
                    status,
                    count.to_string(),
                    amount(&currency, total),
                    amount(&currency, refunded),
                ]
            }),
    )
    .to_string()
}

fn refunds(ended: &[Ended]) -> String {
    let mut rows: Vec<[String; 6]> = ended
        .iter()
        .filter_map(|ended| {
            let refund = ended.refund.as_ref()?;
            let leg = refund.legs.first()?;
            Some([
                ended.order.number.clone(),
                refund.reason.replace('_', " "),
                refund
                    .components
                    .iter()
                    .filter(|part| part.kind == "line")
                    .map(|part| part.units.len())
                    .sum::<usize>()
                    .to_string(),
                money(refund.amount.as_ref()),
                leg.provider.clone(),
                leg.provider_refund_id.clone(),
            ])
        })
        .collect();
    rows.sort();
    table(
        &["order", "why", ">units", ">amount", "provider", "provider's id"],
        rows,
    )
    .to_string()
}

async fn journal(stack: &Stack, ended: &Ended) -> anyhow::Result<String> {
    let session = stack.session()?;
    let request = ListJournalEntriesRequest {
        merchant_id: session.merchant_id.clone(),
        store_id: session.store_id.clone(),
        page_size: 500,
        order_id: ended.order.order_id.clone(),
        ..ListJournalEntriesRequest::default()
    };
    let mut entries = session
        .refunds()?
        .list_journal_entries(request)
        .await?
        .into_inner()
        .entries;
    entries.reverse();
    Ok(journal_table(&entries))
}

async fn life(stack: &Stack, ended: &Ended) -> anyhow::Result<String> {
    let entries = check::timeline(&stack.session()?, &ended.order.order_id).await?;
    let rows = entries.into_iter().map(|entry| {
        [
            time(entry.occurred_at.as_ref()),
            entry.service.clone(),
            entry.summary.clone(),
        ]
    });
    Ok(table(&["time (UTC)", "service", "what happened"], rows).to_string())
}

async fn figures(stack: &Stack) -> anyhow::Result<String> {
    let session = stack.session()?;
    let request = GetSummaryRequest {
        merchant_id: session.merchant_id.clone(),
        store_id: session.store_id.clone(),
        period: None,
    };
    let answer = session.analytics()?.get_summary(request).await?.into_inner();
    let rows = answer.currencies.into_iter().map(|of| {
        let (orders, refunds) = (of.orders.unwrap_or_default(), of.refunds.unwrap_or_default());
        [
            of.currency_code,
            orders.orders.to_string(),
            orders.units.to_string(),
            money(orders.gross_sales.as_ref()),
            money(orders.average_order_value.as_ref()),
            refunds.refunds.to_string(),
            money(refunds.refunded.as_ref()),
            format!(
                "{}.{} %",
                refunds.refund_rate_orders_ppm / 10_000,
                refunds.refund_rate_orders_ppm % 10_000 / 1000
            ),
        ]
    });
    let header = [
        "currency",
        ">orders",
        ">units",
        ">gross sales",
        ">average order",
        ">refunds",
        ">paid back",
        ">refund rate",
    ];
    Ok(table(&header, rows).to_string())
}
