//! What may become of a job: the state machine behind "at least once, settled by one".
//!
//! The number of claims is the fencing token. A job is taken by counting it up, and whoever comes with an older number can
//! neither renew nor settle it.

use std::time::Duration;

use chrono::{DateTime, Utc};

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// To be taken once it is due.
    Waiting,
    /// In somebody's hands until its lease ends.
    Running,
    /// Over.
    Done,
    /// Given up, until a person decides.
    Dead,
}

/// What decides about a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobState {
    /// Where it is.
    pub state: State,
    /// How often it was taken.
    pub claims: i64,
    /// Failures in a row.
    pub failures: u32,
    /// Waiting: not before. Running: the end of the lease.
    pub due: DateTime<Utc>,
}

/// What is written down about an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is over.
    Finished,
    /// It comes again; earlier failures are forgotten if this went well.
    Again {
        /// The wait.
        after: Duration,
        /// Whether it was tried, and nothing failed.
        went_well: bool,
    },
    /// It failed.
    Failed {
        /// The wait until it is tried again; none when it is given up.
        retry: Option<Duration>,
    },
}

/// What came of the wish to take a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taking {
    /// It is not free, or not due.
    No,
    /// It is ours, under this number.
    Ours(i64),
    /// Its last taker was lost once too often.
    Died,
}

impl JobState {
    /// A new job.
    #[must_use]
    pub fn new(due: DateTime<Utc>) -> Self {
        JobState {
            state: State::Waiting,
            claims: 0,
            failures: 0,
            due,
        }
    }

    /// Takes it, if it waits and is due, or if its lease has ended, which counts as a failure.
    pub fn take(&mut self, now: DateTime<Utc>, lease: Duration, max_attempts: u32) -> Taking {
        if !matches!(self.state, State::Waiting | State::Running) || self.due > now {
            return Taking::No;
        }
        self.claims += 1;
        let lapsed = self.state == State::Running;
        self.failures += u32::from(lapsed);
        self.due = now + lease;
        if lapsed && self.failures >= max_attempts {
            self.state = State::Dead;
            return Taking::Died;
        }
        self.state = State::Running;
        Taking::Ours(self.claims)
    }

    /// Makes the lease longer; `false` when it is not this taker's.
    pub fn renew(&mut self, claim: i64, now: DateTime<Utc>, lease: Duration) -> bool {
        let ours = self.state == State::Running && self.claims == claim;
        if ours {
            self.due = now + lease;
        }
        ours
    }

    /// Writes down an outcome; `false` when the job is not this taker's, and nothing changes. Finishing twice is fine.
    pub fn settle(&mut self, claim: i64, verdict: Verdict, now: DateTime<Utc>) -> bool {
        let finished_before = self.state == State::Done && verdict == Verdict::Finished;
        if self.claims != claim || !(self.state == State::Running || finished_before) {
            return false;
        }
        match verdict {
            Verdict::Finished => self.state = State::Done,
            Verdict::Again { after, went_well } => {
                self.state = State::Waiting;
                self.due = now + after;
                if went_well {
                    self.failures = 0;
                }
            }
            Verdict::Failed { retry } => {
                self.failures += 1;
                self.due = now + retry.unwrap_or_default();
                self.state = if retry.is_some() {
                    State::Waiting
                } else {
                    State::Dead
                };
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LEASE: Duration = Duration::from_secs(30);

    proptest! {
        /// Several takers, each of which may be lost, late, or settle twice: at any time only the latest can change the
        /// job; no lease is taken over before its end; and what is done stays done.
        #[test]
        fn only_the_latest_taker_counts(steps in prop::collection::vec((0u8..6, 0u64..40, 0usize..8), 1..200)) {
            let mut now = DateTime::UNIX_EPOCH;
            let mut job = JobState::new(now);
            let mut claims: Vec<i64> = vec![-1];
            for (step, rest, who) in steps {
                now += Duration::from_secs(rest);
                let before = job;
                let claim = claims[who % claims.len()];
                let latest = claim == before.claims;
                let changed = match step {
                    0 | 1 => match job.take(now, LEASE, 1000) {
                        Taking::Ours(claim) => {
                            prop_assert!(before.due <= now && claims.iter().all(|earlier| *earlier < claim));
                            claims.push(claim);
                            continue;
                        }
                        Taking::No => false,
                        Taking::Died => unreachable!("it may be lost a thousand times"),
                    },
                    2 => job.renew(claim, now, LEASE),
                    3 => job.settle(claim, Verdict::Finished, now),
                    4 => job.settle(claim, Verdict::Again { after: LEASE, went_well: who % 2 == 0 }, now),
                    _ => job.settle(claim, Verdict::Failed { retry: (who % 4 != 0).then_some(LEASE) }, now),
                };
                prop_assert!(latest || !changed);
                prop_assert!(changed || job == before);
                prop_assert!(before.state != State::Done || job.state == State::Done);
            }
        }

        /// A job that kills its takers is dead after as many as may be.
        #[test]
        fn it_does_not_kill_for_ever(max_attempts in 1u32..30) {
            let mut now = DateTime::UNIX_EPOCH;
            let mut job = JobState::new(now);
            let mut killed = 0;
            while job.take(now, LEASE, max_attempts) != Taking::Died {
                killed += 1;
                now += LEASE;
                prop_assert!(killed <= max_attempts);
            }
            prop_assert_eq!((killed, job.state), (max_attempts, State::Dead));
            prop_assert_eq!(job.take(now + LEASE, LEASE, max_attempts), Taking::No);
        }
    }
}
