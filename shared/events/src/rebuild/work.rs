//! The work of one rebuild, in one session.

use std::time::Duration;

use futures_util::StreamExt as _;
use sqlx::{Connection as _, PgConnection};
use tokio::sync::mpsc;
use uuid::Uuid;
use waybill_kernel::id::JobId;
use waybill_store::Backoff;
use waybill_store::bootstrap::rebuild_schema_of;
use waybill_store::error::{RetryClass as _, StoreError};

use super::meeting::{Cursors, Meeting, Met, by_place};
use super::{Outcome, Phase, Progress, Rebuild, RebuildError};
use crate::cursor::{Cursor, Decision};
use crate::error::FoldError;
use crate::event::Event;
use crate::identity::identity_check;
use crate::position::Position;
use crate::reader::{ReadError, SourceLog};
use crate::relay::in_words;
use crate::store::operate::{Action, write_down};
use crate::store::shadow::{Compared, Shadow};
use crate::store::{fold as leases, lease, rebuild as sql};

/// For how long the leases are taken, unless they are given back before.
const HOLD: Duration = Duration::from_secs(10);

/// With fewer new events in a round than this it is near enough to let the consumer stand still for the rest.
const NEAR: i64 = 1000;

/// How often it goes after the live consumer before it asks it to stand still.
const ROUNDS: usize = 20;

/// How often it tries to meet the live consumer, and to swap.
const ATTEMPTS: u32 = 20;

/// How long the next part of a log may take.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// How often in a row a log may bring nothing.
const READ_FAILURES: u32 = 8;

/// Keys whose held events are looked at in one transaction.
const KEYS: i64 = 500;

pub(super) struct Work {
    asked: Rebuild,
    progress: mpsc::Sender<Progress>,
    /// Its search path shows the shadows first. It has the lock: when it breaks, all is over.
    conn: PgConnection,
    shadow: Shadow,
    /// The catalog's words for the live tables, which must still be the same at the swap.
    described: Vec<String>,
    holder: String,
    sources: &'static [&'static str],
    cursors: Cursors,
    events: i64,
    total: i64,
    phase: Phase,
}

impl Work {
    /// Makes the shadows, empty.
    pub async fn begin(asked: Rebuild, progress: mpsc::Sender<Progress>) -> Result<Work, RebuildError> {
        let tables = asked.consumer.tables();
        if tables.is_empty() {
            return Err(RebuildError::NoTables(asked.consumer.name()));
        }
        let live = asked.db.schema().to_owned();
        let shadow = Shadow::new(&live, &rebuild_schema_of(&live), tables);
        let mut conn = asked.db.dedicated().await?;
        identity_check()(&mut conn).await?;
        if !shadow.is_usable(&mut conn).await? {
            return Err(RebuildError::NoSchema(shadow.schema().to_owned()));
        }
        if !shadow.lock(&mut conn).await? {
            return Err(RebuildError::Running(shadow.schema().to_owned()));
        }
        // Comparing takes its time, and holds nothing up: it draws no transaction id.
        sqlx::query(
            "SELECT set_config(name, '0', false) FROM pg_settings
             WHERE name IN ('transaction_timeout', 'statement_timeout')",
        )
        .execute(&mut conn)
        .await?;
        let obstacles = shadow.obstacles(&mut conn).await?;
        if !obstacles.is_empty() {
            return Err(RebuildError::Tables(obstacles.join("; ")));
        }
        if !shadow.counts(&mut conn).await? {
            let why =
                "the server counts no changes (track_counts), so nobody would see what is written elsewhere";
            return Err(RebuildError::Tables(why.to_owned()));
        }
        shadow.look_here(&mut conn).await?;
        shadow.clear(&mut conn).await?;
        shadow.create(&mut conn).await?;
        let described = shadow.describe_live(&mut conn).await?;
        same(&described, &shadow.describe(&mut conn).await?).map_err(RebuildError::Tables)?;
        let sources = asked.consumer.sources();
        Ok(Work {
            holder: format!("rebuild {}", JobId::generate()),
            sources,
            asked,
            progress,
            conn,
            shadow,
            described,
            cursors: Cursors::new(),
            events: 0,
            total: 0,
            phase: Phase::Folding,
        })
    }

