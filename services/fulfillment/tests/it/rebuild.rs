//! The copy of the orders is built again from the log while the service runs.

use std::sync::Arc;

use anyhow::Context as _;
use waybill_kernel::id::HoldId;
use waybill_proto::waybill::events::v1::consumer_service_client::ConsumerServiceClient;
use waybill_proto::waybill::events::v1::{RebuildConsumerRequest, RebuildConsumerResponse, RebuildPhase};
use waybill_proto::waybill::fulfillment::v1 as proto;
use waybill_proto::waybill::fulfillment::v1::AllocationStatus::Allocated;
use waybill_rpc::client;
use waybill_testkit::{Auth, database, eventually, nats};

use crate::support::{Order, Producer, SOON, World, line};

/// Builds again, and returns what came of it.
async fn rebuild(world: &World, compare_only: bool) -> anyhow::Result<RebuildConsumerResponse> {
    let channel = client::connect(&world.url, world.auth.system_source(), "test")?;
    let request = RebuildConsumerRequest {
        request_id: world.request_id(),
        consumer: "fulfillment".to_owned(),
        compare_only,
        reason: String::new(),
    };
    let mut told = ConsumerServiceClient::new(channel)
        .rebuild_consumer(request)
        .await?
        .into_inner();
    let mut last = None;
    while let Some(now) = told.message().await? {
        last = Some(now);
    }
    let last = last.context("no outcome")?;
    anyhow::ensure!(last.phase() == RebuildPhase::Done, "{last:?}");
    anyhow::ensure!(last.swapped != compare_only, "{last:?}");
    Ok(last)
}

/// The tables that differ: rows that only the live one has, that only the rebuilt one has, that are not the same.
fn differing(outcome: &RebuildConsumerResponse) -> Vec<(&str, i64, i64, i64)> {
    outcome
        .tables
        .iter()
        .map(|one| (one.table.as_str(), one.only_live, one.only_rebuilt, one.different))
        .filter(|(_, live, rebuilt, different)| live + rebuilt + different > 0)
        .collect()
}

/// Waits until all that was told of an order is here, and its goods are reserved.
async fn is_ready(world: &World, order: &Order, version: i64) -> proto::OrderFulfillment {
    eventually("order with its goods", SOON, async || {
        match world.fulfillment(order.id).await {
            Ok(now) if now.order_version == version && now.status() == Allocated => Ok(now),
            other => Err(other),
        }
    })
    .await
}

/// Tells of an order that was held, paid and released, of one that is held, and of one of which a unit was cancelled.
async fn tell(orders: &Producer, [paid, held, fewer]: [&Order; 3], open: HoldId) -> anyhow::Result<()> {
    let over = HoldId::generate();
    orders.tell(paid, 1, &paid.placed_message()).await?;
    orders.tell(paid, 2, &paid.held_message(over)).await?;
    orders.tell(paid, 3, &paid.payment_message("capture")).await?;
    orders.tell(paid, 4, &paid.released_message(over)).await?;
    orders.tell(held, 1, &held.placed_message()).await?;
    orders.tell(held, 2, &held.held_message(open)).await?;
    orders.tell(fewer, 1, &fewer.placed_message()).await?;
    let cancelled = fewer.units_cancelled_message(&[(0, 1)], true);
    orders.tell(fewer, 2, &cancelled).await
}

