//! One schema is put back to an older copy while the stack is under load, and recovered by the commands of a person: what
//! consumers had applied of the lost history is listed, nobody is paid back twice, and no mail goes out twice.
//!
//! The copy is a dump by `pg_dump`, restored by `psql` under the living connections of the services.

mod night;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, ensure};
use waybill_e2e::orders::{line, money, order};
use waybill_e2e::shop::{Shop, total_of};
use waybill_e2e::wait;
use waybill_proto::waybill::order::v1::{CancelOrderRequest, Order};
use waybill_proto::waybill::refund::v1::RefundState;

use crate::night::Night;

/// Places an order that is paid.
async fn paid(shop: &Shop, name: &str) -> anyhow::Result<Order> {
    let placed = shop
        .place(order(name, "GBP", vec![line("LAMP", 1, money("GBP", 4200))]))
        .await?;
    shop.capture(&placed).await
}

async fn several(shop: &Shop, prefix: &str, count: usize) -> anyhow::Result<Vec<Order>> {
    let mut orders = Vec::with_capacity(count);
    for number in 0..count {
        orders.push(paid(shop, &format!("{prefix}{number}")).await?);
    }
    Ok(orders)
}

async fn cancel(shop: &Shop, order: &Order) -> anyhow::Result<()> {
    let request = CancelOrderRequest {
        merchant_id: shop.session.merchant_id.clone(),
        store_id: shop.session.store_id.clone(),
        request_id: format!("cancel-{}", order.order_id),
        order_id: order.order_id.clone(),
        reason: "ordered twice".to_owned(),
        etag: String::new(),
    };
    let client = shop.session.orders()?;
    waybill_e2e::patient!("an order could not be cancelled", client.cancel_order(request)).await?;
    Ok(())
}

/// Places orders until told to stop, or until the service refuses: that is what a fenced log does.
async fn load(shop: &Shop, stop: &AtomicBool) -> anyhow::Result<Vec<Order>> {
    let mut orders = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        orders.push(paid(shop, &format!("LOAD{}", orders.len())).await?);
    }
    Ok(orders)
}

/// No two mails say the same to the same.
fn no_mail_twice(shop: &Shop) -> anyhow::Result<()> {
    let mut counts: HashMap<(String, String), usize> = HashMap::new();
    for mail in shop.stack.mails().messages() {
        *counts.entry((mail.subject, mail.text)).or_default() += 1;
    }
    let twice: Vec<_> = counts
        .into_iter()
        .filter(|(_, count)| *count > 1)
        .map(|((subject, _), count)| (subject, count))
        .collect();
    ensure!(twice.is_empty(), "mails went out more than once: {twice:?}");
    Ok(())
}

async fn mailed(shop: &Shop, orders: &[Order], stage: i32) -> anyhow::Result<()> {
    for order in orders {
        wait::until("a mail about an order", || async {
            let sent = shop.notifications(&order.order_id).await?;
            let found = sent.iter().any(|one| one.stage == stage && one.sent_at.is_some());
            Ok(found.then_some(()))
        })
        .await?;
    }
    Ok(())
}

/// The refund schema goes back to before money was paid back.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_paid_back_twice() -> anyhow::Result<()> {
    let shop = Shop::open().await?;
    shop.stock([("LAMP", 100_000)]).await?;
    let night = Night::of(&shop, "refund")?;
    let before = several(&shop, "EARLY", 2).await?;
    let lost = several(&shop, "LOST", 4).await?;
    for order in &before {
        cancel(&shop, order).await?;
        shop.refund_in(&order.order_id, RefundState::Succeeded).await?;
    }
    let copy = night.dump().await?;

    // What the copy does not have: money went back, and customers were told.
    for order in &lost {
        cancel(&shop, order).await?;
    }
    for order in &lost {
        shop.refund_in(&order.order_id, RefundState::Succeeded).await?;
        ensure!(
            shop.paid_back(order) == [total_of(order)],
            "{} is not paid back",
            order.number
        );
    }
    let stop = AtomicBool::new(false);
    let (during, loaded) = tokio::try_join!(load(&shop, &stop), async {
        night.put_back(&copy).await?;
        night.fenced().await?;
        let recovery = night.recover().await?;
        stop.store(true, Ordering::Relaxed);
        Ok(recovery)
    })?;
    ensure!(
        loaded.orphans > 0,
        "nothing was told of the lost history: {loaded:?}"
    );
    // Decided while everything outside is held.
    let late = during.first().context("no order under load")?;
    cancel(&shop, late).await?;
    night.settle().await?;

    for order in before.iter().chain(&lost).chain([late]) {
        shop.refund_in(&order.order_id, RefundState::Succeeded).await?;
        let paid = shop.paid_back(order);
        ensure!(
            paid == [total_of(order)],
            "{} was paid back {paid:?}",
            order.number
        );
    }
    no_mail_twice(&shop)?;
    shop.stack.stop().await
}

