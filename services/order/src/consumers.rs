//! The fold: what other services tell about orders goes onto the timeline and into the facets.
//!
//! `project` writes one timeline entry per event, behind the end of its order's chain (O-30), and lets the events whose entry
//! is new move the facets: so each event counts once by itself, whatever the cursors do (O-12). An event that moves a facet
//! leaves its contents in its entry, so that the order can be replayed from its timeline (O-32). `react` completes orders that
//! are paid and have arrived, and tells it; and where a store captures on shipment it writes the job that does. The order
//! service's own events are not followed: their entries and effects are written where they are decided.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, LazyLock};

use chrono::{DateTime, Utc};
use prost::Name as _;
use sqlx::PgConnection;
use uuid::Uuid;
use waybill_events::{Event, Fold, FoldError, Position, Projection, Reaction};
use waybill_kernel::id::{LineId, OrderId};
use waybill_kernel::money::{Currency, Money};
use waybill_kernel::partition::partition_of;
use waybill_kernel::time;
use waybill_proto::waybill::{
    fulfillment::v1 as fulfillment, notification::v1 as notification, refund::v1 as refund,
};
use waybill_store::{Origin, StoreError};

use crate::app::{BELL, Sweep};
use crate::domain::capture::{CapturePolicy, CaptureRules};
use crate::domain::fact::{Fact, MessageFact, ParcelFact, RefundFact, ReturnFact, TimelineEntry, Units};
use crate::domain::order::Tenant;
use crate::domain::replay::Effect;
use crate::domain::tracking::Tracked;
use crate::events::{self, About};
use crate::store::{timeline, track, trail};
use crate::workers;

/// Follows fulfillment, refund and notification.
pub(crate) struct OrderFold {
    pub(crate) clock: time::Shared,
    pub(crate) capture: Arc<CaptureRules>,
}

impl OrderFold {
    /// The services it follows.
    pub(crate) const SOURCES: &'static [&'static str] = &["fulfillment", "refund", "notification"];
}

impl Fold for OrderFold {
    const NAME: &'static str = "order";

    fn sources(&self) -> &'static [&'static str] {
        OrderFold::SOURCES
    }

    /// Orders are known because they were placed here.
    fn opens(&self, _: &Event) -> bool {
        false
    }

    /// An event of a type from a later version may be about something else than an order; it must not wait for one.
    fn needs_opening(&self, event: &Event) -> bool {
        is_known(event)
    }

    fn handles(&self, event: &Event) -> bool {
        // Facts of a merchant, or of a store as a whole, are about no order.
        event.store.is_some() && !event.is::<refund::PolicyPublished>()
    }

    async fn known(&self, conn: &mut PgConnection, keys: &[Uuid]) -> Result<HashSet<Uuid>, FoldError> {
        Ok(track::known(conn, keys).await?)
    }

    async fn project(&self, projection: &mut Projection<'_>, events: &[Event]) -> Result<(), FoldError> {
        let now = self.clock.now();
        let heard = (events.iter())
            .map(|event| Heard::of(event, now))
            .collect::<Result<Vec<_>, _>>()?;
        let heard: Vec<Heard<'_>> = heard.into_iter().flatten().collect();
        let orders: BTreeSet<Uuid> = heard.iter().map(|heard| heard.order.uuid()).collect();
        trail::lock(projection.conn(), &orders.into_iter().collect::<Vec<_>>()).await?;
        let entries = heard
            .iter()
            .map(|heard| (heard.order, heard.tenant, &heard.entry));
        let tentative = heard.iter().map(|heard| !is_known(heard.event)).collect();
        let new = timeline::record(projection.conn(), entries, tentative).await?;
        let new: HashSet<Uuid> = new.into_iter().collect();
        let news = heard
            .iter()
            .filter(|heard| new.contains(&heard.event.event_id.uuid()));
        self.move_facets(projection.conn(), &news.collect::<Vec<_>>())
            .await
    }

    async fn react(&self, reaction: &mut Reaction<'_>, events: &[Event]) -> Result<(), FoldError> {
        self.capture_shipped(reaction, events);
        // Whatever came first, it is an arrival that completes an order here; a payment that does is seen in RecordPayment.
        let mut arrivals: BTreeMap<Uuid, &Event> = BTreeMap::new();
        for event in events
            .iter()
            .filter(|event| event.is::<fulfillment::ShipmentDelivered>())
        {
            arrivals.insert(event.key, event);
        }
        if arrivals.is_empty() {
            return Ok(());
        }
        let keys: Vec<Uuid> = arrivals.keys().copied().collect();
        let orders = track::states(reaction.conn(), &keys).await?;
        let mut completed = Vec::new();
        let mut told = Vec::new();
        for (order, (tenant, mut tracked)) in orders {
            if tracked.state.complete_if_done() {
                tracked.state.touch(self.clock.now());
                let (version, at) = (tracked.state.version, tracked.state.updated_at);
                completed.push((order, at));
                let event = arrivals.get(&order.uuid());
                let traceparent = event.and_then(|event| event.traceparent.as_deref());
                let cause = event.map(|event| event.event_id.to_string()).unwrap_or_default();
                let fact = events::completed(
                    About {
                        tenant,
                        order,
                        version,
                        at,
                    },
                    traceparent,
                );
                let origin = Origin::service(events::SERVICE, cause);
                told.push((order, tenant, fact.on_behalf(origin)));
            }
        }
        if completed.is_empty() {
            return Ok(());
        }
        track::complete(reaction.conn(), &completed).await?;
        let entries = told
            .iter()
            .map(|(order, tenant, told)| (*order, *tenant, &told.entry));
        timeline::record(reaction.conn(), entries, vec![false; told.len()]).await?;
        for (.., told) in told {
            reaction.append(told.event);
        }
        reaction.tx().ring(BELL);
        Ok(())
    }
}

