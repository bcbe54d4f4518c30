//! Lines that come to an order later, and units that go with them.

use waybill_proto::waybill::fulfillment::v1 as proto;
use waybill_proto::waybill::fulfillment::v1::AllocationStatus;

use crate::support::{World, line};

#[tokio::test]
async fn what_comes_later_is_reserved_or_waits_as_old_as_its_order() -> anyhow::Result<()> {
    let world = World::start().await?;
    let north = world.location("North", 0).await?;
    world.adjust(&[("TEE", &north, 2), ("MUG", &north, 1)]).await?;
    let mut first = world.order(vec![line("TEE", 2)]);
    let second = world.order(vec![line("MUG", 1), line("POT", 1)]).placed_after(1);
    world.take_in(&[&first, &second]).await?;
    assert_eq!(world.status(&first).await?, AllocationStatus::Allocated);

    // The mug is the second's; the pot that comes in is the first's, which is older.
    let edit = first.edited(vec![line("MUG", 1), line("POT", 1)], &[(0, 1)], 3);
    world.feed(&[edit]).await?;
    assert_eq!(world.status(&first).await?, AllocationStatus::Backordered);
    let missing: Vec<(String, i32)> = (world.told::<proto::OrderBackordered>().await?.into_iter())
        .filter(|told| told.order_id == first.id.to_string())
        .flat_map(|told| told.missing)
        .map(|part| (part.sku, part.quantity))
        .collect();
    assert_eq!(missing, [("MUG".to_owned(), 1), ("POT".to_owned(), 1)]);
    world.adjust(&[("MUG", &north, 1), ("POT", &north, 1)]).await?;
    assert_eq!(world.status(&first).await?, AllocationStatus::Allocated);
    assert_eq!(world.status(&second).await?, AllocationStatus::Backordered);
    let allocated = world.told::<proto::OrderAllocated>().await?;
    let of_first = allocated
        .iter()
        .filter(|told| told.order_id == first.id.to_string());
    assert_eq!(of_first.count(), 2, "at its placement, and with what came");

    let shipment = world.ship(world.shipment_of(&first)).await?;
    assert_eq!(shipment.lines.iter().map(|line| line.quantity).sum::<i32>(), 3);
    let books = world.end().await?;
    assert_eq!(
        (books.on_hand, books.reserved, books.waiting, books.shipped),
        (2, 1, 1, 3)
    );
    Ok(())
}

/// F-3: added to an order of the same batch, cancelled in the batch that adds it, with the whole order, to one that has shipped.
#[tokio::test]
async fn every_unit_is_in_one_place_whatever_else_is_told_with_it() -> anyhow::Result<()> {
    let world = World::start().await?;
    let north = world.location("North", 0).await?;
    world.adjust(&[("TEE", &north, 10)]).await?;

    let mut at_once = world.order(vec![line("TEE", 1)]);
    let placed = at_once.placed();
    let edit = at_once.edited(vec![line("TEE", 2)], &[(0, 1)], 2);
    world.feed(&[placed, edit]).await?;
    let seen = world.fulfillment(at_once.id).await?;
    assert_eq!(seen.allocations.iter().map(|part| part.quantity).sum::<i32>(), 2);

    let mut gone = world.order(vec![line("TEE", 1)]).placed_after(1);
    world.take_in(&[&gone]).await?;
    let edit = gone.edited(vec![line("TEE", 3)], &[], 3);
    world
        .feed(&[edit, gone.units_cancelled(&[(1, 3)], true, 4)])
        .await?;
    let seen = world.fulfillment(gone.id).await?;
    assert_eq!(seen.allocations.iter().map(|part| part.quantity).sum::<i32>(), 1);

    let mut whole = world.order(vec![line("TEE", 1)]).placed_after(2);
    world.take_in(&[&whole]).await?;
    let edit = whole.edited(vec![line("TEE", 1)], &[], 3);
    world.feed(&[edit, whole.cancelled(4)]).await?;
    assert_eq!(world.status(&whole).await?, AllocationStatus::Released);

    let mut away = world.order(vec![line("TEE", 1)]).placed_after(3);
    world.take_in(&[&away]).await?;
    world.ship(world.shipment_of(&away)).await?;
    assert_eq!(world.status(&away).await?, AllocationStatus::Shipped);
    let edit = away.edited(vec![line("TEE", 2)], &[], 3);
    world.feed(&[edit]).await?;
    assert_eq!(world.status(&away).await?, AllocationStatus::Allocated);
    world.ship(world.shipment_of(&away)).await?;
    let books = world.end().await?;
    assert_eq!(
        (books.on_hand, books.reserved, books.waiting, books.shipped),
        (7, 3, 0, 3)
    );
    Ok(())
}

/// An order that cost nothing ships only once what came to it is paid.
#[tokio::test]
async fn what_was_free_and_no_longer_is_waits_for_its_payment() -> anyhow::Result<()> {
    let world = World::start().await?;
    let north = world.location("North", 0).await?;
    world.adjust(&[("TEE", &north, 2)]).await?;
    let mut order = world.order(vec![line("TEE", 1)]);
    order.total_minor = 0;
    world.feed(&[order.placed()]).await?;
    order.total_minor = 500;
    let edit = order.edited(vec![line("TEE", 1)], &[], 2);
    world.feed(&[edit]).await?;
    assert!(world.ship(world.shipment_of(&order)).await.is_err());
    world.feed(&[order.paid("capture", 3)]).await?;
    world.ship(world.shipment_of(&order)).await?;
    world.end().await?;
    Ok(())
}
