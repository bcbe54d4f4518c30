//! Reading a log from a place on: straight from the own database, or from a peer by `ReadEvents`.
//!
//! Both ways give the same events in the same order and end at the watermark. What has left the database is read from the
//! archive, and what follows it from the database again, without a seam. Nothing is remembered between reads.
//!
//! A read may want some events only ([`EventFilter`]). It goes the same way and tells how far it has come, also while it
//! finds nothing. Consumers read unfiltered: they have to see every event to know that none is missing.

mod gone;

use std::sync::Arc;

use futures_util::stream::{BoxStream, Stream, StreamExt as _, TryStreamExt as _};
use waybill_kernel::partition::PARTITIONS;
use waybill_proto::waybill::events::v1::event_log_service_client::EventLogServiceClient;
use waybill_proto::waybill::events::v1::{
    ConsumerCursor, GetLogHeadsRequest, MeasureLagRequest, PartitionCursor, ReadEventsRequest,
    ReportCursorsRequest,
};
use waybill_rpc::client::Channel;
use waybill_store::Db;
use waybill_store::error::StoreError;

use crate::archive::ArchiveError;
use crate::cursor::Cursor;
use crate::event::{Event, MalformedEvent};
use crate::filter::EventFilter;
use crate::log::Log;
use crate::overview::PartitionLag;
use crate::position::Position;
use crate::store;
use crate::store::select::Bounds;
use gone::Gone;

pub(crate) use gone::{archived_event_at, archived_of};

/// The most events in a chunk.
pub(crate) const CHUNK_EVENTS: usize = 500;

/// When a chunk has as many bytes it ends; with the largest event behind it, it still fits into one gRPC message.
const CHUNK_BYTES: usize = 1024 * 1024;

/// How many events a filtered read passes over, about, before it tells how far it has come.
const MOST_PASSED: usize = 10_000;

