//! Returns from request to money, by the policy that was in force when the order was placed.

use anyhow::Result;
use chrono::TimeDelta;
use waybill_kernel::id::LineId;
use waybill_proto::waybill::order::v1::OrderContactErased;
use waybill_proto::waybill::refund::v1 as proto;
use waybill_refund::app::approve_refund::ApproveRefund;
use waybill_refund::app::decide_return::{DecideReturn, Verdict};
use waybill_refund::app::publish_policy::PublishPolicy;
use waybill_refund::app::quote_return::QuoteReturn;
use waybill_refund::app::receive_return::ReceiveReturn;
use waybill_refund::app::request_return::RequestReturn;
use waybill_refund::domain::compose::Ask;
use waybill_refund::domain::decision::Wish;
use waybill_refund::domain::policy::{Policy, RefundTiming, ReturnReason};
use waybill_refund::domain::refund::{ComponentKind, RefundState};
use waybill_refund::domain::returns::{Disposition, Return, ReturnState};
use waybill_refund::error::Error;

use crate::bench::{Bench, Placed, policy};

fn wish(order: &Placed, line: usize, quantity: i32, reason: ReturnReason) -> Wish {
    Wish {
        line_id: order.lines[line],
        quantity,
        reason,
    }
}

async fn request(bench: &Bench, order: &Placed, wishes: Vec<Wish>) -> Result<Return, Error> {
    let case = RequestReturn {
        core: &bench.core,
        tenant: bench.tenant,
        order_id: order.order_id,
        wishes,
        min_order_version: 0,
        caller: "customer".to_owned(),
    };
    bench.db.run(&case).await
}

async fn receive(bench: &Bench, of: &Return, received: Vec<(LineId, Disposition)>) -> Result<Return, Error> {
    let case = ReceiveReturn {
        core: &bench.core,
        tenant: bench.tenant,
        return_id: of.return_id,
        etag: of.version.to_string(),
        received,
    };
    bench.db.run(&case).await
}

async fn decide(bench: &Bench, of: &Return, etag: &str, verdict: Verdict) -> Result<Return, Error> {
    let case = DecideReturn {
        core: &bench.core,
        tenant: bench.tenant,
        return_id: of.return_id,
        etag: etag.to_owned(),
        verdict,
    };
    bench.db.run(&case).await
}

/// The customer of an order is forgotten.
async fn forget(bench: &Bench, order: &Placed) -> Result<()> {
    let erased = OrderContactErased {
        order_id: order.order_id.to_string(),
    };
    bench
        .fold(&[bench.event("order", order.order_id, 9, &erased)])
        .await
}

async fn reread(bench: &Bench, of: &Return) -> Result<Return> {
    let mut conn = bench.conn().await?;
    let found = waybill_refund::store::returns::get(&mut conn, bench.tenant, of.return_id).await?;
    found.ok_or_else(|| anyhow::anyhow!("the return is there"))
}

