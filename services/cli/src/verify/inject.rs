//! Breaking things as the schedule says, several at once, and mending what lasts.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use waybill_embedded::{Downtime, Fault as MailFault};
use waybill_kernel::time::{Clock as _, SystemClock};
use waybill_payments::sandbox::Fault as ProviderFault;

use super::faults::{Kind, Planned};
use super::process::send_signal;
use super::world::World;
use crate::setup;

/// What came of the faults of a kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Injected.
    pub injected: u64,
    /// Not possible in that moment, or on this machine.
    pub skipped: u64,
}

/// What was broken so far. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    tallies: Arc<Mutex<BTreeMap<Kind, Tally>>>,
    history: Arc<Mutex<Vec<String>>>,
}

impl Faults {
    /// By kind.
    #[must_use]
    pub fn tallies(&self) -> BTreeMap<Kind, Tally> {
        self.tallies
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// All that were injected.
    #[must_use]
    pub fn injected(&self) -> u64 {
        self.tallies().values().map(|tally| tally.injected).sum()
    }

    /// One line a fault: when, what, whom, and what came of it.
    #[must_use]
    pub fn history(&self) -> Vec<String> {
        self.history
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Writes all of them down, so that they can be held against the logs of the processes while the run goes on.
    fn write(&self, folder: &Path) {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = std::fs::write(folder.join("faults.txt"), history.join("\n") + "\n") {
            tracing::warn!(%error, "faults.txt cannot be written");
        }
    }

    fn note(&self, fault: &Planned, outcome: &anyhow::Result<String>) {
        let (line, injected) = match outcome {
            Ok(whom) => (format!("{whom}, {} ms", fault.lasts.as_millis()), true),
            Err(error) => (format!("skipped: {error:#}"), false),
        };
        let mut tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        let tally = tallies.entry(fault.kind).or_default();
        if injected {
            tally.injected += 1;
        } else {
            tally.skipped += 1;
        }
        self.history
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(format!(
                "{:7.1} s  over at {}  {:<14} {line}",
                fault.at.as_secs_f64(),
                SystemClock.now().format("%H:%M:%S%.3f"),
                fault.kind.name()
            ));
    }
}

/// Injects all faults of a schedule, each at its time, until `stop`; returns when all of them are over.
pub async fn run(world: Arc<World>, schedule: Vec<Planned>, faults: Faults, stop: CancellationToken) {
    let start = Instant::now();
    let mut under_way = JoinSet::new();
    for fault in schedule {
        tokio::select! {
            () = sleep_until(start + fault.at) => {}
            () = stop.cancelled() => break,
        }
        while under_way.try_join_next().is_some() {}
        let (world, faults) = (Arc::clone(&world), faults.clone());
        under_way.spawn(async move {
            let outcome = inject(&world, &fault).await;
            faults.note(&fault, &outcome);
            faults.write(&world.folder);
        });
    }
    while under_way.join_next().await.is_some() {}
}

/// Injects one fault, waits as long as it lasts, and mends it. Says whom it hit.
async fn inject(world: &World, fault: &Planned) -> anyhow::Result<String> {
    let lasts = fault.lasts;
    match fault.kind {
        Kind::Kill | Kind::Terminate | Kind::Pause | Kind::Clock => process(world, fault).await,
        Kind::PostgresKill => {
            let _alone = world.postgres.lock().await;
            world.embedded.postgres().kill().await?;
            sleep(lasts).await;
            world.embedded.postgres().resume().await?;
            Ok("Postgres".to_owned())
        }
        Kind::BackendKill => {
            let _alone = world.postgres.lock().await;
            backend(world, fault.pick).await
        }
        Kind::NatsKill | Kind::NatsWipe | Kind::NatsRemove | Kind::NatsOlder => nats(world, fault).await,
        Kind::WireCut | Kind::WireReset | Kind::WireSlow | Kind::WireHalfOpen => {
            let line = one_of(&world.lines, fault.pick).context("there are no wires")?;
            match fault.kind {
                Kind::WireCut => line.wire.cut(),
                Kind::WireReset => line.wire.reset(),
                Kind::WireSlow => line
                    .wire
                    .slow(Duration::from_millis(5 + u64::from(fault.shade % 200))),
                _ => line.wire.half_open(),
            }
            sleep(lasts).await;
            if fault.kind != Kind::WireReset {
                line.wire.restore();
            }
            Ok(line.name.clone())
        }
        Kind::Mail => Ok(mail(world, fault)),
        Kind::Provider => Ok(provider(world, fault)),
    }
}

fn one_of<T>(all: &[T], pick: u32) -> Option<&T> {
    let count = u32::try_from(all.len()).ok().filter(|count| *count > 0)?;
    all.get((pick % count) as usize)
}

async fn process(world: &World, fault: &Planned) -> anyhow::Result<String> {
    let process = one_of(&world.processes, fault.pick).context("there are no processes")?;
    match fault.kind {
        Kind::Kill => process.kill(fault.lasts).await?,
        Kind::Terminate => process.terminate(fault.lasts).await?,
        Kind::Pause => {
            process.pause().await?;
            sleep(fault.lasts).await;
            process.resume().await?;
        }
        _ => {
            // Up to an hour, either way: enough to pass every lease and time-out, not the life of a token.
            let shift = i64::from(fault.shade % 7200) - 3600;
            process.shift_clock(shift)?;
            sleep(fault.lasts).await;
            process.shift_clock(0)?;
            return Ok(format!("{} by {shift} s", process.name()));
        }
    }
    Ok(process.name().to_owned())
}

/// Kills one backend that works for a service.
async fn backend(world: &World, pick: u32) -> anyhow::Result<String> {
    let mut admin = setup::connect_admin(world.embedded.postgres().admin_url(), "postgres").await?;
    let backends: Vec<(i32, String)> = sqlx::query_as(
        "SELECT pid, usename::text FROM pg_stat_activity
         WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND usename LIKE 'waybill\\_%'
           AND usename <> current_user
         ORDER BY pid",
    )
    .fetch_all(&mut admin)
    .await?;
    let (pid, role) = one_of(&backends, pick).context("no service is connected")?;
    send_signal(u32::try_from(*pid)?, "KILL").await?;
    Ok(format!("a backend of {role}"))
}

async fn nats(world: &World, fault: &Planned) -> anyhow::Result<String> {
    let nats = world.embedded.nats();
    match fault.kind {
        Kind::NatsKill => {
            let _alone = world.nats.lock().await;
            nats.kill().await?;
            sleep(fault.lasts).await;
            nats.resume().await?;
        }
        Kind::NatsWipe => {
            let _alone = world.nats.lock().await;
            nats.wipe().await?;
        }
        Kind::NatsRemove => {
            let _alone = world.nats.lock().await;
            nats.remove_storage().await?;
            sleep(fault.lasts).await;
            nats.kill().await?;
            nats.resume().await?;
        }
        _ => {
            let copy = world
                .folder
                .join(format!("nats-copy-{}-{}", fault.at.as_millis(), fault.pick));
            {
                let _alone = world.nats.lock().await;
                let to = copy.clone();
                nats.while_stopped("copy", Downtime::Stop, move |store| copy_folder(store, &to))
                    .await?;
            }
            sleep(fault.lasts).await;
            let _alone = world.nats.lock().await;
            nats.while_stopped("put back an older", Downtime::Kill, move |store| {
                std::fs::remove_dir_all(store)?;
                std::fs::rename(&copy, store)
            })
            .await?;
        }
    }
    Ok("NATS".to_owned())
}

/// Copies a folder with everything in it, as it is.
pub(super) fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    if copied.success() {
        Ok(())
    } else {
        Err(std::io::Error::other("cp did not copy everything"))
    }
}

/// The mail server's next mails go wrong, each in its way.
fn mail(world: &World, fault: &Planned) -> String {
    let (what, faults) = match fault.shade % 3 {
        0 => (
            "the answer after a taken mail is lost",
            MailFault::DropAfterData { kept: true },
        ),
        1 => (
            "a mail is lost with its connection",
            MailFault::DropAfterData { kept: false },
        ),
        _ => (
            "mails are refused for now",
            MailFault::RejectMessage { code: 451 },
        ),
    };
    let times = 1 + fault.pick % 4;
    for _ in 0..times {
        world.mails.inject(faults.clone());
    }
    format!("{what}, {times} times")
}

/// The provider's next calls go wrong. A stored 500 that did nothing is left out: the leg would wait for a day until the
/// provider has forgotten its key.
fn provider(world: &World, fault: &Planned) -> String {
    let (what, faults) = match fault.shade % 7 {
        0 => ("paid and never answered", ProviderFault::TimeoutAfter),
        1 => ("not paid and never answered", ProviderFault::TimeoutBefore),
        2 => ("paid and broke off", ProviderFault::CutAfter),
        3 => ("not paid and broke off", ProviderFault::CutBefore),
        4 => ("paid and answered 500", ProviderFault::ErrorAfter),
        5 => (
            "answered 429",
            ProviderFault::RateLimited {
                retry_after_seconds: 1,
            },
        ),
        _ => (
            "paid later",
            ProviderFault::Pending {
                settle_after_ms: Some(2_000),
                failure_reason: None,
            },
        ),
    };
    let times = 1 + fault.pick % 3;
    for _ in 0..times {
        world.payments.inject(faults.clone());
    }
    format!("{what}, {times} times")
}

/// Faults that a run must have met to say anything about them. Some meet what is down already, more of them the slower the
/// machine.
pub fn ensure_enough(faults: &Faults, planned: usize) -> anyhow::Result<String> {
    let injected = faults.injected();
    ensure!(
        injected * 2 >= planned as u64,
        "only {injected} of {planned} planned faults could be injected"
    );
    Ok(format!("{injected} of {planned} planned"))
}
