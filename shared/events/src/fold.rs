//! Consuming events: what a service implements ([`Fold`]) and what it is given to work with.
//!
//! A fold has two halves. `project` keeps tables; it can be run again over the whole log to rebuild them, so its type
//! reaches a connection and nothing else. `react` writes jobs and events of its own. Both run in the transaction that
//! moves the cursors, so each event takes effect exactly once. Neither may call the outside world: it writes a job.

mod again;
mod apply;
mod era;
mod feeder;
mod gauges;
mod lane;
mod lease;
mod repair;
mod report;
mod rewind;
mod seat;
mod share;

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use sqlx::PgConnection;
use uuid::Uuid;
use waybill_kernel::id::EventId;
use waybill_store::Tx;
use waybill_store::jobs::{NewJob, enqueue};

pub use crate::error::FoldError;
use crate::event::{Event, NewEvent};
use crate::log::Log;
use crate::position::Position;

pub(crate) use apply::Applier;
pub(crate) use gauges::{Gauges, LeaseMeters};
pub(crate) use lane::{Lane, LaneParts};
pub(crate) use lease::{Keeper, KeeperParts};
pub(crate) use repair::{Mender, Operated, Repaired};

/// A consumer of logs.
///
/// The events of one key come in the order of each log; across logs nothing is ordered, except that an event waits until
/// its key was opened. A batch may hold events of many keys, merchants and types; unknown types are to be ignored.
pub trait Fold: Send + Sync + 'static {
    /// The consumer's name, part of its cursors for ever: e.g. `fulfillment`.
    const NAME: &'static str;

    /// The services whose logs it follows, e.g. `["order", "refund"]`.
    fn sources(&self) -> &'static [&'static str];

    /// Whether the event makes its key known (`OrderPlaced`).
    fn opens(&self, event: &Event) -> bool;

    /// Whether the event must wait until its key is known. By default every event does.
    fn needs_opening(&self, event: &Event) -> bool {
        let _ = event;
        true
    }

    /// Whether the fold does anything with events of this type. One that it does not know is counted and skipped: it
    /// neither waits nor reaches `project`. By default all are handed on.
    fn handles(&self, event: &Event) -> bool {
        let _ = event;
        true
    }

    /// Which of the keys are known: their opening event has taken effect (or they were fetched from their owner).
    fn known(
        &self,
        conn: &mut PgConnection,
        keys: &[Uuid],
    ) -> impl Future<Output = Result<HashSet<Uuid>, FoldError>> + Send;

    /// Brings tables up to date: set-based, for the whole batch.
    fn project(
        &self,
        projection: &mut Projection<'_>,
        events: &[Event],
    ) -> impl Future<Output = Result<(), FoldError>> + Send;

    /// The tables that `project` writes, when nobody else writes them and `project` writes no others: they can be rebuilt
    /// from the logs. None by default.
    ///
    /// What a rebuild writes must follow from the events alone: `project` uses no clock, no random ids, and no rows of other
    /// tables that change. A key must become known by its opening event only.
    fn tables(&self) -> &'static [&'static str] {
        &[]
    }

    /// Writes jobs and events of its own, after `project`, in the same transaction.
    fn react(
        &self,
        reaction: &mut Reaction<'_>,
        events: &[Event],
    ) -> impl Future<Output = Result<(), FoldError>> + Send;

    /// A producer lost events that had taken effect here. They are listed by the backbone; a fold that can tell what they
    /// did may mark it here, in the transaction that puts the cursor back. By default nothing is done.
    fn rewound(
        &self,
        conn: &mut PgConnection,
        phantoms: &[Phantom],
    ) -> impl Future<Output = Result<(), FoldError>> + Send {
        let _ = (conn, phantoms);
        async { Ok(()) }
    }
}

