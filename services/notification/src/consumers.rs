//! Events of the other services into planned messages.
//!
//! `project` keeps what a follow-up has to know; `react` plans messages and writes the jobs that send them. Nothing is sent
//! here.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use sqlx::PgConnection;
use uuid::Uuid;
use waybill_events::{Event, Fold, FoldError, Projection, Reaction};
use waybill_kernel::id::{NotificationId, OrderId};
use waybill_kernel::time;
use waybill_proto::waybill::fulfillment::v1 as fulfillment;
use waybill_proto::waybill::order::v1 as order;
use waybill_proto::waybill::refund::v1 as refund;

use crate::domain::notification::{Planned, State, reason};
use crate::domain::stage::Stage;
use crate::domain::turn::Matter;
use crate::{app, store};

/// The services whose events customers are told of.
pub const SOURCES: [&str; 3] = ["order", "fulfillment", "refund"];

/// The types of events that something follows from.
const HANDLED: [&str; 17] = [
    "waybill.order.v1.OrderPlaced",
    "waybill.order.v1.OrderEdited",
    "waybill.order.v1.OrderCancelled",
    "waybill.order.v1.OrderContactErased",
    "waybill.fulfillment.v1.ReservationReleased",
    "waybill.fulfillment.v1.ShipmentShipped",
    "waybill.fulfillment.v1.ShipmentStatusChanged",
    "waybill.fulfillment.v1.ShipmentDelivered",
    "waybill.refund.v1.ReturnRequested",
    "waybill.refund.v1.ReturnApproved",
    "waybill.refund.v1.ReturnDeclined",
    "waybill.refund.v1.ReturnReceived",
    "waybill.refund.v1.ReturnCompleted",
    "waybill.refund.v1.RefundCreated",
    "waybill.refund.v1.RefundStarted",
    "waybill.refund.v1.RefundSucceeded",
    "waybill.refund.v1.RefundFailed",
];

/// The fold of the service.
#[derive(Clone)]
pub struct Messages {
    /// Now.
    pub clock: time::Shared,
    /// Between the last delivery and the question how it was.
    pub feedback_delay: Duration,
}

impl Fold for Messages {
    const NAME: &'static str = "notification";

    fn sources(&self) -> &'static [&'static str] {
        &SOURCES
    }

    fn tables(&self) -> &'static [&'static str] {
        &["orders", "open_matters"]
    }

    fn opens(&self, event: &Event) -> bool {
        event.is::<order::OrderPlaced>()
    }

    fn handles(&self, event: &Event) -> bool {
        // Events are additive: a type that tells the customer nothing, or is newer than this code, is passed over.
        HANDLED.contains(&event.type_name.as_str())
    }

    async fn known(&self, conn: &mut PgConnection, keys: &[Uuid]) -> Result<HashSet<Uuid>, FoldError> {
        Ok(store::known_orders(conn, keys).await?.into_iter().collect())
    }

    async fn project(&self, projection: &mut Projection<'_>, events: &[Event]) -> Result<(), FoldError> {
        let mut placed = Vec::new();
        let mut matters = HashMap::new();
        for event in events {
            if event.is::<order::OrderPlaced>() {
                placed.push((event.key, event.merchant.uuid(), store_of(event)?));
            } else if let Some((subject, matter, open)) = matter(event)? {
                // Events of one order stand in their order: the last word counts.
                matters.insert(subject, open.then_some((event.key, matter)));
            }
        }
        store::place(projection.conn(), &placed).await?;
        store::set_open(projection.conn(), &matters).await?;
        Ok(())
    }

    async fn react(&self, reaction: &mut Reaction<'_>, events: &[Event]) -> Result<(), FoldError> {
        let mut planned = Vec::new();
        for event in events {
            for (stage, subject) in stages(event)? {
                planned.push(self.plan(event, stage, subject)?);
            }
        }
        let fresh: HashSet<NotificationId> = store::plan(reaction.conn(), &planned)
            .await?
            .into_iter()
            .collect();
        for one in planned.iter().filter(|one| fresh.contains(&one.id)) {
            reaction.enqueue(app::job_of_planned(one));
        }
        self.forget(reaction, events).await
    }
}