/// Why a log could not be read. Worth a repeat.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("{}: {}", .0.code(), .0.message())]
    Peer(#[from] Box<tonic::Status>),
    #[error(transparent)]
    Own(#[from] OwnError),
    #[error(transparent)]
    Malformed(#[from] MalformedEvent),
}

impl From<StoreError> for ReadError {
    fn from(error: StoreError) -> Self {
        ReadError::Own(error.into())
    }
}

impl From<tonic::Status> for ReadError {
    fn from(status: tonic::Status) -> Self {
        ReadError::Peer(Box::new(status))
    }
}

/// Why our own log could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OwnError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// Neither the database nor an archive has the events after a cursor.
    #[error("events after a cursor have left the log: {0}")]
    Expired(String),
}

impl From<OwnError> for StoreError {
    fn from(error: OwnError) -> Self {
        match error {
            OwnError::Store(error) => error,
            other => StoreError::other(other),
        }
    }
}

/// The log in our own database, and in the archive.
#[derive(Debug, Clone)]
pub(crate) struct OwnLog {
    log: Log,
}

impl OwnLog {
    pub fn new(log: &Log) -> Self {
        OwnLog { log: log.clone() }
    }

    /// The events after the cursors, in log order, up to the watermark at the time of the first chunk.
    pub fn read(
        &self,
        cursors: Vec<(u16, Position)>,
        limit: Option<usize>,
    ) -> impl Stream<Item = Result<Vec<Event>, OwnError>> + Send + use<> {
        self.select(cursors, EventFilter::default(), limit)
            .map_ok(|part| part.events)
    }

    /// Those of them that a filter wants, and how far the read has come. Without a filter no part is empty.
    pub fn select(
        &self,
        cursors: Vec<(u16, Position)>,
        filter: EventFilter,
        limit: Option<usize>,
    ) -> impl Stream<Item = Result<Part, OwnError>> + Send + use<> {
        let (cursors, idle) = cursors
            .into_iter()
            .partition(|(partition, _)| filter.looks_into(*partition));
        let begin = Reading {
            log: self.clone(),
            cursors,
            idle,
            filter,
            watermark: None,
            left: limit,
            gone: None,
        };
        futures_util::stream::try_unfold(begin, Reading::next)
    }

    /// The service whose log it is.
    pub fn source(&self) -> &Arc<str> {
        self.log.source()
    }

    /// The database that the log is in.
    pub fn db(&self) -> &Db {
        self.log.db()
    }

    /// The last place of every partition that has one, and the generation the log writes in.
    pub async fn heads(&self) -> Result<(i64, Vec<(u16, Position)>), StoreError> {
        store::log::heads(self.log.db().pool()).await
    }

    /// What lies behind some places; counting ends at `most` a partition.
    pub async fn lag(&self, cursors: &[(u16, Position)], most: i64) -> Result<Vec<PartitionLag>, StoreError> {
        let lags = store::operate::lag(self.log.db().pool(), cursors, most + 1).await?;
        Ok(lags
            .into_iter()
            .map(|lag| PartitionLag {
                partition: lag.vpartition,
                events: lag.events.min(most),
                more: lag.events > most,
                seconds: lag.seconds,
            })
            .collect())
    }
}

/// What a read found.
#[derive(Debug)]
pub(crate) struct Part {
    /// The events, in log order.
    pub events: Vec<Event>,
    /// From where a later read goes on: up to here nothing that is wanted is missing.
    pub cursors: Vec<(u16, Position)>,
}

/// What one look at the log brought.
struct Step {
    events: Vec<Event>,
    /// Up to where all partitions were looked through; `None` for up to the last event of each.
    upto: Option<Position>,
}

struct Reading {
    log: OwnLog,
    cursors: Vec<(u16, Position)>,
    /// Partitions that can have nothing that is wanted: they stay where they are.
    idle: Vec<(u16, Position)>,
    filter: EventFilter,
    watermark: Option<u64>,
    left: Option<usize>,
    /// What is read from the archive at the moment.
    gone: Option<Gone>,
}

impl Reading {
    async fn next(mut self) -> Result<Option<(Part, Reading)>, OwnError> {
        let limit = self.left.map_or(CHUNK_EVENTS, |left| left.min(CHUNK_EVENTS));
        if limit == 0 || self.cursors.is_empty() {
            return Ok(None);
        }
        loop {
            if let Some(gone) = &mut self.gone {
                let source = self.log.source();
                if let Some(step) = gone.next(source, &self.cursors, &self.filter, limit).await? {
                    return Ok(Some(self.advance(step)));
                }
                self.gone = None;
            }
            if let Some(step) = self.here(limit).await? {
                return Ok(Some(self.advance(step)));
            }
            if !store::log::is_gone(self.log.db().pool(), &self.cursors).await? {
                return Ok(None);
            }
            self.gone = Some(Gone::open(&self.log, &self.cursors).await?);
        }
    }

    /// What the database has after the cursors; `None` when it has nothing, or has not all of it.
    async fn here(&mut self, limit: usize) -> Result<Option<Step>, StoreError> {
        let (pool, source) = (self.log.db().pool(), self.log.source());
        if !self.filter.is_all() {
            let most = Bounds {
                passed: MOST_PASSED,
                events: limit,
                bytes: CHUNK_BYTES,
            };
            let part =
                store::select::part(pool, source, &self.cursors, self.watermark, &self.filter, most).await?;
            return Ok(part.map(|part| {
                self.watermark = Some(part.watermark);
                Step {
                    events: part.events,
                    upto: Some(part.upto),
                }
            }));
        }
        let chunk =
            store::log::chunk(pool, source, &self.cursors, self.watermark, limit, CHUNK_BYTES).await?;
        if chunk.events.is_empty() {
            return Ok(None);
        }
        self.watermark = Some(chunk.watermark);
        Ok(Some(Step {
            events: chunk.events,
            upto: None,
        }))
    }

    /// Goes on behind what was found.
    fn advance(mut self, step: Step) -> (Part, Reading) {
        let Step { events, upto } = step;
        self.left = self.left.map(|left| left - events.len());
        let mut reached = [None; PARTITIONS as usize];
        for event in &events {
            reached[usize::from(event.vpartition)] = Some(event.position);
        }
        for (partition, after) in &mut self.cursors {
            *after = match upto {
                Some(upto) => upto.max(*after),
                None => reached[usize::from(*partition)].unwrap_or(*after),
            };
        }
        let mut cursors: Vec<(u16, Position)> = self.cursors.iter().chain(&self.idle).copied().collect();
        cursors.sort_unstable_by_key(|(partition, _)| *partition);
        (Part { events, cursors }, self)
    }
}

/// A log, wherever it is.
#[derive(Debug, Clone)]
pub(crate) enum SourceLog {
    Own(OwnLog),
    Peer { source: Arc<str>, channel: Channel },
}

impl SourceLog {
    /// The events after the cursors, in log order, up to the watermark.
    pub async fn read(
        &self,
        cursors: Vec<(u16, Position)>,
    ) -> Result<BoxStream<'static, Result<Vec<Event>, ReadError>>, ReadError> {
        match self {
            SourceLog::Own(log) => Ok(log.read(cursors, None).err_into().boxed()),
            SourceLog::Peer { source, channel } => {
                let request = ReadEventsRequest {
                    cursors: cursors
                        .into_iter()
                        .map(|(partition, after)| PartitionCursor {
                            partition: u32::from(partition),
                            after: Some(after.into()),
                        })
                        .collect(),
                    limit: 0,
                    filter: None,
                };
                let source = Arc::clone(source);
                let chunks = EventLogServiceClient::new(channel.clone())
                    .read_events(request)
                    .await?
                    .into_inner();
                Ok(chunks
                    .err_into()
                    .and_then(move |chunk| {
                        let events: Result<Vec<Event>, MalformedEvent> = chunk
                            .events
                            .into_iter()
                            .map(|logged| Event::from_logged(&source, logged))
                            .collect();
                        std::future::ready(events.map_err(ReadError::from))
                    })
                    .boxed())
            }
        }
    }

    /// Tells the log how far a consumer of `service` is.
    pub async fn report(
        &self,
        service: &str,
        consumer: &str,
        cursors: &[(u16, Cursor)],
    ) -> Result<(), ReadError> {
        match self {
            SourceLog::Own(log) => {
                store::consumers::report(log.db().pool(), service, consumer, cursors).await?;
            }
            SourceLog::Peer { channel, .. } => {
                let request = ReportCursorsRequest {
                    service: service.to_owned(),
                    consumer: consumer.to_owned(),
                    cursors: cursors
                        .iter()
                        .map(|(partition, cursor)| ConsumerCursor {
                            partition: u32::from(*partition),
                            position: Some(cursor.position.into()),
                            count: cursor.count,
                            hash: cursor.hash.to_vec(),
                        })
                        .collect(),
                };
                EventLogServiceClient::new(channel.clone())
                    .report_cursors(request)
                    .await?;
            }
        }
        Ok(())
    }

    /// The last place of every partition that has one.
    pub async fn heads(&self) -> Result<Vec<(u16, Position)>, ReadError> {
        match self {
            SourceLog::Own(log) => Ok(log.heads().await?.1),
            SourceLog::Peer { channel, .. } => {
                let heads = EventLogServiceClient::new(channel.clone())
                    .get_log_heads(GetLogHeadsRequest {})
                    .await?
                    .into_inner()
                    .heads;
                Ok(heads
                    .into_iter()
                    .filter_map(|head| Some((u16::try_from(head.partition).ok()?, head.position?.into())))
                    .collect())
            }
        }
    }

    /// What lies behind some places, counted to `most` a partition where it is our own log.
    pub async fn lag(
        &self,
        cursors: Vec<(u16, Position)>,
        most: i64,
    ) -> Result<Vec<PartitionLag>, ReadError> {
        match self {
            SourceLog::Own(log) => Ok(log.lag(&cursors, most).await?),
            SourceLog::Peer { channel, .. } => {
                let cursors = cursors
                    .into_iter()
                    .map(|(partition, after)| PartitionCursor {
                        partition: u32::from(partition),
                        after: Some(after.into()),
                    })
                    .collect();
                let lags = EventLogServiceClient::new(channel.clone())
                    .measure_lag(MeasureLagRequest { cursors })
                    .await?
                    .into_inner()
                    .lags;
                Ok(lags
                    .into_iter()
                    .filter_map(|lag| {
                        Some(PartitionLag {
                            partition: u16::try_from(lag.partition).ok()?,
                            events: lag.events,
                            more: lag.more,
                            seconds: lag.seconds,
                        })
                    })
                    .collect())
            }
        }
    }
}
