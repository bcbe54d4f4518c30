//! What every line costs, and whether the caller's totals are right.
//!
//! Money is checked, not trusted, and cut here once for all time:
//!
//! - every amount is in the order's currency and not negative;
//! - a line's own discounts, then its share of the order's discounts (largest remainder over what the lines cost after
//!   their own discounts), are taken off its price, and never more than that price;
//! - taxes are the caller's, given per line, and never computed again: `net = price - discounts`, `total = net + taxes`
//!   where prices are without tax; `total = price - discounts`, `net = total - taxes` where they include it;
//! - taxes larger than what they are levied on are refused;
//! - totals the caller claims are compared with the sums, and a difference is named.
//!
//! Sums are 128 bits wide; what does not fit into 64 bits in the end is refused.

use waybill_kernel::alloc::largest_remainder;
use waybill_kernel::check::Violations;
use waybill_kernel::money::{Currency, Money};

use super::draft::{ClaimedTotals, Draft, DraftLine};
use super::limits;
use super::order::{Discount, TaxLine, Totals};

/// What an order costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Priced {
    /// One per line of the draft.
    pub lines: Vec<PricedLine>,
    /// One per shipping line of the draft.
    pub shipping: Vec<PricedLine>,
    /// The sums.
    pub totals: Totals,
}

/// What a line costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PricedLine {
    /// Its share of the order's discounts; 0 for shipping.
    pub order_discount_share: i64,
    /// Without tax, after all discounts.
    pub net: i64,
    /// With tax.
    pub total: i64,
}

/// Why a draft has no price.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PricingFault {
    /// An amount is wrong in itself.
    Amounts,
    /// Every amount is right, but the totals claimed are not their sums.
    Totals,
}

/// Prices a draft. Faults are noted by field.
///
/// # Errors
/// When there is at least one fault.
pub fn price(draft: &Draft, v: &mut Violations) -> Result<Priced, PricingFault> {
    let before = v.len();
    let priced = Pricing {
        currency: draft.currency,
        inclusive: draft.prices_include_tax,
    }
    .order(draft, v);
    v.nested("totals", |v| comparable(&draft.totals, draft.currency, v));
    let priced = match priced {
        Some(priced) if v.len() == before => priced,
        _ => return Err(PricingFault::Amounts),
    };
    v.nested("totals", |v| {
        claims(&draft.totals, &priced.totals, draft.currency, v)
    });
    if v.len() == before {
        Ok(priced)
    } else {
        Err(PricingFault::Totals)
    }
}

/// The sums of a draft as far as its amounts are right, whatever else is missing, and whatever it claims.
#[must_use]
pub fn sums(draft: &Draft) -> Option<Totals> {
    let mut v = Violations::new();
    let pricing = Pricing {
        currency: draft.currency,
        inclusive: draft.prices_include_tax,
    };
    let priced = pricing.order(draft, &mut v)?;
    v.is_empty().then_some(priced.totals)
}

/// Prices a line that is added to an order: by its own discounts and taxes, without a share of the order's discounts. Faults
/// are noted by field; there is no price then.
pub fn price_added(
    line: &DraftLine,
    currency: Currency,
    prices_include_tax: bool,
    v: &mut Violations,
) -> Option<PricedLine> {
    let before = v.len();
    let pricing = Pricing {
        currency,
        inclusive: prices_include_tax,
    };
    let cut = pricing.goods(v, line);
    let paid = cut.discounted();
    if v.len() > before {
        return None;
    }
    if cut.taxes > paid {
        v.push("taxes", pricing.taxed_too_much(&cut, paid));
        return None;
    }
    let (net, total) = pricing.net_and_total(&cut, paid);
    let total = fits(v, "unit_price", total, "times quantity with taxes")?;
    Some(PricedLine {
        order_discount_share: 0,
        net: i64::try_from(net).ok()?,
        total,
    })
}

struct Pricing {
    currency: Currency,
    inclusive: bool,
}

/// A line before the order's discounts are split over the lines.
struct Cut {
    gross: i128,
    own_discounts: i128,
    taxes: i128,
}

impl Cut {
    fn discounted(&self) -> i128 {
        self.gross - self.own_discounts
    }
}

