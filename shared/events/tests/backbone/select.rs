//! E-36, filtered reads: what is wanted and nothing else, in the log's order, and any answer is a place to go on from.

use std::sync::Arc;

use futures_util::StreamExt as _;
use tonic::Code;
use uuid::Uuid;
use waybill_events::{NewEvent, Position};
use waybill_kernel::id::{MerchantId, OrderId};
use waybill_kernel::time::{Clock as _, SystemClock};
use waybill_proto::waybill::events::v1::event_log_service_client::EventLogServiceClient;
use waybill_proto::waybill::events::v1::{EventFilter, LoggedEvent, PartitionCursor, ReadEventsRequest};
use waybill_proto::waybill::order::v1::OrderPlaced;
use waybill_rpc::client::Channel;
use waybill_rpc::fault;

use crate::archive::{Folder, eager, filled, left};
use crate::support::*;

const PLACED: &str = "waybill.order.v1.OrderPlaced";
const COMPLETED: &str = "waybill.order.v1.OrderCompleted";

fn from_the_beginning() -> Vec<PartitionCursor> {
    crate::read::request(
        &(0..64)
            .map(|partition| (partition, Position::ZERO))
            .collect::<Vec<_>>(),
        0,
    )
    .cursors
}

/// Reads from some cursors on, as a person does: what is found, and where it ends.
struct Reader {
    client: EventLogServiceClient<Channel>,
    cursors: Vec<PartitionCursor>,
    filter: EventFilter,
    answers: usize,
}

impl Reader {
    fn new(node: &Node, filter: EventFilter) -> anyhow::Result<Reader> {
        Ok(Reader {
            client: EventLogServiceClient::new(node.channel()?),
            cursors: from_the_beginning(),
            filter,
            answers: 0,
        })
    }

    /// Goes on, and stops at the end, or after as many answers.
    async fn read(&mut self, limit: u32, answers: usize) -> anyhow::Result<Vec<LoggedEvent>> {
        let request = ReadEventsRequest {
            cursors: self.cursors.clone(),
            limit,
            filter: Some(self.filter.clone()),
        };
        let mut parts = self.client.read_events(request).await?.into_inner();
        let mut events = Vec::new();
        self.answers = 0;
        while self.answers < answers
            && let Some(part) = parts.next().await
        {
            let part = part?;
            anyhow::ensure!(part.events.len() <= 500, "{} events at once", part.events.len());
            anyhow::ensure!(part.resume != self.cursors, "an answer that gets nobody on");
            let named: Vec<u32> = part.resume.iter().map(|cursor| cursor.partition).collect();
            anyhow::ensure!(named.len() == 64, "{named:?}");
            self.cursors = part.resume;
            self.answers += 1;
            events.extend(part.events);
        }
        Ok(events)
    }

    /// All that is found by reading a few at a time, each call going on where the one before ended.
    async fn in_steps(&mut self, limit: u32) -> anyhow::Result<Vec<LoggedEvent>> {
        let mut all = Vec::new();
        loop {
            let events = self.read(limit, usize::MAX).await?;
            anyhow::ensure!(events.len() <= limit as usize, "{} of {limit}", events.len());
            all.extend(events);
            if self.answers == 0 {
                return Ok(all);
            }
        }
    }
}

async fn everything(node: &Node) -> anyhow::Result<Vec<LoggedEvent>> {
    Reader::new(node, EventFilter::default())?
        .read(0, usize::MAX)
        .await
}

