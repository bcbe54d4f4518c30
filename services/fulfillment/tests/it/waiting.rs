//! Orders that wait for stock, and everything that may bring them some: deliveries, cancellations, returns.

use waybill_proto::waybill::fulfillment::v1 as proto;
use waybill_proto::waybill::fulfillment::v1::AllocationStatus::{Allocated, Backordered, Released};

use crate::support::{Order, World, line};

/// F-4.
#[tokio::test]
async fn a_delivery_goes_to_the_oldest_orders() -> anyhow::Result<()> {
    let world = World::start().await?;
    let north = world.location("North", 0).await?;
    // A sku that nobody has ever stocked. The younger order is heard of first.
    let young = world.order(vec![line("TEE", 2)]).placed_after(10);
    let old = world.order(vec![line("TEE", 3)]);
    world.take_in(&[&young]).await?;
    world.take_in(&[&old]).await?;
    assert_eq!(world.status(&old).await?, Backordered);

    let levels = world.adjust(&[("TEE", &north, 4)]).await?;
    assert_eq!(
        (levels[0].on_hand, levels[0].reserved, levels[0].available),
        (4, 4, 0)
    );
    assert_eq!(world.status(&old).await?, Allocated);
    assert_eq!(
        world.status(&young).await?,
        Backordered,
        "one unit is still missing"
    );
    assert_eq!(world.told::<proto::OrderAllocated>().await?.len(), 1);

    world.adjust(&[("TEE", &north, 4)]).await?;
    assert_eq!(world.status(&young).await?, Allocated);
    let told = world.told::<proto::OrderAllocated>().await?;
    assert_eq!(
        told.iter().map(|told| told.order_id.clone()).collect::<Vec<_>>(),
        [old.id.to_string(), young.id.to_string()]
    );
    assert_eq!(world.end().await?.waiting, 0);
    Ok(())
}

/// What came in for an order that waits for two skus is kept for it.
#[tokio::test]
async fn an_order_fills_up_sku_by_sku() -> anyhow::Result<()> {
    let world = World::start().await?;
    let (north, south) = (
        world.location("North", 0).await?,
        world.location("South", 1).await?,
    );
    let order = world.order(vec![line("TEE", 2), line("MUG", 1)]);
    world.take_in(&[&order]).await?;
    world.adjust(&[("TEE", &south, 1)]).await?;
    world.adjust(&[("MUG", &north, 1)]).await?;
    assert_eq!(world.status(&order).await?, Backordered);
    world.adjust(&[("TEE", &north, 1)]).await?;
    assert_eq!(world.status(&order).await?, Allocated);
    world.end().await?;
    Ok(())
}

#[tokio::test]
async fn a_cancellation_lets_go_and_the_next_gets_it() -> anyhow::Result<()> {
    let world = World::start().await?;
    let north = world.location("North", 0).await?;
    world.adjust(&[("TEE", &north, 5)]).await?;
    let first = world.order(vec![line("TEE", 5), line("MUG", 1)]);
    let second = world.order(vec![line("TEE", 5)]).placed_after(1);
    world.take_in(&[&first, &second]).await?;
    assert_eq!(world.status(&second).await?, Backordered);

    world.feed(&[first.cancelled(3)]).await?;
    assert_eq!(world.status(&first).await?, Released);
    assert_eq!(world.status(&second).await?, Allocated);
    let told = world.told::<proto::ReservationReleased>().await?;
    assert_eq!(told.len(), 1);
    assert_eq!(
        (told[0].order_id.clone(), told[0].reason.as_str()),
        (first.id.to_string(), "order_cancelled")
    );

    // The mug it waited for is nobody's now.
    world.adjust(&[("MUG", &north, 1)]).await?;
    assert_eq!(world.fulfillment(first.id).await?.allocations, []);
    let books = world.end().await?;
    assert_eq!((books.on_hand, books.reserved, books.waiting), (6, 5, 0));
    Ok(())
}

