//! Exact amounts: a currency and a whole number of its minor units.
//!
//! Arithmetic is checked: it never wraps, never rounds and never mixes currencies. Nothing here converts between
//! currencies or divides: use [`crate::alloc`] and [`crate::slots`], which account for every unit.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::currency;

/// A currency of ISO 4217.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency(u8);

impl Currency {
    /// Euro.
    pub const EUR: Self = Self(currency::known("EUR"));
    /// Pound sterling.
    pub const GBP: Self = Self(currency::known("GBP"));
    /// US dollar.
    pub const USD: Self = Self(currency::known("USD"));
    /// Yen, which has no minor unit.
    pub const JPY: Self = Self(currency::known("JPY"));
    /// Kuwaiti dinar, whose minor unit is a thousandth.
    pub const KWD: Self = Self(currency::known("KWD"));

    /// Reads an upper-case alphabetic code.
    ///
    /// # Errors
    /// When the code is not one of ISO 4217 that amounts can be paid in.
    pub fn parse(code: &str) -> Result<Self, MoneyError> {
        currency::find(code)
            .map(Self)
            .ok_or_else(|| MoneyError::UnknownCurrency { code: excerpt(code) })
    }

    /// The alphabetic code, such as `"EUR"`.
    #[must_use]
    pub fn code(self) -> &'static str {
        currency::TABLE[usize::from(self.0)].0
    }

    /// How many decimal digits the minor unit has: 2 for EUR, 0 for JPY, 3 for KWD.
    #[must_use]
    pub fn exponent(self) -> u32 {
        u32::from(currency::TABLE[usize::from(self.0)].1)
    }

    /// Every currency, ordered by code.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..=u8::MAX).take(currency::TABLE.len()).map(Self)
    }
}

impl std::str::FromStr for Currency {
    type Err = MoneyError;

    fn from_str(code: &str) -> Result<Self, MoneyError> {
        Self::parse(code)
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.code())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl Serialize for Currency {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let code = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&code).map_err(serde::de::Error::custom)
    }
}

/// Why an amount could not be read or computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// The result does not fit into 64 bits of minor units.
    #[error("amount overflows: it does not fit into 64 bits of minor units")]
    Overflow,
    /// Two amounts of different currencies were combined.
    #[error("currencies differ: {left} and {right} cannot be combined")]
    CurrencyMismatch {
        /// Currency of the first amount.
        left: Currency,
        /// Currency of the second amount.
        right: Currency,
    },
    /// Not a currency code.
    #[error("unknown currency {code:?}: expected an upper-case ISO 4217 code such as \"EUR\"")]
    UnknownCurrency {
        /// What was given, cut to 32 characters.
        code: String,
    },
    /// Not a decimal number.
    #[error(
        "malformed amount {text:?}: expected digits with an optional minus sign and decimal point, such as \"12.34\""
    )]
    Malformed {
        /// What was given, cut to 32 characters.
        text: String,
    },
    /// More decimal digits than the currency has.
    #[error("amount {text:?} is finer than the minor unit of {currency}, which has {} decimal digits", currency.exponent())]
    TooFine {
        /// What was given, cut to 32 characters.
        text: String,
        /// The currency it was given in.
        currency: Currency,
    },
}

/// An exact amount of one currency.
///
/// Ordered by currency, then amount; compare amounts of different orders by `minor` only after checking the currency.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Money {
    /// The currency.
    pub currency: Currency,
    /// The amount in the currency's smallest unit.
    pub minor: i64,
}

impl Money {
    /// An amount of minor units.
    #[must_use]
    pub const fn new(currency: Currency, minor: i64) -> Self {
        Self { currency, minor }
    }

    /// Nothing, of a currency.
    #[must_use]
    pub const fn zero(currency: Currency) -> Self {
        Self::new(currency, 0)
    }

    /// The sum.
    ///
    /// # Errors
    /// When the currencies differ or the sum overflows.
    pub fn checked_add(self, other: Self) -> Result<Self, MoneyError> {
        self.combine(other, i64::checked_add)
    }

    /// The difference.
    ///
    /// # Errors
    /// When the currencies differ or the difference overflows.
    pub fn checked_sub(self, other: Self) -> Result<Self, MoneyError> {
        self.combine(other, i64::checked_sub)
    }

