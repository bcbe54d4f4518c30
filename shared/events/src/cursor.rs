//! What a consumer does with an event that arrives: the pure rule behind "exactly once".
//!
//! A cursor stands in one virtual partition of one log. It moves only along the chain of `prev` links, one event at a
//! time, whatever is lost, repeated or reordered on the way. Nothing here reads or writes; the row of the cursor is
//! updated in the transaction of the effects (see `store::fold`).

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::position::Position;

/// What to do with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It is the next one.
    Apply,
    /// It has been taken before.
    Skip,
    /// Events before it are missing: read them from the log of the producer.
    Gap,
    /// The cursor stands on an event that the producer's log does not have between this one and the one before it: the
    /// producer lost what it had already told. Nothing is applied until the history is repaired.
    Fork,
}

/// Decides about the event at `position` whose predecessor in the same virtual partition stands at `prev`, when the last
/// event taken stands at `cursor`. Expects `prev < position`, which the envelope checks.
#[must_use]
pub fn decide(cursor: Position, prev: Position, position: Position) -> Decision {
    if position <= cursor {
        Decision::Skip
    } else if prev == cursor {
        Decision::Apply
    } else if prev > cursor {
        Decision::Gap
    } else {
        Decision::Fork
    }
}

/// How far a consumer is in one virtual partition of one log, and the proof of what it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cursor {
    /// The last event taken; [`Position::ZERO`] before the first.
    pub position: Position,
    /// How many events were taken.
    pub count: i64,
    /// sha256(hash before || event id), from 32 zero bytes.
    pub hash: [u8; 32],
}

impl Cursor {
    /// What to do with an event.
    #[must_use]
    pub fn decide(&self, prev: Position, position: Position) -> Decision {
        decide(self.position, prev, position)
    }

    /// Moves on to an event that was decided to be applied.
    pub fn take(&mut self, position: Position, event_id: Uuid) {
        let mut digest = Sha256::new();
        digest.update(self.hash);
        digest.update(event_id.as_bytes());
        self.hash = digest.finalize().into();
        self.count += 1;
        self.position = position;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, Copy)]
    struct Entry {
        prev: Position,
        position: Position,
        id: Uuid,
    }

    /// A log of one virtual partition: positions grow, with holes, over generations.
    fn log(steps: &[(u8, u8, u8)]) -> Vec<Entry> {
        let mut prev = Position::ZERO;
        let mut entries = Vec::new();
        for (index, &(generation, xid, position)) in steps.iter().enumerate() {
            let next = Position {
                generation: prev.generation.max(1) + i64::from(generation == 0),
                xid: prev.xid + u64::from(xid),
                position: prev.position + 1 + i64::from(position),
            };
            entries.push(Entry {
                prev,
                position: next,
                id: Uuid::from_u128(index as u128 + 1),
            });
            prev = next;
        }
        entries
    }

    /// A consumer that fills a gap by reading the log from its cursor.
    fn deliver(log: &[Entry], arrivals: &[usize]) -> (Cursor, Vec<Uuid>) {
        let mut cursor = Cursor::default();
        let mut applied = Vec::new();
        let mut queue: VecDeque<Entry> = arrivals.iter().map(|&index| log[index % log.len()]).collect();
        while let Some(entry) = queue.pop_front() {
            match cursor.decide(entry.prev, entry.position) {
                Decision::Apply => {
                    cursor.take(entry.position, entry.id);
                    applied.push(entry.id);
                }
                Decision::Skip => {}
                Decision::Gap => {
                    let missing = log
                        .iter()
                        .filter(|e| e.position > cursor.position && e.position <= entry.position);
                    for &entry in missing.collect::<Vec<_>>().into_iter().rev() {
                        queue.push_front(entry);
                    }
                }
                Decision::Fork => panic!("a log that lost nothing never forks"),
            }
        }
        (cursor, applied)
    }

    proptest! {
        /// Whatever is lost, repeated or reordered: what was taken is a prefix of the log, in its order, each once, and
        /// it reaches the furthest event that arrived.
        #[test]
        fn exactly_once_in_order(
            steps in prop::collection::vec((0u8..20, 0u8..5, 0u8..5), 1..60),
            arrivals in prop::collection::vec(0usize..1000, 1..200),
        ) {
            let log = log(&steps);
            let (cursor, applied) = deliver(&log, &arrivals);
            let furthest = arrivals.iter().map(|index| index % log.len()).max().expect("not empty");
            let expected: Vec<Uuid> = log[..=furthest].iter().map(|e| e.id).collect();
            prop_assert_eq!(applied, expected);

            let mut proof = Cursor::default();
            for entry in &log[..=furthest] {
                proof.take(entry.position, entry.id);
            }
            prop_assert_eq!(cursor, proof);
        }

        /// A cursor that stands beyond what the log has left is noticed at the first event after the fork.
        #[test]
        fn a_lost_history_is_noticed(
            steps in prop::collection::vec((1u8..20, 1u8..5, 0u8..5), 2..40),
            kept in 0usize..1000,
        ) {
            let before = log(&steps);
            let kept = kept % (before.len() - 1);
            let cursor = before.last().expect("not empty").position;
            let prev = before[kept].position;
            let first_after_fork = Position { generation: cursor.generation + 1, xid: prev.xid, position: prev.position + 1 };
            prop_assert_eq!(decide(cursor, prev, first_after_fork), Decision::Fork);
        }

        #[test]
        fn count_and_hash_tell_order_and_membership_apart(ids in prop::collection::vec(any::<u128>(), 2..20), swap in 0usize..1000) {
            let chain = |ids: &[u128]| {
                let mut cursor = Cursor::default();
                for &id in ids {
                    cursor.take(Position::ZERO, Uuid::from_u128(id));
                }
                (cursor.count, cursor.hash)
            };
            let mut other = ids.clone();
            let at = swap % (ids.len() - 1);
            other.swap(at, at + 1);
            prop_assume!(other != ids);
            prop_assert_ne!(chain(&ids), chain(&other));
            prop_assert_ne!(chain(&ids), chain(&ids[1..]));
        }
    }

    /// The chain is stored and compared for ever.
    #[test]
    fn the_hash_is_frozen() {
        let mut cursor = Cursor::default();
        cursor.take(Position::ZERO, Uuid::from_u128(1));
        cursor.take(Position::ZERO, Uuid::from_u128(2));
        assert_eq!(cursor.count, 2);
        assert_eq!(hex::encode(cursor.hash), FROZEN);
    }

    const FROZEN: &str = "f5cf37a167e9b4de1c7230ad3d9f12c08a46f7e01eb10a5d49a7118ac89efcdd";
}
