//! The refund service of Waybill.
pub mod domain;
