//! CapturePayment and VoidPayment against a provider that fails in every way: taken once, released once, told as it was.

use anyhow::Result;
use chrono::TimeDelta;
use prost::Message as _;
use tonic::Code;
use waybill_kernel::id::{PaymentId, ShipmentId};
use waybill_order::{Capture, CapturePolicy};
use waybill_payments::sandbox::Fault;
use waybill_proto::waybill::order::v1 as proto;
use waybill_proto::waybill::order::v1::PaymentAttemptState::{
    Failed, Pending, Submitted, Succeeded, Unknown,
};
use waybill_proto::waybill::order::v1::{OrderStatus, PaymentAttemptCause, PaymentKind, PaymentStatus};
use waybill_testkit::eventually;

use crate::fold::{shipped, until};
use crate::harness::SOON;
use crate::house::House;
use crate::shop::{bad_fields, eur, order, refusal};
use crate::till::{Till, audit, is_in_flight, sale, settled, soon, world};

fn precondition(reason: &str) -> (Code, String) {
    (Code::FailedPrecondition, reason.to_owned())
}

#[tokio::test]
async fn a_capture_goes_its_way() -> Result<()> {
    let till = Till::start().await?;
    let sale = till.sale("1", 1000).await?;
    let request = till.capture("c-1", &sale, None);
    let attempt = till.try_capture(request.clone()).await?;
    assert_eq!((attempt.state(), attempt.amount.clone()), (Pending, eur(1000)));
    assert!(attempt.is_final);
    let done = till.attempt_in(&sale, &attempt.attempt_id, Succeeded).await;
    assert_eq!((done.calls, done.cause()), (1, PaymentAttemptCause::Request));
    assert!(!done.provider_attempt_id.is_empty());
    assert_eq!(
        till.try_capture(request).await?,
        done,
        "the same request, as it is by now"
    );

    let order = till.shop.get(&sale.order_id).await?;
    assert_eq!((order.payment_status(), order.version), (PaymentStatus::Paid, 3));
    let taken = order.payments.last().expect("a capture");
    assert_eq!(
        (taken.kind(), &taken.payment_id, &taken.attempt_id),
        (PaymentKind::Capture, &attempt.attempt_id, &attempt.attempt_id)
    );
    let entry = till.shop.timeline(&sale.order_id).await.pop().expect("an entry");
    assert_eq!(entry.summary, "10.00 EUR captured by sandbox");
    till.audit(&sale).await
}

#[tokio::test]
async fn parts_are_captured_one_after_the_other_and_the_rest_is_released() -> Result<()> {
    let till = Till::start().await?;
    let sale = till.sale("1", 1000).await?;
    for (n, part) in [300, 200].into_iter().enumerate() {
        till.try_capture(till.capture(&format!("c-{n}"), &sale, Some(part)))
            .await?;
        settled(&till.shop, &sale).await;
        till.audit(&sale).await?;
    }
    // Told by a webhook meanwhile: what was captured of the payment in all.
    let told = till.tell("webhook", &sale, PaymentKind::Capture, 500).await?;
    assert_eq!(told.order.map(|order| order.payments.len()), Some(3));
    assert_eq!(
        refusal(till.tell("wrong", &sale, PaymentKind::Capture, 501).await),
        precondition("PAYMENT_DIFFERS")
    );
    till.try_void("v-1", &sale).await?;
    let order = till.settled(&sale).await;
    let kinds: Vec<PaymentKind> = order.payments.iter().map(proto::Payment::kind).collect();
    assert_eq!(
        kinds,
        [
            PaymentKind::Authorization,
            PaymentKind::Capture,
            PaymentKind::Capture,
            PaymentKind::Void
        ]
    );
    assert_eq!(order.payments[3].amount, eur(500));
    assert_eq!(order.payment_status(), PaymentStatus::PartiallyPaid);
    assert!(till.sandbox.is_canceled(&sale.intent));
    assert_eq!(
        refusal(till.try_void("v-2", &sale).await),
        precondition("NOTHING_AUTHORIZED")
    );
    till.audit(&sale).await
}

#[tokio::test]
async fn a_last_part_releases_the_rest_with_it() -> Result<()> {
    let till = Till::start().await?;
    let sale = till.sale("1", 1000).await?;
    let last = proto::CapturePaymentRequest {
        is_final: true,
        ..till.capture("c-1", &sale, Some(400))
    };
    till.try_capture(last).await?;
    let order = till.settled(&sale).await;
    let paid: Vec<_> = (order.payments.iter())
        .map(|payment| (payment.kind(), payment.amount.clone()))
        .collect();
    assert_eq!(
        paid[1..],
        [(PaymentKind::Capture, eur(400)), (PaymentKind::Void, eur(600))]
    );
    assert_eq!(
        refusal(till.try_capture(till.capture("c-2", &sale, Some(1))).await),
        precondition("CAPTURE_EXCEEDS_AUTHORIZATION")
    );
    till.audit(&sale).await
}

