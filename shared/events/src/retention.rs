//! Takes the oldest part of the log out of the database, once it is in the archive and everybody has it.
//!
//! Three steps, each of which may be the last before a crash, and any number of replicas: write the object and read it
//! back; write down what it holds; drop the partition, if by then every registered consumer has passed it. The next one
//! goes on where the last one stopped: an object that was not written down is written again under the same name.

use std::fmt::Write as _;
use std::time::Duration;

use sqlx::Connection as _;
use waybill_kernel::partition::PARTITIONS;
use waybill_store::Db;
use waybill_store::error::StoreError;

use crate::archive::{Archive, ArchiveError, Stored, Writing};
use crate::cursor::Cursor;
use crate::event::Event;
use crate::position::Position;
use crate::store::archive::{self as sql, End, Ends, Entry, Oldest};
use crate::store::{consumers, log, partitions};

/// What is read from the log at once.
const PAGE: (usize, usize) = (2_000, 2 * 1024 * 1024);

/// Why the log could not be made shorter. Tried again later.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RetentionError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

/// Makes one log shorter.
#[derive(Debug, Clone)]
pub(crate) struct Retention {
    pub db: Db,
    pub archive: Archive,
    /// How long a partition stays after it was closed.
    pub keep: Duration,
}

impl Retention {
    /// Takes out all that may go now. One replica at a time does the work.
    pub async fn run(&self) -> Result<(), RetentionError> {
        if self.next().await?.is_none() {
            return Ok(());
        }
        // A session's lock: writing an object takes longer than a transaction may. It ends with the connection.
        let mut guard = self.db.dedicated().await?;
        let ours: bool = sqlx::query_scalar(
            "SELECT pg_try_advisory_lock(hashtext('waybill log archive'), hashtext(current_schema()))",
        )
        .fetch_one(&mut guard)
        .await
        .map_err(StoreError::from)?;
        if ours {
            while let Some(oldest) = self.next().await? {
                if !oldest.archived {
                    Box::pin(self.write(&oldest)).await?;
                }
                if !self.drop(&oldest).await? {
                    break;
                }
            }
        }
        // The lock ends with the connection, tidily or not.
        drop(guard.close().await);
        Ok(())
    }

    /// The oldest partition, if it may go.
    async fn next(&self) -> Result<Option<Oldest>, StoreError> {
        let pool = self.db.pool();
        let Some(oldest) = sql::oldest_closed(pool).await? else {
            return Ok(None);
        };
        if oldest.age_seconds < self.keep.as_secs_f64() {
            return Ok(None);
        }
        let ends = log::predecessors(pool, oldest.last).await?;
        let passed = consumers::passed(&consumers::all(pool).await?);
        Ok(is_behind(&ends, passed.as_ref()).then_some(oldest))
    }

    /// Writes a partition to the archive, reads it back, and writes down what is there.
    async fn write(&self, oldest: &Oldest) -> Result<(), RetentionError> {
        let mut conn = self.db.pool().acquire().await.map_err(StoreError::from)?;
        let (begin, before) = sql::archived_to(&mut conn).await?;
        let history = sql::history_name(&mut *conn).await?;
        drop(conn);
        let name = format!(
            "{}/{history}/{:020}-{}",
            self.db.schema(),
            oldest.low,
            oldest.last.position
        );
        let object = format!("{name}.events.gz");
        let mut ends = before;
        let mut writing = self.archive.write(&object);
        let written = self.copy(&mut writing, (begin, oldest), &mut ends).await;
        let (events, stored) = match written {
            Ok(events) => (events, writing.finish().await?),
            Err(error) => {
                writing.abandon().await;
                return Err(error);
            }
        };
        Box::pin(self.verify(&object, before, &ends, stored)).await?;
        let entry = Entry {
            low: oldest.low,
            high: oldest.high,
            object: &object,
            last: oldest.last,
            events,
            stored,
            ends: &ends,
        };
        self.archive
            .put(
                &format!("{name}.manifest.json"),
                manifest(self.db.schema(), begin, &entry).into_bytes(),
            )
            .await?;
        sql::record(self.db.pool(), &entry).await?;
        tracing::info!(
            schema = self.db.schema(),
            object,
            events,
            bytes = stored.bytes,
            "a part of the event log is in the archive"
        );
        Ok(())
    }

    async fn copy(
        &self,
        writing: &mut Writing,
        (begin, oldest): (Position, &Oldest),
        ends: &mut Ends,
    ) -> Result<i64, RetentionError> {
        let source = self.db.schema().into();
        let mut after = begin;
        let mut written = 0;
        loop {
            let range = (after, oldest.last);
            let events = sql::stretch(self.db.pool(), &source, range, oldest.low, ends, PAGE).await?;
            let Some(last) = events.last() else {
                return Ok(written);
            };
            after = last.position;
            written += events.len() as i64;
            writing.add(events.iter().map(Event::to_logged).collect()).await?;
        }
    }

