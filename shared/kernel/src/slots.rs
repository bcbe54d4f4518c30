//! Unit slots: a line of an order cut into its units, once, when the order is placed.
//!
//! Each unit gets a *slot*: how much of the line's net and of each of its taxes belongs to it. A refund names units and
//! pays what their slots owe, so any sequence of partial refunds sums to what was paid, in whatever order, with
//! whatever failures between. Multiplying a quantity by a rounded unit price would not: most amounts do not divide.
//!
//! Slots are not stored. The sum of the first k of them has a closed form, so a range of units is the difference of two
//! such sums, however long it is. With `R` for rounding half up, n units and k of them:
//!
//! - prices without tax: net and each tax are cut alike, `R(total * k / n)`;
//! - prices with tax included: the gross is cut, `c = R(gross * k / n)`; then each tax in turn takes its share of what
//!   is left, `x = R(tax * c / rest)`, where `rest` is the gross still to be shared out; what remains of `c` is the net.
//!
//! A slot is never negative. The amount the customer saw (the gross with tax included, else net and each tax) is within
//! one minor unit of its mean; with tax included, the parts of the gross may be off by one more per tax of the line.
//!
//! What this module does not do: it does not split discounts over lines (see [`crate::alloc::largest_remainder`]; it
//! must be done before, since a discount that is cut on its own can make a unit negative), does not remember which units
//! were refunded, and never computes a tax from a rate.

use std::ops::Range;

use crate::alloc::round_half_up_div;

/// What one unit, or several together, carry of their line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Slot {
    /// Part of the line's net.
    pub net: i64,
    /// Parts of the line's taxes, in the line's order.
    pub taxes: Vec<i64>,
}

impl Slot {
    /// Sum of the taxes.
    #[must_use]
    pub fn tax(&self) -> i64 {
        self.taxes.iter().sum()
    }

    /// Net and taxes together: what the customer paid.
    #[must_use]
    pub fn gross(&self) -> i64 {
        self.net + self.tax()
    }

    fn minus(mut self, other: &Self) -> Self {
        self.net -= other.net;
        self.taxes
            .iter_mut()
            .zip(&other.taxes)
            .for_each(|(tax, less)| *tax -= less);
        self
    }

    fn plus(mut self, other: &Self) -> Self {
        self.net += other.net;
        self.taxes
            .iter_mut()
            .zip(&other.taxes)
            .for_each(|(tax, more)| *tax += more);
        self
    }
}

/// Why a line cannot be cut, or units cannot be taken from it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    /// A line has at least one unit.
    #[error("quantity is 0: a line has at least one unit")]
    NoUnits,
    /// Discounts were not split over the lines before, or were larger than the line.
    #[error(
        "{part} is {amount}: only amounts of zero or more can be cut, so take discounts off the line first"
    )]
    Negative {
        /// Which part: `net` or `taxes[i]`.
        part: String,
        /// Its amount in minor units.
        amount: i64,
    },
    /// Net and taxes together do not fit into 64 bits.
    #[error("net and taxes together overflow 64 bits of minor units")]
    Overflow,
    /// The line has no such units.
    #[error("units {start}..{end} are not units of a line of {quantity}: units are numbered from 0")]
    NoSuchUnits {
        /// First unit asked for.
        start: u32,
        /// One past the last unit asked for.
        end: u32,
        /// How many units the line has.
        quantity: u32,
    },
    /// A unit was named twice.
    #[error("unit {unit} is named twice: each unit of a line can be taken once")]
    Repeated {
        /// The unit.
        unit: u32,
    },
}

/// The amounts of a line and how they are cut. Net and taxes are what was paid: discounts are already off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineCut {
    net: i64,
    taxes: Vec<i64>,
    quantity: u32,
    inclusive: bool,
}

