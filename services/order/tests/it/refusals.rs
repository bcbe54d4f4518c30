//! Bad input: clear errors, nothing lost, nothing written.

use anyhow::Result;
use chrono::TimeDelta;
use tonic::Code;
use waybill_proto::waybill::order::v1 as proto;
use waybill_proto::waybill::r#type::v1::Money;
use waybill_rpc::convert::to_timestamp;
use waybill_rpc::fault;

use crate::harness::{now, start};
use crate::shop::{Shop, bad_fields, eur, order, refusal, tea};

async fn refused_fields(shop: &Shop, change: impl FnOnce(&mut proto::NewOrder)) -> Vec<String> {
    let mut bad = order("bad");
    change(&mut bad);
    bad_fields(shop.try_place("bad", bad).await)
}

#[tokio::test]
async fn totals_that_do_not_add_up_are_named_with_the_difference() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let mut wrong = order("1");
    wrong.totals = Some(proto::OrderTotals {
        tax: eur(66),
        total: eur(999),
        ..proto::OrderTotals::default()
    });
    let status = shop.try_place("r", wrong).await.expect_err("it is a cent off");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(fault::reason(&status).as_deref(), Some("TOTALS_MISMATCH"));
    assert_eq!(
        fault::bad_fields(&status),
        [
            (
                "order.totals.tax".to_owned(),
                "expected 0.65 EUR (all taxes of lines and shipping), given 0.66 EUR: a difference of 0.01 EUR".to_owned()
            ),
            (
                "order.totals.total".to_owned(),
                "expected 10.00 EUR (subtotal less discounts plus shipping, plus tax where prices are without), given \
                 9.99 EUR: a difference of -0.01 EUR"
                    .to_owned()
            ),
        ]
    );
    assert!(
        status.message().contains("a difference of -0.01 EUR"),
        "{}",
        status.message()
    );
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_read_does_not_hide_the_rest() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let fields = refused_fields(&shop, |bad| {
        bad.lines[0].unit_price = Some(Money {
            currency_code: "EURO".into(),
            minor_units: 500,
        });
        bad.lines[0].sku = String::new();
        bad.tags = vec!["x".repeat(101)];
    })
    .await;
    assert_eq!(
        fields,
        [
            "order.lines[0].unit_price.currency_code",
            "order.tags[0]",
            "order.lines[0].sku"
        ]
    );
    Ok(())
}

#[tokio::test]
async fn totals_that_cannot_be_compared_are_no_difference() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let mut foreign = order("1");
    foreign.totals = Some(proto::OrderTotals {
        total: Some(Money {
            currency_code: "USD".into(),
            minor_units: 1000,
        }),
        ..proto::OrderTotals::default()
    });
    let status = shop
        .try_place("r", foreign)
        .await
        .expect_err("the total is in another currency");
    assert_eq!(fault::reason(&status).as_deref(), Some("INVALID_REQUEST"));
    Ok(())
}

#[tokio::test]
async fn every_bad_field_is_named_at_once() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let usd = || {
        Some(Money {
            currency_code: "USD".into(),
            minor_units: 500,
        })
    };
    let fields = refused_fields(&shop, |bad| {
        bad.source = Some(proto::OrderSource {
            system: "API".into(),
            external_id: String::new(),
        });
        bad.placed_at = Some(to_timestamp(now() + TimeDelta::minutes(6)));
        bad.lines.push(proto::NewOrderLine {
            unit_price: usd(),
            sku: String::new(),
            ..tea()
        });
        bad.lines.push(proto::NewOrderLine {
            unit_price: eur(-1),
            quantity: 0,
            ..tea()
        });
        bad.tags = vec!["x".repeat(101)];
    })
    .await;
    assert_eq!(
        fields,
        [
            "order.source.system",
            "order.source.external_id",
            "order.placed_at",
            "order.tags[0]",
            "order.lines[1].sku",
            "order.lines[1].unit_price",
            "order.lines[2].unit_price",
            "order.lines[2].quantity",
        ]
    );
    Ok(())
}