    /// Reads an object back: every event follows the one before it in its virtual partition, and count and hash at the end
    /// are those that the log gave.
    async fn verify(
        &self,
        object: &str,
        before: Ends,
        ends: &Ends,
        stored: Stored,
    ) -> Result<(), ArchiveError> {
        let source = self.db.schema().into();
        let mut reading = self.archive.read(object).await?;
        let mut found = before;
        loop {
            let events = reading.next().await?;
            if events.is_empty() {
                break;
            }
            for logged in events {
                let event = Event::from_logged(&source, logged)
                    .map_err(|fault| ArchiveError::damaged(object, fault))?;
                let end = &mut found[usize::from(event.vpartition)];
                let mut cursor: Cursor = end.map(|end| end.cursor).unwrap_or_default();
                if event.prev != cursor.position {
                    let what = format!("event {} does not follow {}", event.position, cursor.position);
                    return Err(ArchiveError::damaged(object, what));
                }
                let event_id = event.event_id.uuid();
                cursor.take(event.position, event_id);
                *end = Some(End { cursor, event_id });
            }
        }
        if found != *ends || reading.sha256() != stored.sha256 {
            return Err(ArchiveError::damaged(object, "it is not what was written"));
        }
        Ok(())
    }

    /// Drops an archived partition, unless a consumer that has not passed it has come meanwhile. One short transaction.
    async fn drop(&self, oldest: &Oldest) -> Result<bool, StoreError> {
        let mut tx = self.db.begin().await?;
        if !partitions::try_lock(tx.conn()).await? {
            tx.rollback().await?;
            return Ok(false);
        }
        let ends = log::predecessors(&mut *tx.conn(), oldest.last).await?;
        let passed = consumers::passed(&consumers::all(&mut *tx.conn()).await?);
        if !is_behind(&ends, passed.as_ref()) || !sql::drop_archived(tx.conn(), oldest.low).await? {
            tx.rollback().await?;
            return Ok(false);
        }
        tx.commit().await?;
        tracing::info!(
            schema = self.db.schema(),
            low = oldest.low,
            high = oldest.high,
            "a part of the event log has left the database"
        );
        Ok(true)
    }
}

/// Whether all consumers have passed these ends. Where nobody follows, nobody waits.
fn is_behind(
    ends: &[Position; PARTITIONS as usize],
    passed: Option<&[Position; PARTITIONS as usize]>,
) -> bool {
    passed.is_none_or(|passed| ends.iter().zip(passed).all(|(end, passed)| end <= passed))
}

/// What stands beside an object: what it holds, and the proof of all before its end.
fn manifest(service: &str, begin: Position, entry: &Entry<'_>) -> String {
    let hex = |bytes: &[u8]| {
        bytes.iter().fold(String::new(), |mut text, byte| {
            // Writing to memory cannot fail.
            let _written = write!(text, "{byte:02x}");
            text
        })
    };
    let ends: Vec<String> = (0..)
        .zip(entry.ends)
        .filter_map(|(partition, end): (u16, _)| {
            let end = (*end)?;
            Some(format!(
                "    {{\"partition\": {partition}, \"place\": \"{}\", \"event_id\": \"{}\", \"count\": {}, \"hash\": \"{}\"}}",
                end.cursor.position,
                end.event_id,
                end.cursor.count,
                hex(&end.cursor.hash)
            ))
        })
        .collect();
    format!(
        "{{\n  \"service\": \"{service}\",\n  \"object\": \"{}\",\n  \"after\": \"{begin}\",\n  \"last\": \"{}\",\n  \
         \"events\": {},\n  \"bytes\": {},\n  \"sha256\": \"{}\",\n  \"ends\": [\n{}\n  ]\n}}\n",
        entry.object,
        entry.last,
        entry.events,
        entry.stored.bytes,
        hex(&entry.stored.sha256),
        ends.join(",\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(position: i64) -> Position {
        Position {
            generation: 1,
            xid: 9,
            position,
        }
    }

    #[test]
    fn every_consumer_must_have_passed_every_partition() {
        let mut ends = [Position::ZERO; PARTITIONS as usize];
        let mut passed = ends;
        assert!(is_behind(&ends, Some(&passed)), "an empty stretch");
        ends[7] = at(50);
        assert!(!is_behind(&ends, Some(&passed)));
        passed[7] = at(50);
        assert!(is_behind(&ends, Some(&passed)));
        ends[63] = at(51);
        passed[7] = at(99);
        assert!(!is_behind(&ends, Some(&passed)), "far ahead elsewhere");
        assert!(is_behind(&ends, None), "nobody follows");
    }
}