impl OrderFold {
    /// What has left is captured, where the store wants that: all that is open of the order, by a job. Later parcels find
    /// nothing left, unless something was authorised meanwhile.
    fn capture_shipped(&self, reaction: &mut Reaction<'_>, events: &[Event]) {
        for event in events
            .iter()
            .filter(|event| event.is::<fulfillment::ShipmentShipped>())
        {
            let Some(store) = event.store else { continue };
            let tenant = Tenant {
                merchant: event.merchant,
                store,
            };
            if self.capture.of(tenant) != CapturePolicy::OnShipment {
                continue;
            }
            let cause = format!("shipped:{}", event.event_id);
            let job = workers::sweep_job(tenant, event.key.into(), Sweep::Capture, &cause);
            reaction.enqueue(job.traceparent(event.traceparent.clone()));
        }
    }

    async fn move_facets(&self, conn: &mut PgConnection, news: &[&Heard<'_>]) -> Result<(), FoldError> {
        let moving: Vec<&&Heard<'_>> = news.iter().filter(|heard| heard.fact.moves()).collect();
        if moving.is_empty() {
            return Ok(());
        }
        let orders: BTreeSet<OrderId> = moving.iter().map(|heard| heard.order).collect();
        let orders: Vec<Uuid> = orders.into_iter().map(OrderId::uuid).collect();
        let lines: BTreeSet<(OrderId, LineId)> = moving
            .iter()
            .flat_map(|heard| heard.fact.lines().map(|line| (heard.order, line)))
            .collect();
        let lines: Vec<(OrderId, LineId)> = lines.into_iter().collect();
        let mut tracked = track::tracked(conn, &orders, &lines).await?;
        let before = tracked.clone();
        for heard in moving {
            let Some((_, order)) = tracked.get_mut(&heard.order) else {
                return Err(StoreError::other("an order vanished").into());
            };
            let event = heard.event;
            order.apply(&heard.fact).map_err(|unknown| {
                FoldError::poison(format!(
                    "event {} about order {}: {unknown}",
                    event.event_id, heard.order
                ))
            })?;
        }
        let changed: Vec<(OrderId, Tenant, Tracked)> = (tracked.into_iter())
            .filter(|(order, now)| before.get(order) != Some(now))
            .map(|(order, (tenant, mut tracked))| {
                tracked.state.updated_at = self.clock.now();
                (order, tenant, tracked)
            })
            .collect();
        Ok(track::save_tracked(conn, &changed).await?)
    }
}

/// An event, read.
struct Heard<'a> {
    event: &'a Event,
    order: OrderId,
    tenant: Tenant,
    fact: Fact,
    entry: TimelineEntry,
}

