//! R-4 and the life of legs: refused, taken up again, bounced by the bank, paid against what we hold, carried out by hand.

use anyhow::Result;
use waybill_events::Event;
use waybill_kernel::id::PaymentId;
use waybill_payments::sandbox::{Fault, Status};
use waybill_proto::waybill::order::v1 as order;
use waybill_proto::waybill::refund::v1 as proto;
use waybill_refund::app::apply_word::{About, ApplyWord};
use waybill_refund::app::approve_refund::ApproveRefund;
use waybill_refund::app::retry_leg::RetryLeg;
use waybill_refund::domain::policy::Policy;
use waybill_refund::domain::refund::{Refund, RefundState};
use waybill_refund::domain::settle::Outcome;
use waybill_refund::error::Error;
use waybill_refund::workers::Progress;

use crate::bench::{Bench, Placed, failed, only_leg, policy};

fn retry<'a>(bench: &'a Bench, refund: &Refund, leg: usize) -> RetryLeg<'a> {
    RetryLeg {
        core: &bench.core,
        tenant: bench.tenant,
        refund_id: refund.refund_id,
        leg_id: refund.legs[leg].leg_id,
    }
}

#[tokio::test]
async fn a_refused_leg_is_free_again_and_retried_under_a_new_key() -> Result<()> {
    let bench = Bench::start().await?;
    let (order, refund) = bench.one().await?;
    bench.sandbox.inject(Fault::Failed {
        failure_reason: "expired_or_canceled_card".to_owned(),
    });
    assert_eq!(bench.submit(&refund, 0).await?, Progress::Settled);
    let now = bench.get(refund.refund_id).await?;
    assert_eq!((now.state, now.holds), (RefundState::Failed, false));
    assert_eq!(now.legs[0].failure_reason, "expired_or_canceled_card");
    bench.audit(&order).await?;
    let told = bench.heard::<proto::RefundFailed>(order.order_id).await?;
    assert!(matches!(&told[..], [failed] if !failed.was_succeeded && failed.amount_minor == refund.amount));

    let retry = retry(&bench, &refund, 0);
    let again = bench.db.run(&retry).await?;
    assert_eq!(
        (again.state, again.legs[0].attempt, again.holds),
        (RefundState::Pending, 2, true)
    );
    assert!(
        matches!(bench.db.run(&retry).await, Err(Error::IllegalTransition(_))),
        "only a failed leg is retried"
    );
    // A late word about the first attempt does not touch the second.
    let first = bench.sandbox.ledger()[0].id.clone();
    let heard = bench.db.run(&bench.webhook(&refund, &first, failed())).await?;
    assert_eq!(heard.state, RefundState::Pending);
    let heard = bench
        .db
        .run(&bench.webhook(&refund, &first, Outcome::Succeeded))
        .await?;
    assert_eq!(
        heard.state,
        RefundState::Pending,
        "the provider's no to it was final"
    );

    assert_eq!(bench.submit(&again, 0).await?, Progress::Settled);
    let ledger = bench.sandbox.ledger();
    assert_eq!(ledger.len(), 2);
    assert_ne!(ledger[0].idempotency_key, ledger[1].idempotency_key);
    assert_eq!(ledger.iter().filter(|entry| entry.is_paid()).count(), 1);
    assert_eq!(bench.state(&refund).await?, RefundState::Succeeded);
    bench.audit(&order).await
}

#[tokio::test]
async fn money_that_comes_back_from_the_bank_is_payable_again() -> Result<()> {
    let bench = Bench::start().await?;
    let (order, refund) = bench.one().await?;
    bench.submit(&refund, 0).await?;
    let id = bench.sandbox.ledger()[0].id.clone();
    let bounced = bench
        .sandbox
        .settle(&id, Some("insufficient_funds"))
        .map(|entry| entry.status);
    assert_eq!(bounced, Some(Status::Failed));
    let heard = bench.db.run(&bench.webhook(&refund, &id, failed())).await?;
    assert_eq!(heard.state, RefundState::Failed);
    bench.audit(&order).await?;
    let told = bench.heard::<proto::RefundFailed>(order.order_id).await?;
    assert!(matches!(&told[..], [failed] if failed.was_succeeded && failed.order_refunded_minor == 0));
    // The units are free: another refund may take them, and then the first cannot come back.
    let other = bench.refund_units(&order, 0, 3).await?;
    let retry = retry(&bench, &refund, 0);
    assert!(matches!(
        bench.db.run(&retry).await,
        Err(Error::ExceedsRefundable { .. })
    ));
    bench.submit(&other, 0).await?;
    bench.audit(&order).await?;
    assert_eq!(bench.sandbox.paid_out(&order.payments[0].1), order.total);
    Ok(())
}

