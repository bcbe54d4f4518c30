//! Filters and sorts of ListOrders, counts: every part chooses what it says, whichever way the orders are found.

use anyhow::Result;
use chrono::TimeDelta;
use waybill_proto::waybill::order::v1 as proto;
use waybill_rpc::convert::to_timestamp;

use crate::harness::{now, start};
use crate::many;
use crate::shop::{Shop, bad_fields, eur, order, tea};

/// A change of a filter.
type Of = fn(&mut proto::OrderFilter);

fn filter(change: Of) -> proto::OrderFilter {
    let mut filter = proto::OrderFilter::default();
    change(&mut filter);
    filter
}

fn list(shop: &Shop, filter: proto::OrderFilter, sort: proto::OrderSort) -> proto::ListOrdersRequest {
    proto::ListOrdersRequest {
        merchant_id: shop.merchant.to_string(),
        store_id: shop.store.to_string(),
        filter: Some(filter),
        sort: sort.into(),
        ..proto::ListOrdersRequest::default()
    }
}

/// All orders of a list, page by page, by their external ids; and how many pages that took.
async fn all(shop: &Shop, mut request: proto::ListOrdersRequest) -> (Vec<String>, usize) {
    let (mut found, mut pages) = (Vec::new(), 0);
    loop {
        let page = shop.client.clone().list_orders(request.clone()).await;
        let page = page.expect("a page").into_inner();
        let ids = page
            .orders
            .into_iter()
            .map(|order| order.source.expect("it has one").external_id);
        found.extend(ids);
        pages += 1;
        if page.next_page_token.is_empty() {
            return (found, pages);
        }
        request.page_token = page.next_page_token;
    }
}

async fn count(shop: &Shop, filter: proto::OrderFilter) -> (i64, bool) {
    let request = proto::CountOrdersRequest {
        merchant_id: shop.merchant.to_string(),
        store_id: shop.store.to_string(),
        filter: Some(filter),
    };
    let answer = shop
        .client
        .clone()
        .count_orders(request)
        .await
        .expect("a count")
        .into_inner();
    (answer.count, answer.is_more)
}

/// Four orders, each placed an hour before the one after it: "a" is the oldest.
async fn four(shop: &Shop) {
    for (hours, (id, customer, email, sku, tags, units)) in [
        ("d", "c-2", "Kim@Example.org", "MUG-1", vec!["gift", "vip"], 4),
        ("c", "c-1", "jo@example.org", "TEA-1", vec!["gift"], 1),
        ("b", "", "jo@example.org", "tea-1", vec![], 3),
        ("a", "c-1", "", "TEA-10", vec!["gift", "gift"], 2),
    ]
    .into_iter()
    .enumerate()
    {
        let line = proto::NewOrderLine {
            sku: sku.into(),
            quantity: units,
            taxes: vec![],
            ..tea()
        };
        let placed = proto::NewOrder {
            placed_at: Some(to_timestamp(now() - TimeDelta::hours(hours as i64))),
            lines: vec![line],
            totals: Some(proto::OrderTotals {
                total: eur(500 * i64::from(units)),
                ..proto::OrderTotals::default()
            }),
            customer: Some(proto::Customer {
                external_id: customer.into(),
                email: email.into(),
                ..proto::Customer::default()
            }),
            tags: tags.into_iter().map(str::to_owned).collect(),
            ..order(id)
        };
        shop.place(placed).await;
    }
}

