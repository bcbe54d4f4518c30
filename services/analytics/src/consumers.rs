//! Events of the other services into facts. Only tables are written here: the service tells nobody anything.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;
use waybill_events::{Event, Fold, FoldError, Projection, Reaction};
use waybill_proto::waybill::fulfillment::v1 as fulfillment;
use waybill_proto::waybill::notification::v1 as notification;
use waybill_proto::waybill::order::v1 as order;
use waybill_proto::waybill::refund::v1 as refund;

use crate::store::facts::{
    self, ChangeFact, Milestone, NotificationFact, PlacedFact, RefundFact, RefundOutcome, ReturnFact,
};

/// The services whose events are counted.
pub const SOURCES: [&str; 4] = ["order", "fulfillment", "refund", "notification"];

/// The types of events that a figure counts.
const HANDLED: [&str; 15] = [
    "waybill.order.v1.OrderPlaced",
    "waybill.order.v1.OrderEdited",
    "waybill.order.v1.OrderCancelled",
    "waybill.order.v1.OrderCompleted",
    "waybill.fulfillment.v1.ReservationReleased",
    "waybill.fulfillment.v1.ShipmentShipped",
    "waybill.fulfillment.v1.ShipmentDelivered",
    "waybill.refund.v1.RefundCreated",
    "waybill.refund.v1.RefundSucceeded",
    "waybill.refund.v1.RefundFailed",
    "waybill.refund.v1.ReturnRequested",
    "waybill.refund.v1.ReturnCompleted",
    "waybill.notification.v1.NotificationSent",
    "waybill.notification.v1.NotificationSuppressed",
    "waybill.notification.v1.NotificationFailed",
];

/// The fold of the service.
#[derive(Debug, Clone, Copy)]
pub struct Facts;

impl Fold for Facts {
    const NAME: &'static str = "analytics";

    fn sources(&self) -> &'static [&'static str] {
        &SOURCES
    }

    fn opens(&self, event: &Event) -> bool {
        event.is::<order::OrderPlaced>()
    }

    fn tables(&self) -> &'static [&'static str] {
        &[
            "order_facts",
            "refund_facts",
            "return_facts",
            "notification_facts",
        ]
    }

    fn handles(&self, event: &Event) -> bool {
        // Events are additive: a type that counts for no figure, or is newer than this code, is passed over.
        HANDLED.contains(&event.type_name.as_str())
    }

    async fn known(&self, conn: &mut PgConnection, keys: &[Uuid]) -> Result<HashSet<Uuid>, FoldError> {
        Ok(facts::known_orders(conn, keys).await?.into_iter().collect())
    }

    async fn project(&self, projection: &mut Projection<'_>, events: &[Event]) -> Result<(), FoldError> {
        let batch = Batch::read(events)?;
        let conn = projection.conn();
        facts::place(conn, &batch.placed).await?;
        facts::change(conn, &batch.changes).await?;
        facts::advance(conn, &batch.milestones).await?;
        facts::create_refunds(conn, &batch.refunds).await?;
        facts::settle_refunds(conn, &batch.outcomes()).await?;
        facts::request_returns(conn, &batch.returns).await?;
        facts::complete_returns(conn, &batch.completed_returns).await?;
        facts::decide_notifications(conn, &batch.notifications()).await?;
        Ok(())
    }

    async fn react(&self, _: &mut Reaction<'_>, _: &[Event]) -> Result<(), FoldError> {
        Ok(())
    }
}

/// The facts that a batch of events tells.
///
/// Events of one order stand in their order, so where the same fact is told twice the last word counts.
#[derive(Default)]
struct Batch {
    placed: Vec<PlacedFact>,
    changes: Vec<ChangeFact>,
    milestones: Vec<Milestone>,
    refunds: Vec<RefundFact>,
    outcomes: HashMap<Uuid, Option<DateTime<Utc>>>,
    returns: Vec<ReturnFact>,
    completed_returns: Vec<(Uuid, DateTime<Utc>)>,
    notifications: HashMap<Uuid, NotificationFact>,
}

impl Batch {
    fn read(events: &[Event]) -> Result<Self, FoldError> {
        let mut batch = Self::default();
        for event in events {
            batch.take(event)?;
        }
        Ok(batch)
    }

