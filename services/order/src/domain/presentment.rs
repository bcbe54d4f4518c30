//! What the customer saw: a total, perhaps all sums, in a currency that may be another than the order's.
//!
//! Nobody here knows the rate, so the amounts of the two currencies are not compared. What can be known is checked: that the
//! sums add up among themselves, that nothing is nothing in every currency, and that one currency is one currency.

use waybill_kernel::check::Violations;
use waybill_kernel::money::{Currency, Money};

use super::draft::{ClaimedTotals, Draft};
use super::order::Totals;

/// What the customer saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The total.
    pub total: Money,
    /// All sums, where they were given.
    pub totals: Option<Totals>,
}

/// What a draft says that the customer saw, checked by itself.
pub fn check(draft: &Draft, v: &mut Violations) -> Option<Seen> {
    let Some(total) = draft.presentment else {
        v.require(
            draft.presentment_totals.is_none(),
            "presentment_totals",
            "is given without presentment_currency_code and presentment_total; give all three, or none",
        );
        return None;
    };
    not_negative("presentment_total", total, v);
    let totals = (draft.presentment_totals.as_ref()).and_then(|claimed| {
        v.nested("presentment_totals", |v| {
            add_up(claimed, total, draft.prices_include_tax, v)
        })
    });
    Some(Seen { total, totals })
}

/// What is kept of it beside the order's own sums: nothing when it says the same.
pub fn agree(seen: Option<Seen>, currency: Currency, own: &Totals, v: &mut Violations) -> Option<Seen> {
    let seen = seen?;
    let total = Money::new(currency, own.total);
    if seen.total.currency == currency {
        v.require(
            seen.total == total,
            "presentment_total",
            format!(
                "is {}; expected {total}, the order's total, since it is in the same currency",
                seen.total
            ),
        );
        v.require(
            seen.totals.is_none_or(|totals| totals == *own),
            "presentment_totals",
            "differ from the order's own sums, in the same currency; give those, or none",
        );
        return None;
    }
    v.require(
        own.total != 0 || seen.total.minor == 0,
        "presentment_total",
        format!("is {}; expected 0, for the order costs nothing", seen.total),
    );
    Some(seen)
}

fn not_negative(field: &str, amount: Money, v: &mut Violations) {
    v.require(
        amount.minor >= 0,
        field,
        format!("is {amount}; expected 0 or more"),
    );
}

/// The sums, when they are all there, in one currency, and add up to the total.
fn add_up(claimed: &ClaimedTotals, total: Money, inclusive: bool, v: &mut Violations) -> Option<Totals> {
    let before = v.len();
    let mut sum = |field: &str, amount: Option<Money>| {
        let Some(amount) = amount else {
            v.push(field, "is missing; give all five sums, or none");
            return 0;
        };
        v.require(
            amount.currency == total.currency,
            format!("{field}.currency_code"),
            format!(
                "is {}; expected {}, the presentment currency",
                amount.currency, total.currency
            ),
        );
        not_negative(field, amount, v);
        amount.minor
    };
    let totals = Totals {
        subtotal: sum("subtotal", claimed.subtotal),
        discounts: sum("discounts", claimed.discounts),
        shipping: sum("shipping", claimed.shipping),
        tax: sum("tax", claimed.tax),
        total: sum("total", claimed.total),
    };
    if v.len() > before {
        return None;
    }
    let tax = if inclusive { 0 } else { totals.tax };
    let parts = [totals.subtotal, -totals.discounts, totals.shipping, tax];
    let parts: i128 = parts.into_iter().map(i128::from).sum();
    v.require(
        parts == i128::from(totals.total),
        "total",
        format!(
            "is {} minor units, but its parts sum to {parts}: subtotal less discounts, plus shipping{}",
            totals.total,
            if inclusive { "" } else { ", plus tax" }
        ),
    );
    v.require(
        totals.total == total.minor,
        "total",
        format!(
            "is {} minor units; expected {total}, the presentment_total",
            totals.total
        ),
    );
    (v.len() == before).then_some(totals)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn yen(minor: i64) -> Money {
        Money::new(Currency::JPY, minor)
    }

    fn sums(total: i64) -> ClaimedTotals {
        ClaimedTotals {
            subtotal: Some(yen(1500)),
            discounts: Some(yen(100)),
            shipping: Some(yen(200)),
            tax: Some(yen(160)),
            total: Some(yen(total)),
        }
    }

    fn faults(check: impl FnOnce(&mut Violations)) -> Vec<String> {
        let mut v = Violations::new();
        check(&mut v);
        v.iter().map(|fault| fault.field.clone()).collect()
    }

    #[test]
    fn sums_are_whole_and_add_up_with_tax_in_or_beside_the_prices() {
        let none: [&str; 0] = [];
        assert_eq!(faults(|v| _ = add_up(&sums(1600), yen(1600), true, v)), none);
        assert_eq!(faults(|v| _ = add_up(&sums(1760), yen(1760), false, v)), none);
        assert_eq!(faults(|v| _ = add_up(&sums(1760), yen(1760), true, v)), ["total"]);
        assert_eq!(faults(|v| _ = add_up(&sums(1600), yen(1601), true, v)), ["total"]);
        let part = ClaimedTotals {
            tax: None,
            shipping: Some(Money::new(Currency::EUR, 2)),
            discounts: Some(yen(-1)),
            ..sums(1600)
        };
        assert_eq!(
            faults(|v| _ = add_up(&part, yen(1600), true, v)),
            ["discounts", "shipping.currency_code", "tax"]
        );
        let largest = ClaimedTotals {
            subtotal: Some(yen(i64::MAX)),
            shipping: Some(yen(i64::MAX)),
            ..sums(1600)
        };
        assert_eq!(faults(|v| _ = add_up(&largest, yen(1600), true, v)), ["total"]);
    }

    #[test]
    fn one_currency_has_one_total_and_nothing_is_nothing_in_all() {
        let own = Totals {
            subtotal: 1000,
            total: 1000,
            ..Totals::default()
        };
        let seen = |total, totals| Some(Seen { total, totals });
        let none: [&str; 0] = [];
        let same = Money::new(Currency::EUR, 1000);
        assert_eq!(
            faults(|v| assert_eq!(agree(seen(same, Some(own)), Currency::EUR, &own, v), None)),
            none
        );
        let other = Money::new(Currency::EUR, 999);
        assert_eq!(
            faults(|v| _ = agree(seen(other, Some(Totals::default())), Currency::EUR, &own, v)),
            ["presentment_total", "presentment_totals"]
        );
        let abroad = seen(yen(1600), None);
        assert_eq!(
            faults(|v| assert_eq!(agree(abroad, Currency::EUR, &own, v), abroad)),
            none
        );
        let free = Totals::default();
        assert_eq!(
            faults(|v| _ = agree(abroad, Currency::EUR, &free, v)),
            ["presentment_total"]
        );
    }
}
