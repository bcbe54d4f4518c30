//! Scans: which shipment they are about, what was heard before, what is new.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;
use waybill_kernel::id::{MerchantId, OrderId, ShipmentId, StoreId, TrackingEventId};
use waybill_store::StoreError;

use super::shipments::status;
use super::touched;
use crate::domain::tracking::{Scan, ScanKey, ShipmentStatus, Standing};

/// How a scan names its shipment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// By id.
    Id(ShipmentId),
    /// By carrier and number.
    Number(String, String),
}

/// A shipment as tracking sees it.
#[derive(Debug, Clone)]
pub struct Tracked {
    /// Its order.
    pub order: OrderId,
    /// Where it stands.
    pub standing: Standing,
    /// When it arrived, if it did.
    pub delivered_at: Option<DateTime<Utc>>,
    /// The carrier's key.
    pub carrier: String,
    /// Its version.
    pub version: i64,
}

/// A scan to be kept.
#[derive(Debug)]
pub struct NewScan<'a> {
    /// Its id.
    pub id: TrackingEventId,
    /// What was said.
    pub scan: &'a Scan,
    /// Where, as the carrier wrote it.
    pub location: &'a str,
    /// What the carrier wrote.
    pub description: &'a str,
}

/// The shipment and order of each reference, in their order; `None` where the store has no such shipment.
pub async fn resolve(
    conn: &mut PgConnection,
    merchant: MerchantId,
    store: StoreId,
    references: &[&Reference],
) -> Result<Vec<Option<(ShipmentId, OrderId)>>, StoreError> {
    let mut ids: Vec<Option<Uuid>> = Vec::with_capacity(references.len());
    let mut carriers: Vec<Option<&str>> = Vec::with_capacity(references.len());
    let mut numbers: Vec<Option<&str>> = Vec::with_capacity(references.len());
    for reference in references {
        let (id, carrier, number) = match reference {
            Reference::Id(id) => (Some(id.uuid()), None, None),
            Reference::Number(carrier, number) => (None, Some(carrier.as_str()), Some(number.as_str())),
        };
        ids.push(id);
        carriers.push(carrier);
        numbers.push(number);
    }
    // Two index look-ups per reference, of which one finds nothing to look for. Lateral and limited, so that they are
    // look-ups whatever the planner thinks of the table: a join of all shipments was its choice for the first ones.
    let rows: Vec<(Option<Uuid>, Option<Uuid>)> = sqlx::query_as(
        "SELECT coalesce(i.shipment_id, n.shipment_id), coalesce(i.order_id, n.order_id)
         FROM UNNEST($3::uuid[], $4::text[], $5::text[]) WITH ORDINALITY AS r (id, carrier, number, place)
         LEFT JOIN LATERAL (
             SELECT s.shipment_id, s.order_id FROM shipments s
             WHERE s.shipment_id = r.id AND s.merchant_id = $1 AND s.store_id = $2 LIMIT 1) i ON true
         LEFT JOIN LATERAL (
             SELECT s.shipment_id, s.order_id FROM shipments s
             WHERE s.merchant_id = $1 AND s.carrier = r.carrier AND s.tracking_number = r.number AND s.store_id = $2
             LIMIT 1) n ON true
         ORDER BY r.place",
    )
    .bind(merchant.uuid())
    .bind(store.uuid())
    .bind(ids)
    .bind(carriers)
    .bind(numbers)
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(shipment, order)| Some((ShipmentId::from(shipment?), OrderId::from(order?))))
        .collect())
}

/// Shipments whose orders are locked.
pub async fn standings(
    conn: &mut PgConnection,
    shipments: &BTreeSet<ShipmentId>,
) -> Result<BTreeMap<ShipmentId, Tracked>, StoreError> {
    #[derive(sqlx::FromRow)]
    struct Row {
        shipment_id: Uuid,
        order_id: Uuid,
        status: String,
        newest_scan_at: Option<DateTime<Utc>>,
        delivered_at: Option<DateTime<Utc>>,
        carrier: String,
        version: i64,
    }
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT shipment_id, order_id, status, newest_scan_at, delivered_at, carrier, version
         FROM shipments WHERE shipment_id = ANY ($1)",
    )
    .bind(shipments.iter().map(|id| id.uuid()).collect::<Vec<_>>())
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            let tracked = Tracked {
                order: row.order_id.into(),
                standing: Standing {
                    status: status(&row.status)?,
                    newest: row.newest_scan_at,
                },
                delivered_at: row.delivered_at,
                carrier: row.carrier,
                version: row.version,
            };
            Ok((row.shipment_id.into(), tracked))
        })
        .collect()
}

