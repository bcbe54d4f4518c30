//! The fulfillment service of Waybill.
