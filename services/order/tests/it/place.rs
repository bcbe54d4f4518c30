//! PlaceOrder: what is taken, and how it is frozen.

use anyhow::Result;
use chrono::TimeDelta;
use prost::Message as _;
use waybill_proto::waybill::order::v1 as proto;
use waybill_rpc::convert::to_timestamp;

use crate::harness::{now, start, start_with};
use crate::shop::{eur, order, tea};

#[tokio::test]
async fn an_order_is_frozen_as_it_was_agreed() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let mut new = order("1");
    new.lines.push(proto::NewOrderLine {
        sku: "CUP-1".into(),
        title: "Cup".into(),
        quantity: 1,
        unit_price: eur(1000),
        final_sale: true,
        discounts: vec![proto::Discount {
            code: "TENOFF".into(),
            title: "10 % off".into(),
            amount: eur(100),
        }],
        taxes: vec![proto::TaxLine {
            jurisdiction: "DE".into(),
            title: "USt".into(),
            rate_ppm: 190_000,
            amount: eur(137),
        }],
        ..proto::NewOrderLine::default()
    });
    new.discounts = vec![proto::Discount {
        code: String::new(),
        title: "welcome".into(),
        amount: eur(95),
    }];
    new.shipping_lines = vec![proto::NewShippingLine {
        title: "Post".into(),
        price: eur(490),
        taxes: vec![proto::TaxLine {
            jurisdiction: "DE".into(),
            title: "USt".into(),
            rate_ppm: 190_000,
            amount: eur(78),
        }],
        ..proto::NewShippingLine::default()
    }];
    new.totals = Some(proto::OrderTotals {
        subtotal: eur(2000),
        discounts: eur(195),
        shipping: eur(490),
        tax: eur(65 + 137 + 78),
        total: eur(2295),
    });
    new.presentment_currency_code = "JPY".into();
    new.presentment_total = Some(waybill_proto::waybill::r#type::v1::Money {
        currency_code: "JPY".into(),
        minor_units: 3700,
    });
    new.tags = vec!["gift".into()];

    let placed = shop.place(new.clone()).await;
    assert_eq!(placed.status(), proto::OrderStatus::Open);
    assert_eq!(placed.payment_status(), proto::PaymentStatus::Pending);
    assert_eq!(placed.fulfillment_status(), proto::FulfillmentStatus::Unfulfilled);
    assert_eq!(placed.return_status(), proto::ReturnStatus::None);
    assert_eq!((placed.version, placed.etag.as_str()), (1, "1"));
    assert_eq!(placed.totals, new.totals);
    // 0.95 EUR over 10.00 and 9.00 EUR.
    let shares: Vec<_> = placed
        .lines
        .iter()
        .map(|line| line.order_discount_share.clone())
        .collect();
    assert_eq!(shares, [eur(50), eur(45)]);
    let costs: Vec<_> = placed
        .lines
        .iter()
        .map(|line| (line.net.clone(), line.total.clone()))
        .collect();
    assert_eq!(costs, [(eur(885), eur(950)), (eur(718), eur(855))]);
    assert_eq!(
        (
            placed.shipping_lines[0].net.clone(),
            placed.shipping_lines[0].total.clone()
        ),
        (eur(412), eur(490))
    );
    assert_eq!(placed.lines[0].attributes, new.lines[0].attributes);
    assert_eq!(placed.lines[1].discounts, new.lines[1].discounts);
    assert_eq!(placed.placed_at, Some(to_timestamp(now())));
    assert_eq!(
        placed.promised_ship_at,
        Some(to_timestamp(now() + TimeDelta::days(2)))
    );
    assert_eq!(
        placed.billing_address, new.shipping_address,
        "the invoice goes where the goods go"
    );
    assert_eq!(placed.customer, new.customer);
    assert_eq!(placed.presentment_total, new.presentment_total);

    // What was answered is what is kept, whichever way it is asked for.
    use proto::get_order_request::Key;
    for key in [
        Key::OrderId(placed.order_id.clone()),
        Key::Number(placed.number.clone()),
        Key::Source(new.source.clone().expect("it has one")),
    ] {
        assert_eq!(shop.get_by(key).await?, placed);
    }
    Ok(())
}

#[tokio::test]
async fn handling_time_is_a_setting_and_promises_of_the_caller_stand() -> Result<()> {
    let service = start_with(|config| config.handling_days = 5).await;
    let shop = service.shop();
    let placed = shop.place(order("1")).await;
    assert_eq!(
        placed.promised_ship_at,
        Some(to_timestamp(now() + TimeDelta::days(5)))
    );
    let tomorrow = Some(to_timestamp(now() + TimeDelta::days(1)));
    let promised = shop
        .place(proto::NewOrder {
            promised_ship_at: tomorrow,
            ..order("2")
        })
        .await;
    assert_eq!(promised.promised_ship_at, tomorrow);
    Ok(())
}

/// Times are kept in microseconds; an answer shows no more than what is kept.
#[tokio::test]
async fn an_answer_equals_a_later_read_to_the_last_digit() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let precise = prost_types::Timestamp {
        seconds: now().timestamp() - 60,
        nanos: 123_456_789,
    };
    let placed = shop
        .place(proto::NewOrder {
            placed_at: Some(precise),
            ..order("1")
        })
        .await;
    assert_eq!(placed.placed_at.map(|time| time.nanos), Some(123_456_000));
    assert_eq!(shop.get(&placed.order_id).await?, placed);
    Ok(())
}

