//! A lane: owns virtual partitions, takes what its feeders bring, applies it in batches.
//!
//! A lane lives in eras. An era begins with what is owned and the cursors as they stand in the database, and ends when
//! ownership changes or anything casts doubt on the cursors in memory; then the next one begins from the database. So
//! memory is never more than a guess that the conditional update of the cursor rows confirms.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use waybill_kernel::partition::PARTITIONS;
use waybill_kernel::time::Shared as Clock;
use waybill_store::error::StoreError;
use waybill_store::{Backoff, Db};

use super::apply::{Applier, ApplyError, Tally};
use super::feeder::{Feeder, Fills, Input, budget};
use super::lease::{Keeper, Owned};
use super::{Fold, FoldError, FoldOptions};
use crate::cursor::{Cursor, Decision};
use crate::event::Event;
use crate::log::Log;
use crate::metrics::{FoldMeters, Outcome};
use crate::nats::Nats;
use crate::reader::SourceLog;
use crate::relay::in_words;
use crate::status::{Condition, Part, Status};
use crate::store::fold as sql;

/// How often an event that the database refuses is tried before it counts as the event's own fault.
const REFUSED_TRIES: u32 = 3;

/// How long a batch may take. The database ends a transaction long before; this ends a fold that waits for something else.
const BATCH_DEADLINE: Duration = Duration::from_secs(30);

/// What a lane is made of.
pub(crate) struct LaneParts<F> {
    pub db: Db,
    pub log: Log,
    pub fold: Arc<F>,
    pub logs: Vec<(Arc<str>, SourceLog)>,
    pub nats: Nats,
    pub options: FoldOptions,
    pub status: Status,
    pub clock: Clock,
    /// Which of the lanes this one is, from 0.
    pub index: u16,
}

/// One lane of a consumer.
pub(crate) struct Lane<F> {
    parts: LaneParts<F>,
    applier: Applier<F>,
    part: Part,
    meters: FoldMeters,
}

/// Why an era ended.
enum End {
    /// The process is asked to stop.
    Shutdown,
    /// Other partitions are owned now.
    Ownership,
    /// The cursors in memory may be wrong.
    Doubt(String),
    /// The consumer is stopped, or partitions stand still, until a person acts.
    Stopped,
}

impl<F: Fold> Lane<F> {
    pub fn new(parts: LaneParts<F>) -> Lane<F> {
        let name = format!("fold {}/{}", F::NAME, parts.index);
        Lane {
            applier: Applier {
                db: parts.db.clone(),
                log: parts.log.clone(),
                fold: Arc::clone(&parts.fold),
                sources: parts.logs.iter().map(|(source, _)| Arc::clone(source)).collect(),
                letters_per_minute: parts.options.letters_per_minute,
            },
            part: parts.status.part(name),
            meters: FoldMeters::new(parts.log.source(), F::NAME),
            parts,
        }
    }

    /// Works until `shutdown`; then ends the batch at hand and gives its leases back.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), std::convert::Infallible> {
        let keeper = Keeper::new(
            &self.parts.db,
            F::NAME,
            self.parts.fold.sources(),
            (self.parts.index, self.parts.options.lanes),
            self.parts.options.lease,
            self.part.clone(),
        );
        tokio::select! {
            () = keeper.run() => {}
            () = self.eras(&keeper, &shutdown) => {}
        }
        if let Err(error) = keeper.release().await {
            tracing::warn!(
                consumer = F::NAME,
                error = in_words(&error),
                "leases run out by themselves"
            );
        }
        Ok(())
    }

    async fn eras(&self, keeper: &Keeper, shutdown: &CancellationToken) {
        let backoff = Backoff {
            base: Duration::from_millis(20),
            cap: Duration::from_secs(5),
        };
        let mut owned = keeper.owned();
        let mut doubts = 0;
        loop {
            let now = owned.borrow_and_update().clone();
            let end = if now.is_empty() {
                tokio::select! {
                    () = shutdown.cancelled() => End::Shutdown,
                    _ = owned.changed() => End::Ownership,
                }
            } else {
                match Era::begin(self, now).await {
                    Ok(mut era) => {
                        let end = era.run(&mut owned, shutdown).await;
                        if era.progressed {
                            doubts = 0;
                        }
                        end
                    }
                    Err(error) => End::Doubt(in_words(&error)),
                }
            };
            match end {
                End::Shutdown => return,
                End::Ownership => {}
                End::Stopped => {
                    keeper.look().notify_one();
                    tokio::select! {
                        () = shutdown.cancelled() => return,
                        _ = owned.changed() => {}
                    }
                }
                End::Doubt(reason) => {
                    doubts += 1;
                    tracing::debug!(consumer = F::NAME, reason, "the cursors are read again");
                    if doubts > 1 {
                        self.part.set(Condition::Retrying(reason));
                    }
                    keeper.look().notify_one();
                    tokio::select! {
                        () = shutdown.cancelled() => return,
                        () = tokio::time::sleep(backoff.delay(doubts)) => {}
                    }
                }
            }
        }
    }
}

