//! Sets of units of one order line, as runs.
//!
//! A line has units 1 to n. A refund takes *named* units, so that what they are worth never depends on what was paid
//! back before. Sets are kept as runs, for a line may have a million units. This file knows nothing of money.

use serde::{Deserialize, Serialize};

/// A run of neighbouring units, counted from 1, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Run {
    /// The first unit.
    pub first: i32,
    /// The last unit; never before the first.
    pub last: i32,
}

impl Run {
    /// How many units the run has.
    #[must_use]
    pub fn count(self) -> i32 {
        self.last - self.first + 1
    }
}

/// Units of one line: runs that are sorted, disjoint and not adjacent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnitSet(Vec<Run>);

impl UnitSet {
    /// No unit.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// All units of a line.
    #[must_use]
    pub fn all(quantity: i32) -> Self {
        Self::from_runs([Run {
            first: 1,
            last: quantity,
        }])
    }

    /// Builds the set from runs in any order, overlapping or not. Empty runs are dropped.
    #[must_use]
    pub fn from_runs(runs: impl IntoIterator<Item = Run>) -> Self {
        let mut runs: Vec<Run> = runs.into_iter().filter(|run| run.first <= run.last).collect();
        runs.sort_unstable();
        let mut merged: Vec<Run> = Vec::with_capacity(runs.len());
        for run in runs {
            match merged.last_mut() {
                Some(before) if run.first <= before.last.saturating_add(1) => {
                    before.last = before.last.max(run.last);
                }
                _ => merged.push(run),
            }
        }
        Self(merged)
    }

    /// The runs, lowest first.
    #[must_use]
    pub fn runs(&self) -> &[Run] {
        &self.0
    }

    /// How many units there are.
    #[must_use]
    pub fn count(&self) -> i32 {
        self.0.iter().map(|run| run.count()).sum()
    }

    /// True when there is no unit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The units of this set and of the other one.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self::from_runs(self.0.iter().chain(&other.0).copied())
    }

    /// The units of this set that the other one does not have.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        let mut left = Vec::with_capacity(self.0.len());
        let mut taken = other.0.iter().peekable();
        for run in &self.0 {
            let mut first = run.first;
            while let Some(hole) = taken.peek() {
                if hole.last < first {
                    taken.next();
                    continue;
                }
                if hole.first > run.last {
                    break;
                }
                if hole.first > first {
                    left.push(Run {
                        first,
                        last: hole.first - 1,
                    });
                }
                first = hole.last + 1;
                if first > run.last {
                    break;
                }
            }
            if first <= run.last {
                left.push(Run {
                    first,
                    last: run.last,
                });
            }
        }
        Self(left)
    }

    /// The units with the lowest numbers; `None` when there are fewer than asked for.
    #[must_use]
    pub fn lowest(&self, quantity: i32) -> Option<Self> {
        let mut wanted = quantity;
        let mut taken = Vec::new();
        for run in &self.0 {
            if wanted == 0 {
                break;
            }
            let count = run.count().min(wanted);
            taken.push(Run {
                first: run.first,
                last: run.first + count - 1,
            });
            wanted -= count;
        }
        (wanted == 0).then_some(Self(taken))
    }

    /// Every unit by its number.
    pub fn iter(&self) -> impl Iterator<Item = i32> + '_ {
        self.0.iter().flat_map(|run| run.first..=run.last)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn set(units: &BTreeSet<i32>) -> UnitSet {
        UnitSet::from_runs(units.iter().map(|unit| Run {
            first: *unit,
            last: *unit,
        }))
    }

    proptest! {
        #[test]
        fn runs_behave_like_plain_sets(
            a in prop::collection::btree_set(1..60_i32, 0..40),
            b in prop::collection::btree_set(1..60_i32, 0..40),
            quantity in 0..50_i32,
        ) {
            let (left, right) = (set(&a), set(&b));
            prop_assert_eq!(left.iter().collect::<BTreeSet<_>>(), a.clone());
            prop_assert_eq!(left.minus(&right), set(&a.difference(&b).copied().collect()));
            prop_assert_eq!(left.plus(&right), set(&a.union(&b).copied().collect()));
            prop_assert_eq!(left.count() as usize, a.len());
            let lowest = left.lowest(quantity);
            if quantity as usize <= a.len() {
                prop_assert_eq!(lowest, Some(set(&a.iter().take(quantity as usize).copied().collect())));
            } else {
                prop_assert_eq!(lowest, None);
            }
        }
    }

    #[test]
    fn a_million_units_are_one_run() {
        let all = UnitSet::all(1_000_000);
        assert_eq!(all.runs().len(), 1);
        assert_eq!(all.count(), 1_000_000);
        assert!(UnitSet::all(0).is_empty());
    }
}
