//! Splitting and rounding whole numbers so that nothing is lost.
//!
//! All intermediate values are 128 bits wide. Rates are integers. Nothing here knows currencies.

use crate::money::MoneyError;

/// Divides with the half rounded up: `R(n / d)` of the domain rules.
///
/// "Up" means towards positive infinity: 5/2 is 3, -5/2 is -2.
///
/// # Panics
/// When the divisor is not positive.
#[must_use]
pub fn round_half_up_div(numerator: i128, divisor: i128) -> i128 {
    assert!(divisor > 0, "divisor must be positive");
    let quotient = numerator.div_euclid(divisor);
    let remainder = numerator.rem_euclid(divisor);
    // Not `2 * remainder >= divisor`: that could overflow.
    if remainder >= divisor - remainder {
        quotient + 1
    } else {
        quotient
    }
}

/// `rate_ppm` parts per million of an amount, rounded half up: 190 000 ppm are 19 percent.
///
/// # Errors
/// When the result does not fit into 64 bits.
pub fn ppm(amount: i64, rate_ppm: i64) -> Result<i64, MoneyError> {
    let exact = i128::from(amount) * i128::from(rate_ppm);
    i64::try_from(round_half_up_div(exact, 1_000_000)).map_err(|_| MoneyError::Overflow)
}

/// Splits a total in proportion to weights; the parts sum to the total exactly.
///
/// Each part is its exact share rounded down, and the units left over go to the largest remainders; where those are
/// equal, to the lower index. So the same input always gives the same parts. No part is further than one unit from its
/// exact share, and a part of weight 0 is 0. A negative total is split like its absolute value. When all weights are 0
/// the split is even, the lower indexes taking what is left over.
///
/// No weights give no parts. Weights below zero count as 0.
#[must_use]
pub fn largest_remainder(total: i64, weights: &[i64]) -> Vec<i64> {
    let mut weights: Vec<i128> = weights.iter().map(|&weight| i128::from(weight.max(0))).collect();
    let mut sum: i128 = weights.iter().sum();
    if sum == 0 {
        weights.fill(1);
        sum = weights.len() as i128;
    }
    if sum == 0 {
        return Vec::new();
    }
    let magnitude = i128::from(total).abs();
    let mut parts: Vec<i128> = weights.iter().map(|weight| magnitude * weight / sum).collect();
    let left_over = magnitude - parts.iter().sum::<i128>();

    let mut order: Vec<usize> = (0..weights.len()).collect();
    // A stable sort: equal remainders stay in the order of their index.
    order.sort_by_key(|&index| std::cmp::Reverse(magnitude * weights[index] % sum));
    for &index in order
        .iter()
        .take(usize::try_from(left_over).expect("fewer units are left over than there are parts"))
    {
        parts[index] += 1;
    }
    let sign = if total < 0 { -1 } else { 1 };
    parts
        .iter()
        .map(|part| i64::try_from(sign * part).expect("a part is no larger than the total"))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn halves_go_up() {
        let cases = [
            (5, 2, 3),
            (-5, 2, -2),
            (4, 2, 2),
            (7, 3, 2),
            (8, 3, 3),
            (-7, 3, -2),
            (-8, 3, -3),
            (0, 9, 0),
        ];
        for (numerator, divisor, expected) in cases {
            assert_eq!(
                round_half_up_div(numerator, divisor),
                expected,
                "{numerator} / {divisor}"
            );
        }
        assert_eq!(round_half_up_div(i128::MAX, i128::MAX), 1);
        assert_eq!(round_half_up_div(i128::MIN, i128::MAX), -1);
        assert_eq!(round_half_up_div(i128::MAX, 1), i128::MAX);
    }

    #[test]
    #[should_panic(expected = "divisor must be positive")]
    fn a_divisor_of_zero_is_a_bug_of_the_caller() {
        let _ = round_half_up_div(1, 0);
    }

    #[test]
    fn rates() {
        assert_eq!(ppm(10_000, 190_000), Ok(1_900));
        assert_eq!(ppm(50, 190_000), Ok(10)); // 9.5
        assert_eq!(ppm(i64::MAX, 1_000_000), Ok(i64::MAX));
        assert_eq!(ppm(i64::MAX, 1_000_001), Err(MoneyError::Overflow));
    }

    #[test]
    fn splits_by_hand() {
        assert_eq!(largest_remainder(100, &[1, 1, 1]), [34, 33, 33]);
        assert_eq!(largest_remainder(-100, &[1, 1, 1]), [-34, -33, -33]);
        assert_eq!(largest_remainder(10, &[2, 3, 5]), [2, 3, 5]);
        assert_eq!(largest_remainder(7, &[0, 0, 0]), [3, 2, 2]);
        assert_eq!(largest_remainder(7, &[0, 5, 0]), [0, 7, 0]);
        assert_eq!(largest_remainder(1, &[1, 2, 2]), [0, 1, 0]);
        assert_eq!(largest_remainder(5, &[]), [0_i64; 0]);
        assert_eq!(largest_remainder(5, &[-3, 1]), [0, 5]);
        assert_eq!(
            largest_remainder(i64::MIN, &[i64::MAX, i64::MAX]),
            [i64::MIN / 2, i64::MIN / 2]
        );
    }

    proptest! {
        #[test]
        fn parts_sum_to_the_total_and_keep_the_proportion(
            total in any::<i64>(),
            weights in proptest::collection::vec(prop_oneof![Just(0), 0..1000_i64, 0..=i64::MAX], 1..40),
        ) {
            let parts = largest_remainder(total, &weights);
            prop_assert_eq!(parts.len(), weights.len());
            prop_assert_eq!(parts.iter().map(|&p| i128::from(p)).sum::<i128>(), i128::from(total));
            let sum: i128 = weights.iter().map(|&w| i128::from(w)).sum();
            if sum > 0 {
                for (&part, &weight) in parts.iter().zip(&weights) {
                    let missing = (i128::from(part) * sum - i128::from(total) * i128::from(weight)).abs();
                    prop_assert!(missing < sum, "part {} is a unit or more off its share", part);
                    prop_assert!(weight > 0 || part == 0);
                    prop_assert!(part == 0 || (part < 0) == (total < 0));
                }
            }
        }

        #[test]
        fn rounding_is_within_half(n in any::<i64>(), d in 1..=i64::MAX) {
            let (n, d) = (i128::from(n), i128::from(d));
            let twice_off = 2 * (round_half_up_div(n, d) * d - n);
            prop_assert!(-d < twice_off && twice_off <= d);
        }
    }
}
