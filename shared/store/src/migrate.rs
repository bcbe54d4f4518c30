//! Brings a schema to the version of this build.
//!
//! The tables of this crate, of `waybill-events` and of the service live in one schema and share one history table,
//! `_sqlx_migrations`. Each source has its own range of versions, so that none has to know the others:
//! this crate 1 to 1000, events 1001 to 2000, services the date (20260101 and on).
//!
//! Replicas that start together are safe: one migrates, the others wait and find nothing to do. A history that is *newer*
//! than this build is accepted, since migrations only expand: an old build must be able to start beside a new one.

use std::time::Duration;

use sqlx::migrate::{MigrateError, Migration, Migrator};
use sqlx::{Connection, PgConnection};
use tokio::time::Instant;

use crate::db::Db;
use crate::error::StoreError;

/// The tables of this crate: idempotency keys and jobs.
pub static MIGRATOR: Migrator = sqlx::migrate!("./migrations");

/// The versions that only this crate's migrations use.
const OURS: std::ops::RangeInclusive<i64> = 1..=1000;

/// How long a replica waits for another one that is migrating.
const PATIENCE: Duration = Duration::from_secs(120);

/// Why a schema could not be migrated.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// Two sources use one version.
    #[error(
        "migration {version} exists twice, as \"{first}\" and \"{second}\"; give one of them another version"
    )]
    Twice {
        /// The version.
        version: i64,
        /// What one of them is called.
        first: String,
        /// What the other is called.
        second: String,
    },
    /// A source uses a version of this crate's range.
    #[error(
        "migration {version} \"{description}\" uses a version of the store's own (1 to 1000); services use a date"
    )]
    Reserved {
        /// The version.
        version: i64,
        /// What it is called.
        description: String,
    },
    /// Another process has been migrating this schema for too long.
    #[error("another process has been migrating schema \"{schema}\" for {} s", PATIENCE.as_secs())]
    Busy {
        /// The schema.
        schema: String,
    },
    /// The database could not be reached.
    #[error("the database could not be reached for migrating")]
    Store(#[from] StoreError),
    /// A migration failed or was changed after it had been applied.
    #[error("schema \"{schema}\" could not be migrated")]
    Failed {
        /// The schema.
        schema: String,
        /// Which migration, and why.
        #[source]
        source: MigrateError,
    },
}

/// Applies what is missing of this crate's migrations and of `sources`, in the order of their versions.
///
/// # Errors
///
/// See [`MigrationError`]. Each migration is a transaction of its own; those before a failed one stay applied.
pub async fn migrate(db: &Db, sources: &[&Migrator]) -> Result<(), MigrationError> {
    let merged = merge(sources)?;
    // A connection of its own: the checks of the pool's connections read tables that are about to be made, and the lock
    // must end with us whatever happens.
    let mut conn = db.dedicated().await?;
    prepare(&mut conn).await.map_err(StoreError::from)?;
    lock(&mut conn, db.schema()).await?;
    let outcome = merged
        .run_direct(None, &mut conn, false)
        .await
        .map_err(|source| MigrationError::Failed {
            schema: db.schema().to_owned(),
            source,
        });
    if let Err(error) = conn.close().await {
        tracing::debug!(%error, "the migration's connection did not close cleanly");
    }
    outcome
}

/// One list, by version.
fn merge(sources: &[&Migrator]) -> Result<Migrator, MigrationError> {
    for migration in sources.iter().flat_map(|source| source.iter()) {
        if OURS.contains(&migration.version) {
            return Err(MigrationError::Reserved {
                version: migration.version,
                description: migration.description.to_string(),
            });
        }
    }
    let mut all: Vec<Migration> = MIGRATOR
        .iter()
        .chain(sources.iter().flat_map(|source| source.iter()))
        .cloned()
        .collect();
    all.sort();
    // A version may have an up and a down script, but not two of one type.
    if let Some([first, second]) = all.array_windows().find(|[a, b]| a == b) {
        return Err(MigrationError::Twice {
            version: first.version,
            first: first.description.to_string(),
            second: second.description.to_string(),
        });
    }
    let mut merged = Migrator::with_migrations(all);
    merged.set_ignore_missing(true);
    // Ours instead, see `lock`.
    merged.set_locking(false);
    Ok(merged)
}

/// Building an index may take longer than the role's time-outs for everyday work allow. Waiting for a table's lock may
/// not: everybody else queues behind it. `transaction_timeout` is known from version 17 on.
async fn prepare(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query(
        "SELECT set_config(name, '0', false) FROM pg_settings
         WHERE name IN ('transaction_timeout', 'statement_timeout')",
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Takes the schema's migration lock, which ends with the connection. One lock per schema: services that share a database
/// need not wait for each other. Asked for again and again rather than waited for inside a statement, because that
/// statement's snapshot would keep the other from building an index concurrently.
async fn lock(conn: &mut PgConnection, schema: &str) -> Result<(), MigrationError> {
    let until = Instant::now() + PATIENCE;
    let mut told = false;
    loop {
        let ours: bool =
            sqlx::query_scalar("SELECT pg_try_advisory_lock(hashtextextended('waybill migrate ' || $1, 0))")
                .bind(schema)
                .fetch_one(&mut *conn)
                .await
                .map_err(StoreError::from)?;
        if ours {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(MigrationError::Busy {
                schema: schema.to_owned(),
            });
        }
        if !std::mem::replace(&mut told, true) {
            tracing::info!(schema, "another process is migrating the schema; waiting");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[cfg(test)]
mod tests {
    use sqlx::SqlSafeStr;
    use sqlx::migrate::MigrationType;

    use super::*;

    fn source(version: i64, name: &'static str) -> Migrator {
        let sql = "SELECT 1".into_sql_str();
        let migration = Migration::new(version, name.into(), MigrationType::Simple, sql, false);
        Migrator::with_migrations(vec![migration])
    }

    #[test]
    fn sources_are_merged_by_version() {
        let (service, events) = (source(20_260_101, "orders"), source(1001, "event log"));
        let merged = merge(&[&service, &events]).expect("the versions differ");
        let versions: Vec<i64> = merged.iter().map(|m| m.version).collect();
        let mut expected: Vec<i64> = MIGRATOR.iter().map(|m| m.version).collect();
        expected.extend([1001, 20_260_101]);
        assert_eq!(versions, expected);
        assert!(versions.is_sorted());
    }

    #[test]
    fn a_version_belongs_to_one_source() {
        let (a, b) = (source(1001, "event log"), source(1001, "orders"));
        let error = merge(&[&a, &b]).expect_err("one version twice").to_string();
        assert!(
            error.contains("1001") && error.contains("event log") && error.contains("orders"),
            "{error}"
        );
        let error = merge(&[&source(7, "orders")])
            .expect_err("a version of the store")
            .to_string();
        assert!(error.contains('7') && error.contains("orders"), "{error}");
    }

    #[test]
    fn our_own_versions_are_in_our_range() {
        assert!(MIGRATOR.iter().count() >= 2);
        assert!(MIGRATOR.iter().all(|m| OURS.contains(&m.version)));
    }
}
