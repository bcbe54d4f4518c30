//! The life of orders, from placement to the last refund, over gRPC and the webhooks of the edge; afterwards everything that
//! anybody keeps about them has to agree: facets, timeline, mails, journal, the provider's ledger, analytics.

mod checks;
mod faults;

use anyhow::{Context as _, ensure};
use reqwest::StatusCode;
use waybill_e2e::orders::{discount, line, minor, money, order, shipping, summed, tax};
use waybill_e2e::shop::{Shop, payment_of, total_of, tracking_update};
use waybill_e2e::wait;
use waybill_payments::sandbox::Fault;
use waybill_proto::waybill::fulfillment::v1::{GetShipmentRequest, Shipment, ShipmentStatus};
use waybill_proto::waybill::order::v1::{
    CancelOrderRequest, FulfillmentStatus, NewOrder, Order, OrderStatus, PaymentStatus, ReturnStatus,
};
use waybill_proto::waybill::refund::v1::RefundState;

use crate::checks::{CANCELLED, RETURNED, balanced, booked, counted, facets, told};

/// Two lines with tax in their prices, a discount on the order, and shipping.
fn order_with_everything() -> NewOrder {
    let gbp = |minor| money("GBP", minor);
    let mut order = order(
        "L1",
        "GBP",
        vec![line("MUG", 3, gbp(999)), line("JUG", 1, gbp(2500))],
    );
    order.prices_include_tax = true;
    order.discounts = vec![discount("WELCOME", gbp(500))];
    // 2997 and 2500 less 273 and 227 of the discount, of which a sixth is tax; shipping likewise.
    order.lines[0].taxes = vec![tax("GB", 200_000, gbp(454))];
    order.lines[1].taxes = vec![tax("GB", 200_000, gbp(379))];
    order.shipping_lines = vec![shipping("Royal Mail 48", gbp(495))];
    order.shipping_lines[0].taxes = vec![tax("GB", 200_000, gbp(83))];
    summed(order)
}

/// One line of four units with tax on top.
fn order_of_four() -> NewOrder {
    let mut order = order("L2", "EUR", vec![line("BOWL", 4, money("EUR", 1250))]);
    order.lines[0].taxes = vec![tax("DE", 190_000, money("EUR", 950))];
    summed(order)
}