#[tokio::test]
async fn amounts_that_cannot_be_are_refused() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let cases: Vec<(Vec<String>, &[&str])> = vec![
        (
            refused_fields(&shop, |bad| bad.currency_code = "EURO".into()).await,
            &["order.currency_code"],
        ),
        (
            refused_fields(&shop, |bad| bad.currency_code = String::new()).await,
            &["order.currency_code"],
        ),
        (
            refused_fields(&shop, |bad| bad.currency_code = "USD".into()).await,
            &[
                "order.lines[0].unit_price",
                "order.lines[0].taxes[0].amount",
                "order.totals.total",
            ],
        ),
        (
            refused_fields(&shop, |bad| bad.lines[0].unit_price = None).await,
            &["order.lines[0].unit_price"],
        ),
        (
            refused_fields(&shop, |bad| bad.lines[0].unit_price = eur(i64::MAX)).await,
            &["order.lines[0].unit_price"],
        ),
        (
            refused_fields(&shop, |bad| bad.lines[0].taxes[0].amount = eur(-1)).await,
            &["order.lines[0].taxes[0].amount"],
        ),
        (
            refused_fields(&shop, |bad| bad.lines[0].taxes[0].amount = eur(1001)).await,
            &["order.lines[0].taxes"],
        ),
        (
            refused_fields(&shop, |bad| bad.lines[0].quantity = i32::MIN).await,
            &["order.lines[0].quantity"],
        ),
        (
            refused_fields(&shop, |bad| {
                bad.discounts = vec![proto::Discount {
                    amount: eur(1001),
                    ..proto::Discount::default()
                }];
            })
            .await,
            &["order.discounts"],
        ),
        (
            refused_fields(&shop, |bad| bad.totals = None).await,
            &["order.totals.total"],
        ),
        (
            refused_fields(&shop, |bad| {
                bad.totals = Some(proto::OrderTotals {
                    total: Some(Money {
                        currency_code: "USD".into(),
                        minor_units: 1000,
                    }),
                    ..proto::OrderTotals::default()
                });
            })
            .await,
            &["order.totals.total"],
        ),
        (
            refused_fields(&shop, |bad| bad.presentment_currency_code = "JPY".into()).await,
            &["order.presentment_total"],
        ),
    ];
    for (fields, expected) in cases {
        assert_eq!(fields, expected);
    }
    Ok(())
}

#[tokio::test]
async fn one_line_more_than_ten_thousand_is_refused() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let fields = refused_fields(&shop, |bad| {
        bad.lines = vec![tea(); 10_001];
        bad.totals = Some(proto::OrderTotals {
            total: eur(10_001_000),
            ..proto::OrderTotals::default()
        });
    })
    .await;
    assert_eq!(fields, ["order.lines"]);
    let fields = refused_fields(&shop, |bad| bad.lines.clear()).await;
    assert_eq!(fields[0], "order.lines");
    Ok(())
}

/// An order within every limit may still be too much for one event.
#[tokio::test]
async fn an_order_that_fits_no_event_is_refused_with_the_reason() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let mut bulky = order("1");
    let line = proto::NewOrderLine {
        sku: "s".repeat(100),
        category: "c".repeat(200),
        ..tea()
    };
    bulky.lines = vec![line; 9_000];
    bulky.totals = Some(proto::OrderTotals {
        total: eur(9_000_000),
        ..proto::OrderTotals::default()
    });
    let (code, reason) = refusal(shop.try_place("r", bulky).await);
    assert_eq!(
        (code, reason.as_str()),
        (Code::InvalidArgument, "ORDER_TOO_LARGE")
    );
    Ok(())
}

#[tokio::test]
async fn requests_without_names_are_refused() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    assert_eq!(bad_fields(shop.try_place("", order("1")).await), ["request_id"]);
    assert_eq!(
        bad_fields(shop.try_place(&"x".repeat(101), order("1")).await),
        ["request_id"]
    );
    assert_eq!(
        bad_fields(shop.try_place("ключ", order("1")).await),
        ["request_id"]
    );
    let mut empty = shop.request("r", order("1"));
    empty.order = None;
    assert_eq!(
        bad_fields(shop.client.clone().place_order(empty).await),
        ["order"]
    );
    Ok(())
}

/// Whatever was refused leaves no row, no event and no request key behind: the same request id may be used again.
#[tokio::test]
async fn a_refusal_leaves_nothing_behind() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    shop.place(proto::NewOrder {
        number: "7".into(),
        ..order("1")
    })
    .await;
    let taken = proto::NewOrder {
        number: "7".into(),
        ..order("2")
    };
    let (code, reason) = refusal(shop.try_place("r-2", taken).await);
    assert_eq!((code, reason.as_str()), (Code::AlreadyExists, "NUMBER_TAKEN"));

    let count = "SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM event_log), (SELECT count(*) FROM idempotency)";
    let counts: (i64, i64, i64) = sqlx::query_as(count)
        .fetch_one(&mut service.tables().await)
        .await?;
    assert_eq!(counts, (1, 1, 1));
    let placed = shop
        .try_place(
            "r-2",
            proto::NewOrder {
                number: "8".into(),
                ..order("2")
            },
        )
        .await?;
    assert_eq!(placed.number, "8");
    Ok(())
}
