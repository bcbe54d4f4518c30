//! SQL of a log's history: what proves that it is still the one that was told.

use sqlx::{PgConnection, PgExecutor, PgPool};
use uuid::Uuid;
use waybill_store::error::StoreError;

use crate::position::Position;
use crate::witness::Shown;

/// What a connection shows of the log and its server, and which event stands at a place.
pub(crate) async fn shown(conn: &mut PgConnection, at: Option<Position>) -> Result<Shown, StoreError> {
    let at = at.unwrap_or_default();
    let (generation, wal, event): (i64, i64, Option<Uuid>) = sqlx::query_as(
        "SELECT i.generation, (pg_current_wal_flush_lsn() - '0/0')::bigint,
                (SELECT e.event_id FROM event_log e
                 WHERE e.position = $3 AND e.generation = $1 AND e.xid = $2::xid8)
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
    })
}

/// The last generation that was begun by a recovery.
pub(crate) async fn recovered(executor: impl PgExecutor<'_>) -> Result<i64, StoreError> {
    Ok(sqlx::query_scalar("SELECT recovered FROM log_identity")
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

/// Begins a new generation when the log was proven on another start of the server, and has events. Returns it.
pub(crate) async fn begin_unproven(pool: &PgPool) -> Result<Option<i64>, StoreError> {
    let doubtful: bool = sqlx::query_scalar(
        "SELECT NOT fenced AND proven_on IS DISTINCT FROM pg_postmaster_start_time() FROM log_identity",
    )
    .fetch_one(pool)
    .await?;
    if !doubtful {
        return Ok(None);
    }
    let mut tx = pool.begin().await?;
    // Waits for every writer of the old generation, and later ones wait for it.
    sqlx::query("LOCK TABLE log_identity IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *tx)
        .await?;
    let begun: Option<(i64, bool)> = sqlx::query_as(
        "UPDATE log_identity i
         SET generation = i.generation + (i.proven_on IS NOT NULL AND EXISTS (SELECT FROM event_log))::int,
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
