//! What a machine or a cluster needs before the services start: passwords, a database, keys.

use anyhow::Context as _;
use secrecy::SecretString;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

/// The database of a stack.
pub const DATABASE: &str = "waybill";

/// A password that nobody has to remember: 128 random bits as 32 hex digits.
#[must_use]
pub fn password() -> SecretString {
    SecretString::from(format!("{:032x}", rand::random::<u128>()))
}

/// Creates a database when it is not there.
pub async fn ensure_database(admin: &mut PgConnection, name: &'static str) -> anyhow::Result<()> {
    let there: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
        .bind(name)
        .fetch_one(&mut *admin)
        .await?;
    if !there {
        // The name is a constant of ours.
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}")))
            .execute(admin)
            .await
            .with_context(|| format!("the database {name} could not be created"))?;
    }
    Ok(())
}

/// Opens a connection to this database of the server that an administrator's address names.
pub async fn connect_admin(url: &str, database: &str) -> anyhow::Result<PgConnection> {
    let options: sqlx::postgres::PgConnectOptions =
        url.parse().context("the administrator's address is not valid")?;
    PgConnection::connect_with(&options.database(database))
        .await
        .context("cannot connect to Postgres")
}
