//! Fifty callers at once, in two processes, over one authorisation: one wins, the others are told why (O-26, O-28).

use anyhow::Result;
use futures_util::future::join_all;
use tonic::Status;
use waybill_proto::waybill::order::v1 as proto;
use waybill_proto::waybill::order::v1::{OrderStatus, PaymentAttemptKind, PaymentAttemptState, PaymentKind};

use crate::harness::Replica;
use crate::shop::{Shop, refusal};
use crate::till::{Sale, Till, capture, try_capture, try_void};

const CALLERS: usize = 50;

async fn callers(till: &Till) -> (Vec<Shop>, Replica) {
    let replica = till.service.replica().await;
    let elsewhere = Shop {
        client: replica.client(&till.service, &till.shop),
        ..till.shop.clone()
    };
    let callers = (0..CALLERS).map(|n| {
        if n % 2 == 0 {
            till.shop.clone()
        } else {
            elsewhere.clone()
        }
    });
    (callers.collect(), replica)
}

/// Why losers lost: somebody else's attempt was in flight, or had taken everything.
fn is_told_why(refused: Result<proto::PaymentAttempt, Status>) {
    let (_, reason) = refusal(refused);
    let known = [
        "PAYMENT_IN_FLIGHT",
        "CAPTURE_EXCEEDS_AUTHORIZATION",
        "NOTHING_AUTHORIZED",
        "ORDER_CANCELLED",
    ];
    assert!(known.contains(&reason.as_str()), "{reason}");
}

#[tokio::test]
async fn one_of_fifty_captures_wins() -> Result<()> {
    let till = Till::start().await?;
    let sale = till.sale("1", 1000).await?;
    let (callers, _replica) = callers(&till).await;
    let calls = callers
        .iter()
        .enumerate()
        .map(|(n, shop)| try_capture(shop, capture(shop, &format!("c-{n}"), &sale, None)));
    let (won, refused): (Vec<_>, Vec<_>) = join_all(calls).await.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1);
    refused.into_iter().for_each(is_told_why);
    let order = till.settled(&sale).await;
    assert_eq!(order.payment_attempts.len(), 1);
    assert_eq!(till.sandbox.captured(&sale.intent), 1000);
    till.audit(&sale).await
}

#[tokio::test]
async fn one_request_id_is_one_capture() -> Result<()> {
    let till = Till::start().await?;
    let sale = till.sale("1", 1000).await?;
    let (callers, _replica) = callers(&till).await;
    let calls = callers
        .iter()
        .map(|shop| try_capture(shop, capture(shop, "c-1", &sale, Some(400))));
    let answers: Vec<proto::PaymentAttempt> = join_all(calls).await.into_iter().collect::<Result<_, _>>()?;
    assert!(
        answers
            .iter()
            .all(|answer| answer.attempt_id == answers[0].attempt_id)
    );
    till.settled(&sale).await;
    assert_eq!(till.sandbox.captured(&sale.intent), 400);
    till.audit(&sale).await
}

/// Captures of parts, voids and cancellations at once. Whatever wins, the money adds up at every step: nothing is taken for a
/// cancelled order, and what is not taken in the end is released.
#[tokio::test]
async fn captures_voids_and_cancellations_at_once_have_one_winner() -> Result<()> {
    let till = Till::start().await?;
    let (callers, _replica) = callers(&till).await;
    for round in 0..6 {
        let sale = till.sale(&format!("{round}"), 1000).await?;
        let calls = callers.iter().enumerate().map(|(n, shop)| {
            let sale = &sale;
            async move {
                let request_id = format!("r-{round}-{n}");
                match n % 3 {
                    0 => try_capture(shop, capture(shop, &request_id, sale, None))
                        .await
                        .map(|_| "capture"),
                    1 => try_void(shop, &request_id, sale).await.map(|_| "void"),
                    _ => shop
                        .cancel(&request_id, &sale.order_id, "")
                        .await
                        .map(|_| "cancel"),
                }
            }
        });
        let mut won = Vec::new();
        for (n, answer) in join_all(calls).await.into_iter().enumerate() {
            match answer {
                Ok(what) => won.push(what),
                Err(status) if n % 3 == 2 => {
                    let (_, reason) = refusal(Err::<(), _>(status));
                    assert!(
                        ["PAYMENT_IN_FLIGHT", "ORDER_NOT_CANCELLABLE"].contains(&reason.as_str()),
                        "{reason}"
                    );
                }
                Err(status) => is_told_why(Err(status)),
            }
        }
        let of = |what| won.iter().filter(|winner| **winner == what).count();
        assert!(of("capture") + of("void") <= 1, "one attempt: {won:?}");
        assert!(of("cancel") <= 1 && !won.is_empty(), "{won:?}");
        end(&till, &sale).await?;
    }
    Ok(())
}

/// The order at its end: settled, and, where it is cancelled, with nothing authorised.
async fn end(till: &Till, sale: &Sale) -> Result<()> {
    let open = |order: &proto::Order| {
        let sum = |kind| -> i64 {
            let of = order.payments.iter().filter(|payment| payment.kind() == kind);
            of.filter_map(|payment| payment.amount.as_ref())
                .map(|amount| amount.minor_units)
                .sum()
        };
        sum(PaymentKind::Authorization) - sum(PaymentKind::Capture) - sum(PaymentKind::Void)
    };
    let order = crate::fold::until(&till.shop, &sale.order_id, "its end", |order| {
        let settled = order
            .payment_attempts
            .iter()
            .all(|attempt| attempt.state() == PaymentAttemptState::Succeeded);
        settled && (order.status() != OrderStatus::Cancelled || open(order) == 0)
    })
    .await;
    let captures = order
        .payment_attempts
        .iter()
        .filter(|attempt| attempt.kind() == PaymentAttemptKind::Capture)
        .count();
    assert!(captures <= 1);
    assert_eq!(
        till.sandbox.captured(&sale.intent),
        if captures == 1 { 1000 } else { 0 }
    );
    till.audit(sale).await
}