impl<'a> Heard<'a> {
    /// Reads an event; nothing for one that is about no store.
    fn of(event: &'a Event, now: DateTime<Utc>) -> Result<Option<Heard<'a>>, FoldError> {
        let Some(store) = event.store else { return Ok(None) };
        let fact = fact(event)?;
        let entry = TimelineEntry {
            event: event.event_id,
            service: event.source.to_string(),
            type_name: event.type_name.clone(),
            summary: fact.summary(),
            occurred_at: event.occurred_at,
            trace_id: event
                .traceparent
                .as_deref()
                .map(events::trace_id)
                .unwrap_or_default(),
            subject: fact.subject(),
            actor: if event.origin.actor.is_empty() {
                // At least that much is sure.
                Origin::service(&event.source, "").actor
            } else {
                event.origin.actor.clone()
            },
            cause: event.origin.cause.clone(),
            learned_at: Some(now),
            payload: fact.moves().then(|| event.payload.to_vec()),
            link: None,
        };
        let tenant = Tenant {
            merchant: event.merchant,
            store,
        };
        Ok(Some(Heard {
            event,
            order: event.key.into(),
            tenant,
            fact,
            entry,
        }))
    }
}

/// What another service told, as an entry of the timeline kept it.
pub(crate) fn effect(tenant: Tenant, order: OrderId, entry: &TimelineEntry) -> Effect {
    let Some(payload) = &entry.payload else {
        let moves = MOVING.contains(&entry.type_name);
        return if moves {
            let reason = "its contents were not kept when this service learned it";
            Effect::Unreadable(None, reason.to_owned())
        } else {
            Effect::Nothing
        };
    };
    let key = order.uuid();
    let event = Event {
        position: Position::ZERO,
        prev: Position::ZERO,
        event_id: entry.event,
        source: Arc::from(entry.service.as_str()),
        type_name: entry.type_name.clone(),
        merchant: tenant.merchant,
        store: Some(tenant.store),
        key,
        vpartition: partition_of(key),
        aggregate: key,
        version: 0,
        payload: payload.clone().into(),
        traceparent: None,
        occurred_at: entry.occurred_at,
        origin: Origin::default(),
    };
    match fact(&event) {
        Ok(fact) => Effect::Told(fact),
        Err(FoldError::Poison(reason)) => Effect::Unreadable(None, reason),
        Err(other) => Effect::Unreadable(None, other.to_string()),
    }
}

/// Full names of the types whose facts move a facet.
static MOVING: LazyLock<[String; 9]> = LazyLock::new(|| {
    [
        fulfillment::ShipmentShipped::full_name(),
        fulfillment::ShipmentDelivered::full_name(),
        refund::ReturnRequested::full_name(),
        refund::ReturnApproved::full_name(),
        refund::ReturnDeclined::full_name(),
        refund::ReturnReceived::full_name(),
        refund::ReturnCompleted::full_name(),
        refund::RefundSucceeded::full_name(),
        refund::RefundFailed::full_name(),
    ]
});

/// Whether this version knows what the event's type means.
fn is_known(event: &Event) -> bool {
    KNOWN.contains(&event.type_name)
}

/// Reads an event of a known type, or notes that there is one of another.
macro_rules! facts {
    ($($message:path => $read:expr;)+) => {
        /// Full names of the types below.
        static KNOWN: LazyLock<Vec<String>> =
            LazyLock::new(|| vec![$(<$message as prost::Name>::full_name()),+]);

        fn fact(event: &Event) -> Result<Fact, FoldError> {
            $(if let Some(message) = event.as_a::<$message>()? {
                let read: fn($message) -> Result<Fact, FoldError> = $read;
                return read(message).map_err(|error| name_event(error, event));
            })+
            Ok(Fact::Other { name: event.short_type().to_owned() })
        }
    };
}

facts! {
    fulfillment::OrderAllocated => |_| Ok(Fact::Allocated);
    fulfillment::OrderBackordered => |m| Ok(Fact::Backordered { units: units_of(&m.missing) });
    fulfillment::ReservationReleased => |_| Ok(Fact::Released);
    fulfillment::ShipmentShipped => |m| {
        let shipped = ParcelFact::Shipped { carrier: m.carrier, units: lines(&m.lines)? };
        parcel(&m.shipment_id, shipped)
    };
    fulfillment::ShipmentStatusChanged => |m| parcel(&m.shipment_id, ParcelFact::Moved { status: m.status });
    fulfillment::ShipmentDelivered => |m| {
        let delivered = ParcelFact::Delivered { units: lines(&m.lines)? };
        parcel(&m.shipment_id, delivered)
    };
    refund::ReturnRequested => |m| {
        returned(&m.return_id, ReturnFact::Requested { units: returned_units(&m.lines) })
    };
    refund::ReturnApproved => |m| returned(&m.return_id, ReturnFact::Approved { automatic: m.automatic });
    refund::ReturnDeclined => |m| returned(&m.return_id, ReturnFact::Declined);
    refund::ReturnReceived => |m| {
        returned(&m.return_id, ReturnFact::Received { units: returned_units(&m.lines) })
    };
    refund::ReturnCompleted => |m| returned(&m.return_id, ReturnFact::Completed);
    refund::RefundCreated => |m| {
        refunded(&m.refund_id, &m.currency_code, m.amount_minor, RefundFact::Created)
    };
    refund::RefundStarted => |m| {
        refunded(&m.refund_id, &m.currency_code, m.amount_minor, RefundFact::Started)
    };
    refund::RefundSucceeded => |m| {
        let succeeded = RefundFact::Succeeded { order_refunded: m.order_refunded_minor };
        refunded(&m.refund_id, &m.currency_code, m.amount_minor, succeeded)
    };
    refund::RefundFailed => |m| {
        let failed = RefundFact::Failed { reason: m.failure_reason, order_refunded: m.order_refunded_minor };
        refunded(&m.refund_id, &m.currency_code, m.amount_minor, failed)
    };
    notification::NotificationSent => |m| {
        let subject = if m.subject_id == m.order_id { None } else { optional_id(&m.subject_id)? };
        Ok(Fact::Message { subject, stage: m.stage, channel: m.channel, fact: MessageFact::Sent })
    };
    notification::NotificationSuppressed => |m| {
        let subject = optional_id(&m.notification_id)?;
        let fact = MessageFact::Suppressed { reason: m.reason };
        Ok(Fact::Message { subject, stage: m.stage, channel: m.channel, fact })
    };
    notification::NotificationFailed => |m| {
        let subject = optional_id(&m.notification_id)?;
        let fact = MessageFact::Failed { reason: m.reason };
        Ok(Fact::Message { subject, stage: m.stage, channel: m.channel, fact })
    };
}

fn name_event(error: FoldError, event: &Event) -> FoldError {
    match error {
        FoldError::Poison(fault) => {
            FoldError::poison(format!("{} {}: {fault}", event.short_type(), event.event_id))
        }
        other => other,
    }
}

fn parcel(shipment: &str, fact: ParcelFact) -> Result<Fact, FoldError> {
    Ok(Fact::Parcel {
        shipment: id("shipment_id", shipment)?,
        fact,
    })
}

fn returned(return_id: &str, fact: ReturnFact) -> Result<Fact, FoldError> {
    Ok(Fact::Return {
        id: id("return_id", return_id)?,
        fact,
    })
}

fn refunded(refund: &str, currency: &str, minor: i64, fact: RefundFact) -> Result<Fact, FoldError> {
    let currency = Currency::parse(currency).map_err(|error| FoldError::poison(error.to_string()))?;
    Ok(Fact::Refund {
        refund: id("refund_id", refund)?,
        amount: Money::new(currency, minor),
        fact,
    })
}

fn lines(quantities: &[fulfillment::LineQuantity]) -> Result<Vec<Units>, FoldError> {
    let units = |quantity: &fulfillment::LineQuantity| {
        Ok(Units {
            line: id("line_id", &quantity.line_id)?,
            units: quantity.quantity,
        })
    };
    quantities.iter().map(units).collect()
}

fn units_of(quantities: &[fulfillment::LineQuantity]) -> i64 {
    quantities
        .iter()
        .map(|quantity| i64::from(quantity.quantity))
        .sum()
}

fn returned_units(lines: &[refund::ReturnedLine]) -> i64 {
    lines.iter().map(|line| i64::from(line.quantity)).sum()
}

fn id<T: From<Uuid>>(field: &str, text: &str) -> Result<T, FoldError> {
    (text.parse::<Uuid>().map(T::from)).map_err(|_| FoldError::poison(format!("{field} {text:?} is no id")))
}

fn optional_id(text: &str) -> Result<Option<Uuid>, FoldError> {
    if text.is_empty() {
        Ok(None)
    } else {
        id("id", text).map(Some)
    }
}

#[cfg(test)]
#[path = "consumers_tests.rs"]
pub(crate) mod tests;