/// Changes each table by hand, so that a held, unpaid order would ship. Returns what a comparison has to find.
async fn change(
    world: &World,
    [paid, held, fewer]: [&Order; 3],
    hold: HoldId,
) -> anyhow::Result<[(&'static str, i64, i64, i64); 5]> {
    for (change, of) in [
        (
            "UPDATE orders SET order_version = 9 WHERE order_id = $1",
            paid.id.uuid(),
        ),
        (
            "UPDATE order_lines SET units = 9 WHERE order_id = $1",
            fewer.id.uuid(),
        ),
        (
            "INSERT INTO order_payments VALUES ($1, gen_random_uuid(), 'capture')",
            held.id.uuid(),
        ),
        ("DELETE FROM order_holds WHERE hold_id = $1", hold.uuid()),
        (
            "UPDATE order_cancellations SET amount_minor = 9 WHERE order_id = $1",
            fewer.id.uuid(),
        ),
    ] {
        sqlx::query(change).bind(of).execute(world.pool()).await?;
    }
    let wrong = world.fulfillment(held.id).await?;
    assert!(wrong.payment_cleared && !wrong.on_hold);
    Ok([
        ("orders", 0, 0, 1),
        ("order_lines", 0, 0, 1),
        ("order_payments", 1, 0, 0),
        ("order_holds", 0, 1, 0),
        ("order_cancellations", 0, 0, 1),
    ])
}

#[tokio::test]
async fn the_copy_of_the_orders_is_built_again_while_they_are_fulfilled() -> anyhow::Result<()> {
    let (database, nats, auth) = (
        Arc::new(database(&["order", "refund", "fulfillment"]).await),
        nats().await,
        Auth::new(),
    );
    let orders = Producer::start("order", &database, nats.url(), &auth).await?;
    let refunds = Producer::start("refund", &database, nats.url(), &auth).await?;
    let peers = [("order", orders.url.as_str()), ("refund", refunds.url.as_str())];
    let world = World::start_with(Arc::clone(&database), nats.url(), auth, &peers).await?;
    let north = world.location("North", 0).await?;
    world.adjust(&[("TEE", &north, 5)]).await?;
    let (paid, held, fewer) = (
        world.order(vec![line("TEE", 2)]),
        world.order(vec![line("TEE", 1)]).placed_after(1),
        world.order(vec![line("TEE", 3)]).placed_after(2),
    );
    let open = HoldId::generate();
    tell(&orders, [&paid, &held, &fewer], open).await?;
    let paid_now = is_ready(&world, &paid, 4).await;
    let held_now = is_ready(&world, &held, 2).await;
    let fewer_now = is_ready(&world, &fewer, 2).await;
    assert!(paid_now.payment_cleared && !paid_now.on_hold && held_now.on_hold);
    let (books, told) = (
        world.books().await?,
        world.told::<proto::OrderAllocated>().await?.len(),
    );

    let untouched = rebuild(&world, true).await?;
    assert_eq!(differing(&untouched), []);
    let rows: Vec<(&str, i64)> = untouched
        .tables
        .iter()
        .map(|one| (one.table.as_str(), one.live_rows))
        .collect();
    assert_eq!(
        rows,
        [
            ("orders", 3),
            ("order_lines", 3),
            ("order_payments", 1),
            ("order_holds", 2),
            ("order_cancellations", 1)
        ]
    );
    assert_eq!((untouched.events, untouched.cursors_differing), (8, 0));

    // What somebody changes by hand is found, and what is in place afterwards is what the log says. No stock moves, nothing
    // is told.
    let found = change(&world, [&paid, &held, &fewer], open).await?;
    assert_eq!(differing(&rebuild(&world, true).await?), found);
    assert_eq!(differing(&rebuild(&world, false).await?), found);
    for (order, before) in [(&paid, &paid_now), (&held, &held_now), (&fewer, &fewer_now)] {
        assert_eq!(&world.fulfillment(order.id).await?, before);
    }
    assert_eq!(world.books().await?, books);
    assert_eq!(world.told::<proto::OrderAllocated>().await?.len(), told);

    // The service goes on with the rebuilt tables.
    orders.tell(&held, 3, &held.released_message(open)).await?;
    orders.tell(&held, 4, &held.payment_message("capture")).await?;
    let next = world.order(vec![line("TEE", 1)]).placed_after(3);
    world.adjust(&[("TEE", &north, 1)]).await?;
    orders.tell(&next, 1, &next.placed_message()).await?;
    is_ready(&world, &held, 4).await;
    is_ready(&world, &next, 1).await;
    world.ship(world.shipment_of(&held)).await?;
    world.ship(world.shipment_of(&paid)).await?;
    let after = rebuild(&world, true).await?;
    assert_eq!((differing(&after), after.events), (Vec::new(), 11));

    let books = world.end().await?;
    assert_eq!((books.on_hand, books.reserved, books.shipped), (3, 3, 3));
    orders.end().await?;
    refunds.end().await
}
