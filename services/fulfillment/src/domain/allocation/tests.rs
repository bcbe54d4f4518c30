//! Examples of the three rules, and properties against a search of all subsets.

use chrono::TimeDelta;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;

fn sku(number: usize) -> Sku {
    Sku::known(format!("SKU-{number}"))
}

fn location(number: usize) -> LocationId {
    LocationId::from(Uuid::from_u128(number as u128 + 1))
}

fn line(number: usize) -> LineId {
    LineId::from(Uuid::from_u128(number as u128 + 1))
}

fn merchant() -> MerchantId {
    MerchantId::from(Uuid::from_u128(7))
}

/// A pool from rows of (location, units per sku); the priority is the row's number.
fn pool(rows: &[&[i64]]) -> Pool {
    let mut pool = Pool::new();
    for (row, units) in rows.iter().enumerate() {
        for (column, available) in units.iter().enumerate() {
            let shelf = Shelf {
                location: location(row),
                priority: row as i32,
                available: *available,
            };
            pool.add(merchant(), sku(column), shelf);
        }
    }
    pool
}

/// One line per (sku, units).
fn wants(of: &[(usize, i64)]) -> Vec<Want> {
    of.iter()
        .enumerate()
        .map(|(number, (wanted, units))| Want {
            line: line(number),
            sku: sku(*wanted),
            units: *units,
        })
        .collect()
}

/// (line, location, units) of each take.
fn gave(takes: &[Take]) -> Vec<(LineId, LocationId, i64)> {
    takes
        .iter()
        .map(|take| (take.line, take.location, take.units))
        .collect()
}

#[test]
fn the_first_asked_location_gives_when_it_can() {
    let mut pool = pool(&[&[5], &[50]]);
    let takes = allocate(merchant(), &wants(&[(0, 3)]), &mut pool);
    assert_eq!(gave(&takes), [(line(0), location(0), 3)]);
    assert_eq!(pool.available(merchant(), &sku(0)), 52);
}

#[test]
fn one_location_that_has_all_beats_two_that_are_asked_earlier() {
    let mut pool = pool(&[&[5, 0], &[0, 5], &[5, 5]]);
    let takes = allocate(merchant(), &wants(&[(0, 1), (1, 1)]), &mut pool);
    assert_eq!(
        gave(&takes),
        [(line(0), location(2), 1), (line(1), location(2), 1)]
    );
}

#[test]
fn two_locations_beat_three() {
    // The greedy choice would begin with the third location, which has most, and then need both others.
    let mut pool = pool(&[&[4, 0, 1], &[0, 4, 1], &[3, 3, 0]]);
    let takes = allocate(merchant(), &wants(&[(0, 4), (1, 4), (2, 1)]), &mut pool);
    let used: std::collections::BTreeSet<LocationId> = takes.iter().map(|take| take.location).collect();
    assert_eq!(used.into_iter().collect::<Vec<_>>(), [location(0), location(1)]);
    assert_eq!(takes.iter().map(|take| take.units).sum::<i64>(), 9);
}

/// F-2, the trap of two lines of one sku that each pass the check.
#[test]
fn two_lines_of_one_sku_share_what_there_is() {
    let mut pool = pool(&[&[3]]);
    let takes = allocate(merchant(), &wants(&[(0, 2), (0, 2)]), &mut pool);
    assert_eq!(
        gave(&takes),
        [(line(0), location(0), 2), (line(1), location(0), 1)]
    );
    assert_eq!(pool.available(merchant(), &sku(0)), 0);
}

#[test]
fn what_is_missing_is_left_and_the_rest_given() {
    let mut pool = pool(&[&[1, 0]]);
    let takes = allocate(merchant(), &wants(&[(0, 2), (1, 1), (2, 9)]), &mut pool);
    assert_eq!(gave(&takes), [(line(0), location(0), 1)]);
}

#[test]
fn stock_of_another_merchant_is_not_seen() {
    let mut pool = pool(&[&[10]]);
    let other = MerchantId::from(Uuid::from_u128(8));
    assert_eq!(allocate(other, &wants(&[(0, 1)]), &mut pool), []);
}

