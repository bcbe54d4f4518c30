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

/// F-13: what comes is to be paid besides what was paid before, and besides what goes back for units that went.
#[tokio::test]
async fn what_comes_later_ships_once_it_is_paid_for() -> anyhow::Result<()> {
    let world = World::start().await?;
    let north = world.location("North", 0).await?;
    world.adjust(&[("TEE", &north, 2)]).await?;
    let mut order = world.order(vec![line("TEE", 1), line("TEE", 1)]);
    let mut told = vec![
        order.placed(),
        order.paid_as("first", "capture", 100, 2),
        order.units_cancelled_for(&[(1, 1)], (50, 50), 3),
    ];
    order.total_minor = 90;
    told.push(order.edited(vec![line("TEE", 1)], &[], 4));
    for (event, cleared) in told.iter().zip([false, true, true, false]) {
        world.feed(std::slice::from_ref(event)).await?;
        assert_eq!(world.fulfillment(order.id).await?.payment_cleared, cleared);
    }
    assert!(world.ship(world.shipment_of(&order)).await.is_err());

    // As much is to be paid after a rebuild, however the events are cut into batches.
    let before = world.fulfillment(order.id).await?;
    for event in &told {
        world.project(std::slice::from_ref(event)).await?;
    }
    assert_eq!(world.fulfillment(order.id).await?, before);
    sqlx::query("DELETE FROM orders").execute(world.pool()).await?;
    world.project(&told).await?;
    assert_eq!(world.fulfillment(order.id).await?, before);

    world.feed(&[order.paid_as("second", "capture", 39, 5)]).await?;
    assert!(!world.fulfillment(order.id).await?.payment_cleared);
    world.feed(&[order.paid_as("third", "capture", 1, 6)]).await?;
    world.ship(world.shipment_of(&order)).await?;
    assert_eq!(world.end().await?.shipped, 2);
    Ok(())
}

/// F-13: an order of which all that cost something was cancelled is never paid, and ships what is left.
#[tokio::test]
async fn what_is_left_ships_when_nothing_is_to_be_paid_any_more() -> anyhow::Result<()> {
    let world = World::start().await?;
    let north = world.location("North", 0).await?;
    world.adjust(&[("TEE", &north, 1), ("MUG", &north, 1)]).await?;
    let order = world.order(vec![line("TEE", 1), line("MUG", 1)]);
    world.feed(&[order.placed()]).await?;
    let part = order.units_cancelled_for(&[(1, 1)], (100, 0), 2);
    assert!(!world.fulfillment(order.id).await?.payment_cleared);
    world.feed(&[part]).await?;
    assert!(world.fulfillment(order.id).await?.payment_cleared);
    world.ship(world.shipment_of(&order)).await?;
    assert_eq!(world.end().await?.shipped, 1);
    Ok(())
}

/// An order that was taken in before amounts were kept ships as it did then: with any capture. Of such an order the next edit
/// tells what is to be paid.
#[tokio::test]
async fn an_order_without_known_amounts_ships_as_before() -> anyhow::Result<()> {
    let world = World::start().await?;
    let north = world.location("North", 0).await?;
    world.adjust(&[("TEE", &north, 2)]).await?;
    let (paid, mut unpaid) = (
        world.order(vec![line("TEE", 1)]),
        world.order(vec![line("TEE", 1)]),
    );
    world
        .feed(&[
            paid.placed(),
            unpaid.placed(),
            paid.paid_as("first", "capture", 1, 2),
        ])
        .await?;
    assert!(!world.fulfillment(paid.id).await?.payment_cleared);
    for before in [
        "UPDATE orders SET due_minor = NULL, due_version = NULL",
        "UPDATE order_payments SET provider = NULL, provider_payment_id = NULL, amount_minor = NULL",
    ] {
        sqlx::query(before).execute(world.pool()).await?;
    }
    assert!(world.fulfillment(paid.id).await?.payment_cleared);
    assert!(!world.fulfillment(unpaid.id).await?.payment_cleared);

    let edit = unpaid.edited(vec![line("TEE", 1)], &[], 2);
    world
        .feed(&[edit, unpaid.paid_as("second", "capture", 99, 3)])
        .await?;
    assert!(!world.fulfillment(unpaid.id).await?.payment_cleared);
    world.feed(&[unpaid.paid_as("third", "capture", 1, 4)]).await?;
    assert!(world.fulfillment(unpaid.id).await?.payment_cleared);
    world.end().await?;
    Ok(())
}
