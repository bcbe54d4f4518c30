//! The handle to one service's schema: a pool whose connections all look alike.
//!
//! A connection carries the schema as its `search_path`, so SQL names tables without a schema and the same text runs for
//! every service. The pool opens its first connection on first use: until then the schema may still have to be migrated,
//! and the checks of [`DbOptions::on_connect`] read tables that a migration makes.
//!
//! It refuses to run statements of its own accord: [`Db::run`] and [`Db::run_once`] (in [`crate::usecase`]) or
//! [`Db::begin`] do, and reads go straight to [`Db::pool`].

use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use secrecy::ExposeSecret;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::log::LevelFilter;
use waybill_runtime::config::ConfigError;
use waybill_runtime::service::DatabaseConfig;

use crate::bell::Bells;
use crate::error::{BoxError, StoreError};
use crate::name::{Name, NameError};
use crate::tx::Tx;

/// The oldest server whose behaviour the code relies on.
const OLDEST_SERVER: i32 = 150_000;

/// A connection that lay idle for longer is asked whether it still lives before it is handed out. Shorter, and each
/// transaction would pay a round trip for a question that is nearly always answered with yes.
const TRUSTED_IDLE: Duration = Duration::from_secs(2);

/// A check that every new connection must pass before it is used. It is repeated on a fresh connection, with backoff,
/// until it passes or the caller's wait for a connection is over.
pub type ConnectCheck =
    Arc<dyn for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<(), StoreError>> + Send + Sync>;

/// What can be set beyond [`DatabaseConfig`].
#[derive(Clone)]
pub struct DbOptions {
    /// Checks for each new connection, in this order.
    pub on_connect: Vec<ConnectCheck>,
    /// How long a caller waits for a connection before it is told UNAVAILABLE. Default 5 s.
    pub acquire_timeout: Duration,
    /// Prepared statements kept per connection. Default 256.
    pub statement_cache: usize,
    /// How long [`Db::connect`] waits for a server that is starting. Default 10 s.
    pub startup_timeout: Duration,
}

impl Default for DbOptions {
    fn default() -> Self {
        DbOptions {
            on_connect: Vec::new(),
            acquire_timeout: Duration::from_secs(5),
            statement_cache: 256,
            startup_timeout: Duration::from_secs(10),
        }
    }
}

impl DbOptions {
    /// Adds a check for each new connection.
    #[must_use]
    pub fn on_connect<F>(mut self, check: F) -> Self
    where
        F: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<(), StoreError>> + Send + Sync + 'static,
    {
        self.on_connect.push(Arc::new(check));
        self
    }
}

/// Why a service could not connect.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The schema's name cannot be used.
    #[error("the schema cannot be used")]
    Name(#[from] NameError),
    /// The address is missing or its file cannot be read.
    #[error("the database's address cannot be read")]
    Config(#[from] ConfigError),
    /// The address does not parse. The cause is not shown, it may quote the password.
    #[error("database.url is no Postgres address; write postgres://user:password@host:port/database")]
    Url,
    /// The server does not answer or refuses us.
    #[error("cannot connect to the database at {address}")]
    Server {
        /// Host, port and database, without credentials.
        address: String,
        /// What was seen last.
        #[source]
        source: BoxError,
    },
    /// The server is too old.
    #[error("the database server is version {found}; 15 or later is needed")]
    TooOld {
        /// The server's version as a number, e.g. 140005.
        found: i32,
    },
    /// The schema is missing, or the role may not use it.
    #[error(
        "role {role} has no schema \"{schema}\" of its own in database {database}; create roles and schemas first (bootstrap)"
    )]
    NoSchema {
        /// The role that connected.
        role: String,
        /// The schema that was looked for.
        schema: String,
        /// The database that was looked in.
        database: String,
    },
}

/// A service's database. Cheap to clone; all clones share one pool.
#[derive(Clone)]
pub struct Db {
    inner: Arc<Inner>,
}

struct Inner {
    pool: PgPool,
    connect: PgConnectOptions,
    options: DbOptions,
    schema: Name,
    refusal: Arc<Mutex<Option<String>>>,
    bells: Bells,
    /// The pools of all handles to this schema, this one's among them.
    pools: Arc<Mutex<Vec<PgPool>>>,
}

impl std::fmt::Debug for Db {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Db")
            .field("schema", &self.inner.schema.as_str())
            .finish_non_exhaustive()
    }
}

impl Db {
    /// Connects with the defaults of [`DbOptions`].
    ///
    /// # Errors
    ///
    /// See [`ConnectError`].
    pub async fn connect(config: &DatabaseConfig, schema: &str) -> Result<Db, ConnectError> {
        Db::connect_with(config, schema, DbOptions::default()).await
    }

