//! Where the units of orders stand: the row that is the lock of an order, and its reservations.
//!
//! Reservations belong to a sku as well as to an order: they are only changed under both locks.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::PgConnection;
use uuid::Uuid;
use waybill_kernel::id::{LineId, LocationId, MerchantId, OrderId, StoreId};
use waybill_store::StoreError;

use super::stock::{LockedSkus, StockKey};
use super::touched;
use crate::domain::allocation::Take;
use crate::domain::progress::Progress;
use crate::domain::release::Held;
use crate::domain::shipment::Allocation;
use crate::domain::shipping::Reservation;
use crate::domain::stock::Sku;

/// An order as the warehouse sees it, locked.
#[derive(Debug, Clone)]
pub struct OrderRow {
    /// Whose it is.
    pub merchant: MerchantId,
    /// Where it was placed.
    pub store: StoreId,
    /// Where its units stand.
    pub progress: Progress,
}

#[derive(sqlx::FromRow)]
struct ProgressRow {
    units: i64,
    waiting: i64,
    reserved: i64,
    shipped: i64,
    released: i64,
    delivered: i64,
    cancelled: bool,
}

impl ProgressRow {
    fn progress(&self) -> Progress {
        Progress {
            units: self.units,
            waiting: self.waiting,
            reserved: self.reserved,
            shipped: self.shipped,
            released: self.released,
            delivered: self.delivered,
            cancelled: self.cancelled,
        }
    }
}

/// Locks orders, in one order for everybody, and reads them. Call it once per transaction, for all orders that it will
/// change. Orders the warehouse has not taken in are not in the answer.
pub async fn lock(
    conn: &mut PgConnection,
    orders: &BTreeSet<OrderId>,
) -> Result<BTreeMap<OrderId, OrderRow>, StoreError> {
    if orders.is_empty() {
        return Ok(BTreeMap::new());
    }
    #[derive(sqlx::FromRow)]
    struct Row {
        order_id: Uuid,
        merchant_id: Uuid,
        store_id: Uuid,
        #[sqlx(flatten)]
        progress: ProgressRow,
    }
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT order_id, merchant_id, store_id, units, waiting, reserved, shipped, released, delivered, cancelled
         FROM fulfillments WHERE order_id = ANY ($1)
         ORDER BY order_id
         FOR NO KEY UPDATE",
    )
    .bind(orders.iter().map(|order| order.uuid()).collect::<Vec<_>>())
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let order = OrderRow {
                merchant: row.merchant_id.into(),
                store: row.store_id.into(),
                progress: row.progress.progress(),
            };
            (row.order_id.into(), order)
        })
        .collect())
}

