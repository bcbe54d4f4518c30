//! Editing an order: which lines come and which units go, and what that costs.
//!
//! Nothing is ever cut again (O-23). What was agreed stays as it was frozen: units that go are the highest free ones of
//! their line, at what the line was cut into; units that come are a line of their own, frozen like one of a placed order,
//! with discounts and taxes of its own. So nothing of an order that was there before an edit costs another amount after it.
//!
//! A [`Plan`] is made of an order and an edit alone: what a preview shows is what a commit does (O-24).

use std::cmp::Ordering;
use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use waybill_kernel::check::Violations;
use waybill_kernel::id::{CancellationId, EditId, LineId};
use waybill_kernel::money::Money;
use waybill_kernel::slots::{LineCut, SlotError};

use super::cancellation::{Cancellation, CancelledUnits, OrderedLine};
use super::draft::DraftLine;
use super::freeze::freeze_line;
use super::limits;
use super::order::{Discount, Line, Order, TaxLine};
use super::pricing::price_added;
use super::state::{Share, Status};

const TOO_MUCH: &str = "overflows: what the order costs with it does not fit into 64 bits of minor units";

/// What is to be different about an order. Places are those in the caller's lists, for faults to name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Edit {
    /// Lines that come.
    pub add: Vec<DraftLine>,
    /// Lines that go, each with its place.
    pub remove: Vec<(usize, LineId)>,
    /// Lines that are to have another quantity, each with its place; none of them goes, and each is named once.
    pub quantities: Vec<(usize, NewQuantity)>,
}

/// The quantity that a line is to have.
#[derive(Debug, Clone, PartialEq)]
pub struct NewQuantity {
    /// The line.
    pub line: LineId,
    /// Its units, what was cancelled not counted; 0 or more.
    pub quantity: i32,
    /// What units beyond those that it has cost.
    pub more: Option<MoreUnits>,
}

/// What the units cost by which a line is to have more.
#[derive(Debug, Clone, PartialEq)]
pub struct MoreUnits {
    /// Price of one before discounts; that of the line when not set.
    pub unit_price: Option<Money>,
    /// Discounts on all of them together.
    pub discounts: Vec<Discount<Money>>,
    /// Taxes on all of them after discounts.
    pub taxes: Vec<TaxLine<Money>>,
}

/// An edit that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edited {
    /// Its id.
    pub id: EditId,
    /// Why.
    pub reason: String,
    /// The cancellation of the units that went; none when none did.
    pub cancellation: Option<CancellationId>,
    /// What the lines that came cost.
    pub added: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// The order's version with it, which its lines name too.
    pub version: i64,
}

/// Why an order cannot be edited so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// It is at its end.
    Ended(Status),
    /// Fields are wrong.
    Faults(Faults),
    /// A line cannot be cut, although it was frozen.
    Unsound(SlotError),
}

/// Everything that is wrong with an edit, by field.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults {
    /// Wrong in itself, whatever becomes of the order.
    pub wrong: Violations,
    /// Not allowed as the order stands.
    pub blocked: Violations,
}

impl Faults {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.wrong.is_empty() && self.blocked.is_empty()
    }
}

/// What an edit makes of an order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Lines that come.
    pub added: Vec<Line>,
    /// Units that go, each line once.
    pub removed: Vec<CancelledUnits>,
    comes: Share,
    goes: Share,
}

/// How an edit is written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deed {
    /// Its id.
    pub id: EditId,
    /// The id of the cancellation, if units go.
    pub cancellation: CancellationId,
    /// Why.
    pub reason: String,
    /// Whether what was reserved for units that go can be sold to others.
    pub restock: bool,
    /// When.
    pub at: DateTime<Utc>,
}

/// The lines of an order, as far as taking units needs them.
///
/// # Errors
/// When a line cannot be cut, which its placement has refused.
pub fn goods(order: &Order) -> Result<BTreeMap<LineId, OrderedLine>, SlotError> {
    let mut cancelled: BTreeMap<LineId, i32> = BTreeMap::new();
    for part in order.cancellations.iter().flat_map(|c| &c.lines) {
        *cancelled.entry(part.line).or_default() += part.units;
    }
    (order.terms.lines.iter())
        .map(|line| {
            let taxes = line.taxes.iter().map(|tax| tax.amount).collect();
            let quantity = line.quantity.unsigned_abs();
            let of = OrderedLine {
                sku: line.sku.clone(),
                digital: line.digital,
                cut: LineCut::new(line.net, taxes, quantity, order.terms.prices_include_tax)?,
                shipped: line.shipped,
                cancelled: cancelled.get(&line.id).copied().unwrap_or_default(),
            };
            Ok((line.id, of))
        })
        .collect()
}

