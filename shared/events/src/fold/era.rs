//! An era of a lane: takes what the feeders bring, decides by the cursors in memory, applies in batches.
//!
//! It ends, rather than repair itself, whenever the database says something else than its memory.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use waybill_kernel::partition::PARTITIONS;
use waybill_store::Backoff;
use waybill_store::error::StoreError;

use super::apply::{ApplyError, Tally};
use super::feeder::{Comparer, Feeder, Fills, Input, budget};
use super::lane::{End, Lane};
use super::lease::Owned;
use super::report::Reporter;
use super::rewind::{self, Rewind};
use super::seat::State;
use super::{Fold, FoldError};
use crate::cursor::{Cursor, Decision};
use crate::event::Event;
use crate::metrics::Outcome;
use crate::position::Position;
use crate::relay::in_words;
use crate::status::Condition;
use crate::store::fold as sql;

/// How often an event that the database refuses is tried before it counts as the event's own fault.
const REFUSED_TRIES: u32 = 3;

/// How long to wait before a log is read again that did not have what its stream has shown.
const SHORT_LOG_PAUSE: Duration = Duration::from_millis(500);

/// How long a batch may take. The database ends a transaction long before; this ends a fold that waits for something
/// else.
const BATCH_DEADLINE: Duration = Duration::from_secs(30);

/// Where a partition of a log is, in memory.
type Place = (usize, u16);

pub(super) struct Era<'l, F> {
    lane: &'l Lane<F>,
    owned: Owned,
    cursors: HashMap<Place, Cursor>,
    /// Partitions whose events were asked for from the log, and the furthest live event that was dropped meanwhile
    /// because it did not fit.
    filling: HashMap<Place, Position>,
    /// Partitions that stand still because the producer's history forked, and what there is to say about it.
    forked: HashMap<Place, String>,
    fills: Vec<Arc<Fills>>,
    feeders: JoinSet<()>,
    inputs: mpsc::Receiver<Input>,
    pending: VecDeque<Input>,
    /// Whether anything was applied.
    pub progressed: bool,
}

