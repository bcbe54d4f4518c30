//! The figures of leases and of what a consumer keeps: gauges, from the database, so that every replica that is asked says
//! the same and a restart forgets nothing.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::metrics::{Counter, Gauge};
use opentelemetry::{KeyValue, global};
use tokio_util::sync::CancellationToken;
use waybill_kernel::partition::PARTITIONS;
use waybill_store::Db;

use crate::operate::Consumers;
use crate::overview::overview_of;
use crate::relay::in_words;

/// How often the figures are taken.
const EVERY: Duration = Duration::from_secs(15);

/// Virtual partitions in a group: a lag of one partition is too fine a figure, one of all hides a stuck one.
const GROUP: u16 = 8;

/// What a keeper of leases tells.
#[derive(Debug, Clone)]
pub(crate) struct LeaseMeters {
    attributes: [KeyValue; 2],
    owned: Gauge<u64>,
    moves: Counter<u64>,
}

impl LeaseMeters {
    pub fn new(service: &Arc<str>, consumer: &'static str) -> Self {
        let meter = global::meter("waybill.events");
        LeaseMeters {
            attributes: attributes(service, consumer),
            owned: meter
                .u64_gauge("waybill.fold.partitions.owned")
                .with_description("Virtual partitions that this process owns.")
                .build(),
            moves: meter
                .u64_counter("waybill.fold.lease.moves")
                .with_description("Leases claimed, given back, and lost to others, by this process.")
                .build(),
        }
    }

    pub fn owned(&self, partitions: usize) {
        self.owned.record(partitions as u64, &self.attributes);
    }

    pub fn claimed(&self, partitions: usize) {
        self.moved("claimed", partitions);
    }

    pub fn released(&self, partitions: usize) {
        self.moved("released", partitions);
    }

    pub fn lost(&self, partitions: usize) {
        self.moved("lost", partitions);
    }

    fn moved(&self, how: &'static str, partitions: usize) {
        if partitions > 0 {
            let [service, consumer] = self.attributes.clone();
            self.moves.add(
                partitions as u64,
                &[service, consumer, KeyValue::new("move", how)],
            );
        }
    }
}

fn attributes(service: &Arc<str>, consumer: &'static str) -> [KeyValue; 2] {
    [
        KeyValue::new("waybill.service", service.to_string()),
        KeyValue::new("waybill.consumer", consumer),
    ]
}

/// Takes the figures of all consumers of a service from time to time.
pub(crate) struct Gauges {
    db: Db,
    service: Arc<str>,
    consumers: Arc<Consumers>,
    kept: Gauge<u64>,
    lag: Gauge<u64>,
    age: Gauge<f64>,
}

impl Gauges {
    pub fn new(db: Db, service: Arc<str>, consumers: Arc<Consumers>) -> Self {
        let meter = global::meter("waybill.events");
        Gauges {
            db,
            service,
            consumers,
            kept: meter
                .u64_gauge("waybill.fold.kept")
                .with_description(
                    "Events that a consumer keeps: dead letters, parked behind them, waiting for their key.",
                )
                .build(),
            lag: meter
                .u64_gauge("waybill.fold.lag.events")
                .with_description(
                    "Settled events that a consumer has not taken, per log and group of virtual partitions.",
                )
                .build(),
            age: meter
                .f64_gauge("waybill.fold.lag.age")
                .with_unit("s")
                .with_description("Age of the oldest event that a consumer has not taken, per log and group.")
                .build(),
        }
    }

    /// Takes figures until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), std::convert::Infallible> {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(EVERY) => self.take().await,
            }
        }
    }

    async fn take(&self) {
        for (name, consumer) in self.consumers.iter() {
            let found = match overview_of(&self.db, consumer.as_ref(), true).await {
                Ok(found) => found,
                Err(error) => {
                    tracing::debug!(
                        consumer = name,
                        error = in_words(&error),
                        "its figures are not known"
                    );
                    continue;
                }
            };
            let [service, consumer] = attributes(&self.service, name);
            let backlog = found.backlog;
            for (kind, count) in [
                ("letter", backlog.letters),
                ("parked", backlog.parked),
                ("waiting", backlog.waiting),
            ] {
                let labels = [service.clone(), consumer.clone(), KeyValue::new("kind", kind)];
                self.kept.record(count.max(0) as u64, &labels);
            }
            for source in found.sources {
                let Some(Ok(lags)) = source.lag else { continue };
                for (group, first) in (0..PARTITIONS).step_by(usize::from(GROUP)).enumerate() {
                    let of_group = lags
                        .iter()
                        .filter(|lag| (first..first + GROUP).contains(&lag.partition));
                    let (events, age) = of_group.fold((0, 0.0), |(events, age): (i64, f64), lag| {
                        (events + lag.events, age.max(lag.seconds))
                    });
                    let labels = [
                        service.clone(),
                        consumer.clone(),
                        KeyValue::new("waybill.source", source.source.to_string()),
                        KeyValue::new("waybill.partition_group", group as i64),
                    ];
                    self.lag.record(events.max(0) as u64, &labels);
                    self.age.record(age, &labels);
                }
            }
        }
    }
}
