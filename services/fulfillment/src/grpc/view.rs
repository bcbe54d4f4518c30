//! Domain types as the contracts write them.

use waybill_proto::waybill::fulfillment::v1 as proto;
use waybill_rpc::convert::to_timestamp;

use crate::app::record_tracking::Outcome;
use crate::domain::progress::AllocationStatus;
use crate::domain::shipment::{Location, OrderFulfillment, Shipment, TrackingEvent};
use crate::domain::stock::StockLevel;
use crate::domain::tracking::{Heard, ShipmentStatus};
use crate::events::quantity;

pub(super) fn location(location: Location) -> proto::Location {
    proto::Location {
        location_id: location.id.to_string(),
        name: location.name,
        country_code: location.country_code,
        priority: location.priority,
    }
}

pub(super) fn stock_level(entry: StockLevel) -> proto::StockLevel {
    proto::StockLevel {
        sku: entry.sku.to_string(),
        location_id: entry.location.to_string(),
        on_hand: entry.level.on_hand,
        reserved: entry.level.reserved,
        safety_stock: entry.level.safety_stock,
        available: entry.level.available(),
    }
}

pub(super) fn order_fulfillment(fulfillment: OrderFulfillment) -> proto::OrderFulfillment {
    let allocations = fulfillment
        .allocations
        .into_iter()
        .map(|allocation| proto::Allocation {
            line_id: allocation.line.to_string(),
            sku: allocation.sku.to_string(),
            location_id: allocation
                .location
                .map(|location| location.to_string())
                .unwrap_or_default(),
            quantity: quantity(allocation.units),
        })
        .collect();
    proto::OrderFulfillment {
        order_id: fulfillment.order.to_string(),
        status: allocation_status(fulfillment.progress.status()).into(),
        allocations,
        payment_cleared: fulfillment.payment_cleared,
        on_hold: fulfillment.on_hold,
        order_version: fulfillment.order_version,
    }
}

fn allocation_status(status: AllocationStatus) -> proto::AllocationStatus {
    match status {
        AllocationStatus::Allocated => proto::AllocationStatus::Allocated,
        AllocationStatus::Backordered => proto::AllocationStatus::Backordered,
        AllocationStatus::Shipped => proto::AllocationStatus::Shipped,
        AllocationStatus::Released => proto::AllocationStatus::Released,
    }
}

pub(super) fn shipment(shipment: Shipment) -> proto::Shipment {
    let lines = shipment
        .parcels
        .into_iter()
        .map(|parcel| proto::ShipmentLine {
            line_id: parcel.line.to_string(),
            sku: parcel.sku.to_string(),
            quantity: quantity(parcel.units),
        })
        .collect();
    proto::Shipment {
        shipment_id: shipment.id.to_string(),
        order_id: shipment.order.to_string(),
        location_id: shipment.location.to_string(),
        status: to_status(shipment.status).into(),
        lines,
        carrier: shipment.carrier,
        service: shipment.service,
        tracking_number: shipment.tracking_number,
        tracking_url: shipment.tracking_url,
        tracking_events: Vec::new(),
        shipped_at: Some(to_timestamp(shipment.shipped_at)),
        delivered_at: shipment.delivered_at.map(to_timestamp),
        version: shipment.version,
        etag: shipment.version.to_string(),
    }
}

pub(super) fn tracking_event(event: TrackingEvent) -> proto::TrackingEvent {
    proto::TrackingEvent {
        tracking_event_id: event.id.to_string(),
        status: to_status(event.status).into(),
        location: event.location,
        description: event.description,
        occurred_at: Some(to_timestamp(event.occurred_at)),
        recorded_at: Some(to_timestamp(event.recorded_at)),
    }
}

pub(super) fn tracking_outcome(outcome: Outcome) -> proto::TrackingOutcome {
    use proto::TrackingResult;
    let (result, shipment_id, status) = match outcome {
        Outcome::UnknownShipment => (
            TrackingResult::UnknownShipment,
            String::new(),
            proto::ShipmentStatus::Unspecified,
        ),
        Outcome::Heard(shipment, heard) => {
            let result = match heard {
                Heard::Advanced { .. } => TrackingResult::Advanced,
                Heard::Recorded(_) => TrackingResult::Recorded,
                Heard::Duplicate(_) => TrackingResult::Duplicate,
            };
            (result, shipment.to_string(), to_status(heard.status()))
        }
    };
    proto::TrackingOutcome {
        result: result.into(),
        shipment_id,
        status: status.into(),
    }
}

fn to_status(status: ShipmentStatus) -> proto::ShipmentStatus {
    match status {
        ShipmentStatus::Pending => proto::ShipmentStatus::Pending,
        ShipmentStatus::InfoReceived => proto::ShipmentStatus::InfoReceived,
        ShipmentStatus::InTransit => proto::ShipmentStatus::InTransit,
        ShipmentStatus::Expired => proto::ShipmentStatus::Expired,
        ShipmentStatus::Exception => proto::ShipmentStatus::Exception,
        ShipmentStatus::OutForDelivery => proto::ShipmentStatus::OutForDelivery,
        ShipmentStatus::AttemptFailed => proto::ShipmentStatus::AttemptFailed,
        ShipmentStatus::AvailableForPickup => proto::ShipmentStatus::AvailableForPickup,
        ShipmentStatus::Delivered => proto::ShipmentStatus::Delivered,
        ShipmentStatus::ReturnedToSender => proto::ShipmentStatus::ReturnedToSender,
    }
}

pub(super) fn from_status(status: proto::ShipmentStatus) -> Option<ShipmentStatus> {
    ShipmentStatus::ALL
        .into_iter()
        .find(|ours| to_status(*ours) == status)
}
