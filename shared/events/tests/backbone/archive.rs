//! E-17 to E-19: the oldest part of a log leaves the database for an archive, and the log is still whole.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt as _;
use tonic::Code;
use uuid::Uuid;
use waybill_events::cursor::Cursor;
use waybill_events::{Archive, Condition, FoldOptions, Position, UpkeepOptions};
use waybill_kernel::id::{EventId, OrderId};
use waybill_proto::waybill::events::v1::event_log_service_client::EventLogServiceClient;
use waybill_proto::waybill::events::v1::{
    ConsumerCursor, GetLogHeadsRequest, LoggedEvent, ReadEventsRequest, ReportCursorsRequest,
};
use waybill_rpc::fault;
use waybill_store::Db;
use waybill_testkit::eventually;

use crate::partitions::small;
use crate::read::request;
use crate::support::*;

/// A folder that goes with the test.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        Folder(std::env::temp_dir().join(format!("waybill-archive-{}", EventId::generate())))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn archive(&self) -> anyhow::Result<Archive> {
        Ok(Archive::open(&self.0.to_string_lossy())?)
    }

    /// All that is in it, by name.
    fn files(&self) -> Vec<PathBuf> {
        fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.path().is_dir() {
                    walk(&entry.path(), found);
                } else {
                    found.push(entry.path());
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.0, &mut found);
        found.sort();
        found
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

/// Archives whatever may go, at once.
pub fn eager(archive: Archive) -> UpkeepOptions {
    UpkeepOptions {
        archive: Some(archive),
        keep: Duration::ZERO,
        ..small()
    }
}

fn talkative() -> FoldOptions {
    FoldOptions {
        compare_every: Duration::from_millis(100),
        ..quick()
    }
}

/// What a log was before anything of it left: place and id of each event, in its order.
async fn whole(db: &Db) -> anyhow::Result<Vec<(Position, Uuid)>> {
    settled(db).await;
    let ids: Vec<Uuid> =
        sqlx::query_scalar("SELECT event_id FROM event_log ORDER BY generation, xid, position")
            .fetch_all(db.pool())
            .await?;
    Ok(positions(db).await?.into_iter().zip(ids).collect())
}

/// Events in many small partitions, all of it still in the database.
pub async fn filled(world: &World, events: usize) -> anyhow::Result<Vec<(Position, Uuid)>> {
    let node = world
        .node("order", Default::default(), |backbone| backbone.upkeep(small()))
        .await?;
    for some in orders(events).chunks(25) {
        eventually("room ahead", LONG, async || {
            let room: bool = sqlx::query_scalar(
                "SELECT coalesce(max(p.high), 0) > s.last_value + 50 FROM log_partition p, event_log_position s
                 GROUP BY s.last_value",
            )
            .fetch_one(node.db.pool())
            .await
            .ok()?;
            room.then_some(())
        })
        .await;
        node.append(&some.iter().copied().map(placed).collect::<Vec<_>>())
            .await?;
    }
    let log = whole(&node.db).await?;
    node.stop().await?;
    Ok(log)
}

/// How many partitions are in the archive, and how many of them have left the database.
async fn archived(db: &Db) -> (i64, i64) {
    sqlx::query_as("SELECT count(*), count(dropped_at) FROM log_archive")
        .fetch_one(db.pool())
        .await
        .expect("the log's own table")
}

pub async fn left(db: &Db, at_least: i64) {
    eventually("partitions that left", LONG, async || {
        let now = archived(db).await;
        if now.1 >= at_least { Ok(()) } else { Err(now) }
    })
    .await;
}

fn from_the_beginning() -> ReadEventsRequest {
    request(
        &(0..64)
            .map(|partition| (partition, Position::ZERO))
            .collect::<Vec<_>>(),
        0,
    )
}

async fn read(node: &Node, request: ReadEventsRequest) -> Result<Vec<LoggedEvent>, tonic::Status> {
    let mut client = EventLogServiceClient::new(node.channel().expect("a channel"));
    let mut chunks = client.read_events(request).await?.into_inner();
    let mut events = Vec::new();
    while let Some(chunk) = chunks.next().await {
        events.extend(chunk?.events);
    }
    Ok(events)
}

/// What is read is what was written, each event after its predecessor.
fn assert_is(events: &[LoggedEvent], log: &[(Position, Uuid)]) {
    let got: Vec<(Position, Uuid)> = events
        .iter()
        .map(|event| {
            let id = event.event_id.parse().expect("an id");
            (event.position.expect("a place").into(), id)
        })
        .collect();
    assert_eq!(got.len(), log.len());
    assert_eq!(got, log);
    let mut last: HashMap<u32, Position> = HashMap::new();
    for event in events {
        let prev: Position = event.prev.expect("a place").into();
        let place = event.position.expect("a place").into();
        assert_eq!(prev, last.insert(event.partition, place).unwrap_or_default());
    }
}

/// The whole way: partitions leave behind a consumer, the log is read as before from any place, heads are the same, the
/// relay and the consumer go on, and a consumer that begins anew takes everything, with the proof that the archive has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_left_is_still_part_of_the_log() -> anyhow::Result<()> {
    let world = World::new(&["order", "analytics"]).await;
    let folder = Folder::new();
    let log = filled(&world, 620).await?;
    let archive = folder.archive()?;
    let node = world
        .node("order", Default::default(), |backbone| {
            backbone.relay().upkeep(eager(archive))
        })
        .await?;
    let heads = async |node: &Node| {
        let mut client = EventLogServiceClient::new(node.channel()?);
        anyhow::Ok(
            client
                .get_log_heads(GetLogHeadsRequest {})
                .await?
                .into_inner()
                .heads,
        )
    };
    let before = heads(&node).await?;
    let consumer = world
        .consumer_with(
            &[&node],
            Recorder::of(&["order"]),
            talkative(),
            &world.nats_config(),
        )
        .await?;
    left(&node.db, 10).await;
    let here: i64 = sqlx::query_scalar("SELECT count(*) FROM event_log")
        .fetch_one(node.db.pool())
        .await?;
    assert!(here < 200, "{here} of 620 are still in the database");
    assert_eq!(heads(&node).await?, before);

    assert_is(&read(&node, from_the_beginning()).await?, &log);
    // From the middle of each partition, across the seam, and with a limit.
    let cursors: Vec<(usize, Position)> = (0..64)
        .map(|partition| {
            let own: Vec<Position> = before
                .iter()
                .filter(|head| head.partition == partition)
                .map(|head| head.position.expect("a place").into())
                .collect();
            let middle = log[log.len() / 2].0;
            (
                partition as usize,
                own.first().copied().unwrap_or_default().min(middle),
            )
        })
        .collect();
    let some = read(&node, request(&cursors, 0)).await?;
    let middle = log[log.len() / 2].0;
    assert_eq!(
        some.iter()
            .map(|event| event.position.expect("a place").into())
            .collect::<Vec<Position>>(),
        log.iter()
            .map(|(place, _)| *place)
            .filter(|place| *place > middle)
            .collect::<Vec<_>>()
    );
    assert_eq!(read(&node, request(&cursors, 33)).await?.len(), 33);

    // Who knows the transaction of an event finds it, wherever it is by now.
    for (place, id) in [log[3], log[log.len() / 3], log[log.len() - 1]] {
        let all = read(&node, from_the_beginning()).await?;
        let logged = all.iter().find(|event| event.event_id == id.to_string());
        let key: Uuid = logged.expect("it was read").partition_key.parse()?;
        let found = node.log.written_by(key, &[place.xid, u64::MAX >> 1]).await?;
        let found: Vec<(Position, Uuid)> = (found.iter())
            .map(|event| (event.position, event.event_id.uuid()))
            .collect();
        assert_eq!(found, [(place, id)]);
    }

    // Goes on: what follows has the right predecessor although that is in the archive.
    node.append(&orders(64).into_iter().map(placed).collect::<Vec<_>>())
        .await?;
    let mut log = log;
    let known: std::collections::HashSet<Uuid> = log.iter().map(|(_, id)| *id).collect();
    settled(&node.db).await;
    let rest = whole(&node.db).await?;
    log.extend(rest.into_iter().filter(|(_, id)| !known.contains(id)));
    assert_is(&read(&node, from_the_beginning()).await?, &log);
    took(&consumer.db, &log).await?;
    assert!(node.status.troubles().is_empty(), "{:?}", node.status.troubles());
    consumer.stop().await?;

    // And one that has nothing yet.
    let anew = world.connect("analytics").await?;
    sqlx::raw_sql("TRUNCATE fold_cursor, fold_lease, effect, known_key")
        .execute(anew.pool())
        .await?;
    let anew = world.consumer(&[&node], Recorder::of(&["order"])).await?;
    took(&anew.db, &log).await?;
    Ok(())
}

