//! E-25 to E-28: a log that lost commits is recovered by command, and its consumers converge on what survived.

use waybill_events::{Condition, Position};
use waybill_kernel::id::OrderId;
use waybill_proto::waybill::events::v1::{
    GetHistoryRequest, ListOrphansRequest, ListPhantomsRequest, Phantom, RecoverLogRequest,
};
use waybill_rpc::fault;
use waybill_testkit::eventually;

use crate::support::*;

fn wish(request_id: &str) -> RecoverLogRequest {
    RecoverLogRequest {
        request_id: request_id.to_owned(),
        reason: "restored from last night's copy".to_owned(),
        ..RecoverLogRequest::default()
    }
}

/// Takes the last events of the log of `order` away, as a copy from before them would.
async fn put_back(world: &World, events: i64) -> anyhow::Result<()> {
    let mut admin = world.db.admin().await;
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
        "SET session_replication_role = replica;
         DELETE FROM \"order\".event_log WHERE position IN
             (SELECT position FROM \"order\".event_log ORDER BY generation DESC, xid DESC, position DESC LIMIT {events})",
    )))
    .execute(&mut admin)
    .await?;
    Ok(())
}

async fn phantoms(consumer: &Node) -> anyhow::Result<Vec<Phantom>> {
    let request = ListPhantomsRequest::default();
    Ok(consumer
        .history()?
        .list_phantoms(request)
        .await?
        .into_inner()
        .phantoms)
}

/// The whole way: the copy is noticed before the service takes calls, a person recovers it, what was lost is kept by name,
/// the consumer that had applied it lists it and goes on, and so does one that had not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_lost_events_is_recovered_by_command() -> anyhow::Result<()> {
    let world = World::new(&["order", "analytics"]).await;
    let node = world.producer("order").await?;
    let consumer = world.consumer(&[&node], Recorder::of(&["order"])).await?;
    let all = orders(8);
    node.append_each(&all[..6].iter().copied().map(placed).collect::<Vec<_>>())
        .await?;
    converged(&node, &consumer.db).await?;
    published(&world, &node).await?;
    let told = node.ids().await?;
    node.crash().await;
    consumer.crash().await;
    put_back(&world, 2).await?;

    let node = world.producer("order").await?;
    let mut person = node.history()?;
    let seen = person.get_history(GetHistoryRequest {}).await?.into_inner();
    assert!(seen.fenced_reason.contains("is not in the log"), "{seen:?}");
    assert!(seen.stream_end.is_some() && !seen.stream_end_in_log, "{seen:?}");

    let done = person.recover_log(wish("night-1")).await?.into_inner().recovery;
    let done = done.expect("a recovery");
    assert_eq!((done.from_generation, done.generation, done.orphans), (1, 2, 2));
    let again = person.recover_log(wish("night-1")).await?.into_inner().recovery;
    assert_eq!(again.as_ref(), Some(&done), "the same request, the same answer");
    let refused = person
        .recover_log(wish("night-2"))
        .await
        .expect_err("there is nothing to recover");
    assert_eq!(fault::reason(&refused).as_deref(), Some("LOG_NOT_FENCED"));

    let orphans = person
        .list_orphans(ListOrphansRequest::default())
        .await?
        .into_inner();
    let lost: Vec<String> = orphans
        .orphans
        .iter()
        .filter_map(|orphan| orphan.event.as_ref().map(|event| event.event_id.clone()))
        .collect();
    let expected: Vec<String> = told[4..].iter().map(ToString::to_string).collect();
    assert_eq!(lost, expected, "kept by name, in their order");

    node.append_each(&all[6..].iter().copied().map(placed).collect::<Vec<_>>())
        .await?;
    let consumer = world.consumer(&[&node], Recorder::of(&["order"])).await?;
    converged(&node, &consumer.db).await?;
    let listed = phantoms(&consumer).await?;
    let mut names: Vec<String> = listed.iter().map(|phantom| phantom.event_id.clone()).collect();
    names.sort();
    assert_eq!(names, expected, "what was applied and is gone: {listed:?}");
    assert!(
        listed
            .iter()
            .all(|phantom| phantom.generation == 2 && phantom.count == 1)
    );
    let node_at = person.get_history(GetHistoryRequest {}).await?.into_inner();
    assert_eq!(
        (node_at.generation, node_at.recovered, node_at.orphans),
        (2, 2, 2)
    );

    // The stream keeps what it has told, and goes on behind it.
    let log = positions(&node.db).await?;
    eventually("the new history behind the orphans", LONG, async || {
        let places: Vec<Position> = stream(&world, "order").await.map_err(|error| error.to_string())?;
        if places.len() == 6 + 64 + 2 && places.last() == log.last() {
            Ok(())
        } else {
            Err(places.len().to_string())
        }
    })
    .await;
    Ok(())
}

