//! `waybill orders timeline|rebuild`: what happened to an order, whether that is what was written, and what follows from it.

use anyhow::bail;
use waybill_proto::waybill::order::v1::rebuild_order_request::Moment;
use waybill_proto::waybill::order::v1::{
    FulfillmentStatus, GetTimelineRequest, GetTimelineResponse, OrderStatus, PaymentStatus,
    RebuildOrderRequest, RebuildOrderResponse, RebuiltOrder, ReturnStatus, TimelineCondition, TimelineEntry,
    TimelineFaultKind, VerifyTimelineRequest, VerifyTimelineResponse,
};

use crate::args::{RebuildArgs, TimelineArgs};
use crate::output::{self, line, money, table, time, word};
use crate::session::Session;

/// Shows a timeline, and checks it where that is asked for.
pub async fn timeline(session: &Session, args: TimelineArgs, json: bool) -> anyhow::Result<()> {
    let order = session.order(&args.order.order).await?;
    let request = GetTimelineRequest {
        merchant_id: session.merchant_id.clone(),
        store_id: session.store_id.clone(),
        order_id: order.order_id.clone(),
    };
    let answer = session.orders()?.get_timeline(request).await?.into_inner();
    if !args.verify {
        return show(&answer, json);
    }
    let (noted_sequence, noted_hash) = args.noted.unwrap_or_default();
    let request = VerifyTimelineRequest {
        merchant_id: session.merchant_id.clone(),
        store_id: session.store_id.clone(),
        order_id: order.order_id,
        noted_sequence,
        noted_hash,
    };
    let verdict = session.orders()?.verify_timeline(request).await?.into_inner();
    if json {
        let both = serde_json::json!({
            "timeline": output::to_json(&answer)?,
            "verification": output::to_json(&verdict)?,
        });
        line(serde_json::to_string_pretty(&both)?);
    } else {
        show_verified(answer.entries, &verdict);
    }
    match verdict.condition() {
        TimelineCondition::Whole | TimelineCondition::NotBegun => Ok(()),
        _ => bail!("the timeline is not what was written"),
    }
}

fn show(answer: &GetTimelineResponse, json: bool) -> anyhow::Result<()> {
    if json {
        return output::json(answer);
    }
    line(
        table(
            &["time (UTC)", "service", "what happened", "trace"],
            answer.entries.iter().map(|entry| {
                [
                    time(entry.occurred_at.as_ref()),
                    entry.service.clone(),
                    entry.summary.clone(),
                    entry.trace_id.clone(),
                ]
            }),
        )
        .to_string(),
    );
    Ok(())
}

fn show_verified(mut entries: Vec<TimelineEntry>, verdict: &VerifyTimelineResponse) {
    // Those that are in no chain last, as they are looked at.
    entries.sort_by_key(|entry| {
        if entry.sequence == 0 {
            i64::MAX
        } else {
            entry.sequence
        }
    });
    line(
        table(
            &[
                ">no",
                "time (UTC)",
                "service",
                "what happened",
                "by",
                "because of",
            ],
            entries.into_iter().map(|entry| {
                [
                    if entry.sequence == 0 {
                        String::new()
                    } else {
                        entry.sequence.to_string()
                    },
                    time(entry.occurred_at.as_ref()),
                    entry.service,
                    entry.summary,
                    entry.actor,
                    entry.cause,
                ]
            }),
        )
        .to_string(),
    );
    match verdict.condition() {
        TimelineCondition::Whole => line(format!(
            "whole: {} entries are as they were written; it ends with {}:{}",
            verdict.entries, verdict.sequence, verdict.hash
        )),
        TimelineCondition::NotBegun => line(format!(
            "not chained yet: its {} entries are from before entries were chained; the next one begins the chain",
            verdict.entries
        )),
        _ => {
            line("broken:");
            line(
                table(
                    &["fault", ">no", "event", "what it means"],
                    verdict.faults.iter().map(|fault| {
                        let kind = TimelineFaultKind::try_from(fault.kind).unwrap_or_default();
                        [
                            word(kind.as_str_name(), "TIMELINE_FAULT_KIND"),
                            if fault.sequence == 0 {
                                String::new()
                            } else {
                                fault.sequence.to_string()
                            },
                            fault.event_id.clone(),
                            fault.message.clone(),
                        ]
                    }),
                )
                .to_string(),
            );
        }
    }
}

