//! Puts a refund together: which units, which amounts, over which payments.
//!
//! Four occasions: a return whose units were named when it was requested, a call that pays back without a return, units that
//! were cancelled, and an order that was cancelled. All end in a [`Plan`] whose components and parts sum to the same amount, and none can
//! promise more than the order and each payment have left. Storing it is not done here.

use waybill_kernel::id::{LegId, LineId, PaymentId};
use waybill_kernel::money::Money;

use super::book::{Balance, Book, BookLine, LineKind};
use super::decision::{self, Quote};
use super::policy::Policy;
use super::refund::{Component, ComponentKind, Refund};
use super::tender::{self, Shortfall};
use super::units::UnitSet;

/// What a refund will consist of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Its parts by what they pay for.
    pub components: Vec<Component>,
    /// Its parts by payment.
    pub parts: Vec<(PaymentId, i64)>,
    /// The sum of either.
    pub amount: i64,
    /// The tax in it.
    pub tax: i64,
}

/// Why a refund cannot be put together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// A line that the order does not have, or that is not goods.
    UnknownLine {
        /// The place in the list.
        index: usize,
        /// The line it names.
        line_id: LineId,
    },
    /// Fewer units are free than were asked for.
    UnitsNotFree {
        /// The line.
        line_id: LineId,
        /// Units asked for.
        asked: i32,
        /// Units that are free.
        free: i32,
    },
    /// All shipping is paid back or on its way back.
    ShippingNotFree,
    /// Nothing was captured.
    NothingCaptured,
    /// Everything that was asked for is worth nothing.
    NothingToPay,
    /// More than can be paid back.
    Exceeds {
        /// What was asked for.
        asked: Money,
        /// What can be paid back.
        refundable: Money,
    },
    /// Goodwill beyond what units and shipping leave over.
    GoodwillExceeds {
        /// What was asked for.
        asked: Money,
        /// What can be given on top.
        available: Money,
    },
}

/// What a call asks to pay back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ask {
    /// Units per line, each line once.
    pub lines: Vec<(LineId, i32)>,
    /// True for all shipping that was not paid back yet.
    pub shipping: bool,
    /// What is given on top; 0 for nothing.
    pub goodwill: i64,
}

/// Plans a refund without a return.
pub fn for_ask(book: &Book, ask: &Ask) -> Result<Plan, Refusal> {
    let mut components = Vec::with_capacity(ask.lines.len() + 2);
    for (index, (line_id, quantity)) in ask.lines.iter().enumerate() {
        let line = book.line(LineKind::Goods, *line_id).ok_or(Refusal::UnknownLine {
            index,
            line_id: *line_id,
        })?;
        let free = line.free();
        let units = free.lowest(*quantity).ok_or(Refusal::UnitsNotFree {
            line_id: *line_id,
            asked: *quantity,
            free: free.count(),
        })?;
        components.push(pays(ComponentKind::Line, line, units));
    }
    if ask.shipping {
        let free = book
            .lines_of(LineKind::Shipping)
            .filter(|line| !line.free().is_empty());
        components.extend(free.map(|line| pays(ComponentKind::Shipping, line, line.free())));
        if components.is_empty() && ask.goodwill == 0 {
            return Err(Refusal::ShippingNotFree);
        }
    }
    if ask.goodwill > 0 {
        let available = beyond_units(book);
        if ask.goodwill > available {
            return Err(if book.balance.captured == 0 {
                Refusal::NothingCaptured
            } else {
                Refusal::GoodwillExceeds {
                    asked: Money::new(book.currency, ask.goodwill),
                    available: Money::new(book.currency, available),
                }
            });
        }
        components.push(bare(ComponentKind::Goodwill, ask.goodwill));
    }
    plan(book, components)
}

/// Plans the refund of a return: the units it holds, as they were quoted, less what did not come back.
///
/// Goods can come back before all of their money came in. What was never paid of them is a negative component: it settles
/// what the customer owes and is not paid out. An amount of 0 means that there is nothing to pay.
pub fn for_return(
    book: &Book,
    policy: &Policy,
    quote: &Quote,
    received: impl Fn(LineId) -> bool,
) -> Result<Plan, Refusal> {
    let mut components = Vec::with_capacity(quote.lines.len() * 2 + 1);
    for decision in quote.lines.iter().filter(|decision| received(decision.line_id)) {
        let Some(line) = book.line(LineKind::Goods, decision.line_id) else {
            continue;
        };
        components.push(pays(ComponentKind::Line, line, decision.units.clone()));
        if decision.fee > 0 {
            components.push(Component {
                line_id: Some(decision.line_id),
                ..bare(ComponentKind::Fee, -decision.fee)
            });
        }
    }
    if decision::shipping_after_receipt(policy, quote, &received) {
        let lines = quote
            .shipping_lines
            .iter()
            .filter_map(|line_id| book.line(LineKind::Shipping, *line_id));
        components.extend(lines.map(|line| pays(ComponentKind::Shipping, line, UnitSet::all(line.quantity))));
    }
    let worth = sum(&components);
    let amount = worth.min(book.balance.refundable());
    if amount < worth {
        components.push(bare(ComponentKind::Unpaid, amount - worth));
    }
    if amount > 0 {
        return plan(book, components);
    }
    let tax = components.iter().map(|part| part.tax).sum();
    Ok(Plan {
        components,
        parts: Vec::new(),
        amount: 0,
        tax,
    })
}