/// The database was put back, its server started anew, and the stream was emptied at the same time: nobody can tell, and
/// events are written before anybody notices. A consumer notices, stands still, and converges once a person has recovered
/// the log: what was written meanwhile is applied, not skipped, although it took the places of what was lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stream_is_gone_as_well() -> anyhow::Result<()> {
    let world = World::new(&["order", "analytics"]).await;
    let node = world.producer("order").await?;
    let consumer = world.consumer(&[&node], Recorder::of(&["order"])).await?;
    let all = orders_of_one_partition(8);
    node.append_each(&all[..5].iter().copied().map(placed).collect::<Vec<_>>())
        .await?;
    converged(&node, &consumer.db).await?;
    published(&world, &node).await?;
    node.crash().await;
    put_back(&world, 2).await?;
    let mut admin = world.db.admin().await;
    sqlx::raw_sql(
        "UPDATE \"order\".log_identity SET proven_on = proven_on - interval '1 minute';
         SELECT setval('\"order\".event_log_position', 3)",
    )
    .execute(&mut admin)
    .await?;
    world.nats.wipe().await?;

    let node = world.producer("order").await?;
    node.append_each(&all[5..7].iter().copied().map(placed).collect::<Vec<_>>())
        .await?;
    let consumer = {
        consumer.stop().await?;
        world.consumer(&[&node], Recorder::of(&["order"])).await?
    };
    eventually("a consumer that stands still", LONG, async || {
        let parts = consumer.status.parts();
        let stuck = parts
            .values()
            .any(|condition| matches!(condition, Condition::HistoryDiffers(_)));
        stuck.then_some(()).ok_or_else(|| format!("{parts:?}"))
    })
    .await;
    assert_eq!(
        effects(&consumer.db, "order").await?.len(),
        5,
        "nothing is guessed"
    );

    let mut person = node.history()?;
    let request = RecoverLogRequest {
        force: true,
        ..wish("night-1")
    };
    let done = person.recover_log(request).await?.into_inner().recovery;
    assert_eq!(done.map(|done| (done.generation, done.orphans)), Some((3, 0)));
    node.append(&[placed(all[7])]).await?;

    let expected = node.ids().await?;
    eventually("effect of all that survived", LONG, async || {
        let got = effects(&consumer.db, "order")
            .await
            .map_err(|error| error.to_string())?;
        let missing = expected.iter().filter(|id| !got.contains(id)).count();
        if missing == 0 {
            Ok(())
        } else {
            Err(format!("{missing} missing"))
        }
    })
    .await;
    eventually("a proof", LONG, async || {
        proven(&node, &consumer.db)
            .await
            .map_err(|error| error.to_string())
    })
    .await;
    let got = effects(&consumer.db, "order").await?;
    assert_eq!(
        got.len(),
        expected.len() + 2,
        "each once, beside the two that are gone"
    );
    let listed = phantoms(&consumer).await?;
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(
        (listed[0].count, listed[0].event_id.as_str()),
        (2, ""),
        "a range: {listed:?}"
    );
    eventually("no trouble left", LONG, async || {
        let troubles = consumer.status.troubles();
        troubles.is_empty().then_some(()).ok_or(troubles)
    })
    .await;
    Ok(())
}

/// Someone who is behind when the log is rewound takes what tells of it as an event like any other.
#[tokio::test]
async fn who_saw_nothing_of_it_lists_nothing() -> anyhow::Result<()> {
    let world = World::new(&["order", "analytics"]).await;
    let node = world.producer("order").await?;
    node.append_each(&orders(4).into_iter().map(placed).collect::<Vec<_>>())
        .await?;
    published(&world, &node).await?;
    node.crash().await;
    put_back(&world, 1).await?;
    let node = world.producer("order").await?;
    node.history()?.recover_log(wish("night-1")).await?;
    node.append(&[placed(OrderId::generate())]).await?;
    let consumer = world.consumer(&[&node], Recorder::of(&["order"])).await?;
    converged(&node, &consumer.db).await?;
    assert!(phantoms(&consumer).await?.is_empty());
    Ok(())
}
