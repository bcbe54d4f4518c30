//! Reading a log from a place on: straight from the own database, or from a peer by `ReadEvents`.
//!
//! Both ways give the same events in the same order and end at the watermark. What has left the database is read from the
//! archive, and what follows it from the database again, without a seam. Nothing is remembered between reads.

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

use crate::archive::{self, Archive, ArchiveError};
use crate::cursor::Cursor;
use crate::event::{Event, MalformedEvent};
use crate::log::Log;
use crate::overview::PartitionLag;
use crate::position::Position;
use crate::store;

/// The most events in a chunk.
pub(crate) const CHUNK_EVENTS: usize = 500;

/// When a chunk has as many bytes it ends; with the largest event behind it, it still fits into one gRPC message.
const CHUNK_BYTES: usize = 1024 * 1024;

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
        let begin = Reading {
            log: self.clone(),
            cursors,
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

struct Reading {
    log: OwnLog,
    cursors: Vec<(u16, Position)>,
    watermark: Option<u64>,
    left: Option<usize>,
    /// What is read from the archive at the moment.
    gone: Option<Gone>,
}

impl Reading {
    async fn next(mut self) -> Result<Option<(Vec<Event>, Reading)>, OwnError> {
        let limit = self.left.map_or(CHUNK_EVENTS, |left| left.min(CHUNK_EVENTS));
        if limit == 0 || self.cursors.is_empty() {
            return Ok(None);
        }
        loop {
            if let Some(gone) = &mut self.gone {
                let mut events = gone.next(self.log.source(), &self.cursors).await?;
                events.truncate(limit);
                if !events.is_empty() {
                    let reading = self.advance(&events);
                    return Ok(Some((events, reading)));
                }
                self.gone = None;
            }
            let pool = self.log.db().pool();
            let chunk = store::log::chunk(
                pool,
                self.log.source(),
                &self.cursors,
                self.watermark,
                limit,
                CHUNK_BYTES,
            )
            .await?;
            if !chunk.events.is_empty() {
                self.watermark = Some(chunk.watermark);
                let events = chunk.events;
                let reading = self.advance(&events);
                return Ok(Some((events, reading)));
            }
            if !store::log::is_gone(pool, &self.cursors).await? {
                return Ok(None);
            }
            self.gone = Some(Gone::open(&self.log, &self.cursors).await?);
        }
    }

    /// Goes on behind these events.
    fn advance(mut self, events: &[Event]) -> Reading {
        self.left = self.left.map(|left| left - events.len());
        let mut reached = [None; PARTITIONS as usize];
        for event in events {
            reached[usize::from(event.vpartition)] = Some(event.position);
        }
        for (partition, after) in &mut self.cursors {
            *after = reached[usize::from(*partition)].unwrap_or(*after);
        }
        self
    }
}

/// The part of a log that has left the database, from some cursors on.
struct Gone {
    archive: Archive,
    objects: std::vec::IntoIter<store::archive::Gone>,
    reading: Option<(store::archive::Gone, archive::Reading)>,
    found: bool,
}

impl Gone {
    async fn open(log: &OwnLog, cursors: &[(u16, Position)]) -> Result<Gone, OwnError> {
        let archive = log.log.archive().cloned().ok_or_else(|| {
            OwnError::Expired(
                "they are in an archive, and this service has none configured (log.archive)".to_owned(),
            )
        })?;
        let objects = store::archive::gone(log.db().pool(), cursors).await?;
        Ok(Gone {
            archive,
            objects: objects.into_iter(),
            reading: None,
            found: false,
        })
    }

    /// The next events after the cursors; none at the end.
    async fn next(&mut self, source: &Arc<str>, cursors: &[(u16, Position)]) -> Result<Vec<Event>, OwnError> {
        let mut after = [None; PARTITIONS as usize];
        for (partition, place) in cursors {
            after[usize::from(*partition)] = Some(*place);
        }
        loop {
            let Some((object, reading)) = &mut self.reading else {
                let Some(object) = self.objects.next() else {
                    return self.end();
                };
                let reading = self.archive.read(&object.object).await.map_err(expired)?;
                self.reading = Some((object, reading));
                continue;
            };
            let name = object.object.as_str();
            let logged = reading.next().await.map_err(expired)?;
            if logged.is_empty() {
                if reading.sha256().as_slice() != object.sha256 {
                    return Err(ArchiveError::damaged(name, "it is not what was written").into());
                }
                self.reading = None;
                continue;
            }
            let events = logged
                .into_iter()
                .map(|logged| {
                    Event::from_logged(source, logged).map_err(|fault| ArchiveError::damaged(name, fault))
                })
                .collect::<Result<Vec<Event>, ArchiveError>>()?;
            let wanted: Vec<Event> = events
                .into_iter()
                .filter(|event| {
                    after[usize::from(event.vpartition)].is_some_and(|after| event.position > after)
                })
                .collect();
            if !wanted.is_empty() {
                self.found = true;
                return Ok(wanted);
            }
        }
    }

    /// Something was there to be found: else the caller would ask again for ever.
    fn end(&self) -> Result<Vec<Event>, OwnError> {
        if self.found {
            return Ok(Vec::new());
        }
        Err(ArchiveError::damaged(
            "what was archived",
            "it does not have the events that left the database",
        )
        .into())
    }
}

/// An object that is not there any more is no fault of a moment.
fn expired(error: ArchiveError) -> OwnError {
    match error {
        ArchiveError::Missing { object } => {
            OwnError::Expired(format!("{object} is no longer in the archive"))
        }
        other => OwnError::Archive(other),
    }
}

/// Which event stood at a place that has left the database, as the archive has it.
pub(crate) async fn archived_event_at(log: &Log, at: Position) -> Result<Option<uuid::Uuid>, OwnError> {
    let Some(archive) = log.archive() else {
        return Ok(None);
    };
    let Some(object) = store::archive::object_of(log.db().pool(), at).await? else {
        return Ok(None);
    };
    let mut reading = archive.read(&object).await.map_err(expired)?;
    loop {
        let events = reading.next().await.map_err(expired)?;
        if events.is_empty() {
            return Ok(None);
        }
        for logged in events {
            if logged.position.map(Position::from) == Some(at) {
                let event = Event::from_logged(log.source(), logged)
                    .map_err(|fault| ArchiveError::damaged(&object, fault))?;
                return Ok(Some(event.event_id.uuid()));
            }
        }
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