#[tokio::test]
async fn a_success_against_what_we_hold_is_listed_and_not_paid_again() -> Result<()> {
    let bench = Bench::start().await?;
    let (order, refund) = bench.one().await?;
    bench.submit(&refund, 0).await?;
    // The same leg, paid a second time under another id: a provider without keys, or a mistake by hand.
    for _ in 0..2 {
        let heard = bench
            .db
            .run(&bench.webhook(&refund, "re_twin", Outcome::Succeeded))
            .await?;
        assert_eq!(heard.state, RefundState::Succeeded);
    }
    let listed: Vec<(String, i64)> = sqlx::query_as("SELECT provider_refund_id, amount FROM breaches")
        .fetch_all(bench.db.pool())
        .await?;
    assert_eq!(
        listed,
        [("re_twin".to_owned(), refund.amount)],
        "heard twice, listed once"
    );
    let refused = bench.refund_units(&order, 0, 1).await;
    assert!(
        matches!(refused, Err(Error::ExceedsRefundable { .. })),
        "R-1: what left cannot leave again: {refused:?}"
    );
    let accounts = bench.accounts(order.order_id).await?;
    assert_eq!(
        accounts.get("receivable"),
        Some(&refund.amount),
        "the customer owes it"
    );
    assert_eq!(accounts.values().sum::<i64>(), 0);
    Ok(())
}

#[tokio::test]
async fn a_payment_without_an_adapter_is_carried_out_by_a_person() -> Result<()> {
    let bench = Bench::start().await?;
    let (mut order, placed) = bench.placed(&[(1, 5_000, &[])], &[]);
    let captured = bench.capture(&mut order, "cash_on_delivery", 5_000)?;
    bench.fold(&[placed, captured]).await?;
    let refund = bench.refund_units(&order, 0, 1).await?;
    assert_eq!(refund.legs[0].provider, "manual");
    assert_eq!(bench.submit(&refund, 0).await?, Progress::Manual);
    let waiting = bench.get(refund.refund_id).await?;
    assert_eq!(waiting.state, RefundState::Submitted);
    let id = waiting.legs[0]
        .provider_refund_id
        .clone()
        .expect("the manual provider names it");
    let about = About::Told {
        tenant: bench.tenant,
        provider: "manual".to_owned(),
        leg_id: Some(only_leg(&refund)),
    };
    let word = ApplyWord {
        core: &bench.core,
        about,
        provider_refund_id: id,
        outcome: Outcome::Succeeded,
    };
    assert_eq!(bench.db.run(&word).await?.state, RefundState::Succeeded);
    bench.audit(&order).await
}

#[tokio::test]
async fn a_refund_over_two_payments_has_two_legs_with_lives_of_their_own() -> Result<()> {
    let bench = Bench::start().await?;
    let order = bench.delivered(&[(2, 1_000, &[])], &[], &[300]).await?;
    let refund = bench.refund_units(&order, 0, 2).await?;
    assert_eq!(
        refund.legs.iter().map(|leg| leg.amount).collect::<Vec<_>>(),
        [300, 700]
    );
    bench.sandbox.inject_for(
        &order.payments[1].1,
        Fault::Failed {
            failure_reason: "declined".to_owned(),
        },
        1,
    );
    bench.submit(&refund, 0).await?;
    bench.submit(&refund, 1).await?;
    let now = bench.get(refund.refund_id).await?;
    assert_eq!(
        (now.state, now.holds),
        (RefundState::Failed, true),
        "half of it is paid: its units stay taken"
    );
    assert!(matches!(
        bench.refund_units(&order, 0, 1).await,
        Err(Error::UnitsNotFree { .. })
    ));
    bench.audit(&order).await?;
    let retry = retry(&bench, &refund, 1);
    let again = bench.db.run(&retry).await?;
    bench.submit(&again, 1).await?;
    assert_eq!(bench.state(&refund).await?, RefundState::Succeeded);
    let succeeded = bench.heard::<proto::RefundSucceeded>(order.order_id).await?;
    assert!(
        matches!(&succeeded[..], [told] if told.amount_minor == 1_000),
        "{succeeded:?}"
    );
    bench.audit(&order).await
}

