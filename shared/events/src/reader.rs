//! Reading a log from a place on: straight from the own database, or from a peer by `ReadEvents`.
//!
//! Both ways give the same events in the same order and end at the watermark. Nothing is remembered between reads.

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

use crate::cursor::Cursor;
use crate::event::{Event, MalformedEvent};
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
    Store(#[from] StoreError),
    #[error(transparent)]
    Malformed(#[from] MalformedEvent),
}

impl From<tonic::Status> for ReadError {
    fn from(status: tonic::Status) -> Self {
        ReadError::Peer(Box::new(status))
    }
}

/// The log in our own database.
#[derive(Debug, Clone)]
pub(crate) struct OwnLog {
    db: Db,
    source: Arc<str>,
}

impl OwnLog {
    pub fn new(db: &Db, source: &Arc<str>) -> Self {
        OwnLog {
            db: db.clone(),
            source: Arc::clone(source),
        }
    }

    /// The events after the cursors, in log order, up to the watermark at the time of the first chunk.
    pub fn read(
        &self,
        cursors: Vec<(u16, Position)>,
        limit: Option<usize>,
    ) -> impl Stream<Item = Result<Vec<Event>, StoreError>> + Send + use<> {
        let begin = Reading {
            log: self.clone(),
            cursors,
            watermark: None,
            left: limit,
        };
        futures_util::stream::try_unfold(begin, Reading::next)
    }

    /// The database that the log is in.
    pub fn db(&self) -> &Db {
        &self.db
    }

    /// The last place of every partition that has one, and the generation the log writes in.
    pub async fn heads(&self) -> Result<(i64, Vec<(u16, Position)>), StoreError> {
        store::log::heads(self.db.pool()).await
    }

    /// What lies behind some places; counting ends at `most` a partition.
    pub async fn lag(&self, cursors: &[(u16, Position)], most: i64) -> Result<Vec<PartitionLag>, StoreError> {
        let lags = store::operate::lag(self.db.pool(), cursors, most + 1).await?;
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
}

impl Reading {
    async fn next(mut self) -> Result<Option<(Vec<Event>, Reading)>, StoreError> {
        let limit = self.left.map_or(CHUNK_EVENTS, |left| left.min(CHUNK_EVENTS));
        if limit == 0 || self.cursors.is_empty() {
            return Ok(None);
        }
        let chunk = store::log::chunk(
            self.log.db.pool(),
            &self.log.source,
            &self.cursors,
            self.watermark,
            limit,
            CHUNK_BYTES,
        )
        .await?;
        if chunk.events.is_empty() {
            return Ok(None);
        }
        self.watermark = Some(chunk.watermark);
        self.left = self.left.map(|left| left - chunk.events.len());
        let mut reached = [None; PARTITIONS as usize];
        for event in &chunk.events {
            reached[usize::from(event.vpartition)] = Some(event.position);
        }
        for (partition, after) in &mut self.cursors {
            *after = reached[usize::from(*partition)].unwrap_or(*after);
        }
        Ok(Some((chunk.events, self)))
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
                store::consumers::report(log.db.pool(), service, consumer, cursors).await?;
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
