//! The edge service of Waybill.
