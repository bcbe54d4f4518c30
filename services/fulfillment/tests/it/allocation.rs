//! Orders get stock: never more than there is, from as few locations as possible, whoever asks at the same time.

use waybill_proto::waybill::fulfillment::v1 as proto;
use waybill_proto::waybill::fulfillment::v1::AllocationStatus;

use crate::support::{Order, World, line};

/// F-2: 50 orders, each in a transaction of its own, all at once, for the last 10 units.
#[tokio::test]
async fn fifty_orders_for_the_last_ten_units() -> anyhow::Result<()> {
    let world = World::start().await?;
    let (north, south) = (
        world.location("North", 0).await?,
        world.location("South", 1).await?,
    );
    world.adjust(&[("TEE", &north, 4), ("TEE", &south, 6)]).await?;

    let orders: Vec<Order> = (0..50)
        .map(|minute| world.order(vec![line("TEE", 1)]).placed_after(minute))
        .collect();
    let feeds: Vec<_> = orders
        .iter()
        .map(|order| world.feed_beside(vec![order.placed()]))
        .collect();
    for feed in feeds {
        feed.await??;
    }

    let mut allocated = 0;
    for order in &orders {
        match world.status(order).await? {
            AllocationStatus::Allocated => allocated += 1,
            status => assert_eq!(status, AllocationStatus::Backordered),
        }
    }
    assert_eq!(allocated, 10);
    assert_eq!(world.told::<proto::OrderAllocated>().await?.len(), 10);
    assert_eq!(world.told::<proto::OrderBackordered>().await?.len(), 40);
    let books = world.end().await?;
    assert_eq!((books.on_hand, books.reserved, books.waiting), (10, 10, 40));
    Ok(())
}

/// The same in one batch: the oldest ten get the units, whatever the order of the events (F-4).
#[tokio::test]
async fn one_batch_serves_the_oldest_orders() -> anyhow::Result<()> {
    let world = World::start().await?;
    let north = world.location("North", 0).await?;
    world.adjust(&[("TEE", &north, 10)]).await?;
    let orders: Vec<Order> = (0..50)
        .map(|minute| world.order(vec![line("TEE", 1)]).placed_after(minute))
        .collect();
    world
        .feed(&orders.iter().rev().map(Order::placed).collect::<Vec<_>>())
        .await?;
    for (number, order) in orders.iter().enumerate() {
        let expected = if number < 10 {
            AllocationStatus::Allocated
        } else {
            AllocationStatus::Backordered
        };
        assert_eq!(world.status(order).await?, expected, "order {number}");
    }
    world.end().await?;
    Ok(())
}

/// F-2: two lines of one sku must not both count the same units as theirs.
#[tokio::test]
async fn two_lines_of_one_sku_share_what_there_is() -> anyhow::Result<()> {
    let world = World::start().await?;
    let north = world.location("North", 0).await?;
    world.adjust(&[("TEE", &north, 10)]).await?;
    let order = world.order(vec![line("TEE", 6), line("TEE", 6)]);
    world.take_in(&[&order]).await?;

    let seen = world.fulfillment(order.id).await?;
    assert_eq!(seen.status(), AllocationStatus::Backordered);
    let parts: Vec<(String, bool, i32)> = seen
        .allocations
        .into_iter()
        .map(|part| (part.line_id, part.location_id.is_empty(), part.quantity))
        .collect();
    assert_eq!(
        parts,
        [
            (order.line_id(0), false, 6),
            (order.line_id(1), false, 4),
            (order.line_id(1), true, 2)
        ]
    );
    let told = world.told::<proto::OrderBackordered>().await?;
    assert_eq!(
        told[0].missing,
        [proto::LineQuantity {
            line_id: order.line_id(1),
            sku: "TEE".to_owned(),
            quantity: 2
        }]
    );
    assert_eq!(world.end().await?.reserved, 10);
    Ok(())
}

/// F-5.
#[tokio::test]
async fn an_order_ships_from_one_location_when_one_has_all() -> anyhow::Result<()> {
    let world = World::start().await?;
    let first = world.location("First", 0).await?;
    let last = world.location("Last", 9).await?;
    world
        .adjust(&[("TEE", &first, 5), ("TEE", &last, 5), ("MUG", &last, 5)])
        .await?;
    let both = world.order(vec![line("TEE", 1), line("MUG", 1)]);
    let tee = world.order(vec![line("TEE", 1)]);
    world.take_in(&[&both, &tee]).await?;
    let places = |seen: proto::OrderFulfillment| -> Vec<String> {
        seen.allocations
            .into_iter()
            .map(|part| part.location_id)
            .collect()
    };
    assert_eq!(places(world.fulfillment(both.id).await?), [last.clone(), last]);
    assert_eq!(places(world.fulfillment(tee.id).await?), [first]);
    world.end().await?;
    Ok(())
}

