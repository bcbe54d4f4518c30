//! Waiting times that grow, have a cap, and differ between callers.

use std::time::Duration;

/// How long to wait before the next attempt.
///
/// The wait doubles from `base` to at most `cap`; a random part of it is taken off, so that those who failed together do
/// not come back together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The wait after the first failure, before jitter.
    pub base: Duration,
    /// The longest wait.
    pub cap: Duration,
}

impl Backoff {
    /// The wait after the `failures`-th failure in a row (from 1): between a half and the whole of
    /// `min(cap, base * 2^(failures - 1))`.
    #[must_use]
    pub fn delay(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let full = self.base.saturating_mul(1 << doublings).min(self.cap);
        full.mul_f64(rand::random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn stays_between_half_and_whole(failures in 0u32.., base in 1u64..5_000, cap in 1u64..600_000) {
            let backoff = Backoff { base: Duration::from_millis(base), cap: Duration::from_millis(cap) };
            let full = u128::from(base) << failures.saturating_sub(1).min(31);
            let full = full.min(u128::from(cap));
            let got = backoff.delay(failures).as_micros();
            // A microsecond of slack for the rounding of floats.
            prop_assert!(got <= full * 1000 + 1 && got + 1 >= full * 500, "{got} us of {full} ms");
        }
    }
}
