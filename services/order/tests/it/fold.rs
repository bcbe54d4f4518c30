//! What other services tell: through their real logs, streams and reading sides.

use anyhow::Result;
use prost_types::Timestamp;
use waybill_kernel::id::{NotificationId, RefundId, ReturnId, ShipmentId};
use waybill_proto::waybill::order::v1 as proto;
use waybill_proto::waybill::{
    fulfillment::v1 as fulfillment, notification::v1 as notification, refund::v1 as refund,
};
use waybill_testkit::eventually;

use crate::harness::SOON;
use crate::house::House;
use crate::shop::{Shop, order, refusal};

fn units(order: &proto::Order, units: i32) -> Vec<fulfillment::LineQuantity> {
    let line = &order.lines[0];
    vec![fulfillment::LineQuantity {
        line_id: line.line_id.clone(),
        sku: line.sku.clone(),
        quantity: units,
    }]
}

pub(crate) fn shipped(
    order: &proto::Order,
    shipment: ShipmentId,
    count: i32,
) -> fulfillment::ShipmentShipped {
    fulfillment::ShipmentShipped {
        order_id: order.order_id.clone(),
        shipment_id: shipment.to_string(),
        lines: units(order, count),
        carrier: "dhl".into(),
        ..fulfillment::ShipmentShipped::default()
    }
}

pub(crate) fn delivered(
    order: &proto::Order,
    shipment: ShipmentId,
    count: i32,
) -> fulfillment::ShipmentDelivered {
    fulfillment::ShipmentDelivered {
        order_id: order.order_id.clone(),
        shipment_id: shipment.to_string(),
        lines: units(order, count),
        carrier: "dhl".into(),
        ..fulfillment::ShipmentDelivered::default()
    }
}

pub(crate) async fn until(
    shop: &Shop,
    order_id: &str,
    what: &str,
    holds: impl Fn(&proto::Order) -> bool,
) -> proto::Order {
    eventually(what, SOON, async || {
        let order = shop.get(order_id).await.expect("the order exists");
        if holds(&order) {
            Ok(order)
        } else {
            Err(format!("{:?}", (order.status(), order.fulfillment_status())))
        }
    })
    .await
}

/// From the shelf to the door in two parcels: the facets follow, the order completes, and everything stands on the
/// timeline once.
#[tokio::test]
async fn an_order_is_followed_to_its_end() -> Result<()> {
    let house = House::start().await?;
    let shop = house.service.shop();
    let placed = shop.place(order("1")).await;
    let id = placed.order_id.clone();
    let (first, second) = (ShipmentId::generate(), ShipmentId::generate());

    let allocated = fulfillment::OrderAllocated { order_id: id.clone() };
    house.fulfillment.tell(&shop, &id, &[allocated]).await?;
    house
        .fulfillment
        .tell(&shop, &id, &[shipped(&placed, first, 1)])
        .await?;
    let seen = until(&shop, &id, "a parcel", |o| {
        o.fulfillment_status() == proto::FulfillmentStatus::PartiallyFulfilled
    })
    .await;
    assert_eq!(
        seen.version, 1,
        "only what this service decides counts the version up"
    );
    let (_, reason) = refusal(shop.cancel("too-late", &id, "").await);
    assert_eq!(reason, "ORDER_NOT_CANCELLABLE");

    house
        .fulfillment
        .tell(&shop, &id, &[shipped(&placed, second, 1)])
        .await?;
    let moved = fulfillment::ShipmentStatusChanged {
        order_id: id.clone(),
        shipment_id: first.to_string(),
        status: "out_for_delivery".into(),
        previous_status: "in_transit".into(),
        occurred_at: Some(Timestamp::default()),
    };
    house.fulfillment.tell(&shop, &id, &[moved]).await?;
    house
        .fulfillment
        .tell(&shop, &id, &[delivered(&placed, first, 1)])
        .await?;
    until(&shop, &id, "a delivery", |o| {
        o.fulfillment_status() == proto::FulfillmentStatus::PartiallyDelivered
    })
    .await;
    shop.capture(&id, "pay", 1000).await?;
    house
        .fulfillment
        .tell(&shop, &id, &[delivered(&placed, second, 1)])
        .await?;
    let sent = notification::NotificationSent {
        order_id: id.clone(),
        notification_id: NotificationId::generate().to_string(),
        stage: "delivered".into(),
        channel: "email".into(),
        subject_id: second.to_string(),
    };
    house.notification.tell(&shop, &id, &[sent]).await?;
    let done = until(&shop, &id, "completion", |o| {
        o.status() == proto::OrderStatus::Completed
    })
    .await;
    assert_eq!(done.fulfillment_status(), proto::FulfillmentStatus::Delivered);
    assert_eq!(done.version, 3, "placed, paid, completed");

    let expected = [
        ("Placed: 2 units for 10.00 EUR", ""),
        ("Stock is reserved for every unit", ""),
        ("Shipped: 1 unit with dhl", &*first.to_string()),
        ("Shipped: 1 unit with dhl", &*second.to_string()),
        ("Parcel: out for delivery", &*first.to_string()),
        ("Delivered: 1 unit", &*first.to_string()),
        ("Delivered: 1 unit", &*second.to_string()),
        ("10.00 EUR captured by stripe", &*done.payments[0].payment_id),
        ("Completed: everything is paid and delivered", ""),
        ("Message \"delivered\" sent by email", &*second.to_string()),
    ];
    let mut expected: Vec<(String, String)> = expected
        .iter()
        .map(|(summary, subject)| ((*summary).to_owned(), (*subject).to_owned()))
        .collect();
    expected.sort();
    eventually("the whole timeline", SOON, async || {
        let entries = shop.timeline(&id).await;
        let mut seen: Vec<_> = entries
            .into_iter()
            .map(|entry| (entry.summary, entry.subject_id))
            .collect();
        seen.sort();
        if seen == expected { Ok(()) } else { Err(seen) }
    })
    .await;

    let mut t = house.service.tables().await;
    let completions: i64 =
        sqlx::query_scalar("SELECT count(*) FROM event_log WHERE type = 'waybill.order.v1.OrderCompleted'")
            .fetch_one(&mut t)
            .await?;
    assert_eq!(completions, 1);
    house.stop().await;
    Ok(())
}

