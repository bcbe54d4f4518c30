//! One order as its owners know it and tell of it: what they answer, and the events in their logs.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use prost::{Message, Name};
use waybill_events::{Event, Position};
use waybill_kernel::id::{
    EditId, EventId, LineId, MerchantId, OrderId, RefundId, ReturnId, ShipmentId, StoreId,
};
use waybill_kernel::partition::partition_of;
use waybill_proto::waybill::fulfillment::v1 as fulfillment;
use waybill_proto::waybill::order::v1 as order;
use waybill_proto::waybill::refund::v1 as refund;
use waybill_proto::waybill::r#type::v1::Money;

use super::StandIn;

/// The customer of every order.
pub const CUSTOMER: &str = "ada@example.com";

/// An order with one shipment, one return and one refund.
#[derive(Debug, Clone)]
pub struct Facts {
    pub merchant: MerchantId,
    pub store: StoreId,
    pub order: OrderId,
    pub edit: EditId,
    pub shipment: ShipmentId,
    pub returned: ReturnId,
    pub refund: RefundId,
    pub number: String,
    pub at: DateTime<Utc>,
}

impl Facts {
    /// An order of this store that its owners know.
    pub fn known_to(
        owners: &StandIn,
        merchant: MerchantId,
        store: StoreId,
        number: &str,
        at: DateTime<Utc>,
    ) -> Self {
        let facts = Self {
            merchant,
            store,
            order: OrderId::generate(),
            edit: EditId::generate(),
            shipment: ShipmentId::generate(),
            returned: ReturnId::generate(),
            refund: RefundId::generate(),
            number: number.to_owned(),
            at,
        };
        let line = LineId::generate().to_string();
        let key = |id: String| (merchant.to_string(), store.to_string(), id);
        let mut known = owners.known();
        known
            .orders
            .insert(key(facts.order.to_string()), facts.as_order(&line));
        known
            .shipments
            .insert(key(facts.shipment.to_string()), facts.as_shipment(&line));
        known
            .returns
            .insert(key(facts.returned.to_string()), facts.as_return(&line));
        known
            .refunds
            .insert(key(facts.refund.to_string()), facts.as_refund());
        drop(known);
        facts
    }

    /// Changes what the order service answers.
    pub fn change_order(&self, owners: &StandIn, change: impl FnOnce(&mut order::Order)) {
        let key = (
            self.merchant.to_string(),
            self.store.to_string(),
            self.order.to_string(),
        );
        change(
            owners
                .known()
                .orders
                .get_mut(&key)
                .expect("the order is known to its owner"),
        );
    }

    fn as_order(&self, line: &str) -> order::Order {
        order::Order {
            order_id: self.order.to_string(),
            number: self.number.clone(),
            prices_include_tax: true,
            lines: vec![order::OrderLine {
                line_id: line.to_owned(),
                title: "Stoneware mug".to_owned(),
                quantity: 2,
                unit_price: gbp(1280),
                ..order::OrderLine::default()
            }],
            totals: Some(order::OrderTotals {
                subtotal: gbp(2560),
                discounts: gbp(0),
                shipping: gbp(495),
                tax: gbp(509),
                total: gbp(3055),
            }),
            customer: Some(order::Customer {
                email: CUSTOMER.to_owned(),
                name: "Ada Whitcombe".to_owned(),
                ..order::Customer::default()
            }),
            locale: "en-GB".to_owned(),
            promised_ship_at: timestamp(self.at),
            cancel_reason: "ordered twice".to_owned(),
            ..order::Order::default()
        }
    }

    fn as_shipment(&self, line: &str) -> fulfillment::Shipment {
        fulfillment::Shipment {
            shipment_id: self.shipment.to_string(),
            order_id: self.order.to_string(),
            lines: vec![fulfillment::ShipmentLine {
                line_id: line.to_owned(),
                quantity: 2,
                ..fulfillment::ShipmentLine::default()
            }],
            carrier: "royal-mail".to_owned(),
            tracking_number: "RM000001042GB".to_owned(),
            tracking_url: "https://track.example/1".to_owned(),
            tracking_events: vec![fulfillment::TrackingEvent {
                description: "Address could not be found".to_owned(),
                ..fulfillment::TrackingEvent::default()
            }],
            delivered_at: timestamp(self.at),
            ..fulfillment::Shipment::default()
        }
    }

