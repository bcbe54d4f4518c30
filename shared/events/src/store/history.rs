//! SQL of a log's history: what proves that it is still the one that was told.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection, PgExecutor, PgPool};
use uuid::Uuid;
use waybill_store::error::StoreError;

use crate::history::chain::Gone;
use crate::position::Position;
use crate::witness::Shown;

/// What a connection shows of the log and its server, and which event stands at a place.
pub(crate) async fn shown(conn: &mut PgConnection, at: Option<Position>) -> Result<Shown, StoreError> {
    let at = at.unwrap_or_default();
    let (generation, wal, event, gone): (i64, i64, Option<Uuid>, bool) = sqlx::query_as(
        "SELECT i.generation, (pg_current_wal_flush_lsn() - '0/0')::bigint,
                (SELECT e.event_id FROM event_log e
                 WHERE e.position = $3 AND e.generation = $1 AND e.xid = $2::xid8),
                (i.dropped_generation, i.dropped_xid, i.dropped_position) >= ($1, $2::xid8, $3)
         FROM log_identity i",
    )
    .bind(at.generation)
    .bind(at.xid.to_string())
    .bind(at.position)
    .fetch_one(conn)
    .await?;
    Ok(Shown {
        generation,
        wal,
        event,
        gone,
    })
}

/// The generation that the log writes in, and the last one that was begun by a recovery.
pub(crate) async fn generations(executor: impl PgExecutor<'_>) -> Result<(i64, i64), StoreError> {
    Ok(sqlx::query_as("SELECT generation, recovered FROM log_identity")
        .fetch_one(executor)
        .await?)
}

/// Notes that the log has what its stream tells, on the server as it runs now.
pub(crate) async fn note_proof(executor: impl PgExecutor<'_>) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE log_identity SET proven_on = pg_postmaster_start_time()
         WHERE NOT fenced AND proven_on IS DISTINCT FROM pg_postmaster_start_time()",
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// What a start has to doubt of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// Nothing: it is fenced, or was proven since its server was started. A server that runs is not put back.
    None,
    /// It has told nobody anything yet, as far as it knows.
    New,
    /// Its server was started anew since it was proven: it may be an older copy.
    Copy,
}

/// What a start has to doubt.
pub(crate) async fn doubt(executor: impl PgExecutor<'_>) -> Result<Doubt, StoreError> {
    let (unproven, has_a_past): (bool, bool) = sqlx::query_as(
        "SELECT NOT fenced AND proven_on IS DISTINCT FROM pg_postmaster_start_time(),
                proven_on IS NOT NULL AND (dropped_position > 0 OR EXISTS (SELECT FROM event_log))
         FROM log_identity",
    )
    .fetch_one(executor)
    .await?;
    Ok(match (unproven, has_a_past) {
        (false, _) => Doubt::None,
        (true, false) => Doubt::New,
        (true, true) => Doubt::Copy,
    })
}

