//! Each service sees its own schema and nothing else, whoever prepares the database and however often.

use std::str::FromStr;

use secrecy::SecretString;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection};
use waybill_store::StoreError;
use waybill_store::bootstrap::{BootstrapError, Service, bootstrap, role_of};
use waybill_testkit::TestDb;

/// A password with every character that SQL text has to fear.
const PASSWORD: &str = r#"it's"a\$1--pass/*word*/"#;

fn service(name: &str) -> Service {
    Service {
        name: name.to_owned(),
        password: SecretString::from(PASSWORD),
    }
}

/// Roles belong to the server that the tests share: each test has names of its own.
async fn prepared(names: [&str; 2]) -> anyhow::Result<TestDb> {
    let test = waybill_testkit::database(&[]).await;
    bootstrap(&mut test.admin().await, &names.map(service)).await?;
    Ok(test)
}

async fn log_in(test: &TestDb, service: &str, password: &str) -> Result<PgConnection, sqlx::Error> {
    let options = PgConnectOptions::from_str(&test.admin_url())?;
    options
        .username(&role_of(service))
        .password(password)
        .connect()
        .await
}

async fn refused(conn: &mut PgConnection, sql: &'static str) -> String {
    match conn.execute(sql).await {
        Ok(_) => format!("allowed: {sql}"),
        Err(error) => error
            .as_database_error()
            .and_then(|e| e.code())
            .unwrap_or_default()
            .into_owned(),
    }
}

const NO_RIGHT: &str = "42501";

#[tokio::test]
async fn a_service_owns_its_schema_and_nothing_else() -> anyhow::Result<()> {
    let test = prepared(["bs_left", "bs_right"]).await?;
    let mut right = log_in(&test, "bs_right", PASSWORD).await?;
    right.execute("CREATE TABLE secrets (id int)").await?;
    let mut left = log_in(&test, "bs_left", PASSWORD).await?;
    left.execute("CREATE TABLE orders (id int)").await?;
    let schema: String =
        sqlx::query_scalar("SELECT schemaname::text FROM pg_tables WHERE tablename = 'orders'")
            .fetch_one(&mut left)
            .await?;
    assert_eq!(schema, "bs_left");

    for sql in [
        "SELECT * FROM bs_right.secrets",
        "CREATE TABLE bs_right.mine ()",
        "CREATE TABLE bs_right_rebuild.mine ()",
        "CREATE TABLE public.mine ()",
        "CREATE TEMPORARY TABLE mine ()",
        "CREATE SCHEMA mine",
        "CREATE ROLE mine",
        "CREATE DATABASE mine",
        "SELECT pg_read_file('/etc/passwd')",
    ] {
        assert_eq!(refused(&mut left, sql).await, NO_RIGHT, "{sql}");
    }
    // A second schema is its own, too: its projections are built anew there.
    left.execute("CREATE TABLE bs_left_rebuild.orders (id int)")
        .await?;
    // The extension is there for whoever needs an exclusion constraint over plain columns.
    left.execute(
        "CREATE TABLE spans (id uuid, span int8range, EXCLUDE USING gist (id WITH =, span WITH &&))",
    )
    .await?;
    Ok(())
}

/// A database that an older release prepared gets what it lacks.
#[tokio::test]
async fn a_schema_beside_is_added_later() -> anyhow::Result<()> {
    let test = prepared(["bs_older", "bs_other"]).await?;
    let mut admin = test.admin().await;
    admin.execute("DROP SCHEMA bs_older_rebuild").await?;
    bootstrap(&mut admin, &[service("bs_older")]).await?;
    let mut older = log_in(&test, "bs_older", PASSWORD).await?;
    older
        .execute("CREATE TABLE bs_older_rebuild.orders (id int)")
        .await?;
    Ok(())
}

#[tokio::test]
async fn nobody_else_gets_in() -> anyhow::Result<()> {
    let test = prepared(["bs_ours", "bs_too"]).await?;
    let other = waybill_testkit::database(&[]).await;
    bootstrap(&mut other.admin().await, &[service("bs_stranger")]).await?;
    let error = log_in(&test, "bs_stranger", PASSWORD)
        .await
        .expect_err("it has no place here");
    assert_eq!(
        error.as_database_error().and_then(|e| e.code()).as_deref(),
        Some(NO_RIGHT)
    );
    log_in(&test, "bs_ours", "another password")
        .await
        .expect_err("the password is wrong");
    Ok(())
}

#[tokio::test]
async fn roles_may_not_linger() -> anyhow::Result<()> {
    let test = prepared(["bs_quick", "bs_brief"]).await?;
    let mut conn = log_in(&test, "bs_quick", PASSWORD).await?;
    let limits: Vec<(String, String)> = sqlx::query_as(
        "SELECT name, current_setting(name) FROM pg_settings
         WHERE name IN ('idle_in_transaction_session_timeout', 'lock_timeout', 'transaction_timeout') ORDER BY name",
    )
    .fetch_all(&mut conn)
    .await?;
    let limits: Vec<_> = limits
        .iter()
        .map(|(name, limit)| (name.as_str(), limit.as_str()))
        .collect();
    assert_eq!(
        limits,
        [
            ("idle_in_transaction_session_timeout", "5s"),
            ("lock_timeout", "3s"),
            ("transaction_timeout", "5s"),
        ]
    );

    conn.execute("SET idle_in_transaction_session_timeout = '10ms'; BEGIN; SELECT 1")
        .await?;
    let mut admin = test.admin().await;
    waybill_testkit::eventually(
        "the session's end",
        std::time::Duration::from_secs(10),
        async || {
            let left: Result<i64, _> = sqlx::query_scalar(
                "SELECT count(*) FROM pg_stat_activity WHERE usename = 'waybill_bs_quick'",
            )
            .fetch_one(&mut admin)
            .await;
            (left.ok()? == 0).then_some(())
        },
    )
    .await;
    let error = StoreError::from(conn.ping().await.expect_err("the server has ended the session"));
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
    Ok(())
}

