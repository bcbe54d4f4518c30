//! The rules of fulfillment, free of storage, network and clock.
//!
//! | module | what it decides |
//! | --- | --- |
//! | [`stock`] | what a stock level may become |
//! | [`allocation`] | which location gives which units to which order |
//! | [`progress`] | where the units of an order stand, and what that makes the order |
//! | [`shipping`] | which reserved units go into a shipment |
//! | [`clearance`] | whether the money of an order lets it ship |
//! | [`restock`] | which shelf returned units go back to |
//! | [`shipment`] | nothing: locations and shipments as they are read |
//! | [`tracking`] | what a scan makes of a shipment |
//!
//! Numbers of units are `i64`: an order may have ten thousand lines of a million units each.

pub mod allocation;
pub mod clearance;
pub mod progress;
pub mod release;
pub mod restock;
pub mod shipment;
pub mod shipping;
pub mod stock;
pub mod tracking;
