//! Which events of a batch take effect now, which wait for their predecessor, which are parked behind a dead letter: the
//! pure rule behind "across streams nothing is ordered".
//!
//! The first event about a key (`OrderPlaced`) *opens* it. An event of another log about a key that is not known yet
//! waits, and takes effect right after the opening one. A key with a dead letter is *blocked*: all its later events, from
//! every log, are parked. Nothing here reads or writes; what is waiting and what is blocked is handed in.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

/// What the gate has to know about an event.
#[derive(Debug, Clone)]
pub struct Arrival<E> {
    /// What the event is ordered by.
    pub key: Uuid,
    /// Whether it makes the key known.
    pub opens: bool,
    /// Whether it must not take effect before the key is known.
    pub needs_opening: bool,
    /// The event itself.
    pub event: E,
}

/// An event that waits since an earlier batch.
#[derive(Debug, Clone)]
pub struct Waiting<E> {
    /// The id of its row; waiting events of a key take effect in the order of their ids.
    pub row: i64,
    /// What the event is ordered by.
    pub key: Uuid,
    /// The event itself.
    pub event: E,
}

/// What becomes of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan<E> {
    /// Take effect, in this order.
    pub apply: Vec<E>,
    /// Begin to wait, in this order.
    pub wait: Vec<E>,
    /// Are parked behind a dead letter, in this order.
    pub park: Vec<E>,
    /// Rows of waiting events that are among `apply` now.
    pub released: Vec<i64>,
}

impl<E> Default for Plan<E> {
    fn default() -> Self {
        Plan {
            apply: Vec::new(),
            wait: Vec::new(),
            park: Vec::new(),
            released: Vec::new(),
        }
    }
}

/// Plans a batch.
///
/// `known` are the keys whose opening event has taken effect before the batch, `blocked` those with a dead letter,
/// `waiting` the rows of all keys of the batch in the order of their ids.
#[must_use]
pub fn plan<E>(
    batch: Vec<Arrival<E>>,
    mut known: HashSet<Uuid>,
    blocked: &HashSet<Uuid>,
    waiting: Vec<Waiting<E>>,
) -> Plan<E> {
    let mut plan = Plan::default();
    // Since an earlier batch, and since earlier in this one. A key's events leave in the order they came.
    let mut rows: HashMap<Uuid, Vec<Waiting<E>>> = HashMap::new();
    for row in waiting {
        rows.entry(row.key).or_default().push(row);
    }
    let mut held: HashMap<Uuid, Vec<(usize, E)>> = HashMap::new();

    for (index, arrival) in batch.into_iter().enumerate() {
        let key = arrival.key;
        if blocked.contains(&key) {
            plan.park.push(arrival.event);
            continue;
        }
        if arrival.needs_opening && !arrival.opens && !known.contains(&key) {
            held.entry(key).or_default().push((index, arrival.event));
            continue;
        }
        if arrival.opens {
            plan.apply.push(arrival.event);
            known.insert(key);
            release(&mut plan, &mut rows, &mut held, key);
        } else {
            // The key may have become known by another way than its opening event (fetched from its owner): then those
            // that waited go first.
            if known.contains(&key) {
                release(&mut plan, &mut rows, &mut held, key);
            }
            plan.apply.push(arrival.event);
        }
    }

    let mut left: Vec<(usize, E)> = held.into_values().flatten().collect();
    left.sort_by_key(|(index, _)| *index);
    plan.wait = left.into_iter().map(|(_, event)| event).collect();
    plan
}