impl Messages {
    /// What still waits to be told to a customer who was erased never is (N-8). A message that is being handed over at this
    /// moment ends by itself: its next try asks the order service.
    async fn forget(&self, reaction: &mut Reaction<'_>, events: &[Event]) -> Result<(), FoldError> {
        let erased: HashMap<Uuid, &Event> = (events.iter())
            .filter(|event| event.is::<order::OrderContactErased>())
            .map(|event| (event.key, event))
            .collect();
        if erased.is_empty() {
            return Ok(());
        }
        let orders: Vec<Uuid> = erased.keys().copied().collect();
        let now = self.clock.now();
        let suppressed = store::suppress(reaction.conn(), &orders, reason::CONTACT_ERASED).await?;
        for (notification, version) in suppressed {
            let told = crate::events::ended(
                &notification,
                State::Suppressed,
                reason::CONTACT_ERASED,
                version,
                now,
            );
            if let Some((told, cause)) = told.zip(erased.get(&notification.order.uuid())) {
                reaction.append(told.caused_by(cause));
            }
        }
        Ok(())
    }

    fn plan(&self, event: &Event, stage: Stage, subject: Uuid) -> Result<Planned, FoldError> {
        let delay = if stage.is_follow_up() {
            self.feedback_delay
        } else {
            Duration::ZERO
        };
        Ok(Planned {
            id: NotificationId::generate(),
            merchant: event.merchant,
            store: store_of(event)?.into(),
            order: OrderId::from(event.key),
            stage,
            subject,
            scheduled_at: event.occurred_at + delay,
            traceparent: event.traceparent.clone(),
        })
    }
}

/// What an event opens or closes: the subject, what it is, and whether it is open now.
fn matter(event: &Event) -> Result<Option<(Uuid, Matter, bool)>, FoldError> {
    let (id, matter, open) = match event.type_name.as_str() {
        "waybill.refund.v1.ReturnRequested" => (
            event.decode::<refund::ReturnRequested>()?.return_id,
            Matter::Return,
            true,
        ),
        "waybill.refund.v1.ReturnDeclined" => (
            event.decode::<refund::ReturnDeclined>()?.return_id,
            Matter::Return,
            false,
        ),
        "waybill.refund.v1.ReturnCompleted" => (
            event.decode::<refund::ReturnCompleted>()?.return_id,
            Matter::Return,
            false,
        ),
        "waybill.refund.v1.RefundCreated" => (
            event.decode::<refund::RefundCreated>()?.refund_id,
            Matter::Refund,
            true,
        ),
        "waybill.refund.v1.RefundSucceeded" => (
            event.decode::<refund::RefundSucceeded>()?.refund_id,
            Matter::Refund,
            false,
        ),
        // What was refused is owed again.
        "waybill.refund.v1.RefundFailed" => (
            event.decode::<refund::RefundFailed>()?.refund_id,
            Matter::Refund,
            true,
        ),
        "waybill.fulfillment.v1.ShipmentStatusChanged" => {
            let changed: fulfillment::ShipmentStatusChanged = event.decode()?;
            let trouble = ["exception", "returned_to_sender"].contains(&changed.status.as_str());
            (changed.shipment_id, Matter::Shipment, trouble)
        }
        "waybill.fulfillment.v1.ShipmentDelivered" => (
            event.decode::<fulfillment::ShipmentDelivered>()?.shipment_id,
            Matter::Shipment,
            false,
        ),
        _ => return Ok(None),
    };
    Ok(Some((parse("subject", &id)?, matter, open)))
}

