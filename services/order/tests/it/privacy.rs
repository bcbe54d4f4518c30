//! Forgetting a customer (O-33): nothing of the person is left, whatever happens meanwhile; the books stay.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::Result;
use futures_util::future::join_all;
use prost::Message as _;
use sqlx::PgConnection;
use tonic::{Code, Status};
use waybill_kernel::id::{RefundId, ReturnId, ShipmentId};
use waybill_proto::waybill::order::v1 as proto;
use waybill_proto::waybill::order::v1::customer_ref::Key;
use waybill_proto::waybill::order::v1::{ErasureState, ErasureWait};
use waybill_proto::waybill::refund::v1 as refund;
use waybill_testkit::eventually;

use crate::customers::{export, ids, pseudonyms};
use crate::fold::{delivered, shipped, until};
use crate::harness::{Customers, SOON, Service, start, start_with};
use crate::house::House;
use crate::many;
use crate::shop::{Shop, order, refusal};

/// What a test looks for when nothing may be left.
pub(crate) const PERSONAL: [&str; 5] = [
    "jo@example.org",
    "Jo Doe",
    "Long Street",
    "Hamburg",
    "rings twice",
];

pub(crate) fn email() -> Option<Key> {
    Some(Key::Email("JO@example.org".into()))
}

fn erase_request(shop: &Shop, request_id: &str, key: Option<Key>) -> proto::EraseCustomerRequest {
    proto::EraseCustomerRequest {
        merchant_id: shop.merchant.to_string(),
        request_id: request_id.into(),
        customer: Some(proto::CustomerRef { key }),
    }
}

impl Service {
    /// A client for the customers of a shop's merchant, for all its stores.
    pub(crate) fn customers(&self, shop: &Shop) -> Customers {
        self.customers_of(shop.merchant, &[])
    }
}

pub(crate) async fn erase(
    customers: &Customers,
    shop: &Shop,
    request_id: &str,
    key: Option<Key>,
) -> Result<proto::Erasure, Status> {
    let request = erase_request(shop, request_id, key);
    let answer = customers.clone().erase_customer(request).await?.into_inner();
    Ok(answer.erasure.expect("an answer has the erasure"))
}

pub(crate) async fn read(
    customers: &Customers,
    shop: &Shop,
    erasure_id: &str,
) -> Result<proto::Erasure, Status> {
    let request = proto::GetErasureRequest {
        merchant_id: shop.merchant.to_string(),
        erasure_id: erasure_id.into(),
    };
    let answer = customers.clone().get_erasure(request).await?.into_inner();
    Ok(answer.erasure.expect("an answer has the erasure"))
}

async fn reaches(
    customers: &Customers,
    shop: &Shop,
    erasure_id: &str,
    state: ErasureState,
) -> proto::Erasure {
    let what = format!("the erasure is {state:?}");
    eventually(&what, SOON, async || {
        let erasure = read(customers, shop, erasure_id).await.expect("it exists");
        if erasure.state() == state {
            Ok(erasure)
        } else {
            Err(format!("{erasure:?}"))
        }
    })
    .await
}

/// Every text of every row of the schema, and every event, in which a text stands: as `table`.
pub(crate) async fn tables_with(tables: &mut PgConnection, text: &str) -> Result<Vec<String>> {
    let names: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = 'order' AND c.relkind = 'r' ORDER BY 1",
    )
    .fetch_all(&mut *tables)
    .await?;
    let mut found = Vec::new();
    for name in names {
        let query = format!(
            "SELECT count(*) FROM \"{name}\" t
             WHERE t::text ILIKE '%' || $1 || '%'
                OR t::text ILIKE '%' || encode(convert_to($1, 'UTF8'), 'hex') || '%'"
        );
        let rows: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(query))
            .bind(text)
            .fetch_one(&mut *tables)
            .await?;
        if rows > 0 {
            found.push(name);
        }
    }
    Ok(found)
}

/// An order at its end that leaves nothing to wait for.
pub(crate) async fn ended(shop: &Shop, new: proto::NewOrder) -> proto::Order {
    let placed = shop.place(new).await;
    shop.cancel(&format!("c-{}", placed.order_id), &placed.order_id, "")
        .await
        .expect("nothing has shipped")
}