impl LineCut {
    /// A line of `quantity` units. `net` is without tax in both cases; `inclusive` says that the price the customer saw
    /// had the taxes in it, so that it is the gross that must be cut evenly.
    ///
    /// # Errors
    /// When there are no units, an amount is negative, or the gross overflows.
    pub fn new(net: i64, taxes: Vec<i64>, quantity: u32, inclusive: bool) -> Result<Self, SlotError> {
        if quantity == 0 {
            return Err(SlotError::NoUnits);
        }
        if net < 0 {
            return Err(SlotError::Negative {
                part: "net".to_owned(),
                amount: net,
            });
        }
        if let Some((index, &amount)) = taxes.iter().enumerate().find(|(_, amount)| **amount < 0) {
            return Err(SlotError::Negative {
                part: format!("taxes[{index}]"),
                amount,
            });
        }
        taxes
            .iter()
            .try_fold(net, |sum, &tax| sum.checked_add(tax))
            .ok_or(SlotError::Overflow)?;
        Ok(Self {
            net,
            taxes,
            quantity,
            inclusive,
        })
    }

    /// How many units the line has. They are numbered from 0.
    #[must_use]
    pub fn quantity(&self) -> u32 {
        self.quantity
    }

    /// Whether the taxes were included in the price.
    #[must_use]
    pub fn inclusive(&self) -> bool {
        self.inclusive
    }

    /// The whole line: the sum of all its slots.
    #[must_use]
    pub fn whole(&self) -> Slot {
        Slot {
            net: self.net,
            taxes: self.taxes.clone(),
        }
    }

    /// The slot of one unit.
    ///
    /// # Errors
    /// When the line has no such unit.
    pub fn slot(&self, unit: u32) -> Result<Slot, SlotError> {
        self.sum_of(&[unit])
    }

    /// The sum of a range of units, at a cost that does not depend on its length.
    ///
    /// # Errors
    /// When the range is reversed or reaches past the line.
    pub fn sum(&self, units: Range<u32>) -> Result<Slot, SlotError> {
        let Range { start, end } = units;
        if start > end || end > self.quantity {
            return Err(SlotError::NoSuchUnits {
                start,
                end,
                quantity: self.quantity,
            });
        }
        Ok(self.first(end).minus(&self.first(start)))
    }

    /// The sum of any set of units, in any order.
    ///
    /// # Errors
    /// When a unit is named twice or is not of the line.
    pub fn sum_of(&self, units: &[u32]) -> Result<Slot, SlotError> {
        let mut units = units.to_vec();
        units.sort_unstable();
        if let Some(pair) = units.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(SlotError::Repeated { unit: pair[0] });
        }
        if let Some(&unit) = units.last().filter(|unit| **unit >= self.quantity) {
            let end = unit.saturating_add(1);
            return Err(SlotError::NoSuchUnits {
                start: unit,
                end,
                quantity: self.quantity,
            });
        }
        let nothing = Slot {
            net: 0,
            taxes: vec![0; self.taxes.len()],
        };
        // Below the quantity, so `+ 1` cannot overflow.
        units
            .chunk_by(|left, right| left + 1 == *right)
            .try_fold(nothing, |sum, run| {
                Ok(sum.plus(&self.sum(run[0]..run[run.len() - 1] + 1)?))
            })
    }

    /// The sum of the first `k` units.
    fn first(&self, k: u32) -> Slot {
        if self.inclusive {
            self.first_inclusive(k)
        } else {
            self.first_exclusive(k)
        }
    }

    fn first_exclusive(&self, k: u32) -> Slot {
        let cut = |total: i64| share(total, i64::from(k), i64::from(self.quantity));
        Slot {
            net: cut(self.net),
            taxes: self.taxes.iter().map(|&tax| cut(tax)).collect(),
        }
    }

    fn first_inclusive(&self, k: u32) -> Slot {
        let mut rest = self.whole().gross();
        let mut paid = share(rest, i64::from(k), i64::from(self.quantity));
        let mut taxes = Vec::with_capacity(self.taxes.len());
        for &tax in &self.taxes {
            let part = if rest == 0 { 0 } else { share(tax, paid, rest) };
            paid -= part;
            rest -= tax;
            taxes.push(part);
        }
        Slot { net: paid, taxes }
    }
}

/// `R(total * part / whole)`, for `part` of 0 to `whole`.
fn share(total: i64, part: i64, whole: i64) -> i64 {
    let exact = i128::from(total) * i128::from(part);
    i64::try_from(round_half_up_div(exact, i128::from(whole))).expect("a share is no larger than the total")
}
