//! What must be nowhere at the end: work that was not done, events that wait, letters that nobody could deliver.

use anyhow::ensure;
use serde::Serialize;
use sqlx::{AssertSqlSafe, PgPool};

use super::{CONSUMERS, Evidence};
use crate::stack::SERVICES;

/// What is still to be done, counted. All zero means that everything stands still.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Unrest {
    /// Events that consumers have not taken, over all consumers.
    pub lag: i64,
    /// Jobs that are not done.
    pub jobs: i64,
    /// Jobs that were given up.
    pub dead_jobs: i64,
    /// Events that wait for their predecessor.
    pub waiting: i64,
    /// Dead letters, and what is parked behind them.
    pub letters: i64,
    /// Consumers that stopped.
    pub stopped: i64,
    /// Logs that refuse to be written.
    pub fenced: i64,
}

impl Unrest {
    /// Looks at all schemas.
    pub async fn look(db: &PgPool) -> anyhow::Result<Self> {
        let mut unrest = Self::default();
        for service in SERVICES {
            let sql = format!(
                "SELECT (SELECT count(*) FROM \"{service}\".jobs WHERE state IN ('waiting', 'running')),
                        (SELECT count(*) FROM \"{service}\".jobs WHERE state = 'dead'),
                        (SELECT count(*) FROM \"{service}\".fold_waiting),
                        (SELECT count(*) FROM \"{service}\".fold_dead_letter),
                        (SELECT count(*) FROM \"{service}\".fold_stopped),
                        (SELECT count(*) FROM \"{service}\".log_identity WHERE fenced)"
            );
            let (jobs, dead, waiting, letters, stopped, fenced): (i64, i64, i64, i64, i64, i64) =
                sqlx::query_as(AssertSqlSafe(sql)).fetch_one(db).await?;
            unrest.jobs += jobs;
            unrest.dead_jobs += dead;
            unrest.waiting += waiting;
            unrest.letters += letters;
            unrest.stopped += stopped;
            unrest.fenced += fenced;
        }
        for (consumer, sources) in CONSUMERS {
            for source in sources {
                let sql = format!(
                    "SELECT (SELECT count(*) FROM \"{source}\".event_log)
                            - (SELECT coalesce(sum(count), 0)::bigint FROM \"{consumer}\".fold_cursor
                               WHERE consumer = $1 AND source = $2)"
                );
                let lag: i64 = sqlx::query_scalar(AssertSqlSafe(sql))
                    .bind(consumer)
                    .bind(source)
                    .fetch_one(db)
                    .await?;
                unrest.lag += lag.abs();
            }
        }
        Ok(unrest)
    }

    /// Whether nothing is to be done any more.
    #[must_use]
    pub fn is_calm(&self) -> bool {
        *self == Self::default()
    }
}

/// Nothing is left over.
pub async fn none(of: &Evidence) -> anyhow::Result<String> {
    let unrest = Unrest::look(&of.db).await?;
    ensure!(unrest.is_calm(), "{unrest:?}");
    let jobs: i64 = {
        let counts = SERVICES.map(|service| format!("(SELECT count(*) FROM \"{service}\".jobs)"));
        sqlx::query_scalar(AssertSqlSafe(format!("SELECT {}", counts.join(" + "))))
            .fetch_one(&of.db)
            .await?
    };
    Ok(format!("{jobs} jobs done; no letter, no event that waits"))
}
