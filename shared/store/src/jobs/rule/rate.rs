//! How often a destination may be called: a token bucket, kept as one number (GCRA).
//!
//! The number is the time at which the last permitted call would have been regular. Calls at a steady pace move it along
//! with the clock; a burst moves it ahead of the clock, by no more than the burst allows.

use std::time::Duration;

/// One call per `every` in the long run, and `burst` at once after a rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// The pace.
    pub every: Duration,
    /// Calls at once; at least 1.
    pub burst: u32,
}

impl Rate {
    fn every_us(self) -> i64 {
        i64::try_from(self.every.as_micros()).unwrap_or(i64::MAX).max(1)
    }

    /// Calls that may be made now. Times are microseconds.
    #[must_use]
    pub fn room(self, regular_us: i64, now_us: i64) -> i64 {
        let burst = i64::from(self.burst.max(1)).saturating_mul(self.every_us());
        let ahead = regular_us.max(now_us) - now_us;
        (burst.saturating_sub(ahead) / self.every_us()).max(0)
    }

    /// The number after this many calls.
    #[must_use]
    pub fn spend(self, regular_us: i64, now_us: i64, calls: i64) -> i64 {
        regular_us
            .max(now_us)
            .saturating_add(self.every_us().saturating_mul(calls))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However greedy the caller: no window of time sees more than the burst and what the pace adds.
        #[test]
        fn no_window_sees_more(
            every in 1u64..5_000,
            burst in 1u32..20,
            steps in prop::collection::vec((0i64..8_000, 0i64..40), 1..120),
        ) {
            let rate = Rate { every: Duration::from_micros(every), burst };
            let (mut regular, mut now) = (0, 1_000_000);
            let mut calls: Vec<(i64, i64)> = Vec::new();
            for (rest, wish) in steps {
                now += rest;
                let room = rate.room(regular, now);
                prop_assert!(room <= i64::from(burst));
                let taken = wish.min(room);
                regular = rate.spend(regular, now, taken);
                calls.push((now, taken));
            }
            for from in 0..calls.len() {
                let mut sum = 0;
                for &(at, taken) in &calls[from..] {
                    sum += taken;
                    let most = i64::from(burst) + (at - calls[from].0) / every as i64;
                    prop_assert!(sum <= most, "{sum} calls in {} us, at most {most}", at - calls[from].0);
                }
            }
        }

        /// Nobody waits longer than needed: one `every` after any moment there is room again, and a rest restores all.
        #[test]
        fn room_comes_back(every in 1u64..5_000, burst in 1u32..20, now in 0i64..1_000_000) {
            let rate = Rate { every: Duration::from_micros(every), burst };
            let emptied = rate.spend(0, now, rate.room(0, now));
            prop_assert_eq!(rate.room(emptied, now), 0);
            prop_assert_eq!(rate.room(emptied, now + every as i64), 1);
            prop_assert_eq!(rate.room(emptied, now + every as i64 * i64::from(burst)), i64::from(burst));
        }
    }
}
