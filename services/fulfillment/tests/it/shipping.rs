//! Shipments: only what is reserved leaves, once.

use tonic::Code;
use waybill_kernel::id::HoldId;
use waybill_proto::waybill::fulfillment::v1 as proto;
use waybill_proto::waybill::fulfillment::v1::AllocationStatus;
use waybill_rpc::fault;

use crate::support::{World, fields, line, refusal};

fn lines(shipment: &proto::Shipment) -> Vec<(String, i32)> {
    shipment
        .lines
        .iter()
        .map(|line| (line.line_id.clone(), line.quantity))
        .collect()
}

#[tokio::test]
async fn everything_that_is_reserved_ships_and_leaves_the_building() -> anyhow::Result<()> {
    let world = World::start().await?;
    let north = world.location("North", 0).await?;
    world.adjust(&[("TEE", &north, 10)]).await?;
    let order = world.order(vec![line("TEE", 2), line("TEE", 3)]);
    world.take_in(&[&order]).await?;

    let request = world.shipment_of(&order);
    let shipment = world.ship(request.clone()).await?;
    assert_eq!(lines(&shipment), [(order.line_id(0), 2), (order.line_id(1), 3)]);
    assert_eq!(shipment.status(), proto::ShipmentStatus::Pending);
    assert_eq!(
        (shipment.location_id.clone(), shipment.version),
        (north.clone(), 1)
    );
    assert_eq!(world.status(&order).await?, AllocationStatus::Shipped);

    // A retry is answered alike and ships nothing twice.
    assert_eq!(world.ship(request).await?, shipment);
    let told = world.told::<proto::ShipmentShipped>().await?;
    assert_eq!(told.len(), 1);
    assert_eq!(
        (told[0].shipment_id.clone(), told[0].location_id.clone()),
        (shipment.shipment_id, north)
    );
    assert!(told[0].order_fully_shipped);
    assert_eq!(told[0].lines.iter().map(|line| line.quantity).sum::<i32>(), 5);

    let error = world
        .ship(world.shipment_of(&order))
        .await
        .expect_err("nothing is left");
    assert_eq!(
        refusal(&error),
        (Code::FailedPrecondition, "NOT_ALLOCATED".to_owned())
    );
    let books = world.end().await?;
    assert_eq!((books.on_hand, books.reserved, books.shipped), (5, 0, 5));
    Ok(())
}

/// F-6: many shipments of the same units at once; one wins.
#[tokio::test]
async fn the_same_units_ship_once() -> anyhow::Result<()> {
    let world = World::start().await?;
    let north = world.location("North", 0).await?;
    world.adjust(&[("TEE", &north, 10)]).await?;
    let order = world.order(vec![line("TEE", 2)]);
    world.take_in(&[&order]).await?;

    let calls: Vec<_> = (0..12)
        .map(|_| {
            let (mut client, request) = (world.client.clone(), world.shipment_of(&order));
            tokio::spawn(async move { client.create_shipment(request).await })
        })
        .collect();
    let mut shipped = 0;
    for call in calls {
        match call.await? {
            Ok(_) => shipped += 1,
            Err(status) => assert_eq!(
                refusal(&status),
                (Code::FailedPrecondition, "NOT_ALLOCATED".to_owned())
            ),
        }
    }
    assert_eq!(shipped, 1);
    let books = world.end().await?;
    assert_eq!((books.on_hand, books.shipped), (8, 2));
    Ok(())
}

/// A click that is sent several times at once is one shipment with one answer.
#[tokio::test]
async fn one_request_sent_many_times_at_once_is_one_shipment() -> anyhow::Result<()> {
    let world = World::start().await?;
    let north = world.location("North", 0).await?;
    world.adjust(&[("TEE", &north, 10)]).await?;
    let order = world.order(vec![line("TEE", 2)]);
    world.take_in(&[&order]).await?;
    let request = world.shipment_of(&order);
    let calls: Vec<_> = (0..8)
        .map(|_| {
            let (mut client, request) = (world.client.clone(), request.clone());
            tokio::spawn(async move { client.create_shipment(request).await })
        })
        .collect();
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await??.into_inner());
    }
    answers.dedup();
    assert_eq!(answers.len(), 1);
    assert_eq!(world.end().await?.shipped, 2);
    Ok(())
}