#[tokio::test]
async fn the_password_never_appears_in_a_statement() -> anyhow::Result<()> {
    let test = prepared(["bs_hidden", "bs_hush"]).await?;
    let stored: String =
        sqlx::query_scalar("SELECT rolpassword FROM pg_authid WHERE rolname = 'waybill_bs_hidden'")
            .fetch_one(&mut test.admin().await)
            .await?;
    assert!(stored.starts_with("SCRAM-SHA-256$4096:"), "{stored}");
    assert!(!format!("{:?}", service("bs_hidden")).contains(PASSWORD));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_may_prepare_at_once_and_again() -> anyhow::Result<()> {
    let databases = [
        waybill_testkit::database(&[]).await,
        waybill_testkit::database(&[]).await,
    ];
    // Two databases of one server: they share the roles but no lock.
    let runs: Vec<_> = (0..10)
        .map(|number| {
            let url = databases[number % 2].admin_url();
            tokio::spawn(async move {
                let mut admin = PgConnectOptions::from_str(&url)?.connect().await?;
                bootstrap(&mut admin, &["bs_many", "bs_more"].map(service)).await?;
                anyhow::Ok(())
            })
        })
        .collect();
    for run in runs {
        run.await??;
    }
    for test in &databases {
        let mut conn = log_in(test, "bs_more", PASSWORD).await?;
        conn.execute("CREATE TABLE kept (id int)").await?;
        bootstrap(&mut test.admin().await, &["bs_many", "bs_more"].map(service)).await?;
        conn.execute("SELECT * FROM kept").await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_owner_of_a_database_needs_not_be_superuser() -> anyhow::Result<()> {
    let test = waybill_testkit::database(&[]).await;
    let mut admin = test.admin().await;
    admin
        .execute(AssertSqlSafe(format!(
            "CREATE ROLE bs_owner LOGIN CREATEROLE PASSWORD 'owner-of-it'; ALTER DATABASE {} OWNER TO bs_owner",
            test.name()
        )))
        .await?;
    let mut owner = PgConnectOptions::from_str(&test.admin_url())?
        .username("bs_owner")
        .password("owner-of-it")
        .connect()
        .await?;
    for _ in 0..2 {
        bootstrap(&mut owner, &["bs_managed", "bs_cloud"].map(service)).await?;
    }
    let mut conn = log_in(&test, "bs_managed", PASSWORD).await?;
    conn.execute("CREATE TABLE orders (id int)").await?;
    assert_eq!(
        refused(&mut conn, "CREATE TABLE bs_cloud.mine ()").await,
        NO_RIGHT
    );
    Ok(())
}

#[tokio::test]
async fn what_is_not_ours_is_not_taken_over() -> anyhow::Result<()> {
    let test = waybill_testkit::database(&[]).await;
    let mut admin = test.admin().await;
    admin
        .execute("CREATE ROLE waybill_bs_king LOGIN SUPERUSER; CREATE SCHEMA bs_land")
        .await?;
    let error = bootstrap(&mut admin, &[service("bs_king")])
        .await
        .expect_err("it is superuser");
    assert!(matches!(error, BootstrapError::Role { .. }) && error.to_string().contains("superuser"));
    // Nothing is half done: the good one before it is not there either.
    let error = bootstrap(&mut admin, &["bs_good", "bs_land"].map(service)).await;
    let error = error.expect_err("the schema belongs to another");
    assert!(matches!(error, BootstrapError::Schema { .. }), "{error}");
    let roles: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_roles WHERE rolname IN ('waybill_bs_good', 'waybill_bs_land')",
    )
    .fetch_one(&mut admin)
    .await?;
    assert_eq!(roles, 0);
    admin.execute("DROP ROLE waybill_bs_king").await?;
    Ok(())
}

#[tokio::test]
async fn names_and_passwords_are_checked_first() -> anyhow::Result<()> {
    let test = waybill_testkit::database(&[]).await;
    let mut admin = test.admin().await;
    for name in ["", "x; DROP SCHEMA public", "\"", "Order", "pg_catalog", "public"] {
        let error = bootstrap(&mut admin, &[service(name)]).await.expect_err(name);
        assert!(matches!(error, BootstrapError::Name(_)), "{error}");
    }
    for password in ["", "short", "with space in it", "schlüssel-wort"] {
        let weak = Service {
            password: SecretString::from(password),
            ..service("bs_weak")
        };
        let error = bootstrap(&mut admin, &[weak]).await.expect_err(password);
        assert!(matches!(error, BootstrapError::Password { .. }));
        assert!(password.is_empty() || !error.to_string().contains(password));
    }
    Ok(())
}