    fn as_return(&self, line: &str) -> refund::Return {
        refund::Return {
            return_id: self.returned.to_string(),
            order_id: self.order.to_string(),
            lines: vec![refund::ReturnLine {
                line_id: line.to_owned(),
                quantity: 1,
                ..refund::ReturnLine::default()
            }],
            quote: Some(refund::Quote {
                total: gbp(1280),
                ..refund::Quote::default()
            }),
            decline_reason: "the return window has ended".to_owned(),
            ..refund::Return::default()
        }
    }

    fn as_refund(&self) -> refund::Refund {
        refund::Refund {
            refund_id: self.refund.to_string(),
            order_id: self.order.to_string(),
            amount: gbp(1280),
            legs: vec![refund::RefundLeg {
                provider: "stripe".to_owned(),
                ..refund::RefundLeg::default()
            }],
            expected_at: timestamp(self.at),
            ..refund::Refund::default()
        }
    }

    /// An event about the order, each time a new one.
    pub fn event<M: Message + Name>(&self, source: &str, message: &M) -> Event {
        Event {
            position: Position::default(),
            prev: Position::default(),
            event_id: EventId::generate(),
            source: Arc::from(source),
            type_name: M::full_name(),
            merchant: self.merchant,
            store: Some(self.store),
            key: self.order.uuid(),
            vpartition: partition_of(self.order.uuid()),
            aggregate: self.order.uuid(),
            version: 1,
            payload: message.encode_to_vec().into(),
            traceparent: None,
            occurred_at: self.at,
            origin: waybill_store::Origin::default(),
        }
    }

    pub fn placed(&self) -> Event {
        self.event("order", &self.placed_message())
    }

    pub fn placed_message(&self) -> order::OrderPlaced {
        order::OrderPlaced {
            order_id: self.order.to_string(),
            number: self.number.clone(),
            currency_code: "GBP".to_owned(),
            ..order::OrderPlaced::default()
        }
    }

    pub fn edited(&self) -> Event {
        self.edited_as(self.edit)
    }

    pub fn edited_as(&self, edit: EditId) -> Event {
        self.event(
            "order",
            &order::OrderEdited {
                order_id: self.order.to_string(),
                edit_id: edit.to_string(),
                ..order::OrderEdited::default()
            },
        )
    }

    /// Units that were missing were cancelled; the rest has arrived.
    pub fn rest_cancelled(&self) -> Event {
        self.event(
            "fulfillment",
            &fulfillment::ReservationReleased {
                order_id: self.order.to_string(),
                reason: "lines_cancelled".to_owned(),
                order_delivered_at: Some(prost_types::Timestamp::default()),
            },
        )
    }

    pub fn cancelled(&self) -> Event {
        let order_id = self.order.to_string();
        self.event(
            "order",
            &order::OrderCancelled {
                order_id,
                ..order::OrderCancelled::default()
            },
        )
    }

    /// The customer was forgotten: the event, and what the order service answers from then on.
    pub fn erased(&self, owners: &StandIn) -> Event {
        self.change_order(owners, |order| {
            order.customer = Some(order::Customer::default());
            order.contact_erased = true;
        });
        let message = order::OrderContactErased {
            order_id: self.order.to_string(),
        };
        self.event("order", &message)
    }

    pub fn shipped(&self) -> Event {
        self.event("fulfillment", &self.shipped_message())
    }

    pub fn shipped_message(&self) -> fulfillment::ShipmentShipped {
        fulfillment::ShipmentShipped {
            order_id: self.order.to_string(),
            shipment_id: self.shipment.to_string(),
            ..fulfillment::ShipmentShipped::default()
        }
    }

