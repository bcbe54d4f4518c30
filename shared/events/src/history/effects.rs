//! What the history that is gone did outside: refunds that a provider paid, mails that went out.
//!
//! A service that reaches outside implements [`OutsideEffects`]. Its jobs are held from the moment its log is fenced; a
//! person looks at what is listed, adopts it or writes it off, and then lets the work go on.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::BoxFuture;
use waybill_proto::waybill::events::v1::HeldEffect;
use waybill_store::error::StoreError;

/// Clocks differ, and a transaction that is lost may have begun before the last one that survived.
const MARGIN: Duration = Duration::from_secs(15 * 60);

/// Between which times something may have been done outside that this service does not know of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Doubt {
    /// From when on; the beginning when nothing survived.
    pub from: DateTime<Utc>,
    /// Until when: what was decided later was decided by the present history alone.
    pub until: DateTime<Utc>,
}

impl Doubt {
    pub(crate) fn new(survived_until: Option<DateTime<Utc>>, recovered_at: DateTime<Utc>) -> Doubt {
        let margin = TimeDelta::from_std(MARGIN).unwrap_or(TimeDelta::zero());
        Doubt {
            from: survived_until.map_or(DateTime::UNIX_EPOCH, |time| time - margin),
            until: recovered_at,
        }
    }
}

/// Why effects could not be listed or settled.
#[derive(Debug, thiserror::Error)]
pub enum EffectError {
    /// One that is named is not listed.
    #[error("effect {0:?} is not listed; list the held effects again")]
    NotFound(String),
    /// One cannot be booked as things are.
    #[error("effect {id:?} cannot be adopted: {reason}")]
    NotAdoptable {
        /// The effect.
        id: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The outside did not answer.
    #[error("{0}")]
    Outside(String),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A service whose jobs reach outside.
pub trait OutsideEffects: Send + Sync + 'static {
    /// The kinds of those jobs.
    fn kinds(&self) -> &'static [&'static str];

    /// What nobody has decided about yet, oldest first, at most `limit`.
    fn undecided(&self, doubt: Doubt, limit: usize) -> BoxFuture<'_, Result<Vec<HeldEffect>, EffectError>>;

    /// Takes effects as having happened. Returns how many were not taken so before.
    fn adopt<'a>(
        &'a self,
        doubt: Doubt,
        effects: &'a [HeldEffect],
    ) -> BoxFuture<'a, Result<usize, EffectError>>;

    /// Takes effects off the list: nothing is booked, and a job that was decided again will be carried out.
    fn write_off<'a>(
        &'a self,
        effects: &'a [HeldEffect],
        reason: &'a str,
        by: &'a str,
    ) -> BoxFuture<'a, Result<usize, EffectError>>;
}
