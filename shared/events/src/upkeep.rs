//! The upkeep of the log: makes partitions ahead of need, notices where they end, and lets the oldest go.
//!
//! Appends never wait for it: a row for which there is no partition yet goes into the default one, of which the upkeep
//! makes a partition afterwards. Several replicas may run it at once.

use std::convert::Infallible;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use waybill_store::Db;
use waybill_store::error::StoreError;

use crate::archive::Archive;
use crate::relay::in_words;
use crate::retention::{Retention, RetentionError};
use crate::status::{Condition, Part};
use crate::store::partitions::{self, State};

/// How the log is kept.
#[derive(Debug, Clone)]
pub struct UpkeepOptions {
    /// The positions of a partition. While many partitions are kept, new ones are larger. Default 1 000 000.
    pub partition_events: i64,
    /// Where partitions go that everybody has passed, before they leave the database. None, the default: all of the log
    /// stays in it.
    pub archive: Option<Archive>,
    /// How long a partition stays after its last event, at least. Default 30 days.
    pub keep: Duration,
    /// How often the partitions are looked at. Default 10 s.
    pub every: Duration,
}

impl Default for UpkeepOptions {
    fn default() -> Self {
        UpkeepOptions {
            partition_events: 1_000_000,
            archive: None,
            keep: Duration::from_secs(30 * 24 * 60 * 60),
            every: Duration::from_secs(10),
        }
    }
}

/// How many partitions are there ahead of the one that is being filled.
const AHEAD: i64 = 2;

/// After so many partitions that are kept, new ones are twice as large: every statement over the log takes a lock on each
/// of its partitions, so there must never be very many.
const MANY: i64 = 16;

/// Up to so many times as large.
const WIDEST: u32 = 6;

/// Keeps the partitions of a log.
pub(crate) struct Upkeep {
    pub db: Db,
    pub options: UpkeepOptions,
    pub part: Part,
}

impl Upkeep {
    /// Keeps them until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Infallible> {
        let mut time = tokio::time::interval(self.options.every);
        time.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                _ = time.tick() => {}
            }
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                kept = self.keep() => match kept {
                    Ok(()) => self.part.set(Condition::Working),
                    Err(error) => self.part.set(Condition::Retrying(in_words(&error))),
                },
            }
        }
    }

    async fn keep(&self) -> Result<(), RetentionError> {
        let pool = self.db.pool();
        let seen = partitions::state(pool).await?;
        if next(seen, self.options.partition_events).is_some() {
            self.make().await?;
        }
        partitions::note_filled(pool, seen.drawn).await?;
        while partitions::close_next(pool).await? {}
        match &self.options.archive {
            Some(archive) => {
                let retention = Retention {
                    db: self.db.clone(),
                    archive: archive.clone(),
                    keep: self.options.keep,
                };
                Box::pin(retention.run()).await
            }
            None => Ok(()),
        }
    }

    /// Makes what is missing, each partition in a transaction of its own.
    async fn make(&self) -> Result<(), StoreError> {
        loop {
            let mut tx = self.db.begin().await?;
            if !partitions::try_lock(tx.conn()).await? {
                return tx.rollback().await;
            }
            let now = partitions::state(tx.conn()).await?;
            let Some(step) = next(now, self.options.partition_events) else {
                return tx.rollback().await;
            };
            let done = match step {
                Step::Make { low, high } => partitions::make(tx.conn(), low, high).await?,
                Step::Adopt { low, high } => partitions::adopt(tx.conn(), low, high).await?,
            };
            if done {
                tx.commit().await?;
                tracing::debug!(schema = self.db.schema(), ?step, "the log has another partition");
            } else {
                tx.rollback().await?;
            }
        }
    }
}

/// The next partition to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// An empty one.
    Make { low: i64, high: i64 },
    /// One of the rows that found no partition.
    Adopt { low: i64, high: i64 },
}

/// What is to be done next, if anything.
fn next(state: State, partition_events: i64) -> Option<Step> {
    let low = state.next_low;
    let doublings = (state.partitions / MANY).clamp(0, i64::from(WIDEST)) as u32;
    let width = partition_events.max(1).saturating_mul(1 << doublings);
    // Also when what was drawn was rolled back, or is not written yet.
    if state.astray || state.drawn >= low {
        // Room for those that are drawn but not written yet, so that none of them comes too late.
        let high = state.drawn.max(low).saturating_add(width);
        return Some(Step::Adopt { low, high });
    }
    let wanted = state.drawn.saturating_add(width.saturating_mul(AHEAD));
    (low <= wanted).then_some(Step::Make {
        low,
        high: low.saturating_add(width),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever is drawn between two looks: the partitions follow each other without a gap, none is made behind what
        /// was drawn unless it holds it, and soon there is room ahead and no more than that.
        #[test]
        fn there_is_always_room_ahead(width in 1i64..1000, draws in prop::collection::vec(0i64..5000, 1..30)) {
            let mut state = State { drawn: 0, next_low: 1, partitions: 0, astray: false };
            for draw in draws {
                state.drawn += draw;
                state.astray = state.drawn >= state.next_low;
                let mut steps = 0;
                while let Some(step) = next(state, width) {
                    let (Step::Make { low, high } | Step::Adopt { low, high }) = step;
                    prop_assert_eq!(low, state.next_low);
                    prop_assert!(high > low);
                    if let Step::Adopt { high, .. } = step {
                        prop_assert!(high > state.drawn, "holds all that was drawn");
                        state.astray = false;
                    }
                    state.next_low = high;
                    state.partitions += 1;
                    steps += 1;
                    prop_assert!(steps <= 2 * AHEAD + 3, "ends");
                }
                prop_assert!(state.next_low > state.drawn);
            }
        }
    }

    #[test]
    fn where_nothing_is_dropped_partitions_become_wider() {
        let state = |partitions| State {
            drawn: 0,
            next_low: 1,
            partitions,
            astray: false,
        };
        assert_eq!(next(state(0), 100), Some(Step::Make { low: 1, high: 101 }));
        assert_eq!(next(state(40), 100), Some(Step::Make { low: 1, high: 401 }));
        assert_eq!(next(state(9000), 100), Some(Step::Make { low: 1, high: 6401 }));
    }
}
