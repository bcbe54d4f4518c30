//! Amounts as shops write them: decimal numbers in major units.

use waybill_kernel::money::{Currency, Money, MoneyError};

/// Reads a decimal. Shops write zeros beyond what the currency has ("500.00" yen); other digits there are an error, never
/// rounded away.
pub(crate) fn parse(text: &str, currency: Currency) -> Result<Money, MoneyError> {
    let exponent = currency.exponent() as usize;
    let trimmed = match text.split_once('.') {
        Some((whole, fraction))
            if fraction.len() > exponent && fraction.bytes().skip(exponent).all(|b| b == b'0') =>
        {
            // The tail is all zeros, so the cut is between two characters.
            match fraction.get(..exponent).unwrap_or(fraction) {
                "" => whole.to_owned(),
                kept => format!("{whole}.{kept}"),
            }
        }
        _ => text.to_owned(),
    };
    Money::parse_decimal(&trimmed, currency)
}

/// The smallest step of a shop that keeps so many decimals, in minor units.
pub(crate) fn step(currency: Currency, decimals: u32) -> i64 {
    10_i64.pow(currency.exponent().saturating_sub(decimals))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_beyond_the_minor_unit_are_nothing_and_digits_are_an_error() {
        let minor = |text, currency| parse(text, currency).map(|money| money.minor).ok();
        assert_eq!(minor("12.3", Currency::EUR), Some(1230));
        assert_eq!(minor("12.30000", Currency::EUR), Some(1230));
        assert_eq!(minor("500.00", Currency::JPY), Some(500));
        assert_eq!(minor("500", Currency::JPY), Some(500));
        assert_eq!(minor("1.234", Currency::KWD), Some(1234));
        for wrong in ["12.345", "500.5x", "", ".", "1.", "1e3", "é.00", "1.é0"] {
            assert_eq!(minor(wrong, Currency::EUR), None, "{wrong}");
        }
        assert_eq!(minor("500.5", Currency::JPY), None);
    }

    #[test]
    fn a_shop_with_fewer_decimals_moves_in_larger_steps() {
        assert_eq!(step(Currency::EUR, 2), 1);
        assert_eq!(step(Currency::EUR, 0), 100);
        assert_eq!(step(Currency::KWD, 2), 10);
        assert_eq!(step(Currency::JPY, 2), 1);
    }
}
