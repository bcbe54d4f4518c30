//! What survived of a log, and what that means for a consumer that may have seen more: pure.
//!
//! The survivors need not be a prefix of what a consumer has seen: a transaction may take its place in the log early and
//! commit late, and be lost while an event behind it is kept. So places alone prove nothing; count and chain do.

use std::collections::VecDeque;

use uuid::Uuid;
use waybill_kernel::partition::PARTITIONS;
use waybill_proto::waybill::events::v1::{GenerationEnd, LogRewound, LostPlace};

use crate::cursor::Cursor;
use crate::position::Position;

/// Where a virtual partition ended in one generation, with the chain of everything up to there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct End {
    pub generation: i64,
    pub cursor: Cursor,
}

/// One virtual partition of a log, as far as it survived.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Partition {
    ends: Vec<End>,
    /// Places of events that are gone, in their order, that the log has not reached yet.
    gone: VecDeque<Position>,
    /// Those between surviving events, with the end of the survivors before each.
    between: Vec<(Position, End)>,
    orphans: i64,
}

/// Where an event stood that the log has no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone {
    pub vpartition: u16,
    pub position: Position,
    /// Whether the recovery under way has found it.
    pub is_new: bool,
}

impl Partition {
    /// The places between surviving events of one generation. What is gone behind its end needs no name: it is beyond.
    fn holes(&self) -> impl Iterator<Item = &(Position, End)> {
        self.between.iter().filter(|(position, _)| {
            let mut ends = self.ends.iter();
            ends.any(|end| end.generation == position.generation && end.cursor.position > *position)
        })
    }
}

/// The ends of all virtual partitions, collected along the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Survivors {
    partitions: Vec<Partition>,
    /// The last event that was taken.
    pub last: Position,
}

impl Survivors {
    /// Begins before the first event of the log. `gone` are the places of events that the log has no longer: of every loss
    /// so far, for what an earlier recovery has told may be lost as well. Those of this one are marked.
    pub fn new(gone: &[Gone]) -> Survivors {
        let mut partitions = vec![Partition::default(); usize::from(PARTITIONS)];
        let mut gone = gone.to_vec();
        gone.sort_unstable_by_key(|gone| gone.position);
        for gone in gone {
            if let Some(partition) = partitions.get_mut(usize::from(gone.vpartition)) {
                partition.gone.push_back(gone.position);
                partition.orphans += i64::from(gone.is_new);
            }
        }
        Survivors {
            partitions,
            last: Position::ZERO,
        }
    }

    /// Takes the next event of the log. Partitions beyond the last one do not exist.
    pub fn take(&mut self, vpartition: u16, position: Position, event_id: Uuid) {
        let Some(partition) = self.partitions.get_mut(usize::from(vpartition)) else {
            return;
        };
        let before = partition.ends.last().copied().unwrap_or_default();
        while let Some(gone) = partition.gone.pop_front_if(|gone| *gone < position) {
            partition.between.push((gone, before));
        }
        let mut cursor = before.cursor;
        cursor.take(position, event_id);
        let end = End {
            generation: position.generation,
            cursor,
        };
        match partition.ends.last_mut() {
            Some(last) if last.generation == end.generation => *last = end,
            _ => partition.ends.push(end),
        }
        self.last = position;
    }

    /// What is told to the consumers of one partition.
    pub fn rewound(&self, vpartition: u16, from_generation: i64, generation: i64) -> LogRewound {
        let of = self.partitions.get(usize::from(vpartition));
        LogRewound {
            generation,
            from_generation,
            ends: of
                .into_iter()
                .flat_map(|partition| &partition.ends)
                .map(|end| end.to_message())
                .collect(),
            orphans: of.map_or(0, |partition| partition.orphans),
            lost_places: of
                .into_iter()
                .flat_map(|partition| partition.holes())
                .map(|(position, before)| LostPlace {
                    position: Some((*position).into()),
                    before: Some(before.to_message()),
                })
                .collect(),
        }
    }
}

impl End {
    fn to_message(self) -> GenerationEnd {
        GenerationEnd {
            generation: self.generation,
            position: Some(self.cursor.position.into()),
            count: self.cursor.count,
            hash: self.cursor.hash.to_vec(),
        }
    }

    fn from_message(message: &GenerationEnd) -> Option<End> {
        Some(End {
            generation: message.generation,
            cursor: Cursor {
                position: message.position?.into(),
                count: message.count,
                hash: message.hash.as_slice().try_into().ok()?,
            },
        })
    }
}

