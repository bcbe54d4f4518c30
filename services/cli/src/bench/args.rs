//! What `waybill bench` can be asked. The defaults are those of the recorded table.

use clap::{Args, Subcommand};

/// Benchmarks: figures with the floor of this machine beside them, measured in the same run.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// What Postgres, JetStream and tonic do bare on this machine.
    Floor(FloorArgs),
    /// Events per second through log, relay, stream and fold; the time from commit to effect; memory.
    Backbone(BackboneArgs),
    /// Placing, reading and listing orders over gRPC; the same in a store that is full.
    Orders(OrdersArgs),
    /// The CPU that a whole stack takes while nothing happens.
    Idle(IdleArgs),
    /// Whole lives of orders, from placement to refund, at a steady rate: the CPU that a life and each of its stages take.
    Lives(LivesArgs),
    /// Idle, floor, backbone and orders, one after the other, as one report.
    All(AllArgs),
}

/// What the rows, messages and calls look like.
#[derive(Debug, Clone, Args)]
pub struct ShapeArgs {
    /// Bytes of an event's payload.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(64..=65_536))]
    pub payload_bytes: u32,
    /// Events in a transaction that appends.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub per_commit: u32,
    /// Events in a page of the log, and in a batch of a fold.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub batch: u32,
    /// Transactions that append at once.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub writers: u32,
    /// Orders that the events are about.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub orders: u32,
    /// Where the random ids begin: the same seed makes the same events.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// How the floor is measured.
#[derive(Debug, Clone, Args)]
pub struct FloorArgs {
    /// What the rows, messages and calls look like.
    #[command(flatten)]
    pub shape: ShapeArgs,
    /// Rows, messages and calls in a measurement.
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub events: u32,
    /// How often each is measured; the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// Callers at once, where each waits for its answer: single inserts and gRPC calls.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub callers: u32,
}

/// How the backbone is measured.
#[derive(Debug, Clone, Args)]
pub struct BackboneArgs {
    /// What the events look like.
    #[command(flatten)]
    pub shape: ShapeArgs,
    /// Events in a measurement.
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub events: u32,
    /// How often floor and figure are measured, one after the other; the medians count.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// Lanes of the fold.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub lanes: u16,
    /// Events that are sent one by one, each after the effect of the one before, for the idle latency.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub singles: u32,
    /// Seconds at half of the throughput found, for the loaded latency.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub loaded_seconds: u32,
    /// Minutes of a steady load for the memory figures; without it they are left out.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=600))]
    pub minutes: u32,
    /// Events per second of the steady load.
    #[arg(long, default_value_t = 4000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub steady_rate: u32,
}

/// How orders are measured.
#[derive(Debug, Clone, Args)]
pub struct OrdersArgs {
    /// Orders that the full store has; 0 leaves it out. Five million take some 20 GB and a quarter of an hour to write.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(0..=50_000_000))]
    pub orders: u32,
    /// Calls in a measurement; a twentieth of them where each waits for the one before, a tenth of them for lists.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(20..=10_000_000))]
    pub calls: u32,
    /// How often floor and figure are measured, one after the other; the medians count.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// Where the random orders begin: the same seed makes the same orders.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// How idleness is measured.
#[derive(Debug, Clone, Args)]
pub struct IdleArgs {
    /// Seconds that are measured.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub seconds: u32,
    /// Seconds before, for the stack to come to rest.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=3600))]
    pub settle_seconds: u32,
}

/// How lives are measured.
#[derive(Debug, Clone, Args)]
pub struct LivesArgs {
    /// Seconds that orders are placed for.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub seconds: u32,
    /// Orders placed a second.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rate: u32,
    /// Orders under way at once, at most.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub in_flight: u32,
    /// Orders that pass stage by stage, for the cost of each stage.
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub wave: u32,
    /// Decides what is ordered, and what customers do.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// How everything is measured.
#[derive(Debug, Clone, Args)]
pub struct AllArgs {
    /// Minutes of a steady load for the memory figures.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=600))]
    pub minutes: u32,
}