#[tokio::test]
async fn what_cannot_be_asked_for_is_refused_by_name() -> Result<()> {
    let till = Till::start().await?;
    let sale = till.sale("1", 700).await?;
    let refused = async |request| refusal(till.try_capture(request).await);
    assert_eq!(
        refused(till.capture("c-1", &sale, Some(701))).await,
        precondition("CAPTURE_EXCEEDS_AUTHORIZATION")
    );
    till.shop.capture(&sale.order_id, "elsewhere", 400).await?;
    assert_eq!(
        refused(till.capture("c-2", &sale, Some(601))).await,
        precondition("CAPTURE_EXCEEDS_TOTAL")
    );
    let unknown = proto::CapturePaymentRequest {
        payment_id: PaymentId::generate().to_string(),
        ..till.capture("c-3", &sale, None)
    };
    assert_eq!(
        refused(unknown).await,
        (Code::NotFound, "PAYMENT_NOT_FOUND".into())
    );
    let other_currency = proto::CapturePaymentRequest {
        amount: Some(waybill_proto::waybill::r#type::v1::Money {
            currency_code: "USD".into(),
            minor_units: 1,
        }),
        ..till.capture("c-4", &sale, None)
    };
    assert_eq!(
        bad_fields(till.try_capture(other_currency).await),
        ["amount.currency_code"]
    );
    let nothing = till.capture("c-5", &sale, Some(0));
    assert_eq!(bad_fields(till.try_capture(nothing).await), ["amount"]);

    // A provider that nobody has configured.
    let by_hand = till
        .shop
        .payment("by-hand", &sale.order_id, PaymentKind::Authorization, "x-1", 100);
    let recorded = till
        .shop
        .client
        .clone()
        .record_payment(by_hand)
        .await?
        .into_inner();
    let by_hand = proto::CapturePaymentRequest {
        payment_id: recorded.payment.expect("a payment").payment_id,
        ..till.capture("c-6", &sale, None)
    };
    assert_eq!(refused(by_hand).await, precondition("PROVIDER_NOT_CALLABLE"));
    till.audit(&sale).await?;

    till.shop.cancel("cancel", &sale.order_id, "").await?;
    assert_eq!(
        refused(till.capture("c-7", &sale, None)).await,
        precondition("ORDER_CANCELLED")
    );
    Ok(())
}

/// O-26, O-28, O-29: whatever goes wrong with a call, it takes, or releases, once. A stored 500 is answered to every repetition
/// with the key; it is over when the provider has forgotten the key.
#[tokio::test]
async fn every_fault_ends_with_one_effect() -> Result<()> {
    let till = Till::start().await?;
    let faults = [
        Fault::TimeoutBefore,
        Fault::TimeoutAfter,
        Fault::CutBefore,
        Fault::CutAfter,
        Fault::ErrorBefore,
        Fault::ErrorAfter,
        Fault::GarbledAfter,
        Fault::RateLimited {
            retry_after_seconds: 1,
        },
    ];
    for (n, fault) in faults.into_iter().enumerate() {
        for is_void in [false, true] {
            let sale = till.sale(&format!("{n}_{is_void}"), 1000).await?;
            till.sandbox.inject_for(&sale.intent, fault.clone(), 1);
            let attempt = if is_void {
                till.try_void(&format!("v-{n}"), &sale).await?
            } else {
                till.try_capture(till.capture(&format!("c-{n}"), &sale, None))
                    .await?
            };
            if fault == Fault::ErrorBefore {
                till.attempt_in(&sale, &attempt.attempt_id, Unknown).await;
                till.audit(&sale).await?;
                till.service.clock.advance(TimeDelta::hours(25));
            }
            let done = till.attempt_in(&sale, &attempt.attempt_id, Succeeded).await;
            let taken = if is_void { 0 } else { 1000 };
            assert_eq!(till.sandbox.captured(&sale.intent), taken, "{fault:?}");
            assert_eq!(till.sandbox.is_canceled(&sale.intent), is_void, "{fault:?}");
            if matches!(
                fault,
                Fault::TimeoutAfter | Fault::CutAfter | Fault::ErrorAfter | Fault::GarbledAfter
            ) {
                assert_eq!(done.calls, 1, "{fault:?}: found, not repeated");
            }
            till.audit(&sale).await?;
        }
    }
    Ok(())
}

