//! What benchmarks stand on: a private Postgres that waits for the disk, a private NATS, a schema for each part.

use std::collections::BTreeMap;
use std::str::FromStr as _;

use anyhow::Context as _;
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, PgPool};
use waybill_embedded::{DataDir, Embedded};
use waybill_runtime::config::Secret;
use waybill_runtime::service::{DatabaseConfig, NatsConfig};
use waybill_store::bootstrap::role_of;

use super::machine::{self, Machine};
use crate::{setup, stack};

/// The schema in which floors are measured.
pub const FLOOR: &str = "floor";

/// Postgres keeps pages in a quarter of the memory, as servers are commonly set up, within these bounds.
const LEAST_BUFFERS_MIB: u64 = 128;
const MOST_BUFFERS_MIB: u64 = 4096;

/// Bytes of a file of Postgres' write-ahead log.
const LOG_FILE_BYTES: u64 = 16 << 20;

/// Servers of our own, empty.
pub struct Ground {
    embedded: Embedded,
    passwords: BTreeMap<String, SecretString>,
}

impl Ground {
    /// Starts both servers and makes a schema for floors and one for each of `services`.
    pub async fn start(services: &[&str]) -> anyhow::Result<Ground> {
        let options = waybill_embedded::Options {
            data: DataDir::Temp,
            durable: true,
            postgres_buffers_mib: Some(
                (machine::memory_mib() / 4).clamp(LEAST_BUFFERS_MIB, MOST_BUFFERS_MIB),
            ),
            ..waybill_embedded::Options::from_environment()
        };
        let embedded = Embedded::start(options)
            .await
            .context("Postgres and NATS could not be started")?;
        let schemas = services.iter().copied().chain([FLOOR]);
        let passwords = stack::prepare_database(&embedded, schemas).await?;
        Ok(Ground { embedded, passwords })
    }

    /// Gives the server the log files of one that has run for a while, for so many bytes. Such a server writes over files
    /// that it is done with; a new one has to make each file first, and whoever commits in that moment waits some 20 ms for it.
    /// A server that was given to us is as it is.
    pub async fn age(&self, log_bytes: u64) -> anyhow::Result<()> {
        if self.embedded.postgres().is_given() {
            return Ok(());
        }
        let count = log_bytes.div_ceil(LOG_FILE_BYTES);
        let mut conn = self.admin().await?;
        // A file without a word in it is not left for the next one.
        let files = format!(
            "DO $$ BEGIN FOR file IN 1..{count} LOOP
                 PERFORM pg_logical_emit_message(false, 'bench', 'the next file');
                 PERFORM pg_switch_wal();
             END LOOP; END $$"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(files))
            .execute(&mut conn)
            .await?;
        conn.close().await?;
        // From here on they may be written over.
        self.checkpoint().await
    }

    /// The database of a service, as its configuration has it.
    pub fn database(&self, service: &str) -> anyhow::Result<DatabaseConfig> {
        Ok(DatabaseConfig {
            url: Secret::from_value(&self.database_url(service)?),
            ..DatabaseConfig::default()
        })
    }

    /// The broker, as a service's configuration has it.
    pub fn nats(&self) -> NatsConfig {
        NatsConfig {
            url: Secret::from_value(self.embedded.nats().url()),
            ..NatsConfig::default()
        }
    }

    /// Bare connections to the schema of the floors.
    pub async fn bare_pool(&self, connections: u32) -> anyhow::Result<PgPool> {
        let options =
            PgConnectOptions::from_str(&self.database_url(FLOOR)?)?.options([("search_path", FLOOR)]);
        PgPoolOptions::new()
            .min_connections(connections)
            .max_connections(connections)
            .test_before_acquire(false)
            .connect_with(options)
            .await
            .context("cannot connect to Postgres")
    }

    /// Copies tables of a service, empty, into the schema of the floors: columns, checks and indexes, no triggers and no
    /// foreign keys. Positions of a log come from the sequence `bare_position`.
    pub async fn copy_tables(&self, service: &str, tables: &[&str]) -> anyhow::Result<()> {
        let owner = role_of(FLOOR);
        let mut conn = self.admin().await?;
        let mut sql = format!(
            "CREATE SEQUENCE {FLOOR}.bare_position; ALTER SEQUENCE {FLOOR}.bare_position OWNER TO {owner};"
        );
        for table in tables {
            sql.push_str(&format!(
                "CREATE TABLE {FLOOR}.{table} (LIKE \"{service}\".{table} INCLUDING CONSTRAINTS INCLUDING INDEXES); \
                 ALTER TABLE {FLOOR}.{table} OWNER TO {owner};"
            ));
        }
        // Names of our own: tables in the source, services in the launcher.
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut conn).await?;
        Ok(conn.close().await?)
    }

    /// Has everything written to the disk, as the server itself does every few minutes.
    pub async fn checkpoint(&self) -> anyhow::Result<()> {
        let mut conn = self.admin().await?;
        sqlx::raw_sql("CHECKPOINT").execute(&mut conn).await?;
        Ok(conn.close().await?)
    }

    async fn admin(&self) -> anyhow::Result<PgConnection> {
        let options = PgConnectOptions::from_str(self.embedded.postgres().admin_url())?;
        Ok(options.database(setup::DATABASE).connect().await?)
    }

    /// A bare connection to NATS.
    pub async fn bare_nats(&self) -> anyhow::Result<async_nats::Client> {
        connect_nats(self.embedded.nats().url()).await
    }

    /// What all of it runs on.
    pub async fn machine(&self) -> anyhow::Result<Machine> {
        Machine::look(&self.bare_pool(1).await?, &self.bare_nats().await?).await
    }

    /// Stops both servers.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.embedded
            .stop()
            .await
            .context("Postgres and NATS could not be stopped")
    }

    fn database_url(&self, service: &str) -> anyhow::Result<String> {
        let password = self
            .passwords
            .get(service)
            .with_context(|| format!("{service} has no schema here"))?;
        Ok(self
            .embedded
            .postgres()
            .url(&role_of(service), password.expose_secret(), setup::DATABASE))
    }
}

/// A bare connection to NATS. The client leaves user and password of an address aside; they are handed over apart.
pub(super) async fn connect_nats(url: &str) -> anyhow::Result<async_nats::Client> {
    let address: async_nats::ServerAddr = url.parse().context("NATS has no valid address")?;
    let mut options = async_nats::ConnectOptions::new();
    if let (Some(user), Some(password)) = (address.username(), address.password()) {
        options = options.user_and_password(user.to_owned(), password.to_owned());
    }
    options.connect(address).await.context("cannot connect to NATS")
}
