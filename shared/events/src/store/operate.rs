//! SQL of whoever operates consumers: pause and resume, the list of what was asked, and how consumers are.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection, PgExecutor};
use uuid::Uuid;
use waybill_store::error::StoreError;

use super::repair::KeptRow;
use crate::position::Position;

/// Why a consumer does not work, and since when.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub(crate) struct Stop {
    pub consumer: String,
    pub kind: String,
    pub reason: String,
    pub stopped_at: DateTime<Utc>,
}

/// The consumers among `consumers` that do not work.
pub(crate) async fn stops(
    executor: impl PgExecutor<'_>,
    consumers: &[&str],
) -> Result<Vec<Stop>, StoreError> {
    Ok(sqlx::query_as(
        "SELECT consumer, kind, reason, stopped_at FROM fold_stopped WHERE consumer = ANY ($1)",
    )
    .bind(consumers)
    .fetch_all(executor)
    .await?)
}

/// Pauses a consumer. False when it does not work already; the first reason stays.
pub(crate) async fn pause(conn: &mut PgConnection, consumer: &str, reason: &str) -> Result<bool, StoreError> {
    let paused = sqlx::query(
        "INSERT INTO fold_stopped (consumer, kind, reason) VALUES ($1, 'paused', $2) ON CONFLICT DO NOTHING",
    )
    .bind(consumer)
    .bind(reason)
    .execute(conn)
    .await?;
    Ok(paused.rows_affected() > 0)
}

/// Takes all leases of a consumer from their owners. Waits for batches that are being committed; from then on none of the
/// owners can commit another one.
pub(crate) async fn revoke(conn: &mut PgConnection, consumer: &str) -> Result<(), StoreError> {
    sqlx::query(
        "WITH locked AS (
             SELECT vpartition FROM fold_lease WHERE consumer = $1 ORDER BY vpartition FOR UPDATE
         )
         UPDATE fold_lease l
         SET owner = NULL, epoch = l.epoch + 1, expires_at = '-infinity'
         FROM locked WHERE l.consumer = $1 AND l.vpartition = locked.vpartition",
    )
    .bind(consumer)
    .execute(&mut *conn)
    .await?;
    sqlx::query(
        "WITH locked AS (
             SELECT c.source, c.vpartition, l.epoch
             FROM fold_cursor c JOIN fold_lease l USING (consumer, vpartition)
             WHERE c.consumer = $1
             ORDER BY c.vpartition, c.source
             FOR UPDATE OF c
         )
         UPDATE fold_cursor c SET epoch = locked.epoch
         FROM locked WHERE c.consumer = $1 AND c.source = locked.source AND c.vpartition = locked.vpartition",
    )
    .bind(consumer)
    .execute(conn)
    .await?;
    Ok(())
}

/// What was asked of a consumer in one transaction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Action<'a> {
    pub consumer: &'a str,
    pub action: &'static str,
    pub caller: &'a str,
    pub request_id: &'a str,
    pub reason: &'a str,
    pub repair: Option<Repair<'a>>,
}

/// What a repair did in one transaction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Repair<'a> {
    pub key: Uuid,
    /// What stood first.
    pub head: &'a KeptRow,
    pub discarded: bool,
    pub applied: usize,
    pub outcome: &'static str,
}

/// Writes down what was asked, in the transaction that does it.
pub(crate) async fn write_down(conn: &mut PgConnection, action: &Action<'_>) -> Result<(), StoreError> {
    let repair = action.repair;
    let head = repair.map(|repair| repair.head);
    sqlx::query(
        "INSERT INTO fold_audit (consumer, action, caller, request_id, reason, key, letter, event_id, type, source,
                                 applied, outcome, discarded)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
    )
    .bind(action.consumer)
    .bind(action.action)
    .bind(action.caller)
    .bind(action.request_id)
    .bind(action.reason)
    .bind(repair.map(|repair| repair.key))
    .bind(head.map(|head| head.letter.id))
    .bind(head.map(|head| head.letter.event_id))
    .bind(head.map(|head| head.letter.type_name.as_str()))
    .bind(head.map(|head| head.letter.source.as_str()))
    .bind(repair.map(|repair| i32::try_from(repair.applied).unwrap_or(i32::MAX)))
    .bind(repair.map(|repair| repair.outcome))
    .bind(
        repair
            .filter(|repair| repair.discarded)
            .map(|repair| repair.head.event.as_slice()),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// What was asked, as it is read back.
#[derive(Debug, FromRow)]
pub(crate) struct ActionRow {
    pub id: i64,
    pub happened_at: DateTime<Utc>,
    pub consumer: String,
    pub action: String,
    pub caller: String,
    pub request_id: String,
    pub reason: String,
    pub key: Option<Uuid>,
    pub letter: Option<i64>,
    pub event_id: Option<Uuid>,
    #[sqlx(rename = "type")]
    pub type_name: Option<String>,
    pub source: Option<String>,
    pub applied: Option<i32>,
    pub outcome: Option<String>,
    pub discarded: Option<Vec<u8>>,
}

/// What was asked before an id, newest first.
pub(crate) async fn actions(
    executor: impl PgExecutor<'_>,
    consumer: Option<&str>,
    key: Option<Uuid>,
    before: i64,
    limit: i64,
) -> Result<Vec<ActionRow>, StoreError> {
    Ok(sqlx::query_as(
        "SELECT * FROM fold_audit
         WHERE ($1::text IS NULL OR consumer = $1) AND ($2::uuid IS NULL OR key = $2) AND id < $3
         ORDER BY id DESC LIMIT $4",
    )
    .bind(consumer)
    .bind(key)
    .bind(before)
    .bind(limit)
    .fetch_all(executor)
    .await?)
}

/// How many events a consumer keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Backlog {
    pub waiting: i64,
    pub letters: i64,
    pub parked: i64,
}

