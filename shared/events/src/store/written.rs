//! SQL that finds the events of one key by the transactions that wrote them: no index is needed but the log's own order,
//! whatever the size of the log.

use std::sync::Arc;

use sqlx::PgExecutor;
use uuid::Uuid;
use waybill_kernel::partition::partition_of;
use waybill_store::error::StoreError;

use super::log::LogRow;
use crate::event::Event;
use crate::position::Position;

// A transaction id is one of a generation, so each of them is asked. They are few.
pub(super) const WRITTEN: &str = "
    SELECT e.generation, e.xid::text::bigint AS xid, e.position, e.event_id, e.merchant_id, e.store_id, e.partition_key,
           e.vpartition, e.aggregate_id, e.aggregate_version, e.type, octet_length(e.payload) AS payload_bytes,
           e.payload, e.traceparent, e.occurred_at, e.actor, e.cause
    FROM log_identity i
    CROSS JOIN LATERAL generate_series(1, i.generation) AS g (generation)
    CROSS JOIN UNNEST($3::text[]::xid8[]) AS w (xid)
    CROSS JOIN LATERAL (
        SELECT * FROM event_log l
        WHERE l.vpartition = $1 AND l.generation = g.generation AND l.xid = w.xid AND l.partition_key = $2
        ORDER BY l.position
    ) e
    ORDER BY e.generation, e.xid, e.position";

/// The events of a key that were written by these transactions, in the log's order. `prev` is not looked up.
pub(crate) async fn written_by(
    executor: impl PgExecutor<'_>,
    source: &Arc<str>,
    key: Uuid,
    transactions: &[u64],
) -> Result<Vec<Event>, StoreError> {
    let rows: Vec<LogRow> = sqlx::query_as(WRITTEN)
        .bind(partition_of(key) as i16)
        .bind(key)
        .bind(transactions.iter().map(u64::to_string).collect::<Vec<_>>())
        .fetch_all(executor)
        .await?;
    (rows.into_iter())
        .map(|row| row.into_event(source, Position::ZERO))
        .collect()
}
