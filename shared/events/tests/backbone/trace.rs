//! One trace from the writer through log, relay, stream and fold.

use tracing::Instrument as _;
use waybill_kernel::id::OrderId;
use waybill_runtime::telemetry;
use waybill_testkit::eventually;

use crate::support::*;

/// Events until one comes over the stream.
const TRIES: usize = 20;

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

    // A consumer that is behind takes an event from the log: then no publish lies between. Not every one comes that way.
    let mut streamed = None;
    for _ in 0..TRIES {
        let request = tracing::info_span!("PlaceOrder");
        let trace = telemetry::trace_id(&request).expect("tests record traces");
        node.append(&[placed(OrderId::generate())])
            .instrument(request)
            .await?;
        converged(&node, &consumer.db).await?;
        let (parent, process) = eventually("the processing and what led to it", LONG, async || {
            let mut ours = spans.get_finished_spans().ok()?;
            ours.retain(|span| span.span_context.trace_id().to_string() == trace);
            let process = ours.iter().find(|span| span.name == "process OrderPlaced")?;
            let parent = ours
                .iter()
                .find(|span| span.span_context.span_id() == process.parent_span_id)?;
            Some((parent.clone(), process.clone()))
        })
        .await;
        if parent.name == "publish OrderPlaced" {
            streamed = Some((trace, process));
            break;
        }
        assert_eq!(parent.name, "PlaceOrder");
    }
    let (trace, process) = streamed.expect("no event came over the stream");
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

    // It names what it follows from, and who did it: a service by itself (E-37).
    let causes: Vec<(Option<String>, Option<String>)> =
        sqlx::query_as("SELECT actor, cause FROM event_log ORDER BY cause")
            .fetch_all(consumer.db.pool())
            .await?;
    let told: Vec<String> =
        sqlx::query_scalar("SELECT event_id::text FROM event_log ORDER BY event_id::text")
            .fetch_all(node.db.pool())
            .await?;
    let expected = told
        .into_iter()
        .map(|event| (Some("service:analytics".to_owned()), Some(event)));
    assert_eq!(causes, expected.collect::<Vec<_>>());
    Ok(())
}
