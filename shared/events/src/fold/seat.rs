//! Between the keeper of leases and a lane: what the lane is to work on, and what it is working on.
//!
//! A partition goes from one lane to another, or back to the database, only when no batch runs on it. Both sides change
//! under one lock, so the keeper knows: what it has withdrawn and what is not being worked on will not be.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::{Notify, watch};

use super::lease::Owned;

/// What a lane is to do and what it does.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// To be worked on from the next era on.
    wanted: Owned,
    /// Worked on in the era at hand.
    working: BTreeSet<u16>,
    /// The lane has ended.
    left: bool,
}

/// A lane's place at its keeper.
#[derive(Debug)]
pub(crate) struct Seat {
    state: watch::Sender<State>,
    look: Arc<Notify>,
}

impl Seat {
    /// A seat whose lane makes the keeper look by this bell.
    pub fn new(look: &Arc<Notify>) -> Seat {
        Seat {
            state: watch::Sender::default(),
            look: Arc::clone(look),
        }
    }

    /// Changes when other partitions are wanted.
    pub fn changes(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Begins to work on what is wanted.
    pub fn begin(&self) -> Owned {
        let mut taken = Owned::new();
        self.state.send_if_modified(|state| {
            taken.clone_from(&state.wanted);
            state.working = taken.keys().copied().collect();
            false
        });
        taken
    }

    /// Works on nothing.
    pub fn end(&self) {
        self.state.send_if_modified(|state| {
            state.working.clear();
            false
        });
        self.look.notify_one();
    }

    /// Ends for ever.
    fn leave(&self) {
        self.state.send_if_modified(|state| {
            *state = State {
                left: true,
                ..State::default()
            };
            true
        });
        self.look.notify_one();
    }

    /// Withdraws all partitions but some; tells which the lane may still work on.
    pub fn withdraw_all_but(&self, kept: &Owned) -> BTreeSet<u16> {
        let mut in_use = BTreeSet::new();
        self.state.send_if_modified(|state| {
            let before = state.wanted.len();
            state
                .wanted
                .retain(|partition, epoch| kept.get(partition) == Some(epoch));
            in_use.extend(state.working.iter().chain(state.wanted.keys()));
            state.wanted.len() != before
        });
        in_use
    }

    /// Hands out partitions.
    pub fn hand(&self, wanted: Owned) {
        self.state.send_if_modified(|state| {
            let changed = !state.left && state.wanted != wanted;
            if changed {
                state.wanted = wanted;
            }
            changed
        });
    }

    /// Whether the lane has ended.
    pub fn has_left(&self) -> bool {
        self.state.borrow().left
    }
}

/// Leaves the seat however the lane ends: in order, aborted, by a panic.
pub(super) struct Occupied(pub Arc<Seat>);

impl Drop for Occupied {
    fn drop(&mut self) {
        self.0.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(partitions: &[u16]) -> Owned {
        partitions.iter().map(|partition| (*partition, 1)).collect()
    }

    #[test]
    fn what_is_withdrawn_is_in_use_until_the_era_ends() {
        let seat = Seat::new(&Arc::new(Notify::new()));
        let mut changes = seat.changes();
        seat.hand(owned(&[1, 2, 3]));
        assert!(changes.has_changed().expect("the seat lives"));
        changes.mark_unchanged();
        assert_eq!(seat.begin(), owned(&[1, 2, 3]));
        assert_eq!(seat.withdraw_all_but(&owned(&[1])), BTreeSet::from([1, 2, 3]));
        assert!(changes.has_changed().expect("the seat lives"));
        seat.end();
        assert_eq!(seat.withdraw_all_but(&owned(&[1])), BTreeSet::from([1]));
        assert_eq!(seat.begin(), owned(&[1]));
    }

    #[test]
    fn another_epoch_is_another_lease() {
        let seat = Seat::new(&Arc::new(Notify::new()));
        seat.hand(owned(&[1, 2]));
        let later = Owned::from([(1, 2), (2, 1)]);
        assert_eq!(seat.withdraw_all_but(&later), BTreeSet::from([2]));
    }

    #[test]
    fn who_has_left_gets_nothing() {
        let seat = Arc::new(Seat::new(&Arc::new(Notify::new())));
        drop(Occupied(Arc::clone(&seat)));
        seat.hand(owned(&[1]));
        assert!(seat.has_left() && seat.begin().is_empty());
    }
}
