//! E-8 to E-12, E-14: consumers.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::message::PublishMessage;
use futures_util::StreamExt as _;
use tokio::sync::Notify;
use waybill_events::{FoldOptions, NewEvent, Peers};
use waybill_kernel::id::OrderId;
use waybill_testkit::{Wire, eventually};

use crate::support::*;

fn some(count: usize) -> Vec<NewEvent> {
    orders(count).into_iter().map(placed).collect()
}

#[tokio::test]
async fn a_consumer_catches_up_and_lives() -> anyhow::Result<()> {
    let world = World::new(&["order", "analytics"]).await;
    let node = world.producer("order").await?;
    node.append(&some(1500)).await?;
    let consumer = world.consumer(&[&node], Recorder::of(&["order"])).await?;
    converged(&node, &consumer.db).await?;
    node.append_each(&some(100)).await?;
    converged(&node, &consumer.db).await?;
    let order = OrderId::generate();
    node.append(&[
        placed(order),
        completed(order),
        cancelled(order),
        completed(order),
    ])
    .await?;
    // OrderCancelled is a type that this fold does not know: counted by the cursor, and skipped.
    eventually("all but the unknown", LONG, async || {
        let got = effects_of(&consumer.db, order)
            .await
            .map_err(|error| error.to_string())?;
        if got.len() == 3 {
            Ok(())
        } else {
            Err(format!("{got:?}"))
        }
    })
    .await;
    proven(&node, &consumer.db).await?;
    Ok(())
}

/// A service that follows its own log reads it from its own database.
#[tokio::test]
async fn a_service_follows_itself() -> anyhow::Result<()> {
    let world = World::new(&["analytics"]).await;
    let db = world.connect("analytics").await?;
    sqlx::raw_sql(
        "CREATE TABLE known_key (key uuid); CREATE TABLE effect (number bigint GENERATED ALWAYS AS IDENTITY,
        event_id uuid, source text, key uuid, type text, bytes bigint, worker text)",
    )
    .execute(db.pool())
    .await?;
    let node = world
        .node("analytics", Peers::new(), |backbone| {
            backbone.relay().fold_with(Recorder::of(&["analytics"]), quick())
        })
        .await?;
    node.append(&some(700)).await?;
    node.append_each(&some(20)).await?;
    converged(&node, &node.db).await
}

/// A fold that writes events of its own, followed by another service: order -> analytics -> notification.
#[tokio::test]
async fn effects_are_events_of_the_next_log() -> anyhow::Result<()> {
    let world = World::new(&["order", "analytics"]).await;
    let node = world.producer("order").await?;
    let echo = Recorder {
        echo: true,
        ..Recorder::of(&["order"])
    };
    let consumer = world.consumer(&[&node], echo).await?;
    node.append_each(&some(30)).await?;
    node.append(&some(30)).await?;
    converged(&node, &consumer.db).await?;
    assert_eq!(consumer.ids().await?.len(), 60, "one event of its own per event");
    Ok(())
}

/// The stream shows an event whose predecessors it does not hold: they are read from the log at once, long before
/// anybody compares with the heads.
#[tokio::test]
async fn a_gap_is_filled_from_the_log() -> anyhow::Result<()> {
    let world = World::new(&["order", "analytics"]).await;
    // A log without a relay: the test publishes.
    let node = world.node("order", Peers::new(), |backbone| backbone).await?;
    let context = jetstream::new(world.nats.client(world.nats.url()).await);
    context
        .create_stream(jetstream::stream::Config {
            name: "WAYBILL_ORDER".to_owned(),
            subjects: vec!["waybill.events.order.v1.>".to_owned()],
            ..Default::default()
        })
        .await?;
    let consumer = world.consumer(&[&node], Recorder::of(&["order"])).await?;
    let all = orders_of_one_partition(40);
    node.append(&[placed(all[0])]).await?;
    let mut expected = 1;
    let log = publish_last(&context, &node).await?;
    converged(&node, &consumer.db).await?;
    assert_eq!(log, expected);

    for gap in [1, 5, 20] {
        let next: Vec<NewEvent> = all[expected..expected + gap + 1]
            .iter()
            .copied()
            .map(placed)
            .collect();
        node.append_each(&next).await?;
        expected += gap + 1;
        assert_eq!(publish_last(&context, &node).await?, expected);
        tokio::time::timeout(Duration::from_secs(20), converged(&node, &consumer.db)).await??;
    }
    // A message that is no event is passed over.
    context
        .publish("waybill.events.order.v1.7.Nonsense", "what is this".into())
        .await?
        .await?;
    node.append(&[placed(all[expected])]).await?;
    publish_last(&context, &node).await?;
    tokio::time::timeout(Duration::from_secs(20), converged(&node, &consumer.db)).await??;
    Ok(())
}

