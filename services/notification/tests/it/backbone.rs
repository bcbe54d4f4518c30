//! The whole way of an event: from an owner's log over its stream into a mail, and out into our own log.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use waybill_proto::waybill::notification::v1::NotificationState::Sent;
use waybill_proto::waybill::notification::v1::{NotificationSent, Stage};
use waybill_testkit::{Auth, database, nats};

use crate::support::{Facts, Producer, StandIn, World, brand};

#[tokio::test]
async fn events_of_the_owners_become_mails() -> anyhow::Result<()> {
    let (database, nats, auth) = (
        Arc::new(database(&["order", "fulfillment", "refund", "notification"]).await),
        nats().await,
        Auth::new(),
    );
    let owners = StandIn::default();
    let orders = Producer::start("order", &database, nats.url(), &auth, &owners).await?;
    let shipments = Producer::start("fulfillment", &database, nats.url(), &auth, &owners).await?;
    let refunds = Producer::start("refund", &database, nats.url(), &auth, &owners).await?;
    let peers = [
        ("order", orders.url.as_str()),
        ("fulfillment", shipments.url.as_str()),
        ("refund", refunds.url.as_str()),
    ];
    let shutdown = CancellationToken::new();
    let world = World::on(
        Arc::clone(&database),
        nats.url(),
        auth,
        owners,
        &peers,
        shutdown,
        |_| {},
    )
    .await?;
    world.put_brand(brand()).await?;

    // The shipment is told before the order is: it waits until the order is known.
    let order = world.order();
    let stranger = Facts {
        order: waybill_kernel::id::OrderId::generate(),
        ..order.clone()
    };
    shipments.tell(&order, 1, &order.shipped_message()).await?;
    shipments.tell(&stranger, 1, &stranger.shipped_message()).await?;
    orders.tell(&order, 1, &order.placed_message()).await?;
    world.reaches(order.order, Stage::OrderConfirmed, Sent).await;
    world.reaches(order.order, Stage::Shipped, Sent).await;
    assert_eq!(
        world.about(stranger.order).await?.len(),
        0,
        "nobody has heard of that order"
    );

    let told = world.told::<NotificationSent>().await?;
    assert_eq!(told.len(), 2);
    assert!(
        told.iter()
            .all(|sent| sent.order_id == order.order.to_string() && sent.channel == "email")
    );
    world.end().await?;
    orders.end().await?;
    shipments.end().await?;
    refunds.end().await
}
