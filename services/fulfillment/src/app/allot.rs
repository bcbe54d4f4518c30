//! Reserves stock for orders, the oldest first. Whatever changes free stock or adds an order goes through here: orders
//! placed, edited and cancelled (as a whole or in part), goods that came back, deliveries.
//!
//! The caller has locked the skus, so all that is read here stays true until the end of the transaction. Everything is
//! read, decided and written for the whole batch; the number of statements does not grow with it.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use waybill_kernel::id::{LineId, MerchantId, OrderId, ShipmentId};
use waybill_store::StoreError;

use super::late;
use crate::domain::allocation::{self, Claim, Pool, Take, Want, share_out};
use crate::domain::progress::Progress;
use crate::domain::release::{Cancelled, Held, let_go};
use crate::domain::restock::bring_back;
use crate::domain::shipment::Parcel;
use crate::domain::stock::Sku;
use crate::events::{Announcement, News};
use crate::store::orders::{self, OrderRow};
use crate::store::projection::{Latecomer, PlacedLine, PlacedOrder};
use crate::store::queue::{self, Front, NewBackorder};
use crate::store::shipments;
use crate::store::stock::{self, LockedSkus, Move, Shelf, StockKey};

/// The most waiting lines that one transaction serves. It keeps transactions short; a job does the rest.
pub const AT_ONCE: i64 = 1_000;

/// What changes. Empty when only the stock did.
#[derive(Debug, Default)]
pub struct Changes<'a> {
    /// New orders; each once.
    pub placed: &'a [PlacedOrder],
    /// Lines that came to orders that were taken in before.
    pub late: Vec<Latecomer>,
    /// Orders that were cancelled.
    pub cancelled: BTreeSet<OrderId>,
    /// Cancelled units of orders that were taken in before and go on.
    pub units_cancelled: BTreeMap<(OrderId, LineId), Cancelled>,
    /// Units that came back and are to be sold again.
    pub returned: BTreeMap<(OrderId, LineId), i64>,
    /// Orders that may no longer ship. They are locked, so that no shipment is made of what was known before (F-12).
    pub stopped: BTreeSet<OrderId>,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Settled {
    /// What the others are to be told.
    pub announcements: Vec<Announcement>,
    /// Skus that still have free units while somebody may wait for them. A job goes on with them.
    pub unfinished: Vec<(MerchantId, Sku)>,
}

/// Applies changes and gives free stock to who waits for it.
///
/// # Errors
/// As the database answers.
pub async fn settle(
    conn: &mut PgConnection,
    locked: &LockedSkus,
    changes: &Changes<'_>,
    now: DateTime<Utc>,
) -> Result<Settled, StoreError> {
    // What came later waits first, as old as its order, and is then served like all who wait (F-4).
    queue::join(conn, locked, &late::backorders(changes)).await?;
    let mut shelves = stock::shelves(conn, locked).await?;
    let mut moves = Moves::default();
    let released = let_go_of_units(conn, locked, changes, &mut moves).await?;
    free_reservations(conn, locked, changes, &mut moves).await?;
    let back = restock(conn, locked, changes, &mut moves).await?;
    moves.apply_to(&mut shelves);
    let mut pool = pool_of(&shelves);

    let cancelled: Vec<OrderId> = changes.cancelled.iter().copied().collect();
    let front = queue::front(conn, locked, &free_units(&pool), &cancelled, AT_ONCE).await?;
    let claims = claims(changes, &front);
    let shares = share_out(&claims, &mut pool);
    let merchants: BTreeMap<OrderId, MerchantId> =
        claims.iter().map(|claim| (claim.order, claim.merchant)).collect();
    for (order, takes) in &shares {
        for take in takes {
            let key = (merchants[order], take.sku.clone(), take.location);
            moves.of(key).reserved += take.units;
        }
    }

    let shares: BTreeMap<OrderId, Vec<Take>> = shares.into_iter().collect();
    let mut outcome = Outcome::decide(conn, changes, &shares, released).await?;
    stock::move_stock(conn, locked, &moves.0).await?;
    shipments::restock(conn, locked, &back).await?;
    outcome.write(conn, locked, changes, &shares, &merchants).await?;

    let unfinished = match front.cut_at {
        Some(_) => pool
            .in_stock()
            .map(|(merchant, sku)| (merchant, sku.clone()))
            .collect(),
        None => Vec::new(),
    };
    Ok(Settled {
        announcements: outcome.announcements(changes, &shares, now),
        unfinished,
    })
}

/// Changes of stock levels, summed per (merchant, sku, location).
#[derive(Default)]
struct Moves(BTreeMap<StockKey, Move>);

