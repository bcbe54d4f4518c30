//! A lane: works on virtual partitions that its process owns, and lives in eras.
//!
//! An era begins with what is wanted and the cursors as they stand in the database, and ends when ownership changes or
//! anything casts doubt on the cursors in memory; then the next one begins from the database. So memory is never more
//! than a guess that the conditional update of the cursor rows confirms.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use waybill_kernel::time::Shared as Clock;
use waybill_store::{Backoff, Db};

use super::apply::Applier;
use super::era::Era;
use super::seat::{Occupied, Seat};
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
    pub part: Part,
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
        Lane {
            applier: Applier {
                db: parts.db.clone(),
                log: parts.log.clone(),
                fold: Arc::clone(&parts.fold),
                sources: parts.logs.iter().map(|(source, _)| Arc::clone(source)).collect(),
                letters_per_minute: parts.options.letters_per_minute,
            },
            part: parts.part.clone(),
            meters: FoldMeters::new(parts.log.source(), F::NAME),
            parts,
        }
    }

    /// Works on what its seat says until `shutdown`; then ends the batch at hand.
    pub async fn run(
        self,
        seat: Arc<Seat>,
        shutdown: CancellationToken,
    ) -> Result<(), std::convert::Infallible> {
        let occupied = Occupied(seat);
        self.eras(&occupied.0, &shutdown).await;
        Ok(())
    }

    async fn eras(&self, seat: &Seat, shutdown: &CancellationToken) {
        let backoff = Backoff {
            base: Duration::from_millis(20),
            cap: Duration::from_secs(5),
        };
        let mut changes = seat.changes();
        let mut doubts = 0;
        loop {
            changes.mark_unchanged();
            let now = seat.begin();
            let end = if now.is_empty() {
                tokio::select! {
                    () = shutdown.cancelled() => End::Shutdown,
                    _ = changes.changed() => End::Ownership,
                }
            } else {
                match Era::begin(self, now).await {
                    Ok(mut era) => {
                        let end = era.run(&mut changes, shutdown).await;
                        if era.progressed {
                            doubts = 0;
                        }
                        end
                    }
                    Err(error) => End::Doubt(in_words(&error)),
                }
            };
            seat.end();
            match end {
                End::Shutdown => return,
                End::Ownership => {}
                End::Stopped => {
                    tokio::select! {
                        () = shutdown.cancelled() => return,
                        _ = changes.changed() => {}
                    }
                }
                End::Doubt(reason) => {
                    doubts += 1;
                    tracing::debug!(consumer = F::NAME, reason, "the cursors are read again");
                    if doubts > 1 {
                        self.part.set(Condition::Retrying(reason));
                    }
                    tokio::select! {
                        () = shutdown.cancelled() => return,
                        () = tokio::time::sleep(backoff.delay(doubts)) => {}
                    }
                }
            }
        }
    }
}
