//! The part of a log that has left the database, as the archive has it.

use std::sync::Arc;

use waybill_kernel::partition::PARTITIONS;

use super::{MOST_PASSED, OwnError, OwnLog, Step};
use crate::archive::{self, Archive, ArchiveError};
use crate::event::Event;
use crate::filter::EventFilter;
use crate::log::Log;
use crate::position::Position;
use crate::store;

/// The part of a log that has left the database, from some cursors on.
pub(super) struct Gone {
    archive: Archive,
    objects: std::vec::IntoIter<store::archive::Gone>,
    reading: Option<(store::archive::Gone, archive::Reading)>,
    found: bool,
}

impl Gone {
    pub async fn open(log: &OwnLog, cursors: &[(u16, Position)]) -> Result<Gone, OwnError> {
        let archive = log.log.archive().cloned().ok_or_else(|| {
            OwnError::Expired(
                "they are in an archive, and this service has none configured (log.archive)".to_owned(),
            )
        })?;
        let objects = store::archive::gone(log.db().pool(), cursors).await?;
        Ok(Gone {
            archive,
            objects: objects.into_iter(),
            reading: None,
            found: false,
        })
    }

    /// The next events after the cursors that are wanted, at most `limit`, or how far nothing was found; `None` at the
    /// end.
    pub async fn next(
        &mut self,
        source: &Arc<str>,
        cursors: &[(u16, Position)],
        filter: &EventFilter,
        limit: usize,
    ) -> Result<Option<Step>, OwnError> {
        let mut after = [None; PARTITIONS as usize];
        for (partition, place) in cursors {
            after[usize::from(*partition)] = Some(*place);
        }
        let mut passed = 0;
        let mut upto = None;
        loop {
            let Some(mut events) = self.batch(source).await? else {
                self.end()?;
                return Ok(upto.map(|_| Step {
                    events: Vec::new(),
                    upto,
                }));
            };
            // What lies before the cursors counts, too: whoever asks is to hear from time to time that there is progress.
            passed += events.len();
            events.retain(|event| {
                after[usize::from(event.vpartition)].is_some_and(|after| event.position > after)
            });
            let Some(last) = events.last() else {
                if passed >= MOST_PASSED {
                    return Ok(Some(Step { events, upto: None }));
                }
                continue;
            };
            self.found = true;
            upto = Some(last.position);
            events.retain(|event| filter.wants(event));
            if events.len() > limit {
                events.truncate(limit);
                upto = events.last().map(|last| last.position);
            }
            if !events.is_empty() || passed >= MOST_PASSED {
                let upto = upto.filter(|_| !filter.is_all());
                return Ok(Some(Step { events, upto }));
            }
        }
    }

    /// The next events of the objects, whoever wants them; `None` at the end. An object that ends is compared with what
    /// was written.
    async fn batch(&mut self, source: &Arc<str>) -> Result<Option<Vec<Event>>, OwnError> {
        loop {
            let Some((object, reading)) = &mut self.reading else {
                let Some(object) = self.objects.next() else {
                    return Ok(None);
                };
                let reading = self.archive.read(&object.object).await.map_err(expired)?;
                self.reading = Some((object, reading));
                continue;
            };
            let name = object.object.as_str();
            let logged = reading.next().await.map_err(expired)?;
            if logged.is_empty() {
                if reading.sha256().as_slice() != object.sha256 {
                    return Err(ArchiveError::damaged(name, "it is not what was written").into());
                }
                self.reading = None;
                continue;
            }
            let events = logged.into_iter().map(|logged| {
                Event::from_logged(source, logged).map_err(|fault| ArchiveError::damaged(name, fault))
            });
            return Ok(Some(events.collect::<Result<_, _>>()?));
        }
    }

    /// Something was there to be found: else the caller would ask again for ever.
    fn end(&self) -> Result<(), OwnError> {
        if self.found {
            return Ok(());
        }
        Err(ArchiveError::damaged(
            "what was archived",
            "it does not have the events that left the database",
        )
        .into())
    }
}

/// An object that is not there any more is no fault of a moment.
fn expired(error: ArchiveError) -> OwnError {
    match error {
        ArchiveError::Missing { object } => {
            OwnError::Expired(format!("{object} is no longer in the archive"))
        }
        other => OwnError::Archive(other),
    }
}

/// Which event stood at a place that has left the database, as the archive has it.
pub(crate) async fn archived_event_at(log: &Log, at: Position) -> Result<Option<uuid::Uuid>, OwnError> {
    let Some(archive) = log.archive() else {
        return Ok(None);
    };
    let Some(object) = store::archive::object_of(log.db().pool(), at).await? else {
        return Ok(None);
    };
    let mut reading = archive.read(&object).await.map_err(expired)?;
    loop {
        let events = reading.next().await.map_err(expired)?;
        if events.is_empty() {
            return Ok(None);
        }
        for logged in events {
            if logged.position.map(Position::from) == Some(at) {
                let event = Event::from_logged(log.source(), logged)
                    .map_err(|fault| ArchiveError::damaged(&object, fault))?;
                return Ok(Some(event.event_id.uuid()));
            }
        }
    }
}

/// Objects that are read for a handful of transactions.
const MOST_OBJECTS: i64 = 16;

/// The events of a key that transactions wrote, as far as they have left the database and an archive is configured.
pub(crate) async fn archived_of(
    log: &Log,
    key: uuid::Uuid,
    transactions: &[u64],
) -> Result<Vec<Event>, OwnError> {
    let Some(archive) = log.archive() else {
        return Ok(Vec::new());
    };
    let pool = log.db().pool();
    let objects = store::archive::objects_of_transactions(pool, transactions, MOST_OBJECTS).await?;
    let (key_text, mut found) = (key.to_string(), Vec::new());
    for object in objects {
        let mut reading = archive.read(&object).await.map_err(expired)?;
        loop {
            let events = reading.next().await.map_err(expired)?;
            if events.is_empty() {
                break;
            }
            for logged in events
                .into_iter()
                .filter(|logged| logged.partition_key == key_text)
            {
                let event = Event::from_logged(log.source(), logged)
                    .map_err(|fault| ArchiveError::damaged(&object, fault))?;
                if transactions.contains(&event.position.xid) {
                    found.push(event);
                }
            }
        }
    }
    Ok(found)
}
