//! The reading side over gRPC: any position, chunks in log order, limits, faults by name.

use std::collections::HashMap;

use futures_util::StreamExt as _;
use tonic::Code;
use waybill_events::Position;
use waybill_kernel::id::OrderId;
use waybill_proto::waybill::events::v1::event_log_service_client::EventLogServiceClient;
use waybill_proto::waybill::events::v1::{
    GetLogHeadsRequest, LoggedEvent, PartitionCursor, ReadEventsRequest,
};
use waybill_rpc::client::Channel;

use crate::support::*;

pub fn request(cursors: &[(usize, Position)], limit: u32) -> ReadEventsRequest {
    ReadEventsRequest {
        cursors: cursors
            .iter()
            .map(|(partition, after)| PartitionCursor {
                partition: *partition as u32,
                after: Some((*after).into()),
            })
            .collect(),
        limit,
        filter: None,
    }
}

async fn read(
    client: &mut EventLogServiceClient<Channel>,
    cursors: &[(usize, Position)],
    limit: u32,
) -> anyhow::Result<Vec<LoggedEvent>> {
    let mut chunks = client.read_events(request(cursors, limit)).await?.into_inner();
    let mut events = Vec::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk?.events;
        anyhow::ensure!(
            !chunk.is_empty() && chunk.len() <= 500,
            "a chunk of {}",
            chunk.len()
        );
        events.extend(chunk);
    }
    Ok(events)
}

fn place(event: &LoggedEvent) -> Position {
    event.position.expect("an event has a place").into()
}

/// A log that is uneven: one order has most of the events.
async fn uneven(node: &Node) -> anyhow::Result<()> {
    let hot = OrderId::generate();
    let many: Vec<_> = (0..1300).map(|_| completed(hot)).collect();
    for half in many.chunks(650) {
        let others: Vec<_> = orders(400).into_iter().map(placed).collect();
        node.append(half).await?;
        node.append(&others).await?;
    }
    settled(&node.db).await;
    Ok(())
}

#[tokio::test]
async fn every_partition_is_read_from_its_own_place() -> anyhow::Result<()> {
    let world = World::new(&["order"]).await;
    let node = world
        .node("order", Default::default(), |backbone| backbone)
        .await?;
    uneven(&node).await?;
    let log = positions(&node.db).await?;
    let mut client = EventLogServiceClient::new(node.channel()?);

    let all: Vec<(usize, Position)> = (0..64).map(|partition| (partition, Position::ZERO)).collect();
    let events = read(&mut client, &all, 0).await?;
    assert_eq!(
        events.iter().map(place).collect::<Vec<_>>(),
        log,
        "the whole log, in its order"
    );
    let mut last: HashMap<u32, Position> = HashMap::new();
    for event in &events {
        let prev = last.insert(event.partition, place(event)).unwrap_or_default();
        assert_eq!(event.prev.map(Position::from).unwrap_or_default(), prev);
    }

    // Each partition from the middle of its events on, in one call and one by one.
    let middles: Vec<(usize, Position)> = (0..64)
        .map(|partition| {
            let own: Vec<Position> = events
                .iter()
                .filter(|event| event.partition as usize == partition)
                .map(place)
                .collect();
            (partition, own.get(own.len() / 2).copied().unwrap_or_default())
        })
        .collect();
    let expected: Vec<Position> = events
        .iter()
        .filter(|event| place(event) > middles[event.partition as usize].1)
        .map(place)
        .collect();
    let together = read(&mut client, &middles, 0).await?;
    assert_eq!(together.iter().map(place).collect::<Vec<_>>(), expected);
    let mut one_by_one = Vec::new();
    for middle in &middles {
        let events = read(&mut client, std::slice::from_ref(middle), 0).await?;
        if let Some(first) = events.first() {
            assert_eq!(
                first.prev.map(Position::from),
                Some(middle.1),
                "prev of the first is the cursor"
            );
        }
        one_by_one.extend(events.iter().map(place));
    }
    one_by_one.sort();
    assert_eq!(one_by_one, expected);

    assert_eq!(read(&mut client, &all, 777).await?.len(), 777);
    assert_eq!(
        read(&mut client, &all, 777)
            .await?
            .iter()
            .map(place)
            .collect::<Vec<_>>(),
        log[..777],
        "a limit cuts the end off and nothing else"
    );
    Ok(())
}

/// A cursor that stands where the log has nothing (it lost it) is answered with the true predecessor.
#[tokio::test]
async fn a_place_that_the_log_does_not_have_is_noticed() -> anyhow::Result<()> {
    let world = World::new(&["order"]).await;
    let node = world
        .node("order", Default::default(), |backbone| backbone)
        .await?;
    let order = OrderId::generate();
    node.append_each(&[placed(order), completed(order)]).await?;
    settled(&node.db).await;
    let log = positions(&node.db).await?;
    let partition = usize::from(waybill_kernel::partition::partition_of(order.uuid()));
    let between = Position {
        position: log[0].position + 1_000_000,
        ..log[0]
    };
    let mut client = EventLogServiceClient::new(node.channel()?);
    let events = read(&mut client, &[(partition, between)], 0).await?;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].prev.map(Position::from), Some(log[0]));
    Ok(())
}

#[tokio::test]
async fn heads_are_the_last_places() -> anyhow::Result<()> {
    let world = World::new(&["order"]).await;
    let node = world
        .node("order", Default::default(), |backbone| backbone)
        .await?;
    let mut client = EventLogServiceClient::new(node.channel()?);
    let empty = client.get_log_heads(GetLogHeadsRequest {}).await?.into_inner();
    assert!(empty.heads.is_empty());
    assert_eq!(empty.generation, 1);

    uneven(&node).await?;
    let all: Vec<(usize, Position)> = (0..64).map(|partition| (partition, Position::ZERO)).collect();
    let mut expected: HashMap<u32, Position> = HashMap::new();
    for event in read(&mut client, &all, 0).await? {
        expected.insert(event.partition, place(&event));
    }
    let heads = client
        .get_log_heads(GetLogHeadsRequest {})
        .await?
        .into_inner()
        .heads;
    let got: HashMap<u32, Position> = heads
        .iter()
        .map(|head| (head.partition, head.position.expect("a head has a place").into()))
        .collect();
    assert_eq!(got, expected);
    Ok(())
}

#[tokio::test]
async fn cursors_that_make_no_sense_are_refused() -> anyhow::Result<()> {
    let world = World::new(&["order"]).await;
    let node = world
        .node("order", Default::default(), |backbone| backbone)
        .await?;
    let mut client = EventLogServiceClient::new(node.channel()?);
    for cursors in [
        vec![],
        vec![(64, Position::ZERO)],
        vec![(1, Position::ZERO), (1, Position::ZERO)],
    ] {
        let refused = client
            .read_events(request(&cursors, 0))
            .await
            .expect_err("refused");
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        assert!(refused.message().contains("cursors"), "{refused:?}");
    }
    Ok(())
}
