//! A producer: its log, its stream, and the relays between them.

use uuid::Uuid;
use waybill_events::Position;
use waybill_events::resume::{Place, Tail};

use crate::check::Fault;
use crate::rng::Rng;
use crate::rules::Rules;

/// Virtual partitions of the world.
pub const PARTITIONS: usize = 4;

/// An event in a log.
#[derive(Debug, Clone, Copy)]
pub struct Logged {
    /// Where it stands.
    pub position: Position,
    /// The one before it in its virtual partition.
    pub prev: Position,
    /// Its id.
    pub id: Uuid,
    /// What it is ordered by.
    pub key: u64,
    /// Its virtual partition.
    pub partition: usize,
    /// Whether it makes its key known.
    pub opens: bool,
    /// Whether it asks for something outside.
    pub asks: bool,
}

/// A message in a stream.
#[derive(Debug, Clone, Copy)]
pub struct Message {
    /// Its number in the stream.
    pub sequence: u64,
    /// The event in the log.
    pub event: usize,
}

/// A relay that is at work.
#[derive(Debug, Clone, Copy)]
struct Working {
    /// What comes next in the log.
    next: usize,
    last_sequence: u64,
}

/// A relay.
#[derive(Debug, Default)]
struct Relay {
    working: Option<Working>,
    acknowledged: Option<Position>,
}

/// A producer.
#[derive(Debug)]
pub struct Producer {
    /// The log, in order.
    pub log: Vec<Logged>,
    /// The stream: what it has kept, in order.
    pub stream: Vec<Message>,
    /// The last number it gave away.
    pub last_sequence: u64,
    relays: [Relay; 2],
}

impl Producer {
    pub(crate) fn new() -> Self {
        Producer {
            log: Vec::new(),
            stream: Vec::new(),
            last_sequence: 0,
            relays: Default::default(),
        }
    }

    /// A use case commits an event. Transactions leave holes in the numbers.
    pub(crate) fn append(&mut self, key: u64, opens: bool, asks: bool, id: Uuid, rng: &mut Rng) {
        let partition = usize::try_from(key).unwrap_or(0) % PARTITIONS;
        let last = self.log.last().map_or(Position::ZERO, |event| event.position);
        let before = self.log.iter().rev().find(|event| event.partition == partition);
        self.log.push(Logged {
            position: Position {
                generation: 1,
                xid: last.xid + rng.below(3) as u64 + u64::from(last.is_zero()),
                position: last.position + 1 + i64::try_from(rng.below(2)).unwrap_or(0),
            },
            prev: before.map_or(Position::ZERO, |event| event.position),
            id,
            key,
            partition,
            opens,
            asks,
        });
    }

    fn index_after(&self, position: Position) -> usize {
        self.log.partition_point(|event| event.position <= position)
    }

    fn tail(&self) -> Tail {
        match self.stream.last() {
            None => Tail::Empty {
                last_sequence: self.last_sequence,
            },
            Some(message) => Tail::Event {
                last_sequence: self.last_sequence,
                position: self.log[message.event].position,
                event_id: self.log[message.event].id.into(),
            },
        }
    }

    /// One step of a relay: find out where to go on, or publish one event, expecting the end of the stream.
    pub(crate) fn relay(
        &mut self,
        which: usize,
        rules: &Rules,
        rng: &mut Rng,
        faults: bool,
    ) -> Result<(), Fault> {
        let Some(working) = self.relays[which].working else {
            return self.resume(which, rules);
        };
        if working.next >= self.log.len() {
            return Ok(());
        }
        if faults && rng.happens(60) {
            // The request is lost: nobody knows, so the stream is asked.
            self.relays[which].working = None;
            return Ok(());
        }
        if working.last_sequence != self.last_sequence {
            // Refused: another relay was faster, or the stream lost something.
            self.relays[which].working = None;
            return Ok(());
        }
        self.last_sequence += 1;
        self.stream.push(Message {
            sequence: self.last_sequence,
            event: working.next,
        });
        if faults && rng.happens(60) {
            // The acknowledgement is lost.
            self.relays[which].working = None;
        } else {
            self.relays[which].acknowledged = Some(self.log[working.next].position);
            self.relays[which].working = Some(Working {
                next: working.next + 1,
                last_sequence: self.last_sequence,
            });
        }
        self.stream_has_no_hole()
    }

    fn resume(&mut self, which: usize, rules: &Rules) -> Result<(), Fault> {
        let tail = self.tail();
        let place = match tail {
            Tail::Event { position, .. } => {
                let there = self.log.iter().find(|event| event.position == position);
                Some(Place {
                    in_log: there.map(|event| event.id),
                    recovered: 0,
                    fork: self.log.last().map_or(Position::ZERO, |event| event.position),
                })
            }
            _ => None,
        };
        let acknowledged = self.relays[which].acknowledged;
        let resumed = (rules.resume)(&tail, place.as_ref(), acknowledged, Position::ZERO);
        let resume = resumed.map_err(|differs| {
            Fault::new("a log that lost nothing differs from its stream", differs.reason)
        })?;
        self.relays[which].working = Some(Working {
            next: self.index_after(resume.after),
            last_sequence: resume.last_sequence,
        });
        Ok(())
    }

    /// What a stream has is a piece of the log without a hole, so consumers rarely need the log.
    fn stream_has_no_hole(&self) -> Result<(), Fault> {
        let [.., before, last] = self.stream.as_slice() else {
            return Ok(());
        };
        if last.event == before.event + 1 {
            return Ok(());
        }
        Err(Fault::new(
            "a stream is a piece of its log",
            format!("event {} comes after event {}", last.event, before.event),
        ))
    }

    /// A relay's process dies and comes back knowing nothing.
    pub(crate) fn crash_relay(&mut self, which: usize) {
        self.relays[which] = Relay::default();
    }

    /// The stream loses what it had: its tail (the broker came back with an older copy), all of it but its count (purged),
    /// or everything. A broker that comes back has broken all connections.
    pub(crate) fn lose_stream(&mut self, rules: &Rules, rng: &mut Rng) {
        let how = rng.below(3);
        if how != 1 && rules.looks_again {
            for relay in &mut self.relays {
                relay.working = None;
            }
        }
        match how {
            0 => {
                let lost = 1 + rng.below(5);
                for _ in 0..lost {
                    if self.stream.pop().is_some() {
                        self.last_sequence -= 1;
                    }
                }
            }
            1 => self.stream.clear(),
            _ => {
                self.stream.clear();
                self.last_sequence = 0;
            }
        }
    }
}
