//! The timeline that can be trusted, and an order made again from its events: as a caller sees them.

use anyhow::Result;
use tonic::{Code, Status};
use waybill_kernel::id::{MerchantId, ShipmentId, StoreId};
use waybill_order::Holds;
use waybill_proto::waybill::fulfillment::v1 as fulfillment;
use waybill_proto::waybill::order::v1 as proto;
use waybill_proto::waybill::order::v1::rebuild_order_request::Moment;
use waybill_rpc::fault;
use waybill_testkit::eventually;

use crate::fold::{delivered, shipped, until};
use crate::harness::{SOON, Service, start, start_with};
use crate::house::House;
use crate::shop::{Shop, bad_fields, order, refusal};

impl Shop {
    /// Whether a timeline is as it was written.
    async fn verify(
        &self,
        order_id: &str,
        noted: Option<(i64, &str)>,
    ) -> Result<proto::VerifyTimelineResponse, Status> {
        let (noted_sequence, noted_hash) = noted.unwrap_or_default();
        let request = proto::VerifyTimelineRequest {
            merchant_id: self.merchant.to_string(),
            store_id: self.store.to_string(),
            order_id: order_id.into(),
            noted_sequence,
            noted_hash: noted_hash.into(),
        };
        Ok(self.client.clone().verify_timeline(request).await?.into_inner())
    }

    /// An order, made again from its events.
    async fn rebuild(
        &self,
        order_id: &str,
        moment: Option<Moment>,
    ) -> Result<proto::RebuildOrderResponse, Status> {
        let request = proto::RebuildOrderRequest {
            merchant_id: self.merchant.to_string(),
            store_id: self.store.to_string(),
            order_id: order_id.into(),
            moment,
        };
        Ok(self.client.clone().rebuild_order(request).await?.into_inner())
    }
}

/// An order with five entries.
async fn five(service: &Service) -> Result<(Shop, String)> {
    let shop = service.shop();
    let placed = shop.place(order("1")).await;
    let id = placed.order_id;
    shop.capture(&id, "pay-1", 100).await?;
    shop.capture(&id, "pay-2", 200).await?;
    shop.hold("hold", &id, proto::HoldReason::Fraud).await?;
    shop.release("release", &id, "").await?;
    Ok((shop, id))
}