#[tokio::test]
async fn each_part_of_a_filter_chooses() -> Result<()> {
    let service = start().await;
    let (shop, other) = (service.shop(), service.shop());
    four(&shop).await;
    four(&other).await;
    let mut tables = service.tables().await;
    for change in [
        "UPDATE orders SET return_status = 'REQUESTED', updated_at = updated_at + interval '1 hour' WHERE source_external_id = 'b'",
        "UPDATE orders SET updated_at = updated_at + interval '2 hours' WHERE source_external_id = 'a'",
    ] {
        sqlx::query(change).execute(&mut tables).await?;
    }
    let cases: [(Of, &[&str]); 23] = [
        (|_| {}, &["d", "c", "b", "a"]),
        (
            |f| f.return_status = proto::ReturnStatus::Requested.into(),
            &["b"],
        ),
        (
            |f| f.return_status = proto::ReturnStatus::None.into(),
            &["d", "c", "a"],
        ),
        (
            |f| f.status = proto::OrderStatus::Open.into(),
            &["d", "c", "b", "a"],
        ),
        (|f| f.customer_external_id = "c-1".into(), &["c", "a"]),
        (|f| f.customer_external_id = "C-1".into(), &[]),
        (|f| f.customer_external_id = "c-".into(), &[]),
        (|f| f.customer_email = "JO@example.org".into(), &["c", "b"]),
        (|f| f.customer_email = "kim@example.org".into(), &["d"]),
        (|f| f.customer_email = "%@example.org".into(), &[]),
        (
            |f| {
                f.customer_email = "jo@example.org".into();
                f.customer_external_id = "c-1".into();
            },
            &["c"],
        ),
        (|f| f.sku = "TEA-1".into(), &["c"]),
        (|f| f.sku = "TEA-10".into(), &["a"]),
        (|f| f.sku = "TEA".into(), &[]),
        (|f| f.tag = "gift".into(), &["d", "c", "a"]),
        (|f| f.tag = "vip".into(), &["d"]),
        (|f| f.tag = "Gift".into(), &[]),
        (|f| f.total_from = eur(1500), &["d", "b"]),
        (
            |f| {
                f.total_from = eur(1000);
                f.total_to = eur(1500);
            },
            &["b", "a"],
        ),
        (|f| f.currency_code = "GBP".into(), &[]),
        (
            |f| f.updated_from = Some(to_timestamp(now() + TimeDelta::hours(1))),
            &["b", "a"],
        ),
        (
            |f| f.updated_before = Some(to_timestamp(now() + TimeDelta::hours(2))),
            &["d", "c", "b"],
        ),
        (
            |f| {
                f.tag = "gift".into();
                f.sku = "TEA-10".into();
                f.total_to = eur(1000);
                f.placed_before = Some(to_timestamp(now() - TimeDelta::hours(2)));
            },
            &["a"],
        ),
    ];
    for (change, expected) in cases {
        let filter = filter(change);
        let found = all(&shop, list(&shop, filter.clone(), proto::OrderSort::Unspecified))
            .await
            .0;
        assert_eq!(found, expected, "{filter:?}");
        assert_eq!(
            count(&shop, filter.clone()).await,
            (expected.len() as i64, false),
            "{filter:?}"
        );
    }
    Ok(())
}

/// Forgetting a person is deleting a row; nothing finds them afterwards (O-10).
#[tokio::test]
async fn an_erased_customer_is_not_found() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    four(&shop).await;
    let mut tables = service.tables().await;
    sqlx::query("DELETE FROM order_contacts WHERE lower(email) = 'kim@example.org'")
        .execute(&mut tables)
        .await?;
    let by: [Of; 2] = [
        |f| f.customer_email = "kim@example.org".into(),
        |f| f.customer_external_id = "c-2".into(),
    ];
    for change in by {
        assert_eq!(count(&shop, filter(change)).await, (0, false));
    }
    // The order itself stays.
    assert_eq!(count(&shop, filter(|f| f.tag = "vip".into())).await, (1, false));
    Ok(())
}

#[tokio::test]
async fn each_sort_pages_through_everything_once() -> Result<()> {
    use proto::OrderSort as Sort;
    let service = start().await;
    let shop = service.shop();
    four(&shop).await;
    for (sort, expected) in [
        (Sort::PlacedDesc, ["d", "c", "b", "a"]),
        (Sort::PlacedAsc, ["a", "b", "c", "d"]),
        (Sort::TotalDesc, ["d", "b", "a", "c"]),
        (Sort::TotalAsc, ["c", "a", "b", "d"]),
    ] {
        // Walked, and gathered by what they cost.
        let ways: [Of; 2] = [|f| f.currency_code = "EUR".into(), |f| f.total_from = eur(1)];
        for way in ways {
            let request = proto::ListOrdersRequest {
                page_size: 3,
                ..list(&shop, filter(way), sort)
            };
            let (found, pages) = all(&shop, request).await;
            assert_eq!(found, expected, "{sort:?}");
            assert_eq!(pages, 2);
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_token_is_bound_to_filter_and_sort() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    four(&shop).await;
    let request = proto::ListOrdersRequest {
        page_size: 1,
        ..list(
            &shop,
            filter(|f| f.tag = "gift".into()),
            proto::OrderSort::PlacedDesc,
        )
    };
    let page = shop
        .client
        .clone()
        .list_orders(request.clone())
        .await?
        .into_inner();
    let token = page.next_page_token;
    let others = [
        list(
            &shop,
            filter(|f| f.tag = "vip".into()),
            proto::OrderSort::PlacedDesc,
        ),
        list(
            &shop,
            filter(|f| f.tag = "gift".into()),
            proto::OrderSort::PlacedAsc,
        ),
        list(&shop, proto::OrderFilter::default(), proto::OrderSort::PlacedDesc),
    ];
    for other in others {
        let other = proto::ListOrdersRequest {
            page_token: token.clone(),
            ..other
        };
        assert_eq!(
            bad_fields(shop.client.clone().list_orders(other).await),
            ["page_token"]
        );
    }
    // The default sort is the one it stands for.
    let same = proto::ListOrdersRequest {
        page_token: token,
        sort: proto::OrderSort::Unspecified.into(),
        ..request
    };
    assert_eq!(
        shop.client
            .clone()
            .list_orders(same)
            .await?
            .into_inner()
            .orders
            .len(),
        1
    );
    Ok(())
}

#[tokio::test]
async fn everything_wrong_with_a_filter_is_named_at_once() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let bad = proto::ListOrdersRequest {
        status: proto::OrderStatus::Open.into(),
        page_size: -1,
        sort: 99,
        ..list(
            &shop,
            filter(|f| {
                f.status = proto::OrderStatus::Open.into();
                f.return_status = 17;
                f.placed_from = Some(to_timestamp(now()));
                f.placed_before = Some(to_timestamp(now()));
                f.sku = "x".repeat(101);
                f.customer_email = "a\nb".into();
                f.total_from = eur(2);
                f.total_to = Some(waybill_proto::waybill::r#type::v1::Money {
                    currency_code: "USD".into(),
                    minor_units: 1,
                });
                f.currency_code = "XXQ".into();
            }),
            proto::OrderSort::Unspecified,
        )
    };
    let bad = proto::ListOrdersRequest { sort: 99, ..bad };
    let mut named = bad_fields(shop.client.clone().list_orders(bad).await);
    named.sort();
    assert_eq!(
        named,
        [
            "filter.currency_code",
            "filter.customer_email",
            "filter.placed_before",
            "filter.return_status",
            "filter.sku",
            "filter.total_to",
            "filter.total_to",
            "page_size",
            "sort",
            "status",
        ]
    );
    let unsortable = list(&shop, proto::OrderFilter::default(), proto::OrderSort::TotalAsc);
    assert_eq!(
        bad_fields(shop.client.clone().list_orders(unsortable).await),
        ["sort"]
    );
    Ok(())
}

