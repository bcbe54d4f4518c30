//! Who a customer is: found by each name, handed out whole, and somebody else after an erasure (O-34).

use std::collections::HashSet;

use anyhow::Result;
use futures_util::StreamExt as _;
use prost::Message as _;
use sqlx::PgConnection;
use tonic::{Code, Status};
use waybill_kernel::id::StoreId;
use waybill_proto::waybill::order::v1 as proto;
use waybill_proto::waybill::order::v1::ErasureState;
use waybill_proto::waybill::order::v1::customer_ref::Key;

use crate::harness::{Customers, start};
use crate::many;
use crate::privacy::{email, ended, erase, of, read};
use crate::shop::{Shop, bad_fields, order, refusal};

pub(crate) async fn export(
    customers: &Customers,
    shop: &Shop,
    key: Option<Key>,
    cursor: &str,
) -> Result<Vec<proto::ExportCustomerDataResponse>, Status> {
    let request = proto::ExportCustomerDataRequest {
        merchant_id: shop.merchant.to_string(),
        customer: Some(proto::CustomerRef { key }),
        cursor: cursor.into(),
    };
    let stream = customers.clone().export_customer_data(request).await?;
    let steps: Vec<Result<_, Status>> = stream.into_inner().collect().await;
    steps.into_iter().collect()
}

pub(crate) fn ids(steps: &[proto::ExportCustomerDataResponse]) -> HashSet<String> {
    let orders = steps.iter().filter_map(|step| step.order.as_ref());
    orders.map(|order| order.order_id.clone()).collect()
}

/// The pseudonyms in the events of these orders.
pub(crate) async fn pseudonyms(tables: &mut PgConnection, orders: &[String]) -> Result<HashSet<String>> {
    let payloads: Vec<Vec<u8>> = sqlx::query_scalar(
        "SELECT payload FROM event_log WHERE type = 'waybill.order.v1.OrderPlaced' AND partition_key::text = ANY($1)",
    )
    .bind(orders)
    .fetch_all(tables)
    .await?;
    let placed = payloads
        .iter()
        .map(|payload| Ok(proto::OrderPlaced::decode(payload.as_slice())?.customer_key));
    placed.collect()
}

/// By address, by id, by an order: who is meant, over all stores of the merchant and no other's.
#[tokio::test]
async fn a_customer_is_found_by_each_name_in_every_store() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let second = Shop {
        store: StoreId::generate(),
        client: service.client(shop.merchant, &[]),
        ..shop.clone()
    };
    let stranger = service.shop();
    let both = shop.place(of("jo@example.org", "c-1", "1")).await;
    let elsewhere = second.place(of("Jo@Example.org", "", "2")).await;
    let by_id = second.place(of("", "c-1", "3")).await;
    let guest = shop.place(of("", "", "4")).await;
    let foreign = stranger.place(of("jo@example.org", "c-1", "5")).await;
    let customers = service.customers(&shop);
    let found = async |key: Key| {
        let steps = export(&customers, &shop, Some(key), "").await.expect("an export");
        ids(&steps)
    };
    let set = |orders: &[&proto::Order]| -> HashSet<String> {
        orders.iter().map(|order| order.order_id.clone()).collect()
    };
    assert_eq!(
        found(Key::Email("JO@EXAMPLE.ORG".into())).await,
        set(&[&both, &elsewhere])
    );
    assert_eq!(found(Key::ExternalId("c-1".into())).await, set(&[&both, &by_id]));
    assert_eq!(
        found(Key::OrderId(both.order_id.clone())).await,
        set(&[&both, &elsewhere])
    );
    assert_eq!(
        found(Key::OrderId(by_id.order_id.clone())).await,
        set(&[&both, &by_id])
    );
    assert_eq!(found(Key::OrderId(guest.order_id.clone())).await, set(&[&guest]));
    assert!(found(Key::Email("nobody@example.org".into())).await.is_empty());
    let unknown = export(
        &customers,
        &shop,
        Some(Key::OrderId(foreign.order_id.clone())),
        "",
    )
    .await;
    assert_eq!(refusal(unknown).1, "ORDER_NOT_FOUND", "another merchant's");

    // A token for one store covers that store, and shows no erasure that goes further.
    let narrow = service.customers_of(shop.merchant, &[second.store]);
    let steps = export(&narrow, &shop, email(), "").await?;
    assert_eq!(ids(&steps), set(&[&elsewhere]));
    let everywhere = erase(&customers, &shop, "e-1", email()).await?;
    assert!(everywhere.store_ids.is_empty());
    let hidden = read(&narrow, &shop, &everywhere.erasure_id).await;
    assert_eq!(refusal(hidden), (Code::NotFound, "ERASURE_NOT_FOUND".into()));
    let here = erase(&narrow, &shop, "e-3", Some(Key::ExternalId("c-1".into()))).await?;
    assert_eq!(
        (here.store_ids.clone(), here.orders),
        (vec![second.store.to_string()], 1)
    );
    assert_eq!(read(&narrow, &shop, &here.erasure_id).await?, here);

    let nobody = erase(&customers, &shop, "e-2", None).await;
    assert_eq!(bad_fields(nobody), ["customer"]);
    let empty = erase(&customers, &shop, "", Some(Key::Email(String::new()))).await;
    assert_eq!(bad_fields(empty), ["request_id", "customer.email"]);
    Ok(())
}

