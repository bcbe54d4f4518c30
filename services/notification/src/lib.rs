//! The notification service of Waybill.
