//! Watching: every change of a store's orders, from a place in the log on, and then as they happen.
//!
//! One task reads the log once for all watches and passes the stretches it read on. A watch takes those that join up with
//! its own place and reads whatever it missed (before it began, or while it was slow) from the log itself; so it misses
//! nothing and repeats nothing, and waits for nobody else (O-14).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, broadcast};
use tokio_util::sync::CancellationToken;
use waybill_events::Position;
use waybill_store::{Db, StoreError};

use super::{BELL, Orders};
use crate::domain::order::Tenant;
use crate::error::Error;
use crate::store::watch::{Change, Window, changes, exists, head};

/// Events that are read at once.
const WINDOW: i64 = 1_000;
/// Stretches that a slow watch may lag behind before it reads the log by itself.
const BACKLOG: usize = 64;
/// How long the log is left alone when nothing rings: other processes ring no bell here.
const POLL: Duration = Duration::from_millis(250);
/// The same while events wait for transactions that are still running: doubled up to [`POLL`].
const UNSETTLED: Duration = Duration::from_millis(1);

/// The task behind all watches of this process.
pub(crate) struct Watch {
    db: Db,
    bell: Arc<Notify>,
    passed_on: broadcast::Sender<Arc<Window>>,
    joined: Notify,
    seats: Arc<Semaphore>,
    most: usize,
}

/// Where a watch begins.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Start {
    /// With the next change.
    Now,
    /// With the first change there is.
    First,
    /// After this change.
    After(Position),
}

impl Watch {
    pub(crate) fn new(db: &Db, most: usize) -> Arc<Watch> {
        Arc::new(Watch {
            db: db.clone(),
            bell: db.bell(BELL),
            passed_on: broadcast::Sender::new(BACKLOG),
            joined: Notify::new(),
            seats: Arc::new(Semaphore::new(most)),
            most,
        })
    }

    /// Reads the log for all watches, while there are any, until it is asked to stop.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) -> Result<(), StoreError> {
        while let Some(()) = stop.run_until_cancelled(self.somebody()).await {
            if let Some(Err(error)) = stop.run_until_cancelled(self.pass_on()).await {
                tracing::warn!(%error, "watching the log failed; trying again");
                let _ = stop.run_until_cancelled(tokio::time::sleep(POLL)).await;
            }
        }
        Ok(())
    }

    async fn somebody(&self) {
        while self.passed_on.receiver_count() == 0 {
            self.joined.notified().await;
        }
    }

    /// Passes stretches on until nobody watches.
    async fn pass_on(&self) -> Result<(), StoreError> {
        let mut until = head(self.db.pool()).await?;
        // Tells whoever joined before that the stretches begin here.
        let empty = Window {
            after: until,
            until,
            changes: Vec::new(),
            full: false,
            unsettled: false,
        };
        let _ = self.passed_on.send(Arc::new(empty));
        let mut pause = UNSETTLED;
        while self.passed_on.receiver_count() > 0 {
            let window = changes(self.db.pool(), None, until, WINDOW).await?;
            let (full, unsettled) = (window.full, window.unsettled);
            if window.until != until {
                until = window.until;
                pause = UNSETTLED;
                // It fails when the last watch has just gone.
                let _ = self.passed_on.send(Arc::new(window));
            }
            if full {
                continue;
            }
            if unsettled {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(POLL);
            } else {
                let _ = tokio::time::timeout(POLL, self.bell.notified()).await;
            }
        }
        Ok(())
    }
}

impl Orders {
    /// Begins a watch.
    ///
    /// # Errors
    ///
    /// When too many are running, or the place to begin after is no longer in the log.
    pub(crate) async fn watch(&self, tenant: Tenant, start: Start) -> Result<Follower, Error> {
        let watch = &self.watch;
        let seat = Arc::clone(&watch.seats)
            .try_acquire_owned()
            .map_err(|_| Error::TooManyWatches { most: watch.most })?;
        // Before the first look at the log: what is passed on from here on joins up with it, or shows that it does not.
        let feed = watch.passed_on.subscribe();
        watch.joined.notify_one();
        let (at, behind) = match start {
            Start::Now => (head(self.db.pool()).await?, false),
            Start::First => (Position::ZERO, true),
            Start::After(at) if exists(self.db.pool(), tenant, at).await? => (at, true),
            Start::After(_) => return Err(Error::CursorExpired),
        };
        let track = Track {
            tenant,
            at,
            behind,
            ready: VecDeque::new(),
        };
        Ok(Follower {
            db: self.db.clone(),
            feed,
            track,
            _seat: seat,
        })
    }
}

