//! HoldOrder and ReleaseOrder: an order stands still while a hold is open.

use std::collections::BTreeMap;

use anyhow::Result;
use prost::Message as _;
use tonic::{Code, Status};
use waybill_kernel::id::ShipmentId;
use waybill_order::Holds;
use waybill_proto::waybill::order::v1 as proto;
use waybill_proto::waybill::r#type::v1::Address;
use waybill_rpc::fault;

use crate::fold::{delivered, until};
use crate::harness::{start, start_with};
use crate::house::House;
use crate::shop::{Shop, bad_fields, eur, order, refusal};

impl Shop {
    /// Stops an order.
    pub(crate) async fn hold(
        &self,
        request_id: &str,
        order_id: &str,
        reason: proto::HoldReason,
    ) -> Result<proto::HoldOrderResponse, Status> {
        let request = proto::HoldOrderRequest {
            merchant_id: self.merchant.to_string(),
            store_id: self.store.to_string(),
            request_id: request_id.into(),
            order_id: order_id.into(),
            reason: reason.into(),
            note: "looked odd".into(),
            etag: String::new(),
        };
        Ok(self.client.clone().hold_order(request).await?.into_inner())
    }

    /// Ends a hold of an order, or all with an empty id.
    pub(crate) async fn release(
        &self,
        request_id: &str,
        order_id: &str,
        hold_id: &str,
    ) -> Result<proto::Order, Status> {
        let request = proto::ReleaseOrderRequest {
            merchant_id: self.merchant.to_string(),
            store_id: self.store.to_string(),
            request_id: request_id.into(),
            order_id: order_id.into(),
            hold_id: hold_id.into(),
            note: "all is well".into(),
            etag: String::new(),
        };
        let released = self.client.clone().release_order(request).await?;
        Ok(released.into_inner().order.expect("an answer has the order"))
    }
}

#[tokio::test]
async fn an_order_is_held_while_one_hold_is_open() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let placed = shop.place(order("1")).await;
    let fraud = shop
        .hold("h-1", &placed.order_id, proto::HoldReason::Fraud)
        .await?;
    let stock = shop
        .hold("h-2", &placed.order_id, proto::HoldReason::AwaitingStock)
        .await?;
    let (first, second) = (
        fraud.hold.clone().expect("a hold"),
        stock.hold.clone().expect("a hold"),
    );
    let held = stock.order.clone().expect("an order");
    assert_eq!(held.status(), proto::OrderStatus::OnHold);
    assert_eq!(held.holds, [first.clone(), second.clone()]);

    let one_left = shop.release("r-1", &placed.order_id, &first.hold_id).await?;
    assert_eq!(one_left.status(), proto::OrderStatus::OnHold);
    let open = shop.release("r-2", &placed.order_id, "").await?;
    assert_eq!((open.status(), open.version), (proto::OrderStatus::Open, 5));
    assert!(
        open.holds
            .iter()
            .all(|hold| hold.released_at.is_some() && hold.release_note == "all is well")
    );
    assert_eq!(shop.get(&placed.order_id).await?, open);

    // O-13: what was answered before is answered again, as it was.
    assert_eq!(
        shop.hold("h-1", &placed.order_id, proto::HoldReason::Fraud)
            .await?,
        fraud
    );
    assert_eq!(
        shop.hold("h-2", &placed.order_id, proto::HoldReason::AwaitingStock)
            .await?,
        stock
    );
    assert_eq!(
        shop.release("r-1", &placed.order_id, &first.hold_id).await?,
        one_left
    );

    let summaries: Vec<String> = shop
        .timeline(&placed.order_id)
        .await
        .into_iter()
        .map(|entry| entry.summary)
        .collect();
    assert_eq!(
        summaries[1..],
        [
            "On hold: suspected fraud",
            "On hold: waiting for stock",
            "Hold released: suspected fraud; 1 hold is still open",
            "Hold released: waiting for stock; the order goes on"
        ]
    );
    let payloads: Vec<Vec<u8>> = sqlx::query_scalar(
        "SELECT payload FROM event_log WHERE type LIKE '%OrderReleased' ORDER BY position",
    )
    .fetch_all(&mut service.tables().await)
    .await?;
    let left = payloads
        .iter()
        .map(|payload| Ok(proto::OrderReleased::decode(payload.as_slice())?.open_holds));
    assert_eq!(left.collect::<Result<Vec<_>>>()?, [1, 0]);
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_held_or_released_is_told_why() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let placed = shop.place(order("1")).await;
    let nothing = shop
        .release("r-1", &placed.order_id, "")
        .await
        .expect_err("nothing is held");
    assert_eq!(
        (nothing.code(), fault::reason(&nothing).as_deref()),
        (Code::FailedPrecondition, Some("HOLD_NOT_OPEN"))
    );
    assert!(
        nothing.message().contains("is OPEN; no hold of it is open"),
        "{}",
        nothing.message()
    );

    let held = shop
        .hold("h-1", &placed.order_id, proto::HoldReason::Address)
        .await?;
    let hold_id = held.hold.expect("a hold").hold_id;
    let other = shop
        .release("r-2", &placed.order_id, &placed.order_id)
        .await
        .expect_err("no such hold");
    assert!(
        other.message().contains(&format!("but {hold_id} is")),
        "{}",
        other.message()
    );

    // A cancellation ends the hold, and says so in the hold.
    let cancelled = shop.cancel("c-1", &placed.order_id, "").await?;
    assert_eq!(cancelled.status(), proto::OrderStatus::Cancelled);
    assert_eq!(cancelled.holds.len(), 1);
    assert_eq!(cancelled.holds[0].released_at, cancelled.updated_at);
    assert_eq!(
        refusal(shop.hold("h-2", &placed.order_id, proto::HoldReason::Fraud).await),
        (Code::FailedPrecondition, "ORDER_NOT_HOLDABLE".to_owned())
    );
    assert_eq!(
        refusal(shop.release("r-3", &placed.order_id, "").await).1,
        "HOLD_NOT_OPEN"
    );

    let manual = proto::HoldOrderRequest {
        merchant_id: shop.merchant.to_string(),
        store_id: shop.store.to_string(),
        request_id: "h-3".into(),
        reason: proto::HoldReason::Manual.into(),
        ..proto::HoldOrderRequest::default()
    };
    assert_eq!(
        bad_fields(shop.client.clone().hold_order(manual).await),
        ["order_id", "note"]
    );
    Ok(())
}

