//! Looking back: whether a timeline is as it was written, and an order made again from its events.

use std::collections::BTreeMap;

use waybill_events::Event;
use waybill_kernel::id::{EventId, OrderId};

use super::Orders;
use crate::consumers;
use crate::domain::fact::TimelineEntry;
use crate::domain::order::Tenant;
use crate::domain::picture::{Difference, differences};
use crate::domain::replay::{Effect, Moment, Replayed, Step, Unapplied, replay};
use crate::domain::trail::{Link, Verdict};
use crate::error::Error;
use crate::events::{self, read};
use crate::store::history;

/// An order as its events make it.
pub(crate) struct Rebuilt {
    /// What came of the replay.
    pub replayed: Replayed,
    /// Where the tables differ; only for the order as it is.
    pub differences: Vec<Difference>,
}

impl Orders {
    /// Whether the chain over an order's timeline is whole, and passes through a place that was noted elsewhere.
    pub(crate) async fn verify(
        &self,
        tenant: Tenant,
        order: OrderId,
        noted: Option<Link>,
    ) -> Result<Verdict, Error> {
        let verdict = history::inspect(&self.db, tenant, order, noted).await?;
        verdict.ok_or(Error::OrderNotFound)
    }

    /// Makes an order again from its own events in the log and from what others told of it, and compares it with the tables
    /// where that is meant (O-32).
    ///
    /// The timeline knows which transaction wrote each event, so each is found by the log's order, whatever the size of the log.
    pub(crate) async fn rebuild(
        &self,
        tenant: Tenant,
        order: OrderId,
        moment: Moment,
    ) -> Result<Rebuilt, Error> {
        let history = history::load(&self.db, tenant, order).await?;
        let history::History { picture, entries } = history.ok_or(Error::OrderNotFound)?;
        if i64::try_from(entries.len()).is_ok_and(|entries| entries > history::MOST) {
            return Err(Error::HistoryTooLong {
                order_id: order,
                most: history::MOST,
            });
        }
        let mut transactions: Vec<u64> = (entries.iter())
            .filter(|(entry, _)| is_own(entry))
            .filter_map(|(_, written_by)| *written_by)
            .collect();
        transactions.sort_unstable();
        transactions.dedup();
        let events = self.log.written_by(order.uuid(), &transactions).await?;
        let mut events: BTreeMap<EventId, Event> =
            events.into_iter().map(|event| (event.event_id, event)).collect();
        let steps = (entries.iter())
            .map(|(entry, _)| step(tenant, order, entry, events.remove(&entry.event)))
            .collect();
        let mut replayed = replay(steps, moment).map_err(|short| Error::VersionNotReached {
            order_id: order,
            version: short.version,
        })?;
        // What the log has beside the entries that were found: theirs were taken away.
        replayed
            .unapplied
            .extend(events.into_values().map(|event| Unapplied {
                event: event.event_id,
                type_name: event.type_name,
                reason: "it is in the log, but not on the timeline".to_owned(),
            }));
        let differences = match (&replayed.order, moment) {
            (Some(rebuilt), Moment::Now) => differences(rebuilt, &picture),
            _ => Vec::new(),
        };
        Ok(Rebuilt {
            replayed,
            differences,
        })
    }
}

fn is_own(entry: &TimelineEntry) -> bool {
    entry.service == events::SERVICE
}

fn step(tenant: Tenant, order: OrderId, entry: &TimelineEntry, event: Option<Event>) -> Step {
    let effect = match event {
        Some(event) if event.type_name == entry.type_name => read::effect(&event),
        Some(event) => {
            let reason = format!("the log says that it is a {}", event.type_name);
            Effect::Unreadable(Some(event.version), reason)
        }
        None if is_own(entry) => {
            let reason = "it is not among the events that its transaction wrote into the log, or has left the database";
            Effect::Unreadable(None, reason.to_owned())
        }
        None => consumers::effect(tenant, order, entry),
    };
    Step {
        event: entry.event,
        type_name: entry.type_name.clone(),
        known_at: entry.learned_at.unwrap_or(entry.occurred_at),
        effect,
    }
}

#[cfg(test)]
#[path = "rebuild_tests.rs"]
mod tests;
