//! SearchOrders: by the beginning of what a person has at hand, literally, within bounds, and nothing personal left behind.

use anyhow::Result;
use chrono::TimeDelta;
use tonic::Status;
use waybill_proto::waybill::order::v1 as proto;
use waybill_rpc::convert::to_timestamp;
use waybill_rpc::fault;

use crate::harness::{now, start};
use crate::many;
use crate::shop::{Shop, bad_fields, order, tea};

fn request(shop: &Shop, query: &str) -> proto::SearchOrdersRequest {
    proto::SearchOrdersRequest {
        merchant_id: shop.merchant.to_string(),
        store_id: shop.store.to_string(),
        query: query.into(),
        ..proto::SearchOrdersRequest::default()
    }
}

async fn page(shop: &Shop, request: proto::SearchOrdersRequest) -> Result<(Vec<String>, String), Status> {
    let page = shop.client.clone().search_orders(request).await?.into_inner();
    let numbers = page.orders.into_iter().map(|order| order.number).collect();
    Ok((numbers, page.next_page_token))
}

/// Everything that is found, by number, in the order it came.
async fn all(shop: &Shop, query: &str) -> Result<Vec<String>, Status> {
    let mut request = request(shop, query);
    let mut found = Vec::new();
    loop {
        let (numbers, next) = page(shop, request.clone()).await?;
        found.extend(numbers);
        if next.is_empty() {
            return Ok(found);
        }
        request.page_token = next;
    }
}

/// An order of a person, placed some hours ago.
fn of(number: &str, hours: i64, name: &str, email: &str, sku: &str) -> proto::NewOrder {
    proto::NewOrder {
        number: number.into(),
        placed_at: Some(to_timestamp(now() - TimeDelta::hours(hours))),
        customer: Some(proto::Customer {
            name: name.into(),
            email: email.into(),
            ..proto::Customer::default()
        }),
        lines: vec![proto::NewOrderLine {
            sku: sku.into(),
            ..tea()
        }],
        ..order(number)
    }
}

async fn people(shop: &Shop) {
    for order in [
        of("#1004", 1, "Änne van der Berg", "Anne@Example.org", "TEA-1"),
        of("1005", 2, "Jo Doe", "jo@example.org", "tea-10"),
        of("AB-10", 3, "Doe", "", "100%_OFF*"),
        of("AB-11", 4, "Joan  Doering ", "joan.d@example.org", "MUG"),
    ] {
        shop.place(order).await;
    }
}

#[tokio::test]
async fn the_beginning_of_anything_at_hand_finds() -> Result<()> {
    let service = start().await;
    let (shop, other) = (service.shop(), service.shop());
    people(&shop).await;
    people(&other).await;
    let cases: [(&str, &[&str]); 18] = [
        // Numbers, with and without what shops write before them.
        ("#1004", &["#1004"]),
        ("1004", &["#1004"]),
        ("100", &["#1004", "1005", "AB-10"]),
        ("AB-1", &["AB-10", "AB-11"]),
        ("04", &[]),
        // Addresses and names, in any case; the last word of a name too.
        ("anne@", &["#1004"]),
        ("JO@EXAMPLE.ORG", &["1005"]),
        ("jo", &["1005", "AB-11"]),
        ("jo doe", &["1005"]),
        ("doe", &["1005", "AB-10", "AB-11"]),
        ("  Doering  ", &["AB-11"]),
        ("ÄNNE", &["#1004"]),
        ("berg", &["#1004"]),
        // Skus.
        ("tea-1", &["#1004", "1005"]),
        ("MUG", &["AB-11"]),
        // No letter means another.
        ("%", &[]),
        ("_o doe", &[]),
        ("100%_off*", &["AB-10"]),
    ];
    for (query, expected) in cases {
        assert_eq!(all(&shop, query).await?, expected, "{query:?}");
    }
    for odd in ["*", "\\", "'", "\" OR 1=1 --", "100__", "𝄞", "\u{10ffff}"] {
        assert!(all(&shop, odd).await?.is_empty(), "{odd:?}");
    }
    Ok(())
}

#[tokio::test]
async fn results_are_newest_first_and_paged() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    people(&shop).await;
    let first = proto::SearchOrdersRequest {
        page_size: 2,
        ..request(&shop, "doe")
    };
    let (numbers, token) = page(&shop, first.clone()).await?;
    assert_eq!(numbers, ["1005", "AB-10"]);
    let second = proto::SearchOrdersRequest {
        page_token: token.clone(),
        ..first
    };
    assert_eq!(
        page(&shop, second).await?,
        (vec!["AB-11".to_owned()], String::new())
    );
    // A token belongs to its query.
    let other = proto::SearchOrdersRequest {
        page_token: token,
        ..request(&shop, "jo")
    };
    assert_eq!(
        bad_fields(shop.client.clone().search_orders(other).await),
        ["page_token"]
    );
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_searched_for_is_refused_with_its_limit() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    for (query, told) in [
        ("x".repeat(10_240), "has 10240 characters; expected at most 254"),
        (String::new(), "is missing; expected 1 to 254 characters"),
        ("   ".to_owned(), "is missing; expected 1 to 254 characters"),
        (
            "a\0b".to_owned(),
            "holds a control character, such as a line break; leave it out",
        ),
    ] {
        let status = page(&shop, request(&shop, &query)).await.expect_err("a refusal");
        assert_eq!(
            fault::bad_fields(&status),
            [("query".to_owned(), told.to_owned())]
        );
        // What was searched for may be somebody's address: it is not repeated.
        assert!(query.trim().is_empty() || !status.message().contains(&query));
    }
    Ok(())
}

#[tokio::test]
async fn a_text_that_thousands_begin_with_is_paged_through_all_the_same() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let mut tables = service.tables().await;
    many::fill(&mut tables, shop.merchant.uuid(), shop.store.uuid(), 6_000).await;
    let newest_first: Vec<String> = sqlx::query_scalar(
        "SELECT number FROM orders WHERE store_id = $1 ORDER BY placed_at DESC, order_id DESC",
    )
    .bind(shop.store.uuid())
    .fetch_all(&mut tables)
    .await?;
    // Walked, for all orders have it; and gathered, for few have.
    assert_eq!(all(&shop, "buyer").await?, newest_first);
    assert_eq!(
        all(&shop, "nr77").await?,
        newest_first_of(&newest_first, 77, 1000)
    );
    assert_eq!(
        all(&shop, "sku-123").await?,
        newest_first_of(&newest_first, 123, 500)
    );
    Ok(())
}

/// The numbers `N<n>` whose n leaves this rest, or one that begins with the same digits.
fn newest_first_of(all: &[String], rest: i64, modulus: i64) -> Vec<String> {
    let begins = |number: &&String| {
        let n: i64 = number[1..].parse().expect("a number");
        (n % modulus).to_string().starts_with(&rest.to_string())
    };
    all.iter().filter(begins).cloned().collect()
}

/// O-10: with the contact goes whatever could find it.
#[tokio::test]
async fn an_erased_person_is_not_found() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    people(&shop).await;
    let mut tables = service.tables().await;
    sqlx::query("DELETE FROM order_contacts WHERE email = 'jo@example.org'")
        .execute(&mut tables)
        .await?;
    assert!(all(&shop, "jo@").await?.is_empty());
    assert_eq!(all(&shop, "doe").await?, ["AB-10", "AB-11"]);
    assert_eq!(all(&shop, "1005").await?, ["1005"]);
    Ok(())
}