/// Takes in new orders. One that is there already is an error: the fold hands out each order once.
pub async fn insert(conn: &mut PgConnection, orders: &BTreeMap<OrderId, OrderRow>) -> Result<(), StoreError> {
    if orders.is_empty() {
        return Ok(());
    }
    let of = |column: fn(&Progress) -> i64| {
        orders
            .values()
            .map(|row| column(&row.progress))
            .collect::<Vec<_>>()
    };
    sqlx::query(
        "INSERT INTO fulfillments (order_id, merchant_id, store_id, units, waiting, reserved, released, cancelled)
         SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::uuid[], $4::bigint[], $5::bigint[], $6::bigint[],
                              $7::bigint[], $8::boolean[])",
    )
    .bind(orders.keys().map(|order| order.uuid()).collect::<Vec<_>>())
    .bind(orders.values().map(|row| row.merchant.uuid()).collect::<Vec<_>>())
    .bind(orders.values().map(|row| row.store.uuid()).collect::<Vec<_>>())
    .bind(of(|p| p.units))
    .bind(of(|p| p.waiting))
    .bind(of(|p| p.reserved))
    .bind(of(|p| p.released))
    .bind(orders.values().map(|row| row.progress.cancelled).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

/// Writes where the units of locked orders stand now; answers with the new version of each.
pub async fn save(
    conn: &mut PgConnection,
    orders: &BTreeMap<OrderId, Progress>,
) -> Result<BTreeMap<OrderId, i64>, StoreError> {
    if orders.is_empty() {
        return Ok(BTreeMap::new());
    }
    let of = |column: fn(&Progress) -> i64| orders.values().map(column).collect::<Vec<_>>();
    let versions: Vec<(Uuid, i64)> = sqlx::query_as(
        "UPDATE fulfillments f
         SET units = p.units, waiting = p.waiting, reserved = p.reserved, shipped = p.shipped, released = p.released,
             delivered = p.delivered, cancelled = p.cancelled, updated_at = now()
         FROM UNNEST($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::boolean[],
                     $8::bigint[])
              AS p (order_id, waiting, reserved, shipped, released, delivered, cancelled, units)
         WHERE f.order_id = p.order_id
         RETURNING f.order_id, f.version",
    )
    .bind(orders.keys().map(|order| order.uuid()).collect::<Vec<_>>())
    .bind(of(|p| p.waiting))
    .bind(of(|p| p.reserved))
    .bind(of(|p| p.shipped))
    .bind(of(|p| p.released))
    .bind(of(|p| p.delivered))
    .bind(orders.values().map(|p| p.cancelled).collect::<Vec<_>>())
    .bind(of(|p| p.units))
    .fetch_all(conn)
    .await?;
    touched(orders.len(), versions.len() as u64, "an order")?;
    Ok(versions
        .into_iter()
        .map(|(order, version)| (order.into(), version))
        .collect())
}

/// Where the units of an order stand, and what is reserved for it and waits, in the order of its lines. One statement,
/// so that the parts fit together without a lock.
pub async fn read(
    conn: &mut PgConnection,
    order: OrderId,
) -> Result<Option<(Progress, Vec<Allocation>)>, StoreError> {
    #[derive(sqlx::FromRow)]
    struct Row {
        #[sqlx(flatten)]
        progress: ProgressRow,
        line_id: Option<Uuid>,
        sku: Option<String>,
        location_id: Option<Uuid>,
        allocated: Option<i64>,
    }
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT f.units, f.waiting, f.reserved, f.shipped, f.released, f.delivered, f.cancelled,
                a.line_id, a.sku, a.location_id, a.units AS allocated
         FROM fulfillments f
         LEFT JOIN (SELECT order_id, line_id, sku, location_id, units FROM reservations
                    UNION ALL
                    SELECT order_id, line_id, sku, NULL, units FROM backorders) a USING (order_id)
         LEFT JOIN order_lines l ON l.order_id = f.order_id AND l.line_id = a.line_id
         LEFT JOIN locations p ON p.location_id = a.location_id
         WHERE f.order_id = $1
         ORDER BY l.line_no, p.priority NULLS LAST, a.location_id",
    )
    .bind(order.uuid())
    .fetch_all(conn)
    .await?;
    let Some(first) = rows.first() else {
        return Ok(None);
    };
    let progress = first.progress.progress();
    let allocations = rows
        .into_iter()
        .filter_map(|row| {
            Some(Allocation {
                line: row.line_id?.into(),
                sku: Sku::known(row.sku?),
                location: row.location_id.map(LocationId::from),
                units: row.allocated?,
            })
        })
        .collect();
    Ok(Some((progress, allocations)))
}

/// What is reserved for an order, in the order of its lines.
pub async fn reservations(
    conn: &mut PgConnection,
    _locked: &LockedSkus,
    order: OrderId,
) -> Result<Vec<Reservation>, StoreError> {
    let rows: Vec<(Uuid, String, Uuid, i32, i64)> = sqlx::query_as(
        "SELECT r.line_id, r.sku, r.location_id, p.priority, r.units
         FROM reservations r
         JOIN locations p USING (location_id)
         LEFT JOIN order_lines l ON l.order_id = r.order_id AND l.line_id = r.line_id
         WHERE r.order_id = $1
         ORDER BY l.line_no",
    )
    .bind(order.uuid())
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(line, sku, location, priority, units)| Reservation {
            line: line.into(),
            sku: Sku::known(sku),
            location: location.into(),
            priority,
            units,
        })
        .collect())
}

/// Notes what locations gave to lines.
pub async fn reserve(
    conn: &mut PgConnection,
    _locked: &LockedSkus,
    takes: &[(OrderId, MerchantId, &Take)],
) -> Result<(), StoreError> {
    if takes.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO reservations AS r (order_id, line_id, location_id, merchant_id, sku, units)
         SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::bigint[])
         ON CONFLICT (order_id, line_id, location_id) DO UPDATE SET units = r.units + excluded.units",
    )
    .bind(takes.iter().map(|(order, _, _)| order.uuid()).collect::<Vec<_>>())
    .bind(
        takes
            .iter()
            .map(|(_, _, take)| take.line.uuid())
            .collect::<Vec<_>>(),
    )
    .bind(
        takes
            .iter()
            .map(|(_, _, take)| take.location.uuid())
            .collect::<Vec<_>>(),
    )
    .bind(
        takes
            .iter()
            .map(|(_, merchant, _)| merchant.uuid())
            .collect::<Vec<_>>(),
    )
    .bind(
        takes
            .iter()
            .map(|(_, _, take)| take.sku.as_str())
            .collect::<Vec<_>>(),
    )
    .bind(takes.iter().map(|(_, _, take)| take.units).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

/// Takes units out of the reservations of an order at a location, because they ship.
pub async fn use_up(
    conn: &mut PgConnection,
    _locked: &LockedSkus,
    order: OrderId,
    location: LocationId,
    lines: &[(LineId, i64)],
) -> Result<(), StoreError> {
    let (ids, units): (Vec<Uuid>, Vec<i64>) = lines.iter().map(|(line, units)| (line.uuid(), *units)).unzip();
    let rows: i64 = sqlx::query_scalar(
        "WITH used AS (SELECT * FROM UNNEST($3::uuid[], $4::bigint[]) AS u (line_id, units)),
         gone AS (DELETE FROM reservations r USING used u
                  WHERE r.order_id = $1 AND r.location_id = $2 AND r.line_id = u.line_id AND r.units = u.units
                  RETURNING 1),
         less AS (UPDATE reservations r SET units = r.units - u.units FROM used u
                  WHERE r.order_id = $1 AND r.location_id = $2 AND r.line_id = u.line_id AND r.units > u.units
                  RETURNING 1)
         SELECT (SELECT count(*) FROM gone) + (SELECT count(*) FROM less)",
    )
    .bind(order.uuid())
    .bind(location.uuid())
    .bind(ids)
    .bind(units)
    .fetch_one(conn)
    .await?;
    touched(lines.len(), rows.unsigned_abs(), "a reservation")
}

/// Units that orders have reserved, by where.
pub async fn reserved_by(
    conn: &mut PgConnection,
    _locked: &LockedSkus,
    orders: &[OrderId],
) -> Result<BTreeMap<StockKey, i64>, StoreError> {
    if orders.is_empty() {
        return Ok(BTreeMap::new());
    }
    let rows: Vec<(Uuid, String, Uuid, i64)> = sqlx::query_as(
        "SELECT merchant_id, sku, location_id, sum(units)::bigint FROM reservations
         WHERE order_id = ANY ($1) GROUP BY merchant_id, sku, location_id",
    )
    .bind(orders.iter().map(|order| order.uuid()).collect::<Vec<_>>())
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(merchant, sku, location, units)| ((merchant.into(), Sku::known(sku), location.into()), units))
        .collect())
}