    /// Makes sure that the server is there, new enough, and has the schema; then returns a handle whose pool is still
    /// empty, so that [`migrate`](crate::migrate::migrate) can run before the checks of `options` do.
    ///
    /// # Errors
    ///
    /// See [`ConnectError`].
    pub async fn connect_with(
        config: &DatabaseConfig,
        schema: &str,
        options: DbOptions,
    ) -> Result<Db, ConnectError> {
        let schema = Name::parse(schema)?;
        let url = config.url.read("database.url")?;
        let connect = parse_url(url.expose_secret())?
            // In the start-up packet: it costs no round trip and DISCARD ALL returns to it.
            .options([("search_path", schema.as_str())])
            .application_name(&format!("waybill-{schema}"))
            .statement_cache_capacity(options.statement_cache)
            .log_statements(LevelFilter::Trace)
            .log_slow_statements(LevelFilter::Warn, Duration::from_secs(1));
        probe(&connect, &schema, options.startup_timeout).await?;

        let refusal = Arc::new(Mutex::new(None));
        let pool = pool(&connect, config.max_connections, &options, &refusal);
        let own = pool.clone();
        Ok(Db {
            inner: Arc::new(Inner {
                pool,
                connect,
                options,
                schema,
                refusal,
                bells: Bells::default(),
                pools: Arc::new(Mutex::new(vec![own])),
            }),
        })
    }

    /// Another handle to the schema, with `connections` of its own, for one kind of work: it waits for no other, and the few
    /// sessions that it always meets know its statements, while a pool hands all of its own round. It shares the bells, and a
    /// new connection passes the same checks and then `check`.
    #[must_use]
    pub fn apart(&self, connections: u32, check: Option<ConnectCheck>) -> Db {
        let mut options = self.inner.options.clone();
        options.on_connect.extend(check);
        let refusal = Arc::new(Mutex::new(None));
        let pool = pool(&self.inner.connect, connections, &options, &refusal);
        let pools = Arc::clone(&self.inner.pools);
        pools
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(pool.clone());
        Db {
            inner: Arc::new(Inner {
                pool,
                connect: self.inner.connect.clone(),
                options,
                schema: self.inner.schema.clone(),
                refusal,
                bells: self.inner.bells.clone(),
                pools,
            }),
        }
    }

