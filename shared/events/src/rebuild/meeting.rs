//! Whether what was rebuilt is where the live consumer is: places, and what is kept.

use std::collections::{BTreeMap, HashSet};

use sqlx::PgConnection;
use uuid::Uuid;
use waybill_store::error::StoreError;

use super::{Rebuild, RebuildError};
use crate::cursor::Cursor;
use crate::store::fold::{CursorRow, WaitingRow};
use crate::store::rebuild as sql;
use crate::store::shadow::Shadow;

/// Places and proofs by (log, virtual partition).
pub(super) type Cursors = BTreeMap<(usize, u16), Cursor>;

/// Whether the rebuilt tables are where the live ones are.
pub(super) enum Met {
    /// And how many live cursors have another count or hash than the log says.
    Yes {
        cursors: usize,
        held: i64,
    },
    No(String),
}

/// What is compared to see whether rebuilt and live tables are at the same place.
pub(super) struct Meeting<'w> {
    pub asked: &'w Rebuild,
    pub shadow: &'w Shadow,
    pub sources: &'w [&'static str],
    pub cursors: &'w Cursors,
}

impl Meeting<'_> {
    /// Looks; with `locked` the live cursors stay where they are until the end of the transaction.
    pub async fn look(&self, conn: &mut PgConnection, locked: bool) -> Result<Met, RebuildError> {
        let consumer = &self.asked.consumer;
        let live = self.shadow.live();
        let rows = sql::live_cursors(&mut *conn, &live, consumer.name(), self.sources, locked).await?;
        let mut differing = 0;
        for (place, cursor) in by_place(self.sources, &rows) {
            let own = self.cursors.get(&place).copied().unwrap_or_default();
            if own.position != cursor.position {
                return Ok(Met::No(format!(
                    "the live consumer is at {} of partition {} of the log of {}, and not at {}",
                    cursor.position, place.1, self.sources[place.0], own.position
                )));
            }
            differing += usize::from(own != cursor);
        }
        let (held, kept) = sql::all_undone(conn, &live, consumer.name()).await?;
        let held = self.ids(held)?;
        let kept = self.ids(kept)?;
        if held != kept {
            return Ok(Met::No(format!(
                "{} events are held back that had effect in the live tables, and {} had effect that the live consumer \
                 keeps: does a key become known other than by its opening event?",
                held.difference(&kept).count(),
                kept.difference(&held).count()
            )));
        }
        Ok(Met::Yes {
            cursors: differing,
            held: held.len() as i64,
        })
    }

    /// The ids of kept events, of those that the consumer does anything with.
    fn ids(&self, rows: Vec<WaitingRow>) -> Result<HashSet<Uuid>, StoreError> {
        let mut ids = HashSet::new();
        for row in rows {
            let event = self.asked.consumer.read_back(row)?;
            if self.asked.consumer.handles(&event) && self.sources.contains(&&*event.source) {
                ids.insert(event.event_id.uuid());
            }
        }
        Ok(ids)
    }
}

/// Live cursors by their places, of the logs that are followed.
pub(super) fn by_place(sources: &[&'static str], rows: &[CursorRow]) -> Cursors {
    rows.iter()
        .filter_map(|row| {
            let source = sources.iter().position(|source| *source == row.source)?;
            Some(((source, row.vpartition), row.cursor))
        })
        .collect()
}
