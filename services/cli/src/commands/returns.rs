//! `waybill returns …`

use anyhow::Context as _;
use waybill_proto::waybill::refund::v1::{
    ApproveReturnRequest, DeclineReturnRequest, GetPolicyRequest, ListReturnsRequest, NewReturnLine, Quote,
    QuoteReturnRequest, ReceiveReturnRequest, RequestReturnRequest, Return, ReturnReason,
};

use crate::args::{ReturnArgs, ReturnsCommand};
use crate::output::{self, line, money, table, time, word};
use crate::session::Session;

/// Runs the command.
pub async fn run(session: &Session, command: ReturnsCommand, json: bool) -> anyhow::Result<()> {
    let mut client = session.refunds()?;
    let (merchant_id, store_id) = (session.merchant_id.clone(), session.store_id.clone());
    let changed = match command {
        ReturnsCommand::Policy => {
            let answer = client
                .get_policy(GetPolicyRequest {
                    merchant_id,
                    store_id,
                    at: None,
                })
                .await?
                .into_inner();
            if json {
                return output::json(&answer);
            }
            line(answer.text);
            return Ok(());
        }
        ReturnsCommand::List { order } => return list(session, order.as_deref(), json).await,
        ReturnsCommand::Quote(args) => return quote(session, &args, json).await,
        ReturnsCommand::Request(args) => return request(session, &args, json).await,
        ReturnsCommand::Approve { return_id } => {
            let request_id = super::request_id();
            let request = ApproveReturnRequest {
                merchant_id,
                store_id,
                request_id,
                return_id,
                etag: String::new(),
            };
            client.approve_return(request).await?.into_inner().r#return
        }
        ReturnsCommand::Decline { return_id, reason } => {
            let request = DeclineReturnRequest {
                merchant_id,
                store_id,
                request_id: super::request_id(),
                return_id,
                reason,
                etag: String::new(),
            };
            client.decline_return(request).await?.into_inner().r#return
        }
        ReturnsCommand::Receive { return_id } => {
            let request = ReceiveReturnRequest {
                merchant_id,
                store_id,
                request_id: super::request_id(),
                return_id,
                lines: Vec::new(),
                etag: String::new(),
            };
            client.receive_return(request).await?.into_inner().r#return
        }
    };
    print(
        &changed.context("the refund service answered without a return")?,
        json,
    )
}

async fn list(session: &Session, order: Option<&str>, json: bool) -> anyhow::Result<()> {
    let order_id = match order {
        Some(reference) => session.order(reference).await?.order_id,
        None => String::new(),
    };
    let request = ListReturnsRequest {
        merchant_id: session.merchant_id.clone(),
        store_id: session.store_id.clone(),
        page_size: 200,
        order_id,
        ..ListReturnsRequest::default()
    };
    let answer = session.refunds()?.list_returns(request).await?.into_inner();
    if json {
        return output::json(&answer);
    }
    show(&answer.returns);
    Ok(())
}

async fn quote(session: &Session, args: &ReturnArgs, json: bool) -> anyhow::Result<()> {
    let order = session.order(&args.order.order).await?;
    let request = QuoteReturnRequest {
        merchant_id: session.merchant_id.clone(),
        store_id: session.store_id.clone(),
        order_id: order.order_id.clone(),
        lines: lines(&order, args)?,
        min_order_version: order.version,
    };
    let answer = session.refunds()?.quote_return(request).await?.into_inner();
    if json {
        return output::json(&answer);
    }
    show_quote(&answer.quote.unwrap_or_default());
    Ok(())
}

async fn request(session: &Session, args: &ReturnArgs, json: bool) -> anyhow::Result<()> {
    let order = session.order(&args.order.order).await?;
    let request = RequestReturnRequest {
        merchant_id: session.merchant_id.clone(),
        store_id: session.store_id.clone(),
        request_id: super::request_id(),
        order_id: order.order_id.clone(),
        lines: lines(&order, args)?,
        min_order_version: order.version,
    };
    let answer = session.refunds()?.request_return(request).await?.into_inner();
    print(
        &answer
            .r#return
            .context("the refund service answered without a return")?,
        json,
    )
}

fn lines(
    order: &waybill_proto::waybill::order::v1::Order,
    args: &ReturnArgs,
) -> anyhow::Result<Vec<NewReturnLine>> {
    let name = format!("RETURN_REASON_{}", args.reason.to_uppercase().replace('-', "_"));
    let reason = ReturnReason::from_str_name(&name).with_context(|| {
        format!(
            "--reason {:?}: use unwanted, wrong-size, damaged, wrong-item, not-as-described, late or other",
            args.reason
        )
    })?;
    Ok(super::lines_of(order, &args.lines)?
        .into_iter()
        .map(|(line_id, quantity)| NewReturnLine {
            line_id,
            quantity,
            reason: reason.into(),
        })
        .collect())
}

fn print(found: &Return, json: bool) -> anyhow::Result<()> {
    if json {
        return output::json(found);
    }
    show(std::slice::from_ref(found));
    if let Some(quote) = &found.quote {
        show_quote(quote);
    }
    Ok(())
}

fn show(returns: &[Return]) {
    line(
        table(
            &[
                "return",
                "order",
                "state",
                ">units",
                ">worth",
                "refund",
                "requested (UTC)",
            ],
            returns.iter().map(|found| {
                [
                    found.return_id.clone(),
                    found.order_id.clone(),
                    word(found.state().as_str_name(), "RETURN_STATE"),
                    found
                        .lines
                        .iter()
                        .map(|item| i64::from(item.quantity))
                        .sum::<i64>()
                        .to_string(),
                    money(found.quote.as_ref().and_then(|quote| quote.total.as_ref())),
                    found.refund_id.clone(),
                    time(found.requested_at.as_ref()),
                ]
            }),
        )
        .to_string(),
    );
}

fn show_quote(quote: &Quote) {
    line(
        table(
            &[
                "line",
                ">units",
                "may come back",
                ">net",
                ">tax",
                ">fee",
                "until (UTC)",
                "why",
            ],
            quote.lines.iter().map(|decision| {
                [
                    decision.line_id.clone(),
                    decision.quantity.to_string(),
                    if decision.eligible { "yes" } else { "no" }.to_owned(),
                    money(decision.net.as_ref()),
                    money(decision.tax.as_ref()),
                    money(decision.fee.as_ref()),
                    time(decision.deadline.as_ref()),
                    decision.explanation.clone(),
                ]
            }),
        )
        .to_string(),
    );
    line(format!(
        "shipping {}, total {}, policy version {}{}",
        money(quote.shipping.as_ref()),
        money(quote.total.as_ref()),
        quote.policy_version,
        if quote.auto_approve {
            ", approved at once"
        } else {
            ""
        }
    ));
}