    fn outcomes(&self) -> Vec<RefundOutcome> {
        self.outcomes
            .iter()
            .map(|(refund, succeeded_at)| RefundOutcome {
                refund: *refund,
                succeeded_at: *succeeded_at,
            })
            .collect()
    }

    fn notifications(&self) -> Vec<NotificationFact> {
        self.notifications.values().cloned().collect()
    }

    fn take(&mut self, event: &Event) -> Result<(), FoldError> {
        let at = event.occurred_at;
        let milestone = Milestone {
            order: event.key,
            ..Milestone::default()
        };
        match event.type_name.as_str() {
            "waybill.order.v1.OrderPlaced" => self.placed.push(placed(event, &event.decode()?)?),
            "waybill.order.v1.OrderEdited" => self.changes.push(edited(event, &event.decode()?)),
            "waybill.order.v1.OrderCancelled" => {
                self.milestones.push(Milestone {
                    cancelled_at: Some(at),
                    ..milestone
                });
            }
            "waybill.order.v1.OrderCompleted" => {
                self.milestones.push(Milestone {
                    completed_at: Some(at),
                    ..milestone
                });
            }
            "waybill.fulfillment.v1.ReservationReleased" => {
                let released: fulfillment::ReservationReleased = event.decode()?;
                if let Some(delivered_at) = time(released.order_delivered_at) {
                    self.milestones.push(Milestone {
                        delivered_at: Some(delivered_at),
                        ..milestone
                    });
                }
            }
            "waybill.fulfillment.v1.ShipmentShipped" => {
                let shipped: fulfillment::ShipmentShipped = event.decode()?;
                let shipped_at = time(shipped.shipped_at).or(Some(at));
                self.milestones.push(Milestone {
                    shipped_at,
                    ..milestone
                });
            }
            "waybill.fulfillment.v1.ShipmentDelivered" => {
                let delivered: fulfillment::ShipmentDelivered = event.decode()?;
                if delivered.order_fully_delivered {
                    let delivered_at = time(delivered.delivered_at).or(Some(at));
                    self.milestones.push(Milestone {
                        delivered_at,
                        ..milestone
                    });
                }
            }
            "waybill.refund.v1.RefundCreated" => {
                let created: refund::RefundCreated = event.decode()?;
                self.refunds.push(RefundFact {
                    refund: id("refund_id", &created.refund_id)?,
                    merchant: event.merchant.uuid(),
                    store: store_of(event)?,
                    order: event.key,
                    currency: created.currency_code,
                    amount: created.amount_minor,
                    reason: created.reason,
                    created_at: at,
                });
            }
            "waybill.refund.v1.RefundSucceeded" => {
                let succeeded: refund::RefundSucceeded = event.decode()?;
                let succeeded_at = time(succeeded.succeeded_at).or(Some(at));
                self.outcomes
                    .insert(id("refund_id", &succeeded.refund_id)?, succeeded_at);
            }
            "waybill.refund.v1.RefundFailed" => {
                let failed: refund::RefundFailed = event.decode()?;
                self.outcomes.insert(id("refund_id", &failed.refund_id)?, None);
            }
            "waybill.refund.v1.ReturnRequested" => {
                let requested: refund::ReturnRequested = event.decode()?;
                self.returns.push(ReturnFact {
                    id: id("return_id", &requested.return_id)?,
                    merchant: event.merchant.uuid(),
                    store: store_of(event)?,
                    order: event.key,
                    requested_at: at,
                });
            }
            "waybill.refund.v1.ReturnCompleted" => {
                let completed: refund::ReturnCompleted = event.decode()?;
                self.completed_returns
                    .push((id("return_id", &completed.return_id)?, at));
            }
            "waybill.notification.v1.NotificationSent" => {
                let sent: notification::NotificationSent = event.decode()?;
                self.notify(event, &sent.notification_id, sent.stage, "sent")?;
            }
            "waybill.notification.v1.NotificationSuppressed" => {
                let suppressed: notification::NotificationSuppressed = event.decode()?;
                self.notify(event, &suppressed.notification_id, suppressed.stage, "suppressed")?;
            }
            "waybill.notification.v1.NotificationFailed" => {
                let failed: notification::NotificationFailed = event.decode()?;
                self.notify(event, &failed.notification_id, failed.stage, "failed")?;
            }
            _ => {}
        }
        Ok(())
    }

