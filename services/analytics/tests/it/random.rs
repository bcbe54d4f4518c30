//! every figure equals the one that is computed from what happened by other means, whatever happened, and however the
//! events were cut into batches and mixed.

use chrono::TimeDelta;
use chrono_tz::Tz;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use waybill_kernel::id::OrderId;

use crate::support::{Edit, Model, Moment, Order, Outcome, Part, Refund, Story, World, at, period};

/// Around the end of summer time in Europe (25 October) and in North America (1 November).
const BEGINNING: &str = "2026-10-20T00:00:00Z";
const SPAN: i64 = 20 * 86_400;

const ZONES: [&str; 6] = [
    "",
    "Europe/London",
    "America/New_York",
    "Asia/Kolkata",
    "Pacific/Chatham",
    "Australia/Lord_Howe",
];

fn moment() -> impl Strategy<Value = Moment> {
    // Often exactly on the hour: that is where days begin.
    prop_oneof![
        3 => 0..SPAN,
        1 => (0..SPAN / 3600).prop_map(|hour| hour * 3600),
        1 => (1..SPAN / 3600).prop_map(|hour| hour * 3600 - 1),
    ]
    .prop_map(|seconds| at(BEGINNING) + TimeDelta::seconds(seconds))
}

fn order() -> impl Strategy<Value = Order> {
    let amounts = (0..100_000i64, 0..5_000i64, 0..5_000i64, 0..2_000i64);
    (
        moment(),
        prop::sample::select(vec!["GBP", "EUR", "JPY"]),
        prop::collection::vec((1..6i32, 0..20_000i64), 1..4),
        amounts,
    )
        .prop_map(
            |(placed, currency, lines, (gross, discounts, tax, shipping))| Order {
                id: OrderId::generate(),
                placed,
                currency,
                lines,
                gross,
                discounts,
                tax,
                shipping,
            },
        )
}

fn refund() -> impl Strategy<Value = Refund> {
    let outcome = prop_oneof![
        2 => moment().prop_map(Outcome::Succeeded),
        1 => moment().prop_map(Outcome::Failed),
    ];
    (
        moment(),
        // Few amounts, so that reasons often bring the same.
        prop_oneof![Just(0), Just(500), 1..60_000i64],
        prop::sample::select(vec!["damaged", "unwanted", "order_cancelled", "orderly"]),
        prop::collection::vec(outcome, 0..4),
    )
        .prop_map(|(created, amount, reason, outcomes)| Refund {
            created,
            amount,
            reason,
            outcomes,
        })
}

/// Edits of an order: units that came with one may go with the next.
fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let part = (1..5i32, 0..9_000i64, 0..900i64).prop_map(|(units, net, tax)| Part { units, net, tax });
    let added = prop::collection::vec(part, 0..3);
    prop::collection::vec((added, 0..500i64, any::<bool>()), 0..3).prop_map(|edits| {
        let mut before = Vec::new();
        let next = |(added, discounts, back): (Vec<Part>, i64, bool)| Edit {
            removed: std::mem::replace(&mut before, if back { added.clone() } else { Vec::new() }),
            added,
            discounts,
        };
        edits.into_iter().map(next).collect()
    })
}

fn story() -> impl Strategy<Value = Story> {
    (
        (order(), edits()),
        prop::option::weighted(0.2, moment()),
        prop::option::weighted(0.4, moment()),
        prop::collection::vec(moment(), 0..3),
        prop::collection::vec((moment(), any::<bool>()), 0..3),
        prop::collection::vec(refund(), 0..3),
        prop::collection::vec((moment(), prop::option::of(moment())), 0..3),
        prop::collection::vec(
            (
                prop::sample::select(vec!["sent", "suppressed", "failed"]),
                moment(),
            ),
            0..4,
        ),
    )
        .prop_map(
            |((order, edits), cancelled, completed, shipped, delivered, refunds, returns, notifications)| {
                Story {
                    order,
                    edits,
                    cancelled,
                    completed,
                    shipped,
                    delivered,
                    refunds,
                    returns,
                    notifications,
                }
            },
        )
}