impl Moves {
    fn of(&mut self, key: StockKey) -> &mut Move {
        self.0.entry(key).or_default()
    }

    fn apply_to(&self, shelves: &mut BTreeMap<StockKey, Shelf>) {
        for (key, change) in &self.0 {
            if let Some(shelf) = shelves.get_mut(key) {
                shelf.level.on_hand += change.on_hand;
                shelf.level.reserved += change.reserved;
            }
        }
    }
}

/// Units of orders by where they stood: waiting, reserved.
type Units = BTreeMap<OrderId, (i64, i64)>;

/// Cancelled units no longer wait and are no longer reserved; what is lost leaves the stock.
async fn let_go_of_units(
    conn: &mut PgConnection,
    locked: &LockedSkus,
    changes: &Changes<'_>,
    moves: &mut Moves,
) -> Result<Units, StoreError> {
    if changes.units_cancelled.is_empty() {
        return Ok(Units::new());
    }
    let lines: Vec<(OrderId, LineId)> = changes.units_cancelled.keys().copied().collect();
    let waiting = queue::waiting(conn, locked, &lines).await?;
    let (held, shelves): (Vec<Held>, Vec<StockKey>) =
        orders::held_by(conn, locked, &lines).await?.into_iter().unzip();
    let released = let_go(&changes.units_cancelled, &waiting, &held);
    for (order, line, units) in &released.too_late {
        tracing::warn!(order_id = %order, line_id = %line, units, "cancelled units have left already");
    }
    queue::serve(conn, locked, &released.waiting).await?;
    let back: Vec<_> = (released.reserved.iter())
        .map(|(index, units, _)| {
            (
                held[*index].order,
                held[*index].line,
                held[*index].location,
                *units,
            )
        })
        .collect();
    orders::give_back(conn, locked, &back).await?;

    let mut of_orders = Units::new();
    for ((order, _), units) in &released.waiting {
        of_orders.entry(*order).or_default().0 += units;
    }
    for (index, units, lost) in &released.reserved {
        of_orders.entry(held[*index].order).or_default().1 += units;
        let shelf = moves.of(shelves[*index].clone());
        shelf.reserved -= units;
        shelf.on_hand -= lost;
    }
    Ok(of_orders)
}

/// What cancelled orders have reserved becomes free.
async fn free_reservations(
    conn: &mut PgConnection,
    locked: &LockedSkus,
    changes: &Changes<'_>,
    moves: &mut Moves,
) -> Result<(), StoreError> {
    let cancelled: Vec<OrderId> = changes.cancelled.iter().copied().collect();
    for (key, units) in orders::reserved_by(conn, locked, &cancelled).await? {
        moves.of(key).reserved -= units;
    }
    Ok(())
}

/// What came back lies again where it left from.
async fn restock(
    conn: &mut PgConnection,
    locked: &LockedSkus,
    changes: &Changes<'_>,
    moves: &mut Moves,
) -> Result<Vec<(ShipmentId, LineId, i64)>, StoreError> {
    let (away, shelves): (Vec<_>, Vec<_>) = shipments::still_away(conn, locked, &changes.returned)
        .await?
        .into_iter()
        .unzip();
    let restocked = bring_back(&away, &changes.returned);
    for (order, line, units) in &restocked.unplaced {
        tracing::warn!(order_id = %order, line_id = %line, units, "returned units never left or are back already; they are not restocked");
    }
    Ok(restocked
        .back
        .into_iter()
        .map(|(index, units)| {
            moves.of(shelves[index].clone()).on_hand += units;
            (away[index].shipment, away[index].line, units)
        })
        .collect())
}

fn pool_of(shelves: &BTreeMap<StockKey, Shelf>) -> Pool {
    let mut pool = Pool::new();
    for ((merchant, sku, location), shelf) in shelves {
        let free = allocation::Shelf {
            location: *location,
            priority: shelf.priority,
            available: shelf.level.available(),
        };
        pool.add(*merchant, sku.clone(), free);
    }
    pool
}

fn free_units(pool: &Pool) -> Vec<(MerchantId, &Sku, i64)> {
    pool.in_stock()
        .map(|(merchant, sku)| (merchant, sku, pool.available(merchant, sku)))
        .collect()
}

/// Who is to be served now: the front of the queue, and the new orders that nobody older may stand before.
fn claims(changes: &Changes<'_>, front: &Front) -> Vec<Claim> {
    let new = changes
        .placed
        .iter()
        .filter(|placed| !changes.cancelled.contains(&placed.order))
        // F-4: behind a queue that was cut nobody knows who is older. The job that goes on will.
        .filter(|placed| {
            front
                .cut_at
                .is_none_or(|cut_at| (placed.placed_at, placed.order) < cut_at)
        })
        .map(|placed| Claim {
            order: placed.order,
            merchant: placed.merchant,
            placed_at: placed.placed_at,
            wants: (goods(placed).map(|(_, line)| want(line)))
                .filter(|want| want.units > 0)
                .collect(),
        });
    front.claims.iter().cloned().chain(new).collect()
}

