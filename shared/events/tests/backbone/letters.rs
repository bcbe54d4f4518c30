//! E-13: poison.

use std::sync::Arc;

use waybill_events::{Condition, resume_consumer};
use waybill_kernel::id::OrderId;
use waybill_testkit::eventually;

use crate::support::*;

async fn kept(consumer: &Node, kind: &str) -> anyhow::Result<Vec<(uuid::Uuid, String, Option<String>)>> {
    Ok(
        sqlx::query_as("SELECT key, type, reason FROM fold_dead_letter WHERE kind = $1 ORDER BY id")
            .bind(kind)
            .fetch_all(consumer.db.pool())
            .await?,
    )
}

#[tokio::test]
async fn a_poison_event_parks_its_own_key_only() -> anyhow::Result<()> {
    let world = World::new(&["order", "refund", "analytics"]).await;
    let order_node = world.producer("order").await?;
    let refund_node = world.producer("refund").await?;
    let recorder = Recorder {
        opening: true,
        ..Recorder::of(&["order", "refund"])
    };
    let poison = Arc::clone(&recorder.poison);
    // All in one virtual partition: not even that stands still.
    let all = orders_of_one_partition(6);
    let sick = all[2];
    poison.lock().expect("not poisoned").insert(sick.uuid());
    let consumer = world.consumer(&[&order_node, &refund_node], recorder).await?;

    let mut events: Vec<_> = all.iter().copied().map(placed).collect();
    events.extend(all.iter().copied().map(completed));
    events.extend(all.iter().copied().map(completed));
    order_node.append(&events).await?;
    for order in &all {
        if *order != sick {
            eventually("a healthy order", LONG, async || {
                let got = effects_of(&consumer.db, *order).await.ok()?;
                (got.len() == 3).then_some(())
            })
            .await;
        }
    }
    let letters = eventually("the letter", LONG, async || {
        let letters = kept(&consumer, "letter").await.ok()?;
        (!letters.is_empty()).then_some(letters)
    })
    .await;
    assert_eq!(letters.len(), 1);
    assert_eq!(
        (letters[0].0, letters[0].1.as_str()),
        (sick.uuid(), "waybill.order.v1.OrderCompleted")
    );
    assert!(
        letters[0]
            .2
            .as_ref()
            .is_some_and(|reason| reason.contains("cannot be digested"))
    );
    assert_eq!(
        kept(&consumer, "parked").await?.len(),
        1,
        "its successor is parked behind it"
    );
    assert_eq!(
        effects_of(&consumer.db, sick).await?.len(),
        1,
        "what came before it took effect"
    );

    // Also what comes later, from every log, even when it would be digested now.
    poison.lock().expect("not poisoned").clear();
    refund_node
        .append(&[refund_created(sick), refund_created(all[0])])
        .await?;
    order_node.append(&[completed(sick)]).await?;
    eventually("three parked events", LONG, async || {
        let parked = kept(&consumer, "parked").await.ok()?;
        (parked.len() == 3).then_some(())
    })
    .await;
    eventually("the healthy refund", LONG, async || {
        let got = effects_of(&consumer.db, all[0]).await.ok()?;
        (got.len() == 4).then_some(())
    })
    .await;
    assert_eq!(effects_of(&consumer.db, sick).await?.len(), 1);
    proven(&order_node, &consumer.db).await?;
    proven(&refund_node, &consumer.db).await?;
    Ok(())
}