/// Returned, refunded, and refused by the bank after all.
#[tokio::test]
async fn returns_and_refunds_move_their_facets() -> Result<()> {
    let house = House::start().await?;
    let shop = house.service.shop();
    let placed = shop.place(order("1")).await;
    let id = placed.order_id.clone();
    shop.capture(&id, "pay", 1000).await?;
    let (return_id, refund_id) = (ReturnId::generate().to_string(), RefundId::generate().to_string());

    let requested = refund::ReturnRequested {
        order_id: id.clone(),
        return_id: return_id.clone(),
        lines: vec![refund::ReturnedLine {
            line_id: placed.lines[0].line_id.clone(),
            sku: "TEA-1".into(),
            quantity: 1,
            reason: "unwanted".into(),
            disposition: String::new(),
        }],
    };
    house.refund.tell(&shop, &id, &[requested]).await?;
    until(&shop, &id, "a return", |o| {
        o.return_status() == proto::ReturnStatus::Requested
    })
    .await;
    let approved = refund::ReturnApproved {
        order_id: id.clone(),
        return_id: return_id.clone(),
        automatic: true,
    };
    house.refund.tell(&shop, &id, &[approved]).await?;
    until(&shop, &id, "an approval", |o| {
        o.return_status() == proto::ReturnStatus::InProgress
    })
    .await;

    let succeeded = |minor, sum| refund::RefundSucceeded {
        order_id: id.clone(),
        refund_id: refund_id.clone(),
        currency_code: "EUR".into(),
        amount_minor: minor,
        order_refunded_minor: sum,
        ..refund::RefundSucceeded::default()
    };
    house.refund.tell(&shop, &id, &[succeeded(500, 500)]).await?;
    let completed = refund::ReturnCompleted {
        order_id: id.clone(),
        return_id: return_id.clone(),
    };
    house.refund.tell(&shop, &id, &[completed]).await?;
    let returned = until(&shop, &id, "the end", |o| {
        o.return_status() == proto::ReturnStatus::Returned
    })
    .await;
    assert_eq!(returned.payment_status(), proto::PaymentStatus::PartiallyRefunded);
    assert_eq!(returned.refunded.map(|money| money.minor_units), Some(500));

    house.refund.tell(&shop, &id, &[succeeded(500, 1000)]).await?;
    until(&shop, &id, "all of it", |o| {
        o.payment_status() == proto::PaymentStatus::Refunded
    })
    .await;
    let failed = refund::RefundFailed {
        order_id: id.clone(),
        refund_id: refund_id.clone(),
        currency_code: "EUR".into(),
        amount_minor: 1000,
        failure_reason: "declined".into(),
        was_succeeded: true,
        order_refunded_minor: 0,
    };
    house.refund.tell(&shop, &id, &[failed]).await?;
    until(&shop, &id, "the money back", |o| {
        o.payment_status() == proto::PaymentStatus::Paid
    })
    .await;
    house.stop().await;
    Ok(())
}

