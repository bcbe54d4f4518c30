//! The crate against a real Postgres, prepared as in production.

mod bootstrap;
mod connect;
mod jobs;
mod lost_commit;
mod maintenance;
mod migrate;
mod usecase;

use waybill_runtime::config::Secret;
use waybill_runtime::service::DatabaseConfig;
use waybill_store::Db;
use waybill_testkit::TestDb;

/// The service that the tests play.
const SCHEMA: &str = "store_test";

fn config(url: &str, max_connections: u32) -> DatabaseConfig {
    DatabaseConfig {
        url: Secret::from_value(url),
        max_connections,
        ..DatabaseConfig::default()
    }
}

/// A migrated schema in a database of its own.
async fn store() -> anyhow::Result<(TestDb, Db)> {
    let test = waybill_testkit::database(&[SCHEMA]).await;
    let db = Db::connect(&config(&test.url(SCHEMA), 10), SCHEMA).await?;
    waybill_store::migrate::migrate(&db, &[]).await?;
    Ok((test, db))
}