/// One running watch.
pub(crate) struct Follower {
    db: Db,
    feed: broadcast::Receiver<Arc<Window>>,
    track: Track,
    _seat: OwnedSemaphorePermit,
}

impl Follower {
    /// The next change, as soon as there is one.
    ///
    /// # Errors
    ///
    /// When the log cannot be read, or the service stops. The caller goes on later from the last change it saw.
    pub(crate) async fn next(&mut self) -> Result<Change, Error> {
        loop {
            if let Some(change) = self.track.ready.pop_front() {
                return Ok(change);
            }
            if self.track.behind {
                let window = changes(self.db.pool(), Some(self.track.tenant), self.track.at, WINDOW).await?;
                self.track.behind = window.full;
                self.track.take(&window);
                continue;
            }
            match self.feed.recv().await {
                Ok(window) => self.track.take(&window),
                Err(RecvError::Lagged(_)) => self.track.behind = true,
                Err(RecvError::Closed) => return Err(Error::Stopping),
            }
        }
    }
}

/// How far a watch has come: pure, so that a test can throw every order of stretches at it.
struct Track {
    tenant: Tenant,
    /// Everything up to here was taken.
    at: Position,
    /// Whether the log has to be read because something is missing.
    behind: bool,
    /// Changes that the caller has not seen.
    ready: VecDeque<Change>,
}

impl Track {
    fn take(&mut self, window: &Window) {
        if window.after > self.at {
            self.behind = true;
            return;
        }
        let news = window
            .changes
            .iter()
            .filter(|change| change.tenant == self.tenant && change.position > self.at);
        self.ready.extend(news.cloned());
        self.at = self.at.max(window.until);
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use proptest::prelude::*;
    use waybill_kernel::id::{MerchantId, OrderId, StoreId};

    use super::*;

    fn tenant(n: u128) -> Tenant {
        let uuid = uuid::Uuid::from_u128(n);
        Tenant {
            merchant: MerchantId::from(uuid),
            store: StoreId::from(uuid),
        }
    }

    fn at(position: i64) -> Position {
        if position == 0 {
            Position::ZERO
        } else {
            Position {
                generation: 1,
                xid: 1,
                position,
            }
        }
    }

    fn change(position: i64, owner: u128) -> Change {
        Change {
            position: at(position),
            tenant: tenant(owner),
            order: OrderId::from(uuid::Uuid::nil()),
            type_name: String::new(),
            version: position,
            occurred_at: DateTime::UNIX_EPOCH,
        }
    }

    /// The stretch of a log of `owners` behind `after`, of one tenant or of all.
    fn window(owners: &[u128], of: Option<u128>, after: i64, until: i64) -> Window {
        let changes = (after + 1..=until)
            .map(|position| change(position, owners[position as usize - 1]))
            .filter(|change| of.is_none_or(|of| change.tenant == tenant(of)));
        Window {
            after: at(after),
            until: at(until),
            changes: changes.collect(),
            full: false,
            unsettled: false,
        }
    }

    proptest! {
        /// O-14: whatever stretches are passed on, lost, repeated, or read by the watch itself: it sees each change of its
        /// tenant behind its start once, in order, and nothing else.
        #[test]
        fn a_watch_sees_everything_once(
            owners in proptest::collection::vec(1..3_u128, 1..60),
            start in 0..60_usize,
            steps in proptest::collection::vec((0..60_usize, 0..20_usize, any::<bool>()), 0..60),
        ) {
            let end = owners.len();
            let start = start.min(end);
            let mut track = Track { tenant: tenant(1), at: at(start as i64), behind: true, ready: VecDeque::new() };
            let catch_up = |track: &mut Track, until: usize| {
                let from = track.at.position;
                if from < until as i64 {
                    track.take(&window(&owners, Some(1), from, until as i64));
                }
                track.behind = false;
            };
            for (after, length, lagged) in steps {
                let after = after.min(end);
                let until = (after + length).min(end);
                if lagged {
                    track.behind = true;
                } else {
                    track.take(&window(&owners, None, after as i64, until as i64));
                }
                if track.behind {
                    catch_up(&mut track, until);
                }
            }
            catch_up(&mut track, end);
            let seen: Vec<i64> = track.ready.iter().map(|change| change.position.position).collect();
            let expected: Vec<i64> =
                (start + 1..=end).filter(|&p| owners[p - 1] == 1).map(|p| p as i64).collect();
            prop_assert_eq!(seen, expected);
        }
    }
}