impl Pricing {
    fn order(&self, draft: &Draft, v: &mut Violations) -> Option<Priced> {
        let before = v.len();
        let mut goods = Vec::with_capacity(draft.lines.len());
        for (index, line) in draft.lines.iter().enumerate() {
            if limits::enough(v) {
                return None;
            }
            goods.push(v.element("lines", index, |v| self.goods(v, line)));
        }
        let mut shipping = Vec::with_capacity(draft.shipping.len());
        for (index, line) in draft.shipping.iter().enumerate() {
            shipping.push(v.element("shipping_lines", index, |v| {
                let price = self.amount(v, || "price", line.price);
                self.cut(v, price, &line.discounts, &line.taxes)
            }));
        }
        let order_discounts = self.discounts(v, &draft.discounts);
        if v.len() > before {
            // What follows is derived from these amounts and would only repeat their faults.
            return None;
        }

        let shares = self.split(order_discounts, &goods, v)?;
        let totals = self.totals(&goods, &shipping, order_discounts, v)?;
        let goods: Vec<_> = (goods.iter().zip(shares).enumerate())
            .map(|(index, (cut, share))| self.finish(v, "lines", index, cut, share))
            .collect();
        let shipping: Vec<_> = (shipping.iter().enumerate())
            .map(|(index, cut)| self.finish(v, "shipping_lines", index, cut, 0))
            .collect();
        Some(Priced {
            lines: goods.into_iter().collect::<Option<_>>()?,
            shipping: shipping.into_iter().collect::<Option<_>>()?,
            totals,
        })
    }

    /// Reads an amount: of the order's currency, not negative. What is wrong counts as 0, so that checking goes on. The
    /// field's name is made only when it is needed.
    fn amount<F: AsRef<str>>(&self, v: &mut Violations, field: impl FnOnce() -> F, amount: Money) -> i128 {
        if amount.currency != self.currency {
            let (given, expected) = (amount.currency, self.currency);
            v.push(
                field(),
                format!("is in {given}; expected {expected}, the order's currency_code"),
            );
            0
        } else if amount.minor < 0 {
            v.push(field(), format!("is {amount}; expected 0 or more"));
            0
        } else {
            i128::from(amount.minor)
        }
    }

    fn goods(&self, v: &mut Violations, line: &DraftLine) -> Cut {
        let unit = self.amount(v, || "unit_price", line.unit_price);
        let gross = unit * i128::from(quantity(v, line.quantity));
        fits(v, "unit_price", gross, "times quantity");
        self.cut(v, gross, &line.discounts, &line.taxes)
    }

    fn discounts(&self, v: &mut Violations, discounts: &[Discount<Money>]) -> i128 {
        (discounts.iter().enumerate())
            .map(|(index, discount)| self.amount(v, || format!("discounts[{index}].amount"), discount.amount))
            .sum()
    }

    fn cut(
        &self,
        v: &mut Violations,
        gross: i128,
        discounts: &[Discount<Money>],
        taxes: &[TaxLine<Money>],
    ) -> Cut {
        let own_discounts = self.discounts(v, discounts);
        if own_discounts > gross {
            v.push(
                "discounts",
                format!(
                    "take off {}, more than the price of {}",
                    self.shown(own_discounts),
                    self.shown(gross)
                ),
            );
        }
        let taxes = (taxes.iter().enumerate())
            .map(|(index, tax)| self.amount(v, || format!("taxes[{index}].amount"), tax.amount))
            .sum();
        Cut {
            gross,
            own_discounts,
            taxes,
        }
    }

    /// The order's discounts, split over the lines in proportion to what each costs after its own discounts.
    fn split(&self, order_discounts: i128, goods: &[Cut], v: &mut Violations) -> Option<Vec<i64>> {
        let available: i128 = goods.iter().map(Cut::discounted).sum();
        if order_discounts > available {
            v.push(
                "discounts",
                format!(
                    "take off {}, more than the {} that the lines cost after their own discounts",
                    self.shown(order_discounts),
                    self.shown(available)
                ),
            );
            return None;
        }
        let weights: Option<Vec<i64>> = goods
            .iter()
            .map(|cut| i64::try_from(cut.discounted()).ok())
            .collect();
        let total = i64::try_from(order_discounts).ok();
        // What does not fit was noted where it was read, or is noted with the totals.
        match (total, weights) {
            (Some(total), Some(weights)) => Some(largest_remainder(total, &weights)),
            _ => Some(vec![0; goods.len()]),
        }
    }

    /// What a line costs in the end; nothing, and a fault, when its taxes are larger than it.
    fn finish(
        &self,
        v: &mut Violations,
        field: &str,
        index: usize,
        cut: &Cut,
        share: i64,
    ) -> Option<PricedLine> {
        let paid = cut.discounted() - i128::from(share);
        if cut.taxes > paid {
            if !limits::enough(v) {
                v.push(format!("{field}[{index}].taxes"), self.taxed_too_much(cut, paid));
            }
            return None;
        }
        let (net, total) = self.net_and_total(cut, paid);
        Some(PricedLine {
            order_discount_share: share,
            net: i64::try_from(net).ok()?,
            total: i64::try_from(total).ok()?,
        })
    }

