//! SQL of leases and membership: heartbeat, claim, leaving.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::{FromRow, PgConnection, PgExecutor};
use waybill_store::error::StoreError;

use super::fold::Ownership;

/// What a heartbeat tells.
#[derive(Debug, Default)]
pub(crate) struct Beat {
    /// The leases that are still ours, and their epochs.
    pub held: BTreeMap<u16, i64>,
    /// Every virtual partition with its owner; none when it is free.
    pub owners: BTreeMap<u16, Option<String>>,
    /// The other processes whose membership lasts.
    pub members: Vec<String>,
    /// Why the consumer is stopped, if it is.
    pub stopped: Option<String>,
}

#[derive(FromRow)]
struct LeaseRow {
    vpartition: i16,
    owner: Option<String>,
    held_epoch: Option<i64>,
    members: Option<Vec<String>>,
    stopped: Option<String>,
}

/// Renews the membership and the leases of a process, forgets members that ran out long ago, and tells how all is. A lease
/// that ran out but that nobody took is held again. A lease in our name that we do not know of counts as free: the claim
/// that took it never answered.
pub(crate) async fn beat(
    executor: impl PgExecutor<'_>,
    consumer: &str,
    member: &str,
    held: &[Ownership],
    ttl: Duration,
) -> Result<Beat, StoreError> {
    let rows: Vec<LeaseRow> = sqlx::query_as(
        "WITH mine AS (
             SELECT l.vpartition
             FROM fold_lease l
             JOIN UNNEST($3::smallint[], $4::bigint[]) AS h (vpartition, epoch) USING (vpartition, epoch)
             WHERE l.consumer = $1 AND l.owner = $2
             ORDER BY l.vpartition
             FOR UPDATE OF l
         ), renewed AS (
             UPDATE fold_lease l SET expires_at = clock_timestamp() + make_interval(secs => $5)
             FROM mine WHERE l.consumer = $1 AND l.vpartition = mine.vpartition
             RETURNING l.vpartition, l.epoch
         ), here AS (
             INSERT INTO fold_member (consumer, member, expires_at)
             VALUES ($1, $2, clock_timestamp() + make_interval(secs => $5))
             ON CONFLICT (consumer, member) DO UPDATE SET expires_at = EXCLUDED.expires_at
         ), gone AS (
             DELETE FROM fold_member WHERE (consumer, member) IN (
                 SELECT consumer, member FROM fold_member
                 WHERE consumer = $1 AND member <> $2
                   AND expires_at < clock_timestamp() - make_interval(secs => $5)
                 FOR UPDATE SKIP LOCKED
             )
         )
         SELECT l.vpartition, r.epoch AS held_epoch,
                CASE WHEN r.epoch IS NOT NULL THEN $2
                     WHEN l.expires_at > clock_timestamp() AND l.owner <> $2 THEN l.owner END AS owner,
                (SELECT array_agg(m.member) FROM fold_member m
                 WHERE m.consumer = $1 AND m.member <> $2 AND m.expires_at > clock_timestamp()) AS members,
                (SELECT s.reason FROM fold_stopped s WHERE s.consumer = $1) AS stopped
         FROM fold_lease l LEFT JOIN renewed r USING (vpartition)
         WHERE l.consumer = $1",
    )
    .bind(consumer)
    .bind(member)
    .bind(
        held.iter()
            .map(|(partition, _)| *partition as i16)
            .collect::<Vec<_>>(),
    )
    .bind(held.iter().map(|(_, epoch)| *epoch).collect::<Vec<_>>())
    .bind(ttl.as_secs_f64())
    .fetch_all(executor)
    .await?;
    let mut beat = Beat::default();
    for row in rows {
        let partition = row.vpartition as u16;
        if let Some(epoch) = row.held_epoch {
            beat.held.insert(partition, epoch);
        }
        beat.owners.insert(partition, row.owner);
        // The same in every row.
        beat.members = row.members.unwrap_or_default();
        beat.stopped = row.stopped;
    }
    Ok(beat)
}

/// Takes leases among `wanted` that nobody holds, at most `most`. Must commit together with `take_cursors`.
pub(crate) async fn claim(
    conn: &mut PgConnection,
    consumer: &str,
    member: &str,
    wanted: &[u16],
    most: usize,
    ttl: Duration,
) -> Result<Vec<Ownership>, StoreError> {
    let rows: Vec<(i16, i64)> = sqlx::query_as(
        "WITH free AS (
             SELECT vpartition FROM fold_lease
             WHERE consumer = $1 AND vpartition = ANY ($3) AND (expires_at <= clock_timestamp() OR owner = $2)
             ORDER BY vpartition
             LIMIT $4
             FOR UPDATE SKIP LOCKED
         )
         UPDATE fold_lease l
         SET owner = $2, epoch = l.epoch + 1, expires_at = clock_timestamp() + make_interval(secs => $5)
         FROM free
         WHERE l.consumer = $1 AND l.vpartition = free.vpartition
         RETURNING l.vpartition, l.epoch",
    )
    .bind(consumer)
    .bind(member)
    .bind(
        wanted
            .iter()
            .map(|partition| *partition as i16)
            .collect::<Vec<_>>(),
    )
    .bind(i64::try_from(most).unwrap_or(i64::MAX))
    .bind(ttl.as_secs_f64())
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(partition, epoch)| (partition as u16, epoch))
        .collect())
}

/// Ends a membership and gives all its leases back, so that nobody need wait until they run out.
pub(crate) async fn leave(
    executor: impl PgExecutor<'_>,
    consumer: &str,
    member: &str,
) -> Result<(), StoreError> {
    sqlx::query(
        "WITH gone AS (
             DELETE FROM fold_member WHERE consumer = $1 AND member = $2
         ), mine AS (
             SELECT vpartition FROM fold_lease WHERE consumer = $1 AND owner = $2 ORDER BY vpartition FOR UPDATE
         )
         UPDATE fold_lease l SET owner = NULL, expires_at = '-infinity'
         FROM mine WHERE l.consumer = $1 AND l.vpartition = mine.vpartition",
    )
    .bind(consumer)
    .bind(member)
    .execute(executor)
    .await?;
    Ok(())
}