/// Says what an edit makes of an order. Nothing has changed then.
///
/// # Errors
/// Everything that stands in the way.
pub fn plan(order: &Order, edit: &Edit, line_ids: &mut dyn FnMut() -> LineId) -> Result<Plan, Refused> {
    if order.state.is_final() {
        return Err(Refused::Ended(order.state.status));
    }
    let mut planning = Planning {
        order,
        goods: goods(order).map_err(Refused::Unsound)?,
        faults: Faults::default(),
        plan: Plan::default(),
        line_ids,
    };
    for (index, line) in edit.add.iter().enumerate() {
        planning.add(&format!("edit.add[{index}]"), line);
    }
    for (index, line) in &edit.remove {
        planning.remove(&format!("edit.remove_line_ids[{index}]"), *line);
    }
    for (index, wanted) in &edit.quantities {
        planning.change(&format!("edit.quantities[{index}]"), wanted);
    }
    planning.finish()
}

struct Planning<'a> {
    order: &'a Order,
    goods: BTreeMap<LineId, OrderedLine>,
    faults: Faults,
    plan: Plan,
    line_ids: &'a mut dyn FnMut() -> LineId,
}

impl Planning<'_> {
    fn add(&mut self, field: &str, draft: &DraftLine) {
        let terms = &self.order.terms;
        let wrong = &mut self.faults.wrong;
        if limits::enough(wrong) {
            return;
        }
        let before = wrong.len();
        let priced = wrong.nested(field, |v| {
            limits::line(draft, v);
            price_added(draft, terms.currency, terms.prices_include_tax, v)
        });
        let Some(priced) = priced.filter(|_| wrong.len() == before) else {
            return;
        };
        let version = self.order.state.version + 1;
        let line = freeze_line((self.line_ids)(), draft.clone(), priced, version);
        if !line.digital {
            self.plan.comes.to_ship += i64::from(line.quantity);
        }
        match self.plan.comes.amount.checked_add(line.total) {
            Some(amount) => {
                self.plan.comes.amount = amount;
                self.plan.added.push(line);
            }
            None => wrong.push(field, TOO_MUCH),
        }
    }

    fn remove(&mut self, field: &str, line: LineId) {
        let Some(of) = self.goods.get(&line) else {
            self.unknown(field, line);
            return;
        };
        let (left, shipped, ordered) = (of.left(), of.shipped, of.units().ordered);
        if shipped > 0 {
            self.faults.blocked.push(
                field,
                format!(
                    "names line {line}, of which {shipped} of {ordered} units have shipped; a quantity of {shipped} is the \
                     least it can have"
                ),
            );
        } else {
            self.take(field, line, left);
        }
    }

    fn change(&mut self, field: &str, wanted: &NewQuantity) {
        let (line, quantity) = (wanted.line, wanted.quantity);
        let Some(of) = self.goods.get(&line) else {
            self.unknown(&format!("{field}.line_id"), line);
            return;
        };
        let (left, shipped) = (of.left(), of.shipped);
        match (quantity.cmp(&left), &wanted.more) {
            (Ordering::Greater, Some(more)) => self.more(field, line, quantity - left, more),
            (Ordering::Greater, None) => self.faults.wrong.push(
                format!("{field}.more"),
                format!(
                    "is missing: line {line} has {left} units, and the {} that come are a line of their own; give their \
                     unit_price, discounts and taxes",
                    quantity - left
                ),
            ),
            (_, Some(_)) => self.faults.wrong.push(
                format!("{field}.more"),
                format!("is set, but line {line} has {left} units and no more are to come; leave it out"),
            ),
            (Ordering::Less, None) if quantity < shipped => self.faults.blocked.push(
                format!("{field}.quantity"),
                format!("is {quantity}, but {shipped} units of line {line} have shipped; expected {shipped} or more"),
            ),
            (Ordering::Less, None) => self.take(&format!("{field}.quantity"), line, left - quantity),
            (Ordering::Equal, None) => {}
        }
    }

    /// The units that come are a line with the terms of the one they are more of, at prices of their own.
    fn more(&mut self, field: &str, line: LineId, units: i32, more: &MoreUnits) {
        let Some(like) = self.order.terms.lines.iter().find(|known| known.id == line) else {
            return;
        };
        let unit_price = Money::new(self.order.terms.currency, like.unit_price);
        let draft = DraftLine {
            sku: like.sku.clone(),
            title: like.title.clone(),
            quantity: units,
            unit_price: more.unit_price.unwrap_or(unit_price),
            category: like.category.clone(),
            final_sale: like.final_sale,
            digital: like.digital,
            attributes: like.attributes.clone(),
            discounts: more.discounts.clone(),
            taxes: more.taxes.clone(),
        };
        self.add(&format!("{field}.more"), &draft);
    }

    fn take(&mut self, field: &str, line: LineId, units: i32) {
        if units == 0 {
            return;
        }
        let Some(of) = self.goods.get_mut(&line) else {
            return;
        };
        let Some(part) = of.highest(line, units) else {
            let free = of.free();
            self.faults.blocked.push(
                field,
                format!("takes {units} units of line {line}, of which {free} can still go"),
            );
            return;
        };
        of.cancelled += units;
        if !of.digital {
            self.plan.goes.to_ship += i64::from(units);
        }
        self.plan.goes.amount += part.total();
        self.plan.removed.push(part);
    }

    fn unknown(&mut self, field: &str, line: LineId) {
        let order = self.order.id;
        self.faults.wrong.push(
            field,
            format!("names line {line}, which order {order} does not have"),
        );
    }

    /// What can only be said of the order as a whole.
    fn finish(mut self) -> Result<Plan, Refused> {
        let Order {
            terms, state, edits, ..
        } = self.order;
        let (comes, added) = (self.plan.comes, self.plan.added.len());
        let blocked = &mut self.faults.blocked;
        let lines = terms.lines.len() + added;
        if lines > limits::MAX_LINES && added > 0 {
            blocked.push(
                "edit.add",
                format!(
                    "would give the order {lines} lines; expected at most {}: place another order for the rest",
                    limits::MAX_LINES
                ),
            );
        }
        let due =
            (state.money.total.checked_add(state.money.added)).and_then(|due| due.checked_add(comes.amount));
        if due.is_none() {
            self.faults.wrong.push("edit.add", TOO_MUCH);
        }
        let ships = self
            .order
            .contact
            .as_ref()
            .is_some_and(|who| who.shipping.is_some());
        if comes.to_ship > 0 && !ships {
            blocked.push(
                "edit.add",
                "has goods that are shipped, but the order has no shipping address; give it one by UpdateOrder first",
            );
        }
        if !self.plan.changes_nothing() {
            if state.goods.all_shipped() {
                blocked.push(
                    "edit",
                    "comes too late: everything of the order has shipped; place another order, or return what is not wanted",
                );
            }
            if edits.len() >= limits::MAX_EDITS {
                blocked.push(
                    "edit",
                    format!(
                        "is one more than the {} that an order may have; place another order, or cancel units by CancelOrderLines",
                        limits::MAX_EDITS
                    ),
                );
            }
            // A line that is wrong would have been left.
            let left = added > 0 || self.goods.values().any(|of| of.left() > 0);
            if !left && self.faults.wrong.is_empty() {
                blocked.push("edit", "leaves nothing of the order; cancel it by CancelOrder");
            }
        }
        if self.faults.is_empty() {
            Ok(self.plan)
        } else {
            Err(Refused::Faults(self.faults))
        }
    }
}