#[tokio::test]
async fn an_order_ships_in_parts_from_several_locations() -> anyhow::Result<()> {
    let world = World::start().await?;
    let (north, south) = (
        world.location("North", 0).await?,
        world.location("South", 1).await?,
    );
    world.adjust(&[("TEE", &north, 4), ("MUG", &south, 2)]).await?;
    let order = world.order(vec![line("TEE", 4), line("MUG", 3)]);
    world.take_in(&[&order]).await?;

    let mut part = world.shipment_of(&order);
    part.lines = vec![proto::NewShipmentLine {
        line_id: order.line_id(0),
        quantity: 3,
    }];
    let first = world.ship(part).await?;
    assert_eq!(
        (first.location_id.clone(), lines(&first)),
        (north.clone(), vec![(order.line_id(0), 3)])
    );

    let mut mixed = world.shipment_of(&order);
    mixed.lines = vec![
        proto::NewShipmentLine {
            line_id: order.line_id(0),
            quantity: 1,
        },
        proto::NewShipmentLine {
            line_id: order.line_id(1),
            quantity: 2,
        },
    ];
    let error = world.ship(mixed.clone()).await.expect_err("no location has both");
    assert!(error.message().contains("several locations"), "{error}");
    mixed.lines[1].quantity = 3;
    let error = world.ship(mixed).await.expect_err("one mug waits");
    assert!(
        error.message().contains("3 units asked for, 2 reserved"),
        "{error}"
    );

    let mut rest = world.shipment_of(&order);
    rest.location_id.clone_from(&south);
    assert_eq!(lines(&world.ship(rest).await?), [(order.line_id(1), 2)]);
    assert_eq!(
        lines(&world.ship(world.shipment_of(&order)).await?),
        [(order.line_id(0), 1)]
    );
    assert_eq!(
        world.status(&order).await?,
        AllocationStatus::Backordered,
        "one mug waits"
    );

    world.adjust(&[("MUG", &south, 1)]).await?;
    world.ship(world.shipment_of(&order)).await?;
    let complete: Vec<bool> = world
        .told::<proto::ShipmentShipped>()
        .await?
        .iter()
        .map(|told| told.order_fully_shipped)
        .collect();
    assert_eq!(complete, [false, false, false, true]);
    assert_eq!(world.end().await?.shipped, 7);
    Ok(())
}

#[tokio::test]
async fn an_order_ships_only_when_it_is_paid_and_not_cancelled() -> anyhow::Result<()> {
    let world = World::start().await?;
    let north = world.location("North", 0).await?;
    world.adjust(&[("TEE", &north, 10)]).await?;
    let order = world.order(vec![line("TEE", 1)]);
    world.feed(&[order.placed()]).await?;
    let error = world.ship(world.shipment_of(&order)).await.expect_err("not paid");
    assert_eq!(
        refusal(&error),
        (Code::FailedPrecondition, "PAYMENT_PENDING".to_owned())
    );

    world.feed(&[order.paid("authorization", 2)]).await?;
    assert!(world.fulfillment(order.id).await?.payment_cleared);
    world.feed(&[order.paid("void", 3)]).await?;
    assert!(
        !world.fulfillment(order.id).await?.payment_cleared,
        "the authorisation was given back"
    );
    world.feed(&[order.paid("capture", 4)]).await?;
    assert!(world.fulfillment(order.id).await?.payment_cleared);

    world.feed(&[order.cancelled(5)]).await?;
    let error = world
        .ship(world.shipment_of(&order))
        .await
        .expect_err("cancelled");
    assert_eq!(
        refusal(&error),
        (Code::FailedPrecondition, "ORDER_CANCELLED".to_owned())
    );

    let mut gift = world.order(vec![line("TEE", 1)]);
    gift.total_minor = 0;
    world.feed(&[gift.placed()]).await?;
    world.ship(world.shipment_of(&gift)).await?;
    assert_eq!(world.end().await?.shipped, 1);
    Ok(())
}

