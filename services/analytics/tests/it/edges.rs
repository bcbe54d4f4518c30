//! Figures with numbers that anyone can check, at the edges where they usually go wrong.

use chrono::TimeDelta;
use tonic::Code;
use waybill_events::FoldError;
use waybill_proto::waybill::analytics::v1 as proto;
use waybill_proto::waybill::order::v1::PaymentRecorded;
use waybill_proto::waybill::refund::v1::{PolicyPublished, RefundCreated, RefundStarted};
use waybill_proto::waybill::r#type::v1::Money;

use crate::support::{Order, Outcome, Refund, Story, World, at, currency_of, fields, period, refusal};

fn gbp(minor_units: i64) -> Option<Money> {
    Some(Money {
        currency_code: "GBP".to_owned(),
        minor_units,
    })
}

fn november(time_zone: &str) -> Option<proto::Period> {
    Some(period(
        at("2026-11-01T00:00:00Z"),
        at("2026-12-01T00:00:00Z"),
        time_zone,
    ))
}

/// An order of 10.00 GBP on 2 November.
fn order() -> Order {
    Order::of(1000, "GBP", at("2026-11-02T12:00:00Z"))
}

fn refund(amount: i64, outcomes: &[Outcome]) -> Refund {
    Refund {
        created: at("2026-11-03T12:00:00Z"),
        amount,
        reason: "damaged",
        outcomes: outcomes.to_vec(),
    }
}

fn succeeded(day: u32) -> Outcome {
    Outcome::Succeeded(at(&format!("2026-11-{day:02}T12:00:00Z")))
}

fn failed(day: u32) -> Outcome {
    Outcome::Failed(at(&format!("2026-11-{day:02}T12:00:00Z")))
}

#[tokio::test]
async fn sums_and_averages() -> anyhow::Result<()> {
    let world = World::start().await?;
    let shop = world.shop()?;
    let big = Order {
        lines: vec![(2, 1500), (1, 400)],
        gross: 2501,
        discounts: 300,
        tax: 396,
        shipping: 205,
        ..order()
    };
    let cancelled = Story {
        cancelled: Some(at("2026-11-03T12:00:00Z")),
        ..order().into()
    };
    let done = Story {
        completed: Some(at("2026-11-04T12:00:00Z")),
        ..big.into()
    };
    world
        .tell(&shop, &[cancelled, done, order().into()], 0, 100)
        .await?;
    let summary = shop.summary(november("")).await?;
    let (orders, refunds) = currency_of(&summary, "GBP");
    assert_eq!(
        orders,
        proto::OrderFigures {
            orders: 3,
            cancelled_orders: 1,
            units: 5,
            // A cancelled order was placed all the same: it counts, and is shown apart.
            gross_sales: gbp(4501),
            net_sales: gbp(3900),
            discounts: gbp(300),
            tax: gbp(396),
            shipping: gbp(205),
            // 1500.33
            average_order_value: gbp(1500),
        }
    );
    assert_eq!(
        refunds,
        proto::RefundFigures {
            refunded: gbp(0),
            ..proto::RefundFigures::default()
        }
    );
    assert_eq!((summary.open_orders, summary.notifications_sent), (1, 0));
    world.end().await
}

#[tokio::test]
async fn a_refund_that_fails_after_it_succeeded_does_not_count() -> anyhow::Result<()> {
    let world = World::start().await?;
    let refunds = [
        refund(100, &[]),
        refund(200, &[failed(4)]),
        refund(400, &[succeeded(4), failed(5)]),
        refund(50, &[succeeded(4)]),
        // Refused, and paid after all, days later: it counts once, on the day it stands since.
        refund(7, &[succeeded(4), failed(5), succeeded(9)]),
    ];
    let stories: Vec<Story> = refunds
        .iter()
        .map(|refund| Story {
            refunds: vec![refund.clone()],
            ..order().into()
        })
        .collect();
    // Event by event, and all at once: the last word counts.
    for batch in [1, 100] {
        let shop = world.shop()?;
        let stories = renamed(&stories);
        world.tell(&shop, &stories, 7, batch).await?;
        let (_, seen) = currency_of(&shop.summary(november("")).await?, "GBP");
        assert_eq!(
            (seen.refunds, seen.refunded, seen.refunded_orders),
            (2, gbp(57), 2)
        );
        // 2 of 5 orders, 57 of 5000.
        assert_eq!(
            (seen.refund_rate_orders_ppm, seen.refund_rate_value_ppm),
            (400_000, 11_400)
        );
        let days: Vec<(String, i64)> = shop
            .days(november(""))
            .await?
            .into_iter()
            .map(|day| (day.day, day.refunds.unwrap_or_default().refunds))
            .filter(|(_, refunds)| *refunds > 0)
            .collect();
        assert_eq!(days, [("2026-11-04".to_owned(), 1), ("2026-11-09".to_owned(), 1)]);
    }
    world.end().await
}