/// Counts what a consumer keeps.
pub(crate) async fn backlog(executor: impl PgExecutor<'_>, consumer: &str) -> Result<Backlog, StoreError> {
    let (waiting, letters, parked) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM fold_waiting WHERE consumer = $1),
                count(*) FILTER (WHERE kind = 'letter'), count(*) FILTER (WHERE kind = 'parked')
         FROM fold_dead_letter WHERE consumer = $1",
    )
    .bind(consumer)
    .fetch_one(executor)
    .await?;
    Ok(Backlog {
        waiting,
        letters,
        parked,
    })
}

/// A lease as operators see it.
#[derive(Debug, FromRow)]
pub(crate) struct LeaseRow {
    pub vpartition: i16,
    /// Nobody, when it has run out.
    pub owner: Option<String>,
}

/// Who owns what, in the order of the partitions.
pub(crate) async fn leases(
    executor: impl PgExecutor<'_>,
    consumer: &str,
) -> Result<Vec<LeaseRow>, StoreError> {
    Ok(sqlx::query_as(
        "SELECT v.vpartition::smallint AS vpartition, CASE WHEN l.expires_at > clock_timestamp() THEN l.owner END AS owner
         FROM generate_series(0, 63) AS v (vpartition)
         LEFT JOIN fold_lease l ON l.consumer = $1 AND l.vpartition = v.vpartition
         ORDER BY 1",
    )
    .bind(consumer)
    .fetch_all(executor)
    .await?)
}

/// The processes that share a consumer's work, and until when they count, by name.
pub(crate) async fn members(
    executor: impl PgExecutor<'_>,
    consumer: &str,
) -> Result<Vec<(String, DateTime<Utc>)>, StoreError> {
    Ok(sqlx::query_as(
        "SELECT member, expires_at FROM fold_member WHERE consumer = $1 AND expires_at > clock_timestamp() ORDER BY member",
    )
    .bind(consumer)
    .fetch_all(executor)
    .await?)
}

/// What lies behind a place in one virtual partition.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Lag {
    pub vpartition: u16,
    pub events: i64,
    /// Age of the first of them.
    pub seconds: f64,
}

/// Counts the settled events behind places, at most `most` a partition. Partitions without any are left out.
pub(crate) async fn lag(
    executor: impl PgExecutor<'_>,
    cursors: &[(u16, Position)],
    most: i64,
) -> Result<Vec<Lag>, StoreError> {
    let rows: Vec<(i16, i64, f64)> = sqlx::query_as(
        "SELECT c.vpartition, b.events,
                greatest(0, extract(epoch FROM clock_timestamp() - b.oldest))::double precision
         FROM log_identity i,
              UNNEST($1::smallint[], $2::bigint[], $3::text[]::xid8[], $4::bigint[])
                   AS c (vpartition, generation, xid, position)
         CROSS JOIN LATERAL (
             SELECT count(*) AS events, min(f.occurred_at) AS oldest
             FROM (
                 SELECT l.occurred_at FROM event_log l
                 WHERE l.vpartition = c.vpartition
                   AND (l.generation, l.xid, l.position) > (c.generation, c.xid, c.position)
                   AND (l.generation < i.generation OR l.xid < pg_snapshot_xmin(pg_current_snapshot()))
                 ORDER BY l.generation, l.xid, l.position
                 LIMIT $5
             ) f
         ) b
         WHERE b.events > 0",
    )
    .bind(
        cursors
            .iter()
            .map(|(partition, _)| *partition as i16)
            .collect::<Vec<_>>(),
    )
    .bind(cursors.iter().map(|(_, at)| at.generation).collect::<Vec<_>>())
    .bind(
        cursors
            .iter()
            .map(|(_, at)| at.xid.to_string())
            .collect::<Vec<_>>(),
    )
    .bind(cursors.iter().map(|(_, at)| at.position).collect::<Vec<_>>())
    .bind(most)
    .fetch_all(executor)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(vpartition, events, seconds)| Lag {
            vpartition: vpartition as u16,
            events,
            seconds,
        })
        .collect())
}