/// F-13: what was given back, and what is not authorised, does not ship.
#[tokio::test]
async fn an_order_ships_once_its_money_covers_what_is_to_be_paid() -> anyhow::Result<()> {
    let world = World::start().await?;
    let north = world.location("North", 0).await?;
    world.adjust(&[("TEE", &north, 1)]).await?;
    let mut order = world.order(vec![line("TEE", 1)]);
    order.total_minor = 120;
    world.feed(&[order.placed()]).await?;
    let steps = [
        ("one", "authorization", 100, false),
        ("other", "authorization", 20, true),
        ("one", "dispute", 100, true),
        ("one", "void", 100, false),
        ("other", "capture", 20, false),
        ("third", "capture", 99, false),
        ("fourth", "capture", 1, true),
    ];
    for (version, (id, kind, amount, cleared)) in (2..).zip(steps) {
        world.feed(&[order.paid_as(id, kind, amount, version)]).await?;
        let seen = world.fulfillment(order.id).await?;
        assert_eq!(seen.payment_cleared, cleared, "{kind} of {id}");
    }
    world.ship(world.shipment_of(&order)).await?;
    world.end().await?;
    Ok(())
}

/// F-12: whatever stops an order while a shipment of it is being made stops the shipment.
#[tokio::test]
async fn a_shipment_is_decided_on_what_is_known_once_it_has_waited() -> anyhow::Result<()> {
    let world = World::start().await?;
    let north = world.location("North", 0).await?;
    world.adjust(&[("TEE", &north, 3), ("MUG", &north, 1)]).await?;
    let (held, voided, mut edited) = (
        world.order(vec![line("TEE", 1)]),
        world.order(vec![line("TEE", 1)]).placed_after(1),
        world.order(vec![line("TEE", 1)]).placed_after(2),
    );
    world.take_in(&[&held, &voided, &edited]).await?;
    edited.total_minor = 600;
    let edit = edited.edited(vec![line("MUG", 1)], &[], 3);
    for (order, told, reason) in [
        (&held, held.held(HoldId::generate(), 3), "ORDER_ON_HOLD"),
        (&voided, voided.paid("void", 3), "PAYMENT_PENDING"),
        (&edited, edit, "PAYMENT_PENDING"),
    ] {
        let tx = world.feed_uncommitted(&[told]).await?;
        let (mut client, request) = (world.client.clone(), world.shipment_of(order));
        let call = tokio::spawn(async move { client.create_shipment(request).await });
        world.somebody_waits().await;
        tx.commit().await?;
        let error = call.await?.expect_err("it was stopped");
        assert_eq!(refusal(&error), (Code::FailedPrecondition, reason.to_owned()));
    }
    let books = world.end().await?;
    assert_eq!((books.reserved, books.shipped), (4, 0));
    Ok(())
}

#[tokio::test]
async fn an_order_that_has_not_arrived_is_waited_for_only_when_asked() -> anyhow::Result<()> {
    let world = World::start().await?;
    let north = world.location("North", 0).await?;
    world.adjust(&[("TEE", &north, 10)]).await?;
    let order = world.order(vec![line("TEE", 1)]);
    let mut request = world.shipment_of(&order);
    let error = world.ship(request.clone()).await.expect_err("never heard of");
    assert_eq!(refusal(&error), (Code::NotFound, "ORDER_NOT_FOUND".to_owned()));
    request.min_order_version = 2;
    let not_yet = (Code::Unavailable, "ORDER_NOT_SEEN_YET".to_owned());
    let error = world.ship(request.clone()).await.expect_err("not yet");
    assert_eq!(refusal(&error), not_yet);
    assert!(fault::retry_after(&error).is_some(), "says when to ask again");

    world.feed(&[order.placed()]).await?;
    let error = world.ship(request.clone()).await.expect_err("version 1");
    assert_eq!(refusal(&error), not_yet);
    world.feed(&[order.paid("capture", 2)]).await?;
    world.ship(request).await?;
    world.end().await?;
    Ok(())
}

