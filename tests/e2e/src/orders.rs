//! Small builders of orders. Their totals are summed here, independently of the order service.

use waybill_proto::waybill::order::v1::{
    Customer, Discount, NewOrder, NewOrderLine, NewShippingLine, OrderSource, OrderTotals, TaxLine,
};
use waybill_proto::waybill::r#type::v1::{Address, Money};

/// The customer's e-mail address; nobody but the mail server may see it.
pub const EMAIL: &str = "tamsin.oakley@customers.example";
/// The customer's name.
pub const NAME: &str = "Tamsin Oakley";
/// Where the customer lives.
pub const STREET: &str = "14 Sandgate Wynd";

/// An amount.
#[must_use]
pub fn money(currency: &str, minor_units: i64) -> Money {
    Money {
        currency_code: currency.to_owned(),
        minor_units,
    }
}

/// The minor units of an amount; 0 when it is not set.
#[must_use]
pub fn minor(money: Option<&Money>) -> i64 {
    money.map_or(0, |money| money.minor_units)
}

/// A line without tax.
#[must_use]
pub fn line(sku: &str, quantity: i32, unit_price: Money) -> NewOrderLine {
    NewOrderLine {
        sku: sku.to_owned(),
        title: format!("Goods {sku}"),
        quantity,
        unit_price: Some(unit_price),
        ..NewOrderLine::default()
    }
}

/// A tax on a whole line.
#[must_use]
pub fn tax(jurisdiction: &str, rate_ppm: i32, amount: Money) -> TaxLine {
    TaxLine {
        jurisdiction: jurisdiction.to_owned(),
        title: "VAT".to_owned(),
        rate_ppm,
        amount: Some(amount),
    }
}

/// A discount.
#[must_use]
pub fn discount(code: &str, amount: Money) -> Discount {
    Discount {
        code: code.to_owned(),
        title: code.to_owned(),
        amount: Some(amount),
    }
}

/// Shipping without tax.
#[must_use]
pub fn shipping(title: &str, price: Money) -> NewShippingLine {
    NewShippingLine {
        title: title.to_owned(),
        price: Some(price),
        ..NewShippingLine::default()
    }
}

/// A sound order of the one customer, with the total that its lines sum to. `name` is its number, and its id at the source.
#[must_use]
pub fn order(name: &str, currency: &str, lines: Vec<NewOrderLine>) -> NewOrder {
    let order = NewOrder {
        source: Some(OrderSource {
            system: "test".to_owned(),
            external_id: name.to_owned(),
        }),
        number: name.to_owned(),
        currency_code: currency.to_owned(),
        lines,
        customer: Some(Customer {
            email: EMAIL.to_owned(),
            name: NAME.to_owned(),
            ..Customer::default()
        }),
        shipping_address: Some(Address {
            name: NAME.to_owned(),
            lines: vec![STREET.to_owned()],
            city: "Whitby".to_owned(),
            postal_code: "YO22 4AA".to_owned(),
            country_code: "GB".to_owned(),
            ..Address::default()
        }),
        locale: "en-GB".to_owned(),
        ..NewOrder::default()
    };
    summed(order)
}

/// The order with the total that its lines, shipping, discounts and taxes sum to.
#[must_use]
pub fn summed(mut order: NewOrder) -> NewOrder {
    let mut total = 0;
    let mut take = |gross: i64, discounts: &[Discount], taxes: &[TaxLine]| {
        total += gross;
        total -= discounts
            .iter()
            .map(|discount| minor(discount.amount.as_ref()))
            .sum::<i64>();
        if !order.prices_include_tax {
            total += taxes.iter().map(|tax| minor(tax.amount.as_ref())).sum::<i64>();
        }
    };
    for line in &order.lines {
        let gross = i64::from(line.quantity).saturating_mul(minor(line.unit_price.as_ref()));
        take(gross, &line.discounts, &line.taxes);
    }
    for line in &order.shipping_lines {
        take(minor(line.price.as_ref()), &line.discounts, &line.taxes);
    }
    take(0, &order.discounts, &[]);
    let total = Some(money(&order.currency_code, total));
    order.totals = Some(OrderTotals {
        total,
        ..OrderTotals::default()
    });
    order
}
