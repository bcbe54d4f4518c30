//! BatchPlaceOrders: one outcome per message, a bad order fails alone, the same thing twice is one effect.

use anyhow::Result;
use tonic::Code;
use waybill_proto::waybill::order::v1 as proto;
use waybill_proto::waybill::order::v1::PlaceOrderResult::{Duplicate, Placed, Refused};

use crate::harness::{start, start_with};
use crate::shop::{eur, order, refusal, tea};

fn named(request_id: &str, order: proto::NewOrder) -> (String, proto::NewOrder) {
    (request_id.to_owned(), order)
}

#[tokio::test]
async fn a_bad_order_fails_alone() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let before = shop
        .place(proto::NewOrder {
            number: "7".into(),
            ..order("0")
        })
        .await;
    let mut off = order("2");
    off.totals = Some(proto::OrderTotals {
        total: eur(1),
        ..proto::OrderTotals::default()
    });
    let outcomes = shop
        .batch(vec![
            named("a", order("1")),
            named("b", off),
            named("", order("3")),
            named(
                "d",
                proto::NewOrder {
                    number: "7".into(),
                    ..order("4")
                },
            ),
            named("e", order("0")),
            named("f", order("5")),
        ])
        .await?;
    let results: Vec<_> = outcomes
        .iter()
        .map(|o| (o.index, o.result(), o.reason.as_str()))
        .collect();
    assert_eq!(
        results,
        [
            (0, Placed, ""),
            (1, Refused, "TOTALS_MISMATCH"),
            (2, Refused, "INVALID_REQUEST"),
            (3, Refused, "NUMBER_TAKEN"),
            (4, Duplicate, ""),
            (5, Placed, ""),
        ]
    );
    assert!(
        outcomes[1].message.contains("order.totals.total"),
        "{}",
        outcomes[1].message
    );
    assert_eq!(outcomes[4].order_id, before.order_id);
    assert_eq!(outcomes[4].lines, before.lines);
    for placed in [&outcomes[0], &outcomes[5]] {
        let kept = shop.get(&placed.order_id).await?;
        assert_eq!(
            (&kept.number, kept.version, &kept.lines),
            (&placed.number, placed.version, &placed.lines)
        );
    }
    Ok(())
}

/// O-8 inside one batch and across two, whether the two stand in one transaction or in several.
#[tokio::test]
async fn the_same_thing_twice_is_one_effect() -> Result<()> {
    for orders_at_once in [1, 2, 200] {
        let service = start_with(|config| config.placing.orders = orders_at_once).await;
        let shop = service.shop();
        let batch = || {
            vec![
                named("a", order("1")),
                // The same message again, the same order under another id, another order under the same id.
                named("a", order("1")),
                named("b", order("1")),
                named("a", order("2")),
                named("c", order("3")),
            ]
        };
        let first = shop.batch(batch()).await?;
        let results: Vec<_> = first.iter().map(|o| (o.result(), o.reason.as_str())).collect();
        assert_eq!(
            results,
            [
                (Placed, ""),
                (Duplicate, ""),
                (Duplicate, ""),
                (Refused, "REQUEST_ID_REUSED"),
                (Placed, "")
            ],
            "{orders_at_once} at once"
        );
        assert_eq!(first[1].order_id, first[0].order_id);
        assert_eq!(first[2].order_id, first[0].order_id);
        assert_eq!(first[2].lines, first[0].lines);

        let second = shop.batch(batch()).await?;
        let results: Vec<_> = second
            .iter()
            .map(|o| (o.result(), o.order_id == first[0].order_id))
            .collect();
        let again = (Duplicate, true);
        assert_eq!(
            results,
            [again, again, again, (Refused, false), (Duplicate, false)]
        );
        assert_eq!(second[4].order_id, first[4].order_id);

        let counts: (i64, i64) =
            sqlx::query_as("SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM event_log)")
                .fetch_one(&mut service.tables().await)
                .await?;
        assert_eq!(counts, (2, 2));
    }
    Ok(())
}

/// The second of two orders of one source is not lost with the first.
#[tokio::test]
async fn a_refused_twin_does_not_take_the_other_along() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    shop.place(proto::NewOrder {
        number: "7".into(),
        ..order("0")
    })
    .await;
    let outcomes = shop
        .batch(vec![
            named(
                "a",
                proto::NewOrder {
                    number: "7".into(),
                    ..order("1")
                },
            ),
            named(
                "b",
                proto::NewOrder {
                    number: "8".into(),
                    ..order("1")
                },
            ),
        ])
        .await?;
    let results: Vec<_> = outcomes
        .iter()
        .map(|o| (o.result(), o.reason.as_str(), o.number.as_str()))
        .collect();
    assert_eq!(results, [(Refused, "NUMBER_TAKEN", ""), (Placed, "", "8")]);
    Ok(())
}

/// More than one transaction holds, of several sizes, in order.
#[tokio::test]
async fn a_long_batch_is_placed_in_its_order() -> Result<()> {
    let service = start_with(|config| config.placing.lines = 100).await;
    let shop = service.shop();
    let orders: Vec<_> = (0..500)
        .map(|n: usize| {
            let mut new = order(&n.to_string());
            // One in fifty has more lines than a transaction takes with others.
            let lines = if n % 50 == 49 { 150 } else { 1 };
            new.lines = vec![tea(); lines];
            new.totals = Some(proto::OrderTotals {
                total: eur(1000 * lines as i64),
                ..proto::OrderTotals::default()
            });
            named(&format!("r-{n}"), new)
        })
        .collect();
    let outcomes = shop.batch(orders).await?;
    assert_eq!(outcomes.len(), 500);
    for (n, outcome) in outcomes.iter().enumerate() {
        assert_eq!(
            (outcome.index, outcome.result()),
            (n as i32, Placed),
            "{}",
            outcome.message
        );
        assert_eq!(
            outcome.number,
            (1001 + n).to_string(),
            "numbers follow the messages"
        );
    }
    Ok(())
}

/// The access layer looks at every message, not only at the first.
#[tokio::test]
async fn a_message_for_another_store_ends_the_call() -> Result<()> {
    let service = start().await;
    let (shop, other) = (service.shop(), service.shop());
    let message = |shop: &crate::shop::Shop, id: &str| proto::BatchPlaceOrdersRequest {
        merchant_id: shop.merchant.to_string(),
        store_id: shop.store.to_string(),
        request_id: id.into(),
        order: Some(order(id)),
    };
    let messages = vec![message(&shop, "1"), message(&other, "2")];
    let answer = shop
        .client
        .clone()
        .batch_place_orders(tokio_stream::iter(messages))
        .await;
    let (code, reason) = refusal(answer);
    assert_eq!(
        (code, reason.as_str()),
        (Code::PermissionDenied, "TENANT_MISMATCH")
    );
    Ok(())
}

#[tokio::test]
async fn an_empty_batch_has_no_outcomes() -> Result<()> {
    let service = start().await;
    assert!(service.shop().batch(Vec::new()).await?.is_empty());
    Ok(())
}