/// Which of the scans were heard before (F-9).
pub async fn heard_before(
    conn: &mut PgConnection,
    scans: &[Scan],
) -> Result<HashSet<(ShipmentId, ScanKey)>, StoreError> {
    let rows: Vec<(Uuid, String, DateTime<Utc>, String)> = sqlx::query_as(
        "SELECT t.shipment_id, t.status, t.occurred_at, t.source_event_id
         FROM UNNEST($1::uuid[], $2::text[], $3::timestamptz[], $4::text[])
              AS s (shipment_id, status, occurred_at, source_event_id)
         JOIN tracking_events t ON t.shipment_id = s.shipment_id AND t.source_event_id = s.source_event_id
         WHERE s.source_event_id <> '' AND t.source_event_id <> ''
         UNION ALL
         SELECT t.shipment_id, t.status, t.occurred_at, t.source_event_id
         FROM UNNEST($1::uuid[], $2::text[], $3::timestamptz[], $4::text[])
              AS s (shipment_id, status, occurred_at, source_event_id)
         JOIN tracking_events t ON t.shipment_id = s.shipment_id AND t.status = s.status
                               AND t.occurred_at = s.occurred_at
         WHERE s.source_event_id = '' AND t.source_event_id = ''",
    )
    .bind(scans.iter().map(|scan| scan.shipment.uuid()).collect::<Vec<_>>())
    .bind(scans.iter().map(|scan| scan.status.key()).collect::<Vec<_>>())
    .bind(scans.iter().map(|scan| scan.occurred_at).collect::<Vec<_>>())
    .bind(
        scans
            .iter()
            .map(|scan| scan.source_event_id.as_str())
            .collect::<Vec<_>>(),
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|(shipment, key, occurred_at, source_event_id)| {
            let key = if source_event_id.is_empty() {
                ScanKey::Said(status(&key)?, occurred_at)
            } else {
                ScanKey::Source(source_event_id)
            };
            Ok((shipment.into(), key))
        })
        .collect()
}

/// Keeps new scans; what a carrier wrote about an order whose customer was forgotten is left out (F-11). The orders are
/// locked.
pub async fn insert(
    conn: &mut PgConnection,
    scans: &[NewScan<'_>],
    recorded_at: DateTime<Utc>,
) -> Result<(), StoreError> {
    if scans.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO tracking_events (tracking_event_id, shipment_id, status, location, description, occurred_at,
                                      source_event_id, recorded_at)
         SELECT s.id, s.shipment_id, s.status, CASE WHEN e.erased THEN '' ELSE s.location END,
                CASE WHEN e.erased THEN '' ELSE s.description END, s.occurred_at, s.source_event_id, $8
         FROM UNNEST($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::text[])
              AS s (id, shipment_id, status, location, description, occurred_at, source_event_id)
         CROSS JOIN LATERAL (
             SELECT EXISTS (SELECT FROM shipments h JOIN orders o ON o.order_id = h.order_id
                            WHERE h.shipment_id = s.shipment_id AND o.contact_erased) AS erased
         ) e",
    )
    .bind(scans.iter().map(|new| new.id.uuid()).collect::<Vec<_>>())
    .bind(scans.iter().map(|new| new.scan.shipment.uuid()).collect::<Vec<_>>())
    .bind(scans.iter().map(|new| new.scan.status.key()).collect::<Vec<_>>())
    .bind(scans.iter().map(|new| new.location).collect::<Vec<_>>())
    .bind(scans.iter().map(|new| new.description).collect::<Vec<_>>())
    .bind(scans.iter().map(|new| new.scan.occurred_at).collect::<Vec<_>>())
    .bind(scans.iter().map(|new| new.scan.source_event_id.as_str()).collect::<Vec<_>>())
    .bind(recorded_at)
    .execute(conn)
    .await?;
    Ok(())
}

/// Empties what carriers wrote about the parcels of orders whose customer was forgotten (F-11): texts, and the address of
/// the carrier's page, which may carry a post code. The carrier's number stays: scans are recognised by it.
///
/// Locks the orders, so that a scan which is being kept meanwhile is either found here or finds the customer forgotten.
pub async fn forget(conn: &mut PgConnection, orders: &BTreeSet<OrderId>) -> Result<(), StoreError> {
    if orders.is_empty() {
        return Ok(());
    }
    let orders: Vec<Uuid> = orders.iter().map(|order| order.uuid()).collect();
    sqlx::query("SELECT FROM fulfillments WHERE order_id = ANY ($1) ORDER BY order_id FOR NO KEY UPDATE")
        .bind(&orders)
        .execute(&mut *conn)
        .await?;
    sqlx::query(
        "WITH parcels AS (
             UPDATE shipments SET tracking_url = '' WHERE order_id = ANY ($1) AND tracking_url <> ''
         )
         UPDATE tracking_events t SET location = '', description = ''
         FROM shipments s
         WHERE s.order_id = ANY ($1) AND t.shipment_id = s.shipment_id AND (t.location <> '' OR t.description <> '')",
    )
    .bind(&orders)
    .execute(conn)
    .await?;
    Ok(())
}

/// Writes where shipments stand now.
pub async fn save(
    conn: &mut PgConnection,
    shipments: &BTreeMap<ShipmentId, Tracked>,
) -> Result<(), StoreError> {
    if shipments.is_empty() {
        return Ok(());
    }
    let statuses: Vec<&str> = shipments
        .values()
        .map(|tracked| ShipmentStatus::key(tracked.standing.status))
        .collect();
    let done = sqlx::query(
        "UPDATE shipments s
         SET status = t.status, newest_scan_at = t.newest_scan_at, delivered_at = t.delivered_at, version = t.version,
             updated_at = now()
         FROM UNNEST($1::uuid[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::bigint[])
              AS t (shipment_id, status, newest_scan_at, delivered_at, version)
         WHERE s.shipment_id = t.shipment_id",
    )
    .bind(shipments.keys().map(|id| id.uuid()).collect::<Vec<_>>())
    .bind(statuses)
    .bind(shipments.values().map(|tracked| tracked.standing.newest).collect::<Vec<_>>())
    .bind(shipments.values().map(|tracked| tracked.delivered_at).collect::<Vec<_>>())
    .bind(shipments.values().map(|tracked| tracked.version).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    touched(shipments.len(), done.rows_affected(), "a shipment")
}
