//! Locations, shipments and what the warehouse knows of an order, as they are read.
//!
//! Plain data. What may become of them is decided in the modules beside this one.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use waybill_kernel::id::{LineId, LocationId, OrderId, ShipmentId, TrackingEventId};

use super::progress::Progress;
use super::stock::Sku;
use super::tracking::ShipmentStatus;

/// A place that ships.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Location {
    /// Its id.
    pub id: LocationId,
    /// Name for people, unique per merchant.
    pub name: String,
    /// ISO 3166-1 alpha-2 country.
    pub country_code: String,
    /// The smaller, the earlier it is asked for stock.
    pub priority: i32,
}

/// Units of a line in a shipment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parcel {
    /// The line.
    pub line: LineId,
    /// What is in it.
    pub sku: Sku,
    /// How many units; more than 0.
    pub units: i64,
}

/// Goods on their way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shipment {
    /// Its id.
    pub id: ShipmentId,
    /// The order.
    pub order: OrderId,
    /// Where it left from.
    pub location: LocationId,
    /// Where it stands.
    pub status: ShipmentStatus,
    /// What is in it, in the order of the order's lines.
    pub parcels: Vec<Parcel>,
    /// The carrier's key.
    pub carrier: String,
    /// The carrier's service.
    pub service: String,
    /// The carrier's number.
    pub tracking_number: String,
    /// Where a person can follow it; may be empty.
    pub tracking_url: String,
    /// When it was handed over.
    pub shipped_at: DateTime<Utc>,
    /// When it arrived.
    pub delivered_at: Option<DateTime<Utc>>,
    /// Counts the changes.
    pub version: i64,
}

/// Something a carrier said, as it was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackingEvent {
    /// Its id.
    pub id: TrackingEventId,
    /// What it means.
    pub status: ShipmentStatus,
    /// Where, as the carrier wrote it.
    pub location: String,
    /// What the carrier wrote.
    pub description: String,
    /// When the carrier saw it.
    pub occurred_at: DateTime<Utc>,
    /// When we heard of it.
    pub recorded_at: DateTime<Utc>,
}

/// Units of a line at a location, or without one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocation {
    /// The line.
    pub line: LineId,
    /// What it is.
    pub sku: Sku,
    /// Where it is reserved; `None` for units that wait for stock.
    pub location: Option<LocationId>,
    /// How many units; more than 0.
    pub units: i64,
}

/// What the warehouse knows of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderFulfillment {
    /// The order.
    pub order: OrderId,
    /// Where its units stand.
    pub progress: Progress,
    /// Reserved and waiting units, in the order of the lines.
    pub allocations: Vec<Allocation>,
    /// Whether what is captured and authorised covers what is to be paid, so that it may ship.
    pub payment_cleared: bool,
    /// Whether a hold keeps it from shipping.
    pub on_hold: bool,
    /// The version of the order this is based on.
    pub order_version: i64,
}
