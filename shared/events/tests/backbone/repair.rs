//! E-20, E-21: a person repairs and discards by RPC; order and exactly once are kept.

use std::sync::Arc;

use prost::Message as _;
use tonic::Code;
use uuid::Uuid;
use waybill_kernel::id::OrderId;
use waybill_proto::waybill::events::v1 as pb;
use waybill_proto::waybill::order::v1::OrderCompleted;
use waybill_testkit::eventually;

use crate::operator::*;
use crate::support::*;

#[tokio::test]
async fn a_poison_event_is_repaired_by_command() -> anyhow::Result<()> {
    let world = World::new(&["order", "refund", "analytics"]).await;
    let order_node = world.producer("order").await?;
    let refund_node = world.producer("refund").await?;
    let recorder = Recorder {
        opening: true,
        echo: true,
        ..Recorder::of(&["order", "refund"])
    };
    let sickness = Arc::clone(&recorder.poison);
    let sick = OrderId::generate();
    poison(&sickness, sick);
    let consumer = world.consumer(&[&order_node, &refund_node], recorder).await?;
    order_node.append(&[placed(sick), completed(sick)]).await?;
    keeps(&consumer, sick, 1).await;
    refund_node.append(&[refund_created(sick)]).await?;
    let kept = keeps(&consumer, sick, 2).await;
    let letter = &kept[0];
    assert_eq!(
        (letter.kind(), kept[1].kind()),
        (pb::LetterKind::Letter, pb::LetterKind::Parked)
    );

    // It is looked at.
    let mut operator = operator(&consumer)?;
    let shown = operator
        .get_dead_letter(pb::GetDeadLetterRequest {
            letter_id: letter.letter_id.clone(),
        })
        .await?
        .into_inner();
    assert!(
        shown.payload_json.contains(&sick.to_string()),
        "{}",
        shown.payload_json
    );
    assert_eq!(shown.parked_behind, 1);
    let payload = shown.event.expect("the whole event").payload;
    assert_eq!(OrderCompleted::decode(payload)?.order_id, sick.to_string());

    // The cause is not repaired: it stays, with what was wrong this time.
    let vain = operator
        .retry_dead_letter(retry("r-1", letter))
        .await?
        .into_inner();
    assert_eq!((vain.outcome(), vain.applied), (pb::RepairOutcome::Blocked, 0));
    let vain = vain.letter.expect("it blocks its key");
    assert_eq!((vain.tries, &vain.letter_id), (1, &letter.letter_id));
    assert_eq!(effects_of(&consumer.db, sick).await?.len(), 1);

    // The cause is repaired: it takes effect, and what was parked, in order, with events of the fold's own.
    heal(&sickness);
    let done = operator
        .retry_dead_letter(retry_key("r-2", sick))
        .await?
        .into_inner();
    assert_eq!((done.outcome(), done.applied), (pb::RepairOutcome::Free, 2));
    let expected = [
        ("order", "OrderPlaced"),
        ("order", "OrderCompleted"),
        ("refund", "RefundCreated"),
    ]
    .map(|(log, name)| (log.to_owned(), name.to_owned()));
    assert_eq!(effects_of(&consumer.db, sick).await?, expected);
    assert_eq!(
        consumer.ids().await?.len(),
        3,
        "an event of its own for each: react ran too"
    );

    // The same request is answered as before, another one finds nothing.
    let again = operator
        .retry_dead_letter(retry_key("r-2", sick))
        .await?
        .into_inner();
    assert_eq!(again, done);
    let other = operator
        .retry_dead_letter(retry("r-3", letter))
        .await
        .expect_err("it is gone");
    assert_eq!(
        (other.code(), reason_of(&other).as_deref()),
        (Code::NotFound, Some("LETTER_NOT_FOUND"))
    );
    let reused = operator
        .retry_dead_letter(retry("r-2", letter))
        .await
        .expect_err("another request");
    assert_eq!(reason_of(&reused).as_deref(), Some("REQUEST_ID_REUSED"));

    // Its events flow again, and all was written down.
    refund_node.append(&[refund_created(sick)]).await?;
    eventually("the next event", LONG, async || {
        let got = effects_of(&consumer.db, sick).await.ok()?;
        (got.len() == 4).then_some(())
    })
    .await;
    let log = actions(&consumer, sick).await?;
    assert_eq!(log.len(), 2, "{log:?}");
    assert_eq!((log[0].outcome(), log[0].applied), (pb::RepairOutcome::Free, 2));
    assert_eq!(
        (log[1].outcome(), log[1].request_id.as_str()),
        (pb::RepairOutcome::Blocked, "r-1")
    );
    assert!(log.iter().all(|action| action.caller == "service:test"
        && action.kind() == pb::ConsumerActionKind::Retry
        && action.letter_id == letter.letter_id));
    let changed = sqlx::query("UPDATE fold_audit SET caller = 'nobody'")
        .execute(consumer.db.pool())
        .await;
    assert!(changed.is_err(), "what was done stays written");
    proven(&order_node, &consumer.db).await?;
    proven(&refund_node, &consumer.db).await
}