    /// Builds, compares, swaps.
    pub async fn run(&mut self) -> Result<Outcome, RebuildError> {
        let action = if self.asked.compare_only {
            "compare"
        } else {
            "rebuild"
        };
        let mut tx = self.asked.db.begin().await?;
        write_down(tx.conn(), &self.action(action)).await?;
        tx.commit().await?;
        self.approach().await?;
        self.shadow.analyze(&mut self.conn).await?;
        self.enter(Phase::Comparing);
        let (tables, cursors, held) = self.compare().await?;
        let mut outcome = Outcome {
            events: self.events,
            held,
            tables,
            cursors,
            swapped: false,
        };
        if !self.asked.compare_only {
            self.enter(Phase::Swapping);
            self.approach().await?;
            outcome.held = self.swap().await?;
            outcome.events = self.events;
            outcome.swapped = true;
        }
        tracing::info!(
            consumer = self.asked.consumer.name(),
            events = outcome.events,
            swapped = outcome.swapped,
            "a projection was built again from the logs"
        );
        Ok(outcome)
    }

    /// Gives the leases back and drops what is left of the shadows. Neither is needed: the former run out, the latter go
    /// with the next rebuild.
    pub async fn tidy(mut self) {
        let name = self.asked.consumer.name();
        if let Err(error) = lease::leave(self.asked.db.pool(), name, &self.holder).await {
            tracing::debug!(
                consumer = name,
                error = in_words(&error),
                "leases run out by themselves"
            );
        }
        if let Err(error) = self.shadow.clear(&mut self.conn).await {
            tracing::debug!(
                consumer = name,
                error = in_words(&error),
                "the next rebuild drops what this one left"
            );
        }
    }

