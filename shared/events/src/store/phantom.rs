//! SQL of a consumer whose producer lost events: what it had applied of them, and where it goes on.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection, PgExecutor};
use uuid::Uuid;
use waybill_store::error::StoreError;

use crate::fold::Phantom;
use crate::position::Position;

/// Lists phantoms of one partition.
pub(crate) async fn list(
    conn: &mut PgConnection,
    consumer: &str,
    rewound_to: i64,
    phantoms: &[Phantom],
) -> Result<(), StoreError> {
    let ats = |f: fn(&Position) -> i64| phantoms.iter().map(|p| f(&p.position)).collect::<Vec<_>>();
    let afters = |f: fn(&Position) -> i64| {
        phantoms
            .iter()
            .map(|p| p.after.as_ref().map(f))
            .collect::<Vec<_>>()
    };
    sqlx::query(
        "INSERT INTO fold_phantom (consumer, source, vpartition, rewound_to, event_id, type, key, generation, xid, position,
                                   after_generation, after_xid, after_position, count)
         SELECT $1, p.source, p.vpartition, $2, p.event_id, p.type, p.key, p.generation, p.xid::text::xid8, p.position,
                p.after_generation, p.after_xid::text::xid8, p.after_position, p.count
         FROM UNNEST($3::text[], $4::smallint[], $5::uuid[], $6::text[], $7::uuid[], $8::bigint[], $9::bigint[],
                     $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[]) WITH ORDINALITY
              AS p (source, vpartition, event_id, type, key, generation, xid, position, after_generation, after_xid,
                    after_position, count, place)
         ORDER BY p.place",
    )
    .bind(consumer)
    .bind(rewound_to)
    .bind(phantoms.iter().map(|p| &*p.source).collect::<Vec<_>>())
    .bind(phantoms.iter().map(|p| p.vpartition as i16).collect::<Vec<_>>())
    .bind(
        phantoms
            .iter()
            .map(|p| p.event_id.map(|id| id.uuid()))
            .collect::<Vec<_>>(),
    )
    .bind(
        phantoms
            .iter()
            .map(|p| p.event_id.map(|_| p.type_name.as_str()))
            .collect::<Vec<_>>(),
    )
    .bind(phantoms.iter().map(|p| p.key).collect::<Vec<_>>())
    .bind(ats(|at| at.generation))
    .bind(ats(|at| at.xid as i64))
    .bind(ats(|at| at.position))
    .bind(afters(|at| at.generation))
    .bind(afters(|at| at.xid as i64))
    .bind(afters(|at| at.position))
    .bind(phantoms.iter().map(|p| p.count).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

/// Events that wait or are parked or dead have not taken effect: those that are gone need not any more.
pub(crate) async fn forget(
    conn: &mut PgConnection,
    consumer: &str,
    source: &str,
    vpartition: u16,
    events: &[Uuid],
) -> Result<(), StoreError> {
    sqlx::query(
        "DELETE FROM fold_dead_letter WHERE consumer = $1 AND source = $2 AND vpartition = $3 AND event_id = ANY ($4)",
    )
    .bind(consumer)
    .bind(source)
    .bind(vpartition as i16)
    .bind(events)
    .execute(conn)
    .await?;
    Ok(())
}

/// The events of one partition of one log that wait.
pub(crate) async fn waiting(
    conn: &mut PgConnection,
    consumer: &str,
    source: &str,
    vpartition: u16,
) -> Result<Vec<(i64, Vec<u8>)>, StoreError> {
    Ok(sqlx::query_as(
        "SELECT id, event FROM fold_waiting WHERE consumer = $1 AND source = $2 AND vpartition = $3 ORDER BY id",
    )
    .bind(consumer)
    .bind(source)
    .bind(vpartition as i16)
    .fetch_all(conn)
    .await?)
}

/// A phantom as it is listed.
#[derive(Debug, FromRow)]
pub(crate) struct PhantomRow {
    pub id: i64,
    pub consumer: String,
    pub source: String,
    pub vpartition: i16,
    pub rewound_to: i64,
    pub event_id: Option<Uuid>,
    #[sqlx(rename = "type")]
    pub type_name: Option<String>,
    pub key: Option<Uuid>,
    pub generation: i64,
    pub xid: i64,
    pub position: i64,
    pub after_generation: Option<i64>,
    pub after_xid: Option<i64>,
    pub after_position: Option<i64>,
    pub count: i64,
    pub found_at: DateTime<Utc>,
}

/// Phantoms after a row, oldest first.
pub(crate) async fn page(
    executor: impl PgExecutor<'_>,
    source: Option<&str>,
    after: i64,
    limit: i64,
) -> Result<Vec<PhantomRow>, StoreError> {
    Ok(sqlx::query_as(
        "SELECT id, consumer, source, vpartition, rewound_to, event_id, type, key, generation, xid::text::bigint AS xid,
                position, after_generation, after_xid::text::bigint AS after_xid, after_position, count, found_at
         FROM fold_phantom WHERE id > $2 AND ($1::text IS NULL OR source = $1) ORDER BY id LIMIT $3",
    )
    .bind(source)
    .bind(after)
    .bind(limit)
    .fetch_all(executor)
    .await?)
}