pub(crate) fn of(email: &str, external_id: &str, source: &str) -> proto::NewOrder {
    proto::NewOrder {
        customer: Some(proto::Customer {
            email: email.into(),
            external_id: external_id.into(),
            name: "Jo Doe".into(),
            phone: "+49 40 1".into(),
        }),
        ..order(source)
    }
}

/// O-33: contact, addresses, note and attributes are gone from every table and event; terms, money and what others are told
/// stay.
#[tokio::test]
async fn a_customer_is_forgotten_and_the_books_are_not() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let customers = service.customers(&shop);
    let placed = shop.place(order("1")).await;
    let noted = shop.change(
        "u-1",
        &placed.order_id,
        &["note", "attributes", "line_attributes"],
        proto::OrderUpdate {
            note: "Jo rings twice".into(),
            attributes: [("gift".into(), "For Jo Doe".into())].into(),
            line_attributes: vec![proto::LineAttributes {
                line_id: placed.lines[0].line_id.clone(),
                attributes: [("engraving".into(), "Jo Doe".into())].into(),
            }],
            ..proto::OrderUpdate::default()
        },
    );
    shop.update(noted).await?;
    let before = shop.cancel("c-1", &placed.order_id, "").await?;
    let other = ended(&shop, of("kim@example.org", "", "2")).await;

    let mut tables = service.tables().await;
    for personal in PERSONAL {
        // The check can fail: before, all of it is found, and nowhere else than where it belongs (O-10).
        let found = tables_with(&mut tables, personal).await?;
        assert!(
            found.contains(&"order_contacts".to_owned()),
            "{personal}: {found:?}"
        );
        let allowed = ["order_contacts", "orders", "order_lines"];
        assert!(
            found.iter().all(|table| allowed.contains(&table.as_str())),
            "{personal}: {found:?}"
        );
    }
    let erasure = erase(&customers, &shop, "e-1", email()).await?;
    assert_eq!(erasure.state(), ErasureState::Done, "{erasure:?}");
    assert_eq!((erasure.orders, erasure.erased), (1, 1));
    sqlx::query("DELETE FROM order_contacts WHERE email = 'kim@example.org'")
        .execute(&mut tables)
        .await?;
    for personal in PERSONAL {
        let found = tables_with(&mut tables, personal).await?;
        assert!(found.is_empty(), "{personal} is left in {found:?}");
    }

    let after = shop.get(&placed.order_id).await?;
    assert!(after.contact_erased && !before.contact_erased);
    assert_eq!(after.customer, Some(proto::Customer::default()));
    assert_eq!(
        (
            after.shipping_address.as_ref(),
            after.billing_address.as_ref(),
            after.note.as_str()
        ),
        (None, None, "")
    );
    assert!(after.attributes.is_empty() && after.lines[0].attributes.is_empty());
    assert_eq!((&after.totals, &after.number), (&before.totals, &before.number));
    assert_eq!(after.version, before.version + 1, "O-7: a change like any other");
    let (payload, version): (Vec<u8>, i64) = sqlx::query_as(
        "SELECT payload, aggregate_version FROM event_log WHERE type = 'waybill.order.v1.OrderContactErased'",
    )
    .fetch_one(&mut tables)
    .await?;
    let told = proto::OrderContactErased::decode(payload.as_slice())?;
    assert_eq!((told.order_id, version), (placed.order_id.clone(), after.version));
    let timeline = shop.timeline(&placed.order_id).await;
    let last = timeline.last().map(|entry| entry.summary.clone());
    assert_eq!(
        last.as_deref(),
        Some("Customer erased: contact, addresses, note and attributes")
    );
    // Nothing of others was touched but what this test took away itself.
    assert_eq!(shop.get(&other.order_id).await?.version, other.version);

    // O-13: old answers are given again without the person; what would write about the person is refused.
    let again = shop.try_place("place-1", order("1")).await?;
    assert_eq!(
        (again.customer, again.lines[0].total.clone()),
        (Some(proto::Customer::default()), placed.lines[0].total.clone())
    );
    let renamed = shop.change(
        "u-2",
        &placed.order_id,
        &["customer.name"],
        proto::OrderUpdate::default(),
    );
    assert_eq!(refusal(shop.update(renamed).await).1, "CONTACT_ERASED");
    Ok(())
}

