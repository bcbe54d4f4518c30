//! Jobs: effects on the outside world, decided in a transaction and carried out after it.
//!
//! [`enqueue`] writes a job in the transaction that decides on it; a [`JobRunner`] takes it under a lease by the
//! database's clock and hands it to a [`JobHandler`]. A job is handed out *at least* once: a runner that dies, or loses
//! the database, loses its lease and another takes over. What must not happen twice outside is the handler's care: it
//! commits its intent and the provider's idempotency key before the call, and lets [`Job::deadline`] bound the call. What
//! must not happen twice inside is ours: only the latest taker can settle a job ([`Job::complete`]).
//!
//! The reasons of failures are kept with the job and logged: they name ids and codes, never a person.

mod admin;
mod destination;
mod hold;
mod lease;
mod meters;
#[cfg(test)]
mod model_tests;
pub mod operate;
mod queue;
pub mod rule;
mod runner;

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use uuid::Uuid;
use waybill_kernel::id::{JobId, MerchantId};
use waybill_runtime::telemetry;

pub use self::admin::{
    Backlog, DeadJob, Failure, KEEP_DONE, backlog, dead, discard, failures, prune, retry_dead,
};
pub use self::destination::{Destination, Limits, declare, destinations, reset};
pub use self::hold::{Hold, OPERATOR, hold, holds, release};
pub use self::meters::observe;
pub use self::queue::{enqueue, insert};
use self::rule::breaker::Word;
pub use self::runner::{JobOptions, JobRunner};
use crate::error::StoreError;
use crate::tx::Tx;

/// Which jobs of a kind go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[repr(i16)]
pub enum Priority {
    /// Before the others, e.g. money.
    High = 0,
    /// The usual.
    #[default]
    Normal = 1,
    /// When nothing else waits, e.g. a bulk resend.
    Low = 2,
}

/// A job to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct NewJob {
    /// Which handler takes it.
    pub kind: &'static str,
    /// What it is about; unique per kind. Writing the same job again changes nothing.
    pub key: String,
    /// Whose work it is.
    pub merchant: MerchantId,
    /// The order it belongs to, for people who look for it.
    pub order_id: Option<Uuid>,
    /// What the handler needs, ids rather than personal data.
    pub payload: serde_json::Value,
    /// Not before this time; at once if `None`.
    pub not_before: Option<DateTime<Utc>>,
    /// Which goes first.
    pub priority: Priority,
    /// Whom it calls, e.g. `smtp:mail.example`; empty for nobody. Jobs towards one destination share its limits and its
    /// circuit breaker, whatever their kind.
    pub destination: String,
    /// The trace it continues.
    pub traceparent: Option<String>,
}

impl NewJob {
    /// A job to be done at once that continues the current trace.
    #[must_use]
    pub fn new(
        kind: &'static str,
        key: impl Into<String>,
        merchant: MerchantId,
        payload: serde_json::Value,
    ) -> Self {
        NewJob {
            kind,
            key: key.into(),
            merchant,
            order_id: None,
            payload,
            not_before: None,
            priority: Priority::default(),
            destination: String::new(),
            traceparent: telemetry::current_traceparent(),
        }
    }

    /// Names the order it belongs to.
    #[must_use]
    pub fn for_order(mut self, order_id: impl Into<Uuid>) -> Self {
        self.order_id = Some(order_id.into());
        self
    }

    /// Puts it off.
    #[must_use]
    pub fn not_before(mut self, time: DateTime<Utc>) -> Self {
        self.not_before = Some(time);
        self
    }

    /// Sets its priority.
    #[must_use]
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// Names whom it calls. At most 200 characters count.
    #[must_use]
    pub fn towards(mut self, destination: impl Into<String>) -> Self {
        self.destination = destination::fitting(destination.into());
        self
    }

    /// Sets the trace it continues, e.g. that of the event that caused it.
    #[must_use]
    pub fn traceparent(mut self, traceparent: Option<String>) -> Self {
        self.traceparent = traceparent;
        self
    }
}

/// A job in the hands of a runner.
#[derive(Debug)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// What it is about.
    pub key: String,
    /// Whose work it is.
    pub merchant: MerchantId,
    /// The order it belongs to.
    pub order_id: Option<Uuid>,
    /// What the handler needs; see [`Job::payload`].
    pub payload: serde_json::Value,
    /// Which attempt this is, from 1, counted since the last success or restart by a person.
    pub attempt: u32,
    /// When it was written, by the database's clock.
    pub created_at: DateTime<Utc>,
    /// The trace it continues.
    pub traceparent: Option<String>,
    /// Whom it calls; empty for nobody.
    pub destination: String,
    lease: Arc<lease::Lease>,
    word: Mutex<Option<Word>>,
}

