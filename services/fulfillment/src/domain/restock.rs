//! Which shipments returned units go back to.
//!
//! Units come back to the shelf they left from, oldest shipment first, and never more than left (F-10): a return of units
//! that never shipped, or that were restocked before, puts nothing on any shelf.

use std::collections::BTreeMap;

use waybill_kernel::id::{LineId, OrderId, ShipmentId};

/// Units of a line that left in one shipment and have not come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Away {
    /// The order.
    pub order: OrderId,
    /// The line.
    pub line: LineId,
    /// The shipment.
    pub shipment: ShipmentId,
    /// How many units; more than 0.
    pub units: i64,
}

/// What came back, and what could not be placed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Restocked {
    /// Units per entry of what was away, by its index; entries that get nothing are left out.
    pub back: Vec<(usize, i64)>,
    /// Units per line that were never away.
    pub unplaced: Vec<(OrderId, LineId, i64)>,
}

/// Brings returned units back to where they left from. `away` is sorted, the oldest shipment first.
#[must_use]
pub fn bring_back(away: &[Away], returned: &BTreeMap<(OrderId, LineId), i64>) -> Restocked {
    let mut left = returned.clone();
    let mut restocked = Restocked::default();
    for (index, entry) in away.iter().enumerate() {
        let Some(units) = left.get_mut(&(entry.order, entry.line)) else {
            continue;
        };
        let back = entry.units.min(*units);
        if back > 0 {
            *units -= back;
            restocked.back.push((index, back));
        }
    }
    restocked.unplaced = left
        .into_iter()
        .filter(|(_, units)| *units > 0)
        .map(|((order, line), units)| (order, line, units))
        .collect();
    restocked
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn order() -> OrderId {
        OrderId::from(Uuid::from_u128(1))
    }

    fn line(number: u128) -> LineId {
        LineId::from(Uuid::from_u128(number))
    }

    fn away(of: u128, shipment: u128, units: i64) -> Away {
        Away {
            order: order(),
            line: line(of),
            shipment: ShipmentId::from(Uuid::from_u128(shipment)),
            units,
        }
    }

    #[test]
    fn the_oldest_shipment_is_refilled_first_and_the_rest_is_named() {
        let shipped = [away(1, 1, 2), away(2, 1, 1), away(1, 2, 3)];
        let returned = BTreeMap::from([((order(), line(1)), 4), ((order(), line(2)), 2)]);
        assert_eq!(
            bring_back(&shipped, &returned),
            Restocked {
                back: vec![(0, 2), (1, 1), (2, 2)],
                unplaced: vec![(order(), line(2), 1)]
            }
        );
    }

    proptest! {
        /// F-10: each unit comes back once or is named, and no shipment gets back more than left in it.
        #[test]
        fn never_more_comes_back_than_left(
            shipped in prop::collection::vec((1..4_u128, 1..6_i64), 0..8),
            returned in prop::collection::btree_map(1..4_u128, 1..9_i64, 0..4),
        ) {
            let shipped: Vec<Away> =
                (1_u128..).zip(shipped).map(|(shipment, (of, units))| away(of, shipment, units)).collect();
            let returned: BTreeMap<_, _> =
                returned.into_iter().map(|(of, units)| ((order(), line(of)), units)).collect();
            let restocked = bring_back(&shipped, &returned);
            for (index, units) in &restocked.back {
                prop_assert!(*units > 0 && *units <= shipped[*index].units);
            }
            for ((_, of), units) in &returned {
                let back: i64 = restocked.back.iter().filter(|(index, _)| shipped[*index].line == *of).map(|(_, u)| u).sum();
                let unplaced: i64 = restocked.unplaced.iter().filter(|(_, line, _)| line == of).map(|(_, _, u)| u).sum();
                let left: i64 = shipped.iter().filter(|entry| entry.line == *of).map(|entry| entry.units).sum();
                prop_assert_eq!(back + unplaced, *units);
                prop_assert_eq!(back, left.min(*units));
            }
        }
    }
}
