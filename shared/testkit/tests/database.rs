//! Each test has a database of its own, with the rights that production gives.

use std::time::Duration;

use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use waybill_testkit::{database, eventually};

async fn run(conn: &mut PgConnection, sql: &'static str) -> sqlx::Result<()> {
    sqlx::raw_sql(sql).execute(conn).await.map(drop)
}

#[tokio::test]
async fn two_tests_do_not_meet() -> anyhow::Result<()> {
    let (one, two) = tokio::join!(database(&["order", "refund"]), database(&["order", "refund"]));
    let mut order_one = PgConnection::connect(&one.url("order")).await?;
    let mut order_two = PgConnection::connect(&two.url("order")).await?;
    run(&mut order_one, "CREATE TABLE orders ()").await?;
    run(&mut order_two, "CREATE TABLE orders ()").await?;
    let schema: String =
        sqlx::query_scalar("SELECT schemaname::text FROM pg_tables WHERE tablename = 'orders'")
            .fetch_one(&mut order_one)
            .await?;
    assert_eq!(schema, "order");
    Ok(())
}

#[tokio::test]
async fn a_service_reaches_nothing_but_its_schema() -> anyhow::Result<()> {
    let db = database(&["order", "refund"]).await;
    let other = database(&["order", "analytics"]).await;
    run(
        &mut PgConnection::connect(&db.url("order")).await?,
        "CREATE TABLE orders ()",
    )
    .await?;
    let mut refund = PgConnection::connect(&db.url("refund")).await?;
    let denied = run(&mut refund, r#"SELECT * FROM "order".orders"#)
        .await
        .expect_err("refund read order's table");
    assert!(denied.to_string().contains("permission denied"), "{denied}");
    run(&mut refund, "CREATE TEMPORARY TABLE t ()")
        .await
        .expect_err("refund made a temporary table");

    let elsewhere = db.url("refund").replace(db.name(), other.name());
    let denied = PgConnection::connect(&elsewhere)
        .await
        .expect_err("refund entered another test's database");
    assert!(denied.to_string().contains("permission denied"), "{denied}");
    Ok(())
}

#[tokio::test]
async fn a_database_goes_when_its_test_ends() -> anyhow::Result<()> {
    let (db, watcher) = (database(&["order"]).await, database(&["order"]).await);
    let name = db.name().to_owned();
    // A connection left open does not hold it.
    let mut idle = PgConnection::connect(&db.url("order")).await?;
    run(&mut idle, "SELECT 1").await?;
    drop(db);
    let mut admin = watcher.admin().await;
    eventually("end of the database", Duration::from_secs(20), async || {
        let present = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)";
        match sqlx::query_scalar::<_, bool>(present)
            .bind(&name)
            .fetch_one(&mut admin)
            .await
        {
            Ok(false) => Ok(()),
            other => Err(other),
        }
    })
    .await;
    assert!(idle.ping().await.is_err(), "the connection outlived its database");
    Ok(())
}

#[tokio::test]
#[should_panic(expected = "no refund in test_")]
async fn a_service_that_was_not_asked_for_is_named() {
    database(&["order"]).await.url("refund");
}
