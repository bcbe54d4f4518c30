//! The private servers as their users see them: reachable, guarded, keeping what they should keep.

use std::time::Duration;

use async_nats::jetstream;
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use waybill_embedded::{DataDir, Embedded, Error, Nats, Options, Postgres};

/// The client leaves the user and password of a URL aside; they are handed over apart.
async fn nats_client(url: &str) -> anyhow::Result<async_nats::Client> {
    let address: async_nats::ServerAddr = url.parse()?;
    let user = address.username().unwrap_or_default().to_owned();
    let password = address.password().unwrap_or_default().to_owned();
    Ok(async_nats::ConnectOptions::with_user_and_password(user, password)
        .connect(address)
        .await?)
}

#[tokio::test]
async fn both_servers_work_behind_a_password_and_on_loopback_only() -> anyhow::Result<()> {
    let embedded = Embedded::start(Options::default()).await?;

    let url = embedded.postgres().admin_url().to_owned();
    let mut postgres = PgConnection::connect(&url).await?;
    let prepared: String = sqlx::query_scalar("SHOW max_prepared_transactions")
        .fetch_one(&mut postgres)
        .await?;
    assert_eq!(prepared, "0");
    let listens: String = sqlx::query_scalar("SHOW listen_addresses")
        .fetch_one(&mut postgres)
        .await?;
    assert_eq!(listens, "127.0.0.1");
    let lower: String = sqlx::query_scalar("SELECT lower('ÄÖ')")
        .fetch_one(&mut postgres)
        .await?;
    assert_eq!(lower, "äö");
    let wrong = embedded.postgres().url("waybill_admin", "guess", "postgres");
    assert!(
        PgConnection::connect(&wrong).await.is_err(),
        "a wrong password was let in"
    );

    let nats = nats_client(embedded.nats().url()).await?;
    jetstream::new(nats).query_account().await?;
    let host = embedded
        .nats()
        .url()
        .rsplit('@')
        .next()
        .unwrap_or_default()
        .to_owned();
    assert!(host.starts_with("127.0.0.1:"), "{host}");
    assert!(
        async_nats::connect(host).await.is_err(),
        "a client without password was let in"
    );

    embedded.stop().await?;
    assert!(
        PgConnection::connect(&url).await.is_err(),
        "postgres is still there after stop"
    );
    Ok(())
}

#[tokio::test]
async fn restart_and_kill_keep_address_and_data() -> anyhow::Result<()> {
    let postgres = Postgres::start(&Options::default()).await?;
    let url = postgres.admin_url().to_owned();
    sqlx::raw_sql("CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)")
        .execute(&mut PgConnection::connect(&url).await?)
        .await?;

    postgres.restart().await?;
    let count = "SELECT count(*) FROM kept";
    let rows: i64 = sqlx::query_scalar(count)
        .fetch_one(&mut PgConnection::connect(&url).await?)
        .await?;
    assert_eq!(rows, 1, "after restart");

    postgres.kill().await?;
    assert!(
        PgConnection::connect(&url).await.is_err(),
        "postgres is still there after kill"
    );
    postgres.resume().await?;
    let rows: i64 = sqlx::query_scalar(count)
        .fetch_one(&mut PgConnection::connect(&url).await?)
        .await?;
    assert_eq!(rows, 1, "after kill");
    Ok(())
}

#[tokio::test]
async fn nats_keeps_streams_over_a_restart_and_loses_them_when_wiped() -> anyhow::Result<()> {
    let nats = Nats::start(&Options::default()).await?;
    let config = || jetstream::stream::Config {
        name: "KEPT".to_owned(),
        subjects: vec!["kept.>".to_owned()],
        ..Default::default()
    };
    let connect = || async { anyhow::Ok(jetstream::new(nats_client(nats.url()).await?)) };

    let context = connect().await?;
    context.create_stream(config()).await?;
    context.publish("kept.one", "1".into()).await?.await?;
    nats.restart().await?;
    let kept = connect()
        .await?
        .get_stream("KEPT")
        .await?
        .cached_info()
        .state
        .messages;
    assert_eq!(kept, 1);

    nats.kill().await?;
    nats.resume().await?;
    assert!(connect().await?.get_stream("KEPT").await.is_ok(), "after kill");

    nats.wipe().await?;
    assert!(
        connect().await?.get_stream("KEPT").await.is_err(),
        "the stream outlived the wiping"
    );
    Ok(())
}

#[tokio::test]
async fn a_kept_folder_with_a_space_carries_its_data_to_the_next_start() -> anyhow::Result<()> {
    let parent = tempfile::tempdir()?;
    let folder = parent.path().join("my data");
    let options = Options {
        data: DataDir::Kept(folder.clone()),
        durable: true,
        ..Options::default()
    };

    let first = Embedded::start(options.clone()).await?;
    sqlx::raw_sql("CREATE TABLE kept ()")
        .execute(&mut PgConnection::connect(first.postgres().admin_url()).await?)
        .await?;
    first.stop().await?;

    let second = Embedded::start(options).await?;
    sqlx::raw_sql("SELECT * FROM kept")
        .execute(&mut PgConnection::connect(second.postgres().admin_url()).await?)
        .await?;
    let fsync: String = sqlx::query_scalar("SHOW fsync")
        .fetch_one(&mut PgConnection::connect(second.postgres().admin_url()).await?)
        .await?;
    assert_eq!(fsync, "on");
    second.stop().await?;
    assert!(folder.join("postgres/data/PG_VERSION").is_file());
    Ok(())
}

#[tokio::test]
async fn given_addresses_are_used_and_not_touched() -> anyhow::Result<()> {
    let options = Options {
        postgres_url: Some("postgres://me:pw@db.example:6432/postgres".into()),
        nats_url: Some("nats://nats.example:4222".into()),
        ..Options::default()
    };
    let embedded = Embedded::start(options).await?;
    assert_eq!(
        embedded.postgres().admin_url(),
        "postgres://me:pw@db.example:6432/postgres"
    );
    assert_eq!(embedded.nats().url(), "nats://nats.example:4222");
    let refused = embedded.nats().wipe().await;
    assert!(
        matches!(refused, Err(Error::NotOurs { what: "wipe", .. })),
        "{refused:?}"
    );
    assert!(!format!("{embedded:?}").contains("pw"));
    tokio::time::timeout(Duration::from_secs(5), embedded.stop()).await??;
    Ok(())
}
