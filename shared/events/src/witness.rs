//! What a process remembers of a log, to notice on the next connection that the database was put back.
//!
//! A copy of the whole data folder looks like the server that it was taken from: the same system, the same timeline, the
//! same tables. A process that lived through the exchange knows better: it has seen a later place of the write-ahead log,
//! and an event that the copy does not have. Nothing is kept beyond the process; what a new process cannot know, it asks
//! the stream ([`crate::history`]).

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt as _;
use sqlx::PgConnection;
use uuid::Uuid;
use waybill_store::ConnectCheck;
use waybill_store::error::StoreError;

use crate::identity;
use crate::position::Position;
use crate::store;

/// Remembers on behalf of one log. Clones remember together.
#[derive(Debug, Clone, Default)]
pub struct Witness {
    seen: Arc<Mutex<Seen>>,
}

/// What was seen, all of it durable: it cannot be gone unless the database was put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Seen {
    /// In which generation. A later one is another history: what was seen before it says nothing about it.
    generation: i64,
    /// The end of what the server had flushed of its write-ahead log.
    wal: i64,
    /// The last event known to be in the log.
    event: Option<(Position, Uuid)>,
}

/// What a new connection shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shown {
    /// The generation of the log.
    pub generation: i64,
    /// The end of what the server has flushed of its write-ahead log.
    pub wal: i64,
    /// The event that the log has where the last known one stands; none when there was nothing to look for.
    pub event: Option<Uuid>,
    /// Whether that place has left the database for the archive: then the event need not be there.
    pub gone: bool,
}

impl Seen {
    /// Why what is shown cannot be what was seen.
    fn contradicted_by(&self, shown: &Shown) -> Option<String> {
        if shown.generation != self.generation {
            return (shown.generation < self.generation).then(|| {
                format!(
                    "the log is in generation {} and was in {}: the database was put back to an older copy",
                    shown.generation, self.generation
                )
            });
        }
        if shown.wal < self.wal {
            return Some(format!(
                "the server's write-ahead log ends at {:X}/{:X} and had reached {:X}/{:X}: the database was put back to an \
                 older copy",
                shown.wal >> 32,
                shown.wal & 0xffff_ffff,
                self.wal >> 32,
                self.wal & 0xffff_ffff
            ));
        }
        match self.event {
            Some((position, id)) if !shown.gone && shown.event != Some(id) => Some(format!(
                "event {id} at {position} is no longer in the log: the database was put back to an older copy"
            )),
            _ => None,
        }
    }

    fn take(&mut self, generation: i64, wal: i64, event: Option<(Position, Uuid)>) {
        if generation > self.generation {
            *self = Seen {
                generation,
                wal,
                event,
            };
        } else if generation == self.generation {
            self.wal = self.wal.max(wal);
            self.event = self.event.max(event);
        }
    }
}

impl Witness {
    /// One that has seen nothing yet.
    #[must_use]
    pub fn new() -> Witness {
        Witness::default()
    }

    /// The check to be put into `DbOptions::on_connect` of every service that has an event log: refuses a standby, and
    /// fences the log when it is no longer the one that others have read.
    #[must_use]
    pub fn check(&self) -> ConnectCheck {
        let witness = self.clone();
        Arc::new(move |conn: &mut PgConnection| {
            let witness = witness.clone();
            async move {
                if identity::check(conn).await? {
                    witness.compare(conn).await?;
                }
                Ok(())
            }
            .boxed()
        })
    }

    /// Takes note of what the log and its server show.
    pub(crate) fn saw(&self, generation: i64, wal: i64, event: Option<(Position, Uuid)>) {
        self.with(|seen| seen.take(generation, wal, event));
    }

    async fn compare(&self, conn: &mut PgConnection) -> Result<(), StoreError> {
        let seen = self.with(|seen| *seen);
        let shown = store::history::shown(conn, seen.event.map(|(position, _)| position)).await?;
        if let Some(reason) = seen.contradicted_by(&shown) {
            if store::identity::fence(conn, &reason, shown.generation).await? {
                tracing::error!(
                    reason,
                    generation = shown.generation,
                    "the event log is fenced: nothing is written until its generation is raised"
                );
            }
            return Ok(());
        }
        self.saw(shown.generation, shown.wal, None);
        Ok(())
    }

    fn with<T>(&self, f: impl FnOnce(&mut Seen) -> T) -> T {
        f(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(position: i64) -> Position {
        Position {
            generation: 1,
            xid: position.unsigned_abs(),
            position,
        }
    }

    fn event(position: i64) -> (Position, Uuid) {
        (at(position), Uuid::from_u128(position.unsigned_abs().into()))
    }

    proptest! {
        /// A database that only goes on never contradicts what was seen of it; one that was put back behind it always
        /// does, until its generation is raised.
        #[test]
        fn going_on_is_no_contradiction_and_going_back_is(
            steps in prop::collection::vec((0i64..1000, 1i64..5), 1..40),
            back in 1i64..1000,
        ) {
            let mut seen = Seen::default();
            let (mut wal, mut last) = (5000, 1);
            for (more, events) in steps {
                wal += more;
                last += events;
                let shown = Shown { generation: 1, wal, event: seen.event.map(|(_, id)| id), gone: false };
                prop_assert_eq!(seen.contradicted_by(&shown), None);
                seen.take(1, wal, Some(event(last)));
            }
            let earlier = Shown { generation: 1, wal: wal - back, event: seen.event.map(|(_, id)| id), gone: false };
            prop_assert!(seen.contradicted_by(&earlier).is_some());
            let gone = Shown { generation: 1, wal: wal + back, event: None, gone: false };
            prop_assert!(seen.contradicted_by(&gone).is_some());
            prop_assert_eq!(seen.contradicted_by(&Shown { gone: true, ..gone }), None, "archived is not lost");
            let raised = Shown { generation: 2, wal: wal - back, event: None, gone: false };
            prop_assert_eq!(seen.contradicted_by(&raised), None);
            seen.take(2, wal - back, None);
            prop_assert_eq!(seen.contradicted_by(&raised), None);
            prop_assert!(seen.contradicted_by(&earlier).is_some(), "an earlier generation is an older copy");
        }
    }

    #[test]
    fn another_event_in_the_same_place_is_a_contradiction() {
        let mut seen = Seen::default();
        seen.take(1, 10, Some(event(7)));
        let other = Shown {
            generation: 1,
            wal: 11,
            event: Some(Uuid::from_u128(8)),
            gone: false,
        };
        assert!(
            seen.contradicted_by(&other)
                .is_some_and(|reason| reason.contains("1.7.7"))
        );
    }
}
