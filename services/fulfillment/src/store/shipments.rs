//! Shipments and what is in them.
//!
//! They are only made and changed under the lock of their order.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;
use waybill_kernel::id::{LineId, MerchantId, OrderId, ShipmentId, StoreId};
use waybill_store::StoreError;

use super::stock::{LockedSkus, StockKey};
use super::touched;
use crate::domain::restock::Away;
use crate::domain::shipment::{Parcel, Shipment, TrackingEvent};
use crate::domain::stock::Sku;
use crate::domain::tracking::ShipmentStatus;

#[derive(sqlx::FromRow)]
struct Row {
    shipment_id: Uuid,
    order_id: Uuid,
    location_id: Uuid,
    status: String,
    carrier: String,
    service: String,
    tracking_number: String,
    tracking_url: String,
    shipped_at: DateTime<Utc>,
    delivered_at: Option<DateTime<Utc>>,
    version: i64,
}

/// Reads a status that we wrote.
pub(super) fn status(key: &str) -> Result<ShipmentStatus, StoreError> {
    ShipmentStatus::from_key(key)
        .ok_or_else(|| StoreError::decode(format!("shipment status {key:?} is not known")))
}

/// Writes a new shipment with its lines.
pub async fn insert(
    conn: &mut PgConnection,
    merchant: MerchantId,
    store: StoreId,
    shipment: &Shipment,
) -> Result<(), StoreError> {
    let (lines, skus): (Vec<Uuid>, Vec<&str>) = shipment
        .parcels
        .iter()
        .map(|parcel| (parcel.line.uuid(), parcel.sku.as_str()))
        .unzip();
    sqlx::query(
        "WITH shipment AS (
             INSERT INTO shipments (shipment_id, merchant_id, store_id, order_id, location_id, status, carrier, service,
                                    tracking_number, tracking_url, shipped_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
         )
         INSERT INTO shipment_lines (shipment_id, line_id, sku, units)
         SELECT $1, l.line_id, l.sku, l.units
         FROM UNNEST($12::uuid[], $13::text[], $14::bigint[]) AS l (line_id, sku, units)",
    )
    .bind(shipment.id.uuid())
    .bind(merchant.uuid())
    .bind(store.uuid())
    .bind(shipment.order.uuid())
    .bind(shipment.location.uuid())
    .bind(shipment.status.key())
    .bind(&shipment.carrier)
    .bind(&shipment.service)
    .bind(&shipment.tracking_number)
    .bind(&shipment.tracking_url)
    .bind(shipment.shipped_at)
    .bind(lines)
    .bind(skus)
    .bind(shipment.parcels.iter().map(|parcel| parcel.units).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

/// The shipments of the store among these ids, in no order.
pub async fn by_ids(
    pool: &PgPool,
    merchant: MerchantId,
    store: StoreId,
    ids: &[ShipmentId],
) -> Result<Vec<Shipment>, StoreError> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT shipment_id, order_id, location_id, status, carrier, service, tracking_number, tracking_url, shipped_at,
                delivered_at, version
         FROM shipments WHERE shipment_id = ANY ($3) AND merchant_id = $1 AND store_id = $2",
    )
    .bind(merchant.uuid())
    .bind(store.uuid())
    .bind(ids.iter().map(|id| id.uuid()).collect::<Vec<_>>())
    .fetch_all(pool)
    .await?;
    with_parcels(pool, rows).await
}

/// A page of the store's shipments, newest first; of one order or of all.
pub async fn page(
    pool: &PgPool,
    merchant: MerchantId,
    store: StoreId,
    order: Option<OrderId>,
    before: Option<ShipmentId>,
    limit: i64,
) -> Result<Vec<Shipment>, StoreError> {
    let before = before.map_or(Uuid::max(), ShipmentId::uuid);
    let query = match order {
        None => sqlx::query_as(
            "SELECT shipment_id, order_id, location_id, status, carrier, service, tracking_number, tracking_url,
                    shipped_at, delivered_at, version
             FROM shipments WHERE merchant_id = $1 AND store_id = $2 AND shipment_id < $3
             ORDER BY shipment_id DESC LIMIT $4",
        ),
        Some(_) => sqlx::query_as(
            "SELECT shipment_id, order_id, location_id, status, carrier, service, tracking_number, tracking_url,
                    shipped_at, delivered_at, version
             FROM shipments WHERE merchant_id = $1 AND store_id = $2 AND shipment_id < $3 AND order_id = $5
             ORDER BY shipment_id DESC LIMIT $4",
        ),
    };
    let query = query
        .bind(merchant.uuid())
        .bind(store.uuid())
        .bind(before)
        .bind(limit);
    let rows: Vec<Row> = match order {
        None => query,
        Some(order) => query.bind(order.uuid()),
    }
    .fetch_all(pool)
    .await?;
    with_parcels(pool, rows).await
}

async fn with_parcels(pool: &PgPool, rows: Vec<Row>) -> Result<Vec<Shipment>, StoreError> {
    let ids: Vec<Uuid> = rows.iter().map(|row| row.shipment_id).collect();
    let mut parcels = parcels(pool, &ids).await?;
    rows.into_iter()
        .map(|row| {
            let id = ShipmentId::from(row.shipment_id);
            Ok(Shipment {
                id,
                order: row.order_id.into(),
                location: row.location_id.into(),
                status: status(&row.status)?,
                parcels: parcels.remove(&id).unwrap_or_default(),
                carrier: row.carrier,
                service: row.service,
                tracking_number: row.tracking_number,
                tracking_url: row.tracking_url,
                shipped_at: row.shipped_at,
                delivered_at: row.delivered_at,
                version: row.version,
            })
        })
        .collect()
}

