//! Floors: what Postgres, JetStream and tonic do bare, with the rows, messages and calls of the real thing and nothing
//! of ours in between.
//!
//! Each floor is a plain loop over sqlx, async-nats or tonic and returns a [`Speed`]. Benchmarks call them in their own
//! runs, in turns with what they measure.

pub mod echo;
pub mod jetstream;
pub mod postgres;

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use sqlx::types::Uuid;

use self::jetstream::BareStream;
use self::postgres::BareLog;
use super::Progress;
use super::args::{FloorArgs, ShapeArgs};
use super::ground::Ground;
use super::report::{Report, median};

/// How many of something were done in which time.
#[derive(Debug, Clone, Copy)]
pub struct Speed {
    /// How many.
    pub count: u64,
    /// In which time.
    pub time: Duration,
}

impl Speed {
    /// How many in a second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.count as f64 / self.time.as_secs_f64()
    }
}

/// What rows and messages look like, and how many go together.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Bytes of a payload.
    pub payload_bytes: usize,
    /// Rows in a transaction that appends.
    pub per_commit: usize,
    /// Rows in a page that is read, and in a batch of a fold.
    pub batch: usize,
    /// Transactions that append at once.
    pub writers: usize,
    /// Different keys.
    pub orders: usize,
    /// Where random ids begin.
    pub seed: u64,
}

impl From<&ShapeArgs> for Shape {
    fn from(args: &ShapeArgs) -> Self {
        Shape {
            payload_bytes: args.payload_bytes as usize,
            per_commit: args.per_commit as usize,
            batch: args.batch as usize,
            writers: args.writers as usize,
            orders: args.orders as usize,
            seed: args.seed,
        }
    }
}

impl Shape {
    /// Ids that are the same for the same seed and `stream`.
    pub(super) fn ids(&self, stream: u64) -> impl FnMut() -> Uuid + use<> {
        let mut random = StdRng::seed_from_u64(self.seed.wrapping_mul(1_000_003).wrapping_add(stream));
        move || Uuid::from_u128(random.random())
    }

    /// The keys of all orders.
    pub(super) fn keys(&self) -> Vec<Uuid> {
        std::iter::repeat_with(self.ids(0)).take(self.orders).collect()
    }
}

/// The floors of the parts of a backbone, in events per second.
#[derive(Debug, Clone, Copy)]
pub struct Parts {
    /// Rows inserted, set-based.
    pub insert: f64,
    /// Rows read in pages.
    pub read: f64,
    /// Messages published by one publisher, each expecting the sequence of the one before.
    pub publish: f64,
    /// Messages fetched by an ephemeral ordered pull consumer.
    pub fetch: f64,
    /// Events applied in batches: cursor rows and a set-based effect, one transaction.
    pub fold: f64,
}

impl Parts {
    /// Measures each once.
    pub async fn measure(
        log: &BareLog,
        stream: &BareStream,
        shape: &Shape,
        events: usize,
    ) -> anyhow::Result<Parts> {
        let insert = log.insert_sets(shape, events).await?.per_second();
        let read = log.read(shape, events).await?.per_second();
        let publish = stream.publish(shape, events).await?.per_second();
        let fetch = stream.fetch(events).await?.per_second();
        let fold = log.fold(shape, events).await?.per_second();
        Ok(Parts {
            insert,
            read,
            publish,
            fetch,
            fold,
        })
    }

    /// What a backbone could do whose parts were bare and took turns on the same cores.
    #[must_use]
    pub fn combined(&self) -> f64 {
        let all = [self.insert, self.read, self.publish, self.fetch, self.fold];
        all.iter().map(|part| part.recip()).sum::<f64>().recip()
    }

    /// Writes the medians of some rounds into a report.
    pub fn report(rounds: &[Parts], report: &mut Report) {
        let of = |part: fn(&Parts) -> f64| median(&rounds.iter().map(part).collect::<Vec<_>>());
        report.floor("insert_per_second", of(|parts| parts.insert));
        report.floor("read_per_second", of(|parts| parts.read));
        report.floor("publish_per_second", of(|parts| parts.publish));
        report.floor("fetch_per_second", of(|parts| parts.fetch));
        report.floor("fold_per_second", of(|parts| parts.fold));
        report.floor("backbone_per_second", of(Parts::combined));
    }
}

/// `waybill bench floor`.
pub async fn run(args: &FloorArgs, progress: &Progress) -> anyhow::Result<Report> {
    progress.say("floor: starting Postgres and NATS");
    let ground = Ground::start(&[]).await?;
    let machine = ground.machine().await?;
    let shape = Shape::from(&args.shape);
    let (events, callers) = (args.events as usize, args.callers as usize);
    let log = BareLog::make(ground.bare_pool(args.shape.writers.max(args.callers)).await?).await?;
    let stream = BareStream::make(&ground.bare_nats().await?).await?;

    let (mut parts, mut single, mut echo) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=args.rounds {
        progress.say(format!("floor: round {round} of {}", args.rounds));
        parts.push(Parts::measure(&log, &stream, &shape, events).await?);
        // A commit each: a tenth of the rows takes as long as all of them in sets.
        single.push(
            log.insert_singles(&shape, events.div_ceil(10), callers)
                .await?
                .per_second(),
        );
        echo.push(
            echo::unary(shape.payload_bytes, events, callers)
                .await?
                .per_second(),
        );
    }
    ground.stop().await?;

    let mut report = Report::default();
    Parts::report(&parts, &mut report);
    report.floor("insert_single_per_second", median(&single));
    report.floor("grpc_echo_per_second", median(&echo));
    report.machine(machine);
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_take_turns_share_the_time() {
        let parts = Parts {
            insert: 50.0,
            read: 100.0,
            publish: 100.0,
            fetch: 100.0,
            fold: 20.0,
        };
        assert!((parts.combined() - 10.0).abs() < 1e-9);
    }

    #[test]
    fn a_seed_gives_the_same_ids_again() {
        let shape = Shape {
            payload_bytes: 64,
            per_commit: 1,
            batch: 1,
            writers: 1,
            orders: 3,
            seed: 7,
        };
        assert_eq!(shape.keys(), shape.keys());
        assert_ne!(shape.keys(), Shape { seed: 8, ..shape }.keys());
        assert_ne!(shape.ids(1)(), shape.ids(2)());
    }
}
