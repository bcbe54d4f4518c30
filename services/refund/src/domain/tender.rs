//! Splits a refund over the payments of its order.
//!
//! The oldest capture goes first, each payment up to what it captured and has not given back or promised. The
//! parts sum to the refund exactly or there is no split at all. Which provider carries a part out is not decided here.

use waybill_kernel::id::PaymentId;

use super::book::BookPayment;

/// The payments cannot carry the refund.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortfall {
    /// What they can carry together.
    pub available: i64,
}

/// Splits `amount`, which is more than zero, over payments.
pub fn split(amount: i64, payments: &[BookPayment]) -> Result<Vec<(PaymentId, i64)>, Shortfall> {
    let mut left = amount;
    let mut parts = Vec::new();
    for payment in payments {
        let part = payment.balance.refundable().min(left);
        if part > 0 {
            parts.push((payment.payment_id, part));
            left -= part;
        }
    }
    if left > 0 {
        return Err(Shortfall {
            available: amount - left,
        });
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use waybill_kernel::id::PaymentId;

    use super::super::book::Balance;
    use super::*;

    fn payment(captured: i64, succeeded: i64, in_flight: i64, outside: i64) -> BookPayment {
        BookPayment {
            payment_id: PaymentId::generate(),
            provider: "sandbox".to_owned(),
            balance: Balance {
                captured,
                succeeded,
                in_flight,
                outside,
                owed: 0,
            },
        }
    }

    proptest! {
        /// the parts sum to the refund and none is more than its payment has left.
        #[test]
        fn a_split_is_exact_and_capped(
            balances in prop::collection::vec((0..1_000_i64, 0..400_i64, 0..400_i64, 0..100_i64), 0..6),
            amount in 1..4_000_i64,
        ) {
            let payments: Vec<_> = balances.iter().map(|(c, s, i, o)| payment(c + s + i, *s, *i, *o)).collect();
            let available: i64 = payments.iter().map(|payment| payment.balance.refundable()).sum();
            match split(amount, &payments) {
                Ok(parts) => {
                    prop_assert_eq!(parts.iter().map(|(_, part)| part).sum::<i64>(), amount);
                    for (payment_id, part) in &parts {
                        let of = payments.iter().find(|payment| payment.payment_id == *payment_id).expect("one of ours");
                        prop_assert!(*part > 0 && *part <= of.balance.refundable());
                    }
                }
                Err(shortfall) => {
                    prop_assert_eq!(shortfall.available, available);
                    prop_assert!(available < amount);
                }
            }
        }
    }

    #[test]
    fn the_oldest_payment_goes_first() {
        let payments = [payment(100, 40, 10, 0), payment(200, 0, 0, 0)];
        let parts = split(120, &payments).expect("enough money");
        assert_eq!(
            parts,
            vec![(payments[0].payment_id, 50), (payments[1].payment_id, 70)]
        );
    }

    #[test]
    fn money_that_left_behind_our_back_is_not_paid_again() {
        assert_eq!(
            split(1, &[payment(100, 100, 0, 30)]),
            Err(Shortfall { available: 0 })
        );
    }
}
