//! What is ordered and what becomes of it, drawn by the seed. Pure.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde::Serialize;
use waybill_proto::waybill::order::v1::{
    Customer, Discount, NewOrder, NewOrderLine, NewShippingLine, OrderSource, OrderTotals, TaxLine,
};
use waybill_proto::waybill::r#type::v1::{Address, Money};

/// Goods on sale: few enough that orders wait for the same ones.
const SKUS: [(&str, i64); 8] = [
    ("MUG-STONE", 1_280),
    ("THROW-WOOL", 6_400),
    ("CANDLE-PINE", 950),
    ("BOWL-OAK", 2_999),
    ("TEA-ASSAM", 745),
    ("APRON-LINEN", 3_333),
    ("LAMP-BRASS", 8_901),
    ("SOAP-LAVENDER", 499),
];

/// What becomes of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Plan {
    /// It arrives and is kept.
    Keep,
    /// It is cancelled before it is paid.
    CancelUnpaid,
    /// It is cancelled after it is paid, and paid back.
    CancelPaid,
    /// One unit comes back.
    ReturnOne,
    /// Everything comes back.
    ReturnAll,
    /// Nothing comes back; so many units are paid back, one refund each.
    RefundUnits(u8),
    /// One unit comes back, and another one is paid back without.
    ReturnAndRefund,
}

impl Plan {
    /// Refunds that must have succeeded at the end.
    #[must_use]
    pub fn refunds(self) -> usize {
        match self {
            Self::Keep | Self::CancelUnpaid => 0,
            Self::CancelPaid | Self::ReturnOne | Self::ReturnAll => 1,
            Self::RefundUnits(units) => usize::from(units),
            Self::ReturnAndRefund => 2,
        }
    }

    /// Returns that must be complete at the end.
    #[must_use]
    pub fn returns(self) -> usize {
        usize::from(matches!(
            self,
            Self::ReturnOne | Self::ReturnAll | Self::ReturnAndRefund
        ))
    }

    /// Whether it is cancelled, and so never ships.
    #[must_use]
    pub fn is_cancelled(self) -> bool {
        matches!(self, Self::CancelUnpaid | Self::CancelPaid)
    }
}

/// An order that is to be placed, and its plan.
#[derive(Debug, Clone)]
pub struct Draft {
    /// The order.
    pub order: NewOrder,
    /// What becomes of it.
    pub plan: Plan,
    /// Whether its calls are made twice at the same time, as by a caller whose first attempt hangs.
    pub impatient: bool,
}

/// The order with this number in a run.
#[must_use]
pub fn draft(seed: u64, number: u32) -> Draft {
    let mut rng = StdRng::seed_from_u64(seed ^ (u64::from(number) << 20) ^ 0x5741_5942);
    let plan = match rng.random_range(0..20) {
        0..=6 => Plan::Keep,
        7 => Plan::CancelUnpaid,
        8..=9 => Plan::CancelPaid,
        10..=12 => Plan::ReturnOne,
        13..=14 => Plan::ReturnAll,
        15..=17 => Plan::RefundUnits(rng.random_range(1..=3)),
        _ => Plan::ReturnAndRefund,
    };
    let currency = *["GBP", "EUR", "USD"].choose(&mut rng).unwrap_or(&"GBP");
    // At least as many units as can be paid back one by one.
    let lines: Vec<NewOrderLine> = SKUS
        .sample(&mut rng, 3)
        .take(1 + number as usize % 3)
        .map(|(sku, price)| line(&mut rng, sku, *price, currency))
        .collect();
    let order = NewOrder {
        source: Some(OrderSource {
            system: "verify".to_owned(),
            external_id: format!("V{number}"),
        }),
        number: format!("V{number}"),
        currency_code: currency.to_owned(),
        lines,
        shipping_lines: vec![NewShippingLine {
            title: "Standard".to_owned(),
            price: Some(money(currency, 495)),
            ..NewShippingLine::default()
        }],
        discounts: if rng.random_bool(0.3) {
            vec![Discount {
                code: "WELCOME".to_owned(),
                title: "Welcome".to_owned(),
                amount: Some(money(currency, 333)),
            }]
        } else {
            Vec::new()
        },
        customer: Some(Customer {
            email: email(&format!("V{number}")),
            name: format!("Customer {number}"),
            ..Customer::default()
        }),
        shipping_address: Some(Address {
            name: format!("Customer {number}"),
            lines: vec!["1 Harbour Row".to_owned()],
            city: "Whitby".to_owned(),
            postal_code: "YO22 4AA".to_owned(),
            country_code: "GB".to_owned(),
            ..Address::default()
        }),
        locale: "en-GB".to_owned(),
        ..NewOrder::default()
    };
    Draft {
        order: summed(order),
        plan,
        impatient: rng.random_bool(0.1),
    }
}

fn line(rng: &mut StdRng, sku: &str, price: i64, currency: &str) -> NewOrderLine {
    let quantity = rng.random_range(3..=5);
    let gross = price * i64::from(quantity);
    NewOrderLine {
        sku: sku.to_owned(),
        title: sku.to_owned(),
        quantity,
        unit_price: Some(money(currency, price)),
        taxes: vec![TaxLine {
            jurisdiction: "GB".to_owned(),
            title: "VAT".to_owned(),
            rate_ppm: 200_000,
            amount: Some(money(currency, (gross + 2) / 5)),
        }],
        ..NewOrderLine::default()
    }
}

fn money(currency: &str, minor_units: i64) -> Money {
    Money {
        currency_code: currency.to_owned(),
        minor_units,
    }
}

fn minor(money: Option<&Money>) -> i64 {
    money.map_or(0, |money| money.minor_units)
}

/// The order with its total, summed here and not by the order service.
fn summed(mut order: NewOrder) -> NewOrder {
    let goods: i64 = order
        .lines
        .iter()
        .map(|line| {
            let tax: i64 = line.taxes.iter().map(|tax| minor(tax.amount.as_ref())).sum();
            i64::from(line.quantity) * minor(line.unit_price.as_ref()) + tax
        })
        .sum();
    let shipping: i64 = order
        .shipping_lines
        .iter()
        .map(|line| minor(line.price.as_ref()))
        .sum();
    let discounts: i64 = order
        .discounts
        .iter()
        .map(|discount| minor(discount.amount.as_ref()))
        .sum();
    order.totals = Some(OrderTotals {
        total: Some(money(&order.currency_code, goods + shipping - discounts)),
        ..OrderTotals::default()
    });
    order
}

/// Where the customer of an order gets mail.
#[must_use]
pub fn email(external_id: &str) -> String {
    format!("customer-{}@customers.example", external_id.to_lowercase())
}

/// Every sku that may be ordered.
pub fn skus() -> impl Iterator<Item = &'static str> {
    SKUS.iter().map(|(sku, _)| *sku)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_seed_repeats_the_orders() {
        for number in 0..200 {
            let (one, two) = (draft(7, number), draft(7, number));
            assert_eq!((one.order, one.plan), (two.order, two.plan));
        }
    }

    #[test]
    fn every_plan_has_the_units_it_needs() {
        let mut plans = BTreeSet::new();
        for number in 0..500 {
            let draft = draft(1, number);
            let units: i32 = draft.order.lines.iter().map(|line| line.quantity).sum();
            assert!(units >= 3, "{draft:?}");
            plans.insert(format!("{:?}", draft.plan));
        }
        assert_eq!(plans.len(), 9, "{plans:?}");
    }
}
