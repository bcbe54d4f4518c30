//! `waybill payments …`

use anyhow::{Context as _, bail};
use waybill_proto::waybill::order::v1::{
    CapturePaymentRequest, GetOrderResponse, Order, PaymentAttempt, PaymentAttemptCause, PaymentAttemptKind,
    PaymentAttemptState, PaymentKind, VoidPaymentRequest,
};

use crate::args::{CapturePaymentArgs, PaymentsCommand, VoidPaymentArgs};
use crate::output::{self, line, money, table, time, word};
use crate::session::Session;

use super::find::amount;

const NO_ATTEMPT: &str = "the order service answered without an attempt";

/// Runs the command.
pub async fn run(session: &Session, command: PaymentsCommand, json: bool) -> anyhow::Result<()> {
    match command {
        PaymentsCommand::List(reference) => {
            let order = session.order(&reference.order).await?;
            if json {
                return output::json(&GetOrderResponse { order: Some(order) });
            }
            show(&order);
            Ok(())
        }
        PaymentsCommand::Capture(args) => capture(session, args, json).await,
        PaymentsCommand::Void(args) => void(session, args, json).await,
    }
}

async fn capture(session: &Session, args: CapturePaymentArgs, json: bool) -> anyhow::Result<()> {
    let order = session.order(&args.order.order).await?;
    let amount = amount(args.amount.as_deref(), &order.currency_code).context("--amount")?;
    let request = CapturePaymentRequest {
        merchant_id: session.merchant_id.clone(),
        store_id: session.store_id.clone(),
        request_id: super::request_id(),
        payment_id: authorization(&order, args.payment.as_deref())?,
        order_id: order.order_id,
        amount,
        is_final: args.is_final,
    };
    let answer = session.orders()?.capture_payment(request).await?.into_inner();
    if json {
        return output::json(&answer);
    }
    show_attempts(&[answer.attempt.context(NO_ATTEMPT)?]);
    Ok(())
}

async fn void(session: &Session, args: VoidPaymentArgs, json: bool) -> anyhow::Result<()> {
    let order = session.order(&args.order.order).await?;
    let request = VoidPaymentRequest {
        merchant_id: session.merchant_id.clone(),
        store_id: session.store_id.clone(),
        request_id: super::request_id(),
        payment_id: authorization(&order, args.payment.as_deref())?,
        order_id: order.order_id,
    };
    let answer = session.orders()?.void_payment(request).await?.into_inner();
    if json {
        return output::json(&answer);
    }
    show_attempts(&[answer.attempt.context(NO_ATTEMPT)?]);
    Ok(())
}

/// The authorisation that is meant: the one that is named, or the only one there is.
fn authorization(order: &Order, named: Option<&str>) -> anyhow::Result<String> {
    if let Some(named) = named {
        return Ok(named.to_owned());
    }
    let of: Vec<&str> = (order.payments.iter())
        .filter(|payment| payment.kind() == PaymentKind::Authorization)
        .map(|payment| payment.payment_id.as_str())
        .collect();
    match of.as_slice() {
        [] => bail!("nothing is authorised for order {}", order.number),
        [only] => Ok((*only).to_owned()),
        several => bail!(
            "order {} has {} authorisations; name one with --payment: {}",
            order.number,
            several.len(),
            several.join(", ")
        ),
    }
}

fn show(order: &Order) {
    line(format!(
        "order {}  captured {}, on its way {}, disputed {}, lost {}",
        order.number,
        money(order.captured.as_ref()),
        money(order.capturing.as_ref()),
        money(order.disputed.as_ref()),
        money(order.dispute_lost.as_ref()),
    ));
    line(
        table(
            &[
                "time (UTC)",
                "kind",
                ">amount",
                "provider",
                "its id",
                "reason",
                "payment",
            ],
            order.payments.iter().map(|payment| {
                [
                    time(payment.occurred_at.as_ref()),
                    word(payment.kind().as_str_name(), "PAYMENT_KIND"),
                    money(payment.amount.as_ref()),
                    payment.provider.clone(),
                    payment.provider_payment_id.clone(),
                    payment.reason.clone(),
                    payment.payment_id.clone(),
                ]
            }),
        )
        .to_string(),
    );
    if !order.payment_attempts.is_empty() {
        show_attempts(&order.payment_attempts);
    }
}

fn show_attempts(attempts: &[PaymentAttempt]) {
    line(
        table(
            &[
                "asked (UTC)",
                "for",
                ">amount",
                "state",
                "because of",
                "reason",
                ">calls",
                "attempt",
            ],
            attempts.iter().map(|attempt| {
                let kind = PaymentAttemptKind::try_from(attempt.kind).unwrap_or_default();
                let state = PaymentAttemptState::try_from(attempt.state).unwrap_or_default();
                let cause = PaymentAttemptCause::try_from(attempt.cause).unwrap_or_default();
                [
                    time(attempt.created_at.as_ref()),
                    word(kind.as_str_name(), "PAYMENT_ATTEMPT_KIND"),
                    money(attempt.amount.as_ref()),
                    word(state.as_str_name(), "PAYMENT_ATTEMPT_STATE"),
                    word(cause.as_str_name(), "PAYMENT_ATTEMPT_CAUSE"),
                    attempt.reason.clone(),
                    attempt.calls.to_string(),
                    attempt.attempt_id.clone(),
                ]
            }),
        )
        .to_string(),
    );
}

#[cfg(test)]
mod tests {
    use waybill_proto::waybill::order::v1::Payment;

    use super::*;

    fn payment(payment_id: &str, kind: PaymentKind) -> Payment {
        Payment {
            payment_id: payment_id.to_owned(),
            kind: kind.into(),
            ..Payment::default()
        }
    }

    #[test]
    fn the_only_authorisation_need_not_be_named() {
        let mut order = Order {
            payments: vec![payment("c", PaymentKind::Capture)],
            ..Order::default()
        };
        assert!(authorization(&order, None).is_err());
        order.payments.push(payment("a", PaymentKind::Authorization));
        assert_eq!(authorization(&order, None).ok().as_deref(), Some("a"));
        order.payments.push(payment("b", PaymentKind::Authorization));
        let several = authorization(&order, None).expect_err("two").to_string();
        assert!(several.contains("a, b"), "{several}");
        assert_eq!(authorization(&order, Some("b")).ok().as_deref(), Some("b"));
    }
}