#[test]
fn figures_equal_those_computed_from_what_happened() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let world = runtime.block_on(World::start())?;
    let histories = (
        prop::collection::vec(story(), 0..40),
        any::<u64>(),
        1..60usize,
        (moment(), moment()),
        prop::sample::select(ZONES.to_vec()),
    );
    let config = Config {
        cases: 48,
        failure_persistence: None,
        ..Config::default()
    };
    // The same histories every time: a failure can be looked at again.
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let checked = runner.run(&histories, |(stories, seed, batch, (one, other), zone)| {
        let (from, before) = (one.min(other), one.max(other));
        runtime.block_on(check(&world, &stories, seed, batch, from, before, zone))
    });
    runtime.block_on(world.end())?;
    Ok(checked?)
}

async fn check(
    world: &World,
    stories: &[Story],
    seed: u64,
    batch: usize,
    from: Moment,
    before: Moment,
    zone: &str,
) -> Result<(), TestCaseError> {
    let fail = |error: &dyn std::fmt::Display| TestCaseError::fail(error.to_string());
    // Every case has a store of its own: whatever the others left behind must not count.
    let shop = world.shop().map_err(|error| fail(&error))?;
    world
        .tell(&shop, stories, seed, batch)
        .await
        .map_err(|error| fail(&error))?;

    let beginning = at(BEGINNING);
    let everything = (
        beginning - TimeDelta::days(1),
        beginning + TimeDelta::seconds(SPAN),
    );
    for (from, before) in [(from, before), everything] {
        let asked = Some(period(from, before, zone));
        let zone: Tz = if zone.is_empty() {
            Tz::UTC
        } else {
            zone.parse().expect("a zone of the list")
        };
        let model = Model {
            stories,
            from,
            before,
            zone,
        };
        let summary = shop
            .summary(asked.clone())
            .await
            .map_err(|status| fail(&status))?;
        prop_assert_eq!(summary, model.summary());
        let days = shop.days(asked.clone()).await.map_err(|status| fail(&status))?;
        prop_assert_eq!(days, model.days());
        let reasons = shop
            .reasons(asked.clone())
            .await
            .map_err(|status| fail(&status))?;
        prop_assert_eq!(reasons, model.reasons());
        let steps = shop.cycle_times(asked).await.map_err(|status| fail(&status))?;
        prop_assert_eq!(steps, model.cycle_times());
    }
    Ok(())
}

/// the same history leaves the same facts, whether it is told event by event or at once, in this mixture or another.
#[tokio::test]
async fn telling_it_otherwise_changes_nothing() -> anyhow::Result<()> {
    let world = World::start().await?;
    let mut runner = TestRunner::deterministic();
    let stories = prop::collection::vec(story(), 30..31)
        .new_tree(&mut runner)
        .map_err(|reason| anyhow::anyhow!("no stories: {reason}"))?
        .current();
    let renamed: Vec<Story> = stories
        .iter()
        .cloned()
        .map(|mut story| {
            story.order.id = OrderId::generate();
            story
        })
        .collect();
    let (one, other) = (world.shop()?, world.shop()?);
    world.tell(&one, &stories, 1, 1).await?;
    world.tell(&other, &renamed, 2, usize::MAX).await?;
    let all = Some(period(
        at(BEGINNING),
        at(BEGINNING) + TimeDelta::seconds(SPAN),
        "Europe/London",
    ));
    let summary = one.summary(all.clone()).await?;
    assert!(
        summary.currencies.len() == 3 && summary.notifications_sent > 0,
        "{summary:?}"
    );
    assert_eq!(summary, other.summary(all.clone()).await?);
    assert_eq!(one.days(all.clone()).await?, other.days(all.clone()).await?);
    assert_eq!(one.reasons(all.clone()).await?, other.reasons(all.clone()).await?);
    assert_eq!(one.cycle_times(all.clone()).await?, other.cycle_times(all).await?);
    world.end().await
}
