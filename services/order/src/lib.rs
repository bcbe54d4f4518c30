//! The order service of Waybill.
