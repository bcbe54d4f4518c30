//! The consumer: its database, and the processes that share its virtual partitions.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

use uuid::Uuid;
use waybill_events::Position;
use waybill_events::cursor::{Cursor, Decision};
use waybill_events::gate::{Arrival, Waiting};

use crate::check::Fault;
use crate::producer::{Logged, PARTITIONS, Producer};
use crate::rng::Rng;
use crate::rules::{EventRef, Rules};
use crate::work::JobRow;

/// How long a lease lasts, in ticks.
pub const LEASE: u64 = 60;

/// The lease of a virtual partition.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lease {
    owner: Option<usize>,
    epoch: u64,
    expires: u64,
}

/// The consumer's database. What is in it survives everything.
#[derive(Debug, Default)]
pub struct Database {
    leases: [Lease; PARTITIONS],
    /// Per log and virtual partition.
    pub cursors: [[Cursor; PARTITIONS]; 2],
    known: BTreeSet<u64>,
    /// Events that wait for their key, in the order of their rows.
    pub waiting: Vec<(i64, u64, EventRef)>,
    rows: i64,
    /// What took effect, in order.
    pub effects: Vec<EventRef>,
    /// The jobs, by number.
    pub jobs: BTreeMap<u64, JobRow>,
}

/// A batch that was decided on and not yet committed.
#[derive(Debug, Clone)]
struct Prepared {
    partition: usize,
    epoch: u64,
    source: usize,
    before: Position,
    events: Vec<usize>,
}

/// A process of the consumer. What is in it is lost when it dies.
#[derive(Debug, Default)]
pub struct Process {
    held: BTreeMap<usize, u64>,
    read_to: [u64; 2],
    inbox: VecDeque<EventRef>,
    prepared: Option<Prepared>,
    /// It sleeps until then: a long pause of its machine, in which its leases run out.
    pub(crate) asleep_until: u64,
}

fn uuid_of(key: u64) -> Uuid {
    Uuid::from_u128(u128::from(key))
}

impl Process {
    /// One step; `me` is its number.
    pub(crate) fn step(
        &mut self,
        me: usize,
        world: (&mut Database, &[Producer; 2]),
        rules: &Rules,
        rng: &mut Rng,
        (now, faults): (u64, bool),
    ) -> Result<(), Fault> {
        let (db, producers) = world;
        // A batch under way goes on, also when the process slept in between and its lease is another's by now.
        if let Some(prepared) = self.prepared.take() {
            return self.commit(me, db, producers, rules, &prepared);
        }
        match rng.below(6) {
            0 => self.lease(me, db, now),
            1 => self.fetch(producers, rng, faults),
            2 => self.compare_heads(db, producers, rng),
            _ => self.prepare(db, producers, rules),
        }
        Ok(())
    }

    /// Renews what is held and takes one that is free or has run out, up to an even share.
    fn lease(&mut self, me: usize, db: &mut Database, now: u64) {
        self.held.retain(|&partition, epoch| {
            let lease = &mut db.leases[partition];
            let ours = lease.owner == Some(me) && lease.epoch == *epoch;
            if ours {
                lease.expires = now + LEASE;
            }
            ours
        });
        if self.held.len() >= PARTITIONS.div_ceil(2) {
            return;
        }
        let free = db
            .leases
            .iter()
            .position(|lease| lease.owner.is_none() || lease.expires <= now);
        if let Some(partition) = free {
            let epoch = db.leases[partition].epoch + 1;
            db.leases[partition] = Lease {
                owner: Some(me),
                epoch,
                expires: now + LEASE,
            };
            self.held.insert(partition, epoch);
        }
    }

    /// Reads some messages of a stream. The wire loses, repeats and reorders them.
    fn fetch(&mut self, producers: &[Producer; 2], rng: &mut Rng, faults: bool) {
        let source = rng.below(2);
        let stream = &producers[source].stream;
        if stream
            .last()
            .is_none_or(|last| last.sequence < self.read_to[source])
        {
            // It lost what we had read; from its beginning, then.
            self.read_to[source] = 0;
        }
        let from = stream.partition_point(|message| message.sequence <= self.read_to[source]);
        for message in stream.iter().skip(from).take(8) {
            self.read_to[source] = message.sequence;
            if !self
                .held
                .contains_key(&producers[source].log[message.event].partition)
            {
                continue;
            }
            let copies = match faults {
                true if rng.happens(150) => 0,
                true if rng.happens(150) => 2,
                _ => 1,
            };
            for _ in 0..copies {
                self.inbox.push_back((source, message.event));
            }
        }
        if faults && self.inbox.len() > 1 && rng.happens(300) {
            let (a, b) = (rng.below(self.inbox.len()), rng.below(self.inbox.len()));
            self.inbox.swap(a, b);
        }
    }