/// The lines of an order that need stock, with their place on it.
fn goods(placed: &PlacedOrder) -> impl Iterator<Item = (i32, &PlacedLine)> {
    (0_i32..).zip(&placed.lines).filter(|(_, line)| !line.digital)
}

fn want(line: &PlacedLine) -> Want {
    Want {
        line: line.line,
        sku: line.sku.clone(),
        units: line.wanted(),
    }
}

/// Where the orders of a batch stand afterwards.
struct Outcome {
    /// New ones.
    placed: BTreeMap<OrderId, OrderRow>,
    /// Older ones that change.
    older: BTreeMap<OrderId, OrderRow>,
    /// Of the older ones, those of which units waited.
    waited: BTreeSet<OrderId>,
    /// Cancelled units of older ones.
    released: Units,
    /// Of those, the ones of which all that is left has arrived, with the time of the last arrival.
    arrived: BTreeMap<OrderId, DateTime<Utc>>,
    /// Versions of the older ones, once they are written.
    versions: BTreeMap<OrderId, i64>,
}

impl Outcome {
    /// Locks the older orders, all at once, and moves units.
    async fn decide(
        conn: &mut PgConnection,
        changes: &Changes<'_>,
        shares: &BTreeMap<OrderId, Vec<Take>>,
        released: Units,
    ) -> Result<Self, StoreError> {
        let given = |order: &OrderId| -> i64 {
            shares
                .get(order)
                .map_or(0, |takes| takes.iter().map(|take| take.units).sum())
        };
        let mut placed = BTreeMap::new();
        for order in changes.placed {
            let units = goods(order).map(|(_, line)| line.units).sum();
            let mut progress = Progress::of(units);
            let unwanted = goods(order).map(|(_, line)| line.cancelled).sum();
            progress.release(unwanted, 0).map_err(StoreError::other)?;
            if changes.cancelled.contains(&order.order) {
                progress.cancel();
            } else {
                progress.reserve(given(&order.order)).map_err(StoreError::other)?;
            }
            let row = OrderRow {
                merchant: order.merchant,
                store: order.store,
                progress,
            };
            placed.insert(order.order, row);
        }

        let touched: BTreeSet<OrderId> = changes
            .cancelled
            .iter()
            .chain(shares.keys())
            .chain(released.keys())
            .chain(changes.late.iter().map(|line| &line.order))
            .filter(|order| !placed.contains_key(order))
            .copied()
            .collect();
        let mut older = orders::lock(conn, &(&touched | &changes.stopped)).await?;
        older.retain(|order, row| {
            touched.contains(order) && (!changes.cancelled.contains(order) || !row.progress.cancelled)
        });
        for line in &changes.late {
            if let Some(row) = older.get_mut(&line.order) {
                row.progress.add(line.units).map_err(StoreError::other)?;
            }
        }
        let waited = (older.iter())
            .filter(|(_, row)| row.progress.waiting > 0)
            .map(|(order, _)| *order)
            .collect();
        for (order, row) in &mut older {
            let (waiting, reserved) = released.get(order).copied().unwrap_or_default();
            row.progress
                .release(waiting, reserved)
                .map_err(StoreError::other)?;
            if changes.cancelled.contains(order) {
                row.progress.cancel();
            } else {
                row.progress.reserve(given(order)).map_err(StoreError::other)?;
            }
        }
        Ok(Self {
            placed,
            waited,
            arrived: Self::arrived(conn, &older, &released).await?,
            older,
            released,
            versions: BTreeMap::new(),
        })
    }

    /// Orders that only waited for units that are cancelled now: everything else has arrived before.
    async fn arrived(
        conn: &mut PgConnection,
        older: &BTreeMap<OrderId, OrderRow>,
        released: &Units,
    ) -> Result<BTreeMap<OrderId, DateTime<Utc>>, StoreError> {
        let done: Vec<OrderId> = (older.iter())
            .filter(|(order, row)| {
                released.contains_key(order) && !row.progress.cancelled && row.progress.is_fully_delivered()
            })
            .map(|(order, _)| *order)
            .collect();
        shipments::last_arrivals(conn, &done).await
    }