impl Job {
    /// The payload as `T`. One that cannot be read will not get better: the job is dead.
    ///
    /// # Errors
    ///
    /// [`JobError::Dead`].
    pub fn payload<T: DeserializeOwned>(&self) -> Result<T, JobError> {
        T::deserialize(&self.payload).map_err(|e| JobError::Dead {
            reason: format!("the payload cannot be read: {e}"),
        })
    }

    /// The latest time at which a call to the outside that begins now must have ended: half a lease from now, less when
    /// the lease could not be renewed lately. After the lease's end another runner may make the same call.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.lease.deadline(Instant::now())
    }

    /// The time left until [`Job::deadline`].
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.deadline().saturating_duration_since(Instant::now())
    }

    /// Tells that the destination answered, be it with a refusal. The last word of an attempt counts for the destination's
    /// circuit breaker; a handler that called nobody says nothing.
    pub fn answered(&self) {
        self.say(Word::Answered);
    }

    /// Tells that the destination did not answer, or answered with a fault of its own.
    pub fn unanswered(&self) {
        self.say(Word::Failed);
    }

    fn say(&self, word: Word) {
        *self.word.lock().unwrap_or_else(PoisonError::into_inner) = Some(word);
    }

    fn word(&self) -> Option<Word> {
        *self.word.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks the job done in the handler's own transaction, so that its effect and the end of the job are one. The handler
    /// then returns [`Done::Finished`] as usual.
    ///
    /// # Errors
    ///
    /// [`StoreError::LeaseLost`] when another runner has taken the job: roll back, its outcome counts.
    pub async fn complete(&self, tx: &mut Tx) -> Result<(), StoreError> {
        if queue::finish(tx.conn(), self.id, self.lease.claim()).await? {
            return Ok(());
        }
        Err(StoreError::LeaseLost)
    }

    /// The last look before an outside effect, in the transaction that commits its intent: the job is still ours, and its
    /// kind was not held meanwhile. Once allowed, a hold waits for this transaction to end.
    ///
    /// # Errors
    ///
    /// [`StoreError::Held`]: roll back and hand it on; the job comes again when the hold is lifted.
    /// [`StoreError::LeaseLost`] as in [`Job::complete`].
    pub async fn still_allowed(&self, tx: &mut Tx) -> Result<(), StoreError> {
        hold::permit(tx.conn(), self.id, self.lease.claim()).await
    }
}

/// How a handler ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// The work is done.
    Finished,
    /// Nothing failed but it is not over, e.g. a provider still works on it: look again after this time. The count of
    /// failures starts again.
    Again {
        /// How long to wait.
        after: Duration,
    },
}

/// How a handler failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// May succeed when repeated.
    #[error("{reason}")]
    Retry {
        /// When to try again; by the runner's backoff if `None`.
        after: Option<Duration>,
        /// Why, in words without personal data.
        reason: String,
    },
    /// Will not get better by repeating: a person has to look.
    #[error("{reason}")]
    Dead {
        /// Why, in words without personal data.
        reason: String,
    },
    /// Was not tried, e.g. because its kind is held: no failure, and none is forgotten.
    #[error("{reason}")]
    NotTried {
        /// When to look again.
        after: Duration,
        /// Why, in words without personal data.
        reason: String,
    },
}

impl JobError {
    /// To be repeated by the runner's backoff.
    pub fn retry(reason: impl Into<String>) -> Self {
        JobError::Retry {
            after: None,
            reason: reason.into(),
        }
    }

    /// To be repeated after this time.
    pub fn retry_after(after: Duration, reason: impl Into<String>) -> Self {
        JobError::Retry {
            after: Some(after),
            reason: reason.into(),
        }
    }

    /// Not to be repeated.
    pub fn dead(reason: impl Into<String>) -> Self {
        JobError::Dead {
            reason: reason.into(),
        }
    }
}

impl From<StoreError> for JobError {
    fn from(error: StoreError) -> Self {
        match error {
            // It is not taken while it is held.
            StoreError::Held => JobError::NotTried {
                after: Duration::ZERO,
                reason: error.to_string(),
            },
            error => JobError::retry(error.to_string()),
        }
    }
}

/// Carries out the jobs of one kind.
pub trait JobHandler: Send + Sync + 'static {
    /// The kind.
    const KIND: &'static str;

    /// Does the work. Dropped in the middle when the lease is lost; a panic counts as [`JobError::Retry`].
    fn run(&self, job: &Job) -> impl Future<Output = Result<Done, JobError>> + Send;
}