/// Waits until a consumer has taken all of the log, in order, each event once, and the cursors prove it.
async fn took(db: &Db, log: &[(Position, Uuid)]) -> anyhow::Result<()> {
    eventually("effect of every event", LONG, async || {
        let got = effects(db, "order").await.map_err(|error| error.to_string())?;
        if got.len() >= log.len() {
            Ok(())
        } else {
            Err(format!("{} of {}", got.len(), log.len()))
        }
    })
    .await;
    assert_eq!(effects(db, "order").await?.len(), log.len());
    let rows: Vec<(i64, Vec<u8>, i64)> = sqlx::query_as(
        "SELECT position, hash, count FROM fold_cursor WHERE consumer = 'recorder' AND source = 'order' AND count > 0",
    )
    .fetch_all(db.pool())
    .await?;
    let keys: HashMap<Uuid, Uuid> = sqlx::query_as::<_, (Uuid, Uuid)>("SELECT event_id, key FROM effect")
        .fetch_all(db.pool())
        .await?
        .into_iter()
        .collect();
    let mut proofs: HashMap<u16, Cursor> = HashMap::new();
    for (place, id) in log {
        let partition = waybill_kernel::partition::partition_of(keys[id]);
        proofs.entry(partition).or_default().take(*place, *id);
    }
    assert_eq!(rows.len(), proofs.len());
    for (position, hash, count) in rows {
        let proof = proofs.values().find(|proof| proof.position.position == position);
        let proof = proof.expect("a cursor stands on the last event of its partition");
        assert_eq!((proof.count, proof.hash.as_slice()), (count, hash.as_slice()));
    }
    Ok(())
}