#[tokio::test]
async fn a_leg_that_the_provider_contradicts_is_not_retried() -> Result<()> {
    let bench = Bench::start().await?;
    let (order, refund) = bench.one().await?;
    // The call was refused without an id of its own; later the provider tells that it paid.
    bench.sandbox.inject(Fault::RateLimited {
        retry_after_seconds: 1,
    });
    assert!(bench.submit(&refund, 0).await.is_err());
    let about = About::Attempt {
        leg_id: only_leg(&refund),
        attempt: 1,
    };
    let word = ApplyWord {
        core: &bench.core,
        about,
        provider_refund_id: String::new(),
        outcome: failed(),
    };
    assert_eq!(bench.db.run(&word).await?.state, RefundState::Failed);
    let heard = bench
        .db
        .run(&bench.webhook(&refund, "re_ghost", Outcome::Succeeded))
        .await?;
    assert_eq!(heard.state, RefundState::Failed, "a person decides");
    let again = bench.db.run(&retry(&bench, &refund, 0)).await;
    assert!(matches!(again, Err(Error::ProviderContradicts(_))), "{again:?}");
    let left = bench.refund_units(&order, 0, 2).await;
    assert!(
        matches!(left, Err(Error::ExceedsRefundable { .. })),
        "R-1c: what left cannot leave again: {left:?}"
    );
    Ok(())
}

/// A dispute over a capture is lost, and takes so much.
async fn lose(bench: &Bench, order: &Placed, captured: &Event, amount_minor: i64) -> Result<()> {
    let message = order::PaymentRecorded {
        kind: "dispute_lost".to_owned(),
        payment_id: PaymentId::generate().to_string(),
        amount_minor,
        dispute_id: "dp_1".to_owned(),
        ..captured.decode()?
    };
    bench
        .fold(&[bench.event("order", order.order_id, 3, &message)])
        .await
}

/// R-1c: what was promised before a dispute took its money is not sent after it, also when somebody approves it meanwhile.
#[tokio::test]
async fn a_leg_whose_money_left_meanwhile_is_not_sent() -> Result<()> {
    let bench = Bench::start().await?;
    bench
        .publish(Policy {
            second_approval_above: [("EUR".to_owned(), 900)].into(),
            ..policy()
        })
        .await?;
    for (provider, net, lost, state) in [
        ("sandbox", 1_000, 1_000, RefundState::PendingApproval),
        ("sandbox", 800, 300, RefundState::Pending),
        ("cash_on_delivery", 1_000, 1, RefundState::PendingApproval),
    ] {
        let (mut order, placed) = bench.placed(&[(1, net, &[])], &[]);
        let captured = bench.capture(&mut order, provider, net)?;
        bench.fold(&[placed, captured.clone()]).await?;
        let refund = bench.refund_units(&order, 0, 1).await?;
        assert_eq!(refund.state, state);
        lose(&bench, &order, &captured, lost).await?;
        if state == RefundState::PendingApproval {
            let approve = ApproveRefund {
                core: &bench.core,
                tenant: bench.tenant,
                refund_id: refund.refund_id,
                caller: "manager".to_owned(),
            };
            bench.db.run(&approve).await?;
        }
        assert_eq!(bench.submit(&refund, 0).await?, Progress::Settled);

        let now = bench.get(refund.refund_id).await?;
        assert_eq!(
            (now.state, now.holds, now.legs[0].calls),
            (RefundState::Failed, false, 0)
        );
        assert_eq!(now.legs[0].failure_reason, "exceeds_refundable");
        assert_eq!(bench.sandbox.paid_out(&order.payments[0].1), 0);
        let told = bench.heard::<proto::RefundFailed>(order.order_id).await?;
        assert!(matches!(&told[..], [failed] if !failed.was_succeeded && failed.amount_minor == net));
        let accounts = bench.accounts(order.order_id).await?;
        assert_eq!(
            accounts.get("refunds_payable"),
            Some(&0),
            "R-5: it is owed no more"
        );
        assert!(matches!(
            bench.db.run(&retry(&bench, &refund, 0)).await,
            Err(Error::ExceedsRefundable { .. })
        ));
    }

    // What was not promised may leave.
    let (mut order, placed) = bench.placed(&[(2, 1_600, &[])], &[]);
    let captured = bench.capture(&mut order, "sandbox", 1_600)?;
    bench.fold(&[placed, captured.clone()]).await?;
    let refund = bench.refund_units(&order, 0, 1).await?;
    lose(&bench, &order, &captured, 800).await?;
    assert_eq!(bench.submit(&refund, 0).await?, Progress::Settled);
    assert_eq!(bench.state(&refund).await?, RefundState::Succeeded);
    Ok(())
}