/// The same stories about other orders.
fn renamed(stories: &[Story]) -> Vec<Story> {
    let rename = |story: &Story| {
        let order = Order {
            id: waybill_kernel::id::OrderId::generate(),
            ..story.order.clone()
        };
        Story {
            order,
            ..story.clone()
        }
    };
    stories.iter().map(rename).collect()
}

#[tokio::test]
async fn two_refunds_of_one_order_are_one_refunded_order() -> anyhow::Result<()> {
    let world = World::start().await?;
    let shop = world.shop()?;
    let story = Story {
        refunds: vec![refund(300, &[succeeded(4)]), refund(200, &[succeeded(5)])],
        ..order().into()
    };
    world
        .tell(&shop, &[story, order().into(), order().into()], 0, 100)
        .await?;
    let (_, seen) = currency_of(&shop.summary(november("")).await?, "GBP");
    assert_eq!(
        (seen.refunds, seen.refunded, seen.refunded_orders),
        (2, gbp(500), 1)
    );
    // A third, rounded half up; 500 of 3000.
    assert_eq!(
        (seen.refund_rate_orders_ppm, seen.refund_rate_value_ppm),
        (333_333, 166_667)
    );
    world.end().await
}

#[tokio::test]
async fn a_period_holds_its_beginning_and_not_its_end() -> anyhow::Result<()> {
    let world = World::start().await?;
    let shop = world.shop()?;
    let (from, before) = (at("2026-11-02T00:00:00Z"), at("2026-11-03T00:00:00Z"));
    let second = TimeDelta::seconds(1);
    let moments = [from - second, from, before - second, before];
    let stories: Vec<Story> = moments
        .iter()
        .map(|moment| Story {
            refunds: vec![refund(10, &[Outcome::Succeeded(*moment)])],
            notifications: vec![("sent", *moment)],
            shipped: vec![*moment],
            ..Order::of(100, "GBP", *moment).into()
        })
        .collect();
    world.tell(&shop, &stories, 0, 100).await?;
    let summary = shop.summary(Some(period(from, before, ""))).await?;
    let (orders, refunds) = currency_of(&summary, "GBP");
    assert_eq!((orders.orders, refunds.refunds), (2, 2));
    assert_eq!((summary.notifications_sent, summary.open_orders), (2, 2));
    assert_eq!(shop.reasons(Some(period(from, before, ""))).await?[0].refunds, 2);
    assert_eq!(
        shop.cycle_times(Some(period(from, before, ""))).await?[0].count,
        2
    );
    // Nothing fits between a moment and itself.
    let nothing = shop.summary(Some(period(from, from, ""))).await?;
    assert_eq!(nothing, proto::GetSummaryResponse::default());
    world.end().await
}

#[tokio::test]
async fn without_a_period_everything_until_now_counts() -> anyhow::Result<()> {
    let world = World::start().await?;
    let shop = world.shop()?;
    // "Now" is 30 November; an order may be placed a little ahead of it.
    let ancient = Order::of(1, "GBP", at("1971-01-01T00:00:00Z"));
    let ahead = Order::of(4, "GBP", at("2026-11-30T00:00:00Z"));
    world
        .tell(&shop, &[ancient.into(), order().into(), ahead.into()], 0, 100)
        .await?;
    let (orders, _) = currency_of(&shop.summary(None).await?, "GBP");
    assert_eq!((orders.orders, orders.gross_sales), (2, gbp(1001)));
    world.clock.advance(TimeDelta::seconds(1));
    let (orders, _) = currency_of(&shop.summary(None).await?, "GBP");
    assert_eq!((orders.orders, orders.gross_sales), (3, gbp(1005)));
    world.end().await
}

