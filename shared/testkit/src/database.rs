//! A database of its own for each test, on one Postgres for the whole test process.
//!
//! The first test to ask starts Postgres and prepares a template by the same bootstrap that production runs: a role
//! and a schema for each service. Every test gets a copy of it. Nothing is left: a janitor drops the copies while the
//! other tests run, and the server goes with the process.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _};
use tokio::sync::{Mutex as AsyncMutex, OnceCell};
use waybill_embedded::{Options, Postgres};
use waybill_store::bootstrap::{self, Service};

static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();

struct Cluster {
    postgres: Postgres,
    /// One for all roles: they belong to the server, and other test processes may share a given one.
    password: String,
    /// The name of the template by the services in it; empty while it is being made.
    templates: Mutex<HashMap<Vec<String>, Arc<OnceCell<String>>>>,
    /// Postgres copies a template only while nobody else does something with it.
    copying: AsyncMutex<()>,
}

/// One test's database, with a role and an empty schema for each service. It is dropped at the end.
#[derive(Debug)]
pub struct TestDb {
    postgres: Postgres,
    password: String,
    name: String,
    services: Vec<String>,
}

/// Makes a database for these services. Their schemas are empty: the services migrate them as they do in production.
///
/// # Panics
///
/// When no Postgres can be started or the database cannot be made; the message says why.
pub async fn database(services: &[&str]) -> TestDb {
    let cluster = CLUSTER.get_or_init(Cluster::start).await;
    let mut services: Vec<String> = services.iter().map(|service| (*service).to_owned()).collect();
    services.sort();
    services.dedup();
    let cell = {
        let mut templates = cluster.templates.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(templates.entry(services.clone()).or_default())
    };
    let template = cell.get_or_init(|| cluster.template(&services)).await;
    let name = unique("test");
    let guard = cluster.copying.lock().await;
    let mut admin = connect(cluster.postgres.admin_url()).await;
    cluster
        .copy(&mut admin, template, &name, &services)
        .await
        .unwrap_or_else(|e| panic!("copying {template}: {e}"));
    drop(guard);
    TestDb {
        postgres: cluster.postgres.clone(),
        password: cluster.password.clone(),
        name,
        services,
    }
}

impl TestDb {
    /// The connection URL of this service's role.
    ///
    /// # Panics
    ///
    /// When the database was made without this service.
    pub fn url(&self, service: &str) -> String {
        let Self { services, name, .. } = self;
        assert!(
            services.iter().any(|known| known == service),
            "no {service} in {name}: it has {services:?}"
        );
        self.postgres
            .url(&bootstrap::role_of(service), &self.password, name)
    }

    /// The connection URL of a superuser, for looks behind the curtain and for faults.
    pub fn admin_url(&self) -> String {
        in_database(self.postgres.admin_url(), &self.name)
    }

    /// A new connection as superuser.
    ///
    /// # Panics
    ///
    /// When the server does not answer.
    pub async fn admin(&self) -> PgConnection {
        connect(&self.admin_url()).await
    }

    /// The database's name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        let (done, wait) = mpsc::channel();
        let order = Order {
            url: self.postgres.admin_url().to_owned(),
            database: self.name.clone(),
            done,
        };
        // A server that was given outlives us, so there the drop must be seen through. Ours may end before it.
        if JANITOR
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .send(order)
            .is_ok()
            && self.postgres.is_given()
        {
            let _dropped = wait.recv_timeout(Duration::from_secs(30));
        }
    }
}

impl Cluster {
    async fn start() -> Self {
        let postgres = match Postgres::start(&Options::from_environment()).await {
            Ok(postgres) => postgres,
            Err(e) => panic!("{e}"),
        };
        let password = if postgres.is_given() {
            "waybill-test-only".to_owned()
        } else {
            unique("password")
        };
        Self {
            postgres,
            password,
            templates: Mutex::default(),
            copying: AsyncMutex::new(()),
        }
    }

    async fn template(&self, services: &[String]) -> String {
        let name = unique("template");
        let mut admin = connect(self.postgres.admin_url()).await;
        admin
            .execute(AssertSqlSafe(format!("CREATE DATABASE {name}")))
            .await
            .expect("a template can be made");
        let mut inside = connect(&in_database(self.postgres.admin_url(), &name)).await;
        let services: Vec<Service> = services
            .iter()
            .map(|service| Service {
                name: service.clone(),
                password: self.password.clone().into(),
            })
            .collect();
        if let Err(e) = bootstrap::bootstrap(&mut inside, &services).await {
            panic!("bootstrap of the template: {e:?}");
        }
        inside.close().await.expect("the connection to the template ends");
        name
    }

    /// Copies the template and gives the copy the same rights, which Postgres does not copy for whole databases.
    async fn copy(
        &self,
        admin: &mut PgConnection,
        template: &str,
        name: &str,
        services: &[String],
    ) -> sqlx::Result<()> {
        let roles: Vec<String> = services
            .iter()
            .map(|s| format!("\"{}\"", bootstrap::role_of(s)))
            .collect();
        let grant = if roles.is_empty() {
            String::new()
        } else {
            format!("GRANT CONNECT ON DATABASE {name} TO {}", roles.join(", "))
        };
        // Names are ours or were checked by the bootstrap. CREATE DATABASE cannot share a round trip.
        admin
            .execute(AssertSqlSafe(format!(
                "CREATE DATABASE {name} TEMPLATE {template}"
            )))
            .await?;
        let rights = format!("REVOKE CONNECT, TEMPORARY, CREATE ON DATABASE {name} FROM PUBLIC; {grant}");
        sqlx::raw_sql(AssertSqlSafe(rights)).execute(admin).await?;
        Ok(())
    }
}

struct Order {
    url: String,
    database: String,
    done: mpsc::Sender<()>,
}

/// Drops databases on a thread of its own: the test that used one is over, and with it its runtime.
static JANITOR: LazyLock<Mutex<mpsc::Sender<Order>>> = LazyLock::new(|| {
    let (orders, inbox) = mpsc::channel::<Order>();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a small runtime can be made");
        while let Ok(Order { url, database, done }) = inbox.recv() {
            let outcome = runtime.block_on(async {
                let mut admin = options(&url).connect().await?;
                let drop = format!("DROP DATABASE IF EXISTS {database} WITH (FORCE)");
                admin.execute(AssertSqlSafe(drop)).await
            });
            // The process may be ending, and the server with it; or a test has killed the server.
            drop(outcome);
            let _nobody_waits = done.send(());
        }
    });
    Mutex::new(orders)
});

fn unique(what: &str) -> String {
    format!("{what}_{:016x}", rand::random::<u64>())
}

fn options(url: &str) -> PgConnectOptions {
    url.parse().expect("the administrator's URL is a Postgres URL")
}

fn in_database(url: &str, database: &str) -> String {
    options(url).database(database).to_url_lossy().to_string()
}

async fn connect(url: &str) -> PgConnection {
    options(url)
        .connect()
        .await
        .unwrap_or_else(|e| panic!("the test's Postgres does not answer: {e}"))
}
