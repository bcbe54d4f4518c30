//! One trace from the writer through log, relay, stream and fold.

use tracing::Instrument as _;
use waybill_kernel::id::OrderId;
use waybill_runtime::telemetry;
use waybill_testkit::eventually;

use crate::support::*;

#[tokio::test]
async fn a_trace_goes_through() -> anyhow::Result<()> {
    let spans = telemetry::init_for_test();
    let world = World::new(&["order", "analytics"]).await;
    let node = world.producer("order").await?;
    let echo = Recorder {
        echo: true,
        ..Recorder::of(&["order"])
    };
    let consumer = world.consumer(&[&node], echo).await?;
    // The stream must be in use, or the event comes from the log, without a publish.
    node.append(&[placed(OrderId::generate())]).await?;
    converged(&node, &consumer.db).await?;

    let request = tracing::info_span!("PlaceOrder");
    let trace = telemetry::trace_id(&request).expect("tests record traces");
    node.append(&[placed(OrderId::generate())])
        .instrument(request)
        .await?;
    converged(&node, &consumer.db).await?;
    let (publish, process) = eventually("both spans", LONG, async || {
        let finished = spans.get_finished_spans().ok()?;
        let find = |name: &str| {
            finished
                .iter()
                .find(|span| span.span_context.trace_id().to_string() == trace && span.name == name)
                .cloned()
        };
        Some((find("publish OrderPlaced")?, find("process OrderPlaced")?))
    })
    .await;
    assert_eq!(process.parent_span_id, publish.span_context.span_id());
    let has = |key: &str, value: &str| {
        process
            .attributes
            .iter()
            .any(|attribute| attribute.key.as_str() == key && attribute.value.as_str() == value)
    };
    assert!(
        has("waybill.service", "analytics") && has("waybill.consumer", "recorder"),
        "{:?}",
        process.attributes
    );
    assert!(has("messaging.system", "nats"));

    // The event that the fold wrote belongs to the processing span.
    let echoed: Vec<Option<String>> = sqlx::query_scalar("SELECT traceparent FROM event_log")
        .fetch_all(consumer.db.pool())
        .await?;
    let expected = format!("00-{trace}-{}-01", process.span_context.span_id());
    assert!(echoed.contains(&Some(expected)), "{echoed:?}");
    Ok(())
}
