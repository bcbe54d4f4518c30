//! Requests of the log service, taken apart: all that is wrong with one is named at once.

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use uuid::Uuid;
use waybill_kernel::check::Violations;
use waybill_kernel::id::MerchantId;
use waybill_kernel::partition::PARTITIONS;
use waybill_proto::waybill::events::v1::{self as pb, LogPosition, PartitionCursor, ReportCursorsRequest};
use waybill_rpc::convert;

use crate::cursor::Cursor;
use crate::filter::EventFilter;
use crate::position::Position;

/// The longest name of a service or consumer.
const MAX_NAME: usize = 63;

/// The most types, and the most keys, in a filter.
const MOST_WANTED: usize = 50;

/// The longest name of a type of events.
const MAX_TYPE: usize = 200;

/// A place in a log; none is the place before the first event.
fn place(field: &str, place: Option<LogPosition>, violations: &mut Violations) -> Position {
    let place = place.map(Position::from).unwrap_or_default();
    if place.generation < 0 || place.position < 0 || i64::try_from(place.xid).is_err() {
        violations.push(field, format!("{place} is no place in a log"));
    }
    place
}

/// Notes which partitions were named, each at most once.
struct Named {
    seen: [bool; PARTITIONS as usize],
}

impl Named {
    fn new() -> Self {
        Named {
            seen: [false; PARTITIONS as usize],
        }
    }

    fn partition(&mut self, field: String, partition: u32, violations: &mut Violations) -> Option<u16> {
        match self.seen.get_mut(partition as usize) {
            None => {
                let last = PARTITIONS - 1;
                violations.push(field, format!("{partition} is no partition; give 0 to {last}"));
                None
            }
            Some(true) => {
                violations.push(field, format!("{partition} is named twice"));
                None
            }
            Some(first) => {
                *first = true;
                Some(partition as u16)
            }
        }
    }
}

/// One more than can be right, so that a request that is far too long is not looked through.
const MOST: usize = PARTITIONS as usize + 1;

/// All cursors, or all that is wrong with them.
pub(super) fn cursors(asked: &[PartitionCursor]) -> Result<Vec<(u16, Position)>, Violations> {
    let mut violations = Violations::new();
    if asked.is_empty() {
        violations.push("cursors", "is empty; name at least one partition");
    }
    let mut named = Named::new();
    let mut cursors = Vec::with_capacity(asked.len().min(MOST));
    for (index, cursor) in asked.iter().enumerate().take(MOST) {
        let field = format!("cursors[{index}].partition");
        if let Some(partition) = named.partition(field, cursor.partition, &mut violations) {
            let after = place(&format!("cursors[{index}].after"), cursor.after, &mut violations);
            cursors.push((partition, after));
        }
    }
    violations.into_result().map(|()| cursors)
}

/// The filter, or all that is wrong with it.
pub(super) fn filter(asked: Option<pb::EventFilter>) -> Result<EventFilter, Violations> {
    let Some(asked) = asked else {
        return Ok(EventFilter::default());
    };
    let mut violations = Violations::new();
    let filter = violations.nested("filter", |v| {
        let keys = few("partition_keys", asked.partition_keys.len(), v).then_some(&asked.partition_keys);
        let keys = keys.into_iter().flatten().enumerate().filter_map(|(index, text)| {
            let key = Uuid::try_parse(text).ok();
            if key.is_none() {
                let shown: String = text.chars().take(MAX_NAME).collect();
                v.push(
                    format!("partition_keys[{index}]"),
                    format!("{shown:?} is no key; give an order's id, e.g. \"0198d3a4-0000-7000-8000-000000000000\""),
                );
            }
            key
        });
        let keys = keys.collect();
        let types = few("types", asked.types.len(), v).then_some(asked.types);
        let types: Vec<String> = types.unwrap_or_default();
        for (index, text) in types.iter().enumerate().filter(|(_, text)| !is_type(text)) {
            let shown: String = text.chars().take(MAX_NAME).collect();
            v.push(
                format!("types[{index}]"),
                format!("{shown:?} is no type's full name; give one like \"waybill.order.v1.OrderPlaced\""),
            );
        }
        let merchant = convert::optional_id::<MerchantId>("merchant_id", &asked.merchant_id, v);
        let from = convert::optional_timestamp("occurred_from", asked.occurred_from.as_ref(), v).flatten();
        let before = convert::optional_timestamp("occurred_before", asked.occurred_before.as_ref(), v).flatten();
        if let (Some(from), Some(before)) = (from, before)
            && from >= before
        {
            v.push(
                "occurred_before",
                format!("{before:?} is not after occurred_from, {from:?}; no event can be between them"),
            );
        }
        EventFilter {
            types,
            keys,
            merchant: merchant.flatten(),
            from: from.map(whole_micros),
            before: before.map(whole_micros),
        }
    });
    violations.into_result().map(|()| filter)
}

