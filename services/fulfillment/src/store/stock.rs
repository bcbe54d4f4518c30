//! Locations, skus and stock levels.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::{PgConnection, PgPool};
use uuid::Uuid;
use waybill_kernel::id::{LocationId, MerchantId};
use waybill_store::StoreError;

use super::touched;
use crate::domain::shipment::Location;
use crate::domain::stock::{Level, Sku, StockLevel};

/// What a stock level is the level of.
pub type StockKey = (MerchantId, Sku, LocationId);

/// The right to read stock, reservations and backorders of some skus in order to change them (F-2). It ends with the
/// transaction.
#[derive(Debug)]
pub struct LockedSkus(BTreeSet<(MerchantId, Sku)>);

impl LockedSkus {
    /// Whether all of these are among them.
    pub fn cover(&self, skus: &BTreeSet<(MerchantId, Sku)>) -> bool {
        skus.is_subset(&self.0)
    }

    fn columns(&self) -> (Vec<Uuid>, Vec<&str>) {
        self.0
            .iter()
            .map(|(merchant, sku)| (merchant.uuid(), sku.as_str()))
            .unzip()
    }
}

/// A level with the priority of its location.
#[derive(Debug, Clone, Copy)]
pub struct Shelf {
    /// The units.
    pub level: Level,
    /// The smaller, the earlier it is asked.
    pub priority: i32,
}

/// How a level changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Move {
    /// By how many units in the building.
    pub on_hand: i64,
    /// By how many promised units.
    pub reserved: i64,
}

/// Opens a location, unless the merchant has `limit` of them already. `false` when it has.
pub async fn insert_location(
    conn: &mut PgConnection,
    merchant: MerchantId,
    location: &Location,
    limit: i64,
) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "INSERT INTO locations (location_id, merchant_id, name, country_code, priority)
         SELECT $1, $2, $3, $4, $5
         WHERE (SELECT count(*) FROM locations WHERE merchant_id = $2) < $6",
    )
    .bind(location.id.uuid())
    .bind(merchant.uuid())
    .bind(&location.name)
    .bind(&location.country_code)
    .bind(location.priority)
    .bind(limit)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The merchant's locations, by priority, then name.
pub async fn locations(pool: &PgPool, merchant: MerchantId, limit: i64) -> Result<Vec<Location>, StoreError> {
    let rows: Vec<(Uuid, String, String, i32)> = sqlx::query_as(
        "SELECT location_id, name, country_code, priority FROM locations
         WHERE merchant_id = $1 ORDER BY priority, name LIMIT $2",
    )
    .bind(merchant.uuid())
    .bind(limit)
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(id, name, country_code, priority)| Location {
            id: id.into(),
            name,
            country_code,
            priority,
        })
        .collect())
}

/// Which of the locations are not the merchant's.
pub async fn unknown_locations(
    conn: &mut PgConnection,
    merchant: MerchantId,
    locations: &BTreeSet<LocationId>,
) -> Result<Vec<LocationId>, StoreError> {
    let wanted: Vec<Uuid> = locations.iter().map(|location| location.uuid()).collect();
    let unknown: Vec<Uuid> = sqlx::query_scalar(
        "SELECT w.location_id FROM UNNEST($2::uuid[]) AS w (location_id)
         WHERE NOT EXISTS (SELECT FROM locations l WHERE l.merchant_id = $1 AND l.location_id = w.location_id)",
    )
    .bind(merchant.uuid())
    .bind(wanted)
    .fetch_all(conn)
    .await?;
    Ok(unknown.into_iter().map(LocationId::from).collect())
}