/// Nothing leaves before everybody has it, nor before its time.
#[tokio::test]
async fn a_slow_consumer_keeps_the_log() -> anyhow::Result<()> {
    let world = World::new(&["order"]).await;
    let folder = Folder::new();
    let log = filled(&world, 300).await?;
    let quiet = world
        .node("order", Default::default(), |backbone| backbone)
        .await?;
    // One that the first partition has an event of.
    let behind: i16 = sqlx::query_scalar("SELECT vpartition FROM event_log ORDER BY position LIMIT 1")
        .fetch_one(quiet.db.pool())
        .await?;
    let report = |log: &[(Position, Uuid)], slow: bool| ReportCursorsRequest {
        service: "other".to_owned(),
        consumer: "slow".to_owned(),
        cursors: (0..64)
            .map(|partition| ConsumerCursor {
                partition,
                position: (!slow || partition != behind as u32).then(|| log[log.len() - 1].0.into()),
                count: 1,
                hash: vec![0; 32],
            })
            .collect(),
    };
    let mut client = EventLogServiceClient::new(quiet.channel()?);
    client.report_cursors(report(&log, true)).await?;

    let node = world
        .node("order", Default::default(), |backbone| {
            backbone.upkeep(eager(folder.archive().expect("a folder")))
        })
        .await?;
    condition(&node, "log", |condition| *condition == Condition::Working).await;
    eventually("closed partitions", LONG, async || {
        let closed: i64 =
            sqlx::query_scalar("SELECT count(*) FROM log_partition WHERE closed_at IS NOT NULL")
                .fetch_one(node.db.pool())
                .await
                .ok()?;
        (closed >= 4).then_some(())
    })
    .await;
    assert_eq!(
        archived(&node.db).await,
        (0, 0),
        "one partition of one consumer is behind"
    );
    client.report_cursors(report(&log, false)).await?;
    left(&node.db, 4).await;
    assert_is(&read(&node, from_the_beginning()).await?, &log);
    Ok(())
}

