//! What the kernel counts for processes: CPU time and memory, from `/proc`. Linux only; elsewhere it says so.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use anyhow::Context as _;

/// Ticks of `/proc/PID/stat` are hundredths of a second on every Linux that Rust supports, whatever the kernel's own
/// timer does.
const TICK: Duration = Duration::from_millis(10);

/// One line of `/proc/PID/stat`, as far as it matters.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stat {
    pid: u32,
    name: String,
    parent: u32,
    /// User and system time, of the process alone.
    own: u64,
    /// The same of children that have ended and were waited for.
    ended_children: u64,
}

impl Stat {
    /// The name stands in brackets and may hold anything, brackets and blanks too.
    fn parse(line: &str) -> Option<Stat> {
        let (pid, rest) = line.split_once(" (")?;
        let (name, rest) = rest.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        Some(Stat {
            pid: pid.parse().ok()?,
            name: name.to_owned(),
            parent: u32::try_from(number(1)?).ok()?,
            own: number(11)? + number(12)?,
            ended_children: number(13)? + number(14)?,
        })
    }
}

/// CPU time since each process began: of this process, and of the servers that it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuTimes {
    /// This process alone.
    pub own: Duration,
    /// All processes of the Postgres below this process, those of closed connections included.
    pub postgres: Duration,
    /// The nats-server below this process.
    pub nats: Duration,
}

impl CpuTimes {
    /// Reads them now.
    pub fn now() -> anyhow::Result<CpuTimes> {
        let mut stats = Vec::new();
        for entry in fs::read_dir("/proc").context("CPU times are read from /proc, which only Linux has")? {
            // A process may end while we look.
            if let Ok(line) = fs::read_to_string(entry?.path().join("stat"))
                && let Some(stat) = Stat::parse(&line)
            {
                stats.push(stat);
            }
        }
        Ok(sum(&stats, std::process::id()))
    }

    /// What was used since `before`.
    #[must_use]
    pub fn since(&self, before: &CpuTimes) -> CpuTimes {
        CpuTimes {
            own: self.own.saturating_sub(before.own),
            postgres: self.postgres.saturating_sub(before.postgres),
            nats: self.nats.saturating_sub(before.nats),
        }
    }
}

fn sum(stats: &[Stat], root: u32) -> CpuTimes {
    let by_pid: HashMap<u32, &Stat> = stats.iter().map(|stat| (stat.pid, stat)).collect();
    let is_below = |stat: &Stat| {
        let mut at = stat.parent;
        // The depth is bounded, should the snapshot hold a circle.
        for _ in 0..64 {
            if at == root {
                return true;
            }
            match by_pid.get(&at) {
                Some(parent) => at = parent.parent,
                None => return false,
            }
        }
        false
    };
    let (mut own, mut postgres, mut nats) = (0, 0, 0);
    for stat in stats {
        if stat.pid == root {
            own += stat.own;
        } else if is_below(stat) {
            match stat.name.as_str() {
                "postgres" => postgres += stat.own + stat.ended_children,
                "nats-server" => nats += stat.own + stat.ended_children,
                _ => {}
            }
        }
    }
    let time = |ticks: u64| TICK * u32::try_from(ticks).unwrap_or(u32::MAX);
    CpuTimes {
        own: time(own),
        postgres: time(postgres),
        nats: time(nats),
    }
}

/// Resident memory of this process in MiB.
pub fn resident_mib() -> anyhow::Result<f64> {
    let status = fs::read_to_string("/proc/self/status")
        .context("memory is read from /proc/self/status, which only Linux has")?;
    kib(&status, "VmRSS:")
        .map(|kib| kib / 1024.0)
        .context("/proc/self/status has no VmRSS")
}

/// The number of a line like `VmRSS:     1234 kB`.
pub(super) fn kib(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(pid: u32, name: &str, parent: u32, own: u64, ended_children: u64) -> Stat {
        Stat {
            pid,
            name: name.to_owned(),
            parent,
            own,
            ended_children,
        }
    }

    #[test]
    fn a_name_may_hold_brackets_and_blanks() {
        let line = "7 (a) (b c) S 3 7 7 0 -1 4194560 1 2 3 4 11 22 33 44 20 0 1 0";
        assert_eq!(Stat::parse(line), Some(stat(7, "a) (b c", 3, 33, 77)));
        assert_eq!(Stat::parse("7 (cut"), None);
    }

    #[test]
    fn servers_count_only_below_us_and_are_told_apart() {
        let stats = [
            stat(10, "waybill", 1, 5, 1000),
            stat(11, "sh", 10, 1, 0),
            stat(12, "postgres", 11, 100, 7),
            stat(13, "postgres", 12, 10, 0),
            stat(14, "nats-server", 11, 3, 0),
            stat(20, "postgres", 1, 5000, 0),
        ];
        let times = sum(&stats, 10);
        assert_eq!(times.own, TICK * 5);
        assert_eq!(times.postgres, TICK * 117);
        assert_eq!(times.nats, TICK * 3);
    }

    #[test]
    fn sizes_are_read_by_name() {
        assert_eq!(
            kib("VmPeak:\t  9 kB\nVmRSS:\t    2048 kB\n", "VmRSS:"),
            Some(2048.0)
        );
        assert_eq!(kib("", "VmRSS:"), None);
    }
}
