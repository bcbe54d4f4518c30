//! What must hold, looked at after every step.

use std::collections::BTreeMap;

use waybill_events::cursor::Cursor;

use crate::consumer::Database;
use crate::producer::{PARTITIONS, Producer};
use crate::work::Provider;

/// Something that must hold does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What must hold.
    pub rule: &'static str,
    /// What was found.
    pub found: String,
}

impl Fault {
    pub(crate) fn new(rule: &'static str, found: impl Into<String>) -> Self {
        Fault {
            rule,
            found: found.into(),
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.rule, self.found)
    }
}

fn require(holds: bool, rule: &'static str, found: impl FnOnce() -> String) -> Result<(), Fault> {
    if holds {
        Ok(())
    } else {
        Err(Fault::new(rule, found()))
    }
}

/// Remembers how far it has looked, so that a look costs no more than what is new.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    effects_seen: usize,
    /// The last event of each log that took effect, per key.
    last_of: BTreeMap<(usize, u64), usize>,
    /// Proofs of each log's prefix, per partition: what the cursor must be after so many events.
    proofs: BTreeMap<(usize, usize), Vec<Cursor>>,
    proven: [usize; 2],
}

impl Checker {
    pub(crate) fn look(
        &mut self,
        producers: &[Producer; 2],
        db: &Database,
        provider: &Provider,
    ) -> Result<(), Fault> {
        self.effects(producers, db)?;
        self.cursors(producers, db)?;
        for (job, effects) in &provider.effects {
            require(*effects == 1, "no effect at the provider happens twice", || {
                format!("job {job}: {effects} times")
            })?;
        }
        for (number, job) in &db.jobs {
            require(job.completions <= 1, "the end of a job counts once", || {
                format!("job {number}: {} times", job.completions)
            })?;
        }
        Ok(())
    }

    fn effects(&mut self, producers: &[Producer; 2], db: &Database) -> Result<(), Fault> {
        for &(source, index) in &db.effects[self.effects_seen..] {
            let event = &producers[source].log[index];
            let earlier = self.last_of.insert((source, event.key), index);
            // The next of its key in its log, and no other: so none twice, none left out, none too early.
            let expected = producers[source]
                .log
                .iter()
                .enumerate()
                .skip(earlier.map_or(0, |earlier| earlier + 1))
                .find(|(_, other)| other.key == event.key)
                .map(|(index, _)| index);
            require(
                expected == Some(index),
                "every event takes effect exactly once, in order per key",
                || {
                    format!(
                        "log {source}, key {}: event {index} after {earlier:?}, expected {expected:?}",
                        event.key
                    )
                },
            )?;
            require(
                event.opens || self.last_of.contains_key(&(0, event.key)),
                "no event takes effect before its key is known",
                || format!("log {source}, key {}: event {index}", event.key),
            )?;
        }
        self.effects_seen = db.effects.len();
        Ok(())
    }

    /// Count and hash of a cursor are those of the log up to where it stands.
    fn cursors(&mut self, producers: &[Producer; 2], db: &Database) -> Result<(), Fault> {
        for (source, producer) in producers.iter().enumerate() {
            for event in &producer.log[self.proven[source]..] {
                let chain = self
                    .proofs
                    .entry((source, event.partition))
                    .or_insert_with(|| vec![Cursor::default()]);
                let mut next = chain.last().copied().unwrap_or_default();
                next.take(event.position, event.id);
                chain.push(next);
            }
            self.proven[source] = producer.log.len();
            for partition in 0..PARTITIONS {
                let cursor = db.cursors[source][partition];
                let count = usize::try_from(cursor.count).unwrap_or(usize::MAX);
                let proof = self
                    .proofs
                    .get(&(source, partition))
                    .and_then(|chain| chain.get(count));
                require(
                    proof.copied().unwrap_or_default() == cursor,
                    "count and hash of a cursor are those of its log",
                    || format!("log {source}, partition {partition}: {cursor:?}"),
                )?;
            }
        }
        Ok(())
    }

    /// When no fault has happened for long, everything is where it belongs.
    pub(crate) fn at_the_end(
        producers: &[Producer; 2],
        db: &Database,
        provider: &Provider,
    ) -> Result<(), Fault> {
        let events: usize = producers.iter().map(|producer| producer.log.len()).sum();
        require(
            db.effects.len() == events && db.waiting.is_empty(),
            "everything takes effect once the faults end",
            || {
                format!(
                    "{} of {events} events, {} wait",
                    db.effects.len(),
                    db.waiting.len()
                )
            },
        )?;
        let asked = producers
            .iter()
            .flat_map(|producer| &producer.log)
            .filter(|event| event.asks)
            .count();
        let done = db.jobs.values().filter(|job| job.completions == 1).count();
        require(
            done == asked && provider.effects.len() == asked,
            "every job is done once the faults end",
            || {
                format!(
                    "{asked} asked for, {done} done, {} at the provider",
                    provider.effects.len()
                )
            },
        )
    }
}