    fn notify(
        &mut self,
        event: &Event,
        notification_id: &str,
        stage: String,
        outcome: &'static str,
    ) -> Result<(), FoldError> {
        let id = id("notification_id", notification_id)?;
        let fact = NotificationFact {
            id,
            merchant: event.merchant.uuid(),
            store: store_of(event)?,
            order: event.key,
            stage,
            outcome,
            at: event.occurred_at,
        };
        self.notifications.insert(id, fact);
        Ok(())
    }
}

fn placed(event: &Event, placed: &order::OrderPlaced) -> Result<PlacedFact, FoldError> {
    Ok(PlacedFact {
        order: event.key,
        merchant: event.merchant.uuid(),
        store: store_of(event)?,
        currency: placed.currency_code.clone(),
        placed_at: time(placed.placed_at).unwrap_or(event.occurred_at),
        units: placed.lines.iter().map(|line| i64::from(line.quantity)).sum(),
        gross: placed.total_minor,
        net: placed.lines.iter().map(|line| line.net_minor).sum(),
        discounts: placed.discounts_minor,
        tax: placed.tax_minor,
        shipping: placed.shipping_minor,
        source: placed.source_system.clone(),
        country: placed.ship_country.clone(),
    })
}

/// What an order has more, or less, with an edit: the lines it added, without the units it removed.
fn edited(event: &Event, edited: &order::OrderEdited) -> ChangeFact {
    let (added, removed) = (&edited.added, &edited.removed);
    let units = |quantities: &mut dyn Iterator<Item = i32>| quantities.map(i64::from).sum::<i64>();
    let taxes = added.iter().flat_map(|line| &line.taxes);
    ChangeFact {
        order: event.key,
        units: units(&mut added.iter().map(|line| line.quantity))
            - units(&mut removed.iter().map(|line| line.quantity)),
        gross: edited.added_minor - edited.removed_minor,
        net: added.iter().map(|line| line.net_minor).sum::<i64>()
            - removed.iter().map(|line| line.net_minor).sum::<i64>(),
        // What was taken off the price of removed units was given all the same.
        discounts: edited.added_discounts_minor,
        tax: taxes.map(|tax| tax.amount_minor).sum::<i64>()
            - removed.iter().map(|line| line.tax_minor).sum::<i64>(),
    }
}

fn store_of(event: &Event) -> Result<Uuid, FoldError> {
    event
        .store
        .map(|store| store.uuid())
        .ok_or_else(|| FoldError::poison(format!("{} without a store", event.type_name)))
}

fn id(field: &str, text: &str) -> Result<Uuid, FoldError> {
    text.parse()
        .map_err(|_| FoldError::poison(format!("{field}: {text:?} is not an id")))
}

fn time(timestamp: Option<prost_types::Timestamp>) -> Option<DateTime<Utc>> {
    let timestamp = timestamp?;
    DateTime::from_timestamp(timestamp.seconds, u32::try_from(timestamp.nanos).ok()?)
}

#[cfg(test)]
mod tests {
    use prost::Name as _;

    use super::*;

    #[test]
    fn what_is_counted_has_its_name_in_the_contracts() {
        let mut contract = [
            order::OrderPlaced::full_name(),
            order::OrderEdited::full_name(),
            order::OrderCancelled::full_name(),
            order::OrderCompleted::full_name(),
            fulfillment::ReservationReleased::full_name(),
            fulfillment::ShipmentShipped::full_name(),
            fulfillment::ShipmentDelivered::full_name(),
            refund::RefundCreated::full_name(),
            refund::RefundSucceeded::full_name(),
            refund::RefundFailed::full_name(),
            refund::ReturnRequested::full_name(),
            refund::ReturnCompleted::full_name(),
            notification::NotificationSent::full_name(),
            notification::NotificationSuppressed::full_name(),
            notification::NotificationFailed::full_name(),
        ];
        let mut handled = HANDLED;
        contract.sort();
        handled.sort_unstable();
        assert_eq!(contract.as_slice(), handled.as_slice());
    }
}