/// What the customer is told because of an event, and what it is about.
fn stages(event: &Event) -> Result<Vec<(Stage, Uuid)>, FoldError> {
    let about_order = |stage| Ok(vec![(stage, event.key)]);
    let about = |stage, id: &str| Ok(vec![(stage, parse("subject", id)?)]);
    match event.type_name.as_str() {
        "waybill.order.v1.OrderPlaced" => about_order(Stage::OrderConfirmed),
        "waybill.order.v1.OrderEdited" => {
            about(Stage::OrderEdited, &event.decode::<order::OrderEdited>()?.edit_id)
        }
        "waybill.order.v1.OrderCancelled" => about_order(Stage::OrderCancelled),
        // The last units that were missing were cancelled: what is left has arrived.
        "waybill.fulfillment.v1.ReservationReleased" => {
            let released: fulfillment::ReservationReleased = event.decode()?;
            let delivered = released.order_delivered_at.map(|_| (Stage::Feedback, event.key));
            Ok(delivered.into_iter().collect())
        }
        "waybill.fulfillment.v1.ShipmentShipped" => about(
            Stage::Shipped,
            &event.decode::<fulfillment::ShipmentShipped>()?.shipment_id,
        ),
        "waybill.fulfillment.v1.ShipmentStatusChanged" => {
            let changed: fulfillment::ShipmentStatusChanged = event.decode()?;
            let stage = match changed.status.as_str() {
                "in_transit" => Stage::InTransit,
                "out_for_delivery" => Stage::OutForDelivery,
                "exception" => Stage::Exception,
                _ => return Ok(Vec::new()),
            };
            about(stage, &changed.shipment_id)
        }
        "waybill.fulfillment.v1.ShipmentDelivered" => {
            let delivered: fulfillment::ShipmentDelivered = event.decode()?;
            let mut stages = vec![(Stage::Delivered, parse("shipment_id", &delivered.shipment_id)?)];
            if delivered.order_fully_delivered {
                stages.push((Stage::Feedback, event.key));
            }
            Ok(stages)
        }
        "waybill.refund.v1.ReturnRequested" => about(
            Stage::ReturnRequested,
            &event.decode::<refund::ReturnRequested>()?.return_id,
        ),
        "waybill.refund.v1.ReturnApproved" => about(
            Stage::ReturnApproved,
            &event.decode::<refund::ReturnApproved>()?.return_id,
        ),
        "waybill.refund.v1.ReturnDeclined" => about(
            Stage::ReturnDeclined,
            &event.decode::<refund::ReturnDeclined>()?.return_id,
        ),
        "waybill.refund.v1.ReturnReceived" => about(
            Stage::ReturnReceived,
            &event.decode::<refund::ReturnReceived>()?.return_id,
        ),
        "waybill.refund.v1.RefundStarted" => about(
            Stage::RefundStarted,
            &event.decode::<refund::RefundStarted>()?.refund_id,
        ),
        "waybill.refund.v1.RefundSucceeded" => about(
            Stage::RefundSucceeded,
            &event.decode::<refund::RefundSucceeded>()?.refund_id,
        ),
        "waybill.refund.v1.RefundFailed" => about(
            Stage::RefundFailed,
            &event.decode::<refund::RefundFailed>()?.refund_id,
        ),
        _ => Ok(Vec::new()),
    }
}

fn store_of(event: &Event) -> Result<Uuid, FoldError> {
    event
        .store
        .map(|store| store.uuid())
        .ok_or_else(|| FoldError::poison(format!("{} without a store", event.type_name)))
}

fn parse(field: &str, text: &str) -> Result<Uuid, FoldError> {
    text.parse()
        .map_err(|_| FoldError::poison(format!("{field}: {text:?} is not an id")))
}

#[cfg(test)]
mod tests {
    use prost::Name as _;

    use super::*;

    #[test]
    fn what_is_handled_has_its_name_in_the_contracts() {
        let mut contract = [
            order::OrderPlaced::full_name(),
            order::OrderEdited::full_name(),
            order::OrderCancelled::full_name(),
            order::OrderContactErased::full_name(),
            fulfillment::ReservationReleased::full_name(),
            fulfillment::ShipmentShipped::full_name(),
            fulfillment::ShipmentStatusChanged::full_name(),
            fulfillment::ShipmentDelivered::full_name(),
            refund::ReturnRequested::full_name(),
            refund::ReturnApproved::full_name(),
            refund::ReturnDeclined::full_name(),
            refund::ReturnReceived::full_name(),
            refund::ReturnCompleted::full_name(),
            refund::RefundCreated::full_name(),
            refund::RefundStarted::full_name(),
            refund::RefundSucceeded::full_name(),
            refund::RefundFailed::full_name(),
        ];
        let mut handled = HANDLED;
        contract.sort();
        handled.sort_unstable();
        assert_eq!(contract.as_slice(), handled.as_slice());
    }
}
