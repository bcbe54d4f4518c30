//! ListOrders: newest first, in pages that stay as they are, bound to their filter.

use anyhow::Result;
use chrono::TimeDelta;
use tonic::Code;
use waybill_proto::waybill::order::v1 as proto;
use waybill_rpc::convert::to_timestamp;

use crate::harness::{now, start};
use crate::shop::{Shop, bad_fields, order, refusal};

fn list(shop: &Shop) -> proto::ListOrdersRequest {
    proto::ListOrdersRequest {
        merchant_id: shop.merchant.to_string(),
        store_id: shop.store.to_string(),
        ..proto::ListOrdersRequest::default()
    }
}

fn placed_at(external_id: &str, hours_ago: i64) -> proto::NewOrder {
    proto::NewOrder {
        placed_at: Some(to_timestamp(now() - TimeDelta::hours(hours_ago))),
        ..order(external_id)
    }
}

async fn page(shop: &Shop, request: proto::ListOrdersRequest) -> (Vec<String>, String) {
    let page = shop
        .client
        .clone()
        .list_orders(request)
        .await
        .expect("a page")
        .into_inner();
    let ids = page
        .orders
        .into_iter()
        .map(|order| order.source.expect("it has one").external_id)
        .collect();
    (ids, page.next_page_token)
}

/// Orders that come or change while a reader pages do not move the pages.
#[tokio::test]
async fn pages_are_stable() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    // Two of the same second: the id decides.
    for (id, hours) in [
        ("a", 1),
        ("b", 2),
        ("c", 3),
        ("d", 3),
        ("e", 4),
        ("f", 5),
        ("g", 6),
    ] {
        shop.place(placed_at(id, hours)).await;
    }
    let request = proto::ListOrdersRequest {
        page_size: 3,
        ..list(&shop)
    };
    let (first, token) = page(&shop, request.clone()).await;
    assert_eq!(first, ["a", "b", "d"]);

    shop.place(placed_at("newer", 0)).await;
    let late = shop.place(placed_at("late", 4)).await;
    shop.capture(&late.order_id, "pay", 1000).await?;
    let second = proto::ListOrdersRequest {
        page_token: token,
        ..request.clone()
    };
    let (ids, token) = page(&shop, second.clone()).await;
    assert_eq!(ids, ["c", "late", "e"]);
    assert_eq!(
        page(&shop, second).await.0,
        ids,
        "the same token gives the same page"
    );
    let (ids, token) = page(
        &shop,
        proto::ListOrdersRequest {
            page_token: token,
            ..request
        },
    )
    .await;
    assert_eq!((ids, token.as_str()), (vec!["f".to_owned(), "g".to_owned()], ""));
    Ok(())
}

#[tokio::test]
async fn filters_choose() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    for (id, hours) in [("a", 1), ("b", 2), ("c", 3), ("d", 4)] {
        shop.place(placed_at(id, hours)).await;
    }
    let b = shop.get_by(key("b")).await?.order_id;
    let c = shop.get_by(key("c")).await?.order_id;
    shop.capture(&b, "pay-b", 1000).await?;
    shop.cancel("cancel-c", &c, "").await?;

    use proto::{FulfillmentStatus, OrderStatus, PaymentStatus};
    let of = |change: fn(&mut proto::ListOrdersRequest)| {
        let mut request = list(&shop);
        change(&mut request);
        request
    };
    let cases: Vec<(proto::ListOrdersRequest, &[&str])> = vec![
        (of(|r| r.status = OrderStatus::Open.into()), &["a", "b", "d"]),
        (of(|r| r.status = OrderStatus::Cancelled.into()), &["c"]),
        (of(|r| r.status = OrderStatus::OnHold.into()), &[]),
        (of(|r| r.payment_status = PaymentStatus::Paid.into()), &["b"]),
        (
            of(|r| {
                r.status = OrderStatus::Open.into();
                r.payment_status = PaymentStatus::Pending.into();
                r.fulfillment_status = FulfillmentStatus::Unfulfilled.into();
            }),
            &["a", "d"],
        ),
        (
            of(|r| r.fulfillment_status = FulfillmentStatus::Delivered.into()),
            &[],
        ),
        (
            of(|r| r.placed_from = Some(to_timestamp(now() - TimeDelta::hours(2)))),
            &["a", "b"],
        ),
        (
            of(|r| r.placed_before = Some(to_timestamp(now() - TimeDelta::hours(2)))),
            &["c", "d"],
        ),
    ];
    for (request, expected) in cases {
        assert_eq!(
            page(&shop, request).await,
            (
                expected.iter().map(|id| (*id).to_owned()).collect(),
                String::new()
            )
        );
    }
    Ok(())
}

fn key(external_id: &str) -> proto::get_order_request::Key {
    proto::get_order_request::Key::Source(proto::OrderSource {
        system: "api".into(),
        external_id: external_id.into(),
    })
}

#[tokio::test]
async fn a_token_is_bound_to_its_list() -> Result<()> {
    let service = start().await;
    let (shop, other) = (service.shop(), service.shop());
    for id in ["a", "b"] {
        shop.place(order(id)).await;
    }
    let (_, token) = page(
        &shop,
        proto::ListOrdersRequest {
            page_size: 1,
            ..list(&shop)
        },
    )
    .await;
    let bound: [(&Shop, proto::ListOrdersRequest); 3] = [
        (
            &shop,
            proto::ListOrdersRequest {
                status: proto::OrderStatus::Open.into(),
                ..list(&shop)
            },
        ),
        (&other, list(&other)),
        (
            &shop,
            proto::ListOrdersRequest {
                page_token: "nonsense".into(),
                ..list(&shop)
            },
        ),
    ];
    for (asking, request) in bound {
        let token = if request.page_token.is_empty() {
            token.clone()
        } else {
            request.page_token.clone()
        };
        let request = proto::ListOrdersRequest {
            page_token: token,
            ..request
        };
        assert_eq!(
            bad_fields(asking.client.clone().list_orders(request).await),
            ["page_token"]
        );
    }
    let bad = proto::ListOrdersRequest {
        page_size: -1,
        status: 99,
        ..list(&shop)
    };
    assert_eq!(
        bad_fields(shop.client.clone().list_orders(bad.clone()).await),
        ["page_size", "status"]
    );
    assert_eq!(
        refusal(shop.client.clone().list_orders(bad).await).0,
        Code::InvalidArgument
    );
    // More than is allowed is as much as is allowed.
    let (ids, _) = page(
        &shop,
        proto::ListOrdersRequest {
            page_size: 1_000_000,
            ..list(&shop)
        },
    )
    .await;
    assert_eq!(ids.len(), 2);
    Ok(())
}