/// The oldest in the queue is cancelled in the very batch that frees the unit it waited for.
#[tokio::test]
async fn a_cancelled_order_does_not_stand_in_the_way() -> anyhow::Result<()> {
    let world = World::start().await?;
    let north = world.location("North", 0).await?;
    world.adjust(&[("TEE", &north, 1)]).await?;
    let orders: Vec<Order> = (0..3)
        .map(|minute| world.order(vec![line("TEE", 1)]).placed_after(minute))
        .collect();
    world.take_in(&orders.iter().collect::<Vec<_>>()).await?;
    world
        .feed(&[orders[0].cancelled(3), orders[1].cancelled(3)])
        .await?;
    assert_eq!(world.status(&orders[1]).await?, Released);
    assert_eq!(world.status(&orders[2]).await?, Allocated);
    world.end().await?;
    Ok(())
}

/// F-10.
#[tokio::test]
async fn returned_goods_go_back_where_they_left_from_and_on_to_who_waits() -> anyhow::Result<()> {
    let world = World::start().await?;
    let (north, south) = (
        world.location("North", 0).await?,
        world.location("South", 1).await?,
    );
    world.adjust(&[("TEE", &south, 3)]).await?;
    let sold = world.order(vec![line("TEE", 3)]);
    let waits = world.order(vec![line("TEE", 1)]).placed_after(1);
    world.take_in(&[&sold, &waits]).await?;
    world.ship(world.shipment_of(&sold)).await?;
    assert_eq!(world.books().await?.on_hand, 0);

    // Damaged goods are not sold again.
    world.feed(&[sold.received(&[(0, 1, "damaged")])]).await?;
    assert_eq!(world.books().await?.on_hand, 0);
    world
        .feed(&[sold.received(&[(0, 1, "restock"), (0, 1, "discard")])])
        .await?;
    let seen = world.fulfillment(waits.id).await?;
    assert_eq!(seen.status(), Allocated);
    assert_eq!(seen.allocations[0].location_id, south, "not {north}");

    // More than ever left is not put on any shelf.
    world.feed(&[sold.received(&[(0, 9, "restock")])]).await?;
    let books = world.end().await?;
    assert_eq!((books.on_hand, books.reserved), (3, 1));
    Ok(())
}

/// More lines wait than one transaction serves: a job goes on, and a new order does not slip in between.
#[tokio::test]
async fn a_job_finishes_what_was_too_much_for_one_transaction() -> anyhow::Result<()> {
    let world = World::start().await?;
    let north = world.location("North", 0).await?;
    let orders: Vec<Order> = (0..1_300)
        .map(|minute| {
            world
                .order(vec![line("TEE", 1), line("MUG", 1)])
                .placed_after(minute)
        })
        .collect();
    for batch in orders.chunks(500) {
        world
            .feed(&batch.iter().map(Order::placed).collect::<Vec<_>>())
            .await?;
    }
    world
        .adjust(&[("TEE", &north, 1_250), ("MUG", &north, 1_300)])
        .await?;
    let newest = world.order(vec![line("TEE", 1)]).placed_after(5_000);
    world.feed(&[newest.placed()]).await?;
    world.jobs_are_done().await;

    assert_eq!(world.told::<proto::OrderAllocated>().await?.len(), 1_250);
    for (number, order) in orders.iter().enumerate().skip(1_240).take(20) {
        let expected = if number < 1_250 { Allocated } else { Backordered };
        assert_eq!(world.status(order).await?, expected, "order {number}");
    }
    assert_eq!(world.status(&newest).await?, Backordered);
    let books = world.end().await?;
    assert_eq!((books.reserved, books.waiting), (2_550, 51));
    Ok(())
}

/// A delivery and an order that has never found a shelf must not miss each other.
#[tokio::test]
async fn an_order_and_the_delivery_it_needs_meet() -> anyhow::Result<()> {
    let world = World::start().await?;
    let north = world.location("North", 0).await?;
    let skus: Vec<String> = (0..20).map(|number| format!("NEW-{number}")).collect();
    for sku in &skus {
        let order = world.order(vec![line(sku, 1)]);
        let feed = world.feed_beside(vec![order.placed()]);
        world.adjust(&[(sku, &north, 1)]).await?;
        feed.await??;
    }
    world.jobs_are_done().await;
    // The books hold that no order waits while stock is free.
    assert_eq!(world.end().await?.reserved, 20);
    Ok(())
}
