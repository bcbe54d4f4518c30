//! The fulfillment facet: how many units need shipping, are shipped, are delivered.
//!
//! Counted per line and summed per order. Counts only grow, and never beyond what was ordered: a parcel that replaces a
//! lost one ships the same units again and changes nothing (O-5).

use serde::{Deserialize, Serialize};

/// Where the goods of an order stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FulfillmentStatus {
    /// Nothing shipped.
    Unfulfilled,
    /// Some units shipped.
    PartiallyFulfilled,
    /// All units that need shipping are shipped; also an order of which nothing needs shipping.
    Fulfilled,
    /// All units shipped, some delivered.
    PartiallyDelivered,
    /// All units delivered.
    Delivered,
}

keys! { FulfillmentStatus {
    Unfulfilled = "UNFULFILLED",
    PartiallyFulfilled = "PARTIALLY_FULFILLED",
    Fulfilled = "FULFILLED",
    PartiallyDelivered = "PARTIALLY_DELIVERED",
    Delivered = "DELIVERED",
} }

/// Units of a whole order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goods {
    /// Units that need shipping: all but the digital ones.
    pub to_ship: i64,
    /// Units shipped.
    pub shipped: i64,
    /// Units delivered.
    pub delivered: i64,
    /// Of the units that need shipping, those that were cancelled.
    #[serde(default)]
    pub cancelled: i64,
}

/// Units of one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineGoods {
    /// Units ordered.
    pub quantity: i32,
    /// Units shipped.
    pub shipped: i32,
    /// Units delivered.
    pub delivered: i32,
}

impl LineGoods {
    fn after(self, shipped: i32, delivered: i32) -> LineGoods {
        let delivered = self.delivered.saturating_add(delivered).min(self.quantity);
        // What has arrived was shipped, whether or not we were told.
        let shipped = self
            .shipped
            .saturating_add(shipped)
            .min(self.quantity)
            .max(delivered);
        LineGoods {
            shipped,
            delivered,
            ..self
        }
    }
}

impl Goods {
    /// Units of an order of which nothing is shipped.
    #[must_use]
    pub const fn of(to_ship: i64) -> Goods {
        Goods {
            to_ship,
            shipped: 0,
            delivered: 0,
            cancelled: 0,
        }
    }

    /// Units that need shipping and were not cancelled.
    const fn wanted(self) -> i64 {
        self.to_ship - self.cancelled
    }

    /// Units of a line were handed to a carrier.
    pub fn ship(&mut self, line: &mut LineGoods, units: i32) {
        self.change(line, line.after(units.max(0), 0));
    }

    /// Units of a line have arrived.
    pub fn deliver(&mut self, line: &mut LineGoods, units: i32) {
        self.change(line, line.after(0, units.max(0)));
    }

    fn change(&mut self, line: &mut LineGoods, after: LineGoods) {
        self.shipped += i64::from(after.shipped - line.shipped);
        self.delivered += i64::from(after.delivered - line.delivered);
        *line = after;
    }

    /// Whether there was something to ship and all of it has left.
    #[must_use]
    pub const fn all_shipped(self) -> bool {
        self.wanted() > 0 && self.shipped >= self.wanted()
    }

    /// Whether everything that needs shipping and was not cancelled has arrived.
    #[must_use]
    pub const fn all_arrived(self) -> bool {
        self.delivered >= self.wanted()
    }

    /// Where the goods stand.
    #[must_use]
    pub const fn status(self) -> FulfillmentStatus {
        if self.wanted() == 0 {
            FulfillmentStatus::Fulfilled
        } else if self.all_arrived() {
            FulfillmentStatus::Delivered
        } else if self.shipped < self.wanted() {
            if self.shipped == 0 {
                FulfillmentStatus::Unfulfilled
            } else {
                FulfillmentStatus::PartiallyFulfilled
            }
        } else if self.delivered == 0 {
            FulfillmentStatus::Fulfilled
        } else {
            FulfillmentStatus::PartiallyDelivered
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn two_parcels_from_the_shelf_to_the_door() {
        let mut goods = Goods::of(5);
        let mut books = LineGoods {
            quantity: 2,
            shipped: 0,
            delivered: 0,
        };
        let mut pens = LineGoods {
            quantity: 3,
            shipped: 0,
            delivered: 0,
        };
        assert_eq!(goods.status(), FulfillmentStatus::Unfulfilled);
        goods.ship(&mut books, 2);
        assert_eq!(goods.status(), FulfillmentStatus::PartiallyFulfilled);
        goods.deliver(&mut books, 2);
        assert_eq!(
            goods.status(),
            FulfillmentStatus::PartiallyFulfilled,
            "pens are still on the shelf"
        );
        goods.ship(&mut pens, 3);
        assert_eq!(goods.status(), FulfillmentStatus::PartiallyDelivered);
        goods.deliver(&mut pens, 3);
        assert_eq!(goods.status(), FulfillmentStatus::Delivered);
    }

    #[test]
    fn nothing_to_ship_is_fulfilled_and_has_arrived() {
        assert_eq!(Goods::of(0).status(), FulfillmentStatus::Fulfilled);
        assert!(Goods::of(0).all_arrived());
    }

    #[test]
    fn a_replacement_parcel_changes_nothing() {
        let mut goods = Goods::of(1);
        let mut line = LineGoods {
            quantity: 1,
            shipped: 0,
            delivered: 0,
        };
        goods.ship(&mut line, 1);
        let once = goods;
        goods.ship(&mut line, 1);
        assert_eq!(goods, once);
        goods.deliver(&mut line, 1);
        goods.deliver(&mut line, i32::MAX);
        assert_eq!(
            goods,
            Goods {
                to_ship: 1,
                shipped: 1,
                delivered: 1,
                cancelled: 0,
            }
        );
    }

    proptest! {
        /// O-5 over every history: sums equal the lines, stay within what was ordered, and only grow, as does the status.
        #[test]
        fn counts_only_grow_and_stay_within_bounds(
            quantities in proptest::collection::vec(1..6_i32, 1..6),
            steps in proptest::collection::vec((any::<bool>(), 0..6_usize, -1..8_i32), 0..40),
        ) {
            let mut lines: Vec<LineGoods> = (quantities.iter())
                .map(|&quantity| LineGoods { quantity, shipped: 0, delivered: 0 })
                .collect();
            let mut goods = Goods::of(quantities.iter().map(|&q| i64::from(q)).sum());
            for (deliver, at, units) in steps {
                let before = goods;
                let at = at % lines.len();
                if deliver { goods.deliver(&mut lines[at], units) } else { goods.ship(&mut lines[at], units) }

                prop_assert_eq!(goods.shipped, lines.iter().map(|l| i64::from(l.shipped)).sum::<i64>());
                prop_assert_eq!(goods.delivered, lines.iter().map(|l| i64::from(l.delivered)).sum::<i64>());
                for line in &lines {
                    prop_assert!(0 <= line.delivered && line.delivered <= line.shipped && line.shipped <= line.quantity);
                }
                prop_assert!(before.shipped <= goods.shipped && before.delivered <= goods.delivered);
                prop_assert!(before.status() <= goods.status(), "{:?} after {:?}", goods, before);
                prop_assert_eq!(goods.all_arrived(), goods.status() == FulfillmentStatus::Delivered);
            }
        }
    }
}