/// Publishes the last event of a log whose events are all of one partition; returns the length of the log.
async fn publish_last(context: &jetstream::Context, node: &Node) -> anyhow::Result<usize> {
    let places = positions(&node.db).await?;
    let last = places.len() - 1;
    let (id, key, payload, type_name): (uuid::Uuid, uuid::Uuid, Vec<u8>, String) =
        sqlx::query_as("SELECT event_id, partition_key, payload, type FROM event_log WHERE position = $1")
            .bind(places[last].position)
            .fetch_one(node.db.pool())
            .await?;
    let event = waybill_events::Event {
        position: places[last],
        prev: last
            .checked_sub(1)
            .map(|before| places[before])
            .unwrap_or_default(),
        event_id: id.into(),
        source: "order".into(),
        type_name,
        merchant: uuid::Uuid::from_u128(1).into(),
        store: None,
        key,
        vpartition: waybill_kernel::partition::partition_of(key),
        aggregate: key,
        version: 1,
        payload: payload.into(),
        traceparent: None,
        occurred_at: chrono::DateTime::UNIX_EPOCH,
        origin: waybill_store::Origin::default(),
    };
    let out = waybill_events::envelope::pack(&event, event.payload.len());
    let message = PublishMessage::build().headers(out.headers).payload(out.body);
    context.send_publish(out.subject, message).await?.await?;
    Ok(places.len())
}

/// The consumer's wire to NATS breaks: what went by meanwhile is read from the log as soon as it is back.
#[tokio::test]
async fn a_broken_wire_loses_nothing() -> anyhow::Result<()> {
    let world = World::new(&["order", "analytics"]).await;
    let node = world.producer("order").await?;
    let (wire, url) = Wire::before(world.nats.url()).await?;
    let consumer = world
        .consumer_with(&[&node], Recorder::of(&["order"]), quick(), &nats_config(&url))
        .await?;
    node.append(&some(5)).await?;
    converged(&node, &consumer.db).await?;
    for round in 0..3 {
        wire.cut();
        node.append_each(&some(20)).await?;
        if round == 1 {
            // Without NATS the log alone is enough.
            converged(&node, &consumer.db).await?;
        }
        wire.restore();
        node.append(&some(5)).await?;
        converged(&node, &consumer.db).await?;
    }
    Ok(())
}

/// Across streams nothing is ordered: what concerns an order that is not known yet waits for it.
#[tokio::test]
async fn an_event_waits_for_its_predecessor() -> anyhow::Result<()> {
    let world = World::new(&["order", "refund", "analytics"]).await;
    let order_node = world.producer("order").await?;
    let refund_node = world.producer("refund").await?;
    let recorder = Recorder {
        opening: true,
        ..Recorder::of(&["order", "refund"])
    };
    let consumer = world.consumer(&[&order_node, &refund_node], recorder).await?;
    let (early, other) = (OrderId::generate(), OrderId::generate());

    refund_node
        .append_each(&[refund_created(early), completed(early)])
        .await?;
    eventually("two waiting events", LONG, async || {
        let waiting: i64 = sqlx::query_scalar("SELECT count(*) FROM fold_waiting")
            .fetch_one(consumer.db.pool())
            .await
            .ok()?;
        (waiting == 2).then_some(())
    })
    .await;
    assert!(effects_of(&consumer.db, early).await?.is_empty());

    // Another order is not held up.
    order_node.append(&[placed(other)]).await?;
    refund_node.append(&[refund_created(other)]).await?;
    eventually("the other order", LONG, async || {
        let got = effects_of(&consumer.db, other).await.ok()?;
        (got.len() == 2).then_some(())
    })
    .await;

    order_node.append(&[placed(early), completed(early)]).await?;
    let all = eventually("the early order", LONG, async || {
        let got = effects_of(&consumer.db, early).await.ok()?;
        (got.len() == 4).then_some(got)
    })
    .await;
    let of = |source: &str, type_name: &str| (source.to_owned(), type_name.to_owned());
    assert_eq!(all[0], of("order", "OrderPlaced"));
    let refund: Vec<_> = all.iter().filter(|effect| effect.0 == "refund").collect();
    assert_eq!(
        refund,
        [&of("refund", "RefundCreated"), &of("refund", "OrderCompleted")]
    );
    let waiting: i64 = sqlx::query_scalar("SELECT count(*) FROM fold_waiting")
        .fetch_one(consumer.db.pool())
        .await?;
    assert_eq!(waiting, 0);
    proven(&order_node, &consumer.db).await?;
    proven(&refund_node, &consumer.db).await?;
    Ok(())
}

