//! When a destination that fails is left alone, and when it is tried again.
//!
//! Closed, it is used. After some failures in a row it is open: nothing is tried for a while. Then it is half open: one
//! job at a time may try. An answer closes it, another failure opens it for twice as long.

use std::time::Duration;

use chrono::{DateTime, Utc};

/// How much is borne, and how long a destination is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tolerance {
    /// Failures in a row after which it is left alone; at least 1.
    pub threshold: u32,
    /// For how long at first.
    pub pause: Duration,
    /// For how long at most.
    pub longest: Duration,
}

/// What a call told about a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// It answered, be it with a refusal.
    Answered,
    /// It did not: no connection, no answer in time, or a fault of its own.
    Failed,
}

/// How a destination stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stand {
    /// It is used.
    Closed,
    /// It is left alone.
    Open,
    /// One job at a time may try.
    HalfOpen,
}

impl Stand {
    /// One word for programs.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Stand::Closed => "closed",
            Stand::Open => "open",
            Stand::HalfOpen => "half_open",
        }
    }
}

/// What is remembered of a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Breaker {
    /// Failures in a row while closed.
    pub failures: u32,
    /// How often in a row it was left alone.
    pub opens: u32,
    /// Until when it is left alone; in the past when it may be tried.
    pub open_until: Option<DateTime<Utc>>,
}

impl Breaker {
    /// How it stands.
    #[must_use]
    pub fn stand(&self, now: DateTime<Utc>) -> Stand {
        match self.open_until {
            None => Stand::Closed,
            Some(until) if until > now => Stand::Open,
            Some(_) => Stand::HalfOpen,
        }
    }

    /// What a word makes of it. While it is open, words are late ones of calls that began before; they change nothing.
    #[must_use]
    pub fn heard(self, word: Word, tolerance: &Tolerance, now: DateTime<Utc>) -> Breaker {
        match (self.stand(now), word) {
            (Stand::Open, _) => self,
            (Stand::Closed | Stand::HalfOpen, Word::Answered) => Breaker::default(),
            (Stand::Closed, Word::Failed) if self.failures + 1 < tolerance.threshold => Breaker {
                failures: self.failures + 1,
                ..self
            },
            (Stand::Closed | Stand::HalfOpen, Word::Failed) => Breaker {
                failures: 0,
                opens: self.opens.saturating_add(1),
                open_until: Some(now + tolerance.pause_after(self.opens)),
            },
        }
    }
}

impl Tolerance {
    fn pause_after(&self, opens: u32) -> Duration {
        self.pause
            .saturating_mul(1 << opens.min(20))
            .min(self.longest.max(self.pause))
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use proptest::prelude::*;

    use super::*;

    const TOLERANCE: Tolerance = Tolerance {
        threshold: 3,
        pause: Duration::from_secs(5),
        longest: Duration::from_secs(60),
    };

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds)
    }

    #[test]
    fn opens_tries_and_closes() {
        let mut breaker = Breaker::default();
        for now in 0..3 {
            assert_eq!(breaker.stand(at(now)), Stand::Closed);
            breaker = breaker.heard(Word::Failed, &TOLERANCE, at(now));
        }
        assert_eq!(
            (breaker.stand(at(6)), breaker.stand(at(7))),
            (Stand::Open, Stand::HalfOpen)
        );
        // A late word of a call from before changes nothing; a failed try doubles the wait.
        assert_eq!(breaker.heard(Word::Answered, &TOLERANCE, at(4)), breaker);
        let again = breaker.heard(Word::Failed, &TOLERANCE, at(10));
        assert_eq!(again.open_until, Some(at(20)));
        assert_eq!(
            again.heard(Word::Answered, &TOLERANCE, at(20)),
            Breaker::default()
        );
    }

    proptest! {
        /// It opens after no fewer failures in a row than it shall bear; it is never left alone for longer than the
        /// longest; and one answer, at any time it is tried, closes it.
        #[test]
        fn bears_what_it_shall_and_comes_back(
            threshold in 1u32..8, pause in 1u64..100, longest in 1u64..1000,
            words in prop::collection::vec((any::<bool>(), 0i64..200), 1..200),
        ) {
            let tolerance = Tolerance { threshold, pause: Duration::from_secs(pause), longest: Duration::from_secs(longest) };
            let (mut breaker, mut now, mut in_a_row) = (Breaker::default(), 0, 0);
            for (answered, rest) in words {
                now += rest;
                let before = breaker.stand(at(now));
                let word = if answered { Word::Answered } else { Word::Failed };
                breaker = breaker.heard(word, &tolerance, at(now));
                let after = breaker.stand(at(now));
                if before != Stand::Open {
                    in_a_row = if answered { 0 } else { in_a_row + 1 };
                    prop_assert!(!answered || breaker == Breaker::default());
                }
                if before == Stand::Closed {
                    prop_assert_eq!(after == Stand::Open, in_a_row >= threshold);
                }
                if after != Stand::Closed {
                    let until = breaker.open_until.expect("it is not closed");
                    prop_assert!(until <= at(now) + Duration::from_secs(longest.max(pause)));
                } else {
                    prop_assert!(breaker.failures < threshold);
                }
                if after == Stand::Open { in_a_row = 0; }
            }
        }
    }
}
