//! The checker: reads every schema, the mail sink and the provider's ledger, and compares.
//!
//! It runs when everything stands still. It asks nothing of the services: what they say of themselves proves nothing. Each
//! check holds two things against each other that were written independently.

mod effects;
mod facts;
mod leftovers;
mod log;
mod mails;
mod money;
mod orders;
mod projections;
mod stock;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};
use futures_util::future::BoxFuture;
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, PgPool};
use waybill_embedded::{Embedded, Mail};
use waybill_payments::sandbox::LedgerEntry;

use self::log::Logs;
use super::rewind::Lost;
use super::world::World;
use crate::load::{Book, Ended};
use crate::setup;

pub use self::leftovers::Unrest;
pub use crate::demo::check::Check;

/// The consumers, and whose logs each follows.
const CONSUMERS: [(&str, &[&str]); 5] = [
    ("order", &["fulfillment", "refund", "notification"]),
    ("fulfillment", &["order", "refund"]),
    ("refund", &["order", "fulfillment"]),
    ("notification", &["order", "fulfillment", "refund"]),
    ("analytics", &["order", "fulfillment", "refund", "notification"]),
];

/// What is compared.
pub struct Evidence {
    db: PgPool,
    logs: Logs,
    /// What callers were told.
    ended: Vec<Ended>,
    /// Units put on the shelf, by sku.
    given: BTreeMap<String, i64>,
    mails: Vec<Mail>,
    ledger: Vec<LedgerEntry>,
    /// Orders that are gone, as their callers were told of them before.
    doomed: Vec<Ended>,
    /// Orders whose customers were told something by a history that is gone.
    promised: BTreeSet<String>,
}

impl Evidence {
    /// Reads the logs, and takes along what does not stand in the database.
    pub async fn gather(world: &World, books: &[Book], lost: &Lost) -> anyhow::Result<Self> {
        let db = admin(&world.embedded).await?;
        let mut given: BTreeMap<String, i64> = BTreeMap::new();
        for (sku, units) in books.iter().flat_map(Book::given) {
            *given.entry(sku).or_default() += units;
        }
        Ok(Self {
            logs: Logs::read(&db).await?,
            db,
            ended: books.iter().flat_map(Book::ended).collect(),
            given,
            mails: world.mails.messages(),
            ledger: world.payments.ledger(),
            doomed: lost.doomed.clone(),
            promised: lost.promised.clone(),
        })
    }
}

impl Evidence {
    /// The connection that everything is read over: there is one alone.
    #[must_use]
    pub fn db(&self) -> &PgPool {
        &self.db
    }
}

/// A pool of one connection of the administrator, past every wire.
pub async fn admin(embedded: &Embedded) -> anyhow::Result<PgPool> {
    let options: sqlx::postgres::PgConnectOptions = embedded
        .postgres()
        .admin_url()
        .parse()
        .context("the administrator's address")?;
    PgPoolOptions::new()
        .max_connections(1)
        .connect_with(options.database(setup::DATABASE))
        .await
        .context("cannot connect to Postgres")
}

type Proof<'a> = (&'static str, BoxFuture<'a, anyhow::Result<String>>);

fn proofs(of: &Evidence) -> Vec<Proof<'_>> {
    vec![
        ("nothing is left over", Box::pin(leftovers::none(of))),
        ("every acknowledged order exists once", Box::pin(orders::once(of))),
        ("every order reached its end", Box::pin(orders::ends(of))),
        (
            "every event took effect exactly once",
            Box::pin(effects::exactly_once(of)),
        ),
        ("no refund was paid twice", Box::pin(money::paid_once(of))),
        ("the books balance", Box::pin(money::balanced(of))),
        ("one mail for each stage", Box::pin(mails::once(of))),
        (
            "stock equals its movements",
            Box::pin(stock::equals_movements(of)),
        ),
        (
            "projections equal their owners",
            Box::pin(projections::equal_owners(of)),
        ),
        ("timelines equal the logs", Box::pin(projections::timelines(of))),
        (
            "figures equal a replay of the logs",
            Box::pin(facts::equal_replay(of)),
        ),
    ]
}

/// Checks until one does not hold; tells of each as it is known.
pub async fn run(evidence: &Evidence, mut tell: impl FnMut(&Check)) -> Vec<Check> {
    let mut checks = Vec::new();
    for (name, proof) in proofs(evidence) {
        let check = Check::new(name, proof.await);
        tell(&check);
        let holds = check.holds;
        checks.push(check);
        if !holds {
            break;
        }
    }
    checks
}

/// Fails when the query finds anything. It answers one text a fault.
async fn none(of: &Evidence, what: &str, sql: &str) -> anyhow::Result<()> {
    let found: Vec<Option<String>> = sqlx::query_scalar(AssertSqlSafe(sql))
        .fetch_all(&of.db)
        .await
        .with_context(|| format!("{what}: the query failed"))?;
    let some: Vec<String> = found
        .iter()
        .take(3)
        .map(|text| text.clone().unwrap_or_default())
        .collect();
    ensure!(
        found.is_empty(),
        "{what}: {} found, such as {}",
        found.len(),
        some.join("; ")
    );
    Ok(())
}