/// Everything that is held comes, with the pseudonym that events have, and from any cursor on.
#[tokio::test]
async fn an_export_is_whole_and_goes_on_anywhere() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let customers = service.customers(&shop);
    let mut tables = service.tables().await;
    many::fill(&mut tables, shop.merchant.uuid(), shop.store.uuid(), 1000).await;
    // All of one buyer, so that there is more than one page.
    sqlx::query(
        "UPDATE order_contacts SET email = 'Jo@example.org' WHERE right(customer_key, 1) IN ('1', '2', '3')",
    )
    .execute(&mut tables)
    .await?;
    let whole = export(&customers, &shop, email(), "").await?;
    assert_eq!((whole.len(), ids(&whole).len()), (300, 300));
    for step in &whole {
        let order = step.order.clone().expect("each has one");
        assert_eq!(order, shop.get(&order.order_id).await?);
        assert!(step.customer_key.starts_with('k'), "{}", step.customer_key);
    }
    for taken in [1, 99, 100, 101, 299, 300] {
        let rest = export(&customers, &shop, email(), &whole[taken - 1].cursor).await?;
        assert_eq!(rest, whole[taken..], "after {taken}");
    }
    let other = export(
        &customers,
        &shop,
        Some(Key::Email("x@example.org".into())),
        &whole[0].cursor,
    )
    .await;
    assert_eq!(bad_fields(other), ["cursor"]);
    Ok(())
}

/// O-34: who was erased is a new customer afterwards, again and again, by placement and by a changed address alike.
#[tokio::test]
async fn an_erased_customer_comes_back_as_somebody_else() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let customers = service.customers(&shop);
    let mut tables = service.tables().await;
    let mut seen = HashSet::new();
    for round in 0..3 {
        let mut orders = Vec::new();
        for n in 0..2 {
            orders.push(ended(&shop, order(&format!("{round}-{n}"))).await.order_id);
        }
        let keys = pseudonyms(&mut tables, &orders).await?;
        assert_eq!(keys.len(), 1, "one customer in round {round}");
        let other = shop
            .place(of("kim@example.org", "", &format!("kim-{round}")))
            .await;
        let becomes = proto::OrderUpdate {
            customer: Some(proto::Customer {
                email: "jo@example.org".into(),
                ..proto::Customer::default()
            }),
            ..proto::OrderUpdate::default()
        };
        let change = shop.change(
            &format!("u-{round}"),
            &other.order_id,
            &["customer.email"],
            becomes,
        );
        shop.update(change).await?;
        let stored: String =
            sqlx::query_scalar("SELECT customer_key FROM order_contacts WHERE order_id = $1::text::uuid")
                .bind(&other.order_id)
                .fetch_one(&mut tables)
                .await?;
        assert!(keys.contains(&stored), "an update finds the same pseudonym");
        shop.cancel(&format!("kim-{round}"), &other.order_id, "").await?;
        let erasure = erase(&customers, &shop, &format!("e-{round}"), email()).await?;
        assert_eq!((erasure.state(), erasure.erased), (ErasureState::Done, 3));
        assert!(seen.is_disjoint(&keys), "round {round} is linked to one before");
        seen.extend(keys);
    }
    assert_eq!(seen.len(), 3);
    Ok(())
}

/// Neither an export nor the looking of an erasure reads contacts from end to end.
#[tokio::test]
async fn a_customer_is_found_by_an_index() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let customers = service.customers(&shop);
    let mut tables = service.tables().await;
    many::fill(&mut tables, shop.merchant.uuid(), shop.store.uuid(), 20_000).await;
    for key in [
        Key::Email("buyer17@example.org".into()),
        Key::ExternalId("cust-17".into()),
    ] {
        let reads = "SELECT coalesce(sum(seq_tup_read), 0)::bigint FROM pg_stat_user_tables
                     WHERE schemaname = 'order' AND relname IN ('order_contacts', 'orders')";
        let before: i64 = sqlx::query_scalar(reads).fetch_one(&mut tables).await?;
        let found = export(&customers, &shop, Some(key), "").await?;
        assert_eq!(found.len(), 20);
        sqlx::query("SELECT pg_stat_force_next_flush()")
            .execute(&mut tables)
            .await?;
        let after: i64 = sqlx::query_scalar(reads).fetch_one(&mut tables).await?;
        assert_eq!(after - before, 0, "rows were read one after the other");
    }
    Ok(())
}
