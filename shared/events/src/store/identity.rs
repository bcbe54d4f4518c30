//! SQL of the log's identity: compare, fence, raise the generation.

use sqlx::{FromRow, PgConnection, PgExecutor};
use waybill_store::error::StoreError;

/// Whether the server is a standby, and whether the schema has a log yet.
pub(crate) async fn place(conn: &mut PgConnection) -> Result<(bool, bool), StoreError> {
    Ok(
        sqlx::query_as("SELECT pg_is_in_recovery(), to_regclass('log_identity') IS NOT NULL")
            .fetch_one(conn)
            .await?,
    )
}

/// The identity that is written down, beside what the connected server is now.
#[derive(Debug, FromRow)]
pub(crate) struct Comparison {
    pub generation: i64,
    pub fenced_reason: Option<String>,
    pub system_identifier: i64,
    pub timeline: i64,
    pub database_oid: i64,
    pub table_oid: i64,
    pub live_system_identifier: i64,
    pub live_timeline: i64,
    pub live_database_oid: i64,
    pub live_table_oid: i64,
}

pub(crate) async fn compare(conn: &mut PgConnection) -> Result<Comparison, StoreError> {
    Ok(sqlx::query_as(
        "SELECT i.generation, i.fenced_reason, i.system_identifier, i.timeline, i.database_oid::bigint AS database_oid,
                i.table_oid::bigint AS table_oid, l.system_identifier AS live_system_identifier,
                l.timeline AS live_timeline, l.database_oid::bigint AS live_database_oid,
                l.table_oid::bigint AS live_table_oid
         FROM log_identity i, live_log_identity() l",
    )
    .fetch_one(conn)
    .await?)
}

/// Fences the log, unless it is fenced already or its generation is no longer the one that the reason was found in, and
/// holds the jobs that reach outside. True when it was not fenced.
pub(crate) async fn fence(
    executor: impl PgExecutor<'_>,
    reason: &str,
    found_in: i64,
) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar("SELECT fence_log($1, $2)")
        .bind(reason)
        .bind(found_in)
        .fetch_one(executor)
        .await?)
}

/// Raises the generation above the log's own and `above`, takes on the identity that the server has now, and lifts the
/// fence: whatever a stream or a consumer has of an earlier generation and the log has not was written off. The lock waits for every transaction that has read the old generation, and later ones wait for it.
pub(crate) async fn raise(conn: &mut PgConnection, above: i64) -> Result<i64, StoreError> {
    sqlx::query("LOCK TABLE log_identity IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *conn)
        .await?;
    Ok(sqlx::query_scalar(
        "UPDATE log_identity i
         SET generation = GREATEST(i.generation, (SELECT max(e.generation) FROM event_log e), $1) + 1,
             recovered = GREATEST(i.generation, (SELECT max(e.generation) FROM event_log e), $1) + 1,
             system_identifier = l.system_identifier, timeline = l.timeline, database_oid = l.database_oid,
             table_oid = l.table_oid, proven_on = pg_postmaster_start_time(), fenced = false, fenced_reason = NULL
         FROM live_log_identity() l
         RETURNING i.generation",
    )
    .bind(above)
    .fetch_one(conn)
    .await?)
}
