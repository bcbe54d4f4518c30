//! The return facet: where each return of an order stands, and what that means for the order.
//!
//! A return only moves on, so a fact that comes late changes nothing (O-6).

use serde::{Deserialize, Serialize};

/// Where returns of an order stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ReturnStatus {
    /// No return, or none that was accepted.
    #[default]
    None,
    /// A return waits for a decision.
    Requested,
    /// A return is approved and on its way.
    InProgress,
    /// All returns have ended, at least one of them completed.
    Returned,
}

keys! { ReturnStatus {
    None = "NONE",
    Requested = "REQUESTED",
    InProgress = "IN_PROGRESS",
    Returned = "RETURNED",
} }

/// Where one return stands, as far as an order cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReturnStage {
    /// Waits for a decision.
    Requested,
    /// Approved, on its way, or received.
    InProgress,
    /// Refused; final.
    Declined,
    /// Ended with its money paid back; final.
    Completed,
}

keys! { ReturnStage {
    Requested = "REQUESTED",
    InProgress = "IN_PROGRESS",
    Declined = "DECLINED",
    Completed = "COMPLETED",
} }

impl ReturnStage {
    /// The stage after a fact that puts the return at `told`: forward only, and an end is an end.
    #[must_use]
    pub fn advance(self, told: ReturnStage) -> ReturnStage {
        if matches!(self, ReturnStage::Declined | ReturnStage::Completed) {
            self
        } else {
            self.max(told)
        }
    }
}

/// What the stages of all returns mean for the order: what waits for a person first, then what is under way.
#[must_use]
pub fn status(stages: impl IntoIterator<Item = ReturnStage>) -> ReturnStatus {
    let (mut requested, mut in_progress, mut completed) = (false, false, false);
    for stage in stages {
        match stage {
            ReturnStage::Requested => requested = true,
            ReturnStage::InProgress => in_progress = true,
            ReturnStage::Completed => completed = true,
            ReturnStage::Declined => {}
        }
    }
    if requested {
        ReturnStatus::Requested
    } else if in_progress {
        ReturnStatus::InProgress
    } else if completed {
        ReturnStatus::Returned
    } else {
        ReturnStatus::None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use ReturnStage::{Completed, Declined, InProgress, Requested};

    #[test]
    fn what_several_returns_mean() {
        let cases: [(&[ReturnStage], ReturnStatus); 7] = [
            (&[], ReturnStatus::None),
            (&[Declined], ReturnStatus::None),
            (&[Declined, Requested], ReturnStatus::Requested),
            (&[InProgress, Requested], ReturnStatus::Requested),
            (&[InProgress, Completed], ReturnStatus::InProgress),
            (&[Completed, Declined], ReturnStatus::Returned),
            (&[Completed, Completed], ReturnStatus::Returned),
        ];
        for (stages, expected) in cases {
            assert_eq!(status(stages.iter().copied()), expected, "{stages:?}");
        }
    }

    proptest! {
        /// O-6: whatever is told in whatever order, a return never goes back and never leaves its end.
        #[test]
        fn a_return_only_moves_on(told in proptest::collection::vec(proptest::sample::select(ReturnStage::ALL.to_vec()), 1..20)) {
            let mut stage = Requested;
            let mut ended = None;
            for fact in told {
                let next = stage.advance(fact);
                prop_assert!(next >= stage);
                if let Some(end) = ended {
                    prop_assert_eq!(next, end);
                }
                if matches!(next, Declined | Completed) {
                    ended = Some(next);
                }
                stage = next;
            }
        }
    }
}