    /// What an idle owner does from time to time: looks whether the log has more than its cursor says.
    fn compare_heads(&mut self, db: &Database, producers: &[Producer; 2], rng: &mut Rng) {
        if !self.inbox.is_empty() || self.held.is_empty() {
            return;
        }
        let nth = rng.below(self.held.len());
        let Some(&partition) = self.held.keys().nth(nth) else {
            return;
        };
        let source = rng.below(2);
        let cursor = db.cursors[source][partition].position;
        self.fill(producers, source, partition, cursor, None);
    }

    /// Reads from the log what comes after a place, up to another.
    fn fill(
        &mut self,
        producers: &[Producer; 2],
        source: usize,
        partition: usize,
        after: Position,
        to: Option<Position>,
    ) {
        let missing: Vec<EventRef> = producers[source]
            .log
            .iter()
            .enumerate()
            .filter(|(_, event)| event.partition == partition && event.position > after)
            .filter(|(_, event)| to.is_none_or(|to| event.position <= to))
            .map(|(index, _)| (source, index))
            .take(20)
            .collect();
        for event in missing.into_iter().rev() {
            self.inbox.push_front(event);
        }
    }

    /// Decides about the next messages of one partition; the commit is a step of its own.
    fn prepare(&mut self, db: &Database, producers: &[Producer; 2], rules: &Rules) {
        let Some(&(source, first)) = self.inbox.front() else {
            return;
        };
        let partition = producers[source].log[first].partition;
        let Some(&epoch) = self.held.get(&partition) else {
            self.inbox.pop_front();
            return;
        };
        let before = db.cursors[source][partition].position;
        let (mut at, mut events) = (before, Vec::new());
        while let Some(&(of, index)) = self.inbox.front() {
            let Logged {
                position,
                prev,
                partition: its,
                ..
            } = producers[of].log[index];
            if (of, its) != (source, partition) || events.len() == 5 {
                break;
            }
            match (rules.cursor)(at, prev, position) {
                Decision::Apply => {
                    events.push(index);
                    at = position;
                }
                Decision::Skip => {}
                Decision::Gap if events.is_empty() => {
                    self.inbox.pop_front();
                    return self.fill(producers, source, partition, at, Some(position));
                }
                // What is decided so far is committed first.
                Decision::Gap => break,
                // A log that lost nothing never forks; a wrong rule may say so, and stands still.
                Decision::Fork => {}
            }
            self.inbox.pop_front();
        }
        if !events.is_empty() {
            self.prepared = Some(Prepared {
                partition,
                epoch,
                source,
                before,
                events,
            });
        }
    }

    /// One transaction: cursor, effects, jobs.
    fn commit(
        &mut self,
        me: usize,
        db: &mut Database,
        producers: &[Producer; 2],
        rules: &Rules,
        batch: &Prepared,
    ) -> Result<(), Fault> {
        let Prepared {
            partition,
            source,
            before,
            ..
        } = *batch;
        let lease = db.leases[partition];
        let cursor = &mut db.cursors[source][partition];
        if !(rules.may_commit)(batch.epoch, lease.epoch) || cursor.position != before {
            self.held.remove(&partition);
            return Ok(());
        }
        if lease.owner != Some(me) || lease.epoch != batch.epoch {
            let found = format!(
                "process {me} with epoch {} commits in partition {partition} of {lease:?}",
                batch.epoch
            );
            return Err(Fault::new("only the owner commits", found));
        }
        let log = &producers[source].log;
        for &index in &batch.events {
            cursor.take(log[index].position, log[index].id);
        }
        let arrivals = batch.events.iter().map(|&index| Arrival {
            key: uuid_of(log[index].key),
            opens: log[index].opens,
            needs_opening: true,
            event: (source, index),
        });
        let known: HashSet<Uuid> = db.known.iter().map(|key| uuid_of(*key)).collect();
        let keys: BTreeSet<u64> = batch.events.iter().map(|&index| log[index].key).collect();
        let waiting = db.waiting.iter().filter(|(_, key, _)| keys.contains(key));
        let waiting = waiting.map(|&(row, key, event)| Waiting {
            row,
            key: uuid_of(key),
            event,
        });
        let plan = (rules.plan)(arrivals.collect(), known, &HashSet::new(), waiting.collect());
        db.waiting.retain(|(row, ..)| !plan.released.contains(row));
        for event in plan.wait {
            db.rows += 1;
            db.waiting
                .push((db.rows, producers[event.0].log[event.1].key, event));
        }
        for (of, index) in plan.apply {
            let event = &producers[of].log[index];
            db.effects.push((of, index));
            db.known.insert(event.key);
            if event.asks {
                let number = (index * 2 + of) as u64;
                db.jobs.entry(number).or_default();
            }
        }
        Ok(())
    }
}
