//! `waybill refunds …`

use anyhow::Context as _;
use waybill_proto::waybill::refund::v1::{
    ApproveRefundRequest, CreateRefundRequest, GetRefundRequest, GetTrialBalanceRequest, JournalEntry,
    ListJournalEntriesRequest, ListRefundsRequest, Refund, RefundUnits, RetryRefundLegRequest,
};

use crate::args::RefundsCommand;
use crate::output::{self, line, money, table, time, word};
use crate::session::Session;

/// Runs the command.
pub async fn run(session: &Session, command: RefundsCommand, json: bool) -> anyhow::Result<()> {
    let mut client = session.refunds()?;
    let (merchant_id, store_id) = (session.merchant_id.clone(), session.store_id.clone());
    let refund = match command {
        RefundsCommand::List { order } => return list(session, order.as_deref(), json).await,
        RefundsCommand::Journal { order } => return journal(session, order.as_deref(), json).await,
        RefundsCommand::Balance => return balance(session, json).await,
        RefundsCommand::Get { refund_id } => {
            client
                .get_refund(GetRefundRequest {
                    merchant_id,
                    store_id,
                    refund_id,
                })
                .await?
                .into_inner()
                .refund
        }
        RefundsCommand::Create {
            order,
            lines,
            shipping,
            reason,
        } => {
            let order = session.order(&order.order).await?;
            let units = if lines.is_empty() {
                Vec::new()
            } else {
                super::lines_of(&order, &lines)?
            };
            let request = CreateRefundRequest {
                merchant_id,
                store_id,
                request_id: super::request_id(),
                order_id: order.order_id,
                lines: units
                    .into_iter()
                    .map(|(line_id, quantity)| RefundUnits { line_id, quantity })
                    .collect(),
                shipping,
                goodwill: None,
                reason,
                min_order_version: order.version,
            };
            client.create_refund(request).await?.into_inner().refund
        }
        RefundsCommand::Approve { refund_id } => {
            let request_id = super::request_id();
            let request = ApproveRefundRequest {
                merchant_id,
                store_id,
                request_id,
                refund_id,
            };
            client.approve_refund(request).await?.into_inner().refund
        }
        RefundsCommand::Retry { refund_id, leg_id } => {
            let request_id = super::request_id();
            let request = RetryRefundLegRequest {
                merchant_id,
                store_id,
                request_id,
                refund_id,
                leg_id,
            };
            client.retry_refund_leg(request).await?.into_inner().refund
        }
    };
    let refund = refund.context("the refund service answered without a refund")?;
    if json {
        return output::json(&refund);
    }
    show(std::slice::from_ref(&refund));
    show_parts(&refund);
    Ok(())
}

async fn list(session: &Session, order: Option<&str>, json: bool) -> anyhow::Result<()> {
    let order_id = match order {
        Some(reference) => session.order(reference).await?.order_id,
        None => String::new(),
    };
    let request = ListRefundsRequest {
        merchant_id: session.merchant_id.clone(),
        store_id: session.store_id.clone(),
        page_size: 200,
        order_id,
        ..ListRefundsRequest::default()
    };
    let answer = session.refunds()?.list_refunds(request).await?.into_inner();
    if json {
        return output::json(&answer);
    }
    show(&answer.refunds);
    Ok(())
}

fn show(refunds: &[Refund]) {
    line(
        table(
            &[
                "refund",
                "order",
                "state",
                ">amount",
                "why",
                "asked for (UTC)",
                "succeeded (UTC)",
            ],
            refunds.iter().map(|refund| {
                [
                    refund.refund_id.clone(),
                    refund.order_id.clone(),
                    word(refund.state().as_str_name(), "REFUND_STATE"),
                    money(refund.amount.as_ref()),
                    refund.reason.clone(),
                    time(refund.created_at.as_ref()),
                    time(refund.succeeded_at.as_ref()),
                ]
            }),
        )
        .to_string(),
    );
}

fn show_parts(refund: &Refund) {
    line(
        table(
            &["part", "line", "units", ">net", ">tax"],
            refund.components.iter().map(|part| {
                [
                    part.kind.clone(),
                    part.line_id.clone(),
                    part.units
                        .iter()
                        .map(ToString::to_string)
                        .collect::<Vec<_>>()
                        .join(", "),
                    money(part.net.as_ref()),
                    money(part.tax.as_ref()),
                ]
            }),
        )
        .to_string(),
    );
    line(
        table(
            &[
                "leg",
                "provider",
                "state",
                ">amount",
                "provider's id",
                "why it failed",
                ">calls",
            ],
            refund.legs.iter().map(|leg| {
                [
                    leg.leg_id.clone(),
                    leg.provider.clone(),
                    word(leg.state().as_str_name(), "REFUND_STATE"),
                    money(leg.amount.as_ref()),
                    leg.provider_refund_id.clone(),
                    leg.failure_reason.clone(),
                    leg.attempts.to_string(),
                ]
            }),
        )
        .to_string(),
    );
}

async fn journal(session: &Session, order: Option<&str>, json: bool) -> anyhow::Result<()> {
    let order_id = match order {
        Some(reference) => session.order(reference).await?.order_id,
        None => String::new(),
    };
    let request = ListJournalEntriesRequest {
        merchant_id: session.merchant_id.clone(),
        store_id: session.store_id.clone(),
        page_size: 500,
        order_id,
        ..ListJournalEntriesRequest::default()
    };
    let answer = session
        .refunds()?
        .list_journal_entries(request)
        .await?
        .into_inner();
    if json {
        return output::json(&answer);
    }
    line(journal_table(&answer.entries));
    Ok(())
}

/// Entries with a row for each debit and credit.
#[must_use]
pub fn journal_table(entries: &[JournalEntry]) -> String {
    let rows = entries.iter().flat_map(|entry| {
        entry.lines.iter().enumerate().map(|(at, booked)| {
            let amount = booked.amount.clone().unwrap_or_default();
            let first = |text: String| if at == 0 { text } else { String::new() };
            let side = |debit: bool| {
                if (amount.minor_units >= 0) == debit {
                    let minor_units = amount.minor_units.saturating_abs();
                    money(Some(&waybill_proto::waybill::r#type::v1::Money {
                        minor_units,
                        ..amount.clone()
                    }))
                } else {
                    String::new()
                }
            };
            [
                first(time(entry.booked_at.as_ref())),
                first(entry.kind.clone()),
                booked.account.clone(),
                side(true),
                side(false),
            ]
        })
    });
    table(&["booked (UTC)", "entry", "account", ">debit", ">credit"], rows).to_string()
}

async fn balance(session: &Session, json: bool) -> anyhow::Result<()> {
    let request = GetTrialBalanceRequest {
        merchant_id: session.merchant_id.clone(),
    };
    let answer = session.refunds()?.get_trial_balance(request).await?.into_inner();
    if json {
        output::json(&answer)?;
    } else {
        line(
            table(
                &["account", ">debits", ">credits"],
                answer.accounts.iter().map(|account| {
                    [
                        account.account.clone(),
                        money(account.debits.as_ref()),
                        money(account.credits.as_ref()),
                    ]
                }),
            )
            .to_string(),
        );
    }
    if answer.balanced {
        Ok(())
    } else {
        anyhow::bail!("debits and credits differ")
    }
}