    pub fn tracked(&self, status: &str) -> Event {
        self.event("fulfillment", &self.tracked_message(status))
    }

    pub fn tracked_message(&self, status: &str) -> fulfillment::ShipmentStatusChanged {
        fulfillment::ShipmentStatusChanged {
            order_id: self.order.to_string(),
            shipment_id: self.shipment.to_string(),
            status: status.to_owned(),
            ..fulfillment::ShipmentStatusChanged::default()
        }
    }

    /// The shipment arrived, and with it all of the order.
    pub fn delivered(&self) -> Event {
        self.event("fulfillment", &self.delivered_message())
    }

    pub fn delivered_message(&self) -> fulfillment::ShipmentDelivered {
        fulfillment::ShipmentDelivered {
            order_id: self.order.to_string(),
            shipment_id: self.shipment.to_string(),
            order_fully_delivered: true,
            ..fulfillment::ShipmentDelivered::default()
        }
    }

    pub fn return_requested(&self) -> Event {
        self.event("refund", &self.return_requested_message())
    }

    pub fn return_requested_message(&self) -> refund::ReturnRequested {
        let (order_id, return_id) = self.return_ids();
        refund::ReturnRequested {
            order_id,
            return_id,
            lines: Vec::new(),
        }
    }

    pub fn return_approved(&self) -> Event {
        let (order_id, return_id) = self.return_ids();
        self.event(
            "refund",
            &refund::ReturnApproved {
                order_id,
                return_id,
                automatic: true,
            },
        )
    }

    pub fn return_declined(&self) -> Event {
        let (order_id, return_id) = self.return_ids();
        self.event("refund", &refund::ReturnDeclined { order_id, return_id })
    }

    pub fn return_received(&self) -> Event {
        let (order_id, return_id) = self.return_ids();
        self.event(
            "refund",
            &refund::ReturnReceived {
                order_id,
                return_id,
                lines: Vec::new(),
            },
        )
    }

    pub fn return_completed(&self) -> Event {
        let (order_id, return_id) = self.return_ids();
        self.event("refund", &refund::ReturnCompleted { order_id, return_id })
    }

    pub fn refund_created(&self) -> Event {
        self.event("refund", &self.refund_created_message())
    }

    pub fn refund_created_message(&self) -> refund::RefundCreated {
        let (order_id, refund_id) = self.refund_ids();
        refund::RefundCreated {
            order_id,
            refund_id,
            ..refund::RefundCreated::default()
        }
    }

    pub fn refund_started(&self) -> Event {
        let (order_id, refund_id) = self.refund_ids();
        self.event(
            "refund",
            &refund::RefundStarted {
                order_id,
                refund_id,
                ..refund::RefundStarted::default()
            },
        )
    }

    pub fn refund_succeeded(&self) -> Event {
        self.event("refund", &self.refund_succeeded_message())
    }

    pub fn refund_succeeded_message(&self) -> refund::RefundSucceeded {
        let (order_id, refund_id) = self.refund_ids();
        refund::RefundSucceeded {
            order_id,
            refund_id,
            ..refund::RefundSucceeded::default()
        }
    }

    pub fn refund_failed(&self) -> Event {
        let (order_id, refund_id) = self.refund_ids();
        self.event(
            "refund",
            &refund::RefundFailed {
                order_id,
                refund_id,
                ..refund::RefundFailed::default()
            },
        )
    }

    fn return_ids(&self) -> (String, String) {
        (self.order.to_string(), self.returned.to_string())
    }

    fn refund_ids(&self) -> (String, String) {
        (self.order.to_string(), self.refund.to_string())
    }
}

fn gbp(minor_units: i64) -> Option<Money> {
    Some(Money {
        currency_code: "GBP".to_owned(),
        minor_units,
    })
}

fn timestamp(time: DateTime<Utc>) -> Option<prost_types::Timestamp> {
    Some(waybill_rpc::convert::to_timestamp(time))
}
