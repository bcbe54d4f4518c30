//! One batch, one transaction: cursor rows first, then what waits and what is parked, then `project`, then `react`.
//!
//! Whatever goes wrong, nothing of the batch is left. Whether to try again, in smaller steps or not at all, is decided
//! by the lane.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use prost::Message as _;
use tracing::{Instrument as _, Span};
use uuid::Uuid;
use waybill_proto::waybill::events::v1::LoggedEvent;
use waybill_runtime::tasks::panic_text;
use waybill_runtime::telemetry;
use waybill_store::error::{RetryClass as _, StoreError};
use waybill_store::{Db, Tx};

use super::{Fold, FoldError, Projection, Reaction};
use crate::event::Event;
use crate::gate::{Arrival, Plan, Waiting, plan};
use crate::history::recover::is_rewound;
use crate::log::Log;
use crate::relay::in_span;
use crate::store::fold as sql;
use sql::{Kept, Move};

/// Why a batch was not applied.
#[derive(Debug)]
pub(super) enum ApplyError {
    /// A cursor is not where this lane thinks it is, or has another owner.
    Lost,
    /// The fold or the database refused.
    Fold(FoldError),
    /// One more dead letter would be too many.
    TooManyLetters(String),
}

impl<E: Into<FoldError>> From<E> for ApplyError {
    fn from(error: E) -> Self {
        ApplyError::Fold(error.into())
    }
}

/// What became of the events of a batch.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tally {
    pub applied: usize,
    pub waiting: usize,
    pub parked: usize,
    pub letters: usize,
    pub unknown_type: usize,
}

pub(crate) struct Applier<F> {
    pub db: Db,
    pub log: Log,
    pub fold: Arc<F>,
    pub sources: Vec<Arc<str>>,
    pub letters_per_minute: i64,
}

impl<F: Fold> Applier<F> {
    /// Applies a batch.
    pub(super) async fn batch(&self, moves: &[Move], events: &[Event]) -> Result<Tally, ApplyError> {
        let mut tx = self.db.begin().await?;
        let applied = self.batch_in(&mut tx, moves, events).await;
        end(tx, applied).await
    }

    async fn batch_in(&self, tx: &mut Tx, moves: &[Move], events: &[Event]) -> Result<Tally, ApplyError> {
        let (mut plan, mut tally) = self.enter(tx, moves, events).await?;
        self.keep_back(tx, &plan).await?;
        let spans = self.spans(&mut plan.apply);
        self.effects(tx, &plan.apply, &spans).await?;
        tally.applied = plan.apply.len();
        Ok(tally)
    }

    /// Applies one event, and those that waited for it, each under a savepoint. The first that fails becomes a dead
    /// letter and the others, which are of the same key, are parked behind it.
    pub(super) async fn single(&self, step: &Move, event: &Event) -> Result<Tally, ApplyError> {
        let mut tx = self.db.begin().await?;
        let applied = self.single_in(&mut tx, step, event).await;
        end(tx, applied).await
    }

    async fn single_in(&self, tx: &mut Tx, step: &Move, event: &Event) -> Result<Tally, ApplyError> {
        let (mut plan, mut tally) = self
            .enter(tx, std::slice::from_ref(step), std::slice::from_ref(event))
            .await?;
        self.keep_back(tx, &plan).await?;
        let spans = self.spans(&mut plan.apply);
        let mut left = plan.apply.as_slice();
        while let Some((event, rest)) = left.split_first() {
            sqlx::query("SAVEPOINT event")
                .execute(tx.conn())
                .await
                .map_err(StoreError::from)?;
            let at = plan.apply.len() - left.len();
            match self
                .effects(tx, std::slice::from_ref(event), &spans[at..=at])
                .await
            {
                Ok(()) => tally.applied += 1,
                Err(error) if matches!(error, FoldError::Poison(_)) || error.is_refused_data() => {
                    sqlx::query("ROLLBACK TO SAVEPOINT event")
                        .execute(tx.conn())
                        .await
                        .map_err(StoreError::from)?;
                    self.bury(tx, event, rest, &error).await?;
                    tally.letters = 1;
                    tally.parked += rest.len();
                    break;
                }
                Err(error) => return Err(error.into()),
            }
            left = rest;
        }
        Ok(tally)
    }

    async fn bury(
        &self,
        tx: &mut Tx,
        event: &Event,
        behind: &[Event],
        error: &FoldError,
    ) -> Result<(), ApplyError> {
        let reason = crate::relay::in_words(error);
        let letters = sql::bury(tx.conn(), F::NAME, &[kept(event)], Some(&reason)).await?;
        if letters > self.letters_per_minute {
            return Err(ApplyError::TooManyLetters(format!(
                "more than {} dead letters within a minute; the last: {} {}: {reason}",
                self.letters_per_minute, event.type_name, event.event_id
            )));
        }
        if !behind.is_empty() {
            sql::bury(
                tx.conn(),
                F::NAME,
                &behind.iter().map(kept).collect::<Vec<_>>(),
                None,
            )
            .await?;
        }
        tracing::error!(
            consumer = F::NAME,
            source = &*event.source,
            event_id = %event.event_id,
            event_type = event.type_name,
            position = %event.position,
            reason,
            "an event cannot take effect and became a dead letter"
        );
        Ok(())
    }

