//! Jobs, the workers that take them, and the provider they call.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use waybill_store::jobs::rule::job::{JobState, State, Taking, Verdict};

use crate::check::Fault;
use crate::consumer::Database;
use crate::rng::Rng;
use crate::rules::Rules;

/// How long a job is a worker's own, in ticks.
const LEASE: u64 = 40;

/// One tick is a second.
pub(crate) fn time(tick: u64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(i64::try_from(tick).unwrap_or(0))
}

/// A job in the database.
#[derive(Debug, Clone)]
pub struct JobRow {
    /// What decides about it.
    pub state: JobState,
    /// How often its end was written, together with what follows from it.
    pub completions: u32,
}

impl Default for JobRow {
    fn default() -> Self {
        JobRow {
            state: JobState::new(DateTime::UNIX_EPOCH),
            completions: 0,
        }
    }
}

/// The outside world: it knows the keys it was given, and does what comes under a key once.
#[derive(Debug, Default)]
pub struct Provider {
    known: BTreeMap<u64, u64>,
    /// Effects, per job.
    pub effects: BTreeMap<u64, u32>,
}

impl Provider {
    fn call(&mut self, job: u64, key: u64) {
        if self.known.insert(key, job).is_none() {
            *self.effects.entry(job).or_default() += 1;
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Taken,
    Intended,
    Answered,
    Unanswered,
}

/// A worker: one job at a time. What it knows is lost when it dies.
#[derive(Debug, Default)]
pub struct Worker {
    hand: Option<(u64, i64, Stage)>,
    pub(crate) asleep_until: u64,
}

impl Worker {
    /// One step: take, commit the intent, call, write the outcome down.
    pub(crate) fn step(
        &mut self,
        (db, provider): (&mut Database, &mut Provider),
        rules: &Rules,
        rng: &mut Rng,
        (tick, faults): (u64, bool),
    ) -> Result<(), Fault> {
        let now = time(tick);
        let Some((number, claim, stage)) = self.hand else {
            return self.take(db, rules, rng, tick);
        };
        let Some(job) = db.jobs.get_mut(&number) else {
            return Ok(());
        };
        match stage {
            Stage::Taken => {
                // The last look, in the transaction that commits the intent: is it still ours?
                let ours = job.state.state == State::Running && job.state.claims == claim;
                self.hand = ours.then_some((number, claim, Stage::Intended));
            }
            Stage::Intended => {
                let lost = faults && rng.happens(100);
                if !lost {
                    provider.call(number, (rules.provider_key)(number, claim));
                }
                let unanswered = lost || faults && rng.happens(150);
                let stage = if unanswered {
                    Stage::Unanswered
                } else {
                    Stage::Answered
                };
                self.hand = Some((number, claim, stage));
            }
            Stage::Answered => {
                if (rules.settle)(&mut job.state, claim, Verdict::Finished, now) {
                    job.completions += 1;
                }
                self.hand = None;
            }
            Stage::Unanswered => {
                let retry = Some(Duration::from_secs(5));
                (rules.settle)(&mut job.state, claim, Verdict::Failed { retry }, now);
                self.hand = None;
            }
        }
        Ok(())
    }

    fn take(&mut self, db: &mut Database, rules: &Rules, rng: &mut Rng, tick: u64) -> Result<(), Fault> {
        let now = time(tick);
        let open: Vec<u64> = db
            .jobs
            .iter()
            .filter(|(_, job)| job.state.state != State::Done)
            .map(|(number, _)| *number)
            .collect();
        if open.is_empty() {
            return Ok(());
        }
        let number = open[rng.below(open.len())];
        let Some(job) = db.jobs.get_mut(&number) else {
            return Ok(());
        };
        let before = job.state;
        if let Taking::Ours(claim) = (rules.take)(&mut job.state, now, Duration::from_secs(LEASE), u32::MAX) {
            if before.due > now {
                let found = format!("job {number}, {before:?} at {now}");
                return Err(Fault::new("a lease lasts until its end", found));
            }
            self.hand = Some((number, claim, Stage::Taken));
        }
        Ok(())
    }
}