/// A provider that says no: no sum changes, the order tells why, and another attempt may follow.
#[tokio::test]
async fn a_refusal_is_told_and_frees_the_payment() -> Result<()> {
    let till = Till::start().await?;
    let placed = till.shop.place(order("1")).await;
    let unknown = proto::RecordPaymentRequest {
        provider: "sandbox".into(),
        ..till.shop.payment(
            "auth",
            &placed.order_id,
            PaymentKind::Authorization,
            "pi_nobody",
            1000,
        )
    };
    let recorded = till
        .shop
        .client
        .clone()
        .record_payment(unknown)
        .await?
        .into_inner();
    let sale = crate::till::Sale {
        order_id: placed.order_id,
        payment_id: recorded.payment.expect("a payment").payment_id,
        intent: "pi_nobody".into(),
    };
    for attempt in ["c-1", "c-2"] {
        let attempt = till.try_capture(till.capture(attempt, &sale, None)).await?;
        let failed = till.attempt_in(&sale, &attempt.attempt_id, Failed).await;
        assert_eq!((failed.reason.as_str(), failed.calls), ("resource_missing", 0));
    }
    let order = till.shop.get(&sale.order_id).await?;
    assert_eq!(
        (order.payment_status(), order.capturing.clone()),
        (PaymentStatus::Authorized, eur(0))
    );
    let last = order.payments.last().expect("a failure");
    assert_eq!(
        (last.kind(), last.reason.as_str()),
        (PaymentKind::Failure, "resource_missing")
    );
    let entry = till.shop.timeline(&sale.order_id).await.pop().expect("an entry");
    assert_eq!(
        entry.summary,
        "Payment of 10.00 EUR failed at sandbox: resource missing"
    );
    let payload: Vec<u8> = sqlx::query_scalar("SELECT payload FROM event_log ORDER BY position DESC LIMIT 1")
        .fetch_one(&mut till.service.tables().await)
        .await?;
    let event = proto::PaymentRecorded::decode(payload.as_slice())?;
    assert_eq!(
        (event.kind.as_str(), event.reason.as_str(), event.captured_minor),
        ("failure", "resource_missing", 0)
    );
    till.audit(&sale).await
}

/// What somebody else took meanwhile is never taken for ours: the attempt fails before anything is called.
#[tokio::test]
async fn what_was_captured_elsewhere_is_not_captured_again() -> Result<()> {
    let till = Till::start().await?;
    let sale = till.sale("1", 1000).await?;
    // The provider's own console.
    let provider = till.sandbox.provider()?;
    let by_hand = waybill_payments::CaptureRequest {
        provider_payment_id: sale.intent.clone(),
        amount: waybill_kernel::money::Money::new(waybill_kernel::money::Currency::EUR, 600),
        captured_before: waybill_kernel::money::Money::zero(waybill_kernel::money::Currency::EUR),
        is_final: true,
        idempotency_key: "by hand".replace(' ', "-"),
    };
    waybill_payments::PaymentProvider::capture(&provider, &by_hand).await?;
    let attempt = till.try_capture(till.capture("c-1", &sale, None)).await?;
    let failed = till.attempt_in(&sale, &attempt.attempt_id, Failed).await;
    assert_eq!((failed.reason.as_str(), failed.calls), ("captured_elsewhere", 0));
    assert_eq!(till.sandbox.captured(&sale.intent), 600);
    // And then it is told.
    till.tell("webhook", &sale, PaymentKind::Capture, 600).await?;
    till.audit(&sale).await
}

/// A word that comes by another way settles the attempt; the answer that comes later changes nothing.
#[tokio::test]
async fn a_word_by_another_way_settles_an_attempt() -> Result<()> {
    let till = Till::start().await?;
    let sale = till.sale("1", 1000).await?;
    till.sandbox.inject_for(&sale.intent, Fault::TimeoutAfter, 1);
    let held = till.sandbox.hold().await;
    let attempt = till.try_capture(till.capture("c-1", &sale, None)).await?;
    till.attempt_in(&sale, &attempt.attempt_id, Submitted).await;
    assert_eq!(
        refusal(till.tell("too-much", &sale, PaymentKind::Capture, 999).await),
        precondition("PAYMENT_IN_FLIGHT")
    );
    let told = till.tell("webhook", &sale, PaymentKind::Capture, 1000).await?;
    assert_eq!(
        told.payment.map(|payment| payment.payment_id),
        Some(attempt.attempt_id.clone())
    );
    drop(held);
    let done = till.attempt_in(&sale, &attempt.attempt_id, Succeeded).await;
    assert_eq!(done.attempt_id, attempt.attempt_id);
    eventually("the provider's effect", SOON, async || {
        (till.sandbox.captured(&sale.intent) == 1000).then_some(())
    })
    .await;
    till.audit(&sale).await
}