impl<'l, F: Fold> Era<'l, F> {
    pub async fn begin(lane: &'l Lane<F>, owned: Owned) -> Result<Era<'l, F>, StoreError> {
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
            let (live, is_live) = watch::channel(false);
            let comparer = Comparer {
                index,
                log: log.clone(),
                options: parts.options.clone(),
                lane: sender.clone(),
                live: is_live,
            };
            feeders.spawn(comparer.run());
            let reporter = Reporter {
                source: Arc::clone(source),
                log: log.clone(),
                db: parts.db.clone(),
                consumer: F::NAME,
                partitions: partitions.clone(),
                every: parts.options.compare_every,
            };
            feeders.spawn(reporter.run());
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
                live,
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
            filling: HashMap::new(),
            forked: HashMap::new(),
            fills,
            feeders,
            inputs,
            pending: VecDeque::new(),
            progressed: false,
        })
    }

    pub async fn run(&mut self, changes: &mut watch::Receiver<State>, shutdown: &CancellationToken) -> End {
        let most = self.lane.parts.options.batch_events.max(1);
        let mut arrived = Vec::with_capacity(most);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return End::Shutdown,
                _ = changes.changed() => return End::Ownership,
                _ = self.feeders.join_next() => return End::Doubt("a feeder ended".to_owned()),
                // All that has come since the last batch makes the next one.
                _ = self.inputs.recv_many(&mut arrived, most) => self.pending.extend(arrived.drain(..)),
            }
            // As often as with the producers' heads: an idle owner would not notice otherwise that its own schema was put back.
            let compares = self
                .pending
                .iter()
                .any(|input| matches!(input, Input::Heads { .. }));
            if compares && !self.cursors_stand().await {
                return End::Doubt("the cursors are not where they were left".to_owned());
            }
            while !self.pending.is_empty() {
                if let Some((place, rewind)) = self.next_rewind(&HashMap::new())
                    && let Err(end) = self.go_back(place, &rewind).await
                {
                    return end;
                }
                let batch = self.next_batch();
                if batch.is_empty() {
                    continue;
                }
                // A batch is ended before partitions are given back; one of a lost lease cannot commit.
                if let Err(end) = self.settle(batch, changes, shutdown).await {
                    return end;
                }
                if shutdown.is_cancelled() {
                    return End::Shutdown;
                }
                if changes.has_changed().unwrap_or(true) {
                    return End::Ownership;
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
            // What comes before it must be applied first.
            if self.next_rewind(&ahead).is_some() {
                break;
            }
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
                        self.caught_up((source, partition), &ahead);
                    }
                }
                Input::Heads { source, heads } => self.compare(source, &heads, &ahead),
            }
        }
        batch
    }

    /// Whether the cursors in the database are those in memory. What cannot be asked now is asked again next time.
    async fn cursors_stand(&self) -> bool {
        let parts = &self.lane.parts;
        let partitions: Vec<u16> = self.owned.keys().copied().collect();
        let Ok(rows) = sql::cursors(parts.db.pool(), F::NAME, parts.fold.sources(), &partitions).await else {
            return true;
        };
        let stands = |row: &sql::CursorRow| {
            let index = parts.logs.iter().position(|(source, _)| **source == *row.source);
            let known = index.and_then(|index| self.cursors.get(&(index, row.vpartition)));
            // A row of another epoch belongs to another owner by now; the keeper will notice.
            self.owned.get(&row.vpartition) != Some(&row.epoch)
                || known.is_none_or(|cursor| cursor.position == row.cursor.position)
        };
        rows.iter().all(stands)
    }

    /// Whether the next input tells that a log was rewound, so that a cursor has to go back.
    fn next_rewind(&self, ahead: &HashMap<Place, Cursor>) -> Option<(Place, Rewind)> {
        let Some(Input::Event {
            source,
            event,
            complete,
            ..
        }) = self.pending.front()
        else {
            return None;
        };
        let place = (*source, event.vpartition);
        let cursor = ahead.get(&place).or_else(|| self.cursors.get(&place))?;
        Some((place, rewind::wanted(cursor, event, *complete)?))
    }

    /// Puts a cursor back to what survived and lists what was applied beyond. The event that tells of it is decided about
    /// again afterwards, like any other.
    async fn go_back(&mut self, place: Place, rewind: &Rewind) -> Result<(), End> {
        let parts = &self.lane.parts;
        let (source, log) = &parts.logs[place.0];
        let epoch = self.owned.get(&place.1).copied().unwrap_or_default();
        let applying = async {
            let phantoms = rewind
                .phantoms(log, source, place.1)
                .await
                .map_err(|error| End::Doubt(in_words(&error)))?;
            rewind
                .apply(&parts.db, &*parts.fold, (source, place.1, epoch), &phantoms)
                .await
                .map_err(|error| End::Doubt(format!("a cursor could not be put back: {error:?}")))?;
            Ok(phantoms.iter().map(|phantom| phantom.count).sum::<i64>())
        };
        let Ok(listed) = tokio::time::timeout(BATCH_DEADLINE, applying).await else {
            return Err(End::Doubt("a cursor was not put back in time".to_owned()));
        };
        let listed = listed?;
        tracing::error!(
            consumer = F::NAME,
            source = &**source,
            partition = place.1,
            from = %rewind.from.position,
            to = %rewind.to.position,
            phantoms = listed,
            "the producer lost events that this consumer had applied; they are listed, and it goes on from what survived"
        );
        self.cursors.insert(place, rewind.to);
        self.filling.remove(&place);
        self.forked.remove(&place);
        self.progressed = true;
        self.say_how_it_is();
        Ok(())
    }

    /// Whether an event is the next one of its partition. What is missing is asked for.
    fn decide(&mut self, place: Place, cursor: Cursor, event: &Event, complete: bool) -> bool {
        match cursor.decide(event.prev, event.position) {
            Decision::Apply if complete => !self.forked.contains_key(&place),
            Decision::Skip => false,
            Decision::Apply | Decision::Gap => {
                if complete && !self.filling.contains_key(&place) {
                    self.lane.meters.gap();
                }
                self.fill_from(place, cursor);
                if let Some(furthest) = self.filling.get_mut(&place) {
                    *furthest = event.position.max(*furthest);
                }
                false
            }
            Decision::Fork => {
                let source = &self.lane.parts.logs[place.0].0;
                self.forked.entry(place).or_insert_with(|| {
                    format!(
                        "virtual partition {} of {source}: event {} follows {}, but {} was applied last; {source} lost \
                         events that this consumer has applied",
                        place.1, event.position, event.prev, cursor.position
                    )
                });
                self.say_how_it_is();
                false
            }
        }
    }

    /// Working, as far as this era knows.
    fn say_how_it_is(&self) {
        self.lane.part.set(match self.forked.values().next() {
            None => Condition::Working,
            Some(reason) => Condition::HistoryDiffers(reason.clone()),
        });
    }

    fn compare(&mut self, source: usize, heads: &[(u16, Position)], ahead: &HashMap<Place, Cursor>) {
        for (partition, head) in heads {
            let place = (source, *partition);
            let cursor = ahead.get(&place).or_else(|| self.cursors.get(&place));
            if let Some(cursor) = cursor
                && self.forked.contains_key(&place)
            {
                // A recovery may have been told of meanwhile.
                self.fills[place.0].ask(place.1, cursor.position);
                continue;
            }
            if cursor.is_some_and(|cursor| cursor.position < *head) && !self.filling.contains_key(&place) {
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
        if !self.forked.contains_key(&place) && !self.filling.contains_key(&place) {
            self.filling.insert(place, Position::ZERO);
            self.fills[place.0].ask(place.1, cursor.position);
        }
    }

    /// The log was read to its end. If it ends before an event that the stream has shown, it is read again later.
    fn caught_up(&mut self, place: Place, ahead: &HashMap<Place, Cursor>) {
        let (Some(furthest), Some(cursor)) = (
            self.filling.remove(&place),
            ahead.get(&place).or_else(|| self.cursors.get(&place)),
        ) else {
            return;
        };
        if cursor.position < furthest && !self.forked.contains_key(&place) {
            let (fills, after) = (Arc::clone(&self.fills[place.0]), cursor.position);
            self.filling.insert(place, furthest);
            tokio::spawn(async move {
                tokio::time::sleep(SHORT_LOG_PAUSE).await;
                fills.ask(place.1, after);
            });
        }
    }

    /// Applies events, all at once if it goes; in smaller and smaller steps if it does not.
    async fn settle(
        &mut self,
        batch: Vec<(usize, Event)>,
        changes: &mut watch::Receiver<State>,
        shutdown: &CancellationToken,
    ) -> Result<(), End> {
        let backoff = Backoff {
            base: Duration::from_millis(50),
            cap: Duration::from_secs(5),
        };
        let (sources, events): (Vec<usize>, Vec<Event>) = batch.into_iter().unzip();
        let mut done = 0;
        let mut step = events.len();
        let mut failures = 0;
        // How often the database has refused the data of one event alone. What passes is not counted: an event is given up for
        // itself, not for the weather.
        let mut refused = 0;
        while done < events.len() {
            let end = (done + step).min(events.len());
            let (moves, after) = self.moves(&sources[done..end], &events[done..end]);
            let now = &events[done..end];
            let isolate = step == 1 && refused >= REFUSED_TRIES;
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
                    (failures, refused) = (0, 0);
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
                            refused = if step > 1 { 0 } else { REFUSED_TRIES };
                            step = 1;
                            continue;
                        }
                        error if error.is_refused_data() && !isolate => {
                            refused = if step > 1 { 0 } else { refused + 1 };
                            step = 1;
                        }
                        error => {
                            self.lane.part.set(Condition::Retrying(in_words(&error)));
                            step = (step / 2).max(1);
                        }
                    }
                    tokio::select! {
                        () = shutdown.cancelled() => return Err(End::Shutdown),
                        _ = changes.changed() => return Err(End::Ownership),
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
        self.say_how_it_is();
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
