//! Rows of the history as messages.

use prost::Message as _;
use waybill_proto::waybill::events::v1::{LoggedEvent, Orphan, Phantom, Recovery};
use waybill_rpc::convert;
use waybill_store::error::StoreError;

use crate::position::Position;
use crate::store::history::{OrphanRow, RecoveryRow};
use crate::store::phantom::PhantomRow;

/// A recovery of the log.
pub(super) fn recovery(row: RecoveryRow) -> Recovery {
    Recovery {
        generation: row.generation,
        from_generation: row.from_generation,
        reason: row.reason,
        recovered_by: row.recovered_by,
        recovered_at: Some(convert::to_timestamp(row.recovered_at)),
        orphans: row.orphans,
        survived_until: row.survived_until.map(convert::to_timestamp),
    }
}

/// An event that the stream still has and the log lost.
pub(super) fn orphan(row: OrphanRow) -> Result<Orphan, StoreError> {
    Ok(Orphan {
        event: Some(LoggedEvent::decode(row.event.as_slice()).map_err(StoreError::decode)?),
        complete: row.complete,
        recovered_in: row.recovered_in,
        found_at: Some(convert::to_timestamp(row.found_at)),
    })
}

/// What a consumer applied of it.
pub(super) fn phantom(row: PhantomRow) -> Phantom {
    let place = |generation, xid: i64, position| {
        Position {
            generation,
            xid: xid as u64,
            position,
        }
        .into()
    };
    let after = match (row.after_generation, row.after_xid, row.after_position) {
        (Some(generation), Some(xid), Some(position)) => Some(place(generation, xid, position)),
        _ => None,
    };
    Phantom {
        consumer: row.consumer,
        source: row.source,
        partition: u32::from(row.vpartition.unsigned_abs()),
        generation: row.rewound_to,
        event_id: row.event_id.map(|id| id.to_string()).unwrap_or_default(),
        r#type: row.type_name.unwrap_or_default(),
        key: row.key.map(|key| key.to_string()).unwrap_or_default(),
        position: Some(place(row.generation, row.xid, row.position)),
        after,
        count: row.count,
        found_at: Some(convert::to_timestamp(row.found_at)),
    }
}
