//! The fold of the benchmark: counts events and bytes by order, one statement a batch, and tells the journal when.

use std::collections::HashSet;
use std::sync::Arc;

use sqlx::PgConnection;
use sqlx::types::Uuid;
use tokio::sync::Notify;
use tokio::time::Instant;
use waybill_events::{Event, Fold, FoldError, Projection, Reaction};
use waybill_store::error::StoreError;

use super::journal::Journal;
use crate::bench::floor::postgres::count_into;

pub(super) const TABLE: &str = "
    CREATE TABLE bench_effect (
        key uuid PRIMARY KEY, events bigint NOT NULL, bytes bigint NOT NULL
    ) WITH (fillfactor = 50)";

/// The fold.
pub(super) struct Counter {
    pub(super) journal: Arc<Journal>,
}

impl Fold for Counter {
    const NAME: &'static str = "bench";

    fn sources(&self) -> &'static [&'static str] {
        &[super::pair::PRODUCER]
    }

    fn opens(&self, _: &Event) -> bool {
        false
    }

    fn needs_opening(&self, _: &Event) -> bool {
        false
    }

    async fn known(&self, _: &mut PgConnection, _: &[Uuid]) -> Result<HashSet<Uuid>, FoldError> {
        Ok(HashSet::new())
    }

    async fn project(&self, projection: &mut Projection<'_>, events: &[Event]) -> Result<(), FoldError> {
        self.journal.arrived(events.iter().map(|event| event.version));
        sqlx::query(count_into!("bench_effect"))
            .bind(events.iter().map(|event| event.key).collect::<Vec<_>>())
            .bind(
                events
                    .iter()
                    .map(|event| event.payload.len() as i64)
                    .collect::<Vec<_>>(),
            )
            .execute(projection.conn())
            .await
            .map_err(StoreError::from)?;
        Ok(())
    }

    async fn react(&self, reaction: &mut Reaction<'_>, events: &[Event]) -> Result<(), FoldError> {
        let committed = Arc::new(Notify::new());
        reaction.tx().after_commit(Arc::clone(&committed));
        let numbers: Vec<i64> = events.iter().map(|event| event.version).collect();
        let journal = Arc::clone(&self.journal);
        tokio::spawn(async move {
            committed.notified().await;
            journal.took_effect(&numbers, Instant::now());
        });
        Ok(())
    }
}