fn order_to_cancel() -> NewOrder {
    order("L3", "USD", vec![line("LAMP", 1, money("USD", 4200))])
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_go_from_placement_to_their_last_refund() -> anyhow::Result<()> {
    let shop = Shop::open().await?;
    shop.stock([("MUG", 5), ("JUG", 1), ("BOWL", 4), ("LAMP", 2)])
        .await?;
    let (whole, part, cancelled) = tokio::try_join!(
        all_comes_back(&shop),
        one_of_four_comes_back(&shop),
        cancelled_before_it_ships(&shop),
    )?;

    ensure!(
        total_of(&whole) == 5492,
        "the total is {}, not 54.92",
        total_of(&whole)
    );
    facets(
        &whole,
        (OrderStatus::Completed, PaymentStatus::Refunded),
        FulfillmentStatus::Delivered,
        ReturnStatus::Returned,
    );
    let partly = PaymentStatus::PartiallyRefunded;
    facets(
        &part,
        (OrderStatus::Completed, partly),
        FulfillmentStatus::Delivered,
        ReturnStatus::Returned,
    );
    facets(
        &cancelled,
        (OrderStatus::Cancelled, PaymentStatus::Refunded),
        FulfillmentStatus::Unfulfilled,
        ReturnStatus::None,
    );

    // What went back, to the penny, once each. A quarter of 59.50 is 14.875: unit 1 of 4 has 12.50 and 2.38 of tax.
    ensure!(
        shop.paid_back(&whole) == [5492] && minor(whole.refunded.as_ref()) == 5492,
        "{:?}",
        whole.refunded
    );
    ensure!(
        shop.paid_back(&part) == [1488] && minor(part.refunded.as_ref()) == 1488,
        "{:?}",
        part.refunded
    );
    ensure!(shop.paid_back(&cancelled) == [4200], "{:?}", cancelled.refunded);

    for (order, journey) in [(&whole, RETURNED), (&part, RETURNED), (&cancelled, CANCELLED)] {
        told(&shop, order, journey)
            .await
            .with_context(|| format!("order {}", order.number))?;
        booked(&shop, order)
            .await
            .with_context(|| format!("order {}", order.number))?;
    }
    ensure!(
        shop.stack.mails().messages().len() == 2 * 11 + 4,
        "{} mails",
        shop.stack.mails().messages().len()
    );
    balanced(&shop).await?;
    counted(
        &shop,
        &[(&whole, 4, 5492), (&part, 4, 1488), (&cancelled, 1, 4200)],
    )
    .await?;
    shop.close().await
}

/// Everything of it is shipped, tracked, delivered and sent back; the provider tells by webhook alone that it paid.
async fn all_comes_back(shop: &Shop) -> anyhow::Result<Order> {
    let placed = shop.place(order_with_everything()).await?;
    let paid = shop.capture(&placed).await?;
    let shipment = shop.ship(&paid).await?;
    webhooks_are_verified(shop, &shipment).await?;
    shop.deliver(&shipment).await?;
    // Late and repeated words change nothing.
    for (tag, event) in [("Delivered", "again"), ("InTransit", "late")] {
        let status = shop
            .carrier_says(&shipment, tag, &format!("{}-{event}", shipment.shipment_id))
            .await?;
        ensure!(status == StatusCode::OK, "{status}");
    }
    delivered_once(shop, &shipment).await?;

    shop.stack.payments().inject_for(
        &payment_of(&paid),
        Fault::Pending {
            settle_after_ms: None,
            failure_reason: None,
        },
        1,
    );
    let returned = shop.give_back(&paid, &[("MUG", 3), ("JUG", 1)]).await?;
    shop.receive(&returned).await?;
    let waiting = wait::until("the provider's answer", || async {
        let refunds = shop.refunds(&paid.order_id).await?;
        let legs = refunds.into_iter().flat_map(|refund| refund.legs);
        Ok(legs.map(|leg| leg.provider_refund_id).find(|id| !id.is_empty()))
    });
    let provider_refund_id = waiting.await?;
    ensure!(
        shop.session.order(&paid.order_id).await?.payment_status() == PaymentStatus::Paid,
        "paid back too early"
    );
    shop.stack
        .payments()
        .settle(&provider_refund_id, None)
        .context("the provider has no such refund")?;
    shop.refund_in(&paid.order_id, RefundState::Succeeded).await?;
    shop.reached(&paid.order_id, "the end of the order", |order| {
        // Logs of different services are not ordered among each other: the money may be heard of before the parcel.
        order.status() == OrderStatus::Completed
            && order.payment_status() == PaymentStatus::Refunded
            && order.return_status() == ReturnStatus::Returned
    })
    .await
}

/// A webhook with a wrong signature, with none, and for a store that has none.
async fn webhooks_are_verified(shop: &Shop, shipment: &Shipment) -> anyhow::Result<()> {
    let body = || tracking_update(shipment, "Delivered", "forged");
    let header = "aftership-hmac-sha256";
    let wrong = shop
        .webhook("aftership", header, "bm90IGEgc2lnbmF0dXJl", body())
        .await?;
    ensure!(
        wrong == StatusCode::UNAUTHORIZED,
        "a wrong signature was answered {wrong}"
    );
    let none = shop.webhook("aftership", "x-other", "", body()).await?;
    ensure!(
        none == StatusCode::UNAUTHORIZED,
        "no signature was answered {none}"
    );
    let stripe = shop
        .webhook("stripe", "stripe-signature", "t=1,v1=00", "{}".to_owned())
        .await?;
    ensure!(
        stripe == StatusCode::UNAUTHORIZED,
        "a wrong signature of Stripe was answered {stripe}"
    );
    let first = shop.carrier_says(shipment, "InfoReceived", "first").await?;
    let second = shop.carrier_says(shipment, "InfoReceived", "first").await?;
    ensure!(
        first == StatusCode::OK && second == StatusCode::OK,
        "{first} {second}"
    );
    let known = tracked(shop, shipment).await?;
    ensure!(
        known.status() == ShipmentStatus::InfoReceived,
        "{:?}",
        known.status()
    );
    ensure!(
        known.tracking_events.len() == 1,
        "heard {} times",
        known.tracking_events.len()
    );
    Ok(())
}

async fn delivered_once(shop: &Shop, shipment: &Shipment) -> anyhow::Result<()> {
    let known = tracked(shop, shipment).await?;
    ensure!(
        known.status() == ShipmentStatus::Delivered,
        "a late scan took it back to {:?}",
        known.status()
    );
    ensure!(known.delivered_at.is_some(), "delivered, and nobody knows when");
    Ok(())
}

async fn tracked(shop: &Shop, shipment: &Shipment) -> anyhow::Result<Shipment> {
    let request = GetShipmentRequest {
        merchant_id: shop.session.merchant_id.clone(),
        store_id: shop.session.store_id.clone(),
        shipment_id: shipment.shipment_id.clone(),
    };
    let answer = shop
        .session
        .fulfillment()?
        .get_shipment(request)
        .await?
        .into_inner();
    answer.shipment.context("an answer without a shipment")
}

/// One unit comes back, and the connection to the provider breaks just when it has paid.
async fn one_of_four_comes_back(shop: &Shop) -> anyhow::Result<Order> {
    let placed = shop.place(order_of_four()).await?;
    let paid = shop.capture(&placed).await?;
    let shipment = shop.ship(&paid).await?;
    shop.deliver(&shipment).await?;
    shop.stack
        .payments()
        .inject_for(&payment_of(&paid), Fault::CutAfter, 1);
    let returned = shop.give_back(&paid, &[("BOWL", 1)]).await?;
    shop.receive(&returned).await?;
    shop.refund_in(&paid.order_id, RefundState::Succeeded).await?;
    shop.reached(&paid.order_id, "the end of the order", |order| {
        order.status() == OrderStatus::Completed
            && order.payment_status() == PaymentStatus::PartiallyRefunded
            && order.return_status() == ReturnStatus::Returned
    })
    .await
}

async fn cancelled_before_it_ships(shop: &Shop) -> anyhow::Result<Order> {
    let placed = shop.place(order_to_cancel()).await?;
    let paid = shop.capture(&placed).await?;
    // Cancelled before stock was reserved there would be nothing to release, and nothing to tell of it.
    wait::until("its stock", || async {
        let facts = shop.facts(&paid.order_id).await?;
        Ok(facts
            .contains_key("waybill.fulfillment.v1.OrderAllocated")
            .then_some(()))
    })
    .await?;
    let request = CancelOrderRequest {
        merchant_id: shop.session.merchant_id.clone(),
        store_id: shop.session.store_id.clone(),
        request_id: "cancel-L3".to_owned(),
        order_id: paid.order_id.clone(),
        reason: "ordered twice".to_owned(),
        etag: paid.etag.clone(),
    };
    // Asked twice, done once.
    let first = shop
        .session
        .orders()?
        .cancel_order(request.clone())
        .await?
        .into_inner();
    let second = shop.session.orders()?.cancel_order(request).await?.into_inner();
    ensure!(first == second, "a repeated call was answered otherwise");
    shop.refund_in(&paid.order_id, RefundState::Succeeded).await?;
    shop.reached(&paid.order_id, "the refund of the cancelled order", |order| {
        order.payment_status() == PaymentStatus::Refunded
    })
    .await
}
