//! What a policy says about a return: a pure function of policy, order, what happened before, and now.
//!
//! The answer has codes for machines and words for people. It names the very units that would come back, so that what
//! was quoted is what is paid. Nothing is changed here, and nothing is approved.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use waybill_kernel::id::LineId;

use super::book::{Book, BookLine, LineKind};
use super::policy::{Policy, ReturnReason};
use super::units::UnitSet;

/// Units of one line that shall come back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// The line.
    pub line_id: LineId,
    /// Units, more than 0.
    pub quantity: i32,
    /// Why.
    pub reason: ReturnReason,
}

/// A rule that speaks against a return, or that none does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Code {
    /// Nothing speaks against it.
    Eligible,
    /// The time to ask is over.
    WindowExpired,
    /// Sold without a right of return.
    FinalSale,
    /// The category is excluded.
    CategoryExcluded,
    /// The sku is excluded.
    SkuExcluded,
    /// More units than are left: the others are on their way back or paid back.
    QuantityExceedsReturnable,
    /// The units did not leave yet.
    NotShipped,
}

impl Code {
    /// The code as it stands in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Eligible => "ELIGIBLE",
            Self::WindowExpired => "WINDOW_EXPIRED",
            Self::FinalSale => "FINAL_SALE",
            Self::CategoryExcluded => "CATEGORY_EXCLUDED",
            Self::SkuExcluded => "SKU_EXCLUDED",
            Self::QuantityExceedsReturnable => "QUANTITY_EXCEEDS_RETURNABLE",
            Self::NotShipped => "NOT_SHIPPED",
        }
    }
}

/// What the policy says about units of one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineDecision {
    /// The line.
    pub line_id: LineId,
    /// Stock keeping unit.
    pub sku: String,
    /// Units that were asked for.
    pub quantity: i32,
    /// Why they come back.
    pub reason: ReturnReason,
    /// `Eligible` alone, or every rule that speaks against it.
    pub codes: Vec<Code>,
    /// The same for people.
    pub explanation: String,
    /// Until when a return may be requested.
    pub deadline: DateTime<Utc>,
    /// The units; empty when there are fewer free ones than were asked for.
    pub units: UnitSet,
    /// What they are worth without tax.
    pub net: i64,
    /// The tax on it.
    pub tax: i64,
    /// What is kept; not negative.
    pub fee: i64,
}

impl LineDecision {
    /// True when the units may come back.
    #[must_use]
    pub fn eligible(&self) -> bool {
        self.codes == [Code::Eligible]
    }
}

/// What a return would bring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quote {
    /// What the policy says, in the order of the wishes.
    pub lines: Vec<LineDecision>,
    /// Shipping lines that go back.
    pub shipping_lines: Vec<LineId>,
    /// What they are worth, tax included.
    pub shipping: i64,
    /// Net plus tax plus shipping minus fees of the eligible lines.
    pub total: i64,
    /// The policy that was applied.
    pub policy_version: i32,
    /// True when a request would be approved at once.
    pub auto_approve: bool,
}

/// A wish names a line that the order does not have, or that is not goods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownLine {
    /// The place of the wish in the list.
    pub index: usize,
    /// The line it names.
    pub line_id: LineId,
}

/// Applies a policy to the wish to return something. Each line is wished for at most once.
pub fn evaluate(
    policy: &Policy,
    book: &Book,
    wishes: &[Wish],
    now: DateTime<Utc>,
) -> Result<Quote, UnknownLine> {
    let mut lines = Vec::with_capacity(wishes.len());
    for (index, wish) in wishes.iter().enumerate() {
        let Some(line) = book.line(LineKind::Goods, wish.line_id) else {
            return Err(UnknownLine {
                index,
                line_id: wish.line_id,
            });
        };
        lines.push(decide_line(policy, book, line, wish, now));
    }
    let shipping = shipping_back(policy, book, &lines);
    let shipping_worth: i64 = shipping.iter().map(|line| line.worth(&line.free()).total()).sum();
    let goods: i64 = lines
        .iter()
        .filter(|line| line.eligible())
        .map(|line| line.net + line.tax - line.fee)
        .sum();
    let total = goods + shipping_worth;
    Ok(Quote {
        auto_approve: lines.iter().all(LineDecision::eligible) && policy.auto_approves(book.currency, total),
        shipping_lines: shipping.iter().map(|line| line.line_id).collect(),
        shipping: shipping_worth,
        total,
        policy_version: policy.version,
        lines,
    })
}

