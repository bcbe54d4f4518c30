//! Requests of the log service, taken apart: all that is wrong with one is named at once.

use waybill_kernel::check::Violations;
use waybill_kernel::partition::PARTITIONS;
use waybill_proto::waybill::events::v1::{LogPosition, PartitionCursor, ReportCursorsRequest};

use crate::cursor::Cursor;
use crate::position::Position;

/// The longest name of a service or consumer.
const MAX_NAME: usize = 63;

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