/// Locks skus, in one order for everybody, and makes those that were never heard of.
pub async fn lock_skus(
    conn: &mut PgConnection,
    skus: BTreeSet<(MerchantId, Sku)>,
) -> Result<LockedSkus, StoreError> {
    let locked = LockedSkus(skus);
    if locked.0.is_empty() {
        return Ok(locked);
    }
    let (merchants, skus) = locked.columns();
    // Who inserts holds the lock already; who finds the row waits for it below. Both go through the skus in order.
    sqlx::query(
        "INSERT INTO skus (merchant_id, sku)
         SELECT k.merchant_id, k.sku FROM UNNEST($1::uuid[], $2::text[]) AS k (merchant_id, sku)
         WHERE NOT EXISTS (SELECT FROM skus s WHERE s.merchant_id = k.merchant_id AND s.sku = k.sku)
         ORDER BY k.merchant_id, k.sku COLLATE \"C\"
         ON CONFLICT DO NOTHING",
    )
    .bind(&merchants)
    .bind(&skus)
    .execute(&mut *conn)
    .await?;
    let rows = sqlx::query(
        "SELECT FROM skus s JOIN UNNEST($1::uuid[], $2::text[]) AS k (merchant_id, sku) USING (merchant_id, sku)
         ORDER BY s.merchant_id, s.sku
         FOR NO KEY UPDATE OF s",
    )
    .bind(&merchants)
    .bind(&skus)
    .execute(conn)
    .await?;
    touched(locked.0.len(), rows.rows_affected(), "a sku")?;
    Ok(locked)
}

/// Every level of the locked skus.
pub async fn shelves(
    conn: &mut PgConnection,
    locked: &LockedSkus,
) -> Result<BTreeMap<StockKey, Shelf>, StoreError> {
    let (merchants, skus) = locked.columns();
    let rows: Vec<(Uuid, String, Uuid, i64, i64, i64, i32)> = sqlx::query_as(
        "SELECT s.merchant_id, s.sku, s.location_id, s.on_hand, s.reserved, s.safety_stock, l.priority
         FROM UNNEST($1::uuid[], $2::text[]) AS k (merchant_id, sku)
         JOIN stock s USING (merchant_id, sku)
         JOIN locations l USING (location_id)",
    )
    .bind(merchants)
    .bind(skus)
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(
            |(merchant, sku, location, on_hand, reserved, safety_stock, priority)| {
                let shelf = Shelf {
                    level: Level {
                        on_hand,
                        reserved,
                        safety_stock,
                    },
                    priority,
                };
                ((merchant.into(), Sku::known(sku), location.into()), shelf)
            },
        )
        .collect())
}

/// Writes levels as they were decided, and makes those that were not there.
pub async fn save_levels(
    conn: &mut PgConnection,
    _locked: &LockedSkus,
    merchant: MerchantId,
    levels: &[StockLevel],
) -> Result<(), StoreError> {
    let (skus, locations): (Vec<&str>, Vec<Uuid>) = levels
        .iter()
        .map(|entry| (entry.sku.as_str(), entry.location.uuid()))
        .unzip();
    let on_hand: Vec<i64> = levels.iter().map(|entry| entry.level.on_hand).collect();
    let safety_stock: Vec<i64> = levels.iter().map(|entry| entry.level.safety_stock).collect();
    let done = sqlx::query(
        "INSERT INTO stock AS s (merchant_id, sku, location_id, on_hand, safety_stock)
         SELECT $1, l.sku, l.location_id, l.on_hand, l.safety_stock
         FROM UNNEST($2::text[], $3::uuid[], $4::bigint[], $5::bigint[])
              AS l (sku, location_id, on_hand, safety_stock)
         ON CONFLICT (merchant_id, sku, location_id) DO UPDATE
            SET on_hand = excluded.on_hand, safety_stock = excluded.safety_stock, updated_at = now()
            WHERE excluded.on_hand >= s.reserved",
    )
    .bind(merchant.uuid())
    .bind(skus)
    .bind(locations)
    .bind(on_hand)
    .bind(safety_stock)
    .execute(conn)
    .await?;
    touched(levels.len(), done.rows_affected(), "stock")
}