/// Two replicas with one archive, one of them ended in the middle of it, and leftovers of an earlier crash.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_and_crashes_leave_one_archive() -> anyhow::Result<()> {
    let world = World::new(&["order"]).await;
    let folder = Folder::new();
    let log = filled(&world, 500).await?;
    // As a crash leaves it: an object that nobody has written down, and that is not what is to be written.
    let quiet = world
        .node("order", Default::default(), |backbone| backbone)
        .await?;
    let system: i64 = sqlx::query_scalar("SELECT system_identifier FROM log_identity")
        .fetch_one(quiet.db.pool())
        .await?;
    let last: i64 =
        sqlx::query_scalar("SELECT position FROM log_partition WHERE low = 1 AND closed_at IS NOT NULL")
            .fetch_optional(quiet.db.pool())
            .await?
            .unwrap_or(50);
    let leftover = folder.path().join(format!(
        "order/{:016x}/1/{:020}-{last}.events.gz",
        system as u64, 1
    ));
    std::fs::create_dir_all(leftover.parent().expect("a folder"))?;
    std::fs::write(&leftover, b"half of it")?;

    let archive = folder.archive()?;
    let one = world
        .node("order", Default::default(), |backbone| {
            backbone.upkeep(eager(archive.clone()))
        })
        .await?;
    let two = world
        .node("order", Default::default(), |backbone| {
            backbone.upkeep(eager(archive.clone()))
        })
        .await?;
    eventually("something in the archive", LONG, async || {
        let now = archived(&two.db).await;
        (now.0 > 0).then_some(())
    })
    .await;
    one.crash().await;
    left(&two.db, 9).await;
    assert_is(&read(&two, from_the_beginning()).await?, &log);
    let (entries, _) = archived(&two.db).await;
    let objects = folder
        .files()
        .iter()
        .filter(|file| file.extension().is_some_and(|end| end == "gz"))
        .count();
    assert_eq!(objects as i64, entries, "{:?}", folder.files());
    Ok(())
}

/// An archive that is away keeps the log in the database; a table that somebody reads for long stays, archived, until it
/// can be dropped. Nothing else waits for either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_leave_now_leaves_later() -> anyhow::Result<()> {
    let world = World::new(&["order"]).await;
    let folder = Folder::new();
    let log = filled(&world, 300).await?;
    let archive = folder.archive()?;
    // Nobody can write below a file.
    std::fs::remove_dir_all(folder.path())?;
    std::fs::write(folder.path(), b"")?;
    let node = world
        .node("order", Default::default(), |backbone| {
            backbone.upkeep(eager(archive))
        })
        .await?;
    condition(&node, "log", |condition| {
        matches!(condition, Condition::Retrying(_))
    })
    .await;
    assert_eq!(archived(&node.db).await, (0, 0));
    node.append(&[placed(OrderId::generate())]).await?;

    let mut reader = world.db.admin().await;
    sqlx::raw_sql("BEGIN; SELECT count(*) FROM \"order\".event_log_1")
        .execute(&mut reader)
        .await?;
    std::fs::remove_file(folder.path())?;
    std::fs::create_dir(folder.path())?;
    eventually("an archived partition", LONG, async || {
        let now = archived(&node.db).await;
        (now.0 > 0).then_some(())
    })
    .await;
    condition(&node, "log", |condition| {
        matches!(condition, Condition::Retrying(_))
    })
    .await;
    assert_eq!(archived(&node.db).await, (1, 0), "archived, not dropped");
    node.append(&[placed(OrderId::generate())]).await?;
    // Read is what no transaction of the server can put anything in front of, those of other tests included.
    settled(&node.db).await;
    assert_eq!(read(&node, from_the_beginning()).await?.len(), log.len() + 2);

    sqlx::raw_sql("COMMIT").execute(&mut reader).await?;
    left(&node.db, 5).await;
    let events = read(&node, from_the_beginning()).await?;
    assert_is(&events[..log.len()], &log);
    condition(&node, "log", |condition| *condition == Condition::Working).await;
    Ok(())
}

