//! What is known of the orders is built again from the logs while the service runs.

use std::sync::Arc;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;
use waybill_proto::waybill::events::v1::consumer_service_client::ConsumerServiceClient;
use waybill_proto::waybill::events::v1::{RebuildConsumerRequest, RebuildConsumerResponse, RebuildPhase};
use waybill_proto::waybill::notification::v1::NotificationState::Sent;
use waybill_proto::waybill::notification::v1::Stage;
use waybill_rpc::client;
use waybill_testkit::{Auth, database, eventually, nats};

use crate::support::{Facts, Producer, SOON, StandIn, World, brand, one_row};

/// Builds again, and returns what came of it.
async fn rebuild(world: &World, compare_only: bool) -> anyhow::Result<RebuildConsumerResponse> {
    let channel = client::connect(&world.url, world.auth.system_source(), "test")?;
    let request = RebuildConsumerRequest {
        request_id: "rebuild".to_owned(),
        consumer: "notification".to_owned(),
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

/// Tables with their rows: only live, only rebuilt, not the same.
fn differing(outcome: &RebuildConsumerResponse) -> Vec<(&str, i64, i64, i64)> {
    outcome
        .tables
        .iter()
        .map(|one| (one.table.as_str(), one.only_live, one.only_rebuilt, one.different))
        .collect()
}

/// The service for a store with a brand, and the services it follows: order, fulfillment, refund.
async fn start(nats_url: &str) -> anyhow::Result<(World, [Producer; 3])> {
    let (database, auth) = (
        Arc::new(database(&["order", "fulfillment", "refund", "notification"]).await),
        Auth::new(),
    );
    let owners = StandIn::default();
    let producers = [
        Producer::start("order", &database, nats_url, &auth, &owners).await?,
        Producer::start("fulfillment", &database, nats_url, &auth, &owners).await?,
        Producer::start("refund", &database, nats_url, &auth, &owners).await?,
    ];
    let peers = [
        ("order", producers[0].url.as_str()),
        ("fulfillment", producers[1].url.as_str()),
        ("refund", producers[2].url.as_str()),
    ];
    let shutdown = CancellationToken::new();
    let world = World::on(database, nats_url, auth, owners, &peers, shutdown, |_| {}).await?;
    world.put_brand(brand()).await?;
    Ok((world, producers))
}

/// Forgets what is open, moves an order to another store, and makes one up.
async fn change(world: &World, moved: &Facts) -> anyhow::Result<()> {
    sqlx::query("DELETE FROM open_matters")
        .execute(world.pool())
        .await?;
    sqlx::query("UPDATE orders SET store_id = gen_random_uuid() WHERE order_id = $1")
        .bind(moved.order.uuid())
        .execute(world.pool())
        .await?;
    sqlx::query("INSERT INTO orders VALUES (gen_random_uuid(), gen_random_uuid(), gen_random_uuid())")
        .execute(world.pool())
        .await?;
    Ok(())
}

#[tokio::test]
async fn what_is_open_is_built_again_and_nobody_is_told_twice() -> anyhow::Result<()> {
    let nats = nats().await;
    let (world, [orders, shipments, refunds]) = start(nats.url()).await?;
    // One with a shipment in trouble, one with an open return and a refund that is paid, one that is shipped and that
    // nobody has heard of.
    let (lost, back, late) = (world.order(), world.order(), world.order());
    orders.tell(&lost, 1, &lost.placed_message()).await?;
    shipments
        .tell(&lost, 1, &lost.tracked_message("exception"))
        .await?;
    orders.tell(&back, 1, &back.placed_message()).await?;
    refunds.tell(&back, 1, &back.return_requested_message()).await?;
    refunds.tell(&back, 1, &back.refund_created_message()).await?;
    refunds.tell(&back, 2, &back.refund_succeeded_message()).await?;
    shipments.tell(&late, 1, &late.shipped_message()).await?;
    for (order, stage) in [
        (&lost, Stage::OrderConfirmed),
        (&lost, Stage::Exception),
        (&back, Stage::OrderConfirmed),
        (&back, Stage::ReturnRequested),
        (&back, Stage::RefundSucceeded),
    ] {
        world.reaches(order.order, stage, Sent).await;
    }
    eventually(
        "a shipment that waits for its order",
        SOON,
        async || match one_row(world.pool(), "SELECT count(*) FROM fold_waiting").await {
            Ok(1) => Ok(()),
            other => Err(other),
        },
    )
    .await;

    let untouched = rebuild(&world, true).await?;
    let none = [("orders", 0, 0, 0), ("open_matters", 0, 0, 0)];
    assert_eq!(differing(&untouched), none);
    assert_eq!(
        (
            untouched.events,
            untouched.events_kept,
            untouched.cursors_differing
        ),
        (7, 1, 0)
    );
    let rows: Vec<i64> = untouched.tables.iter().map(|one| one.live_rows).collect();
    assert_eq!(rows, [2, 2], "two orders, a shipment and a return");

    // What somebody changes by hand is found and mended, and no mail comes of it.
    change(&world, &back).await?;
    let found = [("orders", 1, 0, 1), ("open_matters", 0, 2, 0)];
    assert_eq!(differing(&rebuild(&world, true).await?), found);
    assert_eq!(differing(&rebuild(&world, false).await?), found);
    assert_eq!(differing(&rebuild(&world, true).await?), none);
    world.jobs_are_done().await;
    assert_eq!(world.mails.messages().len(), 5);

    // The service goes on with what was rebuilt: what was open still is, and what waited is told once.
    orders.tell(&late, 1, &late.placed_message()).await?;
    for order in [&lost, &back] {
        shipments.tell(order, 2, &order.delivered_message()).await?;
    }
    world.reaches(late.order, Stage::OrderConfirmed, Sent).await;
    world.reaches(late.order, Stage::Shipped, Sent).await;
    world.reaches(lost.order, Stage::Delivered, Sent).await;
    world.reaches(lost.order, Stage::Feedback, Sent).await;
    world.reaches(back.order, Stage::Delivered, Sent).await;
    world.waits(back.order, Stage::Feedback, "RETURN_OPEN").await;
    assert_eq!(world.mails.messages().len(), 10);
    let after = rebuild(&world, true).await?;
    assert_eq!(differing(&after), none);
    assert_eq!((after.events, after.events_kept), (10, 0));
    world.end().await?;
    for producer in [orders, shipments, refunds] {
        producer.end().await?;
    }
    Ok(())
}
