//! What an order should be, worked out from the list of its units and nothing else.

use crate::domain::goods::FulfillmentStatus;
use crate::domain::order::Line;
use crate::domain::payment::{PaymentKind, PaymentStatus};
use crate::domain::state::Status;

/// What became of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Waits,
    Shipped,
    Delivered,
    Gone,
}

/// A unit of a line.
#[derive(Debug, Clone)]
pub(super) struct Unit {
    pub(super) cost: i64,
    digital: bool,
    pub(super) fate: Fate,
}

/// An order as a list of units, and the money that moved.
#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    pub(super) lines: Vec<Vec<Unit>>,
    pub(super) captured: i64,
    authorized: i64,
    voided: i64,
    /// What is disputed, and what of it was lost.
    pub(super) disputed: i64,
    pub(super) lost: i64,
    /// What was captured for units that are gone.
    pub(super) back: i64,
    /// What of it the order was told of.
    pub(super) told: i64,
    pub(super) holds: u32,
    pub(super) cancelled: bool,
    pub(super) completed: bool,
}

fn rounded(part: i64, of: i64, whole: i64) -> i64 {
    let twice = 2 * i128::from(part) * i128::from(of) + i128::from(whole);
    i64::try_from(twice / (2 * i128::from(whole))).expect("a part of it")
}

/// What the first `k` units of a line cost, by the rules in words: prices with tax are cut as what is paid, others part by
/// part.
fn first(line: &Line, inclusive: bool, k: i64) -> i64 {
    let n = i64::from(line.quantity);
    if inclusive {
        return rounded(line.total, k, n);
    }
    let taxes: i64 = line.taxes.iter().map(|tax| rounded(tax.amount, k, n)).sum();
    rounded(line.net, k, n) + taxes
}

impl Model {
    pub(super) fn add(&mut self, line: &Line, inclusive: bool) {
        let unit = |k: i64| Unit {
            cost: first(line, inclusive, k) - first(line, inclusive, k - 1),
            digital: line.digital,
            fate: Fate::Waits,
        };
        self.lines
            .push((1..=i64::from(line.quantity)).map(unit).collect());
    }

    fn units(&self) -> impl Iterator<Item = &Unit> {
        self.lines.iter().flatten()
    }

    pub(super) fn count(&self, line: usize, fates: &[Fate]) -> i32 {
        let those = self.lines[line].iter().filter(|unit| fates.contains(&unit.fate));
        i32::try_from(those.count()).expect("few units")
    }

    pub(super) fn is_digital(&self, line: usize) -> bool {
        self.lines[line].iter().any(|unit| unit.digital)
    }

    /// Units that have left, whatever became of them.
    pub(super) fn shipped(&self, line: usize) -> i32 {
        self.count(line, &[Fate::Shipped, Fate::Delivered])
    }

    /// Units that are there.
    pub(super) fn left(&self, line: usize) -> i32 {
        self.count(line, &[Fate::Waits, Fate::Shipped, Fate::Delivered])
    }

    /// Moves units of a line from one fate to another: the first of them, or the last.
    pub(super) fn turn(&mut self, line: usize, units: i32, (from, to): (Fate, Fate), last: bool) -> i64 {
        let mut cost = 0;
        for _ in 0..units {
            let of = &mut self.lines[line];
            let at = if last {
                of.iter().rposition(|unit| unit.fate == from)
            } else {
                of.iter().position(|unit| unit.fate == from)
            };
            let unit = &mut of[at.expect("so many units")];
            unit.fate = to;
            cost += unit.cost;
        }
        cost
    }

    /// What was paid beyond what is left goes back, for units that cost this and are gone.
    pub(super) fn pay_back(&mut self, worth: i64) -> i64 {
        let back = (self.captured - self.back - self.due()).clamp(0, worth);
        self.back += back;
        back
    }

