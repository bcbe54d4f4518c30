//! What the figures were measured on.

use std::fs;

use anyhow::Context as _;
use serde::Serialize;
use sqlx::PgPool;

use super::process::kib;

/// The machine and what ran on it.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// The operating system's kernel.
    pub kernel: String,
    /// Version of Postgres.
    pub postgres: String,
    /// Whether its commits wait for the disk.
    pub fsync: String,
    /// Memory that it keeps pages in.
    pub shared_buffers: String,
    /// Version of NATS.
    pub nats: String,
    /// `release` or `debug`.
    pub build: &'static str,
    /// Processes that waited for a core in the minute before the first measurement: well below the number of cores on a
    /// machine that has nothing else to do.
    pub load_before: f64,
}

/// Memory of the machine in MiB; zero where that cannot be told.
pub fn memory_mib() -> u64 {
    let told = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    kib(&told, "MemTotal:").unwrap_or_default() as u64 / 1024
}

impl Machine {
    /// Looks around.
    pub async fn look(pool: &PgPool, nats: &async_nats::Client) -> anyhow::Result<Machine> {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo")
            .lines()
            .find_map(|line| line.strip_prefix("model name"))
            .map(|rest| rest.trim_start_matches([' ', '\t', ':']).to_owned())
            .unwrap_or_else(|| std::env::consts::ARCH.to_owned());
        let (postgres, fsync, shared_buffers) = sqlx::query_as(
            "SELECT current_setting('server_version'), current_setting('fsync'), current_setting('shared_buffers')",
        )
        .fetch_one(pool)
        .await
        .context("Postgres does not tell its version")?;
        Ok(Machine {
            cpu,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: memory_mib(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            postgres,
            fsync,
            shared_buffers,
            nats: nats.server_info().version,
            build: if cfg!(debug_assertions) {
                "debug"
            } else {
                "release"
            },
            load_before: read("/proc/loadavg")
                .split_ascii_whitespace()
                .next()
                .and_then(|load| load.parse().ok())
                .unwrap_or_default(),
        })
    }
}
