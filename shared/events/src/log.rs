//! The writing side of the event log: append in the transaction of the state, raise the generation after a fork.
//!
//! Nothing here publishes. The relay is woken once the transaction is committed: through a bell when it runs in this
//! process, by NOTIFY when it does not.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::Notify;
use uuid::Uuid;
use waybill_store::error::StoreError;
use waybill_store::{Db, Tx};

use crate::archive::Archive;
use crate::event::{Event, MAX_PAYLOAD_BYTES, NewEvent};
use crate::reader::archived_of;
use crate::store;

/// The bell's name; see [`Db::bell`].
const BELL: &str = "event_log";

/// An event is too large for the log.
#[derive(Debug, thiserror::Error)]
#[error(
    "a {type_name} of {bytes} bytes is larger than the {MAX_PAYLOAD_BYTES} bytes that an event may have; put ids into events, not contents"
)]
struct TooLarge {
    type_name: String,
    bytes: usize,
}

/// The event log of this service. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Log {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    db: Db,
    source: Arc<str>,
    bell: Arc<Notify>,
    /// NOTIFY channel.
    channel: String,
    /// Whether the relay that publishes runs in this process. NOTIFY takes a lock of the whole database at commit, so it
    /// is only used when it is needed.
    relay_is_here: AtomicBool,
    /// Where events are that have left the database.
    archive: OnceLock<Archive>,
}

impl Log {
    /// The log in the schema of `db`, whose name is the service's.
    #[must_use]
    pub fn open(db: &Db) -> Log {
        Log {
            inner: Arc::new(Inner {
                source: Arc::from(db.schema()),
                bell: db.bell(BELL),
                channel: format!("waybill_log_{}", db.schema()),
                relay_is_here: AtomicBool::new(false),
                archive: OnceLock::new(),
                db: db.clone(),
            }),
        }
    }

    /// Appends events, in this order, in the transaction that changes the state they tell of: one statement.
    ///
    /// # Errors
    ///
    /// [`StoreError::Fenced`] when the log's identity changed, so that nothing of the transaction may be committed.
    pub async fn append(&self, tx: &mut Tx, events: &[NewEvent]) -> Result<(), StoreError> {
        if events.is_empty() {
            return Ok(());
        }
        if let Some(event) = events
            .iter()
            .find(|event| event.payload.len() > MAX_PAYLOAD_BYTES)
        {
            return Err(StoreError::other(TooLarge {
                type_name: event.type_name.clone(),
                bytes: event.payload.len(),
            }));
        }
        let elsewhere = !self.inner.relay_is_here.load(Ordering::Relaxed);
        let channel = elsewhere.then_some(self.inner.channel.as_str());
        let written = store::log::append(tx.conn(), events, channel).await?;
        if written == 0 {
            return Err(StoreError::Fenced);
        }
        tx.after_commit(Arc::clone(&self.inner.bell));
        Ok(())
    }

    /// The events of a key that these transactions wrote, in the log's order: for a service that kept with its own rows which
    /// transaction wrote them. Found by index, however long the log is; what has left the database, in the archive's objects
    /// that can have it. What comes before each of them (`prev`) need not be right.
    ///
    /// # Errors
    ///
    /// As the database answers, and the archive.
    pub async fn written_by(&self, key: Uuid, transactions: &[u64]) -> Result<Vec<Event>, StoreError> {
        let pool = self.inner.db.pool();
        let mut events = store::written::written_by(pool, &self.inner.source, key, transactions).await?;
        let found: BTreeSet<u64> = events.iter().map(|event| event.position.xid).collect();
        let missing = transactions.iter().filter(|xid| !found.contains(xid));
        let missing: Vec<u64> = missing.copied().collect();
        if !missing.is_empty() {
            events.extend(archived_of(self, key, &missing).await?);
            events.sort_by_key(|event| event.position);
        }
        Ok(events)
    }

    /// Raises the generation above the log's own and `above`, takes on the identity that the server has now, and lets
    /// the log be written again. `above` is the highest generation that the stream and the known consumers have seen.
    /// Returns the new generation.
    ///
    /// # Errors
    ///
    /// [`StoreError::Retry`] when writers of the old generation do not end in time.
    pub async fn raise_generation(&self, above: i64) -> Result<i64, StoreError> {
        let mut tx = self.inner.db.begin().await?;
        let generation = store::identity::raise(tx.conn(), above).await?;
        tx.commit().await?;
        tracing::warn!(
            source = &*self.inner.source,
            generation,
            "the generation of the event log was raised"
        );
        self.inner.bell.notify_one();
        Ok(generation)
    }

    /// The highest generation that any registered consumer has ever seen; 0 when none has seen any.
    ///
    /// # Errors
    ///
    /// As the database answers.
    pub async fn highest_generation_seen(&self) -> Result<i64, StoreError> {
        store::consumers::highest_generation(self.inner.db.pool()).await
    }

    /// The service whose log it is.
    #[must_use]
    pub fn source(&self) -> &Arc<str> {
        &self.inner.source
    }

    /// Says where events are that have left the database. Once, before anything is read.
    pub(crate) fn set_archive(&self, archive: Archive) {
        // The first one stays: a log has one archive.
        let _refused = self.inner.archive.set(archive);
    }

    pub(crate) fn archive(&self) -> Option<&Archive> {
        self.inner.archive.get()
    }

    pub(crate) fn db(&self) -> &Db {
        &self.inner.db
    }

    pub(crate) fn bell(&self) -> &Arc<Notify> {
        &self.inner.bell
    }

    pub(crate) fn channel(&self) -> &str {
        &self.inner.channel
    }

    pub(crate) fn set_relay_is_here(&self, here: bool) {
        self.inner.relay_is_here.store(here, Ordering::Relaxed);
    }
}
