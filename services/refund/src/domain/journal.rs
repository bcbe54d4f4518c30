//! What is booked: every entry sums to zero, a debit is positive, a credit negative.
//!
//! | entry | debit | credit |
//! | --- | --- | --- |
//! | `sale` | receivable | sales, shipping income, tax payable |
//! | `capture` | clearing of the provider | receivable |
//! | `chargeback` | chargebacks | clearing of the provider |
//! | `sale_cancelled` | sales returns, shipping income, tax payable | receivable |
//! | `sale_lines_cancelled` | sales returns, tax payable | receivable |
//! | `sale_returned` | sales returns, shipping income, tax payable | fee income, receivable |
//! | `refund_accrued` | sales returns, shipping income, tax payable, goodwill, receivable | fee income, receivable, refunds payable |
//! | `refund_paid` | refunds payable | clearing of the provider |
//! | `refund_payment_reversed` | clearing of the provider | refunds payable |
//! | `refund_reversed` | what `refund_accrued` credited | what it debited |
//! | `refund_outside` | receivable | clearing of the provider |
//!
//! A correction is a reversing entry; nothing is changed. Whether an entry is stored once is a matter of its source, a
//! unique key in the table.

use std::collections::BTreeMap;

use waybill_kernel::id::{EntryId, OrderId, RefundId};

use super::book::{Book, LineKind, Tenant};
use super::refund::{Component, ComponentKind};

/// An account of the books.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Account {
    /// What customers owe.
    Receivable,
    /// Money at a payment provider.
    Clearing(String),
    /// Goods sold, without tax.
    Sales,
    /// Goods taken back, without tax.
    SalesReturns,
    /// Tax owed to the state.
    TaxPayable,
    /// Shipping sold, without tax.
    ShippingIncome,
    /// Fees kept.
    FeeIncome,
    /// Money owed to customers.
    RefundsPayable,
    /// Money given on top.
    Goodwill,
    /// Money that customers took back through their banks.
    Chargebacks,
}

impl std::fmt::Display for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Receivable => f.write_str("receivable"),
            Self::Clearing(provider) => write!(f, "clearing:{provider}"),
            Self::Sales => f.write_str("sales"),
            Self::SalesReturns => f.write_str("sales_returns"),
            Self::TaxPayable => f.write_str("tax_payable"),
            Self::ShippingIncome => f.write_str("shipping_income"),
            Self::FeeIncome => f.write_str("fee_income"),
            Self::RefundsPayable => f.write_str("refunds_payable"),
            Self::Goodwill => f.write_str("goodwill"),
            Self::Chargebacks => f.write_str("chargebacks"),
        }
    }
}

/// Debits and credits that are being put together; lines of one account are summed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Posting(BTreeMap<Account, i64>);

impl Posting {
    /// Adds a debit, or a credit where it is negative.
    #[must_use]
    pub fn debit(mut self, account: Account, minor: i64) -> Self {
        *self.0.entry(account).or_default() += minor;
        self
    }

    /// Adds a credit.
    #[must_use]
    pub fn credit(self, account: Account, minor: i64) -> Self {
        self.debit(account, -minor)
    }

    /// The same with every sign turned.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self(
            self.0
                .into_iter()
                .map(|(account, minor)| (account, -minor))
                .collect(),
        )
    }

    /// The lines that say something.
    #[must_use]
    pub fn lines(&self) -> Vec<(String, i64)> {
        self.0
            .iter()
            .filter(|(_, minor)| **minor != 0)
            .map(|(account, minor)| (account.to_string(), *minor))
            .collect()
    }

    /// True when debits equal credits.
    #[must_use]
    pub fn balanced(&self) -> bool {
        self.0.values().map(|minor| i128::from(*minor)).sum::<i128>() == 0
    }
}

/// An entry, ready to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its id.
    pub entry_id: EntryId,
    /// Who it belongs to.
    pub tenant: Tenant,
    /// The order.
    pub order_id: OrderId,
    /// The refund; none for sales and captures.
    pub refund_id: Option<RefundId>,
    /// What it books.
    pub kind: &'static str,
    /// What made it necessary; an entry of the same kind and source is stored once.
    pub source: String,
    /// The entry it takes back.
    pub reverses: Option<EntryId>,
    /// Currency code of its lines.
    pub currency: String,
    /// Its lines.
    pub posting: Posting,
}

impl Entry {
    /// An entry about the order of a book.
    #[must_use]
    pub fn new(book: &Book, kind: &'static str, source: String, posting: Posting) -> Self {
        Self {
            entry_id: EntryId::generate(),
            tenant: book.tenant,
            order_id: book.order_id,
            refund_id: None,
            kind,
            source,
            reverses: None,
            currency: book.currency.code().to_owned(),
            posting,
        }
    }

    /// Names the refund it is about.
    #[must_use]
    pub fn of_refund(self, refund_id: RefundId) -> Self {
        Self {
            refund_id: Some(refund_id),
            ..self
        }
    }