    /// What is to be paid: every unit that is not gone.
    pub(super) fn due(&self) -> i64 {
        let there = self.units().filter(|unit| unit.fate != Fate::Gone);
        there.map(|unit| unit.cost).sum()
    }

    /// What is still to be paid: all of that, less what is there.
    pub(super) fn open(&self) -> i64 {
        self.due() - (self.captured - self.back)
    }

    /// Takes a payment, if it can be.
    pub(super) fn pay(&mut self, kind: PaymentKind, amount: i64) -> bool {
        let can = match kind {
            PaymentKind::Authorization => true,
            PaymentKind::Capture => amount <= self.open(),
            PaymentKind::Void => amount <= self.authorized - self.voided,
            PaymentKind::Failure | PaymentKind::Dispute => true,
            PaymentKind::DisputeWon | PaymentKind::DisputeLost => amount <= self.disputed,
        };
        if can {
            match kind {
                PaymentKind::Authorization => self.authorized += amount,
                PaymentKind::Capture => self.captured += amount,
                PaymentKind::Void => self.voided += amount,
                PaymentKind::Failure => {}
                PaymentKind::Dispute => self.disputed += amount,
                PaymentKind::DisputeWon => self.disputed -= amount,
                PaymentKind::DisputeLost => {
                    self.disputed -= amount;
                    self.lost += amount;
                }
            }
        }
        can
    }

    /// Units that need shipping and are there, by how far they are: all, left the house, arrived.
    fn physical(&self) -> (usize, usize, usize) {
        let of = |fates: &[Fate]| {
            let those = self
                .units()
                .filter(|unit| !unit.digital && fates.contains(&unit.fate));
            those.count()
        };
        (
            of(&[Fate::Waits, Fate::Shipped, Fate::Delivered]),
            of(&[Fate::Shipped, Fate::Delivered]),
            of(&[Fate::Delivered]),
        )
    }

    pub(super) fn anything_shipped(&self) -> bool {
        self.physical().1 > 0
    }

    pub(super) fn all_shipped(&self) -> bool {
        let (there, shipped, _) = self.physical();
        there > 0 && shipped == there
    }

    pub(super) fn is_final(&self) -> bool {
        self.cancelled || self.completed
    }

    /// Completes it when nothing is missing.
    pub(super) fn look(&mut self) {
        let (there, _, arrived) = self.physical();
        let done = self.open() == 0 && arrived == there;
        self.completed |= !self.cancelled && self.holds == 0 && done;
    }

    pub(super) fn status(&self) -> Status {
        match (self.cancelled, self.completed, self.holds) {
            (true, ..) => Status::Cancelled,
            (_, true, _) => Status::Completed,
            (_, _, 0) => Status::Open,
            _ => Status::OnHold,
        }
    }

    pub(super) fn payment_status(&self) -> PaymentStatus {
        if self.captured > 0 && self.told > 0 {
            if self.told < self.captured {
                PaymentStatus::PartiallyRefunded
            } else {
                PaymentStatus::Refunded
            }
        } else if self.open() == 0 {
            PaymentStatus::Paid
        } else if self.captured > 0 {
            PaymentStatus::PartiallyPaid
        } else if self.authorized > self.voided {
            PaymentStatus::Authorized
        } else if self.voided > 0 {
            PaymentStatus::Voided
        } else {
            PaymentStatus::Pending
        }
    }

    pub(super) fn fulfillment_status(&self) -> FulfillmentStatus {
        match self.physical() {
            (0, ..) => FulfillmentStatus::Fulfilled,
            (there, _, arrived) if arrived == there => FulfillmentStatus::Delivered,
            (_, 0, _) => FulfillmentStatus::Unfulfilled,
            (there, shipped, _) if shipped < there => FulfillmentStatus::PartiallyFulfilled,
            (_, _, 0) => FulfillmentStatus::Fulfilled,
            _ => FulfillmentStatus::PartiallyDelivered,
        }
    }
}