/// What is reserved for these lines, with the stock it is part of.
pub async fn held_by(
    conn: &mut PgConnection,
    _locked: &LockedSkus,
    lines: &[(OrderId, LineId)],
) -> Result<Vec<(Held, StockKey)>, StoreError> {
    let (orders, ids): (Vec<Uuid>, Vec<Uuid>) = lines
        .iter()
        .map(|(order, line)| (order.uuid(), line.uuid()))
        .unzip();
    let rows: Vec<(Uuid, Uuid, Uuid, i32, i64, Uuid, String)> = sqlx::query_as(
        "SELECT r.order_id, r.line_id, r.location_id, p.priority, r.units, r.merchant_id, r.sku
         FROM UNNEST($1::uuid[], $2::uuid[]) AS k (order_id, line_id)
         JOIN reservations r USING (order_id, line_id)
         JOIN locations p USING (location_id)",
    )
    .bind(orders)
    .bind(ids)
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(order, line, location, priority, units, merchant, sku)| {
            let held = Held {
                order: order.into(),
                line: line.into(),
                location: location.into(),
                priority,
                units,
            };
            (held, (merchant.into(), Sku::known(sku), location.into()))
        })
        .collect())
}

/// Takes units out of reservations: (order, line, location, units).
pub async fn give_back(
    conn: &mut PgConnection,
    _locked: &LockedSkus,
    units: &[(OrderId, LineId, LocationId, i64)],
) -> Result<(), StoreError> {
    if units.is_empty() {
        return Ok(());
    }
    let rows: i64 = sqlx::query_scalar(
        "WITH back AS (SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::uuid[], $4::bigint[])
                           AS b (order_id, line_id, location_id, units)),
         gone AS (DELETE FROM reservations r USING back b
                  WHERE (r.order_id, r.line_id, r.location_id) = (b.order_id, b.line_id, b.location_id)
                    AND r.units = b.units
                  RETURNING 1),
         less AS (UPDATE reservations r SET units = r.units - b.units FROM back b
                  WHERE (r.order_id, r.line_id, r.location_id) = (b.order_id, b.line_id, b.location_id)
                    AND r.units > b.units
                  RETURNING 1)
         SELECT (SELECT count(*) FROM gone) + (SELECT count(*) FROM less)",
    )
    .bind(units.iter().map(|(order, ..)| order.uuid()).collect::<Vec<_>>())
    .bind(units.iter().map(|(_, line, ..)| line.uuid()).collect::<Vec<_>>())
    .bind(
        units
            .iter()
            .map(|(_, _, location, _)| location.uuid())
            .collect::<Vec<_>>(),
    )
    .bind(units.iter().map(|(.., units)| *units).collect::<Vec<_>>())
    .fetch_one(conn)
    .await?;
    touched(units.len(), rows.unsigned_abs(), "a reservation")
}

/// Lets go of everything that orders have reserved or wait for.
pub async fn let_go(
    conn: &mut PgConnection,
    _locked: &LockedSkus,
    orders: &[OrderId],
) -> Result<(), StoreError> {
    if orders.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "WITH waiting AS (DELETE FROM backorders WHERE order_id = ANY ($1))
         DELETE FROM reservations WHERE order_id = ANY ($1)",
    )
    .bind(orders.iter().map(|order| order.uuid()).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}