#[tokio::test]
async fn a_held_order_is_not_completed_before_it_is_released() -> Result<()> {
    let house = House::start().await?;
    let shop = house.service.shop();
    let placed = shop.place(order("1")).await;
    shop.hold("h-1", &placed.order_id, proto::HoldReason::PaymentReview)
        .await?;
    shop.capture(&placed.order_id, "pay-1", 1000).await?;
    let parcel = delivered(&placed, ShipmentId::generate(), 2);
    house.fulfillment.tell(&shop, &placed.order_id, &[parcel]).await?;
    let arrived = until(&shop, &placed.order_id, "it has arrived", |order| {
        order.fulfillment_status() == proto::FulfillmentStatus::Delivered
    })
    .await;
    assert_eq!(arrived.status(), proto::OrderStatus::OnHold);
    let done = shop.release("r-1", &placed.order_id, "").await?;
    assert_eq!(done.status(), proto::OrderStatus::Completed);
    let types: Vec<String> = sqlx::query_scalar("SELECT type FROM event_log ORDER BY position DESC LIMIT 2")
        .fetch_all(&mut house.service.tables().await)
        .await?;
    assert_eq!(
        types,
        [
            "waybill.order.v1.OrderCompleted",
            "waybill.order.v1.OrderReleased"
        ]
    );
    house.stop().await;
    Ok(())
}

/// Rules of the settings hold orders when they are placed, each with a hold of its own, in the placement's transaction.
#[tokio::test]
async fn orders_that_fit_a_rule_are_held_when_they_are_placed() -> Result<()> {
    let service = start_with(|config| {
        config.holds = Holds {
            order_value: BTreeMap::from([("EUR".to_owned(), 999)]),
            country_mismatch: true,
            ..Holds::default()
        };
    })
    .await;
    let shop = service.shop();
    let mut abroad = order("1");
    abroad.billing_address = abroad.shipping_address.clone().map(|address| Address {
        country_code: "FR".into(),
        ..address
    });
    let held = shop.try_place("p-1", abroad.clone()).await?;
    let rules: Vec<(&str, proto::HoldReason)> = held
        .holds
        .iter()
        .map(|hold| (hold.rule.as_str(), hold.reason()))
        .collect();
    assert_eq!(
        rules,
        [
            ("order_value", proto::HoldReason::PaymentReview),
            ("country_mismatch", proto::HoldReason::Address)
        ]
    );
    assert_eq!((held.status(), held.version), (proto::OrderStatus::OnHold, 1));
    assert_eq!(shop.get(&held.order_id).await?, held);

    // O-13: also after it was released, the placement is answered as it was.
    let released = shop.release("r-1", &held.order_id, "").await?;
    assert_eq!(
        (released.status(), released.version),
        (proto::OrderStatus::Open, 2)
    );
    assert_eq!(shop.try_place("p-1", abroad).await?, held);

    let types: Vec<String> =
        sqlx::query_scalar("SELECT type FROM event_log WHERE aggregate_version = 1 ORDER BY position")
            .fetch_all(&mut service.tables().await)
            .await?;
    assert_eq!(
        types,
        [
            "waybill.order.v1.OrderPlaced",
            "waybill.order.v1.OrderHeld",
            "waybill.order.v1.OrderHeld"
        ]
    );
    assert_eq!(
        shop.timeline(&held.order_id).await[1].summary,
        "On hold: review of the payment, by the rule \"order_value\""
    );

    // What fits no rule is not held.
    let mut small = order("2");
    small.lines[0].quantity = 1;
    small.totals = Some(proto::OrderTotals {
        total: eur(500),
        ..proto::OrderTotals::default()
    });
    assert_eq!(shop.place(small).await.status(), proto::OrderStatus::Open);
    Ok(())
}
