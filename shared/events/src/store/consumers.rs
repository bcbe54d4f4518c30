//! SQL of the log's registered consumers: report, list, forget.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgExecutor};
use waybill_kernel::partition::PARTITIONS;
use waybill_store::error::StoreError;

use super::log::place;
use crate::cursor::Cursor;
use crate::position::Position;

/// The most consumers that a log takes.
const MOST_CONSUMERS: i64 = 256;

/// Writes down how far a consumer is. Returns the generation the log writes in; `None` when there are too many consumers
/// for a new one.
pub(crate) async fn report(
    executor: impl PgExecutor<'_>,
    service: &str,
    consumer: &str,
    cursors: &[(u16, Cursor)],
) -> Result<Option<i64>, StoreError> {
    let (generation, allowed): (i64, bool) = sqlx::query_as(
        "WITH allowed AS (
             SELECT EXISTS (SELECT FROM log_consumer WHERE service = $1 AND consumer = $2)
                 OR (SELECT count(*) FROM (SELECT DISTINCT service, consumer FROM log_consumer) c) < $9 AS yes
         ), written AS (
             INSERT INTO log_consumer AS c
                 (service, consumer, vpartition, generation, xid, position, count, hash, generation_seen)
             SELECT $1, $2, r.vpartition, r.generation, r.xid, r.position, r.count, r.hash, r.generation
             FROM allowed a
             CROSS JOIN UNNEST($3::smallint[], $4::bigint[], $5::text[]::xid8[], $6::bigint[], $7::bigint[], $8::bytea[])
                  AS r (vpartition, generation, xid, position, count, hash)
             WHERE a.yes
             ORDER BY r.vpartition
             ON CONFLICT (service, consumer, vpartition) DO UPDATE
             SET generation = EXCLUDED.generation, xid = EXCLUDED.xid, position = EXCLUDED.position,
                 count = EXCLUDED.count, hash = EXCLUDED.hash,
                 generation_seen = GREATEST(c.generation_seen, EXCLUDED.generation), seen_at = clock_timestamp()
             RETURNING 1
         )
         SELECT i.generation, a.yes FROM log_identity i, allowed a",
    )
    .bind(service)
    .bind(consumer)
    .bind(cursors.iter().map(|(partition, _)| *partition as i16).collect::<Vec<_>>())
    .bind(cursors.iter().map(|(_, c)| c.position.generation).collect::<Vec<_>>())
    .bind(cursors.iter().map(|(_, c)| c.position.xid.to_string()).collect::<Vec<_>>())
    .bind(cursors.iter().map(|(_, c)| c.position.position).collect::<Vec<_>>())
    .bind(cursors.iter().map(|(_, c)| c.count).collect::<Vec<_>>())
    .bind(cursors.iter().map(|(_, c)| c.hash.as_slice()).collect::<Vec<_>>())
    .bind(MOST_CONSUMERS)
    .fetch_one(executor)
    .await?;
    Ok(allowed.then_some(generation))
}

/// A registered consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Registered {
    pub service: String,
    pub consumer: String,
    pub registered_at: DateTime<Utc>,
    pub seen_at: DateTime<Utc>,
    pub generation_seen: i64,
    pub cursors: Vec<(u16, Cursor)>,
}

#[derive(FromRow)]
struct Row {
    service: String,
    consumer: String,
    vpartition: i16,
    generation: i64,
    xid: i64,
    position: i64,
    count: i64,
    hash: Vec<u8>,
    generation_seen: i64,
    registered_at: DateTime<Utc>,
    seen_at: DateTime<Utc>,
}