    /// What a line costs without tax and with it, when so much is paid for it after discounts.
    fn net_and_total(&self, cut: &Cut, paid: i128) -> (i128, i128) {
        if self.inclusive {
            (paid - cut.taxes, paid)
        } else {
            (paid, paid + cut.taxes)
        }
    }

    fn taxed_too_much(&self, cut: &Cut, paid: i128) -> String {
        let (taxes, paid) = (self.shown(cut.taxes), self.shown(paid));
        format!("are {taxes}, more than the {paid} they are levied on")
    }

    fn totals(
        &self,
        goods: &[Cut],
        shipping: &[Cut],
        order_discounts: i128,
        v: &mut Violations,
    ) -> Option<Totals> {
        let both = || goods.iter().chain(shipping);
        let subtotal: i128 = goods.iter().map(|cut| cut.gross).sum();
        let discounts = order_discounts + both().map(|cut| cut.own_discounts).sum::<i128>();
        let shipping_price: i128 = shipping.iter().map(|cut| cut.gross).sum();
        let tax: i128 = both().map(|cut| cut.taxes).sum();
        let added_tax = if self.inclusive { 0 } else { tax };
        let total = subtotal - discounts + shipping_price + added_tax;
        v.nested("totals", |v| {
            // All are looked at before the first that does not fit ends it.
            let subtotal = fits(v, "subtotal", subtotal, "of all lines");
            let discounts = fits(v, "discounts", discounts, "of all lines");
            let shipping = fits(v, "shipping", shipping_price, "of all lines");
            let tax = fits(v, "tax", tax, "of all lines");
            let total = fits(v, "total", total, "of all lines");
            Some(Totals {
                subtotal: subtotal?,
                discounts: discounts?,
                shipping: shipping?,
                tax: tax?,
                total: total?,
            })
        })
    }

    /// An amount for people; sums beyond 64 bits are shown as the largest amount.
    fn shown(&self, minor: i128) -> Money {
        Money::new(self.currency, i64::try_from(minor).unwrap_or(i64::MAX))
    }
}

/// Reads a number of units. What is out of bounds counts as none, so that checking goes on.
fn quantity(v: &mut Violations, units: i32) -> i32 {
    if (1..=limits::MAX_QUANTITY).contains(&units) {
        return units;
    }
    v.push(
        "quantity",
        format!("is {units}; expected 1 to {}", limits::MAX_QUANTITY),
    );
    0
}

fn fits(v: &mut Violations, field: &str, sum: i128, what: &str) -> Option<i64> {
    let fitting = i64::try_from(sum).ok();
    if fitting.is_none() {
        v.push(
            field,
            format!("{what} overflows: it does not fit into 64 bits of minor units"),
        );
    }
    fitting
}

/// Notes what keeps the claimed totals from being compared at all.
fn comparable(claimed: &ClaimedTotals, currency: Currency, v: &mut Violations) {
    if claimed.total.is_none() {
        v.push("total", "is missing; expected what the customer pays");
    }
    let given = [
        ("subtotal", claimed.subtotal),
        ("discounts", claimed.discounts),
        ("shipping", claimed.shipping),
        ("tax", claimed.tax),
        ("total", claimed.total),
    ];
    for (field, given) in given {
        if let Some(given) = given.filter(|given| given.currency != currency) {
            v.push(
                field,
                format!(
                    "is in {}; expected {currency}, the order's currency_code",
                    given.currency
                ),
            );
        }
    }
}

/// Compares what the caller claims with the sums; what is not claimed is not compared, but a total must be.
fn claims(claimed: &ClaimedTotals, sums: &Totals, currency: Currency, v: &mut Violations) {
    let compared = [
        (
            "subtotal",
            claimed.subtotal,
            sums.subtotal,
            "quantity times unit price of all lines",
        ),
        (
            "discounts",
            claimed.discounts,
            sums.discounts,
            "all discounts of lines, shipping and order",
        ),
        ("shipping", claimed.shipping, sums.shipping, "all shipping prices"),
        ("tax", claimed.tax, sums.tax, "all taxes of lines and shipping"),
        (
            "total",
            claimed.total,
            sums.total,
            "subtotal less discounts plus shipping, plus tax where prices are without",
        ),
    ];
    for (field, given, expected, meaning) in compared {
        let Some(given) = given else { continue };
        if given.minor != expected {
            let difference = i128::from(given.minor) - i128::from(expected);
            let difference = i64::try_from(difference).unwrap_or(i64::MIN);
            v.push(
                field,
                format!(
                    "expected {} ({meaning}), given {given}: a difference of {}",
                    Money::new(currency, expected),
                    Money::new(currency, difference)
                ),
            );
        }
    }
}

#[cfg(test)]
#[path = "pricing_tests.rs"]
mod tests;
