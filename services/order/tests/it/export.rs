//! ExportOrders: everything that was there, once, whole, from any cursor on (O-17).

use std::collections::HashSet;

use anyhow::Result;
use chrono::TimeDelta;
use futures_util::StreamExt as _;
use tonic::Code;
use waybill_proto::waybill::order::v1 as proto;
use waybill_rpc::convert::to_timestamp;
use waybill_testkit::eventually;

use crate::harness::{now, start, start_with};
use crate::many;
use crate::shop::{Shop, bad_fields, order, refusal};

fn request(shop: &Shop) -> proto::ExportOrdersRequest {
    proto::ExportOrdersRequest {
        merchant_id: shop.merchant.to_string(),
        store_id: shop.store.to_string(),
        ..proto::ExportOrdersRequest::default()
    }
}

/// All steps of an export, to its end.
async fn all(shop: &Shop, request: proto::ExportOrdersRequest) -> Vec<proto::ExportOrdersResponse> {
    let stream = shop
        .client
        .clone()
        .export_orders(request)
        .await
        .expect("an export");
    stream
        .into_inner()
        .map(|step| step.expect("a step"))
        .collect()
        .await
}

fn ids(steps: &[proto::ExportOrdersResponse]) -> Vec<String> {
    let orders = steps.iter().filter_map(|step| step.order.as_ref());
    orders.map(|order| order.order_id.clone()).collect()
}

#[tokio::test]
async fn orders_come_whole_and_oldest_first() -> Result<()> {
    let service = start().await;
    let (shop, other) = (service.shop(), service.shop());
    for (id, hours) in [("a", 3), ("b", 1), ("c", 2)] {
        let placed_at = Some(to_timestamp(now() - TimeDelta::hours(hours)));
        shop.place(proto::NewOrder {
            placed_at,
            ..order(id)
        })
        .await;
    }
    other.place(order("x")).await;
    let steps = all(&shop, request(&shop)).await;
    let sources: Vec<String> = steps
        .iter()
        .filter_map(|step| step.order.clone()?.source)
        .map(|source| source.external_id)
        .collect();
    assert_eq!(sources, ["a", "c", "b"]);
    for step in steps {
        let exported = step.order.expect("all pass");
        assert_eq!(exported, shop.get(&exported.order_id).await?);
    }
    Ok(())
}

/// Wherever a stream broke, the rest is exactly the rest, whatever was placed meanwhile.
#[tokio::test]
async fn an_export_goes_on_where_it_was() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let mut tables = service.tables().await;
    many::fill(&mut tables, shop.merchant.uuid(), shop.store.uuid(), 350).await;
    let whole = all(&shop, request(&shop)).await;
    let expected = ids(&whole);
    assert_eq!(expected.len(), 350);
    assert_eq!(expected.iter().collect::<HashSet<_>>().len(), 350, "each once");
    // Within a page, at its end, at the beginning of the next, at the very end.
    for taken in [1, 37, 99, 100, 101, 349, 350] {
        let rest = proto::ExportOrdersRequest {
            cursor: whole[taken - 1].cursor.clone(),
            ..request(&shop)
        };
        assert_eq!(ids(&all(&shop, rest).await), expected[taken..], "after {taken}");
    }
    // Orders that come while a stream runs do not move those that were there.
    let mut stream = shop
        .client
        .clone()
        .export_orders(request(&shop))
        .await?
        .into_inner();
    let mut seen = vec![stream.next().await.expect("a step")?];
    for (id, hours) in [("older", 9_000), ("within", 2), ("newer", 0)] {
        let placed_at = Some(to_timestamp(now() - TimeDelta::hours(hours)));
        shop.place(proto::NewOrder {
            placed_at,
            ..order(id)
        })
        .await;
    }
    while let Some(step) = stream.next().await {
        seen.push(step?);
    }
    let seen: HashSet<String> = ids(&seen).into_iter().collect();
    assert!(expected.iter().all(|id| seen.contains(id)));
    Ok(())
}

/// A filter that few pass: the cursor moves on all the same, and the rest comes from there.
#[tokio::test]
async fn what_does_not_pass_is_not_walked_twice() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let mut tables = service.tables().await;
    many::fill(&mut tables, shop.merchant.uuid(), shop.store.uuid(), 11_000).await;
    sqlx::query("UPDATE orders SET return_status = 'REQUESTED' WHERE number IN ('N10', 'N10900')")
        .execute(&mut tables)
        .await?;
    let wanted = proto::ExportOrdersRequest {
        filter: Some(proto::OrderFilter {
            return_status: proto::ReturnStatus::Requested.into(),
            ..proto::OrderFilter::default()
        }),
        ..request(&shop)
    };
    let steps = all(&shop, wanted.clone()).await;
    let shape: Vec<Option<String>> = steps
        .iter()
        .map(|step| step.order.as_ref().map(|order| order.number.clone()))
        .collect();
    let number = |n: &str| Some(n.to_owned());
    assert_eq!(shape, [number("N10900"), None, None, number("N10")]);
    let rest = proto::ExportOrdersRequest {
        cursor: steps[2].cursor.clone(),
        ..wanted
    };
    assert_eq!(all(&shop, rest).await.len(), 1);
    Ok(())
}

#[tokio::test]
async fn exports_are_bounded_and_bound_to_their_filter() -> Result<()> {
    let service = start_with(|config| config.max_exports = 1).await;
    let (shop, other) = (service.shop(), service.shop());
    let mut tables = service.tables().await;
    many::fill(&mut tables, shop.merchant.uuid(), shop.store.uuid(), 3_000).await;
    let cursor = {
        // Nobody reads on: a page is made and the stream waits.
        let mut first = shop
            .client
            .clone()
            .export_orders(request(&shop))
            .await?
            .into_inner();
        let step = first.next().await.expect("a step")?;
        assert_eq!(
            refusal(
                shop.client
                    .clone()
                    .export_orders(request(&shop))
                    .await
                    .map(|_| ())
            ),
            (Code::ResourceExhausted, "TOO_MANY_EXPORTS".to_owned())
        );
        step.cursor
    };
    // A stream that was given up leaves its seat.
    eventually("a free seat", crate::harness::SOON, || async {
        shop.client
            .clone()
            .export_orders(request(&shop))
            .await
            .ok()
            .map(|_| ())
    })
    .await;
    for (asking, filter, cursor) in [
        (
            &shop,
            Some(proto::OrderFilter {
                sku: "x".into(),
                ..Default::default()
            }),
            cursor.clone(),
        ),
        (&other, None, cursor),
        (&shop, None, "nonsense".to_owned()),
    ] {
        let request = proto::ExportOrdersRequest {
            filter,
            cursor,
            ..request(asking)
        };
        assert_eq!(
            bad_fields(asking.client.clone().export_orders(request).await.map(|_| ())),
            ["cursor"]
        );
    }
    Ok(())
}