fn decide_line(
    policy: &Policy,
    book: &Book,
    line: &BookLine,
    wish: &Wish,
    now: DateTime<Utc>,
) -> LineDecision {
    let deadline = policy.deadline(book.placed_at, line.delivered_at);
    let free = line.returnable();
    let units = free.lowest(wish.quantity);
    let mut codes = Vec::new();
    if now > deadline {
        codes.push(Code::WindowExpired);
    }
    if line.final_sale && !policy.final_sale_returnable {
        codes.push(Code::FinalSale);
    }
    if policy.excluded_categories.contains(&line.category) {
        codes.push(Code::CategoryExcluded);
    }
    if policy.excluded_skus.contains(&line.sku) {
        codes.push(Code::SkuExcluded);
    }
    if units.is_none() {
        codes.push(Code::QuantityExceedsReturnable);
    }
    if !line.digital && wish.quantity > line.shipped - line.returned.count() && wish.quantity <= free.count()
    {
        codes.push(Code::NotShipped);
    }
    let units = units.unwrap_or_default();
    let worth = line.worth(&units);
    let fault = policy.fault_reasons.contains(&wish.reason);
    let fee = if fault {
        0
    } else {
        line.fee(&units, policy.restocking_fee_ppm)
    };
    if codes.is_empty() {
        codes.push(Code::Eligible);
    }
    LineDecision {
        line_id: line.line_id,
        sku: line.sku.clone(),
        quantity: wish.quantity,
        reason: wish.reason,
        explanation: explain(&codes, line, free.count(), deadline),
        codes,
        deadline,
        units,
        net: worth.net,
        tax: worth.tax,
        fee,
    }
}

/// The free shipping lines that go back with a return of these lines: all of them, or none.
fn shipping_back<'a>(policy: &Policy, book: &'a Book, lines: &[LineDecision]) -> Vec<&'a BookLine> {
    let eligible = || lines.iter().filter(|line| line.eligible());
    let fault = eligible().any(|line| policy.fault_reasons.contains(&line.reason));
    let everything = policy.refund_shipping_on_full_return
        && eligible().next().is_some()
        && book.lines_of(LineKind::Goods).all(|line| {
            let back: i32 = eligible()
                .filter(|decision| decision.line_id == line.line_id)
                .map(|d| d.quantity)
                .sum();
            back == line.returnable().count()
        });
    if !fault && !everything {
        return Vec::new();
    }
    book.lines_of(LineKind::Shipping)
        .filter(|line| !line.free().is_empty())
        .collect()
}

/// The shipping lines that still go back when only these lines of a return arrived.
///
/// What was promised for a whole return holds only if the whole of it came back; what was promised for the merchant's
/// fault holds if a line with such a reason came back.
#[must_use]
pub fn shipping_after_receipt(policy: &Policy, quote: &Quote, received: impl Fn(LineId) -> bool) -> bool {
    let all = quote.lines.iter().all(|line| received(line.line_id));
    let fault = quote
        .lines
        .iter()
        .any(|line| received(line.line_id) && policy.fault_reasons.contains(&line.reason));
    all || fault
}

fn explain(codes: &[Code], line: &BookLine, free: i32, deadline: DateTime<Utc>) -> String {
    let sentences: Vec<String> = codes
        .iter()
        .map(|code| match code {
            Code::Eligible => format!("It may come back until {}.", day(deadline)),
            Code::WindowExpired => format!("A return could be requested until {}.", day(deadline)),
            Code::FinalSale => "It was sold without a right of return.".to_owned(),
            Code::CategoryExcluded => {
                format!("Goods of the category {:?} cannot be returned.", line.category)
            }
            Code::SkuExcluded => format!("The article {:?} cannot be returned.", line.sku),
            Code::QuantityExceedsReturnable => format!(
                "Only {free} of {} can still come back; the others are on their way back or paid back.",
                line.quantity
            ),
            Code::NotShipped => format!(
                "Only {} of {} have left the warehouse; the others can be cancelled but not returned.",
                line.shipped, line.quantity
            ),
        })
        .collect();
    sentences.join(" ")
}

fn day(moment: DateTime<Utc>) -> String {
    moment.to_rfc3339_opts(SecondsFormat::Secs, true)
}
