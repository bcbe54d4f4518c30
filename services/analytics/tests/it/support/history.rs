//! What happened in a store, in plain words, and the events that tell it.

use std::collections::VecDeque;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use prost::{Message, Name};
use uuid::Uuid;
use waybill_events::{Event, Position};
use waybill_kernel::id::{
    EventId, MerchantId, NotificationId, OrderId, RefundId, ReturnId, ShipmentId, StoreId,
};
use waybill_kernel::partition::partition_of;
use waybill_proto::waybill::fulfillment::v1 as fulfillment;
use waybill_proto::waybill::notification::v1 as notification;
use waybill_proto::waybill::order::v1 as order;
use waybill_proto::waybill::refund::v1 as refund;

/// A time in whole seconds.
pub type Moment = DateTime<Utc>;

/// A moment written as in RFC 3339.
pub fn at(text: &str) -> Moment {
    text.parse().expect("a time as in RFC 3339")
}

/// Everything that happened to one order.
#[derive(Debug, Clone)]
pub struct Story {
    pub order: Order,
    /// Edits: what came and what went.
    pub edits: Vec<Edit>,
    pub cancelled: Option<Moment>,
    pub completed: Option<Moment>,
    /// When each shipment left.
    pub shipped: Vec<Moment>,
    /// When shipments arrived, and whether everything had arrived then.
    pub delivered: Vec<(Moment, bool)>,
    pub refunds: Vec<Refund>,
    /// When each return was requested and completed.
    pub returns: Vec<(Moment, Option<Moment>)>,
    /// How notifications ended, and when: "sent", "suppressed", "failed".
    pub notifications: Vec<(&'static str, Moment)>,
}

/// An order as it was placed.
#[derive(Debug, Clone)]
pub struct Order {
    pub id: OrderId,
    pub placed: Moment,
    pub currency: &'static str,
    /// Units and what they cost without tax.
    pub lines: Vec<(i32, i64)>,
    pub gross: i64,
    pub discounts: i64,
    pub tax: i64,
    pub shipping: i64,
}

/// What an edit added and removed: units with what they cost.
#[derive(Debug, Clone)]
pub struct Edit {
    pub added: Vec<Part>,
    pub removed: Vec<Part>,
    pub discounts: i64,
}

/// Units of a line, with what they cost without tax, and the tax on it.
#[derive(Debug, Clone)]
pub struct Part {
    pub units: i32,
    pub net: i64,
    pub tax: i64,
}

/// A refund and what its provider said, in this order.
#[derive(Debug, Clone)]
pub struct Refund {
    pub created: Moment,
    pub amount: i64,
    pub reason: &'static str,
    pub outcomes: Vec<Outcome>,
}

/// What a provider said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Succeeded(Moment),
    Failed(Moment),
}

impl Order {
    /// An order of one unit.
    pub fn of(gross: i64, currency: &'static str, placed: Moment) -> Self {
        Self {
            id: OrderId::generate(),
            placed,
            currency,
            lines: vec![(1, gross)],
            gross,
            discounts: 0,
            tax: 0,
            shipping: 0,
        }
    }
}

impl From<Order> for Story {
    /// An order that nothing has happened to yet.
    fn from(order: Order) -> Self {
        Self {
            order,
            edits: Vec::new(),
            cancelled: None,
            completed: None,
            shipped: Vec::new(),
            delivered: Vec::new(),
            refunds: Vec::new(),
            returns: Vec::new(),
            notifications: Vec::new(),
        }
    }
}

/// Turns stories of one store into events.
pub struct Teller {
    pub merchant: MerchantId,
    pub store: StoreId,
}

impl Teller {
    /// The events of all stories. Those of one order in one log stand in their order and its placing comes first; all else
    /// is shuffled, as logs are read side by side. The same seed shuffles alike.
    pub fn events(&self, stories: &[Story], seed: u64) -> Vec<Event> {
        let mut queues: Vec<Vec<VecDeque<Event>>> = stories.iter().map(|story| self.logs(story)).collect();
        let mut dice = Dice(seed);
        let mut told = Vec::new();
        while !queues.is_empty() {
            let of = dice.below(queues.len());
            let logs = &mut queues[of];
            // The first event of the first log is the placing.
            let log = if told.iter().any(|event: &Event| Some(event.key) == key_of(logs)) {
                dice.below(logs.len())
            } else {
                0
            };
            told.extend(logs[log].pop_front());
            logs.retain(|log| !log.is_empty());
            queues.retain(|logs| !logs.is_empty());
        }
        told
    }