#[tokio::test]
async fn money_follows_the_goods() -> Result<()> {
    let bench = Bench::start().await?;
    bench.publish(policy()).await?;
    let order = bench
        .delivered(&[(3, 3_000, &[570]), (1, 500, &[95])], &[(400, 76)], &[])
        .await?;
    let wishes = vec![wish(&order, 0, 2, ReturnReason::Unwanted)];
    let quote = QuoteReturn {
        core: &bench.core,
        tenant: bench.tenant,
        order_id: order.order_id,
        wishes: wishes.clone(),
        min_order_version: 0,
    };
    let (quote, _) = quote.run(&bench.db).await?;
    assert_eq!(
        quote.total,
        2_000 + 380 - 200,
        "ten per cent of the goods without tax are kept"
    );

    let approved = request(&bench, &order, wishes).await?;
    assert_eq!((approved.state, &approved.quote), (ReturnState::Approved, &quote));
    assert_eq!(approved.refund_id, None, "this policy waits for the goods");

    let received = receive(&bench, &approved, vec![]).await?;
    assert_eq!(received.state, ReturnState::Received);
    assert_eq!(received.lines[0].disposition, Some(Disposition::Restock));
    let refund = bench.get(received.refund_id.expect("the goods are back")).await?;
    assert_eq!(refund.amount, quote.total, "what was quoted is what is paid");
    let kinds: Vec<_> = refund
        .components
        .iter()
        .map(|part| (part.kind, part.net, part.tax))
        .collect();
    assert_eq!(
        kinds,
        [(ComponentKind::Line, 2_000, 380), (ComponentKind::Fee, -200, 0)]
    );
    assert_eq!(refund.reason_key, "unwanted");

    bench.submit(&refund, 0).await?;
    assert_eq!(reread(&bench, &received).await?.state, ReturnState::Completed);
    let told = bench.told(order.order_id).await?;
    assert_eq!(
        told,
        [
            "ReturnRequested",
            "ReturnApproved",
            "RefundCreated",
            "ReturnReceived",
            "RefundStarted",
            "RefundSucceeded",
            "ReturnCompleted"
        ]
    );
    let accounts = bench.accounts(order.order_id).await?;
    assert_eq!(accounts.get("fee_income"), Some(&-200));
    bench.audit(&order).await
}

#[tokio::test]
async fn a_policy_may_pay_before_the_goods_are_back() -> Result<()> {
    let bench = Bench::start().await?;
    bench
        .publish(Policy {
            refund_timing: RefundTiming::OnApproval,
            ..policy()
        })
        .await?;
    let order = bench.delivered(&[(1, 1_000, &[])], &[(400, 0)], &[]).await?;
    let approved = request(&bench, &order, vec![wish(&order, 0, 1, ReturnReason::Damaged)]).await?;
    let refund = bench.get(approved.refund_id.expect("approved is paid")).await?;
    assert_eq!(
        refund.amount, 1_400,
        "the merchant's fault: no fee, and shipping goes back"
    );
    bench.submit(&refund, 0).await?;
    let paid = reread(&bench, &approved).await?;
    assert_eq!(paid.state, ReturnState::Approved, "it waits for its goods");
    let received = receive(&bench, &paid, vec![]).await?;
    assert_eq!(received.state, ReturnState::Completed);
    bench.audit(&order).await
}