impl Plan {
    /// Whether everything is as asked already.
    #[must_use]
    pub fn changes_nothing(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty()
    }

    /// Makes it so, of the order it was made for. Tells whether what is left was complete.
    pub fn apply(self, order: &mut Order, deed: Deed) -> bool {
        let completed = order.state.edit(self.comes, self.goes);
        order.state.touch(deed.at);
        let (version, at) = (order.state.version, order.state.updated_at);
        let cancellation = (!self.removed.is_empty()).then_some(deed.cancellation);
        order.terms.lines.extend(self.added);
        if let Some(id) = cancellation {
            order.cancellations.push(Cancellation {
                id,
                reason: deed.reason.clone(),
                restock: deed.restock,
                lines: self.removed,
                at,
                version,
            });
        }
        order.edits.push(Edited {
            id: deed.id,
            reason: deed.reason,
            cancellation,
            added: self.comes.amount,
            at,
            version,
        });
        completed
    }
}

impl Edited {
    /// The lines of the order that came with it.
    pub fn lines<'a>(&self, order: &'a Order) -> impl Iterator<Item = &'a Line> + use<'a> {
        let version = self.version;
        (order.terms.lines.iter()).filter(move |line| line.added_version == version)
    }

    /// The cancellation of the units that went with it.
    #[must_use]
    pub fn removal<'a>(&self, order: &'a Order) -> Option<&'a Cancellation> {
        order
            .cancellations
            .iter()
            .find(|part| Some(part.id) == self.cancellation)
    }
}

#[cfg(test)]
#[path = "edit_tests.rs"]
mod tests;
