//! Days begin and end where the store is, also on the two days a year that are not 24 hours long.

use crate::support::{Moment, Order, Outcome, Refund, Story, World, at, period};

async fn days_of(moments: &[&str], zone: &str) -> anyhow::Result<Vec<(String, i64)>> {
    let world = World::start().await?;
    let shop = world.shop()?;
    let stories: Vec<Story> = moments
        .iter()
        .map(|moment| Order::of(100, "GBP", at(moment)).into())
        .collect();
    world.tell(&shop, &stories, 0, 100).await?;
    let year = period(at("2026-01-01T00:00:00Z"), at("2027-01-01T00:00:00Z"), zone);
    let days = shop.days(Some(year)).await?;
    world.end().await?;
    Ok(days
        .into_iter()
        .map(|day| (day.day, day.orders.unwrap_or_default().orders))
        .collect())
}

fn expected(days: &[(&str, i64)]) -> Vec<(String, i64)> {
    days.iter()
        .map(|(day, orders)| ((*day).to_owned(), *orders))
        .collect()
}

#[tokio::test]
async fn the_day_summer_time_ends_has_25_hours() -> anyhow::Result<()> {
    let moments = [
        "2026-10-24T22:59:59Z",
        "2026-10-24T23:00:00Z",
        // Half past one happens twice.
        "2026-10-25T00:30:00Z",
        "2026-10-25T01:30:00Z",
        "2026-10-25T23:59:59Z",
        "2026-10-26T00:00:00Z",
    ];
    let london = days_of(&moments, "Europe/London").await?;
    assert_eq!(
        london,
        expected(&[("2026-10-24", 1), ("2026-10-25", 4), ("2026-10-26", 1)])
    );
    let utc = days_of(&moments, "").await?;
    assert_eq!(
        utc,
        expected(&[("2026-10-24", 2), ("2026-10-25", 3), ("2026-10-26", 1)])
    );
    Ok(())
}

#[tokio::test]
async fn the_day_summer_time_begins_has_23_hours() -> anyhow::Result<()> {
    let moments = [
        "2026-03-28T23:59:59Z",
        "2026-03-29T00:00:00Z",
        "2026-03-29T22:59:59Z",
        "2026-03-29T23:00:00Z",
    ];
    let london = days_of(&moments, "Europe/London").await?;
    assert_eq!(
        london,
        expected(&[("2026-03-28", 1), ("2026-03-29", 2), ("2026-03-30", 1)])
    );
    Ok(())
}

/// A refund counts on the day it succeeded, the order it belongs to on the day it was placed; the share of what was placed
/// that went back belongs to the day of the order.
#[tokio::test]
async fn orders_and_refunds_have_days_of_their_own() -> anyhow::Result<()> {
    let world = World::start().await?;
    let shop = world.shop()?;
    let (placed, succeeded): (Moment, Moment) = (at("2026-11-02T12:00:00Z"), at("2026-11-05T12:00:00Z"));
    let story = Story {
        refunds: vec![Refund {
            created: at("2026-11-04T12:00:00Z"),
            amount: 250,
            reason: "damaged",
            outcomes: vec![Outcome::Succeeded(succeeded)],
        }],
        ..Order::of(1000, "GBP", placed).into()
    };
    world.tell(&shop, &[story], 0, 100).await?;
    let november = period(at("2026-11-01T00:00:00Z"), at("2026-12-01T00:00:00Z"), "UTC");
    let days = shop.days(Some(november)).await?;
    let seen: Vec<_> = days
        .iter()
        .map(|day| {
            let (orders, refunds) = (
                day.orders.clone().unwrap_or_default(),
                day.refunds.clone().unwrap_or_default(),
            );
            (
                day.day.as_str(),
                orders.orders,
                refunds.refunds,
                refunds.refunded_orders,
                refunds.refund_rate_orders_ppm,
                refunds.refund_rate_value_ppm,
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            ("2026-11-02", 1, 0, 1, 1_000_000, 250_000),
            ("2026-11-05", 0, 1, 0, 0, 0)
        ]
    );
    world.end().await
}
