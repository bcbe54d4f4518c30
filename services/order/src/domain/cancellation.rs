//! Cancelling units of lines: which units, and what they cost.
//!
//! A line was cut into units when it was placed (`waybill_kernel::slots`), so what is cancelled bit by bit sums to what
//! the line costs, whatever the steps (O-16). Refunds name a line's lowest free units; a cancellation takes the highest
//! ones that are left, so that the two meet only when nothing else is left between them.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use waybill_kernel::id::{CancellationId, LineId};
use waybill_kernel::slots::LineCut;

/// A line as far as a cancellation needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderedLine {
    /// Stock keeping unit.
    pub sku: String,
    /// Nothing of it is shipped.
    pub digital: bool,
    /// The frozen cut; it knows how many units the line has.
    pub cut: LineCut,
    /// Units that have shipped.
    pub shipped: i32,
    /// Units that were cancelled before.
    pub cancelled: i32,
}

impl OrderedLine {
    fn quantity(&self) -> i32 {
        self.cut.quantity().cast_signed()
    }

    /// Units that were not cancelled.
    #[must_use]
    pub fn left(&self) -> i32 {
        self.quantity() - self.cancelled
    }

    /// Units that can still be cancelled.
    #[must_use]
    pub fn free(&self) -> i32 {
        (self.quantity() - self.shipped - self.cancelled).max(0)
    }

    /// Where its units stand.
    #[must_use]
    pub fn units(&self) -> Units {
        Units {
            ordered: self.quantity(),
            shipped: self.shipped,
            cancelled: self.cancelled,
            free: self.free(),
        }
    }

    /// So many of the highest units that are left, at what they were cut into; none when not so many are free.
    #[must_use]
    pub fn highest(&self, line: LineId, units: i32) -> Option<CancelledUnits> {
        if units > self.free() {
            return None;
        }
        let end = self.quantity() - self.cancelled;
        let first = end - units;
        let slot = self.cut.sum(first.unsigned_abs()..end.unsigned_abs()).ok()?;
        Some(CancelledUnits {
            line,
            first: first + 1,
            units,
            net: slot.net,
            tax: slot.tax(),
        })
    }
}

/// Units of a line that were cancelled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelledUnits {
    /// The line.
    pub line: LineId,
    /// The first of the units, counted from 1; they are neighbours.
    pub first: i32,
    /// How many.
    pub units: i32,
    /// What they cost without tax.
    pub net: i64,
    /// The tax on that.
    pub tax: i64,
}

impl CancelledUnits {
    /// What the customer would have paid for them.
    #[must_use]
    pub fn total(&self) -> i64 {
        self.net + self.tax
    }
}

/// A cancellation of units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cancellation {
    /// Its id.
    pub id: CancellationId,
    /// Why.
    pub reason: String,
    /// Whether what was reserved for them can be sold to others.
    pub restock: bool,
    /// The units, each line once.
    pub lines: Vec<CancelledUnits>,
    /// When.
    pub at: DateTime<Utc>,
    /// The order's version with it.
    pub version: i64,
}

impl Cancellation {
    /// What the order costs less.
    #[must_use]
    pub fn amount(&self) -> i64 {
        self.lines.iter().map(CancelledUnits::total).sum()
    }
}

/// What a cancellation would take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cut {
    /// These units; others are left.
    Units {
        /// Each line once, in the order they were asked for.
        lines: Vec<CancelledUnits>,
        /// How many of the units would have been shipped.
        to_ship: i64,
    },
    /// Every unit of the order: that is a cancellation of the order.
    Everything,
}

/// A line of which not so many units can be cancelled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotFree {
    /// Its place in what was asked.
    pub index: usize,
    /// The line.
    pub line: LineId,
    /// Units asked for.
    pub asked: i32,
    /// What the line has; none when the order has no such line.
    pub of: Option<Units>,
}

/// Where the units of a line stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Units {
    /// Units ordered.
    pub ordered: i32,
    /// Of these, units that have shipped.
    pub shipped: i32,
    /// Of these, units that were cancelled.
    pub cancelled: i32,
    /// Of these, units that can still be cancelled.
    pub free: i32,
}

/// Takes units of lines, each line once and more than 0 of it.
///
/// # Errors
/// All lines that have not so many free units.
pub fn cut(lines: &BTreeMap<LineId, OrderedLine>, asked: &[(LineId, i32)]) -> Result<Cut, Vec<NotFree>> {
    let mut refused = Vec::new();
    let mut taken = Vec::with_capacity(asked.len());
    let mut to_ship = 0;
    for (index, &(line, units)) in asked.iter().enumerate() {
        let of = lines.get(&line);
        match of.and_then(|of| Some((of, of.highest(line, units)?))) {
            Some((of, part)) => {
                taken.push(part);
                to_ship += if of.digital { 0 } else { i64::from(units) };
            }
            None => refused.push(NotFree {
                index,
                line,
                asked: units,
                of: of.map(OrderedLine::units),
            }),
        }
    }
    if !refused.is_empty() {
        return Err(refused);
    }
    let now: BTreeMap<LineId, i32> = asked.iter().copied().collect();
    let everything = (lines.iter())
        .all(|(line, of)| of.cancelled + now.get(line).copied().unwrap_or_default() == of.quantity());
    Ok(if everything {
        Cut::Everything
    } else {
        Cut::Units {
            lines: taken,
            to_ship,
        }
    })
}

#[cfg(test)]
#[path = "cancellation_tests.rs"]
mod tests;
