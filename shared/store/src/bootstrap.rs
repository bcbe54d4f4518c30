//! Prepares a database for the services: a role and a schema for each, a second one in which its projections are built
//! anew, and no right anywhere else.
//!
//! Run by whoever sets the database up, as its owner or as superuser; services never do. It may be run again, and by
//! several at once: what is right already stays. It adds, and takes rights from everybody (PUBLIC); it never drops, and
//! never takes over a role or schema that is not as it would have made it.
//!
//! Roles belong to the whole server, schemas to one database: two Waybills on one server share the roles, and whoever
//! runs this last sets their passwords.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use crate::backoff::Backoff;
use crate::name::{Name, NameError};
use crate::scram;

/// Before each role's name, so that ours are told from others on the server.
const PREFIX: &str = "waybill_";

/// One service's place in the database.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its name, which is also its schema: 1 to 30 of a to z and `_`.
    pub name: String,
    /// The password of its role: 8 to 256 printable ASCII characters without spaces.
    pub password: SecretString,
}

/// The role of a service.
#[must_use]
pub fn role_of(service: &str) -> String {
    format!("{PREFIX}{service}")
}

/// The schema in which a service builds its projections anew, beside the one it works in.
#[must_use]
pub fn rebuild_schema_of(service: &str) -> String {
    format!("{service}_rebuild")
}

/// Why a database could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// A service's name cannot be a schema.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A password cannot be set.
    #[error(
        "the password of service {service} cannot be used; give 8 to 256 printable ASCII characters without spaces"
    )]
    Password {
        /// Whose.
        service: String,
    },
    /// The role exists with rights that a service must not have.
    #[error("role {role} exists and is {what}; drop it or take that from it")]
    Role {
        /// The role.
        role: String,
        /// Its rights.
        what: String,
    },
    /// The schema exists and belongs to another role.
    #[error("schema \"{schema}\" exists and belongs to {owner}; drop it or give it to {role}")]
    Schema {
        /// The schema.
        schema: String,
        /// Whose it is to be.
        role: String,
        /// Whose it is.
        owner: String,
    },
    /// The database refused.
    #[error("the database could not be prepared")]
    Database(#[from] sqlx::Error),
}

/// Creates what is missing, in one transaction.
///
/// # Errors
///
/// See [`BootstrapError`]. Nothing is changed then.
pub async fn bootstrap(admin: &mut PgConnection, services: &[Service]) -> Result<(), BootstrapError> {
    let places = services.iter().map(Place::of).collect::<Result<Vec<_>, _>>()?;
    let pause = Backoff {
        base: Duration::from_millis(50),
        cap: Duration::from_secs(1),
    };
    let mut tries = 0;
    loop {
        match attempt(admin, &places).await {
            // The lock below is one per database, roles are one per server: another database's bootstrap may be faster.
            Err(BootstrapError::Database(error)) if tries < 10 && is_overtaken(&error) => {
                tries += 1;
                tokio::time::sleep(pause.delay(tries)).await;
            }
            outcome => return outcome,
        }
    }
}

/// "Tuple concurrently updated" has no SQLSTATE of its own.
fn is_overtaken(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .is_some_and(|e| match e.code().as_deref() {
            Some("23505" | "42710" | "40001" | "40P01") => true,
            Some("XX000") => e.message().contains("concurrently"),
            _ => false,
        })
}

struct Place {
    schema: Name,
    role: String,
    verifier: String,
}

impl Place {
    fn of(service: &Service) -> Result<Place, BootstrapError> {
        let schema = Name::parse(&service.name)?;
        let password = service.password.expose_secret();
        if !scram::is_plain(password) {
            return Err(BootstrapError::Password {
                service: service.name.clone(),
            });
        }
        Ok(Place {
            role: role_of(schema.as_str()),
            schema,
            verifier: scram::verifier(password),
        })
    }

    fn quoted_role(&self) -> String {
        format!("\"{}\"", self.role)
    }
}

async fn attempt(admin: &mut PgConnection, places: &[Place]) -> Result<(), BootstrapError> {
    let mut tx = admin.begin().await?;
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('waybill bootstrap', 0))")
        .execute(&mut *tx)
        .await?;
    let server = Server::ask(&mut tx).await?;
    close_to_public(&mut tx, &server).await?;
    for place in places {
        role(&mut tx, place, &server).await?;
        schema(&mut tx, place, place.schema.as_str()).await?;
        schema(&mut tx, place, &rebuild_schema_of(place.schema.as_str())).await?;
    }
    // For the exclusion constraints of services; a trusted extension, so no superuser is needed.
    run(&mut tx, "CREATE EXTENSION IF NOT EXISTS btree_gist".to_owned()).await?;
    tx.commit().await?;
    Ok(())
}