    /// The pool, for reads. A write outside [`Db::run`] forgoes the retry and leaves open what a lost connection means.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.inner.pool
    }

    /// The schema, which is also the service's name.
    #[must_use]
    pub fn schema(&self) -> &str {
        self.inner.schema.as_str()
    }

    /// Begins a transaction (READ COMMITTED).
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] when no connection was free in time or a connection check keeps refusing; its source
    /// then says which.
    pub async fn begin(&self) -> Result<Tx, StoreError> {
        match self.inner.pool.begin().await {
            Ok(tx) => Ok(Tx::new(tx, self.inner.bells.clone())),
            Err(sqlx::Error::PoolTimedOut) => Err(match self.last_refusal() {
                Some(why) => StoreError::unavailable(true, format!("new connections are refused: {why}")),
                None => sqlx::Error::PoolTimedOut.into(),
            }),
            Err(error) => Err(error.into()),
        }
    }

    /// A connection outside the pool, without the checks of [`DbOptions::on_connect`]: for migrations and for locks that
    /// live as long as their session.
    ///
    /// # Errors
    ///
    /// When the server cannot be reached.
    pub async fn dedicated(&self) -> Result<PgConnection, StoreError> {
        Ok(self.inner.connect.connect().await?)
    }

    /// Listens to NOTIFY on `channels`, on a connection of its own that is opened again when it breaks.
    ///
    /// # Errors
    ///
    /// When the server cannot be reached.
    pub async fn listen(&self, channels: &[&str]) -> Result<PgListener, StoreError> {
        let own = PgPoolOptions::new()
            .max_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .connect_lazy_with(self.inner.connect.clone());
        let mut listener = PgListener::connect_with(&own).await?;
        listener.ignore_pool_close_event(true);
        listener.listen_all(channels.iter().copied()).await?;
        Ok(listener)
    }

    /// The bell that is rung in this process when something with this name was committed, e.g. jobs of a kind. All
    /// clones of a handle share their bells; another process hears nothing and relies on its poll.
    #[must_use]
    pub fn bell(&self, name: &'static str) -> Arc<Notify> {
        self.inner.bells.get(name)
    }

    /// The pools of this handle and of all that are apart from it.
    pub(crate) fn pools(&self) -> Vec<PgPool> {
        let pools = self.inner.pools.lock();
        pools.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Closes the pools of this handle and of all that are apart from it, after the connections in use have come back.
    pub async fn close(&self) {
        futures_util::future::join_all(self.pools().iter().map(PgPool::close)).await;
    }

    fn last_refusal(&self) -> Option<String> {
        self.inner
            .refusal
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn pool(
    connect: &PgConnectOptions,
    max_connections: u32,
    options: &DbOptions,
    refusal: &Arc<Mutex<Option<String>>>,
) -> PgPool {
    let checks: Arc<[ConnectCheck]> = options.on_connect.clone().into();
    let refusal = Arc::clone(refusal);
    PgPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(options.acquire_timeout)
        .test_before_acquire(false)
        .before_acquire(|conn, meta| {
            Box::pin(async move {
                if meta.idle_for > TRUSTED_IDLE {
                    conn.ping().await?;
                }
                Ok(true)
            })
        })
        .after_connect(move |conn, _| {
            let (checks, refusal) = (Arc::clone(&checks), Arc::clone(&refusal));
            Box::pin(async move {
                let outcome = run_checks(&checks, conn).await;
                let mut last = refusal.lock().unwrap_or_else(PoisonError::into_inner);
                *last = outcome.as_ref().err().map(ToString::to_string);
                outcome.map_err(|e| sqlx::Error::Configuration(Box::new(e)))
            })
        })
        .connect_lazy_with(connect.clone())
}

async fn run_checks(checks: &[ConnectCheck], conn: &mut PgConnection) -> Result<(), StoreError> {
    for check in checks {
        check(conn).await?;
    }
    Ok(())
}

/// The driver itself takes any scheme.
fn parse_url(url: &str) -> Result<PgConnectOptions, ConnectError> {
    if !["postgres://", "postgresql://"]
        .iter()
        .any(|scheme| url.starts_with(scheme))
    {
        return Err(ConnectError::Url);
    }
    PgConnectOptions::from_str(url).map_err(|_| ConnectError::Url)
}

/// What the server says about itself and the schema.
#[derive(sqlx::FromRow)]
struct Probe {
    version: i32,
    role: String,
    database: String,
    owns_schema: bool,
    idle_timeout: String,
}

async fn probe(connect: &PgConnectOptions, schema: &Name, wait: Duration) -> Result<(), ConnectError> {
    let address = || {
        let database = connect.get_database().unwrap_or(connect.get_username());
        format!("{}:{}/{database}", connect.get_host(), connect.get_port())
    };
    let mut conn = connect_patiently(connect, wait)
        .await
        .map_err(|source| ConnectError::Server {
            address: address(),
            source: Box::new(source),
        })?;
    let found = sqlx::query_as::<_, Probe>(
        "SELECT current_setting('server_version_num')::int AS version,
                current_user::text AS role,
                current_database()::text AS database,
                coalesce((SELECT has_schema_privilege(oid, 'CREATE') AND has_schema_privilege(oid, 'USAGE')
                          FROM pg_namespace WHERE nspname = $1), false) AS owns_schema,
                current_setting('idle_in_transaction_session_timeout') AS idle_timeout",
    )
    .bind(schema.as_str())
    .fetch_one(&mut conn)
    .await
    .map_err(|source| ConnectError::Server {
        address: address(),
        source: Box::new(source),
    })?;
    // Nothing depends on a tidy goodbye.
    drop(conn.close().await);

    if found.version < OLDEST_SERVER {
        return Err(ConnectError::TooOld { found: found.version });
    }
    if !found.owns_schema {
        return Err(ConnectError::NoSchema {
            role: found.role,
            schema: schema.to_string(),
            database: found.database,
        });
    }
    if found.idle_timeout == "0" {
        tracing::warn!(
            role = found.role,
            "the role has no idle_in_transaction_session_timeout: one stuck client holds back every reader of every log \
             on this server; run bootstrap again"
        );
    }
    Ok(())
}

/// A server that is just starting refuses connections or says so (57P03); anything else is final.
async fn connect_patiently(connect: &PgConnectOptions, wait: Duration) -> Result<PgConnection, sqlx::Error> {
    let deadline = Instant::now() + wait;
    let mut pause = Duration::from_millis(50);
    loop {
        let attempt = tokio::time::timeout_at(deadline, connect.connect()).await;
        let error = match attempt {
            Ok(Ok(conn)) => return Ok(conn),
            Ok(Err(error)) => error,
            Err(_) => sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()),
        };
        let starting = match &error {
            sqlx::Error::Io(_) => true,
            sqlx::Error::Database(e) => e.code().as_deref() == Some("57P03"),
            _ => false,
        };
        if !starting || Instant::now() + pause >= deadline {
            return Err(error);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}
