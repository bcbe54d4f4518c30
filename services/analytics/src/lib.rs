//! The analytics service of Waybill.