#[tokio::test]
async fn a_letter_is_given_up_and_its_successors_go_on() -> anyhow::Result<()> {
    let world = World::new(&["order", "analytics"]).await;
    let node = world.producer("order").await?;
    let recorder = Recorder::of(&["order"]);
    let sickness = Arc::clone(&recorder.poison);
    let sick = OrderId::generate();
    let all: Vec<_> = (0..4).map(|_| completed(sick)).collect();
    let ids: Vec<Uuid> = all.iter().map(|event| event.id().uuid()).collect();
    // The first and the third.
    poison(&sickness, ids[0]);
    poison(&sickness, ids[2]);
    let consumer = world.consumer(&[&node], recorder).await?;
    node.append(&all).await?;
    let kept = keeps(&consumer, sick, 4).await;

    let mut operator = operator(&consumer)?;
    let parked = operator
        .discard_dead_letter(discard("d-0", &kept[1]))
        .await
        .expect_err("it is parked");
    assert_eq!(reason_of(&parked).as_deref(), Some("NOT_A_LETTER"));
    assert!(parked.message().contains(&kept[0].letter_id), "{parked:?}");

    let first = operator
        .discard_dead_letter(discard("d-1", &kept[0]))
        .await?
        .into_inner();
    assert_eq!((first.applied, first.outcome()), (1, pb::RepairOutcome::Blocked));
    let next = first.letter.expect("the third event");
    assert_eq!(next.event_id, ids[2].to_string());
    assert_eq!(ids_of(&consumer, sick).await?, [ids[1]]);

    let second = operator
        .discard_dead_letter(discard("d-2", &next))
        .await?
        .into_inner();
    assert_eq!((second.applied, second.outcome()), (1, pb::RepairOutcome::Free));
    assert_eq!(ids_of(&consumer, sick).await?, [ids[1], ids[3]]);
    let again = operator
        .discard_dead_letter(discard("d-2", &next))
        .await?
        .into_inner();
    assert_eq!(again, second);

    // What was given up is kept, with who did it and why.
    let log = actions(&consumer, sick).await?;
    let given_up: Vec<String> = log
        .iter()
        .filter_map(|action| action.discarded.as_ref().map(|event| event.event_id.clone()))
        .collect();
    assert_eq!(given_up, [ids[2].to_string(), ids[0].to_string()]);
    assert!(
        log.iter()
            .all(|action| action.reason == "sent by mistake" && !action.caller.is_empty())
    );
    proven(&node, &consumer.db).await
}

/// More successors than one transaction takes.
#[tokio::test]
async fn many_successors_go_in_steps() -> anyhow::Result<()> {
    let world = World::new(&["order", "analytics"]).await;
    let node = world.producer("order").await?;
    let recorder = Recorder::of(&["order"]);
    let sickness = Arc::clone(&recorder.poison);
    let sick = OrderId::generate();
    let all: Vec<_> = (0..350).map(|_| completed(sick)).collect();
    let ids: Vec<Uuid> = all.iter().map(|event| event.id().uuid()).collect();
    poison(&sickness, ids[0]);
    let consumer = world.consumer(&[&node], recorder).await?;
    node.append(&all).await?;
    keeps(&consumer, sick, 350).await;
    heal(&sickness);
    // One of them fails in the third transaction.
    poison(&sickness, ids[250]);
    let mut operator = operator(&consumer)?;
    let stuck = operator
        .retry_dead_letter(retry_key("r-1", sick))
        .await?
        .into_inner();
    assert_eq!(
        (stuck.applied, stuck.outcome()),
        (250, pb::RepairOutcome::Blocked)
    );
    assert_eq!(
        stuck.letter.expect("the one that failed").event_id,
        ids[250].to_string()
    );
    let left = keeps(&consumer, sick, 100).await;
    assert_eq!(
        left.iter()
            .filter(|one| one.kind() == pb::LetterKind::Letter)
            .count(),
        1
    );
    heal(&sickness);
    let done = operator
        .retry_dead_letter(retry_key("r-2", sick))
        .await?
        .into_inner();
    assert_eq!((done.applied, done.outcome()), (100, pb::RepairOutcome::Free));
    assert_eq!(ids_of(&consumer, sick).await?, ids);
    let outcomes: Vec<_> = actions(&consumer, sick)
        .await?
        .iter()
        .rev()
        .map(|action| (action.applied, action.outcome()))
        .collect();
    use pb::RepairOutcome::{Blocked, Free, GoingOn};
    assert_eq!(
        outcomes,
        [(100, GoingOn), (100, GoingOn), (50, Blocked), (100, Free)]
    );
    proven(&node, &consumer.db).await
}

