//! Held orders keep their stock and ship nothing.

use tonic::Code;
use waybill_kernel::id::HoldId;
use waybill_proto::waybill::fulfillment::v1::AllocationStatus;

use crate::support::{World, line, refusal};

#[tokio::test]
async fn a_held_order_keeps_its_stock_and_ships_once_every_hold_is_released() -> anyhow::Result<()> {
    let world = World::start().await?;
    let north = world.location("North", 0).await?;
    world.adjust(&[("TEE", &north, 1)]).await?;
    let (order, other) = (
        world.order(vec![line("TEE", 2)]),
        world.order(vec![line("TEE", 1)]).placed_after(1),
    );
    let (fraud, address) = (HoldId::generate(), HoldId::generate());
    // Placed by a rule that holds it at once, in one batch.
    world
        .feed(&[
            order.placed(),
            order.held(fraud, 1),
            order.paid("authorization", 2),
        ])
        .await?;
    world.take_in(&[&other]).await?;
    world.feed(&[order.held(address, 3)]).await?;
    assert!(world.fulfillment(order.id).await?.on_hold);

    // It is served in its turn while it is held (F-4) ...
    world.adjust(&[("TEE", &north, 1)]).await?;
    assert_eq!(world.status(&order).await?, AllocationStatus::Allocated);
    // ... and ships only when nothing holds it any more.
    let held = (Code::FailedPrecondition, "ORDER_ON_HOLD".to_owned());
    for released in [fraud, address] {
        let error = world
            .ship(world.shipment_of(&order))
            .await
            .expect_err("it is held");
        assert_eq!(refusal(&error), held);
        world.feed(&[order.released(released, 4)]).await?;
    }
    let seen = world.fulfillment(order.id).await?;
    assert!(!seen.on_hold && seen.payment_cleared);
    world.ship(world.shipment_of(&order)).await?;
    let books = world.end().await?;
    assert_eq!((books.shipped, books.waiting), (2, 1));
    Ok(())
}

/// A rebuild runs through the log again: what was released stays released, however the events are cut into batches.
#[tokio::test]
async fn a_rebuild_holds_nobody_again() -> anyhow::Result<()> {
    let world = World::start().await?;
    let order = world.order(vec![line("TEE", 1)]);
    let (over, open) = (HoldId::generate(), HoldId::generate());
    let told = [
        order.placed(),
        order.held(over, 2),
        order.held(open, 3),
        order.released(over, 4),
    ];
    world.feed(&told).await?;
    for event in &told {
        world.project(std::slice::from_ref(event)).await?;
    }
    assert!(world.fulfillment(order.id).await?.on_hold);
    world.project(&[order.released(open, 5)]).await?;
    world.project(&told).await?;
    assert!(!world.fulfillment(order.id).await?.on_hold);
    world.end().await?;
    Ok(())
}
