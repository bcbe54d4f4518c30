//! E-15: a log knows who follows it and how far each is.

use std::time::Duration;

use tonic::Code;
use waybill_events::{FoldOptions, Position};
use waybill_proto::waybill::events::v1::event_log_service_client::EventLogServiceClient;
use waybill_proto::waybill::events::v1::{
    ConsumerCursor, ForgetLogConsumerRequest, ListLogConsumersRequest, ListLogConsumersResponse, LogPosition,
    ReportCursorsRequest,
};
use waybill_rpc::client::Channel;
use waybill_rpc::fault;
use waybill_testkit::eventually;

use crate::support::*;

type Client = EventLogServiceClient<Channel>;

/// Reports soon enough for a test to see it.
fn talkative() -> FoldOptions {
    FoldOptions {
        compare_every: Duration::from_millis(100),
        ..quick()
    }
}

async fn list(client: &mut Client) -> anyhow::Result<ListLogConsumersResponse> {
    Ok(client
        .list_log_consumers(ListLogConsumersRequest {})
        .await?
        .into_inner())
}

fn report(service: &str, cursors: &[(u32, i64, i64)]) -> ReportCursorsRequest {
    ReportCursorsRequest {
        service: service.to_owned(),
        consumer: "facts".to_owned(),
        cursors: cursors
            .iter()
            .map(|&(partition, generation, position)| ConsumerCursor {
                partition,
                position: Some(LogPosition {
                    generation,
                    transaction_id: 700,
                    position,
                }),
                count: position,
                hash: vec![7; 32],
            })
            .collect(),
    }
}

fn forget(service: &str, force: bool) -> ForgetLogConsumerRequest {
    ForgetLogConsumerRequest {
        service: service.to_owned(),
        consumer: "facts".to_owned(),
        force,
    }
}

/// A consumer is registered by running, also one of the log's own service, and the log hears how far it comes.
#[tokio::test]
async fn consumers_register_themselves_and_tell_how_far_they_are() -> anyhow::Result<()> {
    let world = World::new(&["order", "analytics"]).await;
    let node = world.producer("order").await?;
    let following = world
        .consumer_with(
            &[&node],
            Recorder::of(&["order"]),
            talkative(),
            &world.nats_config(),
        )
        .await?;
    sqlx::raw_sql(crate::recorder::TABLES)
        .execute(node.db.pool())
        .await?;
    let _own = world
        .node("order", Default::default(), |backbone| {
            backbone.fold_with(Recorder::of(&["order"]), talkative())
        })
        .await?;
    node.append(&orders(200).into_iter().map(placed).collect::<Vec<_>>())
        .await?;
    converged(&node, &following.db).await?;

    let mut client = Client::new(node.channel()?);
    let heads = client.get_log_heads(waybill_proto::waybill::events::v1::GetLogHeadsRequest {});
    let heads = heads.await?.into_inner().heads;
    let told = eventually("two consumers at the head", LONG, async || {
        let told = list(&mut Client::new(node.channel().ok()?)).await.ok()?;
        let reached = heads.iter().all(|head| told.passed.contains(head));
        (told.consumers.len() == 2 && reached).then_some(told)
    })
    .await;
    let names: Vec<(&str, &str)> = told
        .consumers
        .iter()
        .map(|one| (one.service.as_str(), one.consumer.as_str()))
        .collect();
    assert_eq!(names, [("analytics", "recorder"), ("order", "recorder")]);
    assert_eq!(told.highest_generation, 1);
    assert_eq!(node.log.highest_generation_seen().await?, 1);
    for one in &told.consumers {
        assert_eq!(one.cursors.len(), 64);
        assert_eq!(one.cursors.iter().map(|cursor| cursor.count).sum::<i64>(), 200);
    }
    // What was told is what the cursors prove.
    let proof: Vec<(i16, Vec<u8>)> =
        sqlx::query_as("SELECT vpartition, hash FROM fold_cursor ORDER BY vpartition")
            .fetch_all(following.db.pool())
            .await?;
    let hashes: Vec<(i16, Vec<u8>)> = told.consumers[0]
        .cursors
        .iter()
        .map(|cursor| (cursor.partition as i16, cursor.hash.clone()))
        .collect();
    assert_eq!(hashes, proof);
    Ok(())
}