/// The notification schema goes back to before mails were sent.
#[tokio::test(flavor = "multi_thread")]
async fn no_mail_goes_out_twice() -> anyhow::Result<()> {
    use waybill_proto::waybill::notification::v1::Stage;
    let shop = Shop::open().await?;
    shop.stock([("LAMP", 100_000)]).await?;
    let night = Night::of(&shop, "notification")?;
    let before = several(&shop, "EARLY", 2).await?;
    mailed(&shop, &before, Stage::OrderConfirmed.into()).await?;
    let copy = night.dump().await?;

    let lost = several(&shop, "LOST", 4).await?;
    mailed(&shop, &lost, Stage::OrderConfirmed.into()).await?;
    let sent = shop.stack.mails().messages().len();
    let stop = AtomicBool::new(false);
    let (during, ()) = tokio::try_join!(load(&shop, &stop), async {
        night.put_back(&copy).await?;
        night.fenced().await?;
        night.recover().await?;
        stop.store(true, Ordering::Relaxed);
        Ok(())
    })?;
    night.settle().await?;

    let after = several(&shop, "LATE", 2).await?;
    mailed(&shop, &after, Stage::OrderConfirmed.into()).await?;
    mailed(&shop, &lost, Stage::OrderConfirmed.into()).await?;
    mailed(&shop, &during, Stage::OrderConfirmed.into()).await?;
    ensure!(
        shop.stack.mails().messages().len() >= sent + after.len(),
        "mails stopped for good"
    );
    no_mail_twice(&shop)?;
    shop.stack.stop().await
}

/// The order schema goes back to before orders that everybody had heard of.
#[tokio::test(flavor = "multi_thread")]
async fn consumers_list_what_is_gone_and_go_on() -> anyhow::Result<()> {
    use waybill_proto::waybill::notification::v1::Stage;
    let shop = Shop::open().await?;
    shop.stock([("LAMP", 100_000)]).await?;
    let night = Night::of(&shop, "order")?;
    several(&shop, "EARLY", 2).await?;
    let copy = night.dump().await?;
    let lost = several(&shop, "LOST", 3).await?;
    mailed(&shop, &lost, Stage::OrderConfirmed.into()).await?;
    night.caught_up().await?;

    night.put_back(&copy).await?;
    night.fenced().await?;
    let recovery = night.recover().await?;
    ensure!(
        recovery.orphans >= 6,
        "placed and paid three orders: {recovery:?}"
    );
    night.settle().await?;
    for service in ["fulfillment", "refund", "notification", "analytics"] {
        wait::until(&format!("the phantoms of {service}"), || async {
            let listed = night.phantoms(service).await?;
            let all = lost.iter().all(|order| {
                let mut phantoms = listed.iter().filter(|phantom| phantom.key == order.order_id);
                phantoms.any(|phantom| phantom.r#type == "waybill.order.v1.OrderPlaced")
            });
            Ok(all.then_some(()))
        })
        .await?;
    }

    // The new history reaches everybody.
    let after = several(&shop, "LATE", 2).await?;
    mailed(&shop, &after, Stage::OrderConfirmed.into()).await?;
    for order in &after {
        cancel(&shop, order).await?;
        shop.refund_in(&order.order_id, RefundState::Succeeded).await?;
    }
    night.settle().await?;
    night.caught_up().await?;
    no_mail_twice(&shop)?;
    shop.stack.stop().await
}