/// One peer is down: the other log goes on, and the first one when its service is back.
#[tokio::test]
async fn a_peer_that_is_down_holds_up_its_own_log_only() -> anyhow::Result<()> {
    let world = World::new(&["order", "refund", "analytics"]).await;
    let order_node = world.producer("order").await?;
    let mut through = world.producer("refund").await?;
    through.append(&some(10)).await?;
    // What is published later comes by the stream, however its log is.
    published(&world, &through).await?;
    let (wire, url) = Wire::before(&through.url).await?;
    wire.cut();
    through.url = url;
    let consumer = world
        .consumer(&[&order_node, &through], Recorder::of(&["order", "refund"]))
        .await?;
    order_node.append_each(&some(20)).await?;
    converged(&order_node, &consumer.db).await?;
    assert!(effects(&consumer.db, "refund").await?.is_empty());
    wire.restore();
    converged(&through, &consumer.db).await?;
    Ok(())
}

/// Parallelism changes at restarts, over live data.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_change_on_live_data() -> anyhow::Result<()> {
    let world = World::new(&["order", "analytics"]).await;
    let node = world.producer("order").await?;
    for lanes in [1, 3, 2, 8] {
        let options = FoldOptions { lanes, ..quick() };
        let consumer = world
            .consumer_with(&[&node], Recorder::of(&["order"]), options, &world.nats_config())
            .await?;
        node.append(&some(200)).await?;
        node.append_each(&some(20)).await?;
        if lanes == 2 {
            // In the middle of the work.
            consumer.stop().await?;
        } else {
            converged(&node, &consumer.db).await?;
            consumer.stop().await?;
        }
    }
    let consumer = world.consumer(&[&node], Recorder::of(&["order"])).await?;
    converged(&node, &consumer.db).await
}

/// Small batches, larger events than the budget of bytes: it goes on, slowly.
#[tokio::test]
async fn bounds_do_not_block() -> anyhow::Result<()> {
    let world = World::new(&["order", "analytics"]).await;
    let node = world.producer("order").await?;
    let options = FoldOptions {
        batch_events: 3,
        batch_bytes: 100_000,
        ..quick()
    };
    let consumer = world
        .consumer_with(&[&node], Recorder::of(&["order"]), options, &world.nats_config())
        .await?;
    let order = OrderId::generate();
    let large = waybill_proto::waybill::order::v1::OrderCompleted {
        order_id: "x".repeat(150_000),
    };
    let events: Vec<NewEvent> = (0..20).map(|_| event(order, &large)).collect();
    node.append(&events).await?;
    node.append(&some(50)).await?;
    converged(&node, &consumer.db).await
}

/// A fold that is stuck takes no more from the stream than its budget: what is not wanted yet stays with the server.
#[tokio::test]
async fn a_stuck_fold_holds_back_the_stream() -> anyhow::Result<()> {
    const BUDGET: usize = 256 * 1024;
    const LARGE: usize = 20 * 1024;
    let world = World::new(&["order", "analytics"]).await;
    let node = world.producer("order").await?;
    let reached = Arc::new(Notify::new());
    let recorder = Recorder {
        hold: Some(Hold {
            step: Step::Project,
            reached: Arc::clone(&reached),
        }),
        ..Recorder::of(&["order"])
    };
    let options = FoldOptions {
        batch_bytes: BUDGET,
        ..quick()
    };
    let consumer = world
        .consumer_with(&[&node], recorder, options, &world.nats_config())
        .await?;
    condition(&consumer, "fold recorder/0 order", |part| {
        part.label() == "working"
    })
    .await;
    node.append(&some(1)).await?;
    tokio::time::timeout(LONG, reached.notified()).await?;
    let large = waybill_proto::waybill::order::v1::OrderCompleted {
        order_id: "x".repeat(LARGE),
    };
    let events: Vec<NewEvent> = orders(500)
        .into_iter()
        .map(|order| event(order, &large))
        .collect();
    for chunk in events.chunks(50) {
        node.append(chunk).await?;
    }
    published(&world, &node).await?;

    // How much the server has handed out, once it hands out no more.
    let context = jetstream::new(world.nats.client(world.nats.url()).await);
    let stream = context.get_stream("WAYBILL_ORDER").await?;
    let mut last = (0, 0);
    let delivered = eventually("an end of the deliveries", LONG, async || {
        let infos: Vec<_> = stream.consumers().collect().await;
        let delivered = infos
            .into_iter()
            .filter_map(Result::ok)
            .map(|info| info.delivered.consumer_sequence)
            .max()
            .unwrap_or_default();
        last = (delivered, if delivered == last.0 { last.1 + 1 } else { 0 });
        (delivered > 1 && last.1 >= 20)
            .then_some(delivered)
            .ok_or(format!("{last:?}"))
    })
    .await;
    // The budget itself, what the batch at hand has, and a pull that was under way with the next one.
    let bytes = delivered as usize * LARGE;
    assert!(bytes <= 4 * BUDGET, "{delivered} messages were taken");
    consumer.crash().await;
    let consumer = world.consumer(&[&node], Recorder::of(&["order"])).await?;
    converged(&node, &consumer.db).await
}
