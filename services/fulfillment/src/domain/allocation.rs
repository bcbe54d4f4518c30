//! Which location gives which units to which order.
//!
//! Three rules, in this order:
//!
//! 1. The oldest order is served first, and as completely as stock allows (F-4).
//! 2. An order ships from as few locations as possible: every further parcel costs more than a less liked location (F-5).
//! 3. Among as few locations, those that are asked first (smallest priority) give.
//!
//! Finding the fewest locations is a set cover, which is hard in general. Up to [`EXACT_SPLITS`] locations out of the
//! [`EXACT_CANDIDATES`] best are searched in full; beyond that the location that gives most of what is still missing is
//! taken, again and again. Nothing is written here: the caller holds the locks that make the [`Pool`] true (F-2).

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use waybill_kernel::id::{LineId, LocationId, MerchantId, OrderId};

use super::stock::Sku;

/// The most locations whose combinations are all tried.
pub const EXACT_SPLITS: usize = 3;

/// How many locations, by priority, the combinations are made of.
pub const EXACT_CANDIDATES: usize = 16;

/// Units of one order line that have no stock yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// The line.
    pub line: LineId,
    /// What is wanted.
    pub sku: Sku,
    /// How many units; more than 0.
    pub units: i64,
}

/// An order that wants stock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The order.
    pub order: OrderId,
    /// Whose stock may serve it.
    pub merchant: MerchantId,
    /// When it was placed: the oldest is served first.
    pub placed_at: DateTime<Utc>,
    /// What it wants, in the order of its lines. Several lines may want the same sku.
    pub wants: Vec<Want>,
}

/// Units that a location gives to a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Take {
    /// The line.
    pub line: LineId,
    /// What is given.
    pub sku: Sku,
    /// Where it lies.
    pub location: LocationId,
    /// How many units; more than 0.
    pub units: i64,
}

/// Free stock of one sku at one location.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shelf {
    /// The location.
    pub location: LocationId,
    /// The smaller, the earlier it is asked.
    pub priority: i32,
    /// What can still be promised.
    pub available: i64,
}

/// The free stock that claims are served from.
#[derive(Debug, Clone, Default)]
pub struct Pool {
    shelves: HashMap<MerchantId, HashMap<Sku, Vec<Shelf>>>,
}

impl Pool {
    /// Nothing in stock.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a shelf. Each (merchant, sku, location) comes once; a shelf without free units may be left out.
    pub fn add(&mut self, merchant: MerchantId, sku: Sku, shelf: Shelf) {
        if shelf.available > 0 {
            self.shelves
                .entry(merchant)
                .or_default()
                .entry(sku)
                .or_default()
                .push(shelf);
        }
    }

    /// Free units of a sku over all locations.
    #[must_use]
    pub fn available(&self, merchant: MerchantId, sku: &Sku) -> i64 {
        self.shelves_of(merchant, sku)
            .iter()
            .map(|shelf| shelf.available)
            .sum()
    }

    /// The skus that still have free units.
    pub fn in_stock(&self) -> impl Iterator<Item = (MerchantId, &Sku)> {
        self.shelves.iter().flat_map(|(merchant, skus)| {
            skus.iter()
                .filter(|(_, shelves)| shelves.iter().any(|shelf| shelf.available > 0))
                .map(|(sku, _)| (*merchant, sku))
        })
    }

    fn shelves_of(&self, merchant: MerchantId, sku: &Sku) -> &[Shelf] {
        self.shelves
            .get(&merchant)
            .and_then(|skus| skus.get(sku))
            .map_or(&[], Vec::as_slice)
    }

    fn take(&mut self, merchant: MerchantId, sku: &Sku, location: LocationId, units: i64) {
        let shelves = self.shelves.get_mut(&merchant).and_then(|skus| skus.get_mut(sku));
        if let Some(shelf) = shelves.and_then(|shelves| shelves.iter_mut().find(|s| s.location == location)) {
            shelf.available -= units;
        }
    }
}

/// Serves claims from the pool, the oldest order first, and takes what it gives out of the pool.
///
/// The answer has one entry per claim that was given something, in the order they were served.
pub fn share_out(claims: &[Claim], pool: &mut Pool) -> Vec<(OrderId, Vec<Take>)> {
    let mut queue: Vec<&Claim> = claims.iter().collect();
    queue.sort_by_key(|claim| (claim.placed_at, claim.order));
    queue
        .into_iter()
        .map(|claim| (claim.order, allocate(claim.merchant, &claim.wants, pool)))
        .filter(|(_, takes)| !takes.is_empty())
        .collect()
}

/// Gives one order what it wants, as far as there is any, from as few locations as possible.
pub fn allocate(merchant: MerchantId, wants: &[Want], pool: &mut Pool) -> Vec<Take> {
    let needs = Needs::of(merchant, wants, pool);
    if needs.reachable.iter().all(|units| *units == 0) {
        return Vec::new();
    }
    let chosen = needs.fewest_locations();
    let mut takes = Vec::with_capacity(wants.len());
    for (column, lines) in needs.lines.iter().enumerate() {
        let gifts = needs.split(column, &chosen);
        hand_to_lines(lines, &gifts, &mut takes);
    }
    for take in &takes {
        pool.take(merchant, &take.sku, take.location, take.units);
    }
    takes
}