/// Who and why: the caller and its request, the rule and what it looked at.
#[tokio::test]
async fn an_entry_names_who_caused_it_and_why() -> Result<()> {
    let held = Holds {
        order_value: [("EUR".to_owned(), 1)].into(),
        ..Holds::default()
    };
    let service = start_with(|config| config.holds = held).await;
    let shop = service.shop();
    let placed = shop.place(order("1")).await;
    let id = placed.order_id.clone();
    shop.capture(&id, "pay", 100).await?;
    let entries = shop.timeline(&id).await;
    let by_type = |name: &str| {
        let found = entries.iter().find(|entry| entry.r#type.ends_with(name));
        found
            .unwrap_or_else(|| panic!("no {name} in {entries:?}"))
            .clone()
    };
    let (first, rule, paid) = (
        by_type("OrderPlaced"),
        by_type("OrderHeld"),
        by_type("PaymentRecorded"),
    );
    assert_eq!(first.cause, "place-1");
    assert!(
        !first.actor.is_empty() && first.actor == paid.actor,
        "{first:?} {paid:?}"
    );
    assert!(!first.actor.starts_with("service:"), "{first:?}");
    assert_eq!(rule.actor, "service:order/order_value");
    assert_eq!(rule.cause, first.event_id);
    assert_eq!(paid.cause, "capture-pay-100");
    let mut sequences: Vec<i64> = entries.iter().map(|entry| entry.sequence).collect();
    sequences.sort_unstable();
    assert_eq!(sequences, [1, 2, 3]);
    assert!(entries.iter().all(|entry| entry.hash.len() == 64));

    // The log says the same of its events (E-37).
    let told: Vec<(Option<String>, Option<String>)> =
        sqlx::query_as("SELECT actor, cause FROM event_log ORDER BY position")
            .fetch_all(&mut service.tables().await)
            .await?;
    let expected = [&first, &rule, &paid].map(|entry| (Some(entry.actor.clone()), Some(entry.cause.clone())));
    assert_eq!(told, expected);
    Ok(())
}

/// O-30: each way to tamper with a timeline is found, and the first place named.
#[tokio::test]
async fn what_was_tampered_with_is_found() -> Result<()> {
    use proto::TimelineFaultKind::{Changed, EndDiffers, Missing, Surplus, Unchained};
    let service = start().await;
    let mut t = service.tables().await;
    let cases = [
        ("UPDATE order_timeline SET summary = 'nothing' WHERE sequence = 2", Changed, 2),
        ("UPDATE order_timeline SET actor = 'somebody else' WHERE sequence = 5", Changed, 5),
        ("UPDATE order_timeline SET occurred_at = occurred_at - interval '1 s' WHERE sequence = 1", Changed, 1),
        ("DELETE FROM order_timeline WHERE sequence = 3", Missing, 3),
        ("DELETE FROM order_timeline WHERE sequence = 5", Missing, 5),
        ("UPDATE order_timeline SET sequence = 5 - sequence WHERE sequence IN (2, 3)", Changed, 2),
        (
            "UPDATE order_timeline t SET sequence = o.sequence, hash = o.hash FROM order_timeline o
             WHERE o.sequence = 5 - t.sequence AND t.sequence IN (2, 3)",
            Changed,
            2,
        ),
        (
            "INSERT INTO order_timeline
             SELECT (json_populate_record(t, json_build_object('event_id', gen_random_uuid(), 'sequence', 6))).*
             FROM order_timeline t WHERE sequence = 5",
            Surplus,
            6,
        ),
        (
            "INSERT INTO order_timeline (order_id, event_id, merchant_id, store_id, service, type, summary, occurred_at, trace_id)
             SELECT order_id, gen_random_uuid(), merchant_id, store_id, service, type, summary, occurred_at, trace_id
             FROM order_timeline WHERE sequence = 5",
            Unchained,
            0,
        ),
        ("DELETE FROM order_trails", EndDiffers, 5),
        ("UPDATE order_trails SET hash = sha256('x')", EndDiffers, 5),
    ];
    for (statement, kind, sequence) in cases {
        let (shop, id) = five(&service).await?;
        let before = shop.verify(&id, None).await?;
        assert_eq!(
            (before.condition(), before.entries),
            (proto::TimelineCondition::Whole, 5)
        );
        sqlx::query(statement).execute(&mut t).await?;
        let after = shop.verify(&id, None).await?;
        assert_eq!(after.condition(), proto::TimelineCondition::Broken, "{statement}");
        let first = &after.faults[0];
        assert_eq!(
            (first.kind(), first.sequence),
            (kind, sequence),
            "{statement}: {:?}",
            after.faults
        );
        sqlx::query("TRUNCATE order_timeline, order_trails")
            .execute(&mut t)
            .await?;
    }
    Ok(())
}

/// O-30: who rewrites the whole chain is found by an end that was noted elsewhere.
#[tokio::test]
async fn a_chain_passes_through_what_was_noted() -> Result<()> {
    let service = start().await;
    let (shop, id) = five(&service).await?;
    let noted = shop.verify(&id, None).await?;
    shop.capture(&id, "pay-3", 300).await?;
    let later = shop.verify(&id, Some((noted.sequence, &noted.hash))).await?;
    assert_eq!(
        (later.condition(), later.sequence),
        (proto::TimelineCondition::Whole, 6)
    );
    let (shown, end) = (shop.timeline(&id).await, (later.sequence, later.hash.clone()));
    assert!(
        shown
            .iter()
            .any(|entry| (entry.sequence, entry.hash.clone()) == end)
    );

    // All of it written anew, as by somebody who can write everything: the next entry chains what is there.
    let mut t = service.tables().await;
    for statement in [
        "UPDATE order_timeline SET summary = 'nothing', sequence = NULL, hash = NULL WHERE sequence = 2",
        "UPDATE order_timeline SET sequence = NULL, hash = NULL",
        "DELETE FROM order_trails",
    ] {
        sqlx::query(statement).execute(&mut t).await?;
    }
    shop.capture(&id, "pay-4", 1).await?;
    assert_eq!(
        shop.verify(&id, None).await?.condition(),
        proto::TimelineCondition::Whole
    );
    let found = shop.verify(&id, Some((noted.sequence, &noted.hash))).await?;
    assert_eq!(found.condition(), proto::TimelineCondition::Broken);
    assert_eq!(found.faults[0].kind(), proto::TimelineFaultKind::NotAsNoted);

    let wrong = shop.verify(&id, Some((0, "xyz"))).await;
    assert_eq!(bad_fields(wrong), ["noted_sequence", "noted_hash"]);
    Ok(())
}

/// O-30, O-32: facts of other services are part of the chain, with who caused them, and of the order that is made again.
#[tokio::test]
async fn facts_of_others_are_chained_and_replayed() -> Result<()> {
    let house = House::start().await?;
    let shop = house.service.shop();
    let placed = shop.place(order("1")).await;
    let id = placed.order_id.clone();
    shop.capture(&id, "pay", 1000).await?;
    let parcel = ShipmentId::generate();
    let allocated = fulfillment::OrderAllocated { order_id: id.clone() };
    house.fulfillment.tell(&shop, &id, &[allocated]).await?;
    house
        .fulfillment
        .tell(&shop, &id, &[shipped(&placed, parcel, 2)])
        .await?;
    house
        .fulfillment
        .tell(&shop, &id, &[delivered(&placed, parcel, 2)])
        .await?;
    until(&shop, &id, "completion", |o| {
        o.status() == proto::OrderStatus::Completed
    })
    .await;
    let entries = eventually("all entries", SOON, async || {
        let entries = shop.timeline(&id).await;
        if entries.len() == 6 {
            Ok(entries)
        } else {
            Err(entries.len())
        }
    })
    .await;
    let whole = shop.verify(&id, None).await?;
    assert_eq!(
        (whole.condition(), whole.sequence),
        (proto::TimelineCondition::Whole, 6)
    );
    let by_type = |name: &str| {
        let found = entries.iter().find(|entry| entry.r#type.ends_with(name));
        found.unwrap_or_else(|| panic!("no {name} in {entries:?}"))
    };
    let (arrival, completion) = (by_type("ShipmentDelivered"), by_type("OrderCompleted"));
    assert_eq!(
        (completion.actor.as_str(), &completion.cause),
        ("service:order", &arrival.event_id)
    );
    assert_eq!(arrival.actor, "service:fulfillment");

    let now = shop.rebuild(&id, None).await?;
    assert_eq!(
        (now.differences, now.unapplied, now.applied),
        (Vec::new(), Vec::new(), 6)
    );
    let now = now.order.expect("it was placed");
    assert_eq!((now.status(), now.version), (proto::OrderStatus::Completed, 3));
    assert_eq!(now.fulfillment_status(), proto::FulfillmentStatus::Delivered);
    assert_eq!((now.lines[0].shipped, now.lines[0].delivered), (2, 2));
    let paid = shop
        .rebuild(&id, Some(Moment::Version(2)))
        .await?
        .order
        .expect("it was placed");
    assert_eq!(
        (paid.status(), paid.payment_status()),
        (proto::OrderStatus::Open, proto::PaymentStatus::Paid)
    );
    assert_eq!(paid.lines[0].shipped, 0);
    house.stop().await;
    Ok(())
}

/// What can be asked of the past, and what not.
#[tokio::test]
async fn moments_are_versions_and_times() -> Result<()> {
    let service = start().await;
    let (shop, id) = five(&service).await?;
    service.clock.advance(chrono::TimeDelta::hours(1));
    shop.capture(&id, "pay-3", 700).await?;
    let half_an_hour_ago = service.clock.shared().now() - chrono::TimeDelta::minutes(30);
    let captured = async |moment| {
        let rebuilt = shop.rebuild(&id, moment).await.expect("it was placed then");
        let order = rebuilt.order.expect("it was placed then");
        order.captured.map(|money| money.minor_units)
    };
    assert_eq!(captured(Some(Moment::Version(1))).await, Some(0));
    assert_eq!(captured(Some(Moment::Version(2))).await, Some(100));
    assert_eq!(captured(Some(Moment::Version(5))).await, Some(300));
    assert_eq!(captured(None).await, Some(1000));
    let then = waybill_rpc::convert::to_timestamp(half_an_hour_ago);
    assert_eq!(captured(Some(Moment::Time(then))).await, Some(300));
    let held = shop
        .rebuild(&id, Some(Moment::Version(4)))
        .await?
        .order
        .expect("it was placed");
    assert_eq!(held.status(), proto::OrderStatus::OnHold);
    assert_eq!(held.holds.len(), 1);
    assert_eq!(held.holds[0].released_at, None);

    let long_ago = prost_types::Timestamp { seconds: 1, nanos: 0 };
    let before = shop.rebuild(&id, Some(Moment::Time(long_ago))).await?;
    assert_eq!((before.order, before.applied), (None, 0));
    let (code, reason) = refusal(shop.rebuild(&id, Some(Moment::Version(7))).await);
    assert_eq!((code, reason.as_str()), (Code::OutOfRange, "VERSION_NOT_REACHED"));
    assert_eq!(
        bad_fields(shop.rebuild(&id, Some(Moment::Version(0))).await),
        ["version"]
    );

    let stranger = Shop {
        merchant: MerchantId::generate(),
        store: StoreId::generate(),
        client: shop.client.clone(),
    };
    let stranger = Shop {
        client: service.client(stranger.merchant, &[stranger.store]),
        ..stranger
    };
    assert_eq!(refusal(stranger.rebuild(&id, None).await).1, "ORDER_NOT_FOUND");
    assert_eq!(refusal(stranger.verify(&id, None).await).1, "ORDER_NOT_FOUND");
    Ok(())
}

/// O-31: whatever is written at once about one order, by callers and by the fold, makes one chain without a gap.
#[tokio::test]
async fn what_is_written_at_once_makes_one_chain() -> Result<()> {
    const CALLS: i32 = 40;
    let house = House::start().await?;
    let shop = house.service.shop();
    let replica = house.service.replica().await;
    let second = Shop {
        client: replica.client(&house.service, &shop),
        ..shop.clone()
    };
    let placed = shop.place(order("1")).await;
    let id = placed.order_id.clone();
    let calls = (0..CALLS).map(|n| {
        let (shop, id) = (if n % 2 == 0 { &shop } else { &second }.clone(), id.clone());
        tokio::spawn(async move {
            // Where so many change one order, a call may be told to come again; it is the same one then.
            for _ in 0..CALLS {
                match shop.capture(&id, &format!("pay-{n}"), 1).await {
                    Err(status) if fault::reason(&status).as_deref() == Some("CONFLICT") => {}
                    answer => return answer.map(drop),
                }
            }
            shop.capture(&id, &format!("pay-{n}"), 1).await.map(drop)
        })
    });
    let calls: Vec<_> = calls.collect();
    for n in 0..20 {
        let moved = fulfillment::ShipmentStatusChanged {
            order_id: id.clone(),
            shipment_id: ShipmentId::generate().to_string(),
            status: if n % 2 == 0 {
                "in_transit"
            } else {
                "out_for_delivery"
            }
            .into(),
            ..fulfillment::ShipmentStatusChanged::default()
        };
        house.fulfillment.tell(&shop, &id, &[moved]).await?;
    }
    for call in calls {
        call.await??;
    }
    eventually("all entries", SOON, async || {
        let verdict = shop.verify(&id, None).await.expect("it exists");
        assert_eq!(
            verdict.condition(),
            proto::TimelineCondition::Whole,
            "{:?}",
            verdict.faults
        );
        if verdict.sequence == 61 {
            Ok(())
        } else {
            Err(verdict.sequence)
        }
    })
    .await;
    let rebuilt = shop.rebuild(&id, None).await?;
    assert_eq!((rebuilt.differences, rebuilt.unapplied), (Vec::new(), Vec::new()));
    house.stop().await;
    Ok(())
}
