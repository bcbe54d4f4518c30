//! What goes wrong with a refund, at the provider and between two people; it is paid once all the same.

use anyhow::{Context as _, ensure};
use waybill_e2e::orders::{line, minor, money, order};
use waybill_e2e::shop::{Shop, payment_of};
use waybill_e2e::wait;
use waybill_payments::sandbox::Fault;
use waybill_proto::waybill::order::v1::Order;
use waybill_proto::waybill::refund::v1::{
    CreateRefundRequest, RefundState, RefundUnits, RetryRefundLegRequest,
};
use waybill_rpc::fault;

use crate::checks::{balanced, booked};

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_provider_does_a_refund_is_paid_once() -> anyhow::Result<()> {
    let shop = Shop::open().await?;
    shop.stock([("MUG", 100)]).await?;
    let faults = [
        // Never answers, having paid.
        ("F1", Fault::TimeoutAfter),
        // Never answers, having done nothing.
        ("F2", Fault::TimeoutBefore),
        // Breaks off, having done nothing.
        ("F3", Fault::CutBefore),
        // An error that is repeated for the same key for ever, having paid.
        ("F4", Fault::ErrorAfter),
        (
            "F5",
            Fault::RateLimited {
                retry_after_seconds: 1,
            },
        ),
        // Takes its time, and says so by webhook.
        (
            "F6",
            Fault::Pending {
                settle_after_ms: Some(200),
                failure_reason: None,
            },
        ),
    ];
    let stories = faults.into_iter().map(|(number, fault)| {
        let shop = &shop;
        async move {
            let order = delivered(shop, number).await?;
            shop.stack
                .payments()
                .inject_for(&payment_of(&order), fault.clone(), 1);
            let returned = shop.give_back(&order, &[("MUG", 2)]).await?;
            shop.receive(&returned).await?;
            let refund = shop.refund_in(&order.order_id, RefundState::Succeeded).await;
            let refund = minor(
                refund
                    .with_context(|| format!("after {fault:?}"))?
                    .amount
                    .as_ref(),
            );
            ensure!(refund == 2000, "{refund} after {fault:?}");
            anyhow::Ok(order)
        }
    });
    let (orders, refused) = tokio::try_join!(
        futures_util::future::try_join_all(stories),
        refused_and_sent_again(&shop)
    )?;
    for order in orders.iter().chain([&refused]) {
        ensure!(
            shop.paid_back(order) == [2000],
            "order {}: {:?}",
            order.number,
            shop.paid_back(order)
        );
        booked_back(&shop, order).await?;
    }
    balanced(&shop).await?;
    shop.close().await
}

/// An order of three units at 10.00 that has arrived.
async fn delivered(shop: &Shop, number: &str) -> anyhow::Result<Order> {
    let placed = shop
        .place(order(number, "GBP", vec![line("MUG", 3, money("GBP", 1000))]))
        .await?;
    let paid = shop.capture(&placed).await?;
    let shipment = shop.ship(&paid).await?;
    shop.deliver(&shipment).await?;
    Ok(paid)
}

/// The bank says no; the leg is sent again, and is paid once.
async fn refused_and_sent_again(shop: &Shop) -> anyhow::Result<Order> {
    let order = delivered(shop, "F7").await?;
    let reason = "lost_or_stolen_card".to_owned();
    shop.stack.payments().inject_for(
        &payment_of(&order),
        Fault::Failed {
            failure_reason: reason.clone(),
        },
        1,
    );
    let returned = shop.give_back(&order, &[("MUG", 2)]).await?;
    shop.receive(&returned).await?;
    let failed = shop.refund_in(&order.order_id, RefundState::Failed).await?;
    let leg = failed.legs.first().context("a refund without a leg")?;
    ensure!(leg.failure_reason == reason, "{}", leg.failure_reason);
    ensure!(
        shop.paid_back(&order).is_empty(),
        "refused, and paid all the same"
    );
    let request = RetryRefundLegRequest {
        merchant_id: shop.session.merchant_id.clone(),
        store_id: shop.session.store_id.clone(),
        request_id: "again-F7".to_owned(),
        refund_id: failed.refund_id.clone(),
        leg_id: leg.leg_id.clone(),
    };
    shop.session.refunds()?.retry_refund_leg(request).await?;
    shop.refund_in(&order.order_id, RefundState::Succeeded).await?;
    Ok(order)
}

async fn booked_back(shop: &Shop, order: &Order) -> anyhow::Result<()> {
    let order = shop
        .reached(&order.order_id, "what went back", |order| {
            minor(order.refunded.as_ref()) == 2000
        })
        .await?;
    booked(shop, &order)
        .await
        .with_context(|| format!("order {}", order.number))
}

#[tokio::test(flavor = "multi_thread")]
async fn two_people_at_once_pay_back_once() -> anyhow::Result<()> {
    let shop = Shop::open().await?;
    shop.stock([("MUG", 100)]).await?;
    let mut orders = Vec::new();
    for number in 0..5 {
        let placed = shop
            .place(order(
                &format!("T{number}"),
                "GBP",
                vec![line("MUG", 3, money("GBP", 1000))],
            ))
            .await?;
        orders.push(shop.capture(&placed).await?);
    }
    for order in &orders {
        let ask = |person: &str| {
            let request = CreateRefundRequest {
                merchant_id: shop.session.merchant_id.clone(),
                store_id: shop.session.store_id.clone(),
                request_id: format!("{person}-{}", order.order_id),
                order_id: order.order_id.clone(),
                lines: vec![RefundUnits {
                    line_id: order.lines[0].line_id.clone(),
                    quantity: 3,
                }],
                reason: "the customer wrote".to_owned(),
                min_order_version: order.version,
                ..CreateRefundRequest::default()
            };
            let client = shop.session.refunds();
            async move {
                let client = client?;
                wait::until("an answer", || {
                    let (mut client, request) = (client.clone(), request.clone());
                    async move {
                        match client.create_refund(request).await {
                            Err(status) if status.code() == tonic::Code::Unavailable => Ok(None),
                            answer => Ok(Some(answer)),
                        }
                    }
                })
                .await
            }
        };
        let answers = tokio::try_join!(ask("ada"), ask("bob"))?;
        let (paid, refused): (Vec<_>, Vec<_>) = [answers.0, answers.1].into_iter().partition(Result::is_ok);
        ensure!(paid.len() == 1, "{} of two calls paid", paid.len());
        let refusal = refused.into_iter().find_map(Result::err).context("a refusal")?;
        ensure!(
            fault::reason(&refusal).as_deref() == Some("UNITS_NOT_FREE"),
            "{refusal:?}"
        );
        shop.refund_in(&order.order_id, RefundState::Succeeded).await?;
        ensure!(shop.paid_back(order) == [3000], "{:?}", shop.paid_back(order));
    }
    ensure!(
        shop.stack.payments().ledger().len() == orders.len(),
        "the provider has more refunds than orders"
    );
    shop.close().await
}
