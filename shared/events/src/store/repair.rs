//! SQL of kept events: dead letters and what is parked behind them, for whoever looks at them or repairs them.
//!
//! Of a blocked key exactly one row is a letter, the first one by id; every transaction here leaves it like that. Whoever
//! changes rows holds the cursor rows of their partition ([`lock_key`]), as the owner of the partition does when it adds
//! some: so a repair and the live consumer take turns.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgConnection, PgExecutor};
use uuid::Uuid;
use waybill_kernel::partition::partition_of;
use waybill_store::error::StoreError;

use super::fold::Kept;

/// A kept event without its bytes.
#[derive(Debug, Clone, PartialEq, Eq, FromRow, Serialize, Deserialize)]
pub(crate) struct LetterRow {
    pub id: i64,
    pub consumer: String,
    pub key: Uuid,
    pub kind: String,
    pub source: String,
    pub vpartition: i16,
    pub event_id: Uuid,
    #[sqlx(rename = "type")]
    pub type_name: String,
    pub reason: Option<String>,
    pub created_at: DateTime<Utc>,
    pub tries: i32,
    pub tried_at: Option<DateTime<Utc>>,
}

/// A kept event with its bytes.
#[derive(Debug, FromRow)]
pub(crate) struct KeptRow {
    #[sqlx(flatten)]
    pub letter: LetterRow,
    /// `waybill.events.v1.LoggedEvent`.
    pub event: Vec<u8>,
}

/// Waits for a batch of the key's partition that is being committed, and keeps later ones and other repairs out until the
/// transaction ends.
pub(crate) async fn lock_key(conn: &mut PgConnection, consumer: &str, key: Uuid) -> Result<(), StoreError> {
    sqlx::query(
        "SELECT 1 FROM fold_cursor WHERE consumer = $1 AND vpartition = $2 ORDER BY vpartition, source FOR UPDATE",
    )
    .bind(consumer)
    .bind(partition_of(key) as i16)
    .execute(conn)
    .await?;
    Ok(())
}

/// Whose a kept event is.
pub(crate) async fn owner_of(
    executor: impl PgExecutor<'_>,
    letter: i64,
) -> Result<Option<(String, Uuid)>, StoreError> {
    Ok(
        sqlx::query_as("SELECT consumer, key FROM fold_dead_letter WHERE id = $1")
            .bind(letter)
            .fetch_optional(executor)
            .await?,
    )
}

/// A kept event by its id.
pub(crate) async fn kept(executor: impl PgExecutor<'_>, letter: i64) -> Result<Option<KeptRow>, StoreError> {
    Ok(sqlx::query_as("SELECT * FROM fold_dead_letter WHERE id = $1")
        .bind(letter)
        .fetch_optional(executor)
        .await?)
}

/// How many events of its key are kept behind one.
pub(crate) async fn behind(
    executor: impl PgExecutor<'_>,
    consumer: &str,
    key: Uuid,
    letter: i64,
) -> Result<i64, StoreError> {
    Ok(sqlx::query_scalar(
        "SELECT count(*) FROM fold_dead_letter WHERE consumer = $1 AND key = $2 AND id > $3",
    )
    .bind(consumer)
    .bind(key)
    .bind(letter)
    .fetch_one(executor)
    .await?)
}

/// What a list of kept events is restricted to.
#[derive(Debug, Clone, Default)]
pub(crate) struct LetterFilter {
    pub consumer: Option<String>,
    pub key: Option<Uuid>,
    pub kind: Option<&'static str>,
}

/// Kept events after an id, oldest first.
pub(crate) async fn list(
    executor: impl PgExecutor<'_>,
    filter: &LetterFilter,
    after: i64,
    limit: i64,
) -> Result<Vec<LetterRow>, StoreError> {
    Ok(sqlx::query_as(
        "SELECT id, consumer, key, kind, source, vpartition, event_id, type, reason, created_at, tries, tried_at
         FROM fold_dead_letter
         WHERE ($1::text IS NULL OR consumer = $1) AND ($2::uuid IS NULL OR key = $2) AND ($3::text IS NULL OR kind = $3)
           AND id > $4
         ORDER BY id LIMIT $5",
    )
    .bind(filter.consumer.as_deref())
    .bind(filter.key)
    .bind(filter.kind)
    .bind(after)
    .bind(limit)
    .fetch_all(executor)
    .await?)
}