/// A cancellation waits for the provider's word on a capture, and so does one of units that it would take too much for. Once
/// an order is cancelled, what is authorised for it is released by itself.
#[tokio::test]
async fn a_cancellation_waits_for_captures_and_releases_the_rest() -> Result<()> {
    let till = Till::start().await?;
    let sale = till.sale("1", 1000).await?;
    let held = till.sandbox.hold().await;
    till.try_capture(till.capture("c-1", &sale, Some(600))).await?;
    let order = till.shop.get(&sale.order_id).await?;
    assert!(order.payment_attempts.iter().any(is_in_flight));
    let status = till.shop.cancel("cancel-1", &sale.order_id, "").await;
    let message = status
        .as_ref()
        .err()
        .map(|s| s.message().to_owned())
        .unwrap_or_default();
    assert_eq!(refusal(status), precondition("PAYMENT_IN_FLIGHT"));
    assert!(
        message.contains("a capture of 6.00 EUR") && message.contains("then call again"),
        "{message}"
    );
    let one_unit = till.shop.units("units-1", &order, &[(0, 1)]);
    assert_eq!(
        refusal(till.shop.cancel_units(one_unit).await),
        precondition("PAYMENT_IN_FLIGHT"),
        "5.00 EUR would be left to pay"
    );
    drop(held);
    till.settled(&sale).await;
    till.shop.cancel("cancel-2", &sale.order_id, "").await?;
    let order = until(&till.shop, &sale.order_id, "the release", |order| {
        order
            .payments
            .last()
            .is_some_and(|last| last.kind() == PaymentKind::Void)
    })
    .await;
    assert_eq!(order.status(), OrderStatus::Cancelled);
    let release = order.payment_attempts.last().expect("a void");
    assert_eq!(
        (release.cause(), release.amount.clone()),
        (PaymentAttemptCause::Cancellation, eur(400))
    );
    assert!(till.sandbox.is_canceled(&sale.intent));
    till.audit(&sale).await
}

#[tokio::test]
async fn a_store_may_capture_at_once() -> Result<()> {
    let till = Till::start_with(|config| {
        config.capture = Capture {
            policy: CapturePolicy::AtOnce,
            stores: Vec::new(),
        };
    })
    .await?;
    // More than the order costs: the rest is released.
    let sale = till.sale("1", 1200).await?;
    let order = until(&till.shop, &sale.order_id, "the capture", |order| {
        order.payment_status() == PaymentStatus::Paid && order.payments.len() == 3
    })
    .await;
    assert_eq!(order.payment_attempts.len(), 1);
    assert_eq!(order.payment_attempts[0].cause(), PaymentAttemptCause::Policy);
    assert_eq!(order.payments[2].amount, eur(200));
    till.audit(&sale).await
}

/// All that is open, at the first parcel, once.
#[tokio::test]
async fn a_store_may_capture_on_shipment() -> Result<()> {
    let (world, sandbox) = world().await?;
    let house = House::start_in(world, |config| {
        soon(config);
        config.capture = Capture {
            policy: CapturePolicy::OnShipment,
            stores: Vec::new(),
        };
    })
    .await?;
    let shop = house.service.shop();
    let sale = sale(&shop, &sandbox, "1", 1000).await?;
    let placed = shop.get(&sale.order_id).await?;
    assert!(placed.payment_attempts.is_empty(), "nothing has left");
    let parcels = [(); 2].map(|()| shipped(&placed, ShipmentId::generate(), 1));
    house
        .fulfillment
        .tell(&shop, &sale.order_id, &parcels[..1])
        .await?;
    let order = until(&shop, &sale.order_id, "the capture", |order| {
        order.payment_status() == PaymentStatus::Paid
    })
    .await;
    assert_eq!(order.payment_attempts.len(), 1);
    house
        .fulfillment
        .tell(&shop, &sale.order_id, &parcels[1..])
        .await?;
    let sweeps = "SELECT count(*) FROM jobs WHERE kind = 'payment.sweep' AND state = 'done'";
    eventually("both sweeps", SOON, async || {
        let done: i64 = sqlx::query_scalar(sweeps)
            .fetch_one(&mut house.service.tables().await)
            .await
            .expect("the table of jobs");
        if done == 2 { Ok(()) } else { Err(done) }
    })
    .await;
    assert_eq!(settled(&shop, &sale).await.payment_attempts.len(), 1);
    audit(&house.service, &shop, &sandbox, &sale).await?;
    house.stop().await;
    Ok(())
}