/// What arrives before it is paid is complete with the payment.
#[tokio::test]
async fn a_payment_after_the_delivery_completes_the_order() -> Result<()> {
    let house = House::start().await?;
    let shop = house.service.shop();
    let placed = shop.place(order("1")).await;
    let parcel = ShipmentId::generate();
    house
        .fulfillment
        .tell(&shop, &placed.order_id, &[shipped(&placed, parcel, 2)])
        .await?;
    house
        .fulfillment
        .tell(&shop, &placed.order_id, &[delivered(&placed, parcel, 2)])
        .await?;
    let seen = until(&shop, &placed.order_id, "the delivery", |o| {
        o.fulfillment_status() == proto::FulfillmentStatus::Delivered
    })
    .await;
    assert_eq!(seen.status(), proto::OrderStatus::Open);
    shop.capture(&placed.order_id, "pay-1", 999).await?;
    let paid = shop.capture(&placed.order_id, "pay-2", 1).await?;
    assert_eq!((paid.status(), paid.version), (proto::OrderStatus::Completed, 3));
    let last: Vec<(String, i64)> =
        sqlx::query_as("SELECT type, aggregate_version FROM event_log ORDER BY position DESC LIMIT 2")
            .fetch_all(&mut house.service.tables().await)
            .await?;
    // One change, told by two events of one version.
    let types = [
        "waybill.order.v1.OrderCompleted",
        "waybill.order.v1.PaymentRecorded",
    ];
    assert_eq!(last, types.map(|name| (name.to_owned(), 3)));
    house.stop().await;
    Ok(())
}

/// Hundreds of facts about many orders, in batches: each counts once, and the lines sum to the orders.
#[tokio::test]
async fn many_facts_at_once_each_count_once() -> Result<()> {
    let house = House::start().await?;
    let shop = house.service.shop();
    let orders: Vec<_> = (0..60)
        .map(|n| (format!("r-{n}"), order(&n.to_string())))
        .collect();
    let placed = shop.batch(orders).await?;
    for outcome in &placed {
        let order = proto::Order {
            order_id: outcome.order_id.clone(),
            lines: outcome.lines.clone(),
            ..proto::Order::default()
        };
        let (first, second) = (ShipmentId::generate(), ShipmentId::generate());
        let parcels = [shipped(&order, first, 1), shipped(&order, second, 1)];
        house.fulfillment.tell(&shop, &outcome.order_id, &parcels).await?;
        house
            .fulfillment
            .tell(&shop, &outcome.order_id, &[delivered(&order, first, 1)])
            .await?;
    }
    for outcome in &placed {
        until(&shop, &outcome.order_id, "both parcels", |o| {
            o.fulfillment_status() == proto::FulfillmentStatus::PartiallyDelivered
        })
        .await;
    }
    let mut t = house.service.tables().await;
    let sums: (i64, i64, i64, i64, i64) = sqlx::query_as(
        "SELECT sum(units_shipped)::bigint, sum(units_delivered)::bigint,
                (SELECT sum(units_shipped)::bigint FROM order_lines),
                (SELECT sum(units_delivered)::bigint FROM order_lines),
                (SELECT count(*) FROM order_timeline WHERE service = 'fulfillment')
         FROM orders",
    )
    .fetch_one(&mut t)
    .await?;
    assert_eq!(sums, (120, 60, 120, 60, 180));
    house.stop().await;
    Ok(())
}

