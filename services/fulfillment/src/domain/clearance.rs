//! Whether an order may ship as far as its money goes: what providers took, and what they still hold for it, covers what is to
//! be paid (F-13).
//!
//! An authorisation is used up by what is captured and given back of the same payment. A capture of a payment that was never
//! authorised is a sale, and uses up nothing of the others.

use std::collections::BTreeMap;

/// What a provider did with money.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It was set aside.
    Authorization,
    /// It was taken.
    Capture,
    /// It is no longer set aside.
    Void,
}

impl Kind {
    /// The kind as events name it; none for what changes neither sum, such as disputes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "authorization" => Some(Self::Authorization),
            "capture" => Some(Self::Capture),
            "void" => Some(Self::Void),
            _ => None,
        }
    }
}

/// Something a provider did with the money of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payment {
    /// What it did.
    pub kind: Kind,
    /// The provider and its id of the payment.
    pub of: (String, String),
    /// How much, in minor units; none where it is not known.
    pub amount: Option<i64>,
}

/// The money of an order, in minor units of its currency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// What is to be paid; none where it is not known.
    pub due: Option<i64>,
    /// Of what was captured, what goes back for cancelled units: it pays for nothing that came later.
    pub owed_back: i64,
    /// What providers did.
    pub payments: Vec<Payment>,
}

impl Account {
    /// Whether the order may ship. Where amounts are not known, any capture will do, and an authorisation that was not given
    /// back.
    #[must_use]
    pub fn is_cleared(&self) -> bool {
        match (self.due, self.covered()) {
            (Some(due), _) if due <= 0 => true,
            (Some(due), Some(covered)) => covered >= due,
            _ => {
                let count = |kind: Kind| {
                    self.payments
                        .iter()
                        .filter(|payment| payment.kind == kind)
                        .count()
                };
                count(Kind::Capture) > 0 || count(Kind::Authorization) > count(Kind::Void)
            }
        }
    }

    /// What was captured and stays, and what is still set aside; none where an amount is not known.
    fn covered(&self) -> Option<i64> {
        let (mut captured, mut not_voided) = (0_i64, 0_i64);
        let mut set_aside: BTreeMap<(&str, &str), i64> = BTreeMap::new();
        for payment in &self.payments {
            let amount = payment.amount?;
            let name = (payment.of.0.as_str(), payment.of.1.as_str());
            let left = set_aside.entry(name).or_default();
            match payment.kind {
                Kind::Authorization => {
                    *left += amount;
                    not_voided += amount;
                }
                Kind::Capture => {
                    *left -= amount;
                    captured += amount;
                }
                Kind::Void => {
                    *left -= amount;
                    not_voided -= amount;
                }
            }
        }
        let set_aside: i64 = set_aside.values().map(|left| (*left).max(0)).sum();
        // A void that names no payment that was authorised releases what the others have set aside.
        let set_aside = set_aside.min(not_voided.max(0));
        Some((captured - self.owed_back).saturating_add(set_aside))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Kind::{Authorization, Capture, Void};
    use super::*;

    fn payment(kind: Kind, id: &str, amount: i64) -> Payment {
        Payment {
            kind,
            of: ("stripe".to_owned(), id.to_owned()),
            amount: Some(amount),
        }
    }

    fn account(due: i64, payments: &[(Kind, &str, i64)]) -> Account {
        Account {
            due: Some(due),
            owed_back: 0,
            payments: (payments.iter())
                .map(|(kind, id, amount)| payment(*kind, id, *amount))
                .collect(),
        }
    }

    /// What is told of a payment: what it did, its id, how much.
    type Told = (Kind, &'static str, i64);

    #[test]
    fn the_money_has_to_cover_what_is_to_be_paid() {
        let cases: [(i64, &[Told], bool); 13] = [
            (0, &[], true),
            (1, &[], false),
            (100, &[(Authorization, "a", 100)], true),
            (100, &[(Capture, "a", 99)], false),
            // What came with an edit is not paid by what was paid before.
            (600, &[(Capture, "a", 100)], false),
            (600, &[(Capture, "a", 100), (Authorization, "b", 500)], true),
            // Nothing counts twice.
            (150, &[(Authorization, "a", 100), (Capture, "a", 100)], false),
            // The rest of a payment was given back, or still is set aside.
            (100, &[(Authorization, "a", 100), (Capture, "a", 60)], true),
            (
                100,
                &[(Authorization, "a", 100), (Capture, "a", 60), (Void, "a", 40)],
                false,
            ),
            (60, &[(Authorization, "a", 100), (Void, "a", 40)], true),
            // One of two was given back.
            (
                120,
                &[
                    (Authorization, "a", 100),
                    (Authorization, "b", 20),
                    (Void, "a", 100),
                ],
                false,
            ),
            // A sale beside an authorisation leaves it what it is.
            (120, &[(Authorization, "a", 100), (Capture, "b", 20)], true),
            // A void under a name of its own.
            (100, &[(Authorization, "a", 100), (Void, "b", 100)], false),
        ];
        for (due, payments, cleared) in cases {
            assert_eq!(
                account(due, payments).is_cleared(),
                cleared,
                "{due}: {payments:?}"
            );
        }
    }

    #[test]
    fn what_goes_back_pays_for_nothing() {
        let mut of = account(100, &[(Capture, "a", 100)]);
        of.owed_back = 50;
        assert!(!of.is_cleared());
        of.payments.push(payment(Capture, "b", 50));
        assert!(of.is_cleared());
    }

    #[test]
    fn where_an_amount_is_not_known_what_was_done_counts() {
        let mut of = account(100, &[(Authorization, "a", 1), (Void, "a", 1)]);
        of.payments[0].amount = None;
        assert!(!of.is_cleared());
        of.payments.push(payment(Authorization, "b", 1));
        assert!(of.is_cleared());
        of.due = Some(0);
        of.payments.clear();
        assert!(of.is_cleared());
        of.due = None;
        assert!(!of.is_cleared());
        of.payments.push(payment(Capture, "b", 1));
        assert!(of.is_cleared());
    }

    fn payments() -> impl Strategy<Value = Vec<Payment>> {
        let one = (0..3_usize, 0..3_usize, 1..200_i64);
        let one = one.prop_map(|(kind, id, amount)| {
            payment([Authorization, Capture, Void][kind], ["a", "b", "c"][id], amount)
        });
        prop::collection::vec(one, 0..8)
    }

    proptest! {
        /// F-13: money that comes never stops an order, money that goes never lets it ship, whatever was before, and the order
        /// in which it was heard changes nothing.
        #[test]
        fn more_money_covers_more(before in payments(), next in payments(), due in 0..300_i64) {
            let mut of = Account { due: Some(due), owed_back: 0, payments: before };
            for payment in next {
                let (was, comes) = (of.is_cleared(), payment.kind != Void);
                of.payments.push(payment);
                let is = of.is_cleared();
                prop_assert!(was == is || is == comes);
                let mut turned = of.clone();
                turned.payments.reverse();
                prop_assert_eq!(turned.is_cleared(), is);
            }
        }
    }
}
