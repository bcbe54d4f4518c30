//! The end of the stream against the log: does the log still have what it has told?
//!
//! Asked whenever a relay begins to publish, and once when a service starts, before it takes calls: a database that was
//! put back to an older copy is fenced before anything is written into it. When nobody can tell at that moment (NATS is
//! away, or was emptied as well) and the database's server was started anew since the last proof, it may be such a copy;
//! the log then begins a new generation. That costs nothing, and keeps a place in the log from ever standing for two
//! events: if something was lost, the first event of the new generation names the exact place where.

use std::time::Duration;

use uuid::Uuid;

use super::in_words;
use super::resume::{self, Differs, Resume};
use crate::log::Log;
use crate::nats::{Nats, NatsFault, Tail};
use crate::position::Position;
use crate::reader::{OwnError, archived_event_at};
use crate::store;
use crate::store::history::Doubt;
use waybill_store::error::StoreError;

/// How long a start waits for NATS when the log may be an older copy.
const PROOF_TIME: Duration = Duration::from_secs(5);

/// How long it waits when the log is new, or was proven since its server was started: it compares all the same, and only
/// a broker that is there at once can tell of something that nobody would expect.
const PROOF_TIME_WITHOUT_DOUBT: Duration = Duration::from_millis(250);

/// Why the two could not be compared now.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unproven {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Nats(#[from] NatsFault),
    #[error(transparent)]
    Archive(#[from] OwnError),
}

impl From<Unproven> for super::Stop {
    fn from(unproven: Unproven) -> Self {
        super::Stop::Again(in_words(&unproven))
    }
}

/// Compares. A log that lacks what its stream tells is fenced; one that has it is noted as proven.
pub(super) async fn compare(
    log: &Log,
    nats: &Nats,
    acknowledged: Option<Position>,
    run_up: Position,
) -> Result<Result<Resume, Differs>, Unproven> {
    let pool = log.db().pool();
    // First: whatever is found below was found in this generation, or in a later one, which is then left alone.
    let (generation, recovered) = store::history::generations(pool).await?;
    let tail = nats.tail(log.source()).await?;
    let place = match tail {
        Tail::Event { position, .. } => Some(resume::Place {
            in_log: event_at(log, position).await?,
            recovered,
            fork: store::log::end_of_generation(pool, position.generation).await?,
        }),
        Tail::Empty { .. } | Tail::Unreadable { .. } => None,
    };
    let decision = resume::decide(&tail, place.as_ref(), acknowledged, run_up);
    match &decision {
        Ok(_) if matches!(tail, Tail::Event { .. }) => store::history::note_proof(pool).await?,
        Err(Differs { reason, fence: true }) => {
            store::identity::fence(pool, reason, generation).await?;
        }
        _ => {}
    }
    Ok(decision)
}

/// Which event stands at a place, also at one that has left the database.
async fn event_at(log: &Log, at: Position) -> Result<Option<Uuid>, Unproven> {
    let pool = log.db().pool();
    let here = store::log::event_at(pool, at).await?;
    if here.is_none() && at <= store::log::dropped(pool).await? {
        return Ok(archived_event_at(log, at).await?);
    }
    Ok(here)
}

/// What a start learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    /// The log has what its stream tells, or is fenced.
    Settled,
    /// The stream tells nothing.
    Silent,
}

/// Compares once, before the service takes calls, and waits only where there is doubt. It never keeps a service from
/// starting: intake works while everything else is down, and the relay compares again as soon as NATS is back.
pub(crate) async fn prove(log: &Log, nats: &Nats) {
    let wait = match store::history::doubt(log.db().pool()).await {
        Ok(Doubt::None | Doubt::New) => PROOF_TIME_WITHOUT_DOUBT,
        Ok(Doubt::Copy) | Err(_) => PROOF_TIME,
    };
    let asking = async {
        loop {
            let mut link = nats.link();
            let unknown = if link.borrow().up {
                match ask(log, nats).await {
                    Ok(proof) => return proof,
                    Err(unproven) => in_words(&unproven),
                }
            } else {
                crate::nats::NO_LINK.to_owned()
            };
            tracing::debug!(source = &**log.source(), unknown, "the log is not compared yet");
            tokio::select! {
                _ = link.changed() => {}
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
            }
        }
    };
    let settled = match tokio::time::timeout(wait, asking).await {
        Ok(proof) => proof == Proof::Settled,
        Err(_) => {
            tracing::warn!(
                source = &**log.source(),
                "the end of the stream could not be compared with the log; it is, as soon as NATS answers"
            );
            false
        }
    };
    if settled {
        return;
    }
    match store::history::begin_unproven(log.db().pool()).await {
        Ok(None) => {}
        Ok(Some(generation)) => tracing::warn!(
            source = &**log.source(),
            generation,
            "nobody could tell whether the database, whose server was started anew, still has what was told: the log goes on \
             in a new generation"
        ),
        Err(error) => tracing::warn!(
            source = &**log.source(),
            error = in_words(&error),
            "the log's history was not looked at"
        ),
    }
}

async fn ask(log: &Log, nats: &Nats) -> Result<Proof, Unproven> {
    let service = &**log.source();
    if nats.last_sequence(service).await?.is_none() {
        return Ok(Proof::Silent);
    }
    match compare(log, nats, None, Position::ZERO).await? {
        // `last_sequence` of an empty stream says nothing about the log.
        Ok(resume) if resume.after == Position::ZERO => Ok(Proof::Silent),
        Ok(_) => Ok(Proof::Settled),
        Err(differs) => {
            tracing::error!(
                service,
                reason = differs.reason,
                "the log is not what its stream tells"
            );
            Ok(if differs.fence {
                Proof::Settled
            } else {
                Proof::Silent
            })
        }
    }
}