#[derive(sqlx::FromRow)]
struct Server {
    version: i32,
    /// Quoted as an identifier.
    database: String,
    superuser: bool,
}

impl Server {
    async fn ask(conn: &mut PgConnection) -> Result<Server, sqlx::Error> {
        sqlx::query_as(
            "SELECT current_setting('server_version_num')::int AS version,
                    quote_ident(current_database()) AS database,
                    rolsuper AS superuser
             FROM pg_roles WHERE rolname = current_user",
        )
        .fetch_one(conn)
        .await
    }
}

/// Runs a statement that takes no parameters. Its text is made of checked names, verifiers (base64) and what the server
/// itself has quoted.
async fn run(conn: &mut PgConnection, sql: String) -> Result<(), sqlx::Error> {
    conn.execute(AssertSqlSafe(sql)).await?;
    Ok(())
}

async fn close_to_public(conn: &mut PgConnection, server: &Server) -> Result<(), sqlx::Error> {
    let database = &server.database;
    run(
        conn,
        format!("REVOKE CONNECT, TEMPORARY, CREATE ON DATABASE {database} FROM PUBLIC"),
    )
    .await?;
    run(conn, "REVOKE CREATE ON SCHEMA public FROM PUBLIC".to_owned()).await
}

async fn role(conn: &mut PgConnection, place: &Place, server: &Server) -> Result<(), BootstrapError> {
    let rights: Option<(bool, bool, bool, bool, bool)> = sqlx::query_as(
        "SELECT rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls
         FROM pg_roles WHERE rolname = $1",
    )
    .bind(&place.role)
    .fetch_optional(&mut *conn)
    .await?;
    let role = place.quoted_role();
    match rights {
        None => run(conn, format!("CREATE ROLE {role}")).await?,
        Some(rights) => refuse_mighty(place, rights)?,
    }
    run(
        conn,
        format!("ALTER ROLE {role} LOGIN PASSWORD '{}'", place.verifier),
    )
    .await?;
    run(
        conn,
        format!("GRANT CONNECT ON DATABASE {} TO {role}", server.database),
    )
    .await?;
    if !server.superuser {
        // A mere owner of the database must be a member to hand a schema to the role.
        run(conn, format!("GRANT {role} TO CURRENT_USER")).await?;
    }

    // The server-wide watermark of the event logs waits for the oldest transaction of anybody: none may linger. Before
    // version 17 there is no limit for a whole transaction, so at least its statements have one.
    let whole = if server.version >= 170_000 {
        "transaction_timeout"
    } else {
        "statement_timeout"
    };
    for (setting, value) in [
        ("idle_in_transaction_session_timeout", "'5s'"),
        // Before the whole transaction's: waiting too long then fails one statement, which is repeated, and not the
        // session.
        ("lock_timeout", "'3s'"),
        (whole, "'5s'"),
        ("search_path", &place.schema.quoted()),
    ] {
        run(conn, format!("ALTER ROLE {role} SET {setting} = {value}")).await?;
    }
    Ok(())
}

fn refuse_mighty(
    place: &Place,
    (superuser, create_role, create_db, replication, bypass_rls): (bool, bool, bool, bool, bool),
) -> Result<(), BootstrapError> {
    let rights = [
        (superuser, "superuser"),
        (create_role, "allowed to create roles"),
        (create_db, "allowed to create databases"),
        (replication, "allowed to replicate"),
        (bypass_rls, "beyond row security"),
    ];
    let what: Vec<&str> = rights
        .iter()
        .filter(|(has, _)| *has)
        .map(|(_, name)| *name)
        .collect();
    if what.is_empty() {
        return Ok(());
    }
    Err(BootstrapError::Role {
        role: place.role.clone(),
        what: what.join(", "),
    })
}

/// A schema that is the service's own: the one of its name, or the one beside it. `name` is made of a checked name.
async fn schema(conn: &mut PgConnection, place: &Place, name: &str) -> Result<(), BootstrapError> {
    let owner: Option<String> =
        sqlx::query_scalar("SELECT pg_get_userbyid(nspowner)::text FROM pg_namespace WHERE nspname = $1")
            .bind(name)
            .fetch_optional(&mut *conn)
            .await?;
    let (schema, role) = (format!("\"{name}\""), place.quoted_role());
    match owner {
        None => {
            run(conn, format!("CREATE SCHEMA {schema} AUTHORIZATION {role}")).await?;
        }
        Some(owner) if owner == place.role => {}
        Some(owner) => {
            return Err(BootstrapError::Schema {
                schema: name.to_owned(),
                role: place.role.clone(),
                owner,
            });
        }
    }
    run(conn, format!("REVOKE ALL ON SCHEMA {schema} FROM PUBLIC")).await?;
    Ok(())
}
