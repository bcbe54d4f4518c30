//! Every event took effect exactly once in every consumer: count and hash of each cursor row, computed again from the log.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use sqlx::AssertSqlSafe;
use waybill_events::Position;
use waybill_events::cursor::Cursor;

use super::{CONSUMERS, Evidence};

#[derive(sqlx::FromRow)]
struct Row {
    source: String,
    vpartition: i16,
    generation: i64,
    xid: i64,
    position: i64,
    count: i64,
    hash: Vec<u8>,
}

/// Compares all cursors of all consumers.
pub async fn exactly_once(of: &Evidence) -> anyhow::Result<String> {
    let (mut cursors, mut effects) = (0, 0);
    for (consumer, sources) in CONSUMERS {
        let sql = format!(
            "SELECT source, vpartition, generation, xid::text::bigint AS xid, position, count, hash
             FROM \"{consumer}\".fold_cursor WHERE consumer = $1"
        );
        let rows: Vec<Row> = sqlx::query_as(AssertSqlSafe(sql))
            .bind(consumer)
            .fetch_all(&of.db)
            .await
            .with_context(|| format!("the cursors of {consumer}"))?;
        let mut found: BTreeMap<(String, i16), Cursor> = BTreeMap::new();
        for row in rows {
            let cursor = Cursor {
                position: Position {
                    generation: row.generation,
                    xid: u64::try_from(row.xid)?,
                    position: row.position,
                },
                count: row.count,
                hash: row.hash.try_into().ok().context("a hash that is not 32 bytes")?,
            };
            found.insert((row.source, row.vpartition), cursor);
        }
        let mut expected: BTreeMap<(String, i16), Cursor> = BTreeMap::new();
        for source in sources {
            for entry in of.logs.of(source) {
                expected
                    .entry(((*source).to_owned(), entry.partition))
                    .or_default()
                    .take(entry.position, entry.event_id);
            }
        }
        // A partition without events may have a row that says so, or none.
        found.retain(|place, cursor| expected.contains_key(place) || cursor.count != 0);
        for (place, cursor) in &expected {
            let (source, partition) = place;
            let there = found.remove(place).with_context(|| {
                format!("{consumer} has no cursor in partition {partition} of {source}'s log")
            })?;
            ensure!(
                there == *cursor,
                "{consumer} in partition {partition} of {source}'s log: it took {} events to {} with hash {}, the log has {} to {} with hash {}",
                there.count,
                there.position,
                hex(&there.hash),
                cursor.count,
                cursor.position,
                hex(&cursor.hash),
            );
            cursors += 1;
            effects += cursor.count;
        }
        ensure!(
            found.is_empty(),
            "{consumer} took events that no log has: {:?}",
            found.keys().collect::<Vec<_>>()
        );
    }
    ensure!(effects > 0, "no event took effect");
    Ok(format!(
        "{effects} effects behind {cursors} cursors, count and hash"
    ))
}

fn hex(hash: &[u8]) -> String {
    hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}
