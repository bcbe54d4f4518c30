//! Prices: shares, nets and totals sum exactly, whatever the order.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::domain::draft::{DraftLine, DraftShipping};
use crate::domain::order::{Contact, Source};

const EUR: Currency = Currency::EUR;

fn eur(minor: i64) -> Money {
    Money::new(EUR, minor)
}

fn discount(minor: i64) -> Discount<Money> {
    Discount {
        code: String::new(),
        title: "less".into(),
        amount: eur(minor),
    }
}

fn tax(minor: i64) -> TaxLine<Money> {
    TaxLine {
        jurisdiction: "DE".into(),
        title: "USt".into(),
        rate_ppm: 190_000,
        amount: eur(minor),
    }
}

fn line(quantity: i32, unit_price: i64, discounts: &[i64], taxes: &[i64]) -> DraftLine {
    DraftLine {
        sku: "sku".into(),
        title: String::new(),
        quantity,
        unit_price: eur(unit_price),
        category: String::new(),
        final_sale: false,
        digital: false,
        attributes: BTreeMap::new(),
        discounts: discounts.iter().map(|&d| discount(d)).collect(),
        taxes: taxes.iter().map(|&t| tax(t)).collect(),
    }
}

fn shipping(price: i64, discounts: &[i64], taxes: &[i64]) -> DraftShipping {
    DraftShipping {
        title: "post".into(),
        price: eur(price),
        discounts: discounts.iter().map(|&d| discount(d)).collect(),
        taxes: taxes.iter().map(|&t| tax(t)).collect(),
    }
}

fn draft(lines: Vec<DraftLine>, inclusive: bool, total: i64) -> Draft {
    Draft {
        source: Source {
            system: "api".into(),
            external_id: "1".into(),
        },
        number: String::new(),
        placed_at: None,
        currency: EUR,
        prices_include_tax: inclusive,
        lines,
        shipping: Vec::new(),
        discounts: Vec::new(),
        totals: ClaimedTotals {
            total: Some(eur(total)),
            ..ClaimedTotals::default()
        },
        contact: Contact::default(),
        locale: String::new(),
        promised_ship_at: None,
        promised_delivery_at: None,
        presentment: None,
        presentment_totals: None,
        attributes: BTreeMap::new(),
        tags: Vec::new(),
    }
}

/// The faults of a draft that must be refused, one per line of text.
fn faults(draft: &Draft) -> Vec<String> {
    let mut v = Violations::new();
    price(draft, &mut v).expect_err("the draft is wrong");
    v.iter().map(ToString::to_string).collect()
}

fn priced(draft: &Draft) -> Priced {
    let mut v = Violations::new();
    price(draft, &mut v).unwrap_or_else(|_| panic!("the draft is right, but: {v}"))
}

#[test]
fn prices_without_tax() {
    // 3 * 10.00 - 5.00 of its own = 25.00; 1 * 15.00; order discount 4.00 split 25 : 15.
    let mut order = draft(
        vec![line(3, 1000, &[500], &[428]), line(1, 1500, &[], &[257])],
        false,
        4675,
    );
    order.discounts = vec![discount(400)];
    order.shipping = vec![shipping(490, &[100], &[0])];
    order.totals = ClaimedTotals {
        subtotal: Some(eur(4500)),
        discounts: Some(eur(1000)),
        shipping: Some(eur(490)),
        tax: Some(eur(685)),
        total: Some(eur(4675)),
    };
    let priced = priced(&order);
    assert_eq!(
        priced.lines,
        [
            PricedLine {
                order_discount_share: 250,
                net: 2250,
                total: 2678
            },
            PricedLine {
                order_discount_share: 150,
                net: 1350,
                total: 1607
            },
        ]
    );
    assert_eq!(
        priced.shipping,
        [PricedLine {
            order_discount_share: 0,
            net: 390,
            total: 390
        }]
    );
}

#[test]
fn prices_with_tax() {
    let mut order = draft(vec![line(2, 595, &[90], &[176])], true, 1200);
    order.shipping = vec![shipping(100, &[], &[16])];
    assert_eq!(
        priced(&order),
        Priced {
            lines: vec![PricedLine {
                order_discount_share: 0,
                net: 924,
                total: 1100
            }],
            shipping: vec![PricedLine {
                order_discount_share: 0,
                net: 84,
                total: 100
            }],
            totals: Totals {
                subtotal: 1190,
                discounts: 90,
                shipping: 100,
                tax: 192,
                total: 1200
            },
        }
    );
}

