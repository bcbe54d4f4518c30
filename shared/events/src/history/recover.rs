//! The recovery: the log goes on from what survived.
//!
//! 1. The log is fenced, so that what is read stays as it is, and outside effects are held.
//! 2. What the stream has and the log has not is kept as orphans.
//! 3. The chain of what survived is computed along the log, archives included.
//! 4. In one transaction, with every writer shut out: the generation is raised above the log's own, the stream's and every
//!    known consumer's, and every virtual partition is told by a [`LogRewound`].
//!
//! It may be interrupted anywhere and begun again; until the last step is committed the log stays fenced.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::TryStreamExt as _;
use uuid::Uuid;
use waybill_kernel::id::MerchantId;
use waybill_kernel::partition::{PARTITIONS, partition_of};
use waybill_kernel::time::Shared as Clock;
use waybill_proto::waybill::events::v1::LogRewound;
use waybill_store::error::StoreError;

use super::chain::Survivors;
use super::told::{self, ToldError};
use crate::event::NewEvent;
use crate::log::Log;
use crate::nats::Nats;
use crate::position::Position;
use crate::reader::OwnLog;
use crate::relay::in_words;
use crate::store;
use crate::store::history::{NewRecovery, RecoveryRow};

/// How long NATS is waited for.
const NATS_WAIT: Duration = Duration::from_secs(3);

/// What a person asks for.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    pub request_id: String,
    pub reason: String,
    pub by: String,
    pub without_stream: bool,
    pub force: bool,
}

/// Why the log was not recovered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecoverError {
    #[error(
        "the log is not fenced: nothing tells that it lost anything; set force if a consumer alone noticed a loss"
    )]
    NotFenced,
    #[error(
        "the stream cannot be read, so what was lost cannot be kept ({0}); wait for NATS, or set without_stream if the \
         stream is gone for good"
    )]
    Stream(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<ToldError> for RecoverError {
    fn from(error: ToldError) -> Self {
        match error {
            ToldError::Nats(fault) => RecoverError::Stream(fault.to_string()),
            ToldError::Store(error) => RecoverError::Store(error),
        }
    }
}

/// Waits until there is a connection to NATS, but not for long.
pub(crate) async fn linked(nats: &Nats) -> Result<(), String> {
    let mut link = nats.link();
    if link.borrow().up {
        return Ok(());
    }
    let up = async {
        while !link.borrow_and_update().up {
            if link.changed().await.is_err() {
                break;
            }
        }
    };
    tokio::time::timeout(NATS_WAIT, up)
        .await
        .map_err(|_| crate::nats::NO_LINK.to_owned())
}

/// Recovers the log.
pub(crate) async fn recover(
    log: &Log,
    nats: &Nats,
    clock: &Clock,
    wish: &Wish,
) -> Result<RecoveryRow, RecoverError> {
    let pool = log.db().pool();
    if let Some(done) = store::history::recovery_of(pool, &wish.request_id).await? {
        return Ok(done);
    }
    let standing = store::history::standing(pool).await?;
    if standing.fenced_reason.is_none() && !wish.force {
        return Err(RecoverError::NotFenced);
    }
    let reason = standing.fenced_reason.unwrap_or_else(|| wish.reason.clone());
    store::identity::fence(pool, &reason, standing.generation).await?;

    let mut above = store::history::consumers_generation(pool).await?;
    if !wish.without_stream {
        linked(nats).await.map_err(RecoverError::Stream)?;
        let told = told::keep_orphans(pool, nats, log.source()).await?;
        above = above.max(told.generation);
    }
    let mut survivors = Survivors::new(&store::history::gone(pool).await?);
    let survived_until = read_all(log, &mut survivors).await?;
    let done = begin(log, clock, wish, above, survivors, survived_until).await?;
    log.bell().notify_one();
    tracing::warn!(
        source = &**log.source(),
        generation = done.generation,
        orphans = done.orphans,
        by = done.recovered_by,
        "the log was recovered and goes on in a new generation; outside effects stay held until they are released"
    );
    Ok(done)
}

/// Follows the log from its beginning, archives included, as far as it is settled.
async fn read_all(log: &Log, survivors: &mut Survivors) -> Result<Option<DateTime<Utc>>, StoreError> {
    let own = OwnLog::new(log);
    let all = (0..PARTITIONS)
        .map(|partition| (partition, Position::ZERO))
        .collect();
    let mut chunks = Box::pin(own.read(all, None));
    let mut last = None;
    while let Some(events) = chunks.try_next().await? {
        for event in events {
            survivors.take(event.vpartition, event.position, event.event_id.uuid());
            last = last.max(Some(event.occurred_at));
        }
    }
    Ok(last)
}

async fn begin(
    log: &Log,
    clock: &Clock,
    wish: &Wish,
    above: i64,
    mut survivors: Survivors,
    survived_until: Option<DateTime<Utc>>,
) -> Result<RecoveryRow, StoreError> {
    let mut tx = log.db().begin().await?;
    store::history::lock(tx.conn()).await?;
    for (vpartition, position, id) in store::history::rest(tx.conn(), survivors.last).await? {
        survivors.take(vpartition, position, id);
    }
    let from_generation = store::history::written_generation(tx.conn()).await?;
    let generation = store::identity::raise(tx.conn(), above).await?;
    let now = clock.now();
    let events: Vec<NewEvent> = partition_keys()
        .into_iter()
        .enumerate()
        .map(|(vpartition, key)| {
            let told = survivors.rewound(vpartition as u16, from_generation, generation);
            NewEvent::new(
                MerchantId::from(Uuid::nil()),
                None,
                key,
                key,
                generation,
                &told,
                now,
            )
        })
        .collect();
    log.append(&mut tx, &events).await?;
    let new = NewRecovery {
        generation,
        from_generation,
        request_id: &wish.request_id,
        reason: &wish.reason,
        by: &wish.by,
        survived_until,
    };
    let done = store::history::write_recovery(tx.conn(), new).await?;
    tx.commit().await?;
    Ok(done)
}

/// A key for each virtual partition: the smallest number that falls into it. Nobody's order has such an id.
fn partition_keys() -> Vec<Uuid> {
    let mut keys = vec![None; usize::from(PARTITIONS)];
    let mut missing = keys.len();
    for number in 1u128.. {
        let key = Uuid::from_u128(number);
        let of = &mut keys[usize::from(partition_of(key))];
        if of.is_none() {
            *of = Some(key);
            missing -= 1;
            if missing == 0 {
                break;
            }
        }
    }
    keys.into_iter().flatten().collect()
}

/// Whether an event is told by a recovery: the backbone's own, which no fold sees.
pub(crate) fn is_rewound(event: &crate::event::Event) -> bool {
    event.is::<LogRewound>()
}

/// Reads the end of the stream for a person, within a short time.
pub(crate) async fn look(log: &Log, nats: &Nats) -> Result<told::Told, String> {
    linked(nats).await?;
    let source = Arc::clone(log.source());
    match told::end(log.db().pool(), nats, &source).await {
        Ok(told) => Ok(told),
        Err(error) => Err(in_words(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_partition_has_a_key_of_its_own() {
        let keys = partition_keys();
        assert_eq!(keys.len(), usize::from(PARTITIONS));
        for (partition, key) in keys.iter().enumerate() {
            assert_eq!(usize::from(partition_of(*key)), partition);
        }
    }
}