/// F-4.
#[test]
fn the_oldest_order_is_served_first_whatever_order_claims_come_in() {
    let start = DateTime::<Utc>::UNIX_EPOCH;
    let claim = |number: u128, minutes: i64, units: i64| Claim {
        order: OrderId::from(Uuid::from_u128(number)),
        merchant: merchant(),
        placed_at: start + TimeDelta::minutes(minutes),
        wants: vec![Want {
            line: line(number as usize),
            sku: sku(0),
            units,
        }],
    };
    let claims = [claim(1, 30, 4), claim(2, 10, 4), claim(3, 20, 4)];
    let mut pool = pool(&[&[6]]);
    let served: Vec<(OrderId, i64)> = share_out(&claims, &mut pool)
        .into_iter()
        .map(|(order, takes)| (order, takes.iter().map(|take| take.units).sum()))
        .collect();
    assert_eq!(served, [(claims[1].order, 4), (claims[2].order, 2)]);
    assert_eq!(pool.in_stock().count(), 0);
}

/// The smallest number of locations that give all that can be given, by trying every subset.
fn fewest_by_brute_force(stock: &[Vec<i64>], reachable: &[i64]) -> usize {
    (0_u32..1 << stock.len())
        .filter(|subset| {
            reachable.iter().enumerate().all(|(column, units)| {
                let given: i64 = (0..stock.len())
                    .filter(|row| subset & (1 << row) != 0)
                    .map(|row| stock[row][column])
                    .sum();
                given >= *units
            })
        })
        .map(u32::count_ones)
        .min()
        .map_or(0, |count| count as usize)
}

const SKUS: usize = 4;

fn stock(locations: impl Into<proptest::collection::SizeRange>) -> impl Strategy<Value = Vec<Vec<i64>>> {
    let units = prop_oneof![2 => Just(0_i64), 3 => 0..8_i64];
    prop::collection::vec(prop::collection::vec(units, SKUS), locations)
}

fn lines() -> impl Strategy<Value = Vec<(usize, i64)>> {
    prop::collection::vec((0..SKUS, 1..8_i64), 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// F-2 and F-4: nobody gets what is not there or more than wanted, and nothing that could be given is held back.
    #[test]
    fn gives_all_it_can_and_nothing_else(stock in stock(0..24), lines in lines()) {
        let rows: Vec<&[i64]> = stock.iter().map(Vec::as_slice).collect();
        let mut left = pool(&rows);
        let wants = wants(&lines);
        let takes = allocate(merchant(), &wants, &mut left);

        for want in &wants {
            let given: i64 = takes.iter().filter(|take| take.line == want.line).map(|take| take.units).sum();
            prop_assert!(given <= want.units);
            prop_assert!(takes.iter().all(|take| take.line != want.line || take.sku == want.sku));
        }
        for column in 0..SKUS {
            for (row, units) in stock.iter().enumerate() {
                let given: i64 = takes
                    .iter()
                    .filter(|take| take.sku == sku(column) && take.location == location(row))
                    .map(|take| take.units)
                    .sum();
                prop_assert!(given <= units[column], "a location gave what it has not");
            }
            let wanted: i64 = lines.iter().filter(|(wanted, _)| *wanted == column).map(|(_, units)| units).sum();
            let there: i64 = stock.iter().map(|units| units[column]).sum();
            let given: i64 = takes.iter().filter(|take| take.sku == sku(column)).map(|take| take.units).sum();
            prop_assert_eq!(given, wanted.min(there));
            prop_assert_eq!(left.available(merchant(), &sku(column)), there - given);
        }
        prop_assert!(takes.iter().all(|take| take.units > 0));
        let mut pairs: Vec<_> = takes.iter().map(|take| (take.line, take.location)).collect();
        pairs.sort();
        pairs.dedup();
        prop_assert_eq!(pairs.len(), takes.len(), "a line takes from a location once");
    }

    /// F-5: as few locations as any choice could do with, where the search is exact.
    #[test]
    fn uses_as_few_locations_as_possible(stock in stock(0..EXACT_SPLITS + 2), lines in lines()) {
        let rows: Vec<&[i64]> = stock.iter().map(Vec::as_slice).collect();
        let reachable: Vec<i64> = (0..SKUS)
            .map(|column| {
                let wanted: i64 = lines.iter().filter(|(wanted, _)| *wanted == column).map(|(_, units)| units).sum();
                wanted.min(stock.iter().map(|units| units[column]).sum())
            })
            .collect();
        let takes = allocate(merchant(), &wants(&lines), &mut pool(&rows));
        let mut used: Vec<LocationId> = takes.iter().map(|take| take.location).collect();
        used.sort();
        used.dedup();
        prop_assert_eq!(used.len(), fewest_by_brute_force(&stock, &reachable));
    }
}
