//! Where changing meets finding: an order is found by what it is now, and no longer by what it was.

use anyhow::Result;
use chrono::TimeDelta;
use waybill_proto::waybill::order::v1 as proto;
use waybill_rpc::convert::to_timestamp;

use crate::harness::{now, start};
use crate::shop::{Shop, order};

/// How many orders pass a filter: by count and by list, which must agree.
async fn filtered(shop: &Shop, filter: proto::OrderFilter) -> Result<usize> {
    let (merchant_id, store_id) = (shop.merchant.to_string(), shop.store.to_string());
    let request = proto::CountOrdersRequest {
        merchant_id: merchant_id.clone(),
        store_id: store_id.clone(),
        filter: Some(filter.clone()),
    };
    let count = shop.client.clone().count_orders(request).await?.into_inner();
    let request = proto::ListOrdersRequest {
        merchant_id,
        store_id,
        filter: Some(filter.clone()),
        ..proto::ListOrdersRequest::default()
    };
    let listed = shop.client.clone().list_orders(request).await?.into_inner();
    assert_eq!(count.count, i64::try_from(listed.orders.len())?, "{filter:?}");
    Ok(listed.orders.len())
}

async fn tagged(shop: &Shop, tag: &str) -> Result<usize> {
    let filter = proto::OrderFilter {
        tag: tag.into(),
        ..proto::OrderFilter::default()
    };
    filtered(shop, filter).await
}

/// How many orders a text finds.
async fn searched(shop: &Shop, query: &str) -> Result<usize> {
    let request = proto::SearchOrdersRequest {
        merchant_id: shop.merchant.to_string(),
        store_id: shop.store.to_string(),
        query: query.into(),
        ..proto::SearchOrdersRequest::default()
    };
    let page = shop.client.clone().search_orders(request).await?.into_inner();
    Ok(page.orders.len())
}

fn of(name: &str, email: &str) -> Option<proto::Customer> {
    Some(proto::Customer {
        name: name.into(),
        email: email.into(),
        ..proto::Customer::default()
    })
}

fn with_tags(tags: &[&str]) -> proto::OrderUpdate {
    proto::OrderUpdate {
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        ..proto::OrderUpdate::default()
    }
}

#[tokio::test]
async fn changed_tags_find_an_order_and_former_ones_do_not() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    for (id, tags) in [("1", ["gift", "vip"]), ("2", ["gift", "slow"])] {
        let tags = with_tags(&tags).tags;
        shop.place(proto::NewOrder { tags, ..order(id) }).await;
    }
    let first = shop.place(order("3")).await;
    // From none, to others that partly stay, with one named twice, to none.
    for (step, tags, found) in [
        ("u-1", &["gift", "new"][..], [3, 1, 1]),
        ("u-2", &["new", "vip", "vip"], [2, 1, 2]),
        ("u-3", &[], [2, 0, 1]),
    ] {
        shop.update(shop.change(step, &first.order_id, &["tags"], with_tags(tags)))
            .await?;
        for (tag, found) in ["gift", "new", "vip"].into_iter().zip(found) {
            assert_eq!(tagged(&shop, tag).await?, found, "{tag} after {step}");
        }
        assert_eq!(tagged(&shop, "slow").await?, 1);
    }
    Ok(())
}

#[tokio::test]
async fn a_changed_customer_is_found_by_the_new_name_and_address_alone() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let customer = of("Jo Doe", "jo@old.example");
    let placed = shop
        .place(proto::NewOrder {
            customer,
            ..order("1")
        })
        .await;
    let customer = of("Kim Özdemir", "Kim@new.example");
    let update = proto::OrderUpdate {
        customer,
        ..proto::OrderUpdate::default()
    };
    let paths = ["customer.name", "customer.email"];
    shop.update(shop.change("u-1", &placed.order_id, &paths, update))
        .await?;
    for (email, found) in [("kim@NEW.example", 1), ("jo@old.example", 0)] {
        let filter = proto::OrderFilter {
            customer_email: email.into(),
            ..proto::OrderFilter::default()
        };
        assert_eq!(filtered(&shop, filter).await?, found, "{email}");
    }
    for text in ["kim@", "kim öz", "özdemir"] {
        assert_eq!(searched(&shop, text).await?, 1, "{text}");
    }
    for text in ["jo@", "jo doe", "doe"] {
        assert_eq!(searched(&shop, text).await?, 0, "{text}");
    }
    Ok(())
}

#[tokio::test]
async fn an_update_moves_the_time_that_is_filtered_by() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let placed = shop.place(order("1")).await;
    shop.place(order("2")).await;
    service.clock.advance(TimeDelta::hours(2));
    let since = |hours| proto::OrderFilter {
        updated_from: Some(to_timestamp(now() + TimeDelta::hours(hours))),
        ..proto::OrderFilter::default()
    };
    assert_eq!(filtered(&shop, since(1)).await?, 0);
    shop.update(shop.change("u-1", &placed.order_id, &["tags"], with_tags(&["late"])))
        .await?;
    assert_eq!(filtered(&shop, since(1)).await?, 1);
    assert_eq!(filtered(&shop, since(0)).await?, 2);
    Ok(())
}

/// A schema of before, whose orders have been changed, is filled from what they are now.
#[tokio::test]
async fn an_upgrade_finds_tags_that_were_changed_before() -> Result<()> {
    let mut service = start().await;
    let shop = service.shop();
    let tags = vec!["gift".to_owned(), "gift".to_owned(), "old".to_owned()];
    let placed = shop.place(proto::NewOrder { tags, ..order("1") }).await;
    shop.place(order("2")).await;
    shop.update(shop.change("u-1", &placed.order_id, &["tags"], with_tags(&["gift", "new"])))
        .await?;
    service.stop().await?;
    let mut tables = service.tables().await;
    sqlx::raw_sql(
        "DROP TRIGGER tags_moved ON orders;
         DROP FUNCTION move_order_tags;
         DROP TABLE order_tags;
         DROP INDEX order_contacts_email, order_contacts_external_id, orders_total;
         DELETE FROM _sqlx_migrations WHERE version = 20261129130000",
    )
    .execute(&mut tables)
    .await?;

    let upgraded = service.replica().await;
    let shop = Shop {
        client: upgraded.client(&service, &shop),
        ..shop
    };
    for (tag, found) in [("gift", 1), ("new", 1), ("old", 0)] {
        assert_eq!(tagged(&shop, tag).await?, found, "{tag}");
    }
    shop.update(shop.change("u-2", &placed.order_id, &["tags"], with_tags(&["newest"])))
        .await?;
    assert_eq!(tagged(&shop, "newest").await?, 1);
    assert_eq!(tagged(&shop, "new").await?, 0);
    Ok(())
}