#[test]
fn every_difference_of_the_totals_is_named() {
    let mut order = draft(vec![line(1, 1000, &[], &[190])], false, 1189);
    order.totals.subtotal = Some(eur(999));
    order.totals.tax = Some(eur(191));
    order.totals.shipping = Some(eur(0));
    assert_eq!(
        faults(&order),
        [
            "totals.subtotal: expected 10.00 EUR (quantity times unit price of all lines), given 9.99 EUR: a difference \
             of -0.01 EUR",
            "totals.tax: expected 1.90 EUR (all taxes of lines and shipping), given 1.91 EUR: a difference of 0.01 EUR",
            "totals.total: expected 11.90 EUR (subtotal less discounts plus shipping, plus tax where prices are without), \
             given 11.89 EUR: a difference of -0.01 EUR",
        ]
    );
    let mut v = Violations::new();
    assert_eq!(price(&order, &mut v), Err(PricingFault::Totals));
    order.totals = ClaimedTotals::default();
    let mut v = Violations::new();
    assert_eq!(price(&order, &mut v), Err(PricingFault::Amounts));
    assert_eq!(
        faults(&order),
        ["totals.total: is missing; expected what the customer pays"]
    );
}

#[test]
fn amounts_of_another_currency_are_each_named() {
    let mut order = draft(vec![line(1, 1000, &[10], &[10])], true, 990);
    let usd = Money::new(Currency::USD, 10);
    order.lines[0].unit_price = usd;
    order.lines[0].discounts[0].amount = usd;
    order.lines[0].taxes[0].amount = usd;
    order.discounts = vec![Discount {
        amount: usd,
        ..discount(0)
    }];
    order.shipping = vec![DraftShipping {
        price: usd,
        ..shipping(0, &[], &[])
    }];
    let named: Vec<String> = faults(&order);
    let fields: Vec<&str> = named
        .iter()
        .filter_map(|fault| fault.split(": ").next())
        .collect();
    assert_eq!(
        fields,
        [
            "lines[0].unit_price",
            "lines[0].discounts[0].amount",
            "lines[0].taxes[0].amount",
            "shipping_lines[0].price",
            "discounts[0].amount",
        ]
    );
    assert!(
        named
            .iter()
            .all(|fault| fault.ends_with("is in USD; expected EUR, the order's currency_code"))
    );

    let mut order = draft(vec![line(1, 1000, &[], &[])], true, 1000);
    order.totals.total = Some(Money::new(Currency::USD, 1000));
    assert_eq!(
        faults(&order),
        ["totals.total: is in USD; expected EUR, the order's currency_code"]
    );
}

#[test]
fn what_is_negative_or_does_not_fit_is_refused() {
    let order = draft(vec![line(1, -1, &[], &[]), line(1, 100, &[-1], &[-1])], true, 100);
    assert_eq!(
        faults(&order),
        [
            "lines[0].unit_price: is -0.01 EUR; expected 0 or more",
            "lines[1].discounts[0].amount: is -0.01 EUR; expected 0 or more",
            "lines[1].taxes[0].amount: is -0.01 EUR; expected 0 or more",
        ]
    );
    let order = draft(vec![line(2, i64::MAX, &[], &[])], true, 0);
    assert_eq!(
        faults(&order),
        ["lines[0].unit_price: times quantity overflows: it does not fit into 64 bits of minor units"]
    );
    let order = draft(vec![line(1, i64::MAX, &[], &[]), line(1, 1, &[], &[])], true, 0);
    assert_eq!(
        faults(&order),
        [
            "totals.subtotal: of all lines overflows: it does not fit into 64 bits of minor units",
            "totals.total: of all lines overflows: it does not fit into 64 bits of minor units",
        ]
    );
}

#[test]
fn nothing_is_given_away_twice() {
    assert_eq!(
        faults(&draft(vec![line(1, 100, &[60, 41], &[])], true, 0)),
        ["lines[0].discounts: take off 1.01 EUR, more than the price of 1.00 EUR"]
    );
    let mut order = draft(vec![line(1, 100, &[40], &[])], true, 0);
    order.discounts = vec![discount(61)];
    assert_eq!(
        faults(&order),
        [
            "discounts: take off 0.61 EUR, more than the 0.60 EUR that the lines cost after their own discounts"
        ]
    );
}

