//! Reading: found by every name, only by who may, and only in the store it belongs to.

use anyhow::Result;
use tonic::Code;
use waybill_kernel::id::{OrderId, StoreId};
use waybill_proto::waybill::order::v1 as proto;
use waybill_proto::waybill::order::v1::get_order_request::Key;

use crate::harness::start;
use crate::shop::{Shop, bad_fields, eur, order, refusal, tea};

fn batch_get(shop: &Shop, ids: Vec<String>) -> proto::BatchGetOrdersRequest {
    proto::BatchGetOrdersRequest {
        merchant_id: shop.merchant.to_string(),
        store_id: shop.store.to_string(),
        order_ids: ids,
    }
}

/// Every method that names an order answers NOT_FOUND for one of another store, also of the same merchant.
#[tokio::test]
async fn an_order_of_another_store_does_not_exist() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let placed = shop.place(order("1")).await;
    let second = StoreId::generate();
    let neighbour = Shop {
        merchant: shop.merchant,
        store: second,
        client: service.client(shop.merchant, &[shop.store, second]),
    };

    let not_found = (Code::NotFound, "ORDER_NOT_FOUND".to_owned());
    for other in [service.shop(), neighbour] {
        for key in [
            Key::OrderId(placed.order_id.clone()),
            Key::Number(placed.number.clone()),
            Key::Source(placed.source.clone().expect("it has one")),
        ] {
            assert_eq!(refusal(other.get_by(key).await), not_found);
        }
        assert_eq!(refusal(other.cancel("c", &placed.order_id, "").await), not_found);
        assert_eq!(
            refusal(other.capture(&placed.order_id, "pay", 1).await),
            not_found
        );
        let timeline = proto::GetTimelineRequest {
            merchant_id: other.merchant.to_string(),
            store_id: other.store.to_string(),
            order_id: placed.order_id.clone(),
        };
        assert_eq!(
            refusal(other.client.clone().get_timeline(timeline).await),
            not_found
        );
        let request = batch_get(&other, vec![placed.order_id.clone()]);
        let found = other.client.clone().batch_get_orders(request).await?;
        assert!(found.into_inner().orders.is_empty());
        let list = proto::ListOrdersRequest {
            merchant_id: other.merchant.to_string(),
            store_id: other.store.to_string(),
            ..proto::ListOrdersRequest::default()
        };
        assert!(
            other
                .client
                .clone()
                .list_orders(list)
                .await?
                .into_inner()
                .orders
                .is_empty()
        );
    }
    assert_eq!(shop.get(&placed.order_id).await?, placed, "nobody changed it");
    Ok(())
}

#[tokio::test]
async fn many_are_read_in_the_order_they_are_asked_for() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let (first, second) = (shop.place(order("1")).await, shop.place(order("2")).await);
    let unknown = OrderId::generate().to_string();
    let request = batch_get(
        &shop,
        vec![second.order_id.clone(), unknown, first.order_id.clone()],
    );
    let found = shop
        .client
        .clone()
        .batch_get_orders(request)
        .await?
        .into_inner()
        .orders;
    assert_eq!(found, [second, first]);

    let too_many = batch_get(&shop, vec![OrderId::generate().to_string(); 201]);
    assert_eq!(
        bad_fields(shop.client.clone().batch_get_orders(too_many).await),
        ["order_ids"]
    );
    let malformed = batch_get(&shop, vec![OrderId::generate().to_string(), "7".into()]);
    assert_eq!(
        bad_fields(shop.client.clone().batch_get_orders(malformed).await),
        ["order_ids[1]"]
    );
    Ok(())
}

#[tokio::test]
async fn an_answer_has_a_limit() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let mut ids = Vec::new();
    for n in 0..3 {
        let mut large = order(&n.to_string());
        large.lines = vec![tea(); 7_000];
        large.totals = Some(proto::OrderTotals {
            total: eur(7_000_000),
            ..proto::OrderTotals::default()
        });
        ids.push(shop.place(large).await.order_id);
    }
    let answer = shop.client.clone().batch_get_orders(batch_get(&shop, ids)).await;
    let (code, reason) = refusal(answer);
    assert_eq!(
        (code, reason.as_str()),
        (Code::InvalidArgument, "ANSWER_TOO_LARGE")
    );

    // A page is cut short instead, and says where it goes on.
    let list = proto::ListOrdersRequest {
        merchant_id: shop.merchant.to_string(),
        store_id: shop.store.to_string(),
        ..proto::ListOrdersRequest::default()
    };
    let page = shop.client.clone().list_orders(list.clone()).await?.into_inner();
    assert_eq!(page.orders.len(), 2);
    let rest = proto::ListOrdersRequest {
        page_token: page.next_page_token,
        ..list
    };
    let page = shop.client.clone().list_orders(rest).await?.into_inner();
    assert_eq!((page.orders.len(), page.next_page_token.as_str()), (1, ""));
    Ok(())
}

#[tokio::test]
async fn an_order_is_named_in_one_way() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    assert_eq!(
        bad_fields(shop.get_by(Key::OrderId("7".into())).await),
        ["order_id"]
    );
    assert_eq!(
        bad_fields(shop.get_by(Key::Number(String::new())).await),
        ["number"]
    );
    let source = proto::OrderSource {
        system: "API".into(),
        external_id: String::new(),
    };
    assert_eq!(
        bad_fields(shop.get_by(Key::Source(source)).await),
        ["source.system", "source.external_id"]
    );
    let request = proto::GetOrderRequest {
        merchant_id: shop.merchant.to_string(),
        store_id: shop.store.to_string(),
        key: None,
    };
    assert_eq!(bad_fields(shop.client.clone().get_order(request).await), ["key"]);
    Ok(())
}