/// What a consumer does when it is told that a log was rewound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meeting {
    /// All it has taken survived, or it knows of this rewind already: the event is one like any other.
    Normal,
    /// It has taken events that did not survive: its cursor goes to where the survivors end, and it goes on from there.
    Rewind {
        /// Where the survivors end.
        to: Cursor,
        /// How many of the events it has taken are gone.
        lost: i64,
    },
}

/// Decides for a consumer whose cursor stands before the event.
pub(crate) fn meet(cursor: &Cursor, rewound: &LogRewound) -> Meeting {
    let generation = cursor.position.generation;
    if generation >= rewound.generation {
        return Meeting::Normal;
    }
    // The last place of the log that is not of a later generation than the cursor. Everything up to there either was
    // taken or is at hand; nothing behind it was.
    let ends = rewound.ends.iter().rev().filter_map(End::from_message);
    let to = ends
        .skip_while(|end| end.generation > generation)
        .map(|end| end.cursor)
        .next()
        .unwrap_or_default();
    // It stands on an event that is gone, and events behind that one survived.
    let stranded = rewound.lost_places.iter().find_map(|place| {
        let is_here = place.position.map(Position::from) == Some(cursor.position);
        End::from_message(place.before.as_ref().filter(|_| is_here)?)
    });
    if let Some(before) = stranded {
        return Meeting::Rewind {
            to: before.cursor,
            lost: (cursor.count - before.cursor.count).max(0),
        };
    }
    let beyond = cursor.position > to.position;
    let differs = cursor.position == to.position && (cursor.count, cursor.hash) != (to.count, to.hash);
    if beyond || differs {
        Meeting::Rewind {
            to,
            lost: (cursor.count - to.count).max(0),
        }
    } else {
        Meeting::Normal
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::cursor::Decision;

    #[derive(Debug, Clone, PartialEq)]
    enum Body {
        Plain,
        Rewound(LogRewound),
    }

    #[derive(Debug, Clone, PartialEq)]
    struct Entry {
        position: Position,
        id: Uuid,
        body: Body,
    }

    /// A log of one virtual partition and everything it ever told, under appends, losses and recoveries.
    #[derive(Default)]
    struct World {
        log: Vec<Entry>,
        generation: i64,
        made: u128,
        gone: Vec<Gone>,
    }

    fn gone(position: Position) -> Gone {
        Gone {
            vpartition: 0,
            position,
            is_new: true,
        }
    }

    impl World {
        fn new() -> World {
            World {
                generation: 1,
                ..World::default()
            }
        }

        /// Places are used again after a loss, as a restored copy uses them: only the generation tells them apart.
        fn append(&mut self, body: Body) {
            self.made += 1;
            let number = self.log.last().map_or(0, |entry| entry.position.position) + 1;
            self.log.push(Entry {
                position: Position {
                    generation: self.generation,
                    xid: number.unsigned_abs(),
                    position: number,
                },
                id: Uuid::from_u128(self.made),
                body,
            });
        }

        /// Loses the events from `keep` on, and perhaps one before them: not behind a recovery, for that waits for every
        /// writer before it.
        fn lose(&mut self, keep: usize, hole: Option<usize>) {
            self.gone
                .extend(self.log.drain(keep..).map(|entry| gone(entry.position)));
            let writers = self
                .log
                .iter()
                .rev()
                .take_while(|entry| entry.body == Body::Plain)
                .count();
            if let Some(back) = hole
                && back < writers
            {
                let at = self.log.len() - 1 - back;
                self.gone.push(gone(self.log.remove(at).position));
            }
        }

        fn recover(&mut self) {
            let mut survivors = Survivors::new(&self.gone);
            for entry in &self.log {
                survivors.take(0, entry.position, entry.id);
            }
            let from = self.generation;
            self.generation += 1;
            self.append(Body::Rewound(survivors.rewound(0, from, self.generation)));
        }
    }

    /// A consumer that reads the log from its cursor, as a feeder would after a gap.
    #[derive(Default)]
    struct Consumer {
        cursor: Cursor,
        applied: Vec<Uuid>,
        lost: i64,
    }

    impl Consumer {
        fn read(&mut self, log: &[Entry]) {
            // Each rewind begins the reading anew; there are no more of them than recoveries.
            'again: for _ in 0..20 {
                let mut prev = Position::ZERO;
                for entry in log {
                    let (before, at) = (prev, entry.position);
                    prev = at;
                    if let Body::Rewound(rewound) = &entry.body
                        && at > self.cursor.position
                        && let Meeting::Rewind { to, lost } = meet(&self.cursor, rewound)
                    {
                        self.cursor = to;
                        self.lost += lost;
                        continue 'again;
                    }
                    match self.cursor.decide(before, at) {
                        Decision::Apply => {
                            self.cursor.take(at, entry.id);
                            self.applied.push(entry.id);
                        }
                        Decision::Skip => {}
                        // Stands still there until a recovery is told of.
                        Decision::Gap | Decision::Fork => {}
                    }
                }
                return;
            }
            panic!("a consumer that never arrives");
        }
    }

    proptest! {
        /// Whatever is lost, and however often: once recovered, a consumer has applied every survivor exactly once, the
        /// rest of what it applied is what it counted as lost, and its cursor proves the log.
        #[test]
        fn consumers_converge_on_what_survived(
            rounds in prop::collection::vec(
                (1usize..12, 0usize..12, prop::option::of(1usize..4), prop::option::of(0usize..6), any::<bool>(), 0usize..4),
                1..6,
            ),
        ) {
            let mut world = World::new();
            let mut consumer = Consumer::default();
            let mut late = Consumer::default();
            for (events, lost, hole, reads, unproven, quiet) in rounds {
                for _ in 0..events {
                    world.append(Body::Plain);
                }
                if let Some(behind) = reads {
                    consumer.read(&world.log[..world.log.len().saturating_sub(behind)]);
                }
                let keep = world.log.len().saturating_sub(lost);
                world.lose(keep, hole);
                if unproven {
                    // A start that could prove nothing went on in a new generation before anybody knew of the loss.
                    world.generation += 1;
                    for _ in 0..quiet {
                        world.append(Body::Plain);
                    }
                    if reads.is_some() {
                        consumer.read(&world.log);
                    }
                }
                world.recover();
            }
            for reader in [&mut consumer, &mut late] {
                reader.read(&world.log);
                let ids: Vec<Uuid> = world.log.iter().map(|entry| entry.id).collect();
                let of_log: BTreeSet<Uuid> = ids.iter().copied().collect();
                let applied: BTreeSet<Uuid> = reader.applied.iter().copied().collect();
                prop_assert_eq!(applied.len(), reader.applied.len(), "nothing twice");
                prop_assert!(of_log.is_subset(&applied), "nothing skipped");
                prop_assert_eq!((applied.len() - of_log.len()) as i64, reader.lost, "what is gone is counted");
                let mut proof = Cursor::default();
                for entry in &world.log {
                    proof.take(entry.position, entry.id);
                }
                prop_assert_eq!(reader.cursor, proof);
            }
            prop_assert_eq!(late.lost, 0, "who comes later has seen nothing that is gone");
        }
    }

    fn at(generation: i64, position: i64) -> Position {
        Position {
            generation,
            xid: 10,
            position,
        }
    }

    #[test]
    fn a_hole_behind_the_cursor_is_noticed_by_the_chain() {
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let mut consumer = Cursor::default();
        consumer.take(at(1, 1), a);
        consumer.take(at(1, 2), b);
        let mut survivors = Survivors::new(&[gone(at(1, 1))]);
        survivors.take(0, at(1, 2), b);
        let rewound = survivors.rewound(0, 1, 2);
        let Meeting::Rewind { to, lost } = meet(&consumer, &rewound) else {
            panic!("the consumer has taken an event that is gone");
        };
        assert_eq!((to.position, to.count, lost), (at(1, 2), 1, 1));
        assert_eq!(meet(&to, &rewound), Meeting::Normal);

        // One that stands on the lost event itself goes back in front of it.
        let mut stranded = Cursor::default();
        stranded.take(at(1, 1), a);
        let Meeting::Rewind { to, lost } = meet(&stranded, &rewound) else {
            panic!("the consumer stands on an event that is gone");
        };
        assert_eq!((to, lost), (Cursor::default(), 1));
    }

    #[test]
    fn a_partition_that_lost_all_begins_anew() {
        let mut consumer = Cursor::default();
        consumer.take(at(1, 5), Uuid::from_u128(1));
        let rewound = Survivors::new(&[]).rewound(3, 1, 2);
        assert_eq!(
            meet(&consumer, &rewound),
            Meeting::Rewind {
                to: Cursor::default(),
                lost: 1
            }
        );
        assert_eq!(meet(&Cursor::default(), &rewound), Meeting::Normal);
    }
}