/// Begins a new generation when the log was proven on another start of the server, and has events. Returns it.
pub(crate) async fn begin_unproven(pool: &PgPool) -> Result<Option<i64>, StoreError> {
    match doubt(pool).await? {
        Doubt::None => return Ok(None),
        // What told nobody anything cannot have lost it, and its first writers need not be waited for.
        Doubt::New => {
            note_proof(pool).await?;
            return Ok(None);
        }
        Doubt::Copy => {}
    }
    let mut tx = pool.begin().await?;
    // Waits for every writer of the old generation, and later ones wait for it.
    sqlx::query("LOCK TABLE log_identity IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *tx)
        .await?;
    let begun: Option<(i64, bool)> = sqlx::query_as(
        "UPDATE log_identity i
         SET generation = i.generation + (i.proven_on IS NOT NULL
                                        AND (i.dropped_position > 0 OR EXISTS (SELECT FROM event_log)))::int,
             proven_on = pg_postmaster_start_time()
         FROM log_identity before
         WHERE NOT i.fenced AND i.proven_on IS DISTINCT FROM pg_postmaster_start_time()
         RETURNING i.generation, i.generation > before.generation",
    )
    .fetch_optional(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(begun.and_then(|(generation, is_new)| is_new.then_some(generation)))
}

/// Takes the kinds of jobs that reach outside, and holds them while the log is fenced or a recovery is not settled.
pub(crate) async fn register_effects(pool: &PgPool, kinds: &[&str]) -> Result<(), StoreError> {
    let mut tx = pool.begin().await?;
    sqlx::query(
        "WITH gone AS (DELETE FROM log_effect_kind WHERE kind <> ALL ($1))
         INSERT INTO log_effect_kind (kind) SELECT UNNEST($1::text[]) ON CONFLICT DO NOTHING",
    )
    .bind(kinds)
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "SELECT hold_log_effects(w.reason) FROM (
             SELECT fenced_reason AS reason FROM log_identity WHERE fenced
             UNION ALL
             SELECT 'the log was recovered: ' || reason FROM log_recovery WHERE effects_settled_at IS NULL
             LIMIT 1
         ) w",
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(())
}

/// How the log stands.
#[derive(Debug, FromRow)]
pub(crate) struct Standing {
    pub generation: i64,
    pub recovered: i64,
    pub fenced_reason: Option<String>,
    pub system_identifier: i64,
    pub timeline: i64,
    pub orphans: i64,
    pub phantoms: i64,
    pub held: Vec<String>,
    #[sqlx(flatten)]
    pub end: EndRow,
}

/// The last event of the log, if it has one.
#[derive(Debug, FromRow)]
pub(crate) struct EndRow {
    pub end_generation: Option<i64>,
    pub end_xid: Option<i64>,
    pub end_position: Option<i64>,
}

/// How the log stands, in one statement.
pub(crate) async fn standing(executor: impl PgExecutor<'_>) -> Result<Standing, StoreError> {
    Ok(sqlx::query_as(
        "SELECT i.generation, i.recovered, i.system_identifier, i.timeline,
                coalesce(i.fenced_reason, CASE WHEN i.table_oid IS DISTINCT FROM to_regclass('event_log')::oid
                    THEN 'event_log is not the table of log_identity: the schema was restored' END) AS fenced_reason,
                (SELECT count(*) FROM log_orphan) AS orphans,
                (SELECT coalesce(sum(count), 0)::bigint FROM fold_phantom) AS phantoms,
                ARRAY(SELECT kind FROM job_hold WHERE holder = 'history' ORDER BY kind) AS held,
                e.generation AS end_generation, e.xid AS end_xid, e.position AS end_position
         FROM log_identity i
         LEFT JOIN LATERAL (
             SELECT l.generation, l.xid::text::bigint AS xid, l.position FROM log_place l
             ORDER BY l.generation DESC, l.xid DESC, l.position DESC LIMIT 1
         ) e ON true",
    )
    .fetch_one(executor)
    .await?)
}

/// The highest generation that a consumer of this log is known to have seen; 0 when none is known.
pub(crate) async fn consumers_generation(pool: &PgPool) -> Result<i64, StoreError> {
    Ok(
        sqlx::query_scalar("SELECT coalesce(max(generation_seen), 0) FROM log_consumer")
            .fetch_one(pool)
            .await?,
    )
}

/// A recovery as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub(crate) struct RecoveryRow {
    pub generation: i64,
    pub from_generation: i64,
    pub reason: String,
    pub recovered_by: String,
    pub recovered_at: DateTime<Utc>,
    pub survived_until: Option<DateTime<Utc>>,
    pub orphans: i64,
}

/// The last recoveries, newest first.
pub(crate) async fn recoveries(executor: impl PgExecutor<'_>) -> Result<Vec<RecoveryRow>, StoreError> {
    Ok(sqlx::query_as(
        "SELECT generation, from_generation, reason, recovered_by, recovered_at, survived_until, orphans
         FROM log_recovery ORDER BY generation DESC LIMIT 20",
    )
    .fetch_all(executor)
    .await?)
}

/// The recovery of a request, if it was carried out.
pub(crate) async fn recovery_of(
    executor: impl PgExecutor<'_>,
    request_id: &str,
) -> Result<Option<RecoveryRow>, StoreError> {
    Ok(sqlx::query_as(
        "SELECT generation, from_generation, reason, recovered_by, recovered_at, survived_until, orphans
         FROM log_recovery WHERE request_id = $1",
    )
    .bind(request_id)
    .fetch_optional(executor)
    .await?)
}

