//! `EventLogService`: the log as others see it, and those who follow it.
//!
//! Parses, reads, answers. Everything it can tell is settled: a reader never sees an event that another one could still
//! come in front of.

mod consumers;
mod fault;
mod parse;

use std::pin::Pin;
use std::time::Duration;

use futures_util::stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};
use waybill_kernel::check::Violations;
use waybill_proto::waybill::events::v1::event_log_service_server::EventLogService;
use waybill_proto::waybill::events::v1::{
    ConsumerCursor, ForgetLogConsumerRequest, ForgetLogConsumerResponse, GetLogHeadsRequest,
    GetLogHeadsResponse, ListLogConsumersRequest, ListLogConsumersResponse, LogConsumer, MeasureLagRequest,
    MeasureLagResponse, PartitionCursor, PartitionHead, PartitionLag, ReadEventsRequest, ReadEventsResponse,
    ReportCursorsRequest, ReportCursorsResponse,
};
use waybill_rpc::convert;

use crate::event::Event;
use crate::overview::MOST_COUNTED;
use crate::position::Position;
use crate::reader::OwnLog;
use crate::store::consumers::{self as registry, Forgotten, Registered};
use fault::LogFault;

pub use consumers::ConsumerApi;

/// A consumer that has reported within this time is forgotten by force only.
const QUIET: Duration = Duration::from_secs(10 * 60);

/// Answers `waybill.events.v1.EventLogService` from the log of this service.
#[derive(Debug, Clone)]
pub struct EventLogApi {
    log: OwnLog,
}

impl EventLogApi {
    pub(crate) fn new(log: OwnLog) -> Self {
        EventLogApi { log }
    }
}

#[tonic::async_trait]
impl EventLogService for EventLogApi {
    type ReadEventsStream = Pin<Box<dyn Stream<Item = Result<ReadEventsResponse, Status>> + Send>>;

    async fn read_events(
        &self,
        request: Request<ReadEventsRequest>,
    ) -> Result<Response<Self::ReadEventsStream>, Status> {
        let request = request.into_inner();
        let cursors = parse::cursors(&request.cursors);
        let filter = parse::filter(request.filter);
        let (cursors, filter) = match (cursors, filter) {
            (Ok(cursors), Ok(filter)) => (cursors, filter),
            (Ok(_), Err(faults)) => return Err(LogFault::Filter(faults).into()),
            (Err(faults), Ok(_)) => return Err(LogFault::Cursors(faults).into()),
            (Err(mut faults), Err(more)) => {
                faults.absorb("", more);
                return Err(LogFault::Cursors(faults).into());
            }
        };
        let limit = (request.limit > 0).then_some(request.limit as usize);
        let parts = self.log.select(cursors, filter, limit).map(|part| match part {
            Ok(part) => Ok(ReadEventsResponse {
                events: part.events.iter().map(Event::to_logged).collect(),
                resume: part.cursors.into_iter().map(cursor).collect(),
            }),
            Err(error) => Err(LogFault::from(error).into()),
        });
        Ok(Response::new(parts.boxed()))
    }

    async fn get_log_heads(
        &self,
        _request: Request<GetLogHeadsRequest>,
    ) -> Result<Response<GetLogHeadsResponse>, Status> {
        let (generation, heads) = self.log.heads().await.map_err(LogFault::from)?;
        let heads = heads.into_iter().map(head).collect();
        Ok(Response::new(GetLogHeadsResponse { heads, generation }))
    }

    async fn measure_lag(
        &self,
        request: Request<MeasureLagRequest>,
    ) -> Result<Response<MeasureLagResponse>, Status> {
        let cursors = parse::cursors(&request.into_inner().cursors).map_err(LogFault::Cursors)?;
        let lags = self
            .log
            .lag(&cursors, MOST_COUNTED)
            .await
            .map_err(LogFault::from)?;
        let lags = lags
            .into_iter()
            .map(|lag| PartitionLag {
                partition: u32::from(lag.partition),
                events: lag.events,
                more: lag.more,
                seconds: lag.seconds,
            })
            .collect();
        Ok(Response::new(MeasureLagResponse { lags }))
    }

    async fn report_cursors(
        &self,
        request: Request<ReportCursorsRequest>,
    ) -> Result<Response<ReportCursorsResponse>, Status> {
        let report = parse::report(request.into_inner()).map_err(LogFault::Report)?;
        let pool = self.log.db().pool();
        let generation = registry::report(pool, &report.service, &report.consumer, &report.cursors)
            .await
            .map_err(LogFault::from)?
            .ok_or(LogFault::TooManyConsumers)?;
        Ok(Response::new(ReportCursorsResponse { generation }))
    }

    async fn list_log_consumers(
        &self,
        _request: Request<ListLogConsumersRequest>,
    ) -> Result<Response<ListLogConsumersResponse>, Status> {
        let all = registry::all(self.log.db().pool())
            .await
            .map_err(LogFault::from)?;
        let passed = registry::passed(&all);
        Ok(Response::new(ListLogConsumersResponse {
            passed: passed
                .into_iter()
                .flat_map(|places| (0u16..).zip(places))
                .map(head)
                .collect(),
            highest_generation: all.iter().map(|one| one.generation_seen).max().unwrap_or(0),
            consumers: all.into_iter().map(consumer).collect(),
        }))
    }

    async fn forget_log_consumer(
        &self,
        request: Request<ForgetLogConsumerRequest>,
    ) -> Result<Response<ForgetLogConsumerResponse>, Status> {
        let caller = convert::context(&request)?;
        let ForgetLogConsumerRequest {
            service,
            consumer,
            force,
        } = request.into_inner();
        let mut violations = Violations::new();
        parse::name("service", &service, &mut violations);
        parse::name("consumer", &consumer, &mut violations);
        violations.into_result().map_err(LogFault::Report)?;
        let quiet = (!force).then_some(QUIET);
        match registry::forget(self.log.db().pool(), &service, &consumer, quiet)
            .await
            .map_err(LogFault::from)?
        {
            Forgotten::Yes => {
                tracing::warn!(
                    by = caller.subject,
                    service,
                    consumer,
                    force,
                    "a consumer of the log is forgotten: the log is no longer kept for it"
                );
                Ok(Response::new(ForgetLogConsumerResponse {}))
            }
            Forgotten::Unknown => Err(LogFault::NoConsumer { service, consumer }.into()),
            Forgotten::Alive(seen_at) => Err(LogFault::Alive {
                service,
                consumer,
                seen_at,
                minutes: QUIET.as_secs() / 60,
            }
            .into()),
        }
    }
}

fn head((partition, position): (u16, Position)) -> PartitionHead {
    PartitionHead {
        partition: u32::from(partition),
        position: Some(position.into()),
    }
}

fn cursor((partition, after): (u16, Position)) -> PartitionCursor {
    PartitionCursor {
        partition: u32::from(partition),
        after: Some(after.into()),
    }
}

fn consumer(registered: Registered) -> LogConsumer {
    LogConsumer {
        service: registered.service,
        consumer: registered.consumer,
        registered_at: Some(convert::to_timestamp(registered.registered_at)),
        seen_at: Some(convert::to_timestamp(registered.seen_at)),
        cursors: registered
            .cursors
            .into_iter()
            .map(|(partition, cursor)| ConsumerCursor {
                partition: u32::from(partition),
                position: Some(cursor.position.into()),
                count: cursor.count,
                hash: cursor.hash.to_vec(),
            })
            .collect(),
        highest_generation: registered.generation_seen,
    }
}