/// Rare and frequent, the answer is the same: what the orders say when all of them are read.
#[tokio::test]
async fn both_ways_find_the_same() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let mut tables = service.tables().await;
    many::fill(&mut tables, shop.merchant.uuid(), shop.store.uuid(), 12_000).await;
    let cases: [(Of, &str); 7] = [
        (|f| f.sku = "COMMON".into(), "true"),
        (|f| f.sku = "SKU-7".into(), "substr(number, 2)::bigint % 500 = 7"),
        (|f| f.tag = "often".into(), "tags ? 'often'"),
        (|f| f.tag = "seldom".into(), "tags ? 'seldom'"),
        (
            |f| f.customer_email = "buyer77@example.org".into(),
            "substr(number, 2)::bigint % 1000 = 77",
        ),
        (|f| f.total_from = eur(12_900), "total_minor >= 12900"),
        (
            |f| {
                f.sku = "COMMON".into();
                f.status = proto::OrderStatus::Open.into();
            },
            "status = 'OPEN'",
        ),
    ];
    for (change, condition) in cases {
        let expected: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
            "SELECT source_external_id FROM orders WHERE store_id = $1 AND {condition}
             ORDER BY placed_at DESC, order_id DESC"
        )))
        .bind(shop.store.uuid())
        .fetch_all(&mut tables)
        .await?;
        let request = proto::ListOrdersRequest {
            page_size: 200,
            ..list(&shop, filter(change), proto::OrderSort::Unspecified)
        };
        let found: Vec<String> = all(&shop, request).await.0;
        assert_eq!(found, expected, "{condition}");
        assert_eq!(
            count(&shop, filter(change)).await,
            (expected.len() as i64, false),
            "{condition}"
        );
    }
    Ok(())
}

/// A page looks at a bounded number of orders, and says where to go on.
#[tokio::test]
async fn what_stands_far_back_is_found_in_bounded_steps() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let mut tables = service.tables().await;
    many::fill(&mut tables, shop.merchant.uuid(), shop.store.uuid(), 12_000).await;
    sqlx::query("UPDATE orders SET return_status = 'REQUESTED' WHERE number = 'N11999'")
        .execute(&mut tables)
        .await?;
    let wanted = list(
        &shop,
        filter(|f| f.return_status = proto::ReturnStatus::Requested.into()),
        proto::OrderSort::Unspecified,
    );
    assert_eq!(all(&shop, wanted).await, (vec!["n11999".to_owned()], 3));
    Ok(())
}

/// A tag that is changed by whatever means is found as it is now.
#[tokio::test]
async fn the_index_of_tags_follows_the_orders() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    four(&shop).await;
    let mut tables = service.tables().await;
    sqlx::query("UPDATE orders SET tags = '[\"vip\", \"new\", \"new\"]' WHERE source_external_id = 'c'")
        .execute(&mut tables)
        .await?;
    for (tag, orders) in [("gift", 2), ("vip", 2), ("new", 1)] {
        let filter = proto::OrderFilter {
            tag: tag.into(),
            ..proto::OrderFilter::default()
        };
        assert_eq!(count(&shop, filter).await, (orders, false), "{tag}");
    }
    Ok(())
}
