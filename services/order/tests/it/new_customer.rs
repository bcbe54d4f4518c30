//! The rule for new customers: their orders are held until one of them stands.

use std::collections::BTreeMap;

use anyhow::Result;
use waybill_kernel::id::StoreId;
use waybill_order::{Config, Holds, StoreHolds};
use waybill_proto::waybill::order::v1 as proto;
use waybill_proto::waybill::order::v1::OrderStatus::{OnHold, Open};

use crate::harness::start_with;
use crate::shop::{Shop, order};

fn by(email: &str, id: &str) -> proto::NewOrder {
    let mut new = order(id);
    new.customer = Some(proto::Customer {
        email: email.into(),
        ..proto::Customer::default()
    });
    new
}

fn every_new_one(config: &mut Config) {
    config.holds = Holds {
        new_customer: true,
        ..Holds::default()
    };
}

#[tokio::test]
async fn a_customer_is_new_until_an_order_of_theirs_stands() -> Result<()> {
    let service = start_with(every_new_one).await;
    let shop = service.shop();
    let held = shop.try_place("p-1", by("ada@example.org", "1")).await?;
    assert_eq!((held.status(), held.version, held.holds.len()), (OnHold, 1, 1));
    assert_eq!(
        (held.holds[0].rule.as_str(), held.holds[0].reason()),
        ("new_customer", proto::HoldReason::PaymentReview)
    );
    // What was answered is what is kept, and what is answered again.
    assert_eq!(shop.get(&held.order_id).await?, held);
    assert_eq!(shop.try_place("p-1", by("ada@example.org", "1")).await?, held);
    let events: Vec<String> =
        sqlx::query_scalar("SELECT type FROM event_log WHERE aggregate_version = 1 ORDER BY position")
            .fetch_all(&mut service.tables().await)
            .await?;
    assert_eq!(
        events,
        ["waybill.order.v1.OrderPlaced", "waybill.order.v1.OrderHeld"]
    );
    let told: Vec<String> = shop
        .timeline(&held.order_id)
        .await
        .into_iter()
        .map(|e| e.summary)
        .collect();
    assert!(told[1].contains("by the rule \"new_customer\""), "{told:?}");

    // A held order opens no door, and neither does a cancelled one.
    let second = shop.place(by("Ada@Example.org", "2")).await;
    assert_eq!(second.status(), OnHold);
    shop.cancel("c-1", &second.order_id, "").await?;
    assert_eq!(shop.place(by("ada@example.org", "3")).await.status(), OnHold);
    shop.release("r-1", &held.order_id, "").await?;
    assert_eq!(shop.place(by("ada@example.org", "4")).await.status(), Open);
    // A customer is one of the merchant, whichever store it is; somebody else's customer is not.
    let store = StoreId::generate();
    let branch = Shop {
        store,
        client: service.client(shop.merchant, &[store]),
        ..shop.clone()
    };
    assert_eq!(branch.place(by("ada@example.org", "1")).await.status(), Open);
    assert_eq!(
        service.shop().place(by("ada@example.org", "1")).await.status(),
        OnHold
    );
    // Of whom nothing is known is new each time.
    for id in ["5", "6"] {
        assert_eq!(shop.place(by("", id)).await.status(), OnHold);
    }
    Ok(())
}

/// Two first orders at once are both held, in one transaction or in two; a person puts that right.
#[tokio::test]
async fn two_first_orders_at_once_are_both_held() -> Result<()> {
    for orders_at_once in [1, 200] {
        let service = start_with(|config| {
            every_new_one(config);
            config.placing.orders = orders_at_once;
        })
        .await;
        let shop = service.shop();
        let known = shop.place(by("bo@example.org", "0")).await;
        shop.release("r-1", &known.order_id, "").await?;
        let batch = ["ada", "bo", "ada", "cy"];
        let orders = batch.iter().enumerate().map(|(at, who)| {
            (
                format!("p-{at}"),
                by(&format!("{who}@example.org"), &format!("b{at}")),
            )
        });
        let outcomes = shop.batch(orders.collect()).await?;
        let mut held = Vec::new();
        for outcome in &outcomes {
            held.push(shop.get(&outcome.order_id).await?.status() == OnHold);
        }
        assert_eq!(held, [true, false, true, true]);
    }
    Ok(())
}

#[tokio::test]
async fn the_rule_can_be_about_an_amount_and_about_a_store() -> Result<()> {
    let service = start_with(|_| {}).await;
    let shop = service.shop();
    // Without the rule nobody asks.
    assert_eq!(shop.place(by("ada@example.org", "1")).await.status(), Open);
    drop(service);

    let merchant = waybill_kernel::id::MerchantId::generate();
    let (strict, usual) = (StoreId::generate(), StoreId::generate());
    let service = start_with(|config| {
        config.holds.new_customer_value = BTreeMap::from([("EUR".to_owned(), 1000)]);
        config.holds.stores = vec![StoreHolds {
            merchant_id: merchant,
            store_id: Some(strict),
            order_value: BTreeMap::new(),
            country_mismatch: false,
            new_customer: false,
            new_customer_value: BTreeMap::from([("EUR".to_owned(), 999)]),
        }];
    })
    .await;
    let shop = |store| Shop {
        merchant,
        store,
        client: service.client(merchant, &[strict, usual]),
    };
    // 10.00 EUR is not above 10.00 EUR, and is above 9.99 EUR.
    assert_eq!(
        shop(strict).place(by("ada@example.org", "1")).await.status(),
        OnHold
    );
    assert_eq!(shop(usual).place(by("bo@example.org", "3")).await.status(), Open);
    assert_eq!(shop(strict).place(by("bo@example.org", "2")).await.status(), Open);
    Ok(())
}

/// The look-up of a chunk is one statement that finds customers by their index.
#[tokio::test]
async fn customers_are_found_by_an_index() -> Result<()> {
    let service = start_with(every_new_one).await;
    let shop = service.shop();
    let mut tables = service.tables().await;
    crate::many::fill(&mut tables, shop.merchant.uuid(), shop.store.uuid(), 20_000).await;
    let plan: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
        "EXPLAIN SELECT w.merchant_id, w.customer_key
         FROM (SELECT DISTINCT * FROM UNNEST(ARRAY['{}'::uuid], ARRAY['k7']) AS u (merchant_id, customer_key)) w
         WHERE EXISTS (
             SELECT 1 FROM order_contacts c
             JOIN orders o ON (o.order_id, o.merchant_id, o.store_id) = (c.order_id, c.merchant_id, c.store_id)
             WHERE c.merchant_id = w.merchant_id AND c.customer_key = w.customer_key AND c.customer_key <> ''
               AND o.status NOT IN ('CANCELLED', 'ON_HOLD'))",
        shop.merchant
    )))
    .fetch_all(&mut tables)
    .await?;
    let plan = plan.join("\n");
    assert!(
        plan.contains("order_contacts_customer_key") && !plan.contains("Seq Scan"),
        "{plan}"
    );
    Ok(())
}
