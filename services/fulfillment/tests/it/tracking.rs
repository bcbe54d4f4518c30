//! Scans: late, repeated, contradicting, many.

use chrono::{DateTime, TimeDelta, Utc};
use tonic::Status;
use waybill_proto::waybill::fulfillment::v1 as proto;
use waybill_proto::waybill::fulfillment::v1::ShipmentStatus::{
    Delivered, Exception, InTransit, OutForDelivery, Pending, ReturnedToSender,
};
use waybill_proto::waybill::fulfillment::v1::TrackingResult::{
    Advanced, Duplicate, Recorded, UnknownShipment,
};
use waybill_proto::waybill::fulfillment::v1::{ShipmentStatus, TrackingResult};

use crate::support::{Order, World, line};

fn timestamp(time: DateTime<Utc>) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: time.timestamp(),
        nanos: i32::try_from(time.timestamp_subsec_nanos()).unwrap_or_default(),
    }
}

impl World {
    /// A scan so many minutes after the service's clock.
    pub(crate) fn scan(
        &self,
        shipment: &proto::Shipment,
        status: ShipmentStatus,
        minutes: i64,
    ) -> proto::TrackingUpdate {
        use waybill_kernel::time::Clock as _;
        proto::TrackingUpdate {
            shipment: Some(proto::tracking_update::Shipment::ShipmentId(
                shipment.shipment_id.clone(),
            )),
            status: status.into(),
            occurred_at: Some(timestamp(self.clock.now() + TimeDelta::minutes(minutes))),
            location: "Köln".to_owned(),
            description: "seen".to_owned(),
            source_event_id: String::new(),
        }
    }

    pub(crate) async fn track(
        &self,
        updates: Vec<proto::TrackingUpdate>,
    ) -> Result<Vec<(TrackingResult, ShipmentStatus)>, Status> {
        let request = proto::RecordTrackingRequest {
            merchant_id: self.merchant.to_string(),
            store_id: self.store.to_string(),
            updates,
        };
        let answer = self.client.clone().record_tracking(request).await?.into_inner();
        Ok(answer
            .outcomes
            .iter()
            .map(|outcome| (outcome.result(), outcome.status()))
            .collect())
    }

    pub(crate) async fn shipment(&self, id: &str) -> Result<proto::Shipment, Status> {
        let request = proto::GetShipmentRequest {
            merchant_id: self.merchant.to_string(),
            store_id: self.store.to_string(),
            shipment_id: id.to_owned(),
        };
        Ok(self
            .client
            .clone()
            .get_shipment(request)
            .await?
            .into_inner()
            .shipment
            .unwrap_or_default())
    }

    /// Orders of one unit each, shipped.
    async fn shipped(&self, count: usize) -> anyhow::Result<Vec<(Order, proto::Shipment)>> {
        let north = self.location("North", 0).await?;
        self.adjust(&[("TEE", &north, i64::try_from(count)?)]).await?;
        let orders: Vec<Order> = (0..count).map(|_| self.order(vec![line("TEE", 1)])).collect();
        self.take_in(&orders.iter().collect::<Vec<_>>()).await?;
        let mut shipped = Vec::new();
        for order in orders {
            let shipment = self.ship(self.shipment_of(&order)).await?;
            shipped.push((order, shipment));
        }
        Ok(shipped)
    }
}

/// F-7 and F-8.
#[tokio::test]
async fn late_scans_are_kept_and_move_nothing_back() -> anyhow::Result<()> {
    let world = World::start().await?;
    let (_, shipment) = world.shipped(1).await?.remove(0);
    assert_eq!(
        world
            .track(vec![world.scan(&shipment, OutForDelivery, -10)])
            .await?,
        [(Advanced, OutForDelivery)]
    );
    assert_eq!(
        world.track(vec![world.scan(&shipment, InTransit, -60)]).await?,
        [(Recorded, OutForDelivery)]
    );
    assert_eq!(
        world.track(vec![world.scan(&shipment, Delivered, -5)]).await?,
        [(Advanced, Delivered)]
    );
    assert_eq!(
        world.track(vec![world.scan(&shipment, Exception, -1)]).await?,
        [(Recorded, Delivered)]
    );

    let seen = world.shipment(&shipment.shipment_id).await?;
    assert_eq!((seen.status(), seen.version), (Delivered, 3));
    assert_eq!(seen.delivered_at, seen.tracking_events[2].occurred_at);
    let statuses: Vec<ShipmentStatus> = seen.tracking_events.iter().map(|event| event.status()).collect();
    assert_eq!(
        statuses,
        [InTransit, OutForDelivery, Delivered, Exception],
        "oldest first"
    );

    let changes = world.told::<proto::ShipmentStatusChanged>().await?;
    assert_eq!(changes.len(), 1);
    assert_eq!(
        (changes[0].previous_status.as_str(), changes[0].status.as_str()),
        ("pending", "out_for_delivery")
    );
    let arrivals = world.told::<proto::ShipmentDelivered>().await?;
    assert_eq!(arrivals.len(), 1);
    assert!(arrivals[0].order_fully_delivered);
    assert_eq!(arrivals[0].lines[0].quantity, 1);

    assert_eq!(
        world
            .track(vec![world.scan(&shipment, ReturnedToSender, 0)])
            .await?,
        [(Advanced, ReturnedToSender)]
    );
    assert_eq!(
        world.track(vec![world.scan(&shipment, Delivered, 0)]).await?,
        [(Recorded, ReturnedToSender)]
    );
    assert_eq!(world.told::<proto::ShipmentDelivered>().await?.len(), 1);
    world.end().await?;
    Ok(())
}

