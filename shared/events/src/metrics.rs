//! The figures of the backbone. Recorded per batch, not per event, except for plain counts.

use std::sync::Arc;

use opentelemetry::metrics::{Counter, Gauge, Histogram};
use opentelemetry::{KeyValue, global};

/// What the relay tells of itself.
#[derive(Debug, Clone)]
pub(crate) struct RelayMeters {
    service: [KeyValue; 1],
    published: Counter<u64>,
    page: Histogram<u64>,
    lag: Histogram<f64>,
    watermark_age: Gauge<f64>,
}

impl RelayMeters {
    pub fn new(service: &Arc<str>) -> Self {
        let meter = global::meter("waybill.events");
        RelayMeters {
            service: [KeyValue::new("waybill.service", service.to_string())],
            published: meter
                .u64_counter("waybill.relay.published")
                .with_description("Events that the stream has acknowledged.")
                .build(),
            page: meter
                .u64_histogram("waybill.relay.page")
                .with_description("Events per page of the log, of pages that hold any.")
                .build(),
            lag: meter
                .f64_histogram("waybill.relay.lag")
                .with_unit("s")
                .with_description("From the event to the stream's acknowledgement.")
                .build(),
            watermark_age: meter
                .f64_gauge("waybill.log.watermark.age")
                .with_unit("s")
                .with_description(
                    "How long written events have been waiting for an older transaction to end.",
                )
                .build(),
        }
    }

    pub fn published(&self, events: u64, lag_seconds: f64) {
        self.published.add(events, &self.service);
        self.lag.record(lag_seconds, &self.service);
    }

    pub fn page(&self, events: usize) {
        if events > 0 {
            self.page.record(events as u64, &self.service);
        }
    }

    pub fn watermark_age(&self, seconds: f64) {
        self.watermark_age.record(seconds, &self.service);
    }
}

/// What a consumer tells of itself.
#[derive(Debug, Clone)]
pub(crate) struct FoldMeters {
    service: KeyValue,
    consumer: KeyValue,
    events: Counter<u64>,
    batch: Histogram<u64>,
    lag: Histogram<f64>,
    gaps: Counter<u64>,
}

/// What became of an event.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Outcome {
    Applied,
    Waiting,
    Parked,
    Letter,
    UnknownType,
}

impl Outcome {
    fn label(self) -> &'static str {
        match self {
            Outcome::Applied => "applied",
            Outcome::Waiting => "waiting",
            Outcome::Parked => "parked",
            Outcome::Letter => "letter",
            Outcome::UnknownType => "unknown_type",
        }
    }
}

impl FoldMeters {
    pub fn new(service: &Arc<str>, consumer: &'static str) -> Self {
        let meter = global::meter("waybill.events");
        FoldMeters {
            service: KeyValue::new("waybill.service", service.to_string()),
            consumer: KeyValue::new("waybill.consumer", consumer),
            events: meter
                .u64_counter("waybill.fold.events")
                .with_description("Events that a consumer has taken, by what became of them.")
                .build(),
            batch: meter
                .u64_histogram("waybill.fold.batch")
                .with_description("Events per transaction.")
                .build(),
            lag: meter
                .f64_histogram("waybill.fold.lag")
                .with_unit("s")
                .with_description("From the event to its effect, of the youngest event of a batch.")
                .build(),
            gaps: meter
                .u64_counter("waybill.fold.gaps")
                .with_description(
                    "Times that events were missing from the stream and were read from the log.",
                )
                .build(),
        }
    }

    pub fn count(&self, outcome: Outcome, events: usize) {
        if events > 0 {
            let outcome = KeyValue::new("outcome", outcome.label());
            self.events.add(
                events as u64,
                &[self.service.clone(), self.consumer.clone(), outcome],
            );
        }
    }

    pub fn batch(&self, events: usize, lag_seconds: f64) {
        let attributes = [self.service.clone(), self.consumer.clone()];
        self.batch.record(events as u64, &attributes);
        self.lag.record(lag_seconds, &attributes);
    }

    pub fn gap(&self) {
        self.gaps.add(1, &[self.service.clone(), self.consumer.clone()]);
    }
}