/// Events that wait for their key keep their place: right after the event that opens it, before what came later.
#[tokio::test]
async fn a_repair_keeps_the_order_of_the_waiting() -> anyhow::Result<()> {
    let world = World::new(&["order", "refund", "analytics"]).await;
    let order_node = world.producer("order").await?;
    let refund_node = world.producer("refund").await?;
    let recorder = Recorder {
        opening: true,
        loose: true,
        ..Recorder::of(&["order", "refund"])
    };
    let sickness = Arc::clone(&recorder.poison);
    let sick = OrderId::generate();
    let waiting = [refund_created(sick), refund_created(sick)];
    let [first, second] = [waiting[0].id().uuid(), waiting[1].id().uuid()];
    let orders = [completed(sick), placed(sick), completed(sick)];
    let [bad, opening, last] = [
        orders[0].id().uuid(),
        orders[1].id().uuid(),
        orders[2].id().uuid(),
    ];
    poison(&sickness, bad);
    let consumer = world.consumer(&[&order_node, &refund_node], recorder).await?;
    refund_node.append(&waiting).await?;
    eventually("two waiting events", LONG, async || {
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM fold_waiting")
            .fetch_one(consumer.db.pool())
            .await
            .ok()?;
        (count == 2).then_some(())
    })
    .await;
    // Poison that need not wait, then the event that opens the key, parked behind it.
    order_node.append(&orders).await?;
    let kept = keeps(&consumer, sick, 3).await;

    // The opening event fails: what waits goes on waiting.
    heal(&sickness);
    poison(&sickness, opening);
    let mut operator = operator(&consumer)?;
    let answer = operator
        .retry_dead_letter(retry("r-1", &kept[0]))
        .await?
        .into_inner();
    assert_eq!(answer.applied, 1);
    assert_eq!(
        answer.letter.expect("the opening event").event_id,
        opening.to_string()
    );
    // One of those that waited fails: it is the letter, the others are parked behind it, in their order.
    heal(&sickness);
    poison(&sickness, first);
    let answer = operator
        .retry_dead_letter(retry_key("r-2", sick))
        .await?
        .into_inner();
    assert_eq!(answer.applied, 1);
    assert_eq!(answer.letter.expect("it had waited").event_id, first.to_string());
    let left: Vec<String> = keeps(&consumer, sick, 3)
        .await
        .into_iter()
        .map(|one| one.event_id)
        .collect();
    assert_eq!(left, [first, second, last].map(|id| id.to_string()));
    heal(&sickness);
    operator.retry_dead_letter(retry_key("r-3", sick)).await?;
    assert_eq!(
        ids_of(&consumer, sick).await?,
        [bad, opening, first, second, last]
    );
    proven(&order_node, &consumer.db).await?;
    proven(&refund_node, &consumer.db).await
}

/// The event that opens a key is given up: what follows waits, and takes effect when the key is known in another way.
#[tokio::test]
async fn successors_of_a_discarded_opening_wait() -> anyhow::Result<()> {
    let world = World::new(&["order", "analytics"]).await;
    let node = world.producer("order").await?;
    let recorder = Recorder {
        opening: true,
        ..Recorder::of(&["order"])
    };
    let sickness = Arc::clone(&recorder.poison);
    let sick = OrderId::generate();
    let events = [placed(sick), completed(sick), completed(sick)];
    let ids = events.each_ref().map(|event| event.id().uuid());
    poison(&sickness, ids[0]);
    let consumer = world.consumer(&[&node], recorder).await?;
    node.append(&events[..2]).await?;
    let kept = keeps(&consumer, sick, 2).await;
    let answer = operator(&consumer)?
        .discard_dead_letter(discard("d-1", &kept[0]))
        .await?
        .into_inner();
    assert_eq!(
        (answer.applied, answer.waiting, answer.outcome()),
        (0, 1, pb::RepairOutcome::Free)
    );
    sqlx::query("INSERT INTO known_key VALUES ($1)")
        .bind(sick.uuid())
        .execute(consumer.db.pool())
        .await?;
    node.append(&events[2..]).await?;
    eventually("both", LONG, async || {
        let got = ids_of(&consumer, sick).await.ok()?;
        (got == ids[1..]).then_some(())
    })
    .await;
    proven(&node, &consumer.db).await
}