/// F-9.
#[tokio::test]
async fn what_was_heard_before_changes_nothing() -> anyhow::Result<()> {
    let world = World::start().await?;
    let (_, shipment) = world.shipped(1).await?.remove(0);
    let plain = world.scan(&shipment, InTransit, -30);
    let mut named = world.scan(&shipment, InTransit, -30);
    named.source_event_id = "scan-1".to_owned();
    // A time finer than the database keeps must not make a scan look new.
    let mut fine = world.scan(&shipment, Exception, -20);
    fine.occurred_at.as_mut().expect("it has a time").nanos = 123_456_789;

    let updates = vec![plain.clone(), named.clone(), fine.clone(), plain.clone()];
    assert_eq!(
        world.track(updates.clone()).await?,
        [
            (Advanced, InTransit),
            (Recorded, InTransit),
            (Advanced, Exception),
            (Duplicate, Exception)
        ]
    );
    assert_eq!(world.track(updates).await?, [(Duplicate, Exception); 4]);
    // The source's id decides, whatever else it says now.
    let mut changed = world.scan(&shipment, Delivered, 0);
    changed.source_event_id = "scan-1".to_owned();
    assert_eq!(world.track(vec![changed]).await?, [(Duplicate, Exception)]);

    assert_eq!(
        world.shipment(&shipment.shipment_id).await?.tracking_events.len(),
        3
    );
    assert_eq!(world.told::<proto::ShipmentStatusChanged>().await?.len(), 2);
    world.end().await?;
    Ok(())
}

#[tokio::test]
async fn a_webhook_that_is_delivered_many_times_at_once_counts_once() -> anyhow::Result<()> {
    let world = World::start().await?;
    let (_, shipment) = world.shipped(1).await?.remove(0);
    let request = proto::RecordTrackingRequest {
        merchant_id: world.merchant.to_string(),
        store_id: world.store.to_string(),
        updates: vec![world.scan(&shipment, Delivered, 0)],
    };
    let calls: Vec<_> = (0..10)
        .map(|_| {
            let (mut client, request) = (world.client.clone(), request.clone());
            tokio::spawn(async move { client.record_tracking(request).await })
        })
        .collect();
    let mut advanced = 0;
    for call in calls {
        match call.await??.into_inner().outcomes[0].result() {
            Advanced => advanced += 1,
            result => assert_eq!(result, Duplicate),
        }
    }
    assert_eq!(advanced, 1);
    assert_eq!(world.told::<proto::ShipmentDelivered>().await?.len(), 1);
    world.end().await?;
    Ok(())
}

#[tokio::test]
async fn shipments_are_found_by_number_and_unknown_ones_are_said_to_be_unknown() -> anyhow::Result<()> {
    let world = World::start().await?;
    let (_, shipment) = world.shipped(1).await?.remove(0);
    let by_number = |carrier: &str, number: &str| {
        let mut update = world.scan(&shipment, InTransit, -1);
        update.shipment = Some(proto::tracking_update::Shipment::Tracking(
            proto::TrackingReference {
                carrier: carrier.to_owned(),
                tracking_number: number.to_owned(),
            },
        ));
        update
    };
    let outcomes = world
        .track(vec![
            by_number("royal-mail", "nobody's"),
            by_number("royal-mail", &shipment.tracking_number),
            by_number("dhl", &shipment.tracking_number),
        ])
        .await?;
    let unknown = (UnknownShipment, ShipmentStatus::Unspecified);
    assert_eq!(outcomes, [unknown, (Advanced, InTransit), unknown]);
    assert_eq!(world.track(vec![by_number("dhl", "nobody's")]).await?, [unknown]);
    world.end().await?;
    Ok(())
}

/// The order has arrived when its last parcel has, and not again when that one goes back.
#[tokio::test]
async fn an_order_of_two_parcels_arrives_with_the_second() -> anyhow::Result<()> {
    let world = World::start().await?;
    let north = world.location("North", 0).await?;
    world.adjust(&[("TEE", &north, 2)]).await?;
    let order = world.order(vec![line("TEE", 2)]);
    world.take_in(&[&order]).await?;
    let mut parcels = Vec::new();
    for _ in 0..2 {
        let mut request = world.shipment_of(&order);
        request.lines = vec![proto::NewShipmentLine {
            line_id: order.line_id(0),
            quantity: 1,
        }];
        parcels.push(world.ship(request).await?);
    }
    let updates = parcels
        .iter()
        .map(|parcel| world.scan(parcel, Delivered, -5))
        .collect();
    assert_eq!(world.track(updates).await?, [(Advanced, Delivered); 2]);
    let arrived: Vec<bool> = world
        .told::<proto::ShipmentDelivered>()
        .await?
        .iter()
        .map(|told| told.order_fully_delivered)
        .collect();
    assert_eq!(arrived, [false, true]);
    world
        .track(vec![world.scan(&parcels[1], ReturnedToSender, 0)])
        .await?;
    // The recount compares the units that are with the customer.
    world.end().await?;
    Ok(())
}