/// Moves stock: one conditional UPDATE with one row per (merchant, sku, location), which refuses to take or promise what
/// is not there (F-1).
pub async fn move_stock(
    conn: &mut PgConnection,
    _locked: &LockedSkus,
    moves: &BTreeMap<StockKey, Move>,
) -> Result<(), StoreError> {
    let moves: Vec<_> = moves
        .iter()
        .filter(|(_, change)| **change != Move::default())
        .collect();
    if moves.is_empty() {
        return Ok(());
    }
    let merchants: Vec<Uuid> = moves
        .iter()
        .map(|((merchant, _, _), _)| merchant.uuid())
        .collect();
    let skus: Vec<&str> = moves.iter().map(|((_, sku, _), _)| sku.as_str()).collect();
    let locations: Vec<Uuid> = moves
        .iter()
        .map(|((_, _, location), _)| location.uuid())
        .collect();
    let (on_hand, reserved): (Vec<i64>, Vec<i64>) = moves
        .iter()
        .map(|(_, change)| (change.on_hand, change.reserved))
        .unzip();
    let done = sqlx::query(
        "UPDATE stock s
         SET on_hand = s.on_hand + m.on_hand, reserved = s.reserved + m.reserved, updated_at = now()
         FROM UNNEST($1::uuid[], $2::text[], $3::uuid[], $4::bigint[], $5::bigint[])
              AS m (merchant_id, sku, location_id, on_hand, reserved)
         WHERE s.merchant_id = m.merchant_id AND s.sku = m.sku AND s.location_id = m.location_id
           AND s.on_hand + m.on_hand >= s.reserved + m.reserved
           AND s.reserved + m.reserved >= 0
           AND (m.reserved <= 0 OR s.on_hand + m.on_hand - s.reserved - m.reserved >= s.safety_stock)",
    )
    .bind(merchants)
    .bind(skus)
    .bind(locations)
    .bind(on_hand)
    .bind(reserved)
    .execute(conn)
    .await?;
    touched(moves.len(), done.rows_affected(), "stock")
}

/// Some levels of a merchant, in the order they are named; what was never stocked is all zeros.
pub async fn levels(
    conn: &mut PgConnection,
    merchant: MerchantId,
    keys: &[(Sku, LocationId)],
) -> Result<Vec<StockLevel>, StoreError> {
    let (skus, locations): (Vec<&str>, Vec<Uuid>) = keys
        .iter()
        .map(|(sku, location)| (sku.as_str(), location.uuid()))
        .unzip();
    let rows: Vec<(String, Uuid, i64, i64, i64)> = sqlx::query_as(
        "SELECT k.sku, k.location_id, coalesce(s.on_hand, 0), coalesce(s.reserved, 0), coalesce(s.safety_stock, 0)
         FROM UNNEST($2::text[], $3::uuid[]) WITH ORDINALITY AS k (sku, location_id, place)
         LEFT JOIN stock s ON s.merchant_id = $1 AND s.sku = k.sku AND s.location_id = k.location_id
         ORDER BY k.place",
    )
    .bind(merchant.uuid())
    .bind(skus)
    .bind(locations)
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(stock_level).collect())
}

/// A page of the merchant's levels, by sku, then location; of some skus or of all.
pub async fn page(
    pool: &PgPool,
    merchant: MerchantId,
    skus: &[Sku],
    after: Option<&(Sku, LocationId)>,
    limit: i64,
) -> Result<Vec<StockLevel>, StoreError> {
    let (after_sku, after_location) = after.map_or(("", Uuid::nil()), |(sku, location)| {
        (sku.as_str(), location.uuid())
    });
    let query = if skus.is_empty() {
        sqlx::query_as(
            "SELECT sku, location_id, on_hand, reserved, safety_stock FROM stock
             WHERE merchant_id = $1 AND (sku, location_id) > ($2, $3)
             ORDER BY sku, location_id LIMIT $4",
        )
        .bind(merchant.uuid())
        .bind(after_sku)
        .bind(after_location)
        .bind(limit)
    } else {
        let skus: Vec<&str> = skus.iter().map(Sku::as_str).collect();
        sqlx::query_as(
            "SELECT sku, location_id, on_hand, reserved, safety_stock FROM stock
             WHERE merchant_id = $1 AND (sku, location_id) > ($2, $3) AND sku = ANY ($5)
             ORDER BY sku, location_id LIMIT $4",
        )
        .bind(merchant.uuid())
        .bind(after_sku)
        .bind(after_location)
        .bind(limit)
        .bind(skus)
    };
    let rows: Vec<(String, Uuid, i64, i64, i64)> = query.fetch_all(pool).await?;
    Ok(rows.into_iter().map(stock_level).collect())
}

fn stock_level(
    (sku, location, on_hand, reserved, safety_stock): (String, Uuid, i64, i64, i64),
) -> StockLevel {
    StockLevel {
        sku: Sku::known(sku),
        location: location.into(),
        level: Level {
            on_hand,
            reserved,
            safety_stock,
        },
    }
}