    fn action(&self, action: &'static str) -> Action<'_> {
        Action {
            consumer: self.asked.consumer.name(),
            action,
            caller: &self.asked.caller,
            request_id: &self.asked.request_id,
            reason: &self.asked.reason,
            repair: None,
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.tell();
    }

    fn tell(&self) {
        // Who does not listen misses it.
        let _full = self.progress.try_send(Progress {
            phase: self.phase,
            events: self.events,
            total: self.total.max(self.events),
        });
    }

    /// Goes after the live consumer until it is near.
    async fn approach(&mut self) -> Result<(), RebuildError> {
        for _ in 0..ROUNDS {
            let before = self.events;
            self.round().await?;
            if self.events - before < NEAR {
                break;
            }
        }
        Ok(())
    }

    /// Takes what the live consumer has taken, up to where it is now.
    async fn round(&mut self) -> Result<(), RebuildError> {
        let name = self.asked.consumer.name();
        let live = self.shadow.live();
        let rows = sql::live_cursors(&mut self.conn, &live, name, self.sources, false).await?;
        let target = by_place(self.sources, &rows);
        self.total = target.values().map(|cursor| cursor.count).sum();
        for place in target.keys() {
            // Also where the log has nothing: the live cursor may say otherwise.
            self.cursors.entry(*place).or_default();
        }
        for source in 0..self.sources.len() {
            self.follow(source, &target).await?;
        }
        self.release_held().await
    }

    /// Reads one log up to the target.
    async fn follow(&mut self, source: usize, target: &Cursors) -> Result<(), RebuildError> {
        let log = self.log(source)?;
        let backoff = Backoff {
            base: Duration::from_millis(50),
            cap: Duration::from_secs(3),
        };
        let mut failures = 0;
        loop {
            let behind = self.behind(source, target)?;
            if behind.is_empty() {
                return Ok(());
            }
            let before = self.events;
            let reason = match self.read(source, &log, behind, target).await? {
                Ok(()) => "it does not have all that the live consumer has taken".to_owned(),
                Err(error) => in_words(&error),
            };
            if self.events > before {
                failures = 0;
                continue;
            }
            failures += 1;
            if failures > READ_FAILURES {
                return Err(RebuildError::Log {
                    log: self.sources[source].to_owned(),
                    reason,
                });
            }
            tokio::time::sleep(backoff.delay(failures)).await;
        }
    }

    fn log(&self, source: usize) -> Result<SourceLog, RebuildError> {
        let name = self.sources[source];
        let logs = self.asked.consumer.logs();
        let found = logs.iter().find(|(source, _)| &**source == name);
        found
            .and_then(|(_, log)| log.clone())
            .ok_or_else(|| RebuildError::Log {
                log: name.to_owned(),
                reason: "nobody knows the way to it".to_owned(),
            })
    }

    /// The partitions of a log in which the live consumer is further, and where to go on.
    fn behind(&self, source: usize, target: &Cursors) -> Result<Vec<(u16, Position)>, RebuildError> {
        let mut behind = Vec::new();
        for (&(of, partition), goal) in target.range((source, 0)..=(source, u16::MAX)) {
            let at = self
                .cursors
                .get(&(of, partition))
                .copied()
                .unwrap_or_default()
                .position;
            if at > goal.position {
                return Err(RebuildError::Apart(format!(
                    "its cursor in partition {partition} of the log of {} went back meanwhile; begin again",
                    self.sources[source]
                )));
            }
            if at < goal.position {
                behind.push((partition, at));
            }
        }
        Ok(behind)
    }

    async fn read(
        &mut self,
        source: usize,
        log: &SourceLog,
        behind: Vec<(u16, Position)>,
        target: &Cursors,
    ) -> Result<Result<(), ReadError>, RebuildError> {
        let mut chunks = match within(log.read(behind)).await {
            Ok(chunks) => chunks,
            Err(error) => return Ok(Err(error)),
        };
        loop {
            let events = match within(async { chunks.next().await.transpose() }).await {
                Ok(Some(events)) => events,
                Ok(None) => return Ok(Ok(())),
                Err(error) => return Ok(Err(error)),
            };
            self.take(source, &events, target).await?;
            if self.behind(source, target)?.is_empty() {
                return Ok(Ok(()));
            }
        }
    }

    /// Takes those of the events that are next and that the live consumer has taken.
    async fn take(&mut self, source: usize, events: &[Event], target: &Cursors) -> Result<(), RebuildError> {
        let mut moved = Cursors::new();
        let mut next = Vec::with_capacity(events.len());
        for event in events {
            let place = (source, event.vpartition);
            let goal = target.get(&place).copied().unwrap_or_default();
            let known = moved.get(&place).or_else(|| self.cursors.get(&place));
            let mut cursor = known.copied().unwrap_or_default();
            if event.position > goal.position {
                continue;
            }
            match cursor.decide(event.prev, event.position) {
                Decision::Skip => {}
                Decision::Apply => {
                    cursor.take(event.position, event.event_id.uuid());
                    moved.insert(place, cursor);
                    next.push(event.clone());
                }
                Decision::Gap | Decision::Fork => {
                    return Err(RebuildError::Apart(format!(
                        "the log of {} has no unbroken chain at {} of partition {}",
                        event.source, event.position, event.vpartition
                    )));
                }
            }
        }
        if next.is_empty() {
            return Ok(());
        }
        if let Err(fault) = self.project(&next, &[]).await {
            if !matches!(fault, RebuildError::Event { .. }) || next.len() == 1 {
                return Err(fault);
            }
            // One of them, or all together: one by one it shows which.
            for event in &next {
                self.project(std::slice::from_ref(event), &[]).await?;
            }
        }
        self.events += next.len() as i64;
        self.cursors.append(&mut moved);
        self.tell();
        Ok(())
    }

    /// One transaction of `project`.
    async fn project(&mut self, events: &[Event], keys: &[Uuid]) -> Result<(), RebuildError> {
        let mut failures = 0;
        loop {
            match self.project_once(events, keys).await {
                Err(RebuildError::Store(error)) if error.is_retry() && failures < 5 => failures += 1,
                outcome => return outcome,
            }
        }
    }

    async fn project_once(&mut self, events: &[Event], keys: &[Uuid]) -> Result<(), RebuildError> {
        let live = self.shadow.live();
        let mut tx = self.conn.begin().await?;
        let projected = self
            .asked
            .consumer
            .project_again(&mut tx, &live, events, keys)
            .await;
        match projected {
            Ok(_) => {}
            Err(fault) if matches!(fault, FoldError::Poison(_)) || fault.is_refused_data() => {
                let event = events.first();
                return Err(RebuildError::Event {
                    event: event.map_or_else(
                        || format!("of one of {} keys that were held", keys.len()),
                        |event| format!("{} {} of {}", event.type_name, event.event_id, event.source),
                    ),
                    reason: in_words(&fault),
                });
            }
            Err(FoldError::Store(error)) => return Err(error.into()),
            Err(FoldError::Poison(reason)) => return Err(StoreError::other(reason).into()),
        }
        let strays = self.shadow.strays(&mut tx).await?;
        if !strays.is_empty() {
            return Err(RebuildError::Strays(strays.join(", ")));
        }
        tx.commit().await?;
        Ok(())
    }

    /// What was held and has taken effect in the live tables meanwhile, by a release or a retry, takes effect here.
    async fn release_held(&mut self) -> Result<(), RebuildError> {
        let name = self.asked.consumer.name();
        let mut after = None;
        loop {
            let keys = sql::held_keys(&mut self.conn, name, after, KEYS).await?;
            let Some(last) = keys.last() else { return Ok(()) };
            after = Some(*last);
            self.project(&[], &keys).await?;
        }
    }

    /// Makes the live consumer stand still for a while.
    async fn hold(&self) -> Result<(), RebuildError> {
        let name = self.asked.consumer.name();
        let mut tx = self.asked.db.begin().await?;
        leases::ensure_leases(tx.conn(), name).await?;
        sql::hold(tx.conn(), name, &self.holder, HOLD).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Compares the tables in one snapshot, in which both are at the same place.
    async fn compare(&mut self) -> Result<(Vec<Compared>, usize, i64), RebuildError> {
        let name = self.asked.consumer.name();
        let mut why = String::new();
        for _ in 0..ATTEMPTS {
            self.hold().await?;
            self.round().await?;
            let mut tx = self
                .conn
                .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                .await?;
            let met = Meeting {
                asked: &self.asked,
                shadow: &self.shadow,
                sources: self.sources,
                cursors: &self.cursors,
            }
            .look(&mut tx, false)
            .await?;
            match met {
                Met::Yes { cursors, held } => {
                    // The snapshot stands: the consumer may go on.
                    lease::leave(self.asked.db.pool(), name, &self.holder).await?;
                    let mut tables = Vec::new();
                    for table in self.asked.consumer.tables() {
                        tables.push(self.shadow.compare(&mut tx, table).await?);
                    }
                    tx.rollback().await?;
                    return Ok((tables, cursors, held));
                }
                Met::No(reason) => why = reason,
            }
            tx.rollback().await?;
        }
        Err(RebuildError::Apart(why))
    }

    /// Puts the rebuilt tables in place, in one transaction that holds the live cursors. Returns how many events are held.
    async fn swap(&mut self) -> Result<i64, RebuildError> {
        let pause = Backoff {
            base: Duration::from_millis(20),
            cap: Duration::from_millis(500),
        };
        let mut why = String::new();
        for attempt in 1..=ATTEMPTS {
            self.hold().await?;
            self.round().await?;
            match self.swap_once().await {
                Ok(Met::Yes { held, .. }) => return Ok(held),
                Ok(Met::No(reason)) => why = reason,
                // Somebody reads a table for long: others must not wait behind us.
                Err(RebuildError::Store(error)) if error.is_retry() => why = in_words(&error),
                Err(error) => return Err(error),
            }
            tokio::time::sleep(pause.delay(attempt)).await;
        }
        Err(RebuildError::Apart(why))
    }

    async fn swap_once(&mut self) -> Result<Met, RebuildError> {
        let name = self.asked.consumer.name();
        let live = self.shadow.live();
        let mut tx = self.conn.begin().await?;
        let meeting = Meeting {
            asked: &self.asked,
            shadow: &self.shadow,
            sources: self.sources,
            cursors: &self.cursors,
        };
        let met = meeting.look(&mut tx, true).await?;
        if matches!(met, Met::No(_)) {
            tx.rollback().await?;
            return Ok(met);
        }
        same(&self.described, &self.shadow.describe_live(&mut tx).await?)
            .map_err(|line| RebuildError::Apart(format!("the live tables were migrated: {line}")))?;
        self.shadow.swap(&mut tx).await?;
        same(&self.described, &self.shadow.describe_swapped(&mut tx).await?).map_err(RebuildError::Tables)?;
        let cursors: Vec<(String, u16, Cursor)> = self
            .cursors
            .iter()
            .map(|((source, partition), cursor)| (self.sources[*source].to_owned(), *partition, *cursor))
            .collect();
        sql::prove_cursors(&mut tx, &live, name, &cursors).await?;
        write_down(
            &mut tx,
            &Action {
                consumer: name,
                action: "swap",
                caller: &self.asked.caller,
                request_id: &self.asked.request_id,
                reason: &self.asked.reason,
                repair: None,
            },
        )
        .await?;
        tx.commit().await?;
        Ok(met)
    }
}

/// Whether two descriptions say the same; else the first line that only one of them has.
fn same(live: &[String], rebuilt: &[String]) -> Result<(), String> {
    let only = |of: &[String], other: &[String]| of.iter().find(|line| !other.contains(line)).cloned();
    if let Some(line) = only(live, rebuilt) {
        return Err(format!("only of the live tables: {line}"));
    }
    match only(rebuilt, live) {
        Some(line) => Err(format!("only of the rebuilt tables: {line}")),
        None => Ok(()),
    }
}

async fn within<T>(work: impl Future<Output = Result<T, ReadError>>) -> Result<T, ReadError> {
    match tokio::time::timeout(READ_TIMEOUT, work).await {
        Ok(read) => read,
        Err(_) => Err(tonic::Status::deadline_exceeded("the log did not answer in time").into()),
    }
}
