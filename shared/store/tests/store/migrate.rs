//! Replicas that start together, builds of different age, and migrations that fail.

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{Executor, SqlSafeStr};
use waybill_store::Db;
use waybill_store::migrate::{MIGRATOR, MigrationError, migrate};
use waybill_testkit::TestDb;

use crate::{SCHEMA, config};

fn source(migrations: &[(i64, &'static str)]) -> Migrator {
    let migrations = migrations
        .iter()
        .map(|(version, sql)| {
            Migration::new(
                *version,
                "test".into(),
                MigrationType::Simple,
                sql.into_sql_str(),
                false,
            )
        })
        .collect();
    Migrator::with_migrations(migrations)
}

async fn versions(db: &Db) -> Result<Vec<i64>, sqlx::Error> {
    sqlx::query_scalar("SELECT version FROM _sqlx_migrations ORDER BY version")
        .fetch_all(db.pool())
        .await
}

/// Not idempotent, and slow enough to overlap.
const ORDERS: &str = "CREATE TABLE orders (id uuid PRIMARY KEY); SELECT pg_sleep(0.05)";

/// As [`ORDERS`], one version on.
const PARCELS: &str = "CREATE TABLE parcels (id uuid PRIMARY KEY); SELECT pg_sleep(0.05)";

/// The versions of the store's own migrations, and others.
fn ours_and<const N: usize>(others: [i64; N]) -> Vec<i64> {
    MIGRATOR.iter().map(|m| m.version).chain(others).collect()
}

/// Eight replicas of a build start at once.
async fn start_eight(
    test: &TestDb,
    build: fn(replica: usize) -> Vec<(i64, &'static str)>,
) -> anyhow::Result<Vec<Db>> {
    let starts: Vec<_> = (0..8)
        .map(|replica| {
            let config = config(&test.url(SCHEMA), 2);
            tokio::spawn(async move {
                let db = Db::connect(&config, SCHEMA).await?;
                let events = source(&[(1001, "CREATE TABLE event_log ()")]);
                migrate(&db, &[&events, &source(&build(replica))]).await?;
                anyhow::Ok(db)
            })
        })
        .collect();
    let mut replicas = Vec::new();
    for start in starts {
        replicas.push(start.await??);
    }
    Ok(replicas)
}

fn first_build(_: usize) -> Vec<(i64, &'static str)> {
    vec![(20_260_101, ORDERS), (20_260_102, "CREATE TABLE lines ()")]
}

/// A roll-out in the middle: every other replica is still of the build before.
fn next_build(replica: usize) -> Vec<(i64, &'static str)> {
    let mut migrations = first_build(replica);
    if replica.is_multiple_of(2) {
        migrations.push((20_260_103, PARCELS));
    }
    migrations
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_start_together_migrate_once() -> anyhow::Result<()> {
    let test = waybill_testkit::database(&[SCHEMA]).await;
    let replicas = start_eight(&test, first_build).await?;
    let db = &replicas[0];
    assert_eq!(
        versions(db).await?,
        ours_and([1001, 20_260_101, 20_260_102]),
        "on an empty schema"
    );
    // The tables of all sources are in the service's schema, and reachable by their bare names.
    let here: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_tables WHERE schemaname = $1
         AND tablename IN ('idempotency', 'jobs', 'job_failures', 'event_log', 'orders', 'lines')",
    )
    .bind(SCHEMA)
    .fetch_one(db.pool())
    .await?;
    assert_eq!(here, 6);

    start_eight(&test, next_build).await?;
    assert_eq!(
        versions(db).await?,
        ours_and([1001, 20_260_101, 20_260_102, 20_260_103]),
        "on a schema that is one version behind"
    );
    Ok(())
}

#[tokio::test]
async fn an_old_build_starts_on_a_newer_schema() -> anyhow::Result<()> {
    let test = waybill_testkit::database(&[SCHEMA]).await;
    let db = Db::connect(&config(&test.url(SCHEMA), 2), SCHEMA).await?;
    let new = source(&[(20_260_101, ORDERS), (20_260_102, "CREATE TABLE lines ()")]);
    let old = source(&[(20_260_101, ORDERS)]);
    migrate(&db, &[&new]).await?;
    migrate(&db, &[&old]).await?;
    // A shared crate's new migration has a lower version than what is there; it is applied all the same.
    migrate(&db, &[&old, &source(&[(1001, "CREATE TABLE event_log ()")])]).await?;
    assert_eq!(versions(&db).await?, ours_and([1001, 20_260_101, 20_260_102]));
    Ok(())
}

#[tokio::test]
async fn a_changed_migration_is_refused() -> anyhow::Result<()> {
    let test = waybill_testkit::database(&[SCHEMA]).await;
    let db = Db::connect(&config(&test.url(SCHEMA), 2), SCHEMA).await?;
    migrate(&db, &[&source(&[(20_260_101, ORDERS)])]).await?;
    let error = migrate(&db, &[&source(&[(20_260_101, "CREATE TABLE orders ()")])])
        .await
        .expect_err("it was applied in another form");
    let MigrationError::Failed { source, .. } = error else {
        panic!("{error}");
    };
    assert!(source.to_string().contains("20260101"), "{source}");
    Ok(())
}

#[tokio::test]
async fn a_failed_migration_leaves_nothing_and_can_be_mended() -> anyhow::Result<()> {
    let test = waybill_testkit::database(&[SCHEMA]).await;
    let db = Db::connect(&config(&test.url(SCHEMA), 2), SCHEMA).await?;
    let broken = source(&[(20_260_101, "CREATE TABLE orders (); SELECT nonsense")]);
    migrate(&db, &[&broken])
        .await
        .expect_err("the statement is wrong");
    assert_eq!(versions(&db).await?, ours_and([]));
    // Neither the half-made table nor the lock is left.
    migrate(&db, &[&source(&[(20_260_101, "CREATE TABLE orders ()")])]).await?;
    assert_eq!(versions(&db).await?, ours_and([20_260_101]));
    Ok(())
}

#[tokio::test]
async fn a_migration_may_take_longer_than_everyday_work() -> anyhow::Result<()> {
    let test = waybill_testkit::database(&[SCHEMA]).await;
    let db = Db::connect(&config(&test.url(SCHEMA), 2), SCHEMA).await?;
    // The migration reads its own limits: waiting for 5 s would prove no more.
    let sql = "CREATE TABLE limits AS SELECT current_setting('transaction_timeout') AS whole,
               current_setting('lock_timeout') AS lock";
    migrate(&db, &[&source(&[(20_260_101, sql)])]).await?;
    let limits: (String, String) = sqlx::query_as("SELECT whole, lock FROM limits")
        .fetch_one(db.pool())
        .await?;
    assert_eq!(limits, ("0".to_owned(), "3s".to_owned()));
    let everyday: String = sqlx::query_scalar("SHOW transaction_timeout")
        .fetch_one(db.pool())
        .await?;
    assert_eq!(everyday, "5s");
    Ok(())
}

#[tokio::test]
async fn a_build_that_waits_does_not_block_a_concurrent_index() -> anyhow::Result<()> {
    let test = waybill_testkit::database(&[SCHEMA]).await;
    let db = Db::connect(&config(&test.url(SCHEMA), 2), SCHEMA).await?;
    migrate(&db, &[&source(&[(20_260_101, ORDERS)])]).await?;
    // The first replica holds the lock and builds an index; others come meanwhile.
    let mut first = db.dedicated().await?;
    let mine = format!("SELECT pg_advisory_lock(hashtextextended('waybill migrate {SCHEMA}', 0))");
    first.execute(sqlx::AssertSqlSafe(mine)).await?;
    let later = source(&[(20_260_101, ORDERS)]);
    let waiting = tokio::spawn({
        let db = db.clone();
        async move { migrate(&db, &[&later]).await }
    });
    let mut admin = test.admin().await;
    waybill_testkit::eventually("a second replica that waits", std::time::Duration::from_secs(10), async || {
        let seen: Result<i64, _> = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%pg_try_advisory_lock%'
             AND pid <> pg_backend_pid()",
        )
        .fetch_one(&mut admin)
        .await;
        seen.ok().filter(|count| *count > 0)
    })
    .await;
    first
        .execute("CREATE INDEX CONCURRENTLY orders_again ON orders (id)")
        .await?;
    drop(first);
    waiting.await??;
    Ok(())
}