/// O-9.
#[tokio::test]
async fn numbers_are_assigned_per_store_and_meet_no_number_of_a_caller() -> Result<()> {
    let service = start().await;
    let (shop, other) = (service.shop(), service.shop());
    assert_eq!(shop.place(order("1")).await.number, "1001");
    assert_eq!(shop.place(order("2")).await.number, "1002");
    assert_eq!(
        other.place(order("1")).await.number,
        "1001",
        "each store counts by itself"
    );

    let named = |external_id, number: &str| proto::NewOrder {
        number: number.into(),
        ..order(external_id)
    };
    assert_eq!(shop.place(named("3", "1003")).await.number, "1003");
    assert_eq!(shop.place(order("4")).await.number, "1004");
    assert_eq!(shop.place(named("5", "W-77")).await.number, "W-77");
    assert_eq!(shop.place(named("6", "5000")).await.number, "5000");
    assert_eq!(
        shop.place(named("7", "999999999999999999")).await.number,
        "999999999999999999"
    );
    assert_eq!(shop.place(order("8")).await.number, "5001");
    Ok(())
}

/// O-10: who the customer is stands in one table and in no event.
#[tokio::test]
async fn events_know_a_customer_by_pseudonym_only() -> Result<()> {
    let service = start().await;
    let (shop, other) = (service.shop(), service.shop());
    let by = |external_id, email: &str, id: &str| proto::NewOrder {
        customer: Some(proto::Customer {
            email: email.into(),
            external_id: id.into(),
            name: "Jo Doe".into(),
            ..proto::Customer::default()
        }),
        ..order(external_id)
    };
    shop.place(by("1", "jo@example.org", "")).await;
    shop.place(by("2", "JO@example.org", "customer number 9")).await;
    shop.place(by("3", "", "customer number 9")).await;
    shop.place(by("4", "", "")).await;
    other.place(by("5", "jo@example.org", "")).await;

    let payloads: Vec<Vec<u8>> = sqlx::query_scalar("SELECT payload FROM event_log ORDER BY position")
        .fetch_all(&mut service.tables().await)
        .await?;
    let events: Vec<proto::OrderPlaced> = payloads
        .iter()
        .map(|payload| proto::OrderPlaced::decode(payload.as_slice()))
        .collect::<Result<_, _>>()?;
    let keys: Vec<&str> = events.iter().map(|event| event.customer_key.as_str()).collect();
    assert_eq!(
        keys[0], keys[1],
        "letter case and a further id make no other person"
    );
    assert_ne!(keys[0], keys[2]);
    assert_eq!(keys[3], "", "a guest is nobody");
    assert_ne!(keys[0], keys[4], "merchants cannot compare their customers");
    assert_eq!(events[0].ship_country, "DE");
    assert_eq!(events[0].lines[0].net_minor, 935);
    for payload in &payloads {
        let text = String::from_utf8_lossy(payload).to_lowercase();
        for personal in ["jo@example", "doe", "long street", "customer number 9"] {
            assert!(!text.contains(personal), "{personal} in an event");
        }
    }
    Ok(())
}

/// A free download is paid and needs no shipping: it is complete at once, and says so.
#[tokio::test]
async fn what_is_free_and_digital_is_complete_at_once() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let mut free = order("1");
    free.lines = vec![proto::NewOrderLine {
        digital: true,
        unit_price: eur(0),
        taxes: Vec::new(),
        ..tea()
    }];
    free.totals = Some(proto::OrderTotals {
        total: eur(0),
        ..proto::OrderTotals::default()
    });
    free.shipping_address = None;
    let placed = shop.place(free).await;
    assert_eq!(placed.status(), proto::OrderStatus::Completed);
    assert_eq!(placed.payment_status(), proto::PaymentStatus::Paid);
    assert_eq!(placed.fulfillment_status(), proto::FulfillmentStatus::Fulfilled);
    let types: Vec<String> = shop
        .timeline(&placed.order_id)
        .await
        .into_iter()
        .map(|entry| entry.r#type)
        .collect();
    assert_eq!(
        types,
        ["waybill.order.v1.OrderPlaced", "waybill.order.v1.OrderCompleted"]
    );
    Ok(())
}

#[tokio::test]
async fn ten_thousand_lines_are_taken() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let mut large = order("1");
    large.lines = vec![tea(); 10_000];
    large.totals = Some(proto::OrderTotals {
        total: eur(10_000_000),
        ..proto::OrderTotals::default()
    });
    let placed = shop.place(large).await;
    assert_eq!(placed.lines.len(), 10_000);
    assert_eq!(shop.get(&placed.order_id).await?, placed);
    Ok(())
}

/// Fields of a later version of the contract are no reason to refuse.
#[tokio::test]
async fn unknown_fields_are_passed_over() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let mut bytes = shop.request("r-1", order("1")).encode_to_vec();
    // Field 999, a text.
    bytes.extend([0xba, 0x3e, 3]);
    bytes.extend(b"new");
    let request = proto::PlaceOrderRequest::decode(bytes.as_slice())?;
    let placed = shop.client.clone().place_order(request).await?.into_inner();
    assert!(placed.order.is_some());
    Ok(())
}