#[tokio::test]
async fn currencies_are_never_added_up() -> anyhow::Result<()> {
    let world = World::start().await?;
    let shop = world.shop()?;
    let with_refund = |gross, currency| Story {
        refunds: vec![refund(gross / 2, &[succeeded(4)])],
        ..Order::of(gross, currency, at("2026-11-02T12:00:00Z")).into()
    };
    world
        .tell(
            &shop,
            &[
                with_refund(1000, "GBP"),
                with_refund(500_000, "JPY"),
                with_refund(30, "EUR"),
            ],
            0,
            9,
        )
        .await?;
    let summary = shop.summary(november("")).await?;
    let codes: Vec<&str> = summary
        .currencies
        .iter()
        .map(|of| of.currency_code.as_str())
        .collect();
    assert_eq!(codes, ["EUR", "GBP", "JPY"]);
    for (code, gross) in [("EUR", 30), ("GBP", 1000), ("JPY", 500_000)] {
        let (orders, refunds) = currency_of(&summary, code);
        let money = |minor_units| {
            Some(Money {
                currency_code: code.to_owned(),
                minor_units,
            })
        };
        assert_eq!(
            (orders.gross_sales, refunds.refunded),
            (money(gross), money(gross / 2))
        );
    }
    let reasons = shop.reasons(november("")).await?;
    assert_eq!(
        reasons
            .iter()
            .map(|of| of.currency_code.as_str())
            .collect::<Vec<_>>(),
        ["JPY", "GBP", "EUR"]
    );
    world.end().await
}

#[tokio::test]
async fn reasons_stand_by_what_they_cost() -> anyhow::Result<()> {
    let world = World::start().await?;
    let shop = world.shop()?;
    let because = |reason, amount| Refund {
        reason,
        ..refund(amount, &[succeeded(4)])
    };
    let story = Story {
        refunds: vec![
            because("unwanted", 100),
            because("damaged", 80),
            because("damaged", 70),
            because("zebra", 100),
            Refund {
                reason: "wrong_item",
                ..refund(9999, &[succeeded(4), failed(5)])
            },
        ],
        ..order().into()
    };
    world.tell(&shop, &[story], 0, 100).await?;
    let reasons = shop.reasons(november("")).await?;
    let seen: Vec<_> = reasons
        .iter()
        .map(|of| (of.reason.as_str(), of.refunds, of.refunded.clone()))
        .collect();
    assert_eq!(
        seen,
        [
            ("damaged", 2, gbp(150)),
            ("unwanted", 1, gbp(100)),
            ("zebra", 1, gbp(100))
        ]
    );
    world.end().await
}

#[tokio::test]
async fn quantiles_are_values_that_occurred() -> anyhow::Result<()> {
    let world = World::start().await?;
    let shop = world.shop()?;
    // 1 to 10 hours, in any order; one left before it was placed, by another clock: that is no time and not less.
    let stories: Vec<Story> = [7, 2, 10, 1, 9, 3, 8, 4, 6, 5]
        .into_iter()
        .map(|hours| {
            let order = order();
            Story {
                shipped: vec![order.placed + TimeDelta::hours(hours)],
                ..order.into()
            }
        })
        .collect();
    world.tell(&shop, &stories, 3, 4).await?;
    let steps = shop.cycle_times(november("")).await?;
    let names: Vec<&str> = steps.iter().map(|step| step.step.as_str()).collect();
    assert_eq!(
        names,
        [
            "placed_to_shipped",
            "shipped_to_delivered",
            "return_requested_to_refunded",
            "refund_created_to_succeeded"
        ]
    );
    let of = |step: &proto::CycleTime| {
        (
            step.count,
            step.p50_seconds / 3600,
            step.p90_seconds / 3600,
            step.p99_seconds / 3600,
        )
    };
    assert_eq!(of(&steps[0]), (10, 5, 9, 10));
    assert!(
        steps[1..].iter().all(|step| of(step) == (0, 0, 0, 0)),
        "{steps:?}"
    );

    let early = order();
    let early = Story {
        shipped: vec![early.placed - TimeDelta::hours(2)],
        ..early.into()
    };
    world.tell(&shop, &[early], 0, 1).await?;
    // Eleven values now, the least of them 0: the sixth, the tenth and the eleventh.
    assert_eq!(of(&shop.cycle_times(november("")).await?[0]), (11, 5, 9, 10));
    world.end().await
}