fn wants(filter: &EventFilter, event: &LoggedEvent) -> bool {
    let time = |time: &prost_types::Timestamp| (time.seconds, time.nanos);
    let at = event.occurred_at.as_ref().map(time);
    (filter.types.is_empty() || filter.types.contains(&event.r#type))
        && (filter.partition_keys.is_empty() || filter.partition_keys.contains(&event.partition_key))
        && (filter.merchant_id.is_empty() || filter.merchant_id == event.merchant_id)
        && filter
            .occurred_from
            .as_ref()
            .is_none_or(|from| at >= Some(time(from)))
        && filter
            .occurred_before
            .as_ref()
            .is_none_or(|before| at < Some(time(before)))
}

/// An event of another merchant than that of all other tests.
fn of_another_merchant() -> NewEvent {
    let order = OrderId::generate();
    let message = OrderPlaced {
        order_id: order.to_string(),
        ..OrderPlaced::default()
    };
    NewEvent::new(
        MerchantId::from(Uuid::from_u128(3)),
        None,
        order,
        order,
        1,
        &message,
        SystemClock.now(),
    )
}

/// Filters of every kind, and some that want nothing, for a log of these events.
fn filters(log: &[LoggedEvent]) -> Vec<EventFilter> {
    let some = &log[log.len() / 3];
    let middle = log[log.len() / 2].occurred_at;
    let types = |types: &[&str]| types.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    vec![
        EventFilter::default(),
        EventFilter {
            types: types(&[COMPLETED]),
            ..EventFilter::default()
        },
        EventFilter {
            types: types(&[COMPLETED, PLACED, "waybill.order.v2.NotYet"]),
            ..EventFilter::default()
        },
        EventFilter {
            partition_keys: vec![some.partition_key.clone()],
            ..EventFilter::default()
        },
        EventFilter {
            partition_keys: log
                .iter()
                .take(40)
                .map(|event| event.partition_key.clone())
                .collect(),
            types: types(&[PLACED]),
            ..EventFilter::default()
        },
        EventFilter {
            merchant_id: Uuid::from_u128(3).to_string(),
            ..EventFilter::default()
        },
        EventFilter {
            occurred_from: middle,
            ..EventFilter::default()
        },
        EventFilter {
            occurred_before: middle,
            merchant_id: Uuid::from_u128(1).to_string(),
            ..EventFilter::default()
        },
        EventFilter {
            merchant_id: Uuid::from_u128(99).to_string(),
            ..EventFilter::default()
        },
    ]
}

/// However a log is read, each filter finds what the whole log has of it.
async fn all_filters(node: &Node, step: u32) -> anyhow::Result<()> {
    let log = everything(node).await?;
    let mut found_any = 0;
    for filter in filters(&log) {
        let expected: Vec<LoggedEvent> = log
            .iter()
            .filter(|event| wants(&filter, event))
            .cloned()
            .collect();
        let mut reader = Reader::new(node, filter.clone())?;
        assert_eq!(reader.read(0, usize::MAX).await?, expected, "{filter:?}");
        let end = reader.cursors.clone();
        assert_eq!(reader.read(0, usize::MAX).await?, [], "{filter:?} ends");
        assert_eq!(reader.cursors, end);
        let mut reader = Reader::new(node, filter.clone())?;
        assert_eq!(reader.in_steps(step).await?, expected, "{filter:?} in steps");
        found_any += usize::from(!expected.is_empty());
    }
    assert!(found_any >= 7, "{found_any} filters found anything");
    Ok(())
}

#[tokio::test]
async fn a_filter_finds_what_it_wants_and_nothing_else() -> anyhow::Result<()> {
    let world = World::new(&["order"]).await;
    let node = world
        .node("order", Default::default(), |backbone| backbone)
        .await?;
    let hot = OrderId::generate();
    for round in 0..6 {
        let mut events: Vec<NewEvent> = orders(60).into_iter().map(placed).collect();
        events.extend((0..120).map(|_| completed(hot)));
        events.extend((0..5).map(|_| of_another_merchant()));
        node.append(&events).await?;
        node.append_each(&orders(round).into_iter().map(completed).collect::<Vec<_>>())
            .await?;
    }
    settled(&node.db).await;
    let log = everything(&node).await?;
    assert_eq!(log.len(), 6 * 185 + 15);
    all_filters(&node, 17).await
}

/// The same when most of the log has left the database: order and completeness hold across the seam, from any place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_works_through_the_archive() -> anyhow::Result<()> {
    let world = World::new(&["order"]).await;
    let folder = Folder::new();
    let written = filled(&world, 500).await?;
    let archive = folder.archive()?;
    let node = world
        .node("order", Default::default(), |backbone| {
            backbone.upkeep(eager(archive))
        })
        .await?;
    left(&node.db, 8).await;
    // What is in the database alone, and what both have.
    let first = everything(&node).await?.swap_remove(3);
    let archived_order: OrderId = first.partition_key.parse()?;
    node.append(&[completed(archived_order), of_another_merchant()])
        .await?;
    node.append(&orders(20).into_iter().map(completed).collect::<Vec<_>>())
        .await?;
    settled(&node.db).await;
    let log = everything(&node).await?;
    assert_eq!(log.len(), written.len() + 22);

    let both = EventFilter {
        partition_keys: vec![archived_order.to_string()],
        ..EventFilter::default()
    };
    let found = Reader::new(&node, both)?.read(0, usize::MAX).await?;
    let types: Vec<&str> = found.iter().map(|event| event.r#type.as_str()).collect();
    assert_eq!(
        types,
        [PLACED, COMPLETED],
        "one from the archive, one from the database"
    );
    all_filters(&node, 13).await
}

/// While nothing is found, answers tell how far the read has come; whoever goes on from one of them misses nothing.
#[tokio::test]
async fn a_read_that_finds_nothing_gets_on() -> anyhow::Result<()> {
    let world = World::new(&["order"]).await;
    let node = world
        .node("order", Default::default(), |backbone| backbone)
        .await?;
    let many: Vec<NewEvent> = orders(26_000).into_iter().map(placed).collect();
    for some in many.chunks(2_000) {
        node.append(some).await?;
    }
    let last = OrderId::generate();
    node.append(&[completed(last)]).await?;
    settled(&node.db).await;

    let rare = EventFilter {
        types: vec![COMPLETED.to_owned()],
        ..EventFilter::default()
    };
    let mut reader = Reader::new(&node, rare.clone())?;
    let mut answers = 0;
    loop {
        // Each time the call is broken off after one answer.
        let found = reader.read(0, 1).await?;
        answers += 1;
        if let [event] = found.as_slice() {
            assert_eq!(event.partition_key, last.to_string());
            break;
        }
        assert!(
            found.is_empty() && reader.answers == 1,
            "the log ended after {answers} answers"
        );
    }
    assert!((2..30).contains(&answers), "{answers} answers for 26 000 events");

    // By key: its virtual partition alone is looked into, which takes no such time.
    let mut by_key = Reader::new(
        &node,
        EventFilter {
            partition_keys: vec![last.to_string()],
            ..EventFilter::default()
        },
    )?;
    let before = by_key.cursors.clone();
    assert_eq!(by_key.read(0, usize::MAX).await?.len(), 1);
    assert_eq!(by_key.answers, 1);
    let moved = before
        .iter()
        .zip(&by_key.cursors)
        .filter(|(before, after)| before != after);
    assert_eq!(moved.count(), 1, "the other partitions stay where they were");
    Ok(())
}

/// Reading beside writers, call after call: nothing is missed although transactions end in another order than they begin.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filtered_follower_misses_nothing() -> anyhow::Result<()> {
    let world = World::new(&["order"]).await;
    let node = Arc::new(
        world
            .node("order", Default::default(), |backbone| backbone)
            .await?,
    );
    let writers: Vec<_> = (0..4)
        .map(|_| {
            let node = Arc::clone(&node);
            tokio::spawn(async move {
                for order in orders(60) {
                    let mut tx = node.db.begin().await?;
                    node.log.append(&mut tx, &[placed(order)]).await?;
                    tokio::task::yield_now().await;
                    node.log.append(&mut tx, &[completed(order)]).await?;
                    tx.commit().await?;
                }
                anyhow::Ok(())
            })
        })
        .collect();
    let filter = EventFilter {
        types: vec![COMPLETED.to_owned()],
        ..EventFilter::default()
    };
    let mut reader = Reader::new(&node, filter.clone())?;
    let mut seen = Vec::new();
    while !writers.iter().all(tokio::task::JoinHandle::is_finished) {
        seen.extend(reader.read(0, usize::MAX).await?);
    }
    for writer in writers {
        writer.await??;
    }
    settled(&node.db).await;
    seen.extend(reader.read(0, usize::MAX).await?);
    let log = everything(&node).await?;
    let expected: Vec<LoggedEvent> = log.into_iter().filter(|event| wants(&filter, event)).collect();
    assert_eq!(expected.len(), 240);
    assert_eq!(seen, expected);
    Ok(())
}

#[tokio::test]
async fn filters_that_make_no_sense_are_refused() -> anyhow::Result<()> {
    let world = World::new(&["order"]).await;
    let node = world
        .node("order", Default::default(), |backbone| backbone)
        .await?;
    let mut client = EventLogServiceClient::new(node.channel()?);
    let wrong = EventFilter {
        types: vec![COMPLETED.to_owned(); 51],
        partition_keys: vec!["#1004".to_owned()],
        merchant_id: "mine".to_owned(),
        occurred_from: Some(prost_types::Timestamp {
            seconds: i64::MAX,
            nanos: 0,
        }),
        occurred_before: None,
    };
    let mut request = ReadEventsRequest {
        cursors: from_the_beginning(),
        limit: 0,
        filter: Some(wrong),
    };
    let refused = client.read_events(request.clone()).await.expect_err("refused");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert_eq!(fault::reason(&refused).as_deref(), Some("INVALID_FILTER"));
    let fields = |refused: &tonic::Status| -> Vec<String> {
        fault::bad_fields(refused)
            .into_iter()
            .map(|(field, _)| field)
            .collect()
    };
    let of_filter = [
        "filter.partition_keys[0]",
        "filter.types",
        "filter.merchant_id",
        "filter.occurred_from",
    ];
    assert_eq!(fields(&refused), of_filter);

    // Together with cursors that make none: all of it at once.
    request.cursors[1].partition = 64;
    let refused = client.read_events(request).await.expect_err("refused");
    assert_eq!(fault::reason(&refused).as_deref(), Some("INVALID_CURSORS"));
    assert_eq!(fields(&refused)[0], "cursors[1].partition");
    assert_eq!(fields(&refused)[1..], of_filter);
    Ok(())
}