/// The same request is the same erasure; another one finds nothing left; no row says afterwards which orders were whose.
#[tokio::test]
async fn erasing_twice_is_the_same_answer() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let customers = service.customers(&shop);
    ended(&shop, order("1")).await;
    ended(&shop, order("2")).await;
    let callers = (0..50).map(|_| erase(&customers, &shop, "e-1", email()));
    let answers: Vec<proto::Erasure> = join_all(callers).await.into_iter().collect::<Result<_, _>>()?;
    assert!(
        answers
            .iter()
            .all(|answer| answer.erasure_id == answers[0].erasure_id)
    );
    let done = reaches(&customers, &shop, &answers[0].erasure_id, ErasureState::Done).await;
    assert_eq!((done.orders, done.erased), (2, 2));
    assert_eq!(erase(&customers, &shop, "e-1", email()).await?, done);
    let other = erase(&customers, &shop, "e-2", email()).await?;
    assert_eq!((other.state(), other.orders), (ErasureState::Done, 0));
    let reused = erase(&customers, &shop, "e-1", Some(Key::ExternalId("c-1".into()))).await;
    assert_eq!(
        refusal(reused),
        (Code::InvalidArgument, "REQUEST_ID_REUSED".into())
    );

    let mut tables = service.tables().await;
    let (left, pinned, events): (i64, i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM order_contacts), (SELECT count(*) FROM order_erasure_orders),
                (SELECT count(*) FROM event_log WHERE type LIKE '%OrderContactErased')",
    )
    .fetch_one(&mut tables)
    .await?;
    assert_eq!((left, pinned, events), (0, 0, 2));
    let place: Vec<(Option<String>, Option<String>)> =
        sqlx::query_as("SELECT after_store_id::text, after_order_id::text FROM order_erasures")
            .fetch_all(&mut tables)
            .await?;
    assert_eq!(place, [(None, None), (None, None)]);
    Ok(())
}