#[tokio::test]
async fn a_tracking_number_names_one_shipment_of_a_carrier() -> anyhow::Result<()> {
    let world = World::start().await?;
    let north = world.location("North", 0).await?;
    world.adjust(&[("TEE", &north, 10)]).await?;
    let orders = [
        world.order(vec![line("TEE", 1)]),
        world.order(vec![line("TEE", 1)]),
    ];
    world.take_in(&[&orders[0], &orders[1]]).await?;
    let first = world.shipment_of(&orders[0]);
    world.ship(first.clone()).await?;
    let mut second = world.shipment_of(&orders[1]);
    second.tracking_number.clone_from(&first.tracking_number);
    let error = world
        .ship(second.clone())
        .await
        .expect_err("the number is in use");
    assert_eq!(
        refusal(&error),
        (Code::AlreadyExists, "TRACKING_NUMBER_IN_USE".to_owned())
    );
    assert_eq!(world.books().await?.shipped, 1, "and nothing left the building");
    // The refusal did not use up the request id.
    second.carrier = "dhl".to_owned();
    world.ship(second).await?;
    assert_eq!(world.end().await?.shipped, 2);
    Ok(())
}

#[tokio::test]
async fn lines_of_another_order_and_digital_lines_are_the_callers_mistake() -> anyhow::Result<()> {
    let world = World::start().await?;
    let mut gift = line("GIFT-CARD", 1);
    gift.digital = true;
    let order = world.order(vec![line("TEE", 1), gift]);
    let other = world.order(vec![line("TEE", 1)]);
    world.take_in(&[&order, &other]).await?;
    let mut request = world.shipment_of(&order);
    request.lines = vec![
        proto::NewShipmentLine {
            line_id: order.line_id(0),
            quantity: 1,
        },
        proto::NewShipmentLine {
            line_id: order.line_id(1),
            quantity: 1,
        },
        proto::NewShipmentLine {
            line_id: other.line_id(0),
            quantity: 1,
        },
    ];
    let error = world.ship(request).await.expect_err("two wrong lines");
    assert_eq!(error.code(), Code::InvalidArgument);
    assert_eq!(fields(&error), ["lines[1].line_id", "lines[2].line_id"]);
    world.end().await?;
    Ok(())
}

#[tokio::test]
async fn shipments_are_listed_newest_first_and_fetched_in_the_order_asked_for() -> anyhow::Result<()> {
    let world = World::start().await?;
    let north = world.location("North", 0).await?;
    world.adjust(&[("TEE", &north, 100)]).await?;
    let order = world.order(vec![line("TEE", 7)]);
    let other = world.order(vec![line("TEE", 1)]);
    world.take_in(&[&order, &other]).await?;
    let mut made = Vec::new();
    for _ in 0..7 {
        let mut request = world.shipment_of(&order);
        request.lines = vec![proto::NewShipmentLine {
            line_id: order.line_id(0),
            quantity: 1,
        }];
        made.push(world.ship(request).await?);
    }
    let foreign = world.ship(world.shipment_of(&other)).await?;

    let mut request = proto::ListShipmentsRequest {
        merchant_id: world.merchant.to_string(),
        store_id: world.store.to_string(),
        page_size: 3,
        order_id: order.id.to_string(),
        ..proto::ListShipmentsRequest::default()
    };
    let mut client = world.client.clone();
    let mut listed = Vec::new();
    loop {
        let page = client.list_shipments(request.clone()).await?.into_inner();
        listed.extend(page.shipments);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    made.reverse();
    assert_eq!(listed, made);
    request.order_id.clear();
    request.page_size = 1;
    assert_eq!(
        client.list_shipments(request).await?.into_inner().shipments,
        [foreign]
    );

    let ids = vec![
        made[4].shipment_id.clone(),
        order.id.to_string(),
        made[1].shipment_id.clone(),
    ];
    let request = proto::BatchGetShipmentsRequest {
        merchant_id: world.merchant.to_string(),
        store_id: world.store.to_string(),
        shipment_ids: ids,
    };
    let found = client.batch_get_shipments(request).await?.into_inner().shipments;
    assert_eq!(found, [made[4].clone(), made[1].clone()]);
    world.end().await?;
    Ok(())
}
