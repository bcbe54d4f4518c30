//! RecordPayment of failures and disputes: told by the provider, shown on the order, and no sum of what was paid changes.

use anyhow::Result;
use tonic::{Code, Status};
use waybill_proto::waybill::order::v1 as proto;
use waybill_proto::waybill::order::v1::PaymentKind::{
    Authorization, Capture, Dispute, DisputeLost, DisputeWon, Failure,
};
use waybill_proto::waybill::order::v1::{PaymentKind, PaymentStatus};

use crate::harness::start;
use crate::shop::{Shop, bad_fields, eur, order, refusal};

async fn tell(
    shop: &Shop,
    request_id: &str,
    order_id: &str,
    kind: PaymentKind,
    (dispute, minor): (&str, i64),
) -> Result<proto::Order, Status> {
    let request = proto::RecordPaymentRequest {
        reason: "fraudulent".into(),
        dispute_id: dispute.into(),
        ..shop.payment(request_id, order_id, kind, "pay-1", minor)
    };
    let told = shop.client.clone().record_payment(request).await?.into_inner();
    Ok(told.order.expect("an answer has the order"))
}

#[tokio::test]
async fn a_dispute_is_open_until_it_is_won_or_lost() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let placed = shop.place(order("1")).await;
    let id = &placed.order_id;
    shop.capture(id, "pay-1", 1000).await?;

    let not_open = (Code::FailedPrecondition, "DISPUTE_NOT_OPEN".to_owned());
    assert_eq!(
        refusal(tell(&shop, "early", id, DisputeLost, ("dp-1", 600)).await),
        not_open
    );
    let disputed = tell(&shop, "d-1", id, Dispute, ("dp-1", 600)).await?;
    assert_eq!(
        (disputed.disputed.clone(), disputed.payment_status()),
        (eur(600), PaymentStatus::Paid)
    );
    // Told again, by another way.
    let again = tell(&shop, "d-2", id, Dispute, ("dp-1", 600)).await?;
    assert_eq!(again, disputed);
    let second = tell(&shop, "d-3", id, Dispute, ("dp-2", 100)).await?;
    assert_eq!(second.disputed, eur(700));
    assert_eq!(
        bad_fields(tell(&shop, "part", id, DisputeLost, ("dp-1", 599)).await),
        ["amount"]
    );
    let lost = tell(&shop, "l-1", id, DisputeLost, ("dp-1", 600)).await?;
    let won = tell(&shop, "w-1", id, DisputeWon, ("dp-2", 100)).await?;
    assert_eq!((lost.disputed, won.disputed), (eur(100), eur(0)));
    assert_eq!(
        (won.dispute_lost, won.captured, won.version),
        (eur(600), eur(1000), 6)
    );
    assert_eq!(
        refusal(tell(&shop, "w-2", id, DisputeWon, ("dp-1", 600)).await),
        not_open
    );
    let told: Vec<String> = (shop.timeline(id).await.into_iter().skip(2))
        .map(|entry| entry.summary)
        .collect();
    assert_eq!(
        told,
        [
            "6.00 EUR disputed at stripe: fraudulent",
            "1.00 EUR disputed at stripe: fraudulent",
            "Dispute of 6.00 EUR at stripe lost",
            "Dispute of 1.00 EUR at stripe won",
        ]
    );
    Ok(())
}

#[tokio::test]
async fn a_failure_changes_no_sum_and_is_told_of_a_cancelled_order_too() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let placed = shop.place(order("1")).await;
    let id = &placed.order_id;
    let failure = |request_id: &str, payment: &str| proto::RecordPaymentRequest {
        reason: "card_declined".into(),
        ..shop.payment(request_id, id, Failure, payment, 1000)
    };
    let told = shop
        .client
        .clone()
        .record_payment(failure("f-1", "ch-1"))
        .await?
        .into_inner();
    let (order, payment) = (told.order.expect("an order"), told.payment.expect("a payment"));
    assert_eq!(
        (order.payment_status(), payment.reason.as_str()),
        (PaymentStatus::Pending, "card_declined")
    );
    shop.cancel("c-1", id, "").await?;
    shop.client.clone().record_payment(failure("f-2", "ch-2")).await?;
    assert_eq!(shop.get(id).await?.version, 4);
    Ok(())
}

#[tokio::test]
async fn what_a_kind_has_no_use_for_is_named() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let placed = shop.place(order("1")).await;
    let sound = |kind| shop.payment("r", &placed.order_id, kind, "pay", 1);
    let named = |request: proto::RecordPaymentRequest| {
        let mut client = shop.client.clone();
        async move { bad_fields(client.record_payment(request).await) }
    };
    let with_reason = proto::RecordPaymentRequest {
        reason: "declined".into(),
        dispute_id: "dp".into(),
        ..sound(Capture)
    };
    assert_eq!(named(with_reason).await, ["reason", "dispute_id"]);
    assert_eq!(named(sound(Dispute)).await, ["dispute_id"]);
    let too_long = proto::RecordPaymentRequest {
        reason: "x".repeat(101),
        ..sound(Failure)
    };
    assert_eq!(named(too_long).await, ["reason"]);
    Ok(())
}

/// A webhook knows the payment and not the order.
#[tokio::test]
async fn the_order_is_found_by_its_payment() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let placed = shop.place(order("1")).await;
    let by_payment =
        |request_id: &str, kind, payment: &str| shop.payment(request_id, "", kind, payment, 1000);
    let mut client = shop.client.clone();
    let unknown = client.record_payment(by_payment("r-1", Capture, "pi-1")).await;
    assert_eq!(refusal(unknown), (Code::NotFound, "PAYMENT_NOT_FOUND".into()));
    let named = shop.payment("r-2", &placed.order_id, Authorization, "pi-1", 1000);
    client.record_payment(named).await?;
    let told = client
        .record_payment(by_payment("r-3", Capture, "pi-1"))
        .await?
        .into_inner();
    assert_eq!(told.order.map(|order| order.order_id), Some(placed.order_id));
    // Another store knows nothing of it.
    let neighbour = service.shop();
    let theirs = neighbour.payment("r-4", "", Capture, "pi-1", 1000);
    let refused = neighbour.client.clone().record_payment(theirs).await;
    assert_eq!(refusal(refused).0, Code::NotFound);
    Ok(())
}