/// Orders that still need the person wait, each with its reason, and are erased by themselves when they no longer do.
#[tokio::test]
async fn what_still_needs_the_person_waits_for_its_end() -> Result<()> {
    let house = House::start_with(|config| config.erasure_pause = Duration::from_millis(50)).await?;
    let shop = house.service.shop();
    let customers = house.service.customers(&shop);
    let [open, held, returned, refunded, cancelled] = {
        let mut orders = Vec::new();
        for n in 1..=5 {
            orders.push(shop.place(order(&n.to_string())).await);
        }
        <[proto::Order; 5]>::try_from(orders).expect("five")
    };
    let hold = proto::HoldOrderRequest {
        merchant_id: shop.merchant.to_string(),
        store_id: shop.store.to_string(),
        request_id: "h-1".into(),
        order_id: held.order_id.clone(),
        reason: proto::HoldReason::Fraud.into(),
        ..proto::HoldOrderRequest::default()
    };
    shop.client.clone().hold_order(hold).await?;
    for order in [&returned, &refunded] {
        let shipment = ShipmentId::generate();
        shop.capture(&order.order_id, &order.order_id, 1000).await?;
        house
            .fulfillment
            .tell(&shop, &order.order_id, &[shipped(order, shipment, 2)])
            .await?;
        house
            .fulfillment
            .tell(&shop, &order.order_id, &[delivered(order, shipment, 2)])
            .await?;
        until(&shop, &order.order_id, "its end", |o| {
            o.status() == proto::OrderStatus::Completed
        })
        .await;
    }
    let (the_return, the_refund) = (ReturnId::generate(), RefundId::generate());
    let requested = refund::ReturnRequested {
        order_id: returned.order_id.clone(),
        return_id: the_return.to_string(),
        ..refund::ReturnRequested::default()
    };
    house.refund.tell(&shop, &returned.order_id, &[requested]).await?;
    until(&shop, &returned.order_id, "a return", |o| {
        o.return_status() == proto::ReturnStatus::Requested
    })
    .await;
    let created = refund::RefundCreated {
        order_id: refunded.order_id.clone(),
        refund_id: the_refund.to_string(),
        currency_code: "EUR".into(),
        amount_minor: 100,
        ..refund::RefundCreated::default()
    };
    house.refund.tell(&shop, &refunded.order_id, &[created]).await?;
    eventually("the refund is on the timeline", SOON, async || {
        let timeline = shop.timeline(&refunded.order_id).await;
        timeline
            .iter()
            .any(|entry| entry.subject_id == the_refund.to_string())
            .then_some(())
            .ok_or("not yet")
    })
    .await;
    shop.capture(&cancelled.order_id, "paid-5", 1000).await?;
    shop.cancel("c-5", &cancelled.order_id, "").await?;

    let erasure = erase(&customers, &shop, "e-1", email()).await?;
    assert_eq!((erasure.orders, erasure.erased), (5, 0), "{erasure:?}");
    let waiting = |erasure: &proto::Erasure| -> HashSet<(String, ErasureWait)> {
        let named = erasure.waiting.iter();
        named
            .map(|order| (order.order_id.clone(), order.waits_for()))
            .collect()
    };
    assert_eq!(erasure.state(), ErasureState::Waiting);
    assert_eq!(
        waiting(&erasure),
        HashSet::from([
            (open.order_id.clone(), ErasureWait::Open),
            (held.order_id.clone(), ErasureWait::OnHold),
            (returned.order_id.clone(), ErasureWait::Return),
            (refunded.order_id.clone(), ErasureWait::Refund),
            (cancelled.order_id.clone(), ErasureWait::Refund),
        ])
    );
    assert_eq!(
        shop.get(&open.order_id).await?.customer,
        open.customer,
        "it may still have to ship"
    );

    // An order that comes now is of a new customer: it is not in the erasure.
    let later = shop.place(order("later")).await;

    shop.cancel("c-1", &open.order_id, "").await?;
    shop.cancel("c-2", &held.order_id, "").await?;
    let declined = refund::ReturnDeclined {
        order_id: returned.order_id.clone(),
        return_id: the_return.to_string(),
    };
    house.refund.tell(&shop, &returned.order_id, &[declined]).await?;
    for (order, minor, all) in [(&refunded, 100, 100), (&cancelled, 1000, 1000)] {
        let succeeded = refund::RefundSucceeded {
            order_id: order.order_id.clone(),
            refund_id: if minor == 100 {
                the_refund
            } else {
                RefundId::generate()
            }
            .to_string(),
            currency_code: "EUR".into(),
            amount_minor: minor,
            order_refunded_minor: all,
            ..refund::RefundSucceeded::default()
        };
        house.refund.tell(&shop, &order.order_id, &[succeeded]).await?;
    }
    let done = reaches(&customers, &shop, &erasure.erasure_id, ErasureState::Done).await;
    assert_eq!((done.orders, done.erased, done.waiting.len()), (5, 5, 0));
    let spared = shop.get(&later.order_id).await?;
    assert_eq!((spared.contact_erased, spared.customer), (false, later.customer));
    house.stop().await;
    Ok(())
}

/// O-33 under fire: fifty callers place orders of a customer who is being erased. Whatever the moment, each order is erased,
/// or is there whole and found as before; and those placed before the call are erased.
#[tokio::test]
async fn orders_placed_meanwhile_are_erased_or_found() -> Result<()> {
    let service = start_with(|config| config.erasure_pause = Duration::from_millis(50)).await;
    let replica = service.replica().await;
    let shop = service.shop();
    let elsewhere = Shop {
        client: replica.client(&service, &shop),
        ..shop.clone()
    };
    let customers = service.customers(&shop);
    let mut before = HashSet::new();
    for n in 0..10 {
        before.insert(ended(&shop, order(&format!("before-{n}"))).await.order_id);
    }
    let placing = join_all((0..50).map(|n| {
        let shop = if n % 2 == 0 {
            shop.clone()
        } else {
            elsewhere.clone()
        };
        async move {
            let placed = shop.place(order(&format!("during-{n}"))).await;
            shop.cancel(&format!("c-{n}"), &placed.order_id, "")
                .await
                .expect("nothing has shipped");
            placed.order_id
        }
    }));
    let (placed, erased) = tokio::join!(placing, erase(&customers, &shop, "e-1", email()));
    let erasure = reaches(&customers, &shop, &erased?.erasure_id, ErasureState::Done).await;
    let found = ids(&export(&customers, &shop, email(), "").await?);
    let mut gone = HashSet::new();
    for order_id in placed.iter().chain(&before) {
        let order = shop.get(order_id).await?;
        assert_eq!(order.contact_erased, !found.contains(order_id), "{order_id}");
        if order.contact_erased {
            gone.insert(order_id.clone());
        }
    }
    assert!(gone.is_superset(&before));
    assert_eq!(i64::try_from(gone.len())?, erasure.erased);
    assert_eq!(gone.len() + found.len(), 60);
    // O-34: nothing of what is new carries a pseudonym of what is gone, once the erasure was there to be seen.
    let next = shop.place(order("after")).await;
    let mut tables = service.tables().await;
    let old = pseudonyms(&mut tables, &gone.into_iter().collect::<Vec<_>>()).await?;
    let new = pseudonyms(&mut tables, &[next.order_id]).await?;
    assert!(!old.is_empty() && new.is_disjoint(&old), "{old:?} and {new:?}");
    Ok(())
}

