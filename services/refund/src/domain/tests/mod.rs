//! The rules together, on an order and its refunds as the tables would hold them.

mod histories;
mod policy;
mod words;
mod world;

use chrono::{DateTime, TimeDelta, Utc};
use waybill_kernel::id::{LineId, MerchantId, OrderId, PaymentId, StoreId};
use waybill_kernel::money::Currency;
use waybill_kernel::slots::LineCut;

use super::book::{Balance, Book, BookLine, BookPayment, LineKind, Tenant};
use super::units::UnitSet;

fn now() -> DateTime<Utc> {
    DateTime::<Utc>::UNIX_EPOCH + TimeDelta::days(20_000)
}

fn line(kind: LineKind, net: i64, taxes: Vec<i64>, quantity: i32, inclusive: bool) -> BookLine {
    BookLine {
        line_id: LineId::generate(),
        kind,
        sku: "MUG".to_owned(),
        category: "kitchen".to_owned(),
        final_sale: false,
        digital: false,
        quantity,
        cut: LineCut::new(net, taxes, quantity.unsigned_abs(), inclusive).expect("a line that can be cut"),
        shipped: quantity,
        delivered_at: Some(now() - TimeDelta::days(3)),
        claimed: UnitSet::none(),
        promised: UnitSet::none(),
        returned: UnitSet::none(),
    }
}

/// An order whose lines are paid by payments in these shares of a hundred, the last one taking the rest.
fn book(lines: Vec<BookLine>, shares: &[i64]) -> Book {
    let total: i64 = lines
        .iter()
        .map(|line| line.worth(&UnitSet::all(line.quantity)).total())
        .sum();
    let mut left = total;
    let mut payments: Vec<BookPayment> = Vec::new();
    for (index, share) in shares.iter().enumerate() {
        let captured = if index + 1 == shares.len() {
            left
        } else {
            (total * share / 100).min(left)
        };
        left -= captured;
        payments.push(BookPayment {
            payment_id: PaymentId::generate(),
            provider: "sandbox".to_owned(),
            balance: Balance {
                captured,
                ..Balance::default()
            },
        });
    }
    Book {
        order_id: OrderId::generate(),
        tenant: Tenant {
            merchant: MerchantId::generate(),
            store: StoreId::generate(),
        },
        currency: Currency::parse("EUR").expect("a currency"),
        placed_at: now() - TimeDelta::days(10),
        cancelled_at: None,
        seen_version: 1,
        balance: Balance {
            captured: total,
            ..Balance::default()
        },
        lines,
        payments,
    }
}