/// What neither the log nor the archive has is told by name, and so is what the archive has and should not.
#[tokio::test]
async fn a_cursor_expires_when_nobody_has_its_events() -> anyhow::Result<()> {
    let world = World::new(&["order"]).await;
    let folder = Folder::new();
    let log = filled(&world, 300).await?;
    let archive = folder.archive()?;
    let node = world
        .node("order", Default::default(), |backbone| {
            backbone.upkeep(eager(archive))
        })
        .await?;
    left(&node.db, 5).await;

    // One that was not told where the archive is.
    let poor = world
        .node("order", Default::default(), |backbone| backbone)
        .await?;
    let refused = read(&poor, from_the_beginning()).await.expect_err("expired");
    assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");
    assert_eq!(fault::reason(&refused).as_deref(), Some("CURSOR_EXPIRED"));
    let at_the_end = request(
        &(0..64)
            .map(|partition| (partition, log[log.len() - 1].0))
            .collect::<Vec<_>>(),
        0,
    );
    assert!(
        read(&poor, at_the_end).await?.is_empty(),
        "what is here can be read"
    );

    let first = folder
        .files()
        .into_iter()
        .find(|file| file.extension().is_some_and(|end| end == "gz"))
        .expect("an object");
    let mut bytes = std::fs::read(&first)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&first, &bytes)?;
    let refused = read(&node, from_the_beginning()).await.expect_err("damaged");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert_eq!(fault::reason(&refused).as_deref(), Some("ARCHIVE_DAMAGED"));

    std::fs::remove_file(&first)?;
    let refused = read(&node, from_the_beginning()).await.expect_err("expired");
    assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");
    Ok(())
}

/// A relay that comes back long after: the end of its stream has left the database. That is no lost history.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_finds_the_end_of_its_stream_in_the_archive() -> anyhow::Result<()> {
    let world = World::new(&["order", "analytics"]).await;
    let folder = Folder::new();
    let relay = world.producer("order").await?;
    relay
        .append_each(&orders(10).into_iter().map(placed).collect::<Vec<_>>())
        .await?;
    published(&world, &relay).await?;
    relay.stop().await?;
    filled(&world, 400).await?;
    let archive = folder.archive()?;
    let node = world
        .node("order", Default::default(), |backbone| {
            backbone.upkeep(eager(archive.clone()))
        })
        .await?;
    let log = whole(&node.db).await?;
    let consumer = world
        .consumer_with(
            &[&node],
            Recorder::of(&["order"]),
            talkative(),
            &world.nats_config(),
        )
        .await?;
    left(&node.db, 6).await;
    node.stop().await?;

    let node = world
        .node("order", Default::default(), |backbone| {
            backbone.relay().upkeep(eager(archive))
        })
        .await?;
    condition(&node, "relay", |condition| *condition == Condition::Working).await;
    node.append(&orders(5).into_iter().map(placed).collect::<Vec<_>>())
        .await?;
    eventually("the new events in the stream", LONG, async || {
        let last = positions(&node.db).await.ok()?.last().copied();
        let told = stream(&world, "order").await.ok()?;
        (told.last().copied() == last).then_some(())
    })
    .await;
    drop(consumer);
    let again = world.consumer(&[&node], Recorder::of(&["order"])).await?;
    eventually("every event", LONG, async || {
        let got = effects(&again.db, "order")
            .await
            .map_err(|error| error.to_string())?;
        if got.len() >= 415 {
            Ok(())
        } else {
            Err(got.len()).map_err(|some| some.to_string())
        }
    })
    .await;
    assert!(log.len() <= 410);
    assert!(
        again.status.troubles().is_empty(),
        "{:?}",
        again.status.troubles()
    );
    Ok(())
}