/// Which of these events (place and id) the log has, and which of the others are kept as orphans already.
pub(crate) async fn known(
    executor: impl PgExecutor<'_>,
    events: &[(Position, Uuid)],
) -> Result<Vec<(bool, bool)>, StoreError> {
    Ok(sqlx::query_as(
        "SELECT EXISTS (SELECT FROM event_log e WHERE e.position = t.position AND e.generation = t.generation
                          AND e.xid = t.xid AND e.event_id = t.event_id)
                    -- What has left the database was read by everybody first.
                    OR EXISTS (SELECT FROM log_identity i WHERE (t.generation, t.xid, t.position)
                               <= (i.dropped_generation, i.dropped_xid, i.dropped_position)),
                EXISTS (SELECT FROM log_orphan o WHERE o.generation = t.generation AND o.xid = t.xid
                          AND o.position = t.position AND o.event_id = t.event_id AND o.recovered_in IS NOT NULL)
         FROM UNNEST($1::bigint[], $2::text[]::xid8[], $3::bigint[], $4::uuid[]) WITH ORDINALITY
              AS t (generation, xid, position, event_id, place)
         ORDER BY t.place",
    )
    .bind(events.iter().map(|(at, _)| at.generation).collect::<Vec<_>>())
    .bind(events.iter().map(|(at, _)| at.xid.to_string()).collect::<Vec<_>>())
    .bind(events.iter().map(|(at, _)| at.position).collect::<Vec<_>>())
    .bind(events.iter().map(|(_, id)| *id).collect::<Vec<_>>())
    .fetch_all(executor)
    .await?)
}

/// An event that the log has no longer.
#[derive(Debug, Clone)]
pub(crate) struct NewOrphan {
    pub position: Position,
    pub vpartition: u16,
    pub event_id: Uuid,
    /// `waybill.events.v1.LoggedEvent`.
    pub bytes: Vec<u8>,
    pub complete: bool,
}

/// Keeps orphans; those that are kept already stay as they are.
pub(crate) async fn keep_orphans(
    executor: impl PgExecutor<'_>,
    orphans: &[NewOrphan],
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO log_orphan (generation, xid, position, vpartition, event_id, event, complete)
         SELECT * FROM UNNEST($1::bigint[], $2::text[]::xid8[], $3::bigint[], $4::smallint[], $5::uuid[], $6::bytea[],
                              $7::boolean[])
         ON CONFLICT DO NOTHING",
    )
    .bind(orphans.iter().map(|o| o.position.generation).collect::<Vec<_>>())
    .bind(orphans.iter().map(|o| o.position.xid.to_string()).collect::<Vec<_>>())
    .bind(orphans.iter().map(|o| o.position.position).collect::<Vec<_>>())
    .bind(orphans.iter().map(|o| o.vpartition as i16).collect::<Vec<_>>())
    .bind(orphans.iter().map(|o| o.event_id).collect::<Vec<_>>())
    .bind(orphans.iter().map(|o| o.bytes.as_slice()).collect::<Vec<_>>())
    .bind(orphans.iter().map(|o| o.complete).collect::<Vec<_>>())
    .execute(executor)
    .await?;
    Ok(())
}

/// The places of all orphans, those that the recovery under way has found marked as new.
pub(crate) async fn gone(executor: impl PgExecutor<'_>) -> Result<Vec<Gone>, StoreError> {
    let rows: Vec<(i16, i64, i64, i64, bool)> = sqlx::query_as(
        "SELECT vpartition, generation, xid::text::bigint, position, recovered_in IS NULL FROM log_orphan",
    )
    .fetch_all(executor)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(vpartition, generation, xid, position, is_new)| Gone {
            vpartition: vpartition as u16,
            position: Position {
                generation,
                xid: xid as u64,
                position,
            },
            is_new,
        })
        .collect())
}

/// Shuts every writer out until the transaction ends, after those of the old generation have ended.
pub(crate) async fn lock(conn: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query("LOCK TABLE log_identity IN ACCESS EXCLUSIVE MODE")
        .execute(conn)
        .await?;
    Ok(())
}

/// The ids of the log after a place, in its order, settled or not: only while writers are shut out.
pub(crate) async fn rest(
    conn: &mut PgConnection,
    after: Position,
) -> Result<Vec<(u16, Position, Uuid)>, StoreError> {
    let rows: Vec<(i16, i64, i64, i64, Uuid)> = sqlx::query_as(
        "SELECT l.vpartition, l.generation, l.xid::text::bigint, l.position, l.event_id FROM event_log l
         WHERE (l.generation, l.xid, l.position) > ($1, $2::xid8, $3)
         ORDER BY l.generation, l.xid, l.position",
    )
    .bind(after.generation)
    .bind(after.xid.to_string())
    .bind(after.position)
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(vpartition, generation, xid, position, id)| {
            let at = Position {
                generation,
                xid: xid as u64,
                position,
            };
            (vpartition as u16, at, id)
        })
        .collect())
}

/// A recovery to be written down.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewRecovery<'a> {
    pub generation: i64,
    pub from_generation: i64,
    pub request_id: &'a str,
    pub reason: &'a str,
    pub by: &'a str,
    pub survived_until: Option<DateTime<Utc>>,
}

