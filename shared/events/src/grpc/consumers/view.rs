//! Consumers, kept events and actions as the contracts write them.

use std::sync::LazyLock;

use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use waybill_proto::waybill::events::v1 as pb;
use waybill_rpc::convert::to_timestamp;

use crate::fold::Repaired;
use crate::overview::{LagSum, Overview, SourceOverview};
use crate::rebuild::{Outcome, Phase, Progress};
use crate::store::operate::ActionRow;
use crate::store::repair::LetterRow;
use crate::store::shadow::Compared;

/// The types of payloads that this build knows.
static POOL: LazyLock<Option<DescriptorPool>> =
    LazyLock::new(|| DescriptorPool::decode(waybill_proto::FILE_DESCRIPTOR_SET).ok());

pub(super) fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

pub(super) fn state(kind: &str) -> pb::ConsumerState {
    match kind {
        "paused" => pb::ConsumerState::Paused,
        _ => pb::ConsumerState::Stopped,
    }
}

pub(super) fn outcome(repaired: &Repaired) -> pb::RepairOutcome {
    match repaired.letter {
        Some(_) => pb::RepairOutcome::Blocked,
        None => pb::RepairOutcome::Free,
    }
}

pub(super) fn consumer(of: Overview) -> pb::Consumer {
    let state = of
        .stop
        .as_ref()
        .map_or(pb::ConsumerState::Running, |stop| state(&stop.kind));
    let mut members: Vec<pb::ConsumerMember> = of
        .members
        .into_iter()
        .map(|(member, expires_at)| pb::ConsumerMember {
            member,
            partitions: Vec::new(),
            expires_at: Some(to_timestamp(expires_at)),
        })
        .collect();
    let mut unowned_partitions = Vec::new();
    for lease in of.leases {
        let partition = lease.vpartition as u32;
        match lease.owner {
            None => unowned_partitions.push(partition),
            Some(owner) => match members.iter_mut().find(|member| member.member == owner) {
                Some(member) => member.partitions.push(partition),
                None => members.push(pb::ConsumerMember {
                    member: owner,
                    partitions: vec![partition],
                    expires_at: None,
                }),
            },
        }
    }
    pb::Consumer {
        consumer: of.consumer.to_owned(),
        state: state.into(),
        stopped_at: of.stop.as_ref().map(|stop| to_timestamp(stop.stopped_at)),
        reason: of.stop.map(|stop| stop.reason).unwrap_or_default(),
        sources: of.sources.into_iter().map(source).collect(),
        waiting: of.backlog.waiting,
        letters: of.backlog.letters,
        parked: of.backlog.parked,
        members,
        unowned_partitions,
    }
}

fn source(of: SourceOverview) -> pb::ConsumerSource {
    let known = of
        .lag
        .as_ref()
        .and_then(|lag| lag.as_ref().ok())
        .map(|lags| LagSum::of(lags));
    pb::ConsumerSource {
        source: of.source.to_string(),
        taken: of.taken,
        lag_events: known.map(|lag| lag.events),
        lag_is_more: known.is_some_and(|lag| lag.more),
        lag_seconds: known.map(|lag| lag.seconds),
        lag_unknown: match of.lag {
            Some(Ok(_)) => String::new(),
            Some(Err(reason)) => reason,
            None => "not asked for".to_owned(),
        },
    }
}

pub(super) fn letter(row: LetterRow) -> pb::DeadLetter {
    let kind = match row.kind.as_str() {
        "letter" => pb::LetterKind::Letter,
        _ => pb::LetterKind::Parked,
    };
    pb::DeadLetter {
        letter_id: row.id.to_string(),
        consumer: row.consumer,
        key: row.key.to_string(),
        kind: kind.into(),
        source: row.source,
        partition: row.vpartition as u32,
        event_id: row.event_id.to_string(),
        r#type: row.type_name,
        reason: row.reason.unwrap_or_default(),
        created_at: Some(to_timestamp(row.created_at)),
        tries: row.tries,
        tried_at: row.tried_at.map(to_timestamp),
    }
}

pub(super) fn progress(of: &Progress) -> pb::RebuildConsumerResponse {
    let phase = match of.phase {
        Phase::Folding => pb::RebuildPhase::Folding,
        Phase::Comparing => pb::RebuildPhase::Comparing,
        Phase::Swapping => pb::RebuildPhase::Swapping,
    };
    pb::RebuildConsumerResponse {
        phase: phase.into(),
        events: of.events,
        events_total: of.total,
        ..pb::RebuildConsumerResponse::default()
    }
}

