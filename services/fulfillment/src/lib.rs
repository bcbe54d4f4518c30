//! The fulfillment service of Waybill.

pub mod domain;