    /// The amount, `factor` times.
    ///
    /// # Errors
    /// When the product overflows.
    pub fn checked_mul(self, factor: i64) -> Result<Self, MoneyError> {
        let minor = self.minor.checked_mul(factor).ok_or(MoneyError::Overflow)?;
        Ok(Self { minor, ..self })
    }

    /// The sum of many amounts of one currency; zero when there are none.
    ///
    /// # Errors
    /// When a currency differs or the sum overflows.
    pub fn sum(currency: Currency, amounts: impl IntoIterator<Item = Self>) -> Result<Self, MoneyError> {
        amounts
            .into_iter()
            .try_fold(Self::zero(currency), Self::checked_add)
    }

    fn combine(self, other: Self, operation: fn(i64, i64) -> Option<i64>) -> Result<Self, MoneyError> {
        if self.currency != other.currency {
            return Err(MoneyError::CurrencyMismatch {
                left: self.currency,
                right: other.currency,
            });
        }
        let minor = operation(self.minor, other.minor).ok_or(MoneyError::Overflow)?;
        Ok(Self { minor, ..self })
    }

    /// Reads a decimal number: `"12.34"`, `"-5"`, `"0.5"`.
    ///
    /// Strict on purpose, because a misread amount is worse than a refused one: no sign but minus, no grouping, no
    /// exponent, no blanks, digits on both sides of a point, and never more decimal digits than the currency has, not
    /// even zeros.
    ///
    /// # Errors
    /// When the text is not such a number, is finer than the minor unit, or overflows.
    pub fn parse_decimal(text: &str, currency: Currency) -> Result<Self, MoneyError> {
        let malformed = || MoneyError::Malformed { text: excerpt(text) };
        let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (whole, fraction) = match digits.split_once('.') {
            Some((_, "")) => return Err(malformed()),
            Some(parts) => parts,
            None => (digits, ""),
        };
        if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
            return Err(malformed());
        }
        let exponent = currency.exponent() as usize;
        if fraction.len() > exponent {
            return Err(MoneyError::TooFine {
                text: excerpt(text),
                currency,
            });
        }
        let padding = std::iter::repeat_n(b'0', exponent - fraction.len());
        let sign = if negative { -1 } else { 1 };
        let minor = whole
            .bytes()
            .chain(fraction.bytes())
            .chain(padding)
            .try_fold(0_i64, |sum, digit| {
                // Signed from the first digit on, so that the smallest amount can be read too.
                sum.checked_mul(10)?.checked_add(sign * i64::from(digit - b'0'))
            });
        Ok(Self::new(currency, minor.ok_or(MoneyError::Overflow)?))
    }

    /// The amount as a decimal number with all its digits: `"12.34"`, `"12"` for yen.
    #[must_use]
    pub fn to_decimal(self) -> String {
        let exponent = self.currency.exponent() as usize;
        let sign = if self.minor < 0 { "-" } else { "" };
        let digits = format!("{:0width$}", self.minor.unsigned_abs(), width = exponent + 1);
        let (whole, fraction) = digits.split_at(digits.len() - exponent);
        if fraction.is_empty() {
            format!("{sign}{whole}")
        } else {
            format!("{sign}{whole}.{fraction}")
        }
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{} {}", self.to_decimal(), self.currency))
    }
}

impl fmt::Debug for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Money({self})")
    }
}

