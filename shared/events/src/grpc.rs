//! `EventLogService`: the reading side of the log for other services.
//!
//! Parses, reads, answers. Everything it can tell is settled: a reader never sees an event that another one could still
//! come in front of.

use std::borrow::Cow;
use std::pin::Pin;

use futures_util::stream::{Stream, StreamExt as _};
use tonic::{Code, Request, Response, Status};
use waybill_kernel::check::Violations;
use waybill_kernel::partition::PARTITIONS;
use waybill_proto::waybill::events::v1::event_log_service_server::EventLogService;
use waybill_proto::waybill::events::v1::{
    GetLogHeadsRequest, GetLogHeadsResponse, PartitionHead, ReadEventsRequest, ReadEventsResponse,
};
use waybill_rpc::fault::{Fault, to_status};
use waybill_store::error::StoreError;

use crate::event::Event;
use crate::position::Position;
use crate::reader::OwnLog;

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

/// Why a log could not be read.
#[derive(Debug, thiserror::Error)]
enum ReadFault {
    #[error("the request is not valid: {0}")]
    Invalid(Violations),
    #[error("the event log cannot be read at the moment")]
    Store(#[from] StoreError),
}

impl Fault for ReadFault {
    fn code(&self) -> Code {
        match self {
            ReadFault::Invalid(_) => Code::InvalidArgument,
            ReadFault::Store(StoreError::Unavailable { .. } | StoreError::Retry(_)) => Code::Unavailable,
            ReadFault::Store(_) => Code::Internal,
        }
    }

    fn reason(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            ReadFault::Invalid(_) => "INVALID_CURSORS",
            ReadFault::Store(_) => "LOG_UNREADABLE",
        })
    }

    fn domain(&self) -> &'static str {
        "events.waybill"
    }

    fn violations(&self) -> Option<&Violations> {
        match self {
            ReadFault::Invalid(violations) => Some(violations),
            ReadFault::Store(_) => None,
        }
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
        let cursors = cursors(&request).map_err(|violations| to_status(&ReadFault::Invalid(violations)))?;
        let limit = (request.limit > 0).then_some(request.limit as usize);
        let chunks = self.log.read(cursors, limit).map(|chunk| match chunk {
            Ok(events) => Ok(ReadEventsResponse {
                events: events.iter().map(Event::to_logged).collect(),
            }),
            Err(error) => Err(to_status(&ReadFault::from(error))),
        });
        Ok(Response::new(chunks.boxed()))
    }

    async fn get_log_heads(
        &self,
        _request: Request<GetLogHeadsRequest>,
    ) -> Result<Response<GetLogHeadsResponse>, Status> {
        let (generation, heads) = self
            .log
            .heads()
            .await
            .map_err(|error| to_status(&ReadFault::from(error)))?;
        let heads = heads
            .into_iter()
            .map(|(partition, position)| PartitionHead {
                partition: u32::from(partition),
                position: Some(position.into()),
            })
            .collect();
        Ok(Response::new(GetLogHeadsResponse { heads, generation }))
    }
}

/// All cursors, or all that is wrong with them.
fn cursors(request: &ReadEventsRequest) -> Result<Vec<(u16, Position)>, Violations> {
    let mut violations = Violations::new();
    if request.cursors.is_empty() {
        violations.push("cursors", "is empty; name at least one partition");
    }
    let mut seen = [false; PARTITIONS as usize];
    let mut cursors = Vec::with_capacity(request.cursors.len().min(usize::from(PARTITIONS)));
    for (index, cursor) in request
        .cursors
        .iter()
        .enumerate()
        .take(usize::from(PARTITIONS) + 1)
    {
        let field = format!("cursors[{index}].partition");
        match seen.get_mut(cursor.partition as usize) {
            None => violations.push(
                field,
                format!(
                    "{} is no partition; give 0 to {}",
                    cursor.partition,
                    PARTITIONS - 1
                ),
            ),
            Some(true) => violations.push(field, format!("{} is named twice", cursor.partition)),
            Some(first) => {
                *first = true;
                let after = cursor.after.map(Position::from).unwrap_or_default();
                if after.generation < 0 || after.position < 0 || i64::try_from(after.xid).is_err() {
                    violations.push(
                        format!("cursors[{index}].after"),
                        format!("{after} is no place in a log"),
                    );
                }
                cursors.push((cursor.partition as u16, after));
            }
        }
    }
    violations.into_result().map(|()| cursors)
}

#[cfg(test)]
mod tests {
    use waybill_proto::waybill::events::v1::{LogPosition, PartitionCursor};

    use super::*;

    fn request(partitions: &[u32]) -> ReadEventsRequest {
        ReadEventsRequest {
            cursors: partitions
                .iter()
                .map(|&partition| PartitionCursor {
                    partition,
                    after: None,
                })
                .collect(),
            limit: 0,
        }
    }

    #[test]
    fn every_fault_is_named() {
        let error = cursors(&request(&[1, 64, 1]))
            .expect_err("64 does not exist, 1 is there twice")
            .to_string();
        assert!(
            error.contains("cursors[1].partition") && error.contains("cursors[2].partition"),
            "{error}"
        );
        assert!(cursors(&request(&[])).is_err());
        let all: Vec<u32> = (0..64).collect();
        assert_eq!(cursors(&request(&all)).expect("all of them").len(), 64);
        let many: Vec<u32> = (0..10_000).map(|n| n % 64).collect();
        assert!(cursors(&request(&many)).is_err());
    }

    #[test]
    fn a_place_that_cannot_be_is_refused() {
        let mut request = request(&[3]);
        request.cursors[0].after = Some(LogPosition {
            generation: -1,
            transaction_id: 0,
            position: 0,
        });
        assert!(cursors(&request).is_err());
        request.cursors[0].after = Some(LogPosition {
            generation: 1,
            transaction_id: u64::MAX,
            position: 0,
        });
        assert!(cursors(&request).is_err());
    }
}
