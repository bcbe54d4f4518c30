//! Repair of a blocked key: its kept events take effect in their order, by the rules of a live batch.
//!
//! The caller holds the cursor rows of the key's partition, so nobody else applies events of this key meanwhile, be it the
//! owner of the partition or another repair, in this process or another. That is also why each event takes effect once:
//! its row goes in the transaction of its effects.
//!
//! What is left of a key that is still blocked always begins with a letter, also when the process dies between two
//! transactions of a long repair.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use prost::Message as _;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use tracing::Span;
use uuid::Uuid;
use waybill_proto::waybill::events::v1::LoggedEvent;
use waybill_store::Tx;
use waybill_store::error::StoreError;

use super::apply::{Applier, kept};
use super::{Fold, FoldError};
use crate::event::Event;
use crate::gate::{Arrival, Plan, plan};
use crate::reader::SourceLog;
use crate::relay::in_words;
use crate::store::fold as sql;
use crate::store::repair::{self, KeptRow, LetterRow};

/// The most bytes of events in a transaction, unless one event has more.
const STEP_BYTES: i64 = 4 * 1024 * 1024;

/// The reason of a letter that nobody has tried yet.
const GOING_ON: &str = "a repair of this key ended before this event; retry the key";

/// What one transaction of a repair did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Repaired {
    /// Events that took effect.
    pub applied: usize,
    /// Events that wait now for their key to be opened.
    pub waiting: usize,
    /// The letter that blocks the key, if one failed.
    pub letter: Option<LetterRow>,
    /// Whether more events are kept, which the next transaction is to take.
    pub more: bool,
}

/// A consumer without its type: what commands need of it.
pub(crate) trait Operated: Send + Sync {
    /// The consumer's name.
    fn name(&self) -> &'static str;

    /// The logs it follows; none where the way to one is not known.
    fn logs(&self) -> &[(Arc<str>, Option<SourceLog>)];

    /// The names of the logs it follows.
    fn sources(&self) -> &'static [&'static str];

    /// The tables that can be rebuilt.
    fn tables(&self) -> &'static [&'static str];

    /// Whether the consumer does anything with an event.
    fn handles(&self, event: &Event) -> bool;

    /// An event that is kept, read back.
    fn read_back(&self, row: sql::WaitingRow) -> Result<Event, StoreError>;

    /// Lets `project` alone take events into the tables that the connection's search path shows first, and what was held
    /// of `keys`. `live` is the quoted schema of the live tables. Returns how many took effect.
    fn project_again<'a>(
        &'a self,
        conn: &'a mut PgConnection,
        live: &'a str,
        events: &'a [Event],
        keys: &'a [Uuid],
    ) -> BoxFuture<'a, Result<usize, FoldError>>;

    /// Applies the first kept events of a key, at most `most`. The caller holds the cursor rows.
    fn repair<'a>(
        &'a self,
        tx: &'a mut Tx,
        key: Uuid,
        most: usize,
    ) -> BoxFuture<'a, Result<Repaired, FoldError>>;
}

/// A consumer as commands see it.
pub(crate) struct Mender<F> {
    pub applier: Applier<F>,
    pub logs: Vec<(Arc<str>, Option<SourceLog>)>,
}

impl<F: Fold> Operated for Mender<F> {
    fn name(&self) -> &'static str {
        F::NAME
    }

    fn logs(&self) -> &[(Arc<str>, Option<SourceLog>)] {
        &self.logs
    }

    fn sources(&self) -> &'static [&'static str] {
        self.applier.fold.sources()
    }

    fn tables(&self) -> &'static [&'static str] {
        self.applier.fold.tables()
    }

    fn handles(&self, event: &Event) -> bool {
        self.applier.fold.handles(event)
    }

    fn read_back(&self, row: sql::WaitingRow) -> Result<Event, StoreError> {
        Ok(self.applier.waiting(row)?.event)
    }

    fn project_again<'a>(
        &'a self,
        conn: &'a mut PgConnection,
        live: &'a str,
        events: &'a [Event],
        keys: &'a [Uuid],
    ) -> BoxFuture<'a, Result<usize, FoldError>> {
        Box::pin(self.applier.project_again(conn, live, events, keys))
    }

    fn repair<'a>(
        &'a self,
        tx: &'a mut Tx,
        key: Uuid,
        most: usize,
    ) -> BoxFuture<'a, Result<Repaired, FoldError>> {
        Box::pin(self.applier.repair(tx, key, most))
    }
}

/// Where an event of the plan was kept.
enum Kind {
    /// Among the dead letters, in this row.
    Kept(i64),
    /// Among the waiting.
    Waiting,
}

