//! Events of the order and refund services, made by hand.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use prost::{Message, Name};
use waybill_events::{Event, Position};
use waybill_kernel::id::{
    CancellationId, EditId, EventId, HoldId, LineId, MerchantId, OrderId, PaymentId, ReturnId, StoreId,
};
use waybill_kernel::partition::partition_of;
use waybill_proto::waybill::order::v1 as order;
use waybill_proto::waybill::refund::v1 as refund;

/// An order as the order service would tell of it.
#[derive(Debug, Clone)]
pub struct Order {
    pub merchant: MerchantId,
    pub store: StoreId,
    pub id: OrderId,
    pub placed_at: DateTime<Utc>,
    pub total_minor: i64,
    pub lines: Vec<order::PlacedLine>,
}

/// A line of `quantity` units.
pub fn line(sku: &str, quantity: i32) -> order::PlacedLine {
    order::PlacedLine {
        line_id: LineId::generate().to_string(),
        sku: sku.to_owned(),
        quantity,
        unit_price_minor: 100,
        net_minor: 100 * i64::from(quantity),
        ..order::PlacedLine::default()
    }
}

impl Order {
    pub fn new(merchant: MerchantId, store: StoreId, lines: Vec<order::PlacedLine>) -> Self {
        Self {
            merchant,
            store,
            id: OrderId::generate(),
            placed_at: DateTime::UNIX_EPOCH + TimeDelta::days(20_000),
            total_minor: 100,
            lines,
        }
    }

    /// Placed so many minutes after the usual time.
    pub fn placed_after(mut self, minutes: i64) -> Self {
        self.placed_at += TimeDelta::minutes(minutes);
        self
    }

    pub fn line_id(&self, index: usize) -> String {
        self.lines[index].line_id.clone()
    }

    pub fn placed_message(&self) -> order::OrderPlaced {
        order::OrderPlaced {
            order_id: self.id.to_string(),
            number: "1001".to_owned(),
            currency_code: "EUR".to_owned(),
            lines: self.lines.clone(),
            total_minor: self.total_minor,
            placed_at: Some(prost_types::Timestamp {
                seconds: self.placed_at.timestamp(),
                nanos: i32::try_from(self.placed_at.timestamp_subsec_nanos()).unwrap_or_default(),
            }),
            ..order::OrderPlaced::default()
        }
    }

    pub fn payment_message(&self, kind: &str) -> order::PaymentRecorded {
        order::PaymentRecorded {
            order_id: self.id.to_string(),
            payment_id: PaymentId::generate().to_string(),
            kind: kind.to_owned(),
            currency_code: "EUR".to_owned(),
            amount_minor: self.total_minor,
            ..order::PaymentRecorded::default()
        }
    }

    pub fn cancelled_message(&self) -> order::OrderCancelled {
        order::OrderCancelled {
            order_id: self.id.to_string(),
            reason: "customer".to_owned(),
            ..order::OrderCancelled::default()
        }
    }

    /// Lines by index with units and disposition.
    pub fn received_message(&self, lines: &[(usize, i32, &str)]) -> refund::ReturnReceived {
        refund::ReturnReceived {
            order_id: self.id.to_string(),
            return_id: ReturnId::generate().to_string(),
            lines: lines
                .iter()
                .map(|(index, quantity, disposition)| refund::ReturnedLine {
                    line_id: self.line_id(*index),
                    sku: self.lines[*index].sku.clone(),
                    quantity: *quantity,
                    reason: "unwanted".to_owned(),
                    disposition: (*disposition).to_owned(),
                })
                .collect(),
        }
    }

    pub fn placed(&self) -> Event {
        self.event("order", 1, &self.placed_message())
    }

    pub fn paid(&self, kind: &str, version: i64) -> Event {
        self.event("order", version, &self.payment_message(kind))
    }

    /// A payment under an id of its provider, of so much.
    pub fn paid_as(&self, id: &str, kind: &str, amount_minor: i64, version: i64) -> Event {
        let message = order::PaymentRecorded {
            provider: "stripe".to_owned(),
            provider_payment_id: id.to_owned(),
            amount_minor,
            ..self.payment_message(kind)
        };
        self.event("order", version, &message)
    }

