//! What the stream has told of a log that the log has no longer, read from its end backwards.

use std::sync::Arc;

use async_nats::jetstream::stream::{RawMessageErrorKind, Stream};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use prost::Message as _;
use sqlx::PgPool;
use uuid::Uuid;
use waybill_store::error::StoreError;

use crate::envelope::{Incoming, stream_name, unpack};
use crate::nats::{Nats, NatsFault};
use crate::position::Position;
use crate::store;
use crate::store::history::NewOrphan;

/// Messages that are read and looked up at once.
const CHUNK: u64 = 500;

/// Requests under way at once.
const AT_ONCE: usize = 64;

/// Why the stream could not be read to the end of what is lost.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ToldError {
    #[error(transparent)]
    Nats(#[from] NatsFault),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a stream tells of its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Told {
    /// Its last event.
    pub end: Option<Position>,
    /// Whether the log has that.
    pub end_in_log: bool,
    /// The highest generation among the events that were looked at.
    pub generation: i64,
}

/// Looks at the last event alone.
pub(crate) async fn end(pool: &PgPool, nats: &Nats, service: &str) -> Result<Told, ToldError> {
    let Some(stream) = open(nats, service).await? else {
        return Ok(Told::default());
    };
    let state = &stream.cached_info().state;
    let source: Arc<str> = Arc::from(service);
    let oldest = state
        .last_sequence
        .saturating_sub(CHUNK)
        .max(state.first_sequence.saturating_sub(1));
    let events = read(&stream, &source, oldest, state.last_sequence).await?;
    let Some(last) = events.last() else {
        return Ok(Told::default());
    };
    let (position, id) = (last.event.position, last.event.event_id.uuid());
    let known = store::history::known(pool, &[(position, id)]).await?;
    Ok(Told {
        end: Some(position),
        end_in_log: known.first().is_some_and(|(in_log, _)| *in_log),
        generation: position.generation,
    })
}

/// Reads from the end back to where stream and log agree, and keeps what the log has no longer as orphans. A part of the
/// stream agrees when all of its events are in the log or were found lost before, and one of them is in the log: a
/// transaction that was lost in the middle lies at most a few seconds before the end.
pub(crate) async fn keep_orphans(pool: &PgPool, nats: &Nats, service: &str) -> Result<Told, ToldError> {
    let Some(stream) = open(nats, service).await? else {
        return Ok(Told::default());
    };
    let state = &stream.cached_info().state;
    let source: Arc<str> = Arc::from(service);
    let first = state.first_sequence.saturating_sub(1);
    let mut told = Told::default();
    let mut upto = state.last_sequence;
    while upto > first {
        let after = upto.saturating_sub(CHUNK).max(first);
        let events = read(&stream, &source, after, upto).await?;
        upto = after;
        let places: Vec<(Position, Uuid)> = events
            .iter()
            .map(|incoming| (incoming.event.position, incoming.event.event_id.uuid()))
            .collect();
        let known = store::history::known(pool, &places).await?;
        if told.end.is_none()
            && let (Some((position, _)), Some((in_log, _))) = (places.last(), known.last())
        {
            told.end = Some(*position);
            told.end_in_log = *in_log;
        }
        let highest = places.iter().map(|(position, _)| position.generation).max();
        told.generation = told.generation.max(highest.unwrap_or_default());
        let lost: Vec<NewOrphan> = events
            .into_iter()
            .zip(&known)
            .filter(|(_, (in_log, is_kept))| !in_log && !is_kept)
            .map(|(incoming, _)| orphan(&incoming))
            .collect();
        if lost.is_empty() && known.iter().any(|(in_log, _)| *in_log) {
            break;
        }
        if !lost.is_empty() {
            store::history::keep_orphans(pool, &lost).await?;
        }
    }
    Ok(told)
}

fn orphan(incoming: &Incoming) -> NewOrphan {
    let event = &incoming.event;
    NewOrphan {
        position: event.position,
        vpartition: event.vpartition,
        event_id: event.event_id.uuid(),
        bytes: event.to_logged().encode_to_vec(),
        complete: incoming.complete,
    }
}

async fn open(nats: &Nats, service: &str) -> Result<Option<Stream>, NatsFault> {
    if nats.last_sequence(service).await?.is_none() {
        return Ok(None);
    }
    nats.context()
        .get_stream(stream_name(service))
        .await
        .map(Some)
        .map_err(|error| NatsFault::new("asking for the stream")(error.into()))
}

/// The events with sequences after `after` and up to `upto`. Messages that are gone or are no events are left out.
async fn read(stream: &Stream, source: &Arc<str>, after: u64, upto: u64) -> Result<Vec<Incoming>, NatsFault> {
    stream::iter(after + 1..=upto)
        .map(|sequence| async move {
            match stream.get_raw_message(sequence).await {
                Ok(message) => {
                    let payload = message.payload;
                    Ok(unpack(source, &message.subject, Some(&message.headers), payload).ok())
                }
                Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
                Err(error) => Err(NatsFault::new("reading the stream")(error.into())),
            }
        })
        .buffered(AT_ONCE)
        .try_filter_map(|found| std::future::ready(Ok(found)))
        .try_collect()
        .await
}
