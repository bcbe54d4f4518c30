//! The order service of Waybill.

pub mod domain;