    /// The events of one order, log by log, the order's own first.
    fn logs(&self, story: &Story) -> Vec<VecDeque<Event>> {
        let logs = [
            self.of_order(story),
            self.of_fulfillment(story),
            self.of_refund(story),
            self.of_notification(story),
        ];
        logs.into_iter().filter(|log| !log.is_empty()).collect()
    }

    fn of_order(&self, story: &Story) -> VecDeque<Event> {
        let order_id = story.order.id.to_string();
        let placed = self.event("order", story, late(story.order.placed), &placed(&story.order));
        let cancelled = story.cancelled.map(|at| {
            let message = order::OrderCancelled {
                order_id: order_id.clone(),
                ..order::OrderCancelled::default()
            };
            self.event("order", story, at, &message)
        });
        let completed = story.completed.map(|at| {
            let message = order::OrderCompleted {
                order_id: order_id.clone(),
            };
            self.event("order", story, at, &message)
        });
        let edits = story.edits.iter().map(|edit| {
            let message = edited(&story.order, edit);
            self.event("order", story, late(story.order.placed), &message)
        });
        std::iter::once(placed)
            .chain(edits)
            .chain(cancelled)
            .chain(completed)
            .collect()
    }

    fn of_fulfillment(&self, story: &Story) -> VecDeque<Event> {
        let order_id = story.order.id.to_string();
        let shipped = story.shipped.iter().map(|at| {
            let message = fulfillment::ShipmentShipped {
                order_id: order_id.clone(),
                shipment_id: ShipmentId::generate().to_string(),
                shipped_at: timestamp(*at),
                ..fulfillment::ShipmentShipped::default()
            };
            self.event("fulfillment", story, late(*at), &message)
        });
        let delivered = story.delivered.iter().map(|(at, everything)| {
            let message = fulfillment::ShipmentDelivered {
                order_id: order_id.clone(),
                shipment_id: ShipmentId::generate().to_string(),
                delivered_at: timestamp(*at),
                order_fully_delivered: *everything,
                ..fulfillment::ShipmentDelivered::default()
            };
            self.event("fulfillment", story, late(*at), &message)
        });
        shipped.chain(delivered).collect()
    }

    fn of_refund(&self, story: &Story) -> VecDeque<Event> {
        let order_id = story.order.id.to_string();
        let mut log = VecDeque::new();
        for (requested, completed) in &story.returns {
            let return_id = ReturnId::generate().to_string();
            let message = refund::ReturnRequested {
                order_id: order_id.clone(),
                return_id: return_id.clone(),
                lines: Vec::new(),
            };
            log.push_back(self.event("refund", story, *requested, &message));
            if let Some(at) = completed {
                let message = refund::ReturnCompleted {
                    order_id: order_id.clone(),
                    return_id,
                };
                log.push_back(self.event("refund", story, *at, &message));
            }
        }
        for refund in &story.refunds {
            self.tell_refund(story, refund, &mut log);
        }
        log
    }

    fn tell_refund(&self, story: &Story, refund: &Refund, log: &mut VecDeque<Event>) {
        let (order_id, refund_id) = (story.order.id.to_string(), RefundId::generate().to_string());
        let created = refund::RefundCreated {
            order_id: order_id.clone(),
            refund_id: refund_id.clone(),
            return_id: String::new(),
            currency_code: story.order.currency.to_owned(),
            amount_minor: refund.amount,
            reason: refund.reason.to_owned(),
        };
        log.push_back(self.event("refund", story, refund.created, &created));
        for outcome in &refund.outcomes {
            log.push_back(match outcome {
                Outcome::Succeeded(at) => {
                    let message = refund::RefundSucceeded {
                        order_id: order_id.clone(),
                        refund_id: refund_id.clone(),
                        succeeded_at: timestamp(*at),
                        // What a success tells is the part that was missing; the figures count the refund as a whole.
                        amount_minor: 1,
                        ..refund::RefundSucceeded::default()
                    };
                    self.event("refund", story, late(*at), &message)
                }
                Outcome::Failed(at) => {
                    let message = refund::RefundFailed {
                        order_id: order_id.clone(),
                        refund_id: refund_id.clone(),
                        ..refund::RefundFailed::default()
                    };
                    self.event("refund", story, *at, &message)
                }
            });
        }
    }

