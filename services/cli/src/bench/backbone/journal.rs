//! When each event was committed, when it reached the fold, when its effect was committed.
//!
//! Of a fixed size from the start, so that the memory it takes does not look like a leak of what is measured.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hdrhistogram::Histogram;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// The most events that are on their way at once. A power of two.
pub(super) const ON_THE_WAY: usize = 1 << 14;

/// Sixty seconds in microseconds: later is as bad.
const LATEST: u64 = 60_000_000;

/// Microseconds, to three places.
pub(super) struct Latencies(Histogram<u64>);

impl Latencies {
    #[expect(
        clippy::expect_used,
        reason = "the bounds are constants that the library takes"
    )]
    fn new() -> Self {
        Latencies(Histogram::new_with_max(LATEST, 3).expect("valid bounds"))
    }

    /// The latency that this part of the events did not exceed, in milliseconds.
    pub(super) fn at(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1000.0
    }

    fn record(&mut self, micros: u64) {
        self.0.saturating_record(micros);
    }
}

/// The journal.
pub(super) struct Journal {
    begun: Instant,
    /// By number of the event, modulo size: microseconds since `begun`; 0 while the commit is not answered yet.
    committed: Vec<AtomicU64>,
    measured: Mutex<(Latencies, Latencies)>,
    /// Free places for events on their way.
    pub(super) room: Semaphore,
}

impl Journal {
    pub(super) fn new() -> Arc<Journal> {
        Arc::new(Journal {
            begun: Instant::now(),
            committed: (0..ON_THE_WAY).map(|_| AtomicU64::new(0)).collect(),
            measured: Mutex::new((Latencies::new(), Latencies::new())),
            room: Semaphore::new(ON_THE_WAY),
        })
    }

    /// Events are about to be committed.
    pub(super) fn begin(&self, numbers: impl Iterator<Item = i64>) {
        numbers.for_each(|number| self.slot(number).store(0, Ordering::Relaxed));
    }

    /// Their commit was answered.
    pub(super) fn committed(&self, numbers: impl Iterator<Item = i64>) {
        let now = self.micros(Instant::now());
        numbers.for_each(|number| self.slot(number).store(now, Ordering::Relaxed));
    }

    /// The fold has them at hand.
    pub(super) fn arrived(&self, numbers: impl Iterator<Item = i64>) {
        let now = self.micros(Instant::now());
        let mut measured = self.measured.lock().unwrap_or_else(PoisonError::into_inner);
        numbers.for_each(|number| measured.0.record(self.since_commit(number, now)));
    }

    /// Their effects were committed.
    pub(super) fn took_effect(&self, numbers: &[i64], at: Instant) {
        let now = self.micros(at);
        let mut measured = self.measured.lock().unwrap_or_else(PoisonError::into_inner);
        for &number in numbers {
            measured.1.record(self.since_commit(number, now));
        }
        self.room.add_permits(numbers.len());
    }

    /// From commit to arrival and from commit to effect, of all since the last [`Journal::forget`].
    pub(super) fn latencies(&self) -> (Latencies, Latencies) {
        let measured = self.measured.lock().unwrap_or_else(PoisonError::into_inner);
        (Latencies(measured.0.0.clone()), Latencies(measured.1.0.clone()))
    }

    pub(super) fn forget(&self) {
        let mut measured = self.measured.lock().unwrap_or_else(PoisonError::into_inner);
        measured.0.0.reset();
        measured.1.0.reset();
    }

    /// An effect may be there before the answer to the writer's commit is: then it took no time.
    fn since_commit(&self, number: i64, now: u64) -> u64 {
        match self.slot(number).load(Ordering::Relaxed) {
            0 => 0,
            committed => now.saturating_sub(committed),
        }
    }

    fn slot(&self, number: i64) -> &AtomicU64 {
        &self.committed[number as usize % ON_THE_WAY]
    }

    fn micros(&self, at: Instant) -> u64 {
        (at - self.begun).as_micros() as u64 + 1
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn latency_is_from_the_answered_commit_to_the_effect() {
        let journal = Journal::new();
        let Ok(permit) = journal.room.try_acquire_many(3) else {
            panic!("nothing is on its way");
        };
        permit.forget();
        journal.begin([1, 2, 3].into_iter());
        journal.committed([1, 2].into_iter());
        tokio::time::advance(Duration::from_millis(7)).await;
        journal.arrived([1].into_iter());
        // The answer to the commit of 3 is still on its way.
        journal.took_effect(&[1, 2, 3], Instant::now());
        let (arrival, effect) = journal.latencies();
        assert_eq!(arrival.at(1.0).round(), 7.0);
        assert_eq!((effect.at(1.0).round(), effect.at(0.1)), (7.0, 0.0));
        assert_eq!(journal.room.available_permits(), ON_THE_WAY);
        journal.forget();
        assert_eq!(journal.latencies().1.at(1.0), 0.0);
    }
}