/// The first kept events of a key: at most `limit`, and no further one once they have so many bytes.
pub(crate) async fn first(
    conn: &mut PgConnection,
    consumer: &str,
    key: Uuid,
    limit: i64,
    bytes: i64,
) -> Result<Vec<KeptRow>, StoreError> {
    Ok(sqlx::query_as(
        "SELECT * FROM (
             SELECT d.*, sum(octet_length(event)) OVER (ORDER BY id) - octet_length(event) AS bytes_before
             FROM (SELECT * FROM fold_dead_letter WHERE consumer = $1 AND key = $2 ORDER BY id LIMIT $3) d
         ) k
         WHERE bytes_before < $4 ORDER BY id",
    )
    .bind(consumer)
    .bind(key)
    .bind(limit)
    .bind(bytes)
    .fetch_all(conn)
    .await?)
}

/// Events are kept no longer.
pub(crate) async fn forget(conn: &mut PgConnection, rows: &[i64]) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM fold_dead_letter WHERE id = ANY ($1)")
        .bind(rows)
        .execute(conn)
        .await?;
    Ok(())
}

/// A kept event was tried in vain: it is the letter of its key now.
pub(crate) async fn failed(conn: &mut PgConnection, row: i64, reason: &str) -> Result<LetterRow, StoreError> {
    Ok(sqlx::query_as(
        "UPDATE fold_dead_letter
         SET kind = 'letter', reason = $2, tries = tries + 1, tried_at = now(), by_command = by_command OR kind = 'parked'
         WHERE id = $1
         RETURNING id, consumer, key, kind, source, vpartition, event_id, type, reason, created_at, tries, tried_at",
    )
    .bind(row)
    .bind(reason)
    .fetch_one(conn)
    .await?)
}

/// Makes the first kept event of a key its letter, if there is one: it was not tried, the repair goes on with it.
pub(crate) async fn promote(
    conn: &mut PgConnection,
    consumer: &str,
    key: Uuid,
    reason: &str,
) -> Result<bool, StoreError> {
    let promoted = sqlx::query(
        "UPDATE fold_dead_letter SET kind = 'letter', reason = $3, by_command = true
         WHERE id = (SELECT min(id) FROM fold_dead_letter WHERE consumer = $1 AND key = $2)",
    )
    .bind(consumer)
    .bind(key)
    .bind(reason)
    .execute(conn)
    .await?;
    Ok(promoted.rows_affected() > 0)
}

/// Keeps events that had been waiting in front of all that is kept of their key: the first as its letter, which was tried
/// in vain, the others parked behind it. Ids are in order, so what was kept before gets new ones.
pub(crate) async fn put_first(
    conn: &mut PgConnection,
    consumer: &str,
    key: Uuid,
    events: &[Kept],
    reason: &str,
) -> Result<LetterRow, StoreError> {
    let newest: i64 = sqlx::query_scalar(
        "WITH written AS (
             INSERT INTO fold_dead_letter (consumer, key, source, vpartition, kind, event_id, type, event, reason, tries,
                                           tried_at, by_command)
             SELECT $1, $2, w.source, w.vpartition, CASE WHEN w.place = 1 THEN 'letter' ELSE 'parked' END, w.event_id,
                    w.type, w.event, CASE WHEN w.place = 1 THEN $8 END, CASE WHEN w.place = 1 THEN 1 ELSE 0 END,
                    CASE WHEN w.place = 1 THEN now() END, true
             FROM UNNEST($3::text[], $4::smallint[], $5::uuid[], $6::text[], $7::bytea[]) WITH ORDINALITY
                  AS w (source, vpartition, event_id, type, event, place)
             ORDER BY w.place
             RETURNING id
         )
         SELECT min(id) FROM written",
    )
    .bind(consumer)
    .bind(key)
    .bind(events.iter().map(|e| e.source.as_str()).collect::<Vec<_>>())
    .bind(events.iter().map(|e| e.vpartition as i16).collect::<Vec<_>>())
    .bind(events.iter().map(|e| e.event_id).collect::<Vec<_>>())
    .bind(events.iter().map(|e| e.type_name.as_str()).collect::<Vec<_>>())
    .bind(events.iter().map(|e| e.bytes.as_slice()).collect::<Vec<_>>())
    .bind(reason)
    .fetch_one(&mut *conn)
    .await?;
    sqlx::query(
        "WITH moved AS (
             DELETE FROM fold_dead_letter WHERE consumer = $1 AND key = $2 AND id < $3 RETURNING *
         )
         INSERT INTO fold_dead_letter (consumer, key, source, vpartition, kind, event_id, type, event, created_at, tries,
                                       tried_at, by_command)
         SELECT consumer, key, source, vpartition, 'parked', event_id, type, event, created_at, tries, tried_at, by_command
         FROM moved ORDER BY id",
    )
    .bind(consumer)
    .bind(key)
    .bind(newest)
    .execute(&mut *conn)
    .await?;
    kept(conn, newest)
        .await?
        .map(|row| row.letter)
        .ok_or_else(|| StoreError::decode("a letter that was just written is not there"))
}