    async fn write(
        &mut self,
        conn: &mut PgConnection,
        locked: &LockedSkus,
        changes: &Changes<'_>,
        shares: &BTreeMap<OrderId, Vec<Take>>,
        merchants: &BTreeMap<OrderId, MerchantId>,
    ) -> Result<(), StoreError> {
        orders::insert(conn, &self.placed).await?;
        let gone: Vec<OrderId> = changes
            .cancelled
            .iter()
            .filter(|order| self.older.contains_key(order))
            .copied()
            .collect();
        orders::let_go(conn, locked, &gone).await?;

        let takes: Vec<_> = shares
            .iter()
            .flat_map(|(order, takes)| takes.iter().map(|take| (*order, merchants[order], take)))
            .collect();
        orders::reserve(conn, locked, &takes).await?;
        queue::join(conn, locked, &new_backorders(changes, shares)).await?;
        let mut served: BTreeMap<(OrderId, LineId), i64> = BTreeMap::new();
        for (order, _, take) in takes.iter().filter(|(order, ..)| self.older.contains_key(order)) {
            *served.entry((*order, take.line)).or_default() += take.units;
        }
        queue::serve(conn, locked, &served).await?;

        let changed = self
            .older
            .iter()
            .map(|(order, row)| (*order, row.progress))
            .collect();
        self.versions = orders::save(conn, &changed).await?;
        Ok(())
    }

    fn announcements(
        &self,
        changes: &Changes<'_>,
        shares: &BTreeMap<OrderId, Vec<Take>>,
        now: DateTime<Utc>,
    ) -> Vec<Announcement> {
        let announce = |order: OrderId, row: &OrderRow, version: i64, news: News| Announcement {
            merchant: row.merchant,
            store: row.store,
            order,
            version,
            at: now,
            news,
        };
        let mut told = Vec::with_capacity(self.placed.len() + self.older.len());
        for placed in changes.placed {
            let row = &self.placed[&placed.order];
            if row.progress.units == 0 {
                // Nothing to ship: the warehouse has nothing to say.
                continue;
            }
            let news = if row.progress.cancelled {
                News::Released
            } else if row.progress.waiting == 0 && row.progress.reserved == 0 {
                News::UnitsReleased { delivered_at: None }
            } else if row.progress.waiting == 0 {
                News::Allocated
            } else {
                News::Backordered {
                    missing: missing(placed, shares).map(|(_, parcel)| parcel).collect(),
                }
            };
            told.push(announce(placed.order, row, 1, news));
        }
        for (order, row) in &self.older {
            let progress = row.progress;
            let version = self.versions[order];
            if progress.cancelled {
                told.push(announce(*order, row, version, News::Released));
                continue;
            }
            if self.released.contains_key(order) {
                let delivered_at = self.arrived.get(order).copied();
                told.push(announce(
                    *order,
                    row,
                    version,
                    News::UnitsReleased { delivered_at },
                ));
            }
            if progress.waiting == 0 && progress.reserved > 0 && self.waited.contains(order) {
                told.push(announce(*order, row, version, News::Allocated));
            }
            let missing = late::missing(changes, shares, *order);
            if !missing.is_empty() {
                told.push(announce(*order, row, version, News::Backordered { missing }));
            }
        }
        told
    }
}

/// What a new order did not get, with the place of the line.
fn missing<'a>(
    placed: &'a PlacedOrder,
    shares: &'a BTreeMap<OrderId, Vec<Take>>,
) -> impl Iterator<Item = (i32, Parcel)> + 'a {
    let takes = shares.get(&placed.order).map_or(&[][..], Vec::as_slice);
    let mut given: BTreeMap<LineId, i64> = BTreeMap::new();
    for take in takes {
        *given.entry(take.line).or_default() += take.units;
    }
    goods(placed).filter_map(move |(line_no, line)| {
        let units = line.wanted() - given.get(&line.line).copied().unwrap_or_default();
        (units > 0).then(|| {
            (
                line_no,
                Parcel {
                    line: line.line,
                    sku: line.sku.clone(),
                    units,
                },
            )
        })
    })
}

fn new_backorders<'a>(changes: &Changes<'a>, shares: &BTreeMap<OrderId, Vec<Take>>) -> Vec<NewBackorder<'a>> {
    changes
        .placed
        .iter()
        .filter(|placed| !changes.cancelled.contains(&placed.order))
        .flat_map(|placed| {
            let lines: BTreeMap<LineId, &Sku> =
                placed.lines.iter().map(|line| (line.line, &line.sku)).collect();
            missing(placed, shares)
                .map(|(line_no, parcel)| NewBackorder {
                    order: placed.order,
                    merchant: placed.merchant,
                    placed_at: placed.placed_at,
                    line_no,
                    line: parcel.line,
                    sku: lines[&parcel.line],
                    units: parcel.units,
                })
                .collect::<Vec<_>>()
        })
        .collect()
}