/// What an order wants, summed by sku before any stock is looked at: two lines of one sku must not both count the same
/// unit as theirs.
struct Needs<'a> {
    /// Per sku, the lines that want it.
    lines: Vec<Vec<&'a Want>>,
    /// Per sku, how much of it can be given: what is wanted or what there is.
    reachable: Vec<i64>,
    /// Locations that have any of it, the first asked first, each with its free units per sku.
    candidates: Vec<Candidate>,
}

struct Candidate {
    location: LocationId,
    priority: i32,
    free: Vec<i64>,
}

impl<'a> Needs<'a> {
    fn of(merchant: MerchantId, wants: &'a [Want], pool: &Pool) -> Self {
        let mut columns: HashMap<&Sku, usize> = HashMap::new();
        let mut lines: Vec<Vec<&Want>> = Vec::new();
        for want in wants {
            let column = *columns.entry(&want.sku).or_insert_with(|| {
                lines.push(Vec::new());
                lines.len() - 1
            });
            lines[column].push(want);
        }

        let mut rows: HashMap<LocationId, Candidate> = HashMap::new();
        let mut reachable = vec![0; lines.len()];
        for (sku, column) in columns {
            let wanted: i64 = lines[column].iter().map(|want| want.units).sum();
            reachable[column] = wanted.min(pool.available(merchant, sku));
            for shelf in pool
                .shelves_of(merchant, sku)
                .iter()
                .filter(|shelf| shelf.available > 0)
            {
                let row = rows.entry(shelf.location).or_insert_with(|| Candidate {
                    location: shelf.location,
                    priority: shelf.priority,
                    free: vec![0; lines.len()],
                });
                row.free[column] = shelf.available;
            }
        }
        let mut candidates: Vec<Candidate> = rows.into_values().collect();
        candidates.sort_by_key(|candidate| (candidate.priority, candidate.location));
        Self {
            lines,
            reachable,
            candidates,
        }
    }

    /// The smallest set of candidates that together give all that can be given; the first asked among equals.
    fn fewest_locations(&self) -> Vec<usize> {
        if let Some(one) = (0..self.candidates.len()).find(|index| self.covers(&[*index])) {
            return vec![one];
        }
        let searched = self.candidates.len().min(EXACT_CANDIDATES);
        (2..=EXACT_SPLITS)
            .find_map(|size| self.first_combination(size, searched, &mut Vec::with_capacity(size)))
            .unwrap_or_else(|| self.most_helpful_first())
    }

    /// The first combination, in the order of priority, of `size` candidates that covers the need.
    fn first_combination(&self, size: usize, searched: usize, chosen: &mut Vec<usize>) -> Option<Vec<usize>> {
        if chosen.len() == size {
            return self.covers(chosen).then(|| chosen.clone());
        }
        let first = chosen.last().map_or(0, |last| last + 1);
        for index in first..searched {
            chosen.push(index);
            if let Some(found) = self.first_combination(size, searched, chosen) {
                return Some(found);
            }
            chosen.pop();
        }
        None
    }

    fn covers(&self, chosen: &[usize]) -> bool {
        self.reachable.iter().enumerate().all(|(column, units)| {
            chosen
                .iter()
                .map(|index| self.candidates[*index].free[column])
                .sum::<i64>()
                >= *units
        })
    }

    fn most_helpful_first(&self) -> Vec<usize> {
        let mut missing = self.reachable.clone();
        let mut left: Vec<usize> = (0..self.candidates.len()).collect();
        let mut chosen = Vec::new();
        while missing.iter().any(|units| *units > 0) {
            let help = |index: &usize| -> i64 {
                let free = &self.candidates[*index].free;
                missing
                    .iter()
                    .zip(free)
                    .map(|(missing, free)| *missing.min(free))
                    .sum()
            };
            // The first of the best: `max_by_key` would name the last.
            let best = left.iter().copied().rev().max_by_key(help);
            let Some(best) = best.filter(|index| help(index) > 0) else {
                break;
            };
            for (missing, free) in missing.iter_mut().zip(&self.candidates[best].free) {
                *missing -= (*missing).min(*free);
            }
            left.retain(|index| *index != best);
            chosen.push(best);
        }
        chosen.sort_unstable();
        chosen
    }

    /// How the chosen locations give a sku: one of them all of it when one can, else the first asked what they have.
    fn split(&self, column: usize, chosen: &[usize]) -> Vec<(LocationId, i64)> {
        let mut left = self.reachable[column];
        let chosen = || chosen.iter().map(|index| &self.candidates[*index]);
        if let Some(whole) = chosen().find(|candidate| candidate.free[column] >= left) {
            return vec![(whole.location, left)];
        }
        let mut gifts = Vec::new();
        for candidate in chosen() {
            let units = left.min(candidate.free[column]);
            left -= units;
            gifts.push((candidate.location, units));
        }
        gifts
    }
}

/// Hands the units of one sku to the lines that want it, the first line first.
fn hand_to_lines(lines: &[&Want], gifts: &[(LocationId, i64)], takes: &mut Vec<Take>) {
    let mut gifts = gifts.iter().copied();
    let mut gift = gifts.next();
    for want in lines {
        let mut wanted = want.units;
        while let Some((location, units)) = gift {
            let given = wanted.min(units);
            if given > 0 {
                takes.push(Take {
                    line: want.line,
                    sku: want.sku.clone(),
                    location,
                    units: given,
                });
            }
            wanted -= given;
            gift = if units > given {
                Some((location, units - given))
            } else {
                gifts.next()
            };
            if wanted == 0 {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests;
