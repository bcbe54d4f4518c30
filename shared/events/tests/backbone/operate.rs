//! E-20, E-22: repairs that race with each other and with the live fold; pause and resume; what the lists show.

use std::sync::Arc;

use uuid::Uuid;
use waybill_kernel::id::OrderId;
use waybill_proto::waybill::events::v1 as pb;
use waybill_rpc::fault;
use waybill_testkit::eventually;

use crate::operator::*;
use crate::support::*;

/// Fifty callers at once, at two replicas, while the live fold adds events of the same key: one effect each, in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_retries_and_the_live_fold() -> anyhow::Result<()> {
    let world = World::new(&["order", "analytics"]).await;
    let node = world.producer("order").await?;
    let recorder = Recorder::of(&["order"]);
    let sickness = Arc::clone(&recorder.poison);
    let replica = recorder.clone();
    let sick = OrderId::generate();
    poison(&sickness, sick);
    let consumer = world.consumer(&[&node], recorder).await?;
    let other = world.consumer(&[&node], replica).await?;
    node.append(&[completed(sick), completed(sick)]).await?;
    let kept = keeps(&consumer, sick, 2).await;
    heal(&sickness);
    let callers: Vec<_> = (0..50)
        .map(|caller| {
            let operator = operator(if caller % 2 == 0 { &consumer } else { &other });
            let request = retry(&format!("r-{caller}"), &kept[0]);
            tokio::spawn(async move { anyhow::Ok(operator?.retry_dead_letter(request).await) })
        })
        .collect();
    // Live events of the key meanwhile: parked, or applied, but never in front of what was there before.
    let more: Vec<_> = (0..40).map(|_| completed(sick)).collect();
    node.append_each(&more).await?;
    let mut repaired = 0;
    for caller in callers {
        match caller.await?? {
            Ok(answer) => {
                repaired += 1;
                assert_eq!(answer.into_inner().outcome(), pb::RepairOutcome::Free);
            }
            Err(status) => assert_eq!(
                reason_of(&status).as_deref(),
                Some("LETTER_NOT_FOUND"),
                "{status:?}"
            ),
        }
    }
    assert_eq!(repaired, 1, "one caller did it");
    converged(&node, &consumer.db).await?;
    assert_eq!(effects(&consumer.db, "order").await?, node.ids().await?);
    assert!(kept_nothing(&consumer).await?);
    Ok(())
}

async fn kept_nothing(node: &Node) -> anyhow::Result<bool> {
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM fold_dead_letter")
        .fetch_one(node.db.pool())
        .await?;
    Ok(count == 0)
}

