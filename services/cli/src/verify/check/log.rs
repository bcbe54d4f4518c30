//! All logs, as their tables have them: what everything else is held against.

use std::collections::BTreeMap;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, PgPool};
use uuid::Uuid;
use waybill_events::Position;

use crate::stack::SERVICES;

/// An event.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Where it stands.
    pub position: Position,
    /// Its id.
    pub event_id: Uuid,
    /// What it is ordered by.
    pub key: Uuid,
    /// The virtual partition of the key.
    pub partition: i16,
    /// Full name of its type.
    pub type_name: String,
    /// Protobuf.
    pub payload: Vec<u8>,
    /// When its writer wrote it.
    pub occurred_at: DateTime<Utc>,
}

/// The logs of all services, each in its order.
pub struct Logs(BTreeMap<&'static str, Vec<Entry>>);

#[derive(sqlx::FromRow)]
struct Row {
    generation: i64,
    xid: i64,
    position: i64,
    event_id: Uuid,
    partition_key: Uuid,
    vpartition: i16,
    r#type: String,
    payload: Vec<u8>,
    occurred_at: DateTime<Utc>,
}

impl Logs {
    /// Reads them.
    pub async fn read(db: &PgPool) -> anyhow::Result<Self> {
        let mut logs = BTreeMap::new();
        for service in SERVICES {
            // The name is a constant of ours.
            let sql = format!(
                "SELECT generation, xid::text::bigint AS xid, position, event_id, partition_key, vpartition, type, payload,
                        occurred_at
                 FROM \"{service}\".event_log ORDER BY generation, event_log.xid, position"
            );
            let rows: Vec<Row> = sqlx::query_as(AssertSqlSafe(sql))
                .fetch_all(db)
                .await
                .with_context(|| format!("the log of {service} cannot be read"))?;
            let entries = rows
                .into_iter()
                .map(|row| {
                    Ok(Entry {
                        position: Position {
                            generation: row.generation,
                            xid: u64::try_from(row.xid)?,
                            position: row.position,
                        },
                        event_id: row.event_id,
                        key: row.partition_key,
                        partition: row.vpartition,
                        type_name: row.r#type,
                        payload: row.payload,
                        occurred_at: row.occurred_at,
                    })
                })
                .collect::<anyhow::Result<_>>()?;
            logs.insert(service, entries);
        }
        Ok(Self(logs))
    }

    /// The log of a service.
    pub fn of(&self, service: &str) -> &[Entry] {
        self.0.get(service).map_or(&[], Vec::as_slice)
    }

    /// All events of all logs, with whose they are.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, &Entry)> {
        self.0
            .iter()
            .flat_map(|(service, entries)| entries.iter().map(move |entry| (*service, entry)))
    }
}
