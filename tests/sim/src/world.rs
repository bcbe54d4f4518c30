//! The world: who does what next, and what goes wrong.

use uuid::Uuid;

use crate::check::{Checker, Fault};
use crate::consumer::{Database, LEASE, Process};
use crate::producer::Producer;
use crate::rng::Rng;
use crate::rules::Rules;
use crate::work::{Provider, Worker};

/// Steps in which things go wrong.
const TROUBLED: u64 = 6_000;

/// Steps after that in which everything has to come to its end.
const CALM: u64 = 60_000;

/// Keys of the world: orders.
const KEYS: usize = 12;

/// The most events of a log.
const EVENTS: usize = 150;

/// What a run was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Steps until everything had come to its end.
    pub steps: u64,
    /// Events that took effect.
    pub events: usize,
    /// Jobs that were done.
    pub jobs: usize,
    /// Crashes, pauses and losses of streams.
    pub faults: u32,
}

struct World {
    rng: Rng,
    rules: Rules,
    producers: [Producer; 2],
    db: Database,
    processes: [Process; 3],
    provider: Provider,
    workers: [Worker; 3],
    opened: [bool; KEYS],
    ids: u128,
    now: u64,
    report: Report,
}

/// Runs a world to its end.
///
/// # Errors
///
/// The first thing that must hold and does not.
pub fn run(seed: u64, rules: Rules) -> Result<Report, Fault> {
    let mut world = World {
        rng: Rng::new(seed),
        rules,
        producers: [Producer::new(), Producer::new()],
        db: Database::default(),
        processes: Default::default(),
        provider: Provider::default(),
        workers: Default::default(),
        opened: [false; KEYS],
        ids: 0,
        now: 0,
        report: Report::default(),
    };
    let mut checker = Checker::default();
    for _ in 0..TROUBLED {
        world.step(true)?;
        checker.look(&world.producers, &world.db, &world.provider)?;
    }
    for key in 0..KEYS {
        // What waits for its key would wait for ever.
        world.open(key);
    }
    for _ in 0..CALM {
        world.step(false)?;
        checker.look(&world.producers, &world.db, &world.provider)?;
        if Checker::at_the_end(&world.producers, &world.db, &world.provider).is_ok() {
            break;
        }
    }
    Checker::at_the_end(&world.producers, &world.db, &world.provider)?;
    Ok(Report {
        steps: world.now,
        events: world.db.effects.len(),
        jobs: world.db.jobs.len(),
        ..world.report
    })
}

impl World {
    fn step(&mut self, faults: bool) -> Result<(), Fault> {
        self.now += 1;
        if faults {
            self.fault();
            self.write();
        }
        let (now, rng, rules) = ((self.now, faults), &mut self.rng, &self.rules);
        match rng.below(10) {
            0..2 => {
                let (of, which) = (rng.below(2), rng.below(2));
                self.producers[of].relay(which, rules, rng, faults)
            }
            2..7 => {
                let me = rng.below(self.processes.len());
                let process = &mut self.processes[me];
                if process.asleep_until > self.now {
                    return Ok(());
                }
                process.step(me, (&mut self.db, &self.producers), rules, rng, now)
            }
            _ => {
                let which = rng.below(self.workers.len());
                let worker = &mut self.workers[which];
                if worker.asleep_until > self.now {
                    return Ok(());
                }
                worker.step((&mut self.db, &mut self.provider), rules, rng, now)
            }
        }
    }

    /// A use case commits an event: the first of the order's log opens the key, the other log's come at any time.
    fn write(&mut self) {
        if !self.rng.happens(80) {
            return;
        }
        let key = self.rng.below(KEYS);
        if self.rng.happens(500) {
            return self.open(key);
        }
        self.append(1, key, false);
    }

    fn open(&mut self, key: usize) {
        let opens = !std::mem::replace(&mut self.opened[key], true);
        self.append(0, key, opens);
    }

    fn append(&mut self, log: usize, key: usize, opens: bool) {
        if self.producers[log].log.len() >= EVENTS && !opens {
            return;
        }
        self.ids += 1;
        let asks = self.rng.happens(300);
        self.producers[log].append(key as u64, opens, asks, Uuid::from_u128(self.ids), &mut self.rng);
    }

    /// Somebody dies, sleeps, or loses what it had.
    fn fault(&mut self) {
        if !self.rng.happens(15) {
            return;
        }
        self.report.faults += 1;
        let which = self.rng.below(3);
        // Longer than a lease, so that another takes over meanwhile.
        let long = self.now + LEASE + self.rng.below(80) as u64;
        match self.rng.below(6) {
            0 => self.producers[self.rng.below(2)].lose_stream(&self.rules, &mut self.rng),
            1 => self.producers[self.rng.below(2)].crash_relay(which % 2),
            2 => self.processes[which] = Process::default(),
            3 => self.processes[which].asleep_until = long,
            4 => self.workers[which] = Worker::default(),
            _ => self.workers[which].asleep_until = long,
        }
    }
}
