//! Orders to write histories about.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta};
use waybill_kernel::id::{LineId, MerchantId, OrderId, StoreId};
use waybill_kernel::money::{Currency, Money};

use crate::domain::draft::{ClaimedTotals, Draft, DraftLine};
use crate::domain::freeze::{Conditions, freeze};
use crate::domain::order::{Address, Contact, Order, PLACED, Source, TaxLine, Tenant};
use crate::domain::state::State;

/// An amount in euros.
pub(crate) fn eur(minor: i64) -> Money {
    Money::new(Currency::EUR, minor)
}

/// A line of so many units.
pub(crate) fn line(quantity: i32, unit_price: i64, taxes: &[i64]) -> DraftLine {
    let tax = |amount: &i64| TaxLine {
        jurisdiction: "DE".into(),
        title: "USt".into(),
        rate_ppm: 190_000,
        amount: eur(*amount),
    };
    DraftLine {
        sku: "POT-1".into(),
        title: "Pot".into(),
        quantity,
        unit_price: eur(unit_price),
        category: "pots".into(),
        final_sale: false,
        digital: false,
        attributes: BTreeMap::new(),
        discounts: Vec::new(),
        taxes: taxes.iter().map(tax).collect(),
    }
}

/// A line of tea for 5.00 EUR a unit.
pub(crate) fn tea(quantity: i32) -> DraftLine {
    DraftLine {
        sku: "TEA-1".into(),
        ..line(quantity, 500, &[])
    }
}

/// An order of these lines that was just placed.
pub(crate) fn placed(lines: Vec<DraftLine>, inclusive: bool) -> Order {
    let cost = |line: &DraftLine| {
        let taxes: i64 = line.taxes.iter().map(|tax| tax.amount.minor).sum();
        line.unit_price.minor * i64::from(line.quantity) + if inclusive { 0 } else { taxes }
    };
    let total = lines.iter().map(cost).sum();
    let draft = Draft {
        source: Source {
            system: "api".into(),
            external_id: "1".into(),
        },
        number: "1".into(),
        placed_at: None,
        currency: Currency::EUR,
        prices_include_tax: inclusive,
        lines,
        shipping: Vec::new(),
        discounts: Vec::new(),
        totals: ClaimedTotals {
            total: Some(eur(total)),
            ..ClaimedTotals::default()
        },
        contact: Contact {
            shipping: Some(Address {
                country_code: "DE".into(),
                ..Address::default()
            }),
            ..Contact::default()
        },
        locale: String::new(),
        promised_ship_at: None,
        promised_delivery_at: None,
        presentment: None,
        presentment_totals: None,
        tags: Vec::new(),
        attributes: BTreeMap::new(),
    };
    let now = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);
    let mut conditions = Conditions {
        now,
        handling_time: TimeDelta::days(2),
        line_ids: &mut LineId::generate,
    };
    let (terms, contact) = freeze(draft, &mut conditions).expect("a sound draft");
    Order {
        id: OrderId::generate(),
        tenant: Tenant {
            merchant: MerchantId::generate(),
            store: StoreId::generate(),
        },
        state: State::placed(terms.totals.total, terms.units_to_ship(PLACED), now),
        terms,
        contact: Some(contact),
        attributes: BTreeMap::new(),
        payments: Vec::new(),
        holds: Vec::new(),
        cancellations: Vec::new(),
        edits: Vec::new(),
        attempts: Vec::new(),
    }
}