/// The first shipment and the last arrival count, whichever is told first; an arrival that was not the last is none.
#[tokio::test]
async fn an_order_in_parts_is_measured_from_its_first_to_its_last() -> anyhow::Result<()> {
    let world = World::start().await?;
    let shop = world.shop()?;
    let order = order();
    let after = |hours| order.placed + TimeDelta::hours(hours);
    let story = Story {
        shipped: vec![after(5), after(3)],
        delivered: vec![(after(40), true), (after(30), true), (after(90), false)],
        returns: vec![(after(100), Some(after(120))), (after(100), None)],
        refunds: vec![Refund {
            created: after(110),
            ..refund(5, &[Outcome::Succeeded(after(111))])
        }],
        ..order.clone().into()
    };
    world.tell(&shop, &[story], 11, 1).await?;
    let took: Vec<(i64, i64)> = shop
        .cycle_times(november(""))
        .await?
        .iter()
        .map(|step| (step.count, step.p50_seconds / 3600))
        .collect();
    assert_eq!(took, [(1, 3), (1, 37), (1, 20), (1, 1)]);
    world.end().await
}

#[tokio::test]
async fn every_fault_of_a_question_is_named() -> anyhow::Result<()> {
    let world = World::start().await?;
    let shop = world.shop()?;
    let turned = period(
        at("2026-11-02T00:00:00Z"),
        at("2026-11-01T00:00:00Z"),
        "Mars/Olympus",
    );
    let refused = shop.summary(Some(turned)).await.expect_err("two faults");
    assert_eq!(
        refusal(&refused),
        (Code::InvalidArgument, "INVALID_REQUEST".to_owned())
    );
    assert_eq!(fields(&refused), ["period.time_zone", "period.before"]);
    assert!(
        refused.message().contains("Mars/Olympus"),
        "{}",
        refused.message()
    );

    let long = period(at("2020-01-01T00:00:00Z"), at("2026-01-01T00:00:00Z"), "");
    let refused = shop.days(Some(long.clone())).await.expect_err("too many days");
    assert_eq!(fields(&refused), ["period.from"]);
    assert!(refused.message().contains("1000"), "{}", refused.message());
    shop.summary(Some(long)).await?;
    let refused = shop.days(None).await.expect_err("days of everything");
    assert_eq!(fields(&refused), ["period.from"]);

    let mut odd = period(
        at("2026-11-01T00:00:00Z"),
        at("2026-11-02T00:00:00Z"),
        "europe/london",
    );
    odd.before = Some(prost_types::Timestamp {
        seconds: i64::MAX,
        nanos: -1,
    });
    let refused = shop.reasons(Some(odd)).await.expect_err("two faults");
    assert_eq!(fields(&refused), ["period.before", "period.time_zone"]);
    world.end().await
}

#[tokio::test]
async fn what_counts_for_nothing_is_passed_over() -> anyhow::Result<()> {
    let world = World::start().await?;
    let shop = world.shop()?;
    let (teller, story) = (shop.teller(), Story::from(order()));
    let now = story.order.placed;
    let mut events = teller.events(std::slice::from_ref(&story), 0);
    events.push(teller.event("order", &story, now, &PaymentRecorded::default()));
    events.push(teller.event("refund", &story, now, &PolicyPublished::default()));
    events.push(teller.event("refund", &story, now, &RefundStarted::default()));
    world.feed(&events).await?;
    let (orders, refunds) = currency_of(&shop.summary(november("")).await?, "GBP");
    assert_eq!((orders.orders, refunds.refunds), (1, 0));
    world.end().await
}

#[tokio::test]
async fn a_broken_event_is_refused_whole() -> anyhow::Result<()> {
    let world = World::start().await?;
    let shop = world.shop()?;
    let (teller, story) = (shop.teller(), Story::from(order()));
    let no_id = RefundCreated {
        refund_id: "17".to_owned(),
        ..RefundCreated::default()
    };
    let mut events = teller.events(std::slice::from_ref(&story), 0);
    events.push(teller.event("refund", &story, story.order.placed, &no_id));
    let refused = world.feed(&events).await.expect_err("a fault of the event");
    assert!(
        matches!(&refused, FoldError::Poison(why) if why.contains("refund_id") && why.contains("17")),
        "{refused}"
    );
    let mut homeless = teller.events(&[story], 0);
    homeless[0].store = None;
    assert!(matches!(world.feed(&homeless).await, Err(FoldError::Poison(_))));
    assert_eq!(
        shop.summary(november("")).await?,
        proto::GetSummaryResponse::default()
    );
    world.end().await
}
