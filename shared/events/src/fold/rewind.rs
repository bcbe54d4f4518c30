//! A producer's log was rewound: what this consumer had applied beyond the survivors is listed, and its cursor goes back.
//!
//! One transaction under the cursor rules: the cursor moves first and conditionally, then the list, then the fold's own
//! hook. What the cursor says afterwards is provable against the log again. The effects themselves stay: only a person, or
//! the fold, knows what a phantom means.

use std::sync::Arc;

use prost::Message as _;
use tonic::Code;
use waybill_proto::waybill::events::v1::history_service_client::HistoryServiceClient;
use waybill_proto::waybill::events::v1::{ListOrphansRequest, LogRewound, LoggedEvent, Orphan};
use waybill_store::Db;
use waybill_store::error::StoreError;

use super::apply::ApplyError;
use super::{Fold, Phantom};
use crate::cursor::Cursor;
use crate::event::Event;
use crate::history::chain::{Meeting, meet};
use crate::reader::{ReadError, SourceLog};
use crate::store::fold as sql;
use crate::store::{history, phantom};

/// The most events that are listed by name in one partition; what is beyond is a range with a count.
const MOST_NAMED: i64 = 10_000;

const PAGE: i32 = 500;

/// A cursor that has to go back.
#[derive(Debug, Clone)]
pub(super) struct Rewind {
    pub from: Cursor,
    pub to: Cursor,
    /// How many of the events that were applied are gone.
    pub lost: i64,
    pub rewound: LogRewound,
}

/// Whether an event tells that the log was rewound, and the cursor stands beyond what survived.
pub(super) fn wanted(cursor: &Cursor, event: &Event, complete: bool) -> Option<Rewind> {
    if !complete || event.position <= cursor.position || !event.is::<LogRewound>() {
        return None;
    }
    let rewound: LogRewound = event.decode().ok()?;
    match meet(cursor, &rewound) {
        Meeting::Normal => None,
        Meeting::Rewind { to, lost } => Some(Rewind {
            from: *cursor,
            to,
            lost,
            rewound,
        }),
    }
}

impl Rewind {
    /// What was applied and is gone: by name as far as the producer knows, the rest as a range.
    pub async fn phantoms(
        &self,
        log: &SourceLog,
        source: &Arc<str>,
        vpartition: u16,
    ) -> Result<Vec<Phantom>, ReadError> {
        let mut phantoms = Vec::new();
        if self.rewound.orphans > 0 && self.lost > 0 {
            let most = self.lost.min(MOST_NAMED);
            for event in orphans(log, source, self.rewound.generation, vpartition, most).await? {
                if event.position <= self.from.position {
                    phantoms.push(named(&event));
                }
            }
        }
        let unnamed = self.lost - phantoms.len() as i64;
        if unnamed > 0 {
            phantoms.push(Phantom {
                source: Arc::clone(source),
                vpartition,
                event_id: None,
                type_name: String::new(),
                key: None,
                position: self.from.position,
                after: Some(self.to.position.min(self.from.position)),
                count: unnamed,
            });
        }
        Ok(phantoms)
    }

    /// Lists the phantoms and moves the cursor.
    pub async fn apply<F: Fold>(
        &self,
        db: &Db,
        fold: &F,
        (source, vpartition, epoch): (&Arc<str>, u16, i64),
        phantoms: &[Phantom],
    ) -> Result<(), ApplyError> {
        let mut tx = db.begin().await?;
        let step = sql::Move {
            source: source.to_string(),
            vpartition,
            epoch,
            from: self.from.position,
            to: self.to,
        };
        if !sql::advance(tx.conn(), F::NAME, &[step]).await? {
            return Err(ApplyError::Lost);
        }
        if !phantoms.is_empty() {
            phantom::list(tx.conn(), F::NAME, self.rewound.generation, phantoms).await?;
        }
        // Those that waited or were parked never took effect, and must not any more.
        let gone: Vec<_> = phantoms
            .iter()
            .filter_map(|phantom| phantom.event_id.map(|id| id.uuid()))
            .collect();
        phantom::forget(tx.conn(), F::NAME, source, vpartition, &gone).await?;
        let mut rows = Vec::new();
        for (row, bytes) in phantom::waiting(tx.conn(), F::NAME, source, vpartition).await? {
            let logged = LoggedEvent::decode(bytes.as_slice()).map_err(StoreError::decode)?;
            let event = Event::from_logged(source, logged).map_err(StoreError::decode)?;
            if event.position > self.to.position || gone.contains(&event.event_id.uuid()) {
                rows.push(row);
            }
        }
        if !rows.is_empty() {
            sql::stop_waiting(tx.conn(), &rows).await?;
        }
        fold.rewound(tx.conn(), phantoms).await?;
        tx.commit().await?;
        Ok(())
    }
}

fn named(event: &Event) -> Phantom {
    Phantom {
        source: Arc::clone(&event.source),
        vpartition: event.vpartition,
        event_id: Some(event.event_id),
        type_name: event.type_name.clone(),
        key: Some(event.key),
        position: event.position,
        after: None,
        count: 1,
    }
}

/// The orphans of one partition that a recovery found, in their order.
async fn orphans(
    log: &SourceLog,
    source: &Arc<str>,
    recovered_in: i64,
    vpartition: u16,
    most: i64,
) -> Result<Vec<Event>, ReadError> {
    match log {
        SourceLog::Own(own) => {
            let rows =
                history::orphans(own.db().pool(), Some(recovered_in), Some(vpartition), None, most).await?;
            rows.into_iter()
                .map(|row| {
                    let logged = LoggedEvent::decode(row.event.as_slice()).map_err(StoreError::decode)?;
                    Ok(Event::from_logged(source, logged)?)
                })
                .collect()
        }
        SourceLog::Peer { channel, .. } => {
            let mut client = HistoryServiceClient::new(channel.clone()).max_decoding_message_size(64 << 20);
            let mut events: Vec<Event> = Vec::new();
            let mut page_token = String::new();
            loop {
                let request = ListOrphansRequest {
                    recovered_in,
                    partition: Some(u32::from(vpartition)),
                    page_size: PAGE,
                    page_token,
                };
                let page = match client.list_orphans(request).await {
                    Ok(page) => page.into_inner(),
                    // An older producer: the range is all that can be told.
                    Err(status) if status.code() == Code::Unimplemented => return Ok(events),
                    Err(status) => return Err(status.into()),
                };
                for Orphan { event, .. } in page.orphans {
                    if let Some(logged) = event {
                        events.push(Event::from_logged(source, logged)?);
                    }
                }
                if page.next_page_token.is_empty() || events.len() as i64 >= most {
                    events.truncate(usize::try_from(most).unwrap_or(usize::MAX));
                    return Ok(events);
                }
                page_token = page.next_page_token;
            }
        }
    }
}