    /// Names the entry it takes back.
    #[must_use]
    pub fn reversing(self, entry: Option<EntryId>) -> Self {
        Self {
            reverses: entry,
            ..self
        }
    }
}

/// Goods and shipping were sold.
#[must_use]
pub fn sale(goods: i64, shipping: i64, tax: i64) -> Posting {
    Posting::default()
        .debit(Account::Receivable, goods + shipping + tax)
        .credit(Account::Sales, goods)
        .credit(Account::ShippingIncome, shipping)
        .credit(Account::TaxPayable, tax)
}

/// A provider took money for an order.
#[must_use]
pub fn capture(provider: &str, amount: i64) -> Posting {
    Posting::default()
        .debit(Account::Clearing(provider.to_owned()), amount)
        .credit(Account::Receivable, amount)
}

/// A customer's bank took money back: it is lost, and neither owed nor returned.
#[must_use]
pub fn chargeback(provider: &str, amount: i64) -> Posting {
    Posting::default()
        .debit(Account::Chargebacks, amount)
        .credit(Account::Clearing(provider.to_owned()), amount)
}

/// What was sold and never paid is taken back with its order.
#[must_use]
pub fn sale_cancelled(book: &Book) -> Posting {
    book.lines.iter().fold(Posting::default(), |posting, line| {
        let worth = line.worth(&line.free());
        let income = match line.kind {
            LineKind::Goods => Account::SalesReturns,
            LineKind::Shipping => Account::ShippingIncome,
        };
        posting
            .debit(income, worth.net)
            .debit(Account::TaxPayable, worth.tax)
            .credit(Account::Receivable, worth.total())
    })
}

/// Money is owed to the customer.
#[must_use]
pub fn refund_accrued(components: &[Component]) -> Posting {
    components.iter().fold(Posting::default(), |posting, component| {
        let account = match component.kind {
            ComponentKind::Line => Account::SalesReturns,
            ComponentKind::Shipping => Account::ShippingIncome,
            ComponentKind::Fee => Account::FeeIncome,
            ComponentKind::Goodwill => Account::Goodwill,
            ComponentKind::Unpaid | ComponentKind::Overpaid => Account::Receivable,
        };
        posting
            .debit(account, component.net)
            .debit(Account::TaxPayable, component.tax)
            .credit(Account::RefundsPayable, component.net + component.tax)
    })
}

/// A provider paid money back.
#[must_use]
pub fn refund_paid(provider: &str, amount: i64) -> Posting {
    Posting::default()
        .debit(Account::RefundsPayable, amount)
        .credit(Account::Clearing(provider.to_owned()), amount)
}

/// A provider paid money back that was not owed: the customer owes it now.
#[must_use]
pub fn refund_outside(provider: &str, amount: i64) -> Posting {
    Posting::default()
        .debit(Account::Receivable, amount)
        .credit(Account::Clearing(provider.to_owned()), amount)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::units::UnitSet;
    use super::*;

    proptest! {
        /// whatever a refund consists of, its entry balances and owes exactly its amount.
        #[test]
        fn accruals_balance(parts in prop::collection::vec((0..6_usize, -1_000_000..1_000_000_i64, 0..1_000_000_i64), 0..20)) {
            let components: Vec<Component> = parts
                .iter()
                .map(|(kind, net, tax)| Component {
                    kind: ComponentKind::ALL[*kind],
                    line_id: None,
                    units: UnitSet::none(),
                    net: *net,
                    tax: *tax,
                })
                .collect();
            let amount: i64 = components.iter().map(|component| component.net + component.tax).sum();
            let posting = refund_accrued(&components);
            prop_assert!(posting.balanced());
            let owed: i64 = posting.lines().iter().filter(|(account, _)| account == "refunds_payable").map(|(_, m)| m).sum();
            prop_assert_eq!(owed, -amount);
            prop_assert!(posting.clone().reversed().balanced());
            prop_assert!(posting.lines().iter().all(|(_, minor)| *minor != 0));
        }

        #[test]
        fn sales_and_payments_balance(goods in 0..i64::from(u32::MAX), shipping in 0..10_000_i64, tax in 0..10_000_i64) {
            prop_assert!(sale(goods, shipping, tax).balanced());
            prop_assert!(capture("sandbox", goods).balanced());
            prop_assert!(refund_paid("sandbox", goods).balanced());
            prop_assert!(refund_outside("sandbox", goods).balanced());
        }
    }

    #[test]
    fn a_fee_is_income_and_not_a_smaller_tax() {
        let component = |kind, net, tax| Component {
            kind,
            line_id: None,
            units: UnitSet::none(),
            net,
            tax,
        };
        let posting = refund_accrued(&[
            component(ComponentKind::Line, 1_000, 200),
            component(ComponentKind::Fee, -100, 0),
        ]);
        assert_eq!(
            posting.lines(),
            [
                ("sales_returns".to_owned(), 1_000),
                ("tax_payable".to_owned(), 200),
                ("fee_income".to_owned(), -100),
                ("refunds_payable".to_owned(), -1_100),
            ]
        );
    }
}