/// Many orders are erased in slices by a job; a process that dies in the middle is followed by another, and each order is
/// told once.
#[tokio::test]
async fn a_process_that_dies_half_way_is_followed_by_another() -> Result<()> {
    let mut service = start().await;
    let shop = service.shop();
    let customers = service.customers(&shop);
    let mut tables = service.tables().await;
    let orders = 12_000;
    many::fill(&mut tables, shop.merchant.uuid(), shop.store.uuid(), orders).await;
    sqlx::raw_sql(
        "UPDATE order_contacts SET email = 'Jo@example.org', customer_key = 'one';
         UPDATE orders SET status = 'CANCELLED', cancel_reason = 'test' WHERE status = 'OPEN'",
    )
    .execute(&mut tables)
    .await?;
    let begun = erase(&customers, &shop, "e-1", email()).await?;
    assert_eq!(begun.orders, orders, "all were found before the answer");
    assert!(begun.erased >= 200, "{begun:?}");
    eventually("a part is erased", SOON, async || {
        let erasure = read(&customers, &shop, &begun.erasure_id)
            .await
            .expect("it exists");
        if erasure.erased >= 600 {
            Ok(())
        } else {
            Err(format!("{erasure:?}"))
        }
    })
    .await;
    service.kill();
    let counts = "SELECT (SELECT erased FROM order_erasures), (SELECT count(*) FROM order_contacts),
                         (SELECT count(*) FROM order_erasure_orders),
                         (SELECT count(*) FROM event_log WHERE type LIKE '%OrderContactErased'),
                         (SELECT count(DISTINCT partition_key) FROM event_log WHERE type LIKE '%OrderContactErased')";
    let (erased, contacts, pinned, events, told): (i64, i64, i64, i64, i64) =
        sqlx::query_as(counts).fetch_one(&mut tables).await?;
    assert_eq!(contacts, orders - erased, "slices are whole");
    assert_eq!((pinned, events, told), (orders - erased, erased, erased));

    // Its lease would run out by itself.
    sqlx::query("UPDATE jobs SET due_at = now() WHERE state = 'running'")
        .execute(&mut tables)
        .await?;
    let replica = service.replica().await;
    let again = Shop {
        client: replica.client(&service, &shop),
        ..shop.clone()
    };
    eventually("everything is erased", SOON, async || {
        let (erased, ..): (i64, i64, i64, i64, i64) = sqlx::query_as(counts)
            .fetch_one(&mut service.tables().await)
            .await
            .expect("counts");
        if erased == orders { Ok(()) } else { Err(erased) }
    })
    .await;
    let (erased, contacts, pinned, events, told): (i64, i64, i64, i64, i64) =
        sqlx::query_as(counts).fetch_one(&mut tables).await?;
    assert_eq!(
        (erased, contacts, pinned, events, told),
        (orders, 0, 0, orders, orders)
    );
    assert!(
        again
            .get_by(proto::get_order_request::Key::Number("N7".into()))
            .await?
            .contact_erased
    );
    Ok(())
}