pub(super) fn rebuilt(of: Outcome) -> pb::RebuildConsumerResponse {
    pb::RebuildConsumerResponse {
        phase: pb::RebuildPhase::Done.into(),
        events: of.events,
        events_total: of.events,
        events_kept: of.held,
        tables: of.tables.into_iter().map(compared).collect(),
        cursors_differing: count(of.cursors),
        swapped: of.swapped,
    }
}

fn compared(of: Compared) -> pb::TableComparison {
    let samples = of.samples.into_iter().map(|(how, key_json)| {
        let difference = match how.as_str() {
            "only_live" => pb::RowDifference::OnlyLive,
            "only_rebuilt" => pb::RowDifference::OnlyRebuilt,
            _ => pb::RowDifference::Different,
        };
        pb::DifferingRow {
            difference: difference.into(),
            key_json,
        }
    });
    pb::TableComparison {
        table: of.table.to_owned(),
        live_rows: of.live_rows,
        rebuilt_rows: of.rebuilt_rows,
        only_live: of.only_live,
        only_rebuilt: of.only_rebuilt,
        different: of.different,
        samples: samples.collect(),
    }
}

pub(super) fn action(row: ActionRow) -> pb::ConsumerAction {
    let kind = match row.action.as_str() {
        "retry" => pb::ConsumerActionKind::Retry,
        "discard" => pb::ConsumerActionKind::Discard,
        "pause" => pb::ConsumerActionKind::Pause,
        "resume" => pb::ConsumerActionKind::Resume,
        "rebuild" => pb::ConsumerActionKind::Rebuild,
        "compare" => pb::ConsumerActionKind::Compare,
        "swap" => pb::ConsumerActionKind::Swap,
        _ => pb::ConsumerActionKind::Unspecified,
    };
    let outcome = match row.outcome.as_deref() {
        Some("free") => pb::RepairOutcome::Free,
        Some("blocked") => pb::RepairOutcome::Blocked,
        Some("going_on") => pb::RepairOutcome::GoingOn,
        _ => pb::RepairOutcome::Unspecified,
    };
    pb::ConsumerAction {
        action_id: row.id.to_string(),
        happened_at: Some(to_timestamp(row.happened_at)),
        consumer: row.consumer,
        kind: kind.into(),
        caller: row.caller,
        request_id: row.request_id,
        reason: row.reason,
        key: text(row.key),
        letter_id: text(row.letter),
        event_id: text(row.event_id),
        r#type: row.type_name.unwrap_or_default(),
        source: row.source.unwrap_or_default(),
        applied: row.applied.unwrap_or_default(),
        outcome: outcome.into(),
        // Written by this code; bytes that do not decode would be a fault of the database, and are left out.
        discarded: row
            .discarded
            .and_then(|bytes| pb::LoggedEvent::decode(bytes.as_slice()).ok()),
    }
}

fn text(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

/// The payload of an event as protobuf JSON, or why there is none.
pub(super) fn in_json(event: &pb::LoggedEvent) -> Result<String, String> {
    let descriptor = POOL
        .as_ref()
        .and_then(|pool| pool.get_message_by_name(&event.r#type))
        .ok_or_else(|| format!("this build does not know the type {}", event.r#type))?;
    let message = DynamicMessage::decode(descriptor, event.payload.clone())
        .map_err(|error| format!("the payload does not decode: {error}"))?;
    let options = SerializeOptions::new()
        .skip_default_fields(false)
        .stringify_64_bit_integers(true);
    let json = message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .map_err(|error| format!("the payload cannot be shown: {error}"))?;
    Ok(json.to_string())
}

#[cfg(test)]
mod tests {
    use prost::Name as _;
    use waybill_proto::waybill::events::v1::LogPosition;

    use super::*;

    #[test]
    fn a_payload_is_shown_or_it_is_said_why_not() {
        let known = pb::LoggedEvent {
            r#type: LogPosition::full_name(),
            payload: LogPosition {
                generation: 7,
                ..LogPosition::default()
            }
            .encode_to_vec()
            .into(),
            ..pb::LoggedEvent::default()
        };
        let json = in_json(&known).expect("it decodes");
        assert!(
            json.contains(r#""generation":"7""#) && json.contains("position"),
            "{json}"
        );
        let unknown = pb::LoggedEvent {
            r#type: "waybill.order.v9.OrderSung".to_owned(),
            ..known.clone()
        };
        assert!(in_json(&unknown).expect_err("no such type").contains("OrderSung"));
        let broken = pb::LoggedEvent {
            payload: vec![0xff].into(),
            ..known
        };
        assert!(
            in_json(&broken)
                .expect_err("not protobuf")
                .contains("does not decode")
        );
    }
}
