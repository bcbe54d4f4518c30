//! Which events of a log a reader wants. Pure: the same answer here for what comes from the archive as in SQL for what
//! comes from the database (`store/select.rs`).

use chrono::{DateTime, Utc};
use uuid::Uuid;
use waybill_kernel::id::MerchantId;
use waybill_kernel::partition::partition_of;

use crate::event::Event;

/// What every event that is wanted has; a part that is empty asks for nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct EventFilter {
    /// One of these types, by full name.
    pub types: Vec<String>,
    /// One of these keys.
    pub keys: Vec<Uuid>,
    /// This merchant.
    pub merchant: Option<MerchantId>,
    /// Happened at this time or later. A whole number of microseconds, as the log has them.
    pub from: Option<DateTime<Utc>>,
    /// Happened before this time. A whole number of microseconds.
    pub before: Option<DateTime<Utc>>,
}

impl EventFilter {
    /// Whether it wants everything.
    pub fn is_all(&self) -> bool {
        *self == EventFilter::default()
    }

    /// Whether it wants this event.
    pub fn wants(&self, event: &Event) -> bool {
        (self.types.is_empty() || self.types.contains(&event.type_name))
            && (self.keys.is_empty() || self.keys.contains(&event.key))
            && self.merchant.is_none_or(|merchant| merchant == event.merchant)
            && self.from.is_none_or(|from| event.occurred_at >= from)
            && self.before.is_none_or(|before| event.occurred_at < before)
    }

    /// Whether a virtual partition can have anything that is wanted.
    pub fn looks_into(&self, partition: u16) -> bool {
        self.keys.is_empty() || self.keys.iter().any(|key| partition_of(*key) == partition)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::tests::any_event;

    proptest! {
        /// What an event has is wanted, and nothing else is: each part by itself can refuse it.
        #[test]
        fn every_part_can_refuse(event in any_event(), other in any_event()) {
            prop_assume!(event.key != other.key && event.merchant != other.merchant);
            prop_assert!(EventFilter::default().wants(&event) && EventFilter::default().is_all());
            let later = event.occurred_at + chrono::TimeDelta::microseconds(1);
            let exact = EventFilter {
                types: vec!["a.B".to_owned(), event.type_name.clone()],
                keys: vec![other.key, event.key],
                merchant: Some(event.merchant),
                from: Some(event.occurred_at),
                before: Some(later),
            };
            prop_assert!(exact.wants(&event) && exact.looks_into(event.vpartition) && !exact.is_all());
            for refusing in [
                EventFilter { types: vec!["a.B".to_owned()], ..exact.clone() },
                EventFilter { keys: vec![other.key], ..exact.clone() },
                EventFilter { merchant: Some(other.merchant), ..exact.clone() },
                EventFilter { from: Some(later), before: None, ..exact.clone() },
                EventFilter { from: None, before: Some(event.occurred_at), ..exact },
            ] {
                prop_assert!(!refusing.wants(&event), "{refusing:?}");
                prop_assert!(!refusing.is_all());
            }
        }

        /// A partition is left out only when it can have none of the keys.
        #[test]
        fn the_partitions_of_the_keys_are_looked_into(events in prop::collection::vec(any_event(), 1..5)) {
            let filter = EventFilter {
                keys: events.iter().map(|event| event.key).collect(),
                ..EventFilter::default()
            };
            for partition in 0..64 {
                let held = events.iter().any(|event| event.vpartition == partition);
                prop_assert_eq!(filter.looks_into(partition), held);
            }
        }
    }
}