fn release<E>(
    plan: &mut Plan<E>,
    rows: &mut HashMap<Uuid, Vec<Waiting<E>>>,
    held: &mut HashMap<Uuid, Vec<(usize, E)>>,
    key: Uuid,
) {
    for row in rows.remove(&key).unwrap_or_default() {
        plan.released.push(row.row);
        plan.apply.push(row.event);
    }
    plan.apply.extend(
        held.remove(&key)
            .unwrap_or_default()
            .into_iter()
            .map(|(_, event)| event),
    );
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(n: u128) -> Uuid {
        Uuid::from_u128(n)
    }

    fn arrival(k: u128, opens: bool, event: &'static str) -> Arrival<&'static str> {
        Arrival {
            key: key(k),
            opens,
            needs_opening: true,
            event,
        }
    }

    #[test]
    fn an_event_of_an_unknown_key_waits_for_the_opening_one() {
        let first = plan(
            vec![arrival(1, false, "refund")],
            HashSet::new(),
            &HashSet::new(),
            vec![],
        );
        assert_eq!(first.wait, ["refund"]);
        assert!(first.apply.is_empty());

        let waiting = vec![Waiting {
            row: 7,
            key: key(1),
            event: "refund",
        }];
        let second = plan(
            vec![arrival(1, true, "placed"), arrival(1, false, "shipped")],
            HashSet::new(),
            &HashSet::new(),
            waiting,
        );
        assert_eq!(second.apply, ["placed", "refund", "shipped"]);
        assert_eq!(second.released, [7]);
        assert!(second.wait.is_empty());
    }

    #[test]
    fn the_opening_event_may_come_later_in_the_same_batch() {
        let batch = vec![
            arrival(1, false, "refund"),
            arrival(2, false, "other"),
            arrival(1, true, "placed"),
        ];
        let plan = plan(batch, HashSet::new(), &HashSet::new(), vec![]);
        assert_eq!(plan.apply, ["placed", "refund"]);
        assert_eq!(plan.wait, ["other"]);
        assert!(plan.released.is_empty());
    }

    #[test]
    fn a_key_known_by_another_way_lets_the_waiting_go_first() {
        let waiting = vec![Waiting {
            row: 3,
            key: key(1),
            event: "requested",
        }];
        let known = HashSet::from([key(1)]);
        let plan = plan(
            vec![arrival(1, false, "succeeded")],
            known,
            &HashSet::new(),
            waiting,
        );
        assert_eq!(plan.apply, ["requested", "succeeded"]);
        assert_eq!(plan.released, [3]);
    }

    #[test]
    fn a_blocked_key_parks_everything_also_its_opening_event() {
        let batch = vec![
            arrival(1, true, "placed"),
            arrival(2, true, "other"),
            arrival(1, false, "shipped"),
        ];
        let waiting = vec![Waiting {
            row: 3,
            key: key(1),
            event: "refund",
        }];
        let plan = plan(batch, HashSet::new(), &HashSet::from([key(1)]), waiting);
        assert_eq!(plan.park, ["placed", "shipped"]);
        assert_eq!(plan.apply, ["other"]);
        assert!(plan.released.is_empty(), "what waits goes on waiting");
    }

    #[test]
    fn an_event_that_needs_no_opening_takes_effect_at_once() {
        let batch = vec![Arrival {
            key: key(1),
            opens: false,
            needs_opening: false,
            event: "stock",
        }];
        let plan = plan(batch, HashSet::new(), &HashSet::new(), vec![]);
        assert_eq!(plan.apply, ["stock"]);
    }

    /// (log, number within log and key, opens)
    type Tag = (u8, u64, u32, bool);

    proptest! {
        /// Two logs about a few keys, interleaved and cut into batches at random. In the end every event of an opened key
        /// has taken effect once, none before the opening one, and each log's events of a key in their order.
        #[test]
        fn across_batches(
            interleaving in prop::collection::vec((0u8..2, 0u64..4), 1..80),
            cuts in prop::collection::vec(1usize..8, 1..80),
        ) {
            let mut numbers: HashMap<(u8, u64), u32> = HashMap::new();
            let mut events: Vec<Tag> = Vec::new();
            for (log, k) in interleaving {
                let number = numbers.entry((log, k)).or_default();
                // Log 0 is the owner of the keys: its first event opens.
                events.push((log, k, *number, log == 0 && *number == 0));
                *number += 1;
            }

            let mut rows: Vec<Waiting<Tag>> = Vec::new();
            let mut next_row = 0;
            let mut known = HashSet::new();
            let mut applied: Vec<Tag> = Vec::new();
            let mut rest = events.as_slice();
            let mut cuts = cuts.iter().cycle();
            while !rest.is_empty() {
                let (batch, after) = rest.split_at((*cuts.next().expect("cycles")).min(rest.len()));
                rest = after;
                let arrivals = batch
                    .iter()
                    .map(|&tag| Arrival { key: key(u128::from(tag.1)), opens: tag.3, needs_opening: true, event: tag })
                    .collect();
                let plan = plan(arrivals, known.clone(), &HashSet::new(), rows.clone());
                rows.retain(|row| !plan.released.contains(&row.row));
                for tag in plan.wait {
                    rows.push(Waiting { row: next_row, key: key(u128::from(tag.1)), event: tag });
                    next_row += 1;
                }
                known.extend(plan.apply.iter().map(|tag| key(u128::from(tag.1))));
                applied.extend(plan.apply);
            }

            for k in 0..4 {
                let opened = events.iter().any(|tag| tag.1 == k && tag.3);
                let of_key: Vec<Tag> = applied.iter().copied().filter(|tag| tag.1 == k).collect();
                if !opened {
                    prop_assert!(of_key.is_empty());
                    continue;
                }
                prop_assert!(of_key[0].3, "the opening event is first");
                for log in 0..2 {
                    let numbers: Vec<u32> = of_key.iter().filter(|tag| tag.0 == log).map(|tag| tag.2).collect();
                    let all = events.iter().filter(|tag| tag.0 == log && tag.1 == k).count();
                    prop_assert_eq!(numbers, (0..all as u32).collect::<Vec<_>>());
                }
            }
        }
    }
}
