//! What a service is told when its database is not as it should be, and what its connections look like.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sqlx::Executor;
use waybill_runtime::service::DatabaseConfig;
use waybill_store::{ConnectCheck, ConnectError, Db, DbOptions, StoreError};
use waybill_testkit::Wire;

use crate::{SCHEMA, config, store};

#[tokio::test]
async fn connections_look_alike() -> anyhow::Result<()> {
    let (_test, db) = store().await?;
    let mut tx = db.begin().await?;
    let (schema, name, isolation): (String, String, String) = sqlx::query_as(
        "SELECT current_schema()::text, current_setting('application_name'), current_setting('transaction_isolation')",
    )
    .fetch_one(tx.conn())
    .await?;
    assert_eq!((schema.as_str(), name.as_str()), (SCHEMA, "waybill-store_test"));
    assert_eq!(isolation, "read committed");
    Ok(())
}

#[tokio::test]
async fn faults_of_the_address_are_told_apart() -> anyhow::Result<()> {
    let test = waybill_testkit::database(&[SCHEMA]).await;
    let quick = || DbOptions {
        startup_timeout: Duration::from_secs(3),
        ..DbOptions::default()
    };
    let connect = async |url: &str, schema: &str| {
        Db::connect_with(&config(url, 2), schema, quick())
            .await
            .expect_err("it cannot work")
    };
    let url = test.url(SCHEMA);

    assert!(matches!(connect(&url, "No Name").await, ConnectError::Name(_)));
    let error = connect("mysql://user:secret@host", SCHEMA).await;
    assert!(matches!(error, ConnectError::Url) && !error.to_string().contains("secret"));
    let error = connect("postgres://user:secret@127.0.0.1:1/nowhere", SCHEMA).await;
    let text = format!("{error} {error:?}");
    assert!(
        text.contains("127.0.0.1:1/nowhere") && !text.contains("secret"),
        "{text}"
    );
    let missing = DatabaseConfig::default();
    assert!(matches!(
        Db::connect(&missing, SCHEMA).await,
        Err(ConnectError::Config(_))
    ));

    let error = connect(&url, "elsewhere").await;
    assert!(
        matches!(&error, ConnectError::NoSchema { schema, .. } if schema == "elsewhere"),
        "{error}"
    );
    assert!(error.to_string().contains("bootstrap"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_server_that_starts_late_is_waited_for() -> anyhow::Result<()> {
    let test = waybill_testkit::database(&[SCHEMA]).await;
    let (wire, url) = Wire::before(&test.url(SCHEMA)).await?;
    wire.cut();
    let starting = tokio::spawn(async move { Db::connect(&config(&url, 2), SCHEMA).await });
    waybill_testkit::eventually("first attempts", Duration::from_secs(10), async || {
        (wire.connections() >= 2).then_some(())
    })
    .await;
    wire.restore();
    starting.await??;
    Ok(())
}

/// Refuses the first connections.
fn refusing(times: u32, asked: &Arc<AtomicU32>) -> DbOptions {
    let asked = Arc::clone(asked);
    let options = DbOptions {
        acquire_timeout: Duration::from_secs(3),
        ..DbOptions::default()
    };
    options.on_connect(move |conn| {
        let number = asked.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            conn.execute("SELECT 1").await?;
            if number < times {
                Err(StoreError::Fenced)
            } else {
                Ok(())
            }
        })
    })
}

#[tokio::test]
async fn every_new_connection_is_checked() -> anyhow::Result<()> {
    let (test, _db) = store().await?;
    let config = config(&test.url(SCHEMA), 2);
    let asked = Arc::new(AtomicU32::new(0));
    let db = Db::connect_with(&config, SCHEMA, refusing(0, &asked)).await?;
    assert_eq!(
        asked.load(Ordering::SeqCst),
        0,
        "nothing is opened before it is needed"
    );
    let (first, second) = (db.begin().await?, db.begin().await?);
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    drop((first, second));

    let asked = Arc::new(AtomicU32::new(0));
    let db = Db::connect_with(&config, SCHEMA, refusing(u32::MAX, &asked)).await?;
    let error = db.begin().await.expect_err("the check never passes");
    assert!(error.is_certainly_aborted());
    let StoreError::Unavailable { source, .. } = &error else {
        panic!("{error:?}")
    };
    assert!(source.to_string().contains("fenced"), "{source}");
    assert!(asked.load(Ordering::SeqCst) > 1, "it is asked again");
    Ok(())
}

#[tokio::test]
async fn a_full_pool_is_unavailable_not_a_hang() -> anyhow::Result<()> {
    let (test, _db) = store().await?;
    let options = DbOptions {
        acquire_timeout: Duration::from_secs(2),
        ..DbOptions::default()
    };
    let db = Db::connect_with(&config(&test.url(SCHEMA), 2), SCHEMA, options).await?;
    let held = (db.begin().await?, db.begin().await?);
    let error = db.begin().await.expect_err("both connections are taken");
    assert!(
        matches!(
            error,
            StoreError::Unavailable {
                certainly_aborted: true,
                ..
            }
        ),
        "{error:?}"
    );
    drop(held);
    db.begin().await?;
    Ok(())
}

#[tokio::test]
async fn listeners_hear_of_commits_elsewhere() -> anyhow::Result<()> {
    let (_test, db) = store().await?;
    let mut listener = db.listen(&["news"]).await?;
    db.pool().execute("NOTIFY news, 'hello'").await?;
    let heard = tokio::time::timeout(Duration::from_secs(10), listener.recv()).await??;
    assert_eq!((heard.channel(), heard.payload()), ("news", "hello"));
    // It does not take from the pool.
    db.close().await;
    Ok(())
}

/// The server of the tests writes late and has no standby: who does not accept that is told why, all at once.
#[tokio::test]
async fn a_server_that_may_forget_is_refused_by_name() -> anyhow::Result<()> {
    let (_test, db) = store().await?;
    let refused = waybill_store::durability::require_durable(&db, false)
        .await
        .expect_err("there is no standby")
        .to_string();
    assert!(
        refused.contains("synchronous_standby_names is empty"),
        "{refused}"
    );
    assert!(refused.contains("database.accept_loss = true"), "{refused}");
    waybill_store::durability::require_durable(&db, true).await?;
    Ok(())
}

/// Work with connections of its own waits for nobody else's, passes the same checks, and rings the same bells.
#[tokio::test]
async fn a_handle_apart_has_connections_of_its_own() -> anyhow::Result<()> {
    let (test, _db) = store().await?;
    let (all, own) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let check = |count: &Arc<AtomicU32>| -> ConnectCheck {
        let count = Arc::clone(count);
        Arc::new(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            Box::pin(async { Ok(()) })
        })
    };
    let options = DbOptions {
        on_connect: vec![check(&all)],
        ..DbOptions::default()
    };
    let db = Db::connect_with(&config(&test.url(SCHEMA), 1), SCHEMA, options).await?;
    let held = db.begin().await?;
    let apart = db.apart(1, Some(check(&own)));
    let mut tx = apart.begin().await?;
    let checked = (all.load(Ordering::SeqCst), own.load(Ordering::SeqCst));
    assert_eq!(checked, (2, 1), "the same checks, and its own");
    tx.ring("news");
    tx.commit().await?;
    tokio::time::timeout(Duration::from_secs(10), db.bell("news").notified()).await?;
    drop(held);

    db.close().await;
    assert!(apart.begin().await.is_err(), "it is closed with the other one");
    Ok(())
}