    fn of_notification(&self, story: &Story) -> VecDeque<Event> {
        let order_id = story.order.id.to_string();
        let stage = "shipped".to_owned();
        story
            .notifications
            .iter()
            .map(|(outcome, at)| {
                let notification_id = NotificationId::generate().to_string();
                let (order_id, stage) = (order_id.clone(), stage.clone());
                match *outcome {
                    "sent" => {
                        let message = notification::NotificationSent {
                            order_id,
                            notification_id,
                            stage,
                            ..notification::NotificationSent::default()
                        };
                        self.event("notification", story, *at, &message)
                    }
                    "suppressed" => {
                        let message = notification::NotificationSuppressed {
                            order_id,
                            notification_id,
                            stage,
                            ..notification::NotificationSuppressed::default()
                        };
                        self.event("notification", story, *at, &message)
                    }
                    _ => {
                        let message = notification::NotificationFailed {
                            order_id,
                            notification_id,
                            stage,
                            ..notification::NotificationFailed::default()
                        };
                        self.event("notification", story, *at, &message)
                    }
                }
            })
            .collect()
    }

    /// An event about an order.
    pub fn event<M: Message + Name>(&self, source: &str, story: &Story, at: Moment, message: &M) -> Event {
        let key = story.order.id.uuid();
        Event {
            position: Position::default(),
            prev: Position::default(),
            event_id: EventId::generate(),
            source: Arc::from(source),
            type_name: M::full_name(),
            merchant: self.merchant,
            store: Some(self.store),
            key,
            vpartition: partition_of(key),
            aggregate: key,
            version: 1,
            payload: message.encode_to_vec().into(),
            traceparent: None,
            occurred_at: at,
            origin: waybill_store::Origin::default(),
        }
    }
}

/// An order as its event tells it.
pub fn placed(of: &Order) -> order::OrderPlaced {
    order::OrderPlaced {
        order_id: of.id.to_string(),
        currency_code: of.currency.to_owned(),
        lines: of
            .lines
            .iter()
            .map(|(quantity, net_minor)| order::PlacedLine {
                quantity: *quantity,
                net_minor: *net_minor,
                ..order::PlacedLine::default()
            })
            .collect(),
        total_minor: of.gross,
        discounts_minor: of.discounts,
        tax_minor: of.tax,
        shipping_minor: of.shipping,
        placed_at: timestamp(of.placed),
        source_system: "api".to_owned(),
        ship_country: "GB".to_owned(),
        ..order::OrderPlaced::default()
    }
}

/// An edit as its event tells it.
fn edited(of: &Order, edit: &Edit) -> order::OrderEdited {
    let sum = |parts: &[Part]| parts.iter().map(|part| part.net + part.tax).sum::<i64>();
    order::OrderEdited {
        order_id: of.id.to_string(),
        currency_code: of.currency.to_owned(),
        added: (edit.added.iter())
            .map(|part| order::PlacedLine {
                quantity: part.units,
                net_minor: part.net,
                taxes: vec![order::PlacedTax {
                    amount_minor: part.tax,
                    ..order::PlacedTax::default()
                }],
                ..order::PlacedLine::default()
            })
            .collect(),
        removed: (edit.removed.iter())
            .map(|part| order::CancelledLine {
                quantity: part.units,
                net_minor: part.net,
                tax_minor: part.tax,
                ..order::CancelledLine::default()
            })
            .collect(),
        added_minor: sum(&edit.added),
        added_discounts_minor: edit.discounts,
        removed_minor: sum(&edit.removed),
        ..order::OrderEdited::default()
    }
}

fn key_of(logs: &[VecDeque<Event>]) -> Option<Uuid> {
    logs.iter().find_map(|log| log.front()).map(|event| event.key)
}

/// When a service wrote down what happened at `at` elsewhere: where an event names its time, that one counts.
fn late(at: Moment) -> Moment {
    at + TimeDelta::hours(30)
}

fn timestamp(at: Moment) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp {
        seconds: at.timestamp(),
        nanos: 0,
    })
}

/// Repeatable randomness (Knuth's MMIX constants).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap_or_default() % limit
    }
}