/// Plans the refund of everything that is free of a cancelled order.
///
/// What the order never paid of its free units is a negative component, what it paid beyond them a positive one: so the
/// units are used up, the receivable is settled, and the customer gets what was captured, not a penny more.
pub fn for_cancellation(book: &Book) -> Result<Plan, Refusal> {
    let free = book.lines.iter().filter(|line| !line.free().is_empty());
    let mut components: Vec<Component> = free
        .map(|line| {
            let kind = match line.kind {
                LineKind::Goods => ComponentKind::Line,
                LineKind::Shipping => ComponentKind::Shipping,
            };
            pays(kind, line, line.free())
        })
        .collect();
    let difference = book.balance.refundable() - sum(&components);
    match difference {
        0 => {}
        ..0 => components.push(bare(ComponentKind::Unpaid, difference)),
        1.. => components.push(bare(ComponentKind::Overpaid, difference)),
    }
    plan(book, components)
}

/// Plans the refund of cancelled units of an order that goes on: those of them that are free.
///
/// What was captured beyond what the rest of the order owes goes back: so much as the order service worked out when it took
/// the units, under its lock, for what came since (lines of an edit, payments of those) has no part in it. Where it did not
/// tell, it is what the rest still owes now. What was never paid of the units is a negative component. An amount of 0 means
/// that there is nothing to pay, no component that there is nothing to take either.
pub fn for_cancelled_units(
    book: &Book,
    units: &[(LineId, UnitSet)],
    told: Option<i64>,
) -> Result<Plan, Refusal> {
    let mut components = Vec::with_capacity(units.len() + 1);
    for (index, (line_id, named)) in units.iter().enumerate() {
        let line = book.line(LineKind::Goods, *line_id).ok_or(Refusal::UnknownLine {
            index,
            line_id: *line_id,
        })?;
        let free = line.free();
        let both = free.minus(&free.minus(named));
        if !both.is_empty() {
            components.push(pays(ComponentKind::Line, line, both));
        }
    }
    let worth = sum(&components);
    let refundable = book.balance.refundable();
    let over = told.unwrap_or_else(|| refundable - (book.still_owed() - worth));
    let amount = over.min(refundable).clamp(0, worth);
    if amount < worth {
        components.push(bare(ComponentKind::Unpaid, amount - worth));
    }
    if amount > 0 {
        return plan(book, components);
    }
    let tax = components.iter().map(|part| part.tax).sum();
    Ok(Plan {
        components,
        parts: Vec::new(),
        amount: 0,
        tax,
    })
}

/// Plans the refund of money that came in for an order after it was cancelled.
pub fn for_late_capture(book: &Book, captured: i64) -> Result<Plan, Refusal> {
    let amount = captured.min(book.balance.refundable());
    plan(book, vec![bare(ComponentKind::Overpaid, amount)])
}

/// What can be given on top: the refundable money that no unit has a claim on.
#[must_use]
pub fn beyond_units(book: &Book) -> i64 {
    (book.balance.refundable() - book.still_owed()).max(0)
}

/// Says whether the money is there to take a failed leg of a refund up again.
pub fn affords_retry(book: &Book, refund: &Refund, leg_id: LegId) -> Result<(), Refusal> {
    let available = |balance: &Balance| {
        if refund.holds {
            balance.unspent()
        } else {
            balance.refundable()
        }
    };
    let mut wanted_in_all = 0;
    let mut left: Vec<(PaymentId, i64)> = book
        .payments
        .iter()
        .map(|payment| (payment.payment_id, available(&payment.balance)))
        .collect();
    for (payment_id, wanted) in refund.wanted_for_retry(leg_id) {
        wanted_in_all += wanted;
        let of = left.iter_mut().find(|(known, _)| *known == payment_id);
        let (asked, refundable) = match of {
            Some((_, left)) if *left >= wanted => {
                *left -= wanted;
                continue;
            }
            Some((_, left)) => (wanted, *left),
            None => (wanted, 0),
        };
        return Err(exceeds(book, asked, refundable));
    }
    if wanted_in_all > available(&book.balance) {
        return Err(exceeds(book, wanted_in_all, available(&book.balance)));
    }
    Ok(())
}

fn plan(book: &Book, components: Vec<Component>) -> Result<Plan, Refusal> {
    // Goodwill was capped before; the sum is checked wide all the same, for it comes from a caller.
    let amount = components
        .iter()
        .map(|part| i128::from(part.net) + i128::from(part.tax))
        .sum::<i128>();
    if amount <= 0 {
        return Err(Refusal::NothingToPay);
    }
    if book.balance.captured == 0 {
        return Err(Refusal::NothingCaptured);
    }
    let asked = i64::try_from(amount).unwrap_or(i64::MAX);
    let refundable = book.balance.refundable();
    if asked > refundable {
        return Err(exceeds(book, asked, refundable));
    }
    let parts = tender::split(asked, &book.payments)
        .map_err(|Shortfall { available }| exceeds(book, asked, available))?;
    let tax = components.iter().map(|part| part.tax).sum();
    Ok(Plan {
        components,
        parts,
        amount: asked,
        tax,
    })
}

fn exceeds(book: &Book, asked: i64, refundable: i64) -> Refusal {
    Refusal::Exceeds {
        asked: Money::new(book.currency, asked),
        refundable: Money::new(book.currency, refundable),
    }
}

fn pays(kind: ComponentKind, line: &BookLine, units: UnitSet) -> Component {
    let worth = line.worth(&units);
    Component {
        kind,
        line_id: Some(line.line_id),
        units,
        net: worth.net,
        tax: worth.tax,
    }
}

fn bare(kind: ComponentKind, net: i64) -> Component {
    Component {
        kind,
        line_id: None,
        units: UnitSet::none(),
        net,
        tax: 0,
    }
}

fn sum(components: &[Component]) -> i64 {
    components.iter().map(|part| part.net + part.tax).sum()
}
