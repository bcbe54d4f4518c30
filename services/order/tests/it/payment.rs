//! RecordPayment: sums within bounds, each payment of a provider once.

use anyhow::Result;
use prost::Message as _;
use tonic::Code;
use waybill_proto::waybill::order::v1 as proto;
use waybill_proto::waybill::order::v1::PaymentKind::{Authorization, Capture, Void};
use waybill_proto::waybill::order::v1::PaymentStatus;
use waybill_proto::waybill::r#type::v1::Money;

use crate::harness::start;
use crate::shop::{bad_fields, eur, order, refusal};

#[tokio::test]
async fn the_payment_facet_follows_what_providers_did() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let placed = shop.place(order("1")).await;
    let steps = [
        (Authorization, "auth", 1000, PaymentStatus::Authorized),
        (Capture, "cap-1", 300, PaymentStatus::PartiallyPaid),
        (Capture, "cap-2", 700, PaymentStatus::Paid),
        (Void, "auth", 1000, PaymentStatus::Paid),
    ];
    let mut version = 1;
    for (kind, id, minor, status) in steps {
        let request = shop.payment(&format!("r-{id}-{kind:?}"), &placed.order_id, kind, id, minor);
        let answer = shop.client.clone().record_payment(request).await?.into_inner();
        let (order, payment) = (
            answer.order.expect("an order"),
            answer.payment.expect("a payment"),
        );
        version += 1;
        assert_eq!((order.payment_status(), order.version), (status, version));
        assert_eq!(order.payments.last(), Some(&payment));
        assert_eq!((payment.kind(), payment.amount), (kind, eur(minor)));
    }
    let order = shop.get(&placed.order_id).await?;
    assert_eq!((order.captured, order.payments.len()), (eur(1000), 4));

    let payloads: Vec<Vec<u8>> = sqlx::query_scalar(
        "SELECT payload FROM event_log WHERE type LIKE '%PaymentRecorded' ORDER BY position",
    )
    .fetch_all(&mut service.tables().await)
    .await?;
    let events = payloads
        .iter()
        .map(|bytes| proto::PaymentRecorded::decode(bytes.as_slice()));
    let told: Vec<_> = events
        .map(|e| e.map(|e| (e.kind, e.amount_minor, e.captured_minor)))
        .collect::<Result<_, _>>()?;
    let expected = [
        ("authorization", 1000, 0),
        ("capture", 300, 300),
        ("capture", 700, 1000),
        ("void", 1000, 1000),
    ];
    assert_eq!(
        told,
        expected.map(|(kind, amount, captured)| (kind.to_owned(), amount, captured))
    );
    Ok(())
}

/// O-4.
#[tokio::test]
async fn what_cannot_be_is_refused_by_name() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let placed = shop.place(order("1")).await;
    let id = &placed.order_id;
    shop.capture(id, "cap-1", 600).await?;
    let record = |kind, payment: &'static str, minor| {
        let request = shop.payment(&format!("r-{payment}-{kind:?}"), id, kind, payment, minor);
        let mut client = shop.client.clone();
        async move { client.record_payment(request).await }
    };
    let precondition = |reason: &str| (Code::FailedPrecondition, reason.to_owned());
    assert_eq!(
        refusal(record(Capture, "cap-2", 401).await),
        precondition("CAPTURE_EXCEEDS_TOTAL")
    );
    assert_eq!(
        refusal(record(Capture, "cap-3", i64::MAX).await),
        precondition("CAPTURE_EXCEEDS_TOTAL")
    );
    assert_eq!(
        refusal(record(Void, "auth-1", 1).await),
        precondition("NOTHING_AUTHORIZED")
    );
    record(Authorization, "auth-2", i64::MAX).await?;
    assert_eq!(bad_fields(record(Authorization, "auth-3", 1).await), ["amount"]);
    shop.cancel("c-1", id, "").await?;
    record(Void, "auth-2", i64::MAX).await?;
    assert_eq!(shop.get(id).await?.captured, eur(600));
    // A provider took it although the order is cancelled: only what is recorded can go back.
    record(Capture, "cap-4", 400).await?;
    assert_eq!(
        refusal(record(Capture, "cap-5", 1).await),
        precondition("CAPTURE_EXCEEDS_TOTAL")
    );
    let cancelled = shop.get(id).await?;
    assert_eq!(
        (cancelled.status(), cancelled.captured),
        (proto::OrderStatus::Cancelled, eur(1000))
    );
    Ok(())
}

