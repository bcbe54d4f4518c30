//! A lane: owns virtual partitions and lives in eras.
//!
//! An era begins with what is owned and the cursors as they stand in the database, and ends when ownership changes or
//! anything casts doubt on the cursors in memory; then the next one begins from the database. So memory is never more
//! than a guess that the conditional update of the cursor rows confirms.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use waybill_kernel::time::Shared as Clock;
use waybill_store::{Backoff, Db};

use super::apply::Applier;
use super::era::Era;
use super::lease::Keeper;
use super::{Fold, FoldOptions};
use crate::log::Log;
use crate::metrics::FoldMeters;
use crate::nats::Nats;
use crate::reader::SourceLog;
use crate::relay::in_words;
use crate::status::{Condition, Part, Status};

/// What a lane is made of.
pub(crate) struct LaneParts<F> {
    pub db: Db,
    pub log: Log,
    pub fold: Arc<F>,
    pub logs: Vec<(Arc<str>, SourceLog)>,
    pub nats: Nats,
    pub options: FoldOptions,
    pub status: Status,
    pub clock: Clock,
    /// Which of the lanes this one is, from 0.
    pub index: u16,
}

/// One lane of a consumer.
pub(crate) struct Lane<F> {
    pub(super) parts: LaneParts<F>,
    pub(super) applier: Applier<F>,
    pub(super) part: Part,
    pub(super) meters: FoldMeters,
}

/// Why an era ended.
pub(super) enum End {
    /// The process is asked to stop.
    Shutdown,
    /// Other partitions are owned now.
    Ownership,
    /// The cursors in memory may be wrong.
    Doubt(String),
    /// The consumer is stopped, or partitions stand still, until a person acts.
    Stopped,
}

impl<F: Fold> Lane<F> {
    pub fn new(parts: LaneParts<F>) -> Lane<F> {
        let name = format!("fold {}/{}", F::NAME, parts.index);
        Lane {
            applier: Applier {
                db: parts.db.clone(),
                log: parts.log.clone(),
                fold: Arc::clone(&parts.fold),
                sources: parts.logs.iter().map(|(source, _)| Arc::clone(source)).collect(),
                letters_per_minute: parts.options.letters_per_minute,
            },
            part: parts.status.part(name),
            meters: FoldMeters::new(parts.log.source(), F::NAME),
            parts,
        }
    }

    /// Works until `shutdown`; then ends the batch at hand and gives its leases back.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), std::convert::Infallible> {
        let keeper = Keeper::new(
            &self.parts.db,
            F::NAME,
            self.parts.fold.sources(),
            (self.parts.index, self.parts.options.lanes),
            self.parts.options.lease,
            self.part.clone(),
        );
        tokio::select! {
            () = keeper.run() => {}
            () = self.eras(&keeper, &shutdown) => {}
        }
        if let Err(error) = keeper.release().await {
            tracing::warn!(
                consumer = F::NAME,
                error = in_words(&error),
                "leases run out by themselves"
            );
        }
        Ok(())
    }

    async fn eras(&self, keeper: &Keeper, shutdown: &CancellationToken) {
        let backoff = Backoff {
            base: Duration::from_millis(20),
            cap: Duration::from_secs(5),
        };
        let mut owned = keeper.owned();
        let mut doubts = 0;
        loop {
            let now = owned.borrow_and_update().clone();
            let end = if now.is_empty() {
                tokio::select! {
                    () = shutdown.cancelled() => End::Shutdown,
                    _ = owned.changed() => End::Ownership,
                }
            } else {
                match Era::begin(self, now).await {
                    Ok(mut era) => {
                        let end = era.run(&mut owned, shutdown).await;
                        if era.progressed {
                            doubts = 0;
                        }
                        end
                    }
                    Err(error) => End::Doubt(in_words(&error)),
                }
            };
            match end {
                End::Shutdown => return,
                End::Ownership => {}
                End::Stopped => {
                    keeper.look().notify_one();
                    tokio::select! {
                        () = shutdown.cancelled() => return,
                        _ = owned.changed() => {}
                    }
                }
                End::Doubt(reason) => {
                    doubts += 1;
                    tracing::debug!(consumer = F::NAME, reason, "the cursors are read again");
                    if doubts > 1 {
                        self.part.set(Condition::Retrying(reason));
                    }
                    keeper.look().notify_one();
                    tokio::select! {
                        () = shutdown.cancelled() => return,
                        () = tokio::time::sleep(backoff.delay(doubts)) => {}
                    }
                }
            }
        }
    }
}