/// The slowest counts; one that has said nothing of a partition counts as not having begun. A generation that was seen
/// is never forgotten.
#[tokio::test]
async fn the_log_knows_what_everybody_has_passed() -> anyhow::Result<()> {
    let world = World::new(&["order"]).await;
    let node = world
        .node("order", Default::default(), |backbone| backbone)
        .await?;
    let mut client = Client::new(node.channel()?);
    assert!(list(&mut client).await?.passed.is_empty(), "nobody, nothing");

    client
        .report_cursors(report("one", &[(0, 3, 40), (1, 1, 20)]))
        .await?;
    let answer = client.report_cursors(report("two", &[(0, 1, 50)])).await?;
    assert_eq!(answer.into_inner().generation, 1);
    let told = list(&mut client).await?;
    let passed: Vec<Position> = told
        .passed
        .iter()
        .map(|place| place.position.expect("a place").into())
        .collect();
    assert_eq!(passed.len(), 64);
    assert_eq!(
        (passed[0].generation, passed[0].position),
        (1, 50),
        "places are compared by generation first"
    );
    assert!(passed[1..].iter().all(|place| place.is_zero()));

    // An older copy of a consumer reports less: its place falls, what it has seen does not.
    client.report_cursors(report("one", &[(0, 1, 4)])).await?;
    let told = list(&mut client).await?;
    assert_eq!(told.passed[0].position.expect("a place").position, 4);
    assert_eq!(told.highest_generation, 3);
    assert_eq!(node.log.highest_generation_seen().await?, 3);
    Ok(())
}

#[tokio::test]
async fn a_consumer_is_forgotten_by_a_person_only() -> anyhow::Result<()> {
    let world = World::new(&["order"]).await;
    let node = world
        .node("order", Default::default(), |backbone| backbone)
        .await?;
    let mut client = Client::new(node.channel()?);
    client.report_cursors(report("one", &[(0, 1, 4)])).await?;

    let refused = client
        .forget_log_consumer(forget("one", false))
        .await
        .expect_err("alive");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert_eq!(fault::reason(&refused).as_deref(), Some("CONSUMER_ALIVE"));
    assert_eq!(list(&mut client).await?.consumers.len(), 1);

    // Quiet for long enough.
    sqlx::query("UPDATE log_consumer SET seen_at = now() - interval '11 minutes'")
        .execute(node.db.pool())
        .await?;
    client.forget_log_consumer(forget("one", false)).await?;
    assert!(list(&mut client).await?.consumers.is_empty());
    let refused = client
        .forget_log_consumer(forget("one", true))
        .await
        .expect_err("gone");
    assert_eq!(refused.code(), Code::NotFound, "{refused:?}");

    // One that comes back is registered again, and force takes it although it is there.
    client.report_cursors(report("one", &[(0, 1, 4)])).await?;
    client.forget_log_consumer(forget("one", true)).await?;
    assert!(list(&mut client).await?.consumers.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_log_takes_so_many_consumers_and_sound_reports_only() -> anyhow::Result<()> {
    let world = World::new(&["order"]).await;
    let node = world
        .node("order", Default::default(), |backbone| backbone)
        .await?;
    sqlx::query(
        "INSERT INTO log_consumer (service, consumer, vpartition, generation, xid, position, count, hash, generation_seen)
         SELECT 'service' || n, 'facts', 0, 1, '700', 1, 1, decode(repeat('07', 32), 'hex'), 1
         FROM generate_series(1, 256) AS n",
    )
    .execute(node.db.pool())
    .await?;
    let mut client = Client::new(node.channel()?);
    let refused = client
        .report_cursors(report("one-more", &[(0, 1, 1)]))
        .await
        .expect_err("full");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    client.report_cursors(report("service7", &[(0, 1, 2)])).await?;

    let refused = client
        .report_cursors(report("No Name", &[(64, 1, -2)]))
        .await
        .expect_err("refused");
    assert_eq!(refused.code(), Code::InvalidArgument);
    let fields: Vec<String> = fault::bad_fields(&refused)
        .into_iter()
        .map(|(field, _)| field)
        .collect();
    assert_eq!(
        fields,
        [
            "service",
            "cursors[0].partition",
            "cursors[0].position",
            "cursors[0].count"
        ]
    );
    Ok(())
}