/// An event that had been taken and that its producer lost; or a range of them, where nobody knows them by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Phantom {
    /// The service whose log lost it.
    pub source: Arc<str>,
    /// Its virtual partition.
    pub vpartition: u16,
    /// Its id; none for a range.
    pub event_id: Option<EventId>,
    /// Full name of the payload's message type; empty for a range.
    pub type_name: String,
    /// What it was ordered by; none for a range.
    pub key: Option<Uuid>,
    /// Where it stood, or the last place of the range.
    pub position: Position,
    /// The place after which the range begins; none for an event.
    pub after: Option<Position>,
    /// How many events: 1, or those of the range.
    pub count: i64,
}

/// What `project` works with: tables.
#[derive(Debug)]
pub struct Projection<'t> {
    conn: &'t mut PgConnection,
}

impl<'t> Projection<'t> {
    /// A projection over a connection that is inside a transaction.
    pub fn new(conn: &'t mut PgConnection) -> Self {
        Projection { conn }
    }

    /// The connection of the batch's transaction.
    pub fn conn(&mut self) -> &mut PgConnection {
        self.conn
    }
}

/// What `react` works with: tables, jobs, events of its own.
///
/// Events and jobs are collected and written after `react` has returned, all events in one statement and all jobs in
/// another, so it is fine to add them one by one in a loop.
#[derive(Debug)]
pub struct Reaction<'t> {
    tx: &'t mut Tx,
    events: Vec<NewEvent>,
    jobs: Vec<NewJob>,
}

impl<'t> Reaction<'t> {
    /// A reaction in a transaction. [`Reaction::write`] must be called in the end.
    pub fn new(tx: &'t mut Tx) -> Self {
        Reaction {
            tx,
            events: Vec::new(),
            jobs: Vec::new(),
        }
    }

    /// The connection of the batch's transaction.
    pub fn conn(&mut self) -> &mut PgConnection {
        self.tx.conn()
    }

    /// The batch's transaction, for use cases that are shared with RPCs.
    pub fn tx(&mut self) -> &mut Tx {
        self.tx
    }

    /// Appends an event to the own log. Give it `caused_by(event)`, so that the trace goes on.
    pub fn append(&mut self, event: NewEvent) {
        self.events.push(event);
    }

    /// Writes a job. Give it the event's `traceparent`, so that the trace goes on.
    pub fn enqueue(&mut self, job: NewJob) {
        self.jobs.push(job);
    }

    /// Writes what was collected.
    ///
    /// # Errors
    ///
    /// As the database answers.
    pub async fn write(mut self, log: &Log) -> Result<(), FoldError> {
        // Nobody asked for it: it is the service that reacts.
        let actor = format!("service:{}", log.source());
        for event in &mut self.events {
            event.default_actor(&actor);
        }
        log.append(self.tx, &self.events).await?;
        if !self.jobs.is_empty() {
            enqueue(self.tx, &self.jobs).await?;
        }
        Ok(())
    }
}

/// How a consumer runs. All of it may be changed at any restart without losing or repeating anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoldOptions {
    /// How many batches are applied at once in this process, each over virtual partitions of its own. Default 1.
    pub lanes: u16,
    /// The most events in a batch. Default 500.
    pub batch_events: usize,
    /// The most bytes in a batch, and that wait in memory per log. Default 4 MiB.
    pub batch_bytes: usize,
    /// How long a lease lasts without being renewed; it is renewed three times as often. Default 15 s.
    pub lease: Duration,
    /// How often an owner compares its cursors with the producers' heads, and tells the producers how far it is.
    /// Default 30 s.
    pub compare_every: Duration,
    /// The same while the stream cannot be read. Default 1 s.
    pub compare_without_stream: Duration,
    /// The dead letters within a minute that a consumer survives. Default 10.
    pub letters_per_minute: i64,
}

impl Default for FoldOptions {
    fn default() -> Self {
        FoldOptions {
            lanes: 1,
            batch_events: 500,
            batch_bytes: 4 * 1024 * 1024,
            lease: Duration::from_secs(15),
            compare_every: Duration::from_secs(30),
            compare_without_stream: Duration::from_secs(1),
            letters_per_minute: 10,
        }
    }
}
