//! What comes in from the logs of others: applied once, whatever is repeated, and what follows from a cancellation.

use anyhow::Result;
use waybill_events::{Event, FoldError};
use waybill_kernel::id::PaymentId;
use waybill_proto::waybill::order::v1 as order;
use waybill_proto::waybill::refund::v1 as proto;
use waybill_refund::app::cancelled_order::CancelledOrder;
use waybill_refund::domain::compose::Ask;
use waybill_refund::domain::refund::{ComponentKind, Refund, RefundState, refund_because};
use waybill_refund::error::Error;
use waybill_refund::store;

use crate::bench::{Bench, Placed};

async fn jobs(bench: &Bench) -> Result<Vec<(String, serde_json::Value)>> {
    Ok(sqlx::query_as(
        "SELECT key, payload FROM jobs WHERE kind = 'refund.order_cancelled' ORDER BY created_at, key",
    )
    .fetch_all(bench.db.pool())
    .await?)
}

/// Does what the job says.
async fn carry_out(
    bench: &Bench,
    order: &Placed,
    late_capture: Option<(PaymentId, i64)>,
) -> Result<Option<Refund>, Error> {
    let case = CancelledOrder {
        core: &bench.core,
        tenant: bench.tenant,
        order_id: order.order_id,
        late_capture,
        job: None,
    };
    bench.db.run(&case).await
}

fn cancelled(bench: &Bench, order: &Placed) -> waybill_events::Event {
    let message = order::OrderCancelled {
        order_id: order.order_id.to_string(),
        reason: "changed their mind".to_owned(),
        currency_code: "EUR".to_owned(),
        captured_minor: 0,
    };
    bench.event("order", order.order_id, 9, &message)
}

#[tokio::test]
async fn what_is_told_twice_counts_once() -> Result<()> {
    let bench = Bench::start().await?;
    let (mut order, placed) = bench.placed(&[(3, 3_000, &[570])], &[(400, 76)]);
    let total = order.total;
    let captured = bench.capture(&mut order, "sandbox", total)?;
    let mut events = vec![placed, captured];
    events.extend(bench.shipment(order.order_id, &[(order.lines[0], 2)], bench.clock.now()));
    bench.fold(&events).await?;
    bench.fold(&events).await?;
    let mut conn = bench.conn().await?;
    let loaded = waybill_refund::store::book::read(&mut conn, bench.tenant, order.order_id).await?;
    let book = loaded.expect("the order is known").book;
    assert_eq!((book.balance.captured, book.payments.len()), (order.total, 1));
    assert_eq!(
        (book.lines[0].shipped, book.lines[0].delivered_at.is_some()),
        (2, true)
    );
    assert_eq!(book.seen_version, 2);
    let accounts = bench.accounts(order.order_id).await?;
    assert_eq!(
        accounts.get("clearing:sandbox"),
        Some(&order.total),
        "R-5: booked once"
    );
    assert_eq!(accounts.get("sales"), Some(&-3_000));
    assert_eq!(accounts.get("shipping_income"), Some(&-400));
    assert_eq!(accounts.get("tax_payable"), Some(&-646));
    assert_eq!(accounts.get("receivable"), Some(&0));
    Ok(())
}

#[tokio::test]
async fn an_order_that_cannot_be_cut_is_poison() -> Result<()> {
    let bench = Bench::start().await?;
    let (_, broken) = bench.placed(&[(1, -5, &[])], &[]);
    let error = bench
        .fold(&[broken])
        .await
        .expect_err("a negative line has no slots");
    assert!(
        matches!(error.downcast_ref::<FoldError>(), Some(FoldError::Poison(_))),
        "{error:?}"
    );
    let (mut order, placed) = bench.placed(&[(1, 500, &[])], &[]);
    let mut other = bench.capture(&mut order, "sandbox", 500)?;
    let mut message: order::PaymentRecorded = other.decode()?;
    message.currency_code = "USD".to_owned();
    other.payload = prost::Message::encode_to_vec(&message).into();
    let error = bench
        .fold(&[placed, other])
        .await
        .expect_err("the order is in euros");
    assert!(
        matches!(error.downcast_ref::<FoldError>(), Some(FoldError::Poison(_))),
        "{error:?}"
    );
    Ok(())
}

/// R-1c, R-5: what a dispute took cannot be refunded once more; kinds of payments that move nothing of ours are passed over.
#[tokio::test]
async fn a_lost_dispute_takes_what_can_go_back() -> Result<()> {
    let bench = Bench::start().await?;
    let (mut order, placed) = bench.placed(&[(1, 1_000, &[])], &[]);
    let captured = bench.capture(&mut order, "sandbox", 1_000)?;
    let told = |kind: &str, minor| -> Result<Event> {
        let message = order::PaymentRecorded {
            kind: kind.to_owned(),
            payment_id: PaymentId::generate().to_string(),
            amount_minor: minor,
            dispute_id: "dp_1".to_owned(),
            ..captured.decode()?
        };
        Ok(bench.event("order", order.order_id, 3, &message))
    };
    let nothing = [
        "authorization",
        "void",
        "failure",
        "dispute",
        "dispute_won",
        "of_a_later_version",
    ];
    let mut events = vec![placed, captured.clone()];
    for kind in nothing {
        events.push(told(kind, 5_000)?);
    }
    // In the batch of the payment itself.
    events.push(told("dispute_lost", 300)?);
    bench.fold(&events).await?;
    bench.fold(&[told("dispute_lost", 50)?]).await?;

    let loaded = store::book::read(&mut *bench.conn().await?, bench.tenant, order.order_id).await?;
    let book = loaded.expect("the order is there").book;
    for balance in [book.balance, book.payments[0].balance] {
        assert_eq!(
            (balance.captured, balance.outside, balance.refundable()),
            (1_000, 350, 650)
        );
    }
    let accounts = bench.accounts(order.order_id).await?;
    assert_eq!(accounts.get("chargebacks"), Some(&350));
    assert_eq!(accounts.get("clearing:sandbox"), Some(&650));
    assert_eq!(accounts.values().sum::<i64>(), 0);
    Ok(())
}

