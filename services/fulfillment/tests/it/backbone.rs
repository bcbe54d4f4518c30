//! The whole way of an event: from a producer's log over its stream into this service, and out into our own log.

use std::sync::Arc;

use tonic::Code;
use waybill_proto::waybill::fulfillment::v1 as proto;
use waybill_proto::waybill::fulfillment::v1::AllocationStatus::{self, Allocated};
use waybill_testkit::{Auth, database, eventually, nats};

use crate::support::{Order, Producer, SOON, World, line, refusal};

async fn reaches(world: &World, order: &Order, wanted: AllocationStatus) {
    eventually("order with its status", SOON, async || {
        match world.status(order).await {
            Ok(status) if status == wanted => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

#[tokio::test]
async fn orders_arrive_over_the_stream_and_are_fulfilled() -> anyhow::Result<()> {
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
    world.adjust(&[("TEE", &north, 3)]).await?;

    let (order, waits) = (
        world.order(vec![line("TEE", 3)]),
        world.order(vec![line("TEE", 1)]).placed_after(1),
    );
    orders.tell(&order, 1, &order.placed_message()).await?;
    orders.tell(&order, 2, &order.payment_message("capture")).await?;
    reaches(&world, &order, Allocated).await;

    // A caller that has just been told version 2 asks until it is here.
    let mut request = world.shipment_of(&order);
    request.min_order_version = 2;
    let shipment = eventually("shipment", SOON, async || {
        match world.ship(request.clone()).await {
            Err(status) => {
                assert_eq!(
                    refusal(&status),
                    (Code::Unavailable, "ORDER_NOT_SEEN_YET".to_owned())
                );
                Err(status)
            }
            shipped => shipped,
        }
    })
    .await;
    assert_eq!(shipment.lines.len(), 1);

    // Goods that come back before the order that waits for them was heard of, and of an order that nobody has heard of.
    let stranger = world.order(vec![line("TEE", 1)]);
    refunds
        .tell(&stranger, 1, &stranger.received_message(&[(0, 1, "restock")]))
        .await?;
    refunds
        .tell(&order, 1, &order.received_message(&[(0, 2, "restock")]))
        .await?;
    orders.tell(&waits, 1, &waits.placed_message()).await?;
    reaches(&world, &waits, Allocated).await;
    orders.tell(&waits, 2, &waits.cancelled_message()).await?;
    reaches(&world, &waits, AllocationStatus::Released).await;

    assert_eq!(world.told::<proto::OrderAllocated>().await?.len(), 2);
    assert_eq!(world.told::<proto::ReservationReleased>().await?.len(), 1);
    let books = world.end().await?;
    assert_eq!((books.on_hand, books.reserved, books.shipped), (2, 0, 3));
    orders.end().await?;
    refunds.end().await?;
    Ok(())
}

/// What was placed while the service was down, or is placed while NATS is, is fulfilled once.
#[tokio::test]
async fn nothing_is_lost_or_doubled_by_a_restart() -> anyhow::Result<()> {
    let (database, nats, auth) = (
        Arc::new(database(&["order", "refund", "fulfillment"]).await),
        nats().await,
        Auth::new(),
    );
    let orders = Producer::start("order", &database, nats.url(), &auth).await?;
    let refunds = Producer::start("refund", &database, nats.url(), &auth).await?;
    let peers = [("order", orders.url.as_str()), ("refund", refunds.url.as_str())];

    let first = World::start_with(Arc::clone(&database), nats.url(), auth.clone(), &peers).await?;
    let (merchant, store) = (first.merchant, first.store);
    let before = first.order(vec![line("TEE", 1)]);
    orders.tell(&before, 1, &before.placed_message()).await?;
    reaches(&first, &before, AllocationStatus::Backordered).await;
    first.end().await?;

    let placed: Vec<Order> = (0..30)
        .map(|_| Order::new(merchant, store, vec![line("TEE", 1)]))
        .collect();
    for order in &placed[..15] {
        orders.tell(order, 1, &order.placed_message()).await?;
    }
    let mut second = World::start_with(Arc::clone(&database), nats.url(), auth.clone(), &peers).await?;
    second.act_for(merchant, store)?;
    for order in &placed[15..] {
        orders.tell(order, 1, &order.placed_message()).await?;
    }
    for order in &placed {
        reaches(&second, order, AllocationStatus::Backordered).await;
    }
    assert_eq!(second.told::<proto::OrderBackordered>().await?.len(), 31);
    assert_eq!(second.end().await?.waiting, 31);
    orders.end().await?;
    refunds.end().await?;
    Ok(())
}