/// Where a partition of a log is, in memory.
type Place = (usize, u16);

struct Era<'l, F> {
    lane: &'l Lane<F>,
    owned: Owned,
    cursors: HashMap<Place, Cursor>,
    /// Partitions whose events were asked for from the log: live ones that do not fit are dropped meanwhile.
    filling: HashSet<Place>,
    /// Partitions that stand still because the producer's history forked.
    forked: HashSet<Place>,
    fills: Vec<Arc<Fills>>,
    feeders: JoinSet<()>,
    inputs: mpsc::Receiver<Input>,
    pending: VecDeque<Input>,
    progressed: bool,
}

impl<'l, F: Fold> Era<'l, F> {
    async fn begin(lane: &'l Lane<F>, owned: Owned) -> Result<Era<'l, F>, StoreError> {
        let parts = &lane.parts;
        let partitions: Vec<u16> = owned.keys().copied().collect();
        let rows = sql::cursors(parts.db.pool(), F::NAME, parts.fold.sources(), &partitions).await?;
        let mut cursors = HashMap::new();
        for row in rows {
            let index = parts.logs.iter().position(|(source, _)| **source == *row.source);
            // A row of another epoch belongs to another owner by now; the keeper will notice.
            if let (Some(index), Some(epoch)) = (index, owned.get(&row.vpartition))
                && *epoch == row.epoch
            {
                cursors.insert((index, row.vpartition), row.cursor);
            }
        }
        let (sender, inputs) = mpsc::channel(1024);
        let mut feeders = JoinSet::new();
        let mut fills = Vec::new();
        for (index, (source, log)) in parts.logs.iter().enumerate() {
            let asked = Arc::new(Fills::default());
            let feeder = Feeder {
                index,
                source: Arc::clone(source),
                log: log.clone(),
                nats: parts.nats.clone(),
                partitions: (partitions.len() < usize::from(PARTITIONS)).then(|| partitions.clone()),
                options: parts.options.clone(),
                part: parts
                    .status
                    .part(format!("fold {}/{} {source}", F::NAME, parts.index)),
                lane: sender.clone(),
                fills: Arc::clone(&asked),
                budget: Arc::new(Semaphore::new(budget(parts.options.batch_bytes))),
                todo: Default::default(),
                failures: 0,
                retry_at: None,
            };
            feeders.spawn(feeder.run());
            fills.push(asked);
        }
        lane.part.set(Condition::Working);
        Ok(Era {
            lane,
            owned,
            cursors,
            filling: HashSet::new(),
            forked: HashSet::new(),
            fills,
            feeders,
            inputs,
            pending: VecDeque::new(),
            progressed: false,
        })
    }

    async fn run(&mut self, owned: &mut watch::Receiver<Owned>, shutdown: &CancellationToken) -> End {
        let most = self.lane.parts.options.batch_events.max(1);
        let mut arrived = Vec::with_capacity(most);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return End::Shutdown,
                _ = owned.changed() => return End::Ownership,
                _ = self.feeders.join_next() => return End::Doubt("a feeder ended".to_owned()),
                // All that has come since the last batch makes the next one.
                _ = self.inputs.recv_many(&mut arrived, most) => self.pending.extend(arrived.drain(..)),
            }
            while !self.pending.is_empty() {
                let batch = self.next_batch();
                if batch.is_empty() {
                    continue;
                }
                // Who no longer owns need not finish: it could not commit.
                let settled = tokio::select! {
                    settled = self.settle(batch, shutdown) => settled,
                    _ = owned.changed() => Err(End::Ownership),
                };
                if let Err(end) = settled {
                    return end;
                }
                if shutdown.is_cancelled() {
                    return End::Shutdown;
                }
            }
        }
    }

    /// Takes inputs until the batch is full or there are no more.
    fn next_batch(&mut self) -> Vec<(usize, Event)> {
        let options = &self.lane.parts.options;
        let (most, most_bytes) = (options.batch_events.max(1), options.batch_bytes);
        // Where the cursors will be when the batch is applied.
        let mut ahead: HashMap<Place, Cursor> = HashMap::new();
        let mut batch = Vec::new();
        let mut bytes = 0;
        while batch.len() < most && bytes < most_bytes {
            let Some(input) = self.pending.pop_front() else {
                break;
            };
            match input {
                Input::Event {
                    source,
                    event,
                    complete,
                    ..
                } => {
                    let place = (source, event.vpartition);
                    let Some(cursor) = ahead.get(&place).or_else(|| self.cursors.get(&place)).copied() else {
                        continue;
                    };
                    if self.decide(place, cursor, &event, complete) {
                        let mut next = cursor;
                        next.take(event.position, event.event_id.uuid());
                        ahead.insert(place, next);
                        bytes += event.weight();
                        batch.push((source, event));
                    }
                }
                Input::Behind { source } => {
                    for partition in self.owned.clone().into_keys() {
                        self.filling.remove(&(source, partition));
                        self.fill((source, partition), &ahead);
                    }
                }
                Input::CaughtUp { source, partitions } => {
                    for partition in partitions {
                        self.filling.remove(&(source, partition));
                    }
                }
                Input::Heads { source, heads } => self.compare(source, &heads, &ahead),
            }
        }
        batch
    }

    /// Whether an event is the next one of its partition. What is missing is asked for.
    fn decide(&mut self, place: Place, cursor: Cursor, event: &Event, complete: bool) -> bool {
        match cursor.decide(event.prev, event.position) {
            Decision::Apply if complete => !self.forked.contains(&place),
            Decision::Skip => false,
            Decision::Apply | Decision::Gap => {
                if !self.filling.contains(&place) {
                    if complete {
                        self.lane.meters.gap();
                    }
                    self.fill_from(place, cursor);
                }
                false
            }
            Decision::Fork => {
                if self.forked.insert(place) {
                    let source = &self.lane.parts.logs[place.0].0;
                    self.lane.part.set(Condition::HistoryDiffers(format!(
                        "virtual partition {} of {source}: event {} follows {}, but {} was applied last; {source} lost \
                         events that this consumer has applied",
                        place.1, event.position, event.prev, cursor.position
                    )));
                }
                false
            }
        }
    }

    fn compare(&mut self, source: usize, heads: &[(u16, crate::Position)], ahead: &HashMap<Place, Cursor>) {
        for (partition, head) in heads {
            let place = (source, *partition);
            let cursor = ahead.get(&place).or_else(|| self.cursors.get(&place));
            if cursor.is_some_and(|cursor| cursor.position < *head) && !self.filling.contains(&place) {
                self.lane.meters.gap();
                self.fill(place, ahead);
            }
        }
    }

    fn fill(&mut self, place: Place, ahead: &HashMap<Place, Cursor>) {
        if let Some(cursor) = ahead.get(&place).or_else(|| self.cursors.get(&place)).copied() {
            self.fill_from(place, cursor);
        }
    }

    fn fill_from(&mut self, place: Place, cursor: Cursor) {
        if !self.forked.contains(&place) && self.filling.insert(place) {
            self.fills[place.0].ask(place.1, cursor.position);
        }
    }

    /// Applies events, all at once if it goes; in smaller and smaller steps if it does not.
    async fn settle(&mut self, batch: Vec<(usize, Event)>, shutdown: &CancellationToken) -> Result<(), End> {
        let backoff = Backoff {
            base: Duration::from_millis(50),
            cap: Duration::from_secs(5),
        };
        let (sources, events): (Vec<usize>, Vec<Event>) = batch.into_iter().unzip();
        let mut done = 0;
        let mut step = events.len();
        let mut failures = 0;
        while done < events.len() {
            let end = (done + step).min(events.len());
            let (moves, after) = self.moves(&sources[done..end], &events[done..end]);
            let now = &events[done..end];
            let isolate = step == 1 && failures >= REFUSED_TRIES;
            let applying = async {
                match moves.as_slice() {
                    [only] if isolate => self.lane.applier.single(only, &now[0]).await,
                    _ => self.lane.applier.batch(&moves, now).await,
                }
            };
            let Ok(applied) = tokio::time::timeout(BATCH_DEADLINE, applying).await else {
                return Err(End::Doubt(format!(
                    "a batch did not end within {} s",
                    BATCH_DEADLINE.as_secs()
                )));
            };
            match applied {
                Ok(tally) => {
                    self.cursors.extend(after);
                    self.report(now, tally);
                    done = end;
                    step = (step * 2).min(events.len());
                    failures = 0;
                }
                Err(ApplyError::Lost) => {
                    return Err(End::Doubt("a cursor has another owner or place".to_owned()));
                }
                Err(ApplyError::TooManyLetters(reason)) => return Err(self.stop(reason).await),
                Err(ApplyError::Fold(FoldError::Store(error))) if !error.is_certainly_aborted() => {
                    return Err(End::Doubt(in_words(&error)));
                }
                Err(ApplyError::Fold(error)) => {
                    failures = if step > 1 { 0 } else { failures + 1 };
                    match error {
                        // Find the event that is at fault.
                        FoldError::Poison(_) if !isolate => {
                            failures = if step > 1 { 0 } else { REFUSED_TRIES };
                            step = 1;
                            continue;
                        }
                        error if error.is_refused_data() && !isolate => step = 1,
                        error => {
                            self.lane.part.set(Condition::Retrying(in_words(&error)));
                            step = (step / 2).max(1);
                        }
                    }
                    tokio::select! {
                        () = shutdown.cancelled() => return Err(End::Shutdown),
                        () = tokio::time::sleep(backoff.delay(failures.max(1))) => {}
                    }
                }
            }
        }
        Ok(())
    }

    /// The steps of the cursors over some events, and where they are then.
    fn moves(&self, sources: &[usize], events: &[Event]) -> (Vec<sql::Move>, HashMap<Place, Cursor>) {
        let mut after: HashMap<Place, Cursor> = HashMap::new();
        for (source, event) in sources.iter().zip(events) {
            let place = (*source, event.vpartition);
            let cursor = after
                .entry(place)
                .or_insert_with(|| self.cursors.get(&place).copied().unwrap_or_default());
            cursor.take(event.position, event.event_id.uuid());
        }
        let moves = after
            .iter()
            .map(|(place, to)| sql::Move {
                source: self.lane.parts.logs[place.0].0.to_string(),
                vpartition: place.1,
                epoch: self.owned.get(&place.1).copied().unwrap_or_default(),
                from: self.cursors.get(place).copied().unwrap_or_default().position,
                to: *to,
            })
            .collect();
        (moves, after)
    }

    fn report(&mut self, events: &[Event], tally: Tally) {
        self.progressed = true;
        if self.forked.is_empty() {
            self.lane.part.set(Condition::Working);
        }
        let meters = &self.lane.meters;
        meters.count(Outcome::Applied, tally.applied);
        meters.count(Outcome::Waiting, tally.waiting);
        meters.count(Outcome::Parked, tally.parked);
        meters.count(Outcome::Letter, tally.letters);
        meters.count(Outcome::UnknownType, tally.unknown_type);
        if let Some(youngest) = events.iter().map(|event| event.occurred_at).max() {
            let lag = self.lane.parts.clock.now() - youngest;
            meters.batch(events.len(), lag.as_seconds_f64().max(0.0));
        }
    }

    async fn stop(&self, reason: String) -> End {
        self.lane.part.set(Condition::Stopped(reason.clone()));
        match sql::stop(self.lane.parts.db.pool(), F::NAME, &reason).await {
            Ok(()) => End::Stopped,
            Err(error) => End::Doubt(in_words(&error)),
        }
    }
}
