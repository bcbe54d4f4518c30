//! Whose turn it is: high priority first, but of every eight jobs that a runner takes, one goes to the job that has been
//! due for longest, whatever its priority. So what matters most goes first under any load, and nothing waits for ever: a
//! job's turn comes after at most eight times as many jobs as were due before it.

/// Of so many jobs one goes by age.
const SHARE: usize = 8;

/// What one runner remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Turns {
    /// Jobs taken since the last that went by age.
    since: usize,
}

impl Turns {
    /// How many of the next `slots` jobs go by age.
    #[must_use]
    pub fn aged(&self, slots: usize) -> usize {
        (self.since + slots) / SHARE
    }

    /// Jobs were taken.
    pub fn took(&mut self, jobs: usize) {
        self.since = (self.since + jobs) % SHARE;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Urgent jobs without end and one that is low: it is taken within eight.
        #[test]
        fn nothing_waits_for_ever(slots in prop::collection::vec(1usize..30, 1..50)) {
            let (mut turns, mut urgent_in_a_row) = (Turns::default(), 0);
            for slots in slots {
                let aged = turns.aged(slots);
                prop_assert!(aged <= slots);
                urgent_in_a_row = if aged == 0 { urgent_in_a_row + slots } else { 0 };
                prop_assert!(urgent_in_a_row < SHARE);
                turns.took(slots);
            }
        }

        /// The share of those that go by age is an eighth, however the jobs are taken.
        #[test]
        fn high_priority_keeps_seven_eighths(slots in prop::collection::vec(1usize..30, 1..50)) {
            let (mut turns, mut aged, mut all) = (Turns::default(), 0, 0);
            for slots in slots {
                aged += turns.aged(slots);
                all += slots;
                turns.took(slots);
            }
            prop_assert_eq!(aged, all / SHARE);
        }
    }
}