/// Makes an order again from its events.
pub async fn rebuild(session: &Session, args: RebuildArgs, json: bool) -> anyhow::Result<()> {
    let order = session.order(&args.order.order).await?;
    let moment = match (args.version, args.at) {
        (Some(version), _) => Some(Moment::Version(version)),
        (None, Some(at)) => Some(Moment::Time(waybill_rpc::convert::to_timestamp(at))),
        (None, None) => None,
    };
    let now = moment.is_none();
    let request = RebuildOrderRequest {
        merchant_id: session.merchant_id.clone(),
        store_id: session.store_id.clone(),
        order_id: order.order_id,
        moment,
    };
    let answer = session.orders()?.rebuild_order(request).await?.into_inner();
    if json {
        output::json(&answer)?;
    } else {
        show_rebuilt(&answer, now);
    }
    if answer.differences.is_empty() {
        Ok(())
    } else {
        bail!("the tables are not what the events make of the order")
    }
}

fn show_rebuilt(answer: &RebuildOrderResponse, now: bool) {
    match &answer.order {
        Some(order) => show_order(order),
        None => line("it had not been placed, or its placement cannot be read"),
    }
    if !answer.unapplied.is_empty() {
        line("facts that took no effect:");
        line(
            table(
                &["event", "type", "why"],
                answer.unapplied.iter().map(|fact| {
                    let name = fact.r#type.rsplit('.').next().unwrap_or_default();
                    [fact.event_id.clone(), name.to_owned(), fact.reason.clone()]
                }),
            )
            .to_string(),
        );
    }
    if !answer.differences.is_empty() {
        line("differences:");
        line(
            table(
                &["field", "from the events", "in the tables"],
                answer
                    .differences
                    .iter()
                    .map(|d| [d.field.clone(), d.rebuilt.clone(), d.stored.clone()]),
            )
            .to_string(),
        );
    } else if now {
        line(format!("{} facts, and the tables say the same", answer.applied));
    }
}

fn show_order(order: &RebuiltOrder) {
    line(format!(
        "version {} as of {}: {}, {}, {}, returns {}",
        order.version,
        time(order.as_of.as_ref()),
        word(
            OrderStatus::try_from(order.status)
                .unwrap_or_default()
                .as_str_name(),
            "ORDER_STATUS"
        ),
        word(
            PaymentStatus::try_from(order.payment_status)
                .unwrap_or_default()
                .as_str_name(),
            "PAYMENT_STATUS"
        ),
        word(
            FulfillmentStatus::try_from(order.fulfillment_status)
                .unwrap_or_default()
                .as_str_name(),
            "FULFILLMENT_STATUS"
        ),
        word(
            ReturnStatus::try_from(order.return_status)
                .unwrap_or_default()
                .as_str_name(),
            "RETURN_STATUS"
        ),
    ));
    line(
        table(
            &["sku", ">ordered", ">cancelled", ">shipped", ">delivered"],
            order.lines.iter().map(|item| {
                [
                    item.sku.clone(),
                    item.quantity.to_string(),
                    item.cancelled.to_string(),
                    item.shipped.to_string(),
                    item.delivered.to_string(),
                ]
            }),
        )
        .to_string(),
    );
    line(
        table(
            &["sum", ">amount"],
            [
                ("total", &order.total),
                ("cancelled", &order.cancelled),
                ("authorized", &order.authorized),
                ("voided", &order.voided),
                ("captured", &order.captured),
                ("refunded", &order.refunded),
            ]
            .map(|(name, amount)| [name.to_owned(), money(amount.as_ref())]),
        )
        .to_string(),
    );
}
