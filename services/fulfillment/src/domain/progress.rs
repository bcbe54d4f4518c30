//! Where the units of one order stand: waiting for stock, reserved, shipped or released (F-3).
//!
//! Every unit that needs shipping is in exactly one of these places, and only moves forward: from waiting to reserved,
//! from reserved to shipped, and from waiting or reserved to released. Digital units are not counted at all. Which
//! units they are is not known here: this is the sum, which the database repeats as a constraint.

use serde::{Deserialize, Serialize};

/// Units of an order by where they stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// All units that need shipping. The sum of the next four.
    pub units: i64,
    /// Wait for stock.
    pub waiting: i64,
    /// Reserved at a location, not shipped.
    pub reserved: i64,
    /// Handed to a carrier.
    pub shipped: i64,
    /// Let go because they were cancelled.
    pub released: i64,
    /// Of the shipped ones, those that the customer has.
    pub delivered: i64,
    /// The order was cancelled: nothing of it is reserved any more, or ever again.
    pub cancelled: bool,
}

/// Where the goods of an order stand with the warehouse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllocationStatus {
    /// Every unit that is still to ship is reserved.
    Allocated,
    /// At least one unit waits for stock.
    Backordered,
    /// Nothing is left to ship. Also an order that never needed shipping.
    Shipped,
    /// Cancelled.
    Released,
}

/// A move that would put a unit into two places or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot {verb} {wanted} units where {have} are {place}")]
pub struct ProgressError {
    verb: &'static str,
    wanted: i64,
    have: i64,
    place: &'static str,
}

fn take(from: &mut i64, wanted: i64, verb: &'static str, place: &'static str) -> Result<(), ProgressError> {
    if wanted < 0 || wanted > *from {
        return Err(ProgressError {
            verb,
            wanted,
            have: *from,
            place,
        });
    }
    *from -= wanted;
    Ok(())
}

impl Progress {
    /// A new order: all its units wait.
    #[must_use]
    pub fn of(units: i64) -> Self {
        Self {
            units,
            waiting: units,
            ..Self::default()
        }
    }

    /// Units came to the order: they wait.
    ///
    /// # Errors
    /// When the order was cancelled, or it would have more units than can be counted; nothing has changed then.
    pub fn add(&mut self, units: i64) -> Result<(), ProgressError> {
        let all = self.units.checked_add(units);
        match all.filter(|_| units >= 0 && !self.cancelled) {
            Some(all) => {
                self.units = all;
                self.waiting += units;
                Ok(())
            }
            None => Err(ProgressError {
                verb: "add",
                wanted: units,
                have: self.units,
                place: if self.cancelled { "cancelled" } else { "ordered" },
            }),
        }
    }

    /// Waiting units were reserved.
    ///
    /// # Errors
    /// When fewer wait.
    pub fn reserve(&mut self, units: i64) -> Result<(), ProgressError> {
        take(&mut self.waiting, units, "reserve", "waiting")?;
        self.reserved += units;
        Ok(())
    }

    /// Reserved units were handed to a carrier.
    ///
    /// # Errors
    /// When fewer are reserved.
    pub fn ship(&mut self, units: i64) -> Result<(), ProgressError> {
        take(&mut self.reserved, units, "ship", "reserved")?;
        self.shipped += units;
        Ok(())
    }

    /// Shipped units arrived.
    ///
    /// # Errors
    /// When fewer are on their way.
    pub fn deliver(&mut self, units: i64) -> Result<(), ProgressError> {
        let mut on_their_way = self.shipped - self.delivered;
        take(&mut on_their_way, units, "deliver", "on their way")?;
        self.delivered += units;
        Ok(())
    }

    /// Delivered units went back to the sender.
    ///
    /// # Errors
    /// When fewer are delivered.
    pub fn undeliver(&mut self, units: i64) -> Result<(), ProgressError> {
        take(&mut self.delivered, units, "take back", "delivered")
    }

    /// Waiting and reserved units were cancelled and are let go of.
    ///
    /// # Errors
    /// When fewer wait or are reserved; nothing has changed then.
    pub fn release(&mut self, waiting: i64, reserved: i64) -> Result<(), ProgressError> {
        let mut after = *self;
        take(&mut after.waiting, waiting, "release", "waiting")?;
        take(&mut after.reserved, reserved, "release", "reserved")?;
        after.released += waiting + reserved;
        *self = after;
        Ok(())
    }

    /// The order was cancelled: what has not shipped is let go.
    pub fn cancel(&mut self) {
        self.released += self.waiting + self.reserved;
        self.waiting = 0;
        self.reserved = 0;
        self.cancelled = true;
    }

    /// What that makes the order.
    #[must_use]
    pub fn status(&self) -> AllocationStatus {
        if self.cancelled {
            AllocationStatus::Released
        } else if self.waiting > 0 {
            AllocationStatus::Backordered
        } else if self.reserved > 0 {
            AllocationStatus::Allocated
        } else {
            AllocationStatus::Shipped
        }
    }

    /// Whether something shipped and nothing is left to ship.
    #[must_use]
    pub fn is_fully_shipped(&self) -> bool {
        self.shipped > 0 && self.waiting == 0 && self.reserved == 0
    }

