//! The gRPC contracts of Waybill and the code generated from them.
//!
//! The contracts are the `.proto` files beside this crate, one folder per package: `waybill/<service>/v1`. Read them
//! there: every service, method and field says what it means, its unit and its errors. The modules here follow the
//! packages, so `waybill.order.v1.Order` is [`waybill::order::v1::Order`].
//!
//! This crate holds no logic. Parsing and checking of messages is the work of `waybill-rpc` and the services.

/// Everything generated, module by package.
#[expect(
    missing_docs,
    clippy::allow_attributes,
    reason = "generated; the documentation is in the .proto files"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/waybill.rs"));
}

pub use generated::waybill;

/// The descriptors of all packages, with comments and with the `access` option of every method.
///
/// Served by reflection, and read by the access layer of `waybill-rpc`.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/waybill.bin"));
