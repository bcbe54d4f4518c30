//! The timeline: writing entries, and reading them. Placements and changes write theirs with the order itself.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;
use waybill_kernel::id::OrderId;
use waybill_store::StoreError;

use super::rows::NewEntry;
use crate::domain::fact::TimelineEntry;
use crate::domain::order::Tenant;
use crate::domain::trail::{Hash, Link, digest};

/// The most entries of an order that are read.
const MOST: i64 = 1000;

/// Writes entries behind the ends of their orders' chains; one that is there already stays as it is (O-12). Returns the events
/// whose entry is new. The orders are locked, and their chains have begun ([`super::trail::lock`]).
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
    let entries: Vec<(OrderId, Tenant, &TimelineEntry)> = entries.into_iter().collect();
    let digests: Vec<Hash> = (entries.iter())
        .map(|(order, tenant, entry)| digest(*tenant, *order, entry))
        .collect();
    let new: Vec<Uuid> = sqlx::query_scalar(
        "WITH told AS (
             SELECT DISTINCT ON (t.order_id, t.event_id) t.*
             FROM UNNEST($1::new_order_entry[], $2::bytea[], $3::boolean[]) WITH ORDINALITY
                  AS t (order_id, merchant_id, store_id, event_id, service, type, summary, occurred_at, trace_id, subject_id,
                        actor, cause, learned_at, payload, digest, tentative, place)
             WHERE NOT t.tentative
                OR EXISTS (SELECT 1 FROM orders o
                           WHERE (o.order_id, o.merchant_id, o.store_id) = (t.order_id, t.merchant_id, t.store_id))
             ORDER BY t.order_id, t.event_id, t.place
         ),
         news AS (
             SELECT t.*, h.hash AS head, h.count + row_number() OVER (PARTITION BY t.order_id ORDER BY t.place) AS sequence
             FROM told t
             LEFT JOIN order_trails h USING (order_id)
             WHERE NOT EXISTS (SELECT 1 FROM order_timeline k WHERE (k.order_id, k.event_id) = (t.order_id, t.event_id))
         ),
         links AS (
             SELECT n.*, CASE WHEN n.sequence IS NOT NULL THEN
                             trail_chain(n.head, n.sequence, n.digest) OVER (PARTITION BY n.order_id ORDER BY n.place)
                         END AS hash
             FROM news n
         ),
         entries AS (
             INSERT INTO order_timeline (
                 order_id, merchant_id, store_id, event_id, service, type, summary, occurred_at, trace_id, subject_id,
                 actor, cause, learned_at, payload, sequence, hash)
             SELECT order_id, merchant_id, store_id, event_id, service, type, summary, occurred_at, trace_id, subject_id,
                    actor, cause, learned_at, payload, sequence, hash
             FROM links
             RETURNING event_id
         ),
         ends AS (
             UPDATE order_trails h SET count = l.sequence, hash = l.hash
             FROM (SELECT DISTINCT ON (order_id) order_id, sequence, hash FROM links ORDER BY order_id, sequence DESC) l
             WHERE h.order_id = l.order_id
         )
         SELECT event_id FROM entries",
    )
    .bind((entries.iter()).map(|(order, tenant, entry)| NewEntry::of(*tenant, *order, entry)).collect::<Vec<_>>())
    .bind(digests)
    .bind(tentative)
    .fetch_all(conn)
    .await?;
    Ok(new)
}

#[derive(sqlx::FromRow)]
pub(super) struct EntryRow {
    pub(super) order_id: Uuid,
    pub(super) merchant_id: Uuid,
    pub(super) store_id: Uuid,
    event_id: Uuid,
    service: String,
    #[sqlx(rename = "type")]
    type_name: String,
    summary: String,
    occurred_at: DateTime<Utc>,
    trace_id: String,
    subject_id: Option<Uuid>,
    actor: String,
    cause: String,
    learned_at: Option<DateTime<Utc>>,
    payload: Option<Vec<u8>>,
    sequence: Option<i64>,
    hash: Option<Vec<u8>>,
}

/// What every query of whole entries selects.
macro_rules! entry_columns {
    () => {
        "order_id, merchant_id, store_id, event_id, service, type, summary, occurred_at, trace_id, subject_id, actor, cause, \
         learned_at, payload, sequence, hash"
    };
}
pub(super) use entry_columns;

impl EntryRow {
    pub(super) fn tenant(&self) -> Tenant {
        Tenant {
            merchant: self.merchant_id.into(),
            store: self.store_id.into(),
        }
    }

    pub(super) fn entry(self) -> Result<TimelineEntry, StoreError> {
        Ok(TimelineEntry {
            event: self.event_id.into(),
            service: self.service,
            type_name: self.type_name,
            summary: self.summary,
            occurred_at: self.occurred_at,
            trace_id: self.trace_id,
            subject: self.subject_id,
            actor: self.actor,
            cause: self.cause,
            learned_at: self.learned_at,
            payload: self.payload,
            link: link(self.sequence, self.hash)?,
        })
    }
}

/// A place in a chain as the tables hold it.
pub(super) fn link(sequence: Option<i64>, hash: Option<Vec<u8>>) -> Result<Option<Link>, StoreError> {
    let link = sequence.zip(hash).map(|(sequence, hash)| {
        let hash =
            Hash::try_from(hash).map_err(|_| StoreError::decode("a hash of a timeline is no SHA-256"))?;
        Ok(Link { sequence, hash })
    });
    link.transpose()
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
    let rows: Vec<EntryRow> = sqlx::query_as(concat!(
        "SELECT ",
        entry_columns!(),
        " FROM order_timeline
         WHERE order_id = $1 AND merchant_id = $2 AND store_id = $3
         ORDER BY occurred_at DESC, event_id DESC
         LIMIT $4"
    ))
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
    rows.into_iter()
        .rev()
        .map(EntryRow::entry)
        .collect::<Result<_, _>>()
        .map(Some)
}