impl<F: Fold> Applier<F> {
    async fn repair(&self, tx: &mut Tx, key: Uuid, most: usize) -> Result<Repaired, FoldError> {
        let most = i64::try_from(most.max(1)).unwrap_or(i64::MAX);
        let rows = repair::first(tx.conn(), F::NAME, key, most, STEP_BYTES).await?;
        let ids: Vec<i64> = rows.iter().map(|row| row.letter.id).collect();
        let mut at: HashMap<Uuid, i64> = rows
            .iter()
            .map(|row| (row.letter.event_id, row.letter.id))
            .collect();
        let mut plan = self.plan_repair(tx, key, rows).await?;
        if !plan.wait.is_empty() {
            let waiting: Vec<_> = plan.wait.iter().map(kept).collect();
            sql::wait(tx.conn(), F::NAME, &waiting).await?;
        }
        let spans = self.spans(&mut plan.apply);
        let kinds: Vec<Kind> = plan
            .apply
            .iter()
            .map(|event| {
                at.remove(&event.event_id.uuid())
                    .map_or(Kind::Waiting, Kind::Kept)
            })
            .collect();
        let (applied, fault) = self.apply_in_order(tx, &plan.apply, &spans).await?;
        let mut repaired = Repaired {
            applied,
            waiting: plan.wait.len(),
            ..Repaired::default()
        };
        // What is left of the rows: those that were not applied. The rest took effect, waits, or is of an unknown type.
        let left: HashSet<i64> = kinds[applied..]
            .iter()
            .filter_map(|kind| match kind {
                Kind::Kept(row) => Some(*row),
                Kind::Waiting => None,
            })
            .collect();
        let done: Vec<i64> = ids.into_iter().filter(|row| !left.contains(row)).collect();
        repair::forget(tx.conn(), &done).await?;
        // An event that waited goes on waiting when the one that opens its key failed.
        let opened = kinds
            .iter()
            .take(applied + 1)
            .any(|kind| matches!(kind, Kind::Waiting));
        if opened {
            sql::stop_waiting(tx.conn(), &plan.released).await?;
        }
        match fault {
            Some(error) => {
                let letter = self.block(tx, key, &plan.apply, &kinds, applied, &error).await?;
                repaired.letter = Some(letter);
            }
            None => repaired.more = repair::promote(tx.conn(), F::NAME, key, GOING_ON).await?,
        }
        Ok(repaired)
    }

    /// What takes effect and what waits, by the rule of a live batch.
    async fn plan_repair(
        &self,
        tx: &mut Tx,
        key: Uuid,
        rows: Vec<KeptRow>,
    ) -> Result<Plan<Event>, FoldError> {
        let mut arrivals = Vec::with_capacity(rows.len());
        for row in rows {
            let logged = LoggedEvent::decode(row.event.as_slice()).map_err(StoreError::decode)?;
            let event =
                Event::from_logged(&self.source(&row.letter.source), logged).map_err(StoreError::decode)?;
            if self.fold.handles(&event) {
                arrivals.push(Arrival {
                    key,
                    opens: self.fold.opens(&event),
                    needs_opening: self.fold.needs_opening(&event),
                    event,
                });
            }
        }
        let (waiting, _) = sql::obstacles(tx.conn(), F::NAME, &[key]).await?;
        let waiting = waiting
            .into_iter()
            .map(|row| self.waiting(row))
            .collect::<Result<Vec<_>, _>>()?;
        let doubtful = arrivals
            .iter()
            .any(|arrival| arrival.needs_opening && !arrival.opens);
        let known = if doubtful {
            self.fold.known(tx.conn(), &[key]).await?
        } else {
            HashSet::new()
        };
        Ok(plan(arrivals, known, &HashSet::new(), waiting))
    }

    /// Applies events all at once; if that fails one by one, up to the first that fails. Returns how many took effect and
    /// what was wrong with the next.
    async fn apply_in_order(
        &self,
        tx: &mut Tx,
        events: &[Event],
        spans: &[Span],
    ) -> Result<(usize, Option<FoldError>), FoldError> {
        if events.len() > 1 && self.apply_under_savepoint(tx, events, spans).await?.is_none() {
            return Ok((events.len(), None));
        }
        for at in 0..events.len() {
            if let Some(fault) = self
                .apply_under_savepoint(tx, &events[at..=at], &spans[at..=at])
                .await?
            {
                return Ok((at, Some(fault)));
            }
        }
        Ok((events.len(), None))
    }

    /// Applies events, or leaves nothing of them and says what is wrong with them. Faults that are not theirs are errors.
    async fn apply_under_savepoint(
        &self,
        tx: &mut Tx,
        events: &[Event],
        spans: &[Span],
    ) -> Result<Option<FoldError>, FoldError> {
        sqlx::query("SAVEPOINT event").execute(tx.conn()).await?;
        match self.effects(tx, events, spans).await {
            Ok(()) => {
                sqlx::query("RELEASE SAVEPOINT event").execute(tx.conn()).await?;
                Ok(None)
            }
            Err(fault) if matches!(fault, FoldError::Poison(_)) || fault.is_refused_data() => {
                sqlx::query("ROLLBACK TO SAVEPOINT event")
                    .execute(tx.conn())
                    .await?;
                Ok(Some(fault))
            }
            Err(error) => Err(error),
        }
    }

    /// Makes the event that failed the letter of its key.
    async fn block(
        &self,
        tx: &mut Tx,
        key: Uuid,
        events: &[Event],
        kinds: &[Kind],
        at: usize,
        error: &FoldError,
    ) -> Result<LetterRow, StoreError> {
        let reason = in_words(error);
        let event = &events[at];
        tracing::warn!(
            consumer = F::NAME,
            source = &*event.source,
            event_id = %event.event_id,
            event_type = event.type_name,
            reason,
            "an event was tried again and still cannot take effect"
        );
        match kinds[at] {
            Kind::Kept(row) => repair::failed(tx.conn(), row, &reason).await,
            Kind::Waiting => {
                // Those that waited stand together; what is kept follows them.
                let waited: Vec<_> = events[at..]
                    .iter()
                    .zip(&kinds[at..])
                    .take_while(|(_, kind)| matches!(kind, Kind::Waiting))
                    .map(|(event, _)| kept(event))
                    .collect();
                repair::put_first(tx.conn(), F::NAME, key, &waited, &reason).await
            }
        }
    }
}