#[tokio::test]
async fn digital_lines_need_no_stock() -> anyhow::Result<()> {
    let world = World::start().await?;
    let north = world.location("North", 0).await?;
    world.adjust(&[("TEE", &north, 1)]).await?;
    let digital = |sku: &str| {
        let mut line = line(sku, 3);
        line.digital = true;
        line
    };
    let gift = world.order(vec![digital("GIFT-CARD")]);
    let mixed = world.order(vec![digital("GIFT-CARD"), line("TEE", 1)]);
    world.take_in(&[&gift, &mixed]).await?;

    assert_eq!(
        world.status(&gift).await?,
        AllocationStatus::Shipped,
        "nothing is left to ship"
    );
    assert_eq!(world.status(&mixed).await?, AllocationStatus::Allocated);
    let told = world.told::<proto::OrderAllocated>().await?;
    assert_eq!(
        told.len(),
        1,
        "the warehouse has nothing to say about a gift card"
    );
    assert_eq!(told[0].order_id, mixed.id.to_string());
    let skus: i64 = sqlx::query_scalar("SELECT count(*) FROM skus")
        .fetch_one(world.pool())
        .await?;
    assert_eq!(skus, 1);
    world.end().await?;
    Ok(())
}

#[tokio::test]
async fn an_order_that_is_cancelled_in_the_batch_that_placed_it_holds_nothing() -> anyhow::Result<()> {
    let world = World::start().await?;
    let north = world.location("North", 0).await?;
    world.adjust(&[("TEE", &north, 1)]).await?;
    let (gone, stays) = (
        world.order(vec![line("TEE", 1)]),
        world.order(vec![line("TEE", 1)]).placed_after(1),
    );
    world
        .feed(&[gone.placed(), stays.placed(), gone.cancelled(2)])
        .await?;
    assert_eq!(world.status(&gone).await?, AllocationStatus::Released);
    assert_eq!(world.status(&stays).await?, AllocationStatus::Allocated);
    assert_eq!(world.fulfillment(gone.id).await?.order_version, 2);
    world.end().await?;
    Ok(())
}

/// An event that contradicts itself is the event's fault, and nothing of its batch is kept.
#[tokio::test]
async fn broken_events_are_refused_whole() -> anyhow::Result<()> {
    let world = World::start().await?;
    let good = world.order(vec![line("TEE", 1)]);
    let bad = world.order(vec![line("TEE", 0)]);
    let error = world
        .feed(&[good.placed(), bad.placed()])
        .await
        .expect_err("no units");
    assert!(matches!(error, waybill_events::FoldError::Poison(_)), "{error}");
    let error = world
        .feed(&[good.placed(), good.placed()])
        .await
        .expect_err("one order twice");
    assert!(matches!(error, waybill_events::FoldError::Poison(_)), "{error}");
    let known: i64 = sqlx::query_scalar("SELECT count(*) FROM orders")
        .fetch_one(world.pool())
        .await?;
    assert_eq!(known, 0);
    world.feed(&[good.placed()]).await?;
    let error = world
        .feed(&[good.placed()])
        .await
        .expect_err("the order is there");
    assert!(error.is_refused_data(), "{error}");
    world.end().await?;
    Ok(())
}

/// A rebuild runs `project` again from the beginning of the log: the copy of the orders ends where it was, and no stock
/// moves.
#[tokio::test]
async fn a_rebuild_of_the_projection_changes_nothing() -> anyhow::Result<()> {
    let world = World::start().await?;
    let north = world.location("North", 0).await?;
    world.adjust(&[("TEE", &north, 1)]).await?;
    let order = world.order(vec![line("TEE", 2)]);
    let events = [
        order.placed(),
        order.paid("authorization", 2),
        order.paid("void", 3),
    ];
    world.feed(&events).await?;
    let before = (world.fulfillment(order.id).await?, world.books().await?);
    assert!(!before.0.payment_cleared);

    for event in &events {
        world.project(std::slice::from_ref(event)).await?;
        world.project(&events).await?;
    }
    assert_eq!((world.fulfillment(order.id).await?, world.books().await?), before);
    sqlx::query("DELETE FROM orders").execute(world.pool()).await?;
    world.project(&events).await?;
    assert_eq!((world.fulfillment(order.id).await?, world.books().await?), before);
    world.end().await?;
    Ok(())
}
