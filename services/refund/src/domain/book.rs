//! What is known of an order's money: its lines with their frozen cuts, the units that are taken, and the payments.
//!
//! A book is loaded under the row lock of its order and decided upon; it is a snapshot and is never written back as a
//! whole. Amounts come from the frozen cut of a line and from nowhere else: no price is multiplied and no tax computed.

use chrono::{DateTime, Utc};
use waybill_kernel::alloc;
use waybill_kernel::id::{LineId, MerchantId, OrderId, PaymentId, StoreId};
use waybill_kernel::money::Currency;
use waybill_kernel::slots::LineCut;

use super::units::UnitSet;

/// The tenant that an order belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tenant {
    /// The merchant.
    pub merchant: MerchantId,
    /// The store.
    pub store: StoreId,
}

/// Money taken, sent back and on its way back, of an order or of one of its payments, in minor units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Balance {
    /// What was captured.
    pub captured: i64,
    /// What went back through us.
    pub succeeded: i64,
    /// What is reserved by legs that are not settled, those that wait for approval and unknown ones included.
    pub in_flight: i64,
    /// What a provider says it paid back although we hold it as refused or never asked for it.
    pub outside: i64,
    /// What refused legs still owe while their refund holds its units: they stay payable, so nothing else may use it.
    pub owed: i64,
}

impl Balance {
    /// What is not paid back and not on its way. Not negative, also when money left behind our back.
    #[must_use]
    pub fn unspent(&self) -> i64 {
        i64::try_from(self.left().max(0)).unwrap_or(i64::MAX)
    }

    /// True when money that left behind our back was promised already (R-1c).
    #[must_use]
    pub fn is_overdrawn(&self) -> bool {
        self.left() < 0
    }

    fn left(&self) -> i128 {
        i128::from(self.captured)
            - i128::from(self.succeeded)
            - i128::from(self.in_flight)
            - i128::from(self.outside)
    }

    /// What a new refund may reserve: what is unspent and not owed by refused legs.
    #[must_use]
    pub fn refundable(&self) -> i64 {
        (self.unspent() - self.owed).max(0)
    }
}

/// What kind of line it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineKind {
    /// Goods, shipped or digital.
    Goods,
    /// Shipping: one unit.
    Shipping,
}

/// What units are worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Worth {
    /// Without tax.
    pub net: i64,
    /// The tax on it, as it was frozen at placement.
    pub tax: i64,
}

impl Worth {
    /// Both together.
    #[must_use]
    pub fn total(self) -> i64 {
        self.net + self.tax
    }
}

/// A line of an order.
#[derive(Debug, Clone)]
pub struct BookLine {
    /// The line.
    pub line_id: LineId,
    /// Goods or shipping.
    pub kind: LineKind,
    /// Stock keeping unit; empty for shipping.
    pub sku: String,
    /// Category; may be empty.
    pub category: String,
    /// True when sold without a right of return.
    pub final_sale: bool,
    /// True when nothing is shipped.
    pub digital: bool,
    /// Units.
    pub quantity: i32,
    /// The frozen cut of what the line costs.
    pub cut: LineCut,
    /// Units that were handed to a carrier.
    pub shipped: i32,
    /// When units of it arrived last.
    pub delivered_at: Option<DateTime<Utc>>,
    /// Units whose money a return or a refund holds.
    pub claimed: UnitSet,
    /// Those of them that wait for their goods: a return is open, and there is no refund yet.
    pub promised: UnitSet,
    /// Units whose goods a return holds; they stay returned when their money could not be paid yet.
    pub returned: UnitSet,
}

impl BookLine {
    /// Units whose money nothing holds.
    #[must_use]
    pub fn free(&self) -> UnitSet {
        UnitSet::all(self.quantity).minus(&self.claimed)
    }

    /// Units that can still be asked to come back.
    #[must_use]
    pub fn returnable(&self) -> UnitSet {
        self.free().minus(&self.returned)
    }

    /// What units of the line are worth, to the penny: the sum of their slots.
    ///
    /// # Panics
    /// When the set has a unit that the line does not have.
    #[must_use]
    pub fn worth(&self, units: &UnitSet) -> Worth {
        sum_slots(&self.cut, units)
    }

    /// The fee that is kept for units when `ppm` of the net is kept.
    ///
    /// The fee of the whole line is cut into slots like the line itself, so that partial returns sum to it. It is never
    /// more than the net of the units: nobody pays to return something.
    ///
    /// # Panics
    /// When the set has a unit that the line does not have.
    #[must_use]
    pub fn fee(&self, units: &UnitSet, ppm: u32) -> i64 {
        if ppm == 0 {
            return 0;
        }
        let whole = alloc::ppm(self.cut.whole().net, i64::from(ppm.min(1_000_000)))
            .expect("a part of the net is no larger than the net");
        let cut = LineCut::new(whole, Vec::new(), self.cut.quantity(), false)
            .expect("a fee is not negative and the line has units");
        sum_slots(&cut, units).net.min(self.worth(units).net)
    }
}

fn sum_slots(cut: &LineCut, units: &UnitSet) -> Worth {
    units.runs().iter().fold(Worth::default(), |sum, run| {
        // The kernel counts units from 0 and excludes the end; people count from 1.
        let range = run.first.unsigned_abs() - 1..run.last.unsigned_abs();
        let slot = cut
            .sum(range)
            .expect("a set never has a unit that its line does not have");
        Worth {
            net: sum.net + slot.net,
            tax: sum.tax + slot.tax(),
        }
    })
}

/// A payment that captured money for the order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BookPayment {
    /// The payment.
    pub payment_id: PaymentId,
    /// The provider that took the money.
    pub provider: String,
    /// Its money.
    pub balance: Balance,
}

/// An order's money.
#[derive(Debug, Clone)]
pub struct Book {
    /// The order.
    pub order_id: OrderId,
    /// Who it belongs to.
    pub tenant: Tenant,
    /// The currency of all its amounts.
    pub currency: Currency,
    /// When it was placed.
    pub placed_at: DateTime<Utc>,
    /// When it was cancelled, if it was.
    pub cancelled_at: Option<DateTime<Utc>>,
    /// The order's version that was seen last.
    pub seen_version: i64,
    /// The money of the order as a whole.
    pub balance: Balance,
    /// Goods, then shipping, as they were placed.
    pub lines: Vec<BookLine>,
    /// Payments, oldest capture first.
    pub payments: Vec<BookPayment>,
}

impl Book {
    /// The line with this id and kind.
    #[must_use]
    pub fn line(&self, kind: LineKind, line_id: LineId) -> Option<&BookLine> {
        self.lines
            .iter()
            .find(|line| line.kind == kind && line.line_id == line_id)
    }

    /// The lines of one kind.
    pub fn lines_of(&self, kind: LineKind) -> impl Iterator<Item = &BookLine> {
        self.lines.iter().filter(move |line| line.kind == kind)
    }

    /// Whether what is promised over a payment is still there, of the payment and of the order (R-1c).
    #[must_use]
    pub fn covers(&self, payment_id: PaymentId) -> bool {
        let payment = self
            .payments
            .iter()
            .find(|payment| payment.payment_id == payment_id);
        !self.balance.is_overdrawn() && payment.is_some_and(|payment| !payment.balance.is_overdrawn())
    }

    /// What units and shipping still owe: all that are free, and those of open returns that have no refund yet.
    #[must_use]
    pub fn still_owed(&self) -> i64 {
        self.lines
            .iter()
            .map(|line| line.worth(&line.free().plus(&line.promised)).total())
            .sum()
    }
}
