//! The timeline: entries of this service's own events, and reading it.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;
use waybill_kernel::id::OrderId;
use waybill_store::StoreError;

use super::columns::Entries;
use crate::domain::fact::TimelineEntry;
use crate::domain::order::Tenant;

/// The most entries of an order that are read.
const MOST: i64 = 1000;

/// Writes entries; one that is there already stays as it is (O-12). Returns the events whose entry is new.
///
/// An order that does not exist, or that belongs to another tenant, is refused by the foreign key, unless the entry is
/// only `tentative`: then it is left out.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn record<'a>(
    conn: &mut PgConnection,
    entries: impl IntoIterator<Item = (OrderId, Tenant, &'a TimelineEntry)>,
    tentative: Vec<bool>,
) -> Result<Vec<Uuid>, StoreError> {
    let query = sqlx::query_scalar(
        "INSERT INTO order_timeline (
             order_id, merchant_id, store_id, event_id, service, type, summary, occurred_at, trace_id, subject_id)
         SELECT t.order_id, t.merchant_id, t.store_id, t.event_id, t.service, t.type, t.summary, t.occurred_at, t.trace_id,
                t.subject_id
         FROM UNNEST($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::text[], $7::text[],
                     $8::timestamptz[], $9::text[], $10::uuid[], $11::boolean[])
              AS t (order_id, merchant_id, store_id, event_id, service, type, summary, occurred_at, trace_id, subject_id,
                    tentative)
         WHERE NOT t.tentative
            OR EXISTS (SELECT 1 FROM orders o
                       WHERE (o.order_id, o.merchant_id, o.store_id) = (t.order_id, t.merchant_id, t.store_id))
         ON CONFLICT (order_id, event_id) DO NOTHING
         RETURNING event_id",
    );
    Ok(Entries::of(entries)
        .bind(query)
        .bind(tentative)
        .fetch_all(conn)
        .await?)
}

#[derive(sqlx::FromRow)]
struct EntryRow {
    event_id: Uuid,
    service: String,
    #[sqlx(rename = "type")]
    type_name: String,
    summary: String,
    occurred_at: DateTime<Utc>,
    trace_id: String,
    subject_id: Option<Uuid>,
}

/// The timeline of an order, oldest first; of a longer one the latest thousand entries. `None` when there is no such
/// order.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn timeline(
    executor: impl PgExecutor<'_>,
    tenant: Tenant,
    order: OrderId,
) -> Result<Option<Vec<TimelineEntry>>, StoreError> {
    let rows: Vec<EntryRow> = sqlx::query_as(
        "SELECT event_id, service, type, summary, occurred_at, trace_id, subject_id
         FROM order_timeline
         WHERE order_id = $1 AND merchant_id = $2 AND store_id = $3
         ORDER BY occurred_at DESC, event_id DESC
         LIMIT $4",
    )
    .bind(order.uuid())
    .bind(tenant.merchant.uuid())
    .bind(tenant.store.uuid())
    .bind(MOST)
    .fetch_all(executor)
    .await?;
    // Each order has at least the entry of its placement.
    if rows.is_empty() {
        return Ok(None);
    }
    let entries = rows.into_iter().rev().map(|row| TimelineEntry {
        event: row.event_id.into(),
        service: row.service,
        type_name: row.type_name,
        summary: row.summary,
        occurred_at: row.occurred_at,
        trace_id: row.trace_id,
        subject: row.subject_id,
    });
    Ok(Some(entries.collect()))
}
