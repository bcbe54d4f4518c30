//! What the service tells the others: domain facts as protobuf events.
//!
//! All of them are keyed by the order. They carry ids and numbers of units; what a carrier wrote stays here.

use chrono::{DateTime, Utc};
use uuid::Uuid;
use waybill_events::NewEvent;
use waybill_kernel::id::{LocationId, MerchantId, OrderId, ShipmentId, StoreId};
use waybill_proto::waybill::fulfillment::v1 as proto;
use waybill_rpc::convert::to_timestamp;

use crate::domain::shipment::Parcel;
use crate::domain::tracking::ShipmentStatus;

/// The reason of a release after a cancellation.
const ORDER_CANCELLED: &str = "order_cancelled";
/// The reason of a release after units of an order were cancelled.
const LINES_CANCELLED: &str = "lines_cancelled";

/// A fact about an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// Whose order it is.
    pub merchant: MerchantId,
    /// Where it was placed.
    pub store: StoreId,
    /// The order.
    pub order: OrderId,
    /// Version, after the fact, of what it is about: the order's fulfillment or the shipment.
    pub version: i64,
    /// When it happened.
    pub at: DateTime<Utc>,
    /// What happened.
    pub news: News,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// Every unit is reserved.
    Allocated,
    /// At least one unit waits for stock.
    Backordered {
        /// What is missing.
        missing: Vec<Parcel>,
    },
    /// The order was cancelled and what it held was let go.
    Released,
    /// Units of the order were cancelled and let go.
    UnitsReleased {
        /// When the last of what is left had arrived; none when something is still to arrive, or nothing is left.
        delivered_at: Option<DateTime<Utc>>,
    },
    /// Goods were handed to a carrier.
    Shipped {
        /// The shipment.
        shipment: ShipmentId,
        /// Where it left from.
        location: LocationId,
        /// What is in it.
        parcels: Vec<Parcel>,
        /// The carrier's key.
        carrier: String,
        /// Whether nothing of the order is left to ship.
        order_fully_shipped: bool,
    },
    /// The status of a shipment changed, other than by delivery.
    StatusChanged {
        /// The shipment.
        shipment: ShipmentId,
        /// The status before.
        from: ShipmentStatus,
        /// The status after.
        to: ShipmentStatus,
    },
    /// A shipment arrived.
    Delivered {
        /// The shipment.
        shipment: ShipmentId,
        /// What was in it.
        parcels: Vec<Parcel>,
        /// The carrier's key.
        carrier: String,
        /// Whether everything of the order has arrived.
        order_fully_delivered: bool,
    },
}

impl Announcement {
    /// The event that tells it.
    #[must_use]
    pub fn to_event(&self) -> NewEvent {
        let order_id = self.order.to_string();
        let at = Some(to_timestamp(self.at));
        match &self.news {
            News::Allocated => self.about_order(&proto::OrderAllocated { order_id }),
            News::Backordered { missing } => self.about_order(&proto::OrderBackordered {
                order_id,
                missing: quantities(missing),
            }),
            News::Released => self.about_order(&proto::ReservationReleased {
                order_id,
                reason: ORDER_CANCELLED.to_owned(),
                order_delivered_at: None,
            }),
            News::UnitsReleased { delivered_at } => self.about_order(&proto::ReservationReleased {
                order_id,
                reason: LINES_CANCELLED.to_owned(),
                order_delivered_at: delivered_at.map(to_timestamp),
            }),
            News::Shipped {
                shipment,
                location,
                parcels,
                carrier,
                order_fully_shipped,
            } => {
                let message = proto::ShipmentShipped {
                    order_id,
                    shipment_id: shipment.to_string(),
                    location_id: location.to_string(),
                    lines: quantities(parcels),
                    carrier: carrier.clone(),
                    shipped_at: at,
                    order_fully_shipped: *order_fully_shipped,
                };
                self.about(shipment.uuid(), &message)
            }
            News::StatusChanged { shipment, from, to } => {
                let message = proto::ShipmentStatusChanged {
                    order_id,
                    shipment_id: shipment.to_string(),
                    status: to.key().to_owned(),
                    previous_status: from.key().to_owned(),
                    occurred_at: at,
                };
                self.about(shipment.uuid(), &message)
            }
            News::Delivered {
                shipment,
                parcels,
                carrier,
                order_fully_delivered,
            } => {
                let message = proto::ShipmentDelivered {
                    order_id,
                    shipment_id: shipment.to_string(),
                    lines: quantities(parcels),
                    carrier: carrier.clone(),
                    delivered_at: at,
                    order_fully_delivered: *order_fully_delivered,
                };
                self.about(shipment.uuid(), &message)
            }
        }
    }

    fn about_order<M: prost::Message + prost::Name>(&self, message: &M) -> NewEvent {
        self.about(self.order.uuid(), message)
    }

    fn about<M: prost::Message + prost::Name>(&self, aggregate: Uuid, message: &M) -> NewEvent {
        NewEvent::new(
            self.merchant,
            self.store,
            self.order,
            aggregate,
            self.version,
            message,
            self.at,
        )
    }
}

fn quantities(parcels: &[Parcel]) -> Vec<proto::LineQuantity> {
    parcels
        .iter()
        .map(|parcel| proto::LineQuantity {
            line_id: parcel.line.to_string(),
            sku: parcel.sku.to_string(),
            quantity: quantity(parcel.units),
        })
        .collect()
}

/// Units as the contracts write them. A line has at most `i32::MAX` units: that is how its order was told.
#[must_use]
pub fn quantity(units: i64) -> i32 {
    i32::try_from(units).unwrap_or(i32::MAX)
}