/// Whether a repeated part of a filter is short enough to be looked through.
fn few(field: &str, count: usize, violations: &mut Violations) -> bool {
    if count > MOST_WANTED {
        violations.push(
            field,
            format!("has {count} entries; at most {MOST_WANTED} are allowed: ask several times, or for all"),
        );
    }
    count <= MOST_WANTED
}

/// Whether it can be the full name of a message: identifiers, at least two, with dots between them.
fn is_type(text: &str) -> bool {
    let identifier = |part: &str| {
        part.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && part.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
    };
    text.len() <= MAX_TYPE && text.contains('.') && text.split('.').all(identifier)
}

/// The first whole microsecond at this time or later. The log counts in them, so before and after mean the same.
fn whole_micros(time: DateTime<Utc>) -> DateTime<Utc> {
    let below = time.trunc_subsecs(6);
    if below < time {
        below + TimeDelta::microseconds(1)
    } else {
        below
    }
}

/// A report: the service, the consumer, and where it stands.
pub(super) struct Report {
    pub service: String,
    pub consumer: String,
    pub cursors: Vec<(u16, Cursor)>,
}

/// The report, or all that is wrong with it.
pub(super) fn report(request: ReportCursorsRequest) -> Result<Report, Violations> {
    let mut violations = Violations::new();
    name("service", &request.service, &mut violations);
    name("consumer", &request.consumer, &mut violations);
    if request.cursors.is_empty() {
        violations.push("cursors", "is empty; name at least one partition");
    }
    let mut named = Named::new();
    let mut cursors = Vec::with_capacity(request.cursors.len().min(MOST));
    for (index, cursor) in request.cursors.into_iter().enumerate().take(MOST) {
        let at = format!("cursors[{index}]");
        let partition = named.partition(format!("{at}.partition"), cursor.partition, &mut violations);
        let position = place(&format!("{at}.position"), cursor.position, &mut violations);
        if cursor.count < 0 {
            violations.push(
                format!("{at}.count"),
                format!("{} is negative; give 0 or more", cursor.count),
            );
        }
        let hash: Option<[u8; 32]> = cursor.hash.as_slice().try_into().ok();
        if hash.is_none() {
            let bytes = cursor.hash.len();
            violations.push(format!("{at}.hash"), format!("has {bytes} bytes; give 32"));
        }
        if let (Some(partition), Some(hash)) = (partition, hash) {
            let count = cursor.count;
            cursors.push((
                partition,
                Cursor {
                    position,
                    count,
                    hash,
                },
            ));
        }
    }
    violations.into_result().map(|()| Report {
        service: request.service,
        consumer: request.consumer,
        cursors,
    })
}

/// A name as services and consumers have one.
pub(super) fn name(field: &str, text: &str, violations: &mut Violations) {
    let sound = text.len() <= MAX_NAME
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-'));
    if !sound {
        let shown: String = text.chars().take(MAX_NAME).collect();
        violations.push(
            field,
            format!("{shown:?} is no name; give 1 to {MAX_NAME} of a to z, 0 to 9, _ and -, a letter first"),
        );
    }
}

