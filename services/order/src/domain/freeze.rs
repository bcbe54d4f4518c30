//! A draft becomes an order: checked as a whole, priced, its terms frozen (invariants O-1 and O-2).

use chrono::{DateTime, TimeDelta, Utc};
use waybill_kernel::check::Violations;
use waybill_kernel::id::LineId;
use waybill_kernel::money::Money;

use super::draft::{Draft, DraftLine, DraftShipping};
use super::limits;
use super::order::{Contact, Discount, Line, PLACED, ShippingLine, TaxLine, Terms};
use super::presentment;
use super::pricing::{self, PricedLine, PricingFault};

/// Why a draft was refused. All faults that were found are in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Something is missing, too long, of the wrong currency …
    #[error("{0}")]
    Invalid(Violations),
    /// Only the totals are wrong: they are not the sums of the lines.
    #[error("{0}")]
    Totals(Violations),
}

/// What a store adds to a draft, and what a pure function cannot make.
pub struct Conditions<'a> {
    /// The time.
    pub now: DateTime<Utc>,
    /// From placement to the promised handover to the carrier, where the caller promised nothing else.
    pub handling_time: TimeDelta,
    /// Where ids of lines come from.
    pub line_ids: &'a mut dyn FnMut() -> LineId,
}

/// Freezes a draft. Its number stays empty when the store is to assign one.
///
/// # Errors
/// When anything about the draft is wrong.
pub fn freeze(draft: Draft, conditions: &mut Conditions<'_>) -> Result<(Terms, Contact), Refused> {
    let mut v = Violations::new();
    limits::check(&draft, conditions.now, &mut v);
    let seen = presentment::check(&draft, &mut v);
    let sound = v.is_empty();
    let priced = match pricing::price(&draft, &mut v) {
        Ok(priced) if sound => priced,
        Err(PricingFault::Totals) if sound => return Err(Refused::Totals(v)),
        _ => return Err(Refused::Invalid(limits::listed(v))),
    };
    let seen = presentment::agree(seen, draft.currency, &priced.totals, &mut v);
    v.into_result().map_err(Refused::Invalid)?;

    let placed_at = draft.placed_at.unwrap_or(conditions.now);
    let mut next = || (conditions.line_ids)();
    let lines = (draft.lines.into_iter().zip(priced.lines))
        .map(|(line, priced)| freeze_line(next(), line, priced, PLACED))
        .collect();
    let shipping = (draft.shipping.into_iter().zip(priced.shipping))
        .map(|(line, priced)| freeze_shipping(next(), line, priced))
        .collect();
    let terms = Terms {
        number: draft.number,
        source: draft.source,
        currency: draft.currency,
        prices_include_tax: draft.prices_include_tax,
        lines,
        shipping,
        discounts: minor_discounts(draft.discounts),
        totals: priced.totals,
        locale: draft.locale,
        placed_at,
        promised_ship_at: promised_ship_at(
            placed_at,
            conditions.handling_time,
            draft.promised_ship_at,
            draft.promised_delivery_at,
        ),
        promised_delivery_at: draft.promised_delivery_at,
        presentment: seen.map(|seen| seen.total),
        presentment_totals: seen.and_then(|seen| seen.totals),
        tags: draft.tags,
    };
    Ok((terms, draft.contact))
}

/// The caller's promise, else placement plus handling time, but never after the promised arrival.
fn promised_ship_at(
    placed_at: DateTime<Utc>,
    handling_time: TimeDelta,
    ship: Option<DateTime<Utc>>,
    deliver: Option<DateTime<Utc>>,
) -> DateTime<Utc> {
    let usual = placed_at + handling_time;
    ship.unwrap_or_else(|| deliver.map_or(usual, |deliver| usual.min(deliver)))
}

/// A line whose price is known becomes one of an order, with this version of it.
pub(super) fn freeze_line(id: LineId, line: DraftLine, priced: PricedLine, version: i64) -> Line {
    Line {
        id,
        sku: line.sku,
        title: line.title,
        quantity: line.quantity,
        unit_price: line.unit_price.minor,
        category: line.category,
        final_sale: line.final_sale,
        digital: line.digital,
        attributes: line.attributes,
        discounts: minor_discounts(line.discounts),
        order_discount_share: priced.order_discount_share,
        taxes: minor_taxes(line.taxes),
        net: priced.net,
        total: priced.total,
        added_version: version,
        shipped: 0,
    }
}

fn freeze_shipping(id: LineId, line: DraftShipping, priced: PricedLine) -> ShippingLine {
    ShippingLine {
        id,
        title: line.title,
        price: line.price.minor,
        discounts: minor_discounts(line.discounts),
        taxes: minor_taxes(line.taxes),
        net: priced.net,
        total: priced.total,
    }
}

// From here on all amounts are known to be of the order's currency.

fn minor_discounts(discounts: Vec<Discount<Money>>) -> Vec<Discount> {
    (discounts.into_iter())
        .map(|Discount { code, title, amount }| Discount {
            code,
            title,
            amount: amount.minor,
        })
        .collect()
}

fn minor_taxes(taxes: Vec<TaxLine<Money>>) -> Vec<TaxLine> {
    (taxes.into_iter())
        .map(
            |TaxLine {
                 jurisdiction,
                 title,
                 rate_ppm,
                 amount,
             }| TaxLine {
                jurisdiction,
                title,
                rate_ppm,
                amount: amount.minor,
            },
        )
        .collect()
}

#[cfg(test)]
#[path = "freeze_tests.rs"]
mod tests;