/// O-11: told by an answer, by a webhook, by an import: one payment.
#[tokio::test]
async fn a_payment_of_a_provider_counts_once() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let (placed, other) = (shop.place(order("1")).await, shop.place(order("2")).await);
    let id = &placed.order_id;
    let first = shop.capture(id, "cap-1", 1000).await?;
    for request_id in ["webhook", "import"] {
        let again = shop.payment(request_id, id, Capture, "cap-1", 1000);
        let answer = shop.client.clone().record_payment(again).await?.into_inner();
        assert_eq!(
            answer.order,
            Some(first.clone()),
            "nothing has changed, not even the version"
        );
        assert_eq!(answer.payment.as_ref(), first.payments.first());
    }
    let differs = (Code::FailedPrecondition, "PAYMENT_DIFFERS".to_owned());
    let amount = shop.payment("r-1", id, Capture, "cap-1", 999);
    assert_eq!(refusal(shop.client.clone().record_payment(amount).await), differs);
    let elsewhere = shop.payment("r-2", &other.order_id, Capture, "cap-1", 1000);
    assert_eq!(
        refusal(shop.client.clone().record_payment(elsewhere).await),
        differs
    );
    // Another kind, another provider, another store: other payments.
    let request = shop.payment("r-3", id, Authorization, "cap-1", 1);
    shop.client.clone().record_payment(request).await?;
    let mut request = shop.payment("r-4", &other.order_id, Capture, "cap-1", 1);
    request.provider = "manual".into();
    shop.client.clone().record_payment(request).await?;
    let neighbour = service.shop();
    let theirs = neighbour.place(order("1")).await;
    neighbour.capture(&theirs.order_id, "cap-1", 1).await?;
    Ok(())
}

#[tokio::test]
async fn a_repeated_request_gets_the_first_answer() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let placed = shop.place(order("1")).await;
    let first = shop.capture(&placed.order_id, "cap-1", 400).await?;
    shop.capture(&placed.order_id, "cap-2", 600).await?;
    assert_eq!(
        shop.capture(&placed.order_id, "cap-1", 400).await?,
        first,
        "with one payment and not with two"
    );
    Ok(())
}

#[tokio::test]
async fn bad_payments_are_named() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let placed = shop.place(order("1")).await;
    let sound = || shop.payment("r", &placed.order_id, Capture, "cap", 1);
    let cases: Vec<(proto::RecordPaymentRequest, &[&str])> = vec![
        (
            proto::RecordPaymentRequest {
                kind: 0,
                amount: eur(0),
                ..sound()
            },
            &["kind", "amount"],
        ),
        (proto::RecordPaymentRequest { kind: 99, ..sound() }, &["kind"]),
        (
            proto::RecordPaymentRequest {
                amount: eur(-1),
                ..sound()
            },
            &["amount"],
        ),
        (
            proto::RecordPaymentRequest {
                provider: "Stripe".into(),
                provider_payment_id: String::new(),
                ..sound()
            },
            &["provider", "provider_payment_id"],
        ),
        (
            proto::RecordPaymentRequest {
                amount: Some(Money {
                    currency_code: "USD".into(),
                    minor_units: 1,
                }),
                ..sound()
            },
            &["amount.currency_code"],
        ),
    ];
    for (request, fields) in cases {
        assert_eq!(
            bad_fields(shop.client.clone().record_payment(request).await),
            fields
        );
    }
    Ok(())
}