/// What is in shipments, in the order of the order's lines.
pub async fn parcels<'e>(
    db: impl sqlx::PgExecutor<'e>,
    ids: &[Uuid],
) -> Result<HashMap<ShipmentId, Vec<Parcel>>, StoreError> {
    let rows: Vec<(Uuid, Uuid, String, i64)> = sqlx::query_as(
        "SELECT p.shipment_id, p.line_id, p.sku, p.units
         FROM shipment_lines p
         JOIN shipments s USING (shipment_id)
         LEFT JOIN order_lines l ON l.order_id = s.order_id AND l.line_id = p.line_id
         WHERE p.shipment_id = ANY ($1)
         ORDER BY p.shipment_id, l.line_no",
    )
    .bind(ids)
    .fetch_all(db)
    .await?;
    let mut parcels: HashMap<ShipmentId, Vec<Parcel>> = HashMap::new();
    for (shipment, line, sku, units) in rows {
        let parcel = Parcel {
            line: line.into(),
            sku: Sku::known(sku),
            units,
        };
        parcels.entry(shipment.into()).or_default().push(parcel);
    }
    Ok(parcels)
}

/// What a carrier said about a shipment, oldest first, the newest `limit` of it.
pub async fn tracking_events(
    pool: &PgPool,
    shipment: ShipmentId,
    limit: i64,
) -> Result<Vec<TrackingEvent>, StoreError> {
    type Columns = (Uuid, String, String, String, DateTime<Utc>, DateTime<Utc>);
    let rows: Vec<Columns> = sqlx::query_as(
        "SELECT tracking_event_id, status, location, description, occurred_at, recorded_at
         FROM (SELECT * FROM tracking_events WHERE shipment_id = $1
               ORDER BY occurred_at DESC, tracking_event_id DESC LIMIT $2) newest
         ORDER BY occurred_at, tracking_event_id",
    )
    .bind(shipment.uuid())
    .bind(limit)
    .fetch_all(pool)
    .await?;
    rows.into_iter()
        .map(|(id, key, location, description, occurred_at, recorded_at)| {
            Ok(TrackingEvent {
                id: id.into(),
                status: status(&key)?,
                location,
                description,
                occurred_at,
                recorded_at,
            })
        })
        .collect()
}

/// What of these lines has shipped and has not come back, and where it lay; oldest shipment first.
pub async fn still_away(
    conn: &mut PgConnection,
    _locked: &LockedSkus,
    lines: &BTreeMap<(OrderId, LineId), i64>,
) -> Result<Vec<(Away, StockKey)>, StoreError> {
    if lines.is_empty() {
        return Ok(Vec::new());
    }
    let (orders, ids): (Vec<Uuid>, Vec<Uuid>) = lines
        .keys()
        .map(|(order, line)| (order.uuid(), line.uuid()))
        .unzip();
    let rows: Vec<(Uuid, Uuid, Uuid, Uuid, String, Uuid, i64)> = sqlx::query_as(
        "SELECT s.order_id, p.line_id, s.shipment_id, s.merchant_id, p.sku, s.location_id, p.units - p.restocked
         FROM UNNEST($1::uuid[], $2::uuid[]) AS k (order_id, line_id)
         JOIN shipments s USING (order_id)
         JOIN shipment_lines p ON p.shipment_id = s.shipment_id AND p.line_id = k.line_id
         WHERE p.restocked < p.units
         ORDER BY s.shipment_id",
    )
    .bind(orders)
    .bind(ids)
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(order, line, shipment, merchant, sku, location, units)| {
            let away = Away {
                order: order.into(),
                line: line.into(),
                shipment: shipment.into(),
                units,
            };
            (away, (merchant.into(), Sku::known(sku), location.into()))
        })
        .collect())
}

/// When the last shipment of each order arrived, of those that have one that did.
pub async fn last_arrivals(
    conn: &mut PgConnection,
    orders: &[OrderId],
) -> Result<BTreeMap<OrderId, DateTime<Utc>>, StoreError> {
    if orders.is_empty() {
        return Ok(BTreeMap::new());
    }
    let rows: Vec<(Uuid, DateTime<Utc>)> = sqlx::query_as(
        "SELECT order_id, max(delivered_at) FROM shipments
         WHERE order_id = ANY ($1) AND delivered_at IS NOT NULL GROUP BY order_id",
    )
    .bind(orders.iter().map(|order| order.uuid()).collect::<Vec<_>>())
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|(order, at)| (order.into(), at)).collect())
}

/// Notes units that came back and lie in the building again (F-10).
pub async fn restock(
    conn: &mut PgConnection,
    _locked: &LockedSkus,
    back: &[(ShipmentId, LineId, i64)],
) -> Result<(), StoreError> {
    if back.is_empty() {
        return Ok(());
    }
    let done = sqlx::query(
        "UPDATE shipment_lines p SET restocked = p.restocked + b.units
         FROM UNNEST($1::uuid[], $2::uuid[], $3::bigint[]) AS b (shipment_id, line_id, units)
         WHERE p.shipment_id = b.shipment_id AND p.line_id = b.line_id",
    )
    .bind(
        back.iter()
            .map(|(shipment, _, _)| shipment.uuid())
            .collect::<Vec<_>>(),
    )
    .bind(back.iter().map(|(_, line, _)| line.uuid()).collect::<Vec<_>>())
    .bind(back.iter().map(|(_, _, units)| *units).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    touched(back.len(), done.rows_affected(), "a shipment line")
}