/// What nobody had paid for when its return was approved is decided about when the goods are back.
#[tokio::test]
async fn a_return_of_what_is_not_paid_yet_waits_for_its_goods() -> Result<()> {
    for paid_meanwhile in [false, true] {
        let bench = Bench::start().await?;
        bench
            .publish(Policy {
                refund_timing: RefundTiming::OnApproval,
                ..policy()
            })
            .await?;
        let (mut order, placed) = bench.placed(&[(1, 1_000, &[])], &[]);
        let captured = bench.capture(&mut order, "sandbox", 1_000)?;
        let mut events = vec![placed];
        events.extend(bench.shipment(order.order_id, &[(order.lines[0], 1)], bench.clock.now()));
        bench.fold(&events).await?;
        let approved = request(&bench, &order, vec![wish(&order, 0, 1, ReturnReason::Damaged)]).await?;
        assert_eq!(
            (approved.state, approved.refund_id),
            (ReturnState::Approved, None)
        );
        if paid_meanwhile {
            bench.fold(std::slice::from_ref(&captured)).await?;
        }
        let received = receive(&bench, &approved, vec![]).await?;
        match received.refund_id {
            Some(refund_id) => {
                let refund = bench.get(refund_id).await?;
                assert_eq!((paid_meanwhile, refund.amount), (true, 1_000));
                bench.submit(&refund, 0).await?;
                assert_eq!(bench.state(&refund).await?, RefundState::Succeeded);
            }
            None => assert_eq!((paid_meanwhile, received.state), (false, ReturnState::Completed)),
        }
        if !paid_meanwhile {
            bench.fold(&[captured]).await?;
        }
        bench.audit(&order).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_declined_return_lets_its_units_go() -> Result<()> {
    let bench = Bench::start().await?;
    bench
        .publish(Policy {
            auto_approve_up_to: [].into(),
            ..policy()
        })
        .await?;
    let order = bench.delivered(&[(2, 1_000, &[])], &[], &[]).await?;
    let requested = request(&bench, &order, vec![wish(&order, 0, 2, ReturnReason::Other)]).await?;
    assert_eq!(requested.state, ReturnState::Requested);
    // While it is open nobody else gets its units, nor its money as goodwill.
    assert!(matches!(
        bench.refund_units(&order, 0, 1).await,
        Err(Error::UnitsNotFree { free: 0, .. })
    ));
    let goodwill = bench
        .db
        .run(&bench.ask(
            &order,
            Ask {
                goodwill: 1,
                ..Ask::default()
            },
        ))
        .await;
    assert!(
        matches!(goodwill, Err(Error::GoodwillExceeds { .. })),
        "{goodwill:?}"
    );
    let again = request(&bench, &order, vec![wish(&order, 0, 1, ReturnReason::Other)]).await;
    assert!(
        matches!(&again, Err(Error::NotReturnable { codes, .. }) if codes.contains("QUANTITY")),
        "{again:?}"
    );

    let stale = decide(&bench, &requested, "77", Verdict::Approve).await;
    assert!(matches!(stale, Err(Error::EtagMismatch { .. })));
    let reason = "worn".to_owned();
    let declined = decide(&bench, &requested, "1", Verdict::Decline { reason }).await?;
    assert_eq!(
        (declined.state, declined.decline_reason.as_str()),
        (ReturnState::Declined, "worn")
    );
    assert!(matches!(
        decide(&bench, &declined, "", Verdict::Approve).await,
        Err(Error::IllegalTransition(_))
    ));
    assert!(matches!(
        receive(&bench, &declined, vec![]).await,
        Err(Error::IllegalTransition(_))
    ));
    assert_eq!(bench.refund_units(&order, 0, 2).await?.amount, 1_000);
    bench.audit(&order).await?;

    // what was written to a customer who is forgotten goes, and is no change that anybody hears of.
    forget(&bench, &order).await?;
    let (reason, version): (String, i64) =
        sqlx::query_as("SELECT decline_reason, version FROM returns WHERE return_id = $1")
            .bind(declined.return_id.uuid())
            .fetch_one(bench.db.pool())
            .await?;
    assert_eq!((reason.as_str(), version), ("", declined.version));
    bench.audit(&order).await
}

/// the customer was forgotten before the return was declined.
#[tokio::test]
async fn nothing_is_kept_that_is_written_to_who_was_forgotten() -> Result<()> {
    let bench = Bench::start().await?;
    bench
        .publish(Policy {
            auto_approve_up_to: [].into(),
            ..policy()
        })
        .await?;
    let order = bench.delivered(&[(2, 1_000, &[])], &[], &[]).await?;
    let requested = request(&bench, &order, vec![wish(&order, 0, 2, ReturnReason::Other)]).await?;
    forget(&bench, &order).await?;
    let reason = "worn by its owner".to_owned();
    let declined = decide(&bench, &requested, "", Verdict::Decline { reason }).await?;
    for told in [&declined, &reread(&bench, &declined).await?] {
        assert_eq!(
            (told.state, told.decline_reason.as_str()),
            (ReturnState::Declined, "")
        );
    }
    bench.audit(&order).await
}

#[tokio::test]
async fn what_did_not_come_back_is_not_paid() -> Result<()> {
    let bench = Bench::start().await?;
    bench
        .publish(Policy {
            restocking_fee_ppm: 0,
            ..policy()
        })
        .await?;
    let order = bench
        .delivered(&[(1, 1_000, &[]), (1, 700, &[])], &[(300, 0)], &[])
        .await?;
    let wishes = vec![
        wish(&order, 0, 1, ReturnReason::Unwanted),
        wish(&order, 1, 1, ReturnReason::Unwanted),
    ];
    let approved = request(&bench, &order, wishes).await?;
    assert_eq!(approved.quote.total, 2_000, "everything and its shipping");
    let received = receive(&bench, &approved, vec![(order.lines[1], Disposition::Damaged)]).await?;
    let refund = bench
        .get(received.refund_id.expect("something came back"))
        .await?;
    assert_eq!(refund.amount, 700, "shipping was promised for the whole alone");
    let event = &bench.heard::<proto::ReturnReceived>(order.order_id).await?[0];
    let dispositions: Vec<_> = event.lines.iter().map(|line| line.disposition.as_str()).collect();
    assert_eq!(dispositions, ["not_returned", "damaged"]);
    // The other line and shipping are free again.
    let rest = Ask {
        lines: vec![(order.lines[0], 1)],
        shipping: true,
        goodwill: 0,
    };
    assert_eq!(bench.db.run(&bench.ask(&order, rest)).await?.amount, 1_300);
    bench.audit(&order).await
}

#[tokio::test]
async fn a_return_that_is_worth_nothing_ends_with_its_goods() -> Result<()> {
    let bench = Bench::start().await?;
    bench.publish(policy()).await?;
    let order = bench.delivered(&[(1, 0, &[]), (1, 900, &[])], &[], &[]).await?;
    let approved = request(&bench, &order, vec![wish(&order, 0, 1, ReturnReason::Unwanted)]).await?;
    let received = receive(&bench, &approved, vec![]).await?;
    assert_eq!(
        (received.state, received.refund_id),
        (ReturnState::Completed, None)
    );
    let told = bench.told(order.order_id).await?;
    assert_eq!(
        told,
        [
            "ReturnRequested",
            "ReturnApproved",
            "ReturnReceived",
            "ReturnCompleted"
        ]
    );
    bench.audit(&order).await
}

#[tokio::test]
async fn refusals_name_line_and_rule() -> Result<()> {
    let (bench, clock) = Bench::with_fake_clock().await?;
    let order = bench.delivered(&[(2, 1_000, &[])], &[], &[]).await?;
    let ask = |quantity| vec![wish(&order, 0, quantity, ReturnReason::Unwanted)];
    assert!(matches!(
        request(&bench, &order, ask(1)).await,
        Err(Error::PolicyNotFound)
    ));
    bench.publish(policy()).await?;
    request(&bench, &order, ask(1)).await?;
    clock.advance(TimeDelta::days(28));
    let late = request(&bench, &order, ask(1)).await;
    assert!(
        matches!(&late, Err(Error::NotReturnable { line_id, codes, .. })
            if *line_id == order.lines[0] && codes == "WINDOW_EXPIRED"),
        "{late:?}"
    );
    let unshipped = {
        let (mut order, placed) = bench.placed(&[(1, 500, &[])], &[]);
        let captured = bench.capture(&mut order, "sandbox", 500)?;
        bench.fold(&[placed, captured]).await?;
        request(&bench, &order, vec![wish(&order, 0, 1, ReturnReason::Unwanted)]).await
    };
    assert!(
        matches!(&unshipped, Err(Error::NotReturnable { codes, .. }) if codes == "NOT_SHIPPED"),
        "{unshipped:?}"
    );
    Ok(())
}

/// The policy of an order is the one in force when it was placed, and stays it.
#[tokio::test]
async fn a_later_policy_changes_nothing_for_earlier_orders() -> Result<()> {
    let bench = Bench::start().await?;
    let early = bench.delivered(&[(1, 1_000, &[])], &[], &[]).await?;
    let first = bench.publish(policy()).await?;
    let now = bench.clock.now();
    let stricter = Policy {
        valid_from: now,
        restocking_fee_ppm: 500_000,
        ..policy()
    };
    let second = bench.publish(stricter.clone()).await?;
    assert_eq!((first.version, second.version), (1, 2));
    let again = PublishPolicy {
        core: &bench.core,
        tenant: bench.tenant,
        policy: stricter,
        caller: "owner".to_owned(),
    };
    assert!(matches!(
        bench.db.run(&again).await,
        Err(Error::ValidFromNotLater { version: 2, .. })
    ));
    let approved = request(&bench, &early, vec![wish(&early, 0, 1, ReturnReason::Unwanted)]).await?;
    assert_eq!(
        (approved.quote.policy_version, approved.quote.lines[0].fee),
        (1, 100)
    );
    // A policy that is published later but begins before the placement no longer reaches an order that has its own.
    let frozen: Option<i32> = sqlx::query_scalar("SELECT policy_version FROM orders WHERE order_id = $1")
        .bind(early.order_id.uuid())
        .fetch_one(bench.db.pool())
        .await?;
    assert_eq!(frozen, Some(1));
    Ok(())
}

#[tokio::test]
async fn above_the_limit_a_second_person_is_wanted() -> Result<()> {
    let bench = Bench::start().await?;
    bench
        .publish(Policy {
            second_approval_above: [("EUR".to_owned(), 900)].into(),
            ..policy()
        })
        .await?;
    let order = bench.delivered(&[(2, 2_000, &[])], &[], &[]).await?;
    let refund = bench.refund_units(&order, 0, 1).await?;
    assert_eq!(refund.state, RefundState::PendingApproval);
    let jobs: i64 = sqlx::query_scalar("SELECT count(*) FROM jobs")
        .fetch_one(bench.db.pool())
        .await?;
    assert_eq!(jobs, 0, "nothing is sent yet");
    // Even a stray worker would not send it.
    bench.submit(&refund, 0).await?;
    assert!(bench.sandbox.ledger().is_empty());

    let approve = |caller: &str| ApproveRefund {
        core: &bench.core,
        tenant: bench.tenant,
        refund_id: refund.refund_id,
        caller: caller.to_owned(),
    };
    assert!(matches!(
        bench.db.run(&approve("clerk")).await,
        Err(Error::SamePerson(_))
    ));
    let approved = bench.db.run(&approve("manager")).await?;
    assert_eq!(
        (approved.state, approved.approved_by.as_deref()),
        (RefundState::Pending, Some("manager"))
    );
    assert!(matches!(
        bench.db.run(&approve("manager")).await,
        Err(Error::IllegalTransition(_))
    ));
    bench.submit(&refund, 0).await?;
    assert_eq!(bench.state(&refund).await?, RefundState::Succeeded);
    bench.audit(&order).await
}

/// A refund of a return that fails can be retried; the goods stay returned, whatever becomes of the money.
#[tokio::test]
async fn goods_stay_returned_while_their_money_is_stuck() -> Result<()> {
    let bench = Bench::start().await?;
    bench
        .publish(Policy {
            restocking_fee_ppm: 0,
            ..policy()
        })
        .await?;
    let order = bench.delivered(&[(2, 1_000, &[])], &[], &[]).await?;
    let approved = request(&bench, &order, vec![wish(&order, 0, 1, ReturnReason::Late)]).await?;
    let received = receive(&bench, &approved, vec![]).await?;
    let refund = bench.get(received.refund_id.expect("the goods are back")).await?;
    let declined = waybill_payments::sandbox::Fault::Failed {
        failure_reason: "declined".to_owned(),
    };
    bench.sandbox.inject(declined);
    bench.submit(&refund, 0).await?;
    assert_eq!(reread(&bench, &received).await?.state, ReturnState::Received);
    let twice = request(&bench, &order, vec![wish(&order, 0, 2, ReturnReason::Late)]).await;
    assert!(
        matches!(&twice, Err(Error::NotReturnable { codes, .. }) if codes.contains("QUANTITY")),
        "{twice:?}"
    );
    let retry = waybill_refund::app::retry_leg::RetryLeg {
        core: &bench.core,
        tenant: bench.tenant,
        refund_id: refund.refund_id,
        leg_id: refund.legs[0].leg_id,
    };
    let again = bench.db.run(&retry).await?;
    bench.submit(&again, 0).await?;
    assert_eq!(reread(&bench, &received).await?.state, ReturnState::Completed);
    bench.audit(&order).await
}

/// Goods may come back before all of their money came in: what was never paid is not paid out, and nobody owes it.
#[tokio::test]
async fn what_was_never_paid_is_not_paid_out() -> Result<()> {
    let bench = Bench::start().await?;
    bench
        .publish(Policy {
            restocking_fee_ppm: 0,
            ..policy()
        })
        .await?;
    for captured in [400, 0] {
        let (mut order, placed) = bench.placed(&[(1, 1_000, &[190])], &[]);
        let mut events = vec![placed];
        if captured > 0 {
            events.push(bench.capture(&mut order, "sandbox", captured)?);
        }
        events.extend(bench.shipment(order.order_id, &[(order.lines[0], 1)], bench.clock.now()));
        bench.fold(&events).await?;
        let approved = request(&bench, &order, vec![wish(&order, 0, 1, ReturnReason::Unwanted)]).await?;
        let received = receive(&bench, &approved, vec![]).await?;
        if let Some(refund_id) = received.refund_id {
            let refund = bench.get(refund_id).await?;
            assert_eq!(refund.amount, captured);
            bench.submit(&refund, 0).await?;
        }
        assert_eq!(received.refund_id.is_some(), captured > 0);
        assert_eq!(reread(&bench, &received).await?.state, ReturnState::Completed);
        let accounts = bench.accounts(order.order_id).await?;
        assert_eq!(
            (accounts["receivable"], accounts["tax_payable"]),
            (0, 0),
            "{captured}: {accounts:?}"
        );
        assert_eq!(accounts["sales_returns"], 1_000);
        bench.audit(&order).await?;
    }
    Ok(())
}

/// A return that ended without a refund holds no money: what came in after it, and what was kept of it, can be given back.
#[tokio::test]
async fn a_return_that_ended_without_a_refund_holds_no_money() -> Result<()> {
    for (restocking_fee_ppm, paid_before) in [(0, false), (1_000_000, true)] {
        let bench = Bench::start().await?;
        bench
            .publish(Policy {
                restocking_fee_ppm,
                ..policy()
            })
            .await?;
        let (mut order, placed) = bench.placed(&[(1, 1_000, &[])], &[]);
        let captured = bench.capture(&mut order, "sandbox", 1_000)?;
        let mut events = vec![placed];
        if paid_before {
            events.push(captured.clone());
        }
        events.extend(bench.shipment(order.order_id, &[(order.lines[0], 1)], bench.clock.now()));
        bench.fold(&events).await?;
        let approved = request(&bench, &order, vec![wish(&order, 0, 1, ReturnReason::Unwanted)]).await?;
        let goodwill = bench.ask(
            &order,
            Ask {
                goodwill: 1_000,
                ..Ask::default()
            },
        );
        let early = bench.db.run(&goodwill).await;
        assert!(early.is_err(), "the return is open: {early:?}");
        let received = receive(&bench, &approved, vec![]).await?;
        assert_eq!(
            (received.state, received.refund_id),
            (ReturnState::Completed, None)
        );
        if !paid_before {
            bench.fold(&[captured]).await?;
        }
        let refund = bench.db.run(&goodwill).await?;
        bench.submit(&refund, 0).await?;
        assert_eq!(bench.state(&refund).await?, RefundState::Succeeded);
        bench.audit(&order).await?;
    }
    Ok(())
}
