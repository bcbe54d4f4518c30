//! Units that were cancelled are let go of, wherever they stand.

use waybill_proto::waybill::fulfillment::v1 as proto;
use waybill_proto::waybill::fulfillment::v1::{AllocationStatus, ShipmentStatus};

use crate::support::{World, line};

#[tokio::test]
async fn who_waits_gets_what_others_no_longer_want() -> anyhow::Result<()> {
    let world = World::start().await?;
    let north = world.location("North", 0).await?;
    world.adjust(&[("TEE", &north, 5), ("MUG", &north, 1)]).await?;
    let first = world.order(vec![line("TEE", 4), line("MUG", 1)]);
    let second = world.order(vec![line("TEE", 4)]).placed_after(1);
    world.take_in(&[&first, &second]).await?;
    assert_eq!(world.status(&second).await?, AllocationStatus::Backordered);

    // 3 of the first are free for the second, which waited for 3.
    world.feed(&[first.units_cancelled(&[(0, 3)], true, 3)]).await?;
    assert_eq!(world.status(&first).await?, AllocationStatus::Allocated);
    assert_eq!(world.status(&second).await?, AllocationStatus::Allocated);
    let told = world.told::<proto::ReservationReleased>().await?;
    assert_eq!(
        told,
        [proto::ReservationReleased {
            order_id: first.id.to_string(),
            reason: "lines_cancelled".to_owned(),
            order_delivered_at: None,
        }]
    );
    let shipment = world.ship(world.shipment_of(&first)).await?;
    assert_eq!(shipment.lines.iter().map(|line| line.quantity).sum::<i32>(), 2);
    assert!(world.told::<proto::ShipmentShipped>().await?[0].order_fully_shipped);

    // What is lost is given to nobody.
    world.feed(&[second.units_cancelled(&[(0, 1)], false, 3)]).await?;
    world.ship(world.shipment_of(&second)).await?;
    let books = world.end().await?;
    assert_eq!(
        (books.on_hand, books.reserved, books.waiting, books.shipped),
        (0, 0, 0, 5)
    );
    Ok(())
}

/// F-3: units that wait, that are reserved, that have shipped meanwhile, of an order that was placed in the same batch, of
/// one that is cancelled as a whole with it.
#[tokio::test]
async fn units_are_let_go_of_wherever_they_stand() -> anyhow::Result<()> {
    let world = World::start().await?;
    let north = world.location("North", 0).await?;
    world.adjust(&[("TEE", &north, 2)]).await?;

    let waiting = world.order(vec![line("TEE", 5)]);
    world.take_in(&[&waiting]).await?;
    world.feed(&[waiting.units_cancelled(&[(0, 3)], true, 3)]).await?;
    assert_eq!(
        world.status(&waiting).await?,
        AllocationStatus::Allocated,
        "nothing waits any more"
    );
    world.ship(world.shipment_of(&waiting)).await?;
    // Too late: it has left.
    world.feed(&[waiting.units_cancelled(&[(0, 1)], true, 4)]).await?;

    let at_once = world.order(vec![line("TEE", 2), line("TEE", 1)]).placed_after(1);
    world
        .feed(&[at_once.placed(), at_once.units_cancelled(&[(0, 2)], true, 2)])
        .await?;
    let seen = world.fulfillment(at_once.id).await?;
    assert_eq!(seen.allocations.iter().map(|part| part.quantity).sum::<i32>(), 1);

    let whole = world.order(vec![line("TEE", 2)]).placed_after(2);
    world.take_in(&[&whole]).await?;
    world
        .feed(&[whole.units_cancelled(&[(0, 1)], true, 3), whole.cancelled(4)])
        .await?;
    assert_eq!(world.status(&whole).await?, AllocationStatus::Released);
    let books = world.end().await?;
    assert_eq!((books.on_hand, books.waiting, books.shipped), (0, 1, 2));
    Ok(())
}

/// What is left of an order may have arrived before the rest is cancelled: then that says so, with the time of the arrival.
#[tokio::test]
async fn a_cancellation_says_when_all_that_is_left_has_arrived() -> anyhow::Result<()> {
    let world = World::start().await?;
    let north = world.location("North", 0).await?;
    world.adjust(&[("TEE", &north, 2)]).await?;
    let order = world.order(vec![line("TEE", 2), line("MUG", 2)]);
    world.take_in(&[&order]).await?;
    let shipment = world.ship(world.shipment_of(&order)).await?;
    world
        .track(vec![world.scan(&shipment, ShipmentStatus::Delivered, 0)])
        .await?;
    assert!(!world.told::<proto::ShipmentDelivered>().await?[0].order_fully_delivered);

    world.feed(&[order.units_cancelled(&[(1, 1)], true, 3)]).await?;
    world.feed(&[order.units_cancelled(&[(1, 1)], true, 4)]).await?;
    let told = world.told::<proto::ReservationReleased>().await?;
    let arrived = world.shipment(&shipment.shipment_id).await?.delivered_at;
    let times: Vec<_> = told.into_iter().map(|told| told.order_delivered_at).collect();
    assert!(arrived.is_some());
    assert_eq!(times, [None, arrived], "one was still missing");
    world.end().await?;
    Ok(())
}