    /// The customer was forgotten.
    pub fn erased(&self, version: i64) -> Event {
        let message = order::OrderContactErased {
            order_id: self.id.to_string(),
        };
        self.event("order", version, &message)
    }

    pub fn cancelled(&self, version: i64) -> Event {
        self.event("order", version, &self.cancelled_message())
    }

    /// Units of lines by index were cancelled.
    pub fn units_cancelled_message(
        &self,
        lines: &[(usize, i32)],
        restock: bool,
    ) -> order::OrderLinesCancelled {
        let line = |(index, quantity): &(usize, i32)| order::CancelledLine {
            line_id: self.line_id(*index),
            sku: self.lines[*index].sku.clone(),
            first_unit: 1,
            quantity: *quantity,
            ..order::CancelledLine::default()
        };
        order::OrderLinesCancelled {
            order_id: self.id.to_string(),
            cancellation_id: CancellationId::generate().to_string(),
            restock,
            lines: lines.iter().map(line).collect(),
            ..order::OrderLinesCancelled::default()
        }
    }

    /// An edit that adds these lines, which are the order's from now on, and removes units of lines by index.
    pub fn edited_message(
        &mut self,
        added: Vec<order::PlacedLine>,
        removed: &[(usize, i32)],
    ) -> order::OrderEdited {
        let message = self.units_cancelled_message(removed, true);
        self.lines.extend(added.iter().cloned());
        order::OrderEdited {
            order_id: self.id.to_string(),
            edit_id: EditId::generate().to_string(),
            cancellation_id: message.cancellation_id,
            restock: true,
            added,
            removed: message.lines,
            due_minor: self.total_minor,
            ..order::OrderEdited::default()
        }
    }

    pub fn edited(&mut self, added: Vec<order::PlacedLine>, removed: &[(usize, i32)], version: i64) -> Event {
        let message = self.edited_message(added, removed);
        self.event("order", version, &message)
    }

    pub fn held_message(&self, hold: HoldId) -> order::OrderHeld {
        order::OrderHeld {
            order_id: self.id.to_string(),
            hold_id: hold.to_string(),
            reason: "fraud".to_owned(),
            open_holds: 1,
            ..order::OrderHeld::default()
        }
    }

    pub fn released_message(&self, hold: HoldId) -> order::OrderReleased {
        order::OrderReleased {
            order_id: self.id.to_string(),
            hold_id: hold.to_string(),
            reason: "fraud".to_owned(),
            open_holds: 0,
        }
    }

    pub fn units_cancelled(&self, lines: &[(usize, i32)], restock: bool, version: i64) -> Event {
        self.event("order", version, &self.units_cancelled_message(lines, restock))
    }

    /// Units of lines by index were cancelled that cost so much, of which so much goes back.
    pub fn units_cancelled_for(
        &self,
        lines: &[(usize, i32)],
        (amount_minor, refund_minor): (i64, i64),
        version: i64,
    ) -> Event {
        let message = order::OrderLinesCancelled {
            amount_minor,
            refund_minor: Some(refund_minor),
            ..self.units_cancelled_message(lines, true)
        };
        self.event("order", version, &message)
    }

    pub fn held(&self, hold: HoldId, version: i64) -> Event {
        self.event("order", version, &self.held_message(hold))
    }

    pub fn released(&self, hold: HoldId, version: i64) -> Event {
        self.event("order", version, &self.released_message(hold))
    }

    pub fn received(&self, lines: &[(usize, i32, &str)]) -> Event {
        self.event("refund", 1, &self.received_message(lines))
    }

    /// An event as the fold hands it out.
    pub fn event<M: Message + Name>(&self, source: &str, version: i64, message: &M) -> Event {
        Event {
            position: Position::default(),
            prev: Position::default(),
            event_id: EventId::generate(),
            source: Arc::from(source),
            type_name: M::full_name(),
            merchant: self.merchant,
            store: Some(self.store),
            key: self.id.uuid(),
            vpartition: partition_of(self.id.uuid()),
            aggregate: self.id.uuid(),
            version,
            payload: message.encode_to_vec().into(),
            traceparent: None,
            occurred_at: self.placed_at,
            origin: waybill_store::Origin::default(),
        }
    }
}