/// Input is quoted in errors, but never more of it than a line holds.
fn excerpt(text: &str) -> String {
    text.chars().take(32).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_money() -> impl Strategy<Value = Money> {
        let currencies: Vec<Currency> = Currency::all().collect();
        (proptest::sample::select(currencies), any::<i64>())
            .prop_map(|(currency, minor)| Money::new(currency, minor))
    }

    #[test]
    fn decimals_follow_the_exponent() {
        let cases = [
            (Currency::EUR, "12.34", 1234, "12.34"),
            (Currency::EUR, "12.3", 1230, "12.30"),
            (Currency::EUR, "12", 1200, "12.00"),
            (Currency::EUR, "0.05", 5, "0.05"),
            (Currency::EUR, "-0.05", -5, "-0.05"),
            (Currency::EUR, "007", 700, "7.00"),
            (Currency::JPY, "1234", 1234, "1234"),
            (Currency::KWD, "1.234", 1234, "1.234"),
            (Currency::KWD, "1.2", 1200, "1.200"),
            (
                Currency::EUR,
                "-92233720368547758.08",
                i64::MIN,
                "-92233720368547758.08",
            ),
            (
                Currency::EUR,
                "92233720368547758.07",
                i64::MAX,
                "92233720368547758.07",
            ),
        ];
        for (currency, text, minor, printed) in cases {
            let money = Money::parse_decimal(text, currency).expect(text);
            assert_eq!(money, Money::new(currency, minor), "{text}");
            assert_eq!(money.to_decimal(), printed);
        }
        assert_eq!(Money::new(Currency::EUR, 1234).to_string(), "12.34 EUR");
        assert_eq!(format!("{:>12}", Money::new(Currency::JPY, 7)), "       7 JPY");
    }

    #[test]
    fn anything_but_a_plain_decimal_is_refused() {
        for text in [
            "", "-", ".", "1.", ".5", "+1", "1,50", "1 ", " 1", "1e3", "--1", "1.2.3", "0x1", "١", "1_000",
            "NaN", "∞",
        ] {
            let error = Money::parse_decimal(text, Currency::EUR).expect_err(text);
            assert!(matches!(error, MoneyError::Malformed { .. }), "{text}: {error}");
        }
        for (text, currency) in [
            ("1.234", Currency::EUR),
            ("1.230", Currency::EUR),
            ("1.0", Currency::JPY),
        ] {
            let error = Money::parse_decimal(text, currency).expect_err(text);
            assert!(matches!(error, MoneyError::TooFine { .. }), "{text}: {error}");
        }
        for text in [
            "92233720368547758.08",
            "-92233720368547758.09",
            &"9".repeat(10_000),
        ] {
            assert_eq!(
                Money::parse_decimal(text, Currency::EUR),
                Err(MoneyError::Overflow)
            );
        }
        let long = format!("{}x", "9".repeat(10_000));
        let error = Money::parse_decimal(&long, Currency::EUR).expect_err("not a number");
        assert!(
            error.to_string().len() < 200,
            "input is quoted, but not all of it"
        );
    }

    #[test]
    fn unknown_currencies_are_named() {
        for code in ["", "eur", "EU", "EURO", "XXX", "XAU", "€"] {
            let error = Currency::parse(code).expect_err(code);
            assert!(error.to_string().contains(&format!("{code:?}")), "{error}");
        }
    }

    #[test]
    fn currencies_never_mix() {
        let error = Money::new(Currency::EUR, 1)
            .checked_add(Money::new(Currency::USD, 1))
            .expect_err("they differ");
        assert_eq!(
            error,
            MoneyError::CurrencyMismatch {
                left: Currency::EUR,
                right: Currency::USD
            }
        );
        assert_eq!(
            error.to_string(),
            "currencies differ: EUR and USD cannot be combined"
        );
        assert!(
            Money::sum(
                Currency::EUR,
                [Money::new(Currency::EUR, 1), Money::new(Currency::JPY, 1)]
            )
            .is_err()
        );
    }

    #[test]
    fn sums_start_from_zero() {
        assert_eq!(Money::sum(Currency::EUR, []), Ok(Money::zero(Currency::EUR)));
        let three = [1, 2, -4].map(|minor| Money::new(Currency::EUR, minor));
        assert_eq!(
            Money::sum(Currency::EUR, three),
            Ok(Money::new(Currency::EUR, -1))
        );
    }

    proptest! {
        #[test]
        fn printing_and_reading_are_inverse(money in any_money()) {
            prop_assert_eq!(Money::parse_decimal(&money.to_decimal(), money.currency), Ok(money));
            let json = serde_json::to_string(&money).expect("money serializes");
            prop_assert_eq!(serde_json::from_str::<Money>(&json).expect("and back"), money);
        }

        #[test]
        fn reading_never_panics(text in "\\PC*") {
            let _ = Money::parse_decimal(&text, Currency::KWD);
            let _ = Currency::parse(&text);
        }

        #[test]
        fn arithmetic_is_exact_or_refused(a in any_money(), b in any::<i64>()) {
            let other = Money::new(a.currency, b);
            let fits = |wide: i128| i64::try_from(wide).map(|minor| Money::new(a.currency, minor))
                .map_err(|_| MoneyError::Overflow);
            prop_assert_eq!(a.checked_add(other), fits(i128::from(a.minor) + i128::from(b)));
            prop_assert_eq!(a.checked_sub(other), fits(i128::from(a.minor) - i128::from(b)));
            prop_assert_eq!(a.checked_mul(b), fits(i128::from(a.minor) * i128::from(b)));
        }
    }
}