#[cfg(test)]
mod tests {
    use waybill_proto::waybill::events::v1::ConsumerCursor;

    use super::*;

    fn request(partitions: &[u32]) -> Vec<PartitionCursor> {
        partitions
            .iter()
            .map(|&partition| PartitionCursor {
                partition,
                after: None,
            })
            .collect()
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
        request[0].after = Some(LogPosition {
            generation: -1,
            transaction_id: 0,
            position: 0,
        });
        assert!(cursors(&request).is_err());
        request[0].after = Some(LogPosition {
            generation: 1,
            transaction_id: u64::MAX,
            position: 0,
        });
        assert!(cursors(&request).is_err());
    }

    fn all_wrong() -> pb::EventFilter {
        let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        pb::EventFilter {
            types: ["", "OrderPlaced", "waybill..X", "a.b c", "9.A"]
                .map(str::to_owned)
                .to_vec(),
            partition_keys: vec!["#1004".to_owned()],
            merchant_id: "*".to_owned(),
            occurred_from: time(2),
            occurred_before: time(2),
        }
    }

    #[test]
    fn every_fault_of_a_filter_is_named() {
        let faults = filter(Some(all_wrong())).expect_err("all of it is wrong");
        let fields: Vec<&str> = faults.iter().map(|fault| fault.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "filter.partition_keys[0]",
                "filter.types[0]",
                "filter.types[1]",
                "filter.types[2]",
                "filter.types[3]",
                "filter.types[4]",
                "filter.merchant_id",
                "filter.occurred_before"
            ],
            "{faults}"
        );
        let many = pb::EventFilter {
            types: vec!["waybill.order.v1.OrderPlaced".to_owned(); 51],
            partition_keys: vec!["x".to_owned(); 100_000],
            ..pb::EventFilter::default()
        };
        let faults = filter(Some(many)).expect_err("too many");
        assert_eq!(faults.len(), 2, "not looked through: {faults}");
    }

    #[test]
    fn a_sound_filter_is_taken_as_it_is() {
        assert_eq!(filter(None), Ok(EventFilter::default()));
        let asked = pb::EventFilter {
            types: vec!["waybill.order.v1.OrderPlaced".to_owned(); 50],
            partition_keys: vec![Uuid::from_u128(7).to_string()],
            merchant_id: Uuid::from_u128(8).to_string(),
            occurred_from: Some(prost_types::Timestamp { seconds: 1, nanos: 1 }),
            occurred_before: Some(prost_types::Timestamp {
                seconds: 1,
                nanos: 2_000,
            }),
        };
        let taken = filter(Some(asked)).expect("sound");
        assert_eq!((taken.types.len(), taken.keys.len()), (50, 1));
        assert_eq!(taken.merchant, Some(Uuid::from_u128(8).into()));
        // Between two microseconds: only what happened at the next one is at that time or later.
        assert_eq!(taken.from, DateTime::from_timestamp(1, 1_000));
        assert_eq!(taken.before, DateTime::from_timestamp(1, 2_000));
    }

    #[test]
    fn a_report_names_itself_and_proves_what_it_took() {
        let sound = ReportCursorsRequest {
            service: "analytics".to_owned(),
            consumer: "facts-2".to_owned(),
            cursors: vec![ConsumerCursor {
                partition: 63,
                position: None,
                count: 0,
                hash: vec![0; 32],
            }],
        };
        let taken = report(sound.clone()).expect("a sound report");
        assert_eq!(taken.cursors, [(63, Cursor::default())]);

        let mut wrong = sound;
        wrong.service = "Analytics".to_owned();
        wrong.consumer.clear();
        wrong.cursors[0].partition = 64;
        wrong.cursors[0].count = -1;
        wrong.cursors[0].hash.pop();
        let faults = report(wrong).err().expect("five faults");
        assert_eq!(faults.len(), 5, "{faults}");
    }
}
