//! Letting go of units that were cancelled: those that wait go first, then those that are reserved, at the location that is
//! asked last. What has shipped meanwhile is left over; it was cancelled too late.

use std::collections::BTreeMap;

use waybill_kernel::id::{LineId, LocationId, OrderId};

/// Units of a line that were cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cancelled {
    /// Units whose goods go to others, where some are reserved.
    pub restock: i64,
    /// Units whose goods are not there to be sold: where some are reserved, they leave the stock.
    pub lost: i64,
}

impl Cancelled {
    /// All of them.
    #[must_use]
    pub fn units(self) -> i64 {
        self.restock + self.lost
    }
}

/// What is reserved for a line at a location.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The order.
    pub order: OrderId,
    /// The line.
    pub line: LineId,
    /// Where.
    pub location: LocationId,
    /// The location's priority: the smaller, the earlier it is asked.
    pub priority: i32,
    /// How many units; more than 0.
    pub units: i64,
}

/// What is let go of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Released {
    /// Units that no longer wait, per line.
    pub waiting: BTreeMap<(OrderId, LineId), i64>,
    /// By index into what is held: units that are no longer reserved, and how many of them leave the stock.
    pub reserved: Vec<(usize, i64, i64)>,
    /// Units that were cancelled and neither wait nor are reserved.
    pub too_late: Vec<(OrderId, LineId, i64)>,
}

/// Decides what is let go of.
#[must_use]
pub fn let_go(
    cancelled: &BTreeMap<(OrderId, LineId), Cancelled>,
    waiting: &BTreeMap<(OrderId, LineId), i64>,
    held: &[Held],
) -> Released {
    let mut of_line: BTreeMap<(OrderId, LineId), Vec<usize>> = BTreeMap::new();
    for (index, held) in held.iter().enumerate() {
        of_line.entry((held.order, held.line)).or_default().push(index);
    }
    let mut released = Released::default();
    for (&(order, line), units) in cancelled {
        let mut left = *units;
        let waits = waiting
            .get(&(order, line))
            .copied()
            .unwrap_or_default()
            .min(left.units());
        if waits > 0 {
            released.waiting.insert((order, line), waits);
        }
        // Nothing lies there for what waits: those that go to others are none the poorer.
        let restock = waits.min(left.restock);
        left.restock -= restock;
        left.lost -= waits - restock;

        let mut places = of_line.remove(&(order, line)).unwrap_or_default();
        places.sort_by_key(|index| std::cmp::Reverse((held[*index].priority, held[*index].location)));
        for index in places {
            let lost = left.lost.min(held[index].units);
            let restock = left.restock.min(held[index].units - lost);
            if lost + restock > 0 {
                released.reserved.push((index, lost + restock, lost));
            }
            left.lost -= lost;
            left.restock -= restock;
        }
        if left.units() > 0 {
            released.too_late.push((order, line, left.units()));
        }
    }
    released
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn key(n: u128) -> (OrderId, LineId) {
        (
            OrderId::from(Uuid::from_u128(n / 2)),
            LineId::from(Uuid::from_u128(n)),
        )
    }

    proptest! {
        /// F-3: never more is let go of than was cancelled, waits or is reserved; what is left over is told; and no unit
        /// leaves the stock that was to go to others.
        #[test]
        fn everything_cancelled_is_let_go_of_or_told(
            cancelled in prop::collection::btree_map(0..4_u128, (0..5_i64, 0..5_i64), 0..5),
            waiting in prop::collection::btree_map(0..4_u128, 1..5_i64, 0..5),
            reserved in prop::collection::btree_map((0..4_u128, 0..3_u128), 1..5_i64, 0..8),
        ) {
            let cancelled: BTreeMap<_, _> = cancelled
                .into_iter()
                .map(|(n, (restock, lost))| (key(n), Cancelled { restock, lost }))
                .collect();
            let waiting: BTreeMap<_, _> = waiting.into_iter().map(|(n, units)| (key(n), units)).collect();
            let held: Vec<Held> = reserved
                .into_iter()
                .map(|((n, place), units)| Held {
                    order: key(n).0,
                    line: key(n).1,
                    location: LocationId::from(Uuid::from_u128(place)),
                    priority: place as i32,
                    units,
                })
                .collect();
            let released = let_go(&cancelled, &waiting, &held);
            for (key, units) in &cancelled {
                let waited = released.waiting.get(key).copied().unwrap_or_default();
                let of_line = |index: &usize| (held[*index].order, held[*index].line) == *key;
                let taken: Vec<_> = released.reserved.iter().filter(|(index, ..)| of_line(index)).collect();
                let (gone, lost) = taken.iter().fold((0, 0), |sum, (_, units, lost)| (sum.0 + units, sum.1 + lost));
                let late: i64 = released.too_late.iter().filter(|(o, l, _)| (*o, *l) == *key).map(|late| late.2).sum();
                prop_assert_eq!(waited + gone + late, units.units());
                prop_assert!(waited <= waiting.get(key).copied().unwrap_or_default());
                prop_assert!(lost <= units.lost && gone - lost <= units.restock);
                if late > 0 {
                    let there: i64 = held.iter().filter(|h| (h.order, h.line) == *key).map(|h| h.units).sum();
                    prop_assert_eq!(gone, there);
                }
            }
            prop_assert!(released.reserved.iter().all(|(index, units, _)| *units > 0 && *units <= held[*index].units));
            prop_assert!(released.waiting.keys().all(|key| cancelled.contains_key(key)));
        }
    }
}