#[test]
fn tax_larger_than_its_line_is_refused_in_both_kinds_of_prices() {
    for inclusive in [true, false] {
        let mut order = draft(vec![line(1, 100, &[], &[51])], inclusive, 0);
        order.discounts = vec![discount(50)];
        assert_eq!(
            faults(&order),
            ["lines[0].taxes: are 0.51 EUR, more than the 0.50 EUR they are levied on"]
        );
    }
}

#[test]
fn a_thousand_faults_do_not_make_a_thousand_messages() {
    let order = draft(vec![line(1, -1, &[], &[]); 1000], true, 0);
    assert!(faults(&order).len() <= limits::MAX_FAULTS);
}

prop_compose! {
    /// A line whose discounts are within its price and whose taxes are small enough for any order discount.
    fn any_line()(
        quantity in 1..1_000_i32,
        unit_price in 0..1_000_000_i64,
        off_ppm in 0..=1_000_000_i64,
        tax_ppm in 0..400_000_i64,
    ) -> (DraftLine, i64) {
        let gross = i64::from(quantity) * unit_price;
        let off = gross * off_ppm / 1_000_000;
        (line(quantity, unit_price, &[off / 2, off - off / 2], &[]), tax_ppm)
    }
}

proptest! {
    /// O-1: whatever the order, its lines sum to its totals, no line costs less than nothing, and shares of the order's
    /// discounts sum to them. One minor unit off anywhere is refused.
    #[test]
    fn lines_sum_to_the_totals(
        lines in proptest::collection::vec(any_line(), 1..20),
        order_off_ppm in 0..=1_000_000_i64,
        shipping_price in 0..10_000_i64,
        inclusive in any::<bool>(),
        wrong in prop_oneof![-3..=-1_i64, 1..=3_i64],
    ) {
        let (mut lines, rates): (Vec<DraftLine>, Vec<i64>) = lines.into_iter().unzip();
        let costs = |line: &DraftLine| i64::from(line.quantity) * line.unit_price.minor
            - line.discounts.iter().map(|d| d.amount.minor).sum::<i64>();
        let available: i64 = lines.iter().map(costs).sum();
        let order_off = i64::try_from(i128::from(available) * i128::from(order_off_ppm) / 1_000_000).expect("a part");
        let weights: Vec<i64> = lines.iter().map(costs).collect();
        let shares = largest_remainder(order_off, &weights);
        for ((line, rate), share) in lines.iter_mut().zip(rates).zip(&shares) {
            let paid = costs(line) - share;
            line.taxes = vec![tax(paid * rate / 1_000_000)];
        }
        let taxes: i64 = lines.iter().flat_map(|line| &line.taxes).map(|tax| tax.amount.minor).sum();
        let total = available - order_off + shipping_price + if inclusive { 0 } else { taxes };
        let mut order = draft(lines, inclusive, total);
        order.discounts = vec![discount(order_off)];
        order.shipping = vec![shipping(shipping_price, &[], &[])];

        let priced = priced(&order);
        let all = || priced.lines.iter().chain(&priced.shipping);
        prop_assert!(all().all(|line| 0 <= line.net && line.net <= line.total));
        prop_assert_eq!(all().map(|line| line.total).sum::<i64>(), total);
        prop_assert_eq!(all().map(|line| line.total - line.net).sum::<i64>(), taxes);
        prop_assert_eq!(priced.lines.iter().map(|line| line.order_discount_share).sum::<i64>(), order_off);

        order.totals.total = Some(eur(total + wrong));
        let mut v = Violations::new();
        prop_assert_eq!(price(&order, &mut v), Err(PricingFault::Totals));
    }

    /// Amounts of every size are priced or refused, never a panic, never a wrap.
    #[test]
    fn no_amount_makes_it_panic(
        amounts in proptest::collection::vec((any::<i32>(), any::<i64>(), any::<i64>(), any::<i64>()), 1..5),
        order_discount in any::<i64>(),
        total in any::<i64>(),
        inclusive in any::<bool>(),
    ) {
        let lines = amounts.iter().map(|&(q, p, d, t)| line(q, p, &[d], &[t])).collect();
        let mut order = draft(lines, inclusive, total);
        order.discounts = vec![discount(order_discount)];
        let mut v = Violations::new();
        let result = price(&order, &mut v);
        prop_assert_eq!(result.is_ok(), v.is_empty());
    }
}
