//! Amounts as Stripe counts them, which is not always as ISO 4217 does.
//!
//! - ISK has no decimals in ISO 4217 but two at Stripe, always 00: 5 ISK are sent as 500.
//! - MGA has two decimals in ISO 4217 but none at Stripe: only whole ariary can be refunded.
//! - Currencies of three decimals must end in 0, so they move in tens.
//! - UGX is on Stripe's list of currencies without decimals *and* among the special cases that want two. A factor of a
//!   hundred is no place to guess: it is refused, and such a refund goes another way.
//!
//! Currencies that ISO 4217 gives other exponents than 2 and that Stripe does not list are refused, too.

use waybill_kernel::money::{Currency, Money, MoneyError};

/// Why an amount cannot be exchanged with Stripe.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// Stripe does not take the currency, or not with one clear meaning.
    #[error("{currency} cannot be refunded through Stripe")]
    Unsupported {
        /// The currency.
        currency: Currency,
    },
    /// Finer than Stripe's smallest step.
    #[error("{amount} cannot be refunded through Stripe: amounts of {} move in steps of {step} minor units", amount.currency)]
    BetweenSteps {
        /// The amount.
        amount: Money,
        /// The step in minor units.
        step: i64,
    },
    /// Not a currency, or too large.
    #[error(transparent)]
    Money(#[from] MoneyError),
}

/// How Stripe's numbers relate to ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Scale {
    /// Our smallest step, in our minor units.
    step: i64,
    /// Stripe's number for one of our minor units…
    times: i64,
    /// …divided by this.
    per: i64,
}

/// Currencies without decimals, both in ISO 4217 and at Stripe.
const WITHOUT_DECIMALS: [&str; 14] = [
    "BIF", "CLP", "DJF", "GNF", "JPY", "KMF", "KRW", "PYG", "RWF", "VND", "VUV", "XAF", "XOF", "XPF",
];

/// Currencies of three decimals that Stripe lists.
const THREE_DECIMALS: [&str; 5] = ["BHD", "JOD", "KWD", "OMR", "TND"];

fn scale(currency: Currency) -> Result<Scale, AmountError> {
    let same = |step| {
        Ok(Scale {
            step,
            times: 1,
            per: 1,
        })
    };
    match (currency.code(), currency.exponent()) {
        ("ISK", _) => Ok(Scale {
            step: 1,
            times: 100,
            per: 1,
        }),
        ("MGA", _) => Ok(Scale {
            step: 100,
            times: 1,
            per: 100,
        }),
        (code, 0) if WITHOUT_DECIMALS.contains(&code) => same(1),
        (code, 3) if THREE_DECIMALS.contains(&code) => same(10),
        (_, 2) => same(1),
        _ => Err(AmountError::Unsupported { currency }),
    }
}

/// The smallest amount that can be refunded, in our minor units; `None` when none can.
#[must_use]
pub fn smallest_step(currency: Currency) -> Option<i64> {
    scale(currency).ok().map(|scale| scale.step)
}

/// Our amount as Stripe counts it.
///
/// # Errors
/// When Stripe does not take the currency or so fine an amount.
pub fn to_stripe(amount: Money) -> Result<i64, AmountError> {
    let Scale { step, times, per } = scale(amount.currency)?;
    if amount.minor % step != 0 {
        return Err(AmountError::BetweenSteps { amount, step });
    }
    Ok((amount.minor / per)
        .checked_mul(times)
        .ok_or(MoneyError::Overflow)?)
}

/// Stripe's amount, in its lower-case currency, as we count it.
///
/// # Errors
/// When the currency is unknown or has no clear meaning, or the amount is none that Stripe documents.
pub fn from_stripe(amount: i64, currency: &str) -> Result<Money, AmountError> {
    let currency = Currency::parse(&currency.to_ascii_uppercase())?;
    let Scale { times, per, .. } = scale(currency)?;
    let exact = amount.checked_mul(per).ok_or(MoneyError::Overflow)?;
    if exact % times != 0 {
        return Err(AmountError::BetweenSteps {
            amount: Money::new(currency, exact / times),
            step: 1,
        });
    }
    Ok(Money::new(currency, exact / times))
}

/// The step of Stripe's own numbers in a currency: what an amount sent to it must be a multiple of.
pub(crate) fn stripe_step(currency: Currency) -> Result<i64, AmountError> {
    let Scale { step, times, per } = scale(currency)?;
    Ok((step * times / per).max(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn money(code: &str, minor: i64) -> Money {
        Money::new(Currency::parse(code).expect(code), minor)
    }

    #[test]
    fn documented_amounts() {
        for (code, minor, stripe) in [
            ("USD", 1000, 1000),
            ("HUF", 1045, 1045),
            ("JPY", 500, 500),
            ("ISK", 5, 500),
            ("MGA", 500, 5),
            ("KWD", 5120, 5120),
        ] {
            assert_eq!(to_stripe(money(code, minor)), Ok(stripe), "{code}");
            assert_eq!(
                from_stripe(stripe, &code.to_lowercase()),
                Ok(money(code, minor)),
                "{code}"
            );
        }
    }

    #[test]
    fn finer_amounts_are_refused_not_rounded() {
        for (code, minor, step) in [("KWD", 5124, 10), ("MGA", 550, 100)] {
            let amount = money(code, minor);
            assert_eq!(to_stripe(amount), Err(AmountError::BetweenSteps { amount, step }));
            assert_eq!(smallest_step(amount.currency), Some(step));
        }
        assert!(from_stripe(501, "isk").is_err());
        assert_eq!(stripe_step(money("ISK", 0).currency), Ok(100));
    }

    #[test]
    fn what_stripe_does_not_say_clearly_is_refused() {
        for code in ["UGX", "UYI", "CLF", "IQD", "LYD"] {
            let amount = money(code, 1000);
            assert_eq!(
                to_stripe(amount),
                Err(AmountError::Unsupported {
                    currency: amount.currency
                })
            );
            assert_eq!(smallest_step(amount.currency), None);
            assert!(from_stripe(1000, &code.to_lowercase()).is_err());
        }
        assert!(matches!(from_stripe(1, "zzz"), Err(AmountError::Money(_))));
        assert_eq!(
            to_stripe(money("ISK", i64::MAX)),
            Err(AmountError::Money(MoneyError::Overflow))
        );
        assert_eq!(
            from_stripe(i64::MAX, "mga"),
            Err(AmountError::Money(MoneyError::Overflow))
        );
    }

    proptest! {
        #[test]
        fn whole_steps_survive_the_way_there_and_back(index in 0..171_usize, steps in -1_000_000_000_000..1_000_000_000_000_i64) {
            let currency = Currency::all().nth(index).expect("there are that many");
            if let Some(step) = smallest_step(currency) {
                let amount = Money::new(currency, steps * step);
                let sent = to_stripe(amount).expect("a whole number of steps");
                prop_assert_eq!(sent % stripe_step(currency).expect("a step"), 0);
                prop_assert_eq!(from_stripe(sent, &currency.code().to_lowercase()), Ok(amount));
            } else {
                prop_assert!(to_stripe(Money::new(currency, 1)).is_err());
            }
        }
    }
}