    /// Whether everything that was to ship has arrived.
    #[must_use]
    pub fn is_fully_delivered(&self) -> bool {
        self.is_fully_shipped() && self.delivered == self.shipped
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_order_walks_from_waiting_to_delivered() {
        let mut order = Progress::of(3);
        assert_eq!(order.status(), AllocationStatus::Backordered);
        order.reserve(2).expect("two came in");
        assert_eq!(order.status(), AllocationStatus::Backordered);
        order.ship(2).expect("a part ships");
        assert!(!order.is_fully_shipped(), "one still waits");
        order.reserve(1).expect("the last came in");
        assert_eq!(order.status(), AllocationStatus::Allocated);
        order.ship(1).expect("the rest ships");
        assert_eq!(order.status(), AllocationStatus::Shipped);
        assert!(order.is_fully_shipped());
        order.deliver(2).expect("a part arrives");
        assert!(!order.is_fully_delivered());
        order.deliver(1).expect("the rest arrives");
        assert!(order.is_fully_delivered());
        order.undeliver(1).expect("a parcel went back");
        assert!(!order.is_fully_delivered());
    }

    #[test]
    fn an_order_without_goods_has_nothing_to_ship_and_never_ships() {
        let order = Progress::of(0);
        assert_eq!(order.status(), AllocationStatus::Shipped);
        assert!(!order.is_fully_shipped() && !order.is_fully_delivered());
    }

    #[test]
    fn cancelling_lets_go_of_what_has_not_shipped() {
        let mut order = Progress::of(5);
        order.reserve(3).expect("three are there");
        order.ship(1).expect("one left");
        order.cancel();
        assert_eq!(
            (order.waiting, order.reserved, order.shipped, order.released),
            (0, 0, 1, 4)
        );
        assert_eq!(order.status(), AllocationStatus::Released);
        assert!(order.is_fully_shipped(), "nothing else will ship");
    }

    #[test]
    fn a_refused_move_names_the_numbers() {
        let mut order = Progress::of(1);
        let error = order.ship(1).expect_err("nothing is reserved");
        assert_eq!(error.to_string(), "cannot ship 1 units where 0 are reserved");
        assert_eq!(order, Progress::of(1), "and changes nothing");
    }

    #[test]
    fn what_comes_later_waits_and_ships_like_the_rest() {
        let mut order = Progress::of(1);
        order.reserve(1).expect("it is there");
        order.ship(1).expect("it leaves");
        assert!(order.is_fully_shipped());
        order.add(2).expect("the order goes on");
        assert_eq!((order.units, order.status()), (3, AllocationStatus::Backordered));
        assert!(!order.is_fully_shipped());
        order.cancel();
        let before = order;
        let error = order.add(1).expect_err("it was cancelled").to_string();
        assert_eq!(
            (error.as_str(), order),
            ("cannot add 1 units where 3 are cancelled", before)
        );
    }

    #[derive(Debug, Clone, Copy)]
    enum Move {
        Add(i64),
        Reserve(i64),
        Ship(i64),
        Deliver(i64),
        Undeliver(i64),
        Release(i64, i64),
        Cancel,
    }

    fn moves() -> impl Strategy<Value = Move> {
        prop_oneof![
            (-1..4_i64).prop_map(Move::Add),
            (-1..6_i64).prop_map(Move::Reserve),
            (-1..6_i64).prop_map(Move::Ship),
            (-1..6_i64).prop_map(Move::Deliver),
            (-1..6_i64).prop_map(Move::Undeliver),
            (-1..4_i64, -1..4_i64).prop_map(|(waiting, reserved)| Move::Release(waiting, reserved)),
            Just(Move::Cancel),
        ]
    }

    proptest! {
        /// F-3: whatever happens, each unit is in exactly one place, and a refused move changes nothing.
        #[test]
        fn every_unit_is_in_exactly_one_place(units in 0..10_i64, moves in prop::collection::vec(moves(), 0..40)) {
            let mut order = Progress::of(units);
            let mut units = units;
            for step in moves {
                let before = order;
                let refused = match step {
                    Move::Add(n) => match order.add(n) {
                        Ok(()) => { units += n; false }
                        Err(_) => true,
                    },
                    Move::Reserve(n) => order.reserve(n).is_err(),
                    Move::Ship(n) => order.ship(n).is_err(),
                    Move::Deliver(n) => order.deliver(n).is_err(),
                    Move::Undeliver(n) => order.undeliver(n).is_err(),
                    Move::Release(w, r) => order.release(w, r).is_err(),
                    Move::Cancel => { order.cancel(); false }
                };
                if refused {
                    prop_assert_eq!(order, before);
                }
                let places = [order.waiting, order.reserved, order.shipped, order.released];
                prop_assert!(places.iter().all(|place| *place >= 0));
                prop_assert_eq!(places.iter().sum::<i64>(), units);
                prop_assert!((0..=order.shipped).contains(&order.delivered));
                prop_assert!(order.shipped >= before.shipped, "what has shipped stays shipped");
                prop_assert!(!order.cancelled || order.waiting + order.reserved == 0);
            }
        }
    }
}
