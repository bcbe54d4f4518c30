//! The clock, as something that is handed in: rules take `now`, services take a [`Shared`] clock, tests move it.
//!
//! Only wall-clock time. How long something took is measured with `std::time::Instant`; which of two writes came first
//! is decided by the database.

use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, DurationRound, TimeDelta, Utc};

/// Tells the time.
pub trait Clock: Send + Sync {
    /// The current time, in whole microseconds: what Postgres stores, so that a stored time equals the one in hand.
    fn now(&self) -> DateTime<Utc>;
}

/// A clock to hand around.
pub type Shared = Arc<dyn Clock>;

/// The clock of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl SystemClock {
    /// The clock of the machine, ready to hand around.
    #[must_use]
    pub fn shared() -> Shared {
        Arc::new(Self)
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is where the time is read")]
    fn now(&self) -> DateTime<Utc> {
        whole_microseconds(Utc::now())
    }
}

/// A clock that stands still until it is moved. Clones show the same time.
#[derive(Debug, Clone)]
pub struct FakeClock(Arc<Mutex<DateTime<Utc>>>);

impl FakeClock {
    /// A clock that shows `now`.
    #[must_use]
    pub fn new(now: DateTime<Utc>) -> Self {
        Self(Arc::new(Mutex::new(whole_microseconds(now))))
    }

    /// Moves the clock to a time, also back.
    pub fn set(&self, now: DateTime<Utc>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = whole_microseconds(now);
    }

    /// Moves the clock on (or back, by a negative step) and returns the new time.
    pub fn advance(&self, step: TimeDelta) -> DateTime<Utc> {
        let mut time = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *time = whole_microseconds(*time + step);
        *time
    }

    /// The same clock, ready to hand around.
    #[must_use]
    pub fn shared(&self) -> Shared {
        Arc::new(self.clone())
    }
}

impl Clock for FakeClock {
    fn now(&self) -> DateTime<Utc> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn whole_microseconds(time: DateTime<Utc>) -> DateTime<Utc> {
    // Fails only outside the years 1677 to 2262; there the time is kept as it is.
    time.duration_trunc(TimeDelta::microseconds(1)).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fake_clock_moves_only_when_told_and_for_all_its_clones() {
        let start = DateTime::from_timestamp(1_700_000_000, 1_999).expect("a valid time");
        let clock = FakeClock::new(start);
        let shared = clock.shared();
        assert_eq!(shared.now().timestamp_subsec_nanos(), 1_000);
        assert_eq!(shared.now(), clock.now());

        let later = clock.advance(TimeDelta::days(5));
        assert_eq!(shared.now(), later);
        assert_eq!(
            later - TimeDelta::days(5),
            DateTime::from_timestamp(1_700_000_000, 1_000).expect("a valid time")
        );

        clock.set(start);
        assert_eq!(shared.now().timestamp(), 1_700_000_000);
    }

    #[test]
    fn system_clock_keeps_whole_microseconds() {
        let clock = SystemClock::shared();
        for _ in 0..1000 {
            assert_eq!(clock.now().timestamp_subsec_nanos() % 1000, 0);
        }
    }
}