/// A key that goes sick and is repaired again and again, under load.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repairs_under_load() -> anyhow::Result<()> {
    let world = World::new(&["order", "refund", "analytics"]).await;
    let order_node = world.producer("order").await?;
    let refund_node = world.producer("refund").await?;
    let recorder = Recorder {
        opening: true,
        ..Recorder::of(&["order", "refund"])
    };
    let sickness = Arc::clone(&recorder.poison);
    let consumer = world.consumer(&[&order_node, &refund_node], recorder).await?;
    let all = orders_of_one_partition(5);
    let mut operator = operator(&consumer)?;
    for round in 0..20_usize {
        let sick = all[round % all.len()];
        poison(&sickness, sick);
        let first: Vec<_> = all.iter().copied().map(placed).collect();
        if round == 0 {
            order_node.append(&first).await?;
        }
        let batch: Vec<_> = all.iter().copied().map(completed).collect();
        let refunds: Vec<_> = all.iter().copied().map(refund_created).collect();
        tokio::try_join!(order_node.append_each(&batch), refund_node.append_each(&refunds))?;
        let kept = eventually("a letter", LONG, async || {
            let kept = kept(&consumer, sick).await.ok()?;
            (!kept.is_empty()).then_some(kept)
        })
        .await;
        heal(&sickness);
        // As early as it can be, so that the live fold is still at work on the same key.
        let answer = operator
            .retry_dead_letter(retry(&format!("r-{round}"), &kept[0]))
            .await?
            .into_inner();
        assert_eq!(answer.outcome(), pb::RepairOutcome::Free, "{answer:?}");
    }
    converged(&order_node, &consumer.db).await?;
    converged(&refund_node, &consumer.db).await?;
    for order in &all {
        for (node, source) in [(&order_node, "order"), (&refund_node, "refund")] {
            let log: Vec<Uuid> = sqlx::query_scalar(
                "SELECT event_id FROM event_log WHERE partition_key = $1 ORDER BY generation, xid, position",
            )
            .bind(order.uuid())
            .fetch_all(node.db.pool())
            .await?;
            let got: Vec<Uuid> = sqlx::query_scalar(
                "SELECT event_id FROM effect WHERE key = $1 AND source = $2 ORDER BY number",
            )
            .bind(order.uuid())
            .bind(source)
            .fetch_all(consumer.db.pool())
            .await?;
            assert_eq!(got, log, "the events of one key in the order of their log");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_consumer_is_paused_and_resumed() -> anyhow::Result<()> {
    let world = World::new(&["order", "analytics"]).await;
    let node = world.producer("order").await?;
    let consumer = world.consumer(&[&node], Recorder::of(&["order"])).await?;
    node.append(&orders(20).into_iter().map(placed).collect::<Vec<_>>())
        .await?;
    converged(&node, &consumer.db).await?;
    let mut operator = operator(&consumer)?;
    let pause = |request_id: &str, reason: &str| pb::PauseConsumerRequest {
        request_id: request_id.to_owned(),
        consumer: "recorder".to_owned(),
        reason: reason.to_owned(),
    };
    let paused = operator
        .pause_consumer(pause("p-1", "maintenance of the index"))
        .await?
        .into_inner();
    assert_eq!(paused.state(), pb::ConsumerState::Paused);
    // No lease outlives the answer, so no batch does.
    let owned: i64 = sqlx::query_scalar("SELECT count(*) FROM fold_lease WHERE owner IS NOT NULL")
        .fetch_one(consumer.db.pool())
        .await?;
    assert_eq!(owned, 0);
    let again = operator
        .pause_consumer(pause("p-2", "another reason"))
        .await?
        .into_inner();
    assert_eq!(again.reason, "maintenance of the index", "the first reason stays");

    node.append(&orders(5).into_iter().map(placed).collect::<Vec<_>>())
        .await?;
    settled(&node.db).await;
    let seen = eventually("a lag", LONG, async || {
        let list = operator
            .clone()
            .list_consumers(pb::ListConsumersRequest::default())
            .await;
        let list = list.map_err(|status| status.to_string())?.into_inner().consumers;
        let one = list.into_iter().next().ok_or("no consumer")?;
        if one.sources[0].lag_events == Some(5) {
            Ok(one)
        } else {
            Err(format!("{one:?}"))
        }
    })
    .await;
    assert_eq!(
        (seen.state(), seen.reason.as_str()),
        (pb::ConsumerState::Paused, "maintenance of the index")
    );
    assert!(seen.sources[0].lag_seconds.is_some_and(|seconds| seconds >= 0.0));
    assert_eq!((seen.sources[0].taken, seen.unowned_partitions.len()), (20, 64));
    condition(&consumer, "fold recorder/0", |condition| {
        condition.label() == "stopped"
    })
    .await;
    assert_eq!(effects(&consumer.db, "order").await?.len(), 20);

    let resumed = operator
        .resume_consumer(pb::ResumeConsumerRequest {
            request_id: "u-1".to_owned(),
            consumer: "recorder".to_owned(),
            reason: String::new(),
        })
        .await?
        .into_inner();
    assert!(resumed.was_stopped);
    converged(&node, &consumer.db).await?;
    let unknown = operator
        .pause_consumer(pb::PauseConsumerRequest {
            consumer: "nobody".to_owned(),
            ..pause("p-3", "why not")
        })
        .await
        .expect_err("no such consumer");
    assert_eq!(reason_of(&unknown).as_deref(), Some("CONSUMER_NOT_FOUND"));
    assert!(unknown.message().contains("recorder"), "{unknown:?}");
    let log = operator
        .list_consumer_actions(pb::ListConsumerActionsRequest::default())
        .await?
        .into_inner()
        .actions;
    use pb::ConsumerActionKind::{Pause, Resume};
    assert_eq!(
        log.iter().map(pb::ConsumerAction::kind).collect::<Vec<_>>(),
        [Resume, Pause, Pause]
    );
    Ok(())
}

#[tokio::test]
async fn lists_are_paged_and_bad_requests_named() -> anyhow::Result<()> {
    let world = World::new(&["order", "analytics"]).await;
    let node = world.producer("order").await?;
    let recorder = Recorder::of(&["order"]);
    let sickness = Arc::clone(&recorder.poison);
    let sick = OrderId::generate();
    poison(&sickness, sick);
    let consumer = world.consumer(&[&node], recorder).await?;
    let all: Vec<_> = (0..5).map(|_| completed(sick)).collect();
    node.append(&all).await?;
    keeps(&consumer, sick, 5).await;
    let mut operator = operator(&consumer)?;
    let mut request = pb::ListDeadLettersRequest {
        consumer: "recorder".to_owned(),
        page_size: 2,
        ..pb::ListDeadLettersRequest::default()
    };
    let (mut seen, mut pages) = (Vec::new(), 0);
    loop {
        let page = operator.list_dead_letters(request.clone()).await?.into_inner();
        seen.extend(page.letters.into_iter().map(|one| one.event_id));
        pages += 1;
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let expected: Vec<String> = all.iter().map(|event| event.id().to_string()).collect();
    assert_eq!((seen, pages), (expected, 3));
    // A token leads on in its own list only, and every fault is named at once.
    request.page_token = waybill_kernel::page::PageToken::encode("another list", &["3".to_owned()]);
    request.key = "no key".to_owned();
    request.kind = 77;
    let refused = operator
        .list_dead_letters(request)
        .await
        .expect_err("three faults");
    let mut fields: Vec<String> = fault::bad_fields(&refused)
        .into_iter()
        .map(|(field, _)| field)
        .collect();
    fields.sort();
    assert_eq!(fields, ["key", "kind", "page_token"]);
    let refused = operator
        .retry_dead_letter(pb::RetryDeadLetterRequest::default())
        .await
        .expect_err("nothing is given");
    let mut fields: Vec<String> = fault::bad_fields(&refused)
        .into_iter()
        .map(|(field, _)| field)
        .collect();
    fields.sort();
    assert_eq!(fields, ["request_id", "target"]);
    Ok(())
}