/// A fact about a line that the order does not have is put aside with its reason; other orders go on.
#[tokio::test]
async fn a_fact_that_cannot_be_is_put_aside() -> Result<()> {
    let house = House::start().await?;
    let (shop, stranger) = (house.service.shop(), house.service.shop());
    let (bad, good) = (shop.place(order("1")).await, shop.place(order("2")).await);
    let misdirected = shop.place(order("3")).await;
    let foreign = proto::Order {
        order_id: bad.order_id.clone(),
        ..good.clone()
    };
    house
        .fulfillment
        .tell(
            &shop,
            &bad.order_id,
            &[shipped(&foreign, ShipmentId::generate(), 1)],
        )
        .await?;
    // The right order, but told in the name of another store.
    let parcel = shipped(&misdirected, ShipmentId::generate(), 1);
    house
        .fulfillment
        .tell(&stranger, &misdirected.order_id, &[parcel])
        .await?;
    house
        .fulfillment
        .tell(
            &shop,
            &good.order_id,
            &[shipped(&good, ShipmentId::generate(), 2)],
        )
        .await?;
    until(&shop, &good.order_id, "the good one", |o| {
        o.fulfillment_status() == proto::FulfillmentStatus::Fulfilled
    })
    .await;

    let mut t = house.service.tables().await;
    let letters = eventually("two dead letters", SOON, async || {
        let query = "SELECT reason FROM fold_dead_letter ORDER BY reason";
        let letters: Vec<String> = sqlx::query_scalar(query)
            .fetch_all(&mut t)
            .await
            .expect("the table exists");
        if letters.len() == 2 {
            Ok(letters)
        } else {
            Err(letters)
        }
    })
    .await;
    let line = &good.lines[0].line_id;
    assert!(
        letters
            .iter()
            .any(|reason| reason.contains(&format!("line {line} is not a line"))),
        "{letters:?}"
    );
    for order in [&bad, &misdirected] {
        let seen = shop.get(&order.order_id).await?;
        assert_eq!(seen.fulfillment_status(), proto::FulfillmentStatus::Unfulfilled);
    }
    house.stop().await;
    Ok(())
}

/// The types that whole rows go in as, put back under living sessions as a copy of the schema would: sessions know them by
/// numbers that nothing has any more. Callers and the fold go on, on other sessions.
#[tokio::test]
async fn sessions_that_outlive_their_schema_are_replaced() -> Result<()> {
    const TYPES: &str = include_str!("../../migrations/20261129210000_new_rows.sql");
    // So few that each has written rows when the types go.
    let house = House::start_with(|config| config.common.database.max_connections = 2).await?;
    let shop = house.service.shop();
    let placed = shop.place(order("1")).await;
    let id = placed.order_id.clone();
    let (first, second) = (ShipmentId::generate(), ShipmentId::generate());
    let parcel = shipped(&placed, first, 1);
    house.fulfillment.tell(&shop, &id, &[parcel]).await?;
    until(&shop, &id, "a parcel", |o| {
        o.fulfillment_status() == proto::FulfillmentStatus::PartiallyFulfilled
    })
    .await;

    for told in 1..=12 {
        let moved = fulfillment::ShipmentStatusChanged {
            order_id: id.clone(),
            shipment_id: first.to_string(),
            status: "in_transit".into(),
            previous_status: "in_transit".into(),
            occurred_at: Some(Timestamp::default()),
        };
        house.fulfillment.tell(&shop, &id, &[moved]).await?;
        eventually("an entry", SOON, async || {
            let entries = shop.timeline(&id).await.len();
            if entries > 1 + told { Ok(()) } else { Err(entries) }
        })
        .await;
    }

    let mut tables = house.service.tables().await;
    let again = TYPES.lines().filter_map(|line| {
        let name = line.strip_prefix("CREATE TYPE ")?.split(' ').next()?;
        Some(format!("DROP TYPE {name};\n"))
    });
    let again: String = again.chain([TYPES.to_owned()]).collect();
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
        "BEGIN; SET LOCAL ROLE {}; {again} COMMIT",
        waybill_store::bootstrap::role_of("order")
    )))
    .execute(&mut tables)
    .await?;

    let parcel = shipped(&placed, second, 1);
    house.fulfillment.tell(&shop, &id, &[parcel]).await?;
    until(&shop, &id, "the other parcel", |o| {
        o.fulfillment_status() == proto::FulfillmentStatus::Fulfilled
    })
    .await;
    shop.place(order("2")).await;
    // A call may meet more such sessions than it has tries; it is told to come again.
    eventually("a capture", SOON, async || {
        let answer = shop.capture(&id, "pay", 1000).await;
        answer.map(drop).map_err(|status| format!("{status:?}"))
    })
    .await;
    house.stop().await;
    Ok(())
}
