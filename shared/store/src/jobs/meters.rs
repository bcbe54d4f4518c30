//! The figures of jobs: how attempts end, counted where they end; how much waits, is held or is left alone, from the
//! database, so that every replica says the same.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use opentelemetry::metrics::{Counter, Gauge, Histogram};
use opentelemetry::{KeyValue, global};
use tokio_util::sync::CancellationToken;
use waybill_runtime::telemetry;

use super::rule::job::Verdict;
use super::{admin, destination, hold};
use crate::db::Db;
use crate::error::StoreError;

/// How often the figures of the database are taken.
const EVERY: Duration = Duration::from_secs(15);

/// How the attempts of one kind end.
#[derive(Debug)]
pub(super) struct Meters {
    attributes: [KeyValue; 2],
    outcomes: Counter<u64>,
    duration: Histogram<f64>,
}

impl Meters {
    pub(super) fn new(service: &str, kind: &'static str) -> Self {
        let meter = global::meter("waybill.jobs");
        Meters {
            attributes: [
                KeyValue::new("waybill.service", service.to_owned()),
                KeyValue::new("job.kind", kind),
            ],
            outcomes: meter
                .u64_counter("waybill.job.attempts")
                .with_description("Attempts of jobs, by how they ended.")
                .build(),
            duration: meter
                .f64_histogram("waybill.job.duration")
                .with_unit("s")
                .with_description("How long an attempt took.")
                .build(),
        }
    }

    pub(super) fn ended(&self, verdict: &Verdict, took: Duration) {
        let outcome = match verdict {
            Verdict::Finished => "finished",
            Verdict::Again { went_well: true, .. } => "again",
            Verdict::Again { went_well: false, .. } => "not_tried",
            Verdict::Failed { retry: Some(_) } => "failed",
            Verdict::Failed { retry: None } => "dead",
        };
        self.count(outcome);
        self.duration.record(took.as_secs_f64(), &self.attributes);
    }

    /// The lease was lost: another takes over.
    pub(super) fn lost(&self) {
        self.count("lost");
    }

    fn count(&self, outcome: &'static str) {
        let [service, kind] = self.attributes.clone();
        self.outcomes
            .add(1, &[service, kind, KeyValue::new("outcome", outcome)]);
    }
}

struct Gauges {
    service: KeyValue,
    jobs: Gauge<i64>,
    age: Gauge<f64>,
    held: Gauge<i64>,
    breaker: Gauge<i64>,
    pool: Gauge<i64>,
    /// Due, later, running, dead, holds. A kind that was told once goes on being told: a gauge keeps its last value.
    kinds: BTreeMap<String, [i64; 5]>,
}

/// Takes the figures of jobs, destinations and the pool of connections from time to time, while anybody reads metrics.
///
/// # Errors
///
/// None: what fails is taken again next time.
pub async fn observe(db: Db, shutdown: CancellationToken) -> Result<(), Infallible> {
    let mut gauges = Gauges::new(&db);
    let mut time = tokio::time::interval(EVERY);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            _ = time.tick() => {}
        }
        if !telemetry::metrics_are_read() {
            continue;
        }
        gauges.pool(&db);
        let taken = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            taken = gauges.take(&db) => taken,
        };
        if let Err(error) = taken {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "the figures of jobs are not known"
            );
        }
    }
}

impl Gauges {
    fn new(db: &Db) -> Self {
        let meter = global::meter("waybill.jobs");
        Gauges {
            service: KeyValue::new("waybill.service", db.schema().to_owned()),
            jobs: meter
                .i64_gauge("waybill.jobs")
                .with_description("Jobs by kind and state: due, later, running, dead.")
                .build(),
            age: meter
                .f64_gauge("waybill.job.age")
                .with_unit("s")
                .with_description("How late the longest-waiting due job of a kind is.")
                .build(),
            held: meter
                .i64_gauge("waybill.job.held")
                .with_description("Holds of a kind of jobs; while there is any, none is begun.")
                .build(),
            breaker: meter
                .i64_gauge("waybill.destination.breaker")
                .with_description("The circuit breaker of a destination: 0 closed, 1 half open, 2 open.")
                .build(),
            pool: meter
                .i64_gauge("waybill.db.connections")
                .with_description("Connections of all pools: used, idle, and the most there may be.")
                .build(),
            kinds: BTreeMap::new(),
        }
    }

    fn pool(&self, db: &Db) {
        let [mut used, mut idle, mut most] = [0_i64; 3];
        for pool in db.pools() {
            let unused = i64::try_from(pool.num_idle()).unwrap_or(i64::MAX);
            used += (i64::from(pool.size()) - unused).max(0);
            idle = idle.saturating_add(unused);
            most += i64::from(pool.options().get_max_connections());
        }
        for (state, count) in [("used", used), ("idle", idle), ("most", most)] {
            self.pool
                .record(count, &[self.service.clone(), KeyValue::new("state", state)]);
        }
    }

    async fn take(&mut self, db: &Db) -> Result<(), StoreError> {
        for known in self.kinds.values_mut() {
            *known = [0; 5];
        }
        let mut ages = BTreeMap::new();
        for kind in admin::backlog(db).await? {
            ages.insert(kind.kind.clone(), kind.oldest_due_seconds);
            self.kinds
                .insert(kind.kind, [kind.due, kind.later, kind.running, kind.dead, 0]);
        }
        for held in hold::holds(db).await? {
            self.kinds.entry(held.kind).or_default()[4] += 1;
        }
        for (kind, counts) in &self.kinds {
            let labels = [self.service.clone(), KeyValue::new("job.kind", kind.clone())];
            let [service, of_kind] = labels.clone();
            let [by_state @ .., held] = counts;
            for (state, count) in ["due", "later", "running", "dead"].into_iter().zip(by_state) {
                let state = KeyValue::new("state", state);
                self.jobs
                    .record(*count, &[service.clone(), of_kind.clone(), state]);
            }
            self.age.record(ages.get(kind).copied().unwrap_or(0.0), &labels);
            self.held.record(*held, &labels);
        }
        for to in destination::destinations(db).await? {
            let stand = match to.stand.as_str() {
                "open" => 2,
                "half_open" => 1,
                _ => 0,
            };
            let name = KeyValue::new("job.destination", to.destination);
            self.breaker.record(stand, &[self.service.clone(), name]);
        }
        Ok(())
    }
}
