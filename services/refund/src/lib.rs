//! The refund service of Waybill.