#[tokio::test]
async fn a_cancelled_order_gives_everything_back() -> Result<()> {
    let bench = Bench::start().await?;
    let (mut order, placed) = bench.placed(&[(3, 3_000, &[570])], &[(400, 76)]);
    let total = order.total;
    let captured = bench.capture(&mut order, "sandbox", total)?;
    bench.fold(&[placed, captured, cancelled(&bench, &order)]).await?;
    let queued = jobs(&bench).await?;
    assert_eq!(
        queued.len(),
        1 + 1,
        "the cancellation, and the capture in the same breath"
    );

    let refund = carry_out(&bench, &order, None).await?.expect("there is money");
    assert_eq!(
        (refund.amount, refund.reason_key.as_str()),
        (order.total, "order_cancelled")
    );
    assert!(
        carry_out(&bench, &order, Some((order.payments[0].0, order.total)))
            .await?
            .is_none(),
        "it is on its way already"
    );
    bench.submit(&refund, 0).await?;
    assert_eq!(bench.state(&refund).await?, RefundState::Succeeded);
    let told = &bench.heard::<proto::RefundCreated>(order.order_id).await?[0];
    assert_eq!(
        (told.reason.as_str(), told.amount_minor),
        ("order_cancelled", order.total)
    );
    bench.audit(&order).await
}

#[tokio::test]
async fn a_cancelled_order_that_was_paid_in_part_gives_that_part_back() -> Result<()> {
    let bench = Bench::start().await?;
    let (mut order, placed) = bench.placed(&[(3, 3_000, &[])], &[]);
    let captured = bench.capture(&mut order, "sandbox", 1_000)?;
    bench.fold(&[placed, captured]).await?;
    bench.fold(&[cancelled(&bench, &order)]).await?;
    let refund = carry_out(&bench, &order, None).await?.expect("there is money");
    assert_eq!(refund.amount, 1_000);
    let unpaid = refund
        .components
        .iter()
        .find(|part| part.kind == ComponentKind::Unpaid);
    assert_eq!(unpaid.map(|part| part.net), Some(-2_000));
    assert_eq!(
        bench.accounts(order.order_id).await?.get("receivable"),
        Some(&0),
        "nobody owes anything"
    );

    // Money that comes in afterwards goes back too.
    let late = bench.capture(&mut order, "sandbox", 700)?;
    bench.fold(&[late]).await?;
    let (_, payload) = jobs(&bench).await?.pop().expect("a job for the late capture");
    let payment_id = order.payments[1].0;
    assert_eq!(payload["payment_id"], payment_id.to_string());
    assert_eq!(payload["late_capture"], 700);
    let second = carry_out(&bench, &order, Some((payment_id, 700)))
        .await?
        .expect("there is more money");
    assert_eq!(second.amount, 700);
    let again = refund_because(order.order_id, &format!("late:{payment_id}"));
    assert_eq!(
        second.refund_id, again,
        "R-2a: decided again, it is the same refund"
    );
    bench.submit(&refund, 0).await?;
    bench.submit(&second, 0).await?;
    assert_eq!(bench.accounts(order.order_id).await?.get("receivable"), Some(&0));
    bench.audit(&order).await
}

#[tokio::test]
async fn a_cancelled_order_that_was_never_paid_is_taken_back_in_the_books() -> Result<()> {
    let bench = Bench::start().await?;
    let (order, placed) = bench.placed(&[(3, 3_000, &[570])], &[(400, 76)]);
    bench.fold(&[placed, cancelled(&bench, &order)]).await?;
    for _ in 0..2 {
        assert!(carry_out(&bench, &order, None).await?.is_none());
    }
    let accounts = bench.accounts(order.order_id).await?;
    assert_eq!((accounts["receivable"], accounts["tax_payable"]), (0, 0));
    assert_eq!((accounts["sales"], accounts["sales_returns"]), (-3_000, 3_000));
    let refused = bench.refund_units(&order, 0, 1).await;
    assert!(matches!(refused, Err(Error::NothingCaptured)), "{refused:?}");
    bench.audit(&order).await
}

#[tokio::test]
async fn an_order_is_asked_for_before_it_is_here() -> Result<()> {
    let bench = Bench::start().await?;
    let (order, placed) = bench.placed(&[(1, 500, &[])], &[]);
    let mut case = bench.ask(
        &order,
        Ask {
            shipping: true,
            ..Ask::default()
        },
    );
    assert!(matches!(bench.db.run(&case).await, Err(Error::OrderNotFound(_))));
    case.min_order_version = 1;
    assert!(matches!(
        bench.db.run(&case).await,
        Err(Error::OrderNotSeenYet { wanted: 1, .. })
    ));
    bench.fold(&[placed]).await?;
    assert!(matches!(bench.db.run(&case).await, Err(Error::ShippingNotFree)));
    case.min_order_version = 2;
    assert!(matches!(
        bench.db.run(&case).await,
        Err(Error::OrderNotSeenYet { wanted: 2, .. })
    ));
    Ok(())
}