    /// Moves the cursors and plans the batch.
    async fn enter(
        &self,
        tx: &mut Tx,
        moves: &[Move],
        events: &[Event],
    ) -> Result<(Plan<Event>, Tally), ApplyError> {
        if !sql::advance(tx.conn(), F::NAME, moves).await? {
            return Err(ApplyError::Lost);
        }
        let mut tally = Tally::default();
        let mut arrivals = Vec::with_capacity(events.len());
        // What a recovery tells is the backbone's own.
        for event in events.iter().filter(|event| !is_rewound(event)) {
            if self.fold.handles(event) {
                arrivals.push(Arrival {
                    key: event.key,
                    opens: self.fold.opens(event),
                    needs_opening: self.fold.needs_opening(event),
                    event: event.clone(),
                });
            } else {
                tally.unknown_type += 1;
            }
        }
        if arrivals.is_empty() {
            return Ok((Plan::default(), tally));
        }
        let keys: HashSet<Uuid> = arrivals.iter().map(|arrival| arrival.key).collect();
        let (rows, blocked) = sql::obstacles(tx.conn(), F::NAME, &Vec::from_iter(keys)).await?;
        let waiting = rows
            .into_iter()
            .map(|row| self.waiting(row))
            .collect::<Result<Vec<_>, _>>()?;
        let doubtful: HashSet<Uuid> = arrivals
            .iter()
            .filter(|arrival| arrival.needs_opening && !arrival.opens && !blocked.contains(&arrival.key))
            .map(|arrival| arrival.key)
            .collect();
        let known = if doubtful.is_empty() {
            HashSet::new()
        } else {
            self.fold.known(tx.conn(), &Vec::from_iter(doubtful)).await?
        };
        let plan = plan(arrivals, known, &blocked, waiting);
        tally.waiting = plan.wait.len();
        tally.parked = plan.park.len();
        Ok((plan, tally))
    }

    /// The name of a log, shared with all its events.
    pub fn source(&self, name: &str) -> Arc<str> {
        let known = self.sources.iter().find(|source| ***source == *name);
        known.cloned().unwrap_or_else(|| Arc::from(name))
    }

    pub fn waiting(&self, row: sql::WaitingRow) -> Result<Waiting<Event>, StoreError> {
        let source = self.source(&row.source);
        let logged = LoggedEvent::decode(row.event.as_slice()).map_err(StoreError::decode)?;
        let event = Event::from_logged(&source, logged).map_err(StoreError::decode)?;
        Ok(Waiting {
            row: row.id,
            key: row.key,
            event,
        })
    }

    async fn keep_back(&self, tx: &mut Tx, plan: &Plan<Event>) -> Result<(), StoreError> {
        if !plan.released.is_empty() {
            sql::stop_waiting(tx.conn(), &plan.released).await?;
        }
        if !plan.wait.is_empty() {
            sql::wait(
                tx.conn(),
                F::NAME,
                &plan.wait.iter().map(kept).collect::<Vec<_>>(),
            )
            .await?;
        }
        if !plan.park.is_empty() {
            sql::bury(
                tx.conn(),
                F::NAME,
                &plan.park.iter().map(kept).collect::<Vec<_>>(),
                None,
            )
            .await?;
        }
        Ok(())
    }

    /// `project` and `react`. A panic of the fold is a fault of the event: the same bytes would panic again.
    pub async fn effects(&self, tx: &mut Tx, events: &[Event], spans: &[Span]) -> Result<(), FoldError> {
        if events.is_empty() {
            return Ok(());
        }
        let span = match spans {
            [one] => one.clone(),
            _ => Span::current(),
        };
        let effects = async {
            self.fold.project(&mut Projection::new(tx.conn()), events).await?;
            let mut reaction = Reaction::new(tx);
            self.fold.react(&mut reaction, events).await?;
            reaction.write(&self.log).await
        };
        unharmed(effects.instrument(span)).await
    }

    /// A span per event, child of the span that published it. From here on it is what the event's effects follow from.
    pub fn spans(&self, events: &mut [Event]) -> Vec<Span> {
        events
            .iter_mut()
            .map(|event| {
                let Some(parent) = event.traceparent.as_deref().filter(|text| text.ends_with("01")) else {
                    return Span::none();
                };
                let span = tracing::info_span!(
                    "process",
                    otel.name = format!("process {}", event.short_type()),
                    otel.kind = "consumer",
                    messaging.system = "nats",
                    messaging.operation.type = "process",
                    messaging.message.id = %event.event_id,
                    waybill.service = &**self.log.source(),
                    waybill.consumer = F::NAME,
                );
                telemetry::set_parent(&span, parent);
                if let Some(traceparent) = in_span(&span) {
                    event.traceparent = Some(traceparent);
                }
                span
            })
            .collect()
    }
}

/// Commits what was applied, or nothing of it.
async fn end(tx: Tx, applied: Result<Tally, ApplyError>) -> Result<Tally, ApplyError> {
    match applied {
        Ok(tally) => {
            tx.commit().await?;
            Ok(tally)
        }
        Err(error) => {
            let refused = match &error {
                ApplyError::Fold(error) => error.store_error(),
                ApplyError::Lost | ApplyError::TooManyLetters(_) => None,
            };
            tx.give_up(refused).await;
            Err(error)
        }
    }
}

/// What a fold answers; a panic is its answer that the event is at fault.
pub(super) async fn unharmed(work: impl Future<Output = Result<(), FoldError>>) -> Result<(), FoldError> {
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(done) => done,
        Err(panic) => Err(FoldError::Poison(format!(
            "the fold panicked: {}",
            panic_text(panic.as_ref())
        ))),
    }
}

pub(super) fn kept(event: &Event) -> Kept {
    Kept {
        key: event.key,
        source: event.source.to_string(),
        vpartition: event.vpartition,
        event_id: event.event_id.uuid(),
        type_name: event.type_name.clone(),
        bytes: event.to_logged().encode_to_vec(),
    }
}
