//! Tells the producer of one log how far this consumer is, so that no part of the log is dropped before everybody has it.
//!
//! It tells what the database says, at the beginning of an era and from time to time after it. The first report registers
//! the consumer. Nothing waits for it: a producer that is away hears of it later and drops nothing until then.

use std::sync::Arc;
use std::time::Duration;

use waybill_store::{Backoff, Db};

use super::feeder::within;
use crate::reader::{ReadError, SourceLog};
use crate::relay::in_words;
use crate::store::fold as sql;

/// One log, one lane.
pub(super) struct Reporter {
    pub source: Arc<str>,
    pub log: SourceLog,
    pub db: Db,
    pub consumer: &'static str,
    pub partitions: Vec<u16>,
    pub every: Duration,
}

impl Reporter {
    /// Reports until it is dropped.
    pub async fn run(self) {
        let backoff = Backoff {
            base: Duration::from_millis(500),
            cap: self.every,
        };
        let mut failures = 0;
        loop {
            let pause = match within(self.report()).await {
                Ok(()) => {
                    failures = 0;
                    self.every
                }
                Err(error) => {
                    failures += 1;
                    tracing::debug!(
                        consumer = self.consumer,
                        source = &*self.source,
                        error = in_words(&error),
                        "the producer could not be told how far the consumer is"
                    );
                    backoff.delay(failures)
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn report(&self) -> Result<(), ReadError> {
        let rows = sql::cursors(self.db.pool(), self.consumer, &[&self.source], &self.partitions).await?;
        let cursors: Vec<_> = rows.into_iter().map(|row| (row.vpartition, row.cursor)).collect();
        self.log.report(self.db.schema(), self.consumer, &cursors).await
    }
}
