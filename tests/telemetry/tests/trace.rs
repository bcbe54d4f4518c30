//! One order is one trace, from the caller's span through all five services, and nothing personal is in it.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use tracing::Instrument as _;
use waybill_e2e::orders::{EMAIL, NAME, STREET, line, money, order};
use waybill_e2e::shop::Shop;
use waybill_e2e::wait;
use waybill_runtime::telemetry::{init_for_test, trace_id};
use waybill_telemetry_tests::{Trace, texts};

/// A span by its service and its name.
type Step = (&'static str, &'static str);

/// The call that begins everything.
const PLACE: Step = ("order", "waybill.order.v1.OrderService/PlaceOrder");

/// What leads to what, across services and within, when an order is placed.
const EDGES: [(Step, Step); 11] = [
    (("shop", "the customer orders"), PLACE),
    (PLACE, ("fulfillment", "process OrderPlaced")),
    (PLACE, ("refund", "process OrderPlaced")),
    (PLACE, ("analytics", "process OrderPlaced")),
    (PLACE, ("notification", "process OrderPlaced")),
    // Stock was reserved, and the order knows.
    (
        ("fulfillment", "process OrderPlaced"),
        ("order", "process OrderAllocated"),
    ),
    // The mail is a job; it asks whom to write to, and the order knows that it went out.
    (
        ("notification", "process OrderPlaced"),
        ("notification", "job notification.send"),
    ),
    (
        ("notification", "job notification.send"),
        ("order", "waybill.order.v1.OrderService/GetOrder"),
    ),
    (
        ("notification", "job notification.send"),
        ("notification", "send e-mail"),
    ),
    (
        ("notification", "job notification.send"),
        ("order", "process NotificationSent"),
    ),
    (
        ("notification", "job notification.send"),
        ("analytics", "process NotificationSent"),
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn one_order_is_one_trace() -> anyhow::Result<()> {
    let exporter = init_for_test();
    let shop = Shop::open().await?;
    shop.stock([("MUG", 5)]).await?;

    let span = tracing::info_span!("the customer orders", waybill.service = "shop");
    let trace = trace_id(&span).context("a span without a trace")?;
    let placed = shop
        .place(order("X1", "GBP", vec![line("MUG", 2, money("GBP", 995))]))
        .instrument(span)
        .await?;

    let missing = |found: &Trace| -> Vec<_> {
        EDGES
            .into_iter()
            .filter(|(from, to)| !found.leads(*from, *to))
            .collect()
    };
    let whole = wait::until("the whole trace", || async {
        let found = Trace::of(&trace, exporter.get_finished_spans()?);
        Ok((missing(&found).is_empty() && found.roots().len() == 1).then_some(found))
    });
    let Ok(found) = whole.await else {
        let found = Trace::of(&trace, exporter.get_finished_spans()?);
        anyhow::bail!(
            "missing {:#?}, roots {:?} in\n{}",
            missing(&found),
            found.roots(),
            found.drawn()
        );
    };
    let five: BTreeSet<String> = ["order", "fulfillment", "refund", "notification", "analytics"]
        .map(str::to_owned)
        .into();
    ensure!(
        five.is_subset(&found.services()),
        "only {:?} took part:\n{}",
        found.services(),
        found.drawn()
    );
    ensure!(
        found.roots() == ["shop: the customer orders"],
        "{:?}",
        found.roots()
    );

    on_the_timeline(&shop, &placed.order_id, &trace).await?;
    shop.close().await?;
    nothing_personal(&exporter.get_finished_spans()?)
}

/// Whoever reads the order's timeline finds the trace.
async fn on_the_timeline(shop: &Shop, order_id: &str, trace: &str) -> anyhow::Result<()> {
    let entries = shop.timeline(order_id).await?;
    for fact in [
        "order.v1.OrderPlaced",
        "fulfillment.v1.OrderAllocated",
        "notification.v1.NotificationSent",
    ] {
        let entry = entries
            .iter()
            .find(|entry| entry.r#type == format!("waybill.{fact}"));
        let entry = entry.with_context(|| format!("{fact} is not on the timeline"))?;
        ensure!(
            entry.trace_id == trace,
            "{fact} belongs to the trace {:?}, not {trace}",
            entry.trace_id
        );
    }
    Ok(())
}

/// No span of any trace holds the customer's address, name or street.
fn nothing_personal(spans: &[opentelemetry_sdk::trace::SpanData]) -> anyhow::Result<()> {
    ensure!(spans.len() > 20, "only {} spans were exported", spans.len());
    for span in spans {
        for text in texts(span) {
            for personal in [EMAIL, NAME, STREET, "customers.example", "Tamsin"] {
                ensure!(
                    !text.contains(personal),
                    "the span {:?} holds {text:?}",
                    span.name
                );
            }
        }
    }
    Ok(())
}