/// All registered consumers, by service and name.
pub(crate) async fn all(executor: impl PgExecutor<'_>) -> Result<Vec<Registered>, StoreError> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT service, consumer, vpartition, generation, xid::text::bigint AS xid, position, count, hash,
                generation_seen, registered_at, seen_at
         FROM log_consumer ORDER BY service, consumer, vpartition",
    )
    .fetch_all(executor)
    .await?;
    let mut all: Vec<Registered> = Vec::new();
    for row in rows {
        let cursor = Cursor {
            position: place(row.generation, row.xid, row.position),
            count: row.count,
            hash: row.hash.try_into().map_err(|hash: Vec<u8>| {
                StoreError::decode(format!("a cursor's hash has {} bytes", hash.len()))
            })?,
        };
        match all.last_mut() {
            Some(last) if last.service == row.service && last.consumer == row.consumer => {
                last.registered_at = last.registered_at.min(row.registered_at);
                last.seen_at = last.seen_at.max(row.seen_at);
                last.generation_seen = last.generation_seen.max(row.generation_seen);
                last.cursors.push((row.vpartition as u16, cursor));
            }
            _ => all.push(Registered {
                service: row.service,
                consumer: row.consumer,
                registered_at: row.registered_at,
                seen_at: row.seen_at,
                generation_seen: row.generation_seen,
                cursors: vec![(row.vpartition as u16, cursor)],
            }),
        }
    }
    Ok(all)
}

/// The place that every registered consumer has reached, per virtual partition; `None` when nobody is registered.
#[must_use]
pub(crate) fn passed(consumers: &[Registered]) -> Option<[Position; PARTITIONS as usize]> {
    let at = |consumer: &Registered| {
        let mut places = [Position::ZERO; PARTITIONS as usize];
        for (partition, cursor) in &consumer.cursors {
            places[usize::from(*partition)] = cursor.position;
        }
        places
    };
    consumers.iter().map(at).reduce(|mut lowest, places| {
        for (low, place) in lowest.iter_mut().zip(places) {
            *low = place.min(*low);
        }
        lowest
    })
}

/// The highest generation that any registered consumer has ever seen; 0 when none has seen any.
pub(crate) async fn highest_generation(executor: impl PgExecutor<'_>) -> Result<i64, StoreError> {
    Ok(
        sqlx::query_scalar("SELECT coalesce(max(generation_seen), 0) FROM log_consumer")
            .fetch_one(executor)
            .await?,
    )
}

/// What became of the wish to forget a consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forgotten {
    Yes,
    /// Nobody of this name is registered.
    Unknown,
    /// It has reported since then.
    Alive(DateTime<Utc>),
}

/// Forgets a consumer, unless it has reported within `quiet`.
pub(crate) async fn forget(
    executor: impl PgExecutor<'_>,
    service: &str,
    consumer: &str,
    quiet: Option<Duration>,
) -> Result<Forgotten, StoreError> {
    let (last_seen, forgotten): (Option<DateTime<Utc>>, bool) = sqlx::query_as(
        "WITH seen AS (
             SELECT max(seen_at) AS at FROM log_consumer WHERE service = $1 AND consumer = $2
         ), gone AS (
             DELETE FROM log_consumer c USING seen s
             WHERE c.service = $1 AND c.consumer = $2
               AND ($3::float8 IS NULL OR s.at < clock_timestamp() - make_interval(secs => $3))
             RETURNING 1
         )
         SELECT s.at, EXISTS (SELECT FROM gone) FROM seen s",
    )
    .bind(service)
    .bind(consumer)
    .bind(quiet.map(|quiet| quiet.as_secs_f64()))
    .fetch_one(executor)
    .await?;
    Ok(match (last_seen, forgotten) {
        (_, true) => Forgotten::Yes,
        (None, false) => Forgotten::Unknown,
        (Some(at), false) => Forgotten::Alive(at),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn consumer(cursors: &[(u16, i64)]) -> Registered {
        Registered {
            service: "analytics".to_owned(),
            consumer: "analytics".to_owned(),
            registered_at: DateTime::UNIX_EPOCH,
            seen_at: DateTime::UNIX_EPOCH,
            generation_seen: 1,
            cursors: cursors
                .iter()
                .map(|(partition, position)| {
                    let cursor = Cursor {
                        position: place(1, 9, *position),
                        ..Cursor::default()
                    };
                    (*partition, cursor)
                })
                .collect(),
        }
    }

    #[test]
    fn the_slowest_consumer_counts_and_silence_counts_as_the_beginning() {
        assert_eq!(passed(&[]), None);
        let passed = passed(&[consumer(&[(0, 5), (1, 7)]), consumer(&[(0, 6)])]).expect("two consumers");
        assert_eq!(passed[0], place(1, 9, 5));
        assert_eq!(passed[1], Position::ZERO, "the other one has said nothing of it");
        assert_eq!(passed[2], Position::ZERO);
    }
}