/// Writes a recovery down, names it to the orphans it found, and holds outside effects.
pub(crate) async fn write_recovery(
    conn: &mut PgConnection,
    new: NewRecovery<'_>,
) -> Result<RecoveryRow, StoreError> {
    sqlx::query("SELECT hold_log_effects('the log was recovered: ' || $1)")
        .bind(new.reason)
        .execute(&mut *conn)
        .await?;
    Ok(sqlx::query_as(
        "WITH named AS (
             UPDATE log_orphan SET recovered_in = $1 WHERE recovered_in IS NULL RETURNING 1
         )
         INSERT INTO log_recovery (generation, from_generation, request_id, reason, recovered_by, survived_until, orphans)
         SELECT $1, $2, $3, $4, $5, $6, count(*) FROM named
         RETURNING generation, from_generation, reason, recovered_by, recovered_at, survived_until, orphans",
    )
    .bind(new.generation)
    .bind(new.from_generation)
    .bind(new.request_id)
    .bind(new.reason)
    .bind(new.by)
    .bind(new.survived_until)
    .fetch_one(conn)
    .await?)
}

/// An orphan as it is kept.
#[derive(Debug, FromRow)]
pub(crate) struct OrphanRow {
    pub event_id: Uuid,
    pub event: Vec<u8>,
    pub complete: bool,
    pub recovered_in: i64,
    pub found_at: DateTime<Utc>,
}

/// Orphans of settled recoveries after a place, in the order of recovery and place.
pub(crate) async fn orphans(
    executor: impl PgExecutor<'_>,
    recovered_in: Option<i64>,
    vpartition: Option<u16>,
    after: Option<(i64, Position, Uuid)>,
    limit: i64,
) -> Result<Vec<OrphanRow>, StoreError> {
    let (after_recovery, after, after_id) = after.unwrap_or((-1, Position::ZERO, Uuid::nil()));
    Ok(sqlx::query_as(
        "SELECT event_id, event, complete, recovered_in, found_at FROM log_orphan
         WHERE recovered_in IS NOT NULL AND ($1::bigint IS NULL OR recovered_in = $1)
           AND ($2::smallint IS NULL OR vpartition = $2)
           AND (recovered_in, generation, xid, position, event_id) > ($3, $4, $5::xid8, $6, $7)
         ORDER BY recovered_in, generation, xid, position, event_id
         LIMIT $8",
    )
    .bind(recovered_in)
    .bind(vpartition.map(|partition| partition as i16))
    .bind(after_recovery)
    .bind(after.generation)
    .bind(after.xid.to_string())
    .bind(after.position)
    .bind(after_id)
    .bind(limit)
    .fetch_all(executor)
    .await?)
}

/// Since when outside effects are held, over all recoveries that are not settled: the last surviving event of the first of
/// them (none when nothing survived), and the last recovery. Nothing when all are settled.
pub(crate) async fn unsettled(
    executor: impl PgExecutor<'_>,
) -> Result<Option<(Option<DateTime<Utc>>, DateTime<Utc>)>, StoreError> {
    Ok(sqlx::query_as(
        "SELECT CASE WHEN bool_and(survived_until IS NOT NULL) THEN min(survived_until) END, max(recovered_at)
         FROM log_recovery WHERE effects_settled_at IS NULL HAVING count(*) > 0",
    )
    .fetch_optional(executor)
    .await?)
}

/// Notes that outside effects of all recoveries are settled, and lifts the hold. Returns the kinds that were held; `None` when
/// the log is fenced, or was recovered once more since this generation: that recovery is to be looked at first.
pub(crate) async fn release_effects(
    pool: &PgPool,
    generation: i64,
) -> Result<Option<Vec<String>>, StoreError> {
    let mut tx = pool.begin().await?;
    let (fenced, now): (bool, i64) = sqlx::query_as("SELECT fenced, generation FROM log_identity FOR SHARE")
        .fetch_one(&mut *tx)
        .await?;
    if fenced || now != generation {
        return Ok(None);
    }
    sqlx::query("UPDATE log_recovery SET effects_settled_at = now() WHERE effects_settled_at IS NULL")
        .execute(&mut *tx)
        .await?;
    let released = sqlx::query_scalar("DELETE FROM job_hold WHERE holder = 'history' RETURNING kind")
        .fetch_all(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(Some(released))
}

/// The generation that the log writes in, under the lock of a recovery.
pub(crate) async fn written_generation(conn: &mut PgConnection) -> Result<i64, StoreError> {
    Ok(sqlx::query_scalar("SELECT generation FROM log_identity")
        .fetch_one(conn)
        .await?)
}
