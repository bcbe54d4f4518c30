//! What tests of plans stand on: the service's tables, as an administrator sees them, and a store of many orders.

use sqlx::{AssertSqlSafe, PgConnection, Row as _};
use waybill_store::Db;
use waybill_store::migrate::migrate;
use waybill_testkit::TestDb;

#[path = "../../tests/it/many.rs"]
pub(super) mod many;

pub(super) async fn tables() -> (TestDb, PgConnection) {
    let place = waybill_testkit::database(&["order"]).await;
    let config = waybill_runtime::service::DatabaseConfig {
        url: waybill_runtime::config::Secret::from_value(place.url("order")),
        ..Default::default()
    };
    let db = Db::connect(&config, "order")
        .await
        .expect("the database is there");
    migrate(&db, &[&waybill_events::MIGRATOR, &crate::MIGRATOR])
        .await
        .expect("the migrations run");
    let mut tables = place.admin().await;
    sqlx::raw_sql("SET search_path = \"order\"")
        .execute(&mut tables)
        .await
        .expect("the schema is there");
    (place, tables)
}

/// The plan of a statement for whatever values, as the server keeps it.
pub(super) async fn generic(tables: &mut PgConnection, statement: &str) -> Result<String, sqlx::Error> {
    let explain = format!("EXPLAIN (GENERIC_PLAN) {statement}");
    let rows = sqlx::raw_sql(AssertSqlSafe(explain)).fetch_all(tables).await?;
    let lines: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    Ok(lines.join("\n"))
}