/// The poison is among the events that waited: it becomes the letter, not the event that released it.
#[tokio::test]
async fn poison_among_the_waiting_is_named() -> anyhow::Result<()> {
    let world = World::new(&["order", "refund", "analytics"]).await;
    let order_node = world.producer("order").await?;
    let refund_node = world.producer("refund").await?;
    let recorder = Recorder {
        opening: true,
        ..Recorder::of(&["order", "refund"])
    };
    let sick = OrderId::generate();
    recorder.poison.lock().expect("not poisoned").insert(sick.uuid());
    let consumer = world.consumer(&[&order_node, &refund_node], recorder).await?;
    refund_node
        .append_each(&[refund_created(sick), completed(sick)])
        .await?;
    eventually("two waiting events", LONG, async || {
        let waiting: i64 = sqlx::query_scalar("SELECT count(*) FROM fold_waiting")
            .fetch_one(consumer.db.pool())
            .await
            .ok()?;
        (waiting == 2).then_some(())
    })
    .await;
    order_node.append(&[placed(sick)]).await?;
    eventually("a letter and one behind it", LONG, async || {
        let (letters, parked) = (
            kept(&consumer, "letter").await.ok()?,
            kept(&consumer, "parked").await.ok()?,
        );
        (letters.len() == 1 && parked.len() == 1).then_some(letters)
    })
    .await;
    assert_eq!(
        kept(&consumer, "letter").await?[0].1,
        "waybill.refund.v1.RefundCreated"
    );
    let of = effects_of(&consumer.db, sick).await?;
    assert_eq!(of, [("order".to_owned(), "OrderPlaced".to_owned())]);
    Ok(())
}

/// What the database refuses, again and again, is the event's fault too.
#[tokio::test]
async fn data_that_the_database_refuses_is_poison() -> anyhow::Result<()> {
    let world = World::new(&["order", "analytics"]).await;
    let node = world.producer("order").await?;
    let consumer = world.consumer(&[&node], Recorder::of(&["order"])).await?;
    let all = orders_of_one_partition(3);
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
        "ALTER TABLE effect ADD CONSTRAINT not_this_one CHECK (key <> '{}')",
        all[1]
    )))
    .execute(consumer.db.pool())
    .await?;
    node.append(&all.iter().copied().map(placed).collect::<Vec<_>>())
        .await?;
    node.append(&[completed(all[2])]).await?;
    eventually("the others", LONG, async || {
        let got = effects(&consumer.db, "order").await.ok()?;
        (got.len() == 3).then_some(())
    })
    .await;
    let letters = kept(&consumer, "letter").await?;
    assert_eq!(letters.len(), 1);
    assert!(
        letters[0]
            .2
            .as_ref()
            .is_some_and(|reason| reason.contains("not_this_one")),
        "{letters:?}"
    );
    proven(&node, &consumer.db).await
}

/// A fold that refuses everything must not turn a log into a heap of letters.
#[tokio::test]
async fn too_many_letters_stop_the_consumer() -> anyhow::Result<()> {
    let world = World::new(&["order", "analytics"]).await;
    let node = world.producer("order").await?;
    let recorder = Recorder::of(&["order"]);
    let poison = Arc::clone(&recorder.poison);
    let all = orders(15);
    poison
        .lock()
        .expect("not poisoned")
        .extend(all.iter().map(|order| order.uuid()));
    let consumer = world.consumer(&[&node], recorder).await?;
    node.append(&all.iter().copied().map(completed).collect::<Vec<_>>())
        .await?;
    eventually("a stopped consumer", LONG, async || {
        let parts = consumer.status.parts();
        match parts.get("fold recorder/0") {
            Some(Condition::Stopped(reason)) if reason.contains("more than 10 dead letters") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!(
        kept(&consumer, "letter").await?.len(),
        10,
        "the eleventh was not written"
    );
    let later = OrderId::generate();
    node.append(&[placed(later)]).await?;

    // Stopped everywhere, also after a restart.
    consumer.stop().await?;
    let recorder = Recorder {
        poison: Arc::clone(&poison),
        ..Recorder::of(&["order"])
    };
    let consumer = world.consumer(&[&node], recorder).await?;
    eventually("still stopped", LONG, async || {
        matches!(
            consumer.status.parts().get("fold recorder/0"),
            Some(Condition::Stopped(_))
        )
        .then_some(())
    })
    .await;
    assert!(effects(&consumer.db, "order").await?.is_empty());

    // The fault is repaired and the consumer resumed.
    poison.lock().expect("not poisoned").clear();
    assert!(resume_consumer(&consumer.db, "recorder").await?);
    eventually("the rest", LONG, async || {
        let got = effects(&consumer.db, "order").await.ok()?;
        (got.len() == 6).then_some(())
    })
    .await;
    proven(&node, &consumer.db).await
}