/// Both parcels at the same time, in two requests: exactly one of them completes the order.
#[tokio::test]
async fn two_parcels_that_arrive_at_the_same_time_complete_the_order_once() -> anyhow::Result<()> {
    let world = World::start().await?;
    let north = world.location("North", 0).await?;
    let rounds = 10;
    world.adjust(&[("TEE", &north, 2 * rounds)]).await?;
    for _ in 0..rounds {
        let order = world.order(vec![line("TEE", 2)]);
        world.take_in(&[&order]).await?;
        let mut scans = Vec::new();
        for _ in 0..2 {
            let mut request = world.shipment_of(&order);
            request.lines = vec![proto::NewShipmentLine {
                line_id: order.line_id(0),
                quantity: 1,
            }];
            scans.push(world.scan(&world.ship(request).await?, Delivered, -5));
        }
        let second = world.track(vec![scans.remove(1)]);
        let first = world.track(vec![scans.remove(0)]);
        let (first, second) = tokio::join!(first, second);
        assert_eq!(
            [first?, second?],
            [[(Advanced, Delivered)], [(Advanced, Delivered)]]
        );
    }
    let told = world.told::<proto::ShipmentDelivered>().await?;
    assert_eq!(told.len(), 20);
    assert_eq!(told.iter().filter(|told| told.order_fully_delivered).count(), 10);
    world.end().await?;
    Ok(())
}

#[tokio::test]
async fn five_hundred_updates_are_taken_at_once() -> anyhow::Result<()> {
    let world = World::start().await?;
    let shipped = world.shipped(50).await?;
    let mut updates = Vec::new();
    for (step, status) in [Pending, InTransit, OutForDelivery, Delivered, Exception]
        .into_iter()
        .enumerate()
    {
        for round in 0..2 {
            for (_, shipment) in &shipped {
                updates.push(world.scan(shipment, status, i64::try_from(2 * step + round)? - 20));
            }
        }
    }
    assert_eq!(updates.len(), 500);
    let outcomes = world.track(updates.clone()).await?;
    assert_eq!(
        outcomes.iter().filter(|(result, _)| *result == Advanced).count(),
        150
    );
    assert!(
        outcomes[450..]
            .iter()
            .all(|outcome| *outcome == (Recorded, Delivered))
    );
    assert_eq!(world.told::<proto::ShipmentDelivered>().await?.len(), 50);
    assert_eq!(world.told::<proto::ShipmentStatusChanged>().await?.len(), 100);
    assert!(
        world
            .track(updates)
            .await?
            .iter()
            .all(|(result, _)| *result == Duplicate)
    );

    // Versions count the changes one by one, as the events tell them.
    let versions: Vec<i64> = sqlx::query_scalar(
        "SELECT aggregate_version FROM event_log WHERE aggregate_id = $1::uuid ORDER BY generation, xid, position",
    )
    .bind(&shipped[0].1.shipment_id)
    .fetch_all(world.pool())
    .await?;
    assert_eq!(versions, [1, 2, 3, 4]);
    world.end().await?;
    Ok(())
}

/// F-11: what carriers wrote is gone once the customer was erased, also what they say afterwards; what happened stays.
#[tokio::test]
async fn what_carriers_wrote_goes_with_the_customer() -> anyhow::Result<()> {
    let world = World::start().await?;
    let shipped = world.shipped(2).await?;
    let ((erased, parcel), (_, other)) = (&shipped[0], &shipped[1]);
    for shipment in [parcel, other] {
        world.track(vec![world.scan(shipment, InTransit, -20)]).await?;
    }
    let texts = async |shipment: &proto::Shipment| {
        let seen = world.shipment(&shipment.shipment_id).await.expect("it is there");
        let scans = seen.tracking_events.iter();
        let texts: Vec<String> = scans
            .map(|scan| format!("{}/{}", scan.location, scan.description))
            .collect();
        (texts, seen.tracking_url)
    };
    let before = texts(parcel).await;
    assert_eq!(before.0, ["Köln/seen"], "the check can fail");

    world.feed(&[erased.erased(5)]).await?;
    assert_eq!(texts(parcel).await, (vec!["/".to_owned()], String::new()));
    assert_eq!(texts(other).await.0, ["Köln/seen"]);
    // A late scan moves the parcel and says nothing of anybody; the same scan again is known.
    for result in [Advanced, Duplicate] {
        let told = world.track(vec![world.scan(parcel, Delivered, -10)]).await?;
        assert_eq!(told, [(result, Delivered)]);
    }
    assert_eq!(
        texts(parcel).await,
        (vec!["/".to_owned(), "/".to_owned()], String::new())
    );
    // A rebuild comes to the same.
    world.project(&[erased.erased(5)]).await?;
    world.end().await?;
    Ok(())
}
